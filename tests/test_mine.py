"""`mine`: right answers are kept as Python files, run again in another session, and made of each other."""

import linecache
import sys
import textwrap

import pytest
import torch

import vit_edu
from vit_edu import check, mine
from vit_edu.check import keep
from vit_edu.models import vit


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for answers, and a session in which nothing has been solved."""
    monkeypatch.setenv("VIT_EDU_MINE", str(tmp_path / "mine"))
    new_session()
    yield tmp_path / "mine"
    new_session()


class Notebook:
    """Cells that are run one after the other in the names of `__main__`, as a kernel does."""

    def __init__(self):
        self.space, self.count = vars(sys.modules["__main__"]), 0
        self.run("import math, torch, torch.nn as nn, torch.nn.functional as F\nfrom vit_edu import check")

    def run(self, cell):
        cell, self.count = textwrap.dedent(cell), self.count + 1
        name = f"/tmp/kernel_{id(self)}/{self.count}.py"
        linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
        exec(compile(cell, name, "exec"), self.space)
        return self


@pytest.fixture
def notebook(folder):
    before = dict(vars(sys.modules["__main__"]))
    yield Notebook()
    vars(sys.modules["__main__"]).clear()
    vars(sys.modules["__main__"]).update(before)


def new_session():
    """Forget everything that is not in a file."""
    for memory in (keep.live, keep.unkept, mine._known):
        memory.clear()


ATTENTION = """
from vit_edu.models.vit import split_heads, merge_heads
SCALE = -0.5

def soften(scores):
    return torch.softmax(scores, dim=-1)

@check.exercise
class Attention(nn.Module):
    def __init__(self, dim, num_heads):
        super(Attention, self).__init__()
        if dim % num_heads:
            raise ValueError("uneven")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = (split_heads(y, self.num_heads) for y in self.qkv(x).chunk(3, dim=-1))
        return self.proj(merge_heads(soften(q @ k.mT * q.shape[-1] ** SCALE) @ v))
