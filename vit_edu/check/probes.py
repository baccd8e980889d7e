"""Finds a number that is built into a wrong answer, by experiment: with which sizes does the answer become right?

An exercise declares its sizes, such as the number of heads, and how to make a case from them. If an answer is wrong and no
known mistake explains it, it is tried with other sizes, one changed at a time: those that the lessons use, and the numbers
that occur in the answer itself. If exactly one number makes it right, and does so again among other sizes, the learner is
told this number.
"""

import functools
import types
from dataclasses import dataclass

from vit_edu.check import guard
from vit_edu.check.compare import STOPPED, TOO_LARGE, TOO_SLOW, UNWRITTEN, Failure, compare
from vit_edu.check.language import N_, _, ngettext

SECONDS = 2.0  # the most that each of the two rounds may take; most take a tenth of it
TRIED = 10  # values of one size

# After these, an experiment would take long or say nothing.
_HOPELESS = {TOO_SLOW, TOO_LARGE, STOPPED, UNWRITTEN}


class Sizes:
    """The sizes of an exercise. case: a function of sizes that returns a `Case`, or raises if they do not fit together.

    values: {size: (value, another one, then the usual ones)}. The keys are those of KINDS. The first values of all sizes
    together are where the experiment starts; they differ from each other and are none of the usual numbers. It is confirmed
    with the second values.
    """

    def __init__(self, case, **values):
        self.case, self.values = case, values
        self.base = {name: v[0] for name, v in values.items()}
        self.other = {name: v[1] for name, v in values.items()}
        self.known, self._misfits = {}, set()

    def prepare(self, exercise, wanted):
        """Put the case of each of these values, and what it sees of the reference, into `known`, unless they do not fit."""
        cases = {}
        for values in wanted:
            if values not in self.known and values not in self._misfits:
                try:
                    cases[values] = self.case(**dict(values))
                except Exception:
                    self._misfits.add(values)
        seen = exercise.observe(exercise.reference, list(cases.values())).got
        for (values, case), expected in zip(cases.items(), seen, strict=True):
            if isinstance(expected, Failure) or not compare(case, expected, expected)[0]:
                self._misfits.add(values)
            else:
                self.known[values] = case, expected


@dataclass(frozen=True)
class Kind:
    """How learners are told about a size.

    name: "the number of heads". said: the value in words, "4 heads". most: the largest value that is tried. between: what to
    look at in an answer that is right only if the size is 1. axis: does a size of 1 make an axis of length 1?
    """

    name: str
    said: callable
    most: int = 256
    between: str = ""
    axis: bool = False


