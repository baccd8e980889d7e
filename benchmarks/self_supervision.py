"""What lesson 10 prints: `python benchmarks/self_supervision.py labels|ratios|shortcuts --data ...`.

labels: pretext tasks without labels, then a linear probe and fine-tuning on 1 %, 10 % and 100 % of the labels, against training from
scratch for the minutes of fine-tuning and for those of pretraining and fine-tuning together, and against weights that come with
the course. ratios: masked patches with three mask ratios, and a linear probe. shortcuts: rotation on images with a trace that gives the turn away.

Encoder and recipe are those of "laptop". Pretraining sees all 50,000 training images, and the labelled ones are the same for
every method and seed. Everything is judged on the 10,000 test images, on which nothing is chosen. Minutes are those of one thread
by the processor's clock, so that runs may go side by side. The entries go to vit_edu/training/logs/self_supervision.jsonl
(conditions first) and tables to benchmarks/results/self_supervision.md. Steps that are there are not repeated.
"""

import dataclasses
import functools
import json
import statistics
from pathlib import Path

import torch
from torch import nn

from vit_edu import atomic, data, pretrained, selfsupervised, training, transfer

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

LAPTOP = training.RECIPES["laptop"]
SHARES = (0.01, 0.1, 1.0)
PRETEXT = {  # recipes, and what differs in their models
    "masked": ("laptop-masked", {}),
    "rotation": ("laptop-rotation", {}),
    "colour": ("laptop-colour", {}),
    "contrastive": ("laptop-contrastive", {}),
    "masked, 50 %": ("laptop-masked", {"mask_ratio": 0.5}),
    "masked, 90 %": ("laptop-masked", {"mask_ratio": 0.9}),
}
SHIPPED = {  # weights that come with the course
    "masked for 8 minutes": "vit-cifar10-mae",
    "supervised": "vit-cifar10",  # has seen all labels
}
LABELS = ("masked", "rotation", "colour", "contrastive", "untrained", "scratch", "scratch, longer", *SHIPPED)
RATIOS = ("masked, 50 %", "masked", "masked, 90 %")
VIEWS = {"rotation": 4, "contrastive": 2}  # how often each image passes through the model
TRACES = ("none", "a black line")


def kept(file, make):
    """What `make()` returns, a dict, from `file` if an earlier run has left it there."""
    if not file.exists():
        atomic.write(file, json.dumps(make()))
    return json.loads(file.read_text(encoding="utf-8"))


def name_of(*words):
    return "-".join(str(word).replace(" ", "_").replace(",", "").replace("%", "percent") for word in words)


def new_vit(images, num_classes, seed, weights=()):
    """The ViT of the recipe, with its own first weights, or with these."""
    recipe = dataclasses.replace(LAPTOP, seed=seed)
    vit = training.build_model(recipe, images)
    vit.load_state_dict(dict(weights), strict=False)
    if not num_classes:
        vit.head = nn.Identity()
    return vit.eval()


# ---------------------------------------------------------------- one step each


def pretrain(images, method, seed, minutes, file):
    """Train without labels. The encoder's weights go to `file`. Returns what is said about it."""
    name, changes = PRETEXT[method]
    recipe = training.RECIPES[name]
    model = recipe.model | changes
    recipe = dataclasses.replace(recipe, minutes=minutes, seed=seed, validation=0.0, model=model)
    model = training.build_model(recipe, images)
    about = measure.trained(model, images, recipe)
    about["images"] //= VIEWS.get(recipe.task, 1)
    task = training.make_task(recipe, images)
    about["pretext score"] = task.score(model, data.batches(images.test, 500, images.mean, images.std))
    torch.save(selfsupervised.encoder_weights(model), file)
    return about | {"settings": dataclasses.asdict(recipe)}


@torch.no_grad()
def features(encoder, split, images):
    """What the head would read, (N, D), and the labels."""
    found = [encoder(batch) for batch, _ in data.batches(split, 500, images.mean, images.std)]
    return torch.cat(found), split.labels


def probe(images, seed, weights):
    """A linear probe on the features of an encoder that does not change. Returns {share of the labels: accuracy}."""
    encoder = new_vit(images, 0, seed, weights)
    queries, truth = features(encoder, images.test, images)
    found = {}
    for share in SHARES:
        head = transfer.linear_probe(*features(encoder, measure.part(images.train, share), images), 10)
        with torch.no_grad():
            found[str(share)] = training.accuracy(head(queries), truth)
    return found


