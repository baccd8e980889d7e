"""The Vision Transformer, in one file that reads from top to bottom.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), arXiv:2010.11929; "paper" below.
Module and argument names are timm's, so that published weights fit by name.

Letters in shape comments:
    B images in the batch   C channels   H, W height and width in pixels   P patch size in pixels
    N patches = (H/P)(W/P)  T tokens (N, or N + 1 with the class token)    D embed_dim
    h heads                 d = D/h width of one head
"""

import math
from numbers import Integral

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

# ---------------------------------------------------------------- patches (lesson 01)


def _grid(height, width, patch_size):
    """Patches per column and per row; ValueError where the image cannot be cut evenly."""
    if not isinstance(patch_size, Integral) or patch_size < 1:
        raise ValueError(
            f"patch_size is the side of a patch in pixels: expected a whole number of at least 1, got {patch_size!r}."
        )
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"an image of {height} x {width} pixels cannot be cut into {patch_size} x {patch_size} patches: "
            f"both sides must be multiples of {patch_size}. Resize or crop the image, or change patch_size."
        )
    return height // patch_size, width // patch_size


def patchify(images, patch_size):
    """Cut images into patches and flatten each one (paper, section 3.1).

    images: (B, C, H, W), any dtype. patch_size: P, in pixels.
    Returns (B, N, P*P*C). Patches in reading order (left to right, then down); inside a patch the
    pixels in reading order, and the C channels of a pixel side by side.
    Raises ValueError when H or W is not a multiple of P.
    """
    rows, cols = _grid(*images.shape[-2:], patch_size)
    return rearrange(images, "b c (r p) (s q) -> b (r s) (p q c)", r=rows, s=cols)


def unpatchify(patches, patch_size, image_size):
    """Put patches back together; the inverse of `patchify`.

    patches: (B, N, P*P*C). patch_size: P. image_size: (H, W), in pixels.
    Returns (B, C, H, W). Raises ValueError when the patches do not fill such an image.
    """
    rows, cols = _grid(*image_size, patch_size)
    if patches.shape[1] != rows * cols or patches.shape[2] % patch_size**2:
        raise ValueError(
            f"a {image_size[0]} x {image_size[1]} image has {rows * cols} patches of {patch_size**2} x C numbers; "
            f"got {patches.shape[1]} patches of {patches.shape[2]} numbers."
        )
    return rearrange(patches, "b (r s) (p q c) -> b c (r p) (s q)", r=rows, p=patch_size, q=patch_size)


def patch_conv_weight(patch_size, channels):
    """The convolution weight that only copies: output channel k reads element k of the flattened patch.

    Returns (P*P*C, C, P, P) of zeros and ones. With it
    `F.conv2d(images, weight, stride=P).flatten(2).transpose(1, 2)` equals `patchify(images, P)`.
    """
    size = patch_size * patch_size * channels
    eye = torch.eye(size)  # row k picks element k of a flattened patch
    return rearrange(eye, "k (p q c) -> k c p q", p=patch_size, q=patch_size)


def overlapping_patches(images, patch_size, stride):
    """Patches whose corners are `stride` pixels apart; `stride == patch_size` gives `patchify`.

    images: (B, C, H, W). Returns (B, N, P*P*C) with N = ((H-P)//stride + 1) * ((W-P)//stride + 1).
    Source: overlapping patches as in T2T-ViT (Yuan et al. 2021, arXiv:2101.11986).
    """
    # (B, C, rows, cols, P, P)
    windows = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
    return rearrange(windows, "b c r s p q -> b (r s) (p q c)")


