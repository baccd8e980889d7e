"""Lesson 11, detection: cross-attention, formats of boxes, IoU and GIoU, the cost of a match, the loss of a set, average precision."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vit_edu import boxes as ours
from vit_edu.check.cases import (
    Case,
    CaseFailed,
    call,
    drawn,
    filled,
    forward,
    generator,
    gradients,
    in_double,
    not_contiguous,
    parameters,
    passes_gradient,
    plain_number,
    settled,
)
from vit_edu.check.compare import described
from vit_edu.check.engine import Exercise, variant
from vit_edu.check.probes import Sizes
from vit_edu.models import detr, vit

# ---------------------------------------------------------------- cross-attention

_small = 12, 3  # dim, num_heads


def _two(images, queries, tokens, width):
    """Queries and a memory. They are far from each other, so that nobody takes the one for the other unnoticed."""
    return drawn(images, queries, width), 1 + drawn(images, tokens, width, seed=1)


def _attended(name, images, queries, tokens, dim=12, num_heads=3, **more):
    return forward(name, dim, num_heads, inputs=_two(images, queries, tokens, dim), **more)


def _order_of_the_memory(candidate):
    module, (x, memory) = filled(candidate, *_small).eval(), _two(2, 3, 6, 12)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    return torch.allclose(module(x, memory), module(x, memory[:, order]), atol=1e-5)


def _each_query_alone(candidate):
    module, (x, memory) = filled(candidate, *_small).eval(), _two(2, 4, 5, 12)
    return torch.allclose(module(x, memory)[:, 1:2], module(x[:, 1:2], memory), atol=1e-5)


def _each_image_alone(candidate):
    module, (x, memory) = filled(candidate, *_small).eval(), _two(3, 4, 5, 12)
    return torch.allclose(module(x, memory)[:1], module(x[:1], memory[:1]), atol=1e-5)


def _gradients_of_both(candidate):
    module, inputs = filled(candidate, *_small).eval(), _two(1, 2, 3, 12)
    x, memory = (value.requires_grad_() for value in inputs)
    out = module(x, memory)
    if not isinstance(out, torch.Tensor):
        raise CaseFailed("expected one tensor, got {got}", got=described(out))
    if not out.requires_grad:
        raise CaseFailed("the output is cut off from the gradient")
    (out * drawn(*out.shape, seed=2)).sum().backward()
    if x.grad is None:
        raise CaseFailed("no gradient reaches x, so the queries could not learn")
    if memory.grad is None:
        raise CaseFailed("no gradient reaches the memory, so the encoder could not learn")
    return x.grad, memory.grad


CrossAttention = Exercise(
    detr.CrossAttention,
    parameters(
        "names and shapes of the parameters",
        *_small,
        hint="Three linear layers: q, from D to D, kv, from D to 2 D, and proj, from D to D.",
    ),
    _attended("1 query, 2 tokens of width 4, 2 heads", 1, 1, 2, 4, 2),
    _attended(
        "2 queries, 5 tokens, 3 heads",
        1,
        2,
        5,
        hint="x asks, so q is made of x. memory answers, so kv is made of memory. The result is as long as x.",
    ),
    _attended("more queries than tokens, 6 and 4", 2, 6, 4),
    _attended(
        "as many queries as tokens, 5",
        2,
        5,
        5,
        hint="Here x and memory have the same shape, but only x asks and only memory is read.",
    ),
    _attended("as many queries as heads", 2, 3, 5),
    _attended("a batch of 4", 4, 2, 7),
    _attended("one head", 2, 3, 5, 8, 1),
    _attended("a memory of one token: there is nothing to choose from", 2, 3, 1),
    _attended(
        "the same in training mode",
        2,
        3,
        5,
        train=True,
        hint="Nothing here depends on the mode: there is no dropout in this exercise.",
    ),
    _attended("numbers in float64 give an answer in float64", 2, 3, 5, double=True),
    Case(
        "the order of the memory's tokens does not matter",
        _order_of_the_memory,
        "Whatever order the keys have, their values have the same, and the sum is the same.",
        kind="weights",
    ),
    Case(
        "a query alone gets what it gets among others",
        _each_query_alone,
        "Queries hear of each other in the self-attention of the decoder, not here.",
        kind="weights",
    ),
    Case(
        "the images of a batch do not look at each other",
        _each_image_alone,
        "Image 0 must give the same result alone and in a batch, so keep the batch axis out of every product.",
        kind="weights",
    ),
    gradients("everything can learn", *_small, inputs=_two(2, 3, 5, 12)),
    Case(
        "the gradients of x and of the memory",
        _gradients_of_both,
        "Do not use .data, .detach() or no_grad on the way. The encoder learns through the memory.",
        1e-4,
        kind="weights",
    ),
    sizes=Sizes(
        lambda images, queries, tokens, width, heads: _attended("", images, queries, tokens, width, heads),
        images=(5, 3, 2, 8),
        queries=(9, 7, 4, 3, 100),
        tokens=(7, 6, 17, 64),
        width=(24, 48, 64, 32, 12),
        heads=(2, 8, 4, 3, 12),
    ),
)


class BaseCrossAttention(nn.Module):
    """What alternatives and mistakes have in common: `mix`, from q (B, Q, D), k, v (B, N, D) to (B, Q, D), calls `attend` on heads."""

    bias = True

    def __init__(self, dim, num_heads=8):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.kv = nn.Linear(dim, dim, bias=self.bias), nn.Linear(dim, 2 * dim, bias=self.bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, memory):
        return self.proj(self.mix(*self.three(x, memory)))

    def three(self, x, memory):
        return self.q(x), *self.kv(memory).chunk(2, dim=-1)

    def mix(self, q, k, v):
        return vit.merge_heads(self.attend(*self.heads(q, k, v)))

    def heads(self, *tensors):
        return [vit.split_heads(t, self.num_heads) for t in tensors]

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


def _scores(q, k):
    return q @ k.mT / math.sqrt(q.shape[-1])


def _attend(attend):
    return variant(BaseCrossAttention, attend=lambda self, q, k, v: attend(q, k, v))


def _read(three):
    return variant(BaseCrossAttention, three=three)


CrossAttention.add_mistakes(
    Exchanged=_read(lambda self, x, memory: BaseCrossAttention.three(self, memory, x)),
    SelfAttention=_read(lambda self, x, memory: BaseCrossAttention.three(self, x, x)),
    KeysOfTheQueries=_read(
        lambda self, x, memory: (self.q(x), self.kv(x).chunk(2, -1)[0], self.kv(memory).chunk(2, -1)[1])
    ),
    ValuesOfTheQueries=_read(
        lambda self, x, memory: (self.q(x), self.kv(memory).chunk(2, -1)[0], self.kv(x).chunk(2, -1)[1])
    ),
    BothInTheMemory=_read(
        lambda self, x, memory: BaseCrossAttention.three(self, x, torch.cat([x, memory], dim=1))
    ),
    KeysAndValuesExchanged=_read(lambda self, x, memory: (self.q(x), *self.kv(memory).chunk(2, -1)[::-1])),
    Interleaved=_read(
        lambda self, x, memory: (self.q(x), *rearrange(self.kv(memory), "b n (d two) -> two b n d", two=2))
    ),
    HeadsBeforeKV=_read(
        lambda self, x, memory: (
            self.q(x),
            *rearrange(self.kv(memory), "b n (h two d) -> two b n (h d)", two=2, h=self.num_heads),
        )
    ),
    SplitAlongTokens=_read(lambda self, x, memory: (self.q(x), *self.kv(memory).chunk(2, dim=1))),
    QueriesNotProjected=_read(lambda self, x, memory: (x, *self.kv(memory).chunk(2, -1))),
    ValuesNotProjected=_read(lambda self, x, memory: (self.q(x), self.kv(memory).chunk(2, -1)[0], memory)),
    MemoryDetached=_read(lambda self, x, memory: BaseCrossAttention.three(self, x, memory.detach())),
    NoScale=_attend(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=1.0)),
    NoSoftmax=_attend(lambda q, k, v: _scores(q, k) @ v),
    SoftmaxOverQueries=_attend(lambda q, k, v: _scores(q, k).softmax(dim=-2) @ v),
    SoftmaxOverHeads=_attend(lambda q, k, v: _scores(q, k).softmax(dim=1) @ v),
    ScaleByFullWidth=variant(
        BaseCrossAttention,
        attend=lambda self, q, k, v: F.scaled_dot_product_attention(
            q, k, v, scale=(self.num_heads * q.shape[-1]) ** -0.5
        ),
    ),
    NoHeads=variant(BaseCrossAttention, mix=lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v)),
    NoProjection=variant(
        BaseCrossAttention, forward=lambda self, x, memory: self.mix(*self.three(x, memory))
    ),
    ReshapedToMerge=variant(
        BaseCrossAttention, mix=lambda self, q, k, v: self.attend(*self.heads(q, k, v)).reshape(q.shape)
    ),
    ReshapedToSplit=variant(
        BaseCrossAttention,
        heads=lambda self, *tensors: [t.reshape(len(t), self.num_heads, t.shape[1], -1) for t in tensors],
    ),
    SkipInside=variant(
        BaseCrossAttention,
        forward=lambda self, x, memory: x + BaseCrossAttention.forward(self, x, memory),
    ),
    DropoutWhileTraining=variant(
        BaseCrossAttention,
        forward=lambda self, x, memory: F.dropout(
            BaseCrossAttention.forward(self, x, memory), 0.1, self.training
        ),
    ),
    NoBias=variant(BaseCrossAttention, bias=False),
)


@CrossAttention.mistake
class AcrossTheBatch(BaseCrossAttention):
    def mix(self, q, k, v):
        return super().mix(*(t.transpose(0, 1) for t in (q, k, v))).transpose(0, 1)


@CrossAttention.mistake
class WeightsReturnedToo(BaseCrossAttention):
    def forward(self, x, memory):
        q, k, _v = self.heads(*self.three(x, memory))
        return super().forward(x, memory), _scores(q, k).softmax(dim=-1)


# ---------------------------------------------------------------- boxes by their corners


def _centred(*shape, seed=0):
    """Boxes of this many rows: middle, width and height, in shares of the image."""
    middle, size = torch.rand(2, *shape, 2, generator=generator(seed))
    return torch.cat([0.2 + 0.6 * middle, 0.1 + 0.4 * size], dim=-1)


def _cornered(count, seed=0, size=10.0):
    """Boxes by their corners, some of which overlap."""
    return size * ours.to_corners(_centred(count, seed=seed))


to_corners = Exercise(
    ours.to_corners,
    call(
        "a box around (4, 6) that is 2 wide and 6 high",
        torch.tensor([[4.0, 6.0, 2.0, 6.0]]),
        hint="Half of the width lies to the left of the middle: x1 is 4 - 1 = 3. y1 is 6 - 3 = 3.",
    ),
    call("3 boxes", _centred(3)),
    call(
        "as many boxes as numbers in each, 4",
        _centred(4),
        hint="The four numbers of a box are the last axis.",
    ),
    call("boxes in pixels", 32 * _centred(5)),
    call("a box that is 3 wide and 5 high", torch.tensor([[10.0, 20.0, 3.0, 5.0]])),
    call("boxes of 2 images, 3 each", _centred(2, 3)),
    call("a single box, (4,)", _centred()),
    call("a box that ends outside of the image", torch.tensor([[0.1, 0.9, 0.4, 0.6]])),
    call("a box without width", torch.tensor([[0.5, 0.25, 0.0, 0.5]]), kind="property"),
    call("no boxes, (0, 4)", torch.zeros(0, 4), kind="property"),
    not_contiguous(_centred(3)),
    in_double(_centred(3)),
    passes_gradient(_centred(3)),
    sizes=Sizes(lambda boxes1: call("", _centred(boxes1)), boxes1=(5, 3, 1, 2, 4, 10, 100)),
)


def _corners_of(
    *corner, stack=lambda four: torch.stack(four, dim=-1), numbers=lambda boxes: boxes.unbind(-1)
):
    """to_corners with these four functions of cx, cy, w, h. numbers, stack: how the four are taken out and put together."""
    return lambda boxes: stack([value(*numbers(boxes)) for value in corner])


_FOUR = (
    lambda cx, cy, w, h: cx - w / 2,
    lambda cx, cy, w, h: cy - h / 2,
    lambda cx, cy, w, h: cx + w / 2,
    lambda cx, cy, w, h: cy + h / 2,
)
_x1, _y1, _x2, _y2 = _FOUR

to_corners.add_mistakes(
    whole_size=_corners_of(
        lambda cx, cy, w, h: cx - w,
        lambda cx, cy, w, h: cy - h,
        lambda cx, cy, w, h: cx + w,
        lambda cx, cy, w, h: cy + h,
    ),
    corner_for_centre=_corners_of(
        lambda cx, cy, w, h: cx,
        lambda cx, cy, w, h: cy,
        lambda cx, cy, w, h: cx + w,
        lambda cx, cy, w, h: cy + h,
    ),
    sizes_kept=_corners_of(_x1, _y1, lambda cx, cy, w, h: w, lambda cx, cy, w, h: h),
    other_way_round=lambda boxes: ours.to_centres(boxes),
    y_first=_corners_of(_y1, _x1, _y2, _x2),
    x_before_y=_corners_of(_x1, _x2, _y1, _y2),
    y_upwards=_corners_of(_x1, _y2, _x2, _y1),
    sizes_exchanged=lambda boxes: ours.to_corners(boxes[..., [0, 1, 3, 2]]),
    last_pixel=lambda boxes: ours.to_corners(boxes) - boxes.new_tensor([0, 0, 1, 1]),
    clamped=lambda boxes: ours.to_corners(boxes).clamp(0, 1),
    whole_numbers=_corners_of(
        lambda cx, cy, w, h: cx - w // 2,
        lambda cx, cy, w, h: cy - h // 2,
        lambda cx, cy, w, h: cx + w // 2,
        lambda cx, cy, w, h: cy + h // 2,
    ),
    unpacked_by_rows=_corners_of(*_FOUR, numbers=lambda boxes: boxes.unbind(0)),
    stacked_in_front=_corners_of(*_FOUR, stack=torch.stack),
    one_after_the_other=_corners_of(*_FOUR, stack=lambda four: torch.cat(four, dim=-1)),
    matrix_only=_corners_of(
        *_FOUR,
        numbers=lambda boxes: [boxes[:, i] for i in range(4)],
        stack=lambda four: torch.stack(four, dim=1),
    ),
    cut_off=lambda boxes: ours.to_corners(boxes).detach(),
)


@to_corners.mistake
def corner_moved_first(boxes):
    cx, cy, w, h = boxes.clone().unbind(-1)
    cx = cx - w / 2
    cy = cy - h / 2
    return torch.stack([cx, cy, cx + w / 2, cy + h / 2], dim=-1)


@to_corners.mistake
def in_place(boxes):
    boxes[..., :2] -= boxes[..., 2:] / 2
    boxes[..., 2:] += boxes[..., :2]
    return boxes


# ---------------------------------------------------------------- intersection over union


def _pairs(first, second, size=10.0):
    return _cornered(first, seed=1, size=size), _cornered(second, seed=2, size=size)


def _rows(*rows):
    return torch.tensor(rows, dtype=torch.float32)


_one = _rows([0, 0, 4, 4])

# Around the box from (4, 4) to (8, 8): beside it, above it, on either diagonal, at its edge, inside it, the same
_around = _rows(
    [9, 4, 12, 8],
    [4, 0, 8, 3],
    [0, 0, 2, 3],
    [10, 9, 14, 14],
    [0, 10, 3, 12],
    [8, 4, 12, 8],
    [5, 5, 7, 6],
    [4, 4, 8, 8],
)

_flat = _rows([1, 1, 1, 1], [1, 1, 3, 1], [2, 0, 2, 5]), _rows([1, 1, 1, 1], [0, 0, 4, 4], [2, 1, 2, 3])


def _with_itself(candidate):
    """The candidate's value for a small box and itself. CaseFailed if it is a little less than 1."""
    box = _rows([0.5, 0.5, 0.51, 0.51])
    found = settled(candidate, box, box)
    if isinstance(found, torch.Tensor) and found.numel() == 1 and 0.5 < found < 1 - 5e-5:
        raise CaseFailed("expected 1, got {value:.6g}", value=found.item())
    return found


