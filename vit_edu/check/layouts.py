"""Finds ways to give a learner's module the reference's weights, when its parameters have other names or are split differently.

A learner may write three linear layers for q, k and v where the reference has one of three times the height, call a
layer `first` instead of `fc1`, or store a weight transposed. All of these compute the same once the weights are in
place. A `Layout` says where each of the reference's parameters goes.
"""

import itertools
import re
from dataclasses import dataclass

import torch

TRIED = 200  # the most layouts that are tried
STEPS = 5000  # the most steps in the search for them


@dataclass(frozen=True)
class Layout:
    """Where each of the reference's parameters goes in a learner's module.

    parts: for each parameter of the reference, its name, the learner's names, the axis along which those are joined, and the
    number of the rule that gives the learner's shape.
    """

    parts: tuple
    views: tuple = ()

    def fill(self, module, reference):
        """Copy the weights of `reference` into `module`, an instance of the learner's class. Returns `module`."""
        source, target = dict(reference.named_parameters()), dict(module.named_parameters())
        with torch.no_grad():
            for name, names, axis, rule in self.parts:
                pieces = [source[name]]
                if len(names) > 1:
                    sizes = [target[n].shape[axis] for n in names]
                    pieces = source[name].split(sizes, dim=axis)
                for n, piece in zip(names, pieces, strict=True):
                    target[n].copy_(dict(_shaped(piece, target[n].shape, self.views))[rule])
        return module

    def reference_name(self, name):
        """What the reference calls the parameter that the learner calls `name`."""
        return next(part[0] for part in self.parts if name in part[1])

    def renamed(self):
        """[(the learner's names, the reference's name), ...] of the parameters whose names differ."""
        return [(names, ours) for ours, names, *_ in self.parts if names != (ours,)]


def layouts(reference, candidate, views=()):
    """Every `Layout` that fits the shapes of two modules, the most likely first, up to TRIED of them.

    views: functions of a tensor that give the same numbers in another shape, or None; they are tried after what is
    always allowed (unchanged, transposed, axes of length 1 left out).
    """
    counts = [sum(p.numel() for p in m.parameters()) for m in (reference, candidate)]
    if counts[0] != counts[1]:
        return
    steps = iter(range(STEPS))
    found = _assign(list(_units(reference).values()), _units(candidate), views, steps)
    for parts in itertools.islice(found, TRIED):
        yield Layout(tuple(parts), tuple(views))


def _units(module):
    """{unit: {leaf: (name, tensor)}}: parameters that belong together, such as the weight and bias of one layer."""
    units = {}
    for name, value in module.named_parameters():
        # fc1.weight, in_proj_bias and w1: what the unit is called, then which part this is
        found = re.fullmatch(r"(?:(.*)[._])?(weight|bias|[wb])(\d*)", name, re.IGNORECASE)
        stem, leaf, number = found.groups() if found else (name, "", "")
        leaf = {"w": "weight", "b": "bias"}.get(leaf.lower(), leaf.lower())
        units.setdefault(f"{stem}{number}", {})[leaf] = (name, value)
    return units


def _assign(theirs, mine, views, steps):
    """Yield lists of parts. For each unit of the reference, every unused unit of the learner's is tried, or several of them.

    The search ends when `steps` is used up.
    """
    if not theirs:
        if not mine:
            yield []
        return
    first, rest = theirs[0], theirs[1:]
    for used, parts in _covers(first, mine, views):
        if next(steps, None) is None:
            return
        left = {k: v for k, v in mine.items() if k not in used}
        for others in _assign(rest, left, views, steps):
            yield [*parts, *others]


def _covers(unit, mine, views):
    """Yield the ways to cover one unit of the reference: (units used, parts)."""
    same = [u for u in mine if mine[u].keys() == unit.keys() or len(mine[u]) == len(unit) == 1]
    # The unit of the same name comes first
    name = next(iter(unit.values()))[0]
    same.sort(key=lambda u: next(iter(mine[u].values()))[0] != name)
    for u in same:
        pairs = [
            (n, *(mine[u][leaf] if leaf in mine[u] else next(iter(mine[u].values()))), v)
            for leaf, (n, v) in unit.items()
        ]
        rules = [[r for r, _ in _shaped(v, target.shape, views)] for _, _, target, v in pairs]
        for chosen in itertools.product(*rules):
            yield {u}, [(p[0], (p[1],), 0, rule) for p, rule in zip(pairs, chosen, strict=True)]
    same = [u for u in same if mine[u].keys() == unit.keys()]
    for axis in (0, 1):
        for group in _groups(unit, {u: mine[u] for u in same}, axis):
            yield (
                set(group),
                [(n, tuple(mine[u][k][0] for u in group), axis, 0) for k, (n, _) in unit.items()],
            )


def _groups(unit, mine, axis):
    """Yield units that make up one when they are joined along an axis, such as q, k and v, or the single heads."""
    fits = []
    for u, leaves in mine.items():
        pairs = [(v.shape, leaves[leaf][1].shape) for leaf, (_, v) in unit.items()]
        if all(
            len(a) == len(b) > axis
            and all(x == y for i, (x, y) in enumerate(zip(a, b, strict=True)) if i != axis)
            and b[axis] < a[axis]
            for a, b in pairs
        ):
            fits.append(u)
    total = next(iter(unit.values()))[1].shape[axis : axis + 1]
    sizes = {u: next(iter(mine[u].values()))[1].shape[axis] for u in fits}
    for count in range(2, len(fits) + 1):
        if count > 4:  # too many for every order: as in the class, sorted by name, or every third together
            orders = [fits[:count], sorted(fits[:count], key=lambda u: u.split(".")[-1])]
            orders += [[u for i in range(3) for u in fits[i:count:3]]]
        else:
            orders = itertools.permutations(fits, count)
        for group in orders:
            if sum(sizes[u] for u in group) == total[0]:
                yield group


def _shaped(value, shape, views):
    """(number of the rule, `value` in this shape) for every rule that gives it: unchanged, transposed, axes of length 1
    left out or put in, and the `views`."""
    if value.shape == shape:
        yield 0, value
    if value.ndim == 2 and value.mT.shape == shape:
        yield 1, value.mT
    squeezed = [n for n in value.shape if n > 1] == [n for n in shape if n > 1]
    if squeezed and value.shape != shape:
        yield 2, value.reshape(shape)
    for number, rule in enumerate(views, start=3):
        other = rule(value)
        if other is not None and other.shape == shape:
            yield number, other
