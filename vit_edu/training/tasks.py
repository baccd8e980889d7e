"""What is learned. A task gives loss and score, and prepares each batch for its step. A new task adds a row to TASKS."""

import dataclasses
import math

import torch

from vit_edu import augment
from vit_edu import data as vit_data
from vit_edu.models.kinds import with_kind
from vit_edu.training.recipes import Recipe
from vit_edu.training.steps import autocast, cross_entropy, evaluate, pick_device


class Task:
    """What a run learns. `fit`, the history, the curves and the progress bar speak of its score.

    score_name: what the score is called, such as "accuracy". key: its name in the entries of a history, "val_accuracy".
    higher_is_better: its direction. as_percent: whether it is a share, 0..1, that is shown in percent. loss_unit, score_unit:
    the labels of the curves' axes. recipe: a `Recipe`. data: a `Data`, on the device where the model is.
    """

    score_name = "score"
    key = "val_score"
    higher_is_better = True
    as_percent = False
    loss_unit = score_unit = ""

    def __init_subclass__(cls):
        cls.key = f"val_{cls.score_name.replace(' ', '_')}"

    def __init__(self, recipe, data):
        self.recipe, self.data = recipe, data

    @property
    def outputs(self):
        """How many numbers the head of the model gives for an image."""
        return len(self.data.classes)

    @property
    def guessing(self):
        """The loss of a model that knows nothing. A run whose loss is five times as large has diverged."""
        return math.inf

    def prepare(self, images, targets):
        """What happens to a batch of normalised images (B, C, H, W) and its targets before the step. Returns both."""
        return images, targets

    def loss(self, model, images, targets):
        """The loss of a batch, to be minimised, as a tensor without axes."""
        raise NotImplementedError

    def score(self, model, batches):
        """How good the model is on held-out batches, pairs (images, targets). Returns a float."""
        raise NotImplementedError

    @classmethod
    def guessing_score(cls, classes):
        """The score of a model that knows nothing, for this many classes, or None if it is not known."""
        return None

    @classmethod
    def words(cls, score, digits=1):
        """A score as a text, such as "89.3%". digits: how many decimals a score in percent has."""
        return f"{score:.{digits}%}" if cls.as_percent else f"{score:.3g}"


class Classification(Task):
    """Which class does an image show? Cross-entropy in nats; accuracy, 0..1."""

    score_name = "accuracy"
    as_percent = True
    loss_unit, score_unit = "cross-entropy, nats", "right answers, %"

    @classmethod
    def guessing_score(cls, classes):
        """1 / K, for K classes."""
        return 1 / classes

    @property
    def guessing(self):
        """ln K, for K classes."""
        return math.log(max(2, len(self.data.classes)))

    def prepare(self, images, targets):
        """Augment a batch by the recipe. Returned targets: (B,) labels, or (B, K) probabilities if it softens or mixes them."""
        recipe, targets = self.recipe, _labels(targets)
        if recipe.distort:
            images = augment.distort(images, recipe.distort)
        if recipe.cutout:
            images = augment.cutout(images, recipe.cutout)
        if not (recipe.label_smoothing or recipe.mixup or recipe.cutmix):
            return images, targets
        targets = augment.smooth_labels(targets, len(self.data.classes), recipe.label_smoothing)
        ways = [(f, a) for f, a in ((augment.mixup, recipe.mixup), (augment.cutmix, recipe.cutmix)) if a]
        if ways and float(torch.rand(())) < recipe.mix_prob:
            way, alpha = ways[int(torch.randint(len(ways), ()))]
            images, targets = way(images, targets, alpha)
        return images, targets

    def loss(self, model, images, targets):
        return cross_entropy(model, images, targets)

    def score(self, model, batches):
        return evaluate(model, ((images, _labels(targets)) for images, targets in batches))


class Masked(Task):
    """What do the patches show that were removed? Masked patches need no labels (He et al. 2022, arXiv:2111.06377).

    Loss and score are the mean squared error over the removed patches, each of which has variance 1: naming its mean colour
    gives about 1. The score has the same masks each time. For models of kind "masked", see `models.masked`.
    Raises ValueError for a recipe with another kind of model, or with fields that would change labels, blank what is to be
    predicted, or remove tokens a second time.
    """

    score_name = "error of removed patches"
    higher_is_better = False
    loss_unit = score_unit = "mean squared error"
    outputs = 0
    guessing = 1.0

    def __init__(self, recipe, data):
        super().__init__(recipe, data)
        kind = with_kind(recipe.model)["kind"]
        if kind != "masked":
            raise ValueError(f'the task "masked" needs a model of kind "masked", got {kind!r}.')
        names = ("label_smoothing", "mixup", "cutmix", "cutout", "tokens")
        senseless = [name for name in names if getattr(recipe, name)]
        if senseless:
            raise ValueError(
                f'the task "masked" has no labels and removes patches itself: leave {", ".join(senseless)} out of the recipe.'
            )

    @classmethod
    def guessing_score(cls, classes):
        """1, whatever the number of classes. Exactly, it is (n - 1) / n for patches of n numbers."""
        return 1.0

    @classmethod
    def words(cls, score, digits=3):
        """A score as a text, such as "0.567". digits: how many decimals."""
        return f"{score:.{digits}f}"

    def prepare(self, images, targets):
        """Distort the images if the recipe says so. The targets are returned as they are, and nothing uses them."""
        return augment.distort(images, self.recipe.distort) if self.recipe.distort else images, targets

    def loss(self, model, images, targets):
        return model.loss(images)

    @torch.no_grad()
    def score(self, model, batches):
        was_training = model.training
        model.eval()
        generator = torch.Generator().manual_seed(0)
        total = count = 0
        for images, _ in batches:
            noise = torch.rand(len(images), model.num_patches, generator=generator).to(images.device)
            with autocast(images.device):
                total += len(images) * model.loss(images, noise).item()
            count += len(images)
        model.train(was_training)
        if count == 0:
            raise ValueError("there is nothing to evaluate on: no batch came.")
        return total / count


def _labels(targets):
    """The labels (B,) among the targets of a batch, which are a dict if the data have further targets."""
    return targets["labels"] if isinstance(targets, dict) else targets


TASKS = {
    "classification": Classification,
    "masked": Masked,
}


def make_task(recipe, data):
    """The task of a recipe for these data. Raises ValueError for one that is not in the table."""
    if recipe.task not in TASKS:
        raise ValueError(f"there is no task {recipe.task!r}; there are {', '.join(TASKS)}.")
    return TASKS[recipe.task](recipe, data)


def score_test(model, state, images):
    """(the task of a checkpoint, its score on the test images, normalised as in training). model, state: of `load_run`.

    Raises ValueError where this version does not know the recipe.
    """
    device = pick_device()
    mean, std = (torch.tensor(state["data"][k], device=device)[:, None, None] for k in ("mean", "std"))
    images = dataclasses.replace(images.to(device), mean=mean, std=std)
    task = make_task(Recipe.from_dict(state["recipe"]), images)
    return task, task.score(model.to(device), vit_data.batches(images.test, 512, mean, std))
