"""The closed forms of lessons 08 and 09, against torch's own layers and its counter of operations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vit_edu.models import CNN, HybridViT, LocalViT, ViT
from vit_edu.models.costs import (
    conv_matrix,
    layer_cost,
    mixer_cost,
    multiply_adds,
    receptive_field,
    stem_grid,
)
from vit_edu.models.mixer import token_mixer
from vit_edu.models.vit import Attention, Block, Mlp


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize(("rows", "cols"), [(4, 5), (3, 1), (1, 6), (2, 2)])
def test_a_convolution_is_a_matrix(size, rows, cols):
    kernel, image = torch.randn(size, size, dtype=torch.double), torch.randn(rows, cols, dtype=torch.double)
    expected = F.conv2d(image[None, None], kernel[None, None], padding=size // 2)
    matrix = conv_matrix(kernel, rows, cols)
    assert matrix.shape == (rows * cols, rows * cols)
    torch.testing.assert_close(matrix @ image.flatten(), expected.flatten())


def test_zeros_of_the_matrix_stay_zero_whatever_the_kernel():
    assert conv_matrix(torch.full((3, 3), torch.nan), 3, 4).isnan().sum() == (3 * 2 + 1) * (4 * 2 + 2)


@pytest.mark.parametrize("shape", [(2, 2), (3, 5)])
def test_a_kernel_without_a_middle_is_refused(shape):
    with pytest.raises(ValueError, match="odd side, got"):
        conv_matrix(torch.ones(shape), 4, 4)


class AsTokens(nn.Module):
    """A layer for tokens (B, T, D), applied to maps (B, D, rows, cols)."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.flatten(2).mT)


