"""Stored and foreign adversarial images checked again: ball, box, shape, finiteness, and what the
deployed pipeline says of them, at another compute shape and on another device where there is one.

Nothing is trained for it, and robustness is not checked: a sample that nothing fooled has no image.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import norms
from attacks.oracles import ModelError, Patient, frozen
from attacks.pipelines import evaluation_draws, is_random
from attacks.verify import judge_of, predictions
from attacks.work import Samples, Setting
from bench import __version__, evidence
from bench.data import Dataset, dataset_of
from bench.datasets import budget
from bench.deployed import Deployed, Recipe, Unchecked
from bench.devices import device_of, name_of, numerics, numerics_of, processor
from bench.errors import BenchError, DataError, RequestError
from bench.outcomes import span
from bench.packing import Arrays, Sheet
from bench.plan import BLOCK
from bench.spec import Request, parse_grid
from bench.store import Record
from models.grammar import parse
from models.registry import canonical

MOVED = 0.005
"""The share of a row's outcomes that may move across shapes, devices and versions."""
CLAIMED, UNCHECKED = "claimed", "not checked"
_INSIDE = re.compile(r"[\[+=][^\[\],=+]*:[^\[\],=+:]+(?=[:\],+]|$)")
"""In a spec, one inside it whose name has two parts: NAME:KEY=VALUE has not."""
_IMAGES = {"x_adv", "delta"}
_PLACES = {"index", "id"}


@dataclass(frozen=True)
class Disagreement:
    """A sample whose success was not found again. is_wrong: rounding does not explain it."""

    index: int
    id: int
    what: str
    is_wrong: bool

    def __str__(self) -> str:
        digest = f"{np.uint64(self.id & (2**64 - 1)):016x}"
        return f"sample {self.index} (id {digest}): {self.what}"


@dataclass(frozen=True)
class Verdict:
    """What a check found of a row of n samples: how many successes it claims, how many were found
    again, who disagrees, and what is wrong with the row as a whole. state: as bench.evidence has
    it, CLAIMED where there are no images, UNCHECKED where note says why nothing could be checked.
    """

    row: tuple[str, ...]
    n: int
    claimed: int
    state: str
    note: str = ""
    verified: int = 0
    disagreements: tuple[Disagreement, ...] = ()
    faults: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wrong(self) -> int:
        """How many claims rounding does not explain."""
        return sum(one.is_wrong for one in self.disagreements)

    @property
    def moved(self) -> int:
        """How many claims rounding may explain."""
        return len(self.disagreements) - self.wrong

    @property
    def is_bad(self) -> bool:
        """Whether something is wrong."""
        return self.state == evidence.REFUTED


def may_move(n: int) -> int:
    """How many of n outcomes may move; one always, as one of few says nothing of a share."""
    return max(1, int(MOVED * n))


@dataclass(frozen=True)
class Place:
    """A device and a compute shape."""

    device: str
    shape: int


