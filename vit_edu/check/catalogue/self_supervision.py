"""Lesson 10: which patches are kept, what encoder and decoder read, the loss of removed patches, targets from images, a fair probe."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vit_edu import selfsupervised, transfer
from vit_edu.check.cases import (
    Case,
    CaseFailed,
    apply,
    call,
    drawn,
    generator,
    in_double,
    not_contiguous,
    passes_gradient,
)
from vit_edu.check.engine import Exercise
from vit_edu.check.probes import Sizes, grid
from vit_edu.models import masked
from vit_edu.models.masked import gather_tokens
from vit_edu.models.vit import patchify

# ---------------------------------------------------------------- which patches are kept


def _noise(images, patches, seed=0):
    """(B, N), evenly distributed over 0..1, as in the lesson; no two are equal."""
    return torch.rand(images, patches, generator=generator(seed))


def _masking_case(images, patches, kept):
    return call("", _noise(images, patches), kept)


random_masking = Exercise(
    masked.random_masking,
    call(
        "the example: 2 of 4 patches are kept",
        torch.tensor([[0.3, 0.1, 0.9, 0.2]]),
        2,
        hint="In the shuffled order come patch 1, 3, 0, 2. So patch 0 is the third of them, at place 2.",
    ),
    call(
        "two images, each with a mask of its own",
        torch.tensor([[0.5, 0.1, 0.6, 0.3, 0.9, 0.2], [0.2, 0.8, 0.7, 0.1, 0.4, 0.9]]),
        2,
    ),
    call("4 of 16 patches in 3 images", _noise(3, 16), 4),
    call("5 of 9 patches in 4 images", _noise(4, 9, seed=1), 5),
    call("as many images as patches", _noise(6, 6, seed=2), 2),
    call("a single patch is kept", _noise(2, 8, seed=3), 1, kind="property"),
    call("all patches are kept", _noise(2, 5, seed=4), 5, kind="property"),
    not_contiguous(_noise(3, 8, seed=5), 3),
    sizes=Sizes(
        _masking_case,
        images=(5, 2, 3, 8, 16, 128),
        patches=(20, 24, 16, 64, 4, 196),
        kept=(7, 9, 4, 16, 2),
    ),
)


def _masked_by(order, mask=lambda ranks, keep: (ranks >= keep).float()):
    """All three from this order of the patches. order: noise -> (B, N)."""

    def wrong(noise, keep):
        shuffled = order(noise)
        ranks = shuffled.argsort(dim=1)
        return shuffled[:, :keep], ranks, mask(ranks, keep)

    return wrong


def _then(change):
    """The right results, changed. change: ids_keep, ids_restore, mask, noise, keep -> the three that are returned."""
    return lambda noise, keep: change(*masked.random_masking(noise, keep), noise, keep)


random_masking.add_mistakes(
    restore_is_the_order=_then(lambda ids, restore, mask, noise, keep: (ids, noise.argsort(dim=1), mask)),
    order_is_the_mask_too=_then(
        lambda ids, restore, mask, noise, keep: (
            ids,
            noise.argsort(dim=1),
            (noise.argsort(dim=1) >= keep).float(),
        )
    ),
    mask_inverted=_then(lambda ids, restore, mask, noise, keep: (ids, restore, 1 - mask)),
    mask_in_shuffled_order=_then(
        lambda ids, restore, mask, noise, keep: (ids, restore, mask.sort(dim=1).values)
    ),
    mask_of_the_first_patches=_then(
        lambda ids, restore, mask, noise, keep: (ids, restore, 1 - mask.sort(dim=1).values)
    ),
    largest_kept=_masked_by(lambda noise: noise.argsort(dim=1, descending=True)),
    removed_returned=_then(
        lambda ids, restore, mask, noise, keep: (noise.argsort(dim=1)[:, keep:], restore, mask)
    ),
    last_kept=_then(lambda ids, restore, mask, noise, keep: (noise.argsort(dim=1)[:, -keep:], restore, mask)),
    as_many_removed=lambda noise, keep: masked.random_masking(noise, max(1, noise.shape[1] - keep)),
    same_mask_for_all=lambda noise, keep: masked.random_masking(noise[:1].expand_as(noise), keep),
    sorted_over_the_images=lambda noise, keep: (
        noise.argsort(dim=0)[:, :keep],
        noise.argsort(dim=0).argsort(dim=0),
        (noise.argsort(dim=0).argsort(dim=0) >= keep).float(),
    ),
    first_patches_kept=_masked_by(lambda noise: torch.arange(noise.shape[1]).expand(noise.shape)),
    kept_in_reading_order=_then(
        lambda ids, restore, mask, noise, keep: (ids.sort(dim=1).values, restore, mask)
    ),
    restore_of_the_kept=_then(lambda ids, restore, mask, noise, keep: (ids, restore[:, :keep], mask)),
    noise_not_used=lambda noise, keep: masked.random_masking(torch.rand(noise.shape), keep),
    threshold=_then(
        lambda ids, restore, mask, noise, keep: (ids, restore, (noise > keep / noise.shape[1]).float())
    ),
    true_and_false=_then(lambda ids, restore, mask, noise, keep: (ids, restore, mask.bool())),
    whole_numbers=_then(lambda ids, restore, mask, noise, keep: (ids, restore, mask.long())),
    noise_returned=_then(
        lambda ids, restore, mask, noise, keep: (noise.sort(dim=1).values[:, :keep], restore, mask)
    ),
    mask_before_restore=_then(lambda ids, restore, mask, noise, keep: (ids, mask, restore)),
)


# ---------------------------------------------------------------- what the encoder reads


def _tokens(images, tokens, width, seed=0):
    return drawn(images, tokens, width, seed=seed)


def _order(images, patches, seed=0):
    return torch.stack([torch.randperm(patches, generator=generator(100 * seed + i)) for i in range(images)])


def _encoder_arguments(images, patches, width, kept, seed=0):
    if kept > patches:
        raise ValueError("more patches are kept than there are")
    tokens, positions = _tokens(images, patches, width, seed), _tokens(1, patches, width, seed + 1)
    return tokens, positions, _order(images, patches, seed)[:, :kept]


encoder_input = Exercise(
    masked.encoder_input,
    call(
        "the example: patches 2 and 1 of four",
        torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]),
        torch.tensor([[[10.0], [20.0], [30.0], [40.0]]]),
        torch.tensor([[2, 1]]),
        hint="Patch 2 holds 3 and stands at position 30.",
    ),
    call("two images, each with patches of its own", *_encoder_arguments(2, 6, 3, 2)),
    call("4 of 16 patches, width 8", *_encoder_arguments(3, 16, 8, 4, seed=2)),
    call("as many images as patches", *_encoder_arguments(4, 4, 5, 3, seed=4)),
    call("as many kept patches as images", *_encoder_arguments(3, 7, 2, 3, seed=6)),
    call("a single patch is kept", *_encoder_arguments(2, 9, 4, 1, seed=8), kind="property"),
    call("all patches are kept", *_encoder_arguments(2, 5, 4, 5, seed=10)),
    call("tokens of width 1", *_encoder_arguments(2, 6, 1, 4, seed=12), kind="property"),
    in_double(*_encoder_arguments(2, 6, 4, 3, seed=14)),
    not_contiguous(*_encoder_arguments(2, 6, 4, 3, seed=16)),
    passes_gradient(*_encoder_arguments(2, 6, 4, 3, seed=18)),
    sizes=Sizes(
        lambda images, patches, width, kept: call("", *_encoder_arguments(images, patches, width, kept)),
        images=(5, 2, 3, 8),
        patches=(20, 24, 16, 64, 4, 196),
        width=(6, 10, 8, 64, 4),
        kept=(7, 9, 4, 16, 2),
    ),
)


def _of_image(number, tokens, ids):
    """Tokens of this image alone, at the places of each."""
    return tokens[number][ids]


@encoder_input.mistake
def removed_are_zeros(tokens, pos_embed, ids_keep):
    seen = torch.zeros(tokens.shape[:2]).scatter(1, ids_keep, 1.0)
    return (tokens + pos_embed) * seen[..., None].to(tokens)


@encoder_input.mistake
def removed_ones(tokens, pos_embed, ids_keep):
    seen = torch.zeros(tokens.shape[:2]).scatter(1, ids_keep, 1.0)
    rest = seen.argsort(dim=1, stable=True)[:, : tokens.shape[1] - ids_keep.shape[1]]
    return gather_tokens(tokens + pos_embed, rest)


encoder_input.add_mistakes(
    positions_after_dropping=lambda tokens, pos_embed, ids_keep: (
        gather_tokens(tokens, ids_keep) + pos_embed[:, : ids_keep.shape[1]]
    ),
    positions_left_out=lambda tokens, pos_embed, ids_keep: gather_tokens(tokens, ids_keep),
    positions_alone=lambda tokens, pos_embed, ids_keep: gather_tokens(
        pos_embed.expand_as(tokens) + 0 * tokens, ids_keep
    ),
    positions_of_the_first_image=lambda tokens, pos_embed, ids_keep: (
        gather_tokens(tokens, ids_keep) + pos_embed[:, ids_keep[0]]
    ),
    first_tokens=lambda tokens, pos_embed, ids_keep: (tokens + pos_embed)[:, : ids_keep.shape[1]],
    same_for_all=lambda tokens, pos_embed, ids_keep: (tokens + pos_embed)[:, ids_keep[0]],
    tokens_of_the_first_image=lambda tokens, pos_embed, ids_keep: _of_image(0, tokens + pos_embed, ids_keep),
    every_choice_for_every_image=lambda tokens, pos_embed, ids_keep: (tokens + pos_embed)[:, ids_keep],
    first_feature_alone=lambda tokens, pos_embed, ids_keep: (tokens + pos_embed).gather(
        1, ids_keep[..., None]
    ),
    in_reading_order=lambda tokens, pos_embed, ids_keep: gather_tokens(
        tokens + pos_embed, ids_keep.sort(dim=1).values
    ),
    nothing_dropped=lambda tokens, pos_embed, ids_keep: tokens + pos_embed,
    positions_twice=lambda tokens, pos_embed, ids_keep: gather_tokens(tokens + 2 * pos_embed, ids_keep),
    positions_multiplied=lambda tokens, pos_embed, ids_keep: gather_tokens(tokens * pos_embed, ids_keep),
    positions_beside=lambda tokens, pos_embed, ids_keep: gather_tokens(
        torch.cat([tokens, pos_embed.expand_as(tokens)], dim=-1), ids_keep
    ),
)


# ---------------------------------------------------------------- what the decoder reads


def _decoder_arguments(images, patches, width, kept, seed=0):
    if kept > patches:
        raise ValueError("more patches are kept than there are")
    restore = _order(images, patches, seed).argsort(dim=1)
    visible, mask_token = _tokens(images, kept, width, seed), _tokens(1, 1, width, seed + 1)
    return visible, restore, mask_token, _tokens(1, patches, width, seed + 2)


decoder_input = Exercise(
    masked.decoder_input,
    call(
        "the example: two of four patches are there",
        torch.tensor([[[1.0], [3.0]]]),
        torch.tensor([[2, 0, 3, 1]]),
        torch.tensor([[[7.0]]]),
        torch.tensor([[[10.0], [20.0], [30.0], [40.0]]]),
        hint="In the shuffled order the tokens are 1, 3, 7, 7. Patch 0 takes number 2 of them, and its position is 10.",
    ),
    call("two images, each shuffled in its own way", *_decoder_arguments(2, 6, 3, 2)),
    call("4 of 16 patches, width 8", *_decoder_arguments(3, 16, 8, 4, seed=3)),
    call("as many images as patches", *_decoder_arguments(4, 4, 5, 3, seed=6)),
    call("more patches are there than missing", *_decoder_arguments(2, 7, 4, 5, seed=9)),
    call("a single patch is there", *_decoder_arguments(2, 9, 4, 1, seed=12)),
    call("nothing is missing", *_decoder_arguments(2, 5, 4, 5, seed=15), kind="property"),
    in_double(*_decoder_arguments(2, 6, 4, 3, seed=18)),
    not_contiguous(*_decoder_arguments(2, 6, 4, 3, seed=21)),
    passes_gradient(*_decoder_arguments(2, 6, 4, 3, seed=24)),
    sizes=Sizes(
        lambda images, patches, width, kept: call("", *_decoder_arguments(images, patches, width, kept)),
        images=(5, 2, 3, 8),
        patches=(20, 24, 16, 64, 4, 196),
        width=(6, 10, 8, 64, 4),
        kept=(7, 9, 4, 16, 2),
    ),
)


def _shuffled(visible, ids_restore, mask_token):
    """(B, N, D): the tokens that are there, then mask tokens."""
    missing = ids_restore.shape[1] - visible.shape[1]
    return torch.cat([visible, mask_token.expand(len(visible), missing, -1)], dim=1)


def _restored(put=lambda shuffled, ids_restore: gather_tokens(shuffled, ids_restore), join=_shuffled):
    """A decoder's input that joins or restores the tokens in another way; positions are added in the end."""
    return lambda visible, ids_restore, mask_token, pos_embed: (
        put(join(visible, ids_restore, mask_token), ids_restore) + pos_embed
    )


