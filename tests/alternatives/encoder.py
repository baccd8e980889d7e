"""Lesson 04: right answers written in other ways."""

import random
from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from torch import nn

from alternatives import alternative
from vit_edu.check.catalogue.encoder import BaseBlock, BaseMlp, stack
from vit_edu.models import vit

# ---------------------------------------------------------------- layer_norm


@alternative("layer_norm")
def by_moments(x, weight, bias, eps=1e-6):
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps) * weight + bias


@alternative("layer_norm")
def with_einops(x, weight, bias, eps=1e-6):
    centred = x - rearrange(reduce(x, "... d -> ...", "mean"), "... -> ... 1")
    var = rearrange(reduce(centred**2, "... d -> ...", "mean"), "... -> ... 1")
    return torch.addcmul(bias, weight, centred / (var + eps) ** 0.5)


@alternative("layer_norm")
def with_unsqueeze(x, weight, bias, eps=1e-6):
    width = x.size(-1)
    x = x - x.sum(-1).unsqueeze(-1) / width
    return bias + weight * x / ((x * x).sum(-1).unsqueeze(-1) / width + eps).sqrt()


@alternative("layer_norm")
def token_by_token(x, weight, bias, eps=1e-6):
    tokens = x.reshape(-1, x.shape[-1])
    normed = [(t - t.mean()) / (t.var(correction=0) + eps).sqrt() * weight + bias for t in tokens]
    return torch.stack(normed).reshape(x.shape)


@alternative("layer_norm")
def with_var_mean(x, weight, bias, eps=1e-6):
    var, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return torch.einsum("...d,d->...d", (x - mean) * (var + eps) ** -0.5, weight) + bias


@alternative("layer_norm")
def with_averaging_matrix(x, weight, bias, eps=1e-6):
    width = x.shape[-1]
    average = torch.full((width, width), 1 / width, dtype=x.dtype, device=x.device)
    centred = x - x @ average
    return weight * centred / (centred.square() @ average + eps).sqrt() + bias


# ---------------------------------------------------------------- Mlp


@alternative("Mlp")
class FunctionalMlp(BaseMlp):
    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


@alternative("Mlp")
class SequentialMlp(nn.Sequential):
    def __init__(self, in_features, hidden_features):
        super().__init__(
            nn.Linear(in_features, hidden_features),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Linear(hidden_features, in_features),
        )


@alternative("Mlp")
class GeluByErf(BaseMlp):
    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(0.5 * x * (1 + torch.erf(x / 2**0.5)))


