"""The ways of ours that lesson 12 compares a learner's with, and accuracy against steps: `python benchmarks/ten_labels.py [--steps]`.

Without an option: each way by `transfer.ten_labels`, as rows for `transfer.MEASURED`. With --steps: 64 labels a class, a
constant learning rate after a short warm-up, right answers among 600 test images after so many steps, at two rates, with
three draws; a line of JSON for each run.
"""

import argparse
import json

import torch

from vit_edu import data, pretrained, training, transfer

SHORT = (25, 50, 100, 150, 200, 300)
LONG = (50, 100, 200, 300, 400, 600, 800, 1000, 1200)


def recoloured(images):
    """Every image with its channels in a random order, some of them inverted: (B, 3, H, W), uint8."""
    order = torch.rand(len(images), 3).argsort(dim=1)[:, :, None, None]
    images = images.gather(1, order.expand_as(images))
    return torch.where(torch.rand(len(images), 3, 1, 1) < 0.5, 255 - images, images)


def with_colours(split, times=16):
    """A `Split` with each image `times` times, each time in other colours."""
    return data.Split(recoloured(split.images.repeat(times, 1, 1, 1)), split.labels.repeat(times))


def ways():
    """{name: a function for `transfer.ten_labels`}."""
    trained = pretrained.load("vit-cifar10")

    def naming(model):
        return lambda images: transfer.in_batches(model, images).argmax(dim=1)

    def neighbour(split):
        seen = transfer.features(trained, split.images)
        return lambda images: transfer.knn_predict(seen, split.labels, transfer.features(trained, images), 1)

    def probe(split):
        head = transfer.linear_probe(transfer.features(trained, split.images), split.labels, 10)
        return lambda images: head(transfer.features(trained, images)).argmax(dim=1)

    def tuned(steps, change=lambda split: split):
        start = transfer.new_head(trained, 10)
        return lambda split: naming(transfer.fine_tune(start, change(split), steps, 2e-3, 0.8))

    def fresh(split):
        return naming(transfer.fine_tune(transfer.from_scratch(trained, 10), split, 400, 2e-3))

    return {
        "nearest neighbour": neighbour,
        "linear probe": probe,
        "from scratch, 400 steps": fresh,
        "fine-tuning, 100 steps": tuned(100),
        "fine-tuning, 400 steps": tuned(400),
        "fine-tuning with one more idea, 400 steps": tuned(400, with_colours),
    }


def watch(model, few, unseen, marks, peak, seed):
    """{step: right answers in %} of one run at a constant rate."""
    torch.manual_seed(seed)
    optimizer, found, step = torch.optim.AdamW(model.train().parameters(), lr=peak), {}, 0
    while True:
        for chunk in torch.randperm(len(few)).split(32):
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1, (step + 1) / 20)
            images = pretrained.preprocess(data.random_crop(data.random_flip(few.images[chunk])), model)
            training.train_step(model, optimizer, images, few.labels[chunk])
            step += 1
            if step in marks:
                found[step] = round(100 * transfer.share_right(model, unseen), 1)
            if step == marks[-1]:
                return found


def against_steps():
    trained, shapes = pretrained.load("vit-cifar10"), data.shapes()
    unseen = shapes.test.take(600, seed=1)
    for seed in (0, 1, 2):
        few = transfer.few(shapes.train, 64, seed)
        for peak in (2e-3, 5e-4):
            start, fresh = transfer.new_head(trained, 10), transfer.from_scratch(trained, 10, seed)
            for way, model, marks in (("fine-tuning", start, SHORT), ("from scratch", fresh, LONG)):
                print(json.dumps([way, peak, seed, watch(model, few, unseen, marks, peak, seed)]), flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", action="store_true", help="accuracy against steps, in about half an hour")
    if parser.parse_args(argv).steps:
        return against_steps()
    for name, solve in ways().items():
        score = transfer.ten_labels(solve)
        print(
            f'    "{name}": {tuple(round(100 * s, 1) for s in score.shares)},  # {score.seconds:.0f} s',
            flush=True,
        )


if __name__ == "__main__":
    main()
