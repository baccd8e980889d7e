"""models/vit.py against independent implementations, and the facts that teaching code gets wrong most often."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from wanted import library

from vit_edu.models import SIZES, ViT, vit

timm = library("timm")


def perturbed(model):
    """The model with nothing left at zero, so that every weight shows in the output."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


# ---------------------------------------------------------------- the whole model


@pytest.mark.parametrize("img_size", [32, (32, 16)])
@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_equals_timm_with_the_same_weights(pooling, img_size):
    torch.manual_seed(0)
    ours = perturbed(
        ViT(img_size=img_size, embed_dim=48, depth=3, num_heads=3, mlp_ratio=2, global_pool=pooling)
    )
    theirs = timm.models.VisionTransformer(
        img_size=img_size,
        patch_size=4,
        num_classes=10,
        embed_dim=48,
        depth=3,
        num_heads=3,
        mlp_ratio=2,
        global_pool=pooling,
        class_token=pooling == "token",
        fc_norm=False,
    ).eval()
    theirs.load_state_dict(ours.state_dict())  # strict: the names are timm's
    x = torch.randn(3, 3, *ours.patch_embed.img_size)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_without_head_it_returns_features():
    assert ViT(num_classes=0)(torch.randn(2, 3, 32, 32)).shape == (2, 64)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_in_closed_form(name):
    size = SIZES[name]
    with torch.device("meta"):
        model = ViT(img_size=224, num_classes=1000, **size)
    counted = sum(p.numel() for p in model.parameters())
    formula = vit.count_parameters(224, size["patch_size"], 3, 1000, size["embed_dim"], size["depth"])
    assert formula == counted


def test_base_has_the_published_number_of_parameters():
    theirs = timm.create_model("vit_base_patch16_224", pretrained=False)
    assert vit.count_parameters(224, 16, 3, 1000, 768, 12) == sum(p.numel() for p in theirs.parameters())


def test_first_loss_is_that_of_guessing():
    torch.manual_seed(0)
    loss = F.cross_entropy(ViT()(torch.randn(64, 3, 32, 32)), torch.arange(64) % 10)
    assert abs(loss.item() - torch.tensor(10.0).log().item()) < 0.1


# ---------------------------------------------------------------- three facts


@pytest.mark.parametrize("kind", ["learn", "sincos"])
def test_every_patch_has_its_own_position(kind):
    embed = vit.Embeddings(embed_dim=32, pos_embed=kind)
    tokens = embed(torch.ones(1, 3, 32, 32))[0, 1:]  # equal patches: only positions differ
    distances = torch.cdist(tokens, tokens) + torch.eye(len(tokens))
    assert distances.min() > 1e-3


def test_the_class_token_has_a_position_of_its_own():
    embed = vit.Embeddings(embed_dim=32)
    images = torch.randn(2, 3, 32, 32)
    before = embed(images)
    with torch.no_grad():
        embed.pos_embed[0, 0] += 1
    change = (embed(images) - before).abs().amax(dim=(0, 2))
    assert change[0] > 0.99
    assert change[1:].max() == 0


@pytest.mark.parametrize(("C", "H", "W", "P"), [(3, 32, 32, 4), (1, 6, 9, 3), (5, 4, 12, 2), (4, 8, 8, 8)])
def test_order_of_patches_and_channels_survives_a_round_trip(C, H, W, P):
    images = torch.arange(2 * C * H * W).reshape(2, C, H, W)
    patches = vit.patchify(images, P)
    assert torch.equal(vit.unpatchify(patches, P, (H, W)), images)
    # The channels of one pixel, side by side
    assert torch.equal(patches[1, 0, :C], images[1, :, 0, 0])
    assert torch.equal(patches[1, -1, -C:], images[1, :, -1, -1])


# ---------------------------------------------------------------- the parts


def test_patchify_is_a_convolution_and_unfold():
    x = torch.randn(2, 3, 12, 20)
    conv = F.conv2d(x, vit.patch_conv_weight(4, 3), stride=4).flatten(2).transpose(1, 2)
    assert torch.equal(conv, vit.patchify(x, 4))
    assert torch.equal(vit.overlapping_patches(x, 4, 4), vit.patchify(x, 4))


def test_sincos_positions_equal_timms():
    theirs = timm.layers.build_sincos2d_pos_embed([3, 5], 32, interleave_sin_cos=True)
    torch.testing.assert_close(vit.sincos_positions(3, 5, 32), theirs)


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_equals_torch(heads):
    torch.manual_seed(0)
    ours, theirs = vit.Attention(12, heads), nn.MultiheadAttention(12, heads, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_attention_weights_and_output():
    q, k, v = torch.randn(3, 2, 4, 9, 8)
    out, weights = vit.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 9))


def test_layer_norm_equals_torch():
    x, weight, bias = torch.randn(2, 5, 8) * 10 + 3, torch.randn(8), torch.randn(8)
    torch.testing.assert_close(vit.layer_norm(x, weight, bias), F.layer_norm(x, (8,), weight, bias, 1e-6))


def test_drop_path_keeps_the_mean_and_rests_in_evaluation():
    torch.manual_seed(0)
    x = torch.ones(20000, 2)
    assert abs(vit.drop_path(x, 0.3, training=True).mean().item() - 1) < 0.02
    assert vit.drop_path(x, 0.3, training=False) is x


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ViT(img_size=30), r"30 x 30 .* multiples of 4"),
        (lambda: ViT(embed_dim=64, num_heads=5), r"64 / 5 leaves 4"),
        (lambda: ViT(embed_dim=6, num_heads=2, pos_embed="sincos"), "multiple of 4, got 6"),
        (lambda: ViT(pos_embed="learned"), '"learn", "sincos" or "none", got \'learned\''),
        (
            lambda: ViT(global_pool="max")(torch.zeros(1, 3, 32, 32)),
            '"token" or "avg", got \'max\'',
        ),
        (lambda: ViT()(torch.zeros(2, 1, 32, 32)), r"\(B, 3, 32, 32\), got \(2, 1, 32, 32\)"),
        (lambda: ViT()(torch.zeros(2, 3, 64, 64)), r"got \(2, 3, 64, 64\). Resize"),
        (lambda: vit.patchify(torch.zeros(1, 3, 30, 32), 4), "30 x 32"),
        (lambda: vit.unpatchify(torch.zeros(1, 15, 48), 4, (16, 16)), "has 16 patches .* got 15"),
    ],
)
def test_bad_input_is_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()
