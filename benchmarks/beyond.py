"""What lesson 11 draws: `python benchmarks/beyond.py segmentation|detection|video|transfer|windows`.

segmentation: decoders, finer patches and losses, on generated scenes. detection: a head on every patch, queries, and queries
with a fixed assignment. video: joint and factorised attention, a single frame, and the mean of all frames. transfer: the encoder
from scratch, and with the weights that come with the course. windows: a small Swin and the plain ViT of recipe "laptop" on the
images of --data.

Every run has the same time, which the variants of an experiment share (MINUTES), by the processor's clock on one thread, so that
runs may go side by side. Scenes and clips are those of SCENES and CLIPS, and every run is judged on the same 1,000 held-out ones, which
none of them sees; for "windows" these are 5,000 training images. The entries go to vit_edu/training/logs/beyond.jsonl (conditions
first) and tables to benchmarks/results/beyond.md. Runs that are there are not repeated.
"""

import dataclasses
import functools
import json
import statistics
from pathlib import Path

import torch

from vit_edu import atomic, boxes, data, inspect, masks, models, pretrained, training, transfer

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

SCENES = {"train": 8000, "test": 1000, "seed": 0}
CLIPS = {"train": 4000, "test": 1000, "seed": 0, "motion": "both"}
SIZES = {name: training.RECIPES["laptop"].model[name] for name in ("embed_dim", "depth", "num_heads")}
SWIN = {"kind": "swin", "patch_size": 2, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4)}

# {experiment: {variant: (recipe, what differs in its model)}}
VARIANTS = {
    "segmentation": {
        "pixels": ("laptop-segmentation", {}),
        "pixels, cross-entropy": ("laptop-segmentation", {}),
        "linear": ("laptop-segmentation", {"decoder": "linear"}),
        "mask": ("laptop-segmentation", {"decoder": "mask"}),
        "linear, skip": ("laptop-segmentation", {"decoder": "linear", "skip": 16}),
        "linear, patch 2": ("laptop-segmentation", {"decoder": "linear", "patch_size": 2}),
    },
    "detection": {
        "queries": ("laptop-detr", {}),
        "patches": ("laptop-patch-detector", {}),
        "queries, fixed assignment": ("laptop-detr", {}),
    },
    "video": {
        "joint": ("laptop-video", {}),
        "factorised": ("laptop-video", {"attention": "factorised"}),
        "mean of frames": ("laptop-video", {"attention": "factorised", "tubelet": 1, "temporal_depth": 0}),
        "one frame": ("laptop-video", {"tubelet": 1}),
    },
    "transfer": {
        f"{task}, {start}": (recipe, {})
        for task, recipe in (("segmentation", "laptop-segmentation"), ("detection", "laptop-detr"))
        for start in ("scratch", "vit-cifar10", "vit-cifar10-mae")
    },
    "windows": {"vit": ("laptop", {}), "vit, all tokens": ("laptop", {}), "swin": ("laptop", SWIN)},
}
MINUTES = {"segmentation": 1.5, "detection": 2.5, "video": 1.0, "transfer": 0.75, "windows": 1.0}


def recipe_of(experiment, what, seed, minutes):
    """The recipe of a variant."""
    name, model = VARIANTS[experiment][what]
    recipe = training.RECIPES[name]
    changes = {"seed": seed, "minutes": minutes, "model": recipe.model | model, "validation": 0.05}
    if what.endswith("cross-entropy"):
        changes["task"] = "segmentation-plain"
    if experiment == "windows":
        changes["validation"] = 0.0
        changes["model"] = model or recipe.model
        changes["tokens"] = recipe.tokens if what == "vit" else ()
    return dataclasses.replace(recipe, **changes)


@functools.cache
def data_of(experiment, what, source):
    """(the data of a variant; the split on which it is judged)."""
    if experiment == "windows":
        images = measure.images_of(source)
        train, held_out = images.train.hold_out(measure.HELD_OUT, seed=0)
        return dataclasses.replace(images, train=train), held_out
    if experiment != "video":
        found = data.scenes(**SCENES)
        return found, found.test
    found = data.clips(**CLIPS)
    if what == "one frame":
        middle = found.train.images.shape[1] // 2
        train, test = (
            dataclasses.replace(split, images=split.images[:, middle : middle + 1])
            for split in (found.train, found.test)
        )
        found = dataclasses.replace(found, train=train, test=test)
    return found, found.test


