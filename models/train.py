"""The only classifier training loop; what is minimised is passed in."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.seeding import seeded
from models.split import Split
from models.state import Keep, Memory, State

REVISION = 1
"""Raised when a change of the loop changes trained weights."""

_PEAK = 0.4
_ROWS = 512
_TELLING = 500
"""Updates from which on one predicted class is no slow start."""
_MOST_VALIDATIONS = 25


class TrainingFailed(RuntimeError):
    """Training that diverged or collapsed; its weights are not kept."""


@dataclass(frozen=True)
class Settings:
    """How a net is trained.

    epochs: passes over the training split; batch: images per update; optimiser: adam or sgd
    (momentum 0.9); lr: peak of a learning rate that rises from 0 until 40 % of the updates and
    falls to 0 again; decay: L2 weight decay; seed: of initialisation, order and dropout; flips:
    random shifts by up to 4 pixels and mirroring (colour photographs).
    """

    epochs: int
    batch: int
    optimiser: str
    lr: float
    decay: float
    seed: int
    flips: bool = False


@dataclass(frozen=True)
class Batch:
    """One update's images x (n, ...) in [0, 1], labels y (n,), their places index (n,) in the
    training split, the epoch, progress in [0, 1): the share of updates already made, and their
    number, update. memory: what an objective carries from one update to the next.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    epoch: int
    progress: float
    update: int = 0
    memory: Memory = field(default_factory=dict)


class Objective(Protocol):
    """What training minimises, and how a checkpoint is judged."""

    @property
    def text(self) -> str:
        """The objective as a formula, for people."""
        ...

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """The scalar to minimise; the net is in training mode."""
        ...

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:
        """Measures on the validation split, the net in eval mode; `score` decides which checkpoint
        is kept, a flag `alarm` is told to people. Raises TrainingFailed when going on is pointless.
        """
        ...


@runtime_checkable
class Stopping(Protocol):
    """An objective that may end training early; the best checkpoint so far is kept."""

    def is_over(self, log: Sequence[Mapping[str, Any]]) -> bool:
        """Whether to stop after the last entry of the log; the entry is flagged `stop`."""
        ...


@runtime_checkable
class Replaying(Protocol):
    """An objective that is handed each batch several times; there are as many epochs fewer."""

    @property
    def replays(self) -> int:
        """Updates per batch, one after the other."""
        ...


