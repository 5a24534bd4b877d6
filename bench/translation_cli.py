"""The part of `bench gan` that looks at a pair of translators; torch is imported when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import RequestError
from bench.features_cli import interruptible, teller

if TYPE_CHECKING:
    from bench.spec import Request


def takes(generator: str, others: Sequence[str]) -> bool:
    """Whether a generator spec names a pair of translators; refuses such a pair where generators of
    samples are asked for.
    """
    from bench.translation import is_asked

    is_pair = is_asked(generator)
    for text in others:
        if is_pair or is_asked(text):
            pair = generator if is_pair else text
            raise RequestError(
                f"--other tests samples for membership, and {pair} makes images of images"
            )
    return is_pair


def translate(request: Request, generator: str, out: Path, *, quiet: bool, retrain: bool) -> None:
    """Looks at a pair; writes gan.md, gan_measures.csv, gan.csv, a page of figures and
    generator.safetensors.
    """
    with interruptible("log entries are kept"):
        from bench import translation as work
        from bench.report import translation as page
        from bench.report.write import FIGURES, place

        made = work.look(request, generator, teller(quiet=quiet), retrain=retrain)
        portrait = made.portrait
        texts = {
            "gan.csv": page.log(portrait).csv(),
            "gan_measures.csv": page.measures(portrait).csv(),
            "gan.md": page.markdown(portrait, FIGURES),
            f"{FIGURES}/{page.name(portrait.dataset)}": page.svg(portrait),
        }
        print(page.told(portrait), end="\n\n")
        print(work.write(out / "generator.safetensors", made))
        for name, text in texts.items():
            print(place(out / name, text.encode("utf-8")))
