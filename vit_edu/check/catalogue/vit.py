"""Lesson 05: pooling, the whole model, parameters in closed form, and properties that find bugs."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import nn

from vit_edu.check.cases import (
    Case,
    Unfair,
    build,
    call,
    drawn,
    fill,
    filled,
    forward,
    gradients,
    in_double,
    not_contiguous,
    parameters,
    passes_gradient,
)
from vit_edu.check.engine import Exercise
from vit_edu.models import vit
from vit_edu.training import accuracy

# ---------------------------------------------------------------- pooling

_two_tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])

pool = Exercise(
    vit.pool,
    call('"token" of two tokens, (1, 2) and (3, 6)', _two_tokens, "token"),
    call('"avg" of two tokens, (1, 2) and (3, 6)', _two_tokens, "avg"),
    call('"token": 3 images, 5 tokens of width 4', drawn(3, 5, 4), "token"),
    call('"avg": 3 images, 5 tokens of width 4', drawn(3, 5, 4), "avg"),
    call('"token": more images than tokens', drawn(4, 2, 3), "token"),
    not_contiguous(drawn(2, 3, 4), "avg"),
    in_double(drawn(2, 3, 4), "avg"),
    passes_gradient(drawn(2, 3, 4), "token"),
    hints=(
        "Which of the three axes of (B, T, D) has to go?",
        "Both ways take away the token axis, axis 1: one by choosing an index there, the other by a mean along it.",
        'Two cases: `if global_pool == "token": return tokens[:, ...]`, else a mean over `dim=...`.',
    ),
)


@pool.alternative
def with_select(tokens, global_pool):
    return tokens.select(1, 0) if global_pool == "token" else tokens.sum(1) / tokens.shape[1]


@pool.alternative
def with_reduce(tokens, global_pool):
    if global_pool == "token":
        return rearrange(tokens[:, :1], "b 1 d -> b d")
    return reduce(tokens, "b t d -> b d", "mean")


@pool.alternative
def as_weighted_sum(tokens, global_pool):
    T = tokens.shape[1]
    weights = tokens.new_full((T,), 1 / T)
    if global_pool == "token":
        weights = F.one_hot(torch.tensor(0), T).to(tokens)
    return torch.einsum("t,btd->bd", weights, tokens)


@pool.alternative
def image_by_image(tokens, global_pool):
    pick = {"token": lambda image: image[0], "avg": lambda image: sum(image) / len(image)}
    return torch.stack([pick[global_pool](image) for image in tokens])


@pool.mistake(
    "The wrong axis: index 0 of the first axis is the first *image*. The class token is token 0 of every image.",
    "Ask: what are the shapes of `x[0]`, `x[:, 0]` and `x[:, :, 0]` for an x of shape (2, 5, 4)?",
)
def first_image(tokens, global_pool):
    return tokens[0] if global_pool == "token" else tokens.mean(dim=0)


@pool.mistake(
    "The class token is token 0; this reads the last one.",
    "Show where lesson 02 put the class token: in front, so that its index does not depend on the number of patches.",
)
def last_token(tokens, global_pool):
    return tokens[:, -1] if global_pool == "token" else tokens.mean(dim=1)


@pool.mistake(
    "The mean is taken over the width, not over the tokens: each token has become one number.",
    "Ask: (2, 5, 4) goes in, (2, 5) comes out; which axis is gone, and what did its numbers mean?",
)
def over_width(tokens, global_pool):
    return tokens[:, 0] if global_pool == "token" else tokens.mean(dim=-1)


@pool.mistake(
    "The token axis is kept with length 1. One vector an image is wanted: (B, D).",
    "Print the shapes of `x[:, 0]` and `x[:, :1]`: an index takes an axis away, a slice keeps it.",
)
def axis_kept(tokens, global_pool):
    return tokens[:, :1] if global_pool == "token" else tokens.mean(dim=1, keepdim=True)


@pool.mistake(
    'The two modes are exchanged: "token" gives the mean, and "avg" gives token 0.',
    "Ask: in which of the two modes does (3, 6) have any say in the result?",
)
def modes_exchanged(tokens, global_pool):
    return tokens.mean(dim=1) if global_pool == "token" else tokens[:, 0]


@pool.mistake(
    'Token 0 is returned in both modes. Where does `global_pool` enter? A comparison like `x == "a" or "b"` is always true.',
    'Type `bool("token" == "avg" or "token")` and ask why it is True.',
)
def always_the_token(tokens, global_pool):
    return tokens[:, 0]


@pool.mistake(
    'The mean is returned in both modes. What should happen for "token"?',
    "Ask: which line of the code ever looks at `global_pool`, and is the value spelled as in the text?",
)
def always_the_mean(tokens, global_pool):
    return tokens.mean(dim=1)


@pool.mistake(
    "The sum over the tokens is taken, not the mean: it would grow with the number of patches.",
    "Ask: what happens to the size of the logits when the image has four times as many patches?",
)
def sum_of_tokens(tokens, global_pool):
    return tokens[:, 0] if global_pool == "token" else tokens.sum(dim=1)


@pool.mistake(
    'The largest value is taken. "avg" is the mean: every token has the same say.',
    "For (1, 2) and (3, 6), let the class compute maximum and mean by hand.",
)
def maximum_of_tokens(tokens, global_pool):
    return tokens[:, 0] if global_pool == "token" else tokens.amax(dim=1)


@pool.mistake(
    'In "avg", token 0 is left out of the mean. In this mode there is no class token: token 0 is a patch like the others.',
    "Ask: with mean pooling, how many tokens does a 32 x 32 image with patches of 4 have, 64 or 65?",
)
def mean_without_token_zero(tokens, global_pool):
    return tokens[:, 0] if global_pool == "token" else tokens[:, 1:].mean(dim=1)


# ---------------------------------------------------------------- the model

_tiny = {
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 3,
    "num_classes": 5,
    "embed_dim": 8,
    "depth": 2,
    "num_heads": 4,
}
_images = drawn(3, 3, 8, 8)


def _one_by_one(candidate):
    model = filled(candidate, **_tiny).eval()
    return torch.allclose(model(_images.clone())[:1], model(_images[:1].clone()), atol=1e-5)


def _with_small_tokens(candidate):
    """All weights times 0.01, so that eps is no longer small beside the variance; the head's bias taken out."""
    model = filled(candidate, **_tiny, global_pool="avg").eval().double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.01)
        out = model(_images.double())
    return (out - out.mean(0)) * 1e4


