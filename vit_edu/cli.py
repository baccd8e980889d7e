"""The command `vit-edu`: lab and doctor; train and evaluate; check and mistakes for teachers; ship, derive and course
for authors."""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from vit_edu import __version__

FIRST_LESSON = "00_start_here.ipynb"


def main(argv=None):
    """Entry point of `vit-edu`. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="vit-edu", description="Build a Vision Transformer, step by step.")
    parser.add_argument("--version", action="version", version=f"vit_edu {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    lab_parser = commands.add_parser(
        "lab",
        help="open JupyterLab at the first lesson",
        description="Open JupyterLab at the first lesson. All further arguments go to Jupyter, "
        "for instance --no-browser --port 9999.",
    )
    lab_parser.add_argument("jupyter_args", nargs=argparse.REMAINDER, metavar="...")
    commands.add_parser("doctor", help="look at this machine, say what is wrong and how to mend it")
    _train_arguments(commands)
    _check_arguments(commands)
    mistakes_parser = commands.add_parser(
        "mistakes",
        help="for teachers: what learners get wrong, and what to say",
        description="Print the known mistakes of a lesson: what the learner is told, and a talking point for the class.",
    )
    mistakes_parser.add_argument(
        "only", nargs="*", metavar="NN", help="lessons (03) or exercises (patchify); all if none"
    )
    ship_parser = commands.add_parser(
        "ship", help="for authors: make a run into weights that come with the course"
    )
    ship_parser.add_argument("checkpoint", help="the folder of a run, or its checkpoint.pt")
    ship_parser.add_argument("name", help="for pretrained.load(NAME)")
    ship_parser.add_argument("--data", metavar="WHAT", help="as VIT_EDU_DATA")
    ship_parser.add_argument("--copy", default="", help="for the card: which copy of the data it is")
    ship_parser.add_argument("--hardware", default="", help="for the card: what it was trained on")
    derive_parser = commands.add_parser("derive", help="for authors: make lessons/ from solutions/")
    derive_parser.add_argument(
        "--refresh", action="store_true", help="first run the solutions, store their answers"
    )
    derive_parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if anything would change"
    )
    course_parser = commands.add_parser("course", help="run every solution and write the pages")
    course_parser.add_argument("--out", default="build/course", help="folder for the pages (build/course)")
    course_parser.add_argument("only", nargs="*", metavar="NN", help="only these lessons, such as 03 12")

    # What follows `lab` is Jupyter's, options included; argparse alone would take --help and the like for its own.
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["lab"] and argv[1:2] not in (["-h"], ["--help"]):
        return lab(argv[1:])
    args = parser.parse_args(argv)
    if args.command == "lab":
        return lab(args.jupyter_args)
    if args.command == "doctor":
        return doctor()
    if args.command in ("train", "evaluate", "ship"):
        return {"train": train, "evaluate": evaluate, "ship": ship}[args.command](args)
    if args.command == "check":
        from vit_edu.classroom import submissions

        return submissions.check_paths(args.paths, args.csv, args.json, seconds=args.seconds, jobs=args.jobs)
    if args.command == "mistakes":
        from vit_edu.classroom import mistakes

        try:
            print(mistakes.catalogue(args.only))
        except KeyError as error:
            return _fail(error.args[0])
        return 0
    from vit_edu.classroom import notebooks

    root = course_root()
    if root is None:
        return _fail("no folder solutions/ here or above the package. Run this inside a clone of the course.")
    if args.command == "derive":
        return notebooks.derive_all(root, refresh=args.refresh, check=args.check)
    return notebooks.course(root, Path(args.out), args.only)


def _train_arguments(commands):
    parser = commands.add_parser(
        "train",
        help="train a ViT by a recipe, as lesson 06 does",
        description="Train a ViT by a recipe. A run that was stopped goes on with the same command.",
    )
    parser.add_argument(
        "--recipe", metavar="NAME", help="its name; left out: the one that suits this machine"
    )
    parser.add_argument("--data", metavar="WHAT", help="cifar10, shapes or a folder, as VIT_EDU_DATA")
    parser.add_argument("--minutes", type=float, help="train for so long, whatever the recipe says")
    parser.add_argument("--seed", type=int, help="of weights, order and augmentation")
    parser.add_argument("--out", default="runs/train", help="folder of the run (runs/train)")
    parser = commands.add_parser("evaluate", help="test accuracy of a checkpoint")
    parser.add_argument("checkpoint", help="the folder of a run, or its checkpoint.pt")
    parser.add_argument("--data", metavar="WHAT", help="cifar10, shapes or a folder, as VIT_EDU_DATA")


def _check_arguments(commands):
    parser = commands.add_parser(
        "check",
        help="for teachers: check the answers in notebooks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Check the answers in a notebook, or in all notebooks of a folder.

Each notebook runs in a process of its own, with a limit on its time and, on Linux, on its memory
and the size of the files that it writes. Of a notebook, only the answers run, and the statements
that they need. Exit status: 0 if every exercise is right, 1 if one is not, 2 if nothing was found.""",
        epilog="""What this does not protect against: the code of a notebook runs as you. It can read and
write your files and use the network, and code that is written to deceive can report a wrong answer
as right. Check notebooks of people whom you do not trust in a container or a virtual machine.""",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="notebooks, or folders of them")
    parser.add_argument("--csv", metavar="FILE", help="write one line for each exercise")
    parser.add_argument("--json", metavar="FILE", help="write everything, every check included")
    parser.add_argument("--seconds", type=float, default=120.0, help="limit for one notebook (120)")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at the same time (2)")


