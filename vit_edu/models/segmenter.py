"""Segmentation: a ViT that names the class of every pixel, with one of three decoders (lesson 11).

Source: Segmenter, Strudel et al. 2021, arXiv:2105.05633; "paper" below. Letters in shapes are those of `vit`; K classes.
"""

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu.masks import tokens_to_map
from vit_edu.models.vit import Embeddings, ViT, block_ends, init_weights, make_blocks, unpatchify

DECODERS = ("pixels", "linear", "mask")


class Segmenter(ViT):
    """A ViT that answers for every pixel. (B, C, H, W) -> logits (B, K, H, W).

    decoder: "pixels", K numbers for each of the P x P pixels of a patch, put in their places; "linear", K numbers for each patch,
    upsampled (paper, section 3.2); "mask", the mask transformer: K class tokens go through `decoder_depth` blocks with the patches,
    and a patch belongs to a class as far as their tokens point in the same direction (paper, section 3.3).
    skip: the width of a convolution that reads the pixels themselves. What it sees joins the logits in a last convolution, so that
    borders may be finer than patches. 0 leaves both out. A class token, if there is one, takes part in the encoder's blocks.
    The other arguments are those of `ViT`, and so are the encoder's names, so that weights of a ViT fit. Raises ValueError for
    another decoder and for sizes that do not fit.
    """

    needs_all_tokens = True  # there is an answer for each

    def __init__(
        self,
        img_size=32,
        patch_size=4,
        in_chans=3,
        num_classes=5,
        embed_dim=64,
        depth=4,
        num_heads=4,
        mlp_ratio=4.0,
        drop_path_rate=0.0,
        global_pool="avg",
        pos_embed="learn",
        *,
        decoder="pixels",
        decoder_depth=1,
        skip=0,
    ):
        if decoder not in DECODERS:
            raise ValueError(f"there is no decoder {decoder!r}; there are {', '.join(DECODERS)}.")
        outputs = {"pixels": num_classes * patch_size**2, "linear": num_classes, "mask": 0}[decoder]
        super().__init__(
            *(img_size, patch_size, in_chans, outputs, embed_dim, depth, num_heads, mlp_ratio),
            *(drop_path_rate, global_pool, pos_embed),
        )
        self.decoder, self.patch_size = decoder, patch_size
        if decoder == "mask":
            self.cls_emb = nn.Parameter(torch.randn(1, num_classes, embed_dim) * 0.02)
            self.decoder_blocks = make_blocks(embed_dim, decoder_depth, num_heads, mlp_ratio)
            self.decoder_norm = nn.LayerNorm(embed_dim, eps=1e-6)
            self.mask_norm = nn.LayerNorm(num_classes)
            init_weights(self)
        if skip:
            self.stem = nn.Conv2d(in_chans, skip, 3, padding=1)
            self.join = nn.Conv2d(num_classes + skip, num_classes, 3, padding=1)

    def forward(self, images):
        x = Embeddings.forward(self, images)  # (B, T, D)
        x = self.norm(self.blocks(x))[:, -self.patch_embed.num_patches :]  # (B, N, D)
        x = self.head(x)  # (B, N, K P P), (B, N, K), or (B, N, D) for masks
        if self.decoder == "mask":
            x = self.masks(x)  # (B, N, K)
        if self.decoder == "pixels":
            logits = unpatchify(x, self.patch_size, images.shape[2:])  # (B, K, H, W)
        else:
            logits = tokens_to_map(x, self.patch_embed.grid_size, images.shape[2:])  # (B, K, H, W)
        if hasattr(self, "stem"):
            seen = F.gelu(self.stem(images))  # (B, skip, H, W)
            logits = logits + self.join(torch.cat([logits, seen], dim=1))
        return logits

    def masks(self, patches):
        """How well the token of each class fits each patch. (B, N, D) -> (B, N, K)."""
        classes = self.cls_emb.expand(len(patches), -1, -1)  # (B, K, D)
        x = torch.cat([patches, classes], dim=1)  # (B, N + K, D)
        x = F.normalize(self.decoder_norm(self.decoder_blocks(x)), dim=-1)
        N = patches.shape[1]
        return self.mask_norm(x[:, :N] @ x[:, N:].mT)  # (B, N, D) @ (B, D, K): cosines, rescaled

    def inner_matrices(self):
        """The weights that Muon takes: the matrices of encoder and decoder blocks, and of the patch projection."""
        inside = ("blocks.", "decoder_blocks.", "patch_embed.")
        return [v for name, v in self.named_parameters() if name.startswith(inside) and v.ndim > 1]

    def branch_ends(self):
        """The matrices that end a residual branch, in the encoder and in the decoder."""
        return block_ends([*self.blocks, *getattr(self, "decoder_blocks", ())])