def _mask_tokens_first(visible, ids_restore, mask_token):
    return _shuffled(visible, ids_restore, mask_token).roll(-visible.shape[1], dims=1)


def _with_positions(share):
    """Only a share of each position is added. share: ids_restore, K -> (B, N), where there is one."""

    def wrong(visible, ids_restore, mask_token, pos_embed):
        there = share(ids_restore, visible.shape[1])[..., None].to(visible)
        return gather_tokens(_shuffled(visible, ids_restore, mask_token), ids_restore) + there * pos_embed

    return wrong


@decoder_input.mistake
def in_the_order_of_places(visible, ids_restore, mask_token, pos_embed):
    B, N, D = *ids_restore.shape, visible.shape[-1]
    x = mask_token.expand(B, N, D).clone()
    x[ids_restore < visible.shape[1]] = visible.reshape(-1, D)
    return x + pos_embed


decoder_input.add_mistakes(
    never_restored=_restored(lambda shuffled, ids_restore: shuffled),
    shuffled_again=_restored(
        lambda shuffled, ids_restore: gather_tokens(shuffled, ids_restore.argsort(dim=1))
    ),
    positions_before_restoring=lambda visible, ids_restore, mask_token, pos_embed: gather_tokens(
        _shuffled(visible, ids_restore, mask_token) + pos_embed, ids_restore
    ),
    positions_left_out=_with_positions(lambda ids_restore, K: ids_restore < 0),
    mask_tokens_without_positions=_with_positions(lambda ids_restore, K: ids_restore < K),
    mask_tokens_alone_with_positions=_with_positions(lambda ids_restore, K: ids_restore >= K),
    mask_tokens_first=_restored(join=_mask_tokens_first),
    zeros_for_mask_tokens=_restored(
        join=lambda visible, ids_restore, mask_token: _shuffled(visible, ids_restore, 0 * mask_token)
    ),
    mask_token_everywhere=lambda visible, ids_restore, mask_token, pos_embed: masked.decoder_input(
        visible, ids_restore, mask_token, pos_embed + mask_token
    ),
    restored_as_the_first_image=_restored(lambda shuffled, ids_restore: shuffled[:, ids_restore[0]]),
    tokens_of_the_first_image=_restored(lambda shuffled, ids_restore: _of_image(0, shuffled, ids_restore)),
    every_order_for_every_image=_restored(lambda shuffled, ids_restore: shuffled[:, ids_restore]),
    first_feature_alone=_restored(lambda shuffled, ids_restore: shuffled.gather(1, ids_restore[..., None])),
    nothing_filled_in=lambda visible, ids_restore, mask_token, pos_embed: (
        visible + pos_embed[:, : visible.shape[1]]
    ),
    only_mask_tokens=lambda visible, ids_restore, mask_token, pos_embed: (
        mask_token + pos_embed + 0 * visible.sum(dim=1, keepdim=True)
    ),
    positions_twice=lambda visible, ids_restore, mask_token, pos_embed: masked.decoder_input(
        visible, ids_restore, mask_token, 2 * pos_embed
    ),
)


