"""Figures carry a text for those who cannot see them, and say what is in them."""

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F

from vit_edu import data, plot, training
from vit_edu.models.swin import relative_position_index, shifted_window_mask
from vit_edu.plot.figure import for_imshow

PICTURES = data.shapes(train=20, test=10).train.images
EPOCHS = training.Recipe(epochs=3, batch_size=1, learning_rate=1.0)
MINUTES = training.Recipe(minutes=5, batch_size=1, learning_rate=1.0)
HISTORY = [
    {"epoch": 1, "loss": 1.5, "val_accuracy": 0.25},
    {"epoch": 2, "loss": 1.25, "val_accuracy": 0.5},
]
MASKS = torch.zeros(2, 32, 32, dtype=torch.uint8)
MASKS[:, 2:4, 5:7], MASKS[0, 8:10, 1:5], MASKS[1, 8:12, 1:3] = 1, 1, 2
OTHERS = 2 * torch.stack([torch.zeros(32, 32), MASKS[1] > 0]).byte()
BOXES = {
    "boxes": torch.tensor([[1, 2, 5, 8], [3, 3, 9, 9], [-1, -1, -1, -1]]),
    "labels": torch.tensor([0, 1, -1]),
}
FIGURES = {
    "heart; star": lambda: plot.images(PICTURES[:2], ["heart", "star"], title="Two"),
    "2 rows of 3 patches": lambda: plot.patch_grid(torch.rand(6, 48), 2, 3, 4, "Cut", range(6)),
    "left: 0 1; 2 3. right: 5": lambda: plot.numbers([torch.arange(4).reshape(2, 2), torch.tensor([[5]])], ["left", "right"]),
    "0.2 0.8; 0.5 0.5": lambda: plot.heatmap(torch.tensor([[0.2, 0.8], [0.5, 0.5]]), "A", "key", "query", digits=1),
    "weight from 0 to 3": lambda: plot.heatmap(torch.arange(4.0).reshape(2, 2), "A", "x", "y", "weight"),
    "2 rows (rate: 0.0, 0.1)": lambda: plot.heatmap(torch.zeros(2, 20), "A", "image", "rate", rows=["0.0", "0.1"]),
    "one 0 to 0, two 1 to 1": lambda: plot.heatmaps([torch.zeros(2, 2), torch.ones(2, 2)], ["one", "two"], "M", "x", "y"),
    "up from 1 to 4; down from 4 to 1": lambda: plot.lines((1, 2), {"up": [1, 4], "down": [4, 1]}, "L", "x", "y", log="xy"),
    "2 of 3 epochs. Training loss 1.25, accuracy on held-out images 50.0%.": lambda: plot.learning_curves(HISTORY, EPOCHS, 10),
    "0 of 3 epochs.": lambda: plot.learning_curves([], EPOCHS, 10),
    "0 epochs, of a run of 5 minutes.": lambda: plot.learning_curves([], MINUTES, 10),
    "3 of them right. The commonest mistake: cat taken for dog, 2 times": lambda: plot.confusion(
        torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 1, 1, 1]), ("cat", "dog")
    ),
    "2 of them right. There is no mistake.": lambda: plot.confusion(torch.tensor([0, 1]), torch.tensor([0, 1]), ("cat", "dog")),
    "cat, 90%: most on row 1, column 2; dog, 80%: most on row 2, column 1": lambda: plot.attended(
        PICTURES[:2], torch.tensor([[[0.1, 0.7], [0.1, 0.1]], [[0.1, 0.1], [0.7, 0.1]]]), ["cat\n90%", "dog\n80%"], "A"
    ),
    "picture 1: most on row 1, column 1": lambda: plot.attended(PICTURES[:1, :1], torch.ones(1, 2, 2)),
    "b from 1 to 1. Bars: lowest and highest of 2 runs. A dotted line at 8: here.": lambda: plot.spread(
        (8, 16), {"a": [[1, 4], [3, 6]], "b": [[1, 1], [1, 1]]}, "S", "x", "y", log="x", mark=(8, "here")
    ),
    "share: one 1.5, two 2.0": lambda: plot.bars({"one": 1.5, "two": 2}, "B", "share", 1),
    "means: more +1.5, less -2.0": lambda: plot.dots({"more": [1, 2], "less": [-2]}, "D", "points"),
    "left, ViT: 50.0 at ten, 62.0 at hundred; right, CNN: 70.0 at ten. Bars: lowest and highest of 2 runs. A star: your ViT, 51.0.": (
        lambda: plot.families(
            {"left": {"ViT": [(100, [61, 63]), (10, [50])]}, "right": {"CNN": [(10, [70])]}}, "F", "labels",
            own={"ViT": (10, 51)}, ticks={10: "ten", 100: "hundred"},
        )
    ),
    "CNN, stem: 2 x 3 pixels; ViT, patches: 1 x 1 pixels; ViT, block 1: 4 x 4 pixels": lambda: plot.reach(
        {
            "CNN": [F.pad(torch.ones(2, 3), (0, 1, 1, 1))],
            "ViT": [torch.eye(4)[:1].repeat(4, 1) * torch.eye(4), torch.ones(4, 4)],
        },
        {"CNN": ["stem"], "ViT": ["patches", "block 1"]},
        "R",
    ),
    "2 pictures; of each, 1 of 4 patches are left.": lambda: plot.filled_in(
        PICTURES[:2], torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1]]), 16, {}, "M"
    ),
    "from the true picture: after, 0.000; before, 0.200.": lambda: plot.filled_in(
        torch.ones(1, 3, 8, 8), torch.tensor([[1, 0, 1, 1]]), 4,
        {"after": torch.ones(1, 3, 8, 8), "before": torch.full((1, 3, 8, 8), 0.8)}, "R"
    ),
    "accuracy against error, means: half 0.3 and 41; most 0.5 and 40": lambda: plot.pretext_and_worth(
        {"half": ([0.2, 0.4], [40, 42]), "most": ([0.5], [40])}, "P", "error", "accuracy"
    ),
    "An image as 16 patches, one below the other, each with its row of features. One column is striped": lambda: plot.directions(
        PICTURES[0]
    ),
    "pooling: -0.5 to 0.5, not zero 4 of 4; none: 0 to 0, not zero 0 of 4.": lambda: plot.mixing_matrices(
        {"pooling": torch.tensor([[-0.5, 0.5], [0.5, -0.5]]), "none": torch.zeros(2, 2)}, "M", columns=1
    ),
    "right, means. images, plain: MLP 62.0, none 50.0; images, between: MLP 63.0; minutes, plain: MLP 70.0. "
    "Bars: lowest and highest of 2 runs. A star: your MLP, plain, 61.5.": lambda: plot.intervals(
        {
            "images": {"MLP": {"plain": [61, 63], "between": [63]}, "none": {"plain": [50]}},
            "minutes": {"MLP": {"plain": [70]}},
        },
        "I", "right", own={("MLP", "plain"): 61.5},
    ),
    "A picture of 8 x 8 patches three times. Left: cut into 4 windows of 4 x 4. Middle: windows shifted by 2, 9 pieces": (
        lambda: plot.shifted_windows(PICTURES[0], 4, 4, 2)
    ),
    "window 0 keeps 16 of 16 pairs; window 1 keeps 8 of 16 pairs; window 2 keeps 8 of 16 pairs; window 3 keeps 4 of 16 pairs.": (
        lambda: plot.window_masks(shifted_window_mask((4, 4), 2, 1), (4, 4), 2, 1)
    ),
    "token 0: 4 3; 1 0. token 3: 8 7; 5 4. The table has 3 x 3 rows, from 0 at the top left to 8.": (
        lambda: plot.relative_positions(relative_position_index(2), 2, (0, 3))
    ),
    "IoU 1/7: (0, 0, 4, 4) and (2, 2, 6, 6); apart: (0, 0, 1, 1) and (3, 0, 4, 1)": lambda: plot.box_pairs(
        torch.tensor([[[0, 0, 4, 4], [2, 2, 6, 6]], [[0, 0, 1, 1], [3, 0, 4, 1]]]), ["IoU 1/7", "apart"], "P"
    ),
    "3 queries, 2 objects. Costs, query 0: 1.00 2.00; query 1: 1.50 4.00; query 2: 9.00 9.00. "
    "Chosen: query 1 for A, query 0 for B, together 3.50.": lambda: plot.matching(
        PICTURES[0], torch.tensor([[1, 1, 9, 9], [2, 2, 8, 8], [3, 3, 5, 5]]), torch.tensor([[1, 2, 9, 9], [20, 3, 30, 9]]),
        torch.tensor([[1, 2], [1.5, 4], [9, 9]]), torch.tensor([1, 0])
    ),
    "one: 3 boxes, 2 right, of 2 objects; precision 1.00 at first, 0.67 at last; two: 1 box, 0 right": (
        lambda: plot.precision_recall(
            {
                "one": (torch.tensor([0.5, 0.9, 0.7]), torch.tensor([True, True, False]), 2),
                "two": (torch.tensor([0.5]), torch.tensor([False]), 4),
            },
            "C",
        )
    ),
    "16 patches": lambda: plot.overview(PICTURES[0]),
    "ln_1.weight is norm1.weight": lambda: plot.name_pairs([("ln_1.weight", "norm1.weight", (8,))]),
    "Pre-norm: norm1, attention": plot.block_diagram,
    "one: 3, of which 3 hold more light and dark than colour; two: 1, of which 0 hold": lambda: plot.filters(
        {"one": torch.ones(3, 3, 2, 2), "two": torch.tensor([1.0, -1, 0])[None, :, None, None].expand(1, 3, 2, 2)}, "F", columns=2
    ),
    "Row 0, column 2 is marked; cosines with it, row by row: 0.00 0.00 1.00; 0.00 0.00 0.00": lambda: plot.position_tile(
        torch.eye(6).reshape(2, 3, 2, 3), (0, 2), "T"
    ),
    "neighbours 0.33, with its left-right mirror image 1.00, with its top-bottom mirror image 0.00": lambda: plot.position_grid(
        torch.einsum("rs,cd->rcsd", torch.eye(2), torch.eye(4) + torch.eye(4).flip(0)), "G"
    ),
    "means, left-right and top-bottom: flips 0.50 and -0.10; none 0.60 and 0.00": lambda: plot.mirrored(
        {"flips": {"left-right": [0.4, 0.6], "top-bottom": [-0.1]}, "none": {"left-right": [0.6], "top-bottom": [0]}}, "M"
    ),
    "even attention would give 8.0 pixels. a: block 0 1.0, 2.0; block 1 3.0, 4.0. b: block 0 5.0.": lambda: plot.attention_distances(
        {"a": torch.tensor([[1.0, 2], [3, 4]]), "b": torch.tensor([[5.0]])}, 8, "D"
    ),
    "least important patches: good 20 and 80; middle 30 and 60; bad 50 and 40": lambda: plot.deletion(
        {"bad": (50, 40), "good": (20, 80), "middle": (30, 60)}, "D", "right, %"
    ),
    "a: 1.00 0.50; 0.50 1.00.": lambda: plot.cka_maps({"a": torch.tensor([[1, 0.5], [0.5, 1]])}, "C"),
    "Rows: picture, map; columns: x. map, x: from 0 to 3, most in row 1, column 0": lambda: plot.gallery(
        {"picture": {"x": PICTURES[0]}, "map": {"x": torch.tensor([[0.0, 1], [3, 2]])}}, "G"
    ),
    "Two. 2 pictures. Above them: 90%, sure; 40%. True: 1: circle 12 pixels; 2: circle 4, square 8 pixels. "
    "Found: 1: background alone; 2: square 12 pixels.": lambda: plot.scenes(
        PICTURES[:2], {"picture": None, "true": MASKS, "found": OTHERS},
        names=("circle", "square"), titles=["90%\nsure", "40%"], title="Two",
    ),
    "1: circle 0.90 from 1, 2 to 5, 8, square 0.25 from 3, 3 to 9, 9; 2: no boxes": lambda: plot.scenes(
        PICTURES[:2], boxes=[{**BOXES, "scores": torch.tensor([0.9, 0.25, 0.5])}, {k: v[:0] for k, v in BOXES.items()}],
        names=("circle", "square"),
    ),
    "Scenes. 1 picture. 1: class 0 from 1, 2 to 5, 8, class 1 from 3, 3 to 9, 9.": lambda: plot.scenes(PICTURES[:1], boxes=[BOXES]),
    "S. IoU against minutes of training. fine: 0.50 after 1.5 minutes, 0.80 after 2.0, 0.70 to 0.90 in 2 runs; "
    "b: 0.20 after 1.5 minutes, 0.30 after 2.0. Dashed: all background 0.18.": lambda: plot.score_against_minutes(
        [
            {"what": "a", "curve": [[60, 0.1], [120, 0.7]]}, {"what": "b", "curve": [[60, 0.1], [120, 0.3]]},
            {"what": "a", "curve": [[60, 0.3], [120, 0.9]]}, {"what": "c", "curve": [[60, 0.3], [120, 0.9]]},
        ],
        "S", "IoU", {"all background": 0.18}, labels={"a": "fine", "b": "b"},
    ),
    "2 clips of 3 frames, from left to right: left; up, fast.": lambda: plot.clips(torch.rand(2, 3, 1, 4, 4), ["left", "up\nfast"]),
    "4 frames in 2 groups of 2, each cut into 2 x 1 patches. Token 3 is marked: time 1, row 1, column 0, in 2 frames.": (
        lambda: plot.tubelet_cuts(torch.rand(4, 3, 8, 4), 2, 4, token=3)
    ),
    "3 blocks, one for each time, with 2 rows of 1 tubelets; of each tubelet, its 2 frames": lambda: plot.tubelets_apart(
        torch.rand(6, 2 * 4 * 4 * 3), 2, 4, (2, 1)
    ),
    "forwards: a to a 100%, b to a 50%; backwards: a to b 100%, b to a 0%.": lambda: plot.answers(
        {"forwards": (torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])), "backwards": (torch.tensor([0]), torch.tensor([1]))},
        ("a", "b"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("says", "make"), FIGURES.items(), ids=FIGURES)
