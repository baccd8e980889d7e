"""Boxes: how far two of them overlap, which query answers for which object, and how precise a detector is (lesson 11c)."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from vit_edu.plot.figure import COLOURS, DASHES, MARKERS, bare, for_imshow, write_cells

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _frame(ax, box, **style):
    """Draw a box, four numbers x1, y1, x2, y2."""
    x1, y1, x2, y2 = box
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **{"fill": False, "linewidth": 2} | style))


def box_pairs(pairs, titles, title="", hull=True):
    """Pairs of boxes: what they have in common is hatched, and what their hull holds besides them is grey.

    pairs: (n, 2, 4), corners x1, y1, x2, y2, in any unit. titles: a text above each pair. hull: whether to draw the smallest box
    around the two.
    """
    fig, axes = plt.subplots(
        1, len(pairs), figsize=(1.75 * len(pairs) + 0.3, 2.5), squeeze=False, layout="constrained"
    )
    told = []
    for ax, (one, other), text in zip(axes[0], pairs.tolist(), titles, strict=True):
        around = [*np.minimum(one[:2], other[:2]), *np.maximum(one[2:], other[2:])]
        both = [*np.maximum(one[:2], other[:2]), *np.minimum(one[2:], other[2:])]
        if hull:
            _frame(ax, around, fill=True, facecolor="0.85", edgecolor="0.4", linestyle=":", linewidth=1.5)
            for box in (one, other):
                _frame(ax, box, fill=True, facecolor="white", edgecolor="none")
        if both[0] < both[2] and both[1] < both[3]:
            _frame(ax, both, edgecolor="0.3", hatch="////", linewidth=0)
        _frame(ax, one, edgecolor=COLOURS[0])
        _frame(ax, other, edgecolor=COLOURS[1], linestyle="--")
        reach = max(around[2] - around[0], around[3] - around[1]) / 2 * 1.1
        x, y = (around[0] + around[2]) / 2, (around[1] + around[3]) / 2
        ax.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach), aspect=1)
        ax.axis("off")
        ax.set_title(text, fontsize=9)
        corners = " and ".join("(" + ", ".join(f"{v:g}" for v in box) + ")" for box in (one, other))
        told.append(f"{text.replace(chr(10), ', ')}: {corners}")
    fig.suptitle(title, fontsize=11)
    fig.alt = f"{title or 'Pairs of boxes'}, as x1, y1, x2, y2. {'; '.join(told)}."
    return fig


def matching(image, boxes, target_boxes, cost, match, title=""):
    """A scene with the boxes of queries and objects, and the cost of each pair; the pairs that were chosen are framed.

    image: (C, H, W). boxes: (Q, 4), dashed and numbered. target_boxes: (M, 4), solid, with letters; both corners, in pixels.
    cost: (Q, M). match: (M,), the query that answers for each object.
    """
    Q, M = cost.shape
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(4.6 + 0.95 * M, max(3.4, 0.45 * Q + 1.2)), layout="constrained"
    )
    shown = for_imshow(image)
    high, wide = shown.shape[:2]
    left.imshow(1 - 0.5 * (1 - shown), cmap="gray", vmin=0, vmax=1, extent=(0, wide, high, 0))
    bare(left)
    place = {"fontsize": 9, "bbox": {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}}
    for letter, box in zip(LETTERS, target_boxes.tolist(), strict=False):
        _frame(left, box, edgecolor="black")
        left.text(box[2], box[3], letter, ha="right", va="bottom", fontweight="bold", **place)
    for query, box in enumerate(boxes.tolist()):
        _frame(left, box, edgecolor=COLOURS[query % 6], linestyle="--")
        left.text(box[0], box[1], str(query), ha="left", va="top", color=COLOURS[query % 6], **place)
    left.set_title("objects (letters, solid)\nand queries (numbers, dashed)", fontsize=9)
    cost = cost.detach()
    right.imshow(cost.numpy(), cmap="viridis", aspect="auto")
    write_cells(right, cost, 2, (cost.min() + cost.max()) / 2, fontsize=9)
    for j, query in enumerate(match.tolist()):
        _frame(right, (j - 0.45, query - 0.42, j + 0.45, query + 0.42), edgecolor="white", linewidth=5)
        _frame(right, (j - 0.45, query - 0.42, j + 0.45, query + 0.42), edgecolor=COLOURS[1], linewidth=2.5)
    right.set(xlabel="object", ylabel="query")
    right.set_xticks(range(M), LETTERS[:M])
    right.set_yticks(range(Q))
    total = sum(cost[query, j].item() for j, query in enumerate(match.tolist()))
    right.set_title(f"what each pair costs;\nframed: chosen, together {total:.2f}", fontsize=9)
    fig.suptitle(title, fontsize=11)
    rows = "; ".join(
        f"query {q}: " + " ".join(f"{v:.2f}" for v in row) for q, row in enumerate(cost.tolist())
    )
    pairs = ", ".join(f"query {query} for {LETTERS[j]}" for j, query in enumerate(match.tolist()))
    fig.alt = f"{title or 'Matching'}. {Q} queries, {M} objects. Costs, {rows}. Chosen: {pairs}, together {total:.2f}."
    return fig


def precision_recall(curves, title, points=True):
    """Precision against recall, box by box from the surest down, and the best precision from each recall on, as COCO reads it.

    curves: {name: (scores (n,), hits (n,), number of objects)}. points: whether to mark the single boxes, and fill the area of
    the first curve.
    """
    fig, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    ax.set(title=title, xlabel="recall: share of the objects that are found", xlim=(0, 1.02), ylim=(0, 1.05))
    ax.set_ylabel("precision: share of\nthe boxes that are right")
    told = []
    for i, (name, (scores, hits, objects)) in enumerate(curves.items()):
        hits = hits[scores.argsort(descending=True, stable=True)].double()
        right = hits.cumsum(dim=0).numpy()
        recall, precision = right / objects, right / np.arange(1, len(right) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        edges = np.concatenate([[0], recall, recall[-1:], [1]])
        levels = np.concatenate([best[:1], best, [0, 0]])
        colour = COLOURS[i % 6]
        ax.step(edges, levels, where="pre", color=colour, linestyle=DASHES[i % 6], linewidth=2, label=name)
        if points:
            ax.plot(recall, precision, MARKERS[i % 6] + ":", color="0.35", markersize=5, linewidth=1)
            if i == 0:
                ax.fill_between(edges, levels, step="pre", color=colour, alpha=0.15)
        found = f"{len(hits)} box{'es' * (len(hits) != 1)}, {int(right[-1])} right, of {objects} objects"
        told.append(f"{name}: {found}; precision {precision[0]:.2f} at first, {precision[-1]:.2f} at last")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower left", fontsize=9)
    fig.alt = f"{title}. Precision against recall. {'; '.join(told)}."
    return fig
