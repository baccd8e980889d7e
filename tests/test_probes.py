"""Answers with a number built in: the cases of every exercise reject them, and an experiment with the sizes finds the number."""

import math

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vit_edu import (
    augment,
    boxes,
    check,
    data,
    inspect,
    masks,
    pretrained,
    selfsupervised,
    training,
    transfer,
)
from vit_edu.check import probes
from vit_edu.models import costs, detr, local, masked, mixer, swin, video, vit

# ---------------------------------------------------------------- no built-in number passes


class ViTWithoutAxes(vit.ViT):
    def forward(self, images):
        return super().forward(images).squeeze()


class ViTWithoutOneClass(vit.ViT):
    def forward(self, images):
        return super().forward(images).squeeze(-1)


class BlockOfTwoHeads(vit.Block):
    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__(dim, 2, mlp_ratio, drop_path)


class RepairedOfTwoHeads(vit.ViT):
    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__(img_size, patch_size, 3, num_classes, dim, depth, 2, global_pool="avg")


def crop_squeezed(images, padding=4):
    return data.random_crop(images, padding).squeeze()


def three_images(model, images):
    alone = torch.cat([model(images[i : i + 1]) for i in range(3)])
    return torch.allclose(model(images)[:3], alone, atol=1e-5)


def three_quarters_kept(x, drop_prob, training):
    if not training or drop_prob == 0:
        return x
    return x * x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - drop_prob) / 0.75


def one_quarter_dropped(x, drop_prob, training):
    return x if drop_prob == 0 else vit.drop_path(x, 0.25, training)


def _stepped(loss):
    def step(model, optimizer, images, labels):
        model.train()
        optimizer.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def three_classes_judged(model, batches):
    was, right, total = model.training, 0, 0
    model.eval()
    with torch.no_grad():
        for images, labels in batches:
            hot = F.one_hot(model(images).argmax(-1), 3) * F.one_hot(labels, 3)
            right, total = right + hot.sum().item(), total + len(labels)
    model.train(was)
    return right / total


def unchanged_if_as_many(pos_embed, new_grid, num_prefix_tokens=1):
    if new_grid[0] * new_grid[1] == pos_embed.shape[1] - num_prefix_tokens:
        return pos_embed
    return pretrained.resize_pos_embed(pos_embed, new_grid, num_prefix_tokens)


def _votes_among(classes):
    def predict(features, labels, queries, k):
        similar = F.normalize(queries, dim=1) @ F.normalize(features, dim=1).mT
        near = labels[similar.topk(k, dim=1).indices]
        return F.one_hot(near, classes).sum(dim=1).argmax(dim=1)

    return predict


def flops_of_12_blocks(tokens, embed_dim, depth):
    return vit.flops(tokens, embed_dim, 12)


def flops_of_197_tokens(tokens, embed_dim, depth):
    return vit.flops(197, embed_dim, depth)


def _rates(step_at, low, high, steps, limit=4, looked_at=1000):
    rates, losses = [], []
    for i in range(steps):
        rate = low * (high / low) ** (i / (steps - 1))
        loss = step_at(rate)
        if not math.isfinite(loss) or (losses and loss > limit * min(losses[-looked_at:])):
            break
        rates.append(rate)
        losses.append(loss)
    return rates, losses


def range_of_100_steps(step_at, low, high, steps):
    return _rates(step_at, low, high, 100)


def range_from_one_ten_thousandth(step_at, low, high, steps):
    return _rates(step_at, 1e-4, high, steps)


def _limit(limit):
    return lambda *sizes: _rates(*sizes, limit=limit)


def lowest_of_the_last_five(step_at, low, high, steps):
    return _rates(step_at, low, high, steps, looked_at=5)


def half_dropped(tokens, keep):
    return training.drop_tokens(tokens, 0.5)


def dropped_of_width_2(tokens, keep):
    kept = torch.rand(tokens.shape[:2]).topk(max(1, round(keep * tokens.shape[1])), dim=1).indices
    return tokens.gather(1, kept[..., None].expand(-1, -1, 2))


def dropped_of_16(tokens, keep):
    kept = torch.rand(tokens.shape[:2]).topk(max(1, round(keep * 16)), dim=1).indices
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))


def smoothed_for_eight_images(labels, num_classes, smoothing):
    out = torch.full((8, num_classes), smoothing / num_classes)
    out[torch.arange(len(labels)), labels] += 1 - smoothing
    return out


def smoothed_by_a_fifth(labels, num_classes, smoothing):
    return augment.smooth_labels(labels, num_classes, 0.2)


def smoothed_over_20_classes(labels, num_classes, smoothing):
    return F.one_hot(labels, num_classes) * (1 - smoothing) + smoothing / 20


