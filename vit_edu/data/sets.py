"""What a data set is: images with their labels and targets, and where they came from."""

from dataclasses import dataclass, field, replace

import torch


class DataError(Exception):
    """The data that was asked for is not available. The text says what was expected, what was found and what to do."""


@dataclass(frozen=True)
class Split:
    """Images with what is to be learned from them, on one device.

    images: (N, C, H, W), or clips (N, F, C, H, W); uint8. labels: (N,), int64.
    targets: further tensors by name, each with N as its first axis. `flip_and_crop` describes the names that have a
    meaning, because it moves them with the image: "mask", "boxes", "classes" and "direction". Raises ValueError for sizes that do
    not fit together.
    """

    images: torch.Tensor
    labels: torch.Tensor
    targets: dict = field(default_factory=dict)

    def __post_init__(self):
        if taken := {"images", "labels"} & self.targets.keys():
            raise ValueError(f"a split already has a field {taken.pop()!r}. Give the target another name.")
        for name, values in {"images": self.images, **self.targets}.items():
            if len(values) != len(self.labels):
                raise ValueError(
                    f"all parts of a split must have the same length, but there are {len(self.labels)} labels "
                    f"and {len(values)} entries of {name!r}."
                )
        for name, size in {"mask": self.images.shape[-2:], "boxes": (4,)}.items():
            if name in self.targets and self.targets[name].shape[-len(size) :] != size:
                raise ValueError(
                    f"the last axes of {name!r} should be {tuple(size)}; its shape is {tuple(self.targets[name].shape)}."
                )

    def __len__(self):
        return len(self.labels)

    def pick(self, which):
        """A split with the images that `which` picks: a tensor of indices, a boolean tensor (N,), or a slice."""
        return self._each(lambda values: values[which])

    def to(self, device):
        """The same split on another device."""
        return self._each(lambda values: values.to(device))

    def take(self, count, seed=0):
        """A random subset of `count` images, or all of them if there are fewer. The same seed gives the same subset."""
        return self.hold_out(count, seed)[1]

    def hold_out(self, count, seed=0):
        """Two disjoint parts: (the rest, `count` random images). The same seed gives the same parts.

        Raises ValueError for fewer than none.
        """
        if count < 0:
            raise ValueError(f"the number of images to take is at least 0, got {count}.")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        order = order.to(self.labels.device)
        return self.pick(order[count:]), self.pick(order[:count])

    def _each(self, change):
        targets = {name: change(values) for name, values in self.targets.items()}
        return Split(change(self.images), change(self.labels), targets)


@dataclass(frozen=True)
class Data:
    """A data set and where it came from.

    train, test: `Split`. classes: names, in label order. kind: "cifar10", "folder", "shapes", "scenes" or "clips".
    reason: why this one, in words. mean, std: (C, 1, 1), over the training pixels, in 0..1 units.
    """

    train: Split
    test: Split
    classes: tuple
    kind: str
    reason: str
    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def measured(cls, train, test, classes, kind, reason):
        """`Data` with the mean and the standard deviation of its training pixels."""
        # Fewer than 10,000 images are enough: to two digits, their statistics are those of all
        mean, std = pixel_statistics(train.images[:: max(1, len(train) // 5000)])
        return cls(train, test, tuple(classes), kind, reason, mean, std.clamp_min(1e-3))

    def __str__(self):
        names = {"cifar10": "CIFAR-10", "folder": "your image folder", "shapes": "generated shapes"}
        names |= {"scenes": "generated scenes", "clips": "generated clips"}
        shape = self.train.images.shape
        what = "images" if len(shape) == 4 else f"clips of {shape[1]} frames"
        size = "x".join(str(n) for n in shape[-2:])
        return (
            f"Data: {names[self.kind]}, {len(self.train):,} training and {len(self.test):,} test {what}, "
            f"{size} pixels, {len(self.classes)} classes.\nWhy: {self.reason}"
        )

    def to(self, device):
        """The same data on another device."""
        return replace(
            self,
            train=self.train.to(device),
            test=self.test.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
        )


def pixel_statistics(images):
    """Mean and standard deviation of each channel, over all images and pixels: two tensors (C, 1, 1), in 0..1 units.

    images: uint8 (N, C, H, W) or (N, F, C, H, W). Computed from how often each of the 256 values occurs, which is
    faster than summing floats.
    """
    channels = images.movedim(-3, 0).flatten(1)  # (C, N * H * W)
    counts = torch.stack([channel.bincount(minlength=256) for channel in channels])  # (C, 256)
    share = counts.double() / counts.sum(dim=1, keepdim=True)  # (C, 256)
    values = torch.arange(256, dtype=torch.float64) / 255  # (256,)
    mean = share @ values  # (C,)
    std = (share @ values**2 - mean**2).clamp_min(0).sqrt()  # (C,)
    return mean.float()[:, None, None], std.float()[:, None, None]
