"""Weights from files and from the network. They are verified, arrive whole or not at all, and nothing in them is executed."""

import argparse
import hashlib
import http.client
import os
import pickle
import re
import shutil
import ssl
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from vit_edu import atomic, settings
from vit_edu.data import network, scratch
from vit_edu.pretrained.names import WeightsError, without_entries

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")
CHUNK = 2**20  # bytes
# What weights_only=True reads besides tensors and plain containers: the options of a run, which MAE's code saves with the weights
HARMLESS = [argparse.Namespace]


# ---------------------------------------------------------------- from a file


def read(path, entry=None):
    """The tensors in a file of any family, unchanged: {name: tensor}, on the CPU. No code in the file is run.

    entry: see `convert`. The other arguments and errors are those of `read_whole`.
    """
    return without_entries(read_whole(path), entry)[0]


def read_whole(path):
    """What is in a file of weights: {name: tensor}, or a checkpoint in which they are. No code in the file is run.

    path: ends in one of SUFFIXES. A .pt, .pth or .bin is read with weights_only=True, an .npz with allow_pickle=False. If
    there is a FILE.sha256 beside the file, it is compared with the file. Raises WeightsError for a file that is missing, cut
    off, altered, or holds code.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise WeightsError(
            f"{path} is not named like a file of weights; expected a name that ends in one of {', '.join(SUFFIXES)}."
        )
    require_readable(path)
    _require_no_text(path)
    require_digest(path)
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        elif path.suffix == ".npz":
            if not zipfile.is_zipfile(path) and not _is_pickle(
                path
            ):  # numpy takes whatever it does not know for a pickle
                raise OSError("there is no list of arrays at its end")
            with np.load(path, allow_pickle=False) as arrays:  # checks the CRC of each array
                found = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        else:
            found = _read_torch(path)
    except (OSError, EOFError, KeyError, SafetensorError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    except (ValueError, TypeError) as error:  # numpy refuses objects; torch has no tensors of that kind
        code = " That may be code, which was not run." if "allow_pickle" in str(error) else ""
        raise WeightsError(
            f"{path} holds more than plain numbers ({error}).{code} Get the weights from their publisher, as .safetensors if possible."
        ) from error
    return found


def require_readable(path):
    """Raise WeightsError unless there is a file that may be read."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise WeightsError(f"there is no file {path}.") from error
    except OSError as error:
        remedy = " Change its permissions." if isinstance(error, PermissionError) else ""
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}).{remedy}") from error


def _require_no_text(path):
    """Raise WeightsError for a pointer of Git LFS and for a web page, which often arrive in the place of weights."""
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path} is a pointer of Git LFS, a few lines of text in the place of the weights. Get the weights with git lfs pull, or "
            "download the file itself."
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(
            f"{path} is a web page, not a file of weights: perhaps the page of a login, or the one around the download. Remove it and "
            "get the file itself."
        )


def _is_pickle(path):
    with open(path, "rb") as file:
        return file.read(1) == b"\x80"


def _read_torch(path):
    if zipfile.is_zipfile(path):  # torch.load does not compare the checksums that the file holds
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad:
            raise OSError(f"the checksum of {bad} is wrong")
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        said = [  # what torch found, without its advice to allow it
            line.split(" Please use")[0]
            for line in str(error).splitlines()
            if "GLOBAL" in line or "nsupported" in line
        ]
        raise WeightsError(
            f"{path} was not loaded: it is cut off, or holds more than tensors and plain containers, such as code that would "
            f"run while loading. Nothing in it was run. {said[0].strip() if said else ''} Get the weights from their "
            "publisher, as .safetensors if possible."
        ) from error
    except (RuntimeError, AttributeError, IndexError) as error:  # raised by torch for files that are cut off
        raise OSError(str(error).splitlines()[0]) from error


def _damaged(path, error):
    return WeightsError(
        f"{path} is cut off, altered or not a file of weights ({error or type(error).__name__}). Remove it and get it again."
    )


def _digest(path, kind="SHA-256"):
    """The hexadecimal digest of a file's bytes. kind: "SHA-256", or "git's SHA-1", whose bytes begin with the size."""
    with open(path, "rb") as file:
        if kind == "SHA-256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        start = hashlib.sha1(f"blob {os.fstat(file.fileno()).st_size}\0".encode(), usedforsecurity=False)
        return hashlib.file_digest(file, lambda: start).hexdigest()


def write_digest(path, digest=None):
    """Write FILE.sha256, in the format of the command sha256sum."""
    beside = path.with_name(path.name + ".sha256")
    atomic.write(beside, f"{digest or _digest(path)}  {path.name}\n")


def require_digest(path, expected=""):
    """Raise WeightsError unless the file's digest begins with `expected`, by default what FILE.sha256 says, if it exists.

    The digest is SHA-256, or if `expected` has the 40 digits of SHA-1, the one that git gives to files.
    """
    beside = path.with_name(path.name + ".sha256")
    if not expected and beside.exists():
        expected = beside.read_bytes().decode("ascii", "replace").partition(" ")[0].strip()
        if not re.fullmatch("[0-9a-f]{64}", expected):
            raise WeightsError(f"{beside} holds no SHA-256. Remove it, and get it again with the weights.")
    if other := _another(path, expected):
        raise WeightsError(f"{path} was altered or cut off: {other}. Remove it and get it again.")


