"""The verdict on an adversarial image: an independent check of ball and box, and the deployed
pipeline's own word.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import norms
from attacks.draws import Draws
from attacks.oracles import ModelError, Predict
from attacks.pipelines import evaluation_draws, is_random, merged, refuses, said
from attacks.rows import rows_of
from attacks.work import Judge, Samples, Setting


def predictions(
    predict: Predict,
    x: Tensor,
    shape: int,
    *,
    classes: int | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """Logits (N, K) float32 of images x (N, ...), always `shape` rows at a time, the last call
    padded; a column more from a pipeline that refuses. draws: of the N samples, for one that draws.

    Raises ModelError for output that is not (rows, K), is not finite, or (with classes) has another
    K.
    """
    columns = None if classes is None else classes + refuses(predict)
    parts: list[Tensor] = []
    with torch.no_grad():
        for first in range(0, len(x), shape):
            rows = x[first : first + shape]
            logits = said(predict, padded(rows, shape), _of_rows(draws, first, shape))
            _check_shape(logits, shape, columns)
            parts.append(logits[: len(rows)].float())
    joined = torch.cat(parts) if parts else torch.zeros(0, columns or 0, device=x.device)
    wrong = int((~joined.isfinite().all(1)).sum())
    if wrong:
        raise ModelError(
            f"the model returned NaN or infinite logits for {wrong} of {len(x)} images"
        )
    return joined


def _of_rows(draws: Draws | None, first: int, shape: int) -> Draws | None:
    """The draws of the rows of one call."""
    part: Draws | None = rows_of(draws, lambda t, _: padded(t[first : first + shape], shape))
    return part


def _check_shape(logits: object, rows: int, classes: int | None) -> None:
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != rows:
        got, hint = type(logits).__name__, ""
        if isinstance(logits, Tensor):
            got = str(tuple(logits.shape))
            if logits.shape == (rows,) and not logits.is_floating_point():
                hint = "; wrap a model that tells only classes in attacks.OnlyLabels"
        raise ModelError(
            f"the model must return logits (N, K) for N = {rows} images, got {got}{hint}"
        )
    if classes is not None and logits.shape[1] != classes:
        raise ModelError(f"the model must return {classes} logits per image, got {logits.shape[1]}")


def padded(rows: Tensor, shape: int) -> Tensor:
    """The rows (n, ...), n <= shape, followed by repeats of the last up to `shape` rows."""
    if len(rows) == shape:
        return rows
    return torch.cat([rows, rows[-1:].expand(shape - len(rows), *rows.shape[1:])])


def look_like_probabilities(logits: Tensor) -> bool:
    """Whether every row is non-negative and sums to 1 within 1e-5 (the bounds of AutoAttack's
    checks).
    """
    if not len(logits) or logits.shape[1] < 2:
        return False
    low, high = logits.min() > -1e-5, logits.max() < 1 + 1e-5
    return bool(low & high & ((logits.sum(1) - 1).abs() < 1e-5).all())


def reached(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """Whether (N,) the prediction is the adversary's: the target where there is one, else any wrong
    class.
    """
    prediction = logits.argmax(1)
    return prediction != y if targets is None else prediction == targets


def score(
    logits: Tensor,
    x_adv: Tensor,
    x: Tensor,
    y: Tensor,
    radius: Tensor,
    norm: str,
    targets: Tensor | None = None,
) -> Tensor:
    """Successes (N,) bool: logits (N, K) of x_adv are what the adversary wants, and x_adv is inside
    ball and box.
    """
    return reached(logits, y, targets) & norms.inside(x_adv, x, radius, norm)


def judge_of(predict: Predict, samples: Samples, setting: Setting) -> Judge:
    """The judge that asks the deployed pipeline and checks ball and box, `shape` rows at a time,
    once per evaluation draw.
    """

    def judge(points: Tensor, index: NDArray[np.int64], radius: Tensor) -> NDArray[np.bool_]:
        rows = torch.from_numpy(index).to(points.device)
        x, y, ids = samples.x[rows], samples.y[rows], samples.ids[rows]
        targets = None if samples.targets is None else samples.targets[rows]
        columns = []
        for number in range(setting.draws):
            draws = evaluation_draws(ids, number) if is_random(predict) else None
            logits = predictions(
                predict, points, setting.shape, classes=setting.classes, draws=draws
            )
            logits = merged(logits, y, setting.classes)
            columns.append(score(logits, points, x, y, radius, setting.norm, targets))
        verdict: NDArray[np.bool_] = torch.stack(columns, 1).cpu().numpy()
        return verdict

    return judge
