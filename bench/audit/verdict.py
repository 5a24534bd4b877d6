"""The verdict on a pipeline's number, from all stored cells of it. Values in, values out; free of
torch. Thresholds stand with the checks, so that a stored audit is read anew.
"""

from __future__ import annotations

from bench.audit.attacked import of_cells
from bench.audit.case import Case, beside
from bench.audit.findings import LONG, NOT_AUDITED, WARN, Finding, Verdict, rank
from bench.audit.probed import CHECKS, UNDER_A_BUDGET


def verdict(case: Case) -> Verdict:
    """The verdict on a pipeline's number; nothing is said of one that was not audited."""
    if not case.audits:
        return NOT_AUDITED
    found, look = list(of_cells(case)), case.look
    if look is None:
        why = next((f"audit failed: {a.failure[:LONG]}" for a in case.audits if a.failure), "")
        found.append(Finding("audit", WARN, why or "not audited at this eps"))
    elif (seen := beside(look, case.complete)) is None:
        found.append(Finding("audit", WARN, "not audited on these images"))
    else:
        is_held = case.cells[0].query_budget is not None
        checks = UNDER_A_BUDGET if is_held else CHECKS
        found += [finding for check in checks for finding in check(seen)]
    return Verdict(tuple(sorted(found, key=rank)))
