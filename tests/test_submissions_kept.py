"""Results of `vit-edu check` are never lost, a limit holds, and nothing that a notebook starts outlives its check."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wanted import library

from vit_edu import cli
from vit_edu.classroom import journal, submissions

nbformat = library("nbformat")

COUNT = "@check.exercise\ndef count_patches(h, w, p):\n    return h // p * (w // p)\n"
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can find such processes")


def notebook(path, before="", answer=COUNT):
    """A notebook in which `before` is run because the answer is below the same condition."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = "from vit_edu import check\nif True:\n" + "".join(
        f"    {line}\n" for line in (before + "\n" + answer).splitlines()
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    return path


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


DETACHED = (
    "import subprocess, sys\n"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True{more})\n"
    "open({file!r}, 'w').write(str(p.pid))"
)


@LINUX
@pytest.mark.parametrize("more", ["", ", env={}, cwd='/'"], ids=["as it is", "without home and folder"])
@pytest.mark.parametrize("ends", [True, False], ids=["in time", "too late"])
def test_a_detached_process_neither_holds_a_row_nor_outlives_it(more, ends, tmp_path):
    file = tmp_path / "pid"
    before = DETACHED.format(file=str(file), more=more)
    before += "" if ends else "\nimport time; time.sleep(600)"
    started = time.monotonic()
    row = submissions.check_notebook(notebook(tmp_path / "00.ipynb", before), seconds=60 if ends else 12)
    assert time.monotonic() - started < 60
    assert row.passed == ends
    assert not alive(int(file.read_text(encoding="utf-8")))


@LINUX
def test_a_process_that_holds_the_output_does_not_hold_the_row(tmp_path):
    file = tmp_path / "pid"
    hold = (
        "import os, time\npid = os.posix_spawn('/bin/sleep', ['sleep', '600'], {}, setsid=True)\n"
        f"open({str(file)!r}, 'w').write(str(pid))"
    )
    started = time.monotonic()
    assert submissions.check_notebook(notebook(tmp_path / "00.ipynb", hold), seconds=120).passed
    assert time.monotonic() - started < 60
    assert not alive(int(file.read_text(encoding="utf-8")))


@LINUX
@pytest.mark.parametrize("how", ["KILL", "STOP"])
def test_a_notebook_that_ends_or_stops_its_parent_costs_its_own_row(how, tmp_path, monkeypatch):
    monkeypatch.setattr(submissions.keeper, "PATIENCE", 2.0)
    file = tmp_path / "pid"
    before = DETACHED.format(file=str(file), more="")
    before += (
        f"\nimport os\nsubprocess.run(['kill', '-{how}', str(os.getppid())])\nimport time; time.sleep(600)"
    )
    row = submissions.check_notebook(notebook(tmp_path / "00.ipynb", before), seconds=10)
    assert row.not_checked
    assert "ended before" in row.problem if how == "KILL" else "took more than" in row.problem
    assert not alive(int(file.read_text(encoding="utf-8")))


@LINUX
def test_names_of_any_bytes_have_their_row(tmp_path, capsys):
    for name in (b"caf\xe9", b"new\nline", b"=1+1", "größe".encode()):
        notebook(tmp_path / "class" / os.fsdecode(name) / "00.ipynb")
    files = tmp_path / "out.csv", tmp_path / "out.json"
    words = ["check", str(tmp_path / "class"), "--csv", str(files[0]), "--json", str(files[1])]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert r"caf\xe9" in out
    utf8 = sys.getfilesystemencoding() == "utf-8"  # in the locale C, nobody knows what these bytes mean
    assert ("größe" if utf8 else r"gr\xc3\xb6\xc3\x9fe") in out
    with open(files[0], encoding="utf-8", newline="") as file:
        names = [line["notebook"] for line in csv.DictReader(file)]
    assert len(names) == 4
    assert any(r"caf\xe9" in name for name in names)
    assert len(files[0].read_text(encoding="utf-8").splitlines()) == 5
    assert len(json.loads(files[1].read_text(encoding="utf-8"))) == 4
    assert not (tmp_path / "out.csv.unfinished").exists()


