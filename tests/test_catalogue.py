"""The catalogue: every entry is complete, right answers pass, known mistakes are named, mutants of the reference fail.

The figures over all exercises: `python benchmarks/catalogue.py`.
"""

import shutil
import subprocess
import sys

import alternatives
import mutation
import pytest
import torch

from benchmarks import catalogue
from vit_edu import boxes, check, masks, transfer
from vit_edu.check import report, texts
from vit_edu.check.catalogue.detection import BaseCrossAttention
from vit_edu.check.catalogue.vit import BaseViT, Suspect
from vit_edu.check.engine import variant
from vit_edu.models import costs, masked, swin, vit

NAMES = check.names()
ALTERNATIVES = [(n, a) for n in NAMES for a in alternatives.of(n)]
MISTAKES = [(n, m) for n in NAMES for m in check.get(n).mistakes]


@pytest.mark.parametrize("lesson", check.LESSONS)
def test_code_and_text_of_a_lesson_have_the_same_exercises(lesson):
    assert sorted(check.of_lesson(lesson)) == sorted(check.names(lesson))


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_complete_and_the_reference_passes(name):
    exercise = check.get(name)
    found = exercise.check(exercise.reference)
    assert found.passed, found.text
    assert len(found.checks) >= 3
    assert len({c.name for c in found.checks}) == len(found.checks)
    assert len(alternatives.of(name)) >= 3
    assert len(exercise.mistakes) >= 6
    assert len(exercise.hints) == 3
    assert texts.easily_made(name)  # it is among the mistakes, because that is how it is read
    assert len({m.diagnosis for m in exercise.mistakes}) == len(exercise.mistakes)
    for mistake in exercise.mistakes:
        assert 20 < len(mistake.diagnosis) < 330, mistake.name


@pytest.mark.parametrize(("name", "alternative"), ALTERNATIVES, ids=lambda x: getattr(x, "__name__", x))
def test_alternative_passes(name, alternative):
    found = check.run(name, alternative)
    assert found.passed, found.text


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=lambda x: getattr(x, "name", x))
def test_mistake_is_named(name, mistake):
    found = check.run(name, mistake.build)
    assert found.status in (report.WRONG, report.CRASHED), found.text
    assert found.diagnosis == mistake.diagnosis, found.text


@pytest.mark.parametrize(
    "name", ["count_parameters", "layer_norm", "learning_rate", "random_crop", "resize_pos_embed"]
)
def test_arguments_may_have_names_of_the_answers_own(name):
    reference = check.get(name).reference
    found = check.run(name, lambda *args: reference(*args))
    assert found.passed, found.text


def test_the_arguments_of_a_class_may_have_names_of_their_own_too():
    class Mlp(vit.Mlp):
        def __init__(self, width, hidden):
            super().__init__(width, hidden)

    assert check.run("Mlp", Mlp).passed


LABELS = torch.arange(4)

