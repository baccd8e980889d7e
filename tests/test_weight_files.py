"""Weights from files and from the network: what is damaged, hostile, unfit or cut off is named, and nothing is half-written."""

import contextlib
import functools
import hashlib
import http.server
import json
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import ViT_B_16_Weights, resnet18
from torchvision.models.vision_transformer import VisionTransformer
from wanted import library

from vit_edu import data, pretrained, training
from vit_edu.models import ViT
from vit_edu.pretrained import files, loading, names, preprocessing

timm = library("timm")
transformers = library("transformers")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no memory of earlier requests to the network."""
    monkeypatch.setenv("VIT_EDU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("VIT_EDU_FAST", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(data.network, "problems", {})
    return tmp_path / "cache" / "weights"


def small_vit(**arguments):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
    model = timm.models.VisionTransformer(**sizes | {"num_classes": 5} | arguments)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def write(state, path):
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in state.items()})
    else:
        torch.save(state, path)
    return path


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_every_kind_of_file_is_read(suffix, tmp_path):
    theirs = small_vit()
    state = theirs.state_dict()
    if suffix in (".pt", ".pth"):
        state = {"model": state, "epoch": 3}
    path = write(state, tmp_path / f"weights{suffix}")
    ours = pretrained.load(path)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    path.unlink()  # the model does not live in the file
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("suffix", files.SUFFIXES)
@pytest.mark.parametrize("keep", [0, 0.01, 0.5, 0.999])
def test_files_that_are_cut_off(suffix, keep, tmp_path):
    path = write(small_vit().state_dict(), tmp_path / f"weights{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(pretrained.WeightsError, match="cut off"):
        pretrained.load(path)


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_one_altered_byte(suffix, tmp_path):
    """In the middle of the numbers: the file is as long as before and can be read, but the weights are different."""
    path = write(small_vit().state_dict(), tmp_path / f"weights{suffix}")
    files.write_digest(path)
    bytes_ = bytearray(path.read_bytes())
    bytes_[len(bytes_) // 2] ^= 0x40
    path.write_bytes(bytes_)
    with pytest.raises(pretrained.WeightsError, match="altered or cut off: expected SHA-256"):
        pretrained.load(path)
    path.with_name(path.name + ".sha256").unlink()
    if suffix != ".safetensors":  # this format does not hold a checksum
        with pytest.raises(pretrained.WeightsError, match="altered"):
            pretrained.load(path)


def test_the_shipped_weights_are_verified(tmp_path, monkeypatch):
    for path in pretrained.SHIPPED.glob("vit-cifar10*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "vit-cifar10.safetensors"
    assert pretrained.load(path).pretrained_cfg["classes"][3] == "cat"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(pretrained.WeightsError, match="altered"):
        pretrained.load(path)
    for path in pretrained.SHIPPED.glob("*.safetensors"):
        assert path.with_name(path.name + ".sha256").exists()


class Touch:
    """When a pickle of this is loaded without care, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "kind", ["zip.pt", "old.pth", "raw.bin", "objects.npz", "raw.npz", "raw.safetensors"]
)
def test_code_in_a_file_is_not_run(kind, tmp_path):
    mark, path = tmp_path / "executed", tmp_path / kind
    evil = small_vit().state_dict() | {"head.weight": Touch(mark)}
    if kind == "zip.pt":
        torch.save(evil, path)
    elif kind == "old.pth":
        torch.save(evil, path, _use_new_zipfile_serialization=False)
    elif kind == "objects.npz":
        np.savez(path, cls=np.array([Touch(mark)], dtype=object))
    else:
        path.write_bytes(pickle.dumps(evil))
    with pytest.raises(pretrained.WeightsError) as error:
        pretrained.load(path)
    assert not mark.exists()
    if "raw.s" not in kind:
        assert "not run" in str(error.value) or "Nothing in it was run" in str(error.value)
    if kind == "zip.pt":
        torch.load(path, weights_only=False)  # the file really is dangerous
        assert mark.exists()


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(
        pretrained.WeightsError,
        match=r"not named like a file of weights; expected a name that ends in one of .safetensors",
    ):
        pretrained.read(tmp_path / "weights.h5")
    with pytest.raises(pretrained.WeightsError, match="there is no file"):
        pretrained.load(tmp_path / "none.pt")
    torch.save({"model": {"epoch": 3}}, tmp_path / "other.pt")
    with pytest.raises(pretrained.WeightsError, match="expected a tensor for 'epoch', got int"):
        pretrained.load(tmp_path / "other.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(pretrained.WeightsError, match="expected a state dict"):
        pretrained.load(tmp_path / "list.pt")
    write(resnet18().state_dict(), tmp_path / "resnet.pt")
    with pytest.raises(
        pretrained.WeightsError, match=r"knows 1 of their 122 names. None is a part of a block \(conv1.weight"
    ):
        pretrained.load(tmp_path / "resnet.pt")
    with pytest.raises(pretrained.WeightsError, match="no family is called 'jex'; there are: torchvision"):
        pretrained.convert(small_vit().state_dict(), "jex")


@pytest.mark.parametrize("wrapper", names.ENTRIES)
@pytest.mark.parametrize("prefix", ["module.", "module._orig_mod.", "model.backbone.", "encoder."])
def test_wrappers_and_prefixes(wrapper, prefix, tmp_path):
    for state in (small_vit().state_dict(), torchvision_state()):  # torchvision has an "encoder." of its own
        path = tmp_path / "weights.pt"
        torch.save({wrapper: {prefix + k: v for k, v in state.items()}, "epoch": 3}, path)
        ours, plain = pretrained.load(path), pretrained.convert(state).model()
        assert all(torch.equal(v, plain.state_dict()[k]) for k, v in ours.state_dict().items())
        assert f'"{prefix}" was taken away' in ours.pretrained_cfg["notes"][-1]
        assert not any("taken away" in note for note in plain.pretrained_cfg["notes"])


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_text_in_the_place_of_weights(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    for content, reason in (
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a pointer of Git LFS"),
        ("\n<!DOCTYPE html><html>log in</html>", "is a web page"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(pretrained.WeightsError, match=reason):
            pretrained.load(path)


def test_a_thousand_classes_without_names_are_those_of_imagenet(tmp_path):
    path = write(small_vit(num_classes=1000).state_dict(), tmp_path / "weights.pt")
    model = pretrained.load(path)
    assert len(model.pretrained_cfg["classes"]) == 1000
    assert model.pretrained_cfg["classes"][:2] == ("tench", "goldfish")
    assert "ImageNet" in model.pretrained_cfg["notes"][-1]
    assert pretrained.load(path, num_classes=7).pretrained_cfg["classes"] == ()
    path = write(small_vit(num_classes=999).state_dict(), tmp_path / "other.pt")
    assert pretrained.load(path).pretrained_cfg["classes"] == ()


def test_causes_that_are_named():
    counter = {"bn.num_batches_tracked": torch.tensor(3)}
    with pytest.raises(pretrained.WeightsError, match="another architecture"):
        pretrained.convert(small_vit().state_dict() | counter)
    with pytest.raises(pretrained.WeightsError, match="multiples of 8"):
        pretrained.convert(small_vit().state_dict(), img_size=44)
    for name in ("o/", "./first", "", None):
        with pytest.raises(pretrained.WeightsError, match=r"no such folder|expected a name"):
            pretrained.load(name)


# ---------------------------------------------------------------- weights that do not fit


def torchvision_state():
    torch.manual_seed(0)
    return VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=1, hidden_dim=64, mlp_dim=128, num_classes=5
    ).state_dict()  # fmt: skip


def test_both_sides_are_shown():
    state = torchvision_state()
    layer = "encoder.layers.encoder_layer_1."
    state.pop(layer + "ln_1.bias")
    state[layer + "mlp.0.weight"] = torch.zeros(128, 63)
    state[layer + "self_attention.out_proj.bias"] = torch.zeros(1)
    with pytest.raises(pretrained.WeightsError) as error:
        pretrained.convert(state)
    text = str(error.value)
    assert f"missing: blocks.1.norm1.bias (theirs: {layer}ln_1.bias), shape (64,)" in text
    assert (
        f"blocks.1.mlp.fc1.weight (theirs: {layer}mlp.0.weight): ours has shape (128, 64), theirs (128, 63)"
        in text
    )
    assert "blocks.1.attn.proj.bias" in text
    state[layer + "adapter.weight"] = torch.zeros(3)
    with pytest.raises(pretrained.WeightsError, match=r"no place for theirs: .*adapter.weight, shape \(3,\)"):
        pretrained.convert(state)


def test_parts_that_cannot_be_put_together():
    config = transformers.ViTConfig(
        hidden_size=64, num_attention_heads=1, num_hidden_layers=2, intermediate_size=128, image_size=32, patch_size=8
    )  # fmt: skip
    state = transformers.ViTModel(config).state_dict()
    lost = {k: v for k, v in state.items() if k != "layers.1.attention.k_proj.weight"}
    with pytest.raises(
        pretrained.WeightsError, match=r"missing: the part \[k\] of ours: blocks.1.attn.qkv.weight"
    ):
        pretrained.convert(lost)
    bent = state | {"layers.1.attention.k_proj.weight": torch.zeros(64, 63)}
    with pytest.raises(
        pretrained.WeightsError, match=r"cannot be put together, shapes \[\(64, 64\), \(64, 63\)"
    ):
        pretrained.convert(bent)
    twice = state | {"encoder.layer.0.layernorm_before.bias": torch.zeros(64)}
    with pytest.raises(pretrained.WeightsError, match=r"two tensors for ours: blocks.0.norm1.bias"):
        pretrained.convert(twice)
    for key in ("embeddings.patch_embeddings.projection.weight", "embeddings.position_embeddings"):
        with pytest.raises(pretrained.WeightsError, match=rf"missing: .* \(theirs: {key}\)"):
            pretrained.convert({k: v for k, v in state.items() if k != key})


def test_what_a_state_dict_does_not_tell_is_asked_for():
    state = small_vit(embed_dim=48, num_heads=3).state_dict()
    with pytest.raises(pretrained.WeightsError, match=r"a width of 48 does not tell it\. Give num_heads="):
        pretrained.convert(state)
    assert pretrained.convert(state, num_heads=3).arguments["num_heads"] == 3
    wide = small_vit(img_size=(16, 48))
    with pytest.raises(
        pretrained.WeightsError, match=r"do not form a square grid of patches. Give img_size=\(H, W\)"
    ):
        pretrained.convert(wide.state_dict())
    with pytest.raises(pretrained.WeightsError, match="do not form a grid for 32 x 32 pixels"):
        pretrained.convert(wide.state_dict(), img_size=32)
    ours = pretrained.convert(wide.state_dict(), img_size=(16, 48)).model()
    x = torch.randn(2, 3, 16, 48)
    torch.testing.assert_close(ours(x), wide(x), atol=1e-5, rtol=1e-5)


def test_what_a_state_dict_does_not_tell_is_said(tmp_path):
    state = small_vit().state_dict()
    converted = pretrained.convert(state)
    assert set(converted.guesses) == {"num_heads", "img_size", "global_pool", "norm_eps", "gelu", "order"}
    notes = converted.model().pretrained_cfg["notes"]
    for words in (
        "1 were taken",
        "32 x 32 pixels",
        "the class token was taken",
        "epsilon",
        "exact GELU",
        "norms come before",
    ):
        assert any(words in note for note in notes)
        assert f"guessed: {next(note for note in notes if words in note)}" in str(converted)
    some = pretrained.convert(state, num_heads=2, gelu="tanh")
    assert set(some.guesses) == {"img_size", "global_pool", "norm_eps", "order"}
    described = pretrained.convert(state, num_heads=2, gelu="tanh", norm_eps=1e-6)
    assert set(described.guesses) == {"img_size", "global_pool"}
    assert pretrained.from_model(small_vit()).pretrained_cfg["notes"] == []


@pytest.mark.parametrize(
    ("size", "token"),
    [
        ((72, 128), True),  # 144 and 1: also 12 x 12
        ((128, 72), True),
        ((56, 72), True),  # 63 and 1: also 8 x 8 without a position for the token
        ((16, 64), False),  # 16: also 4 x 4
    ],
)
def test_positions_of_a_grid_that_is_no_square_but_could_be(size, token, tmp_path, capsys):
    theirs = small_vit(
        img_size=size, class_token=token, global_pool="token" if token else "avg", fc_norm=False
    )
    path = write(theirs.state_dict(), tmp_path / "weights.pt")
    ours, x = pretrained.load(path, img_size=size), torch.randn(2, 3, *size)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    assert "taken as they are" in capsys.readouterr().out
    assert not any("square" in note for note in ours.pretrained_cfg["notes"])
    assert any("form a square" in note for note in pretrained.load(path).pretrained_cfg["notes"])
    pretrained.load(path, img_size=(64, 112))
    assert "a square is a guess" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype, tmp_path):
    state = {k: v.to(dtype) for k, v in small_vit().state_dict().items()}
    model = pretrained.load(write(state, tmp_path / "weights.safetensors"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    kept = pretrained.convert(state, dtype=None)
    assert {v.dtype for v in kept.weights.values()} == {dtype}


def test_whole_numbers_are_refused():
    state = small_vit().state_dict() | {"blocks.0.mlp.fc1.weight": torch.zeros(256, 64, dtype=torch.int8)}
    with pytest.raises(
        pretrained.WeightsError,
        match=r"'blocks.0.mlp.fc1.weight' is torch.int8; expected torch.float32",
    ):
        pretrained.convert(state)


def test_another_number_of_classes_replaces_the_head_and_says_so(tmp_path, capsys):
    path = write(small_vit().state_dict(), tmp_path / "weights.pt")
    assert pretrained.load(path, num_classes=5).head.weight.abs().sum() > 0
    assert capsys.readouterr().out == ""
    model = pretrained.load(path, num_classes=7)
    assert model.head.weight.shape == (7, 64)
    assert not model.head.weight.any()
    said = capsys.readouterr().out
    assert (
        "The weights know 5 classes, and 7 classes were asked for. The new head is all zeros: train it"
        in said
    )
    assert model.pretrained_cfg["notes"][-1] == said.strip()
    assert model.head.weight.requires_grad
    assert pretrained.load(path, num_classes=0)(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
    assert "The head is left out." in capsys.readouterr().out

    theirs = timm.models.deit.VisionTransformerDistilled(
        img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=1
    )
    model = pretrained.from_model(theirs, num_classes=3)
    assert model.head.weight.shape == model.head_dist.weight.shape == (3, 64)
    assert pretrained.from_model(theirs, num_classes=0)(torch.zeros(1, 3, 32, 32)).shape == (1, 64)


def test_the_shipped_model_for_other_classes_and_pixels(capsys):
    model = pretrained.load("vit-cifar10", img_size=(32, 48), num_classes=3)
    assert model(torch.zeros(1, 3, 32, 48)).shape == (1, 3)
    assert "resized from 8 x 8 to 8 x 12 patches" in capsys.readouterr().out
    assert model.pretrained_cfg["classes"] == ()
    assert model.pretrained_cfg["input_size"] == (3, 32, 48)
    same, whole = (
        pretrained.load("vit-cifar10", img_size=32, num_classes=10),
        pretrained.load("vit-cifar10"),
    )
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(same(x), whole(x))
    assert same.pretrained_cfg["classes"] == whole.pretrained_cfg["classes"]


def test_a_run_is_loaded_by_its_folder(tmp_path):
    images = data.shapes(train=40, test=20)
    recipe = training.Recipe(
        epochs=1, batch_size=20, learning_rate=1e-3, model={"embed_dim": 16, "depth": 1, "num_heads": 2}
    )  # fmt: skip
    trained = training.build_model(recipe, images)
    training.fit(trained, images, recipe, out=tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoint.pt"):
        model = pretrained.load(path)
        assert model.pretrained_cfg["classes"] == images.classes
        assert pretrained.preprocess(images.test.images[:3], model).shape == (3, 3, 32, 32)
    assert pretrained.load(tmp_path / "run", num_classes=4).head.out_features == 4
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"no")
    with pytest.raises(pretrained.WeightsError, match="cannot be read"):
        pretrained.load(tmp_path / "run")


# ---------------------------------------------------------------- resolution


@pytest.mark.parametrize(("size", "prefix"), [((48, 32), 1), ((16, 48), 1), ((64, 64), 2)])
def test_another_resolution_as_timm_loads_it(size, prefix):
    kind = timm.models.deit.VisionTransformerDistilled if prefix == 2 else timm.models.VisionTransformer
    sizes = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 5}
    torch.manual_seed(0)
    old, new = kind(img_size=32, **sizes).eval(), kind(img_size=size, **sizes).eval()
    new.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(old.state_dict(), new))
    ours = pretrained.from_model(old, img_size=size)
    assert pretrained.parity(ours, new, torch.randn(2, 3, *size)).equal


def test_positions_from_a_grid_that_is_no_square():
    positions = torch.randn(1, 1 + 15, 8)
    ours = pretrained.resize_pos_embed(positions, (6, 4), old_grid=(3, 5))
    theirs = timm.layers.resample_abs_pos_embed(positions, [6, 4], old_size=[3, 5])
    torch.testing.assert_close(ours, theirs)
    turned = pretrained.resize_pos_embed(positions, (6, 4), old_grid=(5, 3))
    assert not torch.allclose(ours, turned)
    with pytest.raises(ValueError, match="15 positions are not a grid of 4 x 4"):
        pretrained.resize_pos_embed(positions, (6, 4), old_grid=(4, 4))


@pytest.mark.parametrize(("old", "new"), [(16, 32), (16, 14), (8, 16), (16, 8), (16, 16)])
def test_another_patch_size_as_in_timm(old, new):
    weight = torch.randn(6, 3, old, old)
    ours = pretrained.resize_patch_embed(weight, new)
    assert ours.shape == (6, 3, new, new)
    torch.testing.assert_close(
        ours, timm.layers.resample_patch_embed(weight, [new, new]), atol=1e-4, rtol=1e-4
    )


def test_an_enlarged_patch_gives_the_same_token():
    weight, patch = (
        torch.randn(6, 3, 8, 8, dtype=torch.float64),
        torch.randn(1, 3, 8, 8, dtype=torch.float64),
    )
    large = torch.nn.functional.interpolate(patch, size=(16, 16), mode="bicubic", antialias=True)
    before, after = (
        (weight * patch).sum((1, 2, 3)),
        (pretrained.resize_patch_embed(weight, 16) * large).sum((1, 2, 3)),
    )
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_resizing_keeps_the_dtype(dtype):
    """Half precision is resized in float32 and rounded once, at the end."""
    state = {k: v.to(dtype) for k, v in small_vit().state_dict().items()}
    positions, patches = state["pos_embed"], state["patch_embed.proj.weight"]
    for resize, given, new in (
        (pretrained.resize_pos_embed, positions, (3, 7)),
        (pretrained.resize_patch_embed, patches, 12),
    ):
        found, exact = resize(given, new), resize(given.double(), new)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)
    model = pretrained.convert(state, dtype=None).model(img_size=(24, 40), num_classes=7)
    assert {p.dtype for p in model.parameters()} == {dtype}  # the new head as well


# ---------------------------------------------------------------- preprocessing


def picture(height, width):
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def test_preprocessing_of_torchvision():
    weights = ViT_B_16_Weights.DEFAULT
    cfg = preprocessing.from_torchvision_weights(weights)
    for image in (picture(300, 400), torch.randint(0, 255, (2, 3, 260, 240), dtype=torch.uint8)):
        theirs = weights.transforms()(image)
        ours = pretrained.preprocess(image, cfg)
        torch.testing.assert_close(ours, theirs if theirs.ndim == 4 else theirs[None])
    swag = preprocessing.from_torchvision_weights(ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1)
    assert swag["input_size"] == (3, 384, 384)
    assert swag["interpolation"] == "bicubic"


def test_preprocessing_of_timm():
    theirs = timm.create_model("vit_tiny_patch16_224")
    ours = pretrained.from_model(theirs)
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config({}, model=theirs), is_training=False
    )
    pictures = [picture(300, 400), picture(500, 260)]
    torch.testing.assert_close(
        pretrained.preprocess(pictures, ours), torch.stack([transform(p) for p in pictures])
    )
    assert ours.pretrained_cfg["resize"] == 248  # 224 / 0.9


@pytest.mark.parametrize("kind", ["ViTImageProcessor", "DeiTImageProcessor", "BitImageProcessor"])
def test_preprocessing_of_transformers(kind, tmp_path):
    theirs = getattr(transformers, kind + "Pil", None) or getattr(transformers, kind)
    theirs = theirs()
    theirs.save_pretrained(tmp_path)
    cfg = preprocessing.from_transformers(
        json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    )
    image = picture(300, 400)
    expected = theirs(image, return_tensors="pt")["pixel_values"]
    ours = pretrained.preprocess(image, cfg)
    assert ours.shape == expected.shape
    # They round between two steps in their own way, by a grey value or two of 255
    assert (ours - expected).abs().max() * cfg["std"].max() * 255 < 2.5


@pytest.mark.parametrize(
    "change",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": 0.5, "do_normalize": False},
        {"do_center_crop": True, "crop_size": {"height": 24, "width": 16}},
        {"do_resize": False, "do_center_crop": True, "crop_size": 24},
        {"size": 40},
        {"image_mean": None, "do_normalize": None},
    ],
)
def test_switches_of_a_preprocessor(change, tmp_path):
    """Against the Bit processor, which has the step that ViT's has not."""
    about = {
        "image_processor_type": "BitImageProcessor",
        "size": {"height": 32, "width": 32},
        "do_center_crop": False,
    }
    about |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2], "resample": 3} | change
    kind = "BitImageProcessor" if about["do_center_crop"] else "ViTImageProcessor"
    about["image_processor_type"] = kind
    about = {k: v for k, v in about.items() if v is not None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about), encoding="utf-8")
    theirs = getattr(transformers, kind + "Pil", None) or getattr(transformers, kind)
    image = picture(32, 32)
    want = theirs.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"]
    cfg = preprocessing.from_transformers(about)
    ours = pretrained.preprocess(image, cfg)
    assert ours.shape == want.shape
    assert (ours - want).abs().max() < 1e-3 * max(1, want.abs().max()) + 2.5 / 255 / cfg["std"].min() * (
        about["size"] == 40
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"do_pad": True}, "does not know: do_pad"),
        ({"do_flip_channel_order": True}, "does not know: do_flip_channel_order"),
        ({"rescale_offset": True}, "does not know: rescale_offset"),
        ({"crop_pct": 0.9}, "does not know: crop_pct"),
        ({"resample": 5}, "resample = 5; known are 0 .nearest"),
        ({"size": {"longest_edge": 64}}, "has a size"),
        ({"size": {"shortest_edge": 64}}, "images of different sizes"),
        ({"do_resize": False}, "images of different sizes"),
        ({"image_processor_type": "FooImageProcessor"}, "of Foo does not say size, resample, image_mean"),
    ],
)
def test_a_preprocessor_that_does_something_else(change, reason):
    with pytest.raises(pretrained.WeightsError, match=reason):
        preprocessing.from_transformers(change)


