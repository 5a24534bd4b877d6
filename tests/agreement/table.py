"""The comparisons as markdown."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from tests.agreement.comparison import NOT_RUN, Comparison, Side
from tests.agreement.notes import NOTES

_PACKAGES = ("torch", "foolbox", "torchattacks", "adv-lib", "adversarial-robustness-toolbox")
_HEADER = (
    *("net", "norm", "eps", "n", "ours", "peer", "by", "ours: figure", "peer: figure"),
    *("only ours", "only peer", "p", "Holm p", "verdict", "forward", "backward", "seconds"),
)


def line(one: Comparison) -> str:
    """A comparison in a line, as it is made."""
    cells = dict(zip(_HEADER, _cells(one), strict=True))
    kept = [cells[name] for name in _HEADER if name not in ("Holm p", "verdict")]
    return " | ".join([*kept, one.note])


def markdown(comparisons: Sequence[Comparison], command: str) -> str:
    """The whole page."""
    shown = [one for one in comparisons if one.note != NOT_RUN]
    rows = [_HEADER, ["---"] * len(_HEADER), *map(_cells, shown)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    weaker = [one for one in comparisons if one.verdict.startswith("**")]
    run = [one for one in comparisons if one.ours is not None]
    left = len(comparisons) - len(run)
    summary = (
        f"{len(run)} of {len(comparisons)} pairs compared{f' ({left} not run)' if left else ''}; "
        f"ours is weaker in {len(weaker)}, "
        f"the peer in {sum(one.verdict == 'peer weaker' for one in run)}."
    )
    made = f"adversarial-bench {version('adversarial-bench')}, {versions()}"
    said = [
        "# Agreement with other libraries",
        _INTRODUCTION,
        f"Made by `{command}` with {made}.",
        summary,
        "\n".join(lines),
        "## Where they differ, and how that was shown",
        "\n".join(f"- {note}" for note in NOTES),
    ]
    return "\n\n".join(said) + "\n"


_INTRODUCTION = """\
The same attack of ours and of another library: same net (cnn_small, trained by the package),
images, norm, radius, start, step size and number of steps, each run on a model that counts and
judged by the same re-check. Figure: robust accuracy in percent over all images, or where both look
for the nearest success its median distance over the images that are right without attack (inf
where half of them have none). only ours, only peer: images that one alone fooled, or fooled nearer
by more than 0.1 %. p: exact McNemar test, for distances Wilcoxon's signed-rank test; adjusted by
Holm over the table. forward, backward: queries per image, ours / peer. weaker: significantly at
5 %, or by more than 1 point. Attacks that draw and are more than 1 point (1 %) apart under one seed
were run with three, and with eight where ours was still that much weaker; pairs of image and seed
are compared."""


def versions() -> str:
    """Of Python, torch and the other libraries, in a line."""
    named = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            named.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            named.append(f"no {package}")
    return ", ".join(named)


def _cells(one: Comparison) -> list[str]:
    pair = one.pair
    many = f"{one.n}" if one.seeds == 1 else f"{one.n} x {one.seeds}"
    first = [pair.net, pair.norm, f"{pair.eps:g}", many, f"`{pair.ours}`"]
    if one.ours is None or one.peer is None:
        return [*first, f"`{pair.peer}`", *[""] * 7, one.verdict, *[""] * 3]
    return [
        *first,
        f"`{pair.peer}`",
        one.by,
        _figure(one.ours, one.by),
        _figure(one.peer, one.by),
        str(one.only_ours),
        str(one.only_peer),
        f"{one.p:.2g}",
        f"{one.adjusted:.2g}",
        one.verdict,
        f"{one.ours.forward:,.1f} / {one.peer.forward:,.1f}",
        f"{one.ours.backward:,.1f} / {one.peer.backward:,.1f}",
        f"{one.ours.seconds:.0f} / {one.peer.seconds:.0f}",
    ]


def _figure(side: Side, by: str) -> str:
    shown = f"{100 * side.figure:.1f}" if by == "accuracy" else f"{side.figure:.4g}"
    return f"{shown} ({side.refused} refused)" if side.refused else shown
