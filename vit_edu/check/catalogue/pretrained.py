"""Lesson 12: names of published weights, their layout, positions for another resolution, neighbours, rates of layers."""

import re

import torch
import torch.nn.functional as F
from einops import rearrange

from vit_edu import pretrained, transfer
from vit_edu.check.cases import Case, call, drawn, in_double, not_contiguous
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
        "A chain of replacements is enough, one for each part that changes. A replacement makes a new string. Mind "
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
    return re.sub(r"blocks\.(\d+)", lambda m: f"blocks.{int(m.group(1)) + 1}", pretrained.rename_key(key))


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


# ---------------------------------------------------------------- queries, keys and values


def _pack_qkv(query, key, value):
    return torch.cat([kernel.flatten(1).mT for kernel in (query, key, value)])


def _three(*shape):
    return [drawn(*shape, seed=seed) for seed in range(3)]


pack_qkv = Exercise(
    transfer.pack_qkv,
    call(
        "the example: D = 2, one head",
        *((n + 1) * torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]) for n in range(3)),
        hint="A Linear holds (outputs, inputs): row 0 of its weight makes output 0.",
    ),
    call("two heads of three numbers, D = 6", *_three(6, 2, 3)),
    call("four heads of two numbers, D = 8", *_three(8, 4, 2)),
    call(
        "heads that together are narrower than D: D = 6, 2 x 2",
        *_three(6, 2, 2),
        hint="Each kernel becomes (h * d, D), whatever D is.",
    ),
    call("a block of ViT-Ti: D = 192, 3 heads of 64", *_three(192, 3, 64)),
    Case(
        "numbers in float16 stay in float16",
        lambda candidate: candidate(*(t.half() for t in _three(4, 2, 2))),
        hint="Take the dtype from the input instead of fixing it.",
        kind="property",
    ),
    not_contiguous(*_three(6, 2, 3)),
    hints=(
        "Write down the shape of one kernel, and the shape that its third of `qkv.weight` must have. Which axis has to go "
        "where?",
        "Flax writes x @ kernel, so inputs are the first axis. PyTorch's Linear writes x @ weight.T. The two axes of the "
        "heads belong together and keep their order: they are the outputs. `Attention` chunks its outputs into q, k, v.",
        "for each of the three: `kernel.flatten(...)` to (D, h * d), then the transpose, (h * d, D);\n"
        "then `torch.cat([...])` along the outputs",
    ),
)


@pack_qkv.alternative
def by_einops(query, key, value):
    return rearrange([query, key, value], "three i h d -> (three h d) i")


@pack_qkv.alternative
def reshaped_first(query, key, value):
    D = len(query)
    return torch.cat([kernel.reshape(D, -1).T for kernel in (query, key, value)], dim=0)


@pack_qkv.alternative
def joined_first(query, key, value):
    return torch.cat([query.flatten(1), key.flatten(1), value.flatten(1)], dim=1).T


@pack_qkv.alternative
def permuted_first(query, key, value):
    return torch.stack([query, key, value]).permute(0, 2, 3, 1).flatten(0, 2)


@pack_qkv.alternative
def row_by_row(query, key, value):
    rows = []
    for kernel in (query, key, value):
        for head in range(kernel.shape[1]):
            rows += [kernel[:, head, i] for i in range(kernel.shape[2])]
    return torch.stack(rows)


@pack_qkv.mistake(
    "Queries and keys are exchanged. Every shape fits, nothing complains, and every score q·k is computed the wrong way "
    "round: our `Attention` takes queries, keys, values in this order.",
    talk="Ask what softmax over the rows of a transposed matrix of scores gives, and which check of a loader would notice.",
)
def k_q_v(query, key, value):
    return _pack_qkv(key, query, value)


@pack_qkv.mistake(
    "Keys and values are exchanged: the shapes are the same, the meaning is not. The order is queries, keys, values.",
    talk="Ask what the attention would then mix: what tokens *offer*, or what they are *found by*?",
)
def q_v_k(query, key, value):
    return _pack_qkv(query, value, key)


@pack_qkv.mistake(
    "The order is values, keys, queries here. `Attention` chunks its outputs into queries, keys, values.",
    talk="Let the class find the line of `Attention.forward` that fixes the order.",
)
def v_k_q(query, key, value):
    return _pack_qkv(value, key, query)


