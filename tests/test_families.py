"""Every family of published weights against the original implementation: the same function, step by step.

The originals are built at their full width and depth with random weights; nothing is downloaded. Large and huge models run
on smaller images (their number of patches changes nothing in the mapping); names and shapes at the published size are
compared on the meta device, which holds no numbers.
"""

import functools
import re

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import get_model

from vit_edu import pretrained
from vit_edu.models import Mixer, Swin, ViT
from vit_edu.models.variants import PublishedViT
from vit_edu.pretrained import loading, names
from vit_edu.pretrained.config import settings_of

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5


@functools.cache
def pool(scale):
    """Eight million random numbers that all models share, because drawing takes longest. Each tensor starts elsewhere in them."""
    if scale == 1:
        return torch.randn(2**23, generator=torch.Generator().manual_seed(0))
    return pool(1) * scale


def build(make, own=False):
    """A model in eval mode with random weights of a useful size, in which no bias is zero and no norm or factor is one.

    own: whether its tensors are copies instead of parts of the pool.
    """
    with torch.device("meta"):
        model = make()
    width = max(p.shape[-1] for n, p in model.named_parameters() if "pos" in n)
    matrix, vector, weights, at = pool(width**-0.5), pool(0.3), {}, 0
    for name, p in model.named_parameters():
        at = (at + 7919 * 31) % (2**23 - p.numel())
        here = slice(at, at + p.numel())
        if p.ndim > 1 and "token" not in name and "pos" not in name:
            weights[name] = matrix[here].view(p.shape)
        else:
            weights[name] = vector[here].view(p.shape)
            norm = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.LayerNorm)
            if norm and name.endswith("weight"):
                weights[name] = weights[name] + 1
    weights = {k: v.clone() for k, v in weights.items()} if own else weights
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def torchvision(name, **arguments):
    return lambda: get_model(name, **arguments)


def from_timm(name, **arguments):
    return lambda: timm.create_model(name, **arguments)


def hf(kind, config, **arguments):
    return lambda: getattr(transformers, kind)(getattr(transformers, config)(**arguments))


class MAEInOrder(transformers.ViTMAEModel):
    """transformers' MAE shuffles the patches even if it hides none; with this noise they stay in order."""

    def forward(self, images):
        count = self.embeddings.patch_embeddings.num_patches
        return super().forward(images, noise=torch.arange(float(count)).expand(len(images), -1))


def mae(**arguments):
    return lambda: MAEInOrder(transformers.ViTMAEConfig(mask_ratio=0.0, **arguments))


TI = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_labels": 1000}
S = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_labels": 1000}
B, DINO = {"num_labels": 1000}, {"image_size": 224, "patch_size": 14}
L = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
}

