"""Weights under names that the package does not know: tables of one's own, wrappers, and architectures that are others."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from vit_edu import pretrained
from vit_edu.models import ViT
from vit_edu.pretrained import names

PAGE = Path(__file__).parents[1] / "docs" / "own-weights.md"


@pytest.fixture(scope="module")
def page():
    """What the code of docs/own-weights.md leaves behind."""
    left = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        exec(compile(code, str(PAGE), "exec"), left)
    return left


def small(**arguments):
    """A model with timm's names, in which no bias is zero and no norm is one."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 5}
    model = ViT(**sizes | arguments)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval().requires_grad_(False)


def test_the_page_about_own_weights(page, capsys):
    assert page["result"].equal, str(page["result"])
    assert len(page["result"].steps) == 6
    assert page["result"].steps[0].name == "embedding"
    assert page["converted"].family == "your family"
    assert "num_heads" not in page["converted"].guesses
    assert "1e-05 was taken, as your family says" in page["converted"].guesses["norm_eps"]
    rows = page["names"]
    assert rows == {k: v for k, v in names.VIT_PYTORCH.items() if k in rows}


@pytest.mark.parametrize("wrong", [1e-6, 1e-3])
def test_parity_of_an_own_family_finds_what_the_table_cannot_say(page, wrong):
    family = pretrained.Family(page["names"], transpose=page["transpose"], heads=3, norm_eps=wrong)
    ours = pretrained.convert(page["state"], family=family).model()
    result = pretrained.parity(ours, page["theirs"], torch.randn(2, 3, 32, 32), blocks="transformer.layers")
    assert (result.first == "block 0 attention") == (wrong == 1e-3)


def test_a_table_that_does_not_fit_is_named(page):
    with pytest.raises(
        pretrained.WeightsError, match="a row of a table is two names, theirs and ours, got 'a b c'"
    ):
        pretrained.table("a b\n\na b c")
    rows = dict(page["names"])
    del rows["pos_embedding"]
    family = pretrained.Family(rows, transpose=page["transpose"], heads=3)
    with pytest.raises(pretrained.WeightsError, match=r"no place for theirs: pos_embedding"):
        pretrained.convert(page["state"], family=family)
    with pytest.raises(
        pretrained.WeightsError,
        match=r"patch_embed.proj.weight \(theirs: to_patch_embedding.1.weight\): expected",
    ):
        pretrained.convert(page["state"], family=pretrained.Family(page["names"], heads=3))
    for heads in (0, "3", lambda state: None):
        family = pretrained.Family(page["names"], transpose=page["transpose"], heads=heads)
        with pytest.raises(pretrained.WeightsError, match="for the number of heads; expected a whole number"):
            pretrained.convert(page["state"], family=family)


def test_blocks_are_numbered_wherever_the_number_is():
    """Own names number blocks as they like; the number is where the table says {i}."""
    theirs = small()
    old = theirs.state_dict()
    state = {re.sub(r"^blocks\.(\d+)\.", r"enc.\1.part.7.", k): v for k, v in old.items()}
    rows = {k: k for k in old if not k.startswith("blocks.")}
    rows |= {re.sub(r"^blocks\.\d+\.", "enc.{i}.part.7.", k): re.sub(r"\.\d+\.", ".{i}.", k, count=1) for k in old if k.startswith("blocks.")}  # fmt: skip
    ours = pretrained.convert(state, family=pretrained.Family(rows), num_heads=1).model()
    assert pretrained.parity(ours, theirs, torch.randn(2, 3, 32, 32)).equal


# ---------------------------------------------------------------- vit-pytorch


def residual(state):
    """The names of 0.7 to 0.9, in which each half is inside a Residual."""
    return {re.sub(r"(layers\.\d+\.\d+\.)", r"\1fn.", k): v for k, v in state.items()}


@pytest.mark.parametrize("old", [lambda state: state, residual])
def test_vit_pytorch_is_a_family(page, old, tmp_path):
    torch.save(old(page["state"]), tmp_path / "weights.pt")
    converted = pretrained.convert(pretrained.read(tmp_path / "weights.pt"), num_heads=3)
    assert converted.family == "vit-pytorch"
    x = torch.randn(2, 3, 32, 32)
    assert pretrained.parity(converted.model(), page["theirs"], x, blocks="transformer.layers").equal
    assert "3 channels of 8 x 8 pixels were taken" in str(converted)
    assert "anything else, it is another function" in converted.guesses["global_pool"]
    with pytest.raises(pretrained.WeightsError, match="global_pool='avg' of vit-pytorch is another function"):
        pretrained.convert(page["state"], num_heads=3, global_pool="avg")


def test_vit_pytorch_of_grey_images(page):
    state = dict(page["state"])
    state["to_patch_embedding.1.weight"] = torch.randn(48, 7 * 7)
    assert pretrained.convert(state, num_heads=3).model().patch_embed.proj.weight.shape == (48, 1, 7, 7)
    state["to_patch_embedding.1.weight"] = torch.randn(48, 5 * 7)
    with pytest.raises(pretrained.WeightsError, match="their patches have 35 numbers"):
        pretrained.convert(state, num_heads=3)


