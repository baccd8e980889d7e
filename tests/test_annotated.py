"""Your own images with masks, boxes or several frames: what is read, what is left out, and what an error says."""

import json
import math
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from vit_edu import data, training

QUIET = "it was asked for."


def picture(path, size=(8, 8), colour=(9, 9, 9), **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **how)


def block(size, corners, inside, outside=0):
    """(H, W), uint8: `inside` in the box with these corners, `outside` elsewhere. size: (width, height)."""
    pixels = np.full(size[::-1], outside, np.uint8)
    x1, y1, x2, y2 = corners
    pixels[y1:y2, x1:x2] = inside
    return pixels


def png(pixels, bits):
    """The bytes of a grey PNG with so many bits a pixel; Pillow writes none with 2 or 4."""
    height, width = pixels.shape
    rows = b"".join(
        b"\0" + np.packbits((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).tobytes() for row in pixels
    )

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


# ---------------------------------------------------------------- masks


def masked(root, count=5, size=(8, 8), number=1):
    """A folder with images and masks in which the left upper quarter is this number."""
    (root / "masks").mkdir(parents=True)
    for i in range(count):
        picture(root / "images" / f"{i}.jpg", size)
        mask = block(size, (0, 0, size[0] // 2, size[1] // 2), number)
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return root


def test_images_with_masks_are_split_like_images_with_labels(tmp_path):
    d = data.mask_folder(masked(tmp_path / "set", 10, number=2), size=8)
    assert (len(d.train), len(d.test), d.kind, d.classes) == (8, 2, "folder", ("class 1", "class 2"))
    assert d.train.images.shape == (8, 3, 8, 8)
    assert d.train.targets["mask"].dtype == torch.uint8
    assert d.train.targets["mask"][3, :, 0].tolist() == [2, 2, 2, 2, 0, 0, 0, 0]
    assert d.train.labels.tolist() == [1] * 8
    assert d.reason == f"{QUIET} Classes of which there is no pixel in the training images: class 1."


def test_masks_in_train_and_val(tmp_path):
    masked(tmp_path / "train", 3, number=1)
    masked(tmp_path / "val", 2, number=3)
    picture(tmp_path / "extra.png")
    picture(tmp_path / "preview" / "1.png")
    d = data.mask_folder(tmp_path, ["cat", "dog", "cow"])
    assert (len(d.train), len(d.test), d.classes) == (3, 2, ("cat", "dog", "cow"))
    assert set(d.test.labels.tolist()) == {2}
    assert "Left out: 2 files beside train/ and val/ (such as extra.png)." in d.reason
    assert d.reason.endswith("no pixel in the training images: dog, cow.")


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (41, 30), (30, 30), (7, 5), (300, 50)])
@pytest.mark.parametrize("side", [30, 16, 9])
def test_masks_and_boxes_move_with_their_images(tmp_path, size, side):
    width, height = size
    corners = [width // 4, height // 5, width - width // 4, height - height // 3]
    for i in range(2):
        image = np.repeat(block(size, corners, 255)[..., None], 3, axis=2)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(block(size, corners, 3)).save(tmp_path / "masks" / f"{i}.png")
    box = [*corners[:2], corners[2] - corners[0], corners[3] - corners[1]]
    (tmp_path / "c.json").write_text(json.dumps(coco([("0.png", [box]), ("1.png", [box])])), encoding="utf-8")
    d = data.mask_folder(tmp_path, size=side)
    image, mask = d.train.images[0, 0].int(), d.train.targets["mask"][0]
    assert set(mask.unique().tolist()) <= {0, 3}
    # Bicubic pixels away from an edge say what the mask says; at an edge, they are in between
    assert ((image > 225) <= (mask == 3)).all()
    assert ((image < 30) <= (mask == 0)).all()
    assert (mask == 3).any()
    boxes = data.coco_folder(tmp_path / "images", tmp_path / "c.json", size=side).train.targets["boxes"][0, 0]
    rows, cols = (mask == 3).nonzero().unbind(1)
    around = torch.tensor([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1])
    assert (boxes - around).abs().max() <= 0.5 + 1e-4  # the nearest pixel is at most half a pixel away


def test_the_numbers_of_a_palette_count_and_not_its_colours(tmp_path):
    root = masked(tmp_path, 2)
    for i in range(2):
        mask = Image.fromarray(block((8, 8), (0, 0, 4, 4), 2)).convert("P")
        mask.putdata(block((8, 8), (0, 0, 4, 4), 2).flatten().tolist())
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        mask.save(root / "masks" / f"{i}.png")
    with Image.open(root / "masks" / "0.png") as stored:
        assert stored.mode == "P"
    found = data.mask_folder(root, ["cat", "dog"], size=8).train.targets["mask"][0]
    assert np.array_equal(found, block((8, 8), (0, 0, 4, 4), 2))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_masks_of_all_depths_hold_their_numbers(tmp_path, bits):
    root = masked(tmp_path, 2, (9, 7))
    numbers = block((9, 7), (1, 2, 5, 6), 1)
    numbers[4:6, 3:5] = min(3, 2**bits - 1)
    for i in range(2):
        (root / "masks" / f"{i}.png").write_bytes(png(numbers.astype(int), bits))
    found = data.mask_folder(root, ["a", "b", "c"], size=9).train.targets["mask"][0]
    wanted = np.asarray(Image.fromarray(numbers[:, 1:8]).resize((9, 9), Image.Resampling.NEAREST))
    assert set(np.unique(found).tolist()) == set(np.unique(numbers).tolist())
    assert np.array_equal(found, wanted)


def test_what_is_not_read_beside_masks_is_counted(tmp_path):
    root = masked(tmp_path, 4)
    (root / "masks" / ".DS_Store").write_bytes(b"")
    (root / "images" / "notes.txt").write_text("", encoding="utf-8")
    picture(root / "images" / "more" / "a.png")
    picture(root / "preview" / "a.png")
    frames = [Image.new("L", (8, 8), i) for i in range(3)]
    frames[0].save(root / "images" / "0.gif", save_all=True, append_images=frames[1:])
    (root / "images" / "0.jpg").unlink()
    reason = data.mask_folder(root, ["cat"], size=8).reason
    for said in (
        "1 file that are hidden, with a dot in front (masks/.DS_Store)",
        "1 file ending in .txt",
        "1 file in folders below images/ and masks/ (images/more)",
        "1 file beside images/ and masks/ (preview)",
        "Files with several frames or pages: 1; only the first of each was read.",
    ):
        assert said in reason.replace(os.sep, "/")


def test_an_image_of_background_alone_has_no_label(tmp_path):
    root = masked(tmp_path, 5)
    Image.new("L", (8, 8)).save(root / "masks" / "0.png")
    d = data.mask_folder(root, ["cat"], size=8)
    assert sorted([*d.train.labels.tolist(), *d.test.labels.tolist()]) == [-1, 0, 0, 0, 0]


def turned(root):
    """The camera turned the photo; the mask was drawn on the picture as it is stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / "images" / "0.jpg", (8, 6), exif=exif)
    Image.new("L", (8, 6)).save(root / "masks" / "0.png")


def mask_0(pixels, **how):
    """Another first mask."""
    return lambda root: Image.fromarray(np.asarray(pixels, np.uint8)).save(root / "masks" / "0.png", **how)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            mask_0(np.ones((8, 6))),
            r"0\.png has 6 x 8 pixels, and its image .*0\.jpg has 8 x 8.* at the size of the image",
        ),
        (
            turned,
            r"0\.png has 8 x 6 pixels.* has 6 x 8.* noted that the image is to be turned.* Save the image upright",
        ),
        (
            mask_0(block((8, 8), (2, 5, 3, 6), 7)),
            r"0\.png holds the class number 7 in row 5, column 2; expected 0 \(the background\) and 1 to 2 \(cat, dog\)",
        ),
        (
            mask_0(block((8, 8), (2, 5, 3, 6), 255, 1)),
            r"class number 255 in row 5, column 2.* nobody has judged",
        ),
        (mask_0(block((8, 8), (2, 5, 3, 6), 255)), r"class number 255 .* black and white, it seems: write 1"),
        (mask_0(np.zeros((8, 8, 3))), r"0\.png is a picture in colours \(mode 'RGB'\).* a palette"),
        (mask_0(np.zeros((8, 8, 4))), r"0\.png is a picture in colours \(mode 'RGBA'\)"),
        (
            lambda root: (root / "masks" / "0.png").write_bytes(b"no picture"),
            r"0\.png cannot be read as a mask",
        ),
        (
            lambda root: (root / "images" / "0.jpg").write_bytes(b"no picture"),
            r"0\.jpg cannot be read as an image",
        ),
        (
            lambda root: (root / "masks" / "0.png").unlink(),
            r"one image has no mask of the same name, such as .*0\.jpg: expected .*masks.0\.png .*Add the mask",
        ),
        (
            lambda root: (root / "images" / "1.jpg").unlink(),
            r"one mask has no image of the same name, such as .*1\.png",
        ),
        (
            lambda root: [p.rename(p.with_stem(f"{p.stem}_mask")) for p in (root / "masks").iterdir()],
            r"5 images have no mask .* A mask is called .*_mask\.png",
        ),
        (
            lambda root: Image.new("L", (8, 8)).save(
                (root / "masks" / "0.png").rename(root / "masks" / "0.jpg")
            ),
            r"0\.jpg is no PNG file\. A JPEG changes the numbers",
        ),
        (
            lambda root: picture(root / "images" / "0.png"),
            r"0\.jpg and 0\.png have the same name|0\.png and 0\.jpg have the same name",
        ),
        (
            lambda root: (root / "masks").rename(root / "labels"),
            r"holds images/, labels/\. Expected the folders images/ and masks/",
        ),
        (
            lambda root: [p.unlink() for part in ("images", "masks") for p in (root / part).iterdir()],
            r"there are no images in",
        ),
        (
            lambda root: [
                (root / part / f"{i}{end}").unlink()
                for part, end in (("images", ".jpg"), ("masks", ".png"))
                for i in range(4)
            ],
            r"holds 1 image; at least two",
        ),
        (
            lambda root: (masked(root / "train"), masked(root / "test")),
            r"holds train/ and test/, but also images/, masks/",
        ),
    ],
)
def test_masks_at_fault_are_named(tmp_path, spoil, says):
    root = masked(tmp_path / "set")
    spoil(root)
    with pytest.raises(data.DataError, match=says):
        data.mask_folder(root, ["cat", "dog"])


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ("cat", r"a list of names.* got 'cat'"),
        (3, r"a list of names.* got 3"),
        (["cat", ""], "a list of names"),
        ([], "the names of 0"),
        (["background", "cat"], "the background is the number 0 .* Leave it out"),
        (["cat", "cat"], "'cat' stands twice"),
        ([f"{i}" for i in range(256)], "1 to 255 classes apart"),
    ],
)
def test_names_of_classes_that_make_no_sense(tmp_path, classes, says):
    with pytest.raises(data.DataError, match=says):
        data.mask_folder(masked(tmp_path), classes)


def test_a_folder_that_is_not_there_and_masks_of_nothing(tmp_path):
    with pytest.raises(
        data.DataError, match=r"there is no .* Name a folder with the folders images/ and masks/"
    ):
        data.mask_folder(tmp_path / "nowhere")
    with pytest.raises(data.DataError, match="hold the number 0 alone"):
        data.mask_folder(masked(tmp_path / "set", number=0))
    with pytest.raises(data.DataError, match=r"number 255 .* expected 0 .the background. to 254"):
        data.mask_folder(masked(tmp_path / "grey", number=255))


def test_a_folder_with_masks_has_no_classes_of_images(tmp_path):
    with pytest.raises(
        data.DataError, match=r"images and their masks, and no classes: read it with data\.mask_folder"
    ):
        data.load(source=masked(tmp_path))


# ---------------------------------------------------------------- boxes


def coco(images, **more):
    """The content of a COCO file: [(file name, boxes)], all of category 7."""
    objects = [(i, box) for i, (_, boxes) in enumerate(images) for box in boxes]
    return {
        "images": [{"id": 10 + i, "file_name": name} for i, (name, _) in enumerate(images)],
        "annotations": [
            {"id": 100 + n, "image_id": 10 + i, "category_id": 7, "bbox": box, "iscrowd": 0}
            for n, (i, box) in enumerate(objects)
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}],
        **more,
    }


@pytest.fixture
def boxed(tmp_path):
    """A folder of five images of 40 x 20 pixels, and the content of its COCO file."""
    for i in range(5):
        picture(tmp_path / "images" / f"{i}.png", (40, 20))
    return tmp_path, coco([(f"{i}.png", [[12, 5, 10, 8]]) for i in range(5)])


def read_boxes(root, content, size=20):
    (root / "c.json").write_text(
        content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
    )
    return data.coco_folder(root / "images", root / "c.json", size)


def test_boxes_and_classes_of_a_coco_file(boxed):
    root, content = boxed
    content["annotations"] += [
        {"image_id": 12, "category_id": 9, "bbox": [20, 0, 30, 30], "iscrowd": 1},  # it may reach anywhere
        {"image_id": 11, "category_id": 9, "bbox": [20.25, 0, 5, 20.75]},  # beyond the border, by rounding
        {"image_id": 13, "category_id": 9, "bbox": [0, 0, 9, 9]},  # in the part that is cut off
    ]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 14]
    content["images"][3] |= {"width": 40, "height": 20}
    picture(root / "images" / "more" / "not listed.png")
    d = read_boxes(root, content)
    assert (len(d.train), len(d.test), d.classes) == (4, 1, ("cat", "dog"))
    boxes, classes, labels = (
        torch.cat(v)
        for v in zip(
            *((s.targets["boxes"], s.targets["classes"], s.labels) for s in (d.train, d.test)), strict=True
        )
    )
    cat, unused = [2, 5, 12, 13], [-1] * 4
    found = sorted(zip(boxes.tolist(), classes.tolist(), labels.tolist(), strict=True))
    assert found == [
        ([unused, unused], [-1, -1], -1),
        ([cat, unused], [0, -1], 0),
        ([cat, unused], [0, -1], 0),
        ([cat, unused], [0, -1], 0),
        ([cat, [10.25, 0, 15.25, 20]], [0, 1], 0),
    ]
    assert "Left out: 1 file that the annotations do not name (more" in d.reason
    assert "Crowds, which are no single objects, left out: 1." in d.reason
    assert "Boxes beyond the middle of their image, left out with what was cut off: 1." in d.reason


def test_two_coco_files_for_training_and_testing(tmp_path):
    for part, names in (("train", ("a/1.png", "a/2.png", "3.png")), ("val", ("1.png",))):
        for name in names:
            picture(tmp_path / "images" / part / name, (20, 20))
        content = coco([(name, [[2, 5, 10, 8]]) for name in names])
        (tmp_path / "images" / f"{part}.json").write_text(json.dumps(content), encoding="utf-8")
    d = data.coco_folder(tmp_path / "images", tmp_path / "images", size=10)
    assert (len(d.train), len(d.test)) == (3, 1)
    assert d.test.targets["boxes"].tolist() == [[[1, 2.5, 6, 6.5]]]
    assert d.reason == f"{QUIET} Classes of which there is no box in the training images: dog."
    content["categories"][0]["name"] = "cow"
    (tmp_path / "images" / "val.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        data.DataError, match=r'train\.json and .*val\.json do not have the same "categories"'
    ):
        data.coco_folder(tmp_path / "images", tmp_path / "images")
    with pytest.raises(data.DataError, match=r"so two files .* as train\.json and val\.json"):
        data.coco_folder(tmp_path / "images", tmp_path / "images" / "train.json")


def test_a_mark_at_the_start_of_the_file_and_a_path_in_windows_spelling(boxed):
    root, content = boxed
    picture(root / "images" / "more" / "5.png", (40, 20))
    content["images"][0]["file_name"] = "more\\5.png"
    assert (
        "1 file that the annotations do not name (0.png)"
        in read_boxes(root, "\ufeff" + json.dumps(content)).reason
    )


def entry(kind, number=0, **changes):
    """Change an entry of the file; None takes a key out."""

    def spoil(content):
        changed = content[kind][number] | changes
        content[kind][number] = {key: value for key, value in changed.items() if value is not None}

    return spoil


def without(key):
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without("images"), r"c\.json has no 'images', .* It has 'annotations', 'categories'"),
        (without("annotations"), "has no 'annotations'"),
        (without("categories"), "has no 'categories'"),
        (lambda c: c.update(images={}), "'images' is an object; expected a list"),
        (lambda c: c.update(categories=[]), "the list 'categories' is empty"),
        (lambda c: c.update(annotations=[]), "has no box for any of the images"),
        (
            lambda c: c["annotations"].append(3),
            "annotation number 6 of the list is a number; expected an object",
        ),
        (entry("images", file_name=None), "the image with id 10 has no 'file_name'"),
        (entry("images", id=None), "image number 1 of the list has no 'id'"),
        (entry("images", id=11), "two entries of 'images' have the id 11"),
        (entry("images", id=1.5), "needs a whole number as its 'id' and a text as its 'file_name', got 1.5"),
        (entry("images", file_name="1.png"), r"'1\.png' is listed twice"),
        (
            entry("images", file_name="7.png"),
            r"1 of 5 images that .*c\.json names are not in .*images, such as 7\.png\. Name",
        ),
        (entry("images", file_name="../c.json"), "1 of 5 images .* is there, but its ending"),
        (
            entry("images", width=80, height=40),
            r"0\.png has 40 x 20 pixels, and 80 x 40 in the annotations\. Boxes are in pixels",
        ),
        (entry("categories", id=7), "two entries of 'categories' have the id 7"),
        (entry("categories", name="cat"), "two categories are called 'cat'"),
        (entry("annotations", image_id=99), "the annotation with id 100 belongs to image 99, and no entry"),
        (entry("annotations", image_id="10"), "belongs to image '10', and no entry"),
        (entry("annotations", image_id=[10]), r"belongs to image \[10\], and no entry"),
        (
            entry("annotations", category_id=8),
            r"id 100 has the category 8, which is unknown\. .* 7 \(cat\), 9 \(dog\)",
        ),
        (entry("annotations", bbox=None), "the annotation with id 100 has no 'bbox'"),
        (entry("annotations", bbox=[1, 2, 3]), r"has the bbox \[1, 2, 3\]; expected four numbers"),
        (entry("annotations", bbox=[1, 2, 3, "4"]), "expected four numbers"),
        (entry("annotations", bbox=[1, 2, 3, float("nan")]), "expected four numbers"),
        (entry("annotations", bbox=[1, 2, 3, 10**400]), "expected four numbers"),
        (entry("annotations", bbox=[1, 2, 0, 4]), r"has a box without area, \[1, 2, 0, 4\]"),
        (entry("annotations", bbox=[5, 2, 3, -4]), "has a box without area"),
        (
            entry("annotations", bbox=[12, 5, 30, 13]),
            r"has a box from \(12, 5\) to \(42, 18\), outside of its image .*0\.png, which has 40 x 20",
        ),
        (entry("annotations", bbox=[-2, 5, 8, 8]), r"from \(-2, 5\)"),
        (
            entry("annotations", bbox=[40, 5, 1, 8]),
            "outside of its image",
        ),  # within the slack, and nothing is left
    ],
)
def test_a_coco_file_at_fault_is_named_with_its_entry(boxed, spoil, says):
    root, content = boxed
    spoil(content)
    with pytest.raises(data.DataError, match=says):
        read_boxes(root, content)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"c\.json is no JSON: .* line 1 column 1"),
        ('{"images": [', "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "holds a list, as files of results have; expected an object"),
        ("3", "holds a number; expected"),
    ],
)
def test_what_is_no_coco_file(boxed, text, says):
    with pytest.raises(data.DataError, match=says):
        read_boxes(boxed[0], text)


def test_a_coco_file_that_is_not_there_or_is_a_folder(boxed):
    root, _ = boxed
    with pytest.raises(data.DataError, match=r"there is no .*none\.json\. Name the JSON file"):
        data.coco_folder(root / "images", root / "none.json")
    with pytest.raises(data.DataError, match=r"is a folder, and .* does not hold train/ and test/"):
        data.coco_folder(root / "images", root)
    with pytest.raises(data.DataError, match=r"there is no .*nowhere. Name the folder with the images"):
        data.coco_folder(root / "nowhere", root / "none.json")


def test_a_photo_that_the_camera_turned_has_its_boxes_elsewhere(boxed):
    root, content = boxed
    exif = Image.Exif()
    exif[0x0112] = 8
    picture(root / "images" / "0.jpg", (40, 20), exif=exif)
    content["images"][0] |= {"file_name": "0.jpg", "width": 40, "height": 20}
    with pytest.raises(
        data.DataError, match=r"has 20 x 40 pixels, and 40 x 20 .* camera noted that it is to be turned"
    ):
        read_boxes(root, content)


# ---------------------------------------------------------------- clips


def clip(folder, count=4, size=(8, 8), first=0):
    """Frames 1.png, 2.png, ..., the colours of which are their numbers."""
    for i in range(count):
        picture(folder / f"{first + i}.png", size, (10 * (first + i),) * 3)


def clips(root, classes=("up", "down"), count=2, frames=4):
    for name in classes:
        for i in range(count):
            clip(root / name / f"clip {i}", frames)
    return root


def colours(split):
    return (split.images[:, :, 0, 0, 0] // 10).tolist()


def test_clips_are_folders_of_frames(tmp_path):
    d = data.clip_folder(clips(tmp_path, count=5), frames=4, size=8)
    assert (len(d.train), len(d.test), d.classes, d.kind) == (8, 2, ("down", "up"), "folder")
    assert d.train.images.shape == (8, 4, 3, 8, 8)
    assert d.train.images.dtype == torch.uint8
    assert colours(d.train) == [[0, 1, 2, 3]] * 8
    assert d.train.labels.tolist() == [0] * 4 + [1] * 4
    assert d.reason == QUIET
    assert "clips of 4 frames" in str(d)


def test_of_more_frames_some_are_taken_in_the_order_of_their_numbers(tmp_path):
    clips(tmp_path / "train", frames=12)
    clips(tmp_path / "test", count=1, frames=4)
    d = data.clip_folder(tmp_path, frames=4, size=8)
    assert colours(d.train) == [[0, 4, 7, 11]] * 4
    assert colours(d.test) == [[0, 1, 2, 3]] * 2
    assert d.reason == (
        f"{QUIET} Clips with more than 4 frames: 4; of each, 4 were taken at even distances, from the first to the last."
    )
    assert colours(data.clip_folder(tmp_path, frames=1, size=8).train) == [[0]] * 4


def test_what_is_not_read_beside_clips_is_counted(tmp_path):
    root = clips(tmp_path)
    picture(root / "up" / "poster.png")
    (root / "up" / "clip 0" / "sound.wav").write_bytes(b"")
    picture(root / "up" / "clip 0" / "small" / "1.png")
    reason = data.clip_folder(root, frames=4).reason.replace(os.sep, "/")
    assert "1 file beside the folders of frames (up/poster.png)" in reason
    assert "1 file ending in .wav" in reason
    assert "1 file in folders below the clips (up/clip 0/small)" in reason


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda root: (root / "up" / "clip 1" / "3.png").unlink(),
            r"clip 1 has 3 frames, and 4 are wanted .* \(frames=3\)",
        ),
        (lambda root: [p.unlink() for p in (root / "up" / "clip 1").iterdir()], "clip 1 has no frames"),
        (
            lambda root: clip(root / "up" / "clip 1", 1, (8, 9), first=2),
            r"2\.png has 8 x 9 pixels, and the first frame of the clip, 0\.png, has 8 x 8",
        ),
        (
            lambda root: (root / "up" / "clip 1" / "1.png").write_bytes(b""),
            r"1\.png cannot be read as an image",
        ),
        (
            lambda root: clip(root / "left"),
            r"no clips in the class folder left of .*holds images, such as 0\.png, where folders of frames",
        ),
        (lambda root: (root / "left").mkdir(), "no clips in the class folder left"),
        (lambda root: clip(root / "left" / "clip 0"), "the class 'left' .* has a single clip"),
        (lambda root: picture(root / "1.png"), "mixes 1 images"),
        (lambda root: (clips(root / "train"), clips(root / "test")), "but also down, up"),
    ],
)
def test_clips_at_fault_are_named(tmp_path, spoil, says):
    root = clips(tmp_path / "set")
    spoil(root)
    with pytest.raises(data.DataError, match=says):
        data.clip_folder(root, frames=4)


@pytest.mark.parametrize("frames", [0, -1, 2.0, True, None, "8"])
def test_how_many_frames(tmp_path, frames):
    with pytest.raises(data.DataError, match="how many images a clip has"):
        data.clip_folder(clips(tmp_path), frames)
    with pytest.raises(data.DataError, match=r"there is no .* in it one folder of frames per clip"):
        data.clip_folder(tmp_path / "nowhere")


# ---------------------------------------------------------------- all of them


def read_masks(root):
    return data.mask_folder(masked(root), ["cat"])


def read_coco(root):
    for i in range(5):
        picture(root / f"{i}.png", (40, 20))
    content = coco([(f"{i}.png", [[12, 5, 10, 8]] * i) for i in range(5)])
    (root / "c.json").write_text(json.dumps(content), encoding="utf-8")
    return data.coco_folder(root, root / "c.json")


def read_clips(root):
    return data.clip_folder(clips(root, count=3, frames=8))


@pytest.mark.parametrize(
    ("read", "recipe"),
    [
        (read_masks, "fast-segmentation"),
        (read_coco, "fast-detr"),
        (read_coco, "fast-patch-detector"),
        (read_clips, "fast-video"),
    ],
)
def test_the_recipes_of_lesson_11_train_on_them(tmp_path, read, recipe):
    own, recipe = read(tmp_path), training.RECIPES[recipe]
    history = training.fit(training.build_model(recipe, own), own, recipe)
    assert len(history) == recipe.epochs
    assert all(math.isfinite(epoch["loss"]) for epoch in history)


@pytest.mark.parametrize(
    "read", [data.mask_folder, data.clip_folder, lambda p, size: data.coco_folder(p, p, size)]
)
def test_a_size_that_makes_no_sense(tmp_path, read):
    with pytest.raises(data.DataError, match="size is the number of pixels along a side"):
        read(tmp_path, size=0)