@pytest.mark.parametrize("change", [{"crop_mode": "border"}, {"interpolation": "random"}])
def test_preprocessing_of_timm_that_ours_does_not_have(change):
    cfg = {"input_size": (3, 32, 32), "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": None}
    assert preprocessing.from_timm(cfg)["resize"] == 36
    with pytest.raises(pretrained.WeightsError, match="known are center and squash"):
        preprocessing.from_timm(cfg | change)


def saved(folder, **changes):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "image_size": 32,
        "patch_size": 8,
    }
    config = transformers.ViTConfig(**sizes | {"num_attention_heads": 8, "num_labels": 5} | changes)
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.save_pretrained(folder)
    return theirs


def test_a_config_beside_the_file_is_read(tmp_path):
    theirs = saved(tmp_path, image_size=[16, 64], hidden_act="gelu_new", layer_norm_eps=1e-3)
    x = torch.randn(2, 3, 16, 64)
    transformers.ViTImageProcessor(size={"height": 16, "width": 64}).save_pretrained(tmp_path)
    for path in (tmp_path / "model.safetensors", tmp_path):  # the file, or its folder
        ours = pretrained.load(path)
        torch.testing.assert_close(ours(x), theirs(x).logits, atol=1e-5, rtol=1e-5)
        assert ours.pretrained_cfg["classes"][2] == "LABEL_2"
        assert pretrained.preprocess(picture(70, 60), ours).shape == (1, 3, 16, 64)
        (note,) = ours.pretrained_cfg["notes"]
        assert "config.json and preprocessor_config.json" in note


