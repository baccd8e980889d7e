"""Lesson 06: augmentation, accuracy, the schedule, one step, evaluation."""

import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vit_edu import data, training
from vit_edu.check.cases import Case, Unfair, apply, call, drawn
from vit_edu.check.engine import Exercise


def _numbered(*shape):
    return torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def _checked(out, like):
    if not isinstance(out, torch.Tensor) or out.shape != like.shape or out.dtype != like.dtype:
        came = f"{tuple(out.shape)} of {out.dtype}" if isinstance(out, torch.Tensor) else type(out).__name__
        raise Unfair(f"expected images of shape {tuple(like.shape)} and type {like.dtype} back, got {came}")
    return out


def _applied(candidate, images, *args):
    return _checked(apply(candidate, images, *args), images)


def _plain(value):
    """The value; Unfair where it is a tensor with one number, whatever its type."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        raise Unfair(
            f"expected a plain Python number, got a tensor that holds {value.item():.4g}. `.item()` takes it out."
        )
    return value


def _keeps_bytes(images, *args):
    return Case(
        "bytes stay bytes",
        lambda f: _applied(f, images.to(torch.uint8), *args).dtype == torch.uint8,
        "The images of the lesson are uint8: new tensors need dtype=images.dtype.",
    )


# ---------------------------------------------------------------- flip

_copies = _numbered(1, 2, 4, 4).repeat(600, 1, 1, 1)  # of one image
_four = _numbered(4, 2, 4, 4)  # as many images as columns
_wide = _numbered(3, 2, 4, 8)


def _is_one_of(out, ways):
    """Whether each of the images is as in one of the ways; `out` may hold several batches."""
    calls = len(out) // len(ways[0])
    same = [(out == way.repeat(calls, 1, 1, 1)).flatten(1).all(1) for way in ways]
    return bool(torch.stack(same).any(0).all())


def _what_became(candidate, images):
    """In words, what becomes of the images; in several calls, so that small batches show it as well."""
    calls = -(-60 // len(images))
    out = torch.cat([_applied(candidate, images) for _ in range(calls)])
    mirrored, fallen, turned = images.flip(-1), images.flip(-2), images.flip(-1, -2)
    ways = {
        "as they were, or mirrored left to right": [images, mirrored],
        "upside down": [images, fallen],
        "turned by half a turn": [images, turned],
        "turned or mirrored in several ways": [images, mirrored, fallen, turned],
        "with other channels": [images, images.flip(1)],
        "other images of the batch": [w.roll(i, 0) for w in (images, mirrored) for i in range(4)],
    }
    for words, allowed in ways.items():
        if _is_one_of(out, allowed):
            return words
    as_it_was, other_way = (out == w.repeat(calls, 1, 1, 1) for w in (images, mirrored))
    if (as_it_was.all(3).all(2) | other_way.all(3).all(2)).all():
        return "each channel mirrored or not on its own"
    if (as_it_was.all(3) | other_way.all(3)).all():
        return "each row mirrored or not on its own"
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
    return "about half" if abs(share - 0.5) < 0.03 else f"about {round(share * 10) * 10} %"


def _which_next_time(candidate):
    flipped = _flipped(candidate)
    if not (flipped == flipped[0]).all():
        return "others each time"
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
        "A draw of shape (B,) would meet the last axis, the columns. Shape (B, 1, 1, 1) meets the images.",
    ),
    _flip_case("images that are wider than high", _wide),
    _flip_case("one grey image", _wide[:1, :1]),
    _keeps_bytes(_copies),
    hints=(
        "What must stay together: the pixels of a row, of a channel, of an image? How many numbers must be drawn for a "
        "batch of B images?",
        "Draw B numbers between 0 and 1 in a shape that broadcasts over channels, rows and columns. Where the number is "
        "below 1/2, take the mirror image, elsewhere the image itself.",
        "`flip = torch.rand(..., 1, 1, 1, device=images.device) < ...`, then `torch.where(flip, images.flip(...), ...)`",
    ),
)


@random_flip.alternative
def flip_some(images):
    out = images.clone()
    which = torch.rand(len(images)) < 0.5
    out[which] = out[which].flip(3)
    return out


@random_flip.alternative
def one_at_a_time(images):
    return torch.stack([image.flip(-1) if random.random() < 0.5 else image for image in images])


@random_flip.alternative
def gathered_columns(images):
    B, C, H, W = images.shape
    columns = torch.arange(W).expand(B, W)
    heads = torch.randint(0, 2, (B, 1)).bool()
    columns = torch.where(heads, columns, W - 1 - columns)
    return images.gather(3, columns[:, None, None].expand(B, C, H, W))


@random_flip.alternative
def weighed_sum(images):
    flip = torch.bernoulli(torch.full((len(images),), 0.5)).to(images.dtype)
    return torch.einsum("b,bchw->bchw", flip, images.flip(3)) + images * (1 - flip).view(-1, 1, 1, 1)


def _coin(*shape):
    return torch.rand(shape) < 0.5


def _coins(images):
    return _coin(len(images), 1, 1, 1)


@random_flip.mistake(
    "The images are turned upside down: that flips the rows. A mirrored car is still a car, an overturned one is another "
    "picture.",
    "Show a photo of a street upside down and mirrored: which one could a camera have taken?",
)
def upside_down(images):
    return torch.where(_coins(images), images.flip(-2), images)


@random_flip.mistake(
    "Rows *and* columns are reversed, which turns the image by half a turn. Only one of the two axes runs from left to "
    "right.",
    "Turn a printed photo by half a turn, hold another in front of a mirror: is it the same?",
)
def half_turn(images):
    return torch.where(_coins(images), images.flip(-1, -2), images)


@random_flip.mistake(
    "One draw decides for the whole batch: all images are mirrored, or none. Draw one number for each image.",
    "Ask: among 64 images, how often do all 64 coins fall on the same side?",
)
def all_or_none(images):
    return images.flip(-1) if torch.rand(()) < 0.5 else images.clone()


@random_flip.mistake(
    "Each number is drawn on its own, so that pixels of the image and of its mirror image mix. Draw one number an image, of "
    "shape (B, 1, 1, 1).",
    "Show such an image with plot.images: who can still tell what it is?",
)
def every_pixel(images):
    return torch.where(_coin(*images.shape), images.flip(-1), images)


@random_flip.mistake(
    "Each channel has a draw of its own: red may be mirrored where green is not. What is drawn for an image must hold for all "
    "its channels.",
    "Show one image so treated: where do the coloured ghosts come from?",
)
def every_channel(images):
    return torch.where(_coin(*images.shape[:2], 1, 1), images.flip(-1), images)


@random_flip.mistake(
    "The draws have shape (B,), and broadcasting starts at the *last* axis: they meet the columns, not the images. Which shape "
    "puts them on the first axis?",
    "Ask for the shape of torch.rand(4) + torch.zeros(4, 1, 1, 1) before you run it.",
)
def draws_meet_the_columns(images):
    return torch.where(_coin(len(images)), images.flip(-1), images)


@random_flip.mistake(
    "The *batch* is reversed, not the image: axis 0 counts the images. The labels stay where they are and then belong to other "
    "images.",
    "Ask what each of the four axes of (B, C, H, W) counts, and which one a mirror exchanges.",
)
def reversed_batch(images):
    return torch.where(_coins(images), images.flip(0), images)


@random_flip.mistake(
    "The *channels* are reversed: red and blue change places, and nothing moves. Which axis of (B, C, H, W) runs from left to right?",
    "Show a blue car before and after: what has changed, its colour or the side it drives to?",
)
def reversed_channels(images):
    return torch.where(_coins(images), images.flip(1), images)


@random_flip.mistake(
    "Every second image is mirrored, always the same ones. Nothing is random: each image should be mirrored with probability "
    "1/2, anew in each call.",
    "Call it five times on the same batch: which image is ever seen both ways?",
)
def every_second_image(images):
    out = images.clone()
    out[::2] = out[::2].flip(-1)
    return out


@random_flip.mistake(
    "The same images are mirrored in each call: something sets the seed anew inside the function. Then each epoch shows what "
    "the first one did.",
    "Call the function twice in a row and compare the results with torch.equal.",
)
def same_draw_each_time(images):
    torch.manual_seed(0)
    return torch.where(_coins(images), images.flip(-1), images)


@random_flip.mistake(
    "More than half are mirrored: `torch.randn` draws from the normal distribution, of which 69 % lie below 0.5. You want "
    "numbers evenly spread from 0 to 1.",
    "Run (torch.randn(1000) < 0.5).float().mean() and ask where the 0.69 comes from.",
)
def normal_numbers(images):
    return torch.where(torch.randn(len(images), 1, 1, 1) < 0.5, images.flip(-1), images)


@random_flip.mistake(
    "The images come back as float numbers: multiplying bytes by floats makes floats. Choose between the two images instead, or "
    "convert to images.dtype.",
    "Ask for the dtype of torch.ones(2, dtype=torch.uint8) * torch.rand(2), and for its size in memory.",
)
def floats_for_bytes(images):
    flip = _coins(images).float()
    return flip * images.flip(-1) + (1 - flip) * images


@random_flip.mistake(
    "The function writes into the images that it was given. These may be the training set itself: nobody would have the "
    "originals any more. Write into a copy.",
    "Print images[0, 0, 0] before and after the call, and ask who else holds this tensor.",
)
def into_the_input(images):
    which = _coin(len(images))
    images[which] = images[which].flip(-1)
    return images


@random_flip.mistake(
    "All images are mirrored, always. Each should be mirrored with probability 1/2.",
    "Ask: if every picture is mirrored, how many different ones has the network seen?",
)
def always(images):
    return images.flip(-1)


@random_flip.mistake(
    "Nothing is mirrored: the images come back as they were. Is there a draw for each image, and is the mirror image used?",
    "Recall that `images.flip(-1)` returns a new tensor: what happens to one that nobody keeps?",
)
def unchanged(images):
    return images.clone()


# ---------------------------------------------------------------- crop

_one = _numbered(1, 2, 6, 6)
_few, _lots = _one.repeat(900, 1, 1, 1), _one.repeat(3000, 1, 1, 1)
_REACH = 5  # pixels, the largest shift that is looked for; less than the image has
_AT_THE_BORDER = {
    "circular": "what leaves an image on one side comes in again on the other; zeros should",
    "reflect": "the image is mirrored at its border; zeros should come in",
    "replicate": "the pixels at the border are repeated; zeros should come in",
}


def _keys(images):
    """A number for each image: the same for the same whole numbers, and hardly ever for others."""
    flat = images.flatten(1).double()
    generator = torch.Generator().manual_seed(0)
    return flat @ torch.randint(1, 2**20, flat.shape[1:], generator=generator).double()


def _found(out, image, mode="constant"):
    """(B, 2) how far each of `out` is `image` shifted down and right; None where one is no shifted copy of it."""
    H, W = image.shape[-2:]
    side = 2 * _REACH + 1
    padded = F.pad(image, [_REACH] * 4, mode=mode)
    windows = padded.unfold(2, H, 1).unfold(3, W, 1)[0].permute(1, 2, 0, 3, 4).flatten(0, 1)
    same = _keys(out)[:, None] == _keys(windows)  # (B, side²)
    corner = same.int().argmax(1)
    shifts = torch.stack([_REACH - corner // side, _REACH - corner % side], 1)
    return shifts if bool(same.any(1).all()) else None


def _shifts(candidate, images, *padding):
    """(B, 2) how far down and right each copy of `_one` was shifted; Unfair in words where one was not."""
    out = _applied(candidate, images, *padding)
    shifts = _found(out, _one)
    if shifts is not None:
        if (shifts == shifts[0]).all():
            again = [_found(_applied(candidate, images, *padding)[:1], _one) for _ in range(8)]
            always = all(s is not None and torch.equal(s, shifts[:1]) for s in again)
            raise Unfair("all images are shifted alike" + (", always by the same" if always else ""))
        return shifts
    for mode, words in _AT_THE_BORDER.items():
        if _found(out, _one, mode) is not None:
            raise Unfair(words)
    if all(_found(out[:, c : c + 1], _one[:, c : c + 1]) is not None for c in range(2)):
        raise Unfair("the channels of an image are shifted apart")
    raise Unfair("some images are not a shifted copy of the original with zeros at the border")


def _shares(candidate, images, padding):
    """(2p + 3, 2p + 3) share of the images for each shift: down in rows, right in columns, the middle for none.

    The outermost rows and columns are for all that is shifted further than it may be.
    """
    far = padding + 1
    down, right = (_shifts(candidate, images, padding).clamp(-far, far) + far).T
    count = torch.zeros(2 * far + 1, 2 * far + 1)
    return count.index_put((down, right), torch.ones(()), accumulate=True) / len(images)


def _crop_pictures(candidate):
    out = _applied(candidate, _wide, 2)
    shifts = [_found(o[None], image[None]) for o, image in zip(out, _wide, strict=True)]
    return all(s is not None and bool((s.abs() <= 2).all()) for s in shifts)


random_crop = Exercise(
    data.random_crop,
    Case(
        "padding 1, share of the images for each shift (rows: down, columns: right, middle: none)",
        # In 36ths: the noise of the draw is nobody's business.
        lambda f: (_shares(f, _lots, 1) * 36).round() / 36,
        "All corners from 0 to 2 * padding, both included, are equally likely: torch.randint leaves out its upper end.",
        tolerance=0.03,
    ),
    Case(
        "padding 2, shifts that occur (rows: down, columns: right, middle: none)",
        lambda f: (_shares(f, _few, 2) > 0).float(),
        "Row and column of the corner are drawn independently, anew for each image.",
    ),
    Case(
        "other shifts the next time",
        lambda f: not torch.equal(_shifts(f, _few, 1), _shifts(f, _few, 1)),
        "The draw is random.",
    ),
    Case(
        "without `padding`, shifts by up to this many pixels",
        lambda f: int(_shifts(f, _few).abs().max()),
    ),
    Case(
        "three images that are wider than high: each is a shifted copy of its own",
        _crop_pictures,
        "Rows run to H, columns to W.",
    ),
    _keeps_bytes(_few, 1),
    hints=(
        "How large is an image after padding, and how many places are there in it for a window of H x W, from top to bottom?",
        "Pad with zeros. For each image draw the row and the column of a corner, two independent numbers from 0 to 2 * padding. "
        "The result is the H x W window that starts there.",
        "`padded = F.pad(images, [...] * 4)`, `top, left = torch.randint(0, ..., (2, len(images))).tolist()`, then "
        "`torch.stack([p[:, t : ..., l : ...] for p, t, l in zip(padded, top, left)])`",
    ),
)


@random_crop.alternative
def crop_loop(images, padding=4):
    H, W = images.shape[-2:]
    padded = F.pad(images, [padding] * 4)
    corners = torch.randint(0, 2 * padding + 1, (len(images), 2)).tolist()
    return torch.stack([p[:, i : i + H, j : j + W] for p, (i, j) in zip(padded, corners, strict=True)])


@random_crop.alternative
def crop_by_index(images, padding=4):
    B, C, H, W = images.shape
    padded = F.pad(images, [padding] * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, B, 1))  # 2 x (B, 1)
    rows = (top + torch.arange(H))[:, None, :, None]
    cols = (left + torch.arange(W))[:, None, None, :]
    return padded[torch.arange(B)[:, None, None, None], torch.arange(C)[:, None, None], rows, cols]


@random_crop.alternative
def onto_a_black_canvas(images, padding=4):
    H, W = images.shape[-2:]
    out = torch.zeros_like(images)
    for new, image in zip(out, images, strict=True):
        down, right = (random.randint(-padding, padding) for _ in range(2))
        part = image[:, max(0, -down) : H - max(0, down), max(0, -right) : W - max(0, right)]
        top, left = max(0, down), max(0, right)
        new[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    return out


@random_crop.alternative
def rows_then_columns(images, padding=4):
    B, C, H, W = images.shape
    padded = F.pad(images, [padding] * 4)
    top, left = (torch.randint(2 * padding + 1, (B, 1, 1, 1)) for _ in range(2))
    rows = (top + torch.arange(H)[:, None]).expand(B, C, H, padded.shape[3])
    cols = (left + torch.arange(W)).expand(B, C, H, W)
    return padded.gather(2, rows).gather(3, cols)


def _corners(images, padding):
    """Row and column of a corner for each image, each (B,)."""
    return torch.randint(0, 2 * padding + 1, (2, len(images)))


def _cut(padded, top, left, like):
    """Windows with these corners, of the size of `like`."""
    B, C, H, W = like.shape
    rows = (top[:, None] + torch.arange(H))[:, None, :, None]
    cols = (left[:, None] + torch.arange(W))[:, None, None, :]
    return padded[torch.arange(B)[:, None, None, None], torch.arange(C)[:, None, None], rows, cols]


@random_crop.mistake(
    "One corner is drawn for the whole batch: all images are shifted alike. Draw one for each image.",
    "Ask: how many numbers must be drawn for 64 images, and how many does this code draw?",
)
def one_corner(images, padding=4):
    H, W = images.shape[-2:]
    i, j = torch.randint(0, 2 * padding + 1, (2,)).tolist()
    return F.pad(images, [padding] * 4)[:, :, i : i + H, j : j + W]


@random_crop.mistake(
    "The window is always cut out at the same place, so nothing ever moves. Its corner should be drawn, for each image.",
    "Show the same image from ten calls side by side: what has changed?",
)
def always_the_same_place(images, padding=4):
    H, W = images.shape[-2:]
    return F.pad(images, [padding] * 4)[:, :, padding : padding + H, padding : padding + W]


@random_crop.mistake(
    "The last shift never occurs: `torch.randint(0, n)` ends at n - 1, and there are 2 * padding + 1 corners each way.",
    "Draw an image of 3 pixels padded by 1 on the board and count the windows of 3.",
)
def last_corner_left_out(images, padding=4):
    top, left = torch.randint(0, 2 * padding, (2, len(images)))
    return _cut(F.pad(images, [padding] * 4), top, left, images)


@random_crop.mistake(
    "The images move down and right only: the corner goes from 0 to `padding`, which is only half of the way. How far does the padded "
    "image reach beyond the window?",
    "On the board: an image of 3 pixels padded by 1 has 5; at which places can a window of 3 begin?",
)
def half_the_corners(images, padding=4):
    top, left = torch.randint(0, padding + 1, (2, len(images)))
    return _cut(F.pad(images, [padding] * 4), top, left, images)


@random_crop.mistake(
    "The corners at both ends come half as often as the others: `round` gives 0 only for numbers below 0.5, but 1 for all from "
    "0.5 to 1.5. Draw whole numbers directly.",
    "Ask which numbers between 0 and 2 are rounded to 0, which to 1, and which to 2.",
)
def rounded_corners(images, padding=4):
    top, left = (torch.rand(2, len(images)) * 2 * padding).round().long()
    return _cut(F.pad(images, [padding] * 4), top, left, images)


@random_crop.mistake(
    "The same number is used for both directions: images are shifted along the diagonal only. Draw two numbers an image.",
    "Count on the board: with padding 1, how many shifts are there, and how many of them lie on the diagonal?",
)
def along_the_diagonal(images, padding=4):
    corner, _ = _corners(images, padding)
    return _cut(F.pad(images, [padding] * 4), corner, corner, images)


@random_crop.mistake(
    "Images move sideways only. The row of the corner should be drawn as well, independently of the column.",
    "Ask which of the nine shifts with padding 1 are missing.",
)
def sideways_only(images, padding=4):
    _, left = _corners(images, padding)
    return _cut(F.pad(images, [padding] * 4), torch.full_like(left, padding), left, images)


@random_crop.mistake(
    "The corner is drawn from -padding to padding, but the padded image counts from 0. A negative index does not reach outside: "
    "it counts from the other end.",
    "Ask what x[-1] is for x = torch.arange(5), and where it would lie in a padded image.",
)
def negative_corners(images, padding=4):
    top, left = _corners(images, padding) - padding
    return _cut(F.pad(images, [padding] * 4), top, left, images)


@random_crop.mistake(
    "The images are shifted by up to 4 pixels whatever `padding` says. The number stands somewhere in the code instead of the "
    "argument.",
    "Ask what should come out with padding=0, then try it.",
)
def padding_ignored(images, padding=4):
    return data.random_crop(images)


@random_crop.mistake(
    "What leaves the image on one side comes back on the other. Zeros should come in at the border: pad first.",
    "Show torch.arange(5).roll(1): where does the 4 go, and could a camera do that?",
)
def wraps_around(images, padding=4):
    shifts = torch.randint(-padding, padding + 1, (len(images), 2)).tolist()
    return torch.stack([image.roll(s, dims=(1, 2)) for image, s in zip(images, shifts, strict=True)])


def _padded_otherwise(images, padding, mode):
    # Not for bytes, so by way of floats
    padded = F.pad(images.float(), [padding] * 4, mode=mode).to(images.dtype)
    return _cut(padded, *_corners(images, padding), images)


@random_crop.mistake(
    "The border is filled with a mirror image of what lies inside. It looks natural, but zeros are asked for: what does `F.pad` do "
    "when it is given no mode?",
    "Run F.pad(torch.arange(1., 6)[None], [2, 2], mode=...) once with 'reflect' and once without a mode.",
)
def reflected_border(images, padding=4):
    return _padded_otherwise(images, padding, "reflect")


@random_crop.mistake(
    "The pixels at the border are repeated outwards. Zeros should come in: what does `F.pad` do when it is given no mode?",
    "Show an image whose edge pixels are smeared, and ask what a network could learn from the streaks.",
)
def repeated_border(images, padding=4):
    return _padded_otherwise(images, padding, "replicate")


@random_crop.mistake(
    "Each channel has a corner of its own, so the colours of one image move apart. Draw one corner for an image, and use it for all "
    "its channels.",
    "Show a result in colour: why are there red and blue seams along the edges?",
)
def channels_apart(images, padding=4):
    single = images.flatten(0, 1)[:, None]  # (B C, 1, H, W)
    return data.random_crop(single, padding).reshape(images.shape)


@random_crop.mistake(
    "The windows are square, H x H. Images that are wider than high lose a part: columns run to W.",
    "Ask for the shape of the result for images of 4 x 8 pixels, line by line.",
)
def square_windows(images, padding=4):
    H = images.shape[2]
    return _cut(F.pad(images, [padding] * 4), *_corners(images, padding), images[:, :, :, :H])


@random_crop.mistake(
    "Each call draws the same corners: something sets the seed anew inside the function. Then each epoch shows the same crops.",
    "Call the function twice in a row and compare the results with torch.equal.",
)
def same_corners_each_time(images, padding=4):
    torch.manual_seed(0)
    return data.random_crop(images, padding)


@random_crop.mistake(
    "Bytes go in, floats come out: `torch.zeros(...)` makes float32 unless it is told otherwise. Make the result of the same type "
    "as the images.",
    "Ask for torch.zeros(2).dtype and for torch.zeros_like(images).dtype.",
)
def floats_for_bytes_cropped(images, padding=4):
    out = torch.zeros(images.shape)
    out[:] = data.random_crop(images, padding)
    return out


@random_crop.mistake(
    "The windows are written into the images that were given. These may be the training set itself, which then wanders out of "
    "the picture, epoch after epoch. Write into a new tensor.",
    "Crop the same tensor in place 50 times and show what is left of it.",
)
def written_into_the_input(images, padding=4):
    images[:] = data.random_crop(images, padding)
    return images


# ---------------------------------------------------------------- accuracy

_logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 5.0], [4.0, 1.0, 0.0]])


def _share_of(name, logits, labels, hint=""):
    return Case(name, lambda f: _plain(apply(f, logits, labels)), hint, given=(logits,))


accuracy = Exercise(
    training.accuracy,
    _share_of(
        "3 of 4 right",
        _logits,
        torch.tensor([0, 1, 2, 1]),
        hint="Compare the place of the largest logit of each image with its label, then take the share.",
    ),
    _share_of("all right", _logits, torch.tensor([0, 1, 2, 0])),
    _share_of("none right", _logits, torch.tensor([1, 2, 0, 2])),
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
    _share_of("10 images, 7 classes", drawn(10, 7), torch.arange(10) % 7),
    hints=(
        "What is the model's answer for one image, given its K logits? And over which axis do you look for it?",
        "The answer is the *place* of the largest logit. Compare the places with the labels: that gives True or False an image. The "
        "share of True is the accuracy.",
        "`(logits.argmax(dim=...) == ...).float(). ... .item()`",
    ),
)


@accuracy.alternative
def by_max(logits, labels):
    return sum(int(row.max(0).indices == y) for row, y in zip(logits, labels, strict=True)) / len(labels)


@accuracy.alternative
def by_topk(logits, labels):
    return (logits.topk(1).indices[:, 0] == labels).double().mean().item()


@accuracy.alternative
def by_value(logits, labels):
    theirs = logits.gather(1, labels[:, None])[:, 0]
    return theirs.eq(logits.amax(1)).sum().item() / labels.numel()


@accuracy.alternative
def by_one_hot(logits, labels):
    K = logits.shape[1]
    answers = F.one_hot(logits.softmax(1).argmax(1), K)
    return float(torch.einsum("bk,bk->", answers, F.one_hot(labels, K)) / len(logits))


@accuracy.alternative
def in_numpy(logits, labels):
    return np.mean(logits.numpy().argmax(1) == labels.numpy())


@accuracy.mistake(
    "This counts the right answers and does not divide by how many there are.",
    "Ask what `accuracy` should say for 64 images of which all are right.",
)
def not_divided(logits, labels):
    return (logits.argmax(-1) == labels).float().sum().item()


@accuracy.mistake(
    "The argmax runs over the images instead of the classes: which axis holds the classes in (B, K)?",
    "Ask for the shape of logits.argmax(0) for 4 images and 3 classes: whom does each number belong to?",
)
def over_images(logits, labels):
    return (logits.argmax(0) == labels).float().mean().item()


@accuracy.mistake(
    "This is in percent. A share between 0 and 1 is wanted.",
    "Ask what a format such as `:.1%` would make of it.",
)
def percent(logits, labels):
    return 100 * training.accuracy(logits, labels)


@accuracy.mistake(
    "The count is divided by the number of classes. It should be divided by the number of images.",
    "Ask what comes out for 10 images of 7 classes when all are right.",
)
def over_classes(logits, labels):
    return (logits.argmax(-1) == labels).float().sum().item() / logits.shape[1]


@accuracy.mistake(
    "This is the error rate, the share of *wrong* answers.",
    "Ask what a perfect model should get.",
)
def error_rate(logits, labels):
    return 1 - training.accuracy(logits, labels)


@accuracy.mistake(
    "A logit of -5 counts like one of 5 here: the sign is lost. A negative logit speaks *against* its class.",
    "Put the logits (-5, 1) on the board, take their softmax, and ask which class wins.",
)
def largest_without_sign(logits, labels):
    return training.accuracy(logits.abs(), labels)


@accuracy.mistake(
    "The largest *value* is compared with the label, such as 5.0 with class 2. Which function says where it stands?",
    "Ask what the 5.0 in (1, 0, 5) has to do with the number of a class.",
)
def value_for_place(logits, labels):
    return (logits.max(-1).values == labels).float().mean().item()


@accuracy.mistake(
    "This is the mean of the classes' accuracies: a class with few images counts as much as one with many. Here each *image* counts "
    "once.",
    "Take 9 cats, all right, and 1 dog, wrong: is it 90 % or 50 %? Both have names; which one is asked for?",
)
def mean_over_classes(logits, labels):
    right = (logits.argmax(-1) == labels).float()
    return torch.stack([right[labels == k].mean() for k in labels.unique()]).mean().item()


@accuracy.mistake(
    "An answer counts here only where its probability is above one half. With many classes the largest is often below that, and it "
    "is the answer all the same.",
    "Ask who has won an election with 40, 35 and 25 percent.",
)
def only_above_one_half(logits, labels):
    sure = logits.softmax(-1) > 0.5
    return sure[torch.arange(len(labels)), labels].float().mean().item()


@accuracy.mistake(
    "The division drops everything behind the decimal point: `//` is for whole numbers.",
    "Ask for 3 // 4.",
)
def whole_division(logits, labels):
    return (logits.argmax(-1) == labels).sum().item() // len(labels)


@accuracy.mistake(
    "The share is right but comes as a tensor. A plain number is wanted, which also frees it from the device.",
    "Ask what happens to a list of 10,000 of these that all live on a GPU.",
)
def tensor_for_number(logits, labels):
    return (logits.argmax(-1) == labels).float().mean()


# ---------------------------------------------------------------- schedule

_schedule = {"total_steps": 100, "warmup_steps": 10, "peak": 1e-3}


def _at(name, step, hint="", **changes):
    return call(name, step, hint=hint, tolerance=1e-9, **(_schedule | changes))


def _curve(candidate):
    return torch.tensor([[float(candidate(step, 6, 2, 1.0))] for step in range(6)])


learning_rate = Exercise(
    training.learning_rate,
    Case(
        "steps 0 to 5 of 6, one a row: 2 of warm-up, peak 1",
        _curve,
        "Climb: 1/2, 1. Then half a cosine wave that starts at 1 and would reach 0 at step 6.",
        tolerance=1e-6,
    ),
    _at(
        "the first step is not zero",
        0,
        "With step 0 the climb has made its first of warmup_steps steps.",
    ),
    _at("halfway up the climb, step 4 of 10", 4, "It is the fifth step of ten."),
    _at("the last step of the climb has the peak", 9),
    _at(
        "the first step after the climb has the peak too",
        10,
        "The fall starts here, with progress 0 and cos(0) = 1.",
    ),
    _at(
        "in the middle of the fall, half the peak",
        55,
        "The fall has total_steps - warmup_steps steps.",
    ),
    _at("a quarter of the fall", 30, total_steps=90),
    _at("step total_steps, one past the last, is zero", 100, "There, progress is 1: cos(π) = -1."),
    _at("no warm-up at all", 0, "No step is below 0: only the fall is left.", warmup_steps=0),
    hints=(
        "There are two formulas. Which steps belong to which, and what should each of them give at step `warmup_steps`?",
        "Climb: the share (step + 1) of warmup_steps. Fall: first find how far the fall has come, from 0 to 1, counted from the "
        "end of the climb; then half a cosine wave of it.",
        "`if step < ...: return peak * (...) / warmup_steps`, else `progress = (step - ...) / (... - ...)` and "
        "`return peak * (1 + math.cos(...)) / 2`",
    ),
)


@learning_rate.alternative
def shifted_cosine(step, total_steps, warmup_steps, peak):
    climb = (step + 1) / warmup_steps if warmup_steps else 1.0
    fall = math.cos(0.5 * math.pi * max(0, step - warmup_steps) / (total_steps - warmup_steps)) ** 2
    return peak * min(climb, 1.0) * fall


@learning_rate.alternative
def counted_from_the_end(step, total_steps, warmup_steps, peak):
    if step >= warmup_steps:
        left = (total_steps - step) / (total_steps - warmup_steps)
        return peak * (1 - np.cos(np.pi * left)) / 2
    return np.linspace(peak / warmup_steps, peak, warmup_steps)[step]


@learning_rate.alternative
def in_torch(step, total_steps, warmup_steps, peak):
    fall = torch.linspace(0, torch.pi, total_steps - warmup_steps + 1).cos().add(1).div(2)
    climb = torch.arange(1, warmup_steps + 1) / max(warmup_steps, 1)
    return peak * torch.cat([climb, fall])[step].item()


@learning_rate.alternative
def with_a_sine(step, total_steps, warmup_steps, peak):
    low, high = 0.0, peak
    if step + 1 <= warmup_steps:
        return low + (high - low) * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return low + (high - low) * (0.5 - 0.5 * math.sin(math.pi * (progress - 0.5)))


def _climb(step, warmup_steps, peak):
    return peak * (step + 1) / warmup_steps


def _progress(step, total_steps, warmup_steps):
    return (step - warmup_steps) / (total_steps - warmup_steps)


def _half_wave(progress):
    return 0.5 * (1 + math.cos(math.pi * progress))


@learning_rate.mistake(
    "The climb starts at zero: the first step changes nothing. Step 0 should already have made one part of the climb.",
    "Ask what an optimiser does in a step with rate 0, and what that step has cost.",
)
def starts_at_zero(step, total_steps, warmup_steps, peak):
    # With <=, as often in print: an answer with < fails in fewer cases, and is known by those.
    if step <= warmup_steps:
        return peak * step / warmup_steps
    return training.learning_rate(step, total_steps, warmup_steps, peak)


@learning_rate.mistake(
    "The climb has one step too many: at step `warmup_steps` it goes *above* the peak. Steps count from 0, so the last of the "
    "climb is warmup_steps - 1.",
    "List the steps of a climb of 2 on the board, from step 0: which is the first that no longer belongs to it?",
)
def climbs_one_step_too_long(step, total_steps, warmup_steps, peak):
    if step <= warmup_steps:
        return _climb(step, warmup_steps, peak)
    return training.learning_rate(step, total_steps, warmup_steps, peak)


@learning_rate.mistake(
    "The climb is divided into one part too many: its last step, warmup_steps - 1, does not reach the peak.",
    "Ask for the rate in step 9 of a climb of 10 steps.",
)
def climb_ends_below_the_peak(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    return training.learning_rate(step, total_steps, warmup_steps, peak)


@learning_rate.mistake(
    "There is no climb: the rate falls from the first step on. While step < warmup_steps, it should grow in equal parts.",
    "Plot the rate over 100 steps and ask where the warm-up is.",
)
def no_climb(step, total_steps, warmup_steps, peak):
    return peak * _half_wave(step / total_steps)


@learning_rate.mistake(
    "The cosine counts from step 0 instead of from the end of the climb, so that the rate jumps down when the climb ends.",
    "Plot the rate with a long warm-up, half of all steps: where does the jump come from?",
)
def cosine_from_zero(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * _half_wave(step / total_steps)


@learning_rate.mistake(
    "The rate never reaches zero: the fall is counted over all steps, but it has only those after the climb.",
    "Ask for the progress at step 100 of 100, with a warm-up of 10.",
)
def never_zero(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * _half_wave((step - warmup_steps) / total_steps)


@learning_rate.mistake(
    "The fall is over one step too early: the last step of the training has rate 0 and changes nothing. Zero belongs to "
    "`total_steps`, one past the last.",
    "Ask for the number of the last of 100 steps that count from 0, and what is learned in it.",
)
def zero_in_the_last_step(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * _half_wave((step - warmup_steps) / (total_steps - 1 - warmup_steps))


@learning_rate.mistake(
    "The fall is one step ahead: at step `warmup_steps` progress should be 0, and the rate still the peak.",
    "Ask for the progress in the first step after the climb.",
)
def fall_one_step_ahead(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * _half_wave(_progress(step + 1, total_steps, warmup_steps))


@learning_rate.mistake(
    "The cosine runs over a quarter wave, from 1 to 0: it starts to fall slowly and ends abruptly. (1 + cos) / 2 over half "
    "a wave is flat at both ends.",
    "Draw both curves on the board: with which one do the last steps get smaller and smaller?",
)
def quarter_wave(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * math.cos(0.5 * math.pi * _progress(step, total_steps, warmup_steps))


@learning_rate.mistake(
    "The factor 1/2 is missing: 1 + cos goes from 2 to 0, so the rate jumps to twice the peak after the climb.",
    "Ask for 1 + cos(0).",
)
def twice_the_peak(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * 2 * _half_wave(_progress(step, total_steps, warmup_steps))


@learning_rate.mistake(
    "The angle lacks its π: progress goes from 0 to 1, and cos(1) is still 0.54. Half a wave ends at cos(π).",
    "Ask at which angle, in radians, the cosine is -1.",
)
def angle_without_pi(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * 0.5 * (1 + math.cos(_progress(step, total_steps, warmup_steps)))


@learning_rate.mistake(
    "After the climb the rate drops to zero and rises to the peak: this is the half wave of 1 - cos. Which sign makes it fall?",
    "Ask for (1 - cos(0)) / 2 and (1 - cos(π)) / 2.",
)
def rises_instead_of_falls(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * (1 - _half_wave(_progress(step, total_steps, warmup_steps)))


@learning_rate.mistake(
    "The fall is a straight line. Half a cosine is wanted.",
    "Draw both and ask where they agree: at the start, in the middle and at the end.",
)
def linear(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return _climb(step, warmup_steps, peak)
    return peak * (1 - _progress(step, total_steps, warmup_steps))


@learning_rate.mistake(
    "After the climb the rate stays at the peak. From there it should fall to zero.",
    "Ask whether somebody whose steps all have the same length can stop at the lowest point of a valley.",
)
def stays_at_the_peak(step, total_steps, warmup_steps, peak):
    return _climb(step, warmup_steps, peak) if step < warmup_steps else peak


@learning_rate.mistake(
    "The factor `peak` is missing: what comes out is a share between 0 and 1, and no rate.",
    "Ask what a peak of 0.001 and one of 0.1 should change in step 55.",
)
def peak_forgotten(step, total_steps, warmup_steps, peak):
    return training.learning_rate(step, total_steps, warmup_steps, 1.0)


# ---------------------------------------------------------------- one step

_batch, _labels = drawn(8, 5), torch.arange(8) % 3


class _Probe(nn.Module):
    """A linear classifier that remembers in which mode it was asked."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        with torch.no_grad():
            self.linear.weight.copy_(drawn(3, 5, seed=1))
            self.linear.bias.zero_()
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training and self.linear.training)
        return self.linear(x)


