"""Lesson 09: an MLP over tokens, a block around any mixer, what mixers cost, a mixer as a matrix, pooling, the order of tokens."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu import inspect
from vit_edu.check.cases import (
    Case,
    CaseFailed,
    apply,
    build,
    call,
    drawn,
    fill,
    forward,
    generator,
    gradients,
    in_double,
    not_contiguous,
    parameters,
    passes_gradient,
    plain_number,
)
from vit_edu.check.engine import Exercise, variant
from vit_edu.check.probes import Sizes
from vit_edu.models import costs, mixer, vit

# ---------------------------------------------------------------- an MLP over the tokens


def _mlp(tokens, hidden):
    """w1, b1, w2, b2 of an MLP over this many tokens. The biases are large enough to be missed."""
    return (
        drawn(hidden, tokens, seed=1) / tokens**0.5,
        drawn(hidden, seed=2),
        drawn(tokens, hidden, seed=3) / hidden**0.5,
        drawn(tokens, seed=4),
    )


def _mixed(images, tokens, width, hidden):
    return drawn(images, tokens, width), *_mlp(tokens, hidden)


_doubled = (
    torch.tensor([[[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]]]),
    torch.tensor([[10.0, 10.0]]),
    torch.tensor([0.0]),
    torch.tensor([[1.0], [2.0]]),
    torch.tensor([0.5, 0.0]),
)

token_mixing = Exercise(
    mixer.token_mixing,
    call(
        "1 image, 2 tokens of width 3, a hidden layer of width 1",
        *_doubled,
        hint="The first hidden number is GELU(10 * 1 + 10 * -1): one channel of both tokens.",
    ),
    call("2 images, 5 tokens of width 3, hidden width 7", *_mixed(2, 5, 3, 7)),
    call("3 images, 4 tokens of width 6, a hidden layer that is narrower", *_mixed(3, 4, 6, 2)),
    call(
        "as many tokens as channels, 4",
        *_mixed(2, 4, 4, 6),
        hint="Here a linear layer fits on either axis. It belongs on that of the tokens.",
    ),
    call("as many images as tokens, 3", *_mixed(3, 3, 5, 4)),
    call("a hidden layer as wide as there are tokens, 5", *_mixed(2, 5, 3, 5)),
    call("a single token", *_mixed(2, 1, 3, 4)),
    call("a single channel", *_mixed(2, 4, 1, 3), kind="property"),
    call("a single image", *_mixed(1, 3, 2, 4), kind="property"),
    not_contiguous(*_mixed(2, 3, 4, 5)),
    in_double(*_mixed(2, 3, 4, 5)),
    passes_gradient(*_mixed(2, 3, 4, 5)),
    sizes=Sizes(
        lambda images, tokens, width, hidden: call("", *_mixed(images, tokens, width, hidden)),
        images=(5, 3, 2, 8),
        tokens=(7, 6, 17, 64, 65),
        width=(12, 9, 64, 32, 8),
        hidden=(10, 20, 32, 64, 128),
    ),
)


def _two_layers(
    x,
    w1,
    b1,
    w2,
    b2,
    act=F.gelu,
    there=lambda x: x.transpose(1, 2),
    back=lambda x: x.transpose(1, 2),
    first=lambda x: x,
    last=lambda x: x,
):
    """The token MLP, with one of these parts changed. there, back: what is done to the axes. first, last: to the numbers."""
    hidden = act(F.linear(first(there(x)), w1, b1))
    return last(back(F.linear(hidden, w2, b2)))


def _changed(**part):
    return lambda *args: _two_layers(*args, **part)


def _reshaped(x, w1, b1, w2, b2):
    B, N, D = x.shape
    return _two_layers(
        x, w1, b1, w2, b2, there=lambda x: x.reshape(B, D, N), back=lambda x: x.reshape(B, N, D)
    )


token_mixing.add_mistakes(
    no_transpose=_changed(there=lambda x: x, back=lambda x: x),
    not_back=_changed(back=lambda x: x),
    over_images=_changed(there=lambda x: x.permute(1, 2, 0), back=lambda x: x.permute(2, 0, 1)),
    reshaped=_reshaped,
    reshaped_back=lambda x, *weights: _two_layers(x, *weights, back=lambda out: out.reshape(x.shape)),
    no_gelu=_changed(act=lambda x: x),
    relu=_changed(act=F.relu),
    tanh_gelu=_changed(act=lambda x: F.gelu(x, approximate="tanh")),
    quick_gelu=_changed(act=lambda x: x * torch.sigmoid(1.702 * x)),
    gelu_after=_changed(act=lambda x: x, last=F.gelu),
    gelu_twice=_changed(last=F.gelu),
    gelu_first=_changed(act=lambda x: x, first=F.gelu),
    skip_inside=lambda x, *weights: x + _two_layers(x, *weights),
    biases_left_out=lambda x, w1, b1, w2, b2: _two_layers(x, w1, None, w2, None),
    first_bias_left_out=lambda x, w1, b1, w2, b2: _two_layers(x, w1, None, w2, b2),
    second_bias_left_out=lambda x, w1, b1, w2, b2: _two_layers(x, w1, b1, w2, None),
    bias_for_each_channel=lambda x, w1, b1, w2, b2: _two_layers(x, w1, b1, w2, None) + b2,
    weights_not_transposed=lambda x, w1, b1, w2, b2: (
        F.gelu(x.transpose(1, 2) @ w1 + b1) @ w2 + b2
    ).transpose(1, 2),
    second_weights_not_transposed=lambda x, w1, b1, w2, b2: (
        F.gelu(F.linear(x.transpose(1, 2), w1, b1)) @ w2 + b2
    ).transpose(1, 2),
    first_layer_alone=lambda x, w1, b1, w2, b2: F.gelu(F.linear(x.transpose(1, 2), w1, b1)).transpose(1, 2),
    channels_averaged=lambda x, *weights: _two_layers(x.mean(dim=2, keepdim=True).expand_as(x), *weights),
    cut_off=lambda *args: _two_layers(*args).detach(),
)

# ---------------------------------------------------------------- the block around a mixer


def _tokens(count, hidden=3):
    """A token mixer for a block: an MLP over so many tokens."""
    return mixer.TokenMlp(count, hidden)


class AddsNothing(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


class FixedMatrix(nn.Module):
    """A token mixer that refuses anything but (B, tokens, dim), so that an exchanged axis does not go unnoticed."""

    def __init__(self, tokens, dim):
        super().__init__()
        self.sizes = tokens, dim
        self.register_buffer("matrix", drawn(tokens, tokens), persistent=False)

    def forward(self, x):
        if x.ndim != 3 or x.shape[1:] != self.sizes:
            raise CaseFailed(
                "the token mixer reads (B, {tokens}, {dim}), tokens and their features, and got {shape}",
                tokens=self.sizes[0],
                dim=self.sizes[1],
                shape=tuple(x.shape),
            )
        return self.matrix.to(x.dtype) @ x


_block = 8, _tokens(5), 12  # dim, tokens, hidden


def _skip_is_clean(candidate):
    """With all weights at zero and a token mixer that adds nothing."""
    block, x = build(candidate, 8, AddsNothing(), 12), drawn(2, 5, 8)
    with torch.no_grad():
        for value in block.parameters():
            value.zero_()
    return apply(block.eval(), x)


def _eps(candidate):
    """The eps of every norm that is not 1e-6."""
    norms = [m for m in build(candidate, *_block).modules() if isinstance(m, nn.LayerNorm)]
    return sorted({norm.eps for norm in norms if norm.eps != 1e-6})


def _is_handed_on(candidate):
    """Whether the block uses the module that it got: what is learned in the block is learned in this module."""
    block = candidate(8, tokens := _tokens(5), 12)
    if not isinstance(block, nn.Module):
        return False
    fill(block)(drawn(2, 5, 8)).square().sum().backward()
    return all(p.grad is not None and bool(p.grad.any()) for p in tokens.parameters())


def _same_in_training(candidate):
    block, x = build(candidate, *_block), drawn(40, 5, 8)
    return torch.allclose(block.train()(x.clone()), block.eval()(x.clone()), atol=1e-5)


MixerBlock = Exercise(
    mixer.MixerBlock,
    parameters(
        "names and shapes of the parameters",
        *_block,
        hint="norm1, mix_tokens (the module that was handed over), norm2, mix_channels (an Mlp from dim to hidden and back).",
    ),
    forward("1 image of 2 tokens of width 3", 3, _tokens(2), 4, inputs=(drawn(1, 2, 3),)),
    forward("2 images of 5 tokens of width 8", *_block, inputs=(drawn(2, 5, 8),)),
    forward(
        "as many tokens as channels, 6",
        6,
        _tokens(6),
        10,
        inputs=(drawn(2, 6, 6),),
        hint="A norm acts on the features of each token, the last axis.",
    ),
    forward(
        "a token mixer that multiplies by a fixed matrix",
        6,
        FixedMatrix(4, 6),
        12,
        inputs=(drawn(2, 4, 6),),
        hint="Whatever the mixer is, it gets (B, N, D) and returns it. It exchanges axes itself, if it needs to.",
    ),
    forward("attention as the token mixer", 8, vit.Attention(8, 2), 16, inputs=(drawn(2, 7, 8),)),
    forward("a hidden width that is smaller than dim", 8, _tokens(5), 3, inputs=(drawn(2, 5, 8),)),
    forward(
        "large inputs: the skip path is not normalised",
        *_block,
        inputs=(drawn(2, 5, 8) * 50,),
        tolerance=1e-3,
    ),
    forward(
        "small inputs: the norms' eps is 1e-6",
        *_block,
        inputs=(drawn(2, 5, 8) * 1e-3,),
        hint="nn.LayerNorm's own default is 1e-5.",
    ),
    Case("both norms have eps 1e-6", _eps, "nn.LayerNorm's own default is 1e-5."),
    Case(
        "with both branches at zero, the block changes nothing",
        _skip_is_clean,
        "x + 0 + 0 should be x: look at what else happens to x on its way.",
    ),
    Case(
        "the same in training as in evaluation",
        _same_in_training,
        "Nothing in the block is random.",
    ),
    Case(
        "the module that is handed over is the one that learns",
        _is_handed_on,
        "Keep the module as a part of the block: self.mix_tokens = tokens.",
    ),
    forward(
        "numbers in float64",
        *_block,
        inputs=(drawn(1, 5, 8),),
        double=True,
        hint="Take the dtype from x instead of fixing it.",
    ),
    gradients("everything can learn", *_block, inputs=(drawn(2, 5, 8),)),
    sizes=Sizes(
        lambda images, tokens, width, hidden: forward(
            "", width, _tokens(tokens), hidden, inputs=(drawn(images, tokens, width),)
        ),
        images=(5, 3, 2),
        tokens=(7, 6, 17, 64),
        width=(24, 48, 64, 32, 8),
        hidden=(20, 30, 128, 256, 12),
    ),
)


class BaseMixerBlock(nn.Module):
    """What mistakes have in common."""

    def __init__(self, dim, tokens, hidden):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.mix_tokens, self.mix_channels = tokens, vit.Mlp(dim, hidden)

    def forward(self, x):
        x = x + self.mix_tokens(self.norm1(x))
        return x + self.mix_channels(self.norm2(x))


def _over_tokens(norm, x):
    """A layer norm whose mean and deviation are those of a channel over the tokens."""
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias


MixerBlock.add_mistakes(
    NoSkip=variant(
        BaseMixerBlock, forward=lambda self, x: self.mix_channels(self.norm2(self.mix_tokens(self.norm1(x))))
    ),
    Parallel=variant(
        BaseMixerBlock,
        forward=lambda self, x: x + self.mix_tokens(self.norm1(x)) + self.mix_channels(self.norm2(x)),
    ),
    NoChannels=variant(BaseMixerBlock, forward=lambda self, x: x + self.mix_tokens(self.norm1(x))),
    NoTokens=variant(BaseMixerBlock, forward=lambda self, x: x + self.mix_channels(self.norm2(x))),
)


@MixerBlock.mistake
class SecondSkipFromInput(BaseMixerBlock):
    def forward(self, x):
        mixed = x + self.mix_tokens(self.norm1(x))
        return x + self.mix_channels(self.norm2(mixed))


@MixerBlock.mistake
class NoSkipAroundTokens(BaseMixerBlock):
    def forward(self, x):
        x = self.mix_tokens(self.norm1(x))
        return x + self.mix_channels(self.norm2(x))


@MixerBlock.mistake
class NoSkipAroundChannels(BaseMixerBlock):
    def forward(self, x):
        x = x + self.mix_tokens(self.norm1(x))
        return self.mix_channels(self.norm2(x))


@MixerBlock.mistake
class PostNorm(BaseMixerBlock):
    def forward(self, x):
        x = self.norm1(x + self.mix_tokens(x))
        return self.norm2(x + self.mix_channels(x))


@MixerBlock.mistake
class NormAfterBranch(BaseMixerBlock):
    def forward(self, x):
        x = x + self.norm1(self.mix_tokens(x))
        return x + self.norm2(self.mix_channels(x))


@MixerBlock.mistake
class SkipAfterNorm(BaseMixerBlock):
    def forward(self, x):
        x = self.norm1(x)
        x = x + self.mix_tokens(x)
        x = self.norm2(x)
        return x + self.mix_channels(x)


@MixerBlock.mistake
class NormOverTokens(BaseMixerBlock):
    def forward(self, x):
        x = x + self.mix_tokens(_over_tokens(self.norm1, x))
        return x + self.mix_channels(self.norm2(x))


@MixerBlock.mistake
class BothNormsOverTokens(BaseMixerBlock):
    def forward(self, x):
        x = x + self.mix_tokens(_over_tokens(self.norm1, x))
        return x + self.mix_channels(_over_tokens(self.norm2, x))


@MixerBlock.mistake
class OneNorm(BaseMixerBlock):
    def __init__(self, dim, tokens, hidden):
        super().__init__(dim, tokens, hidden)
        self.norm2 = self.norm1


@MixerBlock.mistake
class SameNormTwice(BaseMixerBlock):
    def forward(self, x):
        x = x + self.mix_tokens(self.norm1(x))
        return x + self.mix_channels(self.norm1(x))


@MixerBlock.mistake
class NormsExchanged(BaseMixerBlock):
    def forward(self, x):
        x = x + self.mix_tokens(self.norm2(x))
        return x + self.mix_channels(self.norm1(x))


@MixerBlock.mistake
class NoFirstNorm(BaseMixerBlock):
    def forward(self, x):
        x = x + self.mix_tokens(x)
        return x + self.mix_channels(self.norm2(x))


@MixerBlock.mistake
class NoSecondNorm(BaseMixerBlock):
    def forward(self, x):
        x = x + self.mix_tokens(self.norm1(x))
        return x + self.mix_channels(x)


@MixerBlock.mistake
class NoNorms(BaseMixerBlock):
    def forward(self, x):
        x = x + self.mix_tokens(x)
        return x + self.mix_channels(x)


@MixerBlock.mistake
class ChannelsFirst(BaseMixerBlock):
    def forward(self, x):
        x = x + self.mix_channels(self.norm2(x))
        return x + self.mix_tokens(self.norm1(x))


@MixerBlock.mistake
class TransposedTwice(BaseMixerBlock):
    def forward(self, x):
        x = x + self.mix_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mix_channels(self.norm2(x))


@MixerBlock.mistake
class DefaultEps(BaseMixerBlock):
    def __init__(self, dim, tokens, hidden):
        super().__init__(dim, tokens, hidden)
        self.norm1.eps = self.norm2.eps = 1e-5


@MixerBlock.mistake
class AlwaysFourTimes(BaseMixerBlock):
    def __init__(self, dim, tokens, hidden):
        super().__init__(dim, tokens, 4 * dim)


@MixerBlock.mistake
class AddsInPlace(BaseMixerBlock):
    def forward(self, x):
        x += self.mix_tokens(self.norm1(x))
        x += self.mix_channels(self.norm2(x))
        return x


@MixerBlock.mistake
class Dropout(BaseMixerBlock):
    def forward(self, x):
        x = x + F.dropout(self.mix_tokens(self.norm1(x)), 0.1, self.training)
        return x + F.dropout(self.mix_channels(self.norm2(x)), 0.1, self.training)


@MixerBlock.mistake
class HiddenInAList(BaseMixerBlock):
    def __init__(self, dim, tokens, hidden):
        super().__init__(dim, None, hidden)
        self.parts = [tokens]

    def forward(self, x):
        x = x + self.parts[0](self.norm1(x))
        return x + self.mix_channels(self.norm2(x))


# ---------------------------------------------------------------- what a mixer costs

_NAMES = ("attention", "mlp", "convolution", "pooling", "random", "none")

mixer_cost = Exercise(
    costs.mixer_cost,
    call(
        "attention over 2 tokens of width 3",
        "attention",
        2,
        3,
        hint="The same as in lesson 08: layer_cost has both numbers.",
    ),
    call(
        "an MLP over 4 tokens of width 3, hidden width 5",
        "mlp",
        4,
        3,
        5,
        hint="From N to hidden and back, each layer with a bias; every one of the D channels goes through it.",
    ),
    call(
        "a depthwise 3 x 3 convolution at 4 places of width 2",
        "convolution",
        4,
        2,
        hint="Each channel has one kernel of 3 x 3 numbers and a bias.",
    ),
    call("3 x 3 pooling of 4 tokens of width 2", "pooling", 4, 2),
    call("a fixed random matrix for 4 tokens of width 3", "random", 4, 3),
    call("no mixing at all", "none", 4, 3),
    call("attention over 64 tokens of width 48", "attention", 64, 48),
    call("attention over a single token", "attention", 1, 8),
    call("an MLP over 64 tokens of width 48, hidden width 32", "mlp", 64, 48),
    call("an MLP over 10 tokens of width 6, hidden width 40", "mlp", 10, 6, 40),
    call("a depthwise 3 x 3 convolution at 64 places of width 48", "convolution", 64, 48),
    call("a depthwise 5 x 5 convolution at 9 places of width 6", "convolution", 9, 6, 32, 5),
    call("5 x 5 pooling of 9 tokens of width 6", "pooling", 9, 6, 32, 5),
    call("a fixed random matrix for 50 tokens of width 7", "random", 50, 7),
    sizes=Sizes(
        lambda tokens, width, hidden, kernel: Case(
            "",
            lambda candidate: [apply(candidate, name, tokens, width, hidden, kernel) for name in _NAMES],
        ),
        tokens=(20, 50, 17, 65, 64),
        width=(12, 40, 64, 32, 8),
        hidden=(10, 24, 32, 64),
        kernel=(5, 7, 3, 1),
    ),
)


def _costed(**other):
    """The costs, with those of these mixers changed: each by a function of tokens, dim, hidden, kernel and both right costs."""

    def wrong(mixer, tokens, dim, hidden=32, kernel=3):
        right = costs.mixer_cost(mixer, tokens, dim, hidden, kernel)
        change = other.get(mixer)
        return change(tokens, dim, hidden, kernel, *right) if change else right

    return wrong


def _of_all(change):
    return _costed(**dict.fromkeys(_NAMES, change))


def _biases(mixer, tokens, dim, hidden):
    return {"attention": 4 * dim, "mlp": hidden + tokens, "convolution": dim}.get(mixer, 0)


def _less_biases(times):
    """The costs of which the biases were taken away. times: tokens, dim -> how often they are added to the multiply-adds."""

    def wrong(mixer, tokens, dim, hidden=32, kernel=3):
        weights, products = costs.mixer_cost(mixer, tokens, dim, hidden, kernel)
        biases = _biases(mixer, tokens, dim, hidden)
        return (weights - biases, products) if times is None else (weights, products + times * biases)

    return wrong


mixer_cost.add_mistakes(
    mlp_over_channels=_costed(mlp=lambda T, D, H, K, w, m: (2 * D * H + H + D, 2 * T * D * H)),
    mlp_for_every_channel=_costed(mlp=lambda T, D, H, K, w, m: (D * w, m)),
    mlp_for_one_channel=_costed(mlp=lambda T, D, H, K, w, m: (w, m // D)),
    mlp_for_every_token=_costed(mlp=lambda T, D, H, K, w, m: (w, m // D * T)),
    mlp_one_way=_costed(mlp=lambda T, D, H, K, w, m: (T * H + H, m // 2)),
    mlp_second_bias_of_hidden=_costed(mlp=lambda T, D, H, K, w, m: (w - T + H, m)),
    mlp_hidden_four_times=_costed(mlp=lambda T, D, H, K, w, m: costs.mixer_cost("mlp", T, D, 4 * T)),
    ordinary_convolution=_costed(
        convolution=lambda T, D, H, K, w, m: costs.layer_cost("convolution", T, D, K)
    ),
    convolution_without_width=_costed(convolution=lambda T, D, H, K, w, m: (w, T * K * K)),
    one_kernel_for_all=_costed(convolution=lambda T, D, H, K, w, m: (K * K + 1, m)),
    kernel_not_squared=_costed(
        convolution=lambda T, D, H, K, w, m: (K * D + D, T * K * D),
        pooling=lambda T, D, H, K, w, m: (0, T * K * D),
    ),
    pooling_has_weights=_costed(pooling=lambda T, D, H, K, w, m: (K * K * D, m)),
    pooling_subtraction_counted=_costed(pooling=lambda T, D, H, K, w, m: (0, m + T * D)),
    pooling_is_free=_costed(pooling=lambda T, D, H, K, w, m: (0, 0)),
    pooling_once_for_a_token=_costed(pooling=lambda T, D, H, K, w, m: (0, T * D)),
    random_is_learned=_costed(random=lambda T, D, H, K, w, m: (T * T, m)),
    random_without_width=_costed(random=lambda T, D, H, K, w, m: (0, T * T)),
    random_not_squared=_costed(random=lambda T, D, H, K, w, m: (0, T * D)),
    random_over_channels=_costed(random=lambda T, D, H, K, w, m: (0, T * D * D)),
    random_is_free=_costed(random=lambda T, D, H, K, w, m: (0, 0)),
    attention_without_pairs=_costed(attention=lambda T, D, H, K, w, m: (w, m - 2 * T * T * D)),
    attention_pairs_only=_costed(attention=lambda T, D, H, K, w, m: (w, 2 * T * T * D)),
    attention_one_product=_costed(attention=lambda T, D, H, K, w, m: (w, m - T * T * D)),
    attention_without_projections=_costed(attention=lambda T, D, H, K, w, m: (0, 2 * T * T * D)),
    none_copies=_costed(none=lambda T, D, H, K, w, m: (0, T * D)),
    biases_left_out=_less_biases(None),
    biases_multiplied=lambda mixer, tokens, dim, hidden=32, kernel=3: _less_biases(
        dim if mixer == "mlp" else tokens
    )(mixer, tokens, dim, hidden, kernel),
    counted_twice=_of_all(lambda T, D, H, K, w, m: (w, 2 * m)),
    exchanged=_of_all(lambda T, D, H, K, w, m: (m, w)),
    as_floats=_of_all(lambda T, D, H, K, w, m: (float(w), float(m))),
)

# ---------------------------------------------------------------- a mixer as a matrix


def _linear(matrices, bias=0.0, across=None):
    """A token mixer. matrices: (D, N, N), one for each channel. bias: what it adds. across: (D, D), what it does to the channels."""
    D, N = matrices.shape[:2]

    def mix(x):
        if not isinstance(x, torch.Tensor) or x.ndim != 3 or x.shape[1:] != (N, D):
            raise CaseFailed(
                "mix reads (B, {tokens}, {dim}), a batch of tokens, and got {shape}",
                tokens=N,
                dim=D,
                shape=tuple(getattr(x, "shape", ())),
            )
        mixed = torch.einsum("dij,bjd->bid", matrices.to(x.dtype), x)
        return (mixed if across is None else mixed @ across.to(x.dtype)) + bias

    return mix


def _own_matrices(tokens, dim, seed=0):
    return drawn(dim, tokens, tokens, seed=seed)


def _read(name, mix, tokens, dim, *channel, hint="", kind=""):
    return Case(name, lambda candidate: apply(candidate, mix, tokens, dim, *channel), hint, kind=kind)


def _matrix_case(tokens, width):
    """The last channel of a mixer with a matrix and a bias for each channel."""
    mix = _linear(_own_matrices(tokens, width), drawn(tokens, width, seed=1))
    return _read("", mix, tokens, width, width - 1)


def _moved(tokens, dim):
    """Every token gets what the token before it had, and the first token nothing."""
    return _linear(torch.diag(torch.ones(tokens - 1), -1).expand(dim, -1, -1))


_numbers = torch.arange(1.0, 10).reshape(1, 3, 3)

mixing_matrix = Exercise(
    inspect.mixing_matrix,
    _read(
        "a mixer of 3 tokens with one channel, whose matrix is 1 to 9 in reading order",
        _linear(_numbers),
        3,
        1,
        hint="Feed (1, 0, 0), (0, 1, 0) and (0, 0, 1). What comes out for the second of them is the second *column*.",
    ),
    _read(
        "the same mixer with 100, 200, 300 added to the three tokens",
        _linear(_numbers, torch.tensor([[100.0], [200.0], [300.0]])),
        3,
        1,
        hint="What mix gives for zeros has nothing to do with the tokens.",
    ),
    _read("a mixer of 4 tokens that moves each of them one place on", _moved(4, 3), 4, 3),
    _read("channel 0 of a mixer that treats every channel differently", _linear(_own_matrices(4, 3)), 4, 3),
    _read("channel 2 of the same mixer", _linear(_own_matrices(4, 3)), 4, 3, 2),
    _read("channel 1, with biases", _linear(_own_matrices(5, 3), drawn(5, 3, seed=1)), 5, 3, 1),
    _read(
        "channel 1 of a mixer that mixes the channels as well",
        _linear(_own_matrices(4, 3), drawn(3, seed=1), drawn(3, 3, seed=2)),
        4,
        3,
        1,
        hint="Only that channel of a token is 1. All its other channels are 0.",
    ),
    _read("as many tokens as channels, 4", _linear(_own_matrices(4, 4)), 4, 4, 3),
    _read("a mixer that always gives the same", _linear(torch.zeros(2, 3, 3), 7.0), 3, 2),
    _read("a single token", _linear(_own_matrices(1, 3), 0.5), 1, 3, 1, kind="property"),
    _read(
        "a module: a depthwise convolution on a grid of 2 x 3 patches",
        fill(mixer.Convolution(4, (2, 3), 0, 3)).requires_grad_(False),
        6,
        4,
        2,
    ),
    sizes=Sizes(
        _matrix_case,
        tokens=(7, 6, 17, 64, 4),
        width=(5, 9, 64, 32, 8),
    ),
)


def _units(tokens, dim, channel):
    """(N, N, D): in image j, token j is 1 in this channel."""
    units = torch.zeros(tokens, tokens, dim)
    units[:, :, channel] = torch.eye(tokens)
    return units


def _answers(mix, tokens, dim, channel, units=None, nothing=None):
    """(N, N, D): what mix gives for image j, minus what it gives for nothing."""
    units = _units(tokens, dim, channel) if units is None else units
    return mix(units) - mix(torch.zeros(1, tokens, dim) if nothing is None else nothing)


def _then_read(read, **how):
    """read: what mix gave, (N, N, D), and the channel -> what is returned."""
    return lambda mix, tokens, dim, channel=0: read(_answers(mix, tokens, dim, channel), channel)


mixing_matrix.add_mistakes(
    transposed=_then_read(lambda out, c: out[:, :, c]),
    bias_left_in=lambda mix, tokens, dim, channel=0: mix(_units(tokens, dim, channel))[:, :, channel].T,
    all_channels_at_once=lambda mix, tokens, dim, channel=0: (
        _answers(mix, tokens, dim, channel, torch.eye(tokens)[:, :, None].expand(-1, -1, dim))[
            :, :, channel
        ].T
    ),
    channel_ignored=lambda mix, tokens, dim, channel=0: inspect.mixing_matrix(mix, tokens, dim, 0),
    other_channel_fed=lambda mix, tokens, dim, channel=0: _answers(mix, tokens, dim, 0)[:, :, channel].T,
    other_channel_read=_then_read(lambda out, c: out[:, :, 0].T),
    channels_averaged=_then_read(lambda out, c: out.mean(2).T),
    channels_summed=_then_read(lambda out, c: out.sum(2).T),
    all_channels_returned=_then_read(lambda out, c: out.transpose(0, 1)),
    minus_ones=lambda mix, tokens, dim, channel=0: (
        _answers(mix, tokens, dim, channel, nothing=torch.ones(1, tokens, dim))[:, :, channel].T
    ),
    one_subtracted=lambda mix, tokens, dim, channel=0: (
        inspect.mixing_matrix(mix, tokens, dim, channel) - torch.eye(tokens)
    ),
    one_added=lambda mix, tokens, dim, channel=0: (
        inspect.mixing_matrix(mix, tokens, dim, channel) + torch.eye(tokens)
    ),
    softmaxed=_then_read(lambda out, c: out[:, :, c].T.softmax(dim=1)),
    rows_sum_to_one=_then_read(lambda out, c: out[:, :, c].T / out[:, :, c].T.sum(1, keepdim=True)),
    absolute=_then_read(lambda out, c: out[:, :, c].T.abs()),
    tokens_for_channels=lambda mix, tokens, dim, channel=0: (
        mix(torch.eye(tokens)[None])[0] - mix(torch.zeros(1, tokens, tokens))[0]
    ),
    bias_of_the_first=lambda mix, tokens, dim, channel=0: (
        mix(_units(tokens, dim, channel))[:, :, channel].T - mix(torch.zeros(1, tokens, dim))[0, 0, channel]
    ),
    everything_at_once=lambda mix, tokens, dim, channel=0: (
        _answers(mix, tokens, dim, channel, _units(tokens, dim, channel).sum(0, keepdim=True))
        .expand(tokens, -1, -1)[:, :, channel]
        .T
    ),
)

# ---------------------------------------------------------------- pooling

_square = torch.arange(1.0, 7).reshape(1, 6, 1) ** 2

pooling = Exercise(
    mixer.pooling,
    call(
        "the squares of 1 to 6 on a grid of 2 x 3 patches, 3 x 3 neighbours",
        _square,
        (2, 3),
        3,
        hint="The patch in the corner has four neighbours, itself among them: 1, 4, 16, 25. Their mean is 11.5.",
    ),
    call("2 images of 3 x 2 patches of width 4", drawn(2, 6, 4), (3, 2), 3),
    call("2 images of 4 x 5 patches of width 3", drawn(2, 20, 3), (4, 5), 3),
    call("5 x 5 neighbours on a grid of 6 x 7", drawn(2, 42, 3), (6, 7), 5),
    call("a square grid, 4 x 4", drawn(2, 16, 3), (4, 4), 3),
    call(
        "a patch alone, 1 x 1: nothing is left",
        drawn(2, 6, 3),
        (2, 3),
        1,
        hint="The mean of a token with itself, minus the token.",
    ),
    call("7 x 7 neighbours, more than the grid has", drawn(1, 6, 2), (2, 3), 7),
    call("equal tokens: the mean is the token", torch.ones(1, 20, 2), (4, 5), 3),
    call("a single row of patches", drawn(2, 5, 3), (1, 5), 3, kind="property"),
    call("a single column of patches", drawn(2, 5, 3), (5, 1), 3, kind="property"),
    call("as many channels as patches, 6", drawn(2, 6, 6), (2, 3), 3),
    not_contiguous(drawn(2, 12, 3), (3, 4), 3),
    in_double(drawn(2, 12, 3), (3, 4), 3),
    passes_gradient(drawn(2, 12, 3), (3, 4), 3),
    sizes=Sizes(
        lambda images, rows, columns, width, kernel: call(
            "", drawn(images, rows * columns, width), (rows, columns), kernel
        ),
        images=(3, 5, 2),
        rows=(6, 5, 4, 8, 2),
        columns=(9, 7, 4, 8, 3),
        width=(4, 12, 64, 32),
        kernel=(5, 7, 3, 1),
    ),
)


def _mean(maps, size, counted=False, **how):
    return F.avg_pool2d(maps, size, stride=1, padding=size // 2, count_include_pad=counted, **how)


def _pooled(x, grid, size, over=_mean, minus=lambda mean, x: mean - x):
    """The pooled tokens. over: maps (B, D, rows, cols), size -> maps. minus: means, tokens -> what is returned."""
    maps = x.transpose(1, 2).unflatten(2, grid)
    return minus(over(maps, size).flatten(2).transpose(1, 2), x)


def _with(**part):
    return lambda x, grid, size: _pooled(x, grid, size, **part)


def _padded(mode):
    def over(maps, size):
        reach = size // 2
        index = [torch.arange(-reach, side + reach) for side in maps.shape[2:]]
        rows, cols = (
            at % side if mode == "circular" else at.clamp(0, side - 1)
            for at, side in zip(index, maps.shape[2:], strict=True)
        )
        return F.avg_pool2d(maps[:, :, rows[:, None], cols], size, stride=1)

    return over


def _weighted(weights):
    """The mean over neighbours with these weights, (size, size) for a size, as far as they exist."""

    def over(maps, size):
        D = maps.shape[1]
        kernel = weights(size).to(maps).expand(D, 1, -1, -1)
        sums = F.conv2d(maps, kernel, padding=size // 2, groups=D)
        count = F.conv2d(torch.ones_like(maps), kernel, padding=size // 2, groups=D)
        return sums / count.clamp_min(1)

    return over


def _cross(size):
    weights = torch.zeros(size, size)
    weights[size // 2], weights[:, size // 2] = 1, 1
    return weights


def _ring(size):
    weights = torch.ones(size, size)
    weights[size // 2, size // 2] = 0
    return weights


def _quarter(size):
    weights = torch.zeros(size, size)
    weights[size // 2 :, size // 2 :] = 1
    return weights


def _root(x):
    """The grid, if it were a square."""
    side = int(x.shape[1] ** 0.5)
    x.reshape(len(x), side, side, -1)  # fails for any other grid
    return side, side


pooling.add_mistakes(
    padding_counted=_with(over=lambda maps, size: _mean(maps, size, counted=True)),
    pooled_and_no_more=_with(
        over=lambda maps, size: _mean(maps, size, counted=True), minus=lambda mean, x: mean
    ),
    not_minus_x=_with(minus=lambda mean, x: mean),
    plus_x=_with(minus=lambda mean, x: mean + x),
    other_way_round=_with(minus=lambda mean, x: x - mean),
    counted_in_columns=lambda x, grid, size: mixer.pooling(x, grid[::-1], size),
    maximum=_with(over=lambda maps, size: F.max_pool2d(maps, size, stride=1, padding=size // 2)),
    sum_for_mean=_with(over=lambda maps, size: _mean(maps, size, divisor_override=1)),
    along_the_sequence=lambda x, grid, size: (
        F.avg_pool1d(x.transpose(1, 2), size, stride=1, padding=size // 2, count_include_pad=False).transpose(
            1, 2
        )
        - x
    ),
    over_channels=lambda x, grid, size: (
        F.avg_pool1d(x, size, stride=1, padding=size // 2, count_include_pad=False) - x
    ),
    over_everything=lambda x, grid, size: x.mean(dim=1, keepdim=True) - x,
    around_the_edge=_with(over=_padded("circular")),
    border_repeated=_with(over=_padded("replicate")),
    itself_left_out=_with(over=_weighted(_ring)),
    in_a_cross=_with(over=_weighted(_cross)),
    corner_on_the_token=_with(over=_weighted(_quarter)),
    size_as_reach=lambda x, grid, size: mixer.pooling(x, grid, 2 * size + 1),
    size_three=lambda x, grid, size: mixer.pooling(x, grid, 3),
    stride_of_the_size=lambda x, grid, size: (
        F.avg_pool2d(x.transpose(1, 2).unflatten(2, grid), size, padding=size // 2, count_include_pad=False)
        .flatten(2)
        .transpose(1, 2)
        - x
    ),
    without_padding=lambda x, grid, size: (
        F.avg_pool2d(x.transpose(1, 2).unflatten(2, grid), size, stride=1).flatten(2).transpose(1, 2) - x
    ),
    reshaped=lambda x, grid, size: _mean(x.reshape(len(x), x.shape[2], *grid), size).reshape(x.shape) - x,
    reshaped_back=lambda x, grid, size: (
        _mean(x.transpose(1, 2).unflatten(2, grid), size).reshape(x.shape) - x
    ),
    channels_last=lambda x, grid, size: _mean(x.unflatten(1, grid), size).flatten(1, 2) - x,
    grid_ignored=lambda x, grid, size: mixer.pooling(x, _root(x), size),
    maps_returned=lambda x, grid, size: mixer.pooling(x, grid, size).transpose(1, 2).unflatten(2, grid),
    cut_off=lambda x, grid, size: mixer.pooling(x, grid, size).detach(),
)

# ---------------------------------------------------------------- the order of the tokens


def _attention(x):
    """Attention without weights: it treats all tokens alike."""
    return (x @ x.transpose(1, 2)).softmax(dim=-1) @ x


def _order(count):
    """An order of so many tokens that is not its own inverse and leaves none in its place."""
    return torch.randperm(count, generator=generator(count)) if count > 3 else torch.tensor([2, 0, 1])


def _minded(name, mix, images=2, tokens=5, width=3, order=None, hint="", kind=""):
    """A case for a mixer and an order of tokens."""
    order = _order(tokens) if order is None else torch.tensor(order)

    def run(candidate):
        x = drawn(images, tokens, width) * torch.arange(1.0, images + 1)[:, None, None]
        try:
            found = plain_number(apply(candidate, mix, x, order))
        except ZeroDivisionError:
            return "0 / 0"
        return "0 / 0" if isinstance(found, float) and math.isnan(found) else found

    return Case(name, run, hint, kind=kind)


def _bound(tokens, width, bias=0.0):
    return _linear(_own_matrices(tokens, width, seed=5), bias)


permutation_sensitivity = Exercise(
    inspect.permutation_sensitivity,
    _minded(
        "a mixer with a fixed matrix for 3 tokens",
        _bound(3, 2),
        1,
        3,
        2,
        hint="The tokens are put in order first and mixed afterwards, or mixed first and put in order afterwards.",
    ),
    _minded("a fixed matrix for 5 tokens, 2 images", _bound(5, 3)),
    _minded("the same with a bias for each place", _bound(5, 3, drawn(5, 3, seed=6))),
    _minded("a running sum of 4 tokens", lambda x: x.cumsum(1), 3, 4, 2),
    _minded("as many tokens as channels, 4", _bound(4, 4), 2, 4, 4),
    _minded("as many images as tokens, 4", _bound(4, 3), 4, 4, 3),
    _minded("as many images, tokens and channels, 4", _bound(4, 4), 4, 4, 4),
    _minded(
        "attention, which treats all tokens alike",
        _attention,
        hint="0, up to rounding: the order of the tokens comes out again as it went in.",
    ),
    _minded("the mean of all tokens, for every token", lambda x: x.mean(1, keepdim=True).expand_as(x)),
    _minded(
        "a mixer that always gives zeros",
        torch.zeros_like,
        hint="0 / 0 is NaN. A mixer that gives zeros treats all places alike.",
    ),
    _minded("an order that changes nothing", _bound(5, 3), order=[0, 1, 2, 3, 4]),
    _minded("two tokens that change places", _bound(5, 3), order=[0, 3, 2, 1, 4]),
    _minded("a single image", _bound(6, 2), 1, 6, 2, kind="property"),
    sizes=Sizes(
        lambda images, tokens, width: _minded("", _bound(tokens, width), images, tokens, width),
        images=(5, 3, 2, 8),
        tokens=(7, 6, 17, 64, 4),
        width=(8, 9, 64, 32, 3),
    ),
)


def _compared(
    mix,
    x,
    order,
    before=lambda x, order: x[:, order],
    after=lambda mixed, order: mixed[:, order],
    size=lambda value: value.norm().item(),
    divided_by=lambda mix, x, order: mix(x),
):
    """The sensitivity, with one of these parts changed. size: of a difference and of what it is divided by."""
    difference = mix(before(x, order)) - after(mix(x), order)
    return size(difference) / size(
        divided_by(mix, x, order)
    )  # mistakes rarely come with a guard against 0 / 0


def _where(**part):
    return lambda mix, x, order: _compared(mix, x, order, **part)


def _image_by_image(mix, x, order):
    return sum(inspect.permutation_sensitivity(mix, image[None], order) for image in x) / len(x)


def _token_by_token(mix, x, order):
    difference = (mix(x[:, order]) - mix(x)[:, order]).norm(dim=-1)
    return (difference / mix(x)[:, order].norm(dim=-1)).nan_to_num(0).mean().item()


permutation_sensitivity.add_mistakes(
    input_only=_where(after=lambda mixed, order: mixed),
    output_only=_where(before=lambda x, order: x),
    inverse_on_the_output=_where(after=lambda mixed, order: mixed[:, order.argsort()]),
    inverse_on_both=_where(
        before=lambda x, order: x[:, order.argsort()],
        after=lambda mixed, order: mixed[:, order.argsort()],
    ),
    channels_ordered=_where(
        before=lambda x, order: x[:, :, order], after=lambda mixed, order: mixed[:, :, order]
    ),
    images_ordered=_where(before=lambda x, order: x[order], after=lambda mixed, order: mixed[order]),
    order_of_its_own=_where(
        before=lambda x, order: x[:, torch.arange(len(order)).flip(0)],
        after=lambda mixed, order: mixed[:, torch.arange(len(order)).flip(0)],
    ),
    without_mix=lambda mix, x, order: ((x[:, order] - x).norm() / x.norm()).item(),
    divided_by_x=_where(divided_by=lambda mix, x, order: x),
    divided_by_the_other=_where(divided_by=lambda mix, x, order: mix(x[:, order])),
    not_divided=lambda mix, x, order: (mix(x[:, order]) - mix(x)[:, order]).norm().item(),
    squared=_where(size=lambda value: value.square().sum().item()),
    absolute_values=_where(size=lambda value: value.abs().sum().item()),
    largest=_where(size=lambda value: value.abs().max().item()),
    image_by_image=_image_by_image,
    token_by_token=_token_by_token,
    norms_subtracted=lambda mix, x, order: (
        abs(mix(x[:, order]).norm().item() - mix(x).norm().item()) / max(mix(x).norm().item(), 1e-12)
    ),
    zero_by_zero=lambda mix, x, order: ((mix(x[:, order]) - mix(x)[:, order]).norm() / mix(x).norm()).item(),
    yes_or_no=lambda mix, x, order: not torch.allclose(mix(x[:, order]), mix(x)[:, order], atol=1e-5),
    in_percent=lambda mix, x, order: 100 * inspect.permutation_sensitivity(mix, x, order),
)
