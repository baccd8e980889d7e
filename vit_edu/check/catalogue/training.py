"""Lesson 06: augmentation, accuracy, the schedule, one step, evaluation."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu import augment, data, training
from vit_edu.check.cases import Case, CaseFailed, apply, call, drawn, plain_number
from vit_edu.check.compare import described
from vit_edu.check.engine import Exercise
from vit_edu.check.language import N_, Sentence
from vit_edu.check.probes import Sizes


def _numbered(*shape):
    return torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def _checked(out, like):
    if not isinstance(out, torch.Tensor) or out.shape != like.shape or out.dtype != like.dtype:
        came = type(out).__name__
        if isinstance(out, torch.Tensor):
            came = Sentence("{shape} of {dtype}", shape=tuple(out.shape), dtype=out.dtype)
        raise CaseFailed(
            "expected images of shape {shape} and type {dtype} back, got {got}",
            shape=tuple(like.shape),
            dtype=like.dtype,
            got=came,
        )
    return out


def _applied(candidate, images, *args):
    return _checked(apply(candidate, images, *args), images)


def _keeps_bytes(images, *args):
    return Case(
        "bytes stay bytes",
        lambda f: _applied(f, images.to(torch.uint8), *args).dtype == torch.uint8,
        "The images of the lesson are uint8: new tensors need dtype=images.dtype.",
    )


# ---------------------------------------------------------------- flip

_copies = _numbered(1, 2, 4, 4).repeat(600, 1, 1, 1)  # of one image

_four = _numbered(4, 2, 4, 4)  # as many images as columns

_wide = _numbered(3, 5, 6, 8)


def _is_one_of(out, ways):
    """Is each image as it is in one of the ways? `out` may hold several batches."""
    calls = len(out) // len(ways[0])
    same = [(out == way.repeat(calls, 1, 1, 1)).flatten(1).all(1) for way in ways]
    return bool(torch.stack(same).any(0).all())


def _what_became(candidate, images):
    """What becomes of the images, in words. Several calls are made, so that small batches show it as well."""
    calls = -(-60 // len(images))
    out = torch.cat([_applied(candidate, images) for _ in range(calls)])
    mirrored, fallen, turned = images.flip(-1), images.flip(-2), images.flip(-1, -2)
    ways = {
        "as they were, or mirrored left to right": [images, mirrored],
        "upside down": [images, fallen],
        "turned by 180 degrees": [images, turned],
        "turned or mirrored in several ways": [images, mirrored, fallen, turned],
        "with other channels": [images, images.flip(1)],
        "other images of the batch": [w.roll(i, 0) for w in (images, mirrored) for i in range(4)],
    }
    if images.shape[-1] == images.shape[-2]:
        ways["with rows and columns exchanged"] = [images, images.mT]
    for words, allowed in ways.items():
        if _is_one_of(out, allowed):
            return words
    as_it_was, other_way = (out == w.repeat(calls, 1, 1, 1) for w in (images, mirrored))
    if (as_it_was.all(3).all(2) | other_way.all(3).all(2)).all():
        return "each channel mirrored or not, independently"
    if (as_it_was.all(3) | other_way.all(3)).all():
        return "each row mirrored or not, independently"
    if (as_it_was | other_way).all():
        return "pixels of the image and of its mirror image mixed"
    return "something else"


def _flip_case(name, images, hint=""):
    return Case(name, lambda f: _what_became(f, images), hint)


def _flipped(candidate):
    """(12, B) True for each image whose first pixel is not the original's, in twelve calls."""
    return torch.stack([_applied(candidate, _copies)[:, 0, 0, 0] != 1 for _ in range(12)])


def _how_many(candidate):
    flipped = _flipped(candidate)
    share = flipped.double().mean().item()
    if (flipped == flipped[:, :1]).all():
        return f"{'all' if share else 'none'} of them, always" if share in (0, 1) else "all or none"
    always_the_same = bool(
        (flipped == flipped[0]).all()
    )  # then there are fewer draws, and the share is less sure
    if abs(share - 0.5) < (0.1 if always_the_same else 0.03):
        return "about half"
    return "fewer than half" if share < 0.5 else "more than half"


def _which_next_time(candidate):
    flipped = _flipped(candidate)
    if not (flipped == flipped[0]).all():
        return "different ones each time"
    even, odd = flipped[0, ::2], flipped[0, 1::2]
    every_second = even.unique().numel() == odd.unique().numel() == 1 and even[0] != odd[0]
    return "every second image, always" if every_second else "the same each time"


random_flip = Exercise(
    data.random_flip,
    _flip_case(
        "what becomes of the images",
        _copies,
        "The last axis of (B, C, H, W) runs from left to right.",
    ),
    Case(
        "how many images of a batch are mirrored",
        _how_many,
        "Draw one number for each image, not one for the batch: torch.rand(B) lies below 1/2 for half of them.",
    ),
    Case("which images are mirrored, call after call", _which_next_time, "The draw is random."),
    _flip_case(
        "four images of 4 x 4 pixels",
        _four,
        "A draw of shape (B,) would belong to the last axis, the columns. One of shape (B, 1, 1, 1) belongs to the images.",
    ),
    _flip_case("images that are wider than high", _wide),
    _flip_case("one grey image", _wide[:1, :1]),
    _keeps_bytes(_copies),
    sizes=Sizes(
        lambda images, channels, image_height, image_width: _flip_case(
            "", _numbered(images, channels, image_height, image_width)
        ),
        images=(5, 2, 3, 64),
        channels=(2, 5, 3),
        image_height=(7, 6, 32, 28, 4),
        image_width=(6, 9, 32, 28, 4),
    ),
)


def _coin(*shape):
    return torch.rand(shape) < 0.5


def _coins(images):
    return _coin(len(images), 1, 1, 1)


def _sorted_by_draw(images, which):
    return torch.cat([images[which].flip(-1), images[~which]])


random_flip.add_mistakes(
    upside_down=lambda images: torch.where(_coins(images), images.flip(-2), images),
    half_turn=lambda images: torch.where(_coins(images), images.flip(-1, -2), images),
    all_or_none=lambda images: images.flip(-1) if torch.rand(()) < 0.5 else images.clone(),
    every_pixel=lambda images: torch.where(_coin(*images.shape), images.flip(-1), images),
    every_channel=lambda images: torch.where(_coin(*images.shape[:2], 1, 1), images.flip(-1), images),
    draws_meet_the_columns=lambda images: torch.where(_coin(len(images)), images.flip(-1), images),
    reversed_batch=lambda images: torch.where(_coins(images), images.flip(0), images),
    reversed_channels=lambda images: torch.where(_coins(images), images.flip(1), images),
    normal_numbers=lambda images: torch.where(
        torch.randn(len(images), 1, 1, 1) < 0.5, images.flip(-1), images
    ),
    fewer_than_half=lambda images: torch.where(
        torch.rand(len(images), 1, 1, 1) < 0.25, images.flip(-1), images
    ),
    every_row=lambda images: torch.where(_coin(len(images), 1, images.shape[2], 1), images.flip(-1), images),
    draws_meet_the_rows=lambda images: torch.where(_coin(len(images), 1), images.flip(-1), images),
    mirrored_ones_first=lambda images: _sorted_by_draw(images, _coin(len(images))),
    both_ways=lambda images: torch.where(
        _coins(images), images.flip(-1), torch.where(_coins(images), images.flip(-2), images)
    ),
    transposed_images=lambda images: torch.where(_coins(images), images.mT, images),
    always=lambda images: images.flip(-1),
    unchanged=lambda images: images.clone(),
)


@random_flip.mistake
def every_second_image(images):
    out = images.clone()
    out[::2] = out[::2].flip(-1)
    return out


@random_flip.mistake
def same_draw_each_time(images):
    torch.manual_seed(0)
    return torch.where(_coins(images), images.flip(-1), images)


@random_flip.mistake
def floats_for_bytes(images):
    flip = _coins(images).float()
    return flip * images.flip(-1) + (1 - flip) * images


@random_flip.mistake
def into_the_input(images):
    which = _coin(len(images))
    images[which] = images[which].flip(-1)
    return images


# ---------------------------------------------------------------- crop

_one = _numbered(1, 2, 6, 6)

_few, _lots = _one.repeat(900, 1, 1, 1), _one.repeat(3000, 1, 1, 1)

_REACH = 5  # pixels, the largest shift that is searched for; less than the image has

_AT_THE_BORDER = {
    "circular": N_("what leaves the image on one side comes in on the other, where zeros should come in"),
    "reflect": N_("the image is mirrored at its border, where zeros should come in"),
    "replicate": N_("the pixels at the border are repeated, where zeros should come in"),
}


