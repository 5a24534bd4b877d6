"""Ways between latents, and sums of them."""

from __future__ import annotations

from torch import Tensor

from bench.gan.eye import Eye
from bench.report.gan.portrait import Arithmetic, Measure, Walk
from models import latents
from models.generators import Generator

WAYS, POINTS = 100, 9
"""Ways that are measured, and images on each."""
_SHOWN = 6
_SUMMED = 2000
"""Latents whose classes and ink are told before they are added."""
_ADDENDS = ("bold\na", "- light\na", "+ light\nb", "= bold\nb")
_ENDS, _ADDED = 7, 8
"""Seeds of the ways' ends, and of what is added."""
_SUMS = 16
"""Sums that are drawn."""


def walks(generator: Generator, eye: Eye) -> tuple[tuple[Walk, ...], list[Measure]]:
    """Ways of both kinds between the same latents, of one class where classes can be asked for, and
    how smooth they are.
    """
    first, last = generator.latents(2 * WAYS, _ENDS).chunk(2)
    labels = generator.labels(first)
    if labels is not None:
        # A way between two classes would jump where one takes over.
        last = generator.asked(last, labels)
    ways, measures = [], []
    for kind, way in (("linear", latents.linear), ("spherical", latents.spherical)):
        images = latents.paths(generator, way(first, last, POINTS))
        smooth = latents.smoothness(images)
        jump, detour = (_finite(t.nanmean()) for t in (smooth.jump, smooth.detour))
        sure = float(latents.least_confidence(eye.net, images).double().mean())
        of = f"{WAYS} ways of {POINTS} images, in pixels"
        measures += [
            Measure(f"longest step, {kind}", jump, of),
            Measure(f"detour, {kind}", detour, of),
            Measure(f"least confidence, {kind}", sure, f"{of.partition(',')[0]}, {eye.name}"),
        ]
        ways.append(Walk(kind, images[:_SHOWN].cpu().numpy(), _smooth(jump, detour)))
    return tuple(ways), measures


def _smooth(jump: float | None, detour: float | None) -> str:
    if jump is None or detour is None:
        return "no image changes"
    return f"longest step {jump:.2f} x the mean, length {detour:.2f} x the straight distance"


def arithmetic(generator: Generator, eye: Eye) -> tuple[Arithmetic, list[Measure]]:
    """Light images of every class made as bold as those of another, by sums of latents; ValueError
    where the samples lie in fewer than two classes.
    """
    sums = latents.bolder(generator, eye.net, generator.latents(_SUMMED, _ADDED))
    kept, moved = float(sums.is_kept.double().mean()), _finite(sums.moved.nanmedian())
    of = f"{len(sums.pairs):,} pairs of classes, {_SUMMED:,} latents, seen by {eye.name}"
    if generator.classes:
        of += "; class asked"
    measures = [
        Measure("arithmetic: class kept (%)", 100 * kept, of),
        Measure(
            "arithmetic: boldness gained, median (%)",
            None if moved is None else 100 * moved,
            f"{of}; 100 is that of the bold",
        ),
    ]
    classes = sorted({a for a, _ in sums.pairs.tolist()})
    following = dict(zip(classes, [*classes[1:], classes[0]], strict=True))
    chosen = [k for k, (a, b) in enumerate(sums.pairs.tolist()) if following[a] == b][:_SUMS]
    codes = sums.codes[chosen]
    images = generator.decoded(codes.flatten(0, 1))
    images = images.view(*codes.shape[:2], *images.shape[1:])
    rows = tuple(f"{a} to {b}" for a, b in sums.pairs[chosen].tolist())
    text = (
        f"classes a to b{', class asked' if generator.classes else ''}; bold, light: mean latents "
        f"of its quarter with most, least ink; {kept:.0%} of {len(sums.pairs):,} sums are a b"
    )
    if moved is not None:
        text += f", {moved:.0%} of the way to bold b (median)"
    return Arithmetic(_ADDENDS, rows, images.cpu().numpy(), text), measures


def _finite(value: Tensor) -> float | None:
    """A number, None where there is none."""
    return float(value) if value.isfinite() else None
