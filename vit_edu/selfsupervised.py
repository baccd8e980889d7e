"""Targets that images give by themselves, so that a model learns without labels, and what remains of it (lesson 10).

The tasks of the trainer use them (`training.TASKS`). Masked patches are in `models.masked`.
Letters in shapes: B images in the batch, C channels, H, W pixels, P patch size, N patches, D width.
"""

from inspect import signature

import torch
import torch.nn.functional as F

from vit_edu.models import ViT, make_model
from vit_edu.models.kinds import with_kind
from vit_edu.models.vit import patchify

TASKS = ("masked", "rotation", "colour", "contrastive")  # tasks of the trainer that need no labels

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


def contrastive_loss(first, second, temperature):
    """How hard it is to find the other view of an image among all views of the batch: NT-Xent, in nats.

    first, second: (B, D), vectors of length 1, two views of each image, in the same order. temperature: what similarities are
    divided by. Each of the 2B views asks: which of the other 2B - 1 is my image? The loss is the cross-entropy of the right
    answer, a tensor without axes. It is computed in float32, also under autocast. Guessing gives ln(2B - 1).
    Source: SimCLR, Chen et al. 2020, arXiv:2002.05709, equation 1.
    """
    B = len(first)
    with torch.autocast(first.device.type, enabled=False):
        views = torch.cat([first, second]).float()  # (2B, D)
        similar = views @ views.mT / temperature  # (2B, 2B)
        itself = torch.eye(2 * B, dtype=torch.bool, device=views.device)
        places = torch.arange(2 * B, device=views.device).roll(B)  # where the other view is
        return F.cross_entropy(similar.masked_fill(itself, float("-inf")), places)


# ---------------------------------------------------------------- what remains after the training


def encoder_weights(model):
    """The state dict of the ViT inside a model that learned without labels, without its head, decoder or projector.

    model: of kind "masked", "contrastive" or "dense", or a classifier of turns. The dict fits any ViT of the encoder's sizes:
    `vit.load_state_dict(weights, strict=False)` leaves a head of its own as it is.
    """
    encoder = getattr(model, "encoder", model)
    return {name: value for name, value in encoder.state_dict().items() if not name.startswith("head.")}


def encoder_of(model, arguments, shape):
    """What remains of a model that learned without labels: (its encoder, the encoder's arguments for `make_model`).

    arguments: those of the whole model, for `make_model`. shape: (C, H, W) of an image.
    """
    arguments = with_kind(arguments)
    if arguments["kind"] in ("masked", "contrastive", "dense"):  # kinds with a ViT inside
        known = signature(ViT).parameters
        arguments = {"kind": "vit"} | {name: value for name, value in arguments.items() if name in known}
    encoder = make_model(arguments, shape, 0)
    encoder.load_state_dict(encoder_weights(model))
    return encoder.train(model.training), arguments
