"""Boxes, their overlap, matching and average precision, against torchvision, SciPy, pycocotools and plain loops."""

import contextlib
import io
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision import ops
from wanted import library

from vit_edu import boxes

coco = library("pycocotools.coco")
cocoeval = library("pycocotools.cocoeval")

CASES = 1000


def drawn(*shape, seed, side=1.0):
    """Boxes by middle and size, inside and across the border of a square of this side."""
    generator = torch.Generator().manual_seed(seed)
    middle, size = torch.rand(2, *shape, 2, generator=generator, dtype=torch.float64)
    return side * torch.cat([middle, 0.02 + 0.6 * size], dim=-1)


# ---------------------------------------------------------------- formats and overlap


def test_formats_are_those_of_torchvision():
    given = drawn(CASES, 3, seed=0)
    assert torch.equal(boxes.to_corners(given), ops.box_convert(given, "cxcywh", "xyxy"))
    corners = ops.box_convert(given, "cxcywh", "xyxy")
    assert torch.equal(boxes.to_centres(corners), ops.box_convert(corners, "xyxy", "cxcywh"))
    torch.testing.assert_close(boxes.to_centres(boxes.to_corners(given)), given)


@pytest.mark.parametrize("name", ["box_iou", "generalized_box_iou"])
@pytest.mark.parametrize("side", [1.0, 640.0])
def test_overlap_is_that_of_torchvision(name, side):
    """40 boxes with 50: each pair is a case."""
    ours, theirs = getattr(boxes, name), getattr(ops, name)
    first, second = (boxes.to_corners(drawn(count, seed=count, side=side)) for count in (40, 50))
    found = ours(first, second)
    assert found.numel() >= CASES
    assert 0.02 < (found > 0).double().mean() < 0.9
    torch.testing.assert_close(found, theirs(first, second))
    # With an axis in front
    one, other = first.reshape(10, 4, 4), second.reshape(10, 5, 4)
    each = torch.stack([theirs(a, b) for a, b in zip(one, other, strict=True)])
    torch.testing.assert_close(ours(one, other), each)


def test_overlap_counted_pixel_by_pixel():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        ends = torch.rand(2, 2, 9, generator=generator).topk(2, dim=-1).indices.sort(dim=-1).values
        masks = torch.zeros(2, 9, 9, dtype=torch.bool)
        for mask, (x, y) in zip(masks, ends.tolist(), strict=True):
            mask[y[0] : y[1], x[0] : x[1]] = True
        rows, cols = (masks.any(0).any(axis).nonzero() for axis in (1, 0))
        hull = (rows.max() - rows.min() + 1) * (cols.max() - cols.min() + 1)
        both, either = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
        first, second = ends.mT.reshape(2, 1, 4).float()  # x1, y1, x2, y2
        assert boxes.box_iou(first, second).item() == pytest.approx((both / either).item())
        wanted = both / either - (hull - either) / hull
        assert boxes.generalized_box_iou(first, second).item() == pytest.approx(wanted.item(), abs=1e-6)


def test_boxes_without_area_have_no_nan():
    flat = torch.tensor([[1.0, 1, 1, 1], [0, 1, 3, 1], [2, 0, 2, 2]], requires_grad=True)
    wide = torch.tensor([[0.0, 0, 4, 4], [1, 1, 1, 1]])
    assert torch.equal(boxes.box_iou(flat, wide), torch.zeros(3, 2))
    found = boxes.generalized_box_iou(flat, wide)
    assert torch.equal(found, torch.tensor([[0.0, 0], [0, 0], [0, -1]]))
    found.sum().backward()
    assert not flat.grad.isnan().any()


# ---------------------------------------------------------------- a set as the answer


