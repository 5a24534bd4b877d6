"""Attacks of the user's own: recipe classes, and plain callables."""

from __future__ import annotations

import hashlib
import inspect
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attacks.base import Attack, Task
from attacks.foreign.peers import Peer, Traits, class_of, radius_of
from attacks.threat import NORMS
from models import isolation
from models.grammar import UnknownName
from models.signatures import parameters

_EPS = ("eps", "epsilon")
_OURS = ("norm", "targets", *_EPS)
_HANDED = 3
"""Leading parameters: model, images, labels."""


@dataclass(frozen=True)
class Function(Peer):
    """A callable (model, x, y, **keys) -> x_adv as an attack."""

    def craft(self, model: nn.Module, task: Task) -> Tensor:
        """See ForeignAttack."""
        eps = radius_of(task)
        ours = self.fitting(norm=task.norm, targets=task.targets, eps=eps, epsilon=eps)
        points: Tensor = self.found(model, task.x.clone(), task.y.clone(), **self.given(), **ours)
        return points


def recipe(name: str) -> Any:
    """The attack class that `file.py:attribute` or `module:attribute` names, or is made for the
    function there.
    """
    found, place = isolation.find(name)
    if isinstance(found, type) or not callable(found):
        return isolation.recipe_class(name, found, place, "attacks.base:Attack")
    label = f"{place.stem}:{name.rpartition(':')[2]}"
    return _class_of(found, label, place.digest())


def wrap(function: Callable[..., Tensor]) -> Attack:
    """An attack that calls function(model, x, y, **keys) on blocks of images and takes what it
    returns for adversarial images.

    The model it is handed counts its queries. A parameter `eps` (or `epsilon`) makes it a budget
    attack: it is called once per radius, with the radius; without, its points are judged by their
    distance. Parameters `norm` and `targets` are given where there are some; the others are keys.
    Cells of a plain function are known by its source file, those of anything else (a closure, a
    partial, an object) are never reused.
    """
    name = getattr(function, "__qualname__", type(function).__qualname__)
    module = getattr(function, "__module__", None) or type(function).__module__
    label = f"{module.rpartition('.')[2]}:{name.replace('<', '').replace('>', '')}"
    return _class_of(function, label, _digest(function))()


def _class_of(found: Callable[..., Any], label: str, digest: str) -> type[Peer]:
    known = parameters(found)
    if len(known) < _HANDED:
        took = ", ".join(known)
        raise UnknownName(f"{label} must be a function (model, x, y, ...), got one of ({took})")
    traits = Traits(
        kind="budget" if any(eps in known for eps in _EPS) else "minimal",
        norms=NORMS,
        can_target="targets" in known,
    )
    without = (*list(known)[:_HANDED], *_OURS)
    return class_of(Function, label, found, traits, without=without, source_digest=digest)


def _digest(function: Any) -> str:
    """Of a plain function's source file; of anything whose behaviour its source does not tell, of
    nothing else in the world.
    """
    if inspect.isfunction(function) and "<" not in function.__qualname__:
        source = inspect.getsourcefile(function)
        if source and Path(source).is_file():
            return hashlib.blake2b(Path(source).read_bytes(), digest_size=16).hexdigest()
    return uuid.uuid4().hex
