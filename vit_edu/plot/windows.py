"""Windows of tokens: cut, shifted and rolled on a picture, who may see whom in them, and the offsets that they know (lesson 11)."""

import itertools

import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from vit_edu.plot.drawings import BLUE, YELLOW
from vit_edu.plot.figure import COLOURS, bare, for_imshow

REGIONS = ("white", BLUE, YELLOW, COLOURS[3])  # light enough for black numbers


def shifted_windows(picture, patch_size, window, shift):
    """A picture cut into windows, the same with shifted windows, and what they are after the picture was rolled.

    picture: (C, H, W), bytes or 0..1. patch_size: P, in pixels. window: the side of a window, in patches. shift: how far windows
    are shifted down and to the right, in patches, at least 1. The pieces of the shifted windows have the same numbers before and
    after the roll; thick lines go around what one attention sees, and dashed ones part pieces that were no neighbours.
    """
    H, W = picture.shape[-2:]
    pixels, moved = window * patch_size, shift * patch_size
    whole = [_cuts(side, pixels) for side in (H, W)]
    cut = [_cuts(side, pixels, moved) for side in (H, W)]
    pieces = list(itertools.product(*(itertools.pairwise(each) for each in cut)))
    count = (len(whole[0]) - 1) * (len(whole[1]) - 1)
    fig, axes = plt.subplots(1, 3, figsize=(9.6, 3.6), layout="constrained")
    _windows(axes[0], picture, patch_size, whole, f"{count} windows")
    _windows(axes[1], picture, patch_size, cut, f"shifted by {shift}: {len(pieces)} pieces")
    rolled = picture.roll((-moved, -moved), (-2, -1))
    _windows(axes[2], rolled, patch_size, whole, f"rolled by {shift}: {count} windows again")
    axes[2].hlines(H - moved, 0, W, color="black", linestyle="--", zorder=3)
    axes[2].vlines(W - moved, 0, H, color="black", linestyle="--", zorder=3)
    style = {
        "ha": "center",
        "va": "center",
        "fontsize": 9,
        "bbox": {"boxstyle": "circle,pad=0.25", "fc": "white"},
    }
    for number, ((top, bottom), (left, right)) in enumerate(pieces, start=1):
        y, x = (top + bottom) / 2, (left + right) / 2
        axes[1].text(x, y, number, **style)
        axes[2].text((x - moved) % W, (y - moved) % H, number, **style)
    sizes = f"{H // patch_size} x {W // patch_size} patches"
    fig.suptitle(f"Windows of {window} x {window} patches, in a picture of {sizes}", fontsize=11)
    fig.alt = (
        f"A picture of {sizes} three times. Left: cut into {count} windows of {window} x {window}. Middle: windows shifted by {shift}, "
        f"{len(pieces)} pieces, of which those at the border are smaller. Right: rolled by {shift} up and to the left, so that pieces from "
        f"opposite borders share {count} windows of {window} x {window}; dashed lines part them."
    )
    return fig


def _cuts(side, window, shift=0):
    """Where a side is cut: 0, the multiples of window moved by shift, side."""
    return [0, *range(shift or window, side, window), side]


def _windows(ax, picture, patch_size, cuts, title):
    """A picture with its patches in thin lines, and thick ones where it is cut. cuts: (in rows, in columns), in pixels."""
    H, W = picture.shape[-2:]
    ax.imshow(for_imshow(picture), cmap="gray", vmin=0, vmax=1, extent=(0, W, H, 0), alpha=0.8)
    ax.hlines(range(0, H, patch_size), 0, W, color="white", linewidth=0.5)
    ax.vlines(range(0, W, patch_size), 0, H, color="white", linewidth=0.5)
    _frames(ax, *cuts)
    ax.set_title(title, fontsize=10)
    ax.set(xlim=(-1, W + 1), ylim=(H + 1, -1))
    ax.axis("off")


def _frames(ax, rows, cols):
    """A thick frame around each piece. rows, cols: where it is cut."""
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(cols):
            frame = Rectangle((left, top), right - left, bottom - top, fill=False, linewidth=2.4, zorder=3)
            ax.add_patch(frame)