# ---------------------------------------------------------------- the loss of the removed patches


def _loss_arguments(images, channels, height, width, patch, seed=0, removed=None):
    """Predictions, images and a mask; pictures are brighter here and there, so that no two statistics are equal.

    removed: how many patches of each image; half of them if it is None.
    """
    x = drawn(images, channels, height, width, seed=seed)
    x = x * (1 + drawn(images, channels, 1, 1, seed=seed + 1).abs()) + drawn(1, channels, 1, width, seed=seed)
    patches = patchify(x, patch)  # ValueError for sizes that do not fit
    B, N, _ = patches.shape
    removed = removed or N // 2
    if not removed:
        raise ValueError("of a single patch none can be removed")
    mask = masked.random_masking(_noise(B, N, seed), N - removed)[2]
    return drawn(*patches.shape, seed=seed + 2), x, mask, patch


def _faint(level, contrast):
    """A removed patch whose numbers differ from this level by no more than a little, and a kept one."""
    x = torch.cat([level + contrast * drawn(1, 1, 2, 2, seed=60), drawn(1, 1, 2, 2, seed=61)], dim=-1)
    return drawn(1, 2, 4, seed=62), x, torch.tensor([[1.0, 0.0]]), 2


def _gradient_of_the_prediction(candidate):
    predicted, *rest = _loss_arguments(2, 3, 4, 6, 2, seed=50)
    return passes_gradient(predicted).run(lambda predicted: candidate(predicted, *rest))


