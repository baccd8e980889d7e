"""Pictures of every kind are read as viewers show them, and nothing in a folder goes missing without a word."""

import io
import os
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vit_edu import data, pretrained
from vit_edu.data.pictures import as_shown


def stored(picture, **how):
    """The same picture, from the bytes of a file."""
    file = io.BytesIO()
    picture.save(file, **how)
    file.seek(0)
    return Image.open(file)


# ---------------------------------------------------------------- one picture


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_and_mirrored_pictures_are_upright(form, orientation):
    shown = np.zeros((16, 32), np.uint8)
    shown[:8, :16], shown[:8, 16:], shown[8:, :16] = 250, 170, 90
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.T,
        6: lambda x: x.T[::-1],
        7: lambda x: x.T[::-1, ::-1],
        8: lambda x: x.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = as_shown(stored(Image.fromarray(undo(shown).copy()).convert("RGB"), format=form, exif=exif))
    assert np.abs(np.asarray(found.convert("L")).astype(int) - shown).max() < 12  # of WebP and JPEG


def test_a_damaged_note_of_the_camera_is_no_reason_to_refuse_a_photo():
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff"
    assert as_shown(stored(Image.new("RGB", (8, 8), (9, 9, 9)), format="PNG", exif=exif)).getpixel(
        (0, 0)
    ) == (9, 9, 9)


@pytest.mark.parametrize(
    ("picture", "how"),
    [
        (Image.new("RGBA", (4, 4), (1, 2, 3, 0)), {"format": "PNG"}),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 0)), {"format": "TIFF"}),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 0)), {"format": "WEBP", "lossless": True, "exact": True}),
        (Image.new("LA", (4, 4), (7, 0)), {"format": "PNG"}),
        (Image.new("L", (4, 4), 7), {"format": "PNG", "transparency": 7}),
        (Image.new("RGB", (4, 4), (1, 2, 3)), {"format": "PNG", "transparency": (1, 2, 3)}),
        (Image.new("P", (4, 4), 0), {"format": "GIF", "transparency": 0}),
        (Image.new("P", (4, 4), 0), {"format": "PNG", "transparency": bytes([0, 255])}),
        (Image.fromarray(np.full((4, 4), 300, np.uint16)), {"format": "PNG", "transparency": 300}),
    ],
)
def test_what_is_transparent_is_white(picture, how):
    assert set(np.asarray(as_shown(stored(picture, **how)).convert("RGB")).flatten().tolist()) == {255}


def test_half_transparent_and_opaque_pixels():
    assert as_shown(Image.new("RGBA", (1, 1), (255, 0, 0, 128))).getpixel((0, 0)) == (255, 127, 127)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    opaque = Image.fromarray(pixels).convert("RGBA")
    assert np.array_equal(np.asarray(as_shown(opaque)), pixels)
    palette = Image.fromarray(pixels).quantize(16)
    assert np.array_equal(np.asarray(as_shown(palette)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_become_eight(form):
    deep = (np.arange(256).reshape(16, 16) * 257).astype(np.uint16)
    found = np.asarray(as_shown(stored(Image.fromarray(deep), format=form)))
    assert found.flatten().tolist() == list(range(256))


def test_other_modes_that_are_known():
    assert as_shown(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == 255
    assert as_shown(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).getpixel((0, 0)) == (255, 0, 0)
    assert as_shown(Image.new("RGBa", (1, 1), (64, 0, 0, 128))).getpixel((0, 0))[0] == 255 - 127 + 64 - 1


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_modes_that_are_not_known_are_refused(mode, tmp_path):
    with pytest.raises(data.DataError, match=f"mode '{mode}'.* Expected 8 or 16 bits"):
        as_shown(Image.new(mode, (4, 4)))
    root = make_folder(tmp_path / "set")
    Image.new(mode, (4, 4)).save(root / "cat" / "odd.tiff")
    with pytest.raises(data.DataError, match=rf"odd.tiff cannot be used: .*mode '{mode}'"):
        data.image_folder(root)


def test_pretrained_models_see_the_same(tmp_path):
    model = pretrained.load("vit-cifar10")
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    white = Image.new("RGB", (32, 32), "white")
    assert torch.equal(pretrained.preprocess(clear, model), pretrained.preprocess(white, model))


# ---------------------------------------------------------------- a folder of them


def make_folder(root, classes=("cat", "dog"), count=3):
    for name in classes:
        name = os.fsdecode(name.encode())  # in UTF-8 on the disk, whatever the locale
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(root / name / f"{i}.png")
    return root


def nested(root):
    for place in (root / "cat" / "more", root / "cat" / "more" / "still"):
        place.mkdir()
        shutil.copy(root / "cat" / "0.png", place)


def hidden(root):
    shutil.copy(root / "cat" / "0.png", root / "cat" / ".0.png")
    (root / ".thumbnails").mkdir()
    shutil.copy(root / "cat" / "0.png", root / ".thumbnails")


def from_a_mac(root):
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "cat" / "._0.png").write_bytes(b"")


def other_endings(root):
    (root / "cat" / "Thumbs.db").write_bytes(b"")
    (root / "dog" / "a.HEIC").write_bytes(b"")
    (root / "dog" / "b.heic").write_bytes(b"")
    (root / "dog" / "c").write_bytes(b"")
    (root / "notes.txt").write_text("", encoding="utf-8")


def dead_links(root):
    (root / "cat" / "gone.png").symlink_to("nowhere.png")
    (root / "cat" / "loop.png").symlink_to("loop.png")
    (root / "bird").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nested, ["2 files in folders below the class folders (such as cat/more)"]),
        (hidden, ["2 files that are hidden"]),
        (from_a_mac, ["1 file that a Mac adds to archives (__MACOSX)"]),
        (
            other_endings,
            [
                "1 file ending in .db (cat/Thumbs.db)",
                "2 files ending in .heic",
                "1 file without",
                "1 file ending in .txt",
            ],
        ),
        (dead_links, ["3 files that are links to nowhere (such as bird)"]),
    ],
)
def test_what_is_left_out_is_counted(tmp_path, make, says):
    make(make_folder(tmp_path / "set"))
    d = data.load(source=tmp_path / "set")
    assert len(d.train) + len(d.test) == 6
    assert "Left out: " in str(d)
    assert all(words.replace("/", os.sep) in d.reason for words in says), d.reason
    counted = sum(int(word) for word in d.reason.split() if word.isdigit())
    there = sum(len(files) for _, _, files in os.walk(tmp_path / "set"))
    assert counted + 6 == there


