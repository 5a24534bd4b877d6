"""Runs of cells in this process: what is stored, what fails, what must not move an outcome."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import bench
from attacks.registry import attacks
from bench import data, devices
from bench.api import CellFailed
from bench.audit.auditor import Auditor
from bench.errors import RequestError
from bench.executors import LocalExecutor
from bench.report.frames import tidy
from bench.resolution import resolve
from bench.runner import Silent, execute
from bench.spec import Request
from bench.store import Store
from models.seeding import seeded

TINY = "cnn_small:epochs=3"


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", None)


class Linear(nn.Module):
    """Logits (-s, s), s = w.(x - 1/2), |s| over a dual norm of w from the boundary."""

    def __init__(self, width=16):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, width))

    def forward(self, x):
        side = (x.flatten(1) - 0.5) @ self.weight
        return torch.stack([-side, side], 1)


def net_of(*makers):
    """The layers that the makers return, on flat images; the global random state stays."""
    with seeded(0):
        return nn.Sequential(nn.Flatten(), *(make() for make in makers))


def ten():
    return nn.Linear(64, 10)


def linear_problem(n=40):
    """Images near the middle of the box, labels as the model says, and exact linf distances."""
    model = Linear()
    images = data.load("digits", None).test.x[:n, :, 1:5, 2:6]
    x = 0.4 + 0.2 * images
    y = model(x).argmax(1)
    side = ((x.flatten(1).double() - 0.5) @ model.weight.double()).abs()
    return model, x, y, (side / model.weight.double().abs().sum()).detach().numpy()


def test_the_curve_of_a_linear_model_is_the_closed_form():
    model, x, y, distance = linear_problem()
    grid = [i / 100 for i in range(11)]
    run = bench.evaluate(model, (x, y), ["fgsm", "pgd:steps=5"], eps=grid)
    for name in ("fgsm", "pgd:steps=5"):
        rows = run.samples[run.samples.attack == name].sort_values("index")
        # The least radius of the grid above the exact distance, or none: no sample lies so close to
        # a radius that float32 could decide it.
        places = np.searchsorted(grid, distance)
        expected = np.array([*grid, np.inf])[places]
        assert np.array_equal(rows.min_eps.to_numpy(), expected)
    clean = run.table[(run.table.eps == 0)]
    assert (clean.accuracy == 1).all()
    assert float(run.accuracy(0.05)) == (distance >= 0.05).mean()


def test_counts_are_those_of_the_attack():
    model, x, y, distance = linear_problem()
    run = bench.evaluate(model, (x, y), ["pgd:steps=5"], eps=[0.0001], audit=False)
    rows = run.samples
    assert (distance > 0.0001).all()
    assert (rows.forward == 6).all()
    assert (rows.backward == 5).all()
    assert (rows.verify == 0).all()


def test_worst_case_is_per_sample():
    model, x, y, distance = linear_problem()
    run = bench.evaluate(model, (x, y), ["noise:samples=3", "fgsm"], eps=[0.02, 0.05], audit=False)
    by_attack = run.samples.pivot_table(index="index", columns="attack", values="min_eps")
    worst = by_attack.replace(np.inf, 9).min(axis=1).to_numpy()
    table = run.table
    row = table[(table.attack == "worst-case") & (table.eps == 0.05)].iloc[0]
    assert row.accuracy == (worst > 0.05).mean() == (distance >= 0.05).mean()
    assert row["mode"] == "black-box+white-box"


def test_misclassified_images_are_fooled_at_0_and_never_attacked():
    model, x, y, _ = linear_problem()
    y = y.clone()
    y[:7] = 1 - y[:7]
    rows = bench.evaluate(model, (x, y), ["pgd:steps=5"], eps=[0, 0.1], audit=False).samples
    wrong = rows[rows["label"] != rows.clean_prediction]
    assert len(wrong) == 7
    assert (wrong[["min_eps", "distance", "forward", "backward"]] == 0).all(axis=None)


@pytest.mark.parametrize("sweep", ["ladder", "bisect", "independent"])
def test_outcomes_do_not_depend_on_what_is_in_flight_nor_on_neighbours(digits, sweep):
    model = trained(digits)
    x, y = digits.test.x[:24], digits.test.y[:24]
    eps = [0.02, 0.04, 0.06, 0.09, 0.12]
    names = ["pgd:steps=4,restarts=2", "noise:samples=2", "pgd:steps=9,restarts=2"]

    def outcome(positions, batch_size):
        settings = {"eps": eps, "batch_size": batch_size, "sweep": sweep, "audit": False}
        run = bench.evaluate(model, (x[positions], y[positions]), names, **settings)
        columns = ["attack", "id", "min_eps", "distance", "forward", "backward", "verify"]
        return run.samples[columns].sort_values(["attack", "id"]).reset_index(drop=True)

    whole = outcome(torch.arange(24), None)
    assert whole.min_eps.nunique() > 2
    for batch_size in (1, 7, 256):
        assert outcome(torch.arange(24), batch_size).equals(whole)
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert outcome(shuffled, 7).equals(whole)
    part = outcome(shuffled[:9], None)
    assert part.equals(whole[whole.id.isin(part.id)].reset_index(drop=True))


def test_sweeps_that_infer_leave_no_more_standing_for_less(digits):
    """Against an attack from scratch at each of 15 radii; two seeds of that differ by up to 4 of
    100 images at a radius.
    """
    model = trained(digits)
    eps = [0.02 * number for number in range(1, 16)]
    settings = {"eps": eps, "n": 100, "audit": False}
    tables = {
        sweep: bench.evaluate(model, "digits", ["pgd:steps=40"], sweep=sweep, **settings).table
        for sweep in ("independent", "ladder", "bisect")
    }
    full = tables["independent"]
    assert 0 < full.accuracy.iloc[5] < 1
    for sweep, fewer in (("ladder", 2.5), ("bisect", 4.5)):
        excess = tables[sweep].accuracy.to_numpy() - full.accuracy.to_numpy()
        assert excess.max() <= 0.02
        assert excess.mean() <= 0.003
        assert fewer * tables[sweep].forward_queries.iloc[0] < full.forward_queries.iloc[0]


def test_independent_runs_every_eps_and_stores_a_bit_for_each(digits, tmp_path):
    model = trained(digits)
    settings = {"eps": [0, 0.1, 0.3], "n": 50, "sweep": "independent", "audit": False}
    bench.evaluate(model, "digits", ["fgsm"], out=tmp_path, **settings)
    with Store.read(tmp_path) as store:
        (record,) = store.records()
    bits = record.samples["fooled"].astype(bool)
    assert bits.shape == (50, 3)
    grid = np.array([0, 0.1, 0.3, np.inf])
    first = np.where(bits.any(1), bits.argmax(1), 3)
    assert np.array_equal(record.samples["min_eps"], grid[first])
    right = record.samples["min_eps"] > 0
    # One-step attacks from scratch at both radii: two looks each, whatever the first one said.
    assert (record.samples["forward"][right] == 4).all()


def trained(digits):
    from defenses.none import NoDefense
    from models.registry import models

    workshop = digits.workshop(
        models.get(TINY),
        torch.device("cpu"),
    )
    return NoDefense().deploy(workshop).predict


PLANTED = """
import torch
from torch import nn


