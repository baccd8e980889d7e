"""Numbers as curves, bars, dots and matrices."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from vit_edu.plot.figure import COLOURS, DASHES, MARKERS, axes_for, span, write_cells


def lines(x, series, title, xlabel, ylabel, log="", marks=True):
    """Curves over the same x. series: {name: values}. log: the axes with a logarithmic scale, "x", "y" or "xy"."""
    fig, ax = axes_for(6, 3.6, title, xlabel, ylabel)
    for i, (name, values) in enumerate(series.items()):
        ax.plot(
            x[: len(values)],
            values,
            label=name,
            color=COLOURS[i % 6],
            linestyle=DASHES[i % 6],
            marker=MARKERS[i % 6] if marks else None,
            markersize=4,
        )
    if "x" in log:  # tokens and pixels double; learning rates do not
        ax.set_xscale("log", base=2 if all(value == int(value) for value in x) else 10)
    if "y" in log:
        ax.set_yscale("log")
    ax.grid(alpha=0.3)
    if len(series) > 1:
        ax.legend(fontsize=9)
    told = "; ".join(f"{name} from {values[0]:.3g} to {values[-1]:.3g}" for name, values in series.items())
    fig.alt = f"{title}. {ylabel} against {xlabel}, {x[0]:g} to {x[-1]:g}: {told}."
    return fig


def spread(x, series, title, xlabel, ylabel, log="", mark=None):
    """Curves with bars from the lowest to the highest of several runs; the curve goes through their means.

    x: (n,) numbers. series: {name: one list of n values for each run}. log: see `lines`. mark: (one of x, text), a dotted line that the legend explains.
    """
    fig, ax = axes_for(6.4, 3.9, title, xlabel, ylabel)
    told = []
    for i, (name, runs) in enumerate(series.items()):
        values = np.array(runs, dtype=float)  # (runs, n)
        mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
        ax.errorbar(
            x,
            mean,
            (mean - low, high - mean),
            label=name,
            color=COLOURS[i % 6],
            linestyle=DASHES[i % 6],
            marker=MARKERS[i % 6],
            markersize=5,
            capsize=3,
        )
        told.append(f"{name} from {mean[0]:.3g} to {mean[-1]:.3g}")
    if "x" in log:
        ax.set_xscale("log", base=2)
    if mark:
        ax.axvline(mark[0], label=mark[1], color="0.5", linestyle=":")
    ax.set_xticks(list(x), [f"{v:g}" for v in x])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.legend(fontsize=9)
    runs = max(len(r) for r in series.values())
    bars = f" Bars: lowest and highest of {runs} runs." if runs > 1 else ""
    marked = f" A dotted line at {mark[0]:g}: {mark[1]}." if mark else ""
    fig.alt = f"{title}. {ylabel} against {xlabel}, {x[0]:g} to {x[-1]:g}: {'; '.join(told)}.{bars}{marked}"
    return fig


def bars(values, title, xlabel, digits=0):
    """One horizontal bar for each name, with its number. values: {name: number}."""
    fig, ax = axes_for(6, 0.42 * len(values) + 1.1, title, xlabel, "")
    places = range(len(values))
    ax.barh(places, list(values.values()), color=COLOURS[0], height=0.6)
    for place, value in zip(places, values.values(), strict=True):
        ax.text(value, place, f" {value:.{digits}f}", va="center", fontsize=9)
    ax.set_yticks(places, list(values))
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.grid(axis="x", alpha=0.3)
    told = ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())
    fig.alt = f"{title}. {xlabel}: {told}."
    return fig


def dots(runs, title, xlabel, digits=1):
    """A row for each name: a dot for each run, a line at their mean, and the mean in numbers; a dotted line at zero.

    runs: {name: [numbers]}, differences from something.
    """
    fig, ax = axes_for(6.4, 0.34 * len(runs) + 1.1, title, xlabel, "")
    ax.axvline(0, color="0.4", linestyle=":")
    told = []
    for place, (name, values) in enumerate(runs.items()):
        mean = float(np.mean(values))
        ax.plot(values, [place] * len(values), "o", color=COLOURS[0], alpha=0.6, markersize=5)
        ax.plot(mean, place, "|", color="black", markersize=14, markeredgewidth=1.5)
        ax.annotate(
            f"{mean:+.{digits}f}",
            (1, place),
            (6, 0),
            ("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
        told.append(f"{name} {mean:+.{digits}f}")
    ax.set_yticks(range(len(runs)), list(runs))
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    fig.alt = f"{title}. {xlabel}, a dot for each run; means: {', '.join(told)}."
    return fig


def heatmap(matrix, title, xlabel, ylabel, label="", digits=None, size=4.5, rows=None):
    """A matrix in colours, with a scale. digits: also write the numbers into the cells, with this many decimals.

    rows: a text for each row, instead of its number.
    """
    matrix = matrix.detach()
    fig, ax = axes_for(size * 1.2, size * matrix.shape[0] / matrix.shape[1] + 0.6, title, xlabel, ylabel)
    shown = ax.imshow(matrix.numpy(), cmap="viridis")
    fig.colorbar(shown, ax=ax, label=label, shrink=0.8)
    if digits is not None:
        write_cells(ax, matrix, digits, (matrix.max() + matrix.min()).item() / 2, fontsize=9)
    if max(matrix.shape) <= 12:
        ax.set_xticks(range(matrix.shape[1]))
        ax.set_yticks(range(matrix.shape[0]))
    if rows:
        ax.set_yticks(range(matrix.shape[0]), rows)
        ylabel = f"{ylabel}: {', '.join(rows)}"
    fig.alt = f"{title}. {matrix.shape[0]} rows ({ylabel}), {matrix.shape[1]} columns ({xlabel}); "
    if digits is None:
        fig.alt += f"{label or 'values'} from {span(matrix.flatten())}."
    else:
        fig.alt += "; ".join(" ".join(f"{v:.{digits}f}" for v in row) for row in matrix.tolist()) + "."
    return fig


def heatmaps(matrices, titles, title, xlabel, ylabel, label="", columns=4):
    """Several matrices in colours, with a common scale."""
    matrices = [m.detach() for m in matrices]
    columns = min(columns, len(matrices))
    rows = math.ceil(len(matrices) / columns)
    one_shape = len({m.shape for m in matrices}) == 1
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * 2.1 + 0.6, rows * 2.1 + 0.5),
        squeeze=False,
        layout="constrained",
        sharex=one_shape,
        sharey=one_shape,
    )
    low, high = min(m.min() for m in matrices), max(m.max() for m in matrices)
    for ax, matrix, name in zip(axes.flat, matrices, titles, strict=False):
        shown = ax.imshow(matrix.numpy(), cmap="viridis", vmin=low, vmax=high)
        ax.set_title(name, fontsize=9)
    fig.colorbar(shown, ax=axes, label=label, shrink=0.8)
    fig.supxlabel(xlabel, fontsize=10)
    fig.supylabel(ylabel, fontsize=10)
    fig.suptitle(title, fontsize=11)
    each = ", ".join(f"{n} {span(m.flatten())}" for n, m in zip(titles, matrices, strict=True))
    fig.alt = f"{title}. Maps with {ylabel} down and {xlabel} across; {label or 'values'}: {each}."
    return fig


def numbers(matrices, titles, title=""):
    """Small matrices side by side with their numbers written in, to be checked by hand. titles: a text for each."""
    widths = [m.shape[1] for m in matrices]
    fig, axes = plt.subplots(
        1,
        len(matrices),
        figsize=(
            max(4, sum(widths) * 0.5 + len(widths) * 0.4),
            max(m.shape[0] for m in matrices) * 0.5 + 0.8,
        ),
        width_ratios=widths,
        squeeze=False,
        layout="constrained",
    )
    for ax, matrix, name in zip(axes.flat, matrices, titles, strict=True):
        ax.imshow(torch.zeros(matrix.shape).numpy(), cmap="gray_r", vmin=0, vmax=1)
        for (i, j), value in zip(
            torch.cartesian_prod(*(torch.arange(n) for n in matrix.shape)).tolist(),
            matrix.flatten().tolist(),
            strict=True,
        ):
            ax.text(j, i, f"{value:g}", ha="center", va="center")
        ax.set_xticks([j + 0.5 for j in range(matrix.shape[1] - 1)], labels=[])
        ax.set_yticks([i + 0.5 for i in range(matrix.shape[0] - 1)], labels=[])
        ax.grid(color="0.8")
        ax.tick_params(length=0)
        ax.set_title(name, fontsize=9)
    fig.suptitle(title, fontsize=11)
    told = (
        f"{name}: {'; '.join(' '.join(f'{v:g}' for v in row) for row in m.tolist())}"
        for m, name in zip(matrices, titles, strict=True)
    )
    fig.alt = f"{title}. {'. '.join(told)}."
    return fig
