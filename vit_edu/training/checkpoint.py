"""A run and its checkpoint: the object holds what the file holds."""

import dataclasses
import functools
import hashlib
import json
import os
import unicodedata
import weakref
from pathlib import Path

import torch

from vit_edu import atomic
from vit_edu.models.kinds import with_kind
from vit_edu.models.saved import CheckpointError, read_checkpoint
from vit_edu.training import parallel
from vit_edu.training.optim import Average, make_optimizer
from vit_edu.training.tasks import make_task


class Run:
    """A training run between two steps: model, task, optimiser, average, order of the images, random numbers, history.

    `save` writes all of it into a folder and `resume` restores it, so that the run ends with the same weights as one that was
    never stopped. model: on the device where it trains. recipe: a `Recipe`. data: a `Data`, on the same device.
    """

    def __init__(self, model, recipe, data):
        self.model, self.recipe = model, recipe
        self.task = make_task(recipe, data)
        self.data = data
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, recipe)
        self.average = Average(model, recipe.average) if recipe.average else None
        self.order = torch.Generator().manual_seed(recipe.seed)  # so that nothing else changes the order
        self.history = []

    @functools.cached_property
    def about(self):
        """What a checkpoint says about the data."""
        return _about(self.data)

    @property
    def judged(self):
        """The model that is evaluated and kept: the average where there is one."""
        return self.average.model if self.average else self.model

    def save(self, folder):
        """Write `checkpoint.pt` and `history.jsonl` into the folder, each whole or not at all. Raises CheckpointError."""
        folder = Path(folder)
        average = self.average and {
            "weights": self.average.model.state_dict(),
            "steps": self.average.steps,
        }
        state = {
            "recipe": dataclasses.asdict(self.recipe),
            "data": self.about,
            "outputs": self.task.outputs,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": average,
            "history": self.history,
            "order": self.order.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [],
        }
        # The history comes first. If the run is killed in between, it has one epoch too many, which is then repeated
        try:
            atomic.write(
                folder / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in self.history)
            )
            atomic.write(folder / "checkpoint.pt", lambda file: torch.save(state, file))
        except (OSError, RuntimeError) as error:  # torch has a RuntimeError for a file that it cannot write
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise CheckpointError(
                f"the checkpoint in {folder} cannot be written ({reason}). One from an earlier epoch is still whole. When "
                "there is room and permission to write, the same call continues from it."
            ) from error

    def resume(self, folder):
        """Make the folder this run's own, and restore everything from the checkpoint in it, if there is one.

        The folder belongs to this run, and to no other process, as long as the object lives. All ranks call this together.
        Raises CheckpointError if the folder cannot be written to or another process trains there, and if the checkpoint is
        damaged, or belongs to another recipe, other images or another model.
        """
        ranks = parallel.current()
        problem = ranks.from_first(_claim(self, Path(folder)) if ranks.first else "")
        if problem:
            raise CheckpointError(problem)
        path = Path(folder) / "checkpoint.pt"
        if not path.exists():
            return
        state = read_checkpoint(path)
        _require_same_recipe(path, state["recipe"], self.recipe)
        _require_same_data(path, state["data"], self.about)
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise CheckpointError(f"{path} holds another model: {error}") from error
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.model.load_state_dict(state["average"]["weights"])
            self.average.steps = state["average"]["steps"]
        self.order.set_state(state["order"])
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and state["cuda_rng"]:
            torch.cuda.set_rng_state(state["cuda_rng"][0], self.device)
        self.history = state["history"]


_claimed = {}  # (process, folder) -> (the lock, a mark of the run that has it)


def _claim(run, folder):
    """Lock the folder for as long as `run` lives. Returns "", or why that is impossible and what to do.

    A later run of the same process may have the folder as well: the one before has ended, even where a traceback in a
    notebook keeps its objects.
    """
    key, mark = (os.getpid(), os.path.realpath(folder)), object()
    try:
        lock = _claimed[key][0] if key in _claimed else atomic.lock(folder / ".lock")
    except OSError as error:
        return (
            f"the run folder {folder} cannot be written to ({error.strerror or error}). Choose another folder, or change what "
            "is in the way."
        )
    if lock is None:
        return f"another process is training in {folder} just now. Choose another folder, or wait until that run has ended."
    _claimed[key] = lock, mark
    weakref.finalize(run, _let_go, key, mark)
    return ""


def _let_go(key, mark):
    """Release a lock, unless a later run has it now, or this is a fork of the process that took it."""
    if key[0] == os.getpid() and key in _claimed and _claimed[key][1] is mark:
        _claimed.pop(key)[0].release()


def _about(data):
    """What a checkpoint says about its data."""
    return {
        "kind": data.kind,
        "classes": list(data.classes),
        "shape": list(data.train.images.shape[1:]),
        "mean": data.mean.flatten().tolist(),
        "std": data.std.flatten().tolist(),
        "count": len(data.train),
        "digest": _digest(data.train),
    }


def _digest(split):
    """A digest of the images of a split, with their labels and targets, in their order: what decides which are held out."""
    digest = hashlib.blake2b(digest_size=16)
    for name, values in sorted({"images": split.images, "labels": split.labels, **split.targets}.items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        for part in values.split(4096):  # a copy of a part, where they are on a GPU
            digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _require_same_recipe(path, saved, recipe):
    try:
        theirs = dataclasses.asdict(type(recipe).from_dict(saved))
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be continued: {error}") from error
    mine = dataclasses.asdict(recipe) | {"model": with_kind(recipe.model)}
    differ = [name for name in mine if mine[name] != theirs[name]]
    if differ:
        detail = "; ".join(f"{name} was {theirs[name]} and is now {mine[name]}" for name in differ)
        raise CheckpointError(
            f"{path} belongs to another recipe: {detail}. Choose another folder, or remove the file."
        )


def _require_same_data(path, saved, about):
    same = (
        all(about[k] == saved[k] for k in ("kind", "shape"))
        and _in_one_form(about["classes"]) == _in_one_form(saved["classes"])
        and all(
            torch.allclose(torch.tensor(about[k]), torch.tensor(saved[k]), atol=1e-4) for k in ("mean", "std")
        )
    )
    if not same:
        was, now = (f"{a['kind']} ({len(a['classes'])} classes, mean {a['mean']})" for a in (saved, about))
        raise _other_images(path, f"They were {was}, and now they are {now}.")
    if saved.get("digest", about["digest"]) != about["digest"]:  # checkpoints once had none
        was, now = saved["count"], about["count"]
        if was != now:
            raise _other_images(path, f"There were {was:,} training images, and now there are {now:,}.")
        raise _other_images(
            path, f"There are {now:,} as before, but some of them, or their labels or order, have changed."
        )


def _other_images(path, difference):
    return CheckpointError(
        f"{path} was trained on other images. {difference} Name the data of that run, or choose another folder."
    )


def _in_one_form(names):
    return [unicodedata.normalize("NFC", name) for name in names]
