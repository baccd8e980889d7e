"""Augmentation on whole batches: each piece by what it must keep, and against torchvision where the names are the same."""

import pytest
import torch
from torchvision.transforms import v2

from vit_edu import augment


def batch(B=8, H=12, W=10):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(B, 3, H, W, generator=generator)
    return images, augment.one_hot(torch.arange(B) % 5, 5)


def test_smoothed_targets_are_what_cross_entropy_smooths():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    targets = augment.one_hot(labels, 4, smoothing=0.1)
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


@pytest.mark.parametrize(("name", "theirs"), [("mixup", v2.MixUp), ("cutmix", v2.CutMix)])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixing_equals_torchvision_in_distribution(name, theirs, alpha):
    """Shares of the image itself over 2,000 batches: two-sample Kolmogorov-Smirnov distance below the 0.1 % bound."""
    images, targets = batch(B=2)
    labels = torch.arange(2)
    transform = theirs(alpha=alpha, num_classes=5)
    torch.manual_seed(0)
    ours = [getattr(augment, name)(images, targets, alpha)[1][0, 0].item() for _ in range(2000)]
    other = [transform(images, labels)[1][0, 0].item() for _ in range(2000)]
    grid = torch.linspace(0, 1, 101)
    cumulated = [(torch.tensor(s)[:, None] <= grid).float().mean(0) for s in (ours, other)]
    assert (cumulated[0] - cumulated[1]).abs().max() < 1.95 * (2 / 2000) ** 0.5


def test_distort_of_strength_zero_changes_nothing_and_moves_little():
    images, _ = batch(B=64)
    torch.testing.assert_close(augment.distort(images, 0.0), images, atol=1e-5, rtol=1e-5)
    out = augment.distort(images, 1.0)
    assert out.shape == images.shape
    assert (out != images).flatten(1).any(1).all()
    # A ramp from left to right stays one, by and large: no image is turned upside down
    ramp = torch.linspace(-1, 1, 10).expand(64, 3, 12, 10)
    moved = augment.distort(ramp, 1.0)
    assert (moved[..., 6, 7] > moved[..., 6, 2]).all()


def test_inputs_are_left_alone():
    images, targets = batch()
    before = images.clone(), targets.clone()
    augment.cutout(images, 4)
    augment.distort(images, 1.0)
    augment.mixup(images, targets, 1.0)
    augment.cutmix(images, targets, 1.0)
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])
