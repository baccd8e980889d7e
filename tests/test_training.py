"""The loop: it learns, it resumes to the same weights, and it says what is wrong."""

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vit_edu import atomic, cli, data, plot, pretrained, training
from vit_edu.authoring import shipping
from vit_edu.models import KINDS, ViT, make_model
from vit_edu.models.vit import Embeddings
from vit_edu.training import Recipe, parallel

TINY = Recipe(
    epochs=3,
    batch_size=16,
    learning_rate=2e-3,
    model={"patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2, "drop_path_rate": 0.2},
)
BF16 = dataclasses.replace(TINY, optimizer="muon", cpu_bf16=True)


@pytest.fixture(scope="module")
def images():
    return data.shapes(train=100, test=40)


def run(images, out=None, on_epoch=None, recipe=TINY):
    model = training.build_model(recipe, images)
    history = training.fit(model, images, recipe, out=out, on_epoch=on_epoch)
    return model, history


@pytest.mark.parametrize("recipe", [TINY, BF16], ids=["float32", "bf16"])
def test_resumed_run_ends_with_the_same_weights(images, tmp_path, recipe):
    def stop(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    whole, history = run(images, recipe=recipe)
    _, cut = run(images, tmp_path, on_epoch=stop, recipe=recipe)
    assert len(cut) == 2
    torch.randn(100)  # it does not matter what happens in between
    resumed, again = run(images, tmp_path, recipe=recipe)
    assert [e["loss"] for e in again] == [e["loss"] for e in history]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len((tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_bf16_on_a_cpu_that_has_it(images):
    if not training.has_bf16("cpu"):
        pytest.skip("this processor has no instructions for bf16, or torch cannot tell")
    _, exact = run(images, recipe=dataclasses.replace(BF16, cpu_bf16=False))
    model, rounded = run(images, recipe=BF16)
    assert all(value.dtype == torch.float32 for value in model.parameters())
    for a, b in zip(exact, rounded, strict=True):
        assert a["loss"] != b["loss"]
        assert math.isclose(a["loss"], b["loss"], rel_tol=0.02)


def test_bf16_is_left_out_on_a_cpu_without_it(images, monkeypatch):
    exact, _ = run(images, recipe=dataclasses.replace(BF16, cpu_bf16=False))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert not training.has_bf16("cpu")
    same, _ = run(images, recipe=BF16)
    for a, b in zip(exact.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)


def test_finished_run_is_not_trained_again(images, tmp_path):
    first, _ = run(images, tmp_path)
    second, history = run(images, tmp_path)
    assert len(history) == 3
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_checkpoint_of_another_recipe_is_refused(images, tmp_path):
    run(images, tmp_path)
    with pytest.raises(training.CheckpointError, match=r"epochs was 3 and is now 5"):
        run(images, tmp_path, recipe=dataclasses.replace(TINY, epochs=5))


def test_a_checkpoint_older_than_a_field_of_the_recipe_goes_on(images, tmp_path):
    run(images, tmp_path)
    state = training.read_checkpoint(tmp_path / "checkpoint.pt")
    del state["recipe"]["mix_prob"]
    torch.save(state, tmp_path / "checkpoint.pt")
    assert len(run(images, tmp_path)[1]) == 3


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("epochs", (0, -2, 1.5, NAN, INF, True, "2")),
        ("minutes", (0, -1.0, NAN, INF, "5")),
        ("batch_size", (0, -8, 2.5, NAN, INF, None)),
        ("learning_rate", (0.0, -1e-3, NAN, INF, "1e-3")),
        ("validation", (-0.1, 1.0, 2, NAN)),
        ("weight_decay", (-0.05, NAN, INF)),
        ("warmup", (-0.1, 1.1, NAN)),
        ("average", (-0.1, 1.0, NAN)),
        ("label_smoothing", (-0.1, 1.0, NAN)),
        ("crop", (-1, 0.5, NAN)),
        ("cutout", (-1, 0.5, INF)),
        ("distort", (-1.0, NAN)),
        ("mixup", (-0.2, INF)),
        ("cutmix", (-1.0, NAN)),
        ("mix_prob", (-0.1, 1.5, NAN)),
        ("max_images", (0, -5, 1.5, INF)),
        ("seed", (0.5, NAN, 2**64, None)),
        ("flip", ("false", None)),
        ("model", (None, "vit")),
        ("tokens", (((0.5, NAN),), (0.5,), ((0, 0.5),), ((0.5, "half"),), None)),
    ],
)
def test_a_recipe_that_makes_no_sense_names_the_field(field, values):
    for value in values:
        other = {"epochs": None} if field == "minutes" else {}
        with pytest.raises(ValueError, match=rf"^{field} "):
            dataclasses.replace(TINY, **other, **{field: value})


def test_minutes_that_make_no_sense_are_told_by_the_command(tmp_path, capsys):
    for words in (["--minutes", "nan"], ["--minutes", "-1"], ["--seed", str(2**64)]):
        assert cli.main(["train", "--data", "shapes", "--out", str(tmp_path / "run"), *words]) == 1
        assert capsys.readouterr().err.startswith(f"vit-edu: {words[0][2:]} is a")
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_other_images(images, tmp_path):
    run(images, tmp_path)
    darker = dataclasses.replace(images, mean=images.mean - 0.01)
    with pytest.raises(training.CheckpointError, match=r"other images. They were shapes \(10 classes"):
        run(darker, tmp_path)
    named = dataclasses.replace(images, kind="cifar10")
    with pytest.raises(training.CheckpointError, match="now they are cifar10"):
        run(named, tmp_path)


def test_a_run_does_not_go_on_with_a_few_other_images(images, tmp_path):
    run(images, tmp_path)
    same = data.Split(images.train.images.clone(), images.train.labels.clone())
    assert len(run(dataclasses.replace(images, train=same), tmp_path)[1]) == 3
    fewer = dataclasses.replace(images, train=images.train.pick(slice(1, None)))
    with pytest.raises(
        training.CheckpointError, match="There were 100 training images, and now there are 99"
    ):
        run(fewer, tmp_path)
    pixel = images.train.images.clone()
    pixel[3, 0, 5, 5] ^= 1
    label = images.train.labels.clone()
    label[3] = (label[3] + 1) % 10
    for other in (
        data.Split(pixel, images.train.labels),
        data.Split(images.train.images, label),
        images.train.pick(torch.arange(99, -1, -1)),
    ):
        with pytest.raises(training.CheckpointError, match="There are 100 as before, but"):
            run(dataclasses.replace(images, train=other), tmp_path)


def test_a_checkpoint_without_a_digest_goes_on(images, tmp_path):
    run(images, tmp_path)
    state = training.read_checkpoint(tmp_path / "checkpoint.pt")
    del state["data"]["digest"], state["data"]["count"]
    torch.save(state, tmp_path / "checkpoint.pt")
    assert len(run(images, tmp_path)[1]) == 3


# ---------------------------------------------------------------- the folder of a run


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(images, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "dead").symlink_to("nowhere/at/all")
    for place in ("file", "file/run", "dead", "x" * 300):
        steps = []
        with pytest.raises(training.CheckpointError, match=r"cannot be written to .* Choose another folder"):
            run(images, tmp_path / place, on_epoch=steps.append)
        assert not steps


def test_a_disk_that_fills_up_during_a_run_is_told(images, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write", full)
    with pytest.raises(training.CheckpointError, match=r"cannot be written \(No space left on device\)"):
        run(images, tmp_path)


HOLDS = """
import sys, torch
from vit_edu import data, training
from vit_edu.training import Recipe
images = data.shapes(train=20, test=10)
recipe = Recipe(epochs=1, batch_size=10, learning_rate=1e-3, model={"patch_size": 16, "embed_dim": 8, "depth": 1, "num_heads": 1})
held = training.Run(training.build_model(recipe, images), recipe, images)
held.resume(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_belongs_to_one_process_until_it_ends_or_is_killed(images, tmp_path):
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            training.CheckpointError, match=r"another process is training in .* Choose another"
        ):
            run(images, tmp_path)
        assert len(run(images, tmp_path / "beside")[1]) == 3
        other.kill()
    assert len(run(images, tmp_path)[1]) == 3


def test_a_process_may_train_again_where_it_was_stopped_and_lets_go_at_the_end(images, tmp_path):
    def stop(history):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError) as kept:  # with its traceback, and so with the run
        run(images, tmp_path, on_epoch=stop)
    assert len(run(images, tmp_path)[1]) == 3
    del kept
    done = subprocess.run(
        [sys.executable, "-c", HOLDS, str(tmp_path)], input="", capture_output=True, text=True
    )
    assert "belongs to another recipe" in done.stderr  # and not to another process


def test_history_is_whole_wherever_the_run_is_killed(images, tmp_path, monkeypatch):
    write = atomic.write

    def dies(path, content):
        write(path, content)
        if path.name == "history.jsonl" and len(content.splitlines()) == 3:
            raise SystemExit

    monkeypatch.setattr(atomic, "write", dies)
    with pytest.raises(SystemExit):
        run(images, tmp_path)
    monkeypatch.undo()
    _, history = run(images, tmp_path)
    lines = (tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [entry["loss"] for entry in history]
    assert len(lines) == 3


def test_stopped_in_the_middle_of_an_epoch_a_run_in_minutes_keeps_its_weights(images, tmp_path):
    recipe = dataclasses.replace(TINY, epochs=None, minutes=10)
    ticks = itertools.count()

    def stops():
        tick = next(ticks)
        if tick == 40:
            raise KeyboardInterrupt
        return tick

    model = training.build_model(recipe, images)
    history = training.fit(model, images, recipe, out=tmp_path, clock=stops)
    loaded, state = training.load_run(tmp_path)
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)
    assert state["history"] == history
    assert 40 <= history[-1]["seconds"] < 60


@pytest.mark.parametrize(
    "length", [{"epochs": 3}, {"epochs": None, "minutes": 10}], ids=["epochs", "minutes"]
)
@pytest.mark.parametrize("look", [1, 10], ids=["at once", "in the second epoch"])
def test_what_the_stop_button_left_is_said(images, tmp_path, capsys, length, look):
    ticks = itertools.count()

    def stops():
        tick = next(ticks)
        if tick == look:
            raise KeyboardInterrupt
        return tick

    recipe = dataclasses.replace(TINY, **length)
    history = training.fit(training.build_model(recipe, images), images, recipe, out=tmp_path, clock=stops)
    said = capsys.readouterr().out
    assert bool(history) == (look > 1)
    assert f"Stopped after {len(history)} epoch{'s' * (len(history) != 1)}; " in said
    assert (tmp_path / "checkpoint.pt").exists() == bool(history) == (str(tmp_path) in said)


def test_damaged_checkpoint_is_refused(images, tmp_path):
    run(images, tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(training.CheckpointError, match="cannot be read"):
        run(images, tmp_path)


def test_a_file_that_is_no_checkpoint_is_named_without_advice_to_trust_or_delete_it(tmp_path):
    for missing in (tmp_path, tmp_path / "run", "vit-cifar10"):
        with pytest.raises(training.CheckpointError, match=r"there is no .*Name the folder") as told:
            training.load_run(missing)
        assert "emove" not in str(told.value)
    weights = pretrained.SHIPPED / "vit-cifar10.safetensors"
    with pytest.raises(training.CheckpointError, match=r"should be the checkpoint\.pt") as told:
        training.load_run(weights)
    assert "weights_only" not in str(told.value)


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def breaks(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic.write(path, breaks)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    old, new = tmp_path / ".file.1.unfinished", tmp_path / ".file.2.unfinished"
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))  # left by a process that was killed long ago
    atomic.write(path, b"new")
    assert {p.name for p in tmp_path.iterdir()} == {"file", new.name}


def test_divergence_stops_with_advice(images):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(1, 10))

        def forward(self, x):
            return self.w * x.mean(dim=(1, 2, 3))[:, None] * float("inf")

    with pytest.raises(training.Diverged, match=r"at step 0, with learning rate .* try a third"):
        training.fit(Broken(), images, TINY)


def test_a_loss_far_above_guessing_stops_too(images):
    recipe = dataclasses.replace(TINY, learning_rate=1e3, optimizer="muon")
    with pytest.raises(
        training.Diverged, match=r"the loss became \d.* \(guessing gives 2\.30\)\. Most often"
    ):
        training.fit(training.build_model(recipe, images), images, recipe)


def test_the_test_images_are_not_touched(images):
    model = training.build_model(TINY, images)
    moved = dataclasses.replace(
        images, test=data.Split(torch.zeros(0, 3, 32, 32), torch.zeros(0, dtype=torch.long))
    )
    assert len(training.fit(model, moved, TINY)) == 3


def test_training_learns():
    images = data.shapes(train=1500, test=200)
    recipe = dataclasses.replace(
        training.RECIPES["laptop"],
        epochs=6,
        minutes=None,
        tokens=(),
        batch_size=32,
        model={"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    )
    model, _ = run(images, recipe=recipe)
    share = training.evaluate(model, data.batches(images.test, 64, images.mean, images.std))
    probabilities = training.predict(model, images.test, images.mean, images.std)
    assert share > 0.2  # guessing is 0.1
    assert share == pytest.approx((probabilities.argmax(1) == images.test.labels).float().mean().item())
    torch.testing.assert_close(probabilities.sum(1), torch.ones(200))


def test_weight_decay_spares_biases_norms_and_positions(images):
    model = training.build_model(TINY, images)
    decayed, spared = training.make_optimizer(model, TINY).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    assert all(names[id(p)].endswith("weight") and "norm" not in names[id(p)] for p in decayed["params"])
    assert {"pos_embed", "cls_token", "norm.weight", "head.bias"} <= {names[id(p)] for p in spared["params"]}
    assert spared["weight_decay"] == 0


def test_cosine_equals_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        ours = training.learning_rate(step, total_steps=50, warmup_steps=0, peak=0.1)
        assert math.isclose(ours, optimizer.param_groups[0]["lr"], rel_tol=1e-6)
        optimizer.step()
        schedule.step()


def test_evaluate_needs_batches(images):
    with pytest.raises(ValueError, match="no batch came"):
        training.evaluate(training.build_model(TINY, images), [])


def test_fast_mode_and_devices_choose_the_recipe(monkeypatch):
    monkeypatch.setenv("VIT_EDU_FAST", "1")
    assert training.pick_recipe("cuda") == "fast"
    monkeypatch.setenv("VIT_EDU_FAST", "0")
    assert (training.pick_recipe("cpu"), training.pick_recipe("cuda:0")) == ("laptop", "gpu")


# ---------------------------------------------------------------- another task, another model


class Brightness(training.Task):
    """How bright is an image? The target is in the picture itself."""

    score_name = "mean error"
    higher_is_better = False
    outputs = 1

    def prepare(self, images, targets):
        return images, images.mean(dim=(1, 2, 3))  # (B,)

    def loss(self, model, images, targets):
        return (model(images)[:, 0] - targets).square().mean()

    def score(self, model, batches):
        with torch.no_grad():
            errors = [(model.eval()(x)[:, 0] - x.mean(dim=(1, 2, 3))).abs() for x, _ in batches]
        return torch.cat(errors).mean().item()


class Linear(torch.nn.Module):
    """A model without blocks, which itself says what Muon takes and what starts at zero."""

    def __init__(self, img_size, in_chans, num_classes):
        super().__init__()
        self.inside = torch.nn.Linear(in_chans * img_size[0] * img_size[1], 8)
        self.outside = torch.nn.Linear(8, num_classes)

    def forward(self, x):
        return self.outside(self.inside(x.flatten(1)))

    def inner_matrices(self):
        return [self.inside.weight]

    def branch_ends(self):
        return [self.outside.weight]


@pytest.fixture
def brightness(monkeypatch):
    monkeypatch.setitem(training.TASKS, "brightness", Brightness)
    monkeypatch.setitem(KINDS, "linear", Linear)
    return dataclasses.replace(
        TINY,
        task="brightness",
        model={"kind": "linear"},
        optimizer="muon",
        zero_init=True,
        learning_rate=1e-3,
    )


def test_a_new_task_needs_no_change_elsewhere(images, tmp_path, capsys, brightness):
    model, history = run(images, tmp_path, recipe=brightness)
    assert model.outside.out_features == 1
    assert history[-1]["val_mean_error"] < history[0]["val_mean_error"]
    assert "val_accuracy" not in history[-1]
    assert ", val 0." in capsys.readouterr().out
    curves = plot.learning_curves(history, brightness, classes=10)
    assert curves.axes[1].get_title() == "Mean error on held-out images"
    assert f"mean error on held-out images {history[-1]['val_mean_error']:.3g}" in plot.finish(curves).alt
    state = training.read_checkpoint(tmp_path / "checkpoint.pt")
    assert Recipe.from_dict(state["recipe"]) == brightness
    with pytest.raises(training.CheckpointError, match="task was brightness and is now classification"):
        run(images, tmp_path, recipe=dataclasses.replace(brightness, task="classification"))


def test_the_run_of_a_task_of_ones_own_is_loaded_and_evaluated(images, tmp_path, capsys, brightness):
    model, _ = run(images, tmp_path, recipe=brightness)
    loaded, state = training.load_run(tmp_path)
    assert (loaded.outside.out_features, state["outputs"]) == (1, 1)
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(loaded(x), model.eval()(x))
    assert pretrained.load(str(tmp_path)).pretrained_cfg["classes"] == ()  # what it answers is no class
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path), "--data", "shapes"]) == 0
    task, score = training.score_test(loaded, state, data.load(source="shapes"))
    assert f"test mean error {task.words(score)} of 2,000 images" in capsys.readouterr().out
    with pytest.raises(
        training.CheckpointError,
        match="learned brightness; only classifiers and encoders of masked patches can be shipped",
    ):
        shipping.ship(tmp_path, "bright", images, folder=tmp_path)


def test_a_checkpoint_of_a_kind_that_is_not_known_is_refused(images, tmp_path, brightness, monkeypatch):
    run(images, tmp_path, recipe=brightness)
    monkeypatch.delitem(KINDS, "linear")
    with pytest.raises(training.CheckpointError, match=r"cannot build .there is no model of kind 'linear'"):
        training.load_run(tmp_path)


def test_a_model_of_clips_is_told_how_many_frames_they_have(monkeypatch):
    class Clips(torch.nn.Module):
        def __init__(self, frames, img_size, in_chans, num_classes):
            super().__init__()
            self.head = torch.nn.Linear(frames * in_chans * math.prod(img_size), num_classes)

        def forward(self, clips):
            return self.head(clips.flatten(1))

    monkeypatch.setitem(KINDS, "clips", Clips)
    recipe = dataclasses.replace(TINY, model={"kind": "clips"})
    model, history = run(data.shapes(train=40, test=10, frames=3), recipe=recipe)
    assert model.head.in_features == 3 * 3 * 32 * 32
    assert len(history) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokens": ((0.5, 0.5),), "zero_init": False}, "a Plain has no `blocks`.* leave `tokens` out"),
        ({"zero_init": True}, "a Plain does not say which weights end its branches.* `branch_ends`"),
        ({"optimizer": "muon", "zero_init": False}, "a Plain has no matrices for Muon.* `inner_matrices`"),
    ],
)
def test_what_a_recipe_asks_of_a_model_that_is_no_vit_is_said(images, monkeypatch, changes, says):
    class Plain(torch.nn.Module):
        def __init__(self, img_size, in_chans, num_classes):
            super().__init__()
            self.head = torch.nn.Linear(in_chans, num_classes)

        def forward(self, x):
            return self.head(x.mean((2, 3)))

    monkeypatch.setitem(KINDS, "plain", Plain)
    recipe = dataclasses.replace(TINY, model={"kind": "plain"})
    assert len(run(images, recipe=recipe)[1]) == 3
    with pytest.raises(ValueError, match=says):
        run(images, recipe=dataclasses.replace(recipe, **changes))


def test_the_model_is_asked_what_muon_takes_and_what_starts_at_zero(images, brightness):
    model = training.build_model(brightness, images)
    assert not model.outside.weight.any()
    assert model.inside.weight.any()
    muon, adamw = training.make_optimizer(model, brightness).optimizers
    assert [p is model.inside.weight for g in muon.param_groups for p in g["params"]] == [True]
    assert len([p for g in adamw.param_groups for p in g["params"]]) == 3


def test_labels_are_learned_from_data_that_know_more(images):
    plain, _ = run(images)
    more, _ = run(data.shapes(train=100, test=40, mask=True, boxes=True))
    for a, b in zip(plain.parameters(), more.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_unknown_task_or_kind_is_refused(images):
    with pytest.raises(ValueError, match="no task 'dreaming'; there are classification"):
        training.build_model(dataclasses.replace(TINY, task="dreaming"), images)
    with pytest.raises(ValueError, match="no model of kind 'rnn'; there are vit, hybrid"):
        training.build_model(dataclasses.replace(TINY, model={"kind": "rnn"}), images)


def test_a_checkpoint_that_used_what_is_gone_is_evaluated_but_not_continued(images, tmp_path, capsys):
    run(images, tmp_path)
    state = training.read_checkpoint(tmp_path / "checkpoint.pt")
    del state["recipe"]["task"], state["outputs"]  # as a file from before there were tasks
    torch.save(state | {"recipe": state["recipe"] | {"clip": 1.0}}, tmp_path / "checkpoint.pt")
    assert cli.main(["evaluate", str(tmp_path), "--data", "shapes"]) == 0
    assert "test accuracy" in capsys.readouterr().out
    with pytest.raises(training.CheckpointError, match=r"cannot be continued: .* got clip=1\.0"):
        run(images, tmp_path)
    with pytest.raises(training.CheckpointError, match=r"cannot be shipped: .* got clip=1\.0"):
        shipping.ship(tmp_path, "clipped", images, folder=tmp_path)
    assert not list(tmp_path.glob("clipped*"))


def test_old_recipes_keep_their_meaning():
    old = dataclasses.asdict(training.RECIPES["laptop-hybrid"])
    del old["task"], old["model"]["kind"]
    old |= {"clip": 0.0}
    assert Recipe.from_dict(old) == training.RECIPES["laptop-hybrid"]
    with pytest.raises(ValueError, match=r"have no field clip, got clip=1\.0"):
        Recipe.from_dict(old | {"clip": 1.0})


def test_a_recipe_says_what_differs_from_the_defaults():
    text = str(dataclasses.replace(TINY, tokens=((0.3, 0.25),), flip=False, crop=2))
    assert text.startswith(
        "3 epochs in batches of 16, learning rate 0.002; tokens 25% until 30% of the run, no flip, crop 2; "
    )
    assert "weight decay" not in text
    assert "zero init" in str(training.RECIPES["laptop"])


# ---------------------------------------------------------------- what faster recipes add

FULL = dataclasses.replace(
    TINY,
    optimizer="muon",
    average=0.9,
    label_smoothing=0.1,
    cutout=4,
    distort=0.5,
    mixup=0.2,
    cutmix=1.0,
    schedule="linear",
    tokens=((0.4, 0.25), (0.8, 0.5)),
)


def test_a_run_with_everything_on_resumes_to_the_same_weights(images, tmp_path):
    def stop(history):
        raise KeyboardInterrupt

    whole, _ = run(images, recipe=FULL)
    _, cut = run(images, tmp_path, on_epoch=stop, recipe=FULL)
    assert len(cut) == 1
    resumed, _ = run(images, tmp_path, recipe=FULL)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    loaded, state = training.load_run(tmp_path)
    for a, b in zip(whole.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)
    assert state["data"]["classes"] == list(images.classes)


def test_the_right_share_of_batches_is_mixed(images):
    recipe = dataclasses.replace(TINY, cutmix=1.0, mix_prob=0.25)
    labels = torch.arange(10)
    batch = labels[:, None, None, None].expand(10, 3, 8, 8).float()
    task = training.make_task(recipe, images)
    torch.manual_seed(0)
    mixed = sum(not torch.equal(task.prepare(batch, labels)[0], batch) for _ in range(400))
    assert 60 < mixed < 120  # 100 expected, less those whose box was empty
    never = training.make_task(dataclasses.replace(recipe, mix_prob=0.0), images)
    assert torch.equal(never.prepare(batch, labels)[0], batch)


def test_muon_gets_the_matrices_of_blocks_and_patches(images):
    model = training.build_model(FULL, images)
    muon, adamw = training.make_optimizer(model, FULL).optimizers
    names = {id(p): n for n, p in model.named_parameters()}
    got = sorted(names[id(p)] for g in muon.param_groups for p in g["params"])
    wanted = ("attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2")
    assert got == [f"blocks.0.{n}.weight" for n in wanted] + ["patch_embed.proj.weight"]
    rest = [names[id(p)] for g in adamw.param_groups for p in g["params"]]
    assert sorted(got + rest) == sorted(names.values())


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from test_training import data, run
from vit_edu import atomic

left = int(sys.argv[3])


class Dies:
    \"\"\"A file that lets this many bytes through before the process is killed.\"\"\"

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        global left
        content = bytes(content)
        if len(content) > left:
            self.file.write(content[:left])
            self.file.flush()
            os.kill(os.getpid(), 9)
        left -= len(content)
        return self.file.write(content)


atomic.open = lambda *arguments: Dies(open(*arguments))
run(data.shapes(train=100, test=40), sys.argv[2])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
def test_killed_in_the_middle_of_a_file_a_run_goes_on(images, tmp_path):
    """kill -9 at a given byte while the history or the checkpoint is being written, in a separate process."""
    whole, _ = run(images)
    for written, ends in ((20, -9), (5_000, -9), (60_000, -9), (10**9, 0)):
        command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path), str(written)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == ends
        left = list(tmp_path.glob(".*.unfinished"))
        assert bool(left) == (ends != 0) or written > 10**6
        if (tmp_path / "checkpoint.pt").exists():
            assert training.read_checkpoint(tmp_path / "checkpoint.pt")["history"]
    resumed, history = run(images, tmp_path)
    assert len(history) == 3
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_budget_in_minutes_ends_with_a_finished_schedule(images, tmp_path):
    ticks = itertools.count()
    recipe = dataclasses.replace(TINY, epochs=None, minutes=0.1)  # 600 ticks of this clock

    def train():
        model = training.build_model(recipe, images)
        return training.fit(model, images, recipe, tmp_path, clock=lambda: next(ticks) / 100)

    history = train()
    assert history[-1]["seconds"] == pytest.approx(6, abs=0.2)
    assert history[-1]["learning_rate"] < 0.01 * recipe.learning_rate
    assert train() == history  # nothing is left of the budget


def test_the_average_is_a_running_mean(images):
    model = training.build_model(TINY, images)
    average = training.Average(model, 0.5)
    value = model.head.bias
    wanted = value.detach().clone()
    for step in range(5):
        with torch.no_grad():
            value.add_(1.0)
        average.update(model)
        stays = min(0.5, (1 + step) / (10 + step))
        wanted = stays * wanted + (1 - stays) * value.detach()
    torch.testing.assert_close(average.model.head.bias, wanted)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"minutes": 1.0}, "either epochs or minutes"),
        ({"epochs": None}, "either epochs or minutes"),
        ({"epochs": 0}, "epochs is a whole number, at least 1, got 0"),
        ({"epochs": None, "minutes": -1.0}, "minutes is a finite number above 0, got -1"),
        ({"batch_size": 0}, "batch_size is a whole number, at least 1, got 0"),
        ({"optimizer": "sgd"}, '"adamw" or "muon"'),
        ({"schedule": "step"}, '"cosine" or "linear"'),
        ({"mix_prob": 1.5}, "share of the batches"),
        ({"tokens": ((0.5, 0),)}, "pairs \\(until, share\\)"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(TINY, **changes)


def test_train_and_evaluate_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VIT_EDU_FAST", "1")
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    out = str(tmp_path / "run")
    arguments = ["train", "--recipe", "fast", "--minutes", "0.01", "--seed", "3", "--out", out]
    assert cli.main(arguments) == 0
    assert "held-out accuracy" in capsys.readouterr().out
    assert cli.main(["evaluate", out]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert cli.main(["train", "--recipe", "fast", "--seed", "4", "--out", out]) == 1
    assert "belongs to another recipe" in capsys.readouterr().err
    assert cli.main(["train", "--recipe", "slow"]) == 1
    assert "there is no recipe 'slow'" in capsys.readouterr().err
    assert cli.main(["evaluate", str(tmp_path)]) == 1


def test_the_stop_key_ends_the_command_of_several_ranks_with_a_sentence(tmp_path, capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", stopped)
    out = str(tmp_path)
    assert cli.main(["train", "--recipe", "fast", "--data", "shapes", "--out", out]) == 130
    assert f"goes on from the last checkpoint in {out}" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
@pytest.mark.parametrize("bf16", [False, True])
def test_muon_equals_torchs(bf16):
    """Torch's works in bf16, and so does ours if asked to. They are equal to about two digits."""
    torch.manual_seed(0)
    shapes = [(48, 16), (16, 16), (16, 16), (16, 48), (48, 16)]
    start = [torch.randn(shape) for shape in shapes]
    grads = [[torch.randn(shape) for shape in shapes] for _ in range(3)]
    ends = []
    for make in (
        lambda p: training.Muon(p, lr=0.1, weight_decay=0.3, bf16=bf16),
        lambda p: torch.optim.Muon(
            p, lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw", momentum=0.95
        ),
    ):
        values = [torch.nn.Parameter(value.clone()) for value in start]
        optimizer = make(values)
        for step in grads:
            for value, grad in zip(values, step, strict=True):
                value.grad = grad.clone()
            optimizer.step()
        ends.append([value - first for value, first in zip(values, start, strict=True)])
    for ours, theirs in zip(*ends, strict=True):
        assert (ours - theirs).norm() < 0.03 * theirs.norm()


def test_muon_takes_a_convolution_as_a_matrix():
    torch.manual_seed(0)
    kernel, grad = torch.randn(8, 3, 4, 4), torch.randn(8, 3, 4, 4)
    values = [torch.nn.Parameter(kernel.clone()), torch.nn.Parameter(kernel.flatten(1).clone())]
    for value in values:
        value.grad = grad.reshape(value.shape).clone()
        training.Muon([value], lr=0.1, weight_decay=0.3).step()
    torch.testing.assert_close(values[0].flatten(1), values[1])
    assert not torch.equal(values[0], kernel)


def test_orthogonalize_brings_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 16, 48), (3, 48, 16), (2, 16, 16)):
        values = torch.linalg.svdvals(training.orthogonalize(torch.randn(shape)))
        assert values.max() < 1.3
        assert values.median() > 0.6


@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_blocks_see_some_of_the_tokens_while_training(global_pool):
    torch.manual_seed(0)
    model = ViT(embed_dim=8, depth=1, num_heads=1, global_pool=global_pool)
    seen = []
    dropout = training.TokenDropout(model)
    model.blocks.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 3, 32, 32)
    prefix = int(global_pool == "token")
    dropout.keep = 0.25
    model(x)
    tokens = Embeddings.forward(model, x)  # (2, T, 8), all of them
    assert seen[-1].shape == (2, 16 + prefix, 8)
    if prefix:
        assert torch.equal(seen[-1][:, 0], tokens[:, 0])
    for image, kept in zip(tokens, seen[-1], strict=True):
        where = (kept[:, None] == image[None]).all(-1).float().argmax(1)
        assert torch.equal(image[where], kept)
        assert len(set(where.tolist())) == 16 + prefix  # none twice
    model.eval()
    model(x)
    assert seen[-1].shape == (2, 64 + prefix, 8)
    model.train()
    dropout.keep = 1.0
    model(x)
    assert seen[-1].shape == (2, 64 + prefix, 8)


