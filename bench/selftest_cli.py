"""The command `bench selftest`; torch is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.errors import RequestError
from bench.features_cli import Quiet, Root, interruptible, teller


def selftest(
    *,
    dataset: Annotated[str, typer.Option(help="digits or mnist.")] = "digits",
    n: Annotated[int | None, typer.Option(help="Test images. [default: 100; mnist: 200]")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A plant by its name; repeatable. [default: all]")
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out/--no-held-out", help="Run the variants held out of tuning, too."),
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder of selftest.csv and selftest.md.")] = Path(
        "results/selftest"
    ),
    data_root: Root = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate planted defenses whose truth is known, and honest ones; exit 1 where one deceives.

    Each plant must be driven to its truth or flagged suspect, and no honest defense flagged. Takes
    minutes, and more the first time, when nets are trained.
    """
    from bench.store import Store

    Store.probe(out)
    with interruptible("trained nets are kept"):
        from bench.report.write import csv, place
        from bench.runner import provenance
        from bench.selftest import document
        from bench.selftest.plants import PLANTS
        from bench.selftest.trial import Trials, extent
        from models.grammar import near

        known = list(dict.fromkeys(plant.name for plant in PLANTS))
        for name in only or ():
            if name not in known:
                raise RequestError(str(near(name, known, "plant", "bench selftest")))
        chosen = [
            plant
            for plant in PLANTS
            if plant.name in (only or known) and (held_out or not plant.held_out)
        ]
        asked, say, results = extent(dataset, n), teller(quiet=quiet), []
        for result in Trials(asked, data_root, say).results(chosen):
            results.append(result)
            plant, mark = result.plant, "ok" if result.is_right else "NOT OK"
            say(f"{plant.name} {plant.variant}: {result.level}, {mark}")
    text = document.markdown(results, asked, provenance("cpu")["command"])
    print(document.table(results))
    made = {"selftest.csv": csv(document.frame(results, asked)), "selftest.md": text}
    for name, content in made.items():
        print(place(out / name, content.encode("utf-8")))
    if not all(result.is_right for result in results):
        raise typer.Exit(1)
