"""In which precision a run searches: as asked, fallen back on, measured; and what stays float32."""

import json

import pytest
import torch
from torch import nn

import bench
from bench import devices, precision
from bench.errors import RequestError
from bench.precision import Precisions, chosen, has_bfloat16, measured
from bench.resolution import resolve
from bench.spec import Request, request_of
from models import checkpoint
from models.registry import models
from models.seeding import seeded

FASTER = {"fp32": 0.3, "bf16": 0.1, "bf16+channels_last": 0.2}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return checkpoint.cache_folder() / "precision"


@pytest.fixture
def native(monkeypatch):
    """A machine with bfloat16 whose steps take what the list's last entry says; the calls."""
    calls = [FASTER]

    def timed(net, shape, classes, rows, device):
        calls.append(calls[-1])
        return calls[-1]

    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "measured", timed)
    return calls


@pytest.fixture
def bare(monkeypatch):
    """A machine without bfloat16, on which nothing is timed."""

    def timed(*_):
        raise AssertionError("timed for nothing")

    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(precision, "measured", timed)


def planned(wanted, **asked):
    job = resolve(Request(**asked, precision=wanted, device="cpu", n=20, audit=False))
    return job.cells, job.notes


def keys(cells):
    return [cell.key for cell in cells]


@pytest.mark.parametrize(
    ("wanted", "seconds", "answer"),
    [
        ("auto", {}, ("fp32", False)),
        ("bf16", {}, ("bf16", False)),
        ("auto", {"fp32": 1.2, "bf16": 1.0}, ("bf16", False)),
        ("auto", {"fp32": 1.19, "bf16": 1.0}, ("fp32", False)),
        ("bf16", {"fp32": 1.0, "bf16": 9.0}, ("bf16", False)),
        ("auto", {"fp32": 1.0, "bf16": 1.0, "bf16+channels_last": 0.8}, ("bf16", True)),
        ("auto", {"fp32": 1.0, "bf16": 0.5, "bf16+channels_last": 0.49}, ("bf16", False)),
        ("auto", {"fp32": 1.0, "fp32+channels_last": 0.6, "bf16": 0.6}, ("fp32", True)),
        ("auto", {"fp32": 1.0, "fp32+channels_last": 0.6, "bf16": 0.5}, ("bf16", False)),
    ],
)
def test_what_the_seconds_of_a_step_say(wanted, seconds, answer):
    assert chosen(wanted, seconds) == answer


def test_without_the_hardware_bf16_falls_back_and_says_so(bare, cache):
    exact, none = planned("fp32")
    reduced, notes = planned("bf16")
    chosen_here, silent = planned("auto")
    assert keys(exact) == keys(reduced) == keys(chosen_here)
    assert {cell.numerics.precision for cell in reduced} == {"fp32"}
    assert notes == ("no native bfloat16 on cpu: attacks search in float32",)
    assert none == silent == ()
    assert not cache.exists()


def test_precision_belongs_to_the_key_of_what_bears_it(native, cache):
    """A minimal attack, one that is told logits, and a certificate stay float32."""
    asked = {"attacks": ("pgd", "deepfool", "square"), "defenses": ("smoothing",), "norm": "l2"}
    exact, _ = planned("fp32", **asked)
    reduced, notes = planned("bf16", **asked)
    assert {cell.attack.text for cell in exact} == {"pgd", "deepfool", "square", "certify"}
    for before, after in zip(exact, reduced, strict=True):
        moved = after.attack.text == "pgd"
        assert after.attack == before.attack
        assert (after.key != before.key) == moved
        assert after.numerics.precision == ("bf16" if moved else "fp32")
    assert notes == tuple(
        f"{text} does not bear rounding: it searches in float32" for text in ("deepfool", "square")
    )


def test_auto_times_an_architecture_once_and_finds_the_same_answer_again(native, cache):
    first, notes = planned("auto", defenses=("jpeg",))
    assert len(native) == 2, "two defenses, one model"
    assert {(c.numerics.precision, c.numerics.channels_last) for c in first} == {("bf16", False)}
    assert notes[-1].startswith("attacks on cnn_small search in bfloat16")
    native.append({"fp32": 0.1, "bf16": 0.3})
    assert keys(planned("auto", defenses=("jpeg",))[0]) == keys(first)
    assert len(native) == 3
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text()) == FASTER
    kept.write_text("[")
    again, _ = planned("auto", defenses=("jpeg",))
    assert {cell.numerics.precision for cell in again} == {"fp32"}
    assert json.loads(kept.read_text()) == native[-1]


