"""Where the tokens of a model look: the weights of all blocks, how far they reach, and their product over the blocks."""

import contextlib
import math

import torch
from torch import nn

from vit_edu.inspect.running import (
    eval_mode,
    grid_sides,
    patch_sides,
    require_grid,
    require_images,
    seen,
    whole_number,
)
from vit_edu.models.variants import AttentionPool
from vit_edu.models.vit import Attention, merge_heads, split_heads

MOST_BYTES = 2e9  # that attention_maps returns
AT_ONCE_BYTES = 64e6  # that are computed in one step, for a few images at a time


# ---------------------------------------------------------------- the weights


def attention_weights(qkv, num_heads):
    """The attention weights of one block, from what its `qkv` returns: softmax(q k^T / sqrt(d)) (paper, equation 6).

    qkv: (B, T, 3D), queries, keys and values side by side, as in `models.vit.Attention`. num_heads: h.
    Returns (B, h, T, T). Row i says where token i looks, and sums to 1. Raises ValueError if D is not a multiple of h.
    """
    if qkv.ndim != 3 or qkv.shape[-1] % (3 * num_heads):
        raise ValueError(
            f"expected (B, T, 3 D) with D a multiple of the {num_heads} heads, got {tuple(qkv.shape)}."
        )
    q, k, _ = (split_heads(y, num_heads) for y in qkv.chunk(3, dim=-1))  # (B, h, T, d)
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)


@torch.no_grad()
def attention_maps(model, images, block=None, query=None):
    """The attention weights of all blocks, from one forward pass: (L, B, h, T, T), first block first.

    model: any model with the course's `Attention`, such as `ViT`, `HybridViT` or `PublishedViT`, or with a learner's own.
    images: (B, C, H, W), floats as the model reads them, or clips for a model of clips. Row i of a map says where token i
    looks, and sums to 1. Tokens are in the model's order: those without a patch first (class token, distillation token,
    registers), then the patches in reading order.
    block: only this one is kept, (B, h, T, T); -1 is the last. query: only the row of this token is computed, (L, B, h, T),
    or (B, h, T) with both.

    The pass itself uses fused attention, as always, which never stores these weights. They are computed separately from the
    queries and keys. There are L * B * h * T**2 of them, which takes 22 MB for each image in float32 for a ViT-B/16 at
    224 x 224 pixels.
    Raises ValueError for a model without such a layer, for a layer that computes something else, for images that are not
    floats or none at all, for a block or a query that there is not, and for weights that would take more than 2 GB.
    """
    require_images(images, clips=True)
    layers = attention_layers(model)
    kept = None if block is None else _index(block, len(layers), "block", "blocks")
    maps = None

    def see(number, layer, qkv, mixed):
        nonlocal maps
        if kept is None or number == kept:
            if maps is None:
                maps = _room(layers, layer, qkv, kept, query)
            _fill(maps[0 if kept is not None else number], layer, qkv, mixed, query)

    with watching(layers, see), eval_mode(model):
        model(images)
    return maps if kept is None else maps[0]


def attention_layers(model):
    """The layers of a model in which tokens look at each other, first block first. ValueError if there are none.

    Besides `Attention`, these are all modules with a `qkv` and a `proj`, as a learner's own layer has them.
    """
    layers = [
        m
        for m in model.modules()
        if isinstance(m, Attention)
        or (
            isinstance(getattr(m, "qkv", None), nn.Module)
            and isinstance(getattr(m, "proj", None), nn.Module)
            and not isinstance(m, AttentionPool)  # whose only query is no token
        )
    ]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no attention to look at: expected a model with blocks of models.vit.Attention, "
            "such as ViT or HybridViT, or with layers of your own that have a qkv and a proj, as in lesson 03. "
            "pretrained.from_model turns models of other libraries into one."
        )
    for layer in layers:
        if not isinstance(getattr(layer, "num_heads", None), int):
            raise ValueError(
                f"{type(layer).__name__} does not say how many heads it has: set self.num_heads in its __init__."
            )
    return layers


