"""What is known of a generator: plain numbers and images, as the page and the table show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.coverage import Coverage

OWN, TEST = "own samples", "test images"
PLAIN = "samples"
"""What samples are called that are drawn of all latents."""

Images = npt.NDArray[np.float32]
Log = Sequence[Mapping[str, Any]]
"""Of a training, an entry each."""


@dataclass(frozen=True)
class Source:
    """Images of one source: their inversion errors (n,), and, of all but own samples, how well
    errors tell own samples from them: AUC, true-positive by false-positive rate, and the curve of
    both rates, false positives first.
    """

    name: str
    errors: tuple[float, ...]
    auc: float | None = None
    tpr: Mapping[float, float] | None = None
    roc: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Measure:
    """A number: value None where there is none; of: what it was measured on."""

    name: str
    value: float | None
    of: str


@dataclass(frozen=True)
class Look:
    """The classes that a classifier sees in samples, counts per class and what they tell; update:
    when, None of the generator as it is now.
    """

    update: int | None
    counts: tuple[int, ...]
    seen: Coverage


@dataclass(frozen=True)
class Finding:
    """A failure by name, with what was seen; spans: the updates between which it was seen."""

    name: str
    text: str
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class History:
    """What training showed: the images (T, N, C, H, W) of the same latents after each of the
    updates (T,), the classes of all or of more of them, and the failures that this shows.
    """

    updates: tuple[int, ...]
    images: Images
    looks: tuple[Look, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, eq=False)
class Walk:
    """Images (P, S, C, H, W) on P ways between two latents each, S steps; text: how smooth."""

    kind: str
    images: Images
    text: str


@dataclass(frozen=True, eq=False)
class Arithmetic:
    """Images (P, 4, C, H, W) of sums of latents, P of them: each addend and the result; names: of
    the four columns; rows: of the sums; text: how often it comes out as it should.
    """

    names: tuple[str, str, str, str]
    rows: tuple[str, ...]
    images: Images
    text: str


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Samples (P, C, H, W), the nearest first, and the training image next to each; text: how near
    they are.
    """

    samples: Images
    nearest: Images
    text: str


@dataclass(frozen=True)
class Truncated:
    """Precision and recall of samples under a truncation, by its kind and level."""

    kind: str
    level: float
    precision: float
    recall: float


@dataclass(frozen=True, eq=False)
class Stacked:
    """Triples of digits that a classifier sees in samples: counts (K ** 3,), kl to the uniform
    distribution over them in nats.
    """

    counts: npt.NDArray[np.int64]
    kl: float

    @property
    def found(self) -> int:
        """Triples that are there."""
        return int((self.counts > 0).sum())


@dataclass(frozen=True, eq=False)
class Portrait:
    """What was measured of a generator.

    source: trained, cached, pretrained, given or untrained; weights: their digest; log: of its
    training; history: of that training, None where it was not here; final: the classes of samples,
    real: of training images, both by the same classifier; clean, kept: shares of the test images
    that it gets right as they are and after inversion; sampled: what samples are called; samples:
    rows of images (N, C, H, W), by what stands beside the row; images, inverted: (N, C, H, W) of
    the same test images; missing: what could not be measured and why; command: what made it.
    """

    dataset: str
    generator: str
    source: str
    model: str
    weights: str
    log: tuple[Mapping[str, Any], ...]
    history: History | None
    final: Look
    real: tuple[int, ...]
    findings: tuple[Finding, ...]
    clean: float
    kept: float
    sources: tuple[Source, ...]
    sampled: str
    samples: Sequence[tuple[str, Images]]
    images: Images
    inverted: Images
    inversion: str
    walks: tuple[Walk, ...]
    arithmetic: Arithmetic | None
    neighbours: Neighbours | None
    truncated: tuple[Truncated, ...]
    stacked: Stacked | None
    measures: tuple[Measure, ...]
    missing: tuple[str, ...]
    command: str

    @property
    def n(self) -> int:
        """How many images of each source were inverted."""
        return len(self.sources[0].errors)

    @property
    def updates(self) -> int | None:
        """Of the generator; None where nobody knows."""
        return self.log[-1]["update"] if self.log else 0 if self.source == "untrained" else None

    @property
    def seconds(self) -> float | None:
        """Of its training, whenever that was."""
        return sum(entry["seconds"] for entry in self.log) if self.log else None
