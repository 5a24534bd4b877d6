"""What the adapters share: how an attack of somebody else's becomes a class whose keys are its own
parameters.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

from torch import Tensor

from attacks.base import ForeignAttack, Kind, Task
from models.grammar import UnknownName, near
from models.seeding import seeded_everywhere
from models.signatures import keys_of, parameters

_OURS_TO_HIDE = ("restarts", "classes", "eot")
"""Attributes of every attack that a key of this name replaces: a foreign one does not read them."""
_GREEK = "αβγδεηλμρστ"
_WRITTEN = "alpha beta gamma delta epsilon eta lam mu rho sigma tau"
_LETTERS = dict(zip(map(ord, _GREEK), _WRITTEN.split(), strict=True))


@dataclass(frozen=True)
class Peer(ForeignAttack):
    """An attack of somebody else's. found: the class or function; passed: the parameter behind each
    key; known: all its parameters.
    """

    label: ClassVar[str]
    found: ClassVar[Callable[..., Any]]
    passed: ClassVar[Mapping[str, str]]
    known: ClassVar[Collection[str]]

    def given(self) -> dict[str, Any]:
        """The values of the keys, by parameter."""
        return {parameter: getattr(self, key) for key, parameter in self.passed.items()}

    def fitting(self, **values: Any) -> dict[str, Any]:
        """Those of the values whose parameter there is."""
        return {name: value for name, value in values.items() if name in self.known}


@dataclass(frozen=True)
class Traits:
    """What an adapter found out about an attack: see Attack for kind, norms, access, revision."""

    kind: Kind
    norms: tuple[str, ...]
    access: str = "gradient"
    can_target: bool = False
    revision: int | str = 1


def class_of(
    base: type[Peer],
    label: str,
    found: Callable[..., Any],
    traits: Traits,
    *,
    without: Iterable[str],
    **namespace: Any,
) -> type[Peer]:
    """The class of one attack: its keys are the simple parameters but those of `without`, Greek
    letters written out.
    """
    known = parameters(found)
    keys = {}
    for key in keys_of(found, without=tuple(without)):
        bare = known[key.name].annotation is inspect.Parameter.empty
        # Where nobody says so, 1 may stand for 1.0.
        kind = int | float if bare and key.kind is int else key.kind
        named = key.name.translate(_LETTERS)
        keys[named] = dataclasses.replace(key, name=named, kind=kind), key.name
    clash = [name for name in keys if hasattr(base, name) and name not in _OURS_TO_HIDE]
    if clash:
        raise UnknownName(
            f"{label} has a parameter {clash[0]!r}, a name that attacks use themselves"
        )
    doc = (inspect.getdoc(found) or f"{label}.").strip()
    made = dataclasses.make_dataclass(
        label.rpartition(":")[2],
        [key.field() for key, _ in keys.values()],
        bases=(base,),
        frozen=True,
        kw_only=True,
        namespace={
            "label": label,
            "found": staticmethod(found),
            "passed": {name: parameter for name, (_, parameter) in keys.items()},
            "known": frozenset(known),
            "__doc__": doc,
            **{f.name: getattr(traits, f.name) for f in dataclasses.fields(traits)},
            **namespace,
        },
    )
    return typing.cast("type[Peer]", made)


@dataclass(frozen=True)
class Library:
    """Another library. prefix: of its specs; module: what is imported; package: what is installed;
    remedy: what to do where it is missing.
    """

    prefix: str
    module: str
    package: str
    remedy: str

    @classmethod
    def with_extra(cls, prefix: str, module: str, package: str) -> Library:
        """One that an extra of ours installs."""
        return cls(prefix, module, package, f': pip install "adversarial-bench[{prefix}]"')

    def load(self, name: str, module: str = "") -> Any:
        """The library, or a module of it; refused in one line where it is not installed."""
        try:
            with seeded_everywhere(0):  # some draw while they are imported
                return importlib.import_module(module or self.module)
        except ImportError as err:
            asked = f"{self.prefix}:{name} needs {self.package}"
            if (err.name or "").partition(".")[0] == self.module:
                raise UnknownName(f"{asked}{self.remedy}") from err
            raise UnknownName(f"{asked}, which cannot be imported: {err.msg}") from err

    def choose(self, name: str, table: Mapping[str, Any]) -> Any:
        """The attack of this name; an unknown one is refused with those near it."""
        if name not in table:
            where = f"bench show {self.prefix}:NAME"
            raise near(name, sorted(table), f"attack of {self.package} named", where)
        return table[name]

    @property
    def revision(self) -> str:
        """Its version, so that outcomes of two versions are told apart."""
        return f"{self.package} {version(self.package)}"


def radius_of(task: Task) -> float:
    """The one radius of a task's samples."""
    return float(task.radius[0])


def labels_of(task: Task) -> Tensor:
    """The targets where there are some, else the labels."""
    return (task.y if task.targets is None else task.targets).clone()