@pack_qkv.mistake(
    "The order is keys, values, queries here. `Attention` chunks its outputs into queries, keys, values.",
    talk="Ask for all orders of three things: how many of the six would load without an error?",
)
def k_v_q(query, key, value):
    return _pack_qkv(key, value, query)


@pack_qkv.mistake(
    "The kernels were not transposed. Where h * d = D a kernel is square, so the shape is right and the numbers are not: "
    "Flax holds (inputs, outputs), a Linear (outputs, inputs).",
    talk="Ask what x @ W and x @ W.T have in common when W is square, and what not.",
)
def not_transposed(query, key, value):
    return torch.cat([kernel.reshape(len(kernel), -1) for kernel in (query, key, value)])


@pack_qkv.mistake(
    "The numbers of one head are no longer side by side: h and d changed places. `permute(2, 1, 0)` turns all three axes "
    "round; heads must come before the numbers in them.",
    talk="Ask which rows of `qkv.weight` make head 0, and look at `split_heads` of lesson 03.",
)
def heads_inside(query, key, value):
    return torch.cat([kernel.permute(2, 1, 0).flatten(0, 1) for kernel in (query, key, value)])


@pack_qkv.mistake(
    "Queries, keys and values alternate head by head. Some libraries pack them like this; our `Attention` wants all "
    "queries first, then all keys, then all values.",
    talk="Ask what `chunk(3)` would call queries in a weight that is packed head by head.",
)
def head_by_head(query, key, value):
    return rearrange([query, key, value], "three i h d -> (h three d) i")


@pack_qkv.mistake(
    "The three stand side by side along the *inputs*, (h * d, 3 D). A product with one token has to give 3 * h * d outputs: "
    "join them along the first axis.",
    talk="Ask for the shape of `nn.Linear(64, 192).weight`.",
)
def joined_along_inputs(query, key, value):
    return torch.cat([kernel.flatten(1).mT for kernel in (query, key, value)], dim=1)


@pack_qkv.mistake(
    "The result is the transpose of what is wanted: (D, 3 * h * d), as Flax would hold it. A Linear holds outputs first.",
    talk="Ask which of the two axes of a Linear's weight its bias is as long as.",
)
def whole_not_transposed(query, key, value):
    return torch.cat([kernel.flatten(1) for kernel in (query, key, value)], dim=1)


@pack_qkv.mistake(
    "They are stacked on a new axis, (3, h * d, D). Our weight is one matrix: the three lie below each other.",
    talk="Ask for the difference between `torch.stack` and `torch.cat` of three matrices, in shapes.",
)
def stacked(query, key, value):
    return torch.stack([kernel.flatten(1).mT for kernel in (query, key, value)])


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
    grid = resize(grid.mT.unflatten(2, (n, n)), list(new_grid), InterpolationMode.BICUBIC, antialias=True)
    return torch.cat([head, grid.flatten(2).mT], dim=1)


@resize_pos_embed.alternative
def channel_by_channel(pos_embed, new_grid, num_prefix_tokens=1):
    rows, cols = new_grid
    out = pos_embed.new_zeros(1, num_prefix_tokens + rows * cols, pos_embed.shape[2])
    out[:, :num_prefix_tokens] = pos_embed[:, :num_prefix_tokens]
    for d in range(pos_embed.shape[2]):
        grid = pos_embed[0, num_prefix_tokens:, d]
        n = round(len(grid) ** 0.5)
        grid = F.interpolate(grid.reshape(1, 1, n, n), size=(rows, cols), mode="bicubic", antialias=True)
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


# ---------------------------------------------------------------- neighbours


def _scaled(rows, dim, seed):
    """Vectors of very different lengths."""
    return drawn(rows, dim, seed=seed) * torch.logspace(-1, 1, rows)[:, None]


def _labels(rows, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, classes, (rows,), generator=generator)


_corner = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0], [8.0, 1.0]])
_ties = torch.tensor([[1.0, 0.0], [1.0, 0.2], [1.0, 0.4], [1.0, 0.6]])

