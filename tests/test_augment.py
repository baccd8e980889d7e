"""Augmentation of whole batches: each piece keeps what it must keep, and mixing has the distributions of its papers."""

import numpy as np
import pytest
import torch

from vit_edu import augment


def batch(B=8, H=12, W=10):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(B, 3, H, W, generator=generator)
    return images, augment.smooth_labels(torch.arange(B) % 5, 5, 0.0)


def test_smoothed_targets_are_what_cross_entropy_smooths():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    targets = augment.smooth_labels(labels, 4, smoothing=0.1)
    torch.testing.assert_close(
        torch.nn.functional.cross_entropy(logits, targets),
        torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1),
    )


def test_cutout_makes_one_square_zero():
    images = torch.ones(500, 2, 12, 10)
    zeros = (augment.cutout(images, 4) == 0).float()
    assert torch.equal(zeros[:, 0], zeros[:, 1])
    areas = zeros[:, 0].sum((1, 2))
    assert areas.max() == 16
    assert areas.min() >= 4  # a corner of it at least
    inside = areas == 16
    rows, cols = zeros[inside, 0].amax(2).sum(1), zeros[inside, 0].amax(1).sum(1)
    assert (rows == 4).all()
    assert (cols == 4).all()
    assert (zeros[:, 0].mean(0) > 0).all()  # every pixel has its turn


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_keeps_images_and_targets_together(name):
    images, targets = batch()
    for seed in range(30):
        torch.manual_seed(seed)
        mixed, soft = getattr(augment, name)(images, targets, 1.0)
        torch.testing.assert_close(soft.sum(1), torch.ones(8))
        share = (soft * targets).sum(1)[0].item()  # of the image itself
        neighbour = images.roll(1, 0)
        if name == "mixup":
            torch.testing.assert_close(mixed, share * images + (1 - share) * neighbour)
        else:
            own = (mixed == images).all(1)
            assert ((mixed == images) | (mixed == neighbour)).all()
            torch.testing.assert_close(own.float().mean((1, 2)), torch.full((8,), share))


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixing_draws_as_the_papers_say(name, alpha):
    """Shares of the image itself over 2,000 batches: two-sample Kolmogorov-Smirnov distance below the 0.1 % bound."""
    images, targets = batch(B=2)
    torch.manual_seed(0)
    ours = [getattr(augment, name)(images, targets, alpha)[1][0, 0].item() for _ in range(2000)]
    rng = np.random.default_rng(0)
    expected = rng.beta(alpha, alpha, 2000)
    if name == "cutmix":  # a box around a pixel, with 1 - share of the area, cut off at the border
        H, W = images.shape[-2:]
        rows, cols = rng.integers(H, size=2000), rng.integers(W, size=2000)
        high, wide = (np.floor(0.5 * n * np.sqrt(1 - expected)) for n in (H, W))
        height = np.minimum(rows + high, H) - np.maximum(rows - high, 0)
        width = np.minimum(cols + wide, W) - np.maximum(cols - wide, 0)
        expected = 1 - height * width / (H * W)
    grid = np.linspace(0, 1, 101) + 1e-6  # shares of whole pixels are rounded in float32
    distance = [(np.array(shares)[:, None] <= grid).mean(0) for shares in (ours, expected)]
    assert np.abs(distance[0] - distance[1]).max() < 1.95 * (2 / 2000) ** 0.5


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_targets_may_be_smoothed_before_mixing_or_after(name):
    images, targets = batch()
    torch.manual_seed(0)
    _, before = getattr(augment, name)(images, targets * 0.9 + 0.1 / 5, 0.8)
    torch.manual_seed(0)
    _, after = getattr(augment, name)(images, targets, 0.8)
    torch.testing.assert_close(before, after * 0.9 + 0.1 / 5)
    assert not torch.equal(after, targets)


def test_distort_of_strength_zero_changes_nothing_and_moves_little():
    images, _ = batch(B=64)
    torch.manual_seed(0)
    torch.testing.assert_close(augment.distort(images, 0.0), images, atol=1e-5, rtol=1e-5)
    out = augment.distort(images, 1.0)
    assert out.shape == images.shape
    assert (out != images).flatten(1).any(1).all()
    # A ramp from left to right more or less stays one, so no image is turned upside down; solarising may mirror its bright end
    ramp = torch.linspace(-1, 1, 10).expand(640, 3, 12, 10)
    moved = augment.distort(ramp, 1.0)
    assert (moved[..., 6, 7] > moved[..., 6, 2]).all((1,)).float().mean() > 0.85
    assert (moved[..., 6, 5] > moved[..., 6, 2]).all((1,)).float().mean() > 0.85


def test_distort_leaves_some_images_where_they_are():
    """Resampling blurs, so a part of the images is not resampled: of a chequerboard, they keep the full contrast."""
    torch.manual_seed(0)
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1).expand(1000, 3, 16, 16) * 0.5
    moved = augment.distort(board, 1.0)
    steps = (moved[..., 8, 8:] - moved[..., 8, :8].flip(-1)).abs().mean(dim=1)  # (B, 8)
    sharp = (steps.std(dim=1) < 1e-5).float().mean()
    assert 0.35 < sharp < 0.45


def test_a_view_is_a_part_of_the_image():
    # A ramp grows to the right in every part, and to the left in its mirror image
    ramp = torch.linspace(-1, 1, 12).expand(400, 3, 10, 12)
    torch.manual_seed(0)
    kept, mirrored = augment.random_view(ramp, flip=False), augment.random_view(ramp)
    assert (kept.diff(dim=-1) >= -1e-5).all()
    backwards = (mirrored[..., 0] > mirrored[..., -1]).flatten(1).all(1).float().mean()
    assert 0.4 < backwards < 0.6
    # Without the colours, its slope tells which share of the width is seen
    level = augment.random_view(torch.ones(400, 3, 10, 12))
    assert (level.amax((2, 3)) - level.amin((2, 3)) < 1e-5).all()
    rows, cols = (
        torch.arange(n).view(shape).expand(400, 1, 12, 12).float()
        for n, shape in ((12, (12, 1)), (12, (12,)))
    )
    height, width = (
        (view[..., -1, -1] - view[..., 0, 0]).flatten() / 11
        for view in (augment.random_view(where, flip=False) for where in (rows, cols))
    )
    for side in (height, width):
        assert side.min() > 0.2
        assert side.max() < 1.5  # of the whole side, and up to 40 % more contrast


def test_one_view_in_five_is_grey_and_one_in_five_keeps_its_colours():
    images = torch.tensor([1.0, 0.0, -1.0])[:, None, None].expand(1000, 3, 4, 4)
    torch.manual_seed(0)
    found = augment.random_view(images)
    grey = (found - found[:, :1]).abs().amax((1, 2, 3)) < 1e-6
    unchanged = (found - images).abs().amax((1, 2, 3)) < 1e-5
    assert 0.16 < grey.float().mean() < 0.24
    assert 0.13 < unchanged.float().mean() < 0.19  # 0.2 * 0.8
    assert len({tuple(colour) for colour in found[:, :, 0, 0].tolist()}) > 600
    assert augment.random_view(torch.randn(4, 1, 6, 8)).shape == (4, 1, 6, 8)


def test_inputs_are_left_alone():
    images, targets = batch()
    before = images.clone(), targets.clone()
    augment.cutout(images, 4)
    augment.distort(images, 1.0)
    augment.random_view(images)
    augment.mixup(images, targets, 1.0)
    augment.cutmix(images, targets, 1.0)
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])
