"""The skeleton of lesson 09 and its token mixers, against the course's ViT, timm and formulas."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from wanted import library

from vit_edu import data, inspect, models, pretrained, training
from vit_edu.authoring import shipping
from vit_edu.models.mixer import MIXERS, Mixer, MixerBlock, TokenMlp, pooling, token_mixer, token_mixing
from vit_edu.pretrained import loading

timm = library("timm")

GRID = (3, 4)
N = 12
LAPTOP = {"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 2, "mlp_ratio": 2, "global_pool": "avg"}
SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2}


def mixer_of(name, dim=6, prefix=0, **arguments):
    """A token mixer with random weights that are large enough to see."""
    torch.manual_seed(3)
    mixer = token_mixer(name, dim, GRID, prefix, num_heads=2, hidden=5, **arguments)
    for value in mixer.parameters():
        nn.init.normal_(value, std=0.5)
    return mixer


def matrix_of(mixer, tokens=N, dim=6):
    """(D, T, T): what every channel does to the tokens, read off from unit tokens. Column j says where token j goes."""
    zero = mixer(torch.zeros(1, tokens, dim))
    units = torch.eye(tokens)[:, :, None].expand(-1, -1, dim)  # in image j, token j is one in all channels
    return (mixer(units) - zero).permute(2, 1, 0)


def neighbours(i, j, reach=1):
    """Whether two patches of GRID lie at most `reach` rows and columns apart."""
    return abs(i // 4 - j // 4) <= reach and abs(i % 4 - j % 4) <= reach


# ---------------------------------------------------------------- with attention, it is the ViT


@pytest.mark.parametrize("pooling", ["avg", "token"])
@pytest.mark.parametrize("positions", ["learn", "sincos", "none"])
def test_with_attention_it_is_the_vit(pooling, positions):
    arguments = SMALL | {"img_size": (16, 32), "global_pool": pooling, "pos_embed": positions}
    torch.manual_seed(0)
    vit = models.ViT(**arguments)
    torch.manual_seed(0)
    mixer = Mixer(mixer="attention", **arguments)
    assert mixer.state_dict().keys() == vit.state_dict().keys()
    assert all(torch.equal(value, vit.state_dict()[name]) for name, value in mixer.state_dict().items())
    for value in vit.parameters():
        nn.init.normal_(value, std=0.3)
    mixer.load_state_dict(vit.state_dict())
    x = torch.randn(2, 3, 16, 32)
    assert torch.equal(mixer(x), vit(x))
    assert [id(v) for v in mixer.inner_matrices()] == [id(v) for v in training.optim.inner_matrices(mixer)]
    for ask in (training.optim.inner_matrices, training.optim.branch_ends):
        assert all(torch.equal(a, b) for a, b in zip(ask(mixer), ask(vit), strict=True))
    maps = inspect.attention_maps(mixer, x)
    assert torch.equal(maps, inspect.attention_maps(vit, x))


def test_drop_path_falls_on_the_same_blocks_and_images():
    arguments = SMALL | {"depth": 3, "drop_path_rate": 0.5}
    vit, mixer = models.ViT(**arguments), Mixer(mixer="attention", **arguments)
    mixer.load_state_dict(vit.state_dict())
    x, found = torch.randn(8, 3, 32, 32), []
    for model in (vit, mixer):
        torch.manual_seed(0)
        found.append(model.train()(x))
    assert torch.equal(*found)
    assert not torch.equal(found[0], vit.eval()(x))


def test_attention_keeps_its_own_value_and_proj():
    assert (
        Mixer(mixer="attention", value_proj=True, **SMALL).state_dict().keys()
        == models.ViT(**SMALL).state_dict().keys()
    )


# ---------------------------------------------------------------- sizes and shapes


@pytest.mark.parametrize("value_proj", [False, True])
@pytest.mark.parametrize("pooling", ["avg", "token"])
@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_with_and_without_class_token_and_positions(name, pooling, value_proj):
    x = torch.randn(2, 1, 16, 24)
    for positions in ("learn", "none"):
        model = Mixer(
            mixer=name, value_proj=value_proj, img_size=(16, 24), in_chans=1, num_classes=3,
            **SMALL | {"global_pool": pooling, "pos_embed": positions},
        )  # fmt: skip
        logits = model(x)
        assert logits.shape == (2, 3)
        assert inspect.grid_and_prefix(model) == ((2, 3), int(pooling == "token"))
        hears = not torch.equal(logits[0], logits[1])
        assert hears == (name != "none" or pooling == "avg")  # without mixing, a class token sees no patch
        logits.sum().backward()
        without = {n for n, v in model.named_parameters() if v.grad is None}
        assert all("norm1" in n for n in without) and bool(without) == (name == "none" and not value_proj)  # noqa: PT018
    assert Mixer(mixer=name, value_proj=value_proj, **SMALL | {"num_classes": 0})(
        torch.randn(2, 3, 32, 32)
    ).shape == (2, 16)


def test_parameters_in_closed_form():
    """Of the `laptop` model: D = 64, N = 64, four blocks."""
    D, tokens, blocks = 64, 64, 4
    rest = Mixer(mixer="none", **LAPTOP)
    count = {
        "attention": 4 * (D + 1) * D,
        "mlp": (tokens + 1) * 32 + (32 + 1) * tokens,
        "convolution": (9 + 1) * D,
    }
    for name in MIXERS:
        for value_proj in (False, True):
            model = Mixer(mixer=name, value_proj=value_proj, **LAPTOP)
            more = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in rest.parameters())
            linear = 2 * (D + 1) * D if value_proj and name != "attention" else 0
            assert more == blocks * (count.get(name, 0) + linear), name


# ---------------------------------------------------------------- each mixer as a matrix


def test_pooling_is_the_mean_of_the_neighbours_that_exist_minus_the_identity():
    for size in (1, 3, 5):
        matrix = torch.zeros(N, N)
        for i in range(N):
            near = [j for j in range(N) if neighbours(i, j, size // 2)]
            matrix[i, near] = 1 / len(near)
        expected = matrix - torch.eye(N)
        torch.testing.assert_close(
            matrix_of(mixer_of("pooling", kernel_size=size)), expected.expand(6, -1, -1)
        )


def test_a_convolution_shares_its_kernel_between_places_and_not_between_channels():
    mixer = mixer_of("convolution")
    matrices, kernel = matrix_of(mixer), mixer.layer.weight
    for d in range(6):
        for i in range(N):
            for j in range(N):
                down, right = j // 4 - i // 4, j % 4 - i % 4
                expected = kernel[d, 0, down + 1, right + 1].item() if neighbours(i, j) else 0.0
                assert matrices[d, i, j].item() == pytest.approx(expected, abs=1e-6)
    assert not torch.allclose(matrices[0], matrices[1])


def test_the_random_matrix_is_fixed_saved_and_not_trained():
    mixer = mixer_of("random")
    torch.testing.assert_close(matrix_of(mixer), mixer.matrix.expand(6, -1, -1))
    torch.testing.assert_close(mixer.matrix.sum(dim=1), torch.ones(N))
    assert not torch.equal(mixer.matrix[0], mixer.matrix[1])
    assert mixer.state_dict().keys() == {"matrix"}
    assert not list(mixer.parameters())
    model = Mixer(mixer="random", **SMALL)
    assert not torch.equal(model.blocks[0].mix_tokens.matrix, model.blocks[1].mix_tokens.matrix)


def test_fourier_against_the_formula():
    x = torch.randn(2, N, 6)

    def transform(n):
        angle = 2 * math.pi * torch.outer(torch.arange(n), torch.arange(n)) / n
        return torch.complex(angle.cos(), -angle.sin()) / math.sqrt(n)

    both = (transform(N) @ x.to(torch.complex64) @ transform(6)).real
    torch.testing.assert_close(mixer_of("fourier")(x), both, atol=1e-5, rtol=1e-5)
    tokens = mixer_of("fourier", value_proj=True).mix  # linear layers mix the features, so it does not
    torch.testing.assert_close(matrix_of(tokens), transform(N).real.expand(6, -1, -1), atol=1e-5, rtol=1e-5)
    assert mixer_of("fourier")(x.bfloat16()).dtype == torch.bfloat16


def test_no_mixing_is_a_matrix_of_zeros_or_the_two_linear_layers():
    assert matrix_of(mixer_of("none")).abs().max() == 0
    between = mixer_of("none", value_proj=True)
    x = torch.randn(2, N, 6)
    torch.testing.assert_close(between(x), between.proj(between.value(x)))


def test_an_mlp_treats_all_channels_alike_and_is_not_linear():
    mixer, x = mixer_of("mlp"), torch.randn(2, N, 6)
    alone = torch.stack(  # channel by channel, as a plain MLP of N numbers
        [mixer.fc2(F.gelu(mixer.fc1(x[:, :, d]))) for d in range(6)], dim=2
    )
    torch.testing.assert_close(mixer(x), alone)
    zero = mixer(torch.zeros(1, N, 6))
    assert not torch.allclose(mixer(2 * x) - zero, 2 * (mixer(x) - zero), atol=1e-2)


def test_token_mixing_is_the_one_of_timms_block():
    block = timm.models.mlp_mixer.MixerBlock(6, N, mlp_ratio=(0.5, 2))
    for value in block.parameters():
        nn.init.normal_(value, std=0.5)
    x, mlp = torch.randn(2, N, 6), block.mlp_tokens
    expected = mlp(x.transpose(1, 2)).transpose(1, 2)
    weights = mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias
    torch.testing.assert_close(token_mixing(x, *weights), expected)
    ours = MixerBlock(6, TokenMlp(N, 3), 12, names=("mlp_tokens", "mlp_channels"))
    ours.load_state_dict(block.state_dict())
    torch.testing.assert_close(ours(x), block(x))


def test_a_token_mlp_computes_what_it_did_bit_for_bit():
    mixer, x = mixer_of("mlp"), torch.randn(2, N, 6)
    assert torch.equal(mixer(x), mixer.fc2(F.gelu(mixer.fc1(x.transpose(1, 2)))).transpose(1, 2))
    mixer.act = nn.GELU("tanh")  # as for the files of its authors
    expected = mixer.fc2(F.gelu(mixer.fc1(x.transpose(1, 2)), approximate="tanh")).transpose(1, 2)
    assert torch.equal(mixer(x), expected)


def test_the_weights_of_token_mixing_are_bound_to_places():
    mixer = mixer_of("mlp")
    for shape in ((2, N + 1, 6), (2, 6, N), (N, 6)):
        with pytest.raises(ValueError, match=r"bound to 12 tokens, \(B, 12, D\), got \("):
            mixer(torch.randn(shape))


@pytest.mark.parametrize("size", [1, 3, 5, 9])
@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (1, 5), (2, 1)])
def test_pooling_by_sums_over_slices(grid, size):
    x = torch.randn(2, grid[0] * grid[1], 6)
    maps, reach = x.unflatten(1, grid), size // 2
    expected = torch.stack(
        [
            maps[:, max(0, r - reach) : r + reach + 1, max(0, c - reach) : c + reach + 1].mean((1, 2)) - maps[:, r, c]
            for r in range(grid[0])
            for c in range(grid[1])
        ],
        dim=1,
    )  # fmt: skip
    torch.testing.assert_close(pooling(x, grid, size), expected)
    layer = nn.AvgPool2d(size, stride=1, padding=reach, count_include_pad=False)
    pooled = layer(x.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2) - x
    assert torch.equal(token_mixer("pooling", 6, grid, kernel_size=size)(x), pooled)


def test_pooling_refuses_what_has_no_middle_and_what_is_no_grid():
    with pytest.raises(ValueError, match="size is odd, with the token itself in the middle, got 2"):
        pooling(torch.ones(1, N, 6), GRID, 2)
    for shape in ((1, N + 1, 6), (N, 6)):  # a class token, no batch
        with pytest.raises(ValueError, match=r"3 x 4 patches has 12 tokens, \(B, 12, D\), got \(1"):
            pooling(torch.ones(shape), GRID, 3)


@pytest.mark.parametrize("name", [name for name in MIXERS if name != "attention"])
def test_value_and_proj_stand_around_the_mixer(name):
    between, x = mixer_of(name, value_proj=True), torch.randn(2, N, 6)
    torch.testing.assert_close(between(x), between.proj(between.mix(between.value(x))))
    assert {"value.weight", "value.bias", "proj.weight", "proj.bias"} <= between.state_dict().keys()
    alone = mixer_of(name)
    assert {k.removeprefix("mix.") for k in between.state_dict() if k.startswith("mix.")} == alone.state_dict().keys()  # fmt: skip


# ---------------------------------------------------------------- who knows the order of the tokens


@pytest.mark.parametrize("value_proj", [False, True])
@pytest.mark.parametrize("name", MIXERS)
def test_only_attention_and_nothing_commute_with_a_permutation(name, value_proj):
    mixer, x = mixer_of(name, value_proj=value_proj), torch.randn(2, N, 6)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    difference = (mixer(x)[:, order] - mixer(x[:, order])).abs().max().item()
    if name in ("attention", "none"):
        assert difference < 1e-5
    else:
        assert difference > 1e-2


@pytest.mark.parametrize("name", MIXERS)
def test_without_positions_the_same_mixers_do_not_mind_shuffled_patches(name):
    torch.manual_seed(0)
    model = Mixer(mixer=name, **SMALL | {"global_pool": "avg", "pos_embed": "none"}).eval()
    for value in model.parameters():
        nn.init.normal_(value, std=0.5)
    x = torch.randn(4, 3, 32, 32)
    shuffled = inspect.shuffle_patches(x, 8, torch.randperm(16, generator=torch.Generator().manual_seed(1)))
    difference = (model(x) - model(shuffled)).abs().max().item()
    assert difference < 1e-4 if name in ("attention", "none") else difference > 1e-3


def test_the_class_token_on_a_grid_gets_the_mean_of_what_the_patches_get():
    x = torch.randn(2, N + 1, 6)
    convolution = mixer_of("convolution", prefix=1)
    alone = mixer_of("convolution")
    alone.load_state_dict(convolution.state_dict())
    torch.testing.assert_close(convolution(x)[:, 1:], alone(x[:, 1:]))
    torch.testing.assert_close(convolution(x)[:, 0], alone(x[:, 1:]).mean(dim=1))
    pooled = mixer_of("pooling")(x[:, 1:])
    found = mixer_of("pooling", prefix=1)(x)
    torch.testing.assert_close(found[:, 1:], pooled)
    torch.testing.assert_close(found[:, 0], (pooled + x[:, 1:]).mean(dim=1) - x[:, 0])


# ---------------------------------------------------------------- training


ENDS = {"attention": "attn.proj", "mlp": "mlp_tokens.fc2", "convolution": "mix_tokens.layer"}


@pytest.mark.parametrize("value_proj", [False, True])
@pytest.mark.parametrize("name", MIXERS)
def test_where_branches_end(name, value_proj):
    model = Mixer(mixer=name, value_proj=value_proj, **SMALL)
    first, second = model.blocks[0].names
    end = ENDS.get(name)
    if value_proj and name != "attention":
        end = f"{first}.proj"
    expected = [f"blocks.{i}.{e}.weight" for i in range(2) for e in (end, f"{second}.fc2") if e]
    named = {id(value): key for key, value in model.named_parameters()}
    assert [named[id(value)] for value in model.branch_ends()] == expected


@pytest.mark.parametrize("name", MIXERS)
def test_blocks_begin_as_the_identity_where_a_mixer_has_weights(name):
    recipe = dataclasses.replace(
        training.RECIPES["laptop"],
        tokens=(),
        model=LAPTOP | {"kind": "mixer", "mixer": name, "value_proj": True},
    )
    model = training.build_model(recipe, data.shapes(train=20, test=10)).eval()
    x = torch.randn(2, 64, 64)
    torch.testing.assert_close(model.blocks(x), x)


@pytest.mark.parametrize("name", MIXERS)
def test_a_token_schedule_only_for_mixers_that_know_neither_number_nor_order(name):
    images = data.shapes(train=20, test=10)
    recipe = dataclasses.replace(
        training.RECIPES["fast"],
        epochs=1,
        tokens=((0.5, 0.5),),
        model=SMALL | {"kind": "mixer", "mixer": name},
    )
    model = training.build_model(recipe, images)
    if name in ("attention", "none"):
        training.fit(model, images, recipe)
    else:
        with pytest.raises(ValueError, match="the blocks of a Mixer need every token at its place"):
            training.fit(model, images, recipe)


@pytest.mark.parametrize("name", MIXERS)
def test_they_train_save_and_load(name, tmp_path):
    arguments = SMALL | {"kind": "mixer", "mixer": name, "value_proj": name == "random", "global_pool": "avg"}
    recipe = dataclasses.replace(
        training.RECIPES["fast"],
        epochs=1,
        batch_size=16,
        max_images=64,
        optimizer="muon",
        zero_init=True,
        model=arguments,
    )
    images = data.shapes(train=80, test=10)
    model = training.build_model(recipe, images)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    training.fit(model, images, recipe, out=tmp_path)
    still = {k for k, v in model.state_dict().items() if torch.equal(v, before[k])}
    expected = {"random": "mix_tokens.mix.matrix", "none": "norm1"}.get(name)
    assert still == {k for k in before if expected is not None and expected in k}
    loaded, state = training.load_run(tmp_path)
    assert type(loaded) is Mixer
    assert state["recipe"]["model"]["mixer"] == name
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), model.eval()(x), atol=0, rtol=0)


def test_a_compiled_step_takes_a_mixer():
    """Also one whose patches have two names."""
    model = Mixer(mixer="mlp", **SMALL | {"depth": 1})
    step = training.CompiledStep(model, torch.optim.SGD(model.parameters(), lr=0.1), backend="eager")
    losses = [float(step(torch.ones(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))) for _ in range(2)]
    assert step.loss_of != step._loss  # it did not fall back
    assert losses[1] < losses[0]


# ---------------------------------------------------------------- refusals


def test_unknown_mixers_and_kernels_without_a_middle():
    with pytest.raises(
        ValueError, match="no token mixer 'mpl'; there are attention, mlp, pooling, fourier, conv"
    ):
        Mixer(mixer="mpl")
    with pytest.raises(ValueError, match="no token mixer 'Attention'"):
        models.make_model({"kind": "mixer", "mixer": "Attention"}, (3, 32, 32), 10)
    with pytest.raises(ValueError, match=r"kernel_size is odd, .*, got 4"):
        Mixer(mixer="convolution", kernel_size=4)


@pytest.mark.parametrize("name", ["mpl", None, ["mlp"], "MLP"])
def test_an_unknown_mixer_is_refused_even_without_blocks(name):
    with pytest.raises(ValueError, match=r"there is no token mixer .*; there are attention, mlp"):
        Mixer(mixer=name, depth=0)


@pytest.mark.parametrize("size", [0, -1, 2])
def test_a_kernel_has_a_size(size):
    with pytest.raises(ValueError, match=f"is odd, with the token itself in the middle, got {size}"):
        token_mixer("pooling", 6, GRID, kernel_size=size)
    with pytest.raises(ValueError, match=f"is odd, with the token itself in the middle, got {size}"):
        pooling(torch.ones(1, N, 6), GRID, size)


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mlp", "bound to {T} tokens"),
        ("random", "among {T} tokens, and nothing about any other. It got {other}"),
        ("convolution", "3 x 4 patches, {T} tokens, got {other}: build one with the new grid"),
        ("pooling", "3 x 4 patches"),
    ],
)
def test_another_number_of_tokens_is_refused(name, says, prefix):
    mixer, T = mixer_of(name, prefix=prefix), N + prefix
    with pytest.raises(ValueError, match=says.format(T=T, other=T + 3)):
        mixer(torch.randn(2, T + 3, 6))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mlp", "bound to places: there is one column for each of 17 tokens"),
        ("random", "who hears whom among 17 tokens"),
        ("fourier", "frequencies of 17 tokens"),
        ("pooling", "takes any grid"),
        ("convolution", "takes any grid"),
        ("attention", "takes any grid"),
    ],
)
def test_another_image_size_is_refused_with_the_reason(name, why):
    model = Mixer(mixer=name, **SMALL)
    with pytest.raises(ValueError, match=rf"built for images of 32 x 32 pixels, got 40 x 32: .*{why}"):
        model(torch.randn(2, 3, 40, 32))
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\), got \(2, 1, 32, 32\)"):
        model(torch.randn(2, 1, 32, 32))
    # Whether the weights fit a model of another size is as the sentence says
    weights = {k: v for k, v in model.state_dict().items() if k != "pos_embed"}
    other = Mixer(mixer=name, **SMALL | {"img_size": 40})
    if name in ("mlp", "random"):
        with pytest.raises(RuntimeError, match="size mismatch"):
            other.load_state_dict(weights, strict=False)
    else:
        assert other.load_state_dict(weights, strict=False).missing_keys == ["pos_embed"]


# ---------------------------------------------------------------- published weights


def published(name, **arguments):
    """A Mixer of timm in its full width, two blocks deep, with random weights that all show."""
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    model.blocks = model.blocks[:2]
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for key, value in model.named_parameters():
        if value.ndim > 1:
            nn.init.normal_(value, std=value[0].numel() ** -0.5)
        else:
            nn.init.normal_(value, mean=float("norm" in key and key.endswith("weight")), std=0.3)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("size", ["s32", "s16", "b32", "b16", "l32", "l16"])
def test_same_function_as_timm_and_the_same_names(size):
    theirs = published(f"mixer_{size}_224")
    ours = pretrained.from_model(theirs, copy=False)
    assert type(ours) is Mixer
    assert ours.pretrained_cfg["family"] == "timm-mixer"
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    result = pretrained.parity(ours, theirs, torch.randn(1, 3, 224, 224))
    assert len(result.steps) == 6
    assert result.largest < 1e-5, str(result)


def test_every_size_is_among_them():
    here = set(timm.list_models("mixer_*"))
    assert here == {f"mixer_{size}_224" for size in ("s32", "s16", "b32", "b16", "l32", "l16")}


def test_weights_pass_in_both_directions_without_a_table():
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "num_classes": 5}
    theirs = timm.models.MlpMixer(num_blocks=2, mlp_ratio=(0.75, 2), **arguments)
    ours = Mixer(depth=2, token_mlp_ratio=0.75, mlp_ratio=2, global_pool="avg", pos_embed="none", **arguments)
    x = torch.randn(3, 3, 32, 32)
    nn.init.normal_(ours.head.weight)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    for value in theirs.parameters():
        nn.init.normal_(value, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    again = pretrained.from_model(ours)  # ours is as good as theirs
    assert torch.equal(again(x), ours.eval()(x))


def test_a_file_of_timm_with_its_settings(tmp_path):
    theirs = published("mixer_s32_224", num_classes=7)
    theirs.pretrained_cfg["mean"] = (0.1, 0.2, 0.3)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    about = {"input_size": [3, 224, 224], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    about |= {"crop_pct": 0.875, "interpolation": "bicubic", "fixed_input_size": True}
    config = {
        "architecture": "mixer_s32_224",
        "num_classes": 7,
        "global_pool": "avg",
        "pretrained_cfg": about,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = pretrained.load(tmp_path)
    x = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    assert ours.pretrained_cfg["mean"].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert not any("taken" in note for note in ours.pretrained_cfg["notes"])  # nothing was guessed
    assert pretrained.load(tmp_path, num_classes=3)(x).abs().max() == 0  # a new head
    with pytest.raises(
        pretrained.WeightsError, match=r"for images of 224 x 224 pixels, and 256 x 256 .* each of 49 tokens"
    ):
        pretrained.load(tmp_path, img_size=256)


def test_the_settings_without_timm(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert loading.timm_settings({"architecture": "mixer_b16_224"}) == {"family": "timm-mixer"}
    for config in ({"architecture": "gmixer_24_224"}, {"architecture": "mixer_b16_224", "global_pool": ""}):
        with pytest.raises(pretrained.WeightsError, match="only timm knows"):
            loading.timm_settings(config)


def to_jax(model):
    """The arrays of the authors' .npz for a Mixer of timm."""
    found = {"stem/kernel": model.stem.proj.weight.permute(2, 3, 1, 0), "stem/bias": model.stem.proj.bias}
    layers = {"head": model.head}
    norms = {"pre_head_layer_norm": model.norm}
    for i, block in enumerate(model.blocks):
        for kind, mlp in (("token_mixing", block.mlp_tokens), ("channel_mixing", block.mlp_channels)):
            layers |= {f"MixerBlock_{i}/{kind}/Dense_{j}": getattr(mlp, f"fc{j + 1}") for j in (0, 1)}
        norms |= {f"MixerBlock_{i}/LayerNorm_0": block.norm1, f"MixerBlock_{i}/LayerNorm_1": block.norm2}
    for name, layer in layers.items():
        found |= {f"{name}/kernel": layer.weight.T, f"{name}/bias": layer.bias}
    for name, norm in norms.items():
        found |= {f"{name}/scale": norm.weight, f"{name}/bias": norm.bias}
    return {name: value.numpy() for name, value in found.items()}