@dataclass(frozen=True)
class Court:
    """Judges images of a dataset's test split against a pipeline, wherever it is asked to.

    first: where every image is judged; second: where those are judged again that did not fool
    there; is_exact: at the second place the outcome must be the stored one, bit by bit.
    """

    dataset: Dataset
    recipe: Recipe
    cache: Path
    norm: str
    first: Place
    second: Place
    is_exact: bool

    def deployed(self, device: str) -> Deployed:
        """The pipeline on a device; raises Unchecked where it cannot be had."""
        return _deployed(self.recipe, self.dataset, device, self.cache)

    def disagreements(
        self, index: NDArray[np.int64], x_adv: NDArray[np.float32], radius: NDArray[np.float64]
    ) -> list[Disagreement]:
        """Who of the images x_adv (M, ...) of the samples at these places (M,) is no success at its
        radius (M,).
        """
        found = [*self._outside(index, x_adv, radius)]
        outside = {one.index for one in found}
        held = np.array([place not in outside for place in index.tolist()], dtype=np.bool_)

        def ask(rows: NDArray[np.int64], place: Place) -> NDArray[np.bool_]:
            kept = np.flatnonzero(held)[rows]
            return self._fooled(index[kept], x_adv[kept], radius[kept], place)

        what = [f"does not fool at eps {eps:.6g}" for eps in radius[held]]
        return [*found, *self._twice(ask, index[held], what)]

    def clean(self, index: NDArray[np.int64]) -> list[Disagreement]:
        """Who of the samples at these places (M,) is right without attack, under every draw."""

        def ask(rows: NDArray[np.int64], place: Place) -> NDArray[np.bool_]:
            return self._wrong(index[rows], place)

        return self._twice(ask, index, ["is right without attack"] * len(index))

    def _twice(self, ask: Any, index: NDArray[np.int64], what: Sequence[str]) -> list[Disagreement]:
        """Asks of all at the first place, of the others at the second one, too."""
        rows = np.arange(len(index))
        left = rows[~ask(rows, self.first)] if len(rows) else rows
        again = ask(left, self.second) if len(left) else np.zeros(0, np.bool_)
        return [
            Disagreement(
                int(index[row]),
                int(self.dataset.ids[index[row]]),
                f"{what[row]}{self._where(is_found=is_found)}",
                is_wrong=self.is_exact and not is_found,
            )
            for row, is_found in zip(left.tolist(), again.tolist(), strict=True)
        ]

    def _where(self, *, is_found: bool) -> str:
        """What a disagreement may come from."""
        if is_found:
            return f" with {self.first.shape} images at once, does so with {self.second.shape}"
        return "" if self.is_exact else " here; it was made on another machine or version"

    def _outside(
        self, index: NDArray[np.int64], x_adv: NDArray[np.float32], radius: NDArray[np.float64]
    ) -> Iterator[Disagreement]:
        """Those that are no points of box and ball."""
        moved = torch.from_numpy(x_adv)
        x = self.dataset.test.images(torch.from_numpy(index), "cpu")
        reach = torch.from_numpy(radius).float()
        finite = moved.flatten(1).isfinite().all(1)
        boxed, inside = norms.in_box(moved), norms.inside(moved, x, reach, self.norm)
        sizes = norms.size(moved.double() - x.double(), self.norm)
        for row in torch.nonzero(~(finite & inside)).flatten().tolist():
            if not finite[row]:
                what = "is not finite"
            elif not boxed[row]:
                low, high = moved[row].min().item(), moved[row].max().item()
                what = f"lies outside the box, from {low:.6g} to {high:.6g}"
            else:
                what = f"lies outside the ball, {sizes[row]:.6g} away at eps {reach[row]:.6g}"
            place = int(index[row])
            yield Disagreement(place, int(self.dataset.ids[place]), what, is_wrong=True)

    def _fooled(
        self,
        index: NDArray[np.int64],
        x_adv: NDArray[np.float32],
        radius: NDArray[np.float64],
        place: Place,
    ) -> NDArray[np.bool_]:
        """Which images (M,) fool under any of the evaluation draws."""
        deployed = self.deployed(place.device)
        x, y, ids = self._samples(index, place.device)
        setting = Setting(self.norm, self.dataset.classes, 0, place.shape, draws=deployed.draws)
        judge = judge_of(Patient(deployed.predict), Samples(x, y, ids, np.zeros(0)), setting)
        reach = torch.from_numpy(radius).float().to(x.device)
        with frozen(deployed.predict):
            fell = judge(torch.from_numpy(x_adv).to(x.device), np.arange(len(index)), reach)
        return np.asarray(fell.any(1))

    def _wrong(self, index: NDArray[np.int64], place: Place) -> NDArray[np.bool_]:
        """Which samples (M,) are misclassified, or refused, under any of the evaluation draws."""
        deployed = self.deployed(place.device)
        x, y, ids = self._samples(index, place.device)
        predict, wrong = Patient(deployed.predict), torch.zeros(len(y), dtype=torch.bool)
        with frozen(deployed.predict):
            for number in range(deployed.draws):
                draws = evaluation_draws(ids, number) if is_random(predict) else None
                logits = predictions(
                    predict, x, place.shape, classes=self.dataset.classes, draws=draws
                )
                wrong |= (logits.argmax(1) != y).cpu()
        return np.asarray(wrong.numpy())

    def _samples(self, index: NDArray[np.int64], device: str) -> tuple[Tensor, Tensor, Tensor]:
        places, test = torch.from_numpy(index), self.dataset.test
        ids = torch.from_numpy(self.dataset.ids[index])
        return test.images(places, device), test.y[places].to(device), ids.to(device)


@functools.lru_cache(maxsize=2)
def _deployed(recipe: Recipe, dataset: Dataset, device: str, cache: Path) -> Deployed:
    """The last two: rows of one pipeline follow each other."""
    return Deployed.of(recipe, dataset, device, cache)


