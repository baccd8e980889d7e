"""Cases that many exercises share: what is done with a candidate, and what is observed.

A case gets a `Subject`, which is called like the candidate itself and also holds what the candidate is compared with.
"""

import copy
import zlib
from dataclasses import dataclass, field

import torch

from vit_edu.check.compare import described
from vit_edu.check.language import N_, Sentence
from vit_edu.check.layouts import layouts
from vit_edu.check.returned import Notes


class CaseFailed(Exception):
    """A case found something that comparing values would not show.

    text: an English sentence for the learner; with values, a template for str.format. The exception's only argument is the
    `Sentence` made from them.
    """

    def __init__(self, text, **values):
        super().__init__(Sentence(text, **values))


class NoLayout(Exception):
    """The candidate's parameters cannot take the reference's weights."""


NO_GRADIENT = N_("gets no gradient")


@dataclass(frozen=True)
class Case:
    """One thing that an exercise checks.

    name: what it looks at, in a learner's words. hint: shown when it fails. Both are in English and are translated when they
    are shown. run: candidate -> something to compare.
    kind: "parameters" for names and shapes, "weights" for what can be compared only when those are right, "property" for
    what is worth mentioning only when the plain cases are right.
    given: the arguments, if they are worth showing. remark: whether it uses a type of numbers that the exercise does not ask for:
    an answer that fails for the type alone is right, and a remark says so. The first of `given` then has that type.
    shows: the known mistake of which a `CaseFailed` in this case is evidence enough, whatever the other cases say.
    """

    name: str
    run: callable
    hint: str = ""
    tolerance: float = 1e-5
    kind: str = ""
    given: tuple = ()
    remark: bool = False
    shows: str = ""


@dataclass
class Subject:
    """A candidate on its way through the cases.

    build: the candidate itself. reference: what it is compared with. views: see `layouts`. notes: what it returned.
    layouts: the layouts that were used, by the sizes of the module. layout_confirmed: whether the candidate, with one of them,
    computes what the reference does.
    """

    build: callable
    reference: callable
    views: tuple = ()
    notes: Notes = field(default_factory=Notes)
    layouts: dict = field(default_factory=dict)
    layout_confirmed: bool = False

    def __call__(self, *args, **kwargs):
        return self.notes.call(self.build, args, kwargs)


# Added to the seed of every input. Answers draw with the global generator, which starts at 0, or set a small seed of their
# own: their numbers must not be those of the inputs.
INPUTS = 0x5EED_0000


def generator(seed=0):
    """A generator for inputs, with a start that no answer is likely to use."""
    return torch.Generator().manual_seed(INPUTS + seed)


def drawn(*shape, seed=0):
    """Normally distributed numbers of this shape, the same for the same seed."""
    return torch.randn(shape, generator=generator(seed))


# ---------------------------------------------------------------- functions


def apply(candidate, *args, **kwargs):
    """The candidate's result for copies of these arguments. CaseFailed if it changes a tensor in place."""
    mine, named = _copy(args), _copy(kwargs)
    result = candidate(*mine, **named)
    for before, after in zip([*args, *kwargs.values()], [*mine, *named.values()], strict=True):
        if isinstance(before, torch.Tensor) and not (
            before.shape == after.shape and torch.equal(before, after)
        ):
            raise CaseFailed(
                "your code changes its input in place. The caller still needs the old values, so make a new tensor "
                "instead (x = x + 1, not x += 1)."
            )
    return result


def settled(candidate, *args, **kwargs):
    """The same as `apply`. CaseFailed if the candidate gives something else when it is called again.

    Which numbers a random answer gives depends on how it draws them; that it is random does not.
    """
    first = apply(candidate, *args, **kwargs)
    tensors = _with_numbers(first)
    if tensors:
        # A few draws are easily the same by chance.
        for _ in range(8 if sum(v.numel() for v in tensors) <= 60 else 1):
            again = _with_numbers(apply(candidate, *args, **kwargs))
            if not all(_same(a, b) for a, b in zip(tensors, again, strict=False)):
                raise CaseFailed("the same input gives another result each time")
    return first


def _with_numbers(out):
    """The tensors in a result, except for those whose numbers cannot be compared."""
    ordinary = (v for v in _flat(out) if isinstance(v, torch.Tensor) and v.layout == torch.strided)
    return [v for v in ordinary if not (v.is_nested or v.is_meta)]


