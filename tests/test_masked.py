"""Masked patches: the masks, the model beside transformers' own, the task in the trainer, and what ships of it."""

import dataclasses
import re

import pytest
import torch
from wanted import library

from vit_edu import cli, data, plot, pretrained, training, transfer
from vit_edu.authoring import shipping
from vit_edu.models import MaskedAutoencoder, ViT, make_model
from vit_edu.models.masked import (
    decoder_input,
    encoder_input,
    gather_tokens,
    masked_loss,
    normalized_patches,
    random_masking,
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


@pytest.mark.parametrize("keep", [0, 5, -1, 2.0, "2", None, float("nan")])
def test_how_many_can_be_kept(keep):
    said = f"of 4 patches, between 1 and 4 can be kept, got keep={keep!r}. Take another whole number"
    with pytest.raises(ValueError, match=re.escape(said)):
        random_masking(torch.rand(2, 4), keep)


@pytest.mark.parametrize(
    ("noise", "got"), [(torch.rand(4), "(4,)"), (torch.rand(2, 2, 2), "(2, 2, 2)"), ([[0.1, 0.2]], "a list")]
)
def test_noise_that_is_not_for_the_patches_of_a_batch(noise, got):
    with pytest.raises(ValueError, match=re.escape(f"a number for each patch of each image, got {got}.")):
        random_masking(noise, 1)


def test_each_token_has_its_position_in_the_encoder_and_in_the_decoder():
    tokens, positions = (
        torch.arange(8.0).reshape(2, 4, 1),
        torch.tensor([100.0, 200, 300, 400]).reshape(1, 4, 1),
    )
    ids_keep, ids_restore, _ = random_masking(torch.tensor([[0.9, 0.2, 0.4, 0.1], [0.5, 0.1, 0.3, 0.7]]), 2)
    seen = encoder_input(tokens, positions, ids_keep)
    assert seen[..., 0].tolist() == [[403, 201], [205, 306]]
    back = decoder_input(seen, ids_restore, torch.tensor([[[-1.0]]]), positions / 100)
    assert back[..., 0].tolist() == [[0, 203, 2, 407], [0, 207, 309, 3]]


def test_only_removed_patches_count():
    images = torch.rand(2, 3, 16, 16)
    target = normalized_patches(images, 8)
    torch.testing.assert_close(target.mean(dim=-1), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(dim=-1), torch.ones(2, 4), atol=1e-4, rtol=0)
    mask = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]])
    wrong = torch.where(mask[..., None] == 1, target + 2, target + 100)
    assert masked_loss(wrong, images, mask, 8).item() == pytest.approx(4, rel=1e-4)
    flat = normalized_patches(torch.full((1, 3, 16, 16), 0.7), 8)
    torch.testing.assert_close(flat, torch.zeros(1, 4, 192), atol=1e-3, rtol=0)


# ---------------------------------------------------------------- the model


NAMES = {  # transformers' names and ours, in this order
    "vit.embeddings.patch_embeddings.projection": "encoder.patch_embed.proj",
    "vit.embeddings.position_embeddings": "encoder.pos_embed",
    "vit.embeddings.cls_token": "encoder.cls_token",
    "vit.layernorm": "encoder.norm",
    "vit.layers": "encoder.blocks",
    "decoder.decoder_layers": "decoder.blocks",
    "decoder.decoder_pred": "decoder.head",
    "decoder.decoder_": "decoder.",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.o_proj": "attn.proj",
    "attention.": "attn.",
}


