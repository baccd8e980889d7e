"""Lesson 07: attention weights, filters, positions, attention distance, rollout, and a test of what a map claims."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vit_edu import inspect
from vit_edu.check.cases import (
    Case,
    CaseFailed,
    apply,
    call,
    drawn,
    generator,
    in_double,
    not_contiguous,
)
from vit_edu.check.compare import described
from vit_edu.check.engine import Exercise
from vit_edu.check.probes import Sizes
from vit_edu.models import vit


def _eye_like(weights):
    return torch.eye(weights.shape[-1], dtype=weights.dtype)


def _attention(*shape, seed=0):
    """Attention weights of this shape, (..., T, T): every row is positive and sums to 1."""
    return (2 * drawn(*shape, seed=seed)).softmax(dim=-1)


def _several(tokens):
    """The number of tokens, for `Sizes`. ValueError for one, where nearly every answer is right."""
    if tokens == 1:
        raise ValueError("one token says nothing about the weights")
    return tokens


def _apart(places, p=2.0):
    """(N, n) -> (N, N): distances, without the shortcut by which torch.cdist loses digits."""
    return torch.cdist(places, places, p=p, compute_mode="donot_use_mm_for_euclid_dist")


# ---------------------------------------------------------------- attention weights

attention_weights = Exercise(
    inspect.attention_weights,
    call(
        "1 image, 2 tokens of width 2, one head",
        torch.tensor([[[1.0, 0.0, 2.0, 1.0, 5.0, 5.0], [0.0, 3.0, 0.0, 1.0, 5.0, 5.0]]]),
        1,
        hint="Of each token's 3D numbers, the first D are its query and the next D its key.",
    ),
    call(
        "a batch of 2, 5 tokens, 3 heads of width 4",
        drawn(2, 5, 36),
        3,
        hint="Head 0 takes the first d numbers of query and key, head 1 the next d.",
    ),
    call("as many heads as numbers: width 1", drawn(2, 3, 12, seed=1), 4),
    call("as many tokens as heads", drawn(2, 4, 24, seed=2), 4),
    call("one token: it looks at itself", drawn(2, 1, 12, seed=3), 2),
    # Width 4, because its root is exact: torch.sqrt(torch.tensor(d)) is in float32, and should pass.
    in_double(drawn(2, 3, 24, seed=5), 2),
    not_contiguous(drawn(2, 5, 24, seed=6), 2),
    sizes=Sizes(
        lambda images, heads, tokens, head_width: call(
            "", drawn(images, _several(tokens), 3 * heads * head_width), heads
        ),
        images=(5, 3, 2, 8),
        heads=(2, 6, 4, 3, 12),
        tokens=(7, 5, 17, 65),
        head_width=(12, 9, 64, 8, 4, 16),
    ),
)


def _heads(qkv, num_heads):
    """q, k, v: 3 x (B, h, T, d)."""
    return [vit.split_heads(y, num_heads) for y in qkv.chunk(3, dim=-1)]


def _spread(q, k, scale=None):
    return (q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)).softmax(dim=-1)


def _with_heads(pattern):
    """Right, except for the way in which (B, T, 3D) is taken apart. pattern: from there to three (B, h, T, d), for einops."""

    def weights(qkv, num_heads):
        q, k, _v = rearrange(qkv, pattern, h=num_heads, n=3)
        return _spread(q, k)

    return weights


def _between(change):
    """Right, except for what is made of the queries and keys. change: q, k, v -> result."""
    return lambda qkv, num_heads: change(*_heads(qkv, num_heads))


attention_weights.add_mistakes(
    no_scale=_between(lambda q, k, v: _spread(q, k, 1.0)),
    scale_by_d=_between(lambda q, k, v: _spread(q, k, 1 / q.shape[-1])),
    scale_by_full_width=_between(lambda q, k, v: _spread(q, k, (q.shape[1] * q.shape[-1]) ** -0.5)),
    scale_by_width_of_qkv=_between(lambda q, k, v: _spread(q, k, (3 * q.shape[1] * q.shape[-1]) ** -0.5)),
    scale_up=_between(lambda q, k, v: _spread(q, k, q.shape[-1] ** 0.5)),
    scaled_after_the_softmax=_between(lambda q, k, v: _spread(q, k, 1.0) / q.shape[-1] ** 0.5),
    no_softmax=_between(lambda q, k, v: q @ k.mT / q.shape[-1] ** 0.5),
    softmax_over_queries=_between(lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-2)),
    softmax_over_heads=_between(lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=1)),
    keys_ask=_between(lambda q, k, v: _spread(k, q)),
    values_for_keys=_between(lambda q, k, v: _spread(q, v)),
    values_for_queries=_between(lambda q, k, v: _spread(k, v)),
    output_for_weights=_between(lambda q, k, v: _spread(q, k) @ v),
    both_returned=_between(lambda q, k, v: vit.scaled_dot_product_attention(q, k, v)),
    heads_averaged=_between(lambda q, k, v: _spread(q, k).mean(dim=1)),
    no_heads=lambda qkv, num_heads: _between(lambda q, k, v: _spread(q, k)[:, 0])(qkv, 1),
    one_head_for_all=lambda qkv, num_heads: _between(lambda q, k, v: _spread(q, k))(qkv, 1),
    heads_interleaved=_with_heads("b t (n d h) -> n b h t d"),
    heads_before_qkv=_with_heads("b t (h n d) -> n b h t d"),
)


@attention_weights.mistake
def heads_by_reshape(qkv, num_heads):
    B, T, _ = qkv.shape
    q, k, _v = (y.reshape(B, num_heads, T, -1) for y in qkv.chunk(3, dim=-1))
    return _spread(q, k)


@attention_weights.mistake
def across_the_heads(qkv, num_heads):
    B, T, _ = qkv.shape
    q, k, _v = (y.reshape(B, T, num_heads, -1) for y in qkv.chunk(3, dim=-1))
    return _spread(q, k)


# ---------------------------------------------------------------- filters


def _projection(D, C, P, seed=0):
    """The weight of a patch projection (D, C, P, P) whose components are far apart in strength, so that each is unique."""
    left, _, right = torch.linalg.svd(drawn(D, C * P * P, seed=seed), full_matrices=False)
    strength = 4 * 0.93 ** torch.arange(right.shape[0])
    return (left * strength @ right).reshape(D, C, P, P)


def _either_sign(components):
    """The components with signs that do not depend on those that they have: a component may as well be its negative."""
    if not isinstance(components, torch.Tensor) or components.ndim < 2 or not components.is_floating_point():
        return components
    flat = components.flatten(1)
    direction = 1 / torch.arange(1, flat.shape[1] + 1, dtype=flat.dtype)
    sign = torch.where(flat @ direction < 0, -1.0, 1.0).to(flat.dtype)
    return components * sign.reshape(-1, *[1] * (components.ndim - 1))


def _components(name, weight, *count, **options):
    """A case for `filters`. Tolerance: single precision, and ways that square the strengths, such as the eigenvectors of W^T W."""

    def run(candidate):
        first, again = (_either_sign(apply(candidate, weight, *count)) for _ in range(2))
        if isinstance(first, torch.Tensor) and not torch.allclose(first, again, 1e-3, 1e-3):
            raise CaseFailed("the same input gives another result each time")
        return first

    return Case(name, run, tolerance=1e-3, given=(weight, *count), **options)


_six_filters = torch.tensor(
    [
        [2.0, 2.0, 2.0, 2.0],
        [1.0, 1.0, 1.0, 1.0],
        [1.0, 1.0, 1.0, 1.0],
        [1.0, 1.0, -1.0, -1.0],
        [1.0, 1.0, -1.0, -1.0],
        [1.0, -1.0, 1.0, -1.0],
    ]
).reshape(6, 1, 2, 2)

filters = Exercise(
    inspect.filters,
    _components(
        "six grey filters of 2 x 2, their 2 first components",
        _six_filters,
        2,
        hint="The strongest component is what most of the filters have in common, scaled to length 1. Either sign is right: "
        "it is made the same before the numbers are compared.",
    ),
    _components(
        "20 filters of 3 channels and 2 x 2 pixels, their 5 first components",
        _projection(20, 3, 2),
        5,
        hint="Each filter is one row of a matrix (D, C*P*P). A component has C*P*P numbers, in the order of a filter.",
    ),
    _components(
        "fewer filters than numbers in each: 6 filters of 3 x 3 x 3, 4 components",
        _projection(6, 3, 3, seed=1),
        4,
    ),
    _components(
        "as many filters as numbers in each: 12 of 3 x 2 x 2, 3 components",
        _projection(12, 3, 2, seed=2),
        3,
    ),
    _components("a single component", _projection(10, 2, 2, seed=3), 1),
    _components("all 8 components of 10 filters", _projection(10, 2, 2, seed=4), 8),
    _components(
        "filters that all have a large mean",
        _projection(15, 3, 2, seed=5) + 1,
        3,
        hint="The components are those of the filters as they are, nothing is subtracted first.",
    ),
    _components("28 of them, if no number is given", _projection(40, 3, 4, seed=6)),
    _components(
        "a weight in float64 gives components in float64",
        _projection(20, 3, 2).double(),
        5,
        kind="property",
        remark=True,
    ),
    sizes=Sizes(
        lambda filters, channels, patch, components: _components(
            "", _projection(filters, channels, patch), components
        ),
        filters=(24, 31, 64, 48),
        channels=(5, 2, 3, 1),
        patch=(2, 4, 3, 8),
        components=(6, 7, 28, 16, 10),
    ),
)


def _svd(weight):
    return torch.linalg.svd(weight.flatten(1), full_matrices=False)


def _of_matrix(change):
    """Right, except that the matrix (D, C*P*P) is changed first."""

    def wrong(weight, count=28):
        matrix = change(weight.flatten(1))
        Vh = torch.linalg.svd(matrix, full_matrices=False).Vh
        return Vh[:count].reshape(-1, *weight.shape[1:])

    return wrong


def _afterwards(change):
    """Right, except that the components (count, C, P, P) are changed at the end. change: components, weight -> result."""
    return lambda weight, count=28: change(_svd(weight).Vh[:count].reshape(-1, *weight.shape[1:]), weight)


filters.add_mistakes(
    columns_of_vh=lambda weight, count=28: _svd(weight).Vh[:, :count].T.reshape(count, *weight.shape[1:]),
    vectors_of_the_other_side=lambda weight, count=28: (
        _svd(weight).U[:, :count].T.reshape(count, *weight.shape[1:])
    ),
    rows_of_u=lambda weight, count=28: _svd(weight).U[:count].reshape(count, *weight.shape[1:]),
    reshaped_for_transposed=lambda weight, count=28: (
        torch.linalg.svd(weight.reshape(-1, len(weight)), full_matrices=False)
        .U[:, :count]
        .T.reshape(count, *weight.shape[1:])
    ),
    smallest_first=lambda weight, count=28: _svd(weight).Vh.flip(0)[:count].reshape(-1, *weight.shape[1:]),
    count_ignored=lambda weight, count=28: _svd(weight).Vh.reshape(-1, *weight.shape[1:]),
    not_folded=lambda weight, count=28: _svd(weight).Vh[:count],
    mean_filter_subtracted=_of_matrix(lambda matrix: matrix - matrix.mean(dim=0)),
    mean_of_each_filter_subtracted=_of_matrix(lambda matrix: matrix - matrix.mean(dim=1, keepdim=True)),
    filters_normalised=_of_matrix(lambda matrix: F.normalize(matrix, dim=1)),
    numbers_standardised=_of_matrix(lambda matrix: (matrix - matrix.mean(dim=0)) / matrix.std(dim=0)),
    channels_last=_afterwards(
        lambda x, weight: rearrange(x.flatten(1), "k (p q c) -> k c p q", p=x.shape[2], q=x.shape[3])
    ),
    pixels_transposed=_afterwards(lambda x, weight: x.mT),
    scaled_by_strength=_afterwards(lambda x, weight: x * _svd(weight).S[: len(x), None, None, None]),
    stretched_to_01=_afterwards(
        lambda x, weight: (
            (x - x.amin(dim=(1, 2, 3), keepdim=True))
            / (x.amax(dim=(1, 2, 3), keepdim=True) - x.amin(dim=(1, 2, 3), keepdim=True))
        )
    ),
    drawn_at_random=lambda weight, count=28: torch.svd_lowrank(weight.flatten(1), q=count)[2].T.reshape(
        count, *weight.shape[1:]
    ),
    centred_and_drawn_at_random=lambda weight, count=28: torch.pca_lowrank(weight.flatten(1), q=count)[
        2
    ].T.reshape(count, *weight.shape[1:]),
    filters_as_they_are=lambda weight, count=28: weight[:count],
    strongest_filters=lambda weight, count=28: weight[weight.flatten(1).norm(dim=1).topk(count).indices],
)


@filters.mistake
def each_channel_for_itself(weight, count=28):
    parts = [_svd(channel).Vh[:count] for channel in weight.unbind(dim=1)]
    return torch.stack(parts, dim=1).reshape(-1, *weight.shape[1:])


@filters.mistake
def rows_of_eigenvectors(weight, count=28):
    matrix = weight.flatten(1)
    vectors = torch.linalg.eigh(matrix.T @ matrix).eigenvectors.flip(1)
    return vectors[:count].reshape(count, *weight.shape[1:])


# ---------------------------------------------------------------- similarity of positions


def _positions(rows, cols, width, prefix=0, seed=0):
    """(1, prefix + rows*cols, width): positions of very different lengths, and not of mean 0."""
    x = drawn(1, prefix + rows * cols, width, seed=seed)
    return x * torch.linspace(0.5, 2, x.shape[1])[:, None] + 0.3


position_similarity = Exercise(
    inspect.position_similarity,
    call(
        "a grid of 1 x 3, positions of width 2",
        torch.tensor([[[3.0, 4.0], [4.0, 3.0], [-8.0, 6.0]]]),
        (1, 3),
        hint="The cosine is the product of two vectors, divided by both lengths.",
    ),
    call(
        "a grid of 2 x 3",
        _positions(2, 3, 5),
        (2, 3),
        hint="result[r, c] is the map of the place in row r and column c: (rows, cols) again.",
    ),
    call(
        "a class token in front: one prefix token",
        _positions(2, 3, 5, prefix=1),
        (2, 3),
        1,
        hint="Prefix tokens have no place in the grid. They come first.",
    ),
    call("3 prefix tokens", _positions(3, 2, 8, prefix=3, seed=1), (3, 2), 3),
    call("a square grid", _positions(3, 3, 4, prefix=1, seed=2), (3, 3), 1),
    call("a single row", _positions(1, 5, 4, seed=3), (1, 5)),
    call("a single column", _positions(4, 1, 4, seed=4), (4, 1), 0),
    call("as many places as numbers in each position", _positions(2, 3, 6, seed=5), (2, 3)),
    in_double(_positions(2, 3, 5, prefix=1, seed=6), (2, 3), 1),
    not_contiguous(_positions(2, 3, 5, prefix=1, seed=7), (2, 3), 1),
    sizes=Sizes(
        lambda rows, columns, width, prefix: call(
            "", _positions(rows, columns, width, prefix), (rows, columns), prefix
        ),
        rows=(5, 3, 8, 7, 14),
        columns=(6, 4, 8, 7, 14),
        width=(12, 9, 64, 8),
        prefix=(2, 3, 1),
    ),
)


def _compared(similar):
    """Right, except for the measure. similar: positions (N, D) -> (N, N)."""
    return lambda pos_embed, grid, prefix=0: similar(pos_embed[0, prefix:]).reshape(*grid, *grid)


def _of_all(change, similar):
    """Right, except that the prefix is dropped too late. change: positions (T, D) -> (T, D). similar: (N, D) -> (N, N)."""
    return lambda pos_embed, grid, prefix=0: similar(change(pos_embed[0])[prefix:]).reshape(*grid, *grid)


def _of_places(drop):
    """Right, except for the tokens that are taken. drop: positions (T, D), prefix -> (N, D)."""
    return lambda pos_embed, grid, prefix=0: _cosines(drop(pos_embed[0], prefix)).reshape(*grid, *grid)


def _folded(fold):
    """Right, except for the form of the result. fold: cosines (N, N), rows, cols -> result."""
    return lambda pos_embed, grid, prefix=0: fold(_cosines(pos_embed[0, prefix:]), *grid)


def _cosines(x):
    x = F.normalize(x, dim=-1)
    return x @ x.T


position_similarity.add_mistakes(
    prefix_kept=_of_places(lambda x, prefix: x),
    dropped_at_the_end=_of_places(lambda x, prefix: x[: len(x) - prefix]),
    last_one_dropped=_of_places(lambda x, prefix: x[:-1]),
    dropped_by_minus_prefix=_of_places(lambda x, prefix: x[:-prefix]),
    always_one_dropped=_of_places(lambda x, prefix: x[1:]),
    one_dropped_if_any=_of_places(lambda x, prefix: x[1:] if prefix else x),
    products_without_lengths=_compared(lambda x: x @ x.T),
    divided_by_one_length=_compared(lambda x: F.normalize(x, dim=-1) @ x.T),
    normalised_over_positions=_compared(lambda x: F.normalize(x, dim=0) @ F.normalize(x, dim=0).T),
    normalised_with_the_prefix=_of_all(lambda x: F.normalize(x, dim=0), lambda x: x @ x.T),
    each_with_itself=lambda pos_embed, grid, prefix=0: F.cosine_similarity(
        pos_embed[0, prefix:], pos_embed[0, prefix:], dim=-1
    ).reshape(*grid),
    distances_for_cosines=_compared(lambda x: _apart(x)),
    negative_distances=_compared(lambda x: -_apart(x)),
    one_minus_cosine=_compared(lambda x: 1 - _cosines(x)),
    softmax_of_cosines=_compared(lambda x: _cosines(x).softmax(dim=-1)),
    without_sign=_compared(lambda x: _cosines(x).abs()),
    mean_position_subtracted=_compared(lambda x: _cosines(x - x.mean(dim=0))),
    mean_of_each_subtracted=_compared(lambda x: _cosines(x - x.mean(dim=1, keepdim=True))),
    not_folded=_folded(lambda similar, rows, cols: similar),
    square_grids_only=_folded(lambda similar, rows, cols: similar.reshape([int(len(similar) ** 0.5)] * 4)),
    folded_once=_folded(lambda similar, rows, cols: similar.reshape(-1, rows, cols)),
    batch_axis_kept=_folded(lambda similar, rows, cols: similar.reshape(1, rows, cols, rows, cols)),
    rows_and_columns_exchanged=_folded(lambda similar, rows, cols: similar.reshape(cols, rows, cols, rows)),
    numbered_down_the_columns=_folded(
        lambda similar, rows, cols: rearrange(similar, "(c r) (d s) -> r c s d", r=rows, s=rows)
    ),
)


@position_similarity.mistake
def one_place_only(pos_embed, grid, prefix=0):
    return _cosines(pos_embed[0, prefix:])[0].reshape(*grid)


# ---------------------------------------------------------------- attention distance

_three_in_a_row = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])[None, None]


def _distances_case(name, *args, **options):
    # torch.cdist, by its shortcut for more than 25 places, is exact to about 1e-3 of a pixel.
    return call(name, *args, tolerance=1e-3, **options)


attention_distance = Exercise(
    inspect.attention_distance,
    _distances_case(
        "a grid of 1 x 3, patches of 4 x 4: the queries look 8, 0 and 6 pixels far",
        _three_in_a_row,
        (1, 3),
        4,
        hint="Query 2 gives half of its attention to a patch 8 pixels away and half to one 4 pixels away.",
    ),
    _distances_case(
        "2 images, 3 heads, a grid of 2 x 3",
        _attention(2, 3, 6, 6),
        (2, 3),
        5,
        hint="Patch i is in row i // cols and column i % cols. The result has one number for each head.",
    ),
    _distances_case(
        "a class token in front",
        _attention(2, 2, 7, 7, seed=1),
        (2, 3),
        4,
        1,
        hint="Drop the prefix from queries and keys, then let each row sum to 1 again.",
    ),
    _distances_case("4 prefix tokens", _attention(1, 2, 12, 12, seed=2), (4, 2), 3, 4),
    _distances_case("a square grid, as many heads as images", _attention(3, 3, 9, 9, seed=3), (3, 3), 2),
    _distances_case("each patch looks at itself", torch.eye(6).expand(2, 2, 6, 6), (3, 2), 4),
    _distances_case(
        "even attention",
        torch.full((1, 1, 20, 20), 0.05),
        (4, 5),
        16,
        hint="Here every distance counts the same.",
    ),
    _distances_case("a single patch", torch.ones(2, 1, 1, 1), (1, 1), 8),
    _distances_case(
        "patches that are 2 pixels high and 8 wide",
        _attention(2, 2, 12, 12, seed=7),
        (4, 3),
        (2, 8),
        hint="`patch_size` is an int, or a pair (height, width).",
        kind="property",
    ),
    _distances_case("patches of one pixel", _attention(1, 4, 8, 8, seed=4), (2, 4), 1, 0),
    in_double(_attention(2, 2, 7, 7, seed=5), (2, 3), 4, 1, tolerance=1e-3),
    not_contiguous(_attention(2, 2, 7, 7, seed=6), (2, 3), 4, 1, tolerance=1e-3),
    sizes=Sizes(
        lambda images, heads, rows, columns, patch, prefix: _distances_case(
            "",
            _attention(images, heads, prefix + rows * columns, prefix + rows * columns),
            (rows, columns),
            patch,
            prefix,
        ),
        images=(5, 3, 2, 8),
        heads=(2, 6, 4, 3, 12),
        rows=(4, 3, 8, 7, 2),
        columns=(7, 5, 8, 2),
        patch=(6, 9, 4, 16, 2),
        prefix=(3, 2, 1),
    ),
)


def _places(rows, cols):
    """(N, 2) row and column of every patch, in patches."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(cols))


