"""Safetensors files from anywhere: what is no proper one is refused before it is parsed."""

import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import packing
from bench.errors import DataError
from bench.packing import MOST_HEADER, packed, sheet

ARRAYS = {
    "x_adv": np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2),
    "index": np.array([4, 1], dtype=np.int64),
}


def written(path, header, body=b"", length=None):
    """A file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


def entry(shape=(2,), offsets=(0, 8), kind="F32"):
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}


def test_a_proper_file_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed(ARRAYS, {"cell": "abc"}))
    found = sheet(path)
    assert found.metadata == {"cell": "abc"}
    assert found.kinds == {name: (array.dtype, array.shape) for name, array in ARRAYS.items()}
    for name, array in found.arrays().items():
        assert array.dtype == ARRAYS[name].dtype
        assert np.array_equal(array, ARRAYS[name])


def test_a_file_without_rows_is_one(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed({"x_adv": np.zeros((0, 1, 2, 2), dtype=np.float32)}))
    assert sheet(path).arrays()["x_adv"].shape == (0, 1, 2, 2)


HOSTILE = {
    "a header of 2**60 bytes": (b"{}", b"", 2**60),
    "a header longer than the file": (b"{}", b"", 3),
    "an empty header": (b"", b"", None),
    "no object": (b"[1, 2, 3]", b"", None),
    "no JSON": (b"{nothing}", b"", None),
    "no text": (b'{"\xff": 1}', b"", None),
    "deep nesting": (b'{"a":' * 100_000, b"", None),
    "a long number": (b'{"a":' + b"9" * 10_000 + b"}", b"", None),
    "a name twice": (b'{"a":1,"a":1}', b"", None),
    "metadata that is no text": ({"__metadata__": {"a": 1}}, b"", None),
    "metadata that is a list": ({"__metadata__": ["a"]}, b"", None),
    "an entry that is none": ({"a": [1, 2]}, b"", None),
    "an entry without a shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"", None),
    "an unknown type": ({"a": entry(kind="pickle")}, bytes(8), None),
    "a type that is a list": ({"a": entry(kind=["F32"])}, bytes(8), None),
    "bits for a type of 8": ({"a": entry(kind="F8_E4M3")}, bytes(8), None),
    "a shape larger than the file": ({"a": entry((2**39, 2**39))}, bytes(8), None),
    "a shape beyond all": ({"a": entry((2**60,), (0, 2**62))}, bytes(8), None),
    "negative sides": ({"a": entry((-1, -2))}, bytes(8), None),
    "sides that are no whole numbers": ({"a": entry((2.0,))}, bytes(8), None),
    "sides that are truth values": ({"a": entry((True, 2))}, bytes(8), None),
    "too many sides": ({"a": entry((1,) * 99 + (2,))}, bytes(8), None),
    "offsets beyond the file": ({"a": entry(offsets=(8, 16))}, bytes(8), None),
    "offsets backwards": ({"a": entry(offsets=(8, 0))}, bytes(8), None),
    "negative offsets": ({"a": entry(offsets=(-8, 0))}, bytes(8), None),
    "three offsets": ({"a": entry(offsets=(0, 8, 16))}, bytes(8), None),
    "bytes twice": ({"a": entry(), "b": entry()}, bytes(8), None),
    "bytes of nobody": ({"a": entry()}, bytes(9), None),
    "fewer bytes than it says": ({"a": entry()}, bytes(7), None),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused(what, tmp_path):
    header, body, length = HOSTILE[what]
    path = written(tmp_path / "a.safetensors", header, body, length)
    with pytest.raises(DataError, match="must be a safetensors file") as refused:
        sheet(path)
    assert len(str(refused.value)) < 500 + len(str(path))


def test_a_long_header_is_refused_unread(tmp_path):
    path = written(tmp_path / "a.safetensors", b"{" + b" " * MOST_HEADER + b"}")
    with pytest.raises(DataError, match="at most 1,048,576 bytes"):
        sheet(path)


def test_a_large_file_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed(ARRAYS))
    monkeypatch.setattr(packing, "MOST_FILE", path.stat().st_size - 1)
    with pytest.raises(DataError, match="must have at most"):
        sheet(path)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def others(mark):
    """Files of other kinds, by what the refusal calls them."""
    torches, legacy, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"x_adv": torch.zeros(2)}, torches)
    torch.save({"x_adv": torch.zeros(2)}, legacy, _use_new_zipfile_serialization=False)
    np.savez(archive, x_adv=np.zeros(2))
    plain = io.BytesIO()
    np.save(plain, np.zeros(2))
    return {
        "pickle": (pickle.dumps(Bomb(mark)), "a pickle"),
        "old pickle": (pickle.dumps(Bomb(mark), protocol=0), "must be"),
        "torch": (torches.getvalue(), "a zip archive"),
        "legacy torch": (legacy.getvalue(), "a pickle"),
        "npz": (archive.getvalue(), "a zip archive"),
        "npy": (plain.getvalue(), "an npy file"),
        "text": (b"x_adv,index\n0.5,3\n", "must be"),
        "nothing": (b"", "must be"),
    }


@pytest.mark.parametrize("kind", others(Path()))
def test_files_of_other_kinds_are_refused_and_never_unpickled(kind, tmp_path):
    mark = tmp_path / "unpickled"
    content, words = others(mark)[kind]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        sheet(path)
    assert not mark.exists()


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="no such file"):
            sheet(path)


def test_a_file_that_changed_meanwhile_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed(ARRAYS))
    found = sheet(path)
    path.write_bytes(packed({"x_adv": ARRAYS["x_adv"]}))
    with pytest.raises(DataError, match="changed while"):
        found.arrays()
