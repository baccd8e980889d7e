"""A class for every pixel: from tokens to maps, how good a segmentation is, and a loss for rare classes (lesson 11).

Letters in shapes: B images in the batch, K classes (the background, if there is one, is one of them), H, W pixels, N patches.
"""

import torch
import torch.nn.functional as F


def tokens_to_map(tokens, grid, image_size):
    """The numbers of each patch as maps, one for each class, upsampled to the pixels of the image.

    tokens: (B, N, K), the patches in reading order. grid: (rows, cols), with N = rows * cols. image_size: (H, W).
    Returns (B, K, H, W): bilinear interpolation between the centres of the patches, which is what `align_corners=False` means.
    Raises ValueError for another number of tokens.
    Source: Segmenter, Strudel et al. 2021, arXiv:2105.05633, section 3.2, with its linear decoder.
    """
    rows, cols = grid
    if tokens.ndim != 3 or tokens.shape[1] != rows * cols:
        raise ValueError(
            f"a grid of {rows} x {cols} patches has {rows * cols} tokens, (B, {rows * cols}, K), got {tuple(tokens.shape)}. "
            "Leave the class token out."
        )
    maps = tokens.transpose(1, 2).unflatten(2, (rows, cols))  # (B, K, rows, cols)
    return F.interpolate(maps, size=tuple(image_size), mode="bilinear", align_corners=False)


def class_iou(predicted, masks, num_classes):
    """Intersection over union of each class: of the pixels that are this class in either, the share that is so in both.

    predicted, masks: the class of each pixel, whole numbers from 0 to num_classes - 1, of the same shape, whatever it is.
    All pixels of all images are counted together, as benchmarks do it. Returns (num_classes,), float32, with NaN for a class
    that occurs in neither. Raises ValueError for different shapes, and for classes beyond num_classes.
    Source: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge", section 4.2.
    """
    if predicted.shape != masks.shape:
        raise ValueError(
            f"each pixel has a predicted and a true class, so both have one shape; got {tuple(predicted.shape)} and "
            f"{tuple(masks.shape)}. From logits, take .argmax(dim=1)."
        )
    predicted, masks = predicted.flatten().long(), masks.flatten().long()
    if (
        len(masks)
        and not 0 <= min(predicted.min(), masks.min()) <= max(predicted.max(), masks.max()) < num_classes
    ):
        raise ValueError(f"classes are whole numbers from 0 to {num_classes - 1}, and others occur here.")
    pairs = torch.bincount(masks * num_classes + predicted, minlength=num_classes**2)
    pairs = pairs.view(num_classes, num_classes)  # [true class, predicted class]: how many pixels
    both = pairs.diagonal()  # (K,)
    either = pairs.sum(dim=0) + pairs.sum(dim=1) - both  # (K,)
    return both / either  # 0 / 0 is NaN


def mean_iou(predicted, masks, num_classes):
    """The mean of `class_iou` over the classes that occur, a float, 0..1. NaN if there are no pixels."""
    return class_iou(predicted, masks, num_classes).nanmean().item()


def dice_loss(logits, masks, smooth=1.0):
    """One minus the overlap of probabilities and true pixels, as a mean over the classes, each of which counts the same.

    logits: (B, K, H, W). masks: (B, H, W), whole numbers from 0 to K - 1. smooth: added above and below the fraction, so that a
    class that nobody sees gives 0 loss. Returns a scalar in 0..1: 1 - mean of (2 sum p t + smooth) / (sum p + sum t + smooth), where
    p are the probabilities of a class, t is 1 where it is true and else 0, and the sums go over the pixels of all images.
    Source: V-Net, Milletari et al. 2016, arXiv:1606.04797, section 3, which squares p and t below the fraction, for one class.
    """
    p = logits.softmax(dim=1)  # (B, K, H, W)
    t = F.one_hot(masks.long(), logits.shape[1]).movedim(-1, 1).to(p)  # (B, K, H, W)
    both = (p * t).sum(dim=(0, 2, 3))  # (K,)
    overlap = (2 * both + smooth) / (p.sum(dim=(0, 2, 3)) + t.sum(dim=(0, 2, 3)) + smooth)  # (K,)
    return 1 - overlap.mean()