def _sides(patch_size, like):
    """Height and width of a patch in pixels, as a tensor (2,) of the same type as `like`."""
    return torch.as_tensor((patch_size, patch_size) if isinstance(patch_size, int) else patch_size).to(
        like.dtype
    )


def _counted(per_row, per_column):
    """(N, 2) places by a rule that is wrong: number // per_row and number % per_column, both functions of rows and cols."""

    def places(rows, cols):
        number = torch.arange(rows * cols)
        return torch.stack([number // per_row(rows, cols), number % per_column(rows, cols)], dim=1)

    return places


def _side(rows, cols):
    return int((rows * cols) ** 0.5)


def _without_prefix(weights, prefix):
    return _normalised(weights[..., prefix:, prefix:])


def _normalised(weights, dim=-1):
    return weights / weights.sum(dim=dim, keepdim=True)


def _without_keepdim(weights):
    """Without it, a square matrix has its columns divided; what has more axes is an error, or worse."""
    return weights / weights.sum(dim=-1)


def _distance(
    drop=_without_prefix,
    places=_places,
    apart=_apart,
    mean=lambda weights, distances: (weights * distances).sum(dim=-1).mean(dim=(0, 2)),
):
    """Right, except for one of these. drop: weights, prefix -> (B, h, N, N). places: rows, cols -> (N, 2) in patches.

    apart: places in pixels -> (N, N). mean: weights, distances -> result.
    """

    def wrong(weights, grid, patch_size, prefix=0):
        kept = drop(weights, prefix)
        return mean(kept, apart(_sides(patch_size, weights) * places(*grid)))

    return wrong


attention_distance.add_mistakes(
    in_patches=lambda weights, grid, patch_size, prefix=0: _distance()(weights, grid, 1, prefix),
    int_only=lambda weights, grid, patch_size, prefix=0: patch_size * _distance()(weights, grid, 1, prefix),
    height_and_width_exchanged=lambda weights, grid, patch_size, prefix=0: _distance()(
        weights, grid, _sides(patch_size, weights).flip(0), prefix
    ),
    height_for_both=lambda weights, grid, patch_size, prefix=0: _distance()(
        weights, grid, _sides(patch_size, weights)[[0, 0]], prefix
    ),
    not_made_up_for=_distance(lambda weights, prefix: weights[..., prefix:, prefix:]),
    prefix_kept=_distance(lambda weights, prefix: weights),
    dropped_at_the_end=_distance(
        lambda weights, prefix: _without_prefix(weights.flip(-1, -2), prefix).flip(-1, -2)
    ),
    always_one_dropped=_distance(lambda weights, prefix: _without_prefix(weights, 1)),
    one_dropped_if_any=_distance(lambda weights, prefix: _without_prefix(weights, min(prefix, 1))),
    no_keepdim=_distance(lambda weights, prefix: _without_keepdim(weights[..., prefix:, prefix:])),
    columns_sum_to_1=_distance(lambda weights, prefix: _normalised(weights[..., prefix:, prefix:], dim=-2)),
    squared_distance=_distance(apart=lambda places: _apart(places) ** 2),
    along_the_edges=_distance(apart=lambda places: _apart(places, 1.0)),
    distance_by_number=lambda weights, grid, patch_size, prefix=0: _distance()(
        weights, (1, grid[0] * grid[1]), patch_size, prefix
    ),
    rows_and_columns_exchanged=_distance(places=_counted(lambda rows, cols: rows, lambda rows, cols: rows)),
    divided_by_rows=_distance(places=_counted(lambda rows, cols: rows, lambda rows, cols: cols)),
    side_from_the_number=_distance(places=_counted(_side, _side)),
    square_grids_only=_distance(places=lambda rows, cols: _places(_side(rows, cols), _side(rows, cols))),
    from_the_middle=_distance(apart=lambda places: (places - places.mean(dim=0)).norm(dim=1)),
    mean_over_keys=_distance(mean=lambda weights, distances: (weights * distances).mean(dim=(0, 2, 3))),
    sum_over_queries=_distance(
        mean=lambda weights, distances: (weights * distances).sum(dim=(2, 3)).mean(dim=0)
    ),
    unweighted=_distance(mean=lambda weights, distances: distances.mean().expand(weights.shape[1])),
    most_attended_only=_distance(
        mean=lambda weights, distances: (
            distances.expand_as(weights).gather(-1, weights.argmax(dim=-1, keepdim=True)).mean(dim=(0, 2, 3))
        )
    ),
    mean_over_heads=_distance(mean=lambda weights, distances: (weights * distances).sum(dim=-1).mean()),
    images_for_heads=_distance(
        mean=lambda weights, distances: (weights * distances).sum(dim=-1).mean(dim=(1, 2))
    ),
    images_kept=_distance(mean=lambda weights, distances: (weights * distances).sum(dim=-1).mean(dim=2)),
    root_of_mean_square=_distance(
        mean=lambda weights, distances: (weights * distances**2).sum(dim=-1).mean(dim=(0, 2)).sqrt()
    ),
)


@attention_distance.mistake
def prefix_has_a_place(weights, grid, patch_size, prefix=0):
    number = torch.arange(weights.shape[-1])
    places = torch.stack([number // grid[1], number % grid[1]], dim=1)
    return (weights * _apart(_sides(patch_size, weights) * places)).sum(dim=-1).mean(dim=(0, 2))


@attention_distance.mistake
def to_the_mean_place(weights, grid, patch_size, prefix=0):
    places = _sides(patch_size, weights) * _places(*grid)
    return (_without_prefix(weights, prefix) @ places - places).norm(dim=-1).mean(dim=(0, 2))


# ---------------------------------------------------------------- rollout

_two_layers = torch.tensor([[[[[1.0, 0.0], [1.0, 0.0]]]], [[[[0.0, 1.0], [0.0, 1.0]]]]])


def _row_sums(candidate):
    result = candidate(_attention(3, 2, 2, 4, 4, seed=9))
    if not isinstance(result, torch.Tensor):
        raise CaseFailed("expected a tensor, got {got}", got=described(result))
    return result.sum(dim=-1)


rollout = Exercise(
    inspect.rollout,
    call(
        "2 layers, 2 tokens: in the first both look at token 0, in the second both at token 1",
        _two_layers,
        hint="Half of each token stays where it is: 0.5 A + 0.5 I, for each layer.",
    ),
    call(
        "4 layers, 2 images, 3 heads, 5 tokens",
        _attention(4, 2, 3, 5, 5),
        hint="Later layers stand on the left of the product: what they read was mixed by the layers before.",
    ),
    call("a single layer", _attention(1, 2, 2, 4, 4, seed=1)),
    call("a single head", _attention(3, 2, 1, 4, 4, seed=2)),
    call("as many layers as heads and images", _attention(3, 3, 3, 3, 3, seed=3)),
    call("12 layers", _attention(12, 1, 2, 3, 3, seed=4)),
    Case("the rows of the result sum to 1", _row_sums, "Each token is made of shares of the first tokens."),
    call("no attention to others: every token stays itself", torch.eye(4).expand(3, 1, 2, 4, 4)),
    in_double(_attention(3, 2, 2, 4, 4, seed=5)),
    not_contiguous(_attention(3, 2, 2, 4, 4, seed=6)),
    sizes=Sizes(
        lambda depth, images, heads, tokens: call(
            "", _attention(depth, images, heads, tokens, _several(tokens))
        ),
        depth=(5, 3, 4, 12, 2),
        images=(6, 5, 2, 8),
        heads=(2, 8, 4, 3, 12),
        tokens=(7, 6, 17, 65),
    ),
)


def _with_skip(weights):
    return 0.5 * weights + 0.5 * _eye_like(weights)


def _product(layers):
    """The product of (L, B, T, T), later layers on the left."""
    result = layers[0]
    for layer in layers[1:]:
        result = layer @ result
    return result


def _rolled(heads=lambda weights: weights.mean(dim=2), skip=_with_skip, product=_product):
    """Right, except for one of these. heads: (L, B, h, T, T) -> (L, B, T, T). skip: adds the identity."""
    return lambda weights: product(skip(heads(weights)))


rollout.add_mistakes(
    first_layer_on_the_left=_rolled(product=lambda layers: _product(layers.flip(0))),
    no_identity=_rolled(skip=lambda weights: weights),
    not_halved=_rolled(skip=lambda weights: weights + _eye_like(weights)),
    ones_for_identity=_rolled(skip=lambda weights: _normalised(weights + 1)),
    columns_sum_to_1=_rolled(skip=lambda weights: _normalised(weights + _eye_like(weights), dim=-2)),
    identity_once=_rolled(skip=lambda weights: weights, product=lambda layers: _with_skip(_product(layers))),
    strongest_head=_rolled(heads=lambda weights: weights.amax(dim=2)),
    strongest_head_normalised=_rolled(
        heads=lambda weights: weights.amax(dim=2),
        skip=lambda weights: _normalised(weights + _eye_like(weights)),
    ),
    weakest_head=_rolled(heads=lambda weights: weights.amin(dim=2)),
    heads_added_up=_rolled(heads=lambda weights: weights.sum(dim=2)),
    heads_multiplied=_rolled(heads=lambda weights: weights.prod(dim=2)),
    each_head_for_itself=lambda weights: _product(_with_skip(weights)).mean(dim=1),
    heads_kept=lambda weights: _product(_with_skip(weights)),
    images_averaged=lambda weights: _product(_with_skip(weights.mean(dim=1))),
    last_layer_only=_rolled(product=lambda layers: layers[-1]),
    first_layer_left_out=_rolled(
        product=lambda layers: _product(torch.cat([_eye_like(layers).expand_as(layers[:1]), layers[1:]]))
    ),
    first_layer_twice=_rolled(product=lambda layers: _product(torch.cat([layers[:1], layers]))),
    one_after_the_other_kept=_rolled(product=lambda layers: torch.stack(_steps(layers))),
    layers_averaged=_rolled(product=lambda layers: layers.mean(dim=0)),
    entries_multiplied=_rolled(product=lambda layers: layers.prod(dim=0)),
    transposed=_rolled(product=lambda layers: _product(layers).mT),
    row_of_token_0=_rolled(product=lambda layers: _product(layers)[:, 0]),
    mean_of_the_rows=_rolled(product=lambda layers: _product(layers).mean(dim=1)),
)


def _steps(layers):
    return [_product(layers[: i + 1]) for i in range(len(layers))]


@rollout.mistake
def no_keepdim(weights):
    result = torch.eye(weights.shape[-1], dtype=weights.dtype).expand(weights.shape[1], -1, -1)
    for layer in weights.mean(dim=2):
        result = _without_keepdim(layer + _eye_like(layer)) @ result
    return result


# ---------------------------------------------------------------- deletion curve


class _Patterns(nn.Module):
    """Logits: how much the picture resembles the pattern of each class. In train mode, they belong to other classes."""

    def __init__(self, patterns):
        super().__init__()
        self.patterns, self.inner = patterns, nn.Identity()

    def forward(self, images):
        logits = images.flatten(1) @ self.patterns.flatten(1).T.to(images.dtype)
        logits = logits + 0.01 * torch.arange(len(self.patterns))  # decides for a picture that is blank
        return logits.roll(1, dims=1) if self.training or self.inner.training else logits


def _deletion(images, channels, rows, columns, patch, classes):
    """A model, and pictures of its patterns in noise, with labels and scores. The scores have nothing to do with what counts."""
    patterns = drawn(classes, channels, rows * patch, columns * patch, seed=20)
    labels = torch.randint(classes, (images,), generator=generator(21))
    strength = (
        2 / patterns[0].numel() ** 0.5
    )  # the model is right more often than not, and less so with every patch that goes
    pictures = strength * patterns[labels] + drawn(*patterns[labels].shape, seed=22) + 0.5
    return _Patterns(patterns), pictures, labels, drawn(images, rows * columns, seed=23)


def _curve(name, made, patch, steps, training=False, **options):
    """A case for `deletion_curve`. made: a function that gives model, images, labels and scores.

    It is not repeated as in `settled`, because an answer in loops takes its time.
    """

    def run(candidate):
        model, *inputs = made()
        model.train(training)

        def curve(images, labels, scores):
            before = images.clone()
            result = candidate(model, images, labels, scores, patch, list(steps))
            if not torch.equal(images, before):
                raise CaseFailed(
                    "your code changes the images themselves, so whoever uses them next sees the blanks. Change a copy, "
                    "such as images.clone()."
                )
            return result

        return apply(curve, *inputs)

    return Case(name, run, tolerance=1e-4, given=tuple(made()[1:]), **options)


def _brightest():
    """The brightest of four pixels is the class. Two pictures: the score names it first in one, and last in the other."""
    images = torch.tensor([[5.0, 1.0, 2.0, -3.0], [1.0, 2.0, -3.0, 5.0]]).reshape(2, 1, 2, 2)
    scores = torch.tensor([[9.0, 1.0, 2.0, 3.0], [3.0, 2.0, 9.0, 1.0]])
    return _Patterns(torch.eye(4)), images, torch.tensor([0, 3]), scores


def _mode(training):
    def run(candidate):
        model, *inputs = _deletion(6, 1, 2, 2, 2, 3)
        model.train(training)
        candidate(model, *inputs, 2, [0, 1])
        return "train" if model.training and model.inner.training else "eval"

    return run


def _each_time(candidate):
    model, *inputs = _deletion(40, 1, 4, 2, 1, 2)
    model.eval()
    first, *others = (candidate(model, *(v.clone() for v in inputs), 1, [2, 4, 6]) for _ in range(4))
    if isinstance(first, torch.Tensor) and not all(torch.equal(first, other) for other in others):
        raise CaseFailed("the same input gives another result each time")
    return first


def _gradients_meanwhile(candidate):
    seen = []

    class Watch(_Patterns):
        def forward(self, images):
            seen.append(torch.is_grad_enabled())
            return super().forward(images)

    model, *inputs = _deletion(6, 1, 2, 2, 2, 3)
    candidate(Watch(model.patterns).eval(), *inputs, 2, [0, 1])
    return "on" if any(seen) else "off"


def _gradients_afterwards(candidate):
    candidate(*_deletion(6, 1, 2, 2, 2, 3), 2, [0, 1])
    return "on" if torch.is_grad_enabled() else "off"


deletion_curve = Exercise(
    inspect.deletion_curve,
    _curve(
        "2 images of 2 x 2 patches of one pixel, whose class is the brightest pixel",
        _brightest,
        1,
        (0, 1, 2, 3),
        hint="In the first image the brightest pixel has the highest score, in the second the lowest.",
    ),
    _curve(
        "40 images of 3 channels, 2 x 3 patches of 2 x 2 pixels",
        lambda: _deletion(40, 3, 2, 3, 2, 4),
        2,
        (0, 1, 2, 3, 4, 5),
        hint="Patch i is in row i // cols and column i % cols. Each image loses its own patches with the highest scores.",
    ),
    _curve(
        "steps that do not grow: 4, 1, 0",
        lambda: _deletion(40, 1, 3, 2, 2, 3),
        2,
        (4, 1, 0),
        hint="Each step starts again with the images as they were given.",
    ),
    _curve("a square grid", lambda: _deletion(40, 2, 3, 3, 2, 5), 2, (0, 2, 4, 6)),
    _curve("all patches blank", lambda: _deletion(30, 2, 2, 2, 3, 3), 3, (4,)),
    _curve("a single image", lambda: _deletion(1, 3, 2, 3, 2, 4), 2, (0, 3)),
    _curve("two classes", lambda: _deletion(40, 1, 4, 2, 1, 2), 1, (0, 1, 3, 5, 7)),
    _curve(
        "a model that was in train mode is judged in eval mode",
        lambda: _deletion(40, 2, 2, 3, 2, 4),
        2,
        (0, 1, 3),
        hint="Call model.eval() first.",
        training=True,
        kind="property",
    ),
    Case(
        "... and goes back to train mode afterwards",
        _mode(True),
        "Remember model.training before, and restore it afterwards.",
    ),
    Case("a model in eval mode stays there", _mode(False)),
    Case(
        "the same images give the same curve each time",
        _each_time,
        "Nothing in it needs to be drawn: a patch is blank when it is 0.",
        shows="noise",
    ),
    Case(
        "gradients while the model computes",
        _gradients_meanwhile,
        "Inside `with torch.no_grad():` nothing is kept for a backward that never comes.",
    ),
    Case(
        "gradients after the curve",
        _gradients_afterwards,
        "Used as a block, torch.no_grad() ends by itself.",
    ),
    sizes=Sizes(
        lambda images, channels, rows, columns, patch, classes: _curve(
            "", lambda: _deletion(images, channels, rows, columns, patch, classes), patch, (1, 2, 4)
        ),
        images=(40, 30, 32, 64),
        channels=(5, 2, 3, 1),
        rows=(4, 3, 8),
        columns=(6, 5, 8),
        patch=(3, 2, 4),
        classes=(7, 9, 10, 3),
    ),
)


def _ranks(scores):
    """(B, N): 0 for the patch of the highest score, 1 for the next, ..."""
    return scores.argsort(dim=1, descending=True).argsort(dim=1)


def _in_pixels(blank, images, patch):
    """(B, N) -> (B, 1, H, W)."""
    rows, cols = (n // patch for n in images.shape[-2:])
    blank = blank.reshape(-1, 1, rows, cols)
    return blank.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)


def _right(model, images, labels):
    return (model(images).argmax(dim=-1) == labels).float().mean()


def _deleted(
    blank=lambda scores, step: _ranks(scores) < step,
    fill=lambda images: torch.zeros_like(images),
    pixels=_in_pixels,
    score=_right,
    put=torch.where,
):
    """Right, except for one of these. blank: scores, step -> (B, N), which patches are left out. fill: images -> what replaces them.

    pixels: from (B, N) to (B, 1, H, W). score: model, images, labels -> number. put: mask, fill, images -> images.
    """

    def wrong(model, images, labels, scores, patch_size, steps):
        curve = []
        with torch.no_grad(), inspect.eval_mode(model):
            for step in steps:
                mask = pixels(blank(scores, step), images, patch_size)
                curve.append(score(model, put(mask, fill(images), images), labels))
        return torch.stack(curve)

    return wrong


def _top(scores, step, dim=1):
    """True at the `step` highest along an axis."""
    places = scores.topk(min(step, scores.shape[dim]), dim=dim).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(dim, places, True)


def _columns_first(blank, images, patch):
    rows, cols = (n // patch for n in images.shape[-2:])
    return _in_pixels(blank.reshape(-1, cols, rows).mT.flatten(1), images, patch)


def _rows_for_columns(blank, images, patch):
    """Place i in row i // rows and column i % rows, cut to the grid."""
    rows, cols = (n // patch for n in images.shape[-2:])
    places = torch.arange(rows * cols)
    moved = torch.zeros_like(blank)
    for i in places.tolist():
        row, col = i // rows, i % rows
        if row < rows and col < cols:
            moved[:, row * cols + col] |= blank[:, i]
    return _in_pixels(moved, images, patch)


def _on_a_square(blank, images, patch):
    side = int(blank.shape[1] ** 0.5)
    return _in_pixels(blank, images[..., : side * patch, : side * patch], patch)


def _corner_pixel(blank, images, patch):
    mask = _in_pixels(blank, images, patch)
    corner = torch.zeros_like(mask)
    corner[..., ::patch, ::patch] = True
    return mask & corner


deletion_curve.add_mistakes(
    lowest_first=_deleted(lambda scores, step: _ranks(-scores) < step),
    places_for_ranks=_deleted(lambda scores, step: scores.argsort(dim=1, descending=True) < step),
    highest_kept=_deleted(lambda scores, step: _ranks(scores) >= step),
    same_patches_for_all=_deleted(
        lambda scores, step: (_ranks(scores.mean(dim=0, keepdim=True)) < step).expand_as(scores)
    ),
    patches_of_the_first_image=_deleted(lambda scores, step: (_ranks(scores[:1]) < step).expand_as(scores)),
    highest_of_the_batch=_deleted(
        lambda scores, step: _top(scores.flatten()[None], step * len(scores)).reshape(scores.shape)
    ),
    so_many_in_the_batch=_deleted(
        lambda scores, step: _top(scores.flatten()[None], step).reshape(scores.shape)
    ),
    ranked_over_images=_deleted(lambda scores, step: _top(scores, step, dim=0)),
    one_patch_only=_deleted(lambda scores, step: _ranks(scores) == step - 1),
    one_too_many=_deleted(lambda scores, step: _ranks(scores) <= step),
    one_too_few=_deleted(lambda scores, step: _ranks(scores) < step - 1),
    black=_deleted(fill=lambda images: images.min().expand_as(images)),
    noise=_deleted(fill=torch.randn_like),
    mean_of_each_image=_deleted(
        fill=lambda images: images.mean(dim=(1, 2, 3), keepdim=True).expand_as(images)
    ),
    mean_colour_of_each_image=_deleted(
        fill=lambda images: images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    ),
    numbered_down_the_columns=_deleted(pixels=_columns_first),
    rows_for_columns=_deleted(pixels=_rows_for_columns),
    square_grids_only=_deleted(pixels=_on_a_square),
    corner_pixel_only=_deleted(pixels=_corner_pixel),
    first_channel_only=_deleted(
        put=lambda mask, fill, images: torch.cat(
            [torch.where(mask, fill, images)[:, :1], images[:, 1:]], dim=1
        )
    ),
    share_of_the_wrong=_deleted(score=lambda *args: 1 - _right(*args)),
    number_of_right_ones=_deleted(
        score=lambda model, images, labels: len(images) * _right(model, images, labels)
    ),
    probability_for_accuracy=_deleted(
        score=lambda model, images, labels: (
            model(images).softmax(dim=-1)[torch.arange(len(labels)), labels].mean()
        )
    ),
)


@deletion_curve.mistake
def blanks_stay(model, images, labels, scores, patch_size, steps):
    images, curve = images.clone(), []
    with torch.no_grad(), inspect.eval_mode(model):
        for step in steps:
            images[_in_pixels(_ranks(scores) < step, images, patch_size).expand_as(images)] = 0
            curve.append(_right(model, images, labels))
    return torch.stack(curve)


@deletion_curve.mistake
def blanked_in_place(model, images, labels, scores, patch_size, steps):
    curve = []
    with torch.no_grad(), inspect.eval_mode(model):
        for step in steps:
            images[_in_pixels(_ranks(scores) < step, images, patch_size).expand_as(images)] = 0
            curve.append(_right(model, images, labels))
    return torch.stack(curve)


@deletion_curve.mistake
def models_own_answers(model, images, labels, scores, patch_size, steps):
    with torch.no_grad(), inspect.eval_mode(model):
        answers = model(images).argmax(dim=-1)
    return inspect.deletion_curve(model, images, answers, scores, patch_size, steps)


@deletion_curve.mistake
def share_of_the_first_accuracy(model, images, labels, scores, patch_size, steps):
    curve = inspect.deletion_curve(model, images, labels, scores, patch_size, [0, *steps])
    return curve[1:] / curve[0]


@deletion_curve.mistake
def accuracy_lost(model, images, labels, scores, patch_size, steps):
    curve = inspect.deletion_curve(model, images, labels, scores, patch_size, [0, *steps])
    return curve[0] - curve[1:]


@deletion_curve.mistake
def steps_counted_off(model, images, labels, scores, patch_size, steps):
    return inspect.deletion_curve(model, images, labels, scores, patch_size, range(len(steps)))


@deletion_curve.mistake
def last_step_only(model, images, labels, scores, patch_size, steps):
    return inspect.deletion_curve(model, images, labels, scores, patch_size, steps)[-1]


def _judged(model, images, labels, scores, patch_size, steps, switch=True, back=True, grad=False):
    before = model.training
    if switch:
        model.eval()
    ranks, curve = _ranks(scores), []
    with torch.set_grad_enabled(grad):
        for step in steps:
            blank = _in_pixels(ranks < step, images, patch_size)
            curve.append(_right(model, images * ~blank, labels))
    if back:
        model.train(before)
    return torch.stack(curve)


deletion_curve.add_mistakes(
    no_eval=lambda *args: _judged(*args, switch=False),
    left_in_eval=lambda *args: _judged(*args, back=False),
    with_grad=lambda *args: _judged(*args, grad=True),
    bare_loop=lambda *args: _judged(*args, switch=False, grad=True),
)


@deletion_curve.mistake
def always_train(model, *args):
    curve = _judged(model, *args)
    model.train()
    return curve


@deletion_curve.mistake
def gradients_off_for_good(*args):
    torch.set_grad_enabled(False)
    return _judged(*args)