def test_figure_says_what_it_shows(says, make):
    figure = plot.finish(make())
    assert says in figure.alt
    page = figure._repr_mimebundle_()
    assert 'alt="' in page["text/html"]
    assert page["text/plain"].startswith("[figure]")
    assert figure.png.startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_figure_without_words_is_refused():
    with pytest.raises(ValueError, match="needs alternative text"):
        plot.finish(plt.figure())
    plt.close("all")


def test_words_cannot_break_the_page():
    page = plot.finish(plot.images(PICTURES[:1], ['a "quoted" <name>']))._repr_mimebundle_()["text/html"]
    assert 'alt="Pictures. 1 small picture: a &quot;quoted&quot; &lt;name&gt;."' in page


def test_bytes_and_floats_look_the_same():
    shown = for_imshow(PICTURES[0])
    assert (shown == for_imshow(PICTURES[0].float() / 255)).all()
    assert shown.shape == (32, 32, 3)
    assert for_imshow(torch.rand(1, 4, 4)).shape == (4, 4)


def test_other_runs_are_a_band_behind_the_curve():
    others = [
        [dict(entry, val_accuracy=entry["val_accuracy"] + by) for entry in HISTORY] for by in (0.1, 0.3)
    ]
    figure = plot.finish(plot.learning_curves(HISTORY, EPOCHS, 10, others))
    assert figure.alt.endswith("accuracy on held-out images 50.0%. Our 2 runs had 60.0% to 80.0% there.")
    assert "Our 2" not in plot.finish(plot.learning_curves([], EPOCHS, 10, others)).alt
    alone = plot.finish(plot.learning_curves(HISTORY, EPOCHS, 10, others[:1])).alt
    assert alone.endswith("Our run had 60.0% there.")
