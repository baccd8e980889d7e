"""What counts for an answer, and the test of it; against plain loops."""

import copy

import pytest
import torch
from test_inspect import IMAGES, MODELS, SMALL, shaken
from torch import nn

from vit_edu import inspect
from vit_edu.models import CNN, ViT
from vit_edu.models.variants import PublishedViT
from vit_edu.models.vit import scaled_dot_product_attention, split_heads

LABELS = torch.tensor([1, 4])


@pytest.fixture(params=MODELS)
def case(request):
    make, prefix = MODELS[request.param]
    return shaken(make()).eval(), prefix


def state_of(model):
    """All that a function could leave behind in a model."""
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
    )


def require_unchanged(model, before):
    values, *rest = state_of(model)
    assert rest == list(before[1:])
    assert all(torch.equal(value, before[0][name]) for name, value in values.items())


# ---------------------------------------------------------------- importance


@pytest.mark.parametrize("method", inspect.IMPORTANCE)
def test_one_score_for_each_patch_and_no_trace(case, method):
    model, _ = case
    model.train()
    model.norm.eval()
    before, images = state_of(model), IMAGES.clone()
    with torch.no_grad():
        scores = inspect.importance(model, images, method, LABELS)
    assert scores.shape == (2, 16)
    assert scores.isfinite().all()
    assert not scores.requires_grad
    assert scores.std(dim=1).min() > 0
    require_unchanged(model, before)
    assert torch.equal(images, IMAGES)
    assert not images.requires_grad
    again = inspect.importance(model, images, method, LABELS)
    torch.testing.assert_close(again, scores)