@dataclass(frozen=True)
class Verifier:
    """Checks rows of a store. device: where, auto: on another one than the row's where there is
    one.
    """

    folder: Path
    root: Path | None
    device: str
    cache: Path

    def verdict(self, record: Record) -> Verdict:
        """What a check of a complete row finds."""
        row = _row(record)
        claims = int(np.isfinite(record.samples["min_eps"]).sum())
        if record.evidence == evidence.NONE:
            return Verdict(row, record.n, claims, CLAIMED, "no images were kept")
        try:
            court = self._court(record)
            with numerics(record.threads):
                return self._judged(record, court, row, claims)
        except Unchecked as err:
            return Verdict(row, record.n, claims, UNCHECKED, str(err))

    def _judged(self, record: Record, court: Court, row: tuple[str, ...], claims: int) -> Verdict:
        check_weights(court.deployed(court.first.device), record)
        wrong: list[Disagreement] = []
        faults: list[str] = []
        verified = 0
        for number in range(-(-record.n // BLOCK)):
            rows = slice(*span(number, record.n))
            arrays = {name: array[rows] for name, array in record.samples.items()}
            try:
                found = self._of_block(record.key, court, number, arrays)
            except (DataError, ModelError) as err:
                faults.append(" ".join(str(err).split()))
                continue
            wrong += found
            claimed = arrays["index"][np.isfinite(arrays["min_eps"])].tolist()
            verified += len(set(claimed) - {one.index for one in found})
        moved = sum(not one.is_wrong for one in wrong)
        if moved > may_move(record.n):
            faults.append(f"{moved} outcomes moved, at most {may_move(record.n)} of {record.n} may")
        is_good = not faults and not any(one.is_wrong for one in wrong)
        verdict = Verdict(
            row,
            record.n,
            claims,
            evidence.VERIFIED if is_good else evidence.REFUTED,
            verified=verified,
            disagreements=tuple(wrong),
            faults=tuple(faults),
        )
        return _with_facts(verdict, court.first)

    def _of_block(self, key: str, court: Court, number: int, arrays: Arrays) -> list[Disagreement]:
        """Who of a block disagrees; raises DataError for a file that is not the block's."""
        file = evidence.fitting(self.folder, key, number, arrays)
        index, x_adv = content(file, court.dataset)
        places, ids = arrays["index"], court.dataset.ids
        kept, radii = evidence.claimed(arrays), dict(zip(places, arrays["min_eps"], strict=True))
        wanted = set(places[kept].tolist())
        lacking = sorted(wanted - set(index.tolist()))
        more = [place for place in index.tolist() if place not in wanted]
        whats = [(lacking, "has no image"), (more, "has an image, but is no success")]
        found = [
            Disagreement(place, int(ids[place]), what, is_wrong=True)
            for those, what in whats
            for place in those
        ]
        used = np.array([place in wanted for place in index.tolist()], dtype=np.bool_)
        radius = np.array([radii[place] for place in index[used].tolist()], dtype=np.float64)
        found += court.disagreements(index[used], x_adv[used], radius)
        return found + court.clean(places[arrays["min_eps"] == 0])

    def _court(self, record: Record) -> Court:
        """Raises Unchecked for data that cannot be had."""
        asked = record.provenance.get("asked", {})
        missing = [name for name in ("dataset", "model", "defense") if not asked.get(name)]
        if missing:
            raise Unchecked(f"the {missing[0]} was handed over from Python")
        for name in ("model", "defense"):
            if names_code(asked[name]):
                raise Unchecked(
                    f"its {name} {asked[name]!r:.80} is code outside of the tables, which no store "
                    "makes run"
                )
        dataset = _dataset(asked["dataset"], self.root)
        if dataset.fingerprint != record.fingerprint:
            raise Unchecked(
                f"{asked['dataset']} holds other images here: {dataset.fingerprint}, "
                f"not {record.fingerprint}"
            )
        recipe = Recipe(
            model=asked["model"],
            defense=asked["defense"],
            norm=record.norm,
            reference=None if record.reference is None else float(record.reference),
            trained_under=tuple(_trained_under(record).items()),
            model_identity=canonical(record.identity["model"]),
            defense_identity=canonical(record.identity["defense"]),
        )
        first = Place(_other_device(self.device, record.device), other_shape(record.shape))
        own = _there(record.device)
        second = Place(own or first.device, record.shape)
        is_exact = own is not None and _is_same_machine(record, own)
        return Court(dataset, recipe, self.cache, record.norm, first, second, is_exact)


def names_code(text: str) -> bool:
    """Whether a spec, or one inside it, names a file or a module of somebody's; raises Unchecked
    for what is no spec.
    """
    try:
        return parse(text).is_external or bool(_INSIDE.search(text))
    except ValueError as err:
        raise Unchecked(" ".join(str(err).split())) from err


def check_weights(deployed: Deployed, record: Record) -> None:
    """Raises Unchecked where the cache holds other weights than the row was measured on."""
    generator = record.provenance.get("generator") or {}
    known = {"model": record.provenance.get("weights"), "generator": generator.get("weights")}
    for name, digest in deployed.digests.items():
        if known[name] and digest != known[name]:
            raise Unchecked(f"the {name}'s weights are {digest} here, not {known[name]}")


def content(file: Sheet, dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Places in the test split (M,) and images (M, C, H, W) of a file: x_adv or delta, and index or
    id. Types and shapes are checked before the arrays are read; raises DataError.
    """
    names = set(file.kinds)
    images, places = names & _IMAGES, names & _PLACES
    if names - _IMAGES - _PLACES or len(images) != 1 or not places:
        # A stranger's names may hold what a terminal obeys.
        got = ", ".join(map(ascii, sorted(names)))[:200] or "nothing"
        raise DataError(f"{file.path} must hold x_adv or delta, and index or id, got {got}")
    (name,) = images
    kind, shape = file.kinds[name]
    if kind != np.float32 or len(shape) != 4 or shape[1:] != dataset.shape:
        rule = f"{name} must be float32 of shape (n, {', '.join(map(str, dataset.shape))})"
        raise DataError(f"{file.path}: {rule}, got {kind} {shape}")
    n, most = shape[0], len(dataset.test)
    if n > most:
        raise DataError(f"{file.path}: n must be at most {most}, the test split, got {n:,}")
    for each in sorted(places):
        if file.kinds[each] != (np.dtype(np.int64), (n,)):
            kind, shape = file.kinds[each]
            raise DataError(
                f"{file.path}: {each} must be int64 of shape ({n},), got {kind} {shape}"
            )
    arrays = file.arrays()
    index = _places(file.path, arrays, dataset)
    if name == "x_adv":
        return index, arrays["x_adv"]
    x = dataset.test.images(torch.from_numpy(index), "cpu").numpy()
    return index, x + arrays["delta"]


def _places(path: Path, arrays: Arrays, dataset: Dataset) -> NDArray[np.int64]:
    """The places (M,) that a file names, each once; raises DataError for those of no sample."""
    index, ids = arrays.get("index"), arrays.get("id")
    if index is None:
        by_id = {int(one): place for place, one in enumerate(dataset.ids.tolist())}
        known = [by_id.get(one) for one in ids.tolist()] if ids is not None else []
        unknown = [place for place, one in enumerate(known) if one is None]
        if unknown and ids is not None:
            raise DataError(f"{path}: id {ids[unknown[0]]} is of no image of {dataset.name}")
        index = np.array(known, dtype=np.int64)
    beyond = index[(index < 0) | (index >= len(dataset.test))]
    if len(beyond):
        rule = f"index must be from 0 to {len(dataset.test) - 1}"
        raise DataError(f"{path}: {rule}, got {beyond[0]}")
    if ids is not None and (other := np.flatnonzero(dataset.ids[index] != ids)).size:
        raise DataError(f"{path}: sample {index[other[0]]} of {dataset.name} has another id")
    if len(np.unique(index)) != len(index):
        raise DataError(f"{path}: every sample must be there once")
    return index.copy()


def foreign(sheets: Sequence[Sheet], request: Request, eps: str, cache: Path) -> list[Verdict]:
    """Checks files from anywhere, whose images are claimed to fool the request's one pipeline
    within eps, at the device's compute shape and at half of it. Raises a BenchError for a file that
    does not hold what it should, and for a pipeline that cannot be had without training.
    """
    (radius, *more) = parse_grid(eps, request.norm)
    if more or radius == 0:
        raise RequestError(f"eps must be one number above 0, got {eps}")
    where = device_of(request.device)
    own = numerics_of(where)
    dataset = dataset_of(request.datasets[0], request.data_root)
    reference = budget(dataset.kind, dataset.shape[0], request.norm).reference
    model, defense = request.models[0], request.defenses[0]
    recipe = Recipe(
        model=model,
        defense=defense,
        norm=request.norm,
        reference=float(Fraction(reference)),
        trained_under=(("threads", own.threads), ("torch", torch.__version__)),
    )
    first, second = Place(where, other_shape(own.shape)), Place(where, own.shape)
    court = Court(dataset, recipe, cache, request.norm, first, second, is_exact=True)
    contents = [_finite(file, *content(file, dataset)) for file in sheets]
    with numerics(own.threads):
        try:
            court.deployed(where)
        except Unchecked as err:
            raise RequestError(f"this cannot be checked here: {err}") from err
        verdicts = []
        for file, (index, x_adv) in zip(sheets, contents, strict=True):
            row = (dataset.name, model, defense, file.path.name, request.norm, eps)
            verdicts.append(_of_file(court, row, index, x_adv, float(radius)))
        return verdicts


def _of_file(
    court: Court,
    row: tuple[str, ...],
    index: NDArray[np.int64],
    x_adv: NDArray[np.float32],
    eps: float,
) -> Verdict:
    radius = np.full(len(index), eps)
    wrong: list[Disagreement] = []
    faults: tuple[str, ...] = ()
    try:
        for rows in np.array_split(np.arange(len(index)), -(-len(index) // BLOCK)):
            wrong += court.disagreements(index[rows], x_adv[rows], radius[rows])
    except ModelError as err:
        faults = (" ".join(str(err).split()),)
    is_good = not faults and not any(one.is_wrong for one in wrong)
    verdict = Verdict(
        row,
        len(index),
        len(index),
        evidence.VERIFIED if is_good else evidence.REFUTED,
        verified=0 if faults else len(index) - len(wrong),
        disagreements=tuple(wrong),
        faults=faults,
    )
    return _with_facts(verdict, court.first)


def _finite(
    file: Sheet, index: NDArray[np.int64], x_adv: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if not len(index):
        raise DataError(f"{file.path} must hold at least one image")
    broken = np.flatnonzero(~np.isfinite(x_adv).reshape(len(x_adv), -1).all(1))
    if len(broken):
        raise DataError(f"{file.path}: images must be finite, that of {index[broken[0]]} is not")
    return index, x_adv


def _with_facts(verdict: Verdict, place: Place) -> Verdict:
    facts = {
        "is_good": not verdict.is_bad,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": __version__,
        "torch": version("torch"),
        "device": place.device,
        "shape": place.shape,
        "claimed": verdict.claimed,
        "verified": verdict.verified,
        "moved": verdict.moved,
        "wrong": verdict.wrong,
    }
    return replace(verdict, facts=facts)


def other_shape(shape: int) -> int:
    """Half a compute shape, or the next one above 1."""
    return shape // 2 if shape > 1 else 2


def _row(record: Record) -> tuple[str, ...]:
    attack = f"{record.attack} ({record.mode})"
    names = (record.dataset, record.model, record.defense, attack)
    return (*names, record.norm, str(record.seed))


def _dataset(text: str, root: Path | None) -> Dataset:
    try:
        return dataset_of(text, root)
    except BenchError as err:
        raise Unchecked(str(err)) from err


def _trained_under(record: Record) -> dict[str, Any]:
    """What the keys of the cache say of the machine (see Workshop)."""
    known = str(record.provenance.get("versions", {}).get("torch", ""))
    # What torch calls itself may say more than its package's version.
    own = torch.__version__ if known == version("torch") else known
    return {"threads": record.threads, "torch": own, "device": record.device}


def _other_device(wanted: str, stored: str) -> str:
    """Where to check: auto is another type of device than the stored one where there is one."""
    if wanted != "auto":
        return device_of(wanted)
    return "cpu" if stored != "cpu" else device_of("auto")


def _there(kind: str) -> str | None:
    """A device of a type, None where there is none."""
    try:
        return device_of(kind)
    except RequestError:
        return None


def _is_same_machine(record: Record, device: str) -> bool:
    """Whether a row was made by this version of torch on this kind of machine."""
    known = record.provenance
    gpu = name_of(device) if device.startswith("cuda") else ""
    was = known.get("versions", {}).get("torch"), known.get("processor"), known.get("gpu")
    return was == (version("torch"), processor(), gpu)
