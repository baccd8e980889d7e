"""Other tasks and sizes for trained weights: features are what the head reads, what is frozen stays, and a probe is a head."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from benchmarks import ten_labels
from vit_edu import data, models, pretrained, training, transfer
from vit_edu.models import ViT
from vit_edu.models.variants import PublishedViT

SHAPES = data.shapes(train=200, test=40)


@pytest.fixture(params=["avg", "token"])
def model(request):
    torch.manual_seed(0)
    arguments = {
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "global_pool": request.param,
    }
    made = ViT(img_size=32, **arguments).eval()
    made.pretrained_cfg = {
        "model": arguments,
        "classes": SHAPES.classes,
        "mean": SHAPES.mean,
        "std": SHAPES.std,
        "input_size": (3, 32, 32),
        "resize": 32,
    }
    return made  # fmt: skip


def test_features_are_what_the_head_reads(model):
    found = transfer.features(model, SHAPES.test.images)
    assert found.shape == (40, 16)
    with torch.no_grad():
        logits = model(data.normalize(SHAPES.test.images, SHAPES.mean, SHAPES.std))
        torch.testing.assert_close(model.head(found), logits)
    torch.testing.assert_close(transfer.in_batches(model, SHAPES.test.images, 7), logits)
    share = (logits.argmax(dim=1) == SHAPES.test.labels).float().mean().item()
    assert transfer.share_right(model, SHAPES.test) == pytest.approx(share)


def test_the_attention_that_patches_receive(model):
    batch = pretrained.preprocess(SHAPES.test.images[:5], model)
    maps = transfer.attended(model, batch)
    assert maps.shape == (5, 4, 4)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(5))
    # By hand, from the tokens that enter the last block
    with torch.no_grad():
        block = model.blocks[1]
        tokens = block.norm1(model.blocks[0](super(ViT, model).forward(batch)))  # (B, T, D)
        q, k, _ = block.attn.qkv(tokens).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / 8**0.5).softmax(dim=-1).mean(dim=1)  # (B, T, T)
        token = model.global_pool == "token"
        wanted = weights[:, 0, 1:] if token else weights.mean(dim=1)
    wanted = wanted / wanted.sum(dim=1, keepdim=True)
    torch.testing.assert_close(maps.flatten(1), wanted)


def test_a_fair_probe_is_ridge_regression_on_standardised_features():
    x, queries = (torch.randn(2, 40, 6) * 3 + 5).double()
    labels = torch.arange(40) % 3
    x[:, 4] = 7  # a feature that says nothing
    named = transfer.fair_probe(lambda images: images, x, labels, queries, 3, penalty=5.0)
    # The penalty as six more rows, whose features are to have the weights 0, and the bias as a column of ones, which they lack
    mean, std = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    rows = torch.cat([F.pad((x - mean) / std, (0, 1), value=1), 5**0.5 * torch.eye(6, 7)])
    wanted = F.pad(F.one_hot(labels, 3).double(), (0, 0, 0, 6))
    weight = torch.linalg.lstsq(rows, wanted, driver="gelsd").solution
    logits = F.pad((queries - mean) / std, (0, 1), value=1) @ weight
    assert torch.equal(named, logits.argmax(dim=1))
    assert len(named.unique()) == 3


def test_a_fair_probe_reads_frozen_features():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8))
    images, labels = torch.rand(30, 3, 2, 2), torch.arange(30) % 2
    images[labels == 1] += 9
    before = [value.clone() for value in model.parameters()]
    assert torch.equal(transfer.fair_probe(model, images, labels, images, 2), labels)
    assert all(map(torch.equal, model.parameters(), before))
    assert all(value.grad is None for value in model.parameters())
    # Where features say nothing, the bias names the commonest class
    labels[0] = 4
    named = transfer.fair_probe(lambda images: images[:, 0, 0, :1] * 0, images, labels, images, 5)
    assert named.tolist() == [1] * 30


def test_another_size_is_what_loading_at_that_size_gives():
    trained = pretrained.load("vit-cifar10")
    ours, theirs = transfer.at_size(trained, 48), pretrained.load("vit-cifar10", img_size=48)
    same = transfer.in_batches(ours, SHAPES.test.images[:4])
    torch.testing.assert_close(same, transfer.in_batches(theirs, SHAPES.test.images[:4]))
    assert trained.pretrained_cfg["input_size"] == (3, 32, 32)
    assert transfer.in_batches(trained, SHAPES.test.images[:1]).shape == (1, 10)


def test_another_size_from_a_grid_that_is_no_square():
    wide = pretrained.load("vit-cifar10", img_size=(16, 64))  # 64 patches, as in 8 x 8
    ours = transfer.at_size(wide, (32, 48))
    same = pretrained.from_model(wide, img_size=(32, 48))
    torch.testing.assert_close(ours.pos_embed, same.pos_embed)
    assert ours(torch.zeros(1, 3, 32, 48)).shape == (1, 10)


SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda: models.Mixer(mixer="mlp", **SMALL), "Mixer need.*resize the images.*one column for each of 17"),
        (lambda: models.Mixer(mixer="random", **SMALL), "who hears whom among 17 tokens"),
        (lambda: models.Mixer(mixer="fourier", **SMALL), "frequencies of 17 tokens"),
        (lambda: models.Mixer(mixer="pooling", **SMALL), "its weights fit a model of this img_size"),
        (lambda: models.LocalViT(**SMALL), "LocalViT need every token at its place.*to its own size.$"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [48, (16, 64)])  # the second has as many patches, on another grid
def test_a_model_whose_blocks_know_its_grid_keeps_it(model, why, size):
    with pytest.raises(ValueError, match=why):
        transfer.at_size(model(), size)


@pytest.mark.parametrize("positions", ["learn", "none"])
def test_a_mixer_that_treats_all_tokens_alike_changes_its_size(positions):
    mixer = models.Mixer(mixer="attention", pos_embed=positions, **SMALL).eval()
    mixer.pretrained_cfg = {"input_size": (3, 32, 32), "crop_pct": 1.0}
    larger = transfer.at_size(mixer, 48)
    vit = models.ViT(img_size=48, pos_embed=positions, **SMALL).eval()
    vit.load_state_dict(larger.state_dict())
    x = torch.randn(2, 3, 48, 48)
    assert torch.equal(larger(x), vit(x))


def test_few_takes_equally_many_of_each_class():
    some = transfer.few(SHAPES.train, 3)
    assert some.labels.bincount().tolist() == [3] * 10
    assert torch.equal(some.images, transfer.few(SHAPES.train, 3).images)
    assert not torch.equal(some.images, transfer.few(SHAPES.train, 3, seed=1).images)
    with pytest.raises(ValueError, match=r"30 images of each class .* class 0 has 20"):
        transfer.few(SHAPES.train, 30)


def test_a_probe_separates_what_a_line_can_separate():
    torch.manual_seed(0)
    labels = torch.arange(90) % 3
    centres = torch.tensor([[0.0, 9.0, 5.0], [9.0, 0.0, 5.0], [9.0, 9.0, 5.0]])
    features = centres[labels] + torch.randn(90, 3) * torch.tensor([1.0, 1.0, 0.0])  # one is constant
    head = transfer.linear_probe(features, labels, 3)
    assert training.accuracy(head(features), labels) > 0.97
    assert head.weight.shape == (3, 3)


def test_a_new_head_knows_nothing_and_disturbs_nothing(model):
    new = transfer.new_head(model, 7)
    x = pretrained.preprocess(SHAPES.test.images, model)
    loss = F.cross_entropy(new(x), SHAPES.test.labels % 7)
    assert loss.item() == pytest.approx(torch.tensor(7.0).log().item())
    loss.backward()
    for name, value in new.named_parameters():
        assert value.grad.any() == name.startswith("head."), name
    assert model.head.out_features == 10


def test_from_scratch_is_the_same_architecture(model):
    fresh = transfer.from_scratch(model, 7)
    shapes = {name: value.shape for name, value in transfer.new_head(model, 7).state_dict().items()}
    assert {name: value.shape for name, value in fresh.state_dict().items()} == shapes
    assert not torch.equal(fresh.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_what_is_frozen_stays_and_the_rest_moves(model, decay):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    tuned = transfer.fine_tune(model, SHAPES.train, 3, 1e-2, decay)
    assert torch.equal(state, torch.get_rng_state())
    assert not tuned.training
    for name, value in tuned.state_dict().items():
        moves = decay > 0 or name.startswith(("norm.", "head."))
        assert torch.equal(value, before[name]) != moves, name
        assert torch.equal(model.state_dict()[name], before[name])
    again = transfer.fine_tune(model, SHAPES.train, 3, 1e-2, decay)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in tuned.state_dict().items())


def test_early_layers_move_less(model):
    def moved(decay):
        tuned = transfer.fine_tune(model, SHAPES.train, 1, 1e-3, decay)
        return [
            (a.attn.qkv.weight - b.attn.qkv.weight).abs().max().item()
            for a, b in zip(tuned.blocks, model.blocks, strict=True)
        ]

    first, last = moved(0.1)
    assert first == pytest.approx(last / 10, rel=0.1)
    first, last = moved(1.0)
    assert first == pytest.approx(last, rel=0.1)


def test_fine_tuning_learns():
    recipe = dataclasses.replace(training.RECIPES["fast"], seed=1)
    model = training.build_model(recipe, SHAPES)
    model.pretrained_cfg = {
        "mean": SHAPES.mean,
        "std": SHAPES.std,
        "input_size": (3, 32, 32),
        "resize": 32,
    }
    batch = transfer.few(SHAPES.train, 1)
    x = pretrained.preprocess(batch.images, model)
    tuned = transfer.fine_tune(model, batch, 30, 3e-3)
    with torch.no_grad():
        assert F.cross_entropy(tuned(x), batch.labels) < F.cross_entropy(model(x), batch.labels) - 0.5


@pytest.fixture(params=["fc_norm", "head_dist"])
def published(request):
    """A model with a top layer that a plain `ViT` has not, and the name of that layer."""
    torch.manual_seed(0)
    more = {
        "fc_norm": {"fc_norm": True, "global_pool": "avg"},
        "head_dist": {"dist_token": True, "dist_head": True},
    }[request.param]
    made = PublishedViT(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, **more).eval()
    made.pretrained_cfg = {"mean": SHAPES.mean, "std": SHAPES.std, "input_size": (3, 32, 32), "resize": 32}
    return made, request.param


def test_every_top_layer_learns_at_the_peak(published):
    model, layer = published
    tops = {"norm", "fc_norm", "head", "head_dist"}
    for name, _ in model.named_parameters():
        top = name.partition(".")[0] in tops
        assert (transfer.layer_rate(name, 2, 1.0, 0.5) == 1.0) == top, name
    tuned = transfer.fine_tune(model, SHAPES.train, 3, 1e-2, 0.0)
    assert not torch.equal(getattr(tuned, layer).weight, getattr(model, layer).weight)
    assert torch.equal(tuned.pos_embed, model.pos_embed)


def test_all_heads_are_new(published):
    new = transfer.new_head(published[0], 7)
    logits = transfer.in_batches(new, SHAPES.test.images[:3])
    assert torch.equal(logits, torch.zeros(3, 7))


def test_a_model_without_a_head(model):
    bare = pretrained.from_model(model, num_classes=0)
    bare.pretrained_cfg |= model.pretrained_cfg
    assert transfer.features(bare, SHAPES.test.images[:3]).shape == (3, 16)
    for wrong in (
        lambda: transfer.share_right(bare, SHAPES.test),
        lambda: transfer.fine_tune(bare, SHAPES.train, 1, 1e-3),
    ):
        with pytest.raises(ValueError, match=r"has no head.*new_head\(model, num_classes\) adds one"):
            wrong()
    assert transfer.in_batches(transfer.new_head(bare, 7), SHAPES.test.images[:3]).shape == (3, 7)
    del bare.pretrained_cfg["model"]
    with pytest.raises(ValueError, match="only models of this course"):
        transfer.from_scratch(bare, 7)


def test_ten_labels_scores_what_an_answer_names(monkeypatch):
    truth = data.shapes(train=1000, test=50, seed=12).test.labels
    seen = []

    def knows_half(labelled):
        seen.append((labelled, torch.rand(1).item()))
        return lambda images: torch.where(torch.arange(len(images)) < 25, truth, (truth + 1) % 10)

    before = torch.get_rng_state()
    score = transfer.ten_labels(knows_half, draws=(0, 1), test=50)
    assert torch.equal(before, torch.get_rng_state())
    assert score.shares == (0.5, 0.5)
    assert [len(labelled) for labelled, _ in seen] == [100, 100]
    assert not torch.equal(seen[0][0].images, seen[1][0].images)
    assert seen[0][1] != seen[1][1]
    monkeypatch.setattr(transfer, "MEASURED", {"better": (60.0, 70.0), "worse": (20.0, 30.0)})
    lines = str(score).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["worse", "YOURS", "better"]
    assert "TOO LONG" not in lines[-1]
    assert "TOO LONG" in str(transfer.Score((0.5,), transfer.LIMIT + 1))


@pytest.mark.parametrize("answer", [torch.zeros(50, 10), torch.zeros(50), torch.zeros(49, dtype=torch.long)])
def test_ten_labels_wants_a_class_for_each_image(answer):
    with pytest.raises(ValueError, match="expected one class for each of the 50 images"):
        transfer.ten_labels(lambda labelled: lambda images: answer, draws=(0,), test=50)


def test_the_ways_that_were_measured_are_those_of_the_benchmark():
    assert list(transfer.MEASURED) == list(ten_labels.ways())
    assert {len(values) for values in transfer.MEASURED.values()} == {3}
