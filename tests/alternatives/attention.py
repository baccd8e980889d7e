"""Lesson 03: right answers written in other ways."""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import nn

from alternatives import alternative
from vit_edu.check.catalogue.attention import BaseAttention
from vit_edu.models import vit

# ---------------------------------------------------------------- scaled_dot_product_attention


@alternative("scaled_dot_product_attention")
def with_einsum(q, k, v):
    scores = torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5
    weights = F.softmax(scores, dim=-1)
    return torch.einsum("...ij,...jd->...id", weights, v), weights


@alternative("scaled_dot_product_attention")
def scaled_first(q, k, v):
    scores = (q / math.sqrt(q.shape[-1])) @ k.mT
    weights = (scores - scores.logsumexp(dim=-1, keepdim=True)).exp()
    return weights @ v, weights


@alternative("scaled_dot_product_attention")
def exponentials_over_their_sum(q, k, v):
    shares = torch.exp(torch.matmul(q, torch.swapaxes(k, -1, -2)) / k.size(-1) ** 0.5)
    weights = shares / shares.sum(-1, keepdim=True)
    return torch.matmul(weights, v), weights


@alternative("scaled_dot_product_attention")
def root_as_a_tensor(q, k, v):
    scores = torch.matmul(q, k.transpose(-1, -2)) / torch.sqrt(torch.tensor(q.shape[-1]))
    weights = nn.Softmax(dim=-1)(scores)
    return weights.matmul(v), weights


@alternative("scaled_dot_product_attention")
def query_by_query(q, k, v):
    rows = [
        (k @ q[..., i, :, None] / math.sqrt(q.shape[-1])).squeeze(-1).softmax(-1) for i in range(q.shape[-2])
    ]
    weights = torch.stack(rows, dim=-2)
    return (weights[..., None] * v[..., None, :, :]).sum(dim=-2), weights


@alternative("scaled_dot_product_attention")
def fused_twice(q, k, v):
    every_key = torch.eye(k.shape[-2], dtype=q.dtype).expand(*k.shape[:-2], -1, -1)
    weights = F.scaled_dot_product_attention(q, k, every_key)
    return F.scaled_dot_product_attention(q, k, v), weights


# ---------------------------------------------------------------- split_heads


@alternative("split_heads")
def filled_in(x, num_heads):
    # Always float32. That is a remark, because the exercise does not ask for more.
    B, T, D = x.shape
    heads = torch.zeros(B, num_heads, T, D // num_heads)
    for i, head in enumerate(x.chunk(num_heads, dim=-1)):
        heads[:, i] = head
    return heads


@alternative("split_heads")
def reshape_transpose(x, num_heads):
    B, T, D = x.shape
    return x.reshape(B, T, num_heads, D // num_heads).transpose(1, 2)


@alternative("split_heads")
def chunks(x, num_heads):
    return torch.stack(x.chunk(num_heads, dim=-1), dim=1)


@alternative("split_heads")
def unflatten_permute(x, num_heads):
    return x.unflatten(-1, (num_heads, -1)).permute(0, 2, 1, 3)


@alternative("split_heads")
def slice_by_slice(x, num_heads):
    d = x.shape[-1] // num_heads
    heads = [x[:, None, :, i * d : (i + 1) * d] for i in range(num_heads)]
    return torch.cat(heads, dim=1)


@alternative("split_heads")
def width_in_front(x, num_heads):
    B, T, D = x.shape
    return x.mT.reshape(B, num_heads, D // num_heads, T).mT


# ---------------------------------------------------------------- merge_heads


@alternative("merge_heads")
def transpose_flatten(x):
    return x.transpose(1, 2).flatten(2)


@alternative("merge_heads")
def concatenate(x):
    return torch.cat(x.unbind(dim=1), dim=-1)


@alternative("merge_heads")
def permute_contiguous_view(x):
    B, h, T, d = x.shape
    return x.permute(0, 2, 1, 3).contiguous().view(B, T, h * d)


@alternative("merge_heads")
def token_by_token(x):
    return torch.stack([x[:, :, t].reshape(len(x), -1) for t in range(x.shape[2])], dim=1)


@alternative("merge_heads")
def into_an_empty_tensor(x):
    B, h, T, d = x.shape
    result = x.new_empty(B, T, h * d)
    for i in range(h):
        result[..., i * d : (i + 1) * d] = x[:, i]
    return result


# ---------------------------------------------------------------- Attention


@alternative("Attention")
class ByHand(BaseAttention):
    def attend(self, q, k, v):
        return vit.scaled_dot_product_attention(q, k, v)[0]


@alternative("Attention")
class ReshapeLikeTimm(BaseAttention):
    def forward(self, x):
        B, T, D = x.shape
        qkv = self.qkv(x).reshape(B, T, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, T, D))


@alternative("Attention")
class HeadByHead(BaseAttention):
    def mix_values(self, q, k, v):
        parts = [t.chunk(self.num_heads, dim=-1) for t in (q, k, v)]
        return torch.cat(
            [vit.scaled_dot_product_attention(*head)[0] for head in zip(*parts, strict=True)],
            dim=-1,
        )


@alternative("Attention")
class ThreeLayers(nn.Module):
    def __init__(self, dim, num_heads=8):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = (
            rearrange(layer(x), "b t (h d) -> b h t d", h=self.num_heads)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = einsum(q, k, "b h i d, b h j d -> b h i j") * q.shape[-1] ** -0.5
        x = einsum(scores.softmax(-1), v, "b h i j, b h j d -> b i h d")
        return self.out_proj(x.flatten(2))


@alternative("Attention")
class OfTorch(nn.Module):
    def __init__(self, dim, num_heads=8):
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class _Head(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.query = nn.Linear(dim, width)
        self.key = nn.Linear(dim, width)
        self.value = nn.Linear(dim, width)

    def forward(self, x):
        return vit.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))[0]


@alternative("Attention")
class ListOfHeads(nn.Module):
    def __init__(self, dim, num_heads=8):
        super().__init__()
        self.heads = nn.ModuleList(_Head(dim, dim // num_heads) for _ in range(num_heads))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))
