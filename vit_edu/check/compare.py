"""Compares what was expected with what came, in words and as a small worked case."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from vit_edu.check.language import N_, Sentence, _, ngettext

# Kinds of Failure that are not the name of an exception
TOO_SLOW, NOT_RUN, STOPPED = N_("too slow"), N_("not run"), N_("stopped")
UNWRITTEN, NO_FORWARD = N_("not written yet"), N_("forward is missing")
NO_LAYOUT, TOO_LARGE = N_("other parameters"), N_("too much memory")

ROWS, COLUMNS = 6, 8  # the most that a worked case shows


@dataclass(frozen=True)
class Failure:
    """What a case has instead of a result when the candidate raised, was stopped or could not be run.

    kind: the exception's name, one of the kinds above, or "". text: one of our Sentences, or the exception's own words.
    where: the learner's own line, or "".
    """

    kind: str
    text: Sentence | str
    where: Sentence | str = ""

    def __str__(self):
        text = str(self.text)
        said = f"{_(self.kind)}: {text}" if self.kind and text else _(self.kind) or text
        return f"{said}\n  {_('at {where}').format(where=self.where)}" if self.where else said


def compare(case, expected, got):
    """(True, "") when both are the same within the case's tolerance, else (False, what was expected and what came)."""
    try:
        problem = _difference(expected, got, case.tolerance)
    except Exception as error:  # with a value that is odd enough, even looking at it can fail
        problem = _("this {type} could not be compared with what was expected ({error})").format(
            type=type(got).__name__, error=type(error).__name__
        )
    return not problem, problem


def _difference(expected, got, tolerance):
    # Only a known mistake is expected to fail. Then failing in the same way counts as behaving the same.
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
        return _list_difference(expected, got, tolerance)
    if isinstance(got, torch.Tensor):
        wanted = f"{expected:,}" if type(expected) in (int, float) else _quoted(expected)
        return _(
            "expected a plain Python value, {expected}; got a tensor. `.item()` gives you its value."
        ).format(expected=wanted)
    if isinstance(expected, bool) or not isinstance(expected, int | float):
        same = type(got) is type(expected) and got == expected
        return "" if same else _expected(_quoted(expected), _short(got))
    return _number_difference(expected, got, tolerance)


def _expected(expected, got):
    return _("expected {expected}, got {got}").format(expected=expected, got=got)


def _number_difference(expected, got, tolerance):
    if isinstance(got, bool) or not isinstance(got, int | float):
        return _("expected a number, {expected}; got {got}").format(
            expected=f"{expected:,}", got=described(got)
        )
    if isinstance(expected, float):
        same = abs(got - expected) <= tolerance * max(1, abs(expected))
        return "" if same else _expected(*_told_apart(expected, got, 6))
    if not isinstance(got, int):
        return _("expected the whole number {expected}, got {got} of type {type}").format(
            expected=f"{expected:,}", got=_short(got), type=type(got).__name__
        )
    return "" if got == expected else _expected(f"{expected:,}", f"{got:,}")


def _told_apart(expected, got, digits=4):
    """Two numbers as text, with more significant digits where it takes more to tell them apart."""
    for count in range(digits, 18):
        both = f"{expected:.{count}g}", f"{got:.{count}g}"
        if both[0] != both[1]:
            break
    return both


def _list_difference(expected, got, tolerance):
    if not isinstance(got, tuple | list) or len(got) != len(expected):
        came = described(got)
        if isinstance(got, tuple | list):
            came = _("{what} of {number}").format(what=came, number=len(got))
        number = len(expected)
        return ngettext(
            "expected {number} value, got {got}", "expected {number} values, got {got}", number
        ).format(number=number, got=came)
    found = (_difference(e, g, tolerance) for e, g in zip(expected, got, strict=True))
    return "\n".join(
        _("value {number}: {problem}").format(number=number, problem=text)
        for number, text in enumerate(found, start=1)
        if text
    )


def _tensor_difference(expected, got, tolerance):
    if not isinstance(got, torch.Tensor):
        return _("expected a tensor of shape {shape}, got {got}").format(
            shape=tuple(expected.shape), got=described(got)
        )
    if got.shape != expected.shape:
        return _("expected shape {expected}, got {got}").format(
            expected=tuple(expected.shape), got=tuple(got.shape)
        )
    if got.device != expected.device or got.layout != expected.layout or got.is_nested:
        return _(
            "expected an ordinary tensor on the {expected}, got one on {device} with layout {layout}"
        ).format(expected=expected.device, device=got.device, layout=got.layout)
    if got.dtype != expected.dtype:
        return _("expected numbers of type {expected}, got {got}").format(
            expected=expected.dtype, got=got.dtype
        )
    if got.requires_grad != expected.requires_grad:
        return (
            _("the result is cut off from the gradient, so nothing before it could learn")
            if expected.requires_grad
            else _("the result carries a gradient that it should not have")
        )
    differs = _differs(expected, got, tolerance)
    if not differs.any():
        return ""
    text = _("the shape is right, {shape}; {wrong} of {total} numbers differ").format(
        shape=tuple(got.shape), wrong=f"{int(differs.sum()):,}", total=f"{differs.numel():,}"
    )
    at = tuple(differs.nonzero()[0].tolist())
    if at:
        wanted, came = _told_apart(expected[at].item(), got[at].item())
        text += "\n" + _("the first, at {place}: expected {expected}, got {got}").format(
            place=list(at), expected=wanted, got=came
        )
    return text


