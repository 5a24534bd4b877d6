"""The table of datasets and the radii each is attacked at; never imports torch.

Radii are texts in the grammar of ``--eps``: ``FIRST:LAST:STEP`` (both ends included) or values with
commas, each decimal or a fraction, in units of inputs scaled to [0, 1]; for l0 they count changed
components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.registry import Registry

datasets = Registry(
    "dataset",
    {
        "digits": "bench.sources:Digits",
        "mnist": "bench.sources:Mnist",
        "fashion_mnist": "bench.sources:FashionMnist",
        "cifar10": "bench.sources:Cifar10",
        "imagefolder": "bench.sources:ImageFolder",
        "npz": "bench.sources:Npz",
        "constructed": "bench.constructed:Constructed",
    },
)


@dataclass(frozen=True)
class Budget:
    """The grid of radii a dataset is swept over by default, and the radius it is ranked at."""

    grid: str
    reference: str


BUDGETS: Mapping[str, Mapping[str, Budget]] = {
    "digits": {
        "linf": Budget("0:0.3:0.05", "0.15"),
        "l2": Budget("0:1.5:0.25", "1"),
        "l1": Budget("0:6:1", "4"),
        "l0": Budget("0:10:2", "4"),
    },
    "mnist": {
        "linf": Budget("0:0.4:0.05", "0.3"),
        "l2": Budget("0:3:0.5", "2"),
        "l1": Budget("0:20:2.5", "10"),
        "l0": Budget("0:50:10", "20"),
    },
    "fashion_mnist": {
        "linf": Budget("0:0.2:0.025", "0.1"),
        "l2": Budget("0:3:0.5", "2"),
        "l1": Budget("0:20:2.5", "10"),
        "l0": Budget("0:50:10", "20"),
    },
    "cifar10": {
        "linf": Budget("0,1/255,2/255,4/255,8/255,12/255,16/255", "8/255"),
        "l2": Budget("0:1:0.25", "0.5"),
        "l1": Budget("0:16:4", "12"),
        "l0": Budget("0:40:8", "24"),
    },
}


def budget(dataset_name: str, channels: int, norm: str) -> Budget:
    """The default radii of a dataset of the table, or of one from outside by its channels.

    Images of the user's own take the radii of mnist when grey, of cifar10 when they have colours.
    """
    rows = BUDGETS.get(dataset_name) or BUDGETS["mnist" if channels == 1 else "cifar10"]
    if norm not in rows:
        raise ValueError(f"norm must be one of {', '.join(rows)}, got {norm!r}")
    return rows[norm]
