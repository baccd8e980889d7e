"""Lesson 12: right answers written in other ways."""

import re

import torch
import torch.nn.functional as F
from einops import rearrange

from alternatives import alternative
from vit_edu.check.catalogue.pretrained import LAYER

# ---------------------------------------------------------------- rename_key


@alternative("rename_key")
def by_replacing(key):
    key = re.sub(r"encoder\.layers\.encoder_layer_(\d+)", r"blocks.\1", key)
    for old, new in (
        ("class_token", "cls_token"),
        ("conv_proj", "patch_embed.proj"),
        ("encoder.pos_embedding", "pos_embed"),
        ("ln_1", "norm1"),
        ("ln_2", "norm2"),
        ("self_attention.in_proj_", "attn.qkv."),
        ("self_attention.out_proj", "attn.proj"),
        ("mlp.0", "mlp.fc1"),
        ("mlp.3", "mlp.fc2"),
        ("encoder.ln", "norm"),
        ("heads.head", "head"),
    ):
        key = key.replace(old, new)
    return key


@alternative("rename_key")
def by_parts(key):
    parts = key.split(".")
    if parts[0] == "class_token":
        return "cls_token"
    if parts[0] == "conv_proj":
        return f"patch_embed.proj.{parts[-1]}"
    if parts[0] == "heads":
        return f"head.{parts[-1]}"
    if parts[1] == "pos_embedding":
        return "pos_embed"
    if parts[1] == "ln":
        return f"norm.{parts[-1]}"
    block = f"blocks.{parts[2].removeprefix('encoder_layer_')}"
    if parts[3].startswith("ln_"):
        return f"{block}.norm{parts[3][-1]}.{parts[-1]}"
    if parts[3] == "mlp":
        return f"{block}.mlp.{'fc1' if parts[4] == '0' else 'fc2'}.{parts[-1]}"
    if parts[4] == "out_proj":
        return f"{block}.attn.proj.{parts[-1]}"
    return f"{block}.attn.qkv.{parts[-1].split('_')[-1]}"


@alternative("rename_key")
def by_one_big_table(key):
    table = {"class_token": "cls_token", "encoder.pos_embedding": "pos_embed"}
    for kind in ("weight", "bias"):
        table[f"conv_proj.{kind}"] = f"patch_embed.proj.{kind}"
        table[f"encoder.ln.{kind}"] = f"norm.{kind}"
        table[f"heads.head.{kind}"] = f"head.{kind}"
        for i in range(12):
            theirs, ours = LAYER.format(i), f"blocks.{i}."
            table[f"{theirs}self_attention.in_proj_{kind}"] = f"{ours}attn.qkv.{kind}"
            table[f"{theirs}self_attention.out_proj.{kind}"] = f"{ours}attn.proj.{kind}"
            for a, b in (("ln_1", "norm1"), ("ln_2", "norm2"), ("mlp.0", "mlp.fc1")):
                table[f"{theirs}{a}.{kind}"] = f"{ours}{b}.{kind}"
            table[f"{theirs}mlp.3.{kind}"] = f"{ours}mlp.fc2.{kind}"
    return table[key]


@alternative("rename_key")
def by_patterns(key):
    patterns = {
        r"class_token": r"cls_token",
        r"encoder\.pos_embedding": r"pos_embed",
        r"conv_proj\.(.+)": r"patch_embed.proj.\1",
        r"(?:encoder|heads)\.(ln|head)\.(.+)": r"\1.\2",
        r".*_(\d+)\.ln_(\d)\.(.+)": r"blocks.\1.norm\2.\3",
        r".*_(\d+)\.mlp\.(\d)\.(.+)": r"blocks.\1.mlp.fc\2.\3",
        r".*_(\d+)\.self_attention\.in_proj_(.+)": r"blocks.\1.attn.qkv.\2",
        r".*_(\d+)\.self_attention\.out_(proj\..+)": r"blocks.\1.attn.\2",
    }
    for pattern, new in patterns.items():
        if re.fullmatch(pattern, key):
            key = re.sub(pattern, new, key)
            break
    return re.sub("^ln", "norm", key).replace("fc0", "fc1").replace("fc3", "fc2")


# ---------------------------------------------------------------- pack_qkv


@alternative("pack_qkv")
def by_einops(query, key, value):
    return rearrange([query, key, value], "three i h d -> (three h d) i")


@alternative("pack_qkv")
def reshaped_first(query, key, value):
    D = len(query)
    return torch.cat([kernel.reshape(D, -1).T for kernel in (query, key, value)], dim=0)


@alternative("pack_qkv")
def joined_first(query, key, value):
    return torch.cat([query.flatten(1), key.flatten(1), value.flatten(1)], dim=1).T


@alternative("pack_qkv")
def permuted_first(query, key, value):
    return torch.stack([query, key, value]).permute(0, 2, 3, 1).flatten(0, 2)


@alternative("pack_qkv")
def row_by_row(query, key, value):
    rows = []
    for kernel in (query, key, value):
        for head in range(kernel.shape[1]):
            rows += [kernel[:, head, i] for i in range(kernel.shape[2])]
    return torch.stack(rows)


# ---------------------------------------------------------------- resize_pos_embed


@alternative("resize_pos_embed")
def always_float32(pos_embed, new_grid, num_prefix_tokens=1):
    # That is a remark, because the exercise does not ask for more.
    prefix, grid = pos_embed.float().split([num_prefix_tokens, pos_embed.shape[1] - num_prefix_tokens], dim=1)
    n = round(grid.shape[1] ** 0.5)
    grid = rearrange(grid, "b (r c) d -> b d r c", r=n)
    grid = F.interpolate(grid, size=tuple(new_grid), mode="bicubic", antialias=True)
    return torch.cat([prefix, rearrange(grid, "b d r c -> b (r c) d")], dim=1)


