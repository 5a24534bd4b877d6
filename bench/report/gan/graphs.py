"""The panels of a generator's page that show numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.report.figures import PALETTE, wrapped
from bench.report.gan.pictures import filled
from bench.report.gan.portrait import History, Log, Portrait, Source, Stacked, Truncated
from models.coverage import COLLAPSE, DROPPING, ROTATING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

SLOPES = {"slope_saturating": "saturating", "slope_nonsaturating": "non-saturating"}
"""Columns of the log with norms of the generator's gradient, and the costs' names."""
_DECADES = 3
"""Range of a logarithmic axis from which powers of ten are ticks enough."""
_SMALL = 7.0
_LETTERS = 46
"""Of a line of a legend."""
_SHADES: Mapping[str, str] = {
    COLLAPSE: PALETTE[1],
    DROPPING: PALETTE[5],
    ROTATING: PALETTE[3],
}


def games(panel: SubFigure, log: Log, of: str = "generator") -> None:
    """Mean scores of real and made images above, losses below, per log entry; of: what learns."""
    upper, lower = panel.subplots(2, 1, sharex=True)
    pairs = (
        (upper, 0, "mean score", {"d_real": "D(real)", "d_fake": "D(fake)"}),
        (lower, 2, "mean loss", {"loss_d": "of D", "loss_g": "of G"}),
    )
    for axes, first, title, pair in pairs:
        for place, (name, label) in enumerate(pair.items(), start=first):
            _line(axes, log, name, label, PALETTE[place])
        axes.set_ylabel(title)
        axes.legend(loc="best", ncols=2)
    lower.set_xlabel(f"update of the {of}")


def slopes(panel: SubFigure, log: Log, of: str = "generator") -> None:
    """Norms of the gradient of what learns under both costs, whichever of them trains it."""
    from matplotlib.ticker import LogLocator

    axes = panel.add_subplot()
    for place, (name, label) in enumerate(SLOPES.items()):
        _line(axes, log, name, label, PALETTE[place])
    axes.set_yscale("log")
    low, high = (math.log10(edge) for edge in axes.get_ylim())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < _DECADES else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_ylabel(f"norm of the {of}'s gradient")
    axes.set_xlabel(f"update of the {of}")
    axes.legend(loc="best", title="cost")


def coverage(panel: SubFigure, history: History) -> None:
    """Classes found above; below, the dominant class's share and the distance to the prior."""
    from matplotlib.ticker import MaxNLocator

    upper, lower = panel.subplots(2, 1, sharex=True)
    updates, looks = history.updates, [look.seen for look in history.looks]
    classes = len(history.looks[0].counts)
    # A single look is a stretch too.
    half = updates[-1] / len(updates) / 2
    upper.plot(updates, [look.modes for look in looks], color=PALETTE[0], marker=".")
    expected = looks[0].expected
    if round(expected) < classes:
        label = f"expected of the class prior: {expected:,.0f}"
        upper.axhline(expected, color=PALETTE[1], linestyle="--", label=label)
        upper.legend(loc="best")
    upper.set_ylim(0, 1.08 * min(classes, max(expected, *(look.modes for look in looks))))
    upper.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    upper.set_ylabel(f"classes of {classes:,}")
    lower.plot(
        updates,
        [look.share for look in looks],
        color=PALETTE[1],
        marker=".",
        label="dominant share",
    )
    lower.plot(
        updates,
        [look.divergence for look in looks],
        color=PALETTE[2],
        marker=".",
        label="KL to the class prior",
    )
    lower.set_ylim(bottom=0)
    lower.set_ylabel("share; KL (nats)")
    lower.legend(loc="best")
    for axes in (upper, lower):
        axes.grid(visible=True)
        for each in history.findings:
            for first, last in each.spans:
                ends = first - half, last + half
                axes.axvspan(*ends, color=_SHADES[each.name], alpha=0.18, linewidth=0)
    said = [f"{each.name}: {each.text}" for each in history.findings]
    said = said or ["no collapse, dropping or rotating collapse"]
    texts = [f"update of the generator; {looks[0].samples} samples each", *said]
    lower.set_xlabel(filled(*texts), fontsize=_SMALL)


