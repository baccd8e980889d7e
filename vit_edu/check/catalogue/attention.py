"""Lesson 03: scaled dot-product attention, heads, and multi-head attention as a module."""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import nn

from vit_edu.check.cases import (
    Case,
    Unfair,
    call,
    drawn,
    filled,
    forward,
    gradients,
    in_double,
    not_contiguous,
    parameters,
    passes_gradient,
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
    call(
        "output and weights for 3 tokens of width 4",
        *_qkv(3, 4),
        hint="Return two values, the output first: `return output, weights`.",
    ),
    call(
        "a batch of 2 with 4 heads",
        *_qkv(2, 4, 5, 8),
        hint="Any number of axes may stand in front: count from the end, -1 is the width and -2 the tokens.",
    ),
    Case(
        "each token spreads one unit of attention: every row of the weights sums to 1",
        _row_sums,
        "Row i holds the weights that token i gives to all tokens.",
    ),
    call("more keys than queries", drawn(1, 3, 8), drawn(1, 5, 8, seed=1), drawn(1, 5, 8, seed=2)),
    call("values of another width", drawn(1, 3, 8), drawn(1, 3, 8, seed=1), drawn(1, 3, 2, seed=2)),
    call("one token: it takes its own value", *_qkv(2, 1, 4)),
    # Width 4, whose root is exact: torch.sqrt(torch.tensor(d)) is float32, and right all the same.
    in_double(*_qkv(2, 3, 4)),
    not_contiguous(*_qkv(2, 3, 4, 8)),
    passes_gradient(*_qkv(3, 4)),
    hints=(
        "Which shape do the scores have, and which of their axes belongs to the keys?",
        "Every query meets every key: one matrix product of q with k, its last two axes exchanged. Divide by √d, make each "
        "row sum to 1, and take the values in these shares.",
        "`scores = q @ k.transpose(...) / ...`, `weights = scores.softmax(dim=...)`, `return weights @ ..., ...`",
    ),
)


@scaled_dot_product_attention.alternative
def with_einsum(q, k, v):
    scores = torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5
    weights = F.softmax(scores, dim=-1)
    return torch.einsum("...ij,...jd->...id", weights, v), weights


@scaled_dot_product_attention.alternative
def scaled_first(q, k, v):
    scores = (q / math.sqrt(q.shape[-1])) @ k.mT
    weights = (scores - scores.logsumexp(dim=-1, keepdim=True)).exp()
    return weights @ v, weights


@scaled_dot_product_attention.alternative
def exponentials_over_their_sum(q, k, v):
    shares = torch.exp(torch.matmul(q, torch.swapaxes(k, -1, -2)) / k.size(-1) ** 0.5)
    weights = shares / shares.sum(-1, keepdim=True)
    return torch.matmul(weights, v), weights


@scaled_dot_product_attention.alternative
def root_as_a_tensor(q, k, v):
    scores = torch.matmul(q, k.transpose(-1, -2)) / torch.sqrt(torch.tensor(q.shape[-1]))
    weights = nn.Softmax(dim=-1)(scores)
    return weights.matmul(v), weights


@scaled_dot_product_attention.alternative
def query_by_query(q, k, v):
    rows = [
        (k @ q[..., i, :, None] / math.sqrt(q.shape[-1])).squeeze(-1).softmax(-1) for i in range(q.shape[-2])
    ]
    weights = torch.stack(rows, dim=-2)
    return (weights[..., None] * v[..., None, :, :]).sum(dim=-2), weights


@scaled_dot_product_attention.alternative
def fused_twice(q, k, v):
    every_key = torch.eye(k.shape[-2], dtype=q.dtype).expand(*k.shape[:-2], -1, -1)
    weights = F.scaled_dot_product_attention(q, k, every_key)
    return F.scaled_dot_product_attention(q, k, v), weights


def _variant(scale, dim=-1):
    def attention(q, k, v):
        weights = (q @ k.transpose(-2, -1) * scale(q.shape[-1])).softmax(dim=dim)
        return weights @ v, weights

    return attention


