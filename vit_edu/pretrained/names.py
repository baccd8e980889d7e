"""Which name of theirs is which of ours: a table for each family of published weights, theirs on the left, ours on the right.

How to read a table:

    {i}         the number of the block; where blocks are in stages, {i} is the stage, and {j} the block in it
    .*          two rows: weight and bias (in JAX: kernel and bias)
    [q] [k] [v] queries, keys and values, which are three tensors there and one here, stacked in this order
    [kv]        keys and values in one tensor
    [g] [x]     the gate of a SwiGLU and its values, stacked in this order
    [scale]     LayerScale, one factor for each output of the layer, multiplied into its weight and bias

Ours are timm's names (see `models.vit`, `models.swin`, and `models.variants` for tokens and heads that a plain ViT does not have).
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import torch

from vit_edu.pretrained.resolution import AS_TIMM, Resizing

NUMBER = re.compile(r"(?<![^./_])\d+(?=[./])")  # in a name, possibly that of the block


class WeightsError(Exception):
    """Weights do not fit a model, or are not available. The text shows both sides and says what to do."""


def table(text):
    """The rows of a text, each "theirs ours", with .* spelt out -> {theirs: ours}, for a `Family`.

    The top of this file says how to read it. Raises WeightsError for a line that is not two names.
    """
    rows = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        if len(line.split()) != 2:
            raise WeightsError(f"a row of a table is two names, theirs and ours, got {line!r}.")
        theirs, ours = line.split()
        weight = "/kernel" if theirs.endswith("/*") else ".weight"
        for kind, name in ((weight, ".weight"), (weight[0] + "bias", ".bias")):
            rows[re.sub(r"[./]\*$", kind, theirs)] = ours.replace(".*", name)
    return rows


@dataclass(frozen=True)
class Family:
    """Names of one source of weights. names: {theirs: ours}. ignored: {theirs, a regular expression: the reason}.

    Give one of your own to `convert`; docs/own-weights.md shows how. `table` makes `names`. All else has defaults:

    prefixes: what may come before every name. norm_eps: the epsilon of its layer norms, which no state dict holds.
    gelu: its GELU, "none" (exact) or "tanh" (approximate), as for `torch.nn.GELU`, or "quick" (x sigmoid(1.702 x)).
    resizing: how its authors resize positions; also a function of the names, where one family holds the weights of several.
    transpose: (our name, a tensor of theirs) -> the tensor in our layout. heads: how many attention heads, also a function of the
    state dict. poolings: those that compute the same as ours of this name. mixer, swin: whether it holds an MLP-Mixer, or
    a Swin, instead of a ViT.
    """

    names: dict
    prefixes: tuple = ()
    ignored: dict = field(default_factory=dict)
    norm_eps: float = 1e-6
    gelu: str = "none"
    resizing: Resizing | Callable = AS_TIMM
    transpose: Callable = lambda ours, value: value
    heads: int | Callable | None = None
    poolings: tuple = ("token", "avg", "token+avg", "map")
    mixer: bool = False
    swin: bool = False

    @cached_property
    def known(self):
        """The table with every prefix in front of every name."""
        return {p + theirs: ours for p in ("", *self.prefixes) for theirs, ours in self.names.items()}

    def ours(self, key):
        """Our name for one of theirs, [part] included, or None if the table has none."""
        if key in self.known:
            return self.known[key]
        numbers = list(NUMBER.finditer(key))
        for which in (*combinations(numbers, 1), *combinations(numbers, 2)):
            letters = list(zip(("{i}", "{j}"), which, strict=False))
            pattern = key
            for letter, number in reversed(letters):
                pattern = pattern[: number.start()] + letter + pattern[number.end() :]
            if ours := self.known.get(pattern):
                for letter, number in letters:
                    ours = ours.replace(letter, number.group())
                return ours
        return None

    def reason_to_ignore(self, key):
        """Why a tensor of theirs has no place in our model, or "" if it should have one."""
        return next((why for name, why in self.ignored.items() if re.search(name, key)), "")


# torchvision.models.vit_b_16, vit_b_32, vit_l_16, vit_l_32, vit_h_14
TORCHVISION = table("""
class_token                                             cls_token
conv_proj.*                                             patch_embed.proj.*
encoder.pos_embedding                                   pos_embed
encoder.layers.encoder_layer_{i}.ln_1.*                 blocks.{i}.norm1.*
encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight  blocks.{i}.attn.qkv.weight
encoder.layers.encoder_layer_{i}.self_attention.in_proj_bias    blocks.{i}.attn.qkv.bias
encoder.layers.encoder_layer_{i}.self_attention.out_proj.*      blocks.{i}.attn.proj.*
encoder.layers.encoder_layer_{i}.ln_2.*                 blocks.{i}.norm2.*
encoder.layers.encoder_layer_{i}.mlp.0.*                blocks.{i}.mlp.fc1.*
encoder.layers.encoder_layer_{i}.mlp.3.*                blocks.{i}.mlp.fc2.*
encoder.ln.*                                            norm.*
heads.head.*                                            head.*
""")

# timm; with the same names: DeiT, MAE, DINO and DINOv2 as their authors publish them, and our own models.
TIMM = table("""
cls_token                       cls_token
dist_token                      dist_token
reg_token                       reg_token
register_tokens                 reg_token
pos_embed                       pos_embed
patch_embed.proj.*              patch_embed.proj.*
blocks.{i}.norm1.*              blocks.{i}.norm1.*
blocks.{i}.attn.qkv.*           blocks.{i}.attn.qkv.*
blocks.{i}.attn.proj.*          blocks.{i}.attn.proj.*
blocks.{i}.ls1.gamma            blocks.{i}.attn.proj[scale]
blocks.{i}.norm2.*              blocks.{i}.norm2.*
blocks.{i}.mlp.fc1.*            blocks.{i}.mlp.fc1.*
blocks.{i}.mlp.fc2.*            blocks.{i}.mlp.fc2.*
blocks.{i}.ls2.gamma            blocks.{i}.mlp.fc2[scale]
blocks.{i}.mlp.fc1_g.*          blocks.{i}.mlp.fc1.*[g]
blocks.{i}.mlp.fc1_x.*          blocks.{i}.mlp.fc1.*[x]
blocks.{i}.mlp.w12.*            blocks.{i}.mlp.fc1.*
blocks.{i}.mlp.w3.*             blocks.{i}.mlp.fc2.*
norm_pre.*                      norm_pre.*
norm.*                          norm.*
attn_pool.latent                attn_pool.latent
attn_pool.q.*                   attn_pool.qkv.*[q]
attn_pool.kv.*                  attn_pool.qkv.*[kv]
attn_pool.qkv.*                 attn_pool.qkv.*
attn_pool.proj.*                attn_pool.proj.*
attn_pool.norm.*                attn_pool.norm.*
attn_pool.mlp.fc1.*             attn_pool.mlp.fc1.*
attn_pool.mlp.fc2.*             attn_pool.mlp.fc2.*
fc_norm.*                       fc_norm.*
head.*                          head.*
head.proj.*                     head.*
head_dist.*                     head_dist.*
""")

# transformers: ViT, DeiT, MSN, and the encoders of MAE and I-JEPA. First the names outside the blocks, then those inside: as they are in files on the Hub and, up to
# transformers 4, in memory; then as they are in memory from transformers 5 on.
TRANSFORMERS = table("""
embeddings.cls_token                            cls_token
embeddings.distillation_token                   dist_token
embeddings.position_embeddings                  pos_embed
embeddings.patch_embeddings.projection.*        patch_embed.proj.*
layernorm.*                                     norm.*
classifier.*                                    head.*
cls_classifier.*                                head.*
distillation_classifier.*                       head_dist.*

