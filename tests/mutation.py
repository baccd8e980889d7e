"""Mutants: the reference of an exercise with one small change that a program made. Each should fail a check.

Two axes exchanged, a term dropped, a constant, an operator or a comparison changed, a call or a statement left out. A
mutant that passes every check is a survivor. Either it is a right answer as well, and EXPLAINED says why, or a check is
missing.
"""

import ast
import copy
import inspect
import sys
import textwrap

from vit_edu.check import engine

# What was changed in the reference of an exercise -> why the mutant is a right answer all the same.
EXPLAINED = {
    "drop_path": {
        "0.0 -> 1.0 in: if not training or drop_prob == 0.0:": "at rate 0 the mask is all ones and the divisor is 1; rate 1 is not part of the exercise",
    },
    "make_blocks": {
        "max(1, depth - 1) -> max(depth - 1, 1)": "the same maximum",
    },
    "prepend_class_token": {
        "-1 -> 1 in: return torch.cat([cls_token.expand(len(tokens), -1, -1), tokens], dim=1)": "expand keeps an axis of length 1 for 1 as for -1",
    },
    "sincos_positions": {
        "torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing='ij') -> without indexing": "'ij' is the default, with a warning",
    },
    "scaled_dot_product_attention": {
        "k.transpose(-2, -1) -> k.transpose(-1, -2)": "the same exchange of two axes",
    },
    "drop_tokens": {
        "max(1, round(keep * T)) -> max(round(keep * T), 1)": "the same maximum",
        "torch.rand(B, T, device=tokens.device) -> without device": "all cases are on the CPU",
        "torch.rand(B, T, device=tokens.device).topk(count, dim=1) -> without dim": "the last axis is the default",
    },
    "smooth_labels": {
        "F.one_hot(labels, num_classes).float() -> F.one_hot(labels, num_classes)": "the product with a Python float is one in float32 as well",
    },
    "Embeddings": {
        "-1 -> 1 in: x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)": "expand keeps an axis of length 1 for 1 as for -1",
        "pos_embed == 'sincos' -> pos_embed != 'sincos'": "an option that the exercise does not have",
        "F.pad(fixed, (0, 0, int(class_token), 0)) -> fixed": "an option that the exercise does not have",
        "F.pad(fixed, (0, 0, int(class_token), 0)) -> F.pad((0, 0, int(class_token), 0), fixed)": "an option that the exercise does not have",
        "0 -> 1 in: fixed = F.pad(fixed, (0, 0, int(class_token), 0))": "an option that the exercise does not have",
        "0 -> -1 in: fixed = F.pad(fixed, (0, 0, int(class_token), 0))": "an option that the exercise does not have",
        "int(class_token) -> class_token": "an option that the exercise does not have",
        "self.register_buffer('pos_embed', fixed[None]) -> 'pos_embed'": "an option that the exercise does not have",
        "self.register_buffer('pos_embed', fixed[None]) -> self.register_buffer(fixed[None], 'pos_embed')": "an option that the exercise does not have",
        "pos_embed == 'none' -> pos_embed != 'none'": "an option that the exercise does not have",
        "without: if pos_embed == 'sincos':": "an option that the exercise does not have",
        "without: fixed = sincos_positions(*self.patch_embed.grid_size, embed_dim)": "an option that the exercise does not have",
        "without: fixed = F.pad(fixed, (0, 0, int(class_token), 0))": "an option that the exercise does not have",
        "without: self.register_buffer('pos_embed', fixed[None])": "an option that the exercise does not have",
        "without: if pos_embed == 'none':": "an option that the exercise does not have",
        "without: self.pos_embed = None": "an option that the exercise does not have",
    },
    "patchify": {
        "-2 -> 2 in: rows, cols = _grid(*images.shape[-2:], patch_size)": "the same for four axes: shape[2:] is shape[-2:]",
    },
    "resize_pos_embed": {
        "grid.shape[1] ** 0.5 + 0.5 -> grid.shape[1] ** 0.5": "the root of a square number is exact in float64",
        "0.5 -> 0.0 in: n = int(grid.shape[1] ** 0.5 + 0.5)": "the root of a square number is exact in float64",
        "grid.reshape(1, rows, cols, -1) -> grid.reshape(1, cols, rows, -1)": "the exercise starts from square grids only",
        "grid.flatten(2).transpose(1, 2) -> grid.flatten(2).transpose(2, 1)": "the same exchange of two axes",
    },
    "knn_predict": {
        "F.normalize(queries, dim=1) -> queries": "the length of a query scales its whole row and changes no order",
        "F.normalize(queries, dim=1) -> without dim": "axis 1 is the default",
        "F.normalize(features, dim=1) -> without dim": "axis 1 is the default",
        "similar.topk(k, dim=1) -> without dim": "the last axis is the default, and the last of two",
    },
    "random_flip": {
        "torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5 -> torch.rand(len(images), 1, 1, 1, device=images.device) <= 0.5": "exactly 0.5 is hardly ever drawn",
        "torch.where(flip, images.flip(-1), images) -> torch.where(flip, images, images.flip(-1))": "the other half is mirrored: still probability 1/2",
        "torch.rand(len(images), 1, 1, 1, device=images.device) -> without device": "the same on the CPU, where answers are checked",
    },
    "accuracy": {
        "-1 -> 1 in: return (logits.argmax(dim=-1) == labels).float().mean().item()": "the last of two axes is axis 1",
    },
    "train_step": {
        "autocast(images.device, cpu_bf16) -> images.device": "autocast is not part of the exercise",
    },
    "evaluate": {
        "autocast(images.device) -> images.device": "autocast is not part of the exercise",
        "-1 -> 1 in: right += (model(images).argmax(dim=-1) == labels).sum().item()": "the last of two axes is axis 1",
    },
    "random_crop": {
        "torch.randint(0, 2 * padding + 1, (2, B), device=images.device) -> without device": "the same on the CPU, where answers are checked",
        "torch.arange(B, device=images.device) -> without device": "the same on the CPU, where answers are checked",
    },
    "ViT": {
        "nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity() -> nn.Linear(embed_dim, num_classes)": "a model without a head is not part of the exercise",
        "init_weights(self) -> self": "the text leaves the initial weights free",
        "without: init_weights(self)": "the text leaves the initial weights free",
    },
    "batch_independent": {
        "torch.allclose(model(images), alone, atol=1e-05) -> torch.allclose(alone, model(images), atol=1e-05)": "the same comparison",
        "1e-05 -> 2e-05 in: return torch.allclose(model(images), alone, atol=1e-05)": "still room for rounding, and for nothing else",
    },
    "parameters_without_gradient": {
        "model(images).square() -> model(images)": "any function of the output serves",
    },
    "order_matters": {
        "torch.allclose(model(images), model(_moved(images, patch_size)), atol=1e-05) -> torch.allclose(model(_moved(images, patch_size)), model(images), atol=1e-05)": "the same comparison",
        "1e-05 -> 2e-05 in: return not torch.allclose(model(images), model(_moved(images, patch_size)), atol=1e-05)": "still room for rounding, and for nothing else",
    },
    "filters": {
        "whole_number(count, 'count') -> count": "bad input is not part of the exercise",
        "weight.detach() -> weight": "the cases need no gradient",
        "matrix if matrix.dtype == torch.float64 else matrix.float() -> matrix": "half precision is not part of the exercise",
        "matrix if matrix.dtype == torch.float64 else matrix.float() -> matrix.float()": "the exercise does not ask for float64",
        "matrix.dtype == torch.float64 -> matrix.dtype != torch.float64": "the exercise does not ask for float64",
        "matrix.float() -> matrix": "half precision is not part of the exercise",
        "without: matrix = matrix if matrix.dtype == torch.float64 else matrix.float()": "half precision is not part of the exercise",
        "torch.linalg.svd(matrix, full_matrices=False) -> without full_matrices": "the full matrices begin with the same rows",
        "False -> True in: components = torch.linalg.svd(matrix, full_matrices=False).Vh[:count]": "the full matrices begin with the same rows",
        "components.abs() -> components": "either sign is right",
        "components * largest.sign() -> components / largest.sign()": "the same for 1 and -1",
        "components * largest.sign() -> components": "either sign is right",
    },
    "position_similarity": {
        "require_grid(grid, pos_embed.shape[1], prefix) -> grid": "a grid that does not fit is not part of the exercise",
        "F.normalize(pos_embed[0, prefix:].detach(), dim=-1) -> without dim": "axis 1 is the default, and the last of two",
        "pos_embed[0, prefix:].detach() -> pos_embed[0, prefix:]": "the cases need no gradient",
        "0 -> -1 in: directions = F.normalize(pos_embed[0, prefix:].detach(), dim=-1)": "there is only one",
        "-1 -> 1 in: directions = F.normalize(pos_embed[0, prefix:].detach(), dim=-1)": "the last of two axes is axis 1",
    },
    "attention_distance": {
        "require_weights(weights, 4, 'the weights of one block, (B, h, T, T), as in attention_maps(model, images)[0]') -> weights": "bad input is not part of the exercise",
        "without: require_weights(weights, 4, 'the weights of one block, (B, h, T, T), as in attention_maps(model, images)[0]')": "bad input is not part of the exercise",
        "require_grid(grid, weights.shape[-1], prefix) -> grid": "a grid that does not fit is not part of the exercise",
        "without: grid = require_grid(grid, weights.shape[-1], prefix)": "a grid that does not fit is not part of the exercise",
        "1 -> 2 in: grid = require_grid(grid, weights.shape[-1], prefix)": "there are as many queries as keys",
    },
    "rollout": {
        "require_weights(weights, 5, 'the weights of all blocks, (L, B, h, T, T), as from attention_maps(model, images)') -> weights": "bad input is not part of the exercise",
        "without: require_weights(weights, 5, 'the weights of all blocks, (L, B, h, T, T), as from attention_maps(model, images)')": "bad input is not part of the exercise",
        "torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device) -> without dtype": "the product with float64 is float64",
        "torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device) -> without device": "all cases are on the CPU",
        "1 -> 2 in: eye = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)": "there are as many queries as keys",
        "eye.expand(weights.shape[1], -1, -1) -> eye": "the product makes the axis of the images",
        "1 - identity -> identity": "both are one half",
    },
    "deletion_curve": {
        "require_images(images) -> images": "bad input is not part of the exercise",
        "without: require_images(images)": "bad input is not part of the exercise",
        "require_labels(labels, images) -> labels": "bad input is not part of the exercise",
        "without: require_labels(labels, images)": "bad input is not part of the exercise",
        "1 -> 2 in: N = patchify(images[:1], patch_size).shape[1]": "only the second axis counts, that of the patches",
        "1 -> 0 in: N = patchify(images[:1], patch_size).shape[1]": "only the second axis counts, that of the patches",
        "whole_number(step, 'a number of patches in steps') -> step": "bad input is not part of the exercise",
        "without: steps = [whole_number(step, 'a number of patches in steps') for step in steps]": "bad input is not part of the exercise",
        "require_classes(labels, logits) -> labels": "bad input is not part of the exercise",
        "without: require_classes(labels, logits)": "bad input is not part of the exercise",
        "order.argsort(dim=1) -> without dim": "the last axis is the default, and the last of two",
        "scores.argsort(dim=1, descending=True, stable=True) -> without dim": "the last axis is the default, and the last of two",
        "scores.argsort(dim=1, descending=True, stable=True) -> without stable": "no two scores of an image are equal",
        "True -> False in: order = scores.argsort(dim=1, descending=True, stable=True).to(images.device)": "no two scores of an image are equal",
        "scores.argsort(dim=1, descending=True, stable=True).to(images.device) -> scores.argsort(dim=1, descending=True, stable=True)": "all cases are on the CPU",
        "labels.to(logits.device) -> labels": "all cases are on the CPU",
        "(logits.argmax(dim=1) == labels.to(logits.device)).float().mean().item() -> (logits.argmax(dim=1) == labels.to(logits.device)).float().mean()": "torch.tensor takes a list of either",
    },
    "conv_matrix": {
        "torch.arange(rows * cols, device=kernel.device) -> without device": "all cases are on the CPU",
        "0 -> -1 in: weights = kernel[down.clamp(0, size - 1), right.clamp(0, size - 1)]": "what is read outside the kernel becomes 0 afterwards",
    },
    "layer_cost": {
        "int(ratio * dim) -> ratio * dim": "the exercise has whole ratios only",
    },
    "receptive_field": {
        "zip(kernels, strides, strict=True) -> without strict": "lists of unequal length are not part of the exercise",
        "True -> False in: for kernel, stride in zip(kernels, strides, strict=True):": "lists of unequal length are not part of the exercise",
    },
    "shift_consistency": {
        "require_images(images) -> images": "images that no model reads are not part of the exercise",
        "without: require_images(images)": "images that no model reads are not part of the exercise",
        "pixels if several else [pixels] -> [pixels]": "several distances are not part of the exercise",
        "torch.tensor(shares) if several else shares[0] -> shares[0]": "several distances are not part of the exercise",
        "torch.tensor(shares) -> shares": "several distances are not part of the exercise",
        "0 -> -1 in: return torch.tensor(shares) if several else shares[0]": "the first of one share is also the last",
    },
    "token_mixing": {
        "x.transpose(1, 2) -> x.transpose(2, 1)": "the same exchange of two axes",
        "F.linear(hidden, w2, b2).transpose(1, 2) -> F.linear(hidden, w2, b2).transpose(2, 1)": "the same exchange of two axes",
    },
    "MixerBlock": {
        "self.drop_path(mix_tokens(self.norm1(x))) -> mix_tokens(self.norm1(x))": "stochastic depth is not part of the exercise",
        "self.drop_path(mix_channels(self.norm2(x))) -> mix_channels(self.norm2(x))": "stochastic depth is not part of the exercise",
    },
    "mixing_matrix": {
        "inputs.to(next(_parameters(mix), inputs)) -> inputs": "all cases are on the CPU, in float32",
    },
    "pooling": {
        "x.transpose(1, 2) -> x.transpose(2, 1)": "the same exchange of two axes",
        "means.flatten(2).transpose(1, 2) -> means.flatten(2).transpose(2, 1)": "the same exchange of two axes",
    },
    "permutation_sensitivity": {
        "require_order(order, x.shape[1], 'tokens').to(x.device) -> require_order(order, x.shape[1], 'tokens')": "all cases are on the CPU",
        "require_order(order, x.shape[1], 'tokens') -> order": "bad input is not part of the exercise",
        "without: order = require_order(order, x.shape[1], 'tokens').to(x.device)": "bad input is not part of the exercise",
    },
    "tokens_to_map": {
        "tokens.transpose(1, 2) -> tokens.transpose(2, 1)": "the same exchange of two axes",
        "F.interpolate(maps, size=tuple(image_size), mode='bilinear', align_corners=False) -> without align_corners": "False is the default",
        "tuple(image_size) -> image_size": "it is a tuple in all cases",
    },
    "class_iou": {
        "predicted.flatten().long() -> predicted.flatten()": "its sum with the masks, which are int64 by then, is int64 as well",
    },
    "dice_loss": {
        "masks.long() -> masks": "the masks are int64 in all cases",
        "F.one_hot(masks.long(), logits.shape[1]).movedim(-1, 1).to(p) -> F.one_hot(masks.long(), logits.shape[1]).movedim(-1, 1)": "the product of whole numbers and floats has the type of the floats",
    },
    "distance_bias": {
        "torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing='ij') -> without indexing": "'ij' is the default, with a warning",
        "rows.flatten().to(strength) -> rows.flatten()": "the columns alone give both their type",
        "cols.flatten().to(strength) -> cols.flatten()": "the rows alone give both their type",
        "torch.hypot(row[:, None] - row, col[:, None] - col) -> torch.hypot(col[:, None] - col, row[:, None] - row)": "the same length",
    },
    "random_masking": {
        "noise.argsort(dim=1) -> without dim": "the last axis is the default, and the last of two",
        "shuffled.argsort(dim=1) -> without dim": "the last axis is the default, and the last of two",
    },
    "decoder_input": {
        "mask_token.expand(B, N - visible.shape[1], -1).to(visible.dtype) -> mask_token.expand(B, N - visible.shape[1], -1)": "half precision is not part of the exercise",
        "N - visible.shape[1] -> N + visible.shape[1]": "mask tokens that are too many stand at the end, where nobody looks them up",
        "N - visible.shape[1] -> N": "mask tokens that are too many stand at the end, where nobody looks them up",
    },
    "rotate_batch": {
        "-2 -> 2 in: H, W = images.shape[-2:]": "the same for four axes: shape[2:] is shape[-2:]",
        "-2 -> 2 in: turned = torch.cat([torch.rot90(images, turns, dims=(-2, -1)) for turns in range(4)])": "the same for four axes: 2 is -2",
        "torch.arange(4, device=images.device) -> without device": "all cases are on the CPU",
    },
    "colour_targets": {
        "torch.tensor(LUMA, dtype=images.dtype, device=images.device) -> without dtype": "the exercise does not ask for float64",
        "torch.tensor(LUMA, dtype=images.dtype, device=images.device) -> without device": "all cases are on the CPU",
    },
    "fair_probe": {
        "1e-06 -> 2e-06 in: mean, std = (features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(1e-06))": "any bound serves that keeps a feature without deviation from dividing by 0",
        "features.std(dim=0, correction=0) -> without correction": "either deviation is right",
        "0 -> 1 in: mean, std = (features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(1e-06))": "either deviation is right",
        "0 -> -1 in: mean, std = (features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(1e-06))": "next to the right deviation, which need not be exact",
        "wanted - bias -> wanted + bias": "the mean of x is 0, so a constant in what is wanted changes no weight",
        "wanted - bias -> wanted": "the mean of x is 0, so a constant in what is wanted changes no weight",
        "torch.eye(x.shape[1]).to(x) -> torch.eye(x.shape[1])": "all cases are in float32 and on the CPU",
    },
    "shifted_window_mask": {
        "zip(grid, shift, strict=True) -> without strict": "grid and shift are pairs in any case",
        "True -> False in: row, col = (torch.arange(side) >= side - s for side, s in zip(grid, shift, strict=True))": "grid and shift are pairs in any case",
        "2 -> 3 in: region = 2 * row[:, None] + col": "any two weights serve that tell four regions apart",
    },
    "relative_position_index": {
        "torch.cartesian_prod(torch.arange(rows), torch.arange(cols)) -> torch.cartesian_prod(torch.arange(cols), torch.arange(rows))": "windows that are not square are not part of the exercise",
    },
    "window_attention_cost": {
        "count_windows(grid, window) -> grid": "a map that cannot be cut into windows is not part of the exercise",
        "without: count_windows(grid, window)": "a map that cannot be cut into windows is not part of the exercise",
    },
    "generalized_box_iou": {
        "torch.minimum(boxes1[..., :, None, :2], boxes2[..., None, :, :2]) -> torch.minimum(boxes2[..., None, :, :2], boxes1[..., :, None, :2])": "the same minimum",
        "torch.maximum(boxes1[..., :, None, 2:], boxes2[..., None, :, 2:]) -> torch.maximum(boxes2[..., None, :, 2:], boxes1[..., :, None, 2:])": "the same maximum",
    },
    "matching_cost": {
        "-1 -> 1 in: probability = logits.softmax(dim=-1)": "the last of two axes is axis 1",
        "labels.clamp(min=0) -> labels": "unused rows are not part of the exercise",
        "0 -> -1 in: named = labels.clamp(min=0)[..., None, :].expand(*logits.shape[:-1], -1)": "unused rows are not part of the exercise",
        "-1 -> 1 in: named = labels.clamp(min=0)[..., None, :].expand(*logits.shape[:-1], -1)": "of two axes, both leave out the last",
        "-1 -> 1 in: chosen = probability.gather(-1, named)": "the last of two axes is axis 1",
    },
    "set_loss": {
        "torch.ones(nothing + 1, dtype=logits.dtype, device=logits.device) -> without dtype": "the exercise does not ask for float64",
        "torch.ones(nothing + 1, dtype=logits.dtype, device=logits.device) -> without device": "all cases are on the CPU",
        "torch.full(logits.shape[:2], nothing, device=logits.device) -> without device": "all cases are on the CPU",
        "generalized_box_iou(to_corners(found)[:, None], to_corners(target)[:, None]) -> generalized_box_iou(to_corners(target)[:, None], to_corners(found)[:, None])": "the same for a pair",
        "0 -> -1 in: overlap = generalized_box_iou(to_corners(found)[:, None], to_corners(target)[:, None])[:, 0, 0]": "there is only one",
        "max(1, len(row)) -> max(len(row), 1)": "the same maximum",
    },
    "average_precision": {
        "hits[scores.argsort(descending=True, stable=True)].double() -> hits[scores.argsort(descending=True, stable=True)]": "float32 is exact enough",
        "scores.argsort(descending=True, stable=True) -> without stable": "torch keeps the order of so few",
        "True -> False in: hits = hits[scores.argsort(descending=True, stable=True)].double()": "torch keeps the order of so few",
        "0 -> -1 in: right = hits.cumsum(dim=0)": "there is only one axis",
        "torch.arange(1, len(hits) + 1, device=hits.device) -> without device": "all cases are on the CPU",
        "precision.flip(0).cummax(dim=0).values.flip(0) if len(hits) else precision -> precision.flip(0).cummax(dim=0).values.flip(0)": "only some versions of torch refuse an empty tensor",
        "0 -> -1 in: precision = precision.flip(0).cummax(dim=0).values.flip(0) if len(hits) else precision": "there is only one axis",
        "torch.arange(101, dtype=torch.float64, device=hits.device) -> without dtype": "float32 is exact enough",
        "torch.arange(101, dtype=torch.float64, device=hits.device) -> without device": "all cases are on the CPU",
        "1 -> 2 in: return F.pad(precision, (0, 1))[first].mean().item()": "nobody reads the second 0",
    },
}

