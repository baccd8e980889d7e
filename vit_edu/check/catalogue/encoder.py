"""Lesson 04: layer norm, MLP, stochastic depth, the pre-norm block, the stack."""

import torch
from torch import nn

from vit_edu.check.cases import (
    Case,
    Unfair,
    apply,
    build,
    call,
    drawn,
    filled,
    forward,
    gradients,
    parameters,
)
from vit_edu.check.engine import Exercise
from vit_edu.models import vit

# ---------------------------------------------------------------- layer norm

# Tokens of very different size, one of them nearly constant: then eps, its place and the axis all show.
_uneven = drawn(2, 3, 8) * torch.tensor([1e-3, 1.0, 100.0])[:, None] + 3.0
_weight, _bias = drawn(8, seed=1), drawn(8, seed=2)

layer_norm = Exercise(
    vit.layer_norm,
    call("2 images, 3 tokens of width 8", drawn(2, 3, 8), _weight, _bias),
    call("tokens of very different size", _uneven, _weight, _bias, tolerance=1e-3),
    call(
        "a large eps, 0.5",
        drawn(2, 3, 8),
        _weight,
        _bias,
        eps=0.5,
        hint="eps is added to the variance, inside the root.",
    ),
    call("a single token, with no batch axis", drawn(5, 4), torch.ones(4), torch.zeros(4)),
    call("one more axis in front", drawn(2, 2, 3, 8), _weight, _bias),
    call(
        "a token of equal numbers gives the bias, not NaN",
        torch.full((1, 2, 8), 2.0),
        _weight,
        _bias,
    ),
)


@layer_norm.alternative
def by_moments(x, weight, bias, eps=1e-6):
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps) * weight + bias


@layer_norm.alternative
def functional(x, weight, bias, eps=1e-6):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _norm(x, weight, bias, eps, dim=-1, unbiased=False):
    mean, var = x.mean(dim, keepdim=True), x.var(dim, keepdim=True, unbiased=unbiased)
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


@layer_norm.mistake(
    "The variance is divided by D - 1. That is torch's default for `var` and `std`; layer norm divides by D."
)
def unbiased_variance(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, eps, unbiased=True)


@layer_norm.mistake(
    "eps is added to the standard deviation. It belongs to the variance, inside the root."
)
def eps_outside(x, weight, bias, eps=1e-6):
    return (x - x.mean(-1, keepdim=True)) / (
        x.std(-1, keepdim=True, unbiased=False) + eps
    ) * weight + bias


@layer_norm.mistake(
    "Mean and variance are taken over the tokens. Layer norm looks at one token at a time: at its own D numbers."
)
def over_tokens(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, eps, dim=1)


@layer_norm.mistake(
    "Mean and variance are taken over the batch: this is batch norm. A token's norm must not depend on other images."
)
def over_batch(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, eps, dim=0)


@layer_norm.mistake(
    "Mean and variance are taken over tokens and width together. Each token has its own mean and variance."
)
def over_all(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, eps, dim=(1, 2))


@layer_norm.mistake("Centred and scaled, but weight and bias are not applied.")
def no_affine(x, weight, bias, eps=1e-6):
    return _norm(x, 1.0, 0.0, eps)


@layer_norm.mistake("The root is missing: divide by the standard deviation, not by the variance.")
def no_root(x, weight, bias, eps=1e-6):
    return (x - x.mean(-1, keepdim=True)) / (
        x.var(-1, keepdim=True, unbiased=False) + eps
    ) * weight + bias


@layer_norm.mistake(
    "eps is missing. A token whose numbers are all equal has variance 0, and the division gives NaN."
)
def no_eps(x, weight, bias, eps=1e-6):
    return _norm(x, weight, bias, 0.0)


# ---------------------------------------------------------------- MLP

_mlp = {"in_features": 6, "hidden_features": 24}

