"""Lesson 11, part 4: tubelets, positions in space and time, joint and factorised attention, filters for several frames."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce

from vit_edu.check.cases import Case, apply, call, drawn, in_double, not_contiguous, passes_gradient
from vit_edu.check.engine import Exercise
from vit_edu.check.probes import Sizes
from vit_edu.models import costs, video, vit

# ---------------------------------------------------------------- tubelets


def _numbered(*shape):
    """Clips in which every number is different, so that no two orders look alike."""
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float32).reshape(shape)


def _clips_case(clips, times, channels, tubelet, patch):
    return call("", _numbered(clips, times * tubelet, channels, 2 * patch, 3 * patch), tubelet, patch)


def _frames_case(frames, tubelet):
    return call("", _numbered(2, frames, 2, 4, 6), tubelet, 2)


def _grid_case(rows, columns, patch):
    return call("", _numbered(1, 4, 2, rows * patch, columns * patch), 2, patch)


def _square_case(image_size, patch):
    return call("", _numbered(1, 4, 2, image_size, image_size), 2, patch)


tubelets = Exercise(
    video.tubelets,
    call(
        "a grey clip of 4 frames of 2 x 4 pixels, in tubelets of 2 frames and 2 x 2 pixels",
        _numbered(1, 4, 1, 2, 4),
        2,
        2,
        hint="Its 8 pixels a frame are numbered on, so frame 1 starts with 8. The first tubelet is the left half of frames 0 and 1: "
        "0 1 4 5, then 8 9 12 13.",
    ),
    call(
        "three colour channels",
        _numbered(1, 4, 3, 4, 4),
        2,
        2,
        hint="Inside a tubelet come frame, row, column, and last the channels of a pixel, side by side.",
    ),
    call(
        "a batch of 2 clips, frames of 8 x 8 pixels, tubelets of 2 frames and 4 x 4 pixels",
        _numbered(2, 4, 3, 8, 8),
        2,
        4,
        hint="Clip 0 must stay in row 0 of the result, and clip 1 in row 1.",
    ),
    call("frames that are wider than high", _numbered(2, 4, 3, 4, 12), 2, 2),
    call(
        "as many frames as channels, 3",
        _numbered(2, 3, 3, 4, 6),
        3,
        2,
        hint="The axes of clips are (B, F, C, H, W): the frames come before the channels.",
    ),
    call(
        "4 frames with 2 channels",
        _numbered(1, 4, 2, 4, 4),
        2,
        2,
        hint="The axes of clips are (B, F, C, H, W): the frames come before the channels.",
    ),
    call("tubelets of 3 frames and 2 x 2 pixels, five channels", _numbered(1, 6, 5, 4, 6), 3, 2),
    call(
        "tubelets of one frame: the patches of each frame",
        _numbered(2, 3, 2, 4, 4),
        1,
        2,
        hint="All patches of frame 0 come first, then those of frame 1.",
    ),
    call("a whole clip as one tubelet", _numbered(2, 3, 2, 4, 4), 3, 4, kind="property"),
    call(
        "clips as they come: bytes (uint8) in, bytes out",
        _numbered(1, 4, 3, 4, 4).byte(),
        2,
        2,
        hint="Cutting only moves numbers: it should work for every dtype, and keep it.",
    ),
    in_double(_numbered(1, 4, 2, 4, 6), 2, 2, asked=True),
    not_contiguous(_numbered(2, 4, 3, 4, 6), 2, 2),
    passes_gradient(_numbered(1, 4, 2, 4, 6), 2, 2),
    sizes=(
        Sizes(_frames_case, frames=(12, 24, 8, 4, 16), tubelet=(2, 4, 3, 1)),
        Sizes(
            _clips_case,
            clips=(5, 2, 3, 8),
            times=(3, 5, 4, 2, 8),
            channels=(6, 5, 3),
            tubelet=(4, 3, 2, 8),
            patch=(2, 5, 4, 8),
        ),
        Sizes(_grid_case, rows=(3, 5, 4, 8, 2), columns=(5, 7, 4, 8, 2), patch=(2, 3, 4, 8)),
        Sizes(_square_case, image_size=(24, 40, 32, 8), patch=(2, 8, 4)),
    ),
)


def _cut(order, clips, frames, patch_size):
    """Tubelets in another order, as an einops pattern: f times of t frames, r x s places of p x q pixels, c channels."""
    return rearrange(clips, f"b (f t) c (r p) (s q) -> {order}", t=frames, p=patch_size, q=patch_size)


def _ordered(order):
    return lambda clips, frames, patch_size: _cut(order, clips, frames, patch_size)


def _as_read(axes):
    """The right order, for axes that were read wrongly."""
    return lambda clips, frames, patch_size: rearrange(
        clips, f"{axes} -> b (f r s) (t p q c)", t=frames, p=patch_size, q=patch_size
    )


def _without_the_last_time(clips, frames, patch_size):
    """If nothing is left, torch.stack([]) is what raises."""
    rest = clips[:, : clips.shape[1] - frames]
    return video.tubelets(rest, frames, patch_size) if rest.shape[1] else torch.stack([])


tubelets.add_mistakes(
    reshape_only=lambda clips, frames, patch_size: clips.reshape(
        len(clips), -1, frames * patch_size**2 * clips.shape[2]
    ),
    channels_before_frames=_as_read("b c (f t) (r p) (s q)"),
    channels_last_read=_as_read("b (f t) (r p) (s q) c"),
    time_fastest=_ordered("b (r s f) (t p q c)"),
    time_between=_ordered("b (r f s) (t p q c)"),
    columns_first=_ordered("b (f s r) (t p q c)"),
    order_of_conv3d=_ordered("b (f r s) (c t p q)"),
    channels_before_pixels=_ordered("b (f r s) (t c p q)"),
    frames_after_pixels=_ordered("b (f r s) (p q t c)"),
    frames_fastest=_ordered("b (f r s) (p q c t)"),
    transposed_inside=_ordered("b (f r s) (t q p c)"),
    frames_strided=lambda clips, frames, patch_size: rearrange(
        clips, "b (t f) c (r p) (s q) -> b (f r s) (t p q c)", t=frames, p=patch_size, q=patch_size
    ),
    places_strided=lambda clips, frames, patch_size: rearrange(
        clips, "b (f t) c (p r) (q s) -> b (f r s) (t p q c)", t=frames, p=patch_size, q=patch_size
    ),
    t_and_p_exchanged=lambda clips, frames, patch_size: video.tubelets(clips, patch_size, frames),
    patches_of_each_frame=lambda clips, frames, patch_size: video.tubelets(clips, 1, patch_size),
    first_frame_of_each=lambda clips, frames, patch_size: video.tubelets(clips[:, ::frames], 1, patch_size),
    first_frame_only=lambda clips, frames, patch_size: vit.patchify(clips[:, 0], patch_size),
    first_tubelets_only=lambda clips, frames, patch_size: video.tubelets(
        clips[:, :frames], frames, patch_size
    ),
    last_time_missing=_without_the_last_time,
    frames_averaged=lambda clips, frames, patch_size: reduce(
        clips.float(),
        "b (f t) c (r p) (s q) -> b (f r s) (p q c)",
        "mean",
        t=frames,
        p=patch_size,
        q=patch_size,
    ),
    frames_as_batch=_ordered("(b f) (r s) (t p q c)"),
    frames_as_channels=_ordered("b (r s) (f t p q c)"),
    times_kept=_ordered("b f (r s) (t p q c)"),
    grid_kept=_ordered("b f r s (t p q c)"),
    frames_kept=_ordered("b (f r s) t (p q c)"),
    batch_second=_ordered("(f r s) b (t p q c)"),
    transposed_result=_ordered("b (t p q c) (f r s)"),
    overlapping=lambda clips, frames, patch_size: rearrange(
        clips.unfold(1, frames, 1),
        "b f c (r p) (s q) t -> b (f r s) (t p q c)",
        p=patch_size,
        q=patch_size,
    ),
    frames_reversed=lambda clips, frames, patch_size: (
        _cut("b (f r s) t (p q c)", clips, frames, patch_size).flip(2).flatten(2)
    ),
    first_clip_for_all=lambda clips, frames, patch_size: video.tubelets(
        clips[:1].expand_as(clips), frames, patch_size
    ),
    always_float32=lambda clips, frames, patch_size: video.tubelets(clips, frames, patch_size).float(),
    cut_off=lambda clips, frames, patch_size: video.tubelets(clips.detach(), frames, patch_size),
)


@tubelets.mistake
def square_frames_only(clips, frames, patch_size):
    B, _, C, H, _ = clips.shape
    n, P = H // patch_size, patch_size
    x = clips.reshape(B, -1, frames, C, n, P, n, P)
    return x.permute(0, 1, 4, 6, 2, 5, 7, 3).reshape(B, -1, frames * P * P * C)


# ---------------------------------------------------------------- positions in space and time


def _positions(times, patches, width):
    return drawn(1, times, width, seed=1), drawn(1, patches, width, seed=2)


def _positions_case(times, patches, width):
    return call("", *_positions(times, patches, width))


_tens = torch.tensor([[[10.0, 100.0], [20.0, 200.0]]]), torch.tensor([[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]])

space_time_positions = Exercise(
    video.space_time_positions,
    call(
        "2 times (10 and 20, 100 and 200) and 3 places (1, 2 and 3)",
        *_tens,
        hint="The tokens of time 0 come first: 11, 12, 13. Then those of time 1: 21, 22, 23.",
    ),
    call("4 times, 6 places, width 5", *_positions(4, 6, 5)),
    call("more times than places", *_positions(6, 2, 3)),
    call(
        "as many times as places, 3",
        *_positions(3, 3, 4),
        hint="Every time meets every place, so there are 9 tokens.",
    ),
    call("as many times as places, as wide as that, 4", *_positions(4, 4, 4)),
    call("a single time", *_positions(1, 5, 4)),
    call("a single place", *_positions(5, 1, 4)),
    call("a width of 1", *_positions(2, 3, 1), kind="property"),
    not_contiguous(*_positions(3, 4, 5)),
    in_double(*_positions(3, 4, 5)),
    passes_gradient(*_positions(3, 4, 5)),
    sizes=Sizes(
        _positions_case,
        times=(6, 9, 4, 8, 2),
        patches=(10, 15, 16, 64, 49),
        width=(12, 20, 64, 32, 8),
    ),
)


def _tiled(vectors, other):
    """All vectors, again and again: as often as there are others."""
    return vectors.repeat(1, other.shape[1], 1)


def _stretched(vectors, other):
    """Each vector so often in a row."""
    return vectors.repeat_interleave(other.shape[1], dim=1)


def _grid_of(time, space):
    return time[:, :, None] + space[:, None]  # (1, F/t, N_s, D)


space_time_positions.add_mistakes(
    time_fastest=lambda time, space: _tiled(time, space) + _stretched(space, time),
    both_tiled=lambda time, space: _tiled(time, space) + _tiled(space, time),
    both_stretched=lambda time, space: _stretched(time, space) + _stretched(space, time),
    time_alone=lambda time, space: _stretched(time, space),
    space_alone=lambda time, space: _tiled(space, time),
    added_as_they_are=lambda time, space: time + space,
    one_after_the_other=lambda time, space: torch.cat([time, space], dim=1),
    concatenated=lambda time, space: torch.cat([_stretched(time, space), _tiled(space, time)], dim=2),
    multiplied=lambda time, space: _stretched(time, space) * _tiled(space, time),
    averaged=lambda time, space: (_stretched(time, space) + _tiled(space, time)) / 2,
    subtracted=lambda time, space: _stretched(time, space) - _tiled(space, time),
    first_time_for_all=lambda time, space: _tiled(time[:, :1] + space, time),
    mean_of_the_times=lambda time, space: _tiled(time.mean(1, keepdim=True) + space, time),
    times_reversed=lambda time, space: _grid_of(time.flip(1), space).flatten(1, 2),
    grid_kept=_grid_of,
    batch_axis_lost=lambda time, space: _grid_of(time, space).flatten(0, 2),
    transposed=lambda time, space: _grid_of(time, space).flatten(1, 2).mT,
    times_as_images=lambda time, space: _grid_of(time, space)[0],
    class_token_in_front=lambda time, space: F.pad(_grid_of(time, space).flatten(1, 2), (0, 0, 1, 0)),
    one_time_only=lambda time, space: time[:, :1] + space,
    cut_off=lambda time, space: _grid_of(time, space).flatten(1, 2).detach(),
)

# ---------------------------------------------------------------- what attention to a clip costs

_ATTENTION = ("joint", "factorised")

video_attention_cost = Exercise(
    costs.video_attention_cost,
    call(
        "joint: 2 times, 3 patches of width 1",
        2,
        3,
        1,
        "joint",
        hint="6 tokens. Four projections of 1 x 1 for each, and 6 x 6 pairs, which cost one multiply-add for the score and one for "
        "the sum of the values.",
    ),
    call(
        "factorised: 2 times, 3 patches of width 1",
        2,
        3,
        1,
        "factorised",
        hint="Attention over space: 2 sequences of 3 tokens. Attention over time: 3 sequences of 2 tokens.",
    ),
    call("joint: 4 times, 16 patches of width 64", 4, 16, 64, "joint"),
    call("factorised: 4 times, 16 patches of width 64", 4, 16, 64, "factorised"),
    call("joint: 5 times, 2 patches of width 6", 5, 2, 6, "joint"),
    call("factorised: 5 times, 2 patches of width 6", 5, 2, 6, "factorised"),
    call("joint: a clip of ViViT-B, 16 times, 196 patches of width 768", 16, 196, 768, "joint"),
    call("factorised: a clip of ViViT-B, 16 times, 196 patches of width 768", 16, 196, 768, "factorised"),
    call("joint: a single time", 1, 9, 4, "joint"),
    call(
        "factorised: a single time",
        1,
        9,
        4,
        "factorised",
        hint="The second layer has nothing to compare, but it still has its projections, and each token attends to itself.",
    ),
    call("factorised: a single patch", 7, 1, 4, "factorised"),
    sizes=Sizes(
        lambda times, patches, width: Case(
            "", lambda candidate: [apply(candidate, times, patches, width, name) for name in _ATTENTION]
        ),
        times=(6, 9, 4, 8, 16),
        patches=(10, 15, 16, 64, 196),
        width=(12, 20, 64, 32, 768),
    ),
)


def _counted(**other):
    """The cost, with that of one or both kinds of attention changed. other: a function of times, patches, dim and the right cost."""

    def wrong(times, patches, dim, attention):
        right = costs.video_attention_cost(times, patches, dim, attention)
        return other.get(attention, lambda T, N, D, cost: cost)(times, patches, dim, right)

    return wrong


def _in_both(change):
    return _counted(**dict.fromkeys(_ATTENTION, change))


def _of_parts(projections=4, products=2, width=lambda D: D):
    """Both costs with so many projections and products with pairs. width: what a pair costs."""

    def wrong(times, patches, dim, attention):
        tokens, joint = times * patches, attention == "joint"
        layers, partners = (1, tokens) if joint else (2, times + patches)
        return layers * projections * tokens * dim**2 + products * tokens * partners * width(dim)

    return wrong


def _layer(tokens, dim):
    return costs.layer_cost("attention", tokens, dim)[1]


video_attention_cost.add_mistakes(
    projected_once=_counted(factorised=lambda T, N, D, cost: cost - 4 * T * N * D**2),
    one_token_for_each_time=_counted(factorised=lambda T, N, D, cost: T * _layer(N, D) + _layer(T, D)),
    each_sequence_once=_counted(factorised=lambda T, N, D, cost: _layer(N, D) + _layer(T, D)),
    sequences_exchanged=_counted(factorised=lambda T, N, D, cost: N * _layer(N, D) + T * _layer(T, D)),
    space_only=_counted(factorised=lambda T, N, D, cost: T * _layer(N, D)),
    time_only=_counted(factorised=lambda T, N, D, cost: N * _layer(T, D)),
    space_twice=_counted(factorised=lambda T, N, D, cost: 2 * T * _layer(N, D)),
    factorised_half=_counted(factorised=lambda T, N, D, cost: cost // 2),
    joint_twice=_counted(joint=lambda T, N, D, cost: 2 * cost),
    factorised_pairs_multiplied=_counted(
        factorised=lambda T, N, D, cost: 8 * T * N * D**2 + 2 * T**2 * N**2 * D
    ),
    tokens_of_one_time=_counted(joint=lambda T, N, D, cost: _layer(N, D)),
    joint_time_by_time=_counted(joint=lambda T, N, D, cost: T * _layer(N, D)),
    tokens_added=_counted(joint=lambda T, N, D, cost: _layer(T + N, D)),
    pairs_not_squared=_counted(joint=lambda T, N, D, cost: 4 * T * N * D**2 + 2 * T * N * D),
    class_token_counted=_counted(joint=lambda T, N, D, cost: _layer(T * N + 1, D)),
    always_joint=_counted(factorised=lambda T, N, D, cost: _layer(T * N, D)),
    names_exchanged=lambda times, patches, dim, attention: costs.video_attention_cost(
        times, patches, dim, "joint" if attention == "factorised" else "factorised"
    ),
    pairs_only=_of_parts(projections=0),
    one_projection=_of_parts(projections=1),
    without_the_output=_of_parts(projections=3),
    projections_only=_of_parts(products=0),
    one_product=_of_parts(products=1),
    pairs_without_width=_of_parts(width=lambda D: 1),
    each_pair_once=_counted(
        joint=lambda T, N, D, cost: 4 * T * N * D**2 + T * N * (T * N + 1) * D,
        factorised=lambda T, N, D, cost: 8 * T * N * D**2 + T * N * (T + N + 2) * D,
    ),
    mlp_counted=_in_both(lambda T, N, D, cost: cost + 8 * T * N * D**2),
    biases_counted=lambda times, patches, dim, attention: (
        costs.video_attention_cost(times, patches, dim, attention)
        + (4 if attention == "joint" else 8) * times * patches * dim
    ),
    counted_twice=_in_both(lambda T, N, D, cost: 2 * cost),
    with_the_parameters=lambda times, patches, dim, attention: (
        (1 if attention == "joint" else 2) * (4 * dim**2 + 4 * dim),
        costs.video_attention_cost(times, patches, dim, attention),
    ),
    as_floats=_in_both(lambda T, N, D, cost: float(cost)),
)

# ---------------------------------------------------------------- filters for several frames


def _filters(dim, channels, patch):
    return drawn(dim, channels, patch, patch)


def _inflate_case(filters, channels, patch, tubelet):
    return call("", _filters(filters, channels, patch), tubelet)


inflate = Exercise(
    video.inflate,
    call(
        "a filter of 2 x 2 numbers for 3 frames",
        torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]),
        3,
        hint="Frames 0 and 2 are zeros, and frame 1 is the filter.",
    ),
    call(
        "a filter of 2 x 2 numbers for 2 frames",
        torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]),
        2,
        hint="Of an even number of frames, the central one is number t // 2. Of two, this is the second, frame 1.",
    ),
    call("5 filters for 3 channels, 4 x 4 pixels, 4 frames", _filters(5, 3, 4), 4),
    call("4 filters for 2 channels, 3 x 3 pixels, 5 frames", _filters(4, 2, 3), 5),
    call("2 filters for 6 channels, 2 x 2 pixels, 6 frames", _filters(2, 6, 2), 6),
    call(
        "as many filters, channels, frames and pixels, 3",
        _filters(3, 3, 3),
        3,
        hint="The axes of the result are (D, C, t, P, P), as those of the weight of nn.Conv3d.",
    ),
    call(
        "a single frame: nothing but one axis more",
        _filters(4, 3, 2),
        1,
        kind="property",
    ),
    call("filters of a single pixel", _filters(4, 3, 1), 4, kind="property"),
    not_contiguous(_filters(4, 3, 2), 3),
    in_double(_filters(4, 3, 2), 3),
    sizes=Sizes(
        _inflate_case,
        filters=(6, 10, 64, 32),
        channels=(5, 2, 3),
        patch=(7, 3, 4, 16),
        tubelet=(8, 11, 2, 4, 3, 5),
    ),
)


def _placed(weight, frames, where, factor=1.0, axis=2):
    """The filter in this frame, zeros in all others. axis: where the frames lie."""
    inflated = weight.new_zeros(frames, *weight.shape)
    inflated[where] = weight * factor
    return inflated.movedim(0, axis)


def _in_frame(where, factor=lambda frames: 1.0, axis=2):
    return lambda weight, frames: _placed(weight, frames, where(frames), factor(frames), axis)


def _everywhere(weight, frames):
    return weight[:, :, None].repeat(1, 1, frames, 1, 1)


def _centre(frames):
    return frames // 2


inflate.add_mistakes(
    every_frame=_everywhere,
    every_frame_divided=lambda weight, frames: _everywhere(weight, frames) / frames,
    first_frame=_in_frame(lambda frames: 0),
    last_frame=_in_frame(lambda frames: -1),
    rounded_down=_in_frame(lambda frames: (frames - 1) // 2),
    one_too_early=_in_frame(lambda frames: frames // 2 - 1),
    one_too_late=_in_frame(lambda frames: frames // 2 + 1),
    second_frame=_in_frame(lambda frames: min(1, frames - 1)),
    centre_divided=_in_frame(_centre, lambda frames: 1 / frames),
    centre_multiplied=_in_frame(_centre, lambda frames: float(frames)),
    one_frame_too_many=lambda weight, frames: F.pad(
        weight[:, :, None], (0, 0, 0, 0, frames // 2, frames // 2)
    ),
    frames_first=_in_frame(_centre, axis=0),
    frames_before_channels=_in_frame(_centre, axis=1),
    frames_last=_in_frame(_centre, axis=4),
    reshaped=lambda weight, frames: _in_frame(_centre, axis=0)(weight, frames).reshape(
        *weight.shape[:2], frames, *weight.shape[2:]
    ),
    frames_as_channels=lambda weight, frames: video.inflate(weight, frames).flatten(1, 2),
    zeros_only=lambda weight, frames: torch.zeros_like(_everywhere(weight, frames)),
    all_but_the_centre=lambda weight, frames: _everywhere(weight, frames) - video.inflate(weight, frames),
    not_inflated=lambda weight, frames: weight[:, :, None],
)