class Broken(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.kind == "raises":
            raise RuntimeError("the planted fault")
        logits = self.net(x)
        if self.kind == "changes":
            self.calls += 1
        faults = {
            "nan": lambda: logits * float("nan"),
            "shape": lambda: logits[:, 0],
            "classes": lambda: logits[:, :9],
            "probabilities": lambda: logits.softmax(1),
            "nan under attack": lambda: logits * (1 if not torch.is_grad_enabled() else torch.nan),
            "detached": lambda: logits.detach(),
        }
        return faults.get(self.kind, lambda: logits)()


def net(kind: str = "sound"):
    return Broken(kind)
"""

FAULTS = {
    "nan": "NaN or infinite logits for",
    "shape": "must return logits (N, K)",
    "classes": "must return 10 logits per image, got 9",
    "probabilities": "returns probabilities",
    "changes": "changed itself while it was evaluated: calls",
    "raises": "the planted fault",
    "nan under attack": "NaN or infinite logits or gradients under attack",
    "detached": "no gradient",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_bad_model_fails_its_cells_visibly_and_the_others_go_on(kind, tmp_path):
    file = tmp_path / "planted.py"
    file.write_text(PLANTED)
    request = Request(
        models=(f"{file}:net:kind={kind}", f"{file}:net"),
        attacks=("pgd:steps=2",),
        n=20,
        eps="0,0.1",
        audit=False,
    )
    with Store.in_memory() as store:
        execute(resolve(request), store, LocalExecutor(), Silent())
        records = store.records()
        table = tidy(records).frame()
    assert len(records) == 2
    (failed,) = [r for r in records if r.failure]
    assert FAULTS[kind] in failed.failure
    assert "\n" not in failed.failure
    shown = table[table.failure != ""]
    assert shown.accuracy.isna().all()
    assert len(shown) == 2
    assert table[(table.failure == "") & (table.attack == "pgd:steps=2")].accuracy.notna().all()


def test_evaluate_says_why_an_attack_failed():
    model = net_of(ten, lambda: nn.Softmax(1))
    with pytest.raises(CellFailed, match="returns probabilities"):
        bench.evaluate(model, "digits", ["pgd:steps=2"], n=10, audit=False)


def test_an_audit_that_fails_is_told_and_takes_no_number_away(monkeypatch):
    def fails(self, clean):
        raise RuntimeError("the planted fault")

    monkeypatch.setattr(Auditor, "run", fails)
    run = bench.evaluate(net_of(ten), "digits", ["fgsm"], eps=0.1, n=20)
    assert run.audit.text == "warn: audit failed: the planted fault"
    assert run.table.accuracy.notna().all()
    assert 0 <= float(run.accuracy(0.1)) <= 1


def test_evaluate_leaves_the_model_and_the_random_state_as_found(digits):
    model = net_of(lambda: nn.BatchNorm1d(64), nn.Dropout, ten).train()
    model[3].weight.requires_grad_(requires_grad=False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    bench.evaluate(model, "digits", ["pgd:steps=2", "noise"], eps=0.1, n=20)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"dataset": "digitz"}, "did you mean 'digits'"),
        ({"attacks": []}, "at least one attack"),
        ({"attacks": ["pdg"]}, "did you mean 'pgd'"),
        ({"attacks": ["bim"], "norm": "l2"}, "bim knows the norms linf, got l2"),
        ({"attacks": ["latent"]}, "latent needs a defense with a generator"),
        ({"norm": "l3"}, "norm must be one of"),
        ({"eps": -1}, "at least 0"),
        ({"eps": []}, "empty"),
        ({"eps": float("nan")}, "finite"),
        ({"n": 501}, "from 1 to 500"),
        ({"sweep": "up"}, "sweep must be one of"),
        ({"dataset": (torch.full((2, 1, 8, 8), 1.5), torch.tensor([0, 1]))}, "in [0, 1]"),
        (
            {"dataset": (torch.rand(2, 1, 8, 8, generator=torch.Generator()), torch.tensor([0]))},
            "y must be",
        ),
        ({"dataset": (torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))}, "eps= is needed"),
    ],
)
def test_evaluate_refuses_before_any_work(arguments, says):
    with pytest.raises(RequestError) as err:
        bench.evaluate(net_of(ten), **arguments)
    assert says in str(err.value)


def test_accuracy_is_read_from_the_curve():
    model, x, y, distance = linear_problem()
    run = bench.evaluate(model, (x, y), ["fgsm"], eps="0,0.02,8/255", audit=False)
    assert float(run.accuracy("8/255")) == (distance >= 8 / 255).mean()
    assert float(run.accuracy(8 / 255)) == float(run.accuracy("8/255"))
    interval = run.accuracy(0)
    assert (float(interval), interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(1 / (1 + 1.959963984540054**2 / 40))
    with pytest.raises(RequestError, match="from 0 to the grid's largest"):
        run.accuracy(0.5)


def test_a_number_is_taken_for_the_fraction_it_was_meant_as(tmp_path):
    model, x, y, _ = linear_problem(5)
    bench.evaluate(model, (x, y), ["fgsm"], eps=[0.1, 8 / 255], out=tmp_path, audit=False)
    with Store.read(tmp_path) as store:
        assert store.records()[0].eps == (Fraction(8, 255), Fraction(1, 10))


class Stopped(Exception):
    """Stands for a kill at some moment."""


@dataclasses.dataclass
class StopsAfter(LocalExecutor):
    """Carries units out, and dies after a number of events."""

    events: int

    def run(self, units, say):
        for event in super().run(units, say):
            if self.events == 0:
                raise Stopped
            self.events -= 1
            yield event


@pytest.mark.parametrize("events", range(0, 30, 3))
def test_a_run_that_died_anywhere_goes_on_to_the_same_table(events, tmp_path, whole_table):
    job = resolve(RESUMED)
    with Store.open(tmp_path) as store:
        try:
            execute(job, store, StopsAfter(events), Silent())
        except Stopped:
            assert len(store.records()) < len(job.cells)
        execute(job, store, LocalExecutor(), Silent())
        assert timeless(store).equals(whole_table)


RESUMED = Request(
    models=(TINY,), attacks=("fgsm", "pgd:steps=3"), seeds=(0, 1), n=300, eps="0:0.2:0.1"
)


@pytest.fixture(scope="module")
def whole_table():
    with Store.in_memory() as store:
        execute(resolve(RESUMED), store, LocalExecutor(), Silent())
        return timeless(store)


def timeless(store):
    return tidy(store.records()).frame().drop(columns=["wall_s", "peak_memory_mb"])


def test_fresh_forgets_only_its_own_cells(tmp_path):
    settings = {"models": (TINY,), "n": 20, "eps": "0.1", "audit": False}
    one = resolve(Request(attacks=("fgsm",), **settings))
    two = resolve(Request(attacks=("noise",), **settings))
    with Store.open(tmp_path) as store:
        for job in (one, two):
            execute(job, store, LocalExecutor(), Silent())
        kept = {r.key: r.provenance["start"] for r in store.records()}
        execute(one, store, LocalExecutor(), Silent(), fresh=True)
        assert {r.key for r in store.records()} == set(kept)
        execute(one, store, _Never(), Silent())


class _Never:
    """An executor that must not be given work."""

    def run(self, units, say):
        assert not units
        return iter(())


def test_units_and_events_travel_between_processes():
    import pickle

    job = resolve(Request(models=(TINY,), attacks=("fgsm",), n=20, eps="0.1"))
    from bench import plan

    units = job.units(plan.missing(job.cells, {}))
    again = pickle.loads(pickle.dumps(units))  # noqa: S301  our own
    events = list(LocalExecutor().run(again, lambda _: None))
    assert len(pickle.loads(pickle.dumps(events))) == len(events) > 1  # noqa: S301  our own


def test_a_recipe_of_the_user_is_an_attack_like_any_other(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from attacks.pgd import Pgd\n\n"
        "@dataclass(frozen=True)\n"
        "class Twice(Pgd):\n"
        '    """PGD with twice the steps."""\n'
        "    steps: int = 8\n"
    )
    assert attacks.get(f"{file}:Twice:restarts=2").to_spec() == "mine:Twice:restarts=2"
    job = resolve(Request(models=(TINY,), attacks=(f"{file}:Twice",), n=20, eps="0.1", audit=False))
    with Store.in_memory() as store:
        execute(job, store, LocalExecutor(), Silent())
        (record,) = store.records()
    assert (record.attack, record.failure) == ("mine:Twice", "")


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RequestError, match="cuda is not available"):
        devices.device_of("cuda")
    assert devices.device_of("cpu") == "cpu"


@pytest.mark.parametrize("change", ["shape", "threads"])
def test_other_shapes_and_threads_move_few_outcomes(change, digits, monkeypatch):
    model, eps = trained(digits), [i / 50 for i in range(1, 8)]

    def outcome():
        run = bench.evaluate(model, "digits", ["pgd:steps=10"], eps=eps, n=400, audit=False)
        return run.samples.set_index("index").min_eps

    before = outcome()
    if change == "shape":
        monkeypatch.setitem(devices.SHAPES, "cpu", 48)
    else:
        monkeypatch.setattr(devices, "threads", lambda: 2)
    after = outcome()
    assert torch.get_num_threads() == 1
    grid = np.array([0, *eps, np.inf])
    steps = np.abs(np.searchsorted(grid, before) - np.searchsorted(grid, after))
    # Promise: at most 0.5 % of outcomes move, by one radius.
    assert steps.max() <= 1
    assert (steps > 0).mean() <= 0.005


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_processor(digits):
    model = trained(digits)
    settings = {"attacks": ["pgd:steps=10", "noise"], "eps": [0.05, 0.1, 0.15], "n": 400}
    settings["audit"] = False
    here = bench.evaluate(model, "digits", **settings).samples
    there = bench.evaluate(model.cuda(), "digits", **settings).samples
    assert (here.min_eps.to_numpy() != there.min_eps.to_numpy()).mean() <= 0.005


@pytest.mark.parametrize("what", ["revision of training", "usual batch", "weights"])
def test_what_decides_the_weights_is_in_the_key(what, tmp_path, monkeypatch):
    from models import recipes, train

    file = tmp_path / "net.py"
    text = (
        "import torch\n\ndef net():\n    return torch.nn.Sequential(torch.nn.Flatten(), layer())\n"
    )
    layer = "\ndef layer():\n    made = torch.nn.Linear(64, 10)\n    made.bias.data.fill_({})\n"
    file.write_text(text + layer.format(0))
    model = f"{file}:net" if what == "weights" else TINY
    request = Request(models=(model,), attacks=("fgsm",), n=20, audit=False)
    (before,) = resolve(request).cells
    assert resolve(request).cells == (before,)
    if what == "revision of training":
        monkeypatch.setattr(train, "REVISION", train.REVISION + 1)
    elif what == "usual batch":
        monkeypatch.setattr(recipes.CnnSmall, "usual_batch", 32)
    else:
        file.write_text(text + layer.format(1))
    (after,) = resolve(request).cells
    assert after.key != before.key


class Scaled(nn.Module):
    """Logits times a plain attribute, which is neither weight nor buffer."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        with seeded(0):
            self.layer = ten()

    def forward(self, x):
        return self.layer(x.flatten(1)) * self.factor


def test_stored_outcomes_of_another_model_are_not_reused(tmp_path):
    settings = {"attacks": ["fgsm"], "eps": [0.01, 0.05], "n": 60, "out": tmp_path, "audit": False}
    for factor in (1, -1, 1):
        here = bench.evaluate(Scaled(factor), "digits", **settings).samples.min_eps
        fresh = bench.evaluate(Scaled(factor), "digits", **(settings | {"out": None}))
        assert here.tolist() == fresh.samples.min_eps.tolist()
    with Store.read(tmp_path) as store:
        assert len(store.records()) == 2


def test_models_of_one_name_and_other_weights_are_rows_of_their_own(tmp_path):
    from bench.report.frames import leaderboard
    from models import checkpoint
    from models.registry import models

    texts = []
    for seed in (0, 1):
        net = models.get(f"logreg:seed={seed}").build((1, 8, 8), 10)
        path = tmp_path / str(seed) / "net.safetensors"
        checkpoint.write(path, net.state_dict(), {})
        texts.append(f"logreg:weights={path}")
    with Store.in_memory() as store:
        for text, attack in zip(texts, ("fgsm", "noise"), strict=True):
            settings = {"n": 40, "eps": "0,0.1", "audit": False}
            job = resolve(Request(models=(text,), attacks=(attack,), **settings))
            execute(job, store, LocalExecutor(), Silent())
        board = leaderboard(store.records()).frame()
    assert board.model.tolist() == ["logreg:weights=net"] * 2
    assert board.attacks.tolist() == [1, 1]


def test_a_random_model_is_refused_and_the_random_state_stays(digits):
    class Noisy(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10] + torch.randn(len(x), 10)

    with pytest.raises(CellFailed, match="answers differently each time"):
        bench.evaluate(Noisy(), "digits", ["fgsm"], n=20, audit=False)


def test_a_model_that_edits_its_weights_is_refused():
    class Learns(nn.Module):
        def __init__(self):
            super().__init__()
            with seeded(0):
                self.layer = ten()

        def forward(self, x):
            self.layer.weight.data.mul_(1.000001)
            return self.layer(x.flatten(1))

    model = Learns()
    before = model.layer.weight.clone()
    with pytest.raises(CellFailed, match="changed itself while it was evaluated"):
        bench.evaluate(model, "digits", ["fgsm"], n=20, audit=False)
    assert torch.equal(model.layer.weight, before)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_no_success_is_lost_to_rounding_at_the_size_of_photographs(norm):
    width = 3 * 32 * 32
    weight = torch.linspace(-1, 1, width)

    class Flat(nn.Module):
        def forward(self, x):
            side = (x.flatten(1) - 0.5) @ weight
            return torch.stack([-side, side], 1)

    draws = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(16, 3, 32, 32, generator=draws)
    y = Flat()(x).argmax(1)
    side = ((x.flatten(1).double() - 0.5) @ weight.double()).abs()
    # The l1 boundary lies within 1.5 times the distance without a box: one pixel moves 0.3 at most.
    distance = side / weight.double().abs().max() if norm == "l1" else side / weight.double().norm()
    eps = float(distance.max()) * 1.5
    run = bench.evaluate(Flat(), (x, y), ["pgd:steps=20"], norm=norm, eps=[eps], audit=False)
    assert float(run.accuracy(eps)) == 0
    with Store.in_memory() as store:
        assert store.records() == []
    assert (run.records[0].samples["refused"] == 0).all()


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ((torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0.7, 1.7])), "integers"),
        ((torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, -5])), "at least 0"),
        ((torch.zeros(2, 1, 8, 8), torch.tensor([0, 10])), "labels must be in 0..9"),
        ((torch.zeros(2, 1, 9, 9), torch.tensor([0, 1])), "does not take images of shape"),
        ((np.zeros((2, 1, 8, 8)), np.array([0, 1])), "must be tensors"),
    ],
)
def test_own_tensors_are_checked(dataset, says):
    with pytest.raises(RequestError, match=says):
        bench.evaluate(net_of(ten), dataset, eps=[0.1])


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.int32])
def test_own_tensors_of_other_types_are_converted(kind, digits):
    x, y = digits.test.x[:5], digits.test.y[:5]
    given = (x, y.to(kind)) if kind == torch.int32 else (x.to(kind), y)
    run = bench.evaluate(net_of(ten), given, "fgsm", eps=[0.1], audit=False)
    assert len(run.samples) == 5


