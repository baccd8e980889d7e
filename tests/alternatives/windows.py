"""Lesson 11, part 1: right answers written in other ways."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from alternatives import alternative
from vit_edu.models.costs import layer_cost

# ---------------------------------------------------------------- window_partition


@alternative("window_partition")
def split_and_permuted(x, window):
    across = x.shape[2] // window
    x = x.unflatten(1, (-1, window)).unflatten(3, (across, window))  # (B, rows, M, cols, M, D)
    return x.permute(0, 1, 3, 2, 4, 5).flatten(0, 2)


@alternative("window_partition")
def window_by_window(x, window):
    found = [
        image[i : i + window, j : j + window]
        for image in x
        for i in range(0, x.shape[1], window)
        for j in range(0, x.shape[2], window)
    ]
    return torch.stack(found)


@alternative("window_partition")
def by_sliding_with_large_steps(x, window):
    slid = x.unfold(1, window, window).unfold(2, window, window)  # (B, rows, cols, D, M, M)
    return slid.permute(0, 1, 2, 4, 5, 3).flatten(0, 2)


@alternative("window_partition")
def by_chunks(x, window):
    strips = torch.stack(x.split(window, dim=1), dim=1)  # (B, rows, M, W, D)
    return torch.stack(strips.split(window, dim=3), dim=2).flatten(0, 2)


@alternative("window_partition")
def with_f_unfold(x, window):
    D = x.shape[-1]
    columns = F.unfold(x.permute(0, 3, 1, 2), window, stride=window)  # (B, D M², windows)
    return columns.transpose(1, 2).reshape(-1, D, window, window).permute(0, 2, 3, 1)


@alternative("window_partition")
def by_looking_up(x, M):
    H, W = x.shape[1:3]
    places = torch.arange(H * W).reshape(H // M, M, W // M, M).transpose(1, 2).reshape(-1)
    return x.flatten(1, 2)[:, places].unflatten(1, (-1, M, M)).flatten(0, 1)


# ---------------------------------------------------------------- window_reverse


@alternative("window_reverse")
def split_and_permuted_back(windows, grid):
    M, D = windows.shape[2:]
    x = windows.reshape(-1, grid[0] // M, grid[1] // M, M, M, D)
    return x.transpose(2, 3).reshape(-1, *grid, D)


@alternative("window_reverse")
def written_into_the_map(windows, grid):
    M, across = windows.shape[1], grid[1] // windows.shape[1]
    count = across * (grid[0] // M)
    maps = windows.new_zeros(len(windows) // count, *grid, windows.shape[-1])
    for number, window in enumerate(windows):
        image, place = divmod(number, count)
        i, j = (M * n for n in divmod(place, across))
        maps[image, i : i + M, j : j + M] = window
    return maps


@alternative("window_reverse")
def rows_of_windows_joined(windows, grid):
    """First windows side by side, then these strips below each other."""
    M = windows.shape[1]
    images = windows.split((grid[0] // M) * (grid[1] // M))
    return torch.stack(
        [torch.cat([torch.cat([*row], dim=1) for row in image.split(grid[1] // M)]) for image in images]
    )


@alternative("window_reverse")
def with_f_fold(windows, grid):
    M = windows.shape[1]
    columns = rearrange(
        windows, "(b n) p q d -> b (d p q) n", n=math.prod(grid) // M**2
    )  # as F.unfold has them
    return F.fold(columns, grid, M, stride=M).movedim(1, -1)


@alternative("window_reverse")
def by_the_inverse_permutation(windows, grid):
    H, W = grid
    M = windows.shape[1]
    places = torch.arange(H * W).reshape(H // M, M, W // M, M).transpose(1, 2).flatten()
    tokens = windows.reshape(-1, H * W, windows.shape[-1])
    return tokens[:, places.argsort()].reshape(-1, H, W, windows.shape[-1])


# ---------------------------------------------------------------- shifted_window_mask


@alternative("shifted_window_mask")
def nine_numbered_regions(grid, window, shift):
    """As the authors number them: before the last windows, in them, and what has come round."""
    row, col = (
        torch.bucketize(torch.arange(side), torch.tensor([side - window, side - shift]), right=True)
        for side in grid
    )
    numbers = split_and_permuted((3 * row[:, None] + col)[None, :, :, None], window).flatten(1)
    difference = numbers[:, None, :] - numbers[:, :, None]
    return difference.ne(0).float().mul(-100.0)


@alternative("shifted_window_mask")
def real_neighbours(grid, window, shift):
    """Where two tokens were in the map before, and whether they are still as far apart."""
    rows, cols = (torch.arange(side) for side in grid)
    now = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=-1)[None]
    before = (now + shift) % torch.tensor(grid)
    now, before = (split_and_permuted(places, window).flatten(1, 2) for places in (now, before))
    moved = now - before  # (nW, M², 2)
    apart = (moved[:, :, None] != moved[:, None]).any(-1)
    return torch.where(apart, -100.0, 0.0)


@alternative("shifted_window_mask")
def pair_by_pair(grid, window, shift):
    masks = []
    for top in range(0, grid[0], window):
        for left in range(0, grid[1], window):
            places = [(top + p, left + q) for p in range(window) for q in range(window)]
            came = [(r >= grid[0] - shift, c >= grid[1] - shift) for r, c in places]
            masks.append([[0.0 if a == b else -100.0 for b in came] for a in came])
    return torch.tensor(masks)


@alternative("shifted_window_mask")
def only_the_last_windows(grid, window, shift):
    """One mask for the lower border, one for the right border, and both for the corner."""
    H, W, M = *grid, window
    came = torch.arange(M) >= M - shift
    apart = came[:, None] != came  # (M, M)
    lower = apart[:, None, :, None].expand(M, M, M, M).reshape(M * M, M * M)
    right = apart[None, :, None, :].expand(M, M, M, M).reshape(M * M, M * M)
    mask = torch.zeros(H // M, W // M, M * M, M * M)
    mask[-1] = mask[-1].masked_fill(lower, -100)
    mask[:, -1] = mask[:, -1].masked_fill(right, -100)
    return mask.reshape(-1, M * M, M * M)


@alternative("shifted_window_mask")
def a_map_of_labels_rolled(grid, window, shift):
    """The labels are written at the top and at the left of the map before it is rolled."""
    labels = torch.zeros(grid, dtype=torch.long)
    labels[:shift] += 10
    labels[:, :shift] += 1
    labels = labels.roll((-shift, -shift), (0, 1))
    labels = rearrange(labels, "(r p) (c q) -> (r c) (p q)", p=window, q=window)
    return -100.0 * (labels.unsqueeze(1) != labels.unsqueeze(2)).float()


# ---------------------------------------------------------------- relative_position_index


@alternative("relative_position_index")
def both_differences_weighted(window):
    """The two offsets of all pairs on an axis of their own, (M², M², 2)."""
    places = torch.tensor([(row, col) for row in range(window) for col in range(window)])
    offsets = places[:, None] - places + window - 1
    return (offsets * torch.tensor([2 * window - 1, 1])).sum(dim=-1)


@alternative("relative_position_index")
def index_of_each_pair(window):
    side = 2 * window - 1
    table = {offset: n for n, offset in enumerate(divmod(k, side) for k in range(side**2))}
    places = [divmod(i, window) for i in range(window**2)]
    return torch.tensor(
        [[table[a - c + window - 1, b - d + window - 1] for c, d in places] for a, b in places]
    )


@alternative("relative_position_index")
def a_sum_with_one_axis_reversed(window):
    """As in MMDetection."""
    steps = torch.arange(window) * (2 * window - 1)
    along = (steps[:, None] + torch.arange(window)).reshape(1, -1)
    return (along + along.T).flip(1).contiguous()


@alternative("relative_position_index")
def cut_from_the_numbered_table(window):
    """The table as a picture: each token sees a window of it, read backwards."""
    side = 2 * window - 1
    table = torch.arange(side**2).reshape(side, side)
    seen = table.unfold(0, window, 1).unfold(1, window, 1)  # (M, M, M, M)
    return seen.flip(2, 3).reshape(window**2, window**2)


@alternative("relative_position_index")
def wide_rows(window):
    """On a grid whose rows are 2M - 1 long, the difference of two numbers is that of the offsets."""
    number = (torch.arange(window)[:, None] * (2 * window - 1) + torch.arange(window)).flatten()
    return number[:, None] - number[None, :] + number[-1]


# ---------------------------------------------------------------- merge_patches


@alternative("merge_patches")
def four_slices(x):
    upper, lower = x[:, ::2], x[:, 1::2]
    left, right = slice(0, None, 2), slice(1, None, 2)
    return torch.cat([upper[:, :, left], lower[:, :, left], upper[:, :, right], lower[:, :, right]], dim=3)


@alternative("merge_patches")
def merged_by_reshaping(x):
    B, H, W, D = x.shape
    x = x.reshape(B, H // 2, 2, W // 2, 2, D).permute(0, 1, 3, 4, 2, 5)
    return x.reshape(B, H // 2, W // 2, 4 * D)


@alternative("merge_patches")
def merged_with_pixel_unshuffle(x):
    """What it gives has the features slowest, and the columns of a square fastest."""
    D = x.shape[-1]
    x = F.pixel_unshuffle(x.movedim(-1, 1), 2).unflatten(1, (D, 2, 2))
    return x.permute(0, 4, 5, 3, 2, 1).flatten(3)


@alternative("merge_patches")
def merged_by_a_convolution(x):
    """A kernel that copies."""
    D = x.shape[-1]
    kernel = torch.zeros(4, D, D, 2, 2).to(x)
    for n, (p, q) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        kernel[n, :, :, p, q] = torch.eye(D)
    return F.conv2d(x.permute(0, 3, 1, 2), kernel.flatten(0, 1), stride=2).permute(0, 2, 3, 1)


@alternative("merge_patches")
def merged_square_by_square(x):
    rows = []
    for i in range(0, x.shape[1], 2):
        squares = [x[:, i : i + 2, j : j + 2] for j in range(0, x.shape[2], 2)]
        rows.append(torch.stack([s.transpose(1, 2).flatten(1) for s in squares], dim=1))
    return torch.stack(rows, dim=1)


# ---------------------------------------------------------------- window_attention_cost


@alternative("window_attention_cost")
def equation_two(grid, C, M):
    h, w = grid
    return 4 * h * w * C**2 + 2 * M**2 * h * w * C


@alternative("window_attention_cost")
def a_sum_over_windows(grid, dim, window):
    one = layer_cost("attention", window * window, dim)[1]
    return sum(one for _ in range(grid[0] // window) for _ in range(grid[1] // window))


@alternative("window_attention_cost")
def counted_on_the_weights(grid, dim, window):
    qkv, proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
    for_each_token = qkv.weight.numel() + proj.weight.numel() + 2 * window**2 * dim
    return for_each_token * math.prod(grid)


@alternative("window_attention_cost")
def operation_by_operation(grid, dim, window):
    windows, inside = (grid[0] * grid[1]) // window**2, window**2
    total = 3 * (windows * inside * dim * dim)  # q, k, v
    total += windows * inside * dim * inside  # q @ k.T
    total += windows * inside * inside * dim  # weights @ v
    total += windows * inside * dim * dim  # proj
    return total
