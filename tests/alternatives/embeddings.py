"""Lesson 02: right answers written in other ways."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from alternatives import alternative
from vit_edu.check.catalogue.embeddings import BaseEmbeddings
from vit_edu.models import vit

# ---------------------------------------------------------------- project_patches


@alternative("project_patches")
def one_patch_after_the_other(patches, weight, bias):
    # Always float32. That is a remark, because the exercise does not ask for more.
    B, N, _ = patches.shape
    tokens = torch.zeros(B, N, len(weight))
    for b in range(B):
        for n in range(N):
            tokens[b, n] = weight @ patches[b, n] + bias
    return tokens


@alternative("project_patches")
def functional_linear(patches, weight, bias):
    return F.linear(patches, weight, bias)


@alternative("project_patches")
def einsum(patches, weight, bias):
    return torch.einsum("bnp,dp->bnd", patches, weight) + bias


@alternative("project_patches")
def products_added_up(patches, weight, bias):
    return (patches[:, :, None, :] * weight).sum(dim=-1) + bias


@alternative("project_patches")
def number_by_number(patches, weight, bias):
    return torch.stack([patches @ w + b for w, b in zip(weight, bias, strict=True)], dim=-1)


@alternative("project_patches")
def convolution_of_width_1(patches, weight, bias):
    return F.conv1d(patches.transpose(1, 2), weight[:, :, None], bias).transpose(1, 2)


# ---------------------------------------------------------------- prepend_class_token


@alternative("prepend_class_token")
def filled_in(tokens, cls_token):
    # Always float32. That is a remark, because the exercise does not ask for more.
    B, N, D = tokens.shape
    result = torch.zeros(B, N + 1, D)
    result[:, :1] = cls_token
    result[:, 1:] = tokens
    return result


@alternative("prepend_class_token")
def repeated(tokens, cls_token):
    return torch.cat([cls_token.repeat(tokens.shape[0], 1, 1), tokens], dim=1)


@alternative("prepend_class_token")
def einops_repeat(tokens, cls_token):
    return torch.hstack([repeat(cls_token, "1 1 d -> b 1 d", b=len(tokens)), tokens])


@alternative("prepend_class_token")
def image_by_image(tokens, cls_token):
    return torch.stack([torch.cat([cls_token[0], image]) for image in tokens])


@alternative("prepend_class_token")
def into_an_empty_tensor(tokens, cls_token):
    B, N, D = tokens.shape
    result = tokens.new_empty(B, N + 1, D)
    result[:, :1] = cls_token
    result[:, 1:] = tokens
    return result


@alternative("prepend_class_token")
def padded_in_front(tokens, cls_token):
    first = torch.eye(tokens.shape[1] + 1, 1, dtype=tokens.dtype)
    return F.pad(tokens, (0, 0, 1, 0)) + first * cls_token


# ---------------------------------------------------------------- sincos_positions


@alternative("sincos_positions")
def loops(rows, cols, dim):
    table = torch.zeros(rows * cols, dim)
    quarter = dim // 4
    for r in range(rows):
        for c in range(cols):
            for i in range(quarter):
                w = 10000 ** (-i / quarter)
                quad = [math.sin(r * w), math.cos(r * w), math.sin(c * w), math.cos(c * w)]
                table[r * cols + c, i::quarter] = torch.tensor(quad)
    return table


@alternative("sincos_positions")
def quotient_and_remainder(rows, cols, dim):
    place = torch.arange(rows * cols, dtype=torch.float32)
    omega = torch.exp(-math.log(10000) * torch.arange(dim // 4) / (dim // 4))
    row = torch.outer(place.div(cols, rounding_mode="floor"), omega)
    col = torch.outer(place % cols, omega)
    return torch.hstack([row.sin(), row.cos(), col.sin(), col.cos()])


@alternative("sincos_positions")
def axis_by_axis(rows, cols, dim):
    def waves(count):
        angle = torch.arange(count)[:, None] / 10000 ** (torch.arange(0, dim, 4) / dim)
        return torch.cat([angle.sin(), angle.cos()], dim=1)  # (count, D/2)

    row = repeat(waves(rows), "r d -> (r c) d", c=cols)
    col = repeat(waves(cols), "c d -> (r c) d", r=rows)
    return torch.cat([row, col], dim=1)


@alternative("sincos_positions")
def complex_waves(rows, cols, dim):
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).double()  # (N, 2)
    omega = torch.logspace(0, -4, dim // 4 + 1, dtype=torch.float64)[:-1]
    turned = torch.polar(torch.ones(1, 1, 1).double(), places[..., None] * omega)  # (N, 2, D/4)
    return torch.stack([turned.imag, turned.real], dim=2).flatten(1).float()


# ---------------------------------------------------------------- Embeddings


@alternative("Embeddings")
class WithRepeat(BaseEmbeddings):
    def embed(self, x):
        first = [] if self.cls_token is None else [self.cls_token.repeat(x.shape[0], 1, 1)]
        return torch.cat([*first, x], dim=1) + self.pos_embed


@alternative("Embeddings")
class TwoParts(BaseEmbeddings):
    def embed(self, x):
        if self.cls_token is None:
            return x + self.pos_embed
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return torch.cat([first, x + self.pos_embed[:, 1:]], dim=1)


@alternative("Embeddings")
class FlatParameters(nn.Module):
    def __init__(self, img_size, patch_size, in_chans, embed_dim, class_token=True):
        super().__init__()
        tokens = (img_size // patch_size) ** 2 + class_token
        self.positions = nn.Parameter(torch.empty(tokens, embed_dim))
        if class_token:
            self.class_vector = nn.Parameter(torch.zeros(embed_dim))
        self.conv = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, images):
        x = rearrange(self.conv(images), "b d r c -> b (r c) d")
        if hasattr(self, "class_vector"):
            x = torch.cat([repeat(self.class_vector, "d -> b 1 d", b=len(x)), x], dim=1)
        return x + self.positions


@alternative("Embeddings")
class LinearOnPatches(nn.Module):
    def __init__(self, img_size, patch_size, in_chans, embed_dim, class_token=True):
        super().__init__()
        self.patch_size = patch_size
        self.project = nn.Linear(patch_size**2 * in_chans, embed_dim)
        self.cls = nn.Parameter(torch.zeros(1, embed_dim)) if class_token else None
        tokens = (img_size // patch_size) ** 2 + int(class_token)
        self.place = nn.Parameter(torch.zeros(tokens, embed_dim))
        nn.init.normal_(self.place, std=0.02)

    def forward(self, images):
        x = self.project(vit.patchify(images, self.patch_size))
        if self.cls is not None:
            x = torch.stack([torch.cat([self.cls, image]) for image in x])
        return x + self.place


@alternative("Embeddings")
class BareMatrix(nn.Module):
    def __init__(self, img_size, patch_size, in_chans, embed_dim, class_token=True):
        super().__init__()
        self.patch_size = patch_size
        size, tokens = patch_size**2 * in_chans, (img_size // patch_size) ** 2
        self.E_weight = nn.Parameter(torch.randn(size, embed_dim) / size**0.5)
        self.E_bias = nn.Parameter(torch.zeros(embed_dim))
        x_class = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.register_parameter("x_class", x_class)
        self.E_pos = nn.Parameter(torch.normal(0.0, 0.02, (1, tokens + class_token, embed_dim)))

    def forward(self, images):
        x = vit.patchify(images, self.patch_size) @ self.E_weight + self.E_bias
        tokens = self.E_pos.repeat(len(x), 1, 1)
        tokens[:, -x.shape[1] :] += x
        if self.x_class is not None:
            tokens[:, 0] += self.x_class[0, 0]
        return tokens
