"""Where a model looks, for exploring by hand: a small page in a notebook's output, which needs neither server nor network.

The page's own files lie beside this one. explorer.js says how it works.
"""

import base64
import html
import io
import json
import operator
import zlib
from pathlib import Path

import torch
from PIL import Image

from vit_edu import inspect
from vit_edu.plot.figure import for_imshow
from vit_edu.plot.pictures import spotlit

LIMIT = 300_000  # bytes of one explorer; a notebook stores them with its output
STILL = (
    "Here the attention explorer is only a picture. To explore where the model looks, open the notebook in JupyterLab and run the cell, "
    "or open the page of the lesson in a current browser: this needs JavaScript."
)


class _Explorer:
    """A finished explorer: a page in a notebook, its description elsewhere."""

    def __init__(self, page, alt):
        self.page, self.alt = page, alt

    def __repr__(self):
        return f"[explorer] {self.alt}"

    def _repr_html_(self):
        return self.page


def attention_explorer(model, images, labels=None, classes=None, *, pictures=None, blocks=None):
    """Where each head of each block looks, and rollout, for every patch that is pointed at, tapped or reached by keyboard.

    model: any model that `inspect.attention_maps` takes. images: (B, C, H, W), normalised floats as the model reads them.
    labels: (B,), the true classes. classes: their names; if the model tells as many classes apart, its answer is shown, too.
    pictures: (B, C, H, W), bytes or 0..1, what to show; without them, the values of each image are stretched to 0..1.
    blocks: the blocks to take along, such as [0, -1]; by default all of them. Rollout always goes through all.

    Returns an object that shows itself when it is the last value of a cell: HTML with a script, of at most 300 KB, without
    a server and without a network. Where no script may run, there is a picture instead. Weights are stored in 8 bits, as
    their square roots, which changes none by more than 0.004, and a small one by less.
    Raises ValueError for what `inspect.attention_maps` refuses, for pictures, labels or blocks that do not fit, and for
    an explorer that would be larger.
    Rollout: Abnar and Zuidema 2020, arXiv:2005.00928.
    """
    weights = inspect.attention_maps(model, images)  # (L, B, h, T, T)
    flow = inspect.rollout(weights).float().cpu()  # (B, T, T)
    grid, prefix = inspect.grid_and_prefix(model)
    pictures = _seen(_pictures(images, pictures), model, images, grid)
    captions = _captions(model, images, labels, classes)
    chosen = _blocks(blocks, len(weights))
    heads = weights.shape[2]
    still, told = _still(pictures, flow, grid, prefix, captions)
    data = {
        "grid": grid,
        "prefix": _prefix_names(model, prefix),
        "heads": heads,
        "depth": len(weights),
        "blocks": chosen,
        "captions": captions,
        "pictures": [_data_uri(for_imshow(picture)) for picture in pictures],
        "weights": "",
    }
    data["weights"] = _weights_that_fit(weights[chosen].float().cpu(), flow, len(_page(data, still).encode()))
    several = f"{len(chosen)} block{'s' * (len(chosen) > 1)} with {heads} head{'s' * (heads > 1)}"
    return _Explorer(_page(data, still), f"Attention of {several}, to explore by hand. {told}")


