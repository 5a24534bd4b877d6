"""Datasets: recipes that read labelled images, and the record that training and runs are handed.

Whatever is chosen (the evaluated subset, the validation images, a split of one folder tree) is
chosen by `stratified_order`: it depends on images and labels alone, never on names or file order.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import random  # noqa: TID251  its state is put back, nothing is drawn
import socket
import struct
import textwrap
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from attacks.draws import sample_ids
from bench.datasets import datasets
from bench.errors import DataError, RequestError
from models.split import Split

Indices = npt.NDArray[np.int64]

DEFAULT_N = 1000
DIGITS_TEST = 500
MOST_VALIDATION = 5000
MOST_CLASSES = 100_000  # a column of ids taken for labels would size the last layer
NETWORK_TIMEOUT_S = 5.0
BLOCK = 4096
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

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


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, how they are split, and the order in which test images are evaluated.

    name stands in tables and is never a path; kind is the name in the table of datasets.
    fingerprint is a hex digest of all images and labels. train is what is left after validation
    was taken out of it. order (N,) int64 holds positions in test; ids (N,) int64 are the sample
    ids of test.
    """

    name: str
    kind: str
    fingerprint: str
    classes: int
    train: Split | None
    validation: Split | None
    test: Split
    order: Indices
    ids: Indices

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image; tensors of the user's own may have other dimensions."""
        return cast("tuple[int, int, int]", tuple(self.test.x.shape[1:]))

    def subset(self, n: int | None) -> Indices:
        """The first n positions of `order`; None means min(1000, size of the test set)."""
        size = len(self.test)
        if n is None:
            n = min(DEFAULT_N, size)
        if not 1 <= n <= size:
            raise RequestError(
                f"n must be from 1 to {size}, the size of the {self.name} test set, got {n}"
            )
        return self.order[:n].copy()


def load(text: str, root: Path | None) -> Dataset:
    """The dataset that a spec names; root is where mnist, fashion_mnist and cifar10 are kept.

    root None means ``$XDG_DATA_HOME/adversarial-bench``, or the same in ``~/.local/share``.
    """
    try:
        recipe = datasets.get(text)
    except ValueError as err:
        raise RequestError(str(err)) from err
    dataset: Dataset = recipe.load(root)
    return dataset


def assemble(name: str, kind: str, test: Split, train: Split | None = None) -> Dataset:
    """A dataset from its splits: validation taken out of train, ids, order and fingerprint made.

    Validation is the first min(5000, 10 %) of train in stratified order; a train of fewer than 10
    images has none.
    """
    classes = 1 + int(test.y.max())
    if train is not None:
        there, here = tuple(train.x.shape[1:]), tuple(test.x.shape[1:])
        if there != here:
            raise DataError(
                f"{name}: train and test images must share one shape, got {there} and {here}"
            )
        last = int(train.y.max())
        if classes > 1 + last:
            raise DataError(
                f"{name}: a test label must be a class of train, 0 to {last}, got {classes - 1}"
            )
        classes = 1 + last
    ids = ids_of(test)
    size = 0 if train is None else min(MOST_VALIDATION, len(train) // 10)
    rest, validation = hold_out(train, size) if train is not None and size else (train, None)
    return Dataset(
        name=name,
        kind=kind,
        fingerprint=fingerprint(train, test),
        classes=classes,
        train=rest,
        validation=validation,
        test=test,
        order=stratified_order(ids, test.y.numpy()),
        ids=ids,
    )


def ids_of(split: Split) -> Indices:
    """The sample ids (N,) int64, in blocks: no float copy of the whole set is made."""
    blocks = [sample_ids(block).numpy() for block in torch.split(split.x, BLOCK)]
    return np.concatenate(blocks)


def stratified_order(ids: Indices, labels: Indices) -> Indices:
    """Positions (N,) in an order whose first n hold every class in proportion, whatever n is.

    Within a class the order is that of the ids (N,): digests of the images, so it is random; equal
    ids stand by position. The sample of rank r in a class of size m gets the key (r + 1/2) / m;
    sorted by key, then class.

    Bound, with K classes present and p_c = m_c / N: cut the order at n, and let t be the last key
    taken. Every key below t is taken and none above, so class c has n_c = m_c t + e_c samples with
    |e_c| <= 1/2. Summed, n = N t + sum(e); hence n_c - n p_c = (1 - p_c) e_c - p_c (sum of the
    other e), in size at most ((1 - p_c) + p_c (K - 1)) / 2 = (1 + p_c (K - 2)) / 2: 1/2 for two
    classes, below 1 for classes of equal size.
    """
    by_id = np.argsort(ids, kind="stable")
    by_class = by_id[np.argsort(labels[by_id], kind="stable")]
    _, first, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(ids)) - np.repeat(first, sizes)
    keys = (rank + 0.5) / np.repeat(sizes, sizes)
    return by_class[np.argsort(keys, kind="stable")].astype(np.int64)


