"""Finds out whether a wrong answer has all the right numbers, in another arrangement that one operation explains."""

import torch

from vit_edu.check.language import N_, _

FEWEST = 6  # numbers of the results that are compared; fewer are easily the same by chance

_SINGLE = N_("All numbers are right, but {how}.")
_SOME = N_("In the cases that fail, all numbers are right, but {how}.")


def explain(rows):
    """What to say of an answer whose numbers are right and only stand in other places, or None if that is not why it fails.

    Every plain case that failed must have given a tensor, and the same operation on what was expected must explain them all.
    """
    plain = [r for r in rows if r.case.kind != "property"]
    failed = [r for r in plain if not r.passed]
    if not failed or not all(_same_numbers(r) for r in failed):
        return None
    if sum(r.expected.numel() for r in failed) < FEWEST:
        return None
    ways = [(how, move) for how, move in _ways(failed) if all(_explains(move, r) for r in failed)]
    if len(ways) != 1:
        return None
    how, move = ways[0]
    others = [r for r in plain if r.passed and isinstance(r.expected, torch.Tensor)]
    return _(_SINGLE if all(_explains(move, r) for r in others) else _SOME).format(how=how)


def _same_numbers(row):
    """Are these two tensors of the same numbers, in other places?"""
    expected, got = row.expected, row.got
    if type(expected) is not torch.Tensor or type(got) is not torch.Tensor:
        return False
    if got.layout != torch.strided or got.is_nested or got.device != expected.device:
        return False
    if expected.dtype != got.dtype or expected.numel() != got.numel() or expected.numel() < 2:
        return False
    if expected.dtype == torch.bool or expected.is_complex():
        return False
    if not expected.ndim == got.ndim <= 6 or expected.unique().numel() < 2:
        return False
    a, b = (t.detach().flatten().sort().values for t in (expected, got))
    return _close(a, b, row.case.tolerance)


def _close(a, b, tolerance):
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), tolerance, tolerance)


def _explains(move, row):
    expected, got = row.expected.detach(), row.got.detach()
    return _close(move(expected), got, row.case.tolerance)


def _ways(rows):
    """(in words, operation) for each operation that all of these results allow."""
    fewest, most = (f(r.expected.ndim for r in rows) for f in (min, max))
    if most == 2 == fewest:
        yield _("the two axes are exchanged"), torch.t
    elif fewest >= 2:
        yield _("the last two axes are exchanged"), lambda x: x.transpose(-1, -2)
        yield _("the first two axes are exchanged"), lambda x: x.transpose(0, 1)
    for axis in range(fewest):
        yield (
            _("they come in reverse order along axis {axis}").format(axis=axis),
            lambda x, axis=axis: x.flip(axis),
        )
    if most > 1:
        yield _("they come in reverse order, the last one first"), lambda x: x.flip(tuple(range(x.ndim)))