def _about_pairs(small_hint, flat, flat_hint):
    """The cases that IoU and generalised IoU share."""
    return (
        call("4 x 4 pixels and 4 x 4 pixels, which share 2 x 2", _one, _rows([2, 2, 6, 6]), hint=small_hint),
        call("a box with itself, and with one inside it", _one, _rows([0, 0, 4, 4], [1, 1, 3, 2])),
        call(
            "boxes around a box: beside it, above it, on the diagonals, at its edge",
            _around,
            _rows([4, 4, 8, 8]),
            hint="Two boxes that are apart in x or in y share nothing.",
        ),
        call("3 boxes with 2", *_pairs(3, 2), hint="(M, N): row i belongs to box i of the first argument."),
        call(
            "as many in both, 4 with 4",
            *_pairs(4, 4),
            hint="Each box with each, not the pairs in the same row.",
        ),
        call("shares of the image, 0..1", *_pairs(3, 5, 1.0)),
        call("small boxes, about 0.03 wide", *_pairs(3, 4, 0.1)),
        Case(
            "a box of 0.01 x 0.01 with itself: 1",
            _with_itself,
            "Whatever keeps you from dividing by 0 should not change any other share.",
            shows="added_to_the_union",
        ),
        call("left of and above the origin", *(value - 8 for value in _pairs(3, 4))),
        call(flat, *_flat, hint=flat_hint),
        call("one box with one", *_pairs(1, 1), kind="property"),
        call("no boxes with 3: (0, 3)", torch.zeros(0, 4), _cornered(3), kind="property"),
        not_contiguous(*_pairs(3, 4)),
        in_double(*_pairs(3, 4)),
        passes_gradient(*_pairs(3, 4)),
    )


