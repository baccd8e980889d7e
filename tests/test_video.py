"""Tubelets, positions, attention over clips and their cost (lesson 11), against loops, a convolution and the course's ViT."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vit_edu import data, models, training
from vit_edu.models import VideoViT, ViT
from vit_edu.models.costs import layer_cost, multiply_adds, video_attention_cost
from vit_edu.models.video import TubeletEmbed, inflate, space_time_positions, tubelets
from vit_edu.models.vit import Attention, patchify

SIZES = {"img_size": (8, 12), "patch_size": 4, "embed_dim": 8, "num_heads": 2, "num_classes": 5, "frames": 6}
S, N = 3, 6  # times and places of a clip of these sizes, in tubelets of 2 frames


def stirred(model):
    """The model in eval mode, with random weights that are large enough to see."""
    torch.manual_seed(0)
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    return model.eval().requires_grad_(False)


def video(**more):
    return stirred(VideoViT(**SIZES | {"depth": 2} | more))


def clips(count=2, frames=6, channels=3, size=(8, 12), seed=1):
    return torch.randn(count, frames, channels, *size, generator=torch.Generator().manual_seed(seed))


def random_sizes(count):
    """(B, F, C, H, W), t, P of clips that can be cut evenly."""
    draw = random.Random(0)
    for _ in range(count):
        B, times, t, C, rows, cols, P = (draw.randint(1, most) for most in (3, 4, 4, 4, 4, 4, 4))
        yield (B, times * t, C, rows * P, cols * P), t, P


# ---------------------------------------------------------------- tubelets


def cut_in_loops(clips, t, P):
    """Pixel by pixel."""
    B, frames, C, H, W = clips.shape
    cut = clips.new_zeros(B, 0, t * P * P * C)
    for first in range(0, frames, t):
        for top in range(0, H, P):
            for left in range(0, W, P):
                pixels = [
                    clips[:, f, :, y, x]
                    for f in range(first, first + t)
                    for y in range(top, top + P)
                    for x in range(left, left + P)
                ]
                cut = torch.cat([cut, torch.cat(pixels, dim=1)[:, None]], dim=1)
    return cut


def test_tubelets_are_those_of_a_loop():
    for shape, t, P in random_sizes(10):
        some = torch.randn(shape)
        torch.testing.assert_close(tubelets(some, t, P), cut_in_loops(some, t, P), rtol=0, atol=0)


def test_tubelets_are_what_a_convolution_copies():
    for shape, t, P in random_sizes(100):
        some, C = torch.randn(shape), shape[2]
        weight = rearrange(torch.eye(t * P * P * C), "k (t p q c) -> k c t p q", t=t, p=P, q=P)
        copied = F.conv3d(some.transpose(1, 2), weight, stride=(t, P, P)).flatten(2).mT
        torch.testing.assert_close(tubelets(some, t, P), copied, rtol=0, atol=0)


def test_tubelets_of_one_frame_are_its_patches():
    some = clips().mul(50).byte()
    frame_by_frame = torch.cat([patchify(frame, 4) for frame in some.unbind(1)], dim=1)
    assert torch.equal(tubelets(some, 1, 4), frame_by_frame)


@pytest.mark.parametrize(
    ("t", "P", "says"),
    [(4, 4, "a clip of 6 frames cannot"), (0, 4, "into tubelets of 0 frames"), (2, 5, "8 x 12 pixels")],
)
def test_clips_that_cannot_be_cut_are_refused(t, P, says):
    with pytest.raises(ValueError, match=says):
        tubelets(clips(), t, P)
    with pytest.raises(ValueError, match=says):
        VideoViT(**SIZES | {"tubelet": t, "patch_size": P})


def test_the_projection_is_a_linear_layer_on_tubelets():
    for shape, t, P in random_sizes(20):
        _, frames, C, *size = shape
        embed = stirred(TubeletEmbed(frames, t, size, P, C, 7))
        weight = rearrange(embed.proj.weight, "d c t p q -> d (t p q c)")
        some = torch.randn(shape)
        expected = F.linear(tubelets(some, t, P), weight, embed.proj.bias)
        torch.testing.assert_close(embed(some), expected)
        assert embed.times * embed.num_patches == expected.shape[1]


def test_clips_of_other_sizes_are_refused():
    model = video()
    for wrong in (
        clips(frames=4),
        clips(size=(12, 8)),
        clips(channels=1),
        clips().transpose(1, 2),
        clips()[0],
    ):
        with pytest.raises(
            ValueError, match=r"reads clips of shape \(B, 6, 3, 8, 12\), frames before channels"
        ):
            model(wrong)


# ---------------------------------------------------------------- positions


@pytest.mark.parametrize(("times", "places"), [(3, 6), (4, 4), (1, 5), (5, 1)])
def test_each_token_gets_its_time_and_its_place(times, places):
    time, space = torch.randn(1, times, 7), torch.randn(1, places, 7)
    found = space_time_positions(time, space)
    assert found.shape == (1, times * places, 7)
    for token in range(times * places):
        expected = time[0, token // places] + space[0, token % places]
        torch.testing.assert_close(found[0, token], expected)


def test_positions_are_in_the_order_of_tubelets():
    """A clip whose pixels say when and where they are, cut: the positions of its tokens say the same."""
    when = torch.arange(3.0).repeat_interleave(2)[None, :, None, None, None]
    where = torch.arange(6.0).reshape(2, 3).repeat_interleave(4, 0).repeat_interleave(4, 1)
    cut = tubelets((10 * when + where).expand(1, 6, 1, 8, 12), 2, 4)
    positions = space_time_positions(10 * torch.arange(3.0)[None, :, None], torch.arange(6.0)[None, :, None])
    assert torch.equal(cut, positions.expand_as(cut))


# ---------------------------------------------------------------- the model


def tokens(model, some):
    """The tokens of clips before any position, by `tubelets`."""
    weight = rearrange(model.patch_embed.proj.weight, "d c t p q -> d (t p q c)")
    return F.linear(tubelets(some, 2, 4), weight, model.patch_embed.proj.bias)  # (B, S N, D)


def test_joint_attention_is_that_of_a_vit_over_all_tubelets():
    """A ViT whose patches are the tubelets: frames side by side, each tubelet as a column of pixels."""
    model, some = video(attention="joint"), clips()
    cut = tubelets(some, 2, 4)  # (B, S N, t P P C)
    numbers = cut.shape[2]
    as_image = cut.mT[:, None]  # (B, 1, t P P C, S N): every column is a tubelet
    vit = ViT((numbers, S * N), 1, 1, 5, 8, depth=2, num_heads=2, global_pool="avg")
    vit.patch_embed.proj = nn.Conv2d(1, 8, (numbers, 1))
    vit.patch_embed.proj.weight.data = rearrange(
        model.patch_embed.proj.weight, "d c t p q -> d 1 (t p q c) 1"
    )
    vit.patch_embed.proj.bias.data = model.patch_embed.proj.bias
    vit.pos_embed.data = torch.stack(
        [model.time_embed[0, i // N] + model.pos_embed[0, i % N] for i in range(S * N)]
    )[None]
    same = {k: v for k, v in model.state_dict().items() if k.startswith(("blocks.", "norm.", "head."))}
    vit.load_state_dict(same, strict=False)
    torch.testing.assert_close(model(some), vit.eval()(as_image))


def factorised_in_loops(model, some):
    answers = []
    for clip in tokens(model, some).unflatten(1, (S, N)):  # (S, N, D)
        summaries = []
        for when, image in enumerate(clip):  # (N, D)
            seen = model.blocks((image + model.pos_embed[0])[None])[0]
            summary = seen.sum(0) / N
            summaries.append(summary if model.time_embed is None else summary + model.time_embed[0, when])
        x = model.temporal_blocks(torch.stack(summaries)[None])[0]
        answers.append(model.head(model.norm(x).sum(0) / S))
    return torch.stack(answers)


@pytest.mark.parametrize(
    "more", [{}, {"temporal_depth": 2}, {"temporal_depth": 0}, {"times": False}], ids=str
)
def test_factorised_attention_is_that_of_a_loop_over_times(more):
    model, some = video(attention="factorised", **more), clips()
    torch.testing.assert_close(model(some), factorised_in_loops(model, some))


def in_another_order(some):
    return some.unflatten(1, (S, 2))[:, [2, 0, 1]].flatten(1, 2)


@pytest.mark.parametrize(
    ("more", "blind"),
    [
        ({"attention": "joint"}, False),
        ({"attention": "joint", "times": False}, True),
        ({"attention": "factorised"}, False),
        ({"attention": "factorised", "times": False}, True),
        ({"attention": "factorised", "temporal_depth": 0}, True),
    ],
    ids=str,
)
def test_what_is_blind_for_the_order_of_the_times(more, blind):
    model, some = video(**more), clips()
    difference = (model(some) - model(in_another_order(some))).abs().max()
    assert (difference < 1e-5) == blind
    # Inside its tubelets, every model sees the order
    assert (model(some) - model(some.flip(1))).abs().max() > 1e-3


def test_clips_of_a_batch_do_not_meet():
    for attention in ("joint", "factorised"):
        model, some = video(attention=attention), clips(3)
        torch.testing.assert_close(model(some), torch.cat([model(clip[None]) for clip in some]))


def test_another_attention_is_refused():
    with pytest.raises(ValueError, match="'joint' or 'factorised', got 'divided'"):
        VideoViT(attention="divided")


def test_no_head_gives_features():
    assert video(num_classes=0)(clips()).shape == (2, 8)


def test_a_recipe_tells_the_frames_by_the_data():
    model = models.make_model(
        {"kind": "video", "embed_dim": 8, "num_heads": 2, "depth": 1}, (4, 1, 16, 24), 3
    )
    assert model.patch_embed.frames == 4
    assert model(torch.randn(2, 4, 1, 16, 24)).shape == (2, 3)


@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_muon_takes_the_matrices_inside(attention):
    model = VideoViT(**SIZES | {"depth": 2, "attention": attention})
    inside = {id(value) for value in model.inner_matrices()}
    outside = {name for name, value in model.named_parameters() if value.ndim > 1 and id(value) not in inside}
    assert outside == {"pos_embed", "time_embed", "head.weight"}
    depth = 3 if attention == "factorised" else 2
    assert len(model.branch_ends()) == 2 * depth
    assert len(inside) == 4 * depth + 1


@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_everything_learns(attention):
    model = VideoViT(**SIZES | {"depth": 1, "attention": attention})
    model(clips()).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


# ---------------------------------------------------------------- from images to clips


@pytest.mark.parametrize("t", [1, 2, 3, 4, 5])
def test_inflated_weights_are_zeros_but_for_the_central_frame(t):
    weight = torch.randn(5, 3, 4, 4)
    inflated = inflate(weight, t)
    assert inflated.shape == (5, 3, t, 4, 4)
    for frame in range(t):
        expected = weight if frame == t // 2 else torch.zeros_like(weight)
        assert torch.equal(inflated[:, :, frame], expected)
    before = weight.clone()
    inflated += 1
    assert torch.equal(weight, before)


@pytest.mark.parametrize("t", [1, 2, 3, 5])
def test_a_still_clip_is_projected_as_its_image(t):
    weight, bias, image = torch.randn(7, 3, 4, 4), torch.randn(7), torch.randn(2, 3, 8, 12)
    as_image = F.conv2d(image, weight, bias, stride=4)
    still = image[:, :, None].expand(-1, -1, 2 * t, -1, -1)
    as_clip = F.conv3d(still, inflate(weight, t), bias, stride=(t, 4, 4))
    for time in as_clip.unbind(2):
        torch.testing.assert_close(time, as_image)


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="at least one frame, got 0"):
        inflate(torch.zeros(1, 1, 2, 2), 0)


def inflated_from(vit, **more):
    """A model for clips with the weights of an image model."""
    model = stirred(VideoViT(**SIZES | {"depth": 2} | more))
    weights = vit.state_dict()
    weights["patch_embed.proj.weight"] = inflate(weights["patch_embed.proj.weight"], more.get("tubelet", 2))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert unexpected == []
    assert all(name.startswith(("time_embed", "temporal_blocks")) for name in missing)
    if model.time_embed is not None:
        model.time_embed.zero_()
    return model


@pytest.mark.parametrize("tubelet", [1, 2, 3])
@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_a_still_clip_gets_the_answer_of_the_image_model(tubelet, attention):
    """Joint: every token finds itself once for each time, which changes no weighted mean. (ViViT, section 3.4.)"""
    sizes = {k: v for k, v in SIZES.items() if k != "frames"}
    vit = stirred(ViT(**sizes, depth=2, global_pool="avg"))
    model = inflated_from(vit, tubelet=tubelet, attention=attention, temporal_depth=0)
    image = torch.randn(2, 3, 8, 12)
    still = image[:, None].expand(-1, 6, -1, -1, -1)
    if attention == "joint":
        torch.testing.assert_close(model(still), vit(image), rtol=1e-4, atol=1e-4)
        changed = still.clone()
        changed[:, [f for f in range(6) if f % tubelet != tubelet // 2]] = 9.0
        torch.testing.assert_close(model(changed), vit(image), rtol=1e-4, atol=1e-4)
    else:  # the mean of the places comes before the norm, because the times go on from it
        seen = vit.blocks(vit.patch_embed(image) + vit.pos_embed).mean(1)
        torch.testing.assert_close(model(still), vit.head(vit.norm(seen)), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- cost


class Layers(nn.Module):
    """Attention over tokens (B, S, N, D): joint, or over space and then over time, as in model 3 of ViViT."""

    def __init__(self, dim, attention):
        super().__init__()
        self.joint = attention == "joint"
        self.layers = nn.ModuleList(Attention(dim, 2) for _ in range(1 if self.joint else 2))

    def forward(self, x):
        if self.joint:
            return self.layers[0](x.flatten(1, 2)).reshape(x.shape)
        x = self.layers[0](x.flatten(0, 1)).reshape(x.shape)
        return self.layers[1](x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).transpose(1, 2)


@pytest.mark.parametrize("attention", ["joint", "factorised"])
@pytest.mark.parametrize(("times", "places", "dim"), [(3, 6, 8), (1, 5, 4), (7, 1, 2), (4, 16, 64)])
def test_the_cost_is_what_torch_counts(times, places, dim, attention):
    counted = multiply_adds(Layers(dim, attention), (times, places, dim))
    assert video_attention_cost(times, places, dim, attention) == counted


def test_the_cost_of_vivit_is_near_to_that_of_its_table():
    """ViViT-B, 16 x 196 tokens: table 2 has 455.2 and 372.3 GFLOPs for models 1 and 3."""
    others = 12 * layer_cost("mlp", 16 * 196, 768)[1] + 16 * 196 * (2 * 16 * 16 * 3) * 768
    for attention, theirs in (("joint", 455.2e9), ("factorised", 372.3e9)):
        ours = 12 * video_attention_cost(16, 196, 768, attention) + others
        assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_the_whole_model_in_closed_form(attention):
    model = VideoViT(**SIZES | {"depth": 2, "attention": attention, "temporal_depth": 3})
    if attention == "joint":
        blocks = 2 * sum(layer_cost(layer, S * N, 8)[1] for layer in ("attention", "mlp"))
    else:
        in_space = 2 * S * sum(layer_cost(layer, N, 8)[1] for layer in ("attention", "mlp"))
        blocks = in_space + 3 * sum(layer_cost(layer, S, 8)[1] for layer in ("attention", "mlp"))
    assert multiply_adds(model, (6, 3, 8, 12)) == S * N * (2 * 4 * 4 * 3) * 8 + blocks + 8 * 5


def test_another_attention_has_no_cost():
    with pytest.raises(ValueError, match='"joint" or "factorised", got \'space\''):
        video_attention_cost(2, 3, 4, "space")


# ---------------------------------------------------------------- training


def made(recipe, some):
    return models.make_model(recipe.model, some.train.images.shape[1:], len(some.classes))


def test_a_recipe_learns_from_clips():
    some = data.clips(40, 8, size=16, frames=4)
    recipe = replace(training.RECIPES["fast-video"], epochs=1, batch_size=16)
    model = made(recipe, some)
    before = {name: value.clone() for name, value in model.named_parameters()}
    (entry,) = training.fit(model, some, recipe)
    assert 0 <= entry["val_accuracy"] <= 1
    assert entry["loss"] < 2
    assert [name for name, value in model.named_parameters() if torch.equal(value, before[name])] == []
