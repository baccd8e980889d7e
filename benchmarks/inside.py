"""What lesson 07 rests on: `python benchmarks/inside.py mirror|belief --data ...`.

mirror: why learned positions resemble their left-right mirror images. The laptop recipe, with all tokens, learns from images that
are changed in one way or another, and the positions are compared afterwards. belief: accuracy after the patches that a map calls
the most (or the least) important are blanked, for several maps, on the model that comes with the course and on three others.

Minutes are those of one thread by the processor's clock. The entries go to vit_edu/training/logs/inside.jsonl (conditions first),
and tables to benchmarks/results/inside.md. Runs that are there are not repeated.
"""

import dataclasses
import json
import statistics
import time
from pathlib import Path

import torch

from vit_edu import atomic, data, inspect, pretrained, training

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

PATCHES = (8, 16, 32)  # of 64
QUERY = (2, 1)  # the place whose tile is kept


def turned(images):
    """Images (B, C, H, W), turned by a quarter: what was up is then on the left."""
    return images.rot90(1, dims=(2, 3))


def permuted(images):
    """The pixels of every image in another order, the same for all."""
    order = torch.randperm(images[0, 0].numel(), generator=torch.Generator().manual_seed(0))
    return images.flatten(2)[..., order].view_as(images)


def patches_permuted(images):
    """The patches of every image in another order, the same for all."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    return inspect.shuffle_patches(images, 4, order)


def brighter_to_the_right(images):
    """A ramp of brightness over every image, so that left and right differ."""
    ramp = torch.linspace(0.4, 1.0, images.shape[-1])  # (W,)
    return (images * ramp).round().to(images.dtype)


def upside_down(images):
    """Half of the images of a batch upside down."""
    flipped = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(flipped, images.flip(2), images)


# What is learned from -> (how the stored images are changed, functions of a batch in the place of flips and crops; an empty
# tuple leaves the flips out and keeps the crops)
CONDITIONS = {
    "as in the recipe: flipped left-right": (None, None),
    "no flips": (None, ()),
    "no flips, turned by a quarter": (turned, ()),
    "flipped top-bottom instead": (None, (upside_down,)),
    "no flips, a ramp of brightness": (brighter_to_the_right, ()),
    "no flips, patches permuted": (patches_permuted, ()),
    "no flips, pixels permuted": (permuted, ()),
    "no flips, drawn shapes": (None, ()),
}


def similarities(pos_embed, grid):
    """Means of the cosine between centred positions: neighbours, left-right and top-bottom mirror images at least three
    patches apart, and the tile of QUERY."""
    # What all places have in common says nothing about a place
    centred = pos_embed - pos_embed.mean(dim=1, keepdim=True)
    of = inspect.position_similarity(centred.detach(), grid)  # (rows, cols, rows, cols)
    rows, cols = grid
    far_cols = [c for c in range(cols) if abs(cols - 1 - 2 * c) >= 3]
    far_rows = [r for r in range(rows) if abs(rows - 1 - 2 * r) >= 3]
    left_right = [of[r, c, r, cols - 1 - c].item() for r in range(rows) for c in far_cols]
    top_bottom = [of[r, c, rows - 1 - r, c].item() for r in far_rows for c in range(cols)]
    beside = [of[r, c, r, c + 1].item() for r in range(rows) for c in range(cols - 1)]
    below = [of[r, c, r + 1, c].item() for r in range(rows - 1) for c in range(cols)]
    found = {"left-right": left_right, "top-bottom": top_bottom, "neighbours": beside + below}
    found = {name: statistics.mean(values) for name, values in found.items()}
    return found | {"tile": [[round(x, 3) for x in row] for row in of[QUERY].tolist()]}


def run(job):
    """One run, in a separate process. job: (condition, recipe, source of images, folder of runs). Returns its entry."""
    condition, recipe, source, folder = job
    log = folder / f"{condition.replace(' ', '_').replace(':', '')}-{recipe.seed}.json"
    if not log.exists():
        torch.set_num_threads(1)
        shapes = condition.endswith("shapes")
        images = data.shapes(train=50000, test=1000) if shapes else data.load(source=source)
        change, functions = CONDITIONS[condition]
        if change:
            train = dataclasses.replace(images.train, images=change(images.train.images))
            images = dataclasses.replace(images, train=train)
        if functions == ():
            recipe = dataclasses.replace(recipe, flip=False)
        if change in (permuted, patches_permuted):  # a crop would shift what belongs to a place
            recipe = dataclasses.replace(recipe, crop=0)
        model = training.build_model(recipe, images)
        history = training.fit(model, images, recipe, clock=time.process_time, augment=functions or ())
        grid = model.patch_embed.grid_size
        entry = {"experiment": "mirror", "condition": condition, "seed": recipe.seed}
        entry |= {"epochs": len(history), "val_accuracy": history[-1]["val_accuracy"]}
        entry |= similarities(model.pos_embed, grid)
        torch.save(model.state_dict(), log.with_suffix(".pt"))
        atomic.write(log, json.dumps(entry))
    return json.loads(log.read_text(encoding="utf-8"))


def mirror(args):
    """Train under every condition, with every seed. Returns entries."""
    whole = dataclasses.replace(training.RECIPES["laptop"], minutes=args.minutes, tokens=())
    folder = args.runs / f"mirror-{args.minutes:g}"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (condition, dataclasses.replace(whole, seed=seed), args.data, folder)
        for seed in args.seeds
        for condition in CONDITIONS
        if args.only in condition
    ]
    return measure.side_by_side(run, jobs, args.jobs)


def belief(args):
    """Blank patches by every map, on the course's model and on those of `mirror`. Returns entries."""
    images = data.load(source=args.data)
    some = images.test.take(args.images)
    x, labels = data.normalize(some.images, images.mean, images.std), some.labels
    models = {"vit-cifar10": pretrained.load("vit-cifar10")}
    for seed in args.seeds:
        model = training.build_model(training.RECIPES["laptop"], images)
        name = f"as_in_the_recipe_flipped_left-right-{seed}.pt"
        model.load_state_dict(torch.load(args.runs / f"mirror-{args.minutes:g}" / name, weights_only=True))
        models[f"seed {seed}"] = model.eval()
    for name, model in models.items():
        for method in inspect.IMPORTANCE:
            torch.manual_seed(0)
            scores = inspect.importance(
                model, x, method
            )  # for the class that the model names, not the true one
            entry = {"experiment": "belief", "model": name, "map": method, "patches": PATCHES}
            for key, values in (("most", scores), ("least", -scores)):
                entry[key] = inspect.deletion_curve(model, x, labels, values, 4, [0, *PATCHES]).tolist()
            print(name, method, entry["most"], entry["least"], flush=True)
            yield entry