"""


def test_a_right_answer_is_kept_with_what_it_needs(notebook, folder):
    notebook.run(ATTENTION)
    new_session()
    text = (folder / "lesson_03.py").read_text()
    assert "class Attention(nn.Module)" in text
    assert "check.exercise" not in text
    assert "SCALE = -0.5" in text
    assert "def soften" in text
    assert "from torch import nn" in text
    assert vit_edu.__version__ in text
    theirs = mine.Attention
    assert theirs is not vit.Attention
    assert theirs.__name__ == "Attention"
    assert theirs(8, 2)(torch.zeros(1, 3, 8)).shape == (1, 3, 8)
    assert mine.answer("Attention").whose == mine.YOURS
    assert mine.Block is vit.Block
    assert mine.answer("Block").whose == mine.OURS


def test_a_block_is_made_of_their_own_attention(notebook):
    notebook.run(ATTENTION).run(
        """
        from vit_edu.models.vit import DropPath, Mlp
        @check.exercise
        class Block(nn.Module):
            def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
                super().__init__()
                self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
                self.attn, self.mlp = Attention(dim, num_heads), Mlp(dim, int(dim * mlp_ratio))
                self.drop_path = DropPath(drop_path)

            def forward(self, x):
                x = x + self.drop_path(self.attn(self.norm1(x)))
                return x + self.drop_path(self.mlp(self.norm2(x)))
        """
    )
    new_session()
    block = mine.Block(8, 2)
    assert type(block.attn) is mine.Attention
    assert type(block.drop_path) is vit.DropPath  # not an exercise, so the course's


def test_wrong_answers_and_the_reference_are_not_kept(notebook, folder):
    notebook.run("@check.exercise\ndef accuracy(logits, labels):\n    return 1.0")
    notebook.run("from vit_edu import training\naccuracy = check.exercise(training.accuracy)")
    assert not folder.exists()
    assert mine.answer("accuracy").whose == mine.OURS


def test_a_later_wrong_answer_leaves_the_right_one(notebook):
    notebook.run(
        "@check.exercise\ndef accuracy(logits, labels):\n    return (logits.argmax(1) == labels).double().mean().item()"
    )
    notebook.run("@check.exercise\ndef accuracy(logits, labels):\n    return 1.0")
    assert mine.answer("accuracy").whose == mine.YOURS
    assert mine.accuracy(torch.eye(3), torch.arange(3)) == 1


@pytest.mark.parametrize(
    ("before", "body", "why"),
    [
        ("zero = torch.zeros(1)", "(logits.argmax(1) == labels).float().mean().item() + zero.item()", "zero"),
        ("pick = torch.nn.Identity()", "pick((logits.argmax(1) == labels).float()).mean().item()", "pick"),
    ],
)
def test_what_cannot_be_written_down_is_known_in_this_session(notebook, folder, capsys, before, body, why):
    notebook.run(f"{before}\n@check.exercise\ndef accuracy(logits, labels):\n    return {body}")
    assert f"it uses {why}" in " ".join(capsys.readouterr().out.split())
    assert mine.answer("accuracy").whose == mine.YOURS
    assert why in mine.answer("accuracy").remark
    new_session()
    assert mine.answer("accuracy").whose == mine.OURS


@pytest.mark.parametrize(
    "cell",
    [
        "f = lambda hits: hits.float().mean()\n@check.exercise\ndef accuracy(logits, labels):\n    return f(logits.argmax(1) == labels).item()",
        "@check.exercise\n@torch.no_grad()\ndef accuracy(logits, labels):\n    return (logits.argmax(1) == labels).float().mean().item()",
        "def accuracy(logits, labels):\n    return (logits.argmax(1) == labels).float().mean().item()\naccuracy = check.exercise(accuracy)",
        "if True:\n    @check.exercise\n    def accuracy(logits, labels):\n        '''Two\n  lines.'''\n        return (logits.argmax(1) == labels).float().mean().item()",
        "import math as m\nTABLE = {'one': (1.0, None)}\n@check.exercise\ndef accuracy(logits, labels, one=TABLE):\n    x = 1\n    return m.fsum((logits.argmax(1) == labels).tolist()) / len(labels) * one['one'][0]",
        "class B:\n    def hits(self, a, b):\n        return a.argmax(1) == b\nclass A(B):\n    pass\n@check.exercise\ndef accuracy(logits, labels):\n    return (A().hits(logits, labels) & B().hits(logits, labels)).float().mean().item()",
        "class Score:\n    def __call__(self, a, b):\n        return (a.argmax(1) == b).float().mean().item()\n@check.exercise\ndef accuracy(logits, labels):\n    return Score()(logits, labels)",
    ],
    ids=[
        "lambda",
        "another decorator",
        "called afterwards",
        "indented",
        "default from a table",
        "helpers of helpers",
        "helper class",
    ],
)
def test_answers_as_people_write_them_are_kept(notebook, cell):
    notebook.run(cell)
    assert not keep.unkept
    new_session()
    assert mine.answer("accuracy").whose == mine.YOURS, mine.answer("accuracy").remark
    assert mine.accuracy(torch.eye(3), torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)


def test_a_class_without_functions_is_kept(notebook):
    notebook.run(
        """
        class Base(nn.Module):
            def __init__(self, in_features, hidden_features):
                super().__init__()
                self.fc1 = nn.Linear(in_features, hidden_features)
                self.fc2 = nn.Linear(hidden_features, in_features)
            def forward(self, x):
                return self.fc2(F.gelu(self.fc1(x)))
        """
    ).run("@check.exercise\nclass Mlp(Base):\n    pass")
    new_session()
    assert mine.answer("Mlp").whose == mine.YOURS


def test_an_edited_file_is_checked_again(notebook, folder):
    notebook.run(ATTENTION)
    file = folder / "lesson_03.py"
    right = file.read_text()
    file.write_text(right.replace("SCALE = -0.5", "SCALE = -1.0"))
    found = mine.answer("Attention")
    assert found.whose == mine.OURS
    assert "not right" in found.remark
    assert str(file) in found.remark
    file.write_text(right.replace("SCALE = -0.5", "SCALE = -1 / 2"))
    assert mine.answer("Attention").whose == mine.YOURS
    file.write_text(right.replace("SCALE = -0.5", "SCALE = = 2"))
    found = mine.answer("Attention")
    assert found.whose == mine.OURS
    assert "SyntaxError" in found.remark
    assert file.exists()


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"", b"import torch\n"])
def test_a_damaged_file_is_set_aside(notebook, folder, damage):
    notebook.run(ATTENTION)
    (folder / "lesson_03.py").write_bytes(damage)
    new_session()
    found = mine.answer("Attention")
    assert found.whose == mine.OURS
    assert "lesson_03.damaged-1.py" in found.remark
    assert (folder / "lesson_03.damaged-1.py").read_bytes() == damage
    notebook.run(ATTENTION)
    assert mine.answer("Attention").whose == mine.YOURS


def test_answers_of_one_lesson_share_a_file_and_keep_each_other(notebook, folder):
    notebook.run(ATTENTION)
    notebook.run("@check.exercise\ndef merge_heads(x):\n    return x.transpose(1, 2).flatten(2)")
    kept, remark = keep.read("03")
    assert list(kept) == ["merge_heads", "Attention"]
    assert not remark
    notebook.run(ATTENTION.replace("-0.5", "-1 / 2"))
    assert "merge_heads" in keep.read("03")[0]
    assert "from vit_edu.mine import merge_heads" in keep.read("03")[0]["Attention"].code


def test_a_part_that_does_not_fit_is_replaced_and_named(notebook, folder):
    notebook.run(
        """
        @check.exercise
        def merge_heads(x):
            return x.transpose(1, 2).flatten(2)
        """
    ).run(
        ATTENTION.replace("import split_heads, merge_heads", "import split_heads").replace(
            "merge_heads(soften", "merge_heads(x=soften"
        )
    )
    file = folder / "lesson_03.py"
    # The same function with its argument renamed is right by itself, and does not fit this answer
    file.write_text(
        file.read_text().replace("def merge_heads(x):\n    return x.", "def merge_heads(y):\n    return y.")
    )
    new_session()
    assert mine.answer("merge_heads").whose == mine.YOURS
    found = mine.answer("Attention")
    assert found.whose == mine.YOURS
    assert "the course's parts" in found.remark


def test_without_a_person_nothing_is_kept_or_run(notebook, folder, monkeypatch):
    notebook.run(ATTENTION)
    for name, value in (("VIT_EDU_MINE", "off"), ("VIT_EDU_MINE", ""), ("NBGRADER_EXECUTION", "autograde")):
        monkeypatch.setenv(name, value)
        assert keep.folder() is None
        assert mine.Attention is vit.Attention
        if name == "VIT_EDU_MINE":
            monkeypatch.setenv(name, str(folder))


def test_the_checker_never_sees_what_is_kept(notebook):
    notebook.run(ATTENTION)
    assert mine.Attention is not vit.Attention
    assert check.get("Attention").reference is vit.Attention
    assert check.run("Attention", mine.Attention).passed


def test_the_table_says_whose_is_whose(notebook):
    notebook.run(ATTENTION)
    text, page = repr(mine), mine._repr_mimebundle_()["text/html"]
    assert text.startswith("1 of ")
    assert "yours" in text
    assert all(name in text and name in page for name in check.names())


def test_another_name_is_an_error_with_the_names(folder):
    with pytest.raises(AttributeError, match="patchify"):
        mine.patchfy  # noqa: B018
