"""The simple parameters of somebody else's function as fields of a recipe: name, type, default."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

_SIMPLE = (int, float, bool, str)


@dataclass(frozen=True)
class Key:
    """A parameter as a key of a spec; required where it has no default."""

    name: str
    kind: Any
    default: Any = dataclasses.MISSING

    @property
    def is_required(self) -> bool:
        """Whether the spec must give it."""
        return self.default is dataclasses.MISSING

    def field(self) -> tuple[str, Any, Any]:
        """The same for dataclasses.make_dataclass."""
        return self.name, self.kind, dataclasses.field(default=self.default)


def keys_of(found: Callable[..., Any], *, without: Container[str] = ()) -> list[Key]:
    """The parameters that text can give, in their order.

    A parameter is a key if it is an int, float, bool or str (or none) by its annotation, else by
    its default; one without either is a str.
    """
    return [
        Key(p.name, kind, dataclasses.MISSING if p.default is p.empty else p.default)
        for p, kind in _typed(found)
        if kind is not None and p.name not in without
    ]


def parameters(found: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that can be given by name."""
    return {
        p.name: p
        for p in inspect.signature(found).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def _typed(found: Callable[..., Any]) -> list[tuple[inspect.Parameter, Any]]:
    source = vars(found).get("__init__", found) if isinstance(found, type) else found
    scope = getattr(inspect.unwrap(source), "__globals__", {})
    return [(p, _kind(p, scope)) for p in parameters(found).values()]


def _kind(parameter: inspect.Parameter, scope: dict[str, Any]) -> Any:
    """The type of a key; None where it cannot be one."""
    hint = _hint(parameter.annotation, scope)
    if hint is not None and is_simple(hint):
        return hint
    default = parameter.default
    if default is parameter.empty:
        return str
    if default is None:
        return str | None if hint is None else None
    return type(default) if type(default) in _SIMPLE else None


def _hint(annotation: Any, scope: dict[str, Any]) -> Any:
    """An annotation as a type; None where there is none, Any where it cannot be read."""
    if annotation is inspect.Parameter.empty:
        return None
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=scope)["it"]
    except (NameError, TypeError, AttributeError):
        return Any


def is_simple(hint: Any) -> bool:
    """Whether text can be converted to the type."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        return bool(members) and set(members) in ({int}, {float}, {bool}, {str}, {int, float})
    return hint in _SIMPLE