# Answers that once got the name of another fault, each with the name that is true for it. None is in the catalogue.
NEIGHBOURS = {
    "mean over images": ("pool", "mean_over_images", lambda x, how: x[:, 0] if how == "token" else x.mean(0)),
    "one block only": (
        "ViT",
        "OneBlock",
        variant(BaseViT, make_blocks=lambda _, d, n, h: vit.make_blocks(d, 1, h)),
    ),
    "stochastic depth": (
        "ViT",
        "DropoutBeforeHead",
        variant(BaseViT, make_blocks=lambda _, d, n, h: vit.make_blocks(d, n, h, 4.0, 0.1)),
    ),
    "no call": ("order_matters", "never_asked", lambda model, images, P: hasattr(model, "pos_embed")),
    "images for logits": (
        "order_matters",
        "images_compared",
        lambda model, images, P: not torch.equal(vit.patchify(images, P), vit.patchify(images, P).flip(1)),
    ),
    "the last image wins": (
        "batch_independent",
        "only_the_last",
        lambda model, x: [
            torch.allclose(model(x)[i], model(x[i : i + 1])[0], atol=1e-5) for i in range(len(x))
        ][-1],
    ),
    "labels twice": (
        "accuracy_is_a_share",
        "classes_for_logits",
        lambda metric: metric(LABELS.float(), LABELS) == 1 and metric(LABELS.float() + 1, LABELS) == 0,
    ),
    "softmax": (
        "RepairedViT",
        "Probabilities",
        variant(Suspect, forward=lambda self, x: Suspect.forward(self, x).exp().softmax(-1)),
    ),
    "a hidden layer in the head": (
        "RepairedViT",
        "NormAfterTheMean",
        variant(Suspect, pooled=lambda self, x: torch.nn.functional.gelu(x.mean(1))),
    ),
    "a class token that is there and read in both modes": (
        "ViT",
        "ClassTokenReadInBothModes",
        variant(BaseViT, class_token_always=True, pooled=lambda self, x: x.select(1, 0).clone()),
    ),
    "one vector for each of 64 images": (
        "RepairedViT",
        "OnePositionForEachImage",
        variant(
            Suspect,
            position_shape=lambda self, patches, dim: (64, 1, dim),
            encoded=lambda self, x: self.encoder(x + self.pos_embed[: len(x)]),
        ),
    ),
    "a change of one is none": ("order_matters", "order_too_tolerant", lambda *args: moved_by(*args) > 1),
    "a mean change of a tenth is none": (
        "order_matters",
        "order_too_tolerant",
        lambda *args: moved_by(*args, torch.mean) > 0.1,
    ),
    "a ten millionth is a change": (
        "order_matters",
        "next_to_no_tolerance",
        lambda *args: moved_by(*args, torch.norm) > 3e-7,
    ),
    "neighbours may change one": (
        "batch_independent",
        "too_tolerant",
        lambda model, x: (model(x) - torch.cat([model(i[None]) for i in x])).abs().max().item() < 1,
    ),
    "neighbours may change nothing": (
        "batch_independent",
        "hardly_any_room",
        lambda model, x: (model(x) - torch.cat([model(i[None]) for i in x])).abs().sum().item() < 1e-6,
    ),
    "random logits": (
        "accuracy_is_a_share",
        "only_the_bounds",
        lambda metric: 0 <= metric(torch.eye(8).roll(3, 1), torch.arange(8)) <= 1,
    ),
    "eval mode after train mode": (
        "train_step",
        "switched_to_eval",
        lambda model, optimizer, x, y: check.get("train_step")._wrong["mode_kept"](
            model.train().eval(), optimizer, x, y
        ),
    ),
    "right / 3": ("accuracy", None, lambda logits, labels: (logits.argmax(1) == labels).sum().item() / 3),
    "half of the batch": (
        "random_flip",
        "same_draw_each_time",
        lambda x: torch.cat([x[: len(x) // 2].flip(-1), x[len(x) // 2 :]]),
    ),
    "rows and columns of the matrix": (
        "conv_matrix",
        "flipped",
        lambda kernel, rows, cols: costs.conv_matrix(kernel, rows, cols).T,
    ),
    "each number of the kernel written once": (
        "conv_matrix",
        "next_row_continues",
        lambda kernel, rows, cols: written_along_the_line(kernel, rows, cols),
    ),
    "one layer without biases": (
        "layer_cost",
        "biases_left_out",
        lambda layer, tokens, dim, kernel=3, ratio=4: (
            costs.layer_cost(layer, tokens, dim, kernel, ratio)[0] - dim * (layer == "convolution"),
            costs.layer_cost(layer, tokens, dim, kernel, ratio)[1],
        ),
    ),
    "a third product of attention": (
        "layer_cost",
        None,
        lambda layer, tokens, dim, kernel=3, ratio=4: (
            costs.layer_cost(layer, tokens, dim, kernel, ratio)[0],
            costs.layer_cost(layer, tokens, dim, kernel, ratio)[1] + (layer == "attention") * tokens**2 * dim,
        ),
    ),
    "restored by the order, without argsort": (
        "random_masking",
        "restore_is_the_order",
        lambda noise, keep: (
            noise.topk(keep, largest=False).indices,
            noise.sort(dim=1).indices,
            (noise > noise.kthvalue(keep, dim=1, keepdim=True).values).float(),
        ),
    ),
    "chosen by a mask": (
        "encoder_input",
        "in_reading_order",
        lambda tokens, pos_embed, ids_keep: (tokens + pos_embed)[
            torch.zeros(tokens.shape[:2]).scatter(1, ids_keep, 1.0).bool()
        ].reshape(*ids_keep.shape, -1),
    ),
    "positions counted in the batch": (
        "encoder_input",
        "positions_after_dropping",
        lambda tokens, pos_embed, ids_keep: torch.stack(
            [x[ids] + pos_embed[0, torch.arange(len(ids))] for x, ids in zip(tokens, ids_keep, strict=True)]
        ),
    ),
    "positions in another order": (
        "decoder_input",
        None,
        lambda visible, ids_restore, mask_token, pos_embed: masked.decoder_input(
            visible, ids_restore, mask_token, pos_embed.flip(1)
        ),
    ),
    "mse_loss": (
        "masked_loss",
        "over_all_patches",
        lambda predicted, images, mask, patch_size: torch.nn.functional.mse_loss(
            predicted, masked.normalized_patches(images, patch_size)
        ),
    ),
    "twice the loss": (
        "masked_loss",
        None,
        lambda *arguments: 2 * masked.masked_loss(*arguments),
    ),
    "turned by transposing": (
        "rotate_batch",
        "clockwise",
        lambda images: (
            torch.cat([images, images.mT.flip(-1), images.flip(-1, -2), images.mT.flip(-2)]),
            torch.arange(4).repeat_interleave(len(images)),
        ),
    ),
    "brightness by rounded weights": (
        "colour_targets",
        None,
        lambda images, patch_size: coloured_by_rounded_weights(images, patch_size),
    ),
    "an encoder that grows": (
        "fair_probe",
        "encoder_trained",
        lambda encode, *others: transfer.fair_probe(grown(encode), *others),
    ),
    "batch norm on the test images": (
        "fair_probe",
        "test_statistics",
        lambda encode, *others: transfer.fair_probe(normalised_by_the_batch(encode), *others),
    ),
    "a thousand million for the strangers": (
        "shifted_window_mask",
        "another_number",
        lambda grid, window, shift: 1e7 * swin.shifted_window_mask(grid, window, shift),
    ),
    "half a window, if there is a shift": (
        "shifted_window_mask",
        "half_a_window",
        lambda grid, window, shift: swin.shifted_window_mask(grid, window, window // 2 if shift else 0),
    ),
    "labels that were not rolled": (
        "shifted_window_mask",
        "other_end",
        lambda grid, window, shift: apart_by_unrolled_labels(grid, window, shift),
    ),
    "rows and columns of the index": (
        "relative_position_index",
        "key_minus_query",
        lambda window: swin.relative_position_index(window).T,
    ),
    "neighbours in an order of their own": (
        "merge_patches",
        None,
        lambda x: torch.cat([x[:, p::2, q::2] for p, q in ((0, 1), (1, 0), (0, 0), (1, 1))], dim=-1),
    ),
    "maps put together and averaged": (
        "window_reverse",
        None,
        lambda windows, grid: swin.window_reverse(windows, grid).mean(0, keepdim=True),
    ),
    "half the cost": (
        "window_attention_cost",
        None,
        lambda grid, dim, window: costs.window_attention_cost(grid, dim, window) // 2,
    ),
    "patches drawn from right to left": (
        "tokens_to_map",
        None,
        lambda tokens, grid, image_size: masks.tokens_to_map(tokens, grid, image_size).flip(-1),
    ),
    "a little added below": (
        "class_iou",
        "zero_for_absent",
        lambda predicted, true, num_classes: torch.stack(
            [
                ((predicted == c) & (true == c)).sum() / (((predicted == c) | (true == c)).sum() + 1e-6)
                for c in range(num_classes)
            ]
        ),
    ),
    "a little added above and below": (
        "class_iou",
        "one_for_absent",
        lambda predicted, true, num_classes: torch.stack(
            [
                (((predicted == c) & (true == c)).sum() + 1e-7)
                / (((predicted == c) | (true == c)).sum() + 1e-7)
                for c in range(num_classes)
            ]
        ),
    ),
    "classes in reverse": (
        "class_iou",
        None,
        lambda predicted, true, num_classes: masks.class_iou(predicted, true, num_classes).flip(0),
    ),
    "twice the overlap": (
        "dice_loss",
        None,
        lambda logits, true, smooth=1.0: 2 * masks.dice_loss(logits, true, smooth) - 1,
    ),
    "columns of the one-hot numbers for rows": (
        "dice_loss",
        "one_hot_transposed",
        lambda logits, true, smooth=1.0: masks.dice_loss(
            logits,
            torch.nn.functional.one_hot(true, logits.shape[1]).permute(0, 3, 2, 1).argmax(1),
            smooth,
        ),
    ),
    "keys of the queries, by hand": (
        "CrossAttention",
        "KeysOfTheQueries",
        variant(
            BaseCrossAttention,
            three=lambda self, x, memory: (
                self.q(x),
                self.kv(x)[..., : x.shape[-1]],
                self.kv(memory)[..., x.shape[-1] :],
            ),
            attend=lambda self, q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v,
        ),
    ),
    "a smaller number in the union": (
        "box_iou",
        "added_to_the_union",
        lambda boxes1, boxes2: overlap_with_eps(boxes1, boxes2, 1e-7),
    ),
    "l1_loss with its own mean": (
        "set_loss",
        "mean_of_the_four",
        lambda *batch: loss_by_means(*batch),
    ),
    "detections sorted by NumPy, upwards": (
        "average_precision",
        "lowest_first",
        lambda scores, hits, objects: boxes.average_precision(-scores, hits, objects),
    ),
    "shares of one third": (
        "evaluate",
        "batches_all_right",
        lambda model, batches: all_right(model, batches),
    ),
}


def overlap_with_eps(boxes1, boxes2, eps):
    low, high = torch.max(boxes1[:, None, :2], boxes2[:, :2]), torch.min(boxes1[:, None, 2:], boxes2[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).prod(-1) for b in (boxes1, boxes2)]
    return both / (areas[0][:, None] + areas[1] - both + eps)


def loss_by_means(logits, found, labels, targets, match, no_object=0.1):
    image, row = torch.where(labels >= 0)
    one, other = found[image, match[image, row]], targets[image, row]
    wrong = 5 * (torch.nn.functional.l1_loss(one, other) if len(image) else 0)
    return (
        boxes.set_loss(logits, found, labels, targets, match, no_object)
        + wrong
        - 5 * (one - other).abs().sum() / max(1, len(image))
    )


def coloured_by_rounded_weights(images, patch_size):
    grey = (torch.tensor([0.3, 0.6, 0.1])[:, None, None] * images).sum(1, keepdim=True)
    return grey.expand_as(images), vit.patchify(images[:, ::2] - grey, patch_size)


def apart_by_unrolled_labels(grid, window, shift):
    row, col = (torch.arange(side) < shift for side in grid)
    labels = swin.window_partition((row[:, None] + 5 * col)[None, :, :, None], window).flatten(1)
    return torch.where(labels[:, None] == labels[:, :, None], 0.0, -100.0)


def grown(encode):
    for value in getattr(encode, "parameters", list)():
        value.data.mul_(1.5)
    return encode


def normalised_by_the_batch(encode):
    def features(images):
        x = encode(images).detach()
        return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-12).sqrt()

    return features


def moved_by(model, images, patch_size, size=torch.max):
    patches = vit.patchify(images, patch_size).flip(1)
    moved = vit.unpatchify(patches, patch_size, images.shape[-2:])
    return size((model(images) - model(moved)).abs()).item()


def all_right(model, batches):
    before = model.training
    model.eval()
    with torch.no_grad():
        right = [torch.equal(model(x).argmax(-1), y) for x, y in batches]
    model.train(before)
    return sum(right) / len(right)


def written_along_the_line(kernel, rows, cols):
    N, reach = rows * cols, len(kernel) // 2
    matrix = torch.zeros(N, N)
    for i in range(N):
        for a in range(len(kernel)):
            for b in range(len(kernel)):
                j = i + (a - reach) * cols + b - reach
                if 0 <= j < N:
                    matrix[i, j] = kernel[a, b]
    return matrix


@pytest.mark.parametrize("case", NEIGHBOURS)
def test_a_name_is_true_for_what_gets_it(case):
    name, wanted, answer = NEIGHBOURS[case]
    named = {m.diagnosis: m.name for m in check.get(name).mistakes}
    found = check.run(name, answer)
    assert not found.passed
    assert named.get(found.diagnosis) == wanted, found.text


@pytest.mark.parametrize("name", NAMES)
def test_no_two_mistakes_look_alike(name):
    assert catalogue.alike(check.get(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_mutants_of_the_reference_fail(name):
    total, passed = mutation.survivors(check.get(name))
    assert total >= 5
    assert [p for p in passed if p not in mutation.EXPLAINED.get(name, {})] == []


@pytest.mark.parametrize("name", mutation.EXPLAINED)
def test_explained_mutants_exist(name):
    made = {what for what, _ in mutation.mutants(check.get(name).reference)}
    assert mutation.EXPLAINED[name].keys() <= made


def test_an_exercise_loads_only_its_own_lesson():
    code = """
import sys
from vit_edu import check
check.names()
before = [m for m in sys.modules if m.startswith("vit_edu.check.catalogue.")]
check.get("count_patches")
print(before, [m for m in sys.modules if m.startswith("vit_edu.check.catalogue.")])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[] ['vit_edu.check.catalogue.start_here']"


def test_lessons_load_nothing_heavy():
    heavy = ("torchvision", "PIL", "matplotlib", "scipy", "pandas", "IPython")
    code = (
        "import sys; from vit_edu import check; [check.of_lesson(lesson) for lesson in check.LESSONS]; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


# ---------------------------------------------------------------- README.md


def test_the_readme_has_the_numbers_of_the_catalogue():
    text = (catalogue.ROOT / "README.md").read_text(encoding="utf-8")
    start, end = catalogue.between_markers(text)
    total = catalogue.summed([catalogue.counts(check.get(n)) for n in NAMES])
    part = text[start:end].splitlines()
    remedy = "run `python benchmarks/catalogue.py --readme`"
    assert catalogue.readme_head(len(NAMES), total) in part, remedy
    for row, column in (
        ("right answers", "alternatives"),
        ("known mistakes", "mistakes"),
        ("... and", "mistakes"),
    ):
        line = next(line for line in part if line.startswith(f"| {row}"))
        assert line.endswith(f" of {total[column]} |"), remedy


def test_what_is_written_to_the_readme_is_found_there_again(tmp_path, monkeypatch):
    figures = dict.fromkeys(catalogue.COLUMNS, 3) | {"alike": [("a", "b")], "survivors": [], "seconds": 0.25}
    start, end = catalogue.MARKERS
    (tmp_path / "README.md").write_text(f"before\n{start}\nold\n{end}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    catalogue.write_readme({"patchify": figures, "pool": figures}, "5 s, a machine")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"before\n{start}\n\nWhat the checks know")
    assert text.endswith(f"| slowest first answer | 0.25 s |\n\n{end}\nafter\n")
    assert "| 2 exercises, 6 checks | |" in text
    assert "| known mistakes, rejected | 6 of 6 |" in text
    assert "| pairs of mistakes that look alike | 2 |" in text
    (tmp_path / "README.md").write_text("nothing to fill in", encoding="utf-8")
    with pytest.raises(SystemExit, match="no part between the lines"):
        catalogue.write_readme({"patchify": figures}, "")


# ---------------------------------------------------------------- texts

TEXTS = sorted(texts.FOLDER.glob("*/*.md"))


@pytest.mark.parametrize("file", TEXTS, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_every_text_is_that_of_a_lesson(file):
    number, _, name = file.stem.partition("_")
    assert check.LESSONS.get(number) == name
    assert texts.translation(file.parent.name, number)


ENGLISH = """# 01 Patches

For the readers of this file.

## patchify

1. A nudge.
2. The idea,
   on two lines.
3. `x = 1`\\
       `y = 2`

### strip

A strip of pixels,
not a square.

> Ask where
> pixel 4 is.

### column (easily made)

In columns.

> Draw it.

## unpatchify

1. One.
2. Two.
3. ```
   if ...:
       return x

   ## not a heading
   ```
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A course of one lesson; `write(language, text)` gives it another text."""
    monkeypatch.setattr(texts, "FOLDER", tmp_path / "text")
    monkeypatch.setenv("VIT_EDU_LANG", "en")

    def write(language, text):
        file = tmp_path / "text" / language / "01_patches.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        texts._read.cache_clear()
        texts._contents.cache_clear()

    write("en", ENGLISH)
    yield write
    texts._read.cache_clear()


def test_a_text_is_read_as_it_was_meant(folder):
    assert texts.lessons() == {"01": "patches"}
    assert texts.exercises() == {"patchify": "01", "unpatchify": "01"}
    assert texts.hints("patchify") == ("A nudge.", "The idea, on two lines.", "`x = 1`\n    `y = 2`")
    assert texts.hints("unpatchify")[2] == "if ...:\n    return x\n\n## not a heading"
    assert texts.mistake("patchify", "strip") == ("A strip of pixels, not a square.", "Ask where pixel 4 is.")
    assert texts.mistakes("patchify", {"column", "strip"}) == ["strip", "column"]
    assert texts.easily_made("patchify") == "column"
    assert texts.easily_made("unpatchify") == ""


def test_another_language_is_used_as_far_as_it_goes(folder, monkeypatch):
    folder("xx", "## patchify\n\n### column\n\nⁿ colums.\n\n> Đraw.\n\n## unpatchify\n\n1. A\n2. B\n3. C\n")
    monkeypatch.setenv("VIT_EDU_LANG", "xx_YY")
    assert texts.mistake("patchify", "column") == ("ⁿ colums.", "Đraw.")
    assert texts.mistake("patchify", "strip")[1] == "Ask where pixel 4 is."
    assert texts.hints("patchify")[0] == "A nudge."
    assert texts.hints("unpatchify") == ("A", "B", "C")
    assert texts.mistakes("patchify", {"column", "strip"}) == ["strip", "column"]


def test_a_learner_reads_another_language(tmp_path, monkeypatch):
    shutil.copytree(texts.FOLDER / "en", tmp_path / "text" / "en")
    (tmp_path / "text" / "xx").mkdir()
    (tmp_path / "text" / "xx" / "01_patches.md").write_text(
        "## patchify\n\n1. Ôné.\n2. Twô.\n3. Thréé.\n\n### reshape_only\n\nÂ strîp.\n\n> Âsk.\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(texts, "FOLDER", tmp_path / "text")
    monkeypatch.setenv("VIT_EDU_LANG", "xx")
    wrong = {m.name: m for m in check.get("patchify").mistakes}
    assert check.run("patchify", wrong["reshape_only"].build).diagnosis == "Â strîp."
    assert wrong["reshape_only"].talk == "Âsk."
    assert "Ôné." in check.hint("patchify", 1).text
    assert "The patches are numbered down" in check.run("patchify", wrong["column_order"].build).diagnosis


def test_a_mistake_has_one_name_and_one_code():
    exercise = check.Exercise(len, name="length")
    exercise.add_mistakes(zero=lambda x: 0)
    with pytest.raises(ValueError, match="length has two mistakes called zero"):
        exercise.add_mistakes(zero=lambda x: 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("In columns.", "", r"text/en/01_patches.md, patchify, column: the diagnosis is empty"),
        ("> Draw it.", "Draw it.", r"text/en/01_patches.md, patchify, column: there is no talking point"),
        ("### column", "### strip", r"text/en/01_patches.md, patchify, strip: there are two such sections"),
        ("## unpatchify", "## patchify", r"text/en/01_patches.md, patchify: there are two such sections"),
        (
            "1. A nudge.",
            "A nudge.",
            r"text/en/01_patches.md, patchify: 'A nudge.' comes before the first hint",
        ),
        ("A nudge.", "", r"text/en/01_patches.md, patchify: hint 1 is empty"),
        (
            "1. One.\n2. Two.\n3. ```\n   if",
            "```\n   if",
            r"01_patches.md, unpatchify: '```' comes before the first",
        ),
        ("## patchify", "", r"text/en/01_patches.md: '### strip' comes before the first exercise"),
        (
            "### strip",
            "### strip (easily made)",
            r"text/en/01_patches.md, patchify: strip and column are both marked with '\(easily made\)'",
        ),
        ("### strip", "### a strip", r"text/en/01_patches.md: '### a strip' is not the name"),
    ],
)
def test_what_is_wrong_with_a_text_is_named(folder, old, new, message):
    folder("en", ENGLISH.replace(old, new, 1))
    with pytest.raises(texts.TextError, match=message):
        texts.exercises()


def test_missing_and_unused_sections_are_named(folder):
    with pytest.raises(
        texts.TextError, match=r"01_patches.md, patchify: no section for turned. .*'### turned'"
    ):
        texts.mistakes("patchify", ["strip", "column", "turned"])
    with pytest.raises(
        texts.TextError, match=r"01_patches.md, patchify: there is no mistake called column in"
    ):
        texts.mistakes("patchify", ["strip"])
    with pytest.raises(texts.TextError, match=r"text/en has a section called fold"):
        texts.hints("fold")
    with pytest.raises(texts.TextError, match=r"01_patches.md, patchify: no section for turned"):
        texts.mistake("patchify", "turned")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("## fold\n", "text/xx/01_patches.md, fold: the lesson has no such exercise"),
        (
            "## patchify\n### bent\nA\n> B\n",
            "text/xx/01_patches.md, patchify: there is no mistake called bent",
        ),
        ("## patchify\n1. One\n2. Two\n", "text/xx/01_patches.md, patchify: 2 hints, but there are 3"),
    ],
)
def test_what_a_translation_must_not_contain_is_named(folder, text, message):
    folder("xx", text)
    with pytest.raises(texts.TextError, match=message):
        texts.translation("xx", "01")
    assert texts.problems("xx")[0].startswith(message)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"## patchify\n\n### column\n\nSpalten.\n\n> Male.\n\n## fold\n",
            "fold: the lesson has no such exercise",
        ),
        (b"## patchify\n\n### column\n\nSpalten.\n", "patchify, column: there is no talking point"),
        ("## patchify\n\n1. Zähle.\n".encode("latin-1"), "01_patches.md cannot be read: 'utf-8' codec"),
    ],
    ids=["too much", "too little", "not UTF-8"],
)
def test_a_learner_with_a_faulty_translation_reads_english(folder, tmp_path, monkeypatch, content, says):
    folder("xx", "")
    (tmp_path / "text" / "xx" / "01_patches.md").write_bytes(content)
    (tmp_path / "text" / "xx" / "1_patches.md").write_bytes(b"")
    monkeypatch.setenv("VIT_EDU_LANG", "xx")
    assert texts.mistake("patchify", "column") == ("In columns.", "Draw it.")
    assert texts.hints("patchify")[0] == "A nudge."
    name, fault = texts.problems("xx")
    assert name == "text/xx/1_patches.md: no lesson has a text of this name."
    assert says in fault
    assert texts.problems("yy") == []
