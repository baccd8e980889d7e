"""Training, in plain PyTorch: recipe, schedule, step, evaluation, and a loop that can be stopped and taken up again.

What lesson 06 builds, and what faster recipes add to it: Muon, fewer tokens at first, label smoothing, mixing of images, an
average of the weights, a budget in minutes.
"""

import contextlib
import copy
import dataclasses
import functools
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from vit_edu import augment, settings
from vit_edu import data as vit_data
from vit_edu.atomic import write_whole
from vit_edu.models import make_model
from vit_edu.models.kinds import with_kind
from vit_edu.models.saved import CheckpointError, load_run, read_checkpoint  # noqa: F401


class Diverged(Exception):
    """The loss is no number any more, or far above that of guessing; the text says at which step and what to try."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a run goes, besides the data. Saved with every checkpoint.

    epochs, minutes: how long; one of the two. With minutes, the schedule follows the clock: the run ends when they are over.
    model: its "kind" (see `models.KINDS`) and arguments, without num_classes and img_size, which the data decide.
    learning_rate: the peak. schedule: how it falls to zero after the warm-up, "cosine" or "linear"; "constant" does not fall.
    tokens: pairs (until, share): up to this share of the run, the blocks see only this share of the tokens (`TokenDropout`).
    zero_init: the last matrix of every branch starts at zero, so that each block begins as the identity.
    optimizer: "adamw", or "muon" for the matrices of blocks and patches and AdamW for the rest. warmup: share of the run
    in which the learning rate climbs. clip: largest norm of the gradient (0: any). average: decay of a running average
    of the weights, which is what is evaluated and kept (0: none). flip, crop (pixels): see `data.batches`. label_smoothing,
    cutout (pixels), distort (strength), mixup and cutmix (alpha): see `augment`; 0 leaves them out; where both mixings are
    on, each batch draws one of them. mix_prob: share of the batches that are mixed.
    cpu_bf16: train in bf16 on a CPU too, where it has instructions for it. A CUDA device that has bf16 always uses it.
    validation: share of the training images held out for the curves. max_images: use at most so many training images
    (None: all). seed: of weights, order and augmentation.
    """

    batch_size: int
    learning_rate: float
    epochs: int | None = None
    minutes: float | None = None
    optimizer: str = "adamw"
    schedule: str = "cosine"
    tokens: tuple = ()
    zero_init: bool = False
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 0.0
    average: float = 0.0
    flip: bool = True
    crop: int = 4
    label_smoothing: float = 0.0
    cutout: int = 0
    distort: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    cpu_bf16: bool = False
    validation: float = 0.1
    max_images: int | None = None
    seed: int = 0
    model: dict = field(default_factory=dict)

    def __post_init__(self):
        if (self.epochs is None) == (self.minutes is None):
            raise ValueError(
                f"a recipe has either epochs or minutes; got epochs={self.epochs}, minutes={self.minutes}."
            )
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f'optimizer is "adamw" or "muon", got {self.optimizer!r}.')
        if self.schedule not in ("cosine", "linear", "constant"):
            raise ValueError(f'schedule is "cosine", "linear" or "constant", got {self.schedule!r}.')
        if not 0 <= self.mix_prob <= 1:
            raise ValueError(f"mix_prob is a share of the batches, in 0..1, got {self.mix_prob}.")
        if not all(len(pair) == 2 and 0 < pair[0] <= 1 and 0 < pair[1] <= 1 for pair in self.tokens):
            raise ValueError(
                f"tokens holds pairs (until, share), both in 0..1, got {self.tokens}: ((0.5, 0.25),) shows a "
                "quarter of the tokens in the first half of the run."
            )

    def __str__(self):
        model = ", ".join(f"{k} {v}" for k, v in self.model.items())
        how_long = f"{self.minutes:g} minutes" if self.epochs is None else f"{self.epochs} epochs"
        names = {"adamw": "AdamW", "muon": "Muon and AdamW"}
        extras = "".join(
            f", {name.replace('_', ' ')} {getattr(self, name):g}"
            for name in (
                "clip",
                "average",
                "label_smoothing",
                "cutout",
                "distort",
                "mixup",
                "cutmix",
            )
            if getattr(self, name)
        )
        extras += "".join(
            f", {share:.0%} of the tokens until {until:.0%} of the run" for until, share in self.tokens
        )
        if (self.mixup or self.cutmix) and self.mix_prob < 1:
            extras += f" in {self.mix_prob:.0%} of the batches"
        extras += ", branches start at zero" * self.zero_init
        extras += ", no flip" * (not self.flip)
        extras += f", crop {self.crop}" * (self.crop != 4)
        extras += ", bf16 on a CPU that has it" * self.cpu_bf16
        return (
            f"{how_long} in batches of {self.batch_size}; {names[self.optimizer]}, learning rate "
            f"{self.learning_rate:g} ({self.schedule}), weight decay {self.weight_decay:g}{extras}; seed {self.seed}.\nModel: {model}."
        )