@scaled_dot_product_attention.mistake(
    "The scale is missing. Scores of width-d vectors have a standard deviation of about the root of d, and the softmax "
    "then puts nearly everything on one key.",
    "Draw q and k at random with d = 1,024 and print one row of weights.",
)
def no_scale(q, k, v):
    return _variant(lambda d: 1.0)(q, k, v)


@scaled_dot_product_attention.mistake(
    "The scores are divided by d instead of its root: they become too small, and the attention too even.",
    "If d numbers of variance 1 are added up, what is the variance of the sum, and what its standard deviation?",
)
def scale_by_d(q, k, v):
    return _variant(lambda d: 1 / d)(q, k, v)


@scaled_dot_product_attention.mistake(
    "The scores are multiplied by the root of d. They should shrink, not grow: divide.",
    "Is `d ** 0.5` larger or smaller than 1, and `d ** -0.5`?",
)
def scale_up(q, k, v):
    return _variant(math.sqrt)(q, k, v)


@scaled_dot_product_attention.mistake(
    "The scale takes the number of keys. What makes scores large is the number of products in each of them: the width d.",
    "A score is a sum of how many products, for 65 tokens of width 16?",
)
def scale_by_number_of_keys(q, k, v):
    return _variant(lambda d: k.shape[-2] ** -0.5)(q, k, v)


@scaled_dot_product_attention.mistake(
    "The scale comes after the softmax: the rows no longer sum to 1, and the softmax has already seen the large scores.",
    "Print the row sums: how much attention does each token have left?",
)
def scaled_after_the_softmax(q, k, v):
    weights = (q @ k.transpose(-2, -1)).softmax(dim=-1) / math.sqrt(q.shape[-1])
    return weights @ v, weights


@scaled_dot_product_attention.mistake(
    "The softmax is missing: these are scores, which may be negative and do not sum to 1.",
    "What would a weight of -0.7 mean, in the picture of one unit of attention to spend?",
)
def no_softmax(q, k, v):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores @ v, scores


@scaled_dot_product_attention.mistake(
    "This is a softmax over the queries: the columns sum to 1. Each *query* should spread one unit of attention over "
    "the keys, so each row should.",
    "Print `weights.sum(-1)` and `weights.sum(-2)`: which of them should be all ones?",
)
def softmax_over_queries(q, k, v):
    return _variant(lambda d: d**-0.5, dim=-2)(q, k, v)


@scaled_dot_product_attention.mistake(
    "The softmax runs over axis 1, counted from the front. That is the keys for (T, S) only; with a batch in front it is "
    "the queries, with heads the heads. Count from the end.",
    "For the shapes (T, S), (B, T, S) and (B, h, T, S), what does axis 1 count each time, and what does axis -1?",
)
def softmax_over_axis_1(q, k, v):
    return _variant(lambda d: d**-0.5, dim=1)(q, k, v)


@scaled_dot_product_attention.mistake(
    "The axes of k are counted from the front. That fits (B, T, d) and nothing else: with heads, or without a batch, other "
    "axes stand there. The two to exchange are the last two.",
    "Let the class say which axes `transpose(1, 2)` exchanges in (T, d), (B, T, d) and (B, h, T, d).",
)
def axes_from_the_front(q, k, v):
    weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights @ v, weights


