"""`load`: a trained model by its name, from the package, a file, the cache or the network."""

import contextlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from vit_edu import selfsupervised, settings
from vit_edu.models.saved import CheckpointError, load_run
from vit_edu.pretrained import files, hub, preprocessing
from vit_edu.pretrained.config import (
    config_settings,
    image_config,
    require_pooling,
    require_same_sizes,
    settings_of,
)
from vit_edu.pretrained.conversion import convert, from_model
from vit_edu.pretrained.names import WeightsError
from vit_edu.pretrained.shipped import NO_HEAD, SHIPPED, about_data, read_weights

REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"  # owner/name
PROJECTED = ("openclip", "transformers-clip")  # families whose head gives no classes
INDEX = ".index.json"  # ends the name of a file that says which tensor is in which of several files
HUB_WEIGHTS = tuple(
    f"{n}{s}" for n in ("model.safetensors", "pytorch_model.bin") for s in ("", INDEX)
)  # in this order


def load(name="vit-cifar10", img_size=None, num_classes=None):
    """A trained model in eval mode, in float32, on the CPU.

    name, one of
        "vit-cifar10"                           weights that come with the course; no network is needed
        "torchvision/vit_b_16"                  torchvision's enum, its default; or "torchvision/vit_b_16/NAME"
        "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "facebook/deit-tiny-patch16-224"     a repository of the
                                                Hugging Face Hub with a ViT or Swin of timm or transformers, or an MLP-Mixer of timm.
                                                HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured
        "folder/weights.npz"                    a file (.safetensors, .pt, .pth, .bin, .npz) of any family. A config.json and a
                                                preprocessor_config.json beside it are read. Also their folder,
                                                and an index of several files (.index.json)
        "runs/first"                            a run of `training.fit`; of one by masked patches, its encoder
    img_size, num_classes: as for `Converted.model`.

    Downloads are verified and kept in `files.cache_dir()`, and are taken from there the next time. Copies in torch's and the
    Hub's own caches are used as well. `model.pretrained_cfg` says what belongs to the weights: what `preprocess` needs
    ("mean" and "std", (C, 1, 1), and more), "classes" (names in the order of the logits), "card" (a text), and "notes" (what
    was changed).
    Raises WeightsError for an unknown name, and lists the known ones; for a damaged file; and for weights that are not here
    and cannot be downloaded, and says what to download and where to put it.
    """
    if not isinstance(name, (str, Path)) or not str(name):
        raise WeightsError(f"expected a name or a path of weights, got {name!r}.")
    try:
        return _loaded(name, img_size, num_classes)
    except (
        settings.NoHome,
        settings.SettingError,
    ) as error:  # where downloads are kept, and whether there are any
        raise WeightsError(str(error)) from error


def _loaded(name, img_size, num_classes):
    path, about = _path(name), About()
    if (SHIPPED / f"{name}.safetensors").exists():
        return _changed(read_weights(SHIPPED / f"{name}.safetensors"), img_size, num_classes)
    if (
        path.is_dir() and not (path / "checkpoint.pt").exists()
    ):  # of `save_pretrained`, or a copy of a repository
        path = next((path / n for n in HUB_WEIGHTS if (path / n).exists()), path)
    if path.is_dir() and not (path / "checkpoint.pt").exists():
        raise WeightsError(
            f"the folder {path} holds no weights: neither the checkpoint.pt of a run nor {', '.join(HUB_WEIGHTS)}. Name the file."
        )
    if path.is_dir() or path.name == "checkpoint.pt":
        return _changed(_run(path), img_size, num_classes)
    if path.suffix in files.SUFFIXES or path.name.endswith(INDEX) or path.is_file():
        if files.is_ours(path):
            return _changed(read_weights(path), img_size, num_classes)
        weights = _tensors(path)
        about = _beside(path)
    elif str(name).startswith("torchvision/"):
        path, about = _torchvision(name)
        weights = files.read(path)
    elif re.fullmatch(REPOSITORY, str(name)):
        try:
            path, about = _hub(name)
        except WeightsError as error:
            if hub.cached(name, "config.json"):
                raise
            raise WeightsError(
                f"{error} As there is no folder {name} here, the name was taken for a repository of the Hugging Face Hub."
            ) from error
        weights = _tensors(path, shard=lambda file: hub.get(name, file))
    else:
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors")))
        raise WeightsError(
            f"no weights called {str(name)!r} come with the course, and there is no such folder; there are: {known}. Others are named "
            "like torchvision/vit_b_16, timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k or folder/weights.safetensors."
        )
    # Tensors from a .safetensors file are in the file itself until they are copied
    converted = convert(weights, copy=".safetensors" in path.suffixes, **about.arguments)
    del weights
    require_same_sizes(converted.arguments, about.config)
    if about.published:
        converted = replace(converted, guesses={})
    cfg = about.cfg
    if converted.family in ("jax", "jax-mixer"):
        cfg = preprocessing.of_jax(*converted.arguments["img_size"])
    size = img_size or _size_of_preprocessing(cfg, converted.arguments)
    model = converted.model(size, num_classes)
    model.pretrained_cfg["notes"][:0] = about.notes
    if not converted.arguments["num_classes"]:  # config.json of transformers may name classes all the same
        cfg = cfg | {"classes": ()}
        if num_classes is None:
            model.pretrained_cfg["notes"].append(
                f"The weights have no head, so there are no classes: the model returns {converted.width} numbers for "
                "each picture. transfer.new_head(model, num_classes) adds a head, which has to be trained."
            )
    is_projection = converted.family in PROJECTED and converted.arguments["num_classes"]
    if is_projection and num_classes is None:
        model.pretrained_cfg["notes"].append(
            "The head is a projection into the space that images share with texts, so the outputs are no classes: `similarities` compares "
            "them with the vectors of texts."
        )
    elif not cfg.get("classes") and converted.arguments["num_classes"] == 1000:
        from torchvision.models import ViT_B_16_Weights

        cfg = cfg | {"classes": tuple(ViT_B_16_Weights.DEFAULT.meta["categories"])}
        model.pretrained_cfg["notes"].append(
            "The weights have 1,000 classes without names; those of ImageNet, in their usual order, were taken."
        )
    return _with(model, cfg | {"source": str(path)}, img_size, num_classes)


