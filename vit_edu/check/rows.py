"""One row for each case of an answer: what was expected, what came, and what is said about it."""

from dataclasses import dataclass

from vit_edu.check.cases import Case
from vit_edu.check.compare import NO_LAYOUT, NOT_RUN, Failure, compare, other_type, type_alone
from vit_edu.check.language import _
from vit_edu.check.report import Check

# How telling a failed row is; the reader sees the most telling first.
VALUES, PROPERTY, ERROR, UNSEEN = range(4)


@dataclass(eq=False)
class Row:
    """One case of an answer.

    expected and got: what the case saw of the reference and of the candidate; either may be a `Failure`.
    problem: in the learner's language, what was expected and what came; empty if the case passed. hint: that of the case, if
    it is worth showing. rank: VALUES, PROPERTY, ERROR or UNSEEN.
    """

    case: Case
    expected: object
    got: object
    problem: str = ""
    hint: str = ""
    rank: int = VALUES

    @property
    def passed(self):
        return not self.problem

    def accept(self):
        """Count the case as passed."""
        self.problem = self.hint = ""

    @property
    def as_check(self):
        """The `Check` for the report."""
        lines = [self.problem, _(self.hint)] if self.hint else [self.problem]
        return Check(self.case.name, self.passed, "\n".join(lines), self.rank)


def compare_all(cases, expected, got):
    """The rows of an answer, one for each case: `expected` is what the cases saw of the reference, `got` of the candidate."""
    rows = [Row(*each) for each in zip(cases, expected, got, strict=True)]
    for row in rows:
        row.problem = compare(row.case, row.expected, row.got)[1]
        row.rank = _rank(row)
    # A hint about values would mislead if there are none, and one about a property if plain cases fail.
    plain = all(row.passed for row in rows if row.case.kind != "property")
    for row in rows:
        if not row.passed and not isinstance(row.got, Failure) and (plain or row.case.kind != "property"):
            row.hint = row.case.hint
    return rows


def _rank(row):
    if isinstance(row.got, Failure) and row.got.kind:
        return UNSEEN if row.got.kind in (NOT_RUN, NO_LAYOUT) else ERROR
    return PROPERTY if row.case.kind == "property" else VALUES


# ---------------------------------------------------------------- types that no exercise asks for


def allow_types(rows):
    """Accept what fails only for a type of numbers that the exercise does not ask for. This changes the rows.

    Returns the remark that goes with the answer, or "" if something else is wrong as well, or nothing.
    """
    failed = [row for row in rows if not row.passed and row.case.kind != "parameters"]
    if not all(row.case.remark and type_alone(row.expected, row.got) for row in failed):
        return ""
    for row in failed:
        row.accept()
    if not failed:
        return ""
    inputs = next(value.dtype for value in failed[0].case.given if hasattr(value, "dtype"))
    return _(
        "With an input of type {type}, {what}. The exercise does not ask for that. To be ready for it, take dtype and device from "
        "the input (x.new_zeros, device=x.device, .to(x.dtype)) instead of fixing them."
    ).format(type=inputs, what=type_alone(failed[0].expected, failed[0].got))


def without_types(rows):
    """The rows without those that an answer fails for a type that the exercise does not ask for, if others fail as well."""
    asked = [r for r in rows if r.passed or not r.case.remark or not other_type(r.expected, r.got)]
    return rows if all(r.passed for r in asked) else asked


# ---------------------------------------------------------------- parameters under other names


def allow_layout(rows, layout):
    """From here on, treat the parameters as ours, because they are the same in another layout. This changes the rows.

    If everything that the answer computes is right as well, all rows pass. Returns the note that then goes with the
    answer, else "".
    """
    for row in rows:
        if row.case.kind == "parameters":
            row.got = row.expected
    if not all(row.passed for row in rows if row.case.kind != "parameters"):
        return ""
    for row in rows:
        row.accept()
    names = layout.renamed()
    shown = "; ".join(
        _("{theirs} is {ours}").format(theirs=" + ".join(theirs), ours=ours) for theirs, ours in names[:4]
    )
    if len(names) > 4:
        shown += _(", and {number} more").format(number=len(names) - 4)
    return _(
        "Your parameters have other names than ours or are split up differently: {names}. That is right as well. "
        "Published weights use our names (lesson 12)."
    ).format(names=shown)


def accept_parameters(rows):
    """Count names and shapes as passed, because they are not what is wrong with this answer."""
    for row in rows:
        if row.case.kind == "parameters":
            row.accept()


def leave_uncompared(rows):
    """If parameters differ and nothing else is known of the answer, say that its numbers were not compared.

    Numbers that differ would only mislead.
    """
    if all(row.passed for row in rows if row.case.kind == "parameters"):
        return
    for row in rows:
        no_layout = isinstance(row.got, Failure) and row.got.kind == NO_LAYOUT
        numbers = row.case.kind == "weights" and not row.passed and not isinstance(row.got, Failure)
        if no_layout or numbers:
            row.problem = _("not compared, because your parameters cannot be given the same weights as ours")
            row.hint, row.rank = "", UNSEEN
