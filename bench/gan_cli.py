"""The command `bench gan`; torch is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import translation_cli
from bench.features_cli import (
    DatasetSpec,
    Device,
    Norm,
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
    steps: Annotated[int, typer.Option(help="Steps per inversion.")] = 200,
    restarts: Annotated[int, typer.Option(help="Starts per inversion.")] = 10,
    other: Annotated[
        list[str] | None,
        typer.Option(
            help="Generator spec whose samples are tested for membership; repeatable. "
            "[default: the same, untrained]"
        ),
    ] = None,
    adversarial: Annotated[
        str, typer.Option(help="Attack spec whose images are tested for membership.")
    ] = "pgd:steps=10",
    norm: Norm = "linf",
    retrain: Annotated[
        bool,
        typer.Option("--retrain", help="Train the generator though there is a trained one."),
    ] = False,
    device: Device = "auto",
    data_root: Root = None,
    quiet: Quiet = False,
) -> None:
    """Train or load a generator; look at its samples, inversion and membership.

    Writes gan.md, gan.csv (the training log), generator.safetensors and figures/gan_*.svg. An
    interrupted training goes on from its last log entry.
    """
    from bench.spec import Request, valid
    from bench.store import Store
    from models.registry import generators

    request = Request(
        datasets=(dataset,),
        models=(model,),
        attacks=(adversarial,),
        norm=norm,
        n=n,
        device=device,
        data_root=data_root,
    )
    for text in (generator, *(other or ())):
        valid(generators.check, text)
    Store.probe(out)
    if translation_cli.takes(generator, other or []):
        translation_cli.translate(request, generator, out, quiet=quiet, retrain=retrain)
        return
    with interruptible("log entries are kept"):
        from bench import gan as work
        from bench.report import gan as page
        from bench.report.write import FIGURES, place

        settings = work.Settings(
            generator, None if other is None else tuple(other), steps, restarts, retrain=retrain
        )
        made = work.look(request, settings, teller(quiet=quiet))
        portrait = made.portrait
        drawn = page.figures(portrait)
        texts = {
            "gan.csv": page.log(portrait).csv(),
            "gan.md": page.markdown(portrait),
            **{f"{FIGURES}/{name}": text for name, text in drawn.items()},
        }
        print(page.told(portrait), end="\n\n")
        print(work.write(out / "generator.safetensors", made))
        for name, text in texts.items():
            print(place(out / name, text.encode("utf-8")))
        for name in page.names(portrait.dataset):
            if name not in drawn:
                (out / FIGURES / name).unlink(missing_ok=True)