_LAPTOP = {
    "batch_size": 128,
    "learning_rate": 6e-3,
    "optimizer": "muon",
    "schedule": "linear",
    "zero_init": True,
    "crop": 2,
    "label_smoothing": 0.1,
    "validation": 0.04,
}
_GPU = {
    "batch_size": 768,
    "learning_rate": 3e-3,
    "optimizer": "muon",
    "weight_decay": 0.1,
    "zero_init": True,
    "average": 0.999,
    "label_smoothing": 0.1,
    "cutout": 8,
    "distort": 1.0,
    "cutmix": 1.0,
    "validation": 0.04,
}
_GPU_MODEL = {
    "patch_size": 4,
    "embed_dim": 256,
    "depth": 8,
    "num_heads": 4,
    "global_pool": "avg",
    "drop_path_rate": 0.1,
}

RECIPES = {
    # Five minutes, which is enough for two CPU cores.
    "laptop": Recipe(
        minutes=5,
        tokens=((0.3, 0.25), (0.7, 0.5)),
        model={
            "patch_size": 4,
            "embed_dim": 64,
            "depth": 4,
            "num_heads": 2,
            "mlp_ratio": 2,
            "global_pool": "avg",
        },
        **_LAPTOP,
    ),
    # The same with a convolutional stem, which leaves 16 tokens.
    "laptop-hybrid": Recipe(
        minutes=5,
        model={
            "kind": "hybrid",
            "stem": ((32, 2), (64, 2), (64, 1), (64, 1)),
            "patch_size": 8,
            "embed_dim": 96,
            "depth": 2,
            "num_heads": 2,
            "mlp_ratio": 2,
            "global_pool": "avg",
        },
        **_LAPTOP,
    ),
    # Two hours of one or two CPU cores.
    "long": Recipe(
        minutes=120,
        model={
            "kind": "hybrid",
            "stem": ((64, 2), (64, 1), (128, 2), (128, 1), (128, 1)),
            "patch_size": 8,
            "embed_dim": 192,
            "depth": 4,
            "num_heads": 3,
            "mlp_ratio": 2,
            "global_pool": "avg",
        },
        **_LAPTOP
        | {
            "batch_size": 256,
            "crop": 4,
            "cutout": 8,
            "cutmix": 1.0,
            "mix_prob": 0.5,
            "cpu_bf16": True,
        },
    ),
    # For one CUDA device, in bf16: many passes over the images, so each must look new. Not measured yet.
    "gpu": Recipe(minutes=4.8, model=_GPU_MODEL, **_GPU),
    "gpu-long": Recipe(
        minutes=11.8,
        mixup=0.8,
        model=_GPU_MODEL | {"embed_dim": 384, "num_heads": 6, "drop_path_rate": 0.2},
        **_GPU,
    ),
    "gpu-hybrid": Recipe(
        minutes=9.8,
        model=_GPU_MODEL | {"kind": "hybrid", "stem": ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))},
        **_GPU,
    ),
    # Seconds, for tests: VIT_EDU_FAST=1.
    "fast": Recipe(
        epochs=2,
        batch_size=64,
        learning_rate=2e-3,
        max_images=640,
        model={"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": "avg"},
    ),
}


# RECIPE-SEED.jsonl: runs of ours, to compare with; pieces.jsonl: see `logged_pieces`
LOGS = Path(__file__).parent / "logs"