def classes(panel: SubFigure, portrait: Portrait) -> None:
    """The share of each class among samples, beside that among training images."""
    axes = panel.add_subplot()
    places = np.arange(len(portrait.final.counts))
    for offset, counts, colour, label in (
        (-0.2, portrait.final.counts, PALETTE[0], portrait.sampled),
        (0.2, portrait.real, PALETTE[5], "training images"),
    ):
        shares = 100 * np.asarray(counts) / sum(counts)
        axes.bar(places + offset, shares, 0.4, color=colour, label=f"{sum(counts):,} {label}")
    # The legend stands above the bars.
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    axes.set_xticks(places)
    axes.set_xlabel("class, as the classifier sees it")
    axes.set_ylabel("share (%)")
    axes.grid(visible=True, axis="y")
    axes.legend(loc="upper left")


def truncation(panel: SubFigure, levels: Sequence[Truncated]) -> None:
    """Precision against recall, a line per kind of truncation, levels in the legend."""
    axes = panel.add_subplot()
    kinds = dict.fromkeys(each.kind for each in levels)
    for place, kind in enumerate(kinds):
        mine = [each for each in levels if each.kind == kind]
        recall, precision = [each.recall for each in mine], [each.precision for each in mine]
        style = ("-", "--", ":")[place % 3]
        colour, marker = PALETTE[place], ("o", "s", "^")[place % 3]
        # Levels beside the points would fall on each other; the legend has them, from the right.
        label = f"{kind} = {', '.join(f'{each.level:.3g}' for each in mine)}"
        axes.plot(recall, precision, color=colour, linestyle=style, marker=marker, label=label)
    axes.set_xlim(_around([each.recall for each in levels]))
    axes.set_ylim(_around([each.precision for each in levels]))
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.grid(visible=True)
    axes.legend(loc="best")


def membership(panel: SubFigure, sources: Sequence[Source]) -> None:
    """ROC curves of own samples against each source."""
    axes = panel.add_subplot()
    axes.plot([0, 100], [0, 100], color="#666666", linewidth=0.6)
    for place, source in enumerate(sources):
        false, true = zip(*source.roc, strict=True)
        axes.plot(
            [100 * rate for rate in false],
            [100 * rate for rate in true],
            color=PALETTE[place % len(PALETTE)],
            linestyle=("-", "--", ":", "-.")[place % 4],
            linewidth=2.0,
            label=wrapped(f"{source.name}, AUC {source.auc:.3f}", _LETTERS),
        )
    axes.set_xlabel("others taken for own samples (%)")
    axes.set_ylabel("own samples recognised (%)")
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.grid(visible=True)
    axes.legend(loc="lower right", fontsize=_SMALL, frameon=True, framealpha=0.8)


def stacked(panel: SubFigure, triples: Stacked) -> None:
    """How often each triple was made, the most frequent first, beside the even share."""
    axes = panel.add_subplot()
    counts = np.sort(triples.counts)[::-1]
    total = int(counts.sum())
    axes.step(range(1, len(counts) + 1), counts, color=PALETTE[0], where="mid", label="samples")
    axes.axhline(total / len(counts), color=PALETTE[1], linestyle="--", label="even share")
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(bottom=0)
    said = (
        f"{triples.found:,} of {len(counts):,} triples in {total:,} samples, KL to the uniform "
        f"{triples.kl:.3f} nats"
    )
    axes.set_xlabel(filled("triple, by rank", said), fontsize=_SMALL)
    axes.set_ylabel("samples")
    axes.grid(visible=True)
    axes.legend(loc="best")


def _around(shares: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that holds them all, also where they are one."""
    least, most = min(shares), max(shares)
    margin = max(0.02, 0.1 * (most - least))
    return least - margin, most + margin


def has(log: Log, names: Sequence[str]) -> bool:
    """Whether any entry holds one of these."""
    return any(entry.get(name) is not None for entry in log for name in names)


def _line(axes: Axes, log: Log, name: str, label: str, colour: str) -> None:
    values = [np.nan if entry.get(name) is None else entry[name] for entry in log]
    axes.plot([entry["update"] for entry in log], values, color=colour, marker=".", label=label)
    axes.grid(visible=True)
