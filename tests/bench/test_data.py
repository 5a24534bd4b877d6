"""Datasets: what is read, how it is split and ordered, and what is refused."""

import dataclasses
import hashlib
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import urllib.error
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from bench import data, sources
from bench.arrays import split_of
from bench.datasets import BUDGETS, Budget, budget, datasets
from bench.errors import BenchError, DataError, RequestError


def refusal(text, root=None, error=DataError):
    """The one line that a spec is refused with."""
    with pytest.raises(BenchError) as caught:
        data.load(text, root)
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message
    return message


def pixels(count, *shape, start=0):
    """Distinct uint8 images: image i holds i, i + 1, ... in its pixels, modulo 251."""
    size = int(np.prod(shape))
    rows = np.arange(start, start + count)[:, None] + np.arange(size)
    return (rows % 251).astype(np.uint8).reshape(count, *shape)


def labels(count, classes=10):
    return np.arange(count) % classes


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


# --- the order -----------------------------------------------------------------------------------


def slow_order(ids, classes):
    """The definition, in exact fractions."""
    keyed = []
    for c in set(classes):
        members = sorted((ids[i], i) for i in range(len(ids)) if classes[i] == c)
        for rank, (_, i) in enumerate(members):
            keyed.append((Fraction(2 * rank + 1, 2 * len(members)), c, i))
    return [i for _, _, i in sorted(keyed)]


populations = st.lists(
    st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 4)), min_size=1, max_size=60
)


def arrays(population):
    ids, classes = zip(*population, strict=True)
    return np.array(ids, dtype=np.int64), np.array(classes, dtype=np.int64)


@given(populations)
def test_order_equals_its_definition(population):
    ids, classes = arrays(population)
    order = data.stratified_order(ids, classes)
    assert order.dtype == np.int64
    assert order.tolist() == slow_order(ids.tolist(), classes.tolist())


@given(populations)
def test_first_n_hold_every_class_within_the_proven_bound(population):
    ids, classes = arrays(population)
    total, sizes = len(ids), Counter(classes.tolist())
    taken: Counter[int] = Counter()
    for n, i in enumerate(data.stratified_order(ids, classes).tolist(), start=1):
        taken[int(classes[i])] += 1
        for c, size in sizes.items():
            share = Fraction(size, total)
            bound = (1 + share * (len(sizes) - 2)) / 2
            assert abs(taken[c] - n * share) <= max(bound, Fraction(0))


def test_first_n_of_equal_classes_are_within_one():
    classes = np.repeat(np.arange(10), 100)
    ids = np.arange(1000, dtype=np.int64) * 7919 % 1000
    order = data.stratified_order(ids, classes)
    for n in range(1, 1001):
        counts = np.bincount(classes[order[:n]], minlength=10)
        assert np.abs(counts - n / 10).max() < 1


@given(populations, st.randoms(use_true_random=False))
def test_order_does_not_depend_on_the_order_of_the_file(population, shuffler):
    distinct = list({i: (i, c) for i, c in population}.values())
    shuffled = shuffler.sample(distinct, len(distinct))
    first, second = (
        [rows[i] for i in data.stratified_order(*arrays(rows))] for rows in (distinct, shuffled)
    )
    assert first == second


def test_equal_ids_stand_in_the_order_of_the_file():
    ids = np.array([5, 5, 3, 5], dtype=np.int64)
    assert data.stratified_order(ids, np.zeros(4, dtype=np.int64)).tolist() == [2, 0, 1, 3]


# --- the record ----------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    """Npz files of 40 train and 30 test images, and the spec that names them."""
    train = save(tmp_path / "a.npz", x=pixels(40, 5, 5, start=100), y=labels(40, 4))
    test = save(tmp_path / "mine.npz", x=pixels(30, 5, 5), y=labels(30, 3))
    return f"npz:test={test},train={train}"


def test_record_of_an_npz_pair(pair):
    loaded = data.load(pair, None)
    assert (loaded.name, loaded.kind, loaded.classes) == ("mine", "npz", 4)
    assert loaded.shape == (1, 5, 5)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (36, 4, 30)
    assert loaded.test.x.dtype == torch.uint8
    assert loaded.test.y.dtype == torch.int64
    assert np.array_equal(loaded.test.x.numpy()[:, 0], pixels(30, 5, 5))
    assert loaded.test.y.tolist() == labels(30, 3).tolist()


