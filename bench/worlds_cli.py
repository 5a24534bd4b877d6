"""The command `bench worlds`; torch is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.errors import RequestError
from bench.features_cli import Quiet, interruptible, teller


def worlds(
    *,
    out: Annotated[Path, typer.Option(help="Folder of page, tables and figure.")] = Path("results"),
    seed: Annotated[int, typer.Option(help="Of samples and trainings.")] = 0,
    updates: Annotated[
        int | None,
        typer.Option(
            help="Of every generator that is trained; 0: none. Other than the default, what they "
            "find is not checked. [default: 2,000 on the ring, 5,000 on the grid]"
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Play the games so small that their answers are known; exit 1 where an answer is another.

    The game on the line, two shifted normals, the bilinear saddle, discrete distributions, the
    earth mover's distance, and GANs on a ring of 8 and a grid of 25 Gaussians. Writes worlds.md,
    three csv files and figures/worlds.svg.
    """
    from bench.store import Store

    for name, value in (("seed", seed), ("updates", updates)):
        if value is not None and not 0 <= value < 2**31:
            raise RequestError(f"--{name} must be from 0 to 2**31 - 1, got {value}")
    Store.probe(out)
    with interruptible("trained generators are kept"):
        from bench import worlds as work
        from bench.report.worlds import page, table
        from bench.report.write import FIGURES, place

        played = work.play(seed, updates, teller(quiet=quiet))
        texts = {**table.files(played), f"{FIGURES}/{page.FIGURE}": page.svg(played)}
        # All files before any line: a reader of the output may go away.
        written = [place(out / name, text.encode("utf-8")) for name, text in texts.items()]
        print(table.told(played), end="\n\n")
        print(*written, sep="\n")
    if played.failures:
        raise typer.Exit(1)
