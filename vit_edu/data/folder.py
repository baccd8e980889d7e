"""A folder of images, with one folder per class."""

import errno
import os
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch

from vit_edu.data import pictures
from vit_edu.data.sets import Data, DataError, Split

IMAGE_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
}


def image_folder(path, size=32, reason="it was asked for."):
    """Read a folder of images, with one folder per class, into `Data`.

    path: holds `train/` and `test/` (or `val/`), each with one folder per class. It may also hold the class folders
    themselves: then a fifth of the images of each, drawn with a fixed seed, become test images. Images are read as viewers
    show them (see `pictures.as_shown`), in RGB and at size x size pixels (the short side is resized, and the middle cut
    out). What is not read is counted in the `reason`, with its cause. Raises DataError, which names the folder or file at
    fault.
    """
    require_size(size)
    *parts, left_out = check_folder(path)
    (train, several), (test, more) = (_read(part, size) for part in parts)
    reason = with_remarks(reason, left_out, several + more)
    return Data.measured(train, test, list(parts[0]), "folder", reason)


def require_size(size):
    """Raise DataError unless it is a number of pixels."""
    if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
        raise DataError(
            f"size is the number of pixels along a side, a whole number of at least 1, got {size!r}."
        )


def with_remarks(reason, left_out, several=0, *more):
    """The reason, with what is left out, how many files have further frames or pages, and more remarks ("" for none)."""
    said = f"Files with several frames or pages: {several:,}; only the first of each was read."
    return " ".join(filter(None, [reason, str(left_out), said * bool(several), *more]))


def pictures_in(path, most=16):
    """The image files that lie in a folder itself, `most` of them: {file name: PIL image in mode "RGB"}, in the order of the names.

    They are read as viewers show them (see `pictures.as_shown`), in their own sizes. Other files and folders are passed over.
    Raises DataError for a folder that cannot be looked into and for a file that cannot be read, and names it.
    """
    path = Path(path)
    _, files = look_into(path, LeftOut(path, "a folder with images in it"))
    return {name_of(file): opened(file)[0] for file in files[:most]}


def check_folder(path):
    """List the files of an image folder without reading them: ({class: files}, {class: files}, what is left out).

    The first is for training and the second for testing. The third counts files that are not read, and str() gives a sentence.
    Raises DataError as `image_folder` does.
    """
    train, test, left_out = survey(Path(path), IMAGES)
    if sorted(train) == ["images", "masks"]:
        raise DataError(
            f"{path} holds images and their masks, and no classes: read it with data.mask_folder. If these are two classes, "
            "give them other names."
        )
    return train, test, left_out


@dataclass(frozen=True)
class Layout:
    """What the class folders of a data set hold.

    unit: "image". wanted: what the path should name. expected: a sentence that says the same and gives an example.
    items: a class folder and a `LeftOut` -> (the images in it, a sentence that explains why there are none, or "").
    """

    unit: str
    wanted: str
    expected: str
    items: callable


def _images_in(folder, left_out):
    inside, images = look_into(folder, left_out)
    for below in inside:
        left_out.add(below, "in folders below the class folders")
    if images or not inside:
        return images, ""
    return images, (
        f"Folders below a class folder, such as {inside[0].relative_to(left_out.root)}, are not read. "
    )


IMAGES = Layout(
    "image",
    "a folder with one folder of images per class",
    "Expected one folder per class, with images in it, such as cats/1.jpg and dogs/1.jpg.",
    _images_in,
)


def survey(path, layout):
    """(items for training, items for testing, what is left out): two dicts {class: items}, and a `LeftOut`."""
    left_out = LeftOut(path, layout.wanted)
    folders, loose = look_into(path, left_out)
    if test_name := name_of_test(folders):
        return *_in_two_parts(path, test_name, folders, loose, left_out, layout), left_out
    train, test, generator = {}, {}, torch.Generator().manual_seed(0)
    for name, items in _listing(path, folders, loose, left_out, layout).items():
        if len(items) < 2:
            raise DataError(
                f"the class {name!r} in {path} has a single {layout.unit}; at least two are needed, "
                "one to train and one to test on."
            )
        train[name], test[name] = split_off_a_fifth(items, generator)
    return train, test, left_out


