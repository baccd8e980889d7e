"""Masked patches: the masks, the model beside transformers' own, the task in the trainer, and what ships of it."""

import dataclasses
import re

import pytest
import torch

from wanted import library
from vit_edu import cli, data, plot, pretrained, training
from vit_edu.authoring import shipping
from vit_edu.models import MaskedAutoencoder, ViT, make_model
from vit_edu.models.masked import (
    encoder_arguments,
    gather_tokens,
    normalized_patches,
    random_masking,
    reconstruction_loss,
)

transformers = library("transformers")
FAST = training.RECIPES["fast-masked"]


def small(**changes):
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "decoder_dim": 16}
    return MaskedAutoencoder(**sizes | changes)


# ---------------------------------------------------------------- the pieces


def test_the_patches_with_the_smallest_noise_are_kept():
    noise = torch.tensor([[0.3, 0.1, 0.9, 0.2], [0.4, 0.8, 0.5, 0.6]])
    ids_keep, ids_restore, mask = random_masking(noise, keep=2)
    assert ids_keep.tolist() == [[1, 3], [0, 2]]
    assert mask.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]
    # The kept ones, then anything in the place of the removed ones, come back into reading order
    tokens = torch.arange(8.0).reshape(2, 4, 1)
    shuffled = torch.cat([gather_tokens(tokens, ids_keep), torch.full((2, 2, 1), -1.0)], dim=1)
    back = gather_tokens(shuffled, ids_restore)[..., 0]
    assert back.tolist() == [[-1, 1, -1, 3], [4, -1, 6, -1]]


@pytest.mark.parametrize("keep", [0, 5])
def test_how_many_can_be_kept(keep):
    with pytest.raises(ValueError, match=rf"of 4 patches, between 1 and 4 can be kept, got keep={keep}"):
        random_masking(torch.rand(2, 4), keep)


def test_only_removed_patches_count():
    images = torch.rand(2, 3, 16, 16)
    target = normalized_patches(images, 8)
    torch.testing.assert_close(target.mean(dim=-1), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(dim=-1), torch.ones(2, 4), atol=1e-4, rtol=0)
    mask = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]])
    wrong = torch.where(mask[..., None] == 1, target + 2, target + 100)
    assert reconstruction_loss(wrong, target, mask).item() == pytest.approx(4, rel=1e-4)
    flat = normalized_patches(torch.full((1, 3, 16, 16), 0.7), 8)
    torch.testing.assert_close(flat, torch.zeros(1, 4, 192), atol=1e-3, rtol=0)


# ---------------------------------------------------------------- the model