KINDS = {
    "images": Kind(
        N_("the number of images"),
        lambda n: ngettext("one image", "{number} images", n),
        between=N_("Look at what happens between the images."),
        axis=True,
    ),
    "clips": Kind(
        N_("the number of clips"),
        lambda n: ngettext("one clip", "{number} clips", n),
        between=N_("Look at what happens between the clips."),
        axis=True,
    ),
    "frames": Kind(
        N_("the number of frames"),
        lambda n: ngettext("one frame", "{number} frames", n),
        64,
        N_("Look at what happens between the frames."),
        axis=True,
    ),
    "times": Kind(
        N_("the number of times"),
        lambda n: ngettext("one time", "{number} times", n),
        64,
        N_("Look at what happens from one time to the next."),
        axis=True,
    ),
    "tubelet": Kind(
        N_("the number of frames in a tubelet"),
        lambda n: ngettext("tubelets of one frame", "tubelets of {number} frames", n),
        16,
        N_("Look at what happens between the frames of a tubelet."),
        axis=True,
    ),
    "channels": Kind(
        N_("the number of channels"),
        lambda n: ngettext("one channel", "{number} channels", n),
        64,
        N_("Look at what happens between the channels."),
        axis=True,
    ),
    "image_size": Kind(
        N_("the size of the images"),
        lambda n: _("images of {number} x {number} pixels"),
    ),
    "image_height": Kind(
        N_("the height of the images"),
        lambda n: ngettext("images one pixel high", "images {number} pixels high", n),
    ),
    "image_width": Kind(
        N_("the width of the images"),
        lambda n: ngettext("images one pixel wide", "images {number} pixels wide", n),
    ),
    "patch": Kind(
        N_("the size of the patches"),
        lambda n: ngettext("patches of a single pixel", "patches of {number} x {number} pixels", n),
        16,
        N_("Look at the pixels inside a patch."),
    ),
    "patches": Kind(
        N_("the number of patches"),
        lambda n: ngettext("one patch", "{number} patches", n),
        between=N_("Look at what happens between the patches."),
        axis=True,
    ),
    "stride": Kind(
        N_("the stride"),
        lambda n: ngettext("a stride of one pixel", "a stride of {number} pixels", n),
        16,
    ),
    "kernel": Kind(
        N_("the size of the kernel"),
        lambda n: _("a kernel of {number} x {number}"),
        16,
    ),
    "shift": Kind(
        N_("the shift"),
        lambda n: ngettext("a shift of one pixel", "a shift of {number} pixels", n),
        16,
        N_("Look at how far the images move."),
    ),
    "window": Kind(
        N_("the size of the windows"),
        lambda n: ngettext("windows of a single token", "windows of {number} x {number} tokens", n),
        16,
    ),
    "moved": Kind(
        N_("the shift"),
        lambda n: ngettext("a shift of one token", "a shift of {number} tokens", n),
        16,
    ),
    "padding": Kind(
        N_("the padding"),
        lambda n: ngettext("a padding of one pixel", "a padding of {number} pixels", n),
        5,
    ),
    "rows": Kind(
        N_("the number of rows"),
        lambda n: ngettext("one row", "{number} rows", n),
    ),
    "columns": Kind(
        N_("the number of columns"),
        lambda n: ngettext("one column", "{number} columns", n),
    ),
    "kept": Kind(
        N_("the number of patches that are kept"),
        lambda n: ngettext("one kept patch", "{number} kept patches", n),
        axis=True,
    ),
    "numbers": Kind(
        N_("the count of numbers in a patch"),
        lambda n: ngettext("one number in a patch", "{number} numbers in a patch", n),
        768,
    ),
    "tokens": Kind(
        N_("the number of tokens"),
        lambda n: ngettext("one token", "{number} tokens", n),
        between=N_("Look at what happens between the tokens."),
        axis=True,
    ),
    "width": Kind(
        N_("the width of the tokens"),
        lambda n: _("a width of {number}"),
    ),
    "hidden": Kind(
        N_("the width of the hidden layer"),
        lambda n: _("a hidden width of {number}"),
    ),
    "ratio": Kind(
        N_("the ratio of the MLP"),
        lambda n: _("a ratio of {number}"),
        8,
        N_("Look at how the hidden width depends on the ratio."),
    ),
    "heads": Kind(
        N_("the number of heads"),
        lambda n: ngettext("one head", "{number} heads", n),
        16,
        N_("Look at what happens between the heads."),
        axis=True,
    ),
    "head_width": Kind(
        N_("the width of a head"),
        lambda n: _("heads of width {number}"),
    ),
    "depth": Kind(
        N_("the number of blocks"),
        lambda n: ngettext("one block", "{number} blocks", n),
        6,
        N_("Look at what happens from one block to the next."),
    ),
    "layers": Kind(
        N_("the number of layers"),
        lambda n: ngettext("one layer", "{number} layers", n),
        16,
        N_("Look at what happens from one layer to the next."),
    ),
    "classes": Kind(
        N_("the number of classes"),
        lambda n: ngettext("one class", "{number} classes", n),
        1000,
        axis=True,
    ),
    "prefix": Kind(
        N_("the number of prefix tokens"),
        lambda n: ngettext("one prefix token", "{number} prefix tokens", n),
        8,
        N_("Look at what happens to the other prefix tokens."),
        axis=True,
    ),
    "batches": Kind(
        N_("the number of batches"),
        lambda n: ngettext("one batch", "{number} batches", n),
        32,
        N_("Look at what happens from one batch to the next."),
    ),
    "batch": Kind(
        N_("the number of images in a batch"),
        lambda n: ngettext("one image in a batch", "{number} images in a batch", n),
        between=N_("Look at what happens between the images of a batch."),
        axis=True,
    ),
    "labelled": Kind(
        N_("the number of labelled images"),
        lambda n: ngettext("one labelled image", "{number} labelled images", n),
        between=N_("Look at what happens between the labelled images."),
        axis=True,
    ),
    "queries": Kind(
        N_("the number of queries"),
        lambda n: ngettext("one query", "{number} queries", n),
        between=N_("Look at what happens between the queries."),
        axis=True,
    ),
    "objects": Kind(
        N_("the number of objects"),
        lambda n: ngettext("one object", "{number} objects", n),
        between=N_("Look at what happens between the objects."),
        axis=True,
    ),
    "predictions": Kind(
        N_("the number of predicted boxes"),
        lambda n: ngettext("one predicted box", "{number} predicted boxes", n),
    ),
    "boxes1": Kind(
        N_("the number of boxes in the first argument"),
        lambda n: ngettext("one box in the first argument", "{number} boxes in the first argument", n),
        between=N_("Look at what happens between the boxes of the first argument."),
        axis=True,
    ),
    "boxes2": Kind(
        N_("the number of boxes in the second argument"),
        lambda n: ngettext("one box in the second argument", "{number} boxes in the second argument", n),
        between=N_("Look at what happens between the boxes of the second argument."),
        axis=True,
    ),
    "neighbours": Kind(
        N_("the number of neighbours"),
        lambda n: ngettext("one neighbour", "{number} neighbours", n),
        between=N_("Look at how several neighbours vote."),
        axis=True,
    ),
    "filters": Kind(
        N_("the number of filters"),
        lambda n: ngettext("one filter", "{number} filters", n),
        axis=True,
    ),
    "components": Kind(
        N_("the number of components"),
        lambda n: ngettext("one component", "{number} components", n),
        axis=True,
    ),
    "steps": Kind(
        N_("the number of steps"),
        lambda n: ngettext("one step", "{number} steps", n),
        1000,
    ),
    "warmup": Kind(
        N_("the number of warm-up steps"),
        lambda n: ngettext("one step of warm-up", "{number} steps of warm-up", n),
    ),
    "eps": Kind(N_("eps"), lambda n: _("an eps of {number}")),
    "rate": Kind(N_("the drop rate"), lambda n: _("a drop rate of {number}")),
    "peak": Kind(N_("the peak"), lambda n: _("a peak of {number}")),
    "low": Kind(N_("the lowest rate"), lambda n: _("a lowest rate of {number}")),
    "high": Kind(N_("the highest rate"), lambda n: _("a highest rate of {number}")),
    "keep": Kind(N_("the share of the tokens that stay"), lambda n: _("a share of {number}")),
    "smoothing": Kind(N_("the smoothing"), lambda n: _("a smoothing of {number}")),
    "decay": Kind(N_("the decay"), lambda n: _("a decay of {number}")),
    "penalty": Kind(N_("the penalty"), lambda n: _("a penalty of {number}")),
}


