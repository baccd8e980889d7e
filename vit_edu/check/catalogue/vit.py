"""Lesson 05: pooling, the whole model, parameters in closed form, and properties that find bugs."""

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu.check.cases import (
    Case,
    build,
    call,
    drawn,
    fill,
    filled,
    forward,
    gradients,
    parameters,
)
from vit_edu.check.engine import Exercise
from vit_edu.models import vit
from vit_edu.training import accuracy

# ---------------------------------------------------------------- pooling

pool = Exercise(
    vit.pool,
    call('"token": 2 images, 5 tokens of width 4', drawn(2, 5, 4), "token"),
    call('"avg": 2 images, 5 tokens of width 4', drawn(2, 5, 4), "avg"),
    call('"avg" of one image', drawn(1, 3, 6), "avg"),
)


@pool.alternative
def with_select(tokens, global_pool):
    return tokens.select(1, 0) if global_pool == "token" else tokens.sum(1) / tokens.shape[1]


@pool.mistake(
    "The wrong axis: `tokens[0]` is the first *image*. The class token is token 0 of every image."
)
def first_image(tokens, global_pool):
    return tokens[0] if global_pool == "token" else tokens.mean(dim=0)


@pool.mistake("The class token is token 0; this reads the last one.")
def last_token(tokens, global_pool):
    return tokens[:, -1] if global_pool == "token" else tokens.mean(dim=1)


@pool.mistake(
    "The mean is taken over the width, not over the tokens: each token has become one number."
)
def over_width(tokens, global_pool):
    return tokens[:, 0] if global_pool == "token" else tokens.mean(dim=-1)


@pool.mistake("The token axis is kept with length 1. One vector an image is wanted: (B, D).")
def axis_kept(tokens, global_pool):
    return tokens[:, :1] if global_pool == "token" else tokens.mean(dim=1, keepdim=True)


# ---------------------------------------------------------------- the model

_tiny = {
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 3,
    "num_classes": 5,
    "embed_dim": 8,
    "depth": 2,
    "num_heads": 2,
}
_images = drawn(3, 3, 8, 8)


def _one_by_one(candidate):
    model = filled(candidate, **_tiny).eval()
    return torch.allclose(model(_images.clone())[:1], model(_images[:1].clone()), atol=1e-5)


ViT = Exercise(
    vit.ViT,
    parameters(
        "names and shapes of the parameters, with class token",
        **_tiny,
        hint="patch_embed, cls_token and pos_embed come from Embeddings; add blocks, norm and head.",
    ),
    parameters(
        "names and shapes of the parameters, with mean pooling",
        **_tiny,
        global_pool="avg",
        hint="With mean pooling there is no class token: class_token=False for Embeddings.",
    ),
    forward("3 images, class token", inputs=(_images,), **_tiny),
    forward("3 images, mean pooling", inputs=(_images,), global_pool="avg", **_tiny),
    Case("an image gets the same logits alone and in a batch", _one_by_one),
    gradients("everything can learn", inputs=(_images,), **_tiny),
)


class _ViT(vit.Embeddings):
    """What alternatives and mistakes have in common."""

    def __init__(
        self,
        img_size,
        patch_size,
        in_chans,
        num_classes,
        embed_dim,
        depth,
        num_heads,
        global_pool="token",
    ):
        super().__init__(
            img_size, patch_size, in_chans, embed_dim, class_token=global_pool == "token"
        )
        self.global_pool = global_pool
        self.blocks = vit.make_blocks(embed_dim, depth, num_heads)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes)

    def pooled(self, x):
        return vit.pool(x, self.global_pool)


@ViT.alternative
class BlockByBlock(_ViT):
    def forward(self, images):
        x = vit.Embeddings.forward(self, images)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.global_pool == "token" else x.mean(1))


@ViT.mistake(
    "The last norm is built but never applied. The head should read normed tokens (paper, equation 4)."
)
class NoNorm(_ViT):
    def forward(self, images):
        return self.head(self.pooled(self.blocks(super().forward(images))))


