"""What `bench gan` does for a pair of translators: trained or loaded, compared with the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.devices import numerics, threads
from bench.errors import RequestError, StoreError
from bench.features import Bench
from bench.report.gan.portrait import Measure
from bench.report.translation import AGAIN, BACK, THERE, Moments, Portrait
from bench.runner import provenance
from bench.spec import Request, valid
from models import checkpoint
from models.cyclegan import CycleGan
from models.gan import Album
from models.registry import generators
from models.studio import Prepared
from models.translation import SHOWN, Pair, distance

_ROWS = 512
_LEVELS = 255


@dataclass(frozen=True)
class Made:
    """A pair, what is told of it, and the facts that its file carries."""

    ready: Prepared[Pair]
    portrait: Portrait
    facts: dict[str, Any]


def is_asked(text: str) -> bool:
    """Whether a spec names a pair of translators."""
    return valid(generators.load, generators.check(text).name) is CycleGan


def look(request: Request, text: str, say: Callable[[str], None], *, retrain: bool) -> Made:
    """Trains or loads the pair that a spec names and measures it on the request's test images;
    refuses what cannot be carried out before any work.
    """
    bench = Bench.of(request, say)
    recipe: CycleGan = valid(CycleGan.from_spec, text)
    if retrain and (recipe.is_given or recipe.is_untrained):
        raise RequestError(f"--retrain trains, and {recipe.to_spec()} is not trained")
    workshop, dataset = bench.workshop(request.models[0]), bench.dataset
    valid(lambda _: recipe.build(dataset.shape), "")
    valid(lambda _: workshop.net(), "")
    index = torch.from_numpy(dataset.subset(request.n))
    x = dataset.test.images(index, bench.device)
    y = dataset.test.y[index].to(bench.device)
    studio = workshop.studio()
    with numerics(threads()):
        if retrain:
            studio.forget(recipe)
        ready = replace(studio, has_pretrained=not retrain).ready(recipe)
        net = workshop.undefended()
        looks = _looks(ready.generator, recipe, x)
    portrait = Portrait(
        dataset=dataset.name,
        generator=recipe.to_spec(),
        source=ready.source,
        to=recipe.to,
        weights=ready.digest,
        log=tuple(ready.log),
        measures=(
            *_errors(looks, f"{len(x):,} test images"),
            *_classes(net, looks, y, f"{len(x):,} test images, seen by {workshop.model.to_spec()}"),
            *_size(ready),
        ),
        moments=_moments(ready.album, recipe) if ready.album else None,
        shown={name: images[:SHOWN].cpu().numpy() for name, images in looks.items()},
        command=provenance(str(bench.device))["command"],
    )
    made_of = recipe.made_of(dataset.shape, dataset.fingerprint)
    return Made(ready, portrait, {"log": ready.log, "made_of": made_of, "spec": recipe.to_spec()})


_A, _B, _ROUND = "A", "truth in B", "B to A to B"


def _looks(pair: Pair, recipe: CycleGan, x: Tensor) -> dict[str, Tensor]:
    """Test images (n, C, H, W) in both domains, and each way through the pair."""
    truth = recipe.truth(x)
    ways: Mapping[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        THERE: (pair.there, x),
        AGAIN: (pair.again, x),
        BACK: (pair.back, truth),
        _ROUND: (lambda y: pair.there(pair.back(y)), truth),
    }
    with torch.no_grad():
        made = {
            name: torch.cat([way(rows) for rows in torch.split(images, _ROWS)])
            for name, (way, images) in ways.items()
        }
    return {_A: x, _B: truth, **made}


def _errors(looks: Mapping[str, Tensor], of: str) -> list[Measure]:
    compared = {
        f"error, {THERE}": (THERE, _B),
        f"error, {BACK}": (BACK, _A),
        "error, untranslated": (_A, _B),
        f"cycle error, {AGAIN}": (AGAIN, _A),
        f"cycle error, {_ROUND}": (_ROUND, _B),
    }
    return [
        Measure(name, float(distance(looks[one], looks[other])), of)
        for name, (one, other) in compared.items()
    ]


def _classes(net: nn.Module, looks: Mapping[str, Tensor], y: Tensor, of: str) -> list[Measure]:
    """How often the classifier sees the same class after a way as before it, and the right one."""
    with torch.no_grad():
        seen = {
            name: torch.cat([net(rows).argmax(1) for rows in torch.split(looks[name], _ROWS)])
            for name in (_A, _B, AGAIN, BACK)
        }
    return [
        *(
            Measure(f"class kept, {way}", float((seen[way] == seen[start]).float().mean()), of)
            for way, start in ((AGAIN, _A), (BACK, _B))
        ),
        *(
            Measure(f"accuracy, {name}", float((seen[name] == y).float().mean()), of)
            for name in seen
        ),
    ]


def _size(ready: Prepared[Pair]) -> list[Measure]:
    parameters = sum(p.numel() for p in ready.generator.parameters())
    made = [Measure("parameters", parameters, "both translators")]
    if ready.log:
        made += [
            Measure("updates", ready.log[-1]["update"], "training"),
            Measure("training time (s)", ready.seconds, "training"),
        ]
    return made


def _moments(album: Album, recipe: CycleGan) -> Moments:
    """The album's pages as what they show: A, in B, back in A."""
    updates = sorted(album)
    pages = torch.stack([album[update] for update in updates]).float() / _LEVELS
    images, there, again = torch.chunk(pages, 3, dim=1)
    images, truth = images[0], recipe.truth(images[0])
    return Moments(
        updates,
        images.numpy(),
        truth.numpy(),
        there.numpy(),
        again.numpy(),
        [float(distance(made, truth)) for made in there],
        [float(distance(made, images)) for made in again],
    )


def write(path: Path, made: Made) -> Path:
    """The pair as a file, with the facts that models.studio.pretrained looks for."""
    try:
        checkpoint.write(path, made.ready.generator.state_dict(), made.facts)
    except OSError as err:
        raise StoreError(f"{path} cannot be written ({err.strerror})") from err
    return path
