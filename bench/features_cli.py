"""The commands of `bench features`; torch is imported when one runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.errors import RequestError

if TYPE_CHECKING:
    from bench.spec import Request

INTERRUPTED = 130
KINDS = ("robust", "nonrobust", "rand", "det")
"""Of constructed sets; defenses.constructed says what each is."""
_MATCHING = ("robust", "nonrobust")
TEACHER = {"robust": "madry"}
"""What the source net is trained with where it is not named; nothing for the other kinds."""

app = typer.Typer(
    name="features",
    help="Robust and non-robust features: training sets made of them, and their measures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DatasetSpec = Annotated[str, typer.Option("--dataset", help="Dataset spec.")]
ModelSpec = Annotated[str, typer.Option("--model", help="Model spec of the net.")]
Norm = Annotated[str, typer.Option(help="linf, l2 or l1.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Root = Annotated[
    Path | None,
    typer.Option(envvar="BENCH_DATA", help="Folder of mnist, fashion_mnist and cifar10."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]


@app.command()
def build(  # noqa: PLR0913  one parameter per flag
    kind: Annotated[str, typer.Argument(help="robust, nonrobust, rand or det.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the set and its manifest.")],
    dataset: DatasetSpec = "digits",
    model: ModelSpec = "cnn_small",
    defense: Annotated[
        str | None,
        typer.Option(help="What the net is trained with. [default: madry for robust, else none]"),
    ] = None,
    norm: Norm = "l2",
    eps: Annotated[
        str | None, typer.Option(help="Radius of rand and det. [default: the dataset's]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps per image. [default: 100]")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Step size. [default: 0.1; rand and det: eps / 5]")
    ] = None,
    images: Annotated[int | None, typer.Option(help="Training images used. [default: all]")] = None,
    seed: Annotated[int, typer.Option(help="Of starts, targets and the choice of images.")] = 0,
    device: Device = "auto",
    data_root: Root = None,
    quiet: Quiet = False,
) -> None:
    """Make D_R, D_NR, D_rand or D_det of a dataset and a net (Ilyas et al. 2019).

    Writes data.safetensors and manifest.json, to be trained on as the dataset
    `constructed:path=OUT`. An interrupted build goes on where it stopped.
    """
    _check_kind(kind, eps)
    request = _request(dataset, model, defense or TEACHER.get(kind, "none"), norm, seed, device)
    request = _at(request, data_root)
    with interruptible("finished images are kept"):
        from bench.features import Settings
        from bench.features import build as construct

        settings = Settings(kind, eps, steps, alpha, images, seed)
        manifest = construct(request, settings, out, teller(quiet=quiet))
    print(_told(manifest))
    print(f"\ntrain on them with --dataset constructed:path={out}")


@app.command()
def measure(  # noqa: PLR0913  one parameter per flag
    *,
    out: Annotated[Path, typer.Option(help="Folder of table, text and figure.")] = Path("results"),
    dataset: DatasetSpec = "digits",
    model: ModelSpec = "cnn_small",
    defense: Annotated[str, typer.Option(help="What the net is trained with.")] = "none",
    norm: Norm = "l2",
    eps: Annotated[str | None, typer.Option(help="Radius. [default: the dataset's]")] = None,
    n: Annotated[int | None, typer.Option(help="Test images. [default: min(1000, all)]")] = None,
    steps: Annotated[int, typer.Option(help="PGD steps per image, unit and direction.")] = 10,
    seed: Annotated[int, typer.Option(help="Of PGD's starts.")] = 0,
    device: Device = "auto",
    data_root: Root = None,
    quiet: Quiet = False,
) -> None:
    """Measure rho-usefulness and gamma-robust usefulness of features (Ilyas et al. 2019).

    Of pixels, rows of a softmax regression, and what enters the net's last linear layer; writes
    features.csv, features.md and figures/features_*.svg.
    """
    request = _at(_request(dataset, model, defense, norm, seed, device, n), data_root)
    with interruptible("trained nets are kept"):
        from bench.features import measure as measured
        from bench.report import features
        from bench.report.write import FIGURES, place

        scatter = measured(request, eps, steps, teller(quiet=quiet))
        texts = {
            "features.csv": features.features(scatter).csv(),
            "features.md": features.markdown(scatter),
            f"{FIGURES}/{features.figure_name(scatter)}": features.svg(scatter),
        }
        for name, text in texts.items():
            print(place(out / name, text.encode("utf-8")))


def _check_kind(kind: str, eps: str | None) -> None:
    from models.grammar import near

    if kind not in KINDS:
        raise RequestError(str(near(kind, KINDS, "kind", "bench features build --help")))
    if kind in _MATCHING and eps is not None:
        raise RequestError(
            f"{kind} has no ball: --eps is for rand and det, the net's own stands in --defense"
        )


def _request(
    dataset: str, model: str, defense: str, norm: str, seed: int, device: str, n: int | None = None
) -> Request:
    """The request, every name checked."""
    from bench.spec import Request

    return Request(
        datasets=(dataset,),
        models=(model,),
        defenses=(defense,),
        norm=norm,
        seeds=(seed,),
        device=device,
        n=n,
    )


def _at(request: Request, root: Path | None) -> Request:
    from dataclasses import replace

    return replace(request, data_root=root)


def teller(*, quiet: bool) -> Any:
    """What prints progress on standard error, or nothing."""
    return (lambda _: None) if quiet else (lambda text: print(text, file=sys.stderr))


@contextlib.contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """Ends the command with 130 where it is interrupted, 1 where a training failed, in one line."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"bench: interrupted; {kept}, the same command goes on from there", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except RuntimeError as err:
        from models.train import TrainingFailed

        if not isinstance(err, TrainingFailed):
            raise
        print(f"bench: failed: {err}", file=sys.stderr)
        raise typer.Exit(1) from err


def _told(manifest: dict[str, Any]) -> str:
    """A manifest in a few lines."""
    loss = f"{manifest['loss_start']['mean']:.4g} to {manifest['loss']['mean']:.4g} (means)"
    lines = [
        f"{manifest['images']:,} images, {manifest['kind']}: {manifest['objective']}",
        f"loss from {loss}",
    ]
    if manifest["target_reached"] is not None:
        lines.append(f"{100 * manifest['target_reached']:.1f} % are their target to the source")
    return "\n".join(lines)
