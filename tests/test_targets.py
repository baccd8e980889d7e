"""Masks, boxes and clips: what is known about the generated shapes, and that it moves with the image."""

import pytest
import torch
from torchvision import ops, tv_tensors
from torchvision.transforms import v2

from vit_edu import data


def iou(a, b):
    """(N, H, W) twice -> (N,): intersection over union of two masks."""
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2))


# ---------------------------------------------------------------- what the shapes know


@pytest.mark.parametrize(("size", "seed"), [(32, 0), (32, 3), (17, 1), (64, 2)])
def test_targets_change_neither_images_nor_labels(size, seed):
    plain = data.shapes(30, 20, size, seed)
    still = data.shapes(30, 20, size, seed, mask=True, boxes=True)
    clips = data.shapes(30, 20, size, seed, mask=True, boxes=True, frames=3)
    for part in ("train", "test"):
        a, b, c = (getattr(d, part) for d in (plain, still, clips))
        assert a.targets == {}
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.images, c.images[:, 0])
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.labels, c.labels)
        assert torch.equal(b.targets["mask"], c.targets["mask"][:, 0])
        assert torch.equal(b.targets["boxes"], c.targets["boxes"][:, 0])
    assert torch.equal(plain.mean, still.mean)


def test_mask_names_the_class_and_is_that_of_a_drawing_four_times_as_fine():
    split, fine = (data.shapes(200, 1, size, 5, mask=True).train for size in (32, 128))
    mask = split.targets["mask"]
    assert mask.dtype == torch.uint8
    assert torch.equal(mask.amax((1, 2)), (split.labels + 1).to(torch.uint8))
    assert all(
        set(m.unique().tolist()) == {0, k + 1} for m, k in zip(mask, split.labels.tolist(), strict=True)
    )
    # The scenes do not depend on the size, so that most of 16 fine pixels say what the coarse one should be
    share = torch.nn.functional.avg_pool2d((fine.targets["mask"] > 0).float(), 4)
    assert iou(mask > 0, share > 0.5).min() > 0.85
    assert iou(mask > 0, share > 0.5).mean() > 0.96


def otsu(levels):
    """(N, P) -> (N, 1) thresholds that leave the largest variance between both sides, and (N,) how far apart these are."""
    levels = levels.sort(dim=1).values
    count = torch.arange(1, levels.shape[1])
    sums = levels.cumsum(1)
    low, high = sums[:, :-1] / count, (sums[:, -1:] - sums[:, :-1]) / (levels.shape[1] - count)
    best = (count * (levels.shape[1] - count) * (high - low) ** 2).argmax(1, keepdim=True)
    return levels.gather(1, best), (high - low).gather(1, best)[:, 0]


def test_mask_is_where_the_image_has_another_colour():
    split = data.shapes(400, 1, seed=7, mask=True).train
    red, green, blue = split.images.float().unbind(1)
    clear = 0
    for hue in (red - green, green - blue, blue - red):  # what is grey, such as the slope, falls out
        threshold, contrast = otsu(hue.flatten(1))
        mask = (split.targets["mask"] > 0)[contrast > 90]
        drawn = (hue > threshold[..., None])[contrast > 90]
        found = torch.maximum(iou(mask, drawn), iou(mask, ~drawn))
        assert found.min() > 0.75
        assert found.mean() > 0.9  # a mask that is a pixel off comes to 0.8
        clear += len(found)
    assert clear > 100


@pytest.mark.parametrize("frames", [None, 4])
def test_boxes_are_tight(frames):
    split = data.shapes(300, 1, seed=2, mask=True, boxes=True, frames=frames).train
    boxes, masks = split.targets["boxes"].flatten(0, -2), split.targets["mask"].flatten(0, -3)
    theirs = ops.masks_to_boxes(masks)  # its x2 and y2 are the last pixel, not the far edge of it
    theirs[:, 2:] += 1
    torch.testing.assert_close(ops.box_iou(boxes, theirs).diagonal(), torch.ones(len(boxes)))
    assert boxes.dtype == torch.float32