def _same(a, b):
    if a.shape != b.shape or a.dtype != b.dtype or not a.is_floating_point():
        return torch.equal(a, b)
    return torch.allclose(a, b, 1e-5, 1e-6, equal_nan=True)


def plain_number(value):
    """The value. CaseFailed if it is a tensor with one number."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        raise CaseFailed(
            "expected a plain Python number, got a tensor that holds {value:.4g}. `.item()` gives you the number.",
            value=value.item(),
        )
    return value


def call(name, *args, hint="", tolerance=1e-5, kind="", remark=False, **kwargs):
    """A case that calls the candidate with copies of these arguments."""
    return Case(
        name, lambda candidate: settled(candidate, *args, **kwargs), hint, tolerance, kind, args, remark
    )


def in_double(*args, asked=False, tolerance=1e-9, **kwargs):
    """A case that does the same in float64, compared to 1e-9. It finds formulas that are only nearly right.

    asked: whether the text of the exercise asks for any dtype. If not, a fixed dtype is a remark.
    """
    args = tuple(v.double() if _is_float(v) else v for v in args)
    return call(
        "numbers in float64 give an answer in float64",
        *args,
        hint="Take dtype and device from the input (x.new_zeros, device=x.device, .to(x.dtype)) instead of fixing them.",
        tolerance=tolerance,
        kind="property",
        remark=not asked,
        **kwargs,
    )


def not_contiguous(*args, **kwargs):
    """A case with the same numbers in another memory layout, as after a transpose."""
    args = tuple(_scattered(v) if isinstance(v, torch.Tensor) else v for v in args)
    return call(
        "an input that was transposed before (not contiguous in memory)",
        *args,
        hint=".view needs contiguous memory; .reshape copies where it must.",
        kind="property",
        **kwargs,
    )


def passes_gradient(*args, hint="", **kwargs):
    """A case that compares the gradient of every floating-point input, for a fixed weighting of the outputs."""

    def run(candidate):
        inputs = [v.clone().requires_grad_() if _is_float(v) else v for v in args]
        out = candidate(*inputs, **kwargs)
        total = sum((o * drawn(*o.shape)).sum() for o in _flat(out) if isinstance(o, torch.Tensor))
        if not isinstance(total, torch.Tensor) or not total.requires_grad:
            raise CaseFailed("the result is cut off from the gradient, so nothing before it could learn")
        total.backward()
        grads = [v.grad for v in inputs if _is_float(v)]
        missing = [str(i + 1) for i, g in enumerate(grads) if g is None]
        if missing:
            raise CaseFailed(
                "no gradient reaches floating-point input {inputs}, so nothing before it could learn",
                inputs=", ".join(missing),
            )
        return grads

    return Case(
        "the gradient reaches the input",
        run,
        hint or "Do not use .data, .detach(), .item(), torch.tensor(...) or no_grad on the way.",
        1e-4,
        "property",
    )


def _flat(out):
    return out if isinstance(out, tuple | list) else [out]


def _is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _scattered(value):
    """The same numbers with reversed strides."""
    axes = tuple(reversed(range(value.ndim)))
    return value.permute(axes).contiguous().permute(axes)


def _copy(values):
    """Copies with the same strides."""

    def one(v):
        if not isinstance(v, torch.Tensor):
            return v
        return v.detach().clone().requires_grad_(v.requires_grad)

    return {k: one(v) for k, v in values.items()} if isinstance(values, dict) else [one(v) for v in values]


# ---------------------------------------------------------------- modules


def fill(module):
    """Give every parameter a value that depends only on its name and shape. Returns the module.

    Two modules with the same names and shapes then compute the same, in whatever order they were built.
    """
    with torch.no_grad():
        for name, value in module.named_parameters():
            fan_in = value[0].numel() if value.ndim > 1 else 4
            value.copy_(drawn(*value.shape, seed=zlib.crc32(name.encode())) / fan_in**0.5)
    return module


def _made(candidate, args, kwargs):
    """What the class makes of these arguments. Modules among them are copied: no two blocks share what they are made of."""
    own = [copy.deepcopy(v) if isinstance(v, torch.nn.Module) else v for v in args]
    named = {k: copy.deepcopy(v) if isinstance(v, torch.nn.Module) else v for k, v in kwargs.items()}
    return candidate(*own, **named)


def build(candidate, *args, **kwargs):
    """Make a module from the candidate class. CaseFailed if it is not an nn.Module."""
    made = _made(candidate, args, kwargs)
    if not isinstance(made, torch.nn.Module):
        raise CaseFailed("expected a torch.nn.Module, got {got}", got=described(made))
    return made


def filled(subject, *args, **kwargs):
    """The candidate's module with known weights, those of the `fill`ed reference.

    If its parameters have other names or are split up differently, a layout says where the weights go: the one with which
    the module computes what the reference does, if `forward` has found it, or else the first that fits. NoLayout if none fits.
    """
    module = build(subject, *args, **kwargs)
    if subject.build is subject.reference:
        return fill(module)
    reference = _made(subject.reference, args, kwargs)
    if _shapes(module) == _shapes(reference):
        return fill(module)
    fill(reference)
    layout = subject.layouts.get(_sizes(args, kwargs))
    if layout is None:
        layout = next(layouts(reference, module, subject.views), None)
    if layout is None:
        raise NoLayout
    subject.layouts[_sizes(args, kwargs)] = layout
    return layout.fill(module, reference)


def _sizes(args, kwargs):
    return repr(args), repr(sorted(kwargs.items()))


def _shapes(module):
    return {n: p.shape for n, p in module.named_parameters()}


def find_layout(subject, inputs, args, kwargs, tolerance):
    """Look for the layout with which the candidate computes what the reference does, for a module of these sizes."""
    module = build(subject, *args, **kwargs)
    reference = _made(subject.reference, args, kwargs).eval()
    if _shapes(module) == _shapes(reference) or _sizes(args, kwargs) in subject.layouts:
        return
    fill(reference)
    with torch.no_grad():
        wanted = reference(*_copy(inputs))
        for layout in layouts(reference, module, subject.views):
            out = layout.fill(module, reference).eval()(*_copy(inputs))
            if out.shape == wanted.shape and torch.allclose(out, wanted, tolerance, tolerance):
                subject.layouts[_sizes(args, kwargs)], subject.layout_confirmed = layout, True
                return


def parameters(name, *args, hint="", **kwargs):
    """A case that compares names and shapes of the module's parameters and of its saved buffers."""

    def run(subject):
        module = build(subject, *args, **kwargs)
        shapes = {n: Sentence("shape {shape}", shape=tuple(p.shape)) for n, p in module.named_parameters()}
        saved = module.state_dict().keys()  # buffers that are not saved do not matter
        return shapes | {
            n: Sentence("buffer of shape {shape}", shape=tuple(b.shape))
            for n, b in module.named_buffers()
            if n in saved
        }

    return Case(name, run, hint, kind="parameters")


