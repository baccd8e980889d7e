"""Your own images with more than a label: a mask for each, boxes from a COCO file, or clips as folders of frames."""

import json
import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from vit_edu.data import pictures
from vit_edu.data.folder import (
    IMAGE_SUFFIXES,
    Layout,
    LeftOut,
    leave_beside,
    look_into,
    may_not,
    name_of,
    name_of_test,
    opened,
    require_size,
    split_off_a_fifth,
    survey,
    to_size,
    with_remarks,
)
from vit_edu.data.sets import Data, DataError, Split

# ---------------------------------------------------------------- masks

MASKED = (
    "Expected the folders images/ and masks/, whose files have the same names, such as images/1.jpg and masks/1.png; or "
    "train/ and test/ with two such folders each."
)


def mask_folder(path, classes=None, size=32, reason="it was asked for."):
    """Read images and their masks, with a class for every pixel, into `Data`.

    path: holds `images/` and `masks/`, with the same names but for the ending: images/1.jpg and masks/1.png. It may also hold
    `train/` and `test/` (or `val/`) with two such folders each; otherwise a fifth of the images, drawn with a fixed seed,
    become test images. A mask is a PNG whose values are the numbers of the classes, 0 for the background: a grey
    picture, or one with a palette, whose colours do not matter. It has the size of its image, as viewers show that.
    classes: the names of the classes 1, 2, ... Without names, the largest number in the masks says how many there are.
    Images and masks are brought to size x size pixels alike (the short side is resized, and the middle cut out), the masks by
    taking the nearest pixel. They become the target "mask" (N, size, size), uint8. The label of an image is the
    class that has most of its pixels besides the background, counted from 0 as in `Data.classes`; -1 if there is none.
    What is not read is counted in the `reason`. Raises DataError, which names the folder or file at fault.
    """
    require_size(size)
    path, names = Path(path), _require_names(classes)
    left_out = LeftOut(path, "a folder with the folders images/ and masks/")
    parts = _masked_parts(path, left_out)
    splits, several = [], 0
    for pairs in parts:
        split, more = _read_masked(pairs, size, names)
        splits.append(split)
        several += more
    train, test = splits
    found = max(int(split.targets["mask"].max()) for split in splits) if names is None else len(names)
    if not found:
        raise DataError(
            f"the masks in {path} hold the number 0 alone, the background. Expected a class, 1 or above, in some of their pixels."
        )
    names = [f"class {number}" for number in range(1, found + 1)] if names is None else names
    there = train.targets["mask"].unique().tolist()
    absent = [name for number, name in enumerate(names, start=1) if number not in there]
    reason = with_remarks(reason, left_out, several, _never("pixel", absent))
    return Data.measured(train, test, names, "folder", reason)


