"""Where a run computes: the device, the compute shape and the number of threads."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from attacks import loop
from bench.errors import RequestError
from bench.plan import FLOAT32, Numerics

SHAPES = {"cpu": 128}
_SHAPE_ELSEWHERE = 512


def device_of(wanted: str) -> str:
    """The device that `auto` means here, or the one asked for; refuses one that is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = wanted == "cpu" or torch.cuda.is_available()
    if not there or (":" in wanted and int(wanted.partition(":")[2]) >= torch.cuda.device_count()):
        raise RequestError(f"device {wanted} is not available here (bench doctor shows what is)")
    return wanted


def numerics_of(device: str) -> Numerics:
    """Float32 on a type of device with its default compute shape and number of threads."""
    kind = device.partition(":")[0]
    return Numerics(FLOAT32, kind, SHAPES.get(kind, _SHAPE_ELSEWHERE), threads(), loop.REVISION)


def threads() -> int:
    """Torch's threads where OMP_NUM_THREADS sets them, else half of them, at least one.

    Threads on every core stall on each other as soon as the machine does anything else: an update
    of a small net took 35 ms with 2 threads on 2 busy cores, 4 ms with one.
    """
    most = torch.get_num_threads()
    return most if "OMP_NUM_THREADS" in os.environ else max(1, most // 2)


def name_of(device: str) -> str:
    """The name of the GPU, else of the processor."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


@contextlib.contextmanager
def numerics(threads: int) -> Iterator[None]:
    """Float32 as such (no TF32), deterministic convolutions, a fixed number of threads; all of it
    and the global random state are put back afterwards.
    """
    before = torch.get_num_threads()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(threads)
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    cudnn.deterministic = True
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        torch.set_num_threads(before)
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = flags
