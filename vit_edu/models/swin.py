"""Swin: attention inside windows that shift from block to block, on a grid that halves from stage to stage (lesson 11).

Source: Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv:2103.14030; "paper"
below. Module and argument names are timm's, so that published weights fit by name.

Letters in shapes are those of `vit`, with three changes. Tokens stay a map, (B, H, W, D), with
    H, W  its rows and columns, counted in tokens   M  side of a window, in tokens   nW  windows of one map, H W / M²
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vit_edu.models.vit import Attention, DropPath, Mlp, PatchEmbed, block_ends, init_weights

# ---------------------------------------------------------------- windows


def pair(size):
    """(rows, cols) of a window or a shift that may be given as one number for both."""
    return (size, size) if isinstance(size, int) else tuple(size)


def count_windows(grid, window):
    """How many windows a map has, (down, across). grid: (H, W). Raises ValueError unless they fill it."""
    (H, W), (rows, cols) = grid, pair(window)
    if H % rows or W % cols:
        raise ValueError(
            f"a map of {H} x {W} tokens cannot be cut into windows of {rows} x {cols} without a rest."
        )
    return H // rows, W // cols


def window_partition(x, window):
    """Cut maps of tokens into windows that lie side by side (paper, figure 2).

    x: (B, H, W, D). window: M, or (rows, cols) of a window that is not square, here and below.
    Returns (B * nW, M, M, D): the windows of the first map in reading order, then those of the second, and so on.
    Raises ValueError when the sides of the map are not multiples of the window's.
    """
    rows, cols = count_windows(x.shape[1:3], window)
    return rearrange(x, "b (r p) (c q) d -> (b r c) p q d", r=rows, c=cols)


def window_reverse(windows, grid):
    """Put windows back together; the inverse of `window_partition`.

    windows: (B * nW, M, M, D). grid: (H, W). Returns (B, H, W, D). Raises ValueError when they do not fill whole maps.
    """
    rows, cols = count_windows(grid, windows.shape[1:3])
    if len(windows) % (rows * cols):
        raise ValueError(
            f"a map has {rows * cols} windows of this size, and {len(windows)} fill no whole maps."
        )
    return rearrange(windows, "(b r c) p q d -> b (r p) (c q) d", r=rows, c=cols)


def shifted_window_mask(grid, window, shift):
    """What is added to the attention scores in a map that was rolled by `shift`, so that only real neighbours attend to each other.

    After the roll, the last `shift` rows are those that stood at the top, and share their windows with rows from the
    bottom. The same holds for columns (paper, figure 4).
    grid: (H, W). window: M. shift: tokens by which the map was rolled up and to the left, or (up, left).
    Returns (nW, M², M²), float32: 0 where two tokens of a window may see each other, and -100 where the roll alone has brought
    them together. Raises ValueError when the sides of the map are not multiples of the window's, and unless 0 <= shift < M.
    """
    window, shift = pair(window), pair(shift)
    if not all(0 <= s < side for s, side in zip(shift, window, strict=True)):
        raise ValueError(f"a shift is at least 0 and smaller than the window, {window}, got {shift}.")
    row, col = (torch.arange(side) >= side - s for side, s in zip(grid, shift, strict=True))  # who came round
    region = 2 * row[:, None] + col  # (H, W), 0 to 3
    region = window_partition(region[None, :, :, None], window).flatten(1)  # (nW, M²)
    apart = region[:, :, None] != region[:, None]  # (nW, M², M²)
    return torch.zeros(apart.shape).masked_fill(apart, -100.0)  # after softmax, e^-100 is nothing


def relative_position_index(window):
    """Which row of the bias table belongs to each pair of tokens in a window (paper, section 3.2).

    Two tokens are between -(M - 1) and M - 1 rows apart, and as many columns. The table has a row for each of these (2M - 1)²
    offsets, in reading order, beginning with (-(M - 1), -(M - 1)).
    window: M. Returns (M², M²), int64: [i, j] is the number of the offset from token j to token i.
    """
    rows, cols = pair(window)
    row, col = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).T  # (M²,), (M²,)
    down = row[:, None] - row + rows - 1  # (M², M²), from 0 to 2M - 2
    right = col[:, None] - col + cols - 1  # (M², M²)
    return down * (2 * cols - 1) + right


class WindowAttention(Attention):
    """Multi-head self-attention inside each window, with a learned bias for each offset (paper, equation 4).

    x: (B * nW, M², D) -> the same shape. mask: (nW, M², M²) of `shifted_window_mask`, or None.
    """

    def __init__(self, dim, num_heads, window):
        super().__init__(dim, num_heads)
        rows, cols = pair(window)
        table = torch.empty((2 * rows - 1) * (2 * cols - 1), num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        # Buffers move with .to(device); those that can be computed, as this one, are not in the state dict
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)

    def forward(self, x, mask=None):
        bias = self.relative_position_bias_table[self.relative_position_index]  # (M², M², h)
        bias = rearrange(bias, "i j h -> 1 h i j")  # will be added to the scores
        if mask is not None:
            bias = bias + mask[:, None]  # (n, h, M², M²), with n = nW, or 1 without a mask
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # 3 x (B nW, M², D)
        n, h = bias.shape[:2]
        q, k, v = (rearrange(y, "(b n) t (h d) -> b n h t d", n=n, h=h) for y in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B, n, h, M², d)
        return self.proj(rearrange(x, "b n h t d -> (b n) t (h d)"))  # (B nW, M², D)


class SwinBlock(nn.Module):
    """A pre-norm block whose attention looks into windows (paper, equation 3). (B, H, W, D) -> (B, H, W, D).

    grid: (H, W). shifted: whether the windows are moved by half a window, as in every second block. Along an axis on which the
    grid is no larger than the window, the window shrinks to the grid, and nothing is shifted, as in timm.
    Raises ValueError for a grid that cannot be cut into windows.
    """

    def __init__(self, dim, grid, num_heads, window, shifted=False, mlp_ratio=4.0, drop_path=0.0):
        super().__init__()
        self.window = tuple(map(min, grid, pair(window)))
        sides = zip(self.window, grid, strict=True)
        self.shift = tuple(w // 2 if shifted and w < side else 0 for w, side in sides)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, self.window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        count_windows(grid, self.window)  # raises now, and not only when the first image comes
        mask = shifted_window_mask(grid, self.window, self.shift) if any(self.shift) else None
        self.register_buffer("attn_mask", mask, persistent=False)

    def attend(self, x):
        """Attention in the windows of this block: (B, H, W, D) -> (B, H, W, D)."""
        up, left = self.shift
        x = x.roll((-up, -left), dims=(1, 2))  # now the shifted windows begin at the corner
        windows = window_partition(x, self.window).flatten(1, 2)  # (B nW, M², D)
        windows = self.attn(windows, self.attn_mask).unflatten(1, self.window)  # (B nW, M, M, D)
        return window_reverse(windows, x.shape[1:3]).roll((up, left), dims=(1, 2))  # (B, H, W, D)

    def forward(self, x):
        x = x + self.drop_path(self.attend(self.norm1(x)))  # tokens of a window exchange
        x = x + self.drop_path(self.mlp(self.norm2(x)))  # each token thinks for itself
        return x


# ---------------------------------------------------------------- stages


def merge_patches(x):
    """Put each square of 2 x 2 tokens into one token, four times as wide: (B, H, W, D) -> (B, H/2, W/2, 4D).

    The four stand one behind the other: top left, bottom left, top right, bottom right, as in the authors' code.
    Raises ValueError when H or W is odd.
    """
    rows, cols = count_windows(x.shape[1:3], 2)
    return rearrange(x, "b (r p) (c q) d -> b r c (q p d)", r=rows, c=cols)


class PatchMerging(nn.Module):
    """Half the rows and columns, twice the width (paper, section 3.1). (B, H, W, D) -> (B, H/2, W/2, 2D)."""

    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):
        return self.reduction(self.norm(merge_patches(x)))  # (B, H/2, W/2, 2D)


class MapEmbed(PatchEmbed):
    """`PatchEmbed` with a layer norm, whose tokens stay a map: (B, C, height, width) -> (B, H, W, D)."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, images):
        return self.norm(super().forward(images)).unflatten(1, self.grid_size)  # (B, H, W, D)


