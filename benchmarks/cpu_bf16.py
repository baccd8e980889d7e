"""A training step on a CPU in float32 and in bf16: `python benchmarks/cpu_bf16.py`.

It measures the milliseconds of one step (forward, cross entropy, backward, optimiser) on a full batch, for the recipes that
are made for CPUs and for each share of the tokens that they use. There are three ways:

- float32;
- bf16, fused: `torch.autocast` alone, so that attention uses torch's fused kernel for the CPU;
- bf16: what `Recipe.cpu_bf16` does, with attention in torch's plain matrix products, and Muon's products in bf16 as well.

The last column is float32 / bf16: above 1, bf16 is worth it. On a processor without instructions for bf16 the program says
so and measures nothing.
"""

import dataclasses
import functools

import torch
import torch.nn.functional as F

from vit_edu import training
from vit_edu.models import make_model

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

RECIPES = ("laptop", "laptop-hybrid", "long")
CLASSES = 10


def fused_step(model, optimizer, images, targets):
    """`training.train_step` in bf16 with torch's fused attention."""
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(images), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def steps(recipe, share):
    """{way: a function that takes a step}, each with its own model and optimiser. share: that of the tokens."""
    images = torch.randn(recipe.batch_size, 3, 32, 32)  # (B, C, H, W)
    targets = torch.randn(recipe.batch_size, CLASSES).softmax(dim=1)  # (B, K), as mixing makes them
    ways = {
        "float32": (training.train_step, False),
        "bf16, fused": (fused_step, False),
        "bf16": (functools.partial(training.train_step, cpu_bf16=True), True),
    }
    found = {}
    for way, (step, cpu_bf16) in ways.items():
        torch.manual_seed(0)
        model = make_model(recipe.model, images.shape[1:], CLASSES)
        training.TokenDropout(model).keep = share
        optimizer = training.make_optimizer(model, dataclasses.replace(recipe, cpu_bf16=cpu_bf16))
        found[way] = functools.partial(step, model, optimizer, images, targets)
    return found


def main(argv=None):
    parser = measure.parser(__doc__, rounds=15)
    parser.add_argument("--batch", type=int, help="images in a batch (as in the recipe)")
    args = parser.parse_args(argv)
    if args.device != "cpu" or not training.has_bf16("cpu"):
        parser.error("this measures a CPU with instructions for bf16; torch sees none (AVX-512 BF16 or AMX).")
    line = measure.conditions("cpu_bf16", argv, "cpu")
    rows = []
    for name in RECIPES:
        recipe = training.RECIPES[name]
        if args.batch:
            recipe = dataclasses.replace(recipe, batch_size=args.batch)
        for share in (*(share for _, share in recipe.tokens), 1.0):
            seconds = measure.in_turn(steps(recipe, share), args.rounds)
            least = {way: min(found) for way, found in seconds.items()}
            texts = [f"{1000 * value:.1f}" for value in least.values()]
            gain = least["float32"] / least["bf16"]
            rows.append((name, str(recipe.batch_size), f"{share:.0%}", *texts, f"**{gain:.2f}**"))
    head = ("recipe", "batch", "tokens", *(f"{way}, ms" for way in least), "float32 / bf16")
    text = f"{measure.table(head, rows)}\n\nThe fastest of {args.rounds} rounds.\n\n{line}"
    measure.write(args.out, "cpu_bf16", "One training step", text)


if __name__ == "__main__":
    main()
