"""The model as attacks of others see it, and the ledger of who asked how often and what was
seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks import norms
from attacks.base import Task
from attacks.oracles import ModelError, one_hot
from attacks.pipelines import Witness
from attacks.rows import rows_of
from attacks.verify import reached
from attacks.work import NEVER

_MUCH_NEARER = 4
"""From this ratio of squared distances on a row belongs to a nearer image than its own."""


class OutOfBudget(BaseException):
    """Ends an attack whose next call would be one query too many; no `except Exception` of somebody
    else's catches it.
    """


@dataclass
class Ledger:
    """The queries of one attempt at the N samples of a task, per sample.

    balls (N, R): the radii inside which a success is noted; room (N,): forward queries left, no
    limit where None; is_minimal: the nearest success is wanted, not one inside the task's radius.
    forward, backward (N,): queries made; first (N, R): how many forward ones when the first success
    inside each ball was seen, NEVER where none was; best (N, ...): with a limit, the nearest
    success wanted, else the image.
    """

    task: Task
    balls: Tensor
    room: NDArray[np.int64] | None
    is_minimal: bool
    forward: NDArray[np.int64] = field(init=False)
    backward: NDArray[np.int64] = field(init=False)
    first: NDArray[np.int64] = field(init=False)
    best: Tensor = field(init=False)
    nearest: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.task.y)
        self.forward, self.backward = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.first = np.full(tuple(self.balls.shape), NEVER)
        self.best, self.nearest = self.task.x.clone(), np.full(count, np.inf)

    def allows(self, rows: NDArray[np.int64], each: int) -> NDArray[np.bool_]:
        """Whether (m,) the samples of these rows may make the queries asked for, `each` a row."""
        if self.room is None:
            return np.ones(len(rows), np.bool_)
        wanted = self.forward + each * np.bincount(rows, minlength=len(self.forward))
        allowed: NDArray[np.bool_] = (wanted <= self.room)[rows]
        return allowed

    def asked(self, rows: NDArray[np.int64]) -> None:
        """These samples (m,) make a forward query each."""
        np.add.at(self.forward, rows, 1)

    def differentiated(self, rows: NDArray[np.int64]) -> None:
        """These samples (m,) make a backward query each."""
        np.add.at(self.backward, rows, 1)

    def see(self, points: Tensor, rows: NDArray[np.int64], logits: Tensor) -> None:
        """Notes the successes among points (m, ...) of the samples `rows`, by their logits."""
        task, index = self.task, torch.from_numpy(rows).to(points.device)
        targets = None if task.targets is None else task.targets[index]
        hit = reached(logits, task.y[index], targets) & norms.in_box(points)
        which = torch.nonzero(hit)[:, 0]
        if not len(which):
            return
        found, owners = points[which], rows[which.cpu().numpy()]
        index = index[which]
        distance = norms.size(found.double() - task.x[index].double(), task.norm)
        within = norms.holds(self.balls[index], distance[:, None], task.norm).cpu().numpy()
        new = within & (self.first[owners] == NEVER)
        self.first[owners] = np.where(new, self.forward[owners, None], self.first[owners])
        if self.room is not None:
            inside = norms.holds(task.radius[index], distance, task.norm).cpu().numpy()
            self._keep(found, owners, distance.cpu().numpy(), inside | self.is_minimal)

    def _keep(
        self,
        points: Tensor,
        owners: NDArray[np.int64],
        distance: NDArray[np.float64],
        wanted: NDArray[np.bool_],
    ) -> None:
        """The nearest of each sample; several points of a call may belong to one."""
        order = np.flatnonzero(wanted)[np.argsort(distance[wanted], kind="stable")]
        samples, first = np.unique(owners[order], return_index=True)
        chosen = order[first]
        better = distance[chosen] < self.nearest[samples]
        samples, chosen = samples[better], chosen[better]
        self.nearest[samples] = distance[chosen]
        self.best[torch.from_numpy(samples)] = points[torch.from_numpy(chosen)]


class _Mark(torch.autograd.Function):
    """The identity; tells the ledger whose rows pass back through it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ledger: Ledger, rows: NDArray[np.int64]) -> Tensor:
        """See torch.autograd.Function."""
        ctx.ledger, ctx.rows = ledger, rows
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """See torch.autograd.Function."""
        ctx.ledger.differentiated(ctx.rows)
        return gradient, None, None


