"""The exercise engine: runs a candidate through cases, compares it with the reference and with known mistakes.

It knows nothing of what is being taught. An `Exercise` has

    reference     the answer that is handed on when a learner has none yet
    cases         each a function of the candidate that returns something to compare: a tensor, a number, a text
    mistakes      known wrong answers, each with a diagnosis; a candidate that behaves like one is told so
    hints         three of them: a nudge, the idea, the shape of the code

The words, diagnoses and hints, are not here: see `texts`.

Reference, mistakes and candidate go through the same cases with the same inputs and the same random seed. Whatever a
candidate raises, prints or changes stays inside.
"""

import traceback
from dataclasses import dataclass, replace

from vit_edu.check import guard, texts
from vit_edu.check.cases import NoLayout, Subject, Unfair
from vit_edu.check.compare import NO_LAYOUT, TOO_SLOW, UNWRITTEN, Failure, compare, worked
from vit_edu.check.report import (
    CRASHED,
    EMPTY,
    RIGHT,
    SLOW,
    STOPPED,
    UNCHECKED,
    WRONG,
    Check,
    Report,
)

TIME_LIMIT = 10.0  # seconds for all cases of one candidate; right answers take a small part of one

NOT_COMPARED = "not compared: its parameters cannot be given the same weights as ours"


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer to an exercise. build: the wrong code itself."""

    exercise: str
    name: str
    build: callable

    @property
    def diagnosis(self):
        """One or two sentences for the learner."""
        return texts.mistake(self.exercise, self.name)[0]

    @property
    def talk(self):
        """For a teacher: a question or a demonstration that brings the point home."""
        return texts.mistake(self.exercise, self.name)[1]


def variant(base, **members):
    """A class like `base`, except for these methods and attributes: `variant(BaseViT, eps=1e-5)`."""
    return type(base)(base.__name__, (base,), members)


class Exercise:
    """One exercise: see the module's text.

    name: the reference's own where it is left out; hints and mistakes are found by it. views: for modules, see
    `layouts.layouts`.
    """

    def __init__(self, reference, *cases, name=None, views=()):
        self.name = name or reference.__name__
        self.reference = reference
        self.cases = cases
        self.views = views
        self._wrong = {}  # name of a mistake -> its code
        self._observed = {}

    @property
    def hints(self):
        return texts.hints(self.name)

    @property
    def mistakes(self):
        """The known mistakes as a list of `Mistake`, in the order of the text: the first that fits is the diagnosis.

        TextError where the text has no section for one of them, or a section for none of them.
        """
        names = texts.mistakes(self.name, self._wrong) if self._wrong else []
        return [Mistake(self.name, name, self._wrong[name]) for name in names]

    def mistake(self, build):
        """Decorator: the function or class below it is a known mistake, named like its section in the text."""
        self.add_mistakes(**{build.__name__: build})
        return build

    def add_mistakes(self, **builds):
        """Add known mistakes as a table, name=code: for those whose code is a single expression."""
        for name, build in builds.items():
            if name in self._wrong:
                raise ValueError(f"{self.name} has two mistakes called {name}.")
            self._wrong[name] = build

    def check(self, candidate):
        """Run all cases and return a `Report`. Never raises for what the candidate does."""
        # First, because the candidate may break what the reference needs.
        expected, problem = self._of(self.reference)
        if problem:
            return Report(self.name, UNCHECKED, [Check("the reference runs", False, problem)])
        got, printed, layout, sure = self._observe_all(candidate)
        if all(isinstance(g, Failure) and g.kind == UNWRITTEN for g in got):
            return Report(self.name, EMPTY, hints=True)
        checks = [
            Check(c.name, *compare(c, e, g), _rank(c, g))
            for c, e, g in zip(self.cases, expected, got, strict=True)
        ]
        both = list(zip(self.cases, checks, strict=True))
        if not all(c.passed for case, c in both if case.kind != "property"):
            checks = [
                replace(c, message=c.message.removesuffix(f"\n{case.hint}")) if case.kind == "property" else c
                for case, c in both
            ]
        note = ""
        if layout:
            checks, note = self._with_layout(checks, layout)
            got = [
                e if case.kind == "parameters" else g
                for case, e, g in zip(self.cases, expected, got, strict=True)
            ]
        report = Report(self.name, RIGHT, checks, note=note, printed=printed)
        if all(c.passed for c in checks):
            return report
        kinds = [g.kind if isinstance(g, Failure) else "" for g in got]
        stopped = any(isinstance(g, Failure) and g == BY_HAND for g in got)
        report.status = (
            STOPPED if stopped else SLOW if TOO_SLOW in kinds else CRASHED if all(kinds) else WRONG
        )
        report.hints, report.note = True, ""
        report.diagnosis = self._diagnose(got, checks)
        if layout and (sure or report.diagnosis):
            checks = [
                replace(c, passed=True, message="") if case.kind == "parameters" else c
                for case, c in zip(self.cases, checks, strict=True)
            ]
        report.checks = checks if sure else self._not_compared(checks, got, report.diagnosis)
        report.worked = worked(
            (case, e, g)
            for case, c, e, g in zip(self.cases, report.checks, expected, got, strict=True)
            if not c.passed and NOT_COMPARED not in c.message
        )
        return report

    def _observe_all(self, build):
        """What every case sees of `build`, what it printed, the layout of its parameters where it has another, and whether
        that layout is sure.

        All cases share TIME_LIMIT; those after the one that used it up are not run.
        """
        subject, got = Subject(build, self.reference, self.views), []

        def work():
            for case in self.cases:
                got.append(_observe(case, subject))

        with guard.preserved() as printed:
            outcome = guard.limited(work, TIME_LIMIT)
        seen = list(got)[: len(self.cases)]
        if outcome != "done":
            cause = BY_HAND if outcome == "stopped by hand" else _too_slow(outcome)
            unrun = len(self.cases) - len(seen) - 1
            seen = [*seen, cause][: len(self.cases)]
            seen += [Failure("not run", "an earlier check used up the time")] * unrun
        missing = len(self.cases) - len(seen)
        seen += [Failure("stopped", "the answer brought the checks themselves to a halt")] * missing
        layout = next(iter(subject.found.values()), None)
        return seen, printed.text, layout, subject.sure

    def _of(self, build):
        """Observations of the reference or of a mistake, made once, then remembered; and what is wrong with them."""
        if build not in self._observed:
            seen, *_ = self._observe_all(build)
            failures = [str(f) for f in seen if isinstance(f, Failure)]
            if build is self.reference and failures:
                return seen, (
                    f"the reference itself fails: {failures[0]}. Something that it needs was changed in this session: "
                    "restart the kernel."
                )
            self._observed[build] = seen
        return self._observed[build], ""

    def _with_layout(self, checks, layout):
        """With parameters under other names: right all the same, where everything that it computes is."""
        both = list(zip(self.cases, checks, strict=True))
        if not all(c.passed for case, c in both if case.kind != "parameters"):
            return checks, ""
        words = layout.words()
        more = f", and {len(words) - 4} more" if len(words) > 4 else ""
        note = (
            "Your parameters have other names or come in other pieces than ours: "
            f"{'; '.join(words[:4])}{more}. That is right as well. Published weights go by our names (lesson 12)."
        )
        return [replace(c, passed=True, message="") for c in checks], note

    def _not_compared(self, checks, got, diagnosis):
        """Where parameters differ and nothing is known of the answer, numbers that differ would only mislead."""
        both = list(zip(self.cases, checks, got, strict=True))
        if diagnosis or all(c.passed for case, c, _ in both if case.kind == "parameters"):
            return checks
        return [
            Check(c.name, False, NOT_COMPARED, 3)
            if case.kind == "weights" and not c.passed and (not isinstance(g, Failure) or g.kind == NO_LAYOUT)
            else c
            for case, c, g in both
        ]

    def _diagnose(self, got, checks):
        """The diagnosis of the first mistake that gives the same on every case.

        Where there is none, of the first that gives the same on every case that failed; then at least two of those
        must have given numbers, because a True or an error is soon the same by chance.
        """
        failed = [i for i, c in enumerate(checks) if not c.passed]
        telling = [i for i in failed if not isinstance(got[i], Failure | bool | str | list)]
        ways = [range(len(got)), failed] if len(telling) >= 2 else [range(len(got))]
        if all(isinstance(g, Failure) and g.kind for g in got):
            return None
        for which in ways:
            for mistake in self.mistakes:
                wrong, _ = self._of(mistake.build)
                if all(compare(self.cases[i], wrong[i], got[i])[0] for i in which):
                    return mistake.diagnosis
        return None


BY_HAND = Failure(TOO_SLOW, "stopped by hand")


def _too_slow(outcome):
    left = (
        " It catches every error and goes on in the background: restart the kernel to be rid of it."
        if outcome == "still running"
        else ""
    )
    return Failure(
        TOO_SLOW,
        f"no answer within {TIME_LIMIT:g} seconds. Is there a loop that does not end?{left}",
    )


def _rank(case, got):
    """Of what failed: values first, then properties, then errors, then what was never run."""
    if isinstance(got, Failure) and got.kind:
        return 3 if got.kind in ("not run", NO_LAYOUT) else 2
    return 1 if case.kind == "property" else 0


def _observe(case, subject):
    """What the case sees of the candidate, or a Failure."""
    try:
        with guard.seeded():
            return case.run(subject)
    except guard.Stopped:
        raise
    except Unfair as error:
        return Failure("", str(error))
    except NoLayout:
        return Failure(NO_LAYOUT, "the weights do not fit")
    except guard.NotHere as error:
        return Failure("stopped", str(error), _own_line(error))
    except NotImplementedError as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1]
        # nn.Module raises it itself where nobody wrote a forward.
        if raised_in.name == "_forward_unimplemented":
            return Failure("forward is missing", "the class has no method called forward(self, ...)")
        if "site-packages" not in raised_in.filename:
            return Failure(UNWRITTEN, "this part still raises NotImplementedError", _own_line(error))
        return Failure("NotImplementedError", _words(error), _own_line(error))
    except KeyboardInterrupt:
        return BY_HAND
    except RecursionError:
        return Failure("RecursionError", "the code calls itself without end")
    except BaseException as error:  # also SystemExit: nothing that a candidate raises gets out
        if isinstance(error, MemoryError) or "allocate memory" in _words(error):
            return Failure(
                "too much memory",
                f"more than {guard.MEMORY_LIMIT / 2**30:g} GiB was asked for; the inputs here are tiny",
                _own_line(error),
            )
        return Failure(type(error).__name__, _words(error), _own_line(error))


def _words(error):
    try:
        return str(error).strip()[:600]
    except Exception:
        return "(its text cannot be shown)"


def _own_line(error):
    """The last line of the candidate's own code that the error went through: "line 7: x = y @ z"."""
    package = __name__.split(".")[0]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename.replace("\\", "/")
        if "site-packages" not in file and f"/{package}/" not in file and "/lib/python" not in file:
            return f"line {frame.lineno} of {frame.name}: {frame.line}" if frame.line else ""
    return ""
