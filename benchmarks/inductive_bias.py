"""What lesson 08 draws: `python benchmarks/inductive_bias.py data|compute|remedies --data ...`.

data: plain ViT, hybrid and CNN on 1 %, 10 % and 100 % of the labels, for equally many images seen and again for equal minutes.
compute: three sizes of each, for equally many images, with their multiply-adds. remedies: what helps a plain ViT, for equal minutes.

Every run is judged on the same 5,000 training images, which none of them sees; the test images are not used. Minutes are those of
one thread by the processor's clock, so that runs may go side by side. The entries go to vit_edu/training/logs/inductive_bias.jsonl
(conditions first) and tables to benchmarks/results/inductive_bias.md. Runs that are there are not repeated.
"""

import dataclasses
import functools
import json
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F

from vit_edu import atomic, data, inspect, training
from vit_edu.models import make_model

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

SHARES = (0.01, 0.1, 1.0)
SHIFTS = (1, 2, 3, 4, 6, 8)
FAMILIES = {"plain ViT": "laptop", "hybrid": "laptop-hybrid", "CNN": "laptop-cnn"}
SIZES = {  # what differs from the recipe's model
    ("plain ViT", "small"): {"embed_dim": 32},
    ("plain ViT", "large"): {"embed_dim": 128, "num_heads": 4},
    ("hybrid", "small"): {"embed_dim": 48, "stem": ((16, 2), (32, 2), (32, 1), (32, 1))},
    ("hybrid", "large"): {"embed_dim": 192, "num_heads": 4, "stem": ((64, 2), (128, 2), (128, 1), (128, 1))},
    ("CNN", "small"): {"stem": (16, 2), "widths": (16, 32, 48)},
    ("CNN", "large"): {"stem": (64, 2), "widths": (64, 128, 192)},
}
REMEDIES = {  # what differs from the plain ViT
    "overlapping patches": {"model": {"kind": "overlap", "overlap": 2}},
    "all tokens from the first step": {"tokens": ()},
    "locality bias, all tokens": {"tokens": (), "model": {"kind": "local"}},
    "more augmentation: CutMix": {"cutmix": 1.0, "mix_prob": 0.5},
    "more augmentation: crops of 4, cutout": {"crop": 4, "cutout": 8},
    "distillation from the CNN": {},
}


def make_recipe(family, seed, minutes=None, epochs=None, **changes):
    """The recipe of a family with another budget. model: arguments of the model that differ."""
    whole = training.RECIPES[FAMILIES[family]]
    model = whole.model | changes.pop("model", {})
    return dataclasses.replace(
        whole, seed=seed, minutes=minutes, epochs=epochs, validation=0.0, model=model, **changes
    )


def jobs_of(experiment, seeds, images, minutes):
    """Dicts that describe the runs. images: how many each sees, where that is what is equal."""
    for seed in seeds:
        if experiment == "data":
            for share in SHARES:
                for family in FAMILIES:
                    about = {"experiment": "data", "family": family, "share": share, "seed": seed}
                    steps = round(share * (50000 - measure.HELD_OUT)) // 128
                    epochs = max(1, round(images / (128 * steps)))
                    yield about | {"equal": "images"}, make_recipe(family, seed, epochs=epochs)
                    yield about | {"equal": "minutes"}, make_recipe(family, seed, minutes=minutes)
        if experiment == "compute":
            for (family, size), model in SIZES.items():
                about = {"experiment": "compute", "family": family, "size": size, "seed": seed}
                epochs = max(1, round(images / 44928))
                yield (
                    about | {"share": 1.0, "equal": "images"},
                    make_recipe(family, seed, epochs=epochs, model=model),
                )
        if experiment == "remedies":
            for name, changes in REMEDIES.items():
                about = {"experiment": "remedies", "family": name, "share": 1.0, "seed": seed}
                yield about | {"equal": "minutes"}, make_recipe("plain ViT", seed, minutes=minutes, **changes)


