"""Every figure of the lessons. Each function returns a matplotlib figure that carries its own description;
`show` puts it on the page with that description as alternative text, for those who cannot see it.

Nothing is said by colour alone: lines differ in marker and dash, cells carry numbers where they are few.
"""

import base64
import html
import io
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import FancyArrowPatch, Rectangle

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)  # Okabe and Ito, safe for the colour-blind
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


DPI = 144


class _Figure:
    """A finished figure: an image with alternative text in a notebook, the text alone elsewhere."""

    def __init__(self, png, alt):
        self.png, self.alt = png, alt
        # From the PNG's header, for sharp screens
        self.width = int.from_bytes(png[16:20], "big") * 84 // DPI

    def _repr_mimebundle_(self, include=None, exclude=None):
        source = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        img = (
            f'<img src="{source}" width="{self.width}" alt="{html.escape(self.alt, quote=True)}" '
            'style="max-width:100%;background:white">'
        )
        return {"text/plain": f"[figure] {self.alt}", "text/html": img}


def finish(fig, alt=None):
    """Draw and close a figure; returns something that displays itself, with `alt` or `fig.alt` as its text.

    Raises ValueError for a figure that has neither.
    """
    alt = alt or getattr(fig, "alt", None)
    if not alt:
        raise ValueError("a figure needs alternative text: plot.show(fig, 'what there is to see').")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    plt.close(fig)
    return _Figure(buffer.getvalue(), alt)


def show(fig, alt=None):
    """Display a figure below the cell. alt: what there is to see, where the figure's own words are not enough."""
    from IPython.display import display

    display(finish(fig, alt))


def _range(values):
    return f"{float(min(values)):.3g} to {float(max(values)):.3g}"


def _axes(width, height, title, xlabel, ylabel):
    fig, ax = plt.subplots(figsize=(width, height))
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return fig, ax


def _picture(image):
    """(C, H, W), bytes or 0..1 floats -> (H, W, 3) or (H, W) in 0..1 for imshow."""
    image = image.detach().cpu()
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    image = image.clamp(0, 1)
    return (image[0] if image.shape[0] == 1 else image[:3].permute(1, 2, 0)).numpy()


def _bare(ax):
    ax.set_xticks([])
    ax.set_yticks([])


# ---------------------------------------------------------------- pictures


def images(pictures, titles=None, columns=8, title="", scale=1.1):
    """A grid of pictures. pictures: (B, C, H, W), bytes or 0..1. titles: one text a picture."""
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
        shown = _picture(picture)
        ax.imshow(shown, cmap="gray", vmin=0, vmax=1)
        if titles:
            ax.set_title(titles[i], fontsize=8)
    fig.suptitle(title, fontsize=11)
    names = f": {'; '.join(t.replace(chr(10), ', ') for t in titles)}" if titles else ""
    fig.alt = f"{title or 'Pictures'}. {count} small picture{'s' * (count > 1)}{names}."
    return fig


def attended(pictures, maps, titles=None, title=""):
    """Pictures, and below each the same picture as bright as it is looked at.

    pictures: (B, C, H, W), bytes or 0..1. maps: (B, rows, cols), how much each patch is looked at. titles: one text a picture.
    """
    count = len(pictures)
    line = 0.2 * (1 + max((t.count("\n") for t in titles), default=0)) if titles else 0
    fig, axes = plt.subplots(
        2, count, figsize=(count * 1.45, 3.3 + line), squeeze=False, layout="constrained"
    )
    told = []
    for i, (picture, looked) in enumerate(zip(pictures, maps.detach(), strict=True)):
        shown = _picture(picture)
        shown = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown
        bright = torch.nn.functional.interpolate(looked[None, None], shown.shape[:2])[0, 0]
        bright = 0.12 + 0.88 * (bright / bright.max())[..., None].numpy()
        for ax, each in zip(axes[:, i], (shown, shown * bright), strict=True):
            ax.imshow(each)
            _bare(ax)
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


def patch_grid(patches, rows, cols, patch_size, title="", order=None):
    """Patches, (N, P*P*C), drawn apart from each other in rows and columns. order: a number to write on each."""
    pictures = patches.reshape(rows * cols, patch_size, patch_size, -1).permute(0, 3, 1, 2)
    cell = max(0.6, 3.4 / cols)  # inches
    fig, axes = plt.subplots(rows, cols, figsize=(cols * cell, rows * cell), squeeze=False)
    for i, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=True)):
        ax.imshow(_picture(picture), cmap="gray", vmin=0, vmax=1)
        _bare(ax)
        if order is not None:
            ax.set_xlabel(str(order[i]), fontsize=7, labelpad=1)
    fig.subplots_adjust(wspace=0.12, hspace=0.12 if order is None else 0.3)
    fig.suptitle(title, fontsize=11, y=0.96)
    fig.alt = f"{title}. {rows} rows of {cols} patches, drawn apart from each other, in reading order."
    return fig


