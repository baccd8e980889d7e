"""Token mixers: in which direction they read the tokens, each of them as a matrix, and runs as intervals (lesson 09)."""

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from vit_edu.models.vit import patchify
from vit_edu.plot.figure import COLOURS, MARKERS, bare, for_imshow


def directions(image, patch_size=8, features=6):
    """An image as a table with a row for each patch; token mixing reads along a column, channel mixing along a row.

    image: (C, H, W). features: how many columns are drawn.
    """
    patches = patchify(image[None], patch_size)[0]  # (N, P*P*C)
    N = len(patches)
    fig, ax = plt.subplots(figsize=(7.2, 0.25 * N + 0.9), layout="constrained")
    ax.set(xlim=(-2.2, features + 5), ylim=(N - 0.3, -1.6), aspect=0.62)
    ax.axis("off")
    for i, patch in enumerate(patches.reshape(N, patch_size, patch_size, -1).permute(0, 3, 1, 2)):
        shown = for_imshow(patch)
        ax.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(-1.5, -0.98, i + 0.42, i - 0.42), aspect=0.62)
        ax.text(-1.75, i, str(i), ha="right", va="center", fontsize=8)
        for j in range(features):
            ax.add_patch(Rectangle((j - 0.45, i - 0.42), 0.9, 0.84, facecolor="white", edgecolor="0.6"))
    ax.text(-1.25, -0.9, "patches", ha="center", fontsize=9)
    ax.text(features / 2 - 0.5, -0.9, "their D features", ha="center", fontsize=9)
    column, row = 1, N - 4
    for x, y, width, height, colour, hatch in (
        (column - 0.45, -0.42, 0.9, N - 0.16, COLOURS[0], "///"),
        (-0.45, row - 0.42, features - 0.1, 0.84, COLOURS[1], "...."),
    ):
        ax.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, hatch=hatch, linewidth=2))
    for text, start, y in (
        ("token mixing (stripes):\none feature of all tokens", column + 0.45, 2),
        ("channel mixing (dots):\nall features of one token", features - 0.55, row),
    ):
        ax.annotate(
            text, (start, y), (features, y), va="center", fontsize=9, arrowprops={"arrowstyle": "-|>"}
        )
    fig.suptitle("An image as a table, and the two directions in which to mix it", fontsize=11)
    fig.alt = (
        f"An image as {N} patches, one below the other, each with its row of features. One column is striped and labelled "
        "token mixing, one feature of all tokens; one row is dotted and labelled channel mixing, all features of one token."
    )
    return fig


def mixing_matrices(matrices, title, columns=4):
    """What token mixers do, as matrices: row i says with which weights token i sums up all tokens.

    matrices: {name: (N, N)}. Each has its own scale: dark is negative, light is positive, and the middle is zero.
    """
    columns = min(columns, len(matrices))
    rows = math.ceil(len(matrices) / columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(2.15 * columns + 0.7, 2.45 * rows + 0.35), squeeze=False, layout="constrained"
    )
    told = []
    for ax in axes.flat[len(matrices) :]:
        ax.axis("off")
    for ax, (name, matrix) in zip(axes.flat, matrices.items(), strict=False):
        matrix = matrix.detach()
        most = max(matrix.abs().max().item(), 1e-9)
        shown = ax.imshow((matrix / most).numpy(), cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
        ax.set_title(name, fontsize=9)
        low, high = f"{matrix.min():.2g}", f"{matrix.max():.2g}"
        kept = f"{(matrix != 0).sum():,} of {matrix.numel():,}"
        ax.set_xlabel(f"{low} to {high}\nnot zero: {kept}", fontsize=8)
        bare(ax)
        told.append(f"{name}: {low} to {high}, not zero {kept}")
    for ax in axes[:, 0]:
        ax.set_ylabel("token i", fontsize=9)
    bar = fig.colorbar(shown, ax=axes, shrink=0.7, ticks=[-1, 0, 1])
    bar.set_ticklabels(["minus its\nlargest", "0", "its largest"], fontsize=8)
    fig.suptitle(f"{title} (across: the tokens that it sums up)", fontsize=11)
    fig.alt = (
        f"{title}. Matrices with token i down, and the tokens that it sums up across. {'; '.join(told)}."
    )
    return fig


def intervals(panels, title, xlabel, own=None):
    """Runs under different conditions as intervals: a mark at their mean, a bar from the lowest to the highest.

    panels: {name: {row: {series: numbers}}}, with the numbers of all runs; one pair of axes for each panel. own:
    {(row, series): number}, single runs of the reader's, as stars in the first panel.
    """
    rows = list(dict.fromkeys(row for found in panels.values() for row in found))
    series = list(dict.fromkeys(s for found in panels.values() for each in found.values() for s in each))
    fig, axes = plt.subplots(
        1,
        len(panels),
        figsize=(3.3 * len(panels) + 2.2, (0.22 + 0.11 * len(series)) * len(rows) + 1.4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    told, most = [], 1
    for ax, (name, found) in zip(axes.flat, panels.items(), strict=True):
        for i, one in enumerate(series):
            apart = 0.5 * ((i + 0.5) / len(series) - 0.5)
            some = [(row, found[row][one]) for row in rows if one in found.get(row, {})]
            if not some:
                continue
            mean = np.array([np.mean(values) for _, values in some])
            reach = mean - [min(v) for _, v in some], [max(v) for _, v in some] - mean
            places = [rows.index(row) + apart for row, _ in some]
            style = {"color": COLOURS[i % 6], "fmt": MARKERS[i % 6], "capsize": 3, "markersize": 6}
            ax.errorbar(mean, places, xerr=reach, label=one, **style)
            each = ", ".join(f"{row} {m:.1f}" for (row, _), m in zip(some, mean, strict=True))
            told.append(f"{name}, {one}: {each}")
            most = max(most, *(len(values) for _, values in some))
            for (row, which), number in (own or {}).items():
                if which == one and row in rows and ax is axes[0, 0]:
                    ax.plot(
                        number, rows.index(row) + apart, "*", color=COLOURS[i % 6], markersize=13, mec="black"
                    )
        ax.set_title(name, fontsize=10)
        ax.set_xlabel(xlabel)
        ax.grid(axis="x", alpha=0.3)
        for line in range(len(rows) - 1):
            ax.axhline(line + 0.5, color="0.85", linewidth=0.8)
    axes[0, 0].set_yticks(range(len(rows)), rows)
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    handles = {}
    for ax in axes.flat:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if len(series) > 1:
        fig.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), fontsize=9)
    fig.suptitle(title, fontsize=11)
    bars = f" Bars: lowest and highest of {most} runs." if most > 1 else ""
    stars = "".join(f" A star: your {row}, {one}, {y:.1f}." for (row, one), y in (own or {}).items())
    fig.alt = f"{title}. {xlabel}, means. {'; '.join(told)}.{bars}{stars}"
    return fig
