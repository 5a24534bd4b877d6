"""Compute shapes that are kept in the cache: those that pay for a model on a GPU, and those that
cells came down to where memory ran out.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from attacks.draws import Draws
from attacks.oracles import frozen
from attacks.pipelines import said
from bench import memory, plan
from bench.devices import name_of, numerics
from bench.plan import Cell, Numerics, Part
from models import checkpoint

_LEAST, _MOST = 128, 4096
_GAIN = 1.05
"""Throughput of twice the rows over that of the rows, from which on they pay."""
_SHARE = 0.5
"""Of the free memory, that a bare step may take: an attack holds more than that."""
_WARM_UP, _TIMED = 2, 5


@dataclass(frozen=True)
class Shapes:
    """A file for each shape, known by what it depends on; device: the hardware's name."""

    folder: Path
    device: str

    @classmethod
    def on(cls, device: str) -> Self:
        """Those of a device, in the cache."""
        return cls(checkpoint.cache_folder() / "shapes", name_of(device))

    def fitted(self, cell: Cell) -> Cell:
        """The cell, under the smaller shape that its like came down to before."""
        kept = self._kept(self._like(cell))
        return cell if kept is None or kept >= cell.numerics.shape else cell.under(kept)

    def keep(self, cell: Cell) -> None:
        """Notes that the shape of this cell is what memory is enough for."""
        self._keep(self._like(cell), cell.numerics.shape)

    def paying(
        self, found: Numerics, device: str, model: Part, image: tuple[int, ...], net: Net
    ) -> Numerics:
        """The numerics under the shape that pays for a model and images (C, H, W): on a GPU, where
        it is measured once, else the default.
        """
        if found.device == "cpu":
            return found
        facts = {
            "device": self.device,
            "model": model.identity,
            "image": list(image),
            "precision": found.precision,
        }
        shape = self._kept(facts)
        if shape is None:
            shape = _measured(net, image, torch.device(device), found.threads)
            if shape is not None:
                self._keep(facts, shape)
        return found if shape is None else replace(found, shape=shape)

    def _like(self, cell: Cell) -> dict[str, Any]:
        """What the memory of a cell's step depends on: neither images nor radii nor seeds."""
        return {
            "device": self.device,
            "pipeline": cell.pipeline,
            "attack": cell.attack.identity,
            "mode": cell.attack.mode,
            "norm": cell.norm,
            "eot": cell.eot,
            "precision": cell.numerics.precision,
        }

    def _path(self, facts: Mapping[str, Any]) -> Path:
        return self.folder / f"{plan.digest(facts)}.json"

    def _kept(self, facts: Mapping[str, Any]) -> int | None:
        """The shape of these facts; a file that does not hold one counts for nothing."""
        try:
            shape = json.loads(self._path(facts).read_text(encoding="utf-8"))["shape"]
        except (OSError, ValueError, TypeError, LookupError):
            return None
        return shape if isinstance(shape, int) and shape > 0 else None

    def _keep(self, facts: Mapping[str, Any], shape: int) -> None:
        """Writes it, whole or not at all. A folder that cannot be written costs the memory of it,
        nothing else.
        """
        path = self._path(facts)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({**facts, "shape": shape}, file, sort_keys=True)
            Path(temporary).replace(path)


Net = Callable[[], nn.Module]
"""Makes the net that is measured: its architecture counts, not its weights."""


def _measured(net: Net, image: tuple[int, ...], device: torch.device, threads: int) -> int | None:
    """The shape that pays; None for a net that cannot be asked or differentiated."""
    try:
        with numerics(threads):
            asked = net().to(device)
            with frozen(asked):
                return paying(lambda shape: throughput(asked, image, device, shape))
    except Exception:  # noqa: BLE001  a boundary of its own: the cell will fail and say why
        return None
    finally:
        memory.release()


def paying(rate: Callable[[int], float | None]) -> int:
    """The first power of two from 128 to 4,096 after which twice the rows are less than 5 % faster;
    rate: of so many rows, images per second, None where memory is short.
    """
    shape, now = _LEAST, rate(_LEAST)
    while now is not None and shape < _MOST:
        more = rate(2 * shape)
        if more is None or more < _GAIN * now:
            break
        shape, now = 2 * shape, more
    return shape


def throughput(
    net: nn.Module, image: tuple[int, ...], device: torch.device, shape: int
) -> float | None:
    """Images per second of a forward and a backward pass to the input; None where a step takes more
    than half of the free memory.
    """
    free = memory.free(device)
    x = torch.full((shape, *image), 0.5, device=device)
    draws, seconds = Draws.of(x, 0), []
    peak = memory.watched(device)
    try:
        for _ in range(_WARM_UP + _TIMED):
            start = time.perf_counter()
            point = x.clone().requires_grad_()
            torch.autograd.grad(said(net, point, draws).logsumexp(1).sum(), point)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
    except Exception as err:
        if not memory.ran_out(err):
            raise
        return None
    taken = peak()
    if device.type == "cuda" and taken is not None and taken * 1e6 > _SHARE * free:
        return None
    return shape / statistics.median(seconds[_WARM_UP:])
