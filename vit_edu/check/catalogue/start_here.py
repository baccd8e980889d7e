"""Lesson 00: how an exercise answers."""

from vit_edu.check.cases import call
from vit_edu.check.engine import Exercise
from vit_edu.check.probes import Sizes


def _count_patches(height, width, patch_size):
    return (height // patch_size) * (width // patch_size)


def _count_case(image_height, image_width, patch):
    if patch == 1 or image_height % patch or image_width % patch:
        raise ValueError(
            "with single pixels, wrong answers are right, and what does not fit is not asked for"
        )
    return call("", image_height, image_width, patch)


count_patches = Exercise(
    _count_patches,
    call("a 32 x 32 image in 4 x 4 patches", 32, 32, 4),
    call("a 224 x 224 image in 16 x 16 patches", 224, 224, 16),
    call("an image that is wider than high, 32 x 64, in 8 x 8 patches", 32, 64, 8),
    call("an image that is higher than wide, 48 x 16, in 4 x 4 patches", 48, 16, 4),
    name="count_patches",
    sizes=Sizes(
        _count_case,
        image_height=(48, 96, 32, 224, 28),
        image_width=(80, 112, 32, 224, 28),
        patch=(2, 8, 4, 16, 7),
    ),
)

count_patches.add_mistakes(
    one_side=lambda height, width, patch_size: height // patch_size,
    one_row=lambda height, width, patch_size: width // patch_size,
    area_by_side=lambda height, width, patch_size: height * width // patch_size,
    parentheses_missing=lambda height, width, patch_size: height * width // patch_size * patch_size,
    added=lambda height, width, patch_size: height // patch_size + width // patch_size,
    as_float=lambda height, width, patch_size: height / patch_size * (width / patch_size),
    square_only=lambda height, width, patch_size: (height // patch_size) ** 2,
    square_of_the_width=lambda height, width, patch_size: (width // patch_size) ** 2,
    every_position=lambda height, width, patch_size: (height - patch_size + 1) * (width - patch_size + 1),
    one_more_each_way=lambda height, width, patch_size: (
        (height // patch_size + 1) * (width // patch_size + 1)
    ),
    one_fewer_each_way=lambda height, width, patch_size: (
        (height // patch_size - 1) * (width // patch_size - 1)
    ),
    class_token_counted=lambda height, width, patch_size: (height // patch_size) * (width // patch_size) + 1,
    rows_and_columns=lambda height, width, patch_size: (height // patch_size, width // patch_size),
)


@count_patches.mistake
def nothing_returned(height, width, patch_size):
    print((height // patch_size) * (width // patch_size))