_pair_sizes = Sizes(
    lambda boxes1, boxes2: call("", *_pairs(boxes1, boxes2)),
    boxes1=(5, 3, 2, 4, 10, 100),
    boxes2=(7, 6, 2, 4, 10, 100),
)

box_iou = Exercise(
    ours.box_iou,
    *_about_pairs(
        "They share 4 pixels. Together they cover 16 + 16 - 4 = 28.",
        "boxes without area: 0, never NaN",
        "0 / 0 is NaN. Where the union is 0, nothing is shared.",
    ),
    sizes=_pair_sizes,
)


def _area(boxes, more=0.0):
    return (boxes[..., 2] - boxes[..., 0] + more) * (boxes[..., 3] - boxes[..., 1] + more)


def _sides(first, second, high=torch.maximum, low=torch.minimum):
    """(M, N, 2): width and height of what each pair shares, negative where it shares nothing."""
    return low(first[:, None, 2:], second[:, 2:]) - high(first[:, None, :2], second[:, :2])


def _shared(first, second):
    return _sides(first, second).clamp(min=0).prod(-1)


def _hull(first, second):
    return _sides(first, second, torch.minimum, torch.maximum).prod(-1)


def _both_areas(first, second):
    return _area(first)[:, None], _area(second)[None]


def _safely(part, whole):
    """part / whole, and 0 for nothing of nothing."""
    return torch.where(whole == 0, 0, part / torch.where(whole == 0, 1, whole))


def _iou(first, second, shared=_shared, areas=_both_areas, share=_safely):
    """IoU, with one of these parts changed."""
    both, (a, b) = shared(first, second), areas(first, second)
    return share(both, a + b - both)


def _iou_with(**part):
    return lambda first, second: _iou(first, second, **part)


def _over(whole):
    """What they share, as a share of something else. whole: (area of the first, area of the second, shared, hull) -> (M, N)."""

    def found(first, second):
        both = _shared(first, second)
        return _safely(both, whole(*_both_areas(first, second), both, _hull(first, second)))

    return found


