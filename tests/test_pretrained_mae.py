"""MAE as it is published, in our ViT: on the Hugging Face Hub, in the authors' files, and in timm's.

The authors' files, github.com/facebookresearch/mae: mae_pretrain_*.pth has the encoder, mae_visualize_*.pth and
mae_pretrain_*_full.pth the decoder as well, and mae_finetuned_*.pth a head that reads the mean over the patches.
"""

import argparse
import json
import sys

import pytest
import torch
from test_masked import ours_from
from test_pretrained_transformers import DECODER, InOrder, build, pictures, saved
from torch import nn

from vit_edu import data, inspect, pretrained, transfer
from vit_edu.models import MaskedAutoencoder, ViT
from vit_edu.models.masked import random_masking
from vit_edu.pretrained import loading

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

# The decoder of `DECODER`: mask token, positions, two tensors each for embedding, norm and prediction, 16 in each block. The
# authors have one matrix for queries, keys and values.
IN_DECODER = 2 + 2 * 3 + 16 * 3
IN_AUTHORS_DECODER = 1 + 2 * 3 + 12 * 3  # besides the mask token
SIZES = {
    "base": {},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120, "patch_size": 14},
}  # fmt: skip


def whole(**arguments):
    """transformers' model with its decoder, on pictures of 70 x 70 pixels in patches of 14, with 4 heads."""
    return build("ViTMAEForPreTraining", "ViTMAEConfig", **DECODER | arguments)


def authors_names(theirs):
    """The state dict of transformers' `ViTMAEForPreTraining` as the authors name it: timm's names, and decoder_ before the rest."""
    found = {}
    for name, value in ours_from(theirs.state_dict()).items():
        name = name.removeprefix("encoder.").replace("decoder.head.", "decoder.pred.")
        name = "mask_token" if name == "decoder.mask_token" else name.replace("decoder.", "decoder_", 1)
        found[name] = value
    return found


def of_the_encoder(state):
    return {k: v for k, v in state.items() if not k.startswith(("decoder_", "mask_token"))}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["ViTMAEModel", "ViTMAEForPreTraining"])
def test_the_published_sizes_on_the_hub(size, kind):
    """Names and shapes, and what config.json tells besides."""
    with torch.device("meta"):
        config = transformers.ViTMAEConfig(**SIZES[size])
        theirs = getattr(transformers, kind)(config)
        found = pretrained.from_model(theirs)
        bare = pretrained.convert(theirs.state_dict())
    assert type(found) is ViT
    assert len(found.blocks) == config.num_hidden_layers
    assert found.blocks[0].attn.num_heads == bare.arguments["num_heads"] == config.num_attention_heads
    assert found.patch_embed.img_size == (224, 224)
    assert found.blocks[0].norm1.eps == bare.norm_eps == 1e-12
    assert len(found.pretrained_cfg["ignored"]) == (2 + 2 * 3 + 16 * 8 if "Pre" in kind else 0)


def test_a_whole_file_says_how_much_of_it_is_left_out(tmp_path, capsys):
    ours = pretrained.load(saved(whole(), tmp_path, size=70, processor="ViTImageProcessor"))
    said = f"Left out: {IN_DECODER} tensors such as decoder."
    assert said in capsys.readouterr().out
    notes = ours.pretrained_cfg["notes"]
    (note,) = [n for n in notes if n.startswith(said)]
    assert "MAE's decoder paints hidden patches" in note
    state = pretrained.read(tmp_path / "model.safetensors")
    assert {k.partition(".")[0] for k in state} == {"vit", "decoder"}
    lines = str(pretrained.convert(state)).splitlines()
    assert sum("ignored" in line for line in lines) == 1
    assert f"  ignored {IN_DECODER} tensors such as decoder." in "\n".join(lines)
    # Without a decoder, nothing is left out
    encoder = pretrained.load(saved(whole().vit, tmp_path / "encoder", size=None))
    assert not any("Left out" in note for note in encoder.pretrained_cfg["notes"])


