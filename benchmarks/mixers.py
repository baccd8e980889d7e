"""What lesson 09 draws: `python benchmarks/mixers.py mixers|questions|shuffled --data ...`.

mixers: every token mixer, and attention also with few tokens at first, for equally many images seen, and again between two learned
linear layers; for equal minutes those of IN_EQUAL_TIME, because the others cost about as much as a convolution and are far behind
it. questions: attention and the token MLP with and without positions, with a class token or the mean. shuffled: trained on images
whose patches are shuffled, in the same way for all of them.

Only the mixer differs; sizes and recipe are those of "laptop". Every run is judged on the same 5,000 training images, which none
of them sees, as they are and with shuffled patches; the test images are not used. Minutes are those of one thread by the
processor's clock, so that runs may go side by side. The entries go to vit_edu/training/logs/mixers.jsonl (conditions first) and
tables to benchmarks/results/mixers.md. Runs that are there are not repeated.
"""

import dataclasses
import functools
import json
import statistics
from pathlib import Path

import torch

from vit_edu import atomic, data, inspect, training
from vit_edu.models.mixer import MIXERS

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

LAPTOP = training.RECIPES["laptop"]
PLAIN = {"between": False, "schedule": False, "positions": True, "head": "avg", "shuffled": False}
IN_EQUAL_TIME = ("attention", "mlp", "convolution", "none")
ORDER = torch.randperm(64, generator=torch.Generator().manual_seed(0))  # of the 8 x 8 patches


def variants(experiment):
    """What is compared: dicts with the mixer, and what differs from PLAIN."""
    if experiment == "mixers":
        yield from ({"mixer": mixer} for mixer in MIXERS)
        yield {"mixer": "attention", "schedule": True}
        yield from ({"mixer": mixer, "between": True} for mixer in MIXERS if mixer != "attention")
    if experiment == "questions":
        for mixer in ("attention", "mlp"):
            for positions in (True, False):
                for head in ("avg", "token"):
                    yield {"mixer": mixer, "positions": positions, "head": head}
    if experiment == "shuffled":
        for mixer in ("attention", "mlp", "convolution", "pooling"):
            yield {"mixer": mixer}
            yield {"mixer": mixer, "shuffled": True}


def recipe_of(about, images, minutes):
    """The recipe of a variant. images, minutes: how long it trains, whichever is to be equal."""
    model = LAPTOP.model | {
        "kind": "mixer",
        "mixer": about["mixer"],
        "value_proj": about["between"],
        "global_pool": about["head"],
        "pos_embed": "learn" if about["positions"] else "none",
    }
    by_images = about["equal"] == "images"
    return dataclasses.replace(
        LAPTOP,
        seed=about["seed"],
        minutes=None if by_images else minutes,
        epochs=max(1, round(images / (50000 - measure.HELD_OUT))) if by_images else None,
        tokens=LAPTOP.tokens if about["schedule"] else (),
        validation=0.0,
        model=model,
    )


def jobs_of(experiment, seeds):
    """Dicts that describe the runs."""
    for seed in seeds:
        for variant in variants(experiment):
            yield PLAIN | variant | {"equal": "images", "seed": seed}
            timed = variant["mixer"] in IN_EQUAL_TIME and not variant.get("between")
            if experiment == "mixers" and timed:
                yield PLAIN | variant | {"equal": "minutes", "seed": seed}


def name_of(about):
    """A run that belongs to several experiments has the same name in all of them."""
    words = [about["mixer"], *(word for word in ("between", "schedule", "shuffled") if about[word])]
    words += [about["head"], "positions" if about["positions"] else "nowhere", about["equal"]]
    return "-".join([*words, str(about["seed"])])