@scaled_dot_product_attention.mistake(
    "`.T` reverses *all* axes. That is right for (T, d) and nothing else: with a batch in front, the batch ends up last. "
    "Exchange only the last two.",
    "What is the shape of `torch.zeros(2, 4, 65, 16).T`, and what should it be here?",
)
def all_axes_reversed(q, k, v):
    reverse = k.permute(*reversed(range(k.ndim)))
    weights = (q @ reverse / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights @ v, weights


@scaled_dot_product_attention.mistake(
    "The weights are transposed before they meet the values: output i then uses column i. *Row* i says what token i takes.",
    "With weights [[1, 0], [1, 0]], both tokens look at token 0: what should the two outputs be?",
)
def columns_for_rows(q, k, v):
    weights = vit.scaled_dot_product_attention(q, k, v)[1]
    return weights.transpose(-2, -1) @ v, weights


@scaled_dot_product_attention.mistake(
    "The output is right, but the weights are missing: return both, output first.",
    "What does `out, weights = f(q, k, v)` do with a single tensor that has two rows?",
)
def output_only(q, k, v):
    return vit.scaled_dot_product_attention(q, k, v)[0]


@scaled_dot_product_attention.mistake(
    "Both are right, but in the wrong order: first the output, then the weights.",
    "When T = S = d the two have the same shape: what would tell you that they are exchanged?",
)
def exchanged(q, k, v):
    return vit.scaled_dot_product_attention(q, k, v)[::-1]


@scaled_dot_product_attention.mistake(
    "The second value holds the scores before the softmax. The weights are what comes out of the softmax.",
    "Which quick look at one row tells scores from weights?",
)
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
    call("whole numbers stay whole numbers", torch.arange(12).reshape(1, 2, 6), 3),
    in_double(drawn(2, 5, 12), 3),
    not_contiguous(_tokens(2, 5, 12), 3),
    passes_gradient(drawn(1, 3, 4), 2),
    hints=(
        "Take one token by itself, D numbers. What should happen to it when there are 2 heads?",
        "Two steps. D becomes (h, d), where it stands, so that no number leaves its token. Then the head axis moves in front "
        "of the tokens.",
        "`x.reshape(B, T, ..., ...).transpose(...)`",
    ),
)


