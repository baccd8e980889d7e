"""Video: tubelets as tokens, positions in space and in time, and attention over both (lesson 11).

Source: ViViT, "A Video Vision Transformer", Arnab et al. 2021, arXiv:2103.15691; "paper" below.
Letters in shapes are those of `vit`; F frames of a clip, t frames of a tubelet, S = F/t times, N patches of one time.
"""

import torch
from einops import rearrange
from torch import nn

from vit_edu.models.vit import _grid, block_ends, init_weights, make_blocks

ATTENTION = ("joint", "factorised")


def _times(frames, tubelet):
    """How many tubelets follow each other; ValueError where a clip cannot be cut evenly."""
    if tubelet < 1 or frames % tubelet:
        raise ValueError(
            f"a clip of {frames} frames cannot be cut into tubelets of {tubelet} frames: the number of frames must be a multiple "
            f"of {tubelet}. Take other frames of the clip, or change the tubelets."
        )
    return frames // tubelet


def tubelets(clips, frames, patch_size):
    """Cut clips into tubelets, patches that last for some frames, and flatten each one (paper, section 3.1).

    clips: (B, F, C, H, W), any dtype. frames: t, of one tubelet. patch_size: P, in pixels.
    Returns (B, S*N, t*P*P*C). The tubelets of the first t frames in reading order, then those of the next; inside a
    tubelet frame by frame, each in reading order, with the C channels of a pixel side by side.
    Raises ValueError when F is not a multiple of t, or H or W not one of P.
    """
    times = _times(clips.shape[1], frames)
    rows, cols = _grid(*clips.shape[-2:], patch_size)
    return rearrange(clips, "b (s t) c (r p) (q o) -> b (s r q) (t p o c)", s=times, r=rows, q=cols)


def space_time_positions(time, space):
    """The position of each token of a clip: the vector of its time plus that of its place.

    time: (1, S, D). space: (1, N, D). Returns (1, S*N, D), all places of the first time, then those of the next, as in `tubelets`.
    Instead of S*N vectors, S + N are learned.
    """
    return (time[:, :, None] + space[:, None]).flatten(1, 2)  # (1, S, 1, D) + (1, 1, N, D)


def inflate(weight, frames):
    """The projection of tubelets that starts as one of patches: it looks at the central frame only (paper, section 3.4).

    weight: (D, C, P, P), of patches. frames: t. Returns (D, C, t, P, P), a copy of the weight for frame t // 2 (counted from 0),
    and zeros for all others. Raises ValueError for fewer frames than one.
    """
    if frames < 1:
        raise ValueError(f"a tubelet has at least one frame, got {frames}.")
    inflated = weight.new_zeros(*weight.shape[:2], frames, *weight.shape[2:])  # (D, C, t, P, P)
    inflated[:, :, frames // 2] = weight
    return inflated


class TubeletEmbed(nn.Module):
    """Tubelets and their linear projection in one strided 3-D convolution. (B, F, C, H, W) -> (B, S*N, D).

    Raises ValueError for clips of another size, number of channels or number of frames than the model was built for.
    """

    def __init__(self, frames, tubelet, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        self.frames, self.times = frames, _times(frames, tubelet)
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.grid_size = _grid(*self.img_size, patch_size)  # (rows, cols)
        self.num_patches = self.grid_size[0] * self.grid_size[1]  # of one time
        kernel = (tubelet, patch_size, patch_size)
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=kernel, stride=kernel)

    def forward(self, clips):
        expected = (self.frames, self.proj.in_channels, *self.img_size)
        if clips.ndim != 5 or tuple(clips.shape[1:]) != expected:
            raise ValueError(
                f"this model reads clips of shape (B, {', '.join(map(str, expected))}), frames before channels, got "
                f"{tuple(clips.shape)}. Take other frames, resize them, or build the model with other sizes."
            )
        x = self.proj(clips.transpose(1, 2))  # (B, D, S, H/P, W/P): a Conv3d wants channels first
        return x.flatten(2).transpose(1, 2)  # (B, S*N, D)


class VideoViT(nn.Module):
    """A ViT for clips. (B, F, C, H, W) -> logits (B, num_classes).

    frames: F. tubelet: t, the frames of one tubelet. attention: "joint", all tokens of all times attend to each other (paper,
    model 1); "factorised", `depth` blocks see the tokens of one time, whose mean goes through `temporal_depth` blocks over the
    times (model 2, the factorised encoder). With temporal_depth=0, these means are averaged, and their order is lost.
    Positions are `space_time_positions`, learned. Those of the times are left out by times=False, and where the order is lost anyway.
    The other arguments are those of `ViT`; there is no class token. Raises ValueError for sizes that do not fit, and for another
    attention.
    """

    def __init__(
        self,
        img_size=32,
        patch_size=8,
        in_chans=3,
        num_classes=4,
        embed_dim=64,
        depth=4,
        num_heads=4,
        mlp_ratio=4.0,
        drop_path_rate=0.0,
        *,
        frames=8,
        tubelet=2,
        attention="joint",
        temporal_depth=1,
        times=True,
    ):
        super().__init__()
        if attention not in ATTENTION:
            raise ValueError(f"attention is {' or '.join(map(repr, ATTENTION))}, got {attention!r}.")
        self.attention = attention
        self.patch_embed = TubeletEmbed(frames, tubelet, img_size, patch_size, in_chans, embed_dim)
        S, N = self.patch_embed.times, self.patch_embed.num_patches
        self.pos_embed = nn.Parameter(torch.randn(1, N, embed_dim) * 0.02)
        ordered = times and (attention == "joint" or temporal_depth > 0)
        self.time_embed = nn.Parameter(torch.randn(1, S, embed_dim) * 0.02) if ordered else None
        self.blocks = make_blocks(embed_dim, depth, num_heads, mlp_ratio, drop_path_rate)
        temporal = temporal_depth if attention == "factorised" else 0
        self.temporal_blocks = make_blocks(embed_dim, temporal, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    def forward(self, clips):
        x = self.patch_embed(clips)  # (B, S*N, D)
        S, N = self.patch_embed.times, self.patch_embed.num_patches
        time = self.pos_embed.new_zeros(1, S, x.shape[-1]) if self.time_embed is None else self.time_embed
        if self.attention == "joint":
            x = x + space_time_positions(time, self.pos_embed)  # (B, S*N, D)
            x = self.norm(self.blocks(x)).mean(dim=1)  # (B, D), as in `ViT`
        else:
            x = rearrange(x, "b (s n) d -> (b s) n d", n=N)  # every time is an image of its own
            x = self.blocks(x + self.pos_embed).mean(dim=1)  # (B*S, D)
            x = rearrange(x, "(b s) d -> b s d", s=S) + time  # (B, S, D)
            x = self.norm(self.temporal_blocks(x)).mean(dim=1)  # (B, D)
        return self.head(x)  # (B, num_classes)

    def inner_matrices(self):
        """The weights that Muon takes: the matrices of all blocks, and of the projection of tubelets."""
        inside = ("blocks.", "temporal_blocks.", "patch_embed.")
        return [v for name, v in self.named_parameters() if name.startswith(inside) and v.ndim > 1]

    def branch_ends(self):
        """The matrices that end a residual branch, in all blocks."""
        return block_ends([*self.blocks, *self.temporal_blocks])
