"""Lesson 01: patches and back, patches as a convolution, overlapping patches."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from vit_edu.check.cases import Case, call, in_double, not_contiguous, passes_gradient
from vit_edu.check.engine import Exercise
from vit_edu.models import vit


def _numbered(*shape):
    """An image batch in which every number is different, so that no two orders look alike."""
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float32).reshape(shape)


def _bytes(*shape):
    return _numbered(*shape).byte()


# The next cells of the lesson pass a photograph as it comes.
_as_bytes = "a photograph as it comes: bytes (uint8) in, bytes out"


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
    call(
        _as_bytes,
        _bytes(1, 3, 4, 6),
        2,
        hint="Cutting only moves numbers: it should work for every dtype, and keep it.",
    ),
    in_double(_numbered(1, 2, 4, 6), 2),
    not_contiguous(_numbered(2, 3, 4, 6), 2),
    passes_gradient(_numbered(1, 2, 4, 6), 2),
    hints=(
        "Take the 4 x 4 image of the lesson: in the first row of the result, 4 follows 1. Which axes have to change "
        "places for that?",
        "First split H into (rows, P) and W into (cols, P). Then bring the axes into the order in which the result is "
        "read: image, row of patches, patch in the row, then row, column and channel of a pixel. Then merge.",
        "`x = images.reshape(B, C, ..., P, ..., P)`\n`x = x.permute(0, ...)`\n`return x.reshape(B, ..., ...)`",
    ),
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


@patchify.alternative
def tensor_unfold(images, patch_size):
    windows = images.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    return windows.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


@patchify.alternative
def filled_in(images, patch_size):
    B, C, H, W = images.shape
    P = patch_size
    out = images.new_zeros(B, (H // P) * (W // P), P * P * C)
    for n in range(out.shape[1]):
        i, j = n // (W // P) * P, n % (W // P) * P
        out[:, n] = images[:, :, i : i + P, j : j + P].movedim(1, 3).reshape(B, -1)
    return out


@patchify.alternative
def picked_by_index(images, patch_size):
    C, H, W = images.shape[1:]
    places = torch.arange(C * H * W).reshape(C, H, W)
    index = rearrange(places, "c (r p) (s q) -> (r s) (p q c)", p=patch_size, q=patch_size)
    return images.flatten(1)[:, index]


@patchify.mistake(
    "The shape is right, but the pixels were only counted off in memory order: this is a reshape where a permute is "
    "needed. A 'patch' here is a strip of pixels, not a square. Draw one and see.",
    talk="Show the first row, 0 1 2 3, and ask where the pixel with number 4 lies in the image.",
)
def reshape_only(images, patch_size):
    return images.reshape(len(images), -1, patch_size**2 * images.shape[1])


@patchify.mistake(
    "The channels went to the end, and the rest is a plain reshape. For one channel this still gives strips instead of "
    "squares: H and W have to be *split* before anything is merged.",
    talk="Ask what this permute changes in a grey image, and what is then left of the code.",
)
def channels_moved_then_reshape(images, patch_size):
    P, C = patch_size, images.shape[1]
    return images.permute(0, 2, 3, 1).reshape(len(images), -1, P * P * C)


@patchify.mistake(
    "The windows are squares, but they were merged with the channel axis still in front of them: the first patches come "
    "from the first channel alone. With one channel nobody would notice.",
    talk="Ask for the shape right after the two calls of `unfold`, and which axis must not stand at position 1.",
)
def unfold_without_permute(images, patch_size):
    P, C = patch_size, images.shape[1]
    return images.unfold(2, P, P).unfold(3, P, P).reshape(len(images), -1, P * P * C)


@patchify.mistake(
    "The patches are right, but inside each one the channels come first: all reds, then all greens, then all blues. "
    "The exercise wants the channels of a pixel side by side.",
    talk="Ask whether a model would train worse with this order, and then what happens when it gets published weights.",
)
def channels_first(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b (r s) (c p q)", p=patch_size, q=patch_size)


@patchify.mistake(
    "This is the order of `F.unfold`: inside a patch all reds come before all greens. The exercise wants the channels of "
    "a pixel side by side. And `F.unfold` takes no bytes.",
    talk="Print `F.unfold(x, 2, stride=2)[0, :, 0]` for a numbered image with three channels, and find the three reds.",
)
def order_of_f_unfold(images, patch_size):
    return F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)


@patchify.mistake(
    "The last two axes are exchanged: each *column* of the result is a patch. A Transformer reads (B, N, ...), tokens "
    "first. Then look at the order inside a patch, too.",
    talk="Ask which axis of the result lesson 03 will compare with itself: patches or numbers in a patch?",
)
def patches_as_columns(images, patch_size):
    return F.unfold(images, patch_size, stride=patch_size)


@patchify.mistake(
    "The patches are numbered down the columns. Reading order goes along a row first, then to the next row.",
    talk="Number the patches of a 2 x 3 grid on the board in both ways, and ask which one is a line of text.",
)
def column_order(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b (s r) (p q c)", p=patch_size, q=patch_size)


@patchify.mistake(
    "Every patch is mirrored at its diagonal: rows and columns of pixels are exchanged inside the patch. "
    "Which of the two P axes should come first?",
    talk="Cut a photograph with this function, draw the patches apart, and ask what is odd about a face.",
)
def transposed_inside(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b (r s) (q p c)", p=patch_size, q=patch_size)


@patchify.mistake(
    "This takes every n-th pixel instead of neighbouring ones: each result is a small copy of the whole image. "
    "When H is split in two, the first part counts patches and the second counts pixels in a patch.",
    talk="Ask what `arange(6).reshape(2, 3)` and `arange(6).reshape(3, 2)` put into their first rows.",
)
def strided(images, patch_size):
    r, s = (n // patch_size for n in images.shape[-2:])
    return rearrange(images, "b c (p r) (q s) -> b (r s) (p q c)", r=r, s=s)


@patchify.mistake(
    "The patches of all images lie in one row: the batch axis is gone. The result must be (B, N, P*P*C).",
    talk="Ask how a model would know where one image ends and the next begins.",
)
def batch_lost(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> (b r s) (p q c)", p=patch_size, q=patch_size)


@patchify.mistake(
    "This works for square images only: rows and columns of patches are both counted from one side.",
    talk="Ask for the smallest image on which this stops with an error.",
)
def square_images_only(images, patch_size):
    B, C, H, _ = images.shape
    P, n = patch_size, H // patch_size
    x = images.reshape(B, C, n, P, n, P)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, n * n, P * P * C)


@patchify.mistake(
    "The number of channels is fixed at 3. Grey images have one, satellite images more: take it from `images.shape`.",
    talk="Ask which of the numbers in the code were read from the input, and which came from somebody's head.",
)
def three_channels_only(images, patch_size):
    B, _, H, W = images.shape
    P = patch_size
    x = images.reshape(B, 3, H // P, P, W // P, P)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, -1, P * P * 3)


@patchify.mistake(
    "The order is right, but images of bytes are refused: `F.unfold` computes with floats only. Photographs come as bytes.",
    talk="Ask for the dtype of a photograph that comes from a file, and why nobody stores it as float32.",
)
def bytes_refused(images, patch_size):
    x = F.unfold(images, patch_size, stride=patch_size)
    return rearrange(x, "b (c k) n -> b n (k c)", k=patch_size**2)


@patchify.mistake(
    "The result is always float32, whatever came in. Cutting moves numbers and should keep their type.",
    talk="Ask for the dtype of `torch.zeros(3)`, and how `images.new_zeros(3)` differs.",
)
def always_float32(images, patch_size):
    return vit.patchify(images, patch_size).float()


@patchify.mistake(
    "The numbers are right, but they are a copy that knows nothing of the input: no gradient goes back through it.",
    talk="Ask what `torch.tensor(x)`, `x.detach()` and `x.numpy()` have in common.",
)
def cut_off_from_gradient(images, patch_size):
    return vit.patchify(images.detach(), patch_size)


# ---------------------------------------------------------------- unpatchify


def _cut(*shape, P, dtype=torch.float32):
    return vit.patchify(_numbered(*shape).to(dtype), P), P, shape[-2:]


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
    in_double(*_cut(1, 2, 4, 6, P=2)),
    not_contiguous(*_cut(2, 3, 4, 6, P=2)),
    passes_gradient(*_cut(1, 2, 4, 6, P=2)),
    hints=(
        "Which steps did your `patchify` take, and what undoes each of them?",
        "Go back in reverse order: split N into (rows, cols) and the length of a patch into (P, P, C), bring the axes "
        "into the order of an image, (B, C, rows, P, cols, P), and only then merge.",
        "`x = patches.reshape(B, ..., ..., P, P, C)`\n`x = x.permute(0, ...)`\n`return x.reshape(B, C, H, W)`",
    ),
)


@unpatchify.alternative
def permute_back(patches, patch_size, image_size):
    (H, W), P = image_size, patch_size
    B, _, size = patches.shape
    x = patches.reshape(B, H // P, W // P, P, P, size // P**2)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, size // P**2, H, W)


@unpatchify.alternative
def fold(patches, patch_size, image_size):
    x = rearrange(patches.float(), "b n (k c) -> b (c k) n", k=patch_size**2)
    return F.fold(x, tuple(image_size), patch_size, stride=patch_size).to(patches.dtype)


@unpatchify.alternative
def pasted(patches, patch_size, image_size):
    (H, W), P = image_size, patch_size
    B, N, size = patches.shape
    out = patches.new_zeros(B, size // P**2, H, W)
    for n in range(N):
        i, j = n // (W // P) * P, n % (W // P) * P
        out[:, :, i : i + P, j : j + P] = patches[:, n].reshape(B, P, P, -1).permute(0, 3, 1, 2)
    return out


@unpatchify.alternative
def rows_joined(patches, patch_size, image_size):
    squares = patches.unflatten(2, (patch_size, patch_size, -1)).movedim(4, 2)  # (B, N, C, P, P)
    rows = squares.split(image_size[1] // patch_size, dim=1)
    return torch.cat([torch.cat(row.unbind(1), dim=-1) for row in rows], dim=-2)


@unpatchify.alternative
def sorted_back(patches, patch_size, image_size):
    """Cut an image of places, then put every number where it came from."""
    shape = (patches.shape[2] // patch_size**2, *image_size)
    places = torch.arange(torch.Size(shape).numel()).reshape(1, *shape)
    order = vit.patchify(places, patch_size).flatten().argsort()
    return patches.flatten(1)[:, order].reshape(-1, *shape)


@unpatchify.mistake(
    "The numbers were poured back in memory order. Undo the steps of `patchify` one by one, in reverse: split the axes "
    "apart, permute, and only then merge.",
    talk="Ask whether a plain reshape made the patches, and so whether a plain reshape can undo them.",
)
def reshape_back(patches, patch_size, image_size):
    return patches.reshape(len(patches), -1, *image_size)


@unpatchify.mistake(
    "The channels are in place, but the other four axes were merged in the order (rows, cols, P, P). "
    "A line of the image runs through *all* patches of a row: which two axes must change places?",
    talk="Follow the top line of the image with a finger, and name every axis that changes on the way.",
)
def half_a_permute(patches, patch_size, image_size):
    (H, W), P = image_size, patch_size
    x = patches.reshape(len(patches), H // P, W // P, P, P, -1)
    return x.permute(0, 5, 1, 2, 3, 4).reshape(len(patches), -1, H, W)


@unpatchify.mistake(
    "The channels are read as if they came first inside a patch. In `patchify` they stand side by side for each pixel.",
    talk="Ask which three numbers of a patch belong to its first pixel.",
)
def channels_first_back(patches, patch_size, image_size):
    r, s = (n // patch_size for n in image_size)
    return rearrange(patches, "b (r s) (c p q) -> b c (r p) (s q)", r=r, s=s, p=patch_size, q=patch_size)


@unpatchify.mistake(
    "`F.fold` expects all reds of a patch first, then all greens; ours stand pixel by pixel. It also refuses bytes.",
    talk="Ask which order `F.unfold` gives, and whether `F.fold` could know that ours is another.",
)
def order_of_f_fold(patches, patch_size, image_size):
    return F.fold(patches.transpose(1, 2), tuple(image_size), patch_size, stride=patch_size)


@unpatchify.mistake(
    "The patches were laid down column by column: rows and columns of the grid are exchanged. The sequence is in reading "
    "order.",
    talk="Ask where the second patch of the sequence lies: to the right of the first, or below it?",
)
def grid_exchanged(patches, patch_size, image_size):
    r, s = (n // patch_size for n in image_size)
    return rearrange(patches, "b (s r) (p q c) -> b c (r p) (s q)", r=r, s=s, p=patch_size, q=patch_size)


@unpatchify.mistake(
    "Every patch stands in its place, but its pixels are mirrored at the diagonal: the two P axes are exchanged.",
    talk="Put a photograph back together with this function, and ask why the seams between the patches show.",
)
def pixels_exchanged(patches, patch_size, image_size):
    r, s = (n // patch_size for n in image_size)
    return rearrange(patches, "b (r s) (q p c) -> b c (r p) (s q)", r=r, s=s, p=patch_size, q=patch_size)


@unpatchify.mistake(
    "The pixels of a patch are spread over the whole image. When (rows, P) is merged into H, the patch counts first and "
    "the pixel second: the axis that moves fastest stands last.",
    talk="Ask which pixel is the right neighbour of the first one, and which axis has to move by one for that.",
)
def spread_out(patches, patch_size, image_size):
    r, s = (n // patch_size for n in image_size)
    return rearrange(patches, "b (r s) (p q c) -> b c (p r) (q s)", r=r, s=s, p=patch_size, q=patch_size)


@unpatchify.mistake(
    "Height and width are exchanged: `image_size` is (H, W), rows first. Square images do not show it.",
    talk="Ask in which order `x.shape[-2:]` gives the two sides, and which order a camera's data sheet uses.",
)
def width_first(patches, patch_size, image_size):
    return vit.unpatchify(patches, patch_size, tuple(image_size)[::-1])


@unpatchify.mistake(
    "The channels stand last, as plotting libraries like them. A batch of images is (B, C, H, W) in PyTorch.",
    talk="Ask which two libraries the class knows that disagree about the place of the channels.",
)
def channels_left_last(patches, patch_size, image_size):
    return vit.unpatchify(patches, patch_size, image_size).permute(0, 2, 3, 1)


@unpatchify.mistake(
    "The grid is taken for a square, with the root of N as its side. An image of 4 x 12 pixels in patches of 2 has a grid of "
    "2 x 6. Which argument tells?",
    talk="Ask for all grids that 12 patches can form.",
)
def square_grid_only(patches, patch_size, image_size):
    B, N, size = patches.shape
    n, P = int(N**0.5), patch_size
    x = patches.reshape(B, n, n, P, P, size // P**2)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, -1, n * P, n * P)


@unpatchify.mistake(
    "The number of channels is fixed at 3. It follows from the length of a patch: P*P pixels with C numbers each.",
    talk="Ask for C when a patch of 4 x 4 pixels has 80 numbers.",
)
def three_channels_back(patches, patch_size, image_size):
    (H, W), P = image_size, patch_size
    x = patches.reshape(len(patches), H // P, W // P, P, P, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, H, W)


@unpatchify.mistake(
    "The image is always float32, whatever the patches were. A round trip should give back the same numbers of the same "
    "type.",
    talk="Ask what a plotting function does with a photograph whose floats run from 0 to 255.",
)
def float32_back(patches, patch_size, image_size):
    return vit.unpatchify(patches, patch_size, image_size).float()


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
    hints=(
        "Take P = 2 and C = 3, and write down the first six numbers of a flattened patch: which pixel and which channel "
        "is each of them?",
        "A matrix that only copies is the identity: row k is 1 at place k. Place k of a flattened patch is (row, column, "
        "channel), in this order; a convolution weight wants (channel, row, column).",
        "`eye = torch.eye(...)`\n`return eye.reshape(..., P, P, C).permute(0, ...)`",
    ),
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


@patch_conv_weight.alternative
def put_back_together(patch_size, channels):
    """Each row of the identity is a flattened patch: an image of one patch."""
    eye = torch.eye(patch_size**2 * channels)
    return vit.unpatchify(eye[:, None], patch_size, (patch_size, patch_size))


@patch_conv_weight.alternative
def derivative_of_patchify(patch_size, channels):
    """patchify is linear: its derivative is the weight."""
    patch = torch.zeros(channels, patch_size, patch_size)
    return torch.autograd.functional.jacobian(lambda x: vit.patchify(x[None], patch_size)[0, 0], patch)


@patch_conv_weight.alternative
def product_of_identities(patch_size, channels):
    pixel, channel = torch.eye(patch_size), torch.eye(channels)
    weight = torch.einsum("ap,bq,dc->abdcpq", pixel, pixel, channel)
    return weight.flatten(0, 2)


@patch_conv_weight.alternative
def places_compared(patch_size, channels):
    P, C = patch_size, channels
    k = torch.arange(P * P * C)
    place = torch.arange(P * P).reshape(P, P) * C + torch.arange(C)[:, None, None]  # (C, P, P)
    return (k[:, None, None, None] == place).float()


@patch_conv_weight.mistake(
    "The ones are in the order channels, rows, columns. That is the order of a plain reshape of the identity; "
    "`patchify` has rows, columns, channels.",
    talk="Ask which number of the flattened patch output channel 1 should carry: the next pixel, or the next colour?",
)
def weight_channels_first(patch_size, channels):
    size = patch_size**2 * channels
    return torch.eye(size).reshape(size, channels, patch_size, patch_size)


@patch_conv_weight.mistake(
    "Rows and columns are exchanged inside the kernel: every patch comes out mirrored at its diagonal.",
    talk="Draw the four kernels for P = 2 as 2 x 2 squares, and ask where the 1 of the second one stands.",
)
def weight_transposed(patch_size, channels):
    return rearrange(torch.eye(patch_size**2 * channels), "k (p q c) -> k c q p", p=patch_size, q=patch_size)


@patch_conv_weight.mistake(
    "The channels stand last. PyTorch wants a convolution weight as (out, in, P, P): input channels before rows and "
    "columns.",
    talk="Print `nn.Conv2d(3, 8, 4).weight.shape` and let the class name its four axes.",
)
def weight_channels_last(patch_size, channels):
    size = patch_size**2 * channels
    return torch.eye(size).reshape(size, patch_size, patch_size, channels)


@patch_conv_weight.mistake(
    "The kernels are turned by 180 degrees. A convolution in mathematics flips its kernel; `F.conv2d` does not.",
    talk="Convolve 0 0 1 0 0 with the kernel 1 2 3 by `F.conv1d`, and ask why 3 2 1 comes out.",
)
def kernel_flipped(patch_size, channels):
    return vit.patch_conv_weight(patch_size, channels).flip(-2, -1)


@patch_conv_weight.mistake(
    "Each kernel has a 1 for *every* input channel, so the colours of a pixel are added up. Output channel k copies one "
    "channel only.",
    talk="Ask what this convolution makes of a pixel with red 10, green 20, blue 30.",
)
def channels_added_up(patch_size, channels):
    weight = torch.eye(patch_size**2).reshape(-1, 1, patch_size, patch_size)
    return repeat(weight, "k 1 p q -> (k d) c p q", c=channels, d=channels)


@patch_conv_weight.mistake(
    "Every kernel reads the first input channel only: the image comes out grey. Which channel does element k of a flattened "
    "patch come from?",
    talk="Ask how many of the kernels for P = 2, C = 3 must look at blue.",
)
def first_channel_only(patch_size, channels):
    weight = torch.zeros(patch_size**2 * channels, channels, patch_size, patch_size)
    pixels = torch.eye(patch_size**2).reshape(-1, patch_size, patch_size)
    weight[:, 0] = pixels.repeat_interleave(channels, dim=0)
    return weight


@patch_conv_weight.mistake(
    "Input and output channels are exchanged: the first axis of a convolution weight counts what comes *out*.",
    talk="Ask how many numbers go in at each pixel and how many come out at each patch, for P = 2 and C = 3.",
)
def in_and_out_exchanged(patch_size, channels):
    return vit.patch_conv_weight(patch_size, channels).transpose(0, 1)


@patch_conv_weight.mistake(
    "There is one kernel for each pixel of a patch, P*P in all. A flattened patch has P*P*C numbers, and each needs its "
    "own.",
    talk="Ask how long a flattened 2 x 2 patch of a colour image is.",
)
def one_kernel_a_pixel(patch_size, channels):
    weight = torch.eye(patch_size**2).reshape(-1, 1, patch_size, patch_size)
    return weight.repeat(1, channels, 1, 1)


@patch_conv_weight.mistake(
    "The places are right, but the weight holds whole numbers (int64). A convolution multiplies floats with floats.",
    talk="Run `F.conv2d` on a float image with an integer weight, and read the error together.",
)
def whole_numbers(patch_size, channels):
    return vit.patch_conv_weight(patch_size, channels).long()


@patch_conv_weight.mistake(
    "The places are right, but the numbers are smaller than 1. Each kernel reads a single number of the patch: what should "
    "it be multiplied by?",
    talk="Ask what a patch of pure white, 255 everywhere, would look like after this convolution.",
)
def divided_by_pixels(patch_size, channels):
    return vit.patch_conv_weight(patch_size, channels) / patch_size**2


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
    in_double(_numbered(1, 2, 4, 5), 2, 1),
    not_contiguous(_numbered(2, 3, 4, 5), 2, 1),
    passes_gradient(
        _numbered(1, 2, 4, 5),
        2,
        1,
        hint="A pixel that lies in several patches gets a gradient from each of them.",
    ),
    hints=(
        "A 4 x 4 image, patches of 2 x 2, one pixel apart: how many places are there for a patch in one row?",
        "Windows first: `images.unfold(2, P, stride)` lays them along H and puts the P rows of a window into a new last "
        "axis; do the same along W. Then order the axes as in `patchify`.",
        "`x = images.unfold(2, ...).unfold(3, ...)`\n`x = x.permute(0, ...)`\n"
        "then merge: rows with columns of patches, and the last three axes.",
    ),
)


@overlapping_patches.alternative
def with_unfold(images, patch_size, stride):
    x = F.unfold(images.float(), patch_size, stride=stride)
    return rearrange(x, "b (c k) n -> b n (k c)", c=images.shape[1]).to(images.dtype)


@overlapping_patches.alternative
def with_convolution(images, patch_size, stride):
    weight = vit.patch_conv_weight(patch_size, images.shape[1])
    out = F.conv2d(images.float(), weight, stride=stride)
    return out.flatten(2).transpose(1, 2).to(images.dtype)


@overlapping_patches.alternative
def corner_by_corner(images, patch_size, stride):
    H, W = images.shape[-2:]
    patches = [
        images[:, :, i : i + patch_size, j : j + patch_size].movedim(1, -1).flatten(1)
        for i in range(0, H - patch_size + 1, stride)
        for j in range(0, W - patch_size + 1, stride)
    ]
    return torch.stack(patches, dim=1)


@overlapping_patches.alternative
def rows_and_columns_by_index(images, patch_size, stride):
    within = torch.arange(patch_size)
    rows, cols = (
        torch.arange(0, side - patch_size + 1, stride)[:, None] + within for side in images.shape[-2:]
    )
    windows = images[:, :, rows[:, None, :, None], cols[None, :, None, :]]  # (B, C, r, s, P, P)
    return rearrange(windows, "b c r s p q -> b (r s) (p q c)")


@overlapping_patches.alternative
def pixel_by_pixel(images, patch_size, stride):
    """For each place in a patch, one strided slice of the image."""
    H, W = images.shape[-2:]
    slices = [
        images[:, :, p : H - patch_size + p + 1 : stride, q : W - patch_size + q + 1 : stride]
        for p in range(patch_size)
        for q in range(patch_size)
    ]
    return rearrange(slices, "k b c r s -> b (r s) (k c)")


@overlapping_patches.mistake(
    "The patches do not overlap: they are a whole patch apart. Their corners should be `stride` pixels apart.",
    talk="Ask what the third argument of `unfold(2, P, P)` means.",
)
def no_overlap(images, patch_size, stride):
    return overlapping_patches.reference(images, patch_size, patch_size)


@overlapping_patches.mistake(
    "The patches overlap in one direction only. The stride holds along the height and along the width.",
    talk="Ask for the number of 2 x 2 patches, one pixel apart, in a 4 x 4 image, and compare it with 3 x 2.",
)
def overlap_in_one_direction(images, patch_size, stride):
    x = images.unfold(2, patch_size, stride).unfold(3, patch_size, patch_size)
    return rearrange(x, "b c r s p q -> b (r s) (p q c)")


@overlapping_patches.mistake(
    "The windows are right, but they were merged with the channel axis still in front: each patch holds numbers of one "
    "channel. With one channel nobody would notice.",
    talk="Ask for the shape after both calls of `unfold`, and let somebody say each axis aloud.",
)
def windows_without_permute(images, patch_size, stride):
    x = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
    return x.reshape(len(x), -1, patch_size**2 * images.shape[1])


@overlapping_patches.mistake(
    "The windows are in place, but inside each one all reds come before all greens. Where does the channel axis stand in "
    "`patchify`: before the two P axes, or after them?",
    talk="Ask for the first three numbers of a patch of a colour image, in words.",
)
def channels_before_pixels(images, patch_size, stride):
    x = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
    return rearrange(x, "b c r s p q -> b (r s) (c p q)")


@overlapping_patches.mistake(
    "The windows are right, but inside each the channels come first: this is the order of `F.unfold`. "
    "The exercise wants that of `patchify`: the channels of a pixel side by side.",
    talk="Ask what `stride=patch_size` should give, and compare with `patchify` on a numbered colour image.",
)
def unfold_order(images, patch_size, stride):
    return F.unfold(images, patch_size, stride=stride).transpose(1, 2)


@overlapping_patches.mistake(
    "Rows and columns of pixels are exchanged inside each patch. The window axis that `unfold` adds first is the one "
    "along the height.",
    talk="Ask which of the two new axes holds neighbours in a *column* of the image.",
)
def windows_transposed(images, patch_size, stride):
    x = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
    return rearrange(x, "b c r s p q -> b (r s) (q p c)")


@overlapping_patches.mistake(
    "The patches are numbered down the columns. Reading order goes along a row first, also where patches overlap.",
    talk="Ask which of two nested loops, over rows or over columns, has to be the outer one.",
)
def windows_in_columns(images, patch_size, stride):
    x = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
    return rearrange(x, "b c r s p q -> b (s r) (p q c)")


@overlapping_patches.mistake(
    "Patch size and stride are exchanged: the patches are `stride` pixels wide and `patch_size` pixels apart.",
    talk="Ask for the meaning of the three arguments of `tensor.unfold(dim, size, step)`, in order.",
)
def exchanged(images, patch_size, stride):
    return overlapping_patches.reference(images, stride, patch_size)


@overlapping_patches.mistake(
    "The last patch of each row and of each column is missing. A patch may start at H - P itself: `range` leaves its end "
    "out.",
    talk="Ask at which rows a patch of 2 can start in an image of height 4, and what `range(4 - 2)` gives.",
)
def last_window_missing(images, patch_size, stride):
    H, W = images.shape[-2:]
    patches = [
        images[:, :, i : i + patch_size, j : j + patch_size].movedim(1, -1).flatten(1)
        for i in range(0, H - patch_size, stride)
        for j in range(0, W - patch_size, stride)
    ]
    return torch.stack(patches or [images.flatten(1)], dim=1)


@overlapping_patches.mistake(
    "The image was padded so that the border is covered, too. Here, what does not fill a whole patch is left out.",
    talk="Ask for N from the formula in the docstring with H = 7, P = 3, stride 3.",
)
def border_padded(images, patch_size, stride):
    down, right = (-(side - patch_size) % stride for side in images.shape[-2:])
    return overlapping_patches.reference(F.pad(images, (0, right, 0, down)), patch_size, stride)


@overlapping_patches.mistake(
    "The order is right, but images of bytes are refused: `F.unfold` computes with floats only. Photographs come as bytes.",
    talk="Ask what has to happen before and after `F.unfold`, so that bytes come out when bytes went in.",
)
def windows_of_floats_only(images, patch_size, stride):
    x = F.unfold(images, patch_size, stride=stride)
    return rearrange(x, "b (c k) n -> b n (k c)", c=images.shape[1])


@overlapping_patches.mistake(
    "The weight that copies is float32, so only images of float32 go through the convolution: it takes no bytes and no "
    "float64.",
    talk="Run `F.conv2d` on an image of bytes with a float weight, and read the error together.",
)
def convolution_in_float32_only(images, patch_size, stride):
    weight = vit.patch_conv_weight(patch_size, images.shape[1])
    return F.conv2d(images, weight, stride=stride).flatten(2).transpose(1, 2)


EXERCISES = [patchify, unpatchify, patch_conv_weight, overlapping_patches]
