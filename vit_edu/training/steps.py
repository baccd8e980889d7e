"""What lesson 06 builds, and what a step needs on top: the device, bf16, fewer tokens, a compiled step."""

import contextlib
import math
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from vit_edu import data as vit_data
from vit_edu.models.saved import CheckpointError

# ---------------------------------------------------------------- the pieces of lesson 06


def accuracy(logits, labels):
    """The share of images whose largest logit is the right one. logits: (B, K), labels: (B,). Returns a float, 0..1."""
    return (logits.argmax(dim=-1) == labels).float().mean().item()


def learning_rate(step, total_steps, warmup_steps, peak):
    """The learning rate of a step: a linear climb, then half a cosine down to zero.

    step: 0 for the first. Step warmup_steps - 1 has the peak, step total_steps (one past the last) would have zero.
    Source: warm-up, paper, appendix B.1; cosine, Loshchilov and Hutter 2017, arXiv:1608.03983.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)  # 0 .. 1
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def cross_entropy(model, images, labels):
    """The loss of a classifier, in nats, mean over the batch. labels: (B,) classes, or (B, K) probabilities."""
    # In float32: CUDA's autocast would leave the logarithms of the softmax in bf16, which has two to three digits
    return F.cross_entropy(model(images).float(), labels)


def train_step(model, optimizer, images, labels, loss_of=cross_entropy, cpu_bf16=False):
    """One step of gradient descent on one batch. Returns the loss before the step, as a float.

    labels: passed on to `loss_of(model, images, labels)`. cpu_bf16: see `Recipe`.
    """
    model.train()
    with autocast(images.device, cpu_bf16):
        loss = loss_of(model, images, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def range_test(step_at, low, high, steps):
    """A run of `steps` steps whose learning rate grows from `low` to `high`, by the same factor each time.

    step_at(rate): takes one step at this rate and returns its loss. The test ends before `steps` as soon as a loss is not
    finite, or more than four times the lowest so far; that loss is left out. Returns (rates, losses), two lists.
    Source: the learning rate range test of Smith 2017, arXiv:1506.01186; with factors as in fast.ai's learning rate finder.
    """
    rates, losses = [], []
    for i in range(steps):
        rate = low * (high / low) ** (i / (steps - 1))
        loss = step_at(rate)
        if not math.isfinite(loss) or (losses and loss > 4 * min(losses)):
            break
        rates.append(rate)
        losses.append(loss)
    return rates, losses


def drop_tokens(tokens, keep):
    """Some tokens of each image, drawn at random without repetition: (B, T, D) -> (B, n, D) with n = max(1, round(keep T)).

    keep: the share of the tokens, 0..1. Source: PatchDropout, Liu et al. 2022, arXiv:2208.07220.
    """
    B, T, D = tokens.shape
    count = max(1, round(keep * T))
    kept = torch.rand(B, T, device=tokens.device).topk(count, dim=1).indices  # (B, n)
    return tokens.gather(1, kept[..., None].expand(-1, -1, D))  # (B, n, D)


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
        with autocast(images.device):
            right += (model(images).argmax(dim=-1) == labels).sum().item()
        total += len(labels)
    model.train(was_training)
    if total == 0:
        raise ValueError("there is nothing to evaluate on: no batch came.")
    return right / total


# ---------------------------------------------------------------- a trained model on images


@torch.no_grad()
def predict(model, split, mean, std, batch_size=512):
    """Class probabilities for every image of a split, in its order. Returns (N, K), float32, on the CPU."""
    was_training = model.training
    model.eval()
    found = []
    for images, _ in vit_data.batches(split, batch_size, mean, std):
        with autocast(images.device):
            found.append(model(images).float().softmax(dim=-1).cpu())
    model.train(was_training)
    return torch.cat(found)


def predict_test(model, about, images):
    """Class probabilities (N, K) of the test images, normalised as in training. about: "mean" and "std" of a checkpoint."""
    device = pick_device()
    mean, std = (torch.tensor(about[k], device=device)[:, None, None] for k in ("mean", "std"))
    return predict(model.to(device), images.test.to(device), mean, std)


def same_classes(about, images):
    """Raise CheckpointError unless the data have the classes of the checkpoint, in the same order."""
    if list(images.classes) != about["classes"]:
        raise CheckpointError(
            f"the checkpoint knows the classes {', '.join(about['classes'])}; the data have "
            f"{', '.join(images.classes)}. Name its data with --data."
        )


# ---------------------------------------------------------------- device and bf16


def pick_device():
    """The best device at hand: CUDA, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def has_bf16(device):
    """Whether the device computes in bf16, which has the range of float32 in half the bytes.

    CUDA devices do from Ampere (2020) on, and CPUs with AVX-512 BF16 or AMX, if torch can tell
    (`torch.cpu.get_capabilities`).
    """
    device = torch.device(device)
    if device.type == "cpu":
        has = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@contextlib.contextmanager
