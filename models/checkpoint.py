"""The only reader and writer of weights: safetensors with a digest that is checked, and a
content-addressed cache.

Nothing is unpickled: a `.pt` or `.pth` file of the user's is read with `weights_only=True`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Weights = Mapping[str, Tensor]


class CorruptWeights(ValueError):
    """A weights file that cannot be read or does not hold what its digest says."""


def digest(weights: Weights) -> str:
    """Hex digest (32 letters) of names, types, shapes and values; where the tensors live does not
    matter.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        hasher.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        hasher.update(
            tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        )
    return hasher.hexdigest()


def key(made_of: str) -> str:
    """The cache key (32 letters) of a canonical text that says what weights are made of."""
    return hashlib.blake2b(made_of.encode(), digest_size=16).hexdigest()


def write(path: Path, weights: Weights, facts: Mapping[str, Any]) -> None:
    """Writes safetensors with the facts (plain values) and the digests of both in the header; whole
    or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    text = json.dumps(facts, sort_keys=True)
    header = {"digest": digest(tensors), "facts": text, "facts_digest": key(text)}
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=header)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and facts of a file that `write` made; raises CorruptWeights when a digest does not
    fit.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (OSError, safetensors.SafetensorError) as err:
        raise CorruptWeights(f"{path} is not a readable safetensors file ({err})") from err
    text = header.get("facts", "")
    if (header.get("digest"), header.get("facts_digest")) != (digest(weights), key(text)):
        raise CorruptWeights(f"{path} does not hold what its digests say")
    return weights, json.loads(text)


def load_into(net: nn.Module, path: Path) -> None:
    """Loads a user's weights (safetensors, or a .pt/.pth state dict) into a net; every name and
    shape must fit.
    """
    try:
        if path.suffix in {".pt", ".pth"}:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        else:
            with safetensors.safe_open(path, framework="pt") as file:
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        net.load_state_dict(weights)
    except Exception as err:
        reason = str(err).strip().splitlines()
        raise ValueError(
            f"weights {path.name} do not load into {type(net).__name__}: {' '.join(reason)[:300]}"
        ) from err


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/adversarial-bench, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adversarial-bench"


@dataclass(frozen=True)
class Partial:
    """A training that is not over yet: its state after the last epoch (see models.state)."""

    path: Path

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts, or None; a corrupt file counts for nothing."""
        try:
            return read(self.path) if self.path.is_file() else None
        except CorruptWeights:
            return None

    def write(self, tensors: Weights, facts: Mapping[str, Any]) -> None:
        """Replaces the state. A folder that cannot be written costs the way back, nothing else."""
        with contextlib.suppress(OSError):
            write(self.path, tensors, facts)

    def drop(self) -> None:
        """Forgets it."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Cache:
    """Trained weights by the digest of what made them."""

    folder: Path

    def path(self, key: str) -> Path:
        """Where the weights of a key lie."""
        return self.folder / "weights" / f"{key}.safetensors"

    def partial(self, key: str) -> Partial:
        """The unfinished training of a key."""
        return Partial(self.folder / "unfinished" / f"{key}.safetensors")

    def get(self, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Weights and facts, or None; a corrupt file is dropped with a warning."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            return read(path)
        except CorruptWeights as err:
            warnings.warn(
                f"cached weights are corrupt and will be trained again: {err}", stacklevel=2
            )
            path.unlink(missing_ok=True)
            return None

    def put(self, key: str, weights: Weights, facts: Mapping[str, Any]) -> None:
        """Keeps weights; readers see the whole file or none. A folder that cannot be written costs
        a warning, not the training.
        """
        try:
            write(self.path(key), weights, facts)
        except OSError as err:
            warnings.warn(f"trained weights cannot be cached ({err})", stacklevel=2)
