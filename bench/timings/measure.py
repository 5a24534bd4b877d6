"""The whole of `bench time`: everything measured on one torch thread, and where."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from bench.devices import processor
from bench.timings import purification, startup, steps, sweeps
from bench.timings.row import Row


@dataclass(frozen=True)
class Extent:
    """How much is measured: rounds by turns; nets and at most so many steps of the step trials;
    nets, images and radii of the sweeps; steps of the inversion.
    """

    rounds: int
    nets: Sequence[str] = steps.NETS
    most: int | None = None
    defenses: Sequence[str] = sweeps.NETS
    images: int = sweeps.IMAGES
    radii: int = sweeps.RADII
    inversion: int = purification.STEPS

    @classmethod
    def quick(cls) -> Extent:
        """Enough to see that everything runs."""
        return cls(1, ("cnn_small",), 2, ("none",), images=8, radii=3, inversion=2)


def rows(extent: Extent, say: Callable[[str], None]) -> Iterator[Row]:
    """Every part in its turn; torch's threads come back as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    few = max(extent.rounds // 2, 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        for part in (
            startup.rows(extent.rounds),
            steps.rows(extent.rounds, nets=extent.nets, most=extent.most, device=device),
            sweeps.rows(few, say, nets=extent.defenses, images=extent.images, radii=extent.radii),
            purification.rows(few, steps=extent.inversion),
        ):
            for row in part:
                say(f"{row.part}: {row.name} on {row.on}: {row.ratio:.2f}")
                yield row
    finally:
        torch.set_num_threads(before)


def machine(load: float) -> dict[str, str]:
    """Where it was measured; load: of the machine before."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator"
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "accelerator": device,
        "torch": f"{torch.__version__}, 1 thread",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "load before and after": f"{load:.1f}, {os.getloadavg()[0]:.1f}",
    }
