"""How well a detector tells adversarial images from clean ones, and what comes past it: facts of a
cell, from scores.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import Attack
from attacks.draws import Draws, sample_ids
from attacks.oracles import Predict, frozen
from attacks.pipelines import evaluation_draws, is_random, refuses
from attacks.transfer import points_on
from attacks.verify import predictions
from attacks.work import Setting
from defenses.base import Defended
from defenses.detector import allowed, threshold

MOST = 500
"""Images at most that facts are measured on."""
RATES = (0.01, 0.05)
"""False-positive rates at which the true-positive rate is reported."""


def counts(clean: Tensor, adversarial: Tensor) -> list[list[int]]:
    """The ROC curve in whole images: how many of the clean (N,) and of the adversarial (M,) scores
    lie above each threshold, from none to all; points on a straight line between others are left
    out.
    """
    scores = torch.cat([clean, adversarial])
    order = scores.argsort(descending=True, stable=True)
    is_clean = (order < len(clean)).long()
    last = torch.ones_like(is_clean, dtype=torch.bool)
    last[:-1] = scores[order].diff() != 0  # equal scores are passed together
    alarms, hits = is_clean.cumsum(0)[last].tolist(), (1 - is_clean).cumsum(0)[last].tolist()
    corners: list[list[int]] = []
    for point in ([0, 0], *map(list, zip(alarms, hits, strict=True))):
        while len(corners) > 1 and _straight(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    return corners


def _straight(one: list[int], two: list[int], three: list[int]) -> bool:
    """Whether the second point lies on the line from the first to the third."""
    return (two[0] - one[0]) * (three[1] - one[1]) == (two[1] - one[1]) * (three[0] - one[0])


def area(roc: list[list[int]]) -> float | None:
    """The area under such a curve: the probability that an adversarial image scores above a clean
    one, ties counting half (Mann and Whitney); None without images of both kinds.
    """
    clean, adversarial = roc[-1]
    if not clean or not adversarial:
        return None
    double = sum((b[0] - a[0]) * (a[1] + b[1]) for a, b in itertools.pairwise(roc))
    return double / (2 * clean * adversarial)


def detected(clean: Tensor, adversarial: Tensor, fpr: float) -> float | None:
    """The share of adversarial scores (M,) above the threshold that lets through all but a share
    fpr of the clean ones (N,); None without adversarial images, or where N < 1 / fpr.
    """
    if not len(adversarial) or allowed(len(clean), fpr) < 1:
        return None
    return _share(adversarial > threshold(clean, fpr))


def _share(those: Tensor) -> float:
    return int(those.sum()) / len(those)


def facts(
    defended: Defended,
    attack: Attack,
    source: Predict,
    x: Tensor,
    y: Tensor,
    eps: float,
    setting: Setting,
) -> dict[str, Any]:
    """What a detector makes of the first images x (N, ...), at most 500, with labels y (N,), and of
    those that an attack makes of them at eps on a source: the classifier inside (the adversary is
    oblivious) or the surrogate (adaptive).

    images: how many; clean_refused: the share of the clean ones that are refused; fooling: the
    adversarial images, which the classifier misclassifies though it is right on the clean one,
    whether or not they are refused; the others are no positives. refused: the share of the
    adversarial images that are refused at the threshold deployed; passed: the share of all images
    of which the attack's is misclassified and accepted. roc (see `counts`), auc and tpr: of the
    scores of adversarial images against all clean ones; fpr: the rate the threshold was set at,
    none where the pipeline does not say; seen: the detector was trained with this very attack, made
    on the classifier as here.
    """
    if defended.score is None or not refuses(defended.predict):
        raise ValueError("detection is measured of a pipeline that has a score and refuses")
    x, y = x[:MOST], y[:MOST]
    setting = replace(setting, budget=None)
    with frozen(source), frozen(defended.predict), frozen(defended.score):
        moved = points_on(attack, source, x, y, eps, setting)
        said, clean = _asked(defended, x, setting)
        said_moved, scores = _asked(defended, moved, setting)
    was_right = said[:, :-1].argmax(1) == y
    wrong = said_moved[:, :-1].argmax(1) != y
    accepted = said_moved.argmax(1) != setting.classes
    fooling = was_right & wrong
    roc = counts(clean, scores[fooling])
    trained_on = getattr(defended.predict, "trained_on", None)
    return {
        "eps": eps,
        "images": len(x),
        "seen": source is defended.inside and attack.to_spec() == trained_on,
        "trained_on": trained_on,
        "fpr": getattr(defended.predict, "fpr", None),
        "clean_refused": _share(said.argmax(1) == setting.classes),
        "fooling": int(fooling.sum()),
        "refused": _share(~accepted[fooling]) if bool(fooling.any()) else None,
        "passed": _share(wrong & accepted),
        "auc": area(roc),
        "tpr": {str(rate): detected(clean, scores[fooling], rate) for rate in RATES},
        "roc": roc,
    }


def _asked(defended: Defended, x: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """Columns (N, K + 1) and scores (N,) of images."""
    score: Any = defended.score
    draws = evaluation_draws(sample_ids(x).to(x.device), 0) if is_random(defended.predict) else None
    said = predictions(defended.predict, x, setting.shape, classes=setting.classes, draws=draws)
    column = predictions(_Column(score), x, setting.shape, draws=draws)
    return said, column[:, 0]


class _Column(nn.Module):
    """Scores (N,) as a column (N, 1)."""

    def __init__(self, score: Predict):
        super().__init__()
        self.score = score
        self.is_random = is_random(score)

    def forward(self, x: Tensor, *draws: Draws) -> Tensor:
        """The column, under the draws where the score takes any."""
        return self.score(x, *draws)[:, None]
