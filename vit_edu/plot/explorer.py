"""Where a model looks, for exploring by hand: a small page in a notebook's output, which needs neither server nor network.

The page's own files lie beside this one. explorer.js says how it works.
"""

import base64
import html
import io
import json
import zlib
from pathlib import Path

import torch
from PIL import Image

from vit_edu import inspect
from vit_edu.plot.figure import for_imshow
from vit_edu.plot.pictures import spotlit

LIMIT = 300_000  # bytes of one explorer; a notebook stores them with its output
STILL = (
    "Here you only see a picture of it. To explore where the model looks, open the notebook in JupyterLab and run the cell, "
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
    weights = inspect.attention_maps(model, images).float().cpu()  # (L, B, h, T, T)
    flow = inspect.rollout(weights)  # (B, T, T)
    grid, prefix = inspect.grid_and_prefix(model)
    pictures = _seen(_pictures(images, pictures), model, images, grid)
    captions = _captions(model, images, labels, classes)
    chosen = _blocks(blocks, len(weights))
    bytes_ = torch.cat([weights[chosen].flatten(), flow.flatten()]).sqrt().mul(255).round().byte()
    data = {
        "grid": grid,
        "prefix": _prefix_names(model, prefix),
        "heads": weights.shape[2],
        "depth": len(weights),
        "blocks": chosen,
        "captions": captions,
        "pictures": [_data_uri(for_imshow(picture)) for picture in pictures],
        "weights": base64.b64encode(zlib.compress(bytes_.numpy().tobytes(), 9)).decode(),
    }
    still, told = _still(pictures, flow, grid, prefix, captions)
    page = _page(data, still)
    if len(page) > LIMIT:
        raise ValueError(_too_large(len(page), len(data["weights"]), len(chosen), len(images)))
    heads = f"{data['heads']} head{'s' * (data['heads'] > 1)}"
    about = f"Attention of {len(chosen)} block{'s' * (len(chosen) > 1)} with {heads}, to explore by hand. {told}"
    return _Explorer(page, about)


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
    projection = model.patch_embed.proj
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
        f"{line}; the model says {classes[answer]} ({100 * share:.0f} %)"
        for line, answer, share in zip(lines, answers.tolist(), shares.tolist(), strict=True)
    ]


def _blocks(blocks, depth):
    """The numbers of the chosen blocks, counted from 0, in rising order."""
    if blocks is None:
        return list(range(depth))
    numbers = [blocks] if isinstance(blocks, int) else list(blocks)
    if not numbers or not all(isinstance(n, int) and -depth <= n < depth for n in numbers):
        raise ValueError(
            f"blocks are numbers from 0 to {depth - 1}, or negative from the end, such as [0, -1]; got {blocks!r}."
        )
    return sorted({number % depth for number in numbers})


def _prefix_names(model, count):
    """What to call the tokens in front of the patches."""
    kinds = {"cls_token": "class token", "dist_token": "distillation token"}
    names = [name for kind, name in kinds.items() if getattr(model, kind, None) is not None][:count]
    other = "register" if getattr(model, "reg_token", None) is not None else "extra token"
    return names + [f"{other} {i}" for i in range(count - len(names))]


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
    shown, told = [], []
    for picture, looked, caption in zip(pictures, rows[:, prefix:].unflatten(1, grid), captions, strict=True):
        row, col = divmod(looked.argmax().item(), grid[1])
        told.append(f"{caption}, most at row {row}, column {col}")
        for each in spotlit(picture, looked):
            shown.append(f'<img src="{_data_uri(each)}" width="128" alt="{html.escape(told[-1])}">')
        shown.append(f"<br>{html.escape(caption)}<br>")
    return f"<p>{title}</p><p>{' '.join(shown)}</p>", f"{title}. {'; '.join(told)}."


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
        f"{still}<p>{STILL}</p><script>({script.strip()})({arguments})</script></div>"
    )


def _too_large(size, weights, blocks, images):
    """Why an explorer of `size` bytes is refused, of which `weights` are the weights, and what would fit."""
    each = weights / blocks / images
    fewer_images, fewer_blocks = (int((LIMIT - size + weights) / each / n) for n in (blocks, images))
    offers = []
    if fewer_images:
        offers.append(f"hand over {fewer_images} image{'s' * (fewer_images > 1)} instead of {images}")
    if fewer_blocks:
        offers.append(
            f"choose {fewer_blocks} of the {blocks} blocks, such as blocks={list(range(fewer_blocks))}"
        )
    if not offers and size - weights + each <= LIMIT:
        offers.append("choose a single block of a single image: images[:1] and blocks=[-1]")
    advice = ", or ".join(offers) if offers else (
        "even one block of one image is too large. plot.attended draws the weights of one query"
    )
    return (
        f"this explorer would have {size / 1000:,.0f} KB, and a notebook should not carry more than {LIMIT // 1000} KB in one "
        f"output. {weights / 1000:,.0f} KB of it are the attention weights of {blocks} blocks for {images} images: {advice}."
    )
