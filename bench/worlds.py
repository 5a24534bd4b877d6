"""What `bench worlds` does: the small worlds played, and beside every answer the known one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.devices import numerics, threads
from bench.report.worlds.played import SHOWN, Check, Cloud, Worlds
from bench.runner import provenance
from bench.spec import valid
from models import games
from models.checkpoint import Cache, cache_folder, digest
from models.coverage import coverage
from models.gans import Gan
from models.registry import generators
from models.studio import Studio
from models.train import TrainingFailed
from models.worlds import histograms, line, population, saddle, shifts
from models.worlds.line import Line
from models.worlds.mixtures import GRID, RING, SHAPE, Census, Mixture

Say = Callable[[str], None]

PENALTY = "Wasserstein with penalty"
_RING = "updates=2000,latent=2,prior=uniform,width=128,ema=0.995"
_GRID = "updates=5000,latent=2,prior=uniform,width=256,batch=128,ema=0.995"
OBJECTIVES: Mapping[Mixture, Mapping[str, str]] = {
    RING: {
        PENALTY: f"mlp:objective=wasserstein,penalty=0.1,{_RING}",
        "non-saturating": f"mlp:objective=nonsaturating,penalty=0,{_RING}",
        "saturating": f"mlp:objective=saturating,penalty=0,{_RING}",
    },
    GRID: {
        PENALTY: f"mlp:objective=wasserstein,penalty=0.1,{_GRID}",
        "non-saturating": f"mlp:objective=nonsaturating,penalty=0,{_GRID}",
        "non-saturating with R1": f"mlp:objective=nonsaturating,penalty=0.001,{_GRID}",
    },
}
"""Specs of what is trained on each mixture, by the name of the objective."""
CLAIMED = {RING: 7}
"""Modes that the Wasserstein objective with penalty finds at least, as its spec says."""
DATA, COLLAPSED = "the mixture itself", "a constant"
_TRAINING, _LOOKED_AT = 50_000, 2_500
"""Samples that are trained on, and that are looked at."""
_NORMALS = 200_000
_GOLDEN, _QUADRATURE = 1e-9, 1e-6
"""What closed forms and the notebook's numbers agree to; what quadrature does."""


def play(seed: int, updates: int | None, say: Say) -> Worlds:
    """All of them. seed: of samples and trainings; updates: of every trained generator, None for
    what OBJECTIVES say.
    """
    with numerics(threads()):
        clouds = {mixture.name: _clouds(mixture, seed, updates, say) for mixture in OBJECTIVES}
    say("playing on the line")
    lines = _Lines.played()
    normals = _normals(seed)
    moved = [_shift(normals, shift) for shift in shifts.SHIFTS]
    earth, paths, shrinking = _Earth.moved(), _Saddle.played(), _population()
    slopes = tuple(_slopes(d) for d in (1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99, 0.999))
    checks = (
        *lines.checks(),
        *_fit(normals),
        *_shift_checks(moved),
        *_slope_checks(slopes[0]),
        *paths.checks(),
        *_population_checks(shrinking),
        *earth.checks(),
        *_mixture_checks(clouds),
        *(_claims(clouds) if updates is None else ()),
    )
    return Worlds(
        checks=checks,
        shifts=tuple(moved),
        curves=_curves(),
        slopes=slopes,
        theta=[3.0, *(game.theta for game in lines.trace)],
        target=lines.target,
        optimum=shifts.optimum(line.MEAN, 3.0),
        means=(line.MEAN, 3.0),
        spiral=paths.spiral,
        ellipse=paths.ellipse,
        values=shrinking,
        shares=np.stack([earth.p, earth.q]),
        plan=earth.found.plan,
        clouds=clouds,
        command=provenance("cpu")["command"],
    )


