"""Detection: a ViT that answers with a set of boxes, from queries that look at the image, or from every patch (lesson 11).

Source: DETR, "End-to-End Object Detection with Transformers", Carion et al. 2020, arXiv:2005.12872; "paper" below.
Letters in shapes are those of `vit`; K classes, Q queries. Boxes are cx, cy, w, h, as shares of the image's sides.
"""

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu.models.vit import (
    Attention,
    Embeddings,
    Mlp,
    ViT,
    block_ends,
    init_weights,
    merge_heads,
    split_heads,
)


class CrossAttention(nn.Module):
    """Queries of some tokens, keys and values of others. (B, Q, D), (B, N, D) -> (B, Q, D).

    x asks, and memory answers. `kv` makes keys and values in one product: rows 0..D-1 of its weight are the keys'. Raises
    ValueError when dim is not a multiple of num_heads. Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.
    """

    def __init__(self, dim, num_heads):
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"dim must be a multiple of num_heads, so that the heads share it evenly: {dim} / {num_heads}."
            )
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, memory):
        q, (k, v) = self.q(x), self.kv(memory).chunk(2, dim=-1)  # (B, Q, D), 2 x (B, N, D)
        q, k, v = (split_heads(y, self.num_heads) for y in (q, k, v))  # (B, h, Q, d), 2 x (B, h, N, d)
        x = F.scaled_dot_product_attention(q, k, v)  # (B, h, Q, d)
        return self.proj(merge_heads(x))  # (B, Q, D)


class DecoderBlock(nn.Module):
    """Queries agree among each other, look at the image, and think, each beside a skip. (B, Q, D), (B, N, D) -> (B, Q, D).

    Pre-norm, as the rest of the course; DETR's own blocks are post-norm (paper, appendix A.3).
    """

    def __init__(self, dim, num_heads, mlp_ratio=4.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm_cross = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x, memory):
        x = x + self.attn(self.norm1(x))  # (B, Q, D): who takes which object?
        x = x + self.cross_attn(self.norm_cross(x), memory)  # (B, Q, D): what is in the image?
        x = x + self.mlp(self.norm2(x))  # (B, Q, D)
        return x


class BoxHead(nn.Module):
    """An MLP for the four numbers of a box: (B, Q, D) -> (B, Q, 4), before the sigmoid."""

    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, dim), nn.Linear(dim, 4)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Detector(ViT):
    """What both detectors have: a ViT as the encoder, without its head, and the two heads that read a query."""

    needs_all_tokens = True  # an object may be in any patch

    def __init__(self, img_size=32, patch_size=4, in_chans=3, num_classes=4, embed_dim=64, **arguments):
        arguments = {"global_pool": "avg"} | arguments
        super().__init__(img_size, patch_size, in_chans, 0, embed_dim, **arguments)
        self.class_embed = nn.Linear(embed_dim, num_classes + 1)  # the last is "no object"
        self.bbox_embed = BoxHead(embed_dim)

    def encode(self, images):
        """(B, C, H, W) -> the tokens of the patches, (B, N, D)."""
        x = self.norm(self.blocks(Embeddings.forward(self, images)))  # (B, T, D)
        return x[:, -self.patch_embed.num_patches :]

    def inner_matrices(self):
        """The weights that Muon takes: the matrices of encoder and decoder blocks, and of the patch projection."""
        inside = ("blocks.", "decoder.", "patch_embed.")
        return [v for name, v in self.named_parameters() if name.startswith(inside) and v.ndim > 1]


class Detr(Detector):
    """Queries that find objects. (B, C, H, W) -> (logits (B, Q, K + 1), boxes (B, Q, 4)).

    Each of `num_queries` learned queries asks for an object, and answers with a class, or "no object", and a box. What they are
    asked to find is settled by `boxes.matching_cost`, so they can divide the image among themselves, and need no suppression of
    duplicates. decoder_depth: how many blocks of self-attention and cross-attention they go through; a single one leaves them no
    chance to see what the others have found. The other arguments are those of `ViT`.
    """

    def __init__(
        self,
        img_size=32,
        patch_size=4,
        in_chans=3,
        num_classes=4,
        embed_dim=64,
        *,
        num_queries=8,
        decoder_depth=2,
        num_heads=4,
        mlp_ratio=4.0,
        **arguments,
    ):
        arguments |= {"num_heads": num_heads, "mlp_ratio": mlp_ratio}
        super().__init__(img_size, patch_size, in_chans, num_classes, embed_dim, **arguments)
        self.query_embed = nn.Parameter(torch.randn(1, num_queries, embed_dim))
        self.decoder = nn.ModuleList(
            DecoderBlock(embed_dim, num_heads, mlp_ratio) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(embed_dim, eps=1e-6)
        init_weights(self)

    def forward(self, images):
        memory = self.encode(images)  # (B, N, D)
        x = self.query_embed.expand(len(images), -1, -1)  # (B, Q, D)
        for block in self.decoder:
            x = block(x, memory)  # (B, Q, D)
        x = self.decoder_norm(x)
        return self.class_embed(x), self.bbox_embed(x).sigmoid()  # (B, Q, K + 1), (B, Q, 4)

    def branch_ends(self):
        """The matrices that end a residual branch, in the encoder and in the decoder."""
        return block_ends([*self.blocks, *self.decoder]) + [b.cross_attn.proj.weight for b in self.decoder]


class PatchDetector(Detector):
    """A head on every patch: is the centre of an object in here? (B, C, H, W) -> (logits (B, N, K + 1), boxes (B, N, 4)).

    Each patch is a query, and it is fixed which objects it answers for: those whose centre it holds (`boxes.match_places`). So
    its centre is given within the patch. Neighbours that are not sure which of them holds the centre all answer, and
    non-maximum suppression has to choose. The arguments are those of `ViT`.
    """

    def __init__(self, *sizes, **arguments):
        super().__init__(*sizes, **arguments)
        rows, cols = self.patch_embed.grid_size
        row, col = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).T  # (N,), (N,)
        self.register_buffer(
            "corner", torch.stack([col / cols, row / rows], dim=1), persistent=False
        )  # (N, 2)
        self.register_buffer("side", torch.tensor([1 / cols, 1 / rows]), persistent=False)  # (2,)
        init_weights(self)

    def forward(self, images):
        x = self.encode(images)  # (B, N, D)
        inside, size = self.bbox_embed(x).sigmoid().split(2, dim=-1)  # 2 x (B, N, 2)
        boxes = torch.cat([self.corner + inside * self.side, size], dim=-1)  # (B, N, 4)
        return self.class_embed(x), boxes
