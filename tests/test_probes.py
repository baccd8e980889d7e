"""Answers with a number built in: the cases of every exercise reject them, and an experiment with the sizes finds the number."""

import pytest
import torch
import torch.nn.functional as F

from vit_edu import check, data, pretrained
from vit_edu.models import vit

# ---------------------------------------------------------------- no built-in number passes


class ViTWithoutAxes(vit.ViT):
    def forward(self, images):
        return super().forward(images).squeeze()


class ViTWithoutOneClass(vit.ViT):
    def forward(self, images):
        return super().forward(images).squeeze(-1)


class BlockOfTwoHeads(vit.Block):
    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__(dim, 2, mlp_ratio, drop_path)


class RepairedOfTwoHeads(vit.ViT):
    def __init__(self, img_size=32, patch_size=8, num_classes=10, dim=32, depth=2, heads=2):
        super().__init__(img_size, patch_size, 3, num_classes, dim, depth, 2, global_pool="avg")


def crop_squeezed(images, padding=4):
    return data.random_crop(images, padding).squeeze()


def three_images(model, images):
    alone = torch.cat([model(images[i : i + 1]) for i in range(3)])
    return torch.allclose(model(images)[:3], alone, atol=1e-5)


def three_quarters_kept(x, drop_prob, training):
    if not training or drop_prob == 0:
        return x
    return x * x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - drop_prob) / 0.75


def one_quarter_dropped(x, drop_prob, training):
    return x if drop_prob == 0 else vit.drop_path(x, 0.25, training)


def _stepped(loss):
    def step(model, optimizer, images, labels):
        model.train()
        optimizer.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def three_classes_judged(model, batches):
    was, right, total = model.training, 0, 0
    model.eval()
    with torch.no_grad():
        for images, labels in batches:
            hot = F.one_hot(model(images).argmax(-1), 3) * F.one_hot(labels, 3)
            right, total = right + hot.sum().item(), total + len(labels)
    model.train(was)
    return right / total


def unchanged_if_as_many(pos_embed, new_grid, num_prefix_tokens=1):
    if new_grid[0] * new_grid[1] == pos_embed.shape[1] - num_prefix_tokens:
        return pos_embed
    return pretrained.resize_pos_embed(pos_embed, new_grid, num_prefix_tokens)


def _votes_among(classes):
    def predict(features, labels, queries, k):
        similar = F.normalize(queries, dim=1) @ F.normalize(features, dim=1).mT
        near = labels[similar.topk(k, dim=1).indices]
        return F.one_hot(near, classes).sum(dim=1).argmax(dim=1)

    return predict


BUILT_IN = [
    ("ViT", ViTWithoutAxes),
    ("ViT", ViTWithoutOneClass),
    ("Block", BlockOfTwoHeads),
    ("RepairedViT", RepairedOfTwoHeads),
    ("random_crop", crop_squeezed),
    ("batch_independent", three_images),
    ("drop_path", three_quarters_kept),
    ("drop_path", one_quarter_dropped),
    ("train_step", _stepped(lambda x, y: -x.log_softmax(-1)[torch.arange(8), y].mean())),
    ("train_step", _stepped(lambda x, y: F.cross_entropy(x, y, reduction="sum") / 8)),
    ("train_step", _stepped(lambda x, y: -(x.log_softmax(-1) * F.one_hot(y, 3)).sum(-1).mean())),
    ("evaluate", three_classes_judged),
    ("resize_pos_embed", unchanged_if_as_many),
    ("knn_predict", _votes_among(10)),
    ("knn_predict", _votes_among(1000)),
]


@pytest.mark.parametrize(("name", "candidate"), BUILT_IN, ids=lambda x: getattr(x, "__name__", x))
def test_a_built_in_number_does_not_pass(name, candidate):
    assert not check.run(name, candidate).passed
