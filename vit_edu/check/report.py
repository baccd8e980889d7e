"""What the checks of one exercise found, as text and as a page."""

import base64
import html
import io
import re
import sys
import textwrap
from dataclasses import dataclass, field

from vit_edu.check.compare import Worked, format_number
from vit_edu.check.language import N_, _

# What `Report.status` can be. Programs compare these; learners read their translations.
RIGHT, WRONG, EMPTY = N_("right"), N_("not yet"), N_("not attempted")
CRASHED, SLOW = N_("stopped with an error"), N_("took too long")
STOPPED_BY_HAND, UNCHECKED = N_("stopped by hand"), N_("could not be checked")

SHOWN_CHECKS = 3  # failed checks that a notebook shows open; the others are folded

COLOURS = {RIGHT: "#2e7d32", EMPTY: "#757575", UNCHECKED: "#757575"}


@dataclass(frozen=True)
class Check:
    """The result of one case.

    name: in English; translated when it is shown. message: in the learner's language, what was expected and what came; empty
    if the check passed.
    """

    name: str
    passed: bool
    message: str = ""
    rank: int = 0  # of a failed check; 0 is the most telling


@dataclass
class Report:
    """What the checks of one exercise found.

    name: of the exercise. status: "right", "not yet", "stopped with an error", "took too long", "stopped by hand",
    "not attempted" or "could not be checked". checks: passed ones included, in the order of the exercise.
    diagnosis: the known mistake that the answer behaves like, or the number that seems to be built in, or None. worked: the smallest case that fails, or None.
    note: a remark on a right answer. printed: what the candidate printed. has_hints: is there a hint worth asking for? is_reference: a right answer that is
    the course's own, or leaves its work to it, so that it does not count as solved. after: HTML that only a page shows, below a
    right answer; see `after.page`.
    """

    name: str
    status: str
    checks: list = field(default_factory=list)
    diagnosis: str | None = None
    worked: Worked | None = None
    note: str = ""
    printed: str = ""
    has_hints: bool = False
    is_reference: bool = False
    after: str = ""

    @property
    def passed(self):
        return self.status == RIGHT

    @property
    def failed(self):
        """The checks that failed, the most telling first."""
        return sorted((c for c in self.checks if not c.passed), key=lambda c: c.rank)

    @property
    def headline(self):
        count = _("{passed} of {total} checks passed").format(
            passed=sum(c.passed for c in self.checks), total=len(self.checks)
        )
        if self.status == RIGHT:
            return _("✓ {name}: right. {count}.").format(name=self.name, count=count)
        if self.status == EMPTY:
            return _(
                "○ {name}: not attempted yet. The reference is used instead, so the rest of the notebook works."
            ).format(name=self.name)
        if self.status == UNCHECKED:
            return _("○ {name}: could not be checked.").format(name=self.name)
        return _("✗ {name}: {status}. {count}.").format(name=self.name, status=_(self.status), count=count)

    @property
    def closing(self):
        """What the rest of the notebook uses, and where to get a hint; empty for a right answer."""
        if self.status == RIGHT:
            return ""
        parts = []
        if self.status != EMPTY:
            parts.append(
                _(
                    "Until it is right, the rest of the notebook uses the reference. Change the cell and run it again."
                )
            )
        if self.has_hints:
            parts.append(_('`check.hint("{name}")` gives a hint.').format(name=self.name))
        return " ".join(parts)

    @property
    def _passed_line(self):
        names = [_(c.name) for c in self.checks if c.passed]
        return (
            _("✓ passed ({number}): {names}").format(number=len(names), names="; ".join(names))
            if names
            else ""
        )

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
                lines.append(f"  {_('✗ failed')}: {_(c.name)}")
                lines += [f"      {line}" for line in c.message.splitlines()]
            if self._passed_line:
                lines.append(
                    textwrap.fill(self._passed_line, 88, initial_indent="  ", subsequent_indent="      ")
                )
        if self.closing:
            lines += ["", textwrap.fill(self.closing, 88)]
        if self.printed:
            lines += ["", _("Your code printed:"), self.printed]
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
            parts.append(self._checks_html())
        if self.closing:
            parts.append(_paragraph(self.closing))
        parts.append(self.after)
        if self.printed:
            parts.append(
                f"<p style='margin:.5em 0 0'>{html.escape(_('Your code printed:'))}</p>"
                f"<pre>{html.escape(self.printed)}</pre>"
            )
        return frame("".join(parts), COLOURS.get(self.status, "#c62828"))

    def _checks_html(self):
        """The failed checks as a list, all but the first few folded, and one line with those that passed."""
        shown = SHOWN_CHECKS if len(self.failed) > SHOWN_CHECKS + 1 else SHOWN_CHECKS + 1
        first, more = self.failed[:shown], self.failed[shown:]
        rows = "".join(map(_failed_html, first))
        if more:
            folded = _("{number} more failed: {names}").format(
                number=len(more), names="; ".join(_(c.name) for c in more)
            )
            rows += (
                f"<li><details><summary>{html.escape(folded)}</summary>"
                f"<ul style='padding-left:1.2em;list-style:none'>{''.join(map(_failed_html, more))}</ul></details></li>"
            )
        if self._passed_line:
            rows += f"<li style='margin:.2em 0'>{html.escape(self._passed_line)}</li>"
        return f"<ul style='margin:.5em 0;padding-left:1.2em;list-style:none'>{rows}</ul>"

    def show(self):
        show(self)


