"""Keeps the rows of `vit-edu check` while it runs, so that a run that was killed goes on where it was.

The journal lies beside the file of results, as NAME.unfinished, and goes when that file is written. It has a line of JSON when
the check of a notebook begins, and one with its row when it ends, or one without if it is stopped by hand.
"""

import contextlib
import json
import os
import threading
from pathlib import Path

from vit_edu import __version__


class Journal:
    """ended: {key: row} of notebooks that have been checked. begun: {key: how often} of those whose check never ended."""

    def __init__(self, file):
        self.path = file and Path(file).with_name(Path(file).name + ".unfinished")
        self.ended, self.begun, self._lock = {}, {}, threading.Lock()
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            for line in self.path.read_bytes().splitlines():
                self._read(line)
        # It stays open for the whole run
        self._file = open(self.path, "ab")  # noqa: SIM115
        self._file.write(b"\n")  # what was killed may have left half a line

    def _read(self, line):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            key = entry["key"]
            if "row" in entry:
                self.ended[key] = entry["row"]
                self.begun.pop(key, None)
            elif "withdrawn" in entry:
                self.begun.pop(key, None)
            elif key not in self.ended:
                self.begun[key] = self.begun.get(key, 0) + 1

    def begin(self, key):
        self._write({"key": key})

    def end(self, key, row):
        self._write({"key": key, "row": row})

    def withdraw(self, key):
        """Its check was stopped by hand, which says nothing about the notebook."""
        self._write({"key": key, "withdrawn": True})

    def _write(self, entry):
        if self.path:
            with self._lock:
                self._file.write(json.dumps(entry).encode() + b"\n")
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self, remove):
        if self.path:
            self._file.close()
            if remove:
                self.path.unlink(missing_ok=True)


def key(path, seconds):
    """What a row depends on: the notebook, as far as its size and time tell, the limit and the version of the course."""
    try:
        stat = path.stat()
        state = f"{stat.st_size} {stat.st_mtime_ns}"
    except OSError as error:
        state = error.strerror
    name = os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")
    return f"{name} {state} {seconds:g} {__version__}"