def mirror_rows(entries):
    """The cosines and the accuracy of every condition: means over the seeds."""
    for condition in dict.fromkeys(entry["condition"] for entry in entries):
        same = [e for e in entries if e["condition"] == condition]
        cosines = [
            measure.mean([e[key] for e in same], 2) for key in ("left-right", "top-bottom", "neighbours")
        ]
        accuracy, epochs = (statistics.mean(e[key] for e in same) for key in ("val_accuracy", "epochs"))
        yield (condition, *cosines, f"{100 * accuracy:.1f}", f"{epochs:.1f}")


def belief_rows(entries):
    """The course's model, then the mean of the others: accuracy without the most, and without the least important patches."""
    for method in inspect.IMPORTANCE:
        same = [e for e in entries if e["map"] == method]
        ours = [e for e in same if e["model"] == "vit-cifar10"]
        cells = [method]
        for group in (ours, [e for e in same if e not in ours]):
            for k in range(1, 1 + len(PATCHES)):
                most, least = ([100 * e[key][k] for e in group] for key in ("most", "least"))
                cells.append(f"{measure.mean(most)} / {statistics.mean(least):.1f}")
        yield tuple(cells)


HEADS = {
    "mirror": ("condition", "left-right", "top-bottom", "neighbours", "held-out accuracy, %", "epochs"),
    "belief": (
        "map",
        *[f"vit-cifar10, {k}" for k in PATCHES],
        *[f"three others, {k}" for k in PATCHES],
    ),
}
TEXTS = {
    "mirror": "Cosine of learned positions, their mean subtracted, with those of their mirror images (three patches away or more) and "
    "with their neighbours'; mean and standard deviation over {seeds} seeds. {minutes:g} minutes of one thread, all tokens. Crops are "
    "left out, too, where patches or pixels are permuted and where images are flipped top-bottom.",
    "belief": "Accuracy in %, without the 8, 16 or 32 patches (of 64) that a map calls the most / the least important, on {images} "
    "test images. The course's model, and the mean over {seeds} seeds of the models of `mirror` (their recipe unchanged).",
}


def main(argv=None):
    """Run one of the experiments, and write its entries and its table."""
    parser = measure.training_parser("inside", __doc__, ("mirror", "belief"))
    parser.add_argument("--minutes", type=float, default=1.0, help="processor time of a run of `mirror` (1)")
    parser.add_argument("--images", type=int, default=2000, help="test images for `belief` (2000)")
    parser.add_argument("--log", type=Path, default=training.LOGS / "inside.jsonl")
    args = parser.parse_args(argv)
    conditions = measure.conditions("inside", argv, "cpu")
    entries = list({"mirror": mirror, "belief": belief}[args.experiment](args))
    copy = args.copy or f"data: {args.data or 'what data.load() finds'}"
    about = {"copy": copy, "minutes": args.minutes, "conditions": {args.experiment: conditions}}
    measure.add_to_log(args.log, args.experiment, about, entries)
    rows = {"mirror": mirror_rows, "belief": belief_rows}[args.experiment](entries)
    words = TEXTS[args.experiment].format(seeds=len(args.seeds), minutes=args.minutes, images=args.images)
    text = f"{copy}. {words}\n\n{measure.table(HEADS[args.experiment], rows)}\n\n{conditions}"
    measure.write(args.out, "inside", args.experiment, text)


if __name__ == "__main__":
    main()