def course_root():
    """The folder that holds lessons/ and solutions/: the current one, one above it, or that of the package."""
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[1]):
        if (folder / "lessons" / FIRST_LESSON).exists() or (folder / "solutions" / FIRST_LESSON).exists():
            return folder
    return None


def _fail(text):
    print(f"vit-edu: {text}", file=sys.stderr)
    return 1


# ---------------------------------------------------------------- train


def _load_data(asked):
    from vit_edu import data

    if asked:
        os.environ["VIT_EDU_DATA"] = asked
    images = data.load()
    print(images, flush=True)
    return images


def train(args):
    """`vit-edu train`: the same code as the notebook's. Returns an exit status."""
    from dataclasses import replace

    from vit_edu import data, training

    device = training.pick_device()
    name = args.recipe or training.pick_recipe(device)
    if name not in training.RECIPES:
        return _fail(f"there is no recipe {name!r}; there are {', '.join(training.RECIPES)}.")
    recipe = training.RECIPES[name]
    if args.minutes is not None:
        recipe = replace(recipe, minutes=args.minutes, epochs=None)
    if args.seed is not None:
        recipe = replace(recipe, seed=args.seed)
    try:
        images = _load_data(args.data)
        print(f"Recipe {name}: {recipe}\nOn {device}, into {args.out}.", flush=True)
        model = training.build_model(recipe, images).to(device)
        history = training.fit(model, images, recipe, out=args.out)
    except (data.DataError, training.CheckpointError, training.Diverged, ValueError) as error:
        return _fail(str(error))
    if history:
        print(f"held-out accuracy {history[-1]['val_accuracy']:.2%}, {history[-1]['seconds']:.0f} s")
    return 0


def evaluate(args):
    """`vit-edu evaluate`: accuracy on the test images. Returns an exit status."""
    from vit_edu import data, training

    try:
        model, state = training.load_run(args.checkpoint)
        images = _load_data(args.data)
        training.same_classes(state["data"], images)
    except (data.DataError, training.CheckpointError) as error:
        return _fail(str(error))
    predicted = training.predict_test(model, state["data"], images).argmax(dim=1)
    share = (predicted == images.test.labels).float().mean().item()
    error = (share * (1 - share) / len(images.test)) ** 0.5
    print(f"test accuracy {share:.2%} of {len(images.test):,} images (standard error {error:.2%})")
    return 0


def ship(args):
    """`vit-edu ship`: weights in half precision and their card, into the package. Returns an exit status."""
    from vit_edu import data, pretrained, training

    try:
        images = _load_data(args.data)
        print(pretrained.ship(args.checkpoint, args.name, images, args.copy, args.hardware))
    except (data.DataError, training.CheckpointError, pretrained.WeightsError) as error:
        return _fail(str(error))
    return 0


# ---------------------------------------------------------------- lab


def lab(jupyter_args):
    """Open JupyterLab at the first lesson; `jupyter_args` go to Jupyter as they are."""
    root = course_root()
    if root is None:
        return _fail("no folder lessons/ here. Run this inside a clone of the course.")
    problem = kernel_problem() if importlib.util.find_spec("jupyterlab") else "JupyterLab is not installed."
    if problem:
        return _fail(f"{problem} Remedy: {_pip()} install -e {root}")
    # As the default page and not as a file argument: then the printed address leads there too, with --no-browser.
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}"]
    command += [f"--LabApp.default_url=/lab/tree/lessons/{FIRST_LESSON}", *jupyter_args]
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:
        return 0