def hold_out(split: Split, count: int) -> tuple[Split, Split]:
    """The rest, and the first ``count`` samples in stratified order; both keep the file's order."""
    order = torch.from_numpy(stratified_order(ids_of(split), split.y.numpy()))
    return split.take(order[count:].sort().values), split.take(order[:count].sort().values)


def fingerprint(train: Split | None, test: Split) -> str:
    """Hex blake2b over shape, type, pixels and labels of both splits, of no name and no path."""
    digest = hashlib.blake2b(digest_size=16)
    for split in (train, test):
        if split is None:
            digest.update(b"none")
            continue
        x, y = split.x.contiguous().numpy(), split.y.contiguous().numpy()
        digest.update(f"{x.dtype} {x.shape}".encode())
        digest.update(x.data)
        digest.update(y.data)
    return digest.hexdigest()


# --- arrays from outside -------------------------------------------------------------------------


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


def _read_npz(path: Path) -> Split:
    """A split from x (or images) and y (or labels) of an npz; nothing is unpickled."""
    if not path.is_file():
        raise DataError(f"{path} must be an npz file, got no such file")
    try:
        with path.open("rb") as file:
            x, y = _members(np.load(file, allow_pickle=False), path)
    except UNREADABLE as err:
        rule = "must be an npz of plain arrays, nothing is unpickled"
        raise DataError(f"{path} {rule}: {_reason(err)}") from err
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


def _reason(err: BaseException) -> str:
    return textwrap.shorten(str(err) or type(err).__name__, 160, placeholder="...")


