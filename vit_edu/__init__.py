"""vit_edu: the package behind the course. Learners build a Vision Transformer, and this is what they build on.

Its rooms, from top to bottom. Each imports only from the rooms below it; tests/test_floors.py reads this table.

    cli, doctor, lab    the command vit-edu
    authoring           lessons derived from solutions, the course as pages, weights that come with the course
    classroom           the answers in submitted notebooks, the mistakes to expect in a class
    mine                a learner's own right answers, or the course's
    check               how an exercise answers, and the catalogue of exercises
    transfer            few labels: features, neighbours, a probe, fine-tuning
    pretrained          published weights in our models, key by key, without the trainer
    plot                every figure of the lessons
    training            recipes, steps, optimisers, the loop, checkpoints, logs
    selfsupervised      targets that images give by themselves, without labels
    inspect             where a model looks, what it has learned, and what its answers rest on
    models              the models of the course, and the table of their kinds
    augment             images changed at random, for training
    masks, boxes        a class for every pixel, objects in boxes: losses, and how good an answer is
    data                CIFAR-10, folders of images, generated shapes
    settings, atomic    the VIT_EDU_* names and where the course is; files written whole or not at all

Everything is imported on first use, so that `import vit_edu` costs next to nothing.
"""

import importlib
import os

__version__ = "0.2.0.dev0"
__all__ = [
    "boxes",
    "check",
    "data",
    "inspect",
    "masks",
    "mine",
    "models",
    "plot",
    "pretrained",
    "selfsupervised",
    "settings",
    "training",
    "transfer",
]


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f"vit_edu.{name}")
    raise AttributeError(f"module 'vit_edu' has no attribute {name!r}; it has {', '.join(__all__)}")


def _name_the_user_for_torch():
    """Where the user has no name, as in a container that runs under any number, torch fails to name its folder after it."""
    if any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")) or not hasattr(
        os, "getuid"
    ):
        return
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ["LOGNAME"] = f"user{os.getuid()}"


_name_the_user_for_torch()