def _pictures(images, pictures):
    """What to show, (B, C, H, W), bytes or 0..1. Raises ValueError for pictures that do not belong to the images."""
    if pictures is None:
        low, high = (f(images, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        pictures = (images - low) / (high - low).clamp(min=1e-6)
    if pictures.ndim != 4 or len(pictures) != len(images) or pictures.shape[1] == 2:
        raise ValueError(
            f"expected a picture for each of the {len(images)} images, (B, C, H, W) with 1 or 3 channels, got {tuple(pictures.shape)}."
        )
    return pictures


def _seen(pictures, model, images, grid):
    """The part of the pictures that lies under the patches: a projection drops the pixels that fill no whole patch."""
    projection = getattr(getattr(model, "patch_embed", None), "proj", None)
    if not isinstance(projection, torch.nn.Conv2d) or projection.kernel_size != projection.stride:
        return pictures
    sides = [
        side * count * stride // whole
        for side, count, stride, whole in zip(
            pictures.shape[-2:], grid, projection.stride, images.shape[-2:], strict=True
        )
    ]
    return pictures[..., : sides[0], : sides[1]]


def _captions(model, images, labels, classes):
    """A line for each image: its number, its class, and what the model takes it for."""
    lines = [f"image {i}" for i in range(len(images))]
    if labels is not None:
        labels = [int(label) for label in labels]
        if len(labels) != len(images):
            raise ValueError(f"expected a label for each of the {len(images)} images, got {len(labels)}.")
        if classes is not None and not all(0 <= label < len(classes) for label in labels):
            raise ValueError(f"expected labels from 0 to {len(classes) - 1}, a name each, got {labels}.")
        names = [f"class {label}" if classes is None else str(classes[label]) for label in labels]
        lines = [f"{line}: {name}" for line, name in zip(lines, names, strict=True)]
    if classes is None:
        return lines
    with torch.no_grad(), inspect.eval_mode(model):
        logits = model(images)  # (B, K)
    if logits.shape != (len(images), len(classes)):
        return lines
    shares, answers = logits.softmax(dim=1).max(dim=1)
    return [
        f"{line}; the model says {classes[answer]} ({100 * share:.0f}\u00a0%)"
        for line, answer, share in zip(lines, answers.tolist(), shares.tolist(), strict=True)
    ]


def _blocks(blocks, depth):
    """The numbers of the chosen blocks, counted from 0, in rising order."""
    if blocks is None:
        return list(range(depth))
    try:
        numbers = [operator.index(number) for number in blocks]
    except TypeError:  # no list, or not of whole numbers
        numbers = []
    if not numbers or not all(-depth <= number < depth for number in numbers):
        raise ValueError(
            f"blocks are a list of numbers from 0 to {depth - 1}, or negative from the end, such as [0, -1], got {blocks!r}."
        )
    return sorted({number % depth for number in numbers})


def _prefix_names(model, count):
    """What to call the tokens in front of the patches."""
    kinds = {"cls_token": "class token", "dist_token": "distillation token"}
    names = [name for kind, name in kinds.items() if getattr(model, kind, None) is not None][:count]
    other = "register" if getattr(model, "reg_token", None) is not None else "extra token"
    return names + [f"{other} {i}" for i in range(count - len(names))]


def _weights_that_fit(weights, flow, rest):
    """Weights (L, B, h, T, T) and rollout (B, T, T) for the page. ValueError if it would be too large; rest: its other bytes."""
    L, B, h = weights.shape[:3]
    maps = B * (L * h + 1)  # rollout is as large as a head
    size = len(_packed(weights[0, :1])) / h * maps
    if size < 5 * LIMIT:  # otherwise the guess is enough, because packing all of them could take minutes
        packed = _packed(weights, flow)
        size = len(packed)
        if rest + size <= LIMIT:
            return packed
    room = 0.97 * LIMIT  # because not all images take the same
    code = len(_page({}, "").encode())
    picture, head = (rest - code) / B, size / maps
    images = int((room - code) / (picture + size / B))
    blocks = int(((room - rest) / B / head - 1) / h)
    offers = [f"hand over {images} image{'s' * (images > 1)} instead of {B}"] if images > 0 else []
    if blocks > 0:
        offers.append(f"choose {blocks} of the {L} blocks, such as blocks={list(range(blocks))}")
    if not offers and code + picture + head * (h + 1) <= room:
        offers.append("choose a single block of a single image: images[:1] and blocks=[-1]")
    if not offers:
        offers.append(
            "even one block of one image is too large. "
            "plot.attended draws what attention_maps(model, images, query=...) returns for one query"
        )
    raise ValueError(
        f"this explorer would have about {(rest + size) / 1000:,.0f} KB, and a notebook should not carry more than "
        f"{LIMIT // 1000} KB in one output. {size / 1000:,.0f} KB of it are the attention weights of {L} "
        f"block{'s' * (L > 1)} for {B} image{'s' * (B > 1)}: {', or '.join(offers)}."
    )


def _packed(*weights):
    """Weights as bytes, 255 times their square roots, compressed, in base64. explorer.js reads them."""
    whole = torch.cat([each.flatten() for each in weights]).sqrt().mul(255).round().byte()
    return base64.b64encode(zlib.compress(whole.numpy().tobytes())).decode()


def _data_uri(shown):
    """A picture for imshow within an address: PNG for a few pixels, and JPEG of at most 320 x 320 for more."""
    image = Image.fromarray((shown * 255).round().astype("uint8"))
    image.thumbnail((320, 320))
    kind, options = ("png", {}) if max(image.size) <= 64 else ("jpeg", {"quality": 85})
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _still(pictures, flow, grid, prefix, captions):
    """For where no script may run: pictures, and the same, bright where rollout leads. Returns HTML and a description."""
    rows = flow[:, 0] if prefix else flow.mean(dim=1)  # (B, T)
    title = f"Rollout from {'the first token' if prefix else 'all patches on average'}: bright where the model looks"
    columns, told = [], []
    for picture, looked, caption in zip(pictures, rows[:, prefix:].unflatten(1, grid), captions, strict=True):
        row, col = divmod(looked.argmax().item(), grid[1])
        told.append(f"{caption}, most at row {row}, column {col}")
        plain, bright = (
            f'<img src="{_data_uri(each)}" width="128" alt=' for each in spotlit(picture, looked)
        )
        name = html.escape(caption)
        columns.append((f'{plain}"{name}">', f'{bright}"{html.escape(told[-1])}">', name))
    rows = ("".join(f"<td>{cell}</td>" for cell in row) for row in zip(*columns, strict=True))
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<p>{title}.</p><table>{table}</table>", f"{title}. {'; '.join(told)}."


def _page(data, still):
    """The explorer as HTML: its data in an attribute, the picture for where no script runs, and the script."""
    script, style, markup = (
        Path(__file__).with_name(f"explorer.{kind}").read_text(encoding="utf-8")
        for kind in ("js", "css", "html")
    )
    # "<" is written otherwise, because "</script" within a string would end the script
    arguments = ", ".join(json.dumps(text).replace("<", "\\u003c") for text in (style, markup))
    return (
        f'<div class="vit-edu-explorer" data-lm-suppress-shortcuts="true" data-explorer="{html.escape(json.dumps(data))}">'
        f"<p>{STILL}</p>{still}<script>({script.strip()})({arguments})</script></div>"
    )