def _of_squares(image_size, patch):
    return call("", *_loss_arguments(2, 3, image_size, image_size, patch))


def _in_patches(patches, patch):
    rows, columns = grid(patches)
    return call("", *_loss_arguments(2, 2, rows * patch, columns * patch, patch))


masked_loss = Exercise(
    masked.masked_loss,
    call(
        "the example: one removed patch of 5, 1, 1, 1, and zeros are predicted",
        torch.zeros(1, 2, 4),
        torch.tensor([[[[5.0, 1, 2, 6], [1, 1, 4, 8]]]]),
        torch.tensor([[1.0, 0.0]]),
        2,
        hint="The mean is 2 and the variance (9 + 1 + 1 + 1) / 3 = 4, so the target is 1.5, -0.5, -0.5, -0.5.",
    ),
    call("2 images of 3 channels, half of 2 x 3 patches removed", *_loss_arguments(2, 3, 4, 6, 2)),
    call("12 of 16 patches removed", *_loss_arguments(3, 3, 16, 16, 4, seed=10, removed=12)),
    call("a single patch removed in each image", *_loss_arguments(4, 2, 6, 9, 3, seed=20, removed=1)),
    call("all but one patch removed", *_loss_arguments(2, 1, 4, 4, 2, seed=30, removed=3)),
    call("grey images, patches of 2 x 2", *_loss_arguments(5, 1, 4, 8, 2, seed=40)),
    call(
        "a removed patch of one colour",
        *_faint(0.5, 0.0),
        hint="Its variance is 0. Add 1e-6 to the variance before you take its root.",
    ),
    call("a removed patch of almost one colour", *_faint(0.0, 3e-4)),
    in_double(*_loss_arguments(2, 3, 4, 6, 2, seed=70)),
    not_contiguous(*_loss_arguments(2, 3, 4, 6, 2, seed=80)),
    Case(
        "the gradient reaches what was predicted",
        _gradient_of_the_prediction,
        "Do not use .data, .detach(), .item(), torch.tensor(...) or no_grad on the way.",
        1e-4,
        "property",
    ),
    sizes=(
        Sizes(
            lambda images, channels, image_height, image_width, patch: call(
                "", *_loss_arguments(images, channels, image_height, image_width, patch)
            ),
            images=(5, 2, 3, 8),
            channels=(6, 5, 3),
            image_height=(16, 48, 32, 8),
            image_width=(48, 80, 32, 8),
            patch=(2, 8, 4),
        ),
        Sizes(_in_patches, patches=(15, 24, 64, 16, 4), patch=(2, 5, 4, 8)),
        Sizes(_of_squares, image_size=(48, 80, 32, 8), patch=(2, 8, 4)),
    ),
)


def _normalised(patches, axes=-1, correction=1, eps=1e-6):
    mean = patches.mean(dim=axes, keepdim=True)
    return (patches - mean) / (patches.var(dim=axes, correction=correction, keepdim=True) + eps).sqrt()


def _each_channel(patches, channels):
    return _normalised(patches.unflatten(-1, (-1, channels)), -2).flatten(-2)


def _towards(target):
    """The loss with another target. target: patches (B, N, n), images (B, C, H, W), P -> (B, N, n)."""

    def wrong(predicted, images, mask, patch_size):
        error = predicted - target(patchify(images, patch_size), images, patch_size)
        return (error.square().mean(dim=-1) * mask).sum() / mask.sum()

    return wrong


def _measured(loss):
    """Another loss for the right target. loss: predicted - target (B, N, n), mask (B, N) -> what is returned."""

    def wrong(predicted, images, mask, patch_size):
        return loss(predicted - masked.normalized_patches(images, patch_size), mask)

    return wrong


def _over_removed(error, mask):
    return (error * mask).sum() / mask.sum()