def test_another_architecture_is_timed_by_itself(native, cache):
    own = devices.numerics_of("cpu")
    with seeded(0):
        nets = nn.Linear(4, 2), nn.Linear(4, 3), nn.Linear(4, 2, bias=False)
    for net in nets:
        Precisions("auto", "cpu", cache).of(own, "net", lambda net=net: net, (1, 2, 2), 2)
    assert len(native) == 4


def test_a_net_without_a_step_to_time_is_float32(monkeypatch, cache):
    """It may fail in bfloat16 alone, as a layer that knows one type does."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)

    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 2))

        def forward(self, x):
            logits = torch.zeros(len(x), 2)
            logits[torch.arange(len(x))] = x.flatten(1) @ self.weight
            return logits

    own = devices.numerics_of("cpu")
    precisions = Precisions("auto", "cpu", cache)
    assert precisions.of(own, "net", Picky, (1, 2, 2), 2) == own
    assert not cache.exists()


@pytest.mark.parametrize(("model", "kinds"), [("cnn_small", 3), ("mlp", 2)])
def test_a_step_is_timed_in_every_way_worth_a_look(model, kinds):
    net = models.get(model).build((1, 8, 8), 10)
    before = checkpoint.digest(net.state_dict())
    seconds = measured(net, (1, 8, 8), 10, 2, "cpu")
    assert list(seconds) == ["fp32", "bf16", "bf16+channels_last"][:kinds]
    assert min(seconds.values()) > 0
    assert checkpoint.digest(net.state_dict()) == before
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
@pytest.mark.parametrize("known", [True, False])
def test_a_cpu_has_bfloat16_where_torch_says_so(monkeypatch, name, known):
    for other in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, other, lambda: False)
    if known:
        monkeypatch.setattr(torch.cpu, name, lambda: True)
    else:
        monkeypatch.delattr(torch.cpu, name)
    assert has_bfloat16("cpu") == known


def test_a_setting_of_a_file_is_the_flag():
    assert request_of({"precision": "bf16"}) == Request(precision="bf16")
    assert Request().precision == "auto"


class Watched(nn.Module):
    """A small net that notes, per call, whether gradients are recorded and bfloat16 is on."""

    def __init__(self):
        super().__init__()
        with seeded(0):
            self.net = models.get("cnn_small").build((1, 8, 8), 10)
        self.calls, self.strides = set(), set()

    def forward(self, x):
        self.calls.add((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        self.strides.add((torch.is_grad_enabled(), x.stride()[1:]))
        return self.net(x)


def problem():
    net = Watched().eval()
    x = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = net(x).argmax(1)
    net.calls.clear()
    net.strides.clear()
    return net, x, y


def test_the_search_alone_is_bfloat16(native, cache):
    net, x, y = problem()
    before = checkpoint.digest(net.state_dict())
    grid = [0.02, 0.05, 0.1]
    settings = {"attacks": "pgd:steps=4", "eps": grid, "audit": False}
    run = bench.evaluate(net, (x, y), precision="bf16", **settings)
    # The judge and the clean pass record no gradients; the share of zero gradients is float32, too.
    assert net.calls == {(False, False), (True, True), (True, False)}
    assert set(run.table.precision) == {"bf16"}
    assert checkpoint.digest(net.state_dict()) == before
    assert not torch.is_autocast_enabled("cpu")
    exact = bench.evaluate(net, (x, y), precision="fp32", **settings)
    assert (run.samples.clean_prediction == exact.samples.clean_prediction).all()
    assert set(run.table.cell) != set(exact.table.cell)


def test_channels_last_where_it_pays_and_never_in_the_verdict(native, cache):
    net, x, y = problem()
    first = bench.evaluate(net, (x, y), "fgsm", eps=0.1, precision="bf16", audit=False)
    by_rows, by_channels = (64, 8, 1), (1, 8, 1)
    assert net.strides == {(False, by_rows), (True, by_rows)}
    for kept in cache.iterdir():
        kept.unlink()
    native.append(FASTER | {"bf16+channels_last": 0.05})
    second = bench.evaluate(net, (x, y), "fgsm", eps=0.1, precision="bf16", audit=False)
    assert net.strides == {(False, by_rows), (True, by_rows), (True, by_channels)}
    assert set(first.table.cell) != set(second.table.cell)


def test_evaluate_warns_where_it_falls_back(bare, cache):
    net, x, y = problem()
    with pytest.warns(UserWarning, match="no native bfloat16 on cpu"):
        run = bench.evaluate(net, (x, y), "fgsm", eps=0.1, precision="bf16", audit=False)
    assert set(run.table.precision) == {"fp32"}
    assert (True, True) not in net.calls


def test_evaluate_refuses_another_word():
    net, x, y = problem()
    with pytest.raises(RequestError, match="precision must be one of auto, fp32, bf16"):
        bench.evaluate(net, (x, y), "fgsm", eps=0.1, precision="fp16")
