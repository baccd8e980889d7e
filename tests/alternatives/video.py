"""Lesson 11, part 4: right answers written in other ways."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from alternatives import alternative
from vit_edu.models import vit
from vit_edu.models.costs import layer_cost

# ---------------------------------------------------------------- tubelets


@alternative("tubelets")
def in_one_pattern(clips, frames, patch_size):
    P = patch_size
    return rearrange(clips, "b (f t) c (r p) (s q) -> b (f r s) (t p q c)", t=frames, p=P, q=P)


@alternative("tubelets")
def reshape_permute(clips, frames, patch_size):
    B, count, C, H, W = clips.shape
    t, P = frames, patch_size
    x = clips.reshape(B, count // t, t, C, H // P, P, W // P, P)
    x = x.permute(0, 1, 4, 6, 2, 5, 7, 3)
    return x.reshape(B, (count // t) * (H // P) * (W // P), t * P * P * C)


@alternative("tubelets")
def loops(clips, frames, patch_size):
    _, count, _, H, W = clips.shape
    t, P = frames, patch_size
    found = []
    for f in range(0, count, t):
        for i in range(0, H, P):
            for j in range(0, W, P):
                tubelet = clips[:, f : f + t, :, i : i + P, j : j + P]  # (B, t, C, P, P)
                found.append(tubelet.movedim(2, -1).flatten(1))
    return torch.stack(found, dim=1)


@alternative("tubelets")
def patches_joined(clips, frames, patch_size):
    """The patches of each frame, and those of frames that follow one another joined."""
    parts = []
    for f in range(0, clips.shape[1], frames):
        patches = [vit.patchify(frame, patch_size) for frame in clips[:, f : f + frames].unbind(1)]
        parts.append(torch.cat(patches, dim=2))
    return torch.cat(parts, dim=1)


@alternative("tubelets")
def patches_of_all_frames(clips, frames, patch_size):
    """Frames as images, for a while."""
    B, count = clips.shape[:2]
    patches = vit.patchify(clips.flatten(0, 1), patch_size)  # (B F, N, P*P*C)
    patches = patches.reshape(B, count // frames, frames, *patches.shape[1:])
    return patches.transpose(2, 3).flatten(3).flatten(1, 2)


@alternative("tubelets")
def as_a_convolution(clips, frames, patch_size):
    """A Conv3d that only copies; it needs floats."""
    C, t, P = clips.shape[2], frames, patch_size
    dtype = torch.float64 if clips.dtype == torch.float64 else torch.float32
    weight = rearrange(torch.eye(t * P * P * C, dtype=dtype), "k (t p q c) -> k c t p q", t=t, p=P, q=P)
    copied = F.conv3d(clips.transpose(1, 2).to(dtype), weight, stride=(t, P, P))
    return copied.flatten(2).mT.to(clips.dtype)


@alternative("tubelets")
def windows_of_views(clips, frames, patch_size):
    x = clips.unfold(1, frames, frames).unfold(3, patch_size, patch_size).unfold(4, patch_size, patch_size)
    # (B, F/t, C, rows, cols, t, P, P)
    return x.movedim(2, -1).flatten(4).flatten(1, 3)


@alternative("tubelets")
def picked_by_index(clips, frames, patch_size):
    places = torch.arange(clips[0].numel()).reshape(clips.shape[1:])
    index = rearrange(
        places, "(f t) c (r p) (s q) -> (f r s) (t p q c)", t=frames, p=patch_size, q=patch_size
    )
    return clips.flatten(1)[:, index]


# ---------------------------------------------------------------- space_time_positions


@alternative("space_time_positions")
def broadcast(time, space):
    return (time.unsqueeze(2) + space.unsqueeze(1)).reshape(1, -1, time.shape[-1])


@alternative("space_time_positions")
def repeated(time, space):
    return time.repeat_interleave(space.shape[1], dim=1) + space.repeat(1, time.shape[1], 1)


@alternative("space_time_positions")
def time_by_time(time, space):
    return torch.cat([vector[:, None] + space for vector in time.unbind(1)], dim=1)


@alternative("space_time_positions")
def looked_up(time, space):
    N = space.shape[1]
    number = torch.arange(time.shape[1] * N)
    return time[:, number // N] + space[:, number % N]


@alternative("space_time_positions")
def with_einops(time, space):
    t, n = time.shape[1], space.shape[1]
    return repeat(time, "1 t d -> 1 (t n) d", n=n) + repeat(space, "1 n d -> 1 (t n) d", t=t)


@alternative("space_time_positions")
def chosen_by_matrices(time, space):
    T, N = time.shape[1], space.shape[1]
    which_time = torch.eye(T, dtype=time.dtype).repeat_interleave(N, dim=0)  # (T N, T)
    which_place = torch.eye(N, dtype=space.dtype).repeat(T, 1)  # (T N, N)
    return which_time @ time + which_place @ space


@alternative("space_time_positions")
def token_by_token(time, space):
    rows = [time[0, f] + space[0, n] for f in range(time.size(1)) for n in range(space.size(1))]
    return torch.stack(rows).unsqueeze(0)


# ---------------------------------------------------------------- video_attention_cost


@alternative("video_attention_cost")
def written_out(times, patches, dim, attention):
    T = times * patches
    projections = 4 * T * dim**2
    if attention == "joint":
        return projections + 2 * T * T * dim
    return 2 * projections + 2 * dim * (times * patches**2 + patches * times**2)


@alternative("video_attention_cost")
def of_layers(times, patches, dim, attention):
    """Sequences by the cost of a layer for each."""

    def layer(tokens):
        return layer_cost("attention", tokens, dim)[1]

    if attention == "joint":
        return layer(times * patches)
    return times * layer(patches) + patches * layer(times)


@alternative("video_attention_cost")
def with_match(times, patches, dim, attention):
    def run(sequences, length):
        return sequences * (4 * length * dim * dim + 2 * length * length * dim)

    match attention:
        case "joint":
            return run(1, times * patches)
        case "factorised":
            return run(times, patches) + run(patches, times)
    raise ValueError(attention)


@alternative("video_attention_cost")
def partners_of_a_token(times, patches, dim, attention):
    """What a single token needs: its projections, and two products with each of its partners."""
    layers = [times * patches] if attention == "joint" else [patches, times]
    return times * patches * sum(4 * dim * dim + 2 * partners * dim for partners in layers)


@alternative("video_attention_cost")
def shapes_multiplied(times, patches, dim, attention):
    """Every product of matrices, as (repeats, rows, inner, columns)."""
    joint = attention == "joint"
    sequences = [(1, times * patches)] if joint else [(times, patches), (patches, times)]
    products = []
    for count, length in sequences:
        products += [(count, length, dim, 3 * dim), (count, length, dim, dim)]
        products += [(count, length, dim, length), (count, length, length, dim)]
    return sum(a * b * c * d for a, b, c, d in products)


# ---------------------------------------------------------------- inflate


@alternative("inflate")
def zeros_and_the_centre(weight, frames):
    D, C, P, Q = weight.shape
    inflated = torch.zeros(D, C, frames, P, Q, dtype=weight.dtype, device=weight.device)
    inflated[:, :, frames // 2] = weight
    return inflated


@alternative("inflate")
def padded(weight, frames):
    before = frames // 2
    return F.pad(weight.unsqueeze(2), (0, 0, 0, 0, before, frames - 1 - before))


@alternative("inflate")
def times_one_hot(weight, frames):
    centre = (torch.arange(frames) == frames // 2).to(weight.dtype)
    return weight[:, :, None] * centre[:, None, None]


@alternative("inflate")
def with_einsum(weight, frames):
    centre = torch.eye(frames, dtype=weight.dtype)[frames // 2]
    return torch.einsum("dcpq,t->dctpq", weight, centre)


@alternative("inflate")
def stacked(weight, frames):
    return torch.stack(
        [weight if f == frames // 2 else torch.zeros_like(weight) for f in range(frames)], dim=2
    )


@alternative("inflate")
def joined(weight, frames):
    zeros = weight.new_zeros(*weight.shape[:2], 1, *weight.shape[2:])
    before = [zeros] * (frames // 2)
    return torch.cat([*before, weight[:, :, None], *[zeros] * (frames - len(before) - 1)], dim=2)
