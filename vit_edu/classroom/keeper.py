"""Runs a command with a limit on its time, and ends whatever it started: `python -m vit_edu.classroom.keeper SECONDS COMMAND ...`.

It stands between `vit-edu check` and the code of a notebook. On Linux, processes that are left behind become its children,
also those that have a session of their own, and end with it. Elsewhere, only the process group of the command is ended: a
process that made a session of its own goes on.

The exit status is 124 if the time was over, and otherwise 0. It imports nothing heavy, since it runs once for each notebook.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TIME_IS_UP = 124
PATIENCE = 5.0  # seconds in which killed processes have to be gone
_PARENT_DEATH_SIGNAL, _SUBREAPER = 1, 36  # options of prctl(2)
LINUX = sys.platform.startswith("linux")


def _prctl(option, value):
    if LINUX:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def end_with_parent(how="SIGKILL"):
    """Have this process get the signal of this name when its parent ends. Linux only."""
    _prctl(_PARENT_DEATH_SIGNAL, getattr(signal, how, 0))


def end_group(pid):
    """End a process and, where the platform has process groups, its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)


def end_descendants():
    """End all processes below this one and wait until they are gone. Linux only."""
    until = time.monotonic() + PATIENCE
    while LINUX and (below := _descendants(os.getpid())) and time.monotonic() < until:
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def end_strays(folder):
    """End processes whose home or working folder is `folder`, wherever they are. Linux only.

    This finds those that the keeper could not end because it had been ended itself.
    """
    until = time.monotonic() + PATIENCE
    while (strays := [pid for pid in _processes() if _belongs(pid, folder)]) and time.monotonic() < until:
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _processes():
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()] if LINUX else []


def _belongs(pid, folder):
    with contextlib.suppress(OSError):
        if _parent(pid)[1] == "Z":
            return False
        if f"HOME={folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return True
        return Path(os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)")).is_relative_to(folder)
    return False


def _parent(pid):
    """(the parent's id, the state) of a process."""
    state, parent = (
        Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
    )
    return int(parent), state


def _descendants(root):
    children = {}
    for pid in _processes():
        with contextlib.suppress(OSError, ValueError):
            children.setdefault(_parent(pid)[0], []).append(pid)
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def main(seconds, command):
    """Run a command for at most this long; see the top of this module."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    end_with_parent("SIGTERM")  # if `vit-edu check` is killed, its notebooks do not go on
    _prctl(_SUBREAPER, 1)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(seconds)
        return 0
    except subprocess.TimeoutExpired:
        return TIME_IS_UP
    finally:
        end_group(process.pid)
        end_descendants()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