VARIANTS = {
    ("torchvision", "vit_b_16"): torchvision("vit_b_16"),
    ("torchvision", "vit_b_32"): torchvision("vit_b_32"),
    ("torchvision", "vit_l_16"): torchvision("vit_l_16", image_size=80),
    ("torchvision", "vit_l_32"): torchvision("vit_l_32", image_size=160),
    ("torchvision", "vit_h_14"): torchvision("vit_h_14", image_size=56),
    ("timm", "vit_tiny_patch16_224"): from_timm("vit_tiny_patch16_224"),
    ("timm", "vit_small_patch16_224"): from_timm("vit_small_patch16_224"),
    ("timm", "vit_base_patch16_224"): from_timm("vit_base_patch16_224"),
    ("timm", "vit_base_patch32_384"): from_timm("vit_base_patch32_384"),
    ("timm", "vit_large_patch16_224"): from_timm("vit_large_patch16_224", img_size=80),
    ("timm", "vit_huge_patch14_224"): from_timm("vit_huge_patch14_224", img_size=42),
    ("timm", "not square, 192 x 256"): from_timm("vit_small_patch16_224", img_size=(192, 256)),
    ("timm", "no head"): from_timm("vit_tiny_patch16_224", num_classes=0),
    ("timm", "DeiT: small, no distillation"): from_timm("deit_small_patch16_224"),
    ("timm", "DeiT: tiny distilled"): from_timm("deit_tiny_distilled_patch16_224"),
    ("timm", "DeiT: base distilled"): from_timm("deit_base_distilled_patch16_224"),
    ("timm", "DeiT III: LayerScale"): from_timm("deit3_small_patch16_224"),
    ("timm", "mean pool, no class token"): from_timm("vit_medium_patch16_gap_256"),
    ("timm", "mean pool, norm behind it"): from_timm("vit_small_patch16_224", global_pool="avg"),
    ("timm", "mean pool beside a class token"): from_timm(
        "vit_small_patch16_224", global_pool="avg", fc_norm=False
    ),
    ("timm", "no bias for q, k, v"): from_timm("vit_base_patch16_224_miil", num_classes=1000),
    ("timm", "DINO: vit_small_patch8_224"): from_timm("vit_small_patch8_224", num_classes=0, img_size=112),
    ("timm", "DINOv2: vit_small_patch14"): from_timm("vit_small_patch14_dinov2", img_size=224),
    ("timm", "DINOv2: base, 4 registers"): from_timm("vit_base_patch14_reg4_dinov2", img_size=224),
    ("timm", "CLIP: norm before the blocks"): from_timm("vit_base_patch32_clip_224", num_classes=512),
    ("timm", "CLIP: QuickGELU, no projection"): from_timm("vit_base_patch32_clip_quickgelu_224", num_classes=0),
    ("timm", "SigLIP: attention pooling"): from_timm("vit_base_patch16_siglip_224", depth=2),
    ("timm", "SigLIP: tanh, 384 in patches of 14"): from_timm("vit_so400m_patch14_siglip_384", depth=2),
    ("timm", "positions for 4 registers"): from_timm("vit_so150m_patch16_reg4_gap_256", depth=2),
    ("timm", "SwiGLU, as in DINOv2 giant"): from_timm("vit_tiny_patch16_224", depth=2, mlp_layer=timm.layers.SwiGLUPacked, act_layer=nn.SiLU),
    ("timm", "SwiGLU, two tensors"): from_timm("vit_tiny_patch16_224", depth=2, mlp_layer=timm.layers.SwiGLU, act_layer=nn.SiLU),
    ("timm", "no bias in the blocks"): from_timm(
        "vit_tiny_patch16_224", depth=2, qkv_bias=False, proj_bias=False, img_size=64
    ),
    ("transformers", "ViTForImageClassification B/16"): hf("ViTForImageClassification", "ViTConfig", **B),
    ("transformers", "ViTModel B/16"): hf("ViTModel", "ViTConfig"),
    ("transformers", "ViTModel L/16"): hf("ViTModel", "ViTConfig", image_size=80, **L),
    ("transformers", "DeiTForImageClassification Ti"): hf("DeiTForImageClassification", "DeiTConfig", **TI),
    ("transformers", "DeiT with teacher, S"): hf("DeiTForImageClassificationWithTeacher", "DeiTConfig", **S),
    ("transformers", "MAE: ViTMAEModel B/16"): mae(),
    ("transformers", "MAE: ViTMAEModel L/16"): mae(image_size=80, **L),
    ("transformers-dinov2", "Dinov2Model S/14"): hf("Dinov2Model", "Dinov2Config", **S, **DINO),
    ("transformers-dinov2", "4 registers, S/14"): hf(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **S, **DINO
    ),
}  # fmt: skip


