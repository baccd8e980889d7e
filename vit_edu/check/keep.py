"""Keeps right answers as readable Python, so that they outlive the session: one file for each lesson.

An answer is kept with the imports and the helpers that it needs, in a part of its own below a line that names it. Names of
other exercises are imported from `vit_edu.mine`, which runs what is kept here.
"""

import ast
import builtins
import contextlib
import datetime
import importlib
import inspect
import linecache
import os
import re
import symtable
import sys
import textwrap
import time
import types
from dataclasses import dataclass
from pathlib import Path

import vit_edu
from vit_edu import atomic, settings
from vit_edu.check import guard, texts
from vit_edu.check.language import Sentence, _

PATIENCE = 5.0  # seconds to wait for another kernel that writes the same file

PREFACE = '''"""My answers to lesson {lesson}, {title}, as the checker found them right. `from vit_edu import mine` runs them.

You may edit this file. Each answer is checked again before it is used; if it is not right, the course's takes its place.
"""
'''
BANNER = re.compile(r"^# %% (?P<name>\w+), right on (?P<date>\S+) with vit_edu (?P<version>\S+)\n", re.M)

live = {}  # exercise -> the last right answer of this session
unkept = {}  # exercise -> why that answer is not in a file


class NotKept(Exception):
    """An answer cannot be written down so that it runs elsewhere. Its only argument is a `Sentence` that says why."""


@dataclass(frozen=True)
class Kept:
    """One answer in a file. name: of the exercise. date, version: when it was right, and with which version of the course.
    code: Python that defines the name. line: the line of the file before the first of the code."""

    name: str
    date: str
    version: str
    code: str
    line: int = 0

    def __str__(self):
        return f"# %% {self.name}, right on {self.date} with vit_edu {self.version}\n\n{self.code.strip()}\n"


def folder():
    """Where answers are kept, or None where they are not.

    They are kept for somebody who sits at the kernel and could answer a question. A notebook that a program runs, such as one
    of a class's submissions, is not this user's work; there, only a folder that VIT_EDU_MINE names is used, and none under
    nbgrader. None also where there is no home folder.
    """
    if os.environ.get("NBGRADER_EXECUTION") or not (settings.mine_asked() or _somebody_is_here()):
        return None
    try:
        return settings.mine_folder()
    except settings.NoHome:
        return None


def _somebody_is_here():
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    return shell is not None and (kernel is None or bool(getattr(kernel, "_allow_stdin", False)))


def file_of(lesson):
    """The file of a lesson ("03"), or None if nothing is kept."""
    inside = folder()
    return inside and inside / f"lesson_{lesson}.py"


# ---------------------------------------------------------------- writing


def add(report, candidate):
    """Keep a right answer, if it is the learner's own. Returns a remark for the learner if it could not be kept, else ""."""
    name = report.name
    if not report.passed or report.is_reference:
        return ""
    live[name] = candidate
    unkept.pop(name, None)
    lesson = texts.exercises().get(name)
    file = file_of(lesson) if lesson else None
    if file is None:
        return ""
    try:
        code = source(candidate, name)
        _write(file, lesson, Kept(name, datetime.date.today().isoformat(), vit_edu.__version__, code))
    except NotKept as error:
        unkept[name] = error.args[0]
    except OSError as error:
        unkept[name] = Sentence(
            "{file} cannot be written ({reason})", file=str(file), reason=error.strerror or str(error)
        )
    else:
        return ""
    return _("`mine.{name}` will know this answer in this session only: {reason}.").format(
        name=name, reason=unkept[name]
    )


def _write(file, lesson, answer):
    """Put an answer into its file, in the place of an older one. The others stay as they are."""
    held, until = None, time.monotonic() + PATIENCE
    while held is None and time.monotonic() < until:
        held = atomic.lock(file.with_name(f".{file.name}.lock"))
        if held is None:
            time.sleep(0.05)
    if held is None:
        raise OSError(None, "another session is writing to it")
    try:
        answers, _remark = read(lesson)
        order = [name for name, number in texts.exercises().items() if number == lesson]
        answers = {**answers, answer.name: answer}
        known = sorted(answers, key=lambda name: order.index(name) if name in order else len(order))
        preface = PREFACE.format(lesson=lesson, title=texts.lessons()[lesson].replace("_", " "))
        atomic.write(file, "\n\n".join([preface, *(str(answers[name]) for name in known)]))
    finally:
        held.release()


def read(lesson):
    """({exercise: `Kept`}, remark) of a lesson's file. A file without any answer in it is set aside, and the remark says so."""
    file = file_of(lesson)
    if file is None:
        return {}, ""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        return {}, _("{file} cannot be read: {reason}.").format(file=file, reason=error.strerror)
    except UnicodeDecodeError:
        text = ""
    banners = list(BANNER.finditer(text))
    if not banners:
        return {}, _set_aside(file)
    ends = [*(b.start() for b in banners[1:]), len(text)]
    return {
        b["name"]: Kept(b["name"], b["date"], b["version"], text[b.end() : end], text.count("\n", 0, b.end()))
        for b, end in zip(banners, ends, strict=True)
    }, ""


def _set_aside(file):
    said = _("{file} held no answer that could be read. It is kept as {aside}.")
    return said.format(file=file, aside=atomic.set_aside(file))


# ---------------------------------------------------------------- from an object to its source


