"""Per-sample outcomes and tables as Parquet and CSV, and rows as RobustBench has them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.plan import AUDIT
from bench.report import anytime, frames, robustbench, write
from bench.report.rows import Rows
from bench.store import Record

SAMPLES = {
    "cell": "",
    "dataset": "",
    "model": "",
    "defense": "",
    "attack": "",
    "mode": "",
    "norm": "",
    "seed": "int64",
    "index": "int64",
    "id": "",
    "label": "int64",
    "clean_prediction": "int64",
    "min_eps": "float64",
    "distance": "float64",
    "forward": "int64",
    "backward": "int64",
    "verify": "int64",
    "queries": "int64",
}
"""Columns of the samples in order, and their types."""


def samples(records: Iterable[Record]) -> pd.DataFrame:
    """One row per complete cell and sample, but audits. id is the digest as 16 hex letters.

    min_eps in input units, inf: never fooled, 0: wrong without attack; distance in the norm, nan:
    nothing fooled; queries: forward queries made at the reference eps (else the grid's largest)
    when the first success was seen, 0: wrong without attack, -1: never.
    """
    parts = [_samples(record) for record in records if not record.failure and record.kind != AUDIT]
    if not parts:
        return Rows(SAMPLES, []).frame()
    return pd.concat(parts, ignore_index=True)


def _samples(record: Record) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "cell": record.key,
        "dataset": record.dataset,
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "mode": record.mode,
        "norm": record.norm,
        "seed": record.seed,
        **{name: record.samples[name] for name in SAMPLES if name in record.samples},
    }
    digests = record.samples["id"].astype(np.int64).view(np.uint64).tolist()
    if "queries" in record.samples:
        columns["queries"] = anytime.seen_at(record, frames.reading_point([record]))
    columns["id"] = [f"{digest:016x}" for digest in digests]
    made = pd.DataFrame(columns, columns=list(SAMPLES))
    return made.astype({name: kind for name, kind in SAMPLES.items() if kind})


def export(records: Sequence[Record], folder: Path) -> list[Path]:
    """Writes the samples as Parquet and CSV, and both tables as Parquet; returns the files."""
    outcomes = samples(records)
    contents = {
        "samples.parquet": _parquet(outcomes),
        "samples.csv": write.csv(outcomes).encode("utf-8"),
        "accuracy_vs_eps.parquet": _parquet(frames.tidy(records).frame()),
        "leaderboard.parquet": _parquet(frames.leaderboard(records).frame()),
    }
    return [write.place(folder / name, content) for name, content in contents.items()]


def as_robustbench(records: Sequence[Record], folder: Path) -> list[Path]:
    """Writes a file in RobustBench's shape for each row of the leaderboard; returns the files."""
    return [
        write.place(folder / "robustbench" / name, content.encode("utf-8"))
        for name, content in robustbench.files(records).items()
    ]


FORMS: Mapping[str, Callable[[Sequence[Record], Path], list[Path]]] = {
    "tables": export,
    "robustbench": as_robustbench,
}
"""What can be written of records into a folder."""


def _parquet(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out, index=False)
    return out.getvalue()
