"""Lesson 08: right answers written in other ways."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from alternatives import alternative

# ---------------------------------------------------------------- conv_matrix


@alternative("conv_matrix")
def pixel_by_pixel(kernel, rows, cols):
    K = kernel.shape[0]
    matrix = torch.zeros(rows * cols, rows * cols)
    for i in range(rows * cols):
        for j in range(rows * cols):
            a = j // cols - i // cols + K // 2
            b = j % cols - i % cols + K // 2
            if 0 <= a < K and 0 <= b < K:
                matrix[i, j] = kernel[a, b]
    return matrix


@alternative("conv_matrix")
def asks_conv2d(kernel, rows, cols):
    """Each column is what the convolution makes of an image with a single 1."""
    N = rows * cols
    images = torch.eye(N, dtype=kernel.dtype).reshape(N, 1, rows, cols)
    return F.conv2d(images, kernel[None, None], padding=len(kernel) // 2).reshape(N, N).T


@alternative("conv_matrix")
def with_unfold(kernel, rows, cols):
    N = rows * cols
    windows = F.unfold(torch.eye(N).reshape(N, 1, rows, cols), len(kernel), padding=len(kernel) // 2)
    return torch.einsum("jki,k->ij", windows.to(kernel), kernel.flatten())


@alternative("conv_matrix")
def with_kronecker_products(kernel, rows, cols):
    reach = len(kernel) // 2

    def moved(n, by):
        return torch.diag(torch.ones(n - abs(by)), by) if abs(by) < n else torch.zeros(n, n)

    return sum(
        kernel[a, b] * torch.kron(moved(rows, a - reach), moved(cols, b - reach))
        for a in range(len(kernel))
        for b in range(len(kernel))
    )


@alternative("conv_matrix")
def plain_numbers(kernel, rows, cols):
    numbers, reach = kernel.tolist(), len(kernel) // 2
    matrix = [[0.0] * (rows * cols) for _ in range(rows * cols)]
    for r in range(rows):
        for c in range(cols):
            for a, line in enumerate(numbers):
                for b, number in enumerate(line):
                    y, x = r + a - reach, c + b - reach
                    if 0 <= y < rows and 0 <= x < cols:
                        matrix[r * cols + c][y * cols + x] = number
    return torch.tensor(matrix)


# ---------------------------------------------------------------- layer_cost


@alternative("layer_cost")
def counted_on_modules(layer, tokens, dim, kernel=3, ratio=4):
    if layer == "convolution":
        parts = [nn.Conv2d(dim, dim, kernel)]
    elif layer == "mlp":
        parts = [nn.Linear(dim, dim * ratio), nn.Linear(dim * ratio, dim)]
    else:
        parts = [nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)]
    parameters = sum(p.numel() for part in parts for p in part.parameters())
    products = tokens * sum(part.weight.numel() for part in parts)
    return parameters, products + (layer == "attention") * 2 * tokens * tokens * dim


@alternative("layer_cost")
def as_linear_layers(layer, tokens, dim, kernel=3, ratio=4):
    shapes = {
        "attention": [(dim, dim)] * 4,
        "convolution": [(kernel * kernel * dim, dim)],
        "mlp": [(dim, ratio * dim), (ratio * dim, dim)],
    }[layer]
    weights = sum(i * o for i, o in shapes)
    pairs = 2 * tokens * tokens * dim if layer == "attention" else 0
    return [weights + sum(o for _, o in shapes), tokens * weights + pairs]


@alternative("layer_cost")
def with_match(layer, tokens, dim, kernel=3, ratio=4):
    match layer:
        case "attention":
            return 4 * dim * (dim + 1), 2 * tokens * dim * (2 * dim + tokens)
        case "convolution":
            return dim * (dim * kernel**2 + 1), tokens * (dim * kernel) ** 2
        case "mlp":
            return dim * (2 * ratio * dim + ratio + 1), 2 * ratio * tokens * dim**2


# ---------------------------------------------------------------- receptive_field


@alternative("receptive_field")
def from_the_last_layer(kernels, strides):
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return field


@alternative("receptive_field")
def as_a_sum(kernels, strides):
    return 1 + sum((k - 1) * math.prod(strides[:i]) for i, k in enumerate(kernels))


@alternative("receptive_field")
def first_and_last_pixel(kernels, strides):
    first = last = 0
    while kernels:
        kernel, stride = kernels.pop(), strides.pop()
        first, last = first * stride, last * stride + kernel - 1
    return last - first + 1


@alternative("receptive_field")
def asks_the_gradient(kernels, strides):
    weights = [torch.ones(1, 1, k) for k in kernels]
    line = torch.ones(1, 1, math.prod(strides) * (sum(kernels) + 1), requires_grad=True)
    x = line
    for weight, stride in zip(weights, strides, strict=True):
        x = F.conv1d(x, weight, stride=stride)
    x[0, 0, 0].backward()
    return line.grad.flatten().nonzero().max().item() + 1


# ---------------------------------------------------------------- shift_consistency


@alternative("shift_consistency")
@torch.no_grad()
def with_pad(model, images, pixels):
    was = model.training
    model.eval()
    moved = F.pad(images, (pixels, 0, 0, 0), mode="reflect")[:, :, :, : images.shape[3]]
    same = model(images).argmax(-1) == model(moved).argmax(-1)
    model.train(was)
    return same.float().mean().item()


@alternative("shift_consistency")
def column_by_column(model, images, pixels):
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    columns = [images[..., abs(c - pixels)] for c in range(images.shape[-1])]
    before, after = model(images).max(1).indices, model(torch.stack(columns, -1)).max(1).indices
    for module, mode in modes:
        module.training = mode
    return sum(a == b for a, b in zip(before.tolist(), after.tolist(), strict=True)) / len(images)


@alternative("shift_consistency")
def image_by_image(model, images, pixels):
    was, kept = model.training, 0
    model.eval()
    for image in images:
        moved = torch.cat([image[..., 1 : pixels + 1].flip(-1), image], dim=-1)[..., : image.shape[-1]]
        kept += int(model(image[None]).argmax() == model(moved[None]).argmax())
    model.train(was)
    return kept / len(images)


@alternative("shift_consistency")
def both_in_one_batch(model, images, pixels):
    was = model.training
    model.eval()
    moved = images.clone()
    for c in range(images.shape[-1]):
        moved[..., c] = images[..., abs(c - pixels)]
    with torch.inference_mode():
        before, after = model(torch.cat([images, moved])).argmax(dim=1).chunk(2)
    model.train(was)
    return 1 - (before != after).double().mean().item()


# ---------------------------------------------------------------- stem_grid


@alternative("stem_grid")
def rounded_up(size, strides, kernel=3):
    return tuple(math.ceil(side / math.prod(strides)) for side in size)


@alternative("stem_grid")
def counted(size, strides, kernel=3):
    places = [range(side) for side in size]
    for stride in strides:
        places = [range(len(line))[::stride] for line in places]
    return tuple(len(line) for line in places)


@alternative("stem_grid")
def asks_the_layers(size, strides, kernel=3):
    x = torch.zeros(1, 1, *size)
    for stride in strides:
        x = F.conv2d(x, torch.zeros(1, 1, kernel, kernel), stride=stride, padding=kernel // 2)
    return x.shape[2:]


@alternative("stem_grid")
def as_a_list(size, strides, kernel=3):
    grid = list(size)
    for stride in strides:
        grid = [(side - 1) // stride + 1 for side in grid]
    return grid


# ---------------------------------------------------------------- distance_bias


@alternative("distance_bias")
def from_differences(grid, strength):
    numbers = torch.arange(grid[0] * grid[1])
    row, col = numbers // grid[1], numbers % grid[1]
    distance = ((row[:, None] - row) ** 2 + (col[:, None] - col) ** 2).sqrt()
    return torch.stack([-s * distance for s in strength])


@alternative("distance_bias")
def with_hypot(grid, strength):
    rows, cols = grid
    down = torch.arange(rows).repeat_interleave(cols).to(strength)
    right = torch.arange(cols).repeat(rows).to(strength)
    distance = torch.hypot(down - down[:, None], right - right[:, None])
    return torch.einsum("h,ij->hij", strength, -distance)


@alternative("distance_bias")
def with_complex_numbers(grid, strength):
    places = torch.tensor([complex(r, c) for r in range(grid[0]) for c in range(grid[1])])
    return -strength.reshape(-1, 1, 1) * (places[:, None] - places).abs()


@alternative("distance_bias")
def patch_by_patch(grid, strength):
    N = grid[0] * grid[1]
    bias = torch.zeros(len(strength), N, N)
    for i in range(N):
        for j in range(N):
            (r, c), (s, d) = divmod(i, grid[1]), divmod(j, grid[1])
            bias[:, i, j] = -strength * math.sqrt((r - s) ** 2 + (c - d) ** 2)
    return bias
