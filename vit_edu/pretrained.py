"""Published weights in our `ViT`, key by key. A first version: torchvision's models.

Names are mapped one by one, never by order, and completely in both directions: each key of theirs is used, each of
ours is filled.
"""

import re
from pathlib import Path

import torch
import torch.nn.functional as F

from vit_edu import data
from vit_edu.models.vit import ViT

# torchvision's name -> ours; {i} is the number of the block.
TORCHVISION = {
    "class_token": "cls_token",
    "conv_proj.weight": "patch_embed.proj.weight",
    "conv_proj.bias": "patch_embed.proj.bias",
    "encoder.pos_embedding": "pos_embed",
    "encoder.layers.encoder_layer_{i}.ln_1.weight": "blocks.{i}.norm1.weight",
    "encoder.layers.encoder_layer_{i}.ln_1.bias": "blocks.{i}.norm1.bias",
    "encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight": "blocks.{i}.attn.qkv.weight",
    "encoder.layers.encoder_layer_{i}.self_attention.in_proj_bias": "blocks.{i}.attn.qkv.bias",
    "encoder.layers.encoder_layer_{i}.self_attention.out_proj.weight": "blocks.{i}.attn.proj.weight",
    "encoder.layers.encoder_layer_{i}.self_attention.out_proj.bias": "blocks.{i}.attn.proj.bias",
    "encoder.layers.encoder_layer_{i}.ln_2.weight": "blocks.{i}.norm2.weight",
    "encoder.layers.encoder_layer_{i}.ln_2.bias": "blocks.{i}.norm2.bias",
    "encoder.layers.encoder_layer_{i}.mlp.0.weight": "blocks.{i}.mlp.fc1.weight",
    "encoder.layers.encoder_layer_{i}.mlp.0.bias": "blocks.{i}.mlp.fc1.bias",
    "encoder.layers.encoder_layer_{i}.mlp.3.weight": "blocks.{i}.mlp.fc2.weight",
    "encoder.layers.encoder_layer_{i}.mlp.3.bias": "blocks.{i}.mlp.fc2.bias",
    "encoder.ln.weight": "norm.weight",
    "encoder.ln.bias": "norm.bias",
    "heads.head.weight": "head.weight",
    "heads.head.bias": "head.bias",
}


class WeightsError(Exception):
    """Weights and model do not fit; the text shows both sides."""


def rename_key(key):
    """torchvision's name of a parameter -> ours. Raises WeightsError for a name that is not in the table."""
    number = re.search(r"encoder_layer_(\d+)", key)
    pattern = key.replace(number.group(), "encoder_layer_{i}") if number else key
    if pattern not in TORCHVISION:
        raise WeightsError(
            f"no name of torchvision's ViT: {key!r}. Known are: {', '.join(TORCHVISION)}."
        )
    return TORCHVISION[pattern].replace("{i}", number.group(1) if number else "")


def load_by_name(model, weights):
    """Load a state dict that has our names; the model is changed only when every key and every shape fits.

    Raises WeightsError that lists what is missing, what is not expected and which shapes differ.
    """
    mine = model.state_dict()
    problems = [f"missing: {k}, shape {tuple(mine[k].shape)}" for k in mine if k not in weights]
    problems += [
        f"not expected: {k}, shape {tuple(v.shape)}" for k, v in weights.items() if k not in mine
    ]
    problems += [
        f"{k}: the model has shape {tuple(mine[k].shape)}, the weights have {tuple(v.shape)}"
        for k, v in weights.items()
        if k in mine and v.shape != mine[k].shape
    ]
    if problems:
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise WeightsError(
            "the weights do not fit the model:\n  " + "\n  ".join(problems[:8]) + more
        )
    model.load_state_dict(weights)


def from_torchvision(theirs):
    """Our `ViT` with the weights of a torchvision `VisionTransformer`, in eval mode; the two give equal logits."""
    model = ViT(
        img_size=theirs.image_size,
        patch_size=theirs.patch_size,
        num_classes=theirs.num_classes,
        embed_dim=theirs.hidden_dim,
        depth=len(theirs.encoder.layers),
        num_heads=theirs.encoder.layers[0].num_heads,
        mlp_ratio=theirs.mlp_dim / theirs.hidden_dim,
    )
    load_by_name(model, {rename_key(k): v for k, v in theirs.state_dict().items()})
    return model.eval()


def torchvision_vit(name="vit_b_16"):
    """A torchvision ViT in eval mode, and in words where its weights come from.

    Published ImageNet weights where they are in torch's cache or can be downloaded (checksum verified by
    torchvision), else random ones: the mapping of names can be shown with either. Nothing is downloaded under
    VIT_EDU_FAST=1. Returns (model, has published weights, reason).
    """
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    try:
        if not cached.exists():
            if data.fast():
                raise data.DataError("VIT_EDU_FAST=1 asks for no download.")
            data.require_network(weights.url)
            print(
                f"Downloading {weights} into {cached.parent}. Interrupt to go on with random weights."
            )
        model = models.get_model(name, weights=weights.__class__(weights))
        return model.eval(), True, f"{weights}, from {cached.parent}."
    except (data.DataError, OSError, RuntimeError, KeyboardInterrupt) as error:
        torch.manual_seed(0)
        model = models.get_model(name, weights=None)
        with torch.no_grad():  # torchvision starts the head at zero: then all logits would be equal
            model.heads.head.weight.normal_(std=0.02)
        why = str(error) or "the download was interrupted."
        return model.eval(), False, f"random weights, because {weights} could not be had: {why}"


def resize_pos_embed(pos_embed, new_grid, num_prefix_tokens=1):
    """Position embeddings for another grid of patches, by bicubic interpolation (paper, section 3.2).

    pos_embed: (1, prefix + n*n, D), learned on a square grid. new_grid: (rows, cols). The prefix tokens (the
    class token) have no place on the grid and stay as they are. Returns (1, prefix + rows*cols, D).
    Raises ValueError when the old grid is not square. Same as timm's `resample_abs_pos_embed`.
    """
    prefix, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = int(grid.shape[1] ** 0.5 + 0.5)
    if n * n != grid.shape[1]:
        raise ValueError(
            f"{grid.shape[1]} positions are not a square grid; with {num_prefix_tokens} prefix tokens of "
            f"{pos_embed.shape[1]}. Is num_prefix_tokens right?"
        )
    grid = grid.reshape(1, n, n, -1).permute(0, 3, 1, 2)  # (1, D, n, n)
    grid = F.interpolate(
        grid, size=tuple(new_grid), mode="bicubic", antialias=True, align_corners=False
    )
    return torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)  # (1, prefix + rows*cols, D)
