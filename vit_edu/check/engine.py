"""The exercise engine runs a candidate through cases and compares it with the reference and with known mistakes.

It knows nothing of what is being taught. An `Exercise` has

    reference     the answer that is handed on when a learner has none yet
    cases         each a function of the candidate that returns something to compare: a tensor, a number, a text
    mistakes      known wrong answers, each with a diagnosis for candidates that behave in the same way
    hints         three of them: a nudge, the idea, the shape of the code
    sizes         with which an answer that is none of the known mistakes is tried, see `probes`

Diagnoses and hints are texts, and are not in the code: see `texts`.

Reference, mistakes and candidate go through the same cases with the same inputs and the same random seed. Whatever a
candidate raises, prints or changes, the session is not affected.
"""

import threading
import traceback
from dataclasses import dataclass

import torch

from vit_edu.check import arrangement, guard, probes, returned, texts
from vit_edu.check.cases import CaseFailed, NoLayout, Subject
from vit_edu.check.compare import (
    NO_FORWARD,
    NO_LAYOUT,
    NOT_RUN,
    STOPPED,
    TOO_LARGE,
    TOO_SLOW,
    UNWRITTEN,
    Failure,
    compare,
    other_type,
    worked,
)
from vit_edu.check.language import N_, Sentence, _
from vit_edu.check.layouts import Layout
from vit_edu.check.origin import Watch
from vit_edu.check.report import CRASHED, EMPTY, RIGHT, SLOW, STOPPED_BY_HAND, UNCHECKED, WRONG, Check, Report
from vit_edu.check.rows import (
    UNSEEN,
    accept_parameters,
    allow_layout,
    allow_types,
    compare_all,
    leave_uncompared,
    without_types,
)

TIME_LIMIT = 10.0  # seconds for all cases of one candidate; right answers take a fraction of a second

THE_REFERENCE = N_(
    "This is the reference: your answer is the course's own, inherits it or calls it. It passes, but it does not count as "
    "solved. To solve the exercise, write the code yourself."
)

