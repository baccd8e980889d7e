"""A class for every pixel: intersection over union and the Dice loss, compared with pixels that are counted one by one."""

import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from wanted import library

from vit_edu import data
from vit_edu.masks import class_iou, dice_loss, mean_iou, tokens_to_map

torchmetrics = library("torchmetrics")


def drawn_cases(number=1000):
    """(predicted, masks, number of classes): other shapes, types and shares of right pixels in each, with some classes absent."""
    random = np.random.default_rng(0)
    for _ in range(number):
        classes = int(random.integers(1, 21))
        shape = tuple(random.integers(1, 9, size=random.integers(1, 5)))
        there = random.choice(classes, size=random.integers(1, classes + 1), replace=False)
        masks = random.choice(there, size=shape)
        predicted = np.where(
            random.random(shape) < random.random(), masks, random.integers(classes, size=shape)
        )
        kinds = [torch.uint8, torch.int64, torch.int32, torch.int16]
        kind = [kinds[i] for i in random.integers(len(kinds), size=2)]
        yield torch.from_numpy(predicted).to(kind[0]), torch.from_numpy(masks).to(kind[1]), classes


def counted_in_sets(predicted, masks, classes):
    """The numbers of `class_iou`, from sets of the places where each class is."""
    places = {}
    for side, values in (("predicted", predicted), ("true", masks)):
        for place, c in enumerate(values.flatten().tolist()):
            places.setdefault((side, c), set()).add(place)
    for c in range(classes):
        p, t = places.get(("predicted", c), set()), places.get(("true", c), set())
        yield len(p & t) / len(p | t) if p | t else math.nan


def test_intersection_over_union_of_1000_cases_counted_in_sets():
    seen = Counter()
    for predicted, masks, classes in drawn_cases():
        wanted = torch.tensor(list(counted_in_sets(predicted, masks, classes)))
        found = class_iou(predicted, masks, classes)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6, equal_nan=True)
        mean = mean_iou(predicted, masks, classes)
        assert mean == pytest.approx(wanted[~wanted.isnan()].double().mean().item(), abs=1e-6)
        for each in wanted.tolist():
            seen["absent" if math.isnan(each) else each if each in (0, 1) else "between"] += 1
    assert min(seen[kind] for kind in ("absent", 0, 1, "between")) > 300  # the cases are of all kinds


def test_intersection_over_union_of_1000_cases_beside_torchmetrics():
    jaccard = torchmetrics.functional.jaccard_index
    for predicted, masks, classes in drawn_cases():
        classes = max(2, classes)
        theirs = jaccard(predicted.long(), masks.long(), "multiclass", num_classes=classes, average="none")
        ours = class_iou(predicted, masks, classes).nan_to_num(
            0
        )  # theirs has 0 for a class that is in neither
        torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=1e-6)


def test_nothing_is_known_of_no_pixels():
    nothing = torch.zeros(0, 4, 4, dtype=torch.long)
    assert class_iou(nothing, nothing, 3).isnan().all()
    assert math.isnan(mean_iou(nothing, nothing, 3))


@pytest.mark.parametrize("at_fault", [-1, 3])
@pytest.mark.parametrize("where", [0, 1])
def test_a_class_beyond_the_list_is_an_error(at_fault, where):
    pair = [torch.zeros(2, 4, 4, dtype=torch.long) for _ in range(2)]
    pair[where][1, 2, 3] = at_fault
    with pytest.raises(ValueError, match="classes are whole numbers from 0 to 2, and others occur here"):
        class_iou(*pair, 3)


def test_logits_are_no_classes():
    said = "got (2, 3, 4, 4) and (2, 4, 4). From logits, take .argmax(dim=1)."
    with pytest.raises(ValueError, match=re.escape(said)):
        class_iou(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long), 3)


def counted_pixel_by_pixel(logits, masks, smooth):
    """The Dice loss, in Python's own numbers."""
    B, K, H, W = logits.shape
    both, predicted, true = [0.0] * K, [0.0] * K, [0.0] * K
    for i in range(B):
        for y in range(H):
            for x in range(W):
                pixel = logits[i, :, y, x].tolist()
                largest = max(pixel)
                shares = [math.exp(v - largest) for v in pixel]
                wanted = int(masks[i, y, x])
                true[wanted] += 1
                both[wanted] += shares[wanted] / sum(shares)
                for c in range(K):
                    predicted[c] += shares[c] / sum(shares)
    overlaps = [(2 * b + smooth) / (p + t + smooth) for b, p, t in zip(both, predicted, true, strict=True)]
    return 1 - sum(overlaps) / K


def test_the_dice_loss_of_1000_cases_pixel_by_pixel():
    random = torch.Generator().manual_seed(0)
    for case in range(1000):
        B, K, H, W = torch.randint(1, 6, (4,), generator=random).tolist()
        logits = torch.randn(B, K, H, W, generator=random).double() * (1, 10, 100)[case % 3]
        masks = torch.randint(K, (B, H, W), generator=random).to((torch.uint8, torch.int64)[case % 2])
        smooth = (1.0, 0.1, 10.0)[case // 3 % 3]
        wanted = counted_pixel_by_pixel(logits, masks, smooth)
        assert dice_loss(logits, masks, smooth).item() == pytest.approx(wanted, abs=1e-9)
        assert dice_loss(logits.float(), masks, smooth).item() == pytest.approx(wanted, abs=1e-5)


def test_the_dice_loss_counts_classes_where_cross_entropy_counts_pixels():
    masks = torch.zeros(1, 16, 16, dtype=torch.long)
    masks[0, 3, 3:6] = 1
    all_background = torch.stack([torch.full((1, 16, 16), 9.0), torch.full((1, 16, 16), -9.0)], dim=1)
    assert F.cross_entropy(all_background, masks) < 0.25
    assert dice_loss(all_background, masks) > 0.37
    perfect = all_background * torch.where(masks == 1, -1, 1)[:, None]
    assert dice_loss(perfect, masks) < 1e-6


def test_the_map_of_tokens_is_what_torchvision_makes_of_the_small_image():
    resize = library("torchvision.transforms.functional").resize
    tokens = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))
    for size in ((12, 16), (9, 16), (31, 5)):
        small = torch.stack([tokens[:, 4 * row : 4 * row + 4] for row in range(3)], dim=1)  # (B, 3, 4, K)
        wanted = resize(small.permute(0, 3, 1, 2), list(size), antialias=False)
        torch.testing.assert_close(tokens_to_map(tokens, (3, 4), size), wanted)


@pytest.mark.parametrize("shape", [(2, 13, 5), (12, 5), (2, 3, 4, 5)])
def test_tokens_that_do_not_fill_the_grid(shape):
    said = f"a grid of 3 x 4 patches has 12 tokens, (B, 12, K), got {shape}."
    with pytest.raises(ValueError, match=re.escape(said)):
        tokens_to_map(torch.zeros(shape), (3, 4), (8, 8))


def test_all_background_is_right_in_most_pixels_of_a_scene_and_in_few_classes():
    masks = data.scenes(64, 1).train.targets["mask"]
    nothing = torch.zeros_like(masks)
    ious = class_iou(nothing, masks, 5)
    assert (nothing == masks).float().mean() > 0.85
    torch.testing.assert_close(ious[0], (masks == 0).float().mean())
    assert ious[1:].tolist() == [0, 0, 0, 0]
    assert mean_iou(nothing, masks, 5) < 0.2
