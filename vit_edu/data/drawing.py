"""Shapes that are generated on the spot, as images or as short clips, with masks and boxes on request."""

import math
from dataclasses import dataclass

import torch

from vit_edu.data.geometry import DIRECTIONS
from vit_edu.data.outlines import OUTLINES, SHAPES
from vit_edu.data.sets import Data, Split


def shapes(
    train=10_000,
    test=2_000,
    size=32,
    seed=0,
    reason="they were asked for.",
    *,
    mask=False,
    boxes=False,
    frames=None,
    clutter=False,
):
    """Ten kinds of shapes on coloured backgrounds, with varied colours, places, sizes and angles and some noise.

    Colours are drawn the same way for all classes, so the shape is all there is to go by. The same seed gives the
    same images. Returns `Data` with `train` + `test` images of size x size pixels; 12,000 of them take about two
    seconds. What else is known about the images can be had as targets, which changes neither images nor labels:

    mask: "mask" (N, H, W), uint8: 0 for the background, label + 1 where the centre of the pixel lies inside the shape.
    boxes: "boxes" (N, 1, 4), float32: x1, y1, x2, y2 in pixels, the smallest box around the mask; x2 - x1 is its width.
    frames: a clip of this many frames instead of one image, (N, F, C, H, W). Its first frame is the image that there would
    be without this argument. From frame to frame the shape moves by 1/64 to 3/64 of the image's width, straight ahead in
    one of eight directions, which is given as "direction" (N,), an index into `DIRECTIONS`. As with a camera that stands
    still, the background stays the same and each frame has its own noise. There is then a mask and a box for each frame,
    (N, F, H, W) and (N, F, 1, 4).
    clutter: makes it harder, with other images: two thin bars across each of them, in front of the shape, less contrast, and
    more noise. Masks and boxes are still those of the whole shape. Raises ValueError for fewer frames than one, and for fewer
    images than none.
    """
    for name, value, least in (("train", train, 0), ("test", test, 0), ("size", size, 1)):
        if value < least:
            raise ValueError(f"{name} is at least {least}, got {value}.")
    if frames is not None and frames < 1:
        raise ValueError(
            f"a clip has at least one frame, got frames={frames}. Leave it out for single images."
        )
    stills = torch.Generator().manual_seed(seed)
    # The motion has its own seed, so that the stills are the same as without it
    motion = torch.Generator().manual_seed(seed ^ 0x6D6F7665)
    # So have the bars
    bars = torch.Generator().manual_seed(seed ^ 0x62617273) if clutter else None
    splits = (_draw_split(count, size, stills, motion, mask, boxes, frames, bars) for count in (train, test))
    return Data.measured(*splits, SHAPES, "shapes", reason)


def _draw_split(count, size, stills, motion, mask, boxes, frames, bars):
    scenes = _draw_scenes(count, size, stills)
    front = [_draw_bar(count, size, bars) for _ in range(2)] if bars else []
    direction, velocity = _draw_motion(count, motion) if frames else (None, (0.0, 0.0))
    F = frames or 1
    images = torch.empty(count, F, 3, size, size, dtype=torch.uint8)
    inside = torch.empty(count, F, size, size, dtype=torch.bool) if mask or boxes else None
    for t in range(F):
        ink = _ink(scenes, size, [t * v for v in velocity])
        images[:, t] = _paint(scenes, ink, motion if t else stills, front)
        if inside is not None:
            inside[:, t] = ink > 0.5
    targets = {}
    if mask:
        targets["mask"] = inside * (scenes.labels + 1).to(torch.uint8)[:, None, None, None]  # (N, F, S, S)
    if boxes:
        targets["boxes"] = tight_boxes(inside)[..., None, :]  # (N, F, 1, 4)
    if frames:
        return Split(images, scenes.labels, {**targets, "direction": direction})
    return Split(images[:, 0], scenes.labels, {name: values[:, 0] for name, values in targets.items()})


@dataclass(frozen=True)
class _Scenes:
    """What is drawn at random for N images, apart from the noise. Coordinates run from -1 to 1 across the image."""

    labels: torch.Tensor  # (N,)
    scale: torch.Tensor  # (N, 1, 1): the shape's reach
    centre: tuple  # x, y, each (N, 1, 1)
    angle: torch.Tensor  # (N, 1, 1), radians, up to 14 degrees either way
    back: torch.Tensor  # (N, 3, 1, 1): the colour of the background
    fore: torch.Tensor  # (N, 3, 1, 1): the colour of the shape, the lighter of the two
    slope: torch.Tensor  # (N, 1, S, S): how the brightness of the background changes


