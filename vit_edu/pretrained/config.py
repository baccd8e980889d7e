"""What no state dict says (heads, epsilon, kind of GELU, pooling), taken from a model or a config of its library."""

import math

from torch import nn

from vit_edu.models.swin import pair
from vit_edu.models.variants import POOLINGS
from vit_edu.pretrained.names import WeightsError
from vit_edu.pretrained.resolution import Resizing


def settings_of(theirs):
    """Arguments of `convert` that a model of torchvision, timm, transformers, DINO or ours shows in its attributes."""
    eps = {m.eps for m in theirs.modules() if isinstance(m, nn.LayerNorm)}
    if len(eps) > 1:
        raise WeightsError(
            f"their layer norms have {len(eps)} different epsilons ({eps}), and ours can only have one."
        )
    found = {"norm_eps": eps.pop()} if eps else {}
    if hasattr(theirs, "config"):  # transformers
        settings = config_settings(theirs.config.to_dict())
        del settings["classes"]
        return settings | found
    try:
        if hasattr(theirs, "hidden_dim"):  # torchvision
            blocks, size, pool = theirs.encoder.layers, theirs.image_size, "token"
            heads, acts = {b.num_heads for b in blocks}, [_gelu(b.mlp[1]) for b in blocks]
        elif hasattr(theirs, "blocks") and hasattr(theirs, "stem"):
            return found | _mixer_settings(theirs)
        elif hasattr(theirs, "layers") and hasattr(theirs, "patch_embed"):
            return found | _swin_settings(theirs)
        elif hasattr(theirs, "blocks"):
            blocks, size, pool = theirs.blocks, theirs.patch_embed.img_size, _pooling(theirs)
            _require_plain_blocks(blocks)
            heads, acts = {b.attn.num_heads for b in blocks}, [_gelu_inside(b.mlp) for b in blocks]
            if (attn_pool := getattr(theirs, "attn_pool", None)) is not None:
                _require_plain_pooling(attn_pool)
                heads.add(attn_pool.num_heads)
                acts.append(_gelu(attn_pool.mlp.act))
            _require_plain_patches(theirs.patch_embed.proj)
            if hasattr(
                theirs, "interpolate_pos_encoding"
            ):  # DINO's own, and DINOv2's, which has two settings for it
                found["resizing"] = Resizing(
                    antialias=getattr(theirs, "interpolate_antialias", False),
                    offset=getattr(theirs, "interpolate_offset", 0.1),
                )
        else:
            raise _unknown(theirs)
    except AttributeError as error:
        raise _unknown(theirs, f" ({error})") from error
    if len(heads) != 1:
        raise WeightsError(
            f"their blocks have different numbers of heads ({sorted(heads)}), and ours have one number."
        )
    return found | {"num_heads": heads.pop(), "img_size": size, "gelu": _only(acts), "global_pool": pool}


def _mixer_settings(theirs):
    """The same for timm's MlpMixer, or our `Mixer`. Raises WeightsError for others of its kin, such as ResMLP and gMLP."""
    blocks = list(theirs.blocks)
    if kinds := {type(b).__name__ for b in blocks} - {"MixerBlock"}:
        raise WeightsError(
            f"their blocks are {', '.join(sorted(kinds))}, a different architecture from MLP-Mixer."
        )
    mlps = [mlp for b in blocks for mlp in (b.mlp_tokens, b.mlp_channels)]
    if kinds := {type(mlp).__name__ for mlp in mlps} - {"Mlp", "TokenMlp"}:
        raise WeightsError(
            f"their MLPs are {', '.join(sorted(kinds))}, and those of our Mixer are two linear layers with a GELU between."
        )
    for block in blocks:
        _require_layer_norms(block)
    _require_plain_patches(theirs.stem.proj)
    return {
        "family": "timm-mixer",
        "img_size": theirs.stem.img_size,
        "gelu": _only([_gelu(mlp.act) for mlp in mlps]),
        "global_pool": _pooling(theirs),
    }


