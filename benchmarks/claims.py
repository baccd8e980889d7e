"""What single sentences of the lessons rest on: `python benchmarks/claims.py pooling|adamw|positions|cnn --data ...`.

Each experiment trains the same recipe with one thing changed, for a number of epochs, with several seeds, and reports the
accuracy on held-out training images (the test images are not used). Runs of equal epochs do not depend on the machine. The one
called cnn has equal minutes instead. The rows go to benchmarks/results/claims-NAME.md, and single runs to a file beside it.
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from vit_edu import atomic, data, training

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

CLUTTER = "shapes with clutter"  # for --data: what lesson 06 uses without CIFAR-10
RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2)


class SmallCNN(nn.Module):
    """A plain convolutional network for small images: (B, 3, 32, 32) -> (B, K).

    3 x 3 convolutions, each with batch norm and ReLU, with these widths and strides. Then the mean and a linear head.
    """

    def __init__(self, in_chans, num_classes, widths=(32, 64, 96, 128), strides=(1, 2, 1, 2)):
        super().__init__()
        layers, before = [], in_chans
        for width, stride in zip(widths, strides, strict=True):
            layers += [
                nn.Conv2d(before, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(before, num_classes)

    def forward(self, images):
        return self.head(self.features(images).mean(dim=(2, 3)))


def pooling(whole):
    """Class token against mean, at four learning rates."""
    for rate in RATES:
        for pool, words in (("avg", "mean"), ("token", "class token")):
            model = whole.model | {"global_pool": pool}
            yield (
                f"{words}, learning rate {rate:g}",
                dataclasses.replace(whole, learning_rate=rate, model=model),
            )


def adamw(whole):
    """Muon against AdamW at several learning rates, so that neither is judged by one rate."""
    for rate in (3e-3, 6e-3, 1.2e-2):
        yield f"Muon, learning rate {rate:g}", dataclasses.replace(whole, learning_rate=rate)
    for rate in (5e-4, 1e-3, 2e-3, 4e-3):
        yield (
            f"AdamW, learning rate {rate:g}",
            dataclasses.replace(whole, optimizer="adamw", learning_rate=rate),
        )


def positions(whole):
    """No positions, learned ones, fixed waves."""
    for kind, words in (("none", "no positions"), ("learn", "learned"), ("sincos", "sine and cosine")):
        yield words, dataclasses.replace(whole, model=whole.model | {"pos_embed": kind})


def cnn(whole):
    """The laptop's ViT, its hybrid, and a small CNN."""
    yield "ViT", whole
    yield (
        "hybrid",
        dataclasses.replace(training.RECIPES["laptop-hybrid"], minutes=whole.minutes, epochs=whole.epochs),
    )
    for words, rate in [(w, r) for w in CNNS for r in (1e-3, 3e-3, 1e-2)]:
        yield (
            f"{words}, AdamW, learning rate {rate:g}",
            dataclasses.replace(
                whole,
                optimizer="adamw",
                learning_rate=rate,
                tokens=(),
                zero_init=False,
                model={"kind": "vit"},
            ),
        )


# How the convolutional networks of `cnn` are built
CNNS = {
    "CNN of four layers": {},
    "CNN of six layers, half the size at once": {
        "widths": (32, 64, 64, 128, 128, 128),
        "strides": (2, 1, 2, 1, 2, 1),
    },
}
EXPERIMENTS = {f.__name__: f for f in (pooling, adamw, positions, cnn)}


def run(job):
    """One run, in a separate process. job: (words, recipe, source of images, file of its result). Returns its entry."""
    words, recipe, source, log = job
    if not log.exists():
        torch.set_num_threads(1)
        images = data.shapes(clutter=True) if source == CLUTTER else data.load(source=source)
        shape = CNNS.get(words.split(", AdamW")[0])
        if shape is not None:
            torch.manual_seed(recipe.seed)
            model = SmallCNN(images.train.images.shape[1], len(images.classes), **shape)
        else:
            model = training.build_model(recipe, images)
        count = sum(p.numel() for p in model.parameters())
        history = training.fit(model, images, recipe, clock=time.process_time)
        entry = {"what": words, "seed": recipe.seed, "epochs": len(history), "parameters": count}
        entry |= {
            "loss": history[-1]["loss"],
            "val_accuracy": history[-1]["val_accuracy"],
            "recipe": str(recipe),
        }
        atomic.write(log, json.dumps(entry))
    return json.loads(log.read_text(encoding="utf-8"))


def table(entries):
    """Rows for `measure.write`-like tables: what, held-out accuracy, loss, epochs, parameters."""
    for what in dict.fromkeys(e["what"] for e in entries):
        of_it = [e for e in entries if e["what"] == what]
        shares = [100 * e["val_accuracy"] for e in of_it]
        each = ", ".join(f"{share:.1f}" for share in shares)
        epochs = statistics.mean(e["epochs"] for e in of_it)
        yield f"| {what} | {measure.mean(shares)} | {each} | {epochs:.1f} | {of_it[0]['parameters']:,} |"


def main(argv=None):
    """Run an experiment, as many runs at a time as asked for, and write its table. Runs that are there are not repeated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--minutes", type=float, help="processor time of a run instead")
    parser.add_argument("--max-images", type=int, help="train on so many images")
    parser.add_argument("--only", help="rows whose name contains this")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--data", help=f"folder of the images, or {CLUTTER!r} (what data.load() finds)")
    parser.add_argument("--copy", default="", help="which copy of the data, for the table")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims"))
    parser.add_argument("--out", type=Path, default=measure.RESULTS)
    args = parser.parse_args(argv)
    if (args.epochs is None) == (args.minutes is None):
        parser.error("give --epochs or --minutes.")
    conditions = measure.conditions("claims", argv, "cpu")
    whole = dataclasses.replace(
        training.RECIPES["laptop"], epochs=args.epochs, minutes=args.minutes, max_images=args.max_images
    )
    make = EXPERIMENTS[args.experiment]
    copy = args.copy or f"data: {args.data or 'what data.load() finds'}"
    name = "-".join([args.experiment, copy.split(",")[0].lower().replace(" ", "_")])
    folder = args.runs / name / f"{args.epochs or args.minutes:g}-{args.max_images}"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (words, dataclasses.replace(recipe, seed=seed), args.data, folder / f"{number}-{seed}.json")
        for seed in args.seeds
        for number, (words, recipe) in enumerate(make(whole))
        if not args.only or args.only in words
    ]
    entries = measure.side_by_side(run, jobs, args.jobs)
    lines = [
        f"# {make.__doc__.rstrip('.')}: {copy}",
        "",
        f"{whole}",
        "",
        "| what | held-out accuracy, % | each seed | epochs | parameters |",
        "| --- | ---: | --- | ---: | ---: |",
        *table(entries),
        "",
        conditions,
        "",
    ]
    atomic.write(args.out / f"claims-{name}.md", "\n".join(lines))
    atomic.write(args.out / f"claims-{name}.jsonl", "".join(json.dumps(e) + "\n" for e in entries))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