def test_vit_pytorch_of_today_is_another_architecture():
    theirs = pytest.importorskip("vit_pytorch")
    state = theirs.ViT(
        image_size=32, patch_size=8, num_classes=5, dim=64, depth=1, heads=1, mlp_dim=96
    ).state_dict()
    with pytest.raises(
        pretrained.WeightsError, match=r"vit-pytorch from 1.0 on, which normalises the pixels"
    ):
        pretrained.convert(state)


# ---------------------------------------------------------------- parity by a path


def test_parity_finds_blocks_by_a_path():
    theirs = small()
    ours = pretrained.from_model(theirs)
    theirs.more = nn.ModuleList(nn.LayerNorm(4) for _ in range(9))  # a longer list, which is not the blocks
    x = torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"the 9 modules .* did not run: name the right list with blocks="):
        pretrained.parity(ours, theirs, x)
    assert pretrained.parity(ours, theirs, x, blocks="blocks").equal
    with pytest.raises(ValueError, match="no list of blocks 'layers'; its lists are: blocks, more"):
        pretrained.parity(ours, theirs, x, blocks="layers")


class Returning(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return {"scores": self.model(images)}


def test_parity_says_where_it_does_not_find_the_output():
    with pytest.raises(ValueError, match="Returning returned dict, and it is not known where the output is"):
        pretrained.steps(Returning(small()), torch.randn(1, 3, 32, 32))


# ---------------------------------------------------------------- wrappers


def test_the_entry_is_said_and_can_be_chosen(tmp_path):
    teacher, student = small().state_dict(), {k: v + 1 for k, v in small().state_dict().items()}
    path = tmp_path / "weights.pt"
    torch.save({"student": student, "teacher": teacher, "epoch": 3}, path)
    ours = pretrained.load(path)
    assert torch.equal(ours.norm.bias, teacher["norm.bias"])
    note = next(n for n in ours.pretrained_cfg["notes"] if "The tensors are those" in n)
    assert note == (
        'The tensors are those of "teacher". There are others in "student": entry= of `convert` and of `read` chooses.'
    )
    assert torch.equal(pretrained.read(path, entry="student")["norm.bias"], student["norm.bias"])
    chosen = pretrained.convert(torch.load(path), entry="student")
    assert torch.equal(chosen.model().norm.bias, student["norm.bias"])
    assert '"student". There are others in "teacher"' in str(chosen)
    with pytest.raises(pretrained.WeightsError, match="there is no entry 'ema' with tensors"):
        pretrained.read(path, entry="ema")


@pytest.mark.parametrize("path", [["checkpoint", "best", "weights"], ["my_vit"], ["state", "module"]])
def test_entries_of_any_name_are_an_open_set(path):
    state = small().state_dict()
    wrapped = state
    for name in reversed(path):
        wrapped = {name: wrapped, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}}
    converted = pretrained.convert(wrapped)
    assert all(torch.equal(converted.weights[k], v) for k, v in state.items())
    assert f'those of "{path[-1]}".' in str(converted)


def test_several_sets_of_weights_told_apart_by_prefixes():
    state = small().state_dict()
    both = {f"student.backbone.{k}": v + 1 for k, v in state.items()}
    both |= {f"teacher.backbone.{k}": v for k, v in state.items()} | {
        "teacher.head.mlp.0.weight": torch.ones(2, 2)
    }
    converted = pretrained.convert({k: v for k, v in both.items() if "backbone.head" not in k})
    assert torch.equal(converted.weights["norm.bias"], state["norm.bias"])
    assert 'those of "teacher". There are others in "student"' in converted.guesses["names"]
    assert "DINO's projection head" in str(converted)
    chosen = pretrained.convert(both, entry="student")
    assert torch.equal(chosen.weights["norm.bias"], state["norm.bias"] + 1)


def test_a_second_model_of_another_name_is_pointed_out():
    state = small().state_dict()
    both = {f"online.net.{k}": v for k, v in state.items()} | {
        f"target.net.{k}": v + 1 for k, v in state.items()
    }
    with pytest.raises(
        pretrained.WeightsError, match=r'begin with "target.", as if .* entry="target" of `convert`'
    ):
        pretrained.convert(both)
    chosen = pretrained.convert(both, entry="target")
    assert torch.equal(chosen.weights["norm.bias"], state["norm.bias"] + 1)
    assert 'those of "target". "net." was taken away' in chosen.guesses["names"]
    with pytest.raises(
        pretrained.WeightsError, match="no entry 'ema' with tensors; the names begin with: online, target"
    ):
        pretrained.convert(both, entry="ema")
    with pytest.raises(pretrained.WeightsError, match="expected names as keys, got 0"):
        pretrained.convert({0: torch.zeros(2)})


