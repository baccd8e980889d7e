"""Are two models the same function? Both run on the same images and are compared after every step."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@dataclass(frozen=True)
class Step:
    """One row of a `Parity`. difference: the largest absolute difference. relative: that, divided by the largest number of theirs."""

    name: str
    shape: tuple
    difference: float
    relative: float


@dataclass(frozen=True)
class Parity:
    """The result of `parity`; print it. steps: list of `Step`, in the order in which a model computes them."""

    steps: list
    tolerance: float

    @property
    def first(self):
        """The name of the first step that differs by more than the tolerance, or None."""
        return next((s.name for s in self.steps if not s.relative <= self.tolerance), None)

    @property
    def largest(self):
        """The largest relative difference of all steps, or nan if there is one."""
        return max((s.relative for s in self.steps), key=lambda r: float("inf") if r != r else r)

    @property
    def equal(self):
        """Whether no step differs by more than the tolerance."""
        return self.first is None

    def __str__(self):
        rows = [("step", "shape", "largest difference", "relative", "")]
        for s in self.steps:
            bad = not s.relative <= self.tolerance
            mark = "differs" if bad else "equal"
            mark += "  <- the first" if s.name == self.first else ""
            rows.append((s.name, str(s.shape), f"{s.difference:.1e}", f"{s.relative:.1e}", mark))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}  {e}".rstrip()
            for a, b, c, d, e in rows
        ]
        end = f"equal within {self.tolerance:g}" if self.equal else f"differ from {self.first} on"
        return "\n".join([*lines, f"The two {end}; largest relative difference {self.largest:.1e}."])

    __repr__ = __str__


def parity(ours, theirs, images, dtype=None, tolerance=None, blocks=None):
    """Run two ViTs on the same images and compare after the embedding, after both halves of every block, and at the end.

    ours, theirs: modules of any library whose blocks are in one nn.Sequential or nn.ModuleList, or in one for each stage (Swin), or what `steps` returned.
    blocks: the name of that list in theirs, such as "transformer.layers", if it is not found or another list is longer. images: (B, C, H, W). dtype: torch.float64 computes in double, on copies. tolerance: relative, 1e-5 by default, 1e-10
    in float64. Returns a `Parity`: print it for the table; `.first` names the first step at which the two differ.
    Raises ValueError if the two do not have equally many blocks, or no blocks are found.
    """
    a, b = (
        m if isinstance(m, dict) else steps(m, images, dtype, path)
        for m, path in ((ours, None), (theirs, blocks))
    )
    common = [name for name in b if name in a]
    counts = [sum(n.startswith("block ") and "attention" not in n for n in x) for x in (a, b)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"ours has {counts[0]} blocks and theirs {counts[1]}, so they are not of the same architecture."
        )
    rows = []
    for name in common:
        x, y = a[name].double(), b[name].double()
        if x.shape == y.shape:
            difference = (x - y).abs().max().item()
            relative = difference / max(y.abs().max().item(), 1e-30)
        else:
            difference = relative = float("inf")
        shape = tuple(x.shape) if x.shape == y.shape else f"{tuple(x.shape)} and {tuple(y.shape)}"
        rows.append(Step(name, shape, difference, relative))
    return Parity(rows, tolerance or TOLERANCE.get(dtype, 1e-5))


@torch.no_grad()
def steps(model, images, dtype=None, blocks=None):
    """What a ViT computes on the way: {"embedding", "block 0 attention", "block 0", ..., "output": tensor}.

    "block i attention" is what enters the second layer norm of block i: the tokens after the attention was added to them.
    model, blocks: see `parity`. It runs in eval mode and is left as it was. A block may also be an nn.ModuleList of halves, which
    its owner calls: what leaves it is what enters the next one. Raises ValueError if no blocks are found.
    """
    if dtype is not None:
        model, images = copy.deepcopy(model).to(dtype), images.to(dtype)
    blocks, found, hooks = _blocks(model, blocks), {}, []
    halves = isinstance(blocks[0], nn.ModuleList)
    owner_adds = [halves]  # whether the skip around the last half is outside of it

    def entering(name):
        def keep(module, args, kwargs):
            found[name] = _as_tokens(_entering(args, kwargs).clone())

        return keep

    def leaving(name):
        def keep(module, args, kwargs, result):
            result = result if isinstance(result, torch.Tensor) else result[0]
            found[name] = _as_tokens(result + _entering(args, kwargs) if owner_adds[0] else result.clone())

        return keep

    def following(name):
        def keep(module, args, kwargs):
            there = _entering(args, kwargs).clone()
            owner_adds[0] = owner_adds[0] and torch.equal(found[name], there)
            found[name] = there

        return keep

    training = model.training
    try:
        for i, block in enumerate(blocks):
            norms = [m for m in block.modules() if isinstance(m, nn.LayerNorm)]
            if len(norms) == 2:
                hook = entering(f"block {i} attention")
                hooks.append(norms[1].register_forward_pre_hook(hook, with_kwargs=True))
            first, last = (block[0], block[-1]) if halves else (block, block)
            if i == 0:
                hooks.append(first.register_forward_pre_hook(entering("embedding"), with_kwargs=True))
            elif halves:
                hooks.append(first.register_forward_pre_hook(following(f"block {i - 1}"), with_kwargs=True))
            hooks.append(last.register_forward_hook(leaving(f"block {i}"), with_kwargs=True))
        found["output"] = _output(model, model.eval()(images))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if "embedding" not in found:
        raise ValueError(
            f"the {len(blocks)} modules that were taken for the blocks of {type(model).__name__} did not run: name the right list with blocks=."
        )
    return found


def _as_tokens(x):
    """(B, T, D), also where the tokens of a Swin are a map, (B, H, W, D)."""
    return x.flatten(1, 2) if x.ndim == 4 else x


def _entering(args, kwargs):
    """The tokens among the arguments of a block: the first."""
    return args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))


def _blocks(model, path=None):
    """The list at `path`, or else the longest list of modules of one kind that hold a layer norm."""
    if path is not None:
        named = dict(model.named_modules())
        if not isinstance(named.get(path), (nn.Sequential, nn.ModuleList)) or not len(named[path]):
            lists = [n for n, m in named.items() if isinstance(m, (nn.Sequential, nn.ModuleList)) and n]
            raise ValueError(
                f"{type(model).__name__} has no list of blocks {path!r}; its lists are: {', '.join(lists[:8]) or 'none'}."
            )
        return list(named[path])
    lists = [
        [block for stage in m for block in stage.blocks] if hasattr(m[0], "blocks") else list(m)
        for m in model.modules()
        if isinstance(m, (nn.Sequential, nn.ModuleList))
        and len(m)
        and len({type(c) for c in m}) == 1
        and any(isinstance(c, nn.LayerNorm) for c in m[0].modules())
    ]
    if not lists:
        raise ValueError(
            f"no list of blocks was found in {type(model).__name__}: expected an nn.Sequential or nn.ModuleList of "
            "modules of one kind with layer norms."
        )
    return max(lists, key=len)


def _output(model, result):
    """The logits, or where there is no head, the class token, or where there is none either, the mean of all tokens: (B, ...)."""
    if isinstance(result, torch.Tensor):
        return result
    kind = getattr(getattr(model, "config", None), "model_type", "")
    pooled = ("pooler_output",) if kind in ("clip_vision_model", "siglip_vision_model") else ()
    for name in ("logits", "image_embeds", *pooled):
        found = getattr(result, name, None)
        if found is not None:
            return found
    tokens = getattr(result, "last_hidden_state", None)
    if tokens is None:
        raise ValueError(
            f"{type(model).__name__} returned {type(result).__name__}, and it is not known where the output is in it: expected a tensor "
            "or an object with `logits` or `last_hidden_state`."
        )
    with_token = any(name.endswith("cls_token") for name, _ in model.named_parameters())
    return tokens[:, 0] if with_token else tokens.mean(dim=1)
