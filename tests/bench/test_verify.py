"""Evidence: adversarial images kept by a run, and checked again; planted lies are found by name."""

import dataclasses
import json
import pickle
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save, save_file

import bench as package
from attacks.work import NEVER, Tally
from bench import cli, data, evidence, verification
from bench.errors import RequestError
from bench.executors import LocalExecutor
from bench.packing import sheet
from bench.resolution import resolve
from bench.runner import Silent, execute
from bench.spec import Request, request_of
from bench.store import Store
from bench.units import Done
from bench.verification import Court, Place, Verifier, may_move, names_code
from models.checkpoint import cache_folder
from tests.bench.test_evaluation import linear_problem, net_of, ten

N = 300
REQUEST = Request(
    models=("mlp_relu:epochs=2",),
    attacks=("pgd:steps=4",),
    defenses=("noisy_input",),
    eps="0.02,0.05,0.1",
    n=N,
    oblivious=False,
    save_adversarial=True,
    audit=False,
)
FOREIGN = ["--dataset", "digits", "--model", "mlp_relu:epochs=2", "--norm", "linf"]


def run(out, request=REQUEST, executor=None):
    with Store.open(out) as store:
        execute(resolve(request), store, executor or LocalExecutor(), Silent())
        return store.records()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store with the images of two cells: nothing drawn, and a random defense."""
    out = tmp_path_factory.mktemp("kept")
    assert len(run(out)) == 2
    return out


@pytest.fixture
def store(kept, tmp_path):
    """A copy of it, to tamper with."""
    return shutil.copytree(kept, tmp_path / "copy")


@pytest.fixture
def bench(capsys, monkeypatch):
    """Runs a command line in this process: exit status, lines printed, lines of errors."""

    def call(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["bench", *map(str, arguments)])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out.splitlines(), printed.err.splitlines()

    return call


def cells(out):
    """Records by defense."""
    with Store.read(out) as store:
        return {record.defense: record for record in store.records()}


def files(out):
    """The images kept, by cell and block."""
    return {f"{p.parent.name}/{p.name}": load_file(p) for p in out.glob("adversarial/*/*")}


def tampered(out, change, defense="none", number=0):
    """Changes the arrays of a file, metadata and block staying; returns them and the record."""
    record = cells(out)[defense]
    path = evidence.path(out, record.key, number)
    arrays, metadata = load_file(path), dict(sheet(path).metadata)
    change(arrays)
    path.write_bytes(save(arrays, metadata))
    return arrays, record


def test_every_success_has_the_image_that_fooled_the_lowest_radius(kept):
    test = data.load("digits", None).test
    for record in cells(kept).values():
        places, least = record.samples["index"], record.samples["min_eps"]
        claimed = (least > 0) & np.isfinite(least)
        found = [arrays for name, arrays in files(kept).items() if name.startswith(record.key)]
        assert len(found) == 2
        index = np.concatenate([arrays["index"] for arrays in found])
        assert sorted(index) == sorted(places[claimed])
        radius = dict(zip(places, least, strict=True))
        for arrays in found:
            x = test.images(torch.from_numpy(arrays["index"]), "cpu").numpy()
            size = np.abs(arrays["x_adv"].astype(float) - x.astype(float)).reshape(len(x), -1)
            assert arrays["x_adv"].dtype == np.float32
            assert (size.max(1) <= [radius[place] + 1e-6 for place in arrays["index"]]).all()
            assert arrays["x_adv"].min() >= 0
            assert arrays["x_adv"].max() <= 1


@pytest.mark.parametrize("sweep", ["ladder", "bisect", "independent"])
def test_the_images_of_a_linear_model_fool_it_inside_their_ball(sweep, tmp_path):
    model, x, y, _ = linear_problem()
    package.evaluate(
        model,
        (x, y),
        ["pgd:steps=6", "deepfool", "noise:samples=3"],
        eps=[0.01, 0.02, 0.04, 0.08],
        sweep=sweep,
        out=tmp_path,
        save_adversarial=True,
        audit=False,
    )
    with Store.read(tmp_path) as store:
        records = store.records()
    assert {record.evidence for record in records} == {"saved"}
    for record in records:
        arrays = load_file(evidence.path(tmp_path, record.key, 0))
        least = dict(zip(record.samples["index"], record.samples["min_eps"], strict=True))
        assert len(arrays["index"]) == sum(0 < e < np.inf for e in least.values())
        for place, point in zip(arrays["index"], torch.from_numpy(arrays["x_adv"]), strict=True):
            assert model(point[None]).argmax(1) != y[place]
            assert (point.double() - x[place].double()).abs().max() <= least[place] + 1e-6


def test_a_move_does_not_give_the_image_back():
    """Why the image is kept, not the move."""
    x, x_adv = np.float32(0.7), np.float32(1e-9)
    assert x + (x_adv - x) != x_adv


def test_the_nearest_image_does_not_replace_one_of_a_lower_radius():
    tally = Tally(np.zeros((3, 1), np.bool_), np.zeros(3, np.int64), np.full(3, NEVER))
    rungs, drawn, seen = np.arange(3), np.ones(1, np.bool_), np.full(3, NEVER)
    moved, far, near = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)
    tally.fool(moved, rungs >= 1, drawn, 5)
    tally.near(far, 0.3, rungs >= 2, drawn, seen)
    assert tally.x_adv is moved
    tally.near(near, 0.1, rungs >= 0, drawn, seen)
    assert tally.x_adv is near


def test_a_store_is_verified_and_tables_say_so(store, bench):
    status, lines, _ = bench("verify", "--out", store)
    assert status == 0
    claims = {d: int(np.isfinite(r.samples["min_eps"]).sum()) for d, r in cells(store).items()}
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:4]]
    for row in table:
        assert row[7:] == [str(claims[row[2]]), str(claims[row[2]]), "0", "0", "verified"]
    for record in cells(store).values():
        facts = record.provenance["verified"]
        assert facts["shape"] == record.shape // 2 != record.shape
        assert facts["claimed"] == facts["verified"] == claims[record.defense] > 0
        assert record.evidence == "verified"
    assert bench("report", "--out", store)[0] == 0
    written = pd.read_csv(store / "accuracy_vs_eps.csv")
    assert written.columns[-1] == "evidence"
    assert set(written.evidence) == {"verified"}
    assert " verified |" in (store / "accuracy_vs_eps.md").read_text()


def _further(arrays):
    # Towards the middle, so that it stays in the box.
    arrays["x_adv"][0] += np.where(arrays["x_adv"][0] < 0.5, 0.2, -0.2).astype(np.float32)


def _outside(arrays):
    arrays["x_adv"][0, 0, 3, 3] = -0.01


def _not_finite(arrays):
    arrays["x_adv"][0, 0, 3, 3] = np.nan


def _clean(arrays):
    place = torch.from_numpy(arrays["index"][:1])
    arrays["x_adv"][0] = data.load("digits", None).test.images(place, "cpu")[0].numpy()


LIES = {
    "outside the ball": (_further, "lies outside the ball"),
    "outside the box": (_outside, "lies outside the box, from -0.01 to"),
    "NaN": (_not_finite, "is not finite"),
    "no success": (_clean, "does not fool at eps"),
}


@pytest.mark.parametrize("defense", ["none", "noisy_input"])
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_named_by_its_sample(lie, defense, store, bench):
    change, words = LIES[lie]
    arrays, record = tampered(store, change, defense)
    status, lines, _ = bench("verify", "--out", store)
    wrong = [line for line in lines if line.startswith("wrong:")]
    assert status == 1
    assert len(wrong) == 1
    assert f"sample {arrays['index'][0]} (id " in wrong[0]
    assert words in wrong[0]
    after = cells(store)
    assert after[defense].evidence == "refuted"
    assert after[defense].provenance["verified"]["wrong"] == 1
    assert after[({"none", "noisy_input"} - {defense}).pop()].evidence == "verified"
    assert record.evidence == "saved"


def _without_one(arrays):
    for name in arrays:
        arrays[name] = arrays[name][1:]


def _other_ids(arrays):
    arrays["id"] = arrays["id"][::-1].copy()


def _one_twice(arrays):
    for name in arrays:
        arrays[name][1] = arrays[name][0]


def _double(arrays):
    arrays["x_adv"] = arrays["x_adv"].astype(np.float64)


def _flat(arrays):
    arrays["x_adv"] = arrays["x_adv"].reshape(-1, 64)


def _one_more(arrays):
    arrays["extra"] = arrays["index"]


BROKEN = {
    "an image lacks": (_without_one, "has no image"),
    "other ids": (_other_ids, "has another id"),
    "one twice": (_one_twice, "every sample must be there once"),
    "another type": (_double, "x_adv must be float32"),
    "another shape": (_flat, r"x_adv must be float32 of shape (n, 1, 8, 8)"),
    "another array": (_one_more, "must hold x_adv or delta, and index or id"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_does_not_fit_its_block_is_wrong(what, store, bench):
    change, words = BROKEN[what]
    tampered(store, change)
    status, lines, _ = bench("verify", "--out", store)
    assert status == 1
    assert any(line.startswith("wrong:") and words in line for line in lines), lines


def test_the_file_of_another_block_is_wrong(store, bench):
    key = cells(store)["none"].key
    shutil.copy(evidence.path(store, key, 1), evidence.path(store, key, 0))
    status, lines, _ = bench("verify", "--out", store)
    assert status == 1
    assert any("is not of this block: its block is 1, not 0" in line for line in lines)


def test_rows_whose_weights_are_gone_are_not_checked_and_nothing_is_trained(
    store, bench, tmp_path, monkeypatch
):
    empty = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty))
    status, lines, _ = bench("verify", "--out", store)
    assert status == 0
    told = [line for line in lines if line.startswith("not checked:")]
    assert len(told) == 2
    assert all("are not in the cache" in line for line in told)
    assert not empty.exists()
    assert {record.evidence for record in cells(store).values()} == {"saved"}


def test_other_weights_are_not_checked(store, bench):
    for record in cells(store).values():
        with Store.read(store) as opened, opened._write():
            opened._note(record.key, {"weights": "of another net"}, over=True)
    status, lines, _ = bench("verify", "--out", store)
    assert status == 0
    assert sum("here, not of another net" in line for line in lines) == 2


def test_a_model_from_python_is_not_checked(tmp_path, bench):
    package.evaluate(
        net_of(ten), attacks=["fgsm"], n=20, eps=0.1, out=tmp_path, save_adversarial=True
    )
    status, lines, _ = bench("verify", "--out", tmp_path)
    assert status == 0
    assert any("the model was handed over from Python" in line for line in lines)


def test_images_are_kept_in_a_folder_alone():
    with pytest.raises(RequestError, match="needs out="):
        package.evaluate(net_of(ten), eps=0.1, save_adversarial=True)


def test_the_flag_is_a_setting():
    assert request_of({"save-adversarial": True}).save_adversarial
    assert not request_of({}).save_adversarial
    with pytest.raises(RequestError, match="must be of type bool"):
        request_of({"save_adversarial": "yes"})


def test_rows_without_images_are_claimed_until_they_are_asked_for(tmp_path, kept, bench):
    flags = ["--model", "mlp_relu:epochs=2", "--attack", "pgd:steps=4", "--n", N]
    flags += ["--eps", "0.02,0.05,0.1", "--out", tmp_path, "--no-oblivious", "--no-audit"]
    assert bench("run", *flags)[0] == 0
    before = cells(tmp_path)["none"]
    assert set(pd.read_csv(tmp_path / "accuracy_vs_eps.csv").evidence) == {"none"}
    status, lines, _ = bench("verify", "--out", tmp_path)
    assert status == 0
    assert lines[2].split("|")[-2].strip() == "claimed"
    assert any("no images were kept" in line for line in lines)
    assert "0/2" in bench("run", *flags, "--save-adversarial", "--dry-run")[1][2]
    assert bench("run", *flags, "--save-adversarial")[0] == 0
    after = cells(tmp_path)["none"]
    assert np.array_equal(after.samples["min_eps"], before.samples["min_eps"])
    assert set(pd.read_csv(tmp_path / "accuracy_vs_eps.csv").evidence) == {"saved"}
    whole = files(kept)
    for name, arrays in files(tmp_path).items():
        assert all(np.array_equal(arrays[one], whole[name][one]) for one in arrays)
    assert "2/2" in bench("run", *flags, "--save-adversarial", "--dry-run")[1][2]
    assert bench("run", *flags, "--fresh")[0] == 0
    assert files(tmp_path) == {}


class Cut(LocalExecutor):
    """Stops after so many blocks."""

    def __init__(self, blocks):
        self.left = blocks

    def run(self, units, say):
        for event in super().run(units, say):
            yield event
            self.left -= isinstance(event, Done)
            if not self.left:
                raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_with_the_same_images(tmp_path, kept):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, executor=Cut(1))
    assert len(files(tmp_path)) == 1
    run(tmp_path)
    whole, found = files(kept), files(tmp_path)
    assert found.keys() == whole.keys()
    for name, arrays in found.items():
        assert all(np.array_equal(arrays[one], whole[name][one]) for one in arrays)


def test_a_block_and_its_file_are_made_again_together(store):
    """A file that is cut short, one that is gone, one that is of other outcomes."""
    whole, record = files(store), cells(store)["none"]
    first, second = (evidence.path(store, record.key, number) for number in (0, 1))
    first.write_bytes(first.read_bytes()[:-1])
    second.unlink()
    other = cells(store)["noisy_input"]
    damaged = evidence.path(store, other.key, 1)
    with Store.read(store) as opened:
        arrays = {**opened.block(other.key, 1)}
        arrays["min_eps"] = np.full_like(arrays["min_eps"], 0.1)
        opened.verified(other.key, {"is_good": True})
        opened.put(other.key, 1, arrays, 1.0, anew=True)
        assert opened.records()[1].evidence == "saved"
    assert damaged.is_file()
    run(store)
    assert files(store).keys() == whole.keys()
    for name, found in files(store).items():
        assert all(np.array_equal(found[one], whole[name][one]) for one in found)
    assert np.array_equal(cells(store)["noisy_input"].samples["min_eps"], other.samples["min_eps"])


def test_a_worst_case_is_as_good_as_its_least():
    assert evidence.least(["verified", "saved"]) == "saved"
    assert evidence.least(["none", "saved"]) == "none"
    assert evidence.least(["refuted", "none"]) == "refuted"


@pytest.fixture
def court():
    """One that is asked about nothing but what tests plant."""
    places = Place("cpu", 64), Place("cpu", 128)
    return Court(data.load("digits", None), None, None, "linf", *places, is_exact=True)


def test_what_fools_at_the_stored_shape_alone_has_moved(court):
    at = {64: np.array([True, False, False]), 128: np.array([True, True, False])}

    def ask(rows, place):
        return at[place.shape][rows]

    index, what = np.array([5, 6, 7]), ["fell"] * 3
    moved, wrong = court._twice(ask, index, what)
    assert (moved.index, moved.is_wrong) == (6, False)
    assert "with 64 images at once, does so with 128" in moved.what
    assert (wrong.index, wrong.is_wrong) == (7, True)
    elsewhere = dataclasses.replace(court, is_exact=False)
    assert [one.is_wrong for one in elsewhere._twice(ask, index, what)] == [False, False]


def test_few_outcomes_may_move():
    assert [may_move(n) for n in (1, 100, 399, 400, 1000)] == [1, 1, 1, 2, 5]


@pytest.mark.parametrize("count", [1, 2])
def test_more_outcomes_than_may_move_are_wrong(count, store, monkeypatch):
    real, record = Court._fooled, cells(store)["none"]
    kept = load_file(evidence.path(store, record.key, 0))
    some = set(kept["index"][:count].tolist())

    def fooled(self, index, x_adv, radius, place):
        said = real(self, index, x_adv, radius, place).copy()
        if place == self.first:
            said[[one in some for one in index.tolist()]] = False
        return said

    monkeypatch.setattr(Court, "_fooled", fooled)
    verifier = Verifier(store, None, "cpu", cache_folder())
    verdict = verifier.verdict(record)
    assert verdict.moved == count
    assert verdict.is_bad == (count > may_move(N))
    assert verdict.verified == verdict.claimed - count


@pytest.fixture
def theirs(kept, tmp_path):
    """A stranger's arrays: what fooled the undefended model."""
    arrays = load_file(evidence.path(kept, cells(kept)["none"].key, 0))
    return arrays, tmp_path / "theirs.safetensors"


