"""Memory of a device: what is free, the peak while a cell is attacked, and whether an error says
that there is none left.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

_SAYS_SO = (
    "DefaultCPUAllocator",
    "out of memory",
    "ALLOC_FAILED",
    "bad_alloc",
    "could not create a primitive",  # all that oneDNN says of it
)
"""What torch's own errors say of it, where they have no class of their own."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"
_MEMORY, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class NoLever(RuntimeError):
    """Memory ran out where fewer rows at once would not help: in a training."""


@contextlib.contextmanager
def no_lever(what: str) -> Iterator[None]:
    """Memory that runs out in here is a plain failure of `what`."""
    try:
        yield
    except Exception as err:
        if not ran_out(err):
            raise
        raise NoLever(f"out of memory in {what}: {err}") from err


def ran_out(err: BaseException) -> bool:
    """Whether an error, or the one that it was raised from, says that memory ran out."""
    link: BaseException | None = err
    while link is not None:
        if isinstance(link, NoLever):
            return False
        if isinstance(link, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(link, RuntimeError) and any(word in str(link) for word in _SAYS_SO):
            return True
        link = link.__cause__
    return False


def release() -> None:
    """Gives back what a failed cell held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free(device: torch.device) -> float:
    """Bytes that may still be taken on a device (for the CPU, of the machine or of the group of
    processes that it is limited to); infinite where nobody knows.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    if device.type != "cpu":
        return math.inf
    machine = _kilobytes(_MEMORY, "MemAvailable")
    most, used = (_number(_GROUP / f"memory.{name}") for name in ("max", "current"))
    group = math.inf if most is None or used is None else most - used
    return min(math.inf if machine is None else machine * 1024, group)


def watched(device: torch.device) -> Callable[[], float | None]:
    """Begins to watch; the function it returns tells the peak since then, in megabytes (10^6
    bytes).

    On a GPU what torch had allocated on it at most, weights and images included. On the CPU what
    the whole process had resident at most, libraries and dataset included, so that differences say
    more than the number; where the peak cannot be reset (it can on Linux), the most since the
    process started. None where nobody knows.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: _megabytes(torch.cuda.max_memory_allocated(device))
    if device.type != "cpu":
        return lambda: None
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_CLEAR_PEAK)
    return _peak_of_process


def _megabytes(count: int) -> float:
    return round(count / 1e6, 1)


def _peak_of_process() -> float | None:
    peak = _kilobytes(_STATUS, "VmHWM")
    if peak is not None:
        return _megabytes(peak * 1024)
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _megabytes(most if sys.platform == "darwin" else most * 1024)


def _kilobytes(path: Path, name: str) -> int | None:
    """The value of a line `name: 123 kB` of a file of the kernel's; None where there is none."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return None


def _number(path: Path) -> int | None:
    """The number that a file holds; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None
