"""What an inductive bias does: families of models against data and compute, and which pixels a place sees (lesson 08)."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator

from vit_edu.plot.figure import COLOURS, DASHES, MARKERS, bare


def families(panels, title, xlabel, ylabel="held-out images, right, %", own=None, ticks=None):
    """Several families of models against something that grows, such as labels or compute; one pair of axes for each panel.

    panels: {name: {family: [(x, numbers)]}}, with the numbers of all runs at that x. A mark stands at their mean, bars reach from
    the lowest to the highest. own: {family: (x, number)}, single runs of the reader's, as stars in the first panel. ticks: {x: text}.
    """
    width = 3.6 * len(panels) + (1.6 if len(panels) == 1 else 0.6)
    fig, axes = plt.subplots(
        1, len(panels), figsize=(width, 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    told = []
    for ax, (name, found) in zip(axes.flat, panels.items(), strict=True):
        for i, (family, points) in enumerate(found.items()):
            x, values = zip(*sorted(points), strict=True)
            mean = np.array([np.mean(v) for v in values])
            reach = mean - [min(v) for v in values], [max(v) for v in values] - mean
            colour, marker = COLOURS[i % 6], MARKERS[i % 6]
            ax.errorbar(
                x, mean, reach, label=family, color=colour, linestyle=DASHES[i % 6], marker=marker, capsize=3
            )
            if own and family in own and ax is axes[0, 0]:
                ax.plot(*own[family], "*", color=colour, markersize=13, markeredgecolor="black")
            places = [(ticks or {}).get(at, f"{at:.3g}") for at in x]
            each = ", ".join(f"{m:.1f} at {place}" for m, place in zip(mean, places, strict=True))
            told.append(f"{name}, {family}: {each}")
        ax.set_xscale("log")
        if ticks:
            ax.set_xticks(list(ticks), list(ticks.values()))
        else:
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set(xlabel=xlabel, title=name)
        ax.title.set_fontsize(10)
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel(ylabel)
    axes[0, -1].legend(fontsize=9)
    fig.suptitle(title, fontsize=11)
    runs = max(len(v) for found in panels.values() for points in found.values() for _, v in points)
    bars = f" Bars: lowest and highest of {runs} runs." if runs > 1 else ""
    stars = "".join(f" A star: your {family}, {y:.1f}." for family, (_, y) in (own or {}).items())
    fig.alt = f"{title}. {ylabel} against {xlabel}, means. {'; '.join(told)}.{bars}{stars}"
    return fig


def reach(maps, titles, title):
    """Which pixels matter to one place of a model: the size of its gradient, white where it is exactly zero.

    maps: {name of a model: [(H, W), ...]}, one after each layer, in rows. titles: {name: [text, ...]}. Each map has its own scale,
    from its largest number down to a thousandth of it.
    """
    columns = max(len(row) for row in maps.values())
    fig, axes = plt.subplots(
        len(maps),
        columns,
        figsize=(1.75 * columns, 1.75 * len(maps) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    told = []
    for row, (name, each) in zip(axes, maps.items(), strict=True):
        for ax, found, text in zip(row, each, titles[name], strict=False):
            size = np.ma.log10(found.numpy())  # masked where it is zero
            shown = ax.imshow(size - size.max(), cmap="viridis", vmin=-3, vmax=0)
            ax.set_title(text, fontsize=9)
            seen = (found > 0).nonzero()  # (n, 2)
            high, wide = (seen.max(dim=0).values - seen.min(dim=0).values + 1).tolist()
            ax.set_xlabel(f"{high} x {wide} pixels", fontsize=8)
            told.append(f"{name}, {text}: {high} x {wide} pixels")
        for ax in row:
            bare(ax)
        for ax in row[len(each) :]:
            ax.axis("off")
        row[0].set_ylabel(name, fontsize=9)
    bar = fig.colorbar(shown, ax=axes, shrink=0.8, ticks=[0, -1, -2, -3])
    bar.set_ticklabels(["largest", "1/10", "1/100", "1/1000 or less"], fontsize=8)
    bar.set_label("gradient", fontsize=8)
    fig.suptitle(title, fontsize=11)
    fig.alt = f"{title}. Pixels with a gradient: {'; '.join(told)}."
    return fig