def test_ids_are_digests_of_float_images(pair):
    loaded = data.load(pair, None)
    for image, found in zip(pixels(30, 5, 5), loaded.ids, strict=True):
        raw = (torch.from_numpy(image).float() / 255).numpy().tobytes()
        digest = hashlib.blake2b(raw, digest_size=8).digest()
        assert int(found) == int.from_bytes(digest, "little", signed=True)


def test_order_is_that_of_ids_and_labels(pair):
    loaded = data.load(pair, None)
    assert loaded.order.tolist() == slow_order(loaded.ids.tolist(), loaded.test.y.tolist())


def test_blocks_do_not_show_in_ids(pair, monkeypatch):
    whole = data.load(pair, None)
    monkeypatch.setattr(data, "BLOCK", 7)
    assert np.array_equal(data.load(pair, None).ids, whole.ids)


def test_subset_is_nested_and_bounded(pair):
    loaded = data.load(pair, None)
    for n in range(1, 31):
        assert loaded.subset(n).tolist() == loaded.order[:n].tolist()
    assert loaded.subset(None).tolist() == loaded.order.tolist()
    for n in (0, -1, 31):
        rule = f"n must be from 1 to 30, the size of the mine test set, got {n}"
        with pytest.raises(RequestError, match=f"^{rule}$"):
            loaded.subset(n)


def test_subset_is_a_copy(pair):
    loaded = data.load(pair, None)
    before = loaded.order.copy()
    loaded.subset(5)[:] = 0
    assert np.array_equal(loaded.order, before)


def test_default_subset_stops_at_a_thousand(tmp_path):
    path = save(tmp_path / "t.npz", x=pixels(1200, 3, 3), y=labels(1200))
    loaded = data.load(f"npz:test={path}", None)
    chosen = loaded.subset(None)
    assert len(chosen) == 1000
    assert np.bincount(loaded.test.y.numpy()[chosen]).tolist() == [100] * 10


def test_without_train_there_is_no_validation(tmp_path):
    path = save(tmp_path / "t.npz", x=pixels(5, 3, 3), y=labels(5))
    loaded = data.load(f"npz:test={path}", None)
    assert loaded.train is None
    assert loaded.validation is None
    assert loaded.classes == 5


def test_small_train_is_kept_whole(tmp_path):
    path = save(tmp_path / "t.npz", x=pixels(9, 3, 3), y=labels(9))
    loaded = data.load(f"npz:test={path},train={path}", None)
    assert loaded.validation is None
    assert len(loaded.train) == 9


def test_validation_is_the_first_tenth_of_the_order_whatever_the_file_order(tmp_path):
    x, y = pixels(100, 4, 4), labels(100, 5)
    turned = np.arange(100) * 37 % 100
    test = save(tmp_path / "t.npz", x=x, y=y)
    held = []
    for name, index in (("one", np.arange(100)), ("two", turned)):
        train = save(tmp_path / f"{name}.npz", x=x[index], y=y[index])
        loaded = data.load(f"npz:test={test},train={train}", None)
        everything = split_of(x[index], y[index], "here")
        order = slow_order(data.ids_of(everything).tolist(), y[index].tolist())
        assert torch.equal(loaded.validation.x, everything.x[sorted(order[:10])])
        assert torch.equal(loaded.train.x, everything.x[sorted(order[10:])])
        assert torch.equal(loaded.train.y, everything.y[sorted(order[10:])])
        assert torch.bincount(loaded.validation.y).tolist() == [2] * 5
        held.append({image.numpy().tobytes() for image in loaded.validation.x})
    assert held[0] == held[1]


def test_validation_has_an_upper_bound(monkeypatch, pair):
    monkeypatch.setattr(data, "MOST_VALIDATION", 3)
    assert len(data.load(pair, None).validation) == 3


def test_fingerprint_depends_on_content_alone(tmp_path):
    x, y = pixels(20, 4, 4), labels(20)
    other_x, other_y = x.copy(), y.copy()
    other_x[7, 1, 2] += 1
    other_y[7] += 1

    def of(name, images, classes, train=None):
        path = save(tmp_path / f"{name}.npz", x=images, y=classes)
        text = f"npz:test={path}" + (f",train={train}" if train else "")
        return data.load(text, None).fingerprint

    first = of("first", x, y)
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert of("renamed", x, y) == first
    assert of("channels_last", x[..., None], y) == first
    changed = [
        of("pixel", other_x, y),
        of("label", x, other_y),
        of("type", x.astype(np.float32) / 255, y),
        of("shape", x.reshape(20, 2, 8), y),
        of("order", x[::-1], y[::-1]),
        of("train", x, y, train=tmp_path / "first.npz"),
    ]
    assert len({first, *changed}) == 7