def _said(name, value):
    return KINDS[name].said(value).format(number=f"{value:g}" if isinstance(value, float) else value)


# ---------------------------------------------------------------- the experiment


def explain(exercise, candidate, rows):
    """What the sizes say about a wrong answer, in the learner's language, or None. rows: those of its cases. Never raises."""
    if not exercise.sizes or not _promising(rows):
        return None
    try:
        return _explain(exercise, candidate)
    except Exception:  # an answer may be odder than its cases show, and then there is nothing to say
        return None


def _promising(rows):
    """Does a plain case fail, and does the answer come to an end?"""
    if any(isinstance(row.got, Failure) and row.got.kind in _HOPELESS for row in rows):
        return False
    return any(not row.passed and row.case.kind not in ("property", "parameters") for row in rows)


# What a value of a size means: the answer is right with it only, with nothing smaller to be tried in the case of SMALLEST;
# right up to it; or wrong with it only.
FIXED, MOST, SMALLEST, WRONG = range(4)


@dataclass(frozen=True)
class Finding:
    """A value of a size that makes a difference, and another value for comparison. kind: FIXED, MOST, SMALLEST or WRONG."""

    kind: int
    name: str
    value: object
    contrast: object

    def expects(self, value):
        """Should the answer be right with this value?"""
        if self.kind == MOST:
            return value <= self.value
        return (value == self.value) is (self.kind != WRONG)


