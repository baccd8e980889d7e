"""Repositories of the Hugging Face Hub, played by servers on this machine: what is damaged, closed, forbidden or busy is told as that."""

import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file
from wanted import library

from vit_edu import data, pretrained
from vit_edu.pretrained import files, hub

transformers = library("transformers")
constants = pytest.importorskip("huggingface_hub.constants")
file_download = pytest.importorskip("huggingface_hub.file_download")

PAGE = b"<!DOCTYPE html><html>Please log in to the network of the hotel</html>"
COMMIT = "0" * 40


def digest(body, large):
    return (hashlib.sha256(body) if large else hashlib.sha1(b"blob %d\0" % len(body) + body)).hexdigest()


class Server:
    """A server on 127.0.0.1. files: {path: body}. answers: {(method, path): (status, headers, body)}, which come first.
    log: (method, path, the header Authorization)."""

    def __init__(self):
        self.files, self.answers, self.log = {}, {}, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                path = self.path.partition("?")[0]
                outer.log.append((self.command, path, self.headers.get("Authorization")))
                status, headers, body = outer.answers.get((self.command, path)) or outer.plain(path)
                self.send_response(status)
                for name, value in {"Content-Length": len(body), **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def plain(self, path):
        if path not in self.files:
            return 200 if path == "/" else 404, {"X-Error-Code": "EntryNotFound"}, b""
        body = self.files[path]
        return 200, {"ETag": f'"{digest(body, not path.endswith(".json"))}"', "X-Repo-Commit": COMMIT}, body

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def servers():
    running = Server()
    yield running
    running.close()


server = pytest.fixture(servers)
other = pytest.fixture(servers)
AT = "/someone/vit/resolve/main/"


@functools.cache
def published():
    """{file: bytes} of a small repository, and its model."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "intermediate_size": 48,
        "image_size": 16,
        "patch_size": 8,
    }
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(num_attention_heads=3, **sizes)
    ).eval()
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    return model, json.dumps(model.config.to_dict()).encode(), json.dumps(processor.to_dict()).encode()


@pytest.fixture
def repo(server, tmp_path, monkeypatch):
    """A sound repository "someone/vit" on `server`, empty caches, and nobody logged in. Returns its folder in our cache."""
    for name in (
        "VIT_EDU_FAST",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VIT_EDU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data.network, "problems", {})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    at(monkeypatch, server.url)
    model, config, processor = published()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    server.files |= {AT + "config.json": config, AT + "preprocessor_config.json": processor}
    server.files[AT + "model.safetensors"] = (tmp_path / "model.safetensors").read_bytes()
    return tmp_path / "cache" / "weights" / "hub" / "someone--vit"


def at(monkeypatch, url):
    """What HF_ENDPOINT does where it is set before huggingface_hub is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


def refused(match, name="someone/vit"):
    """What `load` says. It matches, and does not send anybody to look at a cable."""
    with pytest.raises(pretrained.WeightsError, match=match) as told:
        pretrained.load(name)
    assert "Connect to a network" not in str(told.value)
    return str(told.value)


def is_sound(model):
    theirs = published()[0]
    return pretrained.parity(model, theirs, torch.randn(1, 3, 16, 16)).equal


def kept(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


# ---------------------------------------------------------------- what is no answer


def test_a_page_of_a_login_in_the_place_of_the_hub_leaves_nothing_behind(repo, server):
    sound = dict(server.files)
    server.files.clear()
    for method in ("HEAD", "GET"):
        server.answers[method, AT + "config.json"] = 200, {"Content-Type": "text/html"}, PAGE
    assert "log in there" in refused("is not the Hugging Face Hub")
    assert kept(repo) == []
    server.answers.clear()
    server.files = sound
    assert is_sound(pretrained.load("someone/vit"))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_page_of_a_login_in_the_place_of_a_file_leaves_nothing_behind(repo, server, name):
    server.answers["GET", AT + name] = 200, {"Content-Type": "text/html"}, PAGE
    assert "asks for a login" in refused(f"{name} did not send what was published")
    assert name not in kept(repo)
    assert not [n for n in kept(repo) if n.endswith(".part")]
    server.answers.clear()
    assert is_sound(pretrained.load("someone/vit"))


UNFIT = {
    "a page": (PAGE, "cannot be read as JSON"),
    "a list": (b"[]", "holds list in JSON"),
    "null": (b"null", "holds NoneType in JSON"),
    "no heads": (b'{"model_type": "vit", "num_attention_heads": null}', "says that there are None heads"),
    "heads in words": (b'{"model_type": "vit", "num_attention_heads": "three"}', "'three' heads"),
    "labels in a number": (b'{"model_type": "vit", "id2label": 3}', "id2label"),
    "no size": (b'{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": []}', "input_size"),
    "a model that timm does not know": (
        b'{"architecture": "vit_of_mine", "pretrained_cfg": {"input_size": [3, 8, 8]}}',
        "vit_of_mine",
    ),
}


@pytest.mark.parametrize("what", UNFIT)
def test_settings_of_no_use_are_not_kept_and_do_not_stay(repo, server, what):
    body, says = UNFIT[what]
    config = server.files[AT + "config.json"]
    # published like that
    server.files[AT + "config.json"] = body
    refused(re.escape(says) if what != "a page" else says)
    assert kept(repo) == []
    # ... and in the cache, as earlier versions left it
    (repo / "config.json").write_bytes(body)
    refused(re.escape(says) if what != "a page" else says)  # and the Hub has no other one
    server.files[AT + "config.json"] = config
    assert is_sound(pretrained.load("someone/vit"))
    assert (repo / "config.json").read_bytes() == config


def test_what_is_wrong_here_is_told_where_nothing_else_can_be_had(repo, server, monkeypatch):
    repo.mkdir(parents=True)
    (repo / "config.json").write_bytes(PAGE)
    monkeypatch.setenv("VIT_EDU_NETWORK", "off")
    assert "Remove it, and get it again" in refused("config.json cannot be read as JSON")
    assert server.log == []


def test_weights_that_cannot_be_verified_are_not_taken(repo, server):
    body = server.files[AT + "model.safetensors"]
    server.answers["HEAD", AT + "model.safetensors"] = 200, {"ETag": '"5-abc"', "X-Repo-Commit": COMMIT}, body
    refused("model.safetensors cannot be verified.* Unset HF_ENDPOINT.* put it at")
    assert "model.safetensors" not in kept(repo)
    assert ("GET", AT + "model.safetensors", None) not in server.log
    # Small files of weights have git's digest, which is verified as well
    server.answers["HEAD", AT + "model.safetensors"] = (
        200,
        {"ETag": f'"{digest(body, False)}"', "X-Repo-Commit": COMMIT},
        body,
    )
    server.files[AT + "model.safetensors"] = body[:-1] + b"\x07"
    refused("did not send what was published: expected git's SHA-1")
    server.files[AT + "model.safetensors"] = body
    assert is_sound(pretrained.load("someone/vit"))


def test_what_was_put_there_by_hand_says_so(repo, server):
    repo.mkdir(parents=True)
    for path, body in server.files.items():
        (repo / path.rpartition("/")[2]).write_bytes(body)
    server.files.clear()
    model = pretrained.load("someone/vit")
    assert is_sound(model)
    assert any("was put there by hand" in note for note in model.pretrained_cfg["notes"])
    assert server.log == []


def test_files_in_the_hubs_own_cache_are_compared_with_their_names(repo, server, tmp_path):
    folder = tmp_path / "hf" / "models--someone--vit"
    snapshot, blobs = folder / "snapshots" / COMMIT, folder / "blobs"
    for made in (snapshot, blobs, folder / "refs"):
        made.mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    for path, body in server.files.items():
        name = digest(body, not path.endswith(".json"))
        (blobs / name).write_bytes(body)
        (snapshot / path.rpartition("/")[2]).symlink_to(f"../../blobs/{name}")
    model = pretrained.load("someone/vit")
    assert is_sound(model)
    assert model.pretrained_cfg["notes"] == []
    assert server.log == []
    weights, config = ((snapshot / n).resolve() for n in ("model.safetensors", "config.json"))
    config.write_bytes(config.read_bytes().replace(b"24", b"48"))  # settings as before, of another model
    assert is_sound(pretrained.load("someone/vit"))  # with what the Hub has
    assert kept(repo) == ["config.json", "config.json.sha256"]
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    refused("model.safetensors was altered or cut off: expected SHA-256")


# ---------------------------------------------------------------- who may read it


def test_the_token_goes_to_the_hub_and_to_nobody_else(repo, server, other, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert is_sound(pretrained.load("someone/vit"))
    asked = [token for method, path, token in server.log if path != "/"]
    assert len(asked) == 6
    assert set(asked) == {"Bearer hf_secret"}

    # Large files are on another server. The Hub names it at once, or the address that it names refers to it
    path, body = AT + "model.safetensors", server.files[AT + "model.safetensors"]
    other.files["/blob"] = body
    known = {"ETag": f'"{digest(body, True)}"', "X-Repo-Commit": COMMIT}
    for head in ((302, known | {"Location": f"{other.url}/blob?signature=secret"}, b""), (200, known, body)):
        (repo / "model.safetensors").unlink()
        server.answers["HEAD", path] = head
        server.answers["GET", path] = 302, {"Location": f"{other.url}/blob?signature=secret"}, b""
        assert is_sound(pretrained.load("someone/vit"))
    assert [token for method, path, token in other.log if path == "/blob"] == [None, None]
    other.answers["GET", "/blob"] = 403, {}, b""
    (repo / "model.safetensors").unlink()
    assert "signature" not in refused("/blob answers 403 Forbidden: you are not allowed to read it")


def test_a_gated_repository(repo, server, monkeypatch):
    for method in ("HEAD", "GET"):
        server.answers[method, AT + "config.json"] = 401, {"X-Error-Code": "GatedRepo"}, b""
    refused(rf"someone/vit is gated: .*Ask for it at {server.url}/someone/vit, then log in .*HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.answers["HEAD", AT + "config.json"] = 403, {"X-Error-Code": "GatedRepo"}, b""
    refused("someone/vit is gated, and your account has not been let in")


def test_a_repository_that_is_private_or_not_there(repo, server, monkeypatch):
    server.answers["HEAD", AT + "config.json"] = 401, {"X-Error-Code": "RepoNotFound"}, b""
    refused("no public repository someone/vit. Check the name. If it is private, log in")
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    server.answers["HEAD", AT + "config.json"] = 404, {"X-Error-Code": "RepoNotFound"}, b""
    refused("no repository someone/vit that your token may read")
    wrong = "Invalid credentials in Authorization header"
    server.answers["HEAD", AT + "config.json"] = 401, {"X-Error-Message": wrong}, b""
    refused("answers 401: your token is not accepted")
    server.answers["HEAD", AT + "config.json"] = (
        403,
        {"X-Error-Message": "Access to this resource is disabled."},
        b"",
    )
    refused("the Hub has disabled someone/vit")


STATUS = {
    (401, ""): "it is private or gated, .* log in",
    (403, ""): "it is private or gated, .* log in",
    (404, ""): "there is no someone/vit at .* Check the name",
    (405, ""): "the server refuses HEAD",
    (501, ""): "the server refuses HEAD",
    (429, "120"): "too many requests from your network. Try again in 120 seconds",
    (429, ""): "too many requests .* Wait for some minutes",
    (500, ""): "out of order. Try again later",
    (503, "Wed, 21 Oct 2026 07:28:00 GMT"): "overloaded. Try again after Wed, 21 Oct 2026 07:28:00 GMT",
    (503, ""): "overloaded. Try again later",
}


@pytest.mark.parametrize(("status", "wait"), STATUS)
def test_each_refusal_of_the_hub_has_its_own_words(repo, server, status, wait):
    server.answers["HEAD", AT + "config.json"] = status, {"Retry-After": wait} if wait else {}, b""
    refused(rf"config.json answers {status}.*{STATUS[status, wait]}")
    assert kept(repo) == []


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "Log in"),
        (403, "Log in"),
        (404, "nothing is at"),
        (429, "Try again in 9 seconds"),
        (503, "in 9 seconds"),
    ],
)
def test_each_refusal_of_a_download_has_its_own_words(repo, server, status, says):
    server.answers["GET", AT + "model.safetensors"] = (
        status,
        {"Retry-After": "9" if status > 410 else ""},
        b"",
    )
    refused(f"model.safetensors answers {status} .*{says}")
    server.answers.clear()
    assert is_sound(pretrained.load("someone/vit"))


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_hub_whose_first_page_is_closed(repo, server, status):
    for method in ("HEAD", "GET"):
        server.answers[method, "/"] = status, {}, b""
    assert is_sound(pretrained.load("someone/vit"))


def test_a_certificate_that_nobody_vouches_for(repo, tmp_path, monkeypatch):
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl to make a certificate")
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    made += ["-keyout", tmp_path / "key", "-out", tmp_path / "cert"]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as secure:
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        threading.Thread(target=secure.serve_forever, args=(0.02,), daemon=True).start()
        at(monkeypatch, f"https://localhost:{secure.server_port}")
        refused("its certificate is not trusted .*SSL_CERT_FILE")
        # Python's list of certificates may know it, and that of the Hub's library not
        monkeypatch.setattr(files, "require_network", lambda *args, **kwargs: None)
        refused("its certificate is not trusted .*SSL_CERT_FILE")
        secure.shutdown()


@pytest.mark.parametrize("name", ["a--b/vit", "someone/vit.git", "someone/..", "someone/vit-"])
def test_names_that_the_hub_cannot_have(repo, server, name):
    refused("cannot be the name of a repository|no weights called", name)
    assert server.log == []


# ---------------------------------------------------------------- the environment


def test_offline_sends_nothing_and_says_so(repo, server, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        refused("HF_HUB_OFFLINE=1 asks for no connection to the Hub, and someone/vit is not here.* put it at")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE=1")
    assert server.log == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    pretrained.load("someone/vit")
    asked = len(server.log)
    monkeypatch.setenv("HF_HUB_OFFLINE", "on")
    assert is_sound(pretrained.load("someone/vit"))
    assert len(server.log) == asked


def test_another_endpoint_and_a_token_of_the_environment(repo, server):
    """In a process of its own, because huggingface_hub reads HF_ENDPOINT once."""
    code = "from vit_edu import pretrained; print(pretrained.load('someone/vit').blocks[0].attn.num_heads)"
    env = os.environ | {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_secret"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "3", done.stderr
    assert ("GET", AT + "model.safetensors", "Bearer hf_secret") in server.log


# ---------------------------------------------------------------- several files


def in_shards(server, tmp_path, base="model.safetensors"):
    """Two files and an index in the place of one, on the server and in a folder."""
    folder = tmp_path / "shards"
    folder.mkdir()
    state = load_file(tmp_path / "model.safetensors")
    stem, suffix = base.split(".")
    where = {key: f"{stem}-{1 + i % 2:05}-of-00002.{suffix}" for i, key in enumerate(sorted(state))}
    for name in set(where.values()):
        part = {k: state[k] for k, n in where.items() if n == name}
        save_file(part, folder / name) if suffix == "safetensors" else torch.save(part, folder / name)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / f"{base}.index.json").write_text(json.dumps(index), encoding="utf-8")
    del server.files[AT + "model.safetensors"]
    for path in folder.iterdir():
        server.files[AT + path.name] = path.read_bytes()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes(server.files[AT + name])
    return folder


@pytest.mark.parametrize("base", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_several_files(repo, server, tmp_path, base):
    folder = in_shards(server, tmp_path, base)
    assert is_sound(pretrained.load("someone/vit"))
    assert is_sound(pretrained.load("someone/vit"))  # from the cache
    assert is_sound(pretrained.load(folder))
    assert is_sound(pretrained.load(folder / f"{base}.index.json"))


def test_each_of_several_files_is_verified(repo, server, tmp_path):
    folder = in_shards(server, tmp_path)
    name = "model-00002-of-00002.safetensors"
    body = server.files[AT + name]
    server.answers["GET", AT + name] = 200, {}, body[:-1] + b"\x07"
    refused(f"{name} did not send what was published")
    server.answers.clear()
    assert is_sound(pretrained.load("someone/vit"))
    (repo / name).write_bytes(body[:-1] + b"\x07")
    refused(f"{name} was altered")
    # Files that do not belong together, and an index that leads elsewhere or nowhere
    (folder / name).write_bytes((folder / name.replace("00002-of", "00001-of")).read_bytes())
    refused("tensors that are not in the files it names them for", folder)
    (folder / name).unlink()
    refused(f"there is no file .*{name}", folder)
    index = folder / "model.safetensors.index.json"
    for said in (
        '{"weight_map": {"a": "../model.safetensors"}}',
        '{"weight_map": {}}',
        '{"weight_map": [1]}',
        "{}",
    ):
        index.write_text(said, encoding="utf-8")
        refused("does not say in which files the weights are", folder)


def test_what_a_repository_without_weights_is_told(repo, server):
    del server.files[AT + "model.safetensors"]
    refused("has none of model.safetensors, model.safetensors.index.json, pytorch_model.bin")


def test_torchvisions_file_put_there_by_hand_is_compared_with_its_name(repo, server):
    body = server.files[AT + "model.safetensors"]
    path = repo / f"vit_x-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    repo.mkdir(parents=True)
    path.write_bytes(body)
    expected = path.stem.rpartition("-")[2]
    assert pretrained.fetch(server.url + "/vit.pth", path, expected) == path
    path.write_bytes(PAGE)
    with pytest.raises(
        pretrained.WeightsError, match=r"was altered or cut off: expected SHA-256 .* get it again"
    ):
        pretrained.fetch(server.url + "/vit.pth", path, expected)
    assert server.log == []


def test_a_place_is_named_where_nothing_is_installed(repo, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        pretrained.WeightsError, match=r"pip install huggingface_hub.*/resolve/main/config.json"
    ) as told:
        pretrained.load("someone/vit")
    assert str(hub.place("someone/vit", "config.json")) in str(told.value)