Mlp = Exercise(
    vit.Mlp,
    parameters(
        "names and shapes of the parameters", **_mlp, hint="fc1 from D to hidden, fc2 back to D."
    ),
    forward("2 images of 5 tokens", inputs=(drawn(2, 5, 6),), **_mlp),
    forward(
        "a hidden layer that is narrower",
        inputs=(drawn(1, 3, 8),),
        in_features=8,
        hidden_features=4,
    ),
    gradients("everything can learn", inputs=(drawn(2, 5, 6),), **_mlp),
)


class _Mlp(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, in_features)


@Mlp.alternative
class FunctionalMlp(_Mlp):
    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


@Mlp.mistake(
    "There is no activation between the layers: two linear layers in a row are one linear layer."
)
class NoActivation(_Mlp):
    def forward(self, x):
        return self.fc2(self.fc1(x))


@Mlp.mistake("The activation is a ReLU. The ViT uses GELU (paper, section 3.1).")
class ReluMlp(_Mlp):
    def forward(self, x):
        return self.fc2(self.fc1(x).relu())


@Mlp.mistake(
    "There is a second activation after fc2: it would let almost nothing negative back into the skip path."
)
class ActivationAtEnd(_Mlp):
    def forward(self, x):
        return nn.functional.gelu(self.fc2(nn.functional.gelu(self.fc1(x))))


@Mlp.mistake(
    "The input is added inside the MLP. The skip connection belongs to the block, which would now add it twice."
)
class SkipInside(_Mlp):
    def forward(self, x):
        return x + self.fc2(nn.functional.gelu(self.fc1(x)))


# ---------------------------------------------------------------- stochastic depth

_ones = torch.ones(4000, 2, 3)


def _drop(look, ones=_ones):
    """A case on 4,000 images of ones with drop rate 0.25, in training; `look` says something of the result."""

    def run(candidate):
        out = apply(candidate, ones, 0.25, True)
        if not isinstance(out, torch.Tensor) or out.shape != ones.shape:
            came = getattr(out, "shape", type(out).__name__)
            raise Unfair(f"expected a tensor of shape {tuple(ones.shape)}, got {came}")
        return look(out)

    return run


def _one_draw_an_image(out):
    flat = out.flatten(1)
    return bool((flat == flat[:, :1]).all())