def run(job):
    """One run, in a separate process. job: (what it is, its recipe, source of images, folder of runs). Returns its entry."""
    about, recipe, source, folder = job
    log = folder / f"{name_of(about)}.json"
    if not log.exists():
        images = measure.images_of(source)
        train, held_out = images.train.hold_out(measure.HELD_OUT, seed=0)
        model = training.build_model(recipe, images)
        if about["shuffled"]:  # after crops and flips, which are those of whole pictures
            model.register_forward_pre_hook(lambda model, inputs: (shuffled(inputs[0]),))
        entry = about | measure.trained(model, dataclasses.replace(images, train=train), recipe)
        batches = functools.partial(data.batches, mean=images.mean, std=images.std)
        entry["accuracy"] = training.evaluate(model, batches(held_out, 500))
        other_order = ((shuffled(batch), labels) for batch, labels in batches(held_out, 500))
        entry["accuracy, patches shuffled"] = training.evaluate(model, other_order)
        atomic.write(log, json.dumps(entry | {"settings": dataclasses.asdict(recipe)}))
        torch.save(model.state_dict(), log.with_suffix(".pt"))
    return json.loads(log.read_text(encoding="utf-8"))


def shuffled(images):
    """The patches of all images (B, C, H, W) in the order ORDER."""
    return inspect.shuffle_patches(images, LAPTOP.model["patch_size"], ORDER)


def title_of(entry):
    """What differs from the plain Mixer, in words."""
    words = [entry["mixer"]]
    words += ["between linear layers"] * entry["between"] + ["few tokens at first"] * entry["schedule"]
    words += ["no positions"] * (not entry["positions"]) + ["class token"] * (entry["head"] == "token")
    return ", ".join(words + ["trained on shuffled patches"] * entry["shuffled"])


def rows_of(entries):
    """A row for what differs in anything but the seed."""
    groups = {}
    for entry in entries:
        groups.setdefault((title_of(entry), entry["equal"]), []).append(entry)
    for (title, equal), same in groups.items():
        shares = [100 * e["accuracy"] for e in same]
        other = [100 * e["accuracy, patches shuffled"] for e in same]
        each = ", ".join(f"{share:.1f}" for share in shares)
        numbers = (statistics.mean(e[key] for e in same) for key in ("images", "seconds", "parameters"))
        yield (
            title,
            equal,
            measure.mean(shares),
            each,
            measure.mean(other),
            *(f"{n:,.0f}" for n in numbers),
        )


HEAD = (
    "mixer",
    "equal",
    "held-out accuracy, %",
    "each seed",
    "the same with patches shuffled, %",
    "images seen",
    "processor seconds",
    "parameters",
)


def main(argv=None):
    """Run one of the experiments and write its entries and its table."""
    parser = measure.training_parser("mixers", __doc__, ("mixers", "questions", "shuffled"))
    measure.add_budgets(parser, images=90000, minutes=1.0)
    parser.add_argument("--log", type=Path, default=training.LOGS / "mixers.jsonl")
    args = parser.parse_args(argv)
    conditions = measure.conditions("mixers", argv, "cpu")
    folder = args.runs / f"{args.images}-{args.minutes:g}"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (about, recipe_of(about, args.images, args.minutes), args.data, folder)
        for about in jobs_of(args.experiment, args.seeds)
        if args.only in name_of(about)
    ]
    entries = measure.side_by_side(run, jobs, args.jobs)
    entries = [{"experiment": args.experiment} | entry for entry in entries]
    for entry in entries:
        del entry["settings"]["seed"]
    copy = args.copy or f"data: {args.data or 'what data.load() finds'}"
    about = {"copy": copy, "minutes": args.minutes, "conditions": {args.experiment: conditions}}
    measure.add_to_log(args.log, args.experiment, about, entries)
    text = (
        f"{copy}. Accuracy on {measure.HELD_OUT:,} held-out training images, mean and standard deviation over {len(args.seeds)} "
        f"seeds. Equal is either the number of images seen or the time ({args.minutes:g} minutes of one thread). With patches "
        "shuffled: the same trained model, and the patches of all images in another order, the same for all.\n\n"
        f"{measure.table(HEAD, rows_of(entries))}\n\n{conditions}"
    )
    measure.write(args.out, "mixers", args.experiment, text)


if __name__ == "__main__":
    main()
