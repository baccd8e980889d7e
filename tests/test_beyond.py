"""Lesson 11's tasks: what they need, what they score, and that a run of one resumes and is evaluated."""

import dataclasses
import math
import re

import pytest
import torch
from runs import require_resumes

from vit_edu import boxes, cli, data, masks, models, plot, pretrained, training, transfer

TASKS = {"segmentation": "scenes", "detr": "scenes", "patch-detector": "scenes", "video": "clips"}


@pytest.fixture(scope="module")
def found():
    return {"scenes": data.scenes(train=120, test=40), "clips": data.clips(train=120, test=40)}


def tiny(name, **changes):
    changes = {"epochs": 2, "batch_size": 16, "optimizer": "muon", "zero_init": True} | changes
    return dataclasses.replace(training.RECIPES[f"fast-{name}"], **changes)


@pytest.mark.parametrize("name", TASKS)
def test_a_run_resumes_and_is_evaluated(found, name, tmp_path, capsys):
    images, recipe = found[TASKS[name]], tiny(name, average=0.5)
    whole, history = require_resumes(images, recipe, tmp_path)
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path), "--data", TASKS[name]]) == 0
    assert re.search(
        r"test (accuracy|mean IoU|average precision) [\d.]+% of (1,000|500)", capsys.readouterr().out
    )
    if TASKS[name] == "scenes":
        assert type(pretrained.load(tmp_path)) is type(whole)
    else:
        with pytest.raises(pretrained.WeightsError, match=r"reads clips.*training.load_run"):
            pretrained.load(tmp_path)
    assert "on held-out images" in plot.learning_curves(history, recipe, classes=4).axes[1].get_title()


