"""What published relatives of the `ViT` add: more tokens in front, other MLPs, other ways to the logits. `ViT` itself has none of it.

| addition | source |
|---|---|
| a distillation token with a head of its own | DeiT: Touvron et al. 2021, arXiv:2012.12877 |
| register tokens | DINOv2: Darcet et al. 2023, arXiv:2309.16588 |
| the class token and the mean over the patches, side by side | DINOv2: Oquab et al. 2023, arXiv:2304.07193 |
| the mean over the patches, then a norm | MAE: He et al. 2021, arXiv:2111.06377; timm's `fc_norm` |
| a norm before the blocks; QuickGELU | CLIP: Radford et al. 2021, arXiv:2103.00020 |
| a learned query that reads the patches | SigLIP: Zhai et al. 2023, arXiv:2303.15343; Lee et al. 2019, arXiv:1810.00825 |
| a gate in the MLP | SwiGLU: Shazeer 2020, arXiv:2002.05202 |

Names are timm's. Letters in shapes are those of `vit`, and R is the number of registers.
"""

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu.models.vit import Mlp, ViT, merge_heads, split_heads

POOLINGS = ("token", "avg", "token+avg", "map")


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the approximation of GELU with which CLIP was trained. Hendrycks & Gimpel 2016, arXiv:1606.08415."""

    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class SwiGLU(nn.Module):
    """An MLP whose hidden values are multiplied by a gate. (B, T, D) -> (B, T, D), token by token.

    `fc1` makes the gate and the values in one product, `hidden_features` numbers together: the first half is the gate.
    """

    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features // 2, in_features)

    def forward(self, x):
        gate, values = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * values)


class AttentionPool(nn.Module):
    """One learned query attends to all tokens, and an MLP follows. (B, T, D) -> (B, D).

    `qkv` is as in `Attention`, but queries are made of the learned vector, and keys and values of the tokens.
    """

    def __init__(self, dim, num_heads, mlp_ratio=4.0):
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x):
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        read = (self.latent.expand(len(x), -1, -1), x, x)  # by queries, keys and values
        q, k, v = (
            split_heads(F.linear(*each), self.num_heads) for each in zip(read, weights, biases, strict=True)
        )
        x = self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))  # (B, 1, D)
        return (x + self.mlp(self.norm(x)))[:, 0]


def _require_readable(global_pool, class_token, dist_token, dist_head, fc_norm):
    """Raise ValueError for a pooling that there is not, and for tokens that would be read and are not there."""
    if global_pool not in POOLINGS:
        raise ValueError(f'global_pool is "token", "avg", "token+avg" or "map", got {global_pool!r}.')
    if "token" in global_pool and not class_token:
        raise ValueError(f'global_pool="{global_pool}" reads the class token, and there is none: use "avg".')
    if global_pool == "token+avg" and fc_norm:
        raise ValueError('fc_norm belongs to global_pool="token" or "avg".')
    if dist_head and not dist_token:
        raise ValueError("dist_head reads the distillation token, and there is none.")
    if dist_head and global_pool != "token":
        raise ValueError('dist_head belongs to global_pool="token": the mean of patches has one head.')


class PublishedViT(ViT):
    """A `ViT` with more tokens in front, other MLPs and other heads. (B, C, H, W) -> logits (B, num_classes).

    class_token, dist_token: whether there is one. Each has its row of `pos_embed`, in this order, followed by the patches.
    registers: R tokens between those in front and the patches. register_positions: whether they have rows of `pos_embed`.
    dist_head: the distillation token has its own head, and the logits are the mean of both heads, as in DeiT's inference.
    fc_norm: the norm comes after the pooling instead of before it. norm_pre: there is another one before the blocks.
    swiglu: the MLPs of the blocks are `SwiGLU`, with D * mlp_ratio numbers for gate and values together.
    global_pool: "token" reads the class token; "avg" the mean over the *patches* only; "token+avg" both, side by side, and the
    head is twice as wide; "map" is an `AttentionPool` over the patches.
    The other arguments are those of `ViT`. Positions are learned. If img_size is no multiple of patch_size, the pixels at the
    right and at the bottom that fill no whole patch are not looked at, as in a strided convolution. Raises ValueError for any other pooling, and for a token or
    head that reads what is not there.
    """

    def __init__(
        self,
        *,
        class_token=True,
        dist_token=False,
        dist_head=False,
        registers=0,
        register_positions=False,
        fc_norm=False,
        norm_pre=False,
        swiglu=False,
        img_size=32,
        patch_size=4,
        num_classes=10,
        embed_dim=64,
        num_heads=4,
        mlp_ratio=4.0,
        global_pool="token",
        **arguments,
    ):
        _require_readable(global_pool, class_token, dist_token, dist_head, fc_norm)
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        super().__init__(
            img_size=tuple(side // patch_size * patch_size for side in size),
            patch_size=patch_size,
            num_classes=num_classes,
            embed_dim=embed_dim,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            global_pool=global_pool,
            **arguments,
        )
        self.patch_embed.img_size = size

        def tokens(count):
            return nn.Parameter(torch.randn(1, count, embed_dim) * 0.02) if count else None

        self.cls_token = tokens(int(class_token))
        self.dist_token = tokens(int(dist_token))
        self.reg_token = tokens(registers)
        self.num_prefix_tokens = class_token + dist_token + registers
        self.register_positions = register_positions
        self.in_front = self.num_prefix_tokens - (
            0 if register_positions else registers
        )  # those with a position
        self.pos_embed = tokens(self.in_front + self.patch_embed.num_patches)
        self.norm_pre = nn.LayerNorm(embed_dim, eps=1e-6) if norm_pre else nn.Identity()
        if swiglu:
            for block in self.blocks:
                block.mlp = SwiGLU(embed_dim, int(embed_dim * mlp_ratio))
        self.attn_pool = AttentionPool(embed_dim, num_heads, mlp_ratio) if global_pool == "map" else None
        if global_pool == "token+avg" and num_classes:
            self.head = nn.Linear(2 * embed_dim, num_classes)
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
        if fc_norm:
            self.norm, self.fc_norm = nn.Identity(), nn.LayerNorm(embed_dim, eps=1e-6)
        else:
            self.fc_norm = nn.Identity()
        self.head_dist = None
        if dist_head:
            self.head_dist = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()

    def embed(self, images):
        """(B, C, H, W) -> (B, T, D), T = class token + distillation token + R + N."""
        x = self.patch_embed(images)  # (B, N, D)
        front = [self.cls_token, self.dist_token]
        if self.register_positions:
            front.append(self.reg_token)
        front = [t.expand(len(x), -1, -1) for t in front if t is not None]
        x = torch.cat([*front, x], dim=1) + self.pos_embed
        if self.reg_token is not None and not self.register_positions:
            registers = self.reg_token.expand(len(x), -1, -1)  # (B, R, D)
            x = torch.cat([x[:, : self.in_front], registers, x[:, self.in_front :]], dim=1)
        return x

    def pooled(self, x):
        """(B, T, D) -> what the head reads, (B, D), or (B, 2 D) for "token+avg"."""
        if self.global_pool == "token":
            return x[:, 0]
        patches = x[:, self.num_prefix_tokens :]  # (B, N, D)
        if self.global_pool == "map":
            return self.attn_pool(patches)
        mean = patches.mean(dim=1)  # (B, D)
        return torch.cat([x[:, 0], mean], dim=1) if self.global_pool == "token+avg" else mean

    def forward(self, images):
        x = self.norm(self.blocks(self.norm_pre(self.embed(images))))  # (B, T, D)
        logits = self.head(self.fc_norm(self.pooled(x)))
        if self.head_dist is not None:
            logits = (logits + self.head_dist(self.fc_norm(x[:, 1]))) / 2
        return logits