def numbers(matrices, titles, title=""):
    """Small matrices side by side with their numbers written in; for what is checked by hand."""
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


def heatmap(matrix, title, xlabel, ylabel, label="", digits=None, size=4.5):
    """One matrix as colours, with a scale. digits: write the numbers into the cells."""
    matrix = matrix.detach()
    fig, ax = _axes(size * 1.2, size * matrix.shape[0] / matrix.shape[1] + 0.6, title, xlabel, ylabel)
    shown = ax.imshow(matrix.numpy(), cmap="viridis")
    fig.colorbar(shown, ax=ax, label=label, shrink=0.8)
    if digits is not None:
        middle = (matrix.max() + matrix.min()).item() / 2
        for i, row in enumerate(matrix.tolist()):
            for j, value in enumerate(row):
                ax.text(
                    j,
                    i,
                    f"{value:.{digits}f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if value < middle else "black",
                )
    if max(matrix.shape) <= 12:
        ax.set_xticks(range(matrix.shape[1]))
        ax.set_yticks(range(matrix.shape[0]))
    fig.alt = f"{title}. {matrix.shape[0]} rows ({ylabel}), {matrix.shape[1]} columns ({xlabel}); "
    if digits is None:
        fig.alt += f"{label or 'values'} from {_range(matrix.flatten())}."
    else:
        fig.alt += "; ".join(" ".join(f"{v:.{digits}f}" for v in row) for row in matrix.tolist()) + "."
    return fig


def heatmaps(matrices, titles, title, xlabel, ylabel, label="", columns=4):
    """Several matrices with a common colour scale."""
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
    each = ", ".join(f"{n} {_range(m.flatten())}" for n, m in zip(titles, matrices, strict=True))
    fig.alt = f"{title}. Maps with {ylabel} down and {xlabel} across; {label or 'values'}: {each}."
    return fig


# ---------------------------------------------------------------- curves


