"""The exercise engine: what it says about right, wrong and hostile answers, and that nothing escapes from it."""

import builtins
import contextlib
import gc
import logging
import os
import random
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from vit_edu import check, settings
from vit_edu.check import after, guard, report
from vit_edu.check.cases import Case
from vit_edu.check.engine import BY_HAND, Trial

NAMES = check.names()


def test_names_are_unique_and_of_a_lesson():
    assert len(NAMES) == len(set(NAMES)) == sum(len(check.names(lesson)) for lesson in check.LESSONS)
    with pytest.raises(KeyError, match="Did you mean patchify"):
        check.get("patchfy")
    with pytest.raises(KeyError, match="no lesson '99'"):
        check.names("99")


# ---------------------------------------------------------------- the contract of @check.exercise


def test_right_answer_is_handed_on_unwrapped(capsys):
    def count_patches(height, width, patch_size):
        return height * width // patch_size**2

    assert check.exercise(count_patches) is count_patches
    assert "✓ count_patches: right. 4 of 4 checks passed." in capsys.readouterr().out


def test_an_empty_answer_is_not_a_failure(capsys):
    def count_patches(height, width, patch_size):
        raise NotImplementedError("write your answer here")

    assert check.exercise(count_patches)(32, 32, 4) == 64  # the reference
    out = capsys.readouterr().out
    assert "not attempted" in out
    assert "failed" not in out


def test_wrong_answer_reports_everything_and_hands_on_the_reference(capsys):
    def count_patches(height, width, patch_size):
        return 64

    assert check.exercise(count_patches)(48, 16, 4) == 48
    out = capsys.readouterr().out
    assert out.count("✓ passed") == 1
    assert out.count("✗ failed") == 3
    assert "expected 196, got 64" in out
    assert "uses the reference" in out


def test_module_with_an_empty_method_is_not_attempted():
    class Attention(nn.Module):
        def __init__(self, dim, num_heads):
            super().__init__()
            raise NotImplementedError

    assert check.run("Attention", Attention).status == report.EMPTY


def test_module_without_forward_is_wrong_not_empty():
    class Mlp(nn.Module):
        def __init__(self, in_features, hidden_features):
            super().__init__()
            self.fc1 = nn.Linear(in_features, hidden_features)
            self.fc2 = nn.Linear(hidden_features, in_features)

    found = check.run("Mlp", Mlp)
    assert found.status == report.WRONG
    assert "no method called forward" in found.text


class RenamedMlp(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden_features),
            nn.GELU(),
            nn.Linear(hidden_features, in_features),
        )

    def forward(self, x):
        return self.layers(x)


def test_another_layout_is_right_and_is_mentioned():
    found = check.run("Mlp", RenamedMlp)
    assert found.passed, found.text
    assert "layers.0.weight is fc1.weight" in found.note


def test_a_known_mistake_is_named_in_another_layout():
    class Renamed(RenamedMlp):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.layers[1] = nn.ReLU()

    found = check.run("Mlp", Renamed)
    assert "The activation is a ReLU" in found.diagnosis, found.text


def test_parameters_that_do_not_fit_are_listed():
    class Mlp(nn.Module):
        def __init__(self, in_features, hidden_features):
            super().__init__()
            self.first = nn.Linear(in_features, hidden_features, bias=False)
            self.fc2 = nn.Linear(hidden_features, in_features)

        def forward(self, x):
            return self.fc2(nn.functional.gelu(self.first(x)))

    text = check.run("Mlp", Mlp).text
    assert "missing: fc1.weight, shape (10, 7)" in text
    assert "not expected: first.weight, shape (10, 7)" in text
    assert "cannot be given the same weights" in text
    assert "numbers differ" not in text


# ---------------------------------------------------------------- what candidates do


def in_place(images, patch_size):
    images += 1
    return check.get("patchify").reference(images, patch_size)


time_is_up, let_go = threading.Event(), threading.Event()


@pytest.fixture
def own_clock(monkeypatch):
    """No time passes for a candidate until it sets `time_is_up`; then all of its time is used up."""
    time_is_up.clear()
    let_go.clear()
    monkeypatch.setattr(guard, "clock", lambda: float("inf") if time_is_up.is_set() else 0.0)
    yield
    let_go.set()


def endless(images, patch_size):
    time_is_up.set()
    while True:
        pass


def recursive(images, patch_size):
    return recursive(images, patch_size)


def leaves(images, patch_size):
    raise SystemExit(3)


def crashes(images, patch_size):
    return images.reshape(7, 7, 7)


def presses_stop(images, patch_size):
    raise KeyboardInterrupt


def half_done(images, patch_size):
    if patch_size == 2:
        return check.get("patchify").reference(images, patch_size)
    raise NotImplementedError("other sizes")


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no words")


def unspeakable(images, patch_size):
    raise Unspeakable


def catches_everything(images, patch_size):
    time_is_up.set()
    while not let_go.is_set():
        with contextlib.suppress(BaseException):
            let_go.wait(0.1)


HOSTILE = {
    presses_stop: "stopped by hand",
    half_done: "this part still raises NotImplementedError",
    unspeakable: "Unspeakable: (its text cannot be shown)",
    catches_everything: "It goes on running in the background",
    lambda images, patch_size: images.to("meta"): "expected shape",
    lambda images, patch_size: (
        check.get("patchify").reference(images, patch_size).to("meta")
    ): "got one on meta",
    lambda images, patch_size: (
        check.get("patchify").reference(images, patch_size).to_sparse()
    ): "layout torch.sparse",
    in_place: "changes its input in place",
    endless: "no answer within 10 seconds. Is there a loop that never ends?",
    recursive: "keeps calling itself without end",
    leaves: "SystemExit: 3",
    crashes: "return images.reshape(7, 7, 7)",  # the learner's own line
    lambda images, patch_size: None: "got None (is there a return?)",
    lambda images, patch_size: "text": "got a str",
    lambda images, patch_size: (x for x in images): "got a generator",
    lambda images: images: "TypeError",
    lambda images, patch_size: images.double(): "expected shape",
    3: "'int' object is not callable",
}


