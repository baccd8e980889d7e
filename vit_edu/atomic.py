"""Files that are written whole or not at all, and locks that keep two programs from writing the same ones."""

import contextlib
import itertools
import os
import tempfile
import time
from pathlib import Path


def write(path, content):
    """Write a file so that a reader sees either the old content or the new, but never a part. Its folder is made if needed.

    content: a text (UTF-8), bytes, or a function that writes bytes into the open file that it is given. The content is on the
    disk before the file takes its name. On an error the old file stays, and nothing else is left behind. What killed
    processes left behind is removed after an hour, when the same file is written again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        for left in path.parent.glob(f".{path.name}.*.unfinished"):
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < time.time() - 3600:
                    left.unlink()
    finally:
        unfinished.unlink(missing_ok=True)


def set_aside(path):
    """Give a damaged file another name, NAME.damaged-1, -2, ..., so that nothing is lost. Returns that name.

    Where it cannot be renamed, it stays.
    """
    path = Path(path)
    names = (path.with_name(f"{path.stem}.damaged-{n}{path.suffix}") for n in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    with contextlib.suppress(OSError):
        os.replace(path, aside)
    return aside


def require_writable(folder):
    """Make the folder where need be. Raises OSError where no file can be made in it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def lock(path):
    """Take the lock that a file stands for. Returns an object with `release()`, or None if another program holds the lock.

    A lock ends with the process that holds it, however that ends. The empty file stays, and means nothing by itself. On a
    file system without locks, nobody is kept out. Raises OSError where the file cannot be made.
    """
    from filelock import FileLock, Timeout

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    taken = FileLock(path, thread_local=False)
    try:
        taken.acquire(timeout=0)
    except Timeout:
        return None
    except NotImplementedError:
        pass
    return taken