def _conv_as_linear(weight):
    """(D, C, P, P) -> (D, P*P*C): the weight for patches from `patchify`."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else None


def _conv_as_linear_channels_first(weight):
    """(D, C, P, P) -> (D, C*P*P): the weight for patches whose channels come first."""
    return weight.flatten(1) if weight.ndim == 4 else None


_views = (_conv_as_linear, _conv_as_linear_channels_first)

ViT = Exercise(
    vit.ViT,
    parameters(
        "names and shapes of the parameters, with class token",
        **_tiny,
        hint="patch_embed, cls_token and pos_embed come from Embeddings; add blocks, norm and head.",
    ),
    parameters(
        "names and shapes of the parameters, with mean pooling",
        **_tiny,
        global_pool="avg",
        hint="With mean pooling there is no class token: class_token=False for Embeddings.",
    ),
    forward("3 images, class token", inputs=(_images,), **_tiny),
    forward("3 images, mean pooling", inputs=(_images,), global_pool="avg", **_tiny),
    forward(
        "other sizes: 1 channel, 9 patches of 2, 3 blocks, 2 heads",
        inputs=(drawn(2, 1, 6, 6),),
        **{**_tiny, "img_size": 6, "patch_size": 2, "in_chans": 1, "depth": 3, "num_heads": 2},
    ),
    Case("an image gets the same logits alone and in a batch", _one_by_one, kind="weights"),
    Case(
        "tokens with very small numbers: the eps of the last norm shows",
        _with_small_tokens,
        "The text gives the eps of the norm; torch's own default is another one.",
        1e-4,
        kind="weights",
    ),
    forward(
        "in training mode",
        inputs=(_images,),
        train=True,
        hint="Nothing in this model is random: in training it computes the same as in evaluation.",
        **_tiny,
    ),
    forward("in float64", inputs=(_images,), double=True, tolerance=1e-8, **_tiny),
    gradients("everything can learn", inputs=(_images,), **_tiny),
    hints=(
        "Write down the shape after each step, from (B, C, H, W) to (B, num_classes). Which part of the class makes which step?",
        "Embeddings makes tokens, the blocks let them exchange, the norm evens them out, `pool` leaves one vector an image, "
        "and the head makes logits of it.",
        "`super().__init__(..., class_token=...)`, then blocks, norm, head; in forward "
        "`x = super().forward(images)`, `x = self.norm(...)`, `return self.head(pool(...))`.",
    ),
    views=_views,
)


class _ViT(vit.Embeddings):
    """What alternatives and mistakes have in common."""

    eps, class_token_always = 1e-6, False

    def __init__(
        self,
        img_size,
        patch_size,
        in_chans,
        num_classes,
        embed_dim,
        depth,
        num_heads,
        global_pool="token",
    ):
        has_token = global_pool == "token" or self.class_token_always
        super().__init__(img_size, patch_size, in_chans, embed_dim, class_token=has_token)
        self.global_pool = global_pool
        self.blocks = self.make_blocks(embed_dim, depth, num_heads)
        self.norm = nn.LayerNorm(embed_dim, eps=self.eps)
        self.head = nn.Linear(embed_dim, num_classes)

    def make_blocks(self, dim, depth, num_heads):
        return vit.make_blocks(dim, depth, num_heads)

    def tokens(self, images):
        return vit.Embeddings.forward(self, images)

    def pooled(self, x):
        return vit.pool(x, self.global_pool)

    def forward(self, images):
        return self.head(self.pooled(self.norm(self.blocks(self.tokens(images)))))


@ViT.alternative
class BlockByBlock(_ViT):
    def make_blocks(self, dim, depth, num_heads):
        return nn.ModuleList(vit.Block(dim, num_heads) for _ in range(depth))

    def forward(self, images):
        x = self.tokens(images)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.global_pool == "token" else x.mean(1))


@ViT.alternative
class HoldsEmbeddings(nn.Module):
    """Does not extend Embeddings: other names."""

    def __init__(
        self, img_size, patch_size, in_chans, num_classes, embed_dim, depth, num_heads, global_pool="token"
    ):  # fmt: skip
        super().__init__()
        self.mean = global_pool != "token"
        self.embeddings = vit.Embeddings(img_size, patch_size, in_chans, embed_dim, not self.mean)
        self.encoder = nn.Sequential(
            *vit.make_blocks(embed_dim, depth, num_heads), nn.LayerNorm(embed_dim, eps=1e-6)
        )
        self.classifier = nn.Linear(embed_dim, num_classes)

    def forward(self, images):
        x = self.encoder(self.embeddings(images))
        return self.classifier(x.mean(dim=-2) if self.mean else x.select(1, 0))


@ViT.alternative
class WithTorchEncoder(_ViT):
    def make_blocks(self, dim, depth, num_heads):
        layer = nn.TransformerEncoderLayer(
            dim, num_heads, 4 * dim, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        )
        return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


@ViT.alternative
class FromScratch(nn.Module):
    """Patches by a linear layer, a class token of shape (D,), positions without the batch axis."""

    def __init__(
        self, img_size, patch_size, in_chans, num_classes, embed_dim, depth, num_heads, global_pool="token"
    ):  # fmt: skip
        super().__init__()
        self.patch_size, tokens = patch_size, (img_size // patch_size) ** 2
        self.project = nn.Linear(patch_size**2 * in_chans, embed_dim)
        self.token = nn.Parameter(torch.zeros(embed_dim)) if global_pool == "token" else None
        tokens += self.token is not None
        self.positions = nn.Parameter(torch.randn(tokens, embed_dim) * 0.02)
        self.layers = vit.make_blocks(embed_dim, depth, num_heads)
        self.last_norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.classify = nn.Linear(embed_dim, num_classes)

    def forward(self, images):
        x = self.project(vit.patchify(images, self.patch_size))
        if self.token is not None:
            x = torch.cat([self.token.repeat(len(x), 1, 1), x], dim=1)
        x = self.last_norm(self.layers(x + self.positions))
        return self.classify(x.mean(1) if self.token is None else x[:, 0])


@ViT.mistake(
    "The last norm is built but never applied. The head should read normed tokens (paper, equation 4).",
    "Ask: which line of forward uses `self.norm`, and would its weight get a gradient?",
)
class NormNeverApplied(_ViT):
    def forward(self, images):
        return self.head(self.pooled(self.blocks(self.tokens(images))))


@ViT.mistake(
    "The model returns probabilities. It should return logits: the loss applies the softmax itself, and a second one "
    "flattens the gradient.",
    "Compute the cross-entropy of (10, 0) and of softmax(10, 0) for class 0: about 0 and about 0.3.",
)
class ReturnsProbabilities(_ViT):
    def forward(self, images):
        return super().forward(images).softmax(-1)


@ViT.mistake(
    "The head is applied to every token and nothing is pooled: one row of logits an image is wanted, (B, num_classes).",
    "Ask: for 3 images and 5 classes, how many numbers should come out, and how many do?",
)
class NotPooled(_ViT):
    def forward(self, images):
        return self.head(self.norm(self.blocks(self.tokens(images))))


@ViT.mistake(
    "The blocks are never applied: patches go straight from the embedding to the head.",
    "Ask: without the blocks, what can the class token know of the image?",
)
class BlocksNeverApplied(_ViT):
    def forward(self, images):
        return self.head(self.pooled(self.norm(self.tokens(images))))


@ViT.mistake(
    "The mean is taken before the norm. Norm every token first, then pool.",
    "Give two tokens of very different size, (1, -1) and (100, -100): which one decides the mean, with and without a norm before?",
)
class NormAfterPooling(_ViT):
    def forward(self, images):
        return self.head(self.norm(self.pooled(self.blocks(self.tokens(images)))))


@ViT.mistake(
    "The norm comes before the blocks. In a pre-norm encoder the skip path grows from block to block; it is the *output* of "
    "the last block that needs a norm.",
    "Ask: each block adds something to the skip path; how large is it after 12 blocks, and who evens it out?",
)
class NormBeforeBlocks(_ViT):
    def forward(self, images):
        return self.head(self.pooled(self.blocks(self.norm(self.tokens(images)))))


@ViT.mistake(
    "Token 0 is read in both modes. With mean pooling there is no class token: token 0 is the patch in the upper left corner.",
    "Ask: with global_pool='avg', what is `x[:, 0]` a picture of?",
)
class AlwaysReadsTokenZero(_ViT):
    def pooled(self, x):
        return x[:, 0]


@ViT.mistake(
    "The mean is taken in both modes. With a class token, it is that token alone which the head reads.",
    "Ask: what is the class token for, when the mean over all tokens is read anyway?",
)
class AlwaysTakesTheMean(_ViT):
    def pooled(self, x):
        return x.mean(dim=1)


@ViT.mistake(
    "There is a class token in both modes, and with mean pooling it is averaged along with the patches. Which of the two "
    "modes needs one?",
    "Count tokens for both modes on an image of 2 x 2 patches: 5 and 4.",
)
class ClassTokenInBothModes(_ViT):
    class_token_always = True


@ViT.mistake(
    "depth and num_heads are exchanged. Look at the order of the arguments of `make_blocks`.",
    "Ask: which of the two numbers changes the count of parameters, and which does not?",
)
class DepthAndHeadsExchanged(_ViT):
    def make_blocks(self, dim, depth, num_heads):
        return vit.make_blocks(dim, num_heads, depth)


@ViT.mistake(
    "It is one and the same block, applied again and again: all depths share its weights. Each block needs its own.",
    "Type `a = [[]] * 2; a[0].append(1); print(a)`: a list times 2 holds one thing twice.",
)
class SameBlockRepeated(_ViT):
    def make_blocks(self, dim, depth, num_heads):
        return nn.Sequential(*[vit.Block(dim, num_heads)] * depth)


@ViT.mistake(
    "The blocks stand in a plain Python list. nn.Module does not look into lists: an optimizer would never see their "
    "parameters, and `.to(device)` would leave them behind.",
    "Print the number of parameters with a list and with nn.ModuleList.",
)
class BlocksInAList(_ViT):
    def make_blocks(self, dim, depth, num_heads):
        return list(vit.make_blocks(dim, depth, num_heads))

    def forward(self, images):
        x = self.tokens(images)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pooled(self.norm(x)))


@ViT.mistake(
    "The positions are added twice. What does `super().forward(images)` already do?",
    "Ask: which four steps of equation 1 does Embeddings make?",
)
class PositionsAddedTwice(_ViT):
    def tokens(self, images):
        return super().tokens(images) + self.pos_embed


@ViT.mistake(
    "The last norm has another eps than asked for: torch's LayerNorm takes 1e-5 by itself. Published weights expect 1e-6, "
    "and tokens with small numbers show the difference.",
    "Print `nn.LayerNorm(8)`: its text shows eps.",
)
class TorchsOwnEps(_ViT):
    eps = 1e-5


@ViT.mistake(
    "In training the logits are random: there is a dropout that nobody asked for. All checks in evaluation pass.",
    "Call the model twice on the same images in training mode and compare.",
)
class DropoutBeforeHead(_ViT):
    def pooled(self, x):
        return F.dropout(super().pooled(x), 0.1, self.training)


# ---------------------------------------------------------------- parameters in closed form

count_parameters = Exercise(
    vit.count_parameters,
    call("a tiny model: 8 pixels, patch 4, 5 classes, D = 8, 2 blocks", 8, 4, 3, 5, 8, 2),
    call("ViT-B/16 at 224 pixels, 1,000 classes", 224, 16, 3, 1000, 768, 12),
    call("one channel, no block", 28, 7, 1, 10, 16, 0),
    call("another mlp_ratio, 2", 32, 4, 3, 10, 64, 4, mlp_ratio=2),
    call(
        "mlp_ratio 2.5 still gives a whole number",
        8,
        4,
        3,
        5,
        8,
        2,
        mlp_ratio=2.5,
        hint="The hidden layer has int(embed_dim * mlp_ratio) numbers.",
    ),
    hints=(
        "Which parts of the model have parameters? Make a list, then a line for each.",
        "A linear layer from a to b has a · b weights and b biases. The blocks are all alike: count one, times depth. "
        "Class token, positions, last norm and head come once.",
        "`embeddings = (... + 1) * D + ... + (N + 1) * D`, `block = attention + mlp + norms`, `head = 2 * D + ...`, then "
        "`embeddings + depth * block + head`.",
    ),
)


@count_parameters.alternative
def by_counting(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    with torch.device("meta"):
        model = vit.ViT(img_size, patch_size, in_chans, num_classes, embed_dim, depth, 1, mlp_ratio)
    return sum(p.numel() for p in model.parameters())


@count_parameters.alternative
def layer_by_layer(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    def linear(a, b):
        return a * b + b

    hidden = int(embed_dim * mlp_ratio)
    total = linear(patch_size * patch_size * in_chans, embed_dim)
    total += embed_dim * (2 + (img_size // patch_size) ** 2)
    for _ in range(depth):
        total += 2 * embed_dim + linear(embed_dim, 3 * embed_dim) + linear(embed_dim, embed_dim)
        total += 2 * embed_dim + linear(embed_dim, hidden) + linear(hidden, embed_dim)
    return total + 2 * embed_dim + linear(embed_dim, num_classes)


@count_parameters.alternative
def by_shapes(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    D, H, N = embed_dim, int(embed_dim * mlp_ratio), img_size**2 // patch_size**2
    block = [(D,)] * 4 + [(3 * D, D), (3 * D,), (D, D), (D,), (H, D), (H,), (D, H), (D,)]
    once = [(D, in_chans, patch_size, patch_size), (D,), (1, 1, D), (1, N + 1, D)]
    once += [(D,), (D,), (num_classes, D), (num_classes,)]
    return sum(torch.Size(shape).numel() for shape in once + depth * block)


def _off_by(name, what, diagnosis, talk):
    """A mistake that misses `what(P, C, K, D, depth, N, hidden)` parameters."""

    def wrong(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
        N, hidden = (img_size // patch_size) ** 2, int(embed_dim * mlp_ratio)
        full = vit.count_parameters(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio)
        return full - what(patch_size, in_chans, num_classes, embed_dim, depth, N, hidden)

    wrong.__name__ = name
    return count_parameters.mistake(diagnosis, talk)(wrong)


_off_by(
    "no_positions",
    lambda P, C, K, D, depth, N, hidden: (N + 1) * D,
    "The position embedding is missing: one vector of D numbers for every patch and one for the class token.",
    "Ask: what is the shape of `pos_embed` for 32 pixels and patches of 4?",
)
_off_by(
    "one_vector_missing",
    lambda P, C, K, D, depth, N, hidden: D,
    "D parameters are missing. Three things have just that many: the bias of the projection, the class token, and the class "
    "token's position.",
    "Let the class list everything in the model that is a single vector of width D.",
)
_off_by(
    "two_vectors_missing",
    lambda P, C, K, D, depth, N, hidden: 2 * D,
    "2 D parameters are missing. The last norm has that many, weight and bias; so have two of: projection bias, class token, "
    "its position.",
    "Print the names of `model.named_parameters()` that do not start with `blocks`.",
)
_off_by(
    "head_without_bias",
    lambda P, C, K, D, depth, N, hidden: K,
    "num_classes parameters are missing: the head is a linear layer, and it has a bias.",
    "Ask: which number grows when the classes go from 10 to 11, and by how much: D or D + 1?",
)
_off_by(
    "biases_of_the_blocks_missing",
    lambda P, C, K, D, depth, N, hidden: depth * (4 * D + hidden + D),
    "The biases inside the blocks are missing: those of qkv (3 D), proj (D), fc1 (hidden) and fc2 (D).",
    "Print `[n for n, _ in block.named_parameters() if 'bias' in n]`.",
)
_off_by(
    "norms_of_the_blocks_missing",
    lambda P, C, K, D, depth, N, hidden: depth * 4 * D,
    "4 D parameters are missing in each block. The two norms have that many, with D weights and D biases each; so have the "
    "biases of qkv and proj.",
    "Ask: does a layer norm learn anything, and what would be lost if it did not?",
)
_off_by(
    "one_projection_for_qkv",
    lambda P, C, K, D, depth, N, hidden: depth * (2 * D * D + 2 * D),
    "Each block is short of two projections: queries, keys and values have D · D weights and D biases *each*.",
    "Print `block.attn.qkv.weight.shape`.",
)
_off_by(
    "only_one_block",
    lambda P, C, K, D, depth, N, hidden: (depth - 1) * (4 * D * D + 2 * D * hidden + 9 * D + hidden),
    "Only one block is counted. How many of them are there?",
    "Ask: ViT-B has 12 blocks of 7.1 M each; can the whole have 8.5 M, as a text in circulation says?",
)
_off_by(
    "patches_of_one_side",
    lambda P, C, K, D, depth, N, hidden: (N - round(N**0.5)) * D,
    "There are too few positions: img_size / patch_size is the number of patches along *one* side.",
    "Draw an image of 8 pixels with patches of 4 and let the class count patches.",
)
_off_by(
    "channels_forgotten",
    lambda P, C, K, D, depth, N, hidden: P * P * (C - 1) * D,
    "The projection is too small: a flattened patch has P · P · C numbers, not P · P.",
    "Ask: how long is one patch of 4 x 4 *coloured* pixels?",
)


@count_parameters.mistake(
    "The hidden layer is always 4 D wide here. `mlp_ratio` says how wide it is.",
    "Ask: which argument of the function is never used?",
)
def ratio_ignored(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    return vit.count_parameters(img_size, patch_size, in_chans, num_classes, embed_dim, depth)


@count_parameters.mistake(
    "The count is right but comes as a float. A number of parameters is an int: `//` divides whole numbers, and "
    "`int(...)` makes a whole number of a width.",
    "Type `6 / 2` and `6 // 2`.",
)
def comes_as_float(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    return float(
        vit.count_parameters(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio)
    )


# ---------------------------------------------------------------- properties that find bugs


def _exchange(model, x):
    return model.blocks(x)


def _across_the_batch(model, x):
    return model.blocks(x.transpose(0, 1)).transpose(0, 1)


def _add(x, positions):
    return x + 8 * positions  # strong, so that there are sound models with much weaker ones


def _add_nothing(x, positions):
    return x


def _unchanged(x):
    return x


class _Model(vit.ViT):
    """A ViT with mean pooling, some of whose steps are others; the properties below are tried on it.

    see: images -> images. place: tokens, positions -> tokens. mix: model, tokens -> tokens. gather: tokens -> one an image.
    say: logits -> logits.
    """

    def __init__(
        self,
        see=_unchanged,
        place=_add,
        mix=_exchange,
        gather=lambda x: x.mean(dim=1),
        say=_unchanged,
        positions=None,
        **sizes,
    ):
        super().__init__(**{**_tiny, "depth": 1, **sizes}, global_pool="avg")
        self.steps = see, place, mix, gather, say
        if positions:
            self.pos_embed = nn.Parameter(torch.zeros(1, positions, 8))

    def forward(self, images):
        see, place, mix, gather, say = self.steps
        x = mix(self, place(self.patch_embed(see(images)), self.pos_embed))
        return say(self.head(gather(self.norm(x))))


def _on(name, *more, model=_Model, images=_images, prepare=_unchanged, **steps):
    """A case for a property: the candidate applied to a model with these steps."""

    def run(candidate):
        asked = fill(model(**steps)).eval()
        prepare(asked)
        torch.manual_seed(0)  # with it, a random order of 4 patches is not the identity
        return candidate(asked, images.clone(), *more)

    return Case(name, run)


def _shaky(x):
    """The last digits differ from run to run, as on a GPU that adds in any order."""
    return x * (1 + 1e-6 * torch.rand(()))


def _small_and_shaky(x):
    """The same with small logits: beside them, a millionth is a lot."""
    return x / 100 + 1e-6 * torch.rand(x.shape)


# ---------------------------------------------------------------- does an image see its neighbours?


class _BrightestPixel(nn.Module):
    """Sound, and free of rounding."""

    def forward(self, images):
        return images.amax(dim=(2, 3))


def _with_dropout(model, x):
    return model.blocks(F.dropout(x, 0.5, model.training))


def _others(x):
    """For each image the mean square of the other images' numbers; 0 for a single one."""
    squares = x.square().mean(dim=1, keepdim=True)
    return (squares.sum(0) - squares) / max(1, len(x) - 1)


