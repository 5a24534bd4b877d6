"""`python -m tests.agreement.sweeps`: whole accuracy-vs-eps curves by other libraries and by ours,
in turns, on an undefended and an adversarially trained net.
"""

from __future__ import annotations

import argparse
import os
import sys
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks.verify import predictions
from bench import data
from bench.datasets import budget
from bench.devices import numerics_of
from bench.spec import parse_grid
from defenses.registry import defenses
from models.checkpoint import Cache, cache_folder
from models.registry import models
from tests.agreement.entrants import (
    BATCH,
    ENTRANTS,
    NORM,
    PEERS,
    SINGLE,
    STEPS,
    Counting,
    Entrant,
    Task,
)
from tests.agreement.page import Heat, Setup, markdown
from tests.agreement.race import race

DATASET, MODEL = "mnist", "cnn_small"
DEFENSES = ["none", "advtrain:eps=0.3,lam=1"]
RADII, FEW_RADII = "0.02:0.4:0.02", "0.1:0.4:0.1"
NOWHERE = 1e-6
"""A radius at which nothing is fooled, so that nobody stops early."""


def main(words: list[str]) -> int:
    """Runs, prints and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.agreement.sweeps", description=__doc__)
    parser.add_argument("--n", type=int, help="test images, by default 250")
    parser.add_argument("--rounds", type=int, help="of all, each with a seed; by default 3")
    parser.add_argument("--ours", action="store_true", help="no library, and no floor")
    parser.add_argument("--dataset", default=DATASET, help=f"by default {DATASET}")
    parser.add_argument("--defense", action="append", help=f"by default {' and '.join(DEFENSES)}")
    parser.add_argument("--eps", help=f"the radii, by default {RADII}")
    parser.add_argument("--write", type=Path, help="the markdown file to write")
    parser.add_argument("--quick", action="store_true", help=f"1 round on 50 images at {FEW_RADII}")
    given = parser.parse_args(words)
    n, rounds = given.n or (50 if given.quick else 250), given.rounds or (1 if given.quick else 3)
    torch.set_num_threads(1)
    root = os.environ.get("BENCH_DATA")
    dataset = data.load(given.dataset, Path(root) if root else None)
    positions = torch.from_numpy(dataset.subset(n))
    x, y = dataset.test.images(positions, torch.device("cpu")), dataset.test.y[positions]
    grid = parse_grid(given.eps or (FEW_RADII if given.quick else RADII), NORM)
    setup = Setup(
        n=n,
        rounds=rounds,
        radii=tuple(map(float, grid)),
        dataset=given.dataset,
        not_run=() if given.ours else tuple(e.name for e in PEERS if not e.is_here),
        command=" ".join(["python -m tests.agreement.sweeps", *words]),
    )
    nets = {defense: _net(defense, dataset) for defense in given.defense or DEFENSES}
    single = None
    if not given.ours:
        plain = next(iter(nets.values()))
        task = Task(Counting(plain), x, predictions(plain, x, BATCH).argmax(1), (NOWHERE,))
        single = _heat(f"floor: one PGD-{STEPS} at one radius, {MODEL}", SINGLE, task, rounds)
    entrants = tuple(e for e in ENTRANTS if not given.ours or e not in PEERS)
    sweeps = []
    for defense, net in nets.items():
        task = Task(Counting(net), x, y, setup.radii)
        sweeps.append(_heat(_title(defense, net, x, y), entrants, task, rounds))
    text = markdown(setup, single, sweeps)
    print(text)
    if given.write:
        given.write.write_text(text, encoding="utf-8")
    return 0


def _net(defense: str, dataset: data.Dataset) -> nn.Module:
    """The net as `bench run` deploys it, trained or from the same cache."""
    workshop = dataset.workshop(
        models.get(MODEL),
        torch.device("cpu"),
        numerics={"threads": numerics_of("cpu").threads, "torch": torch.__version__},
        cache=Cache(cache_folder()),
        say=_say,
    )
    reference = float(Fraction(budget(dataset.kind, dataset.shape[0], NORM).reference))
    net: nn.Module = defenses.get(defense).at(NORM, reference).deploy(workshop).predict
    return net


def _title(defense: str, net: nn.Module, x: Tensor, y: Tensor) -> str:
    right = float((predictions(net, x, BATCH).argmax(1) == y).float().mean())
    return f"{MODEL}, {defense} (clean accuracy {100 * right:.1f} %)"


def _heat(title: str, entrants: tuple[Entrant, ...], task: Task, rounds: int) -> Heat:
    here = [entrant for entrant in entrants if entrant.is_here]
    before = os.getloadavg()[0]
    _say(title)
    laps = race(here, task, rounds, _say)
    return Heat(title, laps, (before, os.getloadavg()[0]))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
