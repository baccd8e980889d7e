"""Masked patches: an encoder that learns without labels, by what it takes to fill in the patches it was not shown.

Source: "Masked Autoencoders Are Scalable Vision Learners", He et al. 2022, arXiv:2111.06377; "MAE" below, with the authors'
code, github.com/facebookresearch/mae, for what the paper leaves open. Letters in shapes are those of `vit`, and K is the
number of patches that the encoder sees.
"""

from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu.models.vit import (
    Embeddings,
    ViT,
    block_ends,
    init_weights,
    make_blocks,
    patchify,
    sincos_positions,
)


def random_masking(noise, keep):
    """Which patches of each image are kept: those with the smallest noise.

    noise: (B, N), a random number for each patch. keep: K, how many patches of an image stay.
    Returns ids_keep (B, K), the places of the kept patches; ids_restore (B, N), where each patch stands in the shuffled
    order, in which the kept ones come first; mask (B, N), float32, 1 where a patch is removed and 0 where it is kept.
    Raises ValueError for noise of another shape, and unless 1 <= keep <= N. Source: `random_masking` of MAE's code.
    """
    if not isinstance(noise, torch.Tensor) or noise.ndim != 2:
        raise ValueError(
            f"expected noise of shape (B, N), a number for each patch of each image, got {_shape(noise)}. torch.rand(B, N) draws it."
        )
    N = noise.shape[1]
    if not isinstance(keep, Integral) or not 1 <= keep <= N:
        raise ValueError(
            f"of {N} patches, between 1 and {N} can be kept, got keep={keep!r}. Take another whole number for keep, or give more "
            "patches: smaller ones, or those of larger images."
        )
    shuffled = noise.argsort(dim=1)  # (B, N)
    ids_restore = shuffled.argsort(dim=1)  # the inverse permutation
    return shuffled[:, :keep], ids_restore, (ids_restore >= keep).float()


