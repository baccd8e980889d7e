"""Learning without labels: which patches are left of a picture and how they are filled in, and what a task is worth (lesson 10)."""

import matplotlib.pyplot as plt
import numpy as np

from vit_edu.plot.figure import COLOURS, MARKERS, axes_for, bare, for_imshow


def filled_in(pictures, mask, patch_size, rows, title, scale=1.25):
    """What is visible of some pictures, and below it what has been made of that. Removed patches are crossed out.

    pictures: (B, C, H, W), bytes or 0..1. mask: (B, N), 1 where a patch is removed. rows: {name: (B, C, H, W)}, pictures of the same
    kind, drawn as they are; may be empty.
    """
    count, below = len(pictures), len(rows)
    fig, axes = plt.subplots(
        1 + below,
        count,
        figsize=(scale * count + 1.4, scale * (1 + below) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for ax, picture, removed in zip(axes[0], pictures, mask, strict=True):
        _with_holes(ax, for_imshow(picture), removed.nonzero()[:, 0], patch_size)
    told = []
    for line, (name, drawn) in zip(axes[1:], rows.items(), strict=True):
        for ax, picture in zip(line, drawn, strict=True):
            ax.imshow(for_imshow(picture), cmap="gray", vmin=0, vmax=1)
        apart = np.mean(
            [abs(for_imshow(a) - for_imshow(b)).mean() for a, b in zip(drawn, pictures, strict=True)]
        )
        told.append(f"{name}, {apart:.3f}")
    for ax in axes.flat:
        bare(ax)
    for ax, name in zip(axes[:, 0], ["visible", *rows], strict=True):
        ax.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", labelpad=8)
    fig.suptitle(title, fontsize=11)
    left = int((1 - mask[0]).sum())
    fig.alt = f"{title}. {count} pictures; of each, {left} of {mask.shape[1]} patches are left."
    if told:
        fig.alt += (
            f" Below, with the mean distance of a pixel, 0 to 1, from the true picture: {'; '.join(told)}."
        )
    return fig


def _with_holes(ax, shown, removed, side):
    """A picture (H, W) or (H, W, 3) with pale squares, crossed out, in the places of its removed patches."""
    shown, x, y = shown.copy(), [], []
    for place in removed.tolist():
        row, col = divmod(place, shown.shape[1] // side)
        shown[row * side : (row + 1) * side, col * side : (col + 1) * side] = 0.93
        top, left = row * side - 0.5, col * side - 0.5
        x += [left, left + side, None, left, left + side, None]
        y += [top, top + side, None, top + side, top, None]
    ax.imshow(shown, cmap="gray", vmin=0, vmax=1)
    ax.plot(x, y, color="#999999", linewidth=0.4)


def pretext_and_worth(found, title, xlabel, ylabel):
    """How well a task was learned against what came of it, with a mark for each run.

    found: {name: (numbers on the x axis, numbers on the y axis)}, one of each for every run.
    """
    fig, ax = axes_for(6, 3.8, title, xlabel, ylabel)
    told = []
    for i, (name, (x, y)) in enumerate(found.items()):
        ax.plot(x, y, MARKERS[i % 6], color=COLOURS[i % 6], markersize=7, alpha=0.8, label=name)
        told.append(f"{name} {np.mean(x):.3g} and {np.mean(y):.3g}")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=9)
    fig.alt = f"{title}. {ylabel} against {xlabel}, means: {'; '.join(told)}."
    return fig
