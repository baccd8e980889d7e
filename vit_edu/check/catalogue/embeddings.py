"""Lesson 02: projection, class token, positions, and all of it as one module."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from vit_edu.check.cases import (
    Case,
    NoLayout,
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
    hints=(
        "Which axis of `patches` has the same length as an axis of `weight`?",
        "A matrix product adds up over the P*P*C numbers of a patch. `@` adds up over the *last* axis on the left and the "
        "second to last on the right, and the weight stands the other way round.",
        "`patches @ ... + ...`",
    ),
    name="project_patches",
)


@project_patches.alternative
def functional_linear(patches, weight, bias):
    return F.linear(patches, weight, bias)


@project_patches.alternative
def einsum(patches, weight, bias):
    return torch.einsum("bnp,dp->bnd", patches, weight) + bias


@project_patches.alternative
def products_added_up(patches, weight, bias):
    return (patches[:, :, None, :] * weight).sum(dim=-1) + bias


@project_patches.alternative
def number_by_number(patches, weight, bias):
    return torch.stack([patches @ w + b for w, b in zip(weight, bias, strict=True)], dim=-1)


@project_patches.alternative
def convolution_of_width_1(patches, weight, bias):
    return F.conv1d(patches.transpose(1, 2), weight[:, :, None], bias).transpose(1, 2)


@project_patches.mistake(
    "The bias is missing: y = x Wᵀ + b has two terms.",
    "What does this function make of a black patch, and what should it make?",
)
def no_bias(patches, weight, bias):
    return patches @ weight.T


@project_patches.mistake(
    "The weight is (D, P*P*C), as in `nn.Linear`: one *row* for each output number. Which of its axes does `@` add up over? "
    "With a square weight nothing crashes, and the numbers are still wrong.",
    "Run it with 12 numbers in and 8 out, then with 8 in and 8 out: which of the two would you rather have as a test?",
)
def not_transposed(patches, weight, bias):
    return patches @ weight + bias


@project_patches.mistake(
    "The weight has the right shape and the wrong order: a reshape keeps the numbers in their old sequence, a transpose "
    "exchanges rows and columns.",
    "Write [[1, 2, 3], [4, 5, 6]] on the board, once as `.reshape(3, 2)` and once as `.T`.",
)
def weight_reshaped(patches, weight, bias):
    return patches @ weight.reshape(weight.shape[::-1]) + bias


@project_patches.mistake(
    "The bias is added to the patches, before the product. It has D numbers, one for each number of the *token*.",
    "Which of (B, N, P*P*C) and (B, N, D) can a vector of length D be added to?",
)
def bias_before_the_product(patches, weight, bias):
    return (patches + bias) @ weight.T


@project_patches.mistake(
    "The bias runs along the patches: each patch gets one number of it. Each patch should get all D of them.",
    "With N = 64 patches and D = 8, how many numbers would such a bias need?",
)
def bias_along_the_patches(patches, weight, bias):
    return patches @ weight.T + bias[:, None]


@project_patches.mistake(
    "An activation follows the product. Equation 1 has none: the projection is linear, and negative numbers stay.",
    "Count the zeros in the output: how much of each patch did the activation throw away?",
)
def with_activation(patches, weight, bias):
    return (patches @ weight.T + bias).relu()


@project_patches.mistake(
    "The patches are added up to one vector for the image. Each patch is projected on its own: N in, N out.",
    "Exchange two patches of the image: does the output change, and should it?",
)
def patches_summed(patches, weight, bias):
    return torch.einsum("bnp,dp->bd", patches, weight) + bias


@project_patches.mistake(
    "The result is multiplied by the root of D. The first Transformer scaled its word embeddings like that; the ViT does "
    "not.",
    "Put the smallest example of the lesson through it, x = (1, 2, 3), and compare with the 11 and the 5 found by hand.",
)
def times_root_of_width(patches, weight, bias):
    return (patches @ weight.T + bias) * math.sqrt(len(weight))


@project_patches.mistake(
    "A new layer is made inside the function, with random weights of its own. The weight and the bias that were handed in "
    "are not used.",
    "Call the function twice with the same input: why do the answers differ?",
)
def layer_of_its_own(patches, weight, bias):
    return nn.Linear(weight.shape[1], weight.shape[0])(patches)


# ---------------------------------------------------------------- class token


def _prepend_class_token(tokens, cls_token):
    return torch.cat([cls_token.expand(len(tokens), -1, -1), tokens], dim=1)


prepend_class_token = Exercise(
    _prepend_class_token,
    call("one image, 2 tokens of width 3", drawn(1, 2, 3), drawn(1, 1, 3, seed=1)),
    call("a batch of 3: every image gets the class token", drawn(3, 4, 8), drawn(1, 1, 8, seed=1)),
    call("one token: no patch gets lost", drawn(2, 1, 4), drawn(1, 1, 4, seed=1)),
    call(
        "the class token can learn",
        drawn(2, 4, 8),
        drawn(1, 1, 8, seed=1).requires_grad_(),
        hint="Do not use .data, .detach() or torch.tensor(...) on the class token.",
    ),
    in_double(drawn(2, 4, 8), drawn(1, 1, 8, seed=1)),
    not_contiguous(drawn(2, 4, 8), drawn(1, 1, 8, seed=1)),
    passes_gradient(drawn(2, 4, 3), drawn(1, 1, 3, seed=1)),
    hints=(
        "There is one class token, and B images. What shape do B of them have?",
        "First one copy of the class token for each image, (B, 1, D), then both side by side along the axis that counts "
        "tokens. `expand` shows the same numbers B times without a copy.",
        "`torch.cat([cls_token.expand(...), ...], dim=...)`",
    ),
    name="prepend_class_token",
)


@prepend_class_token.alternative
def repeated(tokens, cls_token):
    return torch.cat([cls_token.repeat(tokens.shape[0], 1, 1), tokens], dim=1)


@prepend_class_token.alternative
def einops_repeat(tokens, cls_token):
    return torch.hstack([repeat(cls_token, "1 1 d -> b 1 d", b=len(tokens)), tokens])


@prepend_class_token.alternative
def image_by_image(tokens, cls_token):
    return torch.stack([torch.cat([cls_token[0], image]) for image in tokens])


@prepend_class_token.alternative
def into_an_empty_tensor(tokens, cls_token):
    B, N, D = tokens.shape
    result = tokens.new_empty(B, N + 1, D)
    result[:, :1] = cls_token
    result[:, 1:] = tokens
    return result


@prepend_class_token.alternative
def padded_in_front(tokens, cls_token):
    first = torch.eye(tokens.shape[1] + 1, 1, dtype=tokens.dtype)
    return F.pad(tokens, (0, 0, 1, 0)) + first * cls_token


@prepend_class_token.mistake(
    "The class token stands at the end. In the paper, and in published weights, it is token 0: "
    "whoever reads `tokens[:, 0]` later gets a patch instead.",
    "The head of lesson 05 reads `tokens[:, 0]`: which patch of the image would decide the class?",
)
def appended(tokens, cls_token):
    return torch.cat([tokens, cls_token.expand(len(tokens), -1, -1)], dim=1)


@prepend_class_token.mistake(
    "The class token is *added* to the tokens. It should be one more token, in front of them: N becomes N + 1.",
    "After this, which token belongs to no patch?",
)
def added(tokens, cls_token):
    return tokens + cls_token


@prepend_class_token.mistake(
    "The first patch is overwritten by the class token. Nothing should get lost: N tokens become N + 1.",
    "What happens here to an image that is a single patch?",
)
def overwritten(tokens, cls_token):
    return torch.cat([cls_token.expand(len(tokens), -1, -1), tokens[:, 1:]], dim=1)


@prepend_class_token.mistake(
    "This works for a batch of one only. `torch.cat` does not broadcast: there must be a class token for every image of the "
    "batch.",
    "Which axes may differ in `torch.cat([a, b], dim=1)`, and which must agree?",
)
def not_expanded(tokens, cls_token):
    return torch.cat([cls_token, tokens], dim=1)


@prepend_class_token.mistake(
    "There is a class token for every *patch*: N tokens become 2 N. An image gets one.",
    "Say what each number in `expand(B, ?, D)` counts.",
)
def one_for_every_patch(tokens, cls_token):
    return torch.cat([cls_token.expand_as(tokens), tokens], dim=1)


@prepend_class_token.mistake(
    "The class token is put beside the tokens: each of them becomes twice as wide. It is a token of its own, so N grows, "
    "not D.",
    "Draw the tokens of one image as rows: does the class token make the block taller or wider?",
)
def beside_the_tokens(tokens, cls_token):
    return torch.cat([cls_token.expand_as(tokens), tokens], dim=2)


@prepend_class_token.mistake(
    "The numbers are right, but the class token is cut off from the gradient. It would keep its first value for the whole "
    "training.",
    "Train for a hundred steps and print the class token before and after.",
)
def detached(tokens, cls_token):
    return torch.cat([cls_token.detach().expand(len(tokens), -1, -1), tokens], dim=1)


@prepend_class_token.mistake(
    "Token 0 is made of zeros. The class token only *starts* as zeros; what it has learned since comes in as `cls_token`.",
    "What does this return when `cls_token` is all ones?",
)
def zeros_in_front(tokens, cls_token):
    B, _, D = tokens.shape
    return torch.cat([tokens.new_zeros(B, 1, D), tokens], dim=1)


@prepend_class_token.mistake(
    "The result is float32, whatever came in: `torch.zeros(...)` makes that unless it is told otherwise. Take dtype and "
    "device from `tokens`.",
    "On which device does `torch.zeros(3)` stand when the model is on a GPU?",
)
def always_float32(tokens, cls_token):
    B, N, D = tokens.shape
    result = torch.zeros(B, N + 1, D)
    result[:, :1] = cls_token
    result[:, 1:] = tokens
    return result


# ---------------------------------------------------------------- sine-cosine positions


def _lengths(candidate):
    return candidate(3, 4, 8).square().sum(dim=1)


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
    hints=(
        "How many frequencies are there, and how many rows and columns has the table?",
        "Three steps: the D/4 frequencies; row and column of each place in reading order; each of the two times each "
        "frequency, as a table of angles (N, D/4). Then sines and cosines side by side.",
        "`omega = 10000.0 ** (-torch.arange(...) / ...)`, `row = row.flatten()[:, None] * omega`, the same for the column, "
        "`torch.cat([row.sin(), ...], dim=1)`",
    ),
)


@sincos_positions.alternative
def loops(rows, cols, dim):
    table = torch.zeros(rows * cols, dim)
    quarter = dim // 4
    for r in range(rows):
        for c in range(cols):
            for i in range(quarter):
                w = 10000 ** (-i / quarter)
                quad = [math.sin(r * w), math.cos(r * w), math.sin(c * w), math.cos(c * w)]
                table[r * cols + c, i::quarter] = torch.tensor(quad)
    return table


@sincos_positions.alternative
def quotient_and_remainder(rows, cols, dim):
    place = torch.arange(rows * cols, dtype=torch.float32)
    omega = torch.exp(-math.log(10000) * torch.arange(dim // 4) / (dim // 4))
    row = torch.outer(place.div(cols, rounding_mode="floor"), omega)
    col = torch.outer(place % cols, omega)
    return torch.hstack([row.sin(), row.cos(), col.sin(), col.cos()])


@sincos_positions.alternative
def axis_by_axis(rows, cols, dim):
    def waves(count):
        angle = torch.arange(count)[:, None] / 10000 ** (torch.arange(0, dim, 4) / dim)
        return torch.cat([angle.sin(), angle.cos()], dim=1)  # (count, D/2)

    row = repeat(waves(rows), "r d -> (r c) d", c=cols)
    col = repeat(waves(cols), "c d -> (r c) d", r=rows)
    return torch.cat([row, col], dim=1)


@sincos_positions.alternative
def complex_waves(rows, cols, dim):
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).double()  # (N, 2)
    omega = torch.logspace(0, -4, dim // 4 + 1, dtype=torch.float64)[:-1]
    turned = torch.polar(torch.ones(1, 1, 1).double(), places[..., None] * omega)  # (N, 2, D/4)
    return torch.stack([turned.imag, turned.real], dim=2).flatten(1).float()


def _places(rows, cols):
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    return row.flatten(), col.flatten()


def _frequencies(dim):
    return 10000.0 ** (-torch.arange(dim // 4) / (dim // 4))


def _waves(row, col, omega):
    row, col = row[:, None] * omega, col[:, None] * omega
    return torch.cat([row.sin(), row.cos(), col.sin(), col.cos()], dim=1)


@sincos_positions.mistake(
    "Column and row are exchanged: the first half of the vector should tell the row, the second half the column.",
    "Row 0, column 1 with D = 4: which two of the four numbers should be 0 and 1?",
)
def column_first(rows, cols, dim):
    row, col = _places(rows, cols)
    return _waves(col, row, _frequencies(dim))


@sincos_positions.mistake(
    "These are one-dimensional positions: they count the patches from 0 to N - 1. Patch 7 and the patch below it look "
    "far apart to the model; the row and the column should be told separately.",
    "In an 8 x 8 grid, which numbers do a patch and the patch below it have, and how far apart are those?",
)
def one_dimensional(rows, cols, dim):
    half = dim // 2
    omega = 10000.0 ** (-torch.arange(half) / half)
    angle = torch.arange(rows * cols)[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1)


@sincos_positions.mistake(
    "The frequencies fall too slowly: the exponent is divided by dim. Over all frequencies ω should fall from 1 "
    "towards 1/10,000: how many frequencies are there?",
    "What is the last frequency for D = 64, here and in the formula of the lesson?",
)
def exponent_over_the_width(rows, cols, dim):
    return _waves(*_places(rows, cols), 10000.0 ** (-torch.arange(dim // 4) / dim))


@sincos_positions.mistake(
    "The exponent is divided by one less than the number of frequencies. Some published code does that; here it is "
    "divided by dim / 4. With a single frequency yours divides by zero.",
    "Look at the table for D = 4: where does the `nan` come from?",
)
def exponent_over_one_less(rows, cols, dim):
    return _waves(*_places(rows, cols), 10000.0 ** (-torch.arange(dim // 4) / (dim // 4 - 1)))


@sincos_positions.mistake(
    "The frequencies grow instead of falling: the minus in the exponent is missing. ω should start at 1 and go down.",
    "How many turns does a wave of frequency 1,000 make between two neighbouring patches?",
)
def growing_frequencies(rows, cols, dim):
    return _waves(*_places(rows, cols), 1 / _frequencies(dim))


@sincos_positions.mistake(
    "All frequencies are the same. Is the exponent a whole number somewhere, as after `//`? ω should fall from 1 "
    "towards 1/10,000.",
    "Print `torch.arange(4) // 4` next to `torch.arange(4) / 4`.",
)
def one_frequency(rows, cols, dim):
    return _waves(*_places(rows, cols), torch.ones(dim // 4))


@sincos_positions.mistake(
    "The base of the frequencies is 100, not 10,000.",
    "For D = 64 the slowest wave has a length of 2π/ω: with which of the two bases does it repeat within a row of 1,000?",
)
def base_of_100(rows, cols, dim):
    return _waves(*_places(rows, cols), _frequencies(dim) ** 0.5)


@sincos_positions.mistake(
    "The patches are numbered down the columns: row and column are repeated in the wrong order. Patch 1 stands to the "
    "right of patch 0, not below it.",
    "Number the patches of a 2 x 3 grid on the board, in the order in which `patchify` cuts them.",
)
def down_the_columns(rows, cols, dim):
    table = vit.sincos_positions(rows, cols, dim).reshape(rows, cols, dim)
    return table.transpose(0, 1).reshape(rows * cols, dim)


@sincos_positions.mistake(
    "Place n is divided by the number of rows. How many places does one row hold? On a square grid this cannot be seen.",
    "In a grid of 3 rows and 5 columns, in which row and column is patch 4?",
)
def divided_by_rows(rows, cols, dim):
    place = torch.arange(rows * cols)
    return _waves(place // rows, place % rows, _frequencies(dim))


@sincos_positions.mistake(
    "The order is sin, sin, cos, cos. Here the row comes first with its sine *and* its cosine, then the column.",
    "Name the four quarters of the vector aloud, in the order of the formula.",
)
def both_sines_first(rows, cols, dim):
    row_sin, row_cos, col_sin, col_cos = vit.sincos_positions(rows, cols, dim).chunk(4, dim=1)
    return torch.cat([row_sin, col_sin, row_cos, col_cos], dim=1)


@sincos_positions.mistake(
    "Sines and cosines alternate, as in the first Transformer. Here each of the four parts is in one piece, dim / 4 long.",
    "Both tables hold the same numbers: what goes wrong when a model trained with one is given the other?",
)
def alternating(rows, cols, dim):
    table = vit.sincos_positions(rows, cols, dim)
    return rearrange(table, "n (half wave f) -> n (half f wave)", half=2, wave=2)


@sincos_positions.mistake(
    "The angles are taken as degrees. `sin` reads radians, and r times ω is already the angle.",
    "What are sin(1) and sin(1°), and which of them tells rows 0 and 1 apart better?",
)
def degrees(rows, cols, dim):
    return _waves(*_places(rows, cols), _frequencies(dim) * math.pi / 180)


@sincos_positions.mistake(
    "Rows and columns are counted from 1. They start at 0: the first vector is sin 0 = 0, cos 0 = 1.",
    "Look at the first line of the table: what should it be, without any calculation?",
)
def counted_from_one(rows, cols, dim):
    row, col = _places(rows, cols)
    return _waves(row + 1, col + 1, _frequencies(dim))


# ---------------------------------------------------------------- the module

_small = {"img_size": 8, "patch_size": 4, "in_chans": 3, "embed_dim": 6}


def _start(candidate):
    """How far the numbers of an untrained module scatter. A black image shows it whatever the parameters are called.

    Only for a module that computes the right tokens: otherwise another start would hide what is wrong with it.
    """
    image, ours = drawn(1, 3, 8, 8), fill(candidate.reference(**_small)).eval()
    try:
        theirs = filled(candidate, **_small).eval()(image)
    except NoLayout:
        theirs = None
    fits = isinstance(theirs, torch.Tensor) and theirs.shape == (1, 5, 6)
    if not fits or not theirs.allclose(ours(image), atol=1e-4):
        raise Unfair("looked at as soon as the tokens are right")
    module = build(candidate, img_size=16, patch_size=4, in_chans=1, embed_dim=256).eval()
    tokens = module(torch.zeros(1, 1, 16, 16))[0]  # every patch is the same bias, plus its position
    return {
        "spread of the positions of the patches": _spread(tokens[1:] - tokens[1:].mean(dim=0)),
        "spread of token 0, class token plus position": _spread(tokens[0]),
    }


def _spread(values):
    """In steps, because everybody draws other numbers."""
    spread = values.std().item()
    for limit, words in ((1e-9, "0"), (0.015, "below 0.015"), (0.025, "about 0.02")):
        if spread < limit:
            return words
    return "above 0.025" if spread < 0.2 else "above 0.2"


def _as_linear(weight):
    """(D, C, P, P), a convolution, as the (D, P*P*C) of a linear layer on flattened patches."""
    return rearrange(weight, "d c p q -> d (p q c)") if weight.ndim == 4 else None


def _as_matrix(weight):
    return _as_linear(weight).mT if weight.ndim == 4 else None


Embeddings = Exercise(
    vit.Embeddings,
    parameters(
        "names and shapes of the parameters",
        **_small,
        hint="Use the names of the exercise: patch_embed (a PatchEmbed), cls_token (1, 1, D), pos_embed (1, N+1, D).",
    ),
    forward(
        "one grey image of 4 x 4, patches of 2 x 2",
        inputs=(drawn(1, 1, 4, 4),),
        img_size=4,
        patch_size=2,
        in_chans=1,
        embed_dim=6,
    ),
    forward("one image with three channels", inputs=(drawn(1, 3, 8, 8),), **_small),
    forward("a batch of 3", inputs=(drawn(3, 3, 8, 8),), **_small),
    forward(
        "16 patches",
        inputs=(drawn(2, 1, 8, 8),),
        img_size=8,
        patch_size=2,
        in_chans=1,
        embed_dim=6,
    ),
    forward(
        "in training mode, the same",
        inputs=(drawn(2, 3, 8, 8),),
        train=True,
        hint="Equation 1 has no dropout: training and evaluation give the same.",
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
        "the start: class token 0, positions small and random",
        _start,
        "The exercise asks for cls_token of zeros and pos_embed with a standard deviation of 0.02.",
    ),
    hints=(
        "You have all the pieces: what do exercises 1 and 2 do, and what is left of equation 1?",
        "`__init__` makes what is learned: the `PatchEmbed`, and two `nn.Parameter`. `forward` reads like equation 1: "
        "patches to tokens, class token in front, then add one position vector to each of the N + 1 tokens.",
        "`self.pos_embed = nn.Parameter(torch.randn(1, ..., embed_dim) * ...)`; `x = self.patch_embed(images)`, "
        "`x = torch.cat([..., x], dim=1)`, `return x + ...`",
    ),
    views=(_as_linear, _as_matrix),
)


class _Embeddings(nn.Module):
    """What alternatives and mistakes have in common; each has its own `embed`, from patches (B, N, D) to tokens."""

    extra = 1  # position vectors beyond one for each patch
    spread = 0.02

    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        self.patch_embed = vit.PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        tokens = self.patch_embed.num_patches + self.extra
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, embed_dim) * self.spread)

    def forward(self, images):
        return self.embed(self.patch_embed(images))

    def embed(self, x):
        return self.with_class_token(x) + self.pos_embed

    def with_class_token(self, x):
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)


@Embeddings.alternative
class WithRepeat(_Embeddings):
    def embed(self, x):
        return torch.cat([self.cls_token.repeat(x.shape[0], 1, 1), x], dim=1) + self.pos_embed


@Embeddings.alternative
class TwoParts(_Embeddings):
    def embed(self, x):
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return torch.cat([first, x + self.pos_embed[:, 1:]], dim=1)


@Embeddings.alternative
class FlatParameters(nn.Module):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        tokens = (img_size // patch_size) ** 2 + 1
        self.positions = nn.Parameter(torch.empty(tokens, embed_dim))
        self.class_vector = nn.Parameter(torch.zeros(embed_dim))
        self.conv = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, images):
        x = rearrange(self.conv(images), "b d r c -> b (r c) d")
        first = repeat(self.class_vector, "d -> b 1 d", b=len(x))
        return torch.cat([first, x], dim=1) + self.positions


@Embeddings.alternative
class LinearOnPatches(nn.Module):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        self.patch_size = patch_size
        self.project = nn.Linear(patch_size**2 * in_chans, embed_dim)
        self.cls = nn.Parameter(torch.zeros(1, embed_dim))
        self.place = nn.Parameter(torch.zeros((img_size // patch_size) ** 2 + 1, embed_dim))
        nn.init.normal_(self.place, std=0.02)

    def forward(self, images):
        x = self.project(vit.patchify(images, self.patch_size))
        x = torch.stack([torch.cat([self.cls, image]) for image in x])
        return x + self.place


@Embeddings.alternative
class BareMatrix(nn.Module):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        self.patch_size = patch_size
        size = patch_size**2 * in_chans
        self.E_weight = nn.Parameter(torch.randn(size, embed_dim) / size**0.5)
        self.E_bias = nn.Parameter(torch.zeros(embed_dim))
        self.x_class = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.E_pos = nn.Parameter(torch.normal(0.0, 0.02, (1, (img_size // patch_size) ** 2 + 1, embed_dim)))

    def forward(self, images):
        x = vit.patchify(images, self.patch_size) @ self.E_weight + self.E_bias
        tokens = self.E_pos.repeat(len(x), 1, 1)
        tokens[:, 0] += self.x_class[0, 0]
        tokens[:, 1:] += x
        return tokens


@Embeddings.mistake(
    "There is one position vector for all tokens: it is added to each of them alike, so it tells nothing about the place. "
    "Every patch needs its own, and so does the class token: (1, N + 1, D).",
    "Subtract two neighbouring tokens: what is left of the position?",
)
class OnePosition(_Embeddings):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        self.pos_embed = nn.Parameter(torch.randn(1, 1, embed_dim) * self.spread)


@Embeddings.mistake(
    "`pos_embed` exists, but nothing adds it to the tokens: the model cannot tell where a patch was.",
    "After one backward pass, print `pos_embed.grad`.",
)
class PositionsNotAdded(_Embeddings):
    def embed(self, x):
        return self.with_class_token(x)


@Embeddings.mistake(
    "The class token stands at the end. It should be token 0, and the first position vector is its own.",
    "Load published weights into this: whose position does the first patch get?",
)
class TokenAtEnd(_Embeddings):
    def embed(self, x):
        return torch.cat([x, self.cls_token.expand(len(x), -1, -1)], dim=1) + self.pos_embed


@Embeddings.mistake(
    "The class token gets no position: only the patches do. In the ViT it has a position vector of its own "
    "(paper, equation 1: E_pos has N + 1 rows).",
    "Count the rows of E_pos in equation 1, then the rows of `pos_embed`.",
)
class NoPositionForClass(_Embeddings):
    extra = 0

    def embed(self, x):
        return self.with_class_token(x + self.pos_embed)


@Embeddings.mistake(
    "Row 0 of `pos_embed` is there and never used: positions are added to the patches, and the class token comes after "
    "that. First put all N + 1 tokens together, then add.",
    "After one backward pass, which rows of `pos_embed.grad` are zero?",
)
class PositionOfClassUnused(_Embeddings):
    def embed(self, x):
        return self.with_class_token(x + self.pos_embed[:, 1:])


@Embeddings.mistake(
    "The convolution gives (B, D, rows, columns), and a reshape to (B, N, D) mixes the patches: each token holds numbers of "
    "several. The D numbers of a patch have to be moved together first; calling `self.patch_embed(images)` does all that.",
    "Let one patch be white and the rest black: how many tokens does the white patch change?",
)
class Reshaped(_Embeddings):
    def forward(self, images):
        x = self.patch_embed.proj(images)  # (B, D, rows, columns)
        return self.embed(x.reshape(len(x), -1, x.shape[1]))


@Embeddings.mistake(
    "This works for a batch of one only: `cls_token` is (1, 1, D), and `torch.cat` needs one for every image.",
    "With which batch size would a quick try have shown this, and with which not?",
)
class NotExpanded(_Embeddings):
    def embed(self, x):
        return torch.cat([self.cls_token, x], dim=1) + self.pos_embed


@Embeddings.mistake(
    "`cls_token` is a plain tensor. Only an `nn.Parameter` is seen by the optimiser, saved with the model and moved to "
    "the GPU.",
    "Print `[name for name, _ in module.named_parameters()]`: what is missing?",
)
class PlainTensor(_Embeddings):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        del self.cls_token
        self.cls_token = torch.zeros(1, 1, embed_dim)


@Embeddings.mistake(
    "The positions are the fixed waves of exercise 3. This exercise asks for learned ones: a parameter, small random "
    "numbers at the start.",
    "Which positions in this lesson can change during training, and how would you see it?",
)
class FixedPositions(_Embeddings):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        waves = vit.sincos_positions(*self.patch_embed.grid_size, embed_dim // 4 * 4)
        del self.pos_embed
        self.register_buffer("pos_embed", F.pad(waves, (0, embed_dim % 4, 1, 0))[None])


@Embeddings.mistake(
    "The class token is cut off from the gradient, by `.data` or `.detach()`: it stays at zero for ever.",
    "Two lines show it: `module(x).sum().backward()`, then `print(module.cls_token.grad)`.",
)
class DetachedClassToken(_Embeddings):
    def with_class_token(self, x):
        return torch.cat([self.cls_token.detach().expand(len(x), -1, -1), x], dim=1)


@Embeddings.mistake(
    "A dropout changes the tokens during training. Equation 1 has none, and this exercise asks for none.",
    "Run it twice in training mode with the same image: should a plain sum give two answers?",
)
class WithDropout(_Embeddings):
    def embed(self, x):
        return F.dropout(super().embed(x), 0.1, self.training)


@Embeddings.mistake(
    "The positions start fifty times too large: `torch.randn` has a standard deviation of 1, and 0.02 is asked for. At "
    "first the model would see mostly positions, and hardly any image.",
    "Print the standard deviation of `patch_embed(images)` next to that of `pos_embed`.",
)
class PositionsStartLarge(_Embeddings):
    spread = 1.0


@Embeddings.mistake(
    "The positions start at zero. Then they are all alike, and the untrained model cannot tell places apart; small random "
    "numbers, standard deviation 0.02, are asked for.",
    "What would the shuffled patches further down in this lesson show for a model whose positions are all zero?",
)
class PositionsStartAtZero(_Embeddings):
    spread = 0.0


@Embeddings.mistake(
    "The class token starts at random. The exercise asks for zeros: it has seen nothing yet.",
    "What would you want a token to say that belongs to no patch and has learned nothing?",
)
class ClassTokenStartsRandom(_Embeddings):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim))


EXERCISES = [project_patches, prepend_class_token, sincos_positions, Embeddings]