def test_the_files_of_its_authors(tmp_path):
    theirs = published("mixer_s16_224", num_classes=7)
    np.savez(tmp_path / "Mixer-S_16.npz", **to_jax(theirs))
    ours = pretrained.load(tmp_path / "Mixer-S_16.npz")
    assert ours.pretrained_cfg["family"] == "jax-mixer"
    assert ours.pretrained_cfg["mean"].flatten().tolist() == [0.5, 0.5, 0.5]
    for block in theirs.blocks:  # flax.linen.gelu is the approximate one
        block.mlp_tokens.act = block.mlp_channels.act = nn.GELU("tanh")
    result = pretrained.parity(ours, theirs, torch.randn(1, 3, 224, 224))
    assert result.largest < 1e-5, str(result)
    notes = "\n".join(ours.pretrained_cfg["notes"])
    assert "places that the token MLPs know form a square of 14 x 14 patches" in notes
    assert "heads" not in notes


TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "num_blocks": 1, "num_classes": 5}


def altered(alter, **arguments):
    theirs = timm.models.MlpMixer(**TINY | arguments)
    alter(theirs)
    return theirs


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (lambda: timm.create_model("resmlp_12_224"), "blocks are ResBlock, a different architecture"),
        (lambda: timm.create_model("gmlp_ti16_224"), "2 different epsilons"),
        (lambda: timm.create_model("convmixer_768_32"), "blocks are Sequential, a different architecture"),
        (lambda: timm.create_model("gmixer_12_224"), "MLPs are GluMlp, and those of our Mixer are two"),
        (lambda: altered(lambda m: None, act_layer=nn.ReLU), "activation is ReLU"),
        (lambda: altered(lambda m: setattr(m.blocks[0].mlp_tokens, "act", nn.GELU("tanh"))), "different kinds of GELU"),
        (lambda: altered(lambda m: setattr(m, "global_pool", "")), "pooling is ''"),
        (lambda: altered(lambda m: None, stem_norm=True), "no place for theirs: stem.norm.weight"),
        (lambda: altered(lambda m: setattr(m.blocks[0], "norm1", nn.RMSNorm(16))), "blocks have RMSNorm"),
        (lambda: altered(lambda m: setattr(m.blocks[0].norm1, "eps", 1e-5)), "2 different epsilons"),
        (lambda: Mixer(mixer="mlp", global_pool="avg"), "no place for theirs: pos_embed"),
        (lambda: Mixer(mixer="mlp"), "global_pool='token' of timm-mixer is another function"),
        (lambda: Mixer(mixer="pooling"), "blocks are MixerBlock, a different architecture"),
    ],
)  # fmt: skip
def test_kin_that_computes_something_else_is_refused(theirs, reason):
    with torch.device("meta"), pytest.raises(pretrained.WeightsError, match=reason):
        pretrained.from_model(theirs())