def test_a_query_budget_holds_per_sample_and_radius():
    """PGD on a linear model falls at once or never: the budget cuts what stands."""
    model, x, y, _ = linear_problem()
    settings = {"eps": [0.001, 0.002, 0.05], "query_budget": 7, "audit": False}
    run = bench.evaluate(model, (x, y), ["pgd:steps=20"], **settings)
    rows = run.samples
    assert rows.forward.max() <= 21
    assert (rows[rows.min_eps == np.inf].forward == 21).all()
    assert set(run.table.query_budget) == {7}


@pytest.mark.parametrize(
    ("attack", "least"), [("fgsm", 2), ("spsa:pairs=4", 10), ("hopskipjump", 103)]
)
def test_a_budget_below_the_attack_s_minimum_is_refused(attack, least):
    norm = "linf"
    with pytest.raises(RequestError, match=f"needs a query budget of {least}, got {least - 1}"):
        resolve(Request(attacks=(attack,), norm=norm, query_budget=least - 1))
    with pytest.raises(RequestError, match="query-budget must be at least 1"):
        Request(query_budget=0)


def test_the_queries_of_the_first_success_are_stored(digits):
    net = net_of(ten)
    settings = {"eps": [0.05, 0.1], "n": 60, "audit": False}
    run = bench.evaluate(net, "digits", ["square:queries=40"], **settings)
    rows = run.samples
    fooled = rows.min_eps <= 0.1
    assert (rows[~fooled].queries == -1).all()
    assert (rows[rows.min_eps == 0].queries == 0).all()
    attacked = rows[fooled & (rows.min_eps > 0)]
    assert ((attacked.queries > 0) & (attacked.queries <= 40)).all()


