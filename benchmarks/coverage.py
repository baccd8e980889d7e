"""How many of timm's `vit_*` and `deit*` models we load as the same function: `python benchmarks/coverage.py`.

Each architecture is built in its published width with two blocks, for images of 4 x 4 patches (and the rest of pixels that the
published size leaves), with random numbers in every tensor, in float32, and taken over three ways:

    model    as `from_model` does it, which reads what the module shows
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
same thing are computed once and counted each. Nothing is downloaded. What has more than `--largest` parameters
with two blocks is not computed but counted as "too large".
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
RANDOM = torch.randn(2**22 + 7, generator=torch.Generator().manual_seed(0))  # shared: drawing takes longest


def listed(pretrained=False):
    """timm's names (or name.tag, for published weights) of vit_* and deit*."""
    return [n for n in timm.list_models(pretrained=pretrained) if n.startswith(("vit_", "deit"))]


def shaped(name):
    """(The architecture on the meta device, the arguments with which timm builds it with two blocks and for few patches).

    The arguments are None where it has all its blocks. An image has 4 x 4 patches, and the same rest as the published size.
    """
    with torch.device("meta"):
        try:
            model = timm.create_model(name, pretrained=False, depth=2)
        except AssertionError:  # one of its settings is a list with an entry for each block
            return timm.create_model(name, pretrained=False), None
        patch = getattr(model.patch_embed, "patch_size", None)
        if type(model.patch_embed) is not timm.layers.PatchEmbed:
            return model, {"depth": 2}
        size = tuple(4 * p + s % p for p, s in zip(patch, model.patch_embed.img_size, strict=True))
        return timm.create_model(name, pretrained=False, depth=2, img_size=size), {
            "depth": 2,
            "img_size": size,
        }


def filled(model, name, arguments):
    """The same with random numbers everywhere, so that no part of it can be left out unseen."""
    if any(True for _ in model.buffers()):  # computed while it is built
        model = timm.create_model(name, pretrained=False, **arguments)
    model = model.to_empty(device="cpu") if next(model.parameters()).is_meta else model
    at = 0
    with torch.no_grad():
        for key, p in model.named_parameters():
            at = (at + 7919 * 31) % len(RANDOM)
            numbers = RANDOM[at : at + p.numel()]
            if len(numbers) < p.numel():
                numbers = torch.cat([numbers, RANDOM.repeat(p.numel() // len(RANDOM) + 1)])[: p.numel()]
            p.copy_(numbers.view(p.shape))
            if p.ndim > 1 and key.endswith("weight"):
                p.mul_(1.5 * p[0].numel() ** -0.5)
            else:
                p.mul_(0.3).add_(1.0 if re.search(r"norm.*weight|gamma", key) else 0.0)
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
    cfg = dict(theirs.pretrained_cfg)
    size = getattr(theirs.patch_embed, "img_size", None) or cfg["input_size"][1:]
    about = {"architecture": cfg["architecture"], "num_classes": theirs.num_classes}
    about["model_args"] = {"depth": len(theirs.blocks), "img_size": tuple(size)}
    if getattr(theirs, "global_pool", None) is not None:
        about["global_pool"] = theirs.global_pool
    return about | {"pretrained_cfg": cfg | {"input_size": (cfg["input_size"][0], *size)}}


def taken_over(theirs, way):
    """Their weights as ours, not yet in a model."""
    if way == "model":
        arguments = settings_of(theirs)  # as `from_model` does
    else:
        arguments = loading._described(config_of(theirs), None).arguments if way == "config" else {}
    return pretrained.convert(theirs.state_dict(), copy=False, **arguments)


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


def outcome(theirs, way, output, images, known):
    """(a word of the list above, the reason or ""). known: [(what a model is, its difference)], so that none is computed twice."""
    try:
        converted = taken_over(theirs, way)
        what = (converted.arguments, converted.norm_eps, converted.gelu)
        relative = next((found for other, found in known if other == what), None)
        if relative is None:
            ours = converted.model()
            fits = tuple(images.shape[2:]) == ours.patch_embed.img_size  # ours refuses others
            relative = difference(ours, output, images) if fits else float("inf")
            known.append((what, relative))
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
    theirs, arguments = shaped(name)
    if arguments is None or sum(p.numel() for p in theirs.parameters()) > largest:
        return {way: without_numbers(theirs, way) for way in WAYS}
    theirs = filled(theirs, name, arguments)
    size = theirs.pretrained_cfg["input_size"]
    size = (size[0], *(getattr(theirs.patch_embed, "img_size", None) or size[1:]))
    images = torch.randn(1, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = theirs(images)
    known = []
    return {way: outcome(theirs, way, output, images, known) for way in WAYS}


def without_numbers(theirs, way):
    """For what is too large to be computed: whether it is refused."""
    try:
        with torch.device("meta"):
            taken_over(theirs, way).model()
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
