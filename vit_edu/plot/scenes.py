"""Scenes: their pixels' classes and their boxes, and scores of runs against minutes (lessons 11b to 11d)."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from vit_edu.plot.figure import COLOURS, DASHES, MARKERS, bare, for_imshow

HATCHES = ("////", "\\\\\\\\", "....", "++++", "oo", "xxxx")
# What a text stands on that must be legible on anything
PAPER = {"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


def scenes(images, masks=None, boxes=None, names=None, titles=None, title="", scale=1.45):
    """Rows of pictures, with the classes of their pixels as hatched regions, or with boxes around their objects.

    images: (B, C, H, W), bytes or 0..1. masks: (B, H, W), whole numbers, 0 for the background and k + 1 for class k. boxes:
    for each picture a dict with `boxes` (n, 4), corners x1, y1, x2, y2 in pixels, `labels` (n,), -1 for a row without an object, and
    perhaps `scores` (n,). Either may also be a dict {name of a row: those of the row}; a row of None has the pictures alone. names:
    of the classes. titles: a text above each picture.
    """
    rows = _rows(masks) | _rows(boxes) or {"": None}
    count = len(images)
    fig, axes = plt.subplots(
        len(rows),
        count,
        figsize=(scale * count + 1.2, scale * len(rows) + 0.75),
        squeeze=False,
        layout="constrained",
    )
    used, told = set(), []
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        found = []
        for ax, picture, each in zip(line, images, [None] * count if row is None else row, strict=True):
            _picture(ax, picture, pale=torch.is_tensor(each))
            if torch.is_tensor(each):
                used |= set(each.unique().tolist()) - {0}
                found.append(_regions(ax, each, names))
            elif each is not None:
                found.append(_boxes(ax, each, names))
        line[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", labelpad=8)
        if found:
            each = "; ".join(f"{i + 1}: {text}" for i, text in enumerate(found))
            told.append(f"{name[:1].upper()}{name[1:]}: {each}" if name else each)
    for ax, text in zip(axes[0], titles or (), strict=False):
        ax.set_title(text, fontsize=8)
    if used:
        classes = sorted(range(1, len(names) + 1) if names else used)
        handles = [_swatch(k) for k in classes]
        texts = [_name(names, k - 1) for k in classes]
        fig.legend(handles, texts, loc="outside lower center", ncols=min(len(texts), 2 * count), fontsize=9)
    fig.suptitle(title, fontsize=11)
    above = f" Above them: {'; '.join(text.replace(chr(10), ', ') for text in titles)}." if titles else ""
    fig.alt = f"{title or 'Scenes'}. {count} picture{'s' * (count > 1)}.{above}" + "".join(
        f" {text}." for text in told
    )
    return fig


def _rows(given):
    """What is drawn in each row, {name: for each picture}."""
    return {} if given is None else given if isinstance(given, dict) else {"": given}


def _name(names, k):
    return names[k] if names else f"class {k}"


def _style(k):
    """Colour, hatch and dash of class k."""
    return COLOURS[k % 6], HATCHES[k % 6], DASHES[k % 6]


def _swatch(number):
    """The mark of a class in the legend. number: that of a mask, class + 1."""
    colour, hatch, _ = _style(number - 1)
    return Patch(facecolor="white", edgecolor=colour, hatch=hatch, linewidth=1.5)


def _picture(ax, picture, pale):
    """A picture, whose axes count pixels from the corner of the first. pale: so that what is drawn on it stands out."""
    shown = for_imshow(picture)
    high, wide = shown.shape[:2]
    shown = 1 - 0.35 * (1 - shown) if pale else shown
    ax.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(0, wide, high, 0))
    bare(ax)


def _regions(ax, mask, names):
    """Hatch and outline the pixels of each class of a mask (H, W). Returns in words how many there are of each."""
    mask = mask.detach().cpu().numpy()
    fine = 8  # each pixel as so many squared, so that its corners stay corners
    high, wide = mask.shape
    x = (np.arange(wide * fine) + 0.5) / fine
    y = (np.arange(high * fine) + 0.5) / fine
    told = []
    for number in sorted(set(mask.flat) - {0}):
        here = np.kron(mask == number, np.ones((fine, fine)))
        colour, hatch, _ = _style(number - 1)
        drawn = ax.contourf(x, y, here, levels=[0.5, 1.5], colors=["none"], hatches=[hatch])
        drawn.set_edgecolor(colour)
        drawn.set_linewidth(0)
        ax.contour(x, y, here, levels=[0.5], colors=[colour], linewidths=1.3)
        told.append(f"{_name(names, number - 1)} {(mask == number).sum()}")
    return ", ".join(told) + " pixels" if told else "background alone"


def _boxes(ax, found, names):
    """Draw boxes with the names of their classes and their scores. Returns them in words."""
    told = []
    scores = found.get("scores")
    for i, (box, k) in enumerate(zip(found["boxes"].tolist(), found["labels"].tolist(), strict=True)):
        if k < 0:
            continue
        (x1, y1, x2, y2), (colour, _, dash) = box, _style(k)
        for edge, style, width in (
            ("white", "-", 3.6),
            (colour, dash, 1.8),
        ):  # white, to stand out on any colour
            drawn = {"fill": False, "edgecolor": edge, "linestyle": style, "linewidth": width}
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **drawn))
        text = _name(names, k) if scores is None else f"{_name(names, k)} {scores[i]:.2f}"
        place = {"xytext": (0, 3), "textcoords": "offset points", "va": "bottom"}
        ax.annotate(text, (max(x1, 0), y1), fontsize=7, bbox=PAPER, **place)
        told.append(f"{text} from {x1:.0f}, {y1:.0f} to {x2:.0f}, {y2:.0f}")
    return ", ".join(told) or "no boxes"


def score_against_minutes(entries, title, ylabel, trivial=None, labels=None):
    """How a score on held-out scenes grew with the minutes of training, for each variant of an experiment.

    entries: those of a log, each a dict with `what`, the name of its variant, and `curve`, [[seconds, score], ...]. A variant's
    runs are thin lines, and their mean, where all of them have got to, is a thick one. trivial: {name: score} of answers that need
    no training, as dashed lines. labels: {what: text}, which variants to draw, in order, and how to call them; without it, all.
    """
    runs = {}
    for entry in entries:
        runs.setdefault(entry["what"], []).append(np.array(entry["curve"], dtype=float))  # (n, 2)
    labels = labels or {what: what for what in runs}
    fig, ax = plt.subplots(figsize=(7.6, 3.8), layout="constrained")
    ax.set(title=title, xlabel="minutes of training", ylabel=ylabel)
    told, handles = [], []
    for i, (what, text) in enumerate((what, text) for what, text in labels.items() if what in runs):
        colour, marker, dash = COLOURS[i % 6], MARKERS[i % 6], DASHES[i % 6]
        curves = runs[what]
        start, end = max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves)
        x = np.linspace(start, end, 100)
        mean = np.mean([np.interp(x, *c.T) for c in curves], axis=0)
        if len(curves) > 1:
            for curve in curves:
                ax.plot(curve[:, 0] / 60, curve[:, 1], color=colour, linewidth=0.7, alpha=0.6)
        style = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 6}
        ax.plot(x / 60, mean, markevery=(4 + 3 * i % 12, 14), linewidth=2.2, **style)
        handles.append(Line2D([], [], linewidth=2.2, label=text, **style))
        last = [c[-1, 1] for c in curves]
        half = np.interp((start + end) / 2, x, mean)
        spread = f", {min(last):.2f} to {max(last):.2f} in {len(last)} runs" if len(last) > 1 else ""
        told.append(
            f"{text}: {half:.2f} after {(start + end) / 120:.1f} minutes, {np.mean(last):.2f} after {end / 60:.1f}{spread}"
        )
    for name, score in (trivial or {}).items():
        ax.axhline(score, color="0.35", linestyle=(0, (4, 3)), linewidth=1.2)
        place = {"xytext": (-3, 3), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        place["bbox"] = PAPER
        ax.annotate(
            f"{name}: {score:.2f}", (1, score), xycoords=("axes fraction", "data"), fontsize=8, **place
        )
    ax.set_xlim(left=0)
    ax.set_ylim(-0.02, 1.02)
    ax.grid(alpha=0.3)
    fig.legend(handles=handles, loc="outside right center", fontsize=9)
    dashed = ", ".join(f"{name} {score:.2f}" for name, score in (trivial or {}).items())
    fig.alt = f"{title}. {ylabel} against minutes of training. {'; '.join(told)}." + (
        f" Dashed: {dashed}." if dashed else ""
    )
    return fig
