"""What a learner has solved, kept in one small file.

VIT_EDU_PROGRESS names the file, or is off to keep nothing. By default, it is progress.json in the user's data folder.
"""

import contextlib
import datetime
import html
import json
from dataclasses import dataclass

from vit_edu import atomic, settings
from vit_edu.check.language import N_, _, ngettext
from vit_edu.check.report import EMPTY, RIGHT, UNCHECKED, frame

# The states of an exercise are RIGHT and these; the marks and words are for the learner.
TRIED, OPEN = "tried", "open"
MARKS = {RIGHT: "✓", TRIED: "✗", OPEN: "○"}
WORDS = {RIGHT: N_("right"), TRIED: N_("tried, not right yet"), OPEN: N_("not attempted")}


def load():
    """({exercise: {"right": date or None, "tries": n}}, remark). A damaged file is set aside, and the remark says so."""
    try:
        file = settings.progress_file()
        if file is None or not file.exists():
            return {}, ""
        kept = json.loads(file.read_text(encoding="utf-8"))["exercises"]
        entries = {
            str(name): {"right": e["right"] and str(e["right"]), "tries": int(e["tries"])}
            for name, e in kept.items()
        }
    except settings.NoHome as error:
        return {}, _("Progress is not kept: {reason}").format(reason=error)
    except OSError as error:
        return {}, _("{file} cannot be read: {reason}.").format(file=file, reason=error.strerror)
    except (ValueError, KeyError, TypeError, AttributeError):
        aside = atomic.set_aside(file)
        remark = _(
            "The file with your progress was damaged. It is kept as {file}, and counting starts again from zero."
        )
        return {}, remark.format(file=aside)
    return entries, ""


def unwritable():
    """Why nothing can be kept in the file, as a remark; "" where it can."""
    file = settings.progress_file()
    try:
        atomic.require_writable(file.parent)
    except OSError as error:
        remark = _("What you solve is not kept: {file} cannot be written ({reason}).")
        return remark.format(file=file, reason=error.strerror)
    return ""


def add(report):
    """Record one answer of `@check.exercise`; the reference itself is a try that is not solved. Never raises, because an
    exercise must not fail for lack of a file."""
    if report.status in (EMPTY, UNCHECKED):
        return
    with contextlib.suppress(OSError):
        if settings.progress_file() is None:
            return
        entries, _ = load()
        entry = entries.setdefault(report.name, {"right": None, "tries": 0})
        entry["tries"] += 1
        if report.passed and not report.is_reference and not entry["right"]:
            entry["right"] = datetime.date.today().isoformat()
        atomic.write(settings.progress_file(), json.dumps({"version": 1, "exercises": entries}, indent=1))


@dataclass
class Progress:
    """lessons: {"01 patches": {exercise: (RIGHT, TRIED or OPEN, tries)}}. remark: about the file, if any."""

    lessons: dict
    remark: str = ""

    @property
    def headline(self):
        states = [s for exercises in self.lessons.values() for s, _tries in exercises.values()]
        return _("{right} of {total} exercises right").format(right=states.count(RIGHT), total=len(states))

    def _rows(self):
        """Yield (lesson, how many exercises are right, how many there are, what comes next)."""
        for lesson, exercises in self.lessons.items():
            right = sum(state == RIGHT for state, _tries in exercises.values())
            upcoming = (_state(name, *kept) for name, kept in exercises.items() if kept[0] != RIGHT)
            yield lesson, right, len(exercises), next(upcoming, "")

    @property
    def text(self):
        lines = [self.headline, ""]
        wide = max(map(len, self.lessons), default=0)  # letters of the longest name
        most = max(map(len, self.lessons.values()), default=0)  # exercises of a lesson
        for (lesson, right, total, upcoming), states in zip(self._rows(), self.lessons.values(), strict=True):
            marks = "".join(MARKS[state] for state, _tries in states.values())
            line = f"{lesson:{wide}} {marks:{most}} {_right_of(right, total)}"
            if upcoming:
                line += "   " + _("next: {exercise}").format(exercise=upcoming)
            lines.append(line)
        lines += ["", "   ".join(f"{mark} {_(WORDS[state])}" for state, mark in MARKS.items())]
        return "\n".join(lines + ([self.remark] if self.remark else []))

    def __str__(self):
        return self.text

    def _repr_mimebundle_(self, include=None, exclude=None):
        rows = "".join(
            f"<tr><th scope='row' style='text-align:left'>{html.escape(lesson)}</th>"
            f"<td>{html.escape(_right_of(right, total))}</td>"
            f"<td style='text-align:left'>{html.escape(upcoming)}</td></tr>"
            for lesson, right, total, upcoming in self._rows()
        )
        lesson, right, upcoming = (html.escape(word) for word in (_("lesson"), _("right"), _("next")))
        inside = (
            f"<p style='margin:0'><strong>{html.escape(self.headline)}</strong></p>{self._picture()}"
            f"<table><thead><tr><th scope='col' style='text-align:left'>{lesson}</th><th scope='col'>{right}</th>"
            f"<th scope='col' style='text-align:left'>{upcoming}</th></tr></thead><tbody>{rows}</tbody></table>"
        )
        if self.remark:
            inside += f"<p>{html.escape(self.remark)}</p>"
        return {"text/plain": self.text, "text/html": frame(inside, "#1565c0")}

    def _picture(self):
        """A row for each lesson, with a square for each exercise. Marks show its state as well as the colour."""
        size, parts = 22, []
        left = 15 + 7 * max(map(len, self.lessons))  # a letter is about 7 pixels wide
        for row, (lesson, exercises) in enumerate(self.lessons.items()):
            y = row * (size + 4)
            parts.append(f"<text x='0' y='{y + 16}'>{html.escape(lesson)}</text>")
            for column, (name, (state, _tries)) in enumerate(exercises.items()):
                x = left + column * (size + 4)
                fill = "#2e7d32" if state == RIGHT else "none"
                ink = "white" if state == RIGHT else "currentColor"
                dash = " stroke-dasharray='3 2'" if state == OPEN else ""
                parts.append(
                    f"<g><title>{html.escape(name)}: {html.escape(_(WORDS[state]))}</title>"
                    f"<rect x='{x}' y='{y + 1}' width='{size - 2}' height='{size - 2}' fill='{fill}' "
                    f"stroke='currentColor'{dash}/>"
                    f"<text x='{x + 10}' y='{y + 16}' text-anchor='middle' style='fill:{ink}'>{MARKS[state]}</text></g>"
                )
        width = left + max(map(len, self.lessons.values())) * (size + 4)
        height = len(self.lessons) * (size + 4)
        label = _("{headline}; the table below says the same in words").format(headline=self.headline)
        return (
            f"<svg role='img' aria-label='{html.escape(label)}' "
            f"width='{width}' height='{height}' font-size='13' style='fill:currentColor;margin:.5em 0;display:block'>"
            f"{''.join(parts)}</svg>"
        )


def _state(name, state, tries):
    """An exercise and how far it has come: "patchify (tried, not right yet, 3 tries)"."""
    said = _(WORDS[state])
    if tries > 1:
        said += ngettext(", {number} try", ", {number} tries", tries).format(number=tries)
    return f"{name} ({said})"


def _right_of(right, total):
    return _("{right} of {total}").format(right=right, total=total)
