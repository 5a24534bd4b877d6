"""What the cells of the attacks on a pipeline show by themselves: a check each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bench.audit.case import Case, Shares, is_gradient
from bench.audit.findings import LONG, SUSPECT, WARN, Finding, counted
from bench.stats import ALPHA, mcnemar
from bench.store import Record


def of_cells(case: Case) -> Iterator[Finding]:
    """What the cells of the attacks show by themselves."""
    yield from _failures(case)
    if case.complete:
        yield from _lost(case)
        yield from _blind(case)
        yield from _monotone(case)


def _failures(case: Case) -> Iterator[Finding]:
    # A failure on fewer samples is history.
    least = max((cell.n for cell in case.complete), default=0)
    failed = [cell for cell in case.cells if cell.failure and cell.n >= least]
    if not failed:
        return
    first = failed[0]
    level = WARN if case.complete else SUSPECT
    why = first.failure if len(first.failure) <= LONG else f"{first.failure[:LONG]}..."
    yield Finding("failed attacks", level, f"{first.attack} failed: {why}")


def _lost(case: Case) -> Iterator[Finding]:
    """Successes that the attack saw and the re-check did not: of attacks on the pipeline itself
    they are lost on the way (silent failures, or images outside the ball or the box), of those on a
    stand-in they do not transfer.
    """
    for check, is_meant, text in (
        ("lost successes", True, "successes seen by the attack are none at the re-check of"),
        ("stand-in", False, "what fools the stand-in does not fool the pipeline at"),
    ):
        cells = [c for c in case.complete if _is_exact(c) == is_meant and "refused" in c.samples]
        if not cells:
            continue
        # What another attack breaks all the same is not lost.
        stands = {
            group[0].samples_digest: np.isinf(np.min([c.samples["min_eps"] for c in group], axis=0))
            for group in _by_samples(case.complete)
        }
        lost = [(c.samples["refused"] > 0) & stands[c.samples_digest] for c in cells]
        worst = max(range(len(cells)), key=lambda place: int(lost[place].sum()))
        finding = counted(check, int(lost[worst].sum()), cells[worst].n, text)
        softened = finding.level == SUSPECT and not is_meant
        yield Finding(check, WARN, finding.text) if softened else finding


def _by_samples(cells: Sequence[Record]) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for cell in cells:
        groups.setdefault(cell.samples_digest, []).append(cell)
    return list(groups.values())


def _is_exact(cell: Record) -> bool:
    """Whether the attack asked the very pipeline that decides, in its precision."""
    drawn = "draws" in cell.samples
    return cell.mode in ("white-box", "black-box") and not drawn and cell.precision == "fp32"


def _blind(case: Case) -> Iterator[Finding]:
    """Whether attacks without gradients beat those with them, on the same images at the eps where
    the pipeline is read.
    """
    eps, newest = case.eps, case.largest[0]
    same = [cell for cell in case.largest if eps in cell.eps]
    seeing = [cell for cell in same if is_gradient(cell)]
    blind = [cell for cell in same if not is_gradient(cell)]
    if not seeing or not blind or eps is None:
        return
    with_gradient, without = (_right(cells, float(eps)) for cells in (seeing, blind))
    more, fewer = int((without < with_gradient).sum()), int((with_gradient < without).sum())
    names = ", ".join(dict.fromkeys(cell.attack for cell in blind))
    text = f"{names} ({blind[0].mode}) breaks what gradient attacks do not at"
    finding = counted("black-box or transfer beats white-box", more, newest.n, text)
    is_ahead = more > fewer and mcnemar(with_gradient, without) < ALPHA
    softened = finding.level == SUSPECT and not is_ahead
    yield Finding(finding.check, WARN, finding.text) if softened else finding


def _right(cells: Sequence[Record], eps: float) -> Shares:
    right = np.array([cell.outcomes > eps for cell in cells])
    return np.asarray(right.all(axis=0).mean(axis=1), np.float64)


def _monotone(case: Case) -> Iterator[Finding]:
    """Whether a larger eps breaks fewer images in an independent sweep."""
    worst, where = 0, None
    for cell in case.complete:
        fooled = cell.samples.get("fooled")
        # A detector may well refuse what moves further.
        if fooled is None or "detection" in cell.provenance:
            continue
        held = [
            int((fooled[:, at].astype(int) > fooled[:, at + 1]).sum())
            - int((fooled[:, at].astype(int) < fooled[:, at + 1]).sum())
            for at in range(fooled.shape[1] - 1)
        ]
        if held and max(held) >= worst:
            worst, where = max(0, *held), cell
    if where is not None:
        text = f"a larger eps breaks fewer images under {where.attack}: by"
        yield counted("monotone in eps", worst, where.n, text)
