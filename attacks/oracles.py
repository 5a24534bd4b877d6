"""What an attack may learn of a model: labels, logits, or gradients. An oracle answers one query
per row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from attacks.losses import Loss

LEAST_LIKELY = -1
"""In a query's labels: take the class that the model finds least likely at that point."""

Predict = Callable[[Tensor], Tensor]


class ModelError(ValueError):
    """A model that does not keep its contract: wrong shape, values that are not finite, or changed
    by its use.
    """


@dataclass(frozen=True)
class Query:
    """What an attack asks, a row per sample and point.

    points (N, q, ...); labels (N, q) int64, what the loss is taken against; sign (N,) float32, the
    direction in which the attack wants it (1 up, -1 down); wanted (N,) bool, rows not wanted are no
    queries; differentiate (N,) bool, rows whose gradient is wanted too.
    """

    points: Tensor
    labels: Tensor
    loss: Loss
    sign: Tensor
    wanted: Tensor
    differentiate: Tensor


@dataclass(frozen=True)
class Answer:
    """What the oracle says of rows (M, ...).

    logits (M, K), for the access `labels` one-hot; value (M,), the signed loss, larger is better
    for the attack; gradient (M, ...) of the value, zeros where none was asked for.
    """

    logits: Tensor
    value: Tensor
    gradient: Tensor


class Oracle(Protocol):
    """Answers rows: points (M, ...), labels (M,), sign (M,); gradients only where `differentiate`
    says so.
    """

    def __call__(
        self, points: Tensor, labels: Tensor, loss: Loss, sign: Tensor, *, differentiate: bool
    ) -> Answer:
        """One forward, and where asked one backward, of every row."""
        ...


def _resolved(labels: Tensor, logits: Tensor) -> Tensor:
    return torch.where(labels == LEAST_LIKELY, logits.detach().argmin(1), labels)


@dataclass(frozen=True)
class GradientOracle:
    """Logits and the gradient with respect to the input only, through a differentiable model."""

    model: Predict

    def __call__(
        self, points: Tensor, labels: Tensor, loss: Loss, sign: Tensor, *, differentiate: bool
    ) -> Answer:
        """See Oracle."""
        # Recorded even where no gradient is wanted: some layers compute otherwise when it is off
        # (torch's fused attention), and a row's logits must not depend on what its batch asks for.
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(leaf)
            value = sign * loss(logits, _resolved(labels, logits))
            if not value.requires_grad:
                raise ModelError(
                    "the model's output does not depend on its input differentiably; no gradient"
                )
            if differentiate:
                (gradient,) = torch.autograd.grad(value.sum(), leaf)
            else:
                gradient = torch.zeros_like(points)
        return Answer(logits.detach().float(), value.detach(), gradient)


@dataclass(frozen=True)
class LogitsOracle:
    """Logits only: the model's backward is never called."""

    model: Predict

    def __call__(
        self, points: Tensor, labels: Tensor, loss: Loss, sign: Tensor, *, differentiate: bool
    ) -> Answer:
        """See Oracle; refuses to differentiate."""
        if differentiate:
            raise ValueError("this oracle answers logits, not gradients")
        with torch.no_grad():
            logits = self.model(points).float()
        return Answer(
            logits, sign * loss(logits, _resolved(labels, logits)), torch.zeros_like(points)
        )


ORACLES: dict[str, Callable[[Predict], Oracle]] = {
    "gradient": GradientOracle,
    "logits": LogitsOracle,
}
ACCESS = {"gradient": "white-box", "logits": "black-box"}
"""What the mode of an attack is called when it is handed the deployed pipeline itself."""


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two buffers are equal; NaN equals NaN."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


@contextlib.contextmanager
def frozen(model: Predict) -> Iterator[Callable[[], None]]:
    """Holds a module in eval mode with frozen parameters, then gives it back as it was.

    The function it yields raises ModelError when buffers or modes have changed so far (such a model
    answers differently each time); leaving does so too.
    """
    if not isinstance(model, nn.Module):
        yield lambda: None
        return
    modes = [(module, module.training) for module in model.modules()]
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(requires_grad=False)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def check() -> None:
        moved = [
            n for n, buffer in model.named_buffers() if n in before and not _same(buffer, before[n])
        ]
        woken = sorted({type(module).__name__ for module in model.modules() if module.training})
        if moved or woken:
            what = f"buffers {', '.join(moved)}" if moved else f"the mode of {', '.join(woken)}"
            raise ModelError(f"the model changed itself while it was evaluated: {what}")

    try:
        yield check
        check()
    finally:
        for module, training in modes:
            module.training = training
        for parameter, needed in needs:
            parameter.requires_grad_(needed)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in before:
                    buffer.copy_(before[name])