@ViT.mistake(
    "The model returns probabilities. It should return logits: the loss applies the softmax itself, and a second one "
    "flattens the gradient."
)
class Softmaxed(_ViT):
    def forward(self, images):
        return self.head(self.pooled(self.norm(self.blocks(super().forward(images))))).softmax(-1)


@ViT.mistake(
    "The head is applied to every token and nothing is pooled: one row of logits an image is wanted, (B, num_classes)."
)
class NotPooled(_ViT):
    def forward(self, images):
        return self.head(self.norm(self.blocks(super().forward(images))))


@ViT.mistake("The blocks are never applied: patches go straight from the embedding to the head.")
class NoBlocks(_ViT):
    def forward(self, images):
        return self.head(self.pooled(self.norm(super().forward(images))))


@ViT.mistake("The mean is taken before the norm. Norm every token first, then pool.")
class NormAfterPool(_ViT):
    def forward(self, images):
        return self.head(self.norm(self.pooled(self.blocks(super().forward(images)))))


@ViT.mistake(
    "The norm comes before the blocks. In a pre-norm encoder the skip path grows from block to block; it is the *output* of "
    "the last block that needs a norm."
)
class NormFirst(_ViT):
    def forward(self, images):
        return self.head(self.pooled(self.blocks(self.norm(super().forward(images)))))


# ---------------------------------------------------------------- parameters in closed form

count_parameters = Exercise(
    vit.count_parameters,
    call("a tiny model: 8 pixels, patch 4, 5 classes, D = 8, 2 blocks", 8, 4, 3, 5, 8, 2),
    call("ViT-B/16 at 224 pixels, 1,000 classes", 224, 16, 3, 1000, 768, 12),
    call("one channel, no block", 28, 7, 1, 10, 16, 0),
    call("another mlp_ratio", 32, 4, 3, 10, 64, 4, mlp_ratio=2),
)


