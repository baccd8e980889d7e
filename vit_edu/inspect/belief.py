"""Which patches count? Several maps that claim to know, and a test of whether to believe them."""

import torch
from torch import nn

from vit_edu.inspect.attention import (
    MOST_BYTES,
    attention_layers,
    attention_maps,
    grid_and_prefix,
    require_same,
    rollout,
    watching,
    weights_and_values,
    with_patches,
)
from vit_edu.inspect.depth import hidden_tokens
from vit_edu.inspect.running import (
    eval_mode,
    logits_of,
    require_classes,
    require_head,
    require_images,
    require_labels,
    seen,
    whole_number,
)
from vit_edu.models.vit import merge_heads, patchify

AT_ONCE_BYTES = 256e6  # of attention weights, while a map is computed
OF_ALL_BLOCKS = ("rollout", "rollout without identity", "gradient x attention")


def importance(model, images, method, labels=None, seed=0):
    """How much each patch counts for the model's answer, as `method` sees it: (B, N), larger is more important.

    images: (B, C, H, W), floats as the model reads them. Patches are in reading order; prefix tokens are left out.
    method: a name of `IMPORTANCE`. Maps (R) of tokens by tokens are read at the tokens that the head reads: the row of the
    class token, or the mean of the rows.
    - "rollout": see `rollout`. "rollout without identity": the same with A instead of 0.5 A + 0.5 I.
    - "last attention": the weights of the last block, mean over the heads.
    - "token norm": the length of the tokens behind the last block.
    - "gradient x input": the pixels times the gradient of the logit, summed over each patch. It may be negative.
      Source: Shrikumar et al. 2016, arXiv:1605.01713.
    - "gradient x attention": R = R + A R over the blocks, starting with I, where A is the positive part of the attention
      weights times the gradient of the logit, mean over the heads. Source: Chefer et al. 2021, arXiv:2103.15679, section 3.
    - "middle": how near to the middle of the picture a patch is. It does not look at the model.
    - "random": numbers drawn with `seed`.
    labels: (B,), the classes whose logits the gradients are of; by default those that the model predicts. With the right
    ones, a map knows more than the model, and blanking looks better than it is. The other methods ignore labels.
    The parameters get no gradient, and the model runs in eval mode and is left as it was.
    Raises ValueError for a name that is not in `IMPORTANCE`, for images that are not floats or none at all, for a model without
    patches or, where it is needed, without attention or head, and for weights that take more than 2 GB for one image.
    """
    if method not in IMPORTANCE:
        raise ValueError(f"there is no method {method!r}; there are {', '.join(IMPORTANCE)}.")
    require_images(images)
    grid_and_prefix(model)
    if labels is not None:
        require_labels(labels, images)
    generator = torch.Generator().manual_seed(seed)
    found, step = [], _images_at_once(model, method)
    for at in range(0, len(images), step):
        some = slice(at, at + step)
        found.append(
            IMPORTANCE[method](model, images[some], None if labels is None else labels[some], generator)
        )
    return torch.cat(found)


def _images_at_once(model, method):
    """For how many images the weights of all blocks are held at once. ValueError if there is not enough room for one image."""
    (rows, cols), prefix = grid_and_prefix(model)
    T = prefix + rows * cols
    heads = sum(layer.num_heads for layer in attention_layers(model)) if method in OF_ALL_BLOCKS else 1
    size = 4 * heads * T**2  # bytes, of one image
    if size > MOST_BYTES:
        raise ValueError(
            f'"{method}" needs the attention weights of all blocks at once, which for {T:,} tokens and {heads} heads '
            f"take {size / 1e9:.1f} GB for one image, and more than {MOST_BYTES / 1e9:g} GB are not computed."
        )
    return max(1, min(256, int(AT_ONCE_BYTES / size)))


# ---------------------------------------------------------------- maps


def _read(model, maps):
    """What the head reads of maps (B, T, T), by patches: (B, N). Row i of a map belongs to output token i."""
    _, prefix = grid_and_prefix(model)
    pooling = getattr(model, "global_pool", "token" if prefix else "avg")
    token, mean = maps[:, 0], maps[:, prefix:].mean(dim=1)  # (B, T) each
    read = {"token": token, "token+avg": (token + mean) / 2}.get(pooling, mean)
    if getattr(model, "head_dist", None) is not None:
        read = (token + maps[:, 1]) / 2
    return read[:, prefix:]


def _rollout(model, images, labels, generator):
    return _read(model, rollout(attention_maps(model, images)))


def _rollout_without_identity(model, images, labels, generator):
    return _read(model, rollout(attention_maps(model, images), identity=0.0))


def _last_attention(model, images, labels, generator):
    return _read(model, attention_maps(model, images, block=-1).mean(dim=1))


def _token_norm(model, images, labels, generator):
    _, prefix = grid_and_prefix(model)
    return hidden_tokens(model, images)[-1, :, prefix:].norm(dim=-1)


def _gradient_x_input(model, images, labels, generator):
    with torch.inference_mode(False), torch.enable_grad(), eval_mode(model):
        images = images.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_logit(model, images, labels), images)
    return _sum_in_patches(model, (images.detach() * gradient).sum(dim=1))


