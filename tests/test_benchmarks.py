"""The benchmarks run end to end in toy size, and their tables have the rows that they promise. No time is asserted."""

import dataclasses
import functools
import json

import pytest
import torch
from wanted import library

from benchmarks import (
    beyond,
    conversion,
    cpu_bf16,
    disk_to_step,
    inductive_bias,
    inside,
    measure,
    mixers,
    peers,
    pieces,
    scaling,
    self_supervision,
    temperature,
    ten_labels,
    time_to_accuracy,
    windows,
)
from vit_edu import data, pretrained, training, transfer
from vit_edu.models.vit import ViT, sincos_positions


def rows(file):
    """{first cell: other cells} of all tables in a Markdown file."""
    lines = [n for n in file.read_text(encoding="utf-8").splitlines() if n.startswith("| ")]
    cells = [[c.strip() for c in n.strip("|").split("|")] for n in lines]
    return {first: others for first, *others in cells}


@pytest.fixture
def few_shapes(monkeypatch):
    """`data.load` draws shapes, and few of them."""
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    monkeypatch.setitem(data.choice.GENERATED, "shapes", functools.partial(data.shapes, 600, 100))
    measure.images_of.cache_clear()
    yield
    measure.images_of.cache_clear()


def conditions(file, command):
    """What every table has to say about its measurement."""
    text = file.read_text(encoding="utf-8")
    for word in (
        f"torch {torch.__version__.split('+')[0]}",
        "cores",
        "load of the machine",
        command,
    ):
        assert word in text


# ---------------------------------------------------------------- shared


def test_jobs_are_timed_in_turn():
    calls = []
    jobs = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = measure.in_turn(jobs, rounds=5, repeats=2, warmups=1)
    assert {name: len(found) for name, found in seconds.items()} == {"a": 5, "b": 5, "c": 5}
    assert calls[:3] == ["a", "b", "c"]  # warm-up
    turns = [calls[i : i + 6] for i in range(3, len(calls), 6)]
    assert len(turns) == 5
    for turn in turns:
        assert turn[::2] == turn[1::2]  # repeats come together
        assert sorted(turn[::2]) == ["a", "b", "c"]
    assert len({tuple(turn) for turn in turns}) > 1  # in another order


def test_a_section_replaces_its_older_self_alone(tmp_path):
    measure.write(tmp_path, "speed", "CPU", "first")
    measure.write(tmp_path, "speed", "CUDA", "second")
    measure.write(tmp_path, "speed", "CPU", "third")
    assert (tmp_path / "speed.md").read_text(encoding="utf-8") == (
        "# speed\n\n## CPU\n\nthird\n\n## CUDA\n\nsecond\n"
    )
    assert [f.name for f in tmp_path.iterdir()] == ["speed.md"]


# ---------------------------------------------------------------- peers


@pytest.fixture
def small(monkeypatch):
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    monkeypatch.setattr(peers, "SIZE", size)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_peers(tmp_path, monkeypatch, how):
    library("timm").create_model  # noqa: B018 - skips the test where there is no timm
    compiled = []

    def compile(model, dynamic):
        compiled.append(dynamic)
        return model

    monkeypatch.setattr(torch, "compile", compile)  # it takes a minute per model
    options = ["--batch", "2", "--rounds", "2", "--out", str(tmp_path)]
    peers.main(options + ["--compiled"] * (how == "compiled"))
    file = tmp_path / "peers.md"
    found = rows(file)
    assert set(found) - {"model", "---"} == {
        "ours",
        "timm",
        "torchvision",
        "transformers",
        "vit-pytorch",
    }
    assert len({found[name][0] for name in found if name not in ("model", "---", "vit-pytorch")}) == 1
    assert found["ours"][2] == found["ours"][4] == "1.000 (1.000)"
    assert compiled == [False] * 5 * (how == "compiled")
    assert f"## CPU, float32, {how}" in file.read_text(encoding="utf-8")
    assert file.read_text(encoding="utf-8").count("fastest peer") == 2
    conditions(file, "python benchmarks/peers.py --batch 2")


@pytest.mark.usefixtures("small")
def test_peers_of_another_size_are_refused():
    library("timm").create_model  # noqa: B018 - skips the test where there is no timm
    found = peers.models()
    assert "vit-pytorch" in peers.check_sizes(found)
    found["timm"].blocks[0].mlp = torch.nn.Identity()
    with pytest.raises(AssertionError, match="timm"):
        peers.check_sizes(found)


