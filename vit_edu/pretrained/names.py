"""Which name of theirs is which of ours: a table for each family of published weights, theirs on the left, ours on the right.

How to read a table:

    {i}         the number of the block
    .*          two rows: weight and bias (in JAX: kernel and bias)
    [q] [k] [v] queries, keys and values, which are three tensors there and one here, stacked in this order
    [scale]     LayerScale, one factor for each output of the layer, multiplied into its weight and bias

Ours are timm's names (see `models.vit`, and `models.variants` for tokens and heads that a plain ViT does not have).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from vit_edu.pretrained.resolution import AS_TIMM, Resizing

NUMBER = re.compile(r"(blocks\.|encoder_layer_|layers?\.|encoderblock_)(\d+)")


class WeightsError(Exception):
    """Weights do not fit a model, or are not available. The text shows both sides and says what to do."""


def table(text):
    """The rows of a text, each "theirs ours", with .* spelt out -> {theirs: ours}."""
    rows = {}
    for line in text.strip().splitlines():
        if not line:
            continue
        theirs, ours = line.split()
        weight = "/kernel" if theirs.endswith("/*") else ".weight"
        for kind, name in ((weight, ".weight"), (weight[0] + "bias", ".bias")):
            rows[re.sub(r"[./]\*$", kind, theirs)] = ours.replace(".*", name)
    return rows


def numbered(key):
    """A name -> (the name with {i} for the number of the block, that number as a text, "" where there is none)."""
    found = NUMBER.search(key)
    if not found:
        return key, ""
    return f"{key[: found.start(2)]}{{i}}{key[found.end(2) :]}", found.group(2)


@dataclass(frozen=True)
class Family:
    """Names of one source of weights. names: {theirs: ours}. ignored: {theirs, a regular expression: the reason}.

    prefixes: what may come before every name. norm_eps: the epsilon of its layer norms, which no state dict holds.
    gelu: its GELU, "none" (exact) or "tanh" (approximate), as for `torch.nn.GELU`.
    resizing: how its authors resize positions; also a function of the names, where one family holds the weights of several.
    """

    names: dict
    prefixes: tuple = ()
    ignored: dict = field(default_factory=dict)
    norm_eps: float = 1e-6
    gelu: str = "none"
    resizing: Resizing | Callable = AS_TIMM

    @cached_property
    def known(self):
        """The table with every prefix in front of every name."""
        return {p + theirs: ours for p in ("", *self.prefixes) for theirs, ours in self.names.items()}

    def ours(self, key):
        """Our name for one of theirs, [part] included, or None if the table has none."""
        pattern, number = numbered(key)
        ours = self.known.get(pattern)
        return ours and ours.replace("{i}", number)

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
norm.*                          norm.*
fc_norm.*                       fc_norm.*
head.*                          head.*
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


def jax_to_torch(ours, value):
    """A tensor of the JAX family in our layout. There, inputs come first and heads have an axis; here, outputs come first.

    patches (P, P, C, D) -> (D, C, P, P); query, key, value (D, h, d) -> (D, D); their biases (h, d) -> (D,);
    out (h, d, D) -> (D, D); other kernels (in, out) -> (out, in).
    """
    if ours == "patch_embed.proj.weight":
        return value.permute(3, 2, 0, 1)
    if ours.endswith("attn.qkv.weight"):
        return value.flatten(1).mT
    if ours.endswith("attn.proj.weight"):
        return value.flatten(0, 1).mT
    if ours.endswith("attn.qkv.bias"):
        return value.flatten()
    return value.mT if value.ndim == 2 else value


# A layer between norm and head that only some older weights have. The head cannot be used without it.
PRE_LOGITS = (
    "the head reads this extra layer, which our model does not have, so both are left out, as for fine-tuning"
)
MASK_TOKEN = "replaces hidden patches during pretraining, and is not used afterwards"
DECODER = "MAE's decoder paints hidden patches during pretraining, and is not used afterwards"
POOLER = "a layer after the class token for other tasks; classification does not use it"

PLAIN = Resizing(antialias=False)  # transformers, in every model but the one with registers


def resizing_by_timms_names(keys):
    """timm's way, except for DINOv2 as its authors publish it, which has a mask token: dinov2/hub/backbones.py.

    Their models with registers resize as timm does.
    """
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
        ignored={r"^mask_token$": MASK_TOKEN, r"^pre_logits\.": PRE_LOGITS},
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
    "jax": Family(
        JAX,
        prefixes=("opt/target/", "params/"),
        ignored={r"^(opt/target/|params/)?pre_logits/": PRE_LOGITS},
        gelu="tanh",  # flax.linen.gelu; timm and transformers run the same weights with the exact one
        # vit_jax/checkpoint.py: scipy.ndimage.zoom
        resizing=Resizing("bilinear", antialias=False, align_corners=True),
    ),
}


PREFIX = re.compile(r"((module|_orig_mod|model|backbone|encoder)\.)+")


def without_prefix(state_dict):
    """(the state dict without what wrappers put before its names, what was taken away or "").

    A prefix goes only if a family then knows more of the names, and if no two names become the same.
    """

    def known(keys):
        patterns = [numbered(key)[0] for key in keys]
        return max(sum(p in f.known for p in patterns) for f in FAMILIES.values())

    best, taken, most = state_dict, "", known(state_dict)
    whole = {m.group() for key in state_dict if (m := PREFIX.match(key))}
    prefixes = {
        "".join(part + "." for part in p.split(".")[:n]) for p in whole for n in range(1, p.count(".") + 1)
    }
    for prefix in sorted(prefixes, key=len):
        stripped = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        if len(stripped) == len(state_dict) and known(stripped) > most:
            best, taken, most = stripped, prefix, known(stripped)
    return best, taken


def recognise(keys):
    """The name of the family that knows most of the keys. Raises WeightsError if none knows any."""
    patterns = [numbered(key)[0] for key in keys]
    found = {name: sum(p in f.known for p in patterns) for name, f in FAMILIES.items()}
    best = max(found, key=found.get)
    if not found[best]:
        examples = "; ".join(f"{n}: {next(iter(f.names))}" for n, f in FAMILIES.items())
        raise WeightsError(
            f"these are not the weights of a ViT: no family knows any of the {len(keys)} names ({', '.join(list(keys)[:3])}, ...). "
            f"Expected names such as {examples}. Give the state dict of a Vision Transformer."
        )
    return best


def rename_key(key):
    """torchvision's name of a parameter -> ours. Raises WeightsError for a name that is not in the table."""
    number = re.search(r"encoder_layer_(\d+)", key)
    pattern = key.replace(number.group(), "encoder_layer_{i}") if number else key
    if pattern not in TORCHVISION:
        raise WeightsError(f"no name of torchvision's ViT: {key!r}. Known are: {', '.join(TORCHVISION)}.")
    return TORCHVISION[pattern].replace("{i}", number.group(1) if number else "")
