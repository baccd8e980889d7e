"""A ViT that answers for every patch: the colours of its pixels, or which class it shows.

Letters in shapes are those of `vit`.
"""

from vit_edu.models.vit import Embeddings, ViT


class DenseViT(ViT):
    """A ViT whose head reads the token of every patch. (B, C, H, W) -> (B, N, num_classes), in reading order.

    num_classes: how many numbers the head gives for each patch; 0 leaves the tokens as they are, (B, N, D). A class token, if
    there is one, takes part in the blocks, and is left out before the head. Arguments, parts and names are those of `ViT`.
    """

    needs_all_tokens = True  # there is an answer for each

    def forward(self, images):
        x = Embeddings.forward(self, images)  # (B, T, D)
        x = self.norm(self.blocks(x))  # (B, T, D)
        return self.head(x[:, -self.patch_embed.num_patches :])  # (B, N, num_classes)
