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
    """Whether two tensors are equal; NaN equals NaN."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


@contextlib.contextmanager
def held(model: Predict) -> Iterator[None]:
    """Holds a module in eval mode with frozen parameters; modes and requires_grad come back."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(requires_grad=False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, needed in needs:
            parameter.requires_grad_(needed)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_buffers()
    yield from model.named_parameters()


@contextlib.contextmanager
def frozen(model: Predict) -> Iterator[Callable[[], None]]:
    """Holds a module as `held` does, and watches it; it comes back as it was.

    The function it yields raises ModelError when parameters, buffers or modes have changed so far
    (such a model answers differently each time); leaving does so too.
    """
    if not isinstance(model, nn.Module):
        yield lambda: None
        return
    before = {name: tensor.detach().clone() for name, tensor in _tensors(model)}

    def moved() -> list[str]:
        return [n for n, t in _tensors(model) if n in before and not _same(t, before[n])]

    def check() -> None:
        names = moved()
        woken = sorted({type(module).__name__ for module in model.modules() if module.training})
        if names or woken:
            what = f"{', '.join(names)}" if names else f"the mode of {', '.join(woken)}"
            raise ModelError(f"the model changed itself while it was evaluated: {what}")

    with held(model):
        try:
            yield check
            check()
        finally:
            changed = set(moved())
            with torch.no_grad():
                for name, tensor in _tensors(model):
                    if name in changed:
                        tensor.copy_(before[name])
