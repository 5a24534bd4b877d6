"""The one way to run attacks: `sweep` over samples and radii, whatever their kind; `craft` runs a
whole batch in step, as training needs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attacks.base import Attack, BlockAttack, Ensemble, ForeignAttack, StepAttack, Task
from attacks.blocks import crafted
from attacks.oracles import DIFFERENTIATING, ORACLES, Answer, ModelError, Predict
from attacks.precision import Reduced, bears_rounding
from attacks.stream import Stream
from attacks.work import Judge, Samples, Setting, Settled

REVISION = 2
"""Raised when a change of the loop changes outcomes."""
CRAFTING = 1
"""Raised when a change of `craft` changes what is trained on its points."""


def sweep(
    attack: Attack, model: Predict, judge: Judge, samples: Samples, setting: Setting
) -> Iterator[Settled]:
    """Runs an attack over every sample and rung; yields each sample once, when it is settled.

    model answers the attack's queries. A sample's result depends on its image, label, radii and the
    setting's seed and shape alone (of a foreign attack on those of its group). Raises ModelError
    when the model returns something that is not finite.
    """
    attack.check(setting.norm, setting.classes, targeted=samples.targets is not None)
    # Of an ensemble the stages are told apart, when they come here.
    if isinstance(model, Reduced) and not bears_rounding(attack):
        model = model.model
    match attack:
        case Ensemble():
            yield from _staged(attack, model, judge, samples, setting)
        case BlockAttack() | ForeignAttack():
            yield from crafted(attack, model, judge, samples, setting)
        case StepAttack():
            yield from Stream(attack, model, judge, samples, setting).run()
        case _:
            raise TypeError(f"{attack.to_spec()} is none of the kinds of attack the loop runs")


_TOGETHER = 1024
"""Samples that pass through all stages of an ensemble before the next ones start."""
_APART = 2**32
"""Between the seeds of two stages, so that they do not start from the same points."""


def _staged(
    attack: Ensemble, model: Predict, judge: Judge, samples: Samples, setting: Setting
) -> Iterator[Settled]:
    """Each stage on the samples and rungs that still stand after the one before. Samples whose
    logits are no numbers are told at the end, when the others are settled.
    """
    stages = attack.stages(setting.norm, setting.classes)
    failures: list[ModelError] = []
    for rows in samples.parts(_TOGETHER):
        still = np.ones((len(rows), samples.rungs), dtype=np.bool_)
        if samples.open is not None:
            still &= samples.open[rows]
        tallies = [samples.tally(int(row), setting.draws) for row in rows]
        for number, stage in enumerate(stages):
            own = dataclasses.replace(setting, seed=setting.seed + number * _APART)
            standing = np.flatnonzero(still.any(1))
            part = samples.take(
                rows[standing],
                still[standing],
                spent=np.array([tallies[place].spent for place in standing], np.int64),
                made=np.array([tallies[place].forward for place in standing], np.int64),
            )
            lost = set(standing.tolist())
            try:
                for settled in sweep(stage, model, _of_part(judge, rows[standing]), part, own):
                    place = int(standing[settled.sample])
                    lost.discard(place)
                    tallies[place].add(settled)
                    still[place] &= ~tallies[place].fooled
                    # Nothing more to ask, now or after the last stage: the sample is settled.
                    if not still[place].any() or number + 1 == len(stages):
                        row = int(rows[place])
                        yield tallies[place].settled(row, samples.x[row])
            except ModelError as err:
                failures.append(err)
                still[sorted(lost)] = False
    if failures:
        raise failures[0]


def _of_part(judge: Judge, rows: NDArray[np.int64]) -> Judge:
    """The judge for a part of its samples."""
    return lambda points, index, radius: judge(points, rows[index], radius)


Watch = Callable[[Tensor, Tensor], bool]
"""Points (N, ...) and their logits (N, K) -> whether to stop."""


def craft(
    recipe: StepAttack, predict: Predict, task: Task, *, steps: int, watch: Watch | None = None
) -> Tensor:
    """The points (N, ...) an attack stands at after `steps` queries of a whole batch: nothing is
    judged, and nothing stops early unless `watch` says so. For the inner maximisation of training;
    the caller holds the model as it wants it.
    """
    oracle = ORACLES[recipe.access](predict)
    state = recipe.start(task)
    for _ in range(steps):
        query = recipe.ask(state)
        answer = oracle(
            query.points[:, 0],
            query.aim,
            differentiate=recipe.access in DIFFERENTIATING,
            classes=query.classes,
        )
        if watch is not None and watch(query.points[:, 0], answer.logits):
            break
        logits, value = answer.logits[:, None], answer.value[:, None]
        state = recipe.tell(state, Answer(logits, value, answer.gradient))
    return recipe.ask(state).points[:, 0].detach()
