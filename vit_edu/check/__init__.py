"""Exercises that answer: `@check.exercise` in a notebook, `check.run(name, candidate)` in a program.

The engine (`engine.py`) knows nothing of Vision Transformers. What each exercise expects stands in one module a
lesson: the reference, the cases, correct alternatives and known mistakes.
"""

import difflib
import importlib

from vit_edu.check.engine import Exercise
from vit_edu.check.report import Check, Report

__all__ = ["Check", "Exercise", "Report", "exercise", "get", "names", "run"]

# Lesson -> the module beside this file that holds its exercises.
LESSONS = {
    "00": "start_here",
    "01": "patches",
    "02": "embeddings",
    "03": "attention",
    "04": "encoder",
    "05": "vit",
    "06": "training",
    "12": "pretrained",
}


def _catalogue():
    """{name: Exercise} over all lessons, in the order of the course."""
    found = {}
    for module in LESSONS.values():
        for each in importlib.import_module(f"vit_edu.check.catalogue.{module}").EXERCISES:
            found[each.name] = each
    return found


def names(lesson=None):
    """The exercises of the course in order, or those of one lesson ("03")."""
    if lesson is None:
        return list(_catalogue())
    if lesson not in LESSONS:
        raise KeyError(f"there is no lesson {lesson!r}; there are {', '.join(LESSONS)}.")
    return [
        e.name
        for e in importlib.import_module(f"vit_edu.check.catalogue.{LESSONS[lesson]}").EXERCISES
    ]


def get(name):
    """The `Exercise` of that name; KeyError with the nearest names where there is none."""
    catalogue = _catalogue()
    if name not in catalogue:
        near = difflib.get_close_matches(name, catalogue, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise KeyError(
            f"there is no exercise called {name!r}.{hint} `check.names()` lists them all."
        )
    return catalogue[name]


def run(name, candidate):
    """Check `candidate` (a function or a class) against the exercise `name`. Returns a `Report`; never raises for
    what the candidate does."""
    return get(name).check(candidate)


def exercise(candidate):
    """Decorator: check the function or class below it at once, show the answer, and hand on something that works.

    A right answer is returned as it is, unwrapped. Anything else is replaced by the reference, and the answer says so.
    The name of the function or class names the exercise; KeyError where there is none of that name.
    """
    target = get(candidate.__name__)
    report = target.check(candidate)
    report.show()
    return candidate if report.passed else target.reference
