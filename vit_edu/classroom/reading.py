"""Reads a notebook file as Jupyter would: from bytes to cells, and from the text of a cell to Python.

Jupyter cells may hold magics (`%time`), shell lines (`!ls`) and questions (`name?`). IPython's own transformer turns them into
Python where IPython is installed; elsewhere, the usual forms are read here, and a cell with any other is said to need IPython.
"""

import ast
import json
import re

SHOWN = 60  # characters of a file that are quoted

# Cell magics whose cell is Python that runs in the notebook's own namespace
TRANSPARENT = ("time", "capture", "prun")


class Unreadable(Exception):
    """A file or a cell cannot be read; the text says why, and what to do."""


# ---------------------------------------------------------------- files


def cells(data):
    """The cells of a notebook as a list of dicts, from the bytes of its file. `Unreadable` if there is no notebook in them.

    Reads UTF-8, UTF-16 and UTF-32, with or without a byte order mark, and the formats 2, 3 and 4 of Jupyter.
    """
    try:
        notebook = json.loads(data)
    except UnicodeDecodeError as error:
        raise Unreadable(
            _other(data)
            or f"this is not a notebook: byte {error.start:,} is not {error.encoding}. Save it in Jupyter, which writes UTF-8"
        ) from None
    except RecursionError:
        raise Unreadable("this is not a notebook: its parts are nested too deeply") from None
    except ValueError as error:
        raise Unreadable(_other(data) or f"this is not a notebook (no valid JSON: {error})") from None
    if isinstance(notebook, dict) and isinstance(notebook.get("worksheets"), list):  # formats 2 and 3
        sheets = [s.get("cells") if isinstance(s, dict) else None for s in notebook["worksheets"]]
        found = [cell for sheet in sheets if isinstance(sheet, list) for cell in sheet]
    else:
        found = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(found, list) or not all(isinstance(cell, dict) for cell in found):
        raise Unreadable("this is not a notebook: its JSON has no list of cells")
    return found


def _other(data):
    """What else the bytes of a file are, or ""."""
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not data.strip(b"\0 \t\r\n"):
        return "this is not a notebook: the file is empty"
    for mark, what in ((b"PK", "a ZIP archive"), (b"\x1f\x8b", "a gzip archive"), (b"%PDF", "a PDF")):
        if start.startswith(mark):
            return f"this is not a notebook: it is {what}. Check the *.ipynb that it was made from" + (
                "; unpack the archive first" if "archive" in what else ""
            )
    if start.startswith(b"version https://git-lfs"):
        return "this is not a notebook: it is a pointer of Git LFS. Fetch the file with `git lfs pull`"
    if re.search(rb"^<{7} ", data, re.M) and re.search(rb"^>{7} ", data, re.M):
        return "this is not a notebook: it holds the marks of a merge conflict in Git"
    if start.startswith(b"<"):
        return "this is not a notebook: it is a web page or another file with HTML or XML"
    return ""


def source(cell):
    """The text of a code cell, or None for a cell of another kind."""
    if cell.get("cell_type") != "code":
        return None
    text = cell.get("source", cell.get("input", ""))  # `input` in formats 2 and 3
    if isinstance(text, list):
        text = "".join(part for part in text if isinstance(part, str))
    return text.replace("\r\n", "\n").replace("\r", "\n") if isinstance(text, str) else ""


# ---------------------------------------------------------------- cells


def python(text):
    """The text of a cell as Python. `Unreadable` if it is not Python for the notebook, or needs IPython to be read.

    SyntaxError is left to whoever parses the result.
    """
    if magic := re.match(r"\s*%%(\w*)([^\n]*)\n?", text):
        if magic[1] not in TRANSPARENT:
            raise Unreadable(f"it is in a cell that begins with %%{magic[1]}")
        return "\n" * magic[0].count("\n") + python(text[magic.end() :])
    try:
        ast.parse(text)
        return text
    except (SyntaxError, ValueError):
        pass
    try:
        from IPython.core.inputtransformer2 import TransformerManager
    except ImportError:
        return _without_ipython(text)
    try:
        return TransformerManager().transform_cell(text)
    except SyntaxError:
        return text  # whoever parses it gets the error that the notebook shows


_NAME = r"%{0,2}[\w.*]+"
_SPECIAL = (
    (re.compile(rf"\?\??\s*({_NAME})\s*|({_NAME})\s*\?\??\s*"), lambda m: "pass"),
    (re.compile(r"!!?(.*)", re.S), lambda m: f"get_ipython().system({m[1].strip()!r})"),
    (
        re.compile(r"%(\w+)[ \t]*(.*)", re.S),
        lambda m: f"get_ipython().run_line_magic({m[1]!r}, {m[2].strip()!r})",
    ),
    (
        re.compile(r"([\w., \[\]'\"]+?)\s*=\s*!(.*)", re.S),
        lambda m: f"{m[1]} = get_ipython().getoutput({m[2].strip()!r})",
    ),
    (
        re.compile(r"([\w., \[\]'\"]+?)\s*=\s*%(\w+)[ \t]*(.*)", re.S),
        lambda m: f"{m[1]} = get_ipython().run_line_magic({m[2]!r}, {m[3].strip()!r})",
    ),
)


def _without_ipython(text):
    """The text with its magics, shell lines and questions turned into Python, one by one where Python stops reading.

    Only a line at which Python stops is changed, so lines inside strings and brackets stay as they are.
    """
    text = "\n".join(re.sub(r"^(>>> ?|\.\.\. ?)", "", line) for line in text.split("\n"))
    lines = text.split("\n")
    for _ in range(len(lines)):
        try:
            ast.parse("\n".join(lines))
            return "\n".join(lines)
        except (SyntaxError, ValueError) as error:
            at = (getattr(error, "lineno", None) or 1) - 1
        if at >= len(lines) or not _special(lines, at):
            break
    if any(re.match(r"\s*(?:[%!?]|[\w., ]+=\s*[%!])|.*\?\s*$", line) for line in lines):
        raise Unreadable("its cell needs IPython to be read, which is not installed here")
    return text


def _special(lines, at):
    """Turn the line at this index into Python, in place, with those that continue it. False if it is of no known form."""
    last = at
    while lines[last].endswith("\\") and last + 1 < len(lines):
        last += 1
    indent = re.match(r"\s*", lines[at])[0]
    whole = "".join(line.removesuffix("\\") for line in lines[at : last + 1]).strip()
    for form, write in _SPECIAL:
        if found := form.fullmatch(whole):
            lines[at : last + 1] = [indent + write(found)] + [""] * (last - at)
            return True
    return False
