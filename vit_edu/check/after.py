"""What a page shows below a right answer: another way to write it, a mistake that is easily made, and what comes next.

The other way is the course's. It is read from the notebook in solutions/ where that is found, because there it has exactly the
arguments of the exercise, whereas the package's own classes often have more. Without that notebook it is the package's code.
"""

import ast
import html
import inspect
import json
import os
import textwrap
import urllib.parse
from pathlib import Path

from vit_edu import settings
from vit_edu.check import keep, texts
from vit_edu.check.language import _
from vit_edu.check.report import inline

MARKERS = ("### BEGIN SOLUTION", "### END SOLUTION")


def page(name, candidate, reference):
    """HTML to show below a right answer: two folded parts, and what comes next.

    The course's answer is left out if it is the candidate's own, whatever the comments.
    """
    parts = []
    own = _source(candidate, name)  # first, because whatever is read later could be taken for a cell
    code, origin = _in_solutions(name)
    if not code:
        code, origin = _in_package(reference)
    if code and not _same(code, own):
        parts.append(_folded(_("Another way to write it"), f"{_paragraph(origin)}{_code(code)}"))
    if mistake := texts.easily_made(name):
        said = (
            inline(_("If your answer had it, you would read here:")),
            inline(texts.mistake(name, mistake)[0]),
        )
        parts.append(_folded(_("A mistake that is easily made here"), "".join(map(_paragraph, said))))
    return "".join(parts) + _paragraph(_next(name))


# ---------------------------------------------------------------- the course's answer


def notebook(exercise):
    """The name of the notebook with this exercise, such as "03_attention.ipynb"; it is the same in lessons/ and solutions/."""
    return next(f"{name}.ipynb" for name, held in texts.notebooks().items() if exercise in held)


def solutions_link(exercise):
    """HTML that names the notebook with the answer, as a link if a notebook in this folder can lead there."""
    name, root = f"solutions/{notebook(exercise)}", _root()
    if root is None or not (root / name).exists() or not Path.cwd().is_relative_to(root):
        return html.escape(name)
    return _link(os.path.relpath(root / name), name)


def _root():
    try:
        return settings.course_root()
    except OSError:  # the current folder is gone, or may not be read
        return None


def _in_solutions(exercise):
    """(code, HTML that says where it is from) of the answer in solutions/; both are empty if there is none that can be read."""
    root = _root()
    if root is None:
        return "", ""
    try:
        cells = json.loads((root / "solutions" / notebook(exercise)).read_text(encoding="utf-8"))["cells"]
        written = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError):  # missing, or no longer a notebook
        return "", ""
    answers = (_definition(text, exercise) for text in written if MARKERS[0] in text)
    origin = html.escape(_("This is the answer in {notebook}:")).format(notebook=solutions_link(exercise))
    return next(filter(None, answers), ""), origin


def _in_package(reference):
    try:
        code = textwrap.dedent(inspect.getsource(reference))
    except (OSError, TypeError):
        return "", ""
    origin = _(
        "This is the course's own code, in `{module}`. It may have options that you were not asked for:"
    )
    return _definition(code, reference.__name__), inline(origin.format(module=reference.__module__))


def _definition(text, name):
    """The function or class of that name in some Python, without decorators, docstrings and nbgrader's markers, or ""."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return ""
    lines = text.split("\n")  # not splitlines(), which also ends lines where Python does not
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            left_out = _docstring_lines(node, lines)
            kept = [
                line
                for number, line in enumerate(lines[node.lineno - 1 : node.end_lineno], node.lineno)
                if number not in left_out and line.strip() not in MARKERS
            ]
            return "\n".join(kept)
    return ""


def _docstring_lines(tree, lines):
    """The numbers of the lines that hold nothing but docstrings, and of an empty line that follows one."""
    found = set()
    for node in ast.walk(tree):
        documented = isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None
        if documented and len(node.body) > 1:
            text, following = node.body[:2]
            if node.lineno < text.lineno and text.end_lineno < following.lineno:
                empty = not lines[text.end_lineno].strip()
                found |= set(range(text.lineno, text.end_lineno + 1 + empty))
    return found


def _source(candidate, name):
    try:
        return _definition(keep.definition(candidate, name)[0], name)
    except keep.NotKept:  # it was not written in a cell or a file that can be read again
        return ""


def _same(code, other):
    """Is it the same code, apart from comments and empty lines?"""
    return ast.dump(ast.parse(code)) == ast.dump(ast.parse(other))


# ---------------------------------------------------------------- HTML


def _next(exercise):
    """What to do next: the next exercise of the notebook, or the rest of it and then the next notebook."""
    notebooks = texts.notebooks()
    here = notebook(exercise).removesuffix(".ipynb")
    rest = notebooks[here]
    if following := rest[rest.index(exercise) + 1 :]:
        return inline(_("Next: the exercise `{name}`, below.").format(name=following[0]))
    later = list(notebooks)[list(notebooks).index(here) + 1 :]
    if not later:
        return inline(_("This was the last exercise of the course. `check.progress()` shows them all."))
    number, name = later[0].split("_", 1)
    title, file = f"{number} {_(name.replace('_', ' '))}", f"{later[0]}.ipynb"
    title = _link(file, title) if Path(file).exists() else html.escape(title)
    return html.escape(_("Next: the rest of this lesson, and then {lesson}.")).format(lesson=title)


def _link(path, text):
    address = urllib.parse.quote(Path(path).as_posix())
    return f'<a href="{address}">{html.escape(text)}</a>'


def _folded(summary, inside):
    return (
        f"<details style='margin:.5em 0 0'><summary style='cursor:pointer'>{html.escape(summary)}</summary>"
        f"<div style='margin:0 0 0 1.2em'>{inside}</div></details>"
    )


def _paragraph(inside):
    return f"<p style='margin:.5em 0 0'>{inside}</p>"


def _code(code):
    return (
        f"<pre style='margin:.5em 0;white-space:pre;overflow-x:auto'><code>{html.escape(code)}</code></pre>"
    )
