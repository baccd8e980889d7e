"""Clips as strips of frames, the tubelets they are cut into, and what a model answers to them (lesson 11d)."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patheffects import withStroke

from vit_edu.plot.figure import COLOURS, bare, for_imshow, write_cells


def clips(clips, titles, title=""):
    """Each clip as a strip of frames, one below the other, with time from left to right.

    clips: (B, F, C, H, W), bytes or 0..1. titles: a text for each clip, on its left.
    """
    count, frames = clips.shape[:2]
    fig, axes = plt.subplots(
        count, frames, figsize=(0.85 * frames + 1.4, 0.88 * count + 0.6), squeeze=False, layout="constrained"
    )
    for row, clip, name in zip(axes, clips, titles, strict=True):
        for ax, frame in zip(row, clip, strict=True):
            ax.imshow(for_imshow(frame), cmap="gray", vmin=0, vmax=1)
            bare(ax)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for f, ax in enumerate(axes[0]):
        ax.set_title(f"frame {f}" if f == 0 else str(f), fontsize=8)
    fig.suptitle(title, fontsize=11)
    names = "; ".join(name.replace("\n", ", ") for name in titles)
    fig.alt = f"{title}. {count} clip{'s' * (count > 1)} of {frames} frames, from left to right: {names}."
    return fig


def tubelet_cuts(clip, frames, patch_size, token=0, title=""):
    """Where a clip is cut into tubelets: groups of frames, patches in each, and the numbers of the tokens. One is marked.

    clip: (F, C, H, W), bytes or 0..1. frames: those of a tubelet. token: the number of the marked one.
    """
    F, _, H, W = clip.shape
    times, rows, cols = F // frames, H // patch_size, W // patch_size
    time, place = divmod(token, rows * cols)
    row, col = divmod(place, cols)
    widths = [1 if f % frames or f == 0 else 0.22 for f in range(F)]  # a gap before each group but the first
    fig, ax = plt.subplots(figsize=(0.98 * (F + 0.22 * (times - 1)) + 0.4, 1.9))
    ax.axis("off")
    left = 0.0
    for f, (frame, width) in enumerate(zip(clip, widths, strict=True)):
        left += 0.22 * (width < 1) * W
        ax.imshow(for_imshow(frame), cmap="gray", vmin=0, vmax=1, extent=(left, left + W, H, 0))
        for i in range(rows + 1):
            ax.plot((left, left + W), (i * patch_size,) * 2, color="white", linewidth=0.6)
        for j in range(cols + 1):
            ax.plot((left + j * patch_size,) * 2, (0, H), color="white", linewidth=0.6)
        if f % frames == 0:
            for i in range(rows * cols):
                x, y = (i % cols + 0.5) * patch_size, (i // cols + 0.5) * patch_size
                number = str(f // frames * rows * cols + i)
                text = ax.text(left + x, y, number, ha="center", va="center", fontsize=6.5, color="white")
                text.set_path_effects([withStroke(linewidth=1.5, foreground="black")])
            middle = left + frames * 1.04 * W / 2
            ax.text(middle, -0.1 * H, f"time {f // frames}", ha="center", fontsize=9)
        if f // frames == time:
            corner = (left + col * patch_size, row * patch_size)
            box = plt.Rectangle(
                corner, patch_size, patch_size, fill=False, edgecolor=COLOURS[4], linewidth=2.5
            )
            ax.add_patch(box)
        left += 1.04 * W
    ax.set(xlim=(-0.02 * W, left), ylim=(1.03 * H, -0.35 * H), aspect="equal")
    ax.set_title(title, fontsize=11)
    fig.alt = (
        f"{title}. {F} frames in {times} groups of {frames}, each cut into {rows} x {cols} patches. "
        f"Token {token} is marked: time {time}, row {row}, column {col}, in {frames} frames."
    )
    return fig


def tubelets_apart(tokens, frames, patch_size, grid, title=""):
    """Tubelets drawn apart from each other: a block for each time, in it rows and columns, and of each tubelet its frames.

    tokens: (N, t*P*P*C), values in 0..1 or bytes. frames: t. patch_size: P. grid: (rows, cols) of a frame.
    """
    rows, cols = grid
    pictures = tokens.reshape(
        -1, rows, cols, frames, patch_size, patch_size, tokens.shape[-1] // (frames * patch_size**2)
    )
    times, columns = len(pictures), min(2, len(pictures))
    lines = math.ceil(times / columns)
    within, between = max(1, patch_size // 8), max(2, patch_size // 2)
    step_x, step_y = frames * (patch_size + within) + between, patch_size + between
    height, width = rows * step_y - between, cols * step_x + between  # and a margin between blocks
    fig, axes = plt.subplots(
        lines,
        columns,
        figsize=(3.6 * columns, (3.6 * height / width + 0.3) * lines + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat:
        ax.axis("off")
    for time, (ax, block) in enumerate(zip(axes.flat, pictures, strict=False)):
        canvas = np.ones((height, width, 3))
        for i, j, k in np.ndindex(rows, cols, frames):
            y, x = i * step_y, j * step_x + k * (patch_size + within)
            shown = for_imshow(block[i, j, k].permute(2, 0, 1))
            shown = shown if shown.ndim == 3 else shown[..., None]
            canvas[y : y + patch_size, x : x + patch_size] = shown
        ax.imshow(canvas, interpolation="nearest")
        first = time * rows * cols
        ax.set_title(f"time {time}: tokens {first} to {first + rows * cols - 1}", fontsize=9)
    fig.suptitle(title, fontsize=11)
    fig.alt = (
        f"{title}. {times} blocks, one for each time, with {rows} rows of {cols} tubelets; of each tubelet, its {frames} "
        "frames stand side by side."
    )
    return fig


def answers(played, classes, title=""):
    """What a model answers to clips of each class, as tables of shares: a row for the true class, a column for the answer.

    played: {name: (labels (N,), predicted (N,))}, a table for each. classes: names, in label order.
    """
    K = len(classes)
    fig, axes = plt.subplots(
        1,
        len(played),
        figsize=((0.42 * K + 0.6) * len(played) + 1.3, 0.42 * K + 1.5),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    told = []
    for ax, (name, (labels, predicted)) in zip(axes.flat, played.items(), strict=True):
        counts = torch.bincount(labels * K + predicted, minlength=K * K).reshape(K, K)
        shares = 100 * counts / counts.sum(dim=1, keepdim=True).clamp_min(1)  # (K, K), in percent
        ax.imshow(shares.numpy(), cmap="viridis", vmin=0, vmax=100)
        write_cells(ax, shares, 0, 50)
        ax.set_title(name, fontsize=10)
        ax.set_xticks(range(K), classes, rotation=90, fontsize=8)
        ax.set_yticks(range(K), classes, fontsize=8)
        most = ", ".join(
            f"{c} to {classes[int(row.argmax())]} {row.max():.0f}%"
            for c, row in zip(classes, shares, strict=True)
        )
        told.append(f"{name}: {most}")
    axes[0, 0].set_ylabel("class of the clip")
    fig.supxlabel("answer (shares of a row, %)", fontsize=10)
    fig.suptitle(title, fontsize=11)
    fig.alt = f"{title}. Tables of answers, in percent of the clips of each class; the commonest: {'; '.join(told)}."
    return fig
