"""Weights of our own: a run becomes a file that says what it is, with a card."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from vit_edu import training
from vit_edu.atomic import write_whole
from vit_edu.models import make_model
from vit_edu.pretrained import files
from vit_edu.pretrained.conversion import load_by_name
from vit_edu.pretrained.names import WeightsError

# NAME.safetensors, its digest and NAME.md, its card
SHIPPED = Path(__file__).parents[1] / "weights"


def read_weights(path):
    """The model in a safetensors file of ours, as `load` returns it. Raises WeightsError for a damaged file or another's."""
    path = Path(path)
    files.require_digest(path)
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
    model.pretrained_cfg = about_data(about) | {"model": about["model"]}
    model.pretrained_cfg["card"] = card.read_text() if card.exists() else ""
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

    whole = {
        key: value.clone(memory_format=torch.contiguous_format) for key, value in model.state_dict().items()
    }
    half = {k: v.half() if v.is_floating_point() else v for k, v in whole.items()}
    accuracy, predicted = measure(whole)
    accuracy_half, _ = measure(half)
    kept = half if abs(accuracy - accuracy_half) < 0.001 else whole
    meta = {"model": state["recipe"]["model"]} | {k: about[k] for k in ("classes", "shape", "mean", "std")}
    path = folder / f"{name}.safetensors"
    write_whole(path, save(kept, {"vit_edu": json.dumps(meta)}))
    files.write_digest(path)

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
    write_whole(path.with_suffix(".md"), card)
    return card