knn_predict = Exercise(
    transfer.knn_predict,
    call(
        "the example: four labelled images, three queries, k = 1",
        _corner,
        torch.tensor([0, 1, 1, 2]),
        torch.tensor([[2.0, 0.1], [1.0, 1.0], [0.1, 0.9]]),
        1,
    ),
    call(
        "20 labelled images, 30 queries, k = 1",
        _scaled(20, 6, 0),
        _labels(20, 4, 1),
        drawn(30, 6, seed=2),
        1,
    ),
    call(
        "20 labelled images, 30 queries, k = 5",
        _scaled(20, 6, 0),
        _labels(20, 4, 1),
        _scaled(30, 6, 2),
        5,
    ),
    call("fewer queries than features", _scaled(40, 8, 3), _labels(40, 3, 4), drawn(4, 8, seed=5), 3),
    call("a single query", _scaled(12, 5, 6), _labels(12, 3, 7), drawn(1, 5, seed=8), 3),
    call(
        "k = all: the commonest class wins everywhere",
        drawn(9, 3, seed=9),
        torch.tensor([2, 5, 5, 2, 5, 0, 5, 2, 2]),
        drawn(6, 3, seed=10),
        9,
    ),
    call(
        "two classes with as many votes",
        _ties,
        torch.tensor([3, 1, 1, 3]),
        torch.tensor([[1.0, 0.0], [1.0, 0.7]]),
        4,
        hint="The smaller class number wins, whoever is nearer.",
    ),
    call(
        "labels with gaps: 0, 4 and 9",
        _scaled(15, 4, 11),
        _labels(15, 3, 12).mul(9).div(2, rounding_mode="floor"),
        drawn(20, 4, seed=13),
        3,
    ),
    call(
        "one long vector among short ones",
        torch.tensor([[100.0, 90.0], [0.1, 0.0], [0.0, 0.2]]),
        torch.tensor([2, 0, 1]),
        torch.tensor([[1.0, 0.1], [0.1, 1.0]]),
        1,
        hint="By cosine, length does not count: divide each vector by its length.",
    ),
    in_double(_scaled(20, 6, 14), _labels(20, 4, 15), drawn(10, 6, seed=16), 3),
    not_contiguous(_scaled(20, 6, 17), _labels(20, 4, 18), drawn(10, 6, seed=19), 3),
    hints=(
        "Three steps: how near is each query to each labelled image, which k are nearest, what do these say?",
        "With every vector divided by its length, all cosines are one matrix product, (N, M). `topk` gives the places of "
        "the k largest in each row; `labels[places]` their labels, (N, k). What is left is a count.",
        "`similar = F.normalize(...) @ F.normalize(...).mT`\n`nearest = similar.topk(...).indices`\n"
        "`votes = F.one_hot(labels[nearest])...`, summed over the neighbours; then the class with most",
    ),
)


@knn_predict.alternative
def one_query_at_a_time(features, labels, queries, k):
    answers = []
    for query in queries:
        near = F.cosine_similarity(query[None], features, dim=1)
        best = near.argsort(descending=True)[:k]
        answers.append(torch.bincount(labels[best]).argmax())
    return torch.stack(answers)


@knn_predict.alternative
def by_distance_on_the_sphere(features, labels, queries, k):
    distance = torch.cdist(F.normalize(queries, dim=1), F.normalize(features, dim=1))
    return labels[distance.topk(k, largest=False).indices].mode(dim=1).values


@knn_predict.alternative
def by_a_vote_matrix(features, labels, queries, k):
    features = features / features.norm(dim=1, keepdim=True)
    nearest = (queries @ features.T).argsort(dim=1, descending=True)[
        :, :k
    ]  # a query's own length changes no order
    votes = torch.zeros(len(queries), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[nearest], torch.ones(nearest.shape))
    return votes.argmax(dim=1)


@knn_predict.alternative
def in_plain_python(features, labels, queries, k):
    unit = [f / f.norm() for f in features]
    answers = []
    for query in queries:
        near = sorted(range(len(unit)), key=lambda i: -float(query @ unit[i]))[:k]
        said = [int(labels[i]) for i in near]
        answers.append(min(set(said), key=lambda c: (-said.count(c), c)))
    return torch.tensor(answers)


def _vote(similar, labels, k, largest=True):
    return F.one_hot(labels[similar.topk(k, dim=1, largest=largest).indices]).sum(dim=1).argmax(dim=1)


