"""Lesson 12: names of published weights, positions for another resolution."""

import re

import torch
import torch.nn.functional as F
from einops import rearrange

from vit_edu import pretrained
from vit_edu.check.cases import Case, call, drawn, not_contiguous
from vit_edu.check.engine import Exercise

# ---------------------------------------------------------------- names

_layer = "encoder.layers.encoder_layer_{}."


def _all_names(candidate):
    names = {name.format(i=i) for name in pretrained.TORCHVISION for i in range(2)}
    return {name: candidate(name) for name in sorted(names)}


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
    Case("every name of a model with two blocks", _all_names),
    hints=(
        "Put one of their names next to ours, part by part. Which parts change, and which stay as they are?",
        "A chain of replacements is enough: the table of the exercise, row by row. A replacement makes a new string. Mind "
        "what one row leaves behind for the next, and the one place where `_` becomes a dot.",
        '`for old, new in (("class_token", "cls_token"), ..., ("heads.head", "head")):`\n`    key = key.replace(...)`\n'
        "`return key`",
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


@rename_key.alternative
def by_parts(key):
    parts = key.split(".")
    if parts[0] == "class_token":
        return "cls_token"
    if parts[0] == "conv_proj":
        return f"patch_embed.proj.{parts[-1]}"
    if parts[0] == "heads":
        return f"head.{parts[-1]}"
    if parts[1] == "pos_embedding":
        return "pos_embed"
    if parts[1] == "ln":
        return f"norm.{parts[-1]}"
    block = f"blocks.{parts[2].removeprefix('encoder_layer_')}"
    if parts[3].startswith("ln_"):
        return f"{block}.norm{parts[3][-1]}.{parts[-1]}"
    if parts[3] == "mlp":
        return f"{block}.mlp.{'fc1' if parts[4] == '0' else 'fc2'}.{parts[-1]}"
    if parts[4] == "out_proj":
        return f"{block}.attn.proj.{parts[-1]}"
    return f"{block}.attn.qkv.{parts[-1].split('_')[-1]}"


@rename_key.alternative
def by_one_big_table(key):
    table = {"class_token": "cls_token", "encoder.pos_embedding": "pos_embed"}
    for kind in ("weight", "bias"):
        table[f"conv_proj.{kind}"] = f"patch_embed.proj.{kind}"
        table[f"encoder.ln.{kind}"] = f"norm.{kind}"
        table[f"heads.head.{kind}"] = f"head.{kind}"
        for i in range(12):
            theirs, ours = _layer.format(i), f"blocks.{i}."
            table[f"{theirs}self_attention.in_proj_{kind}"] = f"{ours}attn.qkv.{kind}"
            table[f"{theirs}self_attention.out_proj.{kind}"] = f"{ours}attn.proj.{kind}"
            for a, b in (("ln_1", "norm1"), ("ln_2", "norm2"), ("mlp.0", "mlp.fc1")):
                table[f"{theirs}{a}.{kind}"] = f"{ours}{b}.{kind}"
            table[f"{theirs}mlp.3.{kind}"] = f"{ours}mlp.fc2.{kind}"
    return table[key]


@rename_key.alternative
def by_patterns(key):
    patterns = {
        r"class_token": r"cls_token",
        r"encoder\.pos_embedding": r"pos_embed",
        r"conv_proj\.(.+)": r"patch_embed.proj.\1",
        r"(?:encoder|heads)\.(ln|head)\.(.+)": r"\1.\2",
        r".*_(\d+)\.ln_(\d)\.(.+)": r"blocks.\1.norm\2.\3",
        r".*_(\d+)\.mlp\.(\d)\.(.+)": r"blocks.\1.mlp.fc\2.\3",
        r".*_(\d+)\.self_attention\.in_proj_(.+)": r"blocks.\1.attn.qkv.\2",
        r".*_(\d+)\.self_attention\.out_(proj\..+)": r"blocks.\1.attn.\2",
    }
    for pattern, new in patterns.items():
        if re.fullmatch(pattern, key):
            key = re.sub(pattern, new, key)
            break
    return re.sub("^ln", "norm", key).replace("fc0", "fc1").replace("fc3", "fc2")


@rename_key.mistake(
    "The name comes back unchanged. A string is never changed in place: `key.replace(...)` makes a new one. Where does it "
    "go?",
    talk='Run `s = "abc"; s.replace("a", "x"); print(s)` and let the class predict what it prints.',
)
def replaced_but_not_kept(key):
    key.replace("class_token", "cls_token")
    return key


@rename_key.mistake(
    "The two norms of a block are exchanged. ln_1 stands before attention, ln_2 before the MLP: shapes are equal, so "
    "nothing would crash.",
    talk="Ask which check would find this after loading: names, shapes, or the logits?",
)
def norms_exchanged(key):
    swap = {"ln_1": "ln_2", "ln_2": "ln_1"}
    return pretrained.rename_key(re.sub("ln_[12]", lambda m: swap[m.group()], key))


@rename_key.mistake(
    "The norms of a block are counted from 0. Ours have the numbers of theirs: norm1 and norm2.",
    talk="Print the names of `ViT().blocks[0].state_dict()` and look for a norm0.",
)
def norms_from_zero(key):
    ours = pretrained.rename_key(key)
    return re.sub(r"norm([12])", lambda m: f"norm{int(m.group(1)) - 1}", ours)


@rename_key.mistake(
    "`in_proj_weight` has an underscore where our name has a dot: attn.qkv.weight. It is a bare parameter there, a "
    "Linear's here.",
    talk="Ask which object in our model has an attribute called `weight`, and what the dot in front of it means.",
)
def underscore_kept(key):
    return pretrained.rename_key(key).replace("qkv.", "qkv_")


@rename_key.mistake(
    "The attention of the block is found, but `in_proj_...` was kept. What is the layer called in our attention that "
    "makes queries, keys and values at once?",
    talk="Open `Attention` of lesson 03 and let somebody read out the names of its two layers.",
)
def in_proj_kept(key):
    return pretrained.rename_key(key).replace("qkv.", "in_proj_")


@rename_key.mistake(
    "`out_proj` kept its prefix. Our attention calls its last layer `proj`.",
    talk="Ask for the two projections of an attention layer: what does each of them take in?",
)
def out_proj_kept(key):
    return pretrained.rename_key(key).replace("attn.proj", "attn.out_proj")


@rename_key.mistake(
    "Only one digit of the block number survives: block 11 became block 1, and would overwrite it.",
    talk="Ask how many different names come out of a model with twelve blocks, and how many should.",
)
def one_digit(key):
    return re.sub(r"blocks\.(\d)\d+", r"blocks.\1", pretrained.rename_key(key))


@rename_key.mistake(
    "The blocks are counted from 1. Both models count from 0: the first would stay empty, and the last has no place.",
    talk="Ask what `load_by_name` would list as missing, and what as not expected.",
)
def blocks_from_one(key):
    return re.sub(
        r"blocks\.(\d+)", lambda m: f"blocks.{int(m.group(1)) + 1}", pretrained.rename_key(key)
    )


@rename_key.mistake(
    "The prefix `encoder.layers.` still stands in front of `blocks`. Replace it together with `encoder_layer_`.",
    talk="Ask what a dot in a name stands for, and whether our model has an attribute called `encoder`.",
)
def prefix_left(key):
    return re.sub("^blocks", "encoder.layers.blocks", pretrained.rename_key(key))


@rename_key.mistake(
    "The block and its number are joined by `_`, as theirs are. Ours are the items of a list of modules: the number "
    "stands between dots.",
    talk="Print the names of `nn.Sequential(nn.Linear(1, 1)).state_dict()` and ask where the 0 comes from.",
)
def number_behind_underscore(key):
    return pretrained.rename_key(key).replace("blocks.", "blocks_")


@rename_key.mistake(
    "The head is now called `head.head`: only a part of `heads.head` was replaced.",
    talk='Run `"heads.head".replace("heads", "head")` and ask which of the two words was meant.',
)
def head_twice(key):
    return pretrained.rename_key(key).replace("head.", "head.head.")


@rename_key.mistake(
    "The prefix `encoder` was left at the last norm. Ours stands at the top of the model, next to the head.",
    talk="Ask which tensors of theirs start with `encoder.` without belonging to a block.",
)
def encoder_left_at_the_norm(key):
    return re.sub("^norm", "encoder.norm", pretrained.rename_key(key))


@rename_key.mistake(
    "The prefix `encoder` was left at the positions. In our model they are a parameter of the ViT itself.",
    talk="Ask where the positions are added: inside the encoder, or before the first block?",
)
def encoder_left_at_the_positions(key):
    return re.sub("^pos_embed", "encoder.pos_embed", pretrained.rename_key(key))


@rename_key.mistake(
    "The last norm is still called `ln`. A rule for ln_1 and ln_2 does not reach it: it has no number.",
    talk="Ask how many layer norms a ViT with twelve blocks has: 24 or 25?",
)
def last_norm_kept(key):
    return re.sub("^norm", "ln", pretrained.rename_key(key))


@rename_key.mistake(
    "Head and last norm are exchanged. `heads.head` names the classes, `encoder.ln` comes just before it.",
    talk="Ask for the shape of each of the two, and which of them depends on the number of classes.",
)
def head_and_norm_exchanged(key):
    swap = {"norm": "head", "head": "norm"}
    return re.sub("^(norm|head)", lambda m: swap[m.group()], pretrained.rename_key(key))


@rename_key.mistake(
    "The MLP's second layer became fc3: in torchvision it is number 3 of a sequence, after GELU and dropout. "
    "Ours counts only the layers that learn.",
    talk="Print `theirs.encoder.layers[0].mlp` and count its parts from 0.",
)
def fc3(key):
    return pretrained.rename_key(key).replace("fc2", "fc3")


@rename_key.mistake(
    "The numbers 0 and 3 went into the names as they are. What are the two Linear "
    "layers of our `Mlp` called?",
    talk="Ask which of the parts 0 to 4 of their MLP have weights at all.",
)
def mlp_numbers_kept(key):
    return pretrained.rename_key(key).replace("fc1", "fc0").replace("fc2", "fc3")


@rename_key.mistake(
    "The two layers of the MLP are exchanged. Number 0 widens and is our fc1; number 3 brings the width back.",
    talk="Ask for the shapes of both weights at width 768, and whether loading would notice.",
)
def mlp_exchanged(key):
    swap = {"fc1": "fc2", "fc2": "fc1"}
    return re.sub("fc[12]", lambda m: swap[m.group()], pretrained.rename_key(key))


@rename_key.mistake(
    "The ending `weight` or `bias` is gone: both tensors of a layer get one name, and the second overwrites the first.",
    talk="Ask how many keys a dictionary has after two values were stored under the same one.",
)
def ending_lost(key):
    return re.sub(r"\.(weight|bias)$", "", pretrained.rename_key(key))


# ---------------------------------------------------------------- positions


resize_pos_embed = Exercise(
    pretrained.resize_pos_embed,
    call("the same grid changes nothing", drawn(1, 5, 3), (2, 2)),
    call("from 4 x 4 to 8 x 8", drawn(1, 17, 6), (8, 8)),
    call("to a grid that is wider than high", drawn(1, 10, 4), (2, 5)),
    call("to a grid that is higher than wide", drawn(1, 17, 2), (6, 3)),
    call(
        "to a smaller grid",
        drawn(1, 37, 4),
        (3, 3),
        hint="With antialias=True, every old position has a part in a new one.",
    ),
    call("no class token", drawn(1, 16, 6), (6, 6), num_prefix_tokens=0),
    call("two prefix tokens", drawn(1, 18, 6), (6, 6), num_prefix_tokens=2),
    call(
        "from 11 x 11 to 15 x 13",
        drawn(1, 122, 1),
        (15, 13),
        hint="The size of the new grid is known: a factor that is rounded may miss it.",
    ),
    # Computing in float32 and casting back, as timm does, is right as well: hence not `in_double`.
    call(
        "numbers in float64 give an answer in float64",
        drawn(1, 10, 4).double(),
        (4, 5),
        hint="Take the dtype from the input instead of fixing it.",
    ),
    not_contiguous(drawn(1, 10, 4), (4, 5)),
    hints=(
        "Which of the rows of `pos_embed` have a place in the image, and which have none?",
        "Lay the patch positions out as a small image with D channels, resize it like any image, and read it off row by "
        "row. The prefix goes around all of this.",
        "`prefix, grid = pos_embed[:, :...], pos_embed[:, ...:]`\n"
        "`grid = grid.reshape(1, n, n, -1).permute(...)`\n"
        '`grid = F.interpolate(grid, size=..., mode="bicubic", antialias=True)`\n'
        "then back to (1, rows * cols, D), and `torch.cat([...], dim=1)`",
    ),
)


def _laid_out(pos_embed, prefix):
    """(the prefix, the grid as an image (1, D, n, n))."""
    head, grid = pos_embed[:, :prefix], pos_embed[:, prefix:]
    n = round(grid.shape[1] ** 0.5)
    return head, grid.reshape(1, n, n, -1).permute(0, 3, 1, 2)


def _joined(head, grid):
    return torch.cat([head, grid.flatten(2).mT], dim=1)


def _bicubic(grid, **how):
    return F.interpolate(grid, **{"mode": "bicubic", "antialias": True, **how})


def _resize(pos_embed, new_grid, prefix=1, **how):
    head, grid = _laid_out(pos_embed, prefix)
    return _joined(head, _bicubic(grid, size=tuple(new_grid), **how))


@resize_pos_embed.alternative
def axis_by_axis(pos_embed, new_grid, num_prefix_tokens=1):
    """Bicubic interpolation is separable: first the rows, then the columns."""
    head, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = round(grid.shape[1] ** 0.5)
    grid = grid.unflatten(1, (n, n)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new_grid[0], n), mode="bicubic", antialias=True)
    grid = F.interpolate(grid, size=tuple(new_grid), mode="bicubic", antialias=True)
    return torch.cat([head, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


@resize_pos_embed.alternative
def in_float32_and_back(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = pos_embed.split([num_prefix_tokens, pos_embed.shape[1] - num_prefix_tokens], dim=1)
    n = int(grid.shape[1] ** 0.5)
    grid = rearrange(grid, "1 (r s) d -> 1 d r s", r=n)
    grid = F.interpolate(grid.float(), size=list(new_grid), mode="bicubic", antialias=True)
    return torch.cat([head, rearrange(grid, "b d r s -> b (r s) d").to(head.dtype)], dim=1)


@resize_pos_embed.alternative
def as_an_image_of_torchvision(pos_embed, new_grid, num_prefix_tokens=1):
    # Here, because every session that checks an exercise imports this module
    from torchvision.transforms.functional import InterpolationMode, resize

    head, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = round(grid.shape[1] ** 0.5)
    grid = resize(
        grid.mT.unflatten(2, (n, n)), list(new_grid), InterpolationMode.BICUBIC, antialias=True
    )
    return torch.cat([head, grid.flatten(2).mT], dim=1)


@resize_pos_embed.alternative
def channel_by_channel(pos_embed, new_grid, num_prefix_tokens=1):
    rows, cols = new_grid
    out = pos_embed.new_zeros(1, num_prefix_tokens + rows * cols, pos_embed.shape[2])
    out[:, :num_prefix_tokens] = pos_embed[:, :num_prefix_tokens]
    for d in range(pos_embed.shape[2]):
        grid = pos_embed[0, num_prefix_tokens:, d]
        n = round(len(grid) ** 0.5)
        grid = F.interpolate(
            grid.reshape(1, 1, n, n), size=(rows, cols), mode="bicubic", antialias=True
        )
        out[0, num_prefix_tokens:, d] = grid.flatten()
    return out


@resize_pos_embed.alternative
def by_a_matrix(pos_embed, new_grid, num_prefix_tokens=1):
    """Interpolation is linear: resizing the identity gives its matrix."""
    head, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = round(grid.shape[1] ** 0.5)
    eye = torch.eye(n * n, dtype=grid.dtype).reshape(1, n * n, n, n)
    matrix = F.interpolate(eye, size=tuple(new_grid), mode="bicubic", antialias=True).flatten(2)
    return torch.cat([head, torch.einsum("bom,bod->bmd", matrix, grid)], dim=1)


@resize_pos_embed.mistake(
    "The class token's position is gone: the result is one row too short. It has no place on the grid, and goes back in "
    "front when the grid is done.",
    talk="Ask for the number of rows at 288 pixels with patches of 16: 324 or 325?",
)
def prefix_dropped(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, new_grid, num_prefix_tokens)[:, num_prefix_tokens:]


@resize_pos_embed.mistake(
    "The class token's position stands at the end now. It belongs in front, where it was.",
    talk="Ask which token the head reads after this, and whether anything would crash.",
)
def prefix_at_end(pos_embed, new_grid, num_prefix_tokens=1):
    out = _resize(pos_embed, new_grid, num_prefix_tokens)
    return torch.cat([out[:, num_prefix_tokens:], out[:, :num_prefix_tokens]], dim=1)


@resize_pos_embed.mistake(
    "The class token was laid on the grid as if it were the first patch, and the last patch fell off. It has to be set "
    "aside *before* the grid is made.",
    talk="Ask which place in the image the first row of `pos_embed` belongs to.",
)
def prefix_on_the_grid(pos_embed, new_grid, num_prefix_tokens=1):
    n = int(pos_embed.shape[1] ** 0.5)
    _, grid = _laid_out(pos_embed[:, : n * n], 0)
    return _joined(pos_embed[:, :num_prefix_tokens], _bicubic(grid, size=tuple(new_grid)))


@resize_pos_embed.mistake(
    "One class token is taken for granted. A model may have none, or more of them (registers, a distillation token): "
    "`num_prefix_tokens` says how many.",
    talk="Ask for the grid of a model without class token that has 196 positions, if one of them is cut off.",
)
def always_one_prefix(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, new_grid, 1)


@resize_pos_embed.mistake(
    "Rows and columns of the new grid are exchanged on the way back: the axes after interpolation are (1, D, rows, cols).",
    talk="Resize to 2 x 5 and ask whether the second row of the result lies to the right of the first or below it.",
)
def transposed(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = _laid_out(pos_embed, num_prefix_tokens)
    return _joined(head, _bicubic(grid, size=tuple(new_grid)).mT)


@resize_pos_embed.mistake(
    "The old grid is turned over its diagonal before it is resized: `transpose(1, 3)` puts D in front, but it also "
    "exchanges rows and columns.",
    talk="Ask where the axes of (1, rows, cols, D) stand after `transpose(1, 3)`, one by one.",
)
def old_grid_transposed(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = _laid_out(pos_embed, num_prefix_tokens)
    return _joined(head, _bicubic(grid.mT, size=tuple(new_grid)))


@resize_pos_embed.mistake(
    "The new grid is `cols` high and `rows` wide: the two numbers are exchanged. Square grids do not show it.",
    talk="Ask in which order `F.interpolate` wants its size, and in which order Pillow's `resize` wants it.",
)
def size_exchanged(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, tuple(new_grid)[::-1], num_prefix_tokens)


@resize_pos_embed.mistake(
    "The new grid is taken for a square: only the first of its two numbers is used.",
    talk="Ask what a model for images of 224 x 448 pixels needs.",
)
def square_target(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, (new_grid[0], new_grid[0]), num_prefix_tokens)


@resize_pos_embed.mistake(
    "The vectors were poured into (1, D, n, n) with a reshape. The tokens come first in memory, so (1, n, n, D) first, then "
    "permute.",
    talk="Ask which numbers lie side by side in memory: those of one position, or those of one channel?",
)
def reshape_for_permute(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = int(grid.shape[1] ** 0.5)
    return _joined(head, _bicubic(grid.reshape(1, -1, n, n), size=tuple(new_grid)))


@resize_pos_embed.mistake(
    "The way in is right, but the way back is a reshape. After interpolation D stands before rows and columns; it has to "
    "become the last axis first.",
    talk="Ask for the shape before and after the last reshape, and which axis moved on the way.",
)
def reshape_on_the_way_back(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = _laid_out(pos_embed, num_prefix_tokens)
    grid = _bicubic(grid, size=tuple(new_grid))
    return torch.cat([head, grid.reshape(1, -1, pos_embed.shape[2])], dim=1)


@resize_pos_embed.mistake(
    "The positions were stretched as one long line. Patches above and below each other are neighbours, too: lay them out "
    "on their grid.",
    talk="Ask which token comes after the last patch of the top row, and how far apart the two lie in the image.",
)
def as_one_line(pos_embed, new_grid, num_prefix_tokens=1):
    head, line = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:].mT
    line = F.interpolate(line, size=new_grid[0] * new_grid[1], mode="linear")
    return torch.cat([head, line.mT], dim=1)


@resize_pos_embed.mistake(
    "This interpolates linearly. The exercise, and most published code, uses mode='bicubic'.",
    talk="Ask how many old positions have a part in a new one: with 'bilinear', and with 'bicubic'.",
)
def bilinear(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, new_grid, num_prefix_tokens, mode="bilinear")


@resize_pos_embed.mistake(
    "Each new position is a copy of the nearest old one: that is what `F.interpolate` does when no mode is given.",
    talk="Ask what two neighbouring patches know of their places when both have the same position vector.",
)
def nearest(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, new_grid, num_prefix_tokens, mode="nearest", antialias=False)


@resize_pos_embed.mistake(
    "Without antialias=True, going to a smaller grid leaves out positions instead of averaging them.",
    talk="Shrink a checkerboard to a third of its size with and without antialias, and show both.",
)
def no_antialias(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, new_grid, num_prefix_tokens, antialias=False)


@resize_pos_embed.mistake(
    "This lays corner on corner (`align_corners=True`). A position is the middle of a patch: the outer *edges* of both "
    "grids must coincide. Leave the default.",
    talk="Draw two patches over a row of four on the board, mark the middles, and ask whether the first ones coincide.",
)
def corners_aligned(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, new_grid, num_prefix_tokens, align_corners=True)


@resize_pos_embed.mistake(
    "The new size goes through a factor, and the product is rounded down: 11 * (15 / 11) is a little less than 15. "
    "`F.interpolate` can be told the size itself.",
    talk="Print `11 * (15 / 11)` and ask what becomes of the last row.",
)
def factor_rounded_down(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = _laid_out(pos_embed, num_prefix_tokens)
    factors = tuple(new / old for new, old in zip(new_grid, grid.shape[-2:], strict=True))
    return _joined(head, _bicubic(grid, scale_factor=factors))


@resize_pos_embed.mistake(
    "The sizes fit, but the factor is a little too large: 0.1 was added against rounding, as in the first code of DINO. "
    "That shifts the positions. Give the size instead.",
    talk="Double a grid of the numbers 0 to 5 in each row with both codes, subtract, and ask why the error grows to the "
    "right.",
)
def factor_with_a_tenth(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = _laid_out(pos_embed, num_prefix_tokens)
    factors = tuple((new + 0.1) / old for new, old in zip(new_grid, grid.shape[-2:], strict=True))
    return _joined(head, _bicubic(grid, scale_factor=factors))


@resize_pos_embed.mistake(
    "The result is always float32, whatever the weights were. Computing in float32 is fine: cast back at the end.",
    talk="Ask what `torch.cat` makes of a float64 prefix and a float32 grid, and print the dtype.",
)
def always_float32(pos_embed, new_grid, num_prefix_tokens=1):
    return _resize(pos_embed, new_grid, num_prefix_tokens).float()


EXERCISES = [rename_key, resize_pos_embed]