class Flaky(nn.Module):
    """A model that raises at every third call, or always once it has been asked often enough."""

    def __init__(self, *, stays_down=False):
        super().__init__()
        self.net, self.stays_down, self.calls = Linear(), stays_down, 0

    def forward(self, x):
        self.calls += 1
        if self.calls % 3 == 0 or (self.stays_down and self.calls > 10):
            raise ConnectionError("timed out")
        return self.net(x)


def test_a_black_box_that_raises_now_and_then_is_asked_again_and_the_count_is_kept(tmp_path):
    model, x, y, _ = linear_problem()
    settings = {"attacks": ["square:queries=30"], "eps": [0.02], "audit": False}
    sound = bench.evaluate(model, (x, y), **settings)
    flaky = bench.evaluate(Flaky(), (x, y), out=tmp_path, **settings)
    assert flaky.samples.min_eps.tolist() == sound.samples.min_eps.tolist()
    assert flaky.samples.forward.tolist() == sound.samples.forward.tolist()
    (record,) = flaky.records
    (name,) = record.provenance["raised"]
    assert name == "ConnectionError: timed out"
    assert record.provenance["raised"][name] > 5


def test_a_black_box_that_stays_down_fails_its_cell():
    _, x, y, _ = linear_problem()
    with pytest.raises(CellFailed, match="raised 3 times in a row, last ConnectionError: timed"):
        bench.evaluate(
            Flaky(stays_down=True), (x, y), ["square:queries=30"], eps=[0.02], audit=False
        )


class Sure(nn.Module):
    """Probabilities in place of logits."""

    def __init__(self):
        super().__init__()
        self.net = Linear()

    def forward(self, x):
        return self.net(x).softmax(1)


def test_probabilities_are_refused_where_scores_or_gradients_are_seen():
    """They fail the cell of an attack that sees more than the class, not that of another."""
    _, x, y, _ = linear_problem()
    for attack in ("square", "pgd"):
        with pytest.raises(CellFailed, match="the model returns probabilities"):
            bench.evaluate(Sure(), (x, y), [attack], eps=[0.02], audit=False)
    names = ["hopskipjump:queries=120,first=9"]
    run = bench.evaluate(Sure(), (x, y), names, eps=[0.1], audit=False)
    assert float(run.accuracy(0.1)) < 1
