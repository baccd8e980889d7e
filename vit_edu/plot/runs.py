"""A training run: its curves, even while it goes on, and the classes that its model confuses."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from vit_edu.plot.figure import COLOURS, axes_for, display, finish
from vit_edu.training.tasks import TASKS


def learning_curves(history, recipe, classes, others=()):
    """Loss and held-out score of a run, from the history of `training.fit`; empty axes before the first epoch.

    The score is that of the recipe's task: accuracy for classification. The x axis has epochs, or minutes for a recipe in
    minutes. classes: how many there are, for the line of guessing. others: histories of the same recipe, as
    `training.logged_runs` returns them. A grey band shows the range between their lowest and highest.
    """
    task = TASKS[recipe.task]
    percent = 100 if task.as_percent else 1
    unit, end = ("epoch", recipe.epochs) if recipe.epochs else ("minutes", recipe.minutes)
    x = _places(history, recipe)
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for ax, name, scale, style, colour in (
        (left, "loss", 1, "o-", COLOURS[0]),
        (right, task.key, percent, "s-", COLOURS[1]),
    ):
        if others:
            where, low, high = _band(others, recipe, name)
            label = f"our {len(others)} runs" if len(others) > 1 else "our run"  # whose band is a line
            ax.fill_between(where, scale * low, scale * high, color="0.8", label=label)
        ax.plot(x, [scale * entry[name] for entry in history], style, color=colour, markersize=4)
        ax.set_xlim(*((0.5, end + 0.5) if recipe.epochs else (0, 1.02 * end)))
        ax.grid(alpha=0.3)
    left.set(title="Training loss", xlabel=unit, ylabel=task.loss_unit)
    name = task.score_name[0].upper() + task.score_name[1:]
    right.set(title=f"{name} on held-out images", xlabel=unit, ylabel=task.score_unit)
    if task.as_percent:
        right.set_ylim(0, 100)
    guessing = task.guessing_score(classes)
    if guessing is not None:
        right.axhline(percent * guessing, color="0.5", linestyle=":")
        right.text(end, percent * guessing, "guessing", ha="right", va="bottom", fontsize=8, color="0.35")
    if others:
        right.legend(loc="center right", fontsize=8)
    whole = f"of {end} epochs" if recipe.epochs else f"epochs, of a run of {end:g} minutes"
    fig.alt = f"Learning curves, {len(history)} {whole}."
    if history:
        loss, score = history[-1]["loss"], task.words(history[-1][task.key])
        fig.alt += f" Training loss {loss:.2f}, {task.score_name} on held-out images {score}."
    if history and others:  # the band is that of the score, the last one drawn
        at = np.searchsorted(where, x[-1]).clip(max=len(where) - 1)
        if len(others) > 1:
            fig.alt += f" Our {len(others)} runs had {task.words(low[at])} to {task.words(high[at])} there."
        else:
            fig.alt += f" Our run had {task.words(low[at])} there."
    return fig


def _places(history, recipe):
    """The place of each entry of a history on the x axis: its epoch, or its minutes."""
    return [entry["epoch"] if recipe.epochs else entry["seconds"] / 60 for entry in history]


def _band(others, recipe, name):
    """Places that all of several histories have reached, and the lowest and highest value there, each (200,)."""
    runs = [(_places(other, recipe), [entry[name] for entry in other]) for other in others]
    x = np.linspace(max(places[0] for places, _ in runs), min(places[-1] for places, _ in runs), 200)
    values = [np.interp(x, places, found) for places, found in runs]
    return x, np.min(values, axis=0), np.max(values, axis=0)


class LiveCurves:
    """Curves that grow while a run goes on: `training.fit(..., on_epoch=LiveCurves(recipe, classes))`.

    Arguments as for `learning_curves`. Make it just before the run, so that the picture is above the progress bar.
    """

    def __init__(self, *about):
        self.about = about
        self.handle = display(finish(learning_curves([], *about)), display_id=True)

    def __call__(self, history):
        if self.handle is not None:  # None outside a notebook
            self.handle.update(finish(learning_curves(history, *self.about)))


def confusion(true, predicted, classes):
    """Confusion matrix with counts. true, predicted: (N,) labels."""
    K = len(classes)
    counts = torch.bincount(true * K + predicted, minlength=K * K).reshape(K, K)
    fig, ax = axes_for(6.4, 5.6, "Which class is taken for which", "predicted class", "true class")
    share = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    ax.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    for i in range(K):
        for j in range(K):
            ax.text(
                j,
                i,
                f"{counts[i, j]}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[i, j] > 0.5 else "black",
            )
    ax.set_xticks(range(K), labels=classes, rotation=45, ha="right")
    ax.set_yticks(range(K), labels=classes)
    wrong = counts - torch.diag(counts.diag())
    i, j = divmod(wrong.argmax().item(), K)
    worst = f"The commonest mistake: {classes[i]} taken for {classes[j]}, {wrong.max()} times."
    fig.alt = (
        f"Confusion matrix of {len(true):,} images, {counts.diag().sum():,} of them right. "
        f"{worst if wrong.any() else 'There is no mistake.'}"
    )
    return fig
