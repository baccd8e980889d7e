"""`vit-edu check` and `vit-edu mistakes`: what a teacher uses on a folder of notebooks."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from wanted import library

from vit_edu import check, cli
from vit_edu.classroom import answers, mistakes, submissions

nbformat = library("nbformat")

ROOT = Path(__file__).parents[1]


def notebook(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), path)
    return path


def answer(body, *before):
    return [
        "from vit_edu import check",
        *before,
        f"@check.exercise\ndef count_patches(height, width, patch_size):\n    {body}",
    ]


RIGHT = "return height // patch_size * (width // patch_size)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A class in which everybody has handed in something different."""
    root = tmp_path_factory.mktemp("class")
    shutil.copy(ROOT / "solutions" / "00_start_here.ipynb", root / "00_start_here.ipynb")
    notebook(root / "anna" / "00_start_here.ipynb", *answer(RIGHT, "print('x' * 10**6)"))
    notebook(root / "ben" / "00_start_here.ipynb", *answer("return height // patch_size", "plot_it()"))
    notebook(root / "cleo" / "00_start_here.ipynb", *answer("raise NotImplementedError"))
    notebook(root / "dan" / "00_start_here.ipynb", *answer("while True: pass"))
    notebook(
        root / "eve" / "00_start_here.ipynb",
        *answer("import ctypes; ctypes.string_at(0)"),
    )
    notebook(root / "finn" / "00_start_here.ipynb", *answer("return height //"))
    notebook(root / "gil" / "notes.ipynb", "print('my notes')")
    (root / "hans").mkdir()
    (root / "hans" / "00_start_here.ipynb").write_text("{not a notebook", encoding="utf-8")
    notebook(root / ".ipynb_checkpoints" / "00_start_here.ipynb", "1 / 0")
    return root


def test_a_folder_at_once(folder, tmp_path, capsys):
    files = tmp_path / "out.csv", tmp_path / "out.json"
    status = cli.main(
        ["check", str(folder), "--csv", str(files[0]), "--json", str(files[1]), "--seconds", "60"]
    )
    out = capsys.readouterr().out
    assert status == 1
    assert "In 2 of 9 notebooks, every answer is right." in out
    rows = {r["notebook"].split("/")[-2]: r for r in csv.DictReader(files[0].open(encoding="utf-8"))}
    assert len(rows) == 9
    assert rows[folder.name]["status"] == rows["anna"]["status"] == "right"
    assert "along one side only" in rows["ben"]["diagnosis"]
    assert rows["cleo"]["status"] == "not attempted"
    assert rows["dan"]["status"] == "took too long"
    assert rows["eve"]["status"] == "not checked"
    assert "ended before all answers were checked" in rows["eve"]["error"]
    assert "SyntaxError" in rows["finn"]["error"]
    assert "contains no exercise" in rows["gil"]["error"]
    assert "not a notebook" in rows["hans"]["error"]
    full = json.loads(files[1].read_text(encoding="utf-8"))
    ben = next(r for r in full if "/ben/" in r["notebook"])
    assert not ben["passed"]
    assert ben["answers"]["count_patches"]["checks"][0][1] is False


def test_a_hanging_notebook_costs_its_own_row(tmp_path):
    path = notebook(tmp_path / "00.ipynb", *answer("import time; time.sleep(1000)"))
    row = submissions.check_notebook(path, seconds=2)  # instead of the 1,000 that it sleeps
    assert "took more than 2 seconds" in row.problem
    assert not row.passed


@pytest.mark.parametrize("path", sorted((ROOT / "lessons").glob("*.ipynb")), ids=lambda p: p.stem)
def test_lessons_are_not_attempted_and_solutions_right(path):
    """These run in this process, for speed; the folder above runs as the command does."""
    for root, status in (("lessons", "not attempted"), ("solutions", "right")):
        cells = json.loads((ROOT / root / path.name).read_text(encoding="utf-8"))
        found = dict(answers.check_all(cells))
        assert list(found) == check.texts.notebooks()[path.stem]
        assert {r.status for r in found.values()} == {status}


def test_only_what_an_answer_needs_is_run(tmp_path):
    path = notebook(
        tmp_path / "x.ipynb",
        "import math\nfrom nowhere import nothing",
        "%matplotlib inline\nsize = [1]\nsize[0] = 2\nlaunch_missiles()",
        "%%bash\nrm -rf everything",
        "def half(n):\n    return helper(n)",
        "def helper(n):\n    return math.floor(n / 1)",
        *answer("return half(height // patch_size) * (width // patch_size)"),
        "raise SystemExit",
    )
    found, _ = answers.statements(json.loads(path.read_text(encoding="utf-8")))
    index = next(i for i, s in enumerate(found) if s.answers)
    bound = [sorted(found[i].binds) for i in answers.needed(found, index)]
    assert bound == [["math"], ["half"], ["helper"], ["count_patches"]]
    assert dict(answers.check_all(json.loads(path.read_text(encoding="utf-8"))))["count_patches"].passed


def test_the_last_of_two_answers_counts_and_a_wrong_one_is_replaced():
    source = [
        "@check.exercise\ndef split_heads(x, num_heads):\n    return x",
        "@check.exercise\ndef merge_heads(x):\n    return x",
        "@check.exercise\ndef merge_heads(x):\n    B, h, T, d = split_heads(x.flatten(2), 1).shape\n"
        "    return x.transpose(1, 2).flatten(2)",
    ]
    cells = [{"cell_type": "code", "source": s} for s in source]
    found = dict(answers.check_all({"cells": cells}))
    assert not found["split_heads"].passed
    # It unpacks 4 values of what split_heads returns; only the reference gives that many
    assert found["merge_heads"].passed, found["merge_heads"].text


def test_a_formula_does_not_reach_the_spreadsheet():
    row = submissions.Row(
        "=1+1.ipynb", {"patchify": {"status": "x", "diagnosis": "", "checks": [], "error": "@x"}}
    )
    line = submissions.as_csv([row]).splitlines()[1]
    assert line.startswith("'=1+1")
    assert line.endswith("'@x")


def test_nothing_to_check(tmp_path, capsys):
    assert cli.main(["check", str(tmp_path)]) == 2
    assert cli.main(["check", str(tmp_path / "nowhere")]) == 2
    assert "there is no" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["check", "--help"])
    assert "does not protect against" in capsys.readouterr().out


def test_mistakes_for_the_teacher(capsys):
    assert cli.main(["mistakes", "03"]) == 0
    out = capsys.readouterr().out
    for name in check.names("03"):
        for mistake in check.get(name).mistakes:
            assert " ".join(mistake.diagnosis.split())[:40] in " ".join(out.split())
    assert "softmax over queries" in out
    assert "patchify" not in out
    assert len(mistakes.catalogue().splitlines()) > 500
    assert cli.main(["mistakes", "patchfy"]) == 1