def autocast(device, cpu_bf16=False):
    """bf16 for matrix products and convolutions, on a CUDA device that has it; on a CPU that has it only if asked for."""
    if device.type == "cpu" and cpu_bf16 and has_bf16(device):
        # The backward pass of torch's fused attention is slow in bf16 on a CPU: see benchmarks/results/cpu_bf16.md
        with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        enabled = device.type == "cuda" and has_bf16(device)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=enabled):
            yield


# ---------------------------------------------------------------- what faster steps need


class TokenDropout:
    """While the model trains, its blocks see only some tokens of each image, drawn at random. (B, T, D) -> (B, n, D).

    keep: the share of the tokens, 0..1, which may change in the course of a run; 1 keeps all, as evaluation does. The class
    token always stays. A quarter of the tokens makes a step about four times as fast, and its attention sixteen times.
    model: a ViT or the like, or one that has it as its `encoder`.
    Raises ValueError for a model without `blocks`, and for one whose blocks need every token at its place (`needs_all_tokens`).
    Source: PatchDropout, Liu et al. 2022, arXiv:2208.07220. Going from few to many is like training with growing images.
    """

    def __init__(self, model):
        model = getattr(model, "encoder", model)
        if not hasattr(model, "blocks"):
            raise ValueError(
                f"a {type(model).__name__} has no `blocks` that could see fewer tokens: leave `tokens` out of the recipe."
            )
        if getattr(model, "needs_all_tokens", False):
            raise ValueError(
                f"the blocks of a {type(model).__name__} need every token at its place: leave `tokens` out of the recipe."
            )
        self.keep = 1.0
        self.prefix = int(getattr(model, "cls_token", None) is not None)
        self.hook = model.blocks.register_forward_pre_hook(self)

    def __call__(self, blocks, inputs):
        (x,) = inputs
        patches = x.shape[1] - self.prefix
        if not blocks.training or max(1, round(patches * self.keep)) == patches:
            return None  # leaves the inputs unchanged
        kept = drop_tokens(x[:, self.prefix :], self.keep)  # (B, n, D)
        return (torch.cat([x[:, : self.prefix], kept], dim=1) if self.prefix else kept,)

    def remove(self):
        """Let the blocks see all tokens from now on."""
        self.hook.remove()


class PlainStep:
    """`train_step` of one model: `step(images, targets)` returns the loss as a float."""

    compiling = 0.0  # seconds

    def __init__(self, model, optimizer, loss_of=cross_entropy, cpu_bf16=False):
        self.model, self.optimizer, self.loss_of, self.cpu_bf16 = model, optimizer, loss_of, cpu_bf16

    def __call__(self, images, targets):
        return train_step(self.model, self.optimizer, images, targets, self.loss_of, self.cpu_bf16)


class OwnStep:
    """A step that somebody else wrote: `function(model, optimizer, images, labels)` returns the loss, a number.

    Raises TypeError if it returns something else, which it says.
    """

    compiling = 0.0  # seconds

    def __init__(self, model, optimizer, function):
        self.model, self.optimizer, self.function = model, optimizer, function

    def __call__(self, images, targets):
        loss = self.function(self.model, self.optimizer, images, targets)
        try:
            return float(loss)
        except (TypeError, ValueError):
            name = getattr(self.function, "__name__", "step")
            raise TypeError(f"{name} must return the loss as a number, and returned {loss!r}.") from None