class PatchEmbed(nn.Module):
    """Patches and their linear projection in one strided convolution (paper, equation 1: x_p E).

    (B, C, H, W) -> (B, N, D). `proj.weight` is (D, C, P, P), as in timm.
    Raises ValueError for images of another size or number of channels than the model was built for.
    """

    def __init__(self, img_size=32, patch_size=4, in_chans=3, embed_dim=64):
        super().__init__()
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.grid_size = _grid(*self.img_size, patch_size)  # (rows, cols)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images):
        expected = (self.proj.in_channels, *self.img_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"this model reads images of shape (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}. "
                "Resize the images, or build the model with other img_size or in_chans."
            )
        x = self.proj(images)  # (B, D, H/P, W/P)
        return x.flatten(2).transpose(1, 2)  # (B, N, D)


# ---------------------------------------------------------------- embeddings (lesson 02)


def sincos_positions(rows, cols, dim, temperature=10000.0):
    """Fixed 2-D sine-cosine positions: half of each vector tells the row, and half the column.

    Returns (rows*cols, dim), float32: [sin(row w), cos(row w), sin(col w), cos(col w)], each dim/4 long, with
    w_i = temperature ** (-i / (dim/4)). Raises ValueError when dim is not a multiple of 4.
    Source: Vaswani et al. 2017, section 3.5, in two dimensions as in "Better plain ViT baselines"
    (Beyer et al. 2022, arXiv:2205.01580).
    """
    if dim % 4:
        raise ValueError(f"2-D sine-cosine positions need dim to be a multiple of 4, got {dim}.")
    omega = temperature ** (-torch.arange(dim // 4) / (dim // 4))  # (D/4,)
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    row = row.flatten()[:, None] * omega  # (N, D/4), in radians
    col = col.flatten()[:, None] * omega  # (N, D/4)
    return torch.cat([row.sin(), row.cos(), col.sin(), col.cos()], dim=1)  # (N, D)


class Embeddings(nn.Module):
    """Image -> tokens: patch projection, class token in front, positions added (paper, equation 1).

    (B, C, H, W) -> (B, T, D), with T = N + 1 where there is a class token, else N.
    pos_embed: "learn" (T learned vectors: one for every patch *and* one for the class token),
    "sincos" (fixed, zero for the class token) or "none". The vectors are `self.pos_embed`, (1, T, D).
    """

    def __init__(
        self,
        img_size=32,
        patch_size=4,
        in_chans=3,
        embed_dim=64,
        class_token=True,
        pos_embed="learn",
    ):
        super().__init__()
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        tokens = self.patch_embed.num_patches + class_token
        if pos_embed == "learn":
            self.pos_embed = nn.Parameter(torch.randn(1, tokens, embed_dim) * 0.02)
        elif pos_embed == "sincos":
            fixed = sincos_positions(*self.patch_embed.grid_size, embed_dim)  # (N, D)
            fixed = F.pad(fixed, (0, 0, int(class_token), 0))  # a row of zeros for the class token
            self.register_buffer("pos_embed", fixed[None])  # it moves with .to(device), and is not trained
        elif pos_embed == "none":
            self.pos_embed = None
        else:
            raise ValueError(f'pos_embed is "learn", "sincos" or "none", got {pos_embed!r}.')

    def forward(self, images):
        x = self.patch_embed(images)  # (B, N, D)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # (B, N + 1, D)
        if self.pos_embed is not None:
            x = x + self.pos_embed  # (B, T, D) + (1, T, D)
        return x


# ---------------------------------------------------------------- attention (lesson 03)


def scaled_dot_product_attention(q, k, v):
    """softmax(q k^T / sqrt(d)) v (paper, equations 6 and 7; Vaswani et al. 2017, equation 1).

    q, k, v: (..., T, d). Returns the output (..., T, d) and the weights (..., T, T); row i of the
    weights says where token i looks, and sums to 1.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., T, T)
    weights = scores.softmax(dim=-1)  # over the keys
    return weights @ v, weights


def split_heads(x, num_heads):
    """(B, T, D) -> (B, h, T, d): head 0 gets the first d numbers of every token, head 1 the next, ..."""
    return rearrange(x, "b t (h d) -> b h t d", h=num_heads)


def merge_heads(x):
    """(B, h, T, d) -> (B, T, D): the inverse of `split_heads`."""
    return rearrange(x, "b h t d -> b t (h d)")


class Attention(nn.Module):
    """Multi-head self-attention (paper, appendix A). (B, T, D) -> (B, T, D).

    `qkv` makes queries, keys and values in one product: rows 0..D-1 of its weight are the queries',
    then the keys', then the values'. Raises ValueError when dim is not a multiple of num_heads.
    """

    def __init__(self, dim, num_heads=8):
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"dim must be a multiple of num_heads, so that the heads share it evenly: "
                f"{dim} / {num_heads} leaves {dim % num_heads}. Change embed_dim or num_heads."
            )
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # 3 x (B, T, D)
        q, k, v = (split_heads(y, self.num_heads) for y in (q, k, v))  # 3 x (B, h, T, d)
        # The same as our scaled_dot_product_attention(q, k, v)[0], but fused: it never stores the (T, T) weights.
        x = F.scaled_dot_product_attention(q, k, v)  # (B, h, T, d)
        return self.proj(merge_heads(x))  # (B, T, D)


# ---------------------------------------------------------------- encoder (lesson 04)


def layer_norm(x, weight, bias, eps=1e-6):
    """Bring every token to mean 0 and variance 1 over its own D numbers, then scale and shift it.

    x: (..., D). weight, bias: (D,). The variance is the biased one (divided by D), and eps is
    inside the root. Source: Ba et al. 2016, arXiv:1607.06450. Same as `F.layer_norm`.
    """
    mean = x.mean(dim=-1, keepdim=True)  # (..., 1)
    var = x.var(dim=-1, keepdim=True, unbiased=False)  # (..., 1)
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


class Mlp(nn.Module):
    """Two linear layers with a GELU between (paper, section 3.1). (B, T, D) -> (B, T, D), token by token."""

    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_features, in_features)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


def drop_path(x, drop_prob, training):
    """Stochastic depth: leave the whole branch out for some images of the batch.

    x: (B, ...), the output of a branch *before* it is added to the skip. While training, each image keeps its
    branch with probability 1 - drop_prob and is then divided by that number, so that the mean stays the
    same; in evaluation x passes unchanged. Source: Huang et al. 2016, arXiv:1603.09382.
    """
    if not training or drop_prob == 0.0:
        return x
    keep = 1.0 - drop_prob
    mask = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(keep)  # one draw for each image
    return x * mask / keep


class DropPath(nn.Module):
    """`drop_path` as a module, so that model.train() and model.eval() switch it."""

    def __init__(self, drop_prob=0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        return drop_path(x, self.drop_prob, self.training)


class Block(nn.Module):
    """One pre-norm encoder block (paper, equations 2 and 3). (B, T, D) -> (B, T, D).

    The skip path is left alone: the norms are inside the branches.
    """

    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))  # tokens exchange
        x = x + self.drop_path(self.mlp(self.norm2(x)))  # each token thinks for itself
        return x


def make_blocks(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    """The encoder: `depth` blocks in a row, as nn.Sequential. (B, T, D) -> (B, T, D).

    The drop rate grows linearly from 0 at the first block to drop_path_rate at the last, as in timm; a single block has
    rate 0. Huang et al. (2016), who introduced the linear rule, start from 0 at the *input*: block i has rate
    drop_path_rate * (i + 1) / depth.
    """
    rates = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
    return nn.Sequential(*(Block(dim, num_heads, mlp_ratio, rate) for rate in rates))


def block_ends(blocks):
    """The weights that end the residual branches of blocks: of each, the last matrix of its attention and of its MLP."""
    return [weight for block in blocks for weight in (block.attn.proj.weight, block.mlp.fc2.weight)]


# ---------------------------------------------------------------- the whole model (lesson 05)


def pool(tokens, global_pool):
    """From many tokens to one vector: (B, T, D) -> (B, D).

    global_pool "token": the class token, which is at index 0. "avg": the mean over all tokens, for a model
    without a class token.
    """
    if global_pool == "token":
        return tokens[:, 0]
    if global_pool == "avg":
        return tokens.mean(dim=1)
    raise ValueError(f'global_pool is "token" or "avg", got {global_pool!r}.')


class ViT(Embeddings):
    """The Vision Transformer (paper, equations 1 to 4). (B, C, H, W) -> logits (B, num_classes).

    It extends `Embeddings` instead of holding one, so that `patch_embed`, `cls_token` and `pos_embed` are at
    the top of the state dict, where published weights have them.

    global_pool="token" reads the class token; "avg" has none and takes the mean over the patches.
    num_classes=0 leaves out the head and returns (B, D). drop_path_rate is that of the last block.
    Raises ValueError for sizes that do not fit, and names them.
    """

    def __init__(
        self,
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
        super().__init__(img_size, patch_size, in_chans, embed_dim, global_pool == "token", pos_embed)
        self.global_pool = global_pool
        self.blocks = make_blocks(embed_dim, depth, num_heads, mlp_ratio, drop_path_rate)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    def forward(self, images):
        x = super().forward(images)  # (B, T, D)
        x = self.blocks(x)  # (B, T, D)
        x = self.norm(x)
        return self.head(pool(x, self.global_pool))  # (B, num_classes)


def init_weights(model):
    """Weights much as in the paper's own code: Xavier for linear layers, LeCun for the patches, zero biases.

    One thing differs, as in timm: Xavier sees queries, keys and values as one (3 D, D) matrix, so that they start with a
    standard deviation of 0.71 / sqrt(D), where three (D, D) matrices would get 1 / sqrt(D). The head starts small
    (standard deviation 0.02): the first loss is then close to ln(num_classes).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
            fan_in = module.weight[0].numel()
            nn.init.trunc_normal_(module.weight, std=fan_in**-0.5)
            nn.init.zeros_(module.bias)
    if isinstance(model.head, nn.Linear):
        nn.init.normal_(model.head.weight, std=0.02)


# ---------------------------------------------------------------- sizes

# Constructor arguments for the sizes that have names. B, L, H: paper, table 1. Ti, S: DeiT (Touvron et al. 2021,
# arXiv:2012.12877). Use: ViT(img_size=224, num_classes=1000, **SIZES["B/16"]).
SIZES = {
    "Ti/16": {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3},
    "S/16": {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6},
    "B/16": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
    "L/16": {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16},
    "H/14": {"patch_size": 14, "embed_dim": 1280, "depth": 32, "num_heads": 16},
}


def count_parameters(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    """Learned numbers of a `ViT` with class token and learned positions, in closed form. Returns an int.

    The number of heads does not occur: heads share D and add nothing.
    """
    D, N, hidden = embed_dim, (img_size // patch_size) ** 2, int(embed_dim * mlp_ratio)
    # Projection, class token, positions
    embeddings = (patch_size**2 * in_chans + 1) * D + D + (N + 1) * D
    attention = (D + 1) * 3 * D + (D + 1) * D  # qkv, proj
    mlp = (D + 1) * hidden + (hidden + 1) * D  # fc1, fc2
    norms = 2 * 2 * D  # two per block, each with weight and bias
    head = 2 * D + (D + 1) * num_classes  # last norm, then linear
    return embeddings + depth * (attention + mlp + norms) + head


def flops(tokens, embed_dim, depth):
    """Multiply-adds of an encoder with an MLP of hidden width 4 D, as papers count FLOPs. Returns an int.

    tokens: T, class token included. 12 T D^2 of each block are linear layers, 2 T^2 D the scores and the weighted sum of the
    values; the two are equal at T = 6 D. Norms, softmax, GELU, embeddings and head are left out.
    """
    T, D = tokens, embed_dim
    return depth * (12 * T * D**2 + 2 * T**2 * D)
