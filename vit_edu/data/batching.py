"""From a split to batches of normalised images."""

import torch

from vit_edu.data.geometry import flip_and_crop


def normalize(images, mean, std):
    """uint8 (B, C, H, W) in 0..255 -> float32 with mean 0 and standard deviation 1 over the training pixels."""
    return (images.float() / 255 - mean) / std


def denormalize(images, mean, std):
    """The inverse of `normalize`, as float32 in 0..1, to be displayed."""
    return (images * std + mean).clamp(0, 1)


def batches(split, batch_size, mean, std, train=False, generator=None, crop=4, flip=True, augment=()):
    """Go once over a split in batches of normalised float32 images.

    train=True shuffles the images, flips them (if `flip`), shifts them by up to `crop` pixels (0 leaves them in place)
    and drops the last batch if it is smaller than the others. generator: a CPU generator for the order. augment: functions of
    a batch of images as they are stored, uint8 (B, C, H, W), that take the place of flips and shifts, one after the other.
    Yields (images (B, C, H, W), labels (B,)) on the split's device. If the split has further targets, a dict takes the
    place of the labels. It holds them as "labels", beside the other targets. Raises ValueError for an empty split, for
    batches of less than one image, and for `augment` where further targets would have to move with the images.
    """
    if batch_size < 1:
        raise ValueError(f"a batch has at least one image, got batch_size={batch_size}.")
    if len(split) == 0:
        raise ValueError("there are no images to make batches of, because the split is empty.")
    if augment and split.targets:
        raise ValueError(
            f"augment changes the images alone, and {', '.join(split.targets)} would have to move with them. Leave augment out."
        )
    order = torch.randperm(len(split), generator=generator) if train else torch.arange(len(split))
    full = len(split) // batch_size * batch_size if train and len(split) >= batch_size else len(split)
    for chunk in order[:full].to(split.labels.device).split(batch_size):
        batch = split.pick(chunk)
        images, targets = batch.images, batch.targets
        if train and augment:
            for function in augment:
                images = function(images)
        elif train:
            images, targets = flip_and_crop(images, targets, flip, crop)
        yield normalize(images, mean, std), {"labels": batch.labels, **targets} if targets else batch.labels
