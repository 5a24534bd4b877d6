"""One attack called on tensors: inputs checked, the loop run at one radius per sample."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Attack, at_least
from attacks.draws import sample_ids
from attacks.loop import sweep
from attacks.oracles import ModelError, Predict, frozen
from attacks.pipelines import EOT, evaluation_draws, is_random, merged, refuses
from attacks.sourced import Labels, Sourced, Supplies
from attacks.threat import ThreatModel
from attacks.verify import judge_of, look_like_probabilities, predictions, reached
from attacks.work import Samples, Setting


@dataclass(frozen=True)
class Options:
    """The keywords of Attack.__call__."""

    seed: int = 0
    targets: Tensor | None = None
    shape: int | None = None
    query_budget: int | None = None
    supplies: Supplies | None = None


def attack(
    recipe: Attack, model: Predict, x: Tensor, y: Tensor, threat: ThreatModel, options: Options
) -> Tensor:
    """Adversarial images (N, ...) of one attack at one radius per sample; see Attack.__call__."""
    check_images(x, y)
    x = x.detach().contiguous()
    targets, shape = options.targets, options.shape
    if recipe.needs and options.supplies is None:
        raise ValueError(
            f"{recipe.to_spec()} needs {' and '.join(recipe.needs)}: hand them over as supplies="
        )
    shape = min(128, 1 << max(len(x) - 1, 0).bit_length()) if shape is None else shape
    at_least("shape", shape, 1)
    radius = _radius(threat, len(x)).to(x.device)
    if len(x) == 0:
        return x.clone()
    ids = sample_ids(x).to(x.device)
    with frozen(model):
        draws = evaluation_draws(ids, 0) if is_random(model) else None
        logits = predictions(model, x, shape, draws=draws)
        classes = logits.shape[1] - refuses(model)
        check_answers(logits, y, recipe.access)
        if targets is not None:
            check_labels("targets", targets, len(logits), classes)
            _check_apart(targets, y)
        recipe.check(threat.norm, classes, targeted=targets is not None)
        if options.query_budget is not None:
            recipe.check_budget(options.query_budget, classes)
        right = ~reached(merged(logits, y, classes), y, targets)
        open_ = torch.nonzero(right & (radius > 0))[:, 0]
        x_adv = x.clone()
        samples = Samples(
            x=x[open_],
            y=y[open_],
            ids=ids[open_],
            radii=radius[open_].cpu().double().numpy()[:, None],
            targets=None if targets is None else targets[open_],
        )
        setting = Setting(
            threat.norm,
            classes,
            options.seed,
            shape,
            exact=draws is None,
            budget=options.query_budget,
            eot=EOT,
        )
        judge = judge_of(model, samples, setting)
        eps = float(radius.max())
        with handed(recipe, model, options.supplies, setting, x, eps) as (inner, source, setting):
            for settled in sweep(inner, source, judge, samples, setting):
                x_adv[open_[settled.sample]] = settled.x_adv
    # A minimal attack's nearest success may lie beyond; the best point tried of others is refused
    # outside.
    if recipe.kind != "budget":
        beyond = ~norms.inside(x_adv, x, radius, threat.norm)
        moved = norms.project(x_adv, x, radius, threat.norm)
        x_adv = torch.where(norms.expand(beyond, x), moved, x_adv)
    kept = norms.inside(x_adv, x, radius, threat.norm)
    return torch.where(norms.expand(kept, x), x_adv, x)


@contextlib.contextmanager
def handed(
    recipe: Attack,
    model: Predict,
    supplies: Supplies | None,
    setting: Setting,
    x: Tensor,
    eps: float,
) -> Iterator[tuple[Attack, Predict, Setting]]:
    """What the loop runs, on which model and how: the attack on the model itself, or the inner
    attack on its source, which is held meanwhile.
    """
    if not isinstance(recipe, Sourced) or supplies is None:
        yield recipe, model, setting
        return
    target = Labels(model, setting.shape, setting.classes)
    source = recipe.prepare(target, supplies, setting, x, eps)
    made = supplies.generator
    with frozen(source.model), contextlib.nullcontext() if made is None else frozen(made):
        yield source.attack or recipe.inner, source.model, replace(setting, exact=False)


def _radius(threat: ThreatModel, count: int) -> Tensor:
    """The radius (N,) float32 of each sample."""
    radius = torch.as_tensor(threat.eps, dtype=torch.float32).detach()
    if radius.dim() and radius.shape != (count,):
        raise ValueError(f"eps must be a number or of shape ({count},), got {tuple(radius.shape)}")
    if not bool(((radius >= 0) & radius.isfinite()).all()):
        low, high = float(radius.min()), float(radius.max())
        raise ValueError(f"eps must be finite and at least 0, got {low:g}..{high:g}")
    return radius.expand(count)


def check_images(x: Tensor, y: Tensor) -> None:
    """Refuses images that are not finite floating values in [0, 1], and labels that do not fit
    them.
    """
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point in [0, 1], got {x.dtype}")
    _check_integers("y", y, len(x))
    if len(x) and not bool(((x >= 0) & (x <= 1)).all()):
        low, high = float(x.min()), float(x.max())
        raise ValueError(
            f"x must be in [0, 1] (normalisation belongs inside the model), got [{low:g}, {high:g}]"
        )


def check_answers(logits: Tensor, y: Tensor, access: str) -> None:
    """Refuses labels the model has no class for, and probabilities in place of logits where an
    attack sees more of them than the class.
    """
    check_labels("labels", y, *logits.shape)
    if access == "labels" or not look_like_probabilities(logits):
        return
    if bool(((logits == 0) | (logits == 1)).all()):
        raise ModelError(
            "the model tells only classes, and this attack needs scores: attack its labels alone "
            "(hopskipjump, boundary)"
        )
    raise ModelError(
        "the model returns probabilities; hand over its logits (softmax hides gradients and "
        "scores), or attack its labels alone (hopskipjump, boundary)"
    )


def check_labels(name: str, labels: Tensor, count: int, classes: int) -> None:
    """Refuses labels or targets that are not one class of the model per image."""
    _check_integers(name, labels, count)
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        low, high = int(labels.min()), int(labels.max())
        raise ValueError(f"{name} must be in 0..{classes - 1}, got {low}..{high}")


def _check_apart(targets: Tensor, y: Tensor) -> None:
    same = torch.nonzero(targets == y)[:, 0]
    if len(same):
        first = int(same[0])
        raise ValueError(
            f"targets must differ from the labels, got class {int(y[first])} for both at sample "
            f"{first} ({len(same)} such)"
        )


def _check_integers(name: str, values: Tensor, count: int) -> None:
    if values.shape != (count,) or values.dtype != torch.int64:
        got = f"{values.dtype} {tuple(values.shape)}"
        raise ValueError(f"{name} must be int64 of shape ({count},), got {got}")
