"""Learning without labels: targets that images give by themselves, and the tasks that use them."""

import dataclasses
import itertools
import math
import re

import pytest
import torch
from runs import require_resumes, train

from vit_edu import cli, data, plot, pretrained, selfsupervised, training
from vit_edu.models import Contrastive, DenseViT, ViT, make_model
from vit_edu.models.vit import patchify

SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}

# ---------------------------------------------------------------- targets


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_turned_four_times(channels):
    images = torch.randn(3, channels, 4, 4)
    turned, labels = selfsupervised.rotate_batch(images)
    assert turned.shape == (12, channels, 4, 4)
    assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert labels.dtype == torch.int64
    for i in range(12):
        expected = images[i % 3]
        for _ in range(labels[i]):  # a quarter counter-clockwise: the last column becomes the first row
            expected = torch.stack([expected[:, :, 3 - row] for row in range(4)], dim=1)
        assert torch.equal(turned[i], expected)


def test_only_squares_are_turned():
    with pytest.raises(
        ValueError, match=r"6 x 4 pixels out of one of 4 x 6.* Crop or resize the images to squares"
    ):
        selfsupervised.rotate_batch(torch.zeros(2, 3, 4, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_colours_are_those_of_each_pixel(dtype):
    images = torch.rand(2, 3, 4, 6, dtype=dtype)
    before = images.clone()
    grey, targets = selfsupervised.colour_targets(images, 2)
    assert grey.shape == images.shape
    assert targets.shape == (2, 6, 8)
    assert grey.dtype == targets.dtype == dtype
    for b in range(2):
        for y in range(4):
            for x in range(6):
                red, green, blue = images[b, :, y, x].tolist()
                luma = 0.299 * red + 0.587 * green + 0.114 * blue
                assert grey[b, :, y, x].tolist() == pytest.approx([luma] * 3, rel=1e-5)
                patch, inside = y // 2 * 3 + x // 2, 2 * (y % 2 * 2 + x % 2)
                found = targets[b, patch, inside : inside + 2].tolist()
                assert found == pytest.approx([red - luma, blue - luma], abs=1e-6)
    assert torch.equal(images, before)
    # Nothing of what is grey remains to be predicted
    assert selfsupervised.colour_targets(grey, 2)[1].abs().max() < 1e-6
    assert torch.equal(patchify(grey, 2)[..., 0], patchify(grey, 2)[..., 1])


def test_grey_images_have_no_colours():
    with pytest.raises(ValueError, match=r"these have 1\. Grey images have no colours to learn from"):
        selfsupervised.colour_targets(torch.rand(2, 1, 8, 8), 4)
    with pytest.raises(ValueError, match="multiples of 4"):
        selfsupervised.colour_targets(torch.rand(2, 3, 6, 8), 4)


# ---------------------------------------------------------------- the loss of two views


def test_each_view_looks_for_the_other():
    first, second = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=-1)
    views, losses = [*first, *second], []
    for i in range(10):
        others = {j: torch.exp(views[i] @ views[j] / 0.3) for j in range(10) if j != i}
        losses.append(-torch.log(others[(i + 5) % 10] / sum(others.values())).item())
    found = selfsupervised.contrastive_loss(first, second, 0.3)
    assert found.item() == pytest.approx(sum(losses) / 10, rel=1e-5)
    assert selfsupervised.contrastive_loss(first, first, 0.01) < found
    alike = torch.ones(5, 8) / 8**0.5
    assert selfsupervised.contrastive_loss(alike, alike, 0.3).item() == pytest.approx(math.log(9), rel=1e-5)


def test_the_loss_of_two_views_is_in_float32_under_autocast():
    first, second = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=-1)
    exact = selfsupervised.contrastive_loss(first, second, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selfsupervised.contrastive_loss(first, second, 0.1), exact)


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_every_patch_has_an_answer(pool):
    sizes = SIZES | {"img_size": (16, 24), "global_pool": pool}
    dense = DenseViT(num_classes=7, **sizes)
    images = torch.randn(2, 3, 16, 24)
    assert dense(images).shape == (2, 24, 7)
    assert DenseViT(num_classes=0, **sizes)(images).shape == (2, 24, 16)
    if pool == "avg":  # the mean of a linear head's answers is its answer to the mean
        vit = ViT(num_classes=7, **sizes)
        vit.load_state_dict(dense.state_dict())
        torch.testing.assert_close(dense(images).mean(dim=1), vit(images))
    with pytest.raises(ValueError, match="need every token at its place: leave `tokens` out"):
        training.TokenDropout(dense)


def test_projections_have_length_one_in_float32():
    model = Contrastive(projector_dim=12, **SIZES)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(torch.randn(3, 3, 16, 16))
    assert found.shape == (3, 12)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    with pytest.raises(ValueError, match="has no head for 10 numbers"):
        Contrastive(num_classes=10, **SIZES)


