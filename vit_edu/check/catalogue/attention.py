"""Lesson 03: scaled dot-product attention, heads, and multi-head attention as a module."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vit_edu.check.cases import (
    Case,
    Unfair,
    call,
    drawn,
    filled,
    forward,
    gradients,
    parameters,
)
from vit_edu.check.engine import Exercise
from vit_edu.models import vit


def _qkv(*shape):
    return tuple(drawn(*shape, seed=s) for s in range(3))


# ---------------------------------------------------------------- scaled dot-product attention


def _row_sums(candidate):
    result = candidate(*_qkv(2, 4, 8))
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Unfair("expected two values: the output and the weights")
    return result[1].sum(dim=-1)


scaled_dot_product_attention = Exercise(
    vit.scaled_dot_product_attention,
    call("output and weights for 3 tokens of width 4", *_qkv(3, 4)),
    call("a batch of 2 with 4 heads", *_qkv(2, 4, 5, 8)),
    Case(
        "each token spreads one unit of attention: every row of the weights sums to 1",
        _row_sums,
        "Row i holds the weights that token i gives to all tokens.",
    ),
    call(
        "more keys than queries",
        drawn(1, 3, 8),
        drawn(1, 5, 8, seed=1),
        drawn(1, 5, 8, seed=2),
    ),
    call(
        "values of another width",
        drawn(1, 3, 8),
        drawn(1, 3, 8, seed=1),
        drawn(1, 3, 2, seed=2),
    ),
)


@scaled_dot_product_attention.alternative
def einsum(q, k, v):
    scores = torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5
    weights = F.softmax(scores, dim=-1)
    return torch.einsum("...ij,...jd->...id", weights, v), weights


@scaled_dot_product_attention.alternative
def scaled_first(q, k, v):
    scores = (q / math.sqrt(q.shape[-1])) @ k.mT
    weights = (scores - scores.logsumexp(dim=-1, keepdim=True)).exp()
    return weights @ v, weights


def _variant(scale, dim=-1):
    def attention(q, k, v):
        weights = (q @ k.transpose(-2, -1) * scale(q.shape[-1])).softmax(dim=dim)
        return weights @ v, weights

    return attention


@scaled_dot_product_attention.mistake(
    "The scale is missing. Scores of width-d vectors have a standard deviation of about the root of d, and the softmax "
    "then puts nearly everything on one key."
)
def no_scale(q, k, v):
    return _variant(lambda d: 1.0)(q, k, v)


@scaled_dot_product_attention.mistake(
    "The scores are divided by d instead of its root: they become too small, and the attention too even."
)
def scale_by_d(q, k, v):
    return _variant(lambda d: 1 / d)(q, k, v)


@scaled_dot_product_attention.mistake(
    "The scores are multiplied by the root of d. They should shrink, not grow: divide."
)
def scale_up(q, k, v):
    return _variant(math.sqrt)(q, k, v)


@scaled_dot_product_attention.mistake(
    "This is a softmax over the queries: the columns sum to 1. Each *query* should spread one unit of attention over "
    "the keys, so each row should."
)
def softmax_over_queries(q, k, v):
    return _variant(lambda d: d**-0.5, dim=-2)(q, k, v)


@scaled_dot_product_attention.mistake(
    "The output is right, but the weights are missing: return both, output first."
)
def output_only(q, k, v):
    return vit.scaled_dot_product_attention(q, k, v)[0]


@scaled_dot_product_attention.mistake(
    "Both are right, but in the wrong order: first the output, then the weights."
)
def exchanged(q, k, v):
    return vit.scaled_dot_product_attention(q, k, v)[::-1]


@scaled_dot_product_attention.mistake(
    "The second value holds the scores before the softmax. The weights are what comes out of the softmax."
)
def scores_returned(q, k, v):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ v, scores


# ---------------------------------------------------------------- heads


def _tokens(B, T, D):
    return torch.arange(B * T * D, dtype=torch.float32).reshape(B, T, D)


split_heads = Exercise(
    vit.split_heads,
    call("1 image, 3 tokens of width 4, 2 heads", _tokens(1, 3, 4), 2),
    call("a batch of 2, 5 tokens of width 12, 3 heads", _tokens(2, 5, 12), 3),
    call("one head", _tokens(2, 5, 4), 1),
)


@split_heads.alternative
def reshape_transpose(x, num_heads):
    B, T, D = x.shape
    return x.reshape(B, T, num_heads, D // num_heads).transpose(1, 2)


@split_heads.alternative
def chunks(x, num_heads):
    return torch.stack(x.chunk(num_heads, dim=-1), dim=1)


@split_heads.mistake(
    "A reshape straight to (B, h, T, d) mixes the tokens: a head then holds pieces of different tokens one after the "
    "other. First split D into heads, where it stands, then move the axis."
)
def straight_reshape(x, num_heads):
    B, T, D = x.shape
    return x.reshape(B, num_heads, T, D // num_heads)


@split_heads.mistake(
    "D is split the other way round: head 0 gets every h-th number instead of the first d. In `x.reshape(B, T, h, d)` the "
    "head comes before d."
)
def interleaved(x, num_heads):
    return rearrange(x, "b t (d h) -> b h t d", h=num_heads)


@split_heads.mistake(
    "Split, but not moved: the result is (B, T, h, d). Attention works on the last two axes, so those have to be T and d."
)
def not_moved(x, num_heads):
    B, T, D = x.shape
    return x.reshape(B, T, num_heads, D // num_heads)


merge_heads = Exercise(
    vit.merge_heads,
    call("2 heads of 3 tokens of width 2", _tokens(1, 2, 6).reshape(1, 2, 3, 2)),
    call("a batch of 2, 3 heads, 5 tokens", _tokens(2, 3, 20).reshape(2, 3, 5, 4)),
    call("one head", _tokens(2, 1, 20).reshape(2, 1, 5, 4)),
)


@merge_heads.alternative
def transpose_flatten(x):
    return x.transpose(1, 2).flatten(2)


@merge_heads.alternative
def concatenate(x):
    return torch.cat(x.unbind(dim=1), dim=-1)


@merge_heads.mistake(
    "A reshape straight to (B, T, D) mixes the tokens. Undo `split_heads` in reverse: move the head axis back next to d, "
    "then merge the two."
)
def straight_merge(x):
    B, h, T, d = x.shape
    return x.reshape(B, T, h * d)


@merge_heads.mistake(
    "The heads are interleaved: the numbers of head 0 and head 1 alternate. Each head's d numbers should stay together."
)
def merged_interleaved(x):
    return rearrange(x, "b h t d -> b t (d h)")


# ---------------------------------------------------------------- the module

_small = {"dim": 12, "num_heads": 3}


def _equivariance(candidate):
    module, x = filled(candidate, **_small).eval(), drawn(1, 6, 12)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    return torch.allclose(module(x)[:, order], module(x[:, order]), atol=1e-5)


Attention = Exercise(
    vit.Attention,
    parameters(
        "names and shapes of the parameters",
        **_small,
        hint="Two linear layers: qkv, from D to 3 D, and proj, from D to D.",
    ),
    forward("one image of 5 tokens, 3 heads", inputs=(drawn(1, 5, 12),), **_small),
    forward("a batch of 4", inputs=(drawn(4, 5, 12),), **_small),
    forward("one head", inputs=(drawn(2, 5, 8),), dim=8, num_heads=1),
    forward("as many tokens as heads", inputs=(drawn(2, 3, 12),), **_small),
    Case(
        "permuting the tokens permutes the output, and changes nothing else",
        _equivariance,
        "Attention knows no order of tokens.",
    ),
    gradients("everything can learn", inputs=(drawn(2, 5, 12),), **_small),
)


class _Attention(nn.Module):
    """What alternatives and mistakes have in common; each has its own `mix`, from q, k, v (B, T, D) to (B, T, D)."""

    def __init__(self, dim, num_heads=8):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        return self.proj(self.mix(*self.qkv(x).chunk(3, dim=-1)))

    def heads(self, *tensors):
        return [vit.split_heads(t, self.num_heads) for t in tensors]


@Attention.alternative
class ByHand(_Attention):
    def mix(self, q, k, v):
        return vit.merge_heads(vit.scaled_dot_product_attention(*self.heads(q, k, v))[0])


@Attention.alternative
class ReshapeLikeTimm(_Attention):
    def forward(self, x):
        B, T, D = x.shape
        qkv = (
            self.qkv(x).reshape(B, T, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
        )
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, T, D))


@Attention.alternative
class HeadByHead(_Attention):
    def mix(self, q, k, v):
        parts = [t.chunk(self.num_heads, dim=-1) for t in (q, k, v)]
        return torch.cat(
            [vit.scaled_dot_product_attention(*head)[0] for head in zip(*parts, strict=True)],
            dim=-1,
        )


@Attention.mistake(
    "Attention runs across the batch: images exchange information, tokens do not. The batch axis must stay out of the "
    "product. In `torch.nn.MultiheadAttention`, forgetting batch_first=True does this."
)
class AcrossBatch(_Attention):
    def mix(self, q, k, v):
        q, k, v = self.heads(*(t.transpose(0, 1) for t in (q, k, v)))
        return vit.merge_heads(F.scaled_dot_product_attention(q, k, v)).transpose(0, 1)


@Attention.mistake(
    "All of D is one head: the scores are taken over the whole width. Split q, k and v into heads before the product."
)
class NoHeads(_Attention):
    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


@Attention.mistake(
    "The output projection `proj` is never applied: what the heads found stays side by side, unmixed."
)
class NoProjection(_Attention):
    def forward(self, x):
        q, k, v = self.heads(*self.qkv(x).chunk(3, dim=-1))
        return vit.merge_heads(F.scaled_dot_product_attention(q, k, v))


@Attention.mistake(
    "The scale uses D, the full width. Each head works with vectors of width d = D / h, so it is the root of d."
)
class ScaleByWidth(_Attention):
    def mix(self, q, k, v):
        wrong = q.shape[-1] ** -0.5
        return vit.merge_heads(F.scaled_dot_product_attention(*self.heads(q, k, v), scale=wrong))


@Attention.mistake(
    "The heads are put back together with a reshape alone, which mixes the tokens. Use `merge_heads`."
)
class BadMerge(_Attention):
    def mix(self, q, k, v):
        B, T, D = q.shape
        return F.scaled_dot_product_attention(*self.heads(q, k, v)).reshape(B, T, D)


@Attention.mistake(
    "Queries and keys are exchanged: the first third of `qkv` is q, the second k, the third v. Nothing crashes, but "
    "published weights would give other numbers."
)
class QKExchanged(_Attention):
    def mix(self, q, k, v):
        return vit.merge_heads(F.scaled_dot_product_attention(*self.heads(k, q, v)))


EXERCISES = [scaled_dot_product_attention, split_heads, merge_heads, Attention]