# --- digits --------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn():
    bunch = load_digits()
    loaded = data.load("digits", None)
    assert (loaded.name, loaded.kind, loaded.classes) == ("digits", "digits", 10)
    assert loaded.shape == (1, 8, 8)
    parts = (loaded.train, loaded.validation, loaded.test)
    assert [len(part) for part in parts] == [1168, 129, 500]
    assert {part.x.dtype for part in parts} == {torch.float32}
    found = Counter(
        (image.mul(16).to(torch.uint8).numpy().tobytes(), int(label))
        for part in parts
        for image, label in zip(part.x, part.y, strict=True)
    )
    expected = Counter(
        (image.astype(np.uint8).tobytes(), int(label))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    assert found == expected


def test_digits_test_set_is_stratified():
    loaded = data.load("digits", None)
    sizes = sum(torch.bincount(p.y) for p in (loaded.train, loaded.validation, loaded.test))
    share = sizes.numpy() * 500 / 1797
    assert np.abs(torch.bincount(loaded.test.y).numpy() - share).max() < 1.4  # (1 + 8 * 0.1019) / 2


def test_digits_leave_the_global_random_state_alone():
    code = (
        "import random; before = random.getstate()\n"
        "from bench import data; data.load('digits', None)\n"
        "print(random.getstate() == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_digits_stay_the_same_data_across_versions():
    assert data.load("digits", None).fingerprint == "2cf094da4427dd8d10f6e372237f56a5"


# --- mnist and its kin ---------------------------------------------------------------------------


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root, source="MNIST"):
    raw = root / source / "raw"
    for part, count, start in (("train", 40, 50), ("t10k", 20, 0)):
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels(count, 28, 28, start=start))
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels(count))
    return raw


@pytest.fixture
def offline(monkeypatch):
    """Downloads that fail as without a network; the list of socket timeouts they met."""
    timeouts = []

    def refuse(self):
        timeouts.append(socket.getdefaulttimeout())
        print("Downloading")
        print("0%", file=sys.stderr)
        raise urllib.error.URLError("no network\n here")

    for cls in (torchvision.datasets.MNIST, torchvision.datasets.CIFAR10):
        monkeypatch.setattr(cls, "download", refuse)
    return timeouts