SWAPS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.Eq: ast.NotEq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def mutations(node):
    """(what, other node) for every small change of this node alone."""
    if isinstance(node, ast.BinOp):
        if type(node.op) in SWAPS:
            other = copy.copy(node)
            other.op = SWAPS[type(node.op)]()
            yield f"{ast.unparse(node)} -> {ast.unparse(other)}", other
        for part in (node.left, node.right):  # drop a term or a factor
            yield f"{ast.unparse(node)} -> {ast.unparse(part)}", part
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        other = copy.copy(node)
        other.ops = [SWAPS[type(node.ops[0])](), *node.ops[1:]]
        yield f"{ast.unparse(node)} -> {ast.unparse(other)}", other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield f"{ast.unparse(node)} -> {ast.unparse(node.operand)}", node.operand
    elif isinstance(node, ast.Constant):
        for value in _constants(node.value):
            yield f"{node.value!r} -> {value!r}", ast.Constant(value)
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.IfExp):
        for part in (node.body, node.orelse):
            yield f"{ast.unparse(node)} -> {ast.unparse(part)}", part


def _constants(value):
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value * 2, 0.0 if value else 1.0]
    if isinstance(value, str) and "->" in value:  # an einops pattern: exchange two neighbours after the arrow
        left, right = value.split("->")
        names = right.split()
        swapped = []
        for i in range(len(names) - 1):
            a, b = (n.strip("()") for n in names[i : i + 2])
            other = [
                names[i].replace(a, b),
                names[i + 1].replace(b, a),
            ]
            swapped.append(f"{left}-> {' '.join(names[:i] + other + names[i + 2 :])}")
        return swapped
    return []


