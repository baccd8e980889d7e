"""Trained weights for another task or resolution: features, neighbours, a probe, fine-tuning, and where a model looks.

Models are those of `pretrained.load`: their `pretrained_cfg` says what images must look like. Images are uint8, (N, C, H, W).
Letters in shapes are those of `models.vit`, with M labelled images and K classes.
"""

import copy
import time
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu import data, inspect, pretrained, training
from vit_edu.models import Swin, make_model
from vit_edu.pretrained.preprocessing import at_size as preprocessing_at_size

# ---------------------------------------------------------------- another layout


def pack_qkv(query, key, value):
    """From kernels in the authors' files, input first, to the weight of our `attn.qkv`. 3 x (D, h, d) -> (3 * h * d, D)."""
    kernels = [kernel.flatten(1) for kernel in (query, key, value)]  # 3 x (D, h * d)
    return torch.cat([kernel.mT for kernel in kernels])


# ---------------------------------------------------------------- looking at a model


@torch.no_grad()
def in_batches(model, images, batch_size=256):
    """The model's outputs for images, which are preprocessed here: (N, ...). It runs in eval mode, and is left as it was."""
    with inspect.eval_mode(model):
        found = [model(pretrained.preprocess(chunk, model)) for chunk in images.split(batch_size)]
    return torch.cat(found)


def share_right(model, split):
    """The share of a `Split` for which the model names the right class, 0..1. Raises ValueError for a model without a head."""
    _require_head(model)
    return training.accuracy(in_batches(model, split.images), split.labels)


def features(model, images):
    """What the head reads for each image, (N, D). With two heads, as in DeiT, what the first one reads."""
    if not isinstance(getattr(model, "head", None), nn.Module):
        raise ValueError(
            f"{type(model).__name__} has no part called head, so it is not known what its head reads."
        )
    found = []
    hook = model.head.register_forward_pre_hook(lambda head, inputs: found.append(inputs[0]))
    try:
        in_batches(model, images)
    finally:
        hook.remove()
    return torch.cat(found)


def attended(model, batch):
    """Where the last block looks: the share of its attention that each patch receives, (B, rows, cols); they sum to 1.

    batch: preprocessed, (B, C, H, W). The mean over the heads and over the tokens that look. If the model reads a class
    token, only that token looks.
    """
    weights = inspect.attention_maps(model, batch, block=-1)  # (B, h, T, T)
    looks = weights[:, :, :1] if model.global_pool == "token" else weights
    N = model.patch_embed.num_patches
    received = looks.mean(dim=(1, 2))[:, -N:]  # (B, N)
    received = received / received.sum(dim=1, keepdim=True)
    return received.unflatten(1, model.patch_embed.grid_size)


# ---------------------------------------------------------------- another resolution


