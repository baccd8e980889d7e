"""Lesson 00: how an exercise answers."""

from vit_edu.check.cases import call
from vit_edu.check.engine import Exercise


def _count_patches(height, width, patch_size):
    return (height // patch_size) * (width // patch_size)


count_patches = Exercise(
    _count_patches,
    call("a 32 x 32 image in 4 x 4 patches", 32, 32, 4),
    call("a 224 x 224 image in 16 x 16 patches", 224, 224, 16),
    call("an image that is wider than high, 32 x 64, in 8 x 8 patches", 32, 64, 8),
    call("an image that is higher than wide, 48 x 16, in 4 x 4 patches", 48, 16, 4),
    name="count_patches",
)


@count_patches.alternative
def area(height, width, patch_size):
    return height * width // patch_size**2


@count_patches.mistake(
    "This counts the patches along one side only. An image is cut in both directions: how many rows of patches are "
    "there, and how many in each row?"
)
def one_side(height, width, patch_size):
    return height // patch_size


@count_patches.mistake(
    "This divides the area of the image by the *side* of a patch. A patch covers an area too: how many pixels is that?"
)
def area_by_side(height, width, patch_size):
    return height * width // patch_size


@count_patches.mistake(
    "Rows and columns of patches are added here. A grid of 8 rows with 8 patches each does not have 16 patches."
)
def added(height, width, patch_size):
    return height // patch_size + width // patch_size


@count_patches.mistake(
    "The count is right, but it is a float: `/` gives 64.0. A count is a whole number, and `//` keeps it one."
)
def as_float(height, width, patch_size):
    return height / patch_size * (width / patch_size)


@count_patches.mistake(
    "This takes the image for a square: the height is used for both sides. Look at the case that is wider than high."
)
def square_only(height, width, patch_size):
    return (height // patch_size) ** 2


EXERCISES = [count_patches]
