"""Lesson 12: names and layout of published weights, positions for another resolution, neighbours, rates by layer."""

import math
import re

import torch
import torch.nn.functional as F
from einops import rearrange

from vit_edu import pretrained, transfer
from vit_edu.check.cases import Case, call, drawn, generator, in_double, not_contiguous
from vit_edu.check.engine import Exercise
from vit_edu.check.probes import Sizes, grid

# ---------------------------------------------------------------- names

LAYER = "encoder.layers.encoder_layer_{}."


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
        LAYER.format(0) + "self_attention.in_proj_weight",
    ),
    call(
        "queries, keys and values of block 3: the bias",
        LAYER.format(3) + "self_attention.in_proj_bias",
    ),
    call("the output projection of block 7", LAYER.format(7) + "self_attention.out_proj.weight"),
    call("a block with two digits, 11", LAYER.format(11) + "ln_2.bias"),
    call("the first norm of block 1", LAYER.format(1) + "ln_1.weight"),
    call("the MLP's first layer", LAYER.format(0) + "mlp.0.weight"),
    call(
        "the MLP's second layer",
        LAYER.format(0) + "mlp.3.bias",
        hint="Between 0 and 3 come the GELU and a dropout.",
    ),
    call(
        "the last norm",
        "encoder.ln.weight",
        hint="encoder.ln belongs to the encoder, ln_1 and ln_2 to a block.",
    ),
    call("the head", "heads.head.bias"),
    Case("every name of a model with two blocks", _all_names),
)

rename_key.add_mistakes(
    underscore_kept=lambda key: pretrained.rename_key(key).replace("qkv.", "qkv_"),
    in_proj_kept=lambda key: pretrained.rename_key(key).replace("qkv.", "in_proj_"),
    out_proj_kept=lambda key: pretrained.rename_key(key).replace("attn.proj", "attn.out_proj"),
    one_digit=lambda key: re.sub(r"blocks\.(\d)\d+", r"blocks.\1", pretrained.rename_key(key)),
    blocks_from_one=lambda key: re.sub(
        r"blocks\.(\d+)", lambda m: f"blocks.{int(m.group(1)) + 1}", pretrained.rename_key(key)
    ),
    prefix_left=lambda key: re.sub("^blocks", "encoder.layers.blocks", pretrained.rename_key(key)),
    number_behind_underscore=lambda key: pretrained.rename_key(key).replace("blocks.", "blocks_"),
    head_twice=lambda key: pretrained.rename_key(key).replace("head.", "head.head."),
    encoder_left_at_the_norm=lambda key: re.sub("^norm", "encoder.norm", pretrained.rename_key(key)),
    encoder_left_at_the_positions=lambda key: re.sub(
        "^pos_embed", "encoder.pos_embed", pretrained.rename_key(key)
    ),
    last_norm_kept=lambda key: re.sub("^norm", "ln", pretrained.rename_key(key)),
    fc3=lambda key: pretrained.rename_key(key).replace("fc2", "fc3"),
    mlp_numbers_kept=lambda key: pretrained.rename_key(key).replace("fc1", "fc0").replace("fc2", "fc3"),
    ending_lost=lambda key: re.sub(r"\.(weight|bias)$", "", pretrained.rename_key(key)),
)