@pytest.mark.parametrize(
    ("kind", "source"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_idx_files_are_read(tmp_path, offline, kind, source):
    write_mnist(tmp_path, source)
    loaded = data.load(kind, tmp_path)
    assert (loaded.name, loaded.kind, loaded.classes) == (kind, kind, 10)
    assert loaded.shape == (1, 28, 28)
    assert loaded.test.x.dtype == torch.uint8
    assert np.array_equal(loaded.test.x.numpy()[:, 0], pixels(20, 28, 28))
    assert loaded.test.y.tolist() == labels(20).tolist()
    assert (len(loaded.train), len(loaded.validation)) == (36, 4)
    assert offline == []


def test_missing_idx_files_name_what_is_expected(tmp_path, offline, capsys):
    before = socket.getdefaulttimeout()
    expected = f"{tmp_path}/MNIST/raw/{{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte"
    assert refusal("mnist", tmp_path) == (
        f"mnist is not under {tmp_path} and could not be downloaded; "
        f"expected {expected} (<urlopen error no network here>)"
    )
    assert offline == [sources.NETWORK_TIMEOUT_S]
    assert socket.getdefaulttimeout() == before
    assert capsys.readouterr() == ("", "")


def test_missing_idx_files_are_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(
        torchvision.datasets.MNIST, "download", lambda self: write_mnist(Path(self.root))
    )
    assert len(data.load("mnist", tmp_path).test) == 20


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: (raw / "t10k-images-idx3-ubyte").write_bytes(b""),
        lambda raw: (raw / "train-images-idx3-ubyte").write_bytes(bytes(64)),
        lambda raw: (raw / "train-images-idx3-ubyte").write_bytes(
            (raw / "train-images-idx3-ubyte").read_bytes()[:1000]
        ),
        lambda raw: (raw / "train-labels-idx1-ubyte").write_bytes(b"<html>not found</html>"),
        lambda raw: write_idx(raw / "t10k-labels-idx1-ubyte", np.zeros((20, 2))),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, offline, damage):
    raw = write_mnist(tmp_path)
    damage(raw)
    message = refusal("mnist", tmp_path)
    rule = f"mnist under {tmp_path} is damaged; delete {raw} to download it again ("
    assert message.startswith(rule)
    assert offline == []


def test_images_and_labels_of_different_length_are_refused(tmp_path, offline):
    raw = write_mnist(tmp_path)
    write_idx(raw / "t10k-labels-idx1-ubyte", labels(19))
    assert refusal("mnist", tmp_path) == "mnist: x and y must be equally long, got 20 and 19"


def test_default_root_is_the_data_folder_of_the_user(tmp_path, monkeypatch, offline):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    write_mnist(tmp_path / "adversarial-bench")
    assert len(data.load("mnist", None).test) == 20
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.data_root(None) == tmp_path / ".local" / "share" / "adversarial-bench"
    assert sources.data_root(tmp_path) == tmp_path


# --- cifar10 -------------------------------------------------------------------------------------


def write_batches(root, monkeypatch):
    """The files torchvision reads, with few images, and their digests in its table."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name, content):
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw, usedforsecurity=False).hexdigest()

    def batch(name, count, start):
        x = pixels(count, 3, 32, 32, start=start).reshape(count, -1)
        return [name, write(name, {"data": x, "labels": labels(count).tolist()})]

    cls = torchvision.datasets.CIFAR10
    train = [batch(f"data_batch_{i}", 10, 10 * i) for i in range(1, 6)]
    monkeypatch.setattr(cls, "train_list", train)
    monkeypatch.setattr(cls, "test_list", [batch("test_batch", 10, 0)])
    digest = write("batches.meta", {"label_names": [str(i) for i in range(10)]})
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": digest})
    return folder


def write_archives(root):
    root.mkdir(exist_ok=True)
    for part, count, start in (("train", 50, 10), ("test", 10, 0)):
        x = pixels(count, 3, 32, 32, start=start).transpose(0, 2, 3, 1)
        save(root / f"cifar10_{part}.npz", x=x, y=labels(count).astype(np.uint8))


def test_cifar10_from_batches_and_from_npz_is_one_data_set(tmp_path, monkeypatch, offline):
    write_batches(tmp_path / "batches", monkeypatch)
    write_archives(tmp_path / "npz")
    first = data.load("cifar10", tmp_path / "batches")
    second = data.load("cifar10", tmp_path / "npz")
    for loaded in (first, second):
        assert (loaded.name, loaded.kind, loaded.classes) == ("cifar10", "cifar10", 10)
        assert loaded.shape == (3, 32, 32)
        assert np.array_equal(loaded.test.x.numpy(), pixels(10, 3, 32, 32))
        assert loaded.test.x.is_contiguous()
        assert (len(loaded.train), len(loaded.validation)) == (45, 5)
    assert first.fingerprint == second.fingerprint
    assert offline == []


def test_damaged_cifar10_is_refused(tmp_path, monkeypatch, offline):
    folder = write_batches(tmp_path, monkeypatch)
    (folder / "data_batch_3").write_bytes(b"broken")
    message = refusal("cifar10", tmp_path)
    assert message.startswith(f"cifar10 under {tmp_path} is damaged; delete {folder} to download")


def test_missing_cifar10_names_what_is_expected(tmp_path, offline):
    write_archives(tmp_path)
    (tmp_path / "cifar10_test.npz").unlink()
    message = refusal("cifar10", tmp_path)
    assert message.startswith(f"cifar10 is not under {tmp_path} and could not be downloaded; ")
    assert f"{tmp_path}/cifar-10-batches-py/{{data_batch_1,data_batch_2," in message
    assert f"or {tmp_path}/cifar10_{{train,test}}.npz (" in message
    assert offline == [sources.NETWORK_TIMEOUT_S]


# --- npz -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        ((6, 5, 4), (1, 5, 4)),
        ((6, 1, 5, 4), (1, 5, 4)),
        ((6, 5, 4, 1), (1, 5, 4)),
        ((6, 3, 5, 7), (3, 5, 7)),
        ((6, 5, 7, 3), (3, 5, 7)),
        ((6, 3, 32, 3), (3, 32, 3)),  # ambiguous: axis 1 wins
        ((6, 4, 5, 3), (3, 4, 5)),
        ((6, 4, 5, 7), (4, 5, 7)),
        ((6, 5, 7, 4), (4, 5, 7)),
    ],
)
def test_npz_layouts(tmp_path, stored, shape):
    x = pixels(6, *stored[1:])
    loaded = data.load(f"npz:test={save(tmp_path / 't.npz', x=x, y=labels(6))}", None)
    assert loaded.shape == shape
    found = loaded.test.x.numpy()
    expected = x.reshape(6, *shape) if stored[1:] == shape or len(stored) == 3 else None
    assert np.array_equal(found, x.transpose(0, 3, 1, 2) if expected is None else expected)


@pytest.mark.parametrize("kind", ["<f8", ">f8", "<f4", ">f4", "<f2"])
def test_npz_floats_are_kept_as_float32(tmp_path, kind):
    x = (pixels(6, 4, 4) / 256).astype(kind)  # exact in each type
    loaded = data.load(f"npz:test={save(tmp_path / 't.npz', x=x, y=labels(6))}", None)
    assert loaded.test.x.dtype == torch.float32
    assert np.array_equal(loaded.test.x.numpy()[:, 0], pixels(6, 4, 4) / 256)


@pytest.mark.parametrize("kind", ["<u1", ">i2", "<u8", "<f8", "?"])
def test_npz_labels_of_any_type_that_holds_whole_numbers(tmp_path, kind):
    y = (np.arange(6) % 2).astype(kind)
    path = save(tmp_path / "t.npz", images=pixels(6, 4, 4), labels=y)
    assert data.load(f"npz:test={path}", None).test.y.tolist() == [0, 1, 0, 1, 0, 1]


GREY = pixels(6, 4, 4)
FLOATS = GREY / 255


@pytest.mark.parametrize(
    ("x", "y", "rule"),
    [
        (GREY[0], labels(6), "x must be (N, H, W), (N, C, H, W) or (N, H, W, C), got (4, 4)"),
        (GREY[:0], labels(0), "x must hold at least one image, got (0, 1, 4, 4)"),
        (
            pixels(6, 5, 7, 2),
            labels(6),
            "x must have 1, 3 or 4 channels on axis 1 or axis 3, got (6, 5, 7, 2)",
        ),
        (GREY, labels(5), "x and y must be equally long, got 6 and 5"),
        (
            GREY,
            np.eye(6),
            "y must have the shape (N,), one label per image, got (6, 6)",
        ),
        (GREY.astype(np.int64), labels(6), "x must be uint8, or float in [0, 1], got int64"),
        (
            np.where(GREY == 3, np.nan, FLOATS),
            labels(6),
            "x must hold numbers in [0, 1], got NaN",
        ),
        (
            GREY / 2,
            labels(6),
            "float x must lie in [0, 1], got values from 0.0 to 10.0",
        ),
        (
            FLOATS - 1,
            labels(6),
            f"float x must lie in [0, 1], got values from -1.0 to {np.float32(20 / 255 - 1)}",
        ),
        (
            np.where(GREY == 3, 1e300, FLOATS),
            labels(6),
            "float x must lie in [0, 1], got values from 0.0 to inf",
        ),
        (GREY, labels(6) - 1, "labels must be whole numbers from 0 to 99999, got -1"),
        (GREY, labels(6) + 0.5, "labels must be whole numbers from 0 to 99999, got 0.5"),
        (GREY, np.full(6, np.nan), "labels must be whole numbers from 0 to 99999, got nan"),
        (GREY, labels(6) + 99_995, "labels must be whole numbers from 0 to 99999, got 100000"),
        (
            GREY,
            np.full(6, 2**64 - 1, dtype=np.uint64),
            "labels must be whole numbers from 0 to 99999, got 18446744073709551615",
        ),
        (GREY, np.array(list("abcdef")), "labels must be whole numbers from 0, got type <U1"),
    ],
)
def test_npz_refusals(tmp_path, x, y, rule):
    path = save(tmp_path / "t.npz", x=x, y=y)
    assert refusal(f"npz:test={path}") == f"{path}: {rule}"


def test_npz_without_a_key_is_refused(tmp_path):
    path = save(tmp_path / "t.npz", x=GREY, target=labels(6))
    assert refusal(f"npz:test={path}") == f"{path} must hold y (or labels), got x, target"
    path = save(tmp_path / "u.npz")
    assert refusal(f"npz:test={path}") == f"{path} must hold x (or images), got nothing"


def test_file_that_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "t.npz"
    assert refusal(f"npz:test={path}") == f"{path} must be an npz file, got no such file"
    rule = f"{path} must be an npz of plain arrays, nothing is unpickled: "
    whole = save(tmp_path / "whole.npz", x=GREY, y=labels(6)).read_bytes()
    for content in (b"", b"plain text", pickle.dumps({"x": GREY}), whole[:-40], whole[:300]):
        path.write_bytes(content)
        assert refusal(f"npz:test={path}").startswith(rule)
    flipped = bytearray(whole)
    flipped[200] ^= 255  # inside the pixels: the check sum of the archive no longer fits
    path.write_bytes(flipped)
    assert refusal(f"npz:test={path}").startswith(rule)
    np.save(tmp_path / "t.npy", GREY)
    message = refusal(f"npz:test={tmp_path / 't.npy'}")
    assert message == f"{tmp_path / 't.npy'} must be an npz with x and y, got a single array"


class Trap:
    """An object that leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_objects_are_refused_and_not_run(tmp_path):
    trace = tmp_path / "ran"
    path = save(tmp_path / "t.npz", x=np.array([Trap(trace)], dtype=object), y=labels(1))
    assert "nothing is unpickled" in refusal(f"npz:test={path}")
    assert not trace.exists()
    path = save(path, x=GREY, y=labels(6), note=np.array([Trap(trace)], dtype=object))
    assert len(data.load(f"npz:test={path}", None).test) == 6
    assert not trace.exists()


def test_train_and_test_must_fit(tmp_path):
    test = save(tmp_path / "test.npz", x=GREY, y=labels(6, 3))
    wide = save(tmp_path / "wide.npz", x=pixels(6, 4, 5), y=labels(6, 3))
    few = save(tmp_path / "few.npz", x=GREY, y=labels(6, 2))
    assert refusal(f"npz:test={test},train={wide}") == (
        "test: train and test images must share one shape, got (1, 4, 5) and (1, 4, 4)"
    )
    assert refusal(f"npz:test={test},train={few}") == (
        "test: a test label must be a class of train, 0 to 1, got 2"
    )


# --- imagefolder ---------------------------------------------------------------------------------


def write_images(tree, classes, mode="L", size=(6, 4), count=3):
    """count images per class; every pixel of image i of class c is 10 * c + i."""
    for c, name in enumerate(classes):
        (tree / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            value = 10 * c + i
            colour = value if mode == "L" else (value, value + 100, value + 200)
            Image.new(mode, size, colour).save(tree / name / f"{i}.png")
    return tree


def test_imagefolder_with_train_and_test(tmp_path):
    folder = tmp_path / "birds"
    write_images(folder / "train", ["a", "b"], mode="RGB", count=4)
    write_images(folder / "test", ["a", "b"], mode="RGB", count=2)
    (folder / "test" / "a" / ".hidden.png").write_bytes(b"")
    (folder / "test" / "a" / "notes.txt").write_text("no image")
    (folder / "test" / ".cache").mkdir()
    loaded = data.load(f"imagefolder:path={folder}", None)
    assert (loaded.name, loaded.kind, loaded.classes) == ("birds", "imagefolder", 2)
    assert loaded.shape == (3, 4, 6)
    assert loaded.test.x.is_contiguous()
    assert loaded.test.y.tolist() == [0, 0, 1, 1]
    assert loaded.test.x[:, :, 0, 0].tolist() == [
        [0, 100, 200],
        [1, 101, 201],
        [10, 110, 210],
        [11, 111, 211],
    ]
    assert loaded.train.x[:, 0, 3, 5].tolist() == [0, 1, 2, 3, 10, 11, 12, 13]


def test_imagefolder_of_one_tree_is_split_80_20(tmp_path):
    write_images(tmp_path / "pets", ["cat", "dog"], count=10)
    loaded = data.load(f"imagefolder:path={tmp_path / 'pets'}", None)
    assert loaded.shape == (1, 4, 6)
    parts = (loaded.train, loaded.validation, loaded.test)
    assert [torch.bincount(part.y).tolist() for part in parts] == [[7, 8], [1], [2, 2]]
    values = sorted(int(image[0, 0, 0]) for part in parts for image in part.x)
    assert values == [*range(10), *range(10, 20)]


def test_one_colour_image_makes_all_images_rgb(tmp_path):
    write_images(tmp_path / "test", ["a"])
    write_images(tmp_path / "train", ["a"])
    Image.new("RGBA", (6, 4), (1, 2, 3, 0)).save(tmp_path / "train" / "a" / "x.png")
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([9, 9, 9, 7, 8, 9])
    palette.save(tmp_path / "train" / "a" / "y.png", transparency=bytes([255, 128]))
    Image.new("1", (6, 4), 1).save(tmp_path / "train" / "a" / "z.png")
    loaded = data.load(f"imagefolder:path={tmp_path}", None)
    assert loaded.test.x[:, :, 0, 0].tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert loaded.train.x[3:, :, 0, 0].tolist() == [[1, 2, 3], [7, 8, 9], [255, 255, 255]]


def test_size_resizes_and_crops_the_centre(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(5):
        wide = np.zeros((4, 16), dtype=np.uint8)
        wide[:, 6:10] = 200 + i  # the centre square
        Image.fromarray(wide).resize((16 * (i + 1), 4 * (i + 1)), 0).save(tmp_path / f"a/{i}.png")
    loaded = data.load(f"imagefolder:path={tmp_path},size=4", None)
    assert loaded.shape == (1, 4, 4)
    for image in [*loaded.train.x, *loaded.test.x]:
        centre = image[0, :, 1:3]
        assert centre.min() == centre.max()
        assert 200 <= int(centre.min()) < 205


def test_imagefolder_refusals(tmp_path):
    assert refusal(f"imagefolder:path={tmp_path / 'no'}").startswith(
        f"{tmp_path / 'no'} must be a folder with one folder per class: "
    )
    assert refusal(f"imagefolder:path={tmp_path}") == (
        f"{tmp_path} must hold one folder per class, got no folder"
    )
    write_images(tmp_path / "train", ["a"])
    assert refusal(f"imagefolder:path={tmp_path}") == (
        f"{tmp_path}/train must hold images directly in it, got none"
    )
    write_images(tmp_path / "test", ["a", "b"])
    assert refusal(f"imagefolder:path={tmp_path}") == (
        f"{tmp_path}: train and test must hold the same classes, only one has b"
    )
    write_images(tmp_path / "few", ["a"], count=4)
    assert refusal(f"imagefolder:path={tmp_path / 'few'}") == (
        f"{tmp_path / 'few'} must hold at least 5 images to be split 80/20, got 4"
    )


def test_images_of_two_sizes_are_refused(tmp_path):
    write_images(tmp_path, ["a"])
    write_images(tmp_path, ["b"], size=(6, 5))
    assert refusal(f"imagefolder:path={tmp_path}") == (
        "all images must share one size, or give size=: "
        f"{tmp_path}/a/0.png is 6 x 4 and {tmp_path}/b/0.png is 6 x 5"
    )


def test_unreadable_images_are_named(tmp_path):
    folder = write_images(tmp_path, ["a"], count=5) / "a"
    whole = (folder / "0.png").read_bytes()
    rule = f"{folder / '3.png'} must be a readable image of 8 bits per channel: "
    for content in (b"", b"text", whole[:40], whole[:-30]):
        (folder / "3.png").write_bytes(content)
        assert refusal(f"imagefolder:path={tmp_path}").startswith(rule)
    Image.fromarray(np.full((4, 6), 40_000, dtype=np.uint16)).save(folder / "3.png")
    assert refusal(f"imagefolder:path={tmp_path}") == f"{rule}mode I;16"


# --- halves ---------------------------------------------------------------------------------------


def test_halves_share_no_image_and_together_are_the_training_split():
    whole, *halves = (
        data.load(text, None) for text in ("digits", "digits:half=1", "digits:half=2")
    )
    parts = [
        set(data.ids_of(part).tolist()) for half in halves for part in (half.train, half.validation)
    ]
    every = set(data.ids_of(whole.train).tolist()) | set(data.ids_of(whole.validation).tolist())
    assert set.union(*parts) == every
    assert sum(map(len, parts)) == len(every)
    for half in halves:
        assert np.array_equal(half.ids, whole.ids)
        assert np.array_equal(half.order, whole.order)
        assert half.kind == "digits"
        counts = torch.bincount(torch.cat([half.train.y, half.validation.y])).tolist()
        assert max(counts) - min(counts) <= 12  # of the whole: 9 about 130
    assert [half.name for half in halves] == ["digits:half=1", "digits:half=2"]
    assert len({whole.fingerprint, *(half.fingerprint for half in halves)}) == 3


# --- specs, tables -------------------------------------------------------------------------------


def test_wrong_specs_are_requests_refused_in_one_line():
    assert refusal("mnits", error=RequestError) == (
        "no dataset 'mnits'; did you mean 'mnist' or 'digits'? (bench list datasets)"
    )
    assert refusal("npz", error=RequestError) == "npz needs test="
    assert refusal("mnist:split=1", error=RequestError) == (
        "no key of dataset 'mnist' named 'split'; known: half (bench show mnist)"
    )
    assert refusal("digits:half=3", error=RequestError) == "digits: half must be 1 or 2, got 3"
    assert refusal("imagefolder:path=a,size=-1", error=RequestError) == (
        "imagefolder: size must be at least 0 (0 keeps the images' size), got -1"
    )
    assert refusal("mine.py:data", error=RequestError).startswith("a dataset is one of digits, ")


def test_names_are_checked_without_torch():
    code = (
        "import sys, bench.datasets as d; d.datasets.check('mnist'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_table_and_recipes_agree():
    papers = {name: datasets.describe_class(name).paper for name in datasets.table}
    assert papers == {
        "digits": "Alpaydin and Kaynak 1998, UCI",
        "mnist": "LeCun et al. 1998, doi:10.1109/5.726791",
        "fashion_mnist": "Xiao et al. 2017, arXiv:1708.07747",
        "cifar10": "Krizhevsky 2009, Learning Multiple Layers of Features",
        "imagefolder": "",
        "npz": "",
        "constructed": "Ilyas et al. 2019, arXiv:1905.02175",
    }
    for text in ("digits", "imagefolder:path=a,size=8", "npz:test=a.npz,train=b.npz"):
        recipe = datasets.get(text)
        assert datasets.describe(recipe) == text
        with pytest.raises(dataclasses.FrozenInstanceError):
            recipe.path = "b"


def grid(text):
    """The radii of a grid, as exact fractions."""
    if ":" not in text:
        return [Fraction(part) for part in text.split(",")]
    first, last, step = map(Fraction, text.split(":"))
    assert (last - first) % step == 0
    return [first + i * step for i in range(int((last - first) / step) + 1)]


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_reference_radius_lies_on_the_grid(name, norm):
    row = BUDGETS[name][norm]
    radii = grid(row.grid)
    assert radii[0] == 0
    assert radii == sorted(set(radii))
    assert Fraction(row.reference) in radii[1:]


def test_budget_of_own_images_goes_by_channels():
    for name in ("npz", "imagefolder", "from_a_plugin"):
        for norm in ("linf", "l2", "l1", "l0"):
            assert budget(name, 1, norm) == BUDGETS["mnist"][norm]
            assert budget(name, 3, norm) == BUDGETS["cifar10"][norm]
            assert budget(name, 4, norm) == BUDGETS["cifar10"][norm]
    assert budget("fashion_mnist", 1, "linf") == Budget("0:0.2:0.025", "0.1")
    with pytest.raises(ValueError, match="norm must be one of linf, l2, l1, l0, got 'l3'"):
        budget("mnist", 1, "l3")


# --- real files ----------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape", "sizes", "files"),
    [
        ("mnist", (1, 28, 28), (55_000, 5000, 10_000), "MNIST/raw"),
        ("fashion_mnist", (1, 28, 28), (55_000, 5000, 10_000), "FashionMNIST/raw"),
        ("cifar10", (3, 32, 32), (45_000, 5000, 10_000), "cifar10_test.npz"),
    ],
)
def test_real_files(name, shape, sizes, files, offline):
    root = Path(os.environ["BENCH_DATA"])
    if not (root / files).exists():
        pytest.skip(f"no {files} under BENCH_DATA")
    loaded = data.load(name, root)
    assert loaded.shape == shape
    assert loaded.classes == 10
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == sizes
    first = {"mnist": [7, 2, 1, 0, 4], "fashion_mnist": [9, 2, 1, 1, 6], "cifar10": [3, 8, 8, 0, 6]}
    assert loaded.test.y[:5].tolist() == first[name]
    counts = torch.bincount(loaded.test.y[torch.from_numpy(loaded.subset(1000))]).numpy()
    share = torch.bincount(loaded.test.y).numpy() / 10_000
    assert (np.abs(counts - 1000 * share) <= (1 + 8 * share) / 2).all()
