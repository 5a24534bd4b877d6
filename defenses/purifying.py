"""What purifiers share that stand on a generator: where it comes from, what is refused, and the
classifier behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import nn

from attacks.draws import Draws
from attacks.pipelines import said
from defenses.base import Defense
from defenses.detector import check_enough, check_fpr
from defenses.workshop import OtherSplit, Workshop
from models import gan, studio
from models.gans import Gan
from models.nets import Shape, is_small
from models.split import Split
from models.train import Standard

Train = Literal["clean", "purified", "both"]
"""What the classifier behind a purifier is trained on."""
_IMAGES = 1000
_ROWS = 100
"""Training images purified at a time."""


class PurifyingRecipe(Defense):
    """Base of purifiers by a generator: recipes with at least the keys generator, train, images,
    fpr, untrained and seed. purified: what the classifier sees, as a formula.
    """

    has_generator: ClassVar[bool] = True
    purified: ClassVar[str]

    generator: Gan
    train: Train
    images: int | None
    fpr: float | None
    untrained: bool
    seed: int

    def check(self) -> None:
        """Refuses keys out of range, and a generator that nobody has trained."""
        if self.fpr is not None:
            check_fpr(self.fpr)
        if self.images is not None and self.images < 1:
            raise ValueError(f"images must be at least 1, got {self.images}")
        if self.generator.labels:
            raise ValueError(
                f"generator {self.generator.to_spec()} is asked for a class, which no gradient "
                "finds: take one without classes"
            )
        if self.generator.is_untrained and not self.untrained:
            raise ValueError(
                f"generator {self.generator.to_spec()} is untrained; untrained=true takes it anyway"
            )

    @property
    def rejection(self) -> str:  # type: ignore[override]  # as a class it depends on nothing
        """See Defense."""
        return "" if self.fpr is None else "a threshold on the reconstruction error"

    def identity(self) -> dict[str, Any]:
        """See Defense; the generator is known by how it is trained and by those of the package."""
        return {**super().identity(), "gan": gan.REVISION, "package": studio.package()}

    def own_attacks(self, shape: Shape) -> tuple[str, ...]:
        """See Defense: the search in latent space, of small images a shorter one."""
        return ("latent:steps=100,tries=4,inversion=50",) if is_small(shape) else ("latent",)

    def check_data(self, shape: Shape, validation: int) -> None:
        """See Defense: images that the generator does not make, none to train on, too few for
        fpr.
        """
        self.generator.build(shape)
        if not validation:
            self.check_untrained()
        if self.fpr is not None:
            check_enough(validation, self.fpr)

    def check_untrained(self) -> None:
        """Refuses what has to be trained, where there is no training split."""
        if not (self.generator.is_given or self.generator.is_untrained):
            raise ValueError(
                f"this dataset has no training split for generator {self.generator.to_spec()}: "
                "add train=, or weights= to the generator"
            )
        if self.train != "clean":
            raise ValueError(f"this dataset has no training split for train={self.train}")

    def made_of(self) -> Self:
        """This recipe without what does not change purified images: refusal does not."""
        blank: Self = replace(cast(Any, self), fpr=None)
        return blank

    def classifier(self, workshop: Workshop, purifier: nn.Module, digest: str) -> nn.Module:
        """The net behind the purifier, as train says; digest: of the generator's weights."""
        if self.train == "clean":
            return workshop.undefended()
        purified = OtherSplit(self._size, lambda split: self._purified(split, purifier, workshop))
        identity = {"defense": self.made_of().identity(), "generator": digest}
        objective = OnPurified(self.purified, self.train == "both")
        return workshop.fit(objective, identity, instead=purified)

    def _size(self, have: int) -> int:
        made = self._count(have)
        return made + have if self.train == "both" else made

    def _count(self, have: int) -> int:
        return min(have, _IMAGES if self.images is None else self.images)

    def _purified(self, split: Split, purifier: nn.Module, workshop: Workshop) -> Split:
        """The first training images purified; for both, all as they are beside them."""
        made = self._count(len(split))
        parts = []
        for index in torch.split(torch.arange(made), _ROWS):
            x = split.images(index, workshop.device)
            with torch.no_grad():
                parts.append(said(purifier, x, Draws.of(x, self.seed)).cpu())
            workshop.say(f"purified {sum(map(len, parts)):,}/{made:,} training images")
        x, y = torch.cat(parts), split.y[:made]
        if self.train == "both":
            x, y = torch.cat([x, split.images(slice(None))]), torch.cat([y, split.y])
        return Split(x, y)


@dataclass(frozen=True)
class OnPurified(Standard):
    """Cross-entropy on what a purifier makes of training images, by the formula `purified`; where
    both: and on these.
    """

    purified: str
    both: bool

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return f"L({self.purified}, y)" + (" + L(x, y)" if self.both else "")