def source(candidate, name):
    """Python that defines `name` as the candidate does: imports, helpers, then the answer. Raises NotKept."""
    imports, parts, seen = set(), [], set()

    def define(thing, called):
        """Add a definition to `parts`, after those of everything that it uses: a class needs its base at once."""
        seen.add(called)
        code, space = definition(thing, called)
        for needed in _global_names(code, called):
            if needed in seen or (needed not in space and hasattr(builtins, needed)):
                continue
            if needed not in space:
                raise NotKept(Sentence("it uses {name}, which is not defined outside of it", name=needed))
            value = space[needed]
            if (line := _import_of(needed, value, name)) is not None:
                imports.add(line)
            elif inspect.isfunction(value) or inspect.isclass(value):
                define(value, needed)
            else:
                parts.append(_constant(needed, value))
            seen.add(needed)
        parts.append(code)

    define(candidate, name)
    return "\n\n\n".join([*(["\n".join(sorted(imports))] if imports else []), *parts])


def _import_of(name, value, main):
    """The line that imports the value under this name, or None if it does not come from a module."""
    if isinstance(value, types.ModuleType):
        above, _dot, last = value.__name__.rpartition(".")
        if value.__name__ == name:
            return f"import {name}"
        return (
            f"from {above} import {name}" if above and last == name else f"import {value.__name__} as {name}"
        )
    if name != main and name in texts.exercises() and _stands_for_exercise(name, value):
        return f"from vit_edu.mine import {name}"
    path, own = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if not isinstance(path, str) or not isinstance(own, str) or path == "__main__":
        return None
    for end in range(1, path.count(".") + 2):  # the shortest module that has it
        module = ".".join(path.split(".")[:end])
        with contextlib.suppress(Exception):
            if getattr(importlib.import_module(module), own, None) is value and _is_installed(module):
                return f"from {module} import {own}" + (f" as {name}" if name != own else "")
    return None


def _stands_for_exercise(name, value):
    """Is this the answer to another exercise: the course's, the learner's, or one that `mine` handed out?"""
    from vit_edu import check

    return (
        value is check.get(name).reference
        or value is live.get(name)
        or "__mine__" in getattr(value, "__dict__", {})
    )


def _is_installed(module):
    """Whether another session finds the module: it is a package of the environment, and not a file beside the notebook."""
    file = getattr(sys.modules[module], "__file__", None)
    if file is None or module.split(".")[0] == "vit_edu":
        return True
    beside = {Path.cwd(), Path(sys.path[0] or ".").resolve()}
    return "site-packages" in file or not beside & set(Path(file).resolve().parents)


def _constant(name, value):
    """The line that gives a name its value, for numbers, texts, and containers of them. Raises NotKept for others."""
    with contextlib.suppress(Exception):
        again = ast.literal_eval(repr(value))
        if type(again) is type(value) and again == value:
            return f"{name} = {value!r}"
    what = type(value).__name__
    raise NotKept(
        Sentence(
            "it uses {name}, a value of type {type}, which is defined outside of it", name=name, type=what
        )
    )


def definition(thing, name):
    """(the source of the statement that defines `name` as `thing`, the global names around it). Raises NotKept."""
    for file, line, space, function in _places(thing):
        lines = linecache.getlines(file, space)
        with contextlib.suppress(SyntaxError):
            node = _statement(ast.parse("".join(lines)), name, line)
            if node is None:
                continue
            if function is not None and set(function.__code__.co_freevars) - {"__class__"}:
                raise NotKept(Sentence("{name} uses variables of a function around it", name=name))
            return _without_our_decorator(node, lines, space), space
    raise NotKept(Sentence("the source of {name} was not found", name=name))


def _places(thing):
    """Yield (file, line, global names, function) where `thing` may have been written: where its functions are.

    A class without functions does not know. It may be in any cell, the last ones first; then line and function are None.
    """
    for function in guard.functions(thing):
        code = function.__code__
        yield code.co_filename, code.co_firstlineno, function.__globals__, function
    space = vars(sys.modules.get(getattr(thing, "__module__", None), types.ModuleType("nothing")))
    if inspect.isclass(thing):
        yield from ((file, None, space, None) for file in reversed(list(linecache.cache)))


def _statement(tree, name, line):
    """The last def, class or assignment outside of all functions that binds `name` and contains this line, if it is known."""
    todo, found = list(tree.body), None
    while todo:
        node = todo.pop(0)
        todo += [n for n in ast.iter_child_nodes(node) if isinstance(node, ast.If | ast.Try | ast.With)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound = [node.name]
        elif isinstance(node, ast.Assign):
            bound = [t.id for t in node.targets if isinstance(t, ast.Name)]
        else:
            continue
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        if name in bound and (line is None or first <= line <= node.end_lineno):
            found = node
    return found


def _without_our_decorator(node, lines, space):
    """The statement's lines, without `@check.exercise` above it."""
    kept = []
    for decorator in getattr(node, "decorator_list", ()):
        written = ast.unparse(decorator)
        if not _is_ours(written, space):
            kept.append(f"@{written}")
    body = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno])).rstrip()
    code = "\n".join([*kept, body])
    try:
        ast.parse(code)
    except SyntaxError:  # a text of several lines that are indented less than the code
        above = " " * node.col_offset
        code = "\n".join(
            [
                "if True:",
                *(above + line for line in kept),
                "".join(lines[node.lineno - 1 : node.end_lineno]).rstrip(),
            ]
        )
    return code


def _is_ours(written, space):
    """Is this text, as Python, the checker's own decorator?"""
    from vit_edu import check

    first, *rest = written.split(".")
    value = space.get(first)
    for part in rest:
        value = getattr(value, part, None)
    return value is check.exercise


def _global_names(code, own):
    """The names that the code looks up outside of itself, in the order of the alphabet."""
    names, todo = set(), [symtable.symtable(code, "answer", "exec")]
    while todo:
        scope = todo.pop()
        todo += scope.get_children()
        for symbol in scope.get_symbols():
            outside = symbol.is_global() or (scope.get_type() == "module" and not symbol.is_assigned())
            if symbol.is_referenced() and outside:
                names.add(symbol.get_name())
    return sorted(names - {own})
