"""Lesson 06: right answers written in other ways."""

import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from alternatives import alternative
from vit_edu import training

# ---------------------------------------------------------------- random_flip


@alternative("random_flip")
def flip_some(images):
    out = images.clone()
    which = torch.rand(len(images)) < 0.5
    out[which] = out[which].flip(3)
    return out


@alternative("random_flip")
def one_at_a_time(images):
    return torch.stack([image.flip(-1) if random.random() < 0.5 else image for image in images])


@alternative("random_flip")
def gathered_columns(images):
    B, C, H, W = images.shape
    columns = torch.arange(W).expand(B, W)
    heads = torch.randint(0, 2, (B, 1)).bool()
    columns = torch.where(heads, columns, W - 1 - columns)
    return images.gather(3, columns[:, None, None].expand(B, C, H, W))


@alternative("random_flip")
def weighed_sum(images):
    flip = torch.bernoulli(torch.full((len(images),), 0.5)).to(images.dtype)
    return torch.einsum("b,bchw->bchw", flip, images.flip(3)) + images * (1 - flip).view(-1, 1, 1, 1)


# ---------------------------------------------------------------- random_crop


@alternative("random_crop")
def crop_loop(images, padding=4):
    H, W = images.shape[-2:]
    padded = F.pad(images, [padding] * 4)
    corners = torch.randint(0, 2 * padding + 1, (len(images), 2)).tolist()
    return torch.stack([p[:, i : i + H, j : j + W] for p, (i, j) in zip(padded, corners, strict=True)])


@alternative("random_crop")
def crop_by_index(images, padding=4):
    B, C, H, W = images.shape
    padded = F.pad(images, [padding] * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, B, 1))  # 2 x (B, 1)
    rows = (top + torch.arange(H))[:, None, :, None]
    cols = (left + torch.arange(W))[:, None, None, :]
    return padded[torch.arange(B)[:, None, None, None], torch.arange(C)[:, None, None], rows, cols]