masked_loss.add_mistakes(
    over_all_patches=_measured(lambda error, mask: error.square().mean()),
    over_the_kept=lambda predicted, images, mask, patch_size: masked.masked_loss(
        predicted, images, 1 - mask, patch_size
    ),
    divided_by_all=_measured(lambda error, mask: (error.square().mean(dim=-1) * mask).mean()),
    added_up=_measured(lambda error, mask: (error.square().mean(dim=-1) * mask).sum()),
    summed_inside=_measured(lambda error, mask: _over_removed(error.square().sum(dim=-1), mask)),
    per_image=_measured(lambda error, mask: (error.square().mean(dim=-1) * mask).sum() / len(mask)),
    absolute=_measured(lambda error, mask: _over_removed(error.abs().mean(dim=-1), mask)),
    not_squared=_measured(lambda error, mask: _over_removed(error.mean(dim=-1), mask)),
    root=_measured(lambda error, mask: _over_removed(error.square().mean(dim=-1), mask).sqrt()),
    each_patch=_measured(lambda error, mask: error.square().mean(dim=-1) * mask),
    not_normalised=_towards(lambda patches, images, patch_size: patches),
    only_centred=_towards(lambda patches, images, patch_size: patches - patches.mean(dim=-1, keepdim=True)),
    divided_by_the_variance=_towards(
        lambda patches, images, patch_size: (
            (patches - patches.mean(dim=-1, keepdim=True)) / (patches.var(dim=-1, keepdim=True) + 1e-6)
        )
    ),
    over_the_batch=_towards(lambda patches, images, patch_size: _normalised(patches, (0, 1, 2))),
    over_the_image=_towards(lambda patches, images, patch_size: _normalised(patches, (1, 2))),
    over_the_patches=_towards(lambda patches, images, patch_size: _normalised(patches, 1)),
    over_the_images=_towards(
        lambda patches, images, patch_size: _normalised(patches, 0, correction=min(1, len(patches) - 1))
    ),
    each_channel=_towards(lambda patches, images, patch_size: _each_channel(patches, images.shape[1])),
    biased_variance=_towards(lambda patches, images, patch_size: _normalised(patches, correction=0)),
    divided_by_zero=_towards(lambda patches, images, patch_size: _normalised(patches, eps=0)),
    added_to_the_deviation=_towards(
        lambda patches, images, patch_size: (
            (patches - patches.mean(dim=-1, keepdim=True)) / (patches.std(dim=-1, keepdim=True) + 1e-6)
        )
    ),
    channels_first=_towards(
        lambda patches, images, patch_size: _normalised(
            rearrange(patches, "b n (p c) -> b n (c p)", c=images.shape[1])
        )
    ),
    prediction_normalised_too=lambda predicted, images, mask, patch_size: masked.masked_loss(
        _normalised(predicted), images, mask, patch_size
    ),
)


# ---------------------------------------------------------------- four turns


