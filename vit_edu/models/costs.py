"""What the layers of CNNs and ViTs cost, and how far they see, in closed form and counted (lessons 08, 09 and 11).

Multiply-adds are counted for one image: a multiplication and the addition after it are one. Papers that give FLOPs for the
same model may mean this number, or twice as many. As usual, only matrix products and convolutions are counted, without the
addition of their biases; norms, softmax and activations are left out. Padding counts as if it were pixels.
Letters in shapes are those of `vit`; here K is the size of a kernel.
"""

import math

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vit_edu.models.swin import count_windows, pair


def conv_matrix(kernel, rows, cols):
    """The matrix that does to a flattened image what `F.conv2d` with zero padding does to the image.

    kernel: (K, K), K odd. rows, cols: the size of the image, which has one channel and N = rows * cols pixels.
    Returns (N, N): row i holds the weights with which pixel i of the result, in reading order, sums up the pixels of the image.
    So `conv_matrix(kernel, *x.shape) @ x.flatten()` equals `F.conv2d(x[None, None], kernel[None, None], padding=K // 2).flatten()`.
    Like `F.conv2d` it does not flip the kernel: what deep learning calls a convolution is a cross-correlation (PyTorch's
    documentation of `Conv2d`). Raises ValueError for an even K, which has no middle.
    """
    size = len(kernel)
    if kernel.shape != (size, size) or size % 2 == 0:
        raise ValueError(f"the kernel must be square, with an odd side, got {tuple(kernel.shape)}.")
    places = torch.arange(rows * cols, device=kernel.device)
    row, col = places // cols, places % cols  # (N,), (N,)
    # With the middle of the kernel on pixel i, this row and this column of it lie on pixel j.
    down = row - row[:, None] + size // 2  # (N, N)
    right = col - col[:, None] + size // 2  # (N, N)
    outside = (down < 0) | (down >= size) | (right < 0) | (right >= size)  # (N, N)
    weights = kernel[down.clamp(0, size - 1), right.clamp(0, size - 1)]  # (N, N)
    return weights.masked_fill(outside, 0)


def layer_cost(layer, tokens, dim, kernel=3, ratio=4):
    """Parameters and multiply-adds of one layer that reads and returns `tokens` places of width `dim`, as two whole numbers.

    layer: "attention", multi-head self-attention with any number of heads: qkv, two products with T x T weights, output
    projection. "convolution", of kernel x kernel places, from dim to dim channels, stride 1, padded so that the places stay as
    many. "mlp", linear layers from dim to ratio * dim and back. Every linear layer and convolution has a bias. What counts as
    a multiply-add stands at the head of this module. Raises ValueError for another layer.
    """
    if layer == "attention":
        return 4 * dim**2 + 4 * dim, 4 * tokens * dim**2 + 2 * tokens**2 * dim
    if layer == "convolution":
        return kernel**2 * dim**2 + dim, tokens * kernel**2 * dim**2
    if layer == "mlp":
        hidden = int(ratio * dim)
        return 2 * dim * hidden + hidden + dim, 2 * tokens * dim * hidden
    raise ValueError(f'layer is "attention", "convolution" or "mlp", got {layer!r}.')


def mixer_cost(mixer, tokens, dim, hidden=32, kernel=3):
    """Parameters and multiply-adds of one token mixer, (B, tokens, dim) -> (B, tokens, dim), as two whole numbers.

    mixer: "attention", multi-head self-attention, as in `layer_cost`. "mlp", an MLP over the tokens, from tokens to hidden and
    back, with the same weights for every channel. "convolution", depthwise, of kernel x kernel places. "pooling", a mean of
    kernel x kernel numbers, each of which counts as a multiply-add. "random", a fixed tokens x tokens matrix, which is no
    parameter. "none". Every linear layer and convolution has a bias. What counts as a multiply-add stands at the head of this
    module. Raises ValueError for another mixer, also for "fourier", which costs what its algorithm costs.
    """
    if mixer == "attention":
        return layer_cost("attention", tokens, dim)
    if mixer == "mlp":
        return 2 * tokens * hidden + hidden + tokens, 2 * tokens * hidden * dim
    if mixer == "convolution":
        return kernel**2 * dim + dim, tokens * kernel**2 * dim
    if mixer == "pooling":
        return 0, tokens * kernel**2 * dim
    if mixer == "random":
        return 0, tokens**2 * dim
    if mixer == "none":
        return 0, 0
    raise ValueError(
        f'mixer is "attention", "mlp", "convolution", "pooling", "random" or "none", got {mixer!r}.'
    )