class Instrumented(nn.Module):
    """A model that counts: it answers calls of any number of rows, `shape` at a time at most, and
    keeps the ledger. They are not padded: what a foreign attack asks is the same whenever its block
    is run, and many ask for one row at a time, which would cost as much as a full batch.

    The model itself is no submodule: whoever switches modes, moves, freezes or copies this one does
    not reach it. Rows are taken for the block's samples in their order where there are as many as
    samples and most are not at half the distance from another one's image, else each for the
    sample whose image is nearest (l2); sums are exact either way. Access
    `logits` gives no gradient, `labels` gives one-hot answers. Raises OutOfBudget before the call
    that would take a sample beyond its limit, ModelError for logits of an image that are not
    finite.
    """

    def __init__(self, witness: Witness, ledger: Ledger, shape: int):
        super().__init__()
        # The model is inside, so that nn.Module does not take it for one of its own.
        self.witness, self.ledger, self.shape = witness, ledger, shape
        anchor = torch.zeros(1, device=ledger.task.x.device)
        self.anchor = nn.Parameter(anchor, requires_grad=False)
        self.eval()

    def __deepcopy__(self, memo: object) -> Instrumented:
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (M, K) of points (M, ...)."""
        task = self.ledger.task
        if not len(x):
            return x.new_zeros(0, task.classes)
        x = x.to(task.x.device, task.x.dtype)
        points = x.detach()
        rows = _owners(points, task.x)
        access, each = self.witness.access, self.witness.answers
        if not self.ledger.allows(rows, each).all():
            raise OutOfBudget
        before = self.ledger.forward[rows]
        self.ledger.asked(np.repeat(rows, each))
        with torch.set_grad_enabled(torch.is_grad_enabled() and access == "gradient"):
            parts = [
                self._part(x[part], rows[part], before[part])
                for part in (slice(i, i + self.shape) for i in range(0, len(x), self.shape))
            ]
            logits = torch.cat(parts)
        said = logits.detach()
        _check_finite(points, said)
        self.ledger.see(points, rows, said)
        if access == "labels":
            return one_hot(said.argmax(1), task.classes)
        return logits

    def _part(self, x: Tensor, rows: NDArray[np.int64], before: NDArray[np.int64]) -> Tensor:
        """The mean of the model's answers, each of which passes back through the mark."""
        task = self.ledger.task
        index, counter = (torch.from_numpy(each).to(x.device) for each in (rows, before))
        draws = rows_of(task.draws, lambda t, _: t[index])
        answers = self.witness.models(task.y[index], draws, counter)
        said = [model(_Mark.apply(x, self.ledger, rows)).float() for model in answers]
        return said[0] if len(said) == 1 else torch.stack(said).mean(0)


def _owners(points: Tensor, x: Tensor) -> NDArray[np.int64]:
    """The sample (M,) that each point (M, ...) belongs to."""
    flat, images = points.flatten(1).nan_to_num(), x.flatten(1)
    lengths = flat.square().sum(1, keepdim=True)
    apart = lengths + images.square().sum(1) - 2 * flat @ images.T
    nearest: NDArray[np.int64] = apart.argmin(1).cpu().numpy()
    if len(points) == len(x):
        elsewhere = _MUCH_NEARER * apart.amin(1) < apart.diagonal()
        if int(elsewhere.sum()) * 2 <= len(x):
            return np.arange(len(x))
    return nearest


def _check_finite(points: Tensor, logits: Tensor) -> None:
    sound = points.flatten(1).isfinite().all(1)
    wrong = int((sound & ~logits.isfinite().all(1)).sum())
    if wrong:
        raise ModelError(f"the model returned NaN or infinite logits under attack, {wrong} images")
