"""`vit-edu doctor`: what this machine has, in plain words, with a remedy for each thing that is wrong."""

import os
import sys
from importlib import metadata

from vit_edu import lab, settings


class Wrong(Exception):
    """Something that keeps the course from running: what it is, and the remedy."""


def examine():
    """Examine everything and print a line for each thing, with a remedy if it is wrong. Returns an exit status, 0 or 1."""
    problems = 0
    for name, examination in EXAMINATIONS.items():
        try:
            print(f"ok     {name}: {examination()}")
            continue
        except Wrong as wrong:
            text, remedy = wrong.args
        except settings.NoHome as error:
            text, remedy = str(error), "Set HOME, or that name."
        except settings.SettingError as error:
            text, remedy = str(error), "Set that name to what is expected, or unset it."
        except Exception as error:  # a doctor must not die of what it finds
            text, remedy = f"{type(error).__name__}: {error}", _remedy(name, error)
        problems += 1
        print(f"WRONG  {name}: {text}\n       Remedy: {remedy}")
    print("All is well." if not problems else f"{problems} thing{'s' if problems > 1 else ''} to fix.")
    return 1 if problems else 0


def _remedy(name, error):
    """What helps against an error of somebody else's, where that is known."""
    if "home directory" in str(error):  # Path.home, in other people's packages
        return "Set HOME to a folder that you can write to."
    if isinstance(error, ImportError) or name == "Packages":
        return f"Install the course again: {'make clean && make lab' if settings.course_root() else lab.install()}"
    if name == "Device":
        return "Update the driver of the GPU, or set CUDA_VISIBLE_DEVICES= to go on without it."
    return "It is not known here. Look for the words of the error."


def _python():
    text = f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}"
    if sys.version_info < (3, 11):  # noqa: UP036  told here rather than by a traceback
        raise Wrong(text, "Install Python 3.11 or newer, then: make clean && make lab")
    return text


def _packages():
    from packaging.requirements import Requirement

    extras = ["", "lab"] if settings.course_root() else [""]
    wrong, seen = {}, []
    for line in metadata.requires("vit_edu") or []:
        need = Requirement(line)
        if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong[need] = f"{need.name} is missing"
            continue
        if need.specifier.contains(version, prereleases=True):
            seen.append(f"{need.name} {version}")
        else:
            wrong[need] = f"{need.name} is {version}, but {need.specifier} is needed"
    if wrong:
        alone = " ".join([lab.PIP, "install", *(f'"{need.name}{need.specifier}"' for need in wrong)])
        raise Wrong("; ".join(wrong.values()), lab.install() if settings.course_root() else alone)
    import torchvision  # noqa: F401  fails if torch and torchvision do not fit together

    return ", ".join(seen)


def _device():
    import torch

    from vit_edu.training import has_bf16, pick_device

    device = pick_device()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(0)
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        in_bf16 = ", in bf16" if has_bf16(device) else ""
        return f"CUDA GPU, {name}, {memory:.0f} GiB. Training uses it{in_bf16}."
    if device.type == "mps":
        return "Apple GPU (MPS). Training uses it."
    return f"CPU, {torch.get_num_threads()} threads. Every lesson runs; training takes minutes."


def _memory():
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "its size is not known on this system; 4 GiB are enough."
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    text = f"{total:.0f} GiB; 4 are enough."
    if total < 3.5:
        raise Wrong(text, "Set VIT_EDU_FAST=1 for small models, and close other programs.")
    return text


def _jupyter():
    if not settings.course_root():
        return "not needed here; it is for the lessons."
    if problem := lab.problem():
        raise Wrong(*problem)
    return f"version {metadata.version('jupyterlab')}, with the kernel python3."


def _lessons():
    root = settings.course_root()
    if root is None:
        return (
            "none here. The package works without them; to read them, run this inside a clone of the course."
        )
    return f"{len(list((root / 'lessons').glob('*.ipynb')))} notebooks in {root / 'lessons'}"


def _data():
    from vit_edu import data

    remedy = (
        "Do what it says. Or set VIT_EDU_DATA to a folder of images, to cifar10 or to shapes, or unset it."
    )
    left_out = ""
    try:
        kind, path, reason = data.choose()
        if kind == "folder":
            left_out = data.check_folder(path)[2]
    except data.DataError as error:
        raise Wrong(str(error), remedy) from error
    texts = {
        "cifar10": f"CIFAR-10 in {path}",
        "archive": f"CIFAR-10, to be unpacked from {path}",
        "folder": f"your image folder, {path}",
    }
    if kind != "download":
        return f"{texts.get(kind, f'generated {kind}')}. Why: {reason} {left_out}".rstrip()
    problem = data.download_problem()
    if not problem:
        return f"CIFAR-10 will be downloaded into {settings.cache_dir()} when a lesson first needs it."
    if settings.data() == "cifar10":
        raise Wrong(problem, remedy)
    return f"generated shapes, because CIFAR-10 is not here and cannot be downloaded: {problem}"


EXAMINATIONS = {
    "Python": _python,
    "Packages": _packages,
    "Device": _device,
    "Memory": _memory,
    "JupyterLab": _jupyter,
    "Lessons": _lessons,
    "Data": _data,
}