def _numbered(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


rotate_batch = Exercise(
    selfsupervised.rotate_batch,
    call(
        "one image of 2 x 2 pixels: 0 1 / 2 3",
        _numbered(1, 1, 2, 2),
        hint="Turned counter-clockwise by a quarter, the right column 1 3 becomes the top row.",
    ),
    call(
        "two grey images of 3 x 3 pixels",
        _numbered(2, 1, 3, 3),
        hint="First both as they are, then both turned once, and so on.",
    ),
    call("4 images of 3 channels", drawn(4, 3, 6, 6)),
    call("3 images of 3 channels and 3 x 3 pixels", drawn(3, 3, 3, 3, seed=1)),
    call("5 images of 2 channels", drawn(5, 2, 4, 4, seed=2)),
    call("bytes (uint8) in, bytes out", _numbered(2, 3, 4, 4).byte(), kind="property"),
    in_double(drawn(2, 2, 3, 3, seed=3), asked=True),
    not_contiguous(drawn(2, 3, 4, 4, seed=4)),
    sizes=Sizes(
        lambda images, channels, image_size: call("", drawn(images, channels, image_size, image_size)),
        images=(6, 7, 2, 4, 8, 128),
        channels=(5, 2, 3),
        image_size=(10, 9, 32, 8),
    ),
)


def _turned(images, turn, turns=4):
    """All images turned: turn(images, by how many quarters), one number after the other."""
    return torch.cat([turn(images, k) for k in range(turns)])


def _quarters(images, k):
    return torch.rot90(images, k, dims=(-2, -1))


def _labels(number, images, of_each=False):
    numbers = torch.arange(number)
    return numbers.repeat(images) if of_each else numbers.repeat_interleave(images)


def _in_turns(turn):
    return lambda images: (_turned(images, turn), _labels(4, len(images)))


def _labelled(labels):
    """The right images, with other labels. labels: B -> the labels."""
    return lambda images: (_turned(images, _quarters), labels(len(images)))


def _mirrored(images, k):
    return (images, images.flip(-1), images.flip(-1, -2), images.flip(-2))[k]


def _transposed(images, k):
    return (images, images.mT, images.flip(-1, -2), images.flip(-1, -2).mT)[k]


def _image_by_image(images):
    return torch.stack([_quarters(images, k) for k in range(4)], dim=1).flatten(0, 1)


@rotate_batch.mistake
def one_turn_for_each(images):
    labels = torch.randint(4, (len(images),))
    return torch.stack([_quarters(x, int(k)) for x, k in zip(images, labels, strict=True)]), labels


rotate_batch.add_mistakes(
    labels_in_another_order=_labelled(lambda images: _labels(4, images, of_each=True)),
    images_in_another_order=lambda images: (_image_by_image(images), _labels(4, len(images))),
    image_by_image=lambda images: (_image_by_image(images), _labels(4, len(images), of_each=True)),
    clockwise=_in_turns(lambda images, k: _quarters(images, -k)),
    mirrored=_in_turns(_mirrored),
    transposed=_in_turns(_transposed),
    only_upside_down=_in_turns(lambda images, k: _quarters(images, 2 * k)),
    never_turned=_in_turns(lambda images, k: images),
    images_and_channels_turned=_in_turns(lambda images, k: torch.rot90(images, k)),
    channels_and_rows_turned=_in_turns(lambda images, k: torch.rot90(images, k, dims=(1, 2))),
    original_left_out=lambda images: (
        _turned(images, lambda x, k: _quarters(x, k + 1), 3),
        1 + _labels(3, len(images)),
    ),
    labels_from_one=_labelled(lambda images: 1 + _labels(4, images)),
    labels_in_degrees=_labelled(lambda images: 90 * _labels(4, images)),
    labels_as_floats=_labelled(lambda images: _labels(4, images).float()),
    labels_one_hot=_labelled(lambda images: F.one_hot(_labels(4, images), 4)),
    one_label_for_each_turn=_labelled(lambda images: torch.arange(4)),
    axis_of_turns_left=lambda images: (
        torch.stack([_quarters(images, k) for k in range(4)]),
        _labels(4, len(images)),
    ),
    labels_first=lambda images: (_labels(4, len(images)), _turned(images, _quarters)),
)


# ---------------------------------------------------------------- colours from brightness


def _coloured(*shape, seed=0):
    """Images with numbers of 0..1."""
    return torch.rand(shape, generator=generator(seed))


def _colour_case(images, image_height, image_width, patch):
    return call("", _coloured(images, 3, image_height, image_width), patch)


colour_targets = Exercise(
    selfsupervised.colour_targets,
    call(
        "one patch of 1 x 2 pixels in patches of 1 x 1: red, and white",
        torch.tensor([[[[1.0, 1]], [[0, 1]], [[0, 1]]]]),
        1,
        hint="Pure red has the brightness 0.299, so red - grey is 0.701 and blue - grey -0.299. White has no colour.",
    ),
    call("one image of 2 x 2 pixels, one patch", _coloured(1, 3, 2, 2), 2),
    call("an image of 4 x 6 pixels in patches of 2 x 2", _coloured(1, 3, 4, 6, seed=1), 2),
    call("a batch of 2", _coloured(2, 3, 8, 8, seed=2), 4),
    call("3 images of 6 x 3 pixels in patches of 3 x 3", _coloured(3, 3, 6, 3, seed=3), 3),
    in_double(_coloured(2, 3, 4, 6, seed=4), 2),
    not_contiguous(_coloured(2, 3, 4, 6, seed=5), 2),
    sizes=(
        Sizes(
            _colour_case,
            images=(5, 2, 4, 8),
            image_height=(16, 48, 32, 8),
            image_width=(48, 80, 32, 8),
            patch=(2, 8, 4),
        ),
        Sizes(
            lambda image_size, patch: _colour_case(2, image_size, image_size, patch),
            image_size=(48, 80, 32, 8),
            patch=(2, 8, 4),
        ),
    ),
)

LUMA = selfsupervised.LUMA


def _brightness(images, weights=LUMA):
    return (torch.tensor(weights).to(images)[:, None, None] * images).sum(dim=1, keepdim=True)


def _missing(colours, weights=LUMA):
    """What is missing, computed in another way. colours: images, grey (B, 1, H, W) -> (B, K, H, W), to be cut in patches."""

    def wrong(images, patch_size):
        grey = _brightness(images, weights)
        return grey.expand_as(images), patchify(colours(images, grey), patch_size)

    return wrong


def _red_and_blue(images, grey):
    return images[:, ::2] - grey


def _then_targets(change):
    """The right results, changed. change: grey, targets, images, P -> what is returned."""
    return lambda images, patch_size: change(
        *selfsupervised.colour_targets(images, patch_size), images, patch_size
    )


def _laid_out(pattern):
    def wrong(grey, targets, images, P):
        missing = images[:, ::2] - grey[:, :1]
        return grey, rearrange(missing, pattern, p=P, q=P)

    return _then_targets(wrong)


colour_targets.add_mistakes(
    plain_mean=_missing(_red_and_blue, (1 / 3, 1 / 3, 1 / 3)),
    weights_reversed=_missing(_red_and_blue, LUMA[::-1]),
    other_weights=_missing(_red_and_blue, (0.2126, 0.7152, 0.0722)),
    grey_is_green=_missing(_red_and_blue, (0, 1, 0)),
    one_grey_channel=_then_targets(lambda grey, targets, images, P: (grey[:, :1], targets)),
    images_not_grey=_then_targets(lambda grey, targets, images, P: (images, targets)),
    all_three_missing=_missing(lambda images, grey: images - grey),
    colours_themselves=_missing(lambda images, grey: images[:, ::2]),
    red_and_green=_missing(lambda images, grey: images[:, :2] - grey),
    green_and_blue=_missing(lambda images, grey: images[:, 1:] - grey),
    blue_before_red=_missing(lambda images, grey: images[:, [2, 0]] - grey),
    minus_green=_missing(lambda images, grey: images[:, ::2] - images[:, 1:2]),
    grey_minus_colour=_missing(lambda images, grey: grey - images[:, ::2]),
    colours_first=_laid_out("b c (r p) (s q) -> b (r s) (c p q)"),
    column_order=_laid_out("b c (r p) (s q) -> b (s r) (p q c)"),
    transposed_inside=_laid_out("b c (r p) (s q) -> b (r s) (q p c)"),
    targets_as_images=_then_targets(lambda grey, targets, images, P: (grey, images[:, ::2] - grey[:, :1])),
    targets_first=_then_targets(lambda grey, targets, images, P: (targets, grey)),
    targets_alone=_then_targets(lambda grey, targets, images, P: targets),
)


# ---------------------------------------------------------------- a probe that is fair


class _Encoder(nn.Module):
    """A small encoder whose features have different means and deviations. flat: is the last one 2 for all images?"""

    def __init__(self, channels, height, width, features, flat=False):
        super().__init__()
        weight = drawn(channels * height * width, features, seed=1) * torch.logspace(-1, 1, features)
        bias = drawn(features, seed=2) * 3
        if flat:
            weight[:, -1], bias[-1] = 0, 2
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.sizes = channels, height, width

    def forward(self, images):
        if tuple(images.shape[1:]) != self.sizes:
            raise CaseFailed(
                "the encoder reads images of shape (B, {sizes}), and got {shape}",
                sizes=", ".join(map(str, self.sizes)),
                shape=tuple(images.shape),
            )
        return torch.tanh(images.flatten(1) / 4) @ self.weight + self.bias


def _probed(
    candidate,
    labelled=40,
    queries=60,
    classes=3,
    width=8,
    penalty=1.0,
    seed=0,
    share=(),
    left_out=(),
    flat=False,
):
    """(what the candidate names, the encoder). Test images are brighter than those with labels, as on another day.

    share: how often each class occurs among the labels, compared with the others; all equally often if it is empty. left_out:
    classes that do not occur.
    """
    encoder = _Encoder(2, 3, 4, width, flat)
    weights = torch.tensor(share) if share else torch.ones(classes)
    weights[list(left_out)] = 0
    labels = torch.multinomial(weights, labelled, replacement=True, generator=generator(seed))
    looks = drawn(classes, 2, 3, 4, seed=seed + 1)
    train = looks[labels] + 1.5 * drawn(labelled, 2, 3, 4, seed=seed + 2)
    true = torch.randint(classes, (queries,), generator=generator(seed + 3))
    test = 0.7 + 1.3 * (looks[true] + 1.5 * drawn(queries, 2, 3, 4, seed=seed + 4))
    return apply(candidate, encoder, train, labels, test, classes, penalty), encoder


def _probe(name, hint="", kind="", **setting):
    return Case(name, lambda candidate: _probed(candidate, **setting)[0], hint, kind=kind)


def _probe_case(labelled, queries, classes, width, penalty):
    """Several probes, because a penalty that is nearly right names most images rightly."""

    def run(candidate):
        return [
            _probed(candidate, labelled, queries, classes, width, penalty, 10 * seed)[0] for seed in range(8)
        ]

    return Case("", run)


def _pixels(candidate):
    """One feature, the brightness of images that are one pixel large."""
    train, test = torch.tensor([0.0, 2, 8, 10]), torch.tensor([1.0, 9, 4, 6])
    images = [x.reshape(-1, 1, 1, 1) for x in (train, test)]
    labels = torch.tensor([0, 0, 1, 1])
    return apply(candidate, lambda x: x.flatten(1), images[0], labels, images[1], 2, 1.0)


def _left_alone(candidate):
    encoder = _probed(candidate)[1]
    before = _Encoder(2, 3, 4, 8).state_dict()
    if not all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items()):
        raise CaseFailed("the weights of the encoder have changed")
    return "unchanged"