@pytest.mark.parametrize(
    ("model", "extra"), [(Contrastive(**SIZES), {"projector.0.weight"}), (DenseViT(**SIZES), set())]
)
def test_muon_gets_the_matrices_inside(model, extra):
    inner = {id(value) for value in training.optim.inner_matrices(model)}
    names = {name.removeprefix("encoder.") for name, v in model.named_parameters() if id(v) in inner}
    inside = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    blocks = {f"blocks.{i}.{part}.weight" for i in range(2) for part in inside}
    assert names == blocks | {"patch_embed.proj.weight"} | extra
    assert len(training.optim.branch_ends(model)) == 2 * 2


KINDS = {
    "masked": {"decoder_dim": 8},
    "contrastive": {"projector_hidden": 8, "projector_dim": 8},
    "dense": {"global_pool": "avg"},
    "vit": {},
    "cnn": None,
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_remains(kind):
    arguments = {"kind": kind}
    if kind != "cnn":
        arguments |= (
            {k: v for k, v in SIZES.items() if k != "img_size"} | KINDS[kind] | {"pos_embed": "sincos"}
        )
    outputs = 0 if kind in ("masked", "contrastive") else 4
    model = make_model(arguments, (3, 16, 16), outputs).eval()
    encoder, rest = selfsupervised.encoder_of(model, arguments, (3, 16, 16))
    images = torch.randn(2, 3, 16, 16)
    found = encoder(images)
    assert rest["kind"] == ("cnn" if kind == "cnn" else "vit")
    with_head = make_model(rest, (3, 16, 16), 10).eval()
    missing, unexpected = with_head.load_state_dict(selfsupervised.encoder_weights(model), strict=False)
    assert set(missing) == {"head.weight", "head.bias"}
    assert not unexpected
    torch.testing.assert_close(with_head.head(found), with_head(images))
    torch.testing.assert_close(with_head.head(found), answer(model, with_head, images))


def answer(model, vit, images):
    """What a head says to the features of a model that has another."""
    part = getattr(model, "encoder", model)
    part.head = vit.head
    found = part(images)
    return found.mean(dim=1) if isinstance(part, DenseViT) else found


# ---------------------------------------------------------------- the tasks


TASKS = ("rotation", "colour", "contrastive")


@pytest.fixture(scope="module")
def images():
    return data.shapes(train=120, test=40)


def tiny(name, **changes):
    fast = training.RECIPES[f"fast-{name}"]
    changes = {"epochs": 1, "batch_size": 16, "optimizer": "muon", "zero_init": True} | changes
    return dataclasses.replace(fast, **changes)


@pytest.mark.parametrize("task", TASKS)
def test_a_run_resumes_is_evaluated_and_leaves_its_encoder(images, task, tmp_path, capsys):
    recipe = tiny(task, epochs=2, average=0.5)
    whole, history = require_resumes(images, recipe, tmp_path)
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path), "--data", "shapes"]) == 0
    assert re.search(
        r"test (accuracy|error of colours|views found) [\d.]+%? of 2,000", capsys.readouterr().out
    )
    curves = plot.learning_curves(history, recipe, classes=10)
    assert "on held-out images" in curves.axes[1].get_title()
    encoder = pretrained.load(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    kept, _ = selfsupervised.encoder_of(whole.eval(), recipe.model, x.shape[1:])
    assert torch.equal(encoder(x), kept(x))
    assert "trained without labels" in encoder.pretrained_cfg["notes"][0]
    assert pretrained.load(tmp_path, num_classes=3)(x).shape == (2, 3)


@pytest.mark.parametrize("task", ["rotation", "colour"])
def test_a_run_learns_what_is_up(task):
    # Pictures that are brighter at the top, where they are bluer, too, each with a pattern of its own
    light = torch.linspace(1, 0, 32)[:, None] * torch.tensor([0.5, 0.7, 1.0])[:, None, None]  # (3, 32, 1)
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand(200, 1, 4, 4, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    pictures = (255 * light * (0.5 + 0.5 * pattern)).to(torch.uint8)
    split = data.Split(pictures, torch.zeros(200, dtype=torch.int64))
    many = data.Data.measured(split, split.take(10), ("picture",), "shapes", "for a test")
    recipe = tiny(
        task, epochs=4, learning_rate=5e-3, crop=0, flip=False, batch_size=10, cpu_bf16=True, average=0.5
    )
    _, history = train(many, recipe)
    if task == "rotation":
        assert history[-1]["val_accuracy"] > 0.9
    else:
        assert history[-1]["val_error_of_colours"] < 0.5  # grey has 1


def test_a_run_learns_to_know_images_again():
    recipe = tiny("contrastive", epochs=2, batch_size=64, cpu_bf16=True)
    _, history = train(data.shapes(train=640, test=1), recipe)
    assert history[-1]["val_views_found"] > 0.1  # guessing gives 1 of 64
    assert history[-1]["loss"] < history[0]["loss"] < math.log(127)


@pytest.mark.parametrize("task", TASKS)
def test_the_score_is_the_same_each_time(images, task):
    recipe = tiny(task)
    model = training.build_model(recipe, images).train()
    job = training.make_task(recipe, images)
    batches = [(torch.randn(n, 3, 32, 32), None) for n in (20, 20, 3)]
    first = job.score(model, batches)
    state = torch.get_rng_state()
    assert job.score(model, batches) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    with pytest.raises(ValueError, match="nothing to evaluate on"):
        job.score(model, [])


def test_scores_of_models_that_know_nothing_and_everything(images):
    task = training.make_task(tiny("colour"), images)
    batches = list(data.batches(images.test, 16, images.mean, images.std))
    colours = iter(
        selfsupervised.colour_targets(split.images.float() / 255, 8)[1] for split in chunks(images.test, 16)
    )
    grey = torch.nn.Module()
    grey.forward = lambda x: torch.zeros(len(x), 16, 128)
    knows = torch.nn.Module()
    knows.forward = lambda x: next(colours)
    assert task.score(grey, batches) == pytest.approx(1)
    assert task.score(knows, batches) == pytest.approx(0, abs=1e-6)
    assert task.loss(grey, *task.prepare(*batches[0])).item() == pytest.approx(1, abs=0.5)
    task = training.make_task(tiny("contrastive"), images)
    same = torch.nn.Module()
    same.forward = lambda x: torch.nn.functional.normalize(x.flatten(1)[:, :1] * 0 + 1, dim=1)
    assert task.score(same, batches) == 1 / 40  # the first of those that are all alike


def chunks(split, size):
    return (split.pick(slice(i, i + size)) for i in range(0, len(split), size))


def test_what_a_model_sees(images):
    x, labels = torch.randn(6, 3, 32, 32), torch.arange(6)
    turned, turns = training.make_task(tiny("rotation"), images).prepare(x, labels)
    assert torch.equal(turned, selfsupervised.rotate_batch(x)[0])
    assert turns.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    x = data.normalize(images.train.images[:6], images.mean, images.std)
    grey, colours = training.make_task(tiny("colour"), images).prepare(x, labels)
    shown = data.denormalize(grey, images.mean, images.std)
    torch.testing.assert_close(shown[:, 0], shown[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(shown[:, 0], shown[:, 2], atol=1e-5, rtol=0)
    again = patchify(shown[:, ::2], 8) + colours  # red and blue
    torch.testing.assert_close(
        again, patchify(images.train.images[:6, ::2].float() / 255, 8), atol=1e-5, rtol=0
    )
    first, second = training.make_task(tiny("contrastive"), images).prepare(x, labels)
    assert first.shape == second.shape == x.shape
    assert not torch.equal(first, second)


@pytest.mark.parametrize("task", TASKS)
def test_a_compiled_step_takes_the_same_step(images, task):
    recipe = tiny(task, max_images=32)
    plain, _ = train(images, recipe)
    lazy, _ = train(images, recipe, compiler="eager")
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(lazy.state_dict()[name], value, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("task", ["rotation", "contrastive"])
def test_fewer_tokens_at_first(images, task):
    seen = []
    recipe = tiny(task, tokens=((0.5, 0.25),), max_images=64)
    model = training.build_model(recipe, images)
    blocks = getattr(model, "encoder", model).blocks
    blocks[0].register_forward_pre_hook(
        lambda block, x: seen.append(x[0].shape[1]) if model.training else None
    )
    training.fit(model, images, recipe)
    assert [tokens for tokens, _ in itertools.groupby(seen)] == [4, 16]


@pytest.mark.parametrize(
    ("task", "changes", "says"),
    [
        ("rotation", {"label_smoothing": 0.1, "cutmix": 1.0}, "leave label_smoothing, cutmix out"),
        ("colour", {"tokens": ((0.5, 0.5),), "cutout": 4}, "leave cutout, tokens out"),
        ("colour", {"model": {"patch_size": 8}}, "needs a model of kind \"dense\", got 'vit'"),
        ("contrastive", {"mixup": 1.0, "distort": 1.0}, "leave mixup, distort out"),
        ("contrastive", {"model": {"kind": "dense"}}, "needs a model of kind \"contrastive\", got 'dense'"),
        ("contrastive", {"batch_size": 1}, "batch_size of at least 2"),
        ("contrastive", {"task": "classification"}, "has no head for 10 numbers"),
    ],
)
def test_recipes_that_make_no_sense(images, task, changes, says):
    with pytest.raises(ValueError, match=says):
        training.build_model(tiny(task, **changes), images)


def test_images_that_a_task_cannot_use(images):
    def changed(change):
        parts = {
            name: dataclasses.replace(split, images=change(split.images))
            for name, split in (("train", images.train), ("test", images.test))
        }
        return data.Data.measured(parts["train"], parts["test"], images.classes, "shapes", "for a test")

    with pytest.raises(ValueError, match="32 x 24 pixels out of one of 24 x 32"):
        training.build_model(tiny("rotation"), changed(lambda x: x[:, :, :24]))
    with pytest.raises(ValueError, match="and these have 1"):
        training.build_model(tiny("colour"), changed(lambda x: x[:, :1]))
    with pytest.raises(ValueError, match="they are grey, and have no colours to learn from"):
        training.build_model(tiny("colour"), changed(lambda x: x[:, :1].expand(-1, 3, -1, -1)))