def _cosines(queries, features):
    return F.normalize(queries, dim=1) @ F.normalize(features, dim=1).mT


@knn_predict.mistake(
    "These are dot products, not cosines: a labelled image with a long vector is near to everybody. Divide each vector by "
    "its length first.",
    talk="Ask which of (1, 0) and (100, 90) is nearer to (1, 0.1), by dot product and by angle.",
)
def dot_products(features, labels, queries, k):
    return _vote(queries @ features.mT, labels, k)


@knn_predict.mistake(
    "These are distances between vectors of different lengths. By cosine only the direction counts: normalise both sides "
    "first, then distances do as well.",
    talk="Ask where (1, 0) and (100, 0) lie: far apart, or in the same direction?",
)
def plain_distances(features, labels, queries, k):
    return _vote(-torch.cdist(queries, features), labels, k)


@knn_predict.mistake(
    "`F.normalize` went over axis 0: each *feature* was divided by its length over all images. A vector is a row: dim=1.",
    talk="Normalise [[3, 4], [6, 8]] over both axes on the board.",
)
def normalised_over_images(features, labels, queries, k):
    return _vote(F.normalize(queries, dim=0) @ F.normalize(features, dim=0).mT, labels, k)


@knn_predict.mistake(
    "These are the k images that are *farthest* away. A cosine is large where two are near; a distance is small.",
    talk="Ask for the cosine of two vectors of the same direction, and of opposite ones.",
)
def farthest(features, labels, queries, k):
    return _vote(_cosines(queries, features), labels, k, largest=False)


@knn_predict.mistake(
    "Only the nearest one is asked, whatever k is. Let the k nearest vote.",
    talk="Ask what a single mislabelled training image does to its surroundings with k = 1, and with k = 5.",
)
def nearest_only(features, labels, queries, k):
    return labels[_cosines(queries, features).argmax(dim=1)]


@knn_predict.mistake(
    "The answer is the *place* of a neighbour, not its label. `labels[nearest]` turns places into classes.",
    talk="Ask for the largest number that a right answer can hold when there are 4 classes and 20 images.",
)
def places_not_labels(features, labels, queries, k):
    return _cosines(queries, features).topk(k, dim=1).indices.mode(dim=1).values


@knn_predict.mistake(
    "The labels of the neighbours were averaged. Class numbers are names: between a cat, 3, and a dog, 5, there is no deer, 4.",
    talk="Ask for the mean of two cats and one truck.",
)
def mean_of_labels(features, labels, queries, k):
    nearest = _cosines(queries, features).topk(k, dim=1).indices
    return labels[nearest].double().mean(dim=1).round().long()


@knn_predict.mistake(
    "The two sides are exchanged: an answer for each labelled image instead of one for each query. The similarities must be "
    "(N, M), queries in rows.",
    talk="Ask for the shape of the answer before anybody writes a line.",
)
def sides_exchanged(features, labels, queries, k):
    similar = _cosines(features, queries)  # (M, N)
    return labels[similar.topk(min(k, similar.shape[1]), dim=1).indices % len(labels)].mode(dim=1).values


@knn_predict.mistake(
    "Votes are weighted by similarity. DINO does something like it; this exercise counts heads: one neighbour, one vote.",
    talk="Construct three neighbours with which the two rules disagree.",
)
def weighted_votes(features, labels, queries, k):
    near = _cosines(queries, features).topk(k, dim=1)
    votes = torch.zeros(len(queries), int(labels.max()) + 1, dtype=near.values.dtype)
    votes.scatter_add_(1, labels[near.indices], near.values)
    return votes.argmax(dim=1)


@knn_predict.mistake(
    "Of two classes with as many votes this takes the larger number. The text asks for the smaller.",
    talk="Ask why an exercise has to say this at all: how often does k = 4 end in a draw?",
)
def ties_to_the_larger(features, labels, queries, k):
    nearest = _cosines(queries, features).topk(k, dim=1).indices
    votes = F.one_hot(labels[nearest]).sum(dim=1)  # (N, K)
    return votes.shape[1] - 1 - votes.flip(1).argmax(dim=1)


