"""Samples added until intervals are narrow: what is reused, where it stops, what it leaves."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import bench
import bench.progress  # its import draws from random, which no test may move
from bench import data
from bench.cli import app
from bench.errors import RequestError
from bench.executors import LocalExecutor
from bench.lending import lend
from bench.plan import BLOCK, first_size, missing, whole_blocks
from bench.resolution import resolve
from bench.rounds import rounds
from bench.runner import Silent, execute
from bench.spec import Request, request_of
from bench.stats import half_width, wilson
from bench.store import Store
from bench.units import Done, Failed
from models.seeding import seeded

SIZE = 500
"""Images in the test split of digits."""
ASKED = Request(
    models=("logreg",),
    attacks=("pgd:steps=3", "noise:samples=2"),
    eps="0.02,0.04",
    bounds="none",
    audit=False,
)


class Told(Silent):
    """A watcher that writes down what it hears."""

    def __init__(self):
        self.said, self.warned = [], []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warned.append(text)


class Counting(LocalExecutor):
    """Notes the blocks that were attacked: how many samples of which cell."""

    def __init__(self):
        self.blocks = []

    def run(self, units, say):
        for event in super().run(units, say):
            if isinstance(event, Done):
                self.blocks.append((event.number, len(event.arrays["index"])))
            assert not isinstance(event, Failed), event.reason
            yield event


class Failing(LocalExecutor):
    """Fails at every cell."""

    def run(self, units, say):
        for unit in units:
            for item in unit.todo:
                yield Failed(item.cell.key, "no gradient", "")


@pytest.fixture
def store():
    with Store.in_memory() as opened:
        yield opened


def run_to(half, store, asked=ASKED, *, fresh=False):
    """The last job, what was attacked, what was told."""
    executor, told = Counting(), Told()
    job = resolve(dataclasses.replace(asked, until_ci=half))
    *_, job = rounds(job, store, executor, told, half, fresh=fresh)
    return job, executor.blocks, told


def without_clock(record):
    """A record as plain values, less what differs from run to run: time, memory, start."""
    kept = dataclasses.asdict(record) | {"seconds": 0.0}
    facts = kept.pop("provenance")
    clock = {"start", "training_seconds", "training_log", "peak_memory_mb"}
    kept["facts"] = {name: value for name, value in facts.items() if name not in clock}
    arrays = kept.pop("samples")
    kept["samples"] = {name: (array.dtype, array.tobytes()) for name, array in arrays.items()}
    return kept


def test_sizes_are_whole_blocks_within_the_split():
    assert [whole_blocks(n, 1000) for n in (1, 256, 257, 900, 1000)] == [256, 256, 512, 1000, 1000]
    assert whole_blocks(5, 40) == 40
    # what the split does not hold is not hidden: it is refused where samples are taken
    assert whole_blocks(1200, 1000) == 1200
    # no interval on 256 samples is narrow enough for 0.005, not even that of a share of 0
    assert half_width(wilson(0, 256)) > 0.005
    assert first_size(None, 0.005, 10_000) == 512
    assert half_width(wilson(0, 512)) < 0.005
    assert first_size(None, 0.05, 10_000) == first_size(3, 0.05, 10_000) == BLOCK
    assert first_size(700, 0.05, 10_000) == 768
    assert first_size(None, 0.0001, 300) == 300


def test_a_narrow_interval_needs_no_second_round(store):
    job, attacked, told = run_to(0.1, store)
    assert {cell.data.n for cell in job.cells} == {BLOCK}
    assert attacked == [(0, BLOCK)] * 2
    assert ("going on" in "".join(told.said), told.warned) == (False, [])
    record = store.records()[0]
    assert half_width(wilson(float((record.outcomes > 0.04).sum()), BLOCK)) <= 0.1


def test_stored_blocks_are_not_attacked_again_and_the_split_is_used_up(store):
    """The first block is attacked once; what it comes to is what a run on all images stores."""
    job, attacked, told = run_to(0.01, store)
    assert {cell.data.n for cell in job.cells} == {SIZE}
    assert sorted(attacked) == [(0, BLOCK)] * 2 + [(1, SIZE - BLOCK)] * 2
    assert "2 blocks of 256 images reused from another number of them" in told.said
    (going_on,) = (text for text in told.said if "going on" in text)
    assert going_on.startswith("digits: logreg / none is known to within 0.0")
    assert going_on.endswith("on n = 256, not 0.01: going on with n = 500")
    (used_up,) = told.warned
    assert used_up.endswith("on n = 500, not 0.01: the test set is used up")
    with Store.in_memory() as other:
        straight = resolve(dataclasses.replace(ASKED, n=SIZE))
        execute(straight, other, LocalExecutor(), Silent())
        assert [cell.key for cell in job.cells] == [cell.key for cell in straight.cells]
        expected = list(map(without_clock, other.records()))
    # nothing of the smaller round is left
    assert list(map(without_clock, store.records())) == expected
    # and again: all is there
    again, attacked, _ = run_to(0.01, store)
    assert attacked == []
    assert list(map(without_clock, store.records())) == expected
    assert again.cells == job.cells


def test_an_audit_is_made_once_and_stays(store):
    executor, asked = Counting(), dataclasses.replace(ASKED, until_ci=0.01, audit=True)
    *_, job = rounds(resolve(asked), store, executor, Silent(), 0.01)
    assert sorted(cell.data.n for cell in job.cells) == [100, SIZE, SIZE]
    assert executor.blocks.count((0, 100)) == 1
    kept = {record.key: record.kind for record in store.records()}
    assert [kept[cell.key] for cell in job.cells] == ["budget", "budget", "audit"]


def test_cells_that_were_there_before_stay(store):
    execute(resolve(dataclasses.replace(ASKED, n=BLOCK)), store, LocalExecutor(), Silent())
    _, attacked, _ = run_to(0.03, store)
    assert attacked == [(1, SIZE - BLOCK)] * 2
    assert sorted(record.n for record in store.records()) == [BLOCK] * 2 + [SIZE] * 2


def test_fresh_forgets_every_number_of_samples(store):
    run_to(0.03, store)
    _, attacked, _ = run_to(0.03, store, fresh=True)
    assert sorted(attacked) == [(0, BLOCK)] * 2 + [(1, SIZE - BLOCK)] * 2


def test_fewer_samples_take_their_blocks_from_more(store):
    executor = Counting()
    execute(resolve(dataclasses.replace(ASKED, n=SIZE)), store, executor, Silent())
    executor.blocks.clear()
    job = execute(resolve(dataclasses.replace(ASKED, n=BLOCK)), store, executor, Silent())
    assert executor.blocks == []
    with Store.in_memory() as other:
        execute(resolve(dataclasses.replace(ASKED, n=BLOCK)), other, LocalExecutor(), Silent())
        expected = list(map(without_clock, other.records()))
    keys = [cell.key for cell in job.cells]
    assert list(map(without_clock, store.records(keys))) == expected


def test_a_block_of_other_ids_or_a_damaged_one_is_not_lent(store):
    execute(resolve(dataclasses.replace(ASKED, n=BLOCK)), store, LocalExecutor(), Silent())
    cell = resolve(dataclasses.replace(ASKED, n=SIZE)).cells[0]
    other = dataclasses.replace(cell, data=dataclasses.replace(cell.data, blocks=("0" * 32,)))
    assert other.family == cell.family
    (item,) = missing([other], {})
    assert lend(item, store, {}) == 0
    # another attack, seed or grid is another family
    for change in ({"seed": 1}, {"eps": cell.eps[:1]}, {"attack": resolve(ASKED).cells[1].attack}):
        assert dataclasses.replace(cell, **change).family != cell.family
    (loan,) = store.loans(cell, 0)
    assert loan[0]["index"].shape == (BLOCK,)
    store._db.execute("UPDATE blocks SET digest = 'wrong'")
    (item,) = missing([cell], {})
    assert lend(item, store, {}) == 0
    assert store.blocks([cell.key]) == {cell.key: []}


def test_from_python_it_warns_where_samples_are_used_up():
    digits = data.load("digits", None)
    with seeded(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images = (digits.test.x[:300], digits.test.y[:300])
    with pytest.warns(UserWarning, match="on n = 300, not 0.001: the test set is used up"):
        run = bench.evaluate(net, images, "fgsm", eps="0.01", until_ci=0.001)
    assert len(run.samples) == 300
    plain = bench.evaluate(net, images, "fgsm", eps="0.01", n=300)
    assert np.array_equal(run.samples.min_eps, plain.samples.min_eps)
    assert run.records[0].key == plain.records[0].key
    short = bench.evaluate(net, images, "fgsm", eps="0.01", until_ci=0.2)
    assert len(short.samples) == BLOCK
    assert torch.isfinite(net[1].weight).all()


def test_a_given_model_is_the_same_for_more_images():
    """Its identity covers what it says of the first block."""
    digits = data.load("digits", None)
    with seeded(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images = (digits.test.x, digits.test.y)
    pipelines = {
        n: bench.evaluate(net, images, "fgsm", eps="0.01", n=n).records[0].pipeline
        for n in (100, BLOCK, SIZE)
    }
    assert pipelines[BLOCK] == pipelines[SIZE] != pipelines[100]


@pytest.mark.parametrize("half", [0, 0.5, -0.1, 1, float("nan")])
def test_what_no_interval_can_be_is_refused(half):
    with pytest.raises(RequestError, match=r"until-ci must lie between 0 and 0.5, both excluded"):
        request_of({"until_ci": half})


def test_it_is_a_setting_of_a_file():
    assert request_of({"until-ci": 0.02}).until_ci == 0.02
    with pytest.raises(RequestError, match="until_ci must be of type float, got 'narrow'"):
        request_of({"until_ci": "narrow"})


def test_the_command_says_why_it_goes_on_and_why_it_stops(tmp_path, capsys):
    words = ["run", "--model", "logreg", "--attack", "fgsm", "--eps", "0.02", "--no-audit"]
    words += ["--bounds", "none"]
    dry = [*words, "--until-ci", "0.01", "--out", str(tmp_path), "--dry-run"]
    app(dry, standalone_mode=False)
    assert capsys.readouterr().out.endswith("more images follow where --until-ci asks for them\n")
    app([*words, "--until-ci", "0.01", "--out", str(tmp_path)], standalone_mode=False)
    shown = capsys.readouterr()
    assert "on n = 256, not 0.01: going on with n = 500" in shown.err
    assert "not 0.01: the test set is used up" in shown.err
    assert "digits, linf, eps = 0.02, n = 500" in shown.out
    with Store.read(tmp_path) as opened:
        assert [record.n for record in opened.records()] == [SIZE]
    assert "n = 500 cannot see a drop below" in (tmp_path / "leaderboard.md").read_text()


def test_what_failed_ends_it(store):
    """A row without a number has no interval to wait for."""
    asked = dataclasses.replace(ASKED, attacks=("fgsm",))
    executor, told = Failing(), Told()
    job = resolve(dataclasses.replace(asked, until_ci=0.01))
    (job,) = rounds(job, store, executor, told, 0.01)
    assert [record.failure for record in store.records()] == ["no gradient"]
    assert told.warned == []