def test_every_ending_of_a_jpeg_is_read(tmp_path):
    root = make_folder(tmp_path / "set")
    for ending in ("jfif", "jpe", "JPEG", "JPG"):
        Image.new("RGB", (8, 8)).save(root / "cat" / f"x.{ending}", format="JPEG")
    d = data.image_folder(root)
    assert len(d.train) + len(d.test) == 10
    assert "Left out" not in d.reason


def test_a_third_part_and_what_lies_beside_the_parts_is_counted(tmp_path):
    for part in ("train", "test", "val"):
        make_folder(tmp_path / "set" / part)
    shutil.copy(tmp_path / "set" / "val" / "cat" / "0.png", tmp_path / "set" / "cover.png")
    d = data.image_folder(tmp_path / "set")
    assert (len(d.train), len(d.test)) == (6, 6)
    assert "6 files in val/, because test/ is there" in d.reason
    assert "1 file beside train/ and test/ (cover.png)" in d.reason


def test_classes_that_lie_too_deep_are_pointed_at(tmp_path):
    make_folder(tmp_path / "set" / "train")
    make_folder(tmp_path / "set" / "validation")
    with pytest.raises(
        data.DataError, match=r"no images in the class folders train, validation .*are not read"
    ):
        data.image_folder(tmp_path / "set")


def test_of_several_frames_the_first_is_read_and_that_is_said(tmp_path):
    root = make_folder(tmp_path / "set")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "b.png", "c.tiff"):
        frames[0].save(root / "dog" / name, save_all=True, append_images=frames[1:])
    d = data.image_folder(root, size=8)
    assert "Files with several frames or pages: 3; only the first of each was read." in str(d)
    images = torch.cat([d.train.images, d.test.images])
    assert (images[:, :, 0, 0] == torch.tensor([255, 0, 0], dtype=torch.uint8)).all(1).sum() == 3


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_in_two_unicode_forms_are_one_class(tmp_path, forms):
    for part, form in zip(("train", "test"), forms, strict=True):
        make_folder(
            tmp_path / "set" / part,
            [unicodedata.normalize(form, name) for name in ("ñu", "zebra", "Ångström")],
        )
    assert data.image_folder(tmp_path / "set").classes == ("zebra", "Ångström", "ñu")


def test_two_folders_that_look_alike_are_refused(tmp_path):
    make_folder(tmp_path / "set", [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")])
    if len(list((tmp_path / "set").iterdir())) == 1:
        pytest.skip("this file system has one Unicode form")
    with pytest.raises(data.DataError, match="names look the same, café"):
        data.image_folder(tmp_path / "set")


def test_names_that_differ_in_what_nobody_sees_are_spelt(tmp_path):
    make_folder(tmp_path / "set" / "train", ("cat", "dog"))
    make_folder(tmp_path / "set" / "test", ("cat", "d\u043eg"))
    with pytest.raises(data.DataError, match=r"spelt 'd\\u043eg'"):
        data.image_folder(tmp_path / "set")


@pytest.mark.parametrize("size", [0, -32, 1.5, float("nan"), True, "32"])
def test_a_size_that_makes_no_sense(tmp_path, size):
    with pytest.raises(data.DataError, match="size is the number of pixels"):
        data.image_folder(make_folder(tmp_path / "set"), size=size)


@pytest.fixture
def open_folder():
    """A folder that other users may enter, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("place", ["cat", "cat/0.png", "cat/deeper", "."])
def test_what_may_not_be_read_is_named(open_folder, place):
    root = make_folder(open_folder / "set")
    (root / "cat" / "deeper").mkdir()
    code = f"from vit_edu import data; data.load(source={str(root)!r})"
    as_other = []
    if os.name != "posix" or (os.geteuid() == 0 and not shutil.which("setpriv")):
        pytest.skip("root and users of Windows may read everything")
    if os.geteuid() == 0:
        as_other = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    (root / place).chmod(0)
    done = subprocess.run(
        [*as_other, sys.executable, "-B", "-c", code], capture_output=True, text=True, encoding="utf-8"
    )
    (root / place).chmod(0o755)
    last = done.stderr.strip().splitlines()[-1]
    assert "DataError" in last
    assert str(root / place) in last
    assert "permissions" in last