@knn_predict.mistake(
    "Of two classes with as many votes this takes that of the nearest image. A fair rule, but the text asks for the smaller "
    "number.",
    talk="Ask whether this rule can be computed from the counts alone.",
)
def ties_to_the_nearest(features, labels, queries, k):
    nearest = labels[_cosines(queries, features).topk(k, dim=1).indices]  # (N, k), nearest first
    votes = F.one_hot(nearest).sum(dim=1)
    mine = votes.gather(1, nearest)  # (N, k), the votes of each neighbour's class
    return nearest.gather(
        1, (mine == mine.max(dim=1, keepdim=True).values).int().argmax(dim=1, keepdim=True)
    )[:, 0]


# ---------------------------------------------------------------- rates of layers

_PARAMETERS = (
    "pos_embed",
    "cls_token",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    *(
        f"blocks.{i}.{part}"
        for i in range(3)
        for part in (
            "norm1.weight",
            "attn.qkv.weight",
            "attn.proj.bias",
            "norm2.bias",
            "mlp.fc1.weight",
        )
    ),
    "norm.weight",
    "norm.bias",
    "head.weight",
    "head.bias",
)

layer_rate = Exercise(
    transfer.layer_rate,
    call("the example: block 2 of 4, decay 0.5", "blocks.2.mlp.fc1.weight", 4, 1.0, 0.5),
    call("the head", "head.weight", 4, 0.002, 0.5),
    call(
        "the last norm",
        "norm.bias",
        4,
        0.002,
        0.5,
        hint="The norm between the last block and the head goes with the head.",
    ),
    call(
        "the last block",
        "blocks.3.attn.qkv.weight",
        4,
        1.0,
        0.5,
        hint="One step below the head: once the decay.",
    ),
    call("the first block", "blocks.0.attn.proj.bias", 4, 1.0, 0.5),
    call(
        "a norm inside a block",
        "blocks.1.norm2.weight",
        4,
        1.0,
        0.5,
        hint="It goes with its block.",
    ),
    call("block 11 of 12", "blocks.11.mlp.fc2.bias", 12, 1.0, 0.75),
    call("block 10 of 12", "blocks.10.norm1.bias", 12, 1.0, 0.75),
    call(
        "the positions",
        "pos_embed",
        4,
        1.0,
        0.5,
        hint="Below the first block: one step more than block 0.",
    ),
    call("the patch projection", "patch_embed.proj.weight", 4, 1.0, 0.5),
    call("the class token", "cls_token", 12, 0.001, 0.65),
    Case("decay 1: everything at the peak", lambda c: [c(name, 3, 0.01, 1.0) for name in _PARAMETERS]),
    Case(
        "decay 0: only head and last norm move",
        lambda c: [c(name, 3, 0.01, 0.0) for name in _PARAMETERS],
    ),
    Case(
        "every parameter of a model with three blocks",
        lambda c: [c(name, 3, 0.01, 0.8) for name in _PARAMETERS],
    ),
    hints=(
        "How many layers stand between this parameter and the head? That many times the decay.",
        "Three kinds of names: head and last norm, blocks, everything before them. The number of a block stands between the "
        "first and the second dot, and may have two digits. Block depth - 1 is one step below the head.",
        '`if name.startswith("blocks."):`\n    `i = int(name.split(".")[1])`\n    `steps = ...`\n'
        "`elif ...:` the head and the last norm\n`else:` the embeddings\n`return peak * decay ** steps`",
    ),
)


def _steps(name, depth):
    if name.startswith("blocks."):
        return depth - int(name.split(".")[1])
    return 0 if name.startswith(("head.", "norm.")) else depth + 1


