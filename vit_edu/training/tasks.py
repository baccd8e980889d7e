"""What is learned. A task gives loss and score, and prepares each batch for its step. A new task adds a row to TASKS."""

import dataclasses
import math
import re

import torch
import torch.nn.functional as F

from vit_edu import augment, boxes, inspect, masks, selfsupervised
from vit_edu import data as vit_data
from vit_edu.models.kinds import with_kind
from vit_edu.training.recipes import Recipe
from vit_edu.training.steps import autocast, cross_entropy, evaluate, pick_device

# Fields of a recipe that change labels, blank parts of images, or move what masks and boxes do not follow
MOVING = ("label_smoothing", "mixup", "cutmix", "cutout", "distort", "tokens")
GREY = 1e-7  # the mean square of colours, 0..1, below which images count as grey


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

    def __init__(self, recipe, data):
        super().__init__(recipe, data)
        named = [name for name in data.classes if {"left", "right"} & set(re.findall("[a-z]+", name.lower()))]
        if recipe.flip and named and data.train.images.ndim == 5:
            raise ValueError(
                f"a clip of the class {named[0]!r} is mirrored in half of the batches, and then its label is wrong. Use a recipe "
                "with flip=False."
            )

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


class Reconstruction(Task):
    """A task whose loss and score are an error, relative to what costs nothing: 1 is a model that says nothing, 0 is perfect."""

    higher_is_better = False
    guessing = 1.0

    @classmethod
    def guessing_score(cls, classes):
        """1, whatever the number of classes."""
        return 1.0

    @classmethod
    def words(cls, score, digits=3):
        """A score as a text, such as "0.567". digits: how many decimals."""
        return f"{score:.{digits}f}"


class Masked(Reconstruction):
    """What do the patches show that were removed? Masked patches need no labels (He et al. 2022, arXiv:2111.06377).

    Loss and score are the mean squared error over the removed patches, each of which has variance 1: naming its mean brightness
    gives about 1, exactly (n - 1) / n for patches of n numbers. The score has the same masks each time. For models of kind
    "masked", see `models.masked`.
    Raises ValueError for a recipe with another kind of model, or with fields that would change labels, blank what is to be
    predicted, or remove tokens a second time.
    """

    score_name = "error of removed patches"
    loss_unit = score_unit = "mean squared error"
    outputs = 0

    def __init__(self, recipe, data):
        super().__init__(recipe, data)
        _require_kind(recipe, "masked")
        names = ("label_smoothing", "mixup", "cutmix", "cutout", "tokens")
        _leave_out(recipe, names, "has no labels and removes patches itself")

    def prepare(self, images, targets):
        """Distort the images if the recipe says so. The targets are returned as they are, and nothing uses them."""
        return augment.distort(images, self.recipe.distort) if self.recipe.distort else images, targets

    def loss(self, model, images, targets):
        return model.loss(images)

    @torch.no_grad()
    def score(self, model, batches):
        generator = torch.Generator().manual_seed(0)
        total = count = 0
        with inspect.eval_mode(model):
            for images, _ in batches:
                noise = torch.rand(len(images), model.num_patches, generator=generator).to(images.device)
                with autocast(images.device):
                    total += len(images) * model.loss(images, noise).item()
                count += len(images)
        if count == 0:
            raise ValueError("there is nothing to evaluate on: no batch came.")
        return total / count


class Rotation(Classification):
    """By how many quarters was an image turned? Rotation needs no labels (Gidaris et al. 2018, arXiv:1803.07728).

    A batch of B images becomes 4B, each image in its four turns, in training and where the accuracy is measured. So a recipe's
    batch_size is a quarter of what goes through the model. Raises ValueError for images that are not square, and for a recipe
    with fields that would change the labels.
    """

    loss_unit, score_unit = "cross-entropy, nats", "right turns, %"
    outputs = 4
    guessing = math.log(4)

    def __init__(self, recipe, data):
        super().__init__(recipe, data)
        selfsupervised.rotate_batch(data.train.images[:1])  # says so if they are not square
        names = ("label_smoothing", "mixup", "cutmix")
        _leave_out(recipe, names, "makes its labels itself, and an image has one of them")

    @classmethod
    def guessing_score(cls, classes):
        """1 / 4, whatever the number of classes."""
        return 1 / 4

    def prepare(self, images, targets):
        """Turn each image four times, and augment the batch by the recipe. Returned targets: the quarter turns, (4B,)."""
        return super().prepare(*selfsupervised.rotate_batch(images))

    def score(self, model, batches):
        return evaluate(model, (selfsupervised.rotate_batch(images) for images, _ in batches))