@dataclass(frozen=True, eq=False)
class _Lines:
    """The notebook's game at its start, after 100 discriminator steps, after 10 generator steps
    more, and after each of 200 rounds; untrained: the game at theta = 0 and the steps until its
    discriminator is right more often than 0.99.
    """

    start: Line
    sharpened: Line
    answered: Line
    trace: tuple[Line, ...]
    untrained: tuple[Line, int]

    @classmethod
    def played(cls) -> _Lines:
        """From the notebook's samples."""
        start = Line.notebook()
        sharpened = start
        for _ in range(100):
            sharpened = sharpened.discriminate()
        answered = sharpened
        for _ in range(10):
            answered = answered.generate()
        fresh = replace(start, theta=0.0, offset=0.0, slope=0.0)
        told = line.told_apart(fresh, 0.99, 1000)
        return cls(start, sharpened, answered, tuple(start.rounds(200)), told)

    @property
    def target(self) -> float:
        """Where the samples' means are one."""
        return float(self.start.real.mean() - self.start.noise.mean())

    def checks(self) -> Iterator[Check]:
        """Beside the notebook's numbers, and others that were computed from its samples."""
        known = (
            ("loss of D at the start", self.start.loss, 13.814757170851447, _GOLDEN),
            ("loss of G at the start", self.start.fooled, 13.78437035945412, _GOLDEN),
            ("mean of the data", float(self.start.real.mean()), 8.238023, 1e-6),
            ("mean of the noise", float(self.start.noise.mean()), -0.097141, 1e-6),
            ("offset after 100 D steps", self.sharpened.offset, -3.554494, 1e-6),
            ("slope after 100 D steps", self.sharpened.slope, 0.714446, 1e-6),
            ("loss of D after 100 D steps", self.sharpened.loss, 3.732422, 1e-6),
            ("theta after 10 G steps more", self.answered.theta, 3.332096, 1e-6),
        )
        for quantity, measured, expected, tolerance in known:
            yield Check("line", quantity, measured, expected, tolerance)
        for number, expected in enumerate((3.0806, 3.1516, 3.2177, 3.2812, 3.3434), start=1):
            name = f"theta after round {number}"
            yield Check("line", name, self.trace[number - 1].theta, expected, 5e-5)
        late = [game.theta for game in self.trace[100:]]
        yield Check("line", "theta after round 200", late[-1], 8.402, 5e-4)
        yield Check("line", "least theta, rounds 101 to 200", min(late), 8.266, 5e-4)
        yield Check("line", "greatest theta, rounds 101 to 200", max(late), 8.58, 5e-4)
        yield Check("line", "mean(x) - mean(z)", self.target, 8.335, 5e-4)
        yield Check("line", "loss of D after round 200", self.trace[-1].loss, 31.2, 0.05)
        balance = 20 * math.log(2)
        yield Check("line", "the same at D = 1/2", self._undecided().loss, balance, _GOLDEN)
        told, steps = self.untrained
        yield Check("line", "accuracy of D, G untrained", told.accuracy, 0.99, relation=">=")
        yield Check("line", "steps of D until then", float(steps), 200.0, relation="<")

    def _undecided(self) -> Line:
        return replace(self.start, offset=0.0, slope=0.0)


def _normals(seed: int) -> Any:
    """Standard normal numbers (2, N), float64."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, _NORMALS, generator=random, dtype=torch.float64).numpy()


def _shift(normals: Any, shift: float) -> dict[str, float | None]:
    """A row of SHIFTS."""
    seen = shifts.sampled(normals, shift) if math.isfinite(shift) else None
    return {
        "shift": shift,
        "jsd": shifts.divergence(shift),
        "value": shifts.value(shift),
        "value_sampled": None if seen is None else seen.value,
        "w1": shift,
        "w1_sampled": None if seen is None else seen.distance,
        "accuracy": shifts.bayes(shift),
        "accuracy_sampled": None if seen is None else seen.accuracy,
    }


def _curves() -> Any:
    """Shift, W1, accuracy and JSD (4, n) of shifts from 0 to 6."""
    moved = np.linspace(0, 6, 61)
    rows = [(shift, shift, shifts.bayes(shift), shifts.divergence(shift)) for shift in moved]
    return np.array(rows).T


def _shift_checks(moved: list[dict[str, float | None]]) -> Iterator[Check]:
    """JSD, V and accuracy beside known numbers, and beside each other."""
    known = {
        0.0: (0.0, -1.386294, 0.5),
        1.0: (0.111421, -1.163452, 0.691462),
        2.0: (0.336831, -0.712633, 0.841345),
        4.5: (0.659915, -0.066464, 0.987776),
        math.inf: (math.log(2), 0.0, 1.0),
    }
    names = {"jsd": "JSD", "value": "V", "accuracy": "accuracy of D*"}
    for row in moved:
        shift = row["shift"]
        for (name, said), expected in zip(names.items(), known.get(shift or 0.0, ()), strict=False):
            quantity = f"{said}, shift {shift:g}"
            yield Check("shift", quantity, row[name] or 0.0, expected, _QUADRATURE)
        implied = 2 * (row["jsd"] or 0.0) - math.log(4)
        said = f"V beside -log 4 + 2 JSD, shift {shift:g}"
        yield Check("shift", said, row["value"] or 0.0, implied, _GOLDEN)


def _fit(normals: Any) -> Iterator[Check]:
    """Logistic regression on many samples of 7.5 and 3 beside the logit of D*."""
    offset, slope = shifts.optimum(line.MEAN, 3.0)
    fitted = shifts.fitted(normals[0] + line.MEAN, normals[1] + 3.0)
    yield Check("shift", "slope of D*'s logit, 7.5 against 3", slope, 4.5)
    yield Check("shift", "offset of D*'s logit, 7.5 against 3", offset, -23.625)
    yield Check("shift", "zero of D*'s logit, 7.5 against 3", -offset / slope, 5.25)
    many = f"{_NORMALS:,} samples each"
    yield Check("shift", f"slope fitted to {many}", fitted[1], slope, 0.1)
    yield Check("shift", f"zero fitted to {many}", -fitted[0] / fitted[1], 5.25, 0.01)


def _slopes(d: float) -> tuple[float, float, float]:
    """D, and the slopes of both costs by D's logit, by automatic differentiation."""
    found = [_slope(cost, d) for cost in (games.saturating, games.non_saturating)]
    return d, found[0], found[1]


