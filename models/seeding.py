"""The one place that seeds torch's global generators, for initialisation and dropout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Forks the global generators of every device, seeds the forks, and leaves the originals as
    they were.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)  # noqa: TID251  the one permitted place
        yield
