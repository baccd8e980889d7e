"""Our ViT against other people's, in equal architecture: `python benchmarks/peers.py [--device cuda] [--compiled]`.

It times one training step (forward, cross entropy, backward, AdamW, zero_grad, in train mode) and one forward pass (in eval
mode, without gradients) of each model, in milliseconds, with float32 on the CPU and bf16 autocast on CUDA, the same for all.
Dropout is off. "ours / it" below 1 means that we are faster. The times are the minima over the rounds. The median of the
ratio, round by round, is given beside it and says how steady it is. --compiled: torch.compile with fixed shapes for all.

The numbers of parameters must agree. vit-pytorch's `ViT` is the nearest of its models, but not equal: it has layer norms before
and after the patch projection, no biases in qkv, and attention that is not fused. (Its `SimpleViT` has no class token and no
learned positions.)
"""

import functools
import statistics

import torch
import torch.nn.functional as F

from vit_edu.models import ViT

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

SIZE = {"img_size": 32, "patch_size": 4, "embed_dim": 192, "depth": 9, "num_heads": 3}
CLASSES = 10
DIFFERENCES = {  # peer -> (parameters more than ours, as a function of P, D, depth; why)
    "vit-pytorch": (
        lambda P, D, depth: 2 * 3 * P * P + 2 * D - depth * 3 * D,
        "two layer norms around the patch projection, no biases in qkv",
    ),
}


def models():
    """{name: model} of the size SIZE, from images to logits, as each package builds it."""
    import timm.models.vision_transformer
    import torchvision.models.vision_transformer
    import vit_pytorch
    from transformers import ViTConfig, ViTForImageClassification

    size, patch, dim, depth, heads = SIZE.values()
    config = ViTConfig(
        image_size=size,
        patch_size=patch,
        hidden_size=dim,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * dim,
        num_labels=CLASSES,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    return {
        "ours": ViT(num_classes=CLASSES, **SIZE),
        "timm": timm.models.vision_transformer.VisionTransformer(num_classes=CLASSES, **SIZE),
        "torchvision": torchvision.models.vision_transformer.VisionTransformer(
            image_size=size,
            patch_size=patch,
            num_layers=depth,
            num_heads=heads,
            hidden_dim=dim,
            mlp_dim=4 * dim,
            num_classes=CLASSES,
        ),
        "transformers": ViTForImageClassification(config),
        "vit-pytorch": vit_pytorch.ViT(
            image_size=size,
            patch_size=patch,
            num_classes=CLASSES,
            dim=dim,
            depth=depth,
            heads=heads,
            dim_head=dim // heads,
            mlp_dim=4 * dim,
        ),
    }


def count(model):
    """The number of parameters of a model."""
    return sum(p.numel() for p in model.parameters())


def check_sizes(found):
    """Raise AssertionError unless all have as many parameters as ours, except for DIFFERENCES. Returns a text on those."""
    texts = []
    for name, model in found.items():
        more, why = DIFFERENCES.get(name, (lambda *_: 0, ""))
        more = more(SIZE["patch_size"], SIZE["embed_dim"], SIZE["depth"])
        assert count(model) == count(found["ours"]) + more, (name, count(model), more)
        if name in DIFFERENCES:
            texts.append(f"{name}: {more:+,} parameters, {why}.")
    return " ".join(texts)


def step(model, optimizer, images, labels):
    """One training step on one batch."""
    with autocast(images.device):
        loss = F.cross_entropy(logits(model, images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def forward(model, images):
    """One forward pass."""
    with autocast(images.device):
        return logits(model, images)


def logits(model, images):
    """(B, K), whatever the model wraps them in."""
    found = model(images)
    return found if isinstance(found, torch.Tensor) else found.logits


def autocast(device):
    """bf16 on CUDA, as in training."""
    return torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda")


def ratios(seconds, name):
    """Our time divided by this peer's: (of the minima, the median over the rounds)."""
    ours, peer = seconds["ours"], seconds[name]
    return min(ours) / min(peer), statistics.median(a / b for a, b in zip(ours, peer, strict=True))


def cells(seconds, name):
    """Milliseconds and ours / peer, as texts."""
    of_minima, median = ratios(seconds, name)
    return f"{1000 * min(seconds[name]):.2f}", f"{of_minima:.3f} ({median:.3f})"


def verdict(seconds, what):
    """Ours against the fastest peer, as a sentence."""
    fastest = min((n for n in seconds if n != "ours"), key=lambda n: min(seconds[n]))
    return f"{what}, ours / fastest peer ({fastest}): **{ratios(seconds, fastest)[0]:.3f}**"


def main(argv=None):
    parser = measure.parser(__doc__, rounds=15)
    parser.add_argument("--compiled", action="store_true", help="torch.compile, for all models")
    parser.add_argument("--batch", type=int, help="images in a batch (CPU 32, CUDA 256)")
    args = parser.parse_args(argv)
    packages = ("timm", "torchvision", "transformers", "vit-pytorch")
    line = measure.conditions("peers", argv, args.device, packages)
    device, cuda = torch.device(args.device), args.device == "cuda"
    batch = args.batch or (256 if cuda else 32)

    torch.manual_seed(0)
    images = torch.randn(batch, 3, SIZE["img_size"], SIZE["img_size"], device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)
    found = models()
    differ = check_sizes(found)
    steps, passes = {}, {}
    for name, model in found.items():
        model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        called = torch.compile(model, dynamic=False) if args.compiled else model
        steps[name] = functools.partial(step, called, optimizer, images, labels)
        passes[name] = functools.partial(forward, called, images)
    repeats = 10 if cuda else 1
    steps = measure.in_turn(steps, args.rounds, device, repeats)
    for model in found.values():
        model.eval()
    passes = measure.in_turn(passes, args.rounds, device, repeats)

    rows = [
        (name, f"{count(model):,}", *cells(steps, name), *cells(passes, name))
        for name, model in found.items()
    ]
    head = (
        "model",
        "parameters",
        "training step, ms",
        "ours / it (median)",
        "forward, ms",
        "ours / it (median)",
    )
    text = (
        f"{measure.table(head, rows)}\n\n{verdict(steps, 'Training step')}. {verdict(passes, 'Forward')}.\n"
        f"Batches of {batch} images, the fastest of {args.rounds} rounds. {differ}\n\n{line}"
    )
    title = f"{'CUDA, bf16 autocast' if cuda else 'CPU, float32'}, {'compiled' if args.compiled else 'eager'}"
    measure.write(args.out, "peers", title, text)


if __name__ == "__main__":
    main()