def _last_reads_all(logits):
    return torch.cat([logits[:-1], logits.mean(0, keepdim=True)])


def _in_pairs(logits):
    return torch.cat([pair - _others(pair) for pair in logits.split(2)])


def _leaks_a_little(logits):
    others = _others(logits)  # the sine tells apart even others that are much alike
    return logits - 5e-4 * (2 + (1000 * others).sin()) * (others > 0)


def _batch_independent(model, images):
    alone = torch.cat([model(image[None]) for image in images])  # one by one
    return torch.allclose(model(images), alone, atol=1e-5)


batch_independent = Exercise(
    _batch_independent,
    _on("a sound ViT"),
    _on("a ViT with attention across the batch", mix=_across_the_batch),
    _on("a sound ViT whose last digits differ from run to run", say=_shaky),
    _on("the same with logits near 0", say=_small_and_shaky),
    _on("a sound model without any rounding: the brightest pixel", model=_BrightestPixel),
    _on("a sound ViT with dropout, in eval mode", mix=_with_dropout),
    _on("one that says the same of every image; no image changes that", say=lambda x: 0 * x),
    _on("a ViT that subtracts the batch's mean from its logits", say=lambda x: x - x.mean(0)),
    _on("a ViT in which only the last image reads the others", say=_last_reads_all),
    _on("a ViT in which images 0 and 1 read each other, and 2 is alone", say=_in_pairs),
    _on("a ViT in which the others change the logits by less than 0.002", say=_leaks_a_little),
    name="batch_independent",
    hints=(
        "Which two runs of the model should agree, if the neighbours do not matter?",
        "Give each image other neighbours, or none, and compare its logits in both runs. Ask for *every* image: some faults "
        "leave the first one alone.",
        "`alone = torch.cat([model(...) for image in images])`, then `torch.allclose(..., alone, atol=...)`.",
    ),
)


