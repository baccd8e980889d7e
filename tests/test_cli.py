"""The command `vit-edu`, with the mistakes that people make: a sentence and an exit status, never a traceback."""

import os
import re
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from PIL import Image
from wanted import NEEDS_HOME

from vit_edu import cli, data, doctor, lab, settings, training


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--recipe", "labtop"], "there is no recipe 'labtop'; the recipes are .*laptop"),
        (["train", "--recipe", "fast", "--data", "nowhere"], "nowhere"),
        (["train", "--recipe", "fast", "--minutes", "0"], "minutes is a .*got 0"),
        (["evaluate", "nowhere"], "there is no nowhere.* Name the folder of a run"),
        (["evaluate", "."], "there is no checkpoint.pt.* Name the folder of a run"),
        (["ship", "nowhere", "mine", "--data", "shapes"], "there is no nowhere.* Name the folder of a run"),
        (["mistakes", "99"], "there is no lesson 99; the lessons are 00, .*12"),
        (["mistakes", "patchfy"], "Did you mean patchify"),
    ],
)
def test_what_is_not_there_is_said(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 1
    assert re.search(f"^vit-edu: .*{says}", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_said_before_the_training(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    out = str(tmp_path / "file" / "run")
    assert cli.main(["train", "--recipe", "fast", "--data", "shapes", "--out", out]) == 1
    said = capsys.readouterr()
    assert re.search(
        r"^vit-edu: the run folder .*run cannot be written to \(.+\). Choose another folder", said.err
    )
    assert "epoch 1" not in said.out


def test_a_command_that_is_interrupted_says_so(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "\nvit-edu: stopped.\n"


@pytest.mark.parametrize(
    "words", [[], ["tain"], ["train", "--minutes", "ten"], ["check"], ["course", "--in"]]
)
def test_words_that_the_command_does_not_know(words, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(words)
    assert error.value.code == 2
    assert "usage: vit-edu" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["lab"], ["derive"], ["course", "03"]])
def test_outside_a_clone(words, monkeypatch, capsys):
    monkeypatch.setattr(settings, "course_root", lambda: None)
    assert cli.main(words) == 1
    assert "Run this inside a clone of the course." in capsys.readouterr().err


def test_the_kernel_of_the_base_python_is_not_that_of_a_virtual_environment(tmp_path):
    """The Python of a virtual environment is a link to its base Python, and a different Python all the same."""
    folders = {name: tmp_path / name / "bin" for name in ("base", "one", "other", "linked")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        if name == "base":
            (folder / "python").write_text("", encoding="utf-8")
        else:
            (folder / "python").symlink_to(folders["base"] / "python")
        (folder / "python3").symlink_to("python")
        if name in ("one", "other"):
            (folder.parent / "pyvenv.cfg").write_text("", encoding="utf-8")

    def same(one, other):
        return lab._same_python(folders[one] / "python3", folders[other] / "python")

    assert same("one", "one")
    assert same("linked", "base")
    assert not same("base", "one")
    assert not same("one", "base")
    assert not same("one", "other")


def without(package, *words):
    """The command where a package is not installed."""
    code = f"import sys; sys.modules[{package!r}] = None; from vit_edu.cli import main; sys.exit(main({list(words)}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@NEEDS_HOME
@pytest.mark.parametrize(
    ("package", "words"), [("nbgrader", ["derive", "--check"]), ("nbconvert", ["course", "77"])]
)
def test_what_authors_need_is_named(package, words):
    for installed in ("nbclient", "nbconvert", "nbformat"):  # what else these commands need
        pytest.importorskip(installed)
    done = without(package, *words)
    assert done.returncode == 1
    assert done.stderr.startswith(f"vit-edu: this command needs {package}, which is not installed.")
    assert done.stderr.rstrip().endswith('-m pip install -c constraints.txt -e ".[authoring]"')


def test_without_jupyter_the_lab_names_what_to_install():
    done = without("jupyterlab", "lab")
    assert done.returncode == 1
    assert re.search(
        r'JupyterLab is not installed. Remedy: .* install -c ".*constraints.txt" -e ".*\[lab\]"', done.stderr
    )


def test_the_doctor_finds_nothing_wrong_with_a_program_without_lessons(monkeypatch, capsys):
    monkeypatch.setattr(settings, "course_root", lambda: None)
    monkeypatch.setattr(lab, "problem", lambda: ("JupyterLab is not installed.", "pip"))
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["packaging>=23", 'nobody-has-this>=1; extra == "lab"']
    )
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    assert cli.main(["doctor"]) == 0
    assert "The package works without them" in capsys.readouterr().out


def test_the_doctor_asks_for_what_the_lessons_need(monkeypatch, capsys):
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["packaging>=23", 'nobody-has-this>=1; extra == "lab"']
    )
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "WRONG  Packages: nobody-has-this is missing" in said
    assert '[lab]"' in said


def test_output_in_a_code_page_without_our_marks():
    """A pipe on Windows has such a code page. A letter that it lacks becomes a question mark."""
    done = subprocess.run(
        [sys.executable, "-m", "vit_edu", "check", "solutions/00_start_here.ipynb"],
        cwd=settings.course_root(),
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode("cp1252")
    assert b"? solutions" in done.stdout


def test_teachers_and_learners_need_no_packages_of_authors():
    for package in ("nbgrader", "nbconvert", "nbformat"):
        assert without(package, "mistakes", "00").returncode == 0


def folder_of_images(root, size):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 255, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def test_a_run_is_evaluated_at_its_own_size(tmp_path, capsys):
    recipe = training.Recipe(
        epochs=1,
        batch_size=4,
        learning_rate=1e-3,
        model={"patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 1},
    )
    folder = folder_of_images(tmp_path / "set", 70)
    images, out = data.image_folder(folder, size=48), tmp_path / "run"
    model = training.build_model(recipe, images)
    training.fit(model, images, recipe, out=out)
    capsys.readouterr()
    assert cli.main(["evaluate", str(out), "--data", str(folder)]) == 0
    said = capsys.readouterr().out
    right = training.predict(model, images.test, images.mean, images.std).argmax(1) == images.test.labels
    assert "48x48 pixels" in said
    assert f"test accuracy {right.float().mean():.2%} of 2 images" in said
    assert cli.main(["evaluate", str(out), "--data", "shapes"]) == 1
    assert "trained on folder images of 3 x 48 x 48, and these are of 3 x 32 x 32" in capsys.readouterr().err


def test_a_run_folder_that_is_a_file_is_told(tmp_path, capsys):
    (tmp_path / "run").write_text("", encoding="utf-8")
    assert cli.main(["train", "--recipe", "fast", "--data", "shapes", "--out", str(tmp_path / "run")]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("vit-edu: the run folder ")
    assert "epoch 1" not in told.out


def test_data_on_the_command_line_does_not_change_the_environment(tmp_path, monkeypatch, capsys):
    """--data overrides VIT_EDU_DATA and does not change it."""
    monkeypatch.setenv("VIT_EDU_DATA", str(tmp_path / "nowhere"))
    out = str(tmp_path / "run")
    words = ["--data", "shapes"]
    assert cli.main(["train", "--recipe", "fast", "--minutes", "0.001", "--out", out, *words]) == 0
    assert cli.main(["evaluate", out, *words]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert cli.main(["evaluate", out]) == 1  # without the word, the environment's
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "error", "remedy"),
    [
        ("Device", RuntimeError("the NVIDIA driver is too old"), "Update the driver of the GPU"),
        ("Packages", RuntimeError("operator torchvision::nms does not exist"), "Install the course again"),
        ("Data", ImportError("no module"), "Install the course again"),
        ("Lessons", KeyError("x"), "It is not known here"),
        ("JupyterLab", RuntimeError("Could not determine home directory."), "Set HOME to a folder"),
    ],
)
def test_the_doctor_has_a_remedy_that_follows_from_the_error(monkeypatch, capsys, name, error, remedy):
    def fail():
        raise error

    monkeypatch.setattr(doctor, "EXAMINATIONS", {name: fail})
    assert doctor.examine() == 1
    assert f"Remedy: {remedy}" in capsys.readouterr().out


def test_the_doctor_counts_what_is_left_out_of_a_folder(monkeypatch, capsys, tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    monkeypatch.setenv("VIT_EDU_DATA", str(tmp_path))
    monkeypatch.setattr(doctor, "EXAMINATIONS", {"Data": doctor.EXAMINATIONS["Data"]})
    assert doctor.examine() == 0
    assert "Left out" not in capsys.readouterr().out
    (tmp_path / "cat" / "notes.txt").write_text("a cat", encoding="utf-8")
    assert doctor.examine() == 0
    assert "Left out: 1 file ending in .txt (cat/notes.txt)." in capsys.readouterr().out
