"""Published weights -> our model. Every tensor of theirs is used, or ignored for a reason, and every one of ours is filled."""

import math
import re
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from vit_edu.models.mixer import FIXED, Mixer
from vit_edu.models.swin import Swin
from vit_edu.models.variants import PublishedViT, QuickGELU
from vit_edu.models.vit import ViT
from vit_edu.pretrained import preprocessing
from vit_edu.pretrained.config import require_pooling, settings_of
from vit_edu.pretrained.names import (
    FAMILIES,
    OWN_TABLE,
    PRE_LOGITS,
    Family,
    WeightsError,
    differences,
    image_tower,
    recognise,
    second_set,
    without_entries,
    without_prefix,
)
from vit_edu.pretrained.resolution import AS_TIMM, Resizing, resize_pos_embed

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}  # widths whose heads are not 64 wide: So, H, g, G

# What only a `PublishedViT` has, and the value that a plain `ViT` has instead.
EXTRAS = {
    "class_token": None,
    "dist_token": False,
    "dist_head": False,
    "registers": 0,
    "register_positions": False,
    "fc_norm": False,
    "norm_pre": False,
    "swiglu": False,
}
# How parts become one tensor. Those of a stack have the same shape, and "kv" is twice as long as "q"
STACKS = (("q]", "k]", "v]"), ("q]", "kv]"), ("g]", "x]"))
CLIP_EPSILON = 1e-5  # of all published models with a norm before the blocks
GELUS = {"none": "an exact GELU", "tanh": "an approximate (tanh) GELU", "quick": "QuickGELU"}


BIASES = "layers.{}.blocks.0.attn.relative_position_bias_table"  # of a stage of Swin
PATCHES = "The weights hold each patch as one row of numbers; {in_chans} channels of {patch_size} x {patch_size} pixels were taken."


@dataclass(frozen=True)
class Pieces:
    """What one tensor of ours is made of, before anything is copied.

    tensors: one, or queries, keys and values, which are joined along `dim`. scale: a factor for each output, or None.
    """

    tensors: tuple
    scale: torch.Tensor | None = None
    dim: int = 0

    @property
    def shape(self):
        shape = list(self.tensors[0].shape)
        if shape:
            shape[self.dim] = sum(t.shape[self.dim] for t in self.tensors)
        return torch.Size(shape)

    def make(self, dtype, copy):
        """A new tensor, or theirs itself if nothing has to be done and `copy` is false."""
        whole = self.tensors[0] if len(self.tensors) == 1 else torch.cat(self.tensors, self.dim)
        if self.scale is not None:
            whole = whole * self._factor()
        made = whole.detach().to(dtype or whole.dtype).contiguous()
        theirs = self.scale is None and made.data_ptr() == self.tensors[0].data_ptr()
        return made.clone() if copy and theirs else made

    def write(self, ours):
        """Copy into a tensor of ours."""
        places = ours.split([t.shape[self.dim] for t in self.tensors], self.dim)
        for place, tensor in zip(places, self.tensors, strict=True):
            place.copy_(tensor)
        if self.scale is not None:
            ours.mul_(self._factor())

    def _factor(self):
        return self.scale.reshape(-1, *[1] * (self.tensors[0].ndim - 1))


