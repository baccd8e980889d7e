"""What `vit-edu check` reads, and what it says of the rest: never "wrong" for what could not be checked."""

import csv
import json
import sys
import zipfile
from pathlib import Path

import pytest
from wanted import library

from vit_edu import check, cli
from vit_edu.classroom import answers, finding, reading, submissions

nbformat = library("nbformat")

COUNT = "return height // patch_size * (width // patch_size)"


def count_patches(body=COUNT, mark="@check.exercise"):
    return f"{mark}\ndef count_patches(height, width, patch_size):\n    {body}\n"


def cells(*sources):
    return {"cells": [{"cell_type": "code", "source": s} for s in sources]}


def as_json(*sources, **more):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources], **more)
    return nbformat.writes(notebook)


def worded(notebook):
    """{exercise: its status, and its error if it was not checked} of a notebook, checked in this process."""
    return {
        name: f"{found.status}: {found.error}" if isinstance(found, answers.Trouble) else found.status
        for name, found in answers.check_all(notebook)
    }


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_unicode_encoding_is_read(encoding):
    data = as_json("# größer\n" + count_patches()).encode(encoding)
    assert worded({"cells": reading.cells(data)}) == {"count_patches": "right"}


@pytest.mark.parametrize("source", [count_patches(), count_patches().splitlines(keepends=True)])
def test_the_formats_before_4_are_read(source):
    sheet = {"cells": [{"cell_type": "heading", "source": "x"}, {"cell_type": "code", "input": source}]}
    data = json.dumps({"nbformat": 3, "worksheets": [sheet]}).encode()
    assert worded({"cells": reading.cells(data)}) == {"count_patches": "right"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b'{"cells": [', "no valid JSON"),
        (b"[]", "no list of cells"),
        (b'{"cells": [1]}', "no list of cells"),
        (b'{"cells": "none"}', "no list of cells"),
        (b'{"worksheets": [1]}', ""),
        (b"PK\x03\x04\x14\x00", "a ZIP archive.*unpack"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b'{"cells":\n<<<<<<< HEAD\n[]\n=======\n[]\n>>>>>>> other\n}', "merge conflict"),
        ('{"cells": [], "by": "Jörg"}'.encode("latin-1"), "is not utf-8"),
        (b'{"cells": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_notebook_is_named(data, says):
    if not says:
        assert reading.cells(data) == []
        return
    with pytest.raises(reading.Unreadable, match=rf"^this is not a notebook.*{says}"):
        reading.cells(data)


def test_large_stored_outputs_do_not_matter(tmp_path):
    cell = nbformat.v4.new_code_cell("from vit_edu import check\n" + count_patches())
    cell.outputs = [nbformat.v4.new_output("stream", text="x" * 25 * 2**20)]
    path = tmp_path / "00.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    row = submissions.check_notebook(path)
    assert row.passed, row


@pytest.fixture
def handed_in(tmp_path):
    """A class, a part of which has handed in something else than a notebook."""
    root = tmp_path / "class"
    for name in ("empty", "zipped", "deep/er", "script", "fine/figures", "upper"):
        (root / name).mkdir(parents=True)
    with zipfile.ZipFile(root / "zipped" / "answers.zip", "w") as archive:
        archive.writestr("00.ipynb", "{}")
    (root / "script" / "answers.py").write_text("1", encoding="utf-8")
    (root / "late.zip").write_bytes(b"PK")
    (root / "names.csv").write_text("", encoding="utf-8")
    text = as_json("from vit_edu import check", count_patches())
    for path in ("fine/00_start_here.ipynb", "upper/00_START.IPYNB", "fine/helper.py"):
        (root / path).write_text(text, encoding="utf-8")
    return root


def test_what_holds_no_notebook_has_a_row(handed_in):
    found = {str(f.path.relative_to(handed_in)): f.problem for f in finding.find([handed_in])}
    assert {name for name, problem in found.items() if not problem} == {
        "fine/00_start_here.ipynb",
        "upper/00_START.IPYNB",
    }
    assert "it is empty" in found["empty"]
    assert "it holds answers.zip" in found["zipped"]
    assert "it holds answers.py" in found["script"]
    assert "holds no notebook" in found["deep"]
    assert "unpack" in found["late.zip"]
    assert len(found) == 7  # figures and a helper beside a notebook, and a list of names, are nobody's answer


def test_what_was_not_checked_is_never_wrong(handed_in, tmp_path, capsys):
    (handed_in / "fine" / "01_patches.ipynb").write_text("{", encoding="utf-8")
    files = tmp_path / "out.csv", tmp_path / "out.json"
    status = cli.main(["check", str(handed_in), "--csv", str(files[0]), "--json", str(files[1])])
    assert status == submissions.SOME_NOT_CHECKED == 3
    out = capsys.readouterr().out
    assert "wrong" not in out
    assert "In 2 of 8 notebooks, every answer is right. 6 could not be checked" in out
    assert "01_patches.ipynb: not checked: this is not a notebook (no valid JSON" in out
    with open(files[0], encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["status"] for line in lines} == {"right", "not checked"}
    assert all(line["error"] for line in lines if line["status"] == "not checked")
    rows = json.loads(files[1].read_text(encoding="utf-8"))
    assert sum(row["not_checked"] for row in rows) == 6
    assert not any(row["not_checked"] and row["passed"] for row in rows)


def test_a_limit_leaves_answers_unchecked_and_not_wrong(tmp_path):
    path = tmp_path / "01_patches.ipynb"
    path.write_text(as_json("import time", "@check.exercise\ndef patchify(x, p): time.sleep(99)"))
    row = submissions.check_notebook(path, seconds=2)
    text = submissions.as_text(row)
    assert "wrong" not in text
    assert "not checked: took more than 2 seconds" in text
    assert {a["status"] for a in row.answers.values()} == {"not checked"}


def test_another_lesson_than_the_name_says_is_named(tmp_path):
    path = tmp_path / "anna_03_attention (1).ipynb"
    path.write_text(as_json(count_patches()), encoding="utf-8")
    row = submissions.check_notebook(path)
    assert row.remark == "holds lesson 00, although its name says 03"
    assert not row.passed
    assert "holds lesson 00" in submissions.as_text(row)
    assert "holds lesson 00" in submissions.as_csv([row])
    assert row.answers["count_patches"]["status"] == "right"


@pytest.mark.parametrize(
    ("name", "lesson"),
    [
        ("01_patches.ipynb", "01"),
        ("Lesson 03 - Attention.ipynb", "03"),
        ("2024-03-12_anna_01_patches.ipynb", "01"),
        ("05.ipynb", "05"),
        ("anna_12b_few_labels (1).ipynb", "12"),
        ("2024-03-12.ipynb", None),
        ("notes.ipynb", None),
        ("77_new.ipynb", None),
    ],
)
def test_the_lesson_that_a_name_says(name, lesson):
    assert submissions._lesson_of(name) == lesson


FIRST, SECOND = ["rename_key", "pack_qkv", "resize_pos_embed"], ["knn_predict", "layer_rate"]


@pytest.mark.parametrize(
    ("name", "holds", "expected"),
    [
        ("12_pretrained.ipynb", ["pack_qkv"], FIRST),
        ("12b_few_labels.ipynb", ["layer_rate"], SECOND),
        ("anna_12b_few_labels (1).ipynb", [], SECOND),
        ("12_pretrained.ipynb", [], FIRST),
        ("12_pretrained.ipynb", ["pack_qkv", "layer_rate"], FIRST + SECOND),
        ("notes.ipynb", ["layer_rate"], SECOND),
        ("01b.ipynb", [], check.names("01")),
    ],
)
def test_of_a_lesson_in_two_notebooks_one_is_expected(name, holds, expected):
    row = submissions.Row(name, {key: {} for key in holds})
    assert submissions._expected(Path(name), row) == expected
    assert row.remark == ""


# ---------------------------------------------------------------- cells

BESIDE = {
    "timed": "%%time\n" + count_patches(),
    "captured and timed": "\n%%capture out\n%%time\n" + count_patches(),
    "a question": count_patches() + "count_patches??",
    "a question in front": "?count_patches\n" + count_patches(),
    "a listing": "files = !ls\n" + count_patches(),
    "a magic with a value": "size = %env HOME\n" + count_patches(),
    "a continued shell line": "!echo a \\\n  b\n" + count_patches(),
    "an apostrophe": "!echo it's\n" + count_patches(),
    "lines that look like magics": count_patches(
        '"""\n    % of it\n    !\n    """\n    x = (height\n      % patch_size)\n    assert not x\n    '
        + COUNT
    ),
    "a magic inside": count_patches("%matplotlib inline\n    " + COUNT),
    "a timed statement": "%time times = lambda a, b: a * b\n"
    + count_patches("return times(height // patch_size, width // patch_size)"),
    "a timed value": "one = %time 3 - 2\n" + count_patches(f"{COUNT} * one"),
    "an output": "lines = !echo 1\n" + count_patches(f"{COUNT} * int(lines[0])"),
    "await": "import asyncio\none = await asyncio.sleep(0, 1)\n" + count_patches(f"{COUNT} * one"),
    "display": count_patches("display(height)\n    " + COUNT),
    "line ends of Windows": count_patches().replace("\n", "\r\n"),
}


@pytest.mark.parametrize("ipython", [True, False], ids=["with IPython", "without"])
@pytest.mark.parametrize("source", BESIDE.values(), ids=BESIDE)
def test_a_cell_is_read_as_the_notebook_reads_it(source, ipython, monkeypatch):
    if not ipython:
        monkeypatch.setitem(sys.modules, "IPython.core.inputtransformer2", None)
    assert worded(cells(source)) == {"count_patches": "right"}


def test_without_ipython_an_unknown_form_is_not_checked(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython.core.inputtransformer2", None)
    source = "x = (1 +\n%strange (\n)" + "\n" + count_patches()
    assert "needs IPython" in worded(cells(source))["count_patches"]
    assert worded(cells(count_patches("return height //")))["count_patches"].startswith(
        "stopped with an error: SyntaxError"
    )


def test_an_answer_in_a_cell_that_is_not_for_this_kernel_is_not_checked():
    assert worded(cells("%%bash\n" + count_patches())) == {
        "count_patches": "not checked: it is in a cell that begins with %%bash"
    }


FORMS = {
    "another name": "ex = check.exercise\n" + count_patches(mark="@ex"),
    "imported under another name": "from vit_edu.check import exercise as e\n" + count_patches(mark="@e"),
    "the module under another name": "import vit_edu.check as c\n" + count_patches(mark="@c.exercise"),
    "called": count_patches(mark="") + "count_patches = check.exercise(count_patches)",
    "called, and no more": count_patches(mark="") + "check.exercise(count_patches)",
    "under if": "big = True\nif big:\n    " + count_patches().replace("\n", "\n    "),
    "in try": "try:\n    " + count_patches().replace("\n", "\n    ") + "\nexcept ValueError: pass",
    "in a loop": count_patches(mark="") + "for f in (count_patches,): check.exercise(f)",
    "a decorator below": "import functools\n" + count_patches(mark="@check.exercise\n@functools.cache"),
    "a decorator above": "import torch\n" + count_patches(mark="@torch.no_grad()\n@check.exercise"),
    "a decorator of its own": "def mine(f):\n    return check.exercise(f)\n" + count_patches(mark="@mine"),
    "a lambda": "mine = lambda f: check.exercise(f)\n" + count_patches(mark="@mine"),
    "what if defines": "one = 2\nif one > 1: one = 1\n" + count_patches(f"{COUNT} * one"),
    "what if does not define": "one = 1\nif one > 1: one = 2\n" + count_patches(f"{COUNT} * one"),
    "a list that grows": "sizes = []\nsizes.append(1)\n" + count_patches(f"{COUNT} * sizes[0]"),
    "a dict that is filled": "s = {}\ns['a'] = 1\n" + count_patches(f"{COUNT} * s['a']"),
    "a helper's helper, defined twice": "def two(): return 2\ndef one(): return two()\ndef two(): return 1\n"
    + count_patches(f"{COUNT} * one()"),
    "annotations": "from __future__ import annotations\ndef one(x: Unknown): return 1\n"
    + count_patches(f"{COUNT} * one(1)"),
}


@pytest.mark.parametrize("source", FORMS.values(), ids=FORMS)
def test_every_way_to_hand_an_answer_to_the_check(source):
    assert worded(cells("from vit_edu import check", source)) == {"count_patches": "right"}


def test_decorators_count_in_the_order_of_the_notebook():
    spoil = "def spoil(f):\n    def count_patches(*a): return 0\n    return count_patches\n"
    below = count_patches(mark="@check.exercise\n@spoil")  # the check sees what is spoilt
    above = count_patches(mark="@spoil\n@check.exercise")
    assert worded(cells(spoil + below)) == {"count_patches": "not yet"}
    assert worded(cells(spoil + above)) == {"count_patches": "right"}


def test_what_is_not_installed_here_is_not_the_learners_fault():
    found = worded(cells("import nowhere_at_all as n\n" + count_patches("return n.f(height)")))
    assert found["count_patches"].startswith("not checked: it needs what is not installed here")


def test_what_lies_beside_a_notebook_can_be_imported(tmp_path):
    (tmp_path / "my_helpers.py").write_text("one = 1", encoding="utf-8")
    (tmp_path / "einops.py").write_text("raise SystemExit", encoding="utf-8")  # hides nothing
    source = "from my_helpers import one\nfrom einops import rearrange\n" + count_patches(f"{COUNT} * one")
    (tmp_path / "00.ipynb").write_text(as_json(source), encoding="utf-8")
    assert submissions.check_notebook(tmp_path / "00.ipynb").passed


@pytest.mark.parametrize("checks", [[], [["a", True, ""]], None, [["a", True]]])
def test_right_with_another_number_of_checks_is_refused(checks):
    line = {"exercise": "count_patches", "status": "right", "checks": checks}
    answer = submissions._believed(line)
    assert answer["status"] == "not checked"
    total = len(check.get("count_patches").cases)
    assert f"the exercise has {total}" in answer["error"]
    line["checks"] = [["a", True, ""]] * total
    assert submissions._believed(line)["status"] == "right"
    line["checks"] = [["a", True, ""]] * (total - 1) + [["b", False, ""]]
    assert submissions._believed(line)["status"] == "not checked"


def test_a_notebook_that_shortens_an_exercise_is_not_right(tmp_path):
    source = (
        "from vit_edu import check\nif True:\n    e = check.get('count_patches'); e.cases = e.cases[:1]\n    "
        + (count_patches("return 64").replace("\n", "\n    "))
    )
    (tmp_path / "00.ipynb").write_text(as_json(source), encoding="utf-8")
    row = submissions.check_notebook(tmp_path / "00.ipynb")
    assert row.answers["count_patches"]["status"] == "not checked"
    assert not row.passed
