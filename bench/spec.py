"""What a user asks for, as plain values: eps grids and the request of a sweep, its names checked;
never imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from attacks.registry import attacks
from attacks.threat import NORMS
from bench.datasets import datasets
from bench.errors import RequestError
from defenses.registry import defenses
from models.grammar import near
from models.registry import models

MOST_EPS = 10_000
_LARGEST = 1_000_000
_LONGEST, _LONGEST_EXPONENT = 60, 4
DEVICES = re.compile(r"auto|cpu|cuda(:\d+)?")
SWEEPS = ("ladder", "bisect", "independent")
PRECISIONS = ("auto", "fp32", "bf16")
BOUNDS = ("exact", "interval", "crown", "none")
ALL = "all"
"""In place of an attack's spec: every attack of the table that knows the norm and the classes."""


def fraction(text: str) -> Fraction:
    """An exact number from decimal text or a fraction such as 8/255."""
    if len(text) > _LONGEST or len(text.lower().partition("e")[2]) > _LONGEST_EXPONENT:
        raise RequestError(f"eps must be a number such as 0.3 or 8/255, got {text[:40]!r}")
    try:
        return Fraction(text.replace(" ", ""))
    except (ValueError, ZeroDivisionError) as err:
        raise RequestError(f"eps must be a number such as 0.3 or 8/255, got {text!r}") from err


def parse_grid(text: str, norm: str = "l2") -> tuple[Fraction, ...]:
    """Radii of ``FIRST:LAST:STEP`` (both ends included) or ``A,B,C``, sorted, each once."""
    if ":" in text:
        parts = [fraction(part) for part in text.split(":")]
        if len(parts) != 3:
            raise RequestError(f"an eps range is FIRST:LAST:STEP, got {text!r}")
        first, last, step = parts
        if step <= 0:
            raise RequestError(f"the step of an eps range must be above 0, got {text!r}")
        count = (last - first) // step + 1
        if count > MOST_EPS:
            raise RequestError(
                f"an eps grid holds at most {MOST_EPS} values, got {count} in {text!r}"
            )
        values = [first + i * step for i in range(count)]
    else:
        values = [fraction(part) for part in text.split(",") if part.strip()]
    return checked_grid(values, text, norm)


def checked_grid(values: list[Fraction], text: str, norm: str) -> tuple[Fraction, ...]:
    """The values sorted, each once; refuses an empty grid, and an eps that is negative, too large
    to mean anything in [0, 1], or under l0 no whole number.
    """
    if not values:
        raise RequestError(f"the eps grid is empty: {text!r}")
    if min(values) < 0:
        raise RequestError(f"eps must be at least 0, got {float(min(values))!r}")
    most = 1 if norm == "linf" else _LARGEST
    if max(values) > most:
        raise RequestError(f"eps must be at most {most} under {norm}, got {text}")
    if norm == "l0" and any(value.denominator != 1 for value in values):
        raise RequestError(f"eps under l0 is a number of components, a whole number, got {text}")
    return tuple(sorted(set(values)))


