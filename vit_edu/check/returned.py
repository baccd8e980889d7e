"""What an answer itself returned, by its kind, and what is said if that is the wrong kind.

A case often goes on with what an answer returns, and sees no more than its own error if that is a list or None. So the first
thing that the answer returns in each case is noted, beside what the reference returns there.
"""

import contextlib
import functools
import re
import types
from dataclasses import dataclass

import numpy as np
import torch

from vit_edu.check.compare import Failure, described
from vit_edu.check.language import N_, Sentence, _

PARTS = 6  # elements of a list or tuple that are looked at
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
# In this order: a bool is an int as well.
_SORTS = (
    ("tensor", torch.Tensor),
    ("array", np.ndarray),
    ("truth", bool | np.bool_),
    ("whole number", int | np.integer),
    ("number", float | np.floating),
    ("text", str | bytes),
    ("values", tuple | list),
    ("set", set | frozenset),
    ("dictionary", dict),
    ("class", type),
    ("function", _FUNCTIONS),
    ("module", torch.nn.Module),
)
_PLAIN = {
    "truth": N_("True or False"),
    "whole number": N_("a whole number"),
    "number": N_("a number"),
    "text": N_("a text"),
}
_SCALARS = ("truth", "whole number", "number")


@dataclass(frozen=True)
class Kind:
    """What kind of value something is, without the value itself.

    sort: "nothing", one of those in _SORTS, "iterator" or "other". said: a phrase such as "a list of 3 values". shape, dtype: of a
    tensor or array. length and parts: of a list or tuple, and the kinds of its first elements; fixed: whether it is a tuple.
    """

    sort: str
    said: Sentence
    shape: tuple | None = None
    dtype: object = None
    length: int = 0
    parts: tuple = ()
    fixed: bool = False

    @property
    def single(self):
        """Is this one number, in whatever form?"""
        return self.sort in _SCALARS or (self.shape is not None and all(n == 1 for n in self.shape))


def kind_of(value, deep=True):
    """The `Kind` of a value. Nothing of an answer's own is called, and an iterator is not used up."""
    if value is None:
        return Kind("nothing", Sentence("None"))
    sort = next((sort for sort, types_ in _SORTS if issubclass(type(value), types_)), "other")
    said = Sentence(_PLAIN[sort]) if sort in _PLAIN else described(value)
    try:
        if sort in ("tensor", "array"):
            shape = tuple(map(int, value.shape))
            form = "a tensor of shape {shape}" if sort == "tensor" else "a NumPy array of shape {shape}"
            if isinstance(value.dtype, torch.dtype | np.dtype):
                return Kind(sort, Sentence(form, shape=shape), shape, value.dtype)
            return Kind("other", said)
        if sort == "values":
            parts = tuple(kind_of(v, deep=False) for v in value[:PARTS]) if deep else ()
            said = Sentence("{what} of length {number}", what=said, number=len(value))
            return Kind(sort, said, length=len(value), parts=parts, fixed=isinstance(value, tuple))
    except Exception:  # a subclass may do anything
        return Kind("other", said)
    if sort == "class":
        said = Sentence("a class, {name}", name=_name(value))
    elif sort == "module":
        said = Sentence("a module, {name}", name=_name(type(value)))
    elif sort == "other" and hasattr(type(value), "__next__"):
        sort = "iterator"
    elif sort == "other":
        said = Sentence("an object of the class {name}", name=_name(type(value)))
    return Kind(sort, said)


def _name(thing):
    return type.__getattribute__(thing, "__name__")


# ---------------------------------------------------------------- noting


@dataclass
class Call:
    """The first call of an answer in one case.

    made: the kind of what the call returned. returned: for a module, the kind of what its first forward pass returned, otherwise
    the same as `made`. None if nothing was returned. value: what was returned, kept only of the reference. printed: what the
    answer printed until then.
    """

    made: Kind | None = None
    returned: Kind | None = None
    value: object = None
    printed: str = ""


