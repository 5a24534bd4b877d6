"""The transfer matrix: what is made on every source, tried on every target, beside noise of the
same size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks import norms
from attacks.base import Attack
from attacks.draws import Draws
from attacks.noise import gaussian
from attacks.oracles import frozen
from attacks.registry import attacks
from attacks.sourced import SAME, classes_of
from attacks.transfer import points_on
from attacks.verify import predictions
from attacks.work import Setting
from bench import __version__, data, devices
from bench.api import own_split
from bench.datasets import budget
from bench.devices import numerics
from bench.errors import RequestError
from bench.report.tables import eps_text
from bench.spec import parse_grid, valid
from bench.supplies import Stock, origin
from models.checkpoint import Cache, cache_folder
from models.recipes import Classifier
from models.registry import models

Nets = Sequence[str] | Mapping[str, str | nn.Module]

LEGEND = """\
Rows: the model that an attack was run on; columns: the model that was shown its images. A cell is
the share, in percent, of the images right without attack that the column's model then gets wrong;
in brackets the same for Gaussian noise whose l2 size, inside [0, 1], is that of the row's own
perturbation, image by image."""


@dataclass(frozen=True)
class TransferMatrix:
    """What attacks on sources do to targets.

    samples: a row per source, target and image: index (place in the test set), label, size (l2, of
    the source's perturbation), and what the target predicts: clean_prediction, prediction on the
    source's image, noise_prediction on the image with noise of that size. sources and targets:
    their names in order; text: the call in words.
    """

    samples: pd.DataFrame
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    text: str

    @property
    def broken(self) -> pd.DataFrame:
        """Sources by targets: the share of the target's originally right samples that it gets
        wrong.
        """
        return self._share("prediction")

    @property
    def noise(self) -> pd.DataFrame:
        """The same for noise of the size of the source's perturbations."""
        return self._share("noise_prediction")

    @property
    def accuracy(self) -> pd.DataFrame:
        """Sources by targets: the share of all samples that the target gets right."""
        return self._table(self.samples["prediction"] == self.samples["label"])

    @property
    def clean(self) -> pd.Series[float]:
        """The accuracy of every target without attack."""
        right = self.samples["clean_prediction"] == self.samples["label"]
        return self._table(right).iloc[0]

    def _share(self, column: str) -> pd.DataFrame:
        """Over the samples that the target gets right without attack."""
        right = self.samples["clean_prediction"] == self.samples["label"]
        wrong = self.samples[column] != self.samples["label"]
        return self._table(wrong[right])

    def _table(self, flags: pd.Series[bool]) -> pd.DataFrame:
        keys = [self.samples["source"], self.samples["target"]]
        means = flags.groupby(keys).mean().unstack()
        return means.reindex(index=self.sources, columns=self.targets)

    def to_markdown(self) -> str:
        """A GitHub table with its legend, and the call that made it."""
        broken, noise = (100 * share.to_numpy() for share in (self.broken, self.noise))
        rows = [
            [source, *(f"{b:.1f} ({n:.1f})" for b, n in zip(*pair, strict=True))]
            for source, *pair in zip(self.sources, broken, noise, strict=True)
        ]
        rows.append(["clean accuracy", *(f"{100 * self.clean[t]:.1f}" for t in self.targets)])
        lines = [["source", *self.targets], ["-", *("-:" for _ in self.targets)], *rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        legend = " ".join(LEGEND.split())
        return (
            f"{table}\n\n{legend}\n\nMade by `{self.text}` with adversarial-bench {__version__}.\n"
        )


def transfer_matrix(  # noqa: PLR0913  one keyword per setting
    sources: Nets,
    targets: Nets | None = None,
    *,
    dataset: str | tuple[Tensor, Tensor] = "digits",
    attack: str | Attack = "pgd",
    norm: str = "linf",
    eps: str | float | None = None,
    n: int | None = None,
    seed: int = 0,
    device: str = "auto",
    data_root: str | Path | None = None,
) -> TransferMatrix:
    """Attacks every source at one eps and shows the images to every target.

    sources, targets (by default the sources): names with modules or specs, or specs alone. A spec
    is a model's, trained without defense on the dataset, or `MODEL @ DATASET` for another one of
    the same image shape and classes: `cnn_small @ mnist:half=2`. dataset: a spec or tensors (x, y);
    n: images of its stratified test order. eps: by default the dataset's reference. The attack does
    its most on the source, whether that is fooled or not: a budget attack's point of highest loss,
    a minimal one's nearest success. Raises RequestError for what cannot be run, such as a model of
    another input size.
    """
    recipe: Attack = valid(attacks.get, attack) if isinstance(attack, str) else attack
    if recipe.needs:
        raise RequestError(f"attack must be one that needs no source, got {recipe.to_spec()}")
    where = torch.device(devices.device_of(device))
    stock = _stock(dataset, where, None if data_root is None else Path(data_root))
    positions = torch.from_numpy(stock.dataset.subset(n))
    x, y = stock.dataset.test.images(positions, where), stock.dataset.test.y[positions].to(where)
    radius = _radius(eps, stock.dataset, norm)
    with numerics(devices.threads()):
        named = _nets(sources, stock)
        shown = named if targets is None else _nets(targets, stock)
        classes = _checked({**named, **shown}, x, y)
        valid(lambda _: recipe.check(norm, classes), "")
        setting = Setting(norm, classes, seed, devices.numerics_of(str(where)).shape)
        trial = _Trial(recipe, radius, setting, positions, x, y)
        clean = {name: trial.said(net, x) for name, net in shown.items()}
        parts = [part for name in named for part in trial.rows(name, named[name], shown, clean)]
    settings = {
        "dataset": dataset if isinstance(dataset, str) else ("x", "y"),
        "attack": recipe.to_spec(),
        "norm": norm,
        "eps": eps_text(radius),
        "n": len(x),
        "seed": seed,
    }
    asked = [_listed(nets) for nets in (sources, targets) if nets is not None]
    asked += [f"{name}={value!r}" for name, value in settings.items()]
    text = f"bench.transfer_matrix({', '.join(asked)})"
    return TransferMatrix(pd.concat(parts, ignore_index=True), tuple(named), tuple(shown), text)


@dataclass(frozen=True)
class _Trial:
    """The attack, and the images (N, ...) it is tried on."""

    attack: Attack
    radius: float
    setting: Setting
    positions: Tensor
    x: Tensor
    y: Tensor

    def rows(
        self,
        source: str,
        net: nn.Module,
        targets: Mapping[str, nn.Module],
        clean: Mapping[str, NDArray[np.int64]],
    ) -> Iterator[pd.DataFrame]:
        """A frame of samples per target."""
        with frozen(net):
            moved = points_on(self.attack, net, self.x, self.y, self.radius, self.setting)
        size = norms.size(moved.double() - self.x.double(), "l2")
        control = gaussian(self.x, size, Draws.of(self.x, self.setting.seed))
        for name, target in targets.items():
            columns = {
                "source": source,
                "target": name,
                "index": self.positions.numpy(),
                "label": self.y.cpu().numpy(),
                "size": size.cpu().numpy(),
                "clean_prediction": clean[name],
                "prediction": self.said(target, moved),
                "noise_prediction": self.said(target, control),
            }
            yield pd.DataFrame(columns)

    def said(self, net: nn.Module, x: Tensor) -> NDArray[np.int64]:
        """The classes (N,) that a net predicts."""
        with frozen(net):
            logits = predictions(net, x, self.setting.shape, classes=self.setting.classes)
        classes: NDArray[np.int64] = logits.argmax(1).cpu().numpy()
        return classes


def _stock(dataset: str | tuple[Tensor, Tensor], device: torch.device, root: Path | None) -> Stock:
    if isinstance(dataset, str):
        chosen = data.load(dataset, root)
    else:
        chosen = data.assemble("tensors", "tensors", own_split(*dataset))
    known = {"threads": devices.threads(), "torch": torch.__version__}
    return Stock(chosen, root, device, known, Cache(cache_folder()), lambda _: None)


def _radius(eps: str | float | None, dataset: data.Dataset, norm: str) -> float:
    if eps is None and dataset.kind == "tensors":
        raise RequestError("eps= is needed with tensors of your own")
    if eps is None:
        eps = valid(lambda n: budget(dataset.kind, dataset.shape[0], n).reference, norm)
    text = str(eps)
    (radius, *more) = parse_grid(text, norm)
    if more or radius == 0:
        raise RequestError(f"eps must be one number above 0, got {text}")
    return float(radius)


def _nets(asked: Nets, stock: Stock) -> dict[str, nn.Module]:
    """The nets by name: modules on the device, specs trained."""
    named = asked if isinstance(asked, Mapping) else {spec: spec for spec in asked}
    if not named:
        raise RequestError("at least one source and one target are needed")
    return {
        name: _trained(net, stock) if isinstance(net, str) else _placed(name, net, stock.device)
        for name, net in named.items()
    }


def _trained(spec: str, stock: Stock) -> nn.Module:
    model, _, dataset = (part.strip() for part in spec.partition("@"))
    recipe: Classifier = valid(models.get, model)
    own = origin(dataset or SAME, stock.dataset, stock.root)
    return valid(lambda _: stock.source(recipe, own), "")  # type: ignore[no-any-return]


def _placed(name: str, net: nn.Module, device: torch.device) -> nn.Module:
    if not isinstance(net, nn.Module):
        raise RequestError(f"{name} must be a torch.nn.Module or a spec, got {type(net).__name__}")
    parameter = next(net.parameters(), None)
    if parameter is None or parameter.device.type == device.type:
        return net
    return copy.deepcopy(net).to(device)


def _checked(nets: Mapping[str, nn.Module], x: Tensor, y: Tensor) -> int:
    """The number of classes that all of them know; refuses nets that differ in it or in what they
    take.
    """
    least = 1 + int(y.max())
    classes = [_known(name, net, x) for name, net in nets.items()]
    for name, known in zip(nets, classes, strict=True):
        if known != classes[0]:
            first = next(iter(nets))
            raise RequestError(
                f"{name} must know {classes[0]} classes as {first} does, got {known}"
            )
        if known < least:
            raise RequestError(f"{name} must know the labels' {least} classes, got {known}")
    return classes[0]


def _known(name: str, net: nn.Module, x: Tensor) -> int:
    known: int = valid(lambda _: classes_of(net, x, name), "")
    return known


def _listed(nets: Nets) -> str:
    """The nets as they were asked for; a module by its class."""
    if not isinstance(nets, Mapping):
        return repr(list(nets))
    shown = {n: net if isinstance(net, str) else type(net).__name__ for n, net in nets.items()}
    return repr(shown)
