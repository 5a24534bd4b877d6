"""The command `bench gan`; torch is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import translation_cli
from bench.features_cli import (
    DatasetSpec,
    Device,
    Quiet,
    Root,
    interruptible,
    teller,
)


def gan(  # noqa: PLR0913  one parameter per flag
    *,
    out: Annotated[Path, typer.Option(help="Folder of page, log, weights and figures.")] = Path(
        "results"
    ),
    dataset: DatasetSpec = "digits",
    generator: Annotated[str, typer.Option(help="Generator spec.")] = "dcgan",
    model: Annotated[
        str, typer.Option(help="Model spec of the classifier that looks at images.")
    ] = "cnn_small",
    n: Annotated[int, typer.Option(help="Images per source that are inverted.")] = 100,
    steps: Annotated[int | None, typer.Option(help="Steps per inversion. [default: 200]")] = None,
    restarts: Annotated[
        int | None, typer.Option(help="Starts per inversion. [default: 10]")
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option(
            help="Generator spec whose samples are tested for membership; repeatable. "
            "[default: the same, untrained]"
        ),
    ] = None,
    adversarial: Annotated[
        str | None,
        typer.Option(
            help="Attack spec whose images are tested for membership. [default: pgd:steps=10]"
        ),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf, l2 or l1. [default: linf]")] = None,
    label: Annotated[
        list[int] | None,
        typer.Option(
            help="Class asked of a conditional generator, a row of samples; repeatable. "
            "[default: all]"
        ),
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="Draw samples near the mean: psi in (0, 1]. [default: none]"),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Samples whose classes, FID, precision and recall are measured, 100 to 100000. "
            "[default: as many as training images, at most 10000; stacked: 26000]"
        ),
    ] = None,
    stacked: Annotated[
        bool,
        typer.Option("--stacked", help="Three digits as the channels of an image: K^3 modes."),
    ] = False,
    retrain: Annotated[
        bool,
        typer.Option("--retrain", help="Train the generator though there is a trained one."),
    ] = False,
    device: Device = "auto",
    data_root: Root = None,
    quiet: Quiet = False,
) -> None:
    """Train or load a generator; look at its samples, its training, what it covers and copies.

    Writes gan.md and gan_measures.csv (what was measured), figures/gan_DATASET.svg (one page),
    gan.csv (the training log), gan_coverage.csv and generator.safetensors. An interrupted training
    goes on from its last log entry.
    """
    from bench.spec import Request, valid
    from bench.store import Store
    from models.registry import generators

    request = Request(
        datasets=(dataset,),
        models=(model,),
        attacks=("pgd:steps=10" if adversarial is None else adversarial,),
        norm="linf" if norm is None else norm,
        n=n,
        device=device,
        data_root=data_root,
    )
    for text in (generator, *(other or ())):
        valid(generators.check, text)
    Store.probe(out)
    of_samples = {
        "--steps": steps,
        "--restarts": restarts,
        "--other": other,
        "--adversarial": adversarial,
        "--norm": norm,
        "--label": label,
        "--truncation": truncation,
        "--samples": samples,
        "--stacked": stacked or None,
    }
    if translation_cli.takes(generator, of_samples):
        translation_cli.translate(request, generator, out, quiet=quiet, retrain=retrain)
        return
    with interruptible("log entries are kept"):
        from bench.gan import looking
        from bench.gan.task import Settings
        from bench.report.gan import page, table
        from bench.report.write import FIGURES, place

        settings = Settings(
            generator,
            None if other is None else tuple(other),
            200 if steps is None else steps,
            10 if restarts is None else restarts,
            tuple(dict.fromkeys(label or ())),
            truncation,
            samples,
            stacked=stacked,
            retrain=retrain,
        )
        made = looking.look(request, settings, teller(quiet=quiet))
        portrait = made.portrait
        texts = {
            "gan.csv": table.log(portrait).csv(),
            "gan_coverage.csv": table.coverage(portrait).csv(),
            "gan_measures.csv": table.measures(portrait).csv(),
            "gan.md": table.markdown(portrait, FIGURES),
            f"{FIGURES}/{page.name(portrait.dataset)}": page.svg(portrait),
        }
        # All is written before anything is printed: a reader who stops early loses nothing.
        written = [looking.write(out / "generator.safetensors", made)]
        written += [place(out / name, text.encode("utf-8")) for name, text in texts.items()]
        for name in page.former(portrait.dataset):
            (out / FIGURES / name).unlink(missing_ok=True)
        print(table.told(portrait), "", *written, sep="\n")