# ---------------------------------------------------------------- disk to step


@pytest.fixture
def small_batches(monkeypatch):
    recipe = dataclasses.replace(disk_to_step.RECIPE, batch_size=16)
    monkeypatch.setattr(disk_to_step, "RECIPE", recipe)


@pytest.mark.usefixtures("small_batches")
def test_disk_to_step(tmp_path):
    options = ["--images", "50", "--workers", "0", "1", "--rounds", "1", "--out", str(tmp_path)]
    disk_to_step.main(options)
    file = tmp_path / "disk_to_step.md"
    found = rows(file)
    assert found["images/s, from disk"] == [
        "ours",
        "usual, 0 workers",
        "usual, 1 workers",
        "ours / fastest usual",
    ]
    for row in (
        "no step: the pipeline alone",
        "with steps on 25% of the tokens",
        "with steps on 50% of the tokens",
        "with steps on 100% of the tokens",
        "whole recipe (computed)",
        "reading the folder",
        "making one batch",
        "one step alone, 100% of the tokens",
    ):
        assert row in found
    conditions(file, "python benchmarks/disk_to_step.py --images 50")


@pytest.mark.usefixtures("small_batches")
def test_both_ways_give_batches_of_one_kind(tmp_path):
    published = disk_to_step.CIFAR10.train_list
    measure.write_folder(tmp_path, 50)
    cpu = torch.device("cpu")
    with measure.trusted(tmp_path):
        ours, usual = disk_to_step.Ours(cpu), disk_to_step.Usual(cpu, tmp_path, 0)
        assert ours.data.kind == "cifar10"
        assert torch.equal(ours.data.train.images[3], pixels(usual.loader.dataset.data[3]))
        for a, b in zip(ours, usual, strict=True):
            for mine, theirs in zip(a, b, strict=True):
                assert mine.shape == theirs.shape
                assert mine.dtype == theirs.dtype == torch.float32
            for _, targets in (a, b):
                assert torch.allclose(targets.sum(1), torch.ones(len(targets)))
    assert disk_to_step.CIFAR10.train_list is published


def pixels(image):
    return torch.from_numpy(image).permute(2, 0, 1)


# ---------------------------------------------------------------- scaling


def test_exponent():
    sizes = [1, 2, 5, 9]
    assert scaling.exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)


def test_multiplications():
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 6, "depth": 2, "num_heads": 2}
    T, D = 5, 6  # four patches and the class token
    products = 3 * T * D * D + T * D * D + 2 * T * D * 4 * D  # qkv, proj, MLP
    assert scaling.multiplications(size) == (4 * 48 * D + 2 * products, 2 * (T * T * D + T * T * D))


def test_scaling(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "BASE", scaling.BASE | {"embed_dim": 8, "depth": 1})
    small = {
        "img_size": ((8, 16, 32), {"depth": 2}, 2),
        "patch_size": ((16, 8, 4), {}, 2),
        "depth": ((1, 8), {"embed_dim": 64}, 32),
        "embed_dim": ((8, 16, 32), {}, 2),
    }
    monkeypatch.setattr(scaling, "SWEEPS", small)
    monkeypatch.setattr(scaling, "MEMORY", scaling.MEMORY[2:3])
    monkeypatch.setattr(scaling, "IMAGES", 640)
    scaling.main(["--rounds", "1", "--seconds", "1", "--out", str(tmp_path)])
    file = tmp_path / "scaling.md"
    found = rows(file)
    assert all(title in found for _, _, title, _ in scaling.TIMED)
    assert found["step, tokens by image size"][0] == "5, 17, 65"
    assert found["step, tokens by patch size"][0] == "5, 17, 65"
    assert found["step, depth"][0] == "1, 8"
    assert [found[row][4] for row in ("MLP alone, tokens", "attention alone, tokens")] == ["1", "2"]
    assert found["depth"][0] == "1, 8"
    less, more = found["depth"][1].split(", ")  # MB
    assert float(more) > 2 * float(less) > 0
    assert "GB**, under 2 GB" in file.read_text(encoding="utf-8")
    conditions(file, "python benchmarks/scaling.py --rounds 1")


# ---------------------------------------------------------------- conversion.py


