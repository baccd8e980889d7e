"""Time and memory of a training step against tokens, patch size, depth and width: `python benchmarks/scaling.py`.

Each sweep changes one number of BASE. A step is forward, cross entropy, backward and AdamW, the fastest of the rounds;
float32 on the CPU, bf16 autocast on CUDA. The exponent is the slope of a straight line through the larger sizes of a sweep
(the last LARGER), both axes logarithmic, by least squares. Beside it stands theory:

- the matrix products of a token cost the same whatever the other tokens are: exponent 1 in tokens, 2 in width;
- attention compares all pairs of tokens: exponent 2 in tokens, 1 in width (Vaswani et al. 2017, table 1);
- "counted" is the slope of both together, from the multiplications of the model, for the same sizes;
- memory: activations grow with tokens, depth and width; fused attention never stores all pairs. Weights grow with width squared.

Each of the two parts is timed alone too, forward and backward.

Memory is the peak of one step beyond what was there before it. On the CPU: the largest resident memory of a fresh process, in
which a tiny model has taken a step first. On CUDA: `torch.cuda.max_memory_allocated`. The last line is the peak resident
memory of a whole process that trains by the recipe "laptop" on the CPU, with a data set of CIFAR-10's size, all its phases.
"""

import dataclasses
import functools
import json
import math
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from vit_edu import training
from vit_edu.models import ViT
from vit_edu.models.vit import Attention, Mlp

try:
    from benchmarks import disk_to_step, measure
except ImportError:  # run as a program, with this folder on the path
    import disk_to_step
    import measure

BASE = {"img_size": 32, "patch_size": 4, "embed_dim": 128, "depth": 4, "num_heads": 2}
SWEEPS = {  # what changes, its values, and what else differs from BASE
    "img_size": ((32, 64, 96, 128, 160), {"depth": 2}),
    "patch_size": ((16, 8, 4, 2), {"img_size": 64, "depth": 2}),
    "depth": ((2, 4, 8, 16), {}),
    "embed_dim": ((64, 128, 256, 512), {}),
}
LARGER = 3
IMAGES = 50_000  # of CIFAR-10
LIMIT = 2e9  # bytes that the recipe "laptop" may take


def exponent(sizes, values):
    """Slope of log(value) over log(size) by least squares."""
    x, y = ([math.log(n) for n in numbers] for numbers in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def tokens(size):
    """Tokens of an image, the class token counted. size: arguments of `ViT`."""
    return (size["img_size"] // size["patch_size"]) ** 2 + 1


def multiplications(size):
    """Of one forward pass for one image: (in matrix products, in attention)."""
    T, D, depth = tokens(size), size["embed_dim"], size["depth"]
    projection = (T - 1) * 3 * size["patch_size"] ** 2 * D
    return projection + depth * 12 * T * D * D, depth * 2 * T * T * D


def sizes(name):
    """[(value, arguments of `ViT`)] of a sweep."""
    values, other = SWEEPS[name]
    return [(value, BASE | other | {name: value}) for value in values]


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
    ("img_size", whole, "step against tokens, by image size", "1 to 2"),
    ("img_size", products, "MLP alone against tokens", "1"),
    ("img_size", attention, "attention alone against tokens", "2"),
    ("patch_size", whole, "step against tokens, by patch size", "1 to 2"),
    ("depth", whole, "step against depth", "1"),
    ("embed_dim", whole, "step against width", "1 to 2"),
    ("embed_dim", products, "MLP alone against width", "2"),
    ("embed_dim", attention, "attention alone against width", "1"),
)
MEMORY = {  # sweep -> theory
    "img_size": "1",
    "patch_size": "1",
    "depth": "1",
    "embed_dim": "1 (activations) to 2 (weights)",
}


# ---------------------------------------------------------------- memory


def peak():
    """Largest resident memory that this process had so far, in bytes.

    From /proc where there is one: what `getrusage` says begins with that of the process which started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(n for n in status.read_text().splitlines() if n.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_of_step(size, batch, device):
    """Bytes at the peak of a first step beyond what was there before it. On the CPU: in a process of its own."""
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
        whole(BASE | {"depth": 1, "embed_dim": 8}, 1, torch.device("cpu"))()  # libraries are loaded
        step = whole(size, batch, torch.device("cpu"))
        before = peak()
        step()
        print(peak() - before)
        return
    root, minutes = what
    with disk_to_step.folder(root, IMAGES, made=True):
        recipe = dataclasses.replace(training.RECIPES["laptop"], minutes=minutes)
        data = training.vit_data.load()
        training.fit(training.build_model(recipe, data), data, recipe)
    print(f"\n{peak()}")


def memory_of_laptop(seconds):
    """Bytes at the peak of a process that loads CIFAR-10's like from the disk and trains by the recipe."""
    with tempfile.TemporaryDirectory() as root, disk_to_step.folder(root, IMAGES):
        return _child("laptop", root, seconds / 60)
