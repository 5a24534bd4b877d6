"""What it takes to start: processes of their own, from nothing to their exit."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from bench.timings.clock import interleaved
from bench.timings.row import Row

ROOT = Path(__file__).resolve().parents[2]
_PLAIN = ("-c", "pass")
_TORCH = ("-c", "import torch")
STARTS: Sequence[tuple[str, tuple[str, ...], str, tuple[str, ...]]] = (
    ("import bench", ("-c", "import bench"), "python", _PLAIN),
    ("bench --help", ("-m", "bench", "--help"), "python", _PLAIN),
    ("an unknown name", ("-m", "bench", "run", "--attack", "pdg"), "python", _PLAIN),
    ("bench run --dry-run", ("-m", "bench", "run", "--dry-run"), "import torch", _TORCH),
)
"""What is started, and what over: names and arguments of the interpreter."""
REFUSED = 2


def start(arguments: Sequence[str], folder: Path) -> int:
    """Runs the interpreter in a folder of its own; returns its exit status."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(  # noqa: S603  our own words
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    return done.returncode


def rows(rounds: int) -> Iterator[Row]:
    """Every start, in seconds on the wall."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, arguments, over, bare in STARTS:
            works = partial(start, arguments, folder), partial(start, bare, folder)
            for work in works:
                work()
            seconds, floor_s = interleaved(works, rounds, time.perf_counter)
            yield Row("start", title, "a new process", seconds, over, floor_s)
