"""Attention maps of every family that `pretrained` converts: times the values, they are what each block's attention returns."""

import re

import numpy as np
import pytest
import test_families as published
import test_pretrained_towers as towers
import test_pretrained_transformers as encoders
import torch
from test_pretrained_own import page  # noqa: F401  (a fixture)

from vit_edu import inspect, pretrained
from vit_edu.models.vit import merge_heads, split_heads


def require_explained(model, images):
    """The weights times the values, merged and projected, equal what each block's attention returns, at 1e-5."""
    values, outputs, hooks = [], [], []
    for block in model.blocks:
        layer = block.attn
        hooks.append(layer.qkv.register_forward_hook(lambda _, x, y: values.append(y.chunk(3, dim=-1)[2])))
        hooks.append(layer.register_forward_hook(lambda _, x, y: outputs.append(y)))
    maps = inspect.attention_maps(model, images)
    for hook in hooks:
        hook.remove()
    (rows, cols), prefix = inspect.grid_and_prefix(model)
    T, h = prefix + rows * cols, model.blocks[0].attn.num_heads
    assert maps.shape == (len(model.blocks), len(images), h, T, T)
    assert maps.std() > 1e-4  # not even
    for block, weights, v, output in zip(model.blocks, maps, values, outputs, strict=True):
        explained = block.attn.proj(merge_heads(weights @ split_heads(v, h)))
        assert (explained - output).abs().max() <= 1e-5 * output.abs().max()


LARGE = re.compile(
    "_[bl]_16|_l_32|_h_14|_(base|large|huge)_patch(14|16|32)_(224|384)$|base distilled|[BL]/16|SigLIP: tanh"
)
SMALL_ENOUGH = [variant for variant in published.VARIANTS if not LARGE.search(variant[1])]


@pytest.mark.parametrize("variant", SMALL_ENOUGH, ids=" ".join)
def test_published_models(variant):
    theirs = published.build(published.VARIANTS[variant])
    ours = pretrained.from_model(theirs, copy=False)
    require_explained(ours, published.images(ours))


PREFIXES = {
    ("torchvision", "vit_b_32"): ((7, 7), 1),
    ("timm", "not square, 192 x 256"): ((12, 16), 1),
    ("timm", "DeiT: tiny distilled"): ((14, 14), 2),
    ("timm", "DINOv2: base, 4 registers"): ((16, 16), 5),
    ("timm", "mean pool, no class token"): ((16, 16), 0),
    ("timm", "SigLIP: tanh, 384 in patches of 14"): ((27, 27), 0),
    ("timm", "positions for 4 registers"): ((16, 16), 4),
}


@pytest.mark.parametrize("variant", PREFIXES, ids=" ".join)
def test_grids_and_prefixes_of_published_models(variant):
    with torch.device("meta"):
        ours = pretrained.from_model(published.VARIANTS[variant]())
    assert inspect.grid_and_prefix(ours) == PREFIXES[variant]


@pytest.mark.parametrize("gelu", towers.QUICK)
def test_openclip(gelu):
    theirs = towers.randomised(towers.OpenCLIPTower(towers.QUICK[gelu], scaled=True))
    converted = pretrained.convert(theirs.state_dict(), gelu=gelu, num_heads=2)
    assert converted.family == "openclip"
    require_explained(converted.model(), towers.images())


@pytest.mark.parametrize("pair", [towers.clip_pair, towers.siglip_pair])
def test_clip_and_siglip_of_transformers(pair):
    require_explained(pretrained.from_model(pair()), towers.images())


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_encoders_of_transformers(name):
    arguments = encoders.DECODER if "MAE" in name else {}
    theirs = encoders.build(name, encoders.ENCODERS[name][0], num_labels=3, **arguments)
    require_explained(pretrained.from_model(theirs), torch.randn(2, 3, 70, 70))


def test_jax(tmp_path):
    theirs = published.build(published.from_timm("vit_tiny_patch16_224"))
    np.savez(tmp_path / "weights.npz", **published.to_jax(theirs))
    ours = pretrained.load(tmp_path / "weights.npz")
    require_explained(ours, published.images(ours))


def test_vit_pytorch(page):  # noqa: F811
    require_explained(pretrained.convert(page["state"], num_heads=3).model(), torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["vit-cifar10", "vit-cifar10-hybrid", "vit-cifar10-mae"])
def test_the_courses_own_weights(name):
    model = pretrained.load(name)
    require_explained(model, torch.randn(2, 3, 32, 32))