def read_log(path):
    """A log of ours: (its conditions, a dict; the history as `fit` returns it; the result, a dict)."""
    first, *history, last = (json.loads(line) for line in Path(path).read_text().splitlines())
    return first, history, last


def logged_runs(recipe_name, classes):
    """Histories of our own runs of a recipe on data with these classes, one a seed; [] where there is none."""
    logs = [read_log(path) for path in sorted(LOGS.glob(f"{recipe_name}-[0-9]*.jsonl"))]
    return [history for first, history, _ in logs if first["classes"] == list(classes)]


def logged_pieces():
    """What each piece of a recipe was worth in our own runs (`benchmarks/pieces.py`).

    Returns (conditions, a dict; {what was changed: [held-out accuracy, 0..1, one a seed]}). The unchanged recipe comes first;
    runs with the same seed have the same held-out images.
    """
    first, *runs = map(json.loads, (LOGS / "pieces.jsonl").read_text().splitlines())
    found = {}
    for entry in sorted(runs, key=lambda entry: entry["seed"]):
        found.setdefault(entry["piece"], []).append(entry["val_accuracy"])
    return first, found


def pick_device():
    """The best device at hand: CUDA, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def run_folder(name):
    """Where a run of this name keeps its checkpoints: runs/NAME here; a fresh folder under VIT_EDU_FAST=1."""
    return Path(tempfile.mkdtemp(prefix="vit_edu-")) if settings.fast() else Path("runs") / name


def pick_recipe(device):
    """Name of the recipe that suits the device: "fast" under VIT_EDU_FAST=1, "gpu" on CUDA, else "laptop"."""
    if settings.fast():
        return "fast"
    return "gpu" if torch.device(device).type == "cuda" else "laptop"


# ---------------------------------------------------------------- the pieces of lesson 06


def accuracy(logits, labels):
    """Share of images whose largest logit is the right one. logits: (B, K), labels: (B,). Returns a float, 0..1."""
    return (logits.argmax(dim=-1) == labels).float().mean().item()


def learning_rate(step, total_steps, warmup_steps, peak):
    """Learning rate of a step: a linear climb, then half a cosine down to zero.

    step: 0 for the first. Step warmup_steps - 1 has the peak, step total_steps (one past the last) would have zero.
    Source: warm-up, paper, appendix B.1; cosine, Loshchilov and Hutter 2017, arXiv:1608.03983.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)  # 0 .. 1
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def train_step(model, optimizer, images, labels, cpu_bf16=False):
    """One step of gradient descent on one batch. Returns the loss before the step, as a float.

    labels: (B,) classes, or (B, K) their probabilities. cpu_bf16: see `Recipe`.
    """
    model.train()
    with _autocast(images.device, cpu_bf16):
        logits = model(images)  # (B, K)
        loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def evaluate(model, batches):
    """Accuracy over all batches, each image counted once. Returns a float, 0..1.

    batches: pairs (images (B, C, H, W), labels (B,)). The model is put into eval mode, and afterwards back into the
    mode that it was in. Raises ValueError when there is no batch.
    """
    was_training = model.training
    model.eval()
    right = total = 0
    for images, labels in batches:
        with _autocast(images.device):
            right += (model(images).argmax(dim=-1) == labels).sum().item()
        total += len(labels)
    model.train(was_training)
    if total == 0:
        raise ValueError("there is nothing to evaluate on: no batch came.")
    return right / total


@torch.no_grad()
def predict(model, split, mean, std, batch_size=512):
    """Class probabilities for every image of a split, in its order. Returns (N, K), float32, on the CPU."""
    was_training = model.training
    model.eval()
    found = []
    for images, _ in vit_data.batches(split, batch_size, mean, std):
        with _autocast(images.device):
            found.append(model(images).float().softmax(dim=-1).cpu())
    model.train(was_training)
    return torch.cat(found)


def predict_test(model, about, images):
    """Class probabilities (N, K) of the test images, normalised as in training. about: "mean" and "std" of a checkpoint."""
    device = pick_device()
    mean, std = (torch.tensor(about[k], device=device)[:, None, None] for k in ("mean", "std"))
    return predict(model.to(device), images.test.to(device), mean, std)


