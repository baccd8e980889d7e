"""A figure that carries its own description, and what all figures are drawn with."""

import base64
import html
import io
import sys

import matplotlib.pyplot as plt
import torch

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

    def __repr__(self):
        return f"[figure] {self.alt}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        source = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        img = (
            f'<img src="{source}" width="{self.width}" alt="{html.escape(self.alt, quote=True)}" '
            'style="max-width:100%;background:white">'
        )
        return {"text/plain": repr(self), "text/html": img}


def finish(fig, alt=None):
    """Draw and close a figure. Returns an object that displays itself, with `alt` or else `fig.alt` as its text.

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
    """Display a figure below the cell. In a program, print its text.

    alt: what there is to see, if the figure's own words are not enough.
    """
    display(finish(fig, alt))


def display(figure, **options):
    """IPython's `display`, with its options. In a program, which may lack IPython, print the figure's text instead."""
    if not sys.modules.get("IPython"):
        print(figure)
        return None
    from IPython.display import display

    return display(figure, **options)


def axes_for(width, height, title, xlabel, ylabel):
    """A figure with one pair of axes, `width` by `height` inches. Returns (figure, axes)."""
    fig, ax = plt.subplots(figsize=(width, height))
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return fig, ax


def span(values):
    """The lowest and the highest of some numbers, in words."""
    return f"{float(min(values)):.3g} to {float(max(values)):.3g}"


def write_cells(ax, matrix, digits, middle, fontsize=8):
    """Write the numbers of a matrix into its cells of an image in viridis, with so many decimals.

    matrix: (rows, cols). middle: values below it lie in dark cells, and are written in white.
    """
    for i, row in enumerate(matrix.tolist()):
        for j, value in enumerate(row):
            colour = "white" if value < middle else "black"
            ax.text(j, i, f"{value:.{digits}f}", ha="center", va="center", fontsize=fontsize, color=colour)


def for_imshow(image):
    """(C, H, W), bytes or 0..1 floats -> (H, W, 3) or (H, W) in 0..1 for imshow."""
    image = image.detach().cpu()
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    image = image.clamp(0, 1)
    return (image[0] if image.shape[0] == 1 else image[:3].permute(1, 2, 0)).numpy()


def bare(ax):
    """Take the ticks off the axes of a picture."""
    ax.set_xticks([])
    ax.set_yticks([])
