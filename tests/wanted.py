"""Libraries that not everybody has. Where one is missing, the tests that use it are skipped, and counted with its name."""

import importlib
from pathlib import Path

import pytest


class Missing:
    """Stands for a library that is not installed. The first test that takes something from it is skipped."""

    def __init__(self, library):
        self._library = library

    def __getattr__(self, name):
        if name.startswith("__"):  # pytest looks at every name of a module
            raise AttributeError(name)
        pytest.skip(f"could not import {self._library!r}")


def library(name):
    """The library, or what skips each test that uses it. `pytest.importorskip` skips the whole file."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return Missing(name)


def _has_home():
    try:
        return bool(Path.home())
    except RuntimeError:
        return False


NEEDS_HOME = pytest.mark.skipif(not _has_home(), reason="Jupyter needs a home folder, and this user has none")