@alternative("Mlp")
class PointwiseConvolutions(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.widen = nn.Conv1d(in_features, hidden_features, kernel_size=1)
        self.narrow = nn.Conv1d(hidden_features, in_features, kernel_size=1)

    def forward(self, x):
        return self.narrow(F.gelu(self.widen(x.mT))).mT


@alternative("Mlp")
class TransposedParameters(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.up_weight = nn.Parameter(torch.randn(in_features, hidden_features) * 0.02)
        self.up_bias = nn.Parameter(torch.zeros(hidden_features))
        self.down_weight = nn.Parameter(torch.randn(hidden_features, in_features) * 0.02)
        self.down_bias = nn.Parameter(torch.zeros(in_features))

    def forward(self, x):
        hidden = einsum(x, self.up_weight, "b t d, d h -> b t h") + self.up_bias
        return F.gelu(hidden) @ self.down_weight + self.down_bias


# ---------------------------------------------------------------- drop_path


@alternative("drop_path")
def with_rand(x, drop_prob, training):
    if not training:
        return x
    shape = (x.shape[0],) + (1,) * (x.dim() - 1)
    keep = (torch.rand(shape, device=x.device) >= drop_prob).to(x.dtype)
    return x / (1 - drop_prob) * keep


@alternative("drop_path")
def with_torchvision(x, drop_prob, training):
    from torchvision.ops import stochastic_depth

    return stochastic_depth(x, drop_prob, "row", training)


@alternative("drop_path")
def with_floor(x, drop_prob=0.0, training=False):
    if drop_prob == 0.0 or not training:
        return x
    keep_prob = 1 - drop_prob
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    random_tensor = keep_prob + torch.rand(shape, dtype=x.dtype, device=x.device)
    random_tensor.floor_()
    return x.div(keep_prob) * random_tensor


@alternative("drop_path")
def dropout_of_ones(x, drop_prob, training):
    return (
        F.dropout(torch.ones_like(x.flatten(1)[:, 0]), drop_prob, training)[
            (slice(None), *[None] * (x.ndim - 1))
        ]
        * x
    )


@alternative("drop_path")
def with_where(x, drop_prob, training):
    if not training:
        return x
    lost = (torch.rand(len(x), device=x.device) < drop_prob).view(-1, *[1] * (x.ndim - 1))
    return torch.where(lost, torch.zeros_like(x), x / (1 - drop_prob))


@alternative("drop_path")
def image_by_image(x, drop_prob, training):
    if not training:
        return x
    keep = 1 - drop_prob
    return torch.stack([image / keep if random.random() < keep else image * 0 for image in x])


@alternative("drop_path")
def with_einsum(x, drop_prob, training):
    if not training or not drop_prob:
        return x
    mask = torch.distributions.Bernoulli(1 - drop_prob).sample((len(x),)).to(x)
    return torch.einsum("b...,b->b...", x, mask / (1 - drop_prob))


# ---------------------------------------------------------------- Block


@alternative("Block")
class TwoSteps(BaseBlock):
    def forward(self, x):
        attended = x + self.drop_path(self.attn(self.norm1(x)))
        return self.drop_path(self.mlp(self.norm2(attended))) + attended


@alternative("Block")
class OtherNamesAndOrder(nn.Module):
    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.feed_forward = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.ln_mlp = nn.LayerNorm(dim, eps=1e-6)
        self.attention = vit.Attention(dim, num_heads)
        self.ln_attention = nn.LayerNorm(dim, eps=1e-6)
        self.drop1, self.drop2 = vit.DropPath(drop_path), vit.DropPath(drop_path)

    def forward(self, x):
        x = x + self.drop1(self.attention(self.ln_attention(x)))
        return x + self.drop2(self.feed_forward(self.ln_mlp(x)))


@alternative("Block")
class TorchAttention(nn.Module):
    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, 1e-6)
        self.attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim, 1e-6)
        self.mlp = vit.Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = vit.DropPath(drop_path)

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.drop_path(self.attn(y, y, y, need_weights=False)[0])
        return x + self.drop_path(self.mlp(self.norm2(x)))


@alternative("Block")
class LoopOverBranches(nn.Module):
    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__()
        bodies = vit.Attention(dim, num_heads), vit.Mlp(dim, int(dim * mlp_ratio))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim, eps=1e-6), body, vit.DropPath(drop_path)) for body in bodies
        )

    def forward(self, x):
        for branch in self.branches:
            x = x + branch(x)
        return x


@alternative("Block")
class OwnLayerNorm(BaseBlock):
    class Norm(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

        def forward(self, x):
            return vit.layer_norm(x, self.weight, self.bias)

    def __init__(self, dim, *args, **kwargs):
        super().__init__(dim, *args, **kwargs)
        self.norm1, self.norm2 = self.Norm(dim), self.Norm(dim)

    def forward(self, x):
        for norm, layer in ((self.norm1, self.attn), (self.norm2, self.mlp)):
            x = torch.add(x, self.drop_path(layer(norm(x))))
        return x


# ---------------------------------------------------------------- make_blocks


@alternative("make_blocks")
def with_a_loop(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    blocks = nn.Sequential()
    for rate in torch.linspace(0, drop_path_rate, depth).tolist():
        blocks.append(vit.Block(dim, num_heads, mlp_ratio=mlp_ratio, drop_path=rate))
    return blocks


@alternative("make_blocks")
def with_names(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    step = drop_path_rate / (depth - 1) if depth > 1 else 0.0
    return nn.Sequential(
        OrderedDict((f"block{i}", vit.Block(dim, num_heads, mlp_ratio, i * step)) for i in range(depth))
    )


@alternative("make_blocks")
def rates_as_tensors(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return stack(dim, torch.linspace(0, drop_path_rate, depth), num_heads, mlp_ratio)


@alternative("make_blocks")
def of_blocks_with_other_names(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = torch.linspace(0, drop_path_rate, depth).tolist()
    return stack(dim, rates, num_heads, mlp_ratio, OtherNamesAndOrder)
