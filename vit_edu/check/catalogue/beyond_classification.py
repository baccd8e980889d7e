"""Lesson 11: the exercises of its four parts, each of which has a module of its own."""

from vit_edu.check.catalogue import detection, segmentation, video, windows
from vit_edu.check.engine import Exercise

PARTS = (windows, segmentation, detection, video)

globals().update(
    {
        exercise.name: exercise
        for part in PARTS
        for exercise in vars(part).values()
        if isinstance(exercise, Exercise)
    }
)
