"""The evaluated images, and the arrays of a stored block while its samples are being settled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import norms
from attacks.oracles import Predict
from attacks.pipelines import evaluation_draws, is_random
from attacks.verify import predictions
from attacks.work import NEVER, Settled
from bench import data, memory
from bench.packing import Arrays
from bench.plan import BLOCK, Cell
from models.split import Split

_SHARE = 0.25
"""Of the free memory, that the images may take: the stream holds a second copy of them."""


@dataclass(frozen=True)
class Images:
    """The evaluated images; positions (n,) are their places in the test set, y and ids (n,) stand
    on the device.

    held (n, ...): all of them as float32 on the device, where a quarter of its free memory is
    enough; else None, they stay in source as the dataset has them, and at most `most` of them,
    whole blocks, are made float32 at a time.
    """

    positions: NDArray[np.int64]
    source: Split
    y: Tensor
    ids: Tensor
    held: Tensor | None
    most: int

    @classmethod
    def of(cls, dataset: data.Dataset, n: int, device: torch.device) -> Images:
        """The first n of the test order."""
        positions = dataset.subset(n)
        index = torch.from_numpy(positions)
        each = torch.float32.itemsize * math.prod(dataset.shape)
        most = min(float(n), _SHARE * memory.free(device) / each)
        return cls(
            positions,
            dataset.test,
            dataset.test.y[index].to(device),
            torch.from_numpy(dataset.ids[positions]).to(device),
            held=dataset.test.images(index, device) if most >= n else None,
            most=max(1, int(most) // BLOCK) * BLOCK,
        )

    @property
    def x(self) -> Tensor:
        """All of them (n, ...), float32."""
        return self.at(slice(None))

    def at(self, places: slice | NDArray[np.int64]) -> Tensor:
        """Some of them, float32."""
        if self.held is None:
            return self.source.images(torch.from_numpy(self.positions[places]), self.y.device)
        if isinstance(places, slice):
            return self.held[places]
        return self.held[torch.from_numpy(places).to(self.y.device)]

    def parts(self, blocks: Sequence[int]) -> list[Sequence[int]]:
        """The numbers of blocks, in parts whose images are made at a time."""
        count = len(blocks) if self.held is not None else self.most // BLOCK
        return [blocks[first : first + count] for first in range(0, len(blocks), max(1, count))]

    def answers(
        self, predict: Predict, shape: int, *, draw: int = 0, classes: int | None = None
    ) -> Tensor:
        """What a pipeline says of the images (n, K), under an evaluation draw where it draws."""
        count = len(self.positions)
        # Whole calls in every part but the last, so that all are the calls of one go.
        step = count if self.held is not None else max(1, self.most // shape) * shape
        said = []
        for first in range(0, max(1, count), max(1, step)):
            rows = slice(first, first + step)
            draws = evaluation_draws(self.ids[rows], draw) if is_random(predict) else None
            x = self.at(rows)
            said.append(predictions(predict, x, shape, classes=classes, draws=draws))
            del x
        return torch.cat(said)

    def first(self, count: int) -> Images:
        """The first of them; see `take`."""
        return self.take(np.arange(min(count, len(self.positions))))

    def take(self, places: NDArray[np.int64]) -> Images:
        """A few of them, held."""
        index = torch.from_numpy(places).to(self.y.device)
        return replace(
            self,
            positions=self.positions[places],
            y=self.y[index],
            ids=self.ids[index],
            held=self.at(places),
        )


def span(number: int, n: int) -> tuple[int, int]:
    """First and last place (beyond) of a block of n samples."""
    return number * BLOCK, min((number + 1) * BLOCK, n)


class Block:
    """The arrays of one block while its samples are being settled."""

    def __init__(
        self,
        images: Images,
        clean: Tensor,
        draws: int,
        cell: Cell,
        number: int,
        *,
        keeps_images: bool = False,
    ):
        first, last = span(number, cell.data.n)
        self.found: dict[int, NDArray[np.float32]] | None = {} if keeps_images else None
        self.shape = tuple(images.source.x.shape[1:])
        self.first, self.norm, self.eps = first, cell.norm, [e for e in cell.eps if e > 0]
        size = last - first
        self.open = size
        self.grid = np.array([float(e) for e in cell.eps])
        self.radii = self.grid[self.grid > 0]
        self.arrays: Arrays = {
            "index": images.positions[first:last],
            "id": images.ids[first:last].cpu().numpy(),
            "label": images.y[first:last].cpu().numpy(),
            "clean_prediction": clean[first:last].cpu().numpy(),
            "min_eps": np.full(size, np.inf),
            "distance": np.full(size, np.nan),
            "forward": np.zeros(size, dtype=np.int64),
            "backward": np.zeros(size, dtype=np.int64),
            "verify": np.zeros(size, dtype=np.int64),
            "refused": np.zeros(size, dtype=np.int64),
            "queries": np.full((size, len(cell.eps)), NEVER, dtype=np.int64),
        }
        if draws > 1:
            self.arrays["draws"] = np.full((size, draws), np.inf)
        if cell.sweep == "independent":
            self.arrays["fooled"] = np.zeros((size, len(cell.eps)), dtype=np.uint8)

    @property
    def is_complete(self) -> bool:
        """Whether every sample is settled."""
        return self.open == 0

    @property
    def settled(self) -> int:
        """How many samples are settled."""
        return len(self.arrays["index"]) - self.open

    @property
    def images(self) -> Arrays | None:
        """The images that fooled the lowest radius, as bench.evidence keeps them; None where none
        are kept.
        """
        if self.found is None:
            return None
        rows = np.array(sorted(self.found), dtype=np.int64)
        made = [self.found[row] for row in rows.tolist()]
        return {
            "x_adv": np.stack(made) if made else np.zeros((0, *self.shape), dtype=np.float32),
            "index": self.arrays["index"][rows],
            "id": self.arrays["id"][rows],
        }

    def settle_wrong(self, right: NDArray[np.bool_]) -> None:
        """Misclassified without attack: fooled at 0, and where every draw does no query is
        spent.
        """
        each = ~right[self.first : self.first + len(self.arrays["index"])]
        if "draws" in self.arrays:
            self.arrays["draws"][each] = 0
        self.arrays["min_eps"][each.any(1)] = 0
        wrong = each.all(1)
        self.arrays["distance"][wrong] = 0
        self.arrays["queries"][wrong] = 0
        if "fooled" in self.arrays:
            self.arrays["fooled"][wrong] = 1
        self.open -= int(wrong.sum())

    def settle(self, place: int, settled: Settled, x: Tensor) -> None:
        """Notes a sample's result."""
        row = place - self.first
        self.open -= 1
        for name in ("forward", "backward", "verify", "refused"):
            self.arrays[name][row] = getattr(settled, name)
        if "fooled" in self.arrays:
            self.arrays["fooled"][row, len(self.grid) - len(self.eps) :] = settled.fell.any(1)
        self.arrays["queries"][row, len(self.grid) - len(self.eps) :] = settled.first
        if "draws" in self.arrays:
            fell = [np.append(self.radii[each], np.inf).min() for each in settled.fell.T]
            self.arrays["draws"][row] = np.minimum(self.arrays["draws"][row], fell)
        lowest = np.append(self.radii[settled.fell.any(1)], np.inf).min()
        # One that is wrong without attack under some draw needs no image.
        if self.found is not None and lowest < self.arrays["min_eps"][row]:
            self.found[row] = settled.x_adv.float().cpu().numpy().copy()
        self.arrays["min_eps"][row] = min(self.arrays["min_eps"][row], lowest)
        if settled.found:
            delta = settled.x_adv.double() - x.double()
            self.arrays["distance"][row] = float(norms.size(delta[None], self.norm))

    def certify(self, prediction: NDArray[np.int64], radius: NDArray[np.float64]) -> None:
        """Notes a certificate: min_eps is the first radius of the grid that it does not cover,
        distance the radius that it covers, 0 for a wrong prediction.
        """
        right = prediction == self.arrays["label"]
        covered = np.where(right, radius, 0.0)
        beyond = np.where(self.grid[None] > covered[:, None], self.grid[None], np.inf).min(1)
        self.arrays["clean_prediction"][:] = prediction
        self.arrays["min_eps"][:] = np.where(right, beyond, 0.0)
        self.arrays["distance"][:] = covered
        self.arrays.pop("draws", None)
