"""An interrupted training goes on from its last epoch, to the same weights bit for bit."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import checkpoint
from models.checkpoint import Cache, Partial
from models.seeding import seeded
from models.split import Split
from models.train import Settings, Standard, fit

SETTINGS = Settings(epochs=6, batch=10, optimiser="adam", lr=1e-2, decay=1e-3, seed=3, flips=True)


def split(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 3)


TRAIN, VALIDATION = split(47, 0), split(12, 1)


def untrained():
    """A net with buffers that draws random numbers in training."""
    with seeded(0):
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 3))


class Interrupted(KeyboardInterrupt):
    pass


@dataclass
class Memory:
    """Standard training with noise that moves on from update to update."""

    text: str = "L"
    replays: int = 2

    def loss(self, net, batch):
        noise = batch.memory.get("noise", torch.zeros(()))
        batch.memory["noise"] = noise + 0.01
        return F.cross_entropy(net(batch.x + noise), batch.y)

    def validate(self, net, validation, progress):
        return Standard().validate(net, validation, progress)


class Breaking:
    """An objective that is interrupted in its so-many-th validation or update."""

    def __init__(self, objective, *, validations=None, updates=None):
        self.objective, self.text = objective, objective.text
        self.replays = getattr(objective, "replays", 1)
        self.left = {"validations": validations, "updates": updates}

    def _count(self, what):
        if self.left[what] is not None:
            self.left[what] -= 1
            if self.left[what] < 0:
                raise Interrupted

    def loss(self, net, batch):
        self._count("updates")
        return self.objective.loss(net, batch)

    def validate(self, net, validation, progress):
        self._count("validations")
        return self.objective.validate(net, validation, progress)


def trained(objective, settings, keep=None, say=lambda _: None):
    net = untrained()
    log = fit(net, TRAIN, VALIDATION, objective, settings, say=say, keep=keep)
    return net.state_dict(), [entry | {"seconds": 0} for entry in log]


CASES = {
    "in an epoch": {"updates": 13},
    "in the first epoch": {"updates": 2},
    "between two epochs": {"updates": 10},
    "in a validation": {"validations": 2},
}


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, optimiser="sgd", epochs=60)])
@pytest.mark.parametrize("objective", [Standard(), Memory()], ids=["standard", "with memory"])
@pytest.mark.parametrize("where", CASES.values(), ids=CASES)
def test_resumed_training_equals_uninterrupted_training(settings, objective, where, tmp_path):
    # 60 epochs have a validation after every third (of 30 replayed ones after every second): losses
    # are summed across interruptions.
    expected, log = trained(objective, settings)
    keep, lines = Partial(tmp_path / "state.safetensors"), []
    with pytest.raises(Interrupted):
        trained(Breaking(objective, **where), settings, keep)
    weights, again = trained(objective, settings, keep, lines.append)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert again == log
    resumed = lines[0].startswith("going on after epoch ")
    assert resumed == (where != CASES["in the first epoch"])


def test_training_may_be_interrupted_after_every_epoch(tmp_path):
    expected, log = trained(Standard(), SETTINGS)
    keep = Partial(tmp_path / "state.safetensors")
    for _ in range(5):
        with pytest.raises(Interrupted):
            trained(Breaking(Standard(), validations=1), SETTINGS, keep)
    weights, again = trained(Standard(), SETTINGS, keep)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert again == log


def test_a_training_that_is_over_is_not_gone_on_with(tmp_path):
    keep = Partial(tmp_path / "state.safetensors")
    expected, log = trained(Standard(), SETTINGS, keep)
    weights, again = trained(Breaking(Standard(), updates=0), SETTINGS, keep)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert again == log


@dataclass
class Stops:
    """Ends training with its second entry; the first is the better one."""

    text: str = "stops"

    def loss(self, net, batch):
        return F.cross_entropy(net(batch.x), batch.y)

    def validate(self, net, validation, progress):
        late = progress > 1 / 6 + 1e-6
        return {"score": 0.5 - 0.25 * late} | ({"alarm": 1.0} if late else {})

    def is_over(self, log):
        return bool(log[-1].get("alarm"))


def test_an_objective_may_stop_training_and_the_best_checkpoint_stays():
    lines = []
    weights, log = trained(Stops(), SETTINGS, say=lines.append)
    assert [(entry["epoch"], entry.get("stop")) for entry in log] == [(1, None), (2, 1.0)]
    assert ", alarm, stop, " in lines[1]
    # By hand: the state after one epoch of the same six.
    net, first = untrained(), []

    class Once(Stops):
        def validate(self, net, validation, progress):
            first.append({name: value.clone() for name, value in net.state_dict().items()})
            return super().validate(net, validation, progress)

    fit(net, TRAIN, VALIDATION, Once(), SETTINGS)
    assert all(torch.equal(weights[name], value) for name, value in first[0].items())


def test_a_corrupt_or_older_state_is_not_gone_on_from(tmp_path):
    expected, _ = trained(Standard(), SETTINGS)
    keep = Partial(tmp_path / "state.safetensors")
    with pytest.raises(Interrupted):
        trained(Breaking(Standard(), updates=13), SETTINGS, keep)
    tensors, facts = keep.read()
    json.dumps(facts)
    raw = bytearray(keep.path.read_bytes())
    raw[-1] ^= 1
    keep.path.write_bytes(raw)
    assert keep.read() is None
    for _ in range(2):
        weights, _ = trained(Standard(), SETTINGS, keep)
        assert all(torch.equal(weights[name], value) for name, value in expected.items())
        keep.write(tensors, facts | {"format": 0})


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_way_back(tmp_path):
    (tmp_path / "file").write_text("")
    keep = Partial(tmp_path / "file" / "state.safetensors")
    expected, _ = trained(Standard(), SETTINGS)
    weights, _ = trained(Standard(), SETTINGS, keep)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    keep.drop()


def test_replays_hand_on_each_batch_so_often_in_as_many_fewer_epochs():
    seen = []

    class Watching(Memory):
        def loss(self, net, batch):
            seen.append(batch)
            return super().loss(net, batch)

    _, log = trained(Watching(replays=4), replace(SETTINGS, epochs=6, batch=20))
    assert [entry["epoch"] for entry in log] == [1, 2], "6 / 4, rounded up"
    assert len(seen) == 2 * 3 * 4
    assert [batch.update for batch in seen] == list(range(24))
    assert [batch.progress for batch in seen] == [number / 24 for number in range(24)]
    for first in range(0, 24, 4):
        assert all(torch.equal(seen[first].x, batch.x) for batch in seen[first : first + 4])
        assert all(batch.index is seen[first].index for batch in seen[first : first + 4])
    assert all(batch.memory is seen[0].memory for batch in seen)


def test_global_generators_are_left_alone_by_a_resumed_training(tmp_path):
    keep = Partial(tmp_path / "state.safetensors")
    with pytest.raises(Interrupted):
        trained(Breaking(Standard(), updates=13), SETTINGS, keep)
    before = torch.get_rng_state()
    trained(Standard(), SETTINGS, keep)
    assert torch.equal(torch.get_rng_state(), before)


# --- with the cache of a workshop ----------------------------------------------------------------


def test_cached_weights_and_unfinished_trainings_lie_apart(tmp_path):
    cache = Cache(tmp_path)
    assert cache.partial("k").path != cache.path("k")
    assert cache.partial("k").read() is None
    cache.partial("k").write({"a": torch.ones(2)}, {"epoch": 1})
    assert cache.get("k") is None
    tensors, facts = cache.partial("k").read()
    assert checkpoint.digest(tensors) == checkpoint.digest({"a": torch.ones(2)})
    assert facts == {"epoch": 1}
    cache.partial("k").drop()
    assert cache.partial("k").read() is None