def test_a_config_beside_the_file_that_is_not_of_it(tmp_path):
    theirs = saved(tmp_path)
    config, file = tmp_path / "config.json", tmp_path / "model.safetensors"
    said = json.loads(config.read_text(encoding="utf-8"))
    for content, reason in (
        (json.dumps(said | {"model_type": "bert"}), "calls this model 'bert'"),
        (json.dumps(said | {"hidden_size": 192}), "says hidden_size = 192, and the weights have 256"),
        (json.dumps(said | {"id2label": {"one": "cat"}}), '"id2label" in config.json'),
        ("<html>log in</html>", "cannot be read as JSON"),
        ("[]", "holds list in JSON"),
    ):
        config.write_text(content, encoding="utf-8")
        with pytest.raises(pretrained.WeightsError, match=reason):
            pretrained.load(file)
    other = write(theirs.state_dict(), tmp_path / "mine.pt")  # a name that says nothing about transformers
    config.write_text('{"learning_rate": 1}', encoding="utf-8")
    notes = pretrained.load(other).pretrained_cfg["notes"]
    assert "says nothing about a model" in notes[0]
    assert any("4 were taken" in note for note in notes)
    del said["num_attention_heads"]  # then transformers takes 12, which 256 is no multiple of
    config.write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(pretrained.WeightsError, match="12 heads cannot share a width of 256"):
        pretrained.load(other)


