"""Work for the loop: what is attacked, in which order of radii, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """What is attacked: x (N, ...) float32, y (N,), ids (N,) int64, targets (N,) or None; radii
    (R,) or (N, R).
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    radii: NDArray[np.float64]
    targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def radius(self, sample: int, rung: int) -> float:
        """The radius of a sample at a rung."""
        return float(self.radii[rung] if self.radii.ndim == 1 else self.radii[sample, rung])

    @property
    def rungs(self) -> int:
        """The number of radii per sample."""
        return int(self.radii.shape[-1])


class Work(NamedTuple):
    """One piece of work; the order of the queue is the order of the samples."""

    sample: int
    rung: int
    restart: int


@dataclass(frozen=True)
class Settled:
    """A sample's result: fooled (R,) bool per rung, the image that fooled the lowest one (or the
    best one tried at the last).

    forward and backward count the sample's queries, verify the judge's; refused says how many
    claimed successes the judge did not accept.
    """

    sample: int
    fooled: NDArray[np.bool_]
    x_adv: Tensor
    forward: int
    backward: int
    verify: int
    refused: int = 0


Judge = Callable[[Tensor, NDArray[np.int64], Tensor], NDArray[np.bool_]]
"""Points (M, ...), their samples (M,), their radii (M,) -> whether (M,) each is a success."""

Policy = Callable[[int, int, bool], int | None]
"""(rung, rungs, fooled) -> the next rung of that sample, or None when it is settled."""


def ladder(rung: int, rungs: int, fooled: bool) -> int | None:  # noqa: FBT001  a policy's fixed signature
    """Upwards until fooled: an image inside a small ball is inside every larger one."""
    return rung + 1 if not fooled and rung + 1 < rungs else None


def independent(rung: int, rungs: int, fooled: bool) -> int | None:  # noqa: ARG001, FBT001  see ladder
    """Every rung from scratch, nothing inferred."""
    return rung + 1 if rung + 1 < rungs else None


POLICIES: dict[str, Policy] = {"ladder": ladder, "independent": independent}


@dataclass(frozen=True)
class Setting:
    """How a sweep runs. shape: rows per model call; in_flight: rows in use at most; exact: the
    oracle is the deployed pipeline itself, so that its word is worth a judge's time at once (else
    only each restart's end is judged).
    """

    norm: str
    classes: int
    seed: int
    shape: int
    policy: str = "ladder"
    in_flight: int | None = None
    exact: bool = True
