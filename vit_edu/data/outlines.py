"""The outlines of the generated shapes, as signed distances that are negative inside."""

import math

import torch


def _box(x, y, width, height):
    return torch.maximum(x.abs() - width, y.abs() - height)


def _star(x, y):
    # Five equal sectors, 0 between two tips
    turn = torch.atan2(x, -y) % (2 * math.pi / 5) - math.pi / 5
    return torch.hypot(x, y) * (1 + 0.75 * (1 - turn.abs() / (math.pi / 5))) - 1


# One formula per class, in label order. The shape's centre is 0, its reach is 1, and y points down.
OUTLINES = {
    "circle": lambda x, y: torch.hypot(x, y) - 0.9,
    "ring": lambda x, y: (torch.hypot(x, y) - 0.72).abs() - 0.2,
    "square": lambda x, y: _box(x, y, 0.8, 0.8),
    "frame": lambda x, y: _box(x, y, 0.66, 0.66).abs() - 0.17,
    "triangle": lambda x, y: torch.maximum(0.87 * x.abs() - 0.5 * (y + 0.9), y - 0.65),
    "plus": lambda x, y: torch.minimum(_box(x, y, 0.9, 0.28), _box(x, y, 0.28, 0.9)),
    "star": _star,
    "crescent": lambda x, y: torch.maximum(torch.hypot(x, y) - 0.9, 0.75 - torch.hypot(x - 0.45, y)),
    "bar": lambda x, y: _box(x, y, 1.0, 0.3),
    "heart": lambda x, y: torch.hypot(x, y - 0.1 + 0.75 * x.abs().sqrt() * 0.9) - 0.78,
}
SHAPES = tuple(OUTLINES)
