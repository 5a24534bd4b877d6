"""What travels between the driver and whoever carries work out: units of work, and what is told of
them. Plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.base import Attack
from bench import data
from bench.packing import Arrays
from bench.plan import Todo
from defenses.base import Defense
from models.recipes import Classifier


@dataclass(frozen=True)
class Unit:
    """One pipeline and its work. data, model, defense and attacks are specs, or the things
    themselves.

    attacks maps a cell's key to its attack; batch_size bounds the rows in flight; cache None trains
    anew; keeps_images: adversarial images are told, too.
    """

    data: str | data.Dataset
    data_root: Path | None
    model: str | Classifier
    defense: str | Defense
    attacks: Mapping[str, str | Attack]
    todo: tuple[Todo, ...]
    device: str = "cpu"
    batch_size: int | None = None
    cache: Path | None = None
    keeps_images: bool = False


@dataclass(frozen=True)
class Prepared:
    """The pipeline stands; facts (weights digest, objective, training log) belong to every cell of
    the unit.
    """

    keys: tuple[str, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Moved:
    """A number of samples of a cell has been settled since the last word."""

    key: str
    samples: int


@dataclass(frozen=True)
class Done:
    """A block of a cell is complete: its arrays, the seconds of attack since the last block, and
    its adversarial images where they are kept (see bench.evidence).
    """

    key: str
    number: int
    arrays: Arrays
    seconds: float
    images: Arrays | None = None


@dataclass(frozen=True)
class Failed:
    """A cell could not be finished; reason is one line, trace what a developer wants."""

    key: str
    reason: str
    trace: str


@dataclass(frozen=True)
class Noted:
    """Facts about a cell, for its provenance."""

    key: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Shrunk:
    """Memory ran out under these cells' compute shape; under half of it they are still to be
    tried.
    """

    keys: tuple[str, ...]


Event = Prepared | Moved | Done | Noted | Failed | Shrunk