def between(low, high, *shape, generator):
    """Random numbers of this shape, each between low and high."""
    return torch.rand(*shape, generator=generator) * (high - low) + low


def _balanced(count, classes, generator):
    """(count,) numbers from 0 to classes - 1, equally many of each, in random order."""
    return (torch.arange(count) % classes)[torch.randperm(count, generator=generator)]


def _axis(size):
    return (torch.arange(size) + 0.5) / size * 2 - 1  # the middle of each pixel, in -1 .. 1


def _draw_scenes(count, size, generator):
    def uniform(low, high, *shape):
        return between(low, high, count, *shape, generator=generator)

    labels = _balanced(count, len(SHAPES), generator)
    scale = uniform(0.5, 0.8, 1, 1)
    centre = uniform(-0.2, 0.2, 1, 1), uniform(-0.2, 0.2, 1, 1)
    angle = uniform(-0.25, 0.25, 1, 1)
    back = uniform(0, 0.7, 3, 1, 1)
    fore = back + (1 - back) * uniform(0.3, 1, 3, 1, 1)
    axis = _axis(size)
    slope = uniform(-0.2, 0.2, 1, 1, 1) * axis + uniform(-0.2, 0.2, 1, 1, 1) * axis[:, None]
    return _Scenes(labels, scale, centre, angle, back, fore, slope)


def _draw_motion(count, generator):
    """Directions (N,), and the velocity in x and y, each (N, 1, 1), per frame."""
    direction = _balanced(count, len(DIRECTIONS), generator)
    angle = direction[:, None, None] * (2 * math.pi / len(DIRECTIONS))
    speed = between(2 / 64, 6 / 64, count, 1, 1, generator=generator)  # the image is 2 wide
    return direction, (speed * angle.cos(), speed * angle.sin())


def _ink(scenes, size, moved):
    """(N, S, S): 1 inside the shape and 0 outside, with an edge about a pixel wide. moved: how far it has moved, in x and y."""
    # Where each pixel lies in the shape's own coordinates: centre 0, reach 1
    y, x = torch.meshgrid(_axis(size), _axis(size), indexing="ij")  # (S, S)
    x = (x - (scenes.centre[0] + moved[0])) / scenes.scale  # (N, S, S)
    y = (y - (scenes.centre[1] + moved[1])) / scenes.scale
    cos, sin = scenes.angle.cos(), scenes.angle.sin()
    x, y = x * cos + y * sin, y * cos - x * sin
    distance = torch.empty(len(scenes.labels), size, size)  # in the shape's units, negative inside
    for label, outline in enumerate(OUTLINES.values()):
        mine = scenes.labels == label
        distance[mine] = outline(x[mine], y[mine])
    return torch.sigmoid(-distance * scenes.scale * size)


def _draw_bar(count, size, generator):
    """A thin bar across each image: its ink (N, 1, S, S), as in `_ink`, and its colour (N, 3, 1, 1)."""

    def uniform(low, high, *shape):
        return between(low, high, count, *shape, generator=generator)

    angle, place, width = uniform(0, math.pi, 1, 1), uniform(-0.5, 0.5, 1, 1), uniform(0.06, 0.14, 1, 1)
    axis = _axis(size)
    distance = (axis * angle.cos() + axis[:, None] * angle.sin() - place).abs() - width
    return torch.sigmoid(-distance * size)[:, None], uniform(0, 1, 3, 1, 1)


def _paint(scenes, ink, generator, front=()):
    """uint8 (N, 3, S, S): the shape on its background, with a little noise over everything. front: bars, with clutter."""
    shape = torch.lerp(scenes.back, scenes.fore, 0.6) if front else scenes.fore
    image = torch.lerp(scenes.back + scenes.slope, shape, ink[:, None])
    for bar, colour in front:
        image = torch.lerp(image, colour, bar)
    image += torch.randn(image.shape, generator=generator) * (0.08 if front else 0.04)
    return (image.clamp_(0, 1) * 255).to(torch.uint8)


def tight_boxes(inside):
    """(..., H, W), bool -> (..., 4), float32: x1, y1, x2, y2 of the smallest box, or -1 if nothing is inside."""
    H, W = inside.shape[-2:]
    columns, rows = inside.any(-2).byte(), inside.any(-1).byte()  # (..., W), (..., H)
    x1, y1 = columns.argmax(-1), rows.argmax(-1)  # the first column and row that are not empty
    x2, y2 = W - columns.flip(-1).argmax(-1), H - rows.flip(-1).argmax(-1)
    boxes = torch.stack([x1, y1, x2, y2], dim=-1).float()
    return boxes.where(inside.any(-1).any(-1, keepdim=True), -1.0)
