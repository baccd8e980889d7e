"""A ViT whose patches come from a few small convolutions instead of one large one: no plain ViT, and said to be none.

Source: "Early Convolutions Help Transformers See Better", Xiao et al. 2021, arXiv:2106.14881. The paper's hybrid
(Dosovitskiy et al. 2021, section 3.1) has a whole ResNet in that place. Letters of shapes as in `vit`.
"""

import math

from torch import nn

from vit_edu.models.vit import PatchEmbed, ViT


class ConvStem(PatchEmbed):
    """Image -> tokens by 3 x 3 convolutions, each halving the sides, up to one pixel a patch.

    (B, C, H, W) -> (B, N, D), as `PatchEmbed`. widths: channels after each convolution but the last, which has D; patch_size
    must be 2 ** (len(widths) + 1). Between them batch norm and GELU. ValueError where the numbers do not fit.
    """

    def __init__(self, img_size, patch_size, in_chans, embed_dim, widths):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        if patch_size != 2 ** (len(widths) + 1):
            raise ValueError(
                f"every convolution of the stem halves the sides: {len(widths) + 1} of them make patches of "
                f"{2 ** (len(widths) + 1)} pixels, and patch_size is {patch_size}. Give "
                f"{max(0, round(math.log2(patch_size)) - 1)} widths, or change patch_size."
            )
        layers, before = [], in_chans
        for width in widths:
            layers += [
                nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.GELU(),
            ]
            before = width
        self.proj = nn.Sequential(*layers, nn.Conv2d(before, embed_dim, 3, stride=2, padding=1))
        self.proj.in_channels = in_chans  # what PatchEmbed.forward compares with


class HybridViT(ViT):
    """A `ViT` with a `ConvStem`: everything after the tokens is the same. (B, C, H, W) -> logits (B, num_classes).

    stem: the widths of `ConvStem`; (32,) halves 32 x 32 pixels to 16 x 16 in 32 channels, then to 8 x 8 tokens.
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