def _of_wrong_order(function):
    """With the columns read as x1, x2, y1, y2."""
    return lambda first, second: function(first[:, [0, 2, 1, 3]], second[:, [0, 2, 1, 3]])


def _as_sizes(boxes):
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


def _same_rows(function):
    """Only the pairs in the same row, as after leaving out the axis that makes every pair."""
    return lambda first, second: torch.stack(
        [
            function(a[None], b[None])[0, 0]
            for a, b in zip(*torch.broadcast_tensors(first, second), strict=True)
        ]
    )


box_iou.add_mistakes(
    no_clamp=_iou_with(shared=lambda a, b: _sides(a, b).prod(-1)),
    clamped_after_the_product=_iou_with(shared=lambda a, b: _sides(a, b).prod(-1).clamp(min=0)),
    counted_twice=_over(lambda a, b, both, hull: a + b),
    subtracted_twice=_over(lambda a, b, both, hull: a + b - 2 * both),
    dice=lambda first, second: _safely(2 * _shared(first, second), sum(_both_areas(first, second))),
    of_the_first=_over(lambda a, b, both, hull: a.expand_as(both)),
    of_the_second=_over(lambda a, b, both, hull: b.expand_as(both)),
    of_the_smaller=_over(lambda a, b, both, hull: torch.minimum(a, b)),
    of_the_hull=_over(lambda a, b, both, hull: hull),
    hull_for_intersection=_iou_with(shared=_hull),
    lower_corner_by_maximum=_iou_with(
        shared=lambda a, b: _sides(a, b, low=torch.maximum).clamp(min=0).prod(-1)
    ),
    areas_from_the_origin=_iou_with(
        areas=lambda a, b: ((a[:, 2] * a[:, 3])[:, None], (b[:, 2] * b[:, 3])[None])
    ),
    read_as_centres=lambda first, second: _iou(ours.to_corners(first), ours.to_corners(second)),
    read_as_sizes=lambda first, second: _iou(_as_sizes(first), _as_sizes(second)),
    columns_mixed_up=_of_wrong_order(_iou),
    last_pixel_counted=_iou_with(
        shared=lambda a, b: (_sides(a, b) + 1).clamp(min=0).prod(-1),
        areas=lambda a, b: (_area(a, 1)[:, None], _area(b, 1)[None]),
    ),
    last_pixel_in_areas=_iou_with(areas=lambda a, b: (_area(a, 1)[:, None], _area(b, 1)[None])),
    added_to_the_union=_iou_with(share=lambda part, whole: part / (whole + 1e-6)),
    zero_by_zero=_iou_with(share=lambda part, whole: part / whole),
    same_rows_only=_same_rows(_iou),
    transposed=lambda first, second: _iou(second, first),
    distance=lambda first, second: 1 - _iou(first, second),
    cut_off=lambda first, second: _iou(first, second).detach(),
)

# ---------------------------------------------------------------- generalised IoU

generalized_box_iou = Exercise(
    ours.generalized_box_iou,
    *_about_pairs(
        "IoU is 4 / 28. The hull is 6 x 6, and 36 - 28 of its 36 pixels belong to neither box.",
        "boxes without area: no NaN",
        "0 / 0 is NaN. Where a whole is 0, its share is 0 here: of the union as of the hull.",
    ),
    sizes=_pair_sizes,
)


def _giou(
    first,
    second,
    iou=_iou,
    hull=_hull,
    empty=lambda hull, union, both: hull - union,
    join=torch.sub,
    share=_safely,
):
    """Generalised IoU, with one of these parts changed. empty: what belongs to neither."""
    both = _shared(first, second)
    union = sum(_both_areas(first, second)) - both
    around = hull(first, second)
    return join(iou(first, second), share(empty(around, union, both), around))


def _giou_with(**part):
    return lambda first, second: _giou(first, second, **part)


def _square_hull(first, second):
    return _sides(first, second, torch.minimum, torch.maximum).amax(-1) ** 2


def _hull_of_all(first, second):
    every = torch.cat([first, second])
    return (every[:, 2:].amax(0) - every[:, :2].amin(0)).prod().expand(len(first), len(second))


def _by_distance(first, second):
    """DIoU: the distance of the middles, as a share of the diagonal."""
    apart = (first[:, None, :2] + first[:, None, 2:] - second[:, :2] - second[:, 2:]) / 2
    diagonal = _sides(first, second, torch.minimum, torch.maximum)
    return _iou(first, second) - _safely(apart.square().sum(-1), diagonal.square().sum(-1))


def _giou_without_clamp(first, second):
    both = _sides(first, second).prod(-1)
    union = sum(_both_areas(first, second)) - both
    hull = _hull(first, second)
    return _safely(both, union) - _safely(hull - union, hull)


generalized_box_iou.add_mistakes(
    hull_minus_intersection=_giou_with(empty=lambda hull, union, both: hull - both),
    iou_alone=_iou,
    added=_giou_with(join=torch.add),
    divided_by_the_union=lambda first, second: (
        _iou(first, second)
        - _safely(
            _hull(first, second) - (union := sum(_both_areas(first, second)) - _shared(first, second)), union
        )
    ),
    areas_for_the_union=_giou_with(empty=lambda hull, union, both: hull - union - both),
    counted_twice=_giou_with(
        iou=_over(lambda a, b, both, hull: a + b), empty=lambda hull, union, both: hull - union - both
    ),
    hull_by_the_inner_corners=_giou_with(hull=_shared),
    hull_is_a_square=_giou_with(hull=_square_hull),
    one_hull_for_all=_giou_with(hull=_hull_of_all),
    by_the_distance=_by_distance,
    never_below_zero=lambda first, second: _giou(first, second).clamp(min=0),
    as_a_loss=lambda first, second: 1 - _giou(first, second),
    no_clamp=_giou_without_clamp,
    read_as_centres=lambda first, second: _giou(ours.to_corners(first), ours.to_corners(second)),
    read_as_sizes=lambda first, second: _giou(_as_sizes(first), _as_sizes(second)),
    columns_mixed_up=_of_wrong_order(_giou),
    added_to_the_union=_giou_with(
        iou=_iou_with(share=lambda part, whole: part / (whole + 1e-6)),
        share=lambda part, whole: part / (whole + 1e-6),
    ),
    zero_by_zero=_giou_with(
        iou=_iou_with(share=lambda part, whole: part / whole), share=lambda part, whole: part / whole
    ),
    zero_by_zero_in_the_hull=_giou_with(share=lambda part, whole: part / whole),
    same_rows_only=_same_rows(_giou),
    transposed=lambda first, second: _giou(second, first),
    cut_off=lambda first, second: _giou(first, second).detach(),
)


