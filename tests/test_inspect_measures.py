"""Distances, rollout, filters, positions and similarities against slow and independent computations."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_inspect import IMAGES, MODELS, SMALL, shaken

from vit_edu import inspect
from vit_edu.models import CNN, ViT
from vit_edu.models.vit import Embeddings


def random_weights(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(dim=-1)


# ---------------------------------------------------------------- distance


def distance_by_loops(weights, grid, patch_size, prefix):
    """(h,): every image, head, query and key, one after the other."""
    (rows, cols), (height, width) = grid, patch_size
    centres = [((r + 0.5) * height, (c + 0.5) * width) for r in range(rows) for c in range(cols)]
    found = np.zeros(weights.shape[1])
    for image in weights:
        for head, rows_of_head in enumerate(image):
            for i, (y, x) in enumerate(centres):
                row = rows_of_head[prefix + i, prefix:]
                row = row / row.sum()
                for weight, (v, u) in zip(row, centres, strict=True):
                    found[head] += weight * np.sqrt((y - v) ** 2 + (x - u) ** 2)
    return found / (len(weights) * len(centres))


@pytest.mark.parametrize(("grid", "prefix"), [((3, 3), 0), ((2, 5), 1), ((4, 2), 3)])
@pytest.mark.parametrize("patch", [4, (2, 7)])
def test_distance_is_that_of_a_loop(grid, prefix, patch):
    T = prefix + grid[0] * grid[1]
    weights = random_weights(2, 3, T, T)
    sides = (patch, patch) if isinstance(patch, int) else patch
    wanted = distance_by_loops(weights.double().numpy(), grid, sides, prefix)
    found = inspect.attention_distance(weights, grid, patch, prefix)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5)


def test_anchors_of_the_distance():
    itself = torch.eye(13).expand(2, 1, 13, 13)
    assert inspect.attention_distance(itself, (3, 4), 4, prefix=1).tolist() == [0.0]
    even = torch.full((1, 2, 13, 13), 1 / 13)
    found = inspect.attention_distance(even, (3, 4), (4, 6), prefix=1)
    torch.testing.assert_close(found, torch.full((2,), inspect.uniform_distance((3, 4), (4, 6))))
    neighbour = torch.eye(6).roll(1, dims=1)[None, None]  # in a ring of 1 x 6: five at 2 pixels, one at 10
    assert inspect.attention_distance(neighbour, (1, 6), 2).item() == pytest.approx(20 / 6)


@pytest.mark.parametrize("grid", [(1, 1), (8, 8), (3, 5), (1, 7)])
@pytest.mark.parametrize("patch", [4, (2, 5)])
def test_uniform_distance_is_the_mean_over_all_pairs(grid, patch):
    height, width = (patch, patch) if isinstance(patch, int) else patch
    places = [(r * height, c * width) for r in range(grid[0]) for c in range(grid[1])]
    pairs = [math.dist(a, b) for a in places for b in places]
    assert inspect.uniform_distance(grid, patch) == pytest.approx(sum(pairs) / len(pairs))


def test_the_reference_line_of_the_lesson():
    assert inspect.uniform_distance((8, 8), 4) == pytest.approx(16.5459, abs=1e-4)
    assert inspect.uniform_distance((4, 4), 8) == pytest.approx(16.06, abs=5e-3)


@pytest.mark.parametrize("name", MODELS)
def test_the_distance_in_a_model(name):
    make, prefix = MODELS[name]
    model = shaken(make())
    maps, (grid, found_prefix) = inspect.attention_maps(model, IMAGES), inspect.grid_and_prefix(model)
    wanted = distance_by_loops(maps[1].double().numpy(), (4, 4), (4, 4), prefix)
    found = inspect.attention_distance(maps[1], grid, 4, found_prefix)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4)


EVEN = torch.full((1, 1, 5, 5), 0.2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((EVEN[0], (2, 2), 4, 1), r"weights of one block, \(B, h, T, T\).*float32 of shape \(1, 5, 5\)"),
        ((EVEN[None], (2, 2), 4, 1), r"attention_maps\(model, images\)\[0\], got .* \(1, 1, 1, 5, 5\)"),
        ((EVEN[..., :4], (2, 2), 4, 1), r"of shape \(1, 1, 5, 4\)"),
        ((EVEN[:0], (2, 2), 4, 1), r"of shape \(0, 1, 5, 5\)"),
        ((EVEN.numpy(), (2, 2), 4, 1), "value of type ndarray"),
        ((EVEN.long(), (2, 2), 4, 1), "int64"),
        ((2 * EVEN, (2, 2), 4, 1), "each row of attention weights sums to 1, but these sum to 2 to 2"),
        ((EVEN[:, :, 1:, 1:], (2, 2), 4, 0), "sum to 0.8 to 0.8. Pass them with all tokens"),
        ((EVEN - torch.eye(5), (2, 2), 4, 1), "never negative, got -0.8. Are these scores"),
        ((EVEN * torch.nan, (2, 2), 4, 1), "some attention weights are nan"),
        (
            (EVEN, (2, 2), 4, 0),
            "a grid of 2 x 2 patches and 0 prefix tokens would be 4 tokens, but there are 5",
        ),
        ((EVEN, (3, 2), 4, -1), "a grid of 3 x 2 patches"),
        ((EVEN, 4, 4, 1), r"a grid is two whole numbers, \(rows, cols\).* got 4"),
        ((EVEN, (2, 2, 1), 4, 1), "a grid is two whole numbers"),
        ((EVEN, (0, 4), 4, 5), "a grid is two whole numbers"),
        ((EVEN, (2, 2), 0, 1), r"a patch size is a whole number of pixels.* got \(0, 0\)"),
        ((EVEN, (2, 2), 4.0, 1), "a patch size is a whole number"),
        ((EVEN, (2, 2), (4, 4, 4), 1), "a patch size is a whole number"),
        ((torch.eye(5)[[0] * 5][None, None], (2, 2), 4, 1), "no attention to any patch"),
    ],
)
def test_what_has_no_distance_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        inspect.attention_distance(*arguments)


@pytest.mark.parametrize(
    ("grid", "patch", "says"),
    [(4, 4, "a grid is"), ((2.5, 2), 4, "a grid is"), ((2, 2), -1, "a patch size is")],
)
def test_an_even_distance_of_no_grid(grid, patch, says):
    with pytest.raises(ValueError, match=says):
        inspect.uniform_distance(grid, patch)


# ---------------------------------------------------------------- rollout


def rollout_by_loops(weights, identity):
    found = []
    for image in range(weights.shape[1]):
        T = weights.shape[-1]
        product = np.eye(T)
        for block in weights[:, image]:
            mixed = np.zeros((T, T))
            for head in block:
                mixed += head / len(block)
            mixed = (1 - identity) * mixed + identity * np.eye(T)
            product = np.array([[sum(mixed[i] * product[:, j]) for j in range(T)] for i in range(T)])
        found.append(product)
    return np.stack(found)


def test_rollout_is_that_of_a_loop():
    weights = random_weights(3, 2, 4, 7, 7).double()
    found = inspect.rollout(weights)
    np.testing.assert_allclose(found.numpy(), rollout_by_loops(weights.numpy(), 0.5), atol=1e-12)
    for share in (0.0, 0.3, 1.0):
        by_loops = rollout_by_loops(weights.numpy(), share)
        np.testing.assert_allclose(inspect.rollout(weights, share).numpy(), by_loops, atol=1e-12)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 7, dtype=torch.float64))
    assert (found - inspect.rollout(weights.flip(0))).abs().max() > 0.01  # the order of the blocks matters


def test_rollout_of_one_block_and_of_none_that_mixes():
    weights = random_weights(1, 2, 3, 5, 5)
    torch.testing.assert_close(inspect.rollout(weights), 0.5 * weights[0].mean(dim=1) + 0.5 * torch.eye(5))
    nothing = torch.eye(5).expand(4, 2, 3, 5, 5)
    assert torch.equal(inspect.rollout(nothing), torch.eye(5).expand(2, 5, 5))


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (EVEN, r"weights of all blocks, \(L, B, h, T, T\).* got torch.float32 of shape \(1, 1, 5, 5\)"),
        ([EVEN], "value of type list"),
        (EVEN[None][:0], r"of shape \(0, 1, 1, 5, 5\)"),
        (EVEN[None] / 2, "sum to 0.5 to 0.5"),
        (EVEN[None] - 1, "never negative"),
    ],
)
def test_what_cannot_be_multiplied_is_refused(weights, says):
    with pytest.raises(ValueError, match=says):
        inspect.rollout(weights)


# ---------------------------------------------------------------- filters and positions


@pytest.mark.parametrize("shape", [(24, 3, 4, 4), (64, 1, 4, 3), (5, 3, 8, 8)])
def test_filters_are_the_right_singular_vectors(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.3
    count = min(5, shape[0])
    found = inspect.filters(weight, count)
    assert found.shape == (count, *shape[1:])
    matrix = weight.double().numpy().reshape(shape[0], -1)
    _, vectors = np.linalg.eigh(matrix.T @ matrix)  # independent of any SVD; smallest first
    wanted = vectors[:, ::-1][:, :count].T
    agreement = np.abs((found.double().numpy().reshape(count, -1) * wanted).sum(axis=1))
    np.testing.assert_allclose(agreement, 1, atol=1e-4)
    flat = found.flatten(1)
    torch.testing.assert_close(flat.norm(dim=1), torch.ones(count))
    assert (flat.gather(1, flat.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_filters_do_not_depend_on_what_the_layers_behind_can_undo():
    weight = torch.randn(24, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.3
    wanted = inspect.filters(weight, 5)
    signs = torch.ones(24, 1, 1, 1)
    signs[::3] = -1
    torch.testing.assert_close(inspect.filters(signs * weight, 5), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(inspect.filters(weight.flip(0), 5), wanted, atol=1e-4, rtol=1e-4)


def test_filters_of_a_trained_parameter_and_of_halves():
    weight = ViT(embed_dim=64).patch_embed.proj.weight
    found = inspect.filters(weight)
    assert found.shape == (28, 3, 4, 4)
    assert not found.requires_grad
    assert inspect.filters(weight.detach().half(), 3).dtype == torch.float32


@pytest.mark.parametrize(
    ("weight", "count", "says"),
    [
        (torch.ones(24, 48), 3, r"\(D, C, P, P\), got torch.float32 of shape \(24, 48\)"),
        (torch.ones(24, 3, 4, 4).long(), 3, "int64"),
        (
            torch.ones(24, 3, 4, 4),
            25,
            "24 filters of 48 numbers have 24 components, so count is 1 to 24, got 25",
        ),
        (torch.ones(64, 3, 4, 4), 0, "count is 1 to 48, got 0"),
        (torch.ones(64, 3, 4, 4), 2.5, "count must be a whole number, got 2.5"),
    ],
)
def test_filters_that_there_are_not(weight, count, says):
    with pytest.raises(ValueError, match=says):
        inspect.filters(weight, count)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_similarity_of_positions_on_a_grid_that_is_no_square(prefix):
    pos_embed = torch.randn(1, prefix + 6, 8, generator=torch.Generator().manual_seed(0))
    found = inspect.position_similarity(pos_embed, (2, 3), prefix)
    assert found.shape == (2, 3, 2, 3)
    for r in range(2):
        for c in range(3):
            here = pos_embed[0, prefix + 3 * r + c]
            wanted = F.cosine_similarity(here[None], pos_embed[0, prefix:], dim=-1)
            torch.testing.assert_close(found[r, c].flatten(), wanted)


def test_fixed_positions_and_positions_of_zeros():
    fixed = Embeddings(img_size=16, patch_size=4, embed_dim=24, pos_embed="sincos").pos_embed
    found = inspect.position_similarity(fixed, (4, 4), prefix=1)
    torch.testing.assert_close(found[1, 2, 1, 2], torch.tensor(1.0))
    assert not inspect.position_similarity(torch.zeros(1, 4, 8), (2, 2)).any()


@pytest.mark.parametrize(
    ("pos_embed", "grid", "prefix", "says"),
    [
        (None, (2, 2), 0, r"positions, \(1, T, D\), got a value of type NoneType"),
        (torch.ones(4, 8), (2, 2), 0, r"got torch.float32 of shape \(4, 8\)"),
        (torch.ones(2, 4, 8), (2, 2), 0, r"of shape \(2, 4, 8\)"),
        (torch.ones(1, 5, 8), (2, 2), 0, "would be 4 tokens, but there are 5"),
        (torch.ones(1, 4, 8), 2, 0, "a grid is two whole numbers"),
    ],
)
def test_positions_that_do_not_fill_the_grid(pos_embed, grid, prefix, says):
    with pytest.raises(ValueError, match=says):
        inspect.position_similarity(pos_embed, grid, prefix)


# ---------------------------------------------------------------- depth


@pytest.mark.parametrize("name", MODELS)
def test_tokens_on_their_way(name):
    make, prefix = MODELS[name]
    model = shaken(make()).train()
    tokens = inspect.hidden_tokens(model, IMAGES)
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert tokens.shape == (4, 2, prefix + 16, 24)
    assert not tokens.requires_grad
    model.eval()
    for block, before, after in zip(model.blocks, tokens[:-1], tokens[1:], strict=True):
        torch.testing.assert_close(block(before), after)
    if name in ("class token", "hybrid", "registers", "overlapping patches"):
        torch.testing.assert_close(model.head(model.norm(tokens[-1])[:, 0]), model(IMAGES))


@pytest.mark.parametrize(
    ("model", "images", "says"),
    [
        (torch.nn.Linear(2, 2), IMAGES, "Linear has no list of blocks"),
        (ViT(**SMALL | {"depth": 0}), IMAGES, "ViT has no list of blocks"),
        (CNN(), IMAGES, r"the blocks of CNN do not pass on tokens of one shape"),
        (ViT(**SMALL), IMAGES[:0], "no images"),
        (ViT(**SMALL), IMAGES.byte(), "floats"),
    ],
)
def test_a_model_without_tokens(model, images, says):
    with pytest.raises(ValueError, match=says):
        inspect.hidden_tokens(model, images)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("prefix", [0, 2])
def test_similarity_of_tokens_is_the_mean_over_all_pairs(prefix):
    tokens = torch.randn(3, 2, prefix + 5, 7, generator=torch.Generator().manual_seed(0)) + 0.5
    wanted = [
        np.mean(
            [
                F.cosine_similarity(image[i], image[j], dim=0).item()
                for image in layer[:, prefix:]
                for i in range(5)
                for j in range(5)
                if i != j
            ]
        )
        for layer in tokens
    ]
    np.testing.assert_allclose(inspect.token_similarity(tokens, prefix).numpy(), wanted, atol=1e-6)


def test_one_patch_resembles_nothing():
    with pytest.raises(
        ValueError, match=r"at least two patches behind 1 prefix tokens, got .*\(2, 3, 2, 4\)"
    ):
        inspect.token_similarity(torch.ones(2, 3, 2, 4), prefix=1)
    with pytest.raises(ValueError, match=r"got .*\(3, 2, 4\)"):
        inspect.token_similarity(torch.ones(3, 2, 4))


def cka_by_hsic(x, y):
    """From its definition with kernels: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), HSIC(K, L) = tr(K H L H) / (n - 1)^2."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n

    def hsic(a, b):
        return np.trace(a @ a.T @ centre @ b @ b.T @ centre) / (n - 1) ** 2

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


