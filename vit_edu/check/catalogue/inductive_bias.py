"""Lesson 08: a convolution as a matrix, what layers cost and how far they see, shifted images, a bias towards what is near."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu import inspect
from vit_edu.check.cases import (
    Case,
    CaseFailed,
    apply,
    call,
    drawn,
    in_double,
    not_contiguous,
    passes_gradient,
    plain_number,
)
from vit_edu.check.engine import Exercise
from vit_edu.check.probes import Sizes
from vit_edu.models import costs, local

# ---------------------------------------------------------------- a convolution as a matrix


def _numbered(rows, cols):
    return torch.arange(1.0, rows * cols + 1).reshape(rows, cols)


conv_matrix = Exercise(
    costs.conv_matrix,
    call(
        "the kernel 1 to 9 on a grid of 2 x 3 pixels",
        _numbered(3, 3),
        2,
        3,
        hint="Row i of the matrix belongs to pixel i of the result: pixel i itself gets the middle of the kernel.",
    ),
    call("the same kernel on a grid of 4 x 3 pixels", _numbered(3, 3), 4, 3),
    call("a kernel of a single number", torch.tensor([[5.0]]), 2, 3),
    call("a 3 x 3 kernel on 4 x 5 pixels", drawn(3, 3), 4, 5),
    call(
        "a 5 x 5 kernel on 6 x 7 pixels",
        drawn(5, 5),
        6,
        7,
        hint="The kernel reaches K // 2 pixels in each direction.",
    ),
    call("a 3 x 3 kernel on 4 x 4 pixels", drawn(3, 3), 4, 4),
    call("a kernel that is larger than the grid", drawn(5, 5), 2, 3, kind="property"),
    call("a single row of pixels", drawn(3, 3), 1, 4, kind="property"),
    call("a single column of pixels", drawn(3, 3), 4, 1, kind="property"),
    in_double(drawn(3, 3), 3, 4),
    not_contiguous(drawn(3, 3), 3, 4),
    sizes=Sizes(
        lambda kernel, rows, columns: call("", drawn(kernel, kernel), rows, columns),
        kernel=(5, 7, 3, 1),
        rows=(6, 5, 4, 8, 2),
        columns=(9, 7, 4, 8, 3),
    ),
)


def _places(rows, cols):
    """Row and column (N,) of each place in a grid, in reading order."""
    numbers = torch.arange(rows * cols)
    return numbers // cols, numbers % cols


def _looked_up(kernel, down, right):
    """The numbers of the kernel at these rows and columns of it, 0 where it has none."""
    outside = (down < 0) | (down >= len(kernel)) | (right < 0) | (right >= len(kernel))
    last = len(kernel) - 1
    return kernel[down.clamp(0, last), right.clamp(0, last)].masked_fill(outside, 0)


def _with_middle_at(middle):
    def wrong(kernel, rows, cols):
        row, col = _places(rows, cols)
        at = middle(len(kernel))
        return _looked_up(kernel, row - row[:, None] + at, col - col[:, None] + at)

    return wrong


def _beyond_the_border(inside):
    """What lies beyond the border is taken from a pixel inside. inside: place, number of places -> a place that exists."""

    def wrong(kernel, rows, cols):
        reach, matrix = len(kernel) // 2, kernel.new_zeros(rows * cols, rows * cols)
        row, col = _places(rows, cols)
        for a in range(len(kernel)):
            for b in range(len(kernel)):
                seen = inside(row + a - reach, rows) * cols + inside(col + b - reach, cols)
                matrix[torch.arange(rows * cols), seen] += kernel[a, b]
        return matrix

    return wrong


conv_matrix.add_mistakes(
    flipped=lambda kernel, rows, cols: costs.conv_matrix(kernel.flip(0, 1), rows, cols),
    kernel_transposed=lambda kernel, rows, cols: costs.conv_matrix(kernel.mT, rows, cols),
    upside_down=lambda kernel, rows, cols: costs.conv_matrix(kernel.flip(0), rows, cols),
    mirrored=lambda kernel, rows, cols: costs.conv_matrix(kernel.flip(1), rows, cols),
    corner_on_the_pixel=_with_middle_at(lambda size: 0),
    middle_at_one=_with_middle_at(lambda size: 1),
    around_the_edge=_beyond_the_border(lambda places, number: places % number),
    border_repeated=_beyond_the_border(lambda places, number: places.clamp(0, number - 1)),
    counted_in_columns=lambda kernel, rows, cols: costs.conv_matrix(kernel, cols, rows),
    column_order=lambda kernel, rows, cols: costs.conv_matrix(kernel.mT, cols, rows),
    grid_left=lambda kernel, rows, cols: costs.conv_matrix(kernel, rows, cols).reshape(
        rows, cols, rows, cols
    ),
    only_where=lambda kernel, rows, cols: costs.conv_matrix(torch.ones_like(kernel), rows, cols),
)


@conv_matrix.mistake
def next_row_continues(kernel, rows, cols):
    N, reach = rows * cols, len(kernel) // 2
    matrix = kernel.new_zeros(N, N)
    for a in range(len(kernel)):
        for b in range(len(kernel)):
            along = (a - reach) * cols + b - reach
            if abs(along) < N:
                matrix.diagonal(along).add_(kernel[a, b])
    return matrix


@conv_matrix.mistake
def without_padding(kernel, rows, cols):
    K = len(kernel)
    lines = []
    for r in range(rows - K + 1):
        for c in range(cols - K + 1):
            image = kernel.new_zeros(rows, cols)
            image[r : r + K, c : c + K] = kernel
            lines.append(image.flatten())
    return torch.stack(lines) if lines else kernel.new_zeros(0, rows * cols)


@conv_matrix.mistake
def border_left_out(kernel, rows, cols):
    row, col = _places(rows, cols)
    reach = len(kernel) // 2
    whole = (row >= reach) & (row < rows - reach) & (col >= reach) & (col < cols - reach)
    return costs.conv_matrix(kernel, rows, cols) * whole[:, None]


# ---------------------------------------------------------------- what a layer costs


layer_cost = Exercise(
    costs.layer_cost,
    call(
        "attention over 2 tokens of width 3",
        "attention",
        2,
        3,
        hint="Four linear layers from D to D, and two products with T x T weights. Every layer has a bias.",
    ),
    call(
        "a 3 x 3 convolution at 4 places of width 2",
        "convolution",
        4,
        2,
        hint="Each of the D channels of the result has a kernel of 3 x 3 x D numbers, and a bias.",
    ),
    call(
        "an MLP for 2 tokens of width 3",
        "mlp",
        2,
        3,
        hint="From D to 4 D and back, each layer with a bias.",
    ),
    call("attention over 65 tokens of width 64", "attention", 65, 64),
    call("attention over 100 tokens of width 4", "attention", 100, 4),
    call("attention over a single token", "attention", 1, 8),
    call("a 3 x 3 convolution at 64 places of width 32", "convolution", 64, 32),
    call("a 5 x 5 convolution at 9 places of width 6", "convolution", 9, 6, 5),
    call("a 1 x 1 convolution at 9 places of width 6", "convolution", 9, 6, 1),
    call("an MLP for 64 tokens of width 32", "mlp", 64, 32),
    call("an MLP of ratio 2 for 5 tokens of width 6", "mlp", 5, 6, 3, 2),
    sizes=Sizes(
        lambda tokens, width, kernel, ratio: Case(
            "",
            lambda candidate: [
                apply(candidate, layer, tokens, width, kernel, ratio)
                for layer in ("attention", "convolution", "mlp")
            ],
        ),
        tokens=(20, 50, 17, 65, 64, 10),
        width=(12, 40, 64, 32, 8),
        kernel=(5, 7, 3, 1),
        ratio=(3, 5, 4, 2),
    ),
)


def _costs(
    linear=4,
    pairs=lambda tokens, dim: 2 * tokens**2 * dim,
    attention_bias=None,
    weights=lambda dim, kernel: kernel**2 * dim**2,
    channel_bias=lambda dim: dim,
    one_way=False,
    hidden_bias=lambda dim, hidden: hidden + dim,
    add_biases=True,
):
    """The costs, with one of these parts changed.

    linear: how many layers from dim to dim attention has. pairs: what its products cost. attention_bias: its biases, if not as many as these layers have. weights: of the convolution.
    channel_bias: its biases. one_way: whether the MLP has no way back. hidden_bias: the biases of the MLP.
    """

    def wrong(layer, tokens, dim, kernel=3, ratio=4):
        if layer == "attention":
            w, more = linear * dim**2, pairs(tokens, dim)
            b = attention_bias(dim) if attention_bias else linear * dim
        elif layer == "convolution":
            w, b, more = weights(dim, kernel), channel_bias(dim), 0
        else:
            hidden = int(ratio * dim)
            w, b, more = (1 if one_way else 2) * dim * hidden, hidden_bias(dim, hidden), 0
        return w + add_biases * b, tokens * w + more

    return wrong


def _then(change):
    """Both costs, changed. change: parameters, multiply_adds, tokens, parameters without biases -> what is returned."""

    def wrong(layer, tokens, dim, kernel=3, ratio=4):
        found = costs.layer_cost(layer, tokens, dim, kernel, ratio)
        without = _costs(add_biases=False)(layer, tokens, dim, kernel, ratio)[0]
        return change(*found, tokens, without)

    return wrong


layer_cost.add_mistakes(
    pairs_left_out=_costs(pairs=lambda tokens, dim: 0),
    one_product=_costs(pairs=lambda tokens, dim: tokens**2 * dim),
    pairs_without_width=_costs(pairs=lambda tokens, dim: 2 * tokens**2),
    tokens_not_squared=_costs(pairs=lambda tokens, dim: 2 * tokens * dim),
    qkv_once=_costs(linear=2),
    output_projection_left_out=_costs(linear=3),
    kernel_not_squared=_costs(weights=lambda dim, kernel: kernel * dim**2),
    each_channel_for_itself=_costs(weights=lambda dim, kernel: kernel**2 * dim),
    kernel_forgotten=_costs(weights=lambda dim, kernel: dim**2),
    bias_for_each_pair=_costs(channel_bias=lambda dim: dim**2),
    one_way=_costs(one_way=True, hidden_bias=lambda dim, hidden: hidden),
    biases_of_width_dim=_costs(hidden_bias=lambda dim, hidden: 2 * dim),
    hidden_biases_only=_costs(hidden_bias=lambda dim, hidden: hidden),
    qkv_without_biases=_costs(attention_bias=lambda dim: dim),
    biases_left_out=_costs(add_biases=False),
    counted_twice=_then(lambda weights, products, tokens, without: (weights, 2 * products)),
    for_one_token=_then(
        lambda weights, products, tokens, without: (weights, products - (tokens - 1) * without)
    ),
    weights_for_every_token=_then(lambda weights, products, tokens, without: (weights * tokens, products)),
    biases_multiplied=_then(
        lambda weights, products, tokens, without: (weights, products + tokens * (weights - without))
    ),
    exchanged=_then(lambda weights, products, tokens, without: (products, weights)),
    as_floats=_then(lambda weights, products, tokens, without: (float(weights), float(products))),
)


# ---------------------------------------------------------------- how far a stack of layers sees


def _stack(name, kernels, strides, hint=""):
    """A case for layers with these kernels and strides, handed over in new lists."""
    return Case(name, lambda candidate: candidate(list(kernels), list(strides)), hint)


receptive_field = Exercise(
    costs.receptive_field,
    _stack("one 3 x 3 layer", [3], [1]),
    _stack(
        "two 3 x 3 layers of stride 1",
        [3, 3],
        [1, 1],
        hint="A place of the second layer sees three places of the first, and these overlap.",
    ),
    _stack(
        "stride 2 in the first of two layers",
        [3, 3],
        [2, 1],
        hint="After a stride of 2, neighbouring places are two pixels apart.",
    ),
    _stack(
        "stride 2 in the second of two layers",
        [3, 3],
        [1, 2],
        hint="The stride of a layer spreads out what comes after it, not what it sees itself.",
    ),
    _stack("one layer that cuts 16 x 16 patches", [16], [16]),
    _stack("patches of 4 x 4, then two 3 x 3 layers", [4, 3, 3], [4, 1, 1]),
    _stack("the stem of a hybrid: five 3 x 3 layers with strides 2, 2, 1, 1, 2", [3] * 5, [2, 2, 1, 1, 2]),
    _stack("kernels 7, 3, 1, 5 with strides 4, 1, 2, 1", [7, 3, 1, 5], [4, 1, 2, 1]),
    _stack("kernels 1, 5, 3, 2 with strides 3, 2, 2, 3", [1, 5, 3, 2], [3, 2, 2, 3]),
    sizes=Sizes(
        lambda kernel, stride, layers: _stack("", [kernel] * layers, [stride] * layers),
        kernel=(5, 7, 3, 2),
        stride=(3, 4, 2, 1),
        layers=(4, 6, 2, 3),
    ),
)


def _grown(grow, step=lambda step, kernel, stride: step * stride, start=1):
    """A stack whose field grows, layer by layer, by grow(kernel, stride, step), where `step` changes as the other says."""

    def wrong(kernels, strides):
        field, between = start, 1
        for kernel, stride in zip(kernels, strides, strict=True):
            field += grow(kernel, stride, between)
            between = step(between, kernel, stride)
        return field

    return wrong


def _exactly(kernel, stride, step):
    return (kernel - 1) * step


receptive_field.add_mistakes(
    strides_ignored=_grown(lambda kernel, stride, step: kernel - 1),
    own_stride_first=_grown(lambda kernel, stride, step: (kernel - 1) * step * stride),
    last_stride_alone=_grown(_exactly, step=lambda step, kernel, stride: stride),
    strides_added=_grown(_exactly, step=lambda step, kernel, stride: step + stride),
    strides_less_one_added=_grown(_exactly, step=lambda step, kernel, stride: step + stride - 1),
    own_stride_alone=_grown(lambda kernel, stride, step: (kernel - 1) * stride),
    whole_kernel_added=_grown(lambda kernel, stride, step: kernel * step),
    starts_at_zero=_grown(_exactly, start=0),
    kernels_multiplied=lambda kernels, strides: math.prod(kernels),
    kernels_added=lambda kernels, strides: sum(kernels),
    half_a_kernel=_grown(lambda kernel, stride, step: kernel // 2 * step),
    from_the_wrong_end=lambda kernels, strides: costs.receptive_field(kernels[::-1], strides[::-1]),
    all_strides_at_once=lambda kernels, strides: (
        1 + sum(kernel - 1 for kernel in kernels) * math.prod(strides)
    ),
    step_returned=lambda kernels, strides: math.prod(strides),
    first_layer_alone=lambda kernels, strides: costs.receptive_field(kernels[:1], strides[:1]),
    last_layer_alone=lambda kernels, strides: costs.receptive_field(kernels[-1:], strides[-1:]),
    area=lambda kernels, strides: costs.receptive_field(kernels, strides) ** 2,
    after_every_layer=lambda kernels, strides: [
        costs.receptive_field(kernels[:n], strides[:n]) for n in range(1, len(kernels) + 1)
    ],
)


# ---------------------------------------------------------------- images that move


class _Seer(nn.Module):
    """A small model that weighs every pixel. In train mode its logits depend on the whole batch."""

    def __init__(self, channels, height, width, classes):
        super().__init__()
        self.weight = nn.Parameter(drawn(channels, height, width, classes, seed=1).cumsum(2))
        self.norm = nn.BatchNorm1d(classes, affine=False)  # in eval mode it changes next to nothing

    def forward(self, images):
        if images.ndim != 4 or images.shape[1:] != self.weight.shape[:-1]:
            raise CaseFailed(
                "the model reads images of shape (B, {sizes}), and got {shape}",
                sizes=", ".join(map(str, self.weight.shape[:-1])),
                shape=tuple(images.shape),
            )
        return self.norm(torch.einsum("bchw,chwk->bk", images, self.weight))


def _share(candidate, pixels, images=24, classes=4, height=5, width=7, channels=3, seed=0, train=False):
    """(the share that the candidate gives for a new model and images that move by so many pixels, the model)."""
    model = _Seer(channels, height, width, classes).train(train)
    # Not 0 on average: the model likes some classes better, and the mean of a batch matters.
    x = 0.4 + drawn(images, channels, height, width, seed=seed)
    return plain_number(apply(candidate, model, x, pixels)), model


def _shifted(name, pixels, hint="", **setting):
    return Case(name, lambda candidate: _share(candidate, pixels, **setting)[0], hint)


def _mode_afterwards(name, hint="", **setting):
    def run(candidate):
        _value, model = _share(candidate, 2, **setting)
        return "train" if model.training and model.norm.training else "eval"

    return Case(name, run, hint)


def _shift_case(images, channels, classes, image_height, image_width, shift):
    """Several shares, because one may be right by chance."""
    return Case(
        "",
        lambda candidate: [
            _share(candidate, shift, images, classes, image_height, image_width, channels, seed)[0]
            for seed in range(4)
        ],
    )


shift_consistency = Exercise(
    inspect.shift_consistency,
    _shifted(
        "24 images of 5 x 7 pixels, moved by 1",
        1,
        "To the right: what was in column 0 comes to column 1. What comes in on the left is the picture mirrored there.",
    ),
    _shifted("24 images of 5 x 7 pixels, moved by 2", 2),
    _shifted("24 images of 5 x 7 pixels, moved by 4", 4),
    _shifted("24 images of 6 x 6 pixels, moved by 3", 3, height=6, width=6),
    _shifted(
        "moved by 0 pixels: every answer stays",
        0,
        "Nothing moves, so no answer changes. Mind that `x[..., :-0]` is empty.",
    ),
    _shifted("a single image that keeps its class", 1, images=1),
    _shifted(
        "as many images as classes", 1, "The classes are on the last axis of the logits.", images=6, classes=6
    ),
    _shifted(
        "a model that was in train mode is asked in eval mode",
        2,
        "The model answers in eval mode: `model.eval()`, and that for both predictions.",
        train=True,
    ),
    _mode_afterwards(
        "... and goes back to train mode afterwards",
        "Remember model.training before, and restore it afterwards.",
        train=True,
    ),
    _mode_afterwards("a model in eval mode stays there"),
    sizes=Sizes(
        _shift_case,
        images=(41, 29, 24, 64),
        channels=(4, 2, 3),
        classes=(7, 11, 10, 5),
        image_height=(6, 9, 8, 32),
        image_width=(12, 11, 8, 32),
        shift=(3, 5, 1, 2, 4, 8),
    ),
)


def _same_class(a, b):
    return a.argmax(1) == b.argmax(1)


def _kept(model, images, moved, same=_same_class, switch=True, afterwards=bool):
    """The share of the images for which the logits are the `same` after the move, with everything around it.

    switch: whether the model goes into eval mode. afterwards: the mode before -> the mode afterwards, True for train mode.
    """
    before = model.training
    if switch:
        model.eval()
    with torch.no_grad():
        kept = same(model(images), model(moved)).float().mean().item()
    model.train(afterwards(before))
    return kept


def _to_the_right(images, pixels, mode="reflect"):
    return F.pad(images, (pixels, 0, 0, 0), mode=mode)[..., : images.shape[-1]]


def _edge_doubled(images, pixels):
    return torch.cat([images[..., :pixels].flip(-1), images], dim=-1)[..., : images.shape[-1]]


def _with(move):
    return lambda model, images, pixels: _kept(model, images, move(images, pixels))


def _asked(**how):
    return lambda model, images, pixels: _kept(model, images, _to_the_right(images, pixels), **how)


shift_consistency.add_mistakes(
    rolled=_with(lambda images, pixels: images.roll(pixels, -1)),
    zeros_come_in=_with(lambda images, pixels: _to_the_right(images, pixels, "constant")),
    edge_repeated=_with(lambda images, pixels: _to_the_right(images, pixels, "replicate")),
    edge_doubled=_with(_edge_doubled),
    moved_to_the_left=_with(lambda images, pixels: inspect.shift(images, 0, -pixels)),
    moved_down=_with(lambda images, pixels: inspect.shift(images, pixels, 0)),
    moved_both_ways=_with(lambda images, pixels: inspect.shift(images, pixels, pixels)),
    rolled_without_axis=_with(lambda images, pixels: images.roll(pixels)),
    never_moved=_with(lambda images, pixels: images),
    moved_by_one=_with(lambda images, pixels: _to_the_right(images, 1)),
    cut_off_at_the_end=_with(
        lambda images, pixels: F.pad(images, (pixels, 0, 0, 0), mode="reflect")[..., :-pixels]
    ),
    argmax_over_images=_asked(same=lambda a, b: a.argmax(0) == b.argmax(0)),
    logits_compared=_asked(same=lambda a, b: torch.isclose(a, b, atol=1e-5).all(1)),
    share_that_changes=_asked(same=lambda a, b: a.argmax(1) != b.argmax(1)),
    stays_in_train_mode=_asked(switch=False),
    left_in_eval_mode=_asked(afterwards=lambda before: False),
    train_mode_afterwards=_asked(afterwards=lambda before: True),
    count_of_images=lambda model, images, pixels: round(
        inspect.shift_consistency(model, images, pixels) * len(images)
    ),
    in_percent=lambda model, images, pixels: 100 * inspect.shift_consistency(model, images, pixels),
)


# ---------------------------------------------------------------- the grid behind a stem


def _stem_case(image_height, image_width, stride, kernel):
    if kernel % 2 == 0:
        raise ValueError("the kernels of the exercise are odd")
    return call("", (image_height, image_width), [stride, stride], kernel)


stem_grid = Exercise(
    costs.stem_grid,
    call("32 x 32 pixels, one layer of stride 2", (32, 32), (2,)),
    call("32 x 32 pixels, strides 2, 2, 1", (32, 32), (2, 2, 1)),
    call("an image that is wider than high, 24 x 40, strides 2, 1, 4", (24, 40), (2, 1, 4)),
    call(
        "odd sides, 7 x 9 pixels, stride 2",
        (7, 9),
        (2,),
        hint="Lay the kernel at places 0, 2, 4 and so on of a line of 7 pixels, and count.",
    ),
    call("odd sides on the way, 9 x 22 pixels, strides 2, 2, 2", (9, 22), (2, 2, 2)),
    call("strides of 3 and 2, 20 x 31 pixels", (20, 31), (3, 2)),
    call("5 x 5 kernels, 15 x 12 pixels, strides 2, 2", (15, 12), (2, 2), 5),
    call("7 x 7 kernels, 13 x 30 pixels, strides 4, 1", (13, 30), (4, 1), 7),
    call("1 x 1 kernels, 11 x 8 pixels, strides 2, 3", (11, 8), (2, 3), 1),
    call("5 x 5 kernels on an image of 3 x 2 pixels", (3, 2), (2, 1), 5),
    sizes=Sizes(
        _stem_case,
        image_height=(45, 50, 32, 224, 28),
        image_width=(38, 61, 32, 224, 28),
        stride=(3, 4, 2, 1),
        kernel=(5, 7, 3, 1),
    ),
)


def _layer_by_layer(after):
    """A grid of which each side, in each layer, becomes after(side, stride, kernel)."""

    def wrong(size, strides, kernel=3):
        rows, cols = size
        for stride in strides:
            rows, cols = after(rows, stride, kernel), after(cols, stride, kernel)
        return rows, cols

    return wrong


stem_grid.add_mistakes(
    rounded_down=_layer_by_layer(lambda side, stride, kernel: side // stride),
    rounded_to_the_nearest=_layer_by_layer(lambda side, stride, kernel: round(side / stride)),
    without_padding=_layer_by_layer(lambda side, stride, kernel: (side - kernel) // stride + 1),
    padded_by_one=_layer_by_layer(lambda side, stride, kernel: (side + 2 - kernel) // stride + 1),
    padded_on_one_side=_layer_by_layer(
        lambda side, stride, kernel: (side + kernel // 2 - kernel) // stride + 1
    ),
    padded_by_the_kernel=_layer_by_layer(lambda side, stride, kernel: (side + kernel) // stride + 1),
    one_missing=_layer_by_layer(lambda side, stride, kernel: (side - 1) // stride),
    one_too_many=_layer_by_layer(lambda side, stride, kernel: side // stride + 1),
    not_rounded=_layer_by_layer(lambda side, stride, kernel: side / stride),
    as_floats=lambda size, strides, kernel=3: tuple(map(float, costs.stem_grid(size, strides, kernel))),
    strides_added=lambda size, strides, kernel=3: tuple(-(-side // sum(strides)) for side in size),
    first_layer_alone=lambda size, strides, kernel=3: costs.stem_grid(size, strides[:1], kernel),
    last_layer_alone=lambda size, strides, kernel=3: costs.stem_grid(size, strides[-1:], kernel),
    columns_first=lambda size, strides, kernel=3: costs.stem_grid(size[::-1], strides, kernel),
    height_for_both=lambda size, strides, kernel=3: costs.stem_grid((size[0], size[0]), strides, kernel),
    width_for_both=lambda size, strides, kernel=3: costs.stem_grid((size[1], size[1]), strides, kernel),
    number_of_tokens=lambda size, strides, kernel=3: math.prod(costs.stem_grid(size, strides, kernel)),
)


# ---------------------------------------------------------------- a bias towards what is near

distance_bias = Exercise(
    local.distance_bias,
    call("a row of 4 patches, heads of strength 1 and 2", (1, 4), torch.tensor([1.0, 2.0])),
    call("a grid of 2 x 3 patches, one head of strength 1", (2, 3), torch.tensor([1.0])),
    call("a grid of 3 x 2 patches, one head of strength 1", (3, 2), torch.tensor([1.0])),
    call(
        "4 x 5 patches and three heads, one of which likes what is far",
        (4, 5),
        torch.tensor([0.5, 2.0, -1.5]),
    ),
    call("a square grid, 4 x 4 patches, and 6 heads", (4, 4), 2.0 ** -torch.arange(6)),
    call("a head of strength 0 and one of strength 1", (2, 2), torch.tensor([0.0, 1.0])),
    call("a single patch", (1, 1), torch.tensor([1.0, 2.0, 3.0]), kind="property"),
    call("a single head", (6, 2), torch.tensor([2.0])),
    in_double((3, 4), torch.tensor([0.3, 1.7])),
    passes_gradient(
        (2, 3),
        torch.tensor([0.5, 1.5]),
        hint="The strengths are learned. Do not use .data, .detach(), .item(), .tolist() or torch.tensor(...) on the way.",
    ),
    sizes=Sizes(
        lambda rows, columns, heads: call("", (rows, columns), torch.arange(heads) / 4 - 0.6),
        rows=(3, 5, 4, 8, 2),
        columns=(7, 6, 4, 8, 2),
        heads=(5, 3, 2, 4, 8),
    ),
)


def _biased(distance, grid, strength):
    """A bias in which this distance stands for the Euclidean one. distance: rows and columns between two patches -> (N, N)."""
    row, col = _places(*grid)
    between = distance((row - row[:, None]).abs(), (col - col[:, None]).abs())
    return -strength[:, None, None] * between.to(strength)


def _by(distance):
    return lambda grid, strength: _biased(distance, grid, strength)


def _largest_is_one(grid, strength):
    distance = -local.distance_bias(grid, torch.ones(1))
    return -strength[:, None, None] * distance / distance.max()


distance_bias.add_mistakes(
    squared=_by(lambda down, right: down**2 + right**2),
    along_the_streets=_by(lambda down, right: down + right),
    larger_of_the_two=_by(torch.maximum),
    rows_only=_by(lambda down, right: down),
    columns_only=_by(lambda down, right: right),
    no_minus=lambda grid, strength: -local.distance_bias(grid, strength),
    counted_in_columns=lambda grid, strength: local.distance_bias(grid[::-1], strength),
    in_reading_order=lambda grid, strength: local.distance_bias((1, grid[0] * grid[1]), strength),
    divided_by_the_strength=lambda grid, strength: local.distance_bias(grid, 1 / strength),
    already_exponentiated=lambda grid, strength: local.distance_bias(grid, strength).exp(),
    heads_last=lambda grid, strength: local.distance_bias(grid, strength).permute(1, 2, 0),
    heads_added_up=lambda grid, strength: local.distance_bias(grid, strength).sum(0),
    first_head_for_all=lambda grid, strength: local.distance_bias(grid, strength[:1].expand_as(strength)),
    largest_is_one=_largest_is_one,
    cut_off=lambda grid, strength: local.distance_bias(grid, strength.detach()),
)
