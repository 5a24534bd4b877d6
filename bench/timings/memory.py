"""The most memory that a work holds."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from bench.timings.clock import Work

_PROC = Path("/proc/self")
_RESET_PEAK = "5"
"""What Linux wants to hear in clear_refs to start a new high-water mark."""


def peak_mb(work: Work) -> float | None:
    """The most megabytes while the work runs: allocated on the accelerator, else resident in this
    process; None where the system does not tell.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        work()
        return float(torch.cuda.max_memory_allocated()) / 2**20
    try:
        (_PROC / "clear_refs").write_text(_RESET_PEAK)
        told = True
    except OSError:
        told = False
    work()
    found = re.search(r"VmHWM:\s+(\d+) kB", (_PROC / "status").read_text()) if told else None
    return int(found[1]) / 2**10 if found else None
