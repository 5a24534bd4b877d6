"""Tables that several documents show, made of the same records, or rows, once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

_MADE: ContextVar[dict[Any, tuple[Sequence[Any], Any]] | None] = ContextVar("made", default=None)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Inside, what `derived` marks is made once of the same items; forgotten on leaving."""
    token = _MADE.set({})
    try:
        yield
    finally:
        _MADE.reset(token)


def derived(make: Callable[[Sequence[Item]], Made]) -> Callable[[Iterable[Item]], Made]:
    """Marks a pure function of records, or what is made of them, whose result nobody changes."""

    @functools.wraps(make)
    def of(items: Iterable[Item]) -> Made:
        kept, made = tuple(items), _MADE.get()
        if made is None:
            return make(kept)
        key = make, tuple(map(id, kept))
        if key not in made:
            # The items stay with the result, so that no other ones get their ids.
            made[key] = kept, make(kept)
        result: Made = made[key][1]
        return result

    return of
