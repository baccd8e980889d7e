"""Preprocessing belongs to the weights: size, crop, interpolation, mean and standard deviation, as their source says."""

import math
import re

import numpy as np
import torch

from vit_edu.data.pictures import as_shown
from vit_edu.data.sets import DataError
from vit_edu.pretrained.names import WeightsError

# What `model.pretrained_cfg` holds for `preprocess`:
#   input_size     (C, H, W), pixels
#   resize         the size before the middle, H x W, is cut out: an int, for the short side, (rows, cols), or None: as it comes
#   interpolation  "bilinear", "bicubic", ...; with antialiasing
#   mean, std      (C, 1, 1), of pixels in 0..1


def preprocess(images, model):
    """Pictures -> what the model was trained to see, float32 (B, C, H, W), on the model's device.

    images: uint8 (B, C, H, W) or (C, H, W), a tensor or an array, also with the channels last; a PIL image; or a list of
    images, of any sizes. model: as `load` returns it, or a dict such as its `pretrained_cfg`. Raises WeightsError for weights
    that came without a word about their preprocessing, for images that are not uint8, because their scale cannot be known,
    for another number of channels, and for pictures in a mode that has no known colours.
    """
    cfg = model if isinstance(model, dict) else getattr(model, "pretrained_cfg", {})
    if cfg.get("mean") is None:
        raise WeightsError(
            "these weights came without a word about their preprocessing. Put what their source says into "
            'model.pretrained_cfg: "mean" and "std" (C, 1, 1), "input_size" (C, H, W), "resize", "interpolation".'
        )
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        batch = _prepare(images, cfg)
    else:
        several = images if isinstance(images, (list, tuple)) else [images]
        if not several:
            raise WeightsError("expected at least one image, got none.")
        batch = torch.stack([_prepare(image, cfg) for image in several])
    batch = (batch.float() / 255 - cfg["mean"].to(batch.device)) / cfg["std"].to(batch.device)
    return batch if isinstance(model, dict) else batch.to(next(model.parameters()).device)


def _tensor(image, channels):
    """An array or tensor of one image, or a batch of them -> uint8, (C, H, W) or (B, C, H, W), with `channels` channels.

    Channels may come first or last. Where both could be, they are first in a tensor and last in an array, as is usual.
    Raises WeightsError for another dtype, and for another number of channels unless it is one, which is repeated.
    """
    if image.dtype not in (torch.uint8, np.uint8):
        raise WeightsError(
            f"expected images in uint8, 0 to 255, got {image.dtype}. They are scaled and normalised here, so pass them raw."
        )
    last = isinstance(image, np.ndarray)
    image = torch.from_numpy(np.ascontiguousarray(image)) if last else image
    shape = tuple(image.shape)
    if image.ndim == 2:  # grey, without an axis for it
        image = image[None]
        last = False
    if image.ndim not in (3, 4) or 0 in shape:
        raise WeightsError(
            f"expected an image (C, H, W) or (H, W, C), or a batch of them, got shape {shape}."
        )
    places = {False: image.shape[-3], True: image.shape[-1]}
    for wanted in (channels, 1):
        for at_end in (last, not last):
            if places[at_end] == wanted:
                image = image.movedim(-1, -3) if at_end else image
                return image.expand(*image.shape[:-3], channels, -1, -1)
    raise WeightsError(
        f"expected images with {channels} channels, (C, H, W) or (H, W, C), got shape {shape}. Transparency and other colours are not "
        "guessed: open the file with PIL.Image.open and pass that, or keep the channels that the model reads, such as "
        "image[:3] or image[..., :3]."
    )


def _prepare(image, cfg):
    """One image, or a batch of images of one size, as uint8 of the right size."""
    from PIL import Image
    from torchvision.transforms import functional as T

    if isinstance(image, (np.ndarray, torch.Tensor)):
        image = _tensor(image, cfg["input_size"][0])
    elif not isinstance(image, Image.Image):
        raise WeightsError(
            f"expected a PIL image, an array or a tensor in uint8, or a list of them, got {type(image).__name__}. Open a file with "
            "PIL.Image.open(path), and turn lists of numbers into an array: numpy.array(numbers, dtype=numpy.uint8)."
        )
    else:
        try:
            image = as_shown(image).convert("RGB" if cfg["input_size"][0] == 3 else "L")
        except DataError as error:
            raise WeightsError(f"{error}.") from error
    size = list(cfg["input_size"][1:])
    how = T.InterpolationMode(cfg.get("interpolation", "bicubic"))
    resize = cfg["resize"]
    if resize is not None:
        image = T.resize(image, [resize] if isinstance(resize, int) else list(resize), how, antialias=True)
    image = T.center_crop(image, size)
    return image if isinstance(image, torch.Tensor) else T.pil_to_tensor(image)


def _cfg(channels, height, width, resize, interpolation, mean, std):
    as_column = [torch.tensor([float(x) for x in v])[:, None, None] for v in (mean, std)]
    return {
        "input_size": (channels, height, width),
        "resize": resize,
        "interpolation": interpolation,
        "mean": as_column[0],
        "std": as_column[1],
    }


def from_torchvision_weights(weights):
    """The preprocessing of a member of torchvision's weights enum."""
    t = weights.transforms()
    size = t.crop_size[0]
    return _cfg(3, size, size, t.resize_size[0], t.interpolation.value, t.mean, t.std)