def test_the_match_is_the_best_of_all():
    generator = torch.Generator().manual_seed(0)
    for case in range(CASES):
        queries, objects = 1 + case % 5, min(1 + case % 3, 1 + case % 5)
        cost = torch.randn(queries, objects, generator=generator)
        if not case % 4:
            cost = cost.round()  # several are equally good
        match = boxes.match_queries(cost)
        assert match.dtype == torch.int64
        assert len(set(match.tolist())) == objects
        rows = cost.tolist()
        sums = {
            chosen: sum(rows[q][j] for j, q in enumerate(chosen))
            for chosen in itertools.permutations(range(queries), objects)
        }
        assert sums[tuple(match.tolist())] == pytest.approx(min(sums.values()), abs=1e-5)


def test_more_objects_than_queries_are_refused():
    with pytest.raises(ValueError, match="2 queries cannot answer for 3 objects"):
        boxes.match_queries(torch.zeros(2, 3))


def image(seed, queries=6, objects=4, classes=3, unused=1):
    """Logits, boxes, labels and boxes of the objects of 2 images, the last rows of the second unused."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (2, objects), generator=generator)
    labels[1, objects - unused :] = boxes.UNUSED
    logits = torch.randn(2, queries, classes + 1, generator=generator)
    targets = drawn(2, objects, seed=seed + 1).float()
    targets[labels == boxes.UNUSED] = -1
    return logits, drawn(2, queries, seed=seed + 2).float(), labels, targets


def test_the_cost_is_the_sum_of_its_terms():
    for seed in range(20):
        logits, found, labels, targets = image(seed, unused=0)
        cost = boxes.matching_cost(logits, found, labels, targets)
        assert cost.shape == (2, 6, 4)
        for b, q, j in itertools.product(range(2), range(6), range(4)):
            giou = ops.generalized_box_iou(
                *(ops.box_convert(x[None], "cxcywh", "xyxy") for x in (found[b, q], targets[b, j]))
            ).item()
            wanted = -logits[b, q].softmax(0)[labels[b, j]].item() - 2 * giou
            wanted += 5 * (found[b, q] - targets[b, j]).abs().sum().item()
            assert cost[b, q, j].item() == pytest.approx(wanted, abs=1e-5)


def test_the_loss_is_the_sum_of_its_terms_whatever_stands_in_unused_rows():
    for seed in range(20):
        logits, found, labels, targets = image(seed, unused=1 + seed % 4)
        match = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(seed))[:4]] * 2)
        loss = boxes.set_loss(logits, found, labels, targets, match, 0.2)
        naming, weights, terms, objects = 0.0, 0.0, 0.0, 0
        for b in range(2):
            wanted = {match[b, j].item(): j for j in range(4) if labels[b, j] != boxes.UNUSED}
            for q in range(6):
                label, weight = (labels[b, wanted[q]], 1.0) if q in wanted else (torch.tensor(3), 0.2)
                naming += weight * F.cross_entropy(logits[b, q], label).item()
                weights += weight
            for q, j in wanted.items():
                loss_of_box = ops.generalized_box_iou_loss(
                    *(ops.box_convert(x[None], "cxcywh", "xyxy") for x in (found[b, q], targets[b, j]))
                )
                terms += 5 * (found[b, q] - targets[b, j]).abs().sum().item() + 2 * loss_of_box.item()
                objects += 1
        assert loss.item() == pytest.approx(naming / weights + terms / objects, rel=1e-5)
        other = targets.where(labels[..., None] != boxes.UNUSED, 0.5), match.where(labels != boxes.UNUSED, 3)
        assert torch.equal(loss, boxes.set_loss(logits, found, labels, *other, 0.2))


# ---------------------------------------------------------------- average precision


def detector(case):
    """(scores, hits, number of objects): some scores are equal. With 100 objects, recalls are those that are read."""
    generator = np.random.default_rng(case)
    objects, count = generator.integers(1, 41), generator.integers(0, 31)
    if case % 25 == 0:
        objects, count = 100, 100  # COCO looks at no more boxes in an image
    scores = generator.random(count)
    if case % 3 == 0:
        scores = scores.round(1)
    hits = generator.random(count) < generator.random()
    hits &= hits.cumsum() <= objects
    return scores, hits, int(objects)


def by_coco(cases, threshold=0.5):
    """COCOeval's average precision of each case, a class of its own in one image. A hit is the box of an object, an error none."""
    truth, found = [], []
    for case, (scores, hits, objects) in enumerate(cases):
        for j in range(objects):
            truth.append({"bbox": [20 * j, 0, 10, 10], "category_id": case + 1})
        column = iter(range(objects))
        for i, (score, hit) in enumerate(zip(scores, hits, strict=True)):
            place = [20 * next(column), 0] if hit else [20 * i, 100]
            found.append({"bbox": [*place, 10, 10], "category_id": case + 1, "score": float(score)})
    for number, box in enumerate(truth, start=1):
        box |= {"id": number, "image_id": 1, "area": 100, "iscrowd": 0}
    for box in found:
        box |= {"image_id": 1}
    return coco_precision(truth, found, len(cases), threshold)


