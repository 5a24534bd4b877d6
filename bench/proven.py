"""The cell of a certificate: what is proven of a deployed pipeline, block by block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from attacks.oracles import frozen
from attacks.pipelines import evaluation_draws
from bench.outcomes import span
from bench.plan import Cell, Todo
from bench.units import Done, Moved
from defenses.bounds import BOUNDS, Bound
from models.chain import Unchained, chain_of

if TYPE_CHECKING:
    from bench.pipeline import Pipeline

_Certify = Callable[[slice], tuple[Tensor, Tensor]]
"""Places of images to predictions and radii."""


def certified(pipeline: Pipeline, item: Todo) -> Iterator[Moved | Done]:
    """Every missing block of a certificate's cell."""
    certify = _certify(pipeline, item.cell)
    with frozen(pipeline.defended.predict):
        for number in item.blocks:
            start = time.perf_counter()
            block = pipeline.block(item.cell, number)
            rows = slice(*span(number, item.cell.data.n))
            with torch.no_grad():
                prediction, radius = certify(rows)
            block.certify(prediction.cpu().numpy(), radius.cpu().double().numpy())
            yield Done(item.cell.key, number, block.arrays, time.perf_counter() - start)
            yield Moved(item.cell.key, len(radius))


def _certify(pipeline: Pipeline, cell: Cell) -> _Certify:
    """What makes a cell's certificates."""
    named, own, images = cell.attack.text, pipeline.defended.certify, pipeline.images
    if named in BOUNDS:
        return _bounded(pipeline, BOUNDS[named], cell)
    if own is None:
        raise ValueError("this pipeline has no certificate")

    def certify(rows: slice) -> tuple[Tensor, Tensor]:
        return own(images.at(rows), evaluation_draws(images.ids[rows], 0))

    return certify


def _bounded(pipeline: Pipeline, bound: Bound, cell: Cell) -> _Certify:
    """A bound of the net that is deployed; of images it gets wrong the radius is 0."""
    net, images = pipeline.defended.predict, pipeline.images
    if not isinstance(net, nn.Module):
        raise Unchained(f"{net!r} is no net")
    radii = [float(e) for e in cell.eps if e > 0]

    def certify(rows: slice) -> tuple[Tensor, Tensor]:
        x, y = images.at(rows), images.y[rows]
        chain = chain_of(net, (x.shape[1], x.shape[2], x.shape[3]))
        prediction = pipeline.clean[rows].argmax(1)
        right = prediction == y
        radius = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        radius[right] = bound(chain, x[right], y[right], cell.norm, radii)
        return prediction, radius

    return certify
