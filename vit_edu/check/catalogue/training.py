"""Lesson 06: augmentation, accuracy, the schedule, one step, evaluation."""

import math
import random

import torch
import torch.nn.functional as F
from torch import nn

from vit_edu import data, training
from vit_edu.check.cases import Case, Unfair, apply, call, drawn
from vit_edu.check.engine import Exercise


def _numbered(*shape):
    return torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def _checked(out, like):
    if not isinstance(out, torch.Tensor) or out.shape != like.shape or out.dtype != like.dtype:
        came = (
            f"{tuple(out.shape)} of {out.dtype}"
            if isinstance(out, torch.Tensor)
            else type(out).__name__
        )
        raise Unfair(
            f"expected images of shape {tuple(like.shape)} and type {like.dtype} back, got {came}"
        )
    return out


# ---------------------------------------------------------------- flip

_many = _numbered(1, 2, 4, 4).repeat(600, 1, 1, 1)  # 600 copies of one image


def _look_at_flips(out):
    """In words, what became of the images."""
    ways = {
        "as they were, or mirrored left to right": [_many, _many.flip(-1)],
        "upside down": [_many, _many.flip(-2)],
        "with other channels": [_many, _many.flip(1)],
        "turned or mirrored in several ways": [
            _many,
            _many.flip(-1),
            _many.flip(-2),
            _many.flip(-1, -2),
        ],
    }
    for words, allowed in ways.items():
        if bool(torch.stack([(out == way).flatten(1).all(1) for way in allowed]).any(0).all()):
            return words
    return "something else, or a mixture within an image"


def _flip(candidate):
    return _checked(apply(candidate, _many), _many)


def _flipped(candidate):
    """(B,) True for each image whose first pixel is not the original's."""
    return _flip(candidate)[:, 0, 0, 0] != 1


def _how_many(candidate):
    shares = [_flipped(candidate).float().mean().item() for _ in range(12)]
    if set(shares) <= {0.0, 1.0}:
        return (
            "in each batch all or none"
            if len(set(shares)) == 2
            else f"{'all' if shares[0] else 'none'} of them, always"
        )
    return "about half" if abs(sum(shares) / 12 - 0.5) < 0.03 else f"{sum(shares) / 12:.0%}"


random_flip = Exercise(
    data.random_flip,
    Case(
        "what becomes of the images",
        lambda candidate: _look_at_flips(_flip(candidate)),
        "The last axis of (B, C, H, W) runs from left to right.",
    ),
    Case(
        "how many images of a batch are mirrored",
        _how_many,
        "Draw one number for each image, not one for the batch.",
    ),
    Case(
        "other images the next time",
        lambda f: not torch.equal(_flipped(f), _flipped(f)),
        "The draw should be random.",
    ),
    Case(
        "bytes stay bytes",
        lambda f: _checked(f(_many.to(torch.uint8)), _many.to(torch.uint8)).dtype == torch.uint8,
    ),
)


@random_flip.alternative
def flip_some(images):
    out = images.clone()
    which = torch.rand(len(images)) < 0.5
    out[which] = out[which].flip(3)
    return out


@random_flip.alternative
def one_at_a_time(images):
    return torch.stack([image.flip(-1) if random.random() < 0.5 else image for image in images])


@random_flip.mistake(
    "The images are turned upside down: that flips the rows. A mirrored car is still a car, an overturned one is another "
    "picture."
)
def upside_down(images):
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(-2), images)


@random_flip.mistake(
    "One draw decides for the whole batch: all images are mirrored, or none. Draw one number for each image."
)
def all_or_none(images):
    return images.flip(-1) if torch.rand(()) < 0.5 else images.clone()


@random_flip.mistake(
    "Each number is drawn on its own, so that pixels of the image and of its mirror image mix. Draw one number an image, of "
    "shape (B, 1, 1, 1)."
)
def every_pixel(images):
    return torch.where(torch.rand(images.shape) < 0.5, images.flip(-1), images)


@random_flip.mistake("All images are mirrored, always. Each should be with probability 1/2.")
def always(images):
    return images.flip(-1)


@random_flip.mistake("Nothing is mirrored: the images come back as they were.")
def unchanged(images):
    return images.clone()


# ---------------------------------------------------------------- crop