rename_key.add_mistakes(
    class_token_kept=lambda key: pretrained.rename_key(key).replace("cls_token", "class_token"),
    class_token_cut_short=lambda key: pretrained.rename_key(key).replace("cls_token", "cls"),
    conv_proj_kept=lambda key: pretrained.rename_key(key).replace("patch_embed.proj", "conv_proj"),
    proj_of_the_patches_lost=lambda key: pretrained.rename_key(key).replace(
        "patch_embed.proj", "patch_embed"
    ),
    positions_kept=lambda key: pretrained.rename_key(key).replace("pos_embed", "encoder.pos_embedding"),
    pos_embedding=lambda key: pretrained.rename_key(key).replace("pos_embed", "pos_embedding"),
    first_norm_kept=lambda key: pretrained.rename_key(key).replace("norm1", "ln_1"),
    second_norm_kept=lambda key: pretrained.rename_key(key).replace("norm2", "ln_2"),
    both_norms_kept=lambda key: re.sub(r"norm([12])", r"ln_\1", pretrained.rename_key(key)),
    underscore_in_the_norms=lambda key: re.sub(r"norm([12])", r"norm_\1", pretrained.rename_key(key)),
    in_proj_left_alone=lambda key: pretrained.rename_key(key).replace("attn.qkv.", "self_attention.in_proj_"),
    out_proj_left_alone=lambda key: pretrained.rename_key(key).replace(
        "attn.proj", "self_attention.out_proj"
    ),
    self_attention_kept=lambda key: pretrained.rename_key(key).replace("attn.", "self_attention."),
    attention_written_out=lambda key: pretrained.rename_key(key).replace("attn.", "attention."),
    first_layer_kept=lambda key: pretrained.rename_key(key).replace("fc1", "0"),
    second_layer_kept=lambda key: pretrained.rename_key(key).replace("fc2", "3"),
    both_layers_kept=lambda key: pretrained.rename_key(key).replace("fc1", "0").replace("fc2", "3"),
    layers_from_zero=lambda key: pretrained.rename_key(key).replace("fc1", "fc0").replace("fc2", "fc1"),
    last_norm_left_alone=lambda key: re.sub("^norm", "encoder.ln", pretrained.rename_key(key)),
    head_left_alone=lambda key: pretrained.rename_key(key).replace("head", "heads.head"),
    heads_in_the_plural=lambda key: pretrained.rename_key(key).replace("head", "heads"),
    blocks_left_alone=lambda key: pretrained.rename_key(key).replace(
        "blocks.", "encoder.layers.encoder_layer_"
    ),
    layers_for_blocks=lambda key: pretrained.rename_key(key).replace("blocks.", "layers."),
    only_one_rule=lambda key: (
        key.replace("encoder.layers.encoder_layer_", "blocks.")
        if "encoder_layer_" in key
        else pretrained.rename_key(key)
    ),
    whole_names_only=lambda key: "cls_token" if key == "class_token" else key,
    no_name_comes_back=lambda key: None,
)


@rename_key.mistake
def replaced_but_not_kept(key):
    key.replace("class_token", "cls_token")
    return key


@rename_key.mistake
def norms_exchanged(key):
    swap = {"ln_1": "ln_2", "ln_2": "ln_1"}
    return pretrained.rename_key(re.sub("ln_[12]", lambda m: swap[m.group()], key))


@rename_key.mistake
def norms_from_zero(key):
    ours = pretrained.rename_key(key)
    return re.sub(r"norm([12])", lambda m: f"norm{int(m.group(1)) - 1}", ours)


@rename_key.mistake
def head_and_norm_exchanged(key):
    swap = {"norm": "head", "head": "norm"}
    return re.sub("^(norm|head)", lambda m: swap[m.group()], pretrained.rename_key(key))


@rename_key.mistake
def mlp_exchanged(key):
    swap = {"fc1": "fc2", "fc2": "fc1"}
    return re.sub("fc[12]", lambda m: swap[m.group()], pretrained.rename_key(key))


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
    sizes=Sizes(
        lambda width, heads, head_width: call("", *_three(width, heads, head_width)),
        width=(10, 14, 192, 64, 6, 8),
        heads=(5, 2, 3, 4, 12),
        head_width=(7, 9, 64, 2),
    ),
)

