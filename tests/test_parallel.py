"""Several ranks through torchrun, with gloo on the CPU: equal weights, one clock, and nothing lost when a rank is killed."""

import dataclasses
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

from vit_edu import data, training
from vit_edu.training import Recipe, parallel

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="torch without gloo and torchrun"
)

MODEL = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
TINY = Recipe(
    epochs=2, batch_size=32, learning_rate=2e-3, optimizer="muon", crop=2, label_smoothing=0.1, model=MODEL
)
RECIPES = {
    "even": dataclasses.replace(TINY, average=0.9, cutmix=1.0, zero_init=True),
    "uneven": dataclasses.replace(TINY, batch_size=31, optimizer="adamw"),
    # The score draws random numbers, and only the first rank computes it
    "drawn": dataclasses.replace(TINY, task="drawn"),
    "turned": dataclasses.replace(TINY, epochs=1, batch_size=8, label_smoothing=0.0, task="rotation"),
    "coloured": dataclasses.replace(
        TINY, epochs=1, label_smoothing=0.0, task="colour", model=MODEL | {"kind": "dense"}
    ),
    # Views are compared with those of the same rank
    "compared": dataclasses.replace(
        TINY, epochs=1, label_smoothing=0.0, task="contrastive", model=MODEL | {"kind": "contrastive"}
    ),
    "long": dataclasses.replace(TINY, epochs=400),
}

SHORT = [name for name in RECIPES if name != "long"]


class Drawn(training.Classification):
    """Labels of pictures that are noisy, in training and where the score is measured."""

    def prepare(self, images, targets):
        return super().prepare(images + 0.1 * torch.randn(images.shape), targets)

    def score(self, model, batches):
        return super().score(model, ((x + 0.1 * torch.randn(x.shape), y) for x, y in batches))


training.TASKS["drawn"] = Drawn


def images():
    return data.shapes(train=200, test=20)


def torchrun(*arguments, ranks=2, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    }
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def alone(recipe, out=None):
    model = training.build_model(recipe, images())
    return model, training.fit(model, images(), recipe, out=out)


def work(folder):
    """What each of the `two_ranks` does: short recipes, a run in minutes with clocks that differ, and one with too few images."""
    with parallel.group() as ranks:
        for name in SHORT:
            recipe = RECIPES[name]
            model = training.build_model(recipe, images())
            history = training.fit(model, images(), recipe)
            torch.save((model.state_dict(), history), Path(folder) / f"{name}-{ranks.rank}.pt")
            torch.save(torch.get_rng_state(), Path(folder) / f"{name}-rng-{ranks.rank}.pt")
        ticks = itertools.count(step=1 + 9 * ranks.rank)  # the clock of rank 1 runs ten times as fast
        minutes = dataclasses.replace(TINY, epochs=None, minutes=1.0)
        model = training.build_model(minutes, images())
        history = training.fit(model, images(), minutes, clock=lambda: next(ticks))
        torch.save((model.state_dict(), history), Path(folder) / f"minutes-{ranks.rank}.pt")
        for name, problem in PROBLEMS.items():
            with pytest.raises(OURS) as told:
                problem(ranks, Path(folder))
            text = f"{type(told.value).__name__}: {told.value}"
            (Path(folder) / f"{name}-{ranks.rank}.txt").write_text(text, encoding="utf-8")
        group = weakref.ref(torch.distributed.group.WORLD)
    assert group() is None  # or its threads would outlive Python, which aborts now and then


def few_images(ranks, folder):
    fit_tiny(images(), max_images=1, batch_size=1)


def other_images(ranks, folder):
    fit_tiny(images() if ranks.first else data.shapes(train=150, test=20))