def _gradient_x_attention(model, images, labels, generator):
    """See `importance`. The layers are run with weights that are stored, instead of fused, so that they have a gradient."""
    weights = []

    def see(number, layer, qkv, mixed):
        stored, values = weights_and_values(layer, qkv)
        require_same(layer, stored, values, mixed)
        weights.append(stored)
        return merge_heads(stored @ values)

    layers = attention_layers(model)
    with torch.inference_mode(False), torch.enable_grad(), eval_mode(model), watching(layers, see):
        # Images that need a gradient: then there is one for the weights, even if the parameters are frozen
        logit = _logit(model, images.detach().clone().requires_grad_(), labels)
        gradients = torch.autograd.grad(logit, weights)
    relevance = torch.eye(weights[0].shape[-1]).to(weights[0]).expand(len(images), -1, -1)  # (B, T, T)
    for stored, gradient in zip(weights, gradients, strict=True):
        relevance = relevance + (stored.detach() * gradient).clamp(min=0).mean(dim=1) @ relevance
    return _read(model, relevance)


def _middle(model, images, labels, generator):
    (rows, cols), _ = grid_and_prefix(model)
    row = torch.arange(rows, device=images.device) - (rows - 1) / 2
    col = torch.arange(cols, device=images.device) - (cols - 1) / 2
    near = -torch.hypot(row[:, None] / rows, col / cols)  # (rows, cols)
    return near.flatten().expand(len(images), -1).clone()


def _random(model, images, labels, generator):
    (rows, cols), _ = grid_and_prefix(model)
    return torch.rand(len(images), rows * cols, generator=generator).to(images.device)


IMPORTANCE = {
    "rollout": _rollout,
    "rollout without identity": _rollout_without_identity,
    "last attention": _last_attention,
    "token norm": _token_norm,
    "gradient x input": _gradient_x_input,
    "gradient x attention": _gradient_x_attention,
    "middle": _middle,
    "random": _random,
}


def _logit(model, images, labels):
    """The logits of the classes, or of those that the model predicts, summed over the images: a tensor with one number."""
    require_head(model)
    logits = model(images)  # (B, K)
    if labels is None:
        labels = logits.argmax(dim=1)
    require_classes(labels, logits)
    return logits.gather(1, labels[:, None].to(logits.device, torch.int64, copy=True)).sum()


def _sum_in_patches(model, pixels):
    """(B, H, W) -> (B, N), the sums over the patches. Pixels at the right and at the bottom that fill no patch are left out."""
    (rows, cols), _ = grid_and_prefix(model)
    proj, sides = getattr(with_patches(model).patch_embed, "proj", None), pixels.shape[1:]
    height, width = proj.stride if isinstance(proj, nn.Conv2d) else (sides[0] // rows, sides[1] // cols)
    pixels = pixels[:, : rows * height, : cols * width]
    return pixels.unflatten(2, (cols, width)).unflatten(1, (rows, height)).sum(dim=(2, 4)).flatten(1)


# ---------------------------------------------------------------- the test


def deletion_curve(model, images, labels, scores, patch_size, steps):
    """What is still right when the patches with the highest scores are blanked: a float tensor (len(steps),).

    images: (B, C, H, W), normalised, so that 0 is the mean colour, with which patches are blanked. labels: (B,). scores:
    (B, N), larger is more important; each image loses its own patches. Of equal scores, the earlier patch goes first.
    patch_size: P, in pixels. steps: how many patches are blanked each time, 0 to N; entry k is the share of the
    images, 0..1, that the model still gets right without their steps[k] patches of highest score.
    The images are not changed, and the model runs in eval mode and is left as it was.
    Source: Samek et al. 2015, arXiv:1509.06321; "deletion" in Petsiuk et al. 2018, arXiv:1806.07421.
    Raises ValueError for images that are not floats, or none at all, and for labels, scores or steps that do not fit.
    """
    require_images(images)
    require_labels(labels, images)
    N = patchify(images[:1], patch_size).shape[1]  # which also says whether the images can be cut
    if not isinstance(scores, torch.Tensor) or scores.shape != (len(images), N):
        raise ValueError(
            f"expected a score for each of the {N} patches of each of the {len(images)} images, ({len(images)}, {N}), "
            f"got {seen(scores)}."
        )
    if scores.isnan().any():
        raise ValueError("some scores are nan, so it is not known which patches are the most important ones.")
    steps = [whole_number(step, "a number of patches in steps") for step in steps]
    if not all(0 <= step <= N for step in steps):
        raise ValueError(f"0 to {N} patches can be blanked, but steps holds {steps}.")
    order = scores.argsort(dim=1, descending=True, stable=True).to(images.device)
    cols = images.shape[-1] // patch_size
    place = order.argsort(dim=1).unflatten(1, (-1, cols))  # (B, rows, cols): 0 for the highest score
    place = place.repeat_interleave(patch_size, dim=1).repeat_interleave(patch_size, dim=2)  # (B, H, W)
    right = []
    for step in steps:
        logits = logits_of(model, images.masked_fill((place < step)[:, None], 0.0))  # (B, K)
        require_classes(labels, logits)
        right.append((logits.argmax(dim=1) == labels.to(logits.device)).float().mean().item())
    return torch.tensor(right)
