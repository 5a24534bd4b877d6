"""What an attack may learn of a model: labels, logits, or gradients. An oracle answers one query
per row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from attacks.losses import Loss

Predict = Callable[..., Tensor]
"""Images (N, ...) to logits; a pipeline that draws takes draws, too (see attacks.pipelines)."""


class ModelError(ValueError):
    """A model that does not keep its contract: wrong shape, values that are not finite, or changed
    by its use.
    """


@dataclass(frozen=True)
class Aim:
    """What the loss is taken against, a row each: labels (M,) int64; sign (M,) float32, the
    direction in which the attack wants it (1 up, -1 down); rivals (M,) int64 for a loss of two
    classes.
    """

    loss: Loss
    labels: Tensor
    sign: Tensor
    rivals: Tensor | None = None

    def value(self, logits: Tensor) -> Tensor:
        """The signed loss (M,) of logits (M, K): larger is better for the attack."""
        return self.sign * self.loss(logits, self.labels, self.rivals)

    def each(self, change: Callable[[Tensor], Tensor]) -> Aim:
        """The aim of other rows: change is applied to every tensor."""
        rivals = None if self.rivals is None else change(self.rivals)
        return Aim(self.loss, change(self.labels), change(self.sign), rivals)


@dataclass(frozen=True)
class Query:
    """What an attack asks, a row per sample.

    points (N, q, ...); wanted (N,) bool, rows not wanted are no queries; differentiate (N,) bool,
    rows whose gradient at the first point is wanted too; offered (N,) bool, rows whose points may
    be the result (all where None); classes (N, k) int64, for the access `jacobian` the classes
    whose logits are differentiated (all where None).
    """

    points: Tensor
    aim: Aim
    wanted: Tensor
    differentiate: Tensor
    offered: Tensor | None = None
    classes: Tensor | None = None


@dataclass(frozen=True)
class Answer:
    """What the oracle says of rows (M, ...); to an attack with its points, (N, q, ...).

    logits (M, K), for the access `labels` one-hot; value (M,), the signed loss, larger is better
    for the attack; gradient of the value at the first point (N, ...), for the access `jacobian`
    those of the logits asked for (N, k, ...); zeros where none was asked for.
    """

    logits: Tensor
    value: Tensor
    gradient: Tensor


class Oracle(Protocol):
    """Answers rows: points (M, ...) and what is wanted of them; gradients only where
    `differentiate` says so.
    """

    def __call__(
        self, points: Tensor, aim: Aim, *, differentiate: bool, classes: Tensor | None = None
    ) -> Answer:
        """One forward, and where asked one backward (one per class), of every row."""
        ...


@dataclass(frozen=True)
class GradientOracle:
    """Logits and the gradient with respect to the input only, through a differentiable model."""

    model: Predict

    def __call__(
        self,
        points: Tensor,
        aim: Aim,
        *,
        differentiate: bool,
        classes: Tensor | None = None,  # noqa: ARG002  one gradient has no classes
    ) -> Answer:
        """See Oracle."""
        # Recorded even where no gradient is wanted: some layers compute otherwise when it is off
        # (torch's fused attention), and a row's logits must not depend on what its batch asks for.
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(leaf)
            value = aim.value(logits)
            _check_differentiable(value)
            if differentiate:
                (gradient,) = torch.autograd.grad(value.sum(), leaf)
            else:
                gradient = torch.zeros_like(points)
        return Answer(logits.detach().float(), value.detach(), gradient)


@dataclass(frozen=True)
class JacobianOracle:
    """Logits and the gradients of several of them with respect to the input."""

    model: Predict

    def __call__(
        self, points: Tensor, aim: Aim, *, differentiate: bool, classes: Tensor | None = None
    ) -> Answer:
        """See Oracle: gradient (M, k, ...), one backward of every row per class."""
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(leaf).float()
            _check_differentiable(logits)
            if classes is None:
                every = torch.arange(logits.shape[1], device=points.device)
                classes = every.expand(len(points), -1)
            chosen = logits.gather(1, classes).sum(0)
            count = len(chosen)
            gradients = [
                torch.autograd.grad(chosen[i], leaf, retain_graph=i + 1 < count)[0]
                if differentiate
                else torch.zeros_like(points)
                for i in range(count)
            ]
        answered = logits.detach()
        return Answer(answered, aim.value(answered), torch.stack(gradients, 1))


def _check_differentiable(output: Tensor) -> None:
    if not output.requires_grad:
        raise ModelError(
            "the model's output does not depend on its input differentiably; no gradient"
        )


@dataclass(frozen=True)
class LogitsOracle:
    """Logits only: the model's backward is never called."""

    model: Predict

    def __call__(
        self,
        points: Tensor,
        aim: Aim,
        *,
        differentiate: bool,
        classes: Tensor | None = None,  # noqa: ARG002  no gradient, no classes
    ) -> Answer:
        """See Oracle; refuses to differentiate."""
        if differentiate:
            raise ValueError("this oracle answers logits, not gradients")
        with torch.no_grad():
            logits = self.model(points).float()
        return Answer(logits, aim.value(logits), torch.zeros_like(points))