class _Descent:
    """Plain gradient descent. torch.optim would do, but its first use in a session imports a compiler, for a second.

    Remembers the gradient of the first parameter at its first step.
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


def _steps(count, look):
    """look(model, losses, optimizer) after so many calls."""

    def run(candidate):
        model = _Probe().eval()
        optimizer = _Descent(model.parameters(), rate=0.5)
        for p in model.parameters():
            p.grad = torch.ones_like(p)  # left over by somebody before
        losses = [apply(candidate, model, optimizer, _batch, _labels) for _ in range(count)]
        return look(model, losses, optimizer)

    return run


def _loss(model, losses, optimizer):
    return _plain(losses[0])


def _weights(model, losses, optimizer):
    return model.linear.weight.detach()


def _what_the_step_found(candidate):
    """In words, the gradient that the optimiser had at its first step."""
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
        when = "cleared after backward" if after_backward else "there was no backward yet"
        return f"no gradient: {when}"
    known = {
        "the gradient of this batch": true,
        "only an old gradient, from before the call": old,
        "the gradient of this batch added to an old one": true + old,
    }
    for words, value in known.items():
        if torch.allclose(gradient, value, atol=1e-5):
            return words
    return "another gradient"


train_step = Exercise(
    training.train_step,
    Case("the loss is returned, as a Python number", _steps(1, _loss), "loss.item()"),
    Case("the weights after one step", _steps(1, _weights)),
    Case(
        "the weights after three steps",
        _steps(3, _weights),
        "Gradients add up from call to call unless somebody clears them.",
    ),
    Case(
        "what the optimiser finds at its first step",
        _what_the_step_found,
        "Clear what is old, then backward, then step.",
    ),
    Case(
        "the mode in which the model computes",
        _steps(1, lambda m, losses, o: "train" if all(m.modes) else "eval"),
        "An evaluation may have left it in eval mode: say model.train() first.",
    ),
    hints=(
        "Which of the five lines fills the gradients, which one uses them up, and which one throws them away? In which order must "
        "they come?",
        "Train mode; logits; their cross-entropy with the labels. Then throw away the gradients of before, let backward compute new "
        "ones, and let the optimiser follow them.",
        "`model. ...()`, `loss = F.cross_entropy(..., labels)`, `optimizer. ...()`, `loss. ...()`, `optimizer. ...()`, "
        "`return loss. ...()`",
    ),
)


@train_step.alternative
def step_by_hand(model, optimizer, images, labels):
    model.train()
    for p in model.parameters():
        p.grad = None
    loss = -model(images).log_softmax(-1)[torch.arange(len(labels)), labels].mean()
    loss.backward()
    optimizer.step()
    return loss.detach().numpy().item()


@train_step.alternative
def clear_first(model, optimizer, images, labels):
    optimizer.zero_grad(set_to_none=False)
    model = model.train()
    loss = nn.CrossEntropyLoss()(model(images), labels)
    before = loss.item()
    loss.backward()
    optimizer.step()
    return before


@train_step.alternative
def with_a_closure(model, optimizer, images, labels):
    model.train(True)

    def closure():
        model.zero_grad()
        loss = F.nll_loss(F.log_softmax(model(images), dim=1), labels)
        loss.backward()
        return loss

    return optimizer.step(closure).item()


@train_step.alternative
def gradients_asked_for(model, optimizer, images, labels):
    model.train()
    logits = model(images)
    right = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    loss = (logits.logsumexp(1) - right).sum() / len(labels)
    values = [p for group in optimizer.param_groups for p in group["params"]]
    for p, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
        p.grad = gradient
    optimizer.step()
    return loss.tolist()


def _step(model, optimizer, images, labels, order="clear backward step", loss=F.cross_entropy):
    """The reference, with other lines at its end or another loss. Returns the loss as a tensor."""
    model.train()
    value = loss(model(images), labels)
    lines = {"clear": optimizer.zero_grad, "backward": value.backward, "step": optimizer.step}
    for line in order.split():
        lines[line]()
    return value


@train_step.mistake(
    "The gradients are never cleared: each step adds its own to those of all steps before. optimizer.zero_grad() belongs "
    "before backward.",
    "Compute the loss of one batch and call backward, twice in a row, and print the gradient after each.",
)
def no_zero_grad(*args):
    return _step(*args, order="backward step").item()


@train_step.mistake(
    "The gradients are cleared only after the step, so the first call adds its own to whatever is left from before: a test of one "
    "batch, say. Clear them before backward.",
    "Ask what the first step does if somebody called loss.backward() in a cell above.",
)
def cleared_after_the_step(*args):
    return _step(*args, order="backward step clear").item()


@train_step.mistake(
    "The weights do not change: the optimiser never makes its step. `backward` only computes gradients; who moves the weights?",
    "Print one weight before and after the call, and ask which line should have changed it.",
)
def no_step(*args):
    return _step(*args, order="clear backward").item()


@train_step.mistake(
    "The gradients are cleared between backward and the step: the optimiser finds none to follow, and the weights do not change.",
    "Ask what p.grad is in each of the three lines.",
)
def cleared_before_the_step(*args):
    return _step(*args, order="backward clear step").item()


@train_step.mistake(
    "The step comes before backward, right after the gradients were cleared: the optimiser finds none to follow, and the weights do "
    "not change.",
    "Ask what p.grad is in each of the three lines.",
)
def step_before_backward(*args):
    return _step(*args, order="clear step backward").item()


@train_step.mistake(
    "Each step follows an *old* gradient, that of the call before: the step comes first, and backward after it. At the first call "
    "it follows what somebody left over.",
    "Ask which batch the gradient belongs to that the optimiser uses in its second call.",
)
def one_batch_late(*args):
    return _step(*args, order="step clear backward").item()


@train_step.mistake(
    "When the logits are computed, the model is in eval mode, where the last evaluation may have left it: dropout and stochastic "
    "depth are off.",
    "Run model.eval(), then the function, then print model.training.",
)
def mode_kept(model, optimizer, images, labels):
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@train_step.mistake(
    "The logits go through a softmax before the loss, which applies one itself. Two of them flatten the gradient: hand the "
    "logits over as they are.",
    "Take the softmax of (5, 0, 0) twice on the screen: how sure is the model still?",
)
def softmax_twice(*args):
    return _step(*args, loss=lambda x, y: F.cross_entropy(x.softmax(-1), y)).item()


@train_step.mistake(
    "`F.nll_loss` expects logarithms of probabilities; it got bare logits. Its value may then fall below zero without end, by ever "
    "larger logits.",
    "Ask for the smallest value that -ln of a probability can have, then print this loss after 20 steps.",
)
def logits_for_logarithms(*args):
    return _step(*args, loss=F.nll_loss).item()


@train_step.mistake(
    "`F.nll_loss` expects *logarithms* of probabilities; it got the probabilities. Its value can then go no lower than -1, and hardly "
    "punishes an answer that is surely wrong.",
    "Ask for this loss and for the cross-entropy of an image whose class gets 1 %, and of one whose class gets 0.01 %.",
)
def probabilities_for_logarithms(*args):
    return _step(*args, loss=lambda x, y: F.nll_loss(x.softmax(-1), y)).item()


@train_step.mistake(
    "The loss is *summed* over the batch, gradients included: a batch twice as large makes steps twice as long. The mean is wanted.",
    "Ask how the learning rate would have to change with the batch size.",
)
def summed_loss(*args):
    return _step(*args, loss=lambda x, y: F.cross_entropy(x, y, reduction="sum")).item()


@train_step.mistake(
    "The step is right, but what comes back is the loss times the number of images. The mean over the batch is wanted.",
    "Ask for the first loss of a model that knows nothing of 10 classes, and compare.",
)
def returns_the_sum(model, optimizer, images, labels):
    return _step(model, optimizer, images, labels).item() * len(labels)


@train_step.mistake(
    "The loss that comes back is that of the weights *after* the step: the model is asked a second time. Return the one that "
    "backward used; it costs nothing.",
    "Ask how many times the images run through the model in one call.",
)
def loss_after_the_step(model, optimizer, images, labels):
    _step(model, optimizer, images, labels)
    return F.cross_entropy(model(images), labels).item()


@train_step.mistake(
    "The loss comes back as a tensor. It may keep the whole graph of its step in memory; loss.item() is a plain number.",
    "Print such a loss: what does grad_fn in it hold on to?",
)
def loss_tensor(*args):
    return _step(*args)


# ---------------------------------------------------------------- evaluation

# A last batch that is smaller, as nearly always
_SIZES = (5, 5, 2)
_RIGHT = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1])


class _Judge(nn.Module):
    """Its images are the logits. In train mode it takes them for those of other classes."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        logits = x.flatten(1)
        return logits.roll(1, dims=1) if self.training or self.inner.training else logits


