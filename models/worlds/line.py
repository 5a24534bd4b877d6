"""A game on the line: G(z) = z + theta against D(x) = s(offset + slope x), s the logistic function
(Prince 2023, Understanding Deep Learning, notebook 15.1). Losses are sums over samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit, ndtr

Array = npt.NDArray[np.float64]

MEAN = 7.5
"""Of the real samples' distribution, of variance 1."""


@dataclass(frozen=True, eq=False)
class Line:
    """Where a game stands: real (N,), noise (M,), both fixed; theta: the generator; offset, slope:
    of the discriminator's logit.
    """

    real: Array
    noise: Array
    theta: float = 3.0
    offset: float = -2.0
    slope: float = 1.0

    @classmethod
    def notebook(cls) -> Self:
        """Ten samples each of N(7.5, 1) and N(0, 1), as numpy's legacy seeds 0 and 1 give them."""
        # generators of their own: the global one stays where it is
        real, noise = (np.random.RandomState(seed).normal(size=10) for seed in (0, 1))  # noqa: TID251
        return cls(real + MEAN, noise)

    @property
    def fake(self) -> Array:
        """The generator's samples (M,)."""
        return self.noise + self.theta

    def logit(self, x: Array) -> Array:
        """Of D, at each x."""
        return self.offset + self.slope * x

    @property
    def loss(self) -> float:
        """The discriminator's: -log D(x) - log(1 - D(G(z))), summed."""
        real = np.logaddexp(0, -self.logit(self.real)).sum()
        return float(real + np.logaddexp(0, self.logit(self.fake)).sum())

    @property
    def fooled(self) -> float:
        """The generator's part of it, which it maximises: -log(1 - D(G(z))), summed."""
        return float(np.logaddexp(0, self.logit(self.fake)).sum())

    @property
    def accuracy(self) -> float:
        """Of the discriminator, D >= 1/2 for real, on the distributions N(7.5, 1) and N(theta, 1):
        exact.
        """
        if self.slope == 0:
            return 0.5
        threshold, side = -self.offset / self.slope, np.sign(self.slope)
        right = ndtr(side * (MEAN - threshold)) + ndtr(side * (threshold - self.theta))
        return float(right / 2)

    def discriminate(self, lr: float = 0.01) -> Self:
        """After one step of gradient descent of the discriminator on its loss."""
        real, fake = self.real, self.fake
        wrong, fooled = expit(self.logit(real)) - 1, expit(self.logit(fake))
        offset = self.offset - lr * (wrong.sum() + fooled.sum())
        slope = self.slope - lr * (wrong @ real + fooled @ fake)
        return replace(self, offset=float(offset), slope=float(slope))

    def generate(self, lr: float = 0.02) -> Self:
        """After one step of gradient ascent of the generator on the discriminator's loss."""
        moved = self.slope * expit(self.logit(self.fake)).sum()
        return replace(self, theta=float(self.theta + lr * moved))

    def rounds(self, count: int, critic: int = 300, makers: int = 3) -> Iterator[Self]:
        """The game after each round of `critic` discriminator and `makers` generator steps."""
        game = self
        for _ in range(count):
            for _ in range(critic):
                game = game.discriminate()
            for _ in range(makers):
                game = game.generate()
            yield game


def told_apart(game: Line, accuracy: float, most: int) -> tuple[Line, int]:
    """The game once the discriminator alone has moved until its accuracy exceeds this, and the
    steps that took, at most `most`.
    """
    for step in range(most):
        if game.accuracy > accuracy:
            return game, step
        game = game.discriminate()
    return game, most
