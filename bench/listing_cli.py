"""The commands `bench list` and `bench show`."""

from __future__ import annotations

import shutil
from typing import Annotated, Any

import typer

from bench.errors import RequestError


def _tables() -> dict[str, Any]:
    from attacks.registry import attacks
    from bench.datasets import datasets
    from defenses.registry import defenses
    from models.registry import generators, models

    return {
        "attacks": attacks,
        "defenses": defenses,
        "models": models,
        "generators": generators,
        "datasets": datasets,
    }


def list_(
    kind: Annotated[
        str, typer.Argument(help="attacks, defenses, models, generators or datasets.")
    ] = "",
    *,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As GitHub tables, without what each is.")
    ] = False,
) -> None:
    """List what there is, with kind, norms, access, keys and paper."""
    from bench import listing
    from models.grammar import near

    tables = _tables()
    if kind and kind not in tables:
        raise RequestError(str(near(kind, tables, "list", "bench list --help")))
    for name, table in tables.items():
        if kind in ("", name):
            if markdown:
                text = listing.markdown(name, table)
            else:
                # 0 where this is no terminal: whole lines, for grep.
                width = shutil.get_terminal_size((0, 0)).columns
                text = listing.listing(name, table, width)
            print(text, end="\n\n")


def show(name: Annotated[str, typer.Argument(help="A name that `bench list` prints.")]) -> None:
    """Show one entry: keys, types, defaults, kind, norms, access, paper."""
    from tabulate import tabulate

    from models.grammar import near

    tables = _tables()
    family = name.partition(":")[0]
    found = [t for t in tables.values() if name in t.names() or family in t.families]
    if not found:
        known = [entry for table in tables.values() for entry in table.names()]
        raise RequestError(str(near(name, known, "entry", "bench list")))
    for table in found:
        described = table.describe_class(name)
        print(f"{described.kind} {described.name}\n\n{described.text}\n")
        facts = {
            "kind": described.sort,
            "norms": ", ".join(described.norms),
            "access": described.access,
            "random": described.traits["randomness"],
            "hides gradients": described.traits["masking"],
            "refuses": described.traits["rejection"],
            "adaptive attack": described.traits["modes"],
            "paper": described.paper,
        }
        print("".join(f"{key}: {value}\n" for key, value in facts.items() if value))
        if described.keys:
            headers = ("key", "type", "default")
            print(tabulate(described.keys, headers, tablefmt="simple", disable_numparse=True))
