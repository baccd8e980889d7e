"""`load`: a trained model by its name, from the package, a file, the cache or the network."""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from vit_edu import data, settings
from vit_edu.models.saved import CheckpointError, load_run
from vit_edu.pretrained import files, preprocessing
from vit_edu.pretrained.config import config_settings, require_pooling, require_same_sizes, settings_of
from vit_edu.pretrained.conversion import convert, from_model
from vit_edu.pretrained.names import WeightsError
from vit_edu.pretrained.shipped import SHIPPED, about_data, read_weights

HUB = "https://huggingface.co"
REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"  # owner/name
HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in this order


def load(name="vit-cifar10", img_size=None, num_classes=None):
    """A trained model in eval mode, in float32, on the CPU.

    name, one of
        "vit-cifar10"                           weights that come with the course; no network is needed
        "torchvision/vit_b_16"                  torchvision's enum, its default; or "torchvision/vit_b_16/NAME"
        "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "facebook/deit-tiny-patch16-224"     a repository of the
                                                Hugging Face Hub with a ViT of timm or transformers
        "folder/weights.npz"                    a file (.safetensors, .pt, .pth, .bin, .npz) of any family. A config.json and a
                                                preprocessor_config.json beside it are read. Also their folder
        "runs/first"                            a run of `training.fit`
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
    path, about = Path(name).expanduser(), About()
    if (SHIPPED / f"{name}.safetensors").exists():
        return _changed(read_weights(SHIPPED / f"{name}.safetensors"), img_size, num_classes)
    if (
        path.is_dir() and not (path / "checkpoint.pt").exists()
    ):  # of `save_pretrained`, or a copy of a repository
        path = next((path / n for n in HUB_WEIGHTS if (path / n).exists()), path)
    if path.is_dir() or path.name == "checkpoint.pt":
        return _changed(_run(path), img_size, num_classes)
    if path.suffix in files.SUFFIXES:
        if files.is_ours(path):
            return _changed(read_weights(path), img_size, num_classes)
        weights = files.read_whole(path)
        about = _beside(path)
    elif str(name).startswith("torchvision/"):
        path, about = _torchvision(name)
        weights = files.read(path)
    elif re.fullmatch(REPOSITORY, str(name)):
        path, about = _hub(name)
        weights = files.read_whole(path)
    else:
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors")))
        raise WeightsError(
            f"no weights called {str(name)!r} come with the course, and there is no such folder; there are: {known}. Others are named "
            "like torchvision/vit_b_16, timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k or folder/weights.safetensors."
        )
    # Tensors from a .safetensors file are in the file itself until they are copied
    converted = convert(weights, copy=path.suffix == ".safetensors", **about.arguments)
    del weights
    require_same_sizes(converted.arguments, about.config)
    if about.published:
        converted = replace(converted, guesses={})
    cfg = about.cfg
    if converted.family == "jax":
        cfg = preprocessing.of_jax(*converted.arguments["img_size"])
    size = img_size or _size_of_preprocessing(cfg, converted.arguments)
    model = converted.model(size, num_classes)
    model.pretrained_cfg["notes"][:0] = about.notes
    if not converted.arguments["num_classes"]:  # config.json of transformers may name classes all the same
        cfg = cfg | {"classes": ()}
        if num_classes is None:
            model.pretrained_cfg["notes"].append(
                f"The weights have no head, so there are no classes: the model returns {converted.arguments['embed_dim']} numbers for "
                "each picture."
            )
    if not cfg.get("classes") and converted.arguments["num_classes"] == 1000:
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
        raise WeightsError(
            f"a {type(model).__name__} can only be loaded unchanged: leave out img_size and num_classes."
        )
    return _with(from_model(model, img_size, num_classes, copy=False), cfg, img_size, num_classes)


def _run(path):
    try:
        model, state = load_run(path)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    model.pretrained_cfg = about_data(state["data"]) | {"model": state["recipe"]["model"]}
    if state["recipe"]["task"] != "classification":  # its outputs are not the classes of its data
        model.pretrained_cfg["classes"] = ()
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
    size = weights.meta.get("_file_size", 0)
    return _fetched(weights.url, target, digest, f"{size:,.0f} MB")


def _fetched(url, target, digest, size=""):
    """`files.fetch` if the network answers, or else a WeightsError that says how to do without it."""
    otherwise = f" If there is no network here, download {url}{f' ({size})' if size else ''} elsewhere and put it at {target}."
    if not target.exists():
        _require_network(url, otherwise)
    return files.fetch(url, target, digest, otherwise)


def _require_network(url, otherwise):
    if settings.fast():
        raise WeightsError(f"VIT_EDU_FAST=1 asks for no download.{otherwise}")
    try:
        data.require_network(url, again=True)  # it was asked for by name, so try each time
    except data.DataError as error:
        raise WeightsError(f"{error}{otherwise}") from error


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
    config = read_config(_hub_file(repo, "config.json"))
    said = None if "architecture" in config else _preprocessor(repo)
    about = _described(config, said and read_config(said))
    weights = next((p for name in HUB_WEIGHTS if (p := _cached(repo, name))), None)
    weights = weights or _hub_file(repo, HUB_WEIGHTS[0], optional=True)
    return weights or _hub_file(repo, HUB_WEIGHTS[1]), about


def _described(config, processor, notes=()):
    """The contents of config.json and of preprocessor_config.json, None if there is none -> `About`."""
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
    return About(arguments, cfg, notes, config)


def _beside(path):
    """What config.json and preprocessor_config.json beside a file of weights say about it."""
    config, processor = path.with_name("config.json"), path.with_name("preprocessor_config.json")
    said = read_config(processor) if processor.is_file() else None
    if not config.is_file():
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
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as JSON ({error}). Remove it, and get it again from where the weights come from."
        ) from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds {type(found).__name__} in JSON; expected an object with settings.")
    return found


def _preprocessor(repo):
    """preprocessor_config.json, or None if there is none, or if only the weights are here and there is no network."""
    try:
        return _hub_file(repo, "preprocessor_config.json", optional=True)
    except WeightsError:
        if any(_cached(repo, name) for name in HUB_WEIGHTS):
            return None
        raise


# timm's architectures that their state dict describes fully: 64 numbers per head, exact GELU, epsilon 1e-6
TIMM_PLAIN = r"(vit|deit3?)_(tiny|small|medium|base|large|huge)(_distilled)?_patch\d+(_reg4)?_(\d+|dinov2)"


def timm_settings(config):
    """What no state dict says, from timm if it is installed. Without timm, this works for the plain architectures only."""
    name = config["architecture"]
    try:
        import timm
    except ImportError:
        if re.fullmatch(TIMM_PLAIN, name):
            pool = config.get("global_pool")
            return {"global_pool": None if pool is None else require_pooling(pool)}
        raise WeightsError(
            f"only timm knows how {name} computes: pip install timm, and load again."
        ) from None
    with torch.device("meta"):  # the shapes only, without numbers
        said = {k: config[k] for k in ("num_classes", "global_pool") if config.get(k) is not None}
        theirs = timm.create_model(name, **said | config.get("model_args", {}))
    return settings_of(theirs)


def _cached(repo, filename):
    """A file of a repository in our cache or in the Hub's own, or None if it is in neither."""
    target = files.cache_dir() / "hub" / repo.replace("/", "--") / filename
    if target.exists():
        return target
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    theirs = try_to_load_from_cache(repo, filename)
    return Path(theirs) if isinstance(theirs, str) else None