@pytest.mark.parametrize("names", [("x_adv", "index"), ("x_adv", "id"), ("delta", "index", "id")])
def test_a_file_from_anywhere_is_checked(names, theirs, bench):
    arrays, path = theirs
    x = data.load("digits", None).test.images(torch.from_numpy(arrays["index"]), "cpu").numpy()
    arrays = {**arrays, "delta": arrays["x_adv"] - x}
    save_file({name: arrays[name] for name in names}, path)
    status, lines, _ = bench("verify", "--file", path, *FOREIGN, "--eps", 0.1)
    assert status == 0, lines
    n = str(len(x))
    row = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert row[2:4] == ["none", "theirs.safetensors"]
    assert row[6:] == [n, n, n, "0", "0", "verified"]


def test_a_random_defense_is_judged_under_the_evaluation_draws(kept, tmp_path, bench):
    arrays = load_file(evidence.path(kept, cells(kept)["noisy_input"].key, 0))
    path = tmp_path / "theirs.safetensors"
    save_file(arrays, path)
    flags = [*FOREIGN, "--defense", "noisy_input", "--eps", 0.1]
    assert bench("verify", "--file", path, *flags)[0] == 0


@pytest.mark.parametrize("lie", ["outside the ball", "outside the box", "no success"])
def test_a_lie_of_a_stranger_is_named(lie, theirs, bench):
    arrays, path = theirs
    change, words = LIES[lie]
    change(arrays)
    save_file(arrays, path)
    status, lines, _ = bench("verify", "--file", path, *FOREIGN, "--eps", 0.1)
    (wrong,) = [line for line in lines if line.startswith("wrong:")]
    assert status == 1
    assert f"sample {arrays['index'][0]} (id " in wrong
    assert words in wrong


