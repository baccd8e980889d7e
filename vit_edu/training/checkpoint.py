"""A run and its checkpoint: the object holds what the file holds."""

import dataclasses
import json
from pathlib import Path

import torch

from vit_edu import atomic
from vit_edu.models.kinds import with_kind
from vit_edu.models.saved import CheckpointError, read_checkpoint
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
        self.about = _about(data)
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, recipe)
        self.average = Average(model, recipe.average) if recipe.average else None
        self.order = torch.Generator().manual_seed(recipe.seed)  # so that nothing else changes the order
        self.history = []

    @property
    def judged(self):
        """The model that is evaluated and kept: the average where there is one."""
        return self.average.model if self.average else self.model

    def save(self, folder):
        """Write `checkpoint.pt` and `history.jsonl` into the folder, each whole or not at all."""
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
        atomic.write(folder / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in self.history))
        atomic.write(folder / "checkpoint.pt", lambda file: torch.save(state, file))

    def resume(self, folder):
        """Restore everything from the checkpoint in the folder. Without a checkpoint, nothing happens.

        Raises CheckpointError if it is damaged, or belongs to another recipe, other images or another model.
        """
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


def require_writable(folder):
    """Make the folder where need be. CheckpointError where no file can be made in it: better said before training than after."""
    try:
        atomic.require_writable(folder)
    except OSError as error:
        raise CheckpointError(
            f"no checkpoint can be written into {folder} ({error.strerror}). Choose another folder."
        ) from error


def _about(data):
    """What a checkpoint says about its data."""
    return {
        "kind": data.kind,
        "classes": list(data.classes),
        "shape": list(data.train.images.shape[1:]),
        "mean": data.mean.flatten().tolist(),
        "std": data.std.flatten().tolist(),
    }


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
    same = all(about[k] == saved[k] for k in ("kind", "classes", "shape")) and all(
        torch.allclose(torch.tensor(about[k]), torch.tensor(saved[k]), atol=1e-4) for k in ("mean", "std")
    )
    if not same:
        was, now = (f"{a['kind']} ({len(a['classes'])} classes, mean {a['mean']})" for a in (saved, about))
        raise CheckpointError(
            f"{path} was trained on other images. They were {was}, and now they are {now}. Name the data of that run, or "
            "choose another folder."
        )
