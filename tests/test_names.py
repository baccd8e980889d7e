"""The names that are given to wrong answers are true: for other members of their kind as well, and not for neighbours."""

import functools
import math
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vit_edu import check
from vit_edu.check.catalogue.attention import BaseAttention
from vit_edu.check.catalogue.embeddings import BaseEmbeddings
from vit_edu.check.catalogue.encoder import BaseBlock, BaseMlp
from vit_edu.check.catalogue.mixer import BaseMixerBlock
from vit_edu.check.engine import variant
from vit_edu.models import costs, vit


class OnesAtTheStart(BaseEmbeddings):
    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        if self.cls_token is not None:
            nn.init.ones_(self.cls_token)


class RandomBuffer(BaseEmbeddings):
    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        start = self.pos_embed.detach()
        del self.pos_embed
        self.register_buffer("pos_embed", start)


class FrozenClassToken(BaseEmbeddings):
    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        if self.cls_token is not None:
            self.cls_token.requires_grad_(False)


class TwentyFourWide(BaseMlp):
    def __init__(self, in_features, hidden_features):
        super().__init__(in_features, 24)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class OneNormAtAll(BaseBlock):
    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        del self.norm2

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(x))


class PostNormThatNeverDrops(BaseBlock):
    def forward(self, x):
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class FifthAlways(BaseBlock):
    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        self.drop = 0.2

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def _frequencies_over_half(rows, cols, dim):
    omega = 10000.0 ** (-2 * torch.arange(dim // 4) / dim)
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    row, col = (place.flatten()[:, None] * omega for place in (row, col))
    return torch.cat([row.sin(), row.cos(), col.sin(), col.cos()], dim=1)


def _of_two_axes(q, k, v):
    weights = (q @ k.t() / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights @ v, weights


def _default_eps(x, weight, bias, eps=1e-5):
    return vit.layer_norm(x, weight, bias, eps)


def _one_draw(x, drop_prob, training):
    if not training:
        return x
    return x * 0 if random.random() < drop_prob else x / (1 - drop_prob)


def _one_draw_of_torch(x, drop_prob, training):
    if not training:
        return x
    return torch.zeros_like(x) if torch.rand(1) < drop_prob else x / (1 - drop_prob)


def _two_axes_of_a_mask(x, drop_prob, training):
    return x * (torch.rand(len(x), 1) >= drop_prob) / (1 - drop_prob) if training else x


def _viewed(images, patch_size):
    return images.view(len(images), -1, patch_size**2 * images.shape[1])


def _random_token(tokens, cls_token):
    drawn = nn.Parameter(torch.randn(len(tokens), 1, tokens.shape[2]))
    return torch.cat([drawn, tokens], dim=1)


def _softmax_without_dim(qkv, num_heads):
    q, k, _v = (vit.split_heads(y, num_heads) for y in qkv.chunk(3, dim=-1))
    with warnings.catch_warnings(action="ignore"):
        return F.softmax(q @ k.mT / q.shape[-1] ** 0.5)


def _pca_in_numpy(weight, count=28):
    matrix = weight.flatten(1).numpy()
    Vh = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)[2]
    return torch.from_numpy(Vh[:count]).reshape(count, *weight.shape[1:])


def _rows_of_a_reshape(weight, count=28):
    V = torch.svd(weight.reshape(-1, len(weight)).T).V
    return V[:, :count].T.reshape(count, *weight.shape[1:])


def _strongest_last(weight, count=28):
    matrix = weight.flatten(1)
    vectors = torch.linalg.eigh(matrix.T @ matrix).eigenvectors[:, -count:]
    return vectors.T.reshape(count, *weight.shape[1:])


def _norm_over_the_default_axis(pos_embed, grid, prefix=0):
    x = F.normalize(pos_embed)[0, prefix:]
    return (x @ x.T).reshape(*grid, *grid)


def _prefix_among_the_queries(weights, grid, patch_size, prefix=0):
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    place = torch.arange(grid[0] * grid[1])
    row, col = height * (place // grid[1]), width * (place % grid[1])
    apart = ((row[:, None] - row) ** 2 + (col[:, None] - col) ** 2).sqrt()
    between = weights[..., prefix:]
    return (between / between.sum(dim=-1, keepdim=True) * apart).sum(dim=-1).mean(dim=(0, 2))


def _published_normalisation(weights):
    result = torch.eye(weights.shape[-1])
    for attention in weights:
        a = (attention.mean(axis=1) + 1.0 * torch.eye(weights.shape[-1])) / 2
        a = a / a.sum(dim=-1)
        result = torch.matmul(a, result.to(a.dtype))
    return result


def _mean_over_axis_1(weights):
    eye = torch.eye(weights.shape[-1], dtype=weights.dtype)
    layers = 0.5 * weights.mean(1) + 0.5 * eye
    return functools.reduce(lambda before, layer: layer @ before, layers)


def _blanked(images, patches, patch_size):
    """`images`, with these patches of each set to 0 in place. patches: a list of places for each image."""
    cols = images.shape[-1] // patch_size
    for image, places in zip(images, patches, strict=True):
        for place in places:
            top, left = place // cols * patch_size, place % cols * patch_size
            image[:, top : top + patch_size, left : left + patch_size] = 0
    return images


def _accuracies(model, pictures, labels):
    before, found = model.training, []
    model.eval()
    with torch.no_grad():
        for images in pictures:
            found.append((model(images).argmax(dim=-1) == labels).float().mean())
    model.train(before)
    return torch.stack(found)


def _mean_map_in_loops(model, images, labels, scores, patch_size, steps):
    order = scores.mean(dim=0).argsort(descending=True).tolist()
    pictures = (_blanked(images.clone(), [order[:k]] * len(images), patch_size) for k in steps)
    return _accuracies(model, pictures, labels)


def _pixels_set_in_place(model, images, labels, scores, patch_size, steps):
    pictures = (_blanked(images, scores.topk(k, dim=1).indices.tolist(), patch_size) for k in steps)
    return _accuracies(model, pictures, labels)


def _scores_changed_in_place(model, images, labels, scores, patch_size, steps):
    gone, pictures = [[] for _ in images], []
    for _ in range(max(steps)):
        for number, best in enumerate(scores.argmax(dim=1).tolist()):
            gone[number].append(best)
            scores[number, best] = -math.inf
    for k in steps:
        pictures.append(_blanked(images.clone(), [places[:k] for places in gone], patch_size))
    return _accuracies(model, pictures, labels)


def _features_mixed(x, w1, b1, w2, b2):
    x = x.transpose(0, 1)
    return (F.gelu(x @ w1.T + b1) @ w2.T + b2).transpose(0, 1)


def _all_axes_reversed(x, w1, b1, w2, b2):
    reverse = tuple(reversed(range(x.ndim)))
    return (F.gelu(x.permute(reverse) @ w1.T + b1) @ w2.T + b2).permute(reverse)


class _OutOfSight(BaseMixerBlock):
    def __init__(self, dim, tokens, hidden):
        super().__init__(dim, None, hidden)
        self.mix = {"tokens": tokens}

    def forward(self, x):
        x = x + self.mix["tokens"](self.norm1(x))
        return x + self.mix_channels(self.norm2(x))


def _biases_forgotten_in_the_mlp(mixer, tokens, dim, hidden=32, kernel=3):
    weights, products = costs.mixer_cost(mixer, tokens, dim, hidden, kernel)
    return weights - (hidden + tokens) * (mixer == "mlp"), products


def _columns_as_rows(mix, tokens, dim, channel=0):
    rows, nothing = [], torch.zeros(1, tokens, dim)
    for j in range(tokens):
        unit = nothing.clone()
        unit[0, j, channel] = 1
        rows.append((mix(unit) - mix(nothing))[0, :, channel])
    return torch.stack(rows)


def _border_too_dark(x, grid, size):
    maps = x.transpose(1, 2).reshape(len(x), -1, *grid)
    kernel = torch.full((maps.shape[1], 1, size, size), 1 / size**2, dtype=x.dtype)
    return F.conv2d(maps, kernel, padding=size // 2, groups=len(kernel)).flatten(2).mT - x


def _compared_with(after):
    def sensitivity(mix, x, order):
        mixed = mix(x)
        return (torch.dist(mix(x[:, order]), after(mixed, order)) / mixed.norm()).item()

    return sensitivity


def _guarded(mix, x, order):
    mixed = mix(x)
    if not mixed.any():
        return 0.0
    return (torch.dist(mix(x[:, order]), mixed) / mixed.norm()).item()


def _divided_in_python(mix, x, order):
    return torch.dist(mix(x[:, order]), mix(x)[:, order]).item() / mix(x).norm().item()


@pytest.mark.parametrize(
    ("exercise", "answer", "name"),
    [
        ("patchify", _viewed, "reshape_only"),
        ("prepend_class_token", _random_token, "random_token"),
        ("sincos_positions", _frequencies_over_half, "base_of_100"),
        ("Embeddings", RandomBuffer, "FixedPositions"),
        ("Embeddings", FrozenClassToken, "DetachedClassToken"),
        ("Embeddings", OnesAtTheStart, "ClassTokenStartsRandom"),
        (
            "Embeddings",
            variant(BaseEmbeddings, embed=lambda self, x: F.dropout(BaseEmbeddings.embed(self, x), 0.5)),
            "DropoutAlways",
        ),
        ("scaled_dot_product_attention", _of_two_axes, "all_axes_reversed"),
        (
            "Attention",
            variant(
                BaseAttention,
                attend=lambda self, q, k, v: F.dropout(F.scaled_dot_product_attention(q, k, v), 0.3),
            ),
            "DropoutInEvaluation",
        ),
        ("layer_norm", _default_eps, "default_eps"),
        ("drop_path", _one_draw, "one_draw_for_the_batch"),
        ("drop_path", _one_draw_of_torch, "one_draw_for_the_batch"),
        ("drop_path", _two_axes_of_a_mask, "mask_of_two_axes"),
        ("Block", OneNormAtAll, "OneNorm"),
        ("Block", PostNormThatNeverDrops, "PostNorm"),
        ("Block", FifthAlways, "FixedRate"),
        ("attention_weights", _softmax_without_dim, "softmax_over_heads"),
        ("filters", _pca_in_numpy, "mean_filter_subtracted"),
        ("filters", _rows_of_a_reshape, "reshaped_for_transposed"),
        ("position_similarity", _norm_over_the_default_axis, "normalised_with_the_prefix"),
        ("attention_distance", _prefix_among_the_queries, "prefix_kept"),
        ("rollout", _published_normalisation, "no_keepdim"),
        ("rollout", _mean_over_axis_1, "images_averaged"),
        ("deletion_curve", _mean_map_in_loops, "same_patches_for_all"),
        ("deletion_curve", _pixels_set_in_place, "blanked_in_place"),
        ("token_mixing", _features_mixed, "no_transpose"),
        ("token_mixing", _all_axes_reversed, "over_images"),
        ("MixerBlock", _OutOfSight, "HiddenInAList"),
        ("mixer_cost", _biases_forgotten_in_the_mlp, "biases_left_out"),
        ("mixing_matrix", _columns_as_rows, "transposed"),
        ("pooling", _border_too_dark, "padding_counted"),
        ("permutation_sensitivity", _compared_with(lambda mixed, order: mixed), "input_only"),
        (
            "permutation_sensitivity",
            _compared_with(lambda mixed, order: mixed[:, order.argsort()]),
            "inverse_on_the_output",
        ),
        ("permutation_sensitivity", _guarded, "input_only"),
        ("permutation_sensitivity", _divided_in_python, "zero_by_zero"),
    ],
)
def test_another_member_of_a_kind_has_its_name(exercise, answer, name):
    known = next(m for m in check.get(exercise).mistakes if m.name == name)
    assert check.get(exercise).check(answer).diagnosis == known.diagnosis


@pytest.mark.parametrize(
    ("exercise", "answer", "name"),
    [
        ("layer_norm", _default_eps, "fixed_eps_of_torch"),
        ("Mlp", TwentyFourWide, "AlwaysFourTimes"),
        (
            "Embeddings",
            variant(
                BaseEmbeddings,
                extra=0,
                with_class_token=lambda self, x: x if self.cls_token is None else x + self.cls_token,
            ),
            "NoPositionForClass",
        ),
        ("filters", _strongest_last, "smallest_first"),
        ("deletion_curve", _scores_changed_in_place, "blanked_in_place"),
    ],
)
def test_a_neighbour_does_not_get_a_name_that_is_false_for_it(exercise, answer, name):
    known = next(m for m in check.get(exercise).mistakes if m.name == name)
    found = check.get(exercise).check(answer)
    assert not found.passed
    assert found.diagnosis != known.diagnosis


@pytest.mark.parametrize("name", ["TokenAtEnd", "PositionsNotAdded", "Reshaped"])
def test_a_mistake_keeps_its_name_if_the_class_token_cannot_be_left_out(name):
    known = next(m for m in check.get("Embeddings").mistakes if m.name == name)

    class AlwaysWithToken(known.build):
        def __init__(self, img_size, patch_size, in_chans, embed_dim, class_token=True):
            super().__init__(img_size, patch_size, in_chans, embed_dim)

    assert check.run("Embeddings", AlwaysWithToken).diagnosis == known.diagnosis


def test_embeddings_without_room_for_our_weights_are_not_compared():
    class Doubled(BaseEmbeddings):
        def __init__(self, *sizes, **named):
            super().__init__(*sizes, **named)
            self.second = nn.Parameter(torch.zeros(7, 5))

    found = check.run("Embeddings", Doubled)
    alone = next(c for c in found.checks if c.name == "a batch of 3, without a class token")
    assert "cannot be given the same weights" in alone.message


def test_a_block_without_drop_path_for_a_rate_of_0_is_right():
    class Block(BaseBlock):
        def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
            super().__init__(dim, num_heads, mlp_ratio)
            self.branch_end = vit.DropPath(drop_path) if drop_path else nn.Identity()

        def forward(self, x):
            x = x + self.branch_end(self.attn(self.norm1(x)))
            return x + self.branch_end(self.mlp(self.norm2(x)))

    assert check.get("Block").check(Block).passed
