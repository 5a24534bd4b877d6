"""Constructed training sets as files: how one is built into a folder, and the dataset that a folder
is read as.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import __version__, data
from bench.data import Dataset
from bench.errors import DataError, RequestError, StoreError
from bench.report.write import place
from bench.spec import valid
from defenses import constructed
from defenses.constructed import Construction
from defenses.workshop import Workshop
from models import checkpoint
from models.registry import canonical
from models.split import Split
from models.train import accuracy

MANIFEST, DATA, PARTS = "manifest.json", "data.safetensors", "parts"
FORMAT = 1
_FACTS = ("format", "kind", "images", "key", "dataset", "data")


@dataclass(frozen=True)
class Constructed:
    """A training set that `bench features build` made (Ilyas et al. 2019, arXiv:1905.02175).

    path: its folder, with manifest.json and data.safetensors. Train are the constructed images
    alone, float32 as they were made; validation, test images, classes and radii are those of the
    dataset it was made of, which the manifest names and which is read, too, and refused when it is
    another one. No validation image was constructed, nor is one trained on.
    """

    path: str

    def load(self, root: Path | None) -> Dataset:
        """The dataset; root is where the one it was made of is kept."""
        folder = Path(self.path)
        manifest = read_manifest(folder)
        told = manifest["dataset"]
        base = data.load(told["spec"], root)
        if base.fingerprint != told["fingerprint"]:
            raise DataError(
                f"{folder} was made of {told['spec']} with fingerprint {told['fingerprint']}, the "
                f"one here has {base.fingerprint}"
            )
        train = _read_data(folder, manifest, base)
        parts = {"base": base.fingerprint, "data": manifest["data"]["digest"]}
        return replace(
            base,
            name=f"{base.name}:{folder.resolve().name}",
            fingerprint=checkpoint.key(canonical(parts)),
            train=train,
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; refuses one that is missing or does not say what it must."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder} must hold {MANIFEST}, as `bench features build` writes it")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise DataError(f"{path} is no manifest ({' '.join(str(err).split())})") from err
    told = manifest if isinstance(manifest, dict) else {}
    missing = [name for name in _FACTS if name not in told]
    if missing or told["format"] != FORMAT:
        got = f"none of {', '.join(missing)}" if missing else f"format {told['format']!r}"
        raise DataError(f"{path} must be a manifest of format {FORMAT}, got {got}")
    for name, keys in (("dataset", ("spec", "fingerprint")), ("data", ("file", "digest"))):
        inner = told[name]
        if not isinstance(inner, dict) or not all(isinstance(inner.get(k), str) for k in keys):
            raise DataError(f"{path}: {name} must name {' and '.join(keys)}, got {inner!r}")
    return told


def _read_data(folder: Path, manifest: Mapping[str, Any], base: Dataset) -> Split:
    """The constructed images; refuses a file that the manifest does not fit."""
    path = folder / DATA
    try:
        tensors, _ = checkpoint.read(path)
    except checkpoint.CorruptWeights as err:
        raise DataError(" ".join(str(err).split())) from err
    got = checkpoint.digest(tensors)
    if got != manifest["data"]["digest"]:
        wanted = manifest["data"]["digest"]
        raise DataError(f"{path} has digest {got}, its manifest says {wanted}")
    if set(tensors) != set(constructed.KEYS):
        raise DataError(f"{path} must hold {', '.join(constructed.KEYS)}, got {sorted(tensors)}")
    x, y, count = tensors["x"], tensors["y"], manifest["images"]
    if len(x) != count or len(y) != count:
        raise DataError(f"{path} holds {len(x)} images, its manifest says {count}")
    _check_images(path, x, y, base)
    return Split(x, y)


def _check_images(path: Path, x: Tensor, y: Tensor, base: Dataset) -> None:
    if tuple(x.shape[1:]) != base.shape or x.dtype != torch.float32:
        got = f"{x.dtype} {tuple(x.shape[1:])}"
        raise DataError(f"{path} must hold float32 images {base.shape} as {base.name}, got {got}")
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise DataError(f"{path} must hold images in [0, 1]")
    if y.dtype != torch.int64 or not bool(((y >= 0) & (y < base.classes)).all()):
        raise DataError(f"{path} must hold labels from 0 to {base.classes - 1}")


@dataclass(frozen=True)
class Origin:
    """What a set is constructed of: a dataset, and a source net as model and defense name it."""

    dataset: Dataset
    model: str
    defense: str
    net: nn.Module


def build(
    recipe: Construction, origin: Origin, workshop: Workshop, out: Path, command: str
) -> dict[str, Any]:
    """Builds a set into a folder, goes on where an interrupted build stopped, or finds it done;
    returns the manifest. Refuses a folder with another set.
    """
    key = constructed.key(recipe, origin.net, workshop)
    if (out / MANIFEST).is_file():
        manifest = read_manifest(out)
        if manifest["key"] != key:
            raise RequestError(f"{out} holds another set ({manifest['kind']}); name another --out")
        return manifest
    _probe(out)

    def part(number: int) -> checkpoint.Partial:
        return checkpoint.Partial(out / PARTS / f"{number:05d}.safetensors")

    tensors = valid(lambda _: constructed.build(recipe, origin.net, workshop, part), "")
    manifest = {"key": key, "command": command} | manifest_of(recipe, origin, tensors)
    try:
        checkpoint.write(out / DATA, tensors, {"key": key})
    except OSError as err:
        raise StoreError(f"{out / DATA} cannot be written ({err.strerror})") from err
    text = json.dumps(manifest, indent=2, ensure_ascii=True) + "\n"
    place(out / MANIFEST, text.encode("utf-8"))
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return manifest


def _probe(out: Path) -> None:
    """Refuses a folder that nothing can be written to, before any work."""
    try:
        (out / PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StoreError(f"{out} cannot be written ({err.strerror})") from err


def manifest_of(
    recipe: Construction, origin: Origin, tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """What the file is and how it was made, as plain values."""
    dataset = origin.dataset
    split = Split(tensors["x"], tensors["y"])
    reached = accuracy(origin.net, split) if recipe.is_targeted else None
    return {
        "format": FORMAT,
        "kind": recipe.kind,
        "objective": recipe.text,
        "norm": recipe.norm,
        "eps": recipe.eps,
        "steps": recipe.steps,
        "alpha": recipe.step,
        "start": recipe.start,
        "seed": recipe.seed,
        "images": len(tensors["y"]),
        "loss_start": _summary(tensors["loss_start"]),
        "loss": _summary(tensors["loss"]),
        "target_reached": reached,
        "source": {
            "model": origin.model,
            "defense": origin.defense,
            "weights": checkpoint.digest(origin.net.state_dict()),
        },
        "dataset": {
            "spec": dataset.spec,
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "classes": dataset.classes,
            "shape": list(dataset.shape),
        },
        "data": {"file": DATA, "digest": checkpoint.digest(tensors)},
        "version": __version__,
        "torch": torch.__version__,
    }


def _summary(losses: Tensor) -> dict[str, float]:
    values = losses.double()
    return {"mean": float(values.mean()), "median": float(values.median())}
