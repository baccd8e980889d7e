"""What the environment decides. Every VIT_EDU_* name is read here and nowhere else, each time it is needed.

| name | what it sets |
|---|---|
| VIT_EDU_DATA | the images: cifar10, shapes, or a folder (see `data.load`) |
| VIT_EDU_CACHE | the folder for downloads; the platform's cache folder for vit_edu where it is not set |
| VIT_EDU_NETWORK | off: nothing is downloaded and no server is asked |
| VIT_EDU_FAST | 1: training in seconds and no download of weights, for tests |
| VIT_EDU_LANG | the language of the checker's answers, such as en; else that of the locale, else English |
| VIT_EDU_PROGRESS | the file that keeps what a learner has solved, or off |
"""

import locale
import os
import re
from pathlib import Path

NAMES = re.findall(r"^\| (VIT_EDU_\w+) \|", __doc__, re.M)


def _asked(name):
    return os.environ.get(name, "").strip()


def data():
    """The images that VIT_EDU_DATA asks for: "cifar10", "shapes", a path, or "" for none in particular."""
    return _asked("VIT_EDU_DATA")


def cache_dir():
    """The one folder that holds downloads: VIT_EDU_CACHE, else the platform's cache folder for vit_edu."""
    import platformdirs  # imported only here, so that a machine that only trains can do without it

    return Path(_asked("VIT_EDU_CACHE") or platformdirs.user_cache_dir("vit_edu")).expanduser()


def network():
    """Whether connections are allowed: False if VIT_EDU_NETWORK=off forbids them."""
    return _asked("VIT_EDU_NETWORK").lower() not in ("off", "0", "no", "false")


def fast():
    """Whether VIT_EDU_FAST=1 asks for training in seconds, for tests."""
    return _asked("VIT_EDU_FAST").lower() not in ("", "0", "off", "no", "false")


def progress_file():
    """The file that keeps what was solved: VIT_EDU_PROGRESS, else progress.json in the user's data folder; None for "off"."""
    import platformdirs

    asked = _asked("VIT_EDU_PROGRESS")
    if asked == "off":
        return None
    return Path(asked or Path(platformdirs.user_data_dir("vit_edu")) / "progress.json").expanduser()


def languages():
    """The languages that were asked for, in lower case, preferred ones first: ["pt_br", "pt", "en"]. English is always the last.

    VIT_EDU_LANG, else the locale of the environment (LC_ALL, LC_MESSAGES, LANG), else that of the system.
    """
    asked = _asked("VIT_EDU_LANG") or next(
        (v for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (v := _asked(name))), None
    )
    code = (asked or locale.getlocale()[0] or "en").split(".")[0].split("@")[0].replace("-", "_").lower()
    return list(dict.fromkeys([code, code.split("_")[0], "en"]))