_crops = _numbered(1, 2, 6, 6).repeat(3000, 1, 1, 1)


def _shifts(out, padding):
    """For each image the (down, right) shift that it shows; Unfair where it is no shift at all."""
    padded = F.pad(_crops[:1], [padding] * 4)
    # ((2p+1)^2, C, 6, 6)
    windows = padded.unfold(2, 6, 1).unfold(3, 6, 1)[0].permute(1, 2, 0, 3, 4).flatten(0, 1)
    same = (out[:, None] == windows[None]).flatten(2).all(2)  # (B, (2p+1)^2)
    if not bool(same.any(1).all()):
        raise Unfair("some images are not a shifted copy of the original with zeros at the border")
    return same.float().argmax(1)


def _crop_case(name, look, padding=1, hint=""):
    def run(candidate):
        return look(_shifts(_checked(apply(candidate, _crops, padding), _crops), padding))

    return Case(name, run, hint)


random_crop = Exercise(
    data.random_crop,
    _crop_case("each image is a shifted copy, zeros at the border", lambda shifts: True),
    _crop_case(
        "with padding 1, all nine shifts occur",
        lambda shifts: len(shifts.unique()),
        hint="A corner between 0 and 2 * padding, both included: torch.randint leaves out its upper end.",
    ),
    _crop_case(
        "the nine shifts are equally frequent",
        lambda shifts: all(
            abs(n / 3000 - 1 / 9) < 0.03 for n in torch.bincount(shifts, minlength=9).tolist()
        ),
    ),
    _crop_case(
        "with padding 2, all 25 shifts occur", lambda shifts: len(shifts.unique()), padding=2
    ),
    Case(
        "images that are wider than high keep their shape",
        lambda f: list(apply(f, _numbered(3, 2, 4, 8), 2).shape),
    ),
    Case("padding 0 changes nothing", lambda f: torch.equal(f(_crops.clone(), 0), _crops)),
    Case(
        "bytes stay bytes",
        lambda f: (
            _checked(f(_crops.to(torch.uint8), 1), _crops.to(torch.uint8)).dtype == torch.uint8
        ),
    ),
)


@random_crop.alternative
def crop_loop(images, padding=4):
    H, W = images.shape[-2:]
    padded = F.pad(images, [padding] * 4)
    corners = torch.randint(0, 2 * padding + 1, (len(images), 2)).tolist()
    return torch.stack(
        [p[:, i : i + H, j : j + W] for p, (i, j) in zip(padded, corners, strict=True)]
    )


@random_crop.alternative
def crop_windows(images, padding=4):
    B, _, H, W = images.shape
    # (B, C, 2p+1, 2p+1, H, W)
    windows = F.pad(images, [padding] * 4).unfold(2, H, 1).unfold(3, W, 1)
    i, j = torch.randint(0, 2 * padding + 1, (2, B))
    return windows[torch.arange(B), :, i, j]


@random_crop.mistake(
    "One corner is drawn for the whole batch: all images are shifted alike. Draw one for each image."
)
def one_corner(images, padding=4):
    H, W = images.shape[-2:]
    i, j = torch.randint(0, 2 * padding + 1, (2,)).tolist()
    return F.pad(images, [padding] * 4)[:, :, i : i + H, j : j + W]


@random_crop.mistake(
    "The last shift never occurs: `torch.randint(0, n)` ends at n - 1, and there are 2 * padding + 1 corners each way."
)
def off_by_one(images, padding=4):
    H, W = images.shape[-2:]
    corners = torch.randint(0, max(1, 2 * padding), (len(images), 2)).tolist()
    padded = F.pad(images, [padding] * 4)
    return torch.stack(
        [p[:, i : i + H, j : j + W] for p, (i, j) in zip(padded, corners, strict=True)]
    )


@random_crop.mistake(
    "The same number is used for both directions: images are shifted along the diagonal only. Draw two numbers an image."
)
def diagonal(images, padding=4):
    H, W = images.shape[-2:]
    padded = F.pad(images, [padding] * 4)
    corners = torch.randint(0, 2 * padding + 1, (len(images),)).tolist()
    return torch.stack([p[:, i : i + H, i : i + W] for p, i in zip(padded, corners, strict=True)])


