"""Every way in which data can come, and every way in which it can fail to."""

import http.server
import multiprocessing
import os
import pickle
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5

from vit_edu import data
from vit_edu.data import cifar10, network, scratch


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """An empty cache for each test, no data asked for, and no memory of dead networks."""
    monkeypatch.delenv("VIT_EDU_DATA", raising=False)
    monkeypatch.setenv("VIT_EDU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(network, "problems", {})
    # Nobody answers there
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")


def left_behind(tmp_path):
    """What is in the cache folder, besides the empty file for its lock."""
    cache = tmp_path / "cache"
    return sorted(p.name for p in cache.iterdir() if p.name != ".lock") if cache.exists() else []


# ---------------------------------------------------------------- shapes


def test_shapes_are_seeded_balanced_and_varied():
    one, same, other = (data.shapes(train=200, test=50, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.train.images, same.train.images)
    assert not torch.equal(one.train.images, other.train.images)
    assert one.train.images.shape == (200, 3, 32, 32)
    assert one.train.images.dtype == torch.uint8
    assert torch.bincount(one.train.labels).tolist() == [20] * 10
    assert len(one.classes) == 10


def test_shapes_are_not_solved_by_colour():
    d = data.shapes(train=3000, test=1000)

    def colours(split):  # mean and spread of each channel
        x = split.images.float() / 255
        return torch.cat([x.mean((2, 3)), x.std((2, 3)), torch.ones(len(x), 1)], dim=1)

    targets = torch.nn.functional.one_hot(d.train.labels, 10).float()
    weights = torch.linalg.lstsq(colours(d.train), targets).solution
    share = ((colours(d.test) @ weights).argmax(1) == d.test.labels).float().mean().item()
    assert share < 0.2  # guessing is 0.1


# ---------------------------------------------------------------- a folder of images


def make_folder(root, classes=("cat", "dog"), count=5, size=(32, 32)):
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((size[1], size[0], 3), 40 * k + i, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def test_folder_with_train_and_test(tmp_path, monkeypatch):
    make_folder(tmp_path / "set" / "train")
    make_folder(tmp_path / "set" / "test", count=2)
    monkeypatch.setenv("VIT_EDU_DATA", str(tmp_path / "set"))
    d = data.load()
    assert (d.kind, len(d.train), len(d.test), d.classes) == ("folder", 10, 4, ("cat", "dog"))
    assert d.train.images[7, :, 0, 0].tolist() == [42, 42, 42]
    assert str(tmp_path / "set") in d.reason


def test_folder_of_classes_is_split_and_brought_to_size(tmp_path):
    make_folder(tmp_path / "set", count=10, size=(50, 40))
    Image.new("L", (20, 20), 7).save(tmp_path / "set" / "dog" / "grey.png")
    (tmp_path / "set" / "notes.txt").write_text("no image", encoding="utf-8")
    d = data.image_folder(tmp_path / "set", size=16)
    assert (len(d.train), len(d.test)) == (17, 4)
    assert d.train.images.shape[1:] == (3, 16, 16)


def loose(root):
    make_folder(root)
    Image.new("RGB", (8, 8)).save(root / "stray.png")


def empty_class(root):
    make_folder(root)
    (root / "bird").mkdir()


def no_class(root):
    root.mkdir()
    Image.new("RGB", (8, 8)).save(root / "a.png")


def broken_image(root):
    make_folder(root)
    (root / "cat" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")


def classes_differ(root):
    make_folder(root / "train", ("cat", "dog"))
    make_folder(root / "test", ("cat", "cow"))


def class_beside_train(root):
    make_folder(root / "train")
    make_folder(root / "test")
    make_folder(root, ("bird",))


def test_pictures_beside_a_notebook_are_read_in_their_own_sizes(tmp_path):
    Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save(tmp_path / "b.png")  # transparent: a viewer shows white
    Image.new("L", (8, 9), 7).save(tmp_path / "a.JPG")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (5, 5)).save(tmp_path / "folder" / "c.png")
    found = data.pictures_in(tmp_path)
    assert [(name, p.size, p.mode) for name, p in found.items()] == [
        ("a.JPG", (8, 9), "RGB"),
        ("b.png", (30, 20), "RGB"),
    ]
    assert found["b.png"].getpixel((0, 0)) == (255, 255, 255)
    assert list(data.pictures_in(tmp_path, most=1)) == ["a.JPG"]
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(data.DataError, match=r"c\.png cannot be read as an image"):
        data.pictures_in(tmp_path)
    with pytest.raises(data.DataError, match="there is no"):
        data.pictures_in(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: root.mkdir(), "0 class folders; at least two"),
        (no_class, "1 images and no folder"),
        (loose, r"mixes 1 images \(stray.png, ...\) with class folders \(cat"),
        (empty_class, "there are no images in the class folder bird"),
        (broken_image, r"bad.png cannot be read as an image"),
        (classes_differ, "cow, dog are in only one of them"),
        (class_beside_train, "but also bird"),
        (lambda root: make_folder(root, count=1), "'cat' .* has a single image"),
    ],
)
def test_folder_at_fault_is_named(tmp_path, monkeypatch, make, says):
    make(tmp_path / "set")
    monkeypatch.setenv("VIT_EDU_DATA", str(tmp_path / "set"))
    with pytest.raises(data.DataError, match=says):
        data.load()


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_name_that_is_not_a_folder(tmp_path, monkeypatch, kind):
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("", encoding="utf-8")
    monkeypatch.setenv("VIT_EDU_DATA", str(path))
    with pytest.raises(
        data.DataError, match="nothing of that name" if kind == "missing" else "expected a folder"
    ):
        data.load()


# ---------------------------------------------------------------- asked for by a caller


def test_source_goes_before_the_environment(tmp_path, monkeypatch):
    make_folder(tmp_path / "set")
    monkeypatch.setenv("VIT_EDU_DATA", str(tmp_path / "missing"))
    for source in (tmp_path / "set", str(tmp_path / "set")):
        d = data.load(source=source)
        assert (d.kind, d.reason) == ("folder", f"you asked for {tmp_path / 'set'}.")
    assert data.choose("shapes") == ("shapes", None, "you asked for shapes.")
    assert data.load(source="shapes").reason == "you asked for shapes."
    with pytest.raises(data.DataError, match=r"VIT_EDU_DATA names .*missing, but there is nothing"):
        data.load()


def test_source_that_cannot_be_had_is_named_as_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    with pytest.raises(data.DataError, match=r"^you asked for .*missing, but there is nothing of that name"):
        data.load(source=tmp_path / "missing")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(data.DataError, match=r"^you asked for the file .*file; expected a folder"):
        data.load(source=tmp_path / "file")
    with pytest.raises(data.DataError, match="cannot be reached"):  # no shapes instead
        data.load(source="cifar10")


def test_environment_is_named_where_it_decided(monkeypatch):
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    assert data.load().reason == "VIT_EDU_DATA names shapes."
    monkeypatch.setenv("VIT_EDU_DATA", "cifar10")
    assert data.choose() == ("download", None, "VIT_EDU_DATA names cifar10.")


# ---------------------------------------------------------------- CIFAR-10


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """The path of an archive in CIFAR-10's format, with 4 images per batch and torchvision's checksums set to fit."""
    folder = tmp_path / "made" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [n for n, _ in CIFAR10.train_list + CIFAR10.test_list]
    for name in names:
        batch = {"data": rng.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 1, 2, 9]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    md5 = {p.name: calculate_md5(p) for p in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "train_list", [[n, md5[n]] for n in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[5], md5[names[5]]]])
    monkeypatch.setattr(CIFAR10, "meta", dict(CIFAR10.meta, md5=md5["batches.meta"]))
    archive = tmp_path / "made" / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", calculate_md5(archive))
    return archive


