"""Lesson 02: projection, class token, positions, and all of it as one module."""

import torch
from torch import nn

from vit_edu.check.cases import call, drawn, forward, gradients, parameters
from vit_edu.check.engine import Exercise
from vit_edu.models import vit

# ---------------------------------------------------------------- projection


def _project_patches(patches, weight, bias):
    return patches @ weight.T + bias  # (B, N, PPC) @ (PPC, D) + (D,)


project_patches = Exercise(
    _project_patches,
    call(
        "2 images, 4 patches of 12 numbers, to 8 numbers each",
        drawn(2, 4, 12),
        drawn(8, 12, seed=1),
        drawn(8, seed=2),
    ),
    call("as many numbers out as in", drawn(1, 3, 6), drawn(6, 6, seed=1), drawn(6, seed=2)),
    call("one patch", drawn(1, 1, 5), drawn(3, 5, seed=1), drawn(3, seed=2)),
    name="project_patches",
)


@project_patches.alternative
def functional_linear(patches, weight, bias):
    return nn.functional.linear(patches, weight, bias)


@project_patches.alternative
def einsum(patches, weight, bias):
    return torch.einsum("bnp,dp->bnd", patches, weight) + bias


@project_patches.mistake("The bias is missing: y = x W^T + b has two terms.")
def no_bias(patches, weight, bias):
    return patches @ weight.T


@project_patches.mistake(
    "The weight is (D, P*P*C), as in `nn.Linear`: one *row* for each output number. It has to be transposed here. "
    "With a square weight nothing crashes, and the numbers are still wrong."
)
def not_transposed(patches, weight, bias):
    return patches @ weight + bias


# ---------------------------------------------------------------- class token


def _prepend_class_token(tokens, cls_token):
    return torch.cat([cls_token.expand(len(tokens), -1, -1), tokens], dim=1)


prepend_class_token = Exercise(
    _prepend_class_token,
    call("one image, 4 tokens", drawn(1, 4, 3), drawn(1, 1, 3, seed=1)),
    call("a batch of 3: every image gets the class token", drawn(3, 4, 8), drawn(1, 1, 8, seed=1)),
    call(
        "the class token can learn",
        drawn(2, 4, 8),
        drawn(1, 1, 8, seed=1).requires_grad_(),
        hint="Do not use .data, .detach() or torch.tensor(...) on the class token.",
    ),
    name="prepend_class_token",
)


@prepend_class_token.alternative
def repeat(tokens, cls_token):
    return torch.cat([cls_token.repeat(tokens.shape[0], 1, 1), tokens], dim=1)


@prepend_class_token.mistake(
    "The class token stands at the end. In the paper, and in published weights, it is token 0: "
    "whoever reads `tokens[:, 0]` later gets a patch instead."
)
def appended(tokens, cls_token):
    return torch.cat([tokens, cls_token.expand(len(tokens), -1, -1)], dim=1)


@prepend_class_token.mistake(
    "The class token is *added* to the tokens. It should be one more token, in front of them: N becomes N + 1."
)
def added(tokens, cls_token):
    return tokens + cls_token


@prepend_class_token.mistake(
    "The first patch is overwritten by the class token. Nothing should get lost: N tokens become N + 1."
)
def overwritten(tokens, cls_token):
    return torch.cat([cls_token.expand(len(tokens), -1, -1), tokens[:, 1:]], dim=1)


# ---------------------------------------------------------------- sine-cosine positions

sincos_positions = Exercise(
    vit.sincos_positions,
    call("a grid of 2 x 2, 4 numbers", 2, 2, 4),
    call("a grid of 8 x 8, 64 numbers", 8, 8, 64),
    call("a grid that is wider than high", 3, 5, 16),
    call("a grid that is higher than wide", 6, 2, 8),
)


@sincos_positions.alternative
def loops(rows, cols, dim):
    import math

    table = torch.zeros(rows * cols, dim)
    quarter = dim // 4
    for r in range(rows):
        for c in range(cols):
            for i in range(quarter):
                w = 10000 ** (-i / quarter)
                quad = [math.sin(r * w), math.cos(r * w), math.sin(c * w), math.cos(c * w)]
                table[r * cols + c, i::quarter] = torch.tensor(quad)
    return table


