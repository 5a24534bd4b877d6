"""Memory: its peak is in every row, a cell that runs out of it starts again under half the shape,
and images that do not fit are attacked in parts.
"""

import dataclasses
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import bench
from bench import cli, data, memory, shapes
from bench.devices import numerics_of
from bench.executors import LocalExecutor
from bench.plan import BLOCK, Part
from bench.report.frames import timing
from bench.resolution import resolve
from bench.runner import Silent, execute
from bench.spec import Request
from bench.store import Store
from models.seeding import seeded
from models.split import Split

ON_CPU = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
PLANTED = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        if {when}:
            raise {error}
        return self.layer(x.flatten(1))

def net():
    return Small()
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs `bench run` on 20 digits, the planted model as it says; status, errors and the rows."""

    def carried_out(when, *arguments, error=f'RuntimeError("{ON_CPU}")'):
        (tmp_path / "planted.py").write_text(PLANTED.format(when=when, error=error))
        words = ["bench", "run", "--model", f"{tmp_path}/planted.py:net", "--n", "20"]
        words += ["--eps", "0,0.1", "--no-audit", "--out", str(tmp_path / "out"), *arguments]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as ended:
                cli.main()
        said = capsys.readouterr().err
        table = pd.read_csv(tmp_path / "out" / "accuracy_vs_eps.csv")
        return ended.value.code or 0, said, table[table.attack != "worst-case"]

    return carried_out


def shapes_in(folder):
    return pd.read_csv(folder / "out" / "timing.csv")["shape"].tolist()


def warnings_in(said):
    return [line for line in said.splitlines() if "out of memory" in line]


@pytest.mark.parametrize(
    ("error", "clean"),
    [
        (f'RuntimeError("{ON_CPU}")', True),
        ('torch.OutOfMemoryError("CUDA out of memory.")', False),
        ("MemoryError()", False),
    ],
)
def test_a_cell_without_memory_starts_again_under_half_the_shape(run, error, clean, tmp_path):
    """More than 40 rows are too many, of 128: after two halvings 32 are left."""
    when = "len(x) > 40" if clean else "len(x) > 40 and x.requires_grad"
    arguments = ["--attack", "pgd:steps=2", "--attack", "noise"]
    status, said, rows = run(when, *arguments, error=error)
    assert status == 0
    assert len(warnings_in(said)) == 1
    assert "128 images at once" in warnings_in(said)[0]
    assert rows.failure.isna().all()
    assert rows.accuracy.notna().all()
    assert rows.groupby("attack").size().to_dict() == {"noise": 2, "pgd:steps=2": 2}
    # Noise asks for no gradient: where that is what is too much, its cell stays as it was.
    assert sorted(shapes_in(tmp_path)) == ([32, 32] if clean else [32, 128])
    again = run(when, *arguments, error=error)
    assert again[0] == 0
    assert "out of memory" not in again[1]
    assert "to run" not in again[1]
    assert again[2].equals(rows)


def test_a_restarted_cell_is_the_one_of_its_shape(tmp_path, monkeypatch):
    """Its key and its outcomes are those of a run that had the smaller shape from the start."""
    names = {"models": ("cnn_small:epochs=1",), "attacks": ("pgd:steps=3",)}
    request = Request(**names, n=300, audit=False)

    def ran(least, store):
        with Store.open(tmp_path / store) as opened:
            job = resolve(request)
            with monkeypatch.context() as patch:
                patch.setattr(nn.Flatten, "forward", short_of(least, nn.Flatten.forward))
                job = execute(job, opened, LocalExecutor(), Silent())
            (record,) = opened.records()
            assert [cell.key for cell in job.cells] == [record.key]
        return record

    big = ran(10**6, "big")
    restarted = ran(64, "restarted")
    kept = ran(10**6, "kept")
    assert (big.shape, restarted.shape, kept.shape) == (128, 64, 64)
    assert restarted.key == kept.key != big.key
    assert all(np.array_equal(a, kept.samples[name], equal_nan=a.dtype.kind == "f")
               for name, a in restarted.samples.items())  # fmt: skip


def short_of(most, forward):
    """A layer's forward pass that has no memory for a gradient at more than so many rows."""

    def limited(self, x):
        if len(x) > most and x.requires_grad and not self.training:
            raise RuntimeError(ON_CPU)
        return forward(self, x)

    return limited


