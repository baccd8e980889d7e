"""`check.points`: a grade cell pays for the learner's own answer, also in nbgrader's own autograding."""

import asyncio

import nbformat
import pytest
from nbgrader.preprocessors import Execute
from nbgrader.utils import determine_grade

from vit_edu import check
from vit_edu.check import session


@pytest.fixture(autouse=True)
def new_session(monkeypatch):
    monkeypatch.setattr(session, "last", {})
    monkeypatch.setattr(session, "_own", {})


def answer(function):
    function.__name__ = "count_patches"
    return check.exercise(function)


def test_only_the_last_answer_counts():
    assert check.points("count_patches", 3) == 0
    answer(lambda h, w, p: h // p * (w // p))
    assert check.points("count_patches", 3) == 3
    assert check.points("count_patches") == 1
    assert check.points("count_patches", 2.5) == 2.5
    answer(lambda h, w, p: h // p)
    assert check.points("count_patches", 3) == 0


def test_the_reference_is_worth_nothing(capsys):
    @check.exercise
    def merge_heads(x):
        raise NotImplementedError

    check.run("merge_heads", merge_heads)  # by now, the name holds the reference
    assert check.points("merge_heads", 3) == 0
    check.exercise(merge_heads)
    assert check.points("merge_heads", 3) == 0


def test_checking_something_else_by_run_changes_no_points():
    answer(lambda h, w, p: h // p * (w // p))
    check.run("count_patches", lambda h, w, p: 0)
    assert check.points("count_patches", 3) == 3


@pytest.mark.parametrize("worth", [-1, "3", True, None, float("nan"), float("inf")])
def test_worth_is_a_number_of_points(worth):
    with pytest.raises(ValueError, match="worth must be a number of points"):
        check.points("count_patches", worth)


def test_an_exercise_that_is_not_there_is_said():
    with pytest.raises(KeyError, match="Did you mean count_patches"):
        check.points("count_patchs", 3)


HEAD = "from vit_edu import check"
COUNT = "@check.exercise\ndef count_patches(height, width, patch_size):\n    {}"
MERGE = "@check.exercise\ndef merge_heads(x):\n    {}"
RIGHT_COUNT, RIGHT_MERGE = (
    "return height // patch_size * (width // patch_size)",
    "return x.transpose(1, 2).flatten(2)",
)
UNWRITTEN = "raise NotImplementedError"


@pytest.mark.parametrize(
    ("count", "merge", "scores"),
    [
        (RIGHT_COUNT, RIGHT_MERGE, [3, 2]),
        (RIGHT_COUNT, "return x", [3, 0]),
        (UNWRITTEN, RIGHT_MERGE, [0, 2]),
        (UNWRITTEN, UNWRITTEN, [0, 0]),
        ("return 64", "return x", [0, 0]),
    ],
    ids=["right", "half", "the other half", "nothing", "all wrong"],
)
def test_nbgrader_gives_the_points(count, merge, scores):
    """Runs the notebook with the preprocessor of `nbgrader autograde`, and takes each score as nbgrader does."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in (HEAD, COUNT.format(count), MERGE.format(merge))]
    )
    for name, worth in (("count_patches", 3), ("merge_heads", 2)):
        grade = {"grade": True, "solution": False, "locked": True, "points": worth, "grade_id": name}
        cell = nbformat.v4.new_code_cell(f'check.points("{name}", {worth})')
        cell.metadata["nbgrader"] = grade | {"schema_version": 3, "cell_type": "code", "task": False}
        notebook.cells.append(cell)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    asyncio.set_event_loop(asyncio.new_event_loop())
    notebook, _ = Execute(timeout=120).preprocess(notebook, {})
    grades = [determine_grade(cell) for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert grades == [(score, worth) for score, worth in zip(scores, [3, 2], strict=True)]
