"""A model out of a run's checkpoint: what stands in the file, read safely, and the model that it describes."""

from pathlib import Path

import torch

from vit_edu.models.kinds import make_model, with_kind


class CheckpointError(Exception):
    """A checkpoint does not belong to this run or cannot be read; the text says what to do."""


def read_checkpoint(path):
    """The contents of a `checkpoint.pt`, on the CPU; no code in it is run. Raises CheckpointError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"recipe", "data", "model", "optimizer", "history"} - state.keys()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no {path}. Name the folder of a run, or its checkpoint.pt; the models that come with the course "
            "are loaded by `pretrained.load`."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # not its text: of an unsafe file, torch says how to load it all the same
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint. Is it one? It should be the checkpoint.pt of a run. If it is "
            "damaged, remove it to start the run anew."
        ) from error
    if missing:
        raise CheckpointError(
            f"{path} is not a checkpoint of ours: it lacks {', '.join(sorted(missing))}. It should be the checkpoint.pt of "
            "a run."
        )
    state["recipe"]["model"] = with_kind(state["recipe"]["model"])
    return state


def load_run(path):
    """The model of a checkpoint (a file, or the folder of its run), with its best weights: the average where one was kept.

    Returns (model in eval mode, on the CPU; the checkpoint's dict, with "recipe", "data" and "history").
    Raises CheckpointError.
    """
    path = Path(path)
    state = read_checkpoint(path / "checkpoint.pt" if path.is_dir() else path)
    data = state["data"]
    model = make_model(state["recipe"]["model"], data["shape"], len(data["classes"]))
    model.load_state_dict(state["average"]["weights"] if state["average"] else state["model"])
    return model.eval(), state
