"""Swin's published weights: of timm, of its authors and of transformers, each against the original implementation."""

import dataclasses
import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model
from wanted import library

from vit_edu import data, pretrained, training, transfer
from vit_edu.models import Swin, ViT
from vit_edu.pretrained import loading
from vit_edu.pretrained.config import settings_of

timm = library("timm")
transformers = library("transformers")

SMALL = {"img_size": 64, "patch_size": 4, "embed_dim": 16, "depths": (2, 1, 2), "num_heads": (1, 2, 4), "window_size": 4}  # fmt: skip
SIZES = {
    "the last stage is one window": {},
    "windows are shifted in the last stage too": {"img_size": 128},
    "windows shrink": {"window_size": 8},
    "not square": {"img_size": (64, 128)},
    "not square, and windows shrink along one axis": {"img_size": (64, 128), "window_size": 8},
    "a single stage": {"depths": (2,), "num_heads": (2,)},
}


def stirred(model):
    """The model in eval mode, with random weights that all show."""
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        if value.ndim > 1 and "table" not in name:
            nn.init.normal_(value, std=value[0].numel() ** -0.5)
        else:
            nn.init.normal_(value, mean=float("norm" in name and name.endswith("weight")), std=0.3)
    return model.eval().requires_grad_(False)


def of_timm(**arguments):
    return stirred(timm.models.SwinTransformer(**SMALL | {"num_classes": 5} | arguments))


def of_transformers(kind="SwinForImageClassification", **arguments):
    names = {"img_size": "image_size"}
    sizes = {names.get(k, k): list(v) if isinstance(v, tuple) else v for k, v in SMALL.items()}
    return stirred(
        getattr(transformers, kind)(transformers.SwinConfig(**sizes | {"num_labels": 5} | arguments))
    )


def as_the_authors(model):
    """The state dict of the authors' own class for a model of timm: merging and head have other names, and buffers are saved."""
    state = {}
    for key, value in model.state_dict().items():
        key = re.sub(r"(?<=layers\.)(\d+)(?=\.downsample)", lambda found: str(int(found[1]) - 1), key)
        state[key.replace("head.fc.", "head.")] = value
    for i, stage in enumerate(model.layers):
        for j, block in enumerate(stage.blocks):
            name = f"layers.{i}.blocks.{j}"
            state[f"{name}.attn.relative_position_index"] = block.attn.relative_position_index
            if block.attn_mask is not None:
                state[f"{name}.attn_mask"] = block.attn_mask
    return state


def images_for(model):
    torch.manual_seed(1)
    return torch.randn(2, 3, *model.patch_embed.img_size)


# ---------------------------------------------------------------- the same function


@pytest.mark.parametrize("size", SIZES)
def test_from_timm(size):
    theirs = of_timm(**SIZES[size])
    ours = pretrained.from_model(theirs)
    assert type(ours) is Swin
    assert ours.pretrained_cfg["family"] == "timm-swin"
    result = pretrained.parity(ours, theirs, images_for(ours))
    assert len(result.steps) == 2 + 2 * sum(len(stage.blocks) for stage in theirs.layers)
    assert result.largest < 1e-5, str(result)
    assert not any("taken" in note for note in ours.pretrained_cfg["notes"])
    again = pretrained.from_model(ours)  # ours is as good as theirs
    assert torch.equal(again(images_for(ours)), ours(images_for(ours)))


@pytest.mark.parametrize("kind", ["SwinForImageClassification", "SwinModel", "SwinForMaskedImageModeling"])
def test_from_transformers_in_memory_and_from_its_files(kind, tmp_path):
    theirs = of_transformers(kind)
    theirs.save_pretrained(tmp_path)
    encoder = theirs.swin if kind == "SwinForMaskedImageModeling" else theirs
    ours, loaded = pretrained.from_model(theirs), pretrained.load(tmp_path)
    x = images_for(ours)
    result = pretrained.parity(ours, encoder, x)
    assert len(result.steps) == 12
    assert result.largest < 1e-5, str(result)
    assert torch.equal(ours(x), loaded(x))
    if kind == "SwinModel":
        torch.testing.assert_close(ours(x), theirs(x).pooler_output)
        assert "returns 64 numbers" in loaded.pretrained_cfg["notes"][-1]


@pytest.mark.parametrize("headless", [False, True])
def test_files_of_the_authors(headless, tmp_path):
    theirs = of_timm(num_classes=0 if headless else 5)
    torch.save({"model": as_the_authors(theirs), "epoch": 300}, tmp_path / "swin.pth")
    ours = pretrained.load(tmp_path / "swin.pth")
    assert ours.pretrained_cfg["family"] == "swin"
    assert len(ours.pretrained_cfg["ignored"]) == 5 + 1
    torch.testing.assert_close(ours(images_for(ours)), theirs(images_for(ours)), atol=1e-5, rtol=1e-5)
    assert any("64 x 64 pixels were taken" in note for note in ours.pretrained_cfg["notes"])