def _size_of_preprocessing(cfg, arguments):
    """(H, W) of the pictures that `preprocess` makes, if the positions are for others, as in DINOv2, or else None."""
    if cfg.get("mean") is None or tuple(cfg["input_size"][1:]) == arguments["img_size"]:
        return None
    size, patch = tuple(cfg["input_size"][1:]), arguments["patch_size"]
    if any(side % patch for side in size):
        raise WeightsError(
            f"the preprocessing of these weights makes pictures of {size[0]} x {size[1]} pixels, which cannot be cut into patches of "
            f"{patch} x {patch}. Give img_size=(H, W), two multiples of {patch}, to `load`."
        )
    return size


def _path(name):
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # ~ without a home
        raise WeightsError(f"{name} cannot be found ({error}). Give the path in full.") from error


@dataclass(frozen=True)
class About:
    """What came with weights. arguments: of `convert`. cfg: entries of `pretrained_cfg`. notes: sentences about it.
    config: the config.json of transformers, if there was one. published: whether the family alone tells everything."""

    arguments: dict = field(default_factory=dict)
    cfg: dict = field(default_factory=dict)
    notes: tuple = ()
    config: dict = field(default_factory=dict)
    published: bool = False


def _with(model, cfg, img_size, num_classes):
    """Add to the model what is known about its weights."""
    cfg = {"classes": (), "card": "", "mean": None, "std": None} | cfg
    if num_classes not in (None, len(cfg["classes"])):
        cfg["classes"] = ()
    if img_size is not None:
        cfg = preprocessing.at_size(cfg, img_size)
    model.pretrained_cfg = model.pretrained_cfg | cfg
    return model


def _changed(model, img_size, num_classes):
    """A model of the course, changed for other images or classes."""
    if img_size is None and num_classes is None:
        return model
    cfg = model.pretrained_cfg
    if cfg["model"]["kind"] != "vit":
        why = f" {model.why_fixed}" if img_size is not None and hasattr(model, "why_fixed") else ""
        raise WeightsError(
            f"a {type(model).__name__} can only be loaded unchanged: leave out img_size and num_classes.{why}"
        )
    return _with(from_model(model, img_size, num_classes, copy=False), cfg, img_size, num_classes)


def _run(path):
    try:
        model, state = load_run(path)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    if len(state["data"]["shape"]) == 4:
        raise WeightsError(
            f"the model of {path} reads clips, and what is loaded here reads images. training.load_run(path) returns the model, and "
            "what is known about its data."
        )
    cfg, arguments = about_data(state["data"]), state["recipe"]["model"]
    if state["recipe"]["task"] != "classification":  # its outputs are not the classes of its data
        cfg["classes"] = ()
    if state["recipe"]["task"] in selfsupervised.TASKS:
        model, arguments = selfsupervised.encoder_of(model, arguments, state["data"]["shape"])
        cfg["notes"].append(NO_HEAD)
    model.pretrained_cfg = cfg | {"model": arguments}
    return model


# ---------------------------------------------------------------- torchvision