# ---------------------------------------------------------------- the cost of a match


def _image(queries, objects, classes, labels=None, seed=0):
    """Logits and boxes of queries, labels and boxes of objects."""
    if labels is None:
        labels = [(3 * i + 1) % classes for i in range(objects)]
    return (
        2 * drawn(queries, classes + 1, seed=seed),
        _centred(queries, seed=seed + 1),
        torch.tensor(labels, dtype=torch.long),
        _centred(objects, seed=seed + 2),
    )


matching_cost = Exercise(
    ours.matching_cost,
    call(
        "2 queries, 1 object; the first query has its box",
        torch.zeros(2, 2),
        _rows([0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5]),
        torch.tensor([0]),
        _rows([0.5, 0.5, 0.5, 0.5]),
        hint="All logits are 0, so the class has probability 1/2. The first cost is -1/2 + 5 * 0 - 2 * 1.",
    ),
    call("5 queries, 3 objects, 4 classes", *_image(5, 3, 4)),
    call("6 queries, 2 objects of the same class", *_image(6, 2, 3, [1, 1])),
    call(
        "as many queries as objects, 4",
        *_image(4, 4, 3),
        hint="(Q, M): the queries are the rows, the objects the columns.",
    ),
    call(
        "as many queries, objects and classes, 3",
        *_image(3, 3, 3, [2, 0, 1]),
        hint="The class of object j is labels[j].",
    ),
    call("the first class and the last before no object", *_image(4, 2, 5, [0, 4])),
    call("a single class", *_image(3, 2, 1)),
    call("queries that are sure", torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]]), *_image(3, 2, 2)[1:]),
    call(
        "boxes that are apart",
        *_image(2, 2, 3)[:1],
        _rows([0.1, 0.1, 0.2, 0.1], [0.9, 0.5, 0.1, 0.3]),
        torch.tensor([2, 0]),
        _rows([0.8, 0.9, 0.2, 0.2], [0.2, 0.6, 0.1, 0.4]),
        hint="IoU is 0 wherever boxes are apart. The generalised IoU still says how far.",
    ),
    call("more objects than queries", *_image(2, 5, 4), kind="property"),
    call("a single query and a single object", *_image(1, 1, 3), kind="property"),
    call("an image without objects: (Q, 0)", *_image(3, 0, 4), kind="property"),
    not_contiguous(*_image(5, 3, 4)),
    in_double(*_image(5, 3, 4)),
    sizes=Sizes(
        lambda queries, objects, classes: call("", *_image(queries, objects, classes)),
        queries=(7, 9, 4, 5, 100),
        objects=(3, 5, 2, 4),
        classes=(6, 8, 4, 10),
    ),
)


def _probabilities(logits, labels):
    return logits.softmax(dim=-1)[:, labels]


def _apart(boxes, targets):
    """(Q, M, 4): how far the four numbers differ."""
    return boxes[:, None] - targets


def _l1(boxes, targets):
    return _apart(boxes, targets).abs().sum(-1)


def _overlaps(boxes, targets):
    return _giou(ours.to_corners(boxes), ours.to_corners(targets))


def _cost(
    logits,
    boxes,
    labels,
    targets,
    named=_probabilities,
    apart=_l1,
    overlap=_overlaps,
    weights=(1, 5, 2),
    signs=(-1, 1, -1),
):
    """The cost, with one of these parts changed."""
    parts = named(logits, labels), apart(boxes, targets), overlap(boxes, targets)
    return sum(s * w * part for s, w, part in zip(signs, weights, parts, strict=True))


def _cost_with(**part):
    return lambda *image: _cost(*image, **part)


matching_cost.add_mistakes(
    logits_for_probabilities=_cost_with(named=lambda logits, labels: logits[:, labels]),
    log_probabilities=_cost_with(named=lambda logits, labels: logits.log_softmax(dim=-1)[:, labels]),
    no_object_left_out=_cost_with(named=lambda logits, labels: logits[:, :-1].softmax(dim=-1)[:, labels]),
    sigmoid=_cost_with(named=lambda logits, labels: logits.sigmoid()[:, labels]),
    softmax_over_queries=_cost_with(named=lambda logits, labels: logits.softmax(dim=0)[:, labels]),
    probability_added=_cost_with(signs=(1, 1, -1)),
    one_minus_probability=lambda *image: 1 + _cost(*image),
    one_minus_giou=lambda *image: 2 + _cost(*image),
    both_from_one=lambda *image: 3 + _cost(*image),
    labels_from_one=_cost_with(named=lambda logits, labels: logits.softmax(dim=-1)[:, labels - 1]),
    first_classes=_cost_with(named=lambda logits, labels: logits.softmax(dim=-1)[:, : len(labels)]),
    likeliest_class=_cost_with(
        named=lambda logits, labels: (logits.argmax(dim=-1)[:, None] == labels).to(logits)
    ),
    class_left_out=_cost_with(weights=(0, 5, 2)),
    mean_of_the_four=_cost_with(apart=lambda boxes, targets: _apart(boxes, targets).abs().mean(-1)),
    euclidean=_cost_with(apart=lambda boxes, targets: _apart(boxes, targets).norm(dim=-1)),
    not_absolute=_cost_with(apart=lambda boxes, targets: _apart(boxes, targets).sum(-1)),
    corners_compared=_cost_with(
        apart=lambda boxes, targets: _l1(ours.to_corners(boxes), ours.to_corners(targets))
    ),
    distance_left_out=_cost_with(weights=(1, 0, 2)),
    not_converted=_cost_with(overlap=_giou),
    iou_for_giou=_cost_with(overlap=lambda boxes, targets: _iou(*map(ours.to_corners, (boxes, targets)))),
    giou_added=_cost_with(signs=(-1, 1, 1)),
    overlap_left_out=_cost_with(weights=(1, 5, 0)),
    weights_exchanged=_cost_with(weights=(1, 2, 5)),
    no_weights=_cost_with(weights=(1, 1, 1)),
    objects_as_rows=lambda *image: _cost(*image).T,
)


# ---------------------------------------------------------------- the loss of a set

_UNUSED = -1


def _batch(images, queries, classes, labels=None, match=None, objects=3, seed=0):
    """Logits, boxes, labels, boxes of the objects, and which query answers for each. Without labels, one row of every image but
    the first is unused."""
    if labels is None:
        labels = [[(i + 2 * j) % classes for j in range(objects)] for i in range(images)]
        for i in range(1, images):
            labels[i][i % objects] = _UNUSED
    objects = len(labels[0])
    if match is None:
        match = [[(queries - 1 - i - j) % queries for j in range(objects)] for i in range(images)]
    labels = torch.tensor(labels, dtype=torch.long).reshape(images, objects)
    targets = _centred(images, objects, seed=seed + 2).where(labels[..., None] >= 0, -1.0)
    return (
        2 * drawn(images, queries, classes + 1, seed=seed),
        _centred(images, queries, seed=seed + 1),
        labels,
        targets,
        torch.tensor(match, dtype=torch.long).reshape(images, objects),
    )