def _differs(expected, got, tolerance):
    """True where the numbers differ."""
    a, b = expected.detach().double(), got.detach().double()
    return ~torch.isclose(b, a, rtol=tolerance, atol=tolerance, equal_nan=True)


_WITHOUT_RESULT = (TOO_SLOW, NOT_RUN, STOPPED, UNWRITTEN, NO_FORWARD, NO_LAYOUT, TOO_LARGE, "")


def other_type(expected, got):
    """Did the answer raise an error, or return another type of numbers than was expected, whatever their values?"""
    if isinstance(got, Failure):
        return got.kind not in _WITHOUT_RESULT
    return any(e.shape == g.shape and e.dtype != g.dtype for e, g in _tensors(expected, got))


def type_alone(expected, got):
    """What the answer does with numbers of this type, as a Sentence, if its result is right but for type and rounding, else None.

    The rounding is that of float32: the same numbers as in float32, or almost the expected ones.
    """
    if isinstance(got, Failure):
        error = replace(got, where="")
        return Sentence("your answer stops: {error}", error=error) if other_type(expected, got) else None
    pairs = list(_tensors(expected, got))
    if not pairs or not all(_nearly(e, g) for e, g in pairs):
        return None
    types = [g.dtype for e, g in pairs if g.dtype != e.dtype]
    if types:
        return Sentence("your answer returns {type}", type=types[0])
    return Sentence("your answer is only as exact as float32")


def _nearly(expected, got):
    if expected.shape != got.shape or expected.requires_grad != got.requires_grad:
        return False
    if not got.is_floating_point():
        return bool(not _differs(expected, got, 0).any())
    in_float32 = got.dtype != torch.float64 or torch.equal(got, got.float().double())
    return bool(not _differs(expected, got, 1e-5 if in_float32 else 1e-6).any())


def _dict_difference(expected, got):
    """For {name: shape} and the like: what is missing, what is extra, what differs."""
    if not isinstance(got, dict):
        return _("expected a dictionary, got {got}").format(got=described(got))
    lines = [
        _("missing: {name}, {value}").format(name=_phrase(k), value=_phrase(v))
        for k, v in expected.items()
        if k not in got
    ]
    lines += [
        _("not expected: {name}, {value}").format(name=_phrase(k), value=_phrase(v))
        for k, v in got.items()
        if k not in expected
    ]
    lines += [
        f"{_phrase(k)}: {_expected(_phrase(v), _phrase(got[k]))}"
        for k, v in expected.items()
        if k in got and got[k] != v
    ]
    if len(lines) > 6:
        lines = [*lines[:6], _("and {number} more").format(number=len(lines) - 6)]
    return "\n".join(lines)


def is_phrase(value):
    """Is this something that a case says in words, such as "about half"? A name such as `cls_token` is code."""
    return isinstance(value, str) and " " in value


def _phrase(value):
    return _(value) if is_phrase(value) else f"{value}"


def _quoted(value):
    return repr(_(value)) if is_phrase(value) else repr(value)


NONE_CAME = Sentence("None (is there a return?)")


def described(value):
    """A Sentence that says what kind of value came: "a list"."""
    name = type(value).__name__
    return (
        NONE_CAME if value is None else Sentence("an {type}" if name[0] in "aeiou" else "a {type}", type=name)
    )


