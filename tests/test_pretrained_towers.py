"""Image towers of CLIP and SigLIP, by the names of OpenCLIP, OpenAI and transformers, and what a bare file of them leaves open."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from vit_edu import pretrained

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 24,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "projection_dim": 24,
}


def randomised(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return model.eval().requires_grad_(False)


def clip_pair():
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)
    return randomised(transformers.CLIPModel(config))


def siglip_pair():
    config = transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)
    return randomised(transformers.SiglipModel(config))


def images(count=2, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


class OpenCLIPTower(nn.Module):
    """The image tower in OpenCLIP's names and layout, from its formulas: open_clip/transformer.py, VisionTransformer."""

    def __init__(self, act, scaled, width=64, depth=2, heads=2, patch=8, size=32, out=24):
        super().__init__()
        self.act, self.heads, self.scaled = act, heads, scaled
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(nn.Module() for _ in range(depth))
        for block in self.transformer.resblocks:
            block.ln_1, block.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            block.attn = nn.MultiheadAttention(width, heads, batch_first=True)
            block.mlp = nn.Module()
            block.mlp.c_fc, block.mlp.c_proj = nn.Linear(width, 96), nn.Linear(96, width)
            for name in ("ls_1", "ls_2") if scaled else ():
                scale = nn.Module()
                scale.gamma = nn.Parameter(torch.ones(width))
                setattr(block, name, scale)
        self.proj = nn.Parameter(torch.zeros(width, out))

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:
            y = block.ln_1(x)
            y = block.attn(y, y, y, need_weights=False)[0]
            x = x + (y * block.ls_1.gamma if self.scaled else y)
            y = block.mlp.c_proj(self.act(block.mlp.c_fc(block.ln_2(x))))
            x = x + (y * block.ls_2.gamma if self.scaled else y)
        return self.ln_post(x[:, 0]) @ self.proj


def whole(tower):
    """The names of a pair: the text tower has some that the image tower would have without its prefix."""
    text = {
        "positional_embedding": torch.randn(77, 48),
        "text_projection": torch.randn(48, 24),
        "logit_scale": torch.tensor(4.6),
        "token_embedding.weight": torch.randn(50, 48),
        "ln_final.weight": torch.randn(48),
        "transformer.resblocks.0.ln_1.weight": torch.randn(48),
        "transformer.resblocks.7.attn.in_proj_weight": torch.randn(144, 48),
        "context_length": torch.tensor(77),
    }
    return text | {f"visual.{k}": v for k, v in tower.state_dict().items()}


QUICK = {"quick": lambda x: x * torch.sigmoid(1.702 * x), "none": F.gelu}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("gelu", QUICK)
@pytest.mark.parametrize("wrap", ["tower", "pair", "module"])
def test_openclip_by_its_names(wrap, gelu, scaled):
    theirs = randomised(OpenCLIPTower(QUICK[gelu], scaled))
    state = theirs.state_dict() if wrap == "tower" else whole(theirs)
    if wrap == "module":
        state = {f"module.{k}": v for k, v in state.items()}
    converted = pretrained.convert(state, gelu=gelu, num_heads=2)
    assert converted.family == "openclip"
    assert len(converted.mapped) == len(theirs.state_dict())
    assert len(converted.ignored) == (0 if wrap == "tower" else 8)
    torch.testing.assert_close(converted.model()(images()), theirs(images()), atol=1e-5, rtol=1e-5)


def test_openclip_with_a_tower_of_timm():
    theirs = randomised(
        timm.models.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0, global_pool="map", class_token=False
        )
    )  # fmt: skip
    state = {f"visual.trunk.{k}": v for k, v in theirs.state_dict().items()}
    state |= {"text.positional_embedding": torch.zeros(4, 4), "logit_bias": torch.tensor(-10.0)}
    converted = pretrained.convert(state)
    assert set(converted.ignored) == {"text.positional_embedding", "logit_bias"}
    assert "global_pool" not in converted.guesses
    torch.testing.assert_close(converted.model()(images()), theirs(images()), atol=1e-5, rtol=1e-5)
    head = torch.randn(24, 64)
    projected = pretrained.convert(state | {"visual.head.proj.weight": head}).model()
    torch.testing.assert_close(projected(images()), theirs(images()) @ head.T, atol=1e-4, rtol=1e-4)


def test_what_a_bare_tower_leaves_open_is_said():
    notes = str(pretrained.convert(OpenCLIPTower(F.gelu, False).state_dict()))
    for words in ("an exact GELU was taken", "1e-05 was taken", "1 were taken", "norms come before"):
        assert words in notes