def test_a_folder_of_timm_with_its_settings(tmp_path):
    arguments = {k: v for k, v in SMALL.items() if k not in ("img_size", "patch_size")} | {"img_size": 128}
    theirs = stirred(timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **arguments))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    about = {"input_size": [3, 128, 128], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    config = {"architecture": "swin_tiny_patch4_window7_224", "num_classes": 5, "global_pool": "avg"}
    config |= {
        "pretrained_cfg": about | {"crop_pct": 0.9, "interpolation": "bicubic"},
        "model_args": arguments,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = pretrained.load(tmp_path)
    torch.testing.assert_close(ours(images_for(ours)), theirs(images_for(ours)), atol=1e-5, rtol=1e-5)
    assert ours.pretrained_cfg["mean"].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert not any("taken" in note for note in ours.pretrained_cfg["notes"])


def test_the_settings_without_timm(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert loading.timm_settings({"architecture": "swin_base_patch4_window12_384"}) == {"family": None}
    for name in ("swin_s3_tiny_224", "swinv2_tiny_window8_256"):
        with pytest.raises(pretrained.WeightsError, match="only timm knows"):
            loading.timm_settings({"architecture": name})


def test_the_state_dict_tells_the_published_sizes():
    assert sum(bool(re.fullmatch(loading.TIMM_PLAIN_SWIN, name)) for name in timm.list_models()) == 6
    for name in ("swin_tiny_patch4_window7_224", "swin_base_patch4_window12_384"):
        with torch.device("meta"):
            theirs = timm.create_model(name)
            found = pretrained.convert(theirs.state_dict())
        assert found.arguments["img_size"] == settings_of(theirs)["img_size"]
        assert found.arguments["window_size"] == theirs.layers[0].blocks[0].window_size[0]
        assert found.arguments["depths"] == tuple(len(stage.blocks) for stage in theirs.layers)
        assert found.arguments["num_heads"] == tuple(s.blocks[0].attn.num_heads for s in theirs.layers)


def test_without_a_bias_of_queries_keys_and_values():
    theirs = of_timm(qkv_bias=False)
    ours = pretrained.from_model(theirs)
    torch.testing.assert_close(ours(images_for(ours)), theirs(images_for(ours)), atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- other sizes, other heads


def test_another_image_keeps_the_windows():
    state = of_timm().state_dict()
    larger = of_timm(img_size=(128, 192))
    larger.load_state_dict(state)
    ours = pretrained.convert(state).model(img_size=(128, 192))
    torch.testing.assert_close(ours(images_for(ours)), larger(images_for(ours)), atol=1e-5, rtol=1e-5)
    assert "windows stay as they are, at most 4 x 4 tokens" in ours.pretrained_cfg["notes"][-1]
    for size, why in (
        (32, "some windows would have other sizes .* at most 4 x 4 tokens"),
        (72, "72 x 72 pixels do not fit these weights: a map of 18 x 18 tokens cannot be cut"),
        (65, "multiples of 4"),
    ):
        with pytest.raises(pretrained.WeightsError, match=why):
            pretrained.convert(state).model(img_size=size)


def test_a_grid_that_is_not_square_has_to_be_said():
    theirs = of_timm(img_size=(64, 128), window_size=8)
    with pytest.raises(pretrained.WeightsError, match=r"225, 225, 105 rows .* Give img_size="):
        pretrained.convert(theirs.state_dict())
    ours = pretrained.convert(theirs.state_dict(), img_size=(64, 128)).model()
    torch.testing.assert_close(ours(images_for(ours)), theirs(images_for(ours)), atol=1e-5, rtol=1e-5)
    with pytest.raises(pretrained.WeightsError, match="multiples of 4"):
        pretrained.convert(theirs.state_dict(), img_size=66)


def test_another_head_begins_with_zeros_and_can_be_left_out():
    converted, x = pretrained.convert(of_timm().state_dict()), torch.randn(2, 3, 64, 64)
    new = converted.model(num_classes=3)
    assert torch.equal(new(x), torch.zeros(2, 3))
    none = converted.model(num_classes=0)
    assert torch.equal(none(x), transfer_features(new, x))
    mine = Swin(**converted.arguments)
    converted.load_into(mine)
    torch.testing.assert_close(mine.eval()(x), converted.model()(x))


def transfer_features(model, x):
    """What the head reads."""
    found = []
    hook = model.head.register_forward_pre_hook(lambda head, inputs: found.append(inputs[0]))
    model(x)
    hook.remove()
    return found[0]


def test_converting_leaves_the_random_state_alone():
    state = of_timm().state_dict()
    torch.manual_seed(3)
    pretrained.convert(state).model()
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))


# ---------------------------------------------------------------- refusals


def altered(alter, **arguments):
    theirs = timm.models.SwinTransformer(**SMALL | arguments)
    alter(theirs)
    return theirs


FIRST = "layers.0.blocks.0"


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (lambda: timm.create_model("swinv2_tiny_window8_256"), "SwinTransformerV2Block, a different architecture"),
        (lambda: timm.create_model("swin_s3_tiny_224"), "one size for all blocks"),
        (lambda: get_model("swin_t"), "is no ViT that we know"),
        (lambda: altered(lambda m: None, window_size=(2, 4)), r"windows of \(2, 4\)"),
        (lambda: altered(lambda m: None, always_partition=True), r"shift of \(2, 2\) on a map of \(4, 4\)"),
        (lambda: altered(lambda m: None, img_size=72), "a map of 18 x 18 tokens cannot be cut .* fill up such maps"),
        (lambda: altered(lambda m: setattr(m.get_submodule(FIRST).mlp, "act", nn.ReLU())), "activation is ReLU"),
        (lambda: altered(lambda m: setattr(m.get_submodule(FIRST), "norm1", nn.RMSNorm(16))), "blocks have RMSNorm"),
        (lambda: altered(lambda m: setattr(m.get_submodule(FIRST).norm1, "eps", 1e-6)), "2 different epsilons"),
        (lambda: altered(lambda m: setattr(m.get_submodule(FIRST).attn, "scale", 1.0)), "scores by 1, and ours by 0.25"),
        (lambda: altered(lambda m: setattr(m, "global_pool", "max")), "pooling is 'max'"),
        (lambda: of_transformers(use_absolute_embeddings=True), "also adds positions to its tokens"),
        (lambda: of_transformers(layer_norm_eps=1e-6), "2 different epsilons"),
        (lambda: of_transformers(window_size=8), "stage 2, 4 x 4 tokens, windows of 8 x 8 are another function"),
        (lambda: of_transformers(image_size=[64, 128]), "stage 2, 4 x 8 tokens, windows of 4 x 4 are another function"),
        (lambda: of_transformers(hidden_act="relu"), "MLP uses relu"),
    ],
)  # fmt: skip
def test_kin_that_computes_something_else_is_refused(theirs, reason):
    with torch.device("meta"):
        theirs = theirs()
    with pytest.raises(pretrained.WeightsError, match=reason):
        pretrained.from_model(theirs)