@pytest.mark.parametrize(("candidate", "says"), HOSTILE.items(), ids=HOSTILE.values())
def test_hostile_candidate_becomes_a_sentence(candidate, says, own_clock):
    found = check.run("patchify", candidate)
    expected = {in_place: report.WRONG, endless: report.SLOW, crashes: report.CRASHED}
    assert found.status == expected.get(candidate, found.status) != report.RIGHT
    assert says in " ".join(found.text.split())
    assert found.diagnosis is None or found.diagnosis.startswith("Your function returned ")


def test_numbers_that_cannot_be_formatted_are_a_sentence():
    assert "got 10,000" in check.run("count_patches", lambda h, w, p: 10**400).checks[0].message
    assert "could not be compared" in check.run("accuracy", lambda logits, labels: 10**400).text


def test_a_whole_number_that_is_nearly_right_is_wrong():
    found = check.run(
        "count_parameters", lambda *a, **k: check.get("count_parameters").reference(*a, **k) - 1
    )
    assert not any(c.passed for c in found.checks)


def test_what_numpy_gives_is_as_good_as_python():
    assert check.run("count_patches", lambda h, w, p: np.int64(h // p) * np.int64(w // p)).passed


def test_cases_survive_a_candidate_that_writes_into_them():
    class Vandal(check.get("ViT").reference):
        def forward(self, images):
            images.zero_()
            return super().forward(images)

    assert not check.run("ViT", Vandal).passed
    assert check.run("ViT", check.get("ViT").reference).passed


def test_global_state_is_restored():
    def rude(images, patch_size):
        torch.manual_seed(99)
        random.seed(99)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
        return check.get("patchify").reference(images, patch_size)

    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    check.run("patchify", rude)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert torch.get_default_device().type == "cpu"


def test_prints_are_passed_on_and_shortened(capsys):
    def count_patches(height, width, patch_size):
        print("x" * 5000)
        return height // patch_size * (width // patch_size)

    check.exercise(count_patches)
    out = capsys.readouterr().out
    assert "Your code printed:" in out
    assert len(out) < 2000


def test_a_learners_text_cannot_break_the_page():
    def evil(height, width, patch_size):
        raise ValueError("<script>alert(1)</script>")

    page = check.run("count_patches", evil)._repr_mimebundle_()["text/html"]
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_detached_result_is_noticed():
    def prepend_class_token(tokens, cls_token):
        return torch.cat([cls_token.detach().expand(len(tokens), -1, -1), tokens], dim=1)

    found = check.run("prepend_class_token", prepend_class_token)
    assert found.checks[0].passed
    assert "cut off from the gradient" in found.text


def test_a_candidate_that_was_left_behind_is_not_called_again(own_clock):
    calls, ended = [], threading.Event()

    def patchify(images, patch_size):
        calls.append(patch_size)
        catches_everything(images, patch_size)
        ended.set()

    assert check.run("patchify", patchify).status == report.SLOW
    left_behind = next(t for t in threading.enumerate() if t.name == "exercise")
    let_go.set()
    left_behind.join(10)
    assert ended.is_set()
    assert len(calls) == 1


def test_a_program_may_end_right_after_an_answer():
    """The thread in which torch computed gradients is still ending then, and the process would be aborted."""
    program = """
import torch
from vit_edu.check import guard
print(guard.limited(lambda: torch.ones(2, requires_grad=True).sum().backward(), 100))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_the_end_of_a_program_waits_for_threads_but_not_for_ever(monkeypatch):
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    monkeypatch.setattr(guard, "_finished", [thread.native_id])
    guard.wait_for_threads(seconds=0.1)
    assert thread.is_alive()
    over.set()
    guard.wait_for_threads(seconds=100)
    assert not thread.is_alive()


# ---------------------------------------------------------------- comparing with known mistakes


@pytest.fixture
def negative():
    """A `Trial` that gives -n in case n of five, and the list of the cases that it was asked for."""
    asked = []

    def opposite(number):
        asked.append(number)
        return -number

    cases = [Case(f"case {n}", lambda candidate, n=n: candidate(n)) for n in range(5)]
    return Trial(check.Exercise(lambda number: number, *cases, name="negative"), opposite, cases), asked


def test_a_mistake_is_run_no_further_than_to_the_first_difference(negative):
    trial, asked = negative
    for _ in range(2):
        assert not trial.gives({0: 0, 1: 1, 2: -2})
        assert asked == [0, 1]
    assert trial.gives({0: 0, 2: -2})
    assert asked == [0, 1, 2]
    assert trial.run().got == [0, -1, -2, -3, -4]
    assert asked == [0, 1, 2, 3, 4]


def test_the_stop_button_does_not_spoil_what_is_known_of_a_mistake(monkeypatch):
    mistake = check.get("pool").mistakes[0]
    monkeypatch.setattr(check.get("pool"), "_observed", {})
    with monkeypatch.context() as patch:
        patch.setattr(guard, "limited", lambda work, seconds: "stopped by hand")
        assert check.get("pool").observations(mistake.build)[0] == BY_HAND
    assert check.run("pool", mistake.build).diagnosis == mistake.diagnosis


# ---------------------------------------------------------------- a worked case, and what is said first


def test_the_smallest_failing_case_is_shown_with_its_numbers():
    text = check.run("patchify", lambda x, p: x.reshape(len(x), -1, p * p * x.shape[1])).text
    assert "given (1, 1, 4, 4): 0 1 2 3 4 5" in text
    assert "   0  1  4  5     0   1   2*  3*" in text


def test_a_large_difference_is_shown_as_a_picture_in_words():
    wrong = check.get("sincos_positions").reference
    found = check.run("sincos_positions", lambda rows, cols, dim: -wrong(rows, cols, dim))
    page = found._repr_mimebundle_()["text/html"]
    assert "<table" in page
    assert "<caption" in page
    found = check.run(
        "sincos_positions",
        lambda rows, cols, dim: wrong(rows, cols, dim) * (1 if rows * cols < 20 else 2),
    )
    page = found._repr_mimebundle_()["text/html"]
    assert "<img alt='expected: 64 rows of 64 numbers" in page


def test_failures_come_first_and_errors_after_wrong_numbers():
    def patchify(images, patch_size):
        if images.shape[1] == 3 and len(images) == 1:
            raise ValueError("three channels")
        return check.get("patchify").reference(images, patch_size) + (images.shape[1] == 5)

    found = check.run("patchify", patchify)
    assert [c.rank for c in found.failed] == sorted(c.rank for c in found.failed)
    assert "numbers differ" in found.failed[0].message
    assert "three channels" in found.failed[-1].message
    assert found.text.index("✗ failed") < found.text.index("✓ passed")


def test_a_broken_session_raises_nothing(monkeypatch):
    exercise = check.get("merge_heads")
    monkeypatch.setattr(exercise, "_observed", {})
    monkeypatch.setattr("vit_edu.models.vit.rearrange", None)
    found = exercise.check(lambda x: x)
    assert found.status == report.UNCHECKED
    assert "restart the kernel" in found.text


def test_something_without_a_name_is_told_where_the_decorator_belongs():
    with pytest.raises(TypeError, match="directly above a `def` or a `class`"):
        check.exercise(3)


# ---------------------------------------------------------------- other layouts


class Separate(nn.Module):
    """Attention with separate linear layers for q, k and v."""

    scale = None

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.to_out = nn.Linear(dim, dim)
        self.keys, self.queries, self.values = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        x = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.to_out(x.transpose(1, 2).flatten(2))


def test_parameters_in_other_pieces_and_another_order_are_right():
    found = check.run("Attention", Separate)
    assert found.passed, found.text
    assert "queries.weight + keys.weight + values.weight is qkv.weight" in found.note


def test_a_wrong_answer_in_another_layout_is_wrong():
    class NoScale(Separate):
        scale = 1.0

    assert not check.run("Attention", NoScale).passed


def test_fewer_parameters_are_not_another_layout():
    class Shared(Separate):
        def __init__(self, dim, num_heads):
            super().__init__(dim, num_heads)
            self.keys = self.queries

    found = check.run("Attention", Shared)
    assert not found.passed
    assert "missing: qkv.weight" in found.text


def test_bare_weights_and_biases_are_right():
    class Bare(nn.Module):
        def __init__(self, in_features, hidden_features):
            super().__init__()
            self.w1 = nn.Parameter(torch.randn(in_features, hidden_features))
            self.b1 = nn.Parameter(torch.zeros(hidden_features))
            self.w2 = nn.Parameter(torch.randn(hidden_features, in_features))
            self.b2 = nn.Parameter(torch.zeros(in_features))

        def forward(self, x):
            return nn.functional.gelu(x @ self.w1 + self.b1) @ self.w2 + self.b2

    found = check.run("Mlp", Bare)
    assert found.passed, found.text
    assert "w1 is fc1.weight" in found.note


def test_nothing_and_then_a_loop_stay_in_their_places(own_clock):
    def count_patches(height, width, patch_size):
        while height != 32:
            time_is_up.set()

    messages = [c.message for c in check.run("count_patches", count_patches).checks]
    assert "got None" in messages[0]
    assert "no answer within" in messages[1]
    assert "not run" in messages[2]


# ---------------------------------------------------------------- the answer's own name


def cell(code, space):
    """Run a notebook's cell in this namespace, which is that of no module."""
    space.setdefault("__name__", "__main__")
    exec(f"import torch, functools\nfrom torch import nn\nfrom vit_edu import check\n{code}", space)
    return space


OWN_NAME = {
    "super(Name, self)": """
@check.exercise
class Mlp(nn.Module):
    def __init__(self, in_features, hidden_features):
        super(Mlp, self).__init__()
        self.fc1, self.fc2 = nn.Linear(in_features, hidden_features), nn.Linear(hidden_features, in_features)

    def forward(self, x):
        return self.fc2(Mlp.bend(self.fc1(x)))

    @staticmethod
    def bend(x):
        return nn.functional.gelu(x) if Mlp is not None else None
""",
    "a class inside a function": """
def lesson():
    @check.exercise
    class Mlp(nn.Module):
        def __init__(self, in_features, hidden_features):
            super(Mlp, self).__init__()
            self.fc1, self.fc2 = nn.Linear(in_features, hidden_features), nn.Linear(hidden_features, in_features)

        def forward(self, x):
            return self.fc2(nn.functional.gelu(self.fc1(x)))

    return Mlp

lesson()
""",
    "recursion that ends": """
@check.exercise
def accuracy(logits, labels):
    if len(labels) == 1:
        return float(logits[0].argmax() == labels[0])
    rest = accuracy(logits[1:], labels[1:])
    return (accuracy(logits[:1], labels[:1]) + rest * (len(labels) - 1)) / len(labels)
""",
    "a helper that calls back": """
def others(logits, labels):
    return accuracy(logits[1:], labels[1:]) * (len(labels) - 1) if len(labels) > 1 else 0

@check.exercise
def accuracy(logits, labels):
    return (float(logits[0].argmax() == labels[0]) + others(logits, labels)) / len(labels)
""",
}


@pytest.mark.parametrize("code", OWN_NAME.values(), ids=OWN_NAME)
def test_an_answer_finds_itself_under_its_name(code, capsys):
    space = {}
    for _ in range(2):
        cell(code, space)
        assert ": right." in capsys.readouterr().out


ENDLESS = {
    "itself": """
@check.exercise
def accuracy(logits, labels):
    return accuracy(logits, labels)
""",
    "a helper": """
def share(logits, labels):
    return accuracy(logits, labels)

@check.exercise
def accuracy(logits, labels):
    return share(logits, labels)
""",
    "wrapped": """
@check.exercise
@torch.no_grad()
def accuracy(logits, labels):
    return accuracy(logits, labels)
""",
    "inside a function": """
def lesson():
    def share(logits, labels):
        return accuracy(logits, labels)

    @check.exercise
    def accuracy(logits, labels):
        return share(logits, labels)

    return accuracy

lesson()
""",
}


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS)
def test_a_recursion_never_reaches_the_reference(code, capsys):
    space = {}
    for _ in range(3):
        cell(code, space)
        assert "keeps calling itself without end" in capsys.readouterr().out
        # as after an earlier answer that was right
        space["accuracy"] = check.get("accuracy").reference


@pytest.mark.parametrize("calls", range(4))
def test_a_recursion_may_meet_the_limit_anywhere(calls):
    """Inside one of torch's own functions, too."""

    @torch.no_grad()
    def again():
        return again()

    def accuracy(logits, labels, calls=calls):
        return accuracy(logits, labels, calls - 1) if calls else again()

    assert "keeps calling itself without end" in check.run("accuracy", accuracy).text


def test_a_module_that_makes_itself_never_reaches_the_reference(capsys):
    code = """
@check.exercise
class Mlp(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.inner = Mlp(in_features, hidden_features)
"""
    space = {}
    for _ in range(2):
        cell(code, space)
        assert "keeps calling itself without end" in capsys.readouterr().out


@pytest.mark.parametrize("before", [{}, {"accuracy": "something of mine"}], ids=["unbound", "bound"])
def test_the_name_means_afterwards_what_it_meant_before(before):
    space = cell(
        "def accuracy(logits, labels):\n    global accuracy\n    accuracy = 3\n    raise SystemExit", {}
    )
    candidate = space.pop("accuracy")
    space |= before
    assert not check.run("accuracy", candidate).passed
    assert space.get("accuracy") == before.get("accuracy")
    assert ("accuracy" in space) == ("accuracy" in before)


def test_modules_of_the_course_keep_their_names():
    from vit_edu.models import vit

    class Attention(nn.Module):
        forward = vit.Attention.forward

        def __init__(self, dim, num_heads):
            super().__init__()
            raise SystemExit

    check.run("Attention", Attention)
    assert vit.Attention is check.get("Attention").reference


# ---------------------------------------------------------------- numbers that an answer draws itself


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3, 7, 42, 1234])
def test_what_an_answer_draws_is_not_its_input(seed):
    same = []

    def batch_independent(model, images):
        if seed is not None:
            torch.manual_seed(seed)
        same.append(torch.equal(torch.randn_like(images), images))
        noise = torch.randn_like(images)
        for i, image in enumerate(images):
            beside_noise = noise.clone()
            beside_noise[i] = image
            if not torch.allclose(model(beside_noise)[i], model(image[None])[0], atol=1e-5):
                return False
        return True

    def project_patches(patches, weight, bias):
        if seed is not None:
            torch.manual_seed(seed)
        same.append(torch.equal(torch.randn_like(patches), patches))
        return patches @ weight.T + bias

    for candidate in (batch_independent, project_patches):
        found = check.run(candidate.__name__, candidate)
        assert found.passed, found.text
    assert not any(same)