@split_heads.alternative
def reshape_transpose(x, num_heads):
    B, T, D = x.shape
    return x.reshape(B, T, num_heads, D // num_heads).transpose(1, 2)


@split_heads.alternative
def chunks(x, num_heads):
    return torch.stack(x.chunk(num_heads, dim=-1), dim=1)


@split_heads.alternative
def unflatten_permute(x, num_heads):
    return x.unflatten(-1, (num_heads, -1)).permute(0, 2, 1, 3)


@split_heads.alternative
def slice_by_slice(x, num_heads):
    d = x.shape[-1] // num_heads
    heads = [x[:, None, :, i * d : (i + 1) * d] for i in range(num_heads)]
    return torch.cat(heads, dim=1)


@split_heads.alternative
def width_in_front(x, num_heads):
    B, T, D = x.shape
    return x.mT.reshape(B, num_heads, D // num_heads, T).mT


@split_heads.mistake(
    "A reshape straight to (B, h, T, d) mixes the tokens: row i of a head then does not belong to token i. First split D "
    "into heads, where it stands, then move the axis.",
    "Number the 12 numbers of 3 tokens and write down what head 0 of 2 gets: from which token is each of its rows?",
)
def straight_reshape(x, num_heads):
    B, T, D = x.shape
    return x.reshape(B, num_heads, T, D // num_heads)


@split_heads.mistake(
    "D is split the other way round: head 0 gets every h-th number instead of the first d. In `x.reshape(B, T, h, d)` the "
    "head comes before d.",
    "Deal six cards to three players, once two at a time and once one after the other: which of the two is this?",
)
def interleaved(x, num_heads):
    return rearrange(x, "b t (d h) -> b h t d", h=num_heads)


@split_heads.mistake(
    "Split, but not moved: the result is (B, T, h, d). Attention works on the last two axes, so those have to be T and d.",
    "What would `q @ k.mT` compare here: tokens, or the heads of one token?",
)
def not_moved(x, num_heads):
    B, T, D = x.shape
    return x.reshape(B, T, num_heads, D // num_heads)


@split_heads.mistake(
    "The axes were exchanged before D was split: the reshape then puts numbers of different tokens into one row. Split "
    "first, then exchange.",
    "Follow the first number of token 1 through both steps, by hand.",
)
def transposed_too_early(x, num_heads):
    B, T, D = x.shape
    return x.transpose(1, 2).reshape(B, num_heads, T, D // num_heads)


@split_heads.mistake(
    "Token and width have changed places: the result is (B, h, d, T). That is right for k inside the product, but here "
    "the last axis is the width.",
    "Which axis does the scale √d read from the shape, and what would it find here?",
)
def width_before_tokens(x, num_heads):
    return rearrange(x, "b t (h d) -> b h d t", h=num_heads)


@split_heads.mistake(
    "The number of heads was used as the *width* of a head. There are h heads, each d = D / h wide.",
    "For D = 12 and 3 heads, how wide is one head?",
)
def heads_taken_as_width(x, num_heads):
    return rearrange(x, "b t (h d) -> b h t d", d=num_heads)


@split_heads.mistake(
    "The heads have become part of the batch: (B·h, T, d). The exercise asks for an axis of their own, (B, h, T, d).",
    "How would `merge_heads` know where one image ends and the next begins?",
)
def heads_in_the_batch(x, num_heads):
    return rearrange(x, "b t (h d) -> (b h) t d", h=num_heads)


@split_heads.mistake(
    "The heads come before the batch: (h, B, T, d). The batch stays in front, the heads come second.",
    "What does `result[0]` hold here: one image, or one head of all images?",
)
def heads_before_the_batch(x, num_heads):
    return rearrange(x, "b t (h d) -> h b t d", h=num_heads)


@split_heads.mistake(
    "The result is float32, whatever came in: `torch.zeros(...)` makes that unless it is told otherwise. If you make a new "
    "tensor, take dtype and device from `x`.",
    "What is `torch.zeros(2).dtype`, and what should it be when the model runs in float64 or bfloat16?",
)
def always_float32(x, num_heads):
    B, T, D = x.shape
    heads = torch.zeros(B, num_heads, T, D // num_heads)
    for i, head in enumerate(x.chunk(num_heads, dim=-1)):
        heads[:, i] = head
    return heads


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
    call("whole numbers stay whole numbers", torch.arange(12).reshape(1, 3, 2, 2)),
    in_double(drawn(2, 3, 5, 4)),
    not_contiguous(_tokens(2, 3, 20).reshape(2, 3, 5, 4)),
    passes_gradient(drawn(1, 2, 3, 2)),
    hints=(
        "Which two axes should melt into one, and do they stand side by side?",
        "`split_heads` backwards. A reshape can only join axes that are neighbours, so the head axis first goes back next to "
        "d, with h before d.",
        "`x.transpose(...).reshape(..., ..., -1)`",
    ),
)


@merge_heads.alternative
def transpose_flatten(x):
    return x.transpose(1, 2).flatten(2)


@merge_heads.alternative
def concatenate(x):
    return torch.cat(x.unbind(dim=1), dim=-1)


@merge_heads.alternative
def permute_contiguous_view(x):
    B, h, T, d = x.shape
    return x.permute(0, 2, 1, 3).contiguous().view(B, T, h * d)


@merge_heads.alternative
def token_by_token(x):
    return torch.stack([x[:, :, t].reshape(len(x), -1) for t in range(x.shape[2])], dim=1)


@merge_heads.alternative
def into_an_empty_tensor(x):
    B, h, T, d = x.shape
    result = x.new_empty(B, T, h * d)
    for i in range(h):
        result[..., i * d : (i + 1) * d] = x[:, i]
    return result


@merge_heads.mistake(
    "A reshape straight to (B, T, D) mixes the tokens. Undo `split_heads` in reverse: move the head axis back next to d, "
    "then merge the two.",
    "Fill head 0 with zeros and head 1 with ones: what should every token look like, and what does it look like here?",
)
def straight_merge(x):
    B, h, T, d = x.shape
    return x.reshape(B, T, h * d)


@merge_heads.mistake(
    "After a transpose the numbers no longer lie in memory in the order of the axes, and `.view` cannot join them. "
    "`.reshape` copies where it must; `.contiguous()` before `.view` does the same.",
    "Print `x.stride()` before and after `transpose(1, 2)`.",
)
def view_after_transpose(x):
    B, h, T, d = x.shape
    return x.transpose(1, 2).view(B, T, h * d)


@merge_heads.mistake(
    "The heads are interleaved: the numbers of head 0 and head 1 alternate. Each head's d numbers should stay together.",
    "Split and merge the numbers 0 to 5 with two heads: do they come back in order?",
)
def merged_interleaved(x):
    return rearrange(x, "b h t d -> b t (d h)")


@merge_heads.mistake(
    "The heads are averaged. They hold different things and stand side by side, h·d numbers for each token; `proj` mixes "
    "them later.",
    "Two heads found +1 and -1: what is left of that after a mean?",
)
def heads_averaged(x):
    return x.mean(dim=1)


@merge_heads.mistake(
    "The heads are added up, and the result has width d. They stand side by side: h·d numbers for each token.",
    "How many numbers go in, how many come out, and can `split_heads` get them back?",
)
def heads_added_up(x):
    return x.sum(dim=1)


@merge_heads.mistake(
    "Heads and *tokens* were merged: (B, h·T, d). Each token should come back once, h·d wide.",
    "How many tokens does an image with 65 tokens and 4 heads have after this?",
)
def heads_as_more_tokens(x):
    return x.flatten(1, 2)


@merge_heads.mistake(
    "The head axis has been moved back, but not merged with d: the result still has four axes.",
    "Read the last line of the docstring aloud and count its axes.",
)
def moved_not_merged(x):
    return x.transpose(1, 2)


@merge_heads.mistake(
    "Token and width were exchanged before the reshape; it has to be head and token. A reshape joins neighbours: (B, T, h, "
    "d) has h next to d.",
    "Write the four axis names on cards and exchange two of them until `h` and `d` are neighbours in this order.",
)
def token_and_width_exchanged(x):
    B, h, T, d = x.shape
    return x.transpose(2, 3).reshape(B, T, h * d)


@merge_heads.mistake(
    "Only the first head comes back. All h of them belong side by side, h·d numbers for each token.",
    "What would the other heads learn if nobody ever read them?",
)
def first_head_only(x):
    return x[:, 0]


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
    out = module(x)
    if not isinstance(out, torch.Tensor):
        raise Unfair(f"expected one tensor, got a {type(out).__name__}")
    if not out.requires_grad:
        raise Unfair("the output is cut off from the gradient")
    (out * drawn(*out.shape, seed=1)).sum().backward()
    if x.grad is None:
        raise Unfair("no gradient reaches the input: nothing before this layer could learn")
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
        "in training mode, the same",
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
        "Attention knows no order of tokens.",
        kind="weights",
    ),
    Case(
        "the images of a batch do not look at each other",
        _independence,
        "Image 0 must give the same alone and in a batch: the batch axis stays out of every product.",
        kind="weights",
    ),
    gradients("everything can learn", inputs=(drawn(2, 5, 12),), **_small),
    Case(
        "the gradient of the input",
        _input_gradient,
        "Do not use .data, .detach() or no_grad on the way; the weights pass a gradient as well.",
        1e-4,
        kind="weights",
    ),
    hints=(
        "Follow the shapes from (B, T, D) to (B, T, D): which of your three functions makes which step?",
        "One product makes q, k and v, each D wide. Each is split into heads, the heads attend, all of them at once, and are "
        "merged again. `proj` comes last.",
        "`q, k, v = self.qkv(x).chunk(..., dim=...)`, then `q, k, v = (split_heads(y, ...) for y in ...)`, "
        "`x, _ = scaled_dot_product_attention(...)`, `return self.proj(...)`",
    ),
)


class _Attention(nn.Module):
    """What alternatives and mistakes have in common; each has its own `mix`, from q, k, v (B, T, D) to (B, T, D)."""

    bias = True

    def __init__(self, dim, num_heads=8):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=self.bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        return self.proj(self.mix(*self.qkv(x).chunk(3, dim=-1)))

    def mix(self, q, k, v):
        return vit.merge_heads(self.attend(*self.heads(q, k, v)))

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

    def heads(self, *tensors):
        return [vit.split_heads(t, self.num_heads) for t in tensors]


@Attention.alternative
class ByHand(_Attention):
    def attend(self, q, k, v):
        return vit.scaled_dot_product_attention(q, k, v)[0]


@Attention.alternative
class ReshapeLikeTimm(_Attention):
    def forward(self, x):
        B, T, D = x.shape
        qkv = self.qkv(x).reshape(B, T, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
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


@Attention.alternative
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


@Attention.alternative
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


@Attention.alternative
class ListOfHeads(nn.Module):
    def __init__(self, dim, num_heads=8):
        super().__init__()
        self.heads = nn.ModuleList(_Head(dim, dim // num_heads) for _ in range(num_heads))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


@Attention.mistake(
    "Attention runs across the batch: images exchange information, tokens do not. The batch axis must stay out of the "
    "product. In `torch.nn.MultiheadAttention`, forgetting batch_first=True does this.",
    "Run one image alone and then in a batch of four: why does its result change?",
)
class AcrossTheBatch(_Attention):
    def mix(self, q, k, v):
        q, k, v = self.heads(*(t.transpose(0, 1) for t in (q, k, v)))
        return vit.merge_heads(F.scaled_dot_product_attention(q, k, v)).transpose(0, 1)


@Attention.mistake(
    "Attention runs over the heads: each token looks at its own heads and never at another token. Before the product the "
    "head axis has to move in front of the tokens, (B, h, T, d).",
    "Change token 3 of an image: which outputs should change, and which do?",
)
class AcrossTheHeads(_Attention):
    def mix(self, q, k, v):
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v))  # (B, T, h, d)
        return F.scaled_dot_product_attention(q, k, v).flatten(2)


@Attention.mistake(
    "All of D is one head: the scores are taken over the whole width. Split q, k and v into heads before the product.",
    "Change `num_heads` from 1 to 4: should the output be the same?",
)
class NoHeads(_Attention):
    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


@Attention.mistake(
    "The output projection `proj` is never applied: what the heads found stays side by side, unmixed.",
    "After one backward pass, print `module.proj.weight.grad`.",
)
class NoProjection(_Attention):
    def forward(self, x):
        return self.mix(*self.qkv(x).chunk(3, dim=-1))


@Attention.mistake(
    "The scores are not scaled: divide by the root of d, the width of one head.",
    "Compare one row of weights with and without the scale for heads of width 64.",
)
class NoScale(_Attention):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)


@Attention.mistake(
    "The scale uses D, the full width. Each head works with vectors of width d = D / h, so it is the root of d.",
    "For D = 64 and 4 heads, how many products does one score add up?",
)
class ScaleByFullWidth(_Attention):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, scale=(self.num_heads * q.shape[-1]) ** -0.5)


@Attention.mistake(
    "The scale is applied twice: `F.scaled_dot_product_attention` divides by the root of d by itself.",
    "What does the word *scaled* in the name of the function promise?",
)
class ScaledTwice(_Attention):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q / math.sqrt(q.shape[-1]), k, v)


@Attention.mistake(
    "The softmax runs over the queries: the columns of the weights sum to 1, and a token can come away with nothing. It "
    "belongs over the keys, the last axis.",
    "Print the row sums of the weights for one head.",
)
class SoftmaxOverQueries(_Attention):
    def attend(self, q, k, v):
        return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-2) @ v