@random_crop.mistake(
    "What leaves the image on one side comes back on the other. Zeros should come in at the border: pad first."
)
def wraps_around(images, padding=4):
    shifts = torch.randint(-padding, padding + 1, (len(images), 2)).tolist()
    return torch.stack(
        [image.roll(s, dims=(1, 2)) for image, s in zip(images, shifts, strict=True)]
    )


# ---------------------------------------------------------------- accuracy

_logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 5.0], [4.0, 1.0, 0.0]])

accuracy = Exercise(
    training.accuracy,
    call("3 of 4 right", _logits, torch.tensor([0, 1, 2, 1])),
    call("all right", _logits, torch.tensor([0, 1, 2, 0])),
    call("none right", _logits, torch.tensor([1, 2, 0, 2])),
    call("negative logits", -_logits, torch.tensor([2, 0, 1, 2])),
    call("10 images, 7 classes", drawn(10, 7), torch.arange(10) % 7),
)


@accuracy.alternative
def by_max(logits, labels):
    return sum(int(row.max(0).indices == y) for row, y in zip(logits, labels, strict=True)) / len(
        labels
    )


@accuracy.alternative
def by_topk(logits, labels):
    return (logits.topk(1).indices[:, 0] == labels).double().mean().item()


@accuracy.mistake("This counts the right answers and does not divide by how many there are.")
def not_divided(logits, labels):
    return (logits.argmax(-1) == labels).float().sum().item()


@accuracy.mistake(
    "The argmax runs over the images instead of the classes: which axis holds the classes in (B, K)?"
)
def over_images(logits, labels):
    n = min(logits.shape)
    return (logits.argmax(0)[:n] == labels[:n]).float().mean().item()


@accuracy.mistake("This is in percent. A share between 0 and 1 is wanted.")
def percent(logits, labels):
    return 100 * training.accuracy(logits, labels)


@accuracy.mistake(
    "The count is divided by the number of classes. It should be divided by the number of images."
)
def over_classes(logits, labels):
    return (logits.argmax(-1) == labels).float().sum().item() / logits.shape[1]


@accuracy.mistake("This is the error rate, the share of *wrong* answers.")
def error_rate(logits, labels):
    return 1 - training.accuracy(logits, labels)


# ---------------------------------------------------------------- schedule

_schedule = {"total_steps": 100, "warmup_steps": 10, "peak": 1e-3}


def _at(name, step, hint="", **changes):
    return call(name, step, hint=hint, tolerance=1e-9, **(_schedule | changes))


learning_rate = Exercise(
    training.learning_rate,
    _at(
        "the first step is not zero",
        0,
        "With step 0 the climb has made its first of warmup_steps steps.",
    ),
    _at("halfway up the climb, step 4 of 10", 4),
    _at("the last step of the climb has the peak", 9),
    _at("the first step after the climb has the peak too", 10),
    _at("in the middle of the fall, half the peak", 55),
    _at("a quarter of the fall", 30, total_steps=90),
    _at("step total_steps, one past the last, is zero", 100),
    _at("no warm-up at all", 0, warmup_steps=0),
)


@learning_rate.alternative
def shifted_cosine(step, total_steps, warmup_steps, peak):
    climb = (step + 1) / warmup_steps if warmup_steps else 1.0
    fall = math.cos(0.5 * math.pi * max(0, step - warmup_steps) / (total_steps - warmup_steps)) ** 2
    return peak * min(climb, 1.0) * fall


@learning_rate.mistake(
    "The climb starts at zero: the first step changes nothing. Step 0 should already have made one part of the climb."
)
def starts_at_zero(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return peak * step / warmup_steps
    return training.learning_rate(step, total_steps, warmup_steps, peak)


@learning_rate.mistake(
    "The cosine counts from step 0 instead of from the end of the climb, so that the rate jumps down when the climb ends."
)
def cosine_from_zero(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * step / total_steps))


@learning_rate.mistake(
    "The rate never reaches zero: the fall is counted over all steps, but it has only those after the climb."
)
def never_zero(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / total_steps))