def test_box_of_nothing_is_unused():
    split = data.shapes(200, 1, size=2, mask=True, boxes=True).train  # so few pixels miss thin shapes
    nothing = split.targets["mask"].flatten(1).sum(1) == 0
    assert 0 < nothing.sum() < 200
    assert torch.equal((split.targets["boxes"] == -1).all(-1)[:, 0], nothing)


def test_clips_move_where_the_target_says():
    split = data.shapes(400, 1, seed=4, mask=True, boxes=True, frames=6).train
    assert torch.bincount(split.targets["direction"]).tolist() == [50] * 8
    boxes = split.targets["boxes"][:, :, 0]
    whole = ((boxes[..., :2] > 0) & (boxes[..., 2:] < 32)).flatten(1).all(1)  # in sight in all frames
    assert whole.sum() > 100
    inside = (split.targets["mask"][whole] > 0).double()  # (n, F, H, W)
    weight, places = inside.sum((2, 3)), torch.arange(32.0, dtype=torch.float64)
    x, y = (inside.sum(2) @ places) / weight, (inside.sum(3) @ places) / weight  # (n, F)
    dx, dy = x[:, -1] - x[:, 0], y[:, -1] - y[:, 0]
    turned = torch.atan2(dy, dx) / (torch.pi / 4) - split.targets["direction"][whole]
    assert ((turned + 4) % 8 - 4).abs().max() < 0.5
    speed = torch.hypot(dx, dy) / 5  # pixels a frame
    assert speed.min() > 0.4
    assert speed.max() < 1.6
    assert data.DIRECTIONS[split.targets["direction"][whole][dx.argmax()]].endswith("right")


def test_the_shape_does_not_tell_the_direction():
    split = data.shapes(4000, 1, size=4, frames=1).train
    together = torch.bincount(split.labels * 8 + split.targets["direction"], minlength=80)
    assert together.min() > 20  # 50 expected of each pair, with a standard deviation of 6.3
    assert together.max() < 80


def test_clips_have_a_still_background_and_new_noise():
    split = data.shapes(100, 1, seed=4, mask=True, frames=3).train
    outside = (split.targets["mask"].amax(1) == 0)[:, None].expand(-1, 3, -1, -1)
    outside = -torch.nn.functional.max_pool2d(-outside.float(), 5, 1, 2) > 0  # away from soft edges
    a, b = split.images[:, 0].float(), split.images[:, 2].float()
    unclipped = outside & (a + b > 80) & (a + b < 430)  # black and white have less noise
    difference = (a - b)[unclipped] / 255
    assert abs(difference.mean()) < 1e-3
    assert difference.std().item() == pytest.approx(0.04 * 2**0.5, rel=0.05)


def test_clips_of_no_frame():
    with pytest.raises(ValueError, match="at least one frame, got frames=0"):
        data.shapes(2, 2, frames=0)


# ---------------------------------------------------------------- a split


def test_everything_of_a_split_stays_together():
    split = data.Split(
        torch.arange(10)[:, None, None, None], torch.arange(10), {"depth": torch.arange(10)[:, None, None]}
    )
    rest, part = split.hold_out(3, seed=1)
    for some in (rest, part, split.take(4), split.to("cpu"), split.pick(slice(2, 5))):
        assert torch.equal(some.images.flatten(), some.labels)
        assert torch.equal(some.targets["depth"].flatten(), some.labels)
    assert sorted(torch.cat([rest.labels, part.labels]).tolist()) == list(range(10))
    assert (len(rest), len(part)) == (7, 3)