def _torchvision(name):
    """torchvision/MODEL or torchvision/MODEL/WEIGHTS -> (file, `About`)."""
    from torchvision import models

    _, which, *member = name.split("/")
    known = models.list_models(include="vit_*")
    if which not in known:
        raise WeightsError(f"torchvision has no ViT {which!r}; there are: {', '.join(known)}.")
    weights = models.get_model_weights(which)
    if member and member[0] not in weights.__members__:
        raise WeightsError(
            f"torchvision has no weights {member[0]!r} for {which}; there are: {', '.join(weights.__members__)}."
        )
    weights = weights[member[0]] if member else weights.DEFAULT
    cfg = preprocessing.from_torchvision_weights(weights)
    cfg |= {"classes": tuple(weights.meta["categories"])}
    return torchvision_file(weights), About(cfg=cfg, published=True)


def torchvision_file(weights):
    """The file of a member of torchvision's enum, downloaded if it is not here. Its name ends with the start of its SHA-256."""
    filename = weights.url.rsplit("/", 1)[-1]
    digest = Path(filename).stem.rpartition("-")[2]
    target = files.cache_dir() / "torchvision" / filename
    theirs = Path(torch.hub.get_dir()) / "checkpoints" / filename
    if theirs.exists() and not target.exists():
        files.require_digest(theirs, digest)
        return theirs
    size = f"{weights.meta.get('_file_size', 0):,.0f} MB"
    otherwise = (
        f" If there is no network here, download {weights.url} ({size}) elsewhere and put it at {target}."
    )
    if not target.exists():
        files.require_network(weights.url, otherwise)
    return files.fetch(weights.url, target, digest, otherwise)


def torchvision_vit(name="vit_b_16"):
    """A torchvision ViT in eval mode, and in words where its weights come from.

    It has published ImageNet weights if they are in a cache or can be downloaded and verified, and otherwise random ones,
    with which the mapping of names can be shown just as well. Nothing is downloaded under VIT_EDU_FAST=1. Returns (model,
    has published weights, reason).
    """
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    try:
        path = torchvision_file(weights)
        model = models.get_model(name, weights=None, image_size=weights.transforms().crop_size[0])
        model.load_state_dict(files.read(path))
        return model.eval(), True, f"{weights}, from {path.parent}."
    except (WeightsError, KeyboardInterrupt) as error:
        torch.manual_seed(0)
        model = models.get_model(name, weights=None)
        with torch.no_grad():  # torchvision starts the head at zero, and then all logits would be equal
            model.heads.head.weight.normal_(std=0.02)
        why = str(error) or "the download was interrupted."
        return model.eval(), False, f"random weights, because {weights} could not be loaded: {why}"


# ---------------------------------------------------------------- Hugging Face Hub


def _hub(repo):
    """A repository, owner/name -> (file of weights, `About`)."""
    config = read_config(hub.get(repo, "config.json", check=lambda path: _described(read_config(path), None)))
    said = None if "architecture" in config else _preprocessor(repo)
    about = _described(config, said and read_config(said))
    here = [name for name in HUB_WEIGHTS if hub.cached(repo, name)][:1]
    for name in here or HUB_WEIGHTS:
        check = _index if name.endswith(INDEX) else None
        if path := hub.get(repo, name, optional=True, check=check):
            if path == hub.place(repo, name) and not path.with_name(f"{name}.sha256").exists():
                unknown = f"{path} was put there by hand, and was not compared with the digest of what was published."
                about = replace(about, notes=(*about.notes, unknown))
            return path, about
    raise WeightsError(
        f"the repository {repo} has none of {', '.join(HUB_WEIGHTS)}. Get its file of weights, and load that."
    )


def _tensors(path, shard=None):
    """The tensors in a file of weights, or in all the files that an index names.

    shard: gives the path of one of these for its name. By default it is beside the index.
    """
    if not path.name.endswith(INDEX):
        return files.read_whole(path)
    index, found = _index(path), {}
    for name in sorted(set(index.values())):
        found |= files.read(shard(name) if shard else path.with_name(name))
    if missing := sorted(index.keys() - found.keys()):
        raise WeightsError(
            f"{path} names {len(missing)} tensors that are not in the files it names them for, such as {missing[0]}. The files do not "
            "belong together. Get all of them again."
        )
    return found


def _index(path):
    """What an index of weights says: {name of a tensor: name of a file}. Raises WeightsError for anything else."""
    index = read_config(path).get("weight_map")
    names = index.values() if isinstance(index, dict) else ()
    if not names or not all(isinstance(n, str) and re.fullmatch(r"[\w-][\w.-]*", n) for n in names):
        raise WeightsError(
            f'{path} does not say in which files the weights are; expected {{"weight_map": {{tensor: file}}}}.'
        )
    return index


@contextlib.contextmanager
def _understood():
    """A `with` statement in which settings of other kinds than their names promise are a WeightsError."""
    try:
        yield
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"the settings that came with the weights cannot be understood ({type(error).__name__}: {error}). Get config.json and "
            "preprocessor_config.json again from where the weights come from."
        ) from error


