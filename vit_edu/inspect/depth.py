"""What changes from block to block: the tokens on their way, how alike they are, and how alike two layers are."""

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu.inspect.running import eval_mode, require_images, seen


@torch.no_grad()
def hidden_tokens(model, images):
    """The tokens on their way through a model: (L + 1, B, T, D), before the first block and after each one.

    model: any model of the course with `blocks`, or a converted one. images: (B, C, H, W), floats as the model reads them.
    Raises ValueError for a model without blocks of tokens, and for images that are not floats, or none at all.
    """
    require_images(images, clips=True)
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, (nn.Sequential, nn.ModuleList)) or not len(blocks):
        raise ValueError(
            f"{type(model).__name__} has no list of blocks to look behind: expected a model such as ViT or HybridViT."
        )
    found, hooks = [], []
    try:
        hooks.append(
            blocks[0].register_forward_pre_hook(lambda block, inputs: found.append(inputs[0].clone()))
        )
        for block in blocks:
            hooks.append(
                block.register_forward_hook(lambda block, inputs, output: found.append(output.clone()))
            )
        with eval_mode(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    if any(tokens.ndim != 3 or tokens.shape != found[0].shape for tokens in found):
        shapes = " and ".join(sorted({str(tuple(tokens.shape)) for tokens in found}))
        raise ValueError(
            f"the blocks of {type(model).__name__} do not pass on tokens of one shape, (B, T, D), but {shapes}."
        )
    return torch.stack(found)


def token_similarity(tokens, prefix=0):
    """How alike the patches of one image are, at each depth: the mean cosine of all pairs of different tokens, (L + 1,).

    tokens: (L + 1, B, T, D), as from `hidden_tokens`. prefix: how many tokens in front have no patch; they are left out.
    Averaged over pairs and images. Raises ValueError if there are fewer than two patches.
    """
    if tokens.ndim != 4 or tokens.shape[2] - prefix < 2 or prefix < 0:
        raise ValueError(
            f"expected tokens, (L + 1, B, T, D), with at least two patches behind {prefix} prefix tokens, "
            f"got {seen(tokens)}."
        )
    directions = F.normalize(tokens[:, :, prefix:], dim=-1)  # (L + 1, B, N, D)
    N = directions.shape[2]
    # The squared length of the sum holds each pair twice, and each token with itself
    both = directions.sum(dim=2).square().sum(dim=-1)  # (L + 1, B)
    alone = directions.square().sum(dim=(2, 3))  # (L + 1, B): N, unless a token is zero
    return ((both - alone) / (N * (N - 1))).mean(dim=1)


def cka(x, y):
    """How alike two layers describe the same n images: linear CKA, a float from 0 to 1.

    x: (n, p), y: (n, q), one row for each image. It does not change if the features of a side are rotated, or multiplied by
    one number, but it does for other linear maps.
    Source: Kornblith et al. 2019, arXiv:1905.00414, section 3; equal to CKA with linear kernels and the biased HSIC.
    Raises ValueError for other shapes, and if one side is the same for all images.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(
            "expected two layers' features of the same images, (n, p) and (n, q) with n at least 2, "
            f"got {seen(x)} and {seen(y)}."
        )
    x, y = (z.detach().cpu().double() for z in (x, y))
    sizes = [z.norm() for z in (x, y)]
    x, y = (z - z.mean(dim=0) for z in (x, y))
    if not all(z.norm() > 1e-12 * size for z, size in zip((x, y), sizes, strict=True)):  # not for nan, either
        raise ValueError(
            "one of the layers has the same features for all images, or some that are not numbers."
        )
    return (_overlap(x, y) / (_overlap(x, x) * _overlap(y, y)).sqrt()).item()


def _overlap(x, y):
    """||y^T x||^2, the sum of all squares, in the cheaper of two ways: over pairs of features, or over pairs of images."""
    if x.shape[1] * y.shape[1] > len(x) ** 2:
        return ((x @ x.mT) * (y @ y.mT)).sum()
    return (y.mT @ x).square().sum()