def test_cifar_from_a_folder_that_has_it_unpacked(small_cifar, monkeypatch):
    monkeypatch.setenv("VIT_EDU_DATA", str(small_cifar.parent))
    d = data.load()
    assert (d.kind, len(d.train), len(d.test)) == ("cifar10", 20, 4)
    batch = pickle.loads((small_cifar.parent / CIFAR10.base_folder / "data_batch_1").read_bytes())
    # Channels, rows, columns in order
    assert d.train.images[0].flatten().tolist() == batch["data"][0].tolist()


def test_cifar_from_its_archive(small_cifar, monkeypatch, tmp_path):
    monkeypatch.setenv("VIT_EDU_DATA", str(small_cifar))
    assert len(data.load().train) == 20
    assert left_behind(tmp_path) == [CIFAR10.base_folder]
    monkeypatch.delenv("VIT_EDU_DATA")
    assert "in the cache folder" in data.load().reason  # the next time


def test_truncated_archive(small_cifar, monkeypatch, tmp_path):
    small_cifar.write_bytes(small_cifar.read_bytes()[:1000])
    monkeypatch.setenv("VIT_EDU_DATA", str(small_cifar))
    with pytest.raises(data.DataError, match=r"got 1,000 bytes .* download it again"):
        data.load()
    assert left_behind(tmp_path) == []


