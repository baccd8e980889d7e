"""What the checks of one exercise found, as text and as a page."""

import base64
import html
import io
import re
import sys
import textwrap
from dataclasses import dataclass, field

from vit_edu.check.compare import Worked, number

RIGHT, WRONG, EMPTY = "right", "not yet", "not attempted"
CRASHED, SLOW = "stopped with an error", "took too long"
STOPPED, UNCHECKED = "stopped by hand", "could not be checked"

SHOWN_CHECKS = 3  # failed ones that stand open in a notebook; the others are folded

COLOURS = {RIGHT: "#2e7d32", EMPTY: "#757575", UNCHECKED: "#757575"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. message: empty where it passed, else what was expected and what came."""

    name: str
    passed: bool
    message: str = ""
    rank: int = 0  # of a failed one: 0 says most


@dataclass
class Report:
    """What the checks of one exercise found.

    name: of the exercise. status: "right", "not yet", "stopped with an error", "took too long", "stopped by hand",
    "not attempted" or "could not be checked". checks: all of them, also those that passed, in the order of the exercise.
    diagnosis: the known mistake that the answer behaves like, or None. worked: the smallest case that fails, or None.
    note: a remark on a right answer. printed: what the candidate printed.
    """

    name: str
    status: str
    checks: list = field(default_factory=list)
    diagnosis: str | None = None
    worked: Worked | None = None
    note: str = ""
    printed: str = ""
    hints: bool = False

    @property
    def passed(self):
        return self.status == RIGHT

    @property
    def failed(self):
        """The checks that failed, the most telling first."""
        return sorted((c for c in self.checks if not c.passed), key=lambda c: c.rank)

    @property
    def headline(self):
        count = f"{sum(c.passed for c in self.checks)} of {len(self.checks)} checks passed"
        if self.status == RIGHT:
            return f"✓ {self.name}: right. {count}."
        if self.status == EMPTY:
            return f"○ {self.name}: not attempted yet. The reference stands in, so the rest of the notebook works."
        if self.status == UNCHECKED:
            return f"○ {self.name}: could not be checked."
        return f"✗ {self.name}: {self.status}. {count}."

    @property
    def closing(self):
        """What the rest of the notebook goes on with, where that needs saying."""
        if self.status == RIGHT:
            return ""
        hint = f'`check.hint("{self.name}")` gives a hint.' if self.hints else ""
        if self.status == EMPTY:
            return hint
        stands_in = "Until it is right, the rest of the notebook uses the reference."
        return f"{stands_in} Change the cell and run it again. {hint}".strip()

    @property
    def _passed_line(self):
        names = [c.name for c in self.checks if c.passed]
        return f"✓ passed ({len(names)}): {'; '.join(names)}" if names else ""

    @property
    def text(self):
        """The whole answer as plain text."""
        lines = [self.headline]
        for part in (self.diagnosis, self.note):
            lines += ["", textwrap.fill(part, 88)] if part else []
        if self.worked:
            lines += ["", self.worked.text]
        if self.failed:
            lines.append("")
            for c in self.failed:
                lines.append(f"  ✗ failed: {c.name}")
                lines += [f"      {line}" for line in c.message.splitlines()]
            if self._passed_line:
                lines.append(
                    textwrap.fill(self._passed_line, 88, initial_indent="  ", subsequent_indent="      ")
                )
        if self.closing:
            lines += ["", textwrap.fill(self.closing, 88)]
        if self.printed:
            lines += ["", "Your code printed:", self.printed]
        return "\n".join(lines)

    def __str__(self):
        return self.text

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": self.text, "text/html": self._html()}

    def _html(self):
        parts = [f"<p style='margin:0'><strong>{html.escape(self.headline)}</strong></p>"]
        for told in (self.diagnosis, self.note):
            parts += [_paragraph(told)] if told else []
        if self.worked:
            parts.append(_worked_html(self.worked))
        if self.failed:
            shown = SHOWN_CHECKS if len(self.failed) > SHOWN_CHECKS + 1 else SHOWN_CHECKS + 1
            first, more = self.failed[:shown], self.failed[shown:]
            rows = "".join(map(_failed_html, first))
            if more:
                rows += (
                    f"<li><details><summary>{len(more)} more failed: "
                    f"{html.escape('; '.join(c.name for c in more))}</summary>"
                    f"<ul style='padding-left:1.2em;list-style:none'>{''.join(map(_failed_html, more))}</ul></details></li>"
                )
            if self._passed_line:
                rows += f"<li style='margin:.2em 0'>{html.escape(self._passed_line)}</li>"
            parts.append(f"<ul style='margin:.5em 0;padding-left:1.2em;list-style:none'>{rows}</ul>")
        if self.closing:
            parts.append(_paragraph(self.closing))
        if self.printed:
            parts.append(
                f"<p style='margin:.5em 0 0'>Your code printed:</p><pre>{html.escape(self.printed)}</pre>"
            )
        return frame("".join(parts), COLOURS.get(self.status, "#c62828"))

    def show(self):
        show(self)


def _failed_html(check):
    return (
        f"<li style='margin:.2em 0'><strong>✗ failed</strong>: {html.escape(check.name)}"
        "<pre style='margin:.2em 0 .4em;white-space:pre-wrap;word-break:normal'>"
        f"{html.escape(check.message)}</pre></li>"
    )


def inline(text):
    """Our own small markup as HTML: `code`, *word*, line ends."""
    text = html.escape(text, quote=False).replace("\n", "<br>")
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*(\w+)\*", r"<em>\1</em>", text)


def _paragraph(text):
    return f"<p style='margin:.5em 0 0'>{inline(text)}</p>"


def frame(inside, colour):
    """Only the left edge has a colour of its own: text and ground are the theme's, light or dark."""
    return (
        f"<div role='status' style='border-left:.4em solid {colour};padding:.4em .8em;margin:.2em 0'>"
        f"{inside}</div>"
    )


def _worked_html(worked):
    title = html.escape(f"Worked case: {worked.case}{worked.where}")
    given = f"<p style='margin:.2em 0'>given {html.escape(worked.given)}</p>" if worked.given else ""
    tables = _table("expected", worked.expected) + _table("got (* differs)", worked.got, worked.wrong)
    pictures = ""
    if worked.whole:
        expected, got = worked.whole
        rows, columns = expected.shape
        low, high = expected.min().item(), expected.max().item()
        pictures = "".join(
            f"<figure style='margin:0 1.5em .4em 0'><figcaption>{name}, all {rows} rows of {columns}</figcaption>"
            f"<img alt='{name}: {rows} rows of {columns} numbers, black is {low:.3g}, white is {high:.3g}' "
            f"style='image-rendering:pixelated;height:{max(60, min(160, 4 * rows))}px;min-width:60px' "
            f"src='data:image/png;base64,{_png(values, low, high)}'></figure>"
            for name, values in (("expected", expected), ("got", got))
        )
    return (
        f"<p style='margin:.5em 0 .2em'><strong>{title}</strong></p>{given}"
        f"<div style='display:flex;flex-wrap:wrap'>{tables}{pictures}</div>"
    )


def _table(name, values, wrong=None):
    body = ""
    marks = wrong.tolist() if wrong is not None else [[False] * values.shape[1]] * len(values)
    for row, differs in zip(values.tolist(), marks, strict=True):
        cells = (
            f"<td><strong>{number(v)}*</strong></td>" if d else f"<td>{number(v)}</td>"
            for v, d in zip(row, differs, strict=True)
        )
        body += f"<tr>{''.join(cells)}</tr>"
    return f"<table style='margin:0 1.5em .4em 0'><caption style='text-align:left'>{name}</caption>{body}</table>"


def _png(values, low, high):
    """A grey picture of a matrix, as base64."""
    from PIL import Image

    grey = ((values.double() - low) / ((high - low) or 1)).nan_to_num().clamp(0, 1) * 255
    file = io.BytesIO()
    Image.fromarray(grey.byte().numpy()).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def show(thing):
    """Show something rich in a notebook, as text elsewhere."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    if shell is not None and hasattr(shell, "kernel"):
        from IPython.display import display

        display(thing)
    else:
        print(thing)
