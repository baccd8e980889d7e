"""Looking inside a model: what its tokens pay attention to, in every block.

A model is looked at in eval mode and without gradients, and is left as it was. Letters of shapes as in `models.vit`; L blocks.
"""

import contextlib
import functools

import torch

from vit_edu.models.vit import Attention, scaled_dot_product_attention, split_heads


@contextlib.contextmanager
def eval_mode(model):
    """A `with` block in which the model is in eval mode; afterwards each of its parts has the mode that it had before."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def attention_maps(model, images):
    """The attention weights of all blocks, from one forward pass: (L, B, h, T, T), first block first.

    model: any model with the course's `Attention`, such as `ViT`, `HybridViT` or `PublishedViT`. images: (B, C, H, W), floats
    as the model reads them. Row i of a map says where token i looks, and sums to 1. Tokens are in the model's order: those
    without a patch first (class token, distillation token, registers), then the patches in reading order.

    The pass itself uses fused attention, as always, which never stores these weights; they are computed beside it from the
    queries and keys, by `scaled_dot_product_attention`. They take L * B * h * T**2 numbers: for a ViT-B/16 at 224 x 224
    pixels, 22 MB for each image in float32.
    Raises ValueError for a model without such a layer, and for images that are not floats.
    """
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no attention to look at: expected a model with blocks of models.vit.Attention, "
            "such as ViT or HybridViT. Weights of other libraries become one by pretrained.from_model."
        )
    if not images.is_floating_point():
        raise ValueError(
            f"expected images as the model reads them, floats that are normalised; got {images.dtype}. "
            "pretrained.preprocess(images, model) or data.normalize makes them so."
        )
    maps, hooks = [], []
    try:
        for layer in layers:
            keep = functools.partial(_keep_weights, maps, layer.num_heads)
            hooks.append(layer.qkv.register_forward_hook(keep))
        with eval_mode(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps)


def _keep_weights(maps, num_heads, layer, inputs, output):
    """A hook on `Attention.qkv`: from what it returns, (B, T, 3D), the weights, (B, h, T, T), appended to `maps`."""
    q, k, v = (split_heads(y, num_heads) for y in output.chunk(3, dim=-1))  # 3 x (B, h, T, d)
    maps.append(scaled_dot_product_attention(q, k, v)[1])
