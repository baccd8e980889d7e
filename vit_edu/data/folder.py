"""A folder of images, with one folder per class."""

from pathlib import Path

import numpy as np
import torch

from vit_edu.data.sets import Data, DataError, Split

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}


def image_folder(path, size=32, reason="it was asked for."):
    """Read a folder of images, with one folder per class, into `Data`.

    path: holds `train/` and `test/` (or `val/`), each with one folder per class. It may also hold the class folders
    themselves: then a fifth of the images of each, drawn with a fixed seed, become test images. Images are converted to
    RGB and to size x size pixels (the short side is resized, and the middle cut out). Raises DataError, which names the
    folder or file at fault.
    """
    train, test = check_folder(path)
    return Data.measured(_read(train, size), _read(test, size), list(train), "folder", reason)


def check_folder(path):
    """List the files of an image folder without reading them: ({class: files}, {class: files}), for training and for testing.

    Raises DataError as `image_folder` does.
    """
    path = Path(path)
    test_name = next((n for n in ("test", "val") if (path / n).is_dir()), None)
    if (path / "train").is_dir() and test_name:
        others = sorted(p.name for p in _subfolders(path) if p.name not in ("train", "test", "val"))
        if others:
            raise DataError(
                f"{path} holds train/ and {test_name}/, but also {', '.join(others[:3])}. "
                "Put every class folder into train/ and test/, or have no train/ at all."
            )
        train, test = _listing(path / "train"), _listing(path / test_name)
        if list(train) != list(test):
            differ = sorted(set(train) ^ set(test))
            raise DataError(
                f"train/ and {test_name}/ in {path} do not have the same classes: {', '.join(differ[:5])} "
                "are in only one of them."
            )
        return train, test
    train, test, generator = {}, {}, torch.Generator().manual_seed(0)
    for name, files in _listing(path).items():
        if len(files) < 2:
            raise DataError(
                f"the class {name!r} in {path} has a single image; at least two are needed, "
                "one to train and one to test on."
            )
        files = [files[i] for i in torch.randperm(len(files), generator=generator)]
        cut = max(1, len(files) // 5)
        train[name], test[name] = files[cut:], files[:cut]
    return train, test


def _subfolders(path):
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images_in(path):
    return sorted(
        p
        for p in path.iterdir()
        if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() and not p.name.startswith(".")
    )


def _listing(path):
    """{class name: image files}. Raises DataError unless the folder holds one folder of images per class."""
    folders, loose = _subfolders(path), _images_in(path)
    expected = "Expected one folder per class, with images in it, such as cats/1.jpg and dogs/1.jpg."
    if folders and loose:
        raise DataError(
            f"{path} mixes {len(loose)} images ({loose[0].name}, ...) with class folders "
            f"({folders[0].name}, ...). {expected} Move each image into the folder of its class."
        )
    if len(folders) < 2:
        found = f"{len(loose)} images and no folder" if loose else f"{len(folders)} class folders"
        raise DataError(f"{path} holds {found}; at least two classes are needed. {expected}")
    listing = {folder.name: _images_in(folder) for folder in folders}
    empty = [name for name, files in listing.items() if not files]
    if empty:
        raise DataError(
            f"there are no images in the class folder{'s' if len(empty) > 1 else ''} {', '.join(empty[:5])} of {path}. "
            f"{expected} Image files end in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return listing


def _read(listing, size):
    files = [(file, label) for label, group in enumerate(listing.values()) for file in group]
    images = np.empty((len(files), size, size, 3), np.uint8)
    for image, (file, _) in zip(images, files, strict=True):
        image[:] = _read_image(file, size)
    labels = torch.tensor([label for _, label in files])
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels)


def _read_image(file, size):
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            image = image.convert("RGB")
            if image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{file} cannot be read as an image ({error}). Remove it or save it again."
        ) from error
