"""What a model has learned: filters, positions, how far heads look, and whether a map of the important patches is right."""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle

from vit_edu.plot.figure import COLOURS, MARKERS, axes_for, bare, for_imshow, span, write_cells

# ---------------------------------------------------------------- filters


def filters(sets, title, columns=14):
    """Filters as small pictures, the first in reading order, with a few rows for each model.

    sets: {name: (count, C, P, P)}, any numbers. Each filter is stretched around the middle grey, which stands for 0, until its
    largest entry is black or white, so that a filter times -1 is its negative.
    """
    lines = [(name, some) for name, found in sets.items() for some in found.detach().split(columns)]
    starts = [i == 0 or lines[i][0] != lines[i - 1][0] for i in range(len(lines))]
    heights = [size for start in starts for size in (0.5 * start, 1.0)][
        1:
    ]  # a gap before each model but the first
    fig = plt.figure(figsize=(columns * 0.62, sum(heights) * 0.62 + 0.5))
    grid = fig.add_gridspec(len(heights), columns, height_ratios=heights, wspace=0.1, hspace=0.05)
    for i, (name, some) in enumerate(lines):
        for j, each in enumerate(some):
            ax = fig.add_subplot(grid[2 * i, j])
            bare(ax)
            largest = each.abs().max().clamp_min(1e-12)
            ax.imshow(for_imshow(0.5 + each / (2 * largest)), cmap="gray", vmin=0, vmax=1)
            if starts[i] and j == 0:
                ax.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", labelpad=8)
    fig.suptitle(title, fontsize=11, y=1 - 0.1 / fig.get_figheight(), va="top")
    fig.subplots_adjust(top=1 - 0.42 / fig.get_figheight(), bottom=0.02)
    told = "; ".join(
        f"{name}: {len(found)}, of which {sum(map(_grey, found))} hold more light and dark than colour"
        for name, found in sets.items()
    )
    fig.alt = f"{title}. Small pictures in reading order. {told}."
    return fig


def _grey(weights):
    """Whether a filter (C, P, P) holds more light and dark than colour."""
    grey = weights.mean(dim=0, keepdim=True).expand_as(weights)
    return (grey.square().sum() > weights.square().sum() / 2).item()


# ---------------------------------------------------------------- positions


