"""Time and memory of a training step against tokens, patch size, depth and width: `python benchmarks/scaling.py`.

Each sweep changes one number of BASE. A step is forward, cross entropy, backward and AdamW, with float32 on the CPU and bf16
autocast on CUDA, and the fastest of the rounds counts. The exponent is the slope of a straight line through the larger sizes
of a sweep (the last LARGER), with both axes logarithmic, by least squares. The table compares it with theory:

- The matrix products of a token cost the same whatever the other tokens are: exponent 1 in tokens, 2 in width.
- Attention compares all pairs of tokens: exponent 2 in tokens, 1 in width (Vaswani et al. 2017, table 1).
- "counted" is the slope of both together, from the multiplications of the model, for the same sizes.
- Memory: activations grow with tokens, depth and width, and fused attention never stores all pairs. Weights grow with the
  square of the width.

Each of the two parts is also timed alone, forward and backward.

Memory is the peak of one step beyond what was there before it. On the CPU, that is the largest resident memory of a fresh
process in which a tiny model has taken a step first; on CUDA, it is `torch.cuda.max_memory_allocated`. The last line is the
peak resident memory of a whole process that trains by the recipe "laptop" on the CPU, through all its phases, with a data set
of CIFAR-10's size.
"""

import argparse
import dataclasses
import functools
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from vit_edu import data as vit_data
from vit_edu import training
from vit_edu.models import ViT
from vit_edu.models.vit import Mlp

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

BASE = {"img_size": 32, "patch_size": 4, "embed_dim": 128, "depth": 4, "num_heads": 2}
SWEEPS = {  # what changes: (its values, what else differs from BASE, images in a batch)
    "img_size": ((32, 64, 96, 128, 160), {"depth": 2}, 4),
    "patch_size": ((16, 8, 4, 2), {"img_size": 64, "depth": 2}, 4),
    "depth": ((2, 4, 8, 16), {}, 32),
    "embed_dim": ((64, 128, 256, 512), {}, 16),
}
LARGER = 3
MORE_ON_CUDA = 64  # times as many images in a batch
IMAGES = 50_000  # of CIFAR-10
LIMIT = 2e9  # bytes that the recipe "laptop" may take


