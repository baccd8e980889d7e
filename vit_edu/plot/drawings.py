"""Drawings of how things hang together: the course, a block, names."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, Rectangle

from vit_edu.plot.figure import bare, for_imshow


def _box(ax, x, y, width, height, text, colour="white", size=9):
    ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="black", linewidth=1))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def _arrow(ax, start, end, **style):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color="black", **style))


def overview(image, patch_size=8):
    """The whole course in one picture: an image, its patches as tokens, the encoder, a class.

    image: (C, H, W) with H = W a multiple of patch_size."""
    from vit_edu.models.vit import patchify

    side = image.shape[-1] // patch_size
    patches = patchify(image[None], patch_size)[0].reshape(side * side, patch_size, patch_size, -1)
    fig = plt.figure(figsize=(10, 3.1))
    canvas = fig.add_axes([0, 0, 1, 1])
    canvas.set(xlim=(0, 100), ylim=(0, 31))
    canvas.axis("off")

    def place(picture, x, y, size):
        ax = fig.add_axes([x / 100, y / 31, size / 100, size / 31])
        ax.imshow(for_imshow(picture), cmap="gray", vmin=0, vmax=1)
        bare(ax)

    place(image, 1, 9, 13)
    canvas.text(7.5, 24, "image", ha="center", fontsize=10)
    _arrow(canvas, (15, 15.5), (18.5, 15.5))
    step = 15 / side
    for i, patch in enumerate(patches):
        place(
            patch.permute(2, 0, 1),
            19.5 + i % side * step,
            8 + (side - 1 - i // side) * step,
            step * 0.84,
        )
    canvas.text(27, 24, f"{side * side} patches", ha="center", fontsize=10)
    _arrow(canvas, (35.5, 15.5), (39, 15.5))
    for k in range(5):
        x = 40 + k * 3.2
        name = "class" if k == 0 else ("…" if k == 4 else str(k))
        canvas.add_patch(
            Rectangle(
                (x, 9.5),
                2.3,
                12,
                facecolor=("#F0E442", "#56B4E9")[k > 0],
                edgecolor="black",
                linewidth=1,
            )
        )
        canvas.text(x + 1.15, 7.2, name, ha="center", fontsize=8)
    canvas.text(47.5, 24, "tokens + positions", ha="center", fontsize=10)
    _arrow(canvas, (56, 15.5), (59.5, 15.5))
    for k in (2, 1, 0):
        canvas.add_patch(
            Rectangle((60.5 + k, 8.5 + k), 16, 12, facecolor="white", edgecolor="black", linewidth=1)
        )
    canvas.text(68.5, 16.6, "attention", ha="center", va="center", fontsize=10)
    canvas.text(68.5, 12.4, "MLP", ha="center", va="center", fontsize=10)
    canvas.text(69.5, 24, "encoder blocks", ha="center", fontsize=10)
    _arrow(canvas, (79, 15.5), (82.5, 15.5))
    _box(canvas, 83.5, 11.5, 7, 8, "head", size=10)
    _arrow(canvas, (91, 15.5), (94, 15.5))
    canvas.text(97, 15.5, "class", ha="center", va="center", fontsize=11, fontweight="bold")
    lessons = ((7.5, "00"), (27, "01"), (47.5, "02"), (69.5, "03, 04"), (87, "05"), (95.8, "06"))
    for x, text in lessons:
        canvas.text(x, 2.6, f"lesson {text}", ha="center", fontsize=9, color="0.35")
    canvas.text(1, 29, "How a Vision Transformer sees, and the lesson that builds each part", fontsize=11)
    fig.alt = (
        f"From left to right: an image, the same image cut into {side * side} patches, a row of tokens of which the "
        "first is the class token, a stack of encoder blocks with attention and MLP, a head, and the word class."
    )
    return fig


def name_pairs(rows):
    """Two columns of names with an arrow between. rows: (name there, name here, shape), one a tensor."""
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
    fig, axes = plt.subplots(1, 2, figsize=(7.5, 5), layout="constrained")
    pre = ("norm1", "attention", "+", "norm2", "MLP", "+")
    post = ("attention", "+", "norm1", "MLP", "+", "norm2")
    for ax, parts, name in zip(
        axes, (pre, post), ("pre-norm: the ViT", "post-norm: the first Transformer"), strict=True
    ):
        ax.set(xlim=(0, 10), ylim=(-1, 14.2), title=name)
        ax.axis("off")
        y, skip = 0.6, 0.0
        ax.text(4, -0.6, "x (B, T, D)", ha="center")
        _arrow(ax, (4, -0.1), (4, 0.6))
        for part in parts:
            if part == "+":
                ax.text(
                    4,
                    y + 0.7,
                    "+",
                    ha="center",
                    va="center",
                    fontsize=14,
                    bbox={"boxstyle": "circle", "fc": "#F0E442"},
                )
                ax.plot([4, 8, 8], [skip + 0.2, skip + 0.2, y + 0.7], color="black", linewidth=1)
                _arrow(ax, (8, y + 0.7), (4.6, y + 0.7))
                skip = y + 1.6
            else:
                colour = {"norm1": "#DDDDDD", "norm2": "#DDDDDD"}.get(part, "#BFE3F7")
                _box(ax, 2, y, 4, 1.4, part, colour)
                if part.startswith("norm") and name.startswith("post"):
                    skip = y + 1.6
            _arrow(ax, (4, y + 1.4), (4, y + 2.2))
            y += 2.2
    fig.suptitle("One encoder block: where the norm stands", fontsize=11)
    fig.alt = (
        "Two columns of boxes. Pre-norm: norm1, attention, plus, norm2, MLP, plus; each skip goes around a norm and "
        "its branch. Post-norm: attention, plus, norm1, MLP, plus, norm2; the norms stand after each plus."
    )
    return fig
