"""Images that are moved or shuffled: does the model still give the same answer?"""

import torch

from vit_edu.inspect.running import logits_of, require_images, require_order, whole_number
from vit_edu.models.vit import patchify, unpatchify


def shift(images, down, right):
    """Move the pictures by whole pixels; what comes in at the border is the picture mirrored there.

    images: (..., H, W), any dtype. down, right: pixels, negative for up and left. The mirror stands on the outermost pixels,
    which are not repeated, as in `F.pad(mode="reflect")`. Returns a new tensor of the same shape.
    Raises ValueError for a shift by a whole side or more.
    """
    H, W = images.shape[-2:]
    down, right = (whole_number(by, "a shift in pixels") for by in (down, right))
    if abs(down) >= H or abs(right) >= W:
        raise ValueError(
            f"images of {H} x {W} pixels move by fewer than {H} down and {W} to the right, got {down} and {right}."
        )
    rows, cols = (_mirrored(side, by).to(images.device) for side, by in ((H, down), (W, right)))
    return images[..., rows[:, None], cols]


def _mirrored(side, by):
    """Which pixel comes to each place of a row of `side` pixels that moves by `by`: (side,)."""
    source = (torch.arange(side) - by).abs()
    return side - 1 - (side - 1 - source).abs()


def shift_consistency(model, images, pixels):
    """How often the answer stays the same when the picture moves to the right: a share of the images, 0..1.

    images: (B, C, H, W), floats as the model reads them. pixels: how far, as an int. The border is mirrored, as in `shift`.
    Returns a float, or for a list of distances, a tensor with one share for each. Both answers are the model's own, right or wrong.
    Source: Zhang 2019, arXiv:1904.11486, section 4.1, with a fixed shift.
    Raises ValueError for images that are not floats, or none at all, and for shifts by a whole side or more.
    """
    require_images(images)
    several = isinstance(pixels, (list, tuple))
    distances = pixels if several else [pixels]
    before = logits_of(model, images).argmax(dim=1)  # (B,)
    moved = (logits_of(model, shift(images, 0, each)).argmax(dim=1) for each in distances)
    shares = [(before == after).float().mean().item() for after in moved]
    return torch.tensor(shares) if several else shares[0]


def shuffle_patches(images, patch_size, order):
    """Cut images into patches, and put them back in another order, the same for all images.

    images: (B, C, H, W). patch_size: P, in pixels. order: (N,), the place in reading order from which the patch at each place
    is taken. Returns (B, C, H, W). Raises ValueError unless order holds each of 0 .. N - 1 once.
    """
    patches = patchify(images, patch_size)  # (B, N, P*P*C)
    order = require_order(order, patches.shape[1], "patches").to(images.device)
    return unpatchify(patches[:, order], patch_size, images.shape[-2:])
