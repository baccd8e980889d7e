"""A folder inside the cache for downloads that are not finished yet."""

import contextlib
import shutil
import tempfile
import time
from pathlib import Path

from vit_edu import settings
from vit_edu.data.sets import DataError


@contextlib.contextmanager
def scratch_folder():
    """A new folder inside the cache folder, for a `with` statement. It is gone afterwards, whatever happens.

    Raises DataError if the cache folder cannot be written to, and for any OSError inside the `with` statement.
    """
    cache = settings.cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob(".unfinished-*"):  # left by a process that was killed
            if time.time() - left.stat().st_mtime > 24 * 3600:
                shutil.rmtree(left, ignore_errors=True)
        path = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=cache))
    except OSError as error:
        raise DataError(
            f"the cache folder {cache} cannot be written to ({error.strerror or error}). "
            "Set VIT_EDU_CACHE to a folder that you can write to, or VIT_EDU_DATA to one that has the data."
        ) from error
    try:
        yield path
    except OSError as error:
        raise DataError(
            f"writing to {cache} failed ({error.strerror or error}). Nothing was left behind. "
            "Free some space, or set VIT_EDU_CACHE to a folder on another disk."
        ) from error
    finally:
        shutil.rmtree(path, ignore_errors=True)
