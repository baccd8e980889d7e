"""Lesson 04: layer norm, MLP, stochastic depth, the pre-norm block, the stack."""

import itertools
import random
import warnings
from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from torch import nn
from torch.overrides import TorchFunctionMode

from vit_edu.check.cases import (
    Case,
    Unfair,
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
from vit_edu.check.engine import Exercise
from vit_edu.models import vit

# ---------------------------------------------------------------- layer norm

_weight, _bias = drawn(8, seed=1), drawn(8, seed=2)
_small = (torch.tensor([[1.0, 3.0]]), torch.tensor([10.0, 10.0]), torch.tensor([0.0, 5.0]))

# Tokens of very different size: then eps, its place and the axis all show.
_uneven = drawn(2, 3, 8) * torch.tensor([1e-3, 1.0, 100.0])[:, None]


class _NoLayerNorm(TorchFunctionMode):
    """Refuses torch's own layer norm, by whatever name it is called; nn.LayerNorm ends there too."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("layer_norm", "native_layer_norm"):
            raise Unfair("F.layer_norm or nn.LayerNorm does the work here")
        return function(*args, **(kwargs or {}))


def _by_hand(candidate):
    with _NoLayerNorm():
        candidate(drawn(2, 3, 8), _weight, _bias)
    return True


layer_norm = Exercise(
    vit.layer_norm,
    call("the token (1, 3), with weight (10, 10) and bias (0, 5)", *_small),
    call("2 images, 3 tokens of width 8", drawn(2, 3, 8), _weight, _bias),
    call("tokens of very different size", _uneven, _weight, _bias, tolerance=1e-4),
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
        eps=0.5,
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
        "it is written out: no F.layer_norm, no nn.LayerNorm",
        _by_hand,
        "Write out the mean, the variance, the root, weight and bias.",
    ),
    not_contiguous(drawn(2, 3, 8), _weight, _bias),
    in_double(drawn(2, 3, 8), _weight, _bias),
    passes_gradient(
        drawn(1, 2, 8),
        _weight,
        _bias,
        hint="Mean and variance depend on x too: the gradient goes through them (no .detach(), no no_grad).",
    ),
    hints=(
        "Take the token (1, 3) and do it on paper. Which numbers does its mean need, and which numbers of other tokens?",
        "Per token: subtract the mean, divide by the root of (variance + eps), then scale and shift. "
        "The variance is divided by D, and `keepdim=True` keeps an axis to broadcast along.",
        "mean = x.mean(dim=..., keepdim=...)\n"
        "var = x.var(dim=..., keepdim=..., unbiased=...)\n"
        "return (x - mean) / torch.sqrt(...) * ... + ...",
    ),
)


@layer_norm.alternative
def by_moments(x, weight, bias, eps=1e-6):
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps) * weight + bias


@layer_norm.alternative
def with_einops(x, weight, bias, eps=1e-6):
    centred = x - rearrange(reduce(x, "... d -> ...", "mean"), "... -> ... 1")
    var = rearrange(reduce(centred**2, "... d -> ...", "mean"), "... -> ... 1")
    return torch.addcmul(bias, weight, centred / (var + eps) ** 0.5)


@layer_norm.alternative
def with_unsqueeze(x, weight, bias, eps=1e-6):
    width = x.size(-1)
    x = x - x.sum(-1).unsqueeze(-1) / width
    return bias + weight * x / ((x * x).sum(-1).unsqueeze(-1) / width + eps).sqrt()


@layer_norm.alternative
def token_by_token(x, weight, bias, eps=1e-6):
    tokens = x.reshape(-1, x.shape[-1])
    normed = [(t - t.mean()) / (t.var(correction=0) + eps).sqrt() * weight + bias for t in tokens]
    return torch.stack(normed).reshape(x.shape)


@layer_norm.alternative
def with_var_mean(x, weight, bias, eps=1e-6):
    var, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return torch.einsum("...d,d->...d", (x - mean) * (var + eps) ** -0.5, weight) + bias


@layer_norm.alternative
def with_averaging_matrix(x, weight, bias, eps=1e-6):
    width = x.shape[-1]
    average = torch.full((width, width), 1 / width, dtype=x.dtype, device=x.device)
    centred = x - x @ average
    return weight * centred / (centred.square() @ average + eps).sqrt() + bias


def _norm(x, weight, bias, eps, dim=-1, unbiased=False):
    mean, var = x.mean(dim, keepdim=True), x.var(dim, keepdim=True, unbiased=unbiased)
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


@layer_norm.mistake(
    "The variance is divided by D - 1. That is torch's default for `var` and `std`; layer norm divides by D.",
    "Type `torch.tensor([1.0, 3.0]).var()`: why is it 2, when we found 1 by hand?",
)
def unbiased_variance(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, eps, unbiased=True)


@layer_norm.mistake(
    "eps is added to the standard deviation. It belongs to the variance, inside the root.",
    "With variance 0 and eps = 0.000001, what is divided by in each of the two forms: 0.001 or 0.000001?",
)
def eps_outside(x, weight, bias, eps=1e-6):
    std = x.std(-1, keepdim=True, unbiased=False)
    return (x - x.mean(-1, keepdim=True)) / (std + eps) * weight + bias


@layer_norm.mistake(
    "Two details of a widespread version that is not the paper's: `std` divides by D - 1, and eps is added after the root.",
    'It is the layer norm of "The Annotated Transformer": load weights trained with F.layer_norm, and which digits change?',
)
def unbiased_std_plus_eps(x, weight, bias, eps=1e-6):
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps) * weight + bias


@layer_norm.mistake(
    "Divided by `x.std(...)` as it is: torch's default divides by D - 1, and eps is nowhere, so that a token of equal numbers "
    "gives NaN.",
    "Norm the tokens (1, 3) and (2, 2) with it: what comes out, and what did we find by hand?",
)
def bare_std(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, 0.0, unbiased=True)


@layer_norm.mistake(
    "Mean and variance are taken over the tokens. Layer norm looks at one token at a time: at its own D numbers.",
    "Change one token of an image: should what comes out for its neighbours change?",
)
def over_tokens(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, eps, dim=-2)


@layer_norm.mistake(
    "Mean and variance are taken over axis 1. In (B, T, D) that axis counts the tokens; the numbers of a token are on the "
    "last axis, whatever stands in front.",
    "Write the shape (B, T, D) on the board and number the axes from the front and from the back: which number stays when an "
    "axis is added in front?",
)
def over_axis_one(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, eps, dim=1)


@layer_norm.mistake(
    "The axis is fixed as number 2. That is the last one only for (B, T, D); the exercise asks for any number of axes before D.",
    "Which axis is `dim=-1` for shapes (D,), (T, D) and (B, h, T, D)?",
)
def over_axis_two(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, eps, dim=2)


@layer_norm.mistake(
    "Mean and variance are taken over the batch, as batch norm does. A token's norm must not depend on other images.",
    "What would this give for a batch of one image?",
)
def over_batch(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, eps, dim=0)


@layer_norm.mistake(
    "Mean and variance are taken over tokens and width together. Each token has its own mean and variance.",
    "An image with one very bright patch: what happens to the other tokens if all share one variance?",
)
def over_tokens_and_width(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, eps, dim=(-2, -1))


@layer_norm.mistake(
    "There is one mean and one variance for the whole tensor: `mean()` without `dim` takes all axes. Each token has its own.",
    "How many means are there for 2 images of 3 tokens: 1, 2, 3 or 6?",
)
def over_everything(x, weight, bias, eps=1e-6):
    return (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + eps) * weight + bias


@layer_norm.mistake(
    "The axis of the mean is gone, so it lines up with the wrong axis of x. Look at the shapes of x and of `x.mean(-1)`.",
    "Write (2, 3, 8) and under it (2, 3), flush right: which axes would be paired?",
)
def without_keepdim(x, weight, bias, eps=1e-6):
    return (x - x.mean(-1)) / torch.sqrt(x.var(-1, unbiased=False) + eps) * weight + bias


@layer_norm.mistake(
    "Centred and scaled, but weight and bias are not applied.",
    "Without them every token has variance 1 for ever: what could a network then no longer learn?",
)
def no_affine(x, weight, bias, eps=1e-6):
    return _norm(x, 1.0, 0.0, eps)


@layer_norm.mistake(
    "The bias is multiplied by the weight as well. Scale first, then shift: look for a bracket, or at the order of two lines.",
    "The token (-1, 1), weight 10, bias 5: does the second number become 15 or 60?",
)
def bias_is_scaled(x, weight, bias, eps=1e-6):
    return (_norm(x, 1.0, 0.0, eps) + bias) * weight


@layer_norm.mistake(
    "The root is missing: divide by the standard deviation, not by the variance.",
    "If all numbers of a token are doubled, what happens to the variance, and what to the normed token?",
)
def no_root(x, weight, bias, eps=1e-6):
    var = x.var(-1, keepdim=True, unbiased=False)
    return (x - x.mean(-1, keepdim=True)) / (var + eps) * weight + bias


@layer_norm.mistake(
    "eps is missing. A token whose numbers are all equal has variance 0, and the division gives NaN.",
    "Norm the token (2, 2) by hand: what is 0 / 0?",
)
def no_eps(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, 0.0)


@layer_norm.mistake(
    "eps is a fixed number. It is an argument: use the one that the caller gives.",
    "Search the function for the name `eps`: where is it read?",
)
def fixed_eps(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, 1e-6)


@layer_norm.mistake(
    "The variance is the mean square minus the squared mean. On paper that is the same; in float32 two large numbers cancel "
    "and little is left. Subtract the mean *before* squaring.",
    "Compute both forms for (9999, 10001) in float32: the squares need nine digits, and float32 has seven.",
)
def mean_square_minus_squared_mean(x, weight, bias, eps=1e-6):
    mean = x.mean(-1, keepdim=True)
    var = (x**2).mean(-1, keepdim=True) - mean**2
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


@layer_norm.mistake(
    "The numbers are right, but torch's own layer norm made them. Here you write what it does.",
    "Who can say, without looking, which variance F.layer_norm uses and where its eps stands?",
)
def by_the_library(x, weight, bias, eps=1e-6):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


@layer_norm.mistake(
    "x itself is changed (`x -= mean`). In the block the skip path still needs x as it was.",
    "Run the cell twice on the same x and print x after each run.",
)
def changes_x(x, weight, bias, eps=1e-6):
    x -= x.mean(-1, keepdim=True)
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight + bias


# ---------------------------------------------------------------- MLP

_mlp = {"in_features": 6, "hidden_features": 24}


def _same_in_training(name, hint="Nothing in it is random.", **sizes):
    def run(candidate):
        module, x = build(candidate, **sizes), drawn(100, 2, next(iter(sizes.values())))
        return torch.allclose(module.train()(x.clone()), module.eval()(x.clone()), atol=1e-5)

    return Case(name, run, hint)


Mlp = Exercise(
    vit.Mlp,
    parameters("names and shapes of the parameters", **_mlp, hint="fc1 from D to hidden, fc2 back to D."),
    forward("1 token of width 2", inputs=(drawn(1, 1, 2),), in_features=2, hidden_features=3),
    forward("2 images of 5 tokens", inputs=(drawn(2, 5, 6),), **_mlp),
    forward(
        "a hidden layer that is narrower",
        inputs=(drawn(1, 3, 8),),
        in_features=8,
        hidden_features=4,
    ),
    _same_in_training("in training the same as in evaluation", **_mlp),
    forward(
        "numbers in float64, to six digits: the exact GELU",
        inputs=(drawn(1, 2, 6),),
        double=True,
        tolerance=1e-6,
        **_mlp,
        hint="nn.GELU() is exact; approximate='tanh' and x * sigmoid(1.702 x) only come near. "
        "Do not fix the dtype either.",
    ),
    gradients("everything can learn", inputs=(drawn(2, 5, 6),), **_mlp),
    hints=(
        "Follow one token: which widths does it have on its way?",
        "Linear layers act on the last axis, so nothing needs to be reshaped. The GELU stands between the two and has no "
        "parameters.",
        "self.fc1 = nn.Linear(..., ...)\nself.act = ...\nself.fc2 = nn.Linear(..., ...)\n\n"
        "return self.fc2(...(...(x)))",
    ),
)


class _Mlp(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, in_features)


@Mlp.alternative
class FunctionalMlp(_Mlp):
    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


@Mlp.alternative
class SequentialMlp(nn.Sequential):
    def __init__(self, in_features, hidden_features):
        super().__init__(
            nn.Linear(in_features, hidden_features),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Linear(hidden_features, in_features),
        )


@Mlp.alternative
class GeluByErf(_Mlp):
    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(0.5 * x * (1 + torch.erf(x / 2**0.5)))


@Mlp.alternative
class PointwiseConvolutions(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.widen = nn.Conv1d(in_features, hidden_features, kernel_size=1)
        self.narrow = nn.Conv1d(hidden_features, in_features, kernel_size=1)

    def forward(self, x):
        return self.narrow(F.gelu(self.widen(x.mT))).mT


@Mlp.alternative
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


@Mlp.mistake(
    "There is no activation between the layers: two linear layers in a row are one linear layer.",
    "Multiply the two weight matrices on the board: what would the second layer add?",
)
class NoActivation(_Mlp):
    def forward(self, x):
        return self.fc2(self.fc1(x))


@Mlp.mistake(
    "The activation is a ReLU. The ViT uses GELU (paper, section 3.1).",
    "Plot both from -3 to 3: where do they differ most?",
)
class ReluMlp(_Mlp):
    def forward(self, x):
        return self.fc2(self.fc1(x).relu())


@Mlp.mistake(
    "The activation is a sigmoid. GELU is x *times* a curve of that form, so that large x pass unchanged.",
    "What do the two give for x = 10: which of them still knows that it was 10?",
)
class SigmoidMlp(_Mlp):
    def forward(self, x):
        return self.fc2(self.fc1(x).sigmoid())


@Mlp.mistake(
    "This is the GELU that is approximated by tanh (GPT-2's). It differs in the fourth decimal; the ViT uses the exact one, "
    "which is what `nn.GELU()` and `F.gelu` give by default.",
    "Plot `F.gelu(x) - F.gelu(x, approximate='tanh')`: how large is it, and would it add up over 12 blocks?",
)
class TanhGelu(_Mlp):
    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


@Mlp.mistake(
    "The activation is x * sigmoid(1.702 x), the quick GELU of CLIP. The ViT uses the exact one.",
    "Plot it over the exact GELU: near which x could published weights notice?",
)
class QuickGelu(_Mlp):
    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


@Mlp.mistake(
    "The activation stands before fc1. Then the two linear layers follow each other with nothing between them.",
    "Read the forward aloud from the inside out: what stands between the two linear layers?",
)
class ActivationFirst(_Mlp):
    def forward(self, x):
        return self.fc2(self.fc1(F.gelu(x)))


@Mlp.mistake(
    "The activation stands after fc2 instead of between the layers. Two linear layers in a row are one.",
    "What is the most negative number that this MLP can add to the skip path?",
)
class ActivationOnlyAtEnd(_Mlp):
    def forward(self, x):
        return F.gelu(self.fc2(self.fc1(x)))


@Mlp.mistake(
    "There is a second activation after fc2: it would let almost nothing negative back into the skip path.",
    "GELU is never below -0.17: after 12 blocks that each add such numbers, where has x gone?",
)
class ActivationAtEnd(_Mlp):
    def forward(self, x):
        return F.gelu(self.fc2(F.gelu(self.fc1(x))))


@Mlp.mistake(
    "The input is added inside the MLP. The skip connection belongs to the block, which would now add it twice.",
    "If fc2 is all zeros, what should the MLP return, and what the block?",
)
class SkipInside(_Mlp):
    def forward(self, x):
        return x + self.fc2(F.gelu(self.fc1(x)))


@Mlp.mistake(
    "There is a dropout in it. It works in training only, so that the same input gives two answers; the exercise has none.",
    "Call it twice in train mode on the same x and subtract.",
)
class DropoutInside(_Mlp):
    def forward(self, x):
        return self.fc2(F.dropout(F.gelu(self.fc1(x)), 0.1, self.training))


@Mlp.mistake(
    "The hidden layer always has 4 D numbers. Its width is an argument, `hidden_features`.",
    "Build it with in_features=8, hidden_features=4 and print the shapes.",
)
class AlwaysFourTimes(_Mlp):
    def __init__(self, in_features, hidden_features):
        super().__init__(in_features, 4 * in_features)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


@Mlp.mistake(
    "The linear layers have no bias. Those of the ViT have one.",
    "Without a bias, what does the MLP give for a token of zeros, whatever it has learned?",
)
class NoBias(_Mlp):
    def __init__(self, in_features, hidden_features):
        super().__init__(in_features, hidden_features)
        self.fc1.bias = self.fc2.bias = None

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


# ---------------------------------------------------------------- stochastic depth


def _drop(look, *shape, training=True, dtype=torch.float32):
    """A case with drop rate 0.25; `look` says something of the factor that each number was multiplied by."""
    x = drawn(*shape).abs().add(1).to(dtype)

    def run(candidate):
        out = apply(candidate, x, 0.25, training)
        if not isinstance(out, torch.Tensor) or out.shape != x.shape:
            came = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise Unfair(f"expected a tensor of shape {tuple(x.shape)}, got {came}")
        return look(out.div(x).mul(1000).round() / 1000)

    return run


def _draws(*axes):
    """Along which axes of the result the draws differ; axes are their names."""

    def look(factor):
        return {
            f"the {name}": "one draw for all"
            if (factor == factor.narrow(i, 0, 1)).all()
            else "a draw for each"
            for i, name in enumerate(axes)
        }

    return look


def _lost(factor):
    return round((factor == 0).float().mean().item() * 20) / 20


def _mean(factor):
    return round(factor.mean().item() * 20) / 20


def _largest(factor):
    return round(factor.max().item(), 3)


def _anew(candidate):
    x = torch.ones(100, 2)
    return not torch.equal(apply(candidate, x, 0.5, True), apply(candidate, x, 0.5, True))


def _passes_what_is_kept(candidate):
    x = torch.ones(100, 2, 3, requires_grad=True)
    out = candidate(x, 0.25, True)
    if not out.requires_grad:
        raise Unfair("the result is cut off from the gradient: nothing before it could learn")
    out.sum().backward()
    return torch.allclose(x.grad, out)


drop_path = Exercise(
    vit.drop_path,
    Case(
        "in evaluation nothing is dropped or scaled: share of zeros, largest factor",
        _drop(lambda f: [_lost(f), _largest(f)], 1000, 2, 3, training=False),
    ),
    call("rate 0 drops nothing", drawn(4, 2, 3), 0.0, True),
    Case(
        "an image keeps its whole branch or loses all of it",
        _drop(_draws("images", "tokens of an image", "numbers of a token"), 400, 2, 3),
        "Draw one number for each image, of shape (B, 1, 1).",
    ),
    Case(
        "with rate 0.25, about a quarter of the images lose their branch",
        _drop(_lost, 10_000, 1, 2),
        "drop_prob is the probability to *lose* the branch; images are drawn independently.",
    ),
    Case(
        "what is kept is divided by the probability to keep, 0.75",
        _drop(_largest, 1000, 2, 3),
        "Three quarters of the images must make up for all.",
    ),
    Case(
        "the mean over 20,000 images stays what it is in evaluation: its factor is 1",
        _drop(_mean, 20_000, 1, 1),
        "The probability to keep, times the factor of what is kept, should be 1.",
    ),
    Case(
        "two axes, (B, D)",
        _drop(_draws("images", "numbers of an image"), 400, 5),
        "The mask has as many axes as x, all of length 1 but the first.",
    ),
    Case(
        "four axes, (B, C, H, W)",
        _drop(_draws("images", "channels", "rows", "columns"), 400, 2, 2, 3),
        "The mask has as many axes as x, all of length 1 but the first.",
    ),
    Case(
        "a second call draws anew",
        _anew,
        "Which images lose their branch is left to chance, each time.",
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
    hints=(
        "How many draws does a batch of 24 images need, and when does it need none?",
        "A mask of zeros and ones, one number for each image, broadcasts over all other axes if it has shape (B, 1, ..., 1). "
        "What is kept is made larger, so that the mean stays.",
        "if ...:\n    return x\nkeep = 1 - ...\nmask = x.new_empty((len(x), ...)).bernoulli_(...)\nreturn x * ... / ...",
    ),
)


@drop_path.alternative
def with_rand(x, drop_prob, training):
    if not training:
        return x
    shape = (x.shape[0],) + (1,) * (x.dim() - 1)
    keep = (torch.rand(shape, device=x.device) >= drop_prob).to(x.dtype)
    return x / (1 - drop_prob) * keep


@drop_path.alternative
def with_torchvision(x, drop_prob, training):
    from torchvision.ops import stochastic_depth

    return stochastic_depth(x, drop_prob, "row", training)


@drop_path.alternative
def with_floor(x, drop_prob=0.0, training=False):
    if drop_prob == 0.0 or not training:
        return x
    keep_prob = 1 - drop_prob
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    random_tensor = keep_prob + torch.rand(shape, dtype=x.dtype, device=x.device)
    random_tensor.floor_()
    return x.div(keep_prob) * random_tensor


@drop_path.alternative
def dropout_of_ones(x, drop_prob, training):
    return (
        F.dropout(torch.ones_like(x.flatten(1)[:, 0]), drop_prob, training)[
            (slice(None), *[None] * (x.ndim - 1))
        ]
        * x
    )


@drop_path.alternative
def with_where(x, drop_prob, training):
    if not training:
        return x
    lost = (torch.rand(len(x), device=x.device) < drop_prob).view(-1, *[1] * (x.ndim - 1))
    return torch.where(lost, torch.zeros_like(x), x / (1 - drop_prob))


@drop_path.alternative
def image_by_image(x, drop_prob, training):
    if not training:
        return x
    keep = 1 - drop_prob
    return torch.stack([image / keep if random.random() < keep else image * 0 for image in x])


@drop_path.alternative
def with_einsum(x, drop_prob, training):
    if not training or not drop_prob:
        return x
    mask = torch.distributions.Bernoulli(1 - drop_prob).sample((len(x),)).to(x)
    return torch.einsum("b...,b->b...", x, mask / (1 - drop_prob))


def _mask(x, probability):
    return x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(probability)


def _masked(x, drop_prob, training, *shape):
    """Right but for the shape of the mask."""
    if not training or drop_prob == 0:
        return x
    return x * x.new_empty(shape).bernoulli_(1 - drop_prob) / (1 - drop_prob)


@drop_path.mistake(
    "This is dropout: it draws for each number on its own. Stochastic depth draws once for each image and leaves out the "
    "whole branch.",
    "Draw a batch of 4 images as 4 rows and cross out numbers for dropout, rows for stochastic depth.",
)
def plain_dropout(x, drop_prob, training):
    return F.dropout(x, drop_prob, training)


@drop_path.mistake(
    "There is one draw for each token: parts of an image lose the branch, others keep it. Draw one for each image; all axes of "
    "the mask but the first have length 1.",
    "How many zeros and ones does a mask of shape (B, T, 1) hold, and how many does (B, 1, 1)?",
)
def a_draw_for_each_token(x, drop_prob, training):
    return _masked(x, drop_prob, training, *x.shape[:-1], 1)


@drop_path.mistake(
    "There is one draw for the whole batch: all images lose the branch together, or none does. Draw one for each image.",
    "What can a branch learn from a step in which all images of the batch have lost it?",
)
def one_draw_for_the_batch(x, drop_prob, training):
    return _masked(x, drop_prob, training, *[1] * x.ndim)


@drop_path.mistake(
    "The mask always has three axes. Against an x of shape (B, D) it broadcasts to (B, B, D): count the axes with `x.ndim`.",
    "Write the shapes (4, 1, 1) and (4, 5) flush right: what shape is their product?",
)
def mask_of_three_axes(x, drop_prob, training):
    return _masked(x, drop_prob, training, len(x), 1, 1)


@drop_path.mistake(
    "What is kept is not rescaled: in training the branch is smaller on average than in evaluation. "
    "Divide by the probability to keep.",
    "Branch 3, rate 0.25: what is the mean of 0, 3, 3, 3, and what does evaluation give?",
)
def not_rescaled(x, drop_prob, training):
    return x * _mask(x, 1 - drop_prob) if training else x


@drop_path.mistake(
    "The scaling happens in evaluation, as in the first paper on dropout. Here evaluation leaves x alone and *training* rescales.",
    "Which of the two is better if somebody else runs the trained model without knowing the rate?",
)
def rescaled_in_evaluation(x, drop_prob, training):
    return not_rescaled(x, drop_prob, True) if training else x * (1 - drop_prob)


@drop_path.mistake(
    "What is kept is multiplied by the probability to keep. That makes the branch smaller a second time: to make up for the "
    "lost ones, it must grow.",
    "Branch 3, rate 0.25: which number, three times out of four, has mean 3?",
)
def multiplied_by_keep(x, drop_prob, training):
    return x * _mask(x, 1 - drop_prob) * (1 - drop_prob) if training else x


@drop_path.mistake(
    "Paths are dropped in evaluation too: the same image would get another answer each time.",
    "Call model.eval() and classify one image twice: what would you tell the user?",
)
def in_evaluation(x, drop_prob, training):
    return vit.drop_path(x, drop_prob, True)


@drop_path.mistake(
    "In training nothing was dropped. Is there a draw for each image, and is it used?",
    "Call it with rate 0.9 on 100 images of ones and count the zeros.",
)
def drops_nothing(x, drop_prob, training):
    return x


@drop_path.mistake(
    "`training` is read the wrong way round: paths are dropped in evaluation and kept in training.",
    "Read the first `if` aloud, with training=True.",
)
def only_in_evaluation(x, drop_prob, training):
    return vit.drop_path(x, drop_prob, not training)


@drop_path.mistake(
    "What is kept is divided by the probability to *drop*. Look at which of the two probabilities belongs there.",
    "With rate 0.1, by how much would a branch grow: by a ninth, or tenfold?",
)
def divided_by_drop(x, drop_prob, training):
    return x * _mask(x, 1 - drop_prob) / drop_prob if training else x


@drop_path.mistake(
    "drop_prob is read as the probability to keep, in the mask and in the scale: with rate 0.25, three quarters of the images "
    "lose their branch.",
    "With drop_prob = 0.1, how many of 10 images should keep their branch?",
)
def drop_read_as_keep(x, drop_prob, training):
    return x * _mask(x, drop_prob) / drop_prob if training else x


@drop_path.mistake(
    "The mask is 1 with the probability to *drop*, and then it keeps where it should drop. `bernoulli_(p)` gives ones with "
    "probability p.",
    "Print `torch.empty(8).bernoulli_(0.25)`: is a 1 there an image that stays or one that goes?",
)
def mask_of_the_dropped(x, drop_prob, training):
    return x * _mask(x, drop_prob) / (1 - drop_prob) if training else x


@drop_path.mistake(
    "The same images lose their branch in every call: a fixed seed, or the first ones of the batch. Each call draws anew.",
    "Call it twice on a batch of ones and compare: which images could ever lose their branch?",
)
def same_images_each_time(x, drop_prob, training):
    torch.manual_seed(0)
    return vit.drop_path(x, drop_prob, training)


# ---------------------------------------------------------------- block

_block = {"dim": 8, "num_heads": 2}


def _share_unchanged(block):
    """The share of 2,500 images, in training, that come out as they went in: both branches dropped."""
    x = drawn(1, 1, 8).repeat(2500, 1, 1)
    with torch.no_grad():
        return (block.train()(x.clone()) == x).flatten(1).all(1).float().mean().item()


def _rate(block):
    """The drop rate that this share speaks of, in tenths; it is drawn twice, independently."""
    return round(_share_unchanged(block) ** 0.5, 1)


def _other_eps(module):
    return {
        f"eps of {name}": m.eps
        for name, m in module.named_modules()
        if isinstance(m, nn.LayerNorm) and m.eps != 1e-6
    }


def _skip_is_clean(candidate):
    module = build(candidate, **_block).eval()
    with torch.no_grad():
        for value in module.parameters():  # then both branches give zero, whatever they are called
            value.zero_()
    x = drawn(2, 5, 8)
    return torch.allclose(module(x.clone()), x, atol=1e-6)


def _which_are_dropped(candidate):
    """Which of the results that can occur with drop_path=0.5 do occur, among 400 copies of one image."""
    sizes, x = {**_block, "drop_path": 0.5}, drawn(1, 3, 8)
    if candidate.build is not candidate.reference:
        find_layout(candidate, (x,), (), sizes, 1e-4)
    module, ours = filled(candidate, **sizes).train(), fill(candidate.reference(**sizes))
    torch.manual_seed(0)
    found, words = {}, {2: "doubled", 1: "as it is", 0: "dropped"}
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
    forward("1 image of 2 tokens", inputs=(drawn(1, 2, 4),), dim=4, num_heads=2),
    forward("2 images of 5 tokens", inputs=(drawn(2, 5, 8),), **_block),
    forward(
        "another mlp_ratio, 1.5",
        inputs=(drawn(2, 5, 8),),
        mlp_ratio=1.5,
        **_block,
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
        "in training, with drop_path 0, the same as in evaluation",
        **_block,
        hint="Only DropPath is random, and its rate is the argument drop_path.",
    ),
    Case(
        "with both branches at zero, the block changes nothing",
        _skip_is_clean,
        "x + 0 + 0 should be x: look at what else happens to x on its way.",
    ),
    Case(
        "in training with drop_path=0.5, four kinds of results",
        _which_are_dropped,
        "Each branch's output is dropped or doubled, on its own, before it is added.",
        kind="weights",
    ),
    Case(
        "the drop rate is the argument drop_path, here 0.4",
        lambda candidate: _rate(build(candidate, **_block, drop_path=0.4)),
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
    hints=(
        "Look at the left half of the picture. Which lines meet at each plus sign?",
        "Twice the same pattern: x plus a branch, and the branch is norm, then attention or MLP, then drop path. "
        "The second one reads what the first one left.",
        "x = x + self.drop_path(self.attn(...))\nx = ... + self.drop_path(self.mlp(...))\nreturn x",
    ),
)


class _Block(nn.Module):
    """What alternatives and mistakes have in common."""

    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = vit.Attention(dim, num_heads), vit.Mlp(dim, int(dim * mlp_ratio))
        self.drop = drop_path

    def drop_path(self, x):
        return vit.drop_path(x, self.drop, self.training)


@Block.alternative
class TwoSteps(_Block):
    def forward(self, x):
        attended = x + self.drop_path(self.attn(self.norm1(x)))
        return self.drop_path(self.mlp(self.norm2(attended))) + attended


@Block.alternative
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


@Block.alternative
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


@Block.alternative
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


@Block.alternative
class OwnLayerNorm(_Block):
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


@Block.mistake(
    "The norms have PyTorch's default eps, 1e-5. The ViT's is 1e-6, and with published weights the difference would show.",
    "Type `nn.LayerNorm(8)` and read what is printed.",
)
class DefaultEps(_Block):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm1.eps = self.norm2.eps = 1e-5

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake(
    "There is no skip connection. Each branch should be *added* to x, not replace it.",
    "Set all weights of both branches to zero: what comes out, and what should?",
)
class NoSkip(_Block):
    def forward(self, x):
        return self.drop_path(self.mlp(self.norm2(self.drop_path(self.attn(self.norm1(x))))))


@Block.mistake(
    "The first skip is missing: the attention's output replaces x instead of being added to it.",
    "Attention averages tokens: what is left of a token's own content without the skip?",
)
class NoSkipAroundAttention(_Block):
    def forward(self, x):
        x = self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake(
    "The second skip is missing: the MLP's output replaces x instead of being added to it.",
    "How many plus signs are in the picture, and how many in the code?",
)
class NoSkipAroundMlp(_Block):
    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake(
    "The second skip starts at the block's input: what the attention found is read by the MLP, but not kept. "
    "Look at which x is added in the last line.",
    "Draw the path of the attention's output in this code: does it reach the block's end other than through the MLP?",
)
class SecondSkipFromInput(_Block):
    def forward(self, x):
        attended = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(attended)))


@Block.mistake(
    "This is the post-norm block of the original Transformer: the norms stand on the skip path, after the sum. The ViT "
    "norms the input of each branch and leaves the skip path alone.",
    "Follow the skip path in both halves of the picture with a finger: on which one is there something in the way?",
)
class PostNorm(_Block):
    def forward(self, x):
        x = self.norm1(x + self.drop_path(self.attn(x)))
        return self.norm2(x + self.drop_path(self.mlp(x)))


@Block.mistake(
    "The norms stand at the end of the branches. Attention and MLP should get a normed input, not have their output normed.",
    "With x fifty times as large, what does the attention's softmax see in this order, and what in the other?",
)
class NormAfterBranch(_Block):
    def forward(self, x):
        x = x + self.drop_path(self.norm1(self.attn(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


@Block.mistake(
    "The skip adds the normed x. It should add x as it came in; only the branch sees the normed one.",
    "After `x = norm1(x)`, where could the old x still be found?",
)
class SkipAfterNorm(_Block):
    def forward(self, x):
        x = self.norm1(x)
        x = x + self.drop_path(self.attn(x))
        x = self.norm2(x)
        return x + self.drop_path(self.mlp(x))


@Block.mistake(
    "norm1 is used for both branches, and norm2 never. Each branch has a norm of its own, with its own weight and bias.",
    "Which parameters have no gradient after a backward pass?",
)
class SameNormTwice(_Block):
    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm1(x)))


@Block.mistake(
    "There is a single norm for both branches. The block has two, each with its own weight and bias.",
    "How many numbers does a block of width D learn in its norms: 2 D or 4 D?",
)
class OneNorm(_Block):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm2 = self.norm1

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm1(x)))


@Block.mistake(
    "Attention and MLP are in the wrong order: first the tokens exchange what they know, then each one works alone.",
    "Equation 2 or equation 3: which one makes z'?",
)
class MlpFirst(_Block):
    def forward(self, x):
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x + self.drop_path(self.attn(self.norm1(x)))


@Block.mistake(
    "Attention and MLP both read the block's input. The MLP should read what attention left behind: two steps, one after "
    "the other.",
    "In equation 3, does the MLP read z or z'?",
)
class Parallel(_Block):
    def forward(self, x):
        return x + self.drop_path(self.attn(self.norm1(x))) + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake(
    "The MLP's hidden layer is always 4 D wide. Its width follows from the argument mlp_ratio.",
    "Build two blocks, with mlp_ratio 2 and 4, and count their parameters.",
)
class RatioIgnored(_Block):
    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__(dim, num_heads, 4.0, drop_path)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake(
    "drop_path is taken as an argument but never used.",
    "Build a block with drop_path=0.9, in training, and call it twice: should the answers be the same?",
)
class NeverDrops(_Block):
    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@Block.mistake(
    "The drop rate is a fixed number. It should be the argument drop_path, which differs from block to block.",
    "Build a block with drop_path=0, in training, and call it twice: should the answers differ?",
)
class FixedRate(_Block):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.drop = 0.1

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake(
    "Only the attention branch can be dropped. The MLP branch should be dropped as well, on its own.",
    "With rate 0.5, how many of four images lose nothing at all on average: here, and when both branches can be dropped?",
)
class DropsAttentionOnly(_Block):
    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


@Block.mistake(
    "Only the MLP branch can be dropped. The attention branch should be dropped as well, on its own.",
    "Count the calls of drop_path in the code and the branches in the picture.",
)
class DropsMlpOnly(_Block):
    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake(
    "drop_path is applied to the sum. It should drop the branch only: here the image itself is lost as well.",
    "An image whose branch was dropped: does it leave this block as x or as zeros?",
)
class DropsTheSum(_Block):
    def forward(self, x):
        x = self.drop_path(x + self.attn(self.norm1(x)))
        return self.drop_path(x + self.mlp(self.norm2(x)))


@Block.mistake(
    "drop_path stands at the beginning of each branch. The layers after it add their biases even for an image that was "
    "dropped: drop what a branch gives, not what it gets.",
    "What does a linear layer with a bias give for a token of zeros?",
)
class DropsTheInput(_Block):
    def forward(self, x):
        x = x + self.attn(self.drop_path(self.norm1(x)))
        return x + self.mlp(self.drop_path(self.norm2(x)))


@Block.mistake(
    "This is dropout: single numbers of a branch are lost. DropPath leaves out the whole branch of an image.",
    "Among 400 copies of one image, how many different results can DropPath give, and how many dropout?",
)
class PlainDropout(_Block):
    def drop_path(self, x):
        return F.dropout(x, self.drop, self.training)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake(
    "There is a dropout besides drop_path. The exercise has none: with drop_path=0, training and evaluation give the same.",
    "Build a block with drop_path=0, in training, and call it twice on one x: who made the difference?",
)
class DropoutToo(_Block):
    def forward(self, x):
        x = x + self.drop_path(F.dropout(self.attn(self.norm1(x)), 0.1, self.training))
        return x + self.drop_path(F.dropout(self.mlp(self.norm2(x)), 0.1, self.training))


@Block.mistake(
    "`x += ...` writes into the tensor that was handed in. The caller's x is then another one, and training may stop with an "
    "error about an in-place operation.",
    "Print x before and after `block(x)`.",
)
class AddsInPlace(_Block):
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
    return sum(p.numel() for p in blocks.parameters())  # counts what is shared once


# With several blocks, parameters of another layout are too many to be matched with ours: numbers are compared for one
# block, and of several the way they are put together.
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
    forward("4 heads", 8, 1, 4, inputs=(drawn(1, 3, 8),)),
    forward("another mlp_ratio", 8, 1, 2, mlp_ratio=1.5, inputs=(drawn(1, 3, 8),)),
    Case(
        "3 blocks are applied one after the other",
        _one_after_the_other,
        "Each block reads what the one before it gives.",
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
        "every block has weights of its own: how many numbers do 3 blocks learn?",
        _own_weights,
        "Each block is a new one; [block] * depth repeats one and the same.",
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
    hints=(
        "Write down the rates of 5 blocks with drop_path_rate=0.4. How many steps are between the first and the last?",
        "First a list of `depth` rates, then one *new* block for each of them. nn.Sequential takes the blocks one by one: "
        "a star unpacks a list.",
        "rates = torch.linspace(..., ..., ...).tolist()\n"
        "return nn.Sequential(*(Block(..., ..., ..., rate) for rate in rates))",
    ),
)


def _stack(dim, rates, num_heads, mlp_ratio, kind=vit.Block):
    return nn.Sequential(*(kind(dim, num_heads, mlp_ratio, rate) for rate in rates))


@make_blocks.alternative
def with_a_loop(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    blocks = nn.Sequential()
    for rate in torch.linspace(0, drop_path_rate, depth).tolist():
        blocks.append(vit.Block(dim, num_heads, mlp_ratio=mlp_ratio, drop_path=rate))
    return blocks


@make_blocks.alternative
def with_names(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    step = drop_path_rate / (depth - 1) if depth > 1 else 0.0
    return nn.Sequential(
        OrderedDict((f"block{i}", vit.Block(dim, num_heads, mlp_ratio, i * step)) for i in range(depth))
    )


@make_blocks.alternative
def rates_as_tensors(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return _stack(dim, torch.linspace(0, drop_path_rate, depth), num_heads, mlp_ratio)


@make_blocks.alternative
def of_blocks_with_other_names(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = torch.linspace(0, drop_path_rate, depth).tolist()
    return _stack(dim, rates, num_heads, mlp_ratio, OtherNamesAndOrder)


@make_blocks.mistake(
    "drop_path_rate is taken as an argument but never reaches the blocks: none of them drops anything.",
    "Print `[block.drop_path.drop_prob for block in encoder]`.",
)
def rate_ignored(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return vit.make_blocks(dim, depth, num_heads, mlp_ratio)


@make_blocks.mistake(
    "It is the same block again and again: `[block] * depth` repeats one object, so the layers share their weights. "
    "Build a new block for each layer.",
    "Print `encoder[0] is encoder[1]`.",
)
def shared_block(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return nn.Sequential(*[vit.Block(dim, num_heads, mlp_ratio)] * depth)


@make_blocks.mistake(
    "Every block has the full drop rate. It should grow from 0 at the first block to the full rate at the last: what the "
    "first layers find, all later ones need.",
    "If one layer had to be left out, would you rather miss the first or the last?",
)
def constant_rate(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return _stack(dim, [drop_path_rate] * depth, num_heads, mlp_ratio)


@make_blocks.mistake(
    "The last block does not reach the full rate: the rates are divided by depth. "
    "Count the steps between the first block and the last.",
    "Five fence posts: how many gaps are between them?",
)
def rate_divided_by_depth(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = [drop_path_rate * i / depth for i in range(depth)]
    return _stack(dim, rates, num_heads, mlp_ratio)


@make_blocks.mistake(
    "The first block drops already: the rates start one step too late, at (i + 1) / depth. The first rate is 0.",
    "What is the rate of block 0, and what should it be?",
)
def first_block_drops(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = [drop_path_rate * (i + 1) / depth for i in range(depth)]
    return _stack(dim, rates, num_heads, mlp_ratio)


@make_blocks.mistake(
    "The rates run backwards: the first block has the full rate and the last has none.",
    "What the first layers find, all later ones build on: at which end does a gap hurt more?",
)
def rates_backwards(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = torch.linspace(drop_path_rate, 0, depth).tolist()
    return _stack(dim, rates, num_heads, mlp_ratio)


@make_blocks.mistake(
    "With a single block there are depth - 1 = 0 steps, and the division fails. One block alone has rate 0.",
    "Which depth makes `i / (depth - 1)` fail?",
)
def fails_for_one_block(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = [drop_path_rate * i / (depth - 1) for i in range(depth)]
    return _stack(dim, rates, num_heads, mlp_ratio)


@make_blocks.mistake(
    "mlp_ratio is not handed on to the blocks.",
    "Build it with mlp_ratio 2 and 4 and compare the numbers of parameters.",
)
def ratio_ignored(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return vit.make_blocks(dim, depth, num_heads, 4.0, drop_path_rate)


@make_blocks.mistake(
    "num_heads is not handed on to the blocks.",
    "Two encoders with 2 and with 4 heads have the same number of parameters: how could you still tell them apart?",
)
def heads_ignored(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return vit.make_blocks(dim, depth, 2, mlp_ratio, drop_path_rate)


@make_blocks.mistake(
    "The rate lands in the place of mlp_ratio: Block's third argument is mlp_ratio, its fourth drop_path. "
    "Name the arguments or count them.",
    "Print the encoder: how wide is fc1 in the first block?",
)
def rate_as_mlp_ratio(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = torch.linspace(0, drop_path_rate, depth).tolist()
    with warnings.catch_warnings(action="ignore"):  # torch warns of layers without numbers
        return nn.Sequential(*(vit.Block(dim, num_heads, rate) for rate in rates))


@make_blocks.mistake(
    "nn.ModuleList only holds the blocks; it does not know how to apply them. nn.Sequential applies one after the other.",
    "Who calls block 1 with the output of block 0?",
)
def module_list(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return nn.ModuleList(vit.make_blocks(dim, depth, num_heads, mlp_ratio, drop_path_rate))


@make_blocks.mistake(
    "It is a Python list: it has no forward, and a module that holds it would not find the blocks' parameters.",
    "Try `[block, block].to('cuda')`: what does a list know about its blocks?",
)
def plain_list(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return list(vit.make_blocks(dim, depth, num_heads, mlp_ratio, drop_path_rate))


@make_blocks.mistake(
    "There is one block too few. `depth` blocks need `depth` rates: look at where the range starts and ends.",
    "Print `len(make_blocks(8, 3, 2))`.",
)
def one_block_too_few(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = [drop_path_rate * i / max(1, depth - 1) for i in range(1, depth)]
    return _stack(dim, rates, num_heads, mlp_ratio)


@make_blocks.mistake(
    "The blocks' norms have PyTorch's default eps, 1e-5. The ViT's is 1e-6.",
    "Print one block and read the line of norm1.",
)
def default_eps(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = torch.linspace(0, drop_path_rate, depth).tolist()
    return _stack(dim, rates, num_heads, mlp_ratio, DefaultEps)


EXERCISES = [layer_norm, Mlp, drop_path, Block, make_blocks]