def _explain(exercise, candidate):
    tried = _Trials(exercise, candidate)
    plan = [
        (sizes, name, _values(sizes, name, tried.numbers))
        for sizes in exercise.sizes
        for name in sizes.values
    ]
    tried.run((sizes, sizes.base | {name: v}) for sizes, name, values in plan for v in values)
    suspects = [
        (sizes, found)
        for sizes, name, values in plan
        for found in _findings(name, tried.right(sizes, sizes.base, name, values))
    ]
    again = [(sizes, start, f) for sizes, f in suspects for start in (sizes.base, sizes.other)]
    tried.run((sizes, start | {f.name: v}) for sizes, start, f in again for v in _controls(sizes, f))
    found = [
        (f.kind, exercise.sizes.index(sizes), f)
        for sizes, f in suspects
        if all(
            _confirms(f, tried.right(sizes, start, f.name, _controls(sizes, f)))
            for start in (sizes.base, sizes.other)
        )
    ]
    if not found:
        return None
    # What is easily right, such as attention to a single token, tells less than a number that is fixed, and a size that is
    # made of others, such as the number of patches, less than those.
    best = min(each[:2] for each in found)
    said = {f for *weight, f in found if tuple(weight) == best}
    return (
        _sentence(next(f for *_weight, f in found if f in said))
        if len(said) == 1 or best[0] == WRONG
        else None
    )


def _values(sizes, name, numbers):
    """What is tried for a size: its own values, one, and the numbers of the answer."""
    own = sizes.values[name]
    kind = type(own[0])
    more = [v for v in (1, *numbers) if type(v) is kind and v <= KINDS[name].most]
    return list(dict.fromkeys([*own, *more]))[:TRIED]


def _findings(name, seen):
    """What can be said about one size. seen: {value: was the answer right?}"""
    right, wrong = [v for v, ok in seen.items() if ok], [v for v, ok in seen.items() if not ok]
    if not right or not wrong:
        return
    whole = type(right[0]) is int
    if len(right) == 1 and len(wrong) >= 2:
        smallest = whole and right[0] == min(seen)
        yield Finding(SMALLEST if smallest else FIXED, name, right[0], wrong[0])
    elif whole and max(right) < min(wrong) and len(wrong) >= 2:
        yield Finding(MOST, name, max(right), wrong[0])
    if whole and wrong == [1] and len(right) >= 2:
        yield Finding(WRONG, name, 1, right[0])


def _controls(sizes, finding):
    """Values with which a finding is confirmed, its own first.

    Its neighbours are among them: an answer that is right with every large number has none built in.
    """
    value, name = finding.value, finding.name
    if isinstance(value, float):
        near = (value * 2, value / 2, value * 1.1)
    else:
        near = () if finding.kind == WRONG else (value - 1, value + 1, 2 * value)
    return list(dict.fromkeys(v for v in (value, sizes.base[name], sizes.other[name], *near) if v > 0))


