"""Looking at layers that others wrote, and at more tokens than memory holds: refused, or right."""

import re

import alternatives
import pytest
import torch
import torch.nn.functional as F
from test_inspect import IMAGES, SMALL, shaken
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vit_edu import inspect
from vit_edu.check.catalogue.attention import BaseAttention
from vit_edu.models import ViT
from vit_edu.models.variants import AttentionPool
from vit_edu.models.vit import Attention, merge_heads, split_heads

# ---------------------------------------------------------------- other people's layers


class Learned(nn.Module):
    """Attention as a learner may write it: no subclass of ours, and not fused. `change` spoils the scores."""

    def __init__(self, change=lambda scores: scores, heads=2):
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj, self.change = nn.Linear(24, 72), nn.Linear(24, 24), change

    def forward(self, x):
        q, k, v = (split_heads(y, self.num_heads) for y in self.qkv(x).chunk(3, dim=-1))
        weights = self.change(q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
        return self.proj(merge_heads(weights @ v))


class Bypass(Learned):
    """One that computes its queries, keys and values without its qkv."""

    def forward(self, x):
        return self.proj(F.linear(x, self.qkv.weight[:24]))


class Biased(Learned):
    """The same with something added to the scores, of which it says what it is."""

    def __init__(self):
        super().__init__(lambda scores: scores + self.attention_bias())

    def attention_bias(self):
        return torch.arange(17.0)  # (T,), for all heads and queries


def with_layer(layer):
    model = shaken(ViT(**SMALL))
    for block in model.blocks:
        layer.load_state_dict(block.attn.state_dict())
        block.attn, layer = layer, type(layer)()
    return model


def test_a_learners_own_attention_is_looked_into():
    theirs = with_layer(Learned())
    assert not any(isinstance(module, Attention) for module in theirs.modules())
    ours = ViT(**SMALL)
    ours.load_state_dict(theirs.state_dict())
    maps = inspect.attention_maps(theirs, IMAGES)
    torch.testing.assert_close(maps, inspect.attention_maps(ours, IMAGES), atol=1e-6, rtol=1e-5)


# Right answers of lessons 03 and 05 that keep the names qkv, proj and patch_embed
OWN_LAYERS = [a for a in alternatives.of("Attention") if issubclass(a, BaseAttention)]
OWN_MODELS = [a for a in alternatives.of("ViT") if a.__name__ in ("BlockByBlock", "HoldsEmbeddings")]
SHAPE = {"embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.mark.parametrize("own", OWN_LAYERS, ids=lambda own: own.__name__)
def test_right_answers_for_attention_are_looked_into(own):
    assert len(OWN_LAYERS) >= 3
    model = ViT(16, 4, num_classes=5, **SHAPE)
    maps = inspect.attention_maps(model, IMAGES)
    relevant = inspect.importance(model, IMAGES, "gradient x attention")
    for block in model.blocks:
        layer = own(24, 2)
        layer.load_state_dict(block.attn.state_dict())
        block.attn = layer
    torch.testing.assert_close(inspect.attention_maps(model, IMAGES), maps, atol=1e-6, rtol=1e-5)
    found = inspect.importance(model, IMAGES, "gradient x attention")
    torch.testing.assert_close(found, relevant, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("own", OWN_MODELS, ids=lambda own: own.__name__)
@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_right_answers_for_the_model_are_looked_into(own, pooling):
    assert len(OWN_MODELS) == 2
    model = own(16, 4, 3, 5, global_pool=pooling, **SHAPE)
    prefix = int(pooling == "token")
    assert inspect.grid_and_prefix(model) == ((4, 4), prefix)
    maps = inspect.attention_maps(model, IMAGES)
    assert maps.shape == (2, 2, 2, 16 + prefix, 16 + prefix)
    rolled = inspect.rollout(maps)
    wanted = rolled[:, 0, 1:] if prefix else rolled.mean(dim=1)
    torch.testing.assert_close(inspect.importance(model, IMAGES, "rollout"), wanted)
    for method in ("last attention", "gradient x input", "gradient x attention", "middle"):
        assert inspect.importance(model, IMAGES, method).shape == (2, 16)


def test_a_layer_says_what_it_adds_to_its_scores():
    model = with_layer(Biased())
    plain = ViT(**SMALL)
    plain.load_state_dict(model.state_dict())
    found = []
    model.blocks[0].attn.qkv.register_forward_hook(lambda layer, x, y: found.append(y))
    maps = inspect.attention_maps(model, IMAGES)
    q, k, _ = (split_heads(y, 2) for y in found[0].chunk(3, dim=-1))
    wanted = (q @ k.mT / 12**0.5 + torch.arange(17.0)).softmax(dim=-1)
    torch.testing.assert_close(maps[0], wanted)
    assert (maps[0] - inspect.attention_maps(plain, IMAGES)[0]).abs().max() > 0.1
    torch.testing.assert_close(inspect.attention_maps(model, IMAGES, query=2), maps[:, :, :, 2])


SPOILED = {
    "a bias that it keeps to itself": lambda scores: scores + torch.arange(17.0),
    "no look back": lambda scores: scores.masked_fill(torch.ones(17, 17).triu(1).bool(), -1e9),
    "another scale": lambda scores: 3 * scores,
}


@pytest.mark.parametrize("change", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("query", [None, 1])
def test_weights_that_are_not_those_of_the_layer_are_refused(change, query):
    model = with_layer(Learned())
    model.blocks[1].attn.change = change
    nn.init.zeros_(model.blocks[1].attn.proj.weight)  # as some recipes begin: its output says nothing
    with pytest.raises(
        ValueError, match=r"Learned does not mix its tokens by softmax.* method attention_bias\(\)"
    ):
        inspect.attention_maps(model, IMAGES, query=query)
    with pytest.raises(ValueError, match="Learned does not mix its tokens"):
        inspect.importance(model, IMAGES, "gradient x attention")


def tied():
    model = ViT(**SMALL)
    model.blocks[2] = model.blocks[0]
    return model


def nameless():
    model = with_layer(Learned())
    del model.blocks[0].attn.num_heads
    return model


def skipping():
    model = ViT(**SMALL)
    model.spare = Attention(24, 2)
    return model


def uneven():
    model = ViT(**SMALL)
    model.blocks[1].attn.num_heads = 1
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (with_layer(Bypass()), "Bypass does not call its qkv"),
        (tied(), "one Attention runs twice"),
        (nameless(), "Learned does not say how many heads"),
        (skipping(), "4 attention layers, but only 3 ran"),
        (uneven(), "not have equally many heads and tokens.* with block="),
        (nn.Sequential(AttentionPool(24, 2)), "Sequential has no attention"),
    ],
)
def test_a_model_whose_maps_would_be_wrong_is_refused(model, says):
    with pytest.raises(ValueError, match=says):
        inspect.attention_maps(model, IMAGES)
    assert not any(m._forward_hooks for m in model.modules())


def test_a_model_that_has_diverged_is_not_blamed_on_the_layer():
    model = with_layer(Learned())
    nn.init.constant_(model.blocks[1].attn.qkv.weight, torch.nan)
    maps = inspect.attention_maps(model, IMAGES)
    assert maps[0].isfinite().all()
    assert maps[1:].isnan().all()
    with pytest.raises(ValueError, match="some attention weights are nan"):
        inspect.rollout(maps)


def test_blocks_of_other_shapes_are_seen_one_at_a_time():
    assert inspect.attention_maps(uneven(), IMAGES, block=1).shape == (2, 1, 17, 17)


# ---------------------------------------------------------------- memory


class Largest(TorchDispatchMode):
    """Records how many numbers the largest tensor holds that anything computes."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, torch.Tensor):
                self.numel = max(self.numel, each.numel())
        return result


MANY = {"img_size": 128, "patch_size": 2, "embed_dim": 6, "depth": 16, "num_heads": 2, "mlp_ratio": 1}


def test_gigabytes_of_weights_are_refused_before_they_are_computed():
    model, image = ViT(**MANY), torch.rand(1, 3, 128, 128)  # 4,097 tokens
    says = (
        "the attention weights of 1 image with 4,097 tokens, in 16 blocks of 2 heads, would take 2.1 GB, and more than "
        "2 GB are not computed. Ask for block= (0 to 15) for one block, or query= (0 to 4096) for one token."
    )
    with Largest() as seen, pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        inspect.attention_maps(model, image)
    assert seen.numel < 4097**2


def test_one_query_of_many_tokens_never_makes_the_matrix():
    model, image = ViT(**MANY | {"depth": 2}), torch.rand(1, 3, 128, 128)
    with Largest() as seen:
        rows = inspect.attention_maps(model, image, query=0)
    assert rows.shape == (2, 1, 2, 4097)
    torch.testing.assert_close(rows.sum(dim=-1), torch.ones(2, 1, 2))
    assert seen.numel < 4097**2


def test_one_block_of_many_tokens_keeps_only_its_own():
    model, image = ViT(**MANY | {"img_size": 64, "depth": 3, "num_heads": 1}), torch.rand(1, 3, 64, 64)
    with Largest() as seen:
        one = inspect.attention_maps(model, image, block=1)
    assert one.shape == (1, 1, 1025, 1025)
    assert seen.numel == 1025**2


def test_too_many_images_are_said(monkeypatch):
    monkeypatch.setattr("vit_edu.inspect.attention.MOST_BYTES", 30_000)
    model = ViT(**SMALL)
    assert inspect.attention_maps(model, IMAGES, block=0).shape == (2, 2, 17, 17)
    many = IMAGES.repeat(10, 1, 1, 1)
    with pytest.raises(
        ValueError,
        match=r"20 images with 17 tokens, in 1 block of 2 heads.* GB are not computed. Ask for query= \(0 to 16\) for one token, or fewer images\.",
    ):
        inspect.attention_maps(model, many, block=0)
    assert inspect.attention_maps(model, many, block=0, query=0).shape == (20, 2, 17)
