"""Weights files: what is written is read again, and nothing else is believed."""

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import checkpoint, nets
from models.checkpoint import Cache, CorruptWeights
from models.seeding import seeded

FACTS = {"objective": "L(x, y)", "log": [{"epoch": 1, "loss": 0.1 + 0.2, "seconds": 1e-9}]}


def weights():
    """One tensor of each kind that a state dict holds."""
    numbers = torch.arange(12, dtype=torch.float32)
    return {
        "layer.weight": numbers.view(3, 4),
        "layer.bias": numbers[:3] / 7,
        "norm.num_batches_tracked": torch.tensor(5),
        "mask": torch.tensor([True, False]),
        "half": numbers[:2].to(torch.bfloat16),
        "empty": torch.zeros(0, 3),
        "transposed": numbers.view(3, 4).T,
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def net(seed=0):
    with seeded(seed):
        return nets.logreg((1, 2, 2), 3).eval()


# --- digest --------------------------------------------------------------------------------------


def test_digest_is_of_values_and_not_of_order_or_memory_layout():
    plain = weights()
    backwards = dict(reversed(plain.items()))
    laid_out = {name: tensor.clone().contiguous() for name, tensor in plain.items()}
    needing = {n: t.clone().requires_grad_(t.is_floating_point()) for n, t in plain.items()}
    digests = {checkpoint.digest(held) for held in (plain, backwards, laid_out, needing)}
    assert len(digests) == 1
    assert len(digests.pop()) == 32


@pytest.mark.gpu
def test_digest_is_the_same_on_every_device():
    elsewhere = {name: tensor.cuda() for name, tensor in weights().items()}
    assert checkpoint.digest(elsewhere) == checkpoint.digest(weights())


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held["layer.bias"].view(torch.uint8).__setitem__(0, 1),
        lambda held: held["mask"].logical_not_(),
        lambda held: held["norm.num_batches_tracked"].add_(1),
        lambda held: held.update(renamed=held.pop("mask")),
        lambda held: held.update(half=held["half"].float()),
        lambda held: held.update(half=held["half"].view(torch.int16)),
        lambda held: held.update(empty=torch.zeros(3, 0)),
        lambda held: held.update({"layer.weight": held["layer.weight"].view(4, 3)}),
        lambda held: held.pop("empty"),
        lambda held: held.update(added=torch.zeros(0)),
    ],
)
def test_digest_changes_with_any_value_name_type_or_shape(change):
    held = {name: tensor.clone() for name, tensor in weights().items()}
    change(held)
    assert checkpoint.digest(held) != checkpoint.digest(weights())


# --- read and write ------------------------------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path):
    file = tmp_path / "deep" / "folder" / "w.safetensors"
    checkpoint.write(file, weights(), FACTS)
    held, facts = checkpoint.read(file)
    assert same(held, weights())
    assert facts == FACTS, "floats come back exactly"


def test_the_file_is_plain_safetensors_that_anyone_can_read(tmp_path):
    file = tmp_path / "w.safetensors"
    checkpoint.write(file, weights(), FACTS)
    assert same(safetensors.torch.load_file(file), weights())


def test_tensors_that_share_memory_are_written(tmp_path):
    file, shared = tmp_path / "w.safetensors", torch.arange(4.0)
    checkpoint.write(file, {"one": shared, "two": shared, "part": shared[1:]}, {})
    held, _ = checkpoint.read(file)
    assert same(held, {"one": shared, "two": shared, "part": shared[1:]})


def small(file):
    checkpoint.write(file, {"a": torch.arange(3.0), "b": torch.tensor([1, 2])}, FACTS)
    return file.read_bytes()


def test_no_flipped_byte_goes_unnoticed(tmp_path):
    file = tmp_path / "w.safetensors"
    raw = small(file)
    for place in range(len(raw)):
        for bit in (0, 2, 5, 7):  # 5: the case of a letter
            changed = bytearray(raw)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            with pytest.raises(CorruptWeights):
                checkpoint.read(file)


def test_no_truncation_goes_unnoticed(tmp_path):
    file = tmp_path / "w.safetensors"
    raw = small(file)
    for size in range(len(raw)):
        file.write_bytes(raw[:size])
        with pytest.raises(CorruptWeights):
            checkpoint.read(file)
    file.write_bytes(raw + b"\0")
    with pytest.raises(CorruptWeights):
        checkpoint.read(file)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_text("<!DOCTYPE html><html>404: not found</html>"),
        lambda file: file.write_bytes(pickle.dumps({"a": 1})),
        lambda file: torch.save({"a": torch.ones(2)}, file),
        lambda file: safetensors.torch.save_file({"a": torch.ones(2)}, file),
        lambda file: safetensors.torch.save_file({"a": torch.ones(2)}, file, {"digest": "0" * 32}),
        lambda file: file.mkdir(),
    ],
    ids=["a web page", "a pickle", "a .pt", "no digest", "a wrong digest", "a folder"],
)
def test_what_write_did_not_make_is_corrupt(tmp_path, write):
    file = tmp_path / "w.safetensors"
    write(file)
    with pytest.raises(CorruptWeights, match=r"w\.safetensors"):
        checkpoint.read(file)


def test_facts_are_covered_by_a_digest_too(tmp_path):
    file = tmp_path / "w.safetensors"
    checkpoint.write(file, weights(), FACTS)
    raw = file.read_bytes()
    assert raw.count(b"L(x, y)") == 1
    file.write_bytes(raw.replace(b"L(x, y)", b"L(x, z)"))
    with pytest.raises(CorruptWeights, match="does not hold what its digests say"):
        checkpoint.read(file)


