"""Models that an adversarial training takes points from besides the net it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from models.recipes import Classifier
from models.registry import models, split_top, unwrapped


@dataclass(frozen=True)
class StaticSources:
    """Models of the table, several joined by +, each with keys in brackets:
    `[cnn_small:seed=1]+mlp`.
    """

    recipes: tuple[Classifier, ...]

    @classmethod
    def from_spec(cls, text: str) -> Self:
        """The models that a text names."""
        return cls(tuple(models.get(unwrapped(part.strip())) for part in split_top(text, "+")))

    def to_spec(self) -> str:
        """The shortest text that names them."""
        specs = [recipe.to_spec() for recipe in self.recipes]
        if len(specs) > 1:
            specs = [f"[{spec}]" if ":" in spec else spec for spec in specs]
        return "+".join(specs)

    def identity(self) -> list[Any]:
        """What they are, for digests."""
        return [recipe.identity() for recipe in self.recipes]