def fixed_step(task, model, optimizer, images, targets):
    """A step in which the first query always answers for the first object, the second for the second, and so on."""
    labels, target_boxes = task.wanted(targets, images.shape[-2:])
    match = torch.arange(labels.shape[1]).expand_as(labels)

    def loss_of(model, images, targets):
        return boxes.set_loss(*model(images), labels, target_boxes, match)

    return training.train_step(model, optimizer, images, targets, loss_of)


def run(job):
    """One run, in a separate process. job: (experiment, variant, its recipe, source of images, folder of runs). Returns its entry."""
    experiment, what, recipe, source, folder = job
    log = folder / f"{experiment}-{what.replace(', ', '-').replace(' ', '_')}-{recipe.seed}.json"
    if not log.exists():
        torch.set_num_threads(1)
        found, judged = data_of(experiment, what, source)
        model = training.build_model(recipe, found)
        if what.rpartition(", ")[2].startswith("vit-"):
            start = pretrained.load(what.rpartition(", ")[2])
            transfer.load_encoder(model, start)
            how = start.pretrained_cfg
            found = dataclasses.replace(found, mean=how["mean"], std=how["std"])
        task, options, curve = training.make_task(recipe, found), {}, []
        if what.endswith("fixed assignment"):
            options["step"] = functools.partial(fixed_step, task)

        def note(history):
            curve.append([round(history[-1]["seconds"], 1), history[-1][task.key]])

        entry = {"what": what, "seed": recipe.seed, "minutes": recipe.minutes}
        entry |= measure.trained(model, found, recipe, on_epoch=note, **options)
        batches = list(data.batches(judged, 250, found.mean, found.std))
        entry |= {"curve": curve, "score": task.score(model, batches)} | more_of(
            experiment, model, task, batches
        )
        atomic.write(log, json.dumps(entry | {"settings": dataclasses.asdict(recipe)}))
        torch.save(model.state_dict(), log.with_suffix(".pt"))
    return json.loads(log.read_text(encoding="utf-8"))


@torch.no_grad()
def more_of(experiment, model, task, batches):
    """What else is measured, by the names in an entry."""
    with inspect.eval_mode(model):
        if isinstance(task, training.Segmentation):
            return pixels_of(model, task, batches)
        if isinstance(task, training.Detection):
            return objects_of(model, task, batches)
        if experiment == "video":
            turned = data.opposite(task.data.classes)
            named = torch.cat([model(clips.flip(1)).argmax(dim=1) for clips, _ in batches])
            labels = torch.cat([labels for _, labels in batches])
            return {"reversed": (named == turned[labels]).float().mean().item()}
    return {}


def pixels_of(model, task, batches):
    """The IoU of each class, and the share of the pixels that are right."""
    predicted = torch.cat([model(images).argmax(dim=1) for images, _ in batches])
    true = torch.cat([targets["mask"] for _, targets in batches])
    ious = masks.class_iou(predicted, true, task.outputs).tolist()
    return {"ious": ious, "pixel_accuracy": (predicted == true).float().mean().item()}


SURE = 0.5  # the least score of a box that counts as an answer


def objects_of(model, task, batches):
    """found: the share of the objects that a box of their class overlaps by half. located: by a box of any class. false_boxes: how many
    of the boxes of a picture with a score of at least SURE are no hits; the same without suppression of duplicates."""
    counts = dict.fromkeys(("found", "located", "false_boxes", "false_boxes, no NMS"), 0)
    objects = pictures = 0
    for images, targets in batches:
        answer = model(images)
        kept, all_boxes = (boxes.detections(*answer, images.shape[-2:], nms) for nms in (task.nms, None))
        for ours, every, corners, labels in zip(
            kept, all_boxes, targets["boxes"], targets["classes"], strict=True
        ):
            true, labels = corners[labels >= 0], labels[labels >= 0]
            objects, pictures = objects + len(labels), pictures + 1
            for name, some in (("", ours), (", no NMS", every)):
                sure = some["scores"] >= SURE
                hits = hits_by_class(some, sure, true, labels)
                counts[f"false_boxes{name}"] += int(sure.sum()) - hits
                if not name:
                    counts["found"] += hits
                    counts["located"] += int(
                        boxes.hits_of(some["boxes"][sure], some["scores"][sure], true).sum()
                    )
    each = {"found": objects, "located": objects, "false_boxes": pictures, "false_boxes, no NMS": pictures}
    return {name: count / each[name] for name, count in counts.items()}


def hits_by_class(found, sure, true, labels):
    """How many of the boxes that are `sure` are right, in place and class."""
    total = 0
    for label in labels.unique():
        mine = sure & (found["labels"] == label)
        total += int(boxes.hits_of(found["boxes"][mine], found["scores"][mine], true[labels == label]).sum())
    return total