def _shape(value):
    """The shape of a tensor, or what it is instead, for a message."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


def patches_to_keep(mask_ratio, patches):
    """How many of an image's patches the encoder sees, if this share is removed: the nearest whole number.

    MAE's code rounds down, and keeps one less where the two differ. Raises ValueError for a ratio that is no number between 0
    and 1, and for one that leaves no patch to see or none to predict.
    """
    if not isinstance(mask_ratio, Real) or not 0 < mask_ratio < 1:  # NaN is not between them either
        raise ValueError(
            f"mask_ratio is the share of the patches that is removed: expected a number above 0 and below 1, such as "
            f"0.75, got {mask_ratio!r}."
        )
    keep = round((1 - mask_ratio) * patches)
    if not 1 <= keep < patches:
        raise ValueError(
            f"mask_ratio {mask_ratio} keeps {keep} of {patches} patches: at least one must be kept, and at least one removed. Take "
            "another mask_ratio, a smaller patch_size or larger images."
        )
    return keep


def gather_tokens(tokens, ids):
    """The tokens of each image at these places: (B, T, D), (B, n) -> (B, n, D)."""
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


def normalized_patches(images, patch_size):
    """What is predicted: every patch with mean 0 and variance 1 over its own numbers. (B, C, H, W) -> (B, N, P*P*C).

    As in MAE's code, the variance is the unbiased one, and 1e-6 is added to it, so that a patch of one colour becomes zeros.
    """
    patches = patchify(images, patch_size)
    mean, var = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)  # (B, N, 1)
    return (patches - mean) / (var + 1e-6).sqrt()


def encoder_input(tokens, pos_embed, ids_keep):
    """What the encoder reads: every token with the position of its own patch added, and of those only the kept ones.

    tokens: (B, N, D). pos_embed: (1, N, D). ids_keep: (B, K), the places of the kept patches. Returns (B, K, D), in the order
    of ids_keep. Source: `forward_encoder` of MAE's code.
    """
    return gather_tokens(tokens + pos_embed, ids_keep)


def decoder_input(visible, ids_restore, mask_token, pos_embed):
    """What the decoder reads: a token for every patch, in reading order, with its position added.

    visible: (B, K, D), the tokens of the kept patches. ids_restore: (B, N), of `random_masking`. mask_token: (1, 1, D), which
    stands for every removed patch. pos_embed: (1, N, D). Returns (B, N, D). Source: `forward_decoder` of MAE's code.
    """
    B, N = ids_restore.shape
    masked = mask_token.expand(B, N - visible.shape[1], -1).to(visible.dtype)
    shuffled = torch.cat([visible, masked], dim=1)  # (B, N, D)
    return gather_tokens(shuffled, ids_restore) + pos_embed


def masked_loss(predicted, images, mask, patch_size):
    """Mean squared error over the patches that were removed; how the others are predicted does not count.

    predicted: (B, N, P*P*C), compared with `normalized_patches` of the images, (B, C, H, W). mask: (B, N), 1 where a patch was
    removed and 0 where it was kept. Returns a tensor without axes, nan if no patch of the batch was removed.
    """
    error = (predicted - normalized_patches(images, patch_size)).square().mean(dim=-1)  # (B, N)
    return (error * mask).sum() / mask.sum()


class Decoder(nn.Module):
    """From the tokens of the visible patches to the pixels of all patches: (B, prefix + K, D) -> (B, N, outputs).

    Every removed patch is represented by the same learned mask token; only its position, which is fixed, says which patch is
    meant. grid: (rows, cols) of patches. prefix: the number of tokens without a patch, in front. in_features: D.
    """

    def __init__(self, grid, prefix, in_features, dim, depth, num_heads, mlp_ratio, outputs):
        super().__init__()
        self.prefix = prefix
        self.embed = nn.Linear(in_features, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        positions = F.pad(sincos_positions(*grid, dim), (0, 0, prefix, 0))  # zeros for tokens without a patch
        self.register_buffer("pos_embed", positions[None])  # (1, prefix + N, dim)
        self.blocks = make_blocks(dim, depth, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, outputs)
        init_weights(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, visible, ids_restore):
        """ids_restore: (B, N), of `random_masking`."""
        x = self.embed(visible)  # (B, prefix + K, dim)
        prefix, positions = self.prefix, self.pos_embed
        patches = decoder_input(x[:, prefix:], ids_restore, self.mask_token, positions[:, prefix:])
        x = torch.cat([x[:, :prefix] + positions[:, :prefix], patches], dim=1)  # (B, prefix + N, dim)
        x = self.norm(self.blocks(x))
        return self.head(x[:, prefix:])


def _require_decoder(dim, depth, heads):
    """Raise ValueError for sizes of which no decoder can be built."""
    whole = all(isinstance(size, Integral) for size in (dim, depth, heads))
    if not whole or min(dim, heads) < 1 or depth < 0 or dim % 4 or dim % heads:
        raise ValueError(
            "expected decoder_dim to be a multiple of 4 and of decoder_heads, and decoder_depth a number of blocks, got "
            f"decoder_dim={dim!r}, decoder_heads={heads!r}, decoder_depth={depth!r}."
        )


class MaskedAutoencoder(nn.Module):
    """A ViT that sees a part of the patches, and a light decoder that predicts the others (MAE, section 3).

    (B, C, H, W) -> predicted (B, N, P*P*C), `normalized_patches` as the model imagines them, and mask (B, N). `encoder` is
    the `ViT` without a head. It is what remains after the training.

    mask_ratio: the share of the patches that is removed. decoder_dim, decoder_depth, decoder_heads: sizes of the decoder.
    The other arguments are those of `ViT`. num_classes: 0, because nothing here names classes.
    Raises ValueError for sizes that do not fit, and for a ratio that leaves no patch to see or none to predict.
    """

    def __init__(
        self,
        img_size=32,
        patch_size=4,
        in_chans=3,
        num_classes=0,
        *,
        mask_ratio=0.75,
        decoder_dim=48,
        decoder_depth=1,
        decoder_heads=2,
        embed_dim=64,
        mlp_ratio=4.0,
        **arguments,
    ):
        super().__init__()
        if num_classes:
            raise ValueError(
                f'a model of kind "masked" predicts patches and has no head for {num_classes} numbers: use it with the task '
                '"masked".'
            )
        self.encoder = ViT(
            img_size, patch_size, in_chans, 0, embed_dim=embed_dim, mlp_ratio=mlp_ratio, **arguments
        )
        self.patch_size, self.num_patches = patch_size, self.encoder.patch_embed.num_patches
        self.keep = patches_to_keep(mask_ratio, self.num_patches)
        _require_decoder(decoder_dim, decoder_depth, decoder_heads)
        prefix = int(self.encoder.cls_token is not None)
        self.decoder = Decoder(
            self.encoder.patch_embed.grid_size,
            prefix,
            embed_dim,
            decoder_dim,
            decoder_depth,
            decoder_heads,
            mlp_ratio,
            patch_size**2 * in_chans,
        )

    def forward(self, images, noise=None):
        """noise: (B, N), which decides about the mask; see `random_masking`. None draws it. Raises ValueError for other shapes."""
        expected = (len(images), self.num_patches)
        if noise is None:
            noise = torch.rand(expected, device=images.device)
        elif _shape(noise) != expected:
            raise ValueError(
                f"expected noise for each patch of each image, {expected}, got {_shape(noise)}. Leave noise out, and it is drawn."
            )
        ids_keep, ids_restore, mask = random_masking(noise, self.keep)
        return self.decoder(self.encode(images, ids_keep), ids_restore), mask

    def encode(self, images, ids_keep):
        """The encoder's tokens for the kept patches alone: (B, C, H, W), (B, K) -> (B, prefix + K, D).

        They enter as in `encoder_input`, with a class token in front where there is one.
        """
        vit = self.encoder
        x = Embeddings.forward(vit, images)  # with positions, so that each token still knows its place
        prefix = self.decoder.prefix
        x = torch.cat([x[:, :prefix], gather_tokens(x[:, prefix:], ids_keep)], dim=1)
        return vit.norm(vit.blocks(x))

    def loss(self, images, noise=None):
        """`masked_loss` of a batch. noise: as for `forward`."""
        predicted, mask = self(images, noise)
        return masked_loss(predicted.float(), images, mask, self.patch_size)

    def inner_matrices(self):
        """What Muon trains: all matrices but the decoder's last, whose outputs are pixels."""
        inside = ("encoder.blocks.", "encoder.patch_embed.", "decoder.embed.", "decoder.blocks.")
        return [
            value for name, value in self.named_parameters() if name.startswith(inside) and value.ndim > 1
        ]

    def branch_ends(self):
        """The matrices that end a residual branch, of both parts."""
        return block_ends([*self.encoder.blocks, *self.decoder.blocks])
