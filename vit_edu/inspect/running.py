"""Running a model to look at it: in eval mode, on images that it can read."""

import contextlib
import operator

import torch
from torch import nn


@contextlib.contextmanager
def eval_mode(model):
    """A `with` block in which the model is in eval mode. Afterwards each of its parts is back in the mode that it had before."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


def require_images(images, clips=False):
    """Raise ValueError unless these are images as a model reads them: a batch of floats, (B, C, H, W), that is not empty.

    clips: whether it may also be a batch of clips, (B, F, C, H, W).
    """
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(
            f"expected images as the model reads them, as normalised floats, got {found}. "
            "Use pretrained.preprocess(images, model) or data.normalize."
        )
    if images.ndim != 4 and not (clips and images.ndim == 5):
        raise ValueError(
            f"expected a batch of images, (B, C, H, W), got {tuple(images.shape)}. "
            "A single image becomes a batch of one with image[None]."
        )
    if not len(images):
        raise ValueError("there are no images in this batch: expected (B, C, H, W) with at least one.")


def require_labels(labels, images):
    """Raise ValueError unless there is one class, as an integer, for each image."""
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.shape != images.shape[:1]:
        raise ValueError(
            f"expected one class for each of the {len(images)} images, as a tensor of integers, ({len(images)},), got {seen(labels)}."
        )


def seen(value):
    """What was passed, in words, for a message: the dtype and shape of a tensor, or else a type."""
    if not isinstance(value, torch.Tensor):
        return f"a value of type {type(value).__name__}"
    return f"{value.dtype} of shape {tuple(value.shape)}"


def require_classes(labels, logits):
    """Raise ValueError unless all labels are classes of the model that gave these logits, (B, K)."""
    K = logits.shape[1]
    if labels.min() < 0 or labels.max() >= K:
        raise ValueError(
            f"the model has {K} classes, 0 to {K - 1}, but the labels go from {labels.min()} to {labels.max()}."
        )


def require_head(model):
    """Raise ValueError for a model that gives features instead of logits."""
    if isinstance(getattr(model, "head", None), nn.Identity):
        raise ValueError(
            f"this {type(model).__name__} has no head, so it does not name a class: build or load it with num_classes."
        )


@torch.no_grad()
def logits_of(model, images, batch_size=256):
    """The model's logits for images as it reads them, a few at a time: (B, K). It runs in eval mode, and is left as it was."""
    require_head(model)
    with eval_mode(model):
        return torch.cat([model(chunk) for chunk in images.split(batch_size)])


def whole_number(value, what):
    """The value as an int. Raises ValueError, which starts with `what`, for anything that is not one, such as 1.0 or a list."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{what} must be a whole number, got {value!r}.") from None


def require_order(order, count, what):
    """The order as a tensor (count,). Raises ValueError unless it holds each of 0 .. count - 1 once; `what` is what it orders."""
    order = torch.as_tensor(order)
    counted = torch.arange(count, device=order.device)
    if order.is_floating_point() or not torch.equal(order.sort().values, counted):
        raise ValueError(
            f"an order of {count} {what} holds each number from 0 to {count - 1} once, as torch.randperm({count}) does, "
            f"got {seen(order)}."
        )
    return order


def grid_sides(grid):
    """(rows, cols) as two ints. Raises ValueError unless these are two whole numbers, 1 or more."""
    return _two(grid, "a grid is two whole numbers, (rows, cols), as grid_and_prefix(model) returns them")


def patch_sides(patch_size):
    """P, or (rows, cols), as two ints, in pixels. Raises ValueError unless they are whole numbers, 1 or more."""
    both = patch_size if isinstance(patch_size, (tuple, list)) else (patch_size, patch_size)
    return _two(both, "a patch size is a whole number of pixels, or two of them, (rows, cols)")


def _two(both, expected):
    try:
        rows, cols = (operator.index(side) for side in both)
    except (TypeError, ValueError):
        rows = cols = 0
    if rows < 1 or cols < 1:
        raise ValueError(f"{expected}; got {both!r}.")
    return rows, cols


def require_grid(grid, tokens, prefix):
    """(rows, cols) as two ints. Raises ValueError unless `prefix` tokens and the patches of this grid are all the tokens."""
    rows, cols = grid_sides(grid)
    if prefix < 0 or prefix + rows * cols != tokens:
        raise ValueError(
            f"a grid of {rows} x {cols} patches and {prefix} prefix tokens would be {prefix + rows * cols} tokens, but "
            f"there are {tokens}. grid_and_prefix(model) returns the grid and the prefix of a model."
        )
    return rows, cols
