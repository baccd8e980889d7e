"""Lesson 10: right answers written in other ways."""

import torch
import torch.nn.functional as F
from einops import rearrange

from alternatives import alternative
from vit_edu.models.vit import patchify

# ---------------------------------------------------------------- random_masking


@alternative("random_masking")
def as_in_the_authors_code(noise, keep):
    shuffled = torch.argsort(noise, dim=1)
    ids_restore = torch.argsort(shuffled, dim=1)
    mask = torch.ones(noise.shape)
    mask[:, :keep] = 0
    return shuffled[:, :keep], ids_restore, torch.gather(mask, 1, ids_restore)


@alternative("random_masking")
def scattered(noise, keep):
    shuffled = noise.sort(dim=1).indices
    places = torch.arange(noise.shape[1]).expand(noise.shape)
    ids_restore = torch.empty_like(shuffled).scatter_(1, shuffled, places)
    return shuffled[:, :keep], ids_restore, torch.ones(noise.shape).scatter_(1, shuffled[:, :keep], 0.0)


@alternative("random_masking")
def ranks_by_counting(noise, keep):
    ids_restore = (noise[:, None, :] < noise[:, :, None]).sum(dim=2)
    ids_keep = noise.topk(keep, dim=1, largest=False).indices
    return ids_keep, ids_restore, 1.0 * (ids_restore >= keep)


@alternative("random_masking")
def in_plain_python(noise, keep):
    kept, restore, mask = [], [], []
    for row in noise.tolist():
        order = sorted(range(len(row)), key=row.__getitem__)
        kept.append(order[:keep])
        restore.append([order.index(i) for i in range(len(row))])
        mask.append([0.0 if i in order[:keep] else 1.0 for i in range(len(row))])
    return torch.tensor(kept), torch.tensor(restore), torch.tensor(mask)


# ---------------------------------------------------------------- encoder_input


@alternative("encoder_input")
def with_two_indices(tokens, pos_embed, ids_keep):
    rows = torch.arange(len(tokens))[:, None]
    return (tokens + pos_embed)[rows, ids_keep]


@alternative("encoder_input")
def each_gathered_by_itself(tokens, pos_embed, ids_keep):
    return torch.take_along_dim(tokens, ids_keep[..., None], dim=1) + pos_embed[0][ids_keep]


@alternative("encoder_input")
def one_hot_product(tokens, pos_embed, ids_keep):
    choice = F.one_hot(ids_keep, tokens.shape[1]).to(tokens.dtype)  # (B, K, N)
    return choice @ (tokens + pos_embed)


@alternative("encoder_input")
def flattened(tokens, pos_embed, ids_keep):
    B, N, D = tokens.shape
    rows = ids_keep + N * torch.arange(B)[:, None]
    return (tokens + pos_embed).reshape(B * N, D).index_select(0, rows.flatten()).reshape(B, -1, D)


@alternative("encoder_input")
def image_by_image_kept(tokens, pos_embed, ids_keep):
    return torch.stack([x[ids] + pos_embed[0, ids] for x, ids in zip(tokens, ids_keep, strict=True)])


# ---------------------------------------------------------------- decoder_input


@alternative("decoder_input")
def restored_with_two_indices(visible, ids_restore, mask_token, pos_embed):
    B, N = ids_restore.shape
    x = torch.cat([visible, mask_token.repeat(B, N - visible.shape[1], 1)], dim=1)
    return x[torch.arange(B)[:, None], ids_restore] + pos_embed


@alternative("decoder_input")
def visible_scattered(visible, ids_restore, mask_token, pos_embed):
    (B, N), (K, D) = ids_restore.shape, visible.shape[1:]
    ids_keep = ids_restore.argsort(dim=1)[:, :K]
    return mask_token.expand(B, N, D).scatter(1, ids_keep[..., None].expand(B, K, D), visible) + pos_embed


@alternative("decoder_input")
def either_or(visible, ids_restore, mask_token, pos_embed):
    K = visible.shape[1]
    found = torch.take_along_dim(visible, ids_restore.clamp(max=K - 1)[..., None], dim=1)
    return torch.where((ids_restore < K)[..., None], found, mask_token) + pos_embed


@alternative("decoder_input")
def positions_shuffled_along(visible, ids_restore, mask_token, pos_embed):
    B, N = ids_restore.shape
    x = torch.cat([visible, mask_token.expand(B, N - visible.shape[1], -1)], dim=1)
    x = x + pos_embed[0][ids_restore.argsort(dim=1)]
    return x.gather(1, ids_restore[..., None].expand_as(x))


