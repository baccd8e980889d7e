"""The table of kinds: which model a recipe or a file of weights means. A new model adds a row."""

from vit_edu.models.cnn import CNN
from vit_edu.models.contrastive import Contrastive
from vit_edu.models.dense import DenseViT
from vit_edu.models.detr import Detr, PatchDetector
from vit_edu.models.hybrid import HybridViT, OverlapViT
from vit_edu.models.local import LocalViT
from vit_edu.models.masked import MaskedAutoencoder
from vit_edu.models.mixer import Mixer
from vit_edu.models.segmenter import Segmenter
from vit_edu.models.swin import Swin
from vit_edu.models.video import VideoViT
from vit_edu.models.vit import ViT

KINDS = {
    "vit": ViT,
    "hybrid": HybridViT,
    "overlap": OverlapViT,
    "local": LocalViT,
    "cnn": CNN,
    "masked": MaskedAutoencoder,
    "contrastive": Contrastive,
    "dense": DenseViT,
    "mixer": Mixer,
    "swin": Swin,
    "segmenter": Segmenter,
    "detr": Detr,
    "patch_detector": PatchDetector,
    "video": VideoViT,
}


def with_kind(arguments):
    """A model's arguments with their "kind". Old recipes and files do not name one; in them, a stem means a hybrid."""
    return {"kind": "hybrid" if "stem" in arguments else "vit"} | arguments


def make_model(arguments, shape, num_classes):
    """The model that a recipe or a file of weights describes.

    arguments: "kind", a key of KINDS (see `with_kind` for when it is missing), and what that class takes besides img_size,
    in_chans and num_classes. shape: (C, H, W) of an image, or (F, C, H, W) of a clip, whose number of frames the class then
    takes as `frames`. num_classes: how many numbers the head gives. Raises ValueError for a kind that is not in the table.
    """
    *frames, C, H, W = shape
    arguments = with_kind(arguments) | ({"frames": frames[0]} if frames else {})
    kind = arguments.pop("kind")
    if kind not in KINDS:
        raise ValueError(f"there is no model of kind {kind!r}; there are {', '.join(KINDS)}.")
    return KINDS[kind](img_size=(H, W), in_chans=C, num_classes=num_classes, **arguments)