def test_preprocessing_of_our_own():
    model = pretrained.load("vit-cifar10")
    cfg = model.pretrained_cfg
    batch = torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(
        pretrained.preprocess(batch, model), data.normalize(batch, cfg["mean"], cfg["std"])
    )
    assert pretrained.preprocess(picture(100, 70), model).shape == (1, 3, 32, 32)
    assert pretrained.preprocess([batch[0], picture(40, 50)], model).shape == (2, 3, 32, 32)
    with pytest.raises(
        pretrained.WeightsError, match=r"expected images in uint8, 0 to 255, got torch.float32"
    ):
        pretrained.preprocess(batch.float(), model)
    with pytest.raises(pretrained.WeightsError, match="without a word about their preprocessing"):
        pretrained.preprocess(batch, ViT())


def test_arrays_and_tensors_in_either_layout():
    model = pretrained.load("vit-cifar10")
    first = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    last, want = first.movedim(1, -1), pretrained.preprocess(first, model)
    many = (
        first,
        last,
        first.numpy(),
        last.numpy(),
        list(last.numpy()),
        tuple(first),
        [last[0], last[1].numpy()],
    )
    for given in many:
        torch.testing.assert_close(pretrained.preprocess(given, model), want)
    flipped = last.numpy()[:, ::-1]  # negative strides
    torch.testing.assert_close(pretrained.preprocess(flipped, model), want.flip(2))
    grey = first[0, 0]
    want = pretrained.preprocess(grey.expand(3, 32, 32), model)
    for given in (grey, grey.numpy(), grey[None], grey[..., None].numpy(), Image.fromarray(grey.numpy())):
        torch.testing.assert_close(pretrained.preprocess(given, model), want)
    narrow = np.random.default_rng(0).integers(
        0, 255, (3, 40, 3), dtype=np.uint8
    )  # in an array, channels are last
    want = pretrained.preprocess(torch.from_numpy(narrow).permute(2, 0, 1), model)
    torch.testing.assert_close(pretrained.preprocess(narrow, model), want)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (np.zeros((8, 8, 4), np.uint8), r"3 channels.*got shape \(8, 8, 4\)"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), r"got shape \(2, 4, 8, 8\)"),
        (np.zeros((8, 8, 3)), "expected images in uint8, 0 to 255, got float64"),
        ([np.zeros((8, 8, 3), np.int64)], "got int64"),
        (np.array([None, "a"]), "got object"),
        ([], "at least one image"),
        ("cat.png", r"got str. Open a file with PIL.Image.open"),
        ([[[0, 1], [2, 3]]], r"got list"),
        (None, "got NoneType"),
        (np.zeros((8, 0, 3), np.uint8), r"got shape \(8, 0, 3\)"),
        ([torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8)], "or a batch of them, got shape"),
    ],
)
def test_what_is_no_image(given, reason):
    with pytest.raises(pretrained.WeightsError, match=reason):
        pretrained.preprocess(given, pretrained.load("vit-cifar10"))