def run(folder, file, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "vit_edu", "check", str(folder), "--json", str(file), "--jobs", "1", *more],
        stdout=subprocess.PIPE,
        text=True,
    )


@LINUX
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    notebook(tmp_path / "class" / "anna" / "00.ipynb")
    going = tmp_path / "going"
    slow = f"import time\nif not __import__('os').path.exists({str(going)!r}):\n    open({str(going)!r}, 'w').close()\n    time.sleep(600)"
    notebook(tmp_path / "class" / "ben" / "00.ipynb", slow)
    notebook(tmp_path / "class" / "cleo" / "00.ipynb")
    file = tmp_path / "out.json"
    process = run(tmp_path / "class", file)
    while not going.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not file.exists()  # whole or not at all
    assert (tmp_path / "out.json.unfinished").exists()
    process = run(tmp_path / "class", file)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    assert "1 of 3 were checked by a run that was stopped" in out
    assert "anna" not in out
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert [Path(r["notebook"]).parent.name for r in rows] == ["anna", "ben", "cleo"]
    assert all(r["passed"] for r in rows)
    assert list(tmp_path.glob("*.unfinished")) == []


def test_a_notebook_under_which_the_check_ended_twice_is_not_checked_again(tmp_path, capsys):
    path = notebook(tmp_path / "class" / "dora" / "00.ipynb", "1 / 0")
    name = journal.key(path, 120.0)
    kept = tmp_path / "out.csv.unfinished"
    kept.write_text(
        f'{json.dumps({"key": name})}\n{json.dumps({"key": name})}\n{{"key": "half', encoding="utf-8"
    )
    status = cli.main(["check", str(tmp_path / "class"), "--csv", str(tmp_path / "out.csv")])
    assert status == submissions.SOME_NOT_CHECKED
    assert "not checked: the whole check ended twice" in capsys.readouterr().out


def test_a_changed_notebook_is_checked_again(tmp_path):
    path = notebook(tmp_path / "00.ipynb")
    before = journal.key(path, 120.0)
    assert journal.key(path, 60.0) != before
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert journal.key(path, 120.0) != before


def test_results_that_cannot_be_written_are_said_before_anything_is_run(tmp_path, capsys):
    notebook(tmp_path / "00.ipynb")
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert cli.main(["check", str(tmp_path), "--csv", str(tmp_path / "file" / "out.csv")]) == 2
    said = capsys.readouterr()
    assert "cannot be written" in said.err
    assert said.out == ""
    assert cli.main(["check", str(tmp_path), "--json", str(tmp_path)]) == 2
    assert "it is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--jobs", "0"], ["--seconds", "-1"], ["--seconds", "nan"]])
def test_numbers_that_make_no_sense_are_said(words, tmp_path, capsys):
    assert cli.main(["check", str(tmp_path), *words]) == 2
    assert "must be at least 1 and --seconds above 0" in capsys.readouterr().err


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", " =", "\n@", "＝", "\x0b+"])
def test_no_cell_starts_a_formula_or_a_line(start):
    evil = f"{start}1+1\r\n=2\tx\u2028=3\x85=4"
    answer = {"status": evil, "diagnosis": evil, "checks": [], "error": evil}
    text = submissions.as_csv([submissions.Row(evil, {evil: answer})])
    assert len(text.splitlines()) == 2
    assert "\t" not in text
    assert "\r" not in text
    line = next(csv.DictReader(text.splitlines()))
    for column in ("notebook", "exercise", "status", "diagnosis", "error"):
        assert line[column].startswith("'")


@LINUX
def test_ctrl_c_stops_what_runs_and_keeps_what_is_done(tmp_path):
    going = tmp_path / "going"
    slow = f"import time\nopen({str(going)!r}, 'w').close()\ntime.sleep(600)"
    notebook(tmp_path / "class" / "anna" / "00.ipynb")
    notebook(tmp_path / "class" / "ben" / "00.ipynb", slow)
    process = run(tmp_path / "class", tmp_path / "out.json")
    while not going.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "anna" in out
    kept = journal.Journal(tmp_path / "out.json")
    assert len(kept.ended) == 1
    assert not kept.begun  # ben is not blamed for it
    kept.close(remove=True)
