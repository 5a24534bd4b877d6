"""Plain training on what robust, or non-robust, features say: no adversary while the defended net
trains.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from torch import nn

from attacks import loop
from defenses import constructed
from defenses.base import Defended, Defense
from defenses.constructed import Construction
from defenses.madry import Madry
from defenses.workshop import OtherSplit, Workshop
from models import checkpoint
from models.nets import Shape
from models.split import Split
from models.train import Standard


class FeatureDefense(Defense):
    """Base of both: a source net, images constructed on it, standard training on these."""

    deploys_net: ClassVar[bool] = True

    @abstractmethod
    def construction(self) -> Construction:
        """How the images are made."""

    @abstractmethod
    def source(self, workshop: Workshop) -> nn.Module:
        """The net whose features they are made of; not listed among the trained."""

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; images are made only where the cache does not have the trained net."""
        recipe, source = self.construction(), self.source(workshop)
        digest = checkpoint.digest(source.state_dict())
        identity = {"defense": self.identity(), "engine": loop.REVISION, "source": digest}

        def made(_: Split) -> Split:
            data = _through_cache(recipe, source, workshop)
            return Split(data["x"], data["y"])

        objective = OnConstructed(f"{recipe.kind} images: {recipe.text}")
        net = workshop.fit(objective, identity, instead=OtherSplit(recipe.count, made))
        return Defended(predict=net, surrogate=net)


@dataclass(frozen=True)
class RobustFeatures(FeatureDefense):
    """Standard training on D_R, images made anew from the features of a robust net alone (Ilyas et
    al. 2019, arXiv:1905.02175).

    For each training image x another one is moved until an adversarially trained net's features
    (what enters its last linear layer) are those of x; the result bears the class of x, and the
    model is trained on such images alone, without an adversary. teacher: the training of the net
    with the features, of the run's model, by default madry at the run's norm and the dataset's
    reference eps (the paper: l2, eps 0.5 on CIFAR-10, which is
    `teacher=[madry:norm=l2,eps=0.5]`). steps, alpha: l2 steps of that size, whatever the run's
    norm; 100 of 0.1 (the paper's code takes 1,000 of 0.1). images: how many are made, all where
    none. seed: of that choice and of starts. Model, epochs, batch and learning rate are the
    model's; the best checkpoint is chosen by clean accuracy on the original validation images. Made
    images are kept in the cache, four bytes a value.
    """

    teacher: Defense = Madry()  # noqa: RUF009  a frozen dataclass
    steps: int = 100
    alpha: float = 0.1
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.construction()

    def at(self, norm: str, reference: float | None) -> Self:
        """See Defense: what the teacher left open."""
        return replace(self, teacher=self.teacher.at(norm, reference))

    def check_data(self, shape: Shape, validation: int) -> None:
        """See Defense: what the teacher refuses."""
        self.teacher.check_data(shape, validation)

    def construction(self) -> Construction:
        """See FeatureDefense."""
        return Construction(
            "robust", steps=self.steps, alpha=self.alpha, images=self.images, seed=self.seed
        )

    def source(self, workshop: Workshop) -> nn.Module:
        """See FeatureDefense: the teacher."""
        return net_of(self.teacher, workshop.of(workshop.model))


@dataclass(frozen=True)
class NonrobustFeatures(FeatureDefense):
    """Standard training on non-robust features: D_NR, D_rand or D_det (Ilyas et al. 2019,
    arXiv:1905.02175).

    No defense at all, but the counterpart of robust_features. kind nonrobust: the same construction
    on the undefended model. rand, det: each training image is moved in a small ball until the
    undefended model says class t, and bears t: to people it is mislabelled, and what can be learnt
    of the classes are features that a small change turns over. t is drawn uniformly from all
    classes (rand), or the class after the image's (det). norm, eps: the ball of rand and det, by
    default the run's norm and the dataset's reference eps (the paper: l2, 0.5 on CIFAR-10). steps:
    100, as in the paper's code for rand and det (it takes 1,000 for nonrobust). alpha: their size,
    by default 0.1 along l2 for nonrobust, eps / 5 for rand and det. Other keys, cache and
    checkpoint as in `bench show robust_features`; that the validation images are the original ones
    tells rand and det a little of the true classes.
    """

    kind: Literal["nonrobust", "rand", "det"] = "nonrobust"
    norm: str | None = None
    eps: float | None = None
    steps: int = 100
    alpha: float | None = None
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self._has_ball and (self.norm, self.eps) != (None, None):
            raise ValueError("norm and eps are those of kinds rand and det: nonrobust has no ball")
        self._with(self.norm or "l2", 1.0 if self.eps is None else self.eps)

    @property
    def _has_ball(self) -> bool:
        return self.kind != "nonrobust"

    def at(self, norm: str, reference: float | None) -> Self:
        """See Defense: the ball of rand and det."""
        if not self._has_ball:
            return self
        if self.eps is None and (reference is None or self.norm not in (None, norm)):
            raise ValueError(
                f"nonrobust_features: eps= is needed, none is known for norm={self.norm}"
            )
        filled = self.norm or norm, reference if self.eps is None else self.eps
        return replace(self, norm=filled[0], eps=filled[1])

    def construction(self) -> Construction:
        """See FeatureDefense."""
        if self._has_ball and (self.norm is None or self.eps is None):
            raise ValueError("nonrobust_features: norm and eps must be set (Defense.at does it)")
        return self._with(self.norm or "l2", self.eps)

    def _with(self, norm: str, eps: float | None) -> Construction:
        """The construction in a ball; refuses what it refuses."""
        return Construction(
            self.kind,
            norm=norm,
            eps=eps if self._has_ball else None,
            steps=self.steps,
            alpha=self.alpha,
            images=self.images,
            seed=self.seed,
        )

    def source(self, workshop: Workshop) -> nn.Module:
        """See FeatureDefense: the undefended model."""
        return workshop.of(workshop.model).undefended()


@dataclass(frozen=True)
class OnConstructed(Standard):
    """Standard training on constructed images."""

    how: str

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return f"L(x, y) over {self.how}"


def net_of(defense: Defense, workshop: Workshop) -> nn.Module:
    """The net that a defense deploys; refuses one that deploys more than a net."""
    made = defense.deploy(workshop)
    if not isinstance(made.predict, nn.Module) or made.random:
        raise ValueError(f"features are those of a plain net, {defense.to_spec()} deploys none")
    return made.predict


def _through_cache(recipe: Construction, source: nn.Module, workshop: Workshop) -> constructed.Part:
    """The constructed set, made once; interrupted work is gone on from. A cache that cannot be
    written costs the way back, not the set.
    """
    cache = workshop.cache
    if cache is None:
        return constructed.build(recipe, source, workshop)
    key = constructed.key(recipe, source, workshop)
    whole = checkpoint.Partial(cache.folder / "constructed" / f"{key}.safetensors")
    stored = whole.read()
    if stored is not None:
        return stored[0]

    def part(number: int) -> checkpoint.Partial:
        return cache.partial(f"{key}-{number:05d}")

    data = constructed.build(recipe, source, workshop, part)
    whole.write(data, {"key": key})
    for number in range(constructed.pieces(recipe, workshop)):
        part(number).drop()
    return data