def _confirms(finding, seen):
    """Does a finding hold for all that was tried, its own value and others?"""
    return finding.value in seen and len(seen) > 1 and all(ok is finding.expects(v) for v, ok in seen.items())


def _sentence(finding):
    """What the learner reads, or None if that would be of no use."""
    kind = KINDS[finding.name]
    said = {"these": _said(finding.name, finding.value), "those": _said(finding.name, finding.contrast)}
    if finding.kind == FIXED:
        text = _(
            "This looks as if {size} were fixed at {value}: with {these} your answer is right, with {those} it is not."
        )
        return text.format(size=_(kind.name), value=f"{finding.value:g}", **said)
    if finding.kind == MOST:
        return _("With up to {these} your answer is right, with {those} it is not.").format(**said)
    if finding.kind == WRONG:
        text = _("With {those} your answer is right, with {these} it is not.").format(**said)
        return (
            f"{text} {_('Does something remove an axis of length 1, as `squeeze()` does?')}"
            if kind.axis
            else text
        )
    if finding.value > 1 or not kind.between:
        return None  # where there is hardly anything to compute, anything may be right
    return (
        f"{_('With {these} your answer is right, with {those} it is not.').format(**said)} {_(kind.between)}"
    )


class _Trials:
    """A wrong answer and how it does with sizes. numbers: those in its code."""

    def __init__(self, exercise, candidate):
        self.exercise, self.candidate, self.numbers = exercise, candidate, _numbers(candidate)
        self.found = {}

    def run(self, wanted):
        """Try the answer with all (sizes, values) that fit together. TimeoutError if this takes too long."""
        wanted = list(dict.fromkeys((sizes, tuple(values.items())) for sizes, values in wanted))
        for sizes in dict.fromkeys(sizes for sizes, _values in wanted):
            sizes.prepare(self.exercise, [values for each, values in wanted if each is sizes])
        ready = [(key, *key[0].known[key[1]]) for key in wanted if key[1] in key[0].known]
        got = self.exercise.observe(self.candidate, [case for _key, case, _expected in ready], SECONDS).got
        if any(isinstance(g, Failure) and g.kind in _HOPELESS for g in got):
            raise TimeoutError
        for (key, case, expected), g in zip(ready, got, strict=True):
            self.found[key] = compare(case, expected, g)[0]

    def right(self, sizes, start, name, values):
        """{value of the size: was the answer right?}, the other sizes as in `start`."""
        keys = {v: (sizes, tuple((start | {name: v}).items())) for v in values}
        return {v: self.found[key] for v, key in keys.items() if key in self.found}


# ---------------------------------------------------------------- the numbers of an answer


def _numbers(candidate):
    """The numbers in an answer's code, and the sizes that they may stand for: 65 tokens for 64 patches, 8 for the root of 64."""
    found = []
    for function in guard.functions(candidate):
        found += function.__defaults__ or ()
        found += (function.__kwdefaults__ or {}).values()
        for code in _codes(function.__code__):
            found += code.co_consts
            found += [function.__globals__.get(name) for name in code.co_names]
    if isinstance(candidate, type):
        found += vars(candidate).values()
    plain = dict.fromkeys(n for n in found if type(n) in (int, float) and 0 < n <= 10_000)
    return list(dict.fromkeys([*plain, *(n for number in plain for n in _meant(number))]))


def _codes(code):
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _codes(inner)


def _meant(number):
    """Whole numbers for which this one may stand."""
    near = (number, number - 1, number**2) if number > 1 else (1 / number, 1 / number**2)
    return [round(n) for n in near if abs(n - round(n)) < 1e-6 and 1 < n <= 10_000]


@functools.cache
def grid(number):
    """(rows, columns) of the most nearly square grid with this many places."""
    rows = next(n for n in range(int(number**0.5), 0, -1) if number % n == 0)
    return rows, number // rows
