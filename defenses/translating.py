"""What defenses share whose classifier sees what a translator makes of the image, trained by the
GAN loop on training images attacked on the undefended classifier.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from attacks import loop
from defenses import registry
from defenses.base import Defended, Defense
from defenses.crafting import Ball, CraftingRecipe
from defenses.reformed import MODES, reformed
from defenses.workshop import Workshop
from models import checkpoint, gan
from models.contested import Contested
from models.nets import Shape
from models.split import Split
from models.translation import LEAST_SIDE


@dataclass(frozen=True)
class Attacked:
    """Where attacked images come from: craft, of a split to images where it has them; source, the
    digest of the net that they are made on.
    """

    craft: Callable[[Split], Tensor]
    source: str


class OfDefense:
    """A recipe of the GAN loop that a defense makes: known by the defense and by whose attacked
    images it is trained on.
    """

    defense: Defense
    attacked: Attacked

    def to_spec(self) -> str:
        """The defense's."""
        return self.defense.to_spec()

    def identity(self) -> dict[str, Any]:
        """The defense's, and whose attacked images they are."""
        made_by = {"engine": loop.CRAFTING, "source": self.attacked.source}
        return {"defense": self.defense.identity(), **made_by}


class TranslatingRecipe(CraftingRecipe):
    """Base of purifiers by a translator: recipes with at least the keys attack, eps, norm, updates
    and seed. The classifier is the undefended one.
    """

    updates: int | None

    @abstractmethod
    def trained(self, attacked: Attacked) -> Contested[Any]:
        """How the translator is trained."""

    @abstractmethod
    def translator(self, net: nn.Module) -> nn.Module:
        """The translator of images (N, C, H, W) in the net that is trained."""

    def check(self) -> None:
        """Refuses keys out of range, and a translator that nobody trains."""
        self.check_ball()
        if self.updates == 0:
            raise ValueError("updates must be at least 1, got 0")
        self.trained(_NOTHING)

    @property
    def modes(self) -> tuple[str, ...]:
        """See Defense."""
        return MODES

    def identity(self) -> dict[str, Any]:
        """See Defense; the translator is known by how it is trained."""
        return {**super().identity(), "gan": gan.REVISION}

    def check_data(self, shape: Shape, validation: int) -> None:
        """See CraftingRecipe; refuses images too small for a translator, too."""
        super().check_data(shape, validation)
        if min(shape[1:]) < LEAST_SIDE:
            raise ValueError(
                f"{registry.defenses.name_of(self)} needs images of at least {LEAST_SIDE} x "
                f"{LEAST_SIDE} pixels, got {shape[1]} x {shape[2]}"
            )

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; images are attacked only where the cache does not have the translator."""
        eps, norm = self.filled(workshop.classes)
        _, validation = workshop.splits()
        self.check_data(workshop.shape, len(validation))
        net, ball = workshop.undefended(), Ball(norm, eps, workshop.classes)

        def craft(split: Split) -> Tensor:
            workshop.say(f"attacking {len(split):,} training images with {self.attack.to_spec()}")
            return ball.of_split(self.inner, net, split, self.seed, workshop.device)

        attacked = Attacked(craft, checkpoint.digest(net.state_dict()))
        made = workshop.generator(self.trained(attacked)).generator
        translator = self.translator(made.requires_grad_(requires_grad=False))
        return reformed(translator, net, workshop, None, inside=net)


_NOTHING = Attacked(lambda split: split.images(slice(None)), "")
"""For a recipe that is looked at and not trained."""