@pytest.mark.parametrize("pair", [clip_pair, siglip_pair])
@pytest.mark.parametrize("from_folder", [True, False])
def test_pairs_of_transformers(pair, from_folder, tmp_path):
    theirs = pair()
    if from_folder:
        theirs.save_pretrained(tmp_path)
        kind = "CLIPImageProcessor" if pair is clip_pair else "SiglipImageProcessor"
        side = {"height": 32, "width": 32}
        size = {"size": {"shortest_edge": 32}, "crop_size": side} if pair is clip_pair else {"size": side}
        processor = getattr(transformers, kind)(**size)
        processor.save_pretrained(tmp_path)
        ours = pretrained.load(tmp_path)
        picture = F.interpolate(torch.rand(1, 3, 4, 5) * 255, (40, 56), mode="bilinear")[0].to(torch.uint8)
        x = pretrained.preprocess(picture, ours)
        expected = processor(picture, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(
            x, expected, atol=0.02, rtol=0
        )  # one step of 255, with the rounding of the resize
        said = any("`similarities` compares" in note for note in ours.pretrained_cfg["notes"])
        assert said == (pair is clip_pair)
    else:
        ours, x = pretrained.from_model(theirs), images()
    features = theirs.get_image_features(pixel_values=x)
    features = getattr(features, "pooler_output", features)
    torch.testing.assert_close(ours(x), features, atol=1e-5, rtol=1e-5)
    assert all("text" in why for why in ours.pretrained_cfg["ignored"].values())
    assert ours.pretrained_cfg["ignored"]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("CLIPVisionModelWithProjection", "CLIPVisionConfig"),
        ("CLIPVisionModel", "CLIPVisionConfig"),
        ("SiglipVisionModel", "SiglipVisionConfig"),
    ],
)
def test_towers_of_transformers(name, config, tmp_path):
    theirs = randomised(getattr(transformers, name)(getattr(transformers, config)(**VISION)))
    result = pretrained.parity(pretrained.from_model(theirs), theirs, images())
    assert result.equal, str(result)
    theirs.save_pretrained(tmp_path)
    assert pretrained.parity(pretrained.load(tmp_path), theirs, images()).equal


def test_classes_in_words():
    """Zero-shot: the same probabilities as the pair itself, from its text vectors."""
    theirs = clip_pair()
    ids = torch.tensor([[1, 2, 49], [3, 4, 49], [5, 6, 49]])
    whole = theirs(input_ids=ids, pixel_values=images(4))
    ours = pretrained.from_model(theirs)
    scores = pretrained.similarities(ours(images(4)), whole.text_embeds)
    assert scores.shape == (4, 3)
    logits = scores * theirs.logit_scale.exp()
    torch.testing.assert_close(logits, whole.logits_per_image, atol=1e-4, rtol=1e-4)
    with pytest.raises(pretrained.WeightsError, match="of the same width"):
        pretrained.similarities(ours(images(4)), torch.zeros(3, 64))


def test_a_pair_without_a_config_of_its_tower(tmp_path):
    clip_pair().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(pretrained.WeightsError, match='no "vision_config"'):
        pretrained.load(tmp_path)


def test_a_rest_of_the_image_is_left_out_where_the_weights_say_so():
    theirs = randomised(
        timm.models.VisionTransformer(
            img_size=37, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=3
        )
    )
    ours = pretrained.from_model(theirs)
    torch.testing.assert_close(ours(images(2, 37)), theirs(images(2, 37)), atol=1e-5, rtol=1e-5)
    with pytest.raises(pretrained.WeightsError, match="multiples of 8"):
        pretrained.convert(theirs.state_dict(), img_size=44)
    bare = pretrained.convert(theirs.state_dict())
    assert "32 x 32 pixels were taken" in bare.guesses["img_size"]
    with pytest.raises(ValueError, match="reads images of shape"):
        bare.model()(images(2, 37))


def test_a_pooling_that_could_be_another_is_refused():
    """Files of timm's Perception Encoder have the names of a SigLIP with a class token, and rotary positions besides."""
    theirs = randomised(timm.create_model("vit_pe_core_tiny_patch16_384", depth=2, img_size=64))
    with pytest.raises(pretrained.WeightsError, match="EvaBlock"):
        pretrained.from_model(theirs)
    with pytest.raises(pretrained.WeightsError, match=r"class token and a pooling by attention"):
        pretrained.convert(theirs.state_dict())
    plain = randomised(
        timm.models.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=3, global_pool="map"
        )
    )
    ours = pretrained.convert(plain.state_dict(), global_pool="map").model()
    torch.testing.assert_close(ours(images()), plain(images()), atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- in a sentence


def test_what_the_environment_says_wrong_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("VIT_EDU_CACHE", "~nobody-of-this-name/cache")
    for name in ("torchvision/vit_b_16", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"):
        with pytest.raises(pretrained.WeightsError, match=r"VIT_EDU_CACHE is .* Set VIT_EDU_CACHE to"):
            pretrained.load(name)
    with pytest.raises(pretrained.WeightsError, match="Give the path in full"):
        pretrained.load("~nobody-of-this-name/weights.pt")
    monkeypatch.setenv("VIT_EDU_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("VIT_EDU_FAST", "perhaps")
    with pytest.raises(pretrained.WeightsError, match="VIT_EDU_FAST is 'perhaps'; expected 1 or 0"):
        pretrained.load("torchvision/vit_b_16")


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_pictures_without_known_colours(mode):
    model = pretrained.load("vit-cifar10")
    with pytest.raises(pretrained.WeightsError, match=rf"has the mode '{mode}', .* PNG or JPEG\.$"):
        pretrained.preprocess(Image.new(mode, (32, 32)), model)


@pytest.mark.parametrize(
    "said", [{"architecture": "vit_of_tomorrow"}, {"model_args": {"tokens": 3}}, {"global_pool": "all"}]
)
def test_a_config_that_timm_cannot_build(said, tmp_path):
    about = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "vit_base_patch32_clip_224", "num_classes": 3, "pretrained_cfg": about} | said
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({"cls_token": torch.zeros(1, 1, 64)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(pretrained.WeightsError, match="cannot build 'vit_"):
        pretrained.load(tmp_path)