def _eval_batches(sizes=_SIZES):
    """Images (n, 3, 1, 1) and labels, of which the model gets 8 of 12 right, 5, 1 and 2 in the three batches."""
    images = drawn(12, 3, 1, 1)
    labels = (images.flatten(1).argmax(1) + 1 - _RIGHT) % 3
    pairs = zip(images.split(5), labels.split(5), strict=True)
    if sizes != _SIZES:
        count = sum(sizes)
        pairs = zip(images[-count:].split(sizes), labels[-count:].split(sizes), strict=True)
    return list(pairs)


def _judged(look, training_before=False, batches=_eval_batches):
    def run(candidate):
        model = _Judge().train(training_before)
        return look(candidate(model, batches()), model)

    return run


def _share(share, model):
    return _plain(share)


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


evaluate = Exercise(
    training.evaluate,
    Case(
        "12 images in batches of 5, 5 and 2, of which 5, 1 and 2 are right",
        _judged(_share),
        "Each image counts once, whatever the size of its batch.",
    ),
    Case(
        "as many images in each batch as classes",
        _judged(_share, batches=lambda: _eval_batches((3, 3, 3))),
        "The classes are on the last axis of the logits.",
    ),
    Case("a single image", _judged(_share, batches=lambda: _eval_batches((1,)))),
    Case(
        "a model that was in train mode is judged in eval mode",
        _judged(_share, training_before=True),
        "Say model.eval() first.",
    ),
    Case(
        "... and goes back to train mode afterwards",
        _judged(_modes, training_before=True),
        "Note model.training before, and put it back.",
    ),
    Case("a model in eval mode stays there", _judged(_modes)),
    Case(
        "gradients after the evaluation",
        _gradients_afterwards,
        "torch.no_grad() as a block ends by itself.",
    ),
    Case(
        "gradients while the model computes",
        _gradients_meanwhile,
        "Inside `with torch.no_grad():` nothing is kept for a backward that never comes.",
    ),
    Case(
        "batches from a generator",
        _judged(_share, batches=lambda: (b for b in _eval_batches((3, 3, 3)))),
        "A generator has no length, and can be gone through once: count the images on the way.",
    ),
    hints=(
        "Take batches of 5 and 2 images. What do you have to remember from each, so that in the end every image counts once?",
        "Count right answers and images over all batches, divide once at the end. Before: note the mode, eval mode, no gradients. "
        "After: the mode that you noted.",
        "`before = model.training`, `model. ...()`, `with torch.no_grad(): for images, labels in batches: right += ...; total += ...`, "
        "`model.train(...)`, `return ... / ...`",
    ),
)


