"""Short training runs, for tests of several tasks."""

import pytest
import torch

from vit_edu import training


def train(images, recipe, out=None, **options):
    """(the trained model, its history)."""
    model = training.build_model(recipe, images)
    return model, training.fit(model, images, recipe, out=out, **options)


class Killed(Exception):
    """Ends a run after an epoch, as if somebody had killed it."""


def require_resumes(images, recipe, folder):
    """A run that was killed ends like one that was not. The folder has its checkpoint. Returns (the trained model, its history)."""
    whole, history = train(images, recipe)

    def die(history):
        raise Killed

    with pytest.raises(Killed):
        train(images, recipe, folder, on_epoch=die)
    resumed, again = train(images, recipe, folder)
    assert [entry["loss"] for entry in again] == [entry["loss"] for entry in history]
    assert all(map(torch.equal, resumed.state_dict().values(), whole.state_dict().values()))
    return whole, history