def lines(x, series, title, xlabel, ylabel, log="", marks=True):
    """Curves over the same x. series: {name: values}. log: the axes with a logarithmic scale, "x", "y" or "xy"."""
    fig, ax = _axes(6, 3.6, title, xlabel, ylabel)
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
    if "x" in log:
        ax.set_xscale("log", base=2)
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

    x: (n,) numbers. series: {name: one list of n values for each run}. log: see `lines`. mark: (one of x, text), a dotted line.
    """
    fig, ax = _axes(6.4, 3.9, title, xlabel, ylabel)
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
    names = [f"{v:g}" for v in x]
    if mark:
        ax.axvline(mark[0], color="0.5", linestyle=":")
        names[list(x).index(mark[0])] += f"\n{mark[1]}"
    ax.set_xticks(list(x), names)
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.legend(fontsize=9)
    runs = max(len(r) for r in series.values())
    bars = f" Bars: lowest and highest of {runs} runs." if runs > 1 else ""
    fig.alt = f"{title}. {ylabel} against {xlabel}, {x[0]:g} to {x[-1]:g}: {'; '.join(told)}.{bars}"
    return fig


def bars(values, title, xlabel, digits=0):
    """One horizontal bar for each name, with its number. values: {name: number}."""
    fig, ax = _axes(6, 0.42 * len(values) + 1.1, title, xlabel, "")
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
    fig, ax = _axes(6.4, 0.34 * len(runs) + 1.1, title, xlabel, "")
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


def learning_curves(history, recipe, classes, others=()):
    """Loss and held-out accuracy of a run, from the history of `training.fit`; empty axes before the first epoch.

    Over epochs, or over minutes where the recipe has those. classes: how many, for the line of guessing. others: histories
    of the same recipe, as `training.logged_runs` has them; what lies between their lowest and highest is a grey band.
    """
    unit, end = ("epoch", recipe.epochs) if recipe.epochs else ("minutes", recipe.minutes)

    def place(entries):
        return [e["epoch"] if recipe.epochs else e["seconds"] / 60 for e in entries]

    def band(name):
        """Where, lowest and highest of the others at 200 places that all of them have reached."""
        runs = [(place(other), [entry[name] for entry in other]) for other in others]
        x = np.linspace(max(places[0] for places, _ in runs), min(p[-1] for p, _ in runs), 200)
        values = [np.interp(x, places, found) for places, found in runs]
        return x, np.min(values, axis=0), np.max(values, axis=0)

    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    x = place(history)
    if others:
        style = {"color": "0.8", "label": f"{len(others)} runs of ours"}
        where, low, high = band("loss")
        left.fill_between(where, low, high, **style)
        where, low, high = band("val_accuracy")
        right.fill_between(where, 100 * low, 100 * high, **style)
        right.legend(loc="center right", fontsize=8)
    left.plot(x, [entry["loss"] for entry in history], "o-", color=COLOURS[0], markersize=4)
    left.set(title="Training loss", xlabel=unit, ylabel="cross-entropy, nats")
    right.plot(x, [100 * entry["val_accuracy"] for entry in history], "s-", color=COLOURS[1], markersize=4)
    right.axhline(100 / classes, color="0.5", linestyle=":")
    right.text(end, 100 / classes, "guessing", ha="right", va="bottom", fontsize=8, color="0.35")
    right.set(
        title="Accuracy on held-out images",
        xlabel=unit,
        ylabel="right answers, %",
        ylim=(0, 100),
    )
    for ax in (left, right):
        ax.set_xlim(*((0.5, end + 0.5) if recipe.epochs else (0, 1.02 * end)))
        ax.grid(alpha=0.3)
    whole = f"of {end} epochs" if recipe.epochs else f"epochs, of a run of {end:g} minutes"
    fig.alt = f"Learning curves, {len(history)} {whole}."
    if history:
        last = history[-1]
        fig.alt += (
            f" Training loss {last['loss']:.2f}, {last['val_accuracy']:.1%} of the held-out images right."
        )
        if others:
            at = np.searchsorted(where, x[-1]).clip(max=len(where) - 1)
            fig.alt += f" Our {len(others)} runs had {low[at]:.1%} to {high[at]:.1%} there."
    return fig


class LiveCurves:
    """Curves that grow while a run goes on: `training.fit(..., on_epoch=LiveCurves(recipe, classes))`.

    Arguments as for `learning_curves`. Made just before the run, so that the picture stands above the progress bar.
    """

    def __init__(self, *about):
        from IPython.display import display

        self.about = about
        self.handle = display(finish(learning_curves([], *about)), display_id=True)

    def __call__(self, history):
        if self.handle is not None:  # None outside a notebook
            self.handle.update(finish(learning_curves(history, *self.about)))


def confusion(true, predicted, classes):
    """Confusion matrix with counts. true, predicted: (N,) labels."""
    K = len(classes)
    counts = torch.bincount(true * K + predicted, minlength=K * K).reshape(K, K)
    fig, ax = _axes(6.4, 5.6, "Which class is taken for which", "predicted class", "true class")
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
    fig.alt = (
        f"Confusion matrix of {len(true):,} images, {counts.diag().sum():,} of them right. "
        f"The commonest mistake: {classes[i]} taken for {classes[j]}, {wrong.max()} times."
    )
    return fig


# ---------------------------------------------------------------- drawings


def _box(ax, x, y, width, height, text, colour="white", size=9):
    ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="black", linewidth=1))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def _arrow(ax, start, end, **style):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color="black", **style))


def overview(image, patch_size=8):
    """The whole course in one picture: an image, its patches as tokens, the encoder, a class.

    image: (C, H, W) with H = W a multiple of patch_size."""
    from vit_edu.models.vit import patchify

    side = image.shape[-1] // patch_size
    patches = patchify(image[None], patch_size)[0].reshape(side * side, patch_size, patch_size, -1)
    fig = plt.figure(figsize=(10, 3.1))
    canvas = fig.add_axes([0, 0, 1, 1])
    canvas.set(xlim=(0, 100), ylim=(0, 31))
    canvas.axis("off")

    def place(picture, x, y, size):
        ax = fig.add_axes([x / 100, y / 31, size / 100, size / 31])
        ax.imshow(_picture(picture), cmap="gray", vmin=0, vmax=1)
        _bare(ax)

    place(image, 1, 9, 13)
    canvas.text(7.5, 24, "image", ha="center", fontsize=10)
    _arrow(canvas, (15, 15.5), (18.5, 15.5))
    step = 15 / side
    for i, patch in enumerate(patches):
        place(
            patch.permute(2, 0, 1),
            19.5 + i % side * step,
            8 + (side - 1 - i // side) * step,
            step * 0.84,
        )
    canvas.text(27, 24, f"{side * side} patches", ha="center", fontsize=10)
    _arrow(canvas, (35.5, 15.5), (39, 15.5))
    for k in range(5):
        x = 40 + k * 3.2
        name = "class" if k == 0 else ("…" if k == 4 else str(k))
        canvas.add_patch(
            Rectangle(
                (x, 9.5),
                2.3,
                12,
                facecolor=("#F0E442", "#56B4E9")[k > 0],
                edgecolor="black",
                linewidth=1,
            )
        )
        canvas.text(x + 1.15, 7.2, name, ha="center", fontsize=8)
    canvas.text(47.5, 24, "tokens + positions", ha="center", fontsize=10)
    _arrow(canvas, (56, 15.5), (59.5, 15.5))
    for k in (2, 1, 0):
        canvas.add_patch(
            Rectangle((60.5 + k, 8.5 + k), 16, 12, facecolor="white", edgecolor="black", linewidth=1)
        )
    canvas.text(68.5, 16.6, "attention", ha="center", va="center", fontsize=10)
    canvas.text(68.5, 12.4, "MLP", ha="center", va="center", fontsize=10)
    canvas.text(69.5, 24, "encoder blocks", ha="center", fontsize=10)
    _arrow(canvas, (79, 15.5), (82.5, 15.5))
    _box(canvas, 83.5, 11.5, 7, 8, "head", size=10)
    _arrow(canvas, (91, 15.5), (94, 15.5))
    canvas.text(97, 15.5, "class", ha="center", va="center", fontsize=11, fontweight="bold")
    lessons = ((7.5, "00"), (27, "01"), (47.5, "02"), (69.5, "03, 04"), (87, "05"), (95.8, "06"))
    for x, text in lessons:
        canvas.text(x, 2.6, f"lesson {text}", ha="center", fontsize=9, color="0.35")
    canvas.text(1, 29, "How a Vision Transformer sees, and the lesson that builds each part", fontsize=11)
    fig.alt = (
        f"From left to right: an image, the same image cut into {side * side} patches, a row of tokens of which the "
        "first is the class token, a stack of encoder blocks with attention and MLP, a head, and the word class."
    )
    return fig


def name_pairs(rows):
    """Two columns of names with an arrow between. rows: (name there, name here, shape), one a tensor."""
    fig, ax = plt.subplots(figsize=(9.5, 0.27 * len(rows) + 0.6))
    ax.set(xlim=(0, 100), ylim=(len(rows), -1.2), title="The same tensors under two names")
    ax.axis("off")
    for x, text in ((0, "theirs"), (67, "ours"), (92, "shape")):
        ax.text(x, -0.7, text, fontweight="bold", fontsize=9)
    for y, (there, here, shape) in enumerate(rows):
        ax.text(0, y, there, fontsize=8, family="monospace", va="center")
        ax.text(67, y, here, fontsize=8, family="monospace", va="center")
        ax.text(92, y, " x ".join(map(str, shape)), fontsize=8, va="center")
        _arrow(ax, (61, y), (66, y))
    fig.alt = "Names side by side. " + "; ".join(f"{there} is {here}" for there, here, _ in rows) + "."
    return fig


def block_diagram():
    """A pre-norm and a post-norm block side by side."""
    fig, axes = plt.subplots(1, 2, figsize=(7.5, 5), layout="constrained")
    pre = ("norm1", "attention", "+", "norm2", "MLP", "+")
    post = ("attention", "+", "norm1", "MLP", "+", "norm2")
    for ax, parts, name in zip(
        axes, (pre, post), ("pre-norm: the ViT", "post-norm: the first Transformer"), strict=True
    ):
        ax.set(xlim=(0, 10), ylim=(-1, 14.2), title=name)
        ax.axis("off")
        y, skip = 0.6, 0.0
        ax.text(4, -0.6, "x (B, T, D)", ha="center")
        _arrow(ax, (4, -0.1), (4, 0.6))
        for part in parts:
            if part == "+":
                ax.text(
                    4,
                    y + 0.7,
                    "+",
                    ha="center",
                    va="center",
                    fontsize=14,
                    bbox={"boxstyle": "circle", "fc": "#F0E442"},
                )
                ax.plot([4, 8, 8], [skip + 0.2, skip + 0.2, y + 0.7], color="black", linewidth=1)
                _arrow(ax, (8, y + 0.7), (4.6, y + 0.7))
                skip = y + 1.6
            else:
                colour = {"norm1": "#DDDDDD", "norm2": "#DDDDDD"}.get(part, "#BFE3F7")
                _box(ax, 2, y, 4, 1.4, part, colour)
                if part.startswith("norm") and name.startswith("post"):
                    skip = y + 1.6
            _arrow(ax, (4, y + 1.4), (4, y + 2.2))
            y += 2.2
    fig.suptitle("One encoder block: where the norm stands", fontsize=11)
    fig.alt = (
        "Two columns of boxes. Pre-norm: norm1, attention, plus, norm2, MLP, plus; each skip goes around a norm and "
        "its branch. Post-norm: attention, plus, norm1, MLP, plus, norm2; the norms stand after each plus."
    )
    return fig
