"""Scenes of several shapes, and clips of one that moves, in which every pixel, object and motion is known."""

import math

import torch

from vit_edu.data.drawing import between, tight_boxes
from vit_edu.data.outlines import OUTLINES
from vit_edu.data.sets import Data, Split

KINDS = ("circle", "square", "triangle", "plus")
MOTIONS = ("right", "down", "left", "up")
SPEEDS = ("speeding up", "slowing down")
TRIES = 24  # how many places are drawn for an object before it is left out
GAP = 1.5  # pixels between the circles around two objects, at least


def scenes(
    train=4_000,
    test=1_000,
    size=32,
    seed=0,
    reason="they were asked for.",
    *,
    objects=(1, 3),
    kinds=KINDS,
):
    """Images with several small shapes, none of which hides another, and where they are.

    size: the side of the images, in pixels. objects: the least and the most shapes of an image. kinds: the names of the shapes,
    see `SHAPES`; they are the classes. A shape reaches about 12 to 20 % of the image's side from its centre, and lies inside the
    image. An object for which no free place was found is left out, never the first. The same seed gives the same images.
    Returns `Data` with these targets, where M is the most objects:
    "mask" (N, H, W), uint8: 0 for the background, class + 1 where the centre of the pixel lies inside a shape.
    "boxes" (N, M, 4), float32: x1, y1, x2, y2 in pixels, the smallest box around the pixels of each object; rows of -1 are unused.
    "classes" (N, M), int64: the class of each object, -1 where the row of boxes is unused.
    The label of an image is the class of its first object, also where the pixels are too few to show it. Raises ValueError for numbers that make no sense, and for a shape
    that is not known.
    """
    _require_counts(train, test, size)
    least, most = objects
    if not 1 <= least <= most:
        raise ValueError(f"objects is (least, most), with at least one object, got {objects}.")
    _require_known(kinds)
    generator = torch.Generator().manual_seed(seed)
    splits = [_draw_scenes(count, size, least, most, kinds, generator) for count in (train, test)]
    return Data.measured(*splits, kinds, "scenes", reason)


def clips(
    train=2_000,
    test=500,
    size=32,
    frames=8,
    seed=0,
    reason="they were asked for.",
    *,
    motion="direction",
    kinds=KINDS,
):
    """Clips of one small shape that moves across a picture that wraps round at its borders, so that no single frame tells how.

    motion: what the label of a clip says. "direction": right, down, left or up, at 1/32 to 3/32 of the image's side from frame
    to frame. "speed": in any of these directions, but speeding up or slowing down; the way from the first frame to the last is as long
    for both. "both": direction and speed, eight classes. The shape starts anywhere, and so every frame by itself looks the
    same for all classes. Played backwards, a clip is one of the opposite class. The background stays the same, and each frame
    has its own noise. The same seed gives the same clips.
    Returns `Data` of clips (N, F, 3, H, W), uint8. Train with flip=False: in the mirror, right is left.
    Raises ValueError for fewer than two frames, three where speeds differ, and for another motion.
    """
    _require_counts(train, test, size)
    _require_known(kinds)
    classes = {
        "direction": MOTIONS,
        "speed": SPEEDS,
        "both": tuple(f"{way}, {speed}" for way in MOTIONS for speed in SPEEDS),
    }
    if motion not in classes:
        raise ValueError(f"motion is {', '.join(map(repr, classes))}, got {motion!r}.")
    fewest = 2 if motion == "direction" else 3
    if frames < fewest:
        raise ValueError(f"a motion shows in {fewest} frames or more, got frames={frames}.")
    generator = torch.Generator().manual_seed(seed)
    splits = [
        _draw_clips(count, size, frames, motion, classes[motion], kinds, generator) for count in (train, test)
    ]
    return Data.measured(*splits, classes[motion], "clips", reason)


def opposite(classes):
    """For each class of `clips`, the one that it becomes when it is played backwards: an index (K,), int64.

    Raises ValueError for classes of other clips.
    """
    turned = {"right": "left", "left": "right", "up": "down", "down": "up"}
    turned |= dict(zip(SPEEDS, reversed(SPEEDS), strict=True))
    back = [", ".join(turned.get(word, "") for word in name.split(", ")) for name in classes]
    if not set(back) <= set(classes):
        raise ValueError(f"only classes of data.clips have an opposite, got {', '.join(classes)}.")
    return torch.tensor([classes.index(name) for name in back])


def _require_counts(train, test, size):
    for name, value, least in (("train", train, 0), ("test", test, 0), ("size", size, 1)):
        if value < least:
            raise ValueError(f"{name} is at least {least}, got {value}.")


def _require_known(kinds):
    if unknown := [kind for kind in kinds if kind not in OUTLINES]:
        raise ValueError(f"there is no shape called {unknown[0]!r}; there are {', '.join(OUTLINES)}.")
    if len(kinds) < 2 or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds names at least two different shapes, got {kinds}.")


# ---------------------------------------------------------------- drawing


def _pixels(size):
    """(y, x) of the centre of each pixel, 2 x (S, S), where the image's side is 1."""
    middle = (torch.arange(size) + 0.5) / size
    return torch.meshgrid(middle, middle, indexing="ij")


def _ink(labels, kinds, y, x, reach, angle, size):
    """(n, S, S): 1 inside a shape and 0 outside, with an edge about a pixel wide. y, x: from the shape's centre, (n, S, S)."""
    y, x = y / reach, x / reach
    cos, sin = angle.cos(), angle.sin()
    x, y = x * cos + y * sin, y * cos - x * sin
    distance = torch.empty_like(x)  # in units of the reach, negative inside
    for label, kind in enumerate(kinds):
        mine = labels == label
        distance[mine] = OUTLINES[kind](x[mine], y[mine])
    return torch.sigmoid(-2 * distance * reach * size)