@pytest.mark.parametrize("shuffled", [False, True])
def test_all_tokens_without_a_mask(shuffled):
    """Theirs shuffles the patches even then, and gives them back in the shuffled order."""
    theirs = whole()
    mae = MaskedAutoencoder(70, 14, embed_dim=64, depth=2, num_heads=4, mlp_ratio=1.5, decoder_dim=16)
    encoder = pretrained.convert(theirs.state_dict(), num_heads=4).load_into(mae.encoder).eval()
    x = torch.randn(3, 3, 70, 70)
    noise = torch.rand(3, 25) if shuffled else torch.arange(25.0).expand(3, -1)
    ids_keep, _, _ = random_masking(noise, 25)
    with torch.no_grad():
        expected = theirs.vit(x, noise=noise).last_hidden_state
        torch.testing.assert_close(mae.encode(x, ids_keep), expected, atol=1e-5, rtol=1e-5)
        # Attention does not mind the order, so the class token is the same
        torch.testing.assert_close(encoder(x), expected[:, 0], atol=1e-5, rtol=1e-5)
        positions = theirs.vit.embeddings.position_embeddings
    assert torch.equal(encoder.pos_embed, positions)


def test_the_fixed_positions_arrive_as_they_are():
    """Their first half tells the column and that of our sines the row, so they have to come from the file."""
    theirs = whole()
    embeddings = transformers.models.vit_mae.modeling_vit_mae.ViTMAEEmbeddings(theirs.config)
    embeddings.initialize_weights()  # a new model of some versions has zeros
    theirs.vit.embeddings.position_embeddings.copy_(embeddings.position_embeddings)
    ours = pretrained.from_model(theirs)
    assert torch.equal(ours.pos_embed, embeddings.position_embeddings)
    fixed = ViT(70, 14, embed_dim=64, depth=1, num_heads=4, pos_embed="sincos").pos_embed
    torch.testing.assert_close(fixed.roll(32, dims=2), ours.pos_embed.detach(), atol=1e-5, rtol=1e-5)
    assert pretrained.parity(ours, InOrder(theirs.vit), torch.randn(2, 3, 70, 70)).equal


@pytest.mark.parametrize("holds", ["the encoder", "the decoder as well", "a run of the authors' code"])
def test_the_authors_files(holds, tmp_path):
    theirs = whole(layer_norm_eps=1e-6)
    state = authors_names(theirs)
    assert {"blocks.1.attn.qkv.weight", "decoder_blocks.2.norm1.bias", "decoder_pred.weight"} <= state.keys()
    content = {"model": of_the_encoder(state) if holds == "the encoder" else state}
    if "run" in holds:
        optimizer = torch.optim.AdamW(theirs.parameters())
        options = argparse.Namespace(batch_size=64, model="mae_vit_base_patch16", output_dir="./out")
        content |= {"optimizer": optimizer.state_dict(), "epoch": 799, "scaler": {}, "args": options}
    torch.save(content, tmp_path / "mae.pth")
    ours = pretrained.convert(pretrained.read(tmp_path / "mae.pth"), num_heads=4).model()
    result = pretrained.parity(ours, InOrder(theirs.vit), torch.randn(2, 3, 70, 70))
    assert result.equal, str(result)
    left_out = [note for note in ours.pretrained_cfg["notes"] if "Left out" in note]
    if holds == "the encoder":
        assert left_out == []
    else:
        assert any(f"{IN_AUTHORS_DECODER} tensors such as decoder_" in note for note in left_out)
        assert any(note.startswith("Left out: mask_token (") for note in left_out)
    # `load` goes by the usual width of a head, and says so
    loaded = pretrained.load(tmp_path / "mae.pth")
    assert "1 were taken, as is usual for a width of 64" in "\n".join(loaded.pretrained_cfg["notes"])


def test_code_among_the_options_of_a_run_is_not_executed(tmp_path):
    class Surprise:
        def __reduce__(self):
            return print, ("executed",)

    options = argparse.Namespace(model=Surprise())
    torch.save({"model": of_the_encoder(authors_names(whole())), "args": options}, tmp_path / "mae.pth")
    with pytest.raises(pretrained.WeightsError, match="Nothing in it was run"):
        pretrained.load(tmp_path / "mae.pth")


def test_positions_are_resized_as_their_authors_do(capsys):
    """transformers and the authors' util/pos_embed.py: bicubic, without antialiasing."""
    theirs = whole()
    x = torch.randn(2, 3, 42, 42)
    with torch.no_grad():
        noise = torch.arange(9.0).expand(2, -1)
        expected = theirs.vit(x, noise=noise, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    for state in (theirs.state_dict(), authors_names(theirs)):
        ours = pretrained.convert(state, num_heads=4, norm_eps=1e-12).model(img_size=42)
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)
        said = capsys.readouterr().out
        assert "resized from 5 x 5 to 3 x 3 patches (bicubic, without antialiasing)." in said