# ---------------------------------------------------------------- the network


class Server:
    """Files on 127.0.0.1. die_after: how many bytes of a body to send before the connection is cut, once `go_on` is set.
    log: (method, path, range)."""

    def __init__(self):
        self.files, self.log, self.die_after, self.ranges = {}, [], None, True
        self.go_on = threading.Event()
        self.go_on.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_HEAD(self):
                self.answer(False)

            def do_GET(self):
                self.answer(True)

            def answer(self, with_body):
                asked = self.headers.get("Range")
                outer.log.append((self.command, self.path, asked))
                body = outer.files.get(self.path.partition("?")[0])
                if body is None:
                    self.send_response(200 if self.path == "/" else 404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and outer.ranges else 0
                if start >= len(body) > 0:
                    self.send_response(416)
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body) - start))
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.end_headers()
                if with_body:
                    end = len(body) if outer.die_after is None else start + outer.die_after
                    with contextlib.suppress(OSError):
                        self.wfile.write(body[start:end])
                        self.wfile.flush()
                        outer.go_on.wait()
                    self.close_connection = True

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def gets(self):
        return [(path, asked) for method, path, asked in self.log if method == "GET"]


@pytest.fixture
def server():
    running = Server()
    yield running
    running.go_on.set()
    running.http.shutdown()
    running.http.server_close()