@batch_independent.alternative
def each_among_strangers(model, images):
    together = model(images)
    for i in range(len(images)):
        other = torch.randn_like(images)
        other[i] = images[i]
        if (model(other)[i] - together[i]).abs().max() > 1e-5:
            return False
    return True


@batch_independent.alternative
def by_gradient(model, images):
    images = images.requires_grad_()
    logits = model(images)
    for i in range(len(images)):
        (reached,) = torch.autograd.grad(logits[i].square().sum(), images, retain_graph=True)
        others = torch.arange(len(images)) != i
        if reached[others].any():
            return False
    return True


@batch_independent.alternative
def slice_by_slice(model, images):
    with torch.no_grad():
        together = model(images)
        return all(
            bool(((model(images[i : i + 1]) - together[i : i + 1]).abs() < 1e-5).all())
            for i in range(len(images))
        )


@batch_independent.alternative
def without_one_neighbour_at_a_time(model, images):
    together, everybody = model(images), range(len(images))
    for left_out in everybody:
        rest = [i for i in everybody if i != left_out]
        if not torch.allclose(model(images[rest]), together[rest], rtol=0, atol=1e-5):
            return False
    return True


@batch_independent.mistake(
    "The answer is True for every model, also for a broken one. Does the image that you look at get *other* neighbours, or "
    "none? Comparing a model with itself on the same batch says nothing.",
    "Ask: what would have to be wrong with a model for this test to say False?",
)
def same_batch(model, images):
    return torch.allclose(model(images), model(images), atol=1e-5)


@batch_independent.mistake(
    "The answer is False for every model, also for a sound one. Are tensors of the same shape compared, and the same images "
    "in both?",
    "Type `torch.equal(torch.zeros(3, 5), torch.zeros(1, 5))`.",
)
def shapes_differ(model, images):
    return torch.equal(model(images), model(images[:1]))


@batch_independent.mistake(
    "*Different* images are compared with each other; of course their logits differ. Compare an image with itself, among "
    "other neighbours. Mind broadcasting: (3, K) against (1, K) compares all three with one.",
    "Ask: should a cat and a ship get the same logits, if the model is sound?",
)
def different_images(model, images):
    return torch.allclose(model(images)[0], model(images)[1], atol=1e-5)


@batch_independent.mistake(
    "The answer is the wrong way round: True should mean that an image's logits do *not* depend on its neighbours.",
    "Read the name of the function aloud as a question, then its answer for the sound model.",
)
def inverted(model, images):
    return not _batch_independent(model, images)


@batch_independent.mistake(
    "This is a tensor of True and False. One bool is wanted: torch.allclose gives one, and allows for rounding.",
    "Type `if torch.tensor([True, False]): pass` and read the error.",
)
def elementwise(model, images):
    alone = torch.cat([model(image[None]) for image in images])
    return (model(images) - alone).abs() < 1e-5


@batch_independent.mistake(
    "Only one image is looked at. In one of the broken models the last image reads the others, and the others look perfectly "
    "healthy. Ask for every image.",
    "Draw three images and arrows from 0 and 1 to 2: whose logits tell you that something is wrong?",
)
def only_the_first(model, images):
    return torch.allclose(model(images)[:1], model(images[:1]), atol=1e-5)


@batch_independent.mistake(
    "Only one neighbour is taken away, the last one, and not every image reads that one. Take away all neighbours.",
    "Draw three images and an arrow from 1 to 0: what does leaving out image 2 show?",
)
def without_the_last(model, images):
    return torch.allclose(model(images)[:-1], model(images[:-1]), atol=1e-5)


@batch_independent.mistake(
    "The batch is only put in another order: each image still has the same neighbours. Attention across the batch does not "
    "care about order, so it passes.",
    "Remind the class of lesson 03: what does attention without positions do when its tokens are shuffled?",
)
def shuffled_batch(model, images):
    return torch.allclose(model(images.flip(0)).flip(0), model(images), atol=1e-5)


@batch_independent.mistake(
    "The neighbours are copies of the same images. Attention over copies, and the mean of copies, give what they gave before. "
    "The neighbours have to be *others*, or none.",
    "Ask: what is the mean of (2, 4), and what that of (2, 4, 2, 4)?",
)
def copies_as_neighbours(model, images):
    twice = torch.cat([images, images])
    return torch.allclose(model(twice)[: len(images)], model(images), atol=1e-5)


@batch_independent.mistake(
    "Too much is allowed: one of the broken models changes the logits by less than 0.002, and that passes. The text says how "
    "much rounding to expect.",
    "Compute one thousandth of a typical logit, and put it beside the rounding of float32, about 1e-7.",
)
def too_tolerant(model, images):
    alone = torch.cat([model(image[None]) for image in images])
    return torch.allclose(model(images), alone, atol=0.01)


@batch_independent.mistake(
    "Exact equality is asked for. Sums of floats depend on their order, so even a sound model differs in the last digits.",
    "Type `0.1 + 0.2 == 0.3`.",
)
def no_room_for_rounding(model, images):
    return torch.equal(model(images), torch.cat([model(image[None]) for image in images]))


@batch_independent.mistake(
    "There is too little room for rounding: by itself, allclose allows next to nothing where numbers are near 0. `atol` says "
    "how much.",
    "Type `torch.allclose(torch.tensor(1e-6), torch.tensor(0.0))`.",
)
def tolerance_left_alone(model, images):
    return torch.allclose(model(images), torch.cat([model(image[None]) for image in images]))


@batch_independent.mistake(
    "Differences are compared with their sign: any negative one counts as small. What is missing before the comparison?",
    "Ask: is -100 < 1e-5?",
)
def signed_difference(model, images):
    alone = torch.cat([model(image[None]) for image in images])
    return bool((model(images) - alone).max() < 1e-5)


@batch_independent.mistake(
    "The differences are added up before they are compared, so plus and minus cancel. Look at the largest absolute difference.",
    "Ask: logits change by +3 and -3; what is the sum of the changes?",
)
def differences_cancel(model, images):
    alone = torch.cat([model(image[None]) for image in images])
    return bool((model(images) - alone).sum().abs() < 1e-5)


