"""What a request comes to: cells with content-hashed keys, and what of them is still to do. Values
in, values out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from models.registry import canonical

BLOCK = 256
"""Samples per stored block; a block is committed whole or not at all."""
OBLIVIOUS = "oblivious"
"""The mode of an attack made on the undefended classifier, which does not know of the defense."""
TRANSFER = "transfer"
"""The mode of an attack made on another model than the one it is judged on."""
CERTIFICATE = "certificate"
"""The kind of a cell that holds what is proven, not what an attack found."""
AUDIT = "audit"
"""The kind of a cell that holds what tells whether the numbers of others are to be believed."""
FLOAT32, BFLOAT16 = "fp32", "bf16"


@dataclass(frozen=True)
class Part:
    """A recipe as plain values: what tables show, and what digests cover."""

    text: str
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class AttackPart(Part):
    """An attack: the mode it runs in, its kind, the forward queries it takes at most for one sample
    over the grid (None: nobody knows), and those it makes once, shared by all samples.
    """

    mode: str
    kind: str
    queries: int | None
    shared: int = 0


@dataclass(frozen=True)
class DataPart:
    """The evaluated samples: dataset name and fingerprint, their number, the digest of their ids,
    the reference eps.
    """

    name: str
    fingerprint: str
    n: int
    samples: str
    reference: Fraction | None


@dataclass(frozen=True)
class Numerics:
    """What may move the last bits of a number, so that it belongs to a cell's key. precision and
    channels_last: of the search alone (see attacks.precision), what decides is float32.
    """

    precision: str
    device: str
    shape: int
    threads: int
    engine: int
    channels_last: bool = False


@dataclass(frozen=True)
class Cell:
    """One (dataset, model, defense, attack, mode, norm, seed) on n samples over an eps grid.

    Texts are for people, identities for the key. query_budget: forward queries at most per sample
    and radius; eot: answers of a random pipeline averaged per query.
    """

    data: DataPart
    model: Part
    defense: Part
    attack: AttackPart
    norm: str
    eps: tuple[Fraction, ...]
    seed: int
    sweep: str
    numerics: Numerics
    query_budget: int | None = None
    eot: int = 1
    key: str = field(init=False)

    def __post_init__(self) -> None:
        parts = {
            "data": [self.data.fingerprint, self.data.samples],
            "model": self.model.identity,
            "defense": self.defense.identity,
            "attack": self.attack.identity,
            "mode": self.attack.mode,
            "norm": self.norm,
            "eps": [str(e) for e in self.eps],
            "seed": self.seed,
            "sweep": self.sweep,
            "numerics": vars(self.numerics),
        }
        if self.query_budget is not None:
            parts["query_budget"] = self.query_budget
        if self.eot != 1:
            parts["eot"] = self.eot
        object.__setattr__(self, "key", digest(parts))

    @property
    def pipeline(self) -> str:
        """A digest of the defended model: cells that share it share its training."""
        return digest([self.data.fingerprint, self.model.identity, self.defense.identity])

    def under(self, shape: int) -> Cell:
        """The same under another compute shape, which is a cell of its own."""
        return replace(self, numerics=replace(self.numerics, shape=shape))

    @property
    def title(self) -> str:
        """The cell in a line."""
        pipeline = f"{self.data.name} {self.model.text} / {self.defense.text}"
        attack = f"{self.attack.text} ({self.attack.mode})"
        return f"{pipeline} / {attack} {self.norm} seed {self.seed}"

    @property
    def blocks(self) -> int:
        """How many stored blocks make the cell complete."""
        return -(-self.data.n // BLOCK)

    @property
    def most_queries(self) -> int | None:
        """Forward queries at most: every attempt at every radius above 0 runs to its end for every
        sample; None for an attack of which nobody knows.
        """
        queries = self.attack.queries
        return None if queries is None else queries * self.data.n + self.attack.shared


def digest(value: Any) -> str:
    """Hex digest (32 letters) of a value that JSON can write."""
    return hashlib.blake2b(canonical(value).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Todo:
    """A cell and the numbers of its blocks that are not stored yet."""

    cell: Cell
    blocks: tuple[int, ...]


def missing(wanted: Iterable[Cell], have: Mapping[str, Iterable[int]]) -> list[Todo]:
    """What is still to do, given the stored block numbers of each key."""
    todo = []
    for cell in wanted:
        stored = set(have.get(cell.key, ()))
        blocks = tuple(number for number in range(cell.blocks) if number not in stored)
        if blocks:
            todo.append(Todo(cell, blocks))
    return todo


def by_pipeline(todo: Iterable[Todo]) -> list[list[Todo]]:
    """The work grouped by defended model and compute shape, in the order of first mention: each is
    trained or loaded, and asked for its clean predictions, once.
    """
    groups: dict[tuple[str, int], list[Todo]] = {}
    for item in todo:
        groups.setdefault((item.cell.pipeline, item.cell.numerics.shape), []).append(item)
    return list(groups.values())
