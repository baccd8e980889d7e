"""Preprocessing belongs to the weights: size, crop, interpolation, mean and standard deviation, as their source says."""

import math

import torch

from vit_edu.data.pictures import as_shown
from vit_edu.pretrained.names import WeightsError

# What `model.pretrained_cfg` holds for `preprocess`:
#   input_size     (C, H, W), pixels
#   resize         the size before the middle, H x W, is cut out: an int, for the short side, or (rows, cols)
#   interpolation  "bilinear", "bicubic", ...; with antialiasing
#   mean, std      (C, 1, 1), of pixels in 0..1


def preprocess(images, model):
    """Pictures -> what the model was trained to see, float32 (B, C, H, W), on the model's device.

    images: uint8 (B, C, H, W) or (C, H, W), a PIL image, or a list of either, of any sizes. model: as `load` returns it, or
    a dict such as its `pretrained_cfg`. Raises WeightsError for weights that came without a word about their preprocessing,
    and for images that are not uint8, because their scale cannot be known.
    """
    cfg = model if isinstance(model, dict) else getattr(model, "pretrained_cfg", {})
    if cfg.get("mean") is None:
        raise WeightsError(
            "these weights came without a word about their preprocessing. Put what their source says into "
            'model.pretrained_cfg: "mean" and "std" (C, 1, 1), "input_size" (C, H, W), "resize", "interpolation".'
        )
    if isinstance(images, torch.Tensor) and images.ndim == 4:
        batch = _prepare(images, cfg)
    else:
        single = not isinstance(images, (list, tuple))
        batch = torch.stack([_prepare(image, cfg) for image in ([images] if single else images)])
    batch = (batch.float() / 255 - cfg["mean"]) / cfg["std"]
    return batch if isinstance(model, dict) else batch.to(next(model.parameters()).device)


def _prepare(image, cfg):
    """One image, or a batch of images of one size, as uint8 of the right size."""
    from torchvision.transforms import functional as T

    if isinstance(image, torch.Tensor):
        if image.dtype != torch.uint8:
            raise WeightsError(
                f"expected images in uint8, 0 to 255, got {image.dtype}. They are scaled and normalised here, so pass them raw."
            )
    else:
        image = as_shown(image).convert("RGB" if cfg["input_size"][0] == 3 else "L")
    size = list(cfg["input_size"][1:])
    how = T.InterpolationMode(cfg.get("interpolation", "bicubic"))
    resize = cfg["resize"]
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
    short = math.floor(min(size[1:]) / config.get("crop_pct", 0.875))
    resize = (short, short) if config.get("crop_mode") == "squash" else short
    how = config.get("interpolation", "bicubic")
    return _cfg(*size, resize, how, config["mean"], config["std"])


def from_transformers(config):
    """The preprocessing in a preprocessor_config.json."""
    how = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}[config.get("resample", 2)]
    size, crop = (config.get(key, 224) for key in ("size", "crop_size"))
    size, crop = (s if isinstance(s, dict) else {"height": s, "width": s} for s in (size, crop))
    resize = size.get("shortest_edge") or (size["height"], size["width"])
    height, width = resize if not config.get("do_center_crop") else (crop["height"], crop["width"])
    return _cfg(3, height, width, resize, how, config["image_mean"], config["image_std"])


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
    if isinstance(resize, int):
        resize = max(round(resize * max(height / old_height, width / old_width)), height, width)
    else:
        resize = (round(resize[0] * height / old_height), round(resize[1] * width / old_width))
    return cfg | {"input_size": (cfg["input_size"][0], height, width), "resize": resize}
