"""What published relatives of the `ViT` add: more tokens in front, and other ways to the logits. `ViT` itself has none of it.

| addition | source |
|---|---|
| a distillation token with a head of its own | DeiT: Touvron et al. 2021, arXiv:2012.12877 |
| register tokens, which have no position | DINOv2: Darcet et al. 2023, arXiv:2309.16588 |
| the class token and the mean over the patches, side by side | DINOv2: Oquab et al. 2023, arXiv:2304.07193 |
| the mean over the patches, then a norm | MAE: He et al. 2021, arXiv:2111.06377; timm's `fc_norm` |

Names are timm's. Letters in shapes are those of `vit`, and R is the number of registers.
"""

import torch
from torch import nn

from vit_edu.models.vit import ViT


class PublishedViT(ViT):
    """A `ViT` with more tokens in front and other heads. (B, C, H, W) -> logits (B, num_classes).

    class_token, dist_token: whether there is one. Each has its row of `pos_embed`, in this order, followed by the patches.
    registers: R tokens without a position, between those in front and the patches.
    dist_head: the distillation token has its own head, and the logits are the mean of both heads, as in DeiT's inference.
    fc_norm: the norm comes after the pooling instead of before it.
    global_pool: "token" reads the class token; "avg" the mean over the *patches* only; "token+avg" both, side by side, and the
    head is twice as wide.
    The other arguments are those of `ViT`. Positions are learned. Raises ValueError for a pooling that is neither, and for
    a token or head that reads what is not there.
    """

    def __init__(
        self,
        *,
        class_token=True,
        dist_token=False,
        dist_head=False,
        registers=0,
        fc_norm=False,
        num_classes=10,
        embed_dim=64,
        **arguments,
    ):
        super().__init__(num_classes=num_classes, embed_dim=embed_dim, **arguments)
        if self.global_pool not in ("token", "avg", "token+avg"):
            raise ValueError(f'global_pool is "token", "avg" or "token+avg", got {self.global_pool!r}.')
        if self.global_pool != "avg" and not class_token:
            raise ValueError(
                f'global_pool="{self.global_pool}" reads the class token, and there is none: use "avg".'
            )
        if self.global_pool == "token+avg" and fc_norm:
            raise ValueError('fc_norm belongs to global_pool="token" or "avg".')
        if dist_head and not dist_token:
            raise ValueError("dist_head reads the distillation token, and there is none.")
        if dist_head and self.global_pool != "token":
            raise ValueError('dist_head belongs to global_pool="token": the mean of patches has one head.')

        def tokens(count):
            return nn.Parameter(torch.randn(1, count, embed_dim) * 0.02) if count else None

        self.cls_token = tokens(int(class_token))
        self.dist_token = tokens(int(dist_token))
        self.reg_token = tokens(registers)
        self.in_front = class_token + dist_token
        self.num_prefix_tokens = self.in_front + registers
        self.pos_embed = tokens(self.in_front + self.patch_embed.num_patches)
        if self.global_pool == "token+avg" and num_classes:
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
        front = [t.expand(len(x), -1, -1) for t in (self.cls_token, self.dist_token) if t is not None]
        x = torch.cat([*front, x], dim=1) + self.pos_embed
        if self.reg_token is not None:
            registers = self.reg_token.expand(len(x), -1, -1)  # (B, R, D)
            x = torch.cat([x[:, : self.in_front], registers, x[:, self.in_front :]], dim=1)
        return x

    def forward(self, images):
        x = self.norm(self.blocks(self.embed(images)))  # (B, T, D)
        if self.global_pool != "token":
            mean = x[:, self.num_prefix_tokens :].mean(dim=1)  # (B, D)
            both = self.global_pool == "token+avg"
            return self.head(torch.cat([x[:, 0], mean], dim=1) if both else self.fc_norm(mean))
        logits = self.head(self.fc_norm(x[:, 0]))
        if self.head_dist is not None:
            logits = (logits + self.head_dist(self.fc_norm(x[:, 1]))) / 2
        return logits