def at_size(model, img_size, resize=pretrained.resize_pos_embed):
    """A copy of the model for img_size x img_size pixels, or (H, W). resize: what makes its positions fit.

    resize: called like `resize_pos_embed`, with `old_grid` only if the model's own grid is no square.
    Raises ValueError for a model whose blocks know its grid, such as a `Mixer` with an MLP over its tokens.
    """
    if getattr(model, "needs_all_tokens", False):
        raise ValueError(
            f"the blocks of a {type(model).__name__} need every token at its place, so its grid cannot change: resize the "
            f"images to its own size. {getattr(model, 'why_fixed', '')}".rstrip()
        )
    model = copy.deepcopy(model)
    patches = model.patch_embed
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    patch_size = patches.img_size[0] // patches.grid_size[0]
    rows, cols = patches.grid_size
    grid = (height // patch_size, width // patch_size)
    if model.pos_embed is not None:
        prefix = model.pos_embed.shape[1] - patches.num_patches
        old = {} if rows == cols else {"old_grid": (rows, cols)}
        model.pos_embed = nn.Parameter(resize(model.pos_embed.detach(), grid, prefix, **old))
    patches.img_size, patches.grid_size = (height, width), grid
    patches.num_patches = grid[0] * grid[1]
    model.pretrained_cfg = preprocessing_at_size(model.pretrained_cfg, img_size)
    return model


# ---------------------------------------------------------------- few labels


def few(split, per_class, seed=0):
    """A `Split` of `per_class` images of each class, the same ones for the same seed. Raises ValueError if there are fewer."""
    generator = torch.Generator().manual_seed(seed)
    picked = []
    for label in split.labels.unique():
        mine = (split.labels == label).nonzero()[:, 0]
        if len(mine) < per_class:
            raise ValueError(
                f"{per_class} images of each class were asked for, but class {label.item()} has {len(mine)}."
            )
        picked.append(mine[torch.randperm(len(mine), generator=generator)[:per_class]])
    return split.pick(torch.cat(picked))


def knn_predict(features, labels, queries, k):
    """The commonest class among the k nearest labelled images, by cosine similarity. In a tie, the lowest class wins.

    features: (M, D). labels: (M,). queries: (N, D). Returns (N,).
    """
    similar = F.normalize(queries, dim=1) @ F.normalize(features, dim=1).mT  # (N, M)
    nearest = similar.topk(k, dim=1).indices  # (N, k)
    votes = F.one_hot(labels[nearest]).sum(dim=1)  # (N, K)
    return votes.argmax(dim=1)


def linear_probe(features, labels, num_classes):
    """Logistic regression on features that do not change. Returns an nn.Linear(D, K) that reads them.

    features: (M, D). labels: (M,). Each feature is first brought to mean 0 and standard deviation 1, which the returned layer
    does itself. An L2 penalty of one half keeps the weights small (as in scikit-learn's LogisticRegression with C=1).
    """
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(1e-6)
    x, head = (features - mean) / std, nn.Linear(features.shape[1], num_classes)
    _zero(head)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(head(x), labels) + head.weight.square().sum() / (2 * len(labels))
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        head.weight /= std
        head.bias -= head.weight @ mean
    return head


@torch.no_grad()
def fair_probe(encode, train_images, train_labels, test_images, num_classes, penalty=1.0):
    """The classes that a linear layer names for images, which reads frozen features and has learned from labelled ones alone.

    encode: a function of images (B, C, H, W) that returns features (B, D). It is called in no_grad, and must be in eval mode.
    train_images, train_labels: (M, C, H, W) and (M,). test_images: (N, C, H, W). penalty: of the squared weights, above 0.
    Returns classes (N,). The features are standardised with the mean and deviation of those of the training images, and ridge
    regression onto one-hot labels is solved in closed form. Its bias is not penalised.
    """
    features, queries = encode(train_images), encode(test_images)
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(1e-6)
    x = (features - mean) / std  # (M, D)
    wanted = F.one_hot(train_labels, num_classes).to(x)  # (M, K)
    bias = wanted.mean(dim=0)  # the best one for every weight, because the mean of x is 0
    ridge = penalty * torch.eye(x.shape[1]).to(x)
    weight = torch.linalg.solve(x.mT @ x + ridge, x.mT @ (wanted - bias))  # (D, K)
    return ((queries - mean) / std @ weight + bias).argmax(dim=1)


# ---------------------------------------------------------------- fine-tuning


def _zero(layer):
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def new_head(model, num_classes):
    """A copy of the model whose head is new and all zeros, as in the paper, section 3.2.

    A model that was loaded without a head gets one, and a second head (DeiT's, for the distillation token) is new as well.
    """
    model = copy.deepcopy(model)
    if isinstance(model, Swin):
        model.head = nn.Sequential(OrderedDict(fc=nn.Linear(model.norm.normalized_shape[0], num_classes)))
        _zero(model.head.fc)
        return model
    for name in ("head", "head_dist"):
        if getattr(model, name, None) is not None:
            setattr(model, name, nn.Linear(model.blocks[-1].norm2.normalized_shape[0], num_classes))
            _zero(getattr(model, name))
    return model


def _require_head(model):
    head = getattr(model, "head", None)
    if not isinstance(getattr(head, "fc", head), nn.Linear):  # a Swin's is `head.fc`
        raise ValueError(
            "this model has no head: it gives features, and no classes. transfer.new_head(model, num_classes) adds one, which has "
            "to be trained."
        )


def from_scratch(model, num_classes, seed=0):
    """The same architecture with fresh, untrained weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cfg = model.pretrained_cfg
        if "model" not in cfg:
            raise ValueError(
                'only models of this course say how they are built (pretrained_cfg has no "model"). Build one with ViT(...).'
            )
        fresh = make_model(cfg["model"], cfg["input_size"], num_classes)
    fresh.pretrained_cfg = cfg
    return fresh


def layer_rate(name, depth, peak, decay):
    """The learning rate of a parameter by its name: `peak` for heads and last norm, times `decay` for each layer further down.

    depth: the number of blocks. The last block has peak * decay, the first peak * decay**depth, and what comes before the
    blocks peak * decay**(depth + 1). Same as in BEiT and MAE.
    """
    if name.startswith("blocks."):
        block = int(name.split(".")[1])
        return peak * decay ** (depth - block)
    if name.startswith(("norm.", "head.", "fc_norm.", "head_dist.")):  # the last two: see `models.variants`
        return peak
    return peak * decay ** (depth + 1)


def fine_tune(model, split, steps, peak, decay=1.0, rate_of=layer_rate, batch_size=32, seed=0):
    """A copy of the model, trained on the flipped and shifted images of a `Split`, in eval mode.

    steps: how many AdamW takes, with a warm-up over a tenth of them and then half a cosine. peak, decay: see `layer_rate`,
    which `rate_of` may replace. Whatever has the rate 0 is frozen. The global random state is left as it was.
    Raises ValueError for a model without a head, and for one whose blocks are not in one list, `blocks`.
    """
    _require_head(model)
    if not hasattr(model, "blocks"):
        raise ValueError(
            f"the learning rates go by the number of a block in `blocks`, and a {type(model).__name__} has none. Train it with "
            "training.fit, or with a loop of your own."
        )
    model, groups = copy.deepcopy(model).train(), {}
    for name, value in model.named_parameters():
        rate = rate_of(name, len(model.blocks), peak, decay)
        value.requires_grad_(rate > 0)
        if rate > 0:
            groups.setdefault(rate, []).append(value)
    optimizer = torch.optim.AdamW({"params": v, "peak": rate} for rate, v in groups.items())
    batch_size = min(batch_size, len(split))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        epochs = -(-steps * batch_size // len(split))
        order = torch.cat([torch.randperm(len(split)) for _ in range(epochs)])
        for step, chunk in enumerate(order.split(batch_size)[:steps]):
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate(step, steps, max(1, steps // 10), group["peak"])
            images = data.random_crop(data.random_flip(split.images[chunk]))
            batch = pretrained.preprocess(images, model)
            training.train_step(model, optimizer, batch, split.labels[chunk])
    return model.eval()


ENCODER = (
    "patch_embed.",
    "cls_token",
    "pos_embed",
    "blocks.",
    "norm.",
)  # the parts of a ViT that see, and do not answer


def load_encoder(model, start):
    """Give a model with the encoder of a `ViT`, such as a `Segmenter` or a `Detr`, the encoder of a trained one; in place.

    start: a ViT, or a model that has one as its `encoder`, with encoder weights of the same names and shapes. Decoder and heads of
    `model` stay as they are, and so do those of `start`. Returns `model`. Raises ValueError, with the first differences, if
    the encoders are not of the same sizes. `start.pretrained_cfg`, where there is one, says how images must be normalised.
    """
    given = getattr(start, "encoder", start).state_dict()
    given = {name: value for name, value in given.items() if name.startswith(ENCODER)}
    wanted = {name: value.shape for name, value in model.state_dict().items() if name.startswith(ENCODER)}
    differ = [
        name for name in sorted(given.keys() | wanted.keys()) if _shape(given.get(name)) != wanted.get(name)
    ]
    if differ or not given:
        told = ", ".join(f"{name} {_shape(given.get(name))} and {wanted.get(name)}" for name in differ[:3])
        raise ValueError(
            f"the encoder of this {type(start).__name__} does not fit into this {type(model).__name__}: {told or 'it has none'}. "
            "Build the model with the same patch_size, embed_dim, depth, mlp_ratio, global_pool and image size."
        )
    model.load_state_dict(given, strict=False)
    return model


def _shape(value):
    return None if value is None else value.shape


# ---------------------------------------------------------------- an open task

LIMIT = 120  # seconds for all draws together
# What `ten_labels` gave for ways of ours, in % for the draws 0, 1 and 2: python benchmarks/ten_labels.py
MEASURED = {
    "nearest neighbour": (18.2, 20.1, 18.2),
    "linear probe": (27.8, 30.9, 27.5),
    "from scratch, 400 steps": (13.3, 16.4, 12.5),
    "fine-tuning, 100 steps": (48.4, 43.6, 48.4),
    "fine-tuning, 400 steps": (52.1, 46.1, 50.1),
    "fine-tuning with one more idea, 400 steps": (84.9, 85.0, 83.3),
}


@dataclass(frozen=True)
class Score:
    """The result of `ten_labels`; print it. shares: of right answers, 0..1, one for each draw. seconds: for all of them."""

    shares: tuple
    seconds: float

    @property
    def mean(self):
        return sum(self.shares) / len(self.shares)

    def __str__(self):
        rows = MEASURED | {"YOURS": tuple(100 * share for share in self.shares)}
        ordered = sorted(rows.items(), key=lambda row: sum(row[1]) / len(row[1]))
        lines = [f"{'':44} mean   each draw"]
        for name, values in ordered:
            each = "  ".join(f"{value:4.1f}" for value in values)
            lines.append(f"{name:44} {sum(values) / len(values):4.1f}   {each}")
        late = "" if self.seconds <= LIMIT else ": TOO LONG, so it does not count"
        return "\n".join([*lines, f"Yours took {self.seconds:.0f} s of {LIMIT} s{late}."])

    __repr__ = __str__


def ten_labels(solve, draws=(0, 1, 2), test=1000):
    """Score a way of learning to name shapes from ten labelled images of each class.

    solve: a function of a `Split` of 100 images that returns a function of images (N, C, H, W), uint8, which returns classes (N,).
    It is called once for each draw. The same `test` images, which are not those of `data.shapes()`, are named each time.
    The global random state is seeded with the number of the draw, and is left as it was.
    Returns a `Score`. Raises ValueError if what `solve` returns does not give one class for each image.
    """
    images = data.shapes(train=1000, test=test, seed=12)
    shares, seconds = [], 0.0
    for draw in draws:
        labelled = few(images.train, 10, draw)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw)
            started = time.perf_counter()
            named = torch.as_tensor(solve(labelled)(images.test.images))
            seconds += time.perf_counter() - started
        if named.shape != images.test.labels.shape or named.is_floating_point():
            raise ValueError(
                f"expected one class for each of the {test} images, a tensor of integers of shape ({test},); "
                f"got {named.dtype}, shape {tuple(named.shape)}. From logits, take .argmax(dim=1)."
            )
        shares.append((named == images.test.labels).float().mean().item())
    return Score(tuple(shares), seconds)
