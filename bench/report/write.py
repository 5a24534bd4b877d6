"""Puts the tables, figures and the page into a folder; each file appears whole or not at all."""

from __future__ import annotations

import contextlib
import gc
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import StoreError
from bench.report import (
    anytime,
    certified,
    claims,
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
    if claimed:
        texts["claims.csv"] = claims.claims(claimed).csv()
    sources = transfer.transfer(records)
    if len(sources):
        texts |= {"transfer.csv": sources.csv(), "transfer.md": markdown.transfer(records)}
    handed = modes.modes(records)
    if len(handed):
        texts |= {"modes.csv": handed.csv(), "modes.md": markdown.modes(records)}
    watched = detection.detection(records)
    if len(watched):
        texts |= {"detection.csv": watched.csv(), "detection.md": markdown.detection(records)}
        drawn |= detection.drawn(records)
    proven = certified.certified(records)
    if len(proven):
        texts |= {"certified.csv": proven.csv(), "certified.md": markdown.certified(records)}
        drawn |= certified.figures(records)
    spread = seeds.seeds(records)
    if seeds.several(spread):
        texts |= {"seeds.csv": spread.csv(), "seeds.md": markdown.seeds(records)}
    trained = learning.learning(records)
    if len(trained):
        texts["learning.csv"] = trained.csv()
    drawn |= queries.figures(progress)
    return texts, drawn


def csv(frame: pd.DataFrame) -> str:
    """A frame as CSV: shortest floats, missing values empty, lines end in a line feed."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def place(path: Path, content: bytes) -> Path:
    """Writes a file whole or not at all, whoever else writes the same; makes its folder."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as err:
        raise StoreError(f"{path} cannot be written ({err.strerror})") from err
    return path


def _remove_stale(folder: Path, made: set[str]) -> None:
    modules = (figures, tradeoff, learning, gallery, queries, detection, certified)
    ours = tuple(module.PREFIX for module in modules)
    for path in folder.glob("*.svg"):
        if path.name.startswith(ours) and path.name not in made:
            try:
                path.unlink(missing_ok=True)
            except OSError as err:
                raise StoreError(f"{path} cannot be removed ({err.strerror})") from err