def made(layer, dim, kernel, ratio):
    if layer == "convolution":
        return nn.Conv2d(dim, dim, kernel, padding=kernel // 2)
    return AsTokens(Attention(dim, 2) if layer == "attention" else Mlp(dim, int(ratio * dim)))


@pytest.mark.parametrize("layer", ["attention", "convolution", "mlp"])
@pytest.mark.parametrize(
    ("grid", "dim", "kernel", "ratio"), [((3, 4), 8, 3, 4), ((1, 1), 2, 1, 1), ((7, 5), 6, 5, 2.5)]
)
def test_the_cost_of_a_layer_is_what_torch_counts(layer, grid, dim, kernel, ratio):
    module = made(layer, dim, kernel, ratio)
    parameters = sum(p.numel() for p in module.parameters())
    counted = parameters, multiply_adds(module, (dim, *grid))
    assert layer_cost(layer, grid[0] * grid[1], dim, kernel, ratio) == counted


def test_an_unknown_layer_is_refused():
    with pytest.raises(ValueError, match="\"mlp\", got 'pooling'"):
        layer_cost("pooling", 4, 8)


@pytest.mark.parametrize("mixer", ["attention", "mlp", "convolution", "random", "none"])
@pytest.mark.parametrize(
    ("grid", "dim", "hidden", "kernel"), [((3, 4), 8, 5, 3), ((1, 1), 2, 1, 1), ((7, 5), 6, 40, 5)]
)
def test_the_cost_of_a_token_mixer_is_what_torch_counts(mixer, grid, dim, hidden, kernel):
    module = token_mixer(mixer, dim, grid, num_heads=2, hidden=hidden, kernel_size=kernel)
    parameters = sum(p.numel() for p in module.parameters())
    counted = parameters, multiply_adds(AsTokens(module), (dim, *grid))
    assert mixer_cost(mixer, grid[0] * grid[1], dim, hidden, kernel) == counted


@pytest.mark.parametrize(("grid", "dim", "kernel"), [((3, 4), 8, 3), ((1, 1), 2, 1), ((7, 5), 6, 5)])
def test_pooling_costs_what_a_convolution_with_a_fixed_kernel_would(grid, dim, kernel):
    as_convolution = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
    counted = multiply_adds(as_convolution, (dim, *grid))
    assert mixer_cost("pooling", grid[0] * grid[1], dim, kernel=kernel) == (0, counted)


@pytest.mark.parametrize("mixer", ["fourier", "MLP", None])
def test_a_mixer_without_a_closed_form_is_refused(mixer):
    with pytest.raises(ValueError, match=f'"random" or "none", got {mixer!r}'):
        mixer_cost(mixer, 4, 8)


class WrittenOut(Attention):
    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(((q @ k.mT).softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


def test_attention_counts_whether_fused_or_not():
    dim, tokens = 8, 12
    block = sum(layer_cost(layer, tokens, dim)[1] for layer in ("attention", "mlp"))
    alone = layer_cost("attention", tokens, dim)[1]
    theirs = nn.TransformerEncoderLayer(dim, 2, 4 * dim, batch_first=True)  # fused as a whole in eval mode
    shape = (dim, 3, 4)
    assert multiply_adds(AsTokens(Block(dim, 2)), shape) == multiply_adds(AsTokens(theirs), shape) == block
    assert multiply_adds(AsTokens(WrittenOut(dim, 2)), shape) == alone
    assert multiply_adds(AsTokens(Attention(dim, 2)), shape) == alone


@pytest.mark.parametrize("make", [ViT, LocalViT])
def test_a_whole_vit_in_closed_form(make):
    model = make(img_size=16, patch_size=4, embed_dim=12, depth=3, num_heads=2, num_classes=5)
    blocks = 3 * sum(layer_cost(layer, 17, 12)[1] for layer in ("attention", "mlp"))
    assert multiply_adds(model, (3, 16, 16)) == 16 * (3 * 4 * 4) * 12 + blocks + 12 * 5


def test_counting_leaves_the_model_as_it_was():
    model = CNN(widths=(4, 6), depths=(1, 1), stem=(4, 2))
    model.blocks[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    assert multiply_adds(model, (3, 8, 8)) > 0
    with pytest.raises(ValueError, match="reads images of shape"):
        multiply_adds(model, (1, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert torch.backends.mha.get_fastpath_enabled() is fast
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kernels", "strides"),
    [
        ([], []),
        ([1], [3]),
        ([3, 3], [1, 1]),
        ([3, 3, 3, 3, 3], [2, 2, 1, 1, 2]),
        ([2, 5, 1, 3], [2, 3, 2, 1]),
    ],
)
def test_the_receptive_field_is_where_the_gradient_arrives(kernels, strides):
    layers = [nn.Conv1d(1, 1, k, s, dtype=torch.double) for k, s in zip(kernels, strides, strict=True)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    line = torch.zeros(1, 1, 100, dtype=torch.double, requires_grad=True)
    out = nn.Sequential(*layers)(line)
    out[0, 0, out.shape[-1] // 2].backward()
    places = line.grad.flatten().nonzero()
    assert receptive_field(kernels, strides) == places.max() - places.min() + 1


def test_layers_without_a_stride_are_refused():
    with pytest.raises(ValueError, match="2 kernels and 1 strides"):
        receptive_field([3, 3], [2])


@pytest.mark.parametrize("size", [(32, 32), (7, 12), (1, 5)])
@pytest.mark.parametrize("strides", [(), (2,), (2, 2, 1, 2), (3, 1, 2)])
@pytest.mark.parametrize("kernel", [1, 3, 5, 4])
def test_the_grid_of_a_stem(size, strides, kernel):
    stem = nn.Sequential(*(nn.Conv2d(1, 1, kernel, s, padding=kernel // 2) for s in strides))
    assert stem_grid(size, strides, kernel) == tuple(stem(torch.zeros(1, 1, *size)).shape[2:])


def test_the_stem_of_a_hybrid():
    model = HybridViT(stem=((8, 2), (8, 1)), img_size=32, patch_size=8, embed_dim=8, depth=1, num_heads=1)
    assert stem_grid((32, 32), (2, 1, 4)) == model.patch_embed.grid_size
