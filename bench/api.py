"""The sweep from Python: any module and any tensors, no files needed."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from attacks.base import Attack
from attacks.call import check_images
from attacks.foreign.callables import wrap
from attacks.oracles import DIFFERENTIATING, frozen
from attacks.pipelines import EOT, evaluation_draws, is_random, refuses, said
from attacks.registry import attacks as attack_table
from bench import data, devices, parts, resolution
from bench.audit.findings import Verdict
from bench.audit.recipe import Audit
from bench.datasets import budget
from bench.errors import BenchError, RequestError
from bench.executors import LocalExecutor
from bench.plan import BFLOAT16, Cell, Numerics, Part, first_size
from bench.precision import Precisions
from bench.report.curves import share, worst
from bench.report.export import samples as samples_frame
from bench.report.frames import tidy
from bench.report.groups import attacked
from bench.report.verdicts import verdicts
from bench.resolution import Job, Sources
from bench.rounds import rounds
from bench.runner import Silent
from bench.shapes import Shapes
from bench.spec import Request, checked_grid, fraction, parse_grid, valid
from bench.stats import Interval
from bench.store import Record, Store
from defenses.none import NoDefense
from models import checkpoint
from models.nets import Shape
from models.recipes import Classifier
from models.split import Split

if TYPE_CHECKING:
    import pandas as pd

Eps = str | float | Sequence[float | str]
Named = str | Attack | Callable[..., Tensor]
"""An attack as asked for: a spec, a recipe, or a callable (model, x, y, **keys) -> x_adv."""


class CellFailed(BenchError):
    """An attack that could not be carried out; the message says why."""


@dataclass(frozen=True)
class Given(Classifier):
    """A module handed over from Python, evaluated as it is."""

    label: ClassVar[str] = "module"
    module: nn.Module | None = None

    def build(self, shape: Shape, classes: int) -> nn.Module:  # noqa: ARG002  it is built
        """The module itself: the loop holds it in eval mode and gives it back as it was."""
        if self.module is None:
            raise ValueError("Given needs a module")
        return self.module

    def architecture(self, shape: Shape, classes: int) -> nn.Module:
        """The module itself."""
        return self.build(shape, classes)

    @property
    def is_trained(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True)
class Run:
    """What an evaluation measured.

    records: the stored cells; table: the tidy rows; samples: a row per sample and attack.
    """

    records: list[Record]

    @property
    def table(self) -> pd.DataFrame:
        """The columns of accuracy_vs_eps.csv, the per-sample worst case over the attacks among the
        rows.
        """
        return tidy(self.records).frame()

    @property
    def samples(self) -> pd.DataFrame:
        """A row per sample and attack: id, index, label, clean_prediction, min_eps, distance,
        queries.
        """
        return samples_frame(self.records)

    @property
    def audit(self) -> Verdict:
        """Whether the numbers can be believed, and why."""
        (told,) = verdicts(self.records).values()
        return told

    def accuracy(self, eps: float | str) -> Interval:
        """Robust accuracy under the worst case over the attacks, with its Wilson 95 % interval.

        Between two radii of the grid it is that of the lower one, an upper bound. Raises
        RequestError above the grid.
        """
        radius = float(Fraction(eps)) if isinstance(eps, str) else eps
        highest = min(float(record.eps[-1]) for record in attacked(self.records))
        if not 0 <= radius <= highest:
            raise RequestError(f"eps must be from 0 to the grid's largest, {highest!r}, got {eps}")
        return share(worst(attacked(self.records)) > radius)


def evaluate(  # noqa: PLR0913  one keyword per setting
    model: nn.Module,
    dataset: str | tuple[Tensor, Tensor] = "digits",
    attacks: Named | Sequence[Named] = ("pgd",),
    *,
    norm: str = "linf",
    eps: Eps | None = None,
    n: int | None = None,
    until_ci: float | None = None,
    seed: int = 0,
    sweep: str = "ladder",
    device: str | None = None,
    precision: str = "auto",
    batch_size: int | None = None,
    query_budget: int | None = None,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    audit: bool = True,
    save_adversarial: bool = False,
) -> Run:
    """Robust accuracy of a module against attacks, at every eps of a grid.

    model: images (N, C, H, W) in [0, 1] to logits (N, K), left as found. attacks: specs, recipes,
    or callables (model, x, y, **keys) -> x_adv (see attacks.wrap). dataset: a spec, or
    tensors (x, y): x uint8 or floating in [0, 1], y integers. eps: a number, several, or a text
    such as `0:0.4:0.05`; by default the dataset's grid (own tensors have none). n: how many samples
    of the stratified test order, by default min(1000, all). until_ci: adds samples, whole blocks,
    until the robust accuracy at the reference eps, else the largest, has an interval of at most
    this half-width, and warns where the samples are used up before; begins with n, or few.
    query_budget: forward queries at most per sample and radius. sweep: ladder, bisect (whole curves
    for little more than one attack; see README) or independent. device: where to run, by default
    where the model's parameters are. precision: of the search alone, fp32, bf16 (fp32 with a
    warning where the hardware has none), or auto (bf16 where a step of the model, timed once and
    kept in the cache, pays). out: a folder whose store is used and added to; by default nothing is
    written; save_adversarial keeps the adversarial images there (see bench.evidence). audit: look
    whether the numbers can be believed, too (Run.audit). Raises BenchError for a request that
    cannot be run, and for an attack that failed.
    """
    if not isinstance(model, nn.Module):
        raise RequestError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    named = [attacks] if isinstance(attacks, str) or callable(attacks) else list(attacks)
    if not named:
        raise RequestError("at least one attack is needed")
    if save_adversarial and out is None:
        raise RequestError("save_adversarial needs out=, a folder to keep the images in")
    # What every request is checked for.
    Request(
        attacks=tuple(a for a in named if isinstance(a, str)),
        seeds=(seed,),
        norm=norm,
        n=n,
        until_ci=until_ci,
        device=device or "auto",
        precision=precision,
        sweep=sweep,
        batch_size=batch_size,
        query_budget=query_budget,
    )
    where = devices.device_of(device) if device else _device(model)
    if where != _device(model):
        model = copy.deepcopy(model).to(where)
    root = None if data_root is None else Path(data_root)
    chosen = _dataset(model, dataset, root)
    grid, reference = _grid(eps, chosen, norm)
    recipes = [recipe for one in named for recipe in _recipes(one, norm, chosen.classes)]
    defense = NoDefense()
    resolution.check_generator(recipes, [defense])
    if until_ci is not None:
        n = first_size(n, until_ci, len(chosen.test))
    data_part = parts.data_part_of(chosen, n, reference)
    identity = {
        "class": type(model).__qualname__,
        **parts.known_by(model, chosen, data_part.n, where),
    }
    model_part = Part(type(model).__name__, identity)
    given = Given(module=model)
    shapes = Shapes.on(where)
    found = devices.numerics_of(where)
    found = shapes.paying(found, where, model_part, chosen.shape, lambda: model)
    numerics = _numerics(precision, model, chosen, recipes, where, found)
    cells: dict[str, Cell] = {}
    sources: dict[str, Sources] = {}
    asked: dict[str, tuple[Attack, int | None]] = {}
    for recipe, how in zip(recipes, numerics, strict=True):
        part = parts.attack_part_of(recipe, norm, chosen, grid, query_budget, root=root)
        is_mean = is_random(model) and recipe.access in DIFFERENTIATING
        cell = Cell(
            data=data_part,
            model=model_part,
            defense=Part(defense.to_spec(), defense.identity()),
            attack=replace(part, mode="eot") if is_mean else part,
            norm=norm,
            eps=grid,
            seed=seed,
            sweep=sweep,
            numerics=how,
            query_budget=query_budget,
            eot=EOT if is_mean else 1,
        )
        cell = shapes.fitted(cell)
        cells[cell.key] = cell
        sources[cell.key] = Sources(chosen, given, defense, recipe)
        asked[cell.key] = recipe, cell.most_queries
    _check_told_apart([cell.attack.text for cell in cells.values()])
    look = Audit.of(list(asked.values()))
    base = replace(next(iter(cells.values())), numerics=found)
    for cell in _audited(shapes.fitted(base), look, chosen, model) if audit else ():
        cells[cell.key], sources[cell.key] = cell, Sources(chosen, given, defense, look)
    job = Job(
        cells=tuple(cells.values()),
        sources=sources,
        data_root=root,
        device=where,
        batch_size=batch_size,
        cache=None,
        shapes=shapes,
        save_adversarial=save_adversarial,
    )
    with Store.in_memory() if out is None else Store.open(Path(out)) as store:
        *_, job = rounds(job, store, LocalExecutor(), _Warning(), until_ci)
        records = store.records(cell.key for cell in job.cells)
    _check_complete(attacked(records))
    return Run(records)


def _check_complete(records: Sequence[Record]) -> None:
    failed = next((record for record in records if record.failure), None)
    if failed is not None:
        raise CellFailed(f"{failed.attack}: {failed.failure}")


def _audited(base: Cell, look: Audit, chosen: data.Dataset, model: nn.Module) -> list[Cell]:
    """The cell of the audit of a module; none where nothing is moved."""
    if base.eps[-1] == 0:
        return []
    mode, eot = ("eot", EOT) if is_random(model) else ("white-box", 1)
    return [resolution.audited(base, look, chosen, mode, eot)]


def _numerics(
    precision: str,
    model: nn.Module,
    dataset: data.Dataset,
    recipes: Sequence[Attack],
    device: str,
    own: Numerics,
) -> list[Numerics]:
    """Those of each attack on a module; warns where one cannot have the precision asked for."""
    precisions = Precisions(precision, device, checkpoint.cache_folder())
    name = type(model).__name__
    found = [
        precisions.of(own, name, lambda: model, dataset.shape, dataset.classes)
        if precisions.reduces(recipe)
        else own
        for recipe in recipes
    ]
    if precision == BFLOAT16:
        for note in precisions.notes:
            warnings.warn(note, stacklevel=3)
    return found


class _Warning(Silent):
    """A watcher whose warnings are Python's."""

    def warn(self, text: str) -> None:
        """See runner.Watcher."""
        warnings.warn(text, stacklevel=2)


