"""Which classes a generator's samples fall into: modes, entropy, divergence from the prior, and
what is wrong by name. From counts alone, so that classes may be digits or triples of digits; never
imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SOUND, COLLAPSE, DROPPING, ROTATING = "none", "collapse", "dropping", "rotating collapse"
"""What is wrong, by name."""

ALPHA = 1e-3
"""How often at most a sampler of the prior collapses, or drops classes in one of the two ways."""
NEARLY_ALL = 0.9
"""The share of samples in one class from which on they have collapsed."""
FAR_BELOW = 0.25
"""The share of what the prior gives a class, below which it is dropped."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Coverage:
    """What the counts of one set of samples tell.

    samples: how many; modes: classes with a sample, expected: that the prior gives as many samples
    on average; entropy: of the classes, nats; divergence:
    KL(samples || prior), nats, infinite where a sample lies in a class that the prior has not;
    dominant: the class with most samples, share: how many of all; dropped: the classes that are
    missing or far below their share; name: SOUND, COLLAPSE or DROPPING.
    """

    samples: int
    modes: int
    expected: float
    entropy: float
    divergence: float
    dominant: int
    share: float
    dropped: tuple[int, ...]
    name: str


def tally(labels: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Samples per class (classes,) of labels (N,); refuses labels that are no class."""
    found = np.asarray(labels)
    if found.size and not (found.min() >= 0 and found.max() < classes):
        raise ValueError(
            f"labels must be from 0 to {classes - 1}, got {found.min()} to {found.max()}"
        )
    return np.bincount(found.astype(np.int64), minlength=classes)


def coverage(counts: ArrayLike, prior: ArrayLike) -> Coverage:
    """What counts (K,) tell beside a prior: weights (K,), such as counts of real images by the same
    classifier, or ones for a uniform one.

    Entropy and divergence are of the shares as counted: n samples of K classes raise the expected
    divergence by about (K - 1) / (2 n), and lower the entropy by as much. Uniform over k of K
    classes under a uniform prior: entropy ln k, divergence ln(K / k) (1,000 modes and
    KL(samples || uniform): Lin et al. 2018, PacGAN, arXiv:1712.04086).

    Collapse: at least 0.9 of the samples in one class, and more than chance leaves there. Dropping:
    a class holds less than a quarter of its share, and less than chance leaves; or, where samples
    are too few to tell which, more classes are empty than chance leaves. By chance is what a
    sampler of the prior does in at most one of 1,000 sets, over all classes together, by Chernoff
    bounds: few samples give no name rather than a wrong one.
    """
    found, wanted = _checked(counts, prior)
    samples = int(found.sum())
    shares = found / samples
    beyond = _chance(shares, wanted, samples) < ALPHA / len(found)
    dominant = int(found.argmax())
    most = shares[dominant]
    collapsed = most >= NEARLY_ALL and most > wanted[dominant] and beyond[dominant]
    dropped = np.flatnonzero(beyond & (shares < FAR_BELOW * wanted))
    possible = wanted > 0
    empty = int((found[possible] == 0).sum())
    left_empty = float(((1 - wanted[possible]) ** samples).sum())
    drops = len(dropped) > 0 or _more(empty, left_empty) < ALPHA
    return Coverage(
        samples=samples,
        modes=int((found > 0).sum()),
        expected=expected_modes(wanted, samples),
        entropy=max(0.0, -float(_relative(shares, np.ones_like(shares)).sum())),
        divergence=max(0.0, float(_relative(shares, wanted).sum())),
        dominant=dominant,
        share=float(most),
        dropped=tuple(dropped.tolist()),
        name=COLLAPSE if collapsed else DROPPING if drops else SOUND,
    )


def expected_modes(prior: ArrayLike, samples: int) -> float:
    """How many classes so many samples of a prior, weights (K,), are expected to hit:
    the sum of 1 - (1 - p)^n.
    """
    wanted = np.asarray(prior, float)
    return float((1 - (1 - wanted / wanted.sum()) ** samples).sum())


def naming(history: Sequence[Coverage]) -> str:
    """What is wrong with a generator whose samples were looked at several times, in order of time.

    The name of the last look; but a rotating collapse where, since the last look without a name,
    at least half have collapsed, and not all into the same class. Refuses an empty history.
    """
    if not history:
        raise ValueError("history must hold at least one look, got none")
    sound = [place for place, look in enumerate(history) if look.name == SOUND]
    since = history[sound[-1] + 1 if sound else 0 :]
    collapsed = [look.dominant for look in since if look.name == COLLAPSE]
    if len(set(collapsed)) > 1 and 2 * len(collapsed) >= len(since):
        return ROTATING
    return history[-1].name


def _checked(counts: ArrayLike, prior: ArrayLike) -> tuple[NDArray[Any], Floats]:
    """Counts and the shares of the prior."""
    found, weights = np.asarray(counts), np.asarray(prior, float)
    if found.ndim != 1 or found.shape != weights.shape:
        raise ValueError(
            f"counts and prior must be (K,) each, got {found.shape} and {weights.shape}"
        )
    if not (found >= 0).all() or not found.sum() > 0:
        raise ValueError("counts must be at least 0, and of at least one sample")
    if not (weights >= 0).all() or not 0 < weights.sum() < math.inf:
        raise ValueError("prior must be weights of at least 0, finite and not all 0")
    return found, weights / weights.sum()


def _relative(shares: Floats, others: Floats) -> Floats:
    """shares ln(shares / others), 0 where there is no share."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(shares > 0, shares * np.log(shares / others), 0.0)


def _chance(shares: Floats, wanted: Floats, samples: int) -> Floats:
    """An upper bound on the probability that a class of probability `wanted` gets a share as far
    from it, on the same side (Chernoff: exp(-n KL)).
    """
    apart = _relative(shares, wanted) + _relative(1 - shares, 1 - wanted)
    return np.exp(-samples * apart)


def _more(empty: int, expected: float) -> float:
    """An upper bound on the probability of as many empty classes or more (Chernoff: they are
    negatively associated).
    """
    if empty <= expected:
        return 1.0
    return math.exp(empty - expected + empty * math.log(expected / empty)) if expected else 0.0
