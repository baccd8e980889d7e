"""Lesson 11, segmentation: right answers written in other ways."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from alternatives import alternative

# ---------------------------------------------------------------- tokens_to_map


@alternative("tokens_to_map")
def with_the_layer(tokens, grid, image_size):
    maps = rearrange(tokens, "b (r c) k -> b k r c", r=grid[0])
    return nn.Upsample(tuple(image_size), mode="bilinear")(maps)


@alternative("tokens_to_map")
def one_axis_after_the_other(tokens, grid, image_size):
    """Interpolation as a matrix for each axis."""

    def weights(length, patches):
        at = ((torch.arange(length).to(tokens) + 0.5) * (patches / length) - 0.5).clamp(0, patches - 1)
        return (1 - (at[:, None] - torch.arange(patches).to(tokens)).abs()).clamp(min=0)

    down, across = (weights(*sizes) for sizes in zip(image_size, grid, strict=True))
    maps = tokens.reshape(len(tokens), *grid, -1).permute(0, 3, 1, 2)
    return down @ maps @ across.T


@alternative("tokens_to_map")
def asked_at_the_pixels(tokens, grid, image_size):
    y, x = ((2 * torch.arange(n).to(tokens) + 1) / n - 1 for n in image_size)
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    maps = tokens.mT.unflatten(-1, tuple(grid))
    points = points.expand(len(tokens), -1, -1, -1)
    return F.grid_sample(maps, points, "bilinear", padding_mode="border", align_corners=False)


@alternative("tokens_to_map")
def class_by_class(tokens, grid, image_size):
    maps = [
        F.interpolate(tokens[..., k].view(-1, 1, *grid), size=image_size, mode="bilinear")
        for k in range(tokens.shape[2])
    ]
    return torch.cat(maps, dim=1)


@alternative("tokens_to_map")
def pixel_by_pixel(tokens, grid, image_size):
    """The four patches around each pixel."""
    (rows, cols), (H, W) = grid, image_size
    lines = []
    for i in range(H):
        y = min(max((i + 0.5) * rows / H - 0.5, 0), rows - 1)
        top, below = int(y), min(int(y) + 1, rows - 1)
        for j in range(W):
            x = min(max((j + 0.5) * cols / W - 0.5, 0), cols - 1)
            left, right = int(x), min(int(x) + 1, cols - 1)
            u, v = y - top, x - left
            upper = (1 - v) * tokens[:, top * cols + left] + v * tokens[:, top * cols + right]
            lower = (1 - v) * tokens[:, below * cols + left] + v * tokens[:, below * cols + right]
            lines.append((1 - u) * upper + u * lower)
    return torch.stack(lines, dim=-1).reshape(len(tokens), -1, H, W)


# ---------------------------------------------------------------- class_iou


@alternative("class_iou")
def one_class_after_the_other(predicted, masks, num_classes):
    ious = torch.full((num_classes,), torch.nan)
    for c in range(num_classes):
        p, t = predicted == c, masks == c
        if (p | t).any():
            ious[c] = (p & t).sum() / (p | t).sum()
    return ious


@alternative("class_iou")
def sets_of_places(predicted, masks, num_classes):
    def places(classes, c):
        return {place for place, found in enumerate(classes.flatten().tolist()) if found == c}

    ious = []
    for c in range(num_classes):
        p, t = places(predicted, c), places(masks, c)
        ious.append(len(p & t) / len(p | t) if p | t else float("nan"))
    return torch.tensor(ious)


@alternative("class_iou")
def all_classes_by_broadcasting(predicted, masks, num_classes):
    classes = torch.arange(num_classes)
    p, t = (v.reshape(-1, 1) == classes for v in (predicted, masks))
    return torch.logical_and(p, t).sum(0).float() / torch.logical_or(p, t).sum(0).float()


@alternative("class_iou")
def from_a_matrix_of_confusions(predicted, masks, num_classes):
    confusions = torch.zeros(num_classes, num_classes)
    ones = torch.ones(masks.numel())
    confusions.index_put_((masks.flatten().long(), predicted.flatten().long()), ones, accumulate=True)
    hits = confusions.diag()
    return hits / (confusions.sum(0) + confusions.sum(1) - hits)


@alternative("class_iou")
def by_counting_classes(predicted, masks, num_classes):
    def count(classes):
        return classes.long().flatten().bincount(minlength=num_classes)

    hits = count(masks[predicted == masks])
    return hits / (count(predicted) + count(masks) - hits)


# ---------------------------------------------------------------- dice_loss


@alternative("dice_loss")
def one_fraction_for_each_class(logits, masks, smooth=1.0):
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    fractions = []
    for c in range(logits.shape[1]):
        p, t = probabilities[:, c], (masks == c).to(logits.dtype)
        fractions.append((2 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth))
    return 1 - sum(fractions) / len(fractions)


@alternative("dice_loss")
def with_einsum(logits, masks, smooth=1.0):
    p, t = F.softmax(logits, dim=1), F.one_hot(masks, logits.shape[1]).to(logits)
    both, seen = torch.einsum("bkhw,bhwk->k", p, t), torch.einsum("bkhw->k", p)
    return torch.mean(1 - (2 * both + smooth) / (seen + t.sum((0, 1, 2)) + smooth))


@alternative("dice_loss")
def pixels_as_rows(logits, masks, smooth=1.0):
    K = logits.shape[1]
    rows = logits.movedim(1, -1).reshape(-1, K).softmax(-1)
    truth = torch.eye(K).to(rows)[masks.flatten()]
    above = 2 * (rows * truth).sum(0) + smooth
    below = (rows + truth).sum(0) + smooth
    return (below - above).div(below).mean()


@alternative("dice_loss")
def only_the_true_classes_are_gathered(logits, masks, smooth=1.0):
    p = logits.softmax(1)
    right = p.gather(1, masks.unsqueeze(1)).flatten()
    both = p.new_zeros(p.shape[1]).index_add(0, masks.flatten(), right)
    counts = masks.flatten().bincount(minlength=p.shape[1])
    return 1 - ((2 * both + smooth) / (p.sum((0, 2, 3)) + counts + smooth)).mean()


@alternative("dice_loss")
def by_comparing(logits, masks, smooth=1.0):
    t = masks[:, None] == torch.arange(logits.shape[1])[:, None, None]
    p = torch.softmax(logits, 1)
    inside = torch.where(t, p, 0).flatten(2).sum((0, 2))
    sizes = p.flatten(2).sum((0, 2)) + t.flatten(2).sum((0, 2))
    return (1 - (2 * inside + smooth) / (sizes + smooth)).mean()
