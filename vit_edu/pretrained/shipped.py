"""The weights that come with the course, and other files of the same format. Each file says which model it holds."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from vit_edu.models.kinds import make_model, with_kind
from vit_edu.pretrained import files
from vit_edu.pretrained.conversion import load_by_name
from vit_edu.pretrained.names import WeightsError

# NAME.safetensors, its digest and NAME.md, its card
SHIPPED = Path(__file__).parents[1] / "weights"
NO_HEAD = (
    "It was trained without labels and has no head: it gives features, (B, D). transfer.new_head(model, num_classes) adds "
    "a head, which has to be trained."
)


def read_weights(path):
    """The model in a safetensors file of ours, as `load` returns it.

    Raises WeightsError for a file that is damaged, is not one of ours, or holds a model that this version does not know.
    """
    path = Path(path)
    files.require_readable(path)
    files.require_digest(path)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["vit_edu"])
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged, or does not hold weights of this course ({error!r}). Install the package again, or write the file "
            "again with vit-edu ship."
        ) from error
    arguments = with_kind(about["model"])
    try:
        model = make_model(arguments, about["shape"], len(about["classes"]))
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{path} holds a model that this version of the course cannot build ({str(error).rstrip('.')}). If a newer "
            "version wrote it, update the course."
        ) from error
    kinds = {key: value.dtype for key, value in model.state_dict().items()}
    load_by_name(model, {key: value.to(kinds.get(key)) for key, value in weights.items()})
    card = path.with_suffix(".md")
    model.pretrained_cfg = about_data(about) | {"model": arguments}
    model.pretrained_cfg["card"] = card.read_text(encoding="utf-8") if card.exists() else ""
    if not about["classes"]:
        model.pretrained_cfg["notes"].append(NO_HEAD)
    return model.eval()


def about_data(about):
    """What a run or a file of ours says about its data -> entries of `pretrained_cfg`."""
    C, H, W = about["shape"]
    return {
        "classes": tuple(about["classes"]),
        "mean": torch.tensor(about["mean"])[:, None, None],
        "std": torch.tensor(about["std"])[:, None, None],
        "input_size": (C, H, W),
        "resize": min(H, W),
        "interpolation": "bicubic",
        "card": "",
        "notes": [],
    }