def images(model, count=1):
    size = model.patch_embed.img_size
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def record(record_property, family, variant, ours, result):
    """One line of the table that `conftest` prints."""
    units = {s.name: f"{s.relative * 1e7:.0f}" for s in result.steps}
    blocks = " ".join(v for k, v in units.items() if k.startswith("block") and "att" not in k)
    cfg = ours.pretrained_cfg
    for key, value in {
        "family": family,
        "variant": variant,
        "ours": type(ours).__name__,
        "pixels": ours.patch_embed.img_size[1],
        "mapped": len(cfg["mapped"]),
        "ignored": len(cfg["ignored"]),
        "difference": f"{units['embedding']} | {blocks} | {units['output']}",
    }.items():
        record_property(key, value)


@pytest.mark.parametrize(("family", "variant"), list(VARIANTS))
def test_same_function_as_the_original(family, variant, record_property):
    theirs = build(VARIANTS[family, variant])
    ours = pretrained.from_model(theirs, copy=False)
    result = pretrained.parity(ours, theirs, images(ours))
    record(record_property, family, variant, ours, result)
    assert result.first is None, str(result)
    assert result.largest < TOLERANCE
    assert len(result.steps) == 2 * len(ours.blocks) + 2
    cfg = ours.pretrained_cfg
    assert cfg["family"] == family
    assert cfg["mapped"].keys() | cfg["ignored"].keys() == theirs.state_dict().keys()
    filled = {ours_name.partition("[")[0] for ours_name in cfg["mapped"].values()}
    assert {k for k in ours.state_dict() if k not in filled} == cfg["filled"].keys() - filled


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"])
def test_published_weights_where_they_are_here(name, monkeypatch, record_property):
    monkeypatch.setenv("VIT_EDU_FAST", "1")  # from a cache, never from the network
    try:
        ours = pretrained.load(f"torchvision/{name}")
    except pretrained.WeightsError as error:
        pytest.skip(f"not in a cache: {str(error)[:60]}")
    theirs, published, _ = pretrained.torchvision_vit(name)
    assert published
    result = pretrained.parity(ours, theirs, images(ours))
    record(record_property, "torchvision", f"{name}, published weights", ours, result)
    assert result.equal, str(result)


def test_plain_models_are_plain():
    """Whatever a `ViT` can hold becomes a `ViT`: the learner's own model."""
    for variant, plain in (("vit_tiny_patch16_224", True), ("deit3_small_patch16_224", True), ("vit_small_patch14_dinov2", True),
                           ("vit_medium_patch16_gap_256", True), ("deit_tiny_distilled_patch16_224", False)):  # fmt: skip
        with torch.device("meta"):
            theirs = timm.create_model(variant)
            ours = pretrained.from_model(theirs)
        assert type(ours) is (ViT if plain else PublishedViT)


def test_into_a_model_that_exists():
    """One that a learner wrote, say. It gets the numbers of a new model, and does not change if anything is amiss."""
    for variant in (
        ("timm", "DeiT III: LayerScale"),
        ("transformers", "DeiTForImageClassification Ti"),
    ):
        theirs = build(VARIANTS[variant])
        converted = pretrained.convert(theirs.state_dict(), copy=False)
        new = pretrained.convert(theirs.state_dict()).model()
        mine = type(new)(**converted.arguments).eval()
        assert converted.load_into(mine) is mine
        assert all(torch.equal(v, new.state_dict()[k]) for k, v in mine.state_dict().items())
        assert mine.norm.eps == new.norm.eps == converted.norm_eps
        other = type(new)(**converted.arguments | {"num_classes": 3})
        before = other.blocks[0].mlp.fc1.weight.clone()
        with pytest.raises(pretrained.WeightsError, match=r"head.weight: the model has shape \(3, "):
            converted.load_into(other)
        assert torch.equal(other.blocks[0].mlp.fc1.weight, before)


def test_float64_shows_that_what_is_left_is_rounding():
    theirs = build(VARIANTS["timm", "DeiT III: LayerScale"])
    ours = pretrained.from_model(theirs)
    single = pretrained.parity(ours, theirs, images(ours))
    double = pretrained.parity(ours, theirs, images(ours), dtype=torch.float64)
    assert 1e-9 < single.largest < 1e-5
    # Folding LayerScale into float32 weights rounds them once; everything after that is exact to 1e-7
    assert double.largest < single.largest
    exact = build(VARIANTS["timm", "vit_tiny_patch16_224"])
    result = pretrained.parity(pretrained.from_model(exact), exact, images(ours), torch.float64)
    assert result.largest < 1e-14
    assert next(exact.parameters()).dtype == torch.float32


