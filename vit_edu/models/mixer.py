"""One skeleton with an exchangeable token mixer: attention, an MLP over the tokens, pooling, Fourier, ... or none (lesson 09).

Every block computes x + mix_tokens(norm1(x)), and then x + mix_channels(norm2(x)). With attention this is the `ViT`, with an MLP
it is MLP-Mixer; MetaFormer is the name of the skeleton itself.

| mixer | what a token gets | source |
|---|---|---|
| "attention" | values of all tokens, weighted by the input | Dosovitskiy et al. 2021, arXiv:2010.11929 |
| "mlp" | an MLP of all tokens, the same for every channel | MLP-Mixer: Tolstikhin et al. 2021, arXiv:2105.01601 |
| "pooling" | the mean of its neighbours on the grid, minus itself | PoolFormer: Yu et al. 2021, arXiv:2111.11418 |
| "fourier" | the real part of a Fourier transform | FNet: Lee-Thorp et al. 2021, arXiv:2105.03824 |
| "convolution" | its neighbours, weighted in every channel | ConvMixer: Trockman & Kolter 2022, arXiv:2201.09792 |
| "random" | all tokens, weighted by a fixed random matrix | the same as for pooling, table 5 |
| "none" | nothing: no token hears of another | |

Letters in shapes are those of `vit`.
"""

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu.models.vit import Attention, DropPath, Embeddings, Mlp, init_weights, pool

MIXERS = ("attention", "mlp", "pooling", "fourier", "convolution", "random", "none")
ORDERLESS = ("attention", "none")  # they treat all tokens alike, wherever they are and however many

# What the halves of a block are called, so that published weights fit by name: as in a ViT, and as in timm's MlpMixer
NAMES = {"attention": ("attn", "mlp"), "mlp": ("mlp_tokens", "mlp_channels")}
OTHER_NAMES = ("mix_tokens", "mix_channels")

# Why trained weights do, or do not, belong to one number of tokens, {T}
FIXED = {
    "mlp": "The weights of a token MLP are bound to places: there is one column for each of {T} tokens, and none for any other.",
    "random": "Its random matrix says who hears whom among {T} tokens, and nothing about any other.",
    "fourier": "Its weights have learned to read the frequencies of {T} tokens, and another number has others.",
}
NOT_FIXED = "Its token mixer takes any grid: its weights fit a model of this img_size, all but pos_embed."

# ---------------------------------------------------------------- token mixers: (B, T, D) -> (B, T, D)


def token_mixing(x, w1, b1, w2, b2, act=F.gelu):
    """An MLP over the tokens of each channel, the same for all channels. (B, N, D) -> (B, N, D).

    w1 (H, N), b1 (H,), w2 (N, H), b2 (N,): its two linear layers, in the shapes of `nn.Linear`. act: what stands between them,
    the exact GELU by default. Source: Tolstikhin et al. 2021, arXiv:2105.01601, equation 1.
    Raises ValueError for another number of tokens than the weights have places for.
    """
    if x.ndim != 3 or x.shape[1] != w1.shape[1]:
        raise ValueError(
            f"the weights are bound to {w1.shape[1]} tokens, (B, {w1.shape[1]}, D), got {tuple(x.shape)}."
        )
    channels = x.transpose(1, 2)  # (B, D, N): a linear layer acts on the last axis
    hidden = act(F.linear(channels, w1, b1))  # (B, D, H)
    return F.linear(hidden, w2, b2).transpose(1, 2)  # (B, N, D)


class TokenMlp(Mlp):
    """`token_mixing` with its weights as parameters. in_features is the number of tokens, T."""

    def forward(self, x):
        return token_mixing(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias, self.act)


class OnGrid(nn.Module):
    """A layer for maps, (B, D, rows, cols), applied to tokens. A class token in front (prefix=1) has no place on the grid: it
    gets the mean of what the patches get."""

    def __init__(self, layer, grid, prefix):
        super().__init__()
        self.layer, self.grid, self.prefix = layer, grid, prefix

    def forward(self, x):
        rows, cols = self.grid
        if x.shape[1] != self.prefix + rows * cols:
            raise ValueError(
                f"this mixer was built for a grid of {rows} x {cols} patches, {self.prefix + rows * cols} tokens, "
                f"got {x.shape[1]}: build one with the new grid, its weights fit."
            )
        patches = x[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)  # (B, D, rows, cols)
        mixed = self.layer(patches).flatten(2).transpose(1, 2)  # (B, N, D)
        return torch.cat([mixed.mean(dim=1, keepdim=True), mixed], dim=1) if self.prefix else mixed