@count_parameters.alternative
def by_counting(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    with torch.device("meta"):
        model = vit.ViT(img_size, patch_size, in_chans, num_classes, embed_dim, depth, 1, mlp_ratio)
    return sum(p.numel() for p in model.parameters())


def _less(what, diagnosis):
    """A mistake that misses `what(P, C, K, D, depth, N, hidden)` parameters."""

    def wrong(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
        N, hidden = (img_size // patch_size) ** 2, int(embed_dim * mlp_ratio)
        full = vit.count_parameters(
            img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio
        )
        return full - what(patch_size, in_chans, num_classes, embed_dim, depth, N, hidden)

    return count_parameters.mistake(diagnosis)(wrong)


_less(
    lambda P, C, K, D, depth, N, hidden: (N + 1) * D,
    "The position embedding is missing: one vector of D numbers for every patch and one for the class token.",
)
_less(
    lambda P, C, K, D, depth, N, hidden: D,
    "D parameters are missing. Three things have just that many: the bias of the projection, the class token, and the class token's position.",
)
_less(
    lambda P, C, K, D, depth, N, hidden: 2 * D,
    "2 D parameters are missing. The last norm has that many, weight and bias; so have two of: projection bias, class token, its position.",
)
_less(
    lambda P, C, K, D, depth, N, hidden: depth * (4 * D + hidden + D),
    "The biases inside the blocks are missing: those of qkv (3 D), proj (D), fc1 (hidden) and fc2 (D).",
)
_less(
    lambda P, C, K, D, depth, N, hidden: depth * 4 * D,
    "4 D parameters are missing in each block. The two norms have that many, with D weights and D biases each; so have the biases of qkv and proj.",
)
_less(
    lambda P, C, K, D, depth, N, hidden: (
        (depth - 1) * (4 * D * D + 2 * D * hidden + 9 * D + hidden)
    ),
    "Only one block is counted: multiply by the depth. One widely read text arrives at 8.5 M for ViT-B in this way.",
)


# ---------------------------------------------------------------- properties that find bugs


class _Broken(vit.ViT):
    """A ViT with mean pooling and one fault; the properties below are tried on it."""

    def __init__(self, fault=None):
        super().__init__(**_tiny, global_pool="avg")
        self.fault = fault
        if fault == "one position":
            self.pos_embed = nn.Parameter(torch.zeros(1, 1, 8))

    def forward(self, images):
        if self.fault == "no positions":
            x = self.blocks(self.patch_embed(images))
        elif self.fault == "across the batch":
            x = self.blocks(vit.Embeddings.forward(self, images).transpose(0, 1)).transpose(0, 1)
        else:
            x = self.blocks(vit.Embeddings.forward(self, images))
        return self.head(self.norm(x).mean(dim=1))


def _on(fault, *more):
    """A case for a property: the candidate applied to a ViT with this fault (None: to a sound one)."""
    name = f"a ViT with this fault: {fault}" if fault else "a sound ViT"

    def run(candidate):
        return candidate(fill(_Broken(fault)).eval(), _images.clone(), *more)

    return Case(name, run)


def _batch_independent(model, images):
    alone = torch.cat([model(image[None]) for image in images])  # one by one
    return torch.allclose(model(images), alone, atol=1e-5)


batch_independent = Exercise(
    _batch_independent,
    _on(None),
    _on("across the batch"),
    _on("no positions"),
    name="batch_independent",
)


@batch_independent.alternative
def change_a_neighbour(model, images):
    other = images.clone()
    other[1:] = other[1:].flip(0) + 1
    return bool((model(images)[0] - model(other)[0]).abs().max() < 1e-5)


@batch_independent.mistake(
    "The answer is True for every model, also for a broken one. Does the image that you look at get *other* neighbours, or "
    "none? Comparing a model with itself on the same batch says nothing."
)
def same_batch(model, images):
    return torch.allclose(model(images), model(images))


@batch_independent.mistake(
    "The answer is False for every model, also for a sound one. Are the same images compared, and in tensors of the same "
    "shape? Does the comparison allow for rounding?"
)
def never_equal(model, images):
    return torch.equal(model(images)[0], model(images)[1])


@batch_independent.mistake(
    "The answer is the wrong way round: True should mean that an image's logits do *not* depend on its neighbours."
)
def inverted(model, images):
    return not _batch_independent(model, images)


@batch_independent.mistake(
    "This is a tensor of True and False. One bool is wanted: torch.allclose gives one, and allows for rounding."
)
def elementwise(model, images):
    return (model(images)[:1] - model(images[:1])).abs() < 1e-5


def _parameters_without_gradient(model, images):
    model.zero_grad()
    model(images).square().sum().backward()
    return [name for name, p in model.named_parameters() if p.grad is None]


parameters_without_gradient = Exercise(
    _parameters_without_gradient,
    _on(None),
    _on("no positions"),
    _on("one position"),
    name="parameters_without_gradient",
)


@parameters_without_gradient.alternative
def with_autograd(model, images):
    names, params = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(model(images).logsumexp(-1).sum(), params, allow_unused=True)
    return [n for n, g in zip(names, grads, strict=True) if g is None]


@parameters_without_gradient.mistake(
    "Every parameter is listed: all gradients are None when they are looked at. Has backward run, and were they cleared before it and not after?"
)
def no_backward(model, images):
    model.zero_grad()
    return [name for name, p in model.named_parameters() if p.grad is None]


@parameters_without_gradient.mistake(
    "This lists the parameters that *have* a gradient. The suspects are those that have none."
)
def with_gradient(model, images):
    missing = _parameters_without_gradient(model, images)
    return [name for name, _ in model.named_parameters() if name not in missing]


@parameters_without_gradient.mistake(
    "The list is always empty. `requires_grad` says that a parameter *may* learn; whether it does shows after backward, in "
    "`.grad`, which is None where nothing came."
)
def requires_grad(model, images):
    return [name for name, p in model.named_parameters() if not p.requires_grad]


def _order_matters(model, images, patch_size):
    patches = vit.patchify(images, patch_size)  # (B, N, P*P*C)
    mixed = vit.unpatchify(patches.flip(1), patch_size, images.shape[-2:])
    return not torch.allclose(model(images), model(mixed), atol=1e-5)


order_matters = Exercise(
    _order_matters,
    _on(None, 4),
    _on("no positions", 4),
    _on("one position", 4),
    name="order_matters",
)


@order_matters.alternative
def roll_by_a_patch(model, images, patch_size):
    rolled = images.roll(patch_size, dims=-1)
    return bool((model(rolled) - model(images)).abs().max() > 1e-5)


@order_matters.mistake(
    "The answer is True for every model, also for one without positions. Is it whole patches that are moved, and nothing "
    "else? Shuffling *pixels*, or other images, changes any model's answer; so does comparing without room for rounding."
)
def pixels_shuffled(model, images, patch_size):
    return not torch.allclose(model(images), model(images.flip(-1)), atol=1e-5)


@order_matters.mistake(
    "The answer is False for every model, also for a sound one. Do the patches really end up in other places, and is each "
    "image compared with its own moved version?"
)
def nothing_moved(model, images, patch_size):
    patches = vit.patchify(images, patch_size)
    return not torch.allclose(
        model(images), model(vit.unpatchify(patches, patch_size, images.shape[-2:]))
    )


@order_matters.mistake(
    "The answer is the wrong way round: True should mean that the logits change when the patches are moved."
)
def order_inverted(model, images, patch_size):
    return not _order_matters(model, images, patch_size)


# ---------------------------------------------------------------- a metric under test


def _counting(logits, labels):
    return (logits.argmax(-1) == labels).float().sum().item()


def _percent(logits, labels):
    return 100 * accuracy(logits, labels)


def _never(logits, labels):
    return 0.0


def _always(logits, labels):
    return 1.0


def _lenient(logits, labels):
    return 0.25 + 0.75 * accuracy(logits, labels)


def _metric(name, metric):
    return Case(name, lambda candidate: candidate(metric))


def _accuracy_is_a_share(metric):
    labels = torch.tensor([0, 1, 2, 3])
    right = F.one_hot(labels, 4).float()
    return metric(right, labels) == 1.0 and metric(right.roll(1, dims=1), labels) == 0.0


accuracy_is_a_share = Exercise(
    _accuracy_is_a_share,
    _metric("a sound accuracy", accuracy),
    _metric("one that counts and does not divide", _counting),
    _metric("one in percent", _percent),
    _metric("one that is always 0", _never),
    _metric("one that is always 1", _always),
    _metric("one that gives a quarter for nothing", _lenient),
    name="accuracy_is_a_share",
)


@accuracy_is_a_share.alternative
def with_eye(metric):
    perfect, worst = torch.eye(3), torch.eye(3).roll(1, 0)
    return metric(perfect, torch.arange(3)) == 1 and not metric(worst, torch.arange(3))


@accuracy_is_a_share.mistake(
    "With a single image, a count and a share are the same number. Ask about several images."
)
def one_image(metric):
    one = torch.tensor([[1.0, 0.0]])
    return metric(one, torch.tensor([0])) == 1.0 and metric(one, torch.tensor([1])) == 0.0


@accuracy_is_a_share.mistake(
    "A metric that is always 0 passes this. Perfect predictions should score exactly 1: ask for that too."
)
def only_upper_bound(metric):
    labels = torch.arange(4)
    return metric(torch.eye(4), labels) <= 1.0


@accuracy_is_a_share.mistake(
    "A metric that is always 1 passes this. Entirely wrong predictions should score exactly 0: ask for that too."
)
def only_perfect(metric):
    return metric(torch.eye(4), torch.arange(4)) == 1.0


# ---------------------------------------------------------------- the repaired model


class _Repaired(vit.ViT):
    """The suspect model of lesson 05, sound; same arguments as there."""

    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__(img_size, patch_size, 3, num_classes, dim, depth, heads, global_pool="avg")


def _on_repaired(name, look, hint="", **sizes):
    def run(candidate):
        model = build(candidate, **sizes)
        torch.manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * 0.1)  # nothing stays at zero
        return look(model.eval())

    return Case(name, run, hint)


_pictures = drawn(3, 3, 32, 32)


def _has_positions(model):
    """Exchanging two neighbouring patches changes the logits; asked with one image at a time."""
    for i in (0, 3, 7, 11, 14):
        patches = vit.patchify(_pictures[:1], 8)  # (1, 16, 192)
        patches[:, [i, i + 1]] = patches[:, [i + 1, i]]
        moved = vit.unpatchify(patches, 8, (32, 32))
        if torch.allclose(model(moved), model(_pictures[:1].clone()), atol=1e-5):
            return False
    return True


RepairedViT = Exercise(
    _Repaired,
    _on_repaired(
        "logits of shape (B, num_classes)",
        lambda m: list(m(_pictures.clone()).shape),
        num_classes=7,
    ),
    _on_repaired(
        "images do not influence each other",
        lambda m: _batch_independent(m, _pictures.clone()),
        "Which axis does nn.TransformerEncoderLayer take for the sequence?",
    ),
    _on_repaired(
        "every parameter gets a gradient",
        lambda m: _parameters_without_gradient(m, _pictures.clone()),
        "A parameter that nothing reads gets none.",
    ),
    _on_repaired(
        "the order of the patches matters",
        _has_positions,
        "One vector for all tokens says nothing about the place.",
    ),
    _on_repaired(
        "another image size",
        lambda m: list(m(drawn(2, 3, 16, 16)).shape),
        img_size=16,
        patch_size=8,
    ),
    name="RepairedViT",
)


class _Suspect(nn.Module):
    """The suspect with switches for its faults, to know each half-repaired version."""

    batch_first, adds_positions, all_positions = True, True, True

    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__()
        self.patch_size = patch_size
        tokens = (img_size // patch_size) ** 2 if self.all_positions else 1
        self.embed = nn.Linear(3 * patch_size**2, dim)
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, 0.0, "gelu", norm_first=True, batch_first=self.batch_first
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images):
        x = self.embed(vit.patchify(images, self.patch_size))
        if self.adds_positions:
            x = x + self.pos_embed
        return self.head(self.encoder(x).mean(dim=1))


@RepairedViT.alternative
class SuspectRepaired(_Suspect):
    pass


@RepairedViT.mistake(
    "Nothing is repaired yet: attention still runs across the batch, and the positions are not added."
)
class StillSuspect(_Suspect):
    batch_first, adds_positions, all_positions = False, False, False


@RepairedViT.mistake(
    "The positions are added now, but it is one vector for all tokens, (1, 1, D): broadcasting hides it. And attention "
    "still runs across the batch."
)
class TwoLeft(_Suspect):
    batch_first, all_positions = False, False


@RepairedViT.mistake(
    "Positions are added, but there is one vector for all tokens, (1, 1, D): adding the same to every token tells none "
    "of them where it is."
)
class OnePositionLeft(_Suspect):
    all_positions = False


@RepairedViT.mistake(
    "The positions are right. Attention still runs across the batch: the encoder layer reads its first axis as the "
    "sequence unless it is told otherwise."
)
class StillAcrossBatch(_Suspect):
    batch_first = False


@RepairedViT.mistake("Attention is right now. `pos_embed` is still never added to the tokens.")
class StillNotAdded(_Suspect):
    adds_positions = False


EXERCISES = [
    pool,
    ViT,
    count_parameters,
    batch_independent,
    parameters_without_gradient,
    order_matters,
    accuracy_is_a_share,
    RepairedViT,
]
