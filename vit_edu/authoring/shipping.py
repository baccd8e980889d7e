"""Makes a run into weights that come with the course: a file that describes itself, with its digest and its card."""

import json

import torch
from safetensors.torch import save

from vit_edu import atomic, selfsupervised, training, transfer
from vit_edu.models.saved import CheckpointError, load_run
from vit_edu.pretrained import SHIPPED, files, read_weights

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

ENCODER_CARD = """# {name}

{architecture}, {file}.

- An encoder without a head: it gives features, (B, {width}), and names no classes until a head has been trained. No label was used.
- Linear probe on these features, accuracy on the {count:,} test images, mean of three draws of labelled images:
{probes}
- Mean squared error of the removed patches, with the decoder that is left out here: {held_out:.3f} on held-out images, {error:.3f} on the test images; {error_half}. Naming each patch's mean brightness gives about 1.
- Data: {data}. {validation} of the training images were held out; the test images were used once.
- Recipe: {recipe}
- Trained in {time}
- Known limits: it knows {pixels} pixels. Its features were learned for filling in patches, and nobody has told it what is in a picture.
"""


def ship(checkpoint, name, images, copy="", hardware="", folder=SHIPPED):
    """Make a run of `training.fit` into weights that `pretrained.load(name)` finds: NAME.safetensors and its card, NAME.md.

    Of a run by masked patches, only the encoder is kept. checkpoint: as for `load_run`. images: `Data` to measure on. copy,
    hardware: sentences for the card. The weights are stored in half precision (float16) if that changes the test accuracy by
    less than 0.1 points, or the error of removed patches by less than 0.001. Returns the card.
    Raises CheckpointError for a checkpoint that cannot be read, has other classes than `images`, or learned another task.
    """
    model, state = load_run(checkpoint)
    about = state["data"]
    training.same_classes(about, images)
    if state["recipe"]["task"] not in ("classification", "masked"):
        raise CheckpointError(
            f"{checkpoint} learned {state['recipe']['task']}; only classifiers and encoders of masked patches can be shipped."
        )
    try:
        recipe = training.Recipe.from_dict(state["recipe"])
    except ValueError as error:
        raise CheckpointError(f"{checkpoint} cannot be shipped: {error}") from error
    path = folder / f"{name}.safetensors"
    if recipe.task == "masked":
        words = _ship_encoder(path, model, state, recipe, images)
    else:
        words = _ship_classifier(path, model, state, recipe, images)
    last = state["history"][-1]
    card = (ENCODER_CARD if recipe.task == "masked" else CARD).format(
        name=name,
        data=copy or about["kind"],
        validation=f"{recipe.validation:.0%}",
        recipe=str(recipe).replace("\n", " "),
        time=f"{last['seconds'] / 60:.1f} minutes, {last['epoch']} epochs. {hardware}",
        pixels=f"{about['shape'][1]} x {about['shape'][2]}",
        **words,
    )
    atomic.write(path.with_suffix(".md"), card)
    return card


def _ship_classifier(path, model, state, recipe, images):
    """Write the weights of a classifier. Returns what its card says about them, a dict."""
    about = state["data"]
    full, half = _precisions(model)
    accuracy, predicted = _measure(model, full, about, images)
    accuracy_half, _ = _measure(model, half, about, images)
    is_half = abs(accuracy - accuracy_half) < 0.001
    _write(path, half if is_half else full, recipe.model, about)
    truth, last = images.test.labels.cpu(), state["history"][-1]
    held_out = max(1, int(len(images.train) * recipe.validation))
    return {
        "architecture": _architecture(model),
        "file": _file(path, is_half),
        "accuracy": _share(accuracy, len(truth)),
        "accuracy_half": f"{_stored(is_half)}: {accuracy_half:.2%}",
        "held_out": _share(last["val_accuracy"], held_out),
        "loss": f"{last['loss']:.3f}",
        "classes": len(about["classes"]),
        "confusion": _confusion(truth, predicted, about["classes"]),
    }


def _ship_encoder(path, model, state, recipe, images):
    """Write the weights of the encoder of a run by masked patches. Returns what its card says about them, a dict."""
    encoder, arguments = selfsupervised.encoder_of(model, recipe.model, state["data"]["shape"])
    full, half = _precisions(encoder)
    _, error = training.score_test(model, state, images)
    model.encoder.load_state_dict(half)
    task, error_half = training.score_test(model, state, images)
    is_half = abs(error - error_half) < 0.001
    _write(path, half if is_half else full, arguments, state["data"] | {"classes": []})
    shipped = read_weights(path)
    return {
        "architecture": _architecture(shipped),
        "file": _file(path, is_half),
        "width": recipe.model["embed_dim"],
        "count": len(images.test),
        "probes": _probes(shipped, images),
        "held_out": state["history"][-1][task.key],
        "error": error,
        "error_half": f"{_stored(is_half)}: {error_half:.3f}",
    }


def _precisions(model):
    """The weights of a model as they are, and in half precision (float16)."""
    full = {
        key: value.clone(memory_format=torch.contiguous_format) for key, value in model.state_dict().items()
    }
    return full, {k: v.half() if v.is_floating_point() else v for k, v in full.items()}


def _write(path, weights, arguments, about):
    """Write a file that `read_weights` reads, and its digest. arguments: of the model, as for `make_model`."""
    meta = {"model": arguments} | {k: about[k] for k in ("classes", "shape", "mean", "std")}
    atomic.write(path, save(weights, {"vit_edu": json.dumps(meta)}))
    files.write_digest(path)


def _architecture(model):
    return f"{type(model).__name__}, {sum(value.numel() for value in model.parameters()):,} parameters"


def _file(path, is_half):
    return f"{path.stat().st_size:,} bytes, {'float16' if is_half else 'float32'}"


def _stored(is_half):
    return f"{'stored' if is_half else 'it would be'} in half precision (float16)"


def _probes(encoder, images, draws=(0, 1, 2)):
    """Lines of a card: how a linear probe does with 1 % and 10 % of the labels, beside the same encoder untrained."""
    K, fewest = len(images.classes), images.train.labels.bincount().min().item()
    untrained = transfer.from_scratch(encoder, 0)
    lines = []
    for share in (0.01, 0.1):
        per_class = max(1, min(fewest, round(share * len(images.train) / K)))
        means = [_probe(each, images, per_class, draws) for each in (encoder, untrained)]
        lines.append(
            f"  - {per_class} of each class: {means[0]:.1%}; the same encoder untrained: {means[1]:.1%}"
        )
    return "\n".join(lines)


def _probe(encoder, images, per_class, draws):
    """The accuracy of a linear probe on the test images, mean over these draws of labelled images."""
    test = transfer.features(encoder, images.test.images)
    found = []
    for seed in draws:
        labelled = transfer.few(images.train, per_class, seed)
        features = transfer.features(encoder, labelled.images)
        head = transfer.linear_probe(features, labelled.labels, len(images.classes))
        found.append(training.accuracy(head(test), images.test.labels))
    return sum(found) / len(found)


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