def test_conversion(tmp_path):
    library("timm").create_model  # noqa: B018 - skips the test where there is no timm
    conversion.main(["--libraries", "torchvision", "--rounds", "1", f"--out={tmp_path}"])
    file = tmp_path / "conversion.md"
    assert file.read_text(encoding="utf-8").count("| torchvision | ") == 3
    *_, from_state, from_file = (float(n) for n in rows(file)["torchvision"])
    assert from_state > 1.9  # the state dict and the model
    assert from_file > 0.9
    conditions(file, "python benchmarks/conversion.py --libraries torchvision --rounds 1")


# ---------------------------------------------------------------- bf16 on a CPU


def test_cpu_bf16(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "has_bf16", lambda device: True)  # torch computes it anywhere
    cpu_bf16.main(["--batch", "2", "--rounds", "1", f"--out={tmp_path}"])
    file = tmp_path / "cpu_bf16.md"
    found = rows(file)
    assert found["recipe"][2:] == ["float32, ms", "bf16, fused, ms", "bf16, ms", "float32 / bf16"]
    assert set(cpu_bf16.RECIPES) < set(found)
    text = file.read_text(encoding="utf-8")
    assert [text.count(f"| laptop | 2 | {share} |") for share in ("25%", "50%", "100%")] == [1] * 3
    conditions(file, "python benchmarks/cpu_bf16.py --batch 2")


def test_cpu_bf16_needs_a_cpu_that_has_it(monkeypatch, capsys):
    monkeypatch.setattr(training, "has_bf16", lambda device: False)
    with pytest.raises(SystemExit):
        cpu_bf16.main([])
    assert "AVX-512 BF16 or AMX" in capsys.readouterr().err


# ---------------------------------------------------------------- accuracy


def test_every_target_has_a_recipe_and_one_command_runs_them(few_shapes, tmp_path, monkeypatch, capsys):
    """The command that is meant for a GPU, end to end in toy size, on whatever hardware is here."""
    folders = [f"--{name}={tmp_path / name}" for name in ("runs", "logs", "out")]
    time_to_accuracy.main(["--gpu", "laptop", "--toy", "--seeds", "3", "--copy=drawn", *folders])
    found = rows(tmp_path / "out" / "time_to_accuracy.md")
    assert set(found) == {"recipe", "---", "laptop", "gpu", "gpu-long", "gpu-hybrid"}
    assert found["gpu-hybrid"][2].startswith("convolutional stem")
    assert "- laptop: drawn." in (tmp_path / "out" / "time_to_accuracy.md").read_text(encoding="utf-8")
    first, history, last = training.read_log(tmp_path / "logs" / "gpu-3.jsonl")
    assert (first["recipe"], first["seed"], first["settings"]["cutmix"]) == ("gpu", 3, 1.0)
    assert history[-1]["seconds"] >= 60 * time_to_accuracy.TOY["minutes"]
    assert f"{100 * last['test_accuracy']:.2f}" == found["gpu"][4]
    monkeypatch.setattr(training.logs, "LOGS", tmp_path / "logs")
    assert training.logged_runs("gpu", first["classes"]) == [history]
    assert training.logged_runs("gpu", ("cat", "dog")) == []
    assert set(time_to_accuracy.TARGETS) <= set(training.RECIPES)


