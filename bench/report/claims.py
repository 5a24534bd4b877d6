"""Claims of others: robust accuracies from RobustBench's model_info files, shown beside what was
measured here and never ranked with it.

A claim is kept as a file under OUT/claims/DATASET/THREAT. Files come from strangers: they are read
as JSON up to a size, every field is known and checked, and nothing of them is executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import RequestError
from bench.report import robustbench
from bench.report.groups import by
from bench.report.rows import FLOAT, TEXT, Rows
from bench.report.tables import Section, Table, eps_text, percent
from bench.spec import fraction

CLAIMS = {
    "dataset": TEXT,
    "norm": TEXT,
    "eps": FLOAT,
    "name": TEXT,
    "architecture": TEXT,
    "clean_accuracy": FLOAT,
    "claimed_accuracy": FLOAT,
    "claimed_by": TEXT,
    "unreliable": TEXT,
    "source": TEXT,
}
"""Columns of claims.csv in order, and their types."""
LEGEND = (
    """\
Claims of others were read from files in RobustBench's shape (bench import), not measured here, and
are not ranked with what was: other images, other attacks, perhaps other preprocessing. They have no
interval, as the files do not say on how many images they were measured; by their convention it is
the full test set. Claimed: the lower of AutoAttack's and the best known external value, else what
the authors reported; by says which.""",
)
FOLDER = "claims"
MOST_BYTES = 65_536
_LONGEST = 2_000
_NORMS = {threat.lower(): norm for norm, threat in robustbench.THREATS.items()}
_TEXTS = ("link", "name", "authors", "dataset", "venue", "architecture", "eps")
_PERCENTS = ("clean_acc", "reported")
_MAYBE_PERCENTS = ("autoattack_acc", "external")
_FACTS = ("additional_data", "number_forward_passes")
_MAYBE = ("unreliable", "footnote")
_REQUIRED = (*_TEXTS, *_FACTS, *_PERCENTS)
_ORDER = (
    ("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue"),
    ("architecture", "eps", *_PERCENTS, *_MAYBE_PERCENTS, *_MAYBE),
)


@dataclass(frozen=True)
class Claim:
    """A file's claim under a norm. fields: as the file has them, checked; source: its path inside
    the folder of claims, or as it was given.
    """

    norm: str
    source: str
    fields: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Where it is kept, inside the folder of claims."""
        dataset, stem = robustbench.safe(self.fields["dataset"]), Path(self.source).stem
        return f"{dataset}/{robustbench.THREATS[self.norm]}/{robustbench.safe(stem)}.json"

    @property
    def robust(self) -> tuple[float, str]:
        """The claimed robust accuracy, a fraction, and whose it is."""
        known = {name: self.fields[name] for name in _MAYBE_PERCENTS if name in self.fields}
        name = min(known, key=lambda name: float(known[name])) if known else "reported"
        return float(self.fields[name]) / 100, name.removesuffix("_acc")

    def row(self) -> dict[str, Any]:
        """Its columns of claims.csv."""
        robust, whose = self.robust
        return {
            "dataset": self.fields["dataset"],
            "norm": self.norm,
            "eps": float(fraction(self.fields["eps"])),
            "name": self.fields["name"].strip(),
            "architecture": self.fields["architecture"],
            "clean_accuracy": float(self.fields["clean_acc"]) / 100,
            "claimed_accuracy": robust,
            "claimed_by": whose,
            "unreliable": str(self.fields.get("unreliable", False)).lower(),
            "source": self.source,
        }


