"""Recipes: everything that decides how a run goes, besides the data."""

import dataclasses
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vit_edu import settings
from vit_edu.models.kinds import with_kind

GONE = {"clip": 0.0}  # fields that recipes once had, each with the value that switched it off


# What fields may hold: in words, as a test of a finite number, and for which fields
LIMITS = (
    ("a whole number, at least 1", lambda v: v == int(v) >= 1, ("batch_size", "epochs", "max_images")),
    ("a whole number, at least 0", lambda v: v == int(v) >= 0, ("crop", "cutout")),
    ("a whole number of at most 64 bits", lambda v: v == int(v) and -(2**63) <= v < 2**64, ("seed",)),
    ("a finite number above 0", lambda v: v > 0, ("learning_rate", "minutes")),
    ("a finite number, at least 0", lambda v: v >= 0, ("weight_decay", "distort", "mixup", "cutmix")),
    ("a share of the run, in 0..1", lambda v: 0 <= v <= 1, ("warmup",)),
    ("a share of the batches, in 0..1", lambda v: 0 <= v <= 1, ("mix_prob",)),
    ("a share, at least 0 and below 1", lambda v: 0 <= v < 1, ("average", "label_smoothing", "validation")),
)
OPTIONAL = ("epochs", "minutes", "max_images")  # None switches these off


def _is_finite(value):
    """Whether a value is a finite number. A truth value is none here, and neither is a number that is written as text."""
    try:
        return not isinstance(value, (bool, str)) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