def same_classes(about, images):
    """Raise CheckpointError unless the data have the classes of the checkpoint, in its order."""
    if list(images.classes) != about["classes"]:
        raise CheckpointError(
            f"the checkpoint knows the classes {', '.join(about['classes'])}; the data have "
            f"{', '.join(images.classes)}. Name its data with --data."
        )


def has_bf16(device):
    """Whether the device computes in bf16: same range as float32, half the bytes. CUDA from Ampere (2020) on; CPUs with
    AVX-512 BF16 or AMX, where torch can tell (`torch.cpu.get_capabilities`)."""
    device = torch.device(device)
    if device.type == "cpu":
        has = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@contextlib.contextmanager
def _autocast(device, cpu_bf16=False):
    """bf16 where the device has it, for matrix products and convolutions; on a CPU, where it is asked for."""
    if device.type == "cpu" and cpu_bf16 and has_bf16(device):
        # Torch's fused attention for the CPU goes back slowly in bf16: see benchmarks/results/cpu_bf16.md
        with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        enabled = device.type == "cuda" and has_bf16(device)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=enabled):
            yield


def make_optimizer(model, recipe):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); weight decay on matrices only, not on biases, norms,
    class token or positions.

    With "muon", the matrices of the blocks and of the patch projection go to `Muon`.
    """
    matrices, decay, rest = [], [], []
    for name, value in model.named_parameters():
        inside = name.startswith(("blocks.", "patch_embed."))
        if recipe.optimizer == "muon" and inside and value.ndim > 1:
            matrices.append(value)
        elif value.ndim > 1 and name not in ("cls_token", "pos_embed"):
            decay.append(value)
        else:
            rest.append(value)
    groups = [
        {"params": decay, "weight_decay": recipe.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    device = next(model.parameters()).device
    on_cuda = device.type == "cuda"
    adamw = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=on_cuda)
    if not matrices:
        return Together(adamw, clip=recipe.clip) if recipe.clip else adamw
    bf16 = on_cuda or (recipe.cpu_bf16 and has_bf16(device))
    muon = Muon(matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, bf16=bf16)
    return Together(muon, adamw, clip=recipe.clip)


class Muon(torch.optim.Optimizer):
    """Muon: momentum, made orthogonal before it is applied (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    params: matrices; the weight of a convolution, (out, in, P, P), counts as one with in*P*P columns. bf16: whether they are
    made orthogonal in bf16, which is faster where the device has it and exact to about two digits.
    What it computes is torch.optim.Muon with adjust_lr_fn="match_rms_adamw", so that one learning rate suits it and AdamW.
    Torch's goes from matrix to matrix and takes no convolutions; here all matrices of one shape go together, and the blocks of
    a ViT are alike.
    """

    def __init__(self, params, lr, weight_decay=0.0, momentum=0.95, bf16=False):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.bf16 = bf16

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            shapes = {}
            for value in group["params"]:
                if value.grad is not None:
                    shapes.setdefault(value.shape, []).append(value)
            for shape, values in shapes.items():
                for value in values:
                    if not self.state[value]:
                        self.state[value]["momentum_buffer"] = torch.zeros_like(value)
                grads = [value.grad for value in values]
                smooth = [self.state[value]["momentum_buffer"] for value in values]
                torch._foreach_lerp_(smooth, grads, 1 - momentum)
                update = torch.stack(torch._foreach_lerp(grads, smooth, momentum))  # Nesterov
                update = update.flatten(2)  # (n, rows, cols)
                update = orthogonalize(update.bfloat16() if self.bf16 else update).to(update.dtype)
                torch._foreach_mul_(values, 1 - lr * group["weight_decay"])
                size = 0.2 * max(update.shape[1:]) ** 0.5  # entries of AdamW's usual size
                update = update.unflatten(2, shape[1:])
                torch._foreach_add_(values, list(update.unbind()), alpha=-lr * size)


def orthogonalize(matrices, steps=5):
    """Matrices (n, rows, cols) with singular vectors as they are and all singular values brought near 1.

    Newton-Schulz: each step applies a x + b x^3 + c x^5 to the singular values, by products of matrices alone. After
    five steps they lie roughly between 0.7 and 1.2.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        square = x @ x.mT  # (n, r, r), r the shorter side
        # -4.7750 square + 2.0315 square square
        square = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, square, x, beta=3.4445)  # 3.4445 x + square x
    return x.mT.contiguous() if tall else x


