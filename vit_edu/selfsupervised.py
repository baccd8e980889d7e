"""Targets that images give by themselves, so that a model learns without labels (lesson 10).

The tasks of the trainer use them (`training.TASKS`). Masked patches are in `models.masked`.
Letters in shapes: B images in the batch, C channels, H, W pixels, P patch size, N patches.
"""

import torch

from vit_edu.models.vit import patchify

LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue look (ITU-R BT.601)


def rotate_batch(images):
    """Every image in its four orientations, with the number of quarter turns as its label.

    images: (B, C, S, S), square. Returns the turned images (4B, C, S, S) and their labels (4B,), int64: first all images
    as they are (0), then all turned counter-clockwise by one quarter (1), by two (2) and by three (3).
    Raises ValueError for images that are not square.
    Source: "Unsupervised Representation Learning by Predicting Image Rotations", Gidaris et al. 2018, arXiv:1803.07728.
    """
    H, W = images.shape[-2:]
    if H != W:
        raise ValueError(
            f"a quarter turn makes an image of {W} x {H} pixels out of one of {H} x {W}, and its shape would give the label "
            "away. Crop or resize the images to squares."
        )
    turned = torch.cat([torch.rot90(images, turns, dims=(-2, -1)) for turns in range(4)])  # (4B, C, S, S)
    return turned, torch.arange(4, device=images.device).repeat_interleave(len(images))


def colour_targets(images, patch_size):
    """Grey images, and the colours that are missing in them.

    images: (B, 3, H, W), RGB, 0..1. patch_size: P, in pixels.
    Returns grey (B, 3, H, W), the brightness 0.299 R + 0.587 G + 0.114 B in each of three channels, and the targets
    (B, N, P*P*2): R - grey and B - grey of each pixel, side by side, in the order of `patchify`. Green follows from these.
    Raises ValueError for another number of channels, and if H or W is not a multiple of P.
    Source: colours from brightness, Zhang et al. 2016, arXiv:1603.08511; two differences in place of their Lab colours, with
    the brightness of ITU-R BT.601.
    """
    C = images.shape[1]
    if C != 3:
        raise ValueError(
            f"colours are predicted for images with 3 channels, red, green and blue, and these have {C}. Grey images have no "
            "colours to learn from: choose another task."
        )
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)[:, None, None]  # (3, 1, 1)
    grey = (weights * images).sum(dim=1, keepdim=True)  # (B, 1, H, W)
    return grey.expand_as(images), patchify(images[:, ::2] - grey, patch_size)
