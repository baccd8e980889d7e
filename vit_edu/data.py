"""Images to learn from: CIFAR-10, a folder of images, or shapes that are generated on the spot.

`load()` decides which and says why. Everything ends up as uint8 tensors that fit on any device whole, so that a
batch is one indexing operation and nothing needs worker processes.

Letters in shape comments: B images in the batch, N images in the set, C channels, H, W pixels.
"""

import math
import os
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vit_edu import settings

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
PROBE_SECONDS = 4  # how long a network may take to answer before we go on without it
STALL_SECONDS = 15  # how long a running download may stand still
OFFLINE = ", or set VIT_EDU_DATA to a folder"
CIFAR_DISK_BYTES = 600 * 2**20  # archive and unpacked batches side by side, with room to spare


class DataError(Exception):
    """The data that was asked for cannot be had; the text says what was expected, what came and what to do."""


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), uint8, and labels (N,), int64, on one device."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        """The same split on another device."""
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, count, seed=0):
        """A random subset of `count` images (all of them where there are fewer), the same for the same seed."""
        return self.hold_out(count, seed)[1]

    def hold_out(self, count, seed=0):
        """Two disjoint parts, (the rest, `count` images at random), the same for the same seed."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        order = order.to(self.labels.device)
        part, rest = order[:count], order[count:]
        return Split(self.images[rest], self.labels[rest]), Split(self.images[part], self.labels[part])


@dataclass(frozen=True)
class Data:
    """A data set and where it came from.

    train, test: `Split`. classes: names, in label order. kind: "cifar10", "folder" or "shapes".
    reason: why this one, in words. mean, std: (C, 1, 1), over the training pixels, in 0..1 units.
    """

    train: Split
    test: Split
    classes: tuple
    kind: str
    reason: str
    mean: torch.Tensor
    std: torch.Tensor

    def __str__(self):
        names = {"cifar10": "CIFAR-10", "folder": "your image folder", "shapes": "generated shapes"}
        size = "x".join(str(n) for n in self.train.images.shape[-2:])
        return (
            f"Data: {names[self.kind]}, {len(self.train):,} training and {len(self.test):,} test images, "
            f"{size} pixels, {len(self.classes)} classes.\nWhy: {self.reason}"
        )

    def to(self, device):
        """The same data on another device."""
        return replace(
            self,
            train=self.train.to(device),
            test=self.test.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
        )


