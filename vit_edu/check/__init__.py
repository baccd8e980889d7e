"""Exercises that answer: `@check.exercise` in a notebook, `check.run(name, candidate)` in a program.

The engine (`engine.py` and its neighbours) knows nothing of Vision Transformers. What each exercise expects is in
`catalogue/`, one module per lesson: the reference, the cases and the known mistakes. What is said about it is in `text/`.
"""

import difflib
import html
import importlib

from vit_edu import settings
from vit_edu.check import after as _after
from vit_edu.check import keep as _keep
from vit_edu.check import record as _record
from vit_edu.check import session as _session
from vit_edu.check import texts
from vit_edu.check.engine import Exercise
from vit_edu.check.language import N_, _
from vit_edu.check.report import RIGHT, Check, Report, frame, inline
from vit_edu.check.session import points

__all__ = [
    "Check",
    "Exercise",
    "Report",
    "exercise",
    "get",
    "hint",
    "names",
    "points",
    "progress",
    "run",
]

# Number of a lesson -> its name, which is also the name of the module in catalogue/ with its exercises.
LESSONS = texts.lessons()


def names(lesson=None):
    """The names of all exercises in the order of the course, or of one lesson ("03"). KeyError for an unknown lesson."""
    if lesson is not None and lesson not in LESSONS:
        raise KeyError(
            _("there is no lesson {lesson}; the lessons are {lessons}.").format(
                lesson=repr(lesson), lessons=", ".join(LESSONS)
            )
        )
    return [name for name, number in texts.exercises().items() if lesson in (None, number)]


def get(name):
    """The `Exercise` of that name; only its own lesson is loaded. KeyError, with similar names, if there is none."""
    lessons = texts.exercises()
    if name not in lessons:
        near = difflib.get_close_matches(str(name), lessons, n=3)
        meant = _(" Did you mean {names}?").format(names=_(" or ").join(near)) if near else ""
        raise KeyError(
            _("there is no exercise called {name}.{meant} `check.names()` lists them all.").format(
                name=repr(name), meant=meant
            )
        )
    return of_lesson(lessons[name])[name]


def of_lesson(lesson):
    """{name: Exercise} of the lesson with this number, in the order of its module in catalogue/."""
    module = importlib.import_module(f"vit_edu.check.catalogue.{LESSONS[lesson]}")
    return {e.name: e for e in vars(module).values() if isinstance(e, Exercise)}


def run(name, candidate):
    """Check `candidate` (a function or a class) against the exercise `name` and return a `Report`.

    Whatever the candidate does, nothing is raised. The reference itself passes, and `.note` and `.is_reference` say that it
    is the reference. KeyError if there is no such exercise.
    """
    return get(name).check(candidate)


def exercise(candidate):
    """Decorator that checks the function or class below it at once, shows the report, and hands on something that works.

    A right answer is returned unchanged and unwrapped, and is kept for `vit_edu.mine`. Anything else is replaced by the reference, and the report says so.
    The name of the function or class is the name of the exercise. KeyError if there is no exercise of that name, TypeError
    for something that has no name.
    """
    name = getattr(candidate, "__name__", None)
    if not isinstance(name, str):
        raise TypeError(
            _(
                "@check.exercise belongs directly above a `def` or a `class`; here it got an object of type {type}."
            ).format(type=type(candidate).__name__)
        )
    target = get(name)
    report = target.check(candidate)
    _record.add(report)
    _session.remember(report, candidate, target.reference)
    report.note = "\n".join(filter(None, [report.note, _keep.add(report, candidate)]))
    if report.passed and not report.is_reference:
        report.after = _after.page(name, candidate, target.reference)
    report.show()
    return candidate if report.passed else target.reference


# ---------------------------------------------------------------- hints and progress

_given = {}  # exercise -> the number of hints given in this session


class Hint:
    """Up to three hints for one exercise, which a notebook shows as a list; `.text` has them as plain text."""

    STEPS = (N_("A nudge"), N_("The idea"), N_("The shape of the code"))

    def __init__(self, name, hints, more):
        self.name, self.hints, self.more = name, hints, more

    @property
    def closing(self):
        return self._closing.format(notebook=f"solutions/{_after.notebook(self.name)}")

    @property
    def _closing(self):
        if self.more:
            return _("Ask again for the next hint.")
        return _("That was the last hint. The answer itself is in {notebook}.")

    @property
    def _steps(self):
        return [(_(step), words) for step, words in zip(self.STEPS, self.hints, strict=False)]

    @property
    def text(self):
        return "\n\n".join([self.name, *(f"{step}: {words}" for step, words in self._steps), self.closing])

    def __repr__(self):
        return self.text

    def _repr_mimebundle_(self, include=None, exclude=None):
        items = "".join(
            f"<li><strong>{step}.</strong> <span style='white-space:pre-wrap'>{inline(words)}</span></li>"
            for step, words in self._steps
        )
        closing = html.escape(self._closing).format(notebook=_after.solutions_link(self.name))
        page = f"<p style='margin:0'><strong>{self.name}</strong></p><ol>{items}</ol><p style='margin:0'>{closing}</p>"
        return {"text/plain": self.text, "text/html": frame(page, "#1565c0")}


def hint(name, step=None):
    """A hint for an exercise: first a nudge, the next time the idea, then the shape of the code, but never the answer.

    step: 1, 2 or 3 for the hints up to that one. KeyError if there is no such exercise, ValueError for any other step.
    """
    hints = get(name).hints
    if step is None:
        step = min(_given.get(name, 0) + 1, len(hints))
    if step not in range(1, len(hints) + 1):
        raise ValueError(
            _("step must be from 1 to {last}, or left out for the next hint; got {step}.").format(
                last=len(hints), step=repr(step)
            )
        )
    _given[name] = step
    return Hint(name, hints[:step], more=step < len(hints))


def progress():
    """What has been solved so far in all lessons, as a table and a picture in a notebook and as text elsewhere."""
    entries, remark = _record.load()
    if not remark and settings.progress_file() is None:
        remark = _("Progress is not kept, because VIT_EDU_PROGRESS is off.")
    remark = remark or _record.unwritable()

    def state(name):
        entry = entries.get(name)
        if not entry:
            return _record.OPEN, 0
        return RIGHT if entry["right"] else _record.TRIED, entry["tries"]

    lessons = {
        f"{lesson} {_(module.replace('_', ' '))}": {n: state(n) for n in names(lesson)}
        for lesson, module in LESSONS.items()
    }
    return _record.Progress(lessons, remark)