# ---------------------------------------------------------------- published sizes, no numbers


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"])
def test_names_and_shapes_of_torchvision(name):
    with torch.device("meta"):
        theirs = get_model(name)
        found = pretrained.convert(theirs.state_dict())
    assert len(found.mapped) == len(found.pieces) == len(theirs.state_dict())
    assert found.arguments["img_size"] == (224, 224)
    assert found.arguments["num_heads"] == theirs.encoder.layers[0].num_heads


def test_names_and_shapes_of_timm():
    """The state dict of a plain architecture tells everything: what the model says about itself adds nothing."""
    plain = [n for n in timm.list_models() if re.fullmatch(loading.TIMM_PLAIN, n)]
    assert len(plain) > 30
    for name in plain:
        with torch.device("meta"):
            theirs = timm.create_model(name)
            found = pretrained.convert(theirs.state_dict(), "timm")
        said = settings_of(theirs)
        guessed = found.arguments | {"norm_eps": found.norm_eps, "gelu": found.gelu}
        assert {k: guessed[k] for k in said} == said, name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_base_patch16_rpn_224", "ResPostBlock, a different architecture"),
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock, a different architecture"),
        ("vit_tiny_r_s16_p8_224", "no place for theirs: patch_embed.backbone"),
        ("vit_relpos_small_patch16_224", "different architecture|no place"),
        ("vit_small_patch16_dinov3", "different architecture|no place"),
        ("swinv2_tiny_window8_256", "SwinTransformerV2Block, a different architecture from Swin"),
    ],
)
def test_another_architecture_is_refused(name, reason):
    with torch.device("meta"):
        theirs = timm.create_model(name)
        with pytest.raises(pretrained.WeightsError, match=reason):
            pretrained.from_model(theirs)


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 5}


def altered(alter, **arguments):
    theirs = timm.models.VisionTransformer(**SMALL | arguments).eval()
    alter(theirs)
    return theirs


def set_in(path, value):
    """A function that sets an attribute of a model, such as "blocks.1.attn.scale"."""

    def alter(model):
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, value)

    return alter


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (lambda: altered(set_in("global_pool", "max")), "pooling is 'max'"),
        (lambda: altered(set_in("global_pool", "avgmax")), "pooling is 'avgmax'"),
        (lambda: altered(set_in("global_pool", "")), "pooling is ''"),
        (lambda: altered(set_in("global_pool", True)), "pooling is True"),  # without MAE's norm behind it
        (lambda: altered(set_in("blocks.1.mlp.act", nn.ReLU())), "activation is ReLU"),
        (lambda: altered(set_in("blocks.1.mlp.act", nn.GELU("tanh"))), "different kinds of GELU"),
        (lambda: altered(lambda m: vars(m.blocks[1].attn).update(num_heads=4, scale=0.25)), r"different numbers of heads \(\[2, 4\]\)"),
        (lambda: altered(set_in("blocks.0.attn.scale", 1.0)), "multiplies its scores by 1, and ours by 0.17"),
        (lambda: altered(set_in("blocks.0.norm2", nn.RMSNorm(64))), "blocks have RMSNorm"),
        (lambda: altered(set_in("blocks.0.attn.q_norm", nn.LayerNorm(32, 1e-6, False))), "inside \\(q_norm"),
        (lambda: altered(set_in("patch_embed.proj.stride", (4, 4))), "side by side"),
        (lambda: altered(lambda m: None, mlp_layer=timm.layers.SwiGLU), "SwiGLU with GELU on its first half"),
        (lambda: altered(lambda m: None, mlp_layer=timm.layers.GluMlp, act_layer=nn.SiLU), "GluMlp with SiLU on its last half"),
        (lambda: altered(set_in("attn_pool.latent_len", 2), global_pool="map"), "one learned query"),
        (lambda: altered(set_in("attn_pool.pool", "avg"), global_pool="map"), "one learned query"),
        (lambda: altered(set_in("attn_pool.q_norm", nn.LayerNorm(32, 1e-6, False)), global_pool="map"), "no norm of queries"),
        (lambda: altered(set_in("attn_pool.mlp.act", nn.ReLU()), global_pool="map"), "activation is ReLU"),
        (lambda: altered(set_in("attn_pool.num_heads", 4), global_pool="map"), "different numbers of heads"),
        (lambda: altered(set_in("blocks.0.mlp", nn.Linear(64, 64))), "no ViT that we know .*'act'"),
    ],
)  # fmt: skip
def test_a_setting_that_ours_does_not_have_is_refused(theirs, reason):
    with pytest.raises(pretrained.WeightsError, match=reason):
        pretrained.from_model(theirs())


