"""The exercise engine: runs a candidate through cases, compares it with the reference and with known mistakes.

It knows nothing of what is being taught. An `Exercise` has

    reference     the answer that is handed on when a learner has none yet
    cases         each a function of the candidate that returns something to compare: a tensor, a number, a text
    alternatives  other correct ways to write it; all must pass
    mistakes      known wrong answers, each with a diagnosis; a candidate that behaves like one is told so

Reference, mistakes and candidate go through the same cases with the same inputs and the same random seed. Whatever a
candidate raises, prints or changes stays inside.
"""

import contextlib
import html
import io
import random
import re
import signal
import sys
import textwrap
import threading
import traceback
from dataclasses import dataclass, field

import numpy as np
import torch

TIME_LIMIT = 10.0  # seconds for all cases of one candidate; right answers take a small part of one
SHOWN_PRINT = 800  # characters of a candidate's own prints that are passed on

TOO_SLOW, UNWRITTEN = "too slow", "not written yet"  # kinds of Failure

RIGHT, WRONG, EMPTY = "right", "not yet", "not attempted"
CRASHED, SLOW = "stopped with an error", "took too long"


# ---------------------------------------------------------------- what a candidate did


@dataclass(frozen=True)
class Failure:
    """A candidate raised instead of answering. kind: the exception's name. where: the learner's own line."""

    kind: str
    text: str
    where: str = ""

    def __str__(self):
        said = ": ".join(part for part in (self.kind, self.text) if part)
        return said + (f"\n  at {self.where}" if self.where else "")


class _TimeUp(BaseException):
    """Raised by the alarm; a BaseException, so that `except Exception` in a candidate does not swallow it."""


class Unfair(Exception):
    """A case found something that the comparison alone would not say; the text is for the learner."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. message: empty where it passed, else what was expected and what came."""

    name: str
    passed: bool
    message: str = ""


@dataclass
class Report:
    """What the checks of one exercise found.

    name: of the exercise. status: "right", "not yet", "stopped with an error", "took too long" or "not attempted".
    checks: all of them, also those that passed. diagnosis: the known mistake that the answer behaves like, or None.
    """

    name: str
    status: str
    checks: list = field(default_factory=list)
    diagnosis: str | None = None
    printed: str = ""

    @property
    def passed(self):
        return self.status == RIGHT

    @property
    def headline(self):
        count = f"{sum(c.passed for c in self.checks)} of {len(self.checks)} checks passed"
        if self.status == RIGHT:
            return f"✓ {self.name}: right. {count}."
        if self.status == EMPTY:
            return f"○ {self.name}: not attempted yet. The reference stands in, so the rest of the notebook works."
        return f"✗ {self.name}: {self.status}. {count}."

    @property
    def closing(self):
        """What the rest of the notebook goes on with, where that needs saying."""
        if self.status in (RIGHT, EMPTY):
            return ""
        return "Until it is right, the rest of the notebook uses the reference. Change the cell and run it again."

    @property
    def text(self):
        """The whole answer as plain text."""
        lines = [self.headline]
        if self.diagnosis:
            lines += ["", textwrap.fill(self.diagnosis, 88)]
        if self.status not in (RIGHT, EMPTY):
            lines.append("")
            for c in self.checks:
                lines.append(f"  {'✓ passed' if c.passed else '✗ failed'}: {c.name}")
                lines += [f"      {line}" for line in c.message.splitlines()]
            lines += ["", textwrap.fill(self.closing, 88)]
        if self.printed:
            lines += ["", "Your code printed:", self.printed]
        return "\n".join(lines)

    def __str__(self):
        return self.text

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": self.text, "text/html": self._html()}

    def _html(self):
        def esc(text):
            return html.escape(text).replace("\n", "<br>")

        colour = {RIGHT: "#2e7d32", EMPTY: "#757575"}.get(self.status, "#c62828")
        parts = [f"<p style='margin:0'><strong>{esc(self.headline)}</strong></p>"]
        if self.diagnosis:
            told = re.sub(r"`([^`]+)`", r"<code>\1</code>", esc(self.diagnosis))
            told = re.sub(r"\*(\w+)\*", r"<em>\1</em>", told)
            parts.append(f"<p style='margin:.5em 0 0'>{told}</p>")
        if self.status not in (RIGHT, EMPTY):
            rows = "".join(
                f"<li style='margin:.2em 0'>{'✓ passed' if c.passed else '<strong>✗ failed</strong>'}: {esc(c.name)}"
                + (
                    f"<pre style='margin:.2em 0 .4em;white-space:pre-wrap;word-break:normal'>{html.escape(c.message)}</pre>"
                    if c.message
                    else ""
                )
                + "</li>"
                for c in self.checks
            )
            parts.append(
                f"<ul style='margin:.5em 0;padding-left:1.2em;list-style:none'>{rows}</ul>"
            )
            parts.append(f"<p style='margin:0'>{esc(self.closing)}</p>")
        if self.printed:
            parts.append(
                f"<p style='margin:.5em 0 0'>Your code printed:</p><pre>{html.escape(self.printed)}</pre>"
            )
        # Only the left edge has a colour of its own: text and ground are the theme's, light or dark.
        return (
            f"<div role='status' style='border-left:.4em solid {colour};padding:.4em .8em;margin:.2em 0'>"
            + "".join(parts)
            + "</div>"
        )

    def show(self):
        """Show the answer: rich in a notebook, as text elsewhere."""
        shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
        if shell is not None and hasattr(shell, "kernel"):
            from IPython.display import display

            display(self)
        else:
            print(self.text)


