"""The command `vit-edu`: lab, doctor, train and evaluate for everybody, check and mistakes for teachers, and ship, derive
and course for authors. This module reads the arguments and prints the result; the work is done in other modules.

What a command needs is imported when it runs, so that each starts fast and needs no more than it uses.
"""

import argparse
import importlib
import sys
from pathlib import Path

from vit_edu import __version__, settings


class CommandError(Exception):
    """A command cannot do what it was asked to do; the text says why, and what to do."""


def main(argv=None):
    """Entry point of `vit-edu`. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # on Windows, a pipe's code page may lack a letter such as ✓
            stream.reconfigure(errors="replace")
    # Everything after `lab` is for Jupyter, options included. argparse alone would keep --help and the like for itself.
    for_jupyter = argv[:1] == ["lab"] and argv[1:2] not in (["-h"], ["--help"])
    args = _parser().parse_args(["lab"] if for_jupyter else argv)
    if for_jupyter:
        args.jupyter_args = argv[1:]
    try:
        return args.run(args)
    except (CommandError, settings.NoHome, settings.SettingError) as error:
        print(f"vit-edu: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:  # pathlib's own, from inside Jupyter
        if str(error) != "Could not determine home directory.":
            raise
        print(
            "vit-edu: there is no home folder, which Jupyter needs. Set HOME to a folder that you can write to.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nvit-edu: stopped.", file=sys.stderr)
        return 130


# ---------------------------------------------------------------- commands and options


def _parser():
    parser = argparse.ArgumentParser(prog="vit-edu", description="Build a Vision Transformer, step by step.")
    parser.add_argument("--version", action="version", version=f"vit_edu {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _learner_commands(commands)
    _training_commands(commands)
    _teacher_commands(commands)
    _author_commands(commands)
    return parser


def _command(commands, run, name, **texts):
    """A subcommand that calls `run` with its arguments."""
    parser = commands.add_parser(name, **texts)
    parser.set_defaults(run=run)
    return parser


def _data_option(parser):
    parser.add_argument(
        "--data", metavar="WHAT", help="cifar10, shapes, scenes, clips or a folder, as in VIT_EDU_DATA"
    )


def _learner_commands(commands):
    parser = _command(
        commands,
        open_lab,
        "lab",
        help="open JupyterLab at the first lesson",
        description="Open JupyterLab at the first lesson. All further arguments go to Jupyter, "
        "for instance --no-browser --port 9999.",
    )
    parser.add_argument("jupyter_args", nargs=argparse.REMAINDER, metavar="...")
    _command(commands, doctor, "doctor", help="look at this machine, and say what is wrong and how to fix it")


def _training_commands(commands):
    parser = _command(
        commands,
        train,
        "train",
        help="train a ViT by a recipe, as lesson 06 does",
        description="Train a ViT by a recipe. The same command continues a run that was stopped.",
    )
    parser.add_argument(
        "--recipe", metavar="NAME", help="name of the recipe; by default, the one that suits this machine"
    )
    _data_option(parser)
    parser.add_argument("--minutes", type=float, help="train for this long, whatever the recipe says")
    parser.add_argument("--seed", type=int, help="seed of weights, order and augmentation")
    parser.add_argument("--out", default="runs/train", help="folder of the run (default: runs/train)")
    parser = _command(commands, evaluate, "evaluate", help="measure the test accuracy of a checkpoint")
    parser.add_argument("checkpoint", help="the folder of a run, or its checkpoint.pt")
    _data_option(parser)


def _teacher_commands(commands):
    parser = _command(
        commands,
        check,
        "check",
        help="for teachers: check the answers in notebooks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Check the answers in a notebook, or in all notebooks of a folder.

Each notebook runs in a separate process, with a limit on its time and, on Linux, on its memory
and the size of the files that it writes. Only the answers of a notebook are run, and the
statements that they need. Whatever could not be read or run has a row of its own that says why.

The exit status is 0 if every exercise is right, 1 if one is not, 2 if nothing was found or the
results cannot be written, and 3 if nothing is known to be wrong, but something could not be checked.

With --csv or --json, results are kept while the command runs, in a file beside them. If the command
is stopped, the same call goes on where it was. Processes that a notebook leaves behind are ended; on
systems other than Linux, those that made a session of their own are not.""",
        epilog="""What this does not protect against: the code of a notebook runs as you. It can read and
write your files and use the network, and code that is written to deceive can report a wrong answer
as right. Check notebooks of people whom you do not trust in a container or a virtual machine.""",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="notebooks, or folders of them")
    parser.add_argument("--csv", metavar="FILE", help="write one line for each exercise")
    parser.add_argument("--json", metavar="FILE", help="write everything, every check included")
    parser.add_argument("--seconds", type=float, default=120.0, help="limit for one notebook (default: 120)")
    parser.add_argument(
        "--jobs", type=int, default=2, help="how many notebooks run at the same time (default: 2)"
    )
    parser = _command(
        commands,
        mistakes,
        "mistakes",
        help="for teachers: what learners get wrong, and what to say",
        description="Print the known mistakes of a lesson: what the learner is told, and a talking point for the class.",
    )
    parser.add_argument(
        "only",
        nargs="*",
        metavar="NN",
        help="lessons (03) or exercises (patchify); all of them if none is named",
    )