def test_split_of_unequal_parts():
    images, labels = torch.zeros(3, 3, 8, 8), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match="there are 3 labels and 2 entries of 'mask'"):
        data.Split(images, labels, {"mask": torch.zeros(2, 8, 8)})
    with pytest.raises(ValueError, match="there are 3 labels and 1 entries of 'images'"):
        data.Split(images[:1], labels)
    with pytest.raises(ValueError, match=r"last axes of 'mask' should be \(8, 8\); its shape is \(3, 4, 4\)"):
        data.Split(images, labels, {"mask": torch.zeros(3, 4, 4)})
    with pytest.raises(ValueError, match=r"last axes of 'boxes' should be \(4,\); its shape is \(3, 2\)"):
        data.Split(images, labels, {"boxes": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match="already has a field 'labels'"):
        data.Split(images, labels, {"labels": labels})


# ---------------------------------------------------------------- moving


@pytest.mark.parametrize(("flip", "padding"), [(True, 6), (True, 0), (False, 6)])
def test_images_masks_and_boxes_move_as_in_torchvision(flip, padding):
    split = data.shapes(200, 1, size=24, seed=1, mask=True, boxes=True).train
    B, size = len(split), 24
    # A second box in the corner, which often leaves the image, and a third row that is unused
    corner = torch.tensor([0.0, 20.0, 3.0, 24.0]).expand(B, 1, 4)
    boxes = torch.cat([split.targets["boxes"], corner, torch.full((B, 1, 4), -1.0)], dim=1)
    torch.manual_seed(0)
    images, targets = data.flip_and_crop(
        split.images, {"mask": split.targets["mask"], "boxes": boxes, "other": split.labels}, flip, padding
    )
    assert targets["other"] is split.labels
    assert (targets["boxes"][:, 2] == -1).all()

    torch.manual_seed(0)
    flipped = torch.rand(B) < 0.5 if flip else torch.zeros(B, dtype=torch.bool)
    top, left = torch.randint(0, 2 * padding + 1, (2, B)) if padding else torch.zeros(2, B, dtype=torch.int)
    gone = 0
    for i in range(B):
        theirs = {
            "image": tv_tensors.Image(split.images[i]),
            "mask": tv_tensors.Mask(split.targets["mask"][i]),
            "boxes": tv_tensors.BoundingBoxes(boxes[i, :2], format="XYXY", canvas_size=(size, size)),
            "labels": torch.arange(2),
        }
        if flipped[i]:
            theirs = v2.RandomHorizontalFlip(p=1)(theirs)
        theirs = {
            k: v2.functional.crop(v2.functional.pad(v, [padding] * 4), int(top[i]), int(left[i]), size, size)
            if k != "labels"
            else v
            for k, v in theirs.items()
        }
        theirs = v2.SanitizeBoundingBoxes()(v2.ClampBoundingBoxes()(theirs))
        assert torch.equal(images[i], theirs["image"])
        assert torch.equal(targets["mask"][i], theirs["mask"])
        used = targets["boxes"][i, :2, 0] >= 0
        assert used.nonzero()[:, 0].tolist() == theirs["labels"].tolist()
        assert torch.equal(targets["boxes"][i, :2][used], theirs["boxes"].as_subclass(torch.Tensor))
        assert (targets["boxes"][i, :2][~used] == -1).all()
        gone += (~used).sum().item()
    assert (gone > 0) == (padding > 0)


def test_direction_is_mirrored_with_the_clip():
    clips = data.shapes(64, 1, mask=True, boxes=True, frames=3).train
    torch.manual_seed(0)
    images, targets = data.flip_and_crop(clips.images, clips.targets, padding=0)
    torch.manual_seed(0)
    flipped = torch.rand(64) < 0.5
    assert 0 < flipped.sum() < 64
    assert torch.equal(images[flipped], clips.images[flipped].flip(-1))
    assert torch.equal(images[~flipped], clips.images[~flipped])
    before, after = ([data.DIRECTIONS[k] for k in t["direction"]] for t in (clips.targets, targets))
    mirror = str.maketrans({"l": "L"})  # so that a swap does not swap back
    for was, now, moved in zip(before, after, flipped, strict=True):
        swapped = was.translate(mirror).replace("right", "left").replace("Left", "right")
        assert now == (swapped if moved else was)


def test_frames_of_a_clip_move_alike():
    clips = torch.randint(0, 256, (16, 1, 3, 8, 8), dtype=torch.uint8).repeat(1, 5, 1, 1, 1)
    images, targets = data.flip_and_crop(clips, {}, padding=3)
    assert targets == {}
    assert images.shape == clips.shape
    assert torch.equal(images, images[:, :1].expand_as(images))
    assert not torch.equal(images, clips)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(("flip", "crop"), [(True, 4), (False, 2), (True, 0), (False, 0)])
def test_batches_with_targets_have_the_images_of_those_without(flip, crop):
    plain, known = data.shapes(100, 1), data.shapes(100, 1, mask=True, boxes=True)
    seen = []
    for d in (plain, known):
        torch.manual_seed(1)
        order = torch.Generator().manual_seed(2)
        seen.append(list(data.batches(d.train, 32, d.mean, d.std, True, order, crop, flip)))
    assert len(seen[0]) == 3
    torch.manual_seed(1)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(2)).split(32)
    for chunk, (images, labels), (same, targets) in zip(order[:3], *seen, strict=True):
        expected = plain.train.images[chunk]
        expected = data.random_flip(expected) if flip else expected
        expected = data.random_crop(expected, crop) if crop else expected
        assert torch.equal(images, data.normalize(expected, plain.mean, plain.std))
        assert torch.equal(images, same)
        assert torch.equal(labels, targets["labels"])
        assert targets["mask"].shape == (32, 32, 32)
        # Nothing of the shape lies outside its box
        y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
        x1, y1, x2, y2 = targets["boxes"][..., None].unbind(2)  # (B, 1, 1)
        inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        assert not (targets["mask"] > 0)[~inside].any()
        assert torch.equal(targets["mask"].amax((1, 2)), (labels + 1).to(torch.uint8))