def _short(value):
    text = str(NONE_CAME) if value is None else _quoted(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---------------------------------------------------------------- a worked case


@dataclass(frozen=True)
class Worked:
    """A failing case that is small enough to look at: the matrix of numbers that was expected, and the one that came.

    case: the name of the case. place: the indices in front of the matrix's two axes, if any. corner: the row and column of
    its first number. given: the input, if it is small, else its shape. wrong: True where numbers differ. in_full: (expected,
    got), the complete matrices, if they are larger than what is shown.
    """

    case: str
    place: list
    corner: tuple
    expected: torch.Tensor
    got: torch.Tensor
    wrong: torch.Tensor
    given: str = ""
    in_full: tuple = ()

    @property
    def title(self):
        text = _("Worked case: {case}").format(case=_(self.case))
        if self.place:
            text += _(", at {place}").format(place=self.place)
        if any(self.corner):
            row, column = self.corner
            text += _(", from row {row}, column {column}").format(row=row, column=column)
        return text

    @property
    def digits(self):
        """How many significant digits are shown: at least four, and as many as tell what differs from what was expected."""
        pairs = list(zip(self.expected[self.wrong].tolist(), self.got[self.wrong].tolist(), strict=True))
        apart = (n for n in range(4, 18) if all(format_number(e, n) != format_number(g, n) for e, g in pairs))
        return next(apart, 4)

    @property
    def headings(self):
        """What is written above the two matrices."""
        return _("expected"), _("got (* differs)")

    @property
    def text(self):
        digits = self.digits
        blocks = [_matrix(self.expected, None, digits), _matrix(self.got, self.wrong, digits)]
        rows = [self.headings, *zip(*blocks, strict=True)]
        width = max(len(expected) for expected, _got in rows) + 4
        lines = [self.title]
        if self.given:
            lines.append("  " + _("given {input}").format(input=self.given))
        return "\n".join(lines + [f"  {a:<{width}}{b}".rstrip() for a, b in rows])


def worked(rows):
    """The failing case that shows best what is wrong, as a `Worked`: one that is small enough to be shown in full, or the smallest.

    Whole numbers come before others. Properties, such as gradients, only count if nothing else fails.
    rows: those that failed, with `case`, `expected` and `got`. None if none of these has two tensors of the same shape.
    """
    rows = list(rows)
    plain = [row for row in rows if row.case.kind != "property"]
    found = []
    for row in plain or rows:
        for e, g in _tensors(row.expected, row.got):
            if e.shape == g.shape and e.ndim and e.layout == g.layout and g.device == e.device:
                wrong = _differs(e, g, row.case.tolerance)
                if wrong.any():
                    large = e.shape[-1] > COLUMNS or e.shape[-2:-1] > (ROWS,)
                    key = e.numel() * large, not _whole(row.case.given)
                    found.append((key, row.case, e.detach(), g.detach(), wrong))
    if not found:
        return None
    case, e, g, wrong = min(found, key=lambda f: f[0])[1:]
    at = wrong.nonzero()[0].tolist()
    *place, i, j = [0, *at] if len(at) == 1 else at
    e, g, wrong = (t[None] if t.ndim == 1 else t[tuple(place)] for t in (e, g, wrong))
    in_full = (e, g) if (e.shape[0] > ROWS or e.shape[1] > COLUMNS) and max(e.shape) <= 512 else ()
    # The part that holds the first difference
    i, j = max(0, i - ROWS + 1), max(0, j - COLUMNS + 1)
    e, g, wrong = (t[i : i + ROWS, j : j + COLUMNS] for t in (e, g, wrong))
    return Worked(case.name, place, (i, j), e, g, wrong, _given(case.given), in_full)


def _whole(given):
    """Are all these inputs whole numbers, which are easily told apart?"""
    inputs = [value for value in given if isinstance(value, torch.Tensor)]
    return bool(inputs) and not any(value.detach().remainder(1).any() for value in inputs)


def _tensors(expected, got):
    if isinstance(expected, torch.Tensor) and isinstance(got, torch.Tensor):
        # a subclass may do anything when it is looked at
        yield expected, got if type(got) is torch.Tensor else got.as_subclass(torch.Tensor)
    elif isinstance(expected, tuple | list) and isinstance(got, tuple | list):
        for e, g in zip(expected, got, strict=False) if len(expected) == len(got) else ():
            yield from _tensors(e, g)


def _given(values):
    """Every tensor among the inputs: its numbers if it has at most 32, else its shape; "" if there is no tensor."""
    return "; ".join(_one_given(value) for value in values if isinstance(value, torch.Tensor))


def _one_given(value):
    if value.numel() > 32:
        return _("a tensor of shape {shape}").format(shape=tuple(value.shape))
    numbers = " ".join(_matrix(value.detach().reshape(1, -1), None))
    return f"{tuple(value.shape)}: {' '.join(numbers.split())}"


def format_number(value, digits=4):
    """A number as text, with this many significant digits if it is a float."""
    return f"{value + 0.0:.{digits}g}" if isinstance(value, float) else str(value)  # -0.0 is shown as 0


def _matrix(values, wrong, digits=4):
    """The matrix as lines of text with aligned columns, and a * after each number that differs."""
    cells = [[format_number(v, digits) for v in row] for row in values.tolist()]
    if wrong is not None:
        cells = [
            [c + ("*" if w else " ") for c, w in zip(row, marks, strict=True)]
            for row, marks in zip(cells, wrong.tolist(), strict=True)
        ]
    width = max(len(c) for row in cells for c in row)
    return [" ".join(c.rjust(width) for c in row) for row in cells]
