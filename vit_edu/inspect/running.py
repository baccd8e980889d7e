"""Running a model to look at it: in eval mode, on images that it can read."""

import contextlib

import torch


@contextlib.contextmanager
def eval_mode(model):
    """A `with` block in which the model is in eval mode. Afterwards each of its parts is back in the mode that it had before."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


def require_images(images):
    """Raise ValueError unless these are images as a model reads them: a batch of floats, (B, C, H, W), that is not empty."""
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(
            f"expected images as the model reads them, as normalised floats, got {found}. "
            "Use pretrained.preprocess(images, model) or data.normalize."
        )
    if images.ndim != 4:
        raise ValueError(
            f"expected a batch of images, (B, C, H, W), got {tuple(images.shape)}. "
            "A single image becomes a batch of one with image[None]."
        )
    if not len(images):
        raise ValueError("there are no images in this batch: expected (B, C, H, W) with at least one.")


def require_labels(labels, images):
    """Raise ValueError unless there is one class, as an integer, for each image."""
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"expected one class for each of the {len(images)} images, as integers of shape ({len(images)},), "
            f"got {labels.dtype} of shape {tuple(labels.shape)}."
        )


@torch.no_grad()
def logits_of(model, images, batch_size=256):
    """The model's logits for images as it reads them, a few at a time: (B, K). It runs in eval mode, and is left as it was."""
    with eval_mode(model):
        return torch.cat([model(chunk) for chunk in images.split(batch_size)])


def pair_of(value, what):
    """An int, or two of them, as two: (rows, cols). Raises ValueError unless they are positive whole numbers."""
    both = (value, value) if isinstance(value, int) else value
    try:
        rows, cols = both
        if rows == int(rows) > 0 and cols == int(cols) > 0:
            return int(rows), int(cols)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{what} are two positive whole numbers, (rows, cols), got {value!r}.")


def grid_of(grid, tokens, prefix):
    """(rows, cols) as two ints. Raises ValueError unless `prefix` tokens and the patches of this grid are all the tokens."""
    if isinstance(grid, int):
        raise ValueError(
            f"the grid is two numbers, (rows, cols), as from grid_and_prefix(model), got {grid}."
        )
    rows, cols = pair_of(grid, "the sides of a grid")
    if prefix < 0 or prefix + rows * cols != tokens:
        raise ValueError(
            f"{tokens} tokens are not {rows} x {cols} patches and {prefix} prefix tokens, which would be "
            f"{prefix + rows * cols}. grid_and_prefix(model) tells the grid and the prefix of a model."
        )
    return rows, cols