class CompiledStep:
    """The same step for CUDA. Model and loss are compiled for fixed shapes, and nothing waits for the GPU.

    `step(images, targets)` returns the loss as a tensor on the device. compiling: the seconds that went into compiling, by
    `clock`. dropout: the `TokenDropout` of the model, if it has one; each share of the tokens is compiled separately. If the
    first step cannot be compiled (no C compiler, a card that is too old), a message says so, and the steps run uncompiled.
    record: whether the third step and those after it are replayed from a recording, see `RecordedStep`. It takes an optimiser
    of `make_optimizer`, on CUDA; what cannot be recorded runs as before.
    """

    def __init__(
        self,
        model,
        optimizer,
        loss_of=cross_entropy,
        dropout=None,
        backend="inductor",
        clock=time.perf_counter,
        record=False,
    ):
        torch.compiler.reset()  # earlier runs do not count towards the limit of compilations
        torch.backends.cudnn.benchmark = True  # shapes are fixed, so it may try its kernels
        self.model, self.optimizer, self.dropout, self.clock = model, optimizer, dropout, clock
        self.plain_loss = loss_of
        self.bf16 = has_bf16(next(model.parameters()).device) and next(model.parameters()).is_cuda
        self.loss_of = torch.compile(self._loss, dynamic=False, fullgraph=True, backend=backend)
        self.known = set()  # the shares of the tokens that have been compiled
        self.compiling = 0.0
        self.record, self.recorded, self.warm = record, None, None

    def __call__(self, images, targets):
        share = self.dropout.keep if self.dropout else 1.0
        if share not in self.known:
            return self._first_step(images, targets, share)
        if self.record:
            form = (share, *_form(images, targets))
            if self.recorded and self.recorded.form == form:
                return self.recorded(images, targets)
            if self.warm == form:
                return self._record(images, targets, form)
            self.warm = form  # one more step as usual, after which nothing is new to the device
        return self._whole_step(images, targets)

    def _whole_step(self, images, targets):
        loss = self._gradients(images, targets)
        self.optimizer.step()
        return loss

    def _record(self, images, targets, form):
        """Record a step and take it, timed like the first."""
        started = self.clock()
        self.recorded = None  # gives back its memory
        try:
            self.recorded = RecordedStep(self._whole_step, self.optimizer, images, targets, form)
        except Exception as error:  # too little memory for a recording may be enough without
            reason = str(error).strip().partition("\n")[0]
            print(f"The steps cannot be recorded here and are launched one by one, which is slower: {reason}")
            self.record = False
            return self._whole_step(images, targets)
        loss = self.recorded(images, targets)
        torch.cuda.synchronize()
        self.compiling += self.clock() - started
        return loss

    def _loss(self, images, targets):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.bf16):
            return self.plain_loss(self.model, images, targets)

    def _gradients(self, images, targets):
        if not self.model.training:  # train() walks over all modules
            self.model.train()
        self.optimizer.zero_grad()
        loss = self.loss_of(images, targets)
        loss.backward()
        return loss.detach()

    def _first_step(self, images, targets, share):
        """The step that compiles, timed from its beginning to the end of its work on the device."""
        started = self.clock()
        try:
            loss = self._gradients(images, targets)
        except Exception as error:
            if self.known or isinstance(error, torch.OutOfMemoryError):
                raise
            reason = str(error).strip().partition("\n")[0]
            print(f"The model cannot be compiled here and runs uncompiled, which is slower: {reason}")
            self.loss_of, self.record = self._loss, False
            loss = self._gradients(images, targets)
        self.optimizer.step()
        if loss.is_cuda:
            torch.cuda.synchronize()
        self.known.add(share)
        self.compiling += self.clock() - started
        return loss


class RecordedStep:
    """A whole step as a CUDA graph: recorded once, and replayed with other images in the place of the first.

    A step of a small model is many hundred kernels, each of which the CPU has to launch; in a recording they are one launch.
    take_step(images, targets): forward and backward pass and the optimiser's step; recording does not run it. The learning
    rate of a replay is that of the optimiser's first group. form: what images and targets have to look like, see `_form`.
    """

    def __init__(self, take_step, optimizer, images, targets, form):
        self.form, self.optimizer = form, optimizer
        self.images, self.targets = _each(torch.clone, images), _each(torch.clone, targets)
        self.rate = torch.zeros((), device=images.device)
        self.graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad()  # so that the gradients lie in the memory of the graph
        with _rate_in(self.rate, optimizer.param_groups), torch.cuda.graph(self.graph):
            self.loss = take_step(self.images, self.targets)

    def __call__(self, images, targets):
        """Take a step. Returns the loss before it, as a tensor on the device."""
        _each(torch.Tensor.copy_, self.images, images)
        _each(torch.Tensor.copy_, self.targets, targets)
        self.rate.fill_(self.optimizer.param_groups[0]["lr"])
        self.graph.replay()
        return self.loss.clone()  # the next replay overwrites it


def _each(function, *values):
    """The function on tensors, or on those of dicts with the same names."""
    if isinstance(values[0], dict):
        return {name: function(*(value[name] for value in values)) for name in values[0]}
    return function(*values)


def _form(images, targets):
    """What a recording is made for: names, shapes and types of a batch."""
    named = targets if isinstance(targets, dict) else {"": targets}
    return tuple((name, value.shape, value.dtype) for name, value in {"images": images, **named}.items())


@contextlib.contextmanager
def _rate_in(tensor, groups):
    """A context in which the optimiser of these groups reads its learning rate from a tensor, which may change later."""
    kept = [dict(group) for group in groups]
    for group in groups:
        group["lr"] = tensor
        if "capturable" in group:
            group["capturable"] = True
    try:
        yield
    finally:
        for group, old in zip(groups, kept, strict=True):
            group.update(old)
