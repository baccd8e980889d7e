"""Token mixers as functions: which matrix does one apply, and does it mind the order of the tokens? (lesson 09)

`mix` is a token mixer, a module or any function (B, N, D) -> (B, N, D). A module runs in eval mode and is left as it was.
"""

import contextlib

import torch
from torch import nn

from vit_edu.inspect.running import eval_mode, require_order


def mixing_matrix(mix, tokens, dim, channel=0):
    """The matrix that a token mixer applies to one channel: (N, N), N = tokens.

    Row i says with which weights token i's new number in this channel sums up that channel of all tokens. It is found by
    feeding unit tokens: for each j, token j is 1 in this channel, and everything else is 0. What mix gives for zeros, its biases,
    is subtracted. The matrix says all about a mixer that is linear over the tokens, as pooling, a depthwise convolution or a
    fixed matrix is, and not about attention, whose weights depend on its input, or an MLP with its GELU.
    dim: the width D. channel: 0 .. D - 1. Raises ValueError for a channel that is not there, and for a mix that does not
    return the shape that it gets.
    """
    if not 0 <= channel < dim:
        raise ValueError(f"there are {dim} channels, 0 to {dim - 1}, got channel {channel}.")
    inputs = torch.zeros(1 + tokens, tokens, dim)  # (1 + N, N, D): zeros, then one unit token each
    inputs[1:, :, channel] = torch.eye(tokens)
    mixed = _mixed(mix, inputs.to(next(_parameters(mix), inputs)))[..., channel]  # (1 + N, N)
    return (mixed[1:] - mixed[0]).T


def permutation_sensitivity(mix, x, order):
    """How much a token mixer minds the order of the tokens: || mix(x[:, order]) - mix(x)[:, order] || / || mix(x) ||, a float.

    x: (B, N, D). order: (N,), which token comes to each place, as from torch.randperm(N). The norms are taken over all numbers
    together. The result is 0, up to rounding, for a mixer that treats all places alike, and also for one that always returns
    zeros. Raises ValueError unless order holds each of 0 .. N - 1 once, and for a mix that does not return the shape that it
    gets.
    """
    order = require_order(order, x.shape[1], "tokens").to(x.device)
    mixed = _mixed(mix, x)  # (B, N, D)
    difference = (_mixed(mix, x[:, order]) - mixed[:, order]).norm()
    return 0.0 if difference == 0 else (difference / mixed.norm()).item()  # zeros: not 0 / 0


def _parameters(mix):
    return mix.parameters() if isinstance(mix, nn.Module) else iter(())


@torch.no_grad()
def _mixed(mix, x):
    """mix(x) in eval mode, or ValueError for another shape."""
    with eval_mode(mix) if isinstance(mix, nn.Module) else contextlib.nullcontext():
        mixed = mix(x)
    if mixed.shape != x.shape:
        raise ValueError(
            f"a token mixer returns the shape that it gets, got {tuple(mixed.shape)} for {tuple(x.shape)}."
        )
    return mixed