class Colour(Reconstruction):
    """Which colours does a grey image have? Colourisation needs no labels (Zhang et al. 2016, arXiv:1603.08511).

    Images become grey in `prepare`, and the model gives the numbers of `selfsupervised.colour_targets` for each patch. Loss and
    score are the mean squared error, divided by that of a model that leaves the image grey, which says zero everywhere: for
    the loss, on training images; for the score, on the same held-out images. So 1 is grey, and 0 is perfect. `grey_error`: the
    mean squared error of grey on training images, for colours in 0..1.
    Raises ValueError for images without colours, for a recipe with another kind of model than "dense", and for fields that
    would change labels, blank what is to be predicted, or leave out tokens.
    """

    score_name = "error of colours"
    loss_unit = score_unit = "mean squared error (grey: 1)"

    def __init__(self, recipe, data):
        super().__init__(recipe, data)
        _require_kind(recipe, "dense")
        names = ("label_smoothing", "mixup", "cutmix", "cutout", "tokens")
        _leave_out(recipe, names, "has no labels and needs every pixel")
        train = data.train.images
        some = train[:: max(1, len(train) // 500)]
        self.grey_error = self._split(vit_data.normalize(some, data.mean, data.std))[1].square().mean().item()
        if self.grey_error < GREY:
            raise ValueError(
                "the three channels of these images are the same: they are grey, and have no colours to learn from. Choose "
                "another task."
            )

    @property
    def outputs(self):
        """Two for each pixel of a patch."""
        return 2 * self._patch_size**2

    def prepare(self, images, targets):
        """Distort the images if the recipe says so, and make them grey. Returned targets: the colours, (B, N, 2 P P)."""
        if self.recipe.distort:
            images = augment.distort(images, self.recipe.distort)
        return self._split(images)

    def loss(self, model, images, targets):
        return F.mse_loss(model(images).float(), targets) / self.grey_error

    @torch.no_grad()
    def score(self, model, batches):
        error = grey_error = count = 0
        with inspect.eval_mode(model):
            for images, _ in batches:
                grey, colours = self._split(images)
                with autocast(images.device):
                    predicted = model(grey).float()
                error += (predicted - colours).square().sum().item()
                grey_error += colours.square().sum().item()
                count += colours.numel()
        if count == 0:
            raise ValueError("there is nothing to evaluate on: no batch came.")
        return error / max(grey_error, GREY * count)

    @property
    def _patch_size(self):
        return self.recipe.model.get("patch_size", 4)

    def _split(self, images):
        """Normalised images -> (the same in grey, still normalised; their colours, (B, N, 2 P P))."""
        mean, std = self.data.mean, self.data.std
        grey, colours = selfsupervised.colour_targets(
            vit_data.denormalize(images, mean, std), self._patch_size
        )
        return (grey - mean) / std, colours


class Contrast(Task):
    """Which other view is of the same image? Contrastive learning needs no labels (SimCLR, Chen et al. 2020, arXiv:2002.05709).

    Each image gives two views (`augment.random_view`), and the loss is `selfsupervised.contrastive_loss`, with temperature
    TEMPERATURE. With several ranks, a view is compared with those of its own rank. The score is the share of held-out
    images whose second view is the most similar to the first, among those of AMONG images; the same views each time.
    For models of kind "contrastive". Raises ValueError for a recipe with another kind of model, or with fields that would
    change labels or images beyond that.
    """

    score_name = "views found"
    as_percent = True
    loss_unit, score_unit = "cross-entropy, nats", "second views found, %"
    outputs = 0
    TEMPERATURE = 0.2
    AMONG = 100

    def __init__(self, recipe, data):
        super().__init__(recipe, data)
        _require_kind(recipe, "contrastive")
        names = ("label_smoothing", "mixup", "cutmix", "cutout", "distort")
        _leave_out(recipe, names, "has no labels and changes images itself")
        if recipe.batch_size < 2:
            raise ValueError(
                'the task "contrastive" compares images with each other: choose a batch_size of at least 2.'
            )

    @property
    def guessing(self):
        """ln(2B - 1), for batches of B images."""
        return math.log(2 * self.recipe.batch_size - 1)

    @classmethod
    def guessing_score(cls, classes):
        """1 / AMONG, whatever the number of classes."""
        return 1 / cls.AMONG

    def prepare(self, images, targets):
        """Two views of each image, of which the second takes the place of the targets."""
        return augment.random_view(images, self.recipe.flip), augment.random_view(images, self.recipe.flip)

    def loss(self, model, images, targets):
        first, second = model(torch.cat([images, targets])).chunk(2)
        return selfsupervised.contrastive_loss(first, second, self.TEMPERATURE)

    @torch.no_grad()
    def score(self, model, batches):
        pairs = []
        with inspect.eval_mode(model), torch.random.fork_rng():
            torch.manual_seed(0)
            for images, targets in batches:
                views = self.prepare(images, targets)
                with autocast(images.device):
                    pairs.append(torch.stack([model(view) for view in views], dim=1))  # (B, 2, projector_dim)
        if not pairs:
            raise ValueError("there is nothing to evaluate on: no batch came.")
        found = total = 0
        for pair in torch.cat(pairs).split(self.AMONG):
            nearest = (pair[:, 0] @ pair[:, 1].mT).argmax(dim=1)  # (B,)
            found += (nearest == torch.arange(len(pair), device=pair.device)).sum().item()
            total += len(pair)
        return found / total


class Segmentation(Task):
    """Which class does each pixel show? Cross-entropy plus `masks.dice_loss`; the score is `masks.mean_iou`, 0..1.

    The data have a target "mask" (N, H, W), 0 for the background and class + 1 elsewhere. For models of kind "segmenter".
    Raises ValueError for data without masks, for a recipe with another kind of model, and for fields that would change labels,
    blank what is to be named, or leave out tokens.
    """

    score_name = "mean IoU"
    as_percent = True
    loss_unit, score_unit = "cross-entropy, nats, + Dice", "mean intersection over union, %"
    dice = 1.0  # the weight of the Dice loss

    def __init__(self, recipe, data):
        super().__init__(recipe, data)
        _require_kind(recipe, "segmenter")
        _leave_out(recipe, MOVING, "needs every pixel where it is")
        _require_targets(recipe, data, ("mask",), "data.scenes() and data.mask_folder()")

    @property
    def outputs(self):
        """One for each class and one for the background."""
        return len(self.data.classes) + 1

    @property
    def guessing(self):
        """ln (K + 1) for the cross-entropy, and the most that Dice can be."""
        return math.log(self.outputs) + self.dice

    def loss(self, model, images, targets):
        logits, mask = model(images).float(), targets["mask"].long()
        loss = F.cross_entropy(logits, mask)
        return loss + self.dice * masks.dice_loss(logits, mask) if self.dice else loss

    @torch.no_grad()
    def score(self, model, batches):
        predicted, true = [], []
        with inspect.eval_mode(model):
            for images, targets in batches:
                with autocast(images.device):
                    predicted.append(model(images).argmax(dim=1))
                true.append(targets["mask"])
        if not true:
            raise ValueError("there is nothing to evaluate on: no batch came.")
        return masks.mean_iou(torch.cat(predicted), torch.cat(true), self.outputs)


class PlainSegmentation(Segmentation):
    """`Segmentation` with cross-entropy alone, which minds each pixel as much as any other."""

    loss_unit = "cross-entropy, nats"
    dice = 0.0


class Detection(Task):
    """Which objects are there, and where? `boxes.set_loss`; the score is the mean average precision at IoU 0.5, 0..1.

    The data have targets "boxes" (N, M, 4), corners in pixels, and "classes" (N, M); rows of -1 are unused. For models of kind
    "detr", whose queries are matched with the objects of each image, and "patch_detector", where the patch with its centre answers
    for an object and duplicates are suppressed (NMS). Raises ValueError for data without boxes, for a recipe with another kind of
    model, and for fields that would change labels, blank objects, or leave out tokens.
    """

    score_name = "average precision"
    as_percent = True
    loss_unit, score_unit = "loss of a set of boxes", "average precision at IoU 0.5, %"
    NMS = 0.5  # the IoU above which a patch detector's boxes of one class are duplicates

    def __init__(self, recipe, data):
        super().__init__(recipe, data)
        _require_kind(recipe, "detr", "patch_detector")
        _leave_out(recipe, MOVING, "needs every object where it is")
        _require_targets(recipe, data, ("boxes", "classes"), "data.scenes() and data.coco_folder()")
        self.by_place = recipe.model["kind"] == "patch_detector"

    @property
    def nms(self):
        """What `boxes.detections` needs to know to suppress duplicates, or None."""
        return self.NMS if self.by_place else None

    def loss(self, model, images, targets):
        labels, target_boxes = self.wanted(targets, images.shape[-2:])
        logits, found = (values.float() for values in model(images))
        if self.by_place:
            match = boxes.match_places(labels, target_boxes, model.patch_embed.grid_size)
        else:
            match = boxes.match_batch(logits, found, labels, target_boxes)
        return boxes.set_loss(logits, found, labels, target_boxes, match)

    @staticmethod
    def wanted(targets, size):
        """(labels (B, M), -1 where unused; boxes (B, M, 4), centres, 0..1) of a batch. size: (H, W), in pixels."""
        corners = targets["boxes"].float()
        sides = torch.tensor([size[1], size[0]] * 2, device=corners.device)
        labels = targets["classes"].where(
            corners[..., 0] >= 0, boxes.UNUSED
        )  # a crop may have removed an object
        return labels, boxes.to_centres(corners / sides)

    @torch.no_grad()
    def score(self, model, batches):
        found, wanted = [], []
        with inspect.eval_mode(model):
            for images, targets in batches:
                with autocast(images.device):
                    answer = model(images)
                found += boxes.detections(*answer, images.shape[-2:], self.nms)
                for corners, labels in zip(targets["boxes"], targets["classes"], strict=True):
                    used = corners[:, 0] >= 0
                    wanted.append({"boxes": corners[used].float(), "labels": labels[used]})
        if not found:
            raise ValueError("there is nothing to evaluate on: no batch came.")
        return boxes.mean_average_precision(found, wanted, len(self.data.classes)).nanmean().item()


def _require_kind(recipe, *kinds):
    found = with_kind(recipe.model)["kind"]
    if found not in kinds:
        wanted = " or ".join(f'"{kind}"' for kind in kinds)
        raise ValueError(f'the task "{recipe.task}" needs a model of kind {wanted}, got {found!r}.')


def _require_targets(recipe, data, names, where):
    """Raise ValueError unless the data have these targets. where: which data do."""
    if missing := [name for name in names if name not in data.train.targets]:
        raise ValueError(
            f'the task "{recipe.task}" learns from {" and ".join(names)}, and these data have no {missing[0]!r}: use data that do, '
            f"such as those of {where}."
        )


def _leave_out(recipe, names, why):
    """Raise ValueError if the recipe has a field that makes no sense for its task. why: says so of the task."""
    senseless = [name for name in names if getattr(recipe, name)]
    if senseless:
        raise ValueError(f'the task "{recipe.task}" {why}: leave {", ".join(senseless)} out of the recipe.')


def _labels(targets):
    """The labels (B,) among the targets of a batch, which are a dict if the data have further targets."""
    return targets["labels"] if isinstance(targets, dict) else targets


TASKS = {
    "classification": Classification,
    "masked": Masked,
    "rotation": Rotation,
    "colour": Colour,
    "contrastive": Contrast,
    "segmentation": Segmentation,
    "segmentation-plain": PlainSegmentation,
    "detection": Detection,
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