drop_path = Exercise(
    vit.drop_path,
    call("in evaluation nothing is dropped", drawn(4, 2, 3), 0.5, False),
    call("rate 0 drops nothing", drawn(4, 2, 3), 0.0, True),
    Case(
        "an image keeps its whole branch or loses all of it",
        _drop(_one_draw_an_image),
        "Draw one number for each image, of shape (B, 1, 1), not one for each number of the tensor.",
    ),
    Case(
        "with rate 0.25, about a quarter of the images lose their branch",
        _drop(lambda out: round((out == 0).float().mean().item() * 20) / 20),
        "drop_prob is the probability to *lose* the branch; images are drawn independently.",
    ),
    Case(
        "what is kept is divided by the probability to keep, 0.75",
        _drop(lambda out: round(out.max().item(), 3)),
        "The mean over many draws should be the same as without dropping.",
    ),
    Case("another number of axes", _drop(_one_draw_an_image, torch.ones(4000, 5))),
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


@drop_path.mistake(
    "This is dropout: it draws for each number on its own. Stochastic depth draws once for each image and leaves out the "
    "whole branch."
)
def plain_dropout(x, drop_prob, training):
    return nn.functional.dropout(x, drop_prob, training)


@drop_path.mistake(
    "What is kept is not rescaled: in training the branch is smaller on average than in evaluation. "
    "Divide by the probability to keep."
)
def not_rescaled(x, drop_prob, training):
    return vit.drop_path(x, drop_prob, training) * ((1 - drop_prob) if training else 1)


@drop_path.mistake(
    "Paths are dropped in evaluation too: the same image would get another answer each time."
)
def in_evaluation(x, drop_prob, training):
    return vit.drop_path(x, drop_prob, True)


@drop_path.mistake(
    "What is kept is divided by the probability to *drop*. Divide by the probability to keep, 1 - drop_prob."
)
def divided_by_drop(x, drop_prob, training):
    return vit.drop_path(x, drop_prob, training) * (
        (1 - drop_prob) / drop_prob if training and drop_prob else 1
    )


@drop_path.mistake(
    "Kept and dropped are exchanged: with rate 0.25, three quarters of the images lose their branch."
)
def keep_for_drop(x, drop_prob, training):
    return vit.drop_path(x, 1 - drop_prob, training) if training and drop_prob else x


@drop_path.mistake(
    "There is one draw for the whole batch: all images lose the branch together, or none does. Draw one for each image."
)
def whole_batch(x, drop_prob, training):
    if not training or drop_prob == 0:
        return x
    return x * float(torch.rand(()) >= drop_prob) / (1 - drop_prob)


# ---------------------------------------------------------------- block

_block = {"dim": 8, "num_heads": 2}


def _skip_is_clean(candidate):
    module = filled(candidate, **_block).eval()
    with torch.no_grad():
        for value in (
            module.attn.proj.weight,
            module.attn.proj.bias,
            module.mlp.fc2.weight,
            module.mlp.fc2.bias,
        ):
            value.zero_()
    x = drawn(2, 5, 8)
    return torch.allclose(module(x), x, atol=1e-6)


def _drops_both(candidate):
    module = filled(candidate, dim=8, num_heads=2, drop_path=0.5).train()
    x = drawn(1, 3, 8).repeat(400, 1, 1)
    torch.manual_seed(0)
    # None, attention, MLP, both: 4 kinds of image
    return len(module(x)[:, 0, 0].mul(1e4).round().unique())


Block = Exercise(
    vit.Block,
    parameters(
        "names and shapes of the parameters",
        **_block,
        hint="norm1, attn (an Attention), norm2, mlp (an Mlp with hidden width D * mlp_ratio).",
    ),
    forward("2 images of 5 tokens", inputs=(drawn(2, 5, 8),), **_block),
    forward("another mlp_ratio", inputs=(drawn(2, 5, 8),), mlp_ratio=2, **_block),
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
        "with both branches at zero, the block changes nothing",
        _skip_is_clean,
        "x + 0 + 0 should be x: look at what else happens to x on its way.",
    ),
    Case(
        "stochastic depth drops each of the two branches on its own",
        _drops_both,
        "With drop_path=0.5 in training, four kinds of results occur: none, one, the other, or both branches dropped.",
    ),
    gradients("everything can learn", inputs=(drawn(2, 5, 8),), **_block),
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


@Block.mistake(
    "The norms have PyTorch's default eps, 1e-5. The ViT's is 1e-6: nn.LayerNorm(dim, eps=1e-6). With published weights the "
    "difference would show."
)
class DefaultEps(_Block):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm1.eps = self.norm2.eps = 1e-5

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake("There is no skip connection. Each branch should be *added* to x, not replace it.")
class NoSkip(_Block):
    def forward(self, x):
        return self.drop_path(self.mlp(self.norm2(self.drop_path(self.attn(self.norm1(x))))))


@Block.mistake(
    "This is the post-norm block of the original Transformer: the norms stand on the skip path, after the sum. The ViT "
    "norms the input of each branch and leaves the skip path alone."
)
class PostNorm(_Block):
    def forward(self, x):
        x = self.norm1(x + self.drop_path(self.attn(x)))
        return self.norm2(x + self.drop_path(self.mlp(x)))


@Block.mistake(
    "The skip adds the normed x. It should add x as it came in; only the branch sees the normed one."
)
class SkipAfterNorm(_Block):
    def forward(self, x):
        x = self.norm1(x)
        x = x + self.drop_path(self.attn(x))
        x = self.norm2(x)
        return x + self.drop_path(self.mlp(x))


@Block.mistake(
    "Attention and MLP both read the block's input. The MLP should read what attention left behind: two steps, one after "
    "the other."
)
class Parallel(_Block):
    def forward(self, x):
        return (
            x + self.drop_path(self.attn(self.norm1(x))) + self.drop_path(self.mlp(self.norm2(x)))
        )


@Block.mistake(
    "The second skip is missing: the MLP's output replaces x instead of being added to it."
)
class OneSkip(_Block):
    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return self.drop_path(self.mlp(self.norm2(x)))


@Block.mistake("drop_path is taken as an argument but never used.")
class NeverDrops(_Block):
    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@Block.mistake(
    "drop_path is applied to the sum. It should drop the branch only: here the image itself is lost as well."
)
class DropsTheSum(_Block):
    def forward(self, x):
        x = self.drop_path(x + self.attn(self.norm1(x)))
        return self.drop_path(x + self.mlp(self.norm2(x)))


# ---------------------------------------------------------------- the stack


def _unchanged(candidate):
    """For each of 3 blocks, the share of images that lose both branches: the square of its drop rate, in tenths."""
    blocks = filled(candidate, 8, 3, 2, drop_path_rate=0.9).train()
    x = drawn(1, 3, 8).repeat(1000, 1, 1)
    return [round((block(x) == x).flatten(1).all(1).float().mean().item(), 1) for block in blocks]


def _own_weights(candidate):
    blocks = build(candidate, 8, 3, 2)
    return len({id(p) for p in blocks.parameters()})


make_blocks = Exercise(
    vit.make_blocks,
    parameters("names and shapes of the parameters of 2 blocks", 8, 2, 2),
    forward("2 blocks, 2 images of 5 tokens", 8, 2, 2, inputs=(drawn(2, 5, 8),)),
    forward("5 blocks, another mlp_ratio", 8, 5, 2, mlp_ratio=2.0, inputs=(drawn(1, 3, 8),)),
    forward("a single block", 8, 1, 2, inputs=(drawn(1, 3, 8),)),
    Case(
        "every block has weights of its own",
        _own_weights,
        "[block] * depth repeats one and the same block.",
    ),
    Case(
        "drop rates of 3 blocks, with drop_path_rate=0.9: they are 0, 0.45 and 0.9",
        _unchanged,
        "These are the shares of images that lose both branches: the squares of the rates. "
        "torch.linspace(0, drop_path_rate, depth) has the rates.",
    ),
)


@make_blocks.alternative
def with_a_loop(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    blocks = nn.Sequential()
    for rate in torch.linspace(0, drop_path_rate, depth).tolist():
        blocks.append(vit.Block(dim, num_heads, mlp_ratio=mlp_ratio, drop_path=rate))
    return blocks


@make_blocks.mistake(
    "drop_path_rate is taken as an argument but never reaches the blocks: none of them drops anything."
)
def rate_ignored(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return vit.make_blocks(dim, depth, num_heads, mlp_ratio)


@make_blocks.mistake(
    "It is the same block again and again: `[block] * depth` repeats one object, so the layers share their weights. "
    "Build a new block for each layer."
)
def shared_block(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return nn.Sequential(*[vit.Block(dim, num_heads, mlp_ratio)] * depth)


@make_blocks.mistake(
    "Every block has the full drop rate. It should grow from 0 at the first block to the full rate at the last: what the "
    "first layers find, all later ones need."
)
def constant_rate(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return nn.Sequential(
        *(vit.Block(dim, num_heads, mlp_ratio, drop_path_rate) for _ in range(depth))
    )


@make_blocks.mistake(
    "The rates start too late or end too early: with i / depth the last block does not reach the full rate. "
    "There are depth - 1 steps between the first block and the last."
)
def off_by_one(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    rates = [drop_path_rate * i / depth for i in range(depth)]
    return nn.Sequential(*(vit.Block(dim, num_heads, mlp_ratio, r) for r in rates))


@make_blocks.mistake("mlp_ratio is not handed on to the blocks.")
def fixed_ratio(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return vit.make_blocks(dim, depth, num_heads, 4.0, drop_path_rate)


EXERCISES = [layer_norm, Mlp, drop_path, Block, make_blocks]
