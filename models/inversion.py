"""Inversion of a generator by gradient descent on its latent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.generators import Generator

_DECAYED = 0.8
_DECAY = 0.1
_LOOK = 20
"""Steps between two looks at whether every restart may stop."""
_TOGETHER = {"cpu": 256}
_TOGETHER_ELSEWHERE = 2**15
"""Latents that descend in one batch."""


@dataclass(frozen=True)
class Inverted:
    """What an inversion found of N images: z (N, d), the latents of the restart with the smallest
    error; images (N, C, H, W), G(z); errors (N, R), mean squared errors per restart; velocity (N,
    d), that of the descent at z.
    """

    z: Tensor
    images: Tensor
    errors: Tensor
    velocity: Tensor

    @property
    def error(self) -> Tensor:
        """The smallest error (N,)."""
        return self.errors.amin(1)


@dataclass(frozen=True)
class Restarts:
    """What every restart of an inversion found of N images: z, velocity (N, R, d); images (N, R, C,
    H, W); errors (N, R).
    """

    z: Tensor
    velocity: Tensor
    images: Tensor
    errors: Tensor

    def best(self) -> Inverted:
        """The restart with the smallest error."""
        each = torch.arange(len(self.z), device=self.z.device), self.errors.argmin(1)
        return Inverted(self.z[each], self.images[each], self.errors, self.velocity[each])


@dataclass(frozen=True)
class Inversion:
    """z* = argmin |G(z) - x|^2 by gradient descent with momentum from R starts (Defense-GAN,
    Samangouei et al. 2018, arXiv:1805.06605; steps, restarts, schedule and momentum as released).

    The loss is an image's mean squared error + penalty * (-log density of z, mean over components;
    Creswell and Bharath 2018, arXiv:1802.05701).

    steps: L; restarts: R; lr: drops to a tenth after 80 % of the steps; it is 10 in the released
    code, at which our generators overshoot; momentum: v = momentum v + gradient, z -= lr v.
    tolerance: a restart whose error is not above it stands still from then on; a batch ends when
    all do (looked at every 20 steps).
    """

    steps: int = 200
    restarts: int = 10
    lr: float = 1.0
    momentum: float = 0.7
    penalty: float = 0.0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise ValueError(f"lr must be above 0, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        for name in ("penalty", "tolerance"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    def run(
        self,
        generator: Generator,
        x: Tensor,
        starts: Tensor,
        *,
        encoder: nn.Module | None = None,
        until: int | None = None,
    ) -> Inverted:
        """Inverts images x (N, C, H, W) from starts (N, R, d); nothing is differentiated through.
        Arguments and errors are those of `every`.
        """
        return self.every(generator, x, starts, encoder=encoder, until=until).best()

    def every(
        self,
        generator: Generator,
        x: Tensor,
        starts: Tensor,
        *,
        encoder: nn.Module | None = None,
        until: int | None = None,
    ) -> Restarts:
        """What each restart finds.

        encoder: images to latents (N, d), which replace the first start; until: steps to take where
        not all, on the schedule of all. The restarts of all images are one batch, on the CPU of 256
        at a time. Raises ValueError for starts of a wrong size.
        """
        count, each, size = starts.shape
        if len(x) != count or size != generator.latent:
            raise ValueError(
                f"starts must be ({len(x)}, R, {generator.latent}), got {tuple(starts.shape)}"
            )
        with torch.no_grad():
            if encoder is not None:
                starts = torch.cat([encoder(x)[:, None], starts[:, 1:]], 1)
            many = x.repeat_interleave(each, 0)
            most = _TOGETHER.get(x.device.type, _TOGETHER_ELSEWHERE)
            parts = [
                self._descended(generator, *rows, self.steps if until is None else until)
                for rows in zip(
                    torch.split(many, most), torch.split(starts.flatten(0, 1), most), strict=True
                )
            ]
        z, velocity, images, errors = map(torch.cat, zip(*parts, strict=True))
        found = (t.view(count, each, *t.shape[1:]) for t in (z, velocity, images, errors))
        return Restarts(*found)

    def _descended(
        self, generator: Generator, x: Tensor, z: Tensor, until: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents, velocities, images and errors of one batch of restarts after so many steps."""
        velocity = torch.zeros_like(z)
        moving = torch.ones(len(z), 1, dtype=torch.bool, device=z.device)
        for step in range(until):
            fresh, faster, error = self.step(generator, x, z, velocity, step)
            if self.tolerance > 0:
                moving = moving & (error > self.tolerance)[:, None]
                fresh, faster = torch.where(moving, fresh, z), torch.where(moving, faster, velocity)
                if step % _LOOK == 0 and not bool(moving.any()):
                    break
            z, velocity = fresh, faster
        images = generator(z)
        return z, velocity, images, _errors(images, x)

    def step(
        self, generator: Generator, x: Tensor, z: Tensor, velocity: Tensor, number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (M, d) and velocities after step `number`, and the errors (M,) before it.

        Differentiable in all three tensors where gradients are recorded.
        """
        is_recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = z if is_recorded and z.requires_grad else z.detach().requires_grad_()
            error = _errors(generator(leaf), x)
            loss = error.sum()
            if self.penalty > 0:
                loss = loss + self.penalty * generator.prior.penalty(leaf).sum()
            (slope,) = torch.autograd.grad(loss, leaf, create_graph=is_recorded)
        velocity = self.momentum * velocity + slope
        rate = self.lr * (_DECAY if number >= _DECAYED * self.steps else 1.0)
        return generator.prior.confined(z - rate * velocity), velocity, error.detach()

    def differentiable(
        self, generator: Generator, x: Tensor, starts: Tensor, *, last: int
    ) -> Tensor:
        """The images G(z*) (N, C, H, W), differentiable in x through the last steps alone.

        Those are taken, and followed back, by the restart alone that has the smallest error before
        them; backward each step is computed again, so that memory does not grow with the graph of
        the steps.
        """
        last = min(last, self.steps)
        found = self.run(generator, x.detach(), starts, until=self.steps - last)
        z = _Tail.apply(x, found.z, found.velocity, generator, self, last)
        images: Tensor = generator(z)
        return images


class _Tail(torch.autograd.Function):
    """The last steps of an inversion with their gradient, each step checkpointed."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        z: Tensor,
        velocity: Tensor,
        generator: Generator,
        inversion: Inversion,
        last: int,
    ) -> Tensor:
        """The latents after the steps."""
        path = []
        for number in range(inversion.steps - last, inversion.steps):
            path.append((z, velocity, number))
            z, velocity, _ = inversion.step(generator, x, z, velocity, number)
        ctx.save_for_backward(x)
        ctx.path, ctx.generator, ctx.inversion = path, generator, inversion
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """The gradient with respect to x, step by step from the last."""
        (x,) = ctx.saved_tensors
        total, towards, speed = torch.zeros_like(x), gradient, torch.zeros_like(gradient)
        for z, velocity, number in reversed(ctx.path):
            with torch.enable_grad():
                leaves = [t.detach().requires_grad_() for t in (x, z, velocity)]
                moved, faster, _ = ctx.inversion.step(ctx.generator, *leaves, number)
                part, towards, speed = torch.autograd.grad(
                    (moved, faster), leaves, (towards, speed)
                )
            total = total + part
        return total, None, None, None, None, None


def _errors(images: Tensor, x: Tensor) -> Tensor:
    """Mean squared errors (N,)."""
    return (images - x).square().flatten(1).mean(1)
