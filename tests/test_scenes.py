"""Scenes of several objects and clips of one that moves (lesson 11): what is known about them is what is drawn."""

import importlib
import math

import pytest
import torch
from scipy import ndimage
from torchvision import ops

from vit_edu import data
from vit_edu.data.scenes import KINDS, MOTIONS, SPEEDS


def objects_of(mask):
    """(K, H, W), bool: the connected parts of a mask, with the class of each, -1 if it holds several."""
    parts, count = ndimage.label(mask.numpy() > 0, structure=[[1, 1, 1]] * 3)
    found = torch.stack([torch.from_numpy(parts == k + 1) for k in range(count)])
    classes = [mask[part].unique() for part in found]
    return found, torch.tensor([int(c) - 1 if len(c) == 1 else -1 for c in classes])


def box_around(masks):
    """(K, H, W), none empty -> (K, 4). torchvision's x2 and y2 are the last pixel, not the far edge of it."""
    return ops.masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])


# ---------------------------------------------------------------- scenes


def test_the_same_seed_gives_the_same_scenes():
    a, b, c = data.scenes(20, 10, seed=3), data.scenes(20, 10, seed=3), data.scenes(20, 10, seed=4)
    for part in ("train", "test"):
        one, same, other = (getattr(d, part) for d in (a, b, c))
        assert torch.equal(one.images, same.images)
        assert torch.equal(one.labels, same.labels)
        assert all(torch.equal(one.targets[name], same.targets[name]) for name in one.targets)
        assert not torch.equal(one.images, other.images)
    assert not torch.equal(a.train.images[:10], a.test.images)


@pytest.mark.parametrize(("size", "seed"), [(32, 0), (64, 1), (96, 2)])
def test_masks_boxes_and_classes_agree_pixel_by_pixel(size, seed):
    split = data.scenes(120, 1, size, seed, objects=(1, 4)).train
    for mask, boxes, classes, label in zip(*split.targets.values(), split.labels, strict=True):
        found, theirs = objects_of(mask)
        used = classes >= 0
        assert torch.equal(used, boxes[:, 0] >= 0)
        assert (boxes[~used] == -1).all()
        expected = sorted(zip(box_around(found).tolist(), theirs.tolist(), strict=True))
        assert sorted(zip(boxes[used].tolist(), classes[used].tolist(), strict=True)) == expected
        assert used[0]
        assert classes[0] == label


def test_the_mask_is_where_the_image_differs_from_its_background():
    split = data.scenes(120, 1, 64, seed=5).train
    images = split.images.float()
    difference = (images - images.flatten(2).median(dim=2).values[..., None, None]).mean(dim=1)  # (N, H, W)
    mask = split.targets["mask"] > 0
    found = []
    for pixels, inside, boxes in zip(difference, mask, split.targets["boxes"], strict=True):
        for x1, y1, x2, y2 in boxes[boxes[:, 0] >= 0].int().tolist():
            part, truth = pixels[y1:y2, x1:x2], inside[y1:y2, x1:x2]
            level = part[truth].median()
            if level > 70:
                seen = part > level / 2
                found.append(((seen & truth).sum() / (seen | truth).sum()).item())
        away = torch.nn.functional.max_pool2d(inside[None].float(), 5, 1, 2)[0] == 0
        assert pixels[away].abs().mean() < 15
    assert len(found) > 200
    assert min(found) > 0.88
    assert sum(found) / len(found) > 0.95  # a mask that is a pixel off comes to 0.85


@pytest.mark.parametrize("kinds", [KINDS, data.SHAPES])
def test_no_object_hides_another(kinds):
    """Each tight box still touches pixels of its class on all four sides."""
    split = data.scenes(150, 1, 64, 0, objects=(3, 5), kinds=kinds).train
    boxes, mask = split.targets["boxes"], split.targets["mask"]
    for each, inside, classes in zip(boxes, mask, split.targets["classes"], strict=True):
        for (x1, y1, x2, y2), k in zip(each.int().tolist(), classes.tolist(), strict=True):
            if k >= 0:
                own = inside[y1:y2, x1:x2] == k + 1
                assert all(side.any() for side in (own[0], own[-1], own[:, 0], own[:, -1]))


