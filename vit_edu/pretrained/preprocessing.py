"""Preprocessing belongs to the weights: size, crop, interpolation, mean and standard deviation, as their source says."""

import math

import torch

from vit_edu.pretrained.names import WeightsError

# What `model.pretrained_cfg` holds for `preprocess`:
#   input_size     (C, H, W), pixels
#   resize         an int: the short side, then the middle of H x W is cut out; None: both sides to H x W, no cut
#   interpolation  "bilinear", "bicubic", ...; with antialiasing
#   mean, std      (C, 1, 1), of pixels in 0..1


def preprocess(images, model):
    """Pictures -> what the model was trained to see, float32 (B, C, H, W), on the model's device.

    images: uint8 (B, C, H, W) or (C, H, W), a PIL image, or a list of either, of any sizes. model: as `load` returns it, or
    a dict such as its `pretrained_cfg`. Raises WeightsError where the weights came without a word about their preprocessing,
    or for images that are no uint8: their scale cannot be known.
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
    """One image, or a batch of equal size, as uint8 of the right size."""
    from torchvision.transforms import functional as T

    if isinstance(image, torch.Tensor):
        if image.dtype != torch.uint8:
            raise WeightsError(
                f"expected images in uint8, 0 to 255, got {image.dtype}. They are scaled and normalised here: give them raw."
            )
    else:
        image = image.convert("RGB" if cfg["input_size"][0] == 3 else "L")
    size = list(cfg["input_size"][1:])
    how = T.InterpolationMode(cfg.get("interpolation", "bicubic"))
    if cfg.get("resize") is None:
        image = T.resize(image, size, how, antialias=True)
    else:
        image = T.center_crop(T.resize(image, [cfg["resize"]], how, antialias=True), size)
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
    """Of a member of torchvision's weights enum."""
    t = weights.transforms()
    size = t.crop_size[0]
    return _cfg(3, size, size, t.resize_size[0], t.interpolation.value, t.mean, t.std)


def from_timm(config):
    """Of timm's `pretrained_cfg`, a dict: in a model, or in config.json on the Hub."""
    size = tuple(config["input_size"])
    short = math.floor(min(size[1:]) / config.get("crop_pct", 0.875))
    whole = config.get("crop_mode") == "squash"
    how = config.get("interpolation", "bicubic")
    return _cfg(*size, None if whole else short, how, config["mean"], config["std"])


def from_transformers(config):
    """Of a preprocessor_config.json."""
    how = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}[config.get("resample", 2)]
    size = config.get("size", 224)
    size = size if isinstance(size, dict) else {"height": size, "width": size}
    crop = config.get("crop_size", size)
    crop = crop if isinstance(crop, dict) else {"height": crop, "width": crop}
    if config.get("do_center_crop"):
        short = size.get("shortest_edge") or min(size["height"], size["width"])
        height, width = crop["height"], crop["width"]
    else:
        short, height, width = None, size["height"], size["width"]
    return _cfg(3, height, width, short, how, config["image_mean"], config["image_std"])


def of_jax(height, width):
    """The authors' own pipeline: both sides resized, pixels to -1..1 (vit_jax/input_pipeline.py)."""
    return _cfg(3, height, width, None, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def at_size(cfg, img_size):
    """The same preprocessing for a model at another resolution: resize grows with the crop."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if cfg.get("mean") is None or tuple(cfg["input_size"][1:]) == (height, width):
        return cfg
    resize = cfg.get("resize")
    if resize is not None:
        resize = round(resize * min(height, width) / min(cfg["input_size"][1:]))
        resize = max(resize, height, width)
    return cfg | {"input_size": (cfg["input_size"][0], height, width), "resize": resize}