def _gradients_of_a_set(candidate):
    logits, boxes, *others = _batch(2, 5, 3)
    logits.requires_grad_(), boxes.requires_grad_()
    loss = candidate(logits, boxes, *others)
    if not isinstance(loss, torch.Tensor):
        raise CaseFailed("expected a tensor, got {got}", got=described(loss))
    if not loss.requires_grad:
        raise CaseFailed("the result is cut off from the gradient, so nothing before it could learn")
    loss.sum().backward()
    if logits.grad is None:
        raise CaseFailed("no gradient reaches the logits, so no query could learn a class")
    if boxes.grad is None:
        raise CaseFailed("no gradient reaches the boxes, so no query could learn a place")
    return logits.grad, boxes.grad


_unsure = torch.zeros(1, 2, 2), _rows([0.5, 0.5, 0.25, 0.25], [0.25, 0.25, 0.5, 0.5])[None]

set_loss = Exercise(
    ours.set_loss,
    call(
        "1 image, 2 queries; the second has exactly the box of the only object",
        *_unsure,
        torch.tensor([[0]]),
        _rows([0.25, 0.25, 0.5, 0.5])[None],
        torch.tensor([[1]]),
        hint="The boxes cost nothing. All logits are 0, so each query has the cross-entropy ln 2, and so has any mean of them.",
    ),
    call(
        "the same with the box of the first query",
        *_unsure,
        torch.tensor([[0]]),
        _rows([0.25, 0.25, 0.5, 0.5])[None],
        torch.tensor([[0]]),
        hint="The object's row says which query answers for it: boxes[image, match[image, row]].",
    ),
    call("1 image, 5 queries, 2 objects of 3 classes", *_batch(1, 5, 3, [[2, 0]])),
    call(
        "2 images with 3 objects and with 1",
        *_batch(2, 6, 4, [[3, 1, 0], [2, _UNUSED, _UNUSED]], [[4, 0, 2], [3, 0, 0]]),
        hint="The boxes are summed over all objects of the batch, 4 here, and divided by their number.",
    ),
    call(
        "an unused row that names the query of an object",
        *_batch(1, 4, 3, [[1, _UNUSED, 2]], [[0, 0, 2]]),
        hint="What stands in an unused row does not count: look for labels that are not -1 first.",
    ),
    call("unused rows come first", *_batch(2, 5, 3, [[_UNUSED, 1], [_UNUSED, 2]], [[0, 3], [0, 1]])),
    call("one image of 2 without objects", *_batch(2, 5, 3, [[1, 2], [_UNUSED, _UNUSED]], [[4, 1], [0, 0]])),
    call(
        "every query answers for an object", *_batch(2, 3, 4, [[0, 3, 1], [2, 2, 0]], [[1, 2, 0], [2, 0, 1]])
    ),
    call("another weight, no_object = 0.5", *_batch(2, 5, 3), 0.5),
    call("no_object = 1", *_batch(2, 5, 3), 1.0),
    call("a single class", *_batch(2, 4, 1, [[0, 0], [0, _UNUSED]])),
    call(
        "no objects in the whole batch: no NaN",
        *_batch(2, 4, 3, [[_UNUSED], [_UNUSED]], [[0], [0]]),
        hint="Divide by at least 1: without objects, the boxes cost 0.",
    ),
    call("a single query and a single object", *_batch(1, 1, 3, [[2]]), kind="property"),
    not_contiguous(*_batch(2, 5, 3)),
    in_double(*_batch(2, 5, 3)),
    Case(
        "the gradients of logits and boxes",
        _gradients_of_a_set,
        "Do not use .data, .detach(), .item() or no_grad on the way from the logits and boxes to the loss.",
        1e-4,
        "property",
    ),
    sizes=Sizes(
        lambda images, queries, objects, classes: call(
            "", *_batch(images, queries, classes, objects=objects)
        ),
        images=(5, 2, 8, 64),
        queries=(7, 9, 4, 5, 100),
        objects=(3, 4, 2),
        classes=(6, 8, 4, 10),
    ),
)


def _of_the_classes(logits, wanted, weight):
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight)


def _of_pairs(function):
    """For boxes in the same rows, function of two sets of corners: (n, 4), (n, 4) -> (n,)."""
    return lambda found, target: function(ours.to_corners(found), ours.to_corners(target)).diagonal()


def _absolute(found, target):
    return (found - target).abs().sum()


def _summed_by_objects(values, image, labels):
    return values / max(1, len(image))


def _loss(
    logits,
    boxes,
    labels,
    targets,
    match,
    no_object=0.1,
    naming=_of_the_classes,
    rows=lambda labels: labels != _UNUSED,
    query=lambda match, image, row: match[image, row],
    write=lambda wanted, image, query, labels: wanted.index_put((image, query), labels),
    nothing=-1,
    apart=_absolute,
    overlap=lambda found, target: (1 - _of_pairs(_giou)(found, target)).sum(),
    weights=(5, 2),
    divided=_summed_by_objects,
):
    """The loss, with one of these parts changed."""
    K = logits.shape[-1] - 1
    image, row = rows(labels).nonzero(as_tuple=True)
    asked = query(match, image, row)
    wanted = torch.full(logits.shape[:2], nothing % (K + 1))
    wanted = write(wanted, image, asked, labels[image, row] % (K + 1))
    weight = torch.ones(K + 1).to(logits)
    weight[nothing] = no_object
    found, target = boxes[image, asked], targets[image, row]
    terms = weights[0] * apart(found, target) + weights[1] * overlap(found, target)
    return naming(logits, wanted, weight) + divided(terms, image, labels)


def _loss_with(**part):
    return lambda *batch: _loss(*batch, **part)


def _entropies(logits, wanted):
    """(B, Q): the cross-entropy of each query."""
    return F.cross_entropy(logits.mT, wanted, reduction="none")


def _answering(logits, wanted, weight):
    """The cross-entropy of the queries that answer for an object, and of no other."""
    which = wanted != logits.shape[-1] - 1
    return F.cross_entropy(logits[which], wanted[which]) if which.any() else logits.sum() * 0


def _image_by_image(*batch):
    logits, boxes, labels, targets, match, *weight = batch
    several = [t.split(1) for t in (logits, boxes, labels, targets, match)]
    return torch.stack([_loss(*one, *weight) for one in zip(*several, strict=True)]).mean()