@dataclass(frozen=True)
class Request:
    """A sweep as asked for; texts are specs. None leaves a choice to the dataset or the device."""

    datasets: tuple[str, ...] = ("digits",)
    models: tuple[str, ...] = ("cnn_small",)
    attacks: tuple[str, ...] = ("pgd",)
    defenses: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    norm: str = "linf"
    eps: str | None = None
    n: int | None = None
    until_ci: float | None = None
    device: str = "auto"
    precision: str = "auto"
    sweep: str = "ladder"
    batch_size: int | None = None
    query_budget: int | None = None
    baseline: bool = True
    oblivious: bool = True
    audit: bool = True
    eot: int | None = None
    bounds: str = "exact"
    data_root: Path | None = None
    save_adversarial: bool = False

    def __post_init__(self) -> None:
        words = {
            "norm": NORMS,
            "sweep": SWEEPS,
            "precision": PRECISIONS,
            "bounds": BOUNDS,
        }
        for name, known in words.items():
            if (got := getattr(self, name)) not in known:
                raise RequestError(f"{name} must be one of {', '.join(known)}, got {got!r}")
        if not DEVICES.fullmatch(self.device):
            raise RequestError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}")
        counts = ("n", "batch_size", "query_budget", "eot")
        for name, value in ((name.replace("_", "-"), getattr(self, name)) for name in counts):
            if value is not None and value < 1:
                raise RequestError(f"{name} must be at least 1, got {value}")
        if self.until_ci is not None and not 0 < self.until_ci < 0.5:
            raise RequestError(
                f"until-ci must lie between 0 and 0.5, both excluded, got {self.until_ci}"
            )
        self._check_seeds()
        self._check_specs()
        if self.eps is not None:
            parse_grid(self.eps, self.norm)

    def _check_seeds(self) -> None:
        wrong = [seed for seed in self.seeds if not 0 <= seed < 2**63]
        if wrong:
            raise RequestError(f"seed must be from 0 to 2**63 - 1, got {wrong[0]}")

    def _check_specs(self) -> None:
        for table, texts in (
            (datasets, self.datasets),
            (models, self.models),
            (attacks, self.attacks),
            (defenses, self.defenses),
        ):
            for text in texts:
                if table is not attacks or text != ALL:
                    valid(table.check, text)

    @property
    def rows(self) -> tuple[str, ...]:
        """The defenses to run, the baseline first unless it was declined; none where nothing is
        left.
        """
        baseline = ("none",) if self.baseline or not self.defenses else ()
        return tuple(dict.fromkeys([*baseline, *self.defenses]))


def valid(check: Callable[[str], Any], text: str) -> Any:
    """What check(text) returns; a ValueError becomes a RequestError of one line."""
    try:
        return check(text)
    except (ValueError, TypeError) as err:
        raise RequestError(" ".join(str(err).split())) from err


_MANY = {
    "dataset": "datasets",
    "model": "models",
    "attack": "attacks",
    "defense": "defenses",
    "seed": "seeds",
}


def request_of(settings: Mapping[str, Any]) -> Request:
    """A request from the flags' names (dataset, model, attack, defense, seed as one value or a
    list, the others as one), such as a YAML file holds them; refuses unknown names and values of
    another type.
    """
    known = {
        name: name for name in (f.name for f in fields(Request)) if name not in _MANY.values()
    } | _MANY
    values: dict[str, Any] = {}
    for name, value in settings.items():
        key = name.replace("-", "_")
        if key not in known:
            raise RequestError(str(near(name, known, "setting", "bench run --help")))
        if value is None:
            continue
        if key in _MANY:
            several = value if isinstance(value, list | tuple) else [value]
            values[known[key]] = tuple(
                _of_kind(name, item, int if key == "seed" else str) for item in several
            )
        elif key == "eps":
            values[key] = (
                ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            )
        elif key == "data_root":
            values[key] = Path(str(value))
        elif key == "batch_size":
            values[key] = _batch_size(name, value)
        else:
            counts = dict.fromkeys(("n", "query_budget", "eot"), int)
            kinds: dict[str, type] = counts | dict.fromkeys(
                ("baseline", "oblivious", "audit", "save_adversarial"), bool
            )
            kinds["until_ci"] = float
            values[key] = _of_kind(name, value, kinds.get(key, str))
    return Request(**values)


def _batch_size(name: str, value: Any) -> int | None:
    """A whole number, or `auto`: no bound."""
    if value == "auto":
        return None
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d{1,18}", text):
        raise RequestError(f"{name} must be auto or a whole number, got {value!r}")
    return int(text)


def _of_kind(name: str, value: Any, kind: type) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RequestError(f"{name} must be of type {kind.__name__}, got {value!r}")
    return value
