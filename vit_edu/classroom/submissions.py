"""`vit-edu check`: the answers in a notebook or in a folder of notebooks, each notebook in a separate process."""

import contextlib
import csv
import io
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from vit_edu import atomic, check
from vit_edu.check.report import EMPTY, RIGHT
from vit_edu.classroom import keeper
from vit_edu.classroom.answers import NOT_CHECKED
from vit_edu.classroom.finding import find, shown
from vit_edu.classroom.journal import Journal, key

MISSING = "missing"
LARGEST = 2**29  # the most bytes of a notebook, stored outputs included; a lesson has a tenth of a megabyte
LONGEST = 64 * 2**20  # bytes that are read of what the process writes
ALL_RIGHT, NOT_RIGHT, NOTHING, SOME_NOT_CHECKED, STOPPED = 0, 1, 2, 3, 130  # exit status

_running = set()  # the keepers' processes


@dataclass
class Row:
    """The result of one notebook.

    notebook: its path as text. answers: {exercise: {"status", "diagnosis", "checks", "error"}}. problem: why it, or a part of
    it, was not checked, or "". remark: what else is not as expected, or "".
    """

    notebook: str
    answers: dict = field(default_factory=dict)
    problem: str = ""
    remark: str = ""
    seconds: float = 0.0

    def count(self, *states):
        return sum(a["status"] in states for a in self.answers.values())

    @property
    def right(self):
        return self.count(RIGHT)

    @property
    def wrong(self):
        """How many answers were checked, and are neither right nor left open."""
        return len(self.answers) - self.count(RIGHT, EMPTY, MISSING, NOT_CHECKED)

    @property
    def not_checked(self):
        """Is there anything in it that was not checked?"""
        return bool(self.problem) or not self.answers or self.count(NOT_CHECKED) > 0

    @property
    def passed(self):
        return not self.not_checked and not self.remark and self.right == len(self.answers)


def _answer(status, diagnosis="", checks=(), error=""):
    return {"status": status, "diagnosis": diagnosis, "checks": list(checks), "error": error}


def check_notebook(path, seconds=120.0):
    """Run and check the answers of one notebook in a process that is stopped after `seconds`. Returns a `Row`."""
    row, started = Row(shown(path)), time.perf_counter()
    row.problem = _unfit(path)
    ended = False
    lines = [] if row.problem else _run(path.resolve(), seconds, row)
    row.seconds = time.perf_counter() - started
    for line in lines:
        if "unreadable" in line:
            row.problem = str(line["unreadable"])
        elif isinstance(line.get("exercise"), str):
            row.answers[line["exercise"]] = _believed(line)
        ended = ended or bool(line.get("end"))
    if not ended and not row.problem:
        row.problem = "its process ended before all answers were checked"
    expected = _expected(path, row)
    if not expected and not row.problem:
        row.problem = "contains no exercise of the course"
    for name in expected:
        if name not in row.answers:
            row.answers[name] = _answer(NOT_CHECKED, error=row.problem) if row.problem else _answer(MISSING)
    return row


def _unfit(path):
    """Why a file cannot be a notebook, without reading it, or ""."""
    try:
        status = path.stat()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return "is not a file"
    if status.st_size > LARGEST:
        return (
            f"has {status.st_size / 2**20:.0f} MB, more than the {LARGEST / 2**20:.0f} MB that are read. "
            "Clear its outputs and save it"
        )
    return ""


def _believed(line):
    """The answer that a line reports. "Right" is believed only with every check that the exercise has."""
    checks = line.get("checks")
    fit = isinstance(checks, list) and all(isinstance(c, list) and len(c) == 3 for c in checks)
    answer = _answer(
        str(line.get("status")),
        str(line.get("diagnosis") or ""),
        [[str(c[0]), c[1] is True, str(c[2])] for c in checks] if fit else [],
        str(line.get("error") or ""),
    )
    if answer["status"] != RIGHT:
        return answer
    try:
        total = len(check.get(line["exercise"]).cases)
    except KeyError as error:
        return _answer(NOT_CHECKED, error=str(error.args[0]))
    passed = sum(c[1] for c in answer["checks"])
    if passed != total or len(answer["checks"]) != total:
        error = f"it is reported as right after {passed} passed checks, but the exercise has {total}"
        return _answer(NOT_CHECKED, checks=answer["checks"], error=error)
    return answer


