"""The only GAN training loop; what its steps are made of is passed in."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models import state
from models.seeding import seeded
from models.train import TrainingFailed

REVISION = 1
"""Raised when a change of the loop changes trained weights."""

_ENTRIES = 40
_MEASURED = ("loss_d", "loss_g", "d_real", "d_fake")
_SLOPES = ("slope_saturating", "slope_nonsaturating")
_LEVELS = 255


class GanFailed(TrainingFailed):
    """GAN training that diverged or that the discriminator has won.

    weights: the last good checkpoint of the generator; update: when it was made.
    """

    def __init__(self, reason: str, weights: dict[str, Tensor], update: int):
        super().__init__(f"GAN training {reason}; the last good generator is of update {update:,}")
        self.weights, self.update = weights, update


@dataclass(frozen=True)
class Settings:
    """How a GAN is trained.

    batch: real and made images per step; an update is `critic` steps of the discriminator and
    `makers` of the generator; lr: of both; decay: weight of the discriminator's squared weights in
    its loss, halved; ema: share of the averaged generator that an update leaves; seed: of
    initialisation, order and noise.
    """

    updates: int
    batch: int
    critic: int
    lr: float
    ema: float
    seed: int
    decay: float = 0.0
    makers: int = 1


class Contest(Protocol):
    """What the loop's steps are made of: the data, the costs, and what is looked at. All random
    numbers of a step come from `players.random`.
    """

    @property
    def text(self) -> str:
        """What the discriminator minimises, for people."""
        ...

    def optimisers(
        self, generator: nn.Module, discriminator: nn.Module, settings: Settings
    ) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """What moves each side."""
        ...

    def discriminator(self, players: Players, number: int) -> tuple[Tensor, Tensor]:
        """The loss of the discriminator's step `number`, counted from the first of the training,
        and D (2,) as it is told, mean of real and of made images, detached.
        """
        ...

    def generator(self, players: Players) -> Tensor:
        """The loss of a generator's step."""
        ...

    def after(self, discriminator: nn.Module) -> None:
        """What happens after each of the discriminator's steps."""
        ...

    def shown(self, generator: nn.Module) -> Tensor:
        """Images (N, C, H, W) in [0, 1] that show what the generator makes at present, of the same
        latents, or images, each time.
        """
        ...

    def slopes(self, players: Players) -> Tensor:
        """The norm (2,) of the generator's gradient under the saturating and the non-saturating
        cost, of the same noise each time; both nets are as in training, and moves nothing but what
        their layers keep of a batch, which is put back.
        """
        ...

    def is_won(self, entry: Mapping[str, float]) -> bool:
        """Whether a log entry says that the discriminator has won: nothing is left to learn."""
        ...


Album = dict[int, Tensor]
"""Update to what the generator in play made then: images (N, C, H, W), bytes, on the CPU."""


@dataclass(frozen=True)
class Trained:
    """What is told of a training: log, up to 40 entries; album, a page per entry."""

    log: list[dict[str, Any]]
    album: Album


