"""Lesson 05: right answers written in other ways."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import nn

from alternatives import alternative
from vit_edu.check.catalogue.vit import BaseViT, Suspect
from vit_edu.models import vit

# ---------------------------------------------------------------- pool


@alternative("pool")
def with_select(tokens, global_pool):
    return tokens.select(1, 0) if global_pool == "token" else tokens.sum(1) / tokens.shape[1]


@alternative("pool")
def with_reduce(tokens, global_pool):
    if global_pool == "token":
        return rearrange(tokens[:, :1], "b 1 d -> b d")
    return reduce(tokens, "b t d -> b d", "mean")


@alternative("pool")
def as_weighted_sum(tokens, global_pool):
    T = tokens.shape[1]
    weights = tokens.new_full((T,), 1 / T)
    if global_pool == "token":
        weights = F.one_hot(torch.tensor(0), T).to(tokens)
    return torch.einsum("t,btd->bd", weights, tokens)


@alternative("pool")
def image_by_image(tokens, global_pool):
    pick = {"token": lambda image: image[0], "avg": lambda image: sum(image) / len(image)}
    return torch.stack([pick[global_pool](image) for image in tokens])


# ---------------------------------------------------------------- ViT


@alternative("ViT")
class BlockByBlock(BaseViT):
    def make_blocks(self, dim, depth, num_heads):
        return nn.ModuleList(vit.Block(dim, num_heads) for _ in range(depth))

    def forward(self, images):
        x = self.tokens(images)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.global_pool == "token" else x.mean(1))


@alternative("ViT")
class HoldsEmbeddings(nn.Module):
    """Holds Embeddings instead of extending it, so its parameters have other names."""

    def __init__(
        self, img_size, patch_size, in_chans, num_classes, embed_dim, depth, num_heads, global_pool="token"
    ):  # fmt: skip
        super().__init__()
        self.mean = global_pool != "token"
        self.embeddings = vit.Embeddings(img_size, patch_size, in_chans, embed_dim, not self.mean)
        self.encoder = nn.Sequential(
            *vit.make_blocks(embed_dim, depth, num_heads), nn.LayerNorm(embed_dim, eps=1e-6)
        )
        self.classifier = nn.Linear(embed_dim, num_classes)

    def forward(self, images):
        x = self.encoder(self.embeddings(images))
        return self.classifier(x.mean(dim=-2) if self.mean else x.select(1, 0))


@alternative("ViT")
class WithTorchEncoder(BaseViT):
    def make_blocks(self, dim, depth, num_heads):
        layer = nn.TransformerEncoderLayer(
            dim, num_heads, 4 * dim, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        )
        return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


@alternative("ViT")
class FromScratch(nn.Module):
    """Patches by a linear layer, a class token of shape (D,), positions without the batch axis."""

    def __init__(
        self, img_size, patch_size, in_chans, num_classes, embed_dim, depth, num_heads, global_pool="token"
    ):  # fmt: skip
        super().__init__()
        self.patch_size, tokens = patch_size, (img_size // patch_size) ** 2
        self.project = nn.Linear(patch_size**2 * in_chans, embed_dim)
        self.token = nn.Parameter(torch.zeros(embed_dim)) if global_pool == "token" else None
        tokens += self.token is not None
        self.positions = nn.Parameter(torch.randn(tokens, embed_dim) * 0.02)
        self.layers = vit.make_blocks(embed_dim, depth, num_heads)
        self.last_norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.classify = nn.Linear(embed_dim, num_classes)

    def forward(self, images):
        x = self.project(vit.patchify(images, self.patch_size))
        if self.token is not None:
            x = torch.cat([self.token.repeat(len(x), 1, 1), x], dim=1)
        x = self.last_norm(self.layers(x + self.positions))
        return self.classify(x.mean(1) if self.token is None else x[:, 0])


# ---------------------------------------------------------------- count_parameters


@alternative("count_parameters")
def by_counting(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    with torch.device("meta"):
        model = vit.ViT(img_size, patch_size, in_chans, num_classes, embed_dim, depth, 1, mlp_ratio)
    return sum(p.numel() for p in model.parameters())


@alternative("count_parameters")
def layer_by_layer(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    def linear(a, b):
        return a * b + b

    hidden = int(embed_dim * mlp_ratio)
    total = linear(patch_size * patch_size * in_chans, embed_dim)
    total += embed_dim * (2 + (img_size // patch_size) ** 2)
    for _ in range(depth):
        total += 2 * embed_dim + linear(embed_dim, 3 * embed_dim) + linear(embed_dim, embed_dim)
        total += 2 * embed_dim + linear(embed_dim, hidden) + linear(hidden, embed_dim)
    return total + 2 * embed_dim + linear(embed_dim, num_classes)


@alternative("count_parameters")
def by_shapes(img_size, patch_size, in_chans, num_classes, embed_dim, depth, mlp_ratio=4):
    D, H, N = embed_dim, int(embed_dim * mlp_ratio), img_size**2 // patch_size**2
    block = [(D,)] * 4 + [(3 * D, D), (3 * D,), (D, D), (D,), (H, D), (H,), (D, H), (D,)]
    once = [(D, in_chans, patch_size, patch_size), (D,), (1, 1, D), (1, N + 1, D)]
    once += [(D,), (D,), (num_classes, D), (num_classes,)]
    return sum(torch.Size(shape).numel() for shape in once + depth * block)


# ---------------------------------------------------------------- flops


@alternative("flops")
def product_by_product(tokens, embed_dim, depth):
    T, D = tokens, embed_dim
    products = [(T, D, 3 * D), (T, D, T), (T, T, D), (T, D, D), (T, D, 4 * D), (T, 4 * D, D)]
    return sum(depth * rows * inner * cols for rows, inner, cols in products)


@alternative("flops")
def block_after_block(tokens, embed_dim, depth):
    total = 0
    for _ in range(depth):
        total += tokens * embed_dim * (12 * embed_dim + 2 * tokens)
    return total


@alternative("flops")
def from_the_modules(tokens, embed_dim, depth):
    linear = [m.weight for m in vit.Block(embed_dim, 1).modules() if isinstance(m, nn.Linear)]
    return depth * tokens * (sum(w.numel() for w in linear) + 2 * tokens * embed_dim)


# ---------------------------------------------------------------- batch_independent


@alternative("batch_independent")
def each_among_strangers(model, images):
    together = model(images)
    for i in range(len(images)):
        other = torch.randn_like(images)
        other[i] = images[i]
        if (model(other)[i] - together[i]).abs().max() > 1e-5:
            return False
    return True


@alternative("batch_independent")
def by_gradient(model, images):
    images = images.requires_grad_()
    logits = model(images)
    for i in range(len(images)):
        (reached,) = torch.autograd.grad(logits[i].square().sum(), images, retain_graph=True)
        others = torch.arange(len(images)) != i
        if reached[others].any():
            return False
    return True


@alternative("batch_independent")
def slice_by_slice(model, images):
    with torch.no_grad():
        together = model(images)
        return all(
            bool(((model(images[i : i + 1]) - together[i : i + 1]).abs() < 1e-5).all())
            for i in range(len(images))
        )


@alternative("batch_independent")
def without_one_neighbour_at_a_time(model, images):
    together, everybody = model(images), range(len(images))
    for left_out in everybody:
        rest = [i for i in everybody if i != left_out]
        if not torch.allclose(model(images[rest]), together[rest], rtol=0, atol=1e-5):
            return False
    return True


# ---------------------------------------------------------------- parameters_without_gradient


@alternative("parameters_without_gradient")
def with_autograd(model, images):
    names, params = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(model(images).logsumexp(-1).sum(), params, allow_unused=True)
    return [n for n, g in zip(names, grads, strict=True) if g is None]


@alternative("parameters_without_gradient")
def with_a_loss(model, images):
    for p in model.parameters():
        p.grad = None
    logits = model(images)
    F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
    missing = []
    for name, p in model.named_parameters():
        if p.grad is None:
            missing.append(name)
    return missing


@alternative("parameters_without_gradient")
def with_hooks(model, images):
    reached = set()
    for name, p in model.named_parameters():
        p.register_hook(lambda grad, name=name: reached.add(name))
    model(images).mean().backward()
    return [name for name, _ in model.named_parameters() if name not in reached]


# ---------------------------------------------------------------- order_matters


@alternative("order_matters")
def roll_by_a_patch(model, images, patch_size):
    rolled = images.roll(patch_size, dims=-1)
    return bool((model(rolled) - model(images)).abs().max() > 1e-5)


@alternative("order_matters")
def random_order(model, images, patch_size):
    patches = vit.patchify(images, patch_size)
    order = torch.randperm(patches.shape[1], generator=torch.Generator().manual_seed(1))
    mixed = vit.unpatchify(patches[:, order], patch_size, tuple(images.shape[2:]))
    return not bool(torch.isclose(model(images), model(mixed), atol=1e-5).all())


@alternative("order_matters")
def exchange_two_corners(model, images, patch_size):
    P, other = patch_size, images.clone()
    other[..., :P, :P], other[..., -P:, -P:] = images[..., -P:, -P:], images[..., :P, :P]
    return (model(images) - model(other)).norm().item() > 1e-5


@alternative("order_matters")
def rows_of_patches_reversed(model, images, patch_size):
    strips = rearrange(images, "b c (r p) w -> b c r p w", p=patch_size).flip(2)
    return not torch.allclose(
        model(images), model(rearrange(strips, "b c r p w -> b c (r p) w")), rtol=0, atol=1e-5
    )


# ---------------------------------------------------------------- accuracy_is_a_share


@alternative("accuracy_is_a_share")
def with_eye(metric):
    perfect, worst = torch.eye(3), torch.eye(3).roll(1, 0)
    return metric(perfect, torch.arange(3)) == 1 and not metric(worst, torch.arange(3))


@alternative("accuracy_is_a_share")
def with_negated_logits(metric):
    labels = torch.tensor([2, 0, 1, 1, 2, 0, 2])
    logits = torch.full((7, 3), -5.0)
    logits[range(7), labels] = 5.0
    return [metric(logits, labels), metric(-logits, labels)] == [1.0, 0.0]


@alternative("accuracy_is_a_share")
def with_other_labels(metric):
    logits = torch.randn(20, 10)
    labels = logits.argmax(dim=1)
    if metric(logits, labels) != 1:
        return False
    return abs(metric(logits, (labels + 3) % 10)) < 1e-7


# ---------------------------------------------------------------- RepairedViT


@alternative("RepairedViT")
class SuspectRepaired(Suspect):
    pass


@alternative("RepairedViT")
class TransposedThereAndBack(Suspect):
    batch_first = False

    def position_shape(self, patches, dim):
        return patches, 1, dim

    def encoded(self, x):
        return self.encoder(x.transpose(0, 1) + self.pos_embed).transpose(0, 1)


@alternative("RepairedViT")
class WithConvAndOwnBlocks(nn.Module):
    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, patch_size, patch_size)
        self.positions = nn.Embedding((img_size // patch_size) ** 2, dim)
        self.blocks = nn.ModuleList(vit.Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images):
        x = rearrange(self.embed(images), "b d r c -> b (r c) d") + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.head(reduce(self.norm(x), "b t d -> b d", "mean"))


@alternative("RepairedViT")
class WithFixedPositions(Suspect):
    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__(img_size, patch_size, num_classes, dim, depth, heads)
        side = img_size // patch_size
        del self.pos_embed
        self.register_buffer("pos_embed", vit.sincos_positions(side, side, dim))