def _hub_file(repo, filename, optional=False):
    """One file of a repository on the Hub, or None if it is `optional` and not there."""
    if found := _cached(repo, filename):
        return found
    target = files.cache_dir() / "hub" / repo.replace("/", "--") / filename
    by_hand = f" If there is no network here, download {HUB}/{repo}/resolve/main/{filename} elsewhere and put it at {target}."
    try:
        import huggingface_hub as hub
    except ImportError:
        raise WeightsError(
            f"{repo} is a repository of the Hugging Face Hub: pip install huggingface_hub, and load again.{by_hand}"
        ) from None
    _require_network(hub.constants.ENDPOINT, by_hand)
    try:
        about = hub.get_hf_file_metadata(hub.hf_hub_url(repo, filename), timeout=data.network.PROBE_SECONDS)
    except hub.errors.EntryNotFoundError:
        if optional:
            return None
        raise WeightsError(f"the repository {repo} has no {filename}.") from None
    except hub.errors.RepositoryNotFoundError:
        raise WeightsError(f"the Hub has no public repository {repo}. Check the name.") from None
    except Exception as error:  # its HTTP library has its own errors
        raise WeightsError(f"the Hub could not be asked for {repo} ({error}).{by_hand}") from error
    # Large files have their SHA-256 here. The others have git's kind of digest, and are read as JSON right away
    digest = about.etag if about.etag and len(about.etag) == 64 else ""
    return _fetched(about.location, target, digest)
