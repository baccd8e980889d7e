"""Opens JupyterLab at the first lesson, and finds out what could prevent that."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from vit_edu import settings

PIP = f"{sys.executable} -m pip"


def install():
    """The command that installs what the lessons need, in quotes that every shell understands."""
    root = settings.course_root() or Path(".")
    return f'{PIP} install -c "{root / "constraints.txt"}" -e "{root}[lab]"'


def open_lab(root, jupyter_args):
    """Open JupyterLab at the first lesson of the course in `root`; `jupyter_args` go to Jupyter unchanged. Returns its exit status."""
    # The lesson is the default page and not a file argument, so that the address printed with --no-browser leads there, too.
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}"]
    command += [f"--LabApp.default_url=/lab/tree/lessons/{settings.FIRST_LESSON}", *jupyter_args]
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:
        return 0


def problem():
    """(why notebooks cannot be opened and run here, the remedy) as two texts, or None if they can."""
    if not importlib.util.find_spec("jupyterlab"):
        return "JupyterLab is not installed.", install()
    if text := _kernel_problem():
        return text, f"{sys.executable} -m ipykernel install --sys-prefix"
    return None


def _kernel_problem():
    """What is wrong with the kernel `python3` that the notebooks ask for, or None."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return "Jupyter has no kernel called python3, which the notebooks ask for."
    program = spec.argv[0]
    found = shutil.which(program)
    if not found:
        return f"the kernel python3 starts {program}, but there is no such program."
    if program not in ("python", "python3") and not _same_python(found, sys.executable):
        return f"the kernel python3 starts {program} and not this Python, {sys.executable}."
    return None


def _same_python(one, other):
    """Are these two programs one Python in one environment? That of a virtual environment is often a link to its base Python."""
    return os.path.samefile(one, other) and _environment(one) == _environment(other)


def _environment(program):
    """The virtual environment to which a Python belongs, found as Python itself finds it, or None for a base Python."""
    folder = Path(os.path.abspath(program)).parent
    return next((p.resolve() for p in (folder, folder.parent) if (p / "pyvenv.cfg").is_file()), None)
