"""How near a generator's samples come to real images, and how near to single training images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.gan.drawing import truncated
from bench.gan.eye import Eye
from bench.report.gan.portrait import Measure, Neighbours, Truncated
from models import fidelity, memorisation, variety
from models.coverage import tally
from models.fidelity import Gaussian
from models.generators import Generator
from models.split import Split
from models.truncation import within

PSI = (1.0, 0.7, 0.3)
"""Truncations towards the mean that are compared."""
KEPT = (1.0, 0.5, 0.1)
"""Shares of the prior's latents that a truncation by resampling keeps."""
_NEAR = 10_000
"""Most samples whose neighbours are looked for among all of them."""
_FEWER = 2000
"""Most samples per truncation, and samples whose nearest training images are looked for."""
_LINE = 8
"""Images in a line of them."""
_CHOSEN, _PULLED = 5, 6
"""Seeds of the choice of training images, and of truncated samples."""
_FEWEST_HELD_OUT = 100
"""Held-out images below which no copies can be told."""


@dataclass(frozen=True)
class Real:
    """Training images chosen at random, as many as samples where there are so many: x (N, C, H, W),
    what the classifier sees in them: features (N, F), and counts per class; others: features of as
    many further training images, fewer or none where there are not so many.
    """

    x: Tensor
    features: Tensor
    counts: tuple[int, ...]
    others: Tensor

    @classmethod
    def of(cls, train: Split, eye: Eye, count: int, classes: int, device: torch.device) -> Real:
        """So many of the training images."""
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(_CHOSEN))
        x, further = (train.images(part, device) for part in (order[:count], order[count:][:count]))
        counts = tuple(tally(eye.labels(x).cpu(), classes).tolist())
        return cls(x, eye.features(x), counts, eye.features(further) if len(further) else x[:0, 0])


def fidelities(drawn: Tensor, real: Real, eye: Eye, what: str) -> tuple[list[Measure], bool]:
    """FID, precision, recall and variety of samples (N, C, H, W) against as many training images;
    and whether the samples cannot depend on their latents.
    """
    count = min(len(drawn), len(real.x))
    near = min(count, _NEAR)
    x, features = real.x[:count], real.features[:count]
    made = eye.features(drawn[:count])
    of = f"{what} and as many training images, {eye.layer}"
    balls = f"{near:,} {of}, k = {fidelity.NEIGHBOURS}"
    both = fidelity.overlap(features[:near], made[:near])
    mine, theirs = (variety.variety(images) for images in (drawn[:count], x))
    pixels = f"{count:,} {what}, in pixels; training images: "
    measures = [
        Measure("FID", fidelity.frechet(*map(Gaussian.of, (features, made))), f"{count:,} {of}"),
        _floor(features, real.others[:count], eye),
        Measure("precision", both.precision, balls),
        Measure("recall", both.recall, balls),
        Measure("distance of pairs", mine.apart, f"{pixels}{theirs.apart:.4g}"),
        Measure("distance to the nearest", mine.nearest, f"{pixels}{theirs.nearest:.4g}"),
    ]
    return measures, variety.ignores_latent(mine, theirs)


def _floor(features: Tensor, others: Tensor, eye: Eye) -> Measure:
    """The FID of training images against as many others; where there are not so many, of the
    halves, which is larger, as fewer images seem farther.
    """
    name, halves = "FID, at best", (features, others)
    if len(others) < len(features):
        name, halves = "FID, of halves", (features[::2], features[1::2])
    of = f"{len(halves[0]):,} training images and as many others, {eye.layer}"
    return Measure(name, fidelity.frechet(*map(Gaussian.of, halves)), of)


def truncations(
    generator: Generator, real: Real, eye: Eye, count: int
) -> tuple[tuple[Truncated, ...], list[Measure]]:
    """Precision and recall of samples under truncations of both kinds."""
    count = min(count, _FEWER, len(real.x))
    features = real.features[:count]
    levels = []
    measures = []
    of = f"{count:,} samples and as many training images, {eye.layer}"
    for kind, level, name, images in _truncated(generator, count):
        both = fidelity.overlap(features, eye.features(images))
        levels.append(Truncated(kind, level, both.precision, both.recall))
        beside = f"{kind} = {level:.3g}; {of}"
        measures += [
            Measure(f"precision, {name}", both.precision, beside),
            Measure(f"recall, {name}", both.recall, beside),
        ]
    return tuple(levels), measures


def _truncated(generator: Generator, count: int) -> Iterator[tuple[str, float, str, Tensor]]:
    """Samples by the kind, level and name of their truncation."""
    for psi in PSI:
        yield "psi", psi, f"psi = {psi:g}", truncated(generator, count, psi, _PULLED)
    norms = generator.latents(count, _PULLED).norm(dim=1).double()
    for share in KEPT:
        tau = float(norms.quantile(share))
        images = generator.made(within(generator, count, _PULLED, tau))
        # By the share: levels of a prior whose latents have one norm are the same.
        yield "tau", tau, f"tau keeps {100 * share:g} %", images


def memories(
    drawn: Tensor, train: Split, held_out: Split, what: str, say: Callable[[str], None]
) -> tuple[Neighbours, list[Measure]]:
    """The nearest training images of samples (N, C, H, W), and how many samples are copies beside
    images that were held out.
    """
    made, others = drawn[:_FEWER], held_out.images(slice(0, _FEWER), drawn.device)
    say(f"looking for the nearest training images of {len(made):,} samples")
    found, theirs = memorisation.nearest(made, train), memorisation.nearest(others, train)
    of, beside = f"{len(made):,} {what}, in pixels", f"{len(others):,} test images"
    measures = [
        Measure(f"nearest training image, {name}", here, f"{of}; {beside}: {there:.4g}")
        for name, here, there in (
            ("least", float(found.distance.min()), float(theirs.distance.min())),
            ("median", float(found.distance.median()), float(theirs.distance.median())),
        )
    ]
    text = "first line: the nearest of all, others: any"
    if len(others) >= _FEWEST_HELD_OUT:
        share = memorisation.copied(found.distance, theirs.distance)
        measures.append(Measure("copies (%)", 100 * share, f"{of}; 1 % of new images"))
        text += (
            f"; {100 * share:.1f} % of {len(made):,} {what} are as near to training images as "
            f"the nearest 1 % of {beside}"
        )
    nearest = found.distance.argsort(stable=True)[:_LINE]
    shown = torch.cat([nearest, torch.arange(2 * _LINE, device=nearest.device)])
    beneath = train.images(found.index[shown].cpu())
    return Neighbours(made[shown].cpu().numpy(), beneath.numpy(), text), measures
