"""Lesson 02: projection, class token, positions, and all of it as one module."""

import dataclasses
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vit_edu.check.cases import (
    Case,
    CaseFailed,
    NoLayout,
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
from vit_edu.check.probes import Sizes, grid
from vit_edu.models import vit

# ---------------------------------------------------------------- projection


def _project_patches(patches, weight, bias):
    return patches @ weight.T + bias  # (B, N, PPC) @ (PPC, D) + (D,)


_projection = drawn(2, 4, 12), drawn(8, 12, seed=1), drawn(8, seed=2)

project_patches = Exercise(
    _project_patches,
    call(
        "2 patches of 3 numbers, to 2 numbers each",
        drawn(1, 2, 3),
        drawn(2, 3, seed=1),
        drawn(2, seed=2),
        hint="By hand: the first number of a token is the first row of the weight times the patch, plus bias[0].",
    ),
    call("2 images, 4 patches of 12 numbers, to 8 numbers each", *_projection),
    call(
        "as many numbers out as in, and as many patches",
        drawn(1, 6, 6),
        drawn(6, 6, seed=1),
        drawn(6, seed=2),
    ),
    call("one patch", drawn(1, 1, 5), drawn(3, 5, seed=1), drawn(3, seed=2)),
    in_double(*_projection),
    not_contiguous(*_projection),
    passes_gradient(drawn(1, 2, 3), drawn(2, 3, seed=1), drawn(2, seed=2)),
    name="project_patches",
    sizes=Sizes(
        lambda images, patches, numbers, width: call(
            "", drawn(images, patches, numbers), drawn(width, numbers, seed=1), drawn(width, seed=2)
        ),
        images=(5, 2, 3, 8),
        patches=(7, 6, 64, 16, 4),
        numbers=(12, 15, 48, 192),
        width=(9, 11, 64, 32, 8),
    ),
)

project_patches.add_mistakes(
    no_bias=lambda patches, weight, bias: patches @ weight.T,
    not_transposed=lambda patches, weight, bias: patches @ weight + bias,
    weight_reshaped=lambda patches, weight, bias: patches @ weight.reshape(weight.shape[::-1]) + bias,
    bias_before_the_product=lambda patches, weight, bias: (patches + bias) @ weight.T,
    bias_along_the_patches=lambda patches, weight, bias: patches @ weight.T + bias[:, None],
    with_activation=lambda patches, weight, bias: (patches @ weight.T + bias).relu(),
    with_gelu=lambda patches, weight, bias: F.gelu(patches @ weight.T + bias),
    patches_summed=lambda patches, weight, bias: torch.einsum("bnp,dp->bd", patches, weight) + bias,
    times_root_of_width=lambda patches, weight, bias: (patches @ weight.T + bias) * math.sqrt(len(weight)),
    result_transposed=lambda patches, weight, bias: (patches @ weight.T + bias).mT,
    bias_subtracted=lambda patches, weight, bias: patches @ weight.T - bias,
    bias_twice=lambda patches, weight, bias: patches @ weight.T + bias + bias,
    numbers_mixed=lambda patches, weight, bias: patches.mT.reshape(patches.shape) @ weight.T + bias,
    weight_detached=lambda patches, weight, bias: patches @ weight.detach().T + bias,
    bias_detached=lambda patches, weight, bias: patches @ weight.T + bias.detach(),
    both_detached=lambda patches, weight, bias: patches @ weight.detach().T + bias.detach(),
    patches_detached=lambda patches, weight, bias: patches.detach() @ weight.T + bias,
    all_detached=lambda patches, weight, bias: (patches @ weight.T + bias).detach(),
    layer_of_its_own=lambda patches, weight, bias: nn.Linear(weight.shape[1], weight.shape[0])(patches),
)


# ---------------------------------------------------------------- class token


def _prepend_class_token(tokens, cls_token):
    return torch.cat([cls_token.expand(len(tokens), -1, -1), tokens], dim=1)


def _learned_class_token(candidate):
    """The tokens. CaseFailed if they cannot be differentiated by the class token that was passed."""
    cls_token = drawn(1, 1, 8, seed=1).requires_grad_()
    out = candidate(drawn(2, 4, 8), cls_token)
    if not isinstance(out, torch.Tensor):
        return out
    if not out.requires_grad or not _reaches(out, cls_token):
        raise CaseFailed(
            "no gradient reaches the class token that was passed: it is cut off or not used, or only a copy of it is"
        )
    return out


def _reaches(out, value):
    return torch.autograd.grad(out.sum(), value, retain_graph=True, allow_unused=True)[0] is not None


prepend_class_token = Exercise(
    _prepend_class_token,
    call("one image, 2 tokens of width 3", drawn(1, 2, 3), drawn(1, 1, 3, seed=1)),
    call("a batch of 3: every image gets the class token", drawn(3, 4, 8), drawn(1, 1, 8, seed=1)),
    call("one token: no patch gets lost", drawn(2, 1, 4), drawn(1, 1, 4, seed=1)),
    call("tokens of a single number", drawn(2, 3, 1), drawn(1, 1, 1, seed=1)),
    Case(
        "the class token can learn",
        _learned_class_token,
        "Do not use .data, .detach() or torch.tensor(...) on the class token.",
    ),
    in_double(drawn(2, 4, 8), drawn(1, 1, 8, seed=1)),
    not_contiguous(drawn(2, 4, 8), drawn(1, 1, 8, seed=1)),
    passes_gradient(drawn(2, 4, 3), drawn(1, 1, 3, seed=1)),
    name="prepend_class_token",
    sizes=Sizes(
        lambda images, patches, width: call("", drawn(images, patches, width), drawn(1, 1, width, seed=1)),
        images=(5, 2, 3, 8),
        patches=(7, 6, 64, 16, 4),
        width=(12, 9, 64, 32, 8),
    ),
)

prepend_class_token.add_mistakes(
    appended=lambda tokens, cls_token: torch.cat([tokens, cls_token.expand(len(tokens), -1, -1)], dim=1),
    added=lambda tokens, cls_token: tokens + cls_token,
    overwritten=lambda tokens, cls_token: torch.cat(
        [cls_token.expand(len(tokens), -1, -1), tokens[:, 1:]], dim=1
    ),
    not_expanded=lambda tokens, cls_token: torch.cat([cls_token, tokens], dim=1),
    random_token=lambda tokens, cls_token: torch.cat(
        [torch.randn(len(tokens), 1, tokens.shape[2]), tokens], dim=1
    ),
    one_for_every_image=lambda tokens, cls_token: torch.cat(
        [cls_token.expand(len(tokens), len(tokens), -1), tokens], dim=1
    ),
    first_image_only=lambda tokens, cls_token: torch.cat(
        [F.pad(cls_token, (0, 0, 0, 0, 0, len(tokens) - 1)), tokens], dim=1
    ),
    all_detached=lambda tokens, cls_token: torch.cat(
        [cls_token.expand(len(tokens), -1, -1), tokens], dim=1
    ).detach(),
    one_for_every_patch=lambda tokens, cls_token: torch.cat([cls_token.expand_as(tokens), tokens], dim=1),
    beside_the_tokens=lambda tokens, cls_token: torch.cat([cls_token.expand_as(tokens), tokens], dim=2),
    detached=lambda tokens, cls_token: torch.cat(
        [cls_token.detach().expand(len(tokens), -1, -1), tokens], dim=1
    ),
)


@prepend_class_token.mistake
def zeros_in_front(tokens, cls_token):
    B, _, D = tokens.shape
    return torch.cat([tokens.new_zeros(B, 1, D), tokens], dim=1)


# ---------------------------------------------------------------- sine-cosine positions


def _lengths(candidate):
    return candidate(3, 4, 8).square().sum(dim=1)


def _sincos_case(rows, columns, width):
    if rows == 1 or columns == 1 or width == 4:
        raise ValueError("too simple to tell wrong from right")
    return call("", rows, columns, width)


sincos_positions = Exercise(
    vit.sincos_positions,
    call(
        "a grid of 2 x 2, 4 numbers",
        2,
        2,
        4,
        hint="By hand, row 0 and column 1: (sin 0, cos 0, sin 1, cos 1) = (0, 1, 0.84, 0.54).",
    ),
    call("two frequencies: 8 numbers", 2, 3, 8),
    call("a grid of 8 x 8, 64 numbers", 8, 8, 64),
    call("a grid that is wider than high", 3, 5, 16),
    call("a grid that is higher than wide", 6, 2, 8),
    call("one patch", 1, 1, 4),
    Case(
        "all vectors are equally long: sin² + cos² = 1, D/2 times",
        _lengths,
        "Every angle occurs twice, once in a sine and once in a cosine.",
    ),
    sizes=(
        Sizes(
            _sincos_case,
            rows=(5, 6, 8, 4, 14),
            columns=(7, 2, 8, 4, 14),
            width=(12, 20, 64, 32, 192),
        ),
        Sizes(
            lambda patches, width: _sincos_case(*grid(patches), width),
            patches=(15, 24, 64, 16, 49, 196),
            width=(12, 20, 64, 32, 192),
        ),
    ),
)


def _places(rows, cols):
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    return row.flatten(), col.flatten()


def _frequencies(dim):
    return 10000.0 ** (-torch.arange(dim // 4) / (dim // 4))


def _waves(row, col, omega):
    row, col = row[:, None] * omega, col[:, None] * omega
    return torch.cat([row.sin(), row.cos(), col.sin(), col.cos()], dim=1)


sincos_positions.add_mistakes(
    exponent_over_the_width=lambda rows, cols, dim: _waves(
        *_places(rows, cols), 10000.0 ** (-torch.arange(dim // 4) / dim)
    ),
    frequencies_to_the_end=lambda rows, cols, dim: _waves(
        *_places(rows, cols), 10000.0 ** -torch.linspace(0, 1, dim // 4)
    ),
    exponent_over_one_less=lambda rows, cols, dim: _waves(
        *_places(rows, cols), 10000.0 ** (-torch.arange(dim // 4) / (dim // 4 - 1))
    ),
    growing_frequencies=lambda rows, cols, dim: _waves(*_places(rows, cols), 1 / _frequencies(dim)),
    one_frequency=lambda rows, cols, dim: _waves(*_places(rows, cols), torch.ones(dim // 4)),
    base_of_100=lambda rows, cols, dim: _waves(*_places(rows, cols), _frequencies(dim) ** 0.5),
    turns=lambda rows, cols, dim: _waves(*_places(rows, cols), _frequencies(dim) * 2 * math.pi),
    degrees=lambda rows, cols, dim: _waves(*_places(rows, cols), _frequencies(dim) * math.pi / 180),
)


@sincos_positions.mistake
def grid_kept(rows, cols, dim):
    return vit.sincos_positions(rows, cols, dim).reshape(rows, cols, dim)


@sincos_positions.mistake
def with_batch_axis(rows, cols, dim):
    return vit.sincos_positions(rows, cols, dim)[None]


@sincos_positions.mistake
def row_of_the_class_token(rows, cols, dim):
    return F.pad(vit.sincos_positions(rows, cols, dim), (0, 0, 1, 0))


@sincos_positions.mistake
def only_the_row(rows, cols, dim):
    row, _ = _places(rows, cols)
    return _waves(row, row, _frequencies(dim))


@sincos_positions.mistake
def only_the_column(rows, cols, dim):
    _, col = _places(rows, cols)
    return _waves(col, col, _frequencies(dim))


@sincos_positions.mistake
def column_first(rows, cols, dim):
    row, col = _places(rows, cols)
    return _waves(col, row, _frequencies(dim))


@sincos_positions.mistake
def one_dimensional(rows, cols, dim):
    half = dim // 2
    omega = 10000.0 ** (-torch.arange(half) / half)
    angle = torch.arange(rows * cols)[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1)


@sincos_positions.mistake
def one_dimensional_alternating(rows, cols, dim):
    return rearrange(one_dimensional(rows, cols, dim), "n (wave f) -> n (f wave)", wave=2)


@sincos_positions.mistake
def down_the_columns(rows, cols, dim):
    table = vit.sincos_positions(rows, cols, dim).reshape(rows, cols, dim)
    return table.transpose(0, 1).reshape(rows * cols, dim)


@sincos_positions.mistake
def divided_by_rows(rows, cols, dim):
    place = torch.arange(rows * cols)
    return _waves(place // rows, place % rows, _frequencies(dim))


@sincos_positions.mistake
def both_sines_first(rows, cols, dim):
    row_sin, row_cos, col_sin, col_cos = vit.sincos_positions(rows, cols, dim).chunk(4, dim=1)
    return torch.cat([row_sin, col_sin, row_cos, col_cos], dim=1)


@sincos_positions.mistake
def cosines_first(rows, cols, dim):
    row_sin, row_cos, col_sin, col_cos = vit.sincos_positions(rows, cols, dim).chunk(4, dim=1)
    return torch.cat([row_cos, row_sin, col_cos, col_sin], dim=1)


@sincos_positions.mistake
def alternating(rows, cols, dim):
    table = vit.sincos_positions(rows, cols, dim)
    return rearrange(table, "n (half wave f) -> n (half f wave)", half=2, wave=2)


@sincos_positions.mistake
def counted_from_one(rows, cols, dim):
    row, col = _places(rows, cols)
    return _waves(row + 1, col + 1, _frequencies(dim))


# ---------------------------------------------------------------- the module

_small = {"img_size": 8, "patch_size": 4, "in_chans": 3, "embed_dim": 6}


def _start(candidate):
    """How widely the numbers of an untrained module are spread. A black image shows it, whatever the parameters are called.

    Only for a module that computes the right tokens. Otherwise, a remark on its start would hide what is wrong with it.
    """
    image, ours = drawn(1, 3, 8, 8), fill(candidate.reference(**_small)).eval()
    try:
        theirs = filled(candidate, **_small).eval()(image)
    except NoLayout:
        theirs = None
    fits = isinstance(theirs, torch.Tensor) and theirs.shape == (1, 5, 6)
    if not fits or not theirs.allclose(ours(image), atol=1e-4):
        raise CaseFailed("this is checked as soon as the tokens are right")
    module = build(candidate, img_size=16, patch_size=4, in_chans=1, embed_dim=256).eval()
    tokens = module(torch.zeros(1, 1, 16, 16))[0]  # every patch is the same bias, plus its position
    return {
        "spread of the positions of the patches": _spread(tokens[1:] - tokens[1:].mean(dim=0)),
        "size of token 0, class token plus position": _spread(tokens[0]),
    }


def _spread(values):
    """The root mean square in words, in coarse steps, because everybody draws different numbers."""
    spread = values.square().mean().sqrt().item()
    for limit, words in ((1e-9, "0"), (0.015, "below 0.015"), (0.025, "about 0.02")):
        if spread < limit:
            return words
    return "above 0.025" if spread < 0.2 else "above 0.2"


def _shape(candidate, **options):
    """The shape of the tokens. It can be seen whatever the parameters are."""
    tokens = build(candidate, **_small, **options).eval()(drawn(3, 3, 8, 8))
    return tuple(tokens.shape) if isinstance(tokens, torch.Tensor) else tokens


def _as_linear(weight):
    """(D, C, P, P), a convolution, as the (D, P*P*C) of a linear layer on flattened patches."""
    return rearrange(weight, "d c p q -> d (p q c)") if weight.ndim == 4 else None


def _as_matrix(weight):
    return _as_linear(weight).mT if weight.ndim == 4 else None


def _embeddings_case(images, channels, image_size, patch, width):
    return forward(
        "",
        inputs=(drawn(images, channels, image_size, image_size),),
        img_size=image_size,
        patch_size=patch,
        in_chans=channels,
        embed_dim=width,
    )


def _embeddings_of(images, channels, patches, patch, width):
    rows, columns = grid(patches)
    if rows != columns:
        raise ValueError("the images are square")
    return _embeddings_case(images, channels, rows * patch, patch, width)


Embeddings = Exercise(
    vit.Embeddings,
    parameters(
        "names and shapes of the parameters",
        **_small,
        hint="Use the names of the exercise: patch_embed (a PatchEmbed), cls_token (1, 1, D), pos_embed (1, N+1, D).",
    ),
    parameters(
        "names and shapes of the parameters, without a class token",
        **_small,
        class_token=False,
        hint="class_token=False: self.cls_token is None, and pos_embed has one row for each patch, (1, N, D).",
    ),
    forward(
        "one grey image of 4 x 4, patches of 2 x 2",
        inputs=(drawn(1, 1, 4, 4),),
        img_size=4,
        patch_size=2,
        in_chans=1,
        embed_dim=6,
    ),
    forward(
        "one image of a single patch, three channels",
        inputs=(drawn(1, 3, 4, 4),),
        img_size=4,
        patch_size=4,
        in_chans=3,
        embed_dim=7,
    ),
    forward("a batch of 3", inputs=(drawn(3, 3, 8, 8),), **_small),
    forward(
        "16 patches, tokens of width 10",
        inputs=(drawn(2, 1, 8, 8),),
        img_size=8,
        patch_size=2,
        in_chans=1,
        embed_dim=10,
    ),
    forward(
        "the same in training mode",
        inputs=(drawn(2, 3, 8, 8),),
        train=True,
        hint="Equation 1 has no dropout, so training and evaluation give the same result.",
        **_small,
    ),
    forward(
        "numbers in float64 give an answer in float64",
        inputs=(drawn(2, 3, 8, 8),),
        double=True,
        **_small,
    ),
    gradients("everything can learn", inputs=(drawn(2, 3, 8, 8),), **_small),
    Case(
        "3 images of 4 patches: the shape of the tokens",
        _shape,
        "One token more than there are patches, for every image of the batch.",
    ),
    # These two are of the kind "property" so that a mistake in what is always there keeps its name if the argument is ignored.
    dataclasses.replace(
        forward(
            "a batch of 3, without a class token",
            inputs=(drawn(3, 3, 8, 8),),
            hint="class_token=False: the tokens are those of the patches, each with its position, and no others.",
            **_small,
            class_token=False,
        ),
        kind="property",
    ),
    Case(
        "3 images of 4 patches, without a class token: the shape of the tokens",
        lambda candidate: _shape(candidate, class_token=False),
        "Without a class token, there are as many tokens as patches.",
        kind="property",
    ),
    Case(
        "the start: class token 0, positions small and random",
        _start,
        "The exercise asks for cls_token of zeros and pos_embed with a standard deviation of 0.02.",
    ),
    views=(_as_linear, _as_matrix),
    sizes=(
        Sizes(
            _embeddings_of,
            images=(5, 2, 3),
            channels=(2, 5, 3),
            patches=(9, 25, 64, 16, 4),
            patch=(6, 3, 4, 2, 8),
            width=(12, 7, 64, 32, 6),
        ),
        Sizes(
            _embeddings_case,
            images=(5, 2),
            channels=(6, 5),
            image_size=(12, 24, 32, 8, 28),
            patch=(2, 4),
            width=(7, 12),
        ),
    ),
)


class BaseEmbeddings(nn.Module):
    """What alternatives and mistakes have in common; each has its own `embed`, from patches (B, N, D) to tokens."""

    extra = 1  # position vectors beyond one for each patch, if there is a class token
    spread = 0.02

    def __init__(self, img_size, patch_size, in_chans, embed_dim, class_token=True):
        super().__init__()
        self.patch_embed = vit.PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        tokens = self.patch_embed.num_patches + (self.extra if class_token else 0)
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, embed_dim) * self.spread)

    def forward(self, images):
        return self.embed(self.patch_embed(images))

    def embed(self, x):
        return self.with_class_token(x) + self.pos_embed

    def with_class_token(self, x):
        return x if self.cls_token is None else torch.cat([self.in_front(x), x], dim=1)

    def in_front(self, x):
        return self.cls_token.expand(len(x), -1, -1)


Embeddings.add_mistakes(
    PositionsNotAdded=variant(BaseEmbeddings, embed=lambda self, x: self.with_class_token(x)),
    TokenAtEnd=variant(
        BaseEmbeddings,
        with_class_token=lambda self, x: (
            BaseEmbeddings.with_class_token(self, x).roll(-1, 1) if self.cls_token is not None else x
        ),
    ),
    NoPositionForClass=variant(
        BaseEmbeddings, extra=0, embed=lambda self, x: self.with_class_token(x + self.pos_embed)
    ),
    PositionOfClassUnused=variant(
        BaseEmbeddings, embed=lambda self, x: self.with_class_token(x + self.pos_embed[:, -x.shape[1] :])
    ),
    NotExpanded=variant(BaseEmbeddings, in_front=lambda self, x: self.cls_token),
    DetachedClassToken=variant(
        BaseEmbeddings, in_front=lambda self, x: self.cls_token.detach().expand(len(x), -1, -1)
    ),
    PositionsStartLarge=variant(BaseEmbeddings, spread=1.0),
    PositionsStartTooLarge=variant(BaseEmbeddings, spread=0.1),
    PositionsStartTooSmall=variant(BaseEmbeddings, spread=0.002),
    PositionsStartAtZero=variant(BaseEmbeddings, spread=0.0),
)


@Embeddings.mistake
class OnePosition(BaseEmbeddings):
    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        self.pos_embed = nn.Parameter(self.pos_embed[:, :1].detach().clone())


@Embeddings.mistake
class ClassTokenUnused(BaseEmbeddings):
    def in_front(self, x):
        return torch.zeros_like(x[:, :1])


@Embeddings.mistake
class Reshaped(BaseEmbeddings):
    def forward(self, images):
        x = self.patch_embed.proj(images)  # (B, D, rows, columns)
        return self.embed(x.reshape(len(x), -1, x.shape[1]))


def _plain(name):
    """Right, except that this one is a plain tensor and no parameter."""

    class Plain(BaseEmbeddings):
        def __init__(self, *sizes, **named):
            super().__init__(*sizes, **named)
            value = getattr(self, name)
            delattr(self, name)
            setattr(self, name, None if value is None else value.detach())

    return Plain


@Embeddings.mistake
class FixedPositions(BaseEmbeddings):
    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        _, tokens, dim = self.pos_embed.shape
        waves = vit.sincos_positions(*self.patch_embed.grid_size, dim // 4 * 4)
        del self.pos_embed
        self.register_buffer("pos_embed", F.pad(waves, (0, dim % 4, tokens - len(waves), 0))[None])


@Embeddings.mistake
class WithDropout(BaseEmbeddings):
    def embed(self, x):
        return F.dropout(super().embed(x), 0.1, self.training)


@Embeddings.mistake
class DropoutAlways(BaseEmbeddings):
    def embed(self, x):
        return F.dropout(super().embed(x), 0.1)


@Embeddings.mistake
class NoGradient(BaseEmbeddings):
    def embed(self, x):
        return super().embed(x).detach()


def _starting(std):
    """Right, except that the class token starts at random."""

    class Starting(BaseEmbeddings):
        def __init__(self, *sizes, **named):
            super().__init__(*sizes, **named)
            if self.cls_token is not None:
                nn.init.normal_(self.cls_token, std=std)

    return Starting


@Embeddings.mistake
class NoClassToken(BaseEmbeddings):
    def __init__(self, img_size, patch_size, in_chans, embed_dim, class_token=True):
        super().__init__(img_size, patch_size, in_chans, embed_dim, class_token=False)


@Embeddings.mistake
class ClassTokenAdded(BaseEmbeddings):
    extra = 0

    def with_class_token(self, x):
        return x if self.cls_token is None else x + self.cls_token


def _frozen(name):
    """Right, except that this parameter does not take a gradient."""

    class Frozen(BaseEmbeddings):
        def __init__(self, *sizes, **named):
            super().__init__(*sizes, **named)
            getattr(self, name).requires_grad_(False)

    return Frozen


Embeddings.add_mistakes(
    PlainTensor=_plain("cls_token"),
    PlainPositions=_plain("pos_embed"),
    ClassTokenStartsRandom=_starting(1.0),
    ClassTokenStartsSmall=_starting(0.02),
    PositionsDetached=_frozen("pos_embed"),
)


# ... and what goes wrong with the fifth argument


@Embeddings.mistake
class ArgumentIgnored(BaseEmbeddings):
    def __init__(self, img_size, patch_size, in_chans, embed_dim, class_token=True):
        super().__init__(img_size, patch_size, in_chans, embed_dim)


@Embeddings.mistake
class ArgumentMissing(BaseEmbeddings):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__(img_size, patch_size, in_chans, embed_dim)


@Embeddings.mistake
class ArgumentReversed(BaseEmbeddings):
    def __init__(self, img_size, patch_size, in_chans, embed_dim, class_token=True):
        super().__init__(img_size, patch_size, in_chans, embed_dim, not class_token)


class _RowForNobody(BaseEmbeddings):
    """Without a class token, there is still a position vector for it."""

    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        if self.cls_token is None:
            self.pos_embed = nn.Parameter(F.pad(self.pos_embed.detach(), (0, 0, 1, 0)))


class _TokenLeftOver(BaseEmbeddings):
    """The class token is made in any case, but used only where it is asked for."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim, class_token=True):
        super().__init__(img_size, patch_size, in_chans, embed_dim, class_token)
        self.in_use = class_token
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))

    def with_class_token(self, x):
        return super().with_class_token(x) if self.in_use else x


Embeddings.add_mistakes(
    RowTooMany=_RowForNobody,
    RowUnused=variant(
        _RowForNobody,
        embed=lambda self, x: self.with_class_token(x) + self.pos_embed[:, self.cls_token is None :],
    ),
    ZerosInFront=variant(
        _RowForNobody,
        with_class_token=lambda self, x: (
            F.pad(x, (0, 0, 1, 0)) if self.cls_token is None else BaseEmbeddings.with_class_token(self, x)
        ),
    ),
    TokenLeftOver=_TokenLeftOver,
)