def test_objects_that_would_touch_are_left_out(monkeypatch):
    """If places are drawn as if shapes were points, many would overlap."""
    module = importlib.import_module("vit_edu.data.scenes")  # data.scenes is its function
    drawn = []
    ink_of, apart = module._ink, module._apart

    def ink(*args):
        drawn.append(ink_of(*args))
        return drawn[-1]

    monkeypatch.setattr(module, "_ink", ink)
    monkeypatch.setattr(module, "_apart", lambda reach, *more: apart(reach * 0.3, *more))
    split = data.scenes(60, 0, objects=(3, 3)).train
    inside = torch.stack(drawn[:3], dim=1) > 0.5  # (N, 3, H, W)
    there = split.targets["classes"] >= 0  # (N, 3)
    assert (inside.sum(1) > 1).flatten(1).any(1).sum() > 20
    assert (inside & there[..., None, None]).sum(1).max() == 1
    assert 20 < (~there).sum() < 120
    assert there[:, 0].all()


def test_the_number_of_objects():
    for least, most in ((1, 1), (2, 2), (1, 3)):
        classes = data.scenes(300, 1, 64, objects=(least, most)).train.targets["classes"]
        count = (classes >= 0).sum(dim=1)
        assert classes.shape == (300, most)
        assert (count == least).sum() > 50
        assert count.max() == most
        assert (count < least).sum() < 10  # those without room
    together = torch.bincount(classes[classes >= 0], minlength=4)
    assert together.min() > 0.2 * together.sum()


def test_a_first_object_that_no_pixel_shows_keeps_its_label():
    split = data.scenes(3000, 1, size=6, objects=(1, 1)).train
    nothing = split.targets["classes"][:, 0] < 0
    assert nothing.sum() > 10
    assert (split.targets["mask"].flatten(1).amax(1) == 0)[nothing].all()
    assert len(split.labels[nothing].unique()) > 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"train": -1}, "train is at least 0, got -1"),
        ({"size": 0}, "size is at least 1"),
        ({"objects": (0, 2)}, r"at least one object, got \(0, 2\)"),
        ({"objects": (3, 2)}, r"at least one object, got \(3, 2\)"),
        ({"kinds": ("circle", "hexagon")}, "no shape called 'hexagon'"),
        ({"kinds": ("circle",)}, "at least two different shapes"),
        ({"kinds": ("circle", "circle")}, "at least two different shapes"),
    ],
)
def test_scenes_that_make_no_sense_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        data.scenes(**{"train": 2, "test": 2} | wrong)


# ---------------------------------------------------------------- flips and crops


@pytest.mark.parametrize(("flip", "padding"), [(True, 0), (False, 20), (True, 20)])
def test_masks_boxes_and_classes_move_with_the_scene(flip, padding):
    split = data.scenes(120, 1, seed=6).train
    boxes, classes = split.targets["boxes"], split.targets["classes"]
    rows = torch.arange(32)
    y, x = rows[:, None] + 0.5, rows + 0.5
    left, top, right, bottom = boxes[..., None, None, :].unbind(-1)
    within = (x > left) & (x < right) & (y > top) & (y < bottom)  # (N, M, H, W)
    alone = within & (split.targets["mask"][:, None] == (classes + 1)[..., None, None])
    torch.manual_seed(0)
    images, moved = data.flip_and_crop(split.images, split.targets, flip, padding)
    torch.manual_seed(0)
    _, each = data.flip_and_crop(split.images, {"mask": alone.byte()}, flip, padding)
    torch.manual_seed(0)
    _, areas = data.flip_and_crop(split.images, {"mask": within.byte()}, flip, padding)
    masks, areas = each["mask"].bool(), areas["mask"].bool()  # (N, M, H, W)

    left = (areas.flatten(2).any(2)) & (classes >= 0)
    assert torch.equal(moved["boxes"][..., 0] >= 0, left)
    assert torch.equal(moved["classes"], classes.where(left, -1))
    gone = ((classes >= 0) & ~left).sum()
    assert (gone > 3) if padding else (gone == 0)
    # Where all of an object is left, its box is as tight as before, and else what is left of it is inside the box
    assert torch.equal(moved["boxes"][left], box_around(areas[left]))
    whole = left & (masks.sum((2, 3)) == alone.sum((2, 3)))
    assert whole.sum() > 50
    assert torch.equal(moved["boxes"][whole], box_around(masks[whole]))
    # The mask holds the same objects, and is background where the image is empty
    everything = (masks * (classes + 1)[..., None, None]).amax(dim=1)
    assert torch.equal(moved["mask"].long(), everything)
    assert (moved["mask"][(images == 0).all(dim=1)] == 0).all()