def name_of_test(folders):
    """The name of the folder with what is for testing, "test" or "val", if there is one beside train/; else None."""
    names = [p.name for p in folders]
    return next((n for n in ("test", "val") if n in names), None) if "train" in names else None


def split_off_a_fifth(items, generator):
    """(the rest, a fifth of the items, at least one), in random order."""
    items = [items[i] for i in torch.randperm(len(items), generator=generator)]
    cut = max(1, len(items) // 5)
    return items[cut:], items[:cut]


def leave_beside(test_name, folders, loose, left_out):
    """Count what lies beside train/ and the folder for testing and is not read."""
    for unused in [p for p in folders if p.name not in ("train", test_name)]:
        if unused.name == "val":
            left_out.add(unused, f"in val/, because {test_name}/ is there")
        else:
            loose = [*loose, unused]
    for other in loose:
        left_out.add(other, f"beside train/ and {test_name}/")


def _in_two_parts(path, test_name, folders, loose, left_out, layout):
    """The two dicts of a folder that holds train/ and test/ or val/."""
    others = [p.name for p in folders if p.name not in ("train", "test", "val")]
    if others:
        raise DataError(
            f"{path} holds train/ and {test_name}/, but also {', '.join(others[:3])}. "
            "Put every class folder into train/ and test/, or have no train/ at all."
        )
    leave_beside(test_name, folders, loose, left_out)
    train, test = (
        _listing(part, *look_into(part, left_out), left_out, layout)
        for part in (path / "train", path / test_name)
    )
    if list(train) != list(test):
        differ = sorted(set(train) ^ set(test))
        raise DataError(
            f"train/ and {test_name}/ in {path} do not have the same classes: "
            f"{', '.join(spelt(name) for name in differ[:5])} are in only one of them."
        )
    return train, test


def _listing(path, folders, loose, left_out, layout):
    """{class name: its items}. Raises DataError unless the folder holds one folder of them per class."""
    if folders and loose:
        raise DataError(
            f"{path} mixes {len(loose)} images ({loose[0].name}, ...) with class folders "
            f"({folders[0].name}, ...). {layout.expected} Move each image into the folder of its class."
        )
    if len(folders) < 2:
        found = f"{len(loose)} images and no folder" if loose else f"{len(folders)} class folders"
        raise DataError(f"{path} holds {found}; at least two classes are needed. {layout.expected}")
    listing, cause = {}, ""
    for folder in folders:
        name = name_of(folder)
        if name in listing:
            raise DataError(
                f"{path} holds two class folders whose names look the same, {name}: they are two spellings of it in Unicode. "
                f"Move the {layout.unit}s of one into the other."
            )
        listing[name], why = layout.items(folder, left_out)
        cause = why or cause
    empty = [name for name, items in listing.items() if not items]
    if empty:
        raise DataError(
            f"there are no {layout.unit}s in the class folder{'s' if len(empty) > 1 else ''} {', '.join(empty[:5])} of {path}. "
            f"{cause}{layout.expected} Image files end in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return listing


# ---------------------------------------------------------------- what is in a folder, and what of it is left out


class LeftOut:
    """How many files of a folder are not read, by cause. str() gives a sentence, or "" if there are none.

    wanted: what `root` should be, for the errors of those who look into it.
    """

    def __init__(self, root, wanted="a folder"):
        self.root, self.wanted = root, wanted
        self.causes = {}  # cause -> [count, the first of them]

    def add(self, path, cause):
        """Count a file, or all files below a folder."""
        if count := _count_files(path):
            self.causes.setdefault(cause, [0, path])[0] += count

    def __str__(self):
        parts = [
            f"{count:,} file{'s' if count > 1 else ''} {cause} ({'such as ' if count > 1 else ''}{first.relative_to(self.root)})"
            for cause, (count, first) in self.causes.items()
        ]
        return f"Left out: {'; '.join(parts)}." if parts else ""


def look_into(folder, left_out, passed_over=()):
    """(the folders, the image files) that a folder holds, in the order of their names. The rest is added to `left_out`.

    passed_over: files that are used for something else. Raises DataError for a folder that cannot be looked into.
    """
    folders, images = [], []
    try:
        for path in sorted(folder.iterdir(), key=lambda p: PurePath(name_of(p))):
            kind = _kind(path)
            if passed_over and path.resolve() in [other.resolve() for other in passed_over]:
                continue
            if path.name.startswith("."):
                left_out.add(path, "that are hidden, with a dot in front")
            elif path.name == "__MACOSX":
                left_out.add(path, "that a Mac adds to archives")
            elif kind == "folder":
                folders.append(path)
            elif kind == "file" and path.suffix.lower() in IMAGE_SUFFIXES:
                images.append(path)
            elif kind == "file":
                suffix = path.suffix.lower()
                left_out.add(path, f"ending in {suffix}" if suffix else "without an ending such as .png")
            else:
                left_out.add(path, kind)
    except OSError as error:
        raise may_not(error, error.filename or folder, left_out.wanted) from error
    return folders, images


def _kind(path):
    """ "file", "folder", or why it is neither."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return "that are links to nowhere"
        raise
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "that hold no data, such as pipes"


def _count_files(path):
    if not path.is_dir():
        return 1

    def fail(error):
        raise may_not(error, error.filename)

    return sum(len(files) for _, _, files in os.walk(path, onerror=fail))


def may_not(error, path, wanted="a folder"):
    if isinstance(error, PermissionError):
        return DataError(f"{path} may not be read by you ({error.strerror}). Change its permissions.")
    if isinstance(error, FileNotFoundError):
        return DataError(f"there is no {path}. Name {wanted}.")
    if isinstance(error, NotADirectoryError):
        return DataError(f"{path} is not a folder. Name {wanted}.")
    return DataError(f"{path} cannot be read ({error.strerror or error}).")


def name_of(path):
    """The name of a file as text in one Unicode form (NFC), whatever the locale, and whoever wrote it."""
    return unicodedata.normalize("NFC", os.fsencode(path.name).decode("utf-8", "backslashreplace"))


def spelt(name):
    """A name, with its code points where it may look like another."""
    return name if name.isascii() and name == name.strip() else f"{name} (spelt {name!a})"


# ---------------------------------------------------------------- the images themselves


def _read(listing, size):
    """(a `Split`, how many of its files have further frames)."""
    files = [(file, label) for label, group in enumerate(listing.values()) for file in group]
    images = np.empty((len(files), size, size, 3), np.uint8)
    several = 0
    for image, (file, _) in zip(images, files, strict=True):
        pixels, more = opened(file)
        image[:] = np.asarray(to_size(pixels, size))
        several += bool(more)
    labels = torch.tensor([label for _, label in files])
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels), several


def to_size(image, size, resample=None):
    """A PIL image at size x size pixels: the short side is resized, and the middle cut out. resample: bicubic, unless given."""
    from PIL import Image, ImageOps

    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC if resample is None else resample)


def opened(file):
    """(a PIL image in mode "RGB", as viewers show it, how many further frames or pages there are).

    Raises DataError for a file that cannot be read, and names it.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            more = pictures.frames_left_out(image)
            return pictures.as_shown(image).convert("RGB"), more
    except PermissionError as error:
        raise may_not(error, file) from error
    except DataError as error:
        raise DataError(f"{file} cannot be used: {error}") from error
    except Exception as error:  # damaged files raise many kinds
        raise DataError(
            f"{file} cannot be read as an image ({error}). Remove it or save it again."
        ) from error
