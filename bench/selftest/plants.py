"""Plants: one undefended net behind what only looks like a defense, in two or three variants each,
and honest defenses beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks.pipelines import Randomised
from bench.selftest.masks import (
    Cliff,
    DecoyInLoop,
    Keyed,
    Misled,
    Probabilities,
    Ramp,
    Remembering,
    Riddled,
    Ripples,
    Rounded,
    Scaled,
    Shifted,
    Stairs,
    Table,
    Undeclared,
    drowned,
    half_negated,
    negated,
)
from defenses.distillation import Cooled, Distilled
from defenses.dropout import LeftOn
from defenses.kwta import Smoothed, Winners
from defenses.resizepad import Shrunk
from defenses.transformed import Behind, BehindDraws, Passing
from defenses.workshop import Workshop
from models import checkpoint
from models.rebuild import replaced

KEPT = "the net's own: every prediction is the net's"
ELSEWHERE = "the net's own: of all images of a ball only some are answered otherwise"
ONCE = "the net's own: asked once, it answers as the net does"
GRADIENT = "its own: the same values, attacked with an honest gradient"
DECLARED = "its own: the same pipeline, its draws declared"
ITSELF = "its own: attacked as it is"
"""Rules of truths: whose worst case it is, and how it is found."""
STRONG = "cascade:attacks=[pgd:loss=margin]+[multitargeted:steps=20]"
"""The attack that truths are measured with."""
OVER_DRAWS = "pgd:loss=margin,steps=20"
"""That of pipelines that draw, each query of which is the mean of ten."""


@dataclass(frozen=True)
class Ground:
    """What plants stand on: the workshop, the undefended net of it, the images x (n, ...) and their
    labels y (n,) that are evaluated, the radius in linf, and epochs enough for another net.
    """

    workshop: Workshop
    net: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    epochs: int


@dataclass(frozen=True)
class Spec:
    """A pipeline by its specs, evaluated as `bench run` does."""

    model: str
    defense: str


Subject = nn.Module | Spec
"""What is evaluated."""
Make = Callable[[Ground], Subject]


@dataclass(frozen=True)
class Plant:
    """A defense whose truth is known.

    fakes: what it does, in a few words; make: it; bare: what its truth is measured on, where strong
    attacks can be trusted; rule: why that is its truth; strong: the attack; held_out: that it is
    not looked at while checks are tuned; is_honest: that it fakes nothing.
    """

    name: str
    variant: str
    fakes: str
    make: Make
    bare: Make
    rule: str
    strong: str = STRONG
    held_out: bool = False
    is_honest: bool = False


class _Pair(NamedTuple):
    """How a plant is made, and what its truth is measured on; see Plant."""

    make: Make
    bare: Make
    rule: str
    strong: str = STRONG


def _net(ground: Ground) -> nn.Module:
    return ground.net


def _over(mask: Callable[[nn.Module], nn.Module]) -> _Pair:
    """A mask over the net that keeps its predictions."""
    return _Pair(lambda ground: mask(ground.net).eval(), _net, KEPT)


def _front(transform: nn.Module) -> _Pair:
    """A transform in front of the net; its truth with the identity's gradient in its place."""
    return _Pair(
        lambda ground: Behind(transform, ground.net).eval(),
        lambda ground: Behind(Passing(transform), ground.net).eval(),
        GRADIENT,
    )


def _inside(activation: nn.Module, honest: nn.Module) -> _Pair:
    """An activation in place of every ReLU, and one with the same values and a better gradient."""

    def with_it(other: nn.Module) -> Make:
        return lambda ground: replaced(
            ground.net, lambda module: other.eval() if isinstance(module, nn.ReLU) else None
        )

    return _Pair(with_it(activation), with_it(honest), GRADIENT)


def _undeclared(pipeline: Callable[[nn.Module], Randomised]) -> _Pair:
    """A pipeline over the net that draws without saying so; its truth where it says so."""
    return _Pair(
        lambda ground: Undeclared(pipeline(ground.net)).eval(),
        lambda ground: pipeline(ground.net).eval(),
        DECLARED,
        OVER_DRAWS,
    )


