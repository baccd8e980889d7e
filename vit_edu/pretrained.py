"""Trained weights: those that come with the course, and published ones in our `ViT`, key by key.

Names are mapped one by one, never by order, and completely in both directions: each key of theirs is used, each of
ours is filled.
"""

import json
import os
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vit_edu import data, training
from vit_edu.models import make_model
from vit_edu.models.vit import ViT

# torchvision's name -> ours; {i} is the number of the block.
TORCHVISION = {
    "class_token": "cls_token",
    "conv_proj.weight": "patch_embed.proj.weight",
    "conv_proj.bias": "patch_embed.proj.bias",
    "encoder.pos_embedding": "pos_embed",
    "encoder.layers.encoder_layer_{i}.ln_1.weight": "blocks.{i}.norm1.weight",
    "encoder.layers.encoder_layer_{i}.ln_1.bias": "blocks.{i}.norm1.bias",
    "encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight": "blocks.{i}.attn.qkv.weight",
    "encoder.layers.encoder_layer_{i}.self_attention.in_proj_bias": "blocks.{i}.attn.qkv.bias",
    "encoder.layers.encoder_layer_{i}.self_attention.out_proj.weight": "blocks.{i}.attn.proj.weight",
    "encoder.layers.encoder_layer_{i}.self_attention.out_proj.bias": "blocks.{i}.attn.proj.bias",
    "encoder.layers.encoder_layer_{i}.ln_2.weight": "blocks.{i}.norm2.weight",
    "encoder.layers.encoder_layer_{i}.ln_2.bias": "blocks.{i}.norm2.bias",
    "encoder.layers.encoder_layer_{i}.mlp.0.weight": "blocks.{i}.mlp.fc1.weight",
    "encoder.layers.encoder_layer_{i}.mlp.0.bias": "blocks.{i}.mlp.fc1.bias",
    "encoder.layers.encoder_layer_{i}.mlp.3.weight": "blocks.{i}.mlp.fc2.weight",
    "encoder.layers.encoder_layer_{i}.mlp.3.bias": "blocks.{i}.mlp.fc2.bias",
    "encoder.ln.weight": "norm.weight",
    "encoder.ln.bias": "norm.bias",
    "heads.head.weight": "head.weight",
    "heads.head.bias": "head.bias",
}


SHIPPED = Path(__file__).parent / "weights"  # NAME.safetensors and NAME.md, its card


class WeightsError(Exception):
    """Weights and model do not fit; the text shows both sides."""


def load(name="vit-cifar10"):
    """A trained model that comes with the course, in eval mode, in float32, on the CPU. No network is needed.

    `model.pretrained_cfg` says what belongs to the weights: "classes", names in the order of the logits; "mean" and "std",
    (C, 1, 1), which the images were normalised with; "card", the text that says how it was trained and how well it does.
    Raises WeightsError for an unknown name, which lists the known ones, or a damaged file.
    """
    path = SHIPPED / f"{name}.safetensors"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors")))
        raise WeightsError(
            f"no weights of the name {name!r} come with the course; there are: {known}."
        )
    return read_weights(path)


def read_weights(path):
    """The model in a safetensors file of ours, as `load` returns it. Raises WeightsError for a damaged file or another's."""
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["vit_edu"])
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged, or no weights of this course ({error!r}). Install the package again, or write the file "
            "again with vit-edu ship."
        ) from error
    model = make_model(about["model"], about["shape"], len(about["classes"]))
    kinds = {key: value.dtype for key, value in model.state_dict().items()}
    load_by_name(model, {key: value.to(kinds.get(key)) for key, value in weights.items()})
    card = path.with_suffix(".md")
    model.pretrained_cfg = {
        "classes": tuple(about["classes"]),
        "mean": torch.tensor(about["mean"])[:, None, None],
        "std": torch.tensor(about["std"])[:, None, None],
        "card": card.read_text() if card.exists() else "",
    }
    return model.eval()


