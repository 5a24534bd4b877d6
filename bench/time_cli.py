"""The command `bench time`; torch is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.errors import RequestError
from bench.features_cli import Quiet, interruptible, teller


def time(
    *,
    out: Annotated[Path, typer.Option(help="Folder of timing.csv and timing.md.")] = Path(
        "results/timing"
    ),
    rounds: Annotated[int, typer.Option(help="Runs by turns of each work and floor.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="One round, few steps.")] = False,
    ratios: Annotated[Path | None, typer.Option(help="File for the ratios alone, as JSON.")] = None,
    quiet: Quiet = False,
) -> None:
    """Measure on this machine what steps, sweeps, starts and purification cost over their floors.

    Takes some minutes, and more the first time, when the nets of the sweeps are trained. Ratios are
    of runs by turns in one process on one torch thread.
    """
    from bench.store import Store

    if rounds < 1:
        raise RequestError(f"rounds must be at least 1, got {rounds}")
    Store.probe(out)
    with interruptible("nothing is kept"):
        import os

        from bench.report.write import csv, place
        from bench.runner import provenance
        from bench.timings import document
        from bench.timings.measure import Extent, machine, rows

        load = os.getloadavg()[0]
        extent = Extent.quick() if quick else Extent(rounds)
        made = list(rows(extent, teller(quiet=quiet)))
        text = document.markdown(made, machine(load), provenance("cpu")["command"])
        print(text, end="")
        for name, content in (("timing.csv", csv(document.frame(made))), ("timing.md", text)):
            print(place(out / name, content.encode("utf-8")))
        if ratios is not None:
            print(place(ratios, document.ratios(made).encode("utf-8")))
