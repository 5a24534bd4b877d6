"""The result store: one SQLite file (WAL) with a row per cell and one per (cell, block of 256
samples).

A block holds the per-sample arrays as safetensors and their digest; it is committed whole or not at
all. Several processes may write the same store. Every table the product shows is derived from here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import evidence
from bench.errors import StoreError
from bench.packing import Arrays, digest, joined, packed, unpacked
from bench.plan import Cell

SCHEMA = 3
NAME = "bench.sqlite"
_MEMORY = ":memory:"
_WAIT_S, _RETRY_S = 60.0, 0.01
_MAPPED = 2**31
"""Bytes of the file, at most, that are read through a mapping of it."""
_TABLES = """
CREATE TABLE meta (schema INTEGER NOT NULL);
CREATE TABLE cells (
    place INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, pipeline TEXT NOT NULL,
    dataset TEXT NOT NULL, fingerprint TEXT NOT NULL, samples TEXT NOT NULL, n INTEGER NOT NULL,
    model TEXT NOT NULL, defense TEXT NOT NULL, attack TEXT NOT NULL, mode TEXT NOT NULL,
    kind TEXT NOT NULL,
    norm TEXT NOT NULL, eps TEXT NOT NULL, reference TEXT, seed INTEGER NOT NULL,
    sweep TEXT NOT NULL, device TEXT NOT NULL, precision TEXT NOT NULL,
    shape INTEGER NOT NULL, threads INTEGER NOT NULL, query_budget INTEGER,
    identity TEXT NOT NULL, provenance TEXT NOT NULL, failure TEXT
);
CREATE TABLE blocks (
    cell TEXT NOT NULL REFERENCES cells (key), number INTEGER NOT NULL, size INTEGER NOT NULL,
    seconds REAL NOT NULL, arrays BLOB NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (cell, number)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Record:
    """A cell as stored. samples holds the arrays of all its blocks in order; a failed cell has
    none.

    failure is the one-line reason where the cell failed, else empty. reference is None where no eps
    was named. kind is the attack's: budget, minimal or ensemble. pipeline is a digest of the
    defended model: texts may agree where weights do not. identity: what model, defense and attack
    are, every key of each with its value, those left out of the texts, too. evidence: what is known
    of its adversarial images, see bench.evidence.state.
    """

    key: str
    pipeline: str
    dataset: str
    fingerprint: str
    samples_digest: str
    n: int
    model: str
    defense: str
    attack: str
    mode: str
    kind: str
    norm: str
    eps: tuple[Fraction, ...]
    reference: Fraction | None
    seed: int
    sweep: str
    device: str
    precision: str
    shape: int
    threads: int
    query_budget: int | None
    provenance: Mapping[str, Any]
    failure: str
    seconds: float
    samples: Arrays
    identity: Mapping[str, Any] = field(default_factory=dict)
    evidence: str = evidence.NONE

    @property
    def outcomes(self) -> NDArray[np.float64]:
        """min_eps (n, draws) under each evaluation draw; one column where nothing is drawn."""
        own = self.samples.get("draws", self.samples["min_eps"][:, None])
        return np.asarray(own, dtype=np.float64)

    @functools.cached_property
    def queries(self) -> tuple[int, int, int]:
        """Forward, backward and verify queries of all samples."""
        names = ("forward", "backward", "verify")
        forward, backward, verify = (int(self.samples[name].sum(dtype=np.int64)) for name in names)
        return forward, backward, verify

    @property
    def shown(self) -> tuple[Any, ...]:
        """What tells rows of a table apart: of cells that agree in it, the newest is shown."""
        data = (self.dataset, self.fingerprint, self.samples_digest)
        who = (self.model, self.defense, self.pipeline, self.attack, self.mode)
        how = (self.norm, self.eps, self.seed, self.sweep, self.device, self.precision)
        return (*data, *who, *how, self.query_budget or 0)


class Store:
    """An open store; use as a context manager."""

    def __init__(self, connection: sqlite3.Connection, path: str):
        self._db, self.path = connection, path

    @property
    def folder(self) -> Path | None:
        """The folder that it lies in; None for one in memory."""
        return None if self.path == _MEMORY else Path(self.path).parent

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Opens or creates the store under a folder that is made where it is missing."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise StoreError(
                f"--out must be a folder that can be written, got {folder} ({err.strerror})"
            ) from err
        return cls._connect(str(folder / NAME))

    @classmethod
    def probe(cls, folder: Path) -> None:
        """Refuses a folder that cannot be written or holds a store of another version; makes
        nothing.
        """
        if (folder / NAME).exists():
            with cls._connect(str(folder / NAME)):
                return
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise StoreError(f"--out must be a folder that can be written, got {folder}")

    @classmethod
    def read(cls, folder: Path) -> Store:
        """Opens the store under a folder; refuses one that is not there."""
        if not (folder / NAME).is_file():
            raise StoreError(f"no results under {folder}: {NAME} is missing (bench run writes it)")
        return cls._connect(str(folder / NAME))

    @classmethod
    def in_memory(cls) -> Store:
        """A store that goes with the process."""
        return cls._connect(_MEMORY)

    @classmethod
    def _connect(cls, path: str) -> Store:
        try:
            db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
            # Blocks are long: mapped, they are read several times as fast as page by page.
            db.execute(f"PRAGMA mmap_size={_MAPPED}")
            _write_ahead(db)
            db.execute("PRAGMA synchronous=NORMAL")
            store = cls(db, path)
            with store._write():
                if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                    for statement in _TABLES.split(";\n"):
                        db.execute(statement)
                    db.execute("INSERT INTO meta VALUES (?)", (SCHEMA,))
            found = db.execute("SELECT schema FROM meta").fetchone()[0]
        except sqlite3.Error as err:
            raise StoreError(f"the store {path} cannot be opened for writing ({err})") from err
        if found != SCHEMA:
            db.close()
            raise StoreError(
                f"the store {path} has schema {found}, this version reads {SCHEMA}; "
                "choose another --out"
            )
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _write(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def add(self, cell: Cell, provenance: Mapping[str, Any]) -> None:
        """Notes a cell that is about to be worked on, the newest from now on; one that is there
        keeps its provenance, loses its failure.
        """
        data, numerics = cell.data, cell.numerics
        identity = {
            "model": cell.model.identity,
            "defense": cell.defense.identity,
            "attack": cell.attack.identity,
        }
        row = {
            "key": cell.key,
            "pipeline": cell.pipeline,
            "dataset": data.name,
            "fingerprint": data.fingerprint,
            "samples": data.samples,
            "n": data.n,
            "model": cell.model.text,
            "defense": cell.defense.text,
            "attack": cell.attack.text,
            "mode": cell.attack.mode,
            "kind": cell.attack.kind,
            "norm": cell.norm,
            "eps": json.dumps([str(e) for e in cell.eps]),
            "reference": None if data.reference is None else str(data.reference),
            "seed": cell.seed,
            "sweep": cell.sweep,
            "device": numerics.device,
            "precision": numerics.precision,
            "shape": numerics.shape,
            "threads": numerics.threads,
            "query_budget": cell.query_budget,
            "identity": json.dumps(identity, sort_keys=True),
            "provenance": json.dumps(provenance, sort_keys=True),
        }
        names = ", ".join(row)
        places = ", ".join(f":{name}" for name in row)
        with self._write():
            self._db.execute(
                f"INSERT INTO cells ({names}) VALUES ({places})"  # noqa: S608  names of our own
                " ON CONFLICT (key) DO UPDATE SET failure = NULL,"
                " place = (SELECT max(place) + 1 FROM cells)",
                row,
            )

    def put(
        self, key: str, number: int, arrays: Arrays, seconds: float, *, anew: bool = False
    ) -> None:
        """Commits one block; one that is there already stays (its outcomes are the same), unless it
        is put anew, with images of its own, that nobody has verified.
        """
        blob = packed(arrays)
        row = (key, number, len(arrays["index"]), seconds, blob, digest(blob))
        with self._write():
            if anew:
                self._db.execute("DELETE FROM blocks WHERE cell = ? AND number = ?", row[:2])
                self._note(key, {"verified": None}, over=True)
            self._db.execute("INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?, ?, ?)", row)

    def block(self, key: str, number: int) -> Arrays:
        """The arrays of a stored block."""
        query = "SELECT arrays, digest FROM blocks WHERE cell = ? AND number = ?"
        blob, known = self._db.execute(query, (key, number)).fetchone()
        self._check(key, number, blob, known)
        return unpacked(blob)

    def _check(self, key: str, number: int, blob: bytes, known: str) -> None:
        if digest(blob) != known:
            raise StoreError(
                f"block {number} of cell {key} in {self.path} is damaged; run with --fresh"
            )

    def fail(self, key: str, reason: str) -> None:
        """Notes why a cell could not be finished."""
        with self._write():
            self._db.execute("UPDATE cells SET failure = ? WHERE key = ?", (reason, key))

    def annotate(self, key: str, facts: Mapping[str, Any]) -> None:
        """Adds facts (training, weights digest) to a cell's provenance; those already there
        stay.
        """
        with self._write():
            self._note(key, facts, over=False)

    def verified(self, key: str, facts: Mapping[str, Any]) -> None:
        """Notes the result of the last check of a cell's adversarial images."""
        with self._write():
            self._note(key, {"verified": facts}, over=True)

    def _note(self, key: str, facts: Mapping[str, Any], *, over: bool) -> None:
        """Facts into a cell's provenance; over: those already there give way."""
        (text,) = self._db.execute("SELECT provenance FROM cells WHERE key = ?", (key,)).fetchone()
        known = json.loads(text)
        merged = {**known, **facts} if over else {**facts, **known}
        kept = json.dumps(merged, sort_keys=True)
        self._db.execute("UPDATE cells SET provenance = ? WHERE key = ?", (kept, key))

    def drop(self, keys: Iterable[str]) -> None:
        """Forgets cells and their blocks."""
        with self._write():
            for key in keys:
                self._db.execute("DELETE FROM blocks WHERE cell = ?", (key,))
                self._db.execute("DELETE FROM cells WHERE key = ?", (key,))

    def blocks(self, keys: Iterable[str]) -> dict[str, list[int]]:
        """The stored block numbers of each key."""
        query = "SELECT number FROM blocks WHERE cell = ? ORDER BY number"
        return {key: [number for (number,) in self._db.execute(query, (key,))] for key in keys}

    def failures(self, keys: Iterable[str]) -> dict[str, str]:
        """Why cells among the keys failed, by key."""
        query = "SELECT failure FROM cells WHERE key = ? AND failure IS NOT NULL"
        rows = {key: self._db.execute(query, (key,)).fetchone() for key in keys}
        return {key: str(row[0]) for key, row in rows.items() if row is not None}

    def records(self, keys: Iterable[str] | None = None) -> list[Record]:
        """Complete and failed cells (all, or those of the keys), each shown row once: the newest
        cell of it.

        The order depends on what the rows show alone.
        """
        wanted = None if keys is None else set(keys)
        self._db.row_factory = sqlite3.Row
        rows = self._db.execute("SELECT * FROM cells ORDER BY place").fetchall()
        self._db.row_factory = None
        newest: dict[tuple[Any, ...], Record] = {}
        for row in rows:
            if wanted is None or row["key"] in wanted:
                record = self._record(row)
                if record is not None:
                    newest[record.shown] = record
        return sorted(
            newest.values(),
            key=lambda r: (r.dataset, r.norm, r.model, r.defense != "none", r.shown),
        )

    def _record(self, row: sqlite3.Row) -> Record | None:
        blocks = self._db.execute(
            "SELECT number, size, seconds, arrays, digest FROM blocks WHERE cell = ?"
            " ORDER BY number",
            (row["key"],),
        ).fetchall()
        complete = sum(size for _, size, *_ in blocks) == row["n"]
        if not complete and row["failure"] is None:
            return None
        for number, _, _, blob, known in blocks:
            self._check(row["key"], number, blob, known)
        provenance = json.loads(row["provenance"])
        numbers = [number for number, *_ in blocks] if complete else []
        parts = [unpacked(blob) for _, _, _, blob, _ in blocks] if complete else []
        return Record(
            key=row["key"],
            pipeline=row["pipeline"],
            dataset=row["dataset"],
            fingerprint=row["fingerprint"],
            samples_digest=row["samples"],
            n=row["n"],
            model=row["model"],
            defense=row["defense"],
            attack=row["attack"],
            mode=row["mode"],
            kind=row["kind"],
            norm=row["norm"],
            eps=_grid(row["eps"]),
            reference=None if row["reference"] is None else _radius(row["reference"]),
            seed=row["seed"],
            sweep=row["sweep"],
            device=row["device"],
            precision=row["precision"],
            shape=row["shape"],
            threads=row["threads"],
            query_budget=row["query_budget"],
            provenance=provenance,
            failure="" if complete else row["failure"],
            seconds=sum(seconds for _, _, seconds, *_ in blocks),
            samples=joined(parts),
            identity=json.loads(row["identity"]),
            evidence=evidence.state(self.folder, row["key"], numbers, provenance.get("verified")),
        )


@functools.lru_cache(maxsize=64)
def _radius(text: str) -> Fraction:
    return Fraction(text)


class _Grid(tuple[Fraction, ...]):
    """Radii as part of keys: a fraction takes long to hash."""

    @functools.cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


@functools.lru_cache(maxsize=64)
def _grid(text: str) -> _Grid:
    """The radii of a stored text; one object for all cells that share them."""
    return _Grid(Fraction(e) for e in json.loads(text))


def _write_ahead(db: sqlite3.Connection) -> None:
    """Switches a store to WAL. The switch does not wait for others by itself: where several open a
    fresh store at once, one does it and the others find it done.
    """
    last = time.monotonic() + _WAIT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as err:
            if "locked" not in str(err) or time.monotonic() > last:
                raise
            time.sleep(_RETRY_S)
        else:
            return
