"""Flips and crops of whole batches. Each image has its own random draw, and its mask and boxes move with it."""

import torch

# Where something moves to, as an angle in eighths of a turn; y points down
DIRECTIONS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")


def random_flip(images):
    """Mirror each image left to right with probability 1/2, independently of the others. (B, C, H, W) -> same shape."""
    flip = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5  # (B, 1, 1, 1)
    return torch.where(flip, images.flip(-1), images)


def random_crop(images, padding=4):
    """Shift each image by up to `padding` pixels, independently of the others, and fill the border with zeros.

    (B, C, H, W) -> same shape, any dtype. Same as torchvision's RandomCrop((H, W), padding=padding), for a whole
    batch in one gather.
    """
    B, _, H, W = images.shape
    padded = torch.nn.functional.pad(images, [padding] * 4)  # (B, C, H + 2p, W + 2p)
    # A view of all windows, (B, C, 2p + 1, 2p + 1, H, W): nothing is copied
    windows = padded.unfold(2, H, 1).unfold(3, W, 1)
    top, left = torch.randint(0, 2 * padding + 1, (2, B), device=images.device)  # 2 x (B,)
    return windows[torch.arange(B, device=images.device), :, top, left]  # (B, C, H, W)


def flip_and_crop(images, targets, flip=True, padding=4):
    """`random_flip` (if `flip`), then `random_crop` (unless padding is 0), for images together with their targets.

    images: (B, C, H, W), or clips (B, F, C, H, W), whose frames all move alike. targets: a dict, in which these entries
    move with the image:
    - "mask" (B, ..., H, W), like the image. The border is filled with 0, the background.
    - "boxes" (B, ..., 4): x1, y1, x2, y2 in pixels, from the left and upper edge of the image. They are cut off at its
      border. A row of -1 is unused, and a box of which nothing is left becomes such a row.
    - "classes" (B, ...), those of the boxes: -1 where the row of "boxes" is unused.
    - "direction" (B,), that of a motion: an index into `DIRECTIONS`.
    All other entries stay the same. The random draws are those of the two functions for images alone.
    Returns (images, targets).
    """
    B, device = len(images), images.device
    height, width = images.shape[-2:]
    together = {"images": images, **targets}
    if flip:
        flipped = torch.rand(B, device=device) < 0.5  # (B,)
        for name in together.keys() & _FLIPS.keys():
            together[name] = _FLIPS[name](together[name], flipped, width)
    if padding:
        top, left = torch.randint(0, 2 * padding + 1, (2, B), device=device)  # 2 x (B,)
        for name in together.keys() & _CROPS.keys():
            together[name] = _CROPS[name](together[name], top, left, padding, height, width)
        if together.keys() >= {"boxes", "classes"}:
            together["classes"] = together["classes"].where(together["boxes"][..., 0] >= 0, -1)
    return together.pop("images"), together


def _each(draw, values):
    """(B,) -> (B, 1, ..., 1), so that it broadcasts with `values` (B, ...)."""
    return draw.view(-1, *[1] * (values.ndim - 1))


def _flip_pixels(pixels, flipped, width):
    return torch.where(_each(flipped, pixels), pixels.flip(-1), pixels)


def _flip_boxes(boxes, flipped, width):
    x1, y1, x2, y2 = boxes.unbind(-1)
    mirrored = torch.stack([width - x2, y1, width - x1, y2], dim=-1)
    return torch.where(_each(flipped, boxes) & (boxes[..., :1] >= 0), mirrored, boxes)


def _flip_direction(direction, flipped, width):
    return torch.where(_each(flipped, direction), (4 - direction) % 8, direction)


def _crop_pixels(pixels, top, left, padding, height, width):
    B = len(pixels)
    padded = torch.nn.functional.pad(pixels.reshape(B, -1, height, width), [padding] * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view, as in `random_crop`
    return windows[torch.arange(B, device=pixels.device), :, top, left].reshape(pixels.shape)


def _crop_boxes(boxes, top, left, padding, height, width):
    x = (boxes[..., 0::2] + _each(padding - left, boxes)).clamp(0, width)  # (B, ..., 2): x1, x2
    y = (boxes[..., 1::2] + _each(padding - top, boxes)).clamp(0, height)  # (B, ..., 2): y1, y2
    moved = torch.stack([x, y], dim=-1).flatten(-2)  # (B, ..., 4)
    # An unused row has no width, and so stays unused
    left_over = (moved[..., 2:] > moved[..., :2]).all(-1, keepdim=True)
    return torch.where(left_over, moved, -1)


# How each kind of target moves, by its name
_FLIPS = {"images": _flip_pixels, "mask": _flip_pixels, "boxes": _flip_boxes, "direction": _flip_direction}
_CROPS = {"images": _crop_pixels, "mask": _crop_pixels, "boxes": _crop_boxes}
