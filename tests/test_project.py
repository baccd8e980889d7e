"""What a newcomer meets: installation files that agree with each other, and a command that works."""

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from wanted import NEEDS_HOME

from vit_edu import __version__, cli, settings

ROOT = Path(__file__).parents[1]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


PROJECT = tomllib.loads(read("pyproject.toml"))["project"]


def requirements():
    """All requirements of all extras. Those on our own extras are left out, because their lists are here already."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [r for r in map(Requirement, itertools.chain(*lists)) if r.name != PROJECT["name"]]


def pinned(name):
    lines = [line for line in read(name).splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_constraints_hold_a_version_of_each_requirement_within_its_range(name):
    versions = pinned(name)
    bounded = [r for r in requirements() if name == "constraints.txt" or "==" not in str(r)]
    assert {canonicalize_name(r.name) for r in bounded} == set(versions)
    for requirement in bounded:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_the_oldest_versions_are_the_lower_bounds():
    versions = pinned("constraints-oldest.txt")
    for requirement in requirements():
        for bound in requirement.specifier:
            if bound.operator == ">=":
                assert Version(versions[canonicalize_name(requirement.name)]) == Version(bound.version), (
                    requirement
                )


def test_no_upper_bound_on_what_a_program_or_a_learner_installs():
    operators = {
        bound.operator
        for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"]
        for bound in Requirement(line).specifier
    }
    assert operators == {">=", "!="}


def test_dev_holds_every_other_extra():
    extras = PROJECT["optional-dependencies"]
    held = set.union(*(Requirement(line).extras for line in extras["dev"]))
    assert held == set(extras) - {"dev"}


def test_environment_yml_agrees_with_pyproject_and_make_lab():
    items = [
        line.strip()[2:] for line in read("environment.yml").splitlines() if line.strip().startswith("- ")
    ]
    python = next(i for i in items if i.startswith("python"))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.split("=")[1])
    # Only Python, pip and the package itself, with the same extra and constraints as in the Makefile.
    assert items == ["conda-forge", python, "pip", "pip:", "-c constraints.txt", "-e .[lab]"]
    make = subprocess.check_output(["make", "-nB", "lab"], cwd=ROOT, text=True)
    assert "-c constraints.txt -e '.[lab]'" in make


def test_make_test_takes_other_constraints_or_none():
    for asked, options in {
        "CONSTRAINTS=": "",
        "CONSTRAINTS=constraints-oldest.txt": "-c constraints-oldest.txt ",
    }.items():
        make = subprocess.check_output(["make", "-nB", "test", asked], cwd=ROOT, text=True)
        assert f"install -q {options}-e '.[dev]'" in re.sub(" +", " ", make)


def test_a_wheel_takes_along_every_file_that_is_not_python():
    globs = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["package-data"]["vit_edu"]
    taken = {p for glob in globs for p in (ROOT / "vit_edu").glob(glob)}
    files = {p for p in (ROOT / "vit_edu").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert files == {p for p in taken if p.is_file()}


def test_the_version_is_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert "version" not in PROJECT
    assert not re.search(r"^(version|date-released):", read("CITATION.cff"), re.M)
    newest = re.search(r"^## ([\d.]+)( \(unreleased\))?$", read("CHANGELOG.md"), re.M)
    assert __version__ == newest[1] + (".dev0" if newest[2] else "")


def test_the_readme_lists_the_settings_and_nobody_names_others():
    listed = re.findall(r"^\| `(VIT_EDU_\w+)` \|", read("README.md"), re.M)
    assert listed == settings.NAMES
    texts = [
        *ROOT.glob("*.md"),
        ROOT / "Makefile",
        *ROOT.glob("vit_edu/**/*.py"),
        *ROOT.glob("solutions/*.ipynb"),
    ]
    named = {n for p in texts for n in re.findall(r"VIT_EDU_[A-Z]+", p.read_text(encoding="utf-8"))}
    assert named == set(settings.NAMES)


def needed(names):
    """The installed distributions that these need, themselves included, extras aside."""
    found, todo = set(), list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name not in found:
            found.add(name)
            lines = map(Requirement, metadata.requires(name) or [])
            todo += [r.name for r in lines if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


PROGRAM = """
import sys
sys.modules |= dict.fromkeys(sys.argv[1:])  # None: an import of it fails
from einops import rearrange
from vit_edu import check, data, models, plot, pretrained, training
def patchify(images, patch_size):
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)
assert check.run("patchify", patchify).passed
pretrained.load("vit-cifar10")
images = data.shapes(train=64, test=16)
plot.show(plot.images(images.train.images[:4]), "four shapes")
print("done")
"""


def test_a_program_needs_no_extra():
    """Imports of everything that the runtime requirements do not install are made to fail."""
    have = needed(Requirement(line).name for line in PROJECT["dependencies"])
    owners = metadata.packages_distributions()
    refused = [
        p for p, of in owners.items() if not {canonicalize_name(d) for d in of} & have and p != "vit_edu"
    ]
    extras = {"IPython", "jupyterlab", "nbformat", "nbgrader", "pytest", "timm", "transformers"}
    assert "pytest" in refused
    assert extras & owners.keys() <= set(refused)
    done = subprocess.run([sys.executable, "-c", PROGRAM, *refused], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[figure] four shapes\ndone\n"), done.stderr


def test_import_is_light():
    code = "import sys, vit_edu; print([m for m in ('torch', 'torchvision', 'matplotlib', 'IPython') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def vit_edu(*args, **env):
    command = [sys.executable, "-m", "vit_edu", *args]
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)


IN_THE_LAB = pytest.mark.skipif(
    not importlib.util.find_spec("jupyterlab"), reason="jupyterlab is not installed"
)


@IN_THE_LAB
@NEEDS_HOME
def test_doctor_finds_nothing_wrong_with_this_machine():
    done = vit_edu("doctor", VIT_EDU_DATA="shapes")
    assert done.returncode == 0, done.stdout
    for word in (
        "Python",
        "Packages",
        "Device",
        "Memory",
        "JupyterLab",
        "Lessons",
        "Data",
        "All is well.",
    ):
        assert word in done.stdout


@IN_THE_LAB
@NEEDS_HOME
def test_doctor_names_what_is_wrong_and_the_remedy(tmp_path):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {
        "argv": ["/nowhere/python", "-m", "ipykernel_launcher"],
        "display_name": "gone",
        "language": "python",
    }
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    done = vit_edu("doctor", VIT_EDU_DATA=str(tmp_path / "missing"), JUPYTER_PATH=str(tmp_path))
    assert done.returncode == 1
    assert "WRONG  JupyterLab" in done.stdout
    assert "no such program" in done.stdout
    assert "ipykernel install" in done.stdout
    assert "WRONG  Data: VIT_EDU_DATA names" in done.stdout
    assert "2 things to fix." in done.stdout


@IN_THE_LAB
@NEEDS_HOME
def test_lab_refuses_without_a_kernel(tmp_path):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": ["/nowhere/python"], "display_name": "gone", "language": "python"}),
        encoding="utf-8",
    )
    done = vit_edu("lab", "--version", JUPYTER_PATH=str(tmp_path))
    assert done.returncode == 1
    assert "no such program. Remedy:" in done.stderr


@IN_THE_LAB
@NEEDS_HOME
def test_arguments_reach_jupyter():
    done = vit_edu("lab", "--version")
    assert done.returncode == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", done.stdout.strip())


@NEEDS_HOME
def test_course_with_an_unknown_number(capsys):
    pytest.importorskip("nbclient")
    pytest.importorskip("nbconvert")
    assert cli.main(["course", "77"]) == 1
    assert "no solution has the number 77; the numbers are 00" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["lab", "test", "course"])
def test_makefile_offers(target):
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    assert f"make {target}" in done.stdout