class Together:
    """Several optimisers that are used as one. clip: a gradient that is longer, over all of them, is shortened to this."""

    def __init__(self, *optimizers, clip=0.0):
        self.optimizers, self.clip = optimizers, clip

    @property
    def param_groups(self):
        return [group for o in self.optimizers for group in o.param_groups]

    def zero_grad(self):
        for o in self.optimizers:
            o.zero_grad()

    def step(self):
        if self.clip:
            values = [p for group in self.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(values, self.clip)
        for o in self.optimizers:
            o.step()

    def state_dict(self):
        return {"optimizers": [o.state_dict() for o in self.optimizers]}

    def load_state_dict(self, state):
        for o, each in zip(self.optimizers, state["optimizers"], strict=True):
            o.load_state_dict(each)


class Average:
    """A running average of a model's weights (an exponential moving average). decay: the share of the old average that stays.

    In the first steps less stays, min(decay, (1 + n) / (10 + n)), so that the average does not drag the first weights along.
    """

    def __init__(self, model, decay):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.steps = decay, 0
        self.values, self.buffers = list(self.model.parameters()), list(self.model.buffers())

    @torch.no_grad()
    def update(self, model):
        stays = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(self.values, list(model.parameters()), 1 - stays)
        if self.buffers:  # running statistics are averages already
            torch._foreach_copy_(self.buffers, list(model.buffers()))


class TokenDropout:
    """While the model trains, its blocks see only some tokens of each image, drawn at random. (B, T, D) -> (B, n, D).

    keep: the share of the tokens, 0..1, to be changed as the run goes on; 1 keeps all, as evaluation does. The class token
    stays. A quarter of the tokens makes a step about four times as fast, and the attention sixteen times.
    Source: PatchDropout, Liu et al. 2022, arXiv:2208.07220; from few to many, as in growing image sizes.
    """

    def __init__(self, model):
        self.keep = 1.0
        self.prefix = int(getattr(model, "cls_token", None) is not None)
        self.hook = model.blocks.register_forward_pre_hook(self)

    def __call__(self, blocks, inputs):
        (x,) = inputs
        B, T, D = x.shape
        patches = T - self.prefix
        count = max(1, round(patches * self.keep))
        if not blocks.training or count == patches:
            return None  # as it is
        kept = torch.rand(B, patches, device=x.device).topk(count, dim=1).indices + self.prefix
        if self.prefix:
            kept = torch.cat([kept.new_zeros(B, 1), kept], dim=1)
        return (x.gather(1, kept[..., None].expand(-1, -1, D)),)  # (B, n, D)


def mix(images, labels, recipe, num_classes):
    """What the recipe does with a batch of normalised images before the step. Returns images and labels or targets."""
    if recipe.distort:
        images = augment.distort(images, recipe.distort)
    if recipe.cutout:
        images = augment.cutout(images, recipe.cutout)
    if not (recipe.label_smoothing or recipe.mixup or recipe.cutmix):
        return images, labels
    targets = augment.one_hot(labels, num_classes, recipe.label_smoothing)
    ways = [(f, a) for f, a in ((augment.mixup, recipe.mixup), (augment.cutmix, recipe.cutmix)) if a]
    if ways and float(torch.rand(())) < recipe.mix_prob:
        way, alpha = ways[int(torch.randint(len(ways), ()))]
        images, targets = way(images, targets, alpha)
    return images, targets


# ---------------------------------------------------------------- a whole run


def build_model(recipe, data):
    """A new model for this data, of the recipe's kind and with its seed."""
    torch.manual_seed(recipe.seed)
    model = make_model(recipe.model, data.train.images.shape[1:], len(data.classes))
    if recipe.zero_init:
        for block in model.blocks:
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.fc2.weight)
    return model