@pytest.mark.parametrize("method", inspect.IMPORTANCE)
def test_images_do_not_see_each_other(method, monkeypatch):
    model = shaken(ViT(**SMALL))
    many = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    together = inspect.importance(model, many, method)
    monkeypatch.setattr("vit_edu.inspect.belief.AT_ONCE_BYTES", 1)  # one image at a time
    torch.testing.assert_close(inspect.importance(model, many, method), together, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", ["gradient x attention", "gradient x input"])
def test_frozen_models_and_inference_mode(method):
    model = shaken(ViT(**SMALL))
    wanted = inspect.importance(model, IMAGES, method, LABELS)
    model.requires_grad_(False)
    torch.testing.assert_close(inspect.importance(model, IMAGES, method, LABELS), wanted)
    with torch.inference_mode():
        images, labels = IMAGES.clone(), LABELS.clone()
        torch.testing.assert_close(inspect.importance(model, images, method, labels), wanted)


@pytest.mark.parametrize("method", inspect.IMPORTANCE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_in_other_precisions(method, dtype):
    model = shaken(ViT(**SMALL))
    wanted = inspect.importance(model, IMAGES, method, LABELS)
    found = inspect.importance(model.to(dtype), IMAGES.to(dtype), method, LABELS).float()
    assert (found - wanted).abs().max() <= (0.1 if dtype == torch.bfloat16 else 1e-4) * wanted.abs().max()


def read_by_the_head(model, prefix, maps):
    """(B, T, T) -> (B, N), case by case."""
    if getattr(model, "head_dist", None) is not None:
        row = (maps[:, 0] + maps[:, 1]) / 2
    elif model.global_pool == "token":
        row = maps[:, 0]
    elif model.global_pool == "token+avg":
        row = (maps[:, 0] + maps[:, prefix:].mean(dim=1)) / 2
    else:
        row = maps[:, prefix:].mean(dim=1)
    return row[:, prefix:]


def test_attention_is_read_where_the_head_reads(case):
    model, prefix = case
    maps = inspect.attention_maps(model, IMAGES)
    wanted = read_by_the_head(model, prefix, inspect.rollout(maps))
    torch.testing.assert_close(inspect.importance(model, IMAGES, "rollout"), wanted)
    wanted = read_by_the_head(model, prefix, maps[-1].mean(dim=1))
    torch.testing.assert_close(inspect.importance(model, IMAGES, "last attention"), wanted)
    first, second, third = maps.mean(dim=2)
    wanted = read_by_the_head(model, prefix, third @ second @ first)
    torch.testing.assert_close(inspect.importance(model, IMAGES, "rollout without identity"), wanted)
    wanted = inspect.hidden_tokens(model, IMAGES)[3, :, prefix:].norm(dim=-1)
    torch.testing.assert_close(inspect.importance(model, IMAGES, "token norm"), wanted)


def test_class_token_and_mean_are_read_together():
    model = shaken(PublishedViT(registers=2, global_pool="token+avg", **SMALL))
    maps = inspect.attention_maps(model, IMAGES)
    wanted = read_by_the_head(model, 3, inspect.rollout(maps))
    torch.testing.assert_close(inspect.importance(model, IMAGES, "rollout"), wanted)


def relevance_by_hand(model, image, label):
    """Chefer et al. 2021, section 3, for one image and a plain ViT: (T, T). Attention is spelt out, and R is a loop."""
    x = super(ViT, model).forward(image[None])
    weights = []
    for block in model.blocks:
        q, k, v = (split_heads(y, 2) for y in block.attn.qkv(block.norm1(x)).chunk(3, dim=-1))
        mixed, stored = scaled_dot_product_attention(q, k, v)
        stored.retain_grad()
        weights.append(stored)
        x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    x = model.norm(x)
    pooled = x[:, 0] if model.global_pool == "token" else x.mean(dim=1)
    model.head(pooled)[0, label].backward()
    relevance = torch.eye(x.shape[1])
    for stored in weights:
        A = torch.stack([(stored.grad[0, h] * stored[0, h]).clamp(min=0) for h in range(2)]).mean(dim=0)
        relevance = relevance + A @ relevance
    return relevance.detach()


@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_gradient_x_attention_is_that_of_its_paper(pooling):
    model = shaken(ViT(global_pool=pooling, **SMALL)).eval()
    found = inspect.importance(model, IMAGES, "gradient x attention", LABELS)
    by_hand = copy.deepcopy(model)
    for image, label, scores in zip(IMAGES, LABELS, found, strict=True):
        R = relevance_by_hand(by_hand, image, label)
        wanted = R[0, 1:] if pooling == "token" else R.mean(dim=0)
        torch.testing.assert_close(scores, wanted, atol=1e-6, rtol=1e-3)


def test_without_labels_it_is_about_the_answer_of_the_model(case):
    model, _ = case
    answers = model(IMAGES).argmax(dim=1)
    for method in ("gradient x attention", "gradient x input"):
        about = inspect.importance(model, IMAGES, method)
        torch.testing.assert_close(about, inspect.importance(model, IMAGES, method, answers))
        other = inspect.importance(model, IMAGES, method, (answers + 1) % 5)
        assert (about - other).abs().max() > 1e-3 * about.abs().max()


def test_gradient_x_input_is_what_blanking_does_to_a_linear_model():
    """There, and only there, the sum over a patch is by how much the logit falls when the patch becomes 0."""
    model = shaken(ViT(global_pool="avg", **SMALL | {"depth": 1}, pos_embed="none"))
    model.blocks, model.norm = nn.Sequential(), nn.Identity()  # patches, mean, head: linear
    found = inspect.importance(model, IMAGES, "gradient x input", LABELS)
    whole = model(IMAGES)[range(2), LABELS]
    for patch in range(16):
        row, col = divmod(patch, 4)
        blanked = IMAGES.clone()
        blanked[:, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] = 0
        fall = whole - model(blanked)[range(2), LABELS]
        torch.testing.assert_close(found[:, patch], fall.detach(), atol=1e-5, rtol=1e-4)


def test_gradient_x_input_where_a_rest_of_the_image_is_not_read():
    model = shaken(PublishedViT(**SMALL | {"img_size": 19}))  # 4 x 4 patches and 3 pixels
    images = torch.rand(2, 3, 19, 19, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = inspect.importance(model, images, "gradient x input", LABELS)
    model.eval()
    logits = model(images)
    (gradient,) = torch.autograd.grad(logits[0, 1] + logits[1, 4], images)
    product = (gradient * images).sum(dim=1).detach()  # (B, H, W)
    torch.testing.assert_close(found[:, 6], product[:, 4:8, 8:12].sum(dim=(1, 2)))
    torch.testing.assert_close(found.sum(dim=1), product.sum(dim=(1, 2)))


def test_the_middle_and_the_dice():
    model = ViT(**SMALL | {"img_size": (12, 20)})  # 3 x 5 patches
    images = torch.rand(3, 3, 12, 20)
    middle = inspect.importance(model, images, "middle").unflatten(1, (3, 5))
    assert torch.equal(middle, middle.flip(1))
    assert torch.equal(middle, middle.flip(2))
    assert middle[0].flatten().argmax() == 7
    assert sorted(middle[0].flatten().argsort()[:4].tolist()) == [0, 4, 10, 14]
    dice = [inspect.importance(model, images, "random", seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(dice[0], dice[1])
    assert not torch.equal(dice[0], dice[2])
    assert not torch.equal(dice[0][0], dice[0][1])  # each image has its own


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            (ViT(**SMALL), IMAGES, "attention"),
            "no method 'attention'; there are rollout, rollout without identity, ",
        ),
        ((CNN(), IMAGES, "random"), "CNN does not say on which grid"),
        ((ViT(**SMALL), IMAGES[:0], "rollout"), "no images"),
        ((ViT(**SMALL), IMAGES.byte(), "middle"), "floats"),
        (
            (ViT(**SMALL), IMAGES, "gradient x input", [1, 2]),
            "one class for each of the 2 images.* type list",
        ),
        ((ViT(**SMALL), IMAGES, "rollout", LABELS[:1]), r"integers, \(2,\), got torch.int64 of shape \(1,\)"),
        ((ViT(**SMALL), IMAGES, "rollout", LABELS.float()), "got torch.float32"),
        (
            (ViT(**SMALL), IMAGES, "gradient x attention", LABELS + 1),
            "5 classes, 0 to 4, but the labels go from 2 to 5",
        ),
        ((ViT(**SMALL | {"num_classes": 0}), IMAGES, "gradient x input"), "this ViT has no head"),
        ((ViT(**SMALL | {"depth": 0}), IMAGES, "rollout"), "ViT has no attention"),
    ],
)
def test_a_question_that_has_no_answer(arguments, says):
    with pytest.raises(ValueError, match=says):
        inspect.importance(*arguments)


@pytest.mark.parametrize("method", ["rollout", "gradient x attention"])
def test_more_tokens_than_memory_holds(method):
    model = ViT(img_size=128, patch_size=2, embed_dim=6, depth=16, num_heads=2, mlp_ratio=1)
    with pytest.raises(
        ValueError, match=f'"{method}" needs .* 4,097 tokens and 32 heads take 2.1 GB for one image'
    ):
        inspect.importance(model, torch.rand(1, 3, 128, 128), method)


# ---------------------------------------------------------------- deletion


def deletion_by_loops(model, images, labels, scores, patch_size, steps):
    model = copy.deepcopy(model).eval()
    cols = images.shape[3] // patch_size
    found = []
    for step in steps:
        right = 0
        for image, label, score in zip(images, labels, scores, strict=True):
            blanked = image.clone()
            order = sorted(range(len(score)), key=lambda i: (-score[i].item(), i))
            for patch in order[:step]:
                row, col = patch // cols * patch_size, patch % cols * patch_size
                blanked[:, row : row + patch_size, col : col + patch_size] = 0
            right += int(model(blanked[None])[0].argmax() == label)
        found.append(right / len(images))
    return found


@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_deletion_is_that_of_a_loop(size):
    model = shaken(ViT(drop_path_rate=0.9, **SMALL | {"img_size": size})).train()
    generator = torch.Generator().manual_seed(0)
    images = 2 * torch.randn(12, 3, *size, generator=generator)
    labels = copy.deepcopy(model).eval()(images).argmax(dim=1)
    labels[:3] = (labels[:3] + 1) % 5
    N = size[0] * size[1] // 16
    scores = torch.randint(4, (12, N), generator=generator).float()  # with many equal ones
    steps = [0, 1, 5, N - 1, N]
    before, kept, model_before = (images.clone(), scores.clone()), (images, scores), state_of(model)
    found = inspect.deletion_curve(model, images, labels, scores, 4, steps)
    assert found.dtype == torch.float32
    assert found[0] == pytest.approx(9 / 12)
    assert found.tolist() == pytest.approx(deletion_by_loops(model, images, labels, scores, 4, steps))
    assert len(set(found.tolist())) > 2
    assert all(map(torch.equal, before, kept))
    require_unchanged(model, model_before)


def test_deletion_of_a_cnn_and_steps_as_a_tensor():
    model = shaken(CNN(stem=(4, 1), widths=(4,), depths=(1,))).eval()
    images = torch.randn(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels, scores = model(images).argmax(dim=1), torch.rand(10, 16)
    found = inspect.deletion_curve(model, images, labels, scores, 4, torch.tensor([0, 8]))
    assert found.tolist() == pytest.approx(deletion_by_loops(model, images, labels, scores, 4, [0, 8]))
    assert inspect.deletion_curve(model, images, labels, scores, 4, []).shape == (0,)


SCORES = torch.rand(2, 16)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"images": IMAGES[:0]}, "no images"),
        ({"images": IMAGES.byte()}, "floats"),
        ({"labels": LABELS[:1]}, "one class for each of the 2 images"),
        ({"labels": LABELS + 3}, "5 classes, 0 to 4, but the labels go from 4 to 7"),
        (
            {"scores": SCORES[:, :15]},
            r"each of the 16 patches of each of the 2 images, \(2, 16\), got .*\(2, 15\)",
        ),
        ({"scores": SCORES.unflatten(1, (4, 4))}, r"\(2, 4, 4\)"),
        ({"scores": SCORES.numpy()}, "type ndarray"),
        ({"scores": SCORES * torch.nan}, "some scores are nan"),
        ({"patch_size": 5}, "16 x 16 pixels cannot be cut into 5 x 5 patches"),
        ({"patch_size": 2}, r"each of the 64 patches .* got .*\(2, 16\)"),
        ({"steps": [0, 17]}, r"0 to 16 patches can be blanked, but steps holds \[0, 17\]"),
        ({"steps": [-1]}, "0 to 16 patches"),
        ({"steps": [1.5]}, "a number of patches in steps must be a whole number, got 1.5"),
        ({"model": ViT(**SMALL | {"num_classes": 0})}, "this ViT has no head"),
    ],
)
def test_a_curve_that_cannot_be_drawn(changed, says):
    arguments = {
        "model": ViT(**SMALL),
        "images": IMAGES,
        "labels": LABELS,
        "scores": SCORES,
        "patch_size": 4,
        "steps": [0, 4],
    }
    with pytest.raises(ValueError, match=says):
        inspect.deletion_curve(**arguments | changed)