def forward(name, *args, inputs, train=False, double=False, hint="", tolerance=1e-4, **kwargs):
    """A case that builds the module, fills it with known weights and applies it to `inputs` (a tuple of tensors).

    train: whether it is in training mode. double: whether module and inputs are in float64, which is never asked for.
    """
    if double:
        inputs = tuple(v.double() for v in inputs)

    def run(subject):
        if not double and subject.build is not subject.reference:
            find_layout(subject, inputs, args, kwargs, tolerance)
        module = filled(subject, *args, **kwargs).train(train)
        if double:
            module.double()
        torch.manual_seed(1)
        return settled(module, *inputs)

    return Case(name, run, hint, tolerance, kind="weights", given=inputs, remark=double)


def gradients(name, *args, inputs, hint="", **kwargs):
    """A case that compares which parameters receive a gradient that is not all zero."""

    def run(subject):
        module = filled(subject, *args, **kwargs).train()
        out = module(*_copy(inputs))
        if not isinstance(out, torch.Tensor):
            raise CaseFailed("expected one tensor from forward, got {got}", got=described(out))
        if not out.requires_grad:
            raise CaseFailed("the output does not depend on any parameter in a way that can be learned")
        out.square().sum().backward()
        layout = subject.layouts.get(_sizes(args, kwargs))
        answer = {}
        for n, p in module.named_parameters():
            reached = p.grad is not None and bool(p.grad.any())
            n = layout.reference_name(n) if layout else n
            if answer.get(n) != NO_GRADIENT:
                answer[n] = N_("gets a gradient") if reached else NO_GRADIENT
        return answer

    return Case(name, run, hint, kind="weights")