@evaluate.alternative
def evaluate_joined(model, batches):
    before = model.training
    model.eval()
    with torch.inference_mode():
        hits = torch.cat([model(x).argmax(1) == y for x, y in batches])
    model.train(before)
    return hits.double().mean().item()


@evaluate.alternative
@torch.no_grad()
def weighed_by_size(model, batches):
    mode = model.training
    try:
        model.train(False)
        found = [(training.accuracy(model(x), y), len(x)) for x, y in batches]
    finally:
        model.train(mode)
    return sum(share * n for share, n in found) / sum(n for _, n in found)


@evaluate.alternative
def image_by_image(model, batches):
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    hits = []
    for images, labels in batches:
        with torch.no_grad():
            probabilities = F.softmax(model(images), dim=1)
        for row, label in zip(probabilities, labels.tolist(), strict=True):
            hits.append(row.max(0)[1].item() == label)
    for module, training_before in modes:
        module.training = training_before
    return hits.count(True) / len(hits)


@evaluate.alternative
def counted_in_a_tensor(model, batches):
    tracked, was_training = torch.is_grad_enabled(), model.training
    torch.set_grad_enabled(False)
    model.eval()
    count = torch.zeros(2, dtype=torch.long)
    for images, labels in batches:
        right = model(images).max(dim=-1).indices.eq(labels)
        count += torch.stack([right.sum(), torch.tensor(right.numel())])
    torch.set_grad_enabled(tracked)
    if was_training:
        model.train()
    return (count[0] / count[1]).item()


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