@alternative("decoder_input")
def patch_by_patch(visible, ids_restore, mask_token, pos_embed):
    K = visible.shape[1]
    images = [
        torch.stack([visible[b, r] if r < K else mask_token[0, 0] for r in ids_restore[b].tolist()])
        for b in range(len(visible))
    ]
    return torch.stack(images) + pos_embed


# ---------------------------------------------------------------- masked_loss


@alternative("masked_loss")
def removed_picked_out(predicted, images, mask, patch_size):
    removed = mask.bool()
    patches = patchify(images, patch_size)[removed]  # (number of removed ones, P*P*C)
    var, mean = torch.var_mean(patches, dim=1, keepdim=True)
    return F.mse_loss(predicted[removed], (patches - mean) * (var + 1e-6).rsqrt())


@alternative("masked_loss")
def with_layer_norm(predicted, images, mask, patch_size):
    """Layer norm divides by n where the variance asked for is divided by n - 1."""
    patches = patchify(images, patch_size)
    n = patches.shape[-1]
    target = F.layer_norm(patches, (n,), eps=1e-6 * (n - 1) / n) * ((n - 1) / n) ** 0.5
    weights = mask / mask.sum() / n
    return torch.einsum("bn,bnp->", weights, (predicted - target) ** 2)


@alternative("masked_loss")
def mean_of_the_images(predicted, images, mask, patch_size):
    """As many patches of each image are removed, so the mean of the images' means is the mean of all."""
    losses = []
    for guess, image, removed in zip(predicted, images, mask, strict=True):
        patches = patchify(image[None], patch_size)[0]
        centred = patches - patches.mean(dim=1, keepdim=True)
        target = centred / (centred.square().sum(dim=1, keepdim=True) / (patches.shape[1] - 1) + 1e-6).sqrt()
        losses.append((guess - target).square()[removed == 1].mean())
    return torch.stack(losses).mean()


@alternative("masked_loss")
def in_the_layout_of_unfold(predicted, images, mask, patch_size):
    C = images.shape[1]
    patches = F.unfold(images, patch_size, stride=patch_size)  # (B, C*P*P, N)
    target = (patches - patches.mean(dim=1, keepdim=True)) / (patches.var(dim=1, keepdim=True) + 1e-6) ** 0.5
    guess = rearrange(predicted, "b n (p c) -> b (c p) n", c=C)
    squared = (guess - target) ** 2 * mask[:, None]
    return squared.sum() / (mask.sum() * patches.shape[1])


# ---------------------------------------------------------------- rotate_batch


@alternative("rotate_batch")
def transposed_and_flipped(images):
    once = images.transpose(-1, -2).flip(-2)
    twice = images.flip(-1).flip(-2)
    thrice = images.transpose(-1, -2).flip(-1)
    B = len(images)
    labels = torch.cat([torch.full((B,), k) for k in range(4)])
    return torch.cat([images, once, twice, thrice]), labels


@alternative("rotate_batch")
def one_after_another(images):
    turned, labels = [], []
    for k in range(4):
        for image in images:
            turned.append(torch.rot90(image, k, (1, 2)))
            labels.append(k)
    return torch.stack(turned), torch.tensor(labels)


@alternative("rotate_batch")
def turned_again_and_again(images):
    batches = [images]
    for _ in range(3):
        batches.append(torch.rot90(batches[-1], 1, (2, 3)))
    return torch.stack(batches).flatten(0, 1), torch.arange(4 * len(images)) // len(images)


@alternative("rotate_batch")
def by_index(images):
    size = images.shape[-1]
    places = torch.arange(size * size).reshape(size, size)
    orders = torch.stack([places.rot90(k) for k in range(4)])  # (4, S, S)
    turned = images.flatten(2)[:, :, orders]  # (B, C, 4, S, S)
    labels = torch.arange(4)[:, None].expand(4, len(images)).reshape(-1)
    return rearrange(turned, "b c k h w -> (k b) c h w"), labels


# ---------------------------------------------------------------- colour_targets