def ship(checkpoint, name, images, copy="", hardware="", folder=SHIPPED):
    """Make a run of `training.fit` into weights that `load(name)` finds: NAME.safetensors and its card, NAME.md.

    checkpoint: as for `training.load_run`. images: `Data` to measure on. copy, hardware: sentences for the card. The weights
    are halved (float16) where that costs less than 0.1 points of test accuracy. Returns the card.
    """
    model, state = training.load_run(checkpoint)
    about, recipe = state["data"], training.Recipe(**state["recipe"])
    training.same_classes(about, images)
    truth = images.test.labels.cpu()

    def measure(weights):
        model.cpu().load_state_dict(weights)
        predicted = training.predict_test(model, about, images).argmax(dim=1)
        return (predicted == truth).float().mean().item(), predicted

    whole = {key: value.clone() for key, value in model.state_dict().items()}
    half = {k: v.half() if v.is_floating_point() else v for k, v in whole.items()}
    accuracy, predicted = measure(whole)
    accuracy_half, _ = measure(half)
    kept = half if abs(accuracy - accuracy_half) < 0.001 else whole
    meta = {"model": state["recipe"]["model"]} | {
        k: about[k] for k in ("classes", "shape", "mean", "std")
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.safetensors"
    unfinished = path.with_suffix(".unfinished")
    save_file(kept, unfinished, {"vit_edu": json.dumps(meta)})
    os.replace(unfinished, path)

    table = torch.zeros(len(about["classes"]), len(about["classes"]), dtype=torch.long)
    table.index_put_((truth, predicted), torch.ones_like(truth), accumulate=True)
    width = max(map(len, about["classes"]))
    rows = "\n".join(
        f"{each:{width}} " + " ".join(f"{n:4d}" for n in row)
        for each, row in zip(about["classes"], table.tolist(), strict=True)
    )
    last = state["history"][-1]
    parameters = sum(value.numel() for value in model.parameters())
    error = (accuracy * (1 - accuracy) / len(truth)) ** 0.5
    card = f"""# {name}

{type(model).__name__}, {parameters:,} parameters, {path.stat().st_size:,} bytes, {"float16" if kept is half else "float32"}.

- Test accuracy: {accuracy:.2%} of {len(truth):,} images (standard error {error:.2%}); with halved weights {accuracy_half:.2%}.
- Held-out accuracy at the end: {last["val_accuracy"]:.2%}; mean training loss of the last epoch {last["loss"]:.3f}.
- Data: {copy or about["kind"]}. {recipe.validation:.0%} of the training images were held out; the test images were used once.
- Recipe: {str(recipe).replace(chr(10), " ")}
- Trained in {last["seconds"] / 60:.1f} minutes, {last["epoch"]} epochs. {hardware}
- Known limits: it knows {len(about["classes"])} classes and {about["shape"][1]} x {about["shape"][2]} pixels, and names one of the classes for any picture.

Confusion matrix, true class in rows, answers in columns, both in the order of the rows:

```
{rows}
```
"""
    path.with_suffix(".md").write_text(card)
    return card


def rename_key(key):
    """torchvision's name of a parameter -> ours. Raises WeightsError for a name that is not in the table."""
    number = re.search(r"encoder_layer_(\d+)", key)
    pattern = key.replace(number.group(), "encoder_layer_{i}") if number else key
    if pattern not in TORCHVISION:
        raise WeightsError(
            f"no name of torchvision's ViT: {key!r}. Known are: {', '.join(TORCHVISION)}."
        )
    return TORCHVISION[pattern].replace("{i}", number.group(1) if number else "")


def load_by_name(model, weights):
    """Load a state dict that has our names; the model is changed only when every key and every shape fits.

    Raises WeightsError that lists what is missing, what is not expected and which shapes differ.
    """
    mine = model.state_dict()
    problems = [f"missing: {k}, shape {tuple(mine[k].shape)}" for k in mine if k not in weights]
    problems += [
        f"not expected: {k}, shape {tuple(v.shape)}" for k, v in weights.items() if k not in mine
    ]
    problems += [
        f"{k}: the model has shape {tuple(mine[k].shape)}, the weights have {tuple(v.shape)}"
        for k, v in weights.items()
        if k in mine and v.shape != mine[k].shape
    ]
    if problems:
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise WeightsError(
            "the weights do not fit the model:\n  " + "\n  ".join(problems[:8]) + more
        )
    model.load_state_dict(weights)


def from_torchvision(theirs):
    """Our `ViT` with the weights of a torchvision `VisionTransformer`, in eval mode; the two give equal logits."""
    model = ViT(
        img_size=theirs.image_size,
        patch_size=theirs.patch_size,
        num_classes=theirs.num_classes,
        embed_dim=theirs.hidden_dim,
        depth=len(theirs.encoder.layers),
        num_heads=theirs.encoder.layers[0].num_heads,
        mlp_ratio=theirs.mlp_dim / theirs.hidden_dim,
    )
    load_by_name(model, {rename_key(k): v for k, v in theirs.state_dict().items()})
    return model.eval()


def torchvision_vit(name="vit_b_16"):
    """A torchvision ViT in eval mode, and in words where its weights come from.

    Published ImageNet weights where they are in torch's cache or can be downloaded (checksum verified by
    torchvision), else random ones: the mapping of names can be shown with either. Nothing is downloaded under
    VIT_EDU_FAST=1. Returns (model, has published weights, reason).
    """
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    try:
        if not cached.exists():
            if data.fast():
                raise data.DataError("VIT_EDU_FAST=1 asks for no download.")
            data.require_network(weights.url)
            print(
                f"Downloading {weights} into {cached.parent}. Interrupt to go on with random weights."
            )
        model = models.get_model(name, weights=weights.__class__(weights))
        return model.eval(), True, f"{weights}, from {cached.parent}."
    except (data.DataError, OSError, RuntimeError, KeyboardInterrupt) as error:
        torch.manual_seed(0)
        model = models.get_model(name, weights=None)
        with torch.no_grad():  # torchvision starts the head at zero: then all logits would be equal
            model.heads.head.weight.normal_(std=0.02)
        why = str(error) or "the download was interrupted."
        return model.eval(), False, f"random weights, because {weights} could not be had: {why}"


def resize_pos_embed(pos_embed, new_grid, num_prefix_tokens=1):
    """Position embeddings for another grid of patches, by bicubic interpolation (paper, section 3.2).

    pos_embed: (1, prefix + n*n, D), learned on a square grid. new_grid: (rows, cols). The prefix tokens (the
    class token) have no place on the grid and stay as they are. Returns (1, prefix + rows*cols, D).
    Raises ValueError when the old grid is not square. Same as timm's `resample_abs_pos_embed`.
    """
    prefix, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = int(grid.shape[1] ** 0.5 + 0.5)
    if n * n != grid.shape[1]:
        raise ValueError(
            f"{grid.shape[1]} positions are not a square grid; with {num_prefix_tokens} prefix tokens of "
            f"{pos_embed.shape[1]}. Is num_prefix_tokens right?"
        )
    grid = grid.reshape(1, n, n, -1).permute(0, 3, 1, 2)  # (1, D, n, n)
    grid = F.interpolate(
        grid, size=tuple(new_grid), mode="bicubic", antialias=True, align_corners=False
    )
    return torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)  # (1, prefix + rows*cols, D)
