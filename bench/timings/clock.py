"""Works timed by turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Work = Callable[[], object]


def processor() -> float:
    """Seconds of this process; with an accelerator those on the wall, once it has caught up."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def once(work: Work, now: Callable[[], float] = processor) -> float:
    """The seconds that one call takes."""
    start = now()
    work()
    return now() - start


def interleaved(
    works: Sequence[Work], rounds: int, now: Callable[[], float] = processor
) -> list[float]:
    """The median seconds of each work over rounds that run all of them by turns."""
    taken = [[once(work, now) for work in works] for _ in range(rounds)]
    return [statistics.median(each) for each in zip(*taken, strict=True)]