def _objects_of_queries(match, image, row):
    """match read the other way round: the object that stands in the row of each query."""
    return match.argsort(dim=1)[image, row]


set_loss.add_mistakes(
    no_object_forgotten=_loss_with(
        naming=lambda logits, wanted, weight: F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
    ),
    always_a_tenth=lambda *batch: _loss(*batch[:5]),
    objects_weighted=_loss_with(
        naming=lambda logits, wanted, weight: _of_the_classes(
            logits, wanted, torch.where(torch.arange(len(weight)) < len(weight) - 1, weight[-1], 1.0)
        )
    ),
    weight_of_the_first_class=_loss_with(
        naming=lambda logits, wanted, weight: _of_the_classes(logits, wanted, weight.roll(1))
    ),
    answering_queries_only=_loss_with(naming=_answering),
    plain_mean=_loss_with(
        naming=lambda logits, wanted, weight: (_entropies(logits, wanted) * weight[wanted]).mean()
    ),
    classes_summed=_loss_with(
        naming=lambda logits, wanted, weight: (_entropies(logits, wanted) * weight[wanted]).sum()
    ),
    classes_by_objects=_loss_with(
        naming=lambda logits, wanted, weight: (
            (_entropies(logits, wanted) * weight[wanted]).sum()
            / (wanted != logits.shape[-1] - 1).sum().clamp(min=1)
        )
    ),
    softmax_before=_loss_with(
        naming=lambda logits, wanted, weight: _of_the_classes(logits.softmax(dim=-1), wanted, weight)
    ),
    no_object_is_the_first=lambda logits, boxes, labels, targets, match, no_object=0.1: _loss(
        logits, boxes, torch.where(labels < 0, labels, labels + 1), targets, match, no_object, nothing=0
    ),
    unused_rows_written=lambda logits, boxes, labels, targets, match, no_object=0.1: _loss(
        logits,
        boxes,
        labels,
        targets,
        match,
        no_object,
        write=lambda wanted, *_: wanted.scatter(1, match, labels % logits.shape[-1]),
    ),
    unused_rows_counted=_loss_with(
        rows=lambda labels: torch.ones_like(labels, dtype=torch.bool),
        divided=lambda terms, image, labels: terms / (labels != _UNUSED).sum().clamp(min=1),
    ),
    match_ignored=_loss_with(query=lambda match, image, row: row),
    match_the_other_way=_loss_with(query=_objects_of_queries),
    by_queries=lambda *batch: _loss(
        *batch, divided=lambda terms, image, labels: terms / batch[0][..., 0].numel()
    ),
    by_rows=_loss_with(divided=lambda terms, image, labels: terms / labels.numel()),
    by_images=_loss_with(divided=lambda terms, image, labels: terms / len(labels)),
    not_divided=_loss_with(divided=lambda terms, image, labels: terms),
    without_objects_nan=_loss_with(divided=lambda terms, image, labels: terms / len(image)),
    image_by_image=_image_by_image,
    mean_of_the_four=_loss_with(apart=lambda found, target: (found - target).abs().mean(-1).sum()),
    smooth_l1=_loss_with(apart=lambda found, target: F.smooth_l1_loss(found, target, reduction="sum")),
    distance_left_out=_loss_with(weights=(0, 2)),
    overlap_left_out=_loss_with(weights=(5, 0)),
    boxes_left_out=_loss_with(weights=(0, 0)),
    no_weights=_loss_with(weights=(1, 1)),
    giou_for_its_loss=_loss_with(overlap=lambda found, target: _of_pairs(_giou)(found, target).sum()),
    minus_giou=_loss_with(overlap=lambda found, target: -_of_pairs(_giou)(found, target).sum()),
    iou_for_giou=_loss_with(overlap=lambda found, target: (1 - _of_pairs(_iou)(found, target)).sum()),
    not_converted=_loss_with(overlap=lambda found, target: (1 - _giou(found, target).diagonal()).sum()),
    each_with_each=_loss_with(
        overlap=lambda found, target: (1 - _giou(ours.to_corners(found), ours.to_corners(target))).sum()
    ),
    boxes_cut_off=lambda logits, boxes, *others: _loss(logits, boxes.detach(), *others),
    cut_off=lambda *batch: _loss(*batch).detach(),
)

# ---------------------------------------------------------------- average precision


def _judged(name, scores, hits, objects, hint="", kind=""):
    """A case for scores and hits as lists; NaN is told in words, because it equals no number."""
    scores, hits = torch.tensor(scores, dtype=torch.float32), torch.tensor(hits, dtype=torch.bool)

    def run(candidate):
        found = plain_number(settled(candidate, scores, hits, objects))
        return "not a number" if isinstance(found, float) and math.isnan(found) else found

    return Case(name, run, hint, kind=kind, given=(scores, hits))


def _a_detector(boxes, objects, seed=0):
    """(scores, hits) of so many boxes, of which at most so many are right, the better ones more often."""
    scores = torch.rand(boxes, generator=generator(seed))
    right = torch.rand(boxes, generator=generator(seed + 1)) < 0.3 + 0.6 * scores
    return scores.tolist(), (right & (right.cumsum(0) <= objects)).tolist()