def _colours(count, generator):
    """The background (count, 3, 1, 1), and a lighter colour for a shape on it, from a background."""
    back = between(0, 0.6, count, 3, 1, 1, generator=generator)
    return back, lambda: back + (1 - back) * between(0.3, 1, count, 3, 1, 1, generator=generator)


def _noisy(image, generator):
    image = image + torch.randn(image.shape, generator=generator) * 0.04
    return (image.clamp(0, 1) * 255).to(torch.uint8)


def _draw_scenes(count, size, least, most, kinds, generator):
    def uniform(low, high, *shape):
        return between(low, high, *shape, generator=generator)

    y, x = _pixels(size)
    back, next_colour = _colours(count, generator)
    image = back.expand(-1, -1, size, size).clone()
    number = torch.randint(least, most + 1, (count,), generator=generator)  # of objects
    reach = uniform(0.12, 0.2, count, most)
    places = _apart(reach, size, generator)  # (count, most, 2), NaN where there is none
    mask = torch.zeros(count, size, size, dtype=torch.uint8)
    boxes, classes = torch.full((count, most, 4), -1.0), torch.full((count, most), -1)
    drawn = []
    for i in range(most):
        labels = torch.randint(len(kinds), (count,), generator=generator)
        colour, angle = next_colour(), uniform(-0.25, 0.25, count, 1, 1)
        there = (number > i) & ~places[:, i, 0].isnan()  # (count,)
        cx, cy = places[:, i].nan_to_num(0)[:, :, None, None].unbind(1)  # 2 x (count, 1, 1)
        ink = _ink(labels, kinds, y - cy, x - cx, reach[:, i, None, None], angle, size)
        # Corners reach further than the circles that were kept apart
        there &= ~((ink > 0.5) & (mask > 0)).flatten(1).any(1)
        ink = ink * there[:, None, None]
        image = torch.lerp(image, colour, ink[:, None])
        inside = ink > 0.5  # (count, S, S)
        mask = torch.where(inside, (labels + 1).to(torch.uint8)[:, None, None], mask)
        boxes[:, i] = tight_boxes(inside)
        classes[:, i] = labels.where(boxes[:, i, 0] >= 0, -1)
        drawn.append(labels)
    targets = {"mask": mask, "boxes": boxes, "classes": classes}
    return Split(_noisy(image, generator), drawn[0], targets)


def _apart(reach, size, generator):
    """Places (count, most, 2), x and y, such that no two shapes come close to each other; NaN where none of TRIES was free."""
    count, most = reach.shape
    places = torch.full((count, most, 2), float("nan"))
    for i in range(most):
        radius = reach[:, i, None]  # (count, 1)
        drawn = torch.rand(count, TRIES, 2, generator=generator)
        drawn = radius[..., None] + drawn * (1 - 2 * radius[..., None])  # (count, TRIES, 2), inside the image
        away = (drawn[:, :, None] - places[:, None, :i]).norm(dim=-1)  # (count, TRIES, i)
        needed = radius[..., None] + reach[:, None, :i] + GAP / size  # (count, 1, i)
        free = ((away >= needed) | away.isnan()).all(dim=-1)  # (count, TRIES)
        first = free.float().argmax(dim=1)  # (count,)
        chosen = drawn[torch.arange(count), first]
        places[:, i] = chosen.where(free.any(dim=1)[:, None], float("nan"))
    return places


def _draw_clips(count, size, frames, motion, classes, kinds, generator):
    def uniform(low, high, *shape):
        return between(low, high, *shape, generator=generator)

    labels = (torch.arange(count) % len(classes))[torch.randperm(count, generator=generator)]
    shape = torch.randint(len(kinds), (count,), generator=generator)
    way = {
        "direction": labels,
        "speed": torch.randint(len(MOTIONS), (count,), generator=generator),
        "both": labels // 2,
    }[motion]
    start, reach = torch.rand(count, 2, generator=generator), uniform(0.12, 0.2, count, 1, 1)
    angle, length = uniform(-0.25, 0.25, count, 1, 1), uniform(1 / 32, 3 / 32, count) * (frames - 1)
    slower = {"direction": None, "speed": labels, "both": labels % 2}[motion]
    done = _progress(frames, slower, count)  # (count, F), from 0 to 1
    turn = way * (math.pi / 2)
    velocity = torch.stack([turn.cos().round(), turn.sin().round()], dim=1)  # (count, 2)
    centre = start[:, None] + velocity[:, None] * (done * length[:, None])[..., None]  # (count, F, 2)
    back, next_colour = _colours(count, generator)
    colour = next_colour()
    y, x = _pixels(size)
    images = torch.empty(count, frames, 3, size, size, dtype=torch.uint8)
    for f in range(frames):
        cx, cy = (centre[:, f] % 1)[:, :, None, None].unbind(1)  # 2 x (count, 1, 1)
        right, down = (x - cx + 0.5) % 1 - 0.5, (y - cy + 0.5) % 1 - 0.5  # the shorter way round
        ink = _ink(shape, kinds, down, right, reach, angle, size)
        images[:, f] = _noisy(torch.lerp(back.expand(-1, -1, size, size), colour, ink[:, None]), generator)
    return Split(images, labels)


def _progress(frames, slower, count):
    """(count, F): the share of the way at each frame. slower: None for a steady motion, else 0 (speeding up) or 1 (slowing down)."""
    time = torch.linspace(0, 1, frames).expand(count, -1)
    if slower is None:
        return time
    return torch.where((slower == 1)[:, None], 1 - (1 - time) ** 2, time**2)
