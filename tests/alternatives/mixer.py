"""Lesson 09: right answers written in other ways."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from alternatives import alternative
from vit_edu.models import vit

# ---------------------------------------------------------------- token_mixing


@alternative("token_mixing")
def from_the_left(x, w1, b1, w2, b2):
    """No axes are exchanged: the weights stand on the left."""
    hidden = F.gelu(w1 @ x + b1[:, None])
    return w2 @ hidden + b2[:, None]


@alternative("token_mixing")
def with_einsum(x, w1, b1, w2, b2):
    hidden = torch.einsum("hn,bnd->bdh", w1, x) + b1
    return torch.einsum("nh,bdh->bnd", w2, F.gelu(hidden)) + b2.view(1, -1, 1)


@alternative("token_mixing")
def channel_by_channel(x, w1, b1, w2, b2):
    channels = [F.linear(F.gelu(F.linear(x[..., d], w1, b1)), w2, b2) for d in range(x.shape[-1])]
    return torch.stack(channels, dim=-1)


@alternative("token_mixing")
def as_a_convolution(x, w1, b1, w2, b2):
    """A 1 x 1 convolution whose channels are the tokens."""
    hidden = F.gelu(F.conv1d(x, w1.unsqueeze(-1), b1))
    return F.conv1d(hidden, w2.unsqueeze(-1), b2)


@alternative("token_mixing")
def with_the_error_function(x, w1, b1, w2, b2):
    rows = x.permute(0, 2, 1).flatten(0, 1)
    hidden = rows @ w1.T + b1
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return (hidden @ w2.T + b2).unflatten(0, (len(x), -1)).mT


# ---------------------------------------------------------------- MixerBlock


@alternative("MixerBlock")
class WithTheCoursesMlp(nn.Module):
    def __init__(self, dim, tokens, hidden):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.mix_tokens = tokens
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mix_channels = vit.Mlp(dim, hidden)

    def forward(self, x):
        x = x + self.mix_tokens(self.norm1(x))
        return x + self.mix_channels(self.norm2(x))


@alternative("MixerBlock")
class OfSequences(nn.Module):
    """Other names, and the MLP written as a sequence."""

    def __init__(self, width, mixer, hidden_width):
        super().__init__()
        self.first = nn.Sequential(nn.LayerNorm(width, eps=1e-6), mixer)
        self.second = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, hidden_width),
            nn.GELU(),
            nn.Linear(hidden_width, width),
        )

    def forward(self, x):
        for branch in (self.first, self.second):
            x = branch(x) + x
        return x


@alternative("MixerBlock")
class InOneExpression(nn.Module):
    def __init__(self, dim, tokens, hidden):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim, 1e-6) for _ in range(2))
        self.mixer, self.up, self.down = tokens, nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        mixed = torch.add(x, self.mixer(self.norms[0](x)))
        return mixed + self.down(F.gelu(self.up(self.norms[1](mixed))))


# ---------------------------------------------------------------- mixer_cost


@alternative("mixer_cost")
def counted_on_layers(mixer, tokens, dim, hidden=32, kernel=3):
    """How often each layer runs, and what its weights say."""
    layers = {
        "attention": [(nn.Linear(dim, 3 * dim), tokens), (nn.Linear(dim, dim), tokens)],
        "mlp": [(nn.Linear(tokens, hidden), dim), (nn.Linear(hidden, tokens), dim)],
        "convolution": [(nn.Conv2d(dim, dim, kernel, groups=dim), tokens)],
    }.get(mixer, [])
    parameters = sum(p.numel() for layer, _ in layers for p in layer.parameters())
    products = sum(layer.weight.numel() * runs for layer, runs in layers)
    pairs = {"attention": 2 * tokens, "random": tokens, "pooling": kernel * kernel}.get(mixer, 0)
    return parameters, products + pairs * tokens * dim


@alternative("mixer_cost")
def with_match(mixer, tokens, dim, hidden=32, kernel=3):
    match mixer:
        case "attention":
            return 4 * dim * (dim + 1), 2 * tokens * dim * (2 * dim + tokens)
        case "mlp":
            return tokens * (2 * hidden + 1) + hidden, dim * 2 * tokens * hidden
        case "convolution":
            return dim * (kernel**2 + 1), dim * tokens * kernel**2
        case "pooling":
            return 0, dim * tokens * kernel**2
        case "random":
            return 0, dim * tokens * tokens
    return 0, 0


@alternative("mixer_cost")
def terms_of_each_number(mixer, tokens, dim, hidden=32, kernel=3):
    """From how many numbers each of the tokens * dim results is computed, on average."""
    weights = {"attention": 4 * dim**2, "mlp": 2 * tokens * hidden, "convolution": kernel**2 * dim}
    biases = {"attention": 4 * dim, "mlp": tokens + hidden, "convolution": dim}
    terms = {
        "attention": 4 * dim + 2 * tokens,
        "mlp": 2 * hidden,
        "convolution": kernel**2,
        "pooling": kernel**2,
        "random": tokens,
        "none": 0,
    }
    return [weights.get(mixer, 0) + biases.get(mixer, 0), terms[mixer] * tokens * dim]


# ---------------------------------------------------------------- mixing_matrix


@alternative("mixing_matrix")
def column_by_column(mix, tokens, dim, channel=0):
    nothing = mix(torch.zeros(1, tokens, dim))[0, :, channel]
    matrix = torch.zeros(tokens, tokens)
    for j in range(tokens):
        unit = torch.zeros(1, tokens, dim)
        unit[0, j, channel] = 1
        matrix[:, j] = mix(unit)[0, :, channel] - nothing
    return matrix


@alternative("mixing_matrix")
def in_one_batch(mix, tokens, dim, channel=0):
    inputs = F.pad(torch.eye(tokens), (0, 0, 0, 1))[..., None] * F.one_hot(torch.tensor(channel), dim)
    out = mix(inputs.float())[..., channel]
    return out[:-1].sub(out[-1]).transpose(0, 1)


@alternative("mixing_matrix")
def asks_the_gradient(mix, tokens, dim, channel=0):
    """The matrix of a linear function is its derivative."""

    def one_channel(values):
        x = torch.zeros(1, tokens, dim).index_put(
            (torch.tensor(0), torch.arange(tokens), torch.tensor(channel)), values
        )
        return mix(x)[0, :, channel]

    return torch.autograd.functional.jacobian(one_channel, torch.zeros(tokens))


@alternative("mixing_matrix")
def twice_and_once(mix, tokens, dim, channel=0):
    """The difference of two answers has no bias."""
    units = torch.zeros(tokens, tokens, dim)
    units[torch.arange(tokens), torch.arange(tokens), channel] = 1
    with torch.no_grad():
        return torch.stack(list(mix(2 * units) - mix(units)), dim=1)[..., channel]


# ---------------------------------------------------------------- pooling


@alternative("pooling")
def token_by_token(x, grid, size):
    rows, cols = grid
    reach, out = size // 2, []
    for i in range(rows * cols):
        r, c = divmod(i, cols)
        near = [
            y * cols + z
            for y in range(max(0, r - reach), min(rows, r + reach + 1))
            for z in range(max(0, c - reach), min(cols, c + reach + 1))
        ]
        out.append(x[:, near].mean(dim=1) - x[:, i])
    return torch.stack(out, dim=1)


@alternative("pooling")
def by_a_matrix(x, grid, size):
    numbers = torch.arange(grid[0] * grid[1])
    row, col = numbers // grid[1], numbers % grid[1]
    near = ((row[:, None] - row).abs() <= size // 2) & ((col[:, None] - col).abs() <= size // 2)
    weights = near.to(x) / near.sum(dim=1, keepdim=True)
    return (weights - torch.eye(len(numbers)).to(x)) @ x


@alternative("pooling")
def sums_over_counts(x, grid, size):
    maps = x.permute(0, 2, 1).reshape(len(x), x.shape[2], *grid)

    def total(values):
        return F.avg_pool2d(values, size, stride=1, padding=size // 2) * size**2

    means = total(maps) / total(torch.ones_like(maps))
    return (means - maps).flatten(2).mT


@alternative("pooling")
def with_the_layer(x, grid, size):
    layer = nn.AvgPool2d(size, 1, size // 2, count_include_pad=False)
    B, N, D = x.shape
    return layer(x.mT.reshape(B * D, 1, *grid)).reshape(B, D, N).mT - x


@alternative("pooling")
def with_unfold(x, grid, size):
    B, N, D = x.shape
    maps = x.mT.reshape(B, D, *grid)
    windows = F.unfold(maps, size, padding=size // 2).reshape(B, D, size**2, N)
    inside = F.unfold(torch.ones_like(maps[:1, :1]), size, padding=size // 2).sum(1)
    return (windows.sum(2) / inside).mT - x


# ---------------------------------------------------------------- permutation_sensitivity


@alternative("permutation_sensitivity")
def with_index_select(mix, x, order):
    before, after = mix(x), mix(x.index_select(1, order))
    difference = torch.linalg.vector_norm(after - before.index_select(1, order)).item()
    return difference and difference / torch.linalg.vector_norm(before).item()


@alternative("permutation_sensitivity")
def with_a_permutation_matrix(mix, x, order):
    moves = torch.eye(len(order))[order]
    before, after = moves @ mix(x), mix(moves @ x)
    length = before.square().sum().sqrt()
    if length == 0:
        return 0.0
    return float((after - before).square().sum().sqrt() / length)


@alternative("permutation_sensitivity")
def back_into_the_old_order(mix, x, order):
    """The same distance, with the result of the other side put back."""
    mixed = mix(x)
    again = mix(x[:, order])[:, order.argsort()]
    ratio = torch.dist(again, mixed) / mixed.norm()
    return 0.0 if ratio.isnan() else ratio.item()


@alternative("permutation_sensitivity")
@torch.no_grad()
def in_one_batch_of_both(mix, x, order):
    before, after = mix(torch.cat([x, torch.stack([x[:, i] for i in order.tolist()], 1)])).chunk(2)
    gap = (after - torch.stack([before[:, i] for i in order.tolist()], 1)).flatten()
    return math.sqrt(float(gap @ gap) / max(float(before.flatten() @ before.flatten()), 1e-30))
