"""What the benchmarks share: timing in turn, the conditions of a measurement, a table and its file, images on a disk."""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
import multiprocessing
import os
import pickle
import platform
import random
import shlex
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path
from unittest import mock

import torch

from vit_edu import atomic, training
from vit_edu import data as vit_data

RESULTS = Path(__file__).parent / "results"


def parser(text, rounds):
    """The options that all benchmarks have. text: the module's docstring."""
    new = argparse.ArgumentParser(description=text.splitlines()[0])
    new.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    new.add_argument("--rounds", type=int, default=rounds, help=f"how often everything is timed ({rounds})")
    new.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
    return new


def wait(device):
    """Wait until the device has done its work. The CPU always has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def in_turn(jobs, rounds, device="cpu", repeats=1, warmups=2, clock=time.perf_counter):
    """The seconds that one call of each job takes. jobs: {name: function}. Returns {name: [one number per round]}.

    Each round calls every job `repeats` times, in a new random order, so that whatever else the machine does affects all of
    them alike. Before the first round each job is called `warmups` times, which does not count. What a job returns is kept
    until the clock has stopped, so that cleaning up does not count either. clock: `time.process_time` leaves out the time in which
    other processes ran, but adds up that of all threads.
    """
    order, seconds = random.Random(0), {name: [] for name in jobs}
    for job in jobs.values():
        for _ in range(warmups):
            job()
    for _ in range(rounds):
        for name in order.sample(list(jobs), len(jobs)):
            wait(device)
            started = clock()
            for _ in range(repeats):
                kept = jobs[name]()
            wait(device)
            seconds[name].append((clock() - started) / repeats)
            del kept
    return seconds


def hardware(device):
    """The processor, whether it has bf16, the cores that this process may use, the threads, and the GPU if one is used."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((n.split(":")[1].strip() for n in lines if n.startswith("model name")), cpu)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.device(device).type == "cuda" else ""
    cpu += " with bf16" * training.has_bf16("cpu")
    return f"{cpu}, {cores} cores, {torch.get_num_threads()} threads{gpu}"


def conditions(program, argv, device, packages=()):
    """One line with hardware, load before, versions, command and date. Call it before measuring."""
    found = [f"Python {platform.python_version()}"]
    found += [f"{name} {metadata.version(name)}" for name in ("torch", *packages)]
    argv = sys.argv[1:] if argv is None else argv
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{hardware(device)}; load of the machine before: {load}. {', '.join(found)}. "
        f"`python benchmarks/{program}.py{' ' * bool(argv)}{shlex.join(argv)}`, {datetime.date.today()}."
    )


def table(head, rows):
    """A Markdown table. head: the names of the columns. rows: tuples of texts, as long as head."""
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (head, ("---", *["---:"] * (len(head) - 1)), *rows)
    )


def write(folder, program, title, text):
    """Print a section and put it into folder/PROGRAM.md, where it replaces an older section of this title.

    The file is written whole or not at all.
    """
    file = Path(folder) / f"{program}.md"
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    sections = dict(part.split("\n", 1) for part in f"\n{old}".split("\n## ")[1:])
    sections[title] = f"\n{text}\n"
    parts = [f"## {name}\n\n{body.strip()}\n" for name, body in sections.items()]
    atomic.write(file, "\n".join([f"# {program}\n", *parts]))
    print(f"{title}\n\n{text}")


# ---------------------------------------------------------------- runs with several seeds

HELD_OUT = 5000  # training images that no run sees, and on which all are judged


def training_parser(program, text, experiments):
    """The options of a benchmark that trains, in one of several experiments. program: its name. text: the module's docstring."""
    new = argparse.ArgumentParser(description=text.splitlines()[0])
    new.add_argument("experiment", choices=experiments)
    new.add_argument("--only", default="", help="runs whose name contains this")
    new.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    new.add_argument("--jobs", type=int, default=2, help="runs at a time (2)")
    new.add_argument("--data", help="folder of the images (what data.load() finds)")
    new.add_argument("--copy", default="", help="which copy of the data, for the table")
    new.add_argument("--runs", type=Path, default=Path("runs") / program, help="folder of the single runs")
    new.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
    return new