@dataclass(frozen=True)
class Converted:
    """Their weights as ours: all names and shapes fit, and nothing is copied yet.

    arguments: those of our `ViT` (or `PublishedViT`, `Mixer` or `Swin`). pieces: {ours: what it is made of}; `weights` makes the tensors.
    mapped: {theirs: ours}. ignored: {theirs: reason}. filled: {ours: what it was filled with}, for tensors that they do not
    have, with values that make no difference. norm_eps, gelu: see `Family`. dtype, copy: as for `convert`.
    guesses: {argument of `convert`: a sentence}, for what nobody said, and under "names" what was taken off around them. They are in the printed form, and in the model's notes.
    resizing: how `model` resizes positions.
    """

    family: str
    arguments: dict
    pieces: dict
    mapped: dict
    ignored: dict
    filled: dict
    norm_eps: float
    gelu: str
    dtype: torch.dtype | None
    copy: bool
    guesses: dict = field(default_factory=dict)
    resizing: Resizing = AS_TIMM

    @cached_property
    def weights(self):
        """{ours: tensor}: a state dict of our model."""
        return {name: piece.make(self.dtype, self.copy) for name, piece in self.pieces.items()}

    @property
    def width(self):
        """How many numbers the head reads."""
        return _head_width(self.arguments)

    def __str__(self):
        lines = [f"{self.family}: {len(self.mapped)} tensors -> {len(self.pieces)} of ours"]
        lines += [f"  ignored {what}: {why}" for what, why in _by_reason(self.ignored)]
        lines += [f"  filled {key}: {what}" for key, what in self.filled.items()]
        lines += [
            f"  {'' if name == 'names' else 'guessed: '}{guess}" for name, guess in self.guesses.items()
        ]
        return "\n".join(lines)

    def model(self, img_size=None, num_classes=None):
        """Our model with these weights, in eval mode. It takes over the tensors, so call this only once.

        img_size: pixels, an int or (H, W). If the weights were trained for another size, the positions are resized as their
        authors do. A `Swin` keeps its windows, and they must fill the maps of the other size.
        num_classes: if it is another number, the head is replaced by zeros (paper, section 3.2); 0 leaves it out.
        What was left out or changed is printed, and listed in `model.pretrained_cfg["notes"]` after what was guessed. Raises
        WeightsError for sizes that do not fit, and for any other size of a `Mixer`.
        """
        arguments, weights, notes = dict(self.arguments), dict(self.weights), []
        guesses, filled = dict(self.guesses), dict(self.filled)
        if img_size is not None and _pair(img_size) != arguments["img_size"]:
            new, patch = _pair(img_size), arguments["patch_size"]
            _require_whole_patches(new, patch)
            if "mixer" in arguments:
                raise WeightsError(_why_fixed(arguments, new))
            is_swin = "depths" in arguments
            positions = self._positions_on(new) if "img_size" in guesses and not is_swin else None
            if is_swin:
                notes = [self._same_windows_on(new)]
                guesses.pop("img_size", None)
            elif positions is not None:
                weights["pos_embed"], notes = positions
                filled.pop("pos_embed", None)
                del guesses["img_size"]
            else:
                weights["pos_embed"], notes = self._resized_to(new, weights["pos_embed"])
                if "img_size" in guesses:
                    notes[0] += (
                        " That the old ones form a square is a guess: if they do not, give convert(..., img_size=(H, W))."
                    )
            arguments["img_size"] = new
        if num_classes not in (None, arguments["num_classes"]):
            notes.append(_replace_head(arguments, weights, num_classes))
            filled.pop("head.bias", None)
        model = _without_numbers(arguments)
        self._settle(model)
        load_by_name(model, weights, assign=True)
        notes[:0] = [f"Left out: {what} ({why})." for what, why in _by_reason(self.ignored)]
        model.pretrained_cfg = {
            "family": self.family,
            "mapped": self.mapped,
            "ignored": self.ignored,
            "filled": filled,
            "notes": [*guesses.values(), *notes],
        }
        for note in notes:
            print(note)
        return model.eval()

    def _resized_to(self, new, positions):
        """Positions for images of `new` pixels, (H, W), and a list with a note that says so."""
        patch = self.arguments["patch_size"]
        old, grid = (tuple(side // patch for side in size) for size in (self.arguments["img_size"], new))
        in_front = positions.shape[1] - old[0] * old[1]
        made = resize_pos_embed(positions, grid, in_front, old_grid=old, resizing=self.resizing)
        note = f"Positions were resized from {old[0]} x {old[1]} to {grid[0]} x {grid[1]} patches ({self.resizing})."
        if self.family == "timm" and self.guesses and self.resizing == AS_TIMM:
            note += " timm does it like this; the authors of DeiT, DINO and MAE, whose files have the same names, use no antialiasing: "
            note += "convert(..., resizing=pretrained.Resizing(antialias=False)) does that."
        return made, [note]

    def _same_windows_on(self, new):
        """A note about a Swin for images of `new` pixels, (H, W), whose positions are relative. Raises WeightsError if windows change."""
        window, expected = self.arguments["window_size"], _shapes(self.arguments | {"img_size": new})
        if any(expected[k] != piece.shape for k, piece in self.pieces.items() if k.endswith("_table")):
            raise WeightsError(
                f"on images of {new[0]} x {new[1]} pixels, some windows would have other sizes than those that these weights know "
                f"positions for, at most {window} x {window} tokens. Take larger images, or leave out img_size."
            )
        return f"The windows stay as they are, at most {window} x {window} tokens, on images of {new[0]} x {new[1]} pixels."

    def _positions_on(self, img_size):
        """Their positions, if they are exactly those of `img_size`, and a list with a note about it. Otherwise None.

        Only for weights of which nobody said the size: 144 positions are 12 x 12 patches as well as 9 x 16, and 64 are 8 x 8,
        or 7 x 9 and a class token.
        """
        theirs, patch = self.pieces["pos_embed"].tensors[-1], self.arguments["patch_size"]
        rows, cols = img_size[0] // patch, img_size[1] // patch
        in_front = self.pieces["pos_embed"].shape[1] - _patches(self.arguments["img_size"], patch)
        if theirs.shape[1] not in (rows * cols, rows * cols + in_front):
            return None
        note = f"The positions were taken as they are, for {rows} x {cols} patches: as many as the size that was asked for has."
        missing = rows * cols + in_front - theirs.shape[1]
        pieces = Pieces(
            (theirs,) if not missing else (theirs.new_zeros(1, missing, theirs.shape[2]), theirs), dim=1
        )
        return pieces.make(self.dtype, self.copy), [note]

    def load_into(self, model):
        """Copy their weights into a model of ours that exists, such as one that you wrote. Returns it.

        Its tensors are changed only if every name and every shape fits; otherwise this raises WeightsError. Epsilon and GELU
        of its layers become theirs.
        """
        mine = model.state_dict()
        _require_fit({k: v.shape for k, v in mine.items()}, {k: p.shape for k, p in self.pieces.items()})
        with torch.no_grad():
            for name, piece in self.pieces.items():
                piece.write(mine[name])
        self._settle(model)
        return model

    def _settle(self, model):
        for module in list(model.modules()):
            if isinstance(module, nn.LayerNorm):
                module.eps = self.norm_eps
            for name, child in module.named_children():
                if isinstance(child, (nn.GELU, QuickGELU)):
                    setattr(module, name, QuickGELU() if self.gelu == "quick" else nn.GELU(self.gelu))


def convert(
    state_dict,
    family=None,
    *,
    num_heads=None,
    img_size=None,
    global_pool=None,
    norm_eps=None,
    gelu=None,
    resizing=None,
    entry=None,
    dtype=torch.float32,
    copy=True,
):
    """A state dict of any family -> `Converted`.

    state_dict: {name: tensor}, or a checkpoint that holds one; entry says in which of its entries, if there are several.
    family: a key of `FAMILIES`, by default recognised from the names, or a `Family` of your own. No state dict says the
    following, which therefore have defaults: num_heads (D / 64, or 16 for the widths in HEADS), img_size (a square), global_pool
    ("token" if there is a class token and no fc_norm, else "avg"; "token+avg" if the head is wide enough for both), norm_eps,
    gelu and resizing, a `Resizing` (those of the family).
    dtype: that of our tensors; None keeps theirs. copy=False lets ours share memory with theirs where nothing had to be done.
    Raises WeightsError for unknown, missing or misshapen tensors, listed with both names, for tensors that are not floats, and
    for arguments that our models do not know.
    """
    state_dict, taken_away = without_entries(state_dict, entry)
    _require_tensors(state_dict)
    own = family if isinstance(family, Family) else None
    if own is None and family not in (None, *FAMILIES):
        raise WeightsError(f"no family is called {family!r}; there are: {', '.join(FAMILIES)}.")
    state_dict, prefixes = without_prefix(state_dict, own and [own])
    taken_away += prefixes
    state_dict, ignored = image_tower(state_dict)
    family = "your family" if own else family or recognise(state_dict)
    names = own or FAMILIES[family]
    _require_floats(state_dict, names)
    _require_settings(num_heads, global_pool, norm_eps, gelu, resizing, dtype)
    if global_pool is not None and global_pool not in names.poolings:
        raise WeightsError(
            f"global_pool={global_pool!r} of {family} is another function than ours of this name; known is: {', '.join(names.poolings)}."
        )
    mapped, parts, problems = _placed(state_dict, names, ignored)
    pieces = _assemble(parts, names, problems)
    _require_no(problems, _closing(state_dict, mapped, ignored, family))
    filled = _zero_biases(pieces)
    arguments = _arguments(pieces, names, filled, img_size, global_pool)
    if names.swin:
        if (num_heads, resizing) != (None, None):
            raise WeightsError(
                "a Swin's tables of positions tell its heads, and are not resized: leave out num_heads and resizing."
            )
    elif not names.mixer:
        arguments["num_heads"] = _heads(num_heads, state_dict, names, arguments["embed_dim"])
    elif (num_heads, resizing) != (None, None):
        raise WeightsError("an MLP-Mixer has neither heads nor positions: leave out num_heads and resizing.")
    _require_no(_differences(pieces, arguments["embed_dim"]) + _misfits(pieces, _shapes(arguments), names))
    said = {
        "num_heads": num_heads,
        "img_size": img_size,
        "global_pool": global_pool,
        "norm_eps": norm_eps,
        "gelu": gelu,
    }
    if norm_eps is None:
        norm_eps = CLIP_EPSILON if arguments.get("norm_pre") else names.norm_eps
    gelu = gelu or names.gelu
    guesses = _guesses(
        arguments, names, norm_eps, gelu, "your family says" if own else f"is usual for {family}"
    )
    if not names.mixer and not names.swin and parts["patch_embed.proj.weight"][""].ndim == 2:
        guesses["patches"] = PATCHES.format(**arguments)
    if taken_away:
        guesses["names"] = " ".join(taken_away)
    return Converted(
        family,
        arguments,
        pieces,
        mapped,
        ignored,
        filled,
        norm_eps,
        gelu,
        dtype,
        copy,
        _still_open(guesses, said),
        resizing or (names.resizing(state_dict) if callable(names.resizing) else names.resizing),
    )


def from_model(theirs, img_size=None, num_classes=None, copy=True):
    """Our model with the weights of somebody else's `nn.Module`, in eval mode. The two compute the same.

    theirs: a ViT of torchvision, timm or transformers, DINO's or DINOv2's own, timm's MlpMixer, Swin, or one of ours. Number of heads,
    image size, epsilon, GELU and pooling are read from it. LayerScale is multiplied into the layer before it. The other arguments are
    those of `Converted.model` and `convert`.
    Raises WeightsError for an architecture that ours does not cover.
    """
    settings = settings_of(theirs)
    model = convert(theirs.state_dict(), copy=copy, **settings).model(img_size, num_classes)
    cfg = getattr(theirs, "pretrained_cfg", None) or {}
    if cfg.get("mean") is not None:  # timm's, or ours
        cfg = cfg if isinstance(cfg["mean"], torch.Tensor) else preprocessing.from_timm(cfg)
        model.pretrained_cfg |= preprocessing.at_size(cfg, model.patch_embed.img_size)
    return model


def from_torchvision(theirs):
    """Our `ViT` with the weights of a torchvision `VisionTransformer`, in eval mode; the two give equal logits."""
    return from_model(theirs)


def load_by_name(model, weights, assign=False):
    """Load a state dict that has our names. The model is changed only if every key and every shape fits.

    assign=True makes the tensors themselves the model's, instead of copying their numbers into it.
    Raises WeightsError, which lists what is missing, what is not expected and which shapes differ.
    """
    mine = model.state_dict()
    _require_fit({k: v.shape for k, v in mine.items()}, {k: v.shape for k, v in weights.items()})
    model.load_state_dict(weights, assign=assign)


# ---------------------------------------------------------------- the steps of `convert`


def _require_no(problems, closing=""):
    if problems:
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise WeightsError(
            "the weights do not fit the model:\n  "
            + "\n  ".join(problems[:8])
            + more
            + ("\n" + closing if closing else "")
        )


def _require_fit(mine, weights):
    """Two dicts {name: shape}, of a model and of weights for it."""
    problems = [f"missing: {k}, shape {tuple(mine[k])}" for k in mine if k not in weights]
    problems += [f"not expected: {k}, shape {tuple(v)}" for k, v in weights.items() if k not in mine]
    problems += [
        f"{k}: the model has shape {tuple(mine[k])}, the weights have {tuple(v)}"
        for k, v in weights.items()
        if k in mine and v != mine[k]
    ]
    _require_no(problems)


def _require_tensors(state_dict):
    if not isinstance(state_dict, dict) or not state_dict:
        raise WeightsError(
            f"expected a state dict, {{name: tensor}}, got {type(state_dict).__name__} of length "
            f"{len(state_dict) if hasattr(state_dict, '__len__') else 'none'}."
        )
    for key, value in state_dict.items():
        if not isinstance(key, str):
            raise WeightsError(f"expected names as keys, got {key!r}.")
        if not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"expected a tensor for {key!r}, got {type(value).__name__}. Give the state dict itself, not what holds it."
            )


def _require_settings(num_heads, global_pool, norm_eps, gelu, resizing, dtype):
    """Raise WeightsError for arguments of `convert` that would silently mean something else."""
    if global_pool is not None:
        require_pooling(global_pool)
    if gelu is not None and gelu not in GELUS:
        raise WeightsError(
            f'gelu is "none" (exact), "tanh" (approximate) or "quick" (as in CLIP), got {gelu!r}.'
        )
    if num_heads is not None and (type(num_heads) is not int or num_heads < 1):
        raise WeightsError(f"num_heads is a whole number of at least 1, got {num_heads!r}.")
    if norm_eps is not None and not 0 <= norm_eps < 1:
        raise WeightsError(f"norm_eps is a small positive number such as 1e-6, got {norm_eps!r}.")
    if resizing is not None and not isinstance(resizing, Resizing):
        raise WeightsError(
            f"resizing is a Resizing, such as pretrained.Resizing(antialias=False), got {resizing!r}."
        )
    if dtype is not None and dtype not in FLOATS:
        raise WeightsError(f"dtype is None or one of {', '.join(map(str, FLOATS))}, got {dtype!r}.")


def _require_floats(state_dict, names):
    for key, value in state_dict.items():
        if names.reason_to_ignore(key):
            continue
        if key.endswith("num_batches_tracked"):
            raise WeightsError(
                f"{key!r} counts the batches of a batch norm; our ViT has layer norms only, so this is another architecture."
            )
        if value.dtype not in FLOATS and names.ours(key):
            raise WeightsError(
                f"{key!r} is {value.dtype}; expected {', '.join(map(str, FLOATS))}. If the weights are quantised, the library that "
                "made them must turn them back into floats."
            )


def _differences(pieces, width):
    """What the tensors say about another architecture: a list of sentences."""
    found = []
    qkv = pieces.get("blocks.0.attn.qkv.weight")
    if qkv is not None and qkv.shape[0] != 3 * width:
        found.append(
            f"Their heads have {qkv.shape[0] // 3} numbers together for a width of {width}, and in ours the two are equal."
        )
    if not {"norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias"} & pieces.keys():
        found.append("Their blocks end without a last layer norm, and ours have one before the head.")
    return found


def _both(ours, names):
    """Our name, with theirs in brackets where the table has one."""
    number = re.search(r"layers\.(\d+)\.blocks\.(\d+)|blocks\.(\d+)", ours)
    digits = [d for d in number.groups() if d is not None] if number else []
    generic = {0: ours, 1: "blocks.{i}", 2: "layers.{i}.blocks.{j}"}[len(digits)]
    pattern = ours.replace(number.group(), generic) if number else ours
    theirs = [t for t, o in names.names.items() if o.partition("[")[0] == pattern]
    shown = " or ".join(theirs)
    for letter, digit in zip(("{i}", "{j}"), digits, strict=False):
        shown = shown.replace(letter, digit)
    return f"{ours} (theirs: {shown or 'no such name'})"


def _placed(state_dict, names, ignored):
    """({theirs: ours}, {ours: {part: tensor}}, problems): every tensor in its place. Completes `ignored`."""
    mapped, parts, problems = {}, {}, []
    for key, value in state_dict.items():
        ours, reason = names.ours(key), names.reason_to_ignore(key)
        if reason:
            ignored[key] = reason
        elif ours is None:
            problems.append(f"no place for theirs: {key}, shape {tuple(value.shape)}")
        else:
            name, _, part = ours.partition("[")
            if part in parts.setdefault(name, {}):
                problems.append(f"two tensors for ours: {name}; the second is theirs: {key}")
            mapped[key], parts[name][part] = ours, value
    if PRE_LOGITS in ignored.values():
        for key in [k for k, ours in mapped.items() if ours.startswith("head")]:
            parts.pop(mapped.pop(key))
            ignored[key] = PRE_LOGITS
    problems[:0] = differences([key for key in state_dict if key not in mapped and key not in ignored])
    return mapped, parts, problems


def _by_reason(ignored):
    """{name: reason} -> [(which tensors, the reason they share)]: one by its name, several by their number and an example."""
    found = {}
    for key, why in ignored.items():
        found.setdefault(why, []).append(key)
    return [
        (keys[0] if len(keys) == 1 else f"{len(keys)} tensors such as {keys[0]}", why)
        for why, keys in found.items()
    ]


def _closing(state_dict, mapped, ignored, family):
    """What to say after the names without a place: whether there is a second model, or another architecture altogether."""
    unknown = [key for key in state_dict if key not in mapped and key not in ignored]
    few = len(unknown) > len(mapped)
    return second_set(unknown) + (
        f"{family} knows {len(mapped)} of their {len(state_dict)} names. {OWN_TABLE}" if few else ""
    )


def _assemble(parts, names, problems):
    """{ours: {part: tensor}} -> {ours: Pieces}: parts one after the other, with LayerScale's factors."""
    pieces = {}
    for name, tensors in parts.items():
        if "scale]" in tensors:
            continue
        tensors = {part: names.transpose(name, value) for part, value in tensors.items()}
        stack = ("",) if "" in tensors else max(STACKS, key=lambda stack: len(tensors.keys() & set(stack)))
        lost = [part for part in stack if part not in tensors]
        problems += [f"missing: the part [{part} of ours: {name}" for part in lost]
        if lost:
            continue
        stacked = tuple(tensors[part] for part in stack)
        scale = parts.get(name.rpartition(".")[0], {}).get("scale]")
        if not _fit_together(stack, stacked, scale):
            shapes = [tuple(t.shape) for t in (*stacked, *([] if scale is None else [scale]))]
            problems.append(f"{name}: theirs cannot be put together, shapes {shapes}")
            continue
        pieces[name] = Pieces(stacked, scale)
    return pieces


def _fit_together(stack, tensors, scale):
    first, *others = (t.shape for t in tensors)
    wanted = (2 * first[0], *first[1:]) if "kv]" in stack else first
    return all(shape == wanted for shape in others) and (scale is None or scale.shape == first[:1])


def _zero_biases(pieces):
    """Zeros for the biases that theirs does without, added to `pieces`. Returns {ours: what it was filled with}.

    A layer does without only if it has a bias in no block. CLIP's patches do without, and its projection and that of SigLIP.
    """

    def layer(key):
        return re.sub(r"^(layers\.\d+\.)?blocks\.\d+\.", "", key).rpartition(".")[0]

    lacking = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"} - {
        layer(k) for k in pieces if k.endswith(".bias")
    }
    projections = {"patch_embed.proj": {"norm_pre.weight"}, "head": {"norm_pre.weight", "attn_pool.latent"}}
    lacking |= {k for k, signs in projections.items() if signs & pieces.keys() and f"{k}.bias" not in pieces}
    filled = {}
    for key in [k for k in pieces if k.endswith(".weight") and layer(k) in lacking]:
        bias = key.replace("weight", "bias")
        pieces[bias] = Pieces((pieces[key].tensors[0].new_zeros(pieces[key].shape[0]),))
        filled[bias] = "zeros: theirs has no bias here"
    return filled


