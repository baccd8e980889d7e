"""Lesson 12: names of published weights, positions for another resolution."""

import re

import torch
import torch.nn.functional as F

from vit_edu import pretrained
from vit_edu.check.cases import Case, call, drawn
from vit_edu.check.engine import Exercise

# ---------------------------------------------------------------- names

_layer = "encoder.layers.encoder_layer_{}."

rename_key = Exercise(
    pretrained.rename_key,
    call("the class token", "class_token"),
    call("the patch projection", "conv_proj.weight"),
    call("the positions", "encoder.pos_embedding"),
    call(
        "queries, keys and values of block 0: the weight",
        _layer.format(0) + "self_attention.in_proj_weight",
    ),
    call(
        "queries, keys and values of block 3: the bias",
        _layer.format(3) + "self_attention.in_proj_bias",
    ),
    call("the output projection of block 7", _layer.format(7) + "self_attention.out_proj.weight"),
    call("a block with two digits, 11", _layer.format(11) + "ln_2.bias"),
    call("the first norm of block 1", _layer.format(1) + "ln_1.weight"),
    call("the MLP's first layer", _layer.format(0) + "mlp.0.weight"),
    call(
        "the MLP's second layer",
        _layer.format(0) + "mlp.3.bias",
        hint="Between 0 and 3 stand the GELU and a dropout.",
    ),
    call(
        "the last norm",
        "encoder.ln.weight",
        hint="encoder.ln belongs to the encoder, ln_1 and ln_2 to a block.",
    ),
    call("the head", "heads.head.bias"),
    Case(
        "every name of a model with two blocks",
        lambda f: {
            k: f(k) for name in pretrained.TORCHVISION for k in {name.format(i=0), name.format(i=1)}
        },
    ),
)


@rename_key.alternative
def by_replacing(key):
    key = re.sub(r"encoder\.layers\.encoder_layer_(\d+)", r"blocks.\1", key)
    for old, new in (
        ("class_token", "cls_token"),
        ("conv_proj", "patch_embed.proj"),
        ("encoder.pos_embedding", "pos_embed"),
        ("ln_1", "norm1"),
        ("ln_2", "norm2"),
        ("self_attention.in_proj_", "attn.qkv."),
        ("self_attention.out_proj", "attn.proj"),
        ("mlp.0", "mlp.fc1"),
        ("mlp.3", "mlp.fc2"),
        ("encoder.ln", "norm"),
        ("heads.head", "head"),
    ):
        key = key.replace(old, new)
    return key


@rename_key.mistake(
    "The two norms of a block are exchanged. ln_1 stands before attention, ln_2 before the MLP: shapes are equal, so "
    "nothing would crash."
)
def norms_exchanged(key):
    swap = {"ln_1": "ln_2", "ln_2": "ln_1"}
    return pretrained.rename_key(re.sub("ln_[12]", lambda m: swap[m.group()], key))


@rename_key.mistake(
    "`in_proj_weight` has an underscore where our name has a dot: attn.qkv.weight. It is a bare parameter there, a "
    "Linear's here."
)
def underscore_kept(key):
    return pretrained.rename_key(key).replace("qkv.", "qkv_")


@rename_key.mistake(
    "Only one digit of the block number survives: block 11 became block 1, and would overwrite it."
)
def one_digit(key):
    return re.sub(r"blocks\.(\d)\d+", r"blocks.\1", pretrained.rename_key(key))


@rename_key.mistake(
    "The MLP's second layer became fc1 or fc3: in torchvision it is number 3 of a sequence, after GELU and dropout. "
    "In ours it is fc2."
)
def fc3(key):
    return pretrained.rename_key(key).replace("fc2", "fc3")


# ---------------------------------------------------------------- positions

resize_pos_embed = Exercise(
    pretrained.resize_pos_embed,
    call("the same grid changes nothing", drawn(1, 17, 6), (4, 4)),
    call("from 4 x 4 to 8 x 8", drawn(1, 17, 6), (8, 8)),
    call("to a grid that is wider than high", drawn(1, 10, 4), (2, 5)),
    call("to a smaller grid", drawn(1, 37, 4), (3, 3)),
    call("no class token", drawn(1, 16, 6), (6, 6), num_prefix_tokens=0),
    call("two prefix tokens", drawn(1, 18, 6), (6, 6), num_prefix_tokens=2),
)


def _resize(pos_embed, new_grid, prefix=1, **how):
    head, grid = pos_embed[:, :prefix], pos_embed[:, prefix:]
    n = int(grid.shape[1] ** 0.5)
    grid = grid.reshape(1, n, n, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(
        grid, size=tuple(new_grid), **{"mode": "bicubic", "antialias": True, **how}
    )
    return torch.cat([head, grid.flatten(2).mT], dim=1)


@resize_pos_embed.alternative
def axis_by_axis(pos_embed, new_grid, num_prefix_tokens=1):
    """Bicubic interpolation is separable: first the rows, then the columns."""
    head, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = round(grid.shape[1] ** 0.5)
    grid = grid.unflatten(1, (n, n)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new_grid[0], n), mode="bicubic", antialias=True)
    grid = F.interpolate(grid, size=tuple(new_grid), mode="bicubic", antialias=True)
    return torch.cat([head, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


@resize_pos_embed.mistake(
    "The class token is interpolated with the patches, or has been dropped. It has no place on the grid: set it aside first, "
    "and put it back in front."
)
def prefix_dropped(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, new_grid, num_prefix_tokens)[:, num_prefix_tokens:]


@resize_pos_embed.mistake(
    "The class token's position stands at the end now. It belongs in front, where it was."
)
def prefix_at_end(pos_embed, new_grid, num_prefix_tokens=1):
    out = _resize(pos_embed, new_grid, num_prefix_tokens)
    return torch.cat([out[:, num_prefix_tokens:], out[:, :num_prefix_tokens]], dim=1)


@resize_pos_embed.mistake(
    "Rows and columns of the new grid are exchanged on the way back: the axes after interpolation are (1, D, rows, cols)."
)
def transposed(pos_embed, new_grid, num_prefix_tokens=1):
    out = _resize(pos_embed, new_grid, num_prefix_tokens)
    head, grid = out[:, :num_prefix_tokens], out[:, num_prefix_tokens:]
    grid = grid.unflatten(1, tuple(new_grid)).transpose(1, 2).flatten(1, 2)
    return torch.cat([head, grid], dim=1)


@resize_pos_embed.mistake(
    "The vectors were poured into (1, D, n, n) with a reshape. The tokens come first in memory, so (1, n, n, D) first, then "
    "permute."
)
def reshape_for_permute(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = int(grid.shape[1] ** 0.5)
    grid = grid.reshape(1, -1, n, n)
    grid = F.interpolate(grid, size=tuple(new_grid), mode="bicubic", antialias=True)
    return torch.cat([head, grid.flatten(2).mT], dim=1)


@resize_pos_embed.mistake(
    "This interpolates linearly. The exercise, and most published code, uses mode='bicubic'."
)
def bilinear(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, new_grid, num_prefix_tokens, mode="bilinear")


@resize_pos_embed.mistake(
    "Without antialias=True, going to a smaller grid leaves out positions instead of averaging them."
)
def no_antialias(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, new_grid, num_prefix_tokens, antialias=False)


EXERCISES = [rename_key, resize_pos_embed]