def _calls(node):
    inner = None
    if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
        inner = node.func.value  # x[...].method(...) -> x[...]
    elif isinstance(node.func, ast.Attribute) and node.func.value.id not in (
        "torch",
        "F",
        "nn",
        "math",
        "self",
        "vit",
        "random",
    ):
        inner = node.func.value  # x.method(...) -> x
    elif node.args and not any(isinstance(a, ast.Starred) for a in node.args):
        inner = node.args[0]  # f(x, ...) -> x
    if inner is not None:
        yield f"{ast.unparse(node)} -> {ast.unparse(inner)}", inner
    if len(node.args) >= 2 and not any(isinstance(a, ast.Starred) for a in node.args):
        for i in range(len(node.args) - 1):  # exchange two arguments
            other = copy.copy(node)
            other.args = list(node.args)
            other.args[i], other.args[i + 1] = other.args[i + 1], other.args[i]
            yield f"{ast.unparse(node)} -> {ast.unparse(other)}", other
    for i, keyword in enumerate(node.keywords):  # leave out a named argument
        other = copy.copy(node)
        other.keywords = node.keywords[:i] + node.keywords[i + 1 :]
        yield f"{ast.unparse(node)} -> without {keyword.arg}", other


def mutants(reference):
    """(what, function or class) for every mutation of the source of `reference` that can be built."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(reference)))
    home = sys.modules[reference.__module__]
    seen = {ast.unparse(tree)}
    for path, node in _walk(tree):
        for what, other in mutations(node):
            mutant = copy.deepcopy(tree)
            _replace(mutant, path, other)
            source = ast.unparse(ast.fix_missing_locations(mutant))
            if source in seen:
                continue
            seen.add(source)
            names = dict(vars(home))
            try:
                # super() without arguments works, because the class is compiled as a whole
                exec(compile(source, "<mutant>", "exec"), names)
            except Exception:
                continue
            if isinstance(node, ast.Constant | ast.UnaryOp):
                what += f" in: {_statement(tree, path)}"
            yield what, names[reference.__name__]
    for path, node in _walk(tree):  # leave out a statement
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.If) and not (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            mutant = copy.deepcopy(tree)
            _replace(mutant, path, ast.Pass())
            names = dict(vars(home))
            exec(compile(ast.fix_missing_locations(mutant), "<mutant>", "exec"), names)
            yield f"without: {ast.unparse(node).splitlines()[0]}", names[reference.__name__]


def _walk(node, path=()):
    """(path, node) for all nodes, decorators, annotations, default values, texts and error messages left out."""
    if isinstance(node, ast.Raise) or (
        isinstance(node, ast.If) and all(isinstance(n, ast.Raise) for n in node.body)
    ):
        return
    yield path, node
    for name, value in ast.iter_fields(node):
        if name in ("decorator_list", "annotation", "returns", "args") and not isinstance(node, ast.Call):
            continue
        if isinstance(value, ast.AST):
            yield from _walk(value, (*path, (name, None)))
        elif isinstance(value, list):
            for i, each in enumerate(value):
                docstring = isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
                if isinstance(each, ast.AST) and not docstring:
                    yield from _walk(each, (*path, (name, i)))


def _statement(tree, path):
    """The first line of the innermost statement on this path."""
    node = found = tree
    for name, i in path:
        node = getattr(node, name) if i is None else getattr(node, name)[i]
        if isinstance(node, ast.stmt):
            found = node
    return ast.unparse(found).splitlines()[0]


def _replace(tree, path, other):
    for name, i in path[:-1]:
        tree = getattr(tree, name) if i is None else getattr(tree, name)[i]
    name, i = path[-1]
    if i is None:
        setattr(tree, name, other)
    else:
        getattr(tree, name)[i] = other


def survivors(exercise):
    """(how many mutants there are, those that pass every check, as texts)."""
    passed, total, limit, sizes = [], 0, engine.TIME_LIMIT, exercise.sizes
    engine.TIME_LIMIT = 2.0  # some mutants loop
    exercise.sizes = ()  # what is said about them does not matter here
    try:
        for what, mutant in mutants(exercise.reference):
            total += 1
            if exercise.check(mutant).passed:
                passed.append(what)
    finally:
        engine.TIME_LIMIT, exercise.sizes = limit, sizes
    return total, passed