pack_qkv.add_mistakes(
    k_q_v=lambda query, key, value: _pack_qkv(key, query, value),
    q_v_k=lambda query, key, value: _pack_qkv(query, value, key),
    v_k_q=lambda query, key, value: _pack_qkv(value, key, query),
    k_v_q=lambda query, key, value: _pack_qkv(key, value, query),
    not_transposed=lambda query, key, value: torch.cat(
        [kernel.reshape(len(kernel), -1) for kernel in (query, key, value)]
    ),
    heads_inside=lambda query, key, value: torch.cat(
        [kernel.permute(2, 1, 0).flatten(0, 1) for kernel in (query, key, value)]
    ),
    head_by_head=lambda query, key, value: rearrange([query, key, value], "three i h d -> (h three d) i"),
    joined_along_inputs=lambda query, key, value: torch.cat(
        [kernel.flatten(1).mT for kernel in (query, key, value)], dim=1
    ),
    whole_not_transposed=lambda query, key, value: torch.cat(
        [kernel.flatten(1) for kernel in (query, key, value)], dim=1
    ),
    value_forgotten=lambda query, key, value: _pack_qkv(query, key, key),
    query_three_times=lambda query, key, value: _pack_qkv(query, query, query),
    added_up=lambda query, key, value: sum(kernel.flatten(1).mT for kernel in (query, key, value)),
    inputs_with_the_heads=lambda query, key, value: torch.cat(
        [kernel.flatten(0, 1).mT for kernel in (query, key, value)]
    ),
    inputs_and_heads_as_rows=lambda query, key, value: torch.cat(
        [kernel.flatten(0, 1) for kernel in (query, key, value)]
    ),
    poured_into_shape=lambda query, key, value: torch.cat(
        [kernel.reshape(-1, len(kernel)) for kernel in (query, key, value)]
    ),
    heads_before_inputs=lambda query, key, value: torch.cat(
        [kernel.transpose(0, 1).reshape(-1, len(kernel)) for kernel in (query, key, value)]
    ),
    three_axes=lambda query, key, value: torch.cat(
        [kernel.permute(1, 2, 0) for kernel in (query, key, value)]
    ),
    one_long_line=lambda query, key, value: torch.cat([kernel.flatten() for kernel in (query, key, value)]),
    query_scaled=lambda query, key, value: _pack_qkv(query * query.shape[2] ** -0.5, key, value),
    width_for_all_heads=lambda query, key, value: torch.cat(
        [kernel.reshape(len(kernel), len(kernel)).mT for kernel in (query, key, value)]
    ),
    always_single=lambda query, key, value: _pack_qkv(query, key, value).float(),
    stacked=lambda query, key, value: torch.stack([kernel.flatten(1).mT for kernel in (query, key, value)]),
)


# ---------------------------------------------------------------- positions


def _resize_case(patches, rows, columns, width, prefix):
    old = grid(patches)
    if old[0] != old[1]:
        raise ValueError("the old grid is square")
    return call("", drawn(1, prefix + patches, width), (rows, columns), prefix)