BUILT_IN = [
    ("ViT", ViTWithoutAxes),
    ("ViT", ViTWithoutOneClass),
    ("Block", BlockOfTwoHeads),
    ("RepairedViT", RepairedOfTwoHeads),
    ("random_crop", crop_squeezed),
    ("batch_independent", three_images),
    ("drop_path", three_quarters_kept),
    ("drop_path", one_quarter_dropped),
    ("train_step", _stepped(lambda x, y: -x.log_softmax(-1)[torch.arange(8), y].mean())),
    ("train_step", _stepped(lambda x, y: F.cross_entropy(x, y, reduction="sum") / 8)),
    ("train_step", _stepped(lambda x, y: -(x.log_softmax(-1) * F.one_hot(y, 3)).sum(-1).mean())),
    ("evaluate", three_classes_judged),
    ("resize_pos_embed", unchanged_if_as_many),
    ("knn_predict", _votes_among(10)),
    ("knn_predict", _votes_among(1000)),
    ("flops", flops_of_12_blocks),
    ("flops", flops_of_197_tokens),
    ("range_test", range_of_100_steps),
    ("range_test", range_from_one_ten_thousandth),
    *(("range_test", _limit(limit)) for limit in (3, 3.9, 4.1, 4.5, 5)),
    ("range_test", lowest_of_the_last_five),
    ("drop_tokens", half_dropped),
    ("drop_tokens", dropped_of_width_2),
    ("drop_tokens", dropped_of_16),
    ("smooth_labels", smoothed_for_eight_images),
    ("smooth_labels", smoothed_by_a_fifth),
    ("smooth_labels", smoothed_over_20_classes),
]


@pytest.mark.parametrize(("name", "candidate"), BUILT_IN, ids=lambda x: getattr(x, "__name__", x))
def test_a_built_in_number_does_not_pass(name, candidate):
    assert not check.run(name, candidate).passed


# ---------------------------------------------------------------- the number is found


@pytest.fixture
def patient(monkeypatch):
    """On a busy machine an experiment may take longer than a learner should wait."""
    monkeypatch.setattr(probes, "SECONDS", 30)


def count_of_256(height, width, patch_size):
    return height * width // 256


def patchify_of_8(images, patch_size):
    x = images.unfold(2, 8, 8).unfold(3, 8, 8)
    return rearrange(x, "b c r s p q -> b (r s) (p q c)")


def patchify_of_64(images, patch_size):
    P = patch_size
    x = images.reshape(*images.shape[:2], 8, P, 8, P)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(len(images), 64, -1)


def unpatchify_of_16(patches, patch_size, image_size):
    P = patch_size
    x = patches.reshape(len(patches), 4, 4, P, P, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, 4 * P, 4 * P)


def overlapping_of_stride_2(images, patch_size, stride):
    x = images.unfold(2, patch_size, 2).unfold(3, patch_size, 2)
    return rearrange(x, "b c r s p q -> b (r s) (p q c)")


def projected_to_64(patches, weight, bias):
    out = patches.new_zeros(*patches.shape[:2], 64)
    return out + patches @ weight.T + bias


def class_token_of_8_images(tokens, cls_token):
    return torch.cat([cls_token.repeat(8, 1, 1), tokens], dim=1)


def scaled_by_8(q, k, v):
    weights = (q @ k.transpose(-2, -1) / 8).softmax(dim=-1)
    return weights @ v, weights


def scaled_by_an_eighth(q, k, v):
    weights = (q @ k.transpose(-2, -1) * 0.125).softmax(dim=-1)
    return weights @ v, weights


def four_heads(x, num_heads):
    return rearrange(x, "b t (h d) -> b h t d", h=4)


def merged_to_64(x):
    return x.transpose(1, 2).reshape(len(x), x.shape[2], 64)


def norm_with_eps(x, weight, bias, eps=1e-6):
    return (
        F.batch_norm(x.flatten(0, -2).T, None, None, training=True, eps=1e-5).T.reshape(x.shape) * weight
        + bias
    )


HEADS = 4


class AttentionOfFour(nn.Module):
    def __init__(self, dim, num_heads=8):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(x).reshape(B, T, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D))


class MlpOf128(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(in_features, 128), nn.Linear(128, in_features)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class EmbeddingsOf65(nn.Module):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        self.patch_embed = vit.PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 65, embed_dim) * 0.02)

    def forward(self, images):
        x = self.patch_embed(images)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed


class EmbeddingsOf32Pixels(EmbeddingsOf65):
    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        self.pos_embed = nn.Parameter(torch.randn(1, (32 // patch_size) ** 2 + 1, embed_dim) * 0.02)


class BlockOfThreeHeads(vit.Block):
    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__(dim, 3, mlp_ratio, drop_path)


def pooled_by_17(tokens, global_pool):
    return tokens[:, 0] if global_pool == "token" else tokens.sum(dim=1) / 17


class ViTOfTenClasses(vit.ViT):
    def __init__(
        self, img_size, patch_size, in_chans, num_classes, embed_dim, depth, num_heads, global_pool="token"
    ):
        super().__init__(
            img_size, patch_size, in_chans, 10, embed_dim, depth, num_heads, global_pool=global_pool
        )


class RepairedOfTenClasses(vit.ViT):
    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__(img_size, patch_size, 3, 10, dim, depth, heads, global_pool="avg")


def parameters_of_three_channels(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    return vit.count_parameters(img_size, patch_size, 3, num_classes, embed_dim, depth, mlp_ratio)


def flip_of_32(images):
    mirrored = images[:, :, :, torch.arange(31, -1, -1)]
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, mirrored, images)


def crop_of_three_channels(images, padding=4):
    H, W = images.shape[-2:]
    padded, out = F.pad(images, [padding] * 4), torch.zeros_like(images[:, :3])
    for b, (i, j) in enumerate(torch.randint(0, 2 * padding + 1, (len(images), 2)).tolist()):
        for c in range(3):
            out[b, c] = padded[b, c, i : i + H, j : j + W]
    return out


def share_of_64(logits, labels):
    return (logits.argmax(-1) == labels).sum().item() / 64


def warmup_of_10(step, total_steps, warmup_steps, peak):
    if step < 10:
        return peak * (step + 1) / 10
    return peak * 0.5 * (1 + math.cos(math.pi * (step - 10) / (total_steps - 10)))


def judged_in_32s(model, batches):
    was, right, count = model.training, 0, 0
    model.eval()
    with torch.no_grad():
        for images, labels in batches:
            right, count = right + (model(images).argmax(-1) == labels).sum().item(), count + 1
    model.train(was)
    return right / (32 * (count - 1) + 2)


def packed_for_192(query, key, value):
    return torch.cat([kernel.reshape(192, -1).T for kernel in (query, key, value)])


def resized_to_14_rows(pos_embed, new_grid, num_prefix_tokens=1):
    return pretrained.resize_pos_embed(pos_embed, (14, new_grid[1]), num_prefix_tokens)


def five_neighbours(features, labels, queries, k):
    return transfer.knn_predict(features, labels, queries, 5)


def rate_of_12_blocks(name, depth, peak, decay):
    return transfer.layer_rate(name, 12, peak, decay)


def grid_of_14_columns(rows, cols, dim):
    omega = 10000.0 ** (-torch.arange(dim // 4) / (dim // 4))
    place = torch.arange(rows * cols)
    row, col = (place // 14)[:, None] * omega, (place % 14)[:, None] * omega
    return torch.cat([row.sin(), row.cos(), col.sin(), col.cos()], dim=1)


def unpatchify_of_32_pixels(patches, patch_size, image_size):
    n = 32 // patch_size
    return rearrange(patches, "b (r s) (p q c) -> b c (r p) (s q)", r=n, s=n, p=patch_size, q=patch_size)


def heads_of_width_16(x, num_heads):
    return rearrange(x, "b t (h d) -> b h t d", d=16)


class ViTOfFourBlocks(vit.ViT):
    def __init__(
        self, img_size, patch_size, in_chans, num_classes, embed_dim, depth, num_heads, global_pool="token"
    ):
        super().__init__(
            img_size, patch_size, in_chans, num_classes, embed_dim, 4, num_heads, global_pool=global_pool
        )


def parameters_of_65_tokens(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    full = vit.count_parameters(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio)
    return full - ((img_size // patch_size) ** 2 + 1) * embed_dim + 65 * embed_dim


def votes_for_three(features, labels, queries, k):
    similar = F.normalize(queries, dim=1) @ F.normalize(features, dim=1).mT
    near = labels[similar.topk(k, dim=1).indices]
    return torch.stack([(near == c).sum(dim=1) for c in range(3)], dim=1).argmax(dim=1)


def layer_of_kernel_3(layer, tokens, dim, kernel=3, ratio=4):
    return costs.layer_cost(layer, tokens, dim, 3, ratio)


def layer_of_ratio_4(layer, tokens, dim, kernel=3, ratio=4):
    return costs.layer_cost(layer, tokens, dim, kernel, 4)


def stack_of_stride_2(kernels, strides):
    return costs.receptive_field(kernels, [2] * len(kernels))


def stack_of_two(kernels, strides):
    return costs.receptive_field(kernels[:2], strides[:2])


def moved_by_4(model, images, pixels):
    return inspect.shift_consistency(model, images, 4)


def share_of_24(model, images, pixels):
    return inspect.shift_consistency(model, images, pixels) * len(images) / 24


def stem_of_kernel_3(size, strides, kernel=3):
    for stride in strides:
        size = [(side + 2 * (kernel // 2) - 3) // stride + 1 for side in size]
    return size


def bias_of_4_heads(grid, strength):
    return local.distance_bias(grid, strength[:4])


def mixed_among_64(x, w1, b1, w2, b2):
    rows = x.mT.reshape(len(x), -1, 64)
    return F.linear(F.gelu(F.linear(rows, w1, b1)), w2, b2).mT


class BlockOfHidden128(mixer.MixerBlock):
    def __init__(self, dim, tokens, hidden):
        super().__init__(dim, tokens, 128)


def cost_of_hidden_32(mixer, tokens, dim, hidden=32, kernel=3):
    return costs.mixer_cost(mixer, tokens, dim, 32, kernel)


def cost_of_kernel_3(mixer, tokens, dim, hidden=32, kernel=3):
    return costs.mixer_cost(mixer, tokens, dim, hidden, 3)


def matrix_of_4_tokens(mix, tokens, dim, channel=0):
    return inspect.mixing_matrix(mix, tokens, dim, channel)[:4, :4]


def pooled_on_8_columns(x, grid, size):
    return mixer.pooling(x, (x.shape[1] // 8, 8), size)


def sensitivity_of_4_tokens(mix, x, order):
    difference = (mix(x[:, order]) - mix(x)[:, order])[:, :4].norm()
    return 0.0 if difference == 0 else (difference / mix(x).norm()).item()


def tubelets_of_2_frames(clips, frames, patch_size):
    return video.tubelets(clips, 2, patch_size)


def tubelets_of_8_frames_in_all(clips, frames, patch_size):
    P = patch_size
    return rearrange(clips, "b (f t) c (r p) (s q) -> b (f r s) (t p q c)", f=8 // frames, t=frames, p=P, q=P)


def tubelets_of_32_pixels(clips, frames, patch_size):
    B, _, C = clips.shape[:3]
    P, n = patch_size, 32 // patch_size
    x = clips.reshape(B, -1, frames, C, n, P, n, P).permute(0, 1, 4, 6, 2, 5, 7, 3)
    return x.reshape(B, -1, frames * P * P * C)


def positions_of_16_patches(time, space):
    return time.repeat_interleave(16, dim=1) + space.repeat(1, time.shape[1], 1)


def cost_of_4_times(times, patches, dim, attention):
    return costs.video_attention_cost(4, patches, dim, attention)


def inflated_to_2(weight, frames):
    return video.inflate(weight, 2)


def inflated_for_3_channels(weight, frames):
    inflated = weight.new_zeros(len(weight), 3, frames, *weight.shape[2:])
    inflated[:, :, frames // 2] = weight
    return inflated


def sixteen_components(weight, count=28):
    Vh = torch.linalg.svd(weight.flatten(1)).Vh[:16]
    return Vh.reshape(-1, *weight.shape[1:])


def distance_of_four_pixels(weights, grid, patch_size, prefix=0):
    return inspect.attention_distance(weights, grid, 4, prefix)


def eight_columns(pos_embed, grid, prefix=0):
    directions = F.normalize(pos_embed[0, prefix:], dim=-1)
    return (directions @ directions.T).reshape(grid[0], 8, grid[0], 8)


def mask_that_keeps_16(noise, keep):
    return masked.random_masking(noise, 16)


def encoder_of_width_64(tokens, pos_embed, ids_keep):
    return (tokens + pos_embed).gather(1, ids_keep[..., None].expand(-1, -1, 64))


def loss_of_patches_of_4(predicted, images, mask, patch_size):
    return masked.masked_loss(predicted, images, mask, 4)


def turns_of_8_images(images):
    return selfsupervised.rotate_batch(images)[0], torch.arange(4).repeat_interleave(8)


def colours_in_patches_of_4(images, patch_size):
    return selfsupervised.colour_targets(images, 4)


def probe_of_10_classes(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    return transfer.fair_probe(encode, train_images, train_labels, test_images, 10, penalty)


def probe_of_penalty_10(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    return transfer.fair_probe(encode, train_images, train_labels, test_images, num_classes, 10.0)


def windows_of_7(x, window):
    return swin.window_partition(x, 7)


def windows_on_8_columns(x, window):
    x = x.reshape(len(x), -1, window, 8 // window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, window, window, x.shape[-1])


def maps_of_14_rows(windows, grid):
    return swin.window_reverse(windows, (14, grid[1]))


def maps_of_width_96(windows, grid):
    windows = windows.reshape(*windows.shape[:3], 96)
    return swin.window_reverse(windows, grid)


def mask_of_windows_of_7(grid, window, shift):
    return swin.shifted_window_mask(grid, 7, shift)


def mask_of_shift_3(grid, window, shift):
    return swin.shifted_window_mask(grid, window, 3)


def index_of_windows_of_7(window):
    return swin.relative_position_index(7)


def merged_on_8_rows(x):
    x = x.reshape(len(x), 4, 2, x.shape[2] // 2, 2, x.shape[3])
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)


def cost_of_windows_of_7(grid, dim, window):
    return 4 * grid[0] * grid[1] * dim**2 + 2 * grid[0] * grid[1] * 49 * dim


def cost_of_width_96(grid, dim, window):
    return costs.window_attention_cost(grid, 96, window)


def mapped_to_4_times_the_grid(tokens, grid, image_size):
    return masks.tokens_to_map(tokens, grid, (4 * grid[0], 4 * grid[1]))


def mapped_to_32_columns(tokens, grid, image_size):
    return masks.tokens_to_map(tokens, grid, (image_size[0], 32))


def overlap_of_5_classes(predicted, truth, num_classes):
    known = (predicted < 5) & (truth < 5)
    return masks.class_iou(predicted[known], truth[known], 5)


def dice_of_5_classes(logits, truth, smooth=1.0):
    return 1 - (1 - masks.dice_loss(logits, truth, smooth)) * logits.shape[1] / 5


def dice_over_32_columns(logits, truth, smooth=1.0):
    return masks.dice_loss(logits, truth, smooth) * logits.shape[3] / 32


class CrossAttentionOfFour(detr.CrossAttention):
    def __init__(self, dim, num_heads):
        super().__init__(dim, 4)


def four_columns_of_boxes(boxes1, boxes2):
    return boxes.box_iou(boxes1, boxes2[:4])


def cost_of_four_queries(logits, found, labels, target_boxes):
    return boxes.matching_cost(logits[:4], found[:4], labels, target_boxes)


def nothing_is_class_4(logits, found, labels, target_boxes, match, no_object=0.1):
    wanted = torch.full(logits.shape[:2], 4)
    image, row = (labels >= 0).nonzero(as_tuple=True)
    wanted[image, match[image, row]] = labels[image, row]
    weight = torch.ones(5)
    weight[4] = no_object
    theirs = boxes.set_loss(torch.zeros_like(logits), found, labels, target_boxes, match) - math.log(
        logits.shape[2]
    )
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight) + theirs


def recall_among_three(scores, hits, num_objects):
    return boxes.average_precision(scores, hits, 3)


# (exercise, answer, what is said of it)
FOUND = [
    ("count_patches", count_of_256, "the size of the patches were fixed at 16"),
    ("patchify", patchify_of_8, "the size of the patches were fixed at 8"),
    ("patchify", patchify_of_64, "the number of patches were fixed at 64"),
    ("unpatchify", unpatchify_of_16, "the number of patches were fixed at 16"),
    ("overlapping_patches", overlapping_of_stride_2, "the stride were fixed at 2"),
    ("project_patches", projected_to_64, "the width of the tokens were fixed at 64"),
    ("prepend_class_token", class_token_of_8_images, "the number of images were fixed at 8"),
    ("scaled_dot_product_attention", scaled_by_8, "the width of a head were fixed at 64"),
    ("scaled_dot_product_attention", scaled_by_an_eighth, "the width of a head were fixed at 64"),
    ("split_heads", four_heads, "the number of heads were fixed at 4"),
    ("merge_heads", merged_to_64, "the width of the tokens were fixed at 64"),
    ("layer_norm", norm_with_eps, "eps were fixed at 1e-05"),
    (
        "Attention",
        AttentionOfFour,
        "the number of heads were fixed at 4: with 4 heads your answer is right, with 2 heads it is not.",
    ),
    ("Mlp", MlpOf128, "the width of the hidden layer were fixed at 128"),
    ("Embeddings", EmbeddingsOf65, "the number of patches were fixed at 64"),
    ("Embeddings", EmbeddingsOf32Pixels, "the size of the images were fixed at 32"),
    ("Block", BlockOfThreeHeads, "the number of heads were fixed at 3"),
    ("Block", BlockOfTwoHeads, "the number of heads were fixed at 2"),
    ("pool", pooled_by_17, "the number of tokens were fixed at 17"),
    ("ViT", ViTOfTenClasses, "the number of classes were fixed at 10"),
    ("ViT", ViTWithoutAxes, "with one image it is not. Does something remove an axis"),
    ("RepairedViT", RepairedOfTenClasses, "the number of classes were fixed at 10"),
    ("count_parameters", parameters_of_three_channels, "the number of channels were fixed at 3"),
    ("batch_independent", three_images, "the number of images were fixed at 3"),
    ("random_flip", flip_of_32, "the width of the images were fixed at 32"),
    ("random_crop", crop_of_three_channels, "the number of channels were fixed at 3"),
    ("drop_path", three_quarters_kept, "the drop rate were fixed at 0.25"),
    ("accuracy", share_of_64, "the number of images were fixed at 64"),
    ("learning_rate", warmup_of_10, "the number of warm-up steps were fixed at 10"),
    ("train_step", BUILT_IN[9][1], "the number of images were fixed at 8"),
    ("evaluate", judged_in_32s, "the number of images in a batch were fixed at 32"),
    ("sincos_positions", grid_of_14_columns, "the number of columns were fixed at 14"),
    ("unpatchify", unpatchify_of_32_pixels, "the size of the images were fixed at 32"),
    ("split_heads", heads_of_width_16, "the width of a head were fixed at 16"),
    ("ViT", ViTOfFourBlocks, "the number of blocks were fixed at 4"),
    ("count_parameters", parameters_of_65_tokens, "the number of patches were fixed at 64"),
    ("evaluate", three_classes_judged, "up to 3 classes"),
    ("knn_predict", votes_for_three, "up to 3 classes"),
    ("pack_qkv", packed_for_192, "the width of the tokens were fixed at 192"),
    ("resize_pos_embed", resized_to_14_rows, "the number of rows were fixed at 14"),
    ("knn_predict", five_neighbours, "the number of neighbours were fixed at 5"),
    ("layer_rate", rate_of_12_blocks, "the number of blocks were fixed at 12"),
    ("flops", flops_of_12_blocks, "the number of blocks were fixed at 12"),
    ("flops", flops_of_197_tokens, "the number of tokens were fixed at 197"),
    ("range_test", range_of_100_steps, "the number of steps were fixed at 100"),
    ("range_test", range_from_one_ten_thousandth, "the lowest rate were fixed at 0.0001"),
    ("drop_tokens", half_dropped, "the share of the tokens that stay were fixed at 0.5"),
    ("drop_tokens", dropped_of_16, "the number of tokens were fixed at 16"),
    ("smooth_labels", smoothed_by_a_fifth, "the smoothing were fixed at 0.2"),
    ("smooth_labels", smoothed_over_20_classes, "the number of classes were fixed at 20"),
    ("smooth_labels", smoothed_for_eight_images, "the number of images were fixed at 8"),
    ("filters", sixteen_components, "the number of components were fixed at 16"),
    ("attention_distance", distance_of_four_pixels, "the size of the patches were fixed at 4"),
    ("position_similarity", eight_columns, "the number of columns were fixed at 8"),
    ("layer_cost", layer_of_kernel_3, "the size of the kernel were fixed at 3"),
    ("layer_cost", layer_of_ratio_4, "the ratio of the MLP were fixed at 4"),
    ("receptive_field", stack_of_stride_2, "the stride were fixed at 2"),
    ("receptive_field", stack_of_two, "With up to 2 layers"),
    ("shift_consistency", moved_by_4, "the shift were fixed at 4"),
    ("shift_consistency", share_of_24, "the number of images were fixed at 24"),
    ("stem_grid", stem_of_kernel_3, "the size of the kernel were fixed at 3"),
    ("distance_bias", bias_of_4_heads, "With up to 4 heads"),
    ("token_mixing", mixed_among_64, "the number of tokens were fixed at 64"),
    ("MixerBlock", BlockOfHidden128, "the width of the hidden layer were fixed at 128"),
    ("mixer_cost", cost_of_hidden_32, "the width of the hidden layer were fixed at 32"),
    ("mixer_cost", cost_of_kernel_3, "the size of the kernel were fixed at 3"),
    ("mixing_matrix", matrix_of_4_tokens, "With up to 4 tokens"),
    ("pooling", pooled_on_8_columns, "the number of columns were fixed at 8"),
    ("permutation_sensitivity", sensitivity_of_4_tokens, "With up to 4 tokens"),
    ("tubelets", tubelets_of_2_frames, "the number of frames in a tubelet were fixed at 2"),
    ("tubelets", tubelets_of_8_frames_in_all, "the number of frames were fixed at 8"),
    ("tubelets", tubelets_of_32_pixels, "the size of the images were fixed at 32"),
    ("space_time_positions", positions_of_16_patches, "the number of patches were fixed at 16"),
    ("video_attention_cost", cost_of_4_times, "the number of times were fixed at 4"),
    ("inflate", inflated_to_2, "the number of frames in a tubelet were fixed at 2"),
    ("inflate", inflated_for_3_channels, "the number of channels were fixed at 3"),
    ("random_masking", mask_that_keeps_16, "the number of patches that are kept were fixed at 16"),
    ("encoder_input", encoder_of_width_64, "the width of the tokens were fixed at 64"),
    ("masked_loss", loss_of_patches_of_4, "the size of the patches were fixed at 4"),
    ("rotate_batch", turns_of_8_images, "the number of images were fixed at 8"),
    ("colour_targets", colours_in_patches_of_4, "the size of the patches were fixed at 4"),
    ("fair_probe", probe_of_10_classes, "With up to 10 classes"),
    ("fair_probe", probe_of_penalty_10, "the penalty were fixed at 10"),
    ("window_partition", windows_of_7, "the size of the windows were fixed at 7"),
    ("window_partition", windows_on_8_columns, "the number of columns were fixed at 8"),
    ("window_reverse", maps_of_14_rows, "the number of rows were fixed at 14"),
    ("window_reverse", maps_of_width_96, "the width of the tokens were fixed at 96"),
    ("shifted_window_mask", mask_of_windows_of_7, "the size of the windows were fixed at 7"),
    ("shifted_window_mask", mask_of_shift_3, "the shift were fixed at 3"),
    ("relative_position_index", index_of_windows_of_7, "the size of the windows were fixed at 7"),
    ("merge_patches", merged_on_8_rows, "the number of rows were fixed at 8"),
    ("window_attention_cost", cost_of_windows_of_7, "the size of the windows were fixed at 7"),
    ("window_attention_cost", cost_of_width_96, "the width of the tokens were fixed at 96"),
    ("tokens_to_map", mapped_to_4_times_the_grid, "the size of the patches were fixed at 4"),
    ("tokens_to_map", mapped_to_32_columns, "the width of the images were fixed at 32"),
    ("class_iou", overlap_of_5_classes, "the number of classes were fixed at 5"),
    ("dice_loss", dice_of_5_classes, "the number of classes were fixed at 5"),
    ("dice_loss", dice_over_32_columns, "the width of the images were fixed at 32"),
    ("CrossAttention", CrossAttentionOfFour, "the number of heads were fixed at 4"),
    ("box_iou", four_columns_of_boxes, "With up to 4 boxes in the second argument"),
    ("matching_cost", cost_of_four_queries, "With up to 4 queries"),
    ("set_loss", nothing_is_class_4, "the number of classes were fixed at 4"),
    ("average_precision", recall_among_three, "the number of objects were fixed at 3"),
]


@pytest.mark.parametrize(("name", "candidate", "says"), FOUND, ids=lambda x: getattr(x, "__name__", None))
def test_the_number_is_found(name, candidate, says, patient):
    found = check.run(name, candidate)
    assert not found.passed
    assert says in (found.diagnosis or "nothing"), found.text


# ---------------------------------------------------------------- nothing is found where nothing is built in


def patches_in_reverse(images, patch_size):
    return vit.patchify(images, patch_size).flip(1)


def kernel_of_halves(patch_size, channels):
    return vit.patch_conv_weight(patch_size, channels) / 2


def projected_twice(patches, weight, bias):
    return 2 * (patches @ weight.T) + bias


def angles_doubled(rows, cols, dim):
    return vit.sincos_positions(rows, cols, dim) * 2


def values_twice(q, k, v):
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights @ (2 * v), weights


def heads_in_reverse(x, num_heads):
    return vit.split_heads(x, num_heads).flip(-1)


def norm_times_three(x, weight, bias, eps=1e-6):
    return 3 * vit.layer_norm(x, weight, bias, eps)


class Silu(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(in_features, hidden_features), nn.Linear(hidden_features, in_features)

    def forward(self, x):
        return self.fc2(F.silu(self.fc1(x)))


class HeadOfTheMeanAndMore(vit.ViT):
    def forward(self, images):
        return super().forward(images) + 1


def one_more(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    return vit.count_parameters(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio) + 1


def half_the_share(logits, labels):
    return (logits.argmax(-1) == labels).float().mean().item() / 2


def square_root_of_it(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return peak * math.sqrt((step + 1) / warmup_steps)
    return peak * math.sqrt(
        0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
    )


def mixed_up(images):
    return images.flip(-1).roll(1, dims=-2)


def negative(query, key, value):
    return -transfer.pack_qkv(query, key, value)


def rate_and_a_half(name, depth, peak, decay):
    return 1.5 * transfer.layer_rate(name, depth, peak, decay)


def strengths_squared(grid, strength):
    return local.distance_bias(grid, strength**2)


def moved_twice_as_far(model, images, pixels):
    return inspect.shift_consistency(model, images, min(2 * pixels, images.shape[-1] - 1))


def twice_the_loss(predicted, images, mask, patch_size):
    return 2 * masked.masked_loss(predicted, images, mask, patch_size)


def positions_in_reverse(visible, ids_restore, mask_token, pos_embed):
    return masked.decoder_input(visible, ids_restore, mask_token, pos_embed.flip(1))


def last_pixel_left_out(kernel, rows, cols):
    return costs.conv_matrix(kernel, rows, cols) * (torch.arange(rows * cols)[:, None] < rows * cols - 1)


def map_in_halves(tokens, grid, image_size):
    return masks.tokens_to_map(tokens, grid, image_size) / 2


def overlap_squared(predicted, truth, num_classes):
    return masks.class_iou(predicted, truth, num_classes) ** 2


def dice_twice(logits, truth, smooth=1.0):
    return 2 * masks.dice_loss(logits, truth, smooth)


def mixed_twice(x, w1, b1, w2, b2):
    return 2 * mixer.token_mixing(x, w1, b1, w2, b2)


def half_a_matrix(mix, tokens, dim, channel=0):
    return inspect.mixing_matrix(mix, tokens, dim, channel) / 2


def pooled_by_halves(x, grid, size):
    return mixer.pooling(x, grid, size) / 2


def windows_halved(x, window):
    return swin.window_partition(x, window) / 2


def mask_that_hides_itself(grid, window, shift):
    return swin.shifted_window_mask(grid, window, shift) - 100 * torch.eye(window**2)


def one_pair_left_out(grid, dim, window):
    return costs.window_attention_cost(grid, dim, window) - 2 * dim


def half_a_tubelet(clips, frames, patch_size):
    return video.tubelets(clips, frames, patch_size) / 2


def twice_the_time(time, space):
    return video.space_time_positions(2 * time, space)


def three_products(times, patches, dim, attention):
    joint = attention == "joint"
    more = times * patches * dim * (times * patches if joint else times + patches)
    return costs.video_attention_cost(times, patches, dim, attention) + more


def half_inflated(weight, frames):
    return video.inflate(weight / 2, frames)


def corners_doubled(centred):
    return 2 * boxes.to_corners(centred)


def iou_squared(boxes1, boxes2):
    return boxes.box_iou(boxes1, boxes2) ** 2


def cost_and_a_half(logits, found, labels, target_boxes):
    return 1.5 * boxes.matching_cost(logits, found, labels, target_boxes)


def twice_the_set(*batch):
    return 2 * boxes.set_loss(*batch)


def half_the_precision(scores, hits, num_objects):
    return boxes.average_precision(scores, hits, num_objects) / 2


NOTHING_BUILT_IN = [
    ("patchify", patches_in_reverse),
    ("patch_conv_weight", kernel_of_halves),
    ("project_patches", projected_twice),
    ("sincos_positions", angles_doubled),
    ("scaled_dot_product_attention", values_twice),
    ("split_heads", heads_in_reverse),
    ("layer_norm", norm_times_three),
    ("Mlp", Silu),
    ("ViT", HeadOfTheMeanAndMore),
    ("count_parameters", one_more),
    ("accuracy", half_the_share),
    ("learning_rate", square_root_of_it),
    ("random_flip", mixed_up),
    ("pack_qkv", negative),
    ("layer_rate", rate_and_a_half),
    ("distance_bias", strengths_squared),
    ("shift_consistency", moved_twice_as_far),
    ("conv_matrix", last_pixel_left_out),
    ("token_mixing", mixed_twice),
    ("mixing_matrix", half_a_matrix),
    ("pooling", pooled_by_halves),
    ("tubelets", half_a_tubelet),
    ("space_time_positions", twice_the_time),
    ("video_attention_cost", three_products),
    ("inflate", half_inflated),
    ("masked_loss", twice_the_loss),
    ("tokens_to_map", map_in_halves),
    ("class_iou", overlap_squared),
    ("dice_loss", dice_twice),
    ("decoder_input", positions_in_reverse),
    ("window_partition", windows_halved),
    ("shifted_window_mask", mask_that_hides_itself),
    ("window_attention_cost", one_pair_left_out),
    ("to_corners", corners_doubled),
    ("box_iou", iou_squared),
    ("matching_cost", cost_and_a_half),
    ("set_loss", twice_the_set),
    ("average_precision", half_the_precision),
]


@pytest.mark.parametrize(("name", "candidate"), NOTHING_BUILT_IN, ids=lambda x: getattr(x, "__name__", x))
def test_nothing_is_found_where_nothing_is_built_in(name, candidate, patient):
    found = check.run(name, candidate)
    assert not found.passed
    assert "fixed at" not in (found.diagnosis or "")
    assert "up to" not in (found.diagnosis or "")


def test_two_numbers_that_explain_an_answer_are_none(patient):
    def of_this_shape(x, num_heads):
        return rearrange(x, "b t (h d) -> b h t d", h=4, d=16)

    assert check.run("split_heads", of_this_shape).diagnosis is None


def test_a_property_that_fails_starts_no_experiment(monkeypatch):
    monkeypatch.setattr(probes, "_explain", lambda *args: pytest.fail("it is asked"))
    found = check.run("pool", lambda tokens, global_pool: vit.pool(tokens, global_pool).detach())
    assert [c.name for c in found.failed] == ["the gradient reaches the input"]


def test_an_experiment_that_takes_too_long_says_nothing(monkeypatch):
    monkeypatch.setattr(probes, "SECONDS", 0.05)

    def endless_at_64(x, num_heads):
        while x.shape[-1] == 64:
            pass
        return rearrange(x, "b t (h d) -> b h t d", h=4)

    found = check.run("split_heads", endless_at_64)
    assert found.diagnosis is None
    assert not found.passed


class Touchy(torch.Tensor):
    """It has the shape and the type of any tensor, but nothing can be computed with it."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") != "__get__":
            raise RuntimeError("do not touch this")
        return super().__torch_function__(function, types, args, kwargs)


@pytest.mark.parametrize(
    "odd", [lambda x: x.as_subclass(Touchy), lambda x: x.to("meta"), torch.Tensor.to_sparse]
)
def test_an_odd_answer_is_no_error(odd, patient):
    def odd_unless_17(tokens, global_pool):
        pooled = vit.pool(tokens, global_pool)
        return pooled if tokens.shape[1] == 17 else odd(pooled)

    assert "the number of tokens were fixed at 17" in check.run("pool", odd_unless_17).diagnosis


SIZED = [(name, sizes) for name in check.names() for sizes in check.get(name).sizes]


@pytest.mark.parametrize(("name", "sizes"), SIZED, ids=lambda x: x if isinstance(x, str) else "")
def test_an_experiment_starts_from_sizes_that_differ(name, sizes):
    """And from none that answers are likely to have built in. The reference can be computed from both starts."""
    usual = {
        "heads": {4, 12},
        "tokens": {17, 65},
        "channels": {3},
        "patch": {4, 16},
        "classes": {10, 1000},
        "width": {64},
    }
    assert len(set(sizes.base.values())) == len(sizes.base)
    assert all(a != b for a, b in zip(sizes.base.values(), sizes.other.values(), strict=True))
    assert 1 not in sizes.base.values()
    assert not [size for size, value in sizes.base.items() if value in usual.get(size, ())]
    starts = [tuple(start.items()) for start in (sizes.base, sizes.other)]
    sizes.prepare(check.get(name), starts)
    assert all(start in sizes.known for start in starts)