@dataclass(frozen=True)
class Standard:
    """Mean cross-entropy on clean images."""

    @property
    def text(self) -> str:
        """See Objective."""
        return "L(x, y)"

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See Objective."""
        return F.cross_entropy(net(batch.x), batch.y)

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:  # noqa: ARG002
        """Clean accuracy, which is the score."""
        clean = accuracy(net, validation)
        return {"score": clean, "clean": clean}


def accuracy(net: nn.Module, split: Split) -> float:
    """Share of a split that a net in eval mode classifies rightly."""
    return int((predictions(net, split) == split.y).sum()) / len(split)


def predictions(net: nn.Module, split: Split) -> Tensor:
    """The classes (N,) that a net in eval mode predicts for a split, on the CPU."""
    device = next(net.parameters()).device
    with torch.no_grad():
        parts = [
            net(split.images(slice(first, first + _ROWS), device)).argmax(1)
            for first in range(0, len(split), _ROWS)
        ]
    return torch.cat(parts).cpu()


def fit(
    net: nn.Module,
    train: Split,
    validation: Split,
    objective: Objective,
    settings: Settings,
    *,
    say: Callable[[str], None] = lambda _: None,
    keep: Keep | None = None,
) -> list[dict[str, Any]]:
    """Trains a net in place and leaves it in eval mode at its best checkpoint; returns a log entry
    per validation.

    There is one after each epoch; above 25 epochs, after every second, third and so on, and after
    the last. Equal arguments give equal weights on one machine. keep: where the state is put down
    after each epoch, and gone on from after an interruption, to the same weights bit for bit.
    Raises TrainingFailed when the loss is no longer finite, the objective's validation says so, or
    standard training of 500 updates ends at a net that predicts one class for every image.
    """
    replays = objective.replays if isinstance(objective, Replaying) else 1
    epochs = math.ceil(settings.epochs / replays)
    course = _Course(train, objective, settings, epochs, replays)
    every = math.ceil(epochs / _MOST_VALIDATIONS)
    state = course.start(net)
    with seeded(settings.seed):
        if keep is not None and state.read(keep):
            say(f"going on after epoch {state.epoch}/{epochs}")
        while not state.is_over:
            start = time.perf_counter()
            course.run_epoch(state)
            state.epoch += 1
            state.is_over = state.epoch == epochs
            if state.epoch % every == 0 or state.is_over:
                entry = course.measure(state, validation)
                entry["seconds"] = state.seconds + time.perf_counter() - start
                state.log.append(entry)
                say(_told(entry, epochs))
                state.is_over |= bool(entry.get("stop"))
                state.seconds, state.total = 0.0, torch.zeros_like(state.total)
            else:
                state.seconds += time.perf_counter() - start
            if keep is not None:
                state.write(keep)
    if state.best[1]:
        net.load_state_dict(state.best[1])
    net.eval()
    if isinstance(objective, Standard) and course.per_epoch * epochs >= _TELLING:
        _check_classes(net, validation)
    return state.log


def _check_classes(net: nn.Module, validation: Split) -> None:
    """Refuses a trained net that predicts one class though there are several."""
    said, known = (set(t.tolist()) for t in (predictions(net, validation), validation.y))
    if len(said) == 1 < len(known):
        raise TrainingFailed("training collapsed: the net predicts one class for every image")


@dataclass(frozen=True)
class _Course:
    """What a training does in an epoch; each batch is handed on `replays` times."""

    train: Split
    objective: Objective
    settings: Settings
    epochs: int
    replays: int

    @property
    def per_epoch(self) -> int:
        """Updates per epoch."""
        return math.ceil(len(self.train) / self.settings.batch) * self.replays

    def start(self, net: nn.Module) -> State:
        """Before the first epoch."""
        updates = self.per_epoch * self.epochs
        optimiser = _optimiser(net.parameters(), self.settings)
        return State(
            net,
            optimiser,
            schedule=torch.optim.lr_scheduler.LambdaLR(
                optimiser, lambda step: _triangle(step + 1, updates)
            ),
            order=torch.Generator().manual_seed(self.settings.seed),
            total=torch.zeros((), device=next(net.parameters()).device),
        )

    def run_epoch(self, state: State) -> None:
        """All updates of the next epoch."""
        device = state.total.device
        state.net.train()
        shuffled = torch.randperm(len(self.train), generator=state.order)
        update = state.epoch * self.per_epoch
        for index in torch.split(shuffled, self.settings.batch):
            x = self.train.images(index, device)
            x = _flipped(x, state.order) if self.settings.flips else x
            y, place = self.train.y[index].to(device), index.to(device)
            for _ in range(self.replays):
                progress = update / (self.per_epoch * self.epochs)
                batch = Batch(x, y, place, state.epoch, progress, update, state.memory)
                self._update(state, batch)
                update += 1

    def _update(self, state: State, batch: Batch) -> None:
        loss = self.objective.loss(state.net, batch)
        state.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        state.optimiser.step()
        state.schedule.step()
        state.total += loss.detach()

    def measure(self, state: State, validation: Split) -> dict[str, Any]:
        """A log entry, and the checkpoint kept where it is the best so far."""
        since = state.log[-1]["epoch"] if state.log else 0
        mean = float(state.total) / self.per_epoch / (state.epoch - since)
        if not math.isfinite(mean):
            raise TrainingFailed(f"training diverged: the loss is {mean} in epoch {state.epoch}")
        state.net.eval()
        measured = self.objective.validate(state.net, validation, state.epoch / self.epochs)
        if measured["score"] >= state.best[0]:
            state.best = (measured["score"], copy.deepcopy(state.net.state_dict()))
        entry = {"epoch": state.epoch, "loss": mean, **measured}
        if isinstance(self.objective, Stopping) and self.objective.is_over([*state.log, entry]):
            entry["stop"] = 1.0
        return entry


_FLAGS = ("alarm", "stop")


def _told(entry: Mapping[str, Any], epochs: int) -> str:
    """A log entry as a line: shares in per cent, flags as words."""
    plain = ("epoch", "loss", "score", "seconds", *_FLAGS)
    shown = [f"{name} {100 * value:.1f} %" for name, value in entry.items() if name not in plain]
    shown += [name for name in _FLAGS if entry.get(name)]
    at = f"epoch {entry['epoch']}/{epochs}: loss {entry['loss']:.4f}"
    return ", ".join([at, *shown, f"{entry['seconds']:.1f} s"])


def _optimiser(parameters: Iterable[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(parameters, lr=settings.lr, weight_decay=settings.decay),
        "sgd": lambda: torch.optim.SGD(
            parameters, lr=settings.lr, momentum=0.9, weight_decay=settings.decay
        ),
    }
    return makers[settings.optimiser]()


def _triangle(step: int, steps: int) -> float:
    """The share of the peak learning rate at update `step` of `steps` (cyclic schedule of fast
    adversarial training, Wong et al. 2020).
    """
    return min(step / (_PEAK * steps), (steps + 1 - step) / ((1 - _PEAK) * steps + 1), 1.0)


def _flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to 4 pixels (zeros move in) and mirrored with probability 1/2."""
    count, height, width = len(x), x.shape[2], x.shape[3]
    wide = F.pad(x, (4, 4, 4, 4))
    down, right = (torch.randint(9, (count,), generator=generator).to(x.device) for _ in range(2))
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(x.device)
    rows = (down[:, None] + torch.arange(height, device=x.device))[:, None, :, None]
    columns = torch.arange(width, device=x.device).expand(count, width)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + right[:, None]
    samples = torch.arange(count, device=x.device)[:, None, None, None]
    channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return wide[samples, channels, rows, columns[:, None, None, :]]
