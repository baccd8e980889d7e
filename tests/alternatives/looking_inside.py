"""Lesson 07: right answers written in other ways."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce, repeat

from alternatives import alternative
from vit_edu.models import vit

# ---------------------------------------------------------------- attention_weights


@alternative("attention_weights")
def with_earlier_answers(qkv, num_heads):
    q, k, v = (vit.split_heads(y, num_heads) for y in qkv.chunk(3, dim=-1))
    return vit.scaled_dot_product_attention(q, k, v)[1]


@alternative("attention_weights")
def with_einops(qkv, num_heads):
    q, k, _v = rearrange(qkv, "b t (n h d) -> n b h t d", n=3, h=num_heads)
    scores = einsum(q, k, "b h t d, b h s d -> b h t s") / math.sqrt(q.shape[-1])
    return scores.softmax(-1)


@alternative("attention_weights")
def as_in_timm(qkv, num_heads):
    B, T, three_d = qkv.shape
    d = three_d // 3 // num_heads
    q, k, _v = qkv.reshape(B, T, 3, num_heads, d).permute(2, 0, 3, 1, 4).unbind(0)
    return F.softmax((q * d**-0.5) @ k.transpose(-2, -1), dim=-1)


@alternative("attention_weights")
def head_by_head(qkv, num_heads):
    D = qkv.shape[-1] // 3
    d = D // num_heads
    maps = []
    for start in range(0, D, d):
        q, k = qkv[..., start : start + d], qkv[..., D + start : D + start + d]
        scores = torch.bmm(q, k.transpose(1, 2)) / d**0.5
        powers = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
        maps.append(powers / powers.sum(dim=-1, keepdim=True))
    return torch.stack(maps, dim=1)


@alternative("attention_weights")
def by_fused_attention_of_unit_values(qkv, num_heads):
    B, T, _ = qkv.shape
    q, k, _v = (vit.split_heads(y, num_heads) for y in qkv.chunk(3, dim=-1))
    eye = torch.eye(T, dtype=qkv.dtype).expand(B, num_heads, T, T)
    return F.scaled_dot_product_attention(q, k, eye)


# ---------------------------------------------------------------- filters


@alternative("filters")
def by_svd(weight, count=28):
    _U, _S, Vh = torch.linalg.svd(weight.flatten(1))
    return Vh[:count].unflatten(1, weight.shape[1:])


@alternative("filters")
def by_the_older_svd(weight, count=28):
    V = torch.svd(weight.reshape(len(weight), -1)).V  # (C*P*P, K)
    return V[:, :count].T.reshape(count, *weight.shape[1:])


@alternative("filters")
def by_eigenvectors(weight, count=28):
    matrix = weight.flatten(1)
    vectors = torch.linalg.eigh(matrix.T @ matrix).eigenvectors  # columns, weakest first
    return vectors.flip(1).T[:count].reshape(-1, *weight.shape[1:])


@alternative("filters")
def by_svd_of_the_transpose(weight, count=28):
    _D, C, P, Q = weight.shape
    U = torch.linalg.svd(rearrange(weight, "d c p q -> (c p q) d"), full_matrices=False).U
    return -rearrange(U[:, :count], "(c p q) k -> k c p q", c=C, p=P, q=Q)


@alternative("filters")
def by_numpy(weight, count=28):
    Vh = np.linalg.svd(weight.flatten(1).numpy(), full_matrices=False)[2]
    return torch.from_numpy(Vh[:count].copy()).reshape(count, *weight.shape[1:])


@alternative("filters")
def by_power_iteration(weight, count=28):
    rest, found = weight.flatten(1).double(), []
    for _ in range(count):
        gram = rest.T @ rest
        for _ in range(10):  # to the power of 1024
            gram = gram @ gram
            gram = gram / gram.norm()
        v = F.normalize(gram[:, gram.norm(dim=0).argmax()], dim=0)
        found.append(v)
        rest = rest - (rest @ v)[:, None] * v
    return torch.stack(found).to(weight.dtype).reshape(count, *weight.shape[1:])


# ---------------------------------------------------------------- position_similarity


@alternative("position_similarity")
def by_cosine_similarity(pos_embed, grid, prefix=0):
    x = pos_embed[0][prefix:]
    similar = F.cosine_similarity(x[:, None], x[None], dim=-1)
    return similar.reshape(grid[0], grid[1], grid[0], grid[1])


@alternative("position_similarity")
def by_einsum_on_the_grid(pos_embed, grid, prefix=0):
    rows, cols = grid
    x = rearrange(pos_embed[:, prefix:], "1 (r c) d -> r c d", r=rows, c=cols)
    x = x / x.norm(dim=-1, keepdim=True)
    return torch.einsum("rcd,uvd->rcuv", x, x)


@alternative("position_similarity")
def map_by_map(pos_embed, grid, prefix=0):
    rows, cols = grid
    x = pos_embed[0, prefix:]
    maps = [F.cosine_similarity(place[None], x).view(rows, cols) for place in x]
    return torch.stack([torch.stack(maps[r * cols : (r + 1) * cols]) for r in range(rows)])


@alternative("position_similarity")
def divided_afterwards(pos_embed, grid, prefix=0):
    x = pos_embed.squeeze(0)[prefix:]
    products = x @ x.T
    lengths = products.diagonal().sqrt()
    return (products / torch.outer(lengths, lengths)).unflatten(1, grid).unflatten(0, grid)


# ---------------------------------------------------------------- attention_distance


@alternative("attention_distance")
def by_cdist(weights, grid, patch_size, prefix=0):
    sides = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    rows, cols = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    centres = (torch.stack([rows, cols], dim=-1).reshape(-1, 2) + 0.5) * torch.tensor(sides)
    centres = centres.to(weights.dtype)
    w = weights[:, :, prefix:, prefix:]
    w = w / w.sum(dim=-1, keepdim=True)
    return (w * torch.cdist(centres, centres)).sum(dim=-1).mean(dim=(0, 2))


@alternative("attention_distance")
def by_einsum(weights, grid, patch_size, prefix=0):
    height, width = patch_size if isinstance(patch_size, tuple) else [patch_size] * 2
    number = torch.arange(grid[0] * grid[1])
    row, col = height * (number // grid[1]), width * (number % grid[1])
    apart = torch.hypot((row[:, None] - row).to(weights.dtype), (col[:, None] - col).to(weights.dtype))
    patches = weights[..., prefix:, prefix:]
    looked = einsum(patches, apart, "b h i j, i j -> b h i") / patches.sum(-1)
    return reduce(looked, "b h i -> h", "mean")


@alternative("attention_distance")
def by_loops(weights, grid, patch_size, prefix=0):
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    places = [(height * r, width * c) for r in range(grid[0]) for c in range(grid[1])]
    total = torch.zeros(weights.shape[1], dtype=weights.dtype)
    for i, here in enumerate(places):
        row = weights[:, :, prefix + i]  # (B, h, T)
        left = row[:, :, prefix:].sum(dim=-1)
        for j, there in enumerate(places):
            total += (row[:, :, prefix + j] / left * math.dist(here, there)).mean(dim=0)
    return total / len(places)


@alternative("attention_distance")
def by_complex_numbers(weights, grid, patch_size, prefix=0):
    try:
        height, width = patch_size
    except TypeError:
        height = width = patch_size
    down, right = (torch.arange(n, dtype=weights.dtype) for n in grid)
    centre = torch.complex((down * height)[:, None].expand(grid), (right * width).expand(grid)).flatten()
    w = weights[..., prefix:, prefix:]
    return ((w * (centre[:, None] - centre[None]).abs()).sum(-1) / w.sum(-1)).mean(-1).mean(0)


# ---------------------------------------------------------------- rollout


@alternative("rollout")
def from_the_identity(weights):
    B, T = weights.shape[1], weights.shape[-1]
    eye = torch.eye(T, dtype=weights.dtype)
    result = eye.repeat(B, 1, 1)
    for layer in weights:
        result = torch.bmm(0.5 * layer.mean(dim=1) + 0.5 * eye, result)
    return result


@alternative("rollout")
def from_the_last_layer(weights):
    result = None
    for layer in weights.flip(0):
        step = (layer.mean(1) + torch.eye(layer.shape[-1], dtype=layer.dtype)) / 2
        result = step if result is None else result @ step
    return result


@alternative("rollout")
def added_and_normalised(weights):
    steps = reduce(weights, "l b h t s -> l b t s", "mean") + torch.eye(weights.shape[-1]).to(weights)
    steps = steps / steps.sum(dim=-1, keepdim=True)
    result = steps[0]
    for step in steps[1:]:
        result = einsum(step, result, "b t s, b s r -> b t r")
    return result


@alternative("rollout")
def by_multi_dot(weights):
    steps = 0.5 * weights.mean(dim=2)
    steps.diagonal(dim1=-2, dim2=-1).add_(0.5)
    images = [list(steps[:, b].flip(0)) for b in range(steps.shape[1])]
    return torch.stack([torch.linalg.multi_dot(s) if len(s) > 1 else s[0] for s in images])


@alternative("rollout")
def identity_in_every_head(weights):
    T = weights.shape[-1]
    result = 1.0
    for layer in 0.5 * (weights + torch.eye(T, dtype=weights.dtype)):
        mixed = layer.sum(dim=1) / layer.shape[1]
        result = mixed if isinstance(result, float) else mixed @ result
    return result


# ---------------------------------------------------------------- deletion_curve


@alternative("deletion_curve")
def by_topk_and_scatter(model, images, labels, scores, patch_size, steps):
    B, _, H, W = images.shape
    before = model.training
    model.eval()
    curve = []
    with torch.no_grad():
        for k in steps:
            mask = torch.ones_like(scores).scatter_(1, scores.topk(k, dim=1).indices, 0.0)
            mask = mask.reshape(B, 1, H // patch_size, W // patch_size)
            mask = F.interpolate(mask, scale_factor=patch_size, mode="nearest")
            curve.append((model(images * mask).argmax(dim=1) == labels).float().mean())
    model.train(before)
    return torch.stack(curve)


@alternative("deletion_curve")
def by_slices(model, images, labels, scores, patch_size, steps):
    P, cols = patch_size, images.shape[3] // patch_size
    before = model.training
    model.eval()
    curve = []
    for k in steps:
        blanked = images.clone()
        for image, row in zip(blanked, scores, strict=True):
            for i in sorted(range(len(row)), key=lambda i: -row[i].item())[:k]:
                r, c = i // cols * P, i % cols * P
                image[:, r : r + P, c : c + P] = 0
        with torch.no_grad():
            right = sum(int(a == b) for a, b in zip(model(blanked).argmax(-1), labels, strict=True))
        curve.append(right / len(labels))
    model.train(before)
    return torch.tensor(curve)


@alternative("deletion_curve")
def on_patches(model, images, labels, scores, patch_size, steps):
    patches = vit.patchify(images, patch_size)  # (B, N, P*P*C)
    ranks = scores.argsort(dim=1, descending=True).argsort(dim=1)
    before, curve = model.training, torch.empty(len(steps))
    model.eval()
    with torch.no_grad():
        for i, k in enumerate(steps):
            left = patches.masked_fill((ranks < k)[..., None], 0)
            logits = model(vit.unpatchify(left, patch_size, images.shape[-2:]))
            curve[i] = (logits.argmax(-1) == labels).double().mean()
    model.train(before)
    return curve


@alternative("deletion_curve")
def in_one_large_batch(model, images, labels, scores, patch_size, steps):
    B = len(scores)
    higher = (scores[:, None, :] > scores[:, :, None]).sum(dim=2)  # (B, N), the rank of each patch
    keep = torch.stack([higher >= k for k in steps])  # (S, B, N)
    keep = repeat(
        keep,
        "s b (r c) -> (s b) 1 (r p) (c q)",
        r=images.shape[2] // patch_size,
        p=patch_size,
        q=patch_size,
    )
    modes = {m: m.training for m in model.modules()}
    with torch.no_grad():
        answers = model.eval()(images.repeat(len(steps), 1, 1, 1).where(keep, 0.0)).argmax(-1)
    for m, mode in modes.items():
        m.training = mode
    return (answers.reshape(len(steps), B) == labels).float().mean(dim=1)