def _failed_html(check):
    return (
        f"<li style='margin:.2em 0'><strong>{html.escape(_('✗ failed'))}</strong>: {html.escape(_(check.name))}"
        "<pre style='margin:.2em 0 .4em;white-space:pre-wrap;word-break:normal'>"
        f"{html.escape(check.message)}</pre></li>"
    )


def inline(text):
    """Our own small markup as HTML: `code`, *word*, line breaks."""
    text = html.escape(text, quote=False).replace("\n", "<br>")
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*(\w+)\*", r"<em>\1</em>", text)


def _paragraph(text):
    return f"<p style='margin:.5em 0 0'>{inline(text)}</p>"


def frame(inside, colour):
    """A frame around HTML. Only its left edge is coloured; text and background are the theme's, light or dark."""
    return (
        f"<div role='status' style='border-left:.4em solid {colour};padding:.4em .8em;margin:.2em 0'>"
        f"{inside}</div>"
    )


def _worked_html(worked):
    given = html.escape(_("given {input}").format(input=worked.given))
    given = f"<p style='margin:.2em 0'>{given}</p>" if worked.given else ""
    expected, got = worked.headings
    tables = _table(expected, worked.expected, worked.digits)
    tables += _table(got, worked.got, worked.digits, worked.wrong)
    return (
        f"<p style='margin:.5em 0 .2em'><strong>{html.escape(worked.title)}</strong></p>{given}"
        f"<div style='display:flex;flex-wrap:wrap'>{tables}{_pictures(worked)}</div>"
    )


def _pictures(worked):
    """The complete matrices as grey pictures, if the tables show only a part of them."""
    if not worked.in_full:
        return ""
    expected, got = worked.in_full
    rows, columns = expected.shape
    low, high = expected.min().item(), expected.max().item()
    figures = ""
    for name, values in ((_("expected"), expected), (_("got"), got)):
        caption = _("{name}, all {rows} rows of {columns} numbers").format(
            name=name, rows=rows, columns=columns
        )
        alternative = _(
            "{name}: {rows} rows of {columns} numbers, black is {low:.3g}, white is {high:.3g}"
        ).format(name=name, rows=rows, columns=columns, low=low, high=high)
        figures += (
            f"<figure style='margin:0 1.5em .4em 0'><figcaption>{html.escape(caption)}</figcaption>"
            f"<img alt='{html.escape(alternative)}' "
            f"style='image-rendering:pixelated;height:{max(60, min(160, 4 * rows))}px;min-width:60px' "
            f"src='data:image/png;base64,{_png(values, low, high)}'></figure>"
        )
    return figures


def _table(name, values, digits, wrong=None):
    body = ""
    marks = wrong.tolist() if wrong is not None else [[False] * values.shape[1]] * len(values)
    for row, differs in zip(values.tolist(), marks, strict=True):
        cells = (
            f"<td><strong>{format_number(v, digits)}*</strong></td>"
            if d
            else f"<td>{format_number(v, digits)}</td>"
            for v, d in zip(row, differs, strict=True)
        )
        body += f"<tr>{''.join(cells)}</tr>"
    return f"<table style='margin:0 1.5em .4em 0'><caption style='text-align:left'>{html.escape(name)}</caption>{body}</table>"


def _png(values, low, high):
    """A grey picture of a matrix, as base64."""
    from PIL import Image

    grey = ((values.double() - low) / ((high - low) or 1)).nan_to_num().clamp(0, 1) * 255
    file = io.BytesIO()
    Image.fromarray(grey.byte().numpy()).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def show(thing):
    """Show something as a rich output in a notebook, and as text elsewhere."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    if shell is not None and hasattr(shell, "kernel"):
        from IPython.display import display

        display(thing)
    else:
        print(thing)