@contextlib.contextmanager
def watching(layers, see):
    """A `with` block in which `see(number, layer, qkv, mixed)` is called whenever one of the layers has mixed its tokens.

    number: how many have done so before it. qkv: what its `qkv` returned, (B, T, 3D). mixed: what its `proj` is about to read,
    (B, T, D). What `see` returns takes its place, unless it is None. Raises ValueError unless each layer runs once.
    """
    found, hooks, ran = {}, [], []

    def remember(layer):
        return lambda linear, inputs, output: found.__setitem__(layer, output)

    def show(layer):
        def hook(linear, inputs):
            if layer in ran:
                raise ValueError(
                    f"one {type(layer).__name__} runs twice in one pass, as if it were two blocks."
                )
            if layer not in found:
                raise ValueError(
                    f"{type(layer).__name__} does not call its qkv, from which the weights are computed."
                )
            ran.append(layer)
            return see(len(ran) - 1, layer, found.pop(layer), inputs[0])

        return hook

    try:
        for layer in layers:
            hooks.append(layer.qkv.register_forward_hook(remember(layer)))
            hooks.append(layer.proj.register_forward_pre_hook(show(layer)))
        yield
        if len(ran) < len(layers):
            raise ValueError(
                f"the model has {len(layers)} attention layers, but only {len(ran)} ran for these images."
            )
    finally:
        for hook in hooks:
            hook.remove()


def weights_and_values(layer, qkv, query=None):
    """The weights of a layer, (B, h, T, T), or (B, h, 1, T) for one query, and its values (B, h, T, d).

    qkv: (B, T, 3D), what its `qkv` returned. A layer that adds something to its scores, as `LocalAttention` does, says so
    in a method `attention_bias()`, which returns (h, T, T), or anything that broadcasts to (B, h, T, T).
    """
    q, k, v = (split_heads(y, layer.num_heads) for y in qkv.chunk(3, dim=-1))
    rows = slice(None) if query is None else slice(query, query + 1)
    scores = q[:, :, rows] @ k.mT / math.sqrt(q.shape[-1])
    if hasattr(layer, "attention_bias"):
        bias = layer.attention_bias().expand(*scores.shape[:2], k.shape[2], k.shape[2])
        scores = scores + bias[:, :, rows]
    return scores.softmax(dim=-1), v


@torch.no_grad()
def require_same(layer, weights, values, mixed, query=None):
    """Raise ValueError unless the weights explain how the layer mixed its tokens. `Attention` itself is known to be explained.

    weights, values: of `weights_and_values`. mixed: see `watching`.
    """
    if type(layer).forward is Attention.forward or not mixed.isfinite().all():
        return
    explained = merge_heads(weights @ values)
    mixed = mixed if query is None else mixed[:, query : query + 1]
    close = 1e-3 if mixed.dtype in (torch.float32, torch.float64) else 0.05
    if explained.shape != mixed.shape or (explained - mixed).abs().max() > close * mixed.abs().max():
        raise ValueError(
            f"{type(layer).__name__} does not mix its tokens by softmax(q k^T / sqrt(d)) v, so its weights are not known. "
            "If it adds something to q k^T / sqrt(d), give it a method attention_bias() that returns that, as (h, T, T)."
        )


def _fill(whole, layer, qkv, mixed, query):
    """Write a layer's weights into (B, h, T, T), or (B, h, T) for one query, for a few images at a time."""
    T = qkv.shape[1]
    query = None if query is None else query % T
    rows = T if query is None else 1
    step = max(1, int(AT_ONCE_BYTES / (layer.num_heads * rows * T * qkv.element_size())))
    for at in range(0, len(qkv), step):
        some = slice(at, at + step)
        weights, values = weights_and_values(layer, qkv[some], query)
        require_same(layer, weights, values, mixed[some], query)
        weights = weights if query is None else weights[:, :, 0]
        if weights.shape[1:] != whole.shape[1:]:
            raise ValueError(
                "the blocks do not have equally many heads and tokens, so their weights do not fit into one tensor: "
                "ask for one block at a time, with block=."
            )
        whole[some] = weights