@alternative("colour_targets")
def channel_by_channel(images, patch_size):
    red, green, blue = images.unbind(dim=1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    missing = torch.stack([red - grey, blue - grey], dim=1)
    return torch.stack([grey] * 3, dim=1), patchify(missing, patch_size)


@alternative("colour_targets")
def one_matrix(images, patch_size):
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype)
    wanted = torch.eye(3, dtype=images.dtype)[[0, 2]] - luma  # (2, 3)
    grey = torch.einsum("c,bchw->bhw", luma, images)
    missing = torch.einsum("kc,bchw->bkhw", wanted, images)
    return grey[:, None].repeat(1, 3, 1, 1), patchify(missing, patch_size)


@alternative("colour_targets")
def patches_first(images, patch_size):
    patches = patchify(images, patch_size).unflatten(-1, (-1, 3))  # (B, N, P*P, 3)
    grey = patches @ torch.tensor([[0.299], [0.587], [0.114]], dtype=images.dtype)  # (B, N, P*P, 1)
    H, P = images.shape[2], patch_size
    whole = rearrange(grey, "b (r s) (p q) 1 -> b 1 (r p) (s q)", r=H // P, p=P)
    return whole.expand(-1, 3, -1, -1), (patches[..., ::2] - grey).flatten(2)


@alternative("colour_targets")
def in_loops(images, patch_size):
    P = patch_size
    grey = images[:, :1] * 0.299 + images[:, 1:2] * 0.587 + images[:, 2:] * 0.114
    missing = (images - grey)[:, [0, 2]]
    rows = []
    for r in range(0, images.shape[2], P):
        for c in range(0, images.shape[3], P):
            rows.append(missing[:, :, r : r + P, c : c + P].permute(0, 2, 3, 1).flatten(1))
    return torch.cat([grey, grey, grey], dim=1), torch.stack(rows, dim=1)


# ---------------------------------------------------------------- fair_probe


@alternative("fair_probe")
def with_a_column_of_ones(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    """The bias is a weight of a feature that is always 1, and the penalty does not touch it."""
    with torch.no_grad():
        x, queries = encode(train_images), encode(test_images)
    mean, std = x.mean(dim=0), x.std(dim=0) + 1e-6
    x, queries = (F.pad((f - mean) / std, (0, 1), value=1.0) for f in (x, queries))
    free = torch.ones(x.shape[1])
    free[-1] = 0
    wanted = F.one_hot(train_labels, num_classes).float()
    weight = torch.linalg.solve(x.T @ x + penalty * torch.diag(free), x.T @ wanted)
    return (queries @ weight).argmax(dim=-1)


@alternative("fair_probe")
def least_squares(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    """The penalty as further rows of a least-squares problem; 1 and -1 in place of 1 and 0."""
    x, queries = encode(train_images).detach().double(), encode(test_images).detach().double()
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    x, queries = (x - mean) / std, (queries - mean) / std
    wanted = 2.0 * F.one_hot(train_labels, num_classes) - 1
    rows = torch.cat([x, penalty**0.5 * torch.eye(x.shape[1])])
    goals = torch.cat([wanted - wanted.mean(0), torch.zeros(x.shape[1], num_classes)])
    return (queries @ torch.linalg.lstsq(rows, goals.double()).solution + wanted.mean(0)).argmax(1)


@alternative("fair_probe")
def in_the_dual(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    """A weight for each labelled image: how much each query resembles it."""
    with torch.inference_mode():
        x = encode(train_images)
        mean, std = x.mean(dim=0), x.std(dim=0, unbiased=False).clamp(min=1e-6)
        x, queries = (x - mean) / std, (encode(test_images) - mean) / std
        wanted = torch.eye(num_classes)[train_labels]
        shares = wanted.mean(dim=0)
        weights = torch.linalg.solve(x @ x.T + penalty * torch.eye(len(x)), wanted - shares)
        return ((queries @ x.T) @ weights + shares).max(dim=1).indices.clone()


@alternative("fair_probe")
def from_singular_values(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    with torch.no_grad():
        x, queries = encode(train_images), encode(test_images)
        mean, std = x.mean(dim=0), x.var(dim=0, correction=0).sqrt() + 1e-8
        U, S, Vh = torch.linalg.svd((x - mean) / std, full_matrices=False)
        wanted = (train_labels[:, None] == torch.arange(num_classes)).float()
        weight = Vh.T @ (U.T @ wanted * (S / (S**2 + penalty))[:, None])
        return torch.argmax((queries - mean) / std @ weight + wanted.mean(dim=0), dim=1)