@learning_rate.mistake(
    "The cosine runs over a quarter wave, from 1 to 0: it starts to fall slowly and ends abruptly. (1 + cos) / 2 over half "
    "a wave is flat at both ends."
)
def quarter_wave(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * math.cos(0.5 * math.pi * (step - warmup_steps) / (total_steps - warmup_steps))


@learning_rate.mistake(
    "The factor 1/2 is missing: 1 + cos goes from 2 to 0, so the rate jumps to twice the peak after the climb."
)
def twice_the_peak(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


@learning_rate.mistake("The fall is a straight line. Half a cosine is wanted.")
def linear(step, total_steps, warmup_steps, peak):
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * (1 - (step - warmup_steps) / (total_steps - warmup_steps))


# ---------------------------------------------------------------- one step

_batch, _labels = drawn(8, 5), torch.arange(8) % 3


class _Probe(nn.Module):
    """A linear classifier that remembers in which mode it was asked."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        with torch.no_grad():
            self.linear.weight.copy_(drawn(3, 5, seed=1))
            self.linear.bias.zero_()
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return self.linear(x)


class _Descent:
    """Plain gradient descent. torch.optim would do, but its first use in a session imports a compiler, for a second."""

    def __init__(self, parameters, rate):
        self.parameters, self.rate = list(parameters), rate

    def zero_grad(self, set_to_none=True):
        for p in self.parameters:
            p.grad = None if set_to_none else torch.zeros_like(p)

    def step(self):
        with torch.no_grad():
            for p in self.parameters:
                if p.grad is not None:
                    p -= self.rate * p.grad


def _steps(count, look):
    def run(candidate):
        model = _Probe().eval()
        optimizer = _Descent(model.parameters(), rate=0.5)
        for p in model.parameters():
            p.grad = torch.ones_like(p)  # left over by somebody before
        losses = [
            candidate(model, optimizer, _batch.clone(), _labels.clone()) for _ in range(count)
        ]
        return look(model, losses)

    return run


train_step = Exercise(
    training.train_step,
    Case(
        "the loss is returned, as a Python number",
        _steps(1, lambda m, losses: losses[0]),
        "loss.item()",
    ),
    Case("the weights after one step", _steps(1, lambda m, losses: m.linear.weight.detach())),
    Case(
        "the weights after three steps",
        _steps(3, lambda m, losses: m.linear.weight.detach()),
        "Gradients add up from call to call unless somebody clears them.",
    ),
    Case(
        "the model is in train mode",
        _steps(1, lambda m, losses: all(m.modes)),
        "An evaluation may have left it in eval mode: say model.train() first.",
    ),
)


@train_step.alternative
def step_by_hand(model, optimizer, images, labels):
    model.train()
    for p in model.parameters():
        p.grad = None
    loss = -model(images).log_softmax(-1)[torch.arange(len(labels)), labels].mean()
    loss.backward()
    optimizer.step()
    return loss.detach().numpy().item()


def _step(model, optimizer, images, labels, clear=True, step=True, train=True, twice=False):
    if train:
        model.train()
    logits = model(images)
    loss = F.cross_entropy(logits.softmax(-1) if twice else logits, labels)
    if clear:
        optimizer.zero_grad()
    loss.backward()
    if step:
        optimizer.step()
    return loss.item()


@train_step.mistake(
    "The gradients are never cleared: each step adds its own to those of all steps before. optimizer.zero_grad() belongs "
    "before backward."
)
def no_zero_grad(model, optimizer, images, labels):
    return _step(model, optimizer, images, labels, clear=False)


@train_step.mistake(
    "The weights do not change. Either optimizer.step() is missing, or the gradients are cleared between backward and the "
    "step, so that it has none to follow."
)
def no_step(model, optimizer, images, labels):
    return _step(model, optimizer, images, labels, step=False)


@train_step.mistake(
    "The model stays in the mode it was in. After an evaluation that is eval mode: dropout and stochastic depth are off."
)
def mode_kept(model, optimizer, images, labels):
    return _step(model, optimizer, images, labels, train=False)


@train_step.mistake(
    "The logits go through a softmax before the loss, which applies one itself. Two of them flatten the gradient: hand the "
    "logits over as they are."
)
def softmax_twice(model, optimizer, images, labels):
    return _step(model, optimizer, images, labels, twice=True)


@train_step.mistake(
    "The loss comes back as a tensor. It keeps the whole graph of the step in memory; loss.item() is a plain number."
)
def loss_tensor(model, optimizer, images, labels):
    model.train()
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


# ---------------------------------------------------------------- evaluation

_sizes = (5, 5, 2)  # a last batch that is smaller, as nearly always


class _Judge(nn.Module):
    """Right for label 0 in eval mode, wrong for everything in train mode."""

    def forward(self, x):
        right = F.one_hot(torch.zeros(len(x), dtype=torch.long), 3).float()
        return right.roll(2, dims=1) if self.training else right


def _eval_batches():
    labels = [torch.zeros(5, dtype=torch.long), torch.tensor([0, 1, 1, 1, 1]), torch.tensor([1, 1])]
    return [(torch.zeros(n, 3, 2, 2), y) for n, y in zip(_sizes, labels, strict=True)]


def _judged(look, training_before=False, batches=_eval_batches):
    def run(candidate):
        model = _Judge().train(training_before)
        return look(candidate(model, batches()), model)

    return run


def _tracks(candidate):
    """Whether the model ran with gradients on."""
    seen = []

    class Watch(_Judge):
        def forward(self, x):
            seen.append(torch.is_grad_enabled())
            return super().forward(x)

    candidate(Watch(), _eval_batches())
    return any(seen)


def _gradients_on(candidate):
    candidate(_Judge(), _eval_batches())
    return torch.is_grad_enabled()


evaluate = Exercise(
    training.evaluate,
    Case(
        "12 images in batches of 5, 5 and 2",
        _judged(lambda share, model: share),
        "Each image counts once, whatever the size of its batch.",
    ),
    Case(
        "a model that was in train mode is judged in eval mode",
        _judged(lambda share, model: share, training_before=True),
        "Say model.eval() first.",
    ),
    Case(
        "... and goes back to train mode afterwards",
        _judged(lambda share, model: model.training, training_before=True),
        "Note model.training before, and put it back.",
    ),
    Case("a model in eval mode stays there", _judged(lambda share, model: model.training)),
    Case(
        "afterwards gradients are on again",
        _gradients_on,
        "torch.no_grad() as a block ends by itself.",
    ),
    Case(
        "no gradients are tracked",
        _tracks,
        "with torch.no_grad(): saves half of the memory and time.",
    ),
    Case("batches from a generator", lambda f: f(_Judge().eval(), (b for b in _eval_batches()))),
)


@evaluate.alternative
def evaluate_joined(model, batches):
    before = model.training
    model.eval()
    with torch.inference_mode():
        hits = torch.cat([model(x).argmax(1) == y for x, y in batches])
    model.train(before)
    return hits.double().mean().item()


def _evaluation(model, batches, switch=True, back=True, grad=False, mean_of_means=False):
    before, hits, sizes, shares = model.training, 0, 0, []
    if switch:
        model.eval()
    with torch.set_grad_enabled(grad):
        for x, y in batches:
            n = (model(x).argmax(1) == y).sum().item()
            hits, sizes = hits + n, sizes + len(y)
            shares.append(n / len(y))
    if back:
        model.train(before)
    return sum(shares) / len(shares) if mean_of_means else hits / sizes


@evaluate.mistake(
    "This is the mean of the batches' accuracies. The last batch is smaller, so its images count for more: add up the right "
    "answers and divide once, at the end."
)
def mean_of_means(model, batches):
    return _evaluation(model, batches, mean_of_means=True)


@evaluate.mistake(
    "The model is judged in the mode that it happens to be in. In train mode, dropout and the like disturb it."
)
def no_eval(model, batches):
    return _evaluation(model, batches, switch=False)


@evaluate.mistake(
    "The model is left in eval mode: training would go on without dropout and stochastic depth."
)
def left_in_eval(model, batches):
    return _evaluation(model, batches, back=False)


@evaluate.mistake(
    "Gradients are tracked although nobody needs them: it takes twice the memory. torch.no_grad() turns them off."
)
def with_grad(model, batches):
    return _evaluation(model, batches, grad=True)


@evaluate.mistake(
    "Afterwards the model is always put into train mode. It should go back to the mode it was in."
)
def always_train(model, batches):
    share = _evaluation(model, batches)
    model.train()
    return share


EXERCISES = [random_flip, random_crop, accuracy, learning_rate, train_step, evaluate]