def window_attention_cost(grid, dim, window):
    """Multiply-adds of self-attention inside windows, as a whole number: linear in the tokens, if the window stays as it is.

    The layers are those of "attention" in `layer_cost`, but each token attends only to those of its window. grid: (H, W) of a
    map of tokens. window: its side M, in tokens, or (rows, cols). The bias of Swin's scores is an addition, so it is not counted,
    and shifting the windows costs nothing. Source: Liu et al. 2021, arXiv:2103.14030, equation 2.
    Raises ValueError when the sides of the map are not multiples of the window's.
    """
    count_windows(grid, window)
    tokens, inside = math.prod(grid), math.prod(pair(window))
    return 4 * tokens * dim**2 + 2 * tokens * inside * dim


def video_attention_cost(times, patches, dim, attention):
    """Multiply-adds of self-attention over a clip of times x patches tokens of width dim, as a whole number.

    attention: "joint", one layer in which all tokens attend to each other. "factorised", two layers, each with its own weights:
    in the first, a token attends to those of its time, and in the second, to those of its place at all times. The layers are
    those of "attention" in `layer_cost`, which says what counts. Source: Arnab et al. 2021, arXiv:2103.15691, models 1 and 3.
    Raises ValueError for another attention.
    """
    if attention == "joint":
        return layer_cost("attention", times * patches, dim)[1]
    if attention == "factorised":
        over_space, over_time = (
            layer_cost("attention", patches, dim)[1],
            layer_cost("attention", times, dim)[1],
        )
        return times * over_space + patches * over_time
    raise ValueError(f'attention is "joint" or "factorised", got {attention!r}.')


def receptive_field(kernels, strides):
    """The side, in pixels of the input, of the square that one place sees after a stack of convolutions or poolings.

    kernels, strides: the size and the stride of each layer, the first layer first. Returns a whole number, 1 without layers.
    What lies beyond the border of the image counts as well. Source: Araujo et al. 2019, "Computing Receptive Fields of
    Convolutional Neural Networks", Distill, doi:10.23915/distill.00021. Raises ValueError if the lists are not equally long.
    """
    if len(kernels) != len(strides):
        raise ValueError(
            f"every layer has a kernel and a stride, got {len(kernels)} kernels and {len(strides)} strides."
        )
    field, step = 1, 1  # pixels that a place sees, and pixels from one place to the next
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * step
        step *= stride
    return field


def stem_grid(size, strides, kernel=3):
    """The grid of tokens after a stem of convolutions with these strides, each padded with kernel // 2 pixels on every side.

    size: (H, W) of the image in pixels. kernel: its odd size, the same in all layers. Returns (rows, cols).
    """
    rows, cols = size
    for stride in strides:
        rows, cols = ((side + 2 * (kernel // 2) - kernel) // stride + 1 for side in (rows, cols))
    return rows, cols


def multiply_adds(model, shape):
    """The multiply-adds of a model for one image, counted while it runs, in eval mode. The model is left as it was.

    shape: (C, H, W) of the image. Returns a whole number, as defined at the head of this module. Attention counts in full,
    whether the model writes its products out or leaves them to one fused function.
    """
    some = next(model.parameters(), torch.empty(0))
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        # What is fused does not show its products to the counter: in scaled_dot_product_attention on a CPU, and in the whole
        # layers of torch.nn that have such a path.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *shape, dtype=some.dtype, device=some.device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes.items():
            module.training = training
    return counter.get_total_flops() // 2