def _keys(images):
    """A number for each image of whole numbers: the same for equal images, and almost never for different ones."""
    flat = images.flatten(1).double()
    generator = torch.Generator().manual_seed(0)
    return flat @ torch.randint(1, 2**20, flat.shape[1:], generator=generator).double()


def _found(out, image, mode="constant", value=None):
    """(B, 2) how far each image of `out` is `image` shifted down and right; None if one is not a shifted copy of it.

    mode, value: what fills the border, as in F.pad.
    """
    H, W = image.shape[-2:]
    side = 2 * _REACH + 1
    padded = F.pad(image, [_REACH] * 4, mode, value)
    windows = padded.unfold(2, H, 1).unfold(3, W, 1)[0].permute(1, 2, 0, 3, 4).flatten(0, 1)
    same = _keys(out)[:, None] == _keys(windows)  # (B, side²)
    corner = same.int().argmax(1)
    shifts = torch.stack([_REACH - corner // side, _REACH - corner % side], 1)
    return shifts if bool(same.any(1).all()) else None


def _shifts(candidate, images, *padding):
    """(B, 2) how far down and right each copy of `_one` was shifted. CaseFailed says what happened if it was not that."""
    out = _applied(candidate, images, *padding)
    shifts = _found(out, _one)
    if shifts is not None:
        if (shifts == shifts[0]).all():
            again = [_found(_applied(candidate, images, *padding)[:1], _one) for _ in range(8)]
            always = all(s is not None and torch.equal(s, shifts[:1]) for s in again)
            raise CaseFailed(
                "all images are shifted alike, and always by the same amount"
                if always
                else "all images are shifted alike"
            )
        return shifts
    for mode, words in _AT_THE_BORDER.items():
        if _found(out, _one, mode) is not None:
            raise CaseFailed(words)
    corner = (
        out[..., 0, 0].flatten().mode().values.item()
    )  # the border reaches it more often than any pixel does
    if _found(out, _one, value=corner) is not None:
        raise CaseFailed("the border is filled with another number than zero")
    if all(_found(out[:, c : c + 1], _one[:, c : c + 1]) is not None for c in range(2)):
        raise CaseFailed("the channels of an image are shifted by different amounts")
    raise CaseFailed("some images are not a shifted copy of the original with zeros at the border")


def _shares(candidate, images, padding):
    """(2p + 3, 2p + 3) share of the images for each shift: down in rows, right in columns, the middle for none.

    The outermost rows and columns count the images that are shifted further than they may be.
    """
    far = padding + 1
    down, right = (_shifts(candidate, images, padding).clamp(-far, far) + far).T
    count = torch.zeros(2 * far + 1, 2 * far + 1)
    return count.index_put((down, right), torch.ones(()), accumulate=True) / len(images)


def _crop_pictures(candidate):
    pairs = []
    for images in (_wide, _wide[:1, :1]):
        pairs += zip(_applied(candidate, images, 2), images, strict=True)
    shifts = [_found(out[None], image[None]) for out, image in pairs]
    return all(s is not None and bool((s.abs() <= 2).all()) for s in shifts)


def _crop_case(images, channels, image_height, image_width, padding):
    def run(candidate):
        one = _numbered(1, channels, image_height, image_width)
        calls = -(-60 // images)
        out = torch.cat([_applied(candidate, one.repeat(images, 1, 1, 1), padding) for _ in range(calls)])
        shifts = _found(out, one)
        return None if shifts is None else int(shifts.abs().max())

    return Case("", run)


random_crop = Exercise(
    data.random_crop,
    Case(
        "padding 1: the share of the images with each shift (rows: down, columns: right, middle: none)",
        # In 36ths, so that the noise of the draw does not matter.
        lambda f: (_shares(f, _lots, 1) * 36).round() / 36,
        "All corners from 0 to 2 * padding, both included, are equally likely. Note that torch.randint leaves out its upper end.",
        tolerance=0.03,
    ),
    Case(
        "padding 2: the shifts that occur (rows: down, columns: right, middle: none)",
        lambda f: (_shares(f, _few, 2) > 0).float(),
        "Draw row and column of the corner independently, and separately for each image.",
    ),
    Case(
        "different shifts the next time",
        lambda f: not torch.equal(_shifts(f, _few, 1), _shifts(f, _few, 1)),
        "The draw is random.",
    ),
    Case(
        "without `padding`, shifts by up to this many pixels",
        lambda f: int(_shifts(f, _few).abs().max()),
    ),
    Case(
        "images that are wider than high, three in colour and one in grey: each becomes a shifted copy of itself",
        _crop_pictures,
        "Rows run to H, columns to W.",
    ),
    _keeps_bytes(_few, 1),
    sizes=(
        Sizes(
            _crop_case,
            images=(5, 6, 3, 64),
            channels=(6, 5, 3),
            image_height=(7, 9, 32, 28),
            image_width=(9, 8, 32, 28),
            padding=(2, 5, 4, 3),
        ),
        Sizes(
            lambda image_size, padding: _crop_case(5, 2, image_size, image_size, padding),
            image_size=(7, 9, 32, 28),
            padding=(2, 5),
        ),
    ),
)


def _corners(images, padding):
    """Row and column of a corner for each image, each (B,)."""
    return torch.randint(0, 2 * padding + 1, (2, len(images)))


def _cut(padded, top, left, like):
    """Windows with these corners, of the size of `like`."""
    B, C, H, W = like.shape
    rows = (top[:, None] + torch.arange(H))[:, None, :, None]
    cols = (left[:, None] + torch.arange(W))[:, None, None, :]
    return padded[torch.arange(B)[:, None, None, None], torch.arange(C)[:, None, None], rows, cols]


def _anywhere(images, low, high):
    """Row and column of a corner for each image, from low to high, both included: each (B,)."""
    return torch.randint(low, high + 1, (2, len(images)))


def _windows(images, padding, low, high, pad=None):
    padded = F.pad(images, [padding] * 4 if pad is None else pad)
    return _cut(padded, *_anywhere(images, low, high), images)


random_crop.add_mistakes(
    padding_ignored=lambda images, padding=4: data.random_crop(images),
    padding_read_once=lambda images, padding=4: _windows(images, 4, 0, 2 * padding),
    first_corner_left_out=lambda images, padding=4: _windows(images, padding, 1, 2 * padding),
    half_without_its_last=lambda images, padding=4: _windows(images, padding, 0, padding - 1),
    padded_below_and_right=lambda images, padding=4: _windows(
        images, padding, 0, padding, (0, padding, 0, padding)
    ),
    up_and_down_only=lambda images, padding=4: _cut(
        F.pad(images, [padding] * 4),
        _corners(images, padding)[0],
        torch.full((len(images),), padding),
        images,
    ),
    column_zero=lambda images, padding=4: _cut(
        F.pad(images, [padding] * 4),
        _corners(images, padding)[0],
        torch.zeros(len(images), dtype=torch.long),
        images,
    ),
    row_zero=lambda images, padding=4: _cut(
        F.pad(images, [padding] * 4),
        torch.zeros(len(images), dtype=torch.long),
        _corners(images, padding)[1],
        images,
    ),
    one_column_for_all=lambda images, padding=4: _cut(
        F.pad(images, [padding] * 4),
        _corners(images, padding)[0],
        _corners(images[:1], padding)[1].expand(len(images)),
        images,
    ),
    one_row_for_all=lambda images, padding=4: _cut(
        F.pad(images, [padding] * 4),
        _corners(images[:1], padding)[0].expand(len(images)),
        _corners(images, padding)[1],
        images,
    ),
    ones_at_the_border=lambda images, padding=4: _cut(
        F.pad(images, [padding] * 4, value=1), *_corners(images, padding), images
    ),
    padded_only=lambda images, padding=4: F.pad(images, [padding] * 4),
    cut_without_padding=lambda images, padding=4: images[
        :, :, padding : images.shape[2] - padding, padding : images.shape[3] - padding
    ],
    sides_exchanged_in_the_window=lambda images, padding=4: _cut(
        F.pad(images, [padding] * 4), *_corners(images, padding), images.mT
    ),
    first_image_only=lambda images, padding=4: torch.cat([data.random_crop(images[:1], padding), images[1:]]),
    reflected_border=lambda images, padding=4: _padded_otherwise(images, padding, "reflect"),
    repeated_border=lambda images, padding=4: _padded_otherwise(images, padding, "replicate"),
)


@random_crop.mistake
def one_corner(images, padding=4):
    H, W = images.shape[-2:]
    i, j = torch.randint(0, 2 * padding + 1, (2,)).tolist()
    return F.pad(images, [padding] * 4)[:, :, i : i + H, j : j + W]


@random_crop.mistake
def always_the_same_place(images, padding=4):
    H, W = images.shape[-2:]
    return F.pad(images, [padding] * 4)[:, :, padding : padding + H, padding : padding + W]


@random_crop.mistake
def last_corner_left_out(images, padding=4):
    top, left = torch.randint(0, 2 * padding, (2, len(images)))
    return _cut(F.pad(images, [padding] * 4), top, left, images)


@random_crop.mistake
def half_the_corners(images, padding=4):
    top, left = torch.randint(0, padding + 1, (2, len(images)))
    return _cut(F.pad(images, [padding] * 4), top, left, images)


@random_crop.mistake
def rounded_corners(images, padding=4):
    top, left = (torch.rand(2, len(images)) * 2 * padding).round().long()
    return _cut(F.pad(images, [padding] * 4), top, left, images)


@random_crop.mistake
def along_the_diagonal(images, padding=4):
    corner, _ = _corners(images, padding)
    return _cut(F.pad(images, [padding] * 4), corner, corner, images)


@random_crop.mistake
def sideways_only(images, padding=4):
    _, left = _corners(images, padding)
    return _cut(F.pad(images, [padding] * 4), torch.full_like(left, padding), left, images)


@random_crop.mistake
def negative_corners(images, padding=4):
    top, left = _corners(images, padding) - padding
    return _cut(F.pad(images, [padding] * 4), top, left, images)


@random_crop.mistake
def wraps_around(images, padding=4):
    shifts = torch.randint(-padding, padding + 1, (len(images), 2)).tolist()
    return torch.stack([image.roll(s, dims=(1, 2)) for image, s in zip(images, shifts, strict=True)])


def _padded_otherwise(images, padding, mode):
    # This does not work for bytes, so it goes by way of floats
    padded = F.pad(images.float(), [padding] * 4, mode=mode).to(images.dtype)
    return _cut(padded, *_corners(images, padding), images)


@random_crop.mistake
def channels_apart(images, padding=4):
    single = images.flatten(0, 1)[:, None]  # (B C, 1, H, W)
    return data.random_crop(single, padding).reshape(images.shape)


@random_crop.mistake
def square_windows(images, padding=4):
    H = images.shape[2]
    return _cut(F.pad(images, [padding] * 4), *_corners(images, padding), images[:, :, :, :H])


@random_crop.mistake
def squares_of_the_width(images, padding=4):
    W = images.shape[3]
    padded = F.pad(images, [padding] * 4)
    top, left = _corners(images, padding)
    return torch.stack(
        [p[:, t : t + W, k : k + W] for p, t, k in zip(padded, top.tolist(), left.tolist(), strict=True)]
    )


@random_crop.mistake
def same_corners_each_time(images, padding=4):
    torch.manual_seed(0)
    return data.random_crop(images, padding)


@random_crop.mistake
def floats_for_bytes_cropped(images, padding=4):
    out = torch.zeros(images.shape)
    out[:] = data.random_crop(images, padding)
    return out


@random_crop.mistake
def written_into_the_input(images, padding=4):
    images[:] = data.random_crop(images, padding)
    return images


# ---------------------------------------------------------------- accuracy

_logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 5.0], [4.0, 1.0, 0.0]])