# ---------------------------------------------------------------- what an exercise is


@dataclass(frozen=True)
class Case:
    """name: what it looks at, in a learner's words. run: candidate -> something to compare. hint: said on failure.

    kind: "parameters" for names and shapes, "weights" for what can be compared only when those are right.
    """

    name: str
    run: callable
    hint: str = ""
    tolerance: float = 1e-5
    kind: str = ""


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer. build: the wrong code itself. diagnosis: one or two sentences for the learner."""

    build: callable
    diagnosis: str

    @property
    def name(self):
        return self.build.__name__


class Exercise:
    """One exercise: see the module's text. `mistake` and `alternative` are decorators that add to it."""

    def __init__(self, reference, *cases, name=None):
        self.name = name or reference.__name__
        self.reference = reference
        self.cases = cases
        self.mistakes = []
        self.alternatives = []
        self._observed = {}

    def mistake(self, diagnosis):
        """Add the function or class below as a known mistake."""

        def add(build):
            self.mistakes.append(Mistake(build, diagnosis))
            return build

        return add

    def alternative(self, build):
        """Add the function or class below as another correct answer."""
        self.alternatives.append(build)
        return build

    def check(self, candidate):
        """Run all cases and return a `Report`. Never raises for what the candidate does."""
        # First, because the candidate may break what the reference needs.
        expected = self._of(self.reference)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            got = _observe_all(self.cases, candidate)
        if all(isinstance(g, Failure) and g.kind == UNWRITTEN for g in got):
            return Report(self.name, EMPTY)
        checks = [
            Check(c.name, *_compare(c, e, g))
            for c, e, g in zip(self.cases, expected, got, strict=True)
        ]
        both = list(zip(self.cases, checks, strict=True))
        if not all(c.passed for case, c in both if case.kind == "parameters"):
            why = (
                "not compared: parameters of other names or shapes cannot be given the same weights"
            )
            for i, case in enumerate(self.cases):
                if case.kind == "weights" and not isinstance(got[i], Failure):
                    checks[i] = Check(case.name, False, why)
        out = printed.getvalue()
        if len(out) > SHOWN_PRINT:
            out = out[:SHOWN_PRINT] + f" ... ({len(out) - SHOWN_PRINT:,} more characters)"
        if all(c.passed for c in checks):
            return Report(self.name, RIGHT, checks, printed=out)
        kinds = [g.kind if isinstance(g, Failure) else "" for g in got]
        status = SLOW if TOO_SLOW in kinds else CRASHED if all(kinds) else WRONG
        return Report(self.name, status, checks, self._diagnose(got, checks), out)

    def _of(self, build):
        """Observations of the reference or of a mistake; made once, then remembered."""
        if build not in self._observed:
            with contextlib.redirect_stdout(io.StringIO()):
                seen = [_observe(case, build) for case in self.cases]
            failures = [str(f) for f in seen if isinstance(f, Failure)]
            if build is self.reference and failures:
                raise RuntimeError(
                    f"the reference of {self.name} fails: {failures[0]}. Something that it needs was changed in this "
                    "session: restart the kernel."
                )
            self._observed[build] = seen
        return self._observed[build]

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
                wrong = self._of(mistake.build)
                if all(_compare(self.cases[i], wrong[i], got[i])[0] for i in which):
                    return mistake.diagnosis
        return None