def _shifted(ground: Ground) -> nn.Module:
    return Keyed(BehindDraws(Shifted(max(1, ground.x.shape[2] // 10)), ground.net)).eval()


def _decoyed(ground: Ground) -> nn.Module:
    return DecoyInLoop(ground.net, ground.workshop.net()).eval()


def _remembering(ground: Ground) -> nn.Module:
    return Remembering(ground.net, 2 * ground.eps).eval()


def _tabled(share: float) -> Make:
    """The evaluated images in a table, with a share of eps around them."""
    return lambda ground: Table(ground.net, ground.x, ground.y, share * ground.eps).eval()


def _distilled(temperature: float) -> _Pair:
    """A student at a temperature; the net is its teacher, as if trained at that temperature."""

    def student(ground: Ground) -> nn.Module:
        shop = ground.workshop
        teacher = Scaled(ground.net, temperature).eval()
        identity = {"teacher": checkpoint.digest(ground.net.state_dict()), "at": temperature}
        shorter = shop.of(replace(shop.model, epochs=ground.epochs))
        return shorter.fit(Distilled(temperature, teacher), {"selftest": identity})

    return _Pair(student, lambda ground: Cooled(student(ground), temperature).eval(), GRADIENT)


def _honest(
    name: str, about: str, defense: str, model: str = "cnn_small", strong: str = STRONG
) -> Plant:
    """A pipeline as `bench run` evaluates it; its truth is its own worst case."""

    def spec(ground: Ground) -> Spec:
        return Spec(model.format(epochs=ground.epochs), defense)

    return Plant(name, "", about, spec, spec, ITSELF, strong, is_honest=True)


def _plants(name: str, *variants: tuple[str, str, _Pair]) -> list[Plant]:
    """The variants of a plant; the last is held out."""
    last = len(variants) - 1
    return [
        Plant(name, variant, fakes, *pair, held_out=place == last)
        for place, (variant, fakes, pair) in enumerate(variants)
    ]


PLANTS: tuple[Plant, ...] = (
    *_plants(
        "scaled logits",
        ("x 100", "logits times 100: the softmax saturates", _over(lambda n: Scaled(n, 1e2))),
        ("x 10,000", "logits times 10,000", _over(lambda n: Scaled(n, 1e4))),
    ),
    *_plants(
        "probabilities",
        (
            "softmax twice",
            "the softmax of probabilities in place of logits",
            _over(lambda n: Probabilities(n, 2)),
        ),
        (
            "softmax after x 20",
            "probabilities of saturated logits",
            _over(lambda n: Probabilities(Scaled(n, 20), 1)),
        ),
    ),
    *_plants(
        "rounding",
        ("8 levels", "images rounded to 8 levels, zero gradient", _front(Rounded(8))),
        (
            "stairs",
            "activations rounded to multiples of 1/4, zero gradient",
            _inside(Stairs(0.25), Ramp(0.25)),
        ),
    ),
    *_plants(
        "flipped gradient",
        ("all", "the gradient negated", _over(lambda n: Misled(n, negated))),
        (
            "half",
            "half of the gradient's components negated, each scaled by 0.1 to 10",
            _over(lambda n: Misled(n, half_negated)),
        ),
    ),
    *_plants(
        "shattered gradient",
        (
            "ripples",
            "steep ripples of height 0.001 on the image",
            _front(Ripples(height=1e-3, slope=100)),
        ),
        (
            "noise",
            "noise ten times the gradient's size on it, another at every point",
            _over(lambda n: Misled(n, drowned)),
        ),
    ),
    *_plants(
        "random resize",
        (
            "resize",
            "the image shrunk and placed at random, undeclared",
            _undeclared(lambda n: BehindDraws(Shrunk(0.85), n)),
        ),
        (
            "shift by the image's bits",
            "the image shifted at random, the same way each time it is asked about",
            _Pair(_shifted, _shifted, ITSELF),
        ),
    ),
    *_plants(
        "dropout left on",
        (
            "0.5 before the last layer",
            "half of the last layer's inputs dropped, undeclared",
            _undeclared(lambda n: LeftOn(n, 0.5)),
        ),
        (
            "0.1 of the image",
            "a tenth of the image's components dropped, undeclared",
            _undeclared(lambda n: BehindDraws(Riddled(0.1), n)),
        ),
    ),
    *_plants(
        "k winners take all",
        (
            "0.2",
            "a fifth of each layer's activations pass, with jumps",
            _inside(Winners(0.2), Smoothed(0.2)),
        ),
        ("0.3", "three tenths of them pass", _inside(Winners(0.3), Smoothed(0.3))),
        # Held out since a check was settled on the one before.
        ("0.25", "a quarter of them pass", _inside(Winners(0.25), Smoothed(0.25))),
    ),
    *_plants(
        "knows the loop",
        (
            "by gradients",
            "an untrained net answers wherever a gradient may be asked for",
            _Pair(_decoyed, _net, KEPT),
        ),
        (
            "by queries",
            "an image near an earlier query is answered as that one",
            _Pair(_remembering, _net, ONCE),
        ),
    ),
    *_plants(
        "lookup table",
        (
            "exact",
            "the evaluated images themselves are answered from a table",
            _Pair(_tabled(0), _net, ELSEWHERE),
        ),
        (
            "within eps / 4",
            "images within eps / 4 of them are, too",
            _Pair(_tabled(0.25), _net, ELSEWHERE),
        ),
    ),
    *_plants(
        "distillation",
        ("T = 100", "trained at temperature 100, deployed at 1", _distilled(100)),
        ("T = 30", "the same at temperature 30", _distilled(30)),
    ),
    *_plants(
        "thresholding",
        ("zero gradient", "images of 0 and 1, zero gradient", _front(Cliff(torch.inf))),
        (
            "steep sigmoid",
            "a sigmoid so steep that its derivative is 0 in float32",
            _front(Cliff(1e3)),
        ),
    ),
    _honest("standard", "trained on clean images", "none"),
    _honest(
        "adversarially trained", "trained on PGD's images", "madry", "cnn_small:epochs={epochs}"
    ),
    _honest(
        "smoothed",
        "32 votes on noisy copies, declared random",
        "smoothing:samples=32",
        strong=OVER_DRAWS,
    ),
    _honest("softmax regression", "a linear model trained on clean images", "none", "logreg"),
)