@pytest.mark.parametrize(("said", "pool"), [(True, "avg"), (False, "token")])
def test_pooling_in_the_words_of_mae(said, pool):
    theirs = altered(set_in("global_pool", said), global_pool=pool)
    ours = pretrained.from_model(theirs)
    assert ours.global_pool == pool
    theirs.global_pool = pool
    assert pretrained.parity(ours, theirs, images(ours, 2)).equal


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"global_pool": "max"}, "pooling is 'max'"),
        ({"global_pool": "mean"}, "pooling is 'mean'"),
        ({"gelu": "relu"}, "gelu is \"none\" .* got 'relu'"),
        ({"num_heads": 0}, "at least 1, got 0"),
        ({"num_heads": 5}, "5 heads cannot share a width of 64"),
        ({"norm_eps": -1e-6}, "got -1e-06"),
        ({"dtype": torch.int8}, "got torch.int8"),
    ],
)
def test_an_argument_that_convert_does_not_know(wrong, reason):
    state = altered(lambda model: None).state_dict()
    with pytest.raises(pretrained.WeightsError, match=reason):
        pretrained.convert(state, **wrong)
    without = altered(lambda model: None, class_token=False, global_pool="avg").state_dict()
    with pytest.raises(pretrained.WeightsError, match="have no class token"):
        pretrained.convert(without, global_pool="token")


def test_a_variant_that_reads_what_is_not_there():
    for wrong in (
        {"global_pool": "max"},
        {"global_pool": "token", "class_token": False},
        {"dist_head": True},
        {"dist_head": True, "dist_token": True, "global_pool": "avg"},
    ):
        with pytest.raises(ValueError, match=r"global_pool|dist_head"):
            PublishedViT(**wrong)


# ---------------------------------------------------------------- what is in files


def test_files_of_transformers_have_the_old_names(tmp_path):
    """What `save_pretrained` writes, and the Hub holds, is not what transformers 5 has in memory."""
    for kind, config in (
        ("ViTForImageClassification", "ViTConfig"),
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"),
    ):
        small = {
            "hidden_size": 128,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "image_size": 32,
            "patch_size": 16,
        }
        theirs = build(hf(kind, config, **small), own=True)
        theirs.save_pretrained(tmp_path / kind)
        state = pretrained.read(tmp_path / kind / "model.safetensors")
        assert any("encoder.layer.0.attention.attention.query.weight" in key for key in state)
        ours = pretrained.convert(state, norm_eps=theirs.config.layer_norm_eps).model()
        assert pretrained.parity(ours, theirs, images(ours, 2)).equal