def everything_in(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


BODY = bytes(range(256)) * 8000  # 2 MB
DIGEST = hashlib.sha256(BODY).hexdigest()


def test_a_download_that_dies_is_continued(server, cache):
    server.files["/w.bin"] = BODY
    target, url = cache / "w.bin", server.url + "/w.bin"
    server.die_after = 700_000
    for round_, there in enumerate((700_000, 1_400_000)):
        with pytest.raises(
            pretrained.WeightsError, match=f"broke off at {there:,} of 2,048,000 bytes"
        ) as error:
            pretrained.fetch(url, target, DIGEST, " Or put it there by hand.")
        assert "and the download continues from there. Or put it there by hand." in str(error.value)
        assert everything_in(cache) == ["w.bin.part"]
        assert server.gets()[round_][1] == (f"bytes={700_000 * round_}-" if round_ else None)
    server.die_after = None
    assert pretrained.fetch(url, target, DIGEST) == target
    assert server.gets()[-1][1] == "bytes=1400000-"
    assert target.read_bytes() == BODY
    assert everything_in(cache) == ["w.bin", "w.bin.sha256"]
    files.require_digest(target)
    asked = len(server.log)
    pretrained.fetch(url, target, DIGEST)
    assert len(server.log) == asked  # what is there is not asked for again


def test_a_server_that_cannot_continue_sends_everything_again(server, cache):
    server.files["/w.bin"] = BODY
    server.die_after, server.ranges = 700_000, False
    with pytest.raises(pretrained.WeightsError, match="broke off"):
        pretrained.fetch(server.url + "/w.bin", cache / "w.bin", DIGEST)
    server.die_after = None
    assert pretrained.fetch(server.url + "/w.bin", cache / "w.bin", DIGEST).read_bytes() == BODY


def test_other_content_than_published_is_thrown_away(server, cache):
    server.files["/w.bin"] = b"<html>Please log in</html>"
    with pytest.raises(pretrained.WeightsError, match="did not send what was published"):
        pretrained.fetch(server.url + "/w.bin", cache / "w.bin", DIGEST[:8])
    assert everything_in(cache) == []
    # A part of something else that is as long as the whole: nothing more comes, and the digest tells
    (cache / "w.bin.part").write_bytes(b"x" * len(BODY))
    server.files["/w.bin"] = BODY
    with pytest.raises(pretrained.WeightsError, match="did not send what was published"):
        pretrained.fetch(server.url + "/w.bin", cache / "w.bin", DIGEST[:8])
    assert everything_in(cache) == []
    assert pretrained.fetch(server.url + "/w.bin", cache / "w.bin", DIGEST[:8]).exists()


def test_a_network_that_stalls(server, cache, monkeypatch):
    monkeypatch.setattr(data.network, "STALL_SECONDS", 2)
    server.files["/w.bin"], server.die_after = BODY, 100_000
    server.go_on.clear()  # nothing more than what it has sent comes until the end of the test
    with pytest.raises(pretrained.WeightsError, match=r"broke off at 100,000 of .*timed out"):
        pretrained.fetch(server.url + "/w.bin", cache / "w.bin", DIGEST)
    assert not (cache / "w.bin").exists()


def test_other_trouble_while_fetching(server, cache, monkeypatch):
    with pytest.raises(pretrained.WeightsError, match="answers 404"):
        pretrained.fetch(server.url + "/none.bin", cache / "none.bin")
    with pytest.raises(pretrained.WeightsError, match="cannot be reached"):
        pretrained.fetch("http://127.0.0.1:1/w.bin", cache / "w.bin")
    server.files["/w.bin"] = BODY
    full = SimpleNamespace(free=2**20)
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "disk_usage", lambda path: full)
        with pytest.raises(pretrained.WeightsError, match="1 MB free, but 2 MB are still to come"):
            pretrained.fetch(server.url + "/w.bin", cache / "w.bin")
    blocked = cache / "blocked"
    blocked.write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(pretrained.WeightsError, match="cannot be written"):
        pretrained.fetch(server.url + "/w.bin", blocked / "w.bin")
    from filelock import FileLock

    with (
        FileLock(f"{cache / 'w.bin'}.lock"),
        pytest.raises(pretrained.WeightsError, match="another program is downloading"),
    ):
        pretrained.fetch(server.url + "/w.bin", cache / "w.bin")
    assert not (cache / "w.bin").exists()