@evaluate.mistake(
    "This is the mean of the batches' accuracies. The last batch is smaller, so its images count for more: add up the right "
    "answers and divide once, at the end.",
    "On the board: 5 of 5 and 0 of 1. Is it one half, or five sixths?",
)
def mean_of_means(model, batches):
    shares = [right / n for right, n in _hits(model, batches)]
    return sum(shares) / len(shares)


@evaluate.mistake(
    "The count is divided by the number of *batches*. Divide by the number of images in them.",
    "Ask how a share can be larger than 1.",
)
def divided_by_batches(model, batches):
    found = _hits(model, batches)
    return sum(right for right, _ in found) / len(found)


@evaluate.mistake(
    "Every batch is taken to be as large as the first. The last one is smaller, so more images are counted than there are.",
    "Ask for the number of images in batches of 5, 5 and 2, and for 3 * 5.",
)
def all_batches_alike(model, batches):
    found = _hits(model, batches)
    return sum(right for right, _ in found) / (len(batches) * found[0][1])


@evaluate.mistake(
    "The last batch is left out. In training that does no harm; in an evaluation each image must count.",
    "Ask whose photos are never judged in 10,000 test images and batches of 512.",
)
def last_batch_lost(model, batches):
    return _evaluation(model, batches, leave_out_last=True)


