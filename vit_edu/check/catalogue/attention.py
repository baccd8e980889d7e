"""Lesson 03: scaled dot-product attention, heads, and multi-head attention as a module."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vit_edu.check.cases import (
    Case,
    CaseFailed,
    call,
    drawn,
    filled,
    forward,
    gradients,
    in_double,
    not_contiguous,
    parameters,
    passes_gradient,
    settled,
)
from vit_edu.check.compare import described
from vit_edu.check.engine import Exercise, variant
from vit_edu.check.probes import Sizes
from vit_edu.models import vit


def _qkv(*shape):
    return tuple(drawn(*shape, seed=s) for s in range(3))


# ---------------------------------------------------------------- scaled dot-product attention


def _row_sums(candidate):
    result = candidate(*_qkv(2, 4, 8))
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise CaseFailed("expected two values: the output and the weights")
    return result[1].sum(dim=-1)


scaled_dot_product_attention = Exercise(
    vit.scaled_dot_product_attention,
    call(
        "output and weights for 3 tokens of width 4",
        *_qkv(3, 4),
        hint="Return two values, the output first: `return output, weights`.",
    ),
    call(
        "a batch of 2 with 4 heads",
        *_qkv(2, 4, 5, 8),
        hint="There may be any number of axes in front, so count from the end: -1 is the width and -2 the tokens.",
    ),
    Case(
        "each token spreads one unit of attention: every row of the weights sums to 1",
        _row_sums,
        "Row i holds the weights that token i gives to all tokens.",
    ),
    call("more keys than queries", drawn(1, 3, 8), drawn(1, 5, 8, seed=1), drawn(1, 5, 8, seed=2)),
    call("values of another width", drawn(1, 3, 8), drawn(1, 3, 8, seed=1), drawn(1, 3, 2, seed=2)),
    call("one token: it takes its own value", *_qkv(2, 1, 4)),
    # Width 4, because its root is exact: torch.sqrt(torch.tensor(d)) is in float32, and should pass.
    in_double(*_qkv(2, 3, 4)),
    not_contiguous(*_qkv(2, 3, 4, 8)),
    passes_gradient(*_qkv(3, 4)),
    sizes=Sizes(
        lambda images, heads, tokens, head_width: call("", *_qkv(images, heads, tokens, head_width)),
        images=(5, 3, 2, 8),
        heads=(2, 6, 4, 3, 12),
        tokens=(7, 5, 17, 65),
        head_width=(12, 9, 64, 8, 4, 16),
    ),
)


def _variant(scale, dim=-1):
    def attention(q, k, v):
        weights = (q @ k.transpose(-2, -1) * scale(q.shape[-1])).softmax(dim=dim)
        return weights @ v, weights

    return attention


def _after(change, q, k, v):
    """Right, except that the weights are changed before they meet the values."""
    weights = change(vit.scaled_dot_product_attention(q, k, v)[1])
    return weights @ v, weights


scaled_dot_product_attention.add_mistakes(
    no_scale=lambda q, k, v: _variant(lambda d: 1.0)(q, k, v),
    scale_by_d=lambda q, k, v: _variant(lambda d: 1 / d)(q, k, v),
    scale_up=lambda q, k, v: _variant(math.sqrt)(q, k, v),
    scale_by_number_of_keys=lambda q, k, v: _variant(lambda d: k.shape[-2] ** -0.5)(q, k, v),
    softmax_over_queries=lambda q, k, v: _variant(lambda d: d**-0.5, dim=-2)(q, k, v),
    softmax_over_axis_1=lambda q, k, v: _variant(lambda d: d**-0.5, dim=1)(q, k, v),
    softmax_over_axis_0=lambda q, k, v: _variant(lambda d: d**-0.5, dim=0)(q, k, v),
    keys_ask=lambda q, k, v: vit.scaled_dot_product_attention(k, q, v),
    scale_by_width_of_values=lambda q, k, v: _variant(lambda d: v.shape[-1] ** -0.5)(q, k, v),
    with_dropout=lambda q, k, v: _after(lambda weights: F.dropout(weights, 0.1), q, k, v),
    weights_detached=lambda q, k, v: _after(torch.detach, q, k, v),
    all_detached=lambda q, k, v: tuple(t.detach() for t in vit.scaled_dot_product_attention(q, k, v)),
    scale_by_number_of_queries=lambda q, k, v: _variant(lambda d: q.shape[-2] ** -0.5)(q, k, v),
    output_only=lambda q, k, v: vit.scaled_dot_product_attention(q, k, v)[0],
    exchanged=lambda q, k, v: vit.scaled_dot_product_attention(q, k, v)[::-1],
)


@scaled_dot_product_attention.mistake
def scaled_after_the_softmax(q, k, v):
    weights = (q @ k.transpose(-2, -1)).softmax(dim=-1) / math.sqrt(q.shape[-1])
    return weights @ v, weights


@scaled_dot_product_attention.mistake
def no_softmax(q, k, v):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores @ v, scores


@scaled_dot_product_attention.mistake
def axes_from_the_front(q, k, v):
    weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights @ v, weights


@scaled_dot_product_attention.mistake
def all_axes_reversed(q, k, v):
    reverse = k.permute(*reversed(range(k.ndim)))
    weights = (q @ reverse / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights @ v, weights


@scaled_dot_product_attention.mistake
def four_axes_by_number(q, k, v):
    weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights @ v, weights


@scaled_dot_product_attention.mistake
def four_axes_unpacked(q, k, v):
    _batch, _heads, _tokens, _width = q.shape
    return vit.scaled_dot_product_attention(q, k, v)


@scaled_dot_product_attention.mistake
def three_axes_unpacked(q, k, v):
    _batch, _tokens, _width = q.shape
    return vit.scaled_dot_product_attention(q, k, v)


@scaled_dot_product_attention.mistake
def two_axes_unpacked(q, k, v):
    _tokens, _width = q.shape
    return vit.scaled_dot_product_attention(q, k, v)


@scaled_dot_product_attention.mistake
def batches_only(q, k, v):
    weights = (torch.bmm(q, k.mT) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return torch.bmm(weights, v), weights


@scaled_dot_product_attention.mistake
def softmax_without_dim(q, k, v):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    weights = scores.softmax(dim=0 if scores.ndim in (1, 3) else 1)  # what F.softmax takes, with a warning
    return weights @ v, weights


@scaled_dot_product_attention.mistake
def looks_back_only(q, k, v):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, -math.inf).softmax(dim=-1)
    return weights @ v, weights


@scaled_dot_product_attention.mistake
def columns_for_rows(q, k, v):
    weights = vit.scaled_dot_product_attention(q, k, v)[1]
    return weights.transpose(-2, -1) @ v, weights


@scaled_dot_product_attention.mistake
def scores_returned(q, k, v):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ v, scores


# ---------------------------------------------------------------- heads


def _tokens(B, T, D):
    return torch.arange(B * T * D, dtype=torch.float32).reshape(B, T, D)


split_heads = Exercise(
    vit.split_heads,
    call(
        "1 image, 3 tokens of width 4, 2 heads",
        _tokens(1, 3, 4),
        2,
        hint="Head 0 gets the first d numbers of every token, head 1 the next d.",
    ),
    call("a batch of 2, 5 tokens of width 12, 3 heads", _tokens(2, 5, 12), 3),
    call("one head", _tokens(2, 5, 4), 1),
    call("as many heads as numbers: width 1", _tokens(2, 3, 4), 4),
    call("whole numbers stay whole numbers", torch.arange(12).reshape(1, 2, 6), 3, remark=True),
    in_double(drawn(2, 5, 12), 3),
    not_contiguous(_tokens(2, 5, 12), 3),
    passes_gradient(drawn(1, 3, 4), 2),
    sizes=(
        Sizes(
            lambda images, tokens, width, heads: call("", _tokens(images, tokens, width), heads),
            images=(5, 3, 2, 8),
            tokens=(7, 6, 17, 65, 5),
            width=(24, 48, 64, 32, 12),
            heads=(2, 8, 4, 3, 12),
        ),
        Sizes(
            lambda heads, head_width: call("", _tokens(2, 5, heads * head_width), heads),
            heads=(2, 5),
            head_width=(12, 9, 64, 8, 4, 16),
        ),
    ),
)

split_heads.add_mistakes(
    interleaved=lambda x, num_heads: rearrange(x, "b t (d h) -> b h t d", h=num_heads),
    width_before_tokens=lambda x, num_heads: rearrange(x, "b t (h d) -> b h d t", h=num_heads),
    heads_taken_as_width=lambda x, num_heads: rearrange(x, "b t (h d) -> b h t d", d=num_heads),
    tokens_shared_out=lambda x, num_heads: torch.stack(x.chunk(num_heads, dim=1), dim=1),
    list_of_heads=lambda x, num_heads: list(x.chunk(num_heads, dim=-1)),
    split_detached=lambda x, num_heads: vit.split_heads(x.detach(), num_heads),
    heads_in_the_batch=lambda x, num_heads: rearrange(x, "b t (h d) -> (b h) t d", h=num_heads),
    heads_before_the_batch=lambda x, num_heads: rearrange(x, "b t (h d) -> h b t d", h=num_heads),
    heads_reversed=lambda x, num_heads: vit.split_heads(x, num_heads).flip(1),
    tokens_reversed=lambda x, num_heads: vit.split_heads(x, num_heads).flip(2),
)


@split_heads.mistake
def straight_reshape(x, num_heads):
    B, T, D = x.shape
    return x.reshape(B, num_heads, T, D // num_heads)


@split_heads.mistake
def not_moved(x, num_heads):
    B, T, D = x.shape
    return x.reshape(B, T, num_heads, D // num_heads)


@split_heads.mistake
def transposed_too_early(x, num_heads):
    B, T, D = x.shape
    return x.transpose(1, 2).reshape(B, num_heads, T, D // num_heads)


merge_heads = Exercise(
    vit.merge_heads,
    call(
        "2 heads of 3 tokens of width 2",
        _tokens(1, 2, 6).reshape(1, 2, 3, 2),
        hint="Token 0 is made of row 0 of every head, one after the other.",
    ),
    call("a batch of 2, 3 heads, 5 tokens", _tokens(2, 3, 20).reshape(2, 3, 5, 4)),
    call("one head", _tokens(2, 1, 20).reshape(2, 1, 5, 4)),
    call("one token", _tokens(2, 3, 4).reshape(2, 3, 1, 4)),
    call("it undoes split_heads", vit.split_heads(_tokens(1, 2, 6), 3)),
    call("whole numbers stay whole numbers", torch.arange(12).reshape(1, 3, 2, 2), remark=True),
    in_double(drawn(2, 3, 5, 4)),
    not_contiguous(_tokens(2, 3, 20).reshape(2, 3, 5, 4)),
    passes_gradient(drawn(1, 2, 3, 2)),
    sizes=(
        Sizes(
            lambda images, heads, tokens, head_width: call("", drawn(images, heads, tokens, head_width)),
            images=(5, 3, 2, 8),
            heads=(2, 6, 4, 3, 12),
            tokens=(7, 5, 17, 65),
            head_width=(12, 9, 64, 8, 4, 16),
        ),
        Sizes(
            lambda width, heads: call("", vit.split_heads(drawn(2, 5, width), heads)),
            width=(24, 48, 64, 32, 12),
            heads=(2, 8),
        ),
    ),
)

merge_heads.add_mistakes(
    merged_interleaved=lambda x: rearrange(x, "b h t d -> b t (d h)"),
    merge_detached=lambda x: vit.merge_heads(x.detach()),
    heads_averaged=lambda x: x.mean(dim=1),
    heads_added_up=lambda x: x.sum(dim=1),
    heads_as_more_tokens=lambda x: x.flatten(1, 2),
    moved_not_merged=lambda x: x.transpose(1, 2),
    first_head_only=lambda x: x[:, 0],
)


@merge_heads.mistake
def straight_merge(x):
    B, h, T, d = x.shape
    return x.reshape(B, T, h * d)


@merge_heads.mistake
def view_after_transpose(x):
    B, h, T, d = x.shape
    return x.transpose(1, 2).view(B, T, h * d)


@merge_heads.mistake
def token_and_width_exchanged(x):
    B, h, T, d = x.shape
    return x.transpose(2, 3).reshape(B, T, h * d)


# ---------------------------------------------------------------- the module

_small = {"dim": 12, "num_heads": 3}


def _equivariance(candidate):
    module, x = filled(candidate, **_small).eval(), drawn(1, 6, 12)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    return torch.allclose(module(x)[:, order], module(x[:, order]), atol=1e-5)


def _independence(candidate):
    module, x = filled(candidate, **_small).eval(), drawn(3, 5, 12)
    return torch.allclose(module(x)[:1], module(x[:1]), atol=1e-5)


def _input_gradient(candidate):
    module, x = filled(candidate, **_small).eval(), drawn(1, 3, 12).requires_grad_()
    settled(module, x.detach())
    out = module(x)
    if not isinstance(out, torch.Tensor):
        raise CaseFailed("expected one tensor, got {got}", got=described(out))
    if not out.requires_grad:
        raise CaseFailed("the output is cut off from the gradient")
    (out * drawn(*out.shape, seed=1)).sum().backward()
    if x.grad is None:
        raise CaseFailed("no gradient reaches the input, so nothing before this layer could learn")
    return x.grad


Attention = Exercise(
    vit.Attention,
    parameters(
        "names and shapes of the parameters",
        **_small,
        hint="Two linear layers: qkv, from D to 3 D, and proj, from D to D.",
    ),
    forward("one image of 2 tokens, 2 heads", inputs=(drawn(1, 2, 4),), dim=4, num_heads=2),
    forward("one image of 5 tokens, 3 heads", inputs=(drawn(1, 5, 12),), **_small),
    forward("a batch of 4", inputs=(drawn(4, 5, 12),), **_small),
    forward("one head", inputs=(drawn(2, 5, 8),), dim=8, num_heads=1),
    forward("as many tokens as heads", inputs=(drawn(2, 3, 12),), **_small),
    forward("one token: it can only look at itself", inputs=(drawn(2, 1, 12),), **_small),
    forward(
        "the same in training mode",
        inputs=(drawn(2, 5, 12),),
        train=True,
        hint="Nothing here depends on the mode: there is no dropout in this exercise.",
        **_small,
    ),
    forward(
        "numbers in float64 give an answer in float64",
        inputs=(drawn(2, 5, 12),),
        double=True,
        **_small,
    ),
    Case(
        "permuting the tokens permutes the output, and changes nothing else",
        _equivariance,
        "Attention does not know the order of the tokens.",
        kind="weights",
    ),
    Case(
        "the images of a batch do not look at each other",
        _independence,
        "Image 0 must give the same result alone and in a batch, so keep the batch axis out of every product.",
        kind="weights",
    ),
    gradients("everything can learn", inputs=(drawn(2, 5, 12),), **_small),
    Case(
        "the gradient of the input",
        _input_gradient,
        "Do not use .data, .detach() or no_grad on the way; gradients pass through the weights as well.",
        1e-4,
        kind="weights",
    ),
    sizes=Sizes(
        lambda images, tokens, width, heads: forward(
            "", inputs=(drawn(images, tokens, width),), dim=width, num_heads=heads
        ),
        images=(5, 3, 2, 8),
        tokens=(7, 6, 17, 65),
        width=(24, 48, 64, 32, 12),
        heads=(2, 8, 4, 3, 12),
    ),
)


class BaseAttention(nn.Module):
    """What alternatives and mistakes have in common; each has its own `mix_values`, from q, k, v (B, T, D) to (B, T, D)."""

    bias = True

    def __init__(self, dim, num_heads=8):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=self.bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        return self.proj(self.mix_values(*self.qkv(x).chunk(3, dim=-1)))

    def mix_values(self, q, k, v):
        return vit.merge_heads(self.attend(*self.heads(q, k, v)))

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

    def heads(self, *tensors):
        return [vit.split_heads(t, self.num_heads) for t in tensors]


Attention.add_mistakes(
    NoHeads=variant(BaseAttention, mix_values=lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v)),
    NoProjection=variant(
        BaseAttention, forward=lambda self, x: self.mix_values(*self.qkv(x).chunk(3, dim=-1))
    ),
    NoScale=variant(
        BaseAttention, attend=lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v, scale=1.0)
    ),
    ScaleByFullWidth=variant(
        BaseAttention,
        attend=lambda self, q, k, v: F.scaled_dot_product_attention(
            q, k, v, scale=(self.num_heads * q.shape[-1]) ** -0.5
        ),
    ),
    ScaledTwice=variant(
        BaseAttention,
        attend=lambda self, q, k, v: F.scaled_dot_product_attention(q / math.sqrt(q.shape[-1]), k, v),
    ),
    SoftmaxOverQueries=variant(
        BaseAttention, attend=lambda self, q, k, v: (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-2) @ v
    ),
    ReshapedToMerge=variant(
        BaseAttention, mix_values=lambda self, q, k, v: self.attend(*self.heads(q, k, v)).reshape(q.shape)
    ),
    SplitAlongTokens=variant(
        BaseAttention, forward=lambda self, x: self.proj(self.mix_values(*self.qkv(x).chunk(3, dim=1)))
    ),
    SplitAlongBatch=variant(
        BaseAttention, forward=lambda self, x: self.proj(self.mix_values(*self.qkv(x).chunk(3)))
    ),
    KeysAndValuesExchanged=variant(
        BaseAttention, attend=lambda self, q, k, v: F.scaled_dot_product_attention(q, v, k)
    ),
    QueriesAndValuesExchanged=variant(
        BaseAttention, attend=lambda self, q, k, v: F.scaled_dot_product_attention(v, k, q)
    ),
    QueriesAndKeysExchanged=variant(
        BaseAttention, attend=lambda self, q, k, v: F.scaled_dot_product_attention(k, q, v)
    ),
    NoSoftmax=variant(BaseAttention, attend=lambda self, q, k, v: q @ k.mT / math.sqrt(q.shape[-1]) @ v),
    ScaleUp=variant(
        BaseAttention,
        attend=lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v, scale=math.sqrt(q.shape[-1])),
    ),
    ScaleByTokens=variant(
        BaseAttention,
        attend=lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v, scale=q.shape[-2] ** -0.5),
    ),
    NotMerged=variant(
        BaseAttention, mix_values=lambda self, q, k, v: self.attend(*self.heads(q, k, v)).transpose(1, 2)
    ),
    HeadsInterleaved=variant(
        BaseAttention,
        heads=lambda self, *tensors: [
            rearrange(t, "b t (d h) -> b h t d", h=self.num_heads) for t in tensors
        ],
    ),
    QKVInterleaved=variant(
        BaseAttention,
        forward=lambda self, x: self.proj(
            self.mix_values(*rearrange(self.qkv(x), "b t (d three) -> three b t d", three=3))
        ),
    ),
    SoftmaxOverHeads=variant(
        BaseAttention, attend=lambda self, q, k, v: (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=1) @ v
    ),
    LooksBackOnly=variant(
        BaseAttention, attend=lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    ),
    DropoutInEvaluation=variant(
        BaseAttention, attend=lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)
    ),
    NoBias=variant(BaseAttention, bias=False),
    WeightsDetached=variant(
        BaseAttention, attend=lambda self, q, k, v: vit.scaled_dot_product_attention(q, k, v)[1].detach() @ v
    ),
)


@Attention.mistake
class AcrossTheBatch(BaseAttention):
    def mix_values(self, q, k, v):
        q, k, v = self.heads(*(t.transpose(0, 1) for t in (q, k, v)))
        return vit.merge_heads(F.scaled_dot_product_attention(q, k, v)).transpose(0, 1)


@Attention.mistake
class AcrossTheHeads(BaseAttention):
    def mix_values(self, q, k, v):
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))  # (B, T, h, d)
        return F.scaled_dot_product_attention(q, k, v).flatten(2)


@Attention.mistake
class OnlyReshapes(BaseAttention):
    def mix_values(self, q, k, v):
        B, T, D = q.shape
        q, k, v = (t.reshape(B, self.num_heads, T, D // self.num_heads) for t in (q, k, v))
        return self.attend(q, k, v).reshape(B, T, D)


@Attention.mistake
class ReshapedToSplit(BaseAttention):
    def heads(self, *tensors):
        B, T, D = tensors[0].shape
        return [t.reshape(B, self.num_heads, T, D // self.num_heads) for t in tensors]


@Attention.mistake
class HeadsBeforeQKV(BaseAttention):
    def forward(self, x):
        qkv = rearrange(self.qkv(x), "b t (h three d) -> three b h t d", three=3, h=self.num_heads)
        return self.proj(vit.merge_heads(self.attend(*qkv)))


@Attention.mistake
class NoBiasInProjection(BaseAttention):
    def __init__(self, dim, num_heads):
        super().__init__(dim, num_heads)
        self.proj = nn.Linear(dim, dim, bias=False)


@Attention.mistake
class NoBiasAnywhere(BaseAttention):
    bias = False

    def __init__(self, dim, num_heads):
        super().__init__(dim, num_heads)
        self.proj = nn.Linear(dim, dim, bias=False)


@Attention.mistake
class NoGradient(BaseAttention):
    def forward(self, x):
        return super().forward(x).detach()


@Attention.mistake
class NoProjectionLayer(BaseAttention):
    def __init__(self, dim, num_heads):
        super().__init__(dim, num_heads)
        del self.proj

    def forward(self, x):
        return self.mix_values(*self.qkv(x).chunk(3, dim=-1))


@Attention.mistake
class ValueNotProjected(BaseAttention):
    def forward(self, x):
        q, k, _ = self.qkv(x).chunk(3, dim=-1)
        return self.proj(self.mix_values(q, k, x))


@Attention.mistake
class SkipInside(BaseAttention):
    def forward(self, x):
        return x + super().forward(x)


@Attention.mistake
class WeightsReturnedToo(BaseAttention):
    def forward(self, x):
        q, k, v = self.heads(*self.qkv(x).chunk(3, dim=-1))
        x, weights = vit.scaled_dot_product_attention(q, k, v)
        return self.proj(vit.merge_heads(x)), weights


@Attention.mistake
class DropoutWhileTraining(BaseAttention):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.1, self.training)
