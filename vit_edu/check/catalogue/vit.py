"""Lesson 05: pooling, the whole model, parameters in closed form, and properties that find bugs."""

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu.check.cases import (
    Case,
    CaseFailed,
    apply,
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
from vit_edu.check.engine import Exercise, variant
from vit_edu.check.language import N_, Sentence
from vit_edu.check.layouts import layouts
from vit_edu.check.probes import Sizes, grid
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
    sizes=Sizes(
        lambda images, tokens, width: Case(
            "",
            lambda candidate: [
                apply(candidate, drawn(images, tokens, width), how) for how in ("token", "avg")
            ],
        ),
        images=(5, 3, 2, 8),
        tokens=(7, 6, 17, 65, 16, 64),
        width=(12, 9, 64, 32, 8),
    ),
)

pool.add_mistakes(
    first_image=lambda tokens, global_pool: tokens[0] if global_pool == "token" else tokens.mean(dim=1),
    mean_over_images=lambda tokens, global_pool: (
        tokens[:, 0] if global_pool == "token" else tokens.mean(dim=0)
    ),
    images_for_tokens=lambda tokens, global_pool: tokens[0] if global_pool == "token" else tokens.mean(dim=0),
    first_number=lambda tokens, global_pool: (
        tokens[:, :, 0] if global_pool == "token" else tokens.mean(dim=1)
    ),
    median_of_tokens=lambda tokens, global_pool: (
        tokens[:, 0] if global_pool == "token" else tokens.median(dim=1).values
    ),
    one_number=lambda tokens, global_pool: tokens[:, 0] if global_pool == "token" else tokens.mean(),
    one_number_an_image=lambda tokens, global_pool: (
        tokens[:, 0] if global_pool == "token" else tokens.mean(dim=(1, 2))
    ),
    second_token=lambda tokens, global_pool: tokens[:, 1] if global_pool == "token" else tokens.mean(dim=1),
    token_axis_left=lambda tokens, global_pool: (
        tokens[:, :1] if global_pool == "token" else tokens.mean(dim=1)
    ),
    mean_axis_left=lambda tokens, global_pool: (
        tokens[:, 0] if global_pool == "token" else tokens.mean(dim=1, keepdim=True)
    ),
    divided_by_the_width=lambda tokens, global_pool: (
        tokens[:, 0] if global_pool == "token" else tokens.sum(dim=1) / tokens.shape[2]
    ),
    nothing_for_token=lambda tokens, global_pool: None if global_pool == "token" else tokens.mean(dim=1),
    nothing_for_avg=lambda tokens, global_pool: tokens[:, 0] if global_pool == "token" else None,
    last_token=lambda tokens, global_pool: tokens[:, -1] if global_pool == "token" else tokens.mean(dim=1),
    over_width=lambda tokens, global_pool: tokens[:, 0] if global_pool == "token" else tokens.mean(dim=-1),
    axis_kept=lambda tokens, global_pool: (
        tokens[:, :1] if global_pool == "token" else tokens.mean(dim=1, keepdim=True)
    ),
    modes_exchanged=lambda tokens, global_pool: (
        tokens.mean(dim=1) if global_pool == "token" else tokens[:, 0]
    ),
    always_the_token=lambda tokens, global_pool: tokens[:, 0],
    always_the_mean=lambda tokens, global_pool: tokens.mean(dim=1),
    sum_of_tokens=lambda tokens, global_pool: tokens[:, 0] if global_pool == "token" else tokens.sum(dim=1),
    maximum_of_tokens=lambda tokens, global_pool: (
        tokens[:, 0] if global_pool == "token" else tokens.amax(dim=1)
    ),
    mean_without_token_zero=lambda tokens, global_pool: (
        tokens[:, 0] if global_pool == "token" else tokens[:, 1:].mean(dim=1)
    ),
)


# ---------------------------------------------------------------- the model


def _square(patches):
    """The side of a square grid. ValueError if no square has as many places."""
    rows, columns = grid(patches)
    if rows != columns:
        raise ValueError(f"{patches} patches are not a square")
    return rows


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
    """All weights times 0.01, so that eps is no longer small beside the variance; without the head's bias."""
    model = filled(candidate, **_tiny, global_pool="avg").eval().double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.01)
        out = model(_images.double())
    return (out - out.mean(0)) * 1e4


def _in_training(candidate):
    """What becomes of the logits in training mode, in words."""
    model = filled(candidate, **_tiny)
    images = _images.repeat(20, 1, 1, 1)  # so many that something that seldom happens shows
    with torch.no_grad():
        calm = model.eval()(images.clone())
        first, second = (model.train()(images.clone()) for _ in range(2))
    if not torch.allclose(first, second, atol=1e-5):
        return "other logits at each call"
    same = torch.allclose(first, calm, atol=1e-5)
    return "the same logits as in evaluation" if same else "other logits than in evaluation"


def _class_token_with_mean_pooling(candidate):
    """True if the model has no class token with mean pooling. CaseFailed says what becomes of one that is there."""
    model = build(candidate, **_tiny, global_pool="avg").eval()
    with_token = fill(candidate.reference(**_tiny)).eval()
    layout = next(layouts(with_token, model, _views), None)
    if layout is None:
        return True
    layout.fill(model, with_token)
    with torch.no_grad():
        x = with_token.norm(with_token.blocks(vit.Embeddings.forward(with_token, _images)))
        logits, found = with_token.head(x), model(_images.clone())  # (B, 1 + N, K), (B, K)
    ways = {
        N_("there is a class token, and it alone is read"): logits[:, 0],
        N_("there is a class token, and it is averaged along with the patches"): logits.mean(dim=1),
        N_("there is a class token, and the mean leaves it out"): logits[:, 1:].mean(dim=1),
    }
    for words, expected in ways.items():
        if found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
            raise CaseFailed(words)
    raise CaseFailed("there is a class token")


def _weights_of_the_blocks(candidate):
    """Whether each block has weights of its own, in words."""
    few, many = (build(candidate, **{**_tiny, "depth": depth}) for depth in (1, 3))
    names, numbers = (
        [len(list(model.named_parameters(remove_duplicate=once))) for model in (few, many)]
        for once in (False, True)
    )
    if numbers[0] < numbers[1]:
        return "each block has its own"
    return "one block serves as all of them" if names[0] < names[1] else "more blocks add no weights"