def add_budgets(parser, images, minutes):
    """Options for how long a run takes where something is to be equal, with these defaults: images seen, and minutes."""
    parser.add_argument("--images", type=int, default=images, help=f"images seen, where equal ({images})")
    parser.add_argument(
        "--minutes", type=float, default=minutes, help=f"processor time, where equal ({minutes:g})"
    )


def side_by_side(run, jobs, count):
    """What `run` returns for each job, `count` at a time, each in a process of its own; with a count of 1, in this process."""
    if count == 1:
        return [run(job) for job in jobs]
    with multiprocessing.get_context("spawn").Pool(count, maxtasksperchild=1) as pool:
        return pool.map(run, jobs, chunksize=1)


@functools.cache
def images_of(source):
    """`data.load`, once for all runs of a process."""
    return vit_data.load(source=source)


def part(split, share):
    """The same share of every class, always the same images."""
    count = round(share * len(split)) // 10
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    labels = split.labels[order]
    return split.pick(torch.cat([order[labels == k][:count] for k in range(10)]))


def trained(model, images, recipe, **options):
    """Train by the processor's clock, on one thread. options: those of `fit`. Returns what an entry of a log says about it.

    Raises RuntimeError for a run that stopped before its end.
    """
    torch.set_num_threads(1)
    seen = []
    counter = model.register_forward_pre_hook(
        lambda model, inputs: seen.append(len(inputs[0])) if model.training else None
    )
    seconds = time.process_time()
    history = training.fit(model, images, recipe, clock=time.process_time, **options)
    seconds = time.process_time() - seconds
    counter.remove()
    if recipe.minutes and history[-1]["seconds"] < 60 * recipe.minutes:
        raise RuntimeError("the run stopped before its end.")
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "images": sum(seen),
        "seconds": round(seconds, 1),
        "parameters": parameters,
        "loss": history[-1]["loss"],
    }


def mean(values, digits=1):
    """Mean and standard deviation as text, or the value alone if there is one."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def add_to_log(path, experiment, about, entries):
    """Write a log of entries, a line each; those of other experiments stay. The first line holds what is said about them.

    about: {"conditions": {experiment: text}, ...}, whose other values replace older ones. The file is written whole or not at all.
    """
    earlier = []
    if path.exists():
        first, *earlier = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        about = first | about | {"conditions": first["conditions"] | about["conditions"]}
        earlier = [entry for entry in earlier if entry["experiment"] != experiment]
    atomic.write(path, "".join(json.dumps(line) + "\n" for line in (about, *earlier, *entries)))


# ---------------------------------------------------------------- a folder in CIFAR-10's format


def write_folder(root, count):
    """Put `count` training images and count / 5 test images in CIFAR-10's format into `root`: the same shapes over and over."""
    from torchvision.datasets import CIFAR10

    some = vit_data.shapes(min(count, 2000), 10).train

    def put(name, content):
        file = Path(root, CIFAR10.base_folder, name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(pickle.dumps(content))

    which = torch.arange(count // 5) % len(some)
    batch = {"data": some.images[which].flatten(1).numpy(), "labels": some.labels[which].tolist()}
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        put(name, batch)
    put(CIFAR10.meta["filename"], {"label_names": list(vit_data.SHAPES)})


@contextlib.contextmanager
def trusted(root):
    """A context in which torchvision and vit_edu take the files in `root` for CIFAR-10.

    Their checksums replace the published ones, so that both sides verify their files as they always do.
    """
    from torchvision.datasets import CIFAR10

    def checksum(name):
        with open(Path(root, CIFAR10.base_folder, name), "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()

    known = {
        part: [[name, checksum(name)] for name, _ in getattr(CIFAR10, part)]
        for part in ("train_list", "test_list")
    }
    known["meta"] = CIFAR10.meta | {"md5": checksum(CIFAR10.meta["filename"])}
    with mock.patch.multiple(CIFAR10, **known), mock.patch.dict(os.environ, VIT_EDU_DATA=str(root)):
        yield


def same_settings(logged, recipe):
    """Whether a log is one of this recipe. What the log does not name has its default."""
    asked = dataclasses.asdict(recipe)
    logged, asked = (
        json.dumps(dataclasses.asdict(training.Recipe.from_dict(r)), sort_keys=True) for r in (logged, asked)
    )
    return logged == asked