def _check_told_apart(names: Sequence[str]) -> None:
    """Tables tell attacks apart by their names alone."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"two different attacks are both called {twice!r}: rename a function")


def _recipes(named: Named, norm: str, classes: int) -> list[Attack]:
    if isinstance(named, Attack):
        return [named]
    if not isinstance(named, str):
        return [wrap(named)]
    specs = parts.named_attacks([named], norm, classes)
    return [valid(attack_table.get, text) for text in specs]


def _device(model: nn.Module) -> str:
    parameter = next(model.parameters(), None)
    return "cpu" if parameter is None else str(parameter.device)


def _dataset(
    model: nn.Module, dataset: str | tuple[Tensor, Tensor], root: Path | None
) -> data.Dataset:
    if isinstance(dataset, str):
        return data.load(dataset, root)
    chosen = data.assemble("tensors", "tensors", own_split(*dataset))
    try:
        with frozen(model), torch.no_grad():
            x = chosen.test.images(slice(0, 1), _device(model))
            ids = torch.from_numpy(chosen.ids[:1]).to(x.device)
            logits: Any = said(model, x, evaluation_draws(ids, 0))
    except RuntimeError as err:
        shape = tuple(chosen.test.x.shape[1:])
        raise RequestError(
            f"the model does not take images of shape {shape}: {' '.join(str(err).split())[:200]}"
        ) from err
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise RequestError("the model must return logits (N, K)")
    classes = logits.shape[1] - refuses(model)
    if chosen.classes > classes:
        raise RequestError(
            f"labels must be in 0..{classes - 1}, got {chosen.classes - 1} for a model of "
            f"{classes} classes"
        )
    return replace(chosen, classes=classes)


def own_split(x: object, y: object) -> Split:
    """Own tensors as a split: x kept as uint8 or made float32, y int64; refused in one line."""
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        kinds = f"{type(x).__name__} and {type(y).__name__}"
        raise RequestError(f"x and y must be tensors, got {kinds} (torch.from_numpy makes them)")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise RequestError(f"y must be integers, got {y.dtype}")
    images = x.detach().cpu() if x.dtype == torch.uint8 else x.detach().cpu().float()
    labels = y.detach().cpu().long()
    probe = images[:1].float().div(255) if x.dtype == torch.uint8 else images
    valid(lambda _: check_images(probe, labels[: len(probe)]), "")
    if not len(x) or labels.shape != (len(x),):
        raise RequestError(
            f"x and y must hold the same number of samples, at least 1, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    if int(labels.min()) < 0:
        raise RequestError(f"labels must be at least 0, got {int(labels.min())}")
    return Split(images, labels)


def _grid(
    eps: Eps | None, dataset: data.Dataset, norm: str
) -> tuple[tuple[Fraction, ...], Fraction | None]:
    """The grid as exact fractions, and the dataset's reference eps (None for own tensors)."""
    row = (
        None
        if dataset.kind == "tensors"
        else valid(lambda n: budget(dataset.kind, dataset.shape[0], n), norm)
    )
    reference = None if row is None else Fraction(row.reference)
    if eps is None:
        if row is None:
            raise RequestError("eps= is needed with tensors of your own")
        return parse_grid(row.grid, norm), reference
    if isinstance(eps, str):
        return parse_grid(eps, norm), reference
    values = [eps] if isinstance(eps, float | int) else list(eps)
    return checked_grid([_exact(value) for value in values], str(eps), norm), reference


def _exact(value: Any) -> Fraction:
    """The fraction a number was meant as: 0.1 is 1/10, and 8 / 255 is 8/255."""
    if isinstance(value, str):
        return fraction(value)
    if not math.isfinite(value):
        raise RequestError(f"eps must be finite, got {value}")
    by_text = Fraction(repr(float(value)))
    by_pixels = Fraction(round(value * 255), 255)
    return by_pixels if float(by_pixels) == float(value) else by_text