def test_a_checkpoint_of_pretraining(tmp_path):
    """Beside the encoders, in the file of MSN: a tensor at the top, and an optimiser whose state has names."""
    state = {f"module.{k}": v for k, v in small(num_classes=0).state_dict().items()}
    whole = {
        "optimizer": {"state": {"norm.weight": {"exp_avg": torch.ones(2)}}},
        "prototypes": torch.ones(4, 4),
        "encoder": state,
        "target_encoder": state | {"module.norm.bias": state["module.norm.bias"] + 1},
    }
    converted = pretrained.convert(whole)
    assert 'those of "encoder". There are others in "target_encoder"' in converted.guesses["names"]
    other = pretrained.convert(whole, entry="target_encoder").weights["norm.bias"]
    assert torch.equal(other, converted.weights["norm.bias"] + 1)
    mae = small(num_classes=0).state_dict() | {
        "decoder_norm.bias": torch.ones(4),
        "mask_token": torch.ones(1, 1, 4),
    }
    assert set(pretrained.convert(mae).ignored) == {"decoder_norm.bias", "mask_token"}


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda k: f"trunk.{k}", '"trunk."'),
        (lambda k: f"lightning.my_model.vit.{k}", '"lightning.my_model.vit."'),
        (
            lambda k: re.sub(r"^(blocks\.\d+\.)", r"\1_orig_mod.", k),
            '"_orig_mod." was taken out of the middle',
        ),
        (lambda k: "module." + k.replace("mlp.", "_orig_mod.mlp._orig_mod."), '"_orig_mod." was taken out'),
        (
            lambda k: f"_fsdp_wrapped_module.{k}".replace("attn.", "_checkpoint_wrapped_module.attn."),
            "middle",
        ),
        # A head beside the backbone
        (lambda k: k if k.startswith("head") else f"backbone.{k}", '"backbone."'),
        (lambda k: f"model.{k}" if k.startswith("head") else f"model.backbone.{k}", '"model.backbone."'),
    ],
)
def test_prefixes_of_any_name_and_in_any_place(rename, said):
    state = small().state_dict()
    converted = pretrained.convert({rename(k): v for k, v in state.items()})
    assert said in converted.guesses["names"]
    assert all(torch.equal(converted.weights[k], v) for k, v in state.items())


# ---------------------------------------------------------------- another architecture


class Encoder(nn.Module):
    """A ViT as many are written, from torch's own layers: post-norm and with a ReLU."""

    def __init__(self, **arguments):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 64))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, 64))
        self.patch_embed = nn.Conv2d(3, 64, 8, 8)
        layer = nn.TransformerEncoderLayer(64, 4, 96, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 5)


def per_head(state):
    found = {k: v for k, v in state.items() if "attn.qkv" not in k}
    for kind in ("weight", "bias"):
        for i, part in enumerate(("q_mappings", "k_mappings", "v_mappings")):
            for head in range(4):
                found[f"blocks.0.attn.{part}.{head}.{kind}"] = state[f"blocks.0.attn.qkv.{kind}"].chunk(12)[4 * i + head]  # fmt: skip
    return found


def without(state, *names):
    return {k: v for k, v in state.items() if not k.startswith(names)}


STATES = {
    "torch": (lambda: Encoder().state_dict(), r"torch.nn.TransformerEncoderLayer. .*\(post-norm\) and have a ReLU"),
    "heads": (lambda: per_head(small(depth=1).state_dict()), "tensors for each head"),
    "named heads": (lambda: {"heads.0.query.weight": torch.zeros(4, 4)}, "tensors for each head"),
    "no last norm": (lambda: without(small().state_dict(), "norm."), "end without a last layer norm"),
    "BERT": (lambda: {"encoder.layer.0.attention.output.LayerNorm.weight": torch.zeros(4)}, "post-norm"),
    "q_norm": (lambda: small().state_dict() | {"blocks.0.attn.q_norm.weight": torch.ones(64)}, "normalises queries and keys"),
    "relative": (
        lambda: small().state_dict() | {"blocks.0.attn.relative_position_index": torch.zeros(4, 4, dtype=torch.long)},
        "positions relative to each other",
    ),
    "wide heads": (lambda: small().state_dict() | {"blocks.0.attn.qkv.weight": torch.zeros(384, 64)}, "Their heads have 128 numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_what_differs_is_named(name):
    make, reason = STATES[name]
    with pytest.raises(pretrained.WeightsError, match=reason):
        pretrained.convert(make())


def test_names_of_nobody_lead_to_the_page():
    state = {f"x{i}.weight": torch.zeros(2) for i in range(9)} | {"cls_token": torch.zeros(1, 1, 2)}
    with pytest.raises(pretrained.WeightsError, match=r"knows 1 of their 10 names. .*docs/own-weights.md"):
        pretrained.convert(state)
    with pytest.raises(
        pretrained.WeightsError, match=r"no family knows any of the 9 names .*docs/own-weights.md"
    ):
        pretrained.convert(without(state, "cls_token"))
