"""The grammar of specs, ``NAME[:KEY=VALUE,...]``, and of the values in them; never imports torch.

NAME is a name of a table, ``path/to/file.py:attribute`` or ``package.module:attribute``; a spec
inside a spec stands in brackets.
"""

from __future__ import annotations

import contextlib
import difflib
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


class UnknownName(ValueError):
    """A name or a key that no table holds; the message names the nearest known ones."""


@dataclass(frozen=True)
class Spec:
    """A parsed spec: the name and its options as written, brackets of nested specs removed."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def is_external(self) -> bool:
        """Whether the name is a ``file.py:attribute`` or ``module:attribute`` of the user's own."""
        return ":" in self.name


def split_top(text: str, separator: str) -> list[str]:
    """Splits at every separator that stands outside brackets."""
    parts, depth, current = [], 0, ""
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if depth < 0:
            break
        if letter == separator and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += letter
    if depth != 0:
        raise ValueError(f"brackets must be balanced, got {text!r}")
    return [*parts, current]


def parse(text: str) -> Spec:
    """Reads ``NAME[:KEY=VALUE,...]``; the first part behind a colon that holds ``=`` starts the
    options.
    """
    parts = split_top(text.strip(), ":")
    start = next((i for i, part in enumerate(parts) if i and "=" in part), len(parts))
    name, tail = ":".join(parts[:start]), ":".join(parts[start:])
    if not name or name.endswith(":"):
        raise ValueError(f"a spec is NAME[:KEY=VALUE,...], got {text!r}")
    options: dict[str, str] = {}
    for item in split_top(tail, ",") if tail else []:
        key, equals, value = item.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key or not value:
            raise ValueError(f"an option is KEY=VALUE, got {item!r} in {text!r}")
        if key in options:
            raise ValueError(f"key {key!r} stands twice in {text!r}")
        options[key] = unwrapped(value)
    return Spec(name, tuple(options.items()))


def without(text: str, key: str) -> str:
    """The spec as written, less an option; those of specs inside it stay."""
    name = parse(text).name
    tail = text.strip()[len(name) + 1 :]
    items = split_top(tail, ",") if tail else []
    kept = [item for item in items if item.partition("=")[0].strip() != key]
    return f"{name}:{','.join(kept)}" if kept else name


def unwrapped(text: str) -> str:
    """The text without a pair of brackets that holds all of it; `[a]+[b]` keeps its own."""
    depth, closes = 0, -1
    for place, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if depth == 0:
            closes = place
            break
    return text[1:-1] if text.startswith("[") and closes == len(text) - 1 else text


def near(name: str, known: Iterable[str], kind: str, where: str) -> UnknownName:
    """The error for an unknown name, with the nearest known ones."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
    )
    return UnknownName(f"no {kind} {name!r}; {hint} ({where})")


def number(text: str) -> float:
    """A float from decimal text, ``8/255`` or ``inf``."""
    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        return float(text)


def _boolean(text: str) -> bool:
    value = {"true": True, "false": False}.get(text.lower())
    if value is None:
        raise ValueError("true or false")
    return value


def convert(text: str, kind: Any) -> Any:
    """The value of option text by a field's type; ``none`` is None where the type allows it."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        members = typing.get_args(kind)
        if text.lower() == "none" and type(None) in members:
            return None
        return _as_one_of(text, [m for m in members if m is not type(None)])
    if typing.get_origin(kind) is typing.Literal:
        if text not in typing.get_args(kind):
            raise ValueError(f"one of {', '.join(typing.get_args(kind))}")
        return text
    if hasattr(kind, "from_spec"):
        return kind.from_spec(text)
    converters: dict[Any, Callable[[str], Any]] = {
        int: int,
        float: number,
        bool: _boolean,
        str: str,
    }
    return converters[kind](text)


def _as_one_of(text: str, kinds: list[Any]) -> Any:
    """The value by the first type that takes the text."""
    for kind in kinds[:-1]:
        with contextlib.suppress(ValueError):
            return convert(text, kind)
    return convert(text, kinds[-1])


def type_name(kind: Any) -> str:
    """A type as ``bench show`` and error messages write it."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join(type_name(member) for member in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(typing.get_args(kind))
    if kind is type(None):
        return "none"
    if hasattr(kind, "from_spec"):
        return "|".join(kind.choices()) if hasattr(kind, "choices") else "spec"
    return str(kind.__name__)
