"""Published names in our model: complete in both directions, and with equal numbers."""

import subprocess
import sys

import pytest
import torch
from torchvision.models import get_model
from torchvision.models.vision_transformer import VisionTransformer
from wanted import library

from vit_edu import pretrained
from vit_edu.models import SIZES, ViT

timm = library("timm")


@pytest.fixture
def theirs():
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=3,
        num_heads=2,
        hidden_dim=24,
        mlp_dim=40,
        num_classes=5,
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def test_same_logits_as_torchvision(theirs):
    ours = pretrained.from_torchvision(theirs)
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "size"), [("vit_b_16", "B/16"), ("vit_l_16", "L/16")])
def test_names_are_complete_in_both_directions(name, size):
    with torch.device("meta"):
        theirs = get_model(name, weights=None).state_dict()
        ours = ViT(img_size=224, num_classes=1000, **SIZES[size]).state_dict()
    renamed = {pretrained.rename_key(k): v.shape for k, v in theirs.items()}
    assert len(renamed) == len(theirs)
    assert renamed == {k: v.shape for k, v in ours.items()}


def test_weights_that_do_not_fit_change_nothing(theirs):
    good = pretrained.from_torchvision(theirs).state_dict()
    bad = {k: v for k, v in good.items() if k != "norm.bias"}
    bad |= {
        "extra.weight": torch.zeros(2),
        "head.weight": torch.zeros(7, 24),
        "head.bias": torch.ones(5),
    }
    model = pretrained.from_torchvision(theirs)
    with pytest.raises(pretrained.WeightsError) as error:
        pretrained.load_by_name(model, bad)
    text = str(error.value)
    assert "missing: norm.bias, shape (24,)" in text
    assert "not expected: extra.weight, shape (2,)" in text
    assert "head.weight: the model has shape (5, 24), the weights have (7, 24)" in text
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in good.items())


def test_unknown_name():
    with pytest.raises(pretrained.WeightsError, match=r"no name of torchvision's ViT: 'fc.weight'"):
        pretrained.rename_key("fc.weight")


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("grid", [(4, 4), (7, 7), (3, 9), (2, 2)])
def test_positions_resized_as_timm_does(grid, prefix):
    pos = torch.randn(1, prefix + 16, 12)
    ours = pretrained.resize_pos_embed(pos, grid, num_prefix_tokens=prefix)
    theirs = timm.layers.resample_abs_pos_embed(pos, list(grid), num_prefix_tokens=prefix)
    torch.testing.assert_close(ours, theirs)


def test_positions_that_do_not_form_a_square():
    with pytest.raises(ValueError, match="17 positions are not a square grid"):
        pretrained.resize_pos_embed(torch.zeros(1, 17, 4), (4, 4), num_prefix_tokens=0)


def test_without_weights_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("VIT_EDU_FAST", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("VIT_EDU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    model, published, reason = pretrained.torchvision_vit("vit_b_32")
    assert not published
    assert "random weights" in reason
    assert "no download" in reason
    assert not model.training


def test_the_weights_of_the_course_load_without_a_network():
    model = pretrained.load("vit-cifar10")
    about = model.pretrained_cfg
    assert about["classes"][3] == "cat"
    assert about["mean"].shape == about["std"].shape == (3, 1, 1)
    assert "Test accuracy" in about["card"]
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    shipped = list(pretrained.SHIPPED.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in shipped) < 8 * 2**20
    for path in shipped:
        assert path.with_suffix(".md").exists()


def test_unknown_and_damaged_weights_are_named(tmp_path):
    with pytest.raises(pretrained.WeightsError, match=r"there are: .*vit-cifar10"):
        pretrained.load("vit-mnist")
    whole = (pretrained.SHIPPED / "vit-cifar10.safetensors").read_bytes()
    for content in (whole[:1000], b"", b"no weights"):
        path = tmp_path / "bad.safetensors"
        path.write_bytes(content)
        with pytest.raises(pretrained.WeightsError, match="damaged"):
            pretrained.read_weights(path)


def test_no_trainer_is_imported():
    code = (
        "import sys, vit_edu.pretrained; print([m for m in sys.modules if m.startswith('vit_edu.training')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
