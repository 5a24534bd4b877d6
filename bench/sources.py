"""Dataset recipes: where labelled images come from."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import random  # noqa: TID251  its state is put back, nothing is drawn
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import folders
from bench.arrays import UNREADABLE, read_npz, reason, split_of
from bench.data import Dataset, assemble, hold_out
from bench.errors import DataError
from models.split import Split

DIGITS_TEST = 500
NETWORK_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Halved:
    """Base of the datasets whose training split can be halved, as Szegedy et al. 2013 do.

    half 1 is the first half of train in stratified order, half 2 the rest; they share no image, and
    the test set is the same.
    """

    half: int | None = None

    def __post_init__(self) -> None:
        if self.half not in (None, 1, 2):
            raise ValueError(f"half must be 1 or 2, got {self.half}")

    def _assembled(self, kind: str, test: Split, train: Split) -> Dataset:
        if self.half is None:
            return assemble(kind, kind, test, train)
        second, first = hold_out(train, len(train) // 2)
        name = f"{kind}:half={self.half}"
        return assemble(name, kind, test, first if self.half == 1 else second)


@dataclass(frozen=True)
class Digits(Halved):
    """Handwritten digits that scikit-learn ships, no download (Alpaydin and Kaynak 1998, UCI).

    1,797 grey images of 8 x 8 pixels with 17 levels (float32, k / 16), 10 classes; CC BY 4.0,
    doi:10.24432/C50P49. Test are the first 500 in stratified order, kept in the order of the file;
    the other 1,297 are train, of which 129 become validation. half: 1 or 2, train on that half of
    train only; the test set stays.
    """

    def is_there(self, root: Path | None) -> bool:  # noqa: ARG002  one signature for all recipes
        """True: it comes with scikit-learn."""
        return True

    def load(self, root: Path | None) -> Dataset:  # noqa: ARG002  one signature for all recipes
        """The dataset; root is not used."""
        images, labels = _load_digits()
        everything = split_of(images / 16, labels, "digits")
        train, test = hold_out(everything, DIGITS_TEST)
        return self._assembled("digits", test, train)


@dataclass(frozen=True)
class Mnist(Halved):
    """Handwritten digits from the NIST collection (LeCun et al. 1998, doi:10.1109/5.726791).

    60,000 train and 10,000 test grey images of 28 x 28 pixels (uint8), 10 classes; CC BY-SA 3.0.
    5,000 of train become validation. Files: root/MNIST/raw, as torchvision keeps them.
    half: see `bench show digits`.
    """

    def load(self, root: Path | None) -> Dataset:
        """The dataset, downloaded to root when it is missing there."""
        return self._assembled("mnist", *_idx("mnist", "MNIST", data_root(root)))

    def is_there(self, root: Path | None) -> bool:
        """Whether its files are under root."""
        return _all_files(_idx_files("MNIST", data_root(root)))


@dataclass(frozen=True)
class FashionMnist(Halved):
    """Photographs of clothes in the format of mnist (Xiao et al. 2017, arXiv:1708.07747).

    60,000 train and 10,000 test grey images of 28 x 28 pixels (uint8), 10 classes; MIT licence.
    5,000 of train become validation. Files: root/FashionMNIST/raw, as torchvision keeps them.
    half: see `bench show digits`.
    """

    def load(self, root: Path | None) -> Dataset:
        """The dataset, downloaded to root when it is missing there."""
        parts = _idx("fashion_mnist", "FashionMNIST", data_root(root))
        return self._assembled("fashion_mnist", *parts)

    def is_there(self, root: Path | None) -> bool:
        """Whether its files are under root."""
        return _all_files(_idx_files("FashionMNIST", data_root(root)))


@dataclass(frozen=True)
class Cifar10(Halved):
    """Photographs of animals and vehicles (Krizhevsky 2009, Learning Multiple Layers of Features).

    50,000 train and 10,000 test RGB images of 32 x 32 pixels (uint8), 10 classes; free for
    research, no formal licence. 5,000 of train become validation. Files: root/cifar10_train.npz and
    root/cifar10_test.npz (x and y, as in dataset npz) where both are there, else
    root/cifar-10-batches-py, as torchvision keeps them (md5 checked before they are unpickled).
    half: see `bench show digits`.
    """

    def load(self, root: Path | None) -> Dataset:
        """The dataset, downloaded to root when it is missing there."""
        root = data_root(root)
        archives, files = _cifar_files(root)
        if _all_files(archives):
            train, test = (read_npz(path) for path in archives)
        else:
            folder, batches = files[0].parent, [file.name for file in files]
            expected = f"{folder}/{{{','.join(batches)}}} or {root}/cifar10_{{train,test}}.npz"
            train, test = _torchvision("cifar10", "CIFAR10", root, files, expected)
        return self._assembled("cifar10", test, train)

    def is_there(self, root: Path | None) -> bool:
        """Whether its files are under root."""
        return any(map(_all_files, _cifar_files(data_root(root))))


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
            rest, test = _split_tree(
                folders.pictures(folders.labelled(folder, None), self.size), folder
            )
            return assemble(name, "imagefolder", test, rest)
        classes = folders.class_names(trees[0])
        listed = [folders.labelled(tree, classes) for tree in trees]
        both = folders.pictures([*listed[0], *listed[1]], self.size)
        cut = len(listed[0])
        train, test = Split(both.x[:cut], both.y[:cut]), Split(both.x[cut:], both.y[cut:])
        return assemble(name, "imagefolder", test, train)


@dataclass(frozen=True)
class Npz:
    """Arrays of your own, in npz files.

    Each file holds x (or images) and y (or labels): x uint8, or float in [0, 1], as (N, H, W),
    (N, C, H, W) or (N, H, W, C) with 1, 3 or 4 channels; y whole numbers from 0. Where axis 1 is 1
    or 3 it is the channels. Without train there is nothing to train on. classes: how many, where
    the labels do not show them all. Nothing is unpickled.
    """

    test: str
    train: str | None = None
    classes: int | None = None

    def load(self, root: Path | None) -> Dataset:  # noqa: ARG002  one signature for all recipes
        """The dataset; root is not used, paths are relative to the current folder."""
        test = read_npz(Path(self.test))
        train = None if self.train is None else read_npz(Path(self.train))
        return assemble(Path(self.test).stem, "npz", test, train, self.classes)


def data_root(root: Path | None) -> Path:
    """The folder of downloaded datasets: root, or the user's data folder."""
    if root is not None:
        return root
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "adversarial-bench"


