"""Accuracy within a given time, for the recipes that have a target: `python benchmarks/time_to_accuracy.py laptop --data ...`.

Each run is `training.fit`, as in lesson 06 and in `vit-edu train`, followed by one look at the test images. Its log goes to
vit_edu/training/logs/RECIPE-SEED.jsonl: the conditions first, then an entry per epoch, and the result last. The table over all
logs goes to benchmarks/results/time_to_accuracy.md. The same command resumes a run that was cut off, and does not repeat one
whose run and log are already there. Each run has its own process and, for CUDA, its own folder of compiled code, so that none
is faster because of those before it.

`--gpu` takes the three recipes for a GPU. `--one-core` counts the time that the processor worked, on one thread, so that runs may
go side by side. `--toy` shrinks every run to seconds, to try out the command itself.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from vit_edu import atomic, data, training
from vit_edu.models.kinds import with_kind

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

# recipe -> (where, test accuracy to reach)
TARGETS = {
    "laptop": ("2 CPU cores", 0.78),
    "laptop-hybrid": ("2 CPU cores", 0.81),
    "long": ("2 CPU cores", 0.89),
    "gpu": ("one GPU", 0.935),
    "gpu-long": ("one GPU", 0.95),
    "gpu-hybrid": ("one GPU", 0.96),
}
GPU = ("gpu", "gpu-long", "gpu-hybrid")
TOY = {
    "minutes": 1.0 if torch.cuda.is_available() else 0.02,
    "max_images": 256,
    "batch_size": 32,
    "average": 0.9,
}
TOY_MODEL = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def main(argv=None):
    """Run what is asked for, and write the logs and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", help=f"some of {', '.join(TARGETS)}")
    parser.add_argument("--gpu", action="store_true", help=f"the same as {' '.join(GPU)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", help="folder of the images (what data.load() finds)")
    parser.add_argument("--copy", default="", help="which copy of the data, for the table")
    parser.add_argument("--runs", type=Path, default=Path("runs/time_to_accuracy"))
    parser.add_argument("--logs", type=Path, default=training.LOGS)
    parser.add_argument("--out", type=Path, default=measure.RESULTS)
    parser.add_argument("--one-core", action="store_true", help="use one thread and the processor's clock")
    parser.add_argument("--toy", action="store_true", help="a few seconds per run, with tiny models")
    args = parser.parse_args(argv)
    asked = args.recipes + list(GPU) * args.gpu
    unknown = set(asked) - set(TARGETS)
    if unknown:
        parser.error(f"no target for {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    for seed in args.seeds:
        for name in asked:
            with tempfile.TemporaryDirectory() as compiled:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ["TRITON_CACHE_DIR"] = compiled
                process = multiprocessing.get_context("spawn").Process(target=run, args=(name, seed, args))
                process.start()
                process.join()
            if process.exitcode:
                sys.exit(f"{name}, seed {seed}: did not reach its end. The same command resumes it.")
    text = summary(args.logs)
    atomic.write(args.out / "time_to_accuracy.md", text)
    print(text)


def run(name, seed, args):
    """One run from its first step, or from its checkpoint, to its log."""
    recipe = dataclasses.replace(training.RECIPES[name], seed=seed)
    if args.toy:
        recipe = dataclasses.replace(recipe, **TOY, model=recipe.model | TOY_MODEL)
    log = args.logs / f"{name}-{seed}.jsonl"
    out = args.runs / f"{name}-{seed}{'-one-core' * args.one_core}"
    # Logs come with the course and runs do not, so whoever has no run of their own measures again
    ended = log.exists() and (out / "checkpoint.pt").exists()
    if ended and measure.same_settings(training.read_log(log)[0]["settings"], recipe):
        print(f"{name}, seed {seed}: {log} and {out} are already there, so this is not run again")
        return
    if args.one_core:
        torch.set_num_threads(1)
    device = training.pick_device()
    command = [name, "--seeds", str(seed)] + ["--one-core"] * args.one_core
    conditions = measure.conditions("time_to_accuracy", command, device)
    clock = time.process_time if args.one_core else time.perf_counter
    images = data.load(source=args.data)
    print(f"{name}, seed {seed}: {recipe}\n{conditions}", flush=True)
    model = training.build_model(recipe, images).to(device)
    history = training.fit(model, images, recipe, out=out, clock=clock)
    if not history or history[-1]["seconds"] < 60 * recipe.minutes:
        sys.exit(1)  # stopped
    mean, std = images.mean.to(device), images.std.to(device)
    test = images.test.to(device)
    accuracy = training.evaluate(model, data.batches(test, 512, mean, std))
    entries = [
        {
            "recipe": name,
            "seed": seed,
            "parameters": sum(p.numel() for p in model.parameters()),
            "classes": images.classes,
            "where": where(device),
            "copy": args.copy,
            "conditions": conditions,
            "settings": dataclasses.asdict(recipe),
        },
        *history,
        {"test_accuracy": accuracy, "test_images": len(images.test)},
    ]
    atomic.write(log, "".join(json.dumps(e) + "\n" for e in entries))
    print(f"{name}, seed {seed}: {accuracy:.2%} of {len(images.test):,} test images", flush=True)


def where(device):
    """What computes, in two or three words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{threads} CPU core{'s' * (threads > 1)}"


def summary(folder):
    """The table over all logs in a folder, followed by the conditions of each recipe."""
    rows, notes = [], []
    for name, (place, target) in TARGETS.items():
        logs = [training.read_log(path) for path in sorted(folder.glob(f"{name}-[0-9]*.jsonl"))]
        if not logs:
            continue
        found = [100 * last["test_accuracy"] for _, _, last in logs]
        first = logs[0][0]
        kind = (
            "convolutional stem" if with_kind(first["settings"]["model"])["kind"] == "hybrid" else "plain ViT"
        )
        minutes = max(history[-1]["seconds"] for _, history, _ in logs) / 60
        spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        rows.append(
            (
                name,
                first.get("where", place),
                f"{minutes:.1f}",
                f"{kind}, {first['parameters']:,}",
                f"{len(found)}",
                f"{statistics.mean(found):.2f}{spread}",
                f"{min(found):.2f} to {max(found):.2f}",
                f"{100 * target:g}",
            )
        )
        notes.append(f"- {name}: {first['copy'] or ', '.join(first['classes'])}. {first['conditions']}")
    head = (
        "recipe", "where", "minutes", "model, parameters", "seeds", "test accuracy, %", "range", "target",
    )  # fmt: skip
    return (
        "# Time to accuracy\n\nTest accuracy of the last step, no test-time augmentation, mean and standard deviation over the "
        "seeds; the test images are used once a run. Minutes: of training, the longest run, evaluation after each epoch "
        f"included.\n\n{measure.table(head, rows)}\n\n" + "\n".join(notes) + "\n"
    )


if __name__ == "__main__":
    main()