def budget_at(recipe, progress):
    """A budget of 100 steps, or of a minute, of which this share is spent."""
    clock = itertools.chain([0.0], itertools.repeat(60.0 * progress))
    budget = training.Budget(recipe, 100 * recipe.batch_size, [], lambda: next(clock), parallel.Alone())
    budget.step = round(100 * progress)
    budget.read_clock()
    return budget


def test_tokens_come_back_as_the_run_goes_on():
    recipe = dataclasses.replace(TINY, epochs=1, tokens=((0.4, 0.25), (0.8, 0.5)))
    shares = [budget_at(recipe, p).share_of_tokens for p in (0, 0.39, 0.4, 0.79, 0.8, 1)]
    assert shares == [0.25, 0.25, 0.5, 0.5, 1, 1]


def test_linear_schedule_ends_at_zero():
    recipe = dataclasses.replace(TINY, epochs=1, schedule="linear", warmup=0.1, learning_rate=1.0)
    rates = [budget_at(recipe, step / 100).rate for step in (0, 9, 10, 55, 99, 100)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.5, 1 / 90, 0.0])
    minutes = dataclasses.replace(recipe, epochs=None, minutes=1.0)
    assert budget_at(minutes, 0.55).rate == pytest.approx(0.5)


def test_compiling_is_left_out_of_the_schedule():
    """Ten seconds of a minute went into compiling, so after thirty seconds 20 of 50 are over."""
    recipe = dataclasses.replace(TINY, epochs=None, minutes=1.0)
    budget = budget_at(recipe, 0.5)
    budget.count_step(compiling=10.0)
    assert budget.progress == pytest.approx(20 / 50)
    assert budget.seconds == 30
    assert not budget.over
    assert budget_at(recipe, 1).over


