"""The only GAN training loop; what the two nets play for is passed in."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models import state
from models.games import Game, Round
from models.generators import Generator
from models.seeding import seeded
from models.split import Split
from models.train import TrainingFailed

REVISION = 1
"""Raised when a change of the loop changes trained weights."""

_ENTRIES = 40
_MEASURED = ("loss_d", "loss_g", "d_real", "d_fake")


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

    updates: of the generator; batch: real and made images per step; critic: discriminator steps per
    generator step; lr: Adam's, of both; ema: share of the averaged generator that an update leaves;
    seed: of initialisation, order and noise.
    """

    updates: int
    batch: int
    critic: int
    lr: float
    ema: float
    seed: int


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
        self.good = copy.deepcopy(self.average.state_dict())
        return True


def fit(
    generator: Generator,
    discriminator: nn.Module,
    train: Split,
    game: Game,
    settings: Settings,
    *,
    say: Callable[[str], None] = lambda _: None,
    keep: state.Keep | None = None,
) -> list[dict[str, Any]]:
    """Trains both nets in place and leaves the generator in eval mode with its averaged weights;
    returns a log of 40 entries: mean losses, D(real), D(fake), seconds.

    A generator step comes after `critic` discriminator steps, with fresh noise in each; the
    generator never sees a real image, the discriminator stands still while the generator moves and
    its images are detached while the discriminator does. Equal arguments give equal weights on one
    machine; keep: where the state is put down at each log entry, and gone on from. Raises GanFailed
    when a loss or weight is no longer finite or the discriminator has won for two entries in a row.
    """
    device = next(generator.parameters()).device
    real = train.images(slice(None), device)
    with seeded(settings.seed):
        players = _seated(generator, discriminator, game, settings, device)
        if keep is not None and players.read(keep):
            say(f"going on after update {players.update:,}/{settings.updates:,}")
        every = max(1, math.ceil(settings.updates / _ENTRIES))
        while players.update < settings.updates:
            start, until = time.perf_counter(), min(players.update + every, settings.updates)
            count = until - players.update
            players.sums.zero_()
            while players.update < until:
                _play(players, real, game, settings)
                players.update += 1
            _note(players, game, count, time.perf_counter() - start)
            say(_told(players.log[-1], settings.updates))
            if keep is not None:
                players.write(keep)
    generator.load_state_dict(players.average.state_dict())
    generator.eval()
    return players.log


def _seated(
    generator: Generator,
    discriminator: nn.Module,
    game: Game,
    settings: Settings,
    device: torch.device,
) -> Players:
    """Before the first update."""
    average = copy.deepcopy(generator).requires_grad_(requires_grad=False)
    first, second = (
        torch.optim.Adam(net.parameters(), settings.lr, game.betas)
        for net in (generator, discriminator)
    )
    return Players(
        generator.train(),
        discriminator.train(),
        average,
        (first, second),
        torch.Generator(device).manual_seed(settings.seed),
        torch.zeros(len(_MEASURED), device=device),
        copy.deepcopy(average.state_dict()),
    )


def _play(players: Players, real: Tensor, game: Game, settings: Settings) -> None:
    """One update: the discriminator's steps, then the generator's; nothing waits for the device."""
    first, second = players.steps
    losses, scores = torch.zeros_like(players.sums[0]), torch.zeros_like(players.sums[:2])
    for number in range(settings.critic):
        with torch.no_grad():
            fake = players.generator(_noise(players, settings.batch))
        size = (settings.batch,)
        index = torch.randint(len(real), size, generator=players.random, device=real.device)
        mix = torch.rand(size, generator=players.random, device=real.device)
        turn = Round(real[index], fake, mix, players.update * settings.critic + number)
        loss_d, scored = game.discriminator(players.discriminator, turn)
        _step(second, loss_d)
        losses, scores = loss_d.detach(), scored.detach().mean(1)
    players.discriminator.requires_grad_(requires_grad=False)
    made = players.generator(_noise(players, settings.batch))
    loss_g = game.generator(players.discriminator(made))
    _step(first, loss_g)
    players.discriminator.requires_grad_(requires_grad=True)
    _averaged(players, settings.ema)
    players.sums += torch.stack([losses, loss_g.detach(), *scores])


def _noise(players: Players, count: int) -> Tensor:
    """Fresh latents from the generator's prior."""
    generator: Any = players.generator
    size = (count, generator.latent)
    numbers = torch.rand(size, generator=players.random, device=players.sums.device)
    latents: Tensor = generator.prior.latents(numbers)
    return latents


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


def _note(players: Players, game: Game, count: int, seconds: float) -> None:
    """A log entry; raises GanFailed where going on is pointless."""
    means = (players.sums / count).tolist()
    entry: dict[str, Any] = {"update": players.update, **dict(zip(_MEASURED, means, strict=True))}
    entry["seconds"] = seconds
    before = players.log[-1]["update"] if players.log else 0
    # A finite loss may have moved weights to where they are not.
    is_finite = all(bool(t.isfinite().all()) for t in players.average.state_dict().values())
    if not is_finite or not all(map(math.isfinite, means)):
        raise GanFailed(f"diverged by update {players.update:,}", players.good, before)
    if game.is_won(entry) and players.log and game.is_won(players.log[-1]):
        reason = f"stopped at update {players.update:,}: the discriminator's loss is at 0"
        raise GanFailed(reason, players.good, before)
    players.log.append(entry)
    players.good = copy.deepcopy(players.average.state_dict())


def _told(entry: Mapping[str, Any], updates: int) -> str:
    return (
        f"update {entry['update']:,}/{updates:,}: loss of D {entry['loss_d']:.4f}, of G "
        f"{entry['loss_g']:.4f}, D(real) {entry['d_real']:.3f}, D(fake) {entry['d_fake']:.3f}, "
        f"{entry['seconds']:.1f} s"
    )