resize_pos_embed = Exercise(
    pretrained.resize_pos_embed,
    call("the same grid changes nothing", drawn(1, 5, 3), (2, 2)),
    call("from 4 x 4 to 8 x 8", drawn(1, 17, 6), (8, 8)),
    call("to a grid that is wider than high", drawn(1, 10, 4), (2, 5)),
    call("to a grid that is higher than wide, with as many positions", drawn(1, 17, 2), (8, 2)),
    call(
        "to a smaller grid",
        drawn(1, 37, 4),
        (3, 3),
        hint="With antialias=True, every old position contributes to a new one.",
    ),
    call("no class token", drawn(1, 16, 6), (6, 6), 0),
    call("two prefix tokens", drawn(1, 18, 6), (6, 6), 2),
    call(
        "from 11 x 11 to 15 x 13",
        drawn(1, 122, 1),
        (15, 13),
        hint="The size of the new grid is known, and a rounded scale factor may miss it.",
    ),
    # Computing in float32 and casting back, as timm does, is right as well.
    in_double(drawn(1, 10, 4), (4, 5), tolerance=1e-5),
    not_contiguous(drawn(1, 10, 4), (4, 5)),
    sizes=Sizes(
        _resize_case,
        patches=(25, 36, 64, 16, 196),
        rows=(3, 9, 8, 14, 7),
        columns=(7, 5, 8, 14, 4),
        width=(6, 11, 64, 192),
        prefix=(2, 4, 1, 5),
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


def _one_factor(pos_embed, new_grid, prefix):
    head, grid = _laid_out(pos_embed, prefix)
    return _joined(head, _bicubic(grid, scale_factor=new_grid[0] / grid.shape[2]))


@resize_pos_embed.mistake
def always_one_prefix_rearranged(pos_embed, new_grid, num_prefix_tokens=1):
    n = int((pos_embed.shape[1] - 1) ** 0.5)
    grid = rearrange(pos_embed[:, 1:], "1 (r c) d -> 1 d r c", r=n, c=n)
    return _joined(pos_embed[:, :1], _bicubic(grid, size=tuple(new_grid)))


@resize_pos_embed.mistake
def last_for_prefix(pos_embed, new_grid, num_prefix_tokens=1):
    first = pos_embed.shape[1] - num_prefix_tokens
    turned = torch.cat([pos_embed[:, first:], pos_embed[:, :first]], dim=1)
    return _resize(turned, new_grid, num_prefix_tokens)


resize_pos_embed.add_mistakes(
    prefix_dropped=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(
        pos_embed, new_grid, num_prefix_tokens
    )[:, num_prefix_tokens:],
    always_one_prefix=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(pos_embed, new_grid, 1),
    size_exchanged=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(
        pos_embed, tuple(new_grid)[::-1], num_prefix_tokens
    ),
    square_target=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(
        pos_embed, (new_grid[0], new_grid[0]), num_prefix_tokens
    ),
    bilinear=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(
        pos_embed, new_grid, num_prefix_tokens, mode="bilinear"
    ),
    nearest=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(
        pos_embed, new_grid, num_prefix_tokens, mode="nearest", antialias=False
    ),
    no_antialias=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(
        pos_embed, new_grid, num_prefix_tokens, antialias=False
    ),
    corners_aligned=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(
        pos_embed, new_grid, num_prefix_tokens, align_corners=True
    ),
    square_of_the_second=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(
        pos_embed, (new_grid[1], new_grid[1]), num_prefix_tokens
    ),
    bilinear_without_antialias=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(
        pos_embed, new_grid, num_prefix_tokens, mode="bilinear", antialias=False
    ),
    corners_aligned_without_antialias=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(
        pos_embed, new_grid, num_prefix_tokens, align_corners=True, antialias=False
    ),
    means_of_areas=lambda pos_embed, new_grid, num_prefix_tokens=1: _resize(
        pos_embed, new_grid, num_prefix_tokens, mode="area", antialias=False
    ),
    cut_off=lambda pos_embed, new_grid, num_prefix_tokens=1: pos_embed[
        :, : num_prefix_tokens + new_grid[0] * new_grid[1]
    ],
    prefix_of_zeros=lambda pos_embed, new_grid, num_prefix_tokens=1: _joined(
        0 * pos_embed[:, :num_prefix_tokens],
        _bicubic(_laid_out(pos_embed, num_prefix_tokens)[1], size=new_grid),
    ),
    one_factor_for_both=lambda pos_embed, new_grid, num_prefix_tokens=1: _one_factor(
        pos_embed, new_grid, num_prefix_tokens
    ),
    one_prefix_joined=lambda pos_embed, new_grid, num_prefix_tokens=1: _joined(
        pos_embed[:, :1], _bicubic(_laid_out(pos_embed, num_prefix_tokens)[1], size=new_grid)
    ),
    no_prefix_by_default=lambda pos_embed, new_grid, num_prefix_tokens=0: _resize(
        pos_embed, new_grid, num_prefix_tokens
    ),
)


@resize_pos_embed.mistake
def prefix_at_end(pos_embed, new_grid, num_prefix_tokens=1):
    out = _resize(pos_embed, new_grid, num_prefix_tokens)
    return torch.cat([out[:, num_prefix_tokens:], out[:, :num_prefix_tokens]], dim=1)


@resize_pos_embed.mistake
def prefix_on_the_grid(pos_embed, new_grid, num_prefix_tokens=1):
    n = int(pos_embed.shape[1] ** 0.5)
    _, grid = _laid_out(pos_embed[:, : n * n], 0)
    return _joined(pos_embed[:, :num_prefix_tokens], _bicubic(grid, size=tuple(new_grid)))


@resize_pos_embed.mistake
def transposed(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = _laid_out(pos_embed, num_prefix_tokens)
    return _joined(head, _bicubic(grid, size=tuple(new_grid)).mT)


@resize_pos_embed.mistake
def old_grid_transposed(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = _laid_out(pos_embed, num_prefix_tokens)
    return _joined(head, _bicubic(grid.mT, size=tuple(new_grid)))


@resize_pos_embed.mistake
def reshape_for_permute(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = int(grid.shape[1] ** 0.5)
    return _joined(head, _bicubic(grid.reshape(1, -1, n, n), size=tuple(new_grid)))


@resize_pos_embed.mistake
def reshape_on_the_way_back(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = _laid_out(pos_embed, num_prefix_tokens)
    grid = _bicubic(grid, size=tuple(new_grid))
    return torch.cat([head, grid.reshape(1, -1, pos_embed.shape[2])], dim=1)


@resize_pos_embed.mistake
def as_one_line(pos_embed, new_grid, num_prefix_tokens=1):
    head, line = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:].mT
    line = F.interpolate(line, size=new_grid[0] * new_grid[1], mode="linear")
    return torch.cat([head, line.mT], dim=1)


@resize_pos_embed.mistake
def factor_rounded_down(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = _laid_out(pos_embed, num_prefix_tokens)
    factors = tuple(new / old for new, old in zip(new_grid, grid.shape[-2:], strict=True))
    return _joined(head, _bicubic(grid, scale_factor=factors))


@resize_pos_embed.mistake
def factor_with_a_tenth(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = _laid_out(pos_embed, num_prefix_tokens)
    factors = tuple((new + 0.1) / old for new, old in zip(new_grid, grid.shape[-2:], strict=True))
    return _joined(head, _bicubic(grid, scale_factor=factors))


# ---------------------------------------------------------------- neighbours


def _scaled(rows, dim, seed):
    """Vectors of very different lengths."""
    return drawn(rows, dim, seed=seed) * torch.logspace(-1, 1, rows)[:, None]


def _labels(rows, classes, seed):
    return torch.randint(0, classes, (rows,), generator=generator(seed))


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
        "k = all: the most common class wins everywhere",
        drawn(9, 3, seed=9),
        torch.tensor([2, 5, 5, 2, 5, 0, 5, 2, 2]),
        drawn(6, 3, seed=10),
        9,
    ),
    call(
        "two classes with equally many votes",
        _ties,
        torch.tensor([3, 1, 1, 3]),
        torch.tensor([[1.0, 0.0], [1.0, 0.7]]),
        4,
        hint="The smaller class number wins, whichever is nearer.",
    ),
    call(
        "labels with gaps: 0, 1500 and 3000",
        _scaled(15, 4, 11),
        _labels(15, 3, 12) * 1500,
        drawn(20, 4, seed=13),
        3,
    ),
    call(
        "one long vector among short ones",
        torch.tensor([[100.0, 90.0], [0.1, 0.0], [0.0, 0.2]]),
        torch.tensor([2, 0, 1]),
        torch.tensor([[1.0, 0.1], [0.1, 1.0]]),
        1,
        hint="For the cosine, length does not count, so divide each vector by its length.",
    ),
    in_double(_scaled(20, 6, 14), _labels(20, 4, 15), drawn(10, 6, seed=16), 3),
    not_contiguous(_scaled(20, 6, 17), _labels(20, 4, 18), drawn(10, 6, seed=19), 3),
    sizes=Sizes(
        lambda labelled, queries, width, classes, neighbours: call(
            "",
            _scaled(labelled, width, 0),
            torch.arange(labelled) % classes,
            drawn(queries, width, seed=1),
            neighbours,
        ),
        labelled=(43, 60, 20, 100),
        queries=(26, 38, 30, 10),
        width=(6, 9, 64, 8),
        classes=(7, 4, 10, 3),
        neighbours=(5, 11, 3, 10, 20),
    ),
)


def _vote(similar, labels, k, largest=True):
    return F.one_hot(labels[similar.topk(k, dim=1, largest=largest).indices]).sum(dim=1).argmax(dim=1)


def _cosines(queries, features):
    return F.normalize(queries, dim=1) @ F.normalize(features, dim=1).mT


knn_predict.add_mistakes(
    dot_products=lambda features, labels, queries, k: _vote(queries @ features.mT, labels, k),
    plain_distances=lambda features, labels, queries, k: _vote(-torch.cdist(queries, features), labels, k),
    normalised_over_images=lambda features, labels, queries, k: _vote(
        F.normalize(queries, dim=0) @ F.normalize(features, dim=0).mT, labels, k
    ),
    farthest=lambda features, labels, queries, k: _vote(
        _cosines(queries, features), labels, k, largest=False
    ),
    nearest_only=lambda features, labels, queries, k: labels[_cosines(queries, features).argmax(dim=1)],
    places_not_labels=lambda features, labels, queries, k: (
        _cosines(queries, features).topk(k, dim=1).indices.mode(dim=1).values
    ),
)


def _labels_near(features, labels, queries, k):
    """(N, k) labels of the k nearest, nearest first."""
    return labels[_cosines(queries, features).topk(k, dim=1).indices]


def _votes(*args):
    return F.one_hot(_labels_near(*args)).sum(dim=1)


knn_predict.add_mistakes(
    sums_of_differences=lambda features, labels, queries, k: _vote(
        -torch.cdist(queries, features, p=1), labels, k
    ),
    farthest_by_distance=lambda features, labels, queries, k: _vote(
        torch.cdist(queries, features), labels, k
    ),
    without_sign=lambda features, labels, queries, k: _vote(_cosines(queries, features).abs(), labels, k),
    one_neighbour_more=lambda features, labels, queries, k: _vote(
        _cosines(queries, features), labels, min(k + 1, len(labels))
    ),
    nearest_left_out=lambda features, labels, queries, k: (
        F.one_hot(_labels_near(features, labels, queries, min(k + 1, len(labels)))[:, 1:]).sum(1).argmax(1)
    ),
    last_of_the_neighbours=lambda *args: _labels_near(*args)[:, -1],
    mean_rounded_down=lambda *args: _labels_near(*args).double().mean(dim=1).long(),
    largest_label=lambda *args: _labels_near(*args).amax(dim=1),
    smallest_label=lambda *args: _labels_near(*args).amin(dim=1),
    middle_label=lambda *args: _labels_near(*args).median(dim=1).values,
    labels_of_all_neighbours=lambda *args: _labels_near(*args),
    votes_for_classes=lambda *args: _votes(*args),
    number_of_votes=lambda *args: _votes(*args).amax(dim=1),
    votes_over_queries=lambda *args: F.one_hot(_labels_near(*args)).sum(dim=0).argmax(dim=1),
    place_of_the_winner=lambda *args: _labels_near(*args).mode(dim=1).indices,
    one_answer_for_all=lambda features, labels, queries, k: (
        _votes(features, labels, queries, k).sum(dim=0).argmax().expand(len(queries))
    ),
    float_classes=lambda *args: _votes(*args).argmax(dim=1).float(),
    softmax_over_queries=lambda features, labels, queries, k: _vote(
        _cosines(queries, features).softmax(0), labels, k
    ),
    classes_that_occur=lambda features, labels, queries, k: (
        F.one_hot(_labels_near(features, labels, queries, k), num_classes=len(labels.unique()))
        .sum(dim=1)
        .argmax(dim=1)
    ),
)


@knn_predict.mistake
def sharpened_votes(features, labels, queries, k):
    near = _cosines(queries, features).topk(k, dim=1)
    weights = (near.values / 0.07).exp()[..., None]
    return (F.one_hot(labels[near.indices]) * weights).sum(dim=1).argmax(dim=1)


@knn_predict.mistake
def nearest_mean(features, labels, queries, k):
    classes = labels.unique()
    means = torch.stack([features[labels == c].mean(dim=0) for c in classes])
    return classes[_cosines(queries, means).argmax(dim=1)]


@knn_predict.mistake
def mean_of_labels(features, labels, queries, k):
    nearest = _cosines(queries, features).topk(k, dim=1).indices
    return labels[nearest].double().mean(dim=1).round().long()


@knn_predict.mistake
def sides_exchanged(features, labels, queries, k):
    similar = _cosines(features, queries)  # (M, N)
    return labels[similar.topk(min(k, similar.shape[1]), dim=1).indices % len(labels)].mode(dim=1).values


@knn_predict.mistake
def weighted_votes(features, labels, queries, k):
    near = _cosines(queries, features).topk(k, dim=1)
    votes = torch.zeros(len(queries), int(labels.max()) + 1, dtype=near.values.dtype)
    votes.scatter_add_(1, labels[near.indices], near.values)
    return votes.argmax(dim=1)


@knn_predict.mistake
def ties_to_the_larger(features, labels, queries, k):
    nearest = _cosines(queries, features).topk(k, dim=1).indices
    votes = F.one_hot(labels[nearest]).sum(dim=1)  # (N, K)
    return votes.shape[1] - 1 - votes.flip(1).argmax(dim=1)


@knn_predict.mistake
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
        hint="It is one step below the head, so the decay counts once.",
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
        hint="They are below the first block, one step more than block 0.",
    ),
    call("the patch projection", "patch_embed.proj.weight", 4, 1.0, 0.5),
    call("the class token", "cls_token", 12, 0.001, 0.65),
    Case("decay 1: everything at the peak", lambda c: [c(name, 3, 0.01, 1.0) for name in _PARAMETERS]),
    Case(
        "decay 0: only the head and the last norm learn",
        lambda c: [c(name, 3, 0.01, 0.0) for name in _PARAMETERS],
    ),
    Case(
        "every parameter of a model with three blocks",
        lambda c: [c(name, 3, 0.01, 0.8) for name in _PARAMETERS],
    ),
    sizes=Sizes(
        lambda depth, peak, decay: Case("", lambda c: [c(name, depth, peak, decay) for name in _PARAMETERS]),
        depth=(5, 9, 12, 4, 3),
        peak=(0.3, 0.02, 1.0, 1e-3, 0.01),
        decay=(0.7, 0.9, 0.75, 0.5, 0.65, 0.8),
    ),
)


def _steps(name, depth):
    if name.startswith("blocks."):
        return depth - int(name.split(".")[1])
    return 0 if name.startswith(("head.", "norm.")) else depth + 1


def _in_blocks(
    steps=lambda i, depth: depth - i, rate=lambda peak, decay, steps: peak * decay**steps, embeddings=None
):
    """Right for head and last norm, and with these steps and this rate for the blocks; embeddings: peak, decay, depth -> rate."""

    def wrong(name, depth, peak, decay):
        if name.startswith("blocks."):
            return rate(peak, decay, steps(int(name.split(".")[1]), depth))
        if embeddings and not name.startswith(("head.", "norm.")):
            return embeddings(peak, decay, depth)
        return peak * decay ** _steps(name, depth)

    return wrong


layer_rate.add_mistakes(
    blocks_one_step_too_fast=_in_blocks(lambda i, depth: depth - 1 - i),
    blocks_one_step_too_slow=_in_blocks(lambda i, depth: depth + 1 - i),
    number_for_steps=_in_blocks(lambda i, depth: i),
    all_blocks_alike=_in_blocks(lambda i, depth: 1),
    embeddings_one_step_too_slow=_in_blocks(
        embeddings=lambda peak, decay, depth: peak * decay ** (depth + 2)
    ),
    embeddings_frozen=_in_blocks(embeddings=lambda peak, decay, depth: 0.0),
    embeddings_without_rate=_in_blocks(embeddings=lambda peak, decay, depth: None),
    peak_in_the_power=_in_blocks(rate=lambda peak, decay, steps: (peak * decay) ** steps),
    peak_missing_in_the_blocks=_in_blocks(rate=lambda peak, decay, steps: decay**steps),
    divided_by_the_decay=_in_blocks(rate=lambda peak, decay, steps: peak / decay**steps),
    straight_line=_in_blocks(rate=lambda peak, decay, steps: peak - decay * steps),
    exponential_function=_in_blocks(rate=lambda peak, decay, steps: peak * math.exp(-decay * steps)),
    product_in_the_blocks=_in_blocks(rate=lambda peak, decay, steps: peak * decay * steps),
    loss_in_the_blocks=_in_blocks(rate=lambda peak, decay, steps: peak * (1 - decay) ** steps),
    peak_missing=lambda name, depth, peak, decay: decay ** _steps(name, depth),
    last_digit_of_the_block=lambda name, depth, peak, decay: (
        peak
        * decay
        ** (depth - int(name.split(".")[1][-1]) if name.startswith("blocks.") else _steps(name, depth))
    ),
    every_digit_of_the_name=lambda name, depth, peak, decay: (
        peak * decay ** (depth - int("".join(re.findall(r"\d", name)) or 0))
        if name.startswith("blocks.")
        else peak * decay ** _steps(name, depth)
    ),
    class_token_at_the_peak=lambda name, depth, peak, decay: (
        peak * decay ** (0 if name == "cls_token" else _steps(name, depth))
    ),
    positions_at_the_peak=lambda name, depth, peak, decay: (
        peak * decay ** (0 if name == "pos_embed" else _steps(name, depth))
    ),
    bias_of_the_head_slow=lambda name, depth, peak, decay: (
        peak * decay ** (depth + 1 if name == "head.bias" else _steps(name, depth))
    ),
    only_head_and_norm_slowed=lambda name, depth, peak, decay: peak * decay ** max(1, _steps(name, depth)),
    one_step_too_fast=lambda name, depth, peak, decay: peak * decay ** max(0, _steps(name, depth) - 1),
    embeddings_like_block_0=lambda name, depth, peak, decay: peak * decay ** min(depth, _steps(name, depth)),
    embeddings_at_the_peak=lambda name, depth, peak, decay: (
        peak * decay ** (_steps(name, depth) if name.startswith("blocks.") else 0)
    ),
    last_norm_slow=lambda name, depth, peak, decay: (
        peak * decay ** (depth + 1 if name.startswith("norm.") else _steps(name, depth))
    ),
    every_norm_at_the_peak=lambda name, depth, peak, decay: (
        peak * decay ** (0 if "norm" in name else _steps(name, depth))
    ),
    decay_as_loss=lambda name, depth, peak, decay: peak * (1 - decay) ** _steps(name, depth),
    head_slowed=lambda name, depth, peak, decay: peak * decay ** (_steps(name, depth) + 1),
)


@layer_rate.mistake
def upside_down(name, depth, peak, decay):
    if name.startswith("blocks."):
        return peak * decay ** (int(name.split(".")[1]) + 1)
    return peak if name.startswith(("head.", "norm.")) else peak * decay ** (depth + 1)


@layer_rate.mistake
def one_digit_of_the_block(name, depth, peak, decay):
    steps = depth - int(name[7]) if name.startswith("blocks.") else _steps(name, depth)
    return peak * decay**steps


@layer_rate.mistake
def times_steps(name, depth, peak, decay):
    steps = _steps(name, depth)
    return peak * decay * steps if steps else peak