BY_HAND = Failure(TOO_SLOW, Sentence("stopped by hand"))


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
    """One exercise, as described at the top of this module.

    name: that of its hints and mistakes; the reference's own name if it is left out. views: for modules, see
    `layouts.layouts`. sizes: a `probes.Sizes`, or several.
    """

    def __init__(self, reference, *cases, name=None, views=(), sizes=()):
        self.name = name or reference.__name__
        self.reference = reference
        self.cases = cases
        self.views = views
        self.sizes = (sizes,) if isinstance(sizes, probes.Sizes) else tuple(sizes)
        self._wrong = {}  # name of a mistake -> its code
        self._observed = {}

    @property
    def hints(self):
        return texts.hints(self.name)

    @property
    def mistakes(self):
        """The known mistakes as a list of `Mistake`, in the order of the text: the first that fits is the diagnosis.

        TextError if one of them has no section in the text, or a section belongs to none of them.
        """
        names = texts.mistakes(self.name, self._wrong) if self._wrong else []
        return [Mistake(self.name, name, self._wrong[name]) for name in names]

    def mistake(self, build):
        """Decorator that adds the function or class below it as a known mistake, named like its section in the text."""
        self.add_mistakes(**{build.__name__: build})
        return build

    def add_mistakes(self, **builds):
        """Add known mistakes as a table of name=code, if their code is a single expression. ValueError for a name that is taken."""
        for name, build in builds.items():
            if name in self._wrong:
                raise ValueError(f"{self.name} has two mistakes called {name}.")
            self._wrong[name] = build

    def check(self, candidate):
        """Run all cases and return a `Report`. Never raises for what the candidate does."""
        # First, because the candidate may break what the reference needs.
        reference = self._observed_once(self.reference)
        expected = reference.got
        if broken := [e for e in expected if isinstance(e, Failure)]:
            return Report(self.name, UNCHECKED, [_reference_fails(broken[0])])
        seen = self.observe(candidate, watch=True)
        if all(isinstance(g, Failure) and g.kind == UNWRITTEN for g in seen.got):
            return Report(self.name, EMPTY, has_hints=True)
        rows = compare_all(self.cases, expected, seen.got)
        notes = [
            _(THE_REFERENCE) if seen.is_reference else "",
            allow_types(rows),
            allow_layout(rows, seen.layout) if seen.layout else "",
        ]
        if all(row.passed for row in rows):
            return Report(
                self.name,
                RIGHT,
                [r.as_check for r in rows],
                note=" ".join(filter(None, notes)),
                printed=seen.printed,
                is_reference=seen.is_reference,
            )
        status = _status(rows)
        diagnosis = self._diagnose(rows) or self._shown(rows)
        diagnosis = diagnosis or returned.diagnosis(
            rows, reference.calls, seen.calls, candidate, self.reference
        )
        rows = without_types(rows)
        if seen.layout and (seen.layout_confirmed or diagnosis):
            accept_parameters(rows)
        if not seen.layout_confirmed and not diagnosis:
            leave_uncompared(rows)
        diagnosis = diagnosis or arrangement.explain(rows) or probes.explain(self, candidate, rows)
        return Report(
            self.name,
            status,
            [row.as_check for row in rows],
            diagnosis,
            worked(row for row in rows if not row.passed and row.rank != UNSEEN),
            printed=seen.printed,
            has_hints=True,
        )

    def observations(self, build):
        """What each case sees of the reference or of a known mistake. It is computed once and then remembered.

        If the reference fails, that is not remembered, because what it needs may be restored later in the session.
        """
        return self._observed_once(build).got

    def _observed_once(self, build):
        seen = self._known(build).run()
        if build is self.reference and any(isinstance(g, Failure) for g in seen.got):
            del self._observed[build]
        return seen

    def _known(self, build):
        """The `Trial` of the reference or of a known mistake, with what was seen of it so far.

        It begins again if it was cut short: the stop button was meant for the candidate, and time may be scarce only once.
        """
        if build not in self._observed or self._observed[build].cut_short:
            self._observed[build] = Trial(self, build, self.cases)
        return self._observed[build]

    def observe(self, build, cases=None, seconds=None, watch=False):
        """Run every case on `build`, until all are done or the time is used up: TIME_LIMIT, unless `seconds` is given.

        cases: other cases than those of the exercise. watch: whether to find out if it uses the reference, which takes a
        little time.
        """
        return Trial(self, build, self.cases if cases is None else cases, watch).run(seconds)

    def _diagnose(self, rows):
        """The diagnosis of the first mistake that gives the same results on every case.

        If there is none, that of the first mistake that gives the same results on every case that failed, or else on every
        plain case that gives numbers: a second fault may be on top. Then at least two of the cases that failed must have
        given numbers, because a True or an error is easily the same by chance.
        """
        if all(isinstance(row.got, Failure) and row.got.kind for row in rows):
            return None
        telling = [r for r in rows if not r.passed and not isinstance(r.got, Failure | bool | str | list)]
        looked_at = [rows]
        if len(telling) >= 2:
            looked_at.append([r for r in rows if not r.passed])
        plain = [
            r for r in rows if r.case.kind != "property" and isinstance(r.expected, torch.Tensor | tuple)
        ]
        if sum(r in plain for r in telling) >= 2:
            looked_at.append(plain)
        for some in looked_at:
            for mistake in self.mistakes:
                if self._behaves_alike(mistake, rows, some):
                    return mistake.diagnosis
        return None

    def _shown(self, rows):
        """The diagnosis of the first mistake that a failed case is evidence of, see `Case.shows`, or None."""
        failed = {
            r.case.shows for r in rows if not r.passed and isinstance(r.got, Failure) and not r.got.kind
        }
        return next((m.diagnosis for m in self.mistakes if m.name in failed), None)

    def _behaves_alike(self, mistake, rows, some):
        """Did the candidate give what the mistake gives, on some of the rows?"""
        results = {
            number: row.got
            for number, row in enumerate(rows)
            if row in some and (row.passed or not row.case.remark or not other_type(row.expected, row.got))
        }
        return bool(results) and self._known(mistake.build).gives(results)


class Trial:
    """A candidate on its way through cases, in their order. It can stop between two of them and go on later.

    got: what the cases saw so far, see `Observed`. cut_short: whether it was stopped before the cases were done.
    """

    def __init__(self, exercise, build, cases, watch=False):
        self.build, self.cases, self.got, self.cut_short, self._printed = build, cases, [], False, ""
        self._origin = Watch(build, exercise.reference)
        self._notes = returned.Notes(build is exercise.reference, self._origin if watch else None)
        self._subject = Subject(build, exercise.reference, exercise.views, self._notes)

    def gives(self, results):
        """Does it give these results? results: {number of a case: what another candidate gave}.

        No more cases are run than it takes to know.
        """

        def differs(number, got):
            return number in results and not compare(self.cases[number], got, results[number])[0]

        before, last = len(self.got), max(results)
        if any(map(differs, range(before), self.got)):
            return False
        if before <= last:
            self.run(enough=lambda number, got: number == last or differs(number, got))
        return not any(map(differs, range(before, len(self.got)), self.got[before:]))

    def run(self, seconds=None, enough=None):
        """Run the cases that are left, until the time is used up (TIME_LIMIT, if `seconds` is None). Returns an `Observed`.

        enough: a function of the number of a case and what it saw, after which no other case is run if it returns True.
        """
        left = self.cases[len(self.got) :]
        if left:
            self._run(left, TIME_LIMIT if seconds is None else seconds, enough)
        layout = next(iter(self._subject.layouts.values()), None)
        confirmed = self._subject.layout_confirmed
        return Observed(self.got, self._notes.calls, self._printed, layout, confirmed, self._origin.used)

    def _run(self, cases, seconds, enough):
        got, over, paused = [], threading.Event(), threading.Event()

        def work():
            for number, case in enumerate(cases, start=len(self.got)):
                if over.is_set():  # a candidate that was left behind has come to its end after all
                    return
                with self._notes.case():
                    got.append(_run_case(case, self._subject))
                if enough and enough(number, got[-1]):
                    paused.set()
                    return

        with guard.own_name(self.build), guard.preserved() as printed:
            self._notes.prints = printed
            outcome = guard.limited(work, seconds)
        over.set()
        self.cut_short, self._printed = outcome != "done", printed.text
        self.got = self.got + (list(got) if paused.is_set() else _complete(list(got), outcome, len(cases)))


