"""What each piece of a recipe is worth: `python benchmarks/pieces.py [--recipe laptop] [--minutes 4] --data ...`.

Trains the recipe whole, and again with one piece taken out or exchanged, several seeds each. The accuracy on held-out training
images goes to vit_edu/logs/pieces.jsonl (conditions first, then an entry a run), from which lesson 06 draws it, and as a table to
benchmarks/results/pieces.md. The test images are not used. Every run has the same minutes, on one thread, counted by the
processor's clock: so they may go side by side, and a piece that costs time must earn it.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import time
from pathlib import Path

import torch

from vit_edu import data, training
from vit_edu.whole import write_whole

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

# What is changed -> the fields of the recipe that say so; those of "model" are its arguments.
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
}


def run(job):
    """One run, in a process of its own. job: (piece, recipe, folder of the logs). Returns its entry in pieces.jsonl."""
    piece, recipe, folder = job
    log = folder / f"{piece.replace(' ', '_')}-{recipe.seed}.json"
    if not log.exists():
        torch.set_num_threads(1)
        images = data.load()
        model = training.build_model(recipe, images)
        history = training.fit(model, images, recipe, clock=time.process_time)
        entry = {"piece": piece, "seed": recipe.seed, "epochs": len(history)}
        write_whole(log, json.dumps(entry | {"val_accuracy": history[-1]["val_accuracy"]}))
    return json.loads(log.read_text())


def _mean(values, sign=""):
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{spread}"


def main(argv=None):
    """Run all pieces, two at a time, and write the table. Runs that are there are not run again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pieces", nargs="+", default=list(PIECES), help="some of them by name")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--data", help="folder of the images; without it, what data.load() finds")
    parser.add_argument("--copy", default="", help="which copy of the data, for the table")
    parser.add_argument("--runs", type=Path, default=Path("runs/pieces"))
    parser.add_argument("--log", type=Path, default=training.LOGS / "pieces.jsonl")
    parser.add_argument("--out", type=Path, default=measure.RESULTS)
    args = parser.parse_args(argv)
    args.pieces = [WHOLE, *(piece for piece in args.pieces if piece != WHOLE)]
    if args.data:
        os.environ["VIT_EDU_DATA"] = args.data
    # Runs of another recipe or of other minutes are not taken for these
    runs = args.runs / f"{args.recipe}-{args.minutes:g}"
    conditions = measure.conditions("pieces", argv, "cpu")
    whole = dataclasses.replace(training.RECIPES[args.recipe], minutes=args.minutes, epochs=None)
    jobs = []
    for seed in args.seeds:
        for piece in args.pieces:
            changes = dict(PIECES[piece])
            changes["model"] = whole.model | changes.get("model", {})
            jobs.append((piece, dataclasses.replace(whole, seed=seed, **changes), runs))
    runs.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=1) as pool:
        found = pool.map(run, jobs, chunksize=1)
    first = {
        "recipe": args.recipe,
        "copy": args.copy or f"data: {args.data or 'what data.load() finds'}",
        "conditions": conditions,
        "settings": dataclasses.asdict(whole),
    }
    write_whole(args.log, "".join(json.dumps(entry) + "\n" for entry in (first, *found)))
    whole_share = {e["seed"]: e["val_accuracy"] for e in found if e["piece"] == WHOLE}
    rows = []
    for piece in args.pieces:
        runs = [entry for entry in found if entry["piece"] == piece]
        shares = [100 * e["val_accuracy"] for e in runs]
        apart = [100 * (e["val_accuracy"] - whole_share[e["seed"]]) for e in runs]
        epochs = statistics.mean(entry["epochs"] for entry in runs)
        rows.append(
            (piece, _mean(shares), _mean(apart, "+") if piece != WHOLE else "", f"{epochs:.1f}")
        )
    head = ("what is changed", "held-out accuracy, %", "difference, same seed", "epochs")
    text = (
        f"# What each piece is worth\n\n{first['copy']}. {whole}\n\n"
        f"Held-out accuracy after {args.minutes:g} minutes of one thread; mean and standard deviation over "
        f"{len(args.seeds)} seeds. Runs with the same seed have the same held-out images.\n\n"
        f"{measure.table(head, rows)}\n\n{conditions}\n"
    )
    write_whole(args.out / "pieces.md", text)
    print(text)


if __name__ == "__main__":
    main()