@pytest.mark.parametrize("name", ["segmentation", "detr", "patch-detector"])
def test_data_without_targets_are_refused(name):
    images = data.shapes(train=20, test=0)
    with pytest.raises(
        ValueError, match=r"learns from .*these data have no '(mask|boxes)': use data that do"
    ):
        training.build_model(tiny(name), images)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("segmentation", {"mixup": 0.8}, "needs every pixel where it is: leave mixup out"),
        ("detr", {"cutout": 8}, "needs every object where it is: leave cutout out"),
        ("detr", {"model": {"kind": "vit"}}, 'needs a model of kind "detr" or "patch_detector", got \'vit\''),
        ("segmentation", {"model": {"kind": "dense"}}, 'needs a model of kind "segmenter"'),
    ],
)
def test_recipes_that_make_no_sense_are_refused(found, name, changes, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        training.build_model(tiny(name, **changes), found["scenes"])


def test_clips_are_not_mirrored_if_classes_name_a_side(found):
    with pytest.raises(ValueError, match="'right' is mirrored in half of the batches"):
        training.build_model(tiny("video", flip=True), found["clips"])
    speeds = data.clips(train=20, test=0, motion="speed")
    training.build_model(tiny("video", flip=True), speeds)


class Says(torch.nn.Module):
    """A model that answers the same, whatever it sees."""

    def __init__(self, *answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        answer = [values.expand(len(images), *values.shape[1:]) for values in self.answer]
        return answer[0] if len(answer) == 1 else tuple(answer)


def batches_of(images):
    return data.batches(images.test, 16, images.mean, images.std)


def test_all_background_is_right_for_most_pixels_and_no_object(found):
    images = found["scenes"]
    nothing = torch.zeros(1, 5, 32, 32)
    nothing[:, 0] = 1
    task = training.make_task(tiny("segmentation"), images)
    true = images.test.targets["mask"]
    share = (true == 0).float().mean().item()
    assert share > 0.8
    assert task.score(Says(nothing), batches_of(images)) == pytest.approx(share / 5)
    assert task.guessing == pytest.approx(math.log(5) + 1)


def test_the_truth_scores_one(found):
    """Answers made of the targets themselves, for one image."""
    scenes = found["scenes"]
    one = dataclasses.replace(scenes, test=scenes.test.pick(slice(0, 1)))
    true = one.test.targets
    logits = 9 * torch.nn.functional.one_hot(true["mask"].long(), 5).permute(0, 3, 1, 2).float()
    assert training.make_task(tiny("segmentation"), one).score(Says(logits), batches_of(one)) == 1
    task = training.make_task(tiny("detr"), one)
    labels, target_boxes = task.wanted(true, (32, 32))
    named = torch.nn.functional.one_hot(labels.where(labels >= 0, 4), 5).float()
    assert task.score(Says(9 * named, target_boxes), batches_of(one)) == 1
    assert task.score(Says(9 * named, target_boxes * 0.5), batches_of(one)) == 0


@pytest.mark.parametrize("by_place", [False, True])
def test_the_loss_of_a_detector_is_that_of_each_image(found, by_place):
    """The mean over a batch, put together image by image."""
    images = found["scenes"]
    task = training.make_task(tiny("patch-detector" if by_place else "detr"), images)
    model = training.build_model(task.recipe, images)
    batch, targets = next(batches_of(images))
    logits, answered = model(batch)
    labels, wanted = task.wanted(targets, (32, 32))
    objects = (labels >= 0).sum()
    naming = weights = apart = 0
    for i in range(len(batch)):
        here = labels[i] >= 0
        if by_place:
            cx, cy = (4 * wanted[i, here, :2]).long().T
            match = cy * 4 + cx
        else:
            match = boxes.match_queries(
                boxes.matching_cost(logits[i], answered[i], labels[i, here], wanted[i, here])
            )
        target = torch.full((logits.shape[1],), 4)
        target[match] = labels[i, here]
        weight = torch.where(target == 4, 0.1, 1.0)
        naming += (weight * -logits[i].log_softmax(-1)[torch.arange(len(target)), target]).sum()
        weights += weight.sum()
        ours, theirs = answered[i, match], wanted[i, here]
        apart += 5 * (ours - theirs).abs().sum()
        overlap = boxes.generalized_box_iou(boxes.to_corners(ours), boxes.to_corners(theirs)).diagonal()
        apart += 2 * (1 - overlap).sum()
    torch.testing.assert_close(task.loss(model, batch, targets), naming / weights + apart / objects)


def test_a_crop_that_removes_an_object_removes_its_class(found):
    task = training.make_task(tiny("detr"), found["scenes"])
    targets = {
        "boxes": torch.tensor([[[0.0, 0, 8, 16], [-1, -1, -1, -1]]]),
        "classes": torch.tensor([[2, 1]]),
    }
    labels, centres = task.wanted(targets, (32, 16))
    assert labels.tolist() == [[2, -1]]
    assert centres[0, 0].tolist() == [0.25, 0.25, 0.5, 0.5]


# ---------------------------------------------------------------- an encoder that has learned before


@pytest.mark.parametrize("kind", ["segmenter", "detr", "patch_detector"])
def test_encoders_are_handed_on(kind):
    start = pretrained.load("vit-cifar10")
    arguments = start.pretrained_cfg["model"] | {"kind": kind}
    model = models.make_model(arguments, (3, 32, 32), 5)
    others = {name: value.clone() for name, value in model.state_dict().items()}
    assert transfer.load_encoder(model, start) is model
    given = start.state_dict()
    for name, value in model.state_dict().items():
        same = name.startswith(transfer.ENCODER)
        assert torch.equal(value, (given if same else others)[name])
    x = torch.randn(2, 3, 32, 32)
    tokens = start.norm(start.blocks(models.vit.Embeddings.forward(start, x)))
    read = []
    (model.norm).register_forward_hook(lambda module, inputs, output: read.append(output))
    model.eval()(x)
    torch.testing.assert_close(read[0], tokens)


def test_encoders_of_other_sizes_are_refused():
    start = pretrained.load("vit-cifar10")
    model = models.Segmenter(patch_size=4, num_classes=5, embed_dim=32)
    with pytest.raises(ValueError, match=r"of this ViT does not fit into this Segmenter: .*same patch_size"):
        transfer.load_encoder(model, start)


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("decoder", models.segmenter.DECODERS)
@pytest.mark.parametrize("skip", [0, 4])
@pytest.mark.parametrize("global_pool", ["avg", "token"])
def test_segmenters_answer_for_every_pixel(decoder, skip, global_pool):
    model = models.Segmenter(
        (16, 24), 4, 3, 5, embed_dim=16, depth=1, decoder=decoder, skip=skip, global_pool=global_pool
    )
    x = torch.randn(2, 3, 16, 24)
    logits = model(x)
    assert logits.shape == (2, 5, 16, 24)
    masks.dice_loss(logits, torch.zeros(2, 16, 24)).backward()
    missing = {name for name, value in model.named_parameters() if value.grad is None}
    assert not missing


def test_a_pixel_of_a_patch_has_its_own_numbers():
    """The head's outputs lie in a patch as patchify lays out pixels, their classes side by side."""
    model = models.Segmenter(8, 4, 3, 2, embed_dim=16, depth=1)
    torch.nn.init.zeros_(model.head.weight)
    with torch.no_grad():
        model.head.bias.copy_(torch.arange(32.0))
    logits = model(torch.randn(1, 3, 8, 8))
    assert logits[0, :, 0, 0].tolist() == [0, 1]
    assert logits[0, :, 0, 1].tolist() == [2, 3]
    assert logits[0, :, 1, 0].tolist() == [8, 9]
    assert torch.equal(logits[..., :4, :4], logits[..., 4:, 4:])


def test_detectors_answer_with_boxes_inside():
    x = torch.randn(2, 3, 16, 24)
    for model in (models.Detr((16, 24), 4, num_queries=7), models.PatchDetector((16, 24), 4)):
        logits, found = model.eval()(x)
        queries = 7 if isinstance(model, models.Detr) else 24
        assert logits.shape == (2, queries, 5)
        assert found.shape == (2, queries, 4)
        assert 0 <= found.min() <= found.max() <= 1
    corner = found[0, :, :2] * torch.tensor([6, 4])  # in patches: each centre is in its own
    assert (corner.long() == torch.tensor([[i % 6, i // 6] for i in range(24)])).all()
    assert boxes.match_places(torch.zeros(1, 24, dtype=torch.int64), found[:1], (4, 6)).tolist() == [
        list(range(24))
    ]


def test_cross_attention_is_that_of_torch():
    ours, theirs = models.detr.CrossAttention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.weight.copy_(ours.proj.weight)
        theirs.out_proj.bias.copy_(ours.proj.bias)
    x, memory = torch.randn(2, 3, 16), torch.randn(2, 7, 16)
    torch.testing.assert_close(ours(x, memory), theirs(x, memory, memory)[0])


def test_unknown_decoders_and_attentions_are_refused():
    with pytest.raises(ValueError, match="there is no decoder 'conv'; there are pixels, linear, mask"):
        models.Segmenter(decoder="conv")
    with pytest.raises(ValueError, match="attention is 'joint' or 'factorised', got 'none'"):
        models.VideoViT(attention="none")
    with pytest.raises(ValueError, match="cannot be cut into tubelets of 3 frames"):
        models.VideoViT(frames=8, tubelet=3)