def _run(path, seconds, row):
    """Run the answers of a notebook and return the lines of JSON that the process wrote. Whatever it started ends with it."""
    kept = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR", "TEMP", "TMP")
    kept += ("VIT_EDU_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
    environment = {k: os.environ[k] for k in kept if k in os.environ}
    with tempfile.TemporaryDirectory(prefix="vit-edu-", ignore_cleanup_errors=True) as folder:
        environment |= {
            "HOME": folder,
            "USERPROFILE": folder,
            "MPLBACKEND": "agg",
            "OMP_NUM_THREADS": "1",
        }
        environment |= {
            "VIT_EDU_FAST": "1",
            "VIT_EDU_DATA": "shapes",
            "VIT_EDU_PROGRESS": "off",
            "VIT_EDU_MINE": "off",
        }
        # Into a file, because a pipe is not at its end before every process that holds it has ended
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen(
                _command(path, seconds),
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            _running.add(process)
            try:
                # The keeper ends in time, unless the notebook has stopped it
                over = process.wait(seconds + keeper.PATIENCE) == keeper.TIME_IS_UP
            except subprocess.TimeoutExpired:
                over = True
            finally:
                keeper.end_group(process.pid)
                process.wait()
                _running.discard(process)
                keeper.end_strays(folder)
            out.seek(0)
            text = out.read(LONGEST).decode("utf-8", "replace")
    if over:
        row.problem = f"took more than {seconds:g} seconds"
    lines = []
    for each in text.split("\n"):
        with contextlib.suppress(ValueError, RecursionError):
            line = json.loads(each)
            if isinstance(line, dict):
                lines.append(line)
    return lines


def _command(path, seconds):
    python = [sys.executable, "-P", "-m"]
    return [
        *python,
        "vit_edu.classroom.keeper",
        str(seconds),
        *python,
        "vit_edu.classroom.answers",
        str(path),
    ]


def _expected(path, row):
    """The exercises that the notebook should contain: those of its lesson, known by its answers or by its file's name.

    Of a lesson in several notebooks, those of the one, or of all of which it has answers.
    If its answers are those of another lesson than its name says, the row gets a remark.
    """
    lessons = [n for n in check.LESSONS if set(check.names(n)) & row.answers.keys()]
    named = _lesson_of(path.name)
    if lessons and named and named not in lessons:
        row.remark = f"holds lesson {' and '.join(lessons)}, although its name says {named}"
    notebooks = check.texts.notebooks()
    parts = [held for held in notebooks.values() if set(held) & row.answers.keys()]
    if not parts and named:
        letter = re.search(rf"(?<!\d){named}([b-z])(?![a-z])", path.name.lower())
        number = named + (letter[1] if letter else "")
        mine = {name.split("_")[0]: held for name, held in notebooks.items() if name[:2] == named}
        parts = [mine.get(number, mine[named])]
    return [name for part in parts for name in part]


def _lesson_of(name):
    """The number of the lesson that a file's name says, or None if it says none, or several."""
    plain = re.sub(r"[\W_]+", "_", name.lower())
    full = {n for n, module in check.LESSONS.items() if re.search(rf"(?<!\d){n}_?{module}", plain)}
    bare = set(re.findall(r"(?<!\d)\d\d(?!\d)", name)) & check.LESSONS.keys()
    said = full or bare
    return said.pop() if len(said) == 1 else None


# ---------------------------------------------------------------- tables


def as_text(row):
    """One line for the notebook, and one more for each answer that is wrong."""
    total, unchecked, empty = len(row.answers), row.count(NOT_CHECKED), row.count(EMPTY, MISSING)
    mark = "✓" if row.passed else "○" if row.not_checked and not row.wrong else "✗"
    said = [f"{row.right} of {total} right"] if unchecked < total else []
    said += [f"{row.wrong} wrong"] if row.wrong else []
    said += [f"{empty} not attempted"] if empty else []
    said += [f"{unchecked} not checked" if said else "not checked"] if unchecked or not total else []
    line = f"{mark} {row.notebook}: {', '.join(said)}"
    if row.problem:
        line += f": {row.problem}" if unchecked or not total else f"; {row.problem}"
    line += f"; {row.remark}" if row.remark else ""
    lines = [f"{line}  ({row.seconds:.0f} s)"]
    for name, answer in row.answers.items():
        if answer["status"] == NOT_CHECKED and answer["error"] != row.problem:
            lines.append(f"    {name}: {NOT_CHECKED}: {answer['error']}")
        elif answer["status"] not in (RIGHT, EMPTY, MISSING, NOT_CHECKED):
            why = answer["diagnosis"] or answer["error"] or _first_failure(answer)
            lines.append(f"    {name}: {answer['status']}. {why}".rstrip())
    return "\n".join(_printable(text) for text in lines)


def _first_failure(answer):
    for name, passed, message in answer["checks"]:
        if not passed:
            return f"{name}: {message.splitlines()[0] if message else ''}"
    return ""


def _printable(text):
    """The text without characters that could control a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


COLUMNS = ("notebook", "exercise", "status", "passed", "checks", "diagnosis", "error")


def table(rows):
    """A list of dicts with COLUMNS, one for each exercise of each notebook."""
    return [
        {
            "notebook": row.notebook,
            "exercise": name,
            "status": a["status"],
            "passed": sum(bool(c[1]) for c in a["checks"]),
            "checks": len(a["checks"]),
            "diagnosis": a["diagnosis"],
            "error": a["error"] or "; ".join(filter(None, (row.problem, row.remark))),
        }
        for row in rows
        for name, a in (row.answers or {"": _answer(NOT_CHECKED)}).items()
    ]


def as_csv(rows):
    """The table as CSV, one line of text for each exercise, with nothing that a spreadsheet would take for a formula."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in table(rows):
        writer.writerow({k: _cell(v) if isinstance(v, str) else v for k, v in line.items()})
    return file.getvalue()


def _cell(text):
    """A text without line breaks, tabs and other control characters; with an apostrophe in front of what starts like a formula."""
    text = _printable(text).strip()
    return f"'{text}" if text[:1] in tuple("=+-@＝＋－＠") else text


def as_json(rows):
    """Everything as JSON, checks and messages included."""
    return json.dumps([_as_dict(row) for row in rows], indent=1)


def _as_dict(row):
    return {
        "notebook": row.notebook,
        "passed": row.passed,
        "not_checked": row.not_checked,
        "problem": row.problem,
        "remark": row.remark,
        "seconds": round(row.seconds, 1),
        "answers": row.answers,
    }


def _from_dict(kept):
    names = ("notebook", "answers", "problem", "remark", "seconds")
    return Row(**{name: kept[name] for name in names})


# ---------------------------------------------------------------- the command


def check_paths(paths, csv_file=None, json_file=None, seconds=120.0, jobs=2):
    """Check all notebooks below `paths`, print a table, and write files on request.

    Returns an exit status: 0 if every exercise of every notebook is right, 1 if one is not, 2 if there is nothing to check, and
    3 if nothing is known to be wrong, but something could not be checked. Results are kept beside the files while this runs: if
    it is killed, the same call goes on where it was.
    """
    if jobs < 1 or not 0 < seconds < float("inf"):
        print(
            f"vit-edu check: --jobs must be at least 1 and --seconds above 0; got {jobs} and {seconds:g}.",
            file=sys.stderr,
        )
        return NOTHING
    try:
        found = find(paths)
    except FileNotFoundError as error:
        print(f"vit-edu check: {error}", file=sys.stderr)
        return NOTHING
    if not found:
        print("vit-edu check: there is no notebook (*.ipynb) here.", file=sys.stderr)
        return NOTHING
    try:
        for file in filter(None, (csv_file, json_file)):
            if Path(file).is_dir():
                raise IsADirectoryError(0, "it is a folder")
        journal = Journal(csv_file or json_file)
    except OSError as error:
        print(f"vit-edu check: {file} cannot be written: {error.strerror}", file=sys.stderr)
        return NOTHING
    written = False
    try:
        rows = _rows(found, journal, seconds, jobs)
        for file, text in ((csv_file, as_csv), (json_file, as_json)):
            if file:
                atomic.write(Path(file), text(rows))
        written = True
    except OSError as error:
        print(f"vit-edu check: the results cannot be written: {error}", file=sys.stderr)
        return NOTHING
    except KeyboardInterrupt:
        kept = (
            f" What is done is in {journal.path}; the same call goes on from there." if journal.path else ""
        )
        print(f"vit-edu check: stopped.{kept}", file=sys.stderr)
        return STOPPED
    finally:
        journal.close(remove=written)
    right = sum(r.passed for r in rows)
    unchecked = sum(r.not_checked for r in rows)
    line = f"In {right} of {len(rows)} notebooks, every answer is right."
    print(line + (f" {unchecked} could not be checked, or not in full." if unchecked else ""))
    if right == len(rows):
        return ALL_RIGHT
    only_unchecked = all(r.passed or (r.not_checked and not _falls_short(r)) for r in rows)
    return SOME_NOT_CHECKED if only_unchecked else NOT_RIGHT


def _falls_short(row):
    """Is an answer known to be wrong or open?"""
    return bool(row.remark or row.wrong or row.count(EMPTY, MISSING))


def _rows(found, journal, seconds, jobs):
    """The rows of all that was found, in its order. Each is printed, and written to the journal, when it ends."""
    rows, stopping = {}, threading.Event()

    def work(item):
        each, name = item
        if each.problem:
            return name, Row(shown(each.path), problem=each.problem)
        if journal.begun.get(name, 0) > 1:
            problem = "the whole check ended twice while this notebook was being checked"
            return name, Row(shown(each.path), problem=problem)
        journal.begin(name)
        row = check_notebook(each.path, seconds)
        if stopping.is_set():
            journal.withdraw(name)
        else:
            journal.end(name, _as_dict(row))
        return name, row

    todo = {}
    for each in found:
        name = key(each.path, seconds)
        if name in journal.ended:
            rows[name] = _from_dict(journal.ended[name])
        else:
            todo[name] = each
    if rows:
        print(
            f"{len(rows)} of {len(found)} were checked by a run that was stopped; this one goes on with the others."
        )
    # What was being checked when a run was stopped comes last and alone: it may have been the cause
    suspected = [(each, name) for name, each in todo.items() if name in journal.begun]
    others = [(each, name) for name, each in todo.items() if name not in journal.begun]
    for items, at_once in ((others, jobs), (suspected, 1)):
        pool = ThreadPoolExecutor(at_once)
        try:
            for name, row in pool.map(work, items):
                rows[name] = row
                print(as_text(row), flush=True)
        except KeyboardInterrupt:
            stopping.set()
            for process in list(_running):
                process.terminate()  # the keeper then ends what it has started
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return [rows[key(each.path, seconds)] for each in found]
