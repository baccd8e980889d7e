"""`check.points`: a grade cell pays for the learner's own answer, also in nbgrader's own autograding."""

import os
import sys

import pytest
from wanted import NEEDS_HOME, library

from vit_edu import check
from vit_edu.check import session

nbformat = library("nbformat")


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


# ---------------------------------------------------------------- nbgrader

COUNT = "@check.exercise\ndef count_patches(height, width, patch_size):\n    {}"
MERGE = "@check.exercise\ndef merge_heads(x):\n    {}"
RIGHT = "return height // patch_size * (width // patch_size)", "return x.transpose(1, 2).flatten(2)"
UNWRITTEN = "raise NotImplementedError"
CLASS = {  # who -> (the two answers, the two scores)
    "right": (RIGHT, [3, 2]),
    "half": ((RIGHT[0], "return x"), [3, 0]),
    "the other half": ((UNWRITTEN, RIGHT[1]), [0, 2]),
    "nothing": ((UNWRITTEN, UNWRITTEN), [0, 0]),
    "all wrong": (("return 64", "return x"), [0, 0]),
}


def cell(source, name, **grading):
    made = nbformat.v4.new_code_cell(source)
    made.metadata["nbgrader"] = {
        "grade_id": name,
        "schema_version": 3,
        "cell_type": "code",
        "task": False,
        **grading,
    }
    return made


def assignment(path, count, merge):
    """A notebook with two answers and two grade cells, as README shows them."""
    answer = {"solution": True, "grade": False, "locked": False}
    grade = {"solution": False, "grade": True, "locked": True}
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("from vit_edu import check"),
            cell(COUNT.format(count), "count", **answer),
            cell(MERGE.format(merge), "merge", **answer),
            cell('check.points("count_patches", 3)', "count_points", points=3, **grade),
            cell('check.points("merge_heads", 2)', "merge_points", points=2, **grade),
        ]
    )
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A class, graded by `nbgrader autograde`."""
    nbgrader = pytest.importorskip("nbgrader.apps")
    from traitlets.config import Config

    root = tmp_path_factory.mktemp("course")
    config = Config()
    config.CourseDirectory.root = config.Exchange.root = str(root)
    with pytest.MonkeyPatch.context() as patch:
        # nbgrader starts alembic by its name
        patch.setenv("PATH", os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
        grader = nbgrader.NbGraderAPI(config=config)
        assignment(root / "source" / "one" / "lesson.ipynb", UNWRITTEN, UNWRITTEN)
        assert grader.generate_assignment("one")["success"]
        for who, (answers, _) in CLASS.items():
            assignment(root / "submitted" / who / "one" / "lesson.ipynb", *answers)
            done = grader.autograde("one", who)
            assert done["success"], done["log"]
        yield grader


@NEEDS_HOME
@pytest.mark.filterwarnings("ignore:Object of type")  # of SQLAlchemy, about nbgrader's own tables
@pytest.mark.parametrize("who", CLASS)
def test_nbgrader_gives_the_points(course, who):
    with course.gradebook as book:
        notebook = book.find_submission_notebook("lesson", "one", who)
        scores = {grade.name: grade.score for grade in notebook.grades}
    assert [scores["count_points"], scores["merge_points"]] == CLASS[who][1]