def test_a_file_is_seen_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    seen = []
    replace, save = Path.replace, checkpoint.save_file

    def watched_replace(self, target):
        seen.append(sorted(path.name for path in tmp_path.glob("*.safetensors")))
        assert Path(target) == file
        checkpoint.read(self)  # what takes the name is complete
        return replace(self, target)

    def watched_save(tensors, filename, **rest):
        assert Path(filename).parent == tmp_path, "beside the target: renaming there is atomic"
        assert Path(filename).suffix != ".safetensors"
        save(tensors, filename, **rest)

    monkeypatch.setattr(Path, "replace", watched_replace)
    monkeypatch.setattr(checkpoint, "save_file", watched_save)
    checkpoint.write(file, weights(), FACTS)
    assert seen == [[]]
    assert os.listdir(tmp_path) == ["w.safetensors"]  # noqa: PTH208  names alone


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    raw = small(file)

    def full(tensors, filename, **rest):
        Path(filename).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(file, weights(), FACTS)
    assert file.read_bytes() == raw
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


# --- the cache -----------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_keys_of_different_texts_differ(one, other):
    assert (checkpoint.key(one) == checkpoint.key(other)) is (one == other)


def test_the_cache_gives_back_what_it_was_given(tmp_path):
    cache = Cache(tmp_path)
    one, two = checkpoint.key("one"), checkpoint.key("two")
    assert cache.get(one) is None
    cache.put(one, weights(), FACTS)
    held, facts = cache.get(one)
    assert same(held, weights())
    assert facts == FACTS
    assert cache.get(two) is None
    assert cache.path(one) == tmp_path / "weights" / f"{one}.safetensors"


@pytest.mark.parametrize(
    "spoil",
    [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"\xff", lambda raw: b""],
    ids=["truncated", "a flipped byte", "emptied"],
)
def test_a_corrupt_file_is_dropped_with_a_warning_and_made_again(tmp_path, spoil):
    cache, key = Cache(tmp_path), checkpoint.key("one")
    cache.put(key, weights(), FACTS)
    path = cache.path(key)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.warns(UserWarning, match="corrupt and will be trained again") as caught:
        assert cache.get(key) is None
    assert len(caught) == 1
    assert not path.exists()
    assert cache.get(key) is None, "the second time there is nothing, and no warning"
    cache.put(key, weights(), FACTS)
    assert same(cache.get(key)[0], weights())


def test_the_cache_lies_where_xdg_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert checkpoint.cache_folder() == tmp_path / "adversarial-bench"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checkpoint.cache_folder() == tmp_path / ".cache" / "adversarial-bench"


# --- weights of the user's own -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_weights_of_the_users_own_are_loaded(tmp_path, name):
    file, source, target = tmp_path / name, net(seed=1), net(seed=2)
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(source.state_dict(), file)
    else:
        torch.save(source.state_dict(), file)
    checkpoint.load_into(target, file)
    assert same(target.state_dict(), source.state_dict())


def test_weights_that_the_cache_wrote_are_loaded(tmp_path):
    file, source, target = tmp_path / "w.safetensors", net(seed=1), net(seed=2)
    checkpoint.write(file, source.state_dict(), FACTS)
    checkpoint.load_into(target, file)
    assert same(target.state_dict(), source.state_dict())


def refusal(file):
    """The one line that a user's weights are refused with."""
    with pytest.raises(ValueError, match="do not load into Sequential") as caught:
        checkpoint.load_into(net(), file)
    message = str(caught.value)
    assert message.startswith(f"weights {file.name} do not load into Sequential: ")
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"1.weight": torch.ones(3, 4)}, ["Missing key(s)", "1.bias"]),
        (
            {"1.weight": torch.ones(3, 4), "1.bias": torch.ones(3), "2.bias": torch.ones(1)},
            ["Unexpected key(s)", "2.bias"],
        ),
        ({"1.weight": torch.ones(3, 5), "1.bias": torch.ones(3)}, ["size mismatch", "1.weight"]),
        ({"module.1.weight": torch.ones(3, 4)}, ["Missing key(s)", "1.weight"]),
    ],
    ids=["missing", "too many", "wrong shape", "wrong prefix"],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_names_and_shapes_must_fit(tmp_path, suffix, held, words):
    file = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(held, file)
    else:
        safetensors.torch.save_file(held, file)
    message = refusal(file)
    assert all(word in message for word in words)


class Runs:
    """A pickle of this leaves a file behind when it is read."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("form", ["torch.save", "pickle", "inside a state dict"])
def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, form):
    file, trace = tmp_path / "w.pt", tmp_path / "it ran"
    if form == "pickle":
        file.write_bytes(pickle.dumps(Runs(trace)))
    else:
        torch.save(Runs(trace) if form == "torch.save" else {"1.weight": Runs(trace)}, file)
    refusal(file)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Runs(trace)))  # noqa: S301  the trap works
    assert trace.exists()


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(net(), tmp_path / "w.pt")
    refusal(tmp_path / "w.pt")


def test_a_file_that_is_something_else_is_refused(tmp_path):
    for name in ("w.pt", "w.safetensors", "w.npz"):
        (tmp_path / name).write_text("<!DOCTYPE html>")
        refusal(tmp_path / name)


def test_a_header_that_asks_for_too_much_is_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}})
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode() + b"\0" * 8)
    refusal(file)
    with pytest.raises(CorruptWeights):
        checkpoint.read(file)


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path):
    (tmp_path / "weights").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be cached"):
        checkpoint.Cache(tmp_path).put("key", {"w": torch.zeros(1)}, {})