def test_a_weight_is_not_what_an_answer_draws():
    from vit_edu.check.cases import drawn, fill

    layer = fill(nn.Linear(4, 3))
    for seed in (*range(100), 1234):
        own = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        assert not torch.equal(drawn(4), own)
        assert not torch.equal(layer.weight[0], own / 2)


# ---------------------------------------------------------------- the course's own answer

BORROWED = {
    "another name for it": "check.exercise(vit.patchify)",
    "a call": "@check.exercise\ndef patchify(images, patch_size):\n    return vit.patchify(images, patch_size)",
    "a call from a helper": """
def cut(images, patch_size):
    return vit.patchify(images, patch_size).clone()

@check.exercise
def patchify(images, patch_size):
    return cut(images, patch_size)
""",
    "wrapped": "check.exercise(functools.wraps(vit.patchify)(lambda *args: vit.patchify(*args)))",
    "an earlier name for it": """
borrowed = check.get("accuracy").reference

@check.exercise
def accuracy(logits, labels):
    return borrowed(logits, labels)
""",
    "an empty subclass": "@check.exercise\nclass Attention(vit.Attention):\n    pass",
    "a subclass that calls it": """
@check.exercise
class Mlp(vit.Mlp):
    def forward(self, x):
        return super().forward(x)
""",
    "a module around it": """
@check.exercise
class Mlp(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.inner = vit.Mlp(in_features, hidden_features)

    def forward(self, x):
        return self.inner(x)
""",
}