def _described(config, processor, notes=()):
    """The contents of config.json and of preprocessor_config.json, None if there is none -> `About`."""
    with _understood():
        about = _about(config, processor, notes)
    heads = about.arguments.get("num_heads", 1)
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise WeightsError(f"config.json says that there are {heads!r} heads; expected their number.")
    return about


def _about(config, processor, notes):
    if "architecture" in config:  # timm
        about = config.get("pretrained_cfg", config)
        if not isinstance(about, dict) or len(about.get("input_size") or ()) != 3:
            raise WeightsError('config.json of timm does not say "input_size": [C, H, W].')
        arguments = {"family": "timm", "img_size": tuple(about["input_size"][1:])} | timm_settings(config)
        cfg = preprocessing.from_timm(about)
        return About(arguments, cfg | {"classes": tuple(about.get("label_names") or ())}, notes)
    arguments = config_settings(config)
    cfg = {"classes": arguments.pop("classes")}
    if processor is not None:
        cfg |= preprocessing.from_transformers(processor)
    return About(arguments, cfg, notes, image_config(config))


def _beside(path):
    """What config.json and preprocessor_config.json beside a file of weights say about it."""
    config, processor = path.with_name("config.json"), path.with_name("preprocessor_config.json")
    said = read_config(processor) if processor.is_file() else None
    if not config.is_file():
        with _understood():
            cfg = {} if said is None else preprocessing.from_transformers(said)
        return About({}, cfg, () if said is None else (f"The preprocessing is that of {processor}.",))
    try:
        found = read_config(config)
    except WeightsError as error:
        if path.name in HUB_WEIGHTS:
            raise
        return About(notes=(f"{error} It was left out.",))
    if not {"architecture", "model_type"} & found.keys() and path.name not in HUB_WEIGHTS:
        return About(
            notes=(f"{config} says nothing about a model of timm or transformers. It was left out.",)
        )
    beside = f"{config} and {processor.name}" if said is not None else str(config)
    return _described(found, said, (f"What the weights do not say themselves was read from {beside}.",))


def read_config(path):
    """A JSON file of settings -> dict. Raises WeightsError for anything else, such as the page of a network's login."""
    remedy = "Remove it, and get it again from where the weights come from."
    if path.suffix == ".part":  # it is about to be thrown away
        remedy = "It was not kept. If your network asks for a login, log in, and load again."
    files.require_readable(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON ({error}). {remedy}") from error
    if not isinstance(found, dict):
        raise WeightsError(
            f"{path} holds {type(found).__name__} in JSON; expected an object with settings. {remedy}"
        )
    return found


def _preprocessor(repo):
    """preprocessor_config.json, or None if there is none, or if only the weights are here and there is no network."""
    try:
        return hub.get(repo, "preprocessor_config.json", optional=True, check=read_config)
    except WeightsError:
        if any(hub.cached(repo, name) for name in HUB_WEIGHTS):
            return None
        raise


# timm's architectures that their state dict describes fully: 64 numbers per head, exact GELU, epsilon 1e-6
TIMM_PLAIN = r"(vit|deit3?)_(tiny|small|medium|base|large|huge)(_distilled)?_patch\d+(_reg4)?_(\d+|dinov2)"
TIMM_PLAIN_SWIN = r"swin_(tiny|small|base|large)_patch4_window(7_224|12_384)"
TIMM_PLAIN_MIXER = r"mixer_[sbl]\d+_\d+"


def timm_settings(config):
    """What no state dict says, from timm if it is installed. Without timm, this works for the plain architectures only."""
    name = config["architecture"]
    try:
        import timm
    except ImportError:
        if re.fullmatch(TIMM_PLAIN, name):
            pool = config.get("global_pool")
            return {"global_pool": None if pool is None else require_pooling(pool)}
        if re.fullmatch(TIMM_PLAIN_SWIN, name) and config.get("global_pool", "avg") == "avg":
            return {"family": None}
        if re.fullmatch(TIMM_PLAIN_MIXER, name) and config.get("global_pool", "avg") == "avg":
            return {"family": "timm-mixer"}
        raise WeightsError(
            f"only timm knows how {name} computes: pip install timm, and load again."
        ) from None
    with torch.device("meta"):  # the shapes only, without numbers
        said = {k: config[k] for k in ("num_classes", "global_pool") if config.get(k) is not None}
        try:
            theirs = timm.create_model(name, **said | (config.get("model_args") or {}))
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            raise WeightsError(
                f"timm {timm.__version__} cannot build {name!r}, which config.json names ({error}). Perhaps a newer timm can."
            ) from error
    return settings_of(theirs)
