"""What a learner has solved, kept in one small file: VIT_EDU_PROGRESS, else progress.json in the user's data folder.

VIT_EDU_PROGRESS=off keeps nothing.
"""

import contextlib
import datetime
import html
import json
import os
from dataclasses import dataclass

from vit_edu import settings
from vit_edu.atomic import write_whole
from vit_edu.check.report import RIGHT, frame

MARKS = {RIGHT: "✓", "tried": "✗", "open": "○"}
WORDS = {RIGHT: "right", "tried": "tried, not right yet", "open": "not attempted"}


def load():
    """({exercise: {"right": date or None, "tries": n}}, remark). A damaged file is set aside, and the remark says so."""
    file = settings.progress_file()
    if file is None or not file.exists():
        return {}, ""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))["exercises"]
        entries = {
            str(name): {"right": e["right"] and str(e["right"]), "tries": int(e["tries"])}
            for name, e in kept.items()
        }
    except OSError as error:
        return {}, f"{file} cannot be read: {error.strerror}."
    except (ValueError, KeyError, TypeError, AttributeError):
        aside = next(
            p
            for n in range(1, 10_000)
            if not (p := file.with_name(f"{file.stem}.damaged-{n}{file.suffix}")).exists()
        )
        with contextlib.suppress(OSError):
            os.replace(file, aside)
        return (
            {},
            f"The file of your progress was damaged. It is kept as {aside}; counting starts anew.",
        )
    return entries, ""


def add(report):
    """Note one answer of `@check.exercise`. Never raises: an exercise must not fail for want of a file."""
    if settings.progress_file() is None or report.status in ("not attempted", "could not be checked"):
        return
    with contextlib.suppress(OSError):
        entries, _ = load()
        entry = entries.setdefault(report.name, {"right": None, "tries": 0})
        entry["tries"] += 1
        if report.passed and not entry["right"]:
            entry["right"] = datetime.date.today().isoformat()
        write_whole(settings.progress_file(), json.dumps({"version": 1, "exercises": entries}, indent=1))


@dataclass
class Progress:
    """lessons: {"01 patches": {exercise: ("right", "tried" or "open", tries)}}. remark: about the file, if any."""

    lessons: dict
    remark: str = ""

    @property
    def headline(self):
        states = [s for exercises in self.lessons.values() for s, _ in exercises.values()]
        return f"{states.count(RIGHT)} of {len(states)} exercises right"

    def _rows(self):
        """(lesson, right, of, what comes next)"""
        for lesson, exercises in self.lessons.items():
            right = sum(s == RIGHT for s, _ in exercises.values())
            upcoming = [
                f"{n} ({WORDS[s] + (f', {tries} tries' if tries > 1 else '')})"
                for n, (s, tries) in exercises.items()
                if s != RIGHT
            ]
            yield lesson, right, len(exercises), upcoming[0] if upcoming else ""

    @property
    def text(self):
        lines = [self.headline, ""]
        for (lesson, right, of, upcoming), states in zip(self._rows(), self.lessons.values(), strict=True):
            marks = "".join(MARKS[s] for s, _ in states.values())
            lines.append(
                f"{lesson:16} {marks:10} {right} of {of}{'   next: ' + upcoming if upcoming else ''}"
            )
        lines += ["", "✓ right   ✗ tried, not right yet   ○ not attempted"]
        return "\n".join(lines + ([self.remark] if self.remark else []))

    def __str__(self):
        return self.text

    def _repr_mimebundle_(self, include=None, exclude=None):
        rows = "".join(
            f"<tr><th scope='row' style='text-align:left'>{html.escape(lesson)}</th><td>{right} of {of}</td>"
            f"<td style='text-align:left'>{html.escape(upcoming)}</td></tr>"
            for lesson, right, of, upcoming in self._rows()
        )
        inside = (
            f"<p style='margin:0'><strong>{self.headline}</strong></p>{self._picture()}"
            "<table><thead><tr><th scope='col' style='text-align:left'>lesson</th><th scope='col'>right</th>"
            f"<th scope='col' style='text-align:left'>next</th></tr></thead><tbody>{rows}</tbody></table>"
        )
        if self.remark:
            inside += f"<p>{html.escape(self.remark)}</p>"
        return {"text/plain": self.text, "text/html": frame(inside, "#1565c0")}

    def _picture(self):
        """One square an exercise, one row a lesson; marks as well as fillings."""
        size, left, parts = 22, 130, []
        for row, (lesson, exercises) in enumerate(self.lessons.items()):
            y = row * (size + 4)
            parts.append(f"<text x='0' y='{y + 16}'>{html.escape(lesson)}</text>")
            for column, (name, (state, _)) in enumerate(exercises.items()):
                x = left + column * (size + 4)
                fill = {RIGHT: "#2e7d32", "tried": "none", "open": "none"}[state]
                ink = "white" if state == RIGHT else "currentColor"
                dash = " stroke-dasharray='3 2'" if state == "open" else ""
                parts.append(
                    f"<g><title>{html.escape(name)}: {WORDS[state]}</title>"
                    f"<rect x='{x}' y='{y + 1}' width='{size - 2}' height='{size - 2}' fill='{fill}' "
                    f"stroke='currentColor'{dash}/>"
                    f"<text x='{x + 10}' y='{y + 16}' text-anchor='middle' style='fill:{ink}'>{MARKS[state]}</text></g>"
                )
        width = left + max(map(len, self.lessons.values())) * (size + 4)
        height = len(self.lessons) * (size + 4)
        return (
            f"<svg role='img' aria-label='{html.escape(self.headline)}; the table below has the same in words' "
            f"width='{width}' height='{height}' font-size='13' style='fill:currentColor;margin:.5em 0;display:block'>"
            f"{''.join(parts)}</svg>"
        )
