"""Lesson 11, part 1: windows and back, the mask of shifted windows, the index of relative positions, merging, the cost."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange

from vit_edu.check.cases import (
    Case,
    CaseFailed,
    apply,
    call,
    drawn,
    in_double,
    not_contiguous,
    passes_gradient,
)
from vit_edu.check.engine import Exercise
from vit_edu.check.probes import Sizes
from vit_edu.models import costs, swin


def _numbered(*shape):
    """1, 2, 3, ... in the order of memory."""
    return torch.arange(1.0, math.prod(shape) + 1).reshape(shape)


# ---------------------------------------------------------------- cutting maps into windows

window_partition = Exercise(
    swin.window_partition,
    call(
        "a map of 4 x 4 tokens, numbered 1 to 16, in windows of 2 x 2",
        _numbered(1, 4, 4, 1),
        2,
        hint="The first window holds 1, 2, 5 and 6, the second 3, 4, 7 and 8.",
    ),
    call("a map of 4 x 6 tokens in windows of 2 x 2", _numbered(1, 4, 6, 2), 2),
    call(
        "2 images of 6 x 9 tokens in windows of 3 x 3",
        drawn(2, 6, 9, 2),
        3,
        hint="All windows of the first image come before those of the second.",
    ),
    call("3 images of 8 x 4 tokens in windows of 4 x 4", drawn(3, 8, 4, 5), 4),
    call("as many channels as rows and columns, 6", drawn(2, 6, 6, 6), 3),
    call("as many images as windows, 4", drawn(4, 4, 4, 3), 2),
    call("windows of a single token", drawn(2, 2, 3, 4), 1),
    call("one window as large as the map, 5 x 5", drawn(2, 5, 5, 3), 5),
    call("a single channel", drawn(2, 4, 6, 1), 2, kind="property"),
    call("a single image", drawn(1, 9, 6, 3), 3, kind="property"),
    not_contiguous(drawn(2, 4, 6, 3), 2),
    in_double(drawn(2, 4, 6, 3), 2),
    passes_gradient(drawn(2, 4, 6, 3), 2),
    sizes=(
        Sizes(
            lambda rows, columns, width: call("", drawn(2, rows, columns, width), 2),
            rows=(12, 20, 8, 16, 4, 56),
            columns=(18, 10, 8, 16, 4, 56),
            width=(10, 9, 64, 32, 3, 96),
        ),
        Sizes(
            lambda images, window, width: call("", drawn(images, 2 * window, 3 * window, width), window),
            images=(5, 3, 2, 8),
            window=(6, 5, 4, 7, 8, 2),
            width=(10, 9, 64, 32, 3, 96),
        ),
    ),
)


def _cut(pattern):
    """The windows of x in another order. pattern: of `rearrange`, with r windows down and c across."""
    return lambda x, window: rearrange(
        x, f"b (r p) (c q) d -> {pattern}", r=x.shape[1] // window, c=x.shape[2] // window
    )


def _rows_joined(x, window):
    B, H, W, D = x.shape
    return x.reshape(B, H // window, window, W // window, window, D)


def _square_maps(x, window):
    B, H, _W, D = x.shape
    x = x.reshape(B, H // window, window, H // window, window, D)
    return x.transpose(2, 3).reshape(-1, window, window, D)


def _channels_in_front(x, window):
    B, D, H, W = x.shape
    x = x.reshape(B, D, H // window, window, W // window, window)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, D, window, window)


window_partition.add_mistakes(
    reshaped_only=lambda x, window: x.reshape(-1, window, window, x.shape[-1]),
    down_first=_cut("(b c r) p q d"),
    images_fastest=_cut("(r c b) p q d"),
    turned_inside=_cut("(b r c) q p d"),
    spread_out=lambda x, window: rearrange(x, "b (p r) (q c) d -> (b r c) p q d", p=window, q=window),
    same_places_together=lambda x, window: (
        _rows_joined(x, window).permute(0, 2, 4, 1, 3, 5).reshape(-1, window, window, x.shape[-1])
    ),
    windows_and_tokens_exchanged=_cut("(b p q) r c d"),
    tokens_in_a_row=_cut("(b r c) (p q) d"),
    images_kept_apart=_cut("b (r c) p q d"),
    grid_of_windows=_cut("b r c p q d"),
    not_transposed_yet=_rows_joined,
    strips=lambda x, window: rearrange(x, "b (r p) w d -> (b r) p w d", p=window),
    channels_first=_cut("(b r c) d p q"),
    channels_expected_first=_channels_in_front,
    window_counts=lambda x, window: rearrange(x, "b (r p) (c q) d -> (b r c) p q d", r=window, c=window),
    sliding=lambda x, window: rearrange(
        x.unfold(1, window, 1).unfold(2, window, 1), "b r c d p q -> (b r c) p q d"
    ),
    square_maps=_square_maps,
    shifted_already=lambda x, window: swin.window_partition(
        x.roll((-(window // 2), -(window // 2)), dims=(1, 2)), window
    ),
    cut_off=lambda x, window: swin.window_partition(x, window).detach(),
)

# ---------------------------------------------------------------- putting windows together


def _windows(images, rows, columns, window, width):
    """Windows of maps with so many windows down and across, and the grid of the maps."""
    return drawn(images * rows * columns, window, window, width), (rows * window, columns * window)


window_reverse = Exercise(
    swin.window_reverse,
    call(
        "4 windows of 2 x 2 tokens, numbered 1 to 16, on a grid of 4 x 4",
        _numbered(4, 2, 2, 1),
        (4, 4),
        hint="The first row of the map is 1, 2, 5, 6: the upper rows of the first two windows.",
    ),
    call("6 windows on a grid of 4 x 6", _numbered(6, 2, 2, 2), (4, 6)),
    call(
        "2 images of 6 x 9 tokens from windows of 3 x 3",
        *_windows(2, 2, 3, 3, 2),
        hint="The first windows all belong to the first image.",
    ),
    call("3 images of 8 x 4 tokens from windows of 4 x 4", *_windows(3, 2, 1, 4, 5)),
    call("as many images as windows of an image, 4", *_windows(4, 2, 2, 3, 2)),
    call("as many channels as rows and columns, 6", *_windows(2, 2, 2, 3, 6)),
    call("windows of a single token", *_windows(2, 2, 3, 1, 4)),
    call("one window for each image", *_windows(3, 1, 1, 5, 2)),
    call("a single channel", *_windows(2, 3, 2, 2, 1), kind="property"),
    call("a single image", *_windows(1, 3, 2, 3, 2), kind="property"),
    not_contiguous(*_windows(2, 2, 3, 2, 3)),
    in_double(*_windows(2, 2, 3, 2, 3)),
    passes_gradient(*_windows(2, 2, 3, 2, 3)),
    sizes=(
        Sizes(
            lambda rows, columns, width: call("", drawn(rows * columns // 2, 2, 2, width), (rows, columns)),
            rows=(12, 20, 8, 16, 4, 56),
            columns=(18, 10, 8, 16, 4, 56),
            width=(10, 9, 64, 32, 3, 96),
        ),
        Sizes(
            lambda images, window, width: call("", *_windows(images, 2, 3, window, width)),
            images=(5, 3, 2, 8),
            window=(6, 5, 4, 7, 8, 2),
            width=(10, 9, 64, 32, 3, 96),
        ),
    ),
)


def _counts(windows, grid):
    """{"r": windows down, "c": windows across}."""
    return {"r": grid[0] // windows.shape[1], "c": grid[1] // windows.shape[2]}


def _placed(pattern):
    """The map with its windows in other places. pattern: of `rearrange`, with r windows down and c across."""
    return lambda windows, grid: rearrange(windows, pattern, **_counts(windows, grid))


def _grid_exchanged(windows, grid):
    return swin.window_reverse(windows, grid[::-1])


def _partitioned_again(windows, grid):
    maps = windows.reshape(-1, *grid, windows.shape[-1])
    return swin.window_partition(maps, windows.shape[1]).reshape(maps.shape)


def _square_grids(windows, grid):
    side, window, D = grid[0], *windows.shape[2:]
    x = windows.reshape(-1, side // window, side // window, window, window, D)
    return x.transpose(2, 3).reshape(-1, side, side, D)


window_reverse.add_mistakes(
    reshaped_only=lambda windows, grid: windows.reshape(-1, *grid, windows.shape[-1]),
    down_first=_placed("(b c r) p q d -> b (r p) (c q) d"),
    images_fastest=_placed("(r c b) p q d -> b (r p) (c q) d"),
    turned_inside=_placed("(b r c) q p d -> b (r p) (c q) d"),
    spread_out=_placed("(b r c) p q d -> b (p r) (q c) d"),
    grid_exchanged=_grid_exchanged,
    counts_exchanged=lambda windows, grid: _grid_exchanged(windows, grid).reshape(
        -1, *grid, windows.shape[-1]
    ),
    partitioned_again=_partitioned_again,
    in_one_row=_placed("(b r c) p q d -> b p (r c q) d"),
    in_one_column=_placed("(b r c) p q d -> b (r c p) q d"),
    not_joined=_placed("(b r c) p q d -> b r p c q d"),
    tokens_in_a_row=_placed("(b r c) p q d -> b (r p c q) d"),
    channels_first=_placed("(b r c) p q d -> b d (r p) (c q)"),
    first_image_only=lambda windows, grid: swin.window_reverse(
        windows[: math.prod(_counts(windows, grid).values())], grid
    ),
    square_grids=_square_grids,
    shift_undone=lambda windows, grid: swin.window_reverse(windows, grid).roll(
        (windows.shape[1] // 2, windows.shape[1] // 2), dims=(1, 2)
    ),
    cut_off=lambda windows, grid: swin.window_reverse(windows, grid).detach(),
)

# ---------------------------------------------------------------- the mask of shifted windows


def _number(candidate):
    """The mask of a small map. CaseFailed if the right pairs are kept apart, with another large number than -100."""
    mask = apply(candidate, (4, 6), 2, 1)
    right = swin.shifted_window_mask((4, 6), 2, 1)
    if isinstance(mask, torch.Tensor) and mask.is_floating_point() and mask.shape == right.shape:
        apart = mask <= -50
        if torch.equal(apart, right < 0) and not mask[~apart].any() and (mask[apart] != -100).any():
            raise CaseFailed(
                "the right pairs are kept apart, but with {number:g} instead of -100",
                number=mask[apart].min().item(),
            )
    return mask


shifted_window_mask = Exercise(
    swin.shifted_window_mask,
    call(
        "a map of 4 x 4 tokens, windows of 2 x 2, shifted by 1",
        (4, 4),
        2,
        1,
        hint="The first window holds only real neighbours. In the last, no two of the four tokens are neighbours in the map.",
    ),
    call("a map of 8 x 8 tokens, windows of 4 x 4, shifted by 2", (8, 8), 4, 2),
    call("a map of 4 x 6 tokens, windows of 2 x 2, shifted by 1", (4, 6), 2, 1),
    call("a map of 9 x 6 tokens, windows of 3 x 3, shifted by 1", (9, 6), 3, 1),
    call(
        "the same map, shifted by 2",
        (9, 6),
        3,
        2,
        hint="The last `shift` rows and columns have come round from the other side.",
    ),
    call("a map of 4 x 12 tokens, windows of 4 x 4, shifted by 3", (4, 12), 4, 3),
    call(
        "no shift: all tokens of a window see each other",
        (4, 6),
        2,
        0,
        hint="Where nothing was rolled, nothing has come round.",
    ),
    call("one window as large as the map, shifted by 1", (4, 4), 4, 1),
    call("windows of a single token", (2, 3), 1, 0),
    call("a map of 14 x 21 tokens, windows of 7 x 7, shifted by 3", (14, 21), 7, 3),
    Case(
        "the number is -100",
        _number,
        "0 where two tokens may see each other, -100.0 where they must not.",
        shows="another_number",
    ),
    sizes=(
        Sizes(
            lambda rows, columns: call("", (rows, columns), 4, 1),
            rows=(12, 20, 8, 16, 4, 56),
            columns=(24, 28, 8, 16, 4, 56),
        ),
        Sizes(
            lambda window, moved: call("", (2 * window, 3 * window), window, moved),
            window=(6, 9, 4, 7, 8, 2),
            moved=(4, 5, 3, 2, 1),
        ),
    ),
)


def _came_round(grid, shift):
    """(H, 1) and (W,): True for the rows and the columns that have come round to the other side."""
    row, col = (torch.arange(side) >= side - shift for side in grid)
    return row[:, None], col


def _in_windows(labels, window):
    """(H, W) -> (nW, M²)."""
    return swin.window_partition(labels[None, :, :, None], window).flatten(1)


def _apart(labels):
    """(nW, M²) -> (nW, M², M²): True where the labels differ."""
    return labels[:, :, None] != labels[:, None]


def _filled(apart):
    return torch.zeros(apart.shape).masked_fill(apart, -100.0)


def _labelled(label):
    """The mask for other labels. label: grid, window, shift -> (H, W)."""
    return lambda grid, window, shift: _filled(_apart(_in_windows(label(grid, window, shift), window)))


def _from_flags(combine):
    """The mask for labels made of the flags of the rows, (H, 1), and of the columns, (W,)."""
    return _labelled(lambda grid, window, shift: combine(*_came_round(grid, shift)))


def _otherwise(change):
    """The right mask, changed. change: True where tokens are kept apart -> what is returned."""
    return lambda grid, window, shift: change(swin.shifted_window_mask(grid, window, shift) < 0)


def _laid_out(pattern):
    """The right regions, laid out in windows by another pattern of `rearrange`, with r windows down and c across."""

    def wrong(grid, window, shift):
        row, col = _came_round(grid, shift)
        r, c = (side // window for side in grid)
        return _filled(_apart(rearrange(2 * row + col, pattern, r=r, c=c)))

    return wrong


def _flags_by(condition):
    """Labels from a condition on places along an axis: (places, side, window, shift) -> True where they have come round."""

    def label(grid, window, shift):
        row, col = (condition(torch.arange(side), side, window, shift) for side in grid)
        return 2 * row[:, None] + col

    return _labelled(label)


def _old_windows(grid, window, shift):
    """The windows of the map before it was rolled, and where their tokens are afterwards."""
    row, col = (torch.arange(side) // window for side in grid)
    return (row[:, None] * grid[1] + col).roll((-shift, -shift), dims=(0, 1))


def _differences(grid, window, shift):
    """As in the published code, where nine regions are numbered, but without making -100 of what is not 0."""
    at = [torch.arange(side) - side for side in grid]
    row, col = ((i >= -window).float() + (i >= -shift) for i in at)  # 0, 1 or 2
    labels = _in_windows(3 * row[:, None] + col, window)
    return labels[:, None] - labels[:, :, None]


def _hidden(grid, window, shift):
    row, col = _came_round(grid, shift)
    hidden = _in_windows(row | col, window)  # (nW, M²)
    return _filled(hidden[:, None].expand(-1, hidden.shape[1], -1))


def _whole_map(grid, window, shift):
    row, col = _came_round(grid, shift)
    down, right = (torch.arange(side) // window for side in grid)
    labels = 4 * (down[:, None] * grid[1] + right) + 2 * row + col  # one for each region of each window
    return _filled(_apart(labels.reshape(1, -1)))[0]


shifted_window_mask.add_mistakes(
    nothing_masked=_otherwise(lambda apart: torch.zeros(apart.shape)),
    rows_only=_from_flags(lambda row, col: row.expand(-1, len(col))),
    columns_only=_from_flags(lambda row, col: col.expand(len(row), -1)),
    one_label=_from_flags(lambda row, col: row | col),
    label_added=_from_flags(lambda row, col: row.int() + col.int()),
    other_end=_flags_by(lambda at, side, window, shift: at < shift),
    rest_of_the_window=_flags_by(lambda at, side, window, shift: at >= side - (window - shift)),
    every_window=_flags_by(lambda at, side, window, shift: at % window >= window - shift),
    half_a_window=lambda grid, window, shift: swin.shifted_window_mask(grid, window, window // 2),
    old_windows=_labelled(_old_windows),
    inverted=_otherwise(lambda apart: _filled(~apart)),
    plus_100=_otherwise(lambda apart: 100.0 * apart),
    minus_1=_otherwise(lambda apart: -1.0 * apart),
    another_number=_otherwise(lambda apart: torch.zeros(apart.shape).masked_fill(apart, -torch.inf)),
    ones_and_zeros=_otherwise(lambda apart: (~apart).float()),
    true_where_apart=_otherwise(lambda apart: apart),
    true_where_allowed=_otherwise(lambda apart: ~apart),
    differences=_differences,
    moved_tokens_hidden=_hidden,
    for_each_token=lambda grid, window, shift: _filled(
        _in_windows(_came_round(grid, shift)[0] | _came_round(grid, shift)[1], window)
    ),
    whole_map=_whole_map,
    cut_in_stripes=lambda grid, window, shift: _filled(
        _apart((2 * _came_round(grid, shift)[0] + _came_round(grid, shift)[1]).reshape(-1, window**2))
    ),
    windows_down_first=_laid_out("(r p) (c q) -> (c r) (p q)"),
    tokens_down_first=_laid_out("(r p) (c q) -> (r c) (q p)"),
    grid_exchanged=lambda grid, window, shift: swin.shifted_window_mask(grid[::-1], window, shift),
    axis_for_heads=lambda grid, window, shift: swin.shifted_window_mask(grid, window, shift)[:, None],
)

# ---------------------------------------------------------------- the index of relative positions

relative_position_index = Exercise(
    swin.relative_position_index,
    call(
        "a window of 2 x 2 tokens: 9 offsets",
        2,
        hint="Token 0 minus token 3 is one row and one column back: (-1, -1), the first of the nine. Each token minus itself is the fifth, number 4.",
    ),
    call("a window of 3 x 3 tokens: 25 offsets", 3),
    call("a single token", 1),
    call("a window of 4 x 4 tokens", 4),
    call("a window of 5 x 5 tokens", 5),
    call("a window of 7 x 7 tokens, as in the paper", 7),
    sizes=Sizes(lambda window: call("", window), window=(6, 5, 7, 8, 4, 3, 2)),
)


def _offset(window, between=lambda a, b: a - b):
    """(down, right), each (M², M²): of the token of the row of the matrix and that of its column, by default the difference."""
    row, col = torch.cartesian_prod(torch.arange(window), torch.arange(window)).T
    return between(row[:, None], row), between(col[:, None], col)


def _indexed(index, between=lambda a, b: a - b):
    """index: down, right, window -> (M², M²). between: see `_offset`."""
    return lambda window: index(*_offset(window, between), window)


def _table(down, right, window):
    """The right index of offsets that are at least -(M - 1)."""
    return (down + window - 1) * (2 * window - 1) + right + window - 1


relative_position_index.add_mistakes(
    not_moved=_indexed(lambda down, right, M: down * (2 * M - 1) + right),
    only_rows_moved=_indexed(lambda down, right, M: (down + M - 1) * (2 * M - 1) + right),
    only_columns_moved=_indexed(lambda down, right, M: down * (2 * M - 1) + right + M - 1),
    moved_too_late=_indexed(lambda down, right, M: down * (2 * M - 1) + right + 2 * (M - 1)),
    side_as_factor=_indexed(lambda down, right, M: (down + M - 1) * M + right + M - 1),
    factor_too_large=_indexed(lambda down, right, M: (down + M - 1) * 2 * M + right + M - 1),
    factor_too_small=_indexed(lambda down, right, M: (down + M - 1) * (2 * M - 2) + right + M - 1),
    no_factor=_indexed(lambda down, right, M: down + right + 2 * (M - 1)),
    columns_first=_indexed(lambda down, right, M: _table(right, down, M)),
    key_minus_query=_indexed(lambda down, right, M: _table(-down, -right, M)),
    distances=_indexed(lambda down, right, M: down.abs() * M + right.abs()),
    distances_in_the_table=_indexed(lambda down, right, M: down.abs() * (2 * M - 1) + right.abs()),
    distances_moved=_indexed(lambda down, right, M: _table(down.abs(), right.abs(), M)),
    sum_for_difference=_indexed(lambda down, right, M: down * (2 * M - 1) + right, lambda a, b: a + b),
    each_pair_its_own=lambda window: torch.arange(window**4).reshape(window**2, window**2),
    both_numbers=_indexed(lambda down, right, M: torch.stack([down + M - 1, right + M - 1], dim=-1)),
    from_one=_indexed(lambda down, right, M: _table(down, right, M) + 1),
    on_the_grid=_indexed(lambda down, right, M: _table(down, right, M).reshape(M, M, M, M)),
    in_a_row=_indexed(lambda down, right, M: _table(down, right, M).flatten()),
)

# ---------------------------------------------------------------- merging patches

merge_patches = Exercise(
    swin.merge_patches,
    call(
        "a map of 2 x 4 tokens, numbered 1 to 8",
        _numbered(1, 2, 4, 1),
        hint="The first square holds 1 and 2 above 5 and 6. Top left, bottom left, top right, bottom right: 1, 5, 2, 6.",
    ),
    call(
        "a map of 4 x 4 tokens of width 3",
        _numbered(1, 4, 4, 3),
        hint="All features of the first token come first, then all of the second.",
    ),
    call("2 images of 4 x 6 tokens of width 5", drawn(2, 4, 6, 5)),
    call("3 images of 8 x 2 tokens of width 2", drawn(3, 8, 2, 2)),
    call("as many channels as rows and columns, 4", drawn(2, 4, 4, 4)),
    call("a single square", drawn(2, 2, 2, 3)),
    call("a single channel", drawn(2, 4, 6, 1), kind="property"),
    call("a single image", drawn(1, 6, 4, 3), kind="property"),
    not_contiguous(drawn(2, 4, 6, 3)),
    in_double(drawn(2, 4, 6, 3)),
    passes_gradient(drawn(2, 4, 6, 3)),
    sizes=Sizes(
        lambda images, rows, columns, width: call("", drawn(images, rows, columns, width)),
        images=(5, 3, 2, 8),
        rows=(12, 20, 8, 16, 4),
        columns=(18, 10, 8, 16, 4),
        width=(7, 9, 64, 32, 3, 96),
    ),
)


def _four(x):
    """Top left, bottom left, top right, bottom right of each square."""
    return [x[:, p::2, q::2] for q in (0, 1) for p in (0, 1)]


def _merged(pattern):
    """pattern: what becomes of the squares, of `rearrange`. r, c: the square; p, q: the row and the column in it."""
    return lambda x: rearrange(x, f"b (r p) (c q) d -> {pattern}", p=2, q=2)


def _picked(*order):
    """Those of the four neighbours one behind the other."""
    return lambda x: torch.cat([_four(x)[i] for i in order], dim=-1)


def _quarters(x):
    rows, cols = x.shape[1] // 2, x.shape[2] // 2
    upper, lower = x[:, :rows], x[:, rows:]
    return torch.cat([upper[:, :, :cols], lower[:, :, :cols], upper[:, :, cols:], lower[:, :, cols:]], dim=-1)


def _reshaped(x):
    B, H, W, D = x.shape
    return x.reshape(B, H // 2, W // 2, 4 * D)


merge_patches.add_mistakes(
    reading_order=_picked(0, 2, 1, 3),
    clockwise=_picked(0, 2, 3, 1),
    last_first=_picked(3, 2, 1, 0),
    one_twice=_picked(0, 1, 2, 2),
    another_twice=_picked(0, 1, 2, 1),
    channels_slowest=_merged("b r c (d p q)"),
    channels_slowest_down_first=_merged("b r c (d q p)"),
    reshaped_only=_reshaped,
    quarters=_quarters,
    mean_of_four=lambda x: sum(_four(x)) / 4,
    sum_of_four=lambda x: sum(_four(x)),
    largest_of_four=lambda x: torch.stack(_four(x)).amax(dim=0),
    only_the_first=_picked(0),
    rows_only=lambda x: rearrange(x, "b (r p) w d -> b r w (p d)", p=2),
    columns_only=lambda x: rearrange(x, "b h (c q) d -> b h c (q d)", q=2),
    channels_expected_first=lambda x: torch.cat([x[:, :, p::2, q::2] for q in (0, 1) for p in (0, 1)], dim=1),
    as_images=lambda x: torch.cat(_four(x)),
    as_rows=lambda x: torch.cat(_four(x), dim=1),
    as_columns=lambda x: torch.cat(_four(x), dim=2),
    axis_of_four=_merged("b r c (q p) d"),
    axis_behind=_merged("b r c d (q p)"),
    tokens_in_a_row=_merged("b (r c) (q p d)"),
    map_transposed=_merged("b c r (q p d)"),
    sliding=lambda x: torch.cat(
        [x[:, p : x.shape[1] - 1 + p, q : x.shape[2] - 1 + q] for q in (0, 1) for p in (0, 1)], dim=-1
    ),
    normalised=lambda x: F.layer_norm(swin.merge_patches(x), (4 * x.shape[-1],)),
    cut_off=lambda x: swin.merge_patches(x).detach(),
)

# ---------------------------------------------------------------- what attention in windows costs

window_attention_cost = Exercise(
    costs.window_attention_cost,
    call(
        "a single window of 2 x 2 tokens of width 1",
        (2, 2),
        1,
        2,
        hint="Four layers of 1 x 1 weights for each of 4 tokens, and two products of 4 x 4 numbers: 16 + 32.",
    ),
    call(
        "a map of 4 x 4 tokens of width 3, windows of 2 x 2",
        (4, 4),
        3,
        2,
        hint="Each of the 16 tokens has 4 keys.",
    ),
    call("a map of 8 x 8 tokens of width 6, windows of 4 x 4", (8, 8), 6, 4),
    call("a map of 6 x 9 tokens of width 10, windows of 3 x 3", (6, 9), 10, 3),
    call("a map of 20 x 5 tokens of width 12, windows of 5 x 5", (20, 5), 12, 5),
    call("windows of a single token", (3, 5), 4, 1),
    call("one window as large as the map, 7 x 7", (7, 7), 8, 7),
    call("Swin-T's first stage for 224 x 224 pixels", (56, 56), 96, 7),
    sizes=(
        Sizes(
            lambda rows, columns, width: call("", (rows, columns), width, 2),
            rows=(12, 20, 8, 16, 14, 56),
            columns=(18, 10, 8, 16, 14, 56),
            width=(10, 9, 64, 32, 96, 128),
        ),
        Sizes(
            lambda window, width: call("", (2 * window, 3 * window), width, window),
            window=(6, 5, 4, 7, 8, 2),
            width=(10, 9, 64, 32, 96, 128),
        ),
    ),
)


def _summed(layers, pairs):
    """The cost of the linear layers and of the pairs, each by a function of N tokens, D, the window's side M and the grid."""

    def wrong(grid, dim, window):
        sizes = grid[0] * grid[1], dim, window, grid
        return layers(*sizes) + pairs(*sizes)

    return wrong