def has_digest(path, digest):
    """Whether the file's digest begins with `digest`, as for `require_digest`."""
    return not _another(path, digest)


def _another(path, expected):
    """How the file's digest differs from `expected`, of which any beginning will do, or "" if it does not."""
    kind = "git's SHA-1" if len(expected) == 40 else "SHA-256"
    if not expected or (found := _digest(path, kind)).startswith(expected):
        return ""
    return f"expected {kind} {expected[:16]}..., got {found[:16]}..."


def is_ours(path):
    """Whether a file was written by `vit-edu ship`, and therefore says what its model is."""
    try:
        with safe_open(path, "pt") as file:
            return "vit_edu" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


# ---------------------------------------------------------------- from the network


def cache_dir():
    """The folder for downloaded weights: "weights" in `settings.cache_dir()`. Raises WeightsError if there is no home for it."""
    try:
        return settings.cache_dir() / "weights"
    except settings.NoHome as error:
        raise WeightsError(str(error)) from error


def require_network(url, otherwise, any_answer=False):
    """Raise WeightsError if downloads are not wanted, or as `data.require_network` does. It is asked each time."""
    try:
        if settings.fast():
            raise WeightsError(f"VIT_EDU_FAST=1 asks for no download.{otherwise}")
        network.require_network(url, again=True, any_answer=any_answer)
    except (network.DataError, settings.SettingError) as error:
        raise WeightsError(f"{error}{otherwise}") from error


def fetch(url, path, sha256="", otherwise="", authorization="", check=None):
    """Download `url` to `path`, whole and verified or not at all. Returns `path`. A file that is already there is only verified.

    sha256: the digest that the file must have, as for `require_digest`. If the network dies, what has arrived stays in
    `path`.part, and the next call continues from there. The digest is written to `path`.sha256. otherwise: what else a person
    can do, added to errors. authorization: the header of this name for the server of `url`; it goes to no other server that this
    one may refer to. check: called with the path of what has arrived; it is thrown away if this raises an error.
    Raises WeightsError for a network that is dead or stops, a full disk, or unexpected content.
    """
    path = Path(path)
    if path.exists():
        if sha256:
            require_digest(path, sha256)
        return path
    from filelock import FileLock, Timeout  # torch needs it as well

    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=0):
            _download(url, part, otherwise, authorization)
            try:
                _require_published(url, part, sha256)
                if check:
                    check(part)
            except WeightsError:
                part.unlink()
                raise
            write_digest(path, _digest(part))
            os.replace(part, path)
    except Timeout:
        raise WeightsError(
            f"another program is downloading {path} right now. Wait for it, and load again."
        ) from None
    except OSError as error:
        full = error.errno in scratch.DISK_FULL
        remedy = "Free some space" if full else "Change the permissions of its folder"
        raise WeightsError(
            f"{path} cannot be written ({error.strerror or error}). {remedy}, or set VIT_EDU_CACHE to another folder."
        ) from error
    return path


def _require_published(url, part, sha256):
    if other := _another(part, sha256):
        raise WeightsError(
            f"{url} did not send what was published: {other}. It was thrown away. Try again. A network that asks for a login sends "
            "its own page instead."
        )


def _download(url, part, otherwise, authorization=""):
    """Append what is missing to `part`. Raises WeightsError."""
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "vit_edu"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    url = url.partition("?")[0]  # what follows may be a signature, which is long and secret
    try:
        answer = urllib.request.urlopen(request, timeout=network.STALL_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is missing, so the digest decides
            return
        who = error.url.partition("?")[0]  # perhaps another server, to which this one referred
        raise WeightsError(f"{network.answered(who, error.code, error.headers)}{otherwise}") from error
    except http.client.HTTPException as error:
        raise WeightsError(f"{url} does not speak HTTP ({type(error).__name__}).{otherwise}") from error
    except OSError as error:
        raise WeightsError(f"{network.unreachable(url, error, network.STALL_SECONDS)}.{otherwise}") from error
    with answer, open(part, "ab") as file:
        if answer.status != 206:  # the whole file, from its beginning
            file.truncate(0)
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        free = shutil.disk_usage(part.parent).free
        if total and free < total - have:
            raise WeightsError(
                f"{part.parent} has {free // 2**20:,} MB free, but {(total - have) // 2**20 + 1:,} MB are still to come. Free some space, "
                "or set VIT_EDU_CACHE to a folder on another disk."
            )
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem)
        broken = ""
        with bar:
            try:
                while chunk := answer.read1(CHUNK):  # what has arrived, which may be less than a chunk
                    file.write(chunk)
                    have += len(chunk)
                    bar.update(len(chunk))
            except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
                broken = str(error) or type(error).__name__
        file.flush()
        os.fsync(file.fileno())
    if broken or (total is not None and have < total):
        of = "" if total is None else f" of {total:,}"
        raise WeightsError(
            f"the download of {url} broke off at {have:,}{of} bytes ({broken or 'the connection was closed'}). What has arrived is kept. Load again, "
            f"and the download continues from there.{otherwise}"
        )
