"""Training, in plain PyTorch: recipe, schedule, step, evaluation, and a loop that can be stopped and taken up again.

What lesson 06 builds. Faster recipes can be added to `RECIPES`; the loop does not change.
"""

import dataclasses
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from vit_edu import data as vit_data
from vit_edu.models.vit import ViT


class Diverged(Exception):
    """The loss is no number any more; the text says at which step and what to try."""


class CheckpointError(Exception):
    """A checkpoint does not belong to this run or cannot be read; the text says what to do."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a run goes, besides the data. Saved with every checkpoint.

    model: arguments of `ViT`, without num_classes and img_size, which the data decide. warmup: share of the steps
    in which the learning rate climbs. validation: share of the training images held out for the curves.
    max_images: use at most so many training images (None: all). seed: of weights, order and augmentation.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup: float = 0.1
    validation: float = 0.1
    max_images: int | None = None
    seed: int = 0
    model: dict = field(default_factory=dict)

    def __str__(self):
        model = ", ".join(f"{k} {v}" for k, v in self.model.items())
        return (
            f"{self.epochs} epochs in batches of {self.batch_size}; AdamW, learning rate "
            f"{self.learning_rate:g}, weight decay {self.weight_decay:g}; seed {self.seed}.\nModel: {model}."
        )


RECIPES = {
    # Minutes on two CPU cores.
    "laptop": Recipe(
        epochs=6,
        batch_size=64,
        learning_rate=2e-3,
        model={"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4, "global_pool": "avg"},
    ),
    # A wider and deeper model for a CUDA device, in bf16.
    "gpu": Recipe(
        epochs=60,
        batch_size=512,
        learning_rate=1e-3,
        model={
            "patch_size": 4,
            "embed_dim": 192,
            "depth": 9,
            "num_heads": 3,
            "global_pool": "avg",
            "drop_path_rate": 0.1,
        },
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


def pick_device():
    """The best device at hand: CUDA, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def run_folder(name):
    """Where a run of this name keeps its checkpoints: runs/NAME here; a fresh folder under VIT_EDU_FAST=1."""
    return Path(tempfile.mkdtemp(prefix="vit_edu-")) if vit_data.fast() else Path("runs") / name


def pick_recipe(device):
    """Name of the recipe that suits the device: "fast" under VIT_EDU_FAST=1, "gpu" on CUDA, else "laptop"."""
    if vit_data.fast():
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


def train_step(model, optimizer, images, labels):
    """One step of gradient descent on one batch. Returns the loss before the step, as a float."""
    model.train()
    with _autocast(images.device):
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


def _autocast(device):
    """bf16 on CUDA: same range as float32, half the bytes. Elsewhere nothing changes."""
    return torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda")


def make_optimizer(model, recipe):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); weight decay on matrices only, not on biases, norms,
    class token or positions."""
    decay = {True: [], False: []}
    for name, value in model.named_parameters():
        decay[value.ndim > 1 and name not in ("cls_token", "pos_embed")].append(value)
    groups = [
        {"params": decay[True], "weight_decay": recipe.weight_decay},
        {"params": decay[False], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


# ---------------------------------------------------------------- a whole run


def build_model(recipe, data):
    """A new `ViT` for this data, with the recipe's seed."""
    torch.manual_seed(recipe.seed)
    C, H, W = data.train.images.shape[1:]
    return ViT(img_size=(H, W), in_chans=C, num_classes=len(data.classes), **recipe.model)