@pytest.mark.parametrize("code", BORROWED.values(), ids=BORROWED)
def test_the_reference_is_said_to_be_the_reference_and_is_not_solved(code, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_EDU_PROGRESS", str(tmp_path / "progress.json"))
    cell(f"from vit_edu.models import vit\n{code}", {})
    out = " ".join(capsys.readouterr().out.split())
    assert ": right." in out
    assert "This is the reference" in out
    progress = check.progress()
    assert progress.headline.startswith("0 of")
    states = [kept for exercises in progress.lessons.values() for kept in exercises.values()]
    assert ("tried", 1) in states


def test_the_reference_is_noticed_beside_a_debugger():
    def tracer(*_):
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        found = check.run("accuracy", lambda logits, labels: accuracy_of(logits, labels))
        kept = sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert found.is_reference
    assert kept


def test_from_a_program_the_reference_passes_and_its_note_says_so():
    for name in ("count_patches", "pool", "ViT", "RepairedViT", "random_crop", "train_step", "knn_predict"):
        found = check.run(name, check.get(name).reference)
        assert found.passed, found.text
        assert found.is_reference
        assert found.note.startswith("This is the reference")


def test_using_other_parts_of_the_course_is_the_learners_own_answer():
    from vit_edu.models import vit

    class Attention(nn.Module):
        def __init__(self, dim, num_heads):
            super().__init__()
            self.num_heads, self.qkv, self.proj = num_heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

        def forward(self, x):
            q, k, v = (vit.split_heads(t, self.num_heads) for t in self.qkv(x).chunk(3, dim=-1))
            return self.proj(vit.merge_heads(vit.scaled_dot_product_attention(q, k, v)[0]))

    def batch_independent(model, images):
        return torch.allclose(model(images), torch.cat([model(i[None]) for i in images]), atol=1e-5)

    for candidate in (Attention, batch_independent):
        found = check.run(candidate.__name__, candidate)
        assert found.passed, found.text
        assert not found.is_reference
        assert found.note == ""


# ---------------------------------------------------------------- settings of the whole process

MODULE = torch.nn.modules.module
# What an answer may set, and how to see it.
LEFT_BEHIND = {
    "deterministic algorithms": (
        lambda: torch.use_deterministic_algorithms(True),
        torch.are_deterministic_algorithms_enabled,
    ),
    "deterministic, with warnings": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        torch.get_deterministic_debug_mode,
    ),
    "threads": (lambda: torch.set_num_threads(3), torch.get_num_threads),
    "matmul precision": (
        lambda: torch.set_float32_matmul_precision("medium"),
        torch.get_float32_matmul_precision,
    ),
    "printing of tensors": (
        lambda: torch.set_printoptions(precision=1, sci_mode=True),
        lambda: repr(torch.ones(1) / 3),
    ),
    "printing of arrays": (lambda: np.set_printoptions(precision=1), lambda: repr(np.array([1 / 3]))),
    "errors of arrays": (lambda: np.seterr(all="ignore"), np.geterr),
    "anomaly mode": (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
    "hooks before all modules": (
        lambda: MODULE.register_module_forward_pre_hook(lambda *_: None),
        lambda: len(MODULE._global_forward_pre_hooks),
    ),
    "hooks behind all modules": (
        lambda: MODULE.register_module_forward_hook(lambda *_: None, always_call=True),
        lambda: (len(MODULE._global_forward_hooks), len(MODULE._global_forward_hooks_always_called)),
    ),
    "backward hooks of all modules": (
        lambda: MODULE.register_module_full_backward_hook(lambda *_: None),
        lambda: (len(MODULE._global_backward_hooks), MODULE._global_is_full_backward_hook),
    ),
    "gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "default device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
    "attention's fast path": (
        lambda: torch.backends.cuda.enable_math_sdp(False),
        torch.backends.cuda.math_sdp_enabled,
    ),
    "cudnn": (
        lambda: setattr(torch.backends.cudnn, "benchmark", True),
        lambda: torch.backends.cudnn.benchmark,
    ),
    "filters of warnings": (lambda: warnings.simplefilter("error"), lambda: list(warnings.filters)),
    "warnings always": (lambda: torch.set_warn_always(True), torch.is_warn_always_enabled),
    "logging": (lambda: logging.disable(), lambda: logging.root.manager.disable),
    "the collector of garbage": (gc.disable, gc.isenabled),
    "numpy's draws": (lambda: np.random.seed(9), lambda: np.random.get_state()[1].tolist()),
    "python's draws": (lambda: random.seed(9), random.getstate),
    "TF32": (
        lambda: setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32),
        lambda: torch.backends.cudnn.allow_tf32,
    ),
    "TF32 in products": (
        lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
        lambda: (torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()),
    ),
    "sums in half precision": (
        lambda: setattr(torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
        lambda: torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
    ),
    "oneDNN": (lambda: torch.backends.mkldnn.set_flags(False), lambda: torch.backends.mkldnn.enabled),
    "attention of encoder layers": (
        lambda: torch.backends.mha.set_fastpath_enabled(False),
        torch.backends.mha.get_fastpath_enabled,
    ),
    "checked distributions": (
        lambda: torch.distributions.Distribution.set_default_validate_args(False),
        lambda: torch.distributions.Distribution._validate_args,
    ),
    "loading into modules": (
        lambda: torch.__future__.set_swap_module_params_on_conversion(True),
        torch.__future__.get_swap_module_params_on_conversion,
    ),
    "profiler of threads": (lambda: threading.setprofile(print), threading.getprofile),
    "tracer of threads": (lambda: threading.settrace(print), threading.gettrace),
    "hook of threads": (
        lambda: setattr(threading, "excepthook", print),
        lambda: threading.excepthook,
    ),
    "hook of objects that end": (lambda: setattr(sys, "unraisablehook", print), lambda: sys.unraisablehook),
    "stack of threads": (lambda: threading.stack_size(2**20), threading.stack_size),
    "search for modules": (lambda: sys.meta_path.insert(0, None), lambda: list(sys.meta_path)),
    "another sys.path": (lambda: setattr(sys, "path", []), lambda: id(sys.path)),
    "another environment": (lambda: setattr(os, "environ", {}), lambda: id(os.environ)),
    "environment": (lambda: os.environ.update(OMP_NUM_THREADS="9"), lambda: dict(os.environ)),
    "folder": (lambda: os.chdir("/"), os.getcwd),
    "other filters of warnings": (lambda: setattr(warnings, "filters", []), lambda: id(warnings.filters)),
    "warnings as text": (lambda: setattr(warnings, "formatwarning", print), lambda: warnings.formatwarning),
    "handlers of logging": (
        lambda: logging.root.addHandler(logging.NullHandler()),
        lambda: list(logging.root.handlers),
    ),
    "numpy's functions": (lambda: setattr(np.random, "seed", print), lambda: np.random.seed),
    "torch's functions": (lambda: setattr(torch.linalg, "norm", print), lambda: torch.linalg.norm),
    "the optimisers": (lambda: setattr(torch.optim.SGD, "step", print), lambda: torch.optim.SGD.step),
    "built-in functions": (lambda: setattr(builtins, "sum", print), lambda: builtins.sum),
    "standard output": (lambda: setattr(sys, "stdout", None), lambda: sys.stdout is None),
    "settings of pictures": (
        lambda: plt.rcParams.update({"lines.linewidth": 9}),
        lambda: plt.rcParams["lines.linewidth"],
    ),
}


@pytest.mark.parametrize(("change", "look"), LEFT_BEHIND.values(), ids=LEFT_BEHIND)
def test_no_setting_is_left_behind(change, look):
    seen = []

    def count_patches(height, width, patch_size):
        before = look()
        change()
        seen.append(before != look())
        return 1

    before = look()
    check.run("count_patches", count_patches)
    assert seen[0], "the change cannot be seen"
    assert look() == before


def test_what_could_not_be_restored_is_refused():
    def count_patches(height, width, patch_size):
        torch.set_num_interop_threads(2)

    before = torch.get_num_interop_threads()
    assert "set_num_interop_threads() does not belong" in check.run("count_patches", count_patches).text
    assert torch.get_num_interop_threads() == before
    assert torch.set_num_interop_threads.__name__ == "set_num_interop_threads"


def test_no_mode_is_left_behind():
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Function(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return "caught"

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            raise RuntimeError("caught")

    for mode in (Function, Dispatch):

        def patchify(images, patch_size, mode=mode):
            mode().__enter__()
            return images

        assert not check.run("patchify", patchify).passed
        assert torch.ones(2).add(1).tolist() == [2.0, 2.0]


# ---------------------------------------------------------------- what is said is true


@pytest.mark.parametrize("name", ["project_patches", "accuracy"])
def test_numbers_that_differ_look_different(name):
    reference = check.get(name).reference
    found = check.run(name, lambda *args: reference(*args) * (1 + 3e-5) + 1.5e-5)
    lines = [line for c in found.failed for line in c.message.splitlines() if "expected " in line]
    assert lines
    for line in lines:
        expected, got = line.split("expected ")[1].split(", got ")
        assert expected != got, line


def test_a_worked_case_shows_all_inputs():
    text = check.run("scaled_dot_product_attention", lambda q, k, v: (q, q @ k.mT)).text
    given = next(line for line in text.splitlines() if line.strip().startswith("given"))
    assert given.count("(3, 4): ") == 3


@pytest.mark.parametrize("threshold", [0.455, 0.46, 0.54, 0.545])
def test_nearly_half_is_told_from_half(threshold):
    def random_flip(images):
        return torch.where(torch.rand(len(images), 1, 1, 1) < threshold, images.flip(-1), images)

    message = check.run("random_flip", random_flip).checks[1].message
    assert "than half" in message
    assert "%" not in message


def test_a_copy_of_the_class_token_cannot_learn():
    def prepend_class_token(tokens, cls_token):
        own = nn.Parameter(cls_token.detach().clone())
        return torch.cat([own.expand(len(tokens), -1, -1), tokens], dim=1)

    checks = {c.name: c for c in check.run("prepend_class_token", prepend_class_token).checks}
    assert "only a copy" in checks["the class token can learn"].message


# ---------------------------------------------------------------- the wrong kind of result


def accuracy_of(logits, labels):
    return check.get("accuracy").reference(logits, labels)


def nothing(*args):
    return None


# (exercise, what becomes of the right result, what is said)
KINDS = {
    "nothing": (
        "patchify",
        nothing,
        "returned None, where a tensor of shape (1, 4, 4) was expected. Is there",
    ),
    "printed": ("accuracy", print, "returned None, where a number was expected. What it prints is right"),
    "printed tensor": ("patchify", print, "What it prints is right"),
    "printed in words": ("accuracy", lambda x: print(f"{x:.1%} of them"), "It prints something"),
    "text": ("accuracy", lambda x: f"{x}", "returned a text, where a number was expected. Return the value"),
    "set": ("patchify", lambda x: {1, 2}, "returned a set, where a tensor of shape (1, 4, 4)"),
    "whole number": ("pool", lambda x: 3, "returned a whole number, where a tensor of shape (1, 2)"),
    "truth": ("learning_rate", bool, "returned True or False, where a number"),
    "numbers": ("patchify", torch.Tensor.tolist, "a list of length 1, where a tensor of shape (1, 4, 4)"),
    "one in a list": ("pool", lambda x: [x], "Return what it holds, without the list"),
    "one of two": ("pool", lambda x: (x, 3), "Its value number 1 has the right form"),
    "parts of a text": ("rename_key", lambda x: x.split("."), '`".".join(...)` puts it together again'),
    "one text in a list": ("rename_key", lambda x: [x], "Return what it holds, without the list"),
    "classes in a list": ("knn_predict", torch.Tensor.tolist, "make one at the end: `torch.tensor(...)`"),
    "rows in a list": ("patchify", list, "`torch.stack` or `torch.cat`"),
    "array": ("pool", lambda x: x.detach().numpy(), "returned a NumPy array of shape (1, 2)"),
    "tensor": ("layer_rate", torch.tensor, "`.item()` gives its value"),
    "whole numbers": (
        "pool",
        torch.Tensor.long,
        "a tensor of type torch.int64, where a tensor of type torch.float32",
    ),
    "three values": (
        "scaled_dot_product_attention",
        lambda x: (*x, x[0]),
        "a tuple of length 3, where a tuple of length 2 was expected",
    ),
    "one value in two": (
        "scaled_dot_product_attention",
        lambda x: (x[0], None),
        "returned None as its value number 2, where a tensor of shape (3, 3)",
    ),
    "class": (
        "pool",
        lambda x: nn.GELU,
        "returned a class, GELU, where a tensor of shape (1, 2) was expected. Are its",
    ),
    "module": ("pool", lambda x: nn.GELU(), "returned a module, GELU, where a tensor of shape (1, 2)"),
    "classes for numbers": (
        "Mlp",
        lambda x: x.argmax(-1),
        "a tensor of type torch.int64 and shape (1, 1), where",
    ),
    "logits for an answer": (
        "batch_independent",
        float,
        "returned a number, where True or False was expected. A comp",
    ),
    "no list": ("parameters_without_gradient", bool, "True or False, where a list was expected"),
    "function": (
        "pool",
        lambda x: lambda: x,
        "returned a function, where a tensor of shape (1, 2) was expected. Are its",
    ),
    "generator": ("pool", lambda x: (y for y in x), "It computes nothing until somebody asks"),
    # the case looks at what becomes of the images, and says so in words
    "hidden by the case": (
        "random_flip",
        lambda x: [x],
        "returned a list of length 1, where a tensor of shape",
    ),
    "hidden by truth": ("order_matters", lambda x: "no" if x else "", "returned a text, where True or False"),
    "forward, two values": ("Block", lambda x: (x, x), "`forward` returned a tuple of length 2"),
    "forward, a module": ("ViT", lambda x: nn.GELU(), "`forward` returned a module, GELU"),
}


def with_result(name, change):
    """An answer to this exercise that is right but for what becomes of its result."""
    reference = check.get(name).reference
    if not isinstance(reference, type):
        return lambda *args, **kwargs: change(reference(*args, **kwargs))

    class Answer(reference):
        def forward(self, *args, **kwargs):
            return change(super().forward(*args, **kwargs))

    return Answer


@pytest.mark.parametrize(("name", "change", "says"), KINDS.values(), ids=KINDS)
def test_a_result_of_the_wrong_kind_is_named(name, change, says):
    found = check.run(name, with_result(name, change))
    assert found.status in (report.WRONG, report.CRASHED)
    assert says in found.diagnosis, found.text


def test_a_class_for_a_function_and_the_other_way_round():
    class accuracy:
        def __init__(self, logits, labels):
            self.value = accuracy_of(logits, labels)

    assert "asks for a function" in check.run("accuracy", accuracy).diagnosis
    said = check.run("Mlp", lambda in_features, hidden_features: torch.zeros(2)).diagnosis
    assert "gave a tensor of shape (2,); the exercise asks for a class that inherits" in said


OTHERWISE = {
    "other numbers": ("pool", lambda x: x + 1),
    "another shape": ("pool", lambda x: x[None]),
    # half of the failed checks saw a number
    "wrong in value as well": ("learning_rate", lambda x: x if x < 5e-4 else "high"),
}


@pytest.mark.parametrize(("name", "change"), OTHERWISE.values(), ids=OTHERWISE)
def test_wrong_numbers_are_not_called_a_wrong_kind(name, change):
    reference = check.get(name).reference
    found = check.run(name, lambda *args, **kwargs: change(reference(*args, **kwargs)) * 2)
    assert not found.passed
    assert "was expected" not in (found.diagnosis or "")


def test_an_object_that_answers_nothing_is_still_described():
    class Closed(torch.Tensor):
        @property
        def shape(self):
            raise RuntimeError("closed")

    class Odd:
        def __getattribute__(self, name):
            raise RuntimeError("odd")

    for result, says in ((torch.zeros(2).as_subclass(Closed), "a Closed"), (Odd(), "the class Odd")):
        found = check.run("pool", lambda tokens, kind, result=result: result)
        assert not found.passed
        assert says in found.diagnosis, found.text


def test_what_was_asked_for_is_not_used_up():
    seen = []

    def patchify(images, patch_size):
        seen.append(iter([1]))
        return seen[-1]

    check.run("patchify", patchify)
    assert next(seen[0]) == 1


# ---------------------------------------------------------------- types that the text does not ask for


def filled_in(result):
    out = torch.zeros(result.shape)
    out[:] = result
    return out


REMARKS = {
    "a fixed dtype": ("pool", filled_in, "of type torch.float64, your answer returns torch.float32"),
    "rounded inside": ("project_patches", lambda x: x.float().to(x.dtype), "only as exact as float32"),
    "an error": (
        "prepend_class_token",
        lambda x: x @ torch.eye(x.shape[-1]),
        "your answer stops: RuntimeError",
    ),
    "whole numbers": ("merge_heads", filled_in, "of type torch.int64, your answer returns torch.float32"),
    "one of two results": (
        "scaled_dot_product_attention",
        lambda x: (x[0], filled_in(x[1])),
        "your answer returns torch.float32",
    ),
    "a module": ("Attention", filled_in, "of type torch.float64, your answer returns torch.float32"),
}


@pytest.mark.parametrize(("name", "change", "says"), REMARKS.values(), ids=REMARKS)
def test_a_type_that_was_not_asked_for_is_a_remark(name, change, says):
    found = check.run(name, with_result(name, change))
    assert found.passed, found.text
    assert says in found.note
    assert len(found.checks) == len(check.get(name).cases)


@pytest.mark.parametrize("name", ["patchify", "unpatchify", "overlapping_patches"])
def test_a_type_that_was_asked_for_is_required(name):
    found = check.run(name, with_result(name, filled_in))
    assert not found.passed
    assert not found.note


FORMULAS = {
    "a constant that is nearly right": ("project_patches", lambda x: x * (1 + 3e-6)),
    "wrong numbers of another type": ("pool", lambda x: filled_in(x) * (1 + (x.dtype == torch.float64))),
}


@pytest.mark.parametrize(("name", "change"), FORMULAS.values(), ids=FORMULAS)
def test_wrong_numbers_in_float64_are_wrong(name, change):
    found = check.run(name, with_result(name, change))
    assert [c.name for c in found.failed] == ["numbers in float64 give an answer in float64"]


def test_a_known_mistake_is_named_whatever_its_type():
    def merge_heads(x):
        return filled_in(x.transpose(2, 3).reshape(len(x), x.shape[2], -1))

    found = check.run("merge_heads", merge_heads)
    mistakes = {m.name: m.diagnosis for m in check.get("merge_heads").mistakes}
    assert found.diagnosis == mistakes["token_and_width_exchanged"], found.text
    assert not any("torch.float32" in c.message for c in found.checks)


# ---------------------------------------------------------------- which case is shown


def test_plain_numbers_are_shown_rather_than_gradients():
    def overlapping_patches(images, patch_size, stride):
        x = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
        return x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)

    worked = check.run("overlapping_patches", overlapping_patches).worked
    assert "gradient" not in worked.case
    assert torch.equal(worked.expected, worked.expected.round())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scaled_dot_product_attention", lambda x: x[0]),
        ("scaled_dot_product_attention", lambda x: (*x, x[0])),
        ("merge_heads", lambda x: x.mean(-1)),
    ],
)
def test_where_nothing_has_the_right_form_no_numbers_are_shown(name, change):
    found = check.run(name, with_result(name, change))
    assert found.worked is None
    assert "Worked case" not in found.text