def _room(layers, layer, qkv, kept, query):
    """An empty tensor for all weights. ValueError for a query that there is not, and for more than `MOST_BYTES`."""
    B, T, _ = qkv.shape
    L, h = 1 if kept is not None else len(layers), layer.num_heads
    if query is not None:
        _index(query, T, "query", "tokens")
    shape = (L, B, h, T, T) if query is None else (L, B, h, T)
    gigabytes = math.prod(shape) * qkv.element_size() / 1e9
    if gigabytes * 1e9 > MOST_BYTES:
        ways = [f"block= (0 to {len(layers) - 1}) for one block"] * (kept is None and len(layers) > 1)
        ways += [f"query= (0 to {T - 1}) for one token"] * (query is None)
        ways += ["fewer images"] * (B > 1)
        raise ValueError(
            f"the attention weights of {B} image{'s' * (B > 1)} with {T:,} tokens, in {L} block{'s' * (L > 1)} of {h} "
            f"head{'s' * (h > 1)}, would take {gigabytes:.1f} GB, and more than {MOST_BYTES / 1e9:g} GB are not computed. "
            f"Ask for {', or '.join(ways)}."
        )
    return qkv.new_empty(shape)


def _index(value, count, name, things):
    """The place that Python's indexing means, 0 .. count - 1. Raises ValueError if there is no such place."""
    place = whole_number(value, name)
    if not -count <= place < count:
        raise ValueError(
            f"there is no {name} {place}: the model has {count} {things}, 0 to {count - 1}, or -1 for the last."
        )
    return place % count


# ---------------------------------------------------------------- places


def with_patches(model):
    """The model itself, or the part of it, that has a `patch_embed`. ValueError if there is none."""
    for part in model.modules():
        if isinstance(getattr(part, "patch_embed", None), nn.Module):
            return part
    raise ValueError(
        f"{type(model).__name__} does not say on which grid its tokens lie: expected a model with a patch_embed, such as ViT "
        "or HybridViT."
    )


def grid_and_prefix(model):
    """((rows, cols) of the patches, number of prefix tokens in front of them), for any model of the course or converted.

    They are those of its `patch_embed`, which may also be in a part of the model. If it has no `grid_size`, as a learner's may
    not, the grid is the square that the positions fill.
    Raises ValueError for a model that does not cut images into tokens on a grid, and where the grid is not known.
    """
    part = with_patches(model)
    prefix = getattr(part, "num_prefix_tokens", None)
    if prefix is None:
        prefix = int(getattr(part, "cls_token", None) is not None)
    grid = getattr(part.patch_embed, "grid_size", None)
    if grid is None:
        positions = getattr(part, "pos_embed", None)
        known = isinstance(positions, torch.Tensor) and positions.ndim == 3  # (1, T, D)
        patches = max(0, positions.shape[1] - prefix) if known else 0
        grid = (math.isqrt(patches),) * 2
        if not patches or math.prod(grid) != patches:
            raise ValueError(
                f"the patch_embed of {type(model).__name__} does not say on which grid its tokens lie: set its grid_size to "
                "(rows, cols)."
            )
    return tuple(grid), prefix


def _distances(grid, patch_size):
    """Pixels between the centres of all pairs of patches: (N, N), float64."""
    rows, cols = grid
    height, width = patch_sides(patch_size)
    row, col = torch.meshgrid(torch.arange(rows) * height, torch.arange(cols) * width, indexing="ij")
    centres = torch.stack(
        [row.flatten(), col.flatten()], dim=1
    ).double()  # (N, 2); the upper left corners do as well
    return torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")