def _beyond(arrays):
    arrays["index"][0] = 500


def _unknown(arrays):
    del arrays["index"]
    arrays["id"][0] += 1


def _empty(arrays):
    for name in arrays:
        arrays[name] = arrays[name][:0]


def _many(arrays):
    arrays["x_adv"] = np.zeros((501, 1, 8, 8), np.float32)


def _short_ids(arrays):
    arrays["id"] = arrays["id"][1:]


def _small_index(arrays):
    arrays["index"] = arrays["index"].astype(np.int32)


REFUSED = {
    "NaN": (_not_finite, "images must be finite"),
    "another type": (_double, "x_adv must be float32"),
    "another shape": (_flat, "of shape (n, 1, 8, 8)"),
    "other ids": (_other_ids, "has another id"),
    "one twice": (_one_twice, "every sample must be there once"),
    "an index beyond": (_beyond, "index must be from 0 to 499, got 500"),
    "an unknown id": (_unknown, "is of no image of digits"),
    "no rows": (_empty, "at least one image"),
    "more rows than images": (_many, "n must be at most 500"),
    "fewer ids": (_short_ids, "id must be int64 of shape"),
    "another type of index": (_small_index, "index must be int64"),
    "another array": (_one_more, "must hold x_adv or delta"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_that_is_not_as_it_should_be_is_refused_in_a_line(what, theirs, bench):
    arrays, path = theirs
    change, words = REFUSED[what]
    change(arrays)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    status, lines, errors = bench("verify", "--file", path, *FOREIGN, "--eps", 0.1)
    assert (status, lines, len(errors)) == (2, [], 1)
    assert words in errors[0]


def test_a_pickle_is_refused_in_a_line(tmp_path, bench):
    path = tmp_path / "theirs.safetensors"
    path.write_bytes(pickle.dumps({"x_adv": np.zeros((1, 1, 8, 8), np.float32)}))
    status, _, errors = bench("verify", "--file", path, *FOREIGN, "--eps", 0.1)
    assert (status, len(errors)) == (2, 1)
    assert "got a pickle, and nothing is unpickled" in errors[0]


WRONG_FLAGS = {
    "no model": (["--dataset", "digits"], "--file needs --model, too"),
    "two radii": ([*FOREIGN, "--eps", "0.1,0.2"], "eps must be one number above 0"),
    "no radius": ([*FOREIGN, "--eps", "0"], "eps must be one number above 0"),
    "unknown norm": (["--norm", "l7", *FOREIGN[:4], "--eps", "1"], "norm must be one of"),
    "never trained": (
        [*FOREIGN, "--eps", "0.1", "--defense", "advtrain:eps=0.07"],
        "cannot be checked here: the weights",
    ),
}


@pytest.mark.parametrize("what", WRONG_FLAGS)
def test_a_request_that_cannot_be_checked_is_refused_in_a_line(what, theirs, bench):
    arrays, path = theirs
    save_file(arrays, path)
    flags, words = WRONG_FLAGS[what]
    status, _, errors = bench("verify", "--file", path, *flags)
    assert (status, len(errors)) == (2, 1)
    assert words in errors[0]


def test_flags_of_a_file_need_one(kept, bench):
    status, _, errors = bench("verify", "--out", kept, "--eps", 0.1)
    assert (status, errors) == (2, ["bench: --eps is of --file: a store knows its own"])


def test_another_device_is_looked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert verification._other_device("auto", "cpu") == "cuda"
    assert verification._other_device("auto", "cuda") == "cpu"
    assert verification._other_device("cuda:0", "cuda") == "cuda:0"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert verification._other_device("auto", "cpu") == "cpu"


def test_an_audit_needs_no_images(tmp_path, bench):
    flags = ["--model", "logreg:epochs=1", "--attack", "fgsm", "--n", "20", "--eps", "0.05"]
    assert bench("run", *flags, "--out", tmp_path, "--save-adversarial")[0] == 0
    dry = bench("run", *flags, "--out", tmp_path, "--save-adversarial", "--dry-run")[1]
    assert any("3 cells, 3 stored, 0 to run" in line for line in dry)
    status, lines, _ = bench("verify", "--out", tmp_path)
    assert status == 0
    assert lines[-1] == "1 verified"


@pytest.mark.parametrize("which", ["model", "defense"])
def test_code_that_a_store_names_is_not_run(which, store, tmp_path, bench):
    """Not even imported: the file would leave a mark."""
    mark = tmp_path / "ran"
    code = tmp_path / "theirs.py"
    code.write_text(f"open({str(mark)!r}, 'w')\nmake = None\n")
    with Store.read(store) as opened:
        for record in opened.records():
            asked = record.provenance["asked"] | {which: f"{code}:make"}
            facts = json.dumps({**record.provenance, "asked": asked})
            opened._db.execute("UPDATE cells SET provenance = ? WHERE key = ?", (facts, record.key))
    status, lines, _ = bench("verify", "--out", store)
    assert not mark.exists()
    assert any("is code outside of the tables" in line for line in lines)
    assert status == 0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cnn_small:epochs=3", False),
        ("advtrain:attack=[pgd:steps=7,loss=margin],lam=1", False),
        ("robust_features:teacher=[madry:norm=l2,attack=[pgd:steps=3]],images=4000", False),
        ("theirs.py:make", True),
        ("theirs.module:make:depth=3", True),
        ("advtrain:attack=[theirs.py:Attack:steps=7],lam=1", True),
        ("robust_features:teacher=theirs.py:make,images=4000", True),
        ("cascade:attacks=[pgd:steps=3+theirs.py:Attack]", True),
    ],
)
def test_specs_that_name_code(text, names):
    assert names_code(text) is names
