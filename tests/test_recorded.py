"""Steps that are recorded as a CUDA graph. Without a GPU, a stand-in for the graph calls the step again."""

import contextlib
import dataclasses

import pytest
import torch

from vit_edu import data, training
from vit_edu.training import steps

RECIPE = training.Recipe(
    batch_size=16,
    learning_rate=3e-3,
    epochs=2,
    optimizer="muon",
    zero_init=True,
    average=0.9,
    cutmix=1.0,
    tokens=((0.5, 0.5),),
    model={"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": "avg"},
)
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Again:
    """Stands for a CUDA graph on a CPU: a replay calls the step, with the learning rate in its tensor."""

    count = 0

    def __init__(self, recorded, take_step):
        self.recorded, self.take_step = recorded, take_step

    def replay(self):
        Again.count += 1
        recorded, groups = self.recorded, self.recorded.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = recorded.rate
        recorded.loss = self.take_step(recorded.images, recorded.targets)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate


class OnCPU(steps.RecordedStep):
    def __init__(self, take_step, optimizer, images, targets, form):
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(torch.cuda, "CUDAGraph", lambda: Again(self, take_step))
            patch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
            # recording runs nothing
            super().__init__(lambda images, targets: None, optimizer, images, targets, form)


@pytest.fixture
def recording(monkeypatch):
    """A backend to compile with, where recorded steps work on this machine."""
    Again.count = 0
    if torch.cuda.is_available():
        return "inductor"
    monkeypatch.setattr(steps, "RecordedStep", OnCPU)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return "eager"


def stepped(record, backend, batches, drop_path_rate=0.0):
    """(losses, weights) after a step on each batch, each at another learning rate."""
    device = training.pick_device()
    images = data.shapes(64, 16).to(device)
    recipe = dataclasses.replace(RECIPE, model=RECIPE.model | {"drop_path_rate": drop_path_rate})
    model = training.build_model(recipe, images).to(device)
    optimizer = training.make_optimizer(model, recipe)
    step = training.CompiledStep(model, optimizer, backend=backend, record=record)
    torch.manual_seed(0)
    losses = []
    for i, (x, y) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + i % 3)
        losses.append(step(x.to(device), y.to(device)))
    assert all(isinstance(group["lr"], float) for group in optimizer.param_groups)  # as checkpoints keep it
    return [loss.item() for loss in losses], list(model.parameters()), step


def test_recorded_steps_are_the_same_steps(recording):
    torch.manual_seed(0)
    sizes = [16] * 6 + [8] * 4 + [16] * 4  # every new form is recorded anew
    batches = [(torch.randn(n, 3, 32, 32), torch.randint(10, (n,))) for n in sizes]
    plain, weights, _ = stepped(False, recording, batches)
    recorded, again, step = stepped(True, recording, batches)
    assert recorded == pytest.approx(plain, rel=1e-4 if recording == "eager" else 2e-2)
    for a, b in zip(weights, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 if recording == "eager" else 2e-3)
    assert step.record
    assert step.recorded.form[1][1] == (16, 3, 32, 32)
    if recording == "eager":
        assert (
            Again.count == 4 + 3 + 3
        )  # the first two steps of all, and the first of each later form, are launched


@on_cuda
def test_recorded_steps_draw_new_random_numbers():
    """A recording must not freeze which branches are left out: the same batch has another loss each time."""
    batch = (torch.randn(16, 3, 32, 32), torch.randint(10, (16,)))
    device = training.pick_device()
    model = training.build_model(
        dataclasses.replace(RECIPE, zero_init=False, model=RECIPE.model | {"drop_path_rate": 0.5}),
        data.shapes(64, 16),
    ).to(device)
    optimizer = training.make_optimizer(model, RECIPE)
    step = training.CompiledStep(model, optimizer, record=True)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    losses = [step(*(value.to(device) for value in batch)).item() for _ in range(12)]
    assert step.recorded
    assert len(set(losses[3:])) > 3


@on_cuda
def test_a_whole_run_records_its_steps(tmp_path, capsys):
    images = data.shapes(640, 64).to("cuda")
    model = training.build_model(RECIPE, images).to("cuda")
    history = training.fit(model, images, RECIPE, out=tmp_path)
    assert history[-1]["loss"] < 2.5
    assert "cannot be" not in capsys.readouterr().out


def test_what_cannot_be_recorded_is_launched(recording, monkeypatch, capsys):
    def no_graph(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(steps, "RecordedStep", no_graph)
    torch.manual_seed(0)
    batches = [(torch.randn(16, 3, 32, 32), torch.randint(10, (16,)))] * 5
    losses, _, step = stepped(True, recording, batches)
    assert losses[-1] < losses[0]
    assert not step.record
    assert capsys.readouterr().out.count("cannot be recorded here") == 1


def test_muon_reads_its_rate_from_a_tensor():
    torch.manual_seed(0)
    start, grad = torch.randn(16, 8), torch.randn(16, 8)
    ends = []
    for lr in (0.1, torch.tensor(0.1)):
        value = torch.nn.Parameter(start.clone())
        value.grad = grad.clone()
        optimizer = training.Muon([value], lr=0.1, weight_decay=0.3)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        ends.append(value.detach())
    torch.testing.assert_close(*ends)