class Notes:
    """The first call in each case, as `calls`. prints: a `guard.Prints`. keep: whether values are kept as well.

    watch: an `origin.Watch`, which is on during these calls, or None.
    """

    def __init__(self, keep=False, watch=None):
        self.calls, self.prints, self.watch, self._keep, self._start = [], None, watch, keep, 0

    @contextlib.contextmanager
    def case(self):
        """Another case runs inside."""
        self.calls.append(Call())
        self._start = len(self.prints.kept) if self.prints else 0
        try:
            yield
        finally:
            self._watched(False)

    def call(self, candidate, args, kwargs):
        """What the candidate returns, which is noted if it is the first in this case."""
        if not self.calls or self.calls[-1].returned is not None:
            return candidate(*args, **kwargs)
        self._watched(True)
        result = candidate(*args, **kwargs)
        self._watched(False)
        self._note(self.calls[-1], result)
        return result

    def _note(self, call, result):
        made = kind_of(result)
        call.made = call.made or made
        if made.sort != "module":
            self._note_returned(call, result, made)
            return
        hooks = []

        def before(_module, _args):
            self._watched(call.returned is None)

        def after(_module, _args, out):
            self._watched(False)
            for hook in hooks:
                hook.remove()
            if call.returned is None:
                self._note_returned(call, out, kind_of(out))

        with contextlib.suppress(Exception):  # without super().__init__(), it has no hooks
            hooks.append(result.register_forward_pre_hook(before))
            hooks.append(result.register_forward_hook(after))

    def _note_returned(self, call, result, kind):
        call.returned = kind
        call.printed = self.prints.kept[self._start :] if self.prints else ""
        if self._keep:
            call.value = result

    def _watched(self, on):
        if self.watch:
            self.watch.start() if on else self.watch.stop()


# ---------------------------------------------------------------- telling


def diagnosis(rows, expected, got, candidate, reference):
    """What to say of an answer that fails because what it returns is of the wrong kind, or None if that is not why.

    rows: all of the answer's. expected and got: the `Call` of reference and answer for each row.
    """
    if isinstance(candidate, type) and not isinstance(reference, type):
        failed = all(not row.passed for row in rows)
        return _("The exercise asks for a function (`def`), and this is a class.") if failed else None
    apart = [_apart(e, g) for e, g in zip(expected, got, strict=False)]
    apart += [None] * (len(rows) - len(apart))
    harmless = {_pair(a) for row, a in zip(rows, apart, strict=True) if row.passed and a} - {None}
    told, unclear = [], 0
    for i, (row, pair) in enumerate(zip(rows, apart, strict=True)):
        if row.passed:
            continue
        if pair and _is_why(row, pair, _pair(pair) in harmless):
            told.append(i)
        elif pair or (
            isinstance(row.got, Failure) and row.got.kind and not (i < len(got) and got[i].returned)
        ):
            unclear += 1  # it may be, or the answer stopped before it returned anything
        else:
            return None
    if unclear >= len(told):
        return None
    first = told[0]
    longest = max((call.returned.length for call in got if call.returned), default=0)
    return _told(apart[first], expected[first], got[first], isinstance(reference, type), longest)


def _apart(expected, got):
    """The kinds in which the two calls differ, as (expected, got), or None."""
    for name in ("made", "returned"):
        e, g = getattr(expected, name), getattr(got, name)
        if e is None or g is None:
            return None
        if _differ(e, g):
            return e, g
    return None


def _differ(expected, got):
    if expected.sort == got.sort == "tensor":
        # if the shape is another as well, that says more, unless classes came for numbers, or the other way round
        unlike = expected.dtype.is_floating_point != got.dtype.is_floating_point
        return unlike or (expected.shape == got.shape and expected.dtype != got.dtype)
    if expected.sort == got.sort == "values":
        if expected.length != got.length:
            return expected.fixed
        return any(_differ(e, g) for e, g in zip(expected.parts, got.parts, strict=False))
    if expected.sort == "number" and got.sort == "whole number":
        return False
    return expected.sort != got.sort


def _pair(apart):
    """The two sorts, if a row that passed with them shows that they do not matter. None often counts as False, so it does."""
    return None if apart[1].sort == "nothing" else (apart[0].sort, apart[1].sort)


def _is_why(row, apart, harmless):
    """Is that the reason why the row failed? harmless: whether another row passed although the kinds differ in the same way.

    It is if what the case itself saw differs in kind. If the case went on with it, it may have used it as it is; then one number
    in another form is no reason, and neither is another type of numbers.
    """
    if not isinstance(row.got, Failure) and _differ(kind_of(row.expected), kind_of(row.got)):
        return True
    expected, got = apart
    alike = (expected.single and got.single) or expected.sort == got.sort
    return not harmless and (isinstance(row.got, Failure) or not alike)