def _misfits(pieces, expected, names):
    """What is missing, not expected or of another shape than {ours: shape}, as sentences."""
    problems = []
    for key in sorted(expected.keys() | pieces.keys()):
        if key not in pieces:
            problems.append(f"missing: {_both(key, names)}, shape {tuple(expected[key])}")
        elif key not in expected:
            problems.append(f"not expected: {_both(key, names)}, shape {tuple(pieces[key].shape)}")
        elif pieces[key].shape != expected[key]:
            problems.append(
                f"{_both(key, names)}: ours has shape {tuple(expected[key])}, theirs {tuple(pieces[key].shape)}"
            )
    return problems


def _pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)


def _patches(size, patch):
    return (size[0] // patch) * (size[1] // patch)


def _require_whole_patches(size, patch, rest=False):
    """Raise WeightsError for anything but two sides that are multiples of the patch; with `rest`, not necessarily multiples."""
    if len(size) != 2 or any(
        type(side) is not int or side < 1 or (side % patch and not rest) for side in size
    ):
        raise WeightsError(
            f"images of {' x '.join(map(str, size))} pixels cannot be cut into patches of {patch} x {patch}: expected two sides that are "
            f"multiples of {patch}."
        )


def _replace_head(arguments, weights, num_classes):
    """Put a head of zeros, or none, in the place of theirs. Changes both dicts, and returns a note about it."""
    there, arguments["num_classes"] = arguments["num_classes"], num_classes
    heads = ["head.fc"] if "depths" in arguments else ["head"]
    for head in [*heads, "head_dist"] if arguments.get("dist_head") else heads:
        for kind, *shape in (("weight", _head_width(arguments)), ("bias",)):
            weights.pop(f"{head}.{kind}", None)
            if num_classes:
                weights[f"{head}.{kind}"] = next(iter(weights.values())).new_zeros(num_classes, *shape)
    before = f"The weights know {there:,} classes" if there else "The weights have no head"
    after = (
        "The new head is all zeros: train it before you use it." if num_classes else "The head is left out."
    )
    return f"{before}, and {num_classes:,} classes were asked for. {after}"


def _head_width(arguments):
    """How many numbers the head reads."""
    if "depths" in arguments:
        return arguments["embed_dim"] * 2 ** (len(arguments["depths"]) - 1)
    return arguments["embed_dim"] * (2 if arguments["global_pool"] == "token+avg" else 1)


def _arguments(pieces, names, filled, img_size, global_pool):
    """The constructor's arguments that the shapes tell. Completes `pos_embed` if it has rows for patches only."""
    arguments = _sizes(pieces, names)
    if names.swin:
        return arguments | _swin_arguments(pieces, names, arguments, img_size)
    if names.mixer:
        return arguments | _mixer_arguments(pieces, names, arguments, img_size)
    token = "cls_token" in pieces
    pool = arguments["global_pool"] = _pool(pieces, global_pool, arguments["embed_dim"])
    extras = {
        "class_token": None if token == ("token" in pool) else token,
        "dist_token": "dist_token" in pieces,
        "dist_head": "head_dist.weight" in pieces,
        "registers": pieces["reg_token"].shape[1] if "reg_token" in pieces else 0,
        "register_positions": False,
        "fc_norm": "fc_norm.weight" in pieces,
        "norm_pre": "norm_pre.weight" in pieces,
        "swiglu": _is_gated(pieces),
    }
    size, placed = _grid(
        pieces, names, arguments["patch_size"], token + extras["dist_token"], extras, img_size
    )
    arguments["img_size"], extras["register_positions"] = size, placed == "registers"
    cut_off = any(side % arguments["patch_size"] for side in size)
    if extras != EXTRAS or cut_off or pool not in ("token", "avg"):
        arguments |= extras | {"class_token": token}
    in_front = token + extras["dist_token"]
    if placed == "patches" and in_front:
        (theirs,) = pieces["pos_embed"].tensors
        pieces["pos_embed"] = Pieces((theirs.new_zeros(1, in_front, theirs.shape[2]), theirs), dim=1)
        filled["pos_embed"] = f"zeros for the {in_front} tokens in front: theirs have no position"
    return arguments


def _sizes(pieces, names):
    """Arguments that are sizes of tensors."""
    patches, places, mlp = "patch_embed.proj.weight", "pos_embed", "blocks.0.mlp"
    if names.mixer:
        patches, places, mlp = "stem.proj.weight", "blocks.0.mlp_tokens.fc1.weight", "blocks.0.mlp_channels"
    if names.swin:
        places, mlp = BIASES.format(0), "layers.0.blocks.0.mlp"
    needed = (patches, places, f"{mlp}.fc1.weight", f"{mlp}.fc2.weight")
    _require_no([f"missing: {_both(key, names)}" for key in needed if key not in pieces])
    projection = pieces[patches]
    if len(projection.shape) != 4 or projection.shape[2] != projection.shape[3]:
        raise WeightsError(
            f"{_both(patches, names)}: expected shape (D, C, P, P), got {tuple(projection.shape)}."
        )
    D, C, P, _ = projection.shape
    head = pieces.get("head.fc.weight" if names.swin else "head.weight")
    found = {
        "img_size": None,
        "patch_size": P,
        "in_chans": C,
        "num_classes": head.shape[0] if head is not None else 0,
        "embed_dim": D,
        "mlp_ratio": _ratio(pieces[f"{mlp}.fc1.weight"].shape[0], D),
    }
    if not names.swin:
        found["depth"] = 1 + max(int(k.split(".")[1]) for k in pieces if k.startswith("blocks."))
    return found


def _ratio(hidden, width):
    """A ratio with which int(width * ratio) is exactly `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _mixer_arguments(pieces, names, arguments, img_size):
    """The arguments that only a `Mixer` has, and its img_size. Raises WeightsError for images with another number of patches."""
    key, patch = "blocks.0.mlp_tokens.fc1.weight", arguments["patch_size"]
    shape = pieces[key].shape
    if len(shape) != 2:
        raise WeightsError(f"{_both(key, names)}: expected shape (hidden, N), got {tuple(shape)}.")
    hidden, places = shape
    size = (math.isqrt(places) * patch,) * 2 if img_size is None else _pair(img_size)
    _require_whole_patches(size, patch)
    if _patches(size, patch) != places:
        form = "a square grid" if img_size is None else f"the grid of {size[0]} x {size[1]} pixels"
        raise WeightsError(
            f"{_both(key, names)} has columns for {places} patches of {patch} x {patch} pixels, which do not form {form}. Give "
            "img_size=(H, W), the size in pixels that these weights were trained for."
        )
    ratio = _ratio(hidden, arguments["embed_dim"])
    return {
        "img_size": size,
        "mixer": "mlp",
        "token_mlp_ratio": ratio,
        "global_pool": "avg",
        "pos_embed": "none",
    }


def _why_fixed(arguments, new):
    """Why a Mixer cannot read images of `new` pixels, (H, W), in a few sentences."""
    (height, width), patch = arguments["img_size"], arguments["patch_size"]
    return (
        f"these are the weights of an MLP-Mixer for images of {height} x {width} pixels, and {new[0]} x {new[1]} were asked for. "
        f"{FIXED['mlp'].format(T=_patches((height, width), patch))} Leave out img_size, and resize the images. If the weights were "
        "trained for other images with as many patches, say so with convert(..., img_size=(H, W))."
    )


def _swin_arguments(pieces, names, arguments, img_size):
    """The arguments that only a `Swin` has, and its img_size. Raises WeightsError for tables that fit no such images."""
    places = [re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", key) for key in pieces]
    places = [(int(found[1]), int(found[2])) for found in places if found]
    stages = range(1 + max(i for i, _ in places))
    depths = tuple(1 + max((j for i, j in places if i == stage), default=-1) for stage in stages)
    tables = [pieces.get(BIASES.format(stage)) for stage in stages]
    _require_no(
        [f"missing: {_both(BIASES.format(i), names)}" for i in stages if tables[i] is None]
        + [
            f"{_both(BIASES.format(i), names)}: expected a row for each offset and a column for each head, got shape {tuple(t.shape)}"
            for i, t in enumerate(tables)
            if t is not None and len(t.shape) != 2
        ]
    )
    rows, patch = [t.shape[0] for t in tables], arguments["patch_size"]
    last = (math.isqrt(rows[-1]) + 1) // 2  # the side of a square window in the last stage, which it fills
    size = (last * 2 ** stages[-1] * patch,) * 2 if img_size is None else _pair(img_size)
    _require_whole_patches(size, patch)
    grids = [tuple(side // patch // 2**stage for side in size) for stage in stages]
    for window in range(1, max(grids[0]) + 1):
        if rows == [math.prod(2 * min(window, side) - 1 for side in grid) for grid in grids]:
            found = {"img_size": size, "depths": depths, "window_size": window}
            return found | {"num_heads": tuple(t.shape[1] for t in tables)}
    raise WeightsError(
        f"their tables of positions have {', '.join(map(str, rows))} rows in the stages, and no window has as many offsets on images of "
        f"{size[0]} x {size[1]} pixels. Give img_size=(H, W), the size in pixels that these weights were trained for."
    )


def _is_gated(pieces):
    """Whether the second layer of the MLP reads half of what the first one gives, as in a SwiGLU."""
    first, second = (pieces[f"blocks.0.mlp.fc{i}.weight"].shape for i in (1, 2))
    return len(second) == 2 and 2 * second[1] == first[0]


def _pool(pieces, global_pool, width):
    """What the head reads: as it was said, or as the tensors show. Raises WeightsError for what is not there."""
    token, head = "cls_token" in pieces, pieces.get("head.weight")
    pool = global_pool or ("token" if token and "fc_norm.weight" not in pieces else "avg")
    if global_pool is None and "attn_pool.latent" in pieces:
        pool = "map"
        if token:
            raise WeightsError(
                "these weights have a class token and a pooling by attention. Of published models, those of Meta's Perception Encoder "
                "have both, and rotary positions besides, which no file shows and ours does not have. If yours does without, and pools "
                'over the patches only, give global_pool="map".'
            )
    if pool == "token" and head is not None and head.shape[1:] == (2 * width,):
        pool = "token+avg"  # the shape says it: DINOv2's classifiers in transformers
    if "token" in pool and not token:
        raise WeightsError(
            'their pooling reads the class token, but the weights have no class token. Give global_pool="avg".'
        )
    return pool


def _grid(pieces, names, patch, in_front, extras, img_size):
    """((H, W) of the images, what has positions besides the tokens in front: "registers", "tokens" or only "patches").

    Raises WeightsError where the positions do not belong to such images.
    """
    rows = pieces["pos_embed"].shape[1]
    besides = {in_front: "tokens", 0: "patches", in_front + extras["registers"]: "registers"}
    if not extras["registers"]:
        besides[in_front] = "tokens"
    if img_size is not None:
        size = _pair(img_size)
        _require_whole_patches(size, patch, rest=True)  # timm leaves a rest of the image out
        patches = _patches(size, patch)
    else:
        patches = next((rows - n for n in besides if math.isqrt(max(rows - n, 0)) ** 2 == rows - n), 0)
        size = (math.isqrt(patches) * patch,) * 2
    if rows - patches in besides and patches:
        return size, besides[rows - patches]
    if img_size is not None:
        _require_whole_patches(size, patch)
    registers = f", {extras['registers']} for registers or none" if extras["registers"] else ""
    raise WeightsError(
        f"{_both('pos_embed', names)} has {rows} rows: {in_front} for tokens in front{registers}, and the others do not form a "
        f"{'square grid' if img_size is None else f'grid for {size[0]} x {size[1]} pixels'} of patches. Give img_size=(H, W), "
        "the size in pixels that these weights were trained for."
    )


def _guesses(arguments, names, norm_eps, gelu, usual):
    """{argument of `convert`: what is taken where nobody says it, in a sentence}."""
    (height, width), P = arguments["img_size"], arguments["patch_size"]
    pool = arguments.get("global_pool", "avg")
    reads = {"token": "the class token", "avg": "the mean over the patches"}
    places, halves = "positions", "attention and MLP"
    if names.mixer:
        places, halves = "places that the token MLPs know", "both MLPs"
    guesses = {
        "num_heads": f"The weights do not say how many attention heads there are; {arguments.get('num_heads')} were taken, as is usual "
        f"for a width of {arguments['embed_dim']}. Another number gives other answers: num_heads= of `convert` sets it.",
        "img_size": f"The weights do not say for which pictures they are; {height} x {width} pixels were taken, so that the {places} "
        f"form a square of {height // P} x {width // P} patches: img_size=(H, W) sets it.",
        "global_pool": f"The weights do not say what the head reads; {reads.get(pool)} was taken"
        + (
            ": global_pool= sets it."
            if len(names.poolings) > 1
            else ". If theirs reads anything else, it is another function than ours."
        ),
        "norm_eps": f"The weights do not say the epsilon of their layer norms; {norm_eps:g} was taken, as {usual}: "
        "norm_eps= sets it.",
        "gelu": f"The weights do not say their activation; {GELUS[gelu]} was taken, as {usual}: gelu= sets it.",
        "order": f"The weights do not say whether their norms come before or after {halves}; before was taken, as is usual.",
    }
    if names.swin:
        guesses["img_size"] = (
            f"The weights do not say for which pictures they are; {height} x {width} pixels were taken, so that the last stage is a single "
            "window: img_size=(H, W) sets it."
        )
    if pool not in reads:
        del guesses["global_pool"]  # the width of the head tells it, or the tensors of the pooling
    if arguments.get("swiglu"):
        guesses["gelu"] = (
            "The weights do not say how their MLPs compute, whose second layer reads half of what the first gives; a SwiGLU was "
            "taken whose first half is the gate."
        )
    if names.heads is not None or names.mixer or names.swin:
        del guesses["num_heads"]
    return guesses


def _still_open(guesses, said):
    """The guesses about what was not `said`. Who said how the blocks compute knows the order of their norms as well."""
    left = {name: guess for name, guess in guesses.items() if said.get(name) is None}
    if not left.keys() & {"num_heads", "norm_eps", "gelu"}:
        left.pop("order", None)
    return left


def _heads(num_heads, state_dict, names, width):
    """The number of heads, as it was said, as the family knows it or as is usual."""
    if num_heads is None:
        num_heads = _guess_heads(state_dict, names, width)
    if width % num_heads:
        raise WeightsError(
            f"{num_heads} heads cannot share a width of {width} evenly. Give another num_heads=."
        )
    return num_heads


def _guess_heads(state_dict, names, width):
    if names.heads is not None:
        heads = names.heads(state_dict) if callable(names.heads) else names.heads
        if type(heads) is not int or heads < 1:
            raise WeightsError(
                f"the family says {heads!r} for the number of heads; expected a whole number of at least 1."
            )
        return heads
    if width not in HEADS and width % 64:
        raise WeightsError(
            f"no state dict says how many heads there are, and a width of {width} does not tell it. Give num_heads=."
        )
    return HEADS.get(width, width // 64)


def _build(arguments):
    if "mixer" in arguments:
        return Mixer(**arguments)
    if "depths" in arguments:
        try:
            return Swin(**arguments)
        except ValueError as error:
            raise WeightsError(
                f"images of {' x '.join(map(str, arguments['img_size']))} pixels do not fit these weights: {error} Other libraries fill up such "
                "maps with zeros, and ours does not."
            ) from error
    return (PublishedViT if "registers" in arguments else ViT)(**arguments)


def _without_numbers(arguments):
    """Our model, whose weights are still to come. A Swin has tensors that no file holds, so it is built with numbers."""
    if "depths" not in arguments:
        with torch.device("meta"):
            return _build(arguments)
    with torch.random.fork_rng(devices=[]):
        return _build(arguments)


def _shapes(arguments):
    """{name: shape} of our model, from one block: all are alike, and building them all would take longer than converting."""
    with torch.device("meta"):
        if "depths" in arguments:
            return {k: v.shape for k, v in _build(arguments).state_dict().items()}
        one = _build(arguments | {"depth": min(1, arguments["depth"])}).state_dict()
    blocks = {k: v.shape for k, v in one.items() if k.startswith("blocks.")}
    shapes = {k: v.shape for k, v in one.items() if k not in blocks}
    for i in range(arguments["depth"]):
        shapes |= {k.replace("blocks.0.", f"blocks.{i}."): shape for k, shape in blocks.items()}
    return shapes