def _layers(N, D, M, grid):
    return 4 * N * D**2


def _pairs(N, D, M, grid):
    return 2 * N * M**2 * D


def _more_windows(N, D, M, grid):
    """Pairs in the windows of a map that was shifted, without rolling it, and filled up at the border."""
    return 2 * (grid[0] // M + 1) * (grid[1] // M + 1) * M**4 * D


window_attention_cost.add_mistakes(
    whole_map=_summed(_layers, lambda N, D, M, grid: 2 * N**2 * D),
    window_not_squared=_summed(_layers, lambda N, D, M, grid: 2 * N * M * D),
    one_window=lambda grid, dim, window: costs.window_attention_cost((window, window), dim, window),
    pairs_of_one_window=_summed(_layers, lambda N, D, M, grid: 2 * M**4 * D),
    layers_of_one_window=_summed(lambda N, D, M, grid: 4 * M**2 * D**2, _pairs),
    layers_once_a_window=_summed(lambda N, D, M, grid: 4 * N // M**2 * D**2, _pairs),
    windows_as_tokens=_summed(_layers, lambda N, D, M, grid: 2 * (N // M**2) ** 2 * D),
    window_counts=_summed(_layers, lambda N, D, M, grid: 2 * N**2 // M**2 * D),
    one_product=_summed(_layers, lambda N, D, M, grid: N * M**2 * D),
    no_pairs=_summed(_layers, lambda N, D, M, grid: 0),
    pairs_only=_summed(lambda N, D, M, grid: 0, _pairs),
    without_proj=_summed(lambda N, D, M, grid: 3 * N * D**2, _pairs),
    one_layer=_summed(lambda N, D, M, grid: N * D**2, _pairs),
    width_squared_twice=_summed(_layers, lambda N, D, M, grid: 2 * N * M**2 * D**2),
    without_width=_summed(_layers, lambda N, D, M, grid: 2 * N * M**2),
    width_not_squared=_summed(lambda N, D, M, grid: 4 * N * D, _pairs),
    biases_counted=_summed(lambda N, D, M, grid: 4 * N * D**2 + 4 * N * D, _pairs),
    position_bias_counted=_summed(_layers, lambda N, D, M, grid: _pairs(N, D, M, grid) + N * M**2),
    mlp_counted=_summed(lambda N, D, M, grid: 12 * N * D**2, _pairs),
    more_windows=_summed(_layers, _more_windows),
    square_maps=lambda grid, dim, window: costs.window_attention_cost((grid[0], grid[0]), dim, window),
    counted_twice=lambda grid, dim, window: 2 * costs.window_attention_cost(grid, dim, window),
    as_float=lambda grid, dim, window: float(costs.window_attention_cost(grid, dim, window)),
)