def compiled_step(model, optimizer, backend="inductor"):
    """`train_step` for CUDA: model and loss compiled, with fixed shapes, and nothing waits for the GPU.

    Returns step(images, labels), which returns the loss as a tensor on the device. Where the first step cannot be compiled (no C
    compiler, a card that is too old), a sentence says so, and the steps run uncompiled.
    """
    torch.compiler.reset()  # no run meets the limit of compilations because of those before it
    torch.backends.cudnn.benchmark = True  # shapes are fixed: let it try its kernels
    bf16 = has_bf16(next(model.parameters()).device)

    def forward(images, labels):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=bf16):
            return F.cross_entropy(model(images).float(), labels)

    compiled = torch.compile(forward, dynamic=False, fullgraph=True, backend=backend)
    loss_of, tried = compiled, False

    def gradients(images, labels):
        optimizer.zero_grad()
        loss = loss_of(images, labels)
        loss.backward()
        return loss.detach()

    def step(images, labels):
        nonlocal loss_of, tried
        if not model.training:  # walks over all modules
            model.train()
        try:
            loss = gradients(images, labels)
        except Exception as error:
            if tried or isinstance(error, torch.OutOfMemoryError):
                raise
            reason = str(error).strip().partition("\n")[0]
            print(f"The model cannot be compiled here and runs slower, uncompiled: {reason}")
            loss_of = forward
            loss = gradients(images, labels)
        tried = True
        optimizer.step()
        return loss

    return step


