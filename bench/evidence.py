"""The adversarial images behind a stored cell: a safetensors file per block, beside the store; free
of torch.

A file holds, for every sample of its block that was right without attack and then fooled, the image
that fooled the lowest radius: x_adv (M, ...) float32, index (M,) int64, its place in the test set,
and id (M,) int64. It holds the image, not the move from the clean one: x + (x_adv - x) need not be
x_adv in float32, and what lies on the edge of the ball or of a class would not be found again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError
from bench.files import place
from bench.packing import Arrays, Sheet, packed, sheet
from bench.plan import CERTIFICATE, Cell

FOLDER = "adversarial"
FORMAT = "adversarial-bench evidence 1"
NONE, SAVED, VERIFIED, REFUTED = "none", "saved", "verified", "refuted"
_ORDER = (REFUTED, NONE, SAVED, VERIFIED)
_OUTCOMES = ("index", "id", "label", "min_eps")


def least(states: Iterable[str]) -> str:
    """Of what is known of several cells, the worst."""
    return min(states, key=_ORDER.index)


def path(folder: Path, key: str, number: int) -> Path:
    """Where the images of a block are, in the folder of a store."""
    return folder / FOLDER / key / f"{number}.safetensors"


def outcomes(arrays: Arrays) -> str:
    """Hex digest (32 letters) of the outcomes of a block, which tells whose images a file holds."""
    hasher = hashlib.blake2b(digest_size=16)
    for name in _OUTCOMES:
        hasher.update(np.ascontiguousarray(arrays[name]).tobytes())
    return hasher.hexdigest()


def claimed(arrays: Arrays) -> NDArray[np.bool_]:
    """Which samples (N,) of a block an image is kept of."""
    found: NDArray[np.bool_] = (arrays["min_eps"] > 0) & np.isfinite(arrays["min_eps"])
    return found


def write(
    folder: Path, cell: Cell, number: int, arrays: Arrays, images: Arrays, weights: str
) -> Path:
    """Keeps the images of a block, whole or not at all; arrays: the block's, weights: the digest of
    the model's.
    """
    metadata = {
        "format": FORMAT,
        "cell": cell.key,
        "block": str(number),
        "norm": cell.norm,
        "eps": json.dumps([str(e) for e in cell.eps]),
        "fingerprint": cell.data.fingerprint,
        "samples": cell.data.samples,
        "weights": weights,
        "outcomes": outcomes(arrays),
    }
    return place(path(folder, cell.key, number), packed(images, metadata))


def fitting(folder: Path, key: str, number: int, arrays: Arrays) -> Sheet:
    """The file of a block; raises DataError for one that is not there, is none, or is of another
    block or other outcomes.
    """
    file = path(folder, key, number)
    found = sheet(file)
    wanted = {"format": FORMAT, "cell": key, "block": str(number), "outcomes": outcomes(arrays)}
    for name, value in wanted.items():
        if found.metadata.get(name) != value:
            got = found.metadata.get(name, "none")[:80]
            raise DataError(f"{file} is not of this block: its {name} is {got}, not {value}")
    return found


def is_kept(folder: Path, cell: Cell, number: int, arrays: Arrays) -> bool:
    """Whether a stored block needs no attack for its images: they are there, or it has none."""
    if cell.attack.kind == CERTIFICATE:
        return True
    with contextlib.suppress(DataError):
        fitting(folder, cell.key, number, arrays)
        return True
    return False


def state(folder: Path | None, key: str, numbers: Iterable[int], verified: Any) -> str:
    """What is known of a cell: none where an image of any block is missing; verified: the result of
    the last check, as the store has it.
    """
    files = [] if folder is None else [path(folder, key, number) for number in numbers]
    if not files or not all(file.is_file() for file in files):
        return NONE
    if not verified:
        return SAVED
    return VERIFIED if verified["is_good"] else REFUTED


def drop(folder: Path, keys: Iterable[str]) -> None:
    """Forgets the images of cells."""
    for key in keys:
        shutil.rmtree(folder / FOLDER / key, ignore_errors=True)
