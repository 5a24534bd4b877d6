"""A batch of constant shape: its rows, what the loop keeps of them, and one step of all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks import norms
from attacks.base import StepAttack, Task
from attacks.draws import Draws
from attacks.oracles import DIFFERENTIATING, Answer, Query
from attacks.pipelines import Witness
from attacks.rows import may_hold, pick, rows_of, where
from attacks.verify import padded, reached
from attacks.work import NEVER


@dataclass
class Rows:
    """Per row its attack's state and what the loop itself keeps. All tensors lead with the rows.

    limit (N,): forward queries that the row may make; unsound, unpaid (N,): of a claim, whether its
    gradient was no number, and the backwards it cost, which count if it is refused; radii, first
    (N, R): of a minimal attack, the sample's rungs and the queries made when a success inside each
    was first seen. draws: the rows' own, for a model that draws.
    """

    state: Any
    draws: Draws
    x: Tensor
    y: Tensor
    targets: Tensor | None
    live: Tensor
    fooled: Tensor
    best: Tensor
    kept: Tensor
    forward: Tensor
    backward: Tensor
    limit: Tensor
    radii: Tensor
    first: Tensor
    broken: Tensor
    refused: Tensor
    unsound: Tensor
    unpaid: Tensor


def begun(task: Task, state: Any, limit: Tensor, radii: Tensor) -> Rows:
    """Rows before their first query."""
    count = torch.zeros_like(task.y)
    no = torch.zeros_like(count, dtype=torch.bool)
    return Rows(
        state=state,
        draws=task.draws,
        x=task.x,
        y=task.y,
        targets=task.targets,
        live=~no,
        fooled=no,
        best=torch.full_like(task.radius, -torch.inf),
        kept=task.x.clone(),
        forward=count,
        backward=count.clone(),
        limit=limit,
        radii=radii,
        first=torch.full_like(radii, NEVER, dtype=torch.int64),
        broken=no.clone(),
        refused=no.clone(),
        unsound=no.clone(),
        unpaid=count.clone(),
    )


def resumed(rows: Rows, limit: Tensor) -> Rows:
    """Rows whose claims were refused, with nothing found and nothing counted but the gradients
    there, which were used after all.
    """
    return dataclasses.replace(
        rows,
        live=torch.ones_like(rows.live),
        fooled=torch.zeros_like(rows.fooled),
        best=torch.full_like(rows.best, -torch.inf),
        forward=torch.zeros_like(rows.forward),
        backward=rows.unpaid,
        broken=rows.unsound,
        refused=torch.zeros_like(rows.refused),
        unpaid=torch.zeros_like(rows.unpaid),
        limit=limit,
    )


@dataclass
class Batch:
    """The rows, whom they ask, and how. each: forward queries of one query of the attack; exact: a
    success that the witness sees ends its row; freezes: a row that is fooled stands still, as
    several steps are taken unwatched.
    """

    attack: StepAttack
    witness: Witness
    norm: str
    shape: int
    exact: bool
    freezes: bool
    rows: Rows | None = None

    def __post_init__(self) -> None:
        self.is_minimal = self.attack.kind == "minimal"
        self.each = self.attack.points * self.witness.answers
        self.differentiates = self.attack.access in DIFFERENTIATING

    def put(self, places: list[int], fresh: Rows) -> None:
        """Puts the first rows of `fresh` at these places."""
        if self.rows is None:
            self.rows = rows_of(fresh, lambda t, _: padded(t, self.shape).clone())
            self.rows.live[:] = False
        index = torch.tensor(places, device=fresh.y.device)
        self.rows = rows_of(
            self.rows, lambda t, new: t.index_copy(0, index, new[: len(places)]), fresh
        )

    def step(self) -> None:
        """One query of every row, without asking the host."""
        rows = self.rows
        if rows is None:
            return
        query, sane = self._checked(self.attack.ask(rows.state), rows.x)
        active = rows.live & query.wanted & (~rows.fooled | self.is_minimal)
        active = active & (rows.forward + self.each <= rows.limit)
        answer = self._answer(query, active, rows)
        count = query.points.shape[1]
        targets = None if rows.targets is None else rows.targets.repeat_interleave(count)
        hit = reached(answer.logits.flatten(0, 1), rows.y.repeat_interleave(count), targets)
        offered = active if query.offered is None else active & query.offered
        hit = hit.view(-1, count) & offered[:, None] & sane
        rows.refused |= (active[:, None] & ~sane).any(1)
        if self.is_minimal:
            score = self._nearness(query.points, rows, hit)
            asked = active & query.differentiate
        else:
            hit = hit & self.exact
            # The first point that succeeded, else the one with the highest value.
            score = torch.where(hit, torch.inf, answer.value)
            score = torch.where(offered[:, None] & sane, score, -torch.inf)
            asked = active & query.differentiate & ~hit.any(1)
            claims = active & query.differentiate & hit.any(1)
            rows.unsound = torch.where(claims, ~_finite(answer.gradient), rows.unsound)
            rows.unpaid = torch.where(claims, self._gradients(answer), rows.unpaid)
        rows.broken |= active & ~_finite(answer.logits)
        # The sign of NaN is 0: such a gradient would stand still and pass for robustness.
        rows.broken |= asked & ~_finite(answer.gradient)
        top, place = score.max(1)
        better = offered & (top > rows.best)
        before = rows.fooled
        each = torch.arange(len(place), device=place.device)
        chosen = query.points[:, 0] if count == 1 else query.points[each, place]
        rows.kept = pick(better, chosen, rows.kept)
        rows.best = torch.where(better, top, rows.best)
        rows.fooled = rows.fooled | (rows.best > -torch.inf if self.is_minimal else hit.any(1))
        rows.forward = rows.forward + active * self.each
        if self.is_minimal:
            within = -score.amax(1, keepdim=True) <= rows.radii + norms.TOLERANCE
            new = within & (rows.first == NEVER)
            rows.first = torch.where(new, rows.forward[:, None], rows.first)
        rows.backward = rows.backward + asked * self._gradients(answer)
        told = self.attack.tell(rows.state, answer)
        # The answer to a claim is told, too: the attempt may go on from there.
        still = self.freezes and not self.is_minimal
        rows.state = where(before, rows.state, told) if still else told

    def _gradients(self, answer: Answer) -> int:
        """What an answer's gradient costs in backwards."""
        count = answer.gradient.shape[1] if self.attack.access == "jacobian" else 1
        return count * self.witness.answers

    def over(self) -> Tensor:
        """Whether (N,) each row is live and has ended."""
        rows = self.rows
        if rows is None:
            return torch.zeros(0, dtype=torch.bool)
        spent = rows.forward + self.each > rows.limit
        ended: Tensor = rows.state.done | spent | (rows.fooled & (not self.is_minimal))
        return rows.live & ended

    def _checked(self, query: Query, x: Tensor) -> tuple[Query, Tensor]:
        """The query with the image in place of a point that is not finite; which (N, q) are."""
        points = query.points
        if points.shape[:1] + points.shape[2:] != x.shape or points.dtype != x.dtype:
            raise ValueError(
                f"{self.attack.to_spec()} asked for points of shape {tuple(points.shape)} and type "
                f"{points.dtype}, for images {tuple(x.shape)} of type {x.dtype}"
            )
        sane = _finite(points.flatten(0, 1)).view(points.shape[:2])
        if may_hold(~sane):
            sound = sane.view(*sane.shape, *(1,) * (x.dim() - 1))
            query = dataclasses.replace(query, points=torch.where(sound, points, x[:, None]))
        return query, sane

    def _nearness(self, points: Tensor, rows: Rows, hit: Tensor) -> Tensor:
        """Minus the distance (N, q) of each success in the box; one outside counts as refused."""
        boxed = norms.in_box(points.flatten(0, 1)).view(hit.shape)
        rows.refused |= (hit & ~boxed).any(1)
        delta = (points - rows.x[:, None]).flatten(0, 1)
        distance = norms.size(delta, self.norm).view(hit.shape)
        return torch.where(hit & boxed, -distance, -torch.inf)

    def _answer(self, query: Query, active: Tensor, rows: Rows) -> Answer:
        """The oracle's answer in calls of the constant shape; the gradient is the first point's."""
        differentiate = self.differentiates
        if differentiate and active.device.type == "cpu":
            differentiate = bool((active & query.differentiate).any())
        points = query.points
        said = [
            self.witness.oracle(rows.y, rows.draws, rows.forward, i)(
                points[:, i],
                query.aim,
                differentiate=differentiate and i == 0,
                classes=query.classes,
            )
            for i in range(points.shape[1])
        ]
        if len(said) == 1:
            one = said[0]
            return Answer(one.logits[:, None], one.value[:, None], one.gradient)
        logits = torch.stack([answer.logits for answer in said], 1)
        value = torch.stack([answer.value for answer in said], 1)
        return Answer(logits, value, said[0].gradient)


def _finite(values: Tensor) -> Tensor:
    """Whether (N,) every one of a row's values (N, ...) is: its ends are (NaN is passed on). Ten
    times as fast on a CPU as asking each.
    """
    flat = values.flatten(1)
    ends: Tensor = flat.amin(1).isfinite() & flat.amax(1).isfinite()
    return ends