@pytest.mark.parametrize(("n", "p", "q"), [(40, 3, 5), (6, 30, 4), (6, 30, 50), (2, 1, 1)])
def test_cka_is_that_of_kernels(n, p, q):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, p, generator=generator) + 2
    y = torch.randn(n, q, generator=generator) + x[:, :1] - 1
    wanted = cka_by_hsic(x.double().numpy(), y.double().numpy())
    assert inspect.cka(x, y) == pytest.approx(wanted, rel=1e-9)
    assert inspect.cka(y, x) == pytest.approx(wanted, rel=1e-9)
    assert isinstance(inspect.cka(x, y), float)


def test_what_cka_does_not_see_and_what_it_does():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=generator)
    y = x @ torch.randn(6, 4, generator=generator) + torch.randn(50, 4, generator=generator)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    found = inspect.cka(x, y)
    assert inspect.cka(x, x) == pytest.approx(1)
    assert inspect.cka(x @ rotation, y) == pytest.approx(found, rel=1e-5)
    assert inspect.cka(-3 * x + 7, y) == pytest.approx(found, rel=1e-5)
    stretched = x * torch.tensor([10.0, 1, 1, 1, 1, 1])  # a linear map, and one that can be undone
    assert abs(inspect.cka(stretched, y) - found) > 0.05
    assert inspect.cka(stretched, x) < 0.9


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), r"same images.* got .*\(3, 2\).* and .*\(4, 2\)"),
        (torch.ones(3, 2, 2), torch.ones(3, 2), r"\(3, 2, 2\)"),
        (torch.ones(1, 2), torch.ones(1, 2), "n at least 2"),
        (torch.full((5, 2), 0.1), torch.randn(5, 2), "same features for all images"),
        (torch.randn(5, 2), torch.full((5, 2), torch.nan), "not numbers"),
    ],
)
def test_features_that_cannot_be_compared(x, y, says):
    with pytest.raises(ValueError, match=says):
        inspect.cka(x, y)
