"""Which images to use. It is decided in this one place, without waiting for a dead network, and explained in words."""

from pathlib import Path

from vit_edu import settings
from vit_edu.data import cifar10
from vit_edu.data.drawing import shapes
from vit_edu.data.folder import image_folder
from vit_edu.data.scenes import clips, scenes
from vit_edu.data.sets import DataError

GENERATED = {"shapes": shapes, "scenes": scenes, "clips": clips}


def choose(source=None):
    """Decide which data to use, without loading or downloading anything. Returns (kind, path or None, reason).

    source: "cifar10", a key of GENERATED, or a path; None for what VIT_EDU_DATA names, if anything.
    kind is "cifar10", "archive" (a CIFAR-10 archive to unpack), "folder", "download" or a key of GENERATED.
    Raises DataError when what was asked for is not a data set.
    """
    asked, who = _asked(source)
    if asked in GENERATED:
        return asked, None, f"{who} {asked}."
    if asked and asked != "cifar10":
        path = _path(asked, who)
        try:
            there = path.exists()
        except OSError as error:
            raise _cannot_look(path, who, error) from error
        if not there:
            raise DataError(
                f"{who} {path}, but there is nothing of that name. Expected cifar10, {', '.join(GENERATED)}, a folder with CIFAR-10 or its "
                "archive, or a folder with one folder of images per class. Name one of these, or nothing at all to get the "
                "data of the course."
            )
        kind, place = _what_is_in(path, who)
        return kind, place, f"{who} {path}."
    try:
        cache = settings.cache_dir()
        kind, place = _what_is_in(cache, who) if cache.is_dir() else ("folder", None)
    except (OSError, DataError):  # no such folder, or none that may be read: the download says so
        kind = "folder"
    if kind != "folder":
        return kind, place, f"it is in the cache folder, {cache}."
    if asked:
        return "download", None, f"{who} {asked}."
    return "download", None, "it is the data of the course and is not on this machine yet."


def _asked(source):
    """What was asked for ("" for nothing in particular), and words that say who asked for it."""
    asked, who = (str(source).strip(), "you asked for") if source else (settings.data(), "VIT_EDU_DATA names")
    word = asked.lower().replace("-", "")
    return (word if word in ("cifar10", *GENERATED) and not Path(asked).exists() else asked), who


def _path(asked, who):
    try:
        return Path(asked).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{who} {asked}, and there is no home folder of that user. Name the folder without ~."
        ) from error


def _cannot_look(path, who, error):
    return DataError(
        f"{who} {path}, which cannot be looked at ({error.strerror}). Change the permissions of that folder and of those on "
        "the way to it, or name another one."
    )


def _what_is_in(path, who):
    archive, unpacked = "cifar-10-python.tar.gz", "cifar-10-batches-py"
    if path.name == archive and path.is_file():
        return "archive", path
    if path.is_file():
        raise DataError(
            f"{who} the file {path}; expected a folder, or CIFAR-10's {archive}. "
            "Name the folder that holds the images."
        )
    if path.name == unpacked:
        return "cifar10", path.parent
    try:
        if (path / unpacked).is_dir():
            return "cifar10", path
        if (path / archive).is_file():
            return "archive", path / archive
    except OSError as error:
        raise _cannot_look(path, who, error) from error
    return "folder", path


def load(size=32, source=None):
    """The data of the course: CIFAR-10 if it is on this machine or can be downloaded, your own folder, or generated shapes.

    The first of these that is possible is taken, and `.reason` says why:
    1. What `source` names, or else VIT_EDU_DATA: a folder (with CIFAR-10, its archive, or one folder of images per class),
       "cifar10", or "shapes", "scenes" or "clips", which are generated (the last two for lesson 11).
    2. CIFAR-10 in the cache folder.
    3. CIFAR-10 from the network, verified, if a server answers within seconds.
    4. Shapes, generated on the spot.

    size: images from a folder are brought to size x size pixels. Returns `Data`.
    Raises DataError when something was asked for by name and is not available. A dead network or a disk that is full or
    read-only is an error only if "cifar10" was asked for. Otherwise shapes are generated, and the reason says why.
    """
    kind, path, reason = choose(source)
    if kind == "download":
        try:
            path, kind = cifar10.download_cifar10(), "cifar10"
            reason = f"it was downloaded, verified and put into {path}."
        except DataError as error:
            if _asked(source)[0] == "cifar10":
                raise
            kind, reason = "shapes", f"CIFAR-10 is not on this machine and could not be downloaded: {error}"
    if kind == "archive":
        path, kind = cifar10.unpack_archive(path), "cifar10"
    if kind == "cifar10":
        return cifar10.load_cifar10(path, reason)
    if kind == "folder":
        return image_folder(path, size, reason)
    return GENERATED[kind](reason=reason)