def position_tile(similarity, query, title):
    """One tile of the figure of positions: how much each place resembles the one that is marked, in numbers.

    similarity: (rows, cols, rows, cols), cosines. query: (row, col).
    """
    tile = similarity.detach()[query]  # (rows, cols)
    rows, cols = tile.shape
    fig, ax = axes_for(0.62 * cols + 1.2, 0.52 * rows + 1.0, title, "column", "row")
    shown = ax.imshow(tile.numpy(), cmap="viridis", vmin=-1, vmax=1, aspect="auto")
    fig.colorbar(shown, ax=ax, label=f"cosine with {query}", shrink=0.85)
    write_cells(ax, tile, 2, 0.35)
    ax.add_patch(
        Rectangle((query[1] - 0.5, query[0] - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2.5)
    )
    ax.set_xticks(range(cols))
    ax.set_yticks(range(rows))
    lines = "; ".join(" ".join(f"{v:.2f}" for v in row) for row in tile.tolist())
    fig.alt = f"{title}. Row {query[0]}, column {query[1]} is marked; cosines with it, row by row: {lines}."
    return fig


def position_grid(similarity, title):
    """All tiles, each at the place whose similarities it shows (paper, figure 7 centre). A dot marks that place in its tile.

    similarity: (rows, cols, rows, cols), cosines.
    """
    similarity = similarity.detach()
    rows, cols = similarity.shape[:2]
    high, wide = rows + 1, cols + 1  # a tile, and a gap
    canvas = torch.full((rows * high - 1, cols * wide - 1), math.nan)
    for r in range(rows):
        for c in range(cols):
            canvas[r * high : r * high + rows, c * wide : c * wide + cols] = similarity[r, c]
    fig, ax = axes_for(6.4, 5.4 * rows / cols + 0.3, title, "column of the tile's own place", "row")
    shown = ax.imshow(canvas.numpy(), cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
    fig.colorbar(shown, ax=ax, label="cosine", shrink=0.85)
    places = [(r, c) for r in range(rows) for c in range(cols)]
    ax.plot(
        [c * wide + c for _, c in places], [r * high + r for r, _ in places], "o", color="red", markersize=2
    )
    ax.set_xticks([c * wide + (cols - 1) / 2 for c in range(cols)], range(cols))
    ax.set_yticks([r * high + (rows - 1) / 2 for r in range(rows)], range(rows))
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    fig.alt = (
        f"{title}. {rows} x {cols} tiles, one for each place, which a dot marks. Mean cosine of a place with its left "
        f"and right neighbours {_mean_cosine(similarity, lambda r, c: (r, c + 1)):.2f}, with its left-right mirror image "
        f"{_mean_cosine(similarity, lambda r, c: (r, cols - 1 - c)):.2f}, with its top-bottom mirror image "
        f"{_mean_cosine(similarity, lambda r, c: (rows - 1 - r, c)):.2f}."
    )
    return fig


def _mean_cosine(similarity, partner):
    """The mean similarity of each place (r, c) with partner(r, c), as far as that is another place of the grid."""
    rows, cols = similarity.shape[:2]
    pairs = [((r, c), partner(r, c)) for r in range(rows) for c in range(cols)]
    values = [
        similarity[(*here, *there)]
        for here, there in pairs
        if here != there and there[0] < rows and there[1] < cols
    ]
    return torch.stack(values).mean().item() if values else math.nan


def mirrored(found, title):
    """How much positions resemble their mirror images, for several ways of training: a mark for each run.

    found: {way: {"left-right": [cosines, one for each run], "top-bottom": [...]}}. The numbers are means.
    """
    kinds = list(next(iter(found.values())))
    fig, ax = axes_for(6.2, 0.4 * len(found) + 1.1, title, "mean cosine with the mirror image", "")
    ax.axvline(0, color="0.4", linestyle=":")
    told = []
    for place, (way, runs) in enumerate(found.items()):
        for i, kind in enumerate(kinds):
            ax.plot(
                runs[kind],
                [place] * len(runs[kind]),
                MARKERS[i],
                color=COLOURS[i],
                markerfacecolor=COLOURS[i] if i == 0 else "white",
                label=kind if not place else None,
            )
        means = [sum(runs[kind]) / len(runs[kind]) for kind in kinds]
        ax.annotate(
            " / ".join(f"{mean:.2f}" for mean in means), (1, place), (6, 0), ("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
        told.append(f"{way} {' and '.join(f'{mean:.2f}' for mean in means)}")
    ax.set_yticks(range(len(found)), list(found))
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.grid(axis="x", alpha=0.3)
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5, ncols=2)
    fig.alt = f"{title}. A mark for each run; means, {' and '.join(kinds)}: {'; '.join(told)}."
    return fig


# ---------------------------------------------------------------- how far heads look


def attention_distances(found, uniform, title):
    """How far each head looks, block by block, with a panel for each model and a line for even attention.

    found: {name: (L, h)}, mean distances in pixels. uniform: that of even attention.
    """
    fig, axes = plt.subplots(
        1, len(found), figsize=(2.0 * len(found) + 1.0, 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    told = []
    for ax, (name, distances) in zip(axes[0], found.items(), strict=True):
        distances = distances.detach()
        for head in range(distances.shape[1]):
            ax.plot(
                range(len(distances)),
                distances[:, head].tolist(),
                linestyle="none",
                marker=MARKERS[head % 6],
                color=COLOURS[head % 6],
                markersize=6,
                alpha=0.85,
            )
        ax.axhline(uniform, color="0.3", linestyle="--", linewidth=1.2)
        ax.set_title(name, fontsize=9)
        ax.set_xticks(range(len(distances)))
        ax.margins(x=0.15)
        ax.grid(alpha=0.3)
        blocks = (
            f"block {i} {', '.join(f'{v:.1f}' for v in row)}" for i, row in enumerate(distances.tolist())
        )
        told.append(f"{name}: {'; '.join(blocks)}")
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("mean distance, pixels")
    axes[0, 0].text(
        0.05, 0.05, f"dashed: even attention,\n{uniform:.1f} pixels", transform=axes[0, 0].transAxes, fontsize=8
    )  # fmt: skip
    fig.supxlabel("block", fontsize=10)
    fig.suptitle(title, fontsize=11)
    fig.alt = (
        f"{title}. A mark for each head; even attention would give {uniform:.1f} pixels. {'. '.join(told)}."
    )
    return fig


# ---------------------------------------------------------------- is a map right?


def deletion(found, title, xlabel, baselines=("middle", "random")):
    """What maps of the important patches are worth: the accuracy without the patches that they call most and least important.

    found: {name: (most, least)}, accuracies in per cent after the most and after the least important patches were blanked.
    A good map has the first far to the left and the second far to the right. The names in `baselines` get lines.
    """
    order = sorted(found, key=lambda name: found[name][0])
    fig, ax = axes_for(6.4, 0.36 * len(found) + 1.1, title, xlabel, "")
    for place, name in enumerate(order):
        most, least = found[name]
        ax.plot((most, least), (place, place), "-", color="0.6", zorder=1)
        ax.plot(most, place, "o", color=COLOURS[1], label="without the most important" if not place else None)
        ax.plot(
            least,
            place,
            "s",
            color=COLOURS[0],
            markerfacecolor="white",
            label="without the least important" if not place else None,
        )
        ax.annotate(
            f"{most:.0f} / {least:.0f}", (1, place), (6, 0), ("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    for name, dash in zip(baselines, ("--", ":"), strict=True):
        if name in found:
            ax.axvline(
                found[name][0],
                color="0.3",
                linestyle=dash,
                linewidth=1.2,
                zorder=0,
                label=f"{name}, a baseline",
            )
    ax.set_yticks(range(len(order)), [f"{n} (baseline)" if n in baselines else n for n in order])
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5, ncols=2)
    told = "; ".join(f"{name} {found[name][0]:.0f} and {found[name][1]:.0f}" for name in order)
    fig.alt = f"{title}. {xlabel}, without the most and without the least important patches: {told}."
    return fig


# ---------------------------------------------------------------- depth, and several pictures at once


def cka_maps(maps, title):
    """How alike the layers of a model are, with a matrix for each model. maps: {name: (L + 1, L + 1)}, from 0 to 1."""
    fig, axes = plt.subplots(
        1, len(maps), figsize=(2.6 * len(maps) + 0.8, 3.1), squeeze=False, layout="constrained", sharey=True
    )
    for ax, (name, alike) in zip(axes[0], maps.items(), strict=True):
        shown = ax.imshow(alike.numpy(), cmap="viridis", vmin=0, vmax=1)
        write_cells(ax, alike, 2, 0.6)
        ax.set_title(name, fontsize=9)
        ax.set_xticks(range(len(alike)))
        ax.set_yticks(range(len(alike)))
    fig.colorbar(shown, ax=axes, label="CKA", shrink=0.8)
    fig.supxlabel("depth: 0 is before the first block", fontsize=10)
    axes[0, 0].set_ylabel("depth")
    fig.suptitle(title, fontsize=11)
    told = (
        f"{name}: {'; '.join(' '.join(f'{v:.2f}' for v in row) for row in m.tolist())}"
        for name, m in maps.items()
    )
    fig.alt = f"{title}. CKA by depth in rows and columns. {'. '.join(told)}."
    return fig


def gallery(table, title, scale=1.5):
    """Pictures in rows and columns that have names, to be compared. table: {row: {column: picture}}.

    A picture is an image (C, H, W), bytes or 0..1, or a map (rows, cols) of any numbers, whose own lowest is dark and highest bright.
    """
    columns = list(next(iter(table.values())))
    fig, axes = plt.subplots(
        len(table),
        len(columns),
        figsize=(scale * len(columns) + 1.6, scale * len(table) + 0.6),
        squeeze=False,
        layout="constrained",
    )
    told = []
    for i, (row, pictures) in enumerate(table.items()):
        for j, column in enumerate(columns):
            picture, ax = pictures[column].detach(), axes[i, j]
            bare(ax)
            if picture.ndim == 3:
                ax.imshow(for_imshow(picture), cmap="gray", vmin=0, vmax=1)
            else:
                ax.imshow(picture.numpy(), cmap="viridis")
                most = divmod(picture.argmax().item(), picture.shape[1])
                told.append(
                    f"{row}, {column}: from {span(picture.flatten())}, most in row {most[0]}, column {most[1]}"
                )
            if i == 0:
                ax.set_title(column, fontsize=9)
        axes[i, 0].set_ylabel(row, fontsize=9, rotation=0, ha="right", va="center", labelpad=8)
    fig.suptitle(title, fontsize=11)
    fig.alt = f"{title}. Rows: {', '.join(table)}; columns: {', '.join(columns)}."
    if told:
        fig.alt += f" {'. '.join(told)}."
    return fig