@layer_rate.alternative
def by_layer_number(name, depth, peak, decay):
    """As in BEiT: number the layers from 0 for the embeddings to depth + 1 for the head."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        layer = 0
    elif name.startswith("blocks"):
        layer = int(name.split(".")[1]) + 1
    else:
        layer = depth + 1
    return peak * decay ** (depth + 1 - layer)


@layer_rate.alternative
def by_a_pattern(name, depth, peak, decay):
    found = re.match(r"blocks\.(\d+)\.", name)
    if found:
        return peak * decay ** (depth - int(found.group(1)))
    return peak if re.match(r"(norm|head)\.", name) else peak * decay ** (depth + 1)


@layer_rate.alternative
def step_by_step(name, depth, peak, decay):
    order = ["head", *(f"blocks.{i}" for i in reversed(range(depth))), "embeddings"]
    kind, *rest = name.split(".")
    if kind == "blocks":
        kind = f"blocks.{rest[0]}"
    elif kind in ("norm", "head"):
        kind = "head"
    else:
        kind = "embeddings"
    rate = peak
    for layer in order:
        if layer == kind:
            return rate
        rate = rate * decay
    raise KeyError(name)


@layer_rate.mistake(
    "The rates fall the wrong way: the first block is the fastest. The early layers have learned what serves every task, and "
    "are to change least.",
    talk="Ask which layers of a model for photographs are useful for drawings as they are: the early or the late ones?",
)
def upside_down(name, depth, peak, decay):
    if name.startswith("blocks."):
        return peak * decay ** (int(name.split(".")[1]) + 1)
    return peak if name.startswith(("head.", "norm.")) else peak * decay ** (depth + 1)


@layer_rate.mistake(
    "The last block has the rate of the head, and everything below is one step too fast. Block depth - 1 is one step below "
    "the head: depth - i, not depth - 1 - i.",
    talk="Write head, block 3, block 2, block 1, block 0, embeddings below each other and let the class number them.",
)
def one_step_too_fast(name, depth, peak, decay):
    return peak * decay ** max(0, _steps(name, depth) - 1)


@layer_rate.mistake(
    "The embeddings have the rate of block 0. They stand before it: one step more, depth + 1.",
    talk="Ask how many steps there are from the head of a model with four blocks down to the pixels.",
)
def embeddings_like_block_0(name, depth, peak, decay):
    return peak * decay ** min(depth, _steps(name, depth))


@layer_rate.mistake(
    "Positions, class token and patch projection have the full rate. They stand below all blocks, and are to move least.",
    talk="Ask what happens to every block when the tokens that come in change quickly.",
)
def embeddings_at_the_peak(name, depth, peak, decay):
    return peak * decay ** (_steps(name, depth) if name.startswith("blocks.") else 0)


@layer_rate.mistake(
    "The last norm was taken for a part of the embeddings. It stands between the last block and the head, and goes with the "
    "head.",
    talk="Ask where in `ViT.forward` the norm is applied.",
)
def last_norm_slow(name, depth, peak, decay):
    return peak * decay ** (depth + 1 if name.startswith("norm.") else _steps(name, depth))


@layer_rate.mistake(
    'The norms *inside* the blocks have the full rate: `"norm" in name` finds norm1 and norm2, too. Look at the beginning of '
    "the name.",
    talk="Print all names of a model with one block that contain the word norm.",
)
def every_norm_at_the_peak(name, depth, peak, decay):
    return peak * decay ** (0 if "norm" in name else _steps(name, depth))


@layer_rate.mistake(
    "Only one digit of the block's number is read: block 11 is treated like block 1. Split the name at its dots.",
    talk='Ask what `"blocks.11.norm1.bias"[7]` is.',
)
def one_digit_of_the_block(name, depth, peak, decay):
    steps = depth - int(name[7]) if name.startswith("blocks.") else _steps(name, depth)
    return peak * decay**steps


@layer_rate.mistake(
    "The rate is multiplied by the number of steps instead of taking the decay once for each: a power is meant, "
    "decay ** steps.",
    talk="Ask for the rate of block 0 of 12 at decay 0.5, in both ways.",
)
def times_steps(name, depth, peak, decay):
    steps = _steps(name, depth)
    return peak * decay * steps if steps else peak


@layer_rate.mistake(
    "The decay is subtracted from 1 first: with a decay of 0.8, a layer below has 0.8 of the rate above it, not 0.2.",
    talk="Ask what decay 1 should mean, and what this code does with it.",
)
def decay_as_loss(name, depth, peak, decay):
    return peak * (1 - decay) ** _steps(name, depth)


@layer_rate.mistake(
    "The head is slowed down, too. It is new and starts from nothing: it needs the full rate, the last block one step less.",
    talk="Ask which layer of a model for fine-tuning knows least.",
)
def head_slowed(name, depth, peak, decay):
    return peak * decay ** (_steps(name, depth) + 1)


EXERCISES = [rename_key, pack_qkv, resize_pos_embed, knn_predict, layer_rate]
