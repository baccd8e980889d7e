"""What the embeddings have learned: the filters of the patch projection, and which positions resemble each other."""

import torch
import torch.nn.functional as F

from vit_edu.inspect.running import require_grid, seen, whole_number


def filters(weight, count=28):
    """The first principal components of the patch projection, as small pictures (paper, figure 7 left).

    weight: (D, C, P, P), of `patch_embed.proj`. Returns (count, C, P, P): of the D x CPP matrix of the flattened filters, the
    right singular vectors, the one with the largest singular value first. They are the directions in the space of patches
    that the projection magnifies most. Each has norm 1. Its sign means nothing, and is chosen so that its entry of largest
    size is positive.
    The filters are not centred: the sign of a filter means nothing either, since the layers behind it can undo it, but
    their mean depends on it.
    Raises ValueError unless count is 1 to the smaller of D and CPP.
    """
    if not isinstance(weight, torch.Tensor) or weight.ndim != 4 or not weight.is_floating_point():
        raise ValueError(f"expected the weight of a patch projection, (D, C, P, P), got {seen(weight)}.")
    matrix = weight.detach().flatten(1)  # (D, CPP)
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    count, most = whole_number(count, "count"), min(matrix.shape)
    if not 1 <= count <= most:
        raise ValueError(
            f"{matrix.shape[0]} filters of {matrix.shape[1]} numbers have {most} components, so count is 1 to {most}, got {count}."
        )
    components = torch.linalg.svd(matrix, full_matrices=False).Vh[:count]  # (count, CPP)
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))  # (count, 1)
    return (components * largest.sign()).unflatten(1, weight.shape[1:])


def position_similarity(pos_embed, grid, prefix=0):
    """How much every position resembles every other: the cosine of their embeddings (paper, figure 7 centre).

    pos_embed: (1, T, D), of which the first `prefix` have no place and are left out. grid: (rows, cols).
    Returns (rows, cols, rows, cols): [r, c] is a map of the similarities of the position in row r and column c.
    A vector of zeros has similarity 0 with everything. Raises ValueError if the positions do not fill the grid.
    """
    if not isinstance(pos_embed, torch.Tensor) or pos_embed.ndim != 3 or len(pos_embed) != 1:
        raise ValueError(f"expected learned or fixed positions, (1, T, D), got {seen(pos_embed)}.")
    rows, cols = require_grid(grid, pos_embed.shape[1], prefix)
    directions = F.normalize(pos_embed[0, prefix:].detach(), dim=-1)  # (N, D)
    return (directions @ directions.mT).reshape(rows, cols, rows, cols)