_ten, _six = drawn(10, 7), drawn(6, 4, seed=1)


def _share_of(name, logits, labels, hint=""):
    return Case(name, lambda f: plain_number(apply(f, logits, labels)), hint, given=(logits,))


def _every_second(images, classes):
    """Every second of the images has another label than the answer."""
    logits = drawn(images, classes)
    return _share_of("", logits, (logits.argmax(-1) + torch.arange(images) % 2) % classes)


accuracy = Exercise(
    training.accuracy,
    _share_of(
        "3 of 4 right",
        _logits,
        torch.tensor([0, 1, 2, 1]),
        hint="Compare the place of each image's largest logit with its label, then take the share that agrees.",
    ),
    _share_of("all right", _logits, torch.tensor([0, 1, 2, 0])),
    _share_of("none right", _logits, torch.tensor([1, 2, 0, 2])),
    _share_of("3 of 4 right, the first is not", _logits, torch.tensor([1, 1, 2, 0])),
    _share_of(
        "negative logits",
        -_logits,
        torch.tensor([2, 0, 1, 2]),
        hint="A logit may be negative. The largest is the one furthest to the right on the number line.",
    ),
    _share_of(
        "as many images as classes",
        torch.tensor([[0.5, 1.0, 0.8], [0.5, 3.0, 1.0], [2.5, 0.0, 1.5]]),
        torch.tensor([1, 2, 0]),
        hint="In (B, K), the axis of the classes is the last.",
    ),
    _share_of("one image", _logits[1:2], torch.tensor([1])),
    _share_of(
        "10 images, 7 classes", _ten, (_ten.argmax(1) + torch.tensor([0, 0, 1, 0, 2, 0, 0, 1, 3, 0])) % 7
    ),
    _share_of("5 of 6 right, 4 classes", _six, (_six.argmax(1) + torch.tensor([0, 0, 0, 1, 0, 0])) % 4),
    sizes=Sizes(_every_second, images=(13, 9, 4, 10, 64, 3), classes=(7, 6, 10, 3, 4)),
)


def _agree(answers, labels):
    return answers[: len(labels)] == labels[: len(answers)]


accuracy.add_mistakes(
    not_divided=lambda logits, labels: (logits.argmax(-1) == labels).float().sum().item(),
    over_images=lambda logits, labels: (logits.argmax(0) == labels).float().mean().item(),
    over_images_cut_to_fit=lambda logits, labels: _agree(logits.argmax(0), labels).float().mean().item(),
    percent=lambda logits, labels: 100 * training.accuracy(logits, labels),
    over_classes=lambda logits, labels: (logits.argmax(-1) == labels).float().sum().item() / logits.shape[1],
    error_rate=lambda logits, labels: 1 - training.accuracy(logits, labels),
    largest_without_sign=lambda logits, labels: training.accuracy(logits.abs(), labels),
    value_for_place=lambda logits, labels: (logits.max(-1).values == labels).float().mean().item(),
    whole_division=lambda logits, labels: (logits.argmax(-1) == labels).sum().item() // len(labels),
    smallest_logit=lambda logits, labels: training.accuracy(-logits, labels),
    place_in_the_whole=lambda logits, labels: (logits.argmax() == labels).float().mean().item(),
    all_or_nothing=lambda logits, labels: float(torch.equal(logits.argmax(-1), labels)),
    entry_by_entry=lambda logits, labels: (
        (F.one_hot(logits.argmax(-1), logits.shape[1]) == F.one_hot(labels, logits.shape[1]))
        .float()
        .mean()
        .item()
    ),
    mean_probability=lambda logits, labels: (
        logits.softmax(-1)[torch.arange(len(labels)), labels].mean().item()
    ),
    positive_is_enough=lambda logits, labels: (
        (logits[torch.arange(len(labels)), labels] > 0).float().mean().item()
    ),
    best_two=lambda logits, labels: (logits.topk(2).indices == labels[:, None]).any(-1).float().mean().item(),
    softmax_over_images=lambda logits, labels: training.accuracy(logits.softmax(0), labels),
    two_decimals=lambda logits, labels: round(training.accuracy(logits, labels), 2),
    one_decimal=lambda logits, labels: round(training.accuracy(logits, labels), 1),
    no_decimals=lambda logits, labels: round(training.accuracy(logits, labels)),
    whole_division_of_tensors=lambda logits, labels: (logits.argmax(-1) == labels).sum() // len(labels),
    whole_percent=lambda logits, labels: 100 * (logits.argmax(-1) == labels).sum().item() // len(labels),
    first_image_alone=lambda logits, labels: float(logits[0].argmax() == labels[0]),
    return_after_the_first=lambda logits, labels: float(logits[0].argmax() == labels[0]) / len(labels),
    last_image_alone=lambda logits, labels: float(logits[-1].argmax() == labels[-1]),
    one_image_too_few=lambda logits, labels: (logits.argmax(-1) == labels).sum().item() / (len(labels) - 1),
    divided_by_all_logits=lambda logits, labels: (logits.argmax(-1) == labels).sum().item() / logits.numel(),
    each_with_each=lambda logits, labels: (logits.argmax(-1)[:, None] == labels).float().mean().item(),
    distance_of_the_numbers=lambda logits, labels: (
        1 - (logits.argmax(-1) - labels).abs().float().mean().item()
    ),
    true_or_false=lambda logits, labels: logits.argmax(-1) == labels,
    tensor_for_number=lambda logits, labels: (logits.argmax(-1) == labels).float().mean(),
)