def fit(model, data, recipe, out=None, on_epoch=None):
    """Train `model` on `data.train` by `recipe`. Returns the history, one dict an epoch.

    Each entry: epoch (from 1), loss (mean over the training batches), val_accuracy (on held-out training images),
    learning_rate, images_per_second, seconds (since the start, pauses left out).

    out: a folder for `checkpoint.pt`, written whole after each epoch. A run that was killed goes on from there
    with the same call, and ends with the same weights as one that was not. on_epoch(history): called after each
    epoch, for live curves. The stop button (KeyboardInterrupt) ends the run with the weights so far.
    The test images are not touched. Raises Diverged, CheckpointError.
    """
    device = next(model.parameters()).device
    data = data.to(device)
    held_out = max(1, int(len(data.train) * recipe.validation))
    train, val = data.train.hold_out(held_out, seed=recipe.seed)
    if recipe.max_images:
        train = train.take(recipe.max_images, seed=recipe.seed)
        val = val.take(recipe.max_images, seed=recipe.seed)
    steps_per_epoch = max(1, len(train) // recipe.batch_size)
    total = recipe.epochs * steps_per_epoch
    warmup = max(1, int(total * recipe.warmup))

    optimizer = make_optimizer(model, recipe)
    # Its own, so that nothing else shifts the order of images
    order = torch.Generator().manual_seed(recipe.seed)
    torch.manual_seed(recipe.seed)
    history = _resume(out, recipe, model, optimizer, order) if out else []
    spent = history[-1]["seconds"] if history else 0.0
    started = time.perf_counter()
    step = len(history) * steps_per_epoch
    bar = tqdm(
        total=total * recipe.batch_size,
        initial=step * recipe.batch_size,
        unit="img",
        unit_scale=True,
        mininterval=1.0,
        file=sys.stdout,
        dynamic_ncols=True,
    )
    try:
        while len(history) < recipe.epochs:
            losses, epoch_started = [], time.perf_counter()
            for images, labels in vit_data.batches(
                train, recipe.batch_size, data.mean, data.std, train=True, generator=order
            ):
                rate = learning_rate(step, total, warmup, recipe.learning_rate)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                losses.append(train_step(model, optimizer, images, labels))
                if not math.isfinite(losses[-1]):
                    raise Diverged(
                        f"the loss became {losses[-1]} at step {step}, with learning rate {rate:.2g}. Most often the "
                        "learning rate is too high: try a third of it, or a longer warm-up."
                    )
                step += 1
                bar.update(recipe.batch_size)
                bar.set_postfix(loss=f"{losses[-1]:.2f}", refresh=False)
            now = time.perf_counter()
            history.append(
                {
                    "epoch": len(history) + 1,
                    "loss": sum(losses) / len(losses),
                    "val_accuracy": evaluate(
                        model, vit_data.batches(val, 512, data.mean, data.std)
                    ),
                    "learning_rate": rate,
                    "images_per_second": len(losses) * recipe.batch_size / (now - epoch_started),
                    "seconds": spent + time.perf_counter() - started,
                }
            )
            bar.set_description(f"epoch {len(history)}, val {history[-1]['val_accuracy']:.1%}")
            if out:
                save_checkpoint(out, recipe, model, optimizer, order, history)
            if on_epoch:
                on_epoch(history)
    except KeyboardInterrupt:
        print(
            f"\nStopped after {len(history)} of {recipe.epochs} epochs; the model keeps the weights so far."
        )
    finally:
        bar.close()
    return history


# ---------------------------------------------------------------- checkpoints


def save_checkpoint(out, recipe, model, optimizer, order, history):
    """Write `checkpoint.pt` and `history.jsonl` into the folder `out`, each whole or not at all."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    state = {
        "recipe": dataclasses.asdict(recipe),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
        "order": order.get_state(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    _write_whole(out / "checkpoint.pt", lambda file: torch.save(state, file))
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    _write_whole(out / "history.jsonl", lambda file: file.write(lines.encode()))


def _write_whole(path, write):
    unfinished = path.with_suffix(path.suffix + ".unfinished")
    try:
        with open(unfinished, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _resume(out, recipe, model, optimizer, order):
    """Put everything back as the checkpoint in `out` has it, and return its history; [] where there is none."""
    path = Path(out) / "checkpoint.pt"
    if not path.exists():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}). Remove it to start the run anew."
        ) from error
    mine = dataclasses.asdict(recipe)
    differ = [k for k in mine if mine[k] != state["recipe"].get(k)]
    if differ:
        detail = "; ".join(f"{k} was {state['recipe'].get(k)}, is {mine[k]}" for k in differ)
        raise CheckpointError(
            f"{path} belongs to another recipe: {detail}. Choose another folder, or remove the file."
        )
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds another model: {error}") from error
    optimizer.load_state_dict(state["optimizer"])
    order.set_state(state["order"])
    torch.set_rng_state(state["rng"])
    if torch.cuda.is_available() and len(state["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return state["history"]
