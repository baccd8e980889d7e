"""Looking inside a model: what its tokens pay attention to, in every block.

Models run in eval mode and without gradients, and are left as they were. Letters in shapes are those of `models.vit`, and
L is the number of blocks.
"""

import contextlib
import functools

import torch

from vit_edu.models.vit import Attention, scaled_dot_product_attention, split_heads


@contextlib.contextmanager
def eval_mode(model):
    """A `with` block in which the model is in eval mode. Afterwards each of its parts is back in the mode that it had before."""
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

    The pass itself uses fused attention, as always, which never stores these weights. They are computed separately from the
    queries and keys, by `scaled_dot_product_attention`. There are L * B * h * T**2 of them, which takes 22 MB for each image
    in float32 for a ViT-B/16 at 224 x 224 pixels.
    Raises ValueError for a model without such a layer, and for images that are not floats.
    """
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no attention to look at: expected a model with blocks of models.vit.Attention, "
            "such as ViT or HybridViT. pretrained.from_model turns models of other libraries into one."
        )
    if not images.is_floating_point():
        raise ValueError(
            f"expected images as the model reads them, as normalised floats, got {images.dtype}. "
            "Use pretrained.preprocess(images, model) or data.normalize."
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
    """A hook on `Attention.qkv`: compute the weights (B, h, T, T) from its output (B, T, 3D), and append them to `maps`."""
    q, k, v = (split_heads(y, num_heads) for y in output.chunk(3, dim=-1))  # 3 x (B, h, T, d)
    maps.append(scaled_dot_product_attention(q, k, v)[1])