def test_one_core_counts_its_own_time(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    folders = [f"--{name}={tmp_path / name}" for name in ("runs", "logs", "out")]
    time_to_accuracy.main(["laptop", "--toy", "--one-core", "--seeds=0", *folders])
    log = tmp_path / "logs" / "laptop-0.jsonl"
    before = log.stat().st_mtime_ns
    time_to_accuracy.main(["laptop", "--toy", "--one-core", "--seeds=0", *folders])
    assert log.stat().st_mtime_ns == before  # the log is there, so it is not run again
    assert rows(tmp_path / "out" / "time_to_accuracy.md")["laptop"][0] == "1 CPU core"
    conditions(
        tmp_path / "out" / "time_to_accuracy.md",
        "python benchmarks/time_to_accuracy.py laptop --seeds 0 --one-core",
    )


def test_an_unknown_recipe_is_named(capsys):
    with pytest.raises(SystemExit):
        time_to_accuracy.main(["desktop"])
    assert "no target for desktop" in capsys.readouterr().err


def test_pieces_are_taken_out_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    asked = ["the recipe, whole", "no positions"]
    arguments = ["--minutes=0.01", "--seeds=0", "--jobs=2", f"--out={tmp_path}"]
    arguments += [f"--runs={tmp_path / 'runs'}", f"--log={tmp_path / 'pieces.jsonl'}"]
    arguments += ["--pieces", *asked]
    pieces.main(arguments)
    assert list(rows(tmp_path / "pieces.md")) == ["what is changed", "---", *asked]
    before = rows(tmp_path / "pieces.md")
    pieces.main(arguments)  # the logs are there, so nothing is run again
    assert before == rows(tmp_path / "pieces.md")
    pieces.main([*arguments[:-2], "mimetic initialisation"])  # joins them
    assert list(rows(tmp_path / "pieces.md").items())[:4] == list(before.items())
    assert list(rows(tmp_path / "pieces.md"))[4:] == ["mimetic initialisation"]
    monkeypatch.setattr(training.logs, "LOGS", tmp_path)
    first, found = training.logged_pieces()
    assert first["settings"]["minutes"] == 0.01
    for piece, values in found.items():
        assert f"{100 * values[0]:.1f}" == rows(tmp_path / "pieces.md")[piece][0]


def log_of(file):
    """(The first line of a log of entries, the entries.)"""
    first, *entries = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return first, entries


def test_every_experiment_on_inductive_bias_keeps_the_entries_of_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    monkeypatch.setattr(measure, "HELD_OUT", 100)
    monkeypatch.setattr(inductive_bias, "SHARES", (0.1,))
    arguments = ["--minutes=0.002", "--images=128", "--seeds=0", "--jobs=1", f"--out={tmp_path}"]
    arguments += [f"--runs={tmp_path / 'runs'}", f"--log={tmp_path / 'log.jsonl'}"]
    inductive_bias.main(["data", "--only=plain", *arguments])
    inductive_bias.main(["compute", "--only=CNN-small", *arguments])
    monkeypatch.setattr(training.logs, "LOGS", tmp_path)
    first, entries = training.logged_entries("log")
    assert set(first["conditions"]) == {"data", "compute"}
    assert [e["equal"] for e in entries] == ["images", "minutes", "images"]
    plain, _, small = entries
    assert plain["labels"] == pytest.approx(0.1 * (len(data.load().train) - 100), rel=0.05)
    assert plain["images"] == 128 * plain["settings"]["epochs"] * (plain["labels"] // 128)
    assert small["settings"]["model"]["widths"] == [16, 32, 48]
    found = rows(tmp_path / "inductive_bias.md")
    assert found["small CNN"][2] == f"{100 * small['accuracy']:.1f}"
    assert found["small CNN"][-1] == f"{small['parameters']:,}"


def test_a_token_mixer_is_judged_with_its_patches_shuffled_too(few_shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "HELD_OUT", 100)
    arguments = ["--minutes=0.002", "--images=1", "--seeds=0", "--jobs=1", f"--out={tmp_path}"]
    arguments += [f"--runs={tmp_path / 'runs'}", f"--log={tmp_path / 'log.jsonl'}"]
    mixers.main(["mixers", "--only=none-avg", *arguments])
    mixers.main(["questions", "--only=nowhere-images", *arguments])
    mixers.main(["shuffled", "--only=mlp", *arguments])
    _, entries = log_of(tmp_path / "log.jsonl")
    found = [(e["experiment"], e["mixer"], e["positions"], e["head"], e["shuffled"]) for e in entries]
    assert found == [
        ("mixers", "none", True, "avg", False),
        ("mixers", "none", True, "avg", False),
        ("questions", "attention", False, "avg", False),
        ("questions", "attention", False, "token", False),
        ("questions", "mlp", False, "avg", False),
        ("questions", "mlp", False, "token", False),
        ("shuffled", "mlp", True, "avg", False),
        ("shuffled", "mlp", True, "avg", True),
    ]
    without_places = entries[2]
    assert without_places["accuracy"] == without_places["accuracy, patches shuffled"]
    tables = rows(tmp_path / "mixers.md")
    assert tables["mlp, trained on shuffled patches"][1] == f"{100 * entries[-1]['accuracy']:.1f}"


def test_a_remedy_is_judged_by_shifts_too_and_a_teacher_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    monkeypatch.setattr(measure, "HELD_OUT", 100)
    arguments = ["--minutes=0.002", "--seeds=0", "--jobs=1", f"--out={tmp_path}"]
    arguments += [f"--runs={tmp_path / 'runs'}", f"--log={tmp_path / 'log.jsonl'}"]
    inductive_bias.main(["data", "--only=CNN-1.0-0-minutes", *arguments])  # the teacher
    inductive_bias.main(["remedies", "--only=distillation", *arguments])
    _, entries = log_of(tmp_path / "log.jsonl")
    assert [set(e["agreement"]) for e in entries] == 2 * [{str(s) for s in inductive_bias.SHIFTS}]
    assert entries[1]["family"] == "distillation from the CNN"


def test_pretraining_is_followed_by_a_probe_and_by_fine_tuning(tmp_path, monkeypatch):
    few = data.shapes(train=600, test=50)
    monkeypatch.setattr(measure, "images_of", lambda source: few)
    methods = ("masked", "contrastive", "untrained", "scratch, longer", "supervised")
    monkeypatch.setattr(self_supervision, "LABELS", methods)
    monkeypatch.setattr(self_supervision, "SHARES", (0.1, 1.0))
    arguments = ["--minutes=0.002", "--fine-tuning=0.001", "--seeds=0", "--jobs=1", f"--out={tmp_path}"]
    arguments += [f"--runs={tmp_path / 'runs'}", f"--log={tmp_path / 'log.jsonl'}"]
    self_supervision.main(["labels", *arguments])
    _, entries = log_of(tmp_path / "log.jsonl")
    assert [e["method"] for e in entries[::2]] == list(methods)
    assert [e["labels"] for e in entries[:2]] == [60, 600]
    for entry in entries:
        pretext = entry["method"] in self_supervision.PRETEXT
        assert (entry["images"] is not None) == (entry["pretext score"] is not None) == pretext
        assert (entry["probe accuracy"] is None) == entry["method"].startswith("scratch")
        assert (entry["accuracy"] is None) == (entry["method"] == "untrained")
    # Nothing is repeated, not even where another experiment needs it
    monkeypatch.setattr(measure, "trained", None)
    self_supervision.main(["labels", "--only=masked-0", *arguments])
    again = self_supervision.run(("ratios", "masked", 0, (0.002, 0.001), None, tmp_path / "runs/0.002-0.001"))
    assert [e["probe accuracy"] for e in again] == [e["probe accuracy"] for e in entries[:2]]
    assert [e["accuracy"] for e in again] == [None, None]
    conditions(tmp_path / "self_supervision.md", "python benchmarks/self_supervision.py labels")


def test_rotation_is_judged_without_its_trace_too(tmp_path, monkeypatch):
    few = data.shapes(train=200, test=40)
    monkeypatch.setattr(measure, "images_of", lambda source: few)
    monkeypatch.setattr(self_supervision, "SHARES", (0.1,))
    arguments = ["--minutes=0.001", "--seeds=0", "--jobs=1", f"--out={tmp_path}", "--only=black"]
    arguments += [f"--runs={tmp_path / 'runs'}", f"--log={tmp_path / 'log.jsonl'}"]
    self_supervision.main(["shortcuts", *arguments])
    _, [entry] = log_of(tmp_path / "log.jsonl")
    assert entry["trace"] == "a black line"
    assert 0 <= entry["pretext score, without the trace"] <= 1
    assert len(rows(tmp_path / "self_supervision.md")["a black line"]) == 5


def test_the_black_line_is_where_the_lower_edge_was():
    split = data.shapes(train=8, test=1).train
    assert torch.equal(self_supervision.traced(split, "none").images, split.images)
    found = self_supervision.traced(split, "a black line").images
    assert not found[:, :, -1].any()
    assert torch.equal(found[:, :, :-1], split.images[:, :, :-1])


def test_positions_are_compared_with_their_mirror_images(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_EDU_DATA", "shapes")
    arguments = ["--minutes=0.002", "--seeds=0", "--jobs=1", f"--out={tmp_path}"]
    arguments += [f"--runs={tmp_path / 'runs'}", f"--log={tmp_path / 'log.jsonl'}"]
    inside.main(["mirror", "--only=flipped", *arguments])
    inside.main(["belief", "--images=8", *arguments])
    first, entries = log_of(tmp_path / "log.jsonl")
    assert set(first["conditions"]) == {"mirror", "belief"}
    assert {e["experiment"] for e in entries} == {"mirror", "belief"}
    assert "rollout" in rows(tmp_path / "inside.md")


def test_similarities_of_positions_that_are_mirror_images():
    row, col = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    folded = torch.stack([row, row**2, (col - 3.5) ** 2, (col - 3.5).abs()], dim=-1).reshape(1, 64, 4)
    found = inside.similarities(folded, (8, 8))
    assert found["left-right"] == pytest.approx(1, abs=1e-5)
    assert found["top-bottom"] < 0.5
    assert found["tile"][2][1] == found["tile"][2][6] == 1


def test_what_the_conditions_do_to_images():
    images = torch.arange(2 * 3 * 32 * 32).remainder(251).to(torch.uint8).view(2, 3, 32, 32)
    assert torch.equal(inside.turned(images)[..., 0], images[:, :, 0].flip(-1))  # the top row is on the left
    for change in (inside.permuted, inside.patches_permuted):
        changed = change(images)
        assert not torch.equal(changed, images)
        assert torch.equal(changed.flatten(2).sort().values, images.flatten(2).sort().values)
    ramp = inside.brighter_to_the_right(torch.full_like(images, 250))
    assert ramp[0, 0, 0, 0] == 100
    assert ramp[0, 0, 0, -1] == 250
    flipped = inside.upside_down(images)
    assert all(torch.equal(f, i) or torch.equal(f, i.flip(1)) for f, i in zip(flipped, images, strict=True))


def test_temperatures_have_a_cell_for_each_rate_and_a_number_for_each_seed(tmp_path):
    temperature.main(["--steps", "1", "--seeds", "0", "--out", str(tmp_path)])
    found = rows(tmp_path / "temperature.md")
    for name in temperature.VARIANTS:
        assert len(found[name]) == 3
        assert all(0 <= float(cell) <= 100 for cell in found[name])
    conditions(tmp_path / "temperature.md", "python benchmarks/temperature.py --steps 1")
    images, labels = temperature.where_is_it(5)
    assert torch.equal(images.flatten(1).argmax(1), labels)


@torch.no_grad()
def test_mimetic_initialisation_is_near_the_identity():
    model = ViT(embed_dim=64, num_heads=2, depth=2, global_pool="avg")
    pieces.mimetic(model)
    attn = model.blocks[1].attn
    queries, keys, values = attn.qkv.weight.chunk(3)
    for head in (slice(0, 32), slice(32, 64)):
        product = queries[head].T @ keys[head]  # of rank 32, so less than 0.7 on the diagonal
        assert 0.4 < product.diag().mean() < 0.7
        assert (product - torch.diag(product.diag())).abs().mean() < 0.1
    product = values.T @ attn.proj.weight.T  # what a token hands on to one that looks at it alone
    assert -0.45 < product.diag().mean() < -0.35
    assert torch.equal(model.pos_embed[0], sincos_positions(8, 8, 64))


def test_coverage_counts_parity_and_refusals(capsys):
    pytest.importorskip("timm")
    from benchmarks import coverage

    names = "deit_tiny_patch16_224|xsmall_patch16_clip|relpos_small_patch16_224|tiny_r_s16_p8_224$"
    counts = coverage.main(["--only", f"^vit_({names})|^deit_tiny_patch16_224"])
    assert counts["names"]["model"] == counts["names"]["config"] == {"parity": 2, "refused": 2}
    assert counts["tags"]["bare"]["parity"] == 2
    assert "RelPosBlock, a different architecture" in capsys.readouterr().out


@torch.no_grad()
def test_rotary_scores_know_only_differences_of_places():
    model = ViT(embed_dim=64, num_heads=2, depth=1, global_pool="avg", pos_embed="none")
    plain = model.blocks[0].attn
    pieces.rotary(model)
    attn = model.blocks[0].attn
    query, key = (torch.randn(32).expand(1, 1, 64, 32) for _ in range(2))
    scores = (attn.turn(query) @ attn.turn(key).mT).reshape(8, 8, 8, 8)
    close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-4)
    close(scores[:-2, :-3, :-2, :-3], scores[2:, 3:, 2:, 3:])
    assert (scores[3, 3, 3, 4] - scores[3, 3, 4, 3]).abs() > 0.01  # a row is not a column
    close(scores[0, 0, 0, 0], query[0, 0, 0] @ key[0, 0, 0])
    token = torch.randn(1, 1, 64).expand(1, 64, 64)  # all values are alike, so no weight changes their mean
    close(attn(token), plain(token))


def test_the_logs_that_ship_are_whole():
    for path in training.LOGS.glob("*-[0-9]*.jsonl"):
        first, history, last = training.read_log(path)
        recipe = training.Recipe.from_dict(first["settings"])
        assert path.stem == f"{first['recipe']}-{recipe.seed}"
        assert [entry["epoch"] for entry in history] == list(range(1, len(history) + 1))
        assert history[-1]["seconds"] >= 60 * recipe.minutes
        assert 0.1 < last["test_accuracy"] < 1


# ---------------------------------------------------------------- beyond classification


def test_every_variant_of_lesson_11_has_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setattr(beyond, "SCENES", {"train": 300, "test": 60, "seed": 0})
    monkeypatch.setattr(beyond, "CLIPS", {"train": 300, "test": 60, "seed": 0, "motion": "both"})
    arguments = ["--minutes=0.003", "--seeds=1", "--jobs=1", f"--out={tmp_path}"]
    arguments += [f"--runs={tmp_path / 'runs'}", f"--log={tmp_path / 'log.jsonl'}"]
    wanted = {
        "segmentation": ("linear, skip", "--only=skip"),
        "detection": ("queries, fixed assignment", "--only=fixed"),
        "transfer": ("detection, vit-cifar10-mae", "--only=detection, vit-cifar10-mae"),
        "video": ("one frame", "--only=one"),
    }
    for experiment, (_, only) in wanted.items():
        beyond.main([experiment, only, *arguments])
    about, entries = log_of(tmp_path / "log.jsonl")
    assert [(e["experiment"], e["what"]) for e in entries] == [(k, v[0]) for k, v in wanted.items()]
    assert all(e["seconds"] >= 0.18 and 0 <= e["score"] <= 1 and e["curve"] for e in entries)
    nothing, no_model = about["trivial"]["segmentation"], about["trivial"]["detection"]
    assert nothing["all background"] == pytest.approx(nothing["all background, pixels"] / 5)
    finer = [nothing[f"one class for each patch of {size}"] for size in (8, 4, 2)]
    assert finer == sorted(finer)
    assert 0 <= no_model["the mean box, commonest class"] < 0.1
    assert len(entries[0]["ious"]) == 5
    assert entries[1]["found"] <= entries[1]["located"]
    table = rows(tmp_path / "beyond.md")
    assert table["one frame"][0] == f"{100 * entries[-1]['score']:.1f}"
    conditions(tmp_path / "beyond.md", "python benchmarks/beyond.py video")


# ---------------------------------------------------------------- windows


def test_windows_against_full_attention(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "PIXELS", (16, 48))
    monkeypatch.setattr(windows, "TOKENS", 16)
    windows.main(["--rounds=1", f"--out={tmp_path}"])
    found = rows(tmp_path / "windows.md")
    assert list(found)[2:] == [
        "16 px, windows of 4",
        "48 px, windows of 4",
    ]  # 12 x 12 tokens are no windows of 8
    one, nine = list(found.values())[2:]
    assert (one[0], one[-1], nine[0]) == ("16", "1.00", "144")
    D, N = windows.width_and_heads()[0], 144
    assert nine[-1] == f"{(2 * D + N) / (2 * D + 16):.2f}"
    conditions(tmp_path / "windows.md", "python benchmarks/windows.py --rounds=1")


def test_where_a_ratio_passes_one():
    assert windows.crossing((16, 64, 256), (0.5, 0.5, 2)) == "about 128"
    assert windows.crossing((16, 64), (1, 2)) == "16 or fewer"
    assert windows.crossing((16, 64), (0.5, 0.9)) == "more than 64"


# ---------------------------------------------------------------- ten_labels


def test_other_colours_are_the_same_channels_or_their_inverse():
    images = data.shapes(train=20, test=1).train.images
    torch.manual_seed(0)
    changed = ten_labels.recoloured(images)
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, images)
    for old, new in zip(images, changed, strict=True):
        known = [c.flatten().tolist() for c in (*old, *(255 - old))]
        places = [known.index(c.flatten().tolist()) % 3 for c in new]
        assert sorted(places) == [0, 1, 2]


def test_accuracy_against_steps_stops_at_the_last_mark():
    shapes, trained = data.shapes(train=40, test=10), pretrained.load("vit-cifar10")
    model = transfer.new_head(trained, 10)
    found = ten_labels.watch(model, transfer.few(shapes.train, 2), shapes.test, (1, 2), 1e-3, 0)
    assert list(found) == [1, 2]
    assert all(0 <= share <= 100 for share in found.values())
