"""Arrays and files from outside: read, checked and refused in one line."""

from __future__ import annotations

import http.client
import struct
import textwrap
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from bench.errors import DataError
from models.split import Split

BLOCK = 4096
MOST_CLASSES = 100_000  # a column of ids taken for labels would size the last layer

# What the readers of torchvision, numpy and Pillow raise on a missing, truncated or foreign file.
UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    AssertionError,
    SyntaxError,
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    http.client.HTTPException,
    Image.DecompressionBombError,
)


def split_of(x: npt.NDArray[Any], y: npt.NDArray[Any], where: str) -> Split:
    """A split from arrays of any usual layout, refused in one line that starts with ``where``.

    x is uint8, or float in [0, 1] (kept as float32), of shape (N, H, W), (N, C, H, W) or
    (N, H, W, C). Channels stand on axis 1 if its size is 1 or 3, else on axis 3 if that is 1 or 3,
    else likewise with 4; so (N, 3, 32, 3) is read as N, C, H, W. y (N,) holds whole numbers from 0.
    """
    images = _pixels(_channels_first(x, where), where)
    return Split(images, _labels(y, len(images), where))


def _channels_first(x: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        rule = "x must be (N, H, W), (N, C, H, W) or (N, H, W, C)"
        raise DataError(f"{where}: {rule}, got {x.shape}")
    for counts in ((1, 3), (4,)):
        if x.shape[1] in counts:
            return x
        if x.shape[3] in counts:
            return x.transpose(0, 3, 1, 2)
    raise DataError(f"{where}: x must have 1, 3 or 4 channels on axis 1 or axis 3, got {x.shape}")


def _pixels(x: npt.NDArray[Any], where: str) -> Tensor:
    if x.size == 0:
        raise DataError(f"{where}: x must hold at least one image, got {x.shape}")
    if x.dtype == np.uint8:
        return torch.from_numpy(np.require(x, np.uint8, ["C", "W"]))
    if x.dtype.kind != "f":
        raise DataError(f"{where}: x must be uint8, or float in [0, 1], got {x.dtype}")
    with np.errstate(over="ignore"):
        x = np.require(x, np.float32, ["C", "W"])
    low, high = x.min(), x.max()
    if np.isnan(low):
        raise DataError(f"{where}: x must hold numbers in [0, 1], got NaN")
    if low < 0 or high > 1:
        raise DataError(f"{where}: float x must lie in [0, 1], got values from {low} to {high}")
    return torch.from_numpy(x)


def _labels(y: npt.NDArray[Any], count: int, where: str) -> Tensor:
    if y.ndim != 1:
        raise DataError(f"{where}: y must have the shape (N,), one label per image, got {y.shape}")
    if len(y) != count:
        raise DataError(f"{where}: x and y must be equally long, got {count} and {len(y)}")
    if y.dtype.kind not in "biuf":
        raise DataError(f"{where}: labels must be whole numbers from 0, got type {y.dtype}")
    with np.errstate(invalid="ignore"):
        whole = y.astype(np.int64)
    wrong = (whole != y) | (whole < 0) | (whole >= MOST_CLASSES)
    if wrong.any():
        rule = f"labels must be whole numbers from 0 to {MOST_CLASSES - 1}"
        raise DataError(f"{where}: {rule}, got {y[wrong][0]}")
    return torch.from_numpy(whole)


def read_npz(path: Path) -> Split:
    """A split from x (or images) and y (or labels) of an npz; nothing is unpickled."""
    if not path.is_file():
        raise DataError(f"{path} must be an npz file, got no such file")
    try:
        with path.open("rb") as file:
            x, y = _members(np.load(file, allow_pickle=False), path)
    except UNREADABLE as err:
        rule = "must be an npz of plain arrays, nothing is unpickled"
        raise DataError(f"{path} {rule}: {reason(err)}") from err
    return split_of(x, y, str(path))


def _members(archive: Any, path: Path) -> list[npt.NDArray[Any]]:
    """x and y of an open npz; other members are not read."""
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"{path} must be an npz with x and y, got a single array")
    found = []
    for key, other in (("x", "images"), ("y", "labels")):
        if key not in archive and other not in archive:
            keys = ", ".join(archive.files) or "nothing"
            raise DataError(f"{path} must hold {key} (or {other}), got {keys}")
        found.append(archive[key if key in archive else other])
    return found


def reason(err: BaseException) -> str:
    """An error from a reader of files, in a few words."""
    return textwrap.shorten(str(err) or type(err).__name__, 160, placeholder="...")
