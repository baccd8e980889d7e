"""Runs and checks the answers in one notebook: `python -m vit_edu.classroom.answers NOTEBOOK`.

`submissions.py` starts this in a separate process, with limits, and reads one line of JSON for each answer.

Only what an answer needs is run: the statement in which `check.exercise` is used, and from all cells those statements that
define or change a name it uses. Plotting, training and downloading are skipped. What is run is run as the notebook runs it:
`check.exercise` itself sees the answer, below whatever decorators and by whatever name.
"""

import __future__

import ast
import asyncio
import contextlib
import inspect
import json
import linecache
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field

from vit_edu import check
from vit_edu.check import guard, session
from vit_edu.check.report import CRASHED, UNCHECKED
from vit_edu.classroom import keeper, reading

MEMORY = 4 * 2**30  # bytes that the process may allocate on top of what it starts with
FILE_SIZE = 16 * 2**20  # the most bytes of any file that it writes
NOT_CHECKED = "not checked"

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
# Methods by which a statement of its own changes what it is called on: `sizes.append(4)`
_CHANGING = {"add", "append", "extend", "insert", "pop", "remove", "setdefault", "sort", "reverse", "update"}


@dataclass
class Statement:
    """One statement of a cell.

    binds, changes, uses: the names that it defines, whose objects it changes, and that it reads. late: the names that are read
    only when a function that it defines is called. sure: does it define its names in any case? answers: does it use
    `check.exercise`? name: the exercise, if that can be told without running it.
    """

    node: ast.stmt
    file: str
    binds: set = field(default_factory=set)
    changes: set = field(default_factory=set)
    uses: set = field(default_factory=set)
    late: set = field(default_factory=set)
    sure: bool = True
    answers: bool = False
    name: str = ""
    flags: int = 0
    error: str = ""
    done: bool = False


@dataclass
class Trouble:
    """An answer that has no `Report`: status and error say why."""

    status: str
    error: str
    passed: bool = False


def statements(notebook):
    """All statements of the code cells of a notebook (a dict), and {exercise: Trouble} for cells that cannot be read."""
    found, broken, marks, flags = [], {}, {"exercise"}, 0
    for number, cell in enumerate(notebook["cells"], start=1):
        text = reading.source(cell)
        if text is None:
            continue
        file = f"<cell {number}>"
        try:
            source = reading.python(text)
            linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
            tree = ast.parse(source, file)
        except reading.Unreadable as error:
            broken |= dict.fromkeys(_answered(text, marks), Trouble(NOT_CHECKED, str(error)))
            continue
        except (SyntaxError, ValueError) as error:
            words = f"{type(error).__name__}: {getattr(error, 'msg', error)}"
            if line := getattr(error, "lineno", None):
                words += f", line {line}: {(error.text or '').strip()}"
            broken |= dict.fromkeys(_answered(text, marks), Trouble(CRASHED, words))
            continue
        for node in _Magics().visit(tree).body:
            ast.fix_missing_locations(node)
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                for alias in node.names:
                    flags |= getattr(getattr(__future__, alias.name, None), "compiler_flag", 0)
            statement = _statement(node, file, marks)
            statement.flags = flags
            found.append(statement)
    return found, broken


def _answered(text, marks):
    """The exercises that a cell answers, as far as its text shows, for a cell that Python cannot read."""
    mark = rf"(?:[\w.]+\.)?(?:{'|'.join(map(re.escape, marks))})"
    below = (
        rf"^[ \t]*@[ \t]*{mark}\b[^\n]*\n(?:[ \t]*(?:[@#][^\n]*)?\n)*[ \t]*(?:async\s+)?(?:def|class)\s+(\w+)"
    )
    names = re.findall(below, text, re.M) + re.findall(rf"{mark}\(\s*(\w+)\s*\)", text)
    return [name for name in names if name in check.names()]


