"""Model code. `vit.py` is the model of the course, in one file that reads from top to bottom."""

from vit_edu.models.cnn import CNN
from vit_edu.models.contrastive import Contrastive
from vit_edu.models.dense import DenseViT
from vit_edu.models.detr import Detr, PatchDetector
from vit_edu.models.hybrid import HybridViT, OverlapViT
from vit_edu.models.kinds import KINDS, make_model
from vit_edu.models.local import LocalViT
from vit_edu.models.masked import MaskedAutoencoder
from vit_edu.models.mixer import MIXERS, Mixer
from vit_edu.models.segmenter import Segmenter
from vit_edu.models.swin import Swin
from vit_edu.models.video import VideoViT
from vit_edu.models.vit import SIZES, ViT

__all__ = [
    "CNN",
    "KINDS",
    "MIXERS",
    "SIZES",
    "Contrastive",
    "DenseViT",
    "Detr",
    "HybridViT",
    "LocalViT",
    "MaskedAutoencoder",
    "Mixer",
    "OverlapViT",
    "PatchDetector",
    "Segmenter",
    "Swin",
    "ViT",
    "VideoViT",
    "make_model",
]
