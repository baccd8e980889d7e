"""Lesson 00: how an exercise answers."""

import math

import torch

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
    hints=(
        "How many patches fit along the height of the image? And along its width?",
        "The patches form a grid: rows of patches times patches in a row. `//` divides and gives a whole number.",
        "`rows = ... // patch_size`, the same for the columns, then `return ... * ...`",
    ),
)


@count_patches.alternative
def area(height, width, patch_size):
    return height * width // patch_size**2


@count_patches.alternative
def counted_one_by_one(height, width, patch_size):
    count = 0
    for _ in range(0, height, patch_size):
        for _ in range(0, width, patch_size):
            count += 1
    return count


@count_patches.alternative
def length_of_ranges(height, width, patch_size):
    return math.prod(len(range(0, side, patch_size)) for side in (height, width))


@count_patches.alternative
def made_whole_at_the_end(height, width, patch_size):
    return int(height / patch_size * width / patch_size)


@count_patches.alternative
def cut_an_empty_image(height, width, patch_size):
    windows = torch.zeros(height, width).unfold(0, patch_size, patch_size)
    return windows.unfold(1, patch_size, patch_size)[..., 0, 0].numel()


@count_patches.mistake(
    "This counts the patches along one side only. An image is cut in both directions: how many rows of patches are "
    "there, and how many in each row?",
    talk="Draw an 8 x 8 image in 4 x 4 patches on the board and let the class count the patches.",
)
def one_side(height, width, patch_size):
    return height // patch_size


@count_patches.mistake(
    "This counts the patches of a single row. How many such rows lie below each other?",
    talk="Cover all but the top row of a patch grid with your hand and ask what your code has counted.",
)
def one_row(height, width, patch_size):
    return width // patch_size


@count_patches.mistake(
    "This divides the area of the image by the *side* of a patch. A patch covers an area too: how many pixels is that?",
    talk="Ask for the number of pixels in one 4 x 4 patch: 4 or 16?",
)
def area_by_side(height, width, patch_size):
    return height * width // patch_size


@count_patches.mistake(
    "This gives the number of pixels. Python reads from left to right: `a // p * p` divides and then multiplies again. "
    "Where do the parentheses go?",
    talk="Ask what `12 // 2 * 2` gives, and run it.",
)
def parentheses_missing(height, width, patch_size):
    return height * width // patch_size * patch_size


@count_patches.mistake(
    "Rows and columns of patches are added here. A grid of 8 rows with 8 patches each does not have 16 patches.",
    talk="Ask how many squares a chess board has, and how its two sides give that number.",
)
def added(height, width, patch_size):
    return height // patch_size + width // patch_size


@count_patches.mistake(
    "The count is right, but it is a float: `/` gives 64.0. A count is a whole number, and `//` keeps it one.",
    talk="Run `range(64.0)` and read the error together.",
)
def as_float(height, width, patch_size):
    return height / patch_size * (width / patch_size)


@count_patches.mistake(
    "This takes the image for a square: the height is used for both sides. Look at the case that is wider than high.",
    talk="Ask which of the four checks would still pass, and why a test on square images alone is not enough.",
)
def square_only(height, width, patch_size):
    return (height // patch_size) ** 2


@count_patches.mistake(
    "This takes the image for a square: the width is used for both sides. Look at the case that is higher than wide.",
    talk="Ask for a pair of image sizes that tells this function from the right one, and one that does not.",
)
def square_of_the_width(height, width, patch_size):
    return (width // patch_size) ** 2


@count_patches.mistake(
    "This counts every place where a patch could lie, one pixel apart. Here patches do not overlap: the next one starts "
    "where the last one ends.",
    talk="Slide a sheet of paper over a drawn grid pixel by pixel, then patch by patch, and count both.",
)
def every_position(height, width, patch_size):
    return (height - patch_size + 1) * (width - patch_size + 1)


@count_patches.mistake(
    "This is one too many. The class token is a token, but no patch: it joins the sequence in lesson 02.",
    talk="Ask which part of the image the first of the 197 tokens of a ViT-B/16 comes from.",
)
def class_token_counted(height, width, patch_size):
    return (height // patch_size) * (width // patch_size) + 1


@count_patches.mistake(
    "This returns the rows and the columns of the grid, two numbers. The exercise asks for one: the patches altogether.",
    talk="Ask what a model needs to know about its sequence: the shape of the grid, or its length?",
)
def rows_and_columns(height, width, patch_size):
    return height // patch_size, width // patch_size


@count_patches.mistake(
    "The function gives nothing back. `print` shows a number on the screen; `return` hands it to whoever called.",
    talk="Run `N = count_patches(32, 32, 4)` and then `N + 1` with a function that only prints.",
)
def nothing_returned(height, width, patch_size):
    print((height // patch_size) * (width // patch_size))


EXERCISES = [count_patches]