def ours_from(theirs):
    """Weights of transformers' ViTMAEForPreTraining by the names of a `MaskedAutoencoder`."""
    found = {}
    for name, value in theirs.items():
        for their_name, our_name in NAMES.items():
            name = name.replace(their_name, our_name)
        found[name] = value
    for name in [name for name in found if ".q_proj." in name]:
        parts = [found.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        found[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
    return found


@pytest.mark.parametrize(
    ("mask_ratio", "sizes"),
    [
        (0.75, {}),
        (0.5, {}),
        # Another image, patch and width, and more blocks and heads in the decoder than in the encoder
        (0.75, {"image_size": 48, "patch_size": 4, "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3,
                "intermediate_size": 96, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 2,
                "decoder_num_attention_heads": 4, "decoder_intermediate_size": 64}),
    ],
)  # fmt: skip
def test_it_computes_what_transformers_computes(mask_ratio, sizes):
    """In float64, so that only a mistake could differ. Every tensor of theirs is random, also positions and mask token."""
    torch.manual_seed(1)
    sizes = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
    } | sizes
    config = transformers.ViTMAEConfig(
        **sizes, mask_ratio=mask_ratio, norm_pix_loss=True, layer_norm_eps=1e-6
    )
    theirs = transformers.ViTMAEForPreTraining(config).double().eval().requires_grad_(False)
    for p in theirs.parameters():
        p.add_(0.3 * torch.randn_like(p))
    ours = MaskedAutoencoder(
        sizes["image_size"],
        sizes["patch_size"],
        mask_ratio=mask_ratio,
        embed_dim=sizes["hidden_size"],
        depth=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        mlp_ratio=2,
        decoder_dim=sizes["decoder_hidden_size"],
        decoder_depth=sizes["decoder_num_hidden_layers"],
        decoder_heads=sizes["decoder_num_attention_heads"],
    ).double()
    ours.load_state_dict(ours_from(theirs.state_dict()))
    side, patches = sizes["image_size"], ours.num_patches
    images, noise = torch.randn(5, 3, side, side).double(), torch.rand(5, patches)
    with torch.no_grad():
        expected = theirs(images, noise=noise)
        predicted, mask = ours(images, noise)
        loss = ours.loss(images, noise)
    assert torch.equal(mask, expected.mask.to(mask.dtype))
    assert mask.sum(dim=1).tolist() == [mask_ratio * patches] * 5
    torch.testing.assert_close(predicted, expected.logits)
    torch.testing.assert_close(loss.double(), expected.loss, atol=1e-5, rtol=1e-5)  # ours is in float32


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


WAYS = {
    "the class": lambda arguments: small(**arguments),
    "make_model": lambda arguments: make_model(FAST.model | arguments, (3, 32, 32), 0),
    "a recipe": lambda arguments: training.build_model(
        dataclasses.replace(FAST, model=FAST.model | arguments), data.shapes(train=10, test=10)
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, 75, float("nan"), float("inf"), "0.75", None, [0.75]])
def test_a_mask_ratio_that_is_no_share(way, ratio):
    said = f"the share of the patches that is removed: expected a number above 0 and below 1, such as 0.75, got {ratio!r}."
    with pytest.raises(ValueError, match=re.escape(said)):
        WAYS[way]({"mask_ratio": ratio})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mask_ratio": 0.99}, "mask_ratio 0.99 keeps 0 of 16 patches: at least one must be kept"),
        ({"mask_ratio": 0.01}, "mask_ratio 0.01 keeps 16 of 16 patches: at least one must be kept"),
        ({"patch_size": 32}, "keeps 0 of 1 patches: at least one must be kept, and at least one removed. Take another mask_ratio"),
        ({"patch_size": 5}, "cannot be cut into 5 x 5 patches: both sides must be multiples of 5. Resize or crop"),
        ({"patch_size": 64}, "cannot be cut into 64 x 64 patches"),
        ({"patch_size": 0}, "expected a whole number of at least 1, got 0"),
        ({"patch_size": -4}, "expected a whole number of at least 1, got -4"),
        ({"patch_size": "8"}, "expected a whole number of at least 1, got '8'"),
        ({"patch_size": 8.0}, "expected a whole number of at least 1, got 8.0"),
        ({"decoder_dim": 18}, "expected decoder_dim to be a multiple of 4 and of decoder_heads"),
        ({"decoder_dim": 16, "decoder_heads": 3}, "got decoder_dim=16, decoder_heads=3"),
        ({"decoder_heads": 0}, "decoder_heads=0"),
        ({"decoder_depth": -1}, "decoder_depth=-1"),
        ({"decoder_depth": "1"}, "decoder_depth='1'"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_named(way, arguments, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        WAYS[way](arguments)


def test_what_a_model_cannot_read_or_give():
    with pytest.raises(ValueError, match="has no head for 10 numbers"):
        small(num_classes=10)
    images = torch.rand(2, 3, 32, 32)
    model = small()
    for noise, got in ((torch.rand(1, 16), "(1, 16)"), (torch.rand(2, 15), "(2, 15)"), (torch.rand(2, 4, 4), "(2, 4, 4)"),
                       ([0.5] * 16, "a list"), (0.5, "a float")):  # fmt: skip
        said = f"expected noise for each patch of each image, (2, 16), got {got}. Leave noise out, and it is drawn."
        for call in (model, model.loss):
            with pytest.raises(ValueError, match=re.escape(said)):
                call(images, noise)
    for wrong in (torch.rand(2, 3, 16, 16), torch.rand(2, 1, 32, 32), torch.rand(3, 32, 32)):
        with pytest.raises(
            ValueError, match=r"reads images of shape \(B, 3, 32, 32\), got .* Resize the images"
        ):
            model.loss(wrong)


def test_muon_and_weight_decay_reach_both_parts():
    model = small()
    inner = {id(value) for value in training.optim.inner_matrices(model)}
    names = {name for name, value in model.named_parameters() if id(value) in inner}
    assert {n.split(".")[0] for n in names} == {"encoder", "decoder"}
    assert len(names) == 4 * 3 + 2
    assert "decoder.head.weight" not in names
    optimizer = training.make_optimizer(model, dataclasses.replace(FAST, optimizer="muon"))
    still = [id(v) for group in optimizer.param_groups if not group["weight_decay"] for v in group["params"]]
    assert id(model.encoder.pos_embed) in still
    assert id(model.decoder.mask_token) in still
    assert id(model.decoder.head.weight) not in still
    assert len(training.optim.branch_ends(model)) == 2 * 3


# ---------------------------------------------------------------- the task


@pytest.fixture(scope="module")
def images():
    return data.shapes(train=300, test=40)


@pytest.fixture(scope="module")
def slopes(images):
    """Pictures that grow brighter to the right, to the left, downwards or upwards: each patch tells about all others."""
    right = torch.linspace(0, 255, 32).to(torch.uint8).expand(3, 32, 32)
    four = torch.stack([right, right.flip(2), right.mT, right.mT.flip(1)])
    return dataclasses.replace(
        images, train=dataclasses.replace(images.train, images=four.repeat(75, 1, 1, 1))
    )


TINY = dataclasses.replace(FAST, batch_size=50, optimizer="muon", zero_init=True, validation=0.1)


def train(images, out=None, recipe=TINY, **options):
    model = training.build_model(recipe, images)
    return model, training.fit(model, images, recipe, out=out, **options)


def test_a_run_learns_and_is_drawn(slopes):
    recipe = dataclasses.replace(TINY, epochs=12, learning_rate=6e-3, crop=0)
    _, history = train(slopes, recipe=recipe)
    assert history[0]["val_error_of_removed_patches"] > 0.9  # guessing gives 1
    assert history[-1]["val_error_of_removed_patches"] < 0.8
    curves = plot.learning_curves(history, recipe, classes=10)
    assert curves.axes[1].get_title() == "Error of removed patches on held-out images"


def test_a_run_resumes_and_is_evaluated(images, tmp_path, capsys):
    whole, history = train(images)

    class Killed(Exception):
        pass

    def die(history):
        raise Killed

    with pytest.raises(Killed):
        train(images, tmp_path, on_epoch=die)
    resumed, again = train(images, tmp_path)
    assert [entry["loss"] for entry in again] == [entry["loss"] for entry in history]
    assert all(map(torch.equal, resumed.state_dict().values(), whole.state_dict().values()))
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path), "--data", "shapes"]) == 0
    assert re.search(r"test error of removed patches \d\.\d+ of 2,000 images", capsys.readouterr().out)


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


