"""Images, their patches, and where a model looks."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from vit_edu.plot.figure import bare, for_imshow


def images(pictures, titles=None, columns=8, title="", scale=1.1):
    """A grid of pictures. pictures: (B, C, H, W), bytes or 0..1. titles: a text for each picture."""
    count = len(pictures)
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    line = 0.18 * (1 + max((t.count("\n") for t in titles), default=0)) if titles else 0
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * scale, rows * (scale + line) + 0.35),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        shown = for_imshow(picture)
        ax.imshow(shown, cmap="gray", vmin=0, vmax=1)
        if titles:
            ax.set_title(titles[i], fontsize=8)
    fig.suptitle(title, fontsize=11)
    names = f": {'; '.join(t.replace(chr(10), ', ') for t in titles)}" if titles else ""
    fig.alt = f"{title or 'Pictures'}. {count} small picture{'s' * (count > 1)}{names}."
    return fig


def attended(pictures, maps, titles=None, title=""):
    """Pictures, and below each the same picture, which is bright where the model looks.

    pictures: (B, C, H, W), bytes or 0..1. maps: (B, rows, cols), how much the model looks at each patch. titles: a text for
    each picture.
    """
    count = len(pictures)
    line = 0.2 * (1 + max((t.count("\n") for t in titles), default=0)) if titles else 0
    fig, axes = plt.subplots(
        2, count, figsize=(count * 1.45, 3.3 + line), squeeze=False, layout="constrained"
    )
    told = []
    for i, (picture, looked) in enumerate(zip(pictures, maps.detach(), strict=True)):
        for ax, each in zip(axes[:, i], spotlit(picture, looked), strict=True):
            ax.imshow(each)
            bare(ax)
        if titles:
            axes[0, i].set_title(titles[i], fontsize=8)
        row, col = divmod(looked.argmax().item(), looked.shape[1])
        told.append(
            f"{(titles[i] if titles else f'picture {i + 1}').replace(chr(10), ', ')}: most on row {row + 1}, column {col + 1}"
        )
    axes[0, 0].set_ylabel("picture", fontsize=9)
    axes[1, 0].set_ylabel("bright where\nit looks", fontsize=9)
    fig.suptitle(title, fontsize=11)
    grid = " by ".join(map(str, maps.shape[1:]))
    fig.alt = f"{title}. {count} pictures, and below them the same, darkened where little is looked at, {grid} patches. {'; '.join(told)}."
    return fig


def spotlit(picture, looked):
    """A picture for imshow, (H, W, 3), and the same, bright where the model looks.

    picture: (C, H, W), bytes or 0..1. looked: (rows, cols), how much the model looks at each patch.
    """
    shown = for_imshow(picture)
    shown = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown
    bright = torch.nn.functional.interpolate(looked[None, None], shown.shape[:2])[0, 0]
    return shown, shown * (0.12 + 0.88 * (bright / bright.max())[..., None].numpy())


def patch_grid(patches, rows, cols, patch_size, title="", order=None):
    """Patches, (N, P*P*C), drawn apart from each other in rows and columns. order: a number to write on each."""
    pictures = patches.reshape(rows * cols, patch_size, patch_size, -1).permute(0, 3, 1, 2)
    cell = max(0.6, 3.4 / cols)  # inches
    fig, axes = plt.subplots(rows, cols, figsize=(cols * cell, rows * cell), squeeze=False)
    for i, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=True)):
        ax.imshow(for_imshow(picture), cmap="gray", vmin=0, vmax=1)
        bare(ax)
        if order is not None:
            ax.set_xlabel(str(order[i]), fontsize=7, labelpad=1)
    fig.subplots_adjust(wspace=0.12, hspace=0.12 if order is None else 0.3)
    fig.suptitle(title, fontsize=11, y=0.96)
    fig.alt = f"{title}. {rows} rows of {cols} patches, drawn apart from each other, in reading order."
    return fig
