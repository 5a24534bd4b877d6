"""Training sets made from what a net looks at: the robust and non-robust data sets of Ilyas et al.
2019 (arXiv:1905.02175), image by image and in pieces that an interrupted build goes on from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from attacks import loop
from attacks.ascent import Ascent, AscentAttack, fixed
from attacks.base import Task, at_least
from attacks.draws import Draws
from attacks.losses import CROSS_ENTROPY, Loss
from attacks.oracles import held
from attacks.pgd import Pgd
from defenses.workshop import Workshop
from models import checkpoint
from models.penultimate import Penultimate
from models.registry import canonical
from models.split import Split

Kind = Literal["robust", "nonrobust", "rand", "det"]
KEYS = ("x", "y", "index", "label", "start", "loss_start", "loss")
"""What is kept of each constructed image: the image x (float32, never rounded to bytes) and the
class y it is trained as; index and label: place in the training split and class of the image it was
made of; start: place of the one it started from; loss_start, loss: of the objective, at the start
and as reached.
"""

TARGETED = ("rand", "det")
"""Kinds that move images to another class inside a ball."""
_NORMS = ("linf", "l2", "l1")
_STEPS, _ALPHA, _SHARE = 100, 0.1, 0.2
_ROWS = {"cpu": 256}
_ROWS_ELSEWHERE = 2048


@dataclass(frozen=True)
class Construction:
    """How a training set is made of another one and a source net.

    kind robust, nonrobust: x_r minimises ||g(x_r) - g(x)||_2 in [0, 1], g the features of the
    source (trained adversarially for robust, plainly for nonrobust: all that tells the two apart),
    from another training image, and bears the class of x. rand, det: x' minimises the cross-entropy
    of class t in the ball of radius eps around x, from x, and bears t, which is drawn uniformly
    from all classes, or is y + 1 modulo their number. norm: of the ball and of the steps (l2: along
    the gradient over its length). steps: all are taken, nothing stops early. alpha: their size, by
    default 0.1, for rand and det eps / 5. images: how many training images, drawn under the seed;
    all where None. seed: of that choice, of starts and of targets.
    """

    revision: ClassVar[int] = 1

    kind: Kind
    norm: str = "l2"
    eps: float | None = None
    steps: int = _STEPS
    alpha: float | None = None
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        kinds = Kind.__args__  # type: ignore[attr-defined]
        if self.kind not in kinds:
            raise ValueError(f"kind must be one of {', '.join(kinds)}, got {self.kind!r}")
        if self.norm not in _NORMS:
            raise ValueError(f"norm must be one of {', '.join(_NORMS)}, got {self.norm!r}")
        if self.is_targeted and self.eps is None:
            raise ValueError(f"{self.kind} needs eps, the radius of its ball")
        if not self.is_targeted and self.eps is not None:
            raise ValueError(f"{self.kind} has no ball: eps must be left out, got {self.eps}")
        for name, value in (("eps", self.eps), ("alpha", self.alpha)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be finite and above 0, got {value}")
        at_least("steps", self.steps, 1)
        if self.images is not None:
            at_least("images", self.images, 1)

    @property
    def is_targeted(self) -> bool:
        """Whether images are moved to another class, rather than made anew from features."""
        return self.kind in TARGETED

    @property
    def step(self) -> float:
        """The step size."""
        usual = _ALPHA if self.eps is None else _SHARE * self.eps
        return usual if self.alpha is None else self.alpha

    @property
    def text(self) -> str:
        """The objective as a formula."""
        steps = f"{self.steps} {self.norm} steps of {self.step:g}"
        if not self.is_targeted:
            return f"min ||g(x_r) - g(x)||_2 in [0, 1] from another image, {steps}"
        target = "uniform" if self.kind == "rand" else "y + 1"
        ball = f"||x' - x||_{self.norm} <= {self.eps:g}"
        return f"min L(x', t), t {target}, {ball}, {steps}"

    @property
    def start(self) -> str:
        """Where every image starts, in words."""
        return "the image itself" if self.is_targeted else "another training image, drawn"

    def identity(self) -> dict[str, Any]:
        """What it is, for digests."""
        fields = {k: repr(v) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {**fields, "revision": self.revision, "engine": loop.CRAFTING}

    def count(self, size: int) -> int:
        """How many images are made of a split of that size; refuses more than it has."""
        if self.images is not None and self.images > size:
            raise ValueError(
                f"images must be at most {size}, the training split, got {self.images}"
            )
        return self.images or size

    def chosen(self, size: int) -> Tensor:
        """The places (n,) int64 of the images that are used, ascending."""
        places = torch.arange(size)
        order = self._draws(places).key("chosen").argsort(stable=True)
        return order[: self.count(size)].sort().values

    def made(self, source: nn.Module, split: Split, index: Tensor, workshop: Workshop) -> Part:
        """What becomes of the images at places index (n,) of the split; see KEYS."""
        device = workshop.device
        x, y = split.images(index, device), split.y[index].to(device)
        draws = self._draws(index.to(device))
        start = index if self.is_targeted else self._others(draws, len(split)).cpu()
        trained_as = self._targets(y, draws, workshop.classes)
        with held(source):
            if self.is_targeted:
                predict: nn.Module = source
                loss = CROSS_ENTROPY
                origin, reach = x, float(self.eps or 0)
            else:
                predict = Penultimate(source)
                with torch.no_grad():
                    loss = _apart(predict(x))
                origin, reach = split.images(start, device), math.inf
            radius = torch.full((len(x),), reach, device=device)
            task = Task(
                origin, y, self.norm, radius, workshop.classes, draws, self._aims(trained_as)
            )
            points = loop.craft(self._recipe(loss), predict, task, steps=self.steps)
            with torch.no_grad():
                before, after = (loss(predict(z), trained_as).abs() for z in (origin, points))
        found = (points, trained_as, index, y, start, before, after)
        return {name: value.cpu() for name, value in zip(KEYS, found, strict=True)}

    def _draws(self, places: Tensor) -> Draws:
        return Draws(self.seed, places, torch.zeros_like(places))

    def _others(self, draws: Draws, size: int) -> Tensor:
        """For each place another one, uniformly."""
        return (draws.ids + 1 + draws.integers(max(size - 1, 1), "start")) % size

    def _targets(self, y: Tensor, draws: Draws, classes: int) -> Tensor:
        """The classes (n,) that the images are trained as."""
        if self.kind == "rand":
            return draws.integers(classes, "target")
        return (y + 1) % classes if self.kind == "det" else y

    def _aims(self, trained_as: Tensor) -> Tensor | None:
        return trained_as if self.is_targeted else None

    def _recipe(self, loss: Loss) -> AscentAttack:
        if self.is_targeted:
            return Pgd(steps=self.steps, alpha=self.step, random=False, loss=loss)
        return Matching(loss, self.steps, self.step)


Part = dict[str, Tensor]


@dataclass(frozen=True)
class Matching(AscentAttack):
    """Steps of alpha towards the features of other images, from where the task stands."""

    label: ClassVar[str] = "matching"
    norms: ClassVar[tuple[str, ...]] = _NORMS
    loss: Loss
    steps: int
    alpha: float

    def parts(self, norm: str) -> Ascent:  # noqa: ARG002  one composition for every norm
        """See AscentAttack."""
        return Ascent(
            self.loss,
            steps=fixed(self.steps),
            alpha=lambda radius: torch.full_like(radius, self.alpha),
        )


def _apart(wanted: Tensor) -> Loss:
    """-||g - wanted||_2 per row of features g (N, F): how near they are, to be raised."""

    def nearness(features: Tensor, _: Tensor) -> Tensor:
        apart: Tensor = torch.linalg.vector_norm(features - wanted, dim=1)
        return -apart

    return Loss("nearness", nearness)


def key(recipe: Construction, source: nn.Module, workshop: Workshop) -> str:
    """What a constructed set is known by: recipe, weights of the source, data and numerics."""
    return checkpoint.key(
        canonical(
            {
                "construction": recipe.identity(),
                "source": checkpoint.digest(source.state_dict()),
                "data": workshop.fingerprint,
                "device": workshop.device.type,
                **workshop.numerics,
            }
        )
    )


def build(
    recipe: Construction,
    source: nn.Module,
    workshop: Workshop,
    keep: Callable[[int], checkpoint.Partial] | None = None,
) -> Part:
    """The constructed set (see KEYS) of the workshop's training split, in the order of the split.

    keep: where each finished piece is put down; a build that was interrupted takes what it finds
    there and makes the rest, to the same bits: pieces know nothing of each other. The caller drops
    them. Raises ValueError where there is no training split.
    """
    if workshop.train is None:
        raise ValueError("this dataset has no training split to construct images of")
    split, known = workshop.train, key(recipe, source, workshop)
    rows = _ROWS.get(workshop.device.type, _ROWS_ELSEWHERE)
    indices = torch.split(recipe.chosen(len(split)), rows)
    found: list[Part] = []
    for number, index in enumerate(indices):
        place = keep(number) if keep else None
        part = _kept(place, known)
        if part is None:
            part = recipe.made(source, split, index, workshop)
            if place:
                place.write(part, {"key": known})
        found.append(part)
        if (number + 1) * 10 // len(indices) > number * 10 // len(indices):
            done = sum(len(p["y"]) for p in found)
            workshop.say(f"constructed {done:,} of {sum(map(len, indices)):,} images")
    return joined(found)


def pieces(recipe: Construction, workshop: Workshop) -> int:
    """How many pieces a build has."""
    size = 0 if workshop.train is None else recipe.count(len(workshop.train))
    return -(-size // _ROWS.get(workshop.device.type, _ROWS_ELSEWHERE))


def _kept(place: checkpoint.Partial | None, known: str) -> Part | None:
    """A piece of the same build that was put down before."""
    stored = place.read() if place else None
    return stored[0] if stored and stored[1].get("key") == known else None


def joined(parts: Sequence[Part]) -> Part:
    """Pieces as one set."""
    return {name: torch.cat([part[name] for part in parts]) for name in KEYS}
