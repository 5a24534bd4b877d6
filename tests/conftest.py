"""What every test runs under: one thread, no network, caches of its own, no unseeded draws."""

import os

os.environ.update(  # before torch and matplotlib are imported, and for the subprocesses of tests
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="passive",
    CUBLAS_WORKSPACE_CONFIG=":4096:8",
    MPLBACKEND="Agg",
)

import random
import socket
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest
import rich.progress  # noqa: F401  its import draws from `random`: before any test

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=100)
hypothesis.settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Benchmarks are timed one at a time: asking for them turns the workers off."""
    if config.getoption("benchmark_enable") or config.getoption("benchmark_only"):
        config.option.numprocesses = 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what this machine cannot run."""
    if item.get_closest_marker("data") and "BENCH_DATA" not in os.environ:
        pytest.skip("BENCH_DATA is not set")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no accelerator")


@pytest.fixture(scope="session", autouse=True)
def _deterministic_torch() -> None:
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


@pytest.fixture(scope="session", autouse=True)
def _own_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        yield


def _local_only(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX:
            pytest.fail(f"a test may not use the network, but connects to {address!r}")
        return connect(self, address)

    return guarded


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _local_only(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", _local_only(socket.socket.connect_ex))
        yield


def _global_states() -> dict[str, object]:
    """The global random states, in a form that compares by value."""
    import torch

    _, key, *rest = np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "random": random.getstate(),
        "numpy": (key.tobytes(), rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
    } | {f"cuda:{i}": state.numpy().tobytes() for i, state in enumerate(devices)}


@pytest.fixture(autouse=True)
def _no_unseeded_draws() -> Iterator[None]:
    """Fails a test that moved a global random state.

    Hypothesis seeds `random` and `numpy` for each example and restores both by itself.
    """
    before = _global_states()
    yield
    after = _global_states()
    moved = [name for name, state in before.items() if after[name] != state]
    if moved:
        pytest.fail(f"the test moved the global random state of {', '.join(moved)}")