def _require_names(classes):
    """The names of the classes as a list, or None. Raises DataError for what is no list of different names."""
    if classes is None:
        return None
    if not isinstance(classes, list | tuple) or not all(isinstance(n, str) and n.strip() for n in classes):
        raise DataError(f'classes is a list of names, such as ["cat", "dog"], got {classes!r}.')
    names = list(classes)
    if names and names[0].strip().lower() == "background":
        raise DataError(
            "the background is the number 0 in masks and has no place in `classes`, whose first name is that of class 1. "
            "Leave it out."
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(
            f"the name {twice[0]!r} stands twice in `classes`. Give each class a name of its own."
        )
    if not 1 <= len(names) <= 255:
        raise DataError(f"a mask can tell 1 to 255 classes apart, got the names of {len(names)}.")
    return names


def _never(what, absent):
    """A remark on classes that cannot be learned."""
    if not absent:
        return ""
    more = f", and {len(absent) - 5} more" if len(absent) > 5 else ""
    return f"Classes of which there is no {what} in the training images: {', '.join(absent[:5])}{more}."


def _masked_parts(path, left_out):
    """The pairs (image file, mask file) for training, and those for testing."""
    folders, loose = look_into(path, left_out)
    here = [p.name for p in folders if p.name in ("images", "masks")]
    test_name = name_of_test(folders)
    if test_name and here:
        raise DataError(
            f"{path} holds train/ and {test_name}/, but also {', '.join(f'{name}/' for name in here)}. Put all images and masks "
            "into train/ and test/, or have no train/ at all."
        )
    if test_name:
        leave_beside(test_name, folders, loose, left_out)
        return [
            _pairs(path / name, *look_into(path / name, left_out), left_out) for name in ("train", test_name)
        ]
    pairs = _pairs(path, folders, loose, left_out)
    return _halves(pairs, path)


def _halves(items, path):
    """(four fifths for training, a fifth for testing), drawn with a fixed seed. Raises DataError for a single image."""
    if len(items) < 2:
        raise DataError(
            f"{path} holds {len(items)} image; at least two are needed, one to train and one to test on."
        )
    return split_off_a_fifth(items, torch.Generator().manual_seed(0))


def _pairs(path, folders, loose, left_out):
    """[(image file, mask file)] of a folder with images/ and masks/, in the order of the images' names."""
    names = [p.name for p in folders]
    if not {"images", "masks"} <= set(names):
        found = ", ".join(f"{name}/" for name in names[:5]) or "no folder"
        raise DataError(f"{path} holds {found}. {MASKED}")
    for other in [*(p for p in folders if p.name not in ("images", "masks")), *loose]:
        left_out.add(other, "beside images/ and masks/")
    images, masks = (_by_stem(path / name, left_out) for name in ("images", "masks"))
    if not images and not masks:
        raise DataError(f"there are no images in {path / 'images'}. {MASKED}")
    for have, lack, what, other in ((images, masks, "image", "mask"), (masks, images, "mask", "image")):
        if alone := [file for stem, file in have.items() if stem not in lack]:
            count = f"{len(alone)} {what}s have" if len(alone) > 1 else f"one {what} has"
            example = f" A {other} is called {next(iter(lack.values()))}, for example." if lack else ""
            raise DataError(
                f"in {path}, {count} no {other} of the same name, such as {alone[0]}: expected "
                f"{path / f'{other}s' / alone[0].stem}{'.png' if other == 'mask' else '.jpg'} or the like.{example} "
                f"Add the {other}, or move the {what} elsewhere."
            )
    for mask in masks.values():
        if mask.suffix.lower() != ".png":
            raise DataError(
                f"{mask} is no PNG file. A JPEG changes the numbers of the classes a little, and other kinds may, too. Export the "
                "masks as PNG; do not convert a JPEG."
            )
    return [(images[stem], masks[stem]) for stem in images]


def _by_stem(folder, left_out):
    """{name without its ending: image file}, in the order of the names."""
    below, files = look_into(folder, left_out)
    for each in below:
        left_out.add(each, "in folders below images/ and masks/")
    found = {}
    for file in files:
        stem = PurePosixPath(name_of(file)).stem
        if stem in found:
            raise DataError(
                f"{found[stem]} and {file.name} have the same name but for the ending, so it is not known which of them is meant. "
                "Rename or remove one."
            )
        found[stem] = file
    return found


def _read_masked(pairs, size, names):
    """(a `Split` with "mask", how many of its files have further frames)."""
    from PIL import Image

    images = np.empty((len(pairs), size, size, 3), np.uint8)
    masks = np.empty((len(pairs), size, size), np.uint8)
    most = 254 if names is None else len(names)
    several = 0
    for row, (image_file, mask_file) in enumerate(pairs):
        image, more = opened(image_file)
        numbers, further = _numbers(mask_file)
        several += bool(more) + bool(further)
        _require_same_size(image, image_file, numbers, mask_file)
        _require_known(numbers, mask_file, most, names)
        mask = Image.fromarray(numbers.astype(np.uint8))
        images[row], masks[row] = to_size(image, size), to_size(mask, size, Image.Resampling.NEAREST)
    masks = torch.from_numpy(masks)
    counts = torch.stack([mask.flatten().long().bincount(minlength=256)[1:] for mask in masks])  # (N, 255)
    labels = counts.argmax(dim=1).where(counts.any(dim=1), -1)
    return Split(_channels_first(images), labels, {"mask": masks}), several


def _channels_first(images):
    return torch.from_numpy(images).movedim(-1, -3).contiguous()


def _numbers(file):
    """(the numbers in a mask, (H, W), how many further frames there are). Raises DataError for what holds colours, not numbers."""
    from PIL import Image

    try:
        with Image.open(file) as mask:
            mode, more = mask.mode, pictures.frames_left_out(mask)
            if mode in ("1", "L", "P", "I", *pictures.SIXTEEN_BITS):
                numbers = np.asarray(pictures.upright(mask)).astype(np.int64)
                return numbers // _scale(file) if mode == "L" else numbers, more
    except PermissionError as error:
        raise may_not(error, file) from error
    except Exception as error:  # damaged files raise many kinds
        raise DataError(f"{file} cannot be read as a mask ({error}). Remove it or save it again.") from error
    raise DataError(
        f"{file} is a picture in colours (mode {mode!r}), and it is not known which colour stands for which class. Expected a PNG with "
        "the number of a class in each pixel: 8 bits of grey, or a palette. Export it as such, or turn each colour "
        "into its number."
    )


def _scale(file):
    """What the grey values of a PNG are multiplied by when it is read: with 2 or 4 bits, they are stretched to 0..255."""
    head = file.read_bytes()[:26]  # byte 24: how many bits a value has; byte 25: 0 for grey
    bits = head[24] if head[:4] == b"\x89PNG" and head[25] == 0 else 8
    return 255 // (2**bits - 1) if bits in (2, 4) else 1


def _require_same_size(image, image_file, numbers, mask_file):
    height, width = numbers.shape
    if image.size == (width, height):
        return
    why = "Draw or export it at the size of the image."
    if image.size == (height, width) and _is_turned(image_file):
        why = (
            "The camera noted that the image is to be turned, which viewers do and whoever drew the mask did not. Save the "
            "image upright, and turn the mask with it."
        )
    raise DataError(
        f"{mask_file} has {width} x {height} pixels, and its image {image_file} has {image.width} x {image.height}. "
        f"A mask has a class for each pixel of its image. {why}"
    )


def _is_turned(file):
    """Does a note of the camera say that the image is to be turned by a quarter?"""
    from PIL import Image

    with Image.open(file) as image:
        return image.getexif().get(0x0112) in (5, 6, 7, 8)


def _require_known(numbers, file, most, names):
    if numbers.min() >= 0 and numbers.max() <= most:
        return
    row, col = np.argwhere((numbers < 0) | (numbers > most))[0].tolist()
    number = int(numbers[row, col])
    listed = "0 (the background)" + (
        f" to {most}" if names is None else f" and 1 to {most} ({', '.join(names[:5])})"
    )
    hint = "Correct the mask, or name all classes."
    if set(np.unique(numbers).tolist()) == {0, 255}:
        hint = "It is black and white, it seems: write 1 where it is white."
    elif number == 255:
        hint = "255 often stands for pixels that nobody has judged. There is no such number here: write 0 there, or a class."
    raise DataError(
        f"{file} holds the class number {number} in row {row}, column {col}; expected {listed}. {hint}"
    )


# ---------------------------------------------------------------- boxes, as COCO has them

SLACK = 1.0  # pixels by which a box may reach beyond its image: programs round in many ways


@dataclass(frozen=True)
class _Labelled:
    """An image of a COCO file. name: as in the file. size: (width, height) there, or None. objects: [(what it is called, category, box)]."""

    name: str
    size: tuple | None
    objects: list


def coco_folder(images, annotations, size=32, reason="it was asked for."):
    """Read images and the boxes of a COCO file into `Data`.

    images: the folder with the images. annotations: the JSON file, with "images" (id, file_name), "annotations" (image_id,
    category_id, bbox = [x, y, width, height] in pixels) and "categories" (id, name). Each file_name is looked for in `images`.
    A fifth of the images, drawn with a fixed seed, become test images; unless `images` holds `train/` and `test/` (or `val/`):
    then `annotations` is a folder with train.json and test.json (or val.json). Images are brought to size x size pixels (the
    short side is resized, and the middle cut out), and boxes move with them and are cut off at the border. Targets, where
    M is the most objects of an image:
    "boxes" (N, M, 4), float32: x1, y1, x2, y2 in pixels; rows of -1 are unused.
    "classes" (N, M), int64: an index into `Data.classes`, which are in the order of the category ids; -1 where unused.
    The label of an image is the class of its first object, -1 if it has none. Crowds (iscrowd = 1) have no box of their own and
    are left out. What is left out is counted in the `reason`. Raises DataError, which names the file at fault and the entry in it.
    """
    require_size(size)
    images, annotations = Path(images), Path(annotations)
    left_out = LeftOut(images, "the folder with the images")
    parts, names, crowds = _coco_parts(images, annotations, left_out)
    read = [_read_boxed(part, size) for part in parts]
    several, outside = (sum(r[i] for r in read) for i in (2, 3))
    M = max(1, *(len(boxes) for _, objects, _, _ in read for boxes, _ in objects))
    train, test = (_boxed(pixels, objects, M) for pixels, objects, _, _ in read)
    if not max(int(split.targets["classes"].max()) for split in (train, test)) >= 0:
        raise DataError(
            f'{annotations} has no box for any of the images. Expected some in its "annotations".'
        )
    there = train.targets["classes"].unique().tolist()
    remarks = [
        f"Crowds, which are no single objects, left out: {crowds:,}." * bool(crowds),
        f"Boxes beyond the middle of their image, left out with what was cut off: {outside:,}."
        * bool(outside),
        _never("box", [name for index, name in enumerate(names) if index not in there]),
    ]
    return Data.measured(train, test, names, "folder", with_remarks(reason, left_out, several, *remarks))


def _coco_parts(images, annotations, left_out):
    """([(file, `_Labelled`)] for training and for testing, the names of the classes, how many crowds are left out)."""
    folders, _ = look_into(images, LeftOut(images, left_out.wanted))
    test_name = name_of_test(folders)
    if not test_name:
        if os.path.isdir(annotations):
            raise DataError(
                f"{annotations} is a folder, and {images} does not hold train/ and test/. Name the JSON file with the annotations."
            )
        listed, categories, crowds = _read_coco(annotations)
        return (
            _halves(_found(listed, images, annotations, left_out), images),
            list(categories.values()),
            crowds,
        )
    if not os.path.isdir(annotations):
        raise DataError(
            f"{images} holds train/ and {test_name}/, so two files with annotations are needed. Name the folder that holds "
            f"them as train.json and {test_name}.json."
        )
    files = [annotations / f"{name}.json" for name in ("train", test_name)]
    leave_beside(test_name, *look_into(images, left_out, passed_over=files), left_out)
    read = [_read_coco(file) for file in files]
    if read[0][1] != read[1][1]:
        raise DataError(f'{files[0]} and {files[1]} do not have the same "categories", with the same ids.')
    parts = [
        _found(listed, images / name, file, left_out)
        for (listed, _, _), name, file in zip(read, ("train", test_name), files, strict=True)
    ]
    return parts, list(read[0][1].values()), read[0][2] + read[1][2]


def _read_coco(file):
    """([`_Labelled`], {category id: name} in the order of the ids, how many crowds are left out)."""
    content = _parsed(file)
    categories = _by_id(content, "categories", "name", file)
    for twice in [name for name, count in Counter(categories.values()).items() if count > 1]:
        raise DataError(f"{file}: two categories are called {twice!r}. Give each a name of its own.")
    categories = dict(sorted(categories.items(), key=lambda item: (isinstance(item[0], str), item[0])))
    names = _by_id(content, "images", "file_name", file)
    for twice in [name for name, count in Counter(names.values()).items() if count > 1]:
        raise DataError(f"{file}: the image {twice!r} is listed twice, with different ids. Merge the two.")
    sizes = {entry["id"]: _listed_size(entry) for entry in content["images"]}
    objects, crowds = {image: [] for image in names}, 0
    places = {category: index for index, category in enumerate(categories)}
    for number, entry in enumerate(content["annotations"]):
        what = _called("annotation", entry, number, file)
        image, category = (_field(entry, key, what, file) for key in ("image_id", "category_id"))
        if not _is_id(image) or image not in objects:
            raise DataError(
                f'{file}: {what} belongs to image {image!r}, and no entry of "images" has this id.'
            )
        if not _is_id(category) or category not in places:
            raise DataError(
                f'{file}: {what} has the category {category!r}, which is unknown. Those in "categories" are '
                f"{', '.join(f'{known} ({name})' for known, name in list(categories.items())[:8])}."
            )
        if entry.get("iscrowd") in (1, True):
            crowds += 1
            continue
        objects[image].append((what, places[category], _box(entry, what, file)))
    listed = [_Labelled(name, sizes[image], objects[image]) for image, name in names.items()]
    return listed, categories, crowds


def _parsed(file):
    """The content of a COCO file, a dict with its three lists."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"there is no {file}. Name the JSON file with the annotations.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file} is no JSON: {error}. Export the annotations once more, as COCO JSON."
        ) from error
    wanted = ("images", "annotations", "categories")
    if not isinstance(content, dict):
        what = _kind(content) + ", as files of results have" * isinstance(content, list)
        raise DataError(
            f"{file} holds {what}; expected an object with {', '.join(map(repr, wanted))}, as COCO has for truth."
        )
    for key in wanted:
        if key not in content:
            there = ", ".join(map(repr, list(content)[:8])) or "nothing"
            raise DataError(f"{file} has no {key!r}, and so is no COCO file of objects. It has {there}.")
        if not isinstance(content[key], list):
            raise DataError(f"{file}: {key!r} is {_kind(content[key])}; expected a list.")
        if key != "annotations" and not content[key]:
            raise DataError(f"{file}: the list {key!r} is empty.")
    return content


def _kind(value):
    """What JSON calls a value that Python has read."""
    names = {bool: "true or false", str: "a string", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")


def _by_id(content, key, text, file):
    """{id: this text} of all entries of a list. Raises DataError for entries without, and for ids that occur twice."""
    found, singular = {}, {"images": "image", "categories": "category"}[key]
    for number, entry in enumerate(content[key]):
        what = _called(singular, entry, number, file)
        identity, value = _field(entry, "id", what, file), _field(entry, text, what, file)
        if not _is_id(identity) or not isinstance(value, str) or not value.strip():
            raise DataError(
                f"{file}: {what} needs a whole number as its 'id' and a text as its {text!r}, got {identity!r} and {value!r}."
            )
        if identity in found:
            raise DataError(f"{file}: two entries of {key!r} have the id {identity!r}.")
        found[identity] = value
    return found


def _listed_size(entry):
    """(width, height) as they are listed, or None: not every program writes them."""
    size = entry.get("width"), entry.get("height")
    return size if all(isinstance(side, int) for side in size) else None


def _is_id(value):
    return isinstance(value, int | str) and not isinstance(value, bool)


def _called(kind, entry, number, file):
    """What an entry is called in an error. DataError if it is no entry."""
    if not isinstance(entry, dict):
        raise DataError(
            f"{file}: {kind} number {number + 1} of the list is {_kind(entry)}; expected an object."
        )
    return (
        f"the {kind} with id {entry['id']!r}" if "id" in entry else f"{kind} number {number + 1} of the list"
    )


def _field(entry, key, what, file):
    if key not in entry:
        raise DataError(f"{file}: {what} has no {key!r}.")
    return entry[key]


def _box(entry, what, file):
    """x, y, width, height of an annotation, as floats."""
    box = _field(entry, "bbox", what, file)
    numbers = box if isinstance(box, list) else []
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e9 for v in numbers)
    if len(numbers) != 4 or not plain:
        raise DataError(f"{file}: {what} has the bbox {box!r}; expected four numbers, [x, y, width, height].")
    if numbers[2] <= 0 or numbers[3] <= 0:
        raise DataError(
            f"{file}: {what} has a box without area, {box}. Its width and height, the last two numbers, are above 0. Correct or "
            "remove it."
        )
    return [float(v) for v in numbers]


def _found(listed, folder, annotations, left_out):
    """[(file, `_Labelled`)]; files that no entry names are left out."""
    files = dict(_files_below(folder, folder, annotations, left_out))
    missing = [each.name for each in listed if _key(each.name) not in files]
    if missing:
        there = [
            name
            for name in missing
            if (folder / name).is_file() and PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES
        ]
        hint = (
            f" {there[0]} is there, but its ending is none of an image that can be read here."
            if there
            else ""
        )
        raise DataError(
            f"{len(missing)} of {len(listed)} images that {annotations} names are not in {folder}, such as {missing[0]}.{hint} "
            "Name the folder in which each file_name is found, or remove their entries."
        )
    named = {_key(each.name) for each in listed}
    for key, file in files.items():
        if key not in named:
            left_out.add(file, "that the annotations do not name")
    return [(files[_key(each.name)], each) for each in listed]


def _key(name):
    return unicodedata.normalize("NFC", str(PurePosixPath(name.replace("\\", "/"))))


def _files_below(folder, root, annotations, left_out):
    """(name from the root, file) of the images in a folder and in all folders below it."""
    below, files = look_into(folder, left_out, passed_over=[annotations])
    for file in files:
        yield _key("/".join(name_of(p) for p in [*_between(root, file), file])), file
    for each in below:
        yield from _files_below(each, root, annotations, left_out)


def _between(root, file):
    """The folders from the root down to a file."""
    return [p for p in reversed(file.parents) if root in p.parents]


def _read_boxed(part, size):
    """(images (N, size, size, 3), [(boxes, classes)], how many files have further frames, how many boxes were cut off)."""
    images, objects = np.empty((len(part), size, size, 3), np.uint8), []
    several = outside = 0
    for row, (file, listed) in enumerate(part):
        image, more = opened(file)
        several += bool(more)
        _require_listed_size(image, file, listed)
        moved = [_moved(_inside(box, what, image, file), image.size, size) for what, _, box in listed.objects]
        kept = [(box, index) for box, (_, index, _) in zip(moved, listed.objects, strict=True) if box]
        outside += len(moved) - len(kept)
        objects.append(([box for box, _ in kept], [index for _, index in kept]))
        images[row] = to_size(image, size)
    return images, objects, several, outside


def _require_listed_size(image, file, listed):
    if listed.size in (None, image.size):
        return
    why = "Boxes are in pixels, so they belong to another version of this file: use that one, or export the annotations once more."
    if listed.size == image.size[::-1] and _is_turned(file):
        why = (
            "The camera noted that it is to be turned, which viewers do and the annotations do not. Save the image upright, and draw its "
            "boxes once more."
        )
    width, height = listed.size
    raise DataError(
        f"{file} has {image.width} x {image.height} pixels, and {width} x {height} in the annotations. {why}"
    )


def _inside(box, what, image, file):
    """x1, y1, x2, y2, cut off at the border of the image. DataError if the box reaches farther beyond it than by rounding."""
    x, y, width, height = box
    beyond = max(-x, -y, x + width - image.width, y + height - image.height)
    corners = max(x, 0), max(y, 0), min(x + width, image.width), min(y + height, image.height)
    if beyond > SLACK or corners[0] >= corners[2] or corners[1] >= corners[3]:
        raise DataError(
            f"{what} has a box from ({x:g}, {y:g}) to ({x + width:g}, {y + height:g}), outside of its image {file}, which has "
            f"{image.width} x {image.height} pixels. A bbox is [x, y, width, height], with x and y of its left upper corner. "
            "Correct or remove it."
        )
    return corners


def _moved(corners, image_size, size):
    """The box after the middle of the image was cut out and resized, as in `to_size`; None if nothing of it is left."""
    side = min(image_size)
    moved = []
    for low, high, length in zip(corners[:2], corners[2:], image_size, strict=True):
        start = (length - side) / 2
        ends = [min(max((v - start) * size / side, 0.0), float(size)) for v in (low, high)]
        if ends[0] >= ends[1]:
            return None
        moved.append(ends)
    (x1, x2), (y1, y2) = moved
    return x1, y1, x2, y2


def _boxed(images, objects, M):
    boxes = torch.full((len(objects), M, 4), -1.0)
    classes = torch.full((len(objects), M), -1)
    for row, (found, indices) in enumerate(objects):
        if found:
            boxes[row, : len(found)], classes[row, : len(found)] = torch.tensor(found), torch.tensor(indices)
    return Split(_channels_first(images), classes[:, 0].clone(), {"boxes": boxes, "classes": classes})


# ---------------------------------------------------------------- clips


def _clips_in(folder, left_out):
    clips, loose = look_into(folder, left_out)
    for image in loose:
        left_out.add(image, "beside the folders of frames")
    if clips or not loose:
        return clips, ""
    return clips, f"It holds images, such as {loose[0].name}, where folders of frames are expected. "


CLIPS = Layout(
    "clip",
    "a folder with one folder per class, and in it one folder of frames per clip",
    "Expected one folder per class, and in it one folder of frames per clip, such as waving/clip1/1.jpg.",
    _clips_in,
)


def clip_folder(path, frames=8, size=32, reason="it was asked for."):
    """Read clips, each of them a folder of frames, into `Data` with images (N, frames, 3, size, size).

    path: holds one folder per class, and in it one folder of frames per clip. It may also hold `train/` and `test/` (or
    `val/`) with such folders; otherwise a fifth of the clips of each class, drawn with a fixed seed, become test
    clips. Frames come in the order of their names, in which numbers count as numbers: 2.png comes before 10.png. Of a clip with more
    than `frames`, as many are taken at even distances, from the first to the last, and the `reason` counts such clips. Frames are
    brought to size x size pixels (the short side is resized, and the middle cut out). Raises DataError, which names the folder or
    file at fault: a clip with fewer frames, or with frames of different sizes, for example.
    """
    require_size(size)
    if isinstance(frames, bool) or not hasattr(frames, "__index__") or frames < 1:
        raise DataError(
            f"frames is how many images a clip has, a whole number of at least 1, got {frames!r}."
        )
    *parts, left_out = survey(Path(path), CLIPS)
    (train, longer, several), (test, *more) = (_read_clips(part, frames, size, left_out) for part in parts)
    longer, several = longer + more[0], several + more[1]
    remark = (
        f"Clips with more than {frames} frames: {longer:,}; of each, {frames} were taken at even distances, from the first to the last."
        if longer
        else ""
    )
    reason = with_remarks(reason, left_out, several, remark)
    return Data.measured(train, test, list(parts[0]), "folder", reason)


def _read_clips(listing, frames, size, left_out):
    """(a `Split`, how many clips have more frames, how many files have further frames)."""
    clips = [(clip, label) for label, group in enumerate(listing.values()) for clip in group]
    images = np.empty((len(clips), frames, size, size, 3), np.uint8)
    longer = several = 0
    for row, (clip, _) in enumerate(clips):
        files = _frames_of(clip, left_out)
        if not files:
            raise DataError(
                f"the clip {clip} has no frames. {CLIPS.expected} Add them, or remove the folder."
            )
        if len(files) < frames:
            raise DataError(
                f"the clip {clip} has {len(files)} frames, and {frames} are wanted of each. Ask for fewer (frames={len(files)}), or "
                "remove the clip."
            )
        longer += len(files) > frames
        taken = np.linspace(0, len(files) - 1, frames).round().astype(int)
        several += _read_frames([files[i] for i in taken], images[row], size)
    labels = torch.tensor([label for _, label in clips])
    return Split(_channels_first(images), labels), longer, several


def _frames_of(clip, left_out):
    """The images in a clip's folder, in the order of their names, in which numbers count as numbers."""
    below, files = look_into(clip, left_out)
    for each in below:
        left_out.add(each, "in folders below the clips")
    return sorted(
        files, key=lambda file: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name_of(file))]
    )


def _read_frames(files, images, size):
    """Read the frames of a clip into `images`. Returns how many of the files have further frames."""
    several, first = 0, None
    for image, file in zip(images, files, strict=True):
        picture, more = opened(file)
        several += bool(more)
        first = first or picture.size
        if picture.size != first:
            raise DataError(
                f"{file} has {picture.width} x {picture.height} pixels, and the first frame of the clip, {files[0].name}, has "
                f"{first[0]} x {first[1]}. All frames of a clip need the same size, or the picture would jump."
            )
        image[:] = to_size(picture, size)
    return several
