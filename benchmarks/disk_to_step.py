"""From images on the disk to finished training steps, ours against the usual way: `python benchmarks/disk_to_step.py`.

It measures images per second over one epoch: read a folder in CIFAR-10's format, go once over its images (crop with padding
4, flip, normalise, CutMix), and take a step with each batch. The folder is made from generated shapes, and is in the
system's file cache.

- ours: `data.load`, `data.batches` and the task's `prepare`. All images are on the device, and a batch is augmented at once.
- usual: torchvision's `CIFAR10` and `transforms.v2`, image by image, in a `DataLoader` (`--workers 0 2`; ours is compared
  with the fastest). Crop and flip work on PIL images, which is the faster order here. CutMix runs where the batches are made,
  workers persist, and on CUDA batches come through pinned memory.

Both take the same step, with the model, the optimiser and the shares of the tokens of the recipe "laptop". The row "whole
recipe" is computed: each rate counts for the part of the minutes in which the recipe has it. Without a step, and on CUDA,
there are three epochs, so that starting workers does not count much. The second table says how long each part takes.
"""

import dataclasses
import functools
import tempfile

import torch
from torch.utils.data import DataLoader, default_collate
from torchvision.datasets import CIFAR10
from torchvision.transforms import v2

from vit_edu import data as vit_data
from vit_edu import training

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

RECIPE = dataclasses.replace(training.RECIPES["laptop"], cutmix=1.0)
SHARES = [*(share for _, share in RECIPE.tokens), 1.0]  # of the tokens, phase by phase


class Ours:
    """Augmented batches (images (B, C, H, W), targets (B, K)) by vit_edu, on the device."""

    def __init__(self, device):
        self.data = vit_data.load().to(device)
        self.task = training.make_task(RECIPE, self.data)

    def __iter__(self):
        data = self.data
        for images, labels in vit_data.batches(
            data.train, RECIPE.batch_size, data.mean, data.std, train=True
        ):
            yield self.task.prepare(images, labels)


class Usual:
    """The same by torchvision and a DataLoader. root: where the folder of CIFAR-10 is."""

    def __init__(self, device, root, workers):
        transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )
        images = CIFAR10(root, train=True, transform=transform)
        self.device = device
        self.loader = DataLoader(
            images,
            RECIPE.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            collate_fn=functools.partial(mixed, v2.CutMix(alpha=1.0, num_classes=10)),
        )

    def __iter__(self):
        for images, targets in self.loader:
            yield (
                images.to(self.device, non_blocking=True),
                targets.to(self.device, non_blocking=True),
            )


def mixed(cutmix, samples):
    """A batch of samples, mixed."""
    return cutmix(*default_collate(samples))


def from_disk(make, take_step=None, epochs=1):
    """Read the data, go over them, and take a step with each batch. make: `Ours` or `Usual` with bound arguments."""
    stream = make()
    for _ in range(epochs):
        for images, targets in stream:
            if take_step:
                take_step(images, targets)
    return stream


def main(argv=None):
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--images", type=int, help="images on the disk (CPU 4,000, CUDA 30,000)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 2], help="of the DataLoader, to be tried"
    )
    args = parser.parse_args(argv)
    line = measure.conditions("disk_to_step", argv, args.device, ("torchvision",))
    device, cuda = torch.device(args.device), args.device == "cuda"
    images = args.images or (30_000 if cuda else 4_000)
    with tempfile.TemporaryDirectory() as root:
        measure.write_folder(root, images)
        with measure.trusted(root):
            found = figures(device, root, args.workers, args.rounds)
    text = report(found, images // RECIPE.batch_size)
    text += f"\n\nThe fastest of {args.rounds} rounds; {images:,} images, batches of {RECIPE.batch_size}.\n\n{line}"
    measure.write(args.out, "disk_to_step", "CUDA" if cuda else "CPU", text)


def figures(device, root, workers, rounds):
    """Seconds, the minimum over the rounds.

    Returns {"read": {way: reading the folder}, "epochs": {share: {way: an epoch with steps, including reading}}, in which the
    share None means no steps, and "step": {share: one step alone}}.
    """
    ways = {"ours": functools.partial(Ours, device)}
    ways |= {f"usual, {n} workers": functools.partial(Usual, device, root, n) for n in workers}

    def least(jobs, each=1, **options):
        seconds = measure.in_turn(jobs, rounds, device, **options)
        return {name: min(found) / each for name, found in seconds.items()}

    read = least(ways, warmups=1)
    without = {name: functools.partial(from_disk, make, None, 3) for name, make in ways.items()}
    found = {"read": read, "epochs": {None: least(without, each=3, warmups=1)}, "step": {}}

    model = training.build_model(RECIPE, vit_data.load()).to(device)
    optimizer = training.make_optimizer(model, RECIPE)
    dropout = training.TokenDropout(model)
    if device.type == "cuda":
        take_step = training.CompiledStep(model, optimizer, dropout=dropout, record=True)
    else:
        take_step = training.PlainStep(model, optimizer)
    epochs = 3 if device.type == "cuda" else 1
    batch = next(iter(Ours(device)))
    for share in SHARES:
        dropout.keep = share
        alone = {"step": functools.partial(take_step, *batch)}
        found["step"][share] = least(alone, repeats=10)["step"]
        jobs = {n: functools.partial(from_disk, m, take_step, epochs) for n, m in ways.items()}
        found["epochs"][share] = least(jobs, each=epochs, warmups=0)
    return found


def report(found, batches):
    """Both tables, as text. batches: how many an epoch has."""
    ways, images = list(found["read"]), batches * RECIPE.batch_size
    rates = {
        share: {way: images / s for way, s in seconds.items()} for share, seconds in found["epochs"].items()
    }
    ends = [until for until, _ in RECIPE.tokens] + [1.0]
    parts = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    rates["recipe"] = {
        way: sum(part * rates[share][way] for part, share in zip(parts, SHARES, strict=True)) for way in ways
    }
    names = {None: "no step: the pipeline alone"}
    names |= {share: f"with steps on {share:.0%} of the tokens" for share in SHARES}
    names["recipe"] = "whole recipe (computed)"
    rows = []
    for what, name in names.items():
        rate = rates[what]
        best = max(rate[way] for way in ways if way != "ours")
        texts = [f"{rate[way]:,.0f}" for way in ways]
        rows.append((name, *texts, f"**{rate['ours'] / best:.2f}**"))
    first = measure.table(("images/s, from disk", *ways, "ours / fastest usual"), rows)

    def milliseconds(seconds):
        return [f"{1000 * seconds[way]:.2f}" for way in ways]

    making = {way: (found["epochs"][None][way] - found["read"][way] / 3) / batches for way in ways}
    rows = [
        ("reading the folder", *milliseconds(found["read"])),
        ("making one batch", *milliseconds(making)),
    ]
    for share, seconds in found["step"].items():
        rows.append((f"one step alone, {share:.0%} of the tokens", *[f"{1000 * seconds:.2f}"] * len(ways)))
    return f"{first}\n\n{measure.table(('milliseconds', *ways), rows)}"


if __name__ == "__main__":
    main()
