"""What the learner's own answers have earned in this session, whatever their names stand for by now.

After an answer that is not right, its name holds the reference. A grade cell that checks the name would therefore pay for the
reference; `points` pays for what was written.
"""

from vit_edu.check import texts
from vit_edu.check.language import _

last = {}  # exercise -> the Report on the last answer that `@check.exercise` saw in this session
_own = {}  # exercise -> was that answer the learner's, and not the reference handed in again?


def remember(report, candidate, reference):
    """Take note of the report on an answer. `@check.exercise` calls this; `check.run` does not."""
    last[report.name] = report
    _own[report.name] = candidate is not reference


def points(name, worth=1):
    """What the learner's last answer to an exercise has earned in this session: `worth` if it is right, and 0 otherwise.

    For the last line of a grade cell, whose value nbgrader takes as the score: `check.points("patchify", 3)`. Only answers
    below `@check.exercise` count, and handing in the reference earns nothing. KeyError if there is no such exercise,
    ValueError if `worth` is not a number from 0.
    """
    if isinstance(worth, bool) or not isinstance(worth, int | float) or not 0 <= worth < float("inf"):
        raise ValueError(
            _("worth must be a number of points, 0 or more, such as 3; got {worth}.").format(
                worth=repr(worth)
            )
        )
    if name not in texts.exercises():
        from vit_edu import check

        check.get(name)  # raises the error that names similar exercises
    report = last.get(name)
    return worth if report is not None and report.passed and _own[name] else 0