# ---------------------------------------------------------------- torchvision


def fake_enum(server, state, tmp_path, content=None):
    path = write(state, tmp_path / "w.pth")
    body = content or path.read_bytes()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    server.files[f"/vit_x-{digest}.pth"] = body
    return SimpleNamespace(url=f"{server.url}/vit_x-{digest}.pth", meta={"_file_size": 0.5})


def test_weights_of_torchvision(server, tmp_path, monkeypatch, cache):
    weights = fake_enum(server, torchvision_state(), tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("VIT_EDU_FAST", "1")
        with pytest.raises(
            pretrained.WeightsError,
            match=r"asks for no download. If there is no network here, download http",
        ) as error:
            loading.torchvision_file(weights)
        assert f"put it at {cache / 'torchvision'}" in str(error.value)
    path = loading.torchvision_file(weights)
    assert path.parent == cache / "torchvision"
    monkeypatch.setenv("VIT_EDU_FAST", "1")
    assert loading.torchvision_file(weights) == path  # from the cache

    # ... and in torch's own cache, where it is verified
    path.rename(tmp_path / "kept.pth")
    theirs = tmp_path / "torch" / "hub" / "checkpoints" / path.name
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes((tmp_path / "kept.pth").read_bytes())
    assert loading.torchvision_file(weights) == theirs
    whole = theirs.read_bytes()
    theirs.write_bytes(whole[:-9])
    with pytest.raises(pretrained.WeightsError, match="was altered or cut off"):
        loading.torchvision_file(weights)
    theirs.write_bytes(whole)
    monkeypatch.setattr(loading, "torchvision_file", lambda weights: theirs)
    model = pretrained.load("torchvision/vit_b_32", img_size=64)
    assert model.pretrained_cfg["classes"][:2] == ("tench", "goldfish")
    assert model.pretrained_cfg["input_size"] == (3, 64, 64)
    assert pretrained.preprocess(picture(90, 80), model).shape == (1, 3, 64, 64)


def test_names_that_torchvision_does_not_have():
    with pytest.raises(pretrained.WeightsError, match="no ViT 'resnet50'; there are: vit_b_16, vit_b_32"):
        pretrained.load("torchvision/resnet50")
    with pytest.raises(
        pretrained.WeightsError, match=r"no weights 'V9' for vit_b_16; there are: IMAGENET1K_V1"
    ):
        pretrained.load("torchvision/vit_b_16/V9")
    with pytest.raises(
        pretrained.WeightsError,
        match=r"there are: vit-cifar10, vit-cifar10-hybrid, vit-cifar10-mae. Others are named like torchvision/vit_b_16",
    ):
        pretrained.load("vit-mnist")


# ---------------------------------------------------------------- Hugging Face Hub


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """The Hub on this machine: put files into it with `add(repo, folder)`."""
    constants = pytest.importorskip("huggingface_hub.constants")
    file_download = pytest.importorskip("huggingface_hub.file_download")

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", server.url)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))

    def add(repo, folder):
        for path in folder.iterdir():
            server.files[f"/{repo}/resolve/main/{path.name}"] = path.read_bytes()

    return add


def test_a_vit_of_transformers_from_the_hub(hub, server, tmp_path, cache, monkeypatch):
    config = transformers.ViTConfig(
        hidden_size=48, num_attention_heads=3, num_hidden_layers=2, intermediate_size=96, image_size=32, patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "owl"},
    )  # fmt: skip
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path / "repo")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "repo")
    hub("someone/vit", tmp_path / "repo")

    server.die_after = 30_000
    with pytest.raises(pretrained.WeightsError, match=r"model.safetensors broke off at 30,000"):
        pretrained.load("someone/vit")
    server.die_after = None
    ours = pretrained.load("someone/vit")
    assert server.gets()[-1] == ("/someone/vit/resolve/main/model.safetensors", "bytes=30000-")
    assert pretrained.parity(ours, theirs, torch.randn(2, 3, 32, 32)).equal
    assert ours.blocks[0].norm1.eps == 1e-12
    assert ours.blocks[0].attn.num_heads == 3
    assert ours.pretrained_cfg["classes"] == ("cat", "dog", "owl")
    assert ours.pretrained_cfg["interpolation"] == "bilinear"
    assert pretrained.preprocess(picture(50, 60), ours).shape == (1, 3, 32, 32)

    # Without a network it comes from the cache, and is an error if it was altered there
    server.files.clear()
    monkeypatch.setenv("VIT_EDU_FAST", "1")
    assert torch.equal(pretrained.load("someone/vit").head.weight, ours.head.weight)
    path = cache / "hub" / "someone--vit" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(pretrained.WeightsError, match="was altered"):
        pretrained.load("someone/vit")
    # The preprocessor's file alone may be missing
    path.unlink()
    path.with_name("model.safetensors.sha256").unlink()
    (cache / "hub" / "someone--vit" / "preprocessor_config.json").unlink()
    with pytest.raises(pretrained.WeightsError, match="VIT_EDU_FAST=1 asks for no download"):
        pretrained.load("someone/vit")
    path.write_bytes((tmp_path / "repo" / "model.safetensors").read_bytes())
    assert pretrained.load("someone/vit").pretrained_cfg["mean"] is None


