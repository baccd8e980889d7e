"""Our own runs, to compare yours with, as RECIPE-SEED.jsonl; what each piece of a recipe is worth, as pieces.jsonl; and for each
lesson that compares models, a file with an entry per run."""

import json
from pathlib import Path

LOGS = Path(__file__).parent


def read_log(path):
    """Read one of our logs: (its conditions, a dict; the history as `fit` returns it; the result, a dict)."""
    first, *history, last = (json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines())
    return first, history, last


def logged_runs(recipe_name, classes):
    """Histories of our own runs of a recipe on data with these classes, one for each seed; [] if there are none."""
    logs = [read_log(path) for path in sorted(LOGS.glob(f"{recipe_name}-[0-9]*.jsonl"))]
    return [history for first, history, _ in logs if first["classes"] == list(classes)]


def logged_pieces():
    """What each piece of a recipe was worth in our own runs (`benchmarks/pieces.py`).

    Returns (conditions, a dict; {what was changed: held-out accuracies, 0..1, one for each seed}). The unchanged recipe comes
    first, and runs with the same seed have the same held-out images.
    """
    first, *runs = map(json.loads, (LOGS / "pieces.jsonl").read_text(encoding="utf-8").splitlines())
    found = {}
    for entry in sorted(runs, key=lambda entry: entry["seed"]):
        found.setdefault(entry["piece"], []).append(entry["val_accuracy"])
    return first, found


def logged_entries(name):
    """Our own runs of an experiment with many models, `name`.jsonl: (conditions, a dict; a list with a dict for each run)."""
    first, *entries = map(json.loads, (LOGS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
    return first, entries