# ---------------------------------------------------------------- running


def _observe_all(cases, candidate):
    """What every case sees. All of them share TIME_LIMIT; those after the one that used it up are not run."""
    got = []
    try:
        with _alarm(TIME_LIMIT):
            for case in cases:
                got.append(_observe(case, candidate))
                if isinstance(got[-1], Failure) and got[-1].kind == TOO_SLOW:
                    break
    except _TimeUp:  # it rang between two lines of our own
        got = [*got, Failure(TOO_SLOW, "no answer in time")][: len(cases)]
    return got + [Failure("not run", "an earlier check used up the time")] * (len(cases) - len(got))


@contextlib.contextmanager
def _alarm(seconds):
    """Raise _TimeUp after so many seconds, where the platform has an alarm and this is the main thread."""
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def ring(number, frame):
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    # Again and again, for code that catches everything
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _state_restored():
    """Fixed random seeds inside; outside, everything global that a candidate may change is as it was."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    grad, dtype, threads = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    device = torch.get_default_device()
    try:
        # Tensors are tiny: on a busy machine, threads would wait for each other
        torch.set_num_threads(1)
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), torch.device("cpu"):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)


def _observe(case, candidate):
    """What the case sees of the candidate, or a Failure."""
    try:
        with _state_restored():
            return case.run(candidate)
    except Unfair as error:
        return Failure("", str(error))
    except NotImplementedError as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1]
        # nn.Module raises it itself where nobody wrote a forward.
        if raised_in.name == "_forward_unimplemented":
            return Failure(
                "forward is missing", "the class has no method called forward(self, ...)"
            )
        if "site-packages" not in raised_in.filename:
            return Failure(
                UNWRITTEN, "this part still raises NotImplementedError", _own_line(error)
            )
        return Failure("NotImplementedError", _words(error), _own_line(error))
    except _TimeUp:
        return Failure(
            TOO_SLOW, f"no answer within {TIME_LIMIT:g} seconds. Is there a loop that does not end?"
        )
    except KeyboardInterrupt:
        return Failure(TOO_SLOW, "stopped by hand")
    except RecursionError:
        return Failure("RecursionError", "the code calls itself without end")
    except BaseException as error:  # also SystemExit: nothing that a candidate raises gets out
        return Failure(type(error).__name__, _words(error), _own_line(error))


def _words(error):
    try:
        return str(error).strip()[:600]
    except Exception:
        return "(its text cannot be shown)"


def _own_line(error):
    """The last line of the candidate's own code that the error went through: "line 7: x = y @ z"."""
    package = __name__.rpartition(".")[0].replace(".", "/")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename.replace("\\", "/")
        if "site-packages" not in file and f"/{package}/" not in file and "/lib/python" not in file:
            return f"line {frame.lineno} of {frame.name}: {frame.line}" if frame.line else ""
    return ""


# ---------------------------------------------------------------- comparing