def exponent(sizes, values):
    """The slope of log(value) over log(size), by least squares."""
    x, y = ([math.log(n) for n in numbers] for numbers in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def tokens(size):
    """The tokens of an image, including the class token. size: arguments of `ViT`."""
    return (size["img_size"] // size["patch_size"]) ** 2 + 1


def multiplications(size):
    """The multiplications of one forward pass for one image: (in matrix products, in attention)."""
    T, D, depth = tokens(size), size["embed_dim"], size["depth"]
    patches = (T - 1) * 3 * size["patch_size"] ** 2 * D
    return patches + depth * 12 * T * D * D, depth * 2 * T * T * D


def sweep(name):
    """(sizes on the x axis, arguments of `ViT` for each). The size of images and patches is given in tokens."""
    values, other, _ = SWEEPS[name]
    models = [BASE | other | {name: value} for value in values]
    return [tokens(m) if name in ("img_size", "patch_size") else m[name] for m in models], models


def batch_size(name, device):
    """The number of images in a batch of this sweep."""
    return SWEEPS[name][2] * (MORE_ON_CUDA if device.type == "cuda" else 1)


# ---------------------------------------------------------------- what is timed


def whole(size, batch, device):
    """A function that takes one training step."""
    model = ViT(**size).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(batch, 3, size["img_size"], size["img_size"], device=device)
    labels = torch.randint(10, (batch,), device=device)
    return functools.partial(training.train_step, model, optimizer, images, labels)


def products(size, batch, device):
    """Forward and backward of the MLP of one block: matrix products, token by token."""
    mlp = Mlp(size["embed_dim"], 4 * size["embed_dim"]).to(device)
    x = torch.randn(batch, tokens(size), size["embed_dim"], device=device, requires_grad=True)
    return functools.partial(_there_and_back, mlp, device, x)


def attention(size, batch, device):
    """Forward and backward of the attention of one block, without its projections."""
    heads = size["num_heads"]
    shape = (batch, heads, tokens(size), size["embed_dim"] // heads)
    qkv = [torch.randn(shape, device=device, requires_grad=True) for _ in range(3)]
    return functools.partial(_there_and_back, F.scaled_dot_product_attention, device, *qkv)


def _there_and_back(function, device, *inputs):
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
        out = function(*inputs)
    out.backward(torch.ones_like(out))


TIMED = (  # sweep, what is timed, its name, theory
    ("img_size", whole, "step, tokens by image size", "1 to 2"),
    ("patch_size", whole, "step, tokens by patch size", "1 to 2"),
    ("img_size", products, "MLP alone, tokens", "1"),
    ("img_size", attention, "attention alone, tokens", "2"),
    ("depth", whole, "step, depth", "1"),
    ("embed_dim", whole, "step, width", "1 to 2"),
    ("embed_dim", products, "MLP alone, width", "2"),
    ("embed_dim", attention, "attention alone, width", "1"),
)
MEMORY = (  # sweep, its name, theory
    ("img_size", "tokens by image size", "1"),
    ("patch_size", "tokens by patch size", "1"),
    ("depth", "depth", "1"),
    ("embed_dim", "width", "1 (activations) to 2 (weights)"),
)


def counted(what, models):
    """The multiplications in what is timed, one number per model. For the parts alone, they are right up to a factor."""
    parts = [multiplications(m) for m in models]
    if what is products:
        return [tokens(m) * m["embed_dim"] ** 2 for m in models]
    return [b if what is attention else a + b for a, b in parts]


def slope(x, values):
    """The exponent over the larger sizes, as a text."""
    return f"{exponent(x[-LARGER:], values[-LARGER:]):.2f}"


def listed(values, digits=0):
    """Numbers as a text, one after the other."""
    return ", ".join(f"{value:.{digits}f}" for value in values)


def times(rounds, device):
    """The table of times."""
    rows = []
    for name, what, title, theory in TIMED:
        x, models = sweep(name)
        batch = batch_size(name, device)
        jobs = {i: what(model, batch, device) for i, model in enumerate(models)}
        seconds = measure.in_turn(jobs, rounds, device, repeats=1 if what is whole else 5)
        least = [min(found) for found in seconds.values()]
        rows.append(
            (
                title,
                listed(x),
                listed([1000 * s for s in least], 1),
                f"**{slope(x, least)}**",
                slope(x, counted(what, models)),
                theory,
            )
        )
    return measure.table(("time", "sizes", "milliseconds", "exponent", "counted", "theory"), rows)


# ---------------------------------------------------------------- memory


def peak():
    """The largest resident memory that this process has had so far, in bytes.

    It is read from /proc if there is one, because `getrusage` begins with that of the process which started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(n for n in status.read_text(encoding="utf-8").splitlines() if n.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_of_step(size, batch, device):
    """The bytes at the peak of a first step beyond what was there before it. On the CPU, it runs in a separate process."""
    if device.type == "cuda":
        step = whole(size, batch, device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    return _child("step", size, batch)


def _child(*what):
    """The number that a fresh process prints for this work."""
    command = [sys.executable, __file__, "--child", json.dumps(what)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1])


def child(kind, *what):
    """What a fresh process does: "step" prints the bytes of one step, "laptop" those of a whole training."""
    if kind == "step":
        size, batch = what
        whole(BASE | {"depth": 1, "embed_dim": 8}, 1, torch.device("cpu"))()  # so that libraries are loaded
        step = whole(size, batch, torch.device("cpu"))
        before = peak()
        step()
        print(peak() - before)
        return
    root, minutes = what
    recipe = dataclasses.replace(training.RECIPES["laptop"], minutes=minutes)
    with measure.trusted(root):
        data = vit_data.load()
        training.fit(training.build_model(recipe, data), data, recipe)
    print(f"\n{peak()}")


def memory(device):
    """The table of memory."""
    rows = []
    for name, title, theory in MEMORY:
        x, models = sweep(name)
        found = [memory_of_step(m, batch_size(name, device), device) for m in models]
        rows.append((title, listed(x), listed([n / 1e6 for n in found]), f"**{slope(x, found)}**", theory))
    return measure.table(("memory of a step", "sizes", "MB", "exponent", "theory"), rows)


def laptop(seconds):
    """A sentence on the memory of a process that reads a folder in CIFAR-10's format and trains by the recipe "laptop"."""
    with tempfile.TemporaryDirectory() as root:
        measure.write_folder(root, IMAGES)
        found = _child("laptop", root, seconds / 60)
    return (
        f'Recipe "laptop" on the CPU, {seconds:g} seconds, {IMAGES:,} training images: the whole process takes at most '
        f"**{found / 1e9:.2f} GB**, {'under' if found < LIMIT else 'NOT under'} {LIMIT / 1e9:g} GB."
    )


def main(argv=None):
    parser = measure.parser(__doc__, rounds=7)
    parser.add_argument("--seconds", type=float, default=30, help="how long the recipe trains (30)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        return child(*json.loads(args.child))
    line = measure.conditions("scaling", argv, args.device)
    device = torch.device(args.device)
    batches = ", ".join(f"{batch_size(name, device)} ({name})" for name in SWEEPS)
    fixed = ", ".join(f"{name} {value}" for name, value in BASE.items())
    changed = "; ".join(
        f"{name} with {', '.join(f'{k} {v}' for k, v in other.items())}"
        for name, (_, other, _) in SWEEPS.items()
        if other
    )
    text = "\n\n".join(
        [
            times(args.rounds, device),
            memory(device),
            laptop(args.seconds),
            f"Fixed: {fixed}{f' ({changed})' if changed else ''}. Images in a batch: {batches}. Exponents over the {LARGER} "
            f"larger sizes; times are the fastest of {args.rounds} rounds.",
            line,
        ]
    )
    measure.write(
        args.out,
        "scaling",
        "CUDA, bf16 autocast" if device.type == "cuda" else "CPU, float32",
        text,
    )


if __name__ == "__main__":
    main()