def read(path: Path, norm: str | None = None) -> Claim:
    """The claim of a file; the norm is that of the folder it lies in (Linf, L2) where it is not
    given. Refuses in one line what is not of that shape, without executing any of it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as err:
        raise RequestError(f"{path} cannot be read ({err.strerror})") from err
    if len(content) > MOST_BYTES:
        raise RequestError(f"{path}: a claim has at most {MOST_BYTES:,} bytes")
    try:
        fields = _checked(_parsed(content))
        under = _norm_of(path) if norm is None else norm
    except (ValueError, RecursionError, RequestError) as err:
        raise RequestError(f"{path}: {' '.join(str(err).split())[:300]}") from err
    return Claim(under, path.name, fields)


def _norm_of(path: Path) -> str:
    """The norm that the folder of a file says."""
    norm = _NORMS.get(path.absolute().parent.name.lower())
    if norm is None:
        raise ValueError("its folder says no norm (Linf, L2, ...): --norm is needed")
    return norm


def kept(out: Path) -> list[Claim]:
    """The claims kept under a folder of results, in order of their places."""
    folder = out / FOLDER
    return [
        Claim(claim.norm, path.relative_to(folder).as_posix(), claim.fields)
        for path in sorted(folder.glob("*/*/*.json"))
        for claim in [read(path)]
    ]


def claims(made: Iterable[Claim]) -> Rows:
    """One row per claim: the table claims.csv. Accuracies are fractions."""
    return Rows.of((claim.row() for claim in made), CLAIMS)


def sections(table: Rows) -> list[Section]:
    """A table per dataset, norm and eps, from the rows of `claims`."""
    boards = by(table, lambda row: (row["dataset"], row["norm"], row["eps"]))
    return [_section(board) for board in sorted(boards, key=lambda rows: _setting(rows[0]))]


def _setting(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["dataset"], row["norm"], row["eps"]


def _section(board: Sequence[Mapping[str, Any]]) -> Section:
    of = board[0]
    title = f"Claims of others: {of['dataset']}, {of['norm']}, eps = {eps_text(of['eps'])}"
    header = ("claim", "architecture", "clean", "claimed", "by", "unreliable", "source")
    lines = tuple(
        (
            row["name"],
            row["architecture"],
            percent(row["clean_accuracy"]),
            percent(row["claimed_accuracy"]),
            row["claimed_by"],
            "yes" if row["unreliable"] == "true" else "",
            row["source"],
        )
        for row in board
    )
    text = "Read from files, not measured here; n unknown, hence no interval and no rank."
    return Section(title, text, Table(header, lines, align="llrrlll"))


def _parsed(content: bytes) -> Any:
    """JSON without what only Python's reader takes."""
    try:
        return json.loads(
            content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant
        )
    except UnicodeDecodeError as err:
        raise ValueError("it is not text in UTF-8") from err
    except json.JSONDecodeError as err:
        raise ValueError(f"it is not JSON ({err})") from err


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field stands there twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _checked(found: Any) -> dict[str, Any]:
    """The fields in order, each of its type."""
    if not isinstance(found, dict):
        raise ValueError("a claim is an object with fields such as clean_acc")  # noqa: TRY004  a bad value
    if "corruptions_acc" in found:
        raise ValueError("it is about corruptions, which have no norm and no eps")
    order = [name for part in _ORDER for name in part]
    if missing := [name for name in _REQUIRED if name not in found]:
        raise ValueError(f"field {missing[0]} is missing")
    if unknown := [name for name in found if name not in order]:
        raise ValueError(f"unknown field {unknown[0][:40]!r}")
    return {name: _CHECKS[name](name, found[name]) for name in order if name in found}


def _truth(name: str, value: Any) -> bool:
    """True or false, which may stand there as texts."""
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError(f"{name} must be true or false, got {text[:40]!r}")
    return text == "true"


def _count(name: str, value: Any) -> int:
    """A whole number, which may stand there as a text."""
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{name} must be a whole number, got {text[:40]!r}")
    return int(text)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError(f"{name} must be a text of at most {_LONGEST:,} characters")
    return value


def _dataset(name: str, value: Any) -> str:
    if not _text(name, value).strip():
        raise ValueError(f"{name} must not be empty")
    return str(value)


def _eps(name: str, value: Any) -> str:
    if fraction(_text(name, value)) < 0:
        raise ValueError(f"{name} must be at least 0, got {value!r}")
    return str(value)


def _percentage(name: str, value: Any) -> str:
    """A percentage, as text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        number = float(value) if is_number or isinstance(value, str) else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= 100:
        raise ValueError(f"{name} must be a percentage from 0 to 100, got {str(value)[:40]!r}")
    return str(value).strip()


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys((*_TEXTS, "footnote"), _text),
    **dict.fromkeys((*_PERCENTS, *_MAYBE_PERCENTS), _percentage),
    **dict.fromkeys(("additional_data", "unreliable"), _truth),
    "number_forward_passes": _count,
    "dataset": _dataset,
    "eps": _eps,
}
"""What a field of a name is, as RobustBench writes it; raises ValueError or RequestError."""