def test_classes_without_boxes_stay():
    split = data.scenes(20, 1).train
    only = {"classes": split.targets["classes"]}
    assert data.flip_and_crop(split.images, only, padding=16)[1]["classes"] is only["classes"]


# ---------------------------------------------------------------- clips


def places(images):
    """(N, F, 2), double, in 0..1: where the shape is, x and y, by the phase of the slowest wave across each frame.

    A shift by a share of the picture turns the phase by the same share, exactly, as the picture wraps round. The background
    is the same everywhere and adds nothing.
    """
    waves = torch.fft.fft2(images.double().mean(dim=2))  # (N, F, H, W)
    return -torch.stack([waves[..., 0, 1], waves[..., 1, 0]], dim=-1).angle() / (2 * math.pi) % 1


def steps(images):
    """(N, F - 1, 2), in shares of the picture: how far the shape moves from frame to frame, x and y."""
    return (places(images).diff(dim=1) + 0.5) % 1 - 0.5


def clear(split):
    """Clips whose shape stands out from the noise."""
    return split.images.double().mean(dim=2)[:, 0].flatten(1).std(dim=1) > 18


AXES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize("motion", ["direction", "speed", "both"])
def test_the_same_seed_gives_the_same_clips(motion):
    a, b, c = (data.clips(20, 10, seed=seed, motion=motion) for seed in (3, 3, 4))
    assert torch.equal(a.train.images, b.train.images)
    assert torch.equal(a.test.labels, b.test.labels)
    assert not torch.equal(a.train.images, c.train.images)
    assert a.train.images.shape == (20, 8, 3, 32, 32)
    assert a.train.images.dtype == torch.uint8
    assert torch.bincount(a.train.labels).tolist() == [20 // len(a.classes) + (k < 20 % len(a.classes)) for k in range(len(a.classes))]  # fmt: skip


def test_clips_move_where_the_label_says():
    split = data.clips(300, 1, seed=1).train
    chosen = clear(split)
    assert chosen.sum() > 150
    moved, way = steps(split.images[chosen]), AXES[split.labels[chosen]]
    along = (moved * way[:, None]).sum(2)  # (n, F - 1)
    assert (moved - along[..., None] * way[:, None]).abs().max() < 0.03
    mean = along.mean(dim=1)
    assert mean.min() > 1 / 32 - 0.01
    assert mean.max() < 3 / 32 + 0.01
    assert (along - mean[:, None]).abs().max() < 0.03  # steadily


def test_clips_speed_up_or_slow_down():
    found = data.clips(300, 1, seed=2, motion="both")
    split = found.train
    chosen = clear(split)
    way, slower = AXES[split.labels[chosen] // 2], split.labels[chosen] % 2 == 1
    along = (steps(split.images[chosen]) * way[:, None]).sum(2)
    shares = along / along.sum(dim=1, keepdim=True)  # of the way, at each step
    expected = (
        torch.arange(1.0, 14, 2, dtype=torch.float64) / 49
    )  # 1, 3, 5, ... : the way grows with the square of time
    assert (shares[~slower].mean(0) - expected).abs().max() < 0.01
    assert (shares[slower].mean(0) - expected.flip(0)).abs().max() < 0.01
    assert found.classes[5] == f"{MOTIONS[2]}, {SPEEDS[1]}"


@pytest.mark.parametrize("motion", ["direction", "speed", "both"])
def test_played_backwards_a_clip_is_one_of_the_opposite_class(motion):
    """The steps of a reversed clip are those that a clip of the opposite class takes, for equally long ways."""
    found = data.clips(240, 1, seed=3, motion=motion)
    split, opposite = found.train, data.opposite(found.classes)
    assert torch.equal(opposite[opposite], torch.arange(len(found.classes)))
    assert (opposite != torch.arange(len(found.classes))).all()
    chosen = clear(split)
    labels = split.labels[chosen]
    forwards, backwards = steps(split.images[chosen]), steps(split.images[chosen].flip(1))

    def profile(moved, which):
        """The mean share of the way at each step, along the axis of the motion, and its sign on each axis."""
        total = moved[which].sum(1)
        axis = total.abs().argmax(1)
        along = moved[which].gather(2, axis[:, None, None].expand(-1, moved.shape[1], 1))[..., 0]
        return (along / along.sum(1, keepdim=True)).mean(0), total.sum(0).sign()

    for k in range(len(found.classes)):
        turned, sign = profile(backwards, labels == k)
        theirs, their_sign = profile(forwards, labels == opposite[k])
        assert (turned - theirs).abs().max() < 0.02
        if motion != "speed":
            axis = k // (2 if motion == "both" else 1) % 2
            assert sign[axis] == their_sign[axis]


@pytest.mark.parametrize("motion", ["direction", "speed", "both"])
def test_no_single_frame_tells_the_class(motion):
    """Each frame has its shape at any place with the same probability, whatever the class."""
    split = data.clips(3200, 1, size=16, frames=4, seed=4, motion=motion).train
    where = torch.polar(torch.ones(1, dtype=torch.float64), 2 * math.pi * places(split.images))  # (N, F, 2)
    for k in split.labels.unique():
        mine = where[split.labels == k]
        for power in (1, 2):  # a mean of n independent directions is about 1 / sqrt(n) long
            assert (mine**power).mean(dim=0).abs().max() * len(mine) ** 0.5 < 3.5


def test_the_first_frame_is_drawn_before_it_is_known_where_it_moves():
    a, b = (data.clips(64, 1, seed=5, motion=motion).train for motion in ("direction", "both"))
    assert torch.equal(a.images[:, 0], b.images[:, 0])
    assert not torch.equal(a.labels, b.labels // 2)


def test_clips_have_a_still_background_and_new_noise():
    images = data.clips(60, 1, seed=6).train.images.float()
    background = images.flatten(3).median(dim=3).values  # (N, F, C)
    assert (background - background[:, :1]).abs().max() <= 2
    a, b = images[:, 0], images[:, 1]
    assert ((a - b).abs().mean(dim=(1, 2, 3)) > 2).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"motion": "spin"}, "'direction', 'speed', 'both', got 'spin'"),
        ({"frames": 1}, "in 2 frames or more, got frames=1"),
        ({"frames": 2, "motion": "speed"}, "in 3 frames or more, got frames=2"),
        ({"test": -1}, "test is at least 0"),
        ({"kinds": ("ring", "moon")}, "no shape called 'moon'"),
    ],
)
def test_clips_that_make_no_sense_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        data.clips(**{"train": 2, "test": 2} | wrong)


def test_classes_of_other_clips_have_no_opposite():
    for classes in (("jumping", "running"), ("right", "up"), ("left", "right", "still")):
        with pytest.raises(ValueError, match=f"have an opposite, got {', '.join(classes)}"):
            data.opposite(classes)
