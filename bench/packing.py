"""A stored block: per-sample arrays as safetensors, read as views of the bytes; free of torch."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

Arrays = dict[str, NDArray[Any]]
"""Per-sample arrays of one length: index (place in the test set), id, label, clean_prediction,
min_eps (inf: never fooled; 0: wrong without attack), distance (of the image that fooled, in the
norm, for a minimal attack also where it lies beyond the grid; nan: none), forward, backward,
verify, refused (claimed successes that the re-check did not accept, and points that were none);
queries (n, number of eps), the forward queries made at that eps (where the attempt went on from
another, at all of them) when the first success was seen (0: wrong without attack; -1: never); under
an independent sweep fooled (n, number of eps) uint8 too. Of a pipeline that draws: draws (n,
draws), min_eps under each evaluation draw, of which min_eps is the smallest. Of a certificate:
min_eps is the first eps that it does not cover, distance the radius that it does, clean_prediction
-1 where it abstains.
"""


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The arrays as bytes."""
    return bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def unpacked(blob: bytes) -> Arrays:
    """The arrays of a block as views of it; the package's own reader copies each of them."""
    start = 8 + int.from_bytes(blob[:8], "little")
    return {
        name: np.frombuffer(blob, kind, math.prod(shape), start + first).reshape(shape)
        for name, kind, shape, first in _layout(blob[8:start])
    }


@functools.lru_cache(maxsize=64)
def _layout(header: bytes) -> list[tuple[str, np.dtype[Any], tuple[int, ...], int]]:
    """Name, type, shape and first byte of the arrays under a safetensors header; blocks of one size
    share theirs.
    """
    return [
        (name, _dtype(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"][0])
        for name, entry in json.loads(header).items()
        if name != "__metadata__"
    ]


def _dtype(code: str) -> np.dtype[Any]:
    """Of safetensors' names, such as I64 and BOOL."""
    return np.dtype("?" if code == "BOOL" else f"<{code[0].lower()}{int(code[1:]) // 8}")


def joined(blocks: Sequence[Arrays]) -> Arrays:
    """The arrays of blocks in order."""
    if len(blocks) == 1:
        return blocks[0]
    names = blocks[0] if blocks else ()
    return {name: np.concatenate([block[name] for block in blocks]) for name in names}


def digest(blob: bytes) -> str:
    """Hex digest (32 letters) of a block's bytes."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()
