"""Arrays as safetensors: stored blocks, read as views of the bytes, and files from anywhere, whose
header is checked before anything is read by it; free of torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from bench.errors import DataError

MOST_HEADER, MOST_FILE = 2**20, 2**32
"""Bytes of the header, and of a whole file from anywhere, at most."""
_MOST_DIMENSIONS, _MOST_SIDE = 16, 2**40
_KINDS = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
_OTHERS = {
    b"PK": "a zip archive, as torch and npz files are",
    b"\x80": "a pickle",
    b"\x93NUMPY": "an npy file",
    b"\x89HDF": "an HDF5 file",
}
"""What else a file may be, by its first bytes."""
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


def packed(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> bytes:
    """The arrays as bytes."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return bytes(save(plain, None if metadata is None else dict(metadata)))


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


@dataclass(frozen=True)
class Sheet:
    """A file whose header holds what it should: the names, types and shapes of its arrays, and its
    metadata.
    """

    path: Path
    header: bytes
    kinds: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
    metadata: Mapping[str, str]

    def arrays(self) -> Arrays:
        """All of them; raises DataError where the file is another one by now."""
        try:
            blob = self.path.read_bytes()
        except OSError as err:
            raise DataError(f"{self.path} cannot be read ({err.strerror})") from err
        size = sum(kind.itemsize * math.prod(shape) for kind, shape in self.kinds.values())
        if len(blob) != len(self.header) + size or not blob.startswith(self.header):
            raise DataError(f"{self.path} changed while it was read")
        return unpacked(blob)


def sheet(path: Path) -> Sheet:
    """The header of a safetensors file from anywhere, checked before it is parsed (is it one, is it
    small enough) and before anything is read by it (do its entries add up to the file). Nothing is
    unpickled. Raises DataError.
    """
    if not path.is_file():
        raise DataError(f"{path} must be a safetensors file, got no such file")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            _check_sizes(path, start, length, size)
            text = file.read(length)
    except OSError as err:
        raise DataError(f"{path} cannot be read ({err.strerror})") from err
    try:
        metadata = _checked(text, size - 8 - length)
    except (ValueError, RecursionError) as err:
        reason = " ".join(str(err).split())[:200]
        raise DataError(f"{path} must be a safetensors file, got {reason}") from err
    kinds = {name: (kind, shape) for name, kind, shape, _ in _layout(text)}
    return Sheet(path, start + text, kinds, metadata)


def _check_sizes(path: Path, start: bytes, length: int, size: int) -> None:
    if size > MOST_FILE:
        raise DataError(f"{path} must have at most {MOST_FILE:,} bytes, got {size:,}")
    if len(start) == 8 and 2 <= length <= min(MOST_HEADER, size - 8):
        return
    known = [name for magic, name in _OTHERS.items() if start.startswith(magic)]
    got = f"{known[0]}, and nothing is unpickled" if known else f"{length:,} in {size:,}"
    rule = f"a header of at most {MOST_HEADER:,} bytes and of the file"
    raise DataError(f"{path} must be a safetensors file with {rule}, got {got}")


def _checked(text: bytes, size: int) -> dict[str, str]:
    """The metadata of a header whose entries lie one after the other in so many bytes."""
    if text[:1] != b"{":
        raise ValueError("a header that is no JSON object")
    entries = json.loads(text.decode("utf-8"), object_pairs_hook=_each_once)
    metadata = entries.pop("__metadata__", {})
    is_text = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if not is_text:
        raise ValueError("metadata that is no text")
    spans = sorted(_span(name, entry) for name, entry in entries.items())
    last = 0
    for first, end in spans:
        if first != last:
            raise ValueError(f"arrays that do not follow each other at byte {last}")
        last = end
    if last != size:
        raise ValueError(f"arrays of {last:,} bytes in a file that holds {size:,}")
    return dict(metadata)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice in its header")
    return found


def _span(name: str, entry: Any) -> tuple[int, int]:
    """First byte and end of an array; raises ValueError where its entry does not add up."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"no proper entry for {name[:40]!r}")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in _KINDS:
        raise ValueError(f"type {str(kind)[:40]!r} of {name[:40]!r}")
    lists = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not lists or not all(type(number) is int for number in (*shape, *offsets)):
        raise ValueError(f"no whole numbers for {name[:40]!r}")
    if len(shape) > _MOST_DIMENSIONS or not all(0 <= side <= _MOST_SIDE for side in shape):
        raise ValueError(f"a shape of {name[:40]!r} that no array has")
    first, end = offsets
    if first < 0 or end - first != _dtype(kind).itemsize * math.prod(shape):
        raise ValueError(f"{end - first:,} bytes for {name[:40]!r}, not those of its shape")
    return first, end
