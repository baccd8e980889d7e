"""Runs and checks the answers in one notebook: `python -m vit_edu.classroom.answers NOTEBOOK`.

`submissions.py` starts this in a separate process, with limits, and reads one line of JSON for each answer.

Only what an answer needs is run: the function or class below `@check.exercise`, and from all other cells those statements
that define a name it uses. Plotting, training and downloading are skipped.
"""

import ast
import contextlib
import json
import linecache
import os
import re
import sys
from dataclasses import dataclass, field

from vit_edu import check
from vit_edu.check import guard

MEMORY = 4 * 2**30  # bytes that the process may allocate on top of what it starts with
FILE_SIZE = 16 * 2**20  # the most bytes of any file that it writes


@dataclass
class Statement:
    """One statement of a cell: what it binds, what it uses, and the exercise that it answers, if any."""

    node: ast.stmt
    file: str
    binds: set
    uses: set
    answers: str = ""
    error: str = ""
    done: bool = field(default=False)


def statements(notebook):
    """All statements of the code cells of a notebook (a dict), and {exercise: message} for cells that cannot be read."""
    found, unreadable = [], {}
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell.get("cell_type") != "code":
            continue
        source = cell.get("source", "")
        source = _python("".join(source) if isinstance(source, list) else source)
        file = f"<cell {number}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        try:
            tree = ast.parse(source, file)
        except SyntaxError as error:
            for name in re.findall(r"^@check\.exercise\s+(?:def|class)\s+(\w+)", source, re.M):
                unreadable[name] = (
                    f"SyntaxError: {error.msg}, line {error.lineno}: {(error.text or '').strip()}"
                )
            continue
        found += [_statement(node, file) for node in tree.body]
    return found, unreadable


def _python(source):
    """The source without magics and shell lines, which the notebook understands and Python does not."""
    if re.match(r"\s*%%", source):
        return ""
    return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source)


def _statement(node, file):
    answers = ""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        marks = [d for d in node.decorator_list if ast.unparse(d).endswith("exercise")]
        node.decorator_list = [d for d in node.decorator_list if d not in marks]
        answers = node.name if marks else ""
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    uses = {n.id for n in names if isinstance(n.ctx, ast.Load)}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return Statement(node, file, {(a.asname or a.name).split(".")[0] for a in node.names}, uses)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return Statement(node, file, {node.name}, uses, answers)
    binds = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        inner = [n for n in ast.walk(node) if isinstance(n, ast.stmt) and n is not node]
        for n in inner:
            binds |= _statement(n, file).binds if not isinstance(n, ast.Expr) else set()
    return Statement(node, file, binds, uses | (binds if isinstance(node, ast.AugAssign) else set()))


def needed(found, index):
    """The indices of the statements that the one at `index` needs, itself included, in order."""
    wanted, todo = set(), [index]
    while todo:
        here = todo.pop()
        if here in wanted:
            continue
        wanted.add(here)
        for name in found[here].uses:
            # The last definition above it; a function may also use what is defined below
            above = [i for i in range(here) if name in found[i].binds]
            below = [i for i in range(here + 1, index) if name in found[i].binds]
            todo += above[-1:] or below[:1]
    stars = {i for i in range(index) if "*" in found[i].binds}
    return sorted(wanted | stars)


def check_all(notebook):
    """Yield (exercise, Report or a message) for every answer in a notebook. Of two answers to one exercise, the last counts."""
    found, unreadable = statements(notebook)
    last = {s.answers: i for i, s in enumerate(found) if s.answers}
    space = {"__name__": "__main__", "check": check}
    for name, message in unreadable.items():
        if name not in last:
            yield name, message
    for name, index in last.items():
        for i in needed(found, index):
            _run(found[i], space)
        if found[index].error:
            yield name, found[index].error
            continue
        try:
            report = check.run(name, space[name])
        except KeyError as error:
            yield name, str(error.args[0])
            continue
        if not report.passed:
            space[name] = check.get(name).reference
        yield name, report


def _run(statement, space):
    if statement.done:
        return
    statement.done = True
    module = ast.Module([statement.node], [])
    try:
        with guard.preserved():
            exec(compile(module, statement.file, "exec"), space)
    except BaseException as error:  # if the answer needed this, its check will show it
        statement.error = f"{type(error).__name__}: {error}"[:300]


def _limits():
    """Limit memory and the size of files, and forbid core dumps, if the platform has such limits."""
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
        with open("/proc/self/statm", encoding="utf-8") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def main(path):
    """Write a line of JSON for every answer to the original standard output. What the notebook prints is discarded."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)

    def say(**line):
        out.write(json.dumps(line) + "\n")
        out.flush()

    try:
        with open(path, encoding="utf-8") as file:
            notebook = json.load(file)
        cells = notebook["cells"]
        assert isinstance(cells, list)
        assert all(isinstance(c, dict) for c in cells)
    except Exception as error:
        say(unreadable=f"this is not a notebook ({type(error).__name__})")
        return
    _limits()
    try:
        for name, found in check_all(notebook):
            if isinstance(found, str):
                say(exercise=name, status="stopped with an error", error=found, checks=[])
            else:
                checks = [[c.name, c.passed, c.message] for c in found.checks]
                say(exercise=name, status=found.status, diagnosis=found.diagnosis, checks=checks)
        say(end=True)
    except BaseException as error:
        say(unreadable=f"its cells cannot be run ({type(error).__name__})")
    os._exit(0)  # without waiting for threads that an answer left behind


if __name__ == "__main__":
    main(sys.argv[1])