@pytest.mark.parametrize("when", ["True", "x.requires_grad"])
def test_without_memory_for_one_image_a_cell_fails_by_name(run, when, tmp_path):
    status, said, rows = run(when, "--attack", "fgsm", "--attack", "noise")
    assert status == 1
    failed = rows[rows.failure.notna()]
    assert failed.groupby("attack").size().to_dict() == (
        {"fgsm": 2, "noise": 2} if when == "True" else {"fgsm": 2}
    )
    assert failed.failure.str.startswith("out of memory with one image at once: ").all()
    assert len([line for line in said.splitlines() if line.startswith("warning")]) == 1
    assert "bench: failed: digits planted:net / none / fgsm" in said
    assert not list((tmp_path / "cache" / "adversarial-bench").glob("shapes/*"))
    with Store.read(tmp_path / "out") as store:
        assert len(store.records()) == 2


def test_a_cell_that_failed_for_memory_is_done_once_there_is_some(tmp_path, monkeypatch):
    """The failure stands under another shape, and so under another key."""
    few = {"n": 20, "eps": "0.1", "bounds": "none", "audit": False}
    job = resolve(Request(models=("logreg:epochs=1",), attacks=("fgsm",), **few))
    with Store.open(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(nn.Flatten, "forward", short_of(0, nn.Flatten.forward))
            execute(job, store, LocalExecutor(), Silent())
        (failed,) = store.records()
        execute(job, store, LocalExecutor(), Silent())
        (done,) = store.records()
    assert (failed.shape, done.shape, done.failure) == (1, 128, "")
    assert failed.failure.startswith("out of memory with one image at once: ")


def test_a_training_without_memory_is_a_plain_failure(monkeypatch):
    def short(self, x):
        raise RuntimeError(ON_CPU)

    few = {"n": 20, "eps": "0.1", "bounds": "none", "audit": False}
    job = resolve(Request(models=("logreg:epochs=2",), attacks=("fgsm",), **few))
    monkeypatch.setattr(nn.Linear, "forward", short)
    with Store.in_memory() as store:
        job = execute(job, store, LocalExecutor(), Silent())
        (record,) = store.records()
    assert record.shape == 128
    assert record.failure.startswith("out of memory in training: ")


def test_from_python_it_is_a_warning():
    class Small(nn.Linear):
        def forward(self, x):
            if len(x) > 64:
                raise RuntimeError(ON_CPU)
            return super().forward(x.flatten(1))

    with seeded(0):
        model = Small(64, 10)
    with pytest.warns(UserWarning, match="out of memory with 128 images at once") as told:
        first = bench.evaluate(model, "digits", ["fgsm"], eps=[0.1], n=20)
    assert len(told) == 1
    assert [record.shape for record in first.records] == [64, 64], "its audit's, too"
    again = bench.evaluate(model, "digits", ["fgsm"], eps=[0.1], n=20)
    assert [record.key for record in again.records] == [record.key for record in first.records]


def test_only_words_of_memory_are_taken_for_it():
    assert memory.ran_out(MemoryError())
    assert memory.ran_out(torch.OutOfMemoryError("CUDA out of memory."))
    assert memory.ran_out(RuntimeError(ON_CPU))
    assert memory.ran_out(RuntimeError("could not create a primitive"))
    assert not memory.ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not memory.ran_out(ValueError("out of memory"))
    with pytest.raises(memory.NoLever) as raised, memory.no_lever("training"):
        raise RuntimeError(ON_CPU)
    assert not memory.ran_out(raised.value)


def test_every_row_has_its_peak():
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    run = bench.evaluate(model, "digits", ["fgsm", "noise"], eps=[0, 0.1], n=20, audit=False)
    peaks = {record.attack: record.provenance["peak_memory_mb"] for record in run.records}
    table = run.table.set_index("attack")["peak_memory_mb"]
    assert (table > 0).all()
    assert all((table[attack] == peak).all() for attack, peak in peaks.items())
    assert (table["worst-case"] == max(peaks.values())).all()
    assert timing(run.records).frame().set_index("attack")["peak_memory_mb"].to_dict() == peaks


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak only grows")
def test_the_peak_is_the_cell_s_own():
    """200 MB that are held for a moment are in the peak of that moment alone."""

    def peak_with(megabytes):
        peak = memory.watched(torch.device("cpu"))
        torch.ones(megabytes * 250_000).sum()
        return peak()

    before, during, after = peak_with(0), peak_with(200), peak_with(0)
    assert during > before + 150
    assert after < during - 150


# --- images that do not fit ---


def tensors(n=600):
    """Images of the digits as uint8, and labels."""
    test = data.load("digits", None)
    x = torch.cat([test.test.x, test.train.x])[:n]
    return x.mul(255).round().to(torch.uint8), torch.cat([test.test.y, test.train.y])[:n]


@pytest.fixture
def live(monkeypatch):
    """How many float32 images there were at most, of those that a split made."""
    made, most = [], [0]
    images = Split.images

    def counted(self, index, device="cpu"):
        x = images(self, index, device)
        made.append((StorageWeakRef(x.untyped_storage()), len(x)))
        most[0] = max(most[0], sum(count for ref, count in made if not ref.expired()))
        return x

    monkeypatch.setattr(Split, "images", counted)
    return most


@pytest.mark.parametrize(
    "attack",
    ["pgd:steps=3,restarts=2", "deepfool:steps=3", "noise", "fab:steps=3", "lbfgs:steps=2"],
)
def test_images_that_do_not_fit_are_attacked_in_parts(attack, live, monkeypatch):
    x, y = tensors()
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    settings = {"eps": [0, 0.02, 0.05], "n": len(x), "norm": "l2", "audit": False}
    whole = bench.evaluate(model, (x, y), [attack], **settings).records
    assert live[0] >= len(x)
    live[0] = 0
    monkeypatch.setattr(memory, "free", lambda device: 0)
    parts = bench.evaluate(model, (x, y), [attack], **settings).records
    assert 0 < live[0] <= BLOCK
    assert [record.key for record in parts] == [record.key for record in whole]
    for one, other in zip(whole, parts, strict=True):
        assert {k: v.tobytes() for k, v in one.samples.items()} == {
            k: v.tobytes() for k, v in other.samples.items()
        }


def test_parts_move_no_outcome_of_a_pipeline_that_draws(monkeypatch):
    """Attacked obliviously and adaptively, on 300 images: a whole block, and the rest of one."""
    names = {"models": ("logreg:epochs=2",), "defenses": ("noisy_input",), "attacks": ("fgsm",)}
    settings = {"n": 300, "eps": "0,0.1", "eot": 2, "bounds": "none", "audit": False}
    job = resolve(Request(**names, **settings))

    def samples():
        with Store.in_memory() as store:
            execute(job, store, LocalExecutor(), Silent())
            records = store.records()
        assert {record.mode for record in records} == {"white-box", "oblivious", "eot"}
        return [{k: v.tobytes() for k, v in r.samples.items()} for r in records]

    whole = samples()
    monkeypatch.setattr(memory, "free", lambda device: 0)
    assert samples() == whole


# --- the shape that pays ---


@pytest.mark.parametrize(
    ("rates", "shape"),
    [
        ({}, 128),
        ({128: 100}, 128),
        ({128: 100, 256: 104}, 128),
        ({128: 100, 256: 200, 512: 300, 1024: 310}, 512),
        ({128: 100, 256: 200}, 256),
        ({128 << k: 2**k for k in range(7)}, 4096),
    ],
)
def test_rows_are_doubled_while_it_pays_and_fits(rates, shape):
    assert shapes.paying(rates.get) == shape


def test_a_shape_is_measured_once_per_device_and_model(tmp_path, monkeypatch):
    """As on a GPU, with the processor's name."""
    asked = []
    monkeypatch.setattr(shapes, "throughput", lambda *a: asked.append(a[-1]) or min(a[-1], 512))
    found = dataclasses.replace(numerics_of("cpu"), device="cuda")
    part, net = Part("logreg", {"name": "logreg"}), nn.Linear

    def of(kept, part=part):
        return kept.paying(found, "cpu", part, (64,), lambda: net(64, 10)).shape

    kept = shapes.Shapes(tmp_path / "shapes", "one")
    with seeded(0):
        assert of(kept) == 512
        assert asked == [128, 256, 512, 1024]
        assert of(kept) == 512
        assert len(asked) == 4
        assert of(shapes.Shapes(tmp_path / "shapes", "two")) == 512
        assert of(kept, Part("logreg", {"name": "mlp"})) == 512
    assert len(asked) == 12
    (one, *more) = sorted((tmp_path / "shapes").iterdir())
    assert len(more) == 2
    assert json.loads(one.read_text())["shape"] == 512
    for path in (one, *more):
        path.write_text("{")
    with seeded(0):
        assert of(kept) == 512
    assert len(asked) == 16
    assert kept.paying(numerics_of("cpu"), "cpu", part, (64,), net).shape == 128


def test_throughput_is_of_images_and_none_where_memory_is_short():
    with seeded(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    rate = shapes.throughput(net, (1, 8, 8), torch.device("cpu"), 8)
    assert rate is not None
    assert rate > 0

    class Short(nn.Module):
        def forward(self, x):
            raise RuntimeError(ON_CPU)

    assert shapes.throughput(Short(), (1, 8, 8), torch.device("cpu"), 8) is None


@pytest.mark.gpu
def test_on_a_gpu_a_shape_is_measured_and_the_peak_is_torchs(tmp_path):
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).cuda()
    (record,) = bench.evaluate(model, "digits", ["fgsm"], eps=[0.1], n=20, audit=False).records
    assert record.shape in {128 << k for k in range(6)}
    assert len(list((tmp_path / "cache" / "adversarial-bench" / "shapes").iterdir())) == 1
    assert 0 < record.provenance["peak_memory_mb"] < 1000
