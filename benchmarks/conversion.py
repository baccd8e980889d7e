"""What a conversion costs, against the original's own load_state_dict: `python benchmarks/conversion.py`.

It converts a ViT-B/16 of torchvision, timm and transformers into ours. Both sides get a state dict in memory.

Time: "into a model" copies into an existing model on both sides, and ours includes `convert`. For "a new model", ours is
`convert(...).model()`, and theirs builds a model with random weights and then loads. The two take turns, and the fastest
round of each counts.

Memory: the largest resident size of a fresh process that holds the state dict, converts it and has the model, minus that of
the same process before it had the state dict, as a multiple of the weights' bytes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

try:
    from benchmarks import measure
except ImportError:  # run as a program, with this folder on the path
    import measure

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torchvision", "timm", "transformers")


def make(library):
    """A ViT-B/16 as the library builds it."""
    if library == "torchvision":
        from torchvision.models import vit_b_16

        return vit_b_16()
    if library == "timm":
        import timm

        return timm.create_model("vit_base_patch16_224")
    import transformers

    return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))


def times(library, rounds):
    """Seconds {"into a model": (theirs, ours), "a new model": (theirs, ours)}, the fastest of `rounds`."""
    from vit_edu import pretrained

    theirs = make(library)
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    ours = pretrained.from_model(theirs)

    def into_ours():
        pretrained.convert(state).load_into(ours)

    def new_theirs():
        make(library).load_state_dict(state)

    pairs = {
        "into a model": (lambda: theirs.load_state_dict(state), into_ours),
        "a new model": (new_theirs, lambda: pretrained.convert(state).model()),
    }
    found = {}
    for name, pair in pairs.items():
        turns = measure.in_turn(dict(zip(("theirs", "ours"), pair, strict=True)), rounds)
        found[name] = (min(turns["theirs"]), min(turns["ours"]))
    return found


def resident():
    """The bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def write(library, path):
    """Write random weights to a file, under the library's names. Runs in a separate process."""
    from safetensors.torch import save_file

    with torch.device("meta"):
        names = {k: v.shape for k, v in make(library).state_dict().items()}
    save_file({k: torch.rand(shape) for k, shape in names.items()}, path)


def peak(library, kind):
    """Print the peak memory divided by the weights' bytes, for `main`. kind: "state dict" or "file"."""
    from vit_edu import pretrained
    from vit_edu.models import ViT

    # This imports the library, without numbers, so that no freed memory is reused below
    with torch.device("meta"):
        names = {k: v.shape for k, v in make(library).state_dict().items()}
    size = sum(4 * shape.numel() for shape in names.values())
    highest, stop = [0], threading.Event()

    def watch():
        while not stop.is_set():
            highest[0] = max(highest[0], resident())
            time.sleep(0.001)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        if kind == "file":
            code = "import sys; from benchmarks.conversion import write; write(*sys.argv[1:])"
            subprocess.run([sys.executable, "-c", code, library, path], check=True, cwd=ROOT)
        # So that what is imported late is already there
        pretrained.convert(ViT(embed_dim=64, num_heads=1).state_dict()).model()
        before = resident()
        thread = threading.Thread(target=watch)
        thread.start()
        if kind == "file":
            model = pretrained.load(path)
        else:
            state = {k: torch.rand(shape) for k, shape in names.items()}
            model = pretrained.convert(state).model()
        stop.set()
        thread.join()
    del model
    print((highest[0] - before) / size)


def main(argv=None):
    parser = measure.parser(__doc__, rounds=9)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.peak:
        return peak(*args.peak)
    packages = ("torchvision", "timm", "transformers", "safetensors")
    line = measure.conditions("conversion", argv, "cpu", packages)
    speed, memory = [], []
    for library in args.libraries:
        for name, (theirs, ours) in times(library, args.rounds).items():
            pair = (f"{1000 * theirs:.0f}", f"{1000 * ours:.0f}", f"**{ours / theirs:.2f}**")
            speed.append((library, name, *pair))
        peaks = []
        for kind in ("state dict", "file"):
            command = [sys.executable, __file__, "--peak", library, kind]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            peaks.append(f"{float(said.split()[-1]):.2f}")
        memory.append((library, *peaks))
    head = ("weights of", "", "theirs, ms", "ours, ms", "ours / theirs")
    text = (
        f"{measure.table(head, speed)}\n\nPeak memory, as a multiple of the weights' bytes:\n\n"
        f"{measure.table(('weights of', 'from a state dict', 'from a file'), memory)}\n\n"
        f"The fastest of {args.rounds} rounds, taken in turn.\n\n{line}"
    )
    measure.write(args.out, "conversion", "ViT-B/16, float32", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
