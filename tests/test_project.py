"""What a stranger meets: installation files that agree, and a command that answers."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from vit_edu import cli

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements():
    return [Requirement(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]


def pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_constraints_hold_one_version_of_each_requirement_within_its_range():
    versions = pinned()
    assert {canonicalize_name(r.name) for r in requirements()} == {canonicalize_name(n) for n in versions}
    for requirement in requirements():
        assert requirement.specifier.contains(versions[requirement.name]), requirement


def test_environment_yml_agrees_with_pyproject():
    text = (ROOT / "environment.yml").read_text()
    items = [line.strip()[2:] for line in text.splitlines() if line.strip().startswith("- ")]
    python = next(i for i in items if i.startswith("python"))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.split("=")[1])
    # Nothing but Python, pip and the package itself, under the same constraints as the Makefile.
    assert items == ["conda-forge", python, "pip", "pip:", "-c constraints.txt", "-e .[dev]"]
    assert "-c constraints.txt -e '.[dev]'" in (ROOT / "Makefile").read_text()


def test_import_is_light():
    code = "import sys, vit_edu; print([m for m in ('torch', 'torchvision', 'matplotlib', 'IPython') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def vit_edu(*args, **env):
    command = [sys.executable, "-m", "vit_edu", *args]
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)


def test_doctor_finds_this_machine_well():
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


def test_doctor_names_what_is_wrong_and_the_remedy(tmp_path):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {
        "argv": ["/nowhere/python", "-m", "ipykernel_launcher"],
        "display_name": "gone",
        "language": "python",
    }
    (kernel / "kernel.json").write_text(json.dumps(spec))
    done = vit_edu("doctor", VIT_EDU_DATA=str(tmp_path / "missing"), JUPYTER_PATH=str(tmp_path))
    assert done.returncode == 1
    assert "WRONG  JupyterLab" in done.stdout
    assert "no such program" in done.stdout
    assert "ipykernel install" in done.stdout
    assert "WRONG  Data: VIT_EDU_DATA names" in done.stdout
    assert "2 things to mend." in done.stdout


def test_lab_refuses_without_a_kernel(tmp_path):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": ["/nowhere/python"], "display_name": "gone", "language": "python"})
    )
    done = vit_edu("lab", "--version", JUPYTER_PATH=str(tmp_path))
    assert done.returncode == 1
    assert "no such program. Remedy:" in done.stderr


def test_arguments_reach_jupyter():
    done = vit_edu("lab", "--version")
    assert done.returncode == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", done.stdout.strip())


def test_course_with_an_unknown_number(capsys):
    assert cli.main(["course", "77"]) == 1
    assert "no solution has a number in 77; there are 00" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["lab", "test", "course"])
def test_makefile_offers(target):
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    assert f"make {target}" in done.stdout