# --- recipes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """Handwritten digits that scikit-learn ships, no download (Alpaydin and Kaynak 1998, UCI).

    1,797 grey images of 8 x 8 pixels with 17 levels (float32, k / 16), 10 classes; CC BY 4.0,
    doi:10.24432/C50P49. Test are the first 500 in stratified order, kept in the order of the file;
    the other 1,297 are train, of which 129 become validation.
    """

    def load(self, root: Path | None) -> Dataset:  # noqa: ARG002  one signature for all recipes
        """The dataset; root is not used."""
        bunch = _load_digits()
        everything = split_of(bunch.images / 16, bunch.target, "digits")
        train, test = hold_out(everything, DIGITS_TEST)
        return assemble("digits", "digits", test, train)


@dataclass(frozen=True)
class Mnist:
    """Handwritten digits from the NIST collection (LeCun et al. 1998, doi:10.1109/5.726791).

    60,000 train and 10,000 test grey images of 28 x 28 pixels (uint8), 10 classes; CC BY-SA 3.0.
    5,000 of train become validation. Files: root/MNIST/raw, as torchvision keeps them.
    """

    def load(self, root: Path | None) -> Dataset:
        """The dataset, downloaded to root when it is missing there."""
        return _idx("mnist", "MNIST", data_root(root))


@dataclass(frozen=True)
class FashionMnist:
    """Photographs of clothes in the format of mnist (Xiao et al. 2017, arXiv:1708.07747).

    60,000 train and 10,000 test grey images of 28 x 28 pixels (uint8), 10 classes; MIT licence.
    5,000 of train become validation. Files: root/FashionMNIST/raw, as torchvision keeps them.
    """

    def load(self, root: Path | None) -> Dataset:
        """The dataset, downloaded to root when it is missing there."""
        return _idx("fashion_mnist", "FashionMNIST", data_root(root))


@dataclass(frozen=True)
class Cifar10:
    """Photographs of animals and vehicles (Krizhevsky 2009, Learning Multiple Layers of Features).

    50,000 train and 10,000 test RGB images of 32 x 32 pixels (uint8), 10 classes; free for
    research, no formal licence. 5,000 of train become validation. Files: root/cifar10_train.npz and
    root/cifar10_test.npz (x and y, as in dataset npz) where both are there, else
    root/cifar-10-batches-py, as torchvision keeps them (md5 checked before they are unpickled).
    """

    def load(self, root: Path | None) -> Dataset:
        """The dataset, downloaded to root when it is missing there."""
        root = data_root(root)
        archives = [root / f"cifar10_{part}.npz" for part in ("train", "test")]
        if all(path.is_file() for path in archives):
            train, test = (_read_npz(path) for path in archives)
        else:
            folder = root / "cifar-10-batches-py"
            batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
            files = [folder / name for name in batches]
            expected = f"{folder}/{{{','.join(batches)}}} or {root}/cifar10_{{train,test}}.npz"
            train, test = _torchvision("cifar10", "CIFAR10", root, files, expected)
        return assemble("cifar10", "cifar10", test, train)


@dataclass(frozen=True)
class ImageFolder:
    """Image files of your own, in one folder per class.

    path holds folders train and test, or, where not both are there, one tree that is split
    stratified 80/20. The sorted names of the class folders are classes 0, 1, ...; images stand
    directly in them. size 0 keeps the images, which must share one size; else the shorter side is
    resized to size (bilinear) and the centre cropped. Images are uint8, grey when all files are
    grey, else RGB; alpha and the orientation tag are ignored.
    """

    path: str
    size: int = 0

    def __post_init__(self) -> None:
        """Refuses a negative size."""
        if self.size < 0:
            raise ValueError(f"size must be at least 0 (0 keeps the images' size), got {self.size}")

    def load(self, root: Path | None) -> Dataset:  # noqa: ARG002  one signature for all recipes
        """The dataset; root is not used, path is relative to the current folder."""
        folder = Path(self.path)
        name = folder.resolve().name
        trees = [folder / "train", folder / "test"]
        if not all(tree.is_dir() for tree in trees):
            rest, test = _split_tree(_pictures(_labelled(folder, None), self.size), folder)
            return assemble(name, "imagefolder", test, rest)
        classes = _class_names(trees[0])
        listed = [_labelled(tree, classes) for tree in trees]
        both = _pictures([*listed[0], *listed[1]], self.size)
        cut = len(listed[0])
        train, test = Split(both.x[:cut], both.y[:cut]), Split(both.x[cut:], both.y[cut:])
        return assemble(name, "imagefolder", test, train)


@dataclass(frozen=True)
class Npz:
    """Arrays of your own, in npz files.

    Each file holds x (or images) and y (or labels): x uint8, or float in [0, 1], as (N, H, W),
    (N, C, H, W) or (N, H, W, C) with 1, 3 or 4 channels; y whole numbers from 0. Where axis 1 is 1
    or 3 it is the channels. Without train there is nothing to train on. Nothing is unpickled.
    """

    test: str
    train: str | None = None

    def load(self, root: Path | None) -> Dataset:  # noqa: ARG002  one signature for all recipes
        """The dataset; root is not used, paths are relative to the current folder."""
        test = _read_npz(Path(self.test))
        train = None if self.train is None else _read_npz(Path(self.train))
        return assemble(Path(self.test).stem, "npz", test, train)


# --- files ---------------------------------------------------------------------------------------


def data_root(root: Path | None) -> Path:
    """The folder of downloaded datasets: root, or the user's data folder."""
    if root is not None:
        return root
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "adversarial-bench"


def _load_digits() -> Any:
    """scikit-learn's record of digits."""
    # The import waits until it is wanted, as it costs a second; it moves the state of random.
    state = random.getstate()
    from sklearn.datasets import load_digits

    random.setstate(state)
    return load_digits()