@batch_independent.mistake(
    "The model is switched to training. There dropout makes every run different, and a sound model looks broken.",
    "Run a model with dropout twice on the same image, after `.train()` and after `.eval()`.",
)
def in_training_mode(model, images):
    return _batch_independent(model.train(), images)


# ---------------------------------------------------------------- is everything used that is learned?


def _unused(model, images):
    model.zero_grad()
    model(images).square().sum().backward()
    return [name for name, p in model.named_parameters() if p.grad is None]


def _norm_skipped(model):
    model.norm.forward = _unchanged


def _last_block_skipped(model, x):
    return model.blocks[:-1](x)


def _head_of_zeros(model):
    for p in model.head.parameters():
        p.data.zero_()


def _old_gradients(model):
    for p in model.parameters():
        p.grad = torch.ones_like(p)


parameters_without_gradient = Exercise(
    _unused,
    _on("a sound ViT"),
    _on("a ViT whose positions are never added", place=_add_nothing),
    _on("a ViT with one position for all patches: wrong, but used", positions=1),
    _on("a ViT whose last block is never run", mix=_last_block_skipped, depth=2),
    _on(
        "a ViT with two faults: no positions, and a norm that is never applied",
        place=_add_nothing,
        prepare=_norm_skipped,
    ),
    _on("a sound ViT whose head is all zeros: its gradients are 0", prepare=_head_of_zeros),
    _on(
        "a ViT without positions, with old gradients from earlier",
        place=_add_nothing,
        prepare=_old_gradients,
    ),
    name="parameters_without_gradient",
    hints=(
        "What does backward leave in `.grad` of a parameter that had no part in the logits?",
        "Three steps in this order: clear old gradients, run forward and backward, look at `.grad` of each parameter. None "
        "means that no path leads there; a gradient of zeros is still a gradient.",
        "`model.zero_grad()`, `model(images)...backward()`, then `[name for name, p in model.named_parameters() if ...]`.",
    ),
)


@parameters_without_gradient.alternative
def with_autograd(model, images):
    names, params = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(model(images).logsumexp(-1).sum(), params, allow_unused=True)
    return [n for n, g in zip(names, grads, strict=True) if g is None]


@parameters_without_gradient.alternative
def with_a_loss(model, images):
    for p in model.parameters():
        p.grad = None
    logits = model(images)
    F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
    missing = []
    for name, p in model.named_parameters():
        if p.grad is None:
            missing.append(name)
    return missing


@parameters_without_gradient.alternative
def with_hooks(model, images):
    reached = set()
    for name, p in model.named_parameters():
        p.register_hook(lambda grad, name=name: reached.add(name))
    model(images).mean().backward()
    return [name for name, _ in model.named_parameters() if name not in reached]


@parameters_without_gradient.mistake(
    "Every parameter is listed: all gradients are None when they are looked at. Has backward run, and were they cleared "
    "before it and not after?",
    "Print `p.grad` before backward, after backward and after zero_grad.",
)
def no_backward(model, images):
    model.zero_grad()
    return [name for name, p in model.named_parameters() if p.grad is None]


@parameters_without_gradient.mistake(
    "This lists the parameters that *have* a gradient. The suspects are those that have none.",
    "Ask: how long should the list be for a sound model?",
)
def with_gradient(model, images):
    missing = _unused(model, images)
    return [name for name, _ in model.named_parameters() if name not in missing]


@parameters_without_gradient.mistake(
    "The list is always empty. `requires_grad` says that a parameter *may* learn; whether it does shows after backward, in "
    "`.grad`, which is None where nothing came.",
    "Make an nn.Linear that nobody uses: print `weight.requires_grad` and, after a backward elsewhere, `weight.grad`.",
)
def requires_grad(model, images):
    return [name for name, p in model.named_parameters() if not p.requires_grad]


@parameters_without_gradient.mistake(
    "Old gradients are not cleared: one that was there before counts as one that came now. Are they None, and not just 0, "
    "before you call backward?",
    "Run forward and backward twice without zero_grad in between: why is the gradient twice as large after the second?",
)
def not_cleared(model, images):
    model(images).square().sum().backward()
    return [name for name, p in model.named_parameters() if p.grad is None]


@parameters_without_gradient.mistake(
    "A gradient of zeros is listed as well. It says that the parameter was used but makes no difference at this point, as "
    "with a head of zeros. None says that there is no path at all.",
    "Ask: f(x) = 0 · x; has x a part in f, and what is the derivative?",
)
def zeros_count_as_none(model, images):
    model.zero_grad()
    model(images).square().sum().backward()
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@parameters_without_gradient.mistake(
    "Only the first name comes. Does a `return` or a `break` stand inside the loop?",
    "Count on the board how often the loop's body runs when its first `if` returns.",
)
def only_the_first_name(model, images):
    return _unused(model, images)[:1]


@parameters_without_gradient.mistake(
    "The names are in alphabetical order. The order of `named_parameters()` is asked for: leave them as they come.",
    "Print the names of a ViT in both orders: in which one do head and last norm stand where the model has them?",
)
def alphabetical(model, images):
    return sorted(_unused(model, images))


@parameters_without_gradient.mistake(
    "Only parameters that stand at the top of the model are found. `named_parameters()` also goes into its modules.",
    "Print `list(model._parameters)` and `[n for n, _ in model.named_parameters()]`.",
)
def top_level_only(model, images):
    return [name for name in _unused(model, images) if "." not in name]


@parameters_without_gradient.mistake(
    "These are the parameters themselves. Their *names* are asked for: `named_parameters()` gives both.",
    "Ask: which would you rather read in a report, `pos_embed` or 32 numbers?",
)
def values_for_names(model, images):
    found = _unused(model, images)
    return [p for name, p in model.named_parameters() if name in found]


# ---------------------------------------------------------------- does the order of the patches matter?


def _mean_colour(images):
    """Every patch of 4 x 4 in its mean over pixels and channels."""
    grey = F.avg_pool2d(images.mean(dim=1, keepdim=True), 4)
    return F.interpolate(grey, scale_factor=4).expand_as(images)


def _largest(x):
    return (x * 64).round().amax(dim=1) / 64  # the same to the last digit in any order


def _embedding_only(model, x):
    return x


def _faint(x, positions):
    return x + positions / 40


def _moved(images, patch_size, order=lambda patches: patches.flip(1)):
    patches = order(vit.patchify(images, patch_size))  # (B, N, P*P*C)
    return vit.unpatchify(patches, patch_size, images.shape[-2:])


def _order_matters(model, images, patch_size):
    return not torch.allclose(model(images), model(_moved(images, patch_size)), atol=1e-5)


_wide = {"images": drawn(2, 3, 8, 12), "img_size": (8, 12)}
_large = {"images": drawn(2, 3, 16, 16), "img_size": 16, "patch_size": 8}

order_matters = Exercise(
    _order_matters,
    _on("a sound ViT", 4),
    _on("a ViT without positions", 4, place=_add_nothing),
    _on("a ViT with one position for all patches", 4, positions=1),
    _on("a sound ViT and a single image", 4, images=_images[:1]),
    _on("a sound ViT and images that are not square", 4, **_wide),
    _on("a ViT without positions and images that are not square", 4, place=_add_nothing, **_wide),
    _on("a ViT without positions, with patches of 8", 8, place=_add_nothing, **_large),
    _on("a sound ViT whose positions change the logits by less than 0.001", 4, place=_faint),
    _on("a sound ViT that sees only the mean colour of each patch", 4, see=_mean_colour),
    _on(
        "a ViT without positions that sees only the mean colour of each patch",
        4,
        see=_mean_colour,
        place=_add_nothing,
    ),
    _on(
        "a bag of patches: no positions, no blocks, the largest value of all patches",
        4,
        place=_add_nothing,
        mix=_embedding_only,
        gather=_largest,
    ),
    _on(
        "a ViT without positions whose last digits differ from run to run",
        4,
        place=_add_nothing,
        say=_shaky,
    ),
    _on("the same with logits near 0", 4, place=_add_nothing, say=_small_and_shaky),
    _on("a sound ViT and images of one colour: moving changes nothing", 4, images=_images * 0),
    name="order_matters",
    hints=(
        "Which change of an image moves whole patches and leaves each of them as it is?",
        "Cut into patches, put the patches in another order, put the image together again. Then compare the logits of each "
        "image with those of its own moved version.",
        "`patches = patchify(...)`, another order along axis 1, `moved = unpatchify(..., images.shape[-2:])`, "
        "`return not torch.allclose(..., ..., atol=...)`.",
    ),
)


@order_matters.alternative
def roll_by_a_patch(model, images, patch_size):
    rolled = images.roll(patch_size, dims=-1)
    return bool((model(rolled) - model(images)).abs().max() > 1e-5)


