"""The `bench` command. Commands import what they need when they run: `--help` and unknown names
answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from bench import (
    __version__,
    check_cli,
    features_cli,
    gan_cli,
    listing_cli,
    selftest_cli,
    time_cli,
    verify_cli,
    worlds_cli,
)
from bench.errors import BenchError, RequestError
from bench.features_cli import INTERRUPTED

if TYPE_CHECKING:
    from bench.resolution import Job
    from bench.spec import Request
    from bench.store import Record, Store

# Threads that spin while they wait make small operations up to 100 times slower on a busy machine;
# threads that sleep at once make them twice as slow on an idle one: spin for some microseconds.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

app = typer.Typer(
    name="bench",
    help="How accurate is a classifier when an attacker may move each input by eps?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(features_cli.app)
app.command()(gan_cli.gan)
app.command()(worlds_cli.worlds)
app.command("list")(listing_cli.list_)
app.command()(listing_cli.show)
app.command()(time_cli.time)
app.command()(check_cli.check)
app.command()(verify_cli.verify)
app.command()(selftest_cli.selftest)

Out = Annotated[
    Path, typer.Option(help="Folder of the store, tables and figures.", show_default=True)
]
Root = Annotated[
    Path | None,
    typer.Option(envvar="BENCH_DATA", help="Folder of mnist, fashion_mnist and cifar10."),
]


def main() -> NoReturn:
    """Runs the command line; a BenchError is one line on standard error and exit code 2."""
    try:
        # Without click's own mode an Exit comes back as its code.
        status = app(standalone_mode=False)
    except BenchError as err:
        _refuse(str(err))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except Exception as err:
        # click's errors of usage: their class is not part of typer's public names.
        if hasattr(err, "format_message"):
            _refuse(err.format_message())
        raise
    sys.exit(status)


def _refuse(text: str) -> NoReturn:
    print(f"bench: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,  # noqa: FBT002
) -> None:
    if version:
        print(f"adversarial-bench {__version__}")
        raise typer.Exit


@app.command()
def run(  # noqa: PLR0913  one parameter per flag
    *,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Dataset spec; repeatable. [default: digits]")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model spec; repeatable. [default: cnn_small]")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Attack spec, or all; repeatable. [default: pgd]")
    ] = None,
    defense: Annotated[
        list[str] | None, typer.Option(help="Defense spec; repeatable, beside the baseline none.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of the attacks; repeatable. [default: 0]")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf, l2, l1 or l0. [default: linf]")] = None,
    eps: Annotated[
        str | None,
        typer.Option(help="Radii, 0:0.4:0.05 or 0,2/255,8/255. [default: the dataset's]"),
    ] = None,
    n: Annotated[
        int | None, typer.Option(help="Test images. [default: min(1000, all); purify: 100]")
    ] = None,
    until_ci: Annotated[
        float | None,
        typer.Option(
            help="Add test images until every robust accuracy is known to within this, such as "
            "0.01 (half the width of its interval), or the test set is used up; begins with n."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:N. [default: auto]")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of the search: fp32, bf16, or auto (bf16 where it pays); judged in fp32. "
            "[default: auto]"
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            help="ladder (up; fooled at eps is fooled above), bisect (the whole curve for little "
            "more than one attack) or independent. [default: ladder]"
        ),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(help="Most images in flight, or auto; moves no outcome. [default: auto]"),
    ] = None,
    query_budget: Annotated[
        int | None, typer.Option(help="Forward queries per image and eps at which attacks stop.")
    ] = None,
    out: Out = Path("results"),
    data_root: Root = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of these settings; flags go before it.")
    ] = None,
    baseline: Annotated[
        bool | None, typer.Option("--baseline/--no-baseline", help="Run the undefended model too.")
    ] = None,
    oblivious: Annotated[
        bool | None,
        typer.Option(
            "--oblivious/--no-oblivious",
            help="Attack each defense with images made on the undefended model, too.",
        ),
    ] = None,
    audit: Annotated[
        bool | None,
        typer.Option(
            "--audit/--no-audit", help="Look whether the numbers of each model can be believed."
        ),
    ] = None,
    eot: Annotated[
        int | None,
        typer.Option(
            help="Answers of a random defense averaged per query. [default: 10; purify: 4]"
        ),
    ] = None,
    save_adversarial: Annotated[
        bool | None,
        typer.Option(
            "--save-adversarial",
            help="Keep the adversarial images, for bench verify; stored blocks without them are "
            "run again.",
        ),
    ] = None,
    bounds: Annotated[
        str | None,
        typer.Option(
            help="Proofs beside attacks: exact (of affine nets alone), of other small nets also "
            "interval or crown; none. [default: exact]"
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the stored cells of this request first.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show cells, what is stored, and queries; run nothing."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no table.")] = False,
) -> None:
    """Sweep attacks over eps against defenses; write tables, leaderboard and figures.

    Each (dataset, model, defense, attack, seed) is a cell; stored cells are reused, an interrupted
    run goes on where it stopped.
    """
    flags = {
        "dataset": dataset,
        "model": model,
        "attack": attack,
        "defense": defense,
        "seed": seed,
        "norm": norm,
        "eps": eps,
        "n": n,
        "until_ci": until_ci,
        "device": device,
        "precision": precision,
        "sweep": sweep,
        "batch_size": batch_size,
        "query_budget": query_budget,
        "data_root": data_root,
        "baseline": baseline,
        "oblivious": oblivious,
        "audit": audit,
        "eot": eot,
        "save_adversarial": save_adversarial,
        "bounds": bounds,
    }
    request = _request(flags, config)
    job = _resolved(request, out)
    with _opened(out, dry_run=dry_run) as store:
        if dry_run:
            _show_plan(job, store)
            if request.until_ci is not None:
                print("more images follow where --until-ci asks for them")
            return
        for note in () if quiet else job.notes:
            print(note, file=sys.stderr)
        until = request.until_ci
        job, interrupted = _executed(job, store, until, quiet=quiet, fresh=fresh)
        failures = _failures(job, store)
        shown, records = store.records(cell.key for cell in job.cells), store.records()
        _write_tables(records, out)
    if not quiet:
        _print_summary(shown, out)
    is_crossed = _told_crossed(records)
    if interrupted:
        print(
            "bench: interrupted; finished blocks are kept, the same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED)
    for line in failures:
        print(f"bench: failed: {line}", file=sys.stderr)
    if failures or is_crossed:
        raise typer.Exit(1)


def _told_crossed(records: list[Record]) -> bool:
    """Whether an attack got inside what is proven; says which, and where."""
    from bench.report.certified import crossed

    lines = crossed(records)
    for line in lines:
        print(f"bench: crossed bracket: {line}", file=sys.stderr)
    return bool(lines)


def _request(flags: Mapping[str, Any], config: Path | None) -> Request:
    from bench.spec import request_of

    settings = {} if config is None else _yaml(config)
    return request_of(
        {**settings, **{name: value for name, value in flags.items() if value is not None}}
    )


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise RequestError(
            f"--config {path} cannot be read ({' '.join(str(err).split())})"
        ) from err
    if not isinstance(settings, dict):
        raise RequestError(f"--config {path} must hold settings such as `attack: [pgd, fgsm]`")
    return {str(name).replace("-", "_"): value for name, value in settings.items()}


def _opened(out: Path, *, dry_run: bool) -> Store:
    from bench.store import NAME, Store

    if dry_run and not (out / NAME).is_file():
        return Store.in_memory()
    return Store.open(out)


def _resolved(request: Request, out: Path) -> Job:
    from bench.report import claims
    from bench.store import Store

    # Before torch is imported, and before anything is written.
    Store.probe(out)
    claims.kept(out)
    from bench.resolution import resolve

    return resolve(request)


def _executed(
    job: Job, store: Store, until_ci: float | None, *, quiet: bool, fresh: bool
) -> tuple[Job, bool]:
    """The job as it was carried out, and whether it was interrupted."""
    from bench.executors import LocalExecutor
    from bench.progress import watcher
    from bench.rounds import rounds

    interrupted, told = False, watcher(quiet=quiet)
    try:
        for done in rounds(job, store, LocalExecutor(), told, until_ci, fresh=fresh):
            job = done
    except KeyboardInterrupt:
        interrupted = True
    return job, interrupted


def _failures(job: Job, store: Store) -> list[str]:
    """A line per failed cell."""
    failed = store.failures(cell.key for cell in job.cells)
    return [f"{cell.title}: {failed[cell.key]}" for cell in job.cells if cell.key in failed]


def _show_plan(job: Job, store: Store) -> None:
    from bench.listing import planned
    from bench.runner import stored

    print(planned(job.cells, stored(job, store, job.cells)))


def _write_tables(records: list[Record], out: Path) -> None:
    from bench.report.write import write

    write(records, out)


def _print_summary(records: list[Record], out: Path) -> None:
    from bench.report.write import summary

    if records:
        print(summary(records))
        print(f"\ntables, figures and the store are under {out}")


@app.command()
def report(out: Out = Path("results")) -> None:
    """Write tables, figures and report.html again from the store."""
    from bench.store import Store

    with Store.read(out) as store:
        records = store.records()
    _write_tables(records, out)
    _print_summary(records, out)
    if _told_crossed(records):
        raise typer.Exit(1)


@app.command()
def export(
    out: Out = Path("results"),
    to: Annotated[
        Path | None, typer.Option(help="Folder to write into. [default: OUT/export]")
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="tables, or robustbench: a model_info file for each row of the leaderboard.",
        ),
    ] = "tables",
) -> None:
    """Write per-sample outcomes and tables as Parquet and CSV, or rows as RobustBench has them."""
    from bench.report.export import FORMS
    from bench.store import Store

    if form not in FORMS:
        raise RequestError(f"format must be one of {', '.join(FORMS)}, got {form!r}")
    with Store.read(out) as store:
        for path in FORMS[form](store.records(), to or out / "export"):
            print(path)


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Files in RobustBench's shape.")],
    *,
    norm: Annotated[
        str | None,
        typer.Option(help="linf, l2, l1 or l0. [default: by the folder of the file, Linf or L2]"),
    ] = None,
    out: Out = Path("results"),
) -> None:
    """Keep claims of others; they stand in leaderboard.md apart from what was measured."""
    from bench.report import claims, robustbench
    from bench.report.write import place, write
    from bench.store import NAME, Store

    if norm is not None and norm not in robustbench.THREATS:
        raise RequestError(f"norm must be one of {', '.join(robustbench.THREATS)}, got {norm!r}")
    made = {claim.place: claim for claim in (claims.read(file, norm) for file in files)}
    if len(made) < len(files):
        raise RequestError("two of the files would be kept under the same name")
    for where, claim in made.items():
        content = robustbench.text(dict(claim.fields)).encode("utf-8")
        print(place(out / claims.FOLDER / where, content))
    if (out / NAME).is_file():
        with Store.read(out) as store:
            write(store.records(), out)


@app.command()
def doctor(data_root: Root = None) -> None:
    """Show versions, devices, threads, the data found, and packages that hide ours."""
    from bench.doctor import findings

    for key, value in findings(data_root):
        print(f"{key}: {value}")