def _third_is_wrong(boxes, objects):
    """(scores, hits) of so many boxes. The best one is right, and of the others each third is wrong, as long as objects are left."""
    scores = torch.rand(boxes, generator=generator())
    rank = scores.argsort(descending=True).argsort()
    found = (rank % 3 != 2) & (rank - rank // 3 < objects)
    return scores.tolist(), found.tolist()


average_precision = Exercise(
    ours.average_precision,
    _judged(
        "2 objects; of 3 boxes, the best is right, and so is the last",
        [0.9, 0.8, 0.7],
        [True, False, True],
        2,
        hint="Precision 1 up to recall 0.5, which is 51 of the 101 recalls, and 2/3 at the other 50.",
    ),
    _judged("12 boxes in any order, 7 objects", *_a_detector(12, 7), 7),
    _judged("30 boxes, 11 objects", *_a_detector(30, 11, seed=4), 11),
    _judged(
        "the same boxes in another order",
        [0.3, 0.8, 0.5, 0.9, 0.6, 0.1],
        [True, True, False, True, False, True],
        7,
        hint="Sort by the score, the highest first, and take the hits along.",
    ),
    _judged(
        "one of 3 objects is never found",
        [0.9, 0.8, 0.7, 0.6],
        [True, False, True, False],
        3,
        hint="At recalls that no box reaches, the precision is 0.",
    ),
    _judged(
        "the first two boxes are wrong, the next four are right",
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
        [False, False, True, True, True, True],
        6,
        hint="The precision rises from 1/3 to 2/3. At a recall, the highest from there on counts.",
    ),
    _judged(
        "boxes with the same score",
        [0.9, 0.5, 0.5, 0.5, 0.2],
        [True, False, True, True, False],
        3,
        hint="Of equal scores, the one that comes first is taken first: argsort(descending=True, stable=True).",
    ),
    _judged("scores below one half", [0.4, 0.1, 0.3], [True, True, False], 3),
    _judged("every object is found, and nothing else", [0.5, 0.9, 0.7], [True, True, True], 3),
    _judged("no box is right", [0.5, 0.9], [False, False], 3),
    _judged(
        "1 object among 7 boxes, found by the fourth",
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
        [i == 3 for i in range(7)],
        1,
    ),
    _judged("one box, one object", [0.3], [True], 1, kind="property"),
    _judged(
        "no boxes at all: 0",
        [],
        [],
        3,
        hint="Without boxes, no recall is reached, and the precision is 0 at all of them.",
        kind="property",
    ),
    _judged(
        "no objects: NaN",
        [0.9, 0.4],
        [False, False],
        0,
        hint="Nothing can be found, so there is nothing to judge.",
    ),
    sizes=Sizes(
        lambda predictions, objects: _judged("", *_third_is_wrong(predictions, objects), objects),
        predictions=(14, 19, 4, 10, 100),
        objects=(7, 11, 3, 6, 9),
    ),
)


def _best_first(scores):
    return scores.argsort(descending=True, stable=True)


def _best_from_here(precision):
    return precision.flip(0).cummax(0).values.flip(0) if len(precision) else precision


def _recalls(count=101):
    return torch.arange(count, dtype=torch.float64) / (count - 1)


def _at_recalls(recall, precision, recalls=None, right=False):
    """The mean precision at these recalls, 0 where they are not reached."""
    first = torch.searchsorted(recall, _recalls() if recalls is None else recalls, right=right)
    return F.pad(precision, (0, 1))[first].mean()


def _judge(
    scores,
    hits,
    objects,
    order=_best_first,
    recall=lambda right, hits, objects: right / objects,
    precision=lambda right, hits, objects: right / torch.arange(1, len(hits) + 1),
    envelope=_best_from_here,
    read=_at_recalls,
    without_objects=float("nan"),
):
    """Average precision, with one of these parts changed."""
    if objects == 0:
        return without_objects
    hits = hits[order(scores)].double()
    right = hits.cumsum(0)
    value = read(recall(right, hits, objects), envelope(precision(right, hits, objects)))
    return float(value)


def _judge_with(**part):
    return lambda scores, hits, objects: _judge(scores, hits, objects, **part)


def _steps(recall):
    """How much recall each box adds."""
    return recall.diff(prepend=recall.new_zeros(1))


def _trapezoids(recall, precision):
    recall = torch.cat([recall.new_zeros(1), recall])
    precision = torch.cat([precision.new_ones(1), precision])
    return torch.trapezoid(precision, recall)


def _interpolated(recall, precision):
    """Straight lines between the points, from (0, 1) down to (1, 0), as some widely used code has it."""
    x = torch.cat([recall.new_zeros(1), recall, recall.new_ones(1)])
    y = torch.cat([precision.new_ones(1), precision, precision.new_zeros(1)])
    at = _recalls()
    high = torch.searchsorted(x, at, right=True).clamp(1, len(x) - 1)
    wide = (x[high] - x[high - 1]).clamp(min=1e-12)
    share = ((at - x[high - 1]) / wide).clamp(0, 1)
    return (y[high - 1] + share * (y[high] - y[high - 1])).mean()


def _reached_only(recall, precision):
    first = torch.searchsorted(recall, _recalls())
    return precision[first[first < len(recall)]].mean()


average_precision.add_mistakes(
    not_sorted=_judge_with(order=lambda scores: torch.arange(len(scores))),
    lowest_first=_judge_with(order=lambda scores: scores.argsort(stable=True)),
    equal_scores_reversed=_judge_with(order=lambda scores: scores.argsort(stable=True).flip(0)),
    as_it_is=_judge_with(envelope=lambda precision: precision),
    best_so_far=_judge_with(
        envelope=lambda precision: precision.cummax(0).values if len(precision) else precision
    ),
    lowest_so_far=_judge_with(
        envelope=lambda precision: precision.cummin(0).values if len(precision) else precision
    ),
    eleven_recalls=_judge_with(read=lambda recall, precision: _at_recalls(recall, precision, _recalls(11))),
    hundred_recalls=_judge_with(read=lambda recall, precision: _at_recalls(recall, precision, _recalls(100))),
    whole_area=_judge_with(read=lambda recall, precision: (_steps(recall) * precision).sum()),
    mean_over_hits=_judge_with(
        envelope=lambda precision: precision,
        read=lambda recall, precision: (_steps(recall) * precision).sum(),
    ),
    trapezoids=_judge_with(envelope=lambda precision: precision, read=_trapezoids),
    straight_lines=_judge_with(read=_interpolated),
    above_the_recall=_judge_with(read=lambda recall, precision: _at_recalls(recall, precision, right=True)),
    reached_recalls_only=_judge_with(read=_reached_only),
    recall_of_the_found=_judge_with(recall=lambda right, hits, objects: right / hits.sum().clamp(min=1)),
    recall_of_the_boxes=_judge_with(recall=lambda right, hits, objects: right / max(1, len(hits))),
    precision_of_the_objects=_judge_with(precision=lambda right, hits, objects: right / objects),
    errors_not_summed=_judge_with(
        precision=lambda right, hits, objects: right / (right + 1 - hits).clamp(min=1)
    ),
    precision_only=lambda scores, hits, objects: (
        hits.double().mean().nan_to_num(0).item() if objects else float("nan")
    ),
    recall_only=lambda scores, hits, objects: hits.sum().item() / objects if objects else float("nan"),
    low_scores_dropped=lambda scores, hits, objects: _judge(
        scores[scores >= 0.5], hits[scores >= 0.5], objects
    ),
    errors_taken_for_hits=lambda scores, hits, objects: _judge(scores, ~hits, objects),
    in_percent=lambda scores, hits, objects: 100 * _judge(scores, hits, objects),
    zero_without_objects=_judge_with(without_objects=0.0),
    no_boxes_are_nan=lambda scores, hits, objects: (
        _judge(scores, hits, objects) if len(scores) else float("nan")
    ),
)


@average_precision.mistake
def divided_by_no_objects(scores, hits, num_objects):
    right = hits[_best_first(scores)].cumsum(0).tolist()
    recall = [r / num_objects for r in right]
    precision = [r / n for n, r in enumerate(right, start=1)]
    best = [
        max((p for p, found in zip(precision, recall, strict=True) if found >= i / 100), default=0.0)
        for i in range(101)
    ]
    return sum(best) / 101
