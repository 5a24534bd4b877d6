"""The one place that seeds global generators: torch's for initialisation and dropout, and all of
them around code of others.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Forks the global generators of every device, seeds the forks, and leaves the originals as
    they were.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def seeded_everywhere(seed: int) -> Iterator[None]:
    """As seeded, for the global generators of numpy and of the standard library too: for code that
    is not ours and draws from them.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with seeded(seed):
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def states(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's global generators that work on a device moves, by name."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Puts such states back; inside `seeded`, which undoes it."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
