"""What the temperature of sine-cosine positions is worth in a small task: `python benchmarks/temperature.py`.

The task of lesson 02 on a larger grid: one of 64 patches is bright, and the class says which. A model with one block learns it
for 150 steps, at three learning rates with three seeds each. In the last variant the positions have a quarter of their size.
The table goes to benchmarks/results/temperature.md.
"""

import argparse
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F

from vit_edu import atomic
from vit_edu.models import vit

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

SIDE, STEPS, BATCH = 8, 150, 64
VARIANTS = {
    "temperature 10000": (10000, 1.0),
    "temperature 100": (100, 1.0),
    "temperature 10": (10, 1.0),
    "temperature 10, a quarter of the size": (10, 0.25),
}
RATES = (3e-3, 1e-2, 3e-2)


def where_is_it(count):
    """(count, 1, SIDE, SIDE) images with one bright pixel, and its index as the label."""
    labels = torch.randint(0, SIDE**2, (count,))
    patches = 0.1 * torch.randn(count, SIDE**2, 1)  # (B, N, 1)
    patches[torch.arange(count), labels] += 1
    return vit.unpatchify(patches, 1, (SIDE, SIDE)), labels


def learn(temperature, size, rate, seed, steps=STEPS):
    """The share of right answers over the last 20 steps of a run."""
    torch.manual_seed(seed)
    model = vit.ViT(SIDE, 1, 1, SIDE**2, 64, 1, 2, global_pool="avg", pos_embed="sincos")
    model.pos_embed.copy_(size * vit.sincos_positions(SIDE, SIDE, 64, temperature)[None])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    shares = []
    for _ in range(steps):
        x, y = where_is_it(BATCH)
        logits = model(x)  # (B, N)
        optimizer.zero_grad()
        F.cross_entropy(logits, y).backward()
        optimizer.step()
        shares.append((logits.argmax(1) == y).float().mean().item())
    return statistics.mean(shares[-20:])


def main(argv=None):
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=measure.RESULTS)
    args = parser.parse_args(argv)
    conditions = measure.conditions("temperature", argv, "cpu")
    heads = "".join(f" rate {rate:g} |" for rate in RATES)
    lines = [
        "# Which of 64 patches is bright? Right answers after 150 steps, %, one number per seed",
        "",
        f"| positions |{heads}",
        f"| --- |{' --- |' * len(RATES)}",
    ]
    for name, (temperature, size) in VARIANTS.items():
        cells = [
            ", ".join(f"{100 * learn(temperature, size, rate, seed, args.steps):.0f}" for seed in args.seeds)
            for rate in RATES
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    atomic.write(args.out / "temperature.md", "\n".join([*lines, "", conditions, ""]))


if __name__ == "__main__":
    main()
