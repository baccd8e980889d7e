"""Model code. `vit.py` is the model of the course, in one file that reads from top to bottom."""

from vit_edu.models.hybrid import HybridViT
from vit_edu.models.kinds import KINDS, make_model
from vit_edu.models.vit import SIZES, ViT

__all__ = ["KINDS", "SIZES", "HybridViT", "ViT", "make_model"]