def _compare(case, expected, got):
    """(True, "") when both are the same within the case's tolerance, else (False, what was expected and what came)."""
    try:
        problem = _difference(expected, got, case.tolerance)
    except Exception as error:  # a value that is odd enough can make even looking at it fail
        problem = f"this {type(got).__name__} could not be compared with what was expected ({type(error).__name__})"
    if not problem:
        return True, ""
    stopped = isinstance(got, Failure) and got.kind  # then a hint about the values would mislead
    return False, problem if stopped or not case.hint else f"{problem}\n{case.hint}"


def _difference(expected, got, tolerance):
    # Only a mistake is expected to fail; then the same kind of failure is the same behaviour.
    if isinstance(expected, Failure):
        same = (
            isinstance(got, Failure)
            and got.kind == expected.kind
            and (got.kind or got.text == expected.text)
        )
        return "" if same else "another behaviour"
    if isinstance(got, Failure):
        return str(got)
    if isinstance(got, np.generic):
        got = got.item()
    if isinstance(expected, torch.Tensor):
        return _tensor_difference(expected, got, tolerance)
    if isinstance(expected, dict):
        return _dict_difference(expected, got)
    if isinstance(expected, tuple | list):
        if not isinstance(got, tuple | list) or len(got) != len(expected):
            size = f" of {len(got)}" if isinstance(got, tuple | list) else ""
            return f"expected {len(expected)} values, got {_kind(got)}{size}"
        found = (_difference(e, g, tolerance) for e, g in zip(expected, got, strict=True))
        return "\n".join(f"value {i + 1}: {text}" for i, text in enumerate(found) if text)
    if isinstance(got, torch.Tensor):
        wanted = f"{expected:,}" if type(expected) in (int, float) else repr(expected)
        return (
            f"expected a plain Python value, {wanted}; got a tensor. `.item()` takes the value out."
        )
    if isinstance(expected, bool) or not isinstance(expected, int | float):
        return (
            ""
            if type(got) is type(expected) and got == expected
            else f"expected {expected!r}, got {_short(got)}"
        )
    if isinstance(got, bool) or not isinstance(got, int | float):
        return f"expected a number, {expected:,}; got {_kind(got)}"
    if isinstance(expected, int):
        if not isinstance(got, int):
            return f"expected the whole number {expected:,}, got {_short(got)} of type {type(got).__name__}"
        return "" if got == expected else f"expected {expected:,}, got {got:,}"
    return (
        ""
        if abs(got - expected) <= tolerance * max(1, abs(expected))
        else f"expected {expected:.6g}, got {got:.6g}"
    )