@Attention.mistake(
    "The heads are made and merged with a reshape alone. The shapes fit, but the tokens are mixed: row i of a head does not "
    "belong to token i. Use `split_heads` and `merge_heads`.",
    "Permute the tokens of the input: is the output only permuted?",
)
class OnlyReshapes(_Attention):
    def mix(self, q, k, v):
        B, T, D = q.shape
        q, k, v = (t.reshape(B, self.num_heads, T, D // self.num_heads) for t in (q, k, v))
        return self.attend(q, k, v).reshape(B, T, D)


@Attention.mistake(
    "The heads are split with a reshape alone, which mixes the tokens. Use `split_heads`: split D, then move the axis.",
    "Which check of exercise 2 would this have failed?",
)
class ReshapedToSplit(_Attention):
    def heads(self, *tensors):
        B, T, D = tensors[0].shape
        return [t.reshape(B, self.num_heads, T, D // self.num_heads) for t in tensors]


@Attention.mistake(
    "The heads are put back together with a reshape alone, which mixes the tokens. Use `merge_heads`.",
    "With the shape (B, h, T, d), which numbers does a reshape to (B, T, D) put into token 0?",
)
class ReshapedToMerge(_Attention):
    def mix(self, q, k, v):
        return self.attend(*self.heads(q, k, v)).reshape(q.shape)


@Attention.mistake(
    "Queries and keys are exchanged: the first third of `qkv` is q, the second k, the third v. Nothing crashes, but "
    "published weights would give other numbers.",
    'Transpose the picture of the weights: is "I look at you" the same as "you look at me"?',
)
class QueriesAndKeysExchanged(_Attention):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(k, q, v)


@Attention.mistake(
    "The outputs of `qkv` are read head by head, as (h, 3, d). The exercise has q for all heads first, then k, then v: "
    "(3, h, d).",
    "With D = 4 and 2 heads, write the 12 outputs of `qkv` in a row and mark the ones that are queries.",
)
class HeadsBeforeQKV(_Attention):
    def forward(self, x):
        qkv = rearrange(self.qkv(x), "b t (h three d) -> three b h t d", three=3, h=self.num_heads)
        return self.proj(vit.merge_heads(self.attend(*qkv)))


@Attention.mistake(
    "The input itself is used as the value, and the last third of `qkv` is never read. A value is a projection too.",
    "After one backward pass, look at the last D rows of `qkv.weight.grad`.",
)
class ValueNotProjected(_Attention):
    def forward(self, x):
        q, k, _ = self.qkv(x).chunk(3, dim=-1)
        return self.proj(self.mix(q, k, x))


@Attention.mistake(
    "The input is added to the output. A skip connection belongs around this module, in the block of lesson 04; here the "
    "output is that of `proj`.",
    "If the block of the next lesson adds x once more, how often does the input count?",
)
class SkipInside(_Attention):
    def forward(self, x):
        return x + super().forward(x)


@Attention.mistake(
    "Two values come back. The module returns one tensor, (B, T, D); the weights stay inside.",
    "What would `x + attention(x)` in the block of the next lesson do with two values?",
)
class WeightsReturnedToo(_Attention):
    def forward(self, x):
        q, k, v = self.heads(*self.qkv(x).chunk(3, dim=-1))
        x, weights = vit.scaled_dot_product_attention(q, k, v)
        return self.proj(vit.merge_heads(x)), weights


@Attention.mistake(
    "Each token sees only itself and those before it: a causal mask, as in language models. Patches have no before and "
    "after; every token looks at all.",
    "What can the class token, which is token 0, see with such a mask?",
)
class LooksBackOnly(_Attention):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@Attention.mistake(
    "Dropout is at work even in evaluation. `F.scaled_dot_product_attention` does not know the mode: its `dropout_p` always "
    "acts. This exercise needs none.",
    "Call `module.eval()`, run the same image twice and compare.",
)
class DropoutInEvaluation(_Attention):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)


@Attention.mistake(
    "A dropout changes the result during training. The exercise asks for none: both modes give the same.",
    "Run the same image twice in training mode: what differs, and who asked for it?",
)
class DropoutWhileTraining(_Attention):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.1, self.training)


@Attention.mistake(
    "`qkv` has no bias. Some code leaves it out; the ViT and its published weights have one. `nn.Linear` makes one unless "
    "it is told not to.",
    "What does `load_state_dict` say when the file has a `qkv.bias` and the model has none?",
)
class NoBias(_Attention):
    bias = False


@Attention.mistake(
    "The attention weights are cut off from the gradient, by `no_grad`, `.data` or `.detach()`: queries and keys would "
    "never learn where to look.",
    "After one backward pass, look at the first 2 D rows of `qkv.weight.grad`.",
)
class WeightsDetached(_Attention):
    def attend(self, q, k, v):
        return vit.scaled_dot_product_attention(q, k, v)[1].detach() @ v


EXERCISES = [scaled_dot_product_attention, split_heads, merge_heads, Attention]
