"""Makes a run into weights that come with the course: a file that describes itself, with its digest and its card."""

import json

import torch
from safetensors.torch import save

from vit_edu import atomic, training
from vit_edu.models.saved import CheckpointError, load_run
from vit_edu.pretrained import SHIPPED, files

CARD = """# {name}

{architecture}, {file}.

- Test accuracy: {accuracy}; {accuracy_half}.
- Held-out accuracy at the end: {held_out}; mean training loss of the last epoch {loss}.
- Data: {data}. {validation} of the training images were held out; the test images were used once.
- Recipe: {recipe}
- Trained in {time}
- Known limits: it knows {classes} classes and {pixels} pixels, and names one of the classes for any picture.

Confusion matrix, true class in rows, answers in columns, both in the order of the rows:

```
{confusion}
```
"""


def ship(checkpoint, name, images, copy="", hardware="", folder=SHIPPED):
    """Make a run of `training.fit` into weights that `pretrained.load(name)` finds: NAME.safetensors and its card, NAME.md.

    checkpoint: as for `load_run`. images: `Data` to measure on. copy, hardware: sentences for the card. The weights are stored
    in half precision (float16) if that changes the test accuracy by less than 0.1 points. Returns the card.
    Raises CheckpointError for a checkpoint that cannot be read, has other classes than `images`, or is no classifier's.
    """
    model, state = load_run(checkpoint)
    about = state["data"]
    training.same_classes(about, images)
    if state["recipe"]["task"] != "classification":
        raise CheckpointError(
            f"{checkpoint} learned {state['recipe']['task']}; only classifiers can be shipped."
        )
    try:
        recipe = training.Recipe.from_dict(state["recipe"])
    except ValueError as error:
        raise CheckpointError(f"{checkpoint} cannot be shipped: {error}") from error
    full = {
        key: value.clone(memory_format=torch.contiguous_format) for key, value in model.state_dict().items()
    }
    half = {k: v.half() if v.is_floating_point() else v for k, v in full.items()}
    accuracy, predicted = _measure(model, full, about, images)
    accuracy_half, _ = _measure(model, half, about, images)
    kept = half if abs(accuracy - accuracy_half) < 0.001 else full
    meta = {"model": state["recipe"]["model"]} | {k: about[k] for k in ("classes", "shape", "mean", "std")}
    path = folder / f"{name}.safetensors"
    atomic.write(path, save(kept, {"vit_edu": json.dumps(meta)}))
    files.write_digest(path)

    truth, last = images.test.labels.cpu(), state["history"][-1]
    parameters = sum(value.numel() for value in model.parameters())
    held_out = max(1, int(len(images.train) * recipe.validation))
    words = (
        "stored in half precision (float16)" if kept is half else "it would be in half precision (float16)"
    )
    card = CARD.format(
        name=name,
        architecture=f"{type(model).__name__}, {parameters:,} parameters",
        file=f"{path.stat().st_size:,} bytes, {'float16' if kept is half else 'float32'}",
        accuracy=_share(accuracy, len(truth)),
        accuracy_half=f"{words}: {accuracy_half:.2%}",
        held_out=_share(last["val_accuracy"], held_out),
        loss=f"{last['loss']:.3f}",
        data=copy or about["kind"],
        validation=f"{recipe.validation:.0%}",
        recipe=str(recipe).replace("\n", " "),
        time=f"{last['seconds'] / 60:.1f} minutes, {last['epoch']} epochs. {hardware}",
        classes=len(about["classes"]),
        pixels=f"{about['shape'][1]} x {about['shape'][2]}",
        confusion=_confusion(truth, predicted, about["classes"]),
    )
    atomic.write(path.with_suffix(".md"), card)
    return card


def _share(right, count):
    """A share of `count` images in words, with its standard error."""
    return f"{right:.2%} of {count:,} images (standard error {(right * (1 - right) / count) ** 0.5:.2%})"


def _measure(model, weights, about, images):
    """Accuracy on the test images with these weights, and the classes (N,) that were predicted."""
    model.cpu().load_state_dict(weights)
    predicted = training.predict_test(model, about, images).argmax(dim=1)
    return (predicted == images.test.labels.cpu()).float().mean().item(), predicted


def _confusion(truth, predicted, classes):
    """A row of text for each class: its name, and how many of its images were taken for each class."""
    K, width = len(classes), max(map(len, classes))
    table = torch.bincount(truth * K + predicted, minlength=K * K).reshape(K, K)
    return "\n".join(
        f"{each:{width}} " + " ".join(f"{n:4d}" for n in row)
        for each, row in zip(classes, table.tolist(), strict=True)
    )
