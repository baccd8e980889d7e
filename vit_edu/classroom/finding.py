"""Finds what was handed in below files and folders: notebooks, and whatever is there instead of one."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

NOTEBOOK = re.compile(
    r"\.ipynb(\.txt|\.json)?$", re.I
)  # browsers and mail programs put something behind the name
# Files that people hand in instead of a notebook. A file of another kind, such as a list of names, is not an answer.
INSTEAD = re.compile(r"\.(zip|tar|tgz|gz|bz2|xz|7z|rar|py|html?|pdf|docx?|odt|txt|rtf|png|jpe?g|heic)$", re.I)


@dataclass
class Found:
    """A path, and why there is no notebook to check in it, or ""."""

    path: Path
    problem: str = ""


def find(paths):
    """A list of `Found` for these files and folders, in order; FileNotFoundError if there is no such path.

    Below a folder, every notebook counts. So does every folder without a notebook, unless it belongs to somebody who has one
    beside it, and every file that looks as if it had been handed in instead of one. Hidden names (.git, __MACOSX) are left out.
    """
    found = []
    for path in map(Path, paths):
        if not os.path.lexists(path):
            raise FileNotFoundError(f"there is no file or folder {shown(path)}")
        if path.is_dir():
            inside = _Folder(path)
            found += inside.rows(root=True) if inside.problem or inside.files or inside.folders else []
        else:
            found.append(Found(path))
    return found


class _Folder:
    """What is in a folder: the notebooks and other files directly in it, and the folders below it."""

    def __init__(self, path):
        self.path, self.files, self.folders, self.problem = path, [], [], ""
        try:
            entries = sorted(os.scandir(path), key=lambda e: e.name)
        except OSError as error:
            self.problem = f"cannot be read: {error.strerror}"
            return
        for entry in entries:
            if entry.name.startswith((".", "__")):
                continue
            if entry.is_dir(follow_symlinks=False):
                self.folders.append(_Folder(Path(entry.path)))
            else:
                self.files.append(Path(entry.path))
        self.notebooks = [f for f in self.files if NOTEBOOK.search(f.name)]

    @property
    def holds_notebook(self):
        return bool(self.problem or self.notebooks) or any(f.holds_notebook for f in self.folders)

    def rows(self, root=False, owned=False):
        """`Found` for what is in it. owned: is there a notebook beside it, to which it may belong?"""
        if self.problem:
            return [Found(self.path, self.problem)]
        if not root and not self.holds_notebook:
            return [] if owned else [Found(self.path, f"holds no notebook (*.ipynb); {self._contents()}")]
        found = [Found(f) for f in self.notebooks]
        # Helpers may lie beside a learner's notebook; in the folder of a whole class, files are somebody's answer
        if root or not self.notebooks:
            others = [f for f in self.files if f not in self.notebooks]
            found += [
                Found(f, _linked(f) or _instead(f)) for f in others if f.is_dir() or INSTEAD.search(f.name)
            ]
        for folder in self.folders:
            found += folder.rows(owned=owned or bool(self.notebooks and not root))
        return found

    def _contents(self):
        names = [f.name for f in self.files] + [f"{f.path.name}{os.sep}" for f in self.folders]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"it holds {', '.join(map(shown, names[:3]))}{more}" if names else "it is empty"


def _linked(path):
    return "is a link to a folder, and such links are not followed" if path.is_dir() else ""


def _instead(path):
    kind = path.suffix.lower()
    archive = kind in (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
    return f"is no notebook but a {kind} file" + ("; unpack it, and check what is in it" if archive else "")


def shown(path):
    r"""A path as text. Bytes that are no letters in the file system's encoding become \xe9 and the like."""
    return re.sub(
        "[\ud800-\udfff]",
        lambda m: f"\\x{ord(m[0]) - 0xDC00:02x}" if 0xDC80 <= ord(m[0]) <= 0xDCFF else f"\\u{ord(m[0]):04x}",
        os.fspath(path),
    )
