"""The rows that a gate compares, and the file that keeps them: text, a line per row, without times
or names of files, so that the same results give the same bytes.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import RequestError, StoreError
from bench.report.curves import Cost
from bench.report.frames import reading_point
from bench.report.groups import attacked, by
from bench.spec import fraction
from bench.store import Record

FORMAT = 1
_LETTERS = string.digits + string.ascii_lowercase + string.ascii_uppercase
_NEVER = "."


@dataclass(frozen=True)
class Row:
    """One attacked cell. outcomes (n, draws): the smallest eps at which each sample was fooled, 0
    where it is wrong without attack, inf where it never was.

    samples: the digest of their ids; reference: the eps of the grid that is read first; pipeline
    and weights: digests of the recipe and of what it was trained to, the second empty where
    nothing was; forward, backward: queries of all samples; each: those of every single attacked
    sample, where nothing stops early (see `_each`), else None.
    """

    dataset: str
    fingerprint: str
    samples: str
    n: int
    model: str
    defense: str
    attack: str
    mode: str
    norm: str
    eps: tuple[Fraction, ...]
    reference: Fraction
    seed: int
    sweep: str
    query_budget: int | None
    pipeline: str
    weights: str
    forward: int
    backward: int
    each: tuple[int, int] | None
    outcomes: NDArray[np.float64]

    @property
    def name(self) -> tuple[Any, ...]:
        """What a row is compared by; models of the same text are versions of one."""
        who = (self.dataset, self.model, self.defense, self.attack, self.mode, self.norm)
        return (*who, self.seed, self.eps, self.sweep, self.query_budget or 0)

    @property
    def title(self) -> str:
        """The row in a line."""
        return _title(self)

    @property
    def data(self) -> tuple[str, str]:
        """What it was measured on."""
        return self.fingerprint, self.samples

    @property
    def net(self) -> tuple[str, str]:
        """What tells versions of a defended model apart."""
        return self.pipeline, self.weights

    @property
    def group(self) -> tuple[Any, ...]:
        """What rows of a worst case have in common."""
        how = (self.norm, self.seed, self.eps, self.sweep, self.query_budget)
        return (self.dataset, self.data, self.model, self.defense, self.net, *how)

    @property
    def points(self) -> tuple[Fraction, ...]:
        """The radii that are compared: none, and those of the grid."""
        return (Fraction(0), *(eps for eps in self.eps if eps > 0))


@dataclass(frozen=True)
class Rows:
    """What a store holds: complete rows, and the titles of failed ones with their reasons."""

    complete: tuple[Row, ...]
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Baseline:
    """The rows to compare with, and where times are gated, the ratios of attacks by name."""

    rows: tuple[Row, ...]
    ratios: Mapping[str, float] = field(default_factory=dict)


def rows_of(records: Iterable[Record]) -> Rows:
    """The attacked cells of a store; what is proven, not attacked, is no row."""
    cells = attacked(records)
    return Rows(
        tuple(_row(cell) for cell in cells if not cell.failure),
        tuple((_title(cell), cell.failure) for cell in cells if cell.failure),
    )


def _title(row: Row | Record) -> str:
    pipeline = f"{row.dataset} {row.model} / {row.defense}"
    return f"{pipeline} / {row.attack} ({row.mode}) {row.norm} seed {row.seed}"


def _row(cell: Record) -> Row:
    cost = Cost.of([cell])
    return Row(
        dataset=cell.dataset,
        fingerprint=cell.fingerprint,
        samples=cell.samples_digest,
        n=cell.n,
        model=cell.model,
        defense=cell.defense,
        attack=cell.attack,
        mode=cell.mode,
        norm=cell.norm,
        eps=tuple(cell.eps),
        reference=reading_point([cell]),
        seed=cell.seed,
        sweep=cell.sweep,
        query_budget=cell.query_budget,
        pipeline=cell.pipeline,
        weights=str(cell.provenance.get("weights", "")),
        forward=cost.forward,
        backward=cost.backward,
        each=_each(cell),
        outcomes=cell.outcomes,
    )


def _each(cell: Record) -> tuple[int, int] | None:
    """Forward and backward queries of every attacked sample of a cell where nothing stops early: a
    minimal attack runs to its end whatever it finds, unless its recipe says otherwise (deepfool),
    which shows in counts that differ. Every other kind leaves a sample at its first success.
    """
    counts = np.stack([cell.samples["forward"], cell.samples["backward"]], axis=1)
    found = np.unique(counts[counts[:, 0] > 0], axis=0)
    if cell.kind != "minimal" or len(found) != 1:
        return None
    forward, backward = map(int, found[0])
    return forward, backward


def text(baseline: Baseline) -> str:
    """The file's text; `parse` reads it."""
    from bench import __version__

    rows = sorted(baseline.rows, key=lambda row: row.name)
    head = {"format": FORMAT, "version": __version__, "ratios": dict(baseline.ratios)}
    lines = [f"{json.dumps(key)}: {json.dumps(head[key], sort_keys=True)}," for key in head]
    body = ",\n".join(json.dumps(_plain(row)) for row in rows)
    return "\n".join(["{", *lines, '"rows": [', body, "]", "}", ""])


def _plain(row: Row) -> dict[str, Any]:
    """A row as JSON has it, in the order of its fields."""
    values = dict(vars(row))
    values["eps"] = [shown(eps) for eps in row.eps]
    values["reference"] = shown(row.reference)
    values["outcomes"] = _written(row)
    return values


