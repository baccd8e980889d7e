"""Token mixers seen as matrices, and asked whether they mind the order of the tokens (lesson 09)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vit_edu import inspect
from vit_edu.models.costs import conv_matrix
from vit_edu.models.mixer import MIXERS, ORDERLESS, token_mixer

GRID, N, D = (3, 4), 12, 6


def mixer_of(name, **arguments):
    torch.manual_seed(3)
    mixer = token_mixer(name, D, GRID, num_heads=2, hidden=5, **arguments)
    for value in mixer.parameters():
        nn.init.normal_(value, std=0.5)
    return mixer


@pytest.mark.parametrize("name", ["pooling", "convolution", "random", "none"])
@pytest.mark.parametrize("channel", [0, 2, D - 1])
def test_the_matrix_does_what_the_mixer_does(name, channel):
    mixer, x = mixer_of(name).train(), torch.randn(3, N, D)
    matrix = inspect.mixing_matrix(mixer, N, D, channel)
    assert matrix.shape == (N, N)
    assert not matrix.requires_grad
    assert mixer.training
    bias = mixer(torch.zeros_like(x))[..., channel]
    torch.testing.assert_close(x[..., channel] @ matrix.T + bias, mixer(x)[..., channel])


def test_known_matrices():
    convolution, random = mixer_of("convolution"), mixer_of("random")
    for channel in range(D):
        expected = conv_matrix(convolution.layer.weight.detach()[channel, 0], *GRID)
        torch.testing.assert_close(inspect.mixing_matrix(convolution, N, D, channel), expected)
    torch.testing.assert_close(inspect.mixing_matrix(random, N, D), random.matrix)
    fourier = inspect.mixing_matrix(mixer_of("fourier", value_proj=True).mix, N, D, 1)
    torch.testing.assert_close(fourier, torch.fft.fft(torch.eye(N), norm="ortho").real, atol=1e-6, rtol=1e-5)


def test_attention_with_given_weights_is_a_matrix_as_well():
    weights = torch.rand(N, N).softmax(dim=1)
    torch.testing.assert_close(inspect.mixing_matrix(lambda x: weights @ x, N, D), weights)


def test_the_module_says_where_and_in_which_type():
    mixer = mixer_of("convolution").double()
    assert inspect.mixing_matrix(mixer, N, D).dtype == torch.float64
    dropped = inspect.mixing_matrix(nn.Dropout(0.9).train(), N, D)
    torch.testing.assert_close(dropped, torch.eye(N))


@pytest.mark.parametrize("channel", [-1, D])
def test_a_channel_that_is_not_there(channel):
    with pytest.raises(ValueError, match=f"6 channels, 0 to 5, got channel {channel}"):
        inspect.mixing_matrix(lambda x: x, N, D, channel)


@pytest.mark.parametrize("value_proj", [False, True])
@pytest.mark.parametrize("name", MIXERS)
def test_who_minds_the_order(name, value_proj):
    mixer, x, order = mixer_of(name, value_proj=value_proj), torch.randn(2, N, D), torch.randperm(N)
    found = inspect.permutation_sensitivity(mixer, x, order)
    assert found < 1e-6 if name in ORDERLESS else found > 0.1
    assert inspect.permutation_sensitivity(mixer, x, torch.arange(N)) == 0
    before, after = mixer(x), mixer(torch.stack([x[:, i] for i in order], dim=1))
    difference = torch.stack([before[:, i] for i in order], dim=1) - after
    expected = F.mse_loss(difference, 0 * difference).sqrt() / before.square().mean().sqrt().clamp_min(1e-30)
    assert found == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)


def test_the_order_matters_and_nothing_is_hidden():
    x = torch.ones(1, 3, 2)
    assert inspect.permutation_sensitivity(lambda x: 0 * x, x, [2, 0, 1]) == 0
    assert inspect.permutation_sensitivity(lambda x: torch.nan * x, x, [2, 0, 1]) != 0
    one = torch.tensor([[[1.0], [0.0], [0.0]]])
    assert inspect.permutation_sensitivity(lambda x: x[:, :1] * one, one, [2, 0, 1]) == 1.0


def test_orders_and_mixers_that_are_none():
    for order in ([0, 1], [0, 1, 1], [0.0, 1.0, 2.0], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"an order of 3 tokens holds each number from 0 to 2 once"):
            inspect.permutation_sensitivity(lambda x: x, torch.ones(1, 3, 2), order)
    with pytest.raises(ValueError, match=r"returns the shape that it gets, got \(1, 2\) for \(1, 3, 2\)"):
        inspect.permutation_sensitivity(lambda x: x.mean(1), torch.ones(1, 3, 2), [0, 1, 2])
    with pytest.raises(ValueError, match=r"returns the shape that it gets"):
        inspect.mixing_matrix(lambda x: x[:, :1], 3, 2)
