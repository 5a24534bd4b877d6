"""Walks and sums in a generator's latent space: does a small step make a small change, and does a
difference of latents mean the same everywhere?
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.generators import Generator
from models.passes import through

_PARALLEL = 1e-4
"""The sine of an angle below which two latents are taken to lie on one line."""
_QUARTER = 4


def linear(a: Tensor, b: Tensor, points: int) -> Tensor:
    """Latents (P, T, d) at T = points equal steps along the straight lines from a to b (P, d).

    Under a normal prior its middle lies nearer to 0 than almost any latent that is drawn.
    """
    share = _shares(a, points)
    return (1 - share) * a[:, None] + share * b[:, None]


def spherical(a: Tensor, b: Tensor, points: int) -> Tensor:
    """Latents (P, T, d) at equal angles from a to b (P, d): (sin((1 - t) w) a + sin(t w) b) / sin w
    with w the angle between them (White 2016, arXiv:1609.04468).

    Ends of one norm keep it all along. Along a line through 0 (ends parallel, opposite or 0) there
    is no such arc, and the steps are those of `linear`. Under a uniform prior an arc may leave the
    cube.
    """
    share = _shares(a, points)
    one, other = (z / z.norm(dim=1, keepdim=True).clamp(min=1e-30) for z in (a, b))
    # By both the sum and the difference: exact for small angles, where an arc cosine is not.
    angle = 2 * torch.atan2((one - other).norm(dim=1), (one + other).norm(dim=1))[:, None, None]
    sine = angle.sin()
    arc = ((1 - share) * angle).sin() * a[:, None] + (share * angle).sin() * b[:, None]
    is_arc = (sine > _PARALLEL) & (a.norm(dim=1) * b.norm(dim=1) > 0)[:, None, None]
    return torch.where(is_arc, arc / sine.clamp(min=_PARALLEL), linear(a, b, points))


def _shares(a: Tensor, points: int) -> Tensor:
    """Shares of the way (1, T, 1)."""
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    return torch.linspace(0, 1, points, dtype=a.dtype, device=a.device)[None, :, None]


def paths(generator: Generator, z: Tensor) -> Tensor:
    """Images (P, T, C, H, W) of latents z (P, T, d)."""
    return generator.made(z.flatten(0, 1)).view(*z.shape[:2], *generator.shape)


@dataclass(frozen=True)
class Smoothness:
    """How evenly images change along P paths of T points.

    steps (P, T - 1): root mean square over components of the change per step; jump (P,): the
    longest step over the mean one, 1 where all are equal; detour (P,): the length of the path over
    the distance of its ends, 1 where it is straight. float64; NaN where no image changes.
    """

    steps: Tensor
    jump: Tensor
    detour: Tensor


def smoothness(images: Tensor) -> Smoothness:
    """Of paths of images (P, T, C, H, W), T at least 2. A linear generator has a jump and a detour
    of 1 along a straight line.
    """
    flat = images.flatten(2).double()
    steps = (flat[:, 1:] - flat[:, :-1]).square().mean(2).sqrt()
    ends = (flat[:, -1] - flat[:, 0]).square().mean(1).sqrt()
    return Smoothness(steps, steps.amax(1) / steps.mean(1), steps.sum(1) / ends)


def least_confidence(net: nn.Module, images: Tensor) -> Tensor:
    """The least confidence (P,) along paths of images (P, T, C, H, W): of the largest probability
    that a classifier in eval mode gives a class, the smallest over a path.
    """
    logits = through(net, images.flatten(0, 1))
    return logits.softmax(1).amax(1).view(images.shape[:2]).amin(1)


def analogy(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a - b + c: what a has and b has not, given to c ("man with glasses" - "man without" + "woman
    without" = "woman with glasses"; Radford et al. 2016, arXiv:1511.06434). Shapes alike.
    """
    return a - b + c


@dataclass(frozen=True)
class Bolder:
    """What became of light images of one class that were given the boldness of another.

    pairs (Q, 2): classes a, b, in order; codes (Q, 4, d): of bold a, light a, light b and the sum
    that should be bold b (see Generator.codes); is_kept (Q,): whether the classifier calls the
    image b; moved (Q,): how far its ink has come from that of light b (0) to that of bold b (1),
    NaN where bold b has no more ink than light b.
    """

    pairs: Tensor
    codes: Tensor
    is_kept: Tensor
    moved: Tensor


def bolder(generator: Generator, net: nn.Module, z: Tensor) -> Bolder:
    """For all pairs of classes a, b: mean z(bold a) - mean z(light a) + mean z(light b), of styles
    where the net makes its images of these. Where classes can be asked for, the means are made to
    ask for their class, and the sum for b: a mean of latents may ask for another one.

    z (N, d) are latents of the prior, on the device of both nets; a classifier in eval mode says of
    which class their images are; bold are the quarter of a class with most ink (mean intensity),
    light the quarter with least. Ink is compared between images of latents: the sum above, the mean
    of light b and that of bold b. Classes of fewer than four images are left out; refuses fewer
    than two others.
    """
    images, codes = generator.made(z), generator.codes(z)
    labels, ink = through(net, images).argmax(1), images.flatten(1).mean(1)
    # A classifier may see classes that cannot be asked for.
    most = generator.classes or int(labels.max()) + 1
    found = [
        k for k in torch.unique(labels).tolist() if k < most and (labels == k).sum() >= _QUARTER
    ]
    if len(found) < 2:
        raise ValueError(f"classes of four images must be at least two, got {len(found)}")
    quarters = [_quarters(codes, ink, labels == label) for label in found]
    light, bold = (torch.stack(means) for means in zip(*quarters, strict=True))
    wanted = torch.tensor(found, device=z.device)
    light, bold = (_asking(generator, means, wanted) for means in (light, bold))
    pairs = torch.tensor(list(itertools.permutations(range(len(found)), 2)), device=z.device)
    a, b = pairs.unbind(1)
    summed = _asking(generator, analogy(bold[a], light[a], light[b]), wanted[b])
    reached = generator.decoded(summed)
    start, end, got = (
        x.flatten(1).mean(1)
        for x in (generator.decoded(light)[b], generator.decoded(bold)[b], reached)
    )
    named = wanted[pairs]
    moved = torch.where(end > start, (got - start) / (end - start), torch.nan)
    addends = torch.stack([bold[a], light[a], light[b], summed], 1)
    return Bolder(named, addends, through(net, reached).argmax(1) == named[:, 1], moved)


def _asking(generator: Generator, codes: Tensor, labels: Tensor) -> Tensor:
    """Codes (N, d) that ask for classes (N,), where classes can be asked for."""
    return generator.asked(codes, labels) if generator.classes else codes


def _quarters(codes: Tensor, ink: Tensor, is_member: Tensor) -> tuple[Tensor, Tensor]:
    """The mean codes (d,) of the quarters of a class with least and with most ink."""
    members = is_member.nonzero()[:, 0]
    ranked = members[ink[members].argsort(stable=True)]
    count = len(ranked) // _QUARTER
    return codes[ranked[:count]].mean(0), codes[ranked[-count:]].mean(0)