class _Magics(ast.NodeTransformer):
    """Turns those magics that only measure or import into the Python that they run."""

    def visit_Expr(self, node):
        name, code = _line_magic(node.value)
        if name == "time":
            with contextlib.suppress(SyntaxError):
                return [self.visit(n) for n in _moved(ast.parse(code), node).body] or ast.Pass()
        if name == "pylab":
            code = "from pylab import *\nimport numpy as np\nimport matplotlib.pyplot as plt"
            return _moved(ast.parse(code), node).body
        return self.generic_visit(node)

    def visit_Call(self, node):
        name, code = _line_magic(node)
        if name == "time":
            with contextlib.suppress(SyntaxError):
                return _moved(ast.parse(code, mode="eval"), node).body
        return self.generic_visit(node)


def _line_magic(node):
    """(name, rest of the line) of a call get_ipython().run_line_magic(name, rest), else ("", "")."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "get_ipython().run_line_magic":
        with contextlib.suppress(ValueError, TypeError):
            name, rest = (ast.literal_eval(a) for a in node.args)
            return name, rest
    return "", ""


def _moved(tree, place):
    for node in ast.walk(tree):
        if hasattr(node, "lineno"):
            ast.copy_location(node, place)
    return tree


def _statement(node, file, marks):
    """The `Statement` of a node; a name that it gives to `check.exercise` is added to marks."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        marks |= {a.asname for a in node.names if a.name == "exercise" and a.asname}
        if ast.unparse(node) == "from vit_edu import check":
            return Statement(node, file)  # it is there from the start
        return Statement(node, file, {(a.asname or a.name).split(".")[0] for a in node.names})
    here = Statement(node, file)
    _look(node, here, marks, now=True)
    if isinstance(node, _DEFINITIONS):
        if here.answers and any(_is_mark(d, marks) for d in node.decorator_list):
            here.name = node.name
        elif not here.answers and not isinstance(node, ast.ClassDef) and _mentions(node, marks):
            marks.add(node.name)  # a decorator of the notebook's own, which uses ours
    elif isinstance(node, _ASSIGNMENTS):
        called = isinstance(node.value, ast.Call) and _is_mark(node.value.func, marks)
        if called and len(node.value.args) == 1 and isinstance(node.value.args[0], ast.Name):
            here.name = node.value.args[0].id
        elif node.value is not None and not called and _mentions(node.value, marks):
            marks |= here.binds
    else:
        here.sure = isinstance(node, ast.With | ast.Expr)
    return here


def _look(node, here, marks, now):
    """Add to `here` what a node defines, changes and reads; now: when the statement runs, and not in a later call."""
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load):
            (here.uses if now else here.late).add(node.id)
        elif now:
            here.binds.add(node.id)
    if now and isinstance(node, ast.Name | ast.Attribute) and _is_mark(node, marks):
        here.answers = True
    if now and isinstance(node, ast.Import | ast.ImportFrom):
        here.binds |= {(a.asname or a.name).split(".")[0] for a in node.names}
    if now and isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
        here.changes |= _root(node)
    if now and isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        method = node.value.func
        here.changes |= (
            _root(method) if isinstance(method, ast.Attribute) and method.attr in _CHANGING else set()
        )
    if now and isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        here.uses.add(node.target.id)
    if isinstance(node, _DEFINITIONS) and now:
        here.binds.add(node.name)
    deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    inner = node.body if isinstance(getattr(node, "body", None), list) else [getattr(node, "body", None)]
    for child in ast.iter_child_nodes(node):
        in_class = isinstance(node, ast.ClassDef) and child in inner
        before = set(here.binds), here.answers
        _look(child, here, marks, now and not (deferred and child in inner))
        if in_class:  # the names of a class's members are not the notebook's
            here.binds = before[0]


def _is_mark(node, marks):
    if isinstance(node, ast.Call):  # @mine("a remark")
        return _is_mark(node.func, marks)
    return (isinstance(node, ast.Attribute) and node.attr == "exercise") or (
        isinstance(node, ast.Name) and node.id in marks
    )


def _mentions(node, marks):
    return any(isinstance(n, ast.Name | ast.Attribute) and _is_mark(n, marks) for n in ast.walk(node))


def _root(node):
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def needed(found, index):
    """The indices of the statements that the one at `index` needs, itself included, in order."""
    wanted, todo = set(), [index]
    while todo:
        here = todo.pop()
        if here in wanted:
            continue
        wanted.add(here)
        for name in found[here].uses | found[here].late:
            above = _definitions(found, name, here)
            if name in found[here].late or not above:  # a call later on also sees what is defined below
                above = above | _definitions(found, name, index)
            first = min(above, default=index)
            todo += above | {i for i in range(first, index) if name in found[i].changes}
    stars = {i for i in range(index) if "*" in found[i].binds}
    return sorted(wanted | stars)