def test_a_file_of_dinov2_is_read_as_timm_reads_it(record_property):
    """Its authors have another name for the registers, keep a mask token, and give the class token a position."""
    theirs = build(VARIANTS["timm", "DINOv2: base, 4 registers"])
    state = dict(theirs.state_dict())
    width = state["cls_token"].shape[-1]
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, width)
    first = torch.full((1, 1, width), 0.25)
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    theirs.load_state_dict(
        timm.models.vision_transformer.checkpoint_filter_fn(dict(state), theirs), assign=True
    )
    ours = pretrained.convert(state).model()
    result = pretrained.parity(ours, theirs, images(ours))
    record(record_property, "timm", "DINOv2: its authors' names", ours, result)
    assert result.equal, str(result)
    assert list(ours.pretrained_cfg["ignored"]) == ["mask_token"]


def to_jax(model):
    """The arrays of the authors' .npz for a timm ViT, by the names and axes of vit_jax/models_vit.py."""
    state, heads = model.state_dict(), model.blocks[0].attn.num_heads
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for i in range(len(model.blocks)):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        attention = theirs + "MultiHeadDotProductAttention_1/"
        for norm, number in (("norm1", 0), ("norm2", 2)):
            arrays[f"{theirs}LayerNorm_{number}/scale"] = state[f"{ours}{norm}.weight"]
            arrays[f"{theirs}LayerNorm_{number}/bias"] = state[f"{ours}{norm}.bias"]
        qkv = zip(
            state[f"{ours}attn.qkv.weight"].chunk(3),
            state[f"{ours}attn.qkv.bias"].chunk(3),
            strict=True,
        )
        for name, (weight, bias) in zip(("query", "key", "value"), qkv, strict=True):
            arrays[f"{attention}{name}/kernel"] = weight.T.unflatten(1, (heads, -1))  # (D, h, d)
            arrays[f"{attention}{name}/bias"] = bias.unflatten(0, (heads, -1))  # (h, d)
        arrays[f"{attention}out/kernel"] = state[f"{ours}attn.proj.weight"].T.unflatten(
            0, (heads, -1)
        )  # (h, d, D)
        arrays[f"{attention}out/bias"] = state[f"{ours}attn.proj.bias"]
        for j in range(2):
            arrays[f"{theirs}MlpBlock_3/Dense_{j}/kernel"] = state[f"{ours}mlp.fc{j + 1}.weight"].T
            arrays[f"{theirs}MlpBlock_3/Dense_{j}/bias"] = state[f"{ours}mlp.fc{j + 1}.bias"]
    return {name: value.contiguous().numpy() for name, value in arrays.items()}