def test_damaged_batch_is_named(small_cifar, monkeypatch):
    (small_cifar.parent / CIFAR10.base_folder / "data_batch_3").write_bytes(b"")
    monkeypatch.setenv("VIT_EDU_DATA", str(small_cifar.parent))
    with pytest.raises(data.DataError, match="incomplete or damaged: data_batch_3"):
        data.load()


# ---------------------------------------------------------------- the network


@pytest.fixture
def server(small_cifar, monkeypatch):
    """A web server on this machine that hands out the small archive; yields the folder that it serves."""
    folder = small_cifar.parent

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{http_server.server_port}/{small_cifar.name}")
        yield folder
        http_server.shutdown()


def test_download_verified_and_whole(server, tmp_path):
    d = data.load()
    assert (d.kind, len(d.train)) == ("cifar10", 20)
    assert "downloaded, verified" in d.reason
    assert left_behind(tmp_path) == [CIFAR10.base_folder]


def test_download_of_something_else_leaves_nothing(server, tmp_path, monkeypatch):
    (server / CIFAR10.filename).write_bytes(b"an error page")
    monkeypatch.setenv("VIT_EDU_DATA", "cifar10")
    with pytest.raises(data.DataError, match="download broke off"):
        data.load()
    assert left_behind(tmp_path) == []