def shown(eps: Fraction) -> str:
    """An exact eps as short as it gets: 0.15, 8/255."""
    short = f"{float(eps):g}"
    return short if Fraction(short) == eps else str(eps)


def _levels(points: Sequence[Fraction]) -> NDArray[np.float64]:
    """Every outcome that there is, upwards."""
    return np.array([*map(float, points), np.inf])


def _codes(points: Sequence[Fraction]) -> list[str]:
    """The text of each level, all of one width: numbers to the base 62, and dots for never."""
    width, most = 1, len(_LETTERS)
    while most < len(points):
        width, most = width + 1, most * len(_LETTERS)
    return [*(_number(place, width) for place in range(len(points))), _NEVER * width]


def _number(value: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        value, last = divmod(value, len(_LETTERS))
        digits = _LETTERS[last] + digits
    return digits


def _written(row: Row) -> list[str]:
    """The outcomes as a text per draw, a code per sample."""
    levels, codes = _levels(row.points), np.array(_codes(row.points))
    places = np.searchsorted(levels, row.outcomes)
    if not np.array_equal(levels[places], row.outcomes):
        raise StoreError(f"{row.title} holds outcomes that are no eps of its grid")
    return ["".join(codes[draw]) for draw in places.T]


def _read(texts: Sequence[str], points: Sequence[Fraction], n: int) -> NDArray[np.float64]:
    """The outcomes (n, draws) of such texts."""
    known = dict(zip(_codes(points), _levels(points).tolist(), strict=True))
    width = len(next(iter(known)))
    if not texts or any(len(each) != n * width for each in texts):
        got = ", ".join(str(len(each)) for each in texts) or "none"
        raise ValueError(f"outcomes must be texts of {n * width} letters, got {got}")
    parts = [[each[i : i + width] for i in range(0, len(each), width)] for each in texts]
    strange = {part for each in parts for part in each} - known.keys()
    if strange:
        raise ValueError(f"outcomes must be codes of the grid, got {min(strange)!r}")
    return np.array([[known[part] for part in each] for each in parts]).T


def parse(content: str, source: str) -> Baseline:
    """The baseline of a file's text; refuses one that is malformed. source: what to call it."""
    try:
        held = json.loads(content)
    except (ValueError, RecursionError) as err:
        raise RequestError(f"{source} is no baseline: not JSON ({err})") from err
    if not isinstance(held, dict) or not isinstance(held.get("rows"), list):
        raise RequestError(f"{source} is no baseline: it must hold rows")
    if held.get("format") != FORMAT:
        raise RequestError(
            f"{source} has format {held.get('format')!r}, this version reads {FORMAT}; "
            "write it again with --update"
        )
    rows = [_parsed(item, f"{source}: row {place}") for place, item in enumerate(held["rows"], 1)]
    for same in by(rows, lambda row: row.name):
        if len(same) > 1:
            raise RequestError(f"{source} holds {same[0].title} twice")
    return Baseline(tuple(rows), _ratios(held.get("ratios"), source))


def _ratios(held: Any, source: str) -> dict[str, float]:
    if not isinstance(held, dict) or not all(map(_is_ratio, held.values())):
        raise RequestError(f"{source}: ratios must be numbers above 0 by name")
    return {name: float(ratio) for name, ratio in held.items()}


def _is_ratio(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < np.inf


def _parsed(item: Any, where: str) -> Row:
    try:
        return _checked(item)
    except (ValueError, TypeError, KeyError, RequestError) as err:
        told = f"{err} is missing" if isinstance(err, KeyError) else str(err)
        raise RequestError(f"{where}: {told}; write the baseline again with --update") from err


def _checked(item: Any) -> Row:
    """A row of its JSON; raises what a wrong value gives."""
    if not isinstance(item, dict):
        raise TypeError("must be an object")
    values = {name: check(name, item[name]) for name, check in _FIELDS.items()}
    values["each"] = None if values["each"] is None else tuple(values["each"])
    if values["n"] < 1:
        raise ValueError(f"n must be at least 1, got {values['n']}")
    eps = values["eps"]
    if not eps or list(eps) != sorted(set(eps)) or eps[0] < 0 or values["reference"] not in eps:
        raise ValueError("eps must be a grid, upwards, that holds the reference")
    points = tuple(dict.fromkeys([Fraction(0), *eps]))
    values["outcomes"] = _read(values["outcomes"], points, values["n"])
    return Row(**values)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text")
    return value


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{name} must be a whole number of at least 0")
    return value


def _radius(name: str, value: Any) -> Fraction:
    return fraction(_text(name, value))


def _many(check: Callable[[str, Any], Any]) -> Callable[[str, Any], tuple[Any, ...]]:
    def of(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError(f"{name} must be a list")
        return tuple(check(name, each) for each in value)

    return of


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _pair(name: str, value: Any) -> tuple[int, ...]:
    pair: tuple[int, ...] = _many(_count)(name, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be two numbers")
    return pair


_FIELDS: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("dataset", "fingerprint", "samples"), _text),
    "n": _count,
    **dict.fromkeys(("model", "defense", "attack", "mode", "norm"), _text),
    "eps": _many(_radius),
    "reference": _radius,
    "seed": _count,
    "sweep": _text,
    "query_budget": _or_none(_count),
    **dict.fromkeys(("pipeline", "weights"), _text),
    **dict.fromkeys(("forward", "backward"), _count),
    "each": _or_none(_pair),
    "outcomes": _many(_text),
}
