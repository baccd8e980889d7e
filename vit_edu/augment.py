"""Augmentation of whole batches on the device where the images are, with a few tensor operations and no worker processes.

All functions draw from torch's global generator. Images are (B, C, H, W), targets (B, K), the probabilities of the classes.
Flips and crops work on bytes and are in `data`. Everything here works on normalised images, where zero is the mean.
"""

import math

import torch
import torch.nn.functional as F


def smooth_labels(labels, num_classes, smoothing):
    """(B,) labels -> (B, K) float32 targets: 1 - smoothing for the class, and smoothing spread evenly over all K.

    Source: label smoothing, Szegedy et al. 2016, arXiv:1512.00567.
    """
    return F.one_hot(labels, num_classes).float() * (1 - smoothing) + smoothing / num_classes


def _boxes(images, centre_rows, centre_cols, height, width):
    """(B, 1, H, W) True inside a box around each centre, cut off at the border."""
    H, W = images.shape[-2:]
    rows = torch.arange(H, device=images.device)[None, :, None]  # (1, H, 1)
    cols = torch.arange(W, device=images.device)[None, None, :]  # (1, 1, W)
    top, left = centre_rows - height // 2, centre_cols - width // 2  # (B, 1, 1)
    inside = (rows >= top) & (rows < top + height) & (cols >= left) & (cols < left + width)
    return inside[:, None]


def cutout(images, size):
    """Set a square of size x size pixels in each image to zero, the mean. Parts of it may lie outside the image.

    Source: DeVries and Taylor 2017, arXiv:1708.04552.
    """
    B, _, H, W = images.shape
    rows = torch.randint(H, (B, 1, 1), device=images.device)
    cols = torch.randint(W, (B, 1, 1), device=images.device)
    return images.masked_fill(_boxes(images, rows, cols, size, size), 0.0)


def mixup(images, targets, alpha):
    """Blend every image with its neighbour in the batch, and their targets likewise. Returns (images, targets).

    The whole batch has one share, drawn from Beta(alpha, alpha). The batch is shuffled, so the neighbour may be any image.
    Source: Zhang et al. 2018, arXiv:1710.09412.
    """
    from torchvision.transforms import v2  # imported only here, because it takes a while

    return v2.MixUp(alpha=alpha)(images, targets)


def cutmix(images, targets, alpha):
    """Paste a box from its neighbour into every image, and mix the targets by its area. Returns (images, targets).

    The box covers 1 - share of the area, with share drawn from Beta(alpha, alpha), and is the same for the whole batch. What
    the border cuts off does not count. Source: Yun et al. 2019, arXiv:1905.04899.
    """
    from torchvision.transforms import v2

    return v2.CutMix(alpha=alpha)(images, targets)


def distort(images, strength):
    """A light RandAugment: an affine resampling for six images in ten, a change of colour for each, and some are solarised.

    strength 1 means up to 15 degrees, 20 % in size, 20 % shear, and 40 % in contrast and brightness (in standard
    deviations) and 80 % in saturation, each drawn uniformly for each image. The border is filled with zeros, the mean. In 15 %
    of the images, what is brighter than a random value is mirrored at it. Four images in ten keep their pixels where they
    are, because resampling blurs, and a model that has seen only blurred images knows sharp ones less well. This is in the
    spirit of Cubuk et al. 2020, arXiv:1909.13719, who apply one operation after the other.
    """
    B = len(images)
    drawn = (2 * torch.rand(6, B, device=images.device) - 1) * strength
    angle, size, shear, contrast, brightness, saturation = drawn  # 6 x (B,)
    angle, size = torch.pi / 12 * angle, 1 + 0.2 * size
    cos, sin, zero = angle.cos() * size, angle.sin() * size, torch.zeros_like(angle)
    rotation = torch.stack([cos, 0.2 * shear - sin, zero, sin, cos, zero], dim=1).reshape(B, 2, 3)
    grid = F.affine_grid(rotation, images.shape, align_corners=False)  # (B, H, W, 2)
    resampled = F.grid_sample(images, grid, mode="bicubic", align_corners=False)
    contrast, brightness, saturation = (
        value[:, None, None, None] for value in (1 + 0.4 * contrast, 0.4 * brightness, 1 + 0.8 * saturation)
    )
    share, limit = torch.rand(3, B, 1, 1, 1, device=images.device).split(
        [2, 1]
    )  # which images, and from where on
    images = torch.where(share[0] < 0.6, resampled, images)
    grey = images.mean(dim=1, keepdim=True)
    images = (grey + (images - grey) * saturation) * contrast + brightness
    limit = 2 * limit[0]
    return torch.where((share[1] < 0.15 * strength) & (images > limit), 2 * limit - images, images)


def random_view(images, flip=True):
    """Another view of each image, for contrastive learning: a part of it, resized, perhaps mirrored, in other colours.

    Each image has its own draw. The part has 20 to 100 % of the area, with sides up to 3 : 4 or 4 : 3 of the image's own. flip:
    mirror half of the images. Four in five images change their colours: up to 40 % in contrast and in saturation, 0.4 standard
    deviations in brightness, and 0.2 in the tint of each channel. One in five turns grey, the mean of its channels.
    This is in the spirit of SimCLR, Chen et al. 2020, arXiv:2002.05709, appendix A, without its turned hues and its blur.
    """
    B, C = images.shape[:2]
    device = images.device
    area = 0.2 + 0.8 * torch.rand(B, device=device)
    ratio = torch.exp(torch.empty(B, device=device).uniform_(-1, 1) * math.log(4 / 3))
    height, width = (
        (area * ratio).sqrt().clamp(max=1),
        (area / ratio).sqrt().clamp(max=1),
    )  # shares of the sides
    row, col = ((2 * torch.rand(B, device=device) - 1) * (1 - side) for side in (height, width))  # centres
    mirror = 1 - 2 * (torch.rand(B, device=device) < 0.5 * flip).float()  # 1 or -1
    zero = torch.zeros_like(area)
    crop = torch.stack([mirror * width, zero, col, zero, height, row], dim=1).reshape(B, 2, 3)
    grid = F.affine_grid(crop, images.shape, align_corners=False)  # (B, H, W, 2)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    changed = (torch.rand(B, 1, 1, 1, device=device) < 0.8).float()
    contrast, saturation, brightness = (
        changed * 0.4 * (2 * torch.rand(3, B, 1, 1, 1, device=device) - 1)
    )  # 3 x (B, 1, 1, 1)
    tint = changed * 0.2 * (2 * torch.rand(B, C, 1, 1, device=device) - 1)
    coloured = (torch.rand(B, 1, 1, 1, device=device) >= 0.2).float()
    images = images * (1 + contrast) + brightness + tint
    grey = images.mean(dim=1, keepdim=True)  # (B, 1, H, W)
    return grey + (images - grey) * (1 + saturation) * coloured