def test_interrupted_download_goes_on_with_shapes(server, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", stop)
    d = data.load()
    assert d.kind == "shapes"
    assert "interrupted" in d.reason
    assert left_behind(tmp_path) == []


def test_dead_network_gives_shapes_and_says_why(tmp_path):
    d = data.load()
    assert d.kind == "shapes"
    assert "cannot be reached" in d.reason
    assert left_behind(tmp_path) == []


def test_dead_network_is_an_error_where_cifar_was_asked_for(monkeypatch):
    monkeypatch.setenv("VIT_EDU_DATA", "cifar10")
    with pytest.raises(data.DataError, match=r"cannot be reached .* Connect to a network"):
        data.load()


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(network, "PROBE_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(data.DataError, match="cannot be reached"):
            data.require_network(url)
        silent.accept()
        with pytest.raises(data.DataError, match="cannot be reached"):
            data.require_network(url)
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):  # the answer was remembered, and nobody asked a second time
            silent.accept()


@pytest.fixture
def answers():
    """A server on this machine: its `heads` and `gets` are the status of its answer to each method. Yields it and its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(self.server.heads)
            self.end_headers()

        def do_GET(self):
            self.server.asked += 1
            self.send_response(self.server.gets)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        http_server.heads = http_server.gets = 200
        http_server.asked = 0
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield http_server, f"http://127.0.0.1:{http_server.server_port}/x"
        http_server.shutdown()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 500, 501])
def test_a_server_that_refuses_head_is_asked_with_get(answers, status):
    http_server, url = answers
    http_server.heads = status
    data.require_network(url)
    assert http_server.asked == 1


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "asked for. Log in"),
        (403, "not allowed to read it"),
        (404, "nothing is at that address"),
        (407, "the proxy of your network"),
        (410, "it was removed"),
        (418, "does not hand it out"),
        (429, "too many requests .* Wait for some minutes"),
        (500, "out of order. Try again later"),
        (503, "overloaded. Try again later"),
    ],
)
def test_an_answer_of_the_server_is_no_dead_network(answers, status, says):
    http_server, url = answers
    http_server.heads = http_server.gets = status
    with pytest.raises(data.DataError, match=rf"answers {status} .*: .*{says}.*, or else\.$") as told:
        data.require_network(url, otherwise=", or else")
    assert "Connect to a network" not in str(told.value)
    http_server.heads = http_server.gets = 200
    data.require_network(url)  # the remedy helps at once, as an answer is not remembered


def test_a_certificate_that_nobody_vouches_for(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl to make a certificate")
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run(
        [*made, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True
    )
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as http_server:
        http_server.socket = context.wrap_socket(http_server.socket, server_side=True)
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        with pytest.raises(data.DataError, match=r"its certificate is not trusted .*SSL_CERT_FILE") as told:
            data.require_network(f"https://localhost:{http_server.server_port}/")
        assert "Connect to a network" not in str(told.value)
        http_server.shutdown()


@pytest.mark.parametrize("url", ["nonsense", "gopher://x/", "http://127.0.0.1:notaport/"])
def test_an_address_that_cannot_be_asked(url):
    with pytest.raises(data.DataError, match="is not an address that can be asked"):
        data.require_network(url)


# ---------------------------------------------------------------- several programs, one cache


@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="needs fork, so that the small archive is that of the children"
)
@pytest.mark.parametrize("how", ["download", "archive"])
def test_several_programs_fill_one_cache_together(server, tmp_path, monkeypatch, how):
    monkeypatch.setenv("VIT_EDU_DATA", "" if how == "download" else str(server / CIFAR10.filename))
    fork = multiprocessing.get_context("fork")
    queue, barrier = fork.Queue(), fork.Barrier(3)

    def load():
        barrier.wait()
        queue.put(data.load().kind)

    children = [fork.Process(target=load) for _ in range(3)]
    for child in children:
        child.start()
    assert [queue.get(timeout=100) for _ in children] == ["cifar10"] * 3
    for child in children:
        child.join()
    assert left_behind(tmp_path) == [CIFAR10.base_folder]


HOLDS = """
import sys
from vit_edu.data.scratch import one_at_a_time, scratch_folder
with one_at_a_time("CIFAR-10"), scratch_folder():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Another program that is filling the cache, and does not come to an end."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


def test_a_program_that_was_killed_holds_up_nobody(small_cifar, monkeypatch, holder):
    monkeypatch.setenv("VIT_EDU_DATA", str(small_cifar))
    threading.Timer(1.0, holder.kill).start()
    assert data.load().kind == "cifar10"


def test_a_program_that_stands_still_is_not_waited_for_for_ever(small_cifar, monkeypatch, holder, capsys):
    monkeypatch.setenv("VIT_EDU_DATA", str(small_cifar))
    monkeypatch.setattr(scratch, "PATIENCE_SECONDS", 1)
    with pytest.raises(data.DataError, match=r"nothing has come for 1 seconds. End that program, or"):
        data.load()
    assert "Another program is putting CIFAR-10 into" in capsys.readouterr().out


def test_a_disk_that_fills_up_during_the_download_is_not_called_a_broken_network(server, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", full)
    reason = data.load().reason
    assert "No space left on device" in reason
    assert "Free some space" in reason
    assert "broke off" not in reason


def test_a_remedy_fits_its_error(server, monkeypatch):
    def forbidden(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", forbidden)
    reason = data.load().reason
    assert "Read-only file system" in reason
    assert "Free some space" not in reason
    assert "another folder that you can write to" in reason


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("VIT_EDU_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot be written to" in data.load().reason
    monkeypatch.setenv("VIT_EDU_DATA", "cifar10")
    with pytest.raises(data.DataError, match="Set VIT_EDU_CACHE to a folder that you can write to"):
        data.load()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_cache_that_is_read_only(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir(mode=0o500)
    assert "cannot be written to" in data.load().reason


def test_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "DISK_BYTES", 10**18)  # more than any disk has
    assert "MB free and CIFAR-10 needs" in data.load().reason
    assert left_behind(tmp_path) == []


def test_disk_that_fills_up_on_the_way(server, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setenv("VIT_EDU_DATA", "cifar10")
    with pytest.raises(data.DataError, match="No space left on device"):
        data.load()
    assert left_behind(tmp_path) == []


# ---------------------------------------------------------------- batches


def test_pixel_statistics_are_those_of_all_pixels():
    images = torch.randint(0, 200, (7, 3, 5, 6), dtype=torch.uint8)
    images[:, 2] = 31
    std, mean = torch.std_mean(images.double() / 255, dim=(0, 2, 3), keepdim=True, correction=0)
    found = data.pixel_statistics(images)
    torch.testing.assert_close(found, (mean[0].float(), std[0].float()))


def test_batches_see_each_image_once_and_normalise():
    d = data.shapes(train=50, test=20)
    seen = list(data.batches(d.test, 8, d.mean, d.std))
    assert [len(y) for _, y in seen] == [8, 8, 4]
    assert torch.equal(torch.cat([y for _, y in seen]), d.test.labels)
    x = data.denormalize(seen[0][0], d.mean, d.std)
    torch.testing.assert_close(x, d.test.images[:8].float() / 255, atol=1e-5, rtol=0)
    train = list(data.batches(d.train, 8, d.mean, d.std, train=True))
    assert [len(y) for _, y in train] == [8] * 6
    with pytest.raises(ValueError, match="the split is empty"):
        next(data.batches(d.train.take(0), 8, d.mean, d.std))


def test_random_crop_draws_what_torchvision_draws():
    from torchvision.transforms import RandomCrop

    image = torch.arange(1, 26).reshape(1, 1, 5, 5)
    torch.manual_seed(0)
    ours = data.random_crop(image.repeat(5000, 1, 1, 1), padding=1)
    theirs = torch.stack([RandomCrop(5, padding=1)(image[0]) for _ in range(5000)])
    count = [dict(zip(*(t.tolist() for t in s.flatten(1)[:, 12].unique(return_counts=True)), strict=True))
             for s in (ours, theirs)]  # fmt: skip
    assert count[0].keys() == count[1].keys()  # the middle pixel tells which of the nine shifts it was
    # 556 expected, 5 sigma is 111 each
    assert all(abs(count[0][k] - count[1][k]) < 150 for k in count[0])
    assert torch.equal(ours.flatten(1).unique(dim=0), theirs.flatten(1).unique(dim=0))


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda d: next(data.batches(d.test, 0, d.mean, d.std)), "at least one image, got batch_size=0"),
        (lambda d: next(data.batches(d.test, -3, d.mean, d.std, train=True)), "got batch_size=-3"),
        (lambda d: d.train.take(-1), "to take is at least 0, got -1"),
        (lambda d: d.train.hold_out(-1), "to take is at least 0, got -1"),
        (lambda d: data.shapes(train=-1), "train is at least 0, got -1"),
        (lambda d: data.shapes(test=-1), "test is at least 0, got -1"),
        (lambda d: data.shapes(train=1, test=1, size=0), "size is at least 1, got 0"),
    ],
)
def test_numbers_that_make_no_sense(ask, says):
    with pytest.raises(ValueError, match=says):
        ask(data.shapes(train=12, test=4, size=8))