def flax_vit(arrays, image):
    """The authors' model in NumPy, from their own arrays. image: (H, W, C). Returns steps for `parity`."""

    def get(name):
        return arrays[name].astype(np.float64)

    def einsum(pattern, *operands):
        return np.einsum(pattern, *operands, optimize=True)

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * get(f"{name}/scale") + get(f"{name}/bias")

    def gelu(x):  # flax.linen.gelu, by default the approximation
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    kernel = get("embedding/kernel")  # (P, P, C, D)
    P = kernel.shape[0]
    patches = image.reshape(image.shape[0] // P, P, image.shape[1] // P, P, -1)
    x = np.einsum("rpsqc,pqcd->rsd", patches, kernel).reshape(-1, kernel.shape[-1]) + get("embedding/bias")
    x = np.concatenate([get("cls")[0], x]) + get("Transformer/posembed_input/pos_embedding")[0]
    found = {"embedding": x}
    depth = sum(name.endswith("query/kernel") for name in arrays)
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}/"
        attention = block + "MultiHeadDotProductAttention_1/"
        y = norm(x, block + "LayerNorm_0")
        q, k, v = (
            einsum("td,dhe->hte", y, get(f"{attention}{n}/kernel")) + get(f"{attention}{n}/bias")[:, None]
            for n in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        y = scores / scores.sum(-1, keepdims=True) @ v  # (h, T, d)
        x = x + np.einsum("hte,hed->td", y, get(f"{attention}out/kernel")) + get(f"{attention}out/bias")
        found[f"block {i} attention"] = x
        y = norm(x, block + "LayerNorm_2")
        y = gelu(y @ get(f"{block}MlpBlock_3/Dense_0/kernel") + get(f"{block}MlpBlock_3/Dense_0/bias"))
        x = x + y @ get(f"{block}MlpBlock_3/Dense_1/kernel") + get(f"{block}MlpBlock_3/Dense_1/bias")
        found[f"block {i}"] = x
    found["output"] = norm(x, "Transformer/encoder_norm")[0] @ get("head/kernel") + get("head/bias")
    return {name: torch.from_numpy(value)[None] for name, value in found.items()}


JAX = {
    "Ti/16": "vit_tiny_patch16_224",
    "S/32": "vit_small_patch32_224",
    "B/32": "vit_base_patch32_224",
}


@pytest.fixture(scope="module", params=JAX)
def jax_file(request, tmp_path_factory):
    """(size, arrays, a file with them). One of the three files has the prefix that some published files have."""
    arrays = to_jax(build(lambda: timm.create_model(JAX[request.param])))
    path = tmp_path_factory.mktemp("jax") / "weights.npz"
    prefix = "opt/target/" if request.param == "S/32" else ""
    np.savez(path, **{prefix + name: value for name, value in arrays.items()})
    return request.param, arrays, path


def test_jax_file_against_its_authors_formulas(jax_file, record_property):
    size, arrays, path = jax_file
    ours = pretrained.load(path)
    x = images(ours)
    result = pretrained.parity(ours, flax_vit(arrays, x[0].permute(1, 2, 0).double().numpy()), x)
    record(record_property, "jax", f"{size}, against NumPy", ours, result)
    assert result.equal, str(result)


def test_jax_file_against_the_loader_of_timm(jax_file, record_property):
    """timm reads the same file and runs it with an exact GELU. The difference is small, but it is not rounding."""
    size, _, path = jax_file
    with torch.device("meta"):
        theirs = timm.create_model(JAX[size])
    theirs.to_empty(device="cpu").load_pretrained(path)
    exact = pretrained.convert(pretrained.read(path), gelu="none").model()
    x = images(exact)
    result = pretrained.parity(exact, theirs.eval(), x)
    record(record_property, "jax", f"{size}, against timm's loader", exact, result)
    assert result.equal, str(result)
    exact.blocks.apply(lambda m: setattr(m, "approximate", "tanh") if isinstance(m, nn.GELU) else None)
    assert 1e-5 < pretrained.parity(exact, theirs, x).largest < 1e-2


def test_a_layer_before_the_head_takes_the_head_with_it(capsys):
    theirs = build(lambda: timm.create_model("vit_tiny_patch16_224"))
    state = {k: torch.from_numpy(v) for k, v in to_jax(theirs).items()}
    state |= {"pre_logits/kernel": torch.ones(192, 192), "pre_logits/bias": torch.ones(192)}
    converted = pretrained.convert(state)
    assert set(converted.ignored) == {
        "pre_logits/kernel",
        "pre_logits/bias",
        "head/kernel",
        "head/bias",
    }
    assert "the head reads this extra layer" in str(converted)
    assert converted.model()(torch.zeros(1, 3, 224, 224)).shape == (1, 192)
    assert converted.model(num_classes=10)(torch.zeros(1, 3, 224, 224)).shape == (1, 10)
    assert "The weights have no head, and 10 classes were asked for" in capsys.readouterr().out


def test_tables_map_into_our_models():
    """Every name on the right of every table is one that our models have."""
    with torch.device("meta"):
        ours = PublishedViT(dist_token=True, dist_head=True, registers=4, fc_norm=True, norm_pre=True)
        pooled = PublishedViT(class_token=False, global_pool="map")
        mixer = Mixer(mixer="mlp")
    swin = Swin(img_size=32, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 1), window_size=4)
    known = {name for model in (ours, pooled, mixer, swin) for name in model.state_dict()}
    for family in names.FAMILIES.values():
        for name in family.names.values():
            name, _, part = name.replace("{i}", "0").replace("{j}", "0").partition("[")
            # The tables have more stages than this Swin
            name = re.sub(r"^layers\.\d+\.downsample", "layers.1.downsample", name)
            assert name in known or f"{name}.weight" in known
            assert part in ("", "q]", "k]", "v]", "kv]", "g]", "x]", "scale]")


