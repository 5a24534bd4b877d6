"""Datasets: the record that training and runs are handed, and how its parts are chosen.

Whatever is chosen (the evaluated subset, the validation images, a split of one folder tree) is
chosen by `stratified_order`: it depends on images and labels alone, never on names or file order.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from attacks.draws import sample_ids
from bench.datasets import datasets
from bench.errors import DataError, RequestError
from defenses.workshop import Workshop
from models.checkpoint import Cache
from models.recipes import Classifier
from models.split import Split

Indices = npt.NDArray[np.int64]

DEFAULT_N = 1000
MOST_VALIDATION = 5000
BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, how they are split, and the order in which test images are evaluated.

    name stands in tables and is never a path; kind is the name in the table of datasets.
    fingerprint is a hex digest of all images and labels. train is what is left after validation
    was taken out of it. order (N,) int64 holds positions in test; ids (N,) int64 are the sample
    ids of test. spec is the text it was loaded by, empty for one that no text names.
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
    spec: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image; tensors of the user's own may have other dimensions."""
        return cast("tuple[int, int, int]", tuple(self.test.x.shape[1:]))

    def workshop(
        self,
        model: Classifier,
        device: torch.device,
        *,
        numerics: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Workshop:
        """Where a model is trained on it, and defenses are deployed; see Workshop."""
        return Workshop(
            model=model,
            train=self.train,
            validation=self.validation,
            shape=self.shape,
            classes=self.classes,
            fingerprint=self.fingerprint,
            device=device,
            numerics=numerics or {},
            cache=cache,
            say=say,
        )

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
    return replace(dataset, spec=text)


def assemble(
    name: str, kind: str, test: Split, train: Split | None = None, classes: int | None = None
) -> Dataset:
    """A dataset from its splits: validation taken out of train, ids, order and fingerprint made.

    Validation is the first min(5000, 10 %) of train in stratified order; a train of fewer than 10
    images has none. classes: how many there are, by default as many as the labels show.
    """
    least = 1 + int(test.y.max())
    if train is not None:
        there, here = tuple(train.x.shape[1:]), tuple(test.x.shape[1:])
        if there != here:
            raise DataError(
                f"{name}: train and test images must share one shape, got {there} and {here}"
            )
        last = int(train.y.max())
        if classes is None and least > 1 + last:
            raise DataError(
                f"{name}: a test label must be a class of train, 0 to {last}, got {least - 1}"
            )
        least = max(least, 1 + last)
    if classes is not None and classes < least:
        raise DataError(f"{name}: classes must be at least {least}, its labels, got {classes}")
    ids = ids_of(test)
    size = 0 if train is None else min(MOST_VALIDATION, len(train) // 10)
    rest, validation = hold_out(train, size) if train is not None and size else (train, None)
    return Dataset(
        name=name,
        kind=kind,
        fingerprint=fingerprint(train, test),
        classes=classes or least,
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


@functools.lru_cache(maxsize=1)
def dataset_of(text: str, root: Path | None) -> Dataset:
    """A dataset by its spec; the last one is kept, as the units of a run share it."""
    return load(text, root)