def _data(train, test, classes, kind, reason):
    # At most 5,000 images: to two digits they have the statistics of all
    mean, std = pixel_statistics(train.images[:: max(1, len(train) // 5000)])
    return Data(train, test, tuple(classes), kind, reason, mean, std.clamp_min(1e-3))


# ---------------------------------------------------------------- batches


def pixel_statistics(images):
    """Mean and standard deviation of each channel, over all images and pixels. uint8 (N, C, H, W) -> two of (C, 1, 1).

    In 0..1 units. From how often each of the 256 values comes, which is faster than sums over floats.
    """
    channels = images.movedim(1, 0).flatten(1)  # (C, N * H * W)
    counts = torch.stack([channel.bincount(minlength=256) for channel in channels])  # (C, 256)
    share = counts.double() / counts.sum(dim=1, keepdim=True)  # (C, 256)
    values = torch.arange(256, dtype=torch.float64) / 255  # (256,)
    mean = share @ values  # (C,)
    std = (share @ values**2 - mean**2).clamp_min(0).sqrt()  # (C,)
    return mean.float()[:, None, None], std.float()[:, None, None]


def normalize(images, mean, std):
    """uint8 (B, C, H, W) in 0..255 -> float32 with mean 0 and standard deviation 1 over the training pixels."""
    return (images.float() / 255 - mean) / std


def denormalize(images, mean, std):
    """The inverse of `normalize`, as float32 in 0..1, for looking at."""
    return (images * std + mean).clamp(0, 1)


def random_flip(images):
    """Mirror each image left to right with probability 1/2, one draw an image. (B, C, H, W) -> same shape."""
    flip = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5  # (B, 1, 1, 1)
    return torch.where(flip, images.flip(-1), images)


def random_crop(images, padding=4):
    """Shift each image by up to `padding` pixels, one draw an image; zeros come in at the border.

    (B, C, H, W) -> same shape, any dtype. Same as torchvision's RandomCrop((H, W), padding=padding), for a whole
    batch in one gather.
    """
    B, _, H, W = images.shape
    padded = torch.nn.functional.pad(images, [padding] * 4)  # (B, C, H + 2p, W + 2p)
    # A view of all windows, (B, C, 2p + 1, 2p + 1, H, W): nothing is copied
    windows = padded.unfold(2, H, 1).unfold(3, W, 1)
    top, left = torch.randint(0, 2 * padding + 1, (2, B), device=images.device)  # 2 x (B,)
    return windows[torch.arange(B, device=images.device), :, top, left]  # (B, C, H, W)


def batches(split, batch_size, mean, std, train=False, generator=None, crop=4, flip=True):
    """Go once over a split in batches of normalised float32 images.

    train=True shuffles, flips (with flip=True), crops (by up to `crop` pixels; 0: not), and leaves out the last, smaller
    batch. generator: a CPU generator for the order. Yields (images (B, C, H, W), labels (B,)) on the split's device.
    Raises ValueError for an empty split.
    """
    if len(split) == 0:
        raise ValueError("there is no image to make batches of: the split is empty.")
    order = torch.randperm(len(split), generator=generator) if train else torch.arange(len(split))
    full = len(split) // batch_size * batch_size if train and len(split) >= batch_size else len(split)
    for chunk in order[:full].to(split.labels.device).split(batch_size):
        images = split.images[chunk]  # (B, C, H, W), uint8
        if train and flip:
            images = random_flip(images)
        if train and crop:
            images = random_crop(images, crop)
        yield normalize(images, mean, std), split.labels[chunk]


# ---------------------------------------------------------------- which data?


def choose():
    """Decide which data to use, without loading or downloading anything. Returns (kind, path or None, reason).

    kind is "cifar10", "archive" (a CIFAR-10 archive to unpack), "folder", "shapes" or "download".
    Raises DataError when VIT_EDU_DATA names something that is no data.
    """
    asked = settings.data()
    if asked == "shapes":
        return "shapes", None, "VIT_EDU_DATA=shapes asks for them."
    if asked and asked != "cifar10":
        path = Path(asked).expanduser()
        if not path.exists():
            raise DataError(
                f"VIT_EDU_DATA names {path}, and there is nothing of that name. Set it to a folder with one "
                "folder of images a class, to a folder with the CIFAR-10 archive, to cifar10 or to shapes; "
                "or unset it."
            )
        kind, place = _what_is_in(path)
        return kind, place, f"VIT_EDU_DATA names {path}."
    kind, place = _what_is_in(settings.cache_dir()) if settings.cache_dir().is_dir() else ("folder", None)
    if kind != "folder":
        return kind, place, f"it is in the cache folder, {settings.cache_dir()}."
    if asked == "cifar10":
        return "download", None, "VIT_EDU_DATA=cifar10 asks for it."
    return "download", None, "it is the data of the course and is not on this machine yet."


def _what_is_in(path):
    archive, unpacked = "cifar-10-python.tar.gz", "cifar-10-batches-py"
    if path.name == archive and path.is_file():
        return "archive", path
    if path.is_file():
        raise DataError(
            f"VIT_EDU_DATA names the file {path}; expected a folder, or CIFAR-10's {archive}. "
            "Name the folder that the images lie in."
        )
    if path.name == unpacked:
        return "cifar10", path.parent
    if (path / unpacked).is_dir():
        return "cifar10", path
    if (path / archive).is_file():
        return "archive", path / archive
    return "folder", path


def load(size=32):
    """The data of the course: CIFAR-10 where it is there or can be had, a folder of yours, or generated shapes.

    Decided in this order, and said in `.reason`:
    1. VIT_EDU_DATA: a folder (CIFAR-10, its archive, or one folder of images a class), "cifar10" or "shapes".
    2. CIFAR-10 in the cache folder.
    3. CIFAR-10 from the network, verified, where a server answers within seconds.
    4. Shapes, generated here.

    size: images of a folder are brought to size x size pixels. Returns `Data`.
    Raises DataError when something that was asked for by name cannot be had. A dead network, a read-only or full disk
    are no error unless VIT_EDU_DATA=cifar10: then the shapes are taken, and the reason says why.
    """
    kind, path, reason = choose()
    if kind == "download":
        try:
            path, kind = _download_cifar10(), "cifar10"
            reason = f"it was downloaded, verified and put into {path}."
        except DataError as error:
            if settings.data() == "cifar10":
                raise
            kind, reason = (
                "shapes",
                f"CIFAR-10 is not on this machine, and could not be had: {error}",
            )
    if kind == "archive":
        path, kind = _unpack_archive(path), "cifar10"
    if kind == "cifar10":
        return _load_cifar10(path, reason)
    if kind == "folder":
        return image_folder(path, size, reason)
    return shapes(reason=reason)


# ---------------------------------------------------------------- CIFAR-10


def _load_cifar10(root, reason):
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    try:
        parts = [CIFAR10(root, train=train) for train in (True, False)]  # verifies all files
    except RuntimeError as error:
        folder = root / CIFAR10.base_folder
        files = [
            *CIFAR10.train_list,
            *CIFAR10.test_list,
            [CIFAR10.meta["filename"], CIFAR10.meta["md5"]],
        ]
        bad = [name for name, md5 in files if not check_integrity(folder / name, md5)]
        raise DataError(
            f"CIFAR-10 in {folder} is incomplete or damaged: {', '.join(bad)} "
            f"{'does' if len(bad) == 1 else 'do'} not have the published checksum. "
            "Remove that folder and load again, or put the archive beside it."
        ) from error
    splits = []
    for part in parts:
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
        splits.append(Split(images, torch.tensor(part.targets)))
    return _data(*splits, part.classes, "cifar10", reason)


def _unpack_archive(archive):
    """Verify CIFAR-10's archive and unpack it into the cache, whole or not at all. Returns the cache folder."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, extract_archive

    final = settings.cache_dir() / CIFAR10.base_folder
    if final.is_dir():
        return settings.cache_dir()
    if not check_integrity(archive, CIFAR10.tgz_md5):
        raise DataError(
            f"{archive} is not the complete CIFAR-10 archive: expected 170,498,071 bytes with MD5 "
            f"{CIFAR10.tgz_md5}, got {archive.stat().st_size:,} bytes with another one. It was probably cut off on "
            "the way: download it again."
        )
    with _scratch_folder() as scratch:
        extract_archive(str(archive), str(scratch))
        os.replace(scratch / CIFAR10.base_folder, final)
    return settings.cache_dir()


def _download_cifar10():
    """CIFAR-10 through torchvision into the cache, whole or not at all. Returns the cache folder."""
    from torchvision.datasets import CIFAR10

    with _scratch_folder() as scratch:
        _require_space(scratch)
        require_network(CIFAR10.url, otherwise=OFFLINE)
        print(
            f"Downloading CIFAR-10 (170 MB) into {settings.cache_dir()}. Interrupt to go on with generated shapes."
        )
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(STALL_SECONDS)
        try:
            CIFAR10(scratch, download=True)  # checks the MD5 of the archive and of every file in it
        except KeyboardInterrupt:
            raise DataError("the download was interrupted. Call again to take it up anew.") from None
        except (OSError, RuntimeError, EOFError) as error:
            raise DataError(
                f"the download broke off ({error}). Try again later, or download cifar-10-python.tar.gz by other "
                f"means and put it into {settings.cache_dir()}."
            ) from error
        finally:
            socket.setdefaulttimeout(before)
        os.replace(scratch / CIFAR10.base_folder, settings.cache_dir() / CIFAR10.base_folder)
    return settings.cache_dir()


def download_problem():
    """Why CIFAR-10 could not be downloaded now, in words, or "" where nothing stands in the way."""
    from torchvision.datasets import CIFAR10

    try:
        with _scratch_folder() as scratch:
            _require_space(scratch)
        require_network(CIFAR10.url, otherwise=OFFLINE)
    except DataError as error:
        return str(error)
    return ""


def _require_space(folder):
    free = shutil.disk_usage(folder).free
    if free < CIFAR_DISK_BYTES:
        raise DataError(
            f"the disk of {settings.cache_dir()} has {free // 2**20:,} MB free and CIFAR-10 needs "
            f"{CIFAR_DISK_BYTES // 2**20:,} MB while it is unpacked. "
            "Free some space, or set VIT_EDU_CACHE to a folder on another disk."
        )


class _scratch_folder:
    """A folder inside the cache for what is not finished; gone afterwards, whatever happened."""

    def __enter__(self):
        try:
            settings.cache_dir().mkdir(parents=True, exist_ok=True)
            for left in settings.cache_dir().glob(".unfinished-*"):  # of a process that was killed
                if time.time() - left.stat().st_mtime > 24 * 3600:
                    shutil.rmtree(left, ignore_errors=True)
            self.path = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=settings.cache_dir()))
        except OSError as error:
            raise DataError(
                f"the cache folder {settings.cache_dir()} cannot be written to ({error.strerror or error}). "
                "Set VIT_EDU_CACHE to a folder that can, or VIT_EDU_DATA to a folder that has the data."
            ) from error
        return self.path

    def __exit__(self, kind, error, traceback):
        shutil.rmtree(self.path, ignore_errors=True)
        if isinstance(error, OSError):
            raise DataError(
                f"writing to {settings.cache_dir()} failed ({error.strerror or error}). Nothing was left behind. Free some "
                "space, or set VIT_EDU_CACHE to a folder on another disk."
            ) from error


_unreachable = {}  # url -> reason: one answer for a process, so that a dead network is waited for once


def require_network(url, otherwise="", again=False):
    """DataError unless `url` answers within PROBE_SECONDS; name look-up included, which has no time limit itself.

    otherwise: what else a person can do, for the error's text. again: ask anew where it did not answer before.
    """

    if not settings.network():
        raise DataError(f"VIT_EDU_NETWORK=off forbids every connection{otherwise}.")

    def probe():
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "vit_edu"})
        try:
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            _unreachable[url] = ""
        except (OSError, ValueError) as error:
            _unreachable[url] = str(getattr(error, "reason", error))

    if again and _unreachable.get(url):
        del _unreachable[url]
    if url not in _unreachable:
        thread = threading.Thread(target=probe, daemon=True)
        thread.start()
        thread.join(PROBE_SECONDS + 1)
        _unreachable.setdefault(url, f"no answer within {PROBE_SECONDS} seconds")
    if _unreachable[url]:
        raise DataError(f"{url} cannot be reached ({_unreachable[url]}). Connect to a network{otherwise}.")


# ---------------------------------------------------------------- a folder of images


def image_folder(path, size=32, reason="it was asked for."):
    """Read a folder of images, one folder a class, into `Data`.

    path: holds `train/` and `test/` (or `val/`), each with one folder a class; or the class folders themselves, of
    which every fifth image, after shuffling with a fixed seed, becomes a test image. Images are brought to RGB and
    size x size pixels (short side resized, middle cut out). Raises DataError, naming the folder or file at fault.
    """
    train, test = check_folder(path)
    return _data(_read(train, size), _read(test, size), list(train), "folder", reason)


def check_folder(path):
    """The files of an image folder without reading them: ({class: files}, {class: files}) to train and to test on.

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
                "stand in one of them only."
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
    """{class name: image files}, or DataError where the folder is not one folder a class."""
    folders, loose = _subfolders(path), _images_in(path)
    expected = "Expected one folder a class, with images in it, such as cats/1.jpg and dogs/1.jpg."
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
            f"no image lies in the class folder{'s' if len(empty) > 1 else ''} {', '.join(empty[:5])} of {path}. "
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


# ---------------------------------------------------------------- shapes

SHAPES = (
    "circle",
    "ring",
    "square",
    "frame",
    "triangle",
    "plus",
    "star",
    "crescent",
    "bar",
    "heart",
)


def shapes(train=10_000, test=2_000, size=32, seed=0, reason="they were asked for."):
    """Ten kinds of shapes on coloured backgrounds: varied colour, place, size and angle, some noise.

    Colours are drawn the same way for all classes, so the shape is all there is to go by. The same seed gives the
    same images. Returns `Data` with `train` + `test` images of size x size pixels; 12,000 of them take about two
    seconds.
    """
    generator = torch.Generator().manual_seed(seed)
    splits = (_draw_shapes(n, size, generator) for n in (train, test))
    return _data(*splits, SHAPES, "shapes", reason)


def _draw_shapes(count, size, generator):
    def uniform(low, high, *shape):
        return torch.rand(*shape, generator=generator) * (high - low) + low

    labels = torch.arange(count) % len(SHAPES)
    labels = labels[torch.randperm(count, generator=generator)]  # as many of each, in random order

    # Where each pixel lies in the shape's own coordinates: centre 0, reach 1.
    axis = (torch.arange(size) + 0.5) / size * 2 - 1  # -1 .. 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")  # (S, S)
    scale = uniform(0.5, 0.8, count, 1, 1)
    x = (x - uniform(-0.2, 0.2, count, 1, 1)) / scale  # (N, S, S)
    y = (y - uniform(-0.2, 0.2, count, 1, 1)) / scale
    angle = uniform(-0.25, 0.25, count, 1, 1)  # radians, up to 14 degrees either way
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()

    # Signed distance to the outline, negative inside, in the shape's units.
    distance = torch.empty(count, size, size)
    for label, outline in enumerate(_OUTLINES):
        mine = labels == label
        distance[mine] = outline(x[mine], y[mine])
    # (N, S, S), 1 inside, soft by a pixel at the edge
    ink = torch.sigmoid(-distance * scale * size)

    # Two colours, the shape the lighter one; a slope of brightness behind, a little noise over all.
    back = uniform(0, 0.7, count, 3, 1, 1)
    fore = back + (1 - back) * uniform(0.3, 1, count, 3, 1, 1)
    slope = uniform(-0.2, 0.2, count, 1, 1, 1) * axis + uniform(-0.2, 0.2, count, 1, 1, 1) * axis[:, None]
    image = torch.lerp(back + slope, fore, ink[:, None])
    image += torch.randn(count, 3, size, size, generator=generator) * 0.04
    return Split((image.clamp_(0, 1) * 255).to(torch.uint8), labels)


def _box(x, y, width, height):
    return torch.maximum(x.abs() - width, y.abs() - height)


def _star(x, y):
    # Five equal sectors, 0 between two tips
    turn = torch.atan2(x, -y) % (2 * math.pi / 5) - math.pi / 5
    return torch.hypot(x, y) * (1 + 0.75 * (1 - turn.abs() / (math.pi / 5))) - 1


# One formula a class, in the order of SHAPES; y points down.
_OUTLINES = (
    lambda x, y: torch.hypot(x, y) - 0.9,
    lambda x, y: (torch.hypot(x, y) - 0.72).abs() - 0.2,
    lambda x, y: _box(x, y, 0.8, 0.8),
    lambda x, y: _box(x, y, 0.66, 0.66).abs() - 0.17,
    lambda x, y: torch.maximum(0.87 * x.abs() - 0.5 * (y + 0.9), y - 0.65),
    lambda x, y: torch.minimum(_box(x, y, 0.9, 0.28), _box(x, y, 0.28, 0.9)),
    _star,
    lambda x, y: torch.maximum(torch.hypot(x, y) - 0.9, 0.75 - torch.hypot(x - 0.45, y)),
    lambda x, y: _box(x, y, 1.0, 0.3),
    lambda x, y: torch.hypot(x, y - 0.1 + 0.75 * x.abs().sqrt() * 0.9) - 0.78,
)