def _idx(kind: str, source: str, root: Path) -> Dataset:
    """mnist and its kin: four IDX files under root/SOURCE/raw."""
    raw = root / source / "raw"
    names = ("images-idx3-ubyte", "labels-idx1-ubyte")
    files = [raw / f"{part}-{name}" for part in ("train", "t10k") for name in names]
    expected = f"{raw}/{{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte"
    train, test = _torchvision(kind, source, root, files, expected)
    return assemble(kind, kind, test, train)


def _torchvision(
    kind: str, source: str, root: Path, files: Sequence[Path], expected: str
) -> tuple[Split, Split]:
    """Train and test of a torchvision dataset; downloaded, quietly, when files are missing."""
    import torchvision.datasets  # here, as it costs a second that other datasets need not pay

    cls = getattr(torchvision.datasets, source)
    if not all(file.is_file() for file in files):
        try:
            with _quiet_network():
                cls(root, train=True, download=True)
        except UNREADABLE as err:
            raise DataError(
                f"{kind} is not under {root} and could not be downloaded; "
                f"expected {expected} ({_reason(err)})"
            ) from err
    try:
        parts = cls(root, train=True), cls(root, train=False)
    except UNREADABLE as err:
        remedy = f"delete {files[0].parent} to download it again"
        raise DataError(f"{kind} under {root} is damaged; {remedy} ({_reason(err)})") from err
    train, test = (split_of(np.asarray(p.data), np.asarray(p.targets), kind) for p in parts)
    return train, test


@contextlib.contextmanager
def _quiet_network() -> Iterator[None]:
    """A short socket timeout and nothing printed: torchvision sets none and shows progress."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden entries."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as err:
        rule = "must be a folder with one folder per class"
        raise DataError(f"{folder} {rule}: {_reason(err)}") from err


def _class_names(tree: Path) -> list[str]:
    return [entry.name for entry in _visible(tree) if entry.is_dir()]


def _labelled(tree: Path, classes: list[str] | None) -> list[tuple[Path, int]]:
    """Every image file of a tree with its label; the class folders must be ``classes`` if given."""
    found = _class_names(tree)
    if not found:
        raise DataError(f"{tree} must hold one folder per class, got no folder")
    if classes is not None and found != classes:
        odd = ", ".join(sorted(set(found) ^ set(classes)))
        rule = "train and test must hold the same classes"
        raise DataError(f"{tree.parent}: {rule}, only one has {odd}")
    labelled = []
    for label, name in enumerate(found):
        files = [f for f in _visible(tree / name) if f.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise DataError(f"{tree / name} must hold images directly in it, got none")
        labelled += [(file, label) for file in files]
    return labelled


def _pictures(labelled: Sequence[tuple[Path, int]], size: int) -> Split:
    """The files as one split: (N, 1, H, W) when every file is grey, else (N, 3, H, W)."""
    images = [_picture(file, size) for file, _ in labelled]
    for (file, _), image in zip(labelled, images, strict=True):
        if image.shape[1:] != images[0].shape[1:]:
            raise DataError(
                f"all images must share one size, or give size=: {labelled[0][0]} is "
                f"{_extent(images[0])} and {file} is {_extent(image)}"
            )
    channels = max(len(image) for image in images)
    x = np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in images])
    return split_of(x, np.array([label for _, label in labelled]), "imagefolder")


def _extent(image: npt.NDArray[np.uint8]) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"


def _picture(file: Path, size: int) -> npt.NDArray[np.uint8]:
    """One image file as (1, H, W) when it is grey, else (3, H, W)."""
    try:
        with Image.open(file) as opened:
            image = _grey_or_rgb(opened)
    except UNREADABLE as err:
        rule = "must be a readable image of 8 bits per channel"
        raise DataError(f"{file} {rule}: {_reason(err)}") from err
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


def _split_tree(everything: Split, folder: Path) -> tuple[Split, Split]:
    if len(everything) < 5:
        raise DataError(
            f"{folder} must hold at least 5 images to be split 80/20, got {len(everything)}"
        )
    return hold_out(everything, len(everything) // 5)
