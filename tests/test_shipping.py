"""A run becomes weights that come with the course, and weights of every age are read again."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vit_edu import data, pretrained, training
from vit_edu.authoring.shipping import ship


def test_a_run_becomes_weights_with_a_card(tmp_path):
    images = data.shapes(train=100, test=50)
    recipe = training.Recipe(
        epochs=1,
        batch_size=20,
        learning_rate=1e-3,
        model={"stem": ((8, 2),), "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
    )
    trained = training.build_model(recipe, images)
    training.fit(trained, images, recipe, out=tmp_path / "run")
    card = ship(tmp_path / "run", "tiny", images, "shapes", folder=tmp_path)
    model = pretrained.read_weights(tmp_path / "tiny.safetensors")
    x = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(model(x), trained.eval()(x), atol=5e-3, rtol=5e-3)
    found = training.evaluate(trained, data.batches(images.test, 50, images.mean, images.std))
    assert f"Test accuracy: {found:.2%} of 50 images" in card
    assert "; stored in half precision (float16): " in card or "it would be in half precision" in card
    held_out = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])["val_accuracy"]
    assert f"Held-out accuracy at the end: {held_out:.2%} of 10 images (standard error" in card
    counts = [int(n) for line in card.split("```")[1].splitlines() for n in line.split()[1:]]
    assert sum(counts) == 50
    other = dataclasses.replace(images, classes=("a", "b"))
    with pytest.raises(training.CheckpointError, match="knows the classes circle"):
        ship(tmp_path / "run", "tiny", other, folder=tmp_path)


SHIPPED = pretrained.SHIPPED / "vit-cifar10.safetensors"


def with_model(path, **changes):
    """The shipped weights in another file, with other arguments for the model. None removes one."""
    with safe_open(SHIPPED, "pt") as file:
        about = json.loads(file.metadata()["vit_edu"])
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    about["model"] = {k: v for k, v in (about["model"] | changes).items() if v is not None}
    save_file(weights, path, {"vit_edu": json.dumps(about)})
    return path


@pytest.mark.parametrize("kind", ["vit", None])
def test_a_file_may_name_its_kind(tmp_path, kind):
    model = pretrained.load(with_model(tmp_path / "w.safetensors", kind=kind))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), pretrained.load("vit-cifar10")(x))
    assert model.pretrained_cfg["model"]["kind"] == "vit"
    # Only a plain ViT can be changed for other images
    assert pretrained.load(tmp_path / "w.safetensors", img_size=48)(torch.rand(1, 3, 48, 48)).shape == (1, 10)


def test_the_kind_of_an_old_hybrid_is_seen_by_its_stem():
    model = pretrained.load("vit-cifar10-hybrid")
    assert model.pretrained_cfg["model"]["kind"] == "hybrid"
    with pytest.raises(pretrained.WeightsError, match="HybridViT can only be loaded unchanged"):
        pretrained.load("vit-cifar10-hybrid", img_size=48)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"kind": "perceiver"}, "no model of kind 'perceiver'; there are vit"), ({"experts": 8}, "experts")],
)
def test_a_model_of_tomorrow_is_named(tmp_path, changes, says):
    path = with_model(tmp_path / "w.safetensors", **changes)
    with pytest.raises(pretrained.WeightsError, match=rf"cannot build \(.*{says}.*\)\. If a newer version"):
        pretrained.load(path)