def fit(model, data, recipe, out=None, on_epoch=None, clock=time.perf_counter):
    """Train `model` on `data.train` by `recipe`. Returns the history, one dict an epoch.

    Each entry: epoch (from 1), loss (mean over the training batches), val_accuracy (on held-out training images),
    learning_rate, images_per_second, seconds (since the start, pauses left out), compiling (seconds of these, CUDA only).

    out: a folder for `checkpoint.pt`, written whole after each epoch (on CUDA, where an epoch may take a second, every 30
    seconds and at the end). A run that was killed goes on from there with the same call, and ends with the same weights as
    one that was not. on_epoch(history): called after each epoch, for live curves (on CUDA every 5 seconds and at the end).
    The stop button (KeyboardInterrupt) ends the run with the weights so far. A recipe in minutes keeps them in the checkpoint
    too, as an epoch that was cut short; one in epochs goes on after its last whole epoch.
    A recipe in minutes ends when they are over, in the middle of an epoch too; taken up again, it has the minutes that were
    left. What CUDA takes to compile the first step counts, and the schedule begins after it. With `recipe.average`, the
    average is what is evaluated, and what `model` holds at the end. clock: what counts the seconds; with
    `time.process_time` on one thread, other work on the machine does not count.
    The test images are not touched. Raises Diverged, CheckpointError.
    """
    device = next(model.parameters()).device
    on_cuda = device.type == "cuda"
    data = data.to(device)
    held_out = max(1, int(len(data.train) * recipe.validation))
    train, val = data.train.hold_out(held_out, seed=recipe.seed)
    if recipe.max_images:
        train = train.take(recipe.max_images, seed=recipe.seed)
        val = val.take(recipe.max_images, seed=recipe.seed)
    steps_per_epoch = max(1, len(train) // recipe.batch_size)
    total = recipe.epochs * steps_per_epoch if recipe.epochs else None

    optimizer = make_optimizer(model, recipe)
    average = Average(model, recipe.average) if recipe.average else None
    # Its own, so that nothing else shifts the order of images
    order = torch.Generator().manual_seed(recipe.seed)
    dropout = TokenDropout(model) if recipe.tokens else None
    if on_cuda:
        take_step = compiled_step(model, optimizer)
    else:
        take_step = functools.partial(train_step, model, optimizer, cpu_bf16=recipe.cpu_bf16)
    torch.manual_seed(recipe.seed)
    history = _resume(out, recipe, data, model, optimizer, order, average) if out else []
    spent = history[-1]["seconds"] if history else 0.0
    compiling = history[-1].get("compiling", 0.0) if history else 0.0
    step = len(history) * steps_per_epoch
    warm = False  # whether the first step is compiled
    losses, rates, looked = [], [], 0  # of this epoch; how many of them were looked at
    shown = saved = called = epoch_started = -math.inf  # seconds
    started = clock()
    # Nobody watches a log file: there a line now and then will do
    pause = 0.5 if sys.stdout.isatty() or "ipykernel" in sys.modules else 30.0
    bar = tqdm(
        total=100,
        file=sys.stdout,
        dynamic_ncols=True,
        bar_format="{desc} {percentage:3.0f}%|{bar}|",
    )

    def seconds():
        return spent + clock() - started

    def progress():
        """The share of the run that is over."""
        if total:
            return step / total
        now, end = seconds(), 60 * recipe.minutes
        return 1.0 if now >= end else max(0.0, now - compiling) / (end - compiling)

    def over():
        """As the history has it, so that a finished run, taken up again, is finished."""
        if total:
            return step >= total
        return bool(history) and history[-1]["seconds"] >= 60 * recipe.minutes

    def look():
        """Stop at the first loss that is no number, or far above that of guessing. On CUDA, to look is to wait."""
        nonlocal looked
        guessing = math.log(max(2, len(data.classes)))
        new = losses[looked:]
        for loss in torch.stack(new).tolist() if on_cuda and new else new:
            if not loss < 5 * guessing:  # NaN is not smaller either
                raise Diverged(
                    f"the loss became {loss:.3g} at step {step - len(losses) + looked}, with learning rate "
                    f"{rates[looked]:.2g}; guessing has {guessing:.2f}. Most often the learning rate is too high: "
                    "try a third of it, or a longer warm-up."
                )
            looked += 1

    def show(loss, speed):
        nonlocal shown
        shown, share = seconds(), progress()
        rest = 60 * (recipe.minutes or 0) - shown
        left = (shown - compiling) * (1 - share) / share if total else max(0.0, rest)
        _show(bar, history, loss, speed, share, left)

    def close():
        """The end of an epoch, or of the part of it that there was: look, evaluate, note."""
        nonlocal losses, rates, looked
        look()
        loss = float(sum(losses)) / len(losses)
        speed = len(losses) * recipe.batch_size / (seconds() - epoch_started)
        judged = average.model if average else model
        batches = vit_data.batches(val, 2048 if on_cuda else 512, data.mean, data.std)
        entry = {
            "epoch": len(history) + 1,
            "loss": loss,
            "val_accuracy": evaluate(judged, batches),
            "learning_rate": rates[-1],
            "images_per_second": speed,
            "seconds": seconds(),
        }
        history.append(entry | {"compiling": compiling} if on_cuda else entry)
        losses, rates, looked = [], [], 0
        if over() or seconds() - shown > pause:
            show(loss, speed)

    def save():
        save_checkpoint(out, recipe, data, model, optimizer, order, history, average)

    try:
        while not over():
            epoch_started = seconds()
            for images, labels in vit_data.batches(
                train,
                recipe.batch_size,
                data.mean,
                data.std,
                train=True,
                generator=order,
                crop=recipe.crop,
                flip=recipe.flip,
            ):
                rate = _rate(recipe, step, total, progress())
                for group in optimizer.param_groups:
                    group["lr"] = rate
                share = _share_of_tokens(recipe, progress())
                compiles = on_cuda and (not warm or (dropout and dropout.keep != share))
                if dropout:
                    dropout.keep = share
                images, labels = mix(images, labels, recipe, len(data.classes))
                before = seconds()
                rates.append(rate)
                losses.append(take_step(images, labels))
                step += 1
                if compiles:
                    torch.cuda.synchronize()
                    compiling += seconds() - before
                    warm = True
                if not on_cuda:
                    look()
                # On CUDA rarely: there, to look at the loss is to wait for it
                if seconds() - shown > pause:
                    look()
                    speed = len(losses) * recipe.batch_size / (seconds() - epoch_started)
                    show(float(losses[-1]), speed)
                if average:
                    average.update(model)
                if progress() >= 1:
                    break
            close()
            if out and (not on_cuda or over() or seconds() - saved > 30):
                save()
                saved = seconds()
            if on_epoch and (not on_cuda or over() or seconds() - called > 5):
                on_epoch(history)
                called = seconds()
    except KeyboardInterrupt:
        kept = "the model keeps the weights so far"
        if out and recipe.minutes:
            if losses:
                close()
            if history:
                save()
            kept += f", and so does {out}"
        elif out:
            kept += f", {out} those after the last whole epoch"
        print(f"\nStopped after {len(history)} epochs; {kept}.")
    finally:
        bar.close()
        if dropout:
            dropout.hook.remove()
    if average and average.steps:
        model.load_state_dict(average.model.state_dict())
    if recipe.minutes and compiling > 30 * recipe.minutes:
        print(f"Compiling took {compiling:.0f} s, more than half of the run: give it more minutes.")
    return history


def _rate(recipe, step, total, progress):
    """The learning rate of this step: by the steps of a run in epochs, by the clock of one in minutes."""
    warmup = max(1, int(total * recipe.warmup)) if total else max(1, 1000 * recipe.warmup)
    step, total = (step, total) if total else (1000 * progress, 1000)
    if recipe.schedule == "linear" and step >= warmup:
        return recipe.learning_rate * (total - step) / (total - warmup)
    if recipe.schedule == "constant" and step >= warmup:
        return recipe.learning_rate
    return learning_rate(step, total, warmup, recipe.learning_rate)


def _share_of_tokens(recipe, progress):
    return next((share for until, share in recipe.tokens if progress < until), 1.0)


def _show(bar, history, loss, speed, progress, left):
    """The line of the progress bar: where the run is, how well it goes, how fast, and how long still (left, seconds)."""
    val = f", val {history[-1]['val_accuracy']:.1%}" if history else ""
    minutes, left = divmod(round(left), 60)
    bar.set_description_str(
        f"epoch {len(history) + (progress < 1)}, loss {loss:.2f}{val}, {speed:,.0f} images/s, "
        f"{minutes}:{left:02} left",
        refresh=False,
    )
    bar.n = 100 * progress
    bar.refresh()


# ---------------------------------------------------------------- checkpoints


def _about(data):
    """What a checkpoint says of its data."""
    return {
        "kind": data.kind,
        "classes": list(data.classes),
        "shape": list(data.train.images.shape[1:]),
        "mean": data.mean.flatten().tolist(),
        "std": data.std.flatten().tolist(),
    }


def save_checkpoint(out, recipe, data, model, optimizer, order, history, average=None):
    """Write `checkpoint.pt` and `history.jsonl` into the folder `out`, each whole or not at all."""
    out = Path(out)
    state = {
        "recipe": dataclasses.asdict(recipe),
        "data": _about(data),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": {"weights": average.model.state_dict(), "steps": average.steps} if average else None,
        "history": history,
        "order": order.get_state(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    # First, so that whoever kills the run between the two finds an epoch too many, which comes again, and none too few
    write_whole(out / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
    write_whole(out / "checkpoint.pt", lambda file: torch.save(state, file))


def _resume(out, recipe, data, model, optimizer, order, average):
    """Put everything back as the checkpoint in `out` has it, and return its history; [] where there is none."""
    path = Path(out) / "checkpoint.pt"
    if not path.exists():
        return []
    state = read_checkpoint(path)
    mine = dataclasses.asdict(recipe) | {"model": with_kind(recipe.model)}
    # A field that is newer than the checkpoint has its default
    theirs = {f.name: f.default for f in dataclasses.fields(recipe)} | state["recipe"]
    differ = [k for k in mine if mine[k] != theirs[k]]
    if differ:
        detail = "; ".join(f"{k} was {theirs[k]}, is {mine[k]}" for k in differ)
        raise CheckpointError(
            f"{path} belongs to another recipe: {detail}. Choose another folder, or remove the file."
        )
    mine, theirs = _about(data), state["data"]
    same = all(mine[k] == theirs[k] for k in ("kind", "classes", "shape")) and all(
        torch.allclose(torch.tensor(mine[k]), torch.tensor(theirs[k]), atol=1e-4) for k in ("mean", "std")
    )
    if not same:
        was, now = (
            f"{about['kind']} ({len(about['classes'])} classes, mean {about['mean']})"
            for about in (theirs, mine)
        )
        raise CheckpointError(
            f"{path} was trained on other images: {was}; now there are {now}. Name its data, or choose another folder."
        )
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds another model: {error}") from error
    optimizer.load_state_dict(state["optimizer"])
    if average:
        average.model.load_state_dict(state["average"]["weights"])
        average.steps = state["average"]["steps"]
    order.set_state(state["order"])
    torch.set_rng_state(state["rng"])
    if torch.cuda.is_available() and len(state["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return state["history"]
