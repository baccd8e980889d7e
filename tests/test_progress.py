"""Hints come in steps, and progress is in one small file whose damage breaks nothing."""

import json
import re
from pathlib import Path

import pytest

from vit_edu import check, settings

TOTAL = len(check.names())


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_EDU_PROGRESS", str(tmp_path / "deep" / "progress.json"))
    return tmp_path / "deep" / "progress.json"


def right(height, width, patch_size):
    return height // patch_size * (width // patch_size)


def answer(function):
    function.__name__ = "count_patches"
    return check.exercise(function)


def test_hints_come_one_by_one_and_end(monkeypatch):
    monkeypatch.setattr(check, "_given", {})
    monkeypatch.chdir(Path(__file__).parents[1] / "lessons")
    hints = check.get("patchify").hints
    first, second, third, again = (check.hint("patchify").text for _ in range(4))
    assert hints[0] in first
    assert hints[1] not in first
    assert hints[1] in second
    assert all(h in third for h in hints)
    assert again == third
    assert "last hint" in third
    assert check.hint("patchify", 1).text == first
    page = check.hint("patchify", 3)._repr_mimebundle_()["text/html"]
    assert "The shape of the code" in page
    assert "solutions/01_patches.ipynb" in third
    assert '<a href="../solutions/01_patches.ipynb">solutions/01_patches.ipynb</a>' in page
    assert "solutions" not in check.hint("patchify", 2)._repr_mimebundle_()["text/html"]
    with pytest.raises(ValueError, match="step must be from 1 to 3"):
        check.hint("patchify", 4)
    with pytest.raises(KeyError, match="Did you mean"):
        check.hint("pachify")


def test_answers_are_counted(file, capsys):
    assert f"0 of {TOTAL} exercises right" in check.progress().text
    answer(lambda height, width, patch_size: 1)
    assert "✗" in check.progress().text
    answer(right)
    answer(lambda height, width, patch_size: 1)  # what was right once stays right
    kept = json.loads(file.read_text(encoding="utf-8"))["exercises"]["count_patches"]
    assert kept["tries"] == 3
    assert kept["right"]
    shown = check.progress()
    assert shown.headline == f"1 of {TOTAL} exercises right"
    page = shown._repr_mimebundle_()["text/html"]
    assert "<svg role='img' aria-label=" in page
    assert "count_patches: right" in page
    assert "patchify: not attempted" in page
    assert [p.name for p in file.parent.iterdir()] == ["progress.json"]


def test_an_empty_answer_and_a_program_leave_no_trace(file):
    def nothing(height, width, patch_size):
        raise NotImplementedError

    answer(nothing)
    check.run("count_patches", right)
    assert not file.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"exercises": {"patchify": 3}}', '{"exercises": null}', "\0\xff"]
)
def test_a_damaged_file_is_set_aside(file, text, capsys):
    file.parent.mkdir()
    file.write_text(text, encoding="latin-1")
    answer(right)
    assert f"1 of {TOTAL}" in check.progress().text
    aside = file.with_name("progress.damaged-1.json")
    assert aside.read_text(encoding="latin-1") == text
    file.write_text(text, encoding="latin-1")
    shown = check.progress()
    assert "damaged" in shown.remark
    assert f"0 of {TOTAL}" in shown.text
    assert file.with_name("progress.damaged-2.json").exists()


def test_without_a_place_for_the_file_nothing_fails(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("VIT_EDU_PROGRESS", str(tmp_path / "file" / "progress.json"))
    assert answer(right) is right
    assert f"0 of {TOTAL}" in check.progress().text
    assert re.match(
        r"What you solve is not kept: .*progress.json cannot be written \(.+\)", check.progress().remark
    )
    monkeypatch.setenv("VIT_EDU_PROGRESS", "off")
    assert settings.progress_file() is None
    answer(right)
    assert "not kept" in check.progress().remark