def _conv_as_linear(weight):
    """(D, C, P, P) -> (D, P*P*C): the weight for patches from `patchify`."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else None


def _conv_as_linear_channels_first(weight):
    """(D, C, P, P) -> (D, C*P*P): the weight for patches whose channels come first."""
    return weight.flatten(1) if weight.ndim == 4 else None


_views = (_conv_as_linear, _conv_as_linear_channels_first)


def _vit_case(images, channels, patches, patch, classes, width, depth, heads):
    side = _square(patches) * patch
    return forward(
        "",
        inputs=(drawn(images, channels, side, side),),
        img_size=side,
        patch_size=patch,
        in_chans=channels,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
    )


ViT = Exercise(
    vit.ViT,
    parameters(
        "names and shapes of the parameters, with class token",
        **_tiny,
        hint="patch_embed, cls_token and pos_embed come from Embeddings; add blocks, norm and head.",
    ),
    parameters(
        "names and shapes of the parameters, with mean pooling and 3 blocks",
        **_tiny | {"depth": 3, "num_heads": 2},
        global_pool="avg",
        hint="With mean pooling there is no class token: class_token=False for Embeddings.",
    ),
    forward("3 images, class token", inputs=(_images,), **_tiny),
    forward("3 images, mean pooling", inputs=(_images,), global_pool="avg", **_tiny),
    forward(
        "other sizes: one image, 1 channel, 9 patches of 2, 3 blocks, 2 heads, 1 class",
        inputs=(drawn(1, 1, 6, 6),),
        img_size=6,
        patch_size=2,
        in_chans=1,
        num_classes=1,
        embed_dim=6,
        depth=3,
        num_heads=2,
    ),
    Case("an image gets the same logits alone and in a batch", _one_by_one, kind="weights"),
    Case(
        "tokens with very small numbers: the eps of the last norm shows",
        _with_small_tokens,
        "The text gives the eps of the norm; torch's own default is different.",
        1e-4,
        kind="weights",
    ),
    Case(
        "the logits in training mode",
        _in_training,
        "Nothing in this model is random, so it computes the same in training as in evaluation.",
        kind="weights",
    ),
    Case("the weights of the blocks", _weights_of_the_blocks, "`depth` is the number of blocks."),
    Case(
        "no class token with mean pooling",
        _class_token_with_mean_pooling,
        "With mean pooling: class_token=False for Embeddings.",
        kind="parameters",
    ),
    forward("in float64", inputs=(_images,), double=True, tolerance=1e-8, **_tiny),
    gradients("everything can learn", inputs=(_images,), **_tiny),
    views=_views,
    sizes=Sizes(
        _vit_case,
        images=(5, 3, 2),
        channels=(6, 2, 3),
        patches=(9, 25, 16, 64, 4),
        patch=(3, 2, 4, 8),
        classes=(7, 11, 10, 5),
        width=(24, 48, 64, 32, 8),
        depth=(2, 3, 4),
        heads=(8, 2, 4, 3),
    ),
)


class BaseViT(vit.Embeddings):
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


ViT.add_mistakes(
    NormNeverApplied=variant(
        BaseViT, forward=lambda self, images: self.head(self.pooled(self.blocks(self.tokens(images))))
    ),
    NotPooled=variant(
        BaseViT, forward=lambda self, images: self.head(self.norm(self.blocks(self.tokens(images))))
    ),
    BlocksNeverApplied=variant(
        BaseViT, forward=lambda self, images: self.head(self.pooled(self.norm(self.tokens(images))))
    ),
    NormAfterPooling=variant(
        BaseViT,
        forward=lambda self, images: self.head(self.norm(self.pooled(self.blocks(self.tokens(images))))),
    ),
    NormBeforeBlocks=variant(
        BaseViT,
        forward=lambda self, images: self.head(self.pooled(self.blocks(self.norm(self.tokens(images))))),
    ),
    AlwaysReadsTokenZero=variant(BaseViT, pooled=lambda self, x: x[:, 0]),
    AlwaysTakesTheMean=variant(BaseViT, pooled=lambda self, x: x.mean(dim=1)),
    ClassTokenInBothModes=variant(BaseViT, class_token_always=True),
    ClassTokenReadInBothModes=variant(BaseViT, class_token_always=True, pooled=lambda self, x: x[:, 0]),
    ClassTokenOnlyLooksOn=variant(
        BaseViT,
        class_token_always=True,
        pooled=lambda self, x: x[:, 0] if self.global_pool == "token" else x[:, 1:].mean(dim=1),
    ),
    DepthAndHeadsExchanged=variant(
        BaseViT, make_blocks=lambda self, dim, depth, num_heads: vit.make_blocks(dim, num_heads, depth)
    ),
    SameBlockRepeated=variant(
        BaseViT,
        make_blocks=lambda self, dim, depth, num_heads: nn.Sequential(*[vit.Block(dim, num_heads)] * depth),
    ),
    TorchsOwnEps=variant(BaseViT, eps=1e-5),
    OneBlock=variant(
        BaseViT, make_blocks=lambda self, dim, depth, num_heads: vit.make_blocks(dim, 1, num_heads)
    ),
    ReturnsLogarithms=variant(
        BaseViT, forward=lambda self, images: BaseViT.forward(self, images).log_softmax(-1)
    ),
    ReturnsSigmoids=variant(BaseViT, forward=lambda self, images: BaseViT.forward(self, images).sigmoid()),
    ReturnsClasses=variant(BaseViT, forward=lambda self, images: BaseViT.forward(self, images).argmax(-1)),
    SoftmaxOverImages=variant(BaseViT, forward=lambda self, images: BaseViT.forward(self, images).softmax(0)),
    HeadNeverApplied=variant(
        BaseViT, forward=lambda self, images: self.pooled(self.norm(self.blocks(self.tokens(images))))
    ),
    ReadsTheLastToken=variant(
        BaseViT, pooled=lambda self, x: x[:, -1] if self.global_pool == "token" else x.mean(dim=1)
    ),
    ReadsTheFirstImage=variant(
        BaseViT, pooled=lambda self, x: x[0] if self.global_pool == "token" else x.mean(dim=1)
    ),
    NormBeforeAndAfterPooling=variant(
        BaseViT, pooled=lambda self, x: self.norm(vit.pool(x, self.global_pool))
    ),
)


@ViT.mistake
class ClassTokenInNeitherMode(BaseViT):
    def __init__(self, *sizes, global_pool="token", **named):
        super().__init__(*sizes, global_pool="avg", **named)
        self.global_pool = global_pool


@ViT.mistake
class ClassTokenInTheOtherMode(BaseViT):
    def __init__(self, *sizes, global_pool="token", **named):
        super().__init__(*sizes, global_pool="avg" if global_pool == "token" else "token", **named)
        self.global_pool = global_pool


@ViT.mistake
class HeadWithoutBias(BaseViT):
    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        self.head = nn.Linear(self.head.in_features, self.head.out_features, bias=False)


@ViT.mistake
class NoLastNorm(BaseViT):
    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        del self.norm

    def forward(self, images):
        return self.head(self.pooled(self.blocks(self.tokens(images))))


@ViT.mistake
class EachBlockReadsTheTokens(BaseViT):
    def forward(self, images):
        x = self.tokens(images)
        for block in self.blocks:
            last = block(x)
        return self.head(self.pooled(self.norm(last)))


@ViT.mistake
class PooledBeforeTheBlocks(BaseViT):
    def tokens(self, images):
        return self.pooled(super().tokens(images))[:, None]

    def forward(self, images):
        return self.head(self.norm(self.blocks(self.tokens(images)))[:, 0])


@ViT.mistake
class ReturnsProbabilities(BaseViT):
    def forward(self, images):
        return super().forward(images).softmax(-1)


@ViT.mistake
class BlocksInAList(BaseViT):
    def make_blocks(self, dim, depth, num_heads):
        return list(vit.make_blocks(dim, depth, num_heads))

    def forward(self, images):
        x = self.tokens(images)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pooled(self.norm(x)))


@ViT.mistake
class PositionsAddedTwice(BaseViT):
    def tokens(self, images):
        return super().tokens(images) + self.pos_embed


@ViT.mistake
class DropoutBeforeHead(BaseViT):
    def pooled(self, x):
        return F.dropout(super().pooled(x), 0.1, self.training)


# ---------------------------------------------------------------- parameters in closed form

count_parameters = Exercise(
    vit.count_parameters,
    call("a tiny model: 8 pixels, patch 4, 5 classes, D = 8, 2 blocks", 8, 4, 3, 5, 8, 2),
    call("ViT-B/16 at 224 pixels, 1,000 classes", 224, 16, 3, 1000, 768, 12),
    call("one channel, no block", 28, 7, 1, 10, 16, 0),
    call("another mlp_ratio, 2", 32, 4, 3, 10, 64, 4, 2),
    call(
        "mlp_ratio 2.5 still gives a whole number",
        8,
        4,
        3,
        5,
        8,
        2,
        2.5,
        hint="The hidden layer has int(embed_dim * mlp_ratio) numbers.",
    ),
    sizes=(
        Sizes(
            lambda image_size, patch, channels, classes, width, depth, ratio: call(
                "", image_size, patch, channels, classes, width, depth, ratio
            ),
            image_size=(48, 96, 32, 224, 8),
            patch=(2, 8, 4, 16),
            channels=(5, 2, 3),
            classes=(7, 11, 10, 1000, 5),
            width=(12, 20, 64, 192, 8),
            depth=(9, 5, 12, 4, 2),
            ratio=(6, 3, 4, 2),
        ),
        Sizes(
            lambda patches, patch: call("", _square(patches) * patch, patch, 5, 7, 12, 9),
            patches=(25, 36, 196, 64, 16, 4),
            patch=(6, 3, 16, 4),
        ),
    ),
)


def _short_by(what):
    """A count that misses `what(P, C, K, D, depth, N, hidden)` parameters."""

    def wrong(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
        N, hidden = (img_size // patch_size) ** 2, int(embed_dim * mlp_ratio)
        full = vit.count_parameters(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio)
        return full - what(patch_size, in_chans, num_classes, embed_dim, depth, N, hidden)

    return wrong


count_parameters.add_mistakes(
    no_positions=_short_by(lambda P, C, K, D, depth, N, hidden: (N + 1) * D),
    one_vector_missing=_short_by(lambda P, C, K, D, depth, N, hidden: D),
    two_vectors_missing=_short_by(lambda P, C, K, D, depth, N, hidden: 2 * D),
    head_without_bias=_short_by(lambda P, C, K, D, depth, N, hidden: K),
    biases_of_the_blocks_missing=_short_by(lambda P, C, K, D, depth, N, hidden: depth * (4 * D + hidden + D)),
    norms_of_the_blocks_missing=_short_by(lambda P, C, K, D, depth, N, hidden: depth * 4 * D),
    one_projection_for_qkv=_short_by(lambda P, C, K, D, depth, N, hidden: depth * (2 * D * D + 2 * D)),
    only_one_block=_short_by(
        lambda P, C, K, D, depth, N, hidden: (depth - 1) * (4 * D * D + 2 * D * hidden + 9 * D + hidden)
    ),
    patches_of_one_side=_short_by(lambda P, C, K, D, depth, N, hidden: (N - round(N**0.5)) * D),
    channels_forgotten=_short_by(lambda P, C, K, D, depth, N, hidden: P * P * (C - 1) * D),
    d_missing_in_each_block=_short_by(lambda P, C, K, D, depth, N, hidden: depth * D),
    two_d_missing_in_each_block=_short_by(lambda P, C, K, D, depth, N, hidden: depth * 2 * D),
    three_d_missing_in_each_block=_short_by(lambda P, C, K, D, depth, N, hidden: depth * 3 * D),
    projection_missing=_short_by(lambda P, C, K, D, depth, N, hidden: depth * (D + 1) * D),
    biases_of_the_mlp_missing=_short_by(lambda P, C, K, D, depth, N, hidden: depth * (hidden + D)),
    second_bias_too_wide=_short_by(lambda P, C, K, D, depth, N, hidden: depth * (D - hidden)),
    one_layer_of_the_mlp=_short_by(lambda P, C, K, D, depth, N, hidden: depth * (hidden + 1) * D),
    mlp_missing=_short_by(lambda P, C, K, D, depth, N, hidden: depth * (2 * D * hidden + hidden + D)),
    attention_missing=_short_by(lambda P, C, K, D, depth, N, hidden: depth * 4 * (D + 1) * D),
    no_bias_anywhere=_short_by(
        lambda P, C, K, D, depth, N, hidden: D + depth * (4 * D + hidden + D) + K,
    ),
    head_missing=_short_by(lambda P, C, K, D, depth, N, hidden: (D + 1) * K),
    projection_of_the_patches_missing=_short_by(lambda P, C, K, D, depth, N, hidden: (P * P * C + 1) * D),
    one_projection_for_each_patch=_short_by(
        lambda P, C, K, D, depth, N, hidden: -(N - 1) * (P * P * C + 1) * D
    ),
    side_for_area=_short_by(lambda P, C, K, D, depth, N, hidden: (P - 1) * P * C * D),
    one_number_for_each_position=_short_by(lambda P, C, K, D, depth, N, hidden: (N + 1) * (D - 1)),
    class_token_of_one_number=_short_by(lambda P, C, K, D, depth, N, hidden: D - 1),
    last_norm_in_every_block=_short_by(lambda P, C, K, D, depth, N, hidden: -(depth - 1) * 2 * D),
    only_the_attention_times_depth=_short_by(
        lambda P, C, K, D, depth, N, hidden: (depth - 1) * (2 * D * hidden + hidden + 5 * D)
    ),
    norms_of_one_block=_short_by(lambda P, C, K, D, depth, N, hidden: (depth - 1) * 4 * D),
    no_block_at_all=_short_by(
        lambda P, C, K, D, depth, N, hidden: depth * (4 * D * D + 2 * D * hidden + 9 * D + hidden)
    ),
    ratio_ignored=lambda img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4: (
        vit.count_parameters(img_size, patch_size, in_chans, num_classes, embed_dim, depth)
    ),
    tensors_not_numbers=lambda img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4: (
        8 + 12 * depth
    ),
    comes_as_float=lambda img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4: float(
        vit.count_parameters(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio)
    ),
)


# ---------------------------------------------------------------- multiply-adds in closed form

flops = Exercise(
    vit.flops,
    call("2 tokens of width 3, one block", 2, 3, 1),
    call("ViT-B/16 at 224 pixels: 197 tokens of width 768, 12 blocks", 197, 768, 12),
    call("more tokens than 6 D: 100 tokens of width 8, 2 blocks", 100, 8, 2),
    call("a single token", 1, 16, 3),
    call("no block", 65, 64, 0),
    sizes=Sizes(
        lambda tokens, width, depth: call("", tokens, width, depth),
        tokens=(20, 50, 17, 65, 197, 10),
        width=(12, 40, 64, 192, 768, 8),
        depth=(9, 5, 12, 4, 2),
    ),
)


def _costs(linear=12, squared=2, blocks=True):
    """A count of `linear` T D^2 and `squared` T^2 D for each block, or for one alone."""

    def wrong(tokens, embed_dim, depth):
        T, D = tokens, embed_dim
        return (depth if blocks else 1) * (linear * T * D**2 + squared * T**2 * D)

    return wrong


flops.add_mistakes(
    attention_left_out=_costs(squared=0),
    scores_or_sum_left_out=_costs(squared=1),
    one_block_counted=_costs(blocks=False),
    counted_twice=_costs(24, 4),
    mlp_left_out=_costs(linear=4),
    qkv_once=_costs(linear=10),
    output_projection_left_out=_costs(linear=11),
    mlp_of_one_layer=_costs(linear=8),
    parameters_instead=lambda tokens, embed_dim, depth: depth * (12 * embed_dim**2 + 13 * embed_dim),
    width_not_squared=lambda tokens, embed_dim, depth: (
        depth * (12 * tokens * embed_dim + 2 * tokens**2 * embed_dim)
    ),
    tokens_and_width_exchanged=lambda tokens, embed_dim, depth: vit.flops(embed_dim, tokens, depth),
    squared_by_heads=lambda tokens, embed_dim, depth: depth * (12 * tokens * embed_dim**2 + 2 * tokens**2),
    operations_as_float=lambda tokens, embed_dim, depth: float(vit.flops(tokens, embed_dim, depth)),
)


# ---------------------------------------------------------------- properties that find bugs


def _encode(model, x):
    return model.blocks(x)


def _across_the_batch(model, x):
    return model.blocks(x.transpose(0, 1)).transpose(0, 1)


def _add(x, positions):
    return x + 8 * positions  # strong, so that sound models may have much weaker ones


def _add_nothing(x, positions):
    return x


def _unchanged(x):
    return x


class _Model(vit.ViT):
    """A ViT with mean pooling whose steps can be replaced; the properties below are tried on it.

    alter_images: images -> images. add_positions: tokens, positions -> tokens. encode: model, tokens -> tokens.
    pool: tokens -> one vector for each image. alter_logits: logits -> logits.
    """

    def __init__(
        self,
        alter_images=_unchanged,
        add_positions=_add,
        encode=_encode,
        pool=lambda x: x.mean(dim=1),
        alter_logits=_unchanged,
        positions=None,
        **sizes,
    ):
        super().__init__(**{**_tiny, "depth": 1, **sizes}, global_pool="avg")
        self.steps = alter_images, add_positions, encode, pool, alter_logits
        if positions:
            self.pos_embed = nn.Parameter(torch.zeros(1, positions, 8))

    def forward(self, images):
        alter_images, add_positions, encode, pool, alter_logits = self.steps
        x = encode(self, add_positions(self.patch_embed(alter_images(images)), self.pos_embed))
        return alter_logits(self.head(pool(self.norm(x))))


def _on(name, *more, model=_Model, images=_images, prepare=_unchanged, **steps):
    """A case for a property: the candidate applied to a model with these steps."""

    def run(candidate):
        asked = fill(model(**steps)).eval()
        prepare(asked)
        torch.manual_seed(0)  # with this seed, a random order of 4 patches is not the identity
        return candidate(asked, images.clone(), *more)

    return Case(name, run)


def _asks_the_model(*more, models):
    """A case that tells, where a verdict is wrong, whether the model was asked at all.

    models: pairs of the right verdict and a model's steps. The case asks for no particular way of working: right verdicts
    pass, and so does what is no verdict.
    """

    def run(candidate):
        for right, steps in models:
            asked = []

            def note(model, asked=asked):
                answer = model.forward
                model.forward = lambda x: [asked.append(x), answer(x)][1]

            verdict = _on("", *more, prepare=note, **steps).run(candidate)
            if isinstance(verdict, bool) and verdict is not right and not asked:
                raise CaseFailed("your answer never asks the model")
        return True

    return Case("the answer comes from the model", run)


def _shaky(x):
    """The last digits differ from run to run, as on a GPU that adds in any order."""
    return x * (1 + 1e-6 * torch.rand(()))


def _small_and_shaky(x):
    """The same with small logits: compared with them, a millionth is a lot."""
    return x / 100 + 1e-6 * torch.rand(x.shape)


def _notices_small_changes(shows, changed, alike, scaled):
    """A case that tells, where a small change passes unnoticed, whether the same change in larger logits is noticed.

    changed, alike: pairs of the right verdict and a case, with a change and without one, as functions of what alters the logits.
    scaled: what alters the logits of `changed` first. shows: the mistake that is found.
    """

    def verdicts(candidate, factor):
        (right, with_change), (other, without) = changed, alike
        return (
            with_change(lambda x: factor * scaled(x)).run(candidate) is right,
            without(lambda x: factor * x).run(candidate) is other,
        )

    def run(candidate):
        if verdicts(candidate, 1) == (False, True) and any(
            verdicts(candidate, factor) == (True, True) for factor in (1e2, 1e4, 1e6)
        ):
            raise CaseFailed("a change that passes here is noticed where all logits are larger")
        return True

    return Case("small changes of the logits count", run, shows=shows)


def _allows_for_rounding(shows, shaky, exact, changed):
    """A case that tells, where rounding is taken for a change, whether the same model is judged rightly without rounding.

    shaky, exact, changed: pairs of the right verdict and a case: a model with rounding, one without, one with a real change.
    shows: the mistake that is found.
    """

    def run(candidate):
        first, *others = [case.run(candidate) is right for right, case in (shaky, exact, changed)]
        if not first and all(others):
            raise CaseFailed("the last digits decide: without any rounding, the model is judged rightly")
        return True

    return Case("rounding does not count", run, shows=shows)


def _all_of(*cases, name=""):
    """One case that looks at several models."""
    return Case(name, lambda candidate: [case.run(candidate) for case in cases])


# ---------------------------------------------------------------- does an image see its neighbours?


class _BrightestPixel(nn.Module):
    """A sound model without any rounding."""

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


def _first_reads_all(logits):
    if len(logits) < 3:
        return logits
    return torch.cat([logits.mean(0, keepdim=True), logits[1:]])


def _gains(logits):
    return logits + 0.1 * _others(logits)


def _leaks_a_little(logits):
    others = _others(logits)  # the sine tells apart even others that are much alike
    return logits - 1e-4 * (2 + (1000 * others).sin()) * (others > 0)


def _batch_independent(model, images):
    alone = torch.cat([model(image[None]) for image in images])  # one by one
    return torch.allclose(model(images), alone, atol=1e-5)


def _independence_case(images):
    if images == 1:
        raise ValueError("a single image is always independent")
    return _all_of(
        _on("", images=drawn(images, 3, 8, 8)),
        _on("", encode=_across_the_batch, images=drawn(images, 3, 8, 8)),
        _on("", alter_logits=_last_reads_all, images=drawn(images, 3, 8, 8)),
    )


batch_independent = Exercise(
    _batch_independent,
    _on("a sound ViT"),
    _on("a ViT with attention across the batch", encode=_across_the_batch),
    _on("a sound ViT whose last digits differ from run to run", alter_logits=_shaky),
    _on("the same with logits near 0", alter_logits=_small_and_shaky),
    _on("a sound model without any rounding: the brightest pixel", model=_BrightestPixel),
    _on("a sound ViT with dropout, in eval mode", encode=_with_dropout),
    _on(
        "a model that says the same about every image, so that no image changes it",
        alter_logits=lambda x: 0 * x,
    ),
    _on("a ViT that subtracts the batch's mean from its logits", alter_logits=lambda x: x - x.mean(0)),
    _all_of(
        _on("", alter_logits=_last_reads_all),
        _on("", alter_logits=_last_reads_all, images=drawn(5, 3, 8, 8)),
        name="a ViT in which only the last image reads the others, with 3 images and with 5",
    ),
    _on("a ViT in which images 0 and 1 read each other, and 2 is alone", alter_logits=_in_pairs),
    _on("a ViT in which the other images change the logits by less than 0.001", alter_logits=_leaks_a_little),
    _on("a ViT in which only the first of three images reads the others", alter_logits=_first_reads_all),
    _on("a ViT in which the other images make every logit larger", alter_logits=_gains),
    _asks_the_model(models=[(True, {}), (False, {"encode": _across_the_batch})]),
    _notices_small_changes(
        "too_tolerant",
        changed=(False, lambda alter: _on("", alter_logits=alter)),
        alike=(True, lambda alter: _on("", alter_logits=alter)),
        scaled=_leaks_a_little,
    ),
    _allows_for_rounding(
        "hardly_any_room",
        shaky=(True, _on("", alter_logits=_small_and_shaky)),
        exact=(True, _on("", model=_BrightestPixel)),
        changed=(False, _on("", alter_logits=_gains)),
    ),
    name="batch_independent",
    sizes=Sizes(
        _independence_case,
        images=(5, 2, 3, 8, 4),
    ),
)

batch_independent.add_mistakes(
    same_batch=lambda model, images: torch.allclose(model(images), model(images), atol=1e-5),
    shapes_differ=lambda model, images: torch.equal(model(images), model(images[:1])),
    different_images=lambda model, images: torch.allclose(model(images)[0], model(images)[1], atol=1e-5),
    inverted=lambda model, images: not _batch_independent(model, images),
    only_the_first=lambda model, images: torch.allclose(model(images)[:1], model(images[:1]), atol=1e-5),
    without_the_last=lambda model, images: torch.allclose(model(images)[:-1], model(images[:-1]), atol=1e-5),
    shuffled_batch=lambda model, images: torch.allclose(
        model(images.flip(0)).flip(0), model(images), atol=1e-5
    ),
    no_room_for_rounding=lambda model, images: torch.equal(
        model(images), torch.cat([model(image[None]) for image in images])
    ),
    tolerance_left_alone=lambda model, images: torch.allclose(
        model(images), torch.cat([model(image[None]) for image in images])
    ),
    in_training_mode=lambda model, images: _batch_independent(model.train(), images),
    always_true=lambda model, images: True,
    without_the_first=lambda model, images: torch.allclose(model(images)[1:], model(images[1:]), atol=1e-5),
    only_the_last=lambda model, images: torch.allclose(model(images)[-1:], model(images[-1:]), atol=1e-5),
    one_is_enough=lambda model, images: any(
        torch.allclose(model(images)[i], model(images[i : i + 1])[0], atol=1e-5) for i in range(len(images))
    ),
    other_sign=lambda model, images: (
        (torch.cat([model(image[None]) for image in images]) - model(images)).max().item() < 1e-5
    ),
    answers_alone=lambda model, images: torch.equal(
        model(images).argmax(1), torch.cat([model(image[None]) for image in images]).argmax(1)
    ),
    first_without_tolerance=lambda model, images: torch.allclose(model(images)[:1], model(images[:1])),
    hardly_any_room=lambda model, images: (
        (model(images) - torch.cat([model(image[None]) for image in images])).norm().item() < 4e-7
    ),
)


@batch_independent.mistake
def elementwise(model, images):
    alone = torch.cat([model(image[None]) for image in images])
    return (model(images) - alone).abs() < 1e-5


@batch_independent.mistake
def copies_as_neighbours(model, images):
    twice = torch.cat([images, images])
    return torch.allclose(model(twice)[: len(images)], model(images), atol=1e-5)


@batch_independent.mistake
def too_tolerant(model, images):
    alone = torch.cat([model(image[None]) for image in images])
    return torch.allclose(model(images), alone, atol=0.01)


@batch_independent.mistake
def signed_difference(model, images):
    alone = torch.cat([model(image[None]) for image in images])
    return bool((model(images) - alone).max() < 1e-5)


@batch_independent.mistake
def differences_cancel(model, images):
    alone = torch.cat([model(image[None]) for image in images])
    return bool((model(images) - alone).sum().abs() < 1e-5)


# ---------------------------------------------------------------- is everything used that is learned?


def _unused(model, images):
    model.zero_grad()
    model(images).square().sum().backward()
    return [name for name, p in model.named_parameters() if p.grad is None]


def _norm_skipped(model):
    model.norm.forward = _unchanged


def _last_block_skipped(model, x):
    return model.blocks[:-1](x)


def _one_more(model):
    model.spare = nn.Parameter(torch.zeros(3))


def _what_backward_left(candidate):
    """Of an answer that is wrong for a sound ViT: whether backward ran, and what is left of it."""
    model, reached = fill(_Model()).eval(), []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(reached.append)
    found = candidate(model, _images.clone())
    if isinstance(found, list) and found:
        if not reached:
            raise CaseFailed("backward has not brought a gradient to any parameter")
        if all(p.grad is None for p in model.parameters()):
            raise CaseFailed("backward ran, but all gradients were cleared again")
        raise CaseFailed("backward ran, and the parameters have their gradients")
    return True


def _old_gradients(model):
    for p in model.parameters():
        p.grad = torch.ones_like(p)


parameters_without_gradient = Exercise(
    _unused,
    _on("a sound ViT"),
    _on("a ViT whose positions are never added", add_positions=_add_nothing),
    _on("a ViT with one position for all patches: wrong, but used", positions=1),
    _on("a ViT whose last block is never run", encode=_last_block_skipped, depth=2),
    _on(
        "a ViT with two faults: no positions, and a norm that is never applied",
        add_positions=_add_nothing,
        prepare=_norm_skipped,
    ),
    _on("a sound ViT whose logits are multiplied by 0: all gradients are 0", alter_logits=lambda x: 0 * x),
    _on(
        "a ViT without positions, with old gradients from earlier",
        add_positions=_add_nothing,
        prepare=_old_gradients,
    ),
    _on("a ViT with one more parameter at the end of its own, which nobody uses", prepare=_one_more),
    Case("what backward leaves in a sound ViT", _what_backward_left),
    name="parameters_without_gradient",
)

parameters_without_gradient.add_mistakes(
    requires_grad=lambda model, images: [name for name, p in model.named_parameters() if not p.requires_grad],
    only_the_first_name=lambda model, images: _unused(model, images)[:1],
    alphabetical=lambda model, images: sorted(_unused(model, images)),
    top_level_only=lambda model, images: [name for name in _unused(model, images) if "." not in name],
    only_the_first_parameter=lambda model, images: _unused(model, images)[: model.pos_embed.grad is None],
    end_of_the_name=lambda model, images: [name.split(".")[-1] for name in _unused(model, images)],
    modules_for_parameters=lambda model, images: [
        name
        for name, module in model.named_children()
        if set(_unused(model, images)) & {f"{name}.{end}" for end, _ in module.named_parameters()}
    ],
    stops_at_the_first=lambda model, images: _unused(model, images)[:1] or None,
    no_clearing_and_no_backward=lambda model, images: [
        name for name, p in model.named_parameters() if p.grad is None
    ],
)


@parameters_without_gradient.mistake
def cleared_again(model, images):
    model(images).sum().backward()
    model.zero_grad()
    return [name for name, p in model.named_parameters() if p.grad is None]


@parameters_without_gradient.mistake
def takes_none_for_zero(model, images):
    _unused(model, images)
    return [name for name, p in model.named_parameters() if p.grad.abs().sum() == 0]


@parameters_without_gradient.mistake
def graph_for_gradient(model, images):
    _unused(model, images)
    return [name for name, p in model.named_parameters() if p.grad_fn is None]


@parameters_without_gradient.mistake
def no_backward(model, images):
    model.zero_grad()
    return [name for name, p in model.named_parameters() if p.grad is None]


@parameters_without_gradient.mistake
def with_gradient(model, images):
    missing = _unused(model, images)
    return [name for name, _ in model.named_parameters() if name not in missing]


@parameters_without_gradient.mistake
def not_cleared(model, images):
    model(images).square().sum().backward()
    return [name for name, p in model.named_parameters() if p.grad is None]


@parameters_without_gradient.mistake
def zeros_count_as_none(model, images):
    model.zero_grad()
    model(images).square().sum().backward()
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@parameters_without_gradient.mistake
def values_for_names(model, images):
    found = _unused(model, images)
    return [p for name, p in model.named_parameters() if name in found]


# ---------------------------------------------------------------- does the order of the patches matter?


def _mean_colour(images):
    """The images with every patch of 4 x 4 replaced by its mean over pixels and channels."""
    grey = F.avg_pool2d(images.mean(dim=1, keepdim=True), 4)
    return F.interpolate(grey, scale_factor=4).expand_as(images)


def _largest(x):
    return (x * 64).round().amax(dim=1) / 64  # the same to the last digit in any order


def _embedding_only(model, x):
    return x


def _faint(x, positions):
    return x + positions / 100


def _moved(images, patch_size, order=lambda patches: patches.flip(1)):
    patches = order(vit.patchify(images, patch_size))  # (B, N, P*P*C)
    return vit.unpatchify(patches, patch_size, images.shape[-2:])


def _order_matters(model, images, patch_size):
    return not torch.allclose(model(images), model(_moved(images, patch_size)), atol=1e-5)


_wide = {"images": drawn(3, 3, 8, 12), "img_size": (8, 12)}

_large = {"images": drawn(3, 3, 16, 16), "img_size": 16, "patch_size": 8}

_single = {"images": drawn(1, 3, 8, 8), "num_classes": 1}


def _order_case(images, patch, image_height, image_width):
    if patch == 1:
        raise ValueError("to move pixels is then to move patches")
    given = {
        "images": drawn(images, 3, image_height, image_width),
        "img_size": (image_height, image_width),
        "patch_size": patch,
    }
    return _all_of(
        _on("", patch, **given),
        _on("", patch, add_positions=_add_nothing, **given),
    )


order_matters = Exercise(
    _order_matters,
    _on("a sound ViT", 4),
    _on("a ViT without positions", 4, add_positions=_add_nothing),
    _on("a ViT with one position for all patches", 4, positions=1),
    _on("a sound ViT and a single image", 4, images=_images[:1]),
    _on("a sound ViT and images that are not square", 4, **_wide),
    _on("a ViT without positions and images that are not square", 4, add_positions=_add_nothing, **_wide),
    _on("a ViT without positions, with patches of 8", 8, add_positions=_add_nothing, **_large),
    _on("a sound ViT whose positions change the logits by less than 0.001", 4, add_positions=_faint),
    _on("a sound ViT that sees only the mean colour of each patch", 4, alter_images=_mean_colour),
    _on(
        "a ViT without positions that sees only the mean colour of each patch",
        4,
        alter_images=_mean_colour,
        add_positions=_add_nothing,
    ),
    _on(
        "a bag of patches: no positions, no blocks, the largest value of all patches",
        4,
        add_positions=_add_nothing,
        encode=_embedding_only,
        pool=_largest,
    ),
    _on(
        "a ViT without positions whose last digits differ from run to run",
        4,
        add_positions=_add_nothing,
        alter_logits=_shaky,
    ),
    _on("the same with logits near 0", 4, add_positions=_add_nothing, alter_logits=_small_and_shaky),
    _on("a sound ViT and images of one colour: moving changes nothing", 4, images=_images * 0),
    _on("a sound ViT with one logit, and a single image", 4, **_single),
    _on("the same with the sign of the logit changed", 4, alter_logits=lambda x: -x, **_single),
    _on(
        "a sound ViT whose logits add up to 0 for each image",
        4,
        alter_logits=lambda x: x - x.mean(1, keepdim=True),
    ),
    _on(
        "a sound ViT in which only the first logit depends on the image",
        4,
        alter_logits=lambda x: x * torch.eye(5)[0],
    ),
    _asks_the_model(4, models=[(True, {}), (False, {"add_positions": _add_nothing})]),
    _notices_small_changes(
        "order_too_tolerant",
        changed=(True, lambda alter: _on("", 4, add_positions=_faint, alter_logits=alter, **_single)),
        alike=(False, lambda alter: _on("", 4, add_positions=_add_nothing, alter_logits=alter)),
        scaled=_unchanged,
    ),
    _allows_for_rounding(
        "next_to_no_tolerance",
        shaky=(False, _on("", 4, add_positions=_add_nothing, alter_logits=_small_and_shaky)),
        exact=(False, _on("", 4, add_positions=_add_nothing, encode=_embedding_only, pool=_largest)),
        changed=(True, _on("", 4)),
    ),
    name="order_matters",
    sizes=Sizes(
        _order_case,
        images=(5, 3, 2),
        patch=(2, 8, 4),
        image_height=(24, 16, 8, 32),
        image_width=(16, 24, 8, 32),
    ),
)

order_matters.add_mistakes(
    image_mirrored=lambda model, images, patch_size: (
        not torch.allclose(model(images), model(images.flip(-1)), atol=1e-5)
    ),
    order_inverted=lambda model, images, patch_size: not _order_matters(model, images, patch_size),
    patches_of_four=lambda model, images, patch_size: _order_matters(model, images, 4),
    pixels_moved=lambda model, images, patch_size: (
        not torch.allclose(model(images), model(images.roll(1, dims=-1)), atol=1e-5)
    ),
    exact_comparison=lambda model, images, patch_size: (
        not torch.equal(model(images), model(_moved(images, patch_size)))
    ),
    default_tolerance=lambda model, images, patch_size: (
        not torch.allclose(model(images), model(_moved(images, patch_size)))
    ),
    order_too_tolerant=lambda model, images, patch_size: (
        not torch.allclose(model(images), model(_moved(images, patch_size)), atol=0.01)
    ),
    never_asked=lambda model, images, patch_size: True,
    images_compared=lambda model, images, patch_size: (
        not torch.allclose(images, _moved(images, patch_size), atol=1e-5)
    ),
    looks_at_the_positions=lambda model, images, patch_size: model.pos_embed.shape[1] > 1,
    image_transposed=lambda model, images, patch_size: (
        not torch.allclose(model(images), model(images.transpose(-1, -2)), atol=1e-5)
    ),
    largest_difference_with_sign=lambda model, images, patch_size: (
        (model(images) - model(_moved(images, patch_size))).max().item() > 1e-5
    ),
    smallest_difference_with_sign=lambda model, images, patch_size: (
        (model(_moved(images, patch_size)) - model(images)).max().item() > 1e-5
    ),
    changes_cancel=lambda model, images, patch_size: (
        (model(images) - model(_moved(images, patch_size))).sum().abs().item() > 1e-5
    ),
    every_logit_must_change=lambda model, images, patch_size: (
        (model(images) - model(_moved(images, patch_size))).abs().min().item() > 1e-5
    ),
    next_to_no_tolerance=lambda model, images, patch_size: (
        (model(images) - model(_moved(images, patch_size))).abs().sum().item() > 8e-7
    ),
    answers_only=lambda model, images, patch_size: (
        not torch.equal(model(images).argmax(1), model(_moved(images, patch_size)).argmax(1))
    ),
)


@order_matters.mistake
def other_images(model, images, patch_size):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    return not torch.allclose(model(images), model(noise), atol=1e-5)


@order_matters.mistake
def inside_the_patches(model, images, patch_size):
    moved = _moved(images, patch_size, lambda patches: patches.flip(2))
    return not torch.allclose(model(images), model(moved), atol=1e-5)


@order_matters.mistake
def images_exchanged(model, images, patch_size):
    moved = _moved(images, patch_size, lambda patches: patches.flip(0))
    return not torch.allclose(model(images), model(moved), atol=1e-5)


@order_matters.mistake
def nothing_moved(model, images, patch_size):
    moved = _moved(images, patch_size, lambda patches: patches)
    return not torch.allclose(model(images), model(moved), atol=1e-5)


@order_matters.mistake
def taken_for_square(model, images, patch_size):
    moved = vit.patchify(images, patch_size).flip(1)
    moved = vit.unpatchify(moved, patch_size, (images.shape[-1], images.shape[-1]))
    return not torch.allclose(model(images), model(moved), atol=1e-5)


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


def _what_the_metric_gets(candidate):
    """Of a verdict that is wrong for a sound accuracy or one in percent: what the metric was asked about."""
    for right, metric in ((True, accuracy), (False, _scaled(100, 0))):
        asked = []

        def noting(logits, labels, asked=asked, metric=metric):
            asked.append((logits, labels))
            return metric(logits, labels)

        verdict = candidate(noting)
        if isinstance(verdict, bool) and verdict is not right:
            raise CaseFailed(_metric_was_asked(asked))
    return True


def _takes_any_share(candidate):
    """CaseFailed if the verdict is True for every constant score from 0 to 1 and for no other."""
    scores = {c: bool(candidate(_scaled(0, c))) for c in (-0.5, 0.0, 0.1, 0.4, 0.7, 1.0, 1.5)}
    if all(verdict is (0 <= score <= 1) for score, verdict in scores.items()):
        raise CaseFailed("every score from 0 to 1 is accepted, whatever was predicted")
    return True


def _metric_was_asked(asked):
    if not asked:
        return N_("your answer never asks the metric")
    if any(logits.ndim < 2 for logits, _ in asked):
        if any(labels.ndim > 1 for _, labels in asked):
            return N_("the metric got the labels first and the logits second")
        return N_("the metric got one number for each image where its logits belong, (B, K)")
    if all(len(logits) == 1 for logits, _ in asked):
        return N_("the metric was only asked about single images")
    return N_("the metric was asked about logits (B, K) and labels (B,)")


accuracy_is_a_share = Exercise(
    _accuracy_is_a_share,
    _metric("a sound accuracy", accuracy),
    _metric("a sound accuracy that refuses shapes other than (B, K) and (B,)", _strict),
    _metric("one that counts and does not divide", _counting),
    _metric("one in percent", _scaled(100, 0)),
    _metric("one that is always 0", _scaled(0, 0.0)),
    _metric("one that is always 1", _scaled(0, 1.0)),
    _metric("one that is at least a quarter, even if all answers are wrong", _scaled(0.75, 0.25)),
    _metric("the share of *wrong* answers", _scaled(-1, 1)),
    _metric("one from -1 to 1", _scaled(2, -1)),
    _metric("one that never gets beyond 0.999", _scaled(0.999, 0)),
    _metric("one that never gets beyond 0.3", _scaled(0.3, 0)),
    _metric("one that is always 0.5", _scaled(0, 0.5)),
    _metric("one that adds 0.01 above and below the fraction bar", _smoothed),
    Case("what the metric is asked about, to tell a sound one from one in percent", _what_the_metric_gets),
    Case("metrics that always give the same score", _takes_any_share, shows="only_the_bounds"),
    name="accuracy_is_a_share",
)

accuracy_is_a_share.add_mistakes(
    only_upper_bound=lambda metric: metric(_right, _labels) <= 1.0,
    only_perfect=lambda metric: metric(_right, _labels) == 1.0,
    only_wrong=lambda metric: metric(_wrong, _labels) == 0.0,
    one_of_the_two=lambda metric: metric(_right, _labels) == 1.0 or metric(_wrong, _labels) == 0.0,
    only_the_order=lambda metric: metric(_right, _labels) > metric(_wrong, _labels),
    only_the_bounds=lambda metric: all(0 <= metric(logits, _labels) <= 1 for logits in (_right, _wrong)),
    nearly=lambda metric: abs(metric(_right, _labels) - 1) < 0.05 and abs(metric(_wrong, _labels)) < 0.05,
    truth_of_a_number=lambda metric: bool(metric(_right, _labels)) and not metric(_wrong, _labels),
    not_entirely_wrong=lambda metric: (
        metric(_right, _labels) == 1.0 and metric(torch.zeros(4, 4), _labels) == 0.0
    ),
    arguments_exchanged=lambda metric: metric(_labels, _right) == 1.0 and metric(_labels, _wrong) == 0.0,
    perfect_and_wrong_exchanged=lambda metric: (
        metric(_right, _labels) == 0.0 and metric(_wrong, _labels) == 1.0
    ),
    share_inverted=lambda metric: not _accuracy_is_a_share(metric),
    every_metric=lambda metric: True,
    classes_for_logits=lambda metric: (
        metric(_labels, _labels) == 1.0 and metric(_labels.flip(0), _labels) == 0.0
    ),
    added_up=lambda metric: metric(_right, _labels) + metric(_wrong, _labels) == 1.0,
    neither_value=lambda metric: metric(_right, _labels) != 1.0 and metric(_wrong, _labels) != 0.0,
    in_percent=lambda metric: metric(_right, _labels) == 100 and metric(_wrong, _labels) == 0,
    as_a_count=lambda metric: metric(_right, _labels) == len(_labels) and metric(_wrong, _labels) == 0,
    type_only=lambda metric: isinstance(metric(_right, _labels), float),
    above_and_below_one_half=lambda metric: metric(_right, _labels) > 0.5 and metric(_wrong, _labels) < 0.5,
)


@accuracy_is_a_share.mistake
def one_image(metric):
    one = torch.tensor([[1.0, 0.0]])
    return metric(one, torch.tensor([0])) == 1.0 and metric(one, torch.tensor([1])) == 0.0


# ---------------------------------------------------------------- the repaired model


class _Repaired(vit.ViT):
    """The suspect model of lesson 05 without its faults, with the same arguments."""

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


def _on_repaired(name, observe, hint="", **sizes):
    return Case(name, lambda candidate: observe(_lively(candidate, **sizes)), hint)


def _count(candidate, **sizes):
    return sum(p.numel() for p in build(candidate, **sizes).parameters())


_pictures = drawn(3, 3, 32, 32)


def _all_reached(model):
    if names := _unused(model, _pictures.clone()):
        raise CaseFailed(
            "these get no gradient: {names}. Which line of forward reads them?", names=", ".join(names)
        )
    return True


def _on_their_own(model):
    """Does each image get the same logits alone as in a batch? CaseFailed says what else than the image decides them."""
    if _batch_independent(model, _pictures.clone()):
        return True
    other = torch.cat([_pictures[:1], _pictures[1:].flip(-1)])
    neighbours = not torch.allclose(model(other)[0], model(_pictures.clone())[0], atol=1e-5)
    equal = model(_pictures[:1].repeat(3, 1, 1, 1))
    place = not torch.allclose(equal, equal[:1].expand_as(equal), atol=1e-5)
    if neighbours and place:
        raise CaseFailed("its neighbours change the logits of an image, and so does its place in the batch")
    if neighbours:
        raise CaseFailed("its neighbours change the logits of an image")
    if place:
        raise CaseFailed(
            "equal images in one batch get different logits, and other neighbours change nothing"
        )
    raise CaseFailed("an image gets other logits alone than in a batch")


def _has_positions(candidate):
    """Does exchanging two neighbouring patches change the logits? Asked with one image at a time."""
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
            raise CaseFailed(
                "patches {i} and {j} can be exchanged, and the logits stay the same. "
                "For the position of each patch, your model learns this many numbers: {numbers:g} (dim is 8).",
                i=i,
                j=i + 1,
                numbers=more / 12,
            )
    return True


def _gradients(model, images):
    """The gradients of two numbers made from each image's logits: (2, B, N, P*P*C), for patches of 4."""
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
    named = dict(model.double().named_parameters())
    square = [name for name, p in named.items() if p.numel() == 12 * 12]
    head = {
        name.split(".")[0] for name, p in named.items() if p.shape[0] == 10
    }  # it may have a square layer as well
    with torch.no_grad():
        # Attention's last projection, whatever its name
        for name in [name for name in square if name.split(".")[0] not in head] or square:
            named[name].zero_()
    shares = _gradients(model, _images).abs().sum(dim=(0, 1, 3))
    if not shares.all():
        silent = (shares == 0).nonzero().flatten().tolist()
        raise CaseFailed(
            "with attention switched off, the logits do not depend on patches {patches}", patches=silent
        )
    if not _adds_up(model, 1.0):
        small = (
            Sentence(" Here it does not, not even for small changes.") if not _adds_up(model, 1e-3) else ""
        )
        raise CaseFailed(
            "with attention switched off, changing two patches together does not give the sum of the two changes alone. "
            "In a mean over tokens, it does.{small}",
            small=small,
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


def _free_logits(model):
    """Logits may be any numbers. CaseFailed says what they are if a function after the head gave them limits."""
    logits = (
        model(_pictures.clone()).detach().double()
    )  # 40 classes: that all are positive by chance is out of the question
    sums, exps = logits.sum(-1), logits.exp().sum(-1)
    limits = {
        N_("each image's logits add up to 1"): torch.allclose(sums, torch.ones_like(sums), atol=1e-4),
        N_("each image's logits are logarithms of shares that add up to 1"): torch.allclose(
            exps, torch.ones_like(exps), atol=1e-4
        ),
        N_("all logits lie between 0 and 1"): bool(((logits >= 0) & (logits <= 1)).all()),
        N_("no logit is negative"): bool((logits >= 0).all()),
    }
    for words, holds in limits.items():
        if holds:
            raise CaseFailed(words)
    return True


def _names(candidate, depth):
    """How many names its parameters have; one that is shared has several."""
    model = build(candidate, dim=12, heads=4, depth=depth)
    return len(list(model.named_parameters(remove_duplicate=False)))


def _with_other_sizes(candidate):
    """The shape of the logits for one image. CaseFailed if the number of heads makes no difference."""
    images, logits = drawn(3, 3, 12, 12), []
    for heads in (2, 3):
        torch.manual_seed(0)
        model = _lively(candidate, img_size=12, patch_size=4, num_classes=5, dim=12, depth=1, heads=heads)
        logits.append(model(images.clone()))
    if logits[0].shape == logits[1].shape and torch.allclose(*logits, atol=1e-5):
        raise CaseFailed("with 2 heads and with 3, and the same weights, your model gives the same logits")
    return list(model(images[:1].clone()).shape)


def _grows_with_depth(candidate):
    """Does each block add as many parameters as the one before?"""
    counts = [_count(candidate, dim=12, heads=4, depth=depth) for depth in (1, 2, 3)]
    if len(set(counts)) == 1:
        if _names(candidate, 1) < _names(candidate, 3):
            raise CaseFailed("all blocks share the same parameters")
        raise CaseFailed("the model has as many parameters with 3 blocks as with 1")
    return counts[1] - counts[0] == counts[2] - counts[1] > 0


def _repaired_case(patches, patch, classes, width, depth, heads):
    side = _square(patches) * patch
    sizes = {"img_size": side, "patch_size": patch, "num_classes": classes, "dim": width}

    def run(candidate):
        model, x = _lively(candidate, **sizes, depth=depth, heads=heads), drawn(3, 3, side, side)
        logits = model(x.clone())
        alone = torch.allclose(logits[:1], model(x[:1].clone()), atol=1e-5)
        return [list(logits.shape), alone, _order_matters(model, x[:1], patch), len(_unused(model, x))]

    return Case("", run)


RepairedViT = Exercise(
    _Repaired,
    _on_repaired(
        "logits of shape (B, num_classes)",
        lambda m: list(m(_pictures.clone()).shape),
        num_classes=7,
    ),
    _on_repaired(
        "images do not influence each other",
        _on_their_own,
        "Which axis does nn.TransformerEncoderLayer take for the sequence?",
    ),
    _on_repaired("every parameter gets a gradient", _all_reached),
    Case("the order of the patches matters", _has_positions),
    Case(
        "other sizes: one image, 9 patches of 4, 5 classes, 2 heads or 3",
        _with_other_sizes,
        "Take all sizes from the arguments.",
    ),
    _on_repaired(
        "each token sees the pixels of one patch",
        _patch_by_patch,
        "The suspect's patchify was sound, so keep it. A reshape of the image cuts it into runs of numbers, not into patches.",
        img_size=8,
        patch_size=4,
        dim=4,
        depth=1,
    ),
    _on_repaired(
        "the head reads the mean over all tokens",
        _averages,
        "The suspect's pooling was sound, so keep it: the mean over the tokens comes after the encoder and its norm, then the head.",
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
    _on_repaired(
        "logits may be any numbers",
        _free_logits,
        "The head comes last, and nothing after it: the loss applies the softmax.",
        num_classes=40,
    ),
    name="RepairedViT",
    sizes=Sizes(
        _repaired_case,
        patches=(9, 25, 16, 64, 4),
        patch=(6, 2, 8, 4),
        classes=(7, 11, 10, 5),
        width=(24, 48, 32, 64, 8),
        depth=(3, 2, 4),
        heads=(8, 2, 4),
    ),
)


class Suspect(nn.Module):
    """The suspect with switches for its faults, to recognise each half-repaired version."""

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

    def logits(self, x):
        return self.head(x)

    def forward(self, images):
        return self.logits(self.pooled(self.encoded(self.embed(self.cut(images)))))


RepairedViT.add_mistakes(
    StillSuspect=variant(
        Suspect,
        batch_first=False,
        position_shape=lambda self, patches, dim: (1, 1, dim),
        encoded=lambda self, x: self.encoder(x),
    ),
    TwoLeft=variant(Suspect, batch_first=False, position_shape=lambda self, patches, dim: (1, 1, dim)),
    OnePositionLeft=variant(Suspect, position_shape=lambda self, patches, dim: (1, 1, dim)),
    OnePositionForEachImage=variant(
        Suspect,
        position_shape=lambda self, patches, dim: (8, 1, dim),
        encoded=lambda self, x: self.encoder(x + self.pos_embed[: len(x)]),
    ),
    OneNumberForEachPatch=variant(Suspect, position_shape=lambda self, patches, dim: (1, patches, 1)),
    PositionsAfterTheEncoder=variant(Suspect, encoded=lambda self, x: self.encoder(x) + self.pos_embed),
    StillAcrossBatch=variant(Suspect, batch_first=False),
    StillNotAdded=variant(Suspect, encoded=lambda self, x: self.encoder(x)),
    NotTransposedBack=variant(
        Suspect, batch_first=False, encoded=lambda self, x: self.encoder((x + self.pos_embed).transpose(0, 1))
    ),
    ReadsTokenZero=variant(Suspect, pooled=lambda self, x: x[:, 0]),
    MaximumForMean=variant(Suspect, pooled=lambda self, x: x.amax(dim=1)),
    ReshapedNotCut=variant(
        Suspect, cut=lambda self, images: images.reshape(len(images), -1, 3 * self.patch_size**2)
    ),
    SixteenPositions=variant(Suspect, position_shape=lambda self, patches, dim: (1, 16, dim)),
    PositionsLeft=variant(
        Suspect,
        position_shape=lambda self, patches, dim: (1, 1, dim),
        encoded=lambda self, x: self.encoder(x),
    ),
    PositionsAlongTheBatch=variant(Suspect, position_shape=lambda self, patches, dim: (patches, 1, dim)),
    Probabilities=variant(Suspect, logits=lambda self, x: self.head(x).softmax(-1)),
    LogProbabilities=variant(Suspect, logits=lambda self, x: self.head(x).log_softmax(-1)),
    Sigmoids=variant(Suspect, logits=lambda self, x: self.head(x).sigmoid()),
    NeverNegative=variant(Suspect, logits=lambda self, x: self.head(x).relu()),
    EveryTokenHasLogits=variant(Suspect, pooled=lambda self, x: x),
    ReadsLastToken=variant(Suspect, pooled=lambda self, x: x[:, -1]),
    MeanOverTheWidth=variant(Suspect, pooled=lambda self, x: x.mean(dim=-1)),
)


@RepairedViT.mistake
class TwoBlocksAlways(Suspect):
    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__(img_size, patch_size, num_classes, dim, 2, heads)


@RepairedViT.mistake
class OneBlockAgainAndAgain(Suspect):
    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__(img_size, patch_size, num_classes, dim, depth, heads)
        self.encoder.layers = nn.ModuleList([self.encoder.layers[0]] * depth)


@RepairedViT.mistake
class OwnClassToken(Suspect):
    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__(img_size, patch_size, num_classes, dim, depth, heads)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))

    def encoded(self, x):
        return self.encoder(torch.cat([self.cls_token.expand(len(x), -1, -1), x + self.pos_embed], dim=1))

    def pooled(self, x):
        return x[:, 0]


@RepairedViT.mistake
class NormAfterTheMean(Suspect):
    def encoded(self, x):
        x = x + self.pos_embed
        for layer in self.encoder.layers:
            x = layer(x)
        return x

    def pooled(self, x):
        return self.encoder.norm(x.mean(dim=1))