@evaluate.mistake(
    "Only the first batch is judged: the return stands inside of the loop. How far should it be indented?",
    "Put a print into the loop and count the lines.",
)
def return_in_the_loop(model, batches):
    model.eval()
    for images, labels in batches:
        with torch.no_grad():
            return training.accuracy(model(images), labels)


@evaluate.mistake(
    "Only the last batch counts: each one overwrites the counts of the one before. Add to them.",
    "Ask what `right` holds after the second batch.",
)
def last_batch_only(model, batches):
    right, total = _hits(model, batches)[-1]
    return right / total


@evaluate.mistake(
    "The argmax runs over the images instead of the classes: which axis holds the classes in (B, K)?",
    "Ask for the shapes of logits.argmax(0) and of labels for 5 images and 3 classes.",
)
def argmax_over_images(model, batches):
    return _evaluation(model, batches, answer=lambda x: x.argmax(0))


@evaluate.mistake(
    "The softmax runs over the images of the batch: the answer for one image then depends on its neighbours. An argmax needs no "
    "softmax at all.",
    "Ask what a softmax over the classes changes in the order of an image's logits.",
)
def softmax_over_images(model, batches):
    return _evaluation(model, batches, answer=lambda x: x.softmax(0).argmax(-1))


@evaluate.mistake(
    "The batches are gone through twice, once to count the images. A generator is used up after the first time: count on the way.",
    "Run list(g) twice for g = (i for i in range(3)).",
)
def goes_through_twice(model, batches):
    total = sum(len(y) for _, y in batches)
    return sum(right for right, _ in _hits(model, batches)) / total