@order_matters.alternative
def random_order(model, images, patch_size):
    patches = vit.patchify(images, patch_size)
    order = torch.randperm(patches.shape[1], generator=torch.Generator().manual_seed(1))
    mixed = vit.unpatchify(patches[:, order], patch_size, tuple(images.shape[2:]))
    return not bool(torch.isclose(model(images), model(mixed), atol=1e-5).all())


@order_matters.alternative
def exchange_two_corners(model, images, patch_size):
    P, other = patch_size, images.clone()
    other[..., :P, :P], other[..., -P:, -P:] = images[..., -P:, -P:], images[..., :P, :P]
    return (model(images) - model(other)).norm().item() > 1e-5


@order_matters.alternative
def rows_of_patches_reversed(model, images, patch_size):
    strips = rearrange(images, "b c (r p) w -> b c r p w", p=patch_size).flip(2)
    return not torch.allclose(
        model(images), model(rearrange(strips, "b c r p w -> b c (r p) w")), rtol=0, atol=1e-5
    )


@order_matters.mistake(
    "The answer is True for every model, also for one without positions. The images that you compare do not consist of the "
    "same patches. Move the patches, and change nothing else.",
    "Put two images on the board, original and moved, and ask: could you cut one with scissors and lay the other?",
)
def other_images(model, images, patch_size):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    return not torch.allclose(model(images), model(noise), atol=1e-5)


@order_matters.mistake(
    "Mirroring the image also mirrors the *inside* of each patch: any model notices that. Move whole patches.",
    "Mirror a photo with text: do the letters only change places?",
)
def image_mirrored(model, images, patch_size):
    return not torch.allclose(model(images), model(images.flip(-1)), atol=1e-5)


@order_matters.mistake(
    "The numbers *inside* each patch are put in another order; the patches stay where they are. Which axis of (B, N, P*P*C) "
    "counts the patches?",
    "Ask: what are the three axes of what `patchify` returns?",
)
def inside_the_patches(model, images, patch_size):
    moved = _moved(images, patch_size, lambda patches: patches.flip(2))
    return not torch.allclose(model(images), model(moved), atol=1e-5)


@order_matters.mistake(
    "The *images* of the batch change places, not the patches of an image: axis 0 instead of axis 1. With a single image, "
    "nothing moves.",
    "Ask: what does `x.flip(0)` do to a batch of one?",
)
def images_exchanged(model, images, patch_size):
    moved = _moved(images, patch_size, lambda patches: patches.flip(0))
    return not torch.allclose(model(images), model(moved), atol=1e-5)


@order_matters.mistake(
    "The answer is False for every model, also for a sound one. Do the patches really end up in other places, and is the "
    "moved image the one that the model gets?",
    "Ask: `patches.flip(1)` returns a new tensor; who keeps it?",
)
def nothing_moved(model, images, patch_size):
    moved = _moved(images, patch_size, lambda patches: patches)
    return not torch.allclose(model(images), model(moved), atol=1e-5)


@order_matters.mistake(
    "The answer is the wrong way round: True should mean that the logits change when the patches are moved.",
    "Read the name of the function aloud as a question, then its answer for a model without positions.",
)
def order_inverted(model, images, patch_size):
    return not _order_matters(model, images, patch_size)


@order_matters.mistake(
    "The patch size is fixed at 4. A model with patches of 8 sees its patches torn apart and notices it, with or without "
    "positions.",
    "Ask: which argument is never used, and what happens to a patch of 8 when pieces of 4 are moved?",
)
def patches_of_four(model, images, patch_size):
    return _order_matters(model, images, 4)


@order_matters.mistake(
    "The image is put together as a square. Height and width can differ: both are in `images.shape`.",
    "Ask: what is `images.shape[-2:]` for an image of 8 x 12?",
)
def taken_for_square(model, images, patch_size):
    moved = vit.patchify(images, patch_size).flip(1)
    moved = vit.unpatchify(moved, patch_size, (images.shape[-1], images.shape[-1]))
    return not torch.allclose(model(images), model(moved), atol=1e-5)


@order_matters.mistake(
    "What is *inside* the patches changes as well: pixels are shuffled, moved by less than a patch, or put together by a "
    "reshape. Any model notices that. Move whole patches.",
    "Draw a grid of patches over a picture and shift the picture by one pixel: which patch stays whole?",
)
def pixels_moved(model, images, patch_size):
    return not torch.allclose(model(images), model(images.roll(1, dims=-1)), atol=1e-5)


@order_matters.mistake(
    "Exact equality is asked for. A sum over tokens in another order differs in the last digits, so even a model without "
    "positions seems to notice.",
    "Type `(0.1 + 0.2) + 0.3 == 0.1 + (0.2 + 0.3)`.",
)
def exact_comparison(model, images, patch_size):
    return not torch.equal(model(images), model(_moved(images, patch_size)))


@order_matters.mistake(
    "There is too little room for rounding: by itself, allclose allows next to nothing where numbers are near 0. `atol` says "
    "how much.",
    "Type `torch.allclose(torch.tensor(1e-6), torch.tensor(0.0))`.",
)
def default_tolerance(model, images, patch_size):
    return not torch.allclose(model(images), model(_moved(images, patch_size)))


@order_matters.mistake(
    "Too much is allowed: positions start small, and a sound model may change its logits by less than 0.001. The text says how "
    "much rounding to expect.",
    "Ask: positions start with a standard deviation of 0.02; how large can their effect on the first logits be?",
)
def order_too_tolerant(model, images, patch_size):
    return not torch.allclose(model(images), model(_moved(images, patch_size)), atol=0.01)


# ---------------------------------------------------------------- a metric under test


def _scaled(scale, shift):
    return lambda logits, labels: scale * accuracy(logits, labels) + shift


def _counting(logits, labels):
    return (logits.argmax(-1) == labels).float().sum().item()


def _smoothed(logits, labels):
    return (_counting(logits, labels) + 0.01) / (len(labels) + 0.01)


def _strict(logits, labels):
    if logits.ndim != 2 or labels.ndim != 1:
        raise ValueError(f"expected logits (B, K) and labels (B,), got {logits.shape}, {labels.shape}")
    return accuracy(logits, labels)


def _metric(name, metric):
    return Case(name, lambda candidate: candidate(metric))


_labels = torch.arange(4)
_right = F.one_hot(_labels, 4).float()
_wrong = _right.roll(1, dims=1)


def _accuracy_is_a_share(metric):
    return metric(_right, _labels) == 1.0 and metric(_wrong, _labels) == 0.0


accuracy_is_a_share = Exercise(
    _accuracy_is_a_share,
    _metric("a sound accuracy", accuracy),
    _metric("a sound accuracy that refuses other shapes than (B, K) and (B,)", _strict),
    _metric("one that counts and does not divide", _counting),
    _metric("one in percent", _scaled(100, 0)),
    _metric("one that is always 0", _scaled(0, 0.0)),
    _metric("one that is always 1", _scaled(0, 1.0)),
    _metric("one that gives a quarter for nothing", _scaled(0.75, 0.25)),
    _metric("the share of *wrong* answers", _scaled(-1, 1)),
    _metric("one from -1 to 1", _scaled(2, -1)),
    _metric("one that never gets beyond 0.999", _scaled(0.999, 0)),
    _metric("one that adds 0.01 above and below the fraction bar", _smoothed),
    name="accuracy_is_a_share",
    hints=(
        "For which predictions do you know the accuracy without computing it?",
        "Make logits by hand for a few labels: one set where the largest logit is always at the label, one where it never is. "
        "Ask the metric about both.",
        "`labels = torch.tensor([...])`, `perfect = F.one_hot(...).float()`, `wrong = ...`, "
        "`return metric(perfect, labels) == ... and metric(...) == ...`.",
    ),
)


@accuracy_is_a_share.alternative
def with_eye(metric):
    perfect, worst = torch.eye(3), torch.eye(3).roll(1, 0)
    return metric(perfect, torch.arange(3)) == 1 and not metric(worst, torch.arange(3))


@accuracy_is_a_share.alternative
def with_negated_logits(metric):
    labels = torch.tensor([2, 0, 1, 1, 2, 0, 2])
    logits = torch.full((7, 3), -5.0)
    logits[range(7), labels] = 5.0
    return [metric(logits, labels), metric(-logits, labels)] == [1.0, 0.0]


@accuracy_is_a_share.alternative
def with_other_labels(metric):
    logits = torch.randn(20, 10)
    labels = logits.argmax(dim=1)
    if metric(logits, labels) != 1:
        return False
    return abs(metric(logits, (labels + 3) % 10)) < 1e-7


@accuracy_is_a_share.mistake(
    "With a single image, a count and a share are the same number. Ask about several images.",
    "Ask: one image, one hit; what does a metric say that forgets to divide?",
)
def one_image(metric):
    one = torch.tensor([[1.0, 0.0]])
    return metric(one, torch.tensor([0])) == 1.0 and metric(one, torch.tensor([1])) == 0.0


