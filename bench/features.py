"""What `bench features` does: constructed training sets into a folder, and how useful features are
beside how much of that an adversary leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks import norms
from bench import constructed, data
from bench.datasets import budget
from bench.devices import device_of, numerics, threads
from bench.errors import RequestError
from bench.report.features import Scatter
from bench.runner import provenance
from bench.spec import Request, fraction, valid
from defenses import usefulness
from defenses.base import Defense
from defenses.constructed import TARGETED, Construction
from defenses.features import net_of
from defenses.registry import defenses
from defenses.usefulness import Ball, Groups
from defenses.workshop import Workshop
from models.checkpoint import Cache, cache_folder
from models.penultimate import Penultimate
from models.recipes import Classifier
from models.registry import models


@dataclass(frozen=True)
class Settings:
    """What a set is constructed with, as asked for; None leaves a choice to the kind or dataset."""

    kind: Any
    eps: str | None
    steps: int | None
    alpha: float | None
    images: int | None
    seed: int


@dataclass(frozen=True)
class Bench:
    """A dataset, a model and its defense, all as the request names one of each."""

    request: Request
    dataset: data.Dataset
    device: torch.device
    say: Callable[[str], None]

    @classmethod
    def of(cls, request: Request, say: Callable[[str], None]) -> Bench:
        """Loads the dataset; refuses one without a training split."""
        device = torch.device(device_of(request.device))
        dataset = data.load(request.datasets[0], request.data_root)
        if dataset.train is None or dataset.validation is None:
            raise RequestError(f"{dataset.name} has no training split")
        return cls(request, dataset, device, say)

    @property
    def reference(self) -> Fraction:
        """The dataset's reference eps in the norm."""
        row = budget(self.dataset.kind, self.dataset.shape[0], self.request.norm)
        return Fraction(row.reference)

    def eps(self, text: str | None) -> float:
        """A radius as asked for, by default the reference; refuses one that is not above 0."""
        value = self.reference if text is None else fraction(text)
        if value <= 0:
            raise RequestError(f"eps must be above 0, got {text}")
        return float(value)

    def workshop(self, model: str) -> Workshop:
        """Where nets are trained, as in a run: through the cache."""
        recipe: Classifier = valid(models.get, model)
        return self.dataset.workshop(
            recipe,
            self.device,
            numerics={"threads": threads(), "torch": torch.__version__},
            cache=Cache(cache_folder()),
            say=self.say,
        )

    def defense(self) -> Defense:
        """The defense with what it left open filled in."""
        defense: Defense = valid(defenses.get, self.request.defenses[0])
        norm, reference = self.request.norm, float(self.reference)
        filled: Defense = valid(lambda _: defense.at(norm, reference), "")
        return filled

    def net(self, workshop: Workshop, defense: Defense) -> nn.Module:
        """The net that is deployed; refuses a pipeline that is none, and one without features."""
        net: nn.Module = valid(lambda _: net_of(defense, workshop), "")
        valid(lambda _: Penultimate(net), "")
        return net


def build(
    request: Request, settings: Settings, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Constructs a set into a folder and returns its manifest; see constructed.build."""
    bench = Bench.of(request, say)
    eps = bench.eps(settings.eps) if settings.kind in TARGETED else None
    recipe: Construction = valid(
        lambda _: Construction(
            settings.kind,
            norm=request.norm,
            eps=eps,
            alpha=settings.alpha,
            images=settings.images,
            seed=settings.seed,
            **({} if settings.steps is None else {"steps": settings.steps}),
        ),
        "",
    )
    valid(lambda _: recipe.count(len(bench.dataset.train or ())), "")
    workshop, defense = bench.workshop(request.models[0]), bench.defense()
    command = provenance(str(bench.device))["command"]
    with numerics(threads()):
        net = bench.net(workshop, defense)
        origin = constructed.Origin(bench.dataset, workshop.model.to_spec(), defense.to_spec(), net)
        return constructed.build(recipe, origin, workshop, out, command)


LINEAR = "logreg"


def measure(request: Request, eps: str | None, steps: int, say: Callable[[str], None]) -> Scatter:
    """rho and gamma of pixels, of the rows of a softmax regression, and of the features of the
    net, on test images of the dataset.
    """
    bench = Bench.of(request, say)
    ball = valid(lambda _: Ball(request.norm, bench.eps(eps), steps, request.seeds[0]), "")
    index = torch.from_numpy(bench.dataset.subset(request.n))
    x, y = bench.dataset.test.images(index, bench.device), bench.dataset.test.y[index]
    groups = Groups.of(y.to(bench.device), bench.dataset.classes)
    workshop, defense = bench.workshop(request.models[0]), bench.defense()
    with numerics(threads()):
        net = bench.net(workshop, defense)
        regression = bench.workshop(LINEAR).undefended()
        rows = [*_pixels(x, groups, ball), *_regression(regression, x, groups, ball)]
        features = Penultimate(net)
        say(f"pushing the features of {workshop.model.to_spec()} on {len(x)} images")
        low, high = usefulness.extremes(features, x, ball)
        with torch.no_grad():
            useful = usefulness.usefulness(features(x), groups)
        rows += _best("unit", "attack", useful.rho, usefulness.gamma(useful, groups, low, high))
    sizes = torch.bincount(y, minlength=bench.dataset.classes).tolist()
    return Scatter(
        dataset=bench.dataset.name,
        model=workshop.model.to_spec(),
        defense=defense.to_spec(),
        norm=ball.norm,
        eps=ball.eps,
        sizes=tuple(sizes),
        rows=tuple(rows),
        command=provenance(str(bench.device))["command"],
    )


def _pixels(x: Tensor, groups: Groups, ball: Ball) -> Iterator[dict[str, Any]]:
    """Every pixel as a feature: whatever the norm it moves by eps, as far as the box lets it."""
    flat = x.flatten(1)
    useful = usefulness.usefulness(flat, groups)
    ends = (norms.to_box(flat + step) for step in (-ball.eps, ball.eps))
    return _best("pixel", "exact", useful.rho, usefulness.gamma(useful, groups, *ends))


def _regression(net: nn.Module, x: Tensor, groups: Groups, ball: Ball) -> Iterator[dict[str, Any]]:
    """The rows of a softmax regression on pixels as features."""
    (layer,) = (module for module in net.modules() if isinstance(module, nn.Linear))
    weights = layer.weight.detach()
    useful = usefulness.usefulness(x.flatten(1) @ weights.T, groups)
    gamma = usefulness.linear_gamma(useful, weights, ball.norm, ball.eps)
    return _best("logreg row", "without box", useful.rho, gamma)


def _best(family: str, method: str, rho: Tensor, gamma: Tensor) -> Iterator[dict[str, Any]]:
    """A row per feature that is not constant, for the class that it is most useful for."""
    best, of = rho.max(1)
    left = gamma.gather(1, of[:, None])[:, 0]
    for place in range(len(rho)):
        if best[place] > 0:
            yield {
                "family": family,
                "feature": place,
                "class": int(of[place]),
                "rho": float(best[place]),
                "gamma": float(left[place]),
                "method": method,
            }