def from_timm(config):
    """The preprocessing in timm's `pretrained_cfg`, a dict, which is in a model or in config.json on the Hub."""
    size = tuple(config["input_size"])
    mode, how = config.get("crop_mode") or "center", config.get("interpolation") or "bicubic"
    if mode not in ("center", "squash") or how not in RESAMPLE.values():
        raise WeightsError(
            f'the preprocessing has crop_mode "{mode}" and interpolation "{how}"; known are center and squash, and '
            f"{', '.join(RESAMPLE.values())}."
        )
    short = math.floor(min(size[1:]) / (config.get("crop_pct") or 0.875))
    resize = (short, short) if mode == "squash" else short
    return _cfg(*size, resize, how, config["mean"], config["std"])


RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# What an image processor of transformers takes where its preprocessor_config.json says nothing
SQUARE = {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": 0.5, "image_std": 0.5}
CROPPED = {"resample": 3, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
BIT = CROPPED | {"size": {"shortest_edge": 224}, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
PROCESSORS = {
    "ViT": SQUARE,
    "DeiT": SQUARE | CROPPED | {"size": {"height": 256, "width": 256}},
    "Bit": BIT,
    "CLIP": BIT,
    "Siglip": SQUARE | {"resample": 3},
}
# Steps that `preprocess` does or that change nothing for it. Any other "do_..." that is switched on is refused.
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
NEEDED = ("size", "resample", "image_mean", "image_std")


def from_transformers(config):
    """The preprocessing in a preprocessor_config.json. What it leaves out is as in its class; steps may be switched off.

    Raises WeightsError for steps and sizes that `preprocess` cannot do.
    """
    kind = config.get("image_processor_type") or config.get("feature_extractor_type") or "ViTImageProcessor"
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind)
    config = PROCESSORS.get(kind, {}) | {k: v for k, v in config.items() if v is not None}
    on = {step: config.get(step, step != "do_center_crop") for step in STEPS}
    unknown = [k for k, v in config.items() if k.startswith("do_") and v and k not in STEPS]
    unknown += [k for k in ("rescale_offset", "crop_pct") if config.get(k)]
    if unknown:
        raise WeightsError(
            f"the preprocessing has steps that `preprocess` does not know: {', '.join(unknown)}."
        )
    needed = [k for k in NEEDED if on["do_normalize"] or not k.startswith("image_")]
    if lost := [k for k in needed if k not in config]:
        raise WeightsError(f"preprocessor_config.json of {kind} does not say {', '.join(lost)}.")
    if config["resample"] not in RESAMPLE:
        raise WeightsError(
            f"the preprocessing has resample = {config['resample']!r}; known are {', '.join(f'{k} ({v})' for k, v in RESAMPLE.items())}."
        )
    resize = _size(config["size"], kind in ("Bit", "CLIP")) if on["do_resize"] else None
    crop = _size(config.get("crop_size", 224), False) if on["do_center_crop"] else resize
    if not isinstance(crop, tuple):
        raise WeightsError(
            "the preprocessing gives images of different sizes, because it neither cuts out a fixed size nor resizes to one; "
            "a ViT needs one size."
        )
    mean, std = (
        config[k] if on["do_normalize"] else default for k, default in (("image_mean", 0), ("image_std", 1))
    )
    mean, std = (v if isinstance(v, (list, tuple)) else [v] * 3 for v in (mean, std))
    # They compute (pixel * factor - mean) / std with pixels in 0..255, and `preprocess` divides by 255
    factor = 255 * (config.get("rescale_factor", 1 / 255) if on["do_rescale"] else 1)
    mean, std = ([x / factor for x in v] for v in (mean, std))
    return _cfg(len(mean), *crop, resize, RESAMPLE[config["resample"]], mean, std)


def _size(size, short_side):
    """A size in the words of transformers -> (H, W), or an int for the short side. short_side: what a single number means."""
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return tuple(size)
    if isinstance(size, int):
        return size if short_side else (size, size)
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return size["height"], size["width"]
    if isinstance(size, dict) and size.keys() == {"shortest_edge"}:
        return size["shortest_edge"]
    raise WeightsError(
        f'the preprocessing has a size {size!r}; expected a number, "height" and "width", or "shortest_edge".'
    )


def of_jax(height, width):
    """The authors' own pipeline: both sides resized, pixels to -1..1 (vit_jax/input_pipeline.py)."""
    return _cfg(3, height, width, (height, width), "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def at_size(cfg, img_size):
    """The same preprocessing for a model at another resolution, in which `resize` grows with the crop."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if cfg.get("mean") is None or tuple(cfg["input_size"][1:]) == (height, width):
        return cfg
    old_height, old_width = cfg["input_size"][1:]
    resize = cfg["resize"]
    if resize is None:
        return cfg | {"input_size": (cfg["input_size"][0], height, width)}
    if isinstance(resize, int):
        resize = max(round(resize * max(height / old_height, width / old_width)), height, width)
    else:
        resize = (round(resize[0] * height / old_height), round(resize[1] * width / old_width))
    return cfg | {"input_size": (cfg["input_size"][0], height, width), "resize": resize}