@accuracy_is_a_share.mistake(
    "A metric that is always 0 passes this. Perfect predictions should score *exactly* 1, and entirely wrong ones exactly 0: "
    "ask for both.",
    "Ask for the laziest metric that passes `metric(...) <= 1`.",
)
def only_upper_bound(metric):
    return metric(_right, _labels) <= 1.0


@accuracy_is_a_share.mistake(
    "A metric that is always 1 passes this. Entirely wrong predictions should score exactly 0: ask for that too.",
    "Ask for the laziest metric that passes `metric(perfect) == 1`.",
)
def only_perfect(metric):
    return metric(_right, _labels) == 1.0


@accuracy_is_a_share.mistake(
    "A metric that is always 0 passes this, and so does a count. Perfect predictions should score exactly 1: ask for that too.",
    "Ask for the laziest metric that passes `metric(wrong) == 0`.",
)
def only_wrong(metric):
    return metric(_wrong, _labels) == 0.0


@accuracy_is_a_share.mistake(
    "One of the two is enough here. *Both* must hold: what stands between the two comparisons?",
    "Ask: a metric that is always 0, does it meet one condition or both?",
)
def one_of_the_two(metric):
    return metric(_right, _labels) == 1.0 or metric(_wrong, _labels) == 0.0


@accuracy_is_a_share.mistake(
    "This asks only whether perfect predictions score *more* than wrong ones. A count does that as well, and a percentage.",
    "Give 4 and 0, 100 and 0, 1 and -1: all are in the right order, but is any of them a share?",
)
def only_the_order(metric):
    return metric(_right, _labels) > metric(_wrong, _labels)


@accuracy_is_a_share.mistake(
    "This asks whether the scores lie between 0 and 1. Always 0 does so, too. For these two predictions the score is known "
    "exactly.",
    "Ask: which constants pass this test?",
)
def only_the_bounds(metric):
    return all(0 <= metric(logits, _labels) <= 1 for logits in (_right, _wrong))


@accuracy_is_a_share.mistake(
    "Nearly 1 and nearly 0 pass. The text says *exactly*: a count of hits, divided by the number of images, has no rounding at "
    "these two ends.",
    "Type `4 / 4 == 1` and `0 / 4 == 0`: no tolerance is needed.",
)
def nearly(metric):
    return abs(metric(_right, _labels) - 1) < 0.05 and abs(metric(_wrong, _labels)) < 0.05


@accuracy_is_a_share.mistake(
    "Any number but 0 counts as true for Python, so 4 and 100 pass as well as 1. Compare with 1.",
    "Type `bool(100)`.",
)
def truth_of_a_number(metric):
    return bool(metric(_right, _labels)) and not metric(_wrong, _labels)


@accuracy_is_a_share.mistake(
    "The answer is False for every metric, also for a sound one. Are the wrong predictions wrong for *every* image, and the "
    "perfect ones right for every image? Logits that are all equal point at class 0.",
    "Ask: what is `torch.zeros(4, 4).argmax(-1)`, and for which label is that right?",
)
def not_entirely_wrong(metric):
    return metric(_right, _labels) == 1.0 and metric(torch.zeros(4, 4), _labels) == 0.0


@accuracy_is_a_share.mistake(
    "The metric's two arguments are exchanged: logits (B, K) come first, then labels (B,).",
    "Ask: what does `argmax(dim=-1)` make of four labels, and of logits of shape (4, 4)?",
)
def arguments_exchanged(metric):
    return metric(_labels, _right) == 1.0 and metric(_labels, _wrong) == 0.0


@accuracy_is_a_share.mistake(
    "Perfect and wrong are exchanged: the share of *wrong* answers passes, and a sound accuracy does not.",
    "Print `logits.argmax(-1)` beside the labels for both sets of logits.",
)
def perfect_and_wrong_exchanged(metric):
    return metric(_right, _labels) == 0.0 and metric(_wrong, _labels) == 1.0


@accuracy_is_a_share.mistake(
    "The answer is the wrong way round: True should mean that the metric is a share.",
    "Read the name of the function aloud as a question, then its answer for a sound accuracy.",
)
def share_inverted(metric):
    return not _accuracy_is_a_share(metric)


# ---------------------------------------------------------------- the repaired model


class _Repaired(vit.ViT):
    """The suspect model of lesson 05, sound; same arguments as there."""

    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__(img_size, patch_size, 3, num_classes, dim, depth, heads, global_pool="avg")


def _lively(candidate, **sizes):
    """The model with all parameters moved a little, so that nothing stays at zero."""
    model = build(candidate, **sizes)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def _on_repaired(name, look, hint="", **sizes):
    return Case(name, lambda candidate: look(_lively(candidate, **sizes)), hint)


def _count(candidate, **sizes):
    return sum(p.numel() for p in build(candidate, **sizes).parameters())


_pictures = drawn(3, 3, 32, 32)


def _all_reached(model):
    if names := _unused(model, _pictures.clone()):
        raise Unfair(f"these get none: {', '.join(names)}. Which line of forward reads them?")
    return True


def _has_positions(candidate):
    """Exchanging two neighbouring patches changes the logits; asked with one image at a time."""
    sizes = {"patch_size": 4, "dim": 8, "depth": 1}
    model = _lively(candidate, img_size=16, **sizes)
    image = drawn(1, 3, 16, 16)
    logits = model(image.clone())
    for i in (0, 3, 7, 11, 14):
        patches = vit.patchify(image, 4)  # (1, 16, 48)
        patches[:, [i, i + 1]] = patches[:, [i + 1, i]]
        moved = vit.unpatchify(patches, 4, (16, 16))
        if torch.allclose(model(moved), logits, atol=1e-5):
            # What grows with the number of patches tells several faults apart
            more = _count(candidate, img_size=16, **sizes) - _count(candidate, img_size=8, **sizes)
            raise Unfair(
                f"patches {i} and {i + 1} can be exchanged, and the logits stay the same. "
                f"Numbers that your model learns for the place of each patch: {more / 12:g} (dim is 8)."
            )
    return True


def _gradients(model, images):
    """Of two numbers made from each image's logits: (2, B, N, P*P*C), for patches of 4."""
    images = images.double().requires_grad_()
    logits = model(images)
    both = logits[:, ::2].sum(), logits[:, 1::2].sum()
    grads = [torch.autograd.grad(one, images, retain_graph=True)[0] for one in both]
    return torch.stack([vit.patchify(g, 4) for g in grads])


def _patch_by_patch(model):
    """A patch of 48 numbers reaches the logits only through the `dim` = 4 numbers of its token.

    So its gradients, whatever the images, lie in a space of 4 dimensions.
    """
    grads = _gradients(model.double(), drawn(6, 3, 8, 8)).flatten(0, 1)  # (12, N, 48)
    return max(torch.linalg.matrix_rank(grads.transpose(0, 1), rtol=1e-6).tolist()) <= 4


def _averages(model):
    """Without attention, the logits are a mean: every patch has its own share, and the shares add up."""
    with torch.no_grad():
        for p in model.double().parameters():
            if p.numel() == 12 * 12:  # attention's last projection, whatever its name
                p.zero_()
    shares = _gradients(model, _images).abs().sum(dim=(0, 1, 3))
    if not shares.all():
        silent = (shares == 0).nonzero().flatten().tolist()
        raise Unfair(f"with attention switched off, the logits do not depend on patches {silent}")
    if not _adds_up(model, 1.0):
        small = " Not even for small changes." if not _adds_up(model, 1e-3) else ""
        raise Unfair(
            "with attention switched off, a change of two patches does not give the sum of what the two changes give alone. "
            f"In a mean over tokens it does.{small}"
        )
    return True


def _adds_up(model, size):
    """Do a change of the left half of an image and one of the right half add up in the logits?"""
    image, change = _images[:1].double(), drawn(1, 3, 8, 8, seed=1).double() * size
    left, right = change.clone(), change.clone()
    left[..., 4:], right[..., :4] = 0, 0
    with torch.no_grad():
        a, b, c, d = (model(image + x) for x in (change, left, right, change * 0))
    return torch.allclose(a + d, b + c, rtol=0, atol=1e-11)


def _grows_with_depth(candidate):
    """Each block adds as many parameters as the one before."""
    counts = [_count(candidate, dim=12, heads=4, depth=depth) for depth in (1, 2, 3)]
    return counts[1] - counts[0] == counts[2] - counts[1] > 0


