"""Image files in one folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from bench.arrays import UNREADABLE, reason, split_of
from bench.errors import DataError
from models.split import Split

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden entries."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as err:
        rule = "must be a folder with one folder per class"
        raise DataError(f"{folder} {rule}: {reason(err)}") from err


def class_names(tree: Path) -> list[str]:
    """The sorted names of a tree's class folders."""
    return [entry.name for entry in _visible(tree) if entry.is_dir()]


def labelled(tree: Path, classes: list[str] | None) -> list[tuple[Path, int]]:
    """Every image file of a tree with its label; the class folders must be ``classes`` if given."""
    found = class_names(tree)
    if not found:
        raise DataError(f"{tree} must hold one folder per class, got no folder")
    if classes is not None and found != classes:
        odd = ", ".join(sorted(set(found) ^ set(classes)))
        rule = "train and test must hold the same classes"
        raise DataError(f"{tree.parent}: {rule}, only one has {odd}")
    files_of: list[tuple[Path, int]] = []
    for label, name in enumerate(found):
        files = [f for f in _visible(tree / name) if f.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise DataError(f"{tree / name} must hold images directly in it, got none")
        files_of += [(file, label) for file in files]
    return files_of


def pictures(files: Sequence[tuple[Path, int]], size: int) -> Split:
    """The files as one split: (N, 1, H, W) when every file is grey, else (N, 3, H, W)."""
    images = [_picture(file, size) for file, _ in files]
    for (file, _), image in zip(files, images, strict=True):
        if image.shape[1:] != images[0].shape[1:]:
            raise DataError(
                f"all images must share one size, or give size=: {files[0][0]} is "
                f"{_extent(images[0])} and {file} is {_extent(image)}"
            )
    channels = max(len(image) for image in images)
    x = np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in images])
    return split_of(x, np.array([label for _, label in files]), "imagefolder")


def _extent(image: npt.NDArray[np.uint8]) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"


def _picture(file: Path, size: int) -> npt.NDArray[np.uint8]:
    """One image file as (1, H, W) when it is grey, else (3, H, W)."""
    try:
        with Image.open(file) as opened:
            image = _grey_or_rgb(opened)
    except UNREADABLE as err:
        rule = "must be a readable image of 8 bits per channel"
        raise DataError(f"{file} {rule}: {reason(err)}") from err
    if size:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # Pillow would clip the values to 255
        raise ValueError(f"mode {image.mode}")
    if image.mode in ("1", "L"):
        return image.convert("L")
    # By way of RGBA, as a palette with transparency draws a warning otherwise.
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
