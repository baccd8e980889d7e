"""`vit-edu check`: the answers in a notebook or in a folder of notebooks, each notebook in a separate process."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from vit_edu import atomic, check
from vit_edu.check.report import EMPTY, RIGHT

MISSING, UNFINISHED = "missing", "not checked"
LARGEST = 20 * 2**20  # the most bytes of a notebook; a lesson has a tenth of a megabyte


@dataclass
class Row:
    """The result of one notebook.

    answers: {exercise: {"status", "diagnosis", "checks", "error"}}. problem: what is wrong with the notebook as a whole, or "".
    """

    notebook: str
    answers: dict = field(default_factory=dict)
    problem: str = ""
    seconds: float = 0.0

    @property
    def right(self):
        return sum(a["status"] == RIGHT for a in self.answers.values())

    @property
    def passed(self):
        return bool(self.answers) and not self.problem and self.right == len(self.answers)


def find(paths):
    """All notebooks below these files and folders, in order. FileNotFoundError if there is no such path."""
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
        if path.is_dir():
            inside = sorted(path.rglob("*.ipynb"))
            found += [
                p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)
            ]
        else:
            found.append(path)
    return found


def check_notebook(path, seconds=120.0):
    """Run and check the answers of one notebook in a process that is stopped after `seconds`. Returns a `Row`."""
    row, started = Row(str(path)), time.perf_counter()
    try:
        size = path.stat().st_size
    except OSError as error:
        size, row.problem = 0, f"cannot be read: {error.strerror}"
    if size > LARGEST:
        row.problem = (
            f"has {size / 2**20:.0f} MB, but a notebook of the course has less than {LARGEST / 2**20:.0f} MB"
        )
    ended = False
    lines = [] if row.problem else _run(path.resolve(), seconds, row)
    row.seconds = time.perf_counter() - started
    for line in lines:
        if "unreadable" in line:
            row.problem = str(line["unreadable"])
        elif isinstance(line.get("exercise"), str):
            row.answers[line["exercise"]] = {
                "status": str(line.get("status")),
                "diagnosis": line.get("diagnosis") or "",
                "checks": line.get("checks") or [],
                "error": line.get("error") or "",
            }
        ended = ended or bool(line.get("end"))
    if not ended and not row.problem:
        row.problem = "its process ended before all answers were checked"
    expected = _expected(path, row.answers)
    if not expected and not row.problem:
        row.problem = "contains no exercise of the course"
    for name in expected:
        if name not in row.answers:
            status = UNFINISHED if row.problem else MISSING
            row.answers[name] = {"status": status, "diagnosis": "", "checks": [], "error": ""}
    return row


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
        environment |= {"VIT_EDU_FAST": "1", "VIT_EDU_DATA": "shapes", "VIT_EDU_PROGRESS": "off"}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "vit_edu.classroom.answers", str(path)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            row.problem = f"took more than {seconds:g} seconds"
            _end(process)
            out, _ = process.communicate()
        finally:
            _end(process)
    lines = []
    for text in out.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict):
                lines.append(line)
    return lines


def _end(process):
    """End the process and, where the platform has process groups, whatever it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()


def _expected(path, answers):
    """The exercises that the notebook should contain: those of its lesson, known by its answers or by the number in its name."""
    lessons = [n for n in check.LESSONS if set(check.names(n)) & answers.keys()]
    number = re.search(r"(?<!\d)(\d\d)_", path.name)
    if not lessons and number and number[1] in check.LESSONS:
        lessons = [number[1]]
    return [name for lesson in lessons for name in check.names(lesson)]


# ---------------------------------------------------------------- tables


def as_text(row):
    """One line for the notebook, and one more for each answer that is wrong."""
    states = [a["status"] for a in row.answers.values()]
    mark = "✓" if row.passed else "✗"
    empty = sum(s in (EMPTY, MISSING) for s in states)
    wrong = len(states) - row.right - empty
    line = f"{mark} {row.notebook}: {row.right} of {len(states)} right"
    line += f", {wrong} wrong" if wrong else ""
    line += f", {empty} not attempted" if empty else ""
    line += f"; {row.problem}" if row.problem else ""
    lines = [f"{line}  ({row.seconds:.0f} s)"]
    for name, answer in row.answers.items():
        if answer["status"] not in (RIGHT, EMPTY, MISSING, UNFINISHED):
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
            "error": a["error"] or row.problem,
        }
        for row in rows
        for name, a in (
            row.answers or {"": {"status": UNFINISHED, "diagnosis": "", "checks": [], "error": ""}}
        ).items()
    ]


def as_csv(rows):
    """The table as CSV; a field that a spreadsheet would take for a formula gets an apostrophe in front."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in table(rows):
        writer.writerow({k: f"'{v}" if str(v)[:1] in ("=", "+", "-", "@") else v for k, v in line.items()})
    return file.getvalue()


def as_json(rows):
    """Everything as JSON, checks and messages included."""
    return json.dumps(
        [
            {
                "notebook": r.notebook,
                "passed": r.passed,
                "problem": r.problem,
                "seconds": round(r.seconds, 1),
                "answers": r.answers,
            }
            for r in rows
        ],
        indent=1,
    )


def check_paths(paths, csv_file=None, json_file=None, seconds=120.0, jobs=2):
    """Check all notebooks below `paths`, print a table, and write files on request.

    Returns an exit status: 0 if every exercise of every notebook is right, 1 if one is not, 2 if there is nothing to check.
    """
    try:
        notebooks = find(paths)
    except FileNotFoundError as error:
        print(f"vit-edu check: {error}", file=sys.stderr)
        return 2
    if not notebooks:
        print("vit-edu check: there is no notebook (*.ipynb) here.", file=sys.stderr)
        return 2
    rows = []
    with ThreadPoolExecutor(jobs) as pool:
        for row in pool.map(lambda p: check_notebook(p, seconds), notebooks):
            rows.append(row)
            print(as_text(row), flush=True)
    for file, text in ((csv_file, as_csv), (json_file, as_json)):
        if file:
            atomic.write(Path(file), text(rows))
    right = sum(r.passed for r in rows)
    print(f"In {right} of {len(rows)} notebooks, every answer is right.")
    return 0 if right == len(rows) else 1
