"""Several attacks as one: the worst case over them, for less than their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import Attack, Ensemble
from attacks.oracles import ACCESS, DIFFERENTIATING
from attacks.registry import attacks
from models.registry import Joined, Registry

_UNKNOWN = 10**12
"""The cost of an attack of which nobody knows: it comes last."""
_BACKWARD = 2
"""What a backward costs, in forwards."""


@dataclass(frozen=True)
class Members(Joined):
    """Attacks of the table: `[pgd:steps=100]+square`."""

    table: ClassVar[Registry] = attacks
    recipes: tuple[Attack, ...] = ()


@dataclass(frozen=True)
class Cascade(Ensemble):
    """Several attacks, cheapest first, each only on the samples and radii that still stand.

    One row: the worst case over its attacks, for a fraction of their sum; attacks named separately
    each see every sample. attacks: joined by +, each with keys in brackets:
    `cascade:attacks=[fgsm+[pgd:steps=100]+square]`. Cost is forward queries at most for one sample
    at one radius, a gradient counting as two more; one of which nobody knows comes last. Of an
    ensemble the stages stay together.
    """

    access: ClassVar[str] = "gradient"
    attacks: Members = Members.from_spec("noise+fmn")  # noqa: RUF009  a frozen dataclass

    def __post_init__(self) -> None:
        needy = [recipe.to_spec() for recipe in self.attacks.recipes if recipe.needs]
        if needy:
            raise ValueError(f"attacks must need nothing but the model, got {needy[0]}")
        access = {recipe.access for recipe in self.attacks.recipes}
        every = [name for name in ACCESS if name in access]
        object.__setattr__(self, "access", every[0])

    def check(self, norm: str, classes: int, *, targeted: bool = False) -> None:
        """See Attack: what every member refuses."""
        for recipe in self.attacks.recipes:
            recipe.check(norm, classes, targeted=targeted)

    def stages(self, norm: str, classes: int) -> tuple[Attack, ...]:
        """See Ensemble."""
        ordered = sorted(self.attacks.recipes, key=lambda recipe: _cost(recipe, norm, classes))
        flat: list[Attack] = []
        for recipe in ordered:
            inner = recipe.stages(norm, classes) if isinstance(recipe, Ensemble) else (recipe,)
            flat.extend(inner)
        return tuple(flat)

    def least_queries(self, classes: int) -> int:
        """See Attack: what each member can take a step with."""
        return max(recipe.least_queries(classes) for recipe in self.attacks.recipes)


def _cost(recipe: Attack, norm: str, classes: int) -> int:
    queries = recipe.cost([1.0], norm, classes)
    if queries is None:
        return _UNKNOWN
    return queries * (1 + _BACKWARD * (recipe.access in DIFFERENTIATING))
