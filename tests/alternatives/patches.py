"""Lesson 01: right answers written in other ways."""

import torch
import torch.nn.functional as F
from einops import rearrange

from alternatives import alternative
from vit_edu.models import vit

# ---------------------------------------------------------------- patchify


@alternative("patchify")
def reshape_permute(images, patch_size):
    B, C, H, W = images.shape
    P = patch_size
    x = images.reshape(B, C, H // P, P, W // P, P)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, (H // P) * (W // P), P * P * C)


@alternative("patchify")
def unfold(images, patch_size):
    C, P = images.shape[1], patch_size
    x = F.unfold(images.float(), P, stride=P)  # (B, C*P*P, N), channels first inside a patch
    return rearrange(x, "b (c p q) n -> b n (p q c)", c=C, p=P).to(images.dtype)


@alternative("patchify")
def loops(images, patch_size):
    P = patch_size
    H, W = images.shape[-2:]
    corners = [(i, j) for i in range(0, H, P) for j in range(0, W, P)]
    return torch.stack(
        [images[:, :, i : i + P, j : j + P].permute(0, 2, 3, 1).flatten(1) for i, j in corners],
        dim=1,
    )


@alternative("patchify")
def tensor_unfold(images, patch_size):
    windows = images.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    return windows.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


@alternative("patchify")
def filled_in(images, patch_size):
    B, C, H, W = images.shape
    P = patch_size
    out = images.new_zeros(B, (H // P) * (W // P), P * P * C)
    for n in range(out.shape[1]):
        i, j = n // (W // P) * P, n % (W // P) * P
        out[:, n] = images[:, :, i : i + P, j : j + P].movedim(1, 3).reshape(B, -1)
    return out


@alternative("patchify")
def picked_by_index(images, patch_size):
    C, H, W = images.shape[1:]
    places = torch.arange(C * H * W).reshape(C, H, W)
    index = rearrange(places, "c (r p) (s q) -> (r s) (p q c)", p=patch_size, q=patch_size)
    return images.flatten(1)[:, index]


# ---------------------------------------------------------------- unpatchify


@alternative("unpatchify")
def permute_back(patches, patch_size, image_size):
    (H, W), P = image_size, patch_size
    B, _, size = patches.shape
    x = patches.reshape(B, H // P, W // P, P, P, size // P**2)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, size // P**2, H, W)


@alternative("unpatchify")
def fold(patches, patch_size, image_size):
    x = rearrange(patches.float(), "b n (k c) -> b (c k) n", k=patch_size**2)
    return F.fold(x, tuple(image_size), patch_size, stride=patch_size).to(patches.dtype)


@alternative("unpatchify")
def pasted(patches, patch_size, image_size):
    (H, W), P = image_size, patch_size
    B, N, size = patches.shape
    out = patches.new_zeros(B, size // P**2, H, W)
    for n in range(N):
        i, j = n // (W // P) * P, n % (W // P) * P
        out[:, :, i : i + P, j : j + P] = patches[:, n].reshape(B, P, P, -1).permute(0, 3, 1, 2)
    return out


@alternative("unpatchify")
def rows_joined(patches, patch_size, image_size):
    squares = patches.unflatten(2, (patch_size, patch_size, -1)).movedim(4, 2)  # (B, N, C, P, P)
    rows = squares.split(image_size[1] // patch_size, dim=1)
    return torch.cat([torch.cat(row.unbind(1), dim=-1) for row in rows], dim=-2)


@alternative("unpatchify")
def sorted_back(patches, patch_size, image_size):
    """Cut an image of places, then put every number where it came from."""
    shape = (patches.shape[2] // patch_size**2, *image_size)
    places = torch.arange(torch.Size(shape).numel()).reshape(1, *shape)
    order = vit.patchify(places, patch_size).flatten().argsort()
    return patches.flatten(1)[:, order].reshape(-1, *shape)


# ---------------------------------------------------------------- patch_conv_weight


@alternative("patch_conv_weight")
def one_by_one(patch_size, channels):
    P, C = patch_size, channels
    weight = torch.zeros(P * P * C, C, P, P)
    for p in range(P):
        for q in range(P):
            for c in range(C):
                weight[(p * P + q) * C + c, c, p, q] = 1
    return weight


@alternative("patch_conv_weight")
def put_back_together(patch_size, channels):
    """Each row of the identity is a flattened patch: an image of one patch."""
    eye = torch.eye(patch_size**2 * channels)
    return vit.unpatchify(eye[:, None], patch_size, (patch_size, patch_size))


@alternative("patch_conv_weight")
def derivative_of_patchify(patch_size, channels):
    """patchify is linear: its derivative is the weight."""
    patch = torch.zeros(channels, patch_size, patch_size)
    return torch.autograd.functional.jacobian(lambda x: vit.patchify(x[None], patch_size)[0, 0], patch)


@alternative("patch_conv_weight")
def product_of_identities(patch_size, channels):
    pixel, channel = torch.eye(patch_size), torch.eye(channels)
    weight = torch.einsum("ap,bq,dc->abdcpq", pixel, pixel, channel)
    return weight.flatten(0, 2)


@alternative("patch_conv_weight")
def places_compared(patch_size, channels):
    P, C = patch_size, channels
    k = torch.arange(P * P * C)
    place = torch.arange(P * P).reshape(P, P) * C + torch.arange(C)[:, None, None]  # (C, P, P)
    return (k[:, None, None, None] == place).float()


# ---------------------------------------------------------------- overlapping_patches


@alternative("overlapping_patches")
def with_unfold(images, patch_size, stride):
    x = F.unfold(images.float(), patch_size, stride=stride)
    return rearrange(x, "b (c k) n -> b n (k c)", c=images.shape[1]).to(images.dtype)


@alternative("overlapping_patches")
def with_convolution(images, patch_size, stride):
    weight = vit.patch_conv_weight(patch_size, images.shape[1])
    out = F.conv2d(images.float(), weight, stride=stride)
    return out.flatten(2).transpose(1, 2).to(images.dtype)


@alternative("overlapping_patches")
def corner_by_corner(images, patch_size, stride):
    H, W = images.shape[-2:]
    patches = [
        images[:, :, i : i + patch_size, j : j + patch_size].movedim(1, -1).flatten(1)
        for i in range(0, H - patch_size + 1, stride)
        for j in range(0, W - patch_size + 1, stride)
    ]
    return torch.stack(patches, dim=1)


@alternative("overlapping_patches")
def rows_and_columns_by_index(images, patch_size, stride):
    within = torch.arange(patch_size)
    rows, cols = (
        torch.arange(0, side - patch_size + 1, stride)[:, None] + within for side in images.shape[-2:]
    )
    windows = images[:, :, rows[:, None, :, None], cols[None, :, None, :]]  # (B, C, r, s, P, P)
    return rearrange(windows, "b c r s p q -> b (r s) (p q c)")


@alternative("overlapping_patches")
def pixel_by_pixel(images, patch_size, stride):
    """For each place in a patch, one strided slice of the image."""
    H, W = images.shape[-2:]
    slices = [
        images[:, :, p : H - patch_size + p + 1 : stride, q : W - patch_size + q + 1 : stride]
        for p in range(patch_size)
        for q in range(patch_size)
    ]
    return rearrange(slices, "k b c r s -> b (r s) (k c)")