def test_images_of_another_shape():
    theirs = timm.models.MlpMixer(**TINY | {"img_size": (16, 64)})
    nn.init.normal_(theirs.head.weight)
    state, x = theirs.state_dict(), torch.randn(2, 3, 16, 64)
    torch.testing.assert_close(pretrained.from_model(theirs)(x), theirs(x), atol=1e-5, rtol=1e-5)
    converted = pretrained.convert(state, img_size=(16, 64))
    torch.testing.assert_close(converted.model()(x), theirs(x), atol=1e-5, rtol=1e-5)
    guessed = pretrained.convert(state)
    assert guessed.arguments["img_size"] == (32, 32)
    assert "32 x 32 pixels were taken" in str(guessed)
    with pytest.raises(
        pretrained.WeightsError, match=r"each of 16 tokens.* say so with convert\(..., img_size="
    ):
        guessed.model(img_size=(16, 64))
    for size, says in (((16, 32), "16 patches of 8 x 8 pixels, .* grid of 16 x 32"), (20, "multiples of 8")):
        with pytest.raises(pretrained.WeightsError, match=says):
            pretrained.convert(state, img_size=size)
    narrow = timm.models.MlpMixer(**TINY | {"img_size": (16, 32)}).state_dict()
    with pytest.raises(
        pretrained.WeightsError, match=r"8 patches .* do not form a square grid. Give img_size="
    ):
        pretrained.convert(narrow)