def _slope(cost: Callable[[Tensor], Tensor], d: float) -> float:
    logit = torch.tensor([math.log(d / (1 - d))], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(cost(logit), logit)
    return float(slope)


def _slope_checks(least: tuple[float, float, float]) -> Iterator[Check]:
    d, saturating, other = least
    yield Check("slope", f"saturating, at D = {d:g}", saturating, -d, _GOLDEN)
    yield Check("slope", f"non-saturating, at D = {d:g}", other, d - 1, _GOLDEN)
    yield Check("slope", f"ratio, at D = {d:g}", other / saturating, 9999.0, 1e-3)


@dataclass(frozen=True, eq=False)
class _Saddle:
    """Paths of both kinds of steps."""

    lr: float
    spiral: Any
    ellipse: Any

    @classmethod
    def played(cls, lr: float = 0.1, steps: int = 200) -> _Saddle:
        """Both from (1, 0)."""
        first, second = (
            saddle.path(step, lr, steps) for step in (saddle.simultaneous, saddle.alternating)
        )
        return cls(lr, first, second)

    def checks(self) -> Iterator[Check]:
        """Growth of the spiral; the ellipse's invariant and reach."""
        radii = np.linalg.norm(self.spiral, axis=1)
        factors, growth = radii[1:] / radii[:-1], saddle.growth(self.lr)
        name = f"growth per step at the same time, lr = {self.lr:g}"
        for word, factor in (("least", factors.min()), ("greatest", factors.max())):
            yield Check("saddle", f"{word} {name}", float(factor), growth, _GOLDEN)
        kept = saddle.invariant(self.ellipse, self.lr)
        drift = float(np.abs(kept - kept[0]).max())
        yield Check("saddle", "drift of x^2 + y^2 - lr x y, in turn", drift, 0.0, _GOLDEN)
        reach = float(np.linalg.norm(self.ellipse, axis=1).max())
        most = saddle.farthest(self.ellipse, self.lr) + _GOLDEN
        yield Check("saddle", "greatest distance, in turn", reach, most, relation="<")


def _population(steps: int = 30) -> Any:
    """V + log 4 after each step, from a uniform distribution to the earth mover's p."""
    p = histograms.normalised(histograms.EXAMPLE[0])
    made = population.path(p, np.full_like(p, 1 / len(p)), steps)
    return np.array([population.value(p, q) for q in made]) + math.log(4)


def _population_checks(values: Any) -> Iterator[Check]:
    last = float(values[-1])
    yield Check("population", f"V + log 4 after {len(values) - 1} steps", last, 0.0, _GOLDEN)


@dataclass(frozen=True, eq=False)
class _Earth:
    """The two histograms and the cheapest plan."""

    p: Any
    q: Any
    found: histograms.Transport

    @classmethod
    def moved(cls) -> _Earth:
        """By linear programming."""
        p, q = map(histograms.normalised, histograms.EXAMPLE)
        return cls(p, q, histograms.transport(p, q, histograms.places(len(p))))

    def checks(self) -> Iterator[Check]:
        """Beside the closed form and the notebook's number; KL and JSD."""
        p, q, known = self.p, self.q, 0.15148578811369506
        dual = float(np.concatenate([p, q]) @ self.found.potentials.ravel())
        for quantity, measured, expected, tolerance in (
            ("linear programming", self.found.cost, known, _GOLDEN),
            ("its dual", dual, known, _GOLDEN),
            ("closed form", histograms.emd(p, q), known, _GOLDEN),
            ("KL(p, q), a bin of q is empty", histograms.kl(p, q), math.inf, 0.0),
            ("KL(q, p)", histograms.kl(q, p), 0.3647105, 5e-8),
            ("JSD", histograms.jsd(p, q), 0.0841782, 5e-8),
        ):
            yield Check("earth mover", quantity, measured, expected, tolerance)


# --- mixtures ------------------------------------------------------------------------------------


def _clouds(mixture: Mixture, seed: int, updates: int | None, say: Say) -> tuple[Cloud, ...]:
    """The mixture itself, a constant, and what is trained on it."""
    train = mixture.split(_TRAINING, seed)
    made = [_cloud(mixture, DATA, mixture.split(_LOOKED_AT, seed + 1).x)]
    studio = Studio(
        train=train,
        shape=SHAPE,
        fingerprint=digest({"x": train.x}),
        device=torch.device("cpu"),
        numerics={"threads": threads(), "torch": torch.__version__},
        cache=Cache(cache_folder()),
        say=say,
    )
    for name, text in OBJECTIVES[mixture].items():
        recipe: Gan = valid(generators.get, text)
        recipe = replace(recipe, seed=seed, updates=recipe.updates if updates is None else updates)
        made.append(_played(mixture, name, recipe, studio))
    constant = train.x[:1].expand(_LOOKED_AT, *SHAPE)
    return (*made, _cloud(mixture, COLLAPSED, constant))


def _played(mixture: Mixture, name: str, recipe: Gan, studio: Studio) -> Cloud:
    """A generator trained on a mixture, or the failure of that."""
    facts = {"generator": name, "spec": recipe.to_spec()}
    try:
        ready = studio.ready(recipe)
    except TrainingFailed as err:
        row = {"world": mixture.name, **facts, "wrong": f"failed: {err}"}
        return Cloud(np.array(mixture.centres), np.zeros((0, 2), np.float32), row)
    images = ready.generator.sample(_LOOKED_AT, recipe.seed + 1)
    spent = {"updates": recipe.updates, "seconds": ready.seconds}
    return _cloud(mixture, name, images, {**facts, **spent})


def _cloud(
    mixture: Mixture, name: str, images: Tensor, facts: dict[str, Any] | None = None
) -> Cloud:
    found = mixture.census(images)
    row = {
        "world": mixture.name,
        "generator": name,
        "modes": found.found,
        "of": len(mixture.centres),
        "good": found.quality,
        "divergence": found.divergence,
        "wrong": _wrong(found),
        "n": found.count,
        **(facts or {}),
    }
    return Cloud(np.array(mixture.centres), images[:SHOWN].flatten(1).numpy(), row)


def _wrong(found: Census) -> str:
    """What is wrong with the centres that good samples belong to, by name."""
    return coverage(found.good, np.ones(len(found.good))).name if found.found else "no mode found"


def _mixture_checks(clouds: dict[str, tuple[Cloud, ...]]) -> Iterator[Check]:
    """Of the mixtures themselves and of constants, which nobody trains."""
    for world, (data, *_, constant) in clouds.items():
        of = float(data.row["of"])
        yield Check(world, f"modes of {DATA}", float(data.row["modes"]), of)
        yield Check(world, f"modes of {COLLAPSED}", float(constant.row["modes"]), 1.0)


def _claims(clouds: dict[str, tuple[Cloud, ...]]) -> Iterator[Check]:
    """Of generators trained as OBJECTIVES say; one whose training failed finds no mode."""
    for mixture, least in CLAIMED.items():
        (row,) = (cloud.row for cloud in clouds[mixture.name] if cloud.row["generator"] == PENALTY)
        found = float(row.get("modes", 0))
        yield Check(mixture.name, f"modes of {PENALTY}", found, float(least), relation=">=")
