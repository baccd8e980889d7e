"""How many of timm's `vit_*` and `deit*` models we load as the same function: `python benchmarks/coverage.py`.

Each architecture is built with two blocks and random numbers in every tensor, in float32, and taken over three ways:

    model    `from_model`, which reads what the module shows
    config   as `load` does it: the state dict, and the config.json that timm puts beside its weights
    bare     the state dict alone, so that heads, epsilon, activation and pooling are guesses

The outputs for one random image are compared. What can come out:

    parity        they differ by at most 1e-5 of the largest output
    refused       a WeightsError; the reasons are counted
    said          only for bare: they differ, and with the true values of what `notes` calls a guess there is parity (or the guess
                  is the order of the norms, and theirs is timm's ResPostBlock)
    wrong         anything else that differs: silently wrong
    raises        any other error

A tag is an architecture with its published settings (number of classes, image size, pooling). Tags and names that build the
same thing are computed once and counted each. Nothing is downloaded. It needs about 4 GB of memory; what has more than
`--largest` parameters with two blocks is not computed but counted as "too large".
"""

import argparse
import collections
import re
import time
import warnings

import timm
import torch

from vit_edu import pretrained
from vit_edu.pretrained import loading
from vit_edu.pretrained.config import settings_of

WAYS = ("model", "config", "bare")
TOLERANCE = 1e-5  # of the largest output, float32


def listed(pretrained=False):
    """timm's names (or name.tag, for published weights) of vit_* and deit*."""
    return [n for n in timm.list_models(pretrained=pretrained) if n.startswith(("vit_", "deit"))]


def shaped(name):
    """The architecture on the meta device, (it, whether it has two blocks only)."""
    with torch.device("meta"):
        try:
            return timm.create_model(name, pretrained=False, depth=2), True
        except AssertionError:  # one of its settings is a list with an entry for each block
            return timm.create_model(name, pretrained=False), False


def filled(model, name):
    """The same with random numbers everywhere, so that no part of it can be left out unseen."""
    if any(True for _ in model.buffers()):  # computed while it is built
        model = timm.create_model(name, pretrained=False, depth=2)
    model = model.to_empty(device="cpu") if next(model.parameters()).is_meta else model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.ndim > 1 and key.endswith("weight"):
                p.normal_(std=1.5 * p[0].numel() ** -0.5, generator=generator)
            else:
                p.normal_(
                    mean=1.0 if re.search(r"norm.*weight|gamma", key) else 0.0, std=0.3, generator=generator
                )
    return model.eval()


@torch.no_grad()
def difference(ours, theirs, images):
    """The largest difference of the outputs, relative to the largest of theirs. Infinite for other shapes."""
    a, b = ours(images), theirs
    if a.shape != b.shape:
        return float("inf")
    return ((a - b).abs().max() / b.abs().max()).item()


def config_of(theirs):
    """What timm writes into config.json beside these weights."""
    cfg = theirs.pretrained_cfg
    about = {
        "architecture": cfg["architecture"],
        "num_classes": theirs.num_classes,
        "model_args": {"depth": len(theirs.blocks)},
    }
    if getattr(theirs, "global_pool", None) is not None:
        about["global_pool"] = theirs.global_pool
    return about | {"pretrained_cfg": cfg}


def taken_over(theirs, way):
    """Our model of theirs, and the `Converted` that it was made of where there is one."""
    if way == "model":
        return pretrained.from_model(theirs, copy=False), None
    arguments = loading._described(config_of(theirs), None).arguments if way == "config" else {}
    converted = pretrained.convert(theirs.state_dict(), copy=False, **arguments)
    return converted.model(), converted


def told(theirs, converted, output, images):
    """Whether the guesses that `converted` admits are all that is wrong with it."""
    if "order" in converted.guesses and {type(b).__name__ for b in theirs.blocks} == {"ResPostBlock"}:
        return True
    try:
        truth = {k: v for k, v in settings_of(theirs).items() if k in converted.guesses}
        ours = pretrained.convert(theirs.state_dict(), copy=False, **truth).model()
    except pretrained.WeightsError:
        return False
    return difference(ours, output, images) <= TOLERANCE


def outcome(theirs, way, output, images):
    """(a word of the list above, the reason or "")."""
    try:
        ours, converted = taken_over(theirs, way)
        if tuple(images.shape[2:]) != ours.patch_embed.img_size:
            relative = float("inf")  # ours refuses these images
        else:
            relative = difference(ours, output, images)
    except pretrained.WeightsError as error:
        return "refused", str(error)
    except Exception as error:
        return "raises", f"{type(error).__name__}: {error}"
    if relative <= TOLERANCE:
        return "parity", ""
    if way == "bare" and told(theirs, converted, output, images):
        return "said", ", ".join(converted.guesses)
    return "wrong", f"relative difference {relative:.1e}"


def examined(name, largest):
    """{way: (word, reason)} for one architecture."""
    theirs, is_cut = shaped(name)
    if not is_cut or sum(p.numel() for p in theirs.parameters()) > largest:
        return {way: without_numbers(theirs, way) for way in WAYS}
    theirs = filled(theirs, name)
    size = theirs.pretrained_cfg["input_size"]
    size = (size[0], *(getattr(theirs.patch_embed, "img_size", None) or size[1:]))
    images = torch.randn(1, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = theirs(images)
    return {way: outcome(theirs, way, output, images) for way in WAYS}


def without_numbers(theirs, way):
    """For what is too large to be computed: whether it is refused."""
    try:
        with torch.device("meta"):
            taken_over(theirs, way)
    except pretrained.WeightsError as error:
        return "refused", str(error)
    return "too large", ""


def same(name):
    """What decides how an architecture is built, for names and tags that need not be computed twice."""
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        return name
    return (cfg.architecture, cfg.num_classes, cfg.input_size, cfg.fixed_input_size)


def shortened(reason):
    """A reason in one line without its numbers, so that equal reasons are counted together."""
    return re.sub(r"\d+(\.\d+)?", "N", " ".join(reason.split()))[:150]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="a regular expression: only names in which it is found")
    parser.add_argument(
        "--largest", type=float, default=1e9, help="parameters with two blocks (default: 1e9)"
    )
    parser.add_argument("--each", action="store_true", help="print a line for each name")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    found, start = {}, time.perf_counter()
    counts = {kind: {way: collections.Counter() for way in WAYS} for kind in ("names", "tags")}
    reasons, totals = collections.Counter(), {}
    for kind, names in (("names", listed()), ("tags", listed(pretrained=True))):
        names = [n for n in names if re.search(args.only, n)]
        totals[kind] = len(names)
        for name in names:
            if (key := same(name)) not in found:
                found[key] = examined(name, args.largest)
                if args.each:
                    words = ", ".join(f"{way} {word}" for way, (word, _) in found[key].items())
                    print(f"{name}: {words}", flush=True)
            for way, (word, reason) in found[key].items():
                counts[kind][way][word] += 1
                if reason and kind == "names":
                    reasons[f"{way} {word}: {shortened(reason)}"] += 1
    for kind, ways in counts.items():
        print(f"\n{totals[kind]} {kind}")
        for way, words in ways.items():
            print(f"  {way:7} " + ", ".join(f"{word} {n}" for word, n in words.most_common()))
    print("\nReasons, by names")
    for reason, n in sorted(reasons.items()):
        print(f"  {n:3}  {reason}")
    print(
        f"\n{len(found)} built, {time.perf_counter() - start:.0f} s, torch {torch.__version__}, timm {timm.__version__}"
    )
    return counts


if __name__ == "__main__":
    main()