def test_what_a_mixer_does_not_have_is_not_asked_for():
    state = timm.models.MlpMixer(**TINY).state_dict()
    for more in ({"num_heads": 2}, {"resizing": pretrained.Resizing()}):
        with pytest.raises(pretrained.WeightsError, match="neither heads nor positions"):
            pretrained.convert(state, **more)
    with pytest.raises(pretrained.WeightsError, match=r"missing: stem.proj.weight"):
        pretrained.convert({k: v for k, v in state.items() if k != "stem.proj.weight"})
    with pytest.raises(pretrained.WeightsError, match=r"missing: blocks.0.mlp_tokens.fc2.bias"):
        pretrained.convert({k: v for k, v in state.items() if k != "blocks.0.mlp_tokens.fc2.bias"})
    with pytest.raises(pretrained.WeightsError, match=r"expected shape \(hidden, N\), got \(8,\)"):
        pretrained.convert(state | {"blocks.0.mlp_tokens.fc1.weight": torch.zeros(8)})


@pytest.mark.parametrize(("name", "why"), [("mlp", "bound to places"), ("random", "who hears whom")])
def test_a_run_ships_and_says_why_its_size_is_fixed(name, why, tmp_path):
    arguments = SMALL | {"kind": "mixer", "mixer": name}
    recipe = dataclasses.replace(training.RECIPES["fast"], epochs=1, max_images=64, model=arguments)
    images = data.shapes(train=80, test=10)
    training.fit(training.build_model(recipe, images), images, recipe, out=tmp_path)
    shipping.ship(tmp_path, "ours", images, folder=tmp_path)
    x, run = torch.randn(2, 3, 32, 32), pretrained.load(tmp_path)
    for path in (tmp_path, tmp_path / "ours.safetensors"):
        loaded = pretrained.load(path)
        assert type(loaded) is Mixer
        torch.testing.assert_close(loaded(x), run(x), atol=1e-2, rtol=1e-2)  # the file is in float16
        with pytest.raises(pretrained.WeightsError, match=rf"loaded unchanged.* {why}"):
            pretrained.load(path, img_size=64)
