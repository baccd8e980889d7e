"""Learning without labels: targets that images give by themselves, and the tasks that use them."""

import pytest
import torch

from vit_edu import selfsupervised
from vit_edu.models.vit import patchify

# ---------------------------------------------------------------- targets


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_turned_four_times(channels):
    images = torch.randn(3, channels, 4, 4)
    turned, labels = selfsupervised.rotate_batch(images)
    assert turned.shape == (12, channels, 4, 4)
    assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert labels.dtype == torch.int64
    for i in range(12):
        expected = images[i % 3]
        for _ in range(labels[i]):  # a quarter counter-clockwise: the last column becomes the first row
            expected = torch.stack([expected[:, :, 3 - row] for row in range(4)], dim=1)
        assert torch.equal(turned[i], expected)


def test_only_squares_are_turned():
    with pytest.raises(
        ValueError, match=r"6 x 4 pixels out of one of 4 x 6.* Crop or resize the images to squares"
    ):
        selfsupervised.rotate_batch(torch.zeros(2, 3, 4, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_colours_are_those_of_each_pixel(dtype):
    images = torch.rand(2, 3, 4, 6, dtype=dtype)
    before = images.clone()
    grey, targets = selfsupervised.colour_targets(images, 2)
    assert grey.shape == images.shape
    assert targets.shape == (2, 6, 8)
    assert grey.dtype == targets.dtype == dtype
    for b in range(2):
        for y in range(4):
            for x in range(6):
                red, green, blue = images[b, :, y, x].tolist()
                luma = 0.299 * red + 0.587 * green + 0.114 * blue
                assert grey[b, :, y, x].tolist() == pytest.approx([luma] * 3, rel=1e-5)
                patch, inside = y // 2 * 3 + x // 2, 2 * (y % 2 * 2 + x % 2)
                found = targets[b, patch, inside : inside + 2].tolist()
                assert found == pytest.approx([red - luma, blue - luma], abs=1e-6)
    assert torch.equal(images, before)
    # Nothing of what is grey remains to be predicted
    assert selfsupervised.colour_targets(grey, 2)[1].abs().max() < 1e-6
    assert torch.equal(patchify(grey, 2)[..., 0], patchify(grey, 2)[..., 1])


def test_grey_images_have_no_colours():
    with pytest.raises(ValueError, match=r"these have 1\. Grey images have no colours to learn from"):
        selfsupervised.colour_targets(torch.rand(2, 1, 8, 8), 4)
    with pytest.raises(ValueError, match="multiples of 4"):
        selfsupervised.colour_targets(torch.rand(2, 3, 6, 8), 4)