def trivial_answers():
    """What answers score that need no model, on the held-out scenes and clips."""
    scenes, clips = data.scenes(**SCENES), data.clips(**CLIPS)
    true, classes = scenes.test.targets["mask"], len(scenes.classes) + 1
    nothing = torch.zeros_like(true)
    pixels = {
        "all background": masks.mean_iou(nothing, true, classes),
        "all background, pixels": (true == 0).float().mean().item(),
    }
    for patch_size in (8, 4, 2):  # the commonest class of each patch, as if a model knew it
        known = commonest(true, patch_size, classes)
        pixels[f"one class for each patch of {patch_size}"] = masks.mean_iou(known, true, classes)
    train, test = scenes.train.targets, scenes.test.targets
    used = train["classes"] >= 0
    box = train["boxes"][used].mean(dim=0, keepdim=True)
    label = train["classes"][used].mode().values[None]
    found = [{"boxes": box, "labels": label, "scores": torch.ones(1)}] * len(scenes.test)
    wanted = [
        {"boxes": b[c >= 0], "labels": c[c >= 0]} for b, c in zip(test["boxes"], test["classes"], strict=True)
    ]
    precision = boxes.mean_average_precision(found, wanted, len(scenes.classes)).nanmean().item()
    common = clips.test.labels.bincount().max().item() / len(clips.test)
    return {
        "segmentation": pixels,
        "detection": {"the mean box, commonest class": precision},
        "video": {"the commonest class": common},
    }


def commonest(mask, patch_size, classes):
    """A mask (N, H, W) in which every patch has the class that most of its pixels have."""
    patches = models.vit.patchify(mask[:, None], patch_size).long()  # (N, patches, P*P)
    most = torch.nn.functional.one_hot(patches, classes).sum(dim=2).argmax(dim=2, keepdim=True)
    return models.vit.unpatchify(most.expand_as(patches), patch_size, mask.shape[1:])[:, 0]


def rows_of(entries):
    """A row for each variant."""
    groups = {}
    for entry in entries:
        groups.setdefault(entry["what"], []).append(entry)
    for what, same in groups.items():
        scores = [100 * e["score"] for e in same]
        numbers = (statistics.mean(e[key] for e in same) for key in ("images", "seconds", "parameters"))
        extra = [
            f"{name} {measure.mean([e[name] for e in same], 3)}"
            for name, value in same[0].items()
            if isinstance(value, float) and name not in ("score", "seconds", "loss", "minutes")
        ]
        each = ", ".join(f"{score:.1f}" for score in scores)
        yield (what, measure.mean(scores), each, "; ".join(extra), *(f"{n:,.0f}" for n in numbers))


HEAD = ("variant", "score, %", "each seed", "more", "images seen", "processor seconds", "parameters")
SCORES = {
    "segmentation": "mean IoU over the background and four classes",
    "detection": "average precision at IoU 0.5, mean over four classes",
    "video": "accuracy over eight classes",
    "transfer": "mean IoU, and average precision at IoU 0.5",
    "windows": "accuracy",
}


def main(argv=None):
    """Run one of the experiments and write its entries and its table."""
    parser = measure.training_parser("beyond", __doc__, tuple(VARIANTS))
    parser.add_argument("--minutes", type=float, help="of each run, by the processor's clock (MINUTES)")
    parser.add_argument("--log", type=Path, default=training.LOGS / "beyond.jsonl")
    args = parser.parse_args(argv)
    conditions = measure.conditions("beyond", argv, "cpu")
    minutes = args.minutes or MINUTES[args.experiment]
    folder = args.runs / f"{minutes:g}"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (args.experiment, what, recipe_of(args.experiment, what, seed, minutes), args.data, folder)
        for seed in args.seeds
        for what in VARIANTS[args.experiment]
        if args.only in f"{what}-{seed}"
    ]
    entries = [
        {"experiment": args.experiment} | entry for entry in measure.side_by_side(run, jobs, args.jobs)
    ]
    about = {"conditions": {args.experiment: conditions}, "trivial": trivial_answers()}
    measure.add_to_log(args.log, args.experiment, about, entries)
    text = (
        f"{SCORES[args.experiment]}, on held-out data, after {minutes:g} minutes of one thread: mean and standard deviation over "
        f"{len(args.seeds)} seeds. {args.copy}\n\n{measure.table(HEAD, rows_of(entries))}\n\n{conditions}"
    )
    measure.write(args.out, "beyond", args.experiment, text)


if __name__ == "__main__":
    main()
