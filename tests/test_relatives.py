"""The relatives of the ViT in lesson 08, against independent implementations: CNN, overlapping patches, locality bias."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock

from vit_edu import data, models, training
from vit_edu.models.cnn import CNN, ResidualBlock
from vit_edu.models.local import LocalViT, distance_bias


def stirred(model):
    """The model in eval mode, with nothing left at its initial value, so that every weight and statistic shows."""
    with torch.no_grad():
        for value in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            value.add_(0.1 * torch.rand_like(value))
    return model.eval()


@pytest.mark.parametrize(("before", "after", "stride"), [(8, 8, 1), (8, 12, 2)])
def test_a_residual_block_equals_that_of_torchvision(before, after, stride):
    ours = stirred(ResidualBlock(before, after, stride))
    downsample = None
    if stride > 1:
        downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
    theirs = BasicBlock(before, after, stride, downsample).eval()
    theirs.load_state_dict(ours.state_dict())  # strict: the names are the same
    x = torch.randn(2, before, 6, 10)
    torch.testing.assert_close(ours(x), theirs(x))


def test_the_shapes_of_a_cnn():
    model = CNN(num_classes=7, in_chans=1, stem=(8, 1), widths=(8, 16), depths=(2, 1)).eval()
    assert model(torch.randn(3, 1, 32, 32)).shape == (3, 7)
    assert model(torch.randn(3, 1, 20, 24)).shape == (3, 7)  # the mean over the places takes any size
    assert CNN(num_classes=0)(torch.randn(2, 3, 32, 32)).shape == (2, 96)
    strides = [block.conv1.stride for block in model.blocks]
    assert strides == [(1, 1), (1, 1), (2, 2)]


def test_a_cnn_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(2, 1, 32, 32\)"):
        CNN()(torch.randn(2, 1, 32, 32))
    with pytest.raises(ValueError, match="3 widths and 2 depths"):
        CNN(depths=(1, 1))


def test_zero_init_makes_the_branches_of_a_cnn_vanish():
    recipe = dataclasses.replace(training.RECIPES["laptop"], tokens=(), model={"kind": "cnn"})
    model = training.build_model(recipe, data.shapes(train=20, test=10)).eval()
    x = torch.randn(2, 32, 8, 8).relu()
    torch.testing.assert_close(model.blocks[0](x), x)


@pytest.mark.parametrize("kind", ["cnn", "local"])
def test_models_that_need_all_tokens_refuse_a_schedule(kind):
    recipe = dataclasses.replace(training.RECIPES["laptop"], epochs=1, minutes=None, model={"kind": kind})
    images = data.shapes(train=20, test=10)
    with pytest.raises(ValueError, match="leave `tokens` out"):
        training.fit(training.build_model(recipe, images), images, recipe)


@pytest.mark.parametrize("kind", ["cnn", "local", "overlap"])
def test_they_train_save_and_load(kind, tmp_path):
    arguments = {"kind": kind} | ({"overlap": 2} if kind == "overlap" else {})
    recipe = dataclasses.replace(
        training.RECIPES["fast"], epochs=1, max_images=64, optimizer="muon", zero_init=True, model=arguments
    )
    images = data.shapes(train=80, test=10)
    model = training.build_model(recipe, images)
    training.fit(model, images, recipe, out=tmp_path)
    loaded, state = training.load_run(tmp_path)
    assert type(loaded) is models.KINDS[kind]
    assert state["recipe"]["model"]["kind"] == kind
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), model.eval()(x))


def test_overlapping_patches_are_the_unfolded_ones():
    model = models.OverlapViT(overlap=2, embed_dim=16, num_heads=2)
    x = torch.randn(2, 3, 32, 32)
    patches = F.unfold(x, 8, padding=2, stride=4).transpose(1, 2)  # (B, N, C*P*P)
    weight = model.patch_embed.proj.weight.flatten(1)  # (D, C*P*P)
    torch.testing.assert_close(
        model.patch_embed(x), patches @ weight.T + model.patch_embed.proj.bias, atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ValueError, match="overlap=-1"):
        models.OverlapViT(overlap=-1)


def test_without_overlap_it_is_a_vit():
    torch.manual_seed(0)
    overlap = models.OverlapViT(overlap=0)
    plain = models.ViT()
    plain.load_state_dict(overlap.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(overlap(x), plain(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_distance_bias_against_a_loop(dtype):
    bias = distance_bias((2, 3), torch.tensor([1.0, 0.25], dtype=dtype))
    for i in range(6):
        for j in range(6):
            far = ((i // 3 - j // 3) ** 2 + (i % 3 - j % 3) ** 2) ** 0.5
            assert bias[0, i, j].item() == pytest.approx(-far, rel=torch.finfo(dtype).eps)
            assert bias[1, i, j].item() == pytest.approx(-far / 4, rel=torch.finfo(dtype).eps)


@pytest.mark.parametrize("pooling", ["avg", "token"])
def test_a_local_vit_of_strength_zero_is_a_vit(pooling):
    torch.manual_seed(0)
    local = LocalViT(img_size=(16, 32), depth=2, global_pool=pooling)
    plain = models.ViT(img_size=(16, 32), depth=2, global_pool=pooling)
    missing = plain.load_state_dict(local.state_dict(), strict=False)
    assert missing.unexpected_keys == ["blocks.0.attn.strength", "blocks.1.attn.strength"]
    x = torch.randn(2, 3, 16, 32)
    assert not torch.allclose(local(x), plain(x), atol=1e-4)
    for block in local.blocks:
        nn.init.zeros_(block.attn.strength)
    torch.testing.assert_close(local(x), plain(x))


def test_a_strong_bias_leaves_only_the_place_itself():
    local = LocalViT(depth=1, global_pool="token")
    attn = local.blocks[0].attn
    nn.init.constant_(attn.strength, 1e4)
    bias = attn.attention_bias()  # (h, T, T)
    patches = bias[:, 1:, 1:].softmax(dim=-1)
    torch.testing.assert_close(patches, torch.eye(64).expand(4, -1, -1))
    assert bias[:, 0].abs().max() == 0  # from and to the class token
    assert bias[:, :, 0].abs().max() == 0
