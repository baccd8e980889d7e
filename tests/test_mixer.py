"""The skeleton of lesson 09 and its token mixers, against the course's ViT, timm and formulas."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vit_edu import data, inspect, models, training
from vit_edu.models.mixer import MIXERS, Mixer, token_mixer

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
