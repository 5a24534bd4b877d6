"""The command `bench verify`; torch is imported when it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import RequestError
from bench.features_cli import Root

if TYPE_CHECKING:
    from bench.verification import Verdict

_HEADER = ("dataset", "model", "defense", "attack (mode)", "norm", "seed", "n")
_FOREIGN = ("dataset", "model", "defense", "file", "norm", "eps", "n")
_COUNTED = ("claimed", "verified", "moved", "wrong", "evidence")
_LINES = 20
"""Disagreements of a row that are printed."""


def verify(  # noqa: PLR0913  one parameter per flag
    *,
    out: Annotated[Path, typer.Option(help="Folder of the store.", show_default=True)] = Path(
        "results"
    ),
    data_root: Root = None,
    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu, cuda or cuda:N; auto: another one than a row's where there is one."
        ),
    ] = "auto",
    file: Annotated[
        list[Path] | None,
        typer.Option(
            help="Safetensors file from anywhere to check instead, with x_adv or delta, and index "
            "or id; repeatable."
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Of --file: dataset spec.")] = None,
    model: Annotated[str | None, typer.Option(help="Of --file: model spec.")] = None,
    defense: Annotated[
        str | None, typer.Option(help="Of --file: defense spec. [default: none]")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="Of --file: linf, l2, l1 or l0.")] = None,
    eps: Annotated[str | None, typer.Option(help="Of --file: the radius.")] = None,
) -> None:
    """Check stored adversarial images again, at another compute shape and on another device.

    Weights come from the cache and nothing is trained: a row whose weights or data are not here is
    not checked, which is said. Exit code 1 where something is wrong.
    """
    asked = {"dataset": dataset, "model": model, "defense": defense, "norm": norm, "eps": eps}
    if file:
        verdicts = _foreign(file, asked, data_root, device)
        _show(verdicts, _FOREIGN)
    else:
        given = [name for name, value in asked.items() if value is not None]
        if given:
            raise RequestError(f"--{given[0]} is of --file: a store knows its own")
        verdicts = list(_stored(out, data_root, device))
        _show(verdicts, _HEADER)
    if any(verdict.is_bad for verdict in verdicts):
        raise typer.Exit(1)


def _stored(out: Path, root: Path | None, device: str) -> Iterator[Verdict]:
    """The verdicts of a store's complete rows, each kept in it at once."""
    from bench.spec import Request
    from bench.store import Store

    Request(device=device)
    with Store.read(out) as store:
        from bench.verification import Verifier
        from models.checkpoint import cache_folder

        verifier = Verifier(out, root, device, cache_folder())
        for record in store.records():
            if record.failure:
                continue
            verdict = verifier.verdict(record)
            if verdict.facts:
                store.verified(record.key, verdict.facts)
            yield verdict


def _foreign(
    files: Sequence[Path], asked: dict[str, str | None], root: Path | None, device: str
) -> list[Verdict]:
    from bench.packing import sheet
    from bench.spec import Request

    told = {name: value for name, value in asked.items() if value is not None}
    missing = [name for name in ("dataset", "model", "norm", "eps") if name not in told]
    if missing:
        raise RequestError(f"--file needs --{missing[0]}, too")
    defense = told.get("defense", "none")
    request = Request(
        datasets=(told["dataset"],),
        models=(told["model"],),
        defenses=(defense,),
        norm=told["norm"],
        eps=told["eps"],
        device=device,
        data_root=root,
    )
    # Before torch is imported.
    sheets = [sheet(path) for path in files]
    from bench.verification import foreign
    from models.checkpoint import cache_folder

    return foreign(sheets, request, told["eps"], cache_folder())


def _show(verdicts: Sequence[Verdict], header: Sequence[str]) -> None:
    """A table, then what could not be checked, and a line per disagreement."""
    from bench.grids import github

    rows = [
        (
            *verdict.row,
            str(verdict.n),
            *map(str, (verdict.claimed, verdict.verified, verdict.moved, verdict.wrong)),
            verdict.state,
        )
        for verdict in verdicts
    ]
    print(github((*header, *_COUNTED), rows, "l" * (len(header) - 1) + "r" * 5 + "l"))
    for verdict in verdicts:
        row = " / ".join(verdict.row)
        if verdict.note:
            print(f"{verdict.state}: {row}: {verdict.note}")
        for fault in verdict.faults:
            print(f"wrong: {row}: {fault}")
        # Those that rounding does not explain first.
        for one in sorted(verdict.disagreements, key=lambda one: not one.is_wrong)[:_LINES]:
            print(f"{'wrong' if one.is_wrong else 'moved'}: {row}: {one}")
        more = len(verdict.disagreements) - _LINES
        if more > 0:
            print(f"... and {more} more of {row}")
    states = Counter(verdict.state for verdict in verdicts)
    print("\n" + ", ".join(f"{count} {state}" for state, count in states.items()))