def _swin_settings(theirs):
    """The same for Swin, of timm, its authors or ours. Raises WeightsError for others of its kin, such as Swin V2."""
    stages = [list(stage.blocks) for stage in theirs.layers]
    blocks = [block for stage in stages for block in stage]
    if kinds := {type(b).__name__ for b in blocks} - {"SwinTransformerBlock", "SwinBlock"}:
        raise WeightsError(
            f"their blocks are {', '.join(sorted(kinds))}, a different architecture from Swin."
        )
    for block in blocks:
        _require_layer_norms(block)
        _require_usual_scale(block)
    _require_plain_patches(theirs.patch_embed.proj)
    if any(hasattr(b, "window_size") for b in blocks):  # not ours
        _require_our_windows(stages)
    return {
        "family": None,  # the names tell whether it is timm's or that of its authors
        "img_size": theirs.patch_embed.img_size,
        "gelu": _only([_gelu(b.mlp.act) for b in blocks]),
        "global_pool": _pooling(theirs),
    }


def _require_our_windows(stages):
    """Raise WeightsError if a block of timm's or the authors' Swin has other windows than ours would have. stages: lists of blocks."""
    largest = max(max(pair(block.window_size)) for stage in stages for block in stage)
    for number, block in (numbered for stage in stages for numbered in enumerate(stage)):
        grid, there = pair(block.input_resolution), (pair(block.window_size), pair(block.shift_size))
        window = tuple(min(side, largest) for side in grid)
        shift = tuple(w // 2 if number % 2 and w < side else 0 for w, side in zip(window, grid, strict=True))
        if there != (window, shift):
            raise WeightsError(
                f"one of their blocks has windows of {there[0]} with a shift of {there[1]} on a map of {grid}, and ours would have "
                f"{window} and {shift}: one size for all blocks, no larger than the map, and half of it as the shift of every second "
                "block, where the map is larger."
            )


def _unknown(theirs, why=""):
    return WeightsError(
        f"{type(theirs).__module__}.{type(theirs).__name__} is no ViT that we know{why}. Expected one of torchvision, timm or "
        "transformers. convert(theirs.state_dict()) goes by the names alone."
    )


def _only(gelus):
    """The one kind of GELU in all blocks, or WeightsError."""
    if len(set(gelus)) != 1:
        raise WeightsError("their blocks use different kinds of GELU, and ours use one.")
    return gelus[0]


def _gelu(act):
    """ "none" or "tanh", as for `torch.nn.GELU`, or "quick"."""
    kind = type(act).__name__
    gelu = {
        "GELU": getattr(act, "approximate", "none"),
        "GELUTanh": "tanh",
        "QuickGELU": "quick",
    }.get(kind)
    if gelu is None:
        raise WeightsError(f"their activation is {kind}, and ours is GELU.")
    return gelu


def _gelu_inside(mlp):
    """The same for an MLP of theirs, and "none" for a SwiGLU like ours, which has no GELU."""
    kind = type(mlp).__name__
    if kind not in ("SwiGLU", "GluMlp"):
        return _gelu(mlp.act)
    act, gate_last = getattr(mlp, "act", None), getattr(mlp, "gate_last", False)
    if gate_last or not isinstance(act, (nn.SiLU, type(None))):
        raise WeightsError(
            f"their MLP is a {kind} with {type(act).__name__} on its {'last' if gate_last else 'first'} half, and ours is a SwiGLU: SiLU "
            "on the first half."
        )
    return "none"


def _pooling(theirs):
    """Our `global_pool` for a model with timm's names, or None if it does not say (DINO's own do not).

    The models of MAE's authors say True for the mean over patches, which they normalise afterwards, and False for the class
    token.
    """
    if getattr(theirs, "pool_include_prefix", False):
        raise WeightsError("they pool over all tokens, and ours pools over the patches only.")
    if not hasattr(theirs, "global_pool"):
        return None
    pool = theirs.global_pool
    if isinstance(pool, bool):
        normed_afterwards = isinstance(getattr(theirs, "fc_norm", None), nn.LayerNorm)
        pool = {(True, True): "avg", (False, False): "token"}.get((pool, normed_afterwards), pool)
    return require_pooling(pool)


def require_pooling(pool):
    """The same pooling, or WeightsError if ours has none of this kind."""
    if pool not in POOLINGS or not isinstance(pool, str):
        raise WeightsError(
            f'their pooling is {pool!r}; ours is "token" (the class token), "avg" (the mean over the patches) or "token+avg" (both, side by side) or '
            '"map" (a learned query that reads the patches). Anything else would be another function.'
        )
    return pool


def _require_plain_blocks(blocks):
    """Raise WeightsError for blocks with timm's names that compute something else than ours."""
    kinds = {type(b).__name__ for b in blocks}
    if not kinds <= {"Block", "NestedTensorBlock"}:
        raise WeightsError(
            f"their blocks are {', '.join(sorted(kinds))}, a different architecture from our pre-norm Block."
        )
    for block in blocks:
        _require_layer_norms(block)
        for name in ("q_norm", "k_norm", "norm"):
            inside = getattr(block.attn, name, None)
            if inside is not None and not isinstance(inside, nn.Identity):
                raise WeightsError(
                    f"their attention has a {type(inside).__name__} inside ({name}), and ours has none."
                )
        _require_usual_scale(block)


def _require_layer_norms(block):
    """Raise WeightsError if one of the two norms of a block is another kind."""
    for norm in (block.norm1, block.norm2):
        if not isinstance(norm, nn.LayerNorm):
            raise WeightsError(f"their blocks have {type(norm).__name__}, and ours have layer norms.")


def _require_usual_scale(block):
    """Raise WeightsError for attention that scales its scores in another way than ours."""
    scale, width = getattr(block.attn, "scale", None), block.norm1.normalized_shape[0]
    usual = (width // block.attn.num_heads) ** -0.5
    if isinstance(scale, float) and not math.isclose(scale, usual, rel_tol=1e-6):
        raise WeightsError(
            f"their attention multiplies its scores by {scale:g}, and ours by {usual:g}, one over the root of a head's width."
        )


def _require_plain_pooling(pool):
    """Raise WeightsError for a pooling by attention that computes something else than ours."""
    if type(pool).__name__ != "AttentionPool" and (
        type(pool).__name__ != "AttentionPoolLatent"
        or (pool.latent_len, pool.pool, pool.pos_embed) != (1, "token", None)
        or not isinstance(pool.q_norm, nn.Identity)
        or not isinstance(pool.q, nn.Linear)
        or pool.mlp is None
    ):
        raise WeightsError(
            f"their pooling is a {type(pool).__name__} with other parts than ours, which has one learned query, no positions, no norm "
            "of queries and keys, and an MLP."
        )


def _require_plain_patches(proj):
    """Raise WeightsError for a patch projection that does not cut the image into patches side by side."""
    if not isinstance(proj, nn.Conv2d):
        raise WeightsError(
            f"their tokens do not come from one convolution over patches: in its place is {type(proj).__name__}. A stem of several "
            "layers stands before it, and ours has none."
        )
    if proj.stride != proj.kernel_size or set(proj.padding) != {0} or set(proj.dilation) != {1}:
        raise WeightsError(
            f"their patches are {proj.kernel_size} pixels large and {proj.stride} apart, with padding {proj.padding}; ours lie "
            "side by side, without padding."
        )


SWIN_DEFAULTS = {"image_size": 224, "patch_size": 4, "window_size": 7, "depths": [2, 2, 6, 2]}
# What transformers takes where a config.json says nothing, by its "model_type"
DEFAULTS = {
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 768,
    "num_hidden_layers": 12,
}
EPSILON = {
    "vit": 1e-12,
    "deit": 1e-12,
    "vit_mae": 1e-12,
    "vit_msn": 1e-6,
    "ijepa": 1e-12,
    "dinov2": 1e-6,
    "dinov2_with_registers": 1e-6,
    "clip_vision_model": 1e-5,
    "siglip_vision_model": 1e-6,
    "swin": 1e-5,
}
PAIRS = ("clip", "siglip")  # their config.json holds one for the image tower
ACTIVATION = {"clip_vision_model": "quick_gelu", "siglip_vision_model": "gelu_pytorch_tanh"}
# I-JEPA and Swin have no class token; all others read it
POOLING = {"ijepa": "avg", "swin": "avg", "siglip_vision_model": "map"}


def config_settings(config):
    """Arguments of `convert`, and "classes", from the config of a transformers model."""
    config = image_config(config)
    kind = config.get("model_type")
    if kind not in EPSILON:
        raise WeightsError(
            f"transformers calls this model {kind!r}; expected one of {', '.join((*EPSILON, *PAIRS))}."
        )
    config = (SWIN_DEFAULTS if kind == "swin" else DEFAULTS) | {"layer_norm_eps": EPSILON[kind]} | config
    act = config.get("hidden_act", ACTIVATION.get(kind, "gelu"))
    gelu = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "quick_gelu": "quick"}.get(act)
    if gelu is None or config.get("use_swiglu_ffn"):
        raise WeightsError(f"their MLP uses {'SwiGLU' if gelu else act}, and ours uses GELU.")
    try:
        labels = {int(k): v for k, v in (config.get("id2label") or {}).items()}
    except (AttributeError, ValueError):
        raise WeightsError(
            f'"id2label" in config.json should be {{"0": name, ...}}, got {config["id2label"]!r}.'
        ) from None
    if kind == "swin":
        _require_same_windows(config)
        heads = {}  # its weights tell how many there are in each stage
    else:
        heads = {"num_heads": config["num_attention_heads"]}
    return heads | {
        "img_size": config["image_size"],
        "norm_eps": config["layer_norm_eps"],
        "gelu": gelu,
        "global_pool": POOLING.get(kind, "token"),
        "classes": () if kind in ACTIVATION else tuple(labels[i] for i in sorted(labels)),
    }


def _require_same_windows(config):
    """Raise WeightsError for a Swin of transformers that computes something else than ours."""
    if config.get("use_absolute_embeddings"):
        raise WeightsError("their Swin also adds positions to its tokens, and ours knows relative ones only.")
    if config["layer_norm_eps"] != EPSILON["swin"]:
        raise WeightsError(
            f"their blocks have an epsilon of {config['layer_norm_eps']:g}, and their other layer norms one of {EPSILON['swin']:g}; ours "
            "have one for all."
        )
    window, patch = config["window_size"], pair(config["patch_size"])
    for stage in range(len(config["depths"])):
        grid = [size // p // 2**stage for size, p in zip(pair(config["image_size"]), patch, strict=True)]
        if min(grid) < window or min(grid) == window < max(grid):
            raise WeightsError(
                f"on the map of stage {stage}, {grid[0]} x {grid[1]} tokens, windows of {window} x {window} are another function in "
                "transformers than in ours, whose windows shrink, and are shifted, along each axis on its own."
            )


def image_config(config):
    """The config of the image tower, where that of a pair such as CLIP was given; otherwise the same."""
    kind = config.get("model_type")
    if kind not in PAIRS:
        return config
    inner = config.get("vision_config")
    if not isinstance(inner, dict):
        raise WeightsError(
            f'config.json of a {kind} holds no "vision_config", which describes the image tower.'
        )
    return inner | {"model_type": f"{kind}_vision_model"}


def require_same_sizes(arguments, config):
    """Raise WeightsError if the weights have other sizes than the config of transformers that came with them."""
    said = {"embed_dim": "hidden_size", "depth": "num_hidden_layers", "patch_size": "patch_size"}
    is_swin = "depths" in arguments
    if config and is_swin != (config["model_type"] == "swin"):
        raise WeightsError(
            f"config.json describes a {config['model_type']}, and the weights are those of a {'Swin' if is_swin else 'ViT'}: the two do not "
            "belong together."
        )
    if is_swin:
        said = {name: name for name in ("embed_dim", "depths", "num_heads", "patch_size")}
        config = config | {k: tuple(config[k]) for k in ("depths", "num_heads") if k in config}
    for ours, theirs in said.items():
        if config.get(theirs) not in (None, arguments[ours], [arguments[ours]] * 2):
            raise WeightsError(
                f"config.json says {theirs} = {config[theirs]}, and the weights have {arguments[ours]}: the two do not belong together. "
                "Put the config.json of these weights beside them, or none."
            )
