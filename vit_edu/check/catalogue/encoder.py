"""Lesson 04: layer norm, MLP, stochastic depth, the pre-norm block, the stack."""

import itertools
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from vit_edu.check.cases import (
    Case,
    CaseFailed,
    apply,
    build,
    call,
    drawn,
    fill,
    filled,
    find_layout,
    forward,
    gradients,
    in_double,
    not_contiguous,
    parameters,
    passes_gradient,
)
from vit_edu.check.engine import Exercise, variant
from vit_edu.check.probes import Sizes
from vit_edu.models import vit

# ---------------------------------------------------------------- layer norm

_weight, _bias = drawn(8, seed=1), drawn(8, seed=2)

_small = (torch.tensor([[1.0, 3.0]]), torch.tensor([10.0, 10.0]), torch.tensor([0.0, 5.0]))

# With tokens of very different sizes, errors in eps, its place and the axis all show.
_uneven = drawn(2, 3, 8) * torch.tensor([1e-3, 1.0, 100.0])[:, None]


class _NoLayerNorm(TorchFunctionMode):
    """Refuses torch's own layer norm under any of its names; nn.LayerNorm calls it, too."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("layer_norm", "native_layer_norm"):
            raise CaseFailed("F.layer_norm or nn.LayerNorm does the work here")
        return function(*args, **(kwargs or {}))


def _by_hand(candidate):
    with _NoLayerNorm():
        candidate(drawn(2, 3, 8), _weight, _bias)
    return True


layer_norm = Exercise(
    vit.layer_norm,
    call("the token (1, 3), with weight (10, 10) and bias (0, 5)", *_small),
    call("2 images, 3 tokens of width 8", drawn(2, 3, 8), _weight, _bias),
    call("tokens of very different sizes", _uneven, _weight, _bias, tolerance=1e-4),
    call(
        "a token with a large mean: (9999, 10001)",
        torch.tensor([[9999.0, 10001.0]]),
        torch.ones(2),
        torch.zeros(2),
        tolerance=1e-3,
        hint="Subtract the mean first, then square: float32 has only seven digits.",
    ),
    call(
        "a large eps, 0.5",
        drawn(2, 3, 8),
        _weight,
        _bias,
        0.5,
        hint="eps is added to the variance, inside the root.",
    ),
    call("5 tokens, with no batch axis", drawn(5, 4), torch.ones(4), torch.zeros(4)),
    call("a single token, with no other axis", drawn(4), torch.ones(4), torch.zeros(4)),
    call("one more axis in front", drawn(2, 2, 3, 8), _weight, _bias),
    call(
        "a token of equal numbers gives the bias, not NaN",
        torch.full((1, 2, 8), 2.0),
        _weight,
        _bias,
    ),
    Case(
        "it is written out, without F.layer_norm or nn.LayerNorm",
        _by_hand,
        "Write out the mean, the variance, the root, weight and bias.",
    ),
    not_contiguous(drawn(2, 3, 8), _weight, _bias),
    in_double(drawn(2, 3, 8), _weight, _bias),
    passes_gradient(
        drawn(1, 2, 8),
        _weight,
        _bias,
        hint="Mean and variance depend on x, too, so the gradient goes through them (no .detach(), no no_grad).",
    ),
    # So small that every eps shows
    sizes=Sizes(
        lambda images, tokens, width, eps: call(
            "", drawn(images, tokens, width) / 100, drawn(width, seed=1), drawn(width, seed=2), eps
        ),
        images=(5, 3, 2, 8),
        tokens=(7, 6, 17, 65, 5),
        width=(12, 9, 64, 32, 8),
        eps=(0.03, 0.002, 1e-6, 1e-5, 0.5),
    ),
)


def _norm(x, weight, bias, eps, dim=-1, unbiased=False):
    mean, var = x.mean(dim, keepdim=True), x.var(dim, keepdim=True, unbiased=unbiased)
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


layer_norm.add_mistakes(
    unbiased_variance=lambda x, weight, bias, eps=1e-6: _norm(x, weight, bias, eps, unbiased=True),
    unbiased_std_plus_eps=lambda x, weight, bias, eps=1e-6: (
        (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps) * weight + bias
    ),
    bare_std=lambda x, weight, bias, eps=1e-6: _norm(x, weight, bias, 0.0, unbiased=True),
    over_tokens=lambda x, weight, bias, eps=1e-6: _norm(x, weight, bias, eps, dim=-2),
    over_axis_one=lambda x, weight, bias, eps=1e-6: _norm(x, weight, bias, eps, dim=1),
    over_axis_two=lambda x, weight, bias, eps=1e-6: _norm(x, weight, bias, eps, dim=2),
    over_batch=lambda x, weight, bias, eps=1e-6: _norm(x, weight, bias, eps, dim=0),
    over_tokens_and_width=lambda x, weight, bias, eps=1e-6: _norm(x, weight, bias, eps, dim=(-2, -1)),
    over_everything=lambda x, weight, bias, eps=1e-6: (
        (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + eps) * weight + bias
    ),
    without_keepdim=lambda x, weight, bias, eps=1e-6: (
        (x - x.mean(-1)) / torch.sqrt(x.var(-1, unbiased=False) + eps) * weight + bias
    ),
    bias_missing=lambda x, weight, bias, eps=1e-6: _norm(x, weight, 0.0, eps),
    weight_missing=lambda x, weight, bias, eps=1e-6: _norm(x, 1.0, bias, eps),
    mean_left_in=lambda x, weight, bias, eps=1e-6: (
        x / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + eps) * weight + bias
    ),
    statistics_detached=lambda x, weight, bias, eps=1e-6: (
        (x - x.mean(-1, keepdim=True).detach())
        / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + eps).detach()
        * weight
        + bias
    ),
    norm_detached=lambda x, weight, bias, eps=1e-6: _norm(x, weight, bias, eps).detach(),
    not_centred=lambda x, weight, bias, eps=1e-6: (
        x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight + bias
    ),
    parentheses_missing=lambda x, weight, bias, eps=1e-6: (
        x
        - x.mean(-1, keepdim=True) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + eps) * weight
        + bias
    ),
    squares_summed=lambda x, weight, bias, eps=1e-6: _norm(
        x, weight * x.shape[-1] ** -0.5, bias, eps / x.shape[-1]
    ),
    no_affine=lambda x, weight, bias, eps=1e-6: _norm(x, 1.0, 0.0, eps),
    bias_is_scaled=lambda x, weight, bias, eps=1e-6: (_norm(x, 1.0, 0.0, eps) + bias) * weight,
    no_eps=lambda x, weight, bias, eps=1e-6: _norm(x, weight, bias, 0.0),
    fixed_eps=lambda x, weight, bias, eps=1e-6: _norm(x, weight, bias, 1e-6),
    default_eps=lambda x, weight, bias, eps=1e-5: _norm(x, weight, bias, eps),
    fixed_eps_of_torch=lambda x, weight, bias, eps=1e-6: _norm(x, weight, bias, 1e-5),
    by_the_library=lambda x, weight, bias, eps=1e-6: F.layer_norm(x, x.shape[-1:], weight, bias, eps),
)


@layer_norm.mistake
def eps_outside(x, weight, bias, eps=1e-6):
    std = x.std(-1, keepdim=True, unbiased=False)
    return (x - x.mean(-1, keepdim=True)) / (std + eps) * weight + bias


@layer_norm.mistake
def no_root(x, weight, bias, eps=1e-6):
    var = x.var(-1, keepdim=True, unbiased=False)
    return (x - x.mean(-1, keepdim=True)) / (var + eps) * weight + bias


@layer_norm.mistake
def mean_square_minus_squared_mean(x, weight, bias, eps=1e-6):
    mean = x.mean(-1, keepdim=True)
    var = (x**2).mean(-1, keepdim=True) - mean**2
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


@layer_norm.mistake
def changes_x(x, weight, bias, eps=1e-6):
    x -= x.mean(-1, keepdim=True)
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight + bias


# ---------------------------------------------------------------- MLP

_mlp = 7, 10  # width and hidden width, not four times as wide


def _same_in_training(name, *sizes, hint="Nothing in it is random.", **named):
    def run(candidate):
        module, x = build(candidate, *sizes, **named), drawn(100, 2, next(iter([*sizes, *named.values()])))
        return torch.allclose(module.train()(x.clone()), module.eval()(x.clone()), atol=1e-5)

    return Case(name, run, hint)


Mlp = Exercise(
    vit.Mlp,
    parameters("names and shapes of the parameters", *_mlp, hint="fc1 from D to hidden, fc2 back to D."),
    forward("1 token of width 2", 2, 3, inputs=(drawn(1, 1, 2),)),
    forward("2 images of 5 tokens", *_mlp, inputs=(drawn(2, 5, 7),)),
    forward(
        "a hidden layer that is narrower",
        8,
        4,
        inputs=(drawn(1, 3, 8),),
    ),
    _same_in_training("the same in training as in evaluation", *_mlp),
    forward(
        "numbers in float64, to six digits: the exact GELU",
        *_mlp,
        inputs=(drawn(1, 2, 7),),
        double=True,
        tolerance=1e-6,
        hint="nn.GELU() is exact; approximate='tanh' and x * sigmoid(1.702 x) only approximate it. "
        "Do not fix the dtype either.",
    ),
    gradients("everything can learn", *_mlp, inputs=(drawn(2, 5, 7),)),
    sizes=Sizes(
        lambda images, tokens, width, hidden: forward(
            "", width, hidden, inputs=(drawn(images, tokens, width),)
        ),
        images=(5, 3, 2),
        tokens=(7, 6, 17, 65),
        width=(12, 9, 64, 32, 6),
        hidden=(20, 30, 256, 128, 24),
    ),
)


class BaseMlp(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, in_features)


Mlp.add_mistakes(
    NoActivation=variant(BaseMlp, forward=lambda self, x: self.fc2(self.fc1(x))),
    ReluMlp=variant(BaseMlp, forward=lambda self, x: self.fc2(self.fc1(x).relu())),
    SiluMlp=variant(BaseMlp, forward=lambda self, x: self.fc2(F.silu(self.fc1(x)))),
    TanhMlp=variant(BaseMlp, forward=lambda self, x: self.fc2(self.fc1(x).tanh())),
    SigmoidMlp=variant(BaseMlp, forward=lambda self, x: self.fc2(self.fc1(x).sigmoid())),
    TanhGelu=variant(BaseMlp, forward=lambda self, x: self.fc2(F.gelu(self.fc1(x), approximate="tanh"))),
    ActivationFirst=variant(BaseMlp, forward=lambda self, x: self.fc2(self.fc1(F.gelu(x)))),
    ActivationOnlyAtEnd=variant(BaseMlp, forward=lambda self, x: F.gelu(self.fc2(self.fc1(x)))),
    ActivationAtEnd=variant(BaseMlp, forward=lambda self, x: F.gelu(self.fc2(F.gelu(self.fc1(x))))),
    SkipInside=variant(BaseMlp, forward=lambda self, x: x + self.fc2(F.gelu(self.fc1(x)))),
    DropoutAlways=variant(BaseMlp, forward=lambda self, x: self.fc2(F.dropout(F.gelu(self.fc1(x)), 0.1))),
    DropoutInside=variant(
        BaseMlp, forward=lambda self, x: self.fc2(F.dropout(F.gelu(self.fc1(x)), 0.1, self.training))
    ),
)


@Mlp.mistake
class QuickGelu(BaseMlp):
    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


@Mlp.mistake
class NoBiasInFc1(BaseMlp):
    def __init__(self, in_features, hidden_features):
        super().__init__(in_features, hidden_features)
        self.fc1.bias = None

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


@Mlp.mistake
class NoBiasInFc2(BaseMlp):
    def __init__(self, in_features, hidden_features):
        super().__init__(in_features, hidden_features)
        self.fc2.bias = None

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


@Mlp.mistake
class NothingReturned(BaseMlp):
    def forward(self, x):
        self.fc2(F.gelu(self.fc1(x)))


@Mlp.mistake
class NoGradient(BaseMlp):
    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x))).detach()


@Mlp.mistake
class AlwaysFourTimes(BaseMlp):
    def __init__(self, in_features, hidden_features):
        super().__init__(in_features, 4 * in_features)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


@Mlp.mistake
class NoBias(BaseMlp):
    def __init__(self, in_features, hidden_features):
        super().__init__(in_features, hidden_features)
        self.fc1.bias = self.fc2.bias = None

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


# ---------------------------------------------------------------- stochastic depth


def _drop(observe, *shape, rate=0.25, training=True, dtype=torch.float32):
    """What a case with a drop rate runs: `observe` gets the factor by which each number was multiplied."""
    x = drawn(*shape).abs().add(1).to(dtype)

    def run(candidate):
        out = apply(candidate, x, rate, training)
        if isinstance(out, torch.Tensor) and out.shape[1:] == x.shape[1:] and len(out) < len(x):
            raise CaseFailed("images are missing from the result: it should be as long as x")
        if not isinstance(out, torch.Tensor) or out.shape != x.shape:
            came = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise CaseFailed("expected a tensor of shape {shape}, got {got}", shape=tuple(x.shape), got=came)
        if training:
            _refuse_one_draw(candidate, x)
        return observe(out.div(x).mul(1000).round() / 1000)

    return run


def _refuse_one_draw(candidate, x):
    """CaseFailed if all images of a batch lose the branch together, or none does. What follows is then a matter of luck."""
    few = x[:16]
    factors = [apply(candidate, few, 0.25, True).div(few) for _ in range(40)]
    if all((f - f[:1]).abs().max() < 1e-3 for f in factors):
        first = factors[0].flatten()[0]
        if any((f.flatten()[0] - first).abs() > 1e-3 for f in factors):
            raise CaseFailed("all images of a batch lose the branch together, or none of them does")


def _draws(*axes):
    """Says along which axes of the result the draws differ; axes are their names."""

    def observe(factor):
        return {
            f"the {name}": "one draw for all"
            if (factor == factor.narrow(i, 0, 1)).all()
            else "a draw for each"
            for i, name in enumerate(axes)
        }

    return observe


def _lost(factor):
    return round((factor == 0).float().mean().item() * 20) / 20


def _mean(factor):
    return round(factor.mean().item() * 20) / 20


def _largest(factor):
    return round(factor.max().item(), 3)


def _drawn_again(candidate):
    x = torch.ones(100, 2)
    first = apply(candidate, x, 0.5, True)
    return not all(torch.equal(first, apply(candidate, x, 0.5, True)) for _ in range(20))


def _passes_what_is_kept(candidate):
    x = torch.ones(100, 2, 3, requires_grad=True)
    _refuse_one_draw(candidate, x.detach())
    out = candidate(x, 0.25, True)
    if not out.requires_grad:
        raise CaseFailed("the result is cut off from the gradient, so nothing before it could learn")
    out.sum().backward()
    return torch.allclose(x.grad, out)


def _drop_case(rate, tokens, width):
    if rate in (0.5, 1.0):
        raise ValueError("what is lost and what is kept look alike, or nothing is kept")
    return Case("", _drop(lambda factor: [_lost(factor), _largest(factor)], 4000, tokens, width, rate=rate))


drop_path = Exercise(
    vit.drop_path,
    Case(
        "in evaluation nothing is dropped or scaled: share of zeros, largest factor",
        _drop(lambda f: [_lost(f), _largest(f)], 1000, 2, 3, training=False),
    ),
    # Axes of the same length, so that a mask with too few of them does not stop here.
    call("rate 0 drops nothing", drawn(4, 4, 4), 0.0, True),
    Case(
        "an image keeps its whole branch or loses all of it",
        _drop(_draws("images", "tokens of an image", "numbers of a token"), 400, 2, 3),
        "Draw one number for each image, of shape (B, 1, 1).",
    ),
    Case(
        "with rate 0.25, about a quarter of the images lose their branch",
        _drop(_lost, 10_000, 2, 3),
        "drop_prob is the probability of *losing* the branch, and each image is drawn independently.",
    ),
    Case(
        "with rate 0.6, what is kept is divided by the probability of keeping it, 0.4",
        _drop(_largest, 1000, 2, 3, rate=0.6),
        "Two fifths of the images must make up for all of them.",
    ),
    Case(
        "the mean over 20,000 images is the same as in evaluation: its factor is 1",
        _drop(_mean, 20_000, 2, 3, rate=0.6),
        "The probability of keeping an image, times the factor of what is kept, should be 1.",
    ),
    Case(
        "two axes, (B, D)",
        _drop(_draws("images", "numbers of an image"), 400, 5),
        "The mask has as many axes as x, and all but the first have length 1.",
    ),
    Case(
        "four axes, (B, C, H, W)",
        _drop(_draws("images", "channels", "rows", "columns"), 400, 2, 2, 3),
        "The mask has as many axes as x, and all but the first have length 1.",
    ),
    Case(
        "a second call draws again",
        _drawn_again,
        "Each call leaves it to chance which images lose their branch.",
    ),
    Case(
        "numbers in float64 give an answer in float64",
        _drop(lambda factor: str(factor.dtype), 8, 2, 3, dtype=torch.float64),
        "x.new_empty and x.new_zeros take dtype and device from x.",
    ),
    Case(
        "the gradient reaches the images that are kept, with the same factor",
        _passes_what_is_kept,
        "Do not use .data, .detach() or no_grad on the way.",
    ),
    sizes=Sizes(
        _drop_case,
        rate=(0.4, 0.7, 0.1, 0.2, 0.25),
        tokens=(2, 5),
        width=(5, 3),
    ),
)


def _mask(x, probability):
    return x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(probability)


def _masked(x, drop_prob, training, *shape):
    """Right, except for the shape of the mask."""
    if not training or drop_prob == 0:
        return x
    return x * x.new_empty(shape).bernoulli_(1 - drop_prob) / (1 - drop_prob)


drop_path.add_mistakes(
    plain_dropout=lambda x, drop_prob, training: F.dropout(x, drop_prob, training),
    a_draw_for_each_token=lambda x, drop_prob, training: _masked(x, drop_prob, training, *x.shape[:-1], 1),
    one_draw_for_the_batch=lambda x, drop_prob, training: _masked(x, drop_prob, training, *[1] * x.ndim),
    mask_of_three_axes=lambda x, drop_prob, training: _masked(x, drop_prob, training, len(x), 1, 1),
    normal_draws=lambda x, drop_prob, training: (
        x * (torch.randn(len(x), *[1] * (x.ndim - 1)) >= drop_prob) / (1 - drop_prob) if training else x
    ),
    mask_of_one_axis=lambda x, drop_prob, training: _masked(x, drop_prob, training, len(x)),
    mask_of_two_axes=lambda x, drop_prob, training: _masked(x, drop_prob, training, len(x), 1),
    rescaled_in_evaluation=lambda x, drop_prob, training: (
        not_rescaled(x, drop_prob, True) if training else x * (1 - drop_prob)
    ),
    multiplied_by_keep=lambda x, drop_prob, training: (
        x * _mask(x, 1 - drop_prob) * (1 - drop_prob) if training else x
    ),
    in_evaluation=lambda x, drop_prob, training: vit.drop_path(x, drop_prob, True),
    drops_nothing=lambda x, drop_prob, training: x,
    only_in_evaluation=lambda x, drop_prob, training: vit.drop_path(x, drop_prob, not training),
    divided_by_drop=lambda x, drop_prob, training: x * _mask(x, 1 - drop_prob) / drop_prob if training else x,
    drop_read_as_keep=lambda x, drop_prob, training: x * _mask(x, drop_prob) / drop_prob if training else x,
    mask_of_the_dropped=lambda x, drop_prob, training: (
        x * _mask(x, drop_prob) / (1 - drop_prob) if training else x
    ),
)


@drop_path.mistake
def not_rescaled(x, drop_prob, training):
    return x * _mask(x, 1 - drop_prob) if training else x


@drop_path.mistake
def changes_x_itself(x, drop_prob, training):
    return x.mul_(_mask(x, 1 - drop_prob) / (1 - drop_prob)) if training else x


@drop_path.mistake
def dropped_removed(x, drop_prob, training):
    return x[_mask(x, 1 - drop_prob).flatten().bool()] / (1 - drop_prob) if training else x


@drop_path.mistake
def same_images_each_time(x, drop_prob, training):
    torch.manual_seed(0)
    return vit.drop_path(x, drop_prob, training)


# ---------------------------------------------------------------- block

_block = {"dim": 8, "num_heads": 2}


def _share_unchanged(block):
    """The share of 2,500 images in training that come out unchanged, because both branches were dropped."""
    x = drawn(1, 1, 8).repeat(2500, 1, 1)
    with torch.no_grad():
        return (block.train()(x.clone()) == x).flatten(1).all(1).float().mean().item()


def _rate(block):
    """The drop rate that follows from this share, in tenths; each image is drawn twice, independently."""
    return round(_share_unchanged(block) ** 0.5, 1)


def _other_eps(module):
    return {
        f"eps of {name}": m.eps
        for name, m in module.named_modules()
        if isinstance(m, nn.LayerNorm) and m.eps != 1e-6
    }


def _settled_in_evaluation(candidate):
    x = drawn(1, 2, 8).repeat(100, 1, 1)
    module = build(candidate, **_block, drop_path=0.5).eval()
    return torch.allclose(module(x.clone()), module(x[:1].clone()), atol=1e-4)


def _skip_is_clean(candidate):
    module = build(candidate, **_block).eval()
    with torch.no_grad():
        for value in module.parameters():  # then both branches give zero, whatever they are called
            value.zero_()
    x = drawn(2, 5, 8)
    return torch.allclose(module(x.clone()), x, atol=1e-6)


def _rates_of_two(candidate):
    low, high = (_rate(build(candidate, **_block, drop_path=rate)) for rate in (0.4, 0.8))
    if low == high and low:
        raise CaseFailed("the drop rate is the same for drop_path=0.4 and drop_path=0.8")
    return [low, high]


def _which_are_dropped(candidate):
    """Which of the results that are possible with drop_path=0.5 occur among 400 copies of one image."""
    sizes, x = {**_block, "drop_path": 0.5}, drawn(1, 3, 8)
    if candidate.build is not candidate.reference:
        find_layout(candidate, (x,), (), sizes, 1e-4)
    module, ours = filled(candidate, **sizes).train(), fill(candidate.reference(**sizes))
    torch.manual_seed(0)
    found, words = {}, {2: "doubled", 1: "unchanged", 0: "dropped"}
    with torch.no_grad():
        left = out = module(x.repeat(400, 1, 1))
        for attn, mlp in itertools.product(words, words):
            y = x + attn * ours.attn(ours.norm1(x))
            y = y + mlp * ours.mlp(ours.norm2(y))
            if _same(out, y).any():
                found[f"attention {words[attn]}, MLP {words[mlp]}"] = "among 400 images"
            left = left[~_same(left, y)]
        others = 0
        while len(left) and others < 5:
            left, others = left[~_same(left, left[:1])], others + 1
    if others:
        found["another result"] = f"{others} kinds" if others < 5 else "many kinds"
    return found


def _same(images, image):
    return torch.isclose(images, image, rtol=1e-3, atol=1e-3).flatten(1).all(1)


Block = Exercise(
    vit.Block,
    parameters(
        "names and shapes of the parameters",
        **_block,
        hint="norm1, attn (an Attention), norm2, mlp (an Mlp with hidden width D * mlp_ratio).",
    ),
    forward("1 image of 2 tokens, 3 heads", inputs=(drawn(1, 2, 6),), dim=6, num_heads=3),
    forward("2 images of 5 tokens", inputs=(drawn(2, 5, 8),), **_block),
    forward(
        "another mlp_ratio, 1.5, and one head",
        inputs=(drawn(2, 5, 8),),
        mlp_ratio=1.5,
        **_block | {"num_heads": 1},
        hint="The hidden width is int(dim * mlp_ratio), here 12.",
    ),
    forward(
        "large inputs: the skip path is not normalised",
        inputs=(drawn(2, 5, 8) * 50,),
        tolerance=1e-3,
        **_block,
    ),
    forward(
        "small inputs: the norms' eps is 1e-6",
        inputs=(drawn(2, 5, 8) * 1e-3,),
        **_block,
        hint="nn.LayerNorm's own default is 1e-5.",
    ),
    Case(
        "both norms have eps 1e-6",
        lambda candidate: _other_eps(build(candidate, **_block)),
        "nn.LayerNorm's own default is 1e-5.",
    ),
    _same_in_training(
        "with drop_path 0, the same in training as in evaluation",
        **_block,
        hint="Only DropPath is random, and its rate is the argument drop_path.",
    ),
    Case(
        "with drop_path 0.5, nothing is dropped in evaluation",
        _settled_in_evaluation,
        "DropPath, like dropout, works in training only: self.training tells.",
    ),
    Case(
        "with both branches at zero, the block changes nothing",
        _skip_is_clean,
        "x + 0 + 0 should be x: look at what else happens to x on its way.",
    ),
    Case(
        "in training with drop_path=0.5, there are four kinds of results",
        _which_are_dropped,
        "The output of each branch is dropped or doubled independently, before it is added.",
        kind="weights",
    ),
    Case(
        "the drop rate is the argument drop_path, here 0.4 and 0.8",
        _rates_of_two,
        "This is the root of the share of images that lose both branches.",
    ),
    forward(
        "numbers in float64",
        inputs=(drawn(1, 3, 8),),
        double=True,
        **_block,
        hint="Take the dtype from x instead of fixing it.",
    ),
    gradients("everything can learn", inputs=(drawn(2, 5, 8),), **_block),
    sizes=Sizes(
        lambda images, tokens, width, heads, ratio: forward(
            "", inputs=(drawn(images, tokens, width),), dim=width, num_heads=heads, mlp_ratio=ratio
        ),
        images=(5, 3, 2),
        tokens=(7, 6, 17, 65),
        width=(24, 48, 64, 32, 8),
        heads=(2, 8, 4, 3, 12),
        ratio=(3, 5, 4, 2),
    ),
)


class BaseBlock(nn.Module):
    """What alternatives and mistakes have in common."""

    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = vit.Attention(dim, num_heads), vit.Mlp(dim, int(dim * mlp_ratio))
        self.drop = drop_path

    def drop_path(self, x):
        return vit.drop_path(x, self.drop, self.training)


Block.add_mistakes(
    NoSkip=variant(
        BaseBlock,
        forward=lambda self, x: self.drop_path(
            self.mlp(self.norm2(self.drop_path(self.attn(self.norm1(x)))))
        ),
    ),
    Parallel=variant(
        BaseBlock,
        forward=lambda self, x: (
            x + self.drop_path(self.attn(self.norm1(x))) + self.drop_path(self.mlp(self.norm2(x)))
        ),
    ),
)


@Block.mistake
class DefaultEps(BaseBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm1.eps = self.norm2.eps = 1e-5

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake
class NoSkipAroundAttention(BaseBlock):
    def forward(self, x):
        x = self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake
class NoSkipAroundMlp(BaseBlock):
    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake
class SecondSkipFromInput(BaseBlock):
    def forward(self, x):
        attended = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(attended)))


@Block.mistake
class PostNorm(BaseBlock):
    def forward(self, x):
        x = self.norm1(x + self.drop_path(self.attn(x)))
        return self.norm2(x + self.drop_path(self.mlp(x)))


@Block.mistake
class NormAfterBranch(BaseBlock):
    def forward(self, x):
        x = x + self.drop_path(self.norm1(self.attn(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


@Block.mistake
class SkipAfterNorm(BaseBlock):
    def forward(self, x):
        x = self.norm1(x)
        x = x + self.drop_path(self.attn(x))
        x = self.norm2(x)
        return x + self.drop_path(self.mlp(x))


@Block.mistake
class SameNormTwice(BaseBlock):
    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm1(x)))


@Block.mistake
class NormsExchanged(BaseBlock):
    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm2(x)))
        return x + self.drop_path(self.mlp(self.norm1(x)))


@Block.mistake
class NoFirstNorm(BaseBlock):
    def forward(self, x):
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake
class NoSecondNorm(BaseBlock):
    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(x))


@Block.mistake
class NoNorms(BaseBlock):
    def forward(self, x):
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(x))


@Block.mistake
class NoMlp(BaseBlock):
    def forward(self, x):
        return x + self.drop_path(self.attn(self.norm1(x)))


@Block.mistake
class OneNorm(BaseBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm2 = self.norm1

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm1(x)))


@Block.mistake
class MlpFirst(BaseBlock):
    def forward(self, x):
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x + self.drop_path(self.attn(self.norm1(x)))


@Block.mistake
class RatioIgnored(BaseBlock):
    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__(dim, num_heads, 4.0, drop_path)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake
class NeverDrops(BaseBlock):
    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@Block.mistake
class FixedRate(BaseBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.drop = 0.1

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake
class DropsAttentionOnly(BaseBlock):
    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


@Block.mistake
class DropsMlpOnly(BaseBlock):
    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake
class DropsTheSum(BaseBlock):
    def forward(self, x):
        x = self.drop_path(x + self.attn(self.norm1(x)))
        return self.drop_path(x + self.mlp(self.norm2(x)))


@Block.mistake
class DropsTheInput(BaseBlock):
    def forward(self, x):
        x = x + self.attn(self.drop_path(self.norm1(x)))
        return x + self.mlp(self.drop_path(self.norm2(x)))


@Block.mistake
class PlainDropout(BaseBlock):
    def drop_path(self, x):
        return F.dropout(x, self.drop, self.training)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake
class DropoutToo(BaseBlock):
    def forward(self, x):
        x = x + self.drop_path(F.dropout(self.attn(self.norm1(x)), 0.1, self.training))
        return x + self.drop_path(F.dropout(self.mlp(self.norm2(x)), 0.1, self.training))


@Block.mistake
class DropoutAlways(BaseBlock):
    def forward(self, x):
        x = x + self.drop_path(F.dropout(self.attn(self.norm1(x)), 0.1))
        return x + self.drop_path(F.dropout(self.mlp(self.norm2(x)), 0.1))


@Block.mistake
class DropsInEvaluation(BaseBlock):
    def drop_path(self, x):
        return vit.drop_path(x, self.drop, True)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake
class AddsInPlace(BaseBlock):
    def forward(self, x):
        x += self.drop_path(self.attn(self.norm1(x)))
        x += self.drop_path(self.mlp(self.norm2(x)))
        return x


# ---------------------------------------------------------------- the stack


def _rates(depth):
    def run(candidate):
        return [_rate(block) for block in build(candidate, 8, depth, 2, drop_path_rate=0.8)]

    return run


def _own_weights(candidate):
    blocks = build(candidate, 8, 3, 2)
    return sum(p.numel() for p in blocks.parameters())  # what is shared is counted once


# Several blocks have too many parameters to find the layout of all. So numbers are compared for a single block, and for
# several blocks only the way in which they are put together is checked.
def _one_after_the_other(candidate):
    blocks, x = build(candidate, 8, 3, 2).eval(), drawn(2, 3, 8)
    out, y = blocks(x.clone()), x
    for block in blocks:
        y = block(y)
    return torch.allclose(out, y, atol=1e-5)


def _without_gradient(candidate):
    blocks = build(candidate, 8, 2, 2)
    blocks(drawn(1, 3, 8)).square().sum().backward()
    return {n: "gets no gradient" for n, p in blocks.named_parameters() if p.grad is None}


_ROOTS = (
    "Each rate is the root of the share of images that lose both branches. "
    "torch.linspace makes equal steps from the first rate to the last."
)

make_blocks = Exercise(
    vit.make_blocks,
    parameters("names and shapes of the parameters of 2 blocks", 8, 2, 2),
    forward("a single block, 1 image of 2 tokens", 4, 1, 2, inputs=(drawn(1, 2, 4),)),
    forward("a single block, 2 images of 5 tokens", 8, 1, 2, inputs=(drawn(2, 5, 8),)),
    forward("4 heads", dim=8, depth=1, num_heads=4, inputs=(drawn(1, 3, 8),)),
    forward("another mlp_ratio and one head", 8, 1, 1, mlp_ratio=1.5, inputs=(drawn(1, 3, 8),)),
    Case(
        "3 blocks are applied one after the other",
        _one_after_the_other,
        "Each block takes the output of the one before it.",
    ),
    forward(
        "small inputs: the norms' eps is 1e-6",
        8,
        1,
        2,
        inputs=(drawn(2, 5, 8) * 1e-3,),
        hint="nn.LayerNorm's own default is 1e-5.",
    ),
    Case(
        "all norms have eps 1e-6",
        lambda candidate: _other_eps(build(candidate, 8, 2, 2)),
        "nn.LayerNorm's own default is 1e-5.",
    ),
    Case(
        "every block has its own weights: how many numbers do 3 blocks learn?",
        _own_weights,
        "Make every block a new one; [block] * depth repeats the same block.",
    ),
    Case(
        "drop rates of 3 blocks, with drop_path_rate=0.8: they are 0, 0.4 and 0.8",
        _rates(3),
        _ROOTS,
    ),
    Case(
        "drop rates of 2 blocks, with drop_path_rate=0.8: they are 0 and 0.8",
        _rates(2),
        _ROOTS,
    ),
    Case("all blocks can learn", _without_gradient),
    sizes=Sizes(
        lambda images, tokens, width, depth, heads, ratio: forward(
            "", width, depth, heads, mlp_ratio=ratio, inputs=(drawn(images, tokens, width),)
        ),
        images=(5, 3, 2),
        tokens=(7, 6, 17),
        width=(24, 48, 64, 32, 8),
        depth=(2, 3, 4, 12),
        heads=(8, 2, 4, 12),
        ratio=(6, 5, 4, 2),
    ),
)


def stack(dim, rates, num_heads, mlp_ratio, kind=vit.Block):
    return nn.Sequential(*(kind(dim, num_heads, mlp_ratio, rate) for rate in rates))


make_blocks.add_mistakes(
    rate_ignored=lambda dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0: vit.make_blocks(
        dim, depth, num_heads, mlp_ratio
    ),
    shared_block=lambda dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0: nn.Sequential(
        *[vit.Block(dim, num_heads, mlp_ratio)] * depth
    ),
    shared_block_that_drops=lambda dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0: nn.Sequential(
        *[vit.Block(dim, num_heads, mlp_ratio, drop_path_rate)] * depth
    ),
    constant_rate=lambda dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0: stack(
        dim, [drop_path_rate] * depth, num_heads, mlp_ratio
    ),
    ratio_ignored=lambda dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0: vit.make_blocks(
        dim, depth, num_heads, 4.0, drop_path_rate
    ),
    heads_ignored=lambda dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0: vit.make_blocks(
        dim, depth, 2, mlp_ratio, drop_path_rate
    ),
    module_list=lambda dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0: nn.ModuleList(
        vit.make_blocks(dim, depth, num_heads, mlp_ratio, drop_path_rate)
    ),
    plain_list=lambda dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0: list(
        vit.make_blocks(dim, depth, num_heads, mlp_ratio, drop_path_rate)
    ),
)


@make_blocks.mistake
def rate_divided_by_depth(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = [drop_path_rate * i / depth for i in range(depth)]
    return stack(dim, rates, num_heads, mlp_ratio)


@make_blocks.mistake
def first_block_drops(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = [drop_path_rate * (i + 1) / depth for i in range(depth)]
    return stack(dim, rates, num_heads, mlp_ratio)


@make_blocks.mistake
def rates_backwards(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = torch.linspace(drop_path_rate, 0, depth).tolist()
    return stack(dim, rates, num_heads, mlp_ratio)


@make_blocks.mistake
def fails_for_one_block(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = [drop_path_rate * i / (depth - 1) for i in range(depth)]
    return stack(dim, rates, num_heads, mlp_ratio)


@make_blocks.mistake
def rate_as_mlp_ratio(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = torch.linspace(0, drop_path_rate, depth).tolist()
    with warnings.catch_warnings(action="ignore"):  # torch warns about layers without numbers
        return nn.Sequential(*(vit.Block(dim, num_heads, rate) for rate in rates))


@make_blocks.mistake
def one_block_too_few(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = [drop_path_rate * i / max(1, depth - 1) for i in range(1, depth)]
    return stack(dim, rates, num_heads, mlp_ratio)


@make_blocks.mistake
def one_block_too_many(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = torch.linspace(0, drop_path_rate, depth + 1).tolist()
    return stack(dim, rates, num_heads, mlp_ratio)


@make_blocks.mistake
def depth_ignored(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return stack(dim, [drop_path_rate], num_heads, mlp_ratio)


@make_blocks.mistake
def default_eps(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = torch.linspace(0, drop_path_rate, depth).tolist()
    return stack(dim, rates, num_heads, mlp_ratio, DefaultEps)