def test_a_config_of_other_weights_is_refused(tmp_path):
    theirs = of_transformers()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for change, why in (
        ({"depths": [2, 2, 2]}, r"depths = \(2, 2, 2\), and the weights have \(2, 1, 2\)"),
        ({"num_heads": [2, 2, 4]}, "num_heads"),
        ({"layer_norm_eps": 1e-6}, "an epsilon of 1e-06, and their other layer norms one of 1e-05"),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(pretrained.WeightsError, match=why):
            pretrained.load(tmp_path)
    path.write_text(json.dumps(config))
    save_file(ViT(64, 4).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(pretrained.WeightsError, match="describes a swin, and the weights are those of a ViT"):
        pretrained.load(tmp_path)


def test_what_a_swin_does_not_have_is_not_asked_for():
    state, table = of_timm().state_dict(), "layers.1.blocks.0.attn.relative_position_bias_table"
    for more in ({"num_heads": 2}, {"resizing": pretrained.Resizing()}):
        with pytest.raises(pretrained.WeightsError, match="leave out num_heads and resizing"):
            pretrained.convert(state, **more)
    with pytest.raises(pretrained.WeightsError, match=rf"missing: {table} \(theirs: {table}"):
        pretrained.convert({k: v for k, v in state.items() if k != table})
    with pytest.raises(pretrained.WeightsError, match=r"expected a row for each offset .* got shape \(7,\)"):
        pretrained.convert(state | {table: torch.zeros(7)})
    key = "layers.2.blocks.1.mlp.fc1.bias"
    with pytest.raises(pretrained.WeightsError, match=rf"missing: {key} \(theirs: {key}\), shape \(256,\)"):
        pretrained.convert({k: v for k, v in state.items() if k != key})
    with pytest.raises(pretrained.WeightsError, match="no place for theirs: absolute_pos_embed"):
        pretrained.convert(state | {"absolute_pos_embed": torch.zeros(1, 256, 16)})


# ---------------------------------------------------------------- runs, and other heads of a trained model


def test_a_run_loads_and_its_head_can_be_exchanged(tmp_path):
    arguments = {"kind": "swin", "patch_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}
    recipe = dataclasses.replace(training.RECIPES["fast"], epochs=1, max_images=64, model=arguments)
    images = data.shapes(train=80, test=10)
    training.fit(training.build_model(recipe, images), images, recipe, out=tmp_path)
    model = pretrained.load(tmp_path)
    assert type(model) is Swin
    with pytest.raises(pretrained.WeightsError, match="a Swin can only be loaded unchanged"):
        pretrained.load(tmp_path, img_size=64)
    assert 0 <= transfer.share_right(model, images.test) <= 1
    assert transfer.features(model, images.test.images).shape == (10, 16)
    model.head = nn.Identity()
    with pytest.raises(ValueError, match="this model has no head"):
        transfer.share_right(model, images.test)
    new = transfer.new_head(model, 3)
    assert torch.equal(transfer.in_batches(new, images.test.images), torch.zeros(10, 3))
    assert new.state_dict().keys() == pretrained.load(tmp_path).state_dict().keys()
    with pytest.raises(ValueError, match=r"a Swin has none\. Train it with"):
        transfer.fine_tune(new, images.test, 1, 1e-3)
