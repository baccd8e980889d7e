"""Lesson 01: patches and back, patches as a convolution, overlapping patches."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from vit_edu.check.cases import Case, call, in_double, not_contiguous, passes_gradient
from vit_edu.check.engine import Exercise
from vit_edu.check.probes import Sizes, grid
from vit_edu.models import vit


def _numbered(*shape):
    """An image batch in which every number is different, so that no two orders look alike."""
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float32).reshape(shape)


def _bytes(*shape):
    return _numbered(*shape).byte()


_IMAGES = {
    "images": (5, 2, 3, 8, 16),
    "channels": (6, 5, 3),
    "image_height": (48, 96, 32, 28, 8),
    "image_width": (80, 112, 32, 28, 8),
    "patch": (2, 8, 4, 16, 7),
}


def _sizes(case):
    """The sizes of a case that is a function of those in _IMAGES; also in patches instead of pixels, and for square images."""

    def in_patches(patches, patch):
        rows, columns = grid(patches)
        return case(2, 2, rows * patch, columns * patch, patch)

    def of_squares(image_size, patch):
        return case(2, 2, image_size, image_size, patch)

    return (
        Sizes(case, **_IMAGES),
        Sizes(in_patches, patches=(15, 24, 64, 49, 16, 4, 196), patch=(2, 5, 4, 8)),
        Sizes(of_squares, image_size=(48, 96, 32, 28, 224, 8), patch=(2, 8, 4)),
    )


# The next cells of the lesson pass a photograph as it comes.
_as_bytes = "a photograph as it comes: bytes (uint8) in, bytes out"


# ---------------------------------------------------------------- patchify


def _patchify_case(images, channels, image_height, image_width, patch):
    return call("", _numbered(images, channels, image_height, image_width), patch)


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
    call(
        _as_bytes,
        _bytes(1, 3, 4, 6),
        2,
        hint="Cutting only moves numbers: it should work for every dtype, and keep it.",
    ),
    in_double(_numbered(1, 2, 4, 6), 2, asked=True),
    not_contiguous(_numbered(2, 3, 4, 6), 2),
    passes_gradient(_numbered(1, 2, 4, 6), 2),
    sizes=_sizes(_patchify_case),
)


def _without_the_last(images, patch_size, rows=0, cols=0):
    """The patches without the last rows or columns of the grid; if nothing is left, torch.stack([]) is what raises."""
    H, W = images.shape[2] - rows * patch_size, images.shape[3] - cols * patch_size
    return vit.patchify(images[:, :, :H, :W], patch_size) if H and W else torch.stack([])


patchify.add_mistakes(
    reshape_only=lambda images, patch_size: images.reshape(len(images), -1, patch_size**2 * images.shape[1]),
    channels_first=lambda images, patch_size: rearrange(
        images, "b c (r p) (s q) -> b (r s) (c p q)", p=patch_size, q=patch_size
    ),
    order_of_f_unfold=lambda images, patch_size: F.unfold(images, patch_size, stride=patch_size).transpose(
        1, 2
    ),
    patches_as_columns=lambda images, patch_size: F.unfold(images, patch_size, stride=patch_size),
    column_order=lambda images, patch_size: rearrange(
        images, "b c (r p) (s q) -> b (s r) (p q c)", p=patch_size, q=patch_size
    ),
    transposed_inside=lambda images, patch_size: rearrange(
        images, "b c (r p) (s q) -> b (r s) (q p c)", p=patch_size, q=patch_size
    ),
    batch_lost=lambda images, patch_size: rearrange(
        images, "b c (r p) (s q) -> (b r s) (p q c)", p=patch_size, q=patch_size
    ),
    grid_kept=lambda images, patch_size: rearrange(
        images, "b c (r p) (s q) -> b r s (p q c)", p=patch_size, q=patch_size
    ),
    pixels_kept=lambda images, patch_size: rearrange(
        images, "b c (r p) (s q) -> b (r s) p q c", p=patch_size, q=patch_size
    ),
    batch_second=lambda images, patch_size: vit.patchify(images, patch_size).transpose(0, 1),
    first_image_for_all=lambda images, patch_size: vit.patchify(images[:1].expand_as(images), patch_size),
    first_image_alone=lambda images, patch_size: vit.patchify(images[:1], patch_size),
    last_column_missing=lambda images, patch_size: _without_the_last(images, patch_size, cols=1),
    last_row_missing=lambda images, patch_size: _without_the_last(images, patch_size, rows=1),
    last_of_both_missing=lambda images, patch_size: _without_the_last(images, patch_size, rows=1, cols=1),
    transposed_result=lambda images, patch_size: vit.patchify(images, patch_size).mT,
    patches_reversed=lambda images, patch_size: vit.patchify(images, patch_size).flip(1),
    channels_reversed=lambda images, patch_size: vit.patchify(images.flip(1), patch_size),
    images_reversed=lambda images, patch_size: vit.patchify(images.flip(0), patch_size),
    always_float32=lambda images, patch_size: vit.patchify(images, patch_size).float(),
    cut_off_from_gradient=lambda images, patch_size: vit.patchify(images.detach(), patch_size),
)


@patchify.mistake
def channels_moved_then_reshape(images, patch_size):
    P, C = patch_size, images.shape[1]
    return images.permute(0, 2, 3, 1).reshape(len(images), -1, P * P * C)


@patchify.mistake
def unfold_without_permute(images, patch_size):
    P, C = patch_size, images.shape[1]
    return images.unfold(2, P, P).unfold(3, P, P).reshape(len(images), -1, P * P * C)


@patchify.mistake
def left_square(images, patch_size):
    corners = range(0, images.shape[2], patch_size)
    patches = [
        images[:, :, i : i + patch_size, j : j + patch_size].movedim(1, -1).flatten(1)
        for i in corners
        for j in corners
    ]
    return torch.stack(patches, dim=1)


@patchify.mistake
def strided(images, patch_size):
    r, s = (n // patch_size for n in images.shape[-2:])
    return rearrange(images, "b c (p r) (q s) -> b (r s) (p q c)", r=r, s=s)


@patchify.mistake
def square_images_only(images, patch_size):
    B, C, H, _ = images.shape
    P, n = patch_size, H // patch_size
    x = images.reshape(B, C, n, P, n, P)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, n * n, P * P * C)


@patchify.mistake
def three_channels_only(images, patch_size):
    B, _, H, W = images.shape
    P = patch_size
    x = images.reshape(B, 3, H // P, P, W // P, P)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, -1, P * P * 3)


@patchify.mistake
def bytes_refused(images, patch_size):
    x = F.unfold(images, patch_size, stride=patch_size)
    return rearrange(x, "b (c k) n -> b n (k c)", k=patch_size**2)


# ---------------------------------------------------------------- unpatchify


def _cut(*shape, P, dtype=torch.float32):
    return vit.patchify(_numbered(*shape).to(dtype), P), P, shape[-2:]


def _unpatchify_case(images, channels, image_height, image_width, patch):
    return call("", *_cut(images, channels, image_height, image_width, P=patch))


unpatchify = Exercise(
    vit.unpatchify,
    call("one 4 x 4 grey image in 2 x 2 patches", *_cut(1, 1, 4, 4, P=2)),
    call("three colour channels", *_cut(1, 3, 4, 4, P=2)),
    call("a batch of 2", *_cut(2, 3, 8, 8, P=4)),
    call("an image that is wider than high", *_cut(2, 3, 4, 12, P=2)),
    call("an image that is higher than wide, five channels", *_cut(1, 5, 9, 6, P=3)),
    call(
        _as_bytes,
        *_cut(1, 3, 4, 6, P=2, dtype=torch.uint8),
        hint="Putting together only moves numbers: it should work for every dtype, and keep it.",
    ),
    in_double(*_cut(1, 2, 4, 6, P=2), asked=True),
    not_contiguous(*_cut(2, 3, 4, 6, P=2)),
    passes_gradient(*_cut(1, 2, 4, 6, P=2)),
    sizes=_sizes(_unpatchify_case),
)

unpatchify.add_mistakes(
    reshape_back=lambda patches, patch_size, image_size: patches.reshape(len(patches), -1, *image_size),
    order_of_f_fold=lambda patches, patch_size, image_size: F.fold(
        patches.transpose(1, 2), tuple(image_size), patch_size, stride=patch_size
    ),
    width_first=lambda patches, patch_size, image_size: vit.unpatchify(
        patches, patch_size, tuple(image_size)[::-1]
    ),
    channels_left_last=lambda patches, patch_size, image_size: vit.unpatchify(
        patches, patch_size, image_size
    ).permute(0, 2, 3, 1),
    first_image_back=lambda patches, patch_size, image_size: vit.unpatchify(
        patches[:1].expand_as(patches), patch_size, image_size
    ),
    detached_back=lambda patches, patch_size, image_size: vit.unpatchify(
        patches.detach(), patch_size, image_size
    ),
    float32_back=lambda patches, patch_size, image_size: vit.unpatchify(
        patches, patch_size, image_size
    ).float(),
)


@unpatchify.mistake
def half_a_permute(patches, patch_size, image_size):
    (H, W), P = image_size, patch_size
    x = patches.reshape(len(patches), H // P, W // P, P, P, -1)
    return x.permute(0, 5, 1, 2, 3, 4).reshape(len(patches), -1, H, W)


@unpatchify.mistake
def channels_first_back(patches, patch_size, image_size):
    r, s = (n // patch_size for n in image_size)
    return rearrange(patches, "b (r s) (c p q) -> b c (r p) (s q)", r=r, s=s, p=patch_size, q=patch_size)


@unpatchify.mistake
def grid_exchanged(patches, patch_size, image_size):
    r, s = (n // patch_size for n in image_size)
    return rearrange(patches, "b (s r) (p q c) -> b c (r p) (s q)", r=r, s=s, p=patch_size, q=patch_size)


@unpatchify.mistake
def pixels_exchanged(patches, patch_size, image_size):
    r, s = (n // patch_size for n in image_size)
    return rearrange(patches, "b (r s) (q p c) -> b c (r p) (s q)", r=r, s=s, p=patch_size, q=patch_size)


@unpatchify.mistake
def spread_out(patches, patch_size, image_size):
    r, s = (n // patch_size for n in image_size)
    return rearrange(patches, "b (r s) (p q c) -> b c (p r) (q s)", r=r, s=s, p=patch_size, q=patch_size)


@unpatchify.mistake
def square_grid_only(patches, patch_size, image_size):
    B, N, size = patches.shape
    n, P = int(N**0.5), patch_size
    x = patches.reshape(B, n, n, P, P, size // P**2)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, -1, n * P, n * P)


@unpatchify.mistake
def three_channels_back(patches, patch_size, image_size):
    (H, W), P = image_size, patch_size
    x = patches.reshape(len(patches), H // P, W // P, P, P, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, H, W)


# ---------------------------------------------------------------- patches as a convolution


def _weight(candidate, P, C):
    weight = candidate(P, C)
    return weight.detach() if isinstance(weight, torch.Tensor) else weight


def _weight_case(name, P, C, hint=""):
    return Case(name, lambda candidate: _weight(candidate, P, C), hint)


def _conv_case(name, *shape, P):
    def run(candidate):
        weight = _weight(candidate, P, shape[1])
        if not isinstance(weight, torch.Tensor):
            return weight
        # (B, PPC, H/P, W/P)
        out = F.conv2d(_numbered(*shape), weight, stride=P)
        return out.flatten(2).transpose(1, 2)

    return Case(name, run, "Output channel k should carry element k of the flattened patch.")


patch_conv_weight = Exercise(
    vit.patch_conv_weight,
    _weight_case("the weight for 2 x 2 patches, one channel", 2, 1),
    _weight_case("the weight for 2 x 2 patches, three channels", 2, 3),
    _conv_case("convolving equals patchify, 4 x 4 patches", 2, 3, 8, 8, P=4),
    _conv_case("convolving equals patchify, wide image", 1, 2, 3, 9, P=3),
    _weight_case("patches of a single pixel, two channels", 1, 2),
    sizes=Sizes(
        lambda patch, channels: _weight_case("", patch, channels),
        patch=(5, 2, 4, 3, 8),
        channels=(2, 6, 3, 4),
    ),
)

patch_conv_weight.add_mistakes(
    weight_transposed=lambda patch_size, channels: rearrange(
        torch.eye(patch_size**2 * channels), "k (p q c) -> k c q p", p=patch_size, q=patch_size
    ),
    kernel_flipped=lambda patch_size, channels: vit.patch_conv_weight(patch_size, channels).flip(-2, -1),
    in_and_out_exchanged=lambda patch_size, channels: vit.patch_conv_weight(patch_size, channels).transpose(
        0, 1
    ),
    not_reshaped=lambda patch_size, channels: torch.eye(patch_size**2 * channels),
    all_ones=lambda patch_size, channels: torch.ones_like(vit.patch_conv_weight(patch_size, channels)),
    one_output_too_late=lambda patch_size, channels: F.pad(
        vit.patch_conv_weight(patch_size, channels), (0, 0, 0, 0, 0, 0, 1, 0)
    )[:-1],
    whole_numbers=lambda patch_size, channels: vit.patch_conv_weight(patch_size, channels).long(),
    divided_by_pixels=lambda patch_size, channels: (
        vit.patch_conv_weight(patch_size, channels) / patch_size**2
    ),
)


@patch_conv_weight.mistake
def weight_channels_first(patch_size, channels):
    size = patch_size**2 * channels
    return torch.eye(size).reshape(size, channels, patch_size, patch_size)


@patch_conv_weight.mistake
def weight_channels_last(patch_size, channels):
    size = patch_size**2 * channels
    return torch.eye(size).reshape(size, patch_size, patch_size, channels)


@patch_conv_weight.mistake
def channels_added_up(patch_size, channels):
    weight = torch.eye(patch_size**2).reshape(-1, 1, patch_size, patch_size)
    return repeat(weight, "k 1 p q -> (k d) c p q", c=channels, d=channels)


@patch_conv_weight.mistake
def first_channel_only(patch_size, channels):
    weight = torch.zeros(patch_size**2 * channels, channels, patch_size, patch_size)
    pixels = torch.eye(patch_size**2).reshape(-1, patch_size, patch_size)
    weight[:, 0] = pixels.repeat_interleave(channels, dim=0)
    return weight


@patch_conv_weight.mistake
def one_kernel_a_pixel(patch_size, channels):
    weight = torch.eye(patch_size**2).reshape(-1, 1, patch_size, patch_size)
    return weight.repeat(1, channels, 1, 1)


# ---------------------------------------------------------------- overlapping patches

overlapping_patches = Exercise(
    vit.overlapping_patches,
    call("4 x 4 grey image, 2 x 2 patches, one pixel apart", _numbered(1, 1, 4, 4), 2, 1),
    call("three channels, 4 x 4 patches, two pixels apart", _numbered(2, 3, 8, 8), 4, 2),
    call("wider than high, 3 x 3 patches, two apart", _numbered(1, 2, 5, 9), 3, 2),
    call("stride equal to the patch size is patchify", _numbered(2, 3, 8, 8), 4, 4),
    call("what does not fill a patch at the border is left out", _numbered(1, 1, 7, 7), 3, 3),
    call(
        _as_bytes,
        _bytes(1, 3, 4, 6),
        2,
        1,
        hint="Cutting only moves numbers: it should work for every dtype, and keep it.",
    ),
    in_double(_numbered(1, 2, 4, 5), 2, 1, asked=True),
    not_contiguous(_numbered(2, 3, 4, 5), 2, 1),
    passes_gradient(
        _numbered(1, 2, 4, 5),
        2,
        1,
        hint="A pixel that lies in several patches gets a gradient from each of them.",
    ),
    sizes=Sizes(
        lambda images, channels, image_height, image_width, patch, stride: call(
            "", _numbered(images, channels, image_height, image_width), patch, stride
        ),
        images=(5, 2, 3, 8),
        channels=(7, 5, 3),
        image_height=(18, 21, 32, 8),
        image_width=(13, 12, 32, 8),
        patch=(6, 5, 4, 8, 2),
        stride=(2, 3, 4),
    ),
)

overlapping_patches.add_mistakes(
    no_overlap=lambda images, patch_size, stride: overlapping_patches.reference(
        images, patch_size, patch_size
    ),
    unfold_order=lambda images, patch_size, stride: F.unfold(images, patch_size, stride=stride).transpose(
        1, 2
    ),
    cut_off=lambda images, patch_size, stride: overlapping_patches.reference(
        images.detach(), patch_size, stride
    ),
    float32_windows=lambda images, patch_size, stride: overlapping_patches.reference(
        images.float(), patch_size, stride
    ),
    first_image_windows=lambda images, patch_size, stride: overlapping_patches.reference(
        images[:1].expand_as(images), patch_size, stride
    ),
    exchanged=lambda images, patch_size, stride: overlapping_patches.reference(images, stride, patch_size),
)


@overlapping_patches.mistake
def places_kept(images, patch_size, stride):
    x = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
    return rearrange(x, "b c r s p q -> b r s (p q c)")


@overlapping_patches.mistake
def overlap_in_one_direction(images, patch_size, stride):
    x = images.unfold(2, patch_size, stride).unfold(3, patch_size, patch_size)
    return rearrange(x, "b c r s p q -> b (r s) (p q c)")


@overlapping_patches.mistake
def windows_without_permute(images, patch_size, stride):
    x = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
    return x.reshape(len(x), -1, patch_size**2 * images.shape[1])


@overlapping_patches.mistake
def channels_before_pixels(images, patch_size, stride):
    x = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
    return rearrange(x, "b c r s p q -> b (r s) (c p q)")


@overlapping_patches.mistake
def windows_transposed(images, patch_size, stride):
    x = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
    return rearrange(x, "b c r s p q -> b (r s) (q p c)")


@overlapping_patches.mistake
def windows_in_columns(images, patch_size, stride):
    x = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
    return rearrange(x, "b c r s p q -> b (s r) (p q c)")


@overlapping_patches.mistake
def last_window_missing(images, patch_size, stride):
    H, W = images.shape[-2:]
    patches = [
        images[:, :, i : i + patch_size, j : j + patch_size].movedim(1, -1).flatten(1)
        for i in range(0, H - patch_size, stride)
        for j in range(0, W - patch_size, stride)
    ]
    return torch.stack(patches or [images.flatten(1)], dim=1)


@overlapping_patches.mistake
def starts_everywhere(images, patch_size, stride):
    H, W = images.shape[-2:]
    padded = F.pad(images, (0, patch_size, 0, patch_size))
    patches = [
        padded[:, :, i : i + patch_size, j : j + patch_size].movedim(1, -1).flatten(1)
        for i in range(0, H, stride)
        for j in range(0, W, stride)
    ]
    return torch.stack(patches, dim=1)


@overlapping_patches.mistake
def places_of_a_square(images, patch_size, stride):
    H = images.shape[2]
    return overlapping_patches.reference(images[..., :H], patch_size, stride)


@overlapping_patches.mistake
def border_padded(images, patch_size, stride):
    down, right = (-(side - patch_size) % stride for side in images.shape[-2:])
    return overlapping_patches.reference(F.pad(images, (0, right, 0, down)), patch_size, stride)


@overlapping_patches.mistake
def windows_of_floats_only(images, patch_size, stride):
    x = F.unfold(images, patch_size, stride=stride)
    return rearrange(x, "b (c k) n -> b n (k c)", c=images.shape[1])


@overlapping_patches.mistake
def convolution_in_float32_only(images, patch_size, stride):
    weight = vit.patch_conv_weight(patch_size, images.shape[1])
    return F.conv2d(images, weight, stride=stride).flatten(2).transpose(1, 2)
