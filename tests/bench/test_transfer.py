"""Attacks made on a source, as bench runs them, and the matrix of sources and targets."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bench
from attacks.draws import sample_ids
from bench import data, supplies
from bench.errors import RequestError
from bench.executors import LocalExecutor
from bench.report.curves import Cost
from bench.report.transfer import transfer
from bench.resolution import resolve
from bench.runner import Silent, execute
from bench.spec import Request
from bench.store import Store
from models.seeding import seeded
from tests.problems import Linear

QUICK = "transfer:attack=fgsm,seeds=20,rounds=2,epochs=2"
TINY = "cnn_small:epochs=2"


def net(width=64, classes=10, seed=0):
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(width, classes)).eval()


def run(*specs, **changes):
    """The records of a sweep of digits in memory."""
    settings = {
        "models": ("logreg:epochs=2",),
        "n": 60,
        "eps": "0.1,0.3",
        "attacks": specs,
        "audit": False,
        "bounds": "none",
    } | changes
    with Store.in_memory() as store:
        execute(resolve(Request(**settings)), store, LocalExecutor(), Silent())
        return store.records()


def refusal(*specs, **changes):
    with pytest.raises(RequestError) as refused:
        resolve(Request(models=("logreg:epochs=2",), attacks=specs, **changes))
    text = str(refused.value)
    assert "\n" not in text
    return text


# --- what is handed over -------------------------------------------------------------------------


def test_held_out_images_are_neither_evaluated_nor_trained_on():
    digits = data.load("digits", None)
    images = supplies.held_out(digits, digits, 1000, torch.device("cpu"))
    assert len(images) == len(digits.validation)
    ids = set(sample_ids(images).tolist())
    assert not ids & set(digits.ids.tolist())
    assert not ids & set(data.ids_of(digits.train).tolist())


def test_an_image_that_is_evaluated_too_is_not_held_out(tmp_path):
    digits = data.load("digits", None)
    same = digits.test.take(torch.arange(60))
    twice = data.assemble("own", "npz", same, digits.test)
    images = supplies.held_out(twice, twice, 1000, torch.device("cpu"))
    assert len(images) < len(twice.validation)
    assert not set(sample_ids(images).tolist()) & set(twice.ids.tolist())


def test_the_other_half():
    assert supplies.other_half(data.load("digits:half=1", None)) == "digits:half=2"
    assert supplies.other_half(data.load("digits:half=2", None)) == "digits:half=1"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("transfer:seeds=129", "transfer needs 129 held-out images and one more to measure on"),
        ("transfer:source=logreg,data=half", "data=half needs a dataset that is halved"),
        ("transfer:source=logreg,data=nope", "no dataset 'nope'"),
        ("transfer:source=given", "source=given takes nets that are handed over from Python"),
        ("transfer:source=nope", "no model 'nope'"),
        ("transfer:lam=3", "transfer: lam must be in (0, 1], got 3"),
    ],
)
def test_what_cannot_be_supplied_is_refused_before_any_work(spec, message):
    assert refusal(spec).startswith(message)


def foreign(folder, shape=(8, 8), classes=10):
    """An npz of noise, and the spec of it."""
    generator = np.random.Generator(np.random.PCG64(0))  # noqa: TID251  a fixed seed
    for part, count in (("train", 200), ("test", 40)):
        x = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
        np.savez(folder / f"{part}.npz", x=x, y=np.arange(count) % classes)
    return f"npz:test={folder}/test.npz,train={folder}/train.npz"


def test_foreign_data_must_have_the_same_images_and_classes(tmp_path):
    small = foreign(tmp_path, (7, 7))
    assert "must have images (1, 8, 8) of 10 classes as digits has, got (1, 7, 7) of 10" in refusal(
        f"transfer:source=logreg,data=[{small}]"
    )


def test_a_source_of_another_input_size_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef wrong():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(49, 10))\n"
    )
    message = refusal(f"transfer:source=[{tmp_path}/mine.py:wrong]")
    assert "source mine:wrong does not take images of shape (1, 8, 8)" in message


def test_own_tensors_have_nothing_to_hold_out():
    x, y = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    with pytest.raises(RequestError, match="needs held-out images, and tensors has no training"):
        bench.evaluate(net(), (x, y), QUICK, eps=0.1)


# --- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records():
    return {
        record.attack: record
        for record in run(
            QUICK, "transfer:attack=[pgd:steps=3],source=[[mlp:epochs=2]+logreg]", "fgsm"
        )
    }


def test_a_substitute_is_a_cell_with_its_rounds(records):
    record = records["transfer:attack=fgsm,seeds=20,rounds=2,epochs=2"]
    assert record.mode == "transfer"
    assert record.kind == "budget"
    table = transfer([record]).frame()
    assert table["round"].tolist() == [1, 2]
    assert table["target_queries"].tolist() == [20, 40]
    assert (table["probes"] == 109).all()
    assert table["agreement"].between(0, 1).all()


def test_the_shared_queries_are_in_the_cost(records):
    record = records["transfer:attack=fgsm,seeds=20,rounds=2,epochs=2"]
    assert record.provenance["shared_queries"] == 40
    assert Cost.of([record]).forward == record.samples["forward"].sum() + 40
    right = record.samples["min_eps"] > 0
    assert (record.samples["forward"][right] >= 2).all()  # FGSM on the source
    assert (record.samples["verify"][right] >= 1).all()  # the target's word at each radius


def test_sources_are_rows_without_queries(records):
    (record,) = [r for name, r in records.items() if "source" in name]
    table = transfer([record]).frame()
    assert table["source"].tolist() == ["1: mlp:epochs=2", "2: logreg", "all"]
    assert (table["target_queries"] == 0).all()
    assert Cost.of([record]).forward == record.samples["forward"].sum()
    assert transfer([records["fgsm"]]).frame().empty


def test_what_the_target_says_decides():
    """Every image that counts as fooled was refused by no one: transfer is weaker than the attack
    on the target itself.
    """
    weak, strong = run("transfer:source=mlp,attack=[pgd:steps=10]", "pgd:steps=10")[::-1]
    weak, strong = (weak, strong) if weak.mode == "transfer" else (strong, weak)
    fooled = [(record.samples["min_eps"] <= 0.3).mean() for record in (weak, strong)]
    assert fooled[0] <= fooled[1] + 0.05


def test_the_other_half_and_foreign_data_are_trained_on(tmp_path):
    """A net of the other half agrees with the target, one of noise does not; a substitute may be
    made of foreign images.
    """
    spec = foreign(tmp_path)
    source = "transfer:attack=fgsm,source=logreg"
    records = run(
        f"{source},data=half",
        f"{source},data=[{spec}]",
        f"{QUICK},data=[{spec}]",
        datasets=("digits:half=1",),
    )
    tables = {record.attack: transfer([record]).frame() for record in records}
    (half,) = [table for name, table in tables.items() if name.endswith("data=half")]
    (noise,) = [t for name, t in tables.items() if "npz" in name and "source=" in name]
    (other,) = [t for name, t in tables.items() if "npz" in name and "seeds=" in name]
    assert half["agreement"].iloc[0] > 0.6 > 0.4 > noise["agreement"].iloc[0]
    assert other["target_queries"].tolist() == [20, 40]


def test_what_a_cell_takes_at_most_holds_the_shared_queries():
    (cell,) = resolve(Request(attacks=(QUICK,), n=50, eps="0.1", audit=False)).cells
    assert cell.most_queries == 50 * 2 + 40


def test_every_part_of_a_transfer_is_in_the_key():
    specs = [QUICK, f"{QUICK},lam=0.2", f"{QUICK},model=logreg", "transfer:source=logreg"]
    specs += ["transfer:source=[logreg:seed=1]", "transfer:source=logreg,data=half"]
    request = Request(
        datasets=("digits:half=1",),
        models=("logreg:epochs=2",),
        attacks=tuple(specs),
        bounds="none",
        audit=False,
    )
    assert len({cell.key for cell in resolve(request).cells}) == len(specs)


def test_an_interrupted_cell_goes_on_to_the_same_outcomes(tmp_path, monkeypatch):
    settings = {"n": 400, "eps": "0.1", "bounds": "none", "audit": False}
    job = resolve(Request(models=("logreg:epochs=2",), attacks=(QUICK,), **settings))
    (cell,) = job.cells
    with Store.in_memory() as whole, Store.in_memory() as parts:
        execute(job, whole, LocalExecutor(), Silent())
        (expected,) = whole.records()
        execute(job, parts, LocalExecutor(), Silent())
        parts._db.execute("DELETE FROM blocks WHERE number = 1")
        assert parts.blocks([cell.key])[cell.key] == [0]
        execute(job, parts, LocalExecutor(), Silent())
        (record,) = parts.records()
    for name, column in expected.samples.items():
        assert np.array_equal(record.samples[name], column, equal_nan=column.dtype.kind == "f")
    assert record.provenance["transfer"] == expected.provenance["transfer"]


def test_from_python_on_a_named_dataset():
    result = bench.evaluate(net(), "digits", [QUICK, "fgsm"], eps=[0.1], n=40, audit=False)
    assert set(result.table["mode"]) == {"transfer", "white-box", "transfer+white-box"}


def test_the_tables_are_files(tmp_path):
    out = tmp_path / "results"
    line = ["run", "--model", TINY, "--attack", QUICK, "--attack", "noise", "--n", "40"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *line, "--eps", "0.1", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "substitute, round 2/2: 40 queries, agreement" in done.stderr + done.stdout
    text = (out / "transfer.md").read_text(encoding="utf-8")
    assert "## digits, linf, eps = 0.15" in text
    assert (out / "transfer.csv").read_text(encoding="utf-8").startswith("dataset,norm,eps,model,")
    assert "transfer" in (out / "leaderboard.md").read_text(encoding="utf-8")


# --- the matrix ----------------------------------------------------------------------------------


def separable(direction):
    """Two classes on either side of the middle of the pixels that a mask (64,) shows."""
    weight = torch.stack([-direction.float(), direction.float()])
    return Linear(weight, torch.tensor([0.5, -0.5]) * direction.sum())


def test_the_matrix_is_that_of_the_hand():
    """A looks at the left half of the pixels, B at the right, both at all: FGSM of 0.3 on images
    0.1 or 0.4 from the middle moves the first across, where the target looks at what was moved.
    """
    left, right = torch.arange(64) < 32, torch.arange(64) >= 32
    nets = {"left": separable(left), "right": separable(right), "all": separable(left | right)}
    y = torch.arange(8) % 2
    far = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.4, 0.4, 0.1, 0.4])
    x = (0.5 + (2 * y - 1) * far)[:, None].expand(8, 64).reshape(8, 1, 8, 8)
    matrix = bench.transfer_matrix(nets, dataset=(x, y), attack="fgsm", eps=0.3)
    near = float((far == 0.1).float().mean())
    # Moved on the half alone the mean of all moves by 0.15, which crosses from 0.1 too.
    expected = {"left": (near, 0, near), "right": (0, near, near), "all": (near, near, near)}
    for source, row in expected.items():
        assert tuple(matrix.broken.loc[source]) == row
    assert (matrix.clean == 1).all()
    assert np.allclose(matrix.accuracy, 1 - matrix.broken)
    assert set(matrix.samples.query("source == 'left' and target == 'all'")["index"]) == set(
        range(8)
    )


def test_only_what_was_right_can_be_broken():
    nets = {"left": separable(torch.arange(64) < 32)}
    x = torch.full((4, 1, 8, 8), 0.6)
    y = torch.tensor([1, 1, 0, 0])
    matrix = bench.transfer_matrix(nets, dataset=(x, y), attack="fgsm", eps=0.3)
    assert matrix.clean["left"] == 0.5
    assert matrix.broken.loc["left", "left"] == 1
    assert matrix.accuracy.loc["left", "left"] == 0  # the wrong ones are moved away, too


def test_the_noise_is_as_large_as_the_perturbation():
    """A target that keeps what it is shown."""
    x = 0.3 + 0.4 * torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = []

    class Looking(nn.Module):
        def forward(self, images):
            seen.append(images)
            return torch.stack([images.flatten(1).sum(1), images.flatten(1).sum(1) * 0], 1)

    matrix = bench.transfer_matrix(
        {"net": net(64, 2)},
        {"eye": Looking()},
        dataset=(x, torch.arange(6) % 2),
        attack="fgsm",
        eps=0.1,
    )
    shown = x[matrix.samples["index"].tolist()].double()
    moved, noisy = (images[:6].double() - shown for images in seen[-2:])
    size = moved.flatten(1).norm(dim=1)
    torch.testing.assert_close(noisy.flatten(1).norm(dim=1), size, rtol=1e-5, atol=0)
    assert np.allclose(matrix.samples["size"], size)


def test_specs_of_halves_are_trained():
    matrix = bench.transfer_matrix(
        ["logreg:epochs=2 @ digits:half=1"],
        ["logreg:epochs=2 @ digits:half=2"],
        n=50,
        attack="fgsm",
    )
    assert matrix.broken.loc["logreg:epochs=2 @ digits:half=1"].iloc[0] > 0.2
    text = matrix.to_markdown()
    assert "| source | logreg:epochs=2 @ digits:half=2 |" in text
    assert "Made by `bench.transfer_matrix(['logreg:epochs=2 @ digits:half=1'], [" in text


@pytest.mark.parametrize(
    ("nets", "message"),
    [
        ({"a": net(49)}, r"a does not take images of shape \(1, 8, 8\)"),
        ({"a": net(), "b": net(64, 12)}, "b must know 10 classes as a does, got 12"),
        ({"a": net(64, 7)}, "a must know the labels' 10 classes, got 7"),
        ({"a": 3}, "a must be a torch.nn.Module or a spec, got int"),
        (["nope"], "no model 'nope'"),
        (["logreg @ nope"], "no dataset 'nope'"),
        ([], "at least one source"),
    ],
)
def test_nets_that_do_not_fit_are_refused(nets, message):
    with pytest.raises(RequestError, match=message):
        bench.transfer_matrix(nets, n=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "transfer"}, "attack must be one that needs no source, got transfer"),
        ({"attack": "ddn"}, "attack ddn knows the norms l2, got linf"),
        ({"eps": 0}, "eps must be one number above 0, got 0"),
        ({"eps": "0.1,0.2"}, "eps must be one number above 0, got 0.1,0.2"),
        ({"n": 0}, "n must be from 1 to 500"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        bench.transfer_matrix({"a": net()}, **options)


# --- on real images ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.data
def test_a_substitute_from_150_images_brings_a_black_box_below_30_percent():
    """reference: the reduced run of cleverhans, FGSM 0.3; above FGSM on the target itself."""
    records = run(
        *("transfer:attack=fgsm", "fgsm"),
        datasets=("mnist",),
        models=("mlp",),
        n=500,
        eps="0.3",
        data_root=Path(os.environ["BENCH_DATA"]),
    )
    left = {record.mode: (record.samples["min_eps"] > 0.3).mean() for record in records}
    assert left["white-box"] < left["transfer"] < 0.3
    table = transfer(records).frame()
    assert table["target_queries"].tolist() == [150 * 2**k for k in range(6)]
    assert table["agreement"].iloc[-1] > table["agreement"].iloc[0] + 0.1


@pytest.mark.slow
@pytest.mark.data
def test_what_transfers_on_mnist_stands_in_the_published_order():
    """Szegedy et al. 2013, Tables 2-4: itself, another net on the same half, one on the other half,
    noise of the same size.
    """
    first, second = "cnn_small @ mnist:half=1", "cnn_small:seed=1 @ mnist:half=1"
    other = "cnn_small:seed=2 @ mnist:half=2"
    matrix = bench.transfer_matrix(
        [second, other, first],
        [first],
        dataset="mnist",
        attack="pgd",
        eps=0.1,
        n=1000,
        data_root=os.environ["BENCH_DATA"],
    )
    broken = matrix.broken[first]
    assert broken[first] > broken[second] > broken[other] > 5 * matrix.noise[first].max() + 0.02
