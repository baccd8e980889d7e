"""Lesson 01: patches and back, patches as a convolution, overlapping patches."""

import torch
import torch.nn.functional as F
from einops import rearrange

from vit_edu.check.cases import Case, call
from vit_edu.check.engine import Exercise
from vit_edu.models import vit


def _numbered(*shape):
    """An image batch in which every number is different, so that no two orders look alike."""
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float32).reshape(shape)


# ---------------------------------------------------------------- patchify

patchify = Exercise(
    vit.patchify,
    call("one 4 x 4 grey image in 2 x 2 patches", _numbered(1, 1, 4, 4), 2),
    call(
        "three colour channels",
        _numbered(1, 3, 4, 4),
        2,
        hint="Inside a patch, the channels of a pixel stand side by side.",
    ),
    call(
        "a batch of 2",
        _numbered(2, 3, 8, 8),
        4,
        hint="Image 0 must stay in row 0 of the result, image 1 in row 1.",
    ),
    call("an image that is wider than high", _numbered(2, 3, 4, 12), 2),
    call("five channels, patches of 3 x 3", _numbered(1, 5, 6, 9), 3),
)


@patchify.alternative
def reshape_permute(images, patch_size):
    B, C, H, W = images.shape
    P = patch_size
    x = images.reshape(B, C, H // P, P, W // P, P)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, (H // P) * (W // P), P * P * C)


@patchify.alternative
def unfold(images, patch_size):
    C, P = images.shape[1], patch_size
    x = F.unfold(images.float(), P, stride=P)  # (B, C*P*P, N), channels first inside a patch
    return rearrange(x, "b (c p q) n -> b n (p q c)", c=C, p=P).to(images.dtype)


@patchify.alternative
def loops(images, patch_size):
    P = patch_size
    H, W = images.shape[-2:]
    corners = [(i, j) for i in range(0, H, P) for j in range(0, W, P)]
    return torch.stack(
        [images[:, :, i : i + P, j : j + P].permute(0, 2, 3, 1).flatten(1) for i, j in corners],
        dim=1,
    )


@patchify.mistake(
    "The shape is right, but the pixels were only counted off in memory order: this is a reshape where a permute is "
    "needed. A 'patch' here is a strip of pixels, not a square. Draw one and see."
)
def reshape_only(images, patch_size):
    return images.reshape(len(images), -1, patch_size**2 * images.shape[1])


@patchify.mistake(
    "The patches are right, but inside each one the channels come first: all reds, then all greens, then all blues. "
    "The exercise wants the channels of a pixel side by side."
)
def channels_first(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b (r s) (c p q)", p=patch_size, q=patch_size)


@patchify.mistake(
    "The patches are numbered down the columns. Reading order goes along a row first, then to the next row."
)
def column_order(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b (s r) (p q c)", p=patch_size, q=patch_size)


@patchify.mistake(
    "Every patch is mirrored at its diagonal: rows and columns of pixels are exchanged inside the patch. "
    "Which of the two P axes should come first?"
)
def transposed_inside(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b (r s) (q p c)", p=patch_size, q=patch_size)


@patchify.mistake(
    "This takes every n-th pixel instead of neighbouring ones: each result is a small copy of the whole image. "
    "When H is split in two, the first part counts patches and the second counts pixels in a patch."
)
def strided(images, patch_size):
    r, s = (n // patch_size for n in images.shape[-2:])
    return rearrange(images, "b c (p r) (q s) -> b (r s) (p q c)", r=r, s=s)


@patchify.mistake(
    "The patches of all images lie in one row: the batch axis is gone. The result must be (B, N, P*P*C)."
)
def batch_lost(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> (b r s) (p q c)", p=patch_size, q=patch_size)


# ---------------------------------------------------------------- unpatchify


def _cut(*shape, P):
    return vit.patchify(_numbered(*shape), P), P, shape[-2:]


unpatchify = Exercise(
    vit.unpatchify,
    call("one 4 x 4 grey image in 2 x 2 patches", *_cut(1, 1, 4, 4, P=2)),
    call("three colour channels", *_cut(1, 3, 4, 4, P=2)),
    call("a batch of 2", *_cut(2, 3, 8, 8, P=4)),
    call("an image that is wider than high", *_cut(2, 3, 4, 12, P=2)),
    call("an image that is higher than wide, five channels", *_cut(1, 5, 9, 6, P=3)),
)


@unpatchify.alternative
def permute_back(patches, patch_size, image_size):
    (H, W), P = image_size, patch_size
    B, _, size = patches.shape
    x = patches.reshape(B, H // P, W // P, P, P, size // P**2)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, size // P**2, H, W)


@unpatchify.alternative
def fold(patches, patch_size, image_size):
    x = rearrange(patches, "b n (k c) -> b (c k) n", k=patch_size**2)
    return F.fold(x, tuple(image_size), patch_size, stride=patch_size)


@unpatchify.mistake(
    "The numbers were poured back in memory order. Undo the steps of `patchify` one by one, in reverse: split the axes "
    "apart, permute, and only then merge."
)
def reshape_back(patches, patch_size, image_size):
    return patches.reshape(len(patches), -1, *image_size)


@unpatchify.mistake(
    "The channels are read as if they came first inside a patch. In `patchify` they stand side by side for each pixel."
)
def channels_first_back(patches, patch_size, image_size):
    r, s = (n // patch_size for n in image_size)
    return rearrange(
        patches, "b (r s) (c p q) -> b c (r p) (s q)", r=r, s=s, p=patch_size, q=patch_size
    )


@unpatchify.mistake(
    "The image is turned over its diagonal or its patches stand in columns: rows and columns of the grid are exchanged."
)
def grid_exchanged(patches, patch_size, image_size):
    r, s = (n // patch_size for n in image_size)
    return rearrange(
        patches, "b (s r) (p q c) -> b c (r p) (s q)", r=r, s=s, p=patch_size, q=patch_size
    )


# ---------------------------------------------------------------- patches as a convolution


def _weight_case(name, P, C, hint=""):
    def run(candidate):
        weight = candidate(P, C)
        return weight.detach() if isinstance(weight, torch.Tensor) else weight

    return Case(name, run, hint)


def _conv_case(name, *shape, P):
    def run(candidate):
        # (B, PPC, H/P, W/P)
        out = F.conv2d(_numbered(*shape), candidate(P, shape[1]).detach(), stride=P)
        return out.flatten(2).transpose(1, 2)

    return Case(name, run, "Output channel k should carry element k of the flattened patch.")


patch_conv_weight = Exercise(
    vit.patch_conv_weight,
    _weight_case("the weight for 2 x 2 patches, one channel", 2, 1),
    _weight_case("the weight for 2 x 2 patches, three channels", 2, 3),
    _conv_case("convolving equals patchify, 4 x 4 patches", 2, 3, 8, 8, P=4),
    _conv_case("convolving equals patchify, wide image", 1, 2, 3, 9, P=3),
)


@patch_conv_weight.alternative
def one_by_one(patch_size, channels):
    P, C = patch_size, channels
    weight = torch.zeros(P * P * C, C, P, P)
    for p in range(P):
        for q in range(P):
            for c in range(C):
                weight[(p * P + q) * C + c, c, p, q] = 1
    return weight


@patch_conv_weight.mistake(
    "The ones are in the order channels, rows, columns. That is the order of a plain reshape of the identity; "
    "`patchify` has rows, columns, channels."
)
def weight_channels_first(patch_size, channels):
    size = patch_size**2 * channels
    return torch.eye(size).reshape(size, channels, patch_size, patch_size)


@patch_conv_weight.mistake(
    "Rows and columns are exchanged inside the kernel: every patch comes out mirrored at its diagonal."
)
def weight_transposed(patch_size, channels):
    return rearrange(
        torch.eye(patch_size**2 * channels), "k (p q c) -> k c q p", p=patch_size, q=patch_size
    )


# ---------------------------------------------------------------- overlapping patches

overlapping_patches = Exercise(
    vit.overlapping_patches,
    call("4 x 4 grey image, 2 x 2 patches, one pixel apart", _numbered(1, 1, 4, 4), 2, 1),
    call("three channels, 4 x 4 patches, two pixels apart", _numbered(2, 3, 8, 8), 4, 2),
    call("wider than high, 3 x 3 patches, two apart", _numbered(1, 2, 5, 9), 3, 2),
    call("stride equal to the patch size is patchify", _numbered(2, 3, 8, 8), 4, 4),
    call("what does not fill a patch at the border is left out", _numbered(1, 1, 7, 7), 3, 3),
)


@overlapping_patches.alternative
def with_unfold(images, patch_size, stride):
    x = F.unfold(images, patch_size, stride=stride)
    return rearrange(x, "b (c k) n -> b n (k c)", c=images.shape[1])


@overlapping_patches.alternative
def with_convolution(images, patch_size, stride):
    weight = vit.patch_conv_weight(patch_size, images.shape[1])
    return F.conv2d(images, weight, stride=stride).flatten(2).transpose(1, 2)


@overlapping_patches.mistake(
    "The patches do not overlap: they are a whole patch apart. Their corners should be `stride` pixels apart."
)
def no_overlap(images, patch_size, stride):
    return overlapping_patches.reference(images, patch_size, patch_size)


@overlapping_patches.mistake(
    "The windows are right, but inside each the channels come first: this is the order of `F.unfold`. "
    "The exercise wants that of `patchify`: the channels of a pixel side by side."
)
def unfold_order(images, patch_size, stride):
    return F.unfold(images, patch_size, stride=stride).transpose(1, 2)


@overlapping_patches.mistake(
    "Patch size and stride are exchanged: the patches are `stride` pixels wide and `patch_size` pixels apart."
)
def exchanged(images, patch_size, stride):
    return overlapping_patches.reference(images, stride, patch_size)


EXERCISES = [patchify, unpatchify, patch_conv_weight, overlapping_patches]
