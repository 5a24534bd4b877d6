"""One planted mistake, and who should notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """A change of one place of the code that must not go unnoticed.

    file: of the package `attacks`; old: text that occurs in it exactly once, replaced by new;
    breaks: what is wrong then; killers: tests of which one at least fails, written `file::name`
    for tests/attacks/test_file.py::test_name.
    """

    name: str
    file: str
    old: str
    new: str
    breaks: str
    killers: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file it changes, from the root of the tree."""
        return Path("attacks", self.file)

    @property
    def tests(self) -> list[str]:
        """The killers as pytest names them."""
        return [
            f"tests/attacks/test_{killer.replace('::', '.py::test_', 1)}" for killer in self.killers
        ]

    def applied(self, text: str) -> str:
        """The file's text with the mistake; raises ValueError where the old text is not there
        exactly once.
        """
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name}: {self.path} must hold the old text once, got {count}")
        return text.replace(self.old, self.new)


def oracle(spec: str, norm: str, classes: int = 2) -> str:
    """The test of an attack's row against exact distances of a linear model."""
    name = "fools_beyond_the_exact_distance_and_never_within"
    return f"attacks::{name}[{spec}-{norm}-{classes}]"