@pytest.mark.parametrize("with_timm", [True, False])
def test_the_repository_of_timm(with_timm, tmp_path, monkeypatch):
    """timm/vit_base_patch16_224.mae, with two blocks: no head, class token, the pixels of ImageNet."""
    theirs = timm.create_model("vit_base_patch16_224.mae", depth=2).eval().requires_grad_(False)
    for p in theirs.parameters():
        p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) * 0.02)
    timm.models.save_for_hf(theirs, tmp_path, model_args={"depth": 2} if with_timm else None)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (config["architecture"], config["pretrained_cfg"]["tag"]) == ("vit_base_patch16_224", "mae")
    if not with_timm:
        monkeypatch.setitem(sys.modules, "timm", None)
    ours = pretrained.load(tmp_path)
    assert type(ours) is ViT
    x = pretrained.preprocess(pictures(), ours)
    assert x.shape == (2, 3, 224, 224)
    assert ours.pretrained_cfg["mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    result = pretrained.parity(ours, theirs, x)
    assert result.equal, str(result)
    notes = ours.pretrained_cfg["notes"]
    assert not any("Left out" in note for note in notes)
    assert any("12 were taken" in note for note in notes) != with_timm  # only timm knows
    assert any("The weights have no head" in note for note in notes)


def test_a_file_that_was_fine_tuned(tmp_path):
    """mae_finetuned_vit_base.pth: the mean over the patches, without the class token, then a norm of its own, and no other."""
    theirs = timm.models.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=64, depth=2, num_heads=1, num_classes=1000
    ).eval()
    theirs.fc_norm = nn.LayerNorm(64, eps=1e-6)  # as in the authors' models_vit.py
    del theirs.norm
    theirs.requires_grad_(False)
    for p in theirs.parameters():
        p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    torch.save({"model": theirs.state_dict()}, tmp_path / "mae_finetuned.pth")
    ours = pretrained.load(tmp_path / "mae_finetuned.pth")
    x = torch.randn(2, 3, 64, 64)
    tokens = torch.cat([theirs.cls_token.expand(2, -1, -1), theirs.patch_embed(x)], dim=1) + theirs.pos_embed
    pooled = theirs.fc_norm(theirs.blocks(tokens)[:, 1:].mean(dim=1))
    torch.testing.assert_close(ours(x), theirs.head(pooled), atol=1e-5, rtol=1e-5)
    assert ours.pretrained_cfg["classes"][0] == "tench"
    assert pretrained.load(tmp_path / "mae_finetuned.pth", num_classes=7)(x).shape == (2, 7)


def test_who_asks_for_the_head_is_told_that_there_is_none(tmp_path, capsys):
    folder = saved(whole(), tmp_path, size=70, processor="ViTImageProcessor")
    ours = pretrained.load(folder)
    assert ours.pretrained_cfg["classes"] == ()  # config.json names two, LABEL_0 and LABEL_1
    assert "The weights have no head, so there are no classes: the model returns 64 numbers for each picture. transfer.new_head(model, num_classes) adds a head, which has to be trained." in ours.pretrained_cfg["notes"]  # fmt: skip
    assert transfer.new_head(ours, 5)(torch.randn(2, 3, 70, 70)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"has no head: it gives features.*new_head\(model, num_classes\)"):
        transfer.share_right(ours, data.shapes(train=10, test=10).test)
    with pytest.raises(ValueError, match="this ViT has no head, so it does not name a class"):
        inspect.importance(ours, torch.randn(1, 3, 70, 70), "gradient x input")
    capsys.readouterr()
    assert pretrained.load(folder, num_classes=5).head.weight.shape == (5, 64)
    said = "The weights have no head, and 5 classes were asked for. The new head is all zeros: train it before you use it."
    assert said in capsys.readouterr().out


def test_a_preprocessing_that_does_not_name_its_class(tmp_path):
    """As facebook/vit-mae-base has had it."""
    folder = saved(whole(), tmp_path, size=None)
    said = {"do_normalize": True, "do_resize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": 70}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
    ours = pretrained.load(folder)
    assert pretrained.preprocess(pictures(), ours).shape == (2, 3, 70, 70)
    assert ours.pretrained_cfg["mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert loading.HUB_WEIGHTS[0] in ours.pretrained_cfg["source"]