@dataclass(frozen=True)
class LabelsOracle:
    """The predicted class only, as one-hot rows: no score leaves it."""

    model: Predict

    def __call__(
        self, points: Tensor, aim: Aim, *, differentiate: bool, classes: Tensor | None = None
    ) -> Answer:
        """See LogitsOracle."""
        said = LogitsOracle(self.model)(points, aim, differentiate=differentiate, classes=classes)
        chosen = one_hot(said.logits.argmax(1), said.logits.shape[1])
        # Of a row that is not finite nothing is known: it stays so, for the loop to name.
        known = said.logits.isfinite().all(1, keepdim=True)
        labels = torch.where(known, chosen, torch.nan)
        return Answer(labels, aim.value(labels), said.gradient)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Rows (M, K) float32 with 1 at the label (M,)."""
    return torch.nn.functional.one_hot(labels, classes).float()


class OnlyLabels(nn.Module):
    """A black box that tells nothing but classes, as a model: one-hot rows in place of logits.

    function: images (N, C, H, W) in [0, 1] to classes (N,) integers. Attacks of access `labels`
    (boundary, hopskipjump, transfer) run on it, the others refuse it.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], classes: int):
        super().__init__()
        self.function, self.classes = function, classes

    def forward(self, x: Tensor) -> Tensor:
        """One-hot rows (N, K)."""
        labels = self.function(x)
        if labels.shape != (len(x),) or labels.is_floating_point():
            got = f"{labels.dtype} {tuple(labels.shape)}"
            raise ModelError(f"the black box must return classes ({len(x)},) integers, got {got}")
        return one_hot(labels.long(), self.classes)


_TRIES = 3


class Patient:
    """A black box that may raise now and then: asked again, up to three times in a row.

    raised counts the calls that raised, by what they raised; they are no queries. It draws and
    refuses as the box does (see attacks.pipelines).
    """

    def __init__(self, predict: Predict):
        self.predict = predict
        self.is_random = bool(getattr(predict, "is_random", False))
        self.refuses = bool(getattr(predict, "refuses", False))
        self.raised: dict[str, int] = {}

    def __call__(self, *asked: Any) -> Tensor:
        """The answer; raises ModelError where there is none three times in a row."""
        last, name = None, ""
        for _ in range(_TRIES):
            try:
                return self.predict(*asked)
            except Exception as err:  # noqa: BLE001  whatever a service may raise: counted, named
                last = err
                name = f"{type(err).__name__}: {' '.join(str(err).split())}"[:200]
                self.raised[name] = self.raised.get(name, 0) + 1
        raise ModelError(f"the model raised {_TRIES} times in a row, last {name}") from last


@dataclass(frozen=True)
class MeanOracle:
    """The mean of the answers of several oracles: expectation over a random model's draws
    (Athalye et al. 2018, arXiv:1802.00420); each costs a query.
    """

    oracles: Sequence[Oracle]

    def __call__(
        self, points: Tensor, aim: Aim, *, differentiate: bool, classes: Tensor | None = None
    ) -> Answer:
        """See Oracle."""
        said = [
            oracle(points, aim, differentiate=differentiate, classes=classes)
            for oracle in self.oracles
        ]
        logits, value, gradient = (
            torch.stack(parts).mean(0)
            for parts in zip(*((a.logits, a.value, a.gradient) for a in said), strict=True)
        )
        return Answer(logits, value, gradient)


ORACLES: dict[str, Callable[[Predict], Oracle]] = {
    "gradient": GradientOracle,
    "jacobian": JacobianOracle,
    "logits": LogitsOracle,
    "labels": LabelsOracle,
}
DIFFERENTIATING = ("gradient", "jacobian")
ACCESS = {
    "gradient": "white-box",
    "jacobian": "white-box",
    "logits": "black-box",
    "labels": "black-box",
}
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
