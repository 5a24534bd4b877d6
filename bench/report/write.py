"""Puts the tables, figures and the page into a folder; each file appears whole or not at all."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import StoreError
from bench.files import place
from bench.report import (
    anytime,
    audit,
    certified,
    claims,
    comparisons,
    detection,
    figures,
    frames,
    gallery,
    html,
    learning,
    markdown,
    modes,
    queries,
    seeds,
    strength,
    tradeoff,
    transfer,
)
from bench.report.claims import Claim
from bench.report.derived import remembered
from bench.report.markdown import summary
from bench.report.rows import Rows
from bench.store import Record

__all__ = ["place", "summary", "write"]

if TYPE_CHECKING:
    import pandas as pd

FIGURES = "figures"


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Writes every derived file, removes figures that are no longer made; returns the files."""
    claimed = claims.kept(folder)
    with remembered(), _uncollected():
        texts, drawn = documents(records, claimed)
    texts |= {f"{FIGURES}/{name}": text for name, text in drawn.items()}
    written = [place(folder / name, text.encode("utf-8")) for name, text in texts.items()]
    _remove_stale(folder / FIGURES, set(drawn))
    return written


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for cycles: a search goes over every row there is, few things have any."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def documents(
    records: Sequence[Record], claimed: Sequence[Claim] = ()
) -> tuple[dict[str, str], dict[str, str]]:
    """Every derived text and every figure, by file name. claimed: what others say they measured."""
    curves = frames.curves(records)
    drawn = figures.figures(curves) | tradeoff.figures(records) | learning.drawn(records)
    drawn |= gallery.drawn(records)
    progress = anytime.anytime(records)
    texts = {
        "accuracy_vs_eps.csv": frames.tidy(records).csv(),
        "accuracy_vs_eps.md": markdown.accuracy(records),
        "leaderboard.csv": frames.leaderboard(records).csv(),
        "leaderboard.md": markdown.leaderboard(records, claims.claims(claimed)),
        "attacks.csv": strength.attacks(records).csv(),
        "attacks.md": markdown.attacks(records),
        "anytime.csv": progress.csv(),
        "anytime.md": markdown.anytime(records),
        "timing.csv": frames.timing(records).csv(),
        "timing.md": markdown.timing(records),
        "report.html": html.page(records, drawn),
    }
    for name, (made, written) in _WHERE_ANY.items():
        if len(table := made(records)):
            texts |= {f"{name}.csv": table.csv(), f"{name}.md": written(records)}
    drawn |= detection.drawn(records) | certified.figures(records)
    if claimed:
        texts["claims.csv"] = claims.claims(claimed).csv()
    spread = seeds.seeds(records)
    if seeds.several(spread):
        texts |= {"seeds.csv": spread.csv(), "seeds.md": markdown.seeds(records)}
    trained = learning.learning(records)
    if len(trained):
        texts["learning.csv"] = trained.csv()
    drawn |= queries.figures(progress)
    return texts, drawn


_Table = Callable[[Sequence[Record]], Rows]
_Text = Callable[[Sequence[Record]], str]
_WHERE_ANY: Mapping[str, tuple[_Table, _Text]] = {
    "audit": (audit.audits, markdown.audit),
    "certified": (certified.certified, markdown.certified),
    "comparisons": (comparisons.comparisons, markdown.comparisons),
    "detection": (detection.detection, markdown.detection),
    "modes": (modes.modes, markdown.modes),
    "transfer": (transfer.transfer, markdown.transfer),
}
"""Tables that are written where they have a row, as data and as text."""


def csv(frame: pd.DataFrame) -> str:
    """A frame as CSV: shortest floats, missing values empty, lines end in a line feed."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _remove_stale(folder: Path, made: set[str]) -> None:
    modules = (figures, tradeoff, learning, gallery, queries, detection, certified)
    ours = tuple(module.PREFIX for module in modules)
    for path in folder.glob("*.svg"):
        if path.name.startswith(ours) and path.name not in made:
            try:
                path.unlink(missing_ok=True)
            except OSError as err:
                raise StoreError(f"{path} cannot be removed ({err.strerror})") from err
