"""Comparing what was expected with what came, in words and as a small worked case."""

from dataclasses import dataclass

import numpy as np
import torch

TOO_SLOW, UNWRITTEN, NO_LAYOUT = (
    "too slow",
    "not written yet",
    "other parameters",
)  # kinds of Failure

ROWS, COLUMNS = 6, 8  # of numbers that a worked case shows


@dataclass(frozen=True)
class Failure:
    """A candidate raised instead of answering. kind: the exception's name. where: the learner's own line."""

    kind: str
    text: str
    where: str = ""

    def __str__(self):
        said = ": ".join(part for part in (self.kind, self.text) if part)
        return said + (f"\n  at {self.where}" if self.where else "")


def compare(case, expected, got):
    """(True, "") when both are the same within the case's tolerance, else (False, what was expected and what came)."""
    try:
        problem = _difference(expected, got, case.tolerance)
    except Exception as error:  # a value that is odd enough can make even looking at it fail
        problem = (
            f"this {type(got).__name__} could not be compared with what was expected ({type(error).__name__})"
        )
    if not problem:
        return True, ""
    stopped = isinstance(got, Failure)  # then a hint about the values would mislead
    return False, problem if stopped or not case.hint else f"{problem}\n{case.hint}"


def _difference(expected, got, tolerance):
    # Only a mistake is expected to fail; then the same kind of failure is the same behaviour.
    if isinstance(expected, Failure):
        same = (
            isinstance(got, Failure) and got.kind == expected.kind and (got.kind or got.text == expected.text)
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
        return f"expected a plain Python value, {wanted}; got a tensor. `.item()` takes the value out."
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
    wrong = _wrong(expected, got, tolerance)
    if not wrong.any():
        return ""
    at = tuple(wrong.nonzero()[0].tolist())
    text = f"the shape is right, {tuple(got.shape)}; {int(wrong.sum()):,} of {wrong.numel():,} numbers differ"
    if at:
        text += f"\nthe first, at {list(at)}: expected {expected[at].item():.4g}, got {got[at].item():.4g}"
    return text


def _wrong(expected, got, tolerance):
    """True where the numbers differ."""
    a, b = expected.detach().double(), got.detach().double()
    return ~torch.isclose(b, a, rtol=tolerance, atol=tolerance, equal_nan=True)


def _dict_difference(expected, got):
    """For {name: shape} and the like: what is missing, what is extra, what differs."""
    if not isinstance(got, dict):
        return f"expected a dictionary, got {_kind(got)}"
    lines = [f"missing: {k}, {expected[k]}" for k in expected if k not in got]
    lines += [f"not expected: {k}, {got[k]}" for k in got if k not in expected]
    lines += [
        f"{k}: expected {expected[k]}, got {got[k]}" for k in expected if k in got and got[k] != expected[k]
    ]
    if len(lines) > 6:
        lines = [*lines[:6], f"and {len(lines) - 6} more"]
    return "\n".join(lines)


def _kind(value):
    return "None (is there a return?)" if value is None else f"a {type(value).__name__}"


def _short(value):
    text = "None (is there a return?)" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---------------------------------------------------------------- a worked case


@dataclass(frozen=True)
class Worked:
    """A case that fails, small enough to look at: one matrix of numbers that was expected, and the one that came.

    where: which part of the whole this is. given: the input, where it is small. wrong: True where numbers differ.
    """

    case: str
    where: str
    expected: torch.Tensor
    got: torch.Tensor
    wrong: torch.Tensor
    given: str = ""
    whole: tuple = ()  # (expected, got) where the matrix is larger than what is shown

    @property
    def text(self):
        blocks = [_matrix(self.expected, None), _matrix(self.got, self.wrong)]
        width = max(len("expected"), *map(len, blocks[0])) + 4
        rows = [("expected", "got  (* differs)"), *zip(*blocks, strict=True)]
        lines = [f"Worked case: {self.case}{self.where}"]
        lines += [f"  given {self.given}"] if self.given else []
        return "\n".join(lines + [f"  {a:<{width}}{b}".rstrip() for a, b in rows])


def worked(pairs):
    """The first of the failing cases that is small enough to be seen whole, else the smallest, as a `Worked`.

    None where there are no two tensors of one shape.

    pairs: (case, expected, got) of the cases that failed.
    """
    found = []
    for case, expected, got in pairs:
        for e, g in _tensors(expected, got):
            if e.shape == g.shape and e.ndim and e.layout == g.layout and g.device == e.device:
                wrong = _wrong(e, g, case.tolerance)
                if wrong.any():
                    large = e.shape[-1] > COLUMNS or e.shape[-2:-1] > (ROWS,)
                    found.append((e.numel() * large, len(found), case, e.detach(), g.detach(), wrong))
    if not found:
        return None
    _, _, case, e, g, wrong = min(found, key=lambda f: f[:2])
    at = wrong.nonzero()[0].tolist()
    *lead, i, j = [0, *at] if len(at) == 1 else at
    e, g, wrong = (t[None] if t.ndim == 1 else t[tuple(lead)] for t in (e, g, wrong))
    whole = (e, g) if (e.shape[0] > ROWS or e.shape[1] > COLUMNS) and max(e.shape) <= 512 else ()
    # The part that holds the first difference
    i, j = max(0, i - ROWS + 1), max(0, j - COLUMNS + 1)
    e, g, wrong = (t[i : i + ROWS, j : j + COLUMNS] for t in (e, g, wrong))
    where = f", at {lead}" if lead else ""
    if i or j:
        where += f", from row {i}, column {j}"
    return Worked(case.name, where, e, g, wrong, _given(case.given), whole)


def _tensors(expected, got):
    if isinstance(expected, torch.Tensor) and isinstance(got, torch.Tensor):
        yield expected, got
    elif isinstance(expected, tuple | list) and isinstance(got, tuple | list):
        for e, g in zip(expected, got, strict=False):
            yield from _tensors(e, g)


def _given(values):
    """The first input, where it has at most 32 numbers; else its shape."""
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.numel() <= 32:
                numbers = " ".join(_matrix(value.detach().reshape(1, -1), None))
                return f"{tuple(value.shape)}: {' '.join(numbers.split())}"
            return f"a tensor of shape {tuple(value.shape)}"
    return ""


def number(value):
    """A number in at most 7 characters or so."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _matrix(values, wrong):
    """Lines of text, columns aligned; * behind a number that differs."""
    cells = [[number(v) for v in row] for row in values.tolist()]
    if wrong is not None:
        cells = [
            [c + ("*" if w else " ") for c, w in zip(row, marks, strict=True)]
            for row, marks in zip(cells, wrong.tolist(), strict=True)
        ]
    width = max(len(c) for row in cells for c in row)
    return [" ".join(c.rjust(width) for c in row) for row in cells]