@alternative("random_crop")
def onto_a_black_canvas(images, padding=4):
    H, W = images.shape[-2:]
    out = torch.zeros_like(images)
    for new, image in zip(out, images, strict=True):
        down, right = (random.randint(-padding, padding) for _ in range(2))
        part = image[:, max(0, -down) : H - max(0, down), max(0, -right) : W - max(0, right)]
        top, left = max(0, down), max(0, right)
        new[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    return out


@alternative("random_crop")
def rows_then_columns(images, padding=4):
    B, C, H, W = images.shape
    padded = F.pad(images, [padding] * 4)
    top, left = (torch.randint(2 * padding + 1, (B, 1, 1, 1)) for _ in range(2))
    rows = (top + torch.arange(H)[:, None]).expand(B, C, H, padded.shape[3])
    cols = (left + torch.arange(W)).expand(B, C, H, W)
    return padded.gather(2, rows).gather(3, cols)


# ---------------------------------------------------------------- accuracy


@alternative("accuracy")
def by_max(logits, labels):
    return sum(int(row.max(0).indices == y) for row, y in zip(logits, labels, strict=True)) / len(labels)


@alternative("accuracy")
def by_topk(logits, labels):
    return (logits.topk(1).indices[:, 0] == labels).double().mean().item()


@alternative("accuracy")
def by_value(logits, labels):
    theirs = logits.gather(1, labels[:, None])[:, 0]
    return theirs.eq(logits.amax(1)).sum().item() / labels.numel()


@alternative("accuracy")
def by_one_hot(logits, labels):
    K = logits.shape[1]
    answers = F.one_hot(logits.softmax(1).argmax(1), K)
    return float(torch.einsum("bk,bk->", answers, F.one_hot(labels, K)) / len(logits))


@alternative("accuracy")
def in_numpy(logits, labels):
    return np.mean(logits.numpy().argmax(1) == labels.numpy())


# ---------------------------------------------------------------- learning_rate


@alternative("learning_rate")
def shifted_cosine(step, total_steps, warmup_steps, peak):
    climb = (step + 1) / warmup_steps if warmup_steps else 1.0
    fall = math.cos(0.5 * math.pi * max(0, step - warmup_steps) / (total_steps - warmup_steps)) ** 2
    return peak * min(climb, 1.0) * fall


@alternative("learning_rate")
def counted_from_the_end(step, total_steps, warmup_steps, peak):
    if step >= warmup_steps:
        left = (total_steps - step) / (total_steps - warmup_steps)
        return peak * (1 - np.cos(np.pi * left)) / 2
    return np.linspace(peak / warmup_steps, peak, warmup_steps)[step]


@alternative("learning_rate")
def in_torch(step, total_steps, warmup_steps, peak):
    fall = torch.linspace(0, torch.pi, total_steps - warmup_steps + 1).cos().add(1).div(2)
    climb = torch.arange(1, warmup_steps + 1) / max(warmup_steps, 1)
    return peak * torch.cat([climb, fall])[step].item()


@alternative("learning_rate")
def with_a_sine(step, total_steps, warmup_steps, peak):
    low, high = 0.0, peak
    if step + 1 <= warmup_steps:
        return low + (high - low) * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return low + (high - low) * (0.5 - 0.5 * math.sin(math.pi * (progress - 0.5)))


# ---------------------------------------------------------------- train_step


@alternative("train_step")
def step_by_hand(model, optimizer, images, labels):
    model.train()
    for p in model.parameters():
        p.grad = None
    loss = -model(images).log_softmax(-1)[torch.arange(len(labels)), labels].mean()
    loss.backward()
    optimizer.step()
    return loss.detach().numpy().item()


@alternative("train_step")
def clear_first(model, optimizer, images, labels):
    optimizer.zero_grad(set_to_none=False)
    model = model.train()
    loss = nn.CrossEntropyLoss()(model(images), labels)
    before = loss.item()
    loss.backward()
    optimizer.step()
    return before


@alternative("train_step")
def with_a_closure(model, optimizer, images, labels):
    model.train(True)

    def closure():
        model.zero_grad()
        loss = F.nll_loss(F.log_softmax(model(images), dim=1), labels)
        loss.backward()
        return loss

    return optimizer.step(closure).item()


@alternative("train_step")
def gradients_asked_for(model, optimizer, images, labels):
    model.train()
    logits = model(images)
    right = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    loss = (logits.logsumexp(1) - right).sum() / len(labels)
    values = [p for group in optimizer.param_groups for p in group["params"]]
    for p, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
        p.grad = gradient
    optimizer.step()
    return loss.tolist()


# ---------------------------------------------------------------- evaluate


@alternative("evaluate")
def evaluate_joined(model, batches):
    before = model.training
    model.eval()
    with torch.inference_mode():
        hits = torch.cat([model(x).argmax(1) == y for x, y in batches])
    model.train(before)
    return hits.double().mean().item()


@alternative("evaluate")
@torch.no_grad()
def weighed_by_size(model, batches):
    mode = model.training
    try:
        model.train(False)
        found = [(training.accuracy(model(x), y), len(x)) for x, y in batches]
    finally:
        model.train(mode)
    return sum(share * n for share, n in found) / sum(n for _, n in found)


@alternative("evaluate")
def image_by_image(model, batches):
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    hits = []
    for images, labels in batches:
        with torch.no_grad():
            probabilities = F.softmax(model(images), dim=1)
        for row, label in zip(probabilities, labels.tolist(), strict=True):
            hits.append(row.max(0)[1].item() == label)
    for module, training_before in modes:
        module.training = training_before
    return hits.count(True) / len(hits)


@alternative("evaluate")
def counted_in_a_tensor(model, batches):
    tracked, was_training = torch.is_grad_enabled(), model.training
    torch.set_grad_enabled(False)
    model.eval()
    count = torch.zeros(2, dtype=torch.long)
    for images, labels in batches:
        right = model(images).max(dim=-1).indices.eq(labels)
        count += torch.stack([right.sum(), torch.tensor(right.numel())])
    torch.set_grad_enabled(tracked)
    if was_training:
        model.train()
    return (count[0] / count[1]).item()


# ---------------------------------------------------------------- range_test


@alternative("range_test")
def rates_first(step_at, low, high, steps):
    rates = torch.logspace(math.log10(low), math.log10(high), steps, dtype=torch.float64).tolist()
    losses, lowest = [], math.inf
    for rate in rates:
        loss = step_at(rate)
        if math.isnan(loss) or loss == math.inf or loss > 4 * lowest:
            break
        lowest = min(lowest, loss)
        losses.append(loss)
    return rates[: len(losses)], losses


@alternative("range_test")
def one_factor(step_at, low, high, steps):
    factor, rate, found = (high / low) ** (1 / (steps - 1)), low, []
    while len(found) < steps:
        loss = step_at(rate)
        if not all(loss <= 4 * before for _rate, before in found) or not abs(loss) < math.inf:
            break
        found.append((rate, loss))
        rate *= factor
    return [rate for rate, _loss in found], [loss for _rate, loss in found]


@alternative("range_test")
def with_numpy(step_at, low, high, steps):
    rates, losses = np.geomspace(low, high, steps), []
    for rate in rates:
        losses.append(step_at(float(rate)))
        if not np.isfinite(losses[-1]) or losses[-1] > 4 * np.nanmin(losses):
            losses.pop()
            break
    return list(rates[: len(losses)]), losses


# ---------------------------------------------------------------- drop_tokens


@alternative("drop_tokens")
def by_sorting(tokens, keep):
    B, T, _ = tokens.shape
    order = torch.rand(B, T).argsort(dim=1)
    return tokens[torch.arange(B)[:, None], order[:, : max(1, round(T * keep))]]


@alternative("drop_tokens")
def image_after_image(tokens, keep):
    n = max(round(keep * tokens.shape[1]), 1)
    return torch.stack([image[torch.randperm(len(image))[:n].sort().values] for image in tokens])


@alternative("drop_tokens")
def by_lottery(tokens, keep):
    B, T, D = tokens.shape
    n = max(1, round(keep * T))
    kept = torch.multinomial(torch.ones(B, T), n, replacement=False)
    return torch.take_along_dim(tokens, kept.unsqueeze(-1).repeat(1, 1, D), dim=1)


# ---------------------------------------------------------------- smooth_labels


@alternative("smooth_labels")
def filled(labels, num_classes, smoothing):
    targets = torch.full((len(labels), num_classes), smoothing / num_classes)
    targets[torch.arange(len(labels)), labels] += 1 - smoothing
    return targets


@alternative("smooth_labels")
def rows_of_a_matrix(labels, num_classes, smoothing):
    table = torch.lerp(
        torch.eye(num_classes), torch.full((num_classes, num_classes), 1 / num_classes), smoothing
    )
    return table[labels]


@alternative("smooth_labels")
def by_comparison(labels, num_classes, smoothing):
    right = labels[:, None] == torch.arange(num_classes)
    return torch.where(right, 1 - smoothing + smoothing / num_classes, smoothing / num_classes)