@dataclass(frozen=True)
class Recipe:
    """How a run goes; saved with every checkpoint. Raises ValueError for values that make no sense.

    `str(recipe)` names what differs from the defaults below.
    """

    batch_size: int  # images per step, over all GPUs together
    learning_rate: float  # the peak, after the warm-up
    epochs: int | None = None  # passes over the training images; a recipe has either epochs or minutes
    minutes: float | None = None  # time to train for; the schedule then follows the clock
    optimizer: str = "adamw"  # "adamw", or "muon" for the matrices inside the model and AdamW for the rest
    schedule: str = "cosine"  # how the learning rate falls to zero after the warm-up: "cosine" or "linear"
    tokens: tuple = ()  # pairs (until, share): to this point of the run, 0..1, blocks see this share of the tokens
    zero_init: bool = False  # the last matrix of every branch starts at zero, so blocks begin as the identity
    weight_decay: float = 0.05  # for matrices only, not for biases, norms, class token and positions
    warmup: float = 0.1  # the share of the run in which the learning rate climbs
    average: float = 0.0  # decay of a running average of the weights, which is then evaluated and kept
    flip: bool = True  # mirror half of the images
    crop: int = 4  # shift images by up to this many pixels
    label_smoothing: float = 0.0  # this share of every target is spread evenly over all classes
    cutout: int = 0  # blank a square of this many pixels a side in each image
    distort: float = 0.0  # how strongly to turn, stretch and recolour images
    mixup: float = 0.0  # blend images, with shares drawn from Beta(mixup, mixup)
    cutmix: float = 0.0  # paste boxes from other images; if mixup is on as well, each batch draws one of them
    mix_prob: float = 1.0  # the share of the batches that are mixed
    cpu_bf16: bool = False  # use bf16 on a CPU that has it; a CUDA device that has it always does
    validation: float = 0.1  # the share of the training images that is held out for the curves
    max_images: int | None = None  # train on at most this many
    seed: int = 0  # for weights, order and augmentation
    task: str = "classification"  # what is learned: a key of `tasks.TASKS`
    model: dict = field(default_factory=dict)  # "kind" (see `models.KINDS`) and arguments of the model

    def __post_init__(self):
        if (self.epochs is None) == (self.minutes is None):
            raise ValueError(
                f"a recipe has either epochs or minutes; got epochs={self.epochs}, minutes={self.minutes}."
            )
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f'optimizer is "adamw" or "muon", got {self.optimizer!r}.')
        if self.schedule not in ("cosine", "linear"):
            raise ValueError(f'schedule is "cosine" or "linear", got {self.schedule!r}.')
        for expected, fits, names in LIMITS:
            for name in names:
                value = getattr(self, name)
                if not ((value is None and name in OPTIONAL) or (_is_finite(value) and fits(value))):
                    raise ValueError(f"{name} is {expected}, got {value!r}.")
        for name in ("zero_init", "flip", "cpu_bf16"):
            if getattr(self, name) not in (True, False):
                raise ValueError(f"{name} is True or False, got {getattr(self, name)!r}.")
        if not isinstance(self.model, dict):
            raise ValueError(
                f"model is a dict with the kind of the model and its arguments, got {self.model!r}."
            )
        self._check_tokens()

    def _check_tokens(self):
        try:
            fit = all(0 < until <= 1 and 0 < share <= 1 for until, share in self.tokens)
        except (TypeError, ValueError):
            fit = False
        if not fit:
            raise ValueError(
                f"tokens holds pairs (until, share), both in 0..1, got {self.tokens}. For example, ((0.5, 0.25),) "
                "shows a quarter of the tokens in the first half of the run."
            )

    @classmethod
    def from_dict(cls, saved):
        """The recipe in a checkpoint or a log, even in one from before a field was added or removed.

        Raises ValueError if the saved recipe uses something that this version does not have.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        for name in saved.keys() - known:
            if name not in GONE or saved[name] != GONE[name]:
                raise ValueError(f"recipes of this version have no field {name}, got {name}={saved[name]!r}.")
        kept = {name: value for name, value in saved.items() if name in known}
        return cls(**kept | {"model": with_kind(kept["model"])})

    def __str__(self):
        how_long = f"{self.minutes:g} minutes" if self.epochs is None else f"{self.epochs} epochs"
        said = ("batch_size", "learning_rate", "epochs", "minutes", "seed", "model")
        words = [
            _words(f.name, getattr(self, f.name))
            for f in dataclasses.fields(self)
            if f.name not in said and getattr(self, f.name) != f.default
        ]
        model = ", ".join(f"{name} {value}" for name, value in self.model.items())
        return (
            f"{how_long} in batches of {self.batch_size}, learning rate {self.learning_rate:g}; "
            f"{', '.join(words) or 'everything else at its default'}; seed {self.seed}.\nModel: {model}."
        )


def _words(name, value):
    """A field as words: "zero init", "no flip", "crop 2", "tokens 25% until 30% of the run"."""
    name = name.replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if name == "tokens":
        return "tokens " + ", ".join(f"{share:.0%} until {until:.0%} of the run" for until, share in value)
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


_LAPTOP = {
    "batch_size": 128,
    "learning_rate": 6e-3,
    "optimizer": "muon",
    "schedule": "linear",
    "zero_init": True,
    "crop": 2,
    "label_smoothing": 0.1,
    "validation": 0.04,
}
_LAPTOP_MODEL = {
    "patch_size": 4,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 2,
    "global_pool": "avg",
}
_SCENES = {"label_smoothing": 0.0, "validation": 0.1}
_VIDEO_MODEL = {"kind": "video", "patch_size": 8, "tubelet": 2, "num_heads": 2, "mlp_ratio": 2}
_GPU = {
    "batch_size": 768,
    "learning_rate": 3e-3,
    "optimizer": "muon",
    "weight_decay": 0.1,
    "zero_init": True,
    "average": 0.999,
    "label_smoothing": 0.1,
    "cutout": 8,
    "distort": 1.0,
    "mixup": 0.8,
    "cutmix": 1.0,
    "validation": 0.04,
}
_GPU_MODEL = {
    "patch_size": 4,
    "embed_dim": 256,
    "depth": 8,
    "num_heads": 4,
    "global_pool": "avg",
    "drop_path_rate": 0.2,
}
_FAST = {"epochs": 2, "batch_size": 64, "learning_rate": 2e-3, "max_images": 640}
_FAST_MODEL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": "avg"}

RECIPES = {
    # Five minutes, for which two CPU cores are enough.
    "laptop": Recipe(
        minutes=5,
        tokens=((0.3, 0.25), (0.7, 0.5)),
        model=_LAPTOP_MODEL,
        **_LAPTOP,
    ),
    # The same with a convolutional stem, which leaves 16 tokens.
    "laptop-hybrid": Recipe(
        minutes=5,
        model={
            "kind": "hybrid",
            "stem": ((32, 2), (64, 2), (64, 1), (64, 1)),
            "patch_size": 8,
            "embed_dim": 96,
            "depth": 2,
            "num_heads": 2,
            "mlp_ratio": 2,
            "global_pool": "avg",
        },
        **_LAPTOP,
    ),
    # The same for a residual CNN, with which lesson 08 compares them.
    "laptop-cnn": Recipe(
        minutes=5,
        model={"kind": "cnn"},
        **_LAPTOP | {"learning_rate": 1.2e-2, "zero_init": False},
    ),
    # The plain ViT without labels, by masked patches, in eight minutes of one core. Its training loss is lower than its error
    # on held-out images, which are not shifted: the black border that a shift leaves is easy to fill in.
    "laptop-masked": Recipe(
        minutes=8,
        task="masked",
        model=_LAPTOP_MODEL
        | {
            "kind": "masked",
            "mask_ratio": 0.75,
            "decoder_dim": 48,
            "decoder_depth": 1,
            "decoder_heads": 2,
        },
        **_LAPTOP | {"label_smoothing": 0.0},
    ),
    # The same encoder by other tasks without labels.
    "laptop-rotation": Recipe(
        minutes=8,
        task="rotation",
        tokens=((0.3, 0.25), (0.7, 0.5)),
        model=_LAPTOP_MODEL,
        **_LAPTOP | {"label_smoothing": 0.0, "batch_size": 32},  # the four turns of each make 128
    ),
    "laptop-colour": Recipe(
        minutes=8,
        task="colour",
        model=_LAPTOP_MODEL | {"kind": "dense"},
        **_LAPTOP | {"label_smoothing": 0.0},
    ),
    "laptop-contrastive": Recipe(
        minutes=8,
        task="contrastive",
        tokens=((0.3, 0.25), (0.7, 0.5)),
        model=_LAPTOP_MODEL | {"kind": "contrastive"},
        **_LAPTOP | {"label_smoothing": 0.0, "crop": 0},  # views are crops already
    ),
    # A class for every pixel, boxes around objects, and clips (lesson 11), each in at most a minute and a half of one core.
    "laptop-segmentation": Recipe(
        minutes=1.5,
        task="segmentation",
        model=_LAPTOP_MODEL | {"kind": "segmenter", "decoder": "pixels"},
        **_LAPTOP | _SCENES,
    ),
    "laptop-detr": Recipe(
        minutes=1.5,
        task="detection",
        model=_LAPTOP_MODEL | {"kind": "detr", "num_queries": 8, "decoder_depth": 2},
        **_LAPTOP | _SCENES,
    ),
    "laptop-patch-detector": Recipe(
        minutes=1.5,
        task="detection",
        model=_LAPTOP_MODEL | {"kind": "patch_detector"},
        **_LAPTOP | _SCENES,
    ),
    "laptop-video": Recipe(
        minutes=0.5,
        model=_VIDEO_MODEL | {"embed_dim": 64, "depth": 3},
        **_LAPTOP | _SCENES | {"flip": False, "crop": 0},  # in the mirror, right is left
    ),
    # Two hours on one or two CPU cores.
    "long": Recipe(
        minutes=120,
        model={
            "kind": "hybrid",
            "stem": ((64, 2), (64, 1), (128, 2), (128, 1), (128, 1)),
            "patch_size": 8,
            "embed_dim": 192,
            "depth": 4,
            "num_heads": 3,
            "mlp_ratio": 2,
            "global_pool": "avg",
        },
        **_LAPTOP
        | {
            "batch_size": 256,
            "crop": 4,
            "cutout": 8,
            "cutmix": 1.0,
            "mix_prob": 0.5,
            "cpu_bf16": True,
        },
    ),
    # For one CUDA device, in bf16. There are over three hundred passes over the images, so each must look new. Accuracies are in
    # benchmarks/results/time_to_accuracy.md; gpu-long has not been measured. See docs/recipe.md.
    "gpu": Recipe(minutes=4.8, model=_GPU_MODEL, **_GPU),
    "gpu-long": Recipe(
        minutes=11.8,
        model=_GPU_MODEL | {"embed_dim": 384, "num_heads": 6},
        **_GPU,
    ),
    "gpu-hybrid": Recipe(
        minutes=5.8,
        model=_GPU_MODEL | {"kind": "hybrid", "stem": ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))},
        **_GPU,
    ),
    # Masked patches for one CUDA device. He et al. train their encoders for 800 epochs and more. Not measured yet.
    "gpu-masked": Recipe(
        minutes=30,
        task="masked",
        model=_GPU_MODEL
        | {
            "kind": "masked",
            "mask_ratio": 0.75,
            "decoder_dim": 128,
            "decoder_depth": 2,
            "decoder_heads": 4,
            "drop_path_rate": 0.0,
        },
        **_GPU | {"label_smoothing": 0.0, "cutout": 0, "distort": 0.0, "cutmix": 0.0, "mixup": 0.0},
    ),
    # A few seconds, for tests with VIT_EDU_FAST=1.
    "fast": Recipe(model=_FAST_MODEL, **_FAST),
    "fast-masked": Recipe(task="masked", model=_FAST_MODEL | {"kind": "masked", "decoder_dim": 16}, **_FAST),
    "fast-rotation": Recipe(
        task="rotation", model=_FAST_MODEL, **_FAST | {"batch_size": 16, "max_images": 160}
    ),
    "fast-colour": Recipe(task="colour", model=_FAST_MODEL | {"kind": "dense"}, **_FAST),
    "fast-contrastive": Recipe(
        task="contrastive",
        model=_FAST_MODEL | {"kind": "contrastive", "projector_hidden": 32, "projector_dim": 16},
        **_FAST,
    ),
    "fast-segmentation": Recipe(task="segmentation", model=_FAST_MODEL | {"kind": "segmenter"}, **_FAST),
    "fast-detr": Recipe(
        task="detection",
        model=_FAST_MODEL | {"kind": "detr", "num_queries": 4, "decoder_depth": 1},
        **_FAST | {"max_images": 320},
    ),
    "fast-patch-detector": Recipe(
        task="detection",
        model=_FAST_MODEL | {"kind": "patch_detector"},
        **_FAST | {"max_images": 320},
    ),
    "fast-video": Recipe(
        model=_VIDEO_MODEL | {"embed_dim": 32, "depth": 2},
        **_FAST | {"max_images": 320, "flip": False, "crop": 0},
    ),
}


def pick_recipe(device):
    """The name of the recipe that suits the device: "fast" under VIT_EDU_FAST=1, "gpu" on CUDA, else "laptop"."""
    if settings.fast():
        return "fast"
    return "gpu" if torch.device(device).type == "cuda" else "laptop"


def run_folder(name):
    """Where a run of this name keeps its checkpoints: in runs/NAME, or in a fresh folder under VIT_EDU_FAST=1."""
    return Path(tempfile.mkdtemp(prefix="vit_edu-")) if settings.fast() else Path("runs") / name