def coco_precision(truth, found, classes, threshold):
    """(classes,): COCOeval's average precision of each class."""
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco.COCO()
        dataset.dataset = {
            "images": [{"id": i} for i in sorted({b["image_id"] for b in truth})],
            "categories": [{"id": label + 1} for label in range(classes)],
            "annotations": truth,
        }
        dataset.createIndex()
        judge = cocoeval.COCOeval(dataset, dataset.loadRes(found), "bbox")
        judge.params.iouThrs = np.array([threshold])
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][0, :, :, 0, -1].mean(axis=0)  # (recalls, classes) -> (classes,)


def test_average_precision_is_that_of_coco():
    cases = [detector(case) for case in range(CASES)]
    ours = [boxes.average_precision(torch.tensor(s), torch.tensor(h), n) for s, h, n in cases]
    np.testing.assert_allclose(ours, by_coco(cases), atol=1e-9)


def test_mean_average_precision_is_that_of_coco():
    """Random boxes around random objects in 200 images of 3 classes; now the overlap decides what is a hit."""
    generator = torch.Generator().manual_seed(0)
    found, wanted, truth, guesses = [], [], [], []
    for number in range(1, 201):
        count = int(torch.randint(1, 4, (), generator=generator))
        targets = drawn(count, seed=number, side=32.0).float()
        near = targets.repeat(2, 1) + 1.5 * torch.randn(2 * count, 4, generator=generator)
        near[:, 2:].clamp_(min=1)
        labels = torch.randint(3, (count,), generator=generator)
        guessed = labels.repeat(2).where(
            torch.rand(2 * count, generator=generator) < 0.8,
            torch.randint(3, (2 * count,), generator=generator),
        )
        scores = torch.rand(2 * count, generator=generator)
        wanted.append({"boxes": boxes.to_corners(targets), "labels": labels})
        found.append({"boxes": boxes.to_corners(near), "labels": guessed, "scores": scores})
        for box, label in zip(boxes.to_corners(targets).double(), labels.tolist(), strict=True):
            x1, y1, x2, y2 = box.tolist()
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": number,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "category_id": label + 1,
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
        for box, label, score in zip(
            boxes.to_corners(near).double(), guessed.tolist(), scores.tolist(), strict=True
        ):
            x1, y1, x2, y2 = box.tolist()
            guesses.append(
                {
                    "image_id": number,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "category_id": label + 1,
                    "score": score,
                }
            )
    ours = boxes.mean_average_precision(found, wanted, 3)
    assert 0.2 < ours.mean() < 0.9
    np.testing.assert_allclose(ours, coco_precision(truth, guesses, 3, 0.5), atol=1e-6)


def test_average_precision_worked_out_by_hand():
    found = boxes.average_precision(torch.tensor([0.7, 0.9, 0.8]), torch.tensor([True, True, False]), 2)
    assert found == pytest.approx((51 + 50 * 2 / 3) / 101)
    nothing = torch.zeros(0), torch.zeros(0, dtype=torch.bool)
    assert boxes.average_precision(*nothing, 3) == 0
    assert math.isnan(boxes.average_precision(*nothing, 0))