class Swin(nn.Module):
    """The Swin Transformer. (B, C, height, width) -> logits (B, num_classes).

    depths, num_heads: the blocks and the heads of each stage. Stage i is embed_dim * 2**i wide. window_size: M, or (rows, cols).
    num_classes=0 leaves out the head and returns the mean over the last map. drop_path_rate is that of the last block.
    Swin-T is Swin(224, 4, 3, 1000, 96, (2, 2, 6, 2), (3, 6, 12, 24), 7); the defaults are for small images.
    Raises ValueError for images of another size, and for grids that do not halve evenly or cannot be cut into windows; timm
    fills those up with zeros.
    """

    def __init__(
        self,
        img_size=32,
        patch_size=2,
        in_chans=3,
        num_classes=10,
        embed_dim=32,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        mlp_ratio=4.0,
        drop_path_rate=0.0,
    ):
        super().__init__()
        if len(depths) != len(num_heads):
            raise ValueError(f"a stage has a depth and a number of heads, got {depths} and {num_heads}.")
        self.patch_embed = MapEmbed(img_size, patch_size, in_chans, embed_dim)
        grid, dim, last = self.patch_embed.grid_size, embed_dim, max(1, sum(depths) - 1)
        rates = iter([drop_path_rate * i / last for i in range(sum(depths))])  # as in `make_blocks`
        self.layers = nn.Sequential()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            stage = OrderedDict(downsample=PatchMerging(dim) if i else nn.Identity(), blocks=nn.Sequential())
            grid, dim = (count_windows(grid, 2), 2 * dim) if i else (grid, dim)
            for shifted in (j % 2 == 1 for j in range(depth)):
                block = SwinBlock(dim, grid, heads, window_size, shifted, mlp_ratio, next(rates))
                stage["blocks"].append(block)
            self.layers.append(nn.Sequential(stage))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)
        if num_classes:
            self.head = nn.Sequential(OrderedDict(fc=self.head))  # in timm the layer is head.fc

    def forward(self, images):
        x = self.patch_embed(images)  # (B, H, W, D)
        x = self.norm(self.layers(x))  # (B, H/8, W/8, 8D) after four stages
        return self.head(x.mean(dim=(1, 2)))  # (B, num_classes)

    def inner_matrices(self):
        """The weights that Muon takes: all matrices but the bias tables, which are no maps between vectors, and the head."""
        layers = [m for part in (self.patch_embed, self.layers) for m in part.modules()]
        return [m.weight for m in layers if isinstance(m, (nn.Linear, nn.Conv2d))]

    def branch_ends(self):
        """The matrices that end a residual branch, in all stages."""
        return block_ends(block for stage in self.layers for block in stage.blocks)