def test_batches_to_evaluate_on_leave_targets_alone():
    d = data.shapes(20, 30, mask=True, frames=2)
    seen = list(data.batches(d.test, 8, d.mean, d.std))
    assert [tuple(x.shape) for x, _ in seen] == [(8, 2, 3, 32, 32)] * 3 + [(6, 2, 3, 32, 32)]
    assert torch.equal(torch.cat([t["mask"] for _, t in seen]), d.test.targets["mask"])
    pixels = data.denormalize(torch.cat([x for x, _ in seen]), d.mean, d.std) * 255
    torch.testing.assert_close(pixels, d.test.images.float(), atol=1e-2, rtol=0)


def test_clips_are_normalised_by_the_pixels_of_all_frames():
    d = data.shapes(200, 1, frames=4)
    x = data.normalize(d.train.images, d.mean, d.std)
    torch.testing.assert_close(x.mean((0, 1, 3, 4)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(x.std((0, 1, 3, 4)), torch.ones(3), atol=1e-3, rtol=0)
    assert "200 training and 1 test clips of 4 frames" in str(d)


def test_clutter_makes_other_images_of_the_same_shapes():
    plain, hard = (data.shapes(train=40, test=10, seed=3, clutter=c, mask=True) for c in (False, True))
    for a, b in ((plain.train, hard.train), (plain.test, hard.test)):
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.targets["mask"], b.targets["mask"])
        assert (a.images != b.images).float().mean() > 0.5
    again = data.shapes(train=40, test=10, seed=3, clutter=True)
    assert torch.equal(hard.test.images, again.test.images)
    clip = data.shapes(train=4, test=2, seed=3, clutter=True, frames=2)
    assert torch.equal(
        clip.train.images[:, 0], data.shapes(train=4, test=2, seed=3, clutter=True).train.images
    )
