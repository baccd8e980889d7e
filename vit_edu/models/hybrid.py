"""A ViT whose patches come from a few small convolutions instead of one large one: no plain ViT, and said to be none.

Source: "Early Convolutions Help Transformers See Better", Xiao et al. 2021, arXiv:2106.14881. The paper's hybrid
(Dosovitskiy et al. 2021, section 3.1) has a whole ResNet in that place. Letters of shapes as in `vit`.
"""

import math

from torch import nn

from vit_edu.models.vit import PatchEmbed, ViT


class ConvStem(PatchEmbed):
    """Image -> tokens by 3 x 3 convolutions, the last of them halving the sides until one pixel is a patch.

    (B, C, H, W) -> (B, N, D), as `PatchEmbed`. widths: channels after each convolution but the last, which has D. For patches
    of 2 ** n pixels the last n convolutions have stride 2, those before stride 1. Between them batch norm and GELU.
    ValueError where patch_size is no power of two, or widths are too few.
    """

    def __init__(self, img_size, patch_size, in_chans, embed_dim, widths):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        halvings = round(math.log2(patch_size))
        if patch_size != 2**halvings or len(widths) + 1 < halvings:
            raise ValueError(
                f"each of the last convolutions of the stem halves the sides: patch_size must be a power of two, here "
                f"up to {2 ** (len(widths) + 1)}, as {len(widths)} widths make {len(widths) + 1} convolutions; got "
                f"{patch_size}. Give more widths, or change patch_size."
            )
        layers, before = [], in_chans
        for i, width in enumerate((*widths, embed_dim)):
            stride = 2 if i > len(widths) - halvings else 1
            layers += [nn.Conv2d(before, width, 3, stride, padding=1, bias=i == len(widths))]
            if i < len(widths):
                layers += [nn.BatchNorm2d(width), nn.GELU()]
            before = width
        self.proj = nn.Sequential(*layers)
        self.proj.in_channels = in_chans  # what PatchEmbed.forward compares with


class HybridViT(ViT):
    """A `ViT` with a `ConvStem`: everything after the tokens is the same. (B, C, H, W) -> logits (B, num_classes).

    stem: the widths of `ConvStem`. With (32,) and patches of 4, 32 x 32 pixels become 16 x 16 in 32 channels, then 8 x 8
    tokens; with (32, 64) a convolution at 32 x 32 comes first.
    The other arguments are those of `ViT`.
    """

    def __init__(self, *, stem, img_size=32, patch_size=4, in_chans=3, embed_dim=64, **arguments):
        super().__init__(img_size, patch_size, in_chans, embed_dim=embed_dim, **arguments)
        self.patch_embed = ConvStem(img_size, patch_size, in_chans, embed_dim, stem)
        for module in self.patch_embed.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