def kernel_problem():
    """What is wrong with the kernel `python3` that the notebooks ask for, or None."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return "Jupyter has no kernel called python3, which the notebooks ask for."
    program = spec.argv[0]
    if not shutil.which(program):
        return f"the kernel python3 wants to start {program}, and there is no such program."
    ours = program in ("python", "python3") or os.path.samefile(shutil.which(program), sys.executable)
    if not ours:
        return f"the kernel python3 starts {program}, another Python than this one, {sys.executable}."
    return None


# ---------------------------------------------------------------- doctor


def doctor():
    """Print what this machine has, in plain words, with a remedy for each thing that is wrong. Returns 0 or 1."""
    problems = 0
    for name, look in (
        ("Python", _look_python),
        ("Packages", _look_packages),
        ("Device", _look_device),
        ("Memory", _look_memory),
        ("JupyterLab", _look_jupyter),
        ("Lessons", _look_lessons),
        ("Data", _look_data),
    ):
        try:
            fine, text, remedy = look()
        except Exception as error:  # a doctor must not die of what it finds
            fine, text, remedy = (
                False,
                f"{type(error).__name__}: {error}",
                "Install anew: make clean && make lab",
            )
        print(f"{'ok   ' if fine else 'WRONG'}  {name}: {text}")
        if not fine:
            problems += 1
            print(f"       Remedy: {remedy}")
    print("All is well." if not problems else f"{problems} thing{'s' if problems > 1 else ''} to mend.")
    return 1 if problems else 0


def _pip():
    return f"{sys.executable} -m pip"


def _look_python():
    version = ".".join(map(str, sys.version_info[:3]))
    text = f"{version}, {sys.executable}"
    return (
        sys.version_info >= (3, 11),
        text,
        "Install Python 3.11 or newer, then: make clean && make lab",
    )


def _look_packages():
    from packaging.requirements import Requirement

    wrong, seen = [], []
    for line in metadata.requires("vit_edu") or []:
        need = Requirement(line)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if need.specifier.contains(version, prereleases=True):
            seen.append(f"{need.name} {version}")
        else:
            wrong.append(f"{need.name} is {version}, needed is {need.specifier}")
    if wrong:
        return False, "; ".join(wrong), f"{_pip()} install -c constraints.txt -e ."
    import torchvision  # noqa: F401  a torch and a torchvision that do not fit fail here

    return True, ", ".join(seen), ""


def _look_device():
    import torch

    from vit_edu.training import has_bf16, pick_device

    device = pick_device()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(0)
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        in_bf16 = ", in bf16" if has_bf16(device) else ""
        return True, f"CUDA GPU, {name}, {memory:.0f} GiB. Training uses it{in_bf16}.", ""
    if device.type == "mps":
        return True, "Apple GPU (MPS). Training uses it.", ""
    return (
        True,
        f"CPU, {torch.get_num_threads()} threads. Every lesson runs; training takes minutes.",
        "",
    )


def _look_memory():
    total = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if total is None:
        return True, "its size cannot be asked for on this system; 4 GiB are enough.", ""
    fine = total >= 3.5
    return (
        fine,
        f"{total:.0f} GiB; 4 are enough.",
        "Close other programs, or set VIT_EDU_FAST=1 for small models.",
    )


def _look_jupyter():
    problem = kernel_problem()
    text = f"version {metadata.version('jupyterlab')}, kernel python3 " + (
        "is there." if not problem else "is not usable."
    )
    return (
        not problem,
        f"{text} {problem or ''}".strip(),
        f"{sys.executable} -m ipykernel install --sys-prefix",
    )


def _look_lessons():
    root = course_root()
    if root is None:
        return False, "no folder lessons/ here.", "Run this inside a clone of the course."
    return (
        True,
        f"{len(list((root / 'lessons').glob('*.ipynb')))} notebooks in {root / 'lessons'}",
        "",
    )


def _look_data():
    from vit_edu import data, settings

    remedy = "Set VIT_EDU_DATA to a folder of images, to cifar10 or to shapes; or unset it."
    try:
        kind, path, reason = data.choose()
        if kind == "folder":
            data.check_folder(path)
    except data.DataError as error:
        return False, str(error), remedy
    texts = {
        "cifar10": f"CIFAR-10 in {path}",
        "archive": f"CIFAR-10, to be unpacked from {path}",
        "folder": f"your image folder, {path}",
        "shapes": "generated shapes",
    }
    if kind != "download":
        return True, f"{texts[kind]}. Why: {reason}", ""
    problem = data.download_problem()
    if not problem:
        return (
            True,
            f"CIFAR-10 will be downloaded into {settings.cache_dir()} when a lesson first needs it.",
            "",
        )
    if settings.data() == "cifar10":
        return False, problem, remedy
    return True, f"generated shapes, because CIFAR-10 is not here and cannot be had: {problem}", ""
