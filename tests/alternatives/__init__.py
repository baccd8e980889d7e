"""Right answers written in other ways: each of them must pass every check of its exercise.

One module per lesson, named like that of the catalogue.
"""

import importlib

from vit_edu import check
from vit_edu.check import texts

_found = {}  # exercise -> its alternatives


def alternative(exercise):
    """Decorator: the function or class below it is a right answer to this exercise."""

    def add(build):
        _found.setdefault(exercise, []).append(build)
        return build

    return add


def of(exercise):
    """The alternatives for an exercise, in the order of their module."""
    importlib.import_module(f"alternatives.{check.LESSONS[texts.exercises()[exercise]]}")
    return _found.get(exercise, [])