@alternative("resize_pos_embed")
def axis_by_axis(pos_embed, new_grid, num_prefix_tokens=1):
    """Bicubic interpolation is separable: first the rows, then the columns."""
    head, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = round(grid.shape[1] ** 0.5)
    grid = grid.unflatten(1, (n, n)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new_grid[0], n), mode="bicubic", antialias=True)
    grid = F.interpolate(grid, size=tuple(new_grid), mode="bicubic", antialias=True)
    return torch.cat([head, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


@alternative("resize_pos_embed")
def in_float32_and_back(pos_embed, new_grid, num_prefix_tokens=1):
    head, grid = pos_embed.split([num_prefix_tokens, pos_embed.shape[1] - num_prefix_tokens], dim=1)
    n = int(grid.shape[1] ** 0.5)
    grid = rearrange(grid, "1 (r s) d -> 1 d r s", r=n)
    grid = F.interpolate(grid.float(), size=list(new_grid), mode="bicubic", antialias=True)
    return torch.cat([head, rearrange(grid, "b d r s -> b (r s) d").to(head.dtype)], dim=1)


@alternative("resize_pos_embed")
def as_an_image_of_torchvision(pos_embed, new_grid, num_prefix_tokens=1):
    # Imported here, because torchvision is slow to load
    from torchvision.transforms.functional import InterpolationMode, resize

    head, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = round(grid.shape[1] ** 0.5)
    grid = resize(grid.mT.unflatten(2, (n, n)), list(new_grid), InterpolationMode.BICUBIC, antialias=True)
    return torch.cat([head, grid.flatten(2).mT], dim=1)


@alternative("resize_pos_embed")
def channel_by_channel(pos_embed, new_grid, num_prefix_tokens=1):
    rows, cols = new_grid
    out = pos_embed.new_zeros(1, num_prefix_tokens + rows * cols, pos_embed.shape[2])
    out[:, :num_prefix_tokens] = pos_embed[:, :num_prefix_tokens]
    for d in range(pos_embed.shape[2]):
        grid = pos_embed[0, num_prefix_tokens:, d]
        n = round(len(grid) ** 0.5)
        grid = F.interpolate(grid.reshape(1, 1, n, n), size=(rows, cols), mode="bicubic", antialias=True)
        out[0, num_prefix_tokens:, d] = grid.flatten()
    return out


@alternative("resize_pos_embed")
def by_a_matrix(pos_embed, new_grid, num_prefix_tokens=1):
    """Interpolation is linear: resizing the identity gives its matrix."""
    head, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    n = round(grid.shape[1] ** 0.5)
    eye = torch.eye(n * n, dtype=grid.dtype).reshape(1, n * n, n, n)
    matrix = F.interpolate(eye, size=tuple(new_grid), mode="bicubic", antialias=True).flatten(2)
    return torch.cat([head, torch.einsum("bom,bod->bmd", matrix, grid)], dim=1)


# ---------------------------------------------------------------- knn_predict


@alternative("knn_predict")
def one_query_at_a_time(features, labels, queries, k):
    answers = []
    for query in queries:
        near = F.cosine_similarity(query[None], features, dim=1)
        best = near.argsort(descending=True)[:k]
        answers.append(torch.bincount(labels[best]).argmax())
    return torch.stack(answers)


@alternative("knn_predict")
def by_distance_on_the_sphere(features, labels, queries, k):
    distance = torch.cdist(F.normalize(queries, dim=1), F.normalize(features, dim=1))
    return labels[distance.topk(k, largest=False).indices].mode(dim=1).values


@alternative("knn_predict")
def by_a_vote_matrix(features, labels, queries, k):
    features = features / features.norm(dim=1, keepdim=True)
    nearest = (queries @ features.T).argsort(dim=1, descending=True)[
        :, :k
    ]  # a query's own length changes no order
    votes = torch.zeros(len(queries), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[nearest], torch.ones(nearest.shape))
    return votes.argmax(dim=1)


@alternative("knn_predict")
def in_plain_python(features, labels, queries, k):
    unit = [f / f.norm() for f in features]
    answers = []
    for query in queries:
        near = sorted(range(len(unit)), key=lambda i: -float(query @ unit[i]))[:k]
        said = [int(labels[i]) for i in near]
        answers.append(min(set(said), key=lambda c: (-said.count(c), c)))
    return torch.tensor(answers)


# ---------------------------------------------------------------- layer_rate


@alternative("layer_rate")
def by_layer_number(name, depth, peak, decay):
    """As in BEiT: number the layers from 0 for the embeddings to depth + 1 for the head."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        layer = 0
    elif name.startswith("blocks"):
        layer = int(name.split(".")[1]) + 1
    else:
        layer = depth + 1
    return peak * decay ** (depth + 1 - layer)


@alternative("layer_rate")
def by_a_pattern(name, depth, peak, decay):
    found = re.match(r"blocks\.(\d+)\.", name)
    if found:
        return peak * decay ** (depth - int(found.group(1)))
    return peak if re.match(r"(norm|head)\.", name) else peak * decay ** (depth + 1)


@alternative("layer_rate")
def step_by_step(name, depth, peak, decay):
    order = ["head", *(f"blocks.{i}" for i in reversed(range(depth))), "embeddings"]
    kind, *rest = name.split(".")
    if kind == "blocks":
        kind = f"blocks.{rest[0]}"
    elif kind in ("norm", "head"):
        kind = "head"
    else:
        kind = "embeddings"
    rate = peak
    for layer in order:
        if layer == kind:
            return rate
        rate = rate * decay
    raise KeyError(name)