def _load_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """scikit-learn's digits: images (N, 8, 8), levels 0 to 16, and labels (N,).

    Read from the file that it ships, where that is found: its import takes two seconds.
    """
    spec = importlib.util.find_spec("sklearn")
    origin = "" if spec is None else str(spec.origin)
    file = Path(origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        rows = np.loadtxt(file, delimiter=",")
        return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
    # The import moves the state of random.
    state = random.getstate()
    from sklearn.datasets import load_digits

    random.setstate(state)
    bunch = load_digits()
    return bunch.images, bunch.target


def _all_files(paths: Sequence[Path]) -> bool:
    return all(path.is_file() for path in paths)


def _idx_files(source: str, root: Path) -> list[Path]:
    names = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return [
        root / source / "raw" / f"{part}-{name}" for part in ("train", "t10k") for name in names
    ]


def _cifar_files(root: Path) -> tuple[list[Path], list[Path]]:
    """The two npz files, and torchvision's batches."""
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    archives = [root / f"cifar10_{part}.npz" for part in ("train", "test")]
    return archives, [root / "cifar-10-batches-py" / name for name in names]


def _idx(kind: str, source: str, root: Path) -> tuple[Split, Split]:
    """Test and train of mnist and its kin: four IDX files under root/SOURCE/raw."""
    files = _idx_files(source, root)
    expected = f"{files[0].parent}/{{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte"
    train, test = _torchvision(kind, source, root, files, expected)
    return test, train


def _torchvision(
    kind: str, source: str, root: Path, files: Sequence[Path], expected: str
) -> tuple[Split, Split]:
    """Train and test of a torchvision dataset; downloaded, quietly, when files are missing."""
    import torchvision.datasets  # here, as it costs a second that other datasets need not pay

    cls = getattr(torchvision.datasets, source)
    if not _all_files(files):
        try:
            with _quiet_network():
                cls(root, train=True, download=True)
        except UNREADABLE as err:
            raise DataError(
                f"{kind} is not under {root} and could not be downloaded; "
                f"expected {expected} ({reason(err)})"
            ) from err
    try:
        parts = cls(root, train=True), cls(root, train=False)
    except UNREADABLE as err:
        remedy = f"delete {files[0].parent} to download it again"
        raise DataError(f"{kind} under {root} is damaged; {remedy} ({reason(err)})") from err
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


def _split_tree(everything: Split, folder: Path) -> tuple[Split, Split]:
    if len(everything) < 5:
        raise DataError(
            f"{folder} must hold at least 5 images to be split 80/20, got {len(everything)}"
        )
    return hold_out(everything, len(everything) // 5)
