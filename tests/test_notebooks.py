"""Notebooks as files: lessons follow from solutions, and both are clean. nbval tests that they run."""

import re
from pathlib import Path

import pytest

from vit_edu import check

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
from vit_edu.authoring import course, lessons, notebooks  # noqa: E402

ROOT = Path(__file__).parents[1]
SOLUTIONS = notebooks.solutions(ROOT)
ALL = SOLUTIONS + sorted((ROOT / "lessons").glob("*.ipynb"))


def ids(path):
    return f"{path.parent.name}/{path.stem}"


def code_cells(path):
    return [c for c in notebooks.read(path).cells if c.cell_type == "code"]


def test_deriving_again_changes_nothing(capsys):
    assert lessons.derive_all(ROOT, check=True) == 0, capsys.readouterr().out
    assert [p.stem for p in SOLUTIONS] == list(check.texts.notebooks())
    assert len(ALL) == 2 * len(SOLUTIONS)


@pytest.mark.parametrize("path", SOLUTIONS, ids=ids)
def test_solution_holds_every_exercise_of_its_lesson_once(path):
    asked = []
    for cell in code_cells(path):
        if "### BEGIN SOLUTION" in cell.source:
            asked += re.findall(r"^@check\.exercise\n(?:def|class) (\w+)", cell.source, re.M)
            assert cell.metadata["nbgrader"]["grade_id"] == asked[-1] == cell.id
            assert cell.metadata["nbgrader"]["solution"]
            assert f"✓ {asked[-1]}: right." in cell.outputs[0]["data"]["text/plain"]
    assert asked == check.texts.notebooks()[path.stem]


@pytest.mark.parametrize("path", ALL, ids=ids)
def test_notebook_is_clean(path):
    text = path.read_text(encoding="utf-8")
    notebook = notebooks.read(path)
    assert len(text) < 100_000
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({c.id for c in notebook.cells}) == len(notebook.cells)
    assert not re.search(r"/home/|/Users/|/tmp/|site-packages|ipykernel_\d", text)
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        assert cell.execution_count in (None, number)
        assert cell.source.strip()
        # The longest cells are exercises with their answers; others are shorter
        assert len(cell.source.splitlines()) <= 26


@pytest.mark.parametrize("path", [p for p in ALL if p.parent.name == "lessons"], ids=ids)
def test_lesson_gives_nothing_away(path):
    for cell in code_cells(path):
        assert "SOLUTION" not in cell.source
        assert cell.outputs == []
        if "@check.exercise" in cell.source:
            assert "NotImplementedError" in cell.source
            assert cell.metadata["deletable"] is False


@pytest.mark.parametrize("path", SOLUTIONS, ids=ids)
def test_a_solution_has_all_parts_of_a_lesson(path):
    cells = notebooks.read(path).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    for part in (
        "After ",
        "you can",
        "**You need**",
        "Predict",
        "## Questions",
        "<details>",
        "## Recap",
    ):
        assert part.lower() in text.lower(), part
    for link in re.findall(r"\]\((\w+\.ipynb)\)", text):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("### BEGIN SOLUTION\nx = 1", "no end solution"),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", "nested"),
    ],
)
def test_a_faulty_marker_is_an_error(source, says):
    notebook = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell(source)
    cell.metadata["nbgrader"] = {
        "grade": False, "grade_id": "x", "locked": False, "schema_version": 3, "solution": True, "task": False,
    }  # fmt: skip
    notebook.cells.append(cell)
    with pytest.raises(RuntimeError, match=says):
        lessons.derive(notebook)


def test_course_makes_pages_with_folded_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    cells = [
        nbformat.v4.new_markdown_cell("<details><summary>Why?</summary>\n\nBecause.\n</details>"),
        nbformat.v4.new_markdown_cell("Next: [01](01_patches.ipynb)"),
        nbformat.v4.new_code_cell("1 + 1"),
    ]
    folder = tmp_path / "solutions"
    folder.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "00_first.ipynb")
    assert course.course(tmp_path, tmp_path / "out") == 0
    page = (tmp_path / "out" / "00_first.html").read_text(encoding="utf-8")
    assert re.search(r"<summary>Why\?</summary>\s*<p>Because\.</p>\s*</details>", page)
    assert 'href="01_patches.html"' in page
    assert ">2</pre>" in page