def _told(apart, expected_call, call, asks_for_class, longest):
    """longest: the length of the longest list or tuple that any call returned."""
    expected, got = apart
    if expected.sort == "module" and asks_for_class:
        return _(
            "Calling your answer gave {got}; the exercise asks for a class that inherits from `nn.Module`."
        ).format(got=got.said)
    subject = N_("`forward` returned {got}, where {expected} was expected.")
    if expected_call.made is expected_call.returned or expected.sort == "module":
        subject = N_("Your function returned {got}, where {expected} was expected.")
    here, there = got.said, expected.said
    if expected.sort == got.sort == "tensor":
        form = N_("a tensor of type {dtype}")
        if expected.shape != got.shape:
            form = N_("a tensor of type {dtype} and shape {shape}")
        here, there = (Sentence(form, dtype=kind.dtype, shape=kind.shape) for kind in (got, expected))
    elif expected.sort == got.sort == "values" and expected.length == got.length:
        place, (e, g) = next(
            (i, pair)
            for i, pair in enumerate(zip(expected.parts, got.parts, strict=False), start=1)
            if _differ(*pair)
        )
        here = Sentence("{what} as its value number {number}", what=g.said, number=place)
        there = e.said
        expected, got = e, g
    elif expected.sort == "values" and got.sort != "values" and not expected.fixed:
        there = Sentence("a list")
    elif expected.sort == "module":
        there = Sentence("a module (`nn.Module`)")
    said = _(subject).format(got=here, expected=there)
    advice = _advice(expected, got, expected_call, call, longest)
    return f"{said} {advice}" if advice else said


_ADVICE = {
    "text": N_("Return the value itself, not a text that shows it."),
    "set": N_("A set has no order, and keeps equal elements only once."),
    "iterator": N_("It computes nothing until somebody asks for its elements."),
    "function": N_("Are its parentheses missing, so that it was never called?"),
    "class": N_("Are its parentheses missing, so that no object was made?"),
    "module": N_("That is the module itself, and not what it computes or holds."),
    "array": N_("Stay with tensors: a NumPy array carries no gradient and lives on the CPU."),
}


def _advice(expected, got, expected_call, call, longest):
    if got.sort == "nothing":
        if not call.printed.strip():
            return _("Is there a `return`, on every way through the code?")
        if _shows(call.printed, expected_call.value):
            return _("What it prints is right: write `return` in place of `print`.")
        return _("It prints something: `print` only shows a value, and `return` hands it on.")
    if got.sort == "values" and expected.sort != "values":
        return _about_values(expected, got, longest)
    if expected.sort == "truth" and got.sort in ("tensor", "number") and got.dtype != torch.bool:
        return _("A comparison gives one: how large a difference counts?")
    if got.single and got.sort in ("tensor", "array") and expected.sort in _SCALARS:
        return _("`.item()` gives its value as a Python number.")
    if got.sort == "array" and expected.sort == "tensor" and not expected.dtype.is_floating_point:
        return _("Stay with tensors, or make one at the end: `torch.from_numpy(...)`.")
    return _(_ADVICE[got.sort]) if got.sort in _ADVICE else ""


def _about_values(expected, got, longest):
    """What to do with a list or tuple if it should be something else. longest: see `_told`."""
    if expected.sort == "text" and longest > 1:
        return _('Return one text: `split` makes a list, `".".join(...)` puts it together again.')
    fitting = [i for i, part in enumerate(got.parts, start=1) if _fits(expected, part)]
    if len(fitting) == 1 and longest == 1:
        return _("Return what it holds, without the list or tuple around it.")
    if len(fitting) == 1:
        return _("Its value number {number} has the right form: return that alone.").format(number=fitting[0])
    if expected.sort != "tensor" or got.fixed or not got.parts:
        return ""
    if all(part.sort == "tensor" for part in got.parts):
        return _("`torch.stack` or `torch.cat` makes one tensor of several.")
    if not expected.dtype.is_floating_point:
        return _("Stay with tensors, or make one at the end: `torch.tensor(...)`.")
    return _("Stay with tensors from the input to the result: a list of numbers carries no gradient.")


def _fits(expected, got):
    return not _differ(expected, got) and expected.shape == got.shape


def _shows(printed, value):
    """Do the printed numbers say what this value is?"""
    if isinstance(value, torch.Tensor):
        numbers = value.detach().flatten().tolist()
    else:
        numbers = list(value) if isinstance(value, tuple | list) else [value]
    if not all(isinstance(n, int | float) for n in numbers):
        return False
    printed = re.sub(r"\b(dtype|grad_fn|requires_grad)=\S+", "", printed)
    shown = re.findall(r"[-+]?\b\d+\.?\d*(?:e[-+]?\d+)?|\b(?:True|False)\b", printed)
    shown = [{"True": 1.0, "False": 0.0}.get(n) if n[0] in "TF" else float(n) for n in shown]
    return len(shown) == len(numbers) and all(
        abs(a - b) <= 1e-3 * max(1, abs(b)) for a, b in zip(shown, map(float, numbers), strict=True)
    )
