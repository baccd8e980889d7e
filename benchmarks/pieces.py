"""What each piece of a recipe is worth: `python benchmarks/pieces.py [--recipe laptop] [--minutes 4] --data ...`.

It trains the whole recipe, and again with one piece taken out or exchanged, with several seeds each. The accuracy on held-out
training images goes to vit_edu/training/logs/pieces.jsonl (conditions first, then an entry per run), from which lesson 06 draws
it, and as a table to benchmarks/results/pieces.md. The test images are not used. Every run has the same minutes, on one thread,
counted by the processor's clock. So runs may go side by side, and a piece that takes time must be worth it.
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu import atomic, data, training
from vit_edu.models.vit import merge_heads, sincos_positions, split_heads

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

# What is changed -> the fields of the recipe that change; those of "model" are its arguments.
WHOLE = "the recipe, whole"
PIECES = {
    WHOLE: {},
    "all tokens from the first step": {"tokens": ()},
    "AdamW alone, learning rate 2e-3": {"optimizer": "adamw", "learning_rate": 2e-3},
    "branches that start at random": {"zero_init": False},
    "half a cosine down": {"schedule": "cosine"},
    "no label smoothing": {"label_smoothing": 0.0},
    "no flips, no crops": {"flip": False, "crop": 0},
    "CutMix as well": {"cutmix": 1.0},
    "class token instead of the mean": {"model": {"global_pool": "token"}},
    "no positions": {"model": {"pos_embed": "none"}},
    "an average of the weights, 0.999": {"average": 0.999},
    "mimetic initialisation": {},
    "all tokens, 2-D rotary positions": {"tokens": (), "model": {"pos_embed": "none"}},
}


@torch.no_grad()
def mimetic(model):
    """Attention that begins as trained attention looks: W_q^T W_k near 0.7 I in every head, W_v^T W_proj^T near -0.4 I.

    Positions begin as sines and cosines, and are learned from there. The model must take the mean over its tokens, without a
    class token.
    Source: Trockman and Kolter 2023, arXiv:2305.09828.
    """

    def factors(dim, rank, noise, identity):
        """Two matrices (rank, dim) whose product, the first transposed, is the best of this rank."""
        wanted = noise * torch.randn(dim, dim) / dim**0.5 + identity * torch.eye(dim)
        left, values, right = torch.linalg.svd(wanted)
        root = values[:rank, None].sqrt()
        return root * left.T[:rank], root * right[:rank]

    for block in model.blocks:
        attn, dim = block.attn, block.attn.proj.in_features
        heads = [factors(dim, dim // attn.num_heads, 0.7, 0.7) for _ in range(attn.num_heads)]
        value, proj = factors(dim, dim, 0.4, -0.4)
        queries, keys = (torch.cat(part) for part in zip(*heads, strict=True))
        attn.qkv.weight.copy_(torch.cat([queries, keys, value]))
        attn.proj.weight.copy_(proj.T)
    model.pos_embed.copy_(sincos_positions(*model.patch_embed.grid_size, model.pos_embed.shape[-1]))


class RotaryAttention(nn.Module):
    """`Attention` whose queries and keys are turned by the place of their token, so that scores depend only on how far
    and in which direction two tokens are apart.

    Of the d numbers of a head, one half turns with the row and one with the column. (B, N, D) -> (B, N, D), no class token.
    Source: axial 2-D rotary positions, Heo et al. 2024, arXiv:2403.13298.
    """

    def __init__(self, attn, grid_size):
        super().__init__()
        self.qkv, self.proj, self.num_heads = attn.qkv, attn.proj, attn.num_heads
        quarter = self.proj.in_features // self.num_heads // 4  # d / 4 frequencies for each axis
        speeds = 100 ** -(torch.arange(quarter) / quarter)
        rows, cols = torch.meshgrid(*map(torch.arange, grid_size), indexing="ij")
        angles = [place.flatten()[:, None] * speeds for place in (rows, cols)]  # 2 x (N, d / 4)
        angles = torch.cat(angles, dim=1)  # (N, d / 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def turn(self, x):
        """(B, h, N, d): number i and number i + d / 2 are the two coordinates of a point that turns."""
        a, b = x.chunk(2, dim=-1)  # 2 x (B, h, N, d / 2)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], dim=-1)

    def forward(self, x):
        q, k, v = (split_heads(y, self.num_heads) for y in self.qkv(x).chunk(3, dim=-1))
        x = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)  # (B, h, N, d)
        return self.proj(merge_heads(x))


def rotary(model):
    """Exchange the attention of every block for one with rotary positions."""
    for block in model.blocks:
        block.attn = RotaryAttention(block.attn, model.patch_embed.grid_size)


# What is changed in the model after it is built.
CHANGES = {"mimetic initialisation": mimetic, "all tokens, 2-D rotary positions": rotary}


def run(job):
    """One run, in a separate process. job: (piece, recipe, source of images, folder of logs). Returns its entry."""
    piece, recipe, source, folder = job
    log = folder / f"{piece.replace(' ', '_')}-{recipe.seed}.json"
    there = log.exists() and json.loads(log.read_text(encoding="utf-8"))["settings"]
    if not there or not measure.same_settings(there, recipe):
        torch.set_num_threads(1)
        images = data.load(source=source)
        model = training.build_model(recipe, images)
        CHANGES.get(piece, lambda model: None)(model)
        history = training.fit(model, images, recipe, clock=time.process_time)
        if not history or history[-1]["seconds"] < 60 * recipe.minutes:
            raise RuntimeError(f"{piece}, seed {recipe.seed}: it stopped before its end.")
        entry = {"piece": piece, "seed": recipe.seed, "epochs": len(history)}
        entry |= {
            "val_accuracy": history[-1]["val_accuracy"],
            "settings": dataclasses.asdict(recipe),
        }
        atomic.write(log, json.dumps(entry))
    entry = json.loads(log.read_text(encoding="utf-8"))
    del entry["settings"]  # the first line of pieces.jsonl has them
    return entry


def _mean(values, sign=""):
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{spread}"


def main(argv=None):
    """Run all pieces, two at a time, and write the table. Runs that are already there are not repeated.

    If only some pieces are named, they join those that are already in the log, if recipe and copy of the data are the same.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--pieces",
        nargs="+",
        default=list(PIECES),
        choices=PIECES,
        metavar="PIECE",
        help="some of them by name",
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--data", help="folder of the images (what data.load() finds)")
    parser.add_argument("--copy", default="", help="which copy of the data, for the table")
    parser.add_argument("--runs", type=Path, default=Path("runs/pieces"))
    parser.add_argument("--log", type=Path, default=training.LOGS / "pieces.jsonl")
    parser.add_argument("--out", type=Path, default=measure.RESULTS)
    args = parser.parse_args(argv)
    # So that runs of another recipe or with other minutes are not mistaken for these
    runs = args.runs / f"{args.recipe}-{args.minutes:g}"
    conditions = measure.conditions("pieces", argv, "cpu")
    whole = dataclasses.replace(training.RECIPES[args.recipe], minutes=args.minutes, epochs=None)
    first = {
        "recipe": args.recipe,
        "copy": args.copy or f"data: {args.data or 'what data.load() finds'}",
        "conditions": conditions,
        "settings": dataclasses.asdict(whole),
    }
    earlier = []
    if args.log.exists():
        theirs, *entries = map(json.loads, args.log.read_text(encoding="utf-8").splitlines())
        same = measure.same_settings(theirs["settings"], whole) and theirs["copy"] == first["copy"]
        others = PIECES.keys() - set(args.pieces)
        earlier = [entry for entry in entries if same and entry["piece"] in others]
        if earlier:
            first["conditions"] = f"{theirs['conditions']} Then: {conditions}"
    if WHOLE not in {e["piece"] for e in earlier}:
        args.pieces = [WHOLE, *(piece for piece in args.pieces if piece != WHOLE)]
    jobs = []
    for seed in args.seeds:
        for piece in args.pieces:
            changes = dict(PIECES[piece])
            changes["model"] = whole.model | changes.get("model", {})
            jobs.append((piece, dataclasses.replace(whole, seed=seed, **changes), args.data, runs))
    runs.mkdir(parents=True, exist_ok=True)
    found = earlier + measure.side_by_side(run, jobs, args.jobs)
    found.sort(key=lambda entry: (entry["seed"], list(PIECES).index(entry["piece"])))
    atomic.write(args.log, "".join(json.dumps(entry) + "\n" for entry in (first, *found)))
    whole_share = {e["seed"]: e["val_accuracy"] for e in found if e["piece"] == WHOLE}
    rows = []
    for piece in dict.fromkeys(entry["piece"] for entry in found):
        runs = [entry for entry in found if entry["piece"] == piece]
        shares = [100 * e["val_accuracy"] for e in runs]
        apart = [100 * (e["val_accuracy"] - whole_share[e["seed"]]) for e in runs]
        epochs = statistics.mean(entry["epochs"] for entry in runs)
        rows.append((piece, _mean(shares), _mean(apart, "+") if piece != WHOLE else "", f"{epochs:.1f}"))
    head = ("what is changed", "held-out accuracy, %", "difference, same seed", "epochs")
    text = (
        f"# What each piece is worth\n\n{first['copy']}. {whole}\n\n"
        f"Held-out accuracy after {args.minutes:g} minutes of one thread; mean and standard deviation over "
        f"{len(args.seeds)} seeds. Runs with the same seed have the same held-out images.\n\n"
        f"{measure.table(head, rows)}\n\n{first['conditions']}\n"
    )
    atomic.write(args.out / "pieces.md", text)
    print(text)


if __name__ == "__main__":
    main()
