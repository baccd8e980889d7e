"""What no state dict says (heads, epsilon, kind of GELU, pooling), taken from a model or a config of its library."""

from torch import nn

from vit_edu.pretrained.names import WeightsError


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
    if hasattr(theirs, "hidden_dim"):  # torchvision
        block = theirs.encoder.layers[0]
        heads, act, size, pool = block.num_heads, block.mlp[1], theirs.image_size, None
    elif hasattr(theirs, "blocks"):
        kinds = {type(b).__name__ for b in theirs.blocks}
        if not kinds <= {"Block", "NestedTensorBlock"}:
            raise WeightsError(
                f"their blocks are {', '.join(sorted(kinds))}, a different architecture from our pre-norm Block."
            )
        block = theirs.blocks[0]
        heads, act, size = block.attn.num_heads, block.mlp.act, theirs.patch_embed.img_size
        pool = getattr(theirs, "global_pool", None)
        if getattr(theirs, "pool_include_prefix", False):
            raise WeightsError("they pool over all tokens, and ours pools over the patches only.")
    else:
        raise WeightsError(
            f"{type(theirs).__module__}.{type(theirs).__name__} is no ViT that we know. Expected one of torchvision, timm or "
            "transformers. convert(theirs.state_dict()) goes by the names alone."
        )
    kind = type(act).__name__
    gelu = {"GELU": getattr(act, "approximate", "none"), "GELUTanh": "tanh"}.get(kind)
    if gelu is None:
        raise WeightsError(f"their activation is {kind}, and ours is GELU.")
    return found | {"num_heads": heads, "img_size": size, "gelu": gelu, "global_pool": pool or None}


def config_settings(config):
    """Arguments of `convert`, and "classes", from the config of a transformers model."""
    kinds = ("vit", "deit", "dinov2", "dinov2_with_registers")
    if config.get("model_type") not in kinds:
        raise WeightsError(
            f"transformers calls this model {config.get('model_type')!r}; expected one of {', '.join(kinds)}."
        )
    act = config.get("hidden_act", "gelu")
    gelu = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}.get(act)
    if gelu is None or config.get("use_swiglu_ffn"):
        raise WeightsError(f"their MLP uses {'SwiGLU' if gelu else act}, and ours uses GELU.")
    labels = {int(k): v for k, v in (config.get("id2label") or {}).items()}
    return {
        "num_heads": config["num_attention_heads"],
        "img_size": config["image_size"],
        "norm_eps": config["layer_norm_eps"],
        "gelu": gelu,
        "classes": tuple(labels[i] for i in sorted(labels)),
    }
