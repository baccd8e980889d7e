"""Every figure of the lessons. Each function returns a matplotlib figure that carries its own description;
`show` puts it on the page with that description as alternative text, for those who cannot see it.

    figure      show and finish; colours, markers, dashes
    charts      curves, bars, dots, matrices
    pictures    images, patches, where a model looks
    drawings    the course, a block, names side by side
    inside      filters, positions, how far heads look, whether a map is right
    runs        learning curves, confusion
    explorer    where a model looks, to be explored by hand: a page, not a picture
    bias        families of models against data and compute, what a place sees
    pretext     what is left of a picture, how it is filled in, what a task without labels is worth
    mixer       token mixers as matrices, runs as intervals
    windows     windows of tokens: shifted and rolled, their masks, the offsets that they know
    scenes      classes of pixels, boxes around objects, scores against minutes
    video       clips as strips of frames, tubelets, answers to clips that are played in other ways
    detection   boxes in pairs, queries matched with objects, precision against recall

Nothing is said by colour alone: lines differ in marker and dash, cells carry numbers where they are few.
"""

from vit_edu.plot.bias import families, reach
from vit_edu.plot.charts import bars, dots, heatmap, heatmaps, lines, numbers, spread
from vit_edu.plot.detection import box_pairs, matching, precision_recall
from vit_edu.plot.drawings import block_diagram, name_pairs, overview
from vit_edu.plot.explorer import attention_explorer
from vit_edu.plot.figure import finish, show
from vit_edu.plot.inside import (
    attention_distances,
    cka_maps,
    deletion,
    filters,
    gallery,
    mirrored,
    position_grid,
    position_tile,
)
from vit_edu.plot.mixer import directions, intervals, mixing_matrices
from vit_edu.plot.pictures import attended, images, patch_grid
from vit_edu.plot.pretext import filled_in, pretext_and_worth
from vit_edu.plot.runs import LiveCurves, confusion, learning_curves
from vit_edu.plot.scenes import scenes, score_against_minutes
from vit_edu.plot.video import answers, clips, tubelet_cuts, tubelets_apart
from vit_edu.plot.windows import relative_positions, shifted_windows, window_masks

__all__ = [
    "LiveCurves",
    "answers",
    "attended",
    "attention_distances",
    "attention_explorer",
    "bars",
    "block_diagram",
    "box_pairs",
    "cka_maps",
    "clips",
    "confusion",
    "deletion",
    "directions",
    "dots",
    "families",
    "filled_in",
    "filters",
    "finish",
    "gallery",
    "heatmap",
    "heatmaps",
    "images",
    "intervals",
    "learning_curves",
    "lines",
    "matching",
    "mirrored",
    "mixing_matrices",
    "name_pairs",
    "numbers",
    "overview",
    "patch_grid",
    "position_grid",
    "position_tile",
    "precision_recall",
    "pretext_and_worth",
    "reach",
    "relative_positions",
    "scenes",
    "score_against_minutes",
    "shifted_windows",
    "show",
    "spread",
    "tubelet_cuts",
    "tubelets_apart",
    "window_masks",
]