fair_probe = Exercise(
    transfer.fair_probe,
    Case("four images of one pixel, two classes", _pixels),
    _probe("40 labelled images, 60 test images, 3 classes", seed=180),
    _probe("12 classes, 80 labelled images", labelled=80, queries=90, classes=12, width=12, seed=40),
    _probe(
        "one class is much commoner than the others",
        "The penalty is for the weights and not for the bias, so that a common class can stay likely.",
        labelled=20,
        penalty=15.0,
        share=(4.0, 2.0, 1.0),
        seed=0,
    ),
    _probe("a penalty of 100", penalty=100.0, share=(1.0, 3.0, 2.0), seed=140),
    _probe("a penalty of 0.01", penalty=0.01, labelled=30, width=16, seed=120),
    _probe("more features than labelled images", labelled=10, width=30, seed=320),
    _probe(
        "a class that no labelled image has",
        "Column k of the one-hot labels belongs to class k, even if it is empty: pass num_classes.",
        classes=5,
        left_out=(1,),
        seed=290,
    ),
    _probe(
        "a feature that is the same for all images",
        "Its deviation is 0. Whatever you divide by must not be.",
        flat=True,
        seed=200,
    ),
    _probe("two classes", classes=2, queries=50, seed=240),
    _probe("a single test image", queries=1, seed=180, kind="property"),
    Case(
        "the encoder is as it was before",
        _left_alone,
        "The features are frozen: nothing is trained but the linear layer, and that is solved in one step.",
        kind="property",
        shows="encoder_trained",
    ),
    sizes=Sizes(
        _probe_case,
        labelled=(45, 70, 40, 100),
        queries=(110, 140, 60, 100),
        classes=(4, 7, 3, 10, 20),
        width=(9, 14, 8, 64),
        penalty=(3.0, 30.0, 1.0, 0.1, 10.0),
    ),
)


def _standardised(features, by=None):
    by = features if by is None else by
    return (features - by.mean(dim=0)) / by.std(dim=0, correction=0).clamp_min(1e-6)