def only_one_sees_the_checkpoint(ranks, folder):
    mine = folder / f"of-{ranks.rank}"
    if ranks.first:
        model = training.build_model(TINY, images())
        training.Run(model, TINY, images()).save(mine)
        state = training.read_checkpoint(mine / "checkpoint.pt")
        torch.save(state | {"history": [{"epoch": 1, "seconds": 1.0}]}, mine / "checkpoint.pt")
    fit_tiny(images(), out=mine)


def a_damaged_checkpoint(ranks, folder):
    mine = folder / f"damaged-{ranks.rank}"
    mine.mkdir()
    if not ranks.first:
        (mine / "checkpoint.pt").write_bytes(b"damaged")
    fit_tiny(images(), out=mine)


def no_data(ranks, folder):
    def load():
        assert ranks.first  # the others do not begin
        raise data.DataError("there is no network")

    ranks.first_then_others(load)


def divergence(ranks, folder):
    fit_tiny(images(), learning_rate=1e3)


def lazy_divergence(ranks, folder):
    """The line of the progress bar, which only the first rank has, shows the loss after every step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Bar, "update", lambda self, n: True)
        fit_tiny(images(), compiler="eager", learning_rate=1e3)


OURS = (parallel.ParallelError, training.CheckpointError, training.Diverged, data.DataError)
PROBLEMS = {
    each.__name__: each
    for each in (
        few_images,
        other_images,
        only_one_sees_the_checkpoint,
        a_damaged_checkpoint,
        no_data,
        divergence,
        lazy_divergence,
    )
}


def fit_tiny(images, out=None, compiler=None, **changes):
    recipe = dataclasses.replace(TINY, **changes)
    training.fit(training.build_model(recipe, images), images, recipe, out=out, compiler=compiler)


def run_long(out):
    """A rank that writes down its process, for the test that kills one."""
    with parallel.group() as ranks:
        (Path(out) / f"rank-{ranks.rank}.pid").write_text(str(os.getpid()), encoding="utf-8")
        recipe = RECIPES["long"]
        training.fit(training.build_model(recipe, images()), images(), recipe, out=out)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    started = torchrun(__file__, "work", folder)
    said, _ = started.communicate(timeout=120)
    assert started.returncode == 0, said
    return folder


@pytest.mark.parametrize("name", ["even", "uneven", "turned", "coloured"])
def test_two_ranks_end_with_the_weights_of_one(two_ranks, name):
    (first, history), (second, same) = (torch.load(two_ranks / f"{name}-{rank}.pt") for rank in (0, 1))
    assert history == same
    model, expected = alone(RECIPES[name])
    for key, value in model.state_dict().items():
        assert torch.equal(first[key], second[key])
        if not key.endswith("qkv.bias"):  # the keys' bias has no gradient but rounding, which AdamW enlarges
            torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(expected, history, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        key = training.TASKS[RECIPES[name].task].key
        assert mine[key] == pytest.approx(theirs[key], abs=1e-4)


@pytest.mark.parametrize("name", SHORT)
def test_ranks_keep_drawing_the_same_numbers(two_ranks, name):
    """Each rank augments the whole batch, and takes its share of it: with other numbers, of another batch."""
    first, second = (torch.load(two_ranks / f"{name}-rng-{rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second)


def test_the_clock_of_the_first_rank_decides_for_all(two_ranks):
    (first, history), (second, same) = (torch.load(two_ranks / f"minutes-{rank}.pt") for rank in (0, 1))
    assert history == same
    assert 60 <= history[-1]["seconds"] < 64
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (few_images, "ParallelError: a batch of 1 images leaves 1 of 2 ranks without any"),
        (other_images, "ParallelError: images: 180 on rank 0, 135 on rank 1. All ranks need the same images"),
        (only_one_sees_the_checkpoint, "ParallelError: epochs so far: 1 on rank 0, 0 on rank 1."),
        (a_damaged_checkpoint, "damaged-1/checkpoint.pt cannot be read as a checkpoint"),
        (no_data, "DataError: there is no network"),
        (divergence, "Diverged: the loss became "),
        (lazy_divergence, "Diverged: the loss became "),
    ],
)
def test_all_ranks_hear_of_a_problem(two_ranks, problem, says):
    first, second = (
        (two_ranks / f"{problem.__name__}-{rank}.txt").read_text(encoding="utf-8") for rank in (0, 1)
    )
    assert says in first
    assert first == second


def test_a_rank_that_hangs_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_EDU_PATIENCE", "0.2")
    started = torchrun(__file__, "run_long", tmp_path)
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "checkpoint.pt").exists():
            assert started.poll() is None, started.communicate()[0]
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.05)
        other = int((tmp_path / "rank-1.pid").read_text(encoding="utf-8"))
        os.kill(other, signal.SIGSTOP)
        said = next((line for line in started.stdout if "has not answered for 0.2 minutes" in line), "")
        os.kill(other, signal.SIGCONT)
        started.communicate(timeout=100)
    finally:
        started.kill()
    assert "ParallelError" in said
    assert started.returncode != 0


def test_a_killed_rank_ends_the_run_which_goes_on_with_another_number_of_ranks(tmp_path):
    started = torchrun(__file__, "run_long", tmp_path)
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "checkpoint.pt").exists():
            assert started.poll() is None, started.communicate()[0]
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.05)
        os.kill(int((tmp_path / "rank-1.pid").read_text(encoding="utf-8")), signal.SIGKILL)
        said, _ = started.communicate(timeout=100)
    finally:
        started.kill()
    assert started.returncode != 0
    assert "Signal 9" in said or "-9" in said
    _, state = training.load_run(tmp_path)
    done = len(state["history"])
    assert 1 <= done < RECIPES["long"].epochs, said

    def stop(history):
        if len(history) == done + 2:
            raise KeyboardInterrupt

    recipe = RECIPES["long"]
    model = training.build_model(recipe, images())
    history = training.fit(model, images(), recipe, out=tmp_path, on_epoch=stop)
    assert len(history) == done + 2
    # ... and the other way round: two ranks resume what one process has written
    code = (
        "from vit_edu import data, training; from vit_edu.training import parallel; import sys; "
        "sys.path.insert(0, sys.argv[1]); from test_parallel import RECIPES, images\n"
        "with parallel.group() as ranks:\n"
        "    def stop(history):\n"
        "        open(sys.argv[3], 'w').write(str(len(history)))\n"
        "        raise SystemExit\n"
        "    recipe = RECIPES['long']\n"
        "    training.fit(training.build_model(recipe, images()), images(), recipe, sys.argv[2], on_epoch=stop)\n"
    )
    (tmp_path / "again.py").write_text(code, encoding="utf-8")
    again = torchrun(tmp_path / "again.py", Path(__file__).parent, tmp_path, tmp_path / "epochs.txt")
    said, _ = again.communicate(timeout=100)
    assert (tmp_path / "epochs.txt").read_text(encoding="utf-8") == str(done + 3), said


def test_a_port_in_use_is_an_error(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(parallel.ParallelError, match=r"port of 127.0.0.1:\d+ is in use.*--standalone"),
            parallel.group(),
        ):
            pass


def test_without_torchrun_nothing_changes():
    with parallel.group() as ranks:
        assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
        assert not torch.distributed.is_initialized()


def test_train_with_torchrun_says_everything_once(tmp_path):
    started = torchrun(
        "-m", "vit_edu", "train", "--recipe", "fast", "--data", "shapes", "--out", tmp_path / "run"
    )
    said, _ = started.communicate(timeout=120)
    assert started.returncode == 0, said
    assert said.count("Recipe fast") == said.count("held-out accuracy") == 1
    assert "On 2 x cpu" in said
    assert len(training.load_run(tmp_path / "run")[1]["history"]) == 2


if __name__ == "__main__":
    {"work": work, "run_long": run_long}[sys.argv[1]](sys.argv[2])
