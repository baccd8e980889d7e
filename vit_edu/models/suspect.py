"""The suspect of lesson 05: a ViT and an accuracy function with four bugs. Question them before you read on.

They run without a complaint. Each bug is of a kind that the course's authors have met in code that people share.
"""

import torch
from torch import nn

from vit_edu.models.vit import patchify


class SuspectViT(nn.Module):
    """(B, 3, H, W) -> (B, num_classes). It looks like a ViT."""

    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__()
        self.patch_size = patch_size
        self.embed = nn.Linear(3 * patch_size**2, dim)
        self.pos_embed = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, "gelu", norm_first=True)
        norm = nn.LayerNorm(dim)
        self.encoder = nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images):
        x = self.embed(patchify(images, self.patch_size))  # (B, N, D)
        x = self.encoder(x)  # (B, N, D)
        return self.head(x.mean(dim=1))  # (B, num_classes)


def suspect_accuracy(logits, labels):
    """logits (B, K), labels (B,) -> what it takes for the accuracy."""
    return (logits.argmax(dim=-1) == labels).float().sum().item()