def test_the_compiled_step_is_the_same_step(images):
    """With torch's eager backend, which needs no compiler. The code around it is what CUDA runs."""
    recipe = dataclasses.replace(TINY, model=TINY.model | {"drop_path_rate": 0.0})
    ends = []
    for compiled in (False, True):
        model = training.build_model(recipe, images)
        optimizer = training.make_optimizer(model, recipe)
        step = training.CompiledStep(model, optimizer, backend="eager")
        x, y = images.train.images[:16].float() / 255, images.train.labels[:16]
        for _ in range(3):
            loss = step(x, y) if compiled else training.train_step(model, optimizer, x, y)
        ends.append((float(loss), *model.parameters()))
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b)


def test_the_lazy_branch_of_the_loop_is_the_same_run(images, tmp_path):
    """The whole branch that CUDA takes: compiled steps, losses that are looked at late, other shares of the tokens, a run that
    is stopped and resumed. With torch's eager backend it runs on any machine, and every loss is that of the plain branch."""
    recipe = dataclasses.replace(FULL, model=TINY.model | {"patch_size": 8, "drop_path_rate": 0.0})

    def stop(history):
        raise KeyboardInterrupt

    def fit(**options):
        model = training.build_model(recipe, images)
        return model, training.fit(model, images, recipe, **options)

    plain, expected = fit()
    lazy, history = fit(compiler="eager")
    _, cut = fit(compiler="eager", out=tmp_path, on_epoch=stop)
    assert len(cut) == 1
    # Lazily, a checkpoint is written only every 30 seconds, and the first is due after the first epoch
    resumed, again = fit(compiler="eager", out=tmp_path)
    for entries in (history, again):
        assert [e["loss"] for e in entries] == pytest.approx([e["loss"] for e in expected], rel=1e-5)
        assert all(0 < e["compiling"] <= e["seconds"] for e in entries)
    for model in (lazy, resumed):
        for a, b in zip(plain.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_the_lazy_branch_stops_at_a_loss_that_has_gone_astray(images):
    recipe = dataclasses.replace(TINY, learning_rate=1e3, optimizer="muon")
    with pytest.raises(
        training.Diverged, match=r"the loss became .* at step \d, with .* \(guessing gives 2\.30\)"
    ):
        training.fit(training.build_model(recipe, images), images, recipe, compiler="eager")


def test_what_cannot_be_compiled_runs_uncompiled(images, capsys):
    def no_compiler(*_):
        raise RuntimeError("Failed to find C compiler")

    model = training.build_model(TINY, images)
    step = training.CompiledStep(model, training.make_optimizer(model, TINY), backend=no_compiler)
    x, y = images.train.images[:16].float() / 255, images.train.labels[:16]
    losses = [float(step(x, y)) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert capsys.readouterr().out.count("cannot be compiled here") == 1


def test_an_error_of_the_optimiser_is_not_taken_for_one_of_the_compiler(images, capsys):
    class Full(torch.optim.SGD):
        def step(self):
            raise RuntimeError("the disk is full")

    model = training.build_model(TINY, images)
    step = training.CompiledStep(model, Full(model.parameters()), backend="eager")
    with pytest.raises(RuntimeError, match="the disk is full"):
        step(images.train.images[:16].float() / 255, images.train.labels[:16])
    assert "cannot be compiled" not in capsys.readouterr().out


def test_each_share_of_the_tokens_is_compiled_once(images):
    """`torch.compile` compiles again whatever changes from step to step; here, only the share of the tokens does."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    recipe = dataclasses.replace(FULL, mix_prob=0.5, model=TINY.model | {"patch_size": 8})
    training.fit(training.build_model(recipe, images), images, recipe, compiler=backend)
    assert len(compiled) == 3  # a quarter, half and all of the tokens


def test_the_loss_is_computed_in_float32():
    """CUDA's autocast gives logits in bf16, in which 1.0 and 1.003 are one number."""
    torch.manual_seed(0)
    logits, labels = torch.randn(64, 10).bfloat16(), torch.randint(10, (64,))
    for targets in (labels, torch.nn.functional.one_hot(labels, 10).float()):
        loss = training.cross_entropy(lambda images: logits, None, targets)
        expected = torch.nn.functional.cross_entropy(
            logits.double(), targets.to(torch.double) if targets.ndim > 1 else targets
        )
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_stem_makes_a_hybrid_that_trains_and_comes_back(images, tmp_path):
    recipe = dataclasses.replace(
        FULL,
        model={"stem": ((8, 2),), "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
    )
    model, _ = run(images, tmp_path, recipe=recipe)
    loaded, _ = training.load_run(tmp_path)
    x = images.test.images[:4].float() / 255
    model.eval()
    assert model.patch_embed(x).shape == (4, 64, 16)
    torch.testing.assert_close(model(x), loaded(x))
    deeper = make_model(recipe.model | {"stem": ((8, 1), (12, 2))}, (3, 32, 32), 10)
    convs = [m for m in deeper.patch_embed.proj if isinstance(m, torch.nn.Conv2d)]
    assert [(m.out_channels, m.stride[0]) for m in convs] == [(8, 1), (12, 2), (16, 2)]
    assert deeper.patch_embed(x).shape == (4, 64, 16)
    with pytest.raises(ValueError, match=r"multiply to 8, and patch_size 4 is not a multiple"):
        make_model(recipe.model | {"stem": ((8, 2), (8, 4))}, (3, 32, 32), 10)


# ---------------------------------------------------------------- functions of the learner's own


def test_their_own_functions_train_in_the_loop(images, tmp_path):
    """The functions of lesson 06, handed to `fit`, are the ones that run, and a resumed run equals an uninterrupted one."""
    called = {"step": 0, "schedule": [], "augment": 0}

    def step(model, optimizer, x, labels):
        called["step"] += 1
        return training.train_step(model, optimizer, x, labels)

    def schedule(step, total_steps, warmup_steps, peak):
        called["schedule"].append((step, total_steps, warmup_steps, peak))
        return peak / (1 + step)

    def darker(x):
        assert x.dtype == torch.uint8
        called["augment"] += 1
        return x // 2

    def stop(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    def one_run(out=None, on_epoch=None):
        model = training.build_model(TINY, images)
        history = training.fit(
            model, images, TINY, out, on_epoch, step=step, schedule=schedule, augment=[darker]
        )
        return model, history

    whole, history = one_run()
    steps = 3 * (95 // 16)
    assert called["step"] == called["augment"] == len(called["schedule"]) == steps
    assert called["schedule"][0] == (0, steps, 1, TINY.learning_rate)
    assert history[-1]["learning_rate"] == TINY.learning_rate / steps
    one_run(tmp_path, stop)
    resumed, _ = one_run(tmp_path)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_our_own_functions_given_as_theirs_change_nothing(images):
    recipe = dataclasses.replace(TINY, crop=0, flip=False)
    model = training.build_model(recipe, images)
    training.fit(model, images, recipe, step=training.train_step, schedule=training.learning_rate)
    same, _ = run(images, recipe=recipe)
    for a, b in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_step_that_returns_no_loss_is_told(images):
    def silent_step(model, optimizer, x, labels):
        training.train_step(model, optimizer, x, labels)

    model = training.build_model(TINY, images)
    with pytest.raises(TypeError, match="silent_step must return the loss as a number, and returned None"):
        training.fit(model, images, TINY, step=silent_step)


def test_their_augmentation_is_refused_where_masks_would_have_to_move():
    scenes = data.shapes(train=20, test=10, mask=True)
    with pytest.raises(ValueError, match="mask would have to move"):
        next(data.batches(scenes.train, 4, scenes.mean, scenes.std, train=True, augment=[torch.flip]))
