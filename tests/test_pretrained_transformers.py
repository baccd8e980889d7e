"""What transformers publishes, in our model: folders as `save_pretrained` writes them, and positions resized as each family does it.

Small configs with random weights, in which no bias is zero and no norm or LayerScale is one.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from vit_edu import pretrained
from vit_edu.models.variants import PublishedViT

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "mlp_ratio": 2,
    "image_size": 70,
    "patch_size": 14,
}
DINOV2 = {"Dinov2": "Dinov2Config", "Dinov2WithRegisters": "Dinov2WithRegistersConfig"}


def randomised(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return model.eval().requires_grad_(False)


def build(name, config, **arguments):
    return randomised(getattr(transformers, name)(getattr(transformers, config)(**SMALL | arguments)))


def saved(model, folder, size=42, processor="BitImageProcessor"):
    """A folder of `save_pretrained` whose pictures have `size` pixels. Returns its path."""
    model.save_pretrained(folder)
    if size:
        crop = {"height": size, "width": size}
        edge = {"shortest_edge": size + 4} if processor.startswith("Bit") else crop
        getattr(transformers, processor)(size=edge, crop_size=crop).save_pretrained(folder)
    return folder


def pictures(count=2):
    return torch.randint(0, 256, (count, 3, 60, 55), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))  # fmt: skip


@pytest.mark.parametrize("kind", DINOV2)
def test_dinov2_is_usable_as_loaded(kind, tmp_path, capsys):
    """The config says one size, the preprocessing another: the model reads what `preprocess` makes, as theirs does."""
    theirs = build(f"{kind}Model", DINOV2[kind])
    ours = pretrained.load(saved(theirs, tmp_path))
    capsys.readouterr()
    x = pretrained.preprocess(pictures(), ours)
    assert x.shape == (2, 3, 42, 42)
    result = pretrained.parity(ours, theirs, x)
    assert result.equal, str(result)
    notes = "\n".join(ours.pretrained_cfg["notes"])
    how = "with antialiasing" if "Registers" in kind else "without antialiasing"
    assert f"resized from 5 x 5 to 3 x 3 patches (bicubic, {how})" in notes
    assert "no head" in notes
    assert ours.pretrained_cfg["classes"] == ()


@pytest.mark.parametrize("kind", DINOV2)
def test_a_classifier_of_dinov2_keeps_its_head(kind, tmp_path):
    """It reads the class token and the mean over the patches, without the registers."""
    theirs = build(f"{kind}ForImageClassification", DINOV2[kind], id2label={0: "cat", 1: "dog", 2: "owl"})
    ours = pretrained.load(saved(theirs, tmp_path))
    assert isinstance(ours, PublishedViT)
    assert ours.pretrained_cfg["classes"] == ("cat", "dog", "owl")
    assert ours.head.weight.shape == (3, 128)
    result = pretrained.parity(ours, theirs, pretrained.preprocess(pictures(), ours))
    assert result.equal, str(result)
    direct = pretrained.from_model(theirs)
    assert pretrained.parity(direct, theirs, torch.randn(2, 3, 70, 70)).equal
    bare = pretrained.convert(theirs.state_dict(), num_heads=4)
    assert "global_pool" not in bare.guesses
    assert pretrained.parity(bare.model(), theirs, torch.randn(2, 3, 70, 70)).equal
    again = pretrained.from_model(ours)
    assert pretrained.parity(again, ours, torch.randn(2, 3, 42, 42)).equal
    other = pretrained.load(tmp_path, num_classes=7)
    assert other.head.weight.shape == (7, 128)
    assert pretrained.load(tmp_path, num_classes=0)(torch.zeros(1, 3, 42, 42)).shape == (1, 128)


def test_pictures_that_cannot_be_cut_into_patches_are_refused(tmp_path):
    folder = saved(build("Dinov2Model", "Dinov2Config"), tmp_path, size=64)
    with pytest.raises(
        pretrained.WeightsError, match=r"64 x 64 pixels, .* patches of 14 x 14. Give img_size="
    ):
        pretrained.load(folder)
    ours = pretrained.load(folder, img_size=56)
    assert ours(pretrained.preprocess(pictures(), ours)).shape == (2, 64)


def test_what_reads_both_has_both():
    with pytest.raises(ValueError, match='global_pool="token\\+avg" reads the class token'):
        PublishedViT(global_pool="token+avg", class_token=False)
    with pytest.raises(ValueError, match="fc_norm belongs to"):
        PublishedViT(global_pool="token+avg", fc_norm=True)
    model = PublishedViT(global_pool="token+avg", num_classes=0).eval()
    x = torch.randn(2, 3, 32, 32)
    tokens = model.norm(model.blocks(model.embed(x)))
    torch.testing.assert_close(model(x), torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1))


# ---------------------------------------------------------------- MAE, MSN, I-JEPA


class InOrder(nn.Module):
    """MAE with nothing hidden: theirs shuffles the patches by noise even then, so the noise is in order."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        count = self.model.embeddings.patch_embeddings.num_patches
        return self.model(images, noise=torch.arange(float(count)).expand(len(images), -1))


