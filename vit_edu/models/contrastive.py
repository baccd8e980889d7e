"""Contrastive learning: an encoder that tells images apart, and knows an image again that has been changed.

Source: SimCLR, "A Simple Framework for Contrastive Learning of Visual Representations", Chen et al. 2020, arXiv:2002.05709.
Letters in shapes are those of `vit`.
"""

import torch.nn.functional as F
from torch import nn

from vit_edu.models.vit import ViT, block_ends


class Contrastive(nn.Module):
    """A ViT without a head, and an MLP that projects what it gives. (B, C, H, W) -> (B, projector_dim), vectors of length 1.

    The loss compares the projections, but `encoder` is what remains after the training: the projector may forget what two
    views of an image do not share (SimCLR, section 4.2). Unlike SimCLR's, the projector has no batch norm.

    projector_hidden, projector_dim: the widths of the projector's two layers. The other arguments are those of `ViT`.
    num_classes: 0, because nothing here names classes. Raises ValueError otherwise, and for sizes that do not fit.
    """

    def __init__(
        self,
        img_size=32,
        patch_size=4,
        in_chans=3,
        num_classes=0,
        *,
        projector_hidden=128,
        projector_dim=64,
        embed_dim=64,
        **arguments,
    ):
        super().__init__()
        if num_classes:
            raise ValueError(
                f'a model of kind "contrastive" compares images and has no head for {num_classes} numbers: use it with the task '
                '"contrastive".'
            )
        self.encoder = ViT(img_size, patch_size, in_chans, 0, embed_dim=embed_dim, **arguments)
        self.projector = nn.Sequential(
            nn.Linear(embed_dim, projector_hidden), nn.GELU(), nn.Linear(projector_hidden, projector_dim)
        )

    def forward(self, images):
        projected = self.projector(self.encoder(images))  # (B, projector_dim)
        return F.normalize(projected.float(), dim=-1)  # in float32, also where autocast has made bf16 of it

    def inner_matrices(self):
        """What Muon trains: all matrices but the projector's last."""
        inside = ("encoder.blocks.", "encoder.patch_embed.", "projector.0.")
        return [
            value for name, value in self.named_parameters() if name.startswith(inside) and value.ndim > 1
        ]

    def branch_ends(self):
        """The matrices that end a residual branch, all of them in the encoder."""
        return block_ends(self.encoder.blocks)
