"""The catalogue: every entry complete, right answers pass, each known mistake is named, mutants of the reference fail.

The figures over all exercises: `python benchmarks/catalogue.py`.
"""

import pytest

from benchmarks import catalogue
from vit_edu import check
from vit_edu.check import report

NAMES = check.names()
ALTERNATIVES = [(n, a) for n in NAMES for a in check.get(n).alternatives]
MISTAKES = [(n, m) for n in NAMES for m in check.get(n).mistakes]


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_complete_and_the_reference_passes(name):
    exercise = check.get(name)
    found = exercise.check(exercise.reference)
    assert found.passed, found.text
    assert len(found.checks) >= 3
    assert len({c.name for c in found.checks}) == len(found.checks)
    assert len(exercise.alternatives) >= 3
    assert len(exercise.mistakes) >= 6
    assert len(exercise.hints) == 3
    assert all(h.strip() for h in exercise.hints)
    assert len({m.name for m in exercise.mistakes}) == len(exercise.mistakes)
    assert len({m.diagnosis for m in exercise.mistakes}) == len(exercise.mistakes)
    for mistake in exercise.mistakes:
        assert 20 < len(mistake.diagnosis) < 330, mistake.name
        assert mistake.talk.strip(), mistake.name


@pytest.mark.parametrize(("name", "alternative"), ALTERNATIVES, ids=lambda x: getattr(x, "__name__", x))
def test_alternative_passes(name, alternative):
    found = check.run(name, alternative)
    assert found.passed, found.text


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=lambda x: getattr(x, "name", x))
def test_mistake_is_named(name, mistake):
    found = check.run(name, mistake.build)
    assert found.status in (report.WRONG, report.CRASHED), found.text
    assert found.diagnosis == mistake.diagnosis, found.text


@pytest.mark.parametrize("name", NAMES)
def test_no_two_mistakes_look_alike(name):
    assert catalogue.alike(check.get(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_mutants_of_the_reference_fail(name):
    total, passed = catalogue.survivors(check.get(name))
    assert total >= 5
    assert [p for p in passed if (name, p) not in catalogue.EXPLAINED] == []


def test_explanations_are_of_survivors():
    for name, what in catalogue.EXPLAINED:
        assert name in NAMES
        assert what in {w for w, _ in catalogue.mutants(check.get(name).reference)}, (name, what)
