"""What this installation is and finds: for `bench doctor` and for reports of faults."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from bench import __version__
from bench.data import dataset_of
from bench.datasets import datasets
from bench.devices import threads
from bench.errors import DataError
from bench.sources import data_root as root_of
from models.checkpoint import cache_folder

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "statsmodels",
    "safetensors",
)


def findings(data_root: Path | None) -> list[tuple[str, str]]:
    """Facts as (what, value)."""
    facts = [
        ("adversarial-bench", __version__),
        ("python", platform.python_version()),
        ("platform", platform.platform()),
    ]
    facts += [(name, _version(name)) for name in _PACKAGES]
    facts.append(("devices", ", ".join(_devices())))
    waiting = os.environ.get("OMP_WAIT_POLICY", "unset")
    facts.append(
        (
            "threads",
            f"{threads()} of {os.cpu_count()} cores, OMP_WAIT_POLICY={waiting}",
        )
    )
    root = root_of(data_root)
    facts.append(("data root", str(root)))
    facts += [
        (f"dataset {name}", _dataset(name, root))
        for name in ("digits", "mnist", "fashion_mnist", "cifar10")
    ]
    weights = cache_folder() / "weights"
    facts.append(("weights cache", f"{weights} ({len(list(weights.glob('*.safetensors')))} files)"))
    facts.append(("shadowed packages", ", ".join(_shadowed()) or "none"))
    return facts


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [
            f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
        ]
    return found


def _dataset(name: str, root: Path) -> str:
    """The size of a dataset that is there; nothing is downloaded."""
    if not datasets.get(name).is_there(root):
        return f"not under {root}; bench run downloads it there"
    try:
        dataset = dataset_of(name, root)
    except DataError as err:
        return str(err)
    train = 0 if dataset.train is None else len(dataset.train) + len(dataset.validation or ())
    return (
        f"{train} training and {len(dataset.test)} test images, fingerprint {dataset.fingerprint}"
    )


def _shadowed() -> list[str]:
    """Our top-level names for which the working directory holds something else."""
    ours = Path(__file__).resolve().parent.parent
    here = Path.cwd().resolve()
    names = ("bench", "attacks", "defenses", "models")
    return [
        f"{name} (here: {here / name}; ours: {importlib.util.find_spec(name).origin})"  # type: ignore[union-attr]
        for name in names
        if here != ours and ((here / name).is_dir() or (here / f"{name}.py").is_file())
    ]