def pooling(x, grid, size):
    """The mean over each token's neighbours on the grid, minus the token itself, which the block adds again.

    x: (B, N, D), the patches in reading order. grid: (rows, cols), with N = rows * cols. size: the odd side of the square of
    neighbours, in patches, the token itself in its middle; only those that exist count. Returns (B, N, D).
    Source: PoolFormer, Yu et al. 2021, arXiv:2111.11418. Raises ValueError for an even size, and for another number of tokens.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size is odd, with the token itself in the middle, got {size}.")
    if x.ndim != 3 or x.shape[1] != grid[0] * grid[1]:
        raise ValueError(
            f"a grid of {grid[0]} x {grid[1]} patches has {grid[0] * grid[1]} tokens, (B, {grid[0] * grid[1]}, D), "
            f"got {tuple(x.shape)}."
        )
    maps = x.transpose(1, 2).unflatten(2, grid)  # (B, D, rows, cols)
    means = F.avg_pool2d(maps, size, stride=1, padding=size // 2, count_include_pad=False)
    return means.flatten(2).transpose(1, 2) - x  # (B, N, D)


class Pooling(OnGrid):
    """`pooling` for tokens with or without a class token, which gets the mean of all these means, minus itself."""

    def __init__(self, grid, prefix, kernel_size):
        mean = nn.AvgPool2d(kernel_size, stride=1, padding=kernel_size // 2, count_include_pad=False)
        super().__init__(mean, grid, prefix)

    def forward(self, x):
        return super().forward(x) - x if self.prefix else pooling(x, self.grid, self.layer.kernel_size)


class Convolution(OnGrid):
    """A depthwise convolution: every channel has its own kernel, and beyond the image there are zeros."""

    def __init__(self, dim, grid, prefix, kernel_size):
        super().__init__(nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim), grid, prefix)


class Fourier(nn.Module):
    """The real part of the Fourier transform over tokens and features, or over tokens only. norm="ortho": as it is usually
    scaled, it would be sqrt(T D) times as large, and drown the x beside it."""

    def __init__(self, features=True):
        super().__init__()
        self.axes = (1, 2) if features else (1,)

    def forward(self, x):
        return torch.fft.fftn(x.float(), dim=self.axes, norm="ortho").real.to(x.dtype)  # there is no bf16 FFT


class FixedRandom(nn.Module):
    """A matrix (T, T) with random rows that sum to 1, drawn once and never trained: all tokens, weighted by chance."""

    def __init__(self, tokens):
        super().__init__()
        self.register_buffer("matrix", torch.rand(tokens, tokens).softmax(dim=1))  # saved, and not trained

    def forward(self, x):
        if x.shape[1] != len(self.matrix):
            raise ValueError(f"{FIXED['random'].format(T=len(self.matrix))} It got {x.shape[1]}.")
        return self.matrix @ x  # (T, T) @ (B, T, D)


class NoMixing(nn.Module):
    """Zeros: the branch adds nothing."""

    def forward(self, x):
        return torch.zeros_like(x)


class BetweenLinear(nn.Module):
    """A mixer between two learned layers, as attention makes values first, and projects what it has mixed of them."""

    def __init__(self, dim, mix):
        super().__init__()
        self.value = nn.Linear(dim, dim)
        self.mix = mix
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        return self.proj(self.mix(self.value(x)))


def _require_mixer(mixer):
    if mixer not in MIXERS:
        raise ValueError(f"there is no token mixer {mixer!r}; there are {', '.join(MIXERS)}.")


def token_mixer(mixer, dim, grid, prefix=0, num_heads=4, hidden=32, kernel_size=3, value_proj=False):
    """A new token mixer, (B, T, D) -> (B, T, D). The arguments are those of `Mixer`; hidden is the width of the token MLP.

    grid: (rows, cols) of the patches. prefix: 1 for a class token in front of them. Raises ValueError for an unknown mixer and
    for an even kernel_size.
    """
    _require_mixer(mixer)
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is odd, with the token itself in the middle, got {kernel_size}.")
    tokens = prefix + grid[0] * grid[1]
    if mixer == "attention":
        return Attention(dim, num_heads)  # has its own values and projection
    made = {
        "mlp": lambda: TokenMlp(tokens, hidden),
        "pooling": lambda: Pooling(grid, prefix, kernel_size),
        "fourier": lambda: Fourier(features=not value_proj),
        "convolution": lambda: Convolution(dim, grid, prefix, kernel_size),
        "random": lambda: FixedRandom(tokens),
        "none": nn.Identity if value_proj else NoMixing,
    }[mixer]()
    return BetweenLinear(dim, made) if value_proj else made


# ---------------------------------------------------------------- the skeleton


class MixerBlock(nn.Module):
    """Tokens exchange, then each thinks for itself, both beside a skip. (B, T, D) -> (B, T, D).

    tokens: the token mixer. hidden: the width of the MLP that mixes channels. names: what the two are called.
    """

    def __init__(self, dim, tokens, hidden, drop_path=0.0, names=OTHER_NAMES):
        super().__init__()
        self.names = names
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.add_module(names[0], tokens)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.add_module(names[1], Mlp(dim, hidden))
        self.drop_path = DropPath(drop_path)

    def mixers(self):
        """(the token mixer, the channel mixer), whatever their names."""
        return getattr(self, self.names[0]), getattr(self, self.names[1])

    def forward(self, x):
        mix_tokens, mix_channels = self.mixers()
        x = x + self.drop_path(mix_tokens(self.norm1(x)))  # (B, T, D)
        x = x + self.drop_path(mix_channels(self.norm2(x)))  # (B, T, D)
        return x


class Mixer(Embeddings):
    """A `ViT` with another token mixer. (B, C, H, W) -> logits (B, num_classes).

    mixer: one of MIXERS. token_mlp_ratio: the hidden width of a token MLP, divided by D. kernel_size: of pooling and
    convolution, in patches. value_proj: each mixer stands between two learned linear layers, as in attention, which already has
    them; Fourier then leaves the features to them, and "none" is the two layers alone. The other arguments are those of `ViT`,
    with the same defaults. The published MLP-Mixer has global_pool="avg" and pos_embed="none". With mixer="none", a class token
    never hears of the image.

    With "attention", names and weights are those of `ViT`; with "mlp", names are those of timm's MlpMixer. Raises ValueError
    for an unknown mixer, for sizes that do not fit, and for images of another size, with the reason.
    """

    def __init__(
        self,
        *,
        mixer="mlp",
        token_mlp_ratio=0.5,
        kernel_size=3,
        value_proj=False,
        img_size=32,
        patch_size=4,
        in_chans=3,
        num_classes=10,
        embed_dim=64,
        depth=4,
        num_heads=4,
        mlp_ratio=4.0,
        drop_path_rate=0.0,
        global_pool="token",
        pos_embed="learn",
    ):
        _require_mixer(mixer)
        super().__init__(img_size, patch_size, in_chans, embed_dim, global_pool == "token", pos_embed)
        self.global_pool = global_pool
        self.needs_all_tokens = mixer not in ORDERLESS
        grid, prefix = self.patch_embed.grid_size, int(self.cls_token is not None)
        self.why_fixed = FIXED.get(mixer, NOT_FIXED).format(T=prefix + grid[0] * grid[1])
        hidden, names = int(embed_dim * token_mlp_ratio), NAMES.get(mixer, OTHER_NAMES)
        self.blocks = nn.Sequential()
        for i in range(depth):
            tokens = token_mixer(mixer, embed_dim, grid, prefix, num_heads, hidden, kernel_size, value_proj)
            rate = drop_path_rate * i / max(1, depth - 1)  # as in `make_blocks`
            self.blocks.append(MixerBlock(embed_dim, tokens, int(embed_dim * mlp_ratio), rate, names))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)
        if mixer == "mlp":  # timm's name for the patches; `patch_embed` stays, but is not in the state dict
            self.stem = self._modules.pop("patch_embed")
            self.__dict__["patch_embed"] = self.stem

    def forward(self, images):
        size = self.patch_embed.img_size
        if images.ndim == 4 and tuple(images.shape[2:]) != size:
            raise ValueError(
                f"this Mixer was built for images of {size[0]} x {size[1]} pixels, got {images.shape[2]} x {images.shape[3]}: "
                f"resize the images. {self.why_fixed}"
            )
        x = super().forward(images)  # (B, T, D)
        x = self.norm(self.blocks(x))  # (B, T, D)
        return self.head(pool(x, self.global_pool))  # (B, num_classes)

    def inner_matrices(self):
        """The weights that Muon takes: the matrices of the blocks and of the patch projection, convolutions included."""
        inside = ("blocks.", "patch_embed.", "stem.")
        return [v for name, v in self.named_parameters() if name.startswith(inside) and v.ndim > 1]

    def branch_ends(self):
        """The last learned layer of every branch. A token mixer without weights has none."""
        layers = (nn.Linear, nn.Conv2d)
        branches = [branch.modules() for block in self.blocks for branch in block.mixers()]
        return [w for modules in branches for w in [m.weight for m in modules if isinstance(m, layers)][-1:]]