RepairedViT = Exercise(
    _Repaired,
    _on_repaired(
        "logits of shape (B, num_classes)",
        lambda m: list(m(_pictures.clone()).shape),
        num_classes=7,
    ),
    _on_repaired(
        "images do not influence each other",
        lambda m: _batch_independent(m, _pictures.clone()),
        "Which axis does nn.TransformerEncoderLayer take for the sequence?",
    ),
    _on_repaired("every parameter gets a gradient", _all_reached),
    Case("the order of the patches matters", _has_positions),
    _on_repaired(
        "other sizes: 9 patches of 4, 5 classes",
        lambda m: list(m(drawn(2, 3, 12, 12)).shape),
        "Take all sizes from the arguments.",
        img_size=12,
        patch_size=4,
        num_classes=5,
        depth=1,
    ),
    _on_repaired(
        "each token sees the pixels of one patch",
        _patch_by_patch,
        "The suspect's patchify was sound: keep it. A reshape of the image cuts it into runs of numbers, not into patches.",
        img_size=8,
        patch_size=4,
        dim=4,
        depth=1,
    ),
    _on_repaired(
        "the head reads the mean over all tokens",
        _averages,
        "The suspect's pooling was sound: keep it. After the encoder and its norm, the mean over the tokens, then the head.",
        img_size=8,
        patch_size=4,
        dim=12,
        depth=1,
    ),
    Case(
        "each block adds the same number of parameters",
        _grows_with_depth,
        "depth is the number of blocks; heads add no parameters.",
    ),
    name="RepairedViT",
    hints=(
        "Three of the four properties speak about the model. Which line of SuspectViT does each of them point at?",
        "One layer must be told that the batch comes first. There must be as many position vectors as patches, and forward "
        "must add them before the encoder.",
        "`nn.Parameter(torch.randn(1, ..., dim) * 0.02)`, `nn.TransformerEncoderLayer(..., norm_first=True, ...=True)`, "
        "`self.encoder(x + ...)`.",
    ),
)


class _Suspect(nn.Module):
    """The suspect with switches for its faults, to know each half-repaired version."""

    batch_first = True

    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__()
        self.patch_size = patch_size
        self.embed = nn.Linear(3 * patch_size**2, dim)
        shape = self.position_shape((img_size // patch_size) ** 2, dim)
        self.pos_embed = nn.Parameter(torch.randn(shape) * 0.02)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, 0.0, "gelu", norm_first=True, batch_first=self.batch_first
        )
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.head = nn.Linear(dim, num_classes)

    def position_shape(self, patches, dim):
        return 1, patches, dim

    def cut(self, images):
        return vit.patchify(images, self.patch_size)

    def encoded(self, x):
        return self.encoder(x + self.pos_embed)

    def pooled(self, x):
        return x.mean(dim=1)

    def forward(self, images):
        return self.head(self.pooled(self.encoded(self.embed(self.cut(images)))))


@RepairedViT.alternative
class SuspectRepaired(_Suspect):
    pass


@RepairedViT.alternative
class TransposedThereAndBack(_Suspect):
    batch_first = False

    def position_shape(self, patches, dim):
        return patches, 1, dim

    def encoded(self, x):
        return self.encoder(x.transpose(0, 1) + self.pos_embed).transpose(0, 1)


@RepairedViT.alternative
class WithConvAndOwnBlocks(nn.Module):
    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, patch_size, patch_size)
        self.positions = nn.Embedding((img_size // patch_size) ** 2, dim)
        self.blocks = nn.ModuleList(vit.Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images):
        x = rearrange(self.embed(images), "b d r c -> b (r c) d") + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.head(reduce(self.norm(x), "b t d -> b d", "mean"))


@RepairedViT.alternative
class WithFixedPositions(_Suspect):
    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__(img_size, patch_size, num_classes, dim, depth, heads)
        side = img_size // patch_size
        del self.pos_embed
        self.register_buffer("pos_embed", vit.sincos_positions(side, side, dim))


@RepairedViT.mistake(
    "Nothing is repaired yet: attention still runs across the batch, and the positions are not added.",
    "Ask for each of the three failing checks: which line of the class does it speak about?",
)
class StillSuspect(_Suspect):
    batch_first = False

    def position_shape(self, patches, dim):
        return 1, 1, dim

    def encoded(self, x):
        return self.encoder(x)


@RepairedViT.mistake(
    "The positions are added now, but it is one vector for all tokens, (1, 1, D): broadcasting hides it. And attention "
    "still runs across the batch.",
    "Ask: which two of the checks still fail, and do they fail for one reason or for two?",
)
class TwoLeft(_Suspect):
    batch_first = False

    def position_shape(self, patches, dim):
        return 1, 1, dim


@RepairedViT.mistake(
    "Positions are added, but there is one vector for all tokens, (1, 1, D): adding the same to every token tells none "
    "of them where it is.",
    "Add 5 to each of three numbers: which of them can tell afterwards that it was the second?",
)
class OnePositionLeft(_Suspect):
    def position_shape(self, patches, dim):
        return 1, 1, dim


@RepairedViT.mistake(
    "There is one *number* for each patch, (1, N, 1), added to all D numbers of its token alike. A layer norm subtracts the "
    "mean of a token, and with it this number. A place needs a vector.",
    "Compute the layer norm of (1, 2, 3) and of (11, 12, 13).",
)
class OneNumberForEachPatch(_Suspect):
    def position_shape(self, patches, dim):
        return 1, patches, 1


@RepairedViT.mistake(
    "The positions are added after the encoder. Attention has not seen them, and the mean turns them into one constant. At "
    "which step do tokens need to know where they are?",
    "Ask: what is the mean of all positions, and does it change when the patches are exchanged?",
)
class PositionsAfterTheEncoder(_Suspect):
    def encoded(self, x):
        return self.encoder(x) + self.pos_embed


@RepairedViT.mistake(
    "The positions are right. Attention still runs across the batch: the encoder layer reads its first axis as the "
    "sequence unless it is told otherwise.",
    "Print `help(nn.TransformerEncoderLayer)` down to batch_first and read its default.",
)
class StillAcrossBatch(_Suspect):
    batch_first = False


@RepairedViT.mistake(
    "Attention is right now. `pos_embed` is still never added to the tokens.",
    "Ask: who reads `self.pos_embed`? Search for it in forward.",
)
class StillNotAdded(_Suspect):
    def encoded(self, x):
        return self.encoder(x)


@RepairedViT.mistake(
    "The axes are exchanged before the encoder and not after it: the mean then runs over the images, and each *patch* gets "
    "logits.",
    "Write the shape behind each line of forward; which axis is axis 1 at the mean?",
)
class NotTransposedBack(_Suspect):
    batch_first = False

    def encoded(self, x):
        return self.encoder((x + self.pos_embed).transpose(0, 1))


@RepairedViT.mistake(
    "The head reads token 0. There is no class token here: that is the patch in the upper left corner. The suspect's mean "
    "pooling was sound; keep it.",
    "Ask: of which part of the image does token 0 come, and who guarantees that the others are heard?",
)
class ReadsTokenZero(_Suspect):
    def pooled(self, x):
        return x[:, 0]


@RepairedViT.mistake(
    "The largest value over the tokens is read instead of their mean. The suspect's mean pooling was sound; keep it.",
    "Ask: in a maximum, how many tokens does each of the D numbers come from?",
)
class MaximumForMean(_Suspect):
    def pooled(self, x):
        return x.amax(dim=1)


@RepairedViT.mistake(
    "The norm comes after the mean. In the suspect it is the encoder's last step: every token is normed, then comes the mean. "
    "Some published models do it your way, but here it is no fault to repair.",
    "Ask: which token decides the mean of (1, -1) and (100, -100), with and without a norm before?",
)
class NormAfterTheMean(_Suspect):
    def encoded(self, x):
        x = x + self.pos_embed
        for layer in self.encoder.layers:
            x = layer(x)
        return x

    def pooled(self, x):
        return self.encoder.norm(x.mean(dim=1))


@RepairedViT.mistake(
    "The image is cut by a reshape. A tensor lies in memory channel by channel, row by row, so such a piece is a run of rows "
    "of one colour, not a square patch. The suspect's patchify was sound.",
    "Number the pixels of a 4 x 4 image from 0 to 15, reshape them to four pieces of 4, and colour the first piece.",
)
class ReshapedNotCut(_Suspect):
    def cut(self, images):
        return images.reshape(len(images), -1, 3 * self.patch_size**2)


@RepairedViT.mistake(
    "There are always 16 positions. Their number follows from img_size and patch_size.",
    "Ask: how many patches of 4 has an image of 12 x 12?",
)
class SixteenPositions(_Suspect):
    def position_shape(self, patches, dim):
        return 1, 16, dim


EXERCISES = [
    pool,
    ViT,
    count_parameters,
    batch_independent,
    parameters_without_gradient,
    order_matters,
    accuracy_is_a_share,
    RepairedViT,
]