def fine_tune(images, share, seed, minutes, weights):
    """Train with labels, all weights, with a new head. Returns what is said about it."""
    recipe = dataclasses.replace(LAPTOP, minutes=minutes, seed=seed, validation=0.0)
    some = dataclasses.replace(images, train=measure.part(images.train, share))
    model = new_vit(images, 10, seed, weights)
    about = measure.trained(model, some, recipe)
    test = data.batches(images.test, 500, images.mean, images.std)
    return about | {"labels": len(some.train), "accuracy": training.evaluate(model, test)}


# ---------------------------------------------------------------- runs


def run(job):
    """A method with a seed and all that follows, in a separate process. Returns its entries, one for each share of the labels.

    job: (experiment, method, seed, minutes of pretraining and of fine-tuning, source of images, folder of steps).
    """
    experiment, method, seed, minutes, source, folder = job
    torch.set_num_threads(1)
    images = functools.cache(lambda: measure.images_of(source))  # loaded where a step is missing
    if experiment == "shortcuts":
        file = folder / f"{name_of('rotation', method, seed)}.json"
        return [kept(file, lambda: shortcut(images(), method, seed, minutes[0]))]
    first, weights = {}, {}
    if method in PRETEXT:
        saved = folder / f"{name_of(method, seed)}.pt"
        first = kept(saved.with_suffix(".json"), lambda: pretrain(images(), method, seed, minutes[0], saved))
        weights = torch.load(saved, weights_only=True)
    elif method in SHIPPED:
        weights = selfsupervised.encoder_weights(pretrained.load(SHIPPED[method]))
    scratch = method.startswith("scratch")
    probed = {}
    if not scratch:
        file = folder / f"{name_of(method, seed, 'probe')}.json"
        probed = kept(file, lambda: probe(images(), seed, weights))
    longer = minutes[0] * (method == "scratch, longer")
    entries = []
    for share in SHARES:
        tuned = {"labels": round(share * 50000)}
        if method != "untrained" and experiment != "ratios":
            file = folder / f"{name_of(method, seed, share)}.json"
            train = functools.partial(fine_tune, share=share, seed=seed, minutes=minutes[1] + longer)
            tuned = kept(file, lambda train=train: train(images(), weights=weights))
        entries.append(entry_of(experiment, method, share, seed, first, probed, tuned))
    return entries


def entry_of(experiment, method, share, seed, first, probed, tuned):
    """A line of the log. None stands for what this method does not have."""
    return {
        "experiment": experiment,
        "method": method,
        "share": share,
        "labels": tuned["labels"],
        "seed": seed,
        "images": first.get("images"),
        "seconds": first.get("seconds"),
        "pretext score": first.get("pretext score"),
        "probe accuracy": probed.get(str(share)),
        "accuracy": tuned.get("accuracy"),
        "images with labels": tuned.get("images"),
        "seconds with labels": tuned.get("seconds"),
    }


# ---------------------------------------------------------------- shortcuts


def traced(split, trace):
    """A split whose images, (N, 3, H, W), have a trace that says where their lower edge was.

    A black line: the lowest row of pixels is black, as a shift by one pixel leaves it.
    """
    images = split.images.clone()
    if trace == "a black line":
        images[:, :, -1] = 0
    return dataclasses.replace(split, images=images)


def shortcut(images, trace, seed, minutes):
    """Train on rotation where images have a trace. Returns its entry: scores with and without the trace, and a probe."""
    recipe = training.RECIPES["laptop-rotation"]
    recipe = dataclasses.replace(recipe, minutes=minutes, seed=seed, validation=0.0, crop=0)
    train, test = traced(images.train, trace), traced(images.test, trace)
    model = training.build_model(recipe, images)
    about = measure.trained(model, dataclasses.replace(images, train=train), recipe)
    task = training.make_task(recipe, images)
    batches = functools.partial(data.batches, mean=images.mean, std=images.std)
    probed = probe(images, seed, selfsupervised.encoder_weights(model))
    return {
        "experiment": "shortcuts",
        "method": "rotation",
        "trace": trace,
        "seed": seed,
        "images": about["images"] // VIEWS["rotation"],
        "seconds": about["seconds"],
        "pretext score": task.score(model, batches(test, 500)),
        "pretext score, without the trace": task.score(model, batches(images.test, 500)),
        "probe accuracy": probed["0.1"],
        "share": 0.1,
        "labels": round(0.1 * len(images.train)),
    }


