"""A ViT whose heads are told how far apart two patches are: attention with a locality bias (lesson 08).

Each head subtracts a learned multiple of the distance from its scores. This is a soft version of what a convolution takes for
granted. Sources: a learned locality bias as in ConViT (d'Ascoli et al. 2021, arXiv:2103.10697); a penalty that is linear in the
distance and differs from head to head as in ALiBi (Press et al. 2021, arXiv:2108.12409), here in two dimensions.
Letters in shapes are those of `vit`.
"""

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu.models.vit import Attention, ViT, merge_heads, split_heads


def distance_bias(grid, strength):
    """What every head adds to its scores: minus its strength times the distance between query and key.

    grid: (rows, cols). strength: (h,). Returns (h, N, N) with N = rows * cols, patches in reading order. Distances are Euclidean
    and measured in patches, from centre to centre.
    """
    rows, cols = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    row, col = rows.flatten().to(strength), cols.flatten().to(strength)  # (N,) each
    distance = torch.hypot(row[:, None] - row, col[:, None] - col)  # (N, N)
    return -strength[:, None, None] * distance


class LocalAttention(Attention):
    """`Attention` with a `distance_bias` on its scores. (B, T, D) -> (B, T, D).

    grid: (rows, cols) of the patches. prefix: how many tokens without a place stand in front; to and from them, nothing is added.
    `strength` (h,) is learned. It starts at 1 for the first head, 1/2 for the second, 1/4 for the third and so on.
    """

    def __init__(self, dim, num_heads, grid, prefix):
        super().__init__(dim, num_heads)
        self.grid, self.prefix = grid, prefix
        self.strength = nn.Parameter(0.5 ** torch.arange(num_heads))

    def attention_bias(self):
        """(h, T, T): what is added to the scores of each head, before the softmax."""
        return F.pad(distance_bias(self.grid, self.strength), (self.prefix, 0, self.prefix, 0))

    def forward(self, x):
        q, k, v = (split_heads(y, self.num_heads) for y in self.qkv(x).chunk(3, dim=-1))  # 3 x (B, h, T, d)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.attention_bias())  # (B, h, T, d)
        return self.proj(merge_heads(x))  # (B, T, D)


class LocalViT(ViT):
    """A `ViT` with `LocalAttention` in every block. (B, C, H, W) -> logits (B, num_classes). Its arguments are those of `ViT`.

    It needs all tokens at their places, so recipes for it have no token schedule.
    """

    needs_all_tokens = True

    def __init__(self, **arguments):
        super().__init__(**arguments)
        dim, prefix = self.norm.normalized_shape[0], int(self.cls_token is not None)
        for block in self.blocks:
            local = LocalAttention(dim, block.attn.num_heads, self.patch_embed.grid_size, prefix)
            local.qkv, local.proj = (
                block.attn.qkv,
                block.attn.proj,
            )  # with the weights that `ViT` has given them
            block.attn = local