def attention_distance(weights, grid, patch_size, prefix=0):
    """How far each head of a block looks: the mean distance between a patch and those it looks at, in pixels (paper, figure 7 right).

    weights: (B, h, T, T), of one block. grid: (rows, cols) of the patches. patch_size: in pixels, P or (rows, cols).
    prefix: how many tokens have no place. They are left out, and what the patches pay to the patches is made to sum to 1
    again. The distances between the centres of patches are weighted by the attention, then averaged over patches and images.
    Returns (h,), in pixels: 0 for a head whose patches see themselves only, `uniform_distance` for one that does not care.
    Source: Dosovitskiy et al. 2021, section 4.5; Raghu et al. 2021, arXiv:2108.08810, figure 3.
    Raises ValueError if rows do not sum to 1 or are negative, and for a grid that does not fit.
    """
    require_weights(
        weights, 4, "the weights of one block, (B, h, T, T), as in attention_maps(model, images)[0]"
    )
    grid = require_grid(grid, weights.shape[-1], prefix)
    between = weights[:, :, prefix:, prefix:]  # (B, h, N, N)
    paid = between.sum(dim=-1)  # (B, h, N)
    if not (paid > 0).all():
        raise ValueError("some patches pay no attention to any patch, so there is no distance for them.")
    distances = _distances(grid, patch_size).to(weights)
    return ((between * distances).sum(dim=-1) / paid).mean(dim=(0, 2))


def uniform_distance(grid, patch_size):
    """The `attention_distance` of a head that looks at all patches alike, in pixels, in closed form.

    grid: (rows, cols). patch_size: in pixels, P or (rows, cols). Patches that are r rows and c columns apart are
    sqrt(r^2 + c^2) apart, and there are (rows - r)(cols - c) such pairs, in each of the directions that there are.
    """
    rows, cols = grid_sides(grid)
    height, width = patch_sides(patch_size)
    total = sum(
        (rows - abs(r)) * (cols - abs(c)) * math.hypot(r * height, c * width)
        for r in range(1 - rows, rows)
        for c in range(1 - cols, cols)
    )
    return total / (rows * cols) ** 2


# ---------------------------------------------------------------- over the blocks


def rollout(weights, identity=0.5):
    """How much of each input token reaches each output token, if attention were all that mixes tokens: (B, T, T).

    weights: (L, B, h, T, T), first block first. In each block, the mean A over the heads is mixed with the skip connection,
    0.5 A + 0.5 I, and the product over the blocks has the later ones on the left: row i is output token i, and sums to 1.
    identity: the share of the skip connection, 0..1; 0 leaves it out.
    Source: Abnar and Zuidema 2020, arXiv:2005.00928, section 3.
    Raises ValueError if rows do not sum to 1 or are negative.
    """
    require_weights(
        weights, 5, "the weights of all blocks, (L, B, h, T, T), as from attention_maps(model, images)"
    )
    eye = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    result = eye.expand(weights.shape[1], -1, -1)  # (B, T, T)
    for block in weights:
        mixed = (1 - identity) * block.mean(dim=1) + identity * eye  # (B, T, T)
        result = mixed @ result
    return result


def require_weights(weights, ndim, expected):
    """Raise ValueError unless these are attention weights: floats, square, not negative, and rows that sum to 1."""
    if (
        not isinstance(weights, torch.Tensor)
        or not weights.is_floating_point()
        or weights.ndim != ndim
        or weights.shape[-1] != weights.shape[-2]
        or not weights.numel()
    ):
        raise ValueError(f"expected {expected}, got {seen(weights)}.")
    if weights.isnan().any():
        raise ValueError("some attention weights are nan, so the model's numbers are no longer finite.")
    if weights.min() < 0:
        raise ValueError(
            f"attention weights are never negative, got {weights.min().item():.3g}. Are these scores before the softmax?"
        )
    sums = weights.sum(dim=-1, dtype=torch.float64 if weights.dtype == torch.float64 else torch.float32)
    close = 1e-3 if weights.dtype in (torch.float32, torch.float64) else 2e-2
    if not (sums - 1).abs().max() <= close:
        raise ValueError(
            f"each row of attention weights sums to 1, but these sum to {sums.min().item():.3g} to {sums.max().item():.3g}. "
            "Pass them with all tokens, as attention_maps returns them."
        )