@evaluate.mistake(
    "The model is judged in the mode that it happens to be in. In train mode, dropout and the like disturb it.",
    "Evaluate a model with dropout twice in train mode: why do the numbers differ?",
)
def no_eval(model, batches):
    return _evaluation(model, batches, switch=False)


@evaluate.mistake(
    "The model is left in eval mode: training would go on without dropout and stochastic depth.",
    "Print model.training after the call, and ask what the next epoch will be like.",
)
def left_in_eval(model, batches):
    return _evaluation(model, batches, back=False)


@evaluate.mistake(
    "Afterwards the model is always put into train mode. It should go back to the mode it was in.",
    "Ask what happens to somebody who called model.eval(), evaluates, and then shows attention maps.",
)
def always_train(model, batches):
    share = _evaluation(model, batches)
    model.train()
    return share


@evaluate.mistake(
    "Gradients are tracked although nobody needs them: what backward would read is kept in memory. torch.no_grad() turns "
    "that off.",
    "Print the grad_fn of the logits inside of the loop: what is it kept for?",
)
def with_grad(model, batches):
    return _evaluation(model, batches, grad=True)


@evaluate.mistake(
    "The counting is right, but the model is judged in the mode that it happens to be in, and gradients are tracked. What should be "
    "done before the loop, and undone after it?",
    "Ask what a training step needs that an evaluation does not, and the other way round.",
)
def bare_loop(model, batches):
    return _evaluation(model, batches, switch=False, grad=True)


@evaluate.mistake(
    "Gradients are switched off and stay off: the next training step fails. Which way of switching them off ends by itself?",
    "Call the function, then loss.backward(), and read the error together.",
)
def gradients_off_for_good(model, batches):
    share = _evaluation(model, batches)
    torch.set_grad_enabled(False)
    return share


@evaluate.mistake(
    "The share is right but comes as a tensor. A plain number is wanted: `.item()` takes it out.",
    "Ask what the history of a run holds on to when it is a list of tensors on a GPU.",
)
def tensor_for_share(model, batches):
    return torch.tensor(_evaluation(model, batches))


EXERCISES = [random_flip, random_crop, accuracy, learning_rate, train_step, evaluate]
