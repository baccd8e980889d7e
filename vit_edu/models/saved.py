"""A model from the checkpoint of a run: the contents of the file, read safely, and the model that they describe."""

from pathlib import Path

import torch

from vit_edu.models.kinds import make_model, with_kind


class CheckpointError(Exception):
    """A checkpoint does not belong to this run, or cannot be read. The text says what to do."""


def read_checkpoint(path):
    """The contents of a `checkpoint.pt`, on the CPU. No code in the file is run. Raises CheckpointError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"recipe", "data", "model", "optimizer", "history"} - state.keys()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no {path}. Name the folder of a run, or its checkpoint.pt. The models that come with the course "
            "are loaded with `pretrained.load`."
        ) from error
    except OSError as error:
        remedy = " Change its permissions." if isinstance(error, PermissionError) else ""
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).{remedy}") from error
    except MemoryError:  # the file may be sound
        raise
    except Exception as error:  # without its text, in which torch tells how to load an unsafe file anyway
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint. Is it one? It should be the checkpoint.pt of a run. If it is "
            "damaged, remove it to start the run from the beginning."
        ) from error
    if missing:
        raise CheckpointError(
            f"{path} is not a checkpoint of this course: it lacks {', '.join(sorted(missing))}. It should be the "
            "checkpoint.pt of a run."
        )
    # What files of before there were kinds and tasks leave unsaid
    state["recipe"] = {"task": "classification"} | state["recipe"]
    state["recipe"]["model"] = with_kind(state["recipe"]["model"])
    state.setdefault("outputs", len(state["data"]["classes"]))
    return state


def load_run(path):
    """The model of a checkpoint (a file, or the folder of its run), with its best weights: the average if one was kept.

    Returns (the model, in eval mode and on the CPU; the checkpoint's dict, with "recipe", "data" and "history").
    Raises CheckpointError.
    """
    path = Path(path)
    state = read_checkpoint(path / "checkpoint.pt" if path.is_dir() else path)
    try:
        model = make_model(state["recipe"]["model"], state["data"]["shape"], state["outputs"])
        model.load_state_dict(state["average"]["weights"] if state["average"] else state["model"])
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} holds a model that this version of the course cannot build ({str(error).rstrip('.')}). If a newer version "
            "wrote it, update the course."
        ) from error
    return model.eval(), state