def _ridge(x, wanted, penalty):
    return torch.linalg.solve(x.mT @ x + penalty * torch.eye(x.shape[1]), x.mT @ wanted)  # (D, K)


def _one_hot(labels, classes):
    return F.one_hot(labels, classes).float()


def _centred(wanted, penalty):
    return wanted.mean(dim=0)


def _fitted(
    scale=lambda train, test: (_standardised(train), _standardised(test, train)),
    wanted=_one_hot,
    bias=_centred,
    weight=_ridge,
    named=lambda scores: scores.argmax(dim=1),
):
    """A probe with one of these parts changed.

    scale: features of the training and of the test images -> both, as the layer reads them. wanted: labels, K -> (M, K). bias: of
    `wanted` and the penalty. weight: x, wanted, penalty -> (D, K). named: scores (N, K) -> what is returned.
    """

    def wrong(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
        with torch.no_grad():
            x, queries = scale(encode(train_images), encode(test_images))
            target = wanted(train_labels, num_classes)
            constant = bias(target, penalty)
            return named(queries @ weight(x, target - constant, penalty) + constant)

    return wrong


def _each_image(features):
    return (features - features.mean(dim=1, keepdim=True)) / features.std(dim=1, correction=0, keepdim=True)


def _one_scale(train, test):
    return [(features - train.mean()) / train.std() for features in (train, test)]


def _no_deviation(train, test):
    return train - train.mean(dim=0), test - train.mean(dim=0)


def _both(train, test):
    together = torch.cat([train, test])
    return _standardised(train, together), _standardised(test, together)


def _nearest(x, wanted, penalty):
    return torch.linalg.lstsq(x, wanted, driver="gelsd").solution


@fair_probe.mistake
def labels_as_numbers(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    with torch.no_grad():
        x = _standardised(encode(train_images))
        wanted = train_labels.float()
        weight = _ridge(x, (wanted - wanted.mean())[:, None], penalty)[:, 0]
        found = _standardised(encode(test_images), encode(train_images)) @ weight + wanted.mean()
    return found.round().long().clamp(0, num_classes - 1)


@fair_probe.mistake
def classes_that_occur(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    classes, numbers = train_labels.unique(return_inverse=True)
    return transfer.fair_probe(encode, train_images, numbers, test_images, len(classes), penalty)


@fair_probe.mistake
def nearest_mean(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    with torch.no_grad():
        features = encode(train_images)
        x, queries = _standardised(features), _standardised(encode(test_images), features)
        means = _one_hot(train_labels, num_classes).mT @ x
        means = (
            means / torch.bincount(train_labels, minlength=num_classes)[:, None]
        )  # nan for a class without images
        return torch.cdist(queries, means).nan_to_num(float("inf")).argmin(dim=1)


@fair_probe.mistake
def nearest_image(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    with torch.no_grad():
        features = encode(train_images)
        x, queries = _standardised(features), _standardised(encode(test_images), features)
        return train_labels[torch.cdist(queries, x).argmin(dim=1)]


@fair_probe.mistake
def encoder_trained(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    weights = list(getattr(encode, "parameters", list)())
    if weights:
        layer = torch.zeros(encode(train_images).shape[1], num_classes, requires_grad=True)
        for _ in range(5):
            loss = F.cross_entropy(encode(train_images) @ layer, train_labels)
            gradients = torch.autograd.grad(loss, [*weights, layer])
            with torch.no_grad():
                for value, gradient in zip([*weights, layer], gradients, strict=True):
                    value -= 0.01 * gradient
    return transfer.fair_probe(encode, train_images, train_labels, test_images, num_classes, penalty)


fair_probe.add_mistakes(
    test_statistics=_fitted(scale=lambda train, test: (_standardised(train), _standardised(test))),
    statistics_of_both=_fitted(scale=_both),
    test_not_standardised=_fitted(scale=lambda train, test: (_standardised(train), test)),
    deviation_left_out=_fitted(scale=_no_deviation),
    one_scale_for_all_features=_fitted(scale=_one_scale),
    each_image_for_itself=_fitted(scale=lambda train, test: (_each_image(train), _each_image(test))),
    nothing_for_flat_features=_fitted(
        scale=lambda train, test: [
            (features - train.mean(dim=0)) / train.std(dim=0, correction=0) for features in (train, test)
        ]
    ),
    bias_left_out=_fitted(bias=lambda wanted, penalty: torch.zeros(wanted.shape[1])),
    bias_penalised=_fitted(bias=lambda wanted, penalty: wanted.sum(dim=0) / (len(wanted) + penalty)),
    penalty_left_out=_fitted(weight=_nearest),
    penalty_of_one=_fitted(weight=lambda x, wanted, penalty: _ridge(x, wanted, 1.0)),
    penalty_times_images=_fitted(weight=lambda x, wanted, penalty: _ridge(x, wanted, penalty * len(x))),
    penalty_squared=_fitted(weight=lambda x, wanted, penalty: _ridge(x, wanted, penalty**2)),
    scores_returned=_fitted(named=lambda scores: scores),
    best_image_for_each_class=_fitted(named=lambda scores: scores.argmax(dim=0)),
    names_the_training_images=lambda encode, train_images, train_labels, test_images, num_classes, penalty=1.0: (
        transfer.fair_probe(encode, train_images, train_labels, train_images, num_classes, penalty)
    ),
    as_floats=_fitted(named=lambda scores: scores.argmax(dim=1).float()),
)
