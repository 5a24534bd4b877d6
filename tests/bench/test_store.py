"""The store: blocks whole or not at all, damage named, versions refused, the newest row shown."""

import dataclasses
import sqlite3
import threading
from fractions import Fraction

import numpy as np
import pytest

from bench.errors import StoreError
from bench.plan import AttackPart, Cell, DataPart, Numerics, Part
from bench.store import NAME, SCHEMA, Store


def cell_of(n=300, *, attack="pgd", revision=1):
    return Cell(
        data=DataPart("digits", "f" * 32, n, "s" * 32, Fraction(3, 20)),
        model=Part("cnn_small", {"name": "cnn_small"}),
        defense=Part("none", {"name": "none"}),
        attack=AttackPart(
            attack, {"name": attack, "revision": revision}, "white-box", "minimal", 41
        ),
        norm="linf",
        eps=(Fraction(0), Fraction(1, 10)),
        seed=0,
        sweep="ladder",
        numerics=Numerics("fp32", "cpu", 128, 2, 1),
    )


def arrays_of(first, size, value=np.inf):
    return {
        "index": np.arange(first, first + size),
        "id": np.arange(first, first + size) * 7,
        "min_eps": np.full(size, value),
    }


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path) as opened:
        yield opened


def test_arrays_come_back_as_they_were(store):
    cell = cell_of(3)
    kinds = (np.int64, np.int32, np.uint8, np.int8, np.float64, np.float32, np.float16, np.bool_)
    arrays = {np.dtype(kind).name: np.arange(6).reshape(3, 2).astype(kind) for kind in kinds}
    arrays |= {
        "index": np.arange(3),
        "min_eps": np.array([0, 0.1, np.inf]),
        "none": np.ones((3, 0)),
    }
    store.add(cell, {})
    store.put(cell.key, 0, arrays, 1.0)
    (record,) = store.records()
    assert record.samples.keys() == arrays.keys()
    for name, array in arrays.items():
        assert record.samples[name].dtype == array.dtype
        np.testing.assert_array_equal(record.samples[name], array)


def test_a_cell_is_shown_when_all_its_blocks_are_there(store):
    cell = cell_of()
    store.add(cell, {"start": "now"})
    store.put(cell.key, 1, arrays_of(256, 44), 0.5)
    assert store.records() == []
    assert store.blocks([cell.key]) == {cell.key: [1]}
    store.put(cell.key, 0, arrays_of(0, 256), 1.0)
    (record,) = store.records()
    assert (record.n, record.seconds, record.failure) == (300, 1.5, "")
    assert (record.mode, record.kind) == ("white-box", "minimal")
    assert record.eps == (0, Fraction(1, 10))
    assert {part: of["name"] for part, of in record.identity.items()} == {
        "model": "cnn_small",
        "defense": "none",
        "attack": "pgd",
    }
    assert np.array_equal(record.samples["index"], np.arange(300))
    assert record.samples["min_eps"].dtype == np.float64


def test_a_block_that_is_there_stays(store):
    cell = cell_of(10)
    store.add(cell, {})
    store.put(cell.key, 0, arrays_of(0, 10, 0.1), 1.0)
    store.put(cell.key, 0, arrays_of(0, 10, 0.2), 2.0)
    (record,) = store.records()
    assert record.seconds == 1.0
    assert set(record.samples["min_eps"]) == {0.1}


def test_a_failure_is_shown_until_the_cell_is_complete(store):
    cell = cell_of(10)
    store.add(cell, {})
    store.fail(cell.key, "the model returned NaN")
    (record,) = store.records()
    assert record.failure == "the model returned NaN"
    assert record.samples == {}
    store.add(cell, {})
    assert store.records() == []
    store.put(cell.key, 0, arrays_of(0, 10), 1.0)
    assert [r.failure for r in store.records()] == [""]


def test_damage_is_named(store, tmp_path):
    cell = cell_of(10)
    store.add(cell, {})
    store.put(cell.key, 0, arrays_of(0, 10), 1.0)
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute("UPDATE blocks SET arrays = zeroblob(length(arrays))")
    with pytest.raises(StoreError, match=f"block 0 of cell {cell.key}.*damaged"):
        store.records()


def test_the_newest_of_rows_that_look_alike_is_shown(store):
    old, new = cell_of(10, revision=1), cell_of(10, revision=2)
    for cell, value in ((old, 0.1), (new, 0.05)):
        store.add(cell, {})
        store.put(cell.key, 0, arrays_of(0, 10, value), 1.0)
    (record,) = store.records()
    assert record.key == new.key
    assert [r.key for r in store.records([old.key])] == [old.key]


def test_provenance_grows_and_stays(store):
    cell = cell_of(10)
    store.add(cell, {"start": "first"})
    store.annotate(cell.key, {"weights": "abc", "start": "second"})
    store.add(cell, {"start": "third"})
    store.put(cell.key, 0, arrays_of(0, 10), 1.0)
    (record,) = store.records()
    assert record.provenance == {"start": "first", "weights": "abc"}


def test_drop_forgets_cells_and_blocks(store):
    keep, drop = cell_of(10), cell_of(10, attack="fgsm")
    for cell in (keep, drop):
        store.add(cell, {})
        store.put(cell.key, 0, arrays_of(0, 10), 1.0)
    store.drop([drop.key])
    assert [r.key for r in store.records()] == [keep.key]
    assert store.blocks([drop.key]) == {drop.key: []}


def test_another_schema_version_is_refused(tmp_path):
    Store.open(tmp_path).__exit__()
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute("UPDATE meta SET schema = 99")
    for opening in (Store.open, Store.read, Store.probe):
        with pytest.raises(StoreError, match=f"has schema 99, this version reads {SCHEMA}"):
            opening(tmp_path)


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / NAME).write_text("not a database, but long enough to look like a file of one" * 20)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store.open(tmp_path)


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for opening in (Store.open, Store.probe):
        with pytest.raises(StoreError, match="--out must be a folder that can be written"):
            opening(tmp_path / "file")
    with pytest.raises(StoreError, match="no results under"):
        Store.read(tmp_path / "nowhere")


def test_probing_makes_nothing(tmp_path):
    Store.probe(tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []


def test_several_writers_share_a_store(tmp_path):
    cells = [dataclasses.replace(cell_of(2560), seed=seed) for seed in range(4)]

    def write(cell):
        with Store.open(tmp_path) as store:
            for other in cells:
                store.add(other, {})
            for number in range(10):
                store.put(cell.key, number, arrays_of(number * 256, 256), 0.1)

    threads = [threading.Thread(target=write, args=(cell,)) for cell in (*cells, *cells)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Store.open(tmp_path) as store:
        assert [len(r.samples["index"]) for r in store.records()] == [2560] * 4
