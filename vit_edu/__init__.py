"""vit_edu: the package behind the course. A person builds a Vision Transformer; this is what they build on.

Everything is imported on first use, so that `import vit_edu` costs next to nothing.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["check", "data", "inspect", "models", "plot", "pretrained", "settings", "training", "transfer"]


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f"vit_edu.{name}")
    raise AttributeError(f"module 'vit_edu' has no attribute {name!r}; it has {', '.join(__all__)}")
