"""Attention inside windows against attention between all tokens, in time and in multiply-adds: `python benchmarks/windows.py`.

One layer with qkv and projection, of the width and with the heads of the recipe "laptop", in three ways:

- full: every token attends to every token (`models.vit.Attention`, PyTorch's fused attention);
- windows: `models.swin.SwinBlock.attend` on the same map, cut into windows and put together again;
- shifted: the same with windows that are shifted by half their side, so with a roll and a mask.

Images are square, patches are 4 x 4 pixels, and a batch holds as many images as make TOKENS tokens. All sizes and ways take
turns, and the fastest of the rounds counts. On a CPU that is the processor's own time on one thread, in which other programs do
not count. The ratios say how many times faster than full attention windows are; that in multiply-adds is the one of
`models.costs`. Where a ratio passes 1, the number of tokens is read off a straight line between the sizes around it, with both
axes logarithmic.
"""

import functools
import itertools
import math
import time

import torch

from vit_edu import training
from vit_edu.models.costs import layer_cost, window_attention_cost
from vit_edu.models.swin import SwinBlock
from vit_edu.models.vit import Attention

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

PIXELS, PATCH = (16, 32, 64, 128, 256), 4
WINDOWS = (4, 8)  # in patches
TOKENS = 4096  # in a batch
MORE_ON_CUDA = 64  # times as many


def width_and_heads():
    """Of the recipe "laptop"."""
    model = training.RECIPES["laptop"].model
    return model["embed_dim"], model["num_heads"]


def cases():
    """(window, side in pixels) of all maps that can be cut into such windows."""
    return [(window, side) for window in WINDOWS for side in PIXELS if side // PATCH % window == 0]


def images_in_a_batch(side, device):
    """side: of an image, in pixels."""
    return max(1, TOKENS * (MORE_ON_CUDA if device.type == "cuda" else 1) // (side // PATCH) ** 2)


def job(way, side, window, backward, device):
    """A function that applies one layer to a batch: forward, or forward and backward. side: of an image, in pixels."""
    dim, heads = width_and_heads()
    grid = (side // PATCH, side // PATCH)
    x = torch.randn(images_in_a_batch(side, device), *grid, dim, device=device, requires_grad=backward)
    if way == "full":
        layer = Attention(dim, heads).to(device)
        return functools.partial(_apply, lambda x: layer(x.flatten(1, 2)), x, backward)
    block = SwinBlock(dim, grid, heads, window, shifted=way == "shifted").to(device)
    return functools.partial(_apply, block.attend, x, backward)


def _apply(layer, x, backward):
    on_cuda = x.device.type == "cuda"
    with torch.set_grad_enabled(backward), torch.autocast("cuda", dtype=torch.bfloat16, enabled=on_cuda):
        out = layer(x)
    if backward:
        out.backward(torch.ones_like(out))


def crossing(tokens, ratios):
    """The number of tokens at which a ratio passes 1 for the first time, as a text. tokens: at which it was measured, growing."""
    if ratios[0] >= 1:
        return f"{tokens[0]} or fewer"
    points = list(zip(tokens, ratios, strict=True))
    for (before, low), (after, high) in itertools.pairwise(points):
        if high >= 1:
            share = math.log(1 / low) / math.log(high / low)  # of the way from one size to the next
            return f"about {before * (after / before) ** share:.0f}"
    return f"more than {tokens[-1]}"


def compare(rounds, backward, device):
    """The table, and sentences on where windows begin to be faster."""
    dim, _ = width_and_heads()
    jobs = {("full", side): job("full", side, None, backward, device) for side in PIXELS}
    for window, side in cases():
        for way in ("windows", "shifted"):
            jobs[way, side, window] = job(way, side, window, backward, device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    least = {
        key: 1000 * min(seconds) / images_in_a_batch(key[1], device)
        for key, seconds in measure.in_turn(jobs, rounds, device, clock=clock).items()
    }
    rows, found = [], {}
    for window, side in cases():
        grid = (side // PATCH, side // PATCH)
        N = math.prod(grid)
        times = least["full", side], least["windows", side, window], least["shifted", side, window]
        work = layer_cost("attention", N, dim)[1] / window_attention_cost(grid, dim, window)
        ratios = times[0] / times[1], times[0] / times[2], work
        found.setdefault(window, []).append((N, *ratios))
        numbers = [f"{value:.3f}" for value in times] + [f"{value:.2f}" for value in ratios]
        rows.append((f"{side} px, windows of {window}", f"{N:,}", *numbers))
    head = ("image", "tokens", "full, ms", "windows, ms", "shifted, ms")
    head += ("full / windows", "full / shifted", "full / windows in multiply-adds")
    return f"{measure.table(head, rows)}\n\n{' '.join(_said(*item) for item in found.items())}"


def _said(window, numbers):
    tokens, plain, shifted, _ = zip(*numbers, strict=True)
    return (
        f"Windows of {window} x {window} begin to be faster at {crossing(tokens, plain)} tokens, shifted ones at "
        f"{crossing(tokens, shifted)}; in multiply-adds they are cheaper beyond {window**2}."
    )


def main(argv=None):
    parser = measure.parser(__doc__, rounds=15)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    line = measure.conditions("windows", argv, args.device)
    device = torch.device(args.device)
    where = "CUDA, bf16 autocast" if device.type == "cuda" else "CPU, float32, one thread"
    dim, heads = width_and_heads()
    fixed = f"Width {dim}, {heads} heads. Times are for one image, the fastest of {args.rounds} rounds."
    for backward in (False, True):
        text = f"{compare(args.rounds, backward, device)}\n\n{fixed}\n\n{line}"
        title = f"{where}, {'forward and backward' if backward else 'forward'}"
        measure.write(args.out, "windows", title, text)


if __name__ == "__main__":
    main()
