"""The cache folder as a place to write to: downloads that are not finished yet, and one program at a time."""

import contextlib
import errno
import shutil
import tempfile
import time
from pathlib import Path

from vit_edu import atomic, settings
from vit_edu.data.sets import DataError

PATIENCE_SECONDS = 180  # how long we wait for another program whose files no longer grow


def cache_dir():
    """`settings.cache_dir()`; DataError instead of an OSError where there is none."""
    try:
        return settings.cache_dir()
    except OSError as error:
        raise DataError(str(error)) from error


@contextlib.contextmanager
def scratch_folder():
    """A new folder inside the cache folder, for a `with` statement. It is gone afterwards, whatever happens.

    Raises DataError if the cache folder cannot be written to, and for any OSError inside the `with` statement.
    """
    cache = cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for left in _unfinished(cache):
            with contextlib.suppress(FileNotFoundError):  # another program has just removed its own
                if time.time() - left.stat().st_mtime > 24 * 3600:  # left by a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
        path = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=cache))
    except OSError as error:
        raise _cannot_be_written(cache, error) from error
    try:
        yield path
    except OSError as error:
        raise DataError(
            f"writing to {cache} failed ({error.strerror or error}). Nothing was left behind. {_remedy(error)}"
        ) from error
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def one_at_a_time(what):
    """A `with` statement that one program at a time goes through, while the others that share the cache folder wait.

    what: what is put into the cache, for the line that says why nothing happens. A program that was killed holds up nobody.
    Raises DataError if the cache folder cannot be written to, or if the other program has come to a standstill.
    """
    cache = cache_dir()
    size, since = None, time.monotonic()
    while (held := _lock_in(cache)) is None:
        if size is None:
            print(f"Another program is putting {what} into {cache}. Waiting for it.", flush=True)
        if (grown := _size_of_unfinished(cache)) != size:
            size, since = grown, time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            raise DataError(
                f"another program is putting {what} into {cache}, but nothing has come for {PATIENCE_SECONDS} seconds. "
                "End that program, or set VIT_EDU_CACHE to another folder."
            )
        time.sleep(0.2)
    try:
        yield
    finally:
        held.release()


def _lock_in(cache):
    try:
        return atomic.lock(cache / ".lock")
    except OSError as error:
        raise _cannot_be_written(cache, error) from error


def _unfinished(cache):
    return cache.glob(".unfinished-*")


def _size_of_unfinished(cache):
    total = 0
    for folder in _unfinished(cache):
        for file in folder.rglob("*"):
            with contextlib.suppress(OSError):  # it was finished or removed just now
                total += file.stat().st_size
    return total


def _cannot_be_written(cache, error):
    if error.errno in DISK_FULL:
        return DataError(f"the disk of the cache folder {cache} is full ({error.strerror}). {_remedy(error)}")
    return DataError(
        f"the cache folder {cache} cannot be written to ({error.strerror or error}). "
        "Set VIT_EDU_CACHE to a folder that you can write to, or VIT_EDU_DATA to one that has the data."
    )


DISK_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)


def _remedy(error):
    if error.errno in DISK_FULL:
        return "Free some space, or set VIT_EDU_CACHE to a folder on another disk."
    return "Set VIT_EDU_CACHE to another folder that you can write to."