def test_a_vit_of_timm_from_the_hub(hub, tmp_path, monkeypatch):
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, num_classes=4, depth=2, num_heads=6
    ).eval()
    timm.models.save_for_hf(
        theirs, tmp_path / "repo", model_args={"img_size": 32, "depth": 2, "num_heads": 6}
    )
    config = json.loads((tmp_path / "repo" / "config.json").read_text(encoding="utf-8"))
    config["pretrained_cfg"]["input_size"] = [3, 32, 32]
    (tmp_path / "repo" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    hub("timm/vit", tmp_path / "repo")
    ours = pretrained.load("timm/vit")
    assert pretrained.parity(ours, theirs, torch.randn(2, 3, 32, 32)).equal
    assert ours.blocks[0].attn.num_heads == 6
    assert ours.pretrained_cfg["mean"].flatten().tolist() == [0.5] * 3

    # Without timm, only architectures that hold no surprises are accepted
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert loading.timm_settings({"architecture": "deit_tiny_distilled_patch16_224"}) == {"global_pool": None}
    with pytest.raises(
        pretrained.WeightsError,
        match="only timm knows how vit_base_patch16_gap_224 computes: pip install",
    ):
        loading.timm_settings({"architecture": "vit_base_patch16_gap_224"})


def test_what_the_hub_does_not_have(hub, server, tmp_path, monkeypatch):
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    hub("someone/bert", tmp_path / "repo")
    with pytest.raises(pretrained.WeightsError, match="transformers calls this model 'bert'"):
        pretrained.load("someone/bert")
    with pytest.raises(pretrained.WeightsError, match=r"the repository someone/none has no config.json"):
        pretrained.load("someone/none")
    server.http.shutdown()
    server.http.server_close()
    data.network.problems.clear()
    with pytest.raises(
        pretrained.WeightsError,
        match=rf"cannot be reached .* If there is no network here, download {server.url}",
    ) as error:
        pretrained.load("someone/vit")
    assert "someone--vit/config.json" in str(error.value)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(pretrained.WeightsError, match="pip install huggingface_hub"):
        pretrained.load("someone/vit")


# ---------------------------------------------------------------- the cause that a message names


def test_a_file_that_is_not_read_is_told_why(tmp_path):
    garbage = tmp_path / "w.npz"
    garbage.write_bytes(b"\x00garbage" * 99)
    with pytest.raises(pretrained.WeightsError, match="cut off, altered or not a file of weights") as told:
        pretrained.load(garbage)
    assert "code" not in str(told.value)
    np.savez(garbage, names=np.array(["a", "b"]))
    with pytest.raises(pretrained.WeightsError, match="more than plain numbers") as told:
        pretrained.load(garbage)
    assert "code" not in str(told.value)
    other = tmp_path / "w.ckpt"
    other.write_bytes(b"weights")
    with pytest.raises(pretrained.WeightsError, match=r"w.ckpt is not named like a file of weights"):
        pretrained.load(other)
    with pytest.raises(pretrained.WeightsError, match=f"the folder {tmp_path} holds no weights"):
        pretrained.load(tmp_path)
    whole = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, whole)
    for said in (b"", b"\xff\xfe", b"w.safetensors is fine\n"):
        (tmp_path / "w.safetensors.sha256").write_bytes(said)
        with pytest.raises(
            pretrained.WeightsError, match=r"w.safetensors.sha256 holds no SHA-256. Remove it"
        ):
            pretrained.load(whole)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    def load(name):  # as root may read everything, opening is refused here
        with monkeypatch.context() as patch:
            patch.setattr(files, "open", functools.partial(refuse, None), raising=False)
            with pytest.raises(
                pretrained.WeightsError, match=r"cannot be read \(Permission denied\). Change its permissions"
            ):
                pretrained.load(name)

    for suffix in files.SUFFIXES:
        load(write({"a": torch.zeros(1)}, tmp_path / f"w{suffix}"))
    load("vit-cifar10")


def test_a_name_that_looks_like_a_repository_is_told_that_it_is_no_folder(monkeypatch):
    monkeypatch.setenv("VIT_EDU_NETWORK", "off")
    pytest.importorskip("huggingface_hub")
    with pytest.raises(
        pretrained.WeightsError, match=r"forbids all connections.* As there is no folder runs/first here"
    ):
        pretrained.load("runs/first")


def test_a_cache_that_cannot_be_written_to_is_not_called_full(server, tmp_path):
    server.files["/w.bin"] = BODY
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(
        pretrained.WeightsError, match=r"cannot be written \(.*\). Change the permissions"
    ) as told:
        pretrained.fetch(server.url + "/w.bin", tmp_path / "file" / "w.bin")
    assert "Free some space" not in str(told.value)