# ---------------------------------------------------------------- parity finds what shapes do not


def exchange_q_and_k(state, blocks):
    state = dict(state)
    for i in blocks:
        for kind in ("weight", "bias"):
            q, k, v = state[f"blocks.{i}.attn.qkv.{kind}"].chunk(3)
            state[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat([k, q, v])
    return state


def changed(state, key):
    return dict(state) | {key: state[key] + 0.01}


@pytest.mark.parametrize(
    ("spoil", "first"),
    [
        (lambda s: exchange_q_and_k(s, [0]), "block 0 attention"),
        (lambda s: exchange_q_and_k(s, [7, 9]), "block 7 attention"),
        (lambda s: changed(s, "pos_embed"), "embedding"),
        (lambda s: changed(s, "blocks.3.norm1.bias"), "block 3 attention"),
        (lambda s: changed(s, "blocks.3.mlp.fc1.bias"), "block 3"),
        (lambda s: changed(s, "norm.bias"), "output"),
        (lambda s: dict(s, **{"head.bias": s["head.bias"] * float("nan")}), "output"),
    ],
)
def test_parity_names_the_first_divergence(spoil, first):
    theirs = build(VARIANTS["timm", "vit_tiny_patch16_224"])
    ours = pretrained.from_model(theirs)
    pretrained.load_by_name(ours, spoil(ours.state_dict()))
    result = pretrained.parity(ours, theirs, images(ours))
    assert result.first == first
    assert not result.equal
    assert f"{first} " in next(line for line in str(result).splitlines() if "<- the first" in line)
    assert str(result).splitlines()[-1].startswith(f"The two differ from {first} on")


def test_parity_finds_another_epsilon():
    theirs = build(hf("ViTForImageClassification", "ViTConfig", image_size=32, **TI))
    state = theirs.state_dict()
    right = pretrained.convert(state).model()
    wrong = pretrained.convert(state, norm_eps=1e-3).model()
    assert pretrained.parity(right, theirs, images(right)).equal
    assert pretrained.parity(wrong, theirs, images(right)).first == "block 0 attention"


def test_parity_leaves_the_models_alone():
    theirs = build(VARIANTS["timm", "vit_tiny_patch16_224"])
    ours = pretrained.from_model(theirs).train()
    pretrained.parity(ours, theirs, images(ours), dtype=torch.float64)
    assert ours.training
    assert not theirs.training
    assert next(ours.parameters()).dtype == torch.float32
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (*ours.modules(), *theirs.modules()))


def test_parity_of_two_that_cannot_be_compared():
    short, long = ViT(depth=2), ViT(depth=3)
    with pytest.raises(ValueError, match="ours has 2 blocks and theirs 3"):
        pretrained.parity(short, long, images(short))
    with pytest.raises(ValueError, match="no list of blocks was found in Linear"):
        pretrained.parity(nn.Linear(2, 2), long, images(long))
    wide = ViT(depth=2, embed_dim=32)
    assert pretrained.parity(short, wide, images(short)).first == "embedding"


def test_ours_does_not_share_memory_unless_asked():
    theirs = build(VARIANTS["timm", "vit_tiny_patch16_224"])
    before = theirs.head.weight.clone()
    pretrained.from_model(theirs).head.weight.data.zero_()
    assert torch.equal(theirs.head.weight, before)
    shared = pretrained.from_model(theirs, copy=False)
    assert shared.head.weight.data_ptr() == theirs.head.weight.data_ptr()
    assert shared.head.weight.requires_grad
