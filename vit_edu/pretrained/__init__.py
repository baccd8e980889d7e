"""Trained weights: those that come with the course, and published ones in our `ViT`, key by key.

load("vit-cifar10")                 a model, by name; also "torchvision/vit_b_16", "timm/...", "facebook/...", a file
preprocess(pictures, model)         what these weights want to see
convert(state_dict)                 their names -> ours, complete in both directions; names.py has the tables
table, Family                       names that no family knows: docs/own-weights.md
from_model(theirs)                  the same for a module of torchvision, timm or transformers
parity(ours, theirs, images)        are the two the same function? a table, step by step
similarities(features, texts)       pictures against texts, for CLIP and SigLIP
resize_pos_embed, resize_patch_embed    another resolution, another patch size

Nothing here trains. How a run of `training.fit` becomes weights that `load` finds: `authoring.shipping`.
"""

from vit_edu.pretrained.comparison import Parity, Step, parity, steps
from vit_edu.pretrained.conversion import (
    Converted,
    convert,
    from_model,
    from_torchvision,
    load_by_name,
)
from vit_edu.pretrained.files import cache_dir, fetch, read
from vit_edu.pretrained.loading import load, torchvision_vit
from vit_edu.pretrained.names import FAMILIES, TORCHVISION, Family, WeightsError, rename_key, table
from vit_edu.pretrained.preprocessing import preprocess
from vit_edu.pretrained.resolution import Resizing, resize_patch_embed, resize_pos_embed
from vit_edu.pretrained.shipped import SHIPPED, read_weights
from vit_edu.pretrained.zero_shot import similarities

__all__ = [
    "FAMILIES",
    "SHIPPED",
    "TORCHVISION",
    "Converted",
    "Family",
    "Parity",
    "Resizing",
    "Step",
    "WeightsError",
    "cache_dir",
    "convert",
    "fetch",
    "from_model",
    "from_torchvision",
    "load",
    "load_by_name",
    "parity",
    "preprocess",
    "read",
    "read_weights",
    "rename_key",
    "resize_patch_embed",
    "resize_pos_embed",
    "similarities",
    "steps",
    "table",
    "torchvision_vit",
]
