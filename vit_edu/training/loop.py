"""`fit`, the training loop, and below it what it uses. `fit` reads from top to bottom in the order in which things happen."""

import math
import sys
import time

import torch
from torch import nn
from tqdm import tqdm

from vit_edu import data as vit_data
from vit_edu.models import make_model
from vit_edu.training import parallel
from vit_edu.training.checkpoint import Run
from vit_edu.training.optim import branch_ends
from vit_edu.training.steps import CompiledStep, OwnStep, PlainStep, TokenDropout, learning_rate
from vit_edu.training.tasks import make_task


class Diverged(Exception):
    """The loss became infinite or NaN, or rose far above that of guessing. The text says at which step, and what to try."""


def build_model(recipe, data):
    """A new model for these data, of the recipe's kind and with its seed."""
    torch.manual_seed(recipe.seed)
    task = make_task(recipe, data)
    model = make_model(recipe.model, data.train.images.shape[1:], task.outputs)
    if recipe.zero_init:
        for weight in branch_ends(model):
            nn.init.zeros_(weight)
    return model


def fit(
    model,
    data,
    recipe,
    out=None,
    on_epoch=None,
    clock=time.perf_counter,
    compiler=None,
    step=None,
    schedule=None,
    augment=(),
):
    """Train `model` on `data.train` by `recipe`. Returns the history, a list with a dict for each epoch.

    Each entry: epoch (from 1), loss (mean over the training batches), the task's score on held-out training images
    (val_accuracy for classification), learning_rate, images_per_second, seconds (since the start, without pauses), and, if
    steps are compiled, compiling (how many of these seconds that took).

    out: a folder for `checkpoint.pt`, which is written whole after each epoch (on CUDA, where an epoch may take a second,
    every 30 seconds and at the end). The same call resumes a run that was killed, which then ends with the same weights as
    one that was not. on_epoch(history): called after each epoch, for live curves (on CUDA every 5 seconds and at the end).
    The stop button (KeyboardInterrupt) ends the run with the weights so far. A recipe in minutes also keeps them in the
    checkpoint, as an epoch that was cut short. A recipe in epochs resumes after its last whole epoch.
    A recipe in minutes ends when they are over, even in the middle of an epoch. A resumed run has the minutes that were left.
    The time for compiling the first step counts, and the schedule begins after it. With `recipe.average`, the average is
    evaluated, and it is what `model` holds at the end. clock: counts the seconds. With `time.process_time` on one thread,
    other work on the machine does not count. compiler: the backend of torch.compile for the steps; None compiles only on
    CUDA, with "inductor".
    step, schedule, augment: functions of your own, such as those of lesson 06, in the place of ours. step(model, optimizer,
    images, labels) takes one step and returns the loss; it runs uncompiled. schedule(step, total_steps, warmup_steps, peak)
    returns the learning rate; in a run by minutes, steps are thousandths of the time. augment: functions of a batch of images,
    see `data.batches`; the recipe's flips and crops are left out. They are not in the checkpoint: give them again to resume.
    Inside `parallel.group`, all ranks call this together. The test images are not touched.
    Raises Diverged, CheckpointError (before the first step if `out` cannot be written to), parallel.ParallelError.
    """
    data = data.to(next(model.parameters()).device)
    run = Run(model, recipe, data)
    ranks = parallel.current(recipe.seed)
    train, val = _held_out(data.train, recipe)
    torch.manual_seed(recipe.seed)
    if out:
        ranks.together(lambda: run.resume(out))
    same = {"kind": data.kind, "classes": data.classes, "shape": tuple(train.images.shape[1:])}
    ranks.require_same(same | {"recipe": recipe, "images": len(train), "epochs so far": len(run.history)})
    budget = Budget(recipe, len(train), run.history, clock, ranks, schedule)
    dropout = TokenDropout(model) if recipe.tokens else None
    take_step = _make_step(run, ranks, dropout, compiler, clock, step)
    lazy = isinstance(take_step, CompiledStep)
    losses = Losses(run.task.guessing, lazy)
    bar = Bar(budget, losses, run.history, run.task, shown=ranks.first)
    saving, calling = Every(30 if lazy else 0), Every(5 if lazy else 0)
    try:
        while not budget.over:
            budget.begin_epoch()
            losses.clear()
            for images, targets in vit_data.batches(
                train,
                recipe.batch_size,
                data.mean,
                data.std,
                train=True,
                generator=run.order,
                crop=recipe.crop,
                flip=recipe.flip,
                augment=augment,
            ):
                rate = budget.rate
                for group in run.optimizer.param_groups:
                    group["lr"] = rate
                if dropout:
                    dropout.keep = budget.share_of_tokens
                images, targets = ranks.share(*run.task.prepare(images, targets))
                with ranks.own_noise(budget.step):
                    loss = take_step(images, targets)
                if run.average:
                    run.average.update(model)
                losses.add(ranks.mean(loss), budget.step, rate)
                budget.count_step(take_step.compiling)
                bar.show()
                if budget.over:
                    break
            held_out = vit_data.batches(val, 2048 if lazy else 512, data.mean, data.std)
            _end_epoch(run, budget, losses, held_out, ranks)
            if out and ranks.first and (budget.over or saving.due(budget.seconds)):
                run.save(out)
            if on_epoch and ranks.first and (budget.over or calling.due(budget.seconds)):
                with ranks.own_noise(budget.step):
                    on_epoch(run.history)
    except KeyboardInterrupt:
        if ranks.size > 1:  # the others wait for this one, so the last checkpoint counts
            raise
        held_out = vit_data.batches(val, 512, data.mean, data.std)
        _stop(run, budget, losses, held_out, ranks, out)
    finally:
        bar.close()
        if dropout:
            dropout.remove()
    if run.average and run.average.steps:
        model.load_state_dict(run.average.model.state_dict())
    if recipe.minutes and budget.compiling > 30 * recipe.minutes:
        print(f"Compiling took {budget.compiling:.0f} s, more than half of the run. Give it more minutes.")
    return run.history


