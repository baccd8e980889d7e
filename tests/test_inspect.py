"""Looking inside: the weights are those of other people's attention, explain the block's output, and leave no trace."""

import pytest
import torch
from torch import nn
from wanted import library

from vit_edu import inspect, pretrained
from vit_edu.models import CNN, HybridViT, OverlapViT, ViT
from vit_edu.models.local import LocalViT
from vit_edu.models.variants import PublishedViT
from vit_edu.models.vit import Attention, merge_heads, split_heads

timm = library("timm")

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
STEM = ((8, 2),)
MODELS = {
    "class token": (lambda: ViT(**SMALL), 1),
    "mean pool": (lambda: ViT(global_pool="avg", drop_path_rate=0.5, **SMALL), 0),
    "hybrid": (lambda: HybridViT(stem=STEM, **SMALL), 1),
    "overlapping patches": (lambda: OverlapViT(overlap=1, **SMALL), 1),
    "locality bias": (lambda: LocalViT(**SMALL), 1),
    "locality bias, mean pool": (lambda: LocalViT(global_pool="avg", **SMALL), 0),
    "attention pooling": (lambda: PublishedViT(class_token=False, global_pool="map", **SMALL), 0),
    "distilled": (lambda: PublishedViT(dist_token=True, dist_head=True, **SMALL), 2),
    "registers": (lambda: PublishedViT(registers=3, **SMALL), 4),
    "registers alone": (
        lambda: PublishedViT(class_token=False, registers=2, global_pool="avg", fc_norm=True, **SMALL),
        2,
    ),
}
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def shaken(model):
    """The model with weights that are large enough for maps that are far from uniform."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.2 * torch.randn_like(value)
    return model


@pytest.fixture(params=MODELS)
def case(request):
    make, prefix = MODELS[request.param]
    return shaken(make()).eval(), prefix


def test_weights_are_those_that_make_the_output(case):
    model, prefix = case
    passed = []
    for layer in (m for m in model.modules() if isinstance(m, Attention)):
        layer.register_forward_hook(lambda layer, x, y: passed.append((x[0], y)))
    maps = inspect.attention_maps(model, IMAGES)
    T = prefix + 16
    assert maps.shape == (3, 2, 2, T, T)
    assert len(passed) == 3  # one pass
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(3, 2, 2, T))
    assert maps.std() > 0.02  # far from uniform, so that tokens or heads in another order would be noticed
    for block, weights, (x, y) in zip(model.blocks, maps, passed, strict=True):
        v = split_heads(nn.functional.linear(x, *(p[48:] for p in block.attn.qkv.parameters())), 2)
        torch.testing.assert_close(block.attn.proj(merge_heads(weights @ v)), y, atol=1e-5, rtol=1e-5)


TIMMS = {
    "class token": lambda: timm.models.VisionTransformer(**SMALL),
    "mean pool": lambda: timm.models.VisionTransformer(class_token=False, global_pool="avg", **SMALL),
    "registers": lambda: timm.models.VisionTransformer(reg_tokens=3, no_embed_class=True, **SMALL),
    "distilled": lambda: timm.models.deit.VisionTransformerDistilled(**SMALL),
}


@pytest.mark.parametrize("make", TIMMS.values(), ids=TIMMS)
def test_weights_are_timms(make):
    theirs = make()
    theirs = shaken(theirs).eval()
    found = []
    for block in theirs.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda drop, x, weights: found.append(weights))
    theirs(IMAGES)
    ours = pretrained.from_model(theirs)
    torch.testing.assert_close(inspect.attention_maps(ours, IMAGES), torch.stack(found), atol=1e-6, rtol=1e-5)


def test_weights_are_torchs():
    model = shaken(ViT(**SMALL)).eval()
    maps = inspect.attention_maps(model, IMAGES)
    x = super(ViT, model).forward(IMAGES)  # (B, T, D)
    for block, weights in zip(model.blocks, maps, strict=True):
        theirs = nn.MultiheadAttention(24, 2, batch_first=True)
        theirs.load_state_dict(
            {
                "in_proj_weight": block.attn.qkv.weight,
                "in_proj_bias": block.attn.qkv.bias,
                "out_proj.weight": block.attn.proj.weight,
                "out_proj.bias": block.attn.proj.bias,
            }
        )
        normed = block.norm1(x)
        _, wanted = theirs(normed, normed, normed, average_attn_weights=False)
        torch.testing.assert_close(weights, wanted, atol=1e-6, rtol=1e-5)
        x = block(x)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(case, training):
    model, _ = case
    model.train(training)
    model.norm.train(not training)  # one part in another mode than the rest
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    first = inspect.attention_maps(model, IMAGES)
    assert torch.equal(first, inspect.attention_maps(model, IMAGES))  # in eval mode: nothing is dropped
    assert torch.equal(rng, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not first.requires_grad
    assert torch.is_grad_enabled()


def test_what_the_model_computes_is_not_changed():
    """The pass that is looked at goes through the same kernel, to the same logits, bit for bit."""
    model = shaken(ViT(**SMALL)).eval()
    wanted, found = model(IMAGES), []
    model.register_forward_hook(lambda model, images, logits: found.append(logits))
    inspect.attention_maps(model, IMAGES)
    assert torch.equal(found[0], wanted)


def test_one_block_and_one_query_are_parts_of_all(case):
    model, _ = case
    maps = inspect.attention_maps(model, IMAGES)
    for block in (0, 2, -1, -3):
        torch.testing.assert_close(inspect.attention_maps(model, IMAGES, block=block), maps[block])
    for query in (0, 3, -1):
        row = inspect.attention_maps(model, IMAGES, query=query)
        torch.testing.assert_close(row, maps[:, :, :, query], atol=1e-6, rtol=1e-5)
        row = inspect.attention_maps(model, IMAGES, block=1, query=query)
        torch.testing.assert_close(row, maps[1, :, :, query], atol=1e-6, rtol=1e-5)


def test_a_few_images_at_a_time_are_the_same(case, monkeypatch):
    model, _ = case
    maps = inspect.attention_maps(model, IMAGES)
    monkeypatch.setattr("vit_edu.inspect.attention.AT_ONCE_BYTES", 1)  # one image at a time
    torch.testing.assert_close(inspect.attention_maps(model, IMAGES), maps)


def test_the_grid_and_what_stands_in_front(case):
    model, prefix = case
    assert inspect.grid_and_prefix(model) == ((4, 4), prefix)


def test_a_grid_that_is_no_square():
    model = shaken(ViT(**SMALL | {"img_size": (8, 24)}))
    assert inspect.grid_and_prefix(model) == ((2, 6), 1)
    maps = inspect.attention_maps(model, torch.rand(1, 3, 8, 24))
    assert maps.shape == (3, 1, 2, 13, 13)


class OfClips(ViT):
    """Reads the mean of the frames of a clip, (B, F, C, H, W)."""

    def forward(self, clips):
        return super().forward(clips.mean(dim=1))


def test_a_model_of_clips_reads_clips():
    model, clips = shaken(OfClips(**SMALL)), torch.stack([IMAGES, IMAGES.flip(0)], dim=1)
    same = ViT(**SMALL)
    same.load_state_dict(model.state_dict())
    images = clips.mean(dim=1)
    torch.testing.assert_close(inspect.attention_maps(model, clips), inspect.attention_maps(same, images))
    torch.testing.assert_close(inspect.hidden_tokens(model, clips), inspect.hidden_tokens(same, images))
    with pytest.raises(ValueError, match=r"a batch of images, \(B, C, H, W\), got \(2, 2, 3, 16, 16\)"):
        inspect.importance(model, clips, "rollout")


def test_weights_from_a_qkv_are_those_of_one_block():
    model = shaken(ViT(**SMALL)).eval()
    found = []
    model.blocks[1].attn.qkv.register_forward_hook(lambda layer, x, y: found.append(y))
    maps = inspect.attention_maps(model, IMAGES)
    torch.testing.assert_close(inspect.attention_weights(found[0], 2), maps[1])
    with pytest.raises(ValueError, match=r"multiple of the 5 heads, got \(2, 17, 72\)"):
        inspect.attention_weights(found[0], 5)


# ---------------------------------------------------------------- bad input


class Unknown(nn.Module):
    """Has attention, and is no model of the course."""

    def __init__(self):
        super().__init__()
        self.layer = Attention(24, 2)


@pytest.mark.parametrize("model", [CNN(), Unknown(), nn.Linear(2, 2)])
def test_a_model_without_a_grid_says_so(model):
    with pytest.raises(ValueError, match=f"{type(model).__name__} does not say on which grid its tokens lie"):
        inspect.grid_and_prefix(model)


def test_a_learners_patches_need_not_know_their_grid():
    model = ViT(**SMALL)
    del model.patch_embed.grid_size
    assert inspect.grid_and_prefix(model) == ((4, 4), 1)
    model = ViT(**SMALL | {"img_size": (8, 24)})
    del model.patch_embed.grid_size
    with pytest.raises(
        ValueError, match=r"the patch_embed of ViT does not say on which grid.* to \(rows, cols\)"
    ):
        inspect.grid_and_prefix(model)
    for positions in (None, torch.zeros(4, 4)):  # none, and without the axis of the batch
        model.pos_embed = positions if positions is None else nn.Parameter(positions)
        with pytest.raises(ValueError, match="does not say on which grid"):
            inspect.grid_and_prefix(model)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"block": 3}, "no block 3: the model has 3 blocks, 0 to 2, or -1 for the last"),
        ({"block": -4}, "no block -4"),
        ({"block": 1.0}, "block must be a whole number, got 1.0"),
        ({"query": 17}, "no query 17: the model has 17 tokens, 0 to 16"),
        ({"query": "all"}, "query must be a whole number, got 'all'"),
    ],
)
def test_a_block_or_query_that_there_is_not(wanted, says):
    with pytest.raises(ValueError, match=says):
        inspect.attention_maps(ViT(**SMALL), IMAGES, **wanted)


@pytest.mark.parametrize(
    ("model", "images", "says"),
    [
        (nn.Linear(2, 2), IMAGES, "Linear has no attention to look at: expected .* such as ViT"),
        (ViT(**SMALL | {"depth": 0}), IMAGES, "ViT has no attention"),
        (CNN(), IMAGES, "CNN has no attention to look at"),
        (ViT(**SMALL), (IMAGES * 255).byte(), r"floats, got torch.uint8. Use pretrained.preprocess"),
        (ViT(**SMALL), IMAGES.numpy(), "floats, got ndarray"),
        (ViT(**SMALL), IMAGES[:0], "no images in this batch"),
        (ViT(**SMALL), IMAGES[0], r"a batch of images, \(B, C, H, W\), got \(3, 16, 16\)"),
        (ViT(**SMALL), torch.rand(2, 3, 32, 32), r"reads images of shape \(B, 3, 16, 16\)"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_and_left_alone(model, images, says):
    with pytest.raises(ValueError, match=says):
        inspect.attention_maps(model, images)
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
