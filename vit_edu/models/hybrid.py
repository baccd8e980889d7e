"""ViTs whose tokens see more than their own patch: a few small convolutions instead of one large one, or patches that overlap.

`HybridViT` is a hybrid, not a plain ViT. Source: "Early Convolutions Help Transformers See Better", Xiao et al. 2021, arXiv:2106.14881. The paper's hybrid
(Dosovitskiy et al. 2021, section 3.1) uses a whole ResNet instead. Letters in shapes are those of `vit`.
"""

import math

import torch
from torch import nn

from vit_edu.models.vit import PatchEmbed, ViT, init_weights


class ConvStem(PatchEmbed):
    """Image -> tokens by 3 x 3 convolutions, with batch norm and GELU between them. (B, C, H, W) -> (B, N, D), as `PatchEmbed`.

    stem: a pair (width, stride) for each convolution. One more convolution follows, with D channels and the stride that is
    left, so that all strides together multiply to patch_size. Raises ValueError if that is not possible.
    """

    def __init__(self, img_size, patch_size, in_chans, embed_dim, stem):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        strides = math.prod(stride for _, stride in stem)
        if patch_size % strides:
            raise ValueError(
                f"the strides of the stem {stem} multiply to {strides}, and patch_size {patch_size} is not a multiple of that. "
                "Change one of them. The last convolution, which is not in the list, takes the stride that is left."
            )
        layers, before = [], in_chans
        for width, stride in stem:
            layers += [
                nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.GELU(),
            ]
            before = width
        last = nn.Conv2d(before, embed_dim, 3, patch_size // strides, padding=1)
        # Convolutions are fastest when the channels of a pixel are side by side in memory
        self.proj = nn.Sequential(*layers, last).to(memory_format=torch.channels_last)
        self.proj.in_channels = in_chans  # PatchEmbed.forward compares images with it


class HybridViT(ViT):
    """A `ViT` with a `ConvStem`: everything after the tokens is the same. (B, C, H, W) -> logits (B, num_classes).

    stem: as for `ConvStem`. With ((32, 2), (64, 2)) and patches of 8, 32 x 32 pixels become 16 x 16 with 32 channels, 8 x 8
    with 64, then 4 x 4 tokens. The other arguments are those of `ViT`.
    """

    def __init__(self, *, stem, img_size=32, patch_size=4, in_chans=3, embed_dim=64, **arguments):
        super().__init__(img_size, patch_size, in_chans, embed_dim=embed_dim, **arguments)
        self.patch_embed = ConvStem(img_size, patch_size, in_chans, embed_dim, stem)
        for module in self.patch_embed.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class OverlapPatchEmbed(PatchEmbed):
    """Patches that reach `overlap` pixels beyond each of their borders. (B, C, H, W) -> (B, N, D), with N as in `PatchEmbed`.

    One strided convolution, as in `PatchEmbed`, with a larger kernel; beyond the image there are zeros.
    Source: overlapping tokens as in CvT (Wu et al. 2021, arXiv:2103.15808).
    """

    def __init__(self, img_size, patch_size, in_chans, embed_dim, overlap):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size + 2 * overlap, patch_size, padding=overlap)


class OverlapViT(ViT):
    """A `ViT` with an `OverlapPatchEmbed`. (B, C, H, W) -> logits (B, num_classes).

    overlap: pixels beyond each border of a patch, at least 0. The other arguments are those of `ViT`. Raises ValueError.
    """

    def __init__(self, *, overlap, img_size=32, patch_size=4, in_chans=3, embed_dim=64, **arguments):
        if overlap < 0:
            raise ValueError(f"patches overlap by 0 pixels or more, got overlap={overlap}.")
        super().__init__(img_size, patch_size, in_chans, embed_dim=embed_dim, **arguments)
        self.patch_embed = OverlapPatchEmbed(img_size, patch_size, in_chans, embed_dim, overlap)
        init_weights(self)