def distilling(teacher):
    """A training step that also asks the teacher: half of the loss is the cross-entropy with the class that the teacher names.

    Source: hard-label distillation, DeiT (Touvron et al. 2021, arXiv:2012.12877, equation 3), here without a distillation token.
    """

    def step(model, optimizer, images, labels):
        with torch.no_grad():
            named = teacher(images).argmax(dim=-1)  # (B,)
        logits = model(images)  # (B, K)
        loss = (F.cross_entropy(logits, labels, label_smoothing=0.1) + F.cross_entropy(logits, named)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def name_of(about):
    return "-".join(str(value).replace(" ", "_").replace(":", "") for value in about.values())


def run(job):
    """One run, in a separate process. job: (what it is, its recipe, source of images, folder of runs). Returns its entry."""
    about, recipe, source, folder = job
    log = folder / f"{name_of(about)}.json"
    if not log.exists():
        images = measure.images_of(source)
        train, held_out = images.train.hold_out(measure.HELD_OUT, seed=0)
        train = measure.part(train, about["share"])
        model = training.build_model(recipe, images)
        step = None
        if about["family"] == "distillation from the CNN":
            teacher = make_model(training.RECIPES["laptop-cnn"].model, images.train.images.shape[1:], 10)
            saved = f"data-CNN-1.0-{recipe.seed}-minutes.pt"
            teacher.load_state_dict(torch.load(folder / saved, weights_only=True))
            step = distilling(teacher.eval())
        found = measure.trained(model, dataclasses.replace(images, train=train), recipe, step=step)
        entry = about | {"labels": len(train)} | found
        batches = functools.partial(data.batches, mean=images.mean, std=images.std)
        entry["accuracy"] = training.evaluate(model, batches(held_out, 500))
        entry["accuracy on the labels"] = training.evaluate(model, batches(train.take(measure.HELD_OUT), 500))
        if about["equal"] == "minutes" and about["share"] == 1:
            some = data.normalize(held_out.images[:2000], images.mean, images.std)
            entry["agreement"] = {
                pixels: float(inspect.shift_consistency(model, some, pixels)) for pixels in SHIFTS
            }
            torch.save(model.state_dict(), log.with_suffix(".pt"))
        atomic.write(log, json.dumps(entry | {"settings": dataclasses.asdict(recipe)}))
    return json.loads(log.read_text(encoding="utf-8"))


def rows_of(entries):
    """A row for what differs in anything but the seed."""
    groups = {}
    for entry in entries:
        key = (entry["family"], entry.get("size", ""), entry["labels"], entry["equal"])
        groups.setdefault(key, []).append(entry)
    for (family, size, labels, equal), same in groups.items():
        shares = [100 * e["accuracy"] for e in same]
        cells = (f"{size} {family}".strip(), f"{labels:,}", equal, measure.mean(shares))
        each = ", ".join(f"{share:.1f}" for share in shares)
        numbers = (statistics.mean(e[key] for e in same) for key in ("images", "seconds", "parameters"))
        on_labels = 100 * statistics.mean(e["accuracy on the labels"] for e in same)
        yield (*cells, each, f"{on_labels:.1f}", *(f"{n:,.0f}" for n in numbers))


HEAD = (
    "model",
    "labels",
    "equal",
    "held-out accuracy, %",
    "each seed",
    "on the labels, %",
    "images seen",
    "processor seconds",
    "parameters",
)


def main(argv=None):
    """Run one of the experiments and write its entries and its table."""
    parser = measure.training_parser("inductive_bias", __doc__, ("data", "compute", "remedies"))
    measure.add_budgets(parser, images=90000, minutes=1.5)
    parser.add_argument("--log", type=Path, default=training.LOGS / "inductive_bias.jsonl")
    args = parser.parse_args(argv)
    conditions = measure.conditions("inductive_bias", argv, "cpu")
    folder = args.runs / f"{args.images}-{args.minutes:g}"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (about, recipe, args.data, folder)
        for about, recipe in jobs_of(args.experiment, args.seeds, args.images, args.minutes)
        if args.only in name_of(about)
    ]
    entries = measure.side_by_side(run, jobs, args.jobs)
    for entry in entries:
        del entry["settings"]["seed"]
    copy = args.copy or f"data: {args.data or 'what data.load() finds'}"
    about = {"copy": copy, "minutes": args.minutes, "conditions": {args.experiment: conditions}}
    measure.add_to_log(args.log, args.experiment, about, entries)
    text = (
        f"{copy}. Accuracy on {measure.HELD_OUT:,} held-out training images, mean and standard deviation over {len(args.seeds)} seeds. "
        f"Equal is either the number of images seen or the time ({args.minutes:g} minutes of one thread).\n\n"
        f"{measure.table(HEAD, rows_of(entries))}\n\n{conditions}"
    )
    measure.write(args.out, "inductive_bias", args.experiment, text)


if __name__ == "__main__":
    main()