def _author_commands(commands):
    parser = _command(
        commands, ship, "ship", help="for authors: turn a run into weights that come with the course"
    )
    parser.add_argument("checkpoint", help="the folder of a run, or its checkpoint.pt")
    parser.add_argument("name", help="for pretrained.load(NAME)")
    _data_option(parser)
    parser.add_argument("--copy", default="", help="for the card: which copy of the data was used")
    parser.add_argument("--hardware", default="", help="for the card: what it was trained on")
    parser = _command(commands, derive, "derive", help="for authors: make lessons/ from solutions/")
    parser.add_argument(
        "--refresh", action="store_true", help="first run the solutions and store their outputs"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything would change")
    parser = _command(commands, course, "course", help="for authors: run every solution and write the pages")
    parser.add_argument("--out", default="build/course", help="folder for the pages (default: build/course)")
    parser.add_argument("only", nargs="*", metavar="NN", help="only these lessons, such as 03 12")


# ---------------------------------------------------------------- for learners


def open_lab(args):
    """`vit-edu lab`."""
    from vit_edu import lab

    root = settings.course_root()
    if root is None:
        raise CommandError("there is no folder lessons/ here. Run this inside a clone of the course.")
    if problem := lab.problem():
        raise CommandError("{} Remedy: {}".format(*problem))
    return lab.open_lab(root, args.jupyter_args)


def doctor(args):
    """`vit-edu doctor`."""
    from vit_edu.doctor import examine

    return examine()


# ---------------------------------------------------------------- training


def _load_data(source, say=True):
    from vit_edu import data

    images = data.load(source=source)
    if say:
        print(images, flush=True)
    return images


def _load_data_of_run(source, about):
    """The data that `source` names, at the size of the images of a run. about: the "data" of its checkpoint."""
    from vit_edu import data

    images = data.load(size=about["shape"][-1], source=source)
    print(images, flush=True)
    found = list(images.train.images.shape[1:])
    if found != about["shape"]:
        was, now = (" x ".join(map(str, shape)) for shape in (about["shape"], found))
        raise CommandError(
            f"the run was trained on {about['kind']} images of {was}, and these are of {now}. Name its data with --data."
        )
    return images


def _asked_recipe(args):
    """(its name, the recipe) that the arguments of `vit-edu train` ask for. ValueError where there is none, or it makes no sense."""
    from dataclasses import replace

    from vit_edu import training

    name = args.recipe or training.pick_recipe(training.pick_device())
    if name not in training.RECIPES:
        raise ValueError(f"there is no recipe {name!r}; the recipes are {', '.join(training.RECIPES)}.")
    recipe = training.RECIPES[name]
    if args.minutes is not None:
        recipe = replace(recipe, minutes=args.minutes, epochs=None)
    if args.seed is not None:
        recipe = replace(recipe, seed=args.seed)
    return name, recipe


def train(args):
    """`vit-edu train`: the same code as the notebook's, on as many ranks as torchrun started. Returns an exit status."""
    from vit_edu import data, training
    from vit_edu.training import parallel

    try:
        name, recipe = _asked_recipe(args)
        with parallel.group() as ranks:
            device = training.pick_device()  # each rank's own
            images = ranks.first_then_others(lambda: _load_data(args.data, say=ranks.first))
            if ranks.first:
                where = f"{ranks.size} x {device.type}" if ranks.size > 1 else device
                print(f"Recipe {name}: {recipe}\nOn {where}, into {args.out}.", flush=True)
            model = training.build_model(recipe, images).to(device)
            history = training.fit(model, images, recipe, out=args.out)
    except KeyboardInterrupt:  # of several ranks; where there is one, `fit` ends with the weights so far
        if parallel.is_first():
            print(
                f"\nStopped. The same command goes on from the last checkpoint in {args.out}, where there is one."
            )
        return 130
    except parallel.ParallelError as error:
        raise CommandError(str(error)) from error
    except (data.DataError, training.CheckpointError, training.Diverged, ValueError) as error:
        if parallel.is_first():  # the error is the same on all ranks, so only one reports it
            raise CommandError(str(error)) from error
        return 1
    if history and ranks.first:
        task = training.make_task(recipe, images)
        score = task.words(history[-1][task.key], digits=2)
        print(f"held-out {task.score_name} {score}, {history[-1]['seconds']:.0f} s")
    return 0


def evaluate(args):
    """`vit-edu evaluate`: the task's score, mostly accuracy, on the test images. Returns an exit status."""
    from vit_edu import data, training

    try:
        model, state = training.load_run(args.checkpoint)
        images = _load_data_of_run(args.data, state["data"])
        training.same_classes(state["data"], images)
        if state["recipe"]["task"] != "classification":
            task, score = training.score_test(model, state, images)
            print(f"test {task.score_name} {task.words(score, digits=2)} of {len(images.test):,} images")
            return 0
    except (data.DataError, training.CheckpointError, ValueError) as error:
        raise CommandError(str(error)) from error
    predicted = training.predict_test(model, state["data"], images).argmax(dim=1)
    share = (predicted == images.test.labels).float().mean().item()
    error = (share * (1 - share) / len(images.test)) ** 0.5
    print(f"test accuracy {share:.2%} of {len(images.test):,} images (standard error {error:.2%})")
    return 0


# ---------------------------------------------------------------- for teachers


def check(args):
    """`vit-edu check`."""
    from vit_edu.classroom.submissions import check_paths

    return check_paths(args.paths, args.csv, args.json, seconds=args.seconds, jobs=args.jobs)


def mistakes(args):
    """`vit-edu mistakes`."""
    from vit_edu.classroom.mistakes import catalogue

    try:
        print(catalogue(args.only))
    except KeyError as error:
        raise CommandError(error.args[0]) from error
    return 0


# ---------------------------------------------------------------- for authors


def _authoring(room):
    """A module of `authoring`, whose packages a learner's installation may lack."""
    try:
        return importlib.import_module(f"vit_edu.authoring.{room}")
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] == "vit_edu":
            raise
        raise CommandError(
            f"this command needs {error.name.split('.')[0]}, which is not installed. Remedy, in the folder of the course: "
            f'{sys.executable} -m pip install -c constraints.txt -e ".[authoring]"'
        ) from error


def _root():
    root = settings.course_root()
    if root is None:
        raise CommandError(
            "there is no folder solutions/ here or above the package. Run this inside a clone of the course."
        )
    return root


def ship(args):
    """`vit-edu ship`: weights in half precision and their card, into the package. Returns an exit status."""
    from vit_edu import data, pretrained, training

    try:
        images = _load_data_of_run(args.data, training.load_run(args.checkpoint)[1]["data"])
        print(_authoring("shipping").ship(args.checkpoint, args.name, images, args.copy, args.hardware))
    except (data.DataError, training.CheckpointError, pretrained.WeightsError) as error:
        raise CommandError(str(error)) from error
    return 0


def derive(args):
    """`vit-edu derive`."""
    root = _root()
    return _authoring("lessons").derive_all(root, refresh=args.refresh, check=args.check)


def course(args):
    """`vit-edu course`."""
    root = _root()
    return _authoring("course").course(root, Path(args.out), args.only)