NAMES = (  # transformers' names, up to version 4 and since, and ours
    (r"^vit\.embeddings\.(cls_token)", r"encoder.\1"),
    (r"^vit\.embeddings\.position_embeddings", "encoder.pos_embed"),
    (r"^vit\.embeddings\.patch_embeddings\.projection", "encoder.patch_embed.proj"),
    (r"^vit\.(encoder\.layer|layers)\.", "encoder.blocks."),
    (r"^vit\.layernorm", "encoder.norm"),
    (r"^decoder\.decoder_layers\.", "decoder.blocks."),
    (r"^decoder\.decoder_pred", "decoder.head"),
    (r"^decoder\.decoder_", "decoder."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.(output\.dense|o_proj)", "attn.proj"),
    (r"(mlp\.fc1|intermediate\.dense)", "mlp.fc1"),
    (r"(mlp\.fc2|(?<=\d\.)output\.dense)", "mlp.fc2"),
    (r"attention\.(attention\.query|q_proj)", "attn.q"),
    (r"attention\.(attention\.key|k_proj)", "attn.k"),
    (r"attention\.(attention\.value|v_proj)", "attn.v"),
)


def ours_from(theirs):
    """Weights of transformers' ViTMAEForPreTraining by the names of a `MaskedAutoencoder`."""
    found = {}
    for name, value in theirs.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    for name in [name for name in found if ".attn.q." in name]:
        parts = [found.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        found[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return found


@pytest.mark.parametrize("mask_ratio", [0.75, 0.5])
def test_it_computes_what_transformers_computes(mask_ratio):
    torch.manual_seed(1)
    config = transformers.ViTMAEConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
        mask_ratio=mask_ratio,
        norm_pix_loss=True,
        layer_norm_eps=1e-6,
        initializer_range=0.3,
    )
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    ours = small(mask_ratio=mask_ratio)
    ours.load_state_dict(ours_from(theirs.state_dict()))
    images, noise = torch.randn(5, 3, 32, 32), torch.rand(5, 16)
    with torch.no_grad():
        expected = theirs(images, noise=noise)
        predicted, mask = ours(images, noise)
        loss = ours.loss(images, noise)
    assert torch.equal(mask, expected.mask)
    torch.testing.assert_close(predicted, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss, expected.loss)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_removed_patches_are_not_seen(pool):
    model = small(global_pool=pool, img_size=(16, 32)).eval()
    images, noise = torch.randn(2, 3, 16, 32), torch.rand(2, 8)
    predicted, mask = model(images, noise)
    assert mask.sum(dim=1).tolist() == [6, 6]
    removed = mask.reshape(2, 1, 2, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.testing.assert_close(model(images * (1 - removed), noise)[0], predicted)
    assert not torch.allclose(model(images * removed, noise)[0], predicted, atol=1e-3)
    # In reading order, the noise decides about places and not about the order in which tokens come
    ids_keep = torch.arange(8).expand(2, 8)
    whole = model.encode(images, ids_keep)
    pooled = whole[:, 0] if pool == "token" else whole.mean(dim=1)
    torch.testing.assert_close(pooled, model.encoder(images))


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="has no head for 10 numbers"):
        small(num_classes=10)
    with pytest.raises(ValueError, match="mask_ratio 0.99 keeps 0 of 16 patches"):
        small(mask_ratio=0.99)
    with pytest.raises(ValueError, match="mask_ratio 0 keeps 16 of 16 patches"):
        small(mask_ratio=0)
    with pytest.raises(ValueError, match="multiple of 4"):
        small(decoder_dim=18)


def test_muon_and_weight_decay_reach_both_parts():
    model = small()
    inner = {id(value) for value in training.optim.inner_matrices(model)}
    names = {name for name, value in model.named_parameters() if id(value) in inner}
    assert {n.split(".")[0] for n in names} == {"encoder", "decoder"}
    assert len(names) == 4 * 3 + 2 and "decoder.head.weight" not in names
    optimizer = training.make_optimizer(model, dataclasses.replace(FAST, optimizer="muon"))
    still = [id(v) for group in optimizer.param_groups if not group["weight_decay"] for v in group["params"]]
    assert id(model.encoder.pos_embed) in still and id(model.decoder.mask_token) in still
    assert id(model.decoder.head.weight) not in still
    assert len(training.optim.branch_ends(model)) == 2 * 3


# ---------------------------------------------------------------- the task


@pytest.fixture(scope="module")
def images():
    return data.shapes(train=300, test=40)


TINY = dataclasses.replace(FAST, batch_size=50, optimizer="muon", zero_init=True, validation=0.1)


def train(images, out=None, recipe=TINY, **options):
    model = training.build_model(recipe, images)
    return model, training.fit(model, images, recipe, out=out, **options)


def test_a_run_learns_resumes_and_is_drawn(images, tmp_path, capsys):
    recipe = dataclasses.replace(TINY, epochs=4)
    whole, history = train(images, recipe=recipe)
    assert history[-1]["val_error_of_removed_patches"] < history[0]["val_error_of_removed_patches"] < 1.1
    assert history[-1]["loss"] < history[0]["loss"]

    class Killed(Exception):
        pass

    def die(history):
        if len(history) == 2:
            raise Killed

    with pytest.raises(Killed):
        train(images, tmp_path, recipe, on_epoch=die)
    resumed, again = train(images, tmp_path, recipe)
    assert [e["loss"] for e in again] == [e["loss"] for e in history]
    assert all(map(torch.equal, resumed.state_dict().values(), whole.state_dict().values()))
    curves = plot.learning_curves(history, recipe, classes=10)
    assert curves.axes[1].get_title() == "Error of removed patches on held-out images"
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path), "--data", "shapes"]) == 0
    assert re.search(r"test error of removed patches 0\.\d+ of 2,000 images", capsys.readouterr().out)


def test_the_score_has_the_same_masks_each_time(images):
    model = training.build_model(TINY, images).train()
    task = training.make_task(TINY, images)
    batches = [(torch.randn(20, 3, 32, 32), None) for _ in range(2)]
    state = torch.get_rng_state()
    first = task.score(model, batches)
    torch.rand(3)
    assert task.score(model, batches) == first
    assert model.training
    torch.set_rng_state(state)
    expected, generator = [], torch.Generator().manual_seed(0)
    for x, _ in batches:
        predicted, mask = model(x, torch.rand(20, 16, generator=generator))
        error = (predicted - normalized_patches(x, 8)).square().mean(dim=-1)
        expected.append(error[mask == 1].mean().item())
    assert first == pytest.approx(sum(expected) / 2, rel=1e-5)
    with pytest.raises(ValueError, match="nothing to evaluate on"):
        task.score(model, [])


def test_a_compiled_step_draws_masks(images):
    plain, _ = train(images, recipe=dataclasses.replace(TINY, epochs=1))
    lazy, _ = train(images, recipe=dataclasses.replace(TINY, epochs=1), compiler="eager")
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(lazy.state_dict()[name], value, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"patch_size": 8}}, "needs a model of kind \"masked\", got 'vit'"),
        ({"label_smoothing": 0.1, "cutmix": 1.0}, "leave label_smoothing, cutmix out"),
        ({"tokens": ((0.5, 0.5),)}, "leave tokens out"),
        ({"task": "classification"}, "has no head for 10 numbers"),
    ],
)
def test_recipes_that_make_no_sense(images, changes, says):
    with pytest.raises(ValueError, match=says):
        training.build_model(dataclasses.replace(TINY, **changes), images)