ENCODERS = {
    "ViTMAEModel": ("ViTMAEConfig", 1e-12),
    "ViTMAEForPreTraining": ("ViTMAEConfig", 1e-12),
    "ViTMSNModel": ("ViTMSNConfig", 1e-6),
    "ViTMSNForImageClassification": ("ViTMSNConfig", 1e-6),
    "IJepaModel": ("IJepaConfig", 1e-12),
    "IJepaForImageClassification": ("IJepaConfig", 1e-12),
}
DECODER = {
    "mask_ratio": 0.0,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 3,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 48,
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("from_folder", [True, False])
def test_encoders_by_the_names_of_transformers(name, from_folder, tmp_path):
    config, epsilon = ENCODERS[name]
    theirs = build(name, config, num_labels=3, **DECODER if "MAE" in name else {})
    if from_folder:
        saved(theirs, tmp_path, size=70, processor="ViTImageProcessor")
        ours = pretrained.load(tmp_path)
        x = pretrained.preprocess(pictures(), ours)
    else:
        ours, x = pretrained.from_model(theirs), torch.randn(2, 3, 70, 70)
    encoder = theirs.vit if "ForPreTraining" in name else theirs
    result = pretrained.parity(ours, InOrder(encoder) if "MAE" in name else encoder, x)
    assert result.equal, str(result)
    assert len(result.steps) == 6
    assert {m.eps for m in ours.modules() if isinstance(m, nn.LayerNorm)} == {epsilon}
    assert (ours.cls_token is None) == ("IJepa" in name)
    ignored = ours.pretrained_cfg["ignored"]
    assert any(key.startswith("decoder.") for key in ignored) == ("ForPreTraining" in name)
    assert all("MAE's decoder" in why for why in ignored.values())
    assert ours(x).shape == (2, 3 if "Classification" in name else 64)


def test_an_epsilon_that_no_file_says_is_a_guess(tmp_path):
    theirs = build("ViTMSNModel", "ViTMSNConfig")
    bare = pretrained.convert(theirs.state_dict(), num_heads=4)
    assert "1e-12 was taken" in bare.guesses["norm_eps"]
    said = pretrained.convert(theirs.state_dict(), num_heads=4, norm_eps=1e-6)
    assert "norm_eps" not in said.guesses
    assert pretrained.parity(said.model(), theirs, torch.randn(2, 3, 70, 70)).equal


def test_patches_that_a_config_gives_as_two_sides(tmp_path):
    theirs = build("ViTModel", "ViTConfig", image_size=[42, 70], patch_size=[14, 14])
    ours = pretrained.load(saved(theirs, tmp_path, size=None))
    assert pretrained.parity(ours, theirs, torch.randn(2, 3, 42, 70)).equal


# ---------------------------------------------------------------- resized as each family does it


def test_positions_resized_as_transformers_does():
    theirs = build("ViTForImageClassification", "ViTConfig", patch_size=10)
    ours = pretrained.from_model(theirs, img_size=(50, 90))
    x = torch.randn(2, 3, 50, 90)
    torch.testing.assert_close(ours(x), theirs(x, interpolate_pos_encoding=True).logits, atol=1e-5, rtol=1e-5)


def test_positions_resized_as_torchvision_does():
    sizes = {
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 64,
        "mlp_dim": 96,
        "num_classes": 5,
    }
    old = randomised(VisionTransformer(image_size=32, **sizes))
    for size in (56, 16):
        new = VisionTransformer(image_size=size, **sizes).eval()
        new.load_state_dict(interpolate_embeddings(size, 8, old.state_dict()))
        ours = pretrained.from_model(old, img_size=size)
        assert pretrained.parity(ours, new, torch.randn(2, 3, size, size)).equal


def test_positions_resized_as_the_papers_own_code_does():
    """vit_jax/checkpoint.py, interpolate_posembed: scipy.ndimage.zoom of order 1, linear along each axis, corner on corner."""
    grid = np.random.default_rng(0).normal(size=(4, 4, 8))
    for side in (7, 3):
        at = np.linspace(0, 3, side)
        theirs = grid
        for axis in (0, 1):
            theirs = np.apply_along_axis(lambda line, at=at: np.interp(at, range(4), line), axis, theirs)
        positions = torch.from_numpy(grid).reshape(1, 16, 8)
        how = pretrained.FAMILIES["jax"].resizing
        ours = pretrained.resize_pos_embed(positions, (side, side), 0, resizing=how)
        torch.testing.assert_close(ours, torch.from_numpy(theirs).reshape(1, -1, 8))


@pytest.mark.parametrize("registers", [0, 4])
def test_positions_resized_as_the_authors_of_dinov2_do(registers, capsys):
    """dinov2/hub/backbones.py: bicubic at a scale with 0.1 added, unless there are registers, which are resized as in timm."""
    theirs = randomised(
        timm.models.VisionTransformer(
            img_size=70, patch_size=14, embed_dim=64, depth=1, num_heads=1, num_classes=0, init_values=1.0,
            reg_tokens=registers, no_embed_class=False,
        )
    )  # fmt: skip
    state = dict(theirs.state_dict(), mask_token=torch.zeros(1, 64))
    if registers:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = state["pos_embed"][:, : 1 + 25]
    ours = pretrained.convert(state).model(img_size=42)
    grid = state["pos_embed"][:, 1:26].reshape(1, 5, 5, 64).permute(0, 3, 1, 2)
    how = {"size": (3, 3), "antialias": True} if registers else {"scale_factor": (3.1 / 5, 3.1 / 5)}
    expected = nn.functional.interpolate(grid, mode="bicubic", **how).flatten(2).mT
    torch.testing.assert_close(ours.pos_embed[:, 1:], expected)
    assert torch.equal(ours.pos_embed[:, :1], state["pos_embed"][:, :1])


def test_how_positions_are_resized_can_be_chosen_and_is_said(capsys):
    state = randomised(timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=1)).state_dict()  # fmt: skip
    guessed = pretrained.convert(state).model(img_size=16)
    chosen = pretrained.convert(state, img_size=32, resizing=pretrained.Resizing(antialias=False)).model(
        img_size=16
    )
    assert not torch.allclose(guessed.pos_embed, chosen.pos_embed)
    assert "timm does it like this; the authors of DeiT, DINO and MAE" in guessed.pretrained_cfg["notes"][-1]
    said = chosen.pretrained_cfg["notes"][-1]
    assert said == "Positions were resized from 4 x 4 to 2 x 2 patches (bicubic, without antialiasing)."
    with pytest.raises(pretrained.WeightsError, match="resizing is a Resizing"):
        pretrained.convert(state, resizing="bilinear")


class OfDino(timm.models.VisionTransformer):
    """With the method that shows how the authors' own class resizes."""

    def interpolate_pos_encoding(self, x, w, h):
        raise NotImplementedError


class OfDinov2(OfDino):
    interpolate_antialias, interpolate_offset = True, 0.0


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (OfDino, "without antialiasing, for a grid that is 0.1 larger"),
        (OfDinov2, "(bicubic, with antialiasing)"),
    ],
)
def test_how_positions_are_resized_is_read_from_a_model_that_says_it(kind, how, capsys):
    theirs = randomised(kind(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=1))
    pretrained.from_model(theirs, img_size=16)
    assert how in capsys.readouterr().out
