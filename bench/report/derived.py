"""Tables that several documents show, made of the same records once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from bench.store import Record

Made = TypeVar("Made")

_MADE: ContextVar[dict[Any, tuple[Sequence[Record], Any]] | None] = ContextVar("made", default=None)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Inside, what `derived` marks is made once of the same records; forgotten on leaving."""
    token = _MADE.set({})
    try:
        yield
    finally:
        _MADE.reset(token)


def derived(make: Callable[[Sequence[Record]], Made]) -> Callable[[Iterable[Record]], Made]:
    """Marks a pure function of records whose result nobody changes."""

    @functools.wraps(make)
    def of(records: Iterable[Record]) -> Made:
        kept, made = tuple(records), _MADE.get()
        if made is None:
            return make(kept)
        key = make, tuple(map(id, kept))
        if key not in made:
            # The records stay with the result, so that no other ones get their ids.
            made[key] = kept, make(kept)
        result: Made = made[key][1]
        return result

    return of
