"""Images that move, or whose patches are shuffled, against plain loops."""

import pytest
import torch
import torch.nn.functional as F
from test_inspect import IMAGES, SMALL, shaken
from test_inspect_belief import require_unchanged, state_of
from torch import nn

from vit_edu import inspect
from vit_edu.models import ViT


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize(("down", "right"), [(0, 0), (0, 3), (2, 0), (-3, 1), (5, -6)])
def test_a_shift_is_padding_and_a_cut(down, right, dtype):
    images = (255 * torch.rand(2, 3, 6, 7)).to(dtype)
    padded = F.pad(images.float(), [6, 6, 5, 5], mode="reflect")
    wanted = padded[:, :, 5 - down : 11 - down, 6 - right : 13 - right].to(dtype)
    moved = inspect.shift(images, down, right)
    assert torch.equal(moved, wanted)
    assert moved.dtype == dtype


def test_a_single_row_of_pixels_moves_to_the_right():
    row = torch.arange(5)[None]
    assert inspect.shift(row, 0, 2).tolist() == [[2, 1, 0, 1, 2]]
    assert inspect.shift(row, 0, -2).tolist() == [[2, 3, 4, 3, 2]]


class Column(nn.Module):
    """Names the column of the brightest pixel of the first row. In training, it names anything."""

    def forward(self, images):
        row = images[:, 0, 0]
        return torch.rand_like(row) if self.training else row


def test_consistency_counts_answers_that_stay():
    images = torch.zeros(4, 1, 2, 9)
    for image, column in zip(images, (0, 1, 3, 6), strict=True):
        image[0, 0, column] = 1
    images[0, 0, 0, 2] = 0.5
    model = Column().train()
    # Moved by 2: column 0 -> 2; 1 -> 3, and its mirror image to 1, which comes first; 3 -> 5; 6 -> 8
    assert inspect.shift_consistency(model, images, 2) == 0.25
    assert inspect.shift_consistency(model, images, 0) == 1.0
    found = inspect.shift_consistency(model, images, [0, 2])
    assert torch.equal(found, torch.tensor([1.0, 0.25]))
    assert isinstance(inspect.shift_consistency(model, images, 2), float)
    assert model.training


def test_consistency_is_that_of_a_loop():
    model = shaken(ViT(drop_path_rate=0.9, **SMALL)).train()
    images = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = state_of(model)
    found = inspect.shift_consistency(model, images, [1, 5, 15])
    require_unchanged(model, before)
    model.eval()
    for distance, share in zip([1, 5, 15], found, strict=True):
        same = 0
        for image in images:
            moved = F.pad(image[None], [15, 0, 0, 0], mode="reflect")[..., 15 - distance : 31 - distance]
            same += int(model(image[None]).argmax() == model(moved).argmax())
        assert share == pytest.approx(same / 20)
    assert len(set(found.tolist())) > 1


@pytest.mark.parametrize(
    ("images", "pixels", "says"),
    [
        (IMAGES[:0], 1, "no images"),
        (IMAGES.byte(), 1, "floats"),
        (IMAGES, 16, "images of 16 x 16 pixels move by fewer than 16 down and 16 to the right, got 0 and 16"),
        (IMAGES, 0.5, "a shift in pixels must be a whole number, got 0.5"),
        (IMAGES, [1, None], "whole number, got None"),
    ],
)
def test_a_shift_that_there_is_not(images, pixels, says):
    with pytest.raises(ValueError, match=says):
        inspect.shift_consistency(ViT(**SMALL), images, pixels)


def test_patches_in_another_order():
    images = torch.rand(2, 3, 8, 12)
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    shuffled = inspect.shuffle_patches(images, 4, order)
    for place, source in enumerate(order.tolist()):
        r, c, v, u = (4 * x for x in (*divmod(place, 3), *divmod(source, 3)))
        assert torch.equal(shuffled[:, :, r : r + 4, c : c + 4], images[:, :, v : v + 4, u : u + 4])
    assert torch.equal(inspect.shuffle_patches(images, 4, range(6)), images)
    assert torch.equal(inspect.shuffle_patches(shuffled, 4, order.argsort()), images)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ([0, 1, 2], r"6 patches holds each number from 0 to 5 once, .* got torch.int64 of shape \(3,\)"),
        ([0, 1, 2, 3, 4, 4], "once"),
        ([1, 2, 3, 4, 5, 6], "once"),
        ([0.0, 1, 2, 3, 4, 5], "float32"),
    ],
)
def test_an_order_that_loses_patches(order, says):
    with pytest.raises(ValueError, match=says):
        inspect.shuffle_patches(torch.rand(2, 3, 8, 12), 4, order)