@sincos_positions.mistake(
    "Column and row are exchanged: the first half of the vector should tell the row, the second half the column."
)
def column_first(rows, cols, dim):
    row_first = vit.sincos_positions(rows, cols, dim)
    return torch.cat([row_first[:, dim // 2 :], row_first[:, : dim // 2]], dim=1)


@sincos_positions.mistake(
    "These are one-dimensional positions: they count the patches from 0 to N - 1. Patch 7 and the patch below it look "
    "far apart to the model; the row and the column should be told separately."
)
def one_dimensional(rows, cols, dim):
    half = dim // 2
    omega = 10000.0 ** (-torch.arange(half) / half)
    angle = torch.arange(rows * cols)[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1)


@sincos_positions.mistake(
    "The frequencies fall too slowly: the exponent is divided by dim, and should be divided by the number of "
    "frequencies, dim / 4, so that the slowest wave is about 10,000 times slower than the fastest."
)
def wrong_exponent(rows, cols, dim):
    omega = 10000.0 ** (-torch.arange(dim // 4) / dim)
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    row, col = row.flatten()[:, None] * omega, col.flatten()[:, None] * omega
    return torch.cat([row.sin(), row.cos(), col.sin(), col.cos()], dim=1)


@sincos_positions.mistake(
    "The patches are numbered down the columns: row and column are repeated in the wrong order. Patch 1 stands to the "
    "right of patch 0, not below it."
)
def grid_transposed(rows, cols, dim):
    table = vit.sincos_positions(rows, cols, dim).reshape(rows, cols, dim)
    return table.transpose(0, 1).reshape(rows * cols, dim)


# ---------------------------------------------------------------- the module

_small = {"img_size": 8, "patch_size": 4, "in_chans": 3, "embed_dim": 6}

Embeddings = Exercise(
    vit.Embeddings,
    parameters(
        "names and shapes of the parameters",
        **_small,
        hint="Use the names of the exercise: patch_embed (a PatchEmbed), cls_token (1, 1, D), pos_embed (1, N+1, D).",
    ),
    forward("one image", inputs=(drawn(1, 3, 8, 8),), **_small),
    forward("a batch of 3", inputs=(drawn(3, 3, 8, 8),), **_small),
    forward(
        "one channel, 2 x 2 patches",
        inputs=(drawn(2, 1, 8, 8),),
        img_size=8,
        patch_size=2,
        in_chans=1,
        embed_dim=4,
    ),
    gradients("everything can learn", inputs=(drawn(2, 3, 8, 8),), **_small),
)


class _Embeddings(nn.Module):
    """What the mistakes below have in common."""

    positions = None  # how many position vectors; None: one for every token

    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        self.patch_embed = vit.PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        tokens = self.positions or self.patch_embed.num_patches + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, embed_dim) * 0.02)

    def with_class_token(self, x):
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)


@Embeddings.alternative
class WithRepeat(_Embeddings):
    def forward(self, images):
        x = self.patch_embed(images)
        return torch.cat([self.cls_token.repeat(x.shape[0], 1, 1), x], dim=1) + self.pos_embed


@Embeddings.mistake(
    "There is one position vector for all tokens: it is added to each of them alike, so it tells nothing about the place. "
    "Every patch needs its own, and so does the class token: (1, N + 1, D)."
)
class OnePosition(_Embeddings):
    positions = 1

    def forward(self, images):
        return self.with_class_token(self.patch_embed(images)) + self.pos_embed


@Embeddings.mistake(
    "`pos_embed` exists, but nothing adds it to the tokens: the model cannot tell where a patch was."
)
class NotAdded(_Embeddings):
    def forward(self, images):
        return self.with_class_token(self.patch_embed(images))


@Embeddings.mistake(
    "The class token stands at the end. It should be token 0, and the first position vector is its own."
)
class TokenAtEnd(_Embeddings):
    def forward(self, images):
        x = self.patch_embed(images)
        return torch.cat([x, self.cls_token.expand(len(x), -1, -1)], dim=1) + self.pos_embed


@Embeddings.mistake(
    "The class token gets no position: only the patches do. In the ViT it has a position vector of its own "
    "(paper, equation 1: E_pos has N + 1 rows)."
)
class NoPositionForClass(nn.Module):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        self.patch_embed = vit.PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(
            torch.randn(1, self.patch_embed.num_patches, embed_dim) * 0.02
        )

    def forward(self, images):
        x = self.patch_embed(images) + self.pos_embed
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)


EXERCISES = [project_patches, prepend_class_token, sincos_positions, Embeddings]