def _held_out(split, recipe):
    """(the images to train on, those held out for the curves). The same seed gives the same images."""
    count = max(1, int(len(split) * recipe.validation))
    train, val = split.hold_out(count, seed=recipe.seed)
    if recipe.max_images:
        train = train.take(recipe.max_images, seed=recipe.seed)
        val = val.take(recipe.max_images, seed=recipe.seed)
    return train, val


def _make_step(run, ranks, dropout, compiler, clock, own=None):
    """The function that takes a step, compiled on CUDA or if a compiler is named. own: a learner's, instead of ours."""
    optimizer = ranks.averaging(run.optimizer)
    if own:
        return OwnStep(run.model, optimizer, own)
    compiler = compiler or ("inductor" if run.device.type == "cuda" else None)
    if compiler:
        record = run.device.type == "cuda" and ranks.size == 1  # what ranks say to each other is not recorded
        return CompiledStep(run.model, optimizer, run.task.loss, dropout, compiler, clock, record)
    return PlainStep(run.model, optimizer, run.task.loss, run.recipe.cpu_bf16)


def _end_epoch(run, budget, losses, held_out, ranks):
    """End an epoch, even one that was cut short: check the losses, evaluate, and add to the history."""
    losses.check()  # where this waits for a GPU, the clock goes on
    budget.read_clock()
    speed = budget.images_per_second
    ranks.average_buffers(run.model, run.judged)
    with ranks.own_noise(budget.step):  # what the first rank draws for the score shifts nothing
        score = run.task.score(run.judged, held_out) if ranks.first else math.nan
    budget.read_clock()
    entry = {
        "epoch": len(run.history) + 1,
        "loss": losses.mean,
        run.task.key: score,
        "learning_rate": losses.rates[-1],
        "images_per_second": speed,
        "seconds": budget.seconds,
    }
    if budget.compiling:
        entry["compiling"] = budget.compiling
    run.history.append(ranks.from_first(entry))
    losses.clear()


def _stop(run, budget, losses, held_out, ranks, out):
    """Keep what the stop button leaves, as `fit` describes it."""
    kept = "the model keeps the weights so far"
    if out and run.recipe.minutes and losses.values:
        _end_epoch(run, budget, losses, held_out, ranks)
    epochs = len(run.history)
    if out and epochs:
        if run.recipe.minutes:
            run.save(out)
            kept += f", and so does {out}"
        else:
            kept += f", and {out} has those of its last checkpoint"
    print(f"\nStopped after {epochs} epoch{'s' * (epochs != 1)}; {kept}.")