def window_masks(masks, grid, window, shift):
    """The regions of a rolled map that were neighbours before, and the mask of each window.

    masks: (nW, M², M²), 0 where two tokens may see each other, anything else where not. grid: (H, W), in tokens. window: M.
    shift: by how many tokens the map was rolled, up and to the left.
    """
    H, W = grid
    rows, cols = H // window, W // window
    fig = plt.figure(figsize=(1.2 + 2.3 * (1 + cols), 2.6 * rows + 0.7), layout="constrained")
    fig.get_layout_engine().set(h_pad=0.08)
    left, right = fig.subfigures(1, 2, width_ratios=(1.25, cols))
    _regions(left.subplots(), grid, window, shift)
    told = []
    for k, (ax, mask) in enumerate(zip(right.subplots(rows, cols, squeeze=False).flat, masks, strict=True)):
        hidden = mask != 0
        ax.imshow(hidden.numpy(), cmap="gray_r", vmin=0, vmax=1.4, interpolation="nearest")
        seen = int((~hidden).sum())
        ax.set_title(f"window {k}", fontsize=9)
        ax.set_xlabel(f"{seen} of {hidden.numel()} pairs stay", fontsize=8)
        bare(ax)
        told.append(f"window {k} keeps {seen} of {hidden.numel()} pairs")
    right.supylabel("token i", fontsize=9)
    right.supxlabel("token j, which it may see (white) or not (dark)", fontsize=9)
    sizes = f"{H} x {W} tokens in windows of {window} x {window}"
    fig.suptitle(f"{sizes}, rolled by {shift}: who may see whom", fontsize=11)
    fig.alt = (
        f"Left: a rolled map of {sizes}. The last {shift} rows and columns, which came from the opposite border, are "
        f"regions of their own: 0 before them, 1 in the columns, 2 in the rows, 3 in both. Right: the masks; {'; '.join(told)}."
    )
    return fig


def _regions(ax, grid, window, shift):
    """The rolled map, with a number and a colour for each of the regions that do not belong together."""
    H, W = grid
    region = [[2 * (r >= H - shift) + (c >= W - shift) for c in range(W)] for r in range(H)]
    ax.imshow(region, cmap=ListedColormap(REGIONS), vmin=0, vmax=3)
    for r, row in enumerate(region):
        for c, number in enumerate(row):
            ax.text(c, r, number, ha="center", va="center", fontsize=8)
    _frames(ax, *([at - 0.5 for at in _cuts(side, window)] for side in grid))
    ax.set_title("regions, in the rolled map", fontsize=10)
    bare(ax)


def relative_positions(index, window, tokens):
    """Which row of the bias table some tokens of a window take for each of the others, and the table itself.

    index: (M², M²), the row for each pair. window: M. tokens: numbers of tokens, in reading order. The numbers stand in the
    cells, and equal numbers have equal colours.
    """
    M, rows = window, 2 * window - 1
    panels = [(f"token {t} (framed) looks at", index[t].reshape(M, M), t) for t in tokens]
    table = [[r * rows + c for c in range(rows)] for r in range(rows)]
    panels.append((f"the table: {rows} x {rows} offsets", index.new_tensor(table), None))
    fig, axes = plt.subplots(
        1,
        len(panels),
        figsize=(0.42 * (M * len(tokens) + rows) + 0.8 * len(panels) + 0.6, 0.42 * rows + 0.9),
        width_ratios=[*(M for _ in tokens), rows],
        layout="constrained",
    )
    told = []
    for ax, (title, numbers, token) in zip(axes.flat, panels, strict=True):
        ax.imshow(numbers.numpy(), cmap="viridis", vmin=0, vmax=rows**2 - 1)
        for r, row in enumerate(numbers.tolist()):
            for c, number in enumerate(row):
                colour = "white" if number < rows**2 / 2 else "black"
                ax.text(c, r, number, ha="center", va="center", fontsize=9, color=colour)
        if token is not None:
            r, c = divmod(token, M)
            ax.add_patch(Rectangle((c - 0.5, r - 0.5), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=3))
            each = "; ".join(" ".join(map(str, row)) for row in numbers.tolist())
            told.append(f"token {token}: {each}")
        ax.set_title(title, fontsize=9)
        bare(ax)
    axes[-1].set_xlabel(f"columns from {1 - M} to {M - 1}", fontsize=8)
    axes[-1].set_ylabel(f"rows from {1 - M} to {M - 1}", fontsize=8)
    fig.suptitle(f"Which row of the bias table belongs to which pair, in a {M} x {M} window", fontsize=11)
    fig.alt = (
        f"A window of {M} x {M} tokens, with the row of the bias table that a token takes for each of the others. {'. '.join(told)}. "
        f"The table has {rows} x {rows} rows, from 0 at the top left to {rows**2 - 1}."
    )
    return fig