def _tensor_difference(expected, got, tolerance):
    if not isinstance(got, torch.Tensor):
        return f"expected a tensor of shape {tuple(expected.shape)}, got {_kind(got)}"
    if got.shape != expected.shape:
        return f"expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    if got.device != expected.device or got.layout != expected.layout or got.is_nested:
        return f"expected an ordinary tensor on the {expected.device}, got one on {got.device}, layout {got.layout}"
    if got.dtype != expected.dtype:
        return f"expected numbers of type {expected.dtype}, got {got.dtype}"
    if got.requires_grad != expected.requires_grad:
        return (
            "the result is cut off from the gradient: nothing before it could learn"
            if expected.requires_grad
            else "the result carries a gradient that it should not"
        )
    a, b = expected.detach().double(), got.detach().double()
    wrong = ~torch.isclose(b, a, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not wrong.any():
        return ""
    at = tuple(wrong.nonzero()[0].tolist())
    text = f"the shape is right, {tuple(a.shape)}; {int(wrong.sum()):,} of {wrong.numel():,} numbers differ"
    if at:
        text += f"\nthe first, at {list(at)}: expected {a[at]:.4g}, got {b[at]:.4g}"
    return text


def _dict_difference(expected, got):
    """For {name: shape} and the like: what is missing, what is extra, what differs."""
    if not isinstance(got, dict):
        return f"expected a dictionary, got {_kind(got)}"
    lines = [f"missing: {k}, {expected[k]}" for k in expected if k not in got]
    lines += [f"not expected: {k}, {got[k]}" for k in got if k not in expected]
    lines += [
        f"{k}: expected {expected[k]}, got {got[k]}"
        for k in expected
        if k in got and got[k] != expected[k]
    ]
    if len(lines) > 6:
        lines = [*lines[:6], f"and {len(lines) - 6} more"]
    return "\n".join(lines)


def _kind(value):
    return "None (is there a return?)" if value is None else f"a {type(value).__name__}"


def _short(value):
    text = "None (is there a return?)" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---------------------------------------------------------------- cases that many exercises need


def drawn(*shape, seed=0):
    """Normally distributed numbers of this shape, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def apply(candidate, *args, **kwargs):
    """The candidate's result for copies of these arguments; Unfair where it changes a tensor in place."""
    mine, named = _copy(args), _copy(kwargs)
    result = candidate(*mine, **named)
    for before, after in zip([*args, *kwargs.values()], [*mine, *named.values()], strict=True):
        if isinstance(before, torch.Tensor) and not (
            before.shape == after.shape and torch.equal(before, after)
        ):
            raise Unfair(
                "your code changes its input in place. Whoever called it still needs the old values: "
                "make a new tensor instead (x = x + 1, not x += 1)."
            )
    return result


def call(name, *args, hint="", tolerance=1e-5, **kwargs):
    """A case: the candidate called with copies of these arguments."""
    return Case(name, lambda candidate: apply(candidate, *args, **kwargs), hint, tolerance)


def _copy(values):
    def one(v):
        return (
            v.detach().clone().requires_grad_(v.requires_grad) if isinstance(v, torch.Tensor) else v
        )

    return (
        {k: one(v) for k, v in values.items()}
        if isinstance(values, dict)
        else [one(v) for v in values]
    )


def fill(module):
    """Give every parameter and every buffer a value that depends only on its name and shape. Returns the module.

    Two modules with the same names and shapes then compute the same, whatever order they were built in.
    """
    import zlib

    with torch.no_grad():
        for name, value in module.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            fan_in = value[0].numel() if value.ndim > 1 else 4
            value.copy_(torch.randn(value.shape, generator=generator) / fan_in**0.5)
    return module


def build(candidate, *args, **kwargs):
    """Make a module from the candidate class; Unfair where it is no nn.Module."""
    made = candidate(*args, **kwargs)
    if not isinstance(made, torch.nn.Module):
        raise Unfair(f"expected a torch.nn.Module, got {_kind(made)}")
    return made


def parameters(name, *args, hint="", **kwargs):
    """A case: names and shapes of what the module learns and of its buffers."""

    def run(candidate):
        state = build(candidate, *args, **kwargs)
        shapes = {n: f"shape {tuple(p.shape)}" for n, p in state.named_parameters()}
        saved = state.state_dict().keys()  # a buffer that is not saved is nobody's business
        return shapes | {
            n: f"buffer of shape {tuple(b.shape)}" for n, b in state.named_buffers() if n in saved
        }

    return Case(name, run, hint, kind="parameters")


def forward(name, *args, inputs, train=False, hint="", tolerance=1e-4, **kwargs):
    """A case: the module built, filled with known weights, and applied to `inputs` (a tuple of tensors)."""

    def run(candidate):
        module = fill(build(candidate, *args, **kwargs)).train(train)
        torch.manual_seed(1)
        return apply(module, *inputs)

    return Case(name, run, hint, tolerance, kind="weights")


def gradients(name, *args, inputs, hint="", **kwargs):
    """A case: which parameters receive a gradient that is not all zero."""

    def run(candidate):
        module = fill(build(candidate, *args, **kwargs)).train()
        out = module(*_copy(inputs))
        if not isinstance(out, torch.Tensor) or not out.requires_grad:
            raise Unfair("the output does not depend on any parameter in a way that can be learned")
        out.square().sum().backward()
        return {
            n: "gets a gradient"
            if p.grad is not None and bool(p.grad.any())
            else "gets no gradient"
            for n, p in module.named_parameters()
        }

    return Case(name, run, hint, kind="weights")
