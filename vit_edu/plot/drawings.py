"""Drawings that show how things fit together: the course, a block, names."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, Rectangle

from vit_edu.models.vit import patchify
from vit_edu.plot.figure import bare, for_imshow

YELLOW, BLUE = "#F0E442", "#56B4E9"  # Okabe and Ito's


def _box(ax, x, y, width, height, text="", colour="white", size=9):
    ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="black", linewidth=1))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def _arrow(ax, start, end, **style):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color="black", **style))


def overview(image, patch_size=8):
    """The whole course in one picture: an image, its patches as tokens, the encoder, a class.

    image: (C, H, W) with H = W a multiple of patch_size.
    """
    count = (image.shape[-1] // patch_size) ** 2
    fig = plt.figure(figsize=(10, 3.1))
    canvas = fig.add_axes([0, 0, 1, 1])
    canvas.set(xlim=(0, 100), ylim=(0, 31))
    canvas.axis("off")
    _place(fig, image, 1, 9, 13)
    _draw_patches(fig, image, patch_size)
    _draw_tokens(canvas)
    for k in (2, 1, 0):
        _box(canvas, 60.5 + k, 8.5 + k, 16, 12)
    canvas.text(68.5, 16.6, "attention", ha="center", va="center", fontsize=10)
    canvas.text(68.5, 12.4, "MLP", ha="center", va="center", fontsize=10)
    _box(canvas, 83.5, 11.5, 7, 8, "head", size=10)
    canvas.text(97, 15.5, "class", ha="center", va="center", fontsize=11, fontweight="bold")
    for start in (15, 35.5, 56, 79):
        _arrow(canvas, (start, 15.5), (start + 3.5, 15.5))
    _arrow(canvas, (91, 15.5), (94, 15.5))
    captions = (
        (7.5, "image"),
        (27, f"{count} patches"),
        (47.5, "tokens + positions"),
        (69.5, "encoder blocks"),
    )
    for x, text in captions:
        canvas.text(x, 24, text, ha="center", fontsize=10)
    lessons = ((7.5, "00"), (27, "01"), (47.5, "02"), (69.5, "03 and 04"), (87, "05"), (95.8, "06"))
    for x, text in lessons:
        word = "lessons" if " and " in text else "lesson"
        canvas.text(x, 2.6, f"{word} {text}", ha="center", fontsize=9, color="0.35")
    canvas.text(1, 29, "How a Vision Transformer sees, and the lesson that builds each part", fontsize=11)
    fig.alt = (
        f"From left to right: an image, the same image cut into {count} patches, a row of tokens of which the "
        "first is the class token, a stack of encoder blocks with attention and MLP, a head, and the word class."
    )
    return fig


def _place(fig, picture, x, y, size):
    """A picture, (C, H, W), with its lower left corner at (x, y) of the canvas of `overview`."""
    ax = fig.add_axes([x / 100, y / 31, size / 100, size / 31])
    ax.imshow(for_imshow(picture), cmap="gray", vmin=0, vmax=1)
    bare(ax)


def _draw_patches(fig, image, patch_size):
    side = image.shape[-1] // patch_size
    step = 15 / side
    patches = patchify(image[None], patch_size)[0].reshape(side * side, patch_size, patch_size, -1)
    for i, patch in enumerate(patches.permute(0, 3, 1, 2)):
        x, y = 19.5 + i % side * step, 8 + (side - 1 - i // side) * step
        _place(fig, patch, x, y, step * 0.84)


def _draw_tokens(canvas):
    for k, name in enumerate(("class", "1", "2", "3", "…")):
        x = 40 + k * 3.2
        _box(canvas, x, 9.5, 2.3, 12, colour=YELLOW if name == "class" else BLUE)
        canvas.text(x + 1.15, 7.2, name, ha="center", fontsize=8)


def name_pairs(rows):
    """Two columns of names with arrows between them. rows: (name there, name here, shape) for each tensor."""
    fig, ax = plt.subplots(figsize=(9.5, 0.27 * len(rows) + 0.6))
    ax.set(xlim=(0, 100), ylim=(len(rows), -1.2), title="The same tensors under two names")
    ax.axis("off")
    for x, text in ((0, "theirs"), (67, "ours"), (92, "shape")):
        ax.text(x, -0.7, text, fontweight="bold", fontsize=9)
    for y, (there, here, shape) in enumerate(rows):
        ax.text(0, y, there, fontsize=8, family="monospace", va="center")
        ax.text(67, y, here, fontsize=8, family="monospace", va="center")
        ax.text(92, y, " x ".join(map(str, shape)), fontsize=8, va="center")
        _arrow(ax, (61, y), (66, y))
    fig.alt = "Names side by side. " + "; ".join(f"{there} is {here}" for there, here, _ in rows) + "."
    return fig


def block_diagram():
    """A pre-norm and a post-norm block side by side."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 5), layout="constrained")
    _draw_block(left, "pre-norm: the ViT", ("norm1", "attention", "+", "norm2", "MLP", "+"))
    post_norm = ("attention", "+", "norm1", "MLP", "+", "norm2")
    _draw_block(right, "post-norm: the first Transformer", post_norm, skip_after="norm")
    fig.suptitle("One encoder block: where the norm goes", fontsize=11)
    fig.alt = (
        "Two columns of boxes. Pre-norm: norm1, attention, plus, norm2, MLP, plus; each skip goes around a norm and "
        "its branch. Post-norm: attention, plus, norm1, MLP, plus, norm2; a norm follows each plus."
    )
    return fig


def _draw_block(ax, title, parts, skip_after="+"):
    """A column of boxes from below, each 2.2 high with its arrow. skip_after: where the next skip leaves the column."""
    ax.set(xlim=(0, 10), ylim=(-1, 14.2), title=title)
    ax.axis("off")
    ax.text(4, -0.6, "x (B, T, D)", ha="center")
    _arrow(ax, (4, -0.1), (4, 0.6))
    y, skip = 0.6, 0.0
    for part in parts:
        if part == "+":
            circle = {"boxstyle": "circle", "fc": YELLOW}
            ax.text(4, y + 0.7, "+", ha="center", va="center", fontsize=14, bbox=circle)
            ax.plot([4, 8, 8], [skip + 0.2, skip + 0.2, y + 0.7], color="black", linewidth=1)
            _arrow(ax, (8, y + 0.7), (4.6, y + 0.7))
        else:
            _box(ax, 2, y, 4, 1.4, part, "#DDDDDD" if part.startswith("norm") else "#BFE3F7")
        if part.startswith(skip_after):
            skip = y + 1.6
        _arrow(ax, (4, y + 1.4), (4, y + 2.2))
        y += 2.2
