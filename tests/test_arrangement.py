"""An answer whose numbers are all right, in another arrangement, is told which one."""

import pytest

from vit_edu import check
from vit_edu.check import Exercise
from vit_edu.check.cases import call, drawn

REVERSED = "All numbers are right, but they come in reverse order"


def exercise(*shapes):
    return Exercise(_doubled, *(call(f"{shape}", drawn(*shape)) for shape in shapes), name="patchify")


def _doubled(x):
    return 2 * x


@pytest.mark.parametrize(
    ("move", "says"),
    [
        (lambda x: x.mT, "All numbers are right, but the last two axes are exchanged."),
        (lambda x: x.transpose(0, 1), "All numbers are right, but the first two axes are exchanged."),
        (lambda x: x.flip(0), f"{REVERSED} along axis 0."),
        (lambda x: x.flip(2), f"{REVERSED} along axis 2."),
        (lambda x: x.flip(0, 1, 2), f"{REVERSED}, the last one first."),
        (lambda x: x.flip(1) if x.shape[1] == 2 else x, "In the cases that fail, all numbers are right, but"),
    ],
)
def test_one_operation_is_named(move, says):
    found = exercise((3, 2, 4), (5, 3, 2)).check(lambda x: move(2 * x))
    assert (found.diagnosis or "").startswith(says), found.text


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x.flip(0),  # other numbers
        lambda x: 2 * x.roll(1, 0),  # no operation of the list
        lambda x: 2 * (x.flip(0) if len(x) == 3 else x.flip(1)),  # not one operation for all
        lambda x: (2 * x).flip(0).double(),
        lambda x: 2 * x.flip(0) if len(x) == 3 else None,
        lambda x: 2 * x.flip(0) if len(x) == 3 else 2 * x + 1,
    ],
)
def test_nothing_is_said_without_evidence(answer):
    found = exercise((3, 2, 4), (5, 3, 2)).check(answer)
    assert not found.passed
    assert "All numbers" not in found.text
    assert "all numbers" not in found.text


def test_two_axes_and_one_have_words_of_their_own():
    found = exercise((3, 4), (5, 2)).check(lambda x: 2 * x.T)
    assert found.diagnosis == "All numbers are right, but the two axes are exchanged."
    found = exercise((4,), (7,)).check(lambda x: 2 * x.flip(0))
    assert found.diagnosis == f"{REVERSED} along axis 0."


def test_a_few_numbers_are_the_same_by_chance():
    assert exercise((2,), (1,)).check(lambda x: 2 * x.flip(0)).diagnosis is None


def test_several_operations_that_explain_it_are_no_explanation():
    # An axis of length 1: exchanging the first two or turning the result round looks the same
    found = exercise((1, 1, 8)).check(lambda x: 2 * x.flip(2))
    assert "All numbers" not in found.text


def test_it_comes_before_a_number_that_seems_to_be_built_in():
    right = check.get("pool").reference
    found = check.run("pool", lambda tokens, how: right(tokens, how).flip(1))
    assert found.diagnosis == f"{REVERSED} along axis 1."