encoder.layer.{i}.layernorm_before.*            blocks.{i}.norm1.*
encoder.layer.{i}.attention.attention.query.*   blocks.{i}.attn.qkv.*[q]
encoder.layer.{i}.attention.attention.key.*     blocks.{i}.attn.qkv.*[k]
encoder.layer.{i}.attention.attention.value.*   blocks.{i}.attn.qkv.*[v]
encoder.layer.{i}.attention.output.dense.*      blocks.{i}.attn.proj.*
encoder.layer.{i}.layernorm_after.*             blocks.{i}.norm2.*
encoder.layer.{i}.intermediate.dense.*          blocks.{i}.mlp.fc1.*
encoder.layer.{i}.output.dense.*                blocks.{i}.mlp.fc2.*

layers.{i}.layernorm_before.*                   blocks.{i}.norm1.*
layers.{i}.attention.q_proj.*                   blocks.{i}.attn.qkv.*[q]
layers.{i}.attention.k_proj.*                   blocks.{i}.attn.qkv.*[k]
layers.{i}.attention.v_proj.*                   blocks.{i}.attn.qkv.*[v]
layers.{i}.attention.o_proj.*                   blocks.{i}.attn.proj.*
layers.{i}.layernorm_after.*                    blocks.{i}.norm2.*
layers.{i}.mlp.fc1.*                            blocks.{i}.mlp.fc1.*
layers.{i}.mlp.fc2.*                            blocks.{i}.mlp.fc2.*
""")

# transformers, DINOv2 with and without registers. The attention has two sets of names, as above.
TRANSFORMERS_DINOV2 = table("""
embeddings.cls_token                            cls_token
embeddings.register_tokens                      reg_token
embeddings.position_embeddings                  pos_embed
embeddings.patch_embeddings.projection.*        patch_embed.proj.*
encoder.layer.{i}.norm1.*                       blocks.{i}.norm1.*
encoder.layer.{i}.attention.attention.query.*   blocks.{i}.attn.qkv.*[q]
encoder.layer.{i}.attention.attention.key.*     blocks.{i}.attn.qkv.*[k]
encoder.layer.{i}.attention.attention.value.*   blocks.{i}.attn.qkv.*[v]
encoder.layer.{i}.attention.output.dense.*      blocks.{i}.attn.proj.*
encoder.layer.{i}.attention.q_proj.*            blocks.{i}.attn.qkv.*[q]
encoder.layer.{i}.attention.k_proj.*            blocks.{i}.attn.qkv.*[k]
encoder.layer.{i}.attention.v_proj.*            blocks.{i}.attn.qkv.*[v]
encoder.layer.{i}.attention.o_proj.*            blocks.{i}.attn.proj.*
encoder.layer.{i}.layer_scale1.lambda1          blocks.{i}.attn.proj[scale]
encoder.layer.{i}.norm2.*                       blocks.{i}.norm2.*
encoder.layer.{i}.mlp.fc1.*                     blocks.{i}.mlp.fc1.*
encoder.layer.{i}.mlp.fc2.*                     blocks.{i}.mlp.fc2.*
encoder.layer.{i}.layer_scale2.lambda1          blocks.{i}.mlp.fc2[scale]
layernorm.*                                     norm.*
classifier.*                                    head.*
""")

# OpenAI's CLIP and OpenCLIP: github.com/mlfoundations/open_clip, src/open_clip/transformer.py, VisionTransformer.
OPENCLIP = table("""
class_embedding                             cls_token
conv1.*                                     patch_embed.proj.*
positional_embedding                        pos_embed
ln_pre.*                                    norm_pre.*
transformer.resblocks.{i}.ln_1.*            blocks.{i}.norm1.*
transformer.resblocks.{i}.attn.in_proj_weight   blocks.{i}.attn.qkv.weight
transformer.resblocks.{i}.attn.in_proj_bias     blocks.{i}.attn.qkv.bias
transformer.resblocks.{i}.attn.out_proj.*   blocks.{i}.attn.proj.*
transformer.resblocks.{i}.ls_1.gamma        blocks.{i}.attn.proj[scale]
transformer.resblocks.{i}.ln_2.*            blocks.{i}.norm2.*
transformer.resblocks.{i}.mlp.c_fc.*        blocks.{i}.mlp.fc1.*
transformer.resblocks.{i}.mlp.c_proj.*      blocks.{i}.mlp.fc2.*
transformer.resblocks.{i}.ls_2.gamma        blocks.{i}.mlp.fc2[scale]
ln_post.*                                   norm.*
proj                                        head.weight
""")

# transformers, the image towers of CLIP and SigLIP
TRANSFORMERS_CLIP = table("""
embeddings.class_embedding                  cls_token
embeddings.patch_embedding.*                patch_embed.proj.*
embeddings.position_embedding.weight        pos_embed
pre_layrnorm.*                              norm_pre.*
encoder.layers.{i}.layer_norm1.*            blocks.{i}.norm1.*
encoder.layers.{i}.self_attn.q_proj.*       blocks.{i}.attn.qkv.*[q]
encoder.layers.{i}.self_attn.k_proj.*       blocks.{i}.attn.qkv.*[k]
encoder.layers.{i}.self_attn.v_proj.*       blocks.{i}.attn.qkv.*[v]
encoder.layers.{i}.self_attn.out_proj.*     blocks.{i}.attn.proj.*
encoder.layers.{i}.layer_norm2.*            blocks.{i}.norm2.*
encoder.layers.{i}.mlp.fc1.*                blocks.{i}.mlp.fc1.*
encoder.layers.{i}.mlp.fc2.*                blocks.{i}.mlp.fc2.*
post_layernorm.*                            norm.*
visual_projection.*                         head.*
head.probe                                  attn_pool.latent
head.attention.in_proj_weight               attn_pool.qkv.weight
head.attention.in_proj_bias                 attn_pool.qkv.bias
head.attention.out_proj.*                   attn_pool.proj.*
head.layernorm.*                            attn_pool.norm.*
head.mlp.fc1.*                              attn_pool.mlp.fc1.*
head.mlp.fc2.*                              attn_pool.mlp.fc2.*
classifier.*                                head.*
""")

# The authors' own files, .npz: github.com/google-research/vision_transformer, vit_jax/models_vit.py.
JAX = table("""
cls                                                     cls_token
embedding/*                                             patch_embed.proj.*
Transformer/posembed_input/pos_embedding                pos_embed
Transformer/encoderblock_{i}/LayerNorm_0/scale          blocks.{i}.norm1.weight
Transformer/encoderblock_{i}/LayerNorm_0/bias           blocks.{i}.norm1.bias
Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/query/*  blocks.{i}.attn.qkv.*[q]
Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/key/*    blocks.{i}.attn.qkv.*[k]
Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/value/*  blocks.{i}.attn.qkv.*[v]
Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/out/*    blocks.{i}.attn.proj.*
Transformer/encoderblock_{i}/LayerNorm_2/scale          blocks.{i}.norm2.weight
Transformer/encoderblock_{i}/LayerNorm_2/bias           blocks.{i}.norm2.bias
Transformer/encoderblock_{i}/MlpBlock_3/Dense_0/*       blocks.{i}.mlp.fc1.*
Transformer/encoderblock_{i}/MlpBlock_3/Dense_1/*       blocks.{i}.mlp.fc2.*
Transformer/encoder_norm/scale                          norm.weight
Transformer/encoder_norm/bias                           norm.bias
head/*                                                  head.*
""")


# vit-pytorch, github.com/lucidrains/vit-pytorch, vit_pytorch/vit.py: 0.10 to 0.40, and with a Residual around each half, 0.7 to 0.9.
# From 1.0 on, it is another architecture.
VIT_PYTORCH = table("""
cls_token                                       cls_token
pos_embedding                                   pos_embed
to_patch_embedding.1.*                          patch_embed.proj.*
transformer.layers.{i}.0.norm.*                 blocks.{i}.norm1.*
transformer.layers.{i}.0.fn.to_qkv.weight       blocks.{i}.attn.qkv.weight
transformer.layers.{i}.0.fn.to_out.0.*          blocks.{i}.attn.proj.*
transformer.layers.{i}.1.norm.*                 blocks.{i}.norm2.*
transformer.layers.{i}.1.fn.net.0.*             blocks.{i}.mlp.fc1.*
transformer.layers.{i}.1.fn.net.3.*             blocks.{i}.mlp.fc2.*
mlp_head.0.*                                    norm.*
mlp_head.1.*                                    head.*

transformer.layers.{i}.0.fn.norm.*              blocks.{i}.norm1.*
transformer.layers.{i}.0.fn.fn.to_qkv.weight    blocks.{i}.attn.qkv.weight
transformer.layers.{i}.0.fn.fn.to_out.0.*       blocks.{i}.attn.proj.*
transformer.layers.{i}.1.fn.norm.*              blocks.{i}.norm2.*
transformer.layers.{i}.1.fn.fn.net.0.*          blocks.{i}.mlp.fc1.*
transformer.layers.{i}.1.fn.fn.net.3.*          blocks.{i}.mlp.fc2.*
""")

# timm's MlpMixer, whose names are those of our `Mixer`.
TIMM_MIXER = table("""
stem.proj.*                     stem.proj.*
blocks.{i}.norm1.*              blocks.{i}.norm1.*
blocks.{i}.mlp_tokens.fc1.*     blocks.{i}.mlp_tokens.fc1.*
blocks.{i}.mlp_tokens.fc2.*     blocks.{i}.mlp_tokens.fc2.*
blocks.{i}.norm2.*              blocks.{i}.norm2.*
blocks.{i}.mlp_channels.fc1.*   blocks.{i}.mlp_channels.fc1.*
blocks.{i}.mlp_channels.fc2.*   blocks.{i}.mlp_channels.fc2.*
norm.*                          norm.*
head.*                          head.*
""")

# The authors' own files of MLP-Mixer, .npz: github.com/google-research/vision_transformer, Mixer-B_16.npz and others.
JAX_MIXER = table("""
stem/*                                      stem.proj.*
MixerBlock_{i}/LayerNorm_0/scale            blocks.{i}.norm1.weight
MixerBlock_{i}/LayerNorm_0/bias             blocks.{i}.norm1.bias
MixerBlock_{i}/token_mixing/Dense_0/*       blocks.{i}.mlp_tokens.fc1.*
MixerBlock_{i}/token_mixing/Dense_1/*       blocks.{i}.mlp_tokens.fc2.*
MixerBlock_{i}/LayerNorm_1/scale            blocks.{i}.norm2.weight
MixerBlock_{i}/LayerNorm_1/bias             blocks.{i}.norm2.bias
MixerBlock_{i}/channel_mixing/Dense_0/*     blocks.{i}.mlp_channels.fc1.*
MixerBlock_{i}/channel_mixing/Dense_1/*     blocks.{i}.mlp_channels.fc2.*
pre_head_layer_norm/scale                   norm.weight
pre_head_layer_norm/bias                    norm.bias
head/*                                      head.*
""")


def _merging(theirs, behind):
    """Rows for patch merging, which is at the beginning of a stage in ours, or `behind` in theirs, at the end of the one before."""
    stages = range(1, 9)
    norms = (f"{theirs}.{i - behind}.downsample.norm.* layers.{i}.downsample.norm.*" for i in stages)
    reductions = (
        f"{theirs}.{i - behind}.downsample.reduction.weight layers.{i}.downsample.reduction.weight"
        for i in stages
    )
    return table("\n".join([*norms, *reductions]))


# Swin as its authors publish it, github.com/microsoft/Swin-Transformer, models/swin_transformer.py; but for patch merging and head,
# timm and ours have the same names.
SWIN = table("""
patch_embed.proj.*                  patch_embed.proj.*
patch_embed.norm.*                  patch_embed.norm.*
layers.{i}.blocks.{j}.norm1.*       layers.{i}.blocks.{j}.norm1.*
layers.{i}.blocks.{j}.attn.relative_position_bias_table  layers.{i}.blocks.{j}.attn.relative_position_bias_table
layers.{i}.blocks.{j}.attn.qkv.*    layers.{i}.blocks.{j}.attn.qkv.*
layers.{i}.blocks.{j}.attn.proj.*   layers.{i}.blocks.{j}.attn.proj.*
layers.{i}.blocks.{j}.norm2.*       layers.{i}.blocks.{j}.norm2.*
layers.{i}.blocks.{j}.mlp.fc1.*     layers.{i}.blocks.{j}.mlp.fc1.*
layers.{i}.blocks.{j}.mlp.fc2.*     layers.{i}.blocks.{j}.mlp.fc2.*
norm.*                              norm.*
""")
TIMM_SWIN = SWIN | _merging("layers", 0) | table("head.fc.* head.fc.*")
SWIN |= _merging("layers", 1) | table("head.* head.fc.*")

# transformers. The attention and the MLP have two sets of names, as in TRANSFORMERS.
TRANSFORMERS_SWIN = _merging("encoder.layers", 1) | table("""
embeddings.patch_embeddings.projection.*    patch_embed.proj.*
embeddings.norm.*                           patch_embed.norm.*
layernorm.*                                 norm.*
classifier.*                                head.fc.*
encoder.layers.{i}.blocks.{j}.layernorm_before.*        layers.{i}.blocks.{j}.norm1.*
encoder.layers.{i}.blocks.{j}.layernorm_after.*         layers.{i}.blocks.{j}.norm2.*

encoder.layers.{i}.blocks.{j}.attention.self.relative_position_bias_table  layers.{i}.blocks.{j}.attn.relative_position_bias_table
encoder.layers.{i}.blocks.{j}.attention.self.query.*    layers.{i}.blocks.{j}.attn.qkv.*[q]
encoder.layers.{i}.blocks.{j}.attention.self.key.*      layers.{i}.blocks.{j}.attn.qkv.*[k]
encoder.layers.{i}.blocks.{j}.attention.self.value.*    layers.{i}.blocks.{j}.attn.qkv.*[v]
encoder.layers.{i}.blocks.{j}.attention.output.dense.*  layers.{i}.blocks.{j}.attn.proj.*
encoder.layers.{i}.blocks.{j}.intermediate.dense.*      layers.{i}.blocks.{j}.mlp.fc1.*
encoder.layers.{i}.blocks.{j}.output.dense.*            layers.{i}.blocks.{j}.mlp.fc2.*

encoder.layers.{i}.blocks.{j}.attention.relative_position_bias.relative_position_bias_table  layers.{i}.blocks.{j}.attn.relative_position_bias_table
encoder.layers.{i}.blocks.{j}.attention.q_proj.*        layers.{i}.blocks.{j}.attn.qkv.*[q]
encoder.layers.{i}.blocks.{j}.attention.k_proj.*        layers.{i}.blocks.{j}.attn.qkv.*[k]
encoder.layers.{i}.blocks.{j}.attention.v_proj.*        layers.{i}.blocks.{j}.attn.qkv.*[v]
encoder.layers.{i}.blocks.{j}.attention.o_proj.*        layers.{i}.blocks.{j}.attn.proj.*
encoder.layers.{i}.blocks.{j}.mlp.fc1.*                 layers.{i}.blocks.{j}.mlp.fc1.*
encoder.layers.{i}.blocks.{j}.mlp.fc2.*                 layers.{i}.blocks.{j}.mlp.fc2.*
""")


def patches_from_rows(ours, value):
    """The patch projection as a matrix, as ours: (D, P*P*C) -> (D, C, P, P). Its rows are in the order of our `patchify`.

    The pixels of a patch are a square in 3 channels or else in 1; anything else raises WeightsError.
    """
    if ours != "patch_embed.proj.weight" or value.ndim != 2:
        return value
    pixels = value.shape[1]
    for channels in (3, 1):
        side = math.isqrt(pixels // channels)
        if side * side * channels == pixels:
            return value.unflatten(1, (side, side, channels)).permute(0, 3, 1, 2)
    raise WeightsError(
        f"their patches have {pixels} numbers, and that is no square of pixels in 3 channels or in 1."
    )


def jax_heads(state_dict):
    """The kernels of this family have an axis for the heads: (D, heads, d)."""
    return next((v.shape[1] for k, v in state_dict.items() if k.endswith("query/kernel")), None)


def jax_to_torch(ours, value):
    """A tensor of the JAX family in our layout. There, inputs come first and heads have an axis; here, outputs come first.

    patches (P, P, C, D) -> (D, C, P, P); query, key, value (D, h, d) -> (D, D); their biases (h, d) -> (D,);
    out (h, d, D) -> (D, D); other kernels (in, out) -> (out, in).
    """
    if ours in ("patch_embed.proj.weight", "stem.proj.weight"):
        return value.permute(3, 2, 0, 1)
    if ours.endswith("attn.qkv.weight"):
        return value.flatten(1).mT
    if ours.endswith("attn.proj.weight"):
        return value.flatten(0, 1).mT
    if ours.endswith("attn.qkv.bias"):
        return value.flatten()
    return value.mT if value.ndim == 2 else value


def clip_to_torch(ours, value):
    """A tensor of a CLIP in our layout: (D,) -> (1, 1, D) for the class token, (T, D) -> (1, T, D) for positions."""
    if ours == "cls_token":
        return value.reshape(1, 1, -1)
    return value[None] if ours == "pos_embed" else value


def openclip_to_torch(ours, value):
    """The same for OpenCLIP, whose projection is (D, E) where ours is (E, D)."""
    return value.mT if ours == "head.weight" else clip_to_torch(ours, value)


# A layer between norm and head that only some older weights have. The head cannot be used without it.
PRE_LOGITS = (
    "the head reads this extra layer, which our model does not have, so both are left out, as for fine-tuning"
)
MASK_TOKEN = "replaces hidden patches during pretraining, and is not used afterwards"
DECODER = "MAE's decoder paints hidden patches during pretraining, and is not used afterwards"
PROJECTION = "DINO's projection head compares two views during pretraining, and is not used afterwards"
COMPUTED = "is computed from the sizes of map and window"
POOLER = "a layer after the class token for other tasks; classification does not use it"

BUFFERS = r"\.(relative_position_index|attn_mask)$"  # of Swin

PLAIN = Resizing(antialias=False)  # transformers, in every model but the one with registers


def resizing_by_timms_names(keys):
    """timm's way, except for files that show their authors, because these hold what only pretraining needs.

    DINOv2 has a mask token (dinov2/hub/backbones.py); its models with registers resize as timm does. MAE has a decoder (mae,
    util/pos_embed.py); a file of its encoder alone looks like timm's.
    """
    if any(key.startswith("decoder_") for key in keys):
        return PLAIN
    authors = {"mask_token", "blocks.0.ls1.gamma"} <= set(keys) and "register_tokens" not in keys
    return Resizing(antialias=False, offset=0.1) if authors else AS_TIMM


FAMILIES = {
    "torchvision": Family(
        TORCHVISION,
        ignored={r"^heads\.pre_logits\.": PRE_LOGITS},
        resizing=Resizing(antialias=False, align_corners=True),  # its `interpolate_embeddings`
    ),
    "timm": Family(
        TIMM,
        prefixes=("visual.trunk.", "visual."),  # in OpenCLIP
        ignored={
            r"^mask_token$": MASK_TOKEN,
            r"^pre_logits\.": PRE_LOGITS,
            r"^decoder_": DECODER,
            r"^(head\.(mlp|last_layer)|(dino|ibot)_head)\.": PROJECTION,
        },
        resizing=resizing_by_timms_names,
    ),
    "transformers": Family(
        TRANSFORMERS,
        prefixes=("vit.", "deit.", "ijepa."),
        ignored={
            r"^decoder\.": DECODER,
            r"embeddings\.mask_token$": MASK_TOKEN,
            r"pooler\.dense\.": POOLER,
        },
        norm_eps=1e-12,
        resizing=PLAIN,
    ),
    "transformers-dinov2": Family(
        TRANSFORMERS_DINOV2,
        prefixes=("dinov2.", "dinov2_with_registers."),
        ignored={r"embeddings\.mask_token$": MASK_TOKEN},
        resizing=lambda keys: AS_TIMM if any("register_tokens" in key for key in keys) else PLAIN,
    ),
    "openclip": Family(
        OPENCLIP, prefixes=("visual.",), transpose=openclip_to_torch, norm_eps=1e-5, resizing=AS_TIMM
    ),
    "transformers-clip": Family(
        TRANSFORMERS_CLIP,
        prefixes=("vision_model.",),
        ignored={r"embeddings\.position_ids$": "the numbers 0, 1, 2, ..."},
        transpose=clip_to_torch,
        norm_eps=1e-5,
        gelu="quick",
        resizing=PLAIN,
    ),
    "jax": Family(
        JAX,
        prefixes=("opt/target/", "params/"),
        ignored={r"^(opt/target/|params/)?pre_logits/": PRE_LOGITS},
        gelu="tanh",  # flax.linen.gelu; timm and transformers run the same weights with the exact one
        transpose=jax_to_torch,
        heads=jax_heads,
        # vit_jax/checkpoint.py: scipy.ndimage.zoom
        resizing=Resizing("bilinear", antialias=False, align_corners=True),
    ),
    "vit-pytorch": Family(
        VIT_PYTORCH,
        norm_eps=1e-5,
        transpose=patches_from_rows,
        poolings=("token",),  # its mean is over all tokens, and normalised afterwards
    ),
    "timm-mixer": Family(TIMM_MIXER, poolings=("avg",), mixer=True),
    "jax-mixer": Family(
        JAX_MIXER,
        gelu="tanh",  # as in "jax"
        transpose=jax_to_torch,
        poolings=("avg",),
        mixer=True,
    ),
    "timm-swin": Family(TIMM_SWIN, ignored={BUFFERS: COMPUTED}, norm_eps=1e-5, poolings=("avg",), swin=True),
    "swin": Family(SWIN, ignored={BUFFERS: COMPUTED}, norm_eps=1e-5, poolings=("avg",), swin=True),
    "transformers-swin": Family(
        TRANSFORMERS_SWIN,
        prefixes=("swin.",),
        ignored={
            BUFFERS: COMPUTED,
            r"^decoder\.": "paints hidden patches during pretraining, and is not used afterwards",
            r"embeddings\.mask_token$": MASK_TOKEN,
        },
        norm_eps=1e-5,
        poolings=("avg",),
        swin=True,
    ),
}


# Entries of a checkpoint that hold tensors, in the order in which they are taken
ENTRIES = (
    "model", "state_dict", "model_state_dict", "net", "teacher", "ema", "ema_model", "model_ema", "state_dict_ema", "student",
)  # fmt: skip
# What wrappers of torch write into the middle of names
INSIDE = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def without_entries(found, entry=None):
    """The tensors of a checkpoint -> (a state dict, sentences that say where they were).

    They may be in an entry ({"teacher": {...}, "epoch": 3}), or be marked by a prefix where there are several of each
    ("teacher.norm.weight", "student.norm.weight"). entry: which to take, by default the first of ENTRIES, or else the first
    that holds tensors; any beginning of the names will do. Raises WeightsError for an entry that is not there.
    """
    notes = []
    while isinstance(found, dict) and any(isinstance(v, dict) for v in found.values()):
        holding = [
            k for k, v in found.items() if isinstance(v, dict) and (k in ENTRIES or _holds_tensors(k, v))
        ]
        if not holding:
            break
        holding.sort(key=lambda k: ENTRIES.index(k) if k in ENTRIES else len(ENTRIES))
        taken, notes, entry = _taken(holding, entry, notes)
        found = found[taken]
    marked = {e: {k[len(e) + 1 :] for k in found if str(k).startswith(f"{e}.")} for e in ENTRIES}
    marked = {e: names for e, names in marked.items() if names}
    twins = [
        e for e in marked if any(len(marked[e] & marked[o]) > len(marked[e]) / 2 for o in marked if o != e)
    ]
    if twins:
        taken, notes, entry = _taken(twins, entry, notes)
        others = tuple(f"{e}." for e in twins if e != taken)
        found = {k.removeprefix(f"{taken}."): v for k, v in found.items() if not k.startswith(others)}
    if entry is not None and any(str(k).startswith(f"{entry}.") for k in found):
        found = {k.removeprefix(f"{entry}."): v for k, v in found.items() if k.startswith(f"{entry}.")}
        notes.append(f'The tensors are those of "{entry}".')
    elif entry is not None:
        tops = sorted({str(k).partition(".")[0] for k in found})
        raise WeightsError(
            f"there is no entry {entry!r} with tensors; the names begin with: {', '.join(tops[:12])}."
        )
    return found, notes


def _holds_tensors(name, value):
    """Whether a dict is a state dict or holds one, and is not that of an optimiser."""
    if not isinstance(value, dict) or not all(isinstance(n, str) for n in (name, *value)):
        return False
    if re.search("optim|sched", name):
        return False
    return any(isinstance(v, torch.Tensor) or _holds_tensors(n, v) for n, v in value.items())


def _taken(holding, entry, notes):
    """(the entry to take, the notes with one about it, the entry that is still to be looked for)."""
    if entry is not None and entry not in holding:
        return holding[0], notes, entry
    taken = entry or holding[0]
    note = f'The tensors are those of "{taken}".'
    if others := [e for e in holding if e != taken]:
        names = ", ".join(f'"{e}"' for e in others)
        note += f" There are others in {names}: entry= of `convert` and of `read` chooses."
    return taken, [*notes, note], None


def without_prefix(state_dict, families=None):
    """(the state dict without what wrappers put before and into its names, sentences that say what was taken away).

    A prefix is any beginning that half of the names share. It goes only if a family then knows more of the names, and if no
    two names become the same. families: by default all.
    """
    families = list(families or FAMILIES.values())

    def known(keys):
        return max(sum(f.ours(key) is not None for key in keys) for f in families)

    best, notes, most = state_dict, [], known(state_dict)
    starts = Counter(key[: m.end()] for key in state_dict for m in re.finditer(r"\.", key))
    shared = [start for start, count in starts.items() if count >= len(state_dict) / 2]
    for prefix in sorted(shared, key=len):
        stripped = {_stripped(key, prefix): value for key, value in state_dict.items()}
        if len(stripped) == len(state_dict) and known(stripped) > most:
            best, most = stripped, known(stripped)
            notes = [f'"{prefix}" was taken away from the front of their names.']
    inside = sorted({m.group() for key in best for m in INSIDE.finditer(key)})
    stripped = {INSIDE.sub("", key): value for key, value in best.items()}
    if inside and len(stripped) == len(best):
        again, more = without_prefix(stripped, families)
        return again, [*notes, f'"{", ".join(inside)}" was taken out of the middle of their names.', *more]
    return best, notes


def _stripped(key, prefix):
    """A name without as much of a.b. as it begins with, so that a.head loses the a. that a.b.norm loses."""
    parts = prefix.split(".")
    starts = (".".join(parts[:n]) + "." for n in range(len(parts) - 1, 0, -1))
    return key.removeprefix(next((start for start in starts if key.startswith(start)), ""))


# Names by which another architecture shows, and in what it differs. Only names without a place in ours are looked up here.
DIFFERENCES = {
    r"to_patch_embedding\.3\.": "This is vit-pytorch from 1.0 on, which normalises the pixels of a patch and its token once more; ours "
    "projects the pixels as they are.",
    r"layers?\.\d+\.(self_attn\.(in|out)_proj|linear[12]\.)": "These are blocks of torch.nn.TransformerEncoderLayer. Unless they were "
    'built with norm_first=True and activation="gelu", which no file says, they normalise after the skip (post-norm) and have a ReLU; '
    "ours normalise before it and have a GELU. If yours were, it is our architecture under other names.",
    r"output\.LayerNorm\.|\b(post_?norm|norm_?post)\d?\.": "Their blocks normalise after the branch (post-norm), and ours before it.",
    r"\bheads?\.\d+\.(\w+\.)*(w_?|to_)?(q|k|v|quer\w+|keys?|values?|qkv)(_\w+)?\b|\b(q|k|v|quer\w+|keys?|values?)(_\w+)?\.\d+\.": "Their "
    "attention has tensors for each head, and ours one for all heads. Tensors of shape (d, D) become one with torch.cat, and tensors "
    "of shape (d, d), which read only their part of a token, with torch.block_diag. Join them, and convert again.",
    r"\b[qk]_?norm\b": "Their attention normalises queries and keys, and ours does not.",
    r"relative_position|\brel_pos|\brope\b|rotary": "Their attention knows positions relative to each other, and ours adds one to each token.",
    r"^blocks\.\d+\.gamma_[12]$": "Their LayerScale has the names of BEiT and EVA (gamma_1, gamma_2). These models know positions "
    "relative to each other, or turn queries and keys by them, and ours adds one to each token.",
    r"running_(mean|var)|num_batches_tracked": "They have batch norms, and ours layer norms only.",
}


def differences(keys):
    """What the names say about another architecture: a list of sentences."""
    return [why for name, why in DIFFERENCES.items() if any(re.search(name, key) for key in keys)]


def second_set(unknown):
    """A sentence about names without a place that look like another model's, or ""."""
    starts = Counter(k.partition(".")[0] for k in unknown if not re.match(r"[^.]+\.(\d|[^.]*$)", k))
    found = [start for start, count in starts.items() if count >= 10]
    if not found:
        return ""
    return f'Many begin with "{found[0]}.", as if there were a second model: entry="{found[0]}" of `convert` takes those alone. '


OWN_TABLE = (
    "If the architecture is ours under other names, a table of your own maps them: docs/own-weights.md."
)


OTHER_TOWER = "belongs to what reads texts, or compares them with images"


def image_tower(state_dict):
    """(the tensors of the image tower, {the others: why they are left out}) of a pair such as CLIP. Otherwise (everything, {})."""
    for tower in ("visual.", "vision_model."):
        if any(key.startswith(tower) for key in state_dict):
            kept = {k: v for k, v in state_dict.items() if k.startswith((tower, "visual_projection."))}
            return kept, {key: OTHER_TOWER for key in state_dict if key not in kept}
    return state_dict, {}


def recognise(keys):
    """The name of the family that knows most of the keys. Raises WeightsError if none knows any of a block."""
    found = {name: [o for key in keys if (o := f.ours(key))] for name, f in FAMILIES.items()}
    best = max(found, key=lambda name: len(found[name]))
    if not any("blocks." in ours for ours in found[best]):
        count = len(found[best])
        known = f"no family knows any of the {len(keys)} names"
        if count:
            known = f"{best} knows {count} of their {len(keys)} names. None is a part of a block"
        examples = "; ".join(f"{n}: {next(iter(f.names))}" for n, f in FAMILIES.items())
        raise WeightsError(
            " ".join(
                [
                    f"{known} ({', '.join(list(keys)[:3])}, ...).",
                    *differences(keys),
                    f"Expected the state dict of a Vision Transformer, an MLP-Mixer or a Swin, with names such as {examples}. {OWN_TABLE}",
                ]
            )
        )
    return best


def rename_key(key):
    """torchvision's name of a parameter -> ours. Raises WeightsError for a name that is not in the table."""
    number = re.search(r"encoder_layer_(\d+)", key)
    pattern = key.replace(number.group(), "encoder_layer_{i}") if number else key
    if pattern not in TORCHVISION:
        raise WeightsError(f"no name of torchvision's ViT: {key!r}. Known are: {', '.join(TORCHVISION)}.")
    return TORCHVISION[pattern].replace("{i}", number.group(1) if number else "")
