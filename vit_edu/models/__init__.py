"""Model code. `vit.py` is the model of the course, in one file that reads from top to bottom."""

from vit_edu.models.hybrid import HybridViT
from vit_edu.models.vit import SIZES, ViT

__all__ = ["SIZES", "HybridViT", "ViT", "make_model"]


def make_model(arguments, shape, num_classes):
    """The model that a recipe or a file of weights describes: a `HybridViT` where `arguments` has "stem", else a `ViT`.

    shape: (C, H, W) of an image.
    """
    C, H, W = shape
    kind = HybridViT if "stem" in arguments else ViT
    return kind(img_size=(H, W), in_chans=C, num_classes=num_classes, **arguments)