@accuracy.mistake
def mean_over_classes(logits, labels):
    right = (logits.argmax(-1) == labels).float()
    return torch.stack([right[labels == k].mean() for k in labels.unique()]).mean().item()


@accuracy.mistake
def only_above_one_half(logits, labels):
    confident = logits.softmax(-1) > 0.5
    return confident[torch.arange(len(labels)), labels].float().mean().item()


# ---------------------------------------------------------------- schedule

_schedule = {"total_steps": 100, "warmup_steps": 10, "peak": 1e-3}


def _at(name, step, hint="", **changes):
    return call(name, step, *(_schedule | changes).values(), hint=hint, tolerance=1e-9)


def _curve(candidate):
    return torch.tensor([[float(candidate(step, 6, 2, 1.0))] for step in range(6)])


learning_rate = Exercise(
    training.learning_rate,
    Case(
        "steps 0 to 5 of 6, one in each row, with 2 of warm-up and peak 1",
        _curve,
        "The climb is 1/2, 1. Then comes half a cosine wave that starts at 1 and would reach 0 at step 6.",
        tolerance=1e-6,
    ),
    _at(
        "the first step is not zero",
        0,
        "At step 0, the climb has already made the first of its warmup_steps steps.",
    ),
    _at("halfway up the climb, step 4 of 10", 4, "It is the fifth step of ten."),
    _at("the last step of the climb reaches the peak", 9),
    _at(
        "the first step after the climb is still at the peak",
        10,
        "The fall starts here, with progress 0 and cos(0) = 1.",
    ),
    _at(
        "in the middle of the fall, half the peak",
        55,
        "The fall has total_steps - warmup_steps steps.",
    ),
    _at("a quarter of the fall", 30, total_steps=90),
    _at("step 5 of 12, with a climb of 3", 5, total_steps=12, warmup_steps=3),
    _at("step total_steps, one past the last, is zero", 100, "There, progress is 1: cos(π) = -1."),
    _at("no warm-up at all", 0, "No step is below 0, so only the fall is left.", warmup_steps=0),
    sizes=Sizes(
        lambda steps, warmup, peak: Case(
            "",
            lambda f: [f(step, steps, warmup, peak) for step in range(steps)][:: 1 + steps // 50],
            tolerance=1e-9,
        ),
        steps=(60, 90, 100, 50, 200),
        warmup=(7, 12, 10, 5, 20),
        peak=(0.3, 0.02, 1e-3, 1.0, 3e-4),
    ),
)


def _climb(step, warmup_steps, peak):
    return peak * (step + 1) / warmup_steps


def _progress(step, total_steps, warmup_steps):
    return (step - warmup_steps) / (total_steps - warmup_steps)


def _half_wave(progress):
    return 0.5 * (1 + math.cos(math.pi * progress))


learning_rate.add_mistakes(
    no_climb=lambda step, total_steps, warmup_steps, peak: peak * _half_wave(step / total_steps),
    stays_at_the_peak=lambda step, total_steps, warmup_steps, peak: (
        _climb(step, warmup_steps, peak) if step < warmup_steps else peak
    ),
    fall_from_the_first_step=lambda step, total_steps, warmup_steps, peak: (
        peak * _half_wave(_progress(step, total_steps, warmup_steps))
    ),
    climb_times_fall=lambda step, total_steps, warmup_steps, peak: (
        peak * _half_wave(step / total_steps) * (min(1, (step + 1) / warmup_steps) if warmup_steps else 1)
    ),
    climb_divides_by_zero=lambda step, total_steps, warmup_steps, peak: (
        _climb(step, warmup_steps, peak)
        if (step + 1) / warmup_steps <= 1
        else peak * _half_wave(_progress(step, total_steps, warmup_steps))
    ),
    peak_forgotten=lambda step, total_steps, warmup_steps, peak: training.learning_rate(
        step, total_steps, warmup_steps, 1.0
    ),
)


def _warmed(climb=_climb, fall=_half_wave, progress=_progress):
    """A schedule with another climb, fall or progress.

    climb: step, warmup_steps, peak -> rate. fall: progress -> share of the peak. progress: step, total_steps, warmup_steps.
    """

    def rate(step, total_steps, warmup_steps, peak):
        if step < warmup_steps:
            return climb(step, warmup_steps, peak)
        return peak * fall(progress(step, total_steps, warmup_steps))

    return rate


learning_rate.add_mistakes(
    climb_counts_gaps=_warmed(climb=lambda step, warmup, peak: peak * step / (warmup - 1)),
    climb_in_whole_parts=_warmed(climb=lambda step, warmup, peak: peak * ((step + 1) // warmup)),
    peak_in_the_climb=_warmed(climb=lambda step, warmup, peak: peak),
    nothing_in_the_climb=_warmed(climb=lambda step, warmup, peak: 0.0),
    climb_without_peak=_warmed(climb=lambda step, warmup, peak: (step + 1) / warmup),
    climb_not_divided=_warmed(climb=lambda step, warmup, peak: peak * (step + 1)),
    fall_without_offset=_warmed(progress=lambda step, total, warmup: step / (total - warmup)),
    whole_wave=_warmed(fall=lambda share: _half_wave(2 * share)),
    half_of_the_half_wave=_warmed(fall=lambda share: _half_wave(share / 2)),
    degrees=_warmed(fall=lambda share: 0.5 * (1 + math.cos(180 * share))),
    bare_cosine=_warmed(fall=lambda share: math.cos(math.pi * share)),
    cosine_without_one=_warmed(fall=lambda share: 0.5 * math.cos(math.pi * share)),
    sine=_warmed(fall=lambda share: 0.5 * (1 + math.sin(math.pi * share))),
    one_minus_sine=_warmed(fall=lambda share: 1 - math.sin(0.5 * math.pi * share)),
    half_and_whole_cosine=_warmed(fall=lambda share: 0.5 + math.cos(math.pi * share)),
    half_of_the_cosine_only=_warmed(fall=lambda share: 1 + 0.5 * math.cos(math.pi * share)),
    exponential=_warmed(fall=lambda share: math.exp(-5 * share)),
    parabola=_warmed(fall=lambda share: (1 - share) ** 2),
    square_root=_warmed(fall=lambda share: (1 - share) ** 0.5 if share < 1 else 0.0),
    precedence_of_the_difference=_warmed(
        progress=lambda step, total, warmup: step - warmup / (total - warmup)
    ),
    precedence_of_the_quotient=_warmed(progress=lambda step, total, warmup: (step - warmup) / total - warmup),
    no_parentheses_at_all=_warmed(progress=lambda step, total, warmup: step - warmup / total - warmup),
)


@learning_rate.mistake
def climb_over_all_steps(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return peak * (step + 1) / total_steps
    return peak * _half_wave(_progress(step, total_steps, warmup_steps))


@learning_rate.mistake
def peak_outside_the_cosine(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * 0.5 + math.cos(math.pi * _progress(step, total_steps, warmup_steps))


@learning_rate.mistake
def no_rate_in_the_fall(step, total_steps, warmup_steps, peak):
    return _climb(step, warmup_steps, peak) if step < warmup_steps else None


@learning_rate.mistake
def no_rate_in_the_climb(step, total_steps, warmup_steps, peak):
    return None if step < warmup_steps else peak * _half_wave(_progress(step, total_steps, warmup_steps))


@learning_rate.mistake
def never_below_a_hundredth(step, total_steps, warmup_steps, peak):
    return max(0.01 * peak, training.learning_rate(step, total_steps, warmup_steps, peak))


@learning_rate.mistake
def tensor_for_rate(step, total_steps, warmup_steps, peak):
    return torch.tensor(training.learning_rate(step, total_steps, warmup_steps, peak))


@learning_rate.mistake
def starts_at_zero(step, total_steps, warmup_steps, peak):
    # With <=, as is common in print. An answer with < fails in fewer cases and is recognised by those.
    if step <= warmup_steps:
        return peak * step / warmup_steps
    return training.learning_rate(step, total_steps, warmup_steps, peak)


@learning_rate.mistake
def climbs_one_step_too_long(step, total_steps, warmup_steps, peak):
    if step <= warmup_steps:
        return _climb(step, warmup_steps, peak)
    return training.learning_rate(step, total_steps, warmup_steps, peak)


@learning_rate.mistake
def climb_ends_below_the_peak(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    return training.learning_rate(step, total_steps, warmup_steps, peak)


@learning_rate.mistake
def cosine_from_zero(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * _half_wave(step / total_steps)


@learning_rate.mistake
def never_zero(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * _half_wave((step - warmup_steps) / total_steps)


@learning_rate.mistake
def zero_in_the_last_step(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * _half_wave((step - warmup_steps) / (total_steps - 1 - warmup_steps))


@learning_rate.mistake
def fall_one_step_ahead(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * _half_wave(_progress(step + 1, total_steps, warmup_steps))


@learning_rate.mistake
def quarter_wave(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * math.cos(0.5 * math.pi * _progress(step, total_steps, warmup_steps))


@learning_rate.mistake
def twice_the_peak(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * 2 * _half_wave(_progress(step, total_steps, warmup_steps))


@learning_rate.mistake
def angle_without_pi(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * 0.5 * (1 + math.cos(_progress(step, total_steps, warmup_steps)))


@learning_rate.mistake
def rises_instead_of_falls(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * (1 - _half_wave(_progress(step, total_steps, warmup_steps)))


@learning_rate.mistake
def linear(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * (1 - _progress(step, total_steps, warmup_steps))


# ---------------------------------------------------------------- one step

_batch, _labels = drawn(8, 5), torch.arange(8) % 3


_fewer_and_fewer = [(drawn(count, 7, seed=count), (torch.arange(count) + 1) % 4) for count in (6, 3, 1)]


class _Probe(nn.Module):
    """A linear classifier that remembers in which mode it was called."""

    def __init__(self, width=5, classes=3):
        super().__init__()
        self.linear = nn.Linear(width, classes)
        with torch.no_grad():
            self.linear.weight.copy_(drawn(classes, width, seed=1))
            self.linear.bias.zero_()
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training and self.linear.training)
        return self.linear(x)


class _Descent:
    """Plain gradient descent. torch.optim would do, but its first use in a session takes a second to import a compiler.

    It remembers the gradient of the first parameter at each step.
    """

    def __init__(self, parameters, rate):
        self.parameters, self.rate = list(parameters), rate
        self.param_groups = [{"params": self.parameters, "lr": rate}]
        self.found = []

    def zero_grad(self, set_to_none=True):
        for p in self.parameters:
            p.grad = None if set_to_none else torch.zeros_like(p)

    def step(self, closure=None):
        loss = closure() if closure else None
        first = self.parameters[0].grad
        self.found.append(torch.zeros_like(self.parameters[0]) if first is None else first.clone())
        with torch.no_grad():
            for p in self.parameters:
                if p.grad is not None:
                    p -= self.rate * p.grad
        return loss


def _steps(observe, *batches, classes=3, training_before=False):
    """What a case runs: observe(model, losses, optimizer) after a call of the candidate for each batch."""

    def run(candidate):
        model = _Probe(batches[0][0].shape[1], classes).train(training_before)
        optimizer = _Descent(model.parameters(), rate=0.5)
        for p in model.parameters():
            p.grad = torch.ones_like(p)  # left over from earlier
        losses = [apply(candidate, model, optimizer, *batch) for batch in batches]
        return observe(model, losses, optimizer)

    return run


def _loss(model, losses, optimizer):
    return plain_number(losses[0])


def _weights(model, losses, optimizer):
    return model.linear.weight.detach()


def _what_the_step_found(candidate):
    """The gradient that the optimiser had at its first step, in words."""
    model, backward = _Probe(), []
    weight = model.linear.weight
    F.cross_entropy(model(_batch), _labels).backward()
    true, old = weight.grad.clone(), torch.ones_like(weight)
    model.zero_grad()
    weight.register_post_accumulate_grad_hook(lambda p: backward.append(True))

    class Watch(_Descent):
        def step(self, closure=None):
            loss = super().step(closure)
            self.found.append(bool(backward))
            return loss

    optimizer = Watch(model.parameters(), rate=0.5)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    candidate(model, optimizer, _batch.clone(), _labels.clone())
    if not optimizer.found:
        return "it made no step"
    gradient, after_backward = optimizer.found[:2]
    if not gradient.any():
        if not backward:
            return "no gradient: there is no backward"
        return (
            "no gradient: cleared after backward"
            if after_backward
            else "no gradient: there was no backward yet"
        )
    known = {
        "the gradient of this batch": true,
        "only an old gradient, from before the call": old,
        "the gradient of this batch added to an old one": true + old,
    }
    for words, value in known.items():
        if torch.allclose(gradient, value, atol=1e-5):
            return words if backward or value is not old else "only an old gradient: there is no backward"
    return "another gradient"


def _mode(model, losses, optimizer):
    return "train" if all(model.modes) else "eval"


def _step_case(images, classes, width):
    batch = drawn(images, width), torch.arange(images) % classes
    return Case("", _steps(lambda *seen: [_loss(*seen), _weights(*seen)], batch, classes=classes))


train_step = Exercise(
    training.train_step,
    Case("the loss is returned, as a Python number", _steps(_loss, (_batch, _labels)), "loss.item()"),
    Case("the weights after one step", _steps(_weights, (_batch, _labels))),
    Case(
        "the weights after three steps, with 6 images, 3 and 1, of 4 classes",
        _steps(_weights, *_fewer_and_fewer, classes=4),
        "Gradients add up from call to call unless they are cleared.",
    ),
    Case(
        "what the optimiser finds at its first step",
        _what_the_step_found,
        "Clear the old gradients, then call backward, then step.",
    ),
    Case(
        "the mode in which the model computes",
        _steps(_mode, (_batch, _labels)),
        "An evaluation may have left it in eval mode, so call model.train() first.",
    ),
    Case(
        "the mode in which a model in train mode computes",
        _steps(_mode, (_batch, _labels), training_before=True),
        "Training needs train mode: dropout and stochastic depth are off in eval mode.",
    ),
    sizes=Sizes(_step_case, images=(5, 13, 8, 32, 64), classes=(7, 6, 3, 10, 4), width=(12, 9, 5, 64)),
)


def _step(model, optimizer, images, labels, order="clear backward step", loss=F.cross_entropy):
    """The reference, with other lines at its end or another loss. Returns the loss as a tensor."""
    model.train()
    value = loss(model(images), labels)
    lines = {"clear": optimizer.zero_grad, "backward": value.backward, "step": optimizer.step}
    for line in order.split():
        lines[line]()
    return value


train_step.add_mistakes(
    no_zero_grad=lambda *args: _step(*args, order="backward step").item(),
    cleared_after_the_step=lambda *args: _step(*args, order="backward step clear").item(),
    no_step=lambda *args: _step(*args, order="clear backward").item(),
    cleared_before_the_step=lambda *args: _step(*args, order="backward clear step").item(),
    step_before_backward=lambda *args: _step(*args, order="clear step backward").item(),
    one_batch_late=lambda *args: _step(*args, order="step clear backward").item(),
    softmax_twice=lambda *args: _step(*args, loss=lambda x, y: F.cross_entropy(x.softmax(-1), y)).item(),
    logits_for_logarithms=lambda *args: _step(*args, loss=F.nll_loss).item(),
    probabilities_for_logarithms=lambda *args: _step(
        *args, loss=lambda x, y: F.nll_loss(x.softmax(-1), y)
    ).item(),
    summed_loss=lambda *args: _step(*args, loss=lambda x, y: F.cross_entropy(x, y, reduction="sum")).item(),
    returns_the_sum=lambda model, optimizer, images, labels: (
        _step(model, optimizer, images, labels).item() * len(labels)
    ),
    loss_tensor=lambda *args: _step(*args),
    no_backward=lambda *args: _step(*args, order="clear step").item(),
    neither_cleared_nor_backward=lambda *args: _step(*args, order="step").item(),
    two_steps=lambda *args: _step(*args, order="clear backward step step").item(),
    loss_divided_again=lambda *args: _step(*args, loss=lambda x, y: F.cross_entropy(x, y) / len(y)).item(),
    returns_loss_of_one_image=lambda model, optimizer, images, labels: (
        _step(model, optimizer, images, labels).item() / len(labels)
    ),
    squared_error=lambda *args: _step(
        *args, loss=lambda x, y: F.mse_loss(x, F.one_hot(y, x.shape[1]).float())
    ).item(),
    softmax_over_the_batch=lambda *args: _step(
        *args, loss=lambda x, y: F.cross_entropy(x.softmax(0), y)
    ).item(),
    logarithms_over_the_batch=lambda *args: _step(
        *args, loss=lambda x, y: F.nll_loss(x.log_softmax(0), y)
    ).item(),
    smoothed_labels=lambda *args: _step(
        *args, loss=lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1)
    ).item(),
    nothing_comes_back=lambda *args: _step(*args) is None or None,
    rounded_loss=lambda *args: round(_step(*args).item(), 2),
)


@train_step.mistake
def mode_kept(model, optimizer, images, labels):
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@train_step.mistake
def switched_to_eval(model, optimizer, images, labels):
    return mode_kept(model.eval(), optimizer, images, labels)


@train_step.mistake
def climbs(model, optimizer, images, labels):
    model.train()
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    (-loss).backward()
    optimizer.step()
    return loss.item()


@train_step.mistake
def backward_twice(model, optimizer, images, labels):
    model.train()
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward(retain_graph=True)
    loss.backward()
    optimizer.step()
    return loss.item()


@train_step.mistake
def returns_the_accuracy(model, optimizer, images, labels):
    with torch.no_grad():
        share = training.accuracy(model.train()(images), labels)
    _step(model, optimizer, images, labels)
    return share


@train_step.mistake
def returns_the_accuracy_afterwards(model, optimizer, images, labels):
    _step(model, optimizer, images, labels)
    return training.accuracy(model(images), labels)


@train_step.mistake
def step_by_hand(model, optimizer, images, labels):
    loss = _step(model, optimizer, images, labels, order="clear backward")
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.01 * p.grad
    return loss.item()


@train_step.mistake
def loss_after_the_step(model, optimizer, images, labels):
    _step(model, optimizer, images, labels)
    return F.cross_entropy(model(images), labels).item()


# ---------------------------------------------------------------- evaluation

# The last batch is smaller, as it nearly always is.
_SIZES = (5, 5, 2)

_RIGHT = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1])


class _Judge(nn.Module):
    """Its images are the logits. In train mode it takes them for those of other classes."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        logits = x.flatten(1)
        return logits[:, [0, 2, 1]] if self.training or self.inner.training else logits


def _eval_batches(sizes=_SIZES, classes=3):
    """Images (n, K, 1, 1) and labels, of which the model gets 8 of 12 right, 5, 1 and 2 in the three batches."""
    images = drawn(12, classes, 1, 1)
    labels = (images.flatten(1).argmax(1) + 1 - _RIGHT) % classes
    count = sum(sizes)
    return list(zip(images[-count:].split(sizes), labels[-count:].split(sizes), strict=True))


def _judged(observe, training_before=False, batches=_eval_batches):
    def run(candidate):
        model = _Judge().train(training_before)
        return observe(candidate(model, batches()), model)

    return run


def _share(share, model):
    return plain_number(share)


def _modes(share, model):
    return "train" if model.training and model.inner.training else "eval"


def _gradients_meanwhile(candidate):
    seen = []

    class Watch(_Judge):
        def forward(self, x):
            seen.append(torch.is_grad_enabled())
            return super().forward(x)

    candidate(Watch(), _eval_batches())
    return "on" if any(seen) else "off"


def _gradients_afterwards(candidate):
    candidate(_Judge(), _eval_batches())
    return "on" if torch.is_grad_enabled() else "off"


def _judged_batches(batch, batches, classes):
    """Batches of this many images and a last one of 2. The model gets two thirds right."""
    images = drawn(batch * batches + 2, classes, 1, 1)
    labels = (images.flatten(1).argmax(1) + (torch.arange(len(images)) % 3 == 0)) % classes
    return _judged(_share, batches=lambda: list(zip(images.split(batch), labels.split(batch), strict=True)))


evaluate = Exercise(
    training.evaluate,
    Case(
        "12 images in batches of 5, 5 and 2, of which 5, 1 and 2 are right",
        _judged(_share),
        "Each image counts once, whatever the size of its batch.",
    ),
    Case(
        "as many images in each batch as classes, 4",
        _judged(_share, batches=lambda: _eval_batches((4, 4), classes=4)),
        "The classes are on the last axis of the logits.",
    ),
    Case("a single image", _judged(_share, batches=lambda: _eval_batches((1,)))),
    Case(
        "a model that was in train mode is judged in eval mode",
        _judged(_share, training_before=True),
        "Call model.eval() first.",
    ),
    Case(
        "... and goes back to train mode afterwards",
        _judged(_modes, training_before=True),
        "Remember model.training before, and restore it afterwards.",
    ),
    Case("a model in eval mode stays there", _judged(_modes)),
    Case(
        "gradients after the evaluation",
        _gradients_afterwards,
        "Used as a block, torch.no_grad() ends by itself.",
    ),
    Case(
        "gradients while the model computes",
        _gradients_meanwhile,
        "Inside `with torch.no_grad():` nothing is kept for a backward that never comes.",
    ),
    Case(
        "batches from a generator",
        _judged(_share, batches=lambda: (b for b in _eval_batches((4, 2, 1)))),
        "A generator has no length and can be gone through only once, so count the images on the way.",
    ),
    sizes=Sizes(
        lambda batch, batches, classes: Case("", _judged_batches(batch, batches, classes)),
        batch=(6, 11, 5, 32, 64),
        batches=(2, 5, 3, 10),
        classes=(7, 6, 3, 10),
    ),
)


def _hits(model, batches, switch=True, back=True, grad=False, answer=lambda x: x.argmax(-1)):
    """[(right answers, images)] for each batch, with everything around it that can be left out."""
    before = model.training
    if switch:
        model.eval()
    with torch.set_grad_enabled(grad):
        found = [((answer(model(x)) == y).sum().item(), len(y)) for x, y in batches]
    if back:
        model.train(before)
    return found


def _evaluation(model, batches, leave_out_last=False, **changes):
    found = _hits(model, batches[:-1] if leave_out_last else batches, **changes)
    return sum(right for right, _ in found) / sum(n for _, n in found)


evaluate.add_mistakes(
    last_batch_lost=lambda model, batches: _evaluation(model, batches, leave_out_last=True),
    argmax_over_images=lambda model, batches: _evaluation(model, batches, answer=lambda x: x.argmax(0)),
    softmax_over_images=lambda model, batches: _evaluation(
        model, batches, answer=lambda x: x.softmax(0).argmax(-1)
    ),
    no_eval=lambda model, batches: _evaluation(model, batches, switch=False),
    left_in_eval=lambda model, batches: _evaluation(model, batches, back=False),
    with_grad=lambda model, batches: _evaluation(model, batches, grad=True),
    not_divided_at_all=lambda model, batches: sum(right for right, _ in _hits(model, batches)),
    share_in_percent=lambda model, batches: 100 * _evaluation(model, batches),
    share_of_the_wrong=lambda model, batches: 1 - _evaluation(model, batches),
    whole_share=lambda model, batches: int(_evaluation(model, batches)),
    smallest_logits=lambda model, batches: _evaluation(model, batches, answer=lambda x: x.argmin(-1)),
    values_for_places=lambda model, batches: _evaluation(model, batches, answer=lambda x: x.max(-1).values),
    shares_added_up=lambda model, batches: sum(right / n for right, n in _hits(model, batches)),
    bare_loop=lambda model, batches: _evaluation(model, batches, switch=False, grad=True),
    tensor_for_share=lambda model, batches: torch.tensor(_evaluation(model, batches)),
)


@evaluate.mistake
def mean_of_means(model, batches):
    shares = [right / n for right, n in _hits(model, batches)]
    return sum(shares) / len(shares)


@evaluate.mistake
def divided_by_batches(model, batches):
    found = _hits(model, batches)
    return sum(right for right, _ in found) / len(found)


@evaluate.mistake
def all_batches_alike(model, batches):
    found = _hits(model, batches)
    return sum(right for right, _ in found) / (len(batches) * found[0][1])


@evaluate.mistake
def argmax_over_images_cut_to_fit(model, batches):
    before, right, total = model.training, 0, 0
    model.eval()
    with torch.no_grad():
        for images, labels in batches:
            right += _agree(model(images).argmax(0), labels).sum().item()
            total += len(labels)
    model.train(before)
    return right / total


@evaluate.mistake
def all_batches_like_the_last(model, batches):
    found = _hits(model, batches)
    return sum(right for right, _ in found) / (len(found) * found[-1][1])


@evaluate.mistake
def divided_by_the_last_batch(model, batches):
    found = _hits(model, batches)
    return sum(right for right, _ in found) / found[-1][1]


@evaluate.mistake
def hits_of_the_last_batch(model, batches):
    found = _hits(model, batches)
    return found[-1][0] / sum(n for _, n in found)


@evaluate.mistake
def shares_by_images(model, batches):
    found = _hits(model, batches)
    return sum(right / n for right, n in found) / sum(n for _, n in found)


@evaluate.mistake
def divided_by_logits(model, batches):
    found = _hits(model, batches)
    return sum(right for right, _ in found) / sum(3 * n for _, n in found)


@evaluate.mistake
def batches_all_right(model, batches):
    found = _hits(model, batches)
    return sum(right == n for right, n in found) / len(found)


@evaluate.mistake
def judged_in_training(model, batches):
    before = model.training
    model.train()
    share = _evaluation(model, batches, switch=False)
    model.train(before)
    return share


@evaluate.mistake
def mode_turned_round(model, batches):
    before = model.training
    share = _evaluation(model, batches)
    model.train(not before)
    return share


@evaluate.mistake
def mean_loss(model, batches):
    before, total, count = model.training, 0, 0
    model.eval()
    with torch.no_grad():
        for images, labels in batches:
            total += F.cross_entropy(model(images), labels, reduction="sum").item()
            count += len(labels)
    model.train(before)
    return total / count


@evaluate.mistake
def return_in_the_loop(model, batches):
    model.eval()
    for images, labels in batches:
        with torch.no_grad():
            return training.accuracy(model(images), labels)


@evaluate.mistake
def last_batch_only(model, batches):
    right, total = _hits(model, batches)[-1]
    return right / total


@evaluate.mistake
def goes_through_twice(model, batches):
    total = sum(len(y) for _, y in batches)
    return sum(right for right, _ in _hits(model, batches)) / total


@evaluate.mistake
def always_train(model, batches):
    share = _evaluation(model, batches)
    model.train()
    return share


@evaluate.mistake
def gradients_off_for_good(model, batches):
    share = _evaluation(model, batches)
    torch.set_grad_enabled(False)
    return share


# ---------------------------------------------------------------- the range test


def _tested(losses, low, high, steps):
    """A case that answers the steps with these losses, and looks at what came back and at what was asked for."""
    losses = list(losses)

    def run(candidate):
        asked = []

        def step_at(rate):
            asked.append(float(rate))
            if len(asked) > len(losses):
                raise CaseFailed(
                    "step_at was called {number} times, and the test should have ended before",
                    number=len(asked),
                )
            return losses[len(asked) - 1]

        found = candidate(step_at, low, high, steps)
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise CaseFailed("expected two lists, (rates, losses), got {got}", got=described(found))
        rates, kept = ([plain_number(x) for x in part] for part in found)
        shown = [
            float(loss) if math.isfinite(loss) else str(float(loss)) for loss in kept
        ]  # NaN equals nothing
        return [*map(float, rates)], shown, asked

    return run


def _range_case(name, losses, low, high, steps, hint=""):
    return Case(name, _tested(losses, low, high, steps), hint, tolerance=1e-6)


range_test = Exercise(
    training.range_test,
    _range_case(
        "5 steps from 0.0001 to 1: rates, losses, and the rates that were tried",
        (5, 4, 3, 2, 1),
        1e-4,
        1.0,
        5,
    ),
    _range_case("3 steps from 0.5 to 8", (2.0, 1.5, 1.0), 0.5, 8.0, 3),
    _range_case(
        "a loss of more than four times the lowest so far ends it",
        (8, 1, 5, 1, 1),
        1e-3,
        10.0,
        5,
        hint="5 is more than four times 1, although the first loss was 8. The loss that ends the test is left out.",
    ),
    _range_case("a loss that rises a little does not end it", (4, 2, 3, 1), 1.0, 8.0, 4),
    _range_case("losses that creep up, threefold each time, end it", (1, 3, 9, 27), 1.0, 8.0, 4),
    _range_case("four times the lowest exactly does not end it", (3, 1, 4, 2), 1.0, 8.0, 4),
    _range_case(
        "NaN ends it",
        (2, 1, math.nan, 1),
        0.01,
        10.0,
        4,
        hint="Every comparison with NaN is False, so ask math.isfinite(loss).",
    ),
    _range_case("losses below one: the limit goes with them", (0.8, 0.1, 0.5, 0.1), 1.0, 8.0, 4),
    _range_case("an infinite loss ends it", (2, math.inf, 1, 1), 0.01, 10.0, 4),
    _range_case("the very first loss is NaN: two empty lists", (math.nan, 1), 0.1, 1.0, 2),
    _range_case("the lowest loss, 1, is long ago when 4.1 comes", (2, 1, 2, 3, 3, 3, 3, 4.1, 1), 1.0, 8.0, 9),
    sizes=Sizes(
        lambda steps, low, high: _range_case("", [5 - i / steps for i in range(steps)], low, high, steps),
        steps=(7, 11, 100, 50, 10),
        low=(0.003, 0.02, 1e-4, 1e-5),
        high=(3.0, 0.7, 1.0, 10.0),
    ),
)


def _range(step_at, low, high, steps, rate_of=None, ends=None, keep_last=False, limit=4):
    rates, losses = [], []
    rate_of = rate_of or (lambda i: low * (high / low) ** (i / (steps - 1)))
    ends = ends or (lambda loss, losses: not math.isfinite(loss) or (losses and loss > limit * min(losses)))
    for i in range(steps):
        rate = rate_of(i)
        loss = step_at(rate)
        over = bool(ends(loss, losses))
        if not over or keep_last:
            rates.append(rate)
            losses.append(loss)
        if over:
            break
    return rates, losses


range_test.add_mistakes(
    evenly_spaced=lambda s, low, high, n: _range(s, low, high, n, lambda i: low + (high - low) * i / (n - 1)),
    high_is_never_reached=lambda s, low, high, n: _range(
        s, low, high, n, lambda i: low * (high / low) ** (i / n)
    ),
    starts_above_low=lambda s, low, high, n: _range(
        s, low, high, n, lambda i: low * (high / low) ** ((i + 1) / n)
    ),
    ten_times_each_step=lambda s, low, high, n: _range(s, low, high, n, lambda i: low * 10**i),
    twice_each_step=lambda s, low, high, n: _range(s, low, high, n, lambda i: low * 2**i),
    from_high_to_low=lambda s, low, high, n: _range(s, high, low, n),
    never_ends=lambda s, low, high, n: _range(s, low, high, n, ends=lambda loss, losses: False),
    last_loss_kept=lambda s, low, high, n: _range(s, low, high, n, keep_last=True),
    compared_with_the_first=lambda s, low, high, n: _range(
        s,
        low,
        high,
        n,
        ends=lambda loss, losses: not math.isfinite(loss) or (losses and loss > 4 * losses[0]),
    ),
    compared_with_the_one_before=lambda s, low, high, n: _range(
        s,
        low,
        high,
        n,
        ends=lambda loss, losses: not math.isfinite(loss) or (losses and loss > 4 * losses[-1]),
    ),
    nan_goes_on=lambda s, low, high, n: _range(
        s, low, high, n, ends=lambda loss, losses: losses and loss > 4 * min(losses)
    ),
    ends_at_any_rise=lambda s, low, high, n: _range(s, low, high, n, limit=1),
    four_times_ends_it=lambda s, low, high, n: _range(
        s,
        low,
        high,
        n,
        ends=lambda loss, losses: not math.isfinite(loss) or (losses and loss >= 4 * min(losses)),
    ),
    losses_and_rates_exchanged=lambda s, low, high, n: _range(s, low, high, n)[::-1],
)


@range_test.mistake
def one_step_too_few(step_at, low, high, steps):
    return _range(step_at, low, high, steps - 1)


@range_test.mistake
def two_steps_for_each_rate(step_at, low, high, steps):
    return _range(lambda rate: (step_at(rate), step_at(rate))[1], low, high, steps)


# ---------------------------------------------------------------- token dropout


_APART = 1000  # more than any number of tokens here


def _named_tokens(B, T, D):
    """(B, T, D) tokens that say who they are: number t of image b holds _APART * b + t + 1 everywhere."""
    return (float(_APART) * torch.arange(B)[:, None] + torch.arange(T) + 1)[..., None].repeat(1, 1, D)


def _kept(candidate, B, T, keep, D=2):
    """(B, n) numbers of the tokens that were kept, from 0, each image's in order. CaseFailed if they are not tokens."""
    tokens = _named_tokens(B, T, D)
    out = apply(candidate, tokens, keep)
    if not isinstance(out, torch.Tensor) or out.ndim != 3 or out.shape[0] != B or out.shape[2] != D:
        came = (
            Sentence("{shape}", shape=tuple(out.shape)) if isinstance(out, torch.Tensor) else described(out)
        )
        raise CaseFailed(
            "expected tokens of shape ({images}, n, {width}), got {got}", images=B, width=D, got=came
        )
    if not torch.equal(out, out[..., :1].expand_as(out)):
        raise CaseFailed("the numbers inside of a token were torn apart")
    number = out[..., 0] - _APART * torch.arange(B)[:, None] - 1  # (B, n)
    if bool(((out[..., 0] - 1) % _APART >= T).any() | (out[..., 0] < 1).any() | (out[..., 0] % 1 != 0).any()):
        raise CaseFailed("some tokens of the result are not among those that went in")
    if bool(((number < 0) | (number >= T)).any()):
        raise CaseFailed("some images got tokens of other images")
    return number.long().sort(dim=1).values


def _counts(candidate, keep, T):
    return _kept(candidate, 3, T, keep).shape[1]


def _each_once(candidate):
    kept = _kept(candidate, 64, 8, 0.5)
    return not bool((kept[:, 1:] == kept[:, :-1]).any())


def _images_differ(candidate):
    kept = _kept(candidate, 64, 12, 0.5)
    return not bool((kept == kept[:1]).all())


def _token_gradient(candidate):
    tokens = _named_tokens(5, 4, 3).requires_grad_()
    candidate(tokens, 0.5).sum().backward()
    return sorted(tokens.grad.flatten().tolist()) if tokens.grad is not None else None


drop_tokens = Exercise(
    training.drop_tokens,
    Case("half of 8 tokens: how many are left", lambda f: _counts(f, 0.5, 8)),
    Case("three tenths of 10 tokens: how many are left", lambda f: _counts(f, 0.3, 10)),
    Case("0.29 of 100 tokens: how many are left", lambda f: _counts(f, 0.29, 100)),
    Case("at least one is left", lambda f: _counts(f, 0.01, 16), "max(1, ...) keeps the last one."),
    Case("all of them, if the share is 1", lambda f: _kept(f, 2, 6, 1.0)),
    Case("no token twice", _each_once, "Draw without repetition: torch.rand(...).topk, or torch.randperm."),
    Case("each image has a draw of its own", _images_differ, "One draw for the whole batch is not enough."),
    Case(
        "different tokens the next time",
        lambda f: not torch.equal(_kept(f, 8, 12, 0.5), _kept(f, 8, 12, 0.5)),
    ),
    Case(
        "every place is as likely as any other: the share of the images that keep it, in tenths",
        lambda f: (10 * torch.bincount(_kept(f, 600, 6, 0.5).flatten(), minlength=6) / 600).round(),
        tolerance=1e-6,
    ),
    Case(
        "the gradient: 1 for what is kept, 0 for the rest",
        _token_gradient,
        "What is kept passes unchanged: nothing is divided, and nothing is cut off.",
    ),
    sizes=Sizes(
        lambda images, tokens, width, keep: Case(
            "", lambda f: _kept(f, images, tokens, keep, width).shape[1]
        ),
        images=(5, 7, 8, 64, 2),
        tokens=(20, 13, 64, 196, 16, 8),
        width=(6, 9, 64, 4),
        keep=(0.75, 0.95, 0.5, 0.25),  # so large that the number kept tells how many there were
    ),
)


def _chosen(tokens, index):
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


def _number_kept(tokens, keep):
    return max(1, round(keep * tokens.shape[1]))


drop_tokens.add_mistakes(
    the_first_tokens=lambda tokens, keep: tokens[:, : _number_kept(tokens, keep)],
    one_draw_for_the_batch=lambda tokens, keep: tokens[
        :, torch.randperm(tokens.shape[1])[: _number_kept(tokens, keep)]
    ],
    with_repetition=lambda tokens, keep: _chosen(
        tokens, torch.randint(tokens.shape[1], (len(tokens), _number_kept(tokens, keep)))
    ),
    the_share_is_dropped=lambda tokens, keep: training.drop_tokens(tokens, 1 - keep),
    set_to_zero=lambda tokens, keep: tokens * (torch.rand(tokens.shape[:2]) < keep)[..., None],
    divided_by_the_share=lambda tokens, keep: training.drop_tokens(tokens, keep) / keep,
    perhaps_none=lambda tokens, keep: _chosen(
        tokens, torch.rand(tokens.shape[:2]).topk(round(keep * tokens.shape[1]), dim=1).indices
    ),
    rounded_down=lambda tokens, keep: _chosen(
        tokens, torch.rand(tokens.shape[:2]).topk(max(1, int(keep * tokens.shape[1])), dim=1).indices
    ),
    nothing_dropped=lambda tokens, keep: tokens,
    gradient_lost=lambda tokens, keep: training.drop_tokens(tokens.detach(), keep).requires_grad_(
        tokens.requires_grad
    ),
)


@drop_tokens.mistake
def same_draw_every_time(tokens, keep):
    draw = torch.rand(tokens.shape[:2], generator=torch.Generator().manual_seed(0))
    return _chosen(tokens, draw.topk(_number_kept(tokens, keep), dim=1).indices)


@drop_tokens.mistake
def images_mixed(tokens, keep):
    B, T, D = tokens.shape
    n = _number_kept(tokens, keep)
    return tokens.reshape(B * T, D)[torch.randperm(B * T)[: B * n]].reshape(B, n, D)


@drop_tokens.mistake
def images_dropped(tokens, keep):
    return tokens[torch.randperm(len(tokens))[: max(1, round(keep * len(tokens)))]]


# ---------------------------------------------------------------- label smoothing

_three = torch.tensor([2, 0, 3])

smooth_labels = Exercise(
    augment.smooth_labels,
    call("label 1 of 4 classes, smoothing 0.2", torch.tensor([1]), 4, 0.2),
    call("three labels, ten classes, smoothing 0.1", _three, 10, 0.1),
    call("no smoothing: ones and zeros", _three, 4, 0.0, hint="With 0 the right class gets exactly 1."),
    call("two classes", torch.tensor([1, 0]), 2, 0.3),
    call("everything smoothed away", _three, 5, 1.0),
    Case(
        "each row is a distribution: it sums to 1",
        lambda f: torch.as_tensor(f(torch.tensor([0, 4, 2, 2]), 7, 0.4)).sum(dim=-1),
        "What is taken from the right class is given to all classes, itself included.",
    ),
    Case(
        "cross-entropy takes them as targets",
        lambda f: F.cross_entropy(drawn(3, 6), f(_three, 6, 0.1)).item(),
    ),
    sizes=Sizes(
        lambda images, classes, smoothing: call("", torch.arange(images) % classes, classes, smoothing),
        images=(5, 8, 3, 64),
        classes=(7, 6, 10, 3, 4),
        smoothing=(0.3, 0.15, 0.1, 0.2),
    ),
)


def _smoothed(right, others):
    """Targets whose right class gets `right(K, s)`, and the others `others(K, s)` each."""

    def wrong(labels, num_classes, smoothing):
        hot = F.one_hot(labels, num_classes).float()
        return hot * right(num_classes, smoothing) + (1 - hot) * others(num_classes, smoothing)

    return wrong


smooth_labels.add_mistakes(
    spread_over_the_others=_smoothed(lambda K, s: 1 - s, lambda K, s: s / (K - 1)),
    nothing_for_the_others=_smoothed(lambda K, s: 1 - s, lambda K, s: 0),
    right_class_gets_none_of_it=_smoothed(lambda K, s: 1 - s, lambda K, s: s / K),
    right_class_loses_nothing=_smoothed(lambda K, s: 1 + s / K, lambda K, s: s / K),
    only_the_others_change=_smoothed(lambda K, s: 1, lambda K, s: s / K),
    each_other_gets_all_of_it=_smoothed(lambda K, s: 1 - s, lambda K, s: s),
    shares_exchanged=lambda labels, K, s: augment.smooth_labels(labels, K, 1 - s),
    smoothing_ignored=lambda labels, K, s: F.one_hot(labels, K).float(),
    ten_percent_for_everybody=lambda labels, K, s: augment.smooth_labels(labels, K, 0.1),
    ten_classes_for_everybody=lambda labels, K, s: augment.smooth_labels(labels, 10, s),
    classes_in_front=lambda labels, K, s: augment.smooth_labels(labels, K, s).T,
    targets_in_float64=lambda labels, K, s: augment.smooth_labels(labels, K, s).double(),
    labels_as_they_are=lambda labels, K, s: labels * (1 - s) + s / K,
)