# ---------------------------------------------------------------- tables

HEAD = (
    "method",
    "labels",
    "linear probe, %",
    "fine-tuned, %",
    "each seed",
    "pretext score",
    "images without labels",
    "with",
)
SHORTCUT_HEAD = (
    "trace",
    "turns with the trace, %",
    "turns without it, %",
    "linear probe on 10 % of the labels, %",
    "each seed",
    "images",
)


def _percent(same, key):
    values = [100 * entry[key] for entry in same if entry[key] is not None]
    return measure.mean(values) if values else ""


def _number(same, key, digits=0):
    values = [entry[key] for entry in same if entry[key] is not None]
    return f"{statistics.mean(values):,.{digits}f}" if values else ""


def rows_of(entries):
    """A row for each method and share of the labels."""
    groups = {}
    for entry in entries:
        groups.setdefault((entry["method"], entry["labels"]), []).append(entry)
    for (method, labels), same in sorted(groups.items(), key=lambda item: item[0][1]):
        key = "probe accuracy" if same[0]["accuracy"] is None else "accuracy"
        yield (
            method,
            f"{labels:,}",
            _percent(same, "probe accuracy"),
            _percent(same, "accuracy"),
            ", ".join(f"{100 * entry[key]:.1f}" for entry in same),
            _number(same, "pretext score", 3),
            _number(same, "images"),
            _number(same, "images with labels"),
        )


def shortcut_rows(entries):
    """A row for each trace."""
    groups = {}
    for entry in entries:
        groups.setdefault(entry["trace"], []).append(entry)
    for trace, same in groups.items():
        keys = ("pretext score", "pretext score, without the trace", "probe accuracy")
        each = ", ".join(f"{100 * entry['probe accuracy']:.1f}" for entry in same)
        yield (trace, *(_percent(same, key) for key in keys), each, _number(same, "images"))


def main(argv=None):
    """Run one of the experiments and write its entries and its table."""
    methods = {"labels": LABELS, "ratios": RATIOS, "shortcuts": TRACES}
    parser = measure.training_parser("self_supervision", __doc__, methods)
    parser.add_argument("--minutes", type=float, default=2, help="processor time of pretraining (2)")
    parser.add_argument("--fine-tuning", type=float, default=0.5, help="processor time with labels (0.5)")
    parser.add_argument("--log", type=Path, default=training.LOGS / "self_supervision.jsonl")
    args = parser.parse_args(argv)
    conditions = measure.conditions("self_supervision", argv, "cpu")
    minutes = (args.minutes, args.fine_tuning)
    folder = args.runs / "-".join(f"{m:g}" for m in minutes)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (args.experiment, method, seed, minutes, args.data, folder)
        for method in methods[args.experiment]
        for seed in (args.seeds[:1] if method in SHIPPED else args.seeds)  # they were trained once
        if args.only in name_of(method, seed)
    ]
    entries = [entry for found in measure.side_by_side(run, jobs, args.jobs) for entry in found]
    copy = args.copy or f"data: {args.data or 'what data.load() finds'}"
    times = {"minutes": args.minutes, "minutes with labels": args.fine_tuning}
    about = {"copy": copy, "conditions": {args.experiment: conditions}} | {
        f"{args.experiment}, {k}": v for k, v in times.items()
    }
    measure.add_to_log(args.log, args.experiment, about, entries)
    text = f"{copy}. All of it on the 10,000 test images, mean and standard deviation over {len(args.seeds)} seeds. "
    if args.experiment == "shortcuts":
        text += (
            f"Rotation for {args.minutes:g} minutes of one thread. The probe reads images without a trace."
        )
        table = measure.table(SHORTCUT_HEAD, shortcut_rows(entries))
    else:
        text += (
            f"{args.minutes:g} minutes of one thread without labels, then {args.fine_tuning:g} with labels; scratch has the latter, and "
            '"scratch, longer" both. Each seed: fine-tuned, or the probe where nothing was. '
            'The weights "supervised" have seen all labels for 5 minutes.'
        )
        table = measure.table(HEAD, rows_of(entries))
    measure.write(args.out, "self_supervision", args.experiment, f"{text}\n\n{table}\n\n{conditions}")


if __name__ == "__main__":
    main()