class Budget:
    """How long a run lasts, in epochs or in minutes by the clock, and how far it has come.

    step: the number of steps that are done. seconds: since the run began, without pauses, at the last look at the clock; with
    several ranks, the clock of rank 0 decides for all. schedule: a function in the place of the recipe's, see `fit`. compiling: how many of these seconds went into compiling.
    """

    def __init__(self, recipe, images, history, clock, ranks, schedule=None):
        self.recipe, self.clock, self.ranks, self.schedule = recipe, clock, ranks, schedule
        steps_per_epoch = max(1, images // recipe.batch_size)
        self.total = recipe.epochs * steps_per_epoch if recipe.epochs else None
        self.step = len(history) * steps_per_epoch
        last = history[-1] if history else {}
        self.spent = self.seconds = last.get("seconds", 0.0)
        self.compiled_before = self.compiling = last.get("compiling", 0.0)
        self.started = clock()

    def read_clock(self):
        """Bring `seconds` and `compiling` up to date, with the same values on all ranks."""
        now = self.spent + self.clock() - self.started
        self.seconds, self.compiling = self.ranks.from_first([now, self.compiling])

    def begin_epoch(self):
        self.read_clock()
        self.epoch_step, self.epoch_seconds = self.step, self.seconds

    def count_step(self, compiling):
        """Count a step. compiling: the seconds that have gone into compiling so far in this session."""
        self.step += 1
        self.compiling = self.compiled_before + compiling
        self.read_clock()

    @property
    def over(self):
        if self.total:
            return self.step >= self.total
        return self.seconds >= 60 * self.recipe.minutes

    @property
    def progress(self):
        """The share of the run that is done, 0..1, not counting the time for compiling."""
        if self.total:
            return self.step / self.total
        end = 60 * self.recipe.minutes
        if self.seconds >= end:
            return 1.0
        return max(0.0, self.seconds - self.compiling) / (end - self.compiling)

    @property
    def rate(self):
        """The learning rate of the next step. A run in epochs goes by its steps, and one in minutes by the clock."""
        recipe, step, total = self.recipe, self.step, self.total
        warmup = max(1, int(total * recipe.warmup)) if total else max(1, 1000 * recipe.warmup)
        if not total:
            step, total = 1000 * self.progress, 1000
        if self.schedule:
            return self.schedule(step, total, warmup, recipe.learning_rate)
        if recipe.schedule == "linear" and step >= warmup:
            return recipe.learning_rate * (total - step) / (total - warmup)
        return learning_rate(step, total, warmup, recipe.learning_rate)

    @property
    def share_of_tokens(self):
        """The share of the tokens that the blocks see in the next step, 0..1."""
        progress = self.progress
        return next((share for until, share in self.recipe.tokens if progress < until), 1.0)

    @property
    def images_per_second(self):
        """The speed of this epoch so far, over all ranks."""
        seconds = max(self.seconds - self.epoch_seconds, 1e-9)  # a clock may stand still between two looks
        return (self.step - self.epoch_step) * self.recipe.batch_size / seconds

    @property
    def seconds_left(self):
        """The time until the end, as estimated after at least one step."""
        if self.total:
            progress = self.progress
            return (self.seconds - self.compiling) * (1 - progress) / progress
        return max(0.0, 60 * self.recipe.minutes - self.seconds)


class Losses:
    """The losses of an epoch so far, and whether one of them has gone astray.

    guessing: the loss of a model that knows nothing. lazy: the losses are tensors on a GPU. Reading one means waiting for all
    the work that the GPU still has to do, so they are read only when `check` is called.
    """

    def __init__(self, guessing, lazy=False):
        self.guessing, self.lazy = guessing, lazy
        self.clear()

    def clear(self):
        self.values, self.steps, self.rates, self.checked = [], [], [], 0

    def add(self, loss, step, rate):
        """Add the loss of a step and its learning rate. Raises Diverged, unless lazy."""
        self.values.append(loss)
        self.steps.append(step)
        self.rates.append(rate)
        if not self.lazy:
            self.check()

    def check(self):
        """Look at the losses that have not been looked at. Raises Diverged at the first that is NaN or far above guessing."""
        new = self.values[self.checked :]
        for loss in torch.stack(new).tolist() if self.lazy and new else new:
            if not loss < 5 * self.guessing:  # true for NaN as well
                guess = f" (guessing gives {self.guessing:.2f})" if math.isfinite(self.guessing) else ""
                raise Diverged(
                    f"the loss became {loss:.3g} at step {self.steps[self.checked]}, with learning rate "
                    f"{self.rates[self.checked]:.2g}{guess}. Most often the learning rate is too high: try a third of it, "
                    "or a longer warm-up."
                )
            self.checked += 1

    @property
    def mean(self):
        return float(sum(self.values)) / len(self.values)

    @property
    def last(self):
        return float(self.values[-1])


class Bar(tqdm):
    """The progress bar: how far the run has come, how well and how fast it goes, and how long it will still take.

    tqdm decides when to show it, and the line is made only then: on a GPU, knowing the loss means waiting for it.
    """

    def __init__(self, budget, losses, history, task, shown=True):
        self.budget, self.losses, self.history, self.task = budget, losses, history, task
        # Nobody watches a log file, where a line now and then will do
        watched = sys.stdout.isatty() or "ipykernel" in sys.modules
        super().__init__(
            total=100,
            initial=100 * budget.progress,
            file=sys.stdout,
            dynamic_ncols=True,
            mininterval=0.5 if watched else 30.0,
            miniters=0,
            bar_format="{desc} {percentage:3.0f}%|{bar}|",
            disable=not shown,
        )

    def show(self):
        """Call this after every step. Raises Diverged if the line is shown and a loss has gone astray. Of several ranks, only
        the first shows it, so all of them check at the end of the epoch instead."""
        if self.update(100 * self.budget.progress - self.n) and self.budget.ranks.size == 1:
            self.losses.check()

    @property
    def format_dict(self):
        return super().format_dict | {"prefix": self._line()}

    def _line(self):
        if not self.budget.step:
            return ""
        last = self.history[-1] if self.history else {}
        loss = self.losses.last if self.losses.values else last["loss"]
        speed = self.budget.images_per_second if self.losses.values else last["images_per_second"]
        score = f", val {self.task.words(last[self.task.key])}" if last else ""
        minutes, seconds = divmod(round(self.budget.seconds_left), 60)
        return (
            f"epoch {len(self.history) + bool(self.losses.values)}, loss {loss:.2f}{score}, {speed:,.0f} images/s, "
            f"{minutes}:{seconds:02} left"
        )


class Every:
    """Something that is due again once this many seconds have passed."""

    def __init__(self, seconds):
        self.seconds, self.last = seconds, -math.inf

    def due(self, now):
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True
