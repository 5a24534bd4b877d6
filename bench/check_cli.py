"""The command `bench check`; torch is imported where times are measured alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import RequestError, StoreError
from bench.features_cli import interruptible

if TYPE_CHECKING:
    from bench.check.baseline import Row, Rows
    from bench.check.compare import Limits, Result

_ROUNDS = 5
_LARGEST = 256 * 2**20


def check(  # noqa: PLR0913  one parameter per flag
    *,
    baseline: Annotated[Path, typer.Option(help="The committed file to compare with.")],
    out: Annotated[Path, typer.Option(help="Folder of the store of the run.")] = Path("results"),
    max_drop: Annotated[
        float, typer.Option(help="Accuracy may fall by this fraction, significant or not.")
    ] = 0.01,
    alpha: Annotated[
        float, typer.Option(help="Level of the paired test, per row over its radii.")
    ] = 0.05,
    max_slowdown: Annotated[
        float | None,
        typer.Option(help="Measure times too (minutes); they may grow by this factor."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="File for JUnit XML.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for JSON.")] = None,
    summary: Annotated[
        Path | None,
        typer.Option(envvar="GITHUB_STEP_SUMMARY", help="File that markdown is appended to."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the results as the baseline instead.")
    ] = False,
) -> None:
    """Compare stored results with a baseline; exit 1 where something got worse.

    A row is worse where accuracy fell by more than --max-drop and significantly (exact McNemar on
    the same samples, Holm over its radii), where queries rose by more than 1 % (at all, where the
    attack never stops early), where it failed or is missing.
    """
    from bench.check.baseline import rows_of
    from bench.check.compare import Limits
    from bench.store import Store

    limits = Limits(max_drop, alpha, max_slowdown)
    with Store.read(out) as store:
        run = rows_of(store.records())
    if update:
        _update(baseline, run, out, timed=max_slowdown is not None)
        return
    result = _compared(baseline, run, limits)
    _write(result, str(baseline), {"junit": junit, "json": json_file, "summary": summary})
    if not result.is_passed:
        raise typer.Exit(1)


def _update(path: Path, run: Rows, out: Path, *, timed: bool) -> None:
    """Writes the baseline; of results with failures none is made."""
    from bench.check.baseline import Baseline, text
    from bench.check.compare import unique

    if run.failed:
        for title, reason in run.failed:
            print(f"failed: {title}: {reason}")
        raise typer.Exit(1)
    if not run.complete:
        raise RequestError(f"no complete attacked cell under {out} (bench run makes them)")
    rows = unique(run.complete)
    ratios = _ratios(rows) if timed else {}
    _place(path, text(Baseline(rows, ratios)))
    print(f"{path}: {len(rows)} rows")


def _compared(path: Path, run: Rows, limits: Limits) -> Result:
    from bench.check.baseline import parse
    from bench.check.compare import compare

    known = parse(_content(path), str(path))
    ratios = None
    if limits.max_slowdown is not None:
        if not known.ratios:
            raise RequestError(f"{path} holds no times: write it with --update --max-slowdown")
        ratios = _ratios(known.rows)
    return compare(known, run, limits, ratios)


def _content(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise RequestError(f"{path} is no baseline: larger than {_LARGEST >> 20} MB")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise RequestError(
            f"--baseline {path} cannot be read ({' '.join(str(err).split())}); --update writes it"
        ) from err


def _ratios(rows: Sequence[Row]) -> dict[str, float]:
    """What the attacks of the rows take over their own passes, measured by turns."""
    with interruptible("nothing is kept"):
        from bench.timings.named import ratios

        return ratios([(row.attack, row.norm) for row in rows], _ROUNDS)


def _write(result: Result, source: str, files: Mapping[str, Path | None]) -> None:
    """Prints the result and puts it into the files asked for."""
    from bench.check import tell

    for line in tell.lines(result, source):
        print(line)
    if (path := files["junit"]) is not None:
        _place(path, tell.junit(result))
    if (path := files["json"]) is not None:
        _place(path, tell.as_json(result, source))
    if (path := files["summary"]) is not None:
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(tell.markdown(result, source))
        except OSError as err:
            raise StoreError(f"{path} cannot be written ({err.strerror})") from err


def _place(path: Path, content: str) -> None:
    from bench.report.write import place

    place(path, content.encode("utf-8"))