def test_a_gradient_is_shown_if_nothing_else_is_wrong():
    reference = check.get("project_patches").reference
    found = check.run("project_patches", lambda x, w, b: reference(2 * x - x.detach(), w, b))
    assert "gradient" in found.worked.case


@pytest.mark.parametrize("scale", [1e-4, 2e-5])
def test_a_table_has_the_digits_that_differ(scale):
    worked = check.run(
        "project_patches", with_result("project_patches", lambda x: x * (1 + scale) + scale)
    ).worked
    for expected, got in zip(worked.expected[worked.wrong], worked.got[worked.wrong], strict=True):
        expected, got = (report.format_number(v.item(), worked.digits) for v in (expected, got))
        assert expected != got
        assert f" {got}*" in worked.text
        assert f" {expected}" in worked.text
        assert got in report.Report("x", report.WRONG, worked=worked)._repr_mimebundle_()["text/html"]


def test_a_table_has_no_negative_zero():
    worked = check.run("distance_bias", check.get("distance_bias")._wrong["squared"]).worked
    assert worked.expected[0, 0].signbit()
    assert "-0 " not in worked.text


# ---------------------------------------------------------------- after a right answer

ROOT = Path(__file__).parents[1]

ANOTHER_SPLIT = """
def split_heads(x, num_heads):
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
"""
COURSES_MLP = """
class Mlp(nn.Module):
    \"\"\"The course's own way, with other comments.\"\"\"

    def __init__(self, in_features, hidden_features):
        super().__init__()

        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = nn.GELU()  # as in the paper
        self.fc2 = nn.Linear(hidden_features, in_features)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))
"""


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Answer an exercise in a notebook of lessons/, and get what is shown: the plain text and the page."""
    monkeypatch.chdir(ROOT / "lessons")
    reports = []
    monkeypatch.setattr(report, "show", reports.append)

    def answer(name, code):
        file = tmp_path / f"{len(reports)}.py"
        file.write_text(code, encoding="utf-8")
        space = {"torch": torch, "nn": nn, "__name__": "__main__"}
        exec(compile(code, file, "exec"), space)
        check.exercise(space[name])
        data = reports[-1]._repr_mimebundle_()
        return data["text/plain"], data["text/html"]

    return answer


def test_a_right_answer_leads_on_but_only_on_a_page(shown):
    text, page = shown("split_heads", ANOTHER_SPLIT)
    assert text == "✓ split_heads: right. 8 of 8 checks passed."
    assert page.startswith("<div role='status'")
    folded = re.findall(r"<details[^>]*><summary[^>]*>(.*?)</summary>(.*?)</details>", page, re.S)
    another, mistake = (inside for _summary, inside in folded)
    assert 'href="../solutions/03_attention.ipynb"' in another
    assert "def split_heads(x, num_heads):\n    B, T, D = x.shape\n" in another
    assert "SOLUTION" not in another
    assert "A reshape straight to (B, h, T, d) mixes the tokens" in mistake
    assert "merge_heads" in page.rpartition("</details>")[2]


def test_the_courses_own_answer_is_not_another_way(shown):
    _text, page = shown("Mlp", COURSES_MLP)
    assert ": right." in page
    assert page.count("<details") == 1
    assert "class Mlp" not in page


@pytest.mark.parametrize(
    "body",
    [
        "raise NotImplementedError",
        "return x",
        "return x[0, 0, 0, 0].oops",
        "return vit.split_heads(x, num_heads)",
    ],
)
def test_no_answer_is_shown_before_there_is_one(shown, body):
    code = f"from vit_edu.models import vit\ndef split_heads(x, num_heads):\n    {body}\n"
    _text, page = shown("split_heads", code)
    assert "Another way" not in page
    assert "num_heads, D // num_heads" not in page
    assert "easily made" not in page


@pytest.mark.parametrize(
    "damage", [None, "", "{", "[1]", '{"cells": 3}', '{"cells": [{"cell_type": "code"}]}']
)
def test_without_the_notebook_the_other_way_is_the_packages(shown, damage, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "course_root", lambda: tmp_path)
    if damage is not None:
        (tmp_path / "solutions").mkdir()
        (tmp_path / "solutions" / "03_attention.ipynb").write_text(damage, encoding="utf-8")
    _text, page = shown("split_heads", ANOTHER_SPLIT)
    assert "in <code>vit_edu.models.vit</code>" in page
    assert "<code>def split_heads(x, num_heads):\n    return" in page
    assert "href" not in page


def test_the_solutions_are_linked_only_from_inside_the_course(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "solutions")
    assert after.solutions_link("pool").startswith('<a href="05_vit.ipynb">')
    monkeypatch.chdir(tmp_path)
    assert after.solutions_link("pool") == "solutions/05_vit.ipynb"
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert after.solutions_link("pool") == "solutions/05_vit.ipynb"


def test_code_is_shown_as_text():
    page = after.page("random_flip", in_place, check.get("random_flip").reference)
    assert "images.device) &lt; 0.5" in page


def test_what_comes_next_is_an_exercise_or_a_lesson(monkeypatch, tmp_path):
    def after_exercise(name):
        return after.page(name, in_place, check.get(name).reference).rpartition("</details>")[2]

    monkeypatch.chdir(ROOT / "lessons")
    assert "<code>unpatchify</code>" in after_exercise("patchify")
    assert '<a href="02_embeddings.ipynb">02 embeddings</a>' in after_exercise(check.names("01")[-1])
    assert "check.progress()" in after_exercise(NAMES[-1])
    monkeypatch.chdir(tmp_path)
    assert "02 embeddings." in after_exercise(check.names("01")[-1])
    assert "href" not in after_exercise(check.names("01")[-1])


def test_a_right_answer_leads_to_the_second_notebook_of_a_lesson():
    after = check._after
    assert after.notebook("resize_pos_embed") == "12_pretrained.ipynb"
    assert after.notebook("knn_predict") == "12b_few_labels.ipynb"
    assert "and then 12b few labels" in after._next("resize_pos_embed")
    assert "the last exercise of the course" in after._next("layer_rate")


def test_an_answer_that_was_left_behind_does_not_stop_the_next_one():
    """On Python 3.11, an exception that could not be delivered kept every function from starting that was traced."""
    behind, seen = threading.Event(), []
    assert guard.limited(behind.wait, 0.01) == "still running"

    def traced():
        sys.settrace(lambda frame, event, argument: None)
        seen.append(right(1))

    def right(number):
        return number + 1

    assert guard.limited(traced, 30) == "done"
    assert seen == [2]
    behind.set()