def _definitions(found, name, end):
    """The last statement before `end` that defines a name, and those before it that count if it does not do so in any case."""
    indices = set()
    for i in reversed(range(end)):
        if name in found[i].binds:
            indices.add(i)
            if found[i].sure:
                break
    return indices


def check_all(notebook):
    """Yield (exercise, `Report` or `Trouble`) for every answer in a notebook (a dict).

    Of two answers to one exercise, the last counts, and comes last.
    """
    found, broken = statements(notebook)
    last = {s.name: i for i, s in enumerate(found) if s.name}
    space = _notebook_names()
    for name, trouble in broken.items():
        if name not in last:
            yield name, trouble
    for index, statement in enumerate(found):
        if not statement.answers or last.get(statement.name, index) > index:
            continue
        before = dict(session.last)
        needs = needed(found, index)
        for i in needs:
            _run(found[i], space)
        new = {name: report for name, report in session.last.items() if before.get(name) is not report}
        missing = next(
            (found[i].error for i in needs if found[i].error.startswith("ModuleNotFoundError")), ""
        )
        for name, report in new.items():
            if report.status == UNCHECKED:
                yield name, Trouble(NOT_CHECKED, report.checks[0].message if report.checks else "")
            elif missing and not report.passed:
                yield name, Trouble(NOT_CHECKED, f"it needs what is not installed here ({missing})")
            else:
                yield name, report
        if statement.name and not new:
            error = statement.error or "the notebook replaces check.exercise, so the answer did not reach it"
            status = CRASHED if statement.error and not missing else NOT_CHECKED
            yield statement.name, Trouble(status, missing or error)


def _notebook_names():
    """The names that every notebook has from the start."""
    return {"__name__": "__main__", "check": check, "display": _show_nothing, "get_ipython": _Shell}


def _show_nothing(*things, **options):
    """Stands for the notebook's `display`: what a notebook shows is not looked at here."""


class _Shell:
    """Stands for the notebook's shell in code that IPython's transformer made: it runs shell lines and ignores magics."""

    def getoutput(self, command):
        done = subprocess.run(command, shell=True, capture_output=True, stdin=subprocess.DEVNULL)
        return (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()

    def system(self, command):
        self.getoutput(command)

    def __getattr__(self, name):
        return lambda *args, **options: None


def _run(statement, space):
    if statement.done:
        return
    statement.done = True
    module = ast.Module([statement.node], [])
    try:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | statement.flags
        with guard.preserved():
            code = compile(module, statement.file, "exec", flags)
            waits = code.co_flags & inspect.CO_COROUTINE
            value = eval(code, space)
            if waits:
                asyncio.run(value)
    except BaseException as error:  # if the answer needed this, its check will show it
        words = error.args[0] if isinstance(error, KeyError) and error.args else error
        statement.error = f"{type(error).__name__}: {words}"[:300]


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
    keeper.end_with_parent()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)

    def say(**line):
        out.write(json.dumps(line) + "\n")
        out.flush()

    try:
        with open(path, "rb") as file:
            notebook = {"cells": reading.cells(file.read())}
    except reading.Unreadable as error:
        say(unreadable=str(error))
        return
    except Exception as error:
        say(unreadable=f"cannot be read ({type(error).__name__}: {error})")
        return
    _limits()
    sys.path.append(os.path.dirname(path))  # last, so that what lies beside the notebook hides no package
    try:
        for name, found in check_all(notebook):
            if isinstance(found, Trouble):
                say(exercise=name, status=found.status, error=found.error, checks=[])
            else:
                checks = [[c.name, c.passed, c.message] for c in found.checks]
                say(exercise=name, status=found.status, diagnosis=found.diagnosis, checks=checks)
        say(end=True)
    except BaseException as error:
        say(unreadable=f"its cells cannot be run ({type(error).__name__})")
    os._exit(0)  # without waiting for threads that an answer left behind


if __name__ == "__main__":
    main(sys.argv[1])
