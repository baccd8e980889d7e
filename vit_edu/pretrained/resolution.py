"""Another resolution or patch size: the two tensors that know about pixels, resized."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Resizing:
    """How positions are resized; the arguments of `F.interpolate`. The defaults are those of timm and of this course.

    offset: what is added to both sides of the new grid before its ratio to the old one is computed. DINO and DINOv2 add 0.1
    and interpolate at places that are shifted accordingly.
    """

    mode: str = "bicubic"
    antialias: bool = True
    align_corners: bool = False
    offset: float = 0.0

    def __str__(self):
        words = [self.mode, "with antialiasing" if self.antialias else "without antialiasing"]
        words += ["corner on corner"] * self.align_corners
        words += [f"for a grid that is {self.offset:g} larger"] * bool(self.offset)
        return ", ".join(words)


AS_TIMM = Resizing()


def resize_pos_embed(pos_embed, new_grid, num_prefix_tokens=1, old_grid=None, resizing=AS_TIMM):
    """Position embeddings for another grid of patches, by bicubic interpolation (paper, section 3.2).

    pos_embed: (1, prefix + N, D). new_grid: (rows, cols). The prefix tokens (the class token) have no place on the grid
    and stay the same. old_grid: the (rows, cols) that the others were learned on, a square by default. resizing: see `Resizing`.
    Returns (1, prefix + rows*cols, D), in the dtype of `pos_embed`. Raises ValueError when the old grid does not have N
    places. Same as timm's `resample_abs_pos_embed`, by default.
    """
    prefix, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = int(grid.shape[1] ** 0.5 + 0.5)
    rows, cols = old_grid or (n, n)
    if rows * cols != grid.shape[1]:
        raise ValueError(
            f"{grid.shape[1]} positions are not a {'square grid' if old_grid is None else f'grid of {rows} x {cols}'}; "
            f"with {num_prefix_tokens} prefix tokens of {pos_embed.shape[1]}. Is num_prefix_tokens right?"
        )
    grid = grid.reshape(1, rows, cols, -1).permute(0, 3, 1, 2)  # (1, D, rows, cols)
    grid = _resized(grid, new_grid, resizing)  # (1, D, *new_grid)
    return torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)  # (1, prefix + rows*cols, D)


def resize_patch_embed(weight, patch_size):
    """The patch projection for another patch size, by the pseudo-inverse of resizing.

    weight: (D, C, P, P), of `patch_embed.proj`. patch_size: Q. Returns (D, C, Q, Q), chosen so that a patch that was
    enlarged from P to Q pixels gives the same token as before (least squares where Q < P), in the dtype of `weight`.
    Resizing the weight like an image would not do that, because the sum over more pixels grows.
    Source: FlexiViT, Beyer et al. 2022, arXiv:2212.08013, section 3.4. Same as timm's `resample_patch_embed`.
    """
    old, exact = weight.shape[-1], _computable(weight)
    eye = torch.eye(old * old, dtype=exact.dtype, device=weight.device)  # one pixel of a patch at a time
    resized = _resized(eye.reshape(-1, 1, old, old), (patch_size, patch_size))  # (P*P, 1, Q, Q)
    matrix = resized.flatten(1)  # (P*P, Q*Q): flat patch @ matrix = flat resized patch
    made = (exact.flatten(2) @ torch.linalg.pinv(matrix).mT).unflatten(2, (patch_size, patch_size))
    return made.to(weight.dtype)


def _computable(tensor):
    """The tensor in a dtype in which torch can resize: float16 and bfloat16 become float32, which holds them exactly."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _resized(images, size, how=AS_TIMM):
    """(B, C, H, W) -> (B, C, *size), in the dtype of `images`."""
    if how.offset:
        ratios = [(new + how.offset) / old for new, old in zip(size, images.shape[2:], strict=True)]
        target = {"scale_factor": tuple(ratios)}
    else:
        target = {"size": tuple(size)}
    made = F.interpolate(
        _computable(images),
        **target,
        mode=how.mode,
        antialias=how.antialias,
        align_corners=how.align_corners,
    )
    return made.to(images.dtype)
