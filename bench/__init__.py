"""adversarial-bench: how accurate is a classifier when an attacker may move each input by eps?

`bench.evaluate(model, ...)` from Python, `bench run` from a shell. Importing this package does not
import torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import Run, evaluate
    from bench.matrix import TransferMatrix, transfer_matrix

__all__ = ["Run", "TransferMatrix", "__version__", "evaluate", "transfer_matrix"]

try:
    __version__ = version("adversarial-bench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def _refuse_shadowed() -> None:
    """Our other packages are top-level names too: one of the user's own that hides them is named
    here.
    """
    root = Path(__file__).resolve().parent.parent
    for name in ("models", "attacks", "defenses"):
        spec = importlib.util.find_spec(name)
        place = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if place is None or place.parent.parent != root:
            raise ImportError(
                f"adversarial-bench needs its own package {name!r}, but here it means "
                f"{place or 'a folder'}; rename that one, or start from another folder and name "
                "your model as path/to/file.py:factory"
            )


_refuse_shadowed()


_HOMES = {
    "Run": "bench.api",
    "evaluate": "bench.api",
    "TransferMatrix": "bench.matrix",
    "transfer_matrix": "bench.matrix",
}
"""What is imported, with torch, when it is asked for."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
