"""CIFAR-10: read from the files that torchvision knows, unpacked from its archive, or downloaded, and always verified."""

import http.client
import os
import shutil
import socket
import ssl
import urllib.error

import torch

from vit_edu.data import network
from vit_edu.data.scratch import cache_dir, one_at_a_time, scratch_folder
from vit_edu.data.sets import Data, DataError, Split

OFFLINE = "set VIT_EDU_DATA to a folder"
DISK_BYTES = 600 * 2**20  # archive and unpacked batches side by side, with room to spare


def load_cifar10(root, reason):
    """CIFAR-10 from the unpacked files in the folder `root`, as `Data`. Raises DataError, naming files that are damaged."""
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
        if not bad:  # then it is something else
            raise
        raise DataError(
            f"CIFAR-10 in {folder} is incomplete or damaged: {', '.join(bad)} "
            f"{'does' if len(bad) == 1 else 'do'} not have the published checksum. "
            "Remove that folder and load again. With the archive cifar-10-python.tar.gz in its place, nothing is downloaded."
        ) from error
    except OSError as error:
        raise _unreadable(error.filename or root / CIFAR10.base_folder, error) from error
    splits = []
    for part in parts:
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
        splits.append(Split(images, torch.tensor(part.targets)))
    return Data.measured(*splits, part.classes, "cifar10", reason)


def unpack_archive(archive):
    """Verify CIFAR-10's archive and unpack it into the cache, whole or not at all. Returns the cache folder."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, extract_archive

    cache = cache_dir()
    if (cache / CIFAR10.base_folder).is_dir():
        return cache
    try:
        whole = check_integrity(archive, CIFAR10.tgz_md5)
    except OSError as error:
        raise _unreadable(archive, error) from error
    if not whole:
        raise DataError(
            f"{archive} is not the complete CIFAR-10 archive: expected 170,498,071 bytes with MD5 "
            f"{CIFAR10.tgz_md5}, got {archive.stat().st_size:,} bytes with another MD5. It was probably cut "
            "off on the way, so download it again."
        )
    with one_at_a_time("CIFAR-10"):
        if not (cache / CIFAR10.base_folder).is_dir():
            with scratch_folder() as scratch:
                extract_archive(str(archive), str(scratch))
                os.replace(scratch / CIFAR10.base_folder, cache / CIFAR10.base_folder)
    return cache


def _unreadable(path, error):
    remedy = "Change its permissions, or name" if isinstance(error, PermissionError) else "Name"
    return DataError(
        f"{path} cannot be read ({error.strerror or error}). {remedy} another folder in VIT_EDU_DATA."
    )


def download_cifar10():
    """CIFAR-10 through torchvision into the cache, whole or not at all. Returns the cache folder.

    One program at a time downloads into a cache folder. The others wait, and then use what it has put there.
    """
    from torchvision.datasets import CIFAR10

    cache = cache_dir()
    if problem := download_problem():
        raise DataError(problem)
    try:
        with one_at_a_time("CIFAR-10"):
            if not (cache / CIFAR10.base_folder).is_dir():
                print(
                    f"Downloading CIFAR-10 (170 MB) into {cache}. Interrupt it to go on with generated shapes.",
                    flush=True,
                )
                with scratch_folder() as scratch:
                    _download_into(scratch)
                    os.replace(scratch / CIFAR10.base_folder, cache / CIFAR10.base_folder)
    except KeyboardInterrupt:
        raise DataError("the download was interrupted. Call again to start it over.") from None
    return cache


def _download_into(folder):
    """Download and unpack, with checksums of the archive and of every file in it. A full disk remains an OSError."""
    from torchvision.datasets import CIFAR10

    by_hand = f"download cifar-10-python.tar.gz in another way and put it into {cache_dir()}."
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(network.STALL_SECONDS)
    try:
        CIFAR10(folder, download=True)
    except urllib.error.HTTPError as error:
        raise DataError(f"{network.answered(CIFAR10.url, error.code, error.headers)} Or {by_hand}") from error
    except (
        urllib.error.URLError,
        TimeoutError,
        ConnectionError,
        ssl.SSLError,
        http.client.HTTPException,
    ) as error:
        raise DataError(f"the download broke off ({error}). Try again later, or {by_hand}") from error
    except (RuntimeError, EOFError) as error:
        raise DataError(
            f"the download broke off, or the server sent something other than CIFAR-10's archive ({error}). A network that "
            f"asks for a login sends its own page instead. Log in and try again, or {by_hand}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def download_problem():
    """Why CIFAR-10 cannot be downloaded at the moment, in words, or "" if it can."""
    from torchvision.datasets import CIFAR10

    try:
        with scratch_folder() as scratch:
            _require_space(scratch)
        network.require_network(CIFAR10.url, otherwise=OFFLINE)
    except DataError as error:
        return str(error)
    return ""


def _require_space(folder):
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES:
        raise DataError(
            f"the disk of {cache_dir()} has {free // 2**20:,} MB free and CIFAR-10 needs "
            f"{DISK_BYTES // 2**20:,} MB while it is unpacked. "
            "Free some space, or set VIT_EDU_CACHE to a folder on another disk."
        )