# ---------------------------------------------------------------- what remains


def test_a_run_gives_its_encoder(images, tmp_path):
    model, _ = train(images, tmp_path, dataclasses.replace(TINY, epochs=1))
    x = torch.randn(2, 3, 32, 32)
    loaded = pretrained.load(tmp_path)
    assert torch.equal(loaded(x), model.eval().encoder(x))
    assert loaded.pretrained_cfg["classes"] == ()
    assert "has no head" in loaded.pretrained_cfg["notes"][0]
    assert pretrained.load(tmp_path, num_classes=3)(x).shape == (2, 3)
    whole, _ = training.load_run(tmp_path)
    noise = torch.rand(2, 16)
    assert torch.equal(whole(x, noise)[0], model(x, noise)[0])


def test_the_encoder_is_shipped_with_a_card(images, tmp_path):
    model, history = train(images, tmp_path / "run")
    card = shipping.ship(tmp_path / "run", "tiny", images, "shapes", "A laptop.", folder=tmp_path)
    encoder = pretrained.read_weights(tmp_path / "tiny.safetensors")
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(encoder(x), model.eval().encoder(x), atol=1e-2, rtol=1e-2)
    state = training.read_checkpoint(tmp_path / "run" / "checkpoint.pt")
    _, error = training.score_test(model, state, images)
    held_out = history[-1]["val_error_of_removed_patches"]
    assert f"{held_out:.3f} on held-out images, {error:.3f} on the test images" in card
    assert f"ViT, {sum(p.numel() for p in encoder.parameters()):,} parameters" in card
    head = []
    for draw in range(3):
        labelled = transfer.few(images.train, 3, draw)
        probe = transfer.linear_probe(transfer.features(encoder, labelled.images), labelled.labels, 10)
        right = probe(transfer.features(encoder, images.test.images)).argmax(dim=1) == images.test.labels
        head.append(right.float().mean().item())
    assert f"  - 3 of each class: {sum(head) / 3:.1%}; the same encoder untrained: " in card


def test_the_encoder_that_comes_with_the_course():
    model = pretrained.load("vit-cifar10-mae")
    x = torch.rand(2, 3, 32, 32)
    assert type(model) is ViT
    assert model(x).shape == (2, 64)
    about = model.pretrained_cfg
    assert about["classes"] == ()
    assert "transfer.new_head(model, num_classes)" in about["notes"][0]
    assert "Linear probe" in about["card"]
    headed = transfer.new_head(model, 7)
    assert headed(x).shape == (2, 7)
    assert pretrained.load("vit-cifar10-mae", num_classes=7)(x).shape == (2, 7)
    assert pretrained.load("vit-cifar10-mae", img_size=48)(torch.rand(1, 3, 48, 48)).shape == (1, 64)
    with pytest.raises(ValueError, match="has no head"):
        transfer.share_right(model, data.shapes(train=10, test=10).test)
