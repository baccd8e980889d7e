"""What the environment decides: the settings, and where the course is. Every VIT_EDU_* name is read here and nowhere else, each time it is needed.

| name | what it sets |
|---|---|
| VIT_EDU_DATA | the images: cifar10, shapes, or a folder (see `data.load`) |
| VIT_EDU_CACHE | the folder for downloads; the platform's cache folder for vit_edu where it is not set |
| VIT_EDU_NETWORK | off: nothing is downloaded and no server is asked |
| VIT_EDU_FAST | 1: training in seconds and no download of weights, for tests |
| VIT_EDU_LANG | the language of the checker's answers, such as en; else that of the locale, else English |
| VIT_EDU_PROGRESS | the file that keeps what a learner has solved, or off |
| VIT_EDU_MINE | the folder that keeps a learner's right answers as Python files, or off |
| VIT_EDU_PATIENCE | for how many minutes a rank of a run on several waits for the others; 10 where it is not set |

What is switched on or off understands 1 and 0, on and off, yes and no, true and false, in upper and lower case.
"""

import locale
import os
import re
from pathlib import Path

NAMES = re.findall(r"^\| (VIT_EDU_\w+) \|", __doc__, re.M)

FIRST_LESSON = "00_start_here.ipynb"

ON, OFF = ("1", "on", "yes", "true", "y", "t"), ("0", "off", "no", "false", "n", "f", "none")


class SettingError(ValueError):
    """A VIT_EDU_* name holds something that it cannot mean. The text says what was expected, and what was found."""


class NoHome(OSError):
    """There is no home folder to put a file into. The text says which name to set instead."""


def _asked(name):
    asked = os.environ.get(name, "").strip()
    if (
        len(asked) > 1 and asked[0] == asked[-1] and asked[0] in "\"'"
    ):  # `set NAME="x"` on Windows keeps the quotes
        asked = asked[1:-1].strip()
    return asked


def _switch(name, default):
    """True or False, as the name says in words; `default` where it is not set. Raises SettingError for other words."""
    asked = _asked(name).lower()
    if asked and asked not in ON + OFF:
        raise SettingError(f"{name} is {asked!r}; expected 1 or 0, on or off, yes or no, true or false.")
    return asked in ON if asked else default


def _folder(name, default, what):
    """The path that the name holds, or that `default()` gives. Raises NoHome if it would be in a home folder that is not known."""
    asked = _asked(name)
    if asked.lower() in ON:  # nothing but "yes, keep it"
        asked = ""
    try:
        return Path(asked or default()).expanduser()
    except (RuntimeError, KeyError) as error:  # no HOME, and no user of that number or name
        if asked:
            said = f"{name} is {asked}, and there is no home folder of that user"
        else:
            said = "there is no home folder: HOME is not set, and this user has no entry in the list of users"
        raise NoHome(f"{said}. Set {name} to {what}.") from error


def data():
    """The images that VIT_EDU_DATA asks for: "cifar10", "shapes", "scenes", "clips", a path, or "" for none in particular."""
    return _asked("VIT_EDU_DATA")


def cache_dir():
    """The one folder that holds downloads: VIT_EDU_CACHE, else the platform's cache folder for vit_edu.

    Raises NoHome, an OSError, if there is neither.
    """
    import platformdirs  # imported only here, so that a machine that only trains can do without it

    return _folder(
        "VIT_EDU_CACHE", lambda: platformdirs.user_cache_dir("vit_edu"), "a folder that you can write to"
    )


def network():
    """Whether connections are allowed: False if VIT_EDU_NETWORK=off forbids them. Raises SettingError for any other word."""
    return _switch("VIT_EDU_NETWORK", True)


def fast():
    """Whether VIT_EDU_FAST=1 asks for training in seconds, for tests. Raises SettingError as `network` does."""
    return _switch("VIT_EDU_FAST", False)


def _in_user_data(name, default, what):
    """The path that the name holds, else `default` in the user's data folder; None for "off". Raises NoHome."""
    import platformdirs

    if _asked(name).lower() in OFF:
        return None
    return _folder(
        name,
        lambda: Path(platformdirs.user_data_dir("vit_edu")) / default,
        f"a {what} that you can write to, or to off",
    )


def progress_file():
    """The file that keeps what was solved: VIT_EDU_PROGRESS, else progress.json in the user's data folder; None for "off".

    Raises NoHome, an OSError, where there is no such folder.
    """
    return _in_user_data("VIT_EDU_PROGRESS", "progress.json", "file")


def mine_asked():
    """Whether VIT_EDU_MINE names a folder, or switches it off, instead of leaving the choice to us."""
    return bool(_asked("VIT_EDU_MINE"))


def mine_folder():
    """The folder that keeps right answers: VIT_EDU_MINE, else "mine" in the user's data folder; None for "off".

    Raises NoHome, an OSError, where there is no such folder.
    """
    return _in_user_data("VIT_EDU_MINE", "mine", "folder")


def patience():
    """The minutes that a rank waits for the others: VIT_EDU_PATIENCE, or 10. Raises SettingError for what is no time."""
    asked = _asked("VIT_EDU_PATIENCE") or "10"
    try:
        minutes = float(asked)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise SettingError(f"VIT_EDU_PATIENCE is {asked!r}; expected a number of minutes, such as 10 or 0.5.")
    return minutes


def languages():
    """The languages that were asked for, in lower case, preferred ones first: ["pt_br", "pt", "en"]. English is always the last.

    VIT_EDU_LANG, else the locale of the environment (LC_ALL, LC_MESSAGES, LANG), else that of the system.
    """
    asked = _asked("VIT_EDU_LANG") or next(
        (v for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (v := _asked(name))), None
    )
    code = (asked or locale.getlocale()[0] or "en").split(".")[0].split("@")[0].replace("-", "_").lower()
    return list(dict.fromkeys([code, code.split("_")[0], "en"]))


def course_root():
    """The folder that holds lessons/ and solutions/: the current one, one above it, or that of the package; else None."""
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[1]):
        if (folder / "lessons" / FIRST_LESSON).exists() or (folder / "solutions" / FIRST_LESSON).exists():
            return folder
    return None