@dataclass
class Players:
    """Both nets with their optimisers, the averaged generator, the random numbers, and how far they
    have come. sums: of what is measured since the last log entry.
    """

    generator: nn.Module
    discriminator: nn.Module
    average: nn.Module
    steps: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
    random: torch.Generator
    sums: Tensor
    good: dict[str, Tensor]
    update: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    album: Album = field(default_factory=dict)

    def nets(self) -> dict[str, nn.Module]:
        """The nets by name."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
        }

    def write(self, keep: state.Keep) -> None:
        """Puts it down."""
        tensors = {"random": self.random.get_state()}
        for name, net in self.nets().items():
            tensors |= state.under(name, net.state_dict())
        for number, optimiser in enumerate(self.steps):
            tensors |= state.under(f"optimiser{number}", state.moments(optimiser))
        tensors |= state.under("album", {str(k): images for k, images in self.album.items()})
        keep.write(tensors, {"format": state.FORMAT, "update": self.update, "log": self.log})

    def read(self, keep: state.Keep) -> bool:
        """Takes up what was put down, if there is any; says whether it did."""
        found = keep.read()
        if found is None or found[1].get("format") != state.FORMAT:
            return False
        tensors, facts = found
        self.random.set_state(tensors["random"])
        for name, net in self.nets().items():
            net.load_state_dict(state.of(name, tensors))
        for number, optimiser in enumerate(self.steps):
            state.restore_moments(optimiser, state.of(f"optimiser{number}", tensors))
        self.update, self.log = facts["update"], facts["log"]
        self.album = {int(k): t.cpu() for k, t in state.of("album", tensors).items()}
        self.good = copy.deepcopy(self.average.state_dict())
        return True


def fit(
    generator: nn.Module,
    discriminator: nn.Module,
    contest: Contest,
    settings: Settings,
    *,
    say: Callable[[str], None] = lambda _: None,
    keep: state.Keep | None = None,
) -> Trained:
    """Trains both nets in place and leaves the generator in eval mode with its averaged weights;
    tells means of losses, D(real), D(fake) of the last step of either side in each update, the
    generator's slopes and seconds, 40 times.

    The discriminator stands still while the generator moves. Nets that grow are told how much of
    the training is over. Equal arguments give equal weights on one machine; keep: where the state
    is put down at each log entry, and gone on from. Raises GanFailed when a loss or weight is no
    longer finite or the discriminator has won for two entries in a row.
    """
    device = next(generator.parameters()).device
    with seeded(settings.seed):
        players = _seated(generator, discriminator, contest, settings, device)
        if keep is not None and players.read(keep):
            say(f"going on after update {players.update:,}/{settings.updates:,}")
        every = max(1, math.ceil(settings.updates / _ENTRIES))
        while players.update < settings.updates:
            start, until = time.perf_counter(), min(players.update + every, settings.updates)
            count = until - players.update
            players.sums.zero_()
            while players.update < until:
                _grow(players, players.update / settings.updates)
                _play(players, contest, settings)
                players.update += 1
            _note(players, contest, count, start)
            say(_told(players.log[-1], settings.updates))
            if keep is not None:
                players.write(keep)
    _grow(players, 1.0)
    generator.load_state_dict(players.average.state_dict())
    generator.eval()
    return Trained(players.log, players.album)


def _seated(
    generator: nn.Module,
    discriminator: nn.Module,
    contest: Contest,
    settings: Settings,
    device: torch.device,
) -> Players:
    """Before the first update."""
    average = copy.deepcopy(generator).requires_grad_(requires_grad=False)
    return Players(
        generator.train(),
        discriminator.train(),
        average,
        contest.optimisers(generator, discriminator, settings),
        torch.Generator(device).manual_seed(settings.seed),
        torch.zeros(len(_MEASURED), device=device),
        copy.deepcopy(average.state_dict()),
    )


def _grow(players: Players, share: float) -> None:
    """Tells nets that grow how much of the training is over."""
    for net in players.nets().values():
        grow: Callable[[float], None] | None = getattr(net, "grow", None)
        if grow is not None:
            grow(share)


def _play(players: Players, contest: Contest, settings: Settings) -> None:
    """One update: the discriminator's steps, then the generator's; nothing waits for the device."""
    first, second = players.steps
    loss_d, loss_g, told = (torch.zeros_like(players.sums[at]) for at in (0, 1, slice(2, 4)))
    for number in range(settings.critic):
        loss, told = contest.discriminator(players, players.update * settings.critic + number)
        _step(second, loss)
        contest.after(players.discriminator)
        loss_d = loss.detach()
    players.discriminator.requires_grad_(requires_grad=False)
    for _ in range(settings.makers):
        loss = contest.generator(players)
        _step(first, loss)
        loss_g = loss.detach()
    players.discriminator.requires_grad_(requires_grad=True)
    _averaged(players, settings.ema)
    players.sums += torch.cat([torch.stack([loss_d, loss_g]), told])


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimiser.step()


def _averaged(players: Players, ema: float) -> None:
    """The exponential mean of the generator's weights; a short one at first, so that the start does
    not linger.
    """
    weight = 1 - min(ema, (1 + players.update) / (10 + players.update))
    with torch.no_grad():
        averages, weights = (
            [t for t in net.state_dict().values() if t.is_floating_point()]
            for net in (players.average, players.generator)
        )
        torch._foreach_lerp_(averages, weights, weight)


def _note(players: Players, contest: Contest, count: int, start: float) -> None:
    """A log entry and its page; raises GanFailed where going on is pointless."""
    means = (players.sums / count).tolist()
    entry: dict[str, Any] = {"update": players.update, **dict(zip(_MEASURED, means, strict=True))}
    before = players.log[-1]["update"] if players.log else 0
    # A finite loss may have moved weights to where they are not.
    is_finite = all(bool(t.isfinite().all()) for t in players.average.state_dict().values())
    if not is_finite or not all(map(math.isfinite, means)):
        raise GanFailed(f"diverged by update {players.update:,}", players.good, before)
    entry["seconds"] = time.perf_counter() - start
    entry |= zip(_SLOPES, _slopes(players, contest), strict=True)
    if contest.is_won(entry) and players.log and contest.is_won(players.log[-1]):
        reason = f"stopped at update {players.update:,}: the generator's gradient is at 0"
        raise GanFailed(reason, players.good, before)
    players.generator.eval()
    with torch.no_grad():
        images = contest.shown(players.generator)
    players.generator.train()
    players.album[players.update] = (images * _LEVELS).round().to(torch.uint8).cpu()
    players.log.append(entry)
    players.good = copy.deepcopy(players.average.state_dict())


def _slopes(players: Players, contest: Contest) -> list[float]:
    """See Contest; what layers keep of the batches they saw is left as it was."""
    kept = [t for net in (players.generator, players.discriminator) for t in net.buffers()]
    before = [t.clone() for t in kept]
    slopes: list[float] = contest.slopes(players).tolist()
    for now, then in zip(kept, before, strict=True):
        now.copy_(then)
    return slopes


def _told(entry: Mapping[str, Any], updates: int) -> str:
    return (
        f"update {entry['update']:,}/{updates:,}: loss of D {entry['loss_d']:.4f}, of G "
        f"{entry['loss_g']:.4f}, D(real) {entry['d_real']:.3f}, D(fake) {entry['d_fake']:.3f}, "
        f"{entry['seconds']:.1f} s"
    )