@dataclass(frozen=True)
class Observed:
    """What the cases saw of one candidate.

    got: for each case a value, or a `Failure` if there was nothing to see. calls: a `returned.Call` for each case that was run. printed: what the candidate printed, perhaps
    shortened. layout: that of its parameters, if their names or shapes differ from the reference's, else None.
    layout_confirmed: whether the candidate, with this layout, computes what the reference does. is_reference: whether it is the
    reference, or leaves its work to it.
    """

    got: list
    calls: list
    printed: str
    layout: Layout | None
    layout_confirmed: bool
    is_reference: bool


def _reference_fails(failure):
    text = _(
        "the reference itself fails: {failure}. Something that it needs was changed in this session, so restart the kernel."
    )
    return Check(N_("the reference runs"), False, text.format(failure=failure))


def _status(rows):
    """The status of an answer that is not right."""
    kinds = [row.got.kind if isinstance(row.got, Failure) else "" for row in rows]
    if any(isinstance(row.got, Failure) and row.got == BY_HAND for row in rows):
        return STOPPED_BY_HAND
    if TOO_SLOW in kinds:
        return SLOW
    return CRASHED if all(kinds) else WRONG


def _complete(got, outcome, count):
    """What the cases saw, with a Failure for each that did not finish. outcome: see `guard.limited`."""
    got = got[:count]
    if outcome != "done" and len(got) < count:
        got.append(BY_HAND if outcome == "stopped by hand" else _too_slow(outcome))
        used_up = Sentence("an earlier check used up the time")
        return got + [Failure(NOT_RUN, used_up)] * (count - len(got))
    halted = Sentence("your answer brought the checks themselves to a halt")
    return got + [Failure(STOPPED, halted)] * (count - len(got))


def _too_slow(outcome):
    left_behind = Sentence(
        " Your code could not be stopped: it catches every error, or it waits for something, as time.sleep does. It goes on "
        "running in the background. Restart the kernel to stop it."
    )
    return Failure(
        TOO_SLOW,
        Sentence(
            "no answer within {limit:g} seconds. Is there a loop that never ends?{more}",
            limit=TIME_LIMIT,
            more=left_behind if outcome == "still running" else "",
        ),
    )


def _run_case(case, subject):
    """What the case sees of the candidate, or a Failure."""
    try:
        with guard.seeded():
            result = case.run(subject)
            isinstance(result, Failure)  # an object that fails to answer even this could not be compared
            return result
    except guard.Stopped:
        raise
    except CaseFailed as error:
        return Failure("", error.args[0])
    except NoLayout:
        return Failure(NO_LAYOUT, Sentence("the weights do not fit"))
    except guard.Forbidden as error:
        return Failure(STOPPED, error.args[0], _own_line(error))
    except NotImplementedError as error:
        return _unwritten(error)
    except KeyboardInterrupt:
        return BY_HAND
    except RecursionError:
        return Failure("RecursionError", Sentence("your code keeps calling itself without end"))
    except BaseException as error:  # also SystemExit: nothing that a candidate raises gets out
        if isinstance(error, MemoryError) or "allocate memory" in str(_words(error)):
            return Failure(TOO_LARGE, _too_large(), _own_line(error))
        return Failure(type(error).__name__, _words(error), _own_line(error))


def _unwritten(error):
    raised_in = traceback.extract_tb(error.__traceback__)[-1]
    # nn.Module itself raises this if nobody wrote a forward.
    if raised_in.name == "_forward_unimplemented":
        return Failure(NO_FORWARD, Sentence("the class has no method called forward(self, ...)"))
    if "site-packages" not in raised_in.filename:
        return Failure(UNWRITTEN, Sentence("this part still raises NotImplementedError"), _own_line(error))
    return Failure("NotImplementedError", _words(error), _own_line(error))


def _too_large():
    return Sentence(
        "your code asked for more than {limit:g} GiB, although the inputs here are tiny",
        limit=guard.MEMORY_LIMIT / 2**30,
    )


def _words(error):
    """The text of the exception as a str, or a Sentence if it cannot be shown."""
    try:
        return str(error).strip()[:600]
    except Exception:
        return Sentence("(its text cannot be shown)")


def _own_line(error):
    """The last line of the candidate's own code in the traceback, such as "line 7 of forward: x = y @ z", or ""."""
    package = __name__.split(".")[0]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename.replace("\\", "/")
        if "site-packages" not in file and f"/{package}/" not in file and "/lib/python" not in file:
            if not frame.line:
                return ""
            return Sentence(
                "line {number} of {function}: {code}",
                number=frame.lineno,
                function=frame.name,
                code=frame.line,
            )
    return ""
