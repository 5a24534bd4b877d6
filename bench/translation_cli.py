"""The part of `bench gan` that looks at a pair of translators; torch is imported when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import RequestError
from bench.features_cli import interruptible, teller

if TYPE_CHECKING:
    from bench.spec import Request


def takes(generator: str, of_samples: Mapping[str, object]) -> bool:
    """Whether a generator spec names a pair of translators; refuses, for such a pair, flags that
    are of samples and not None.
    """
    from bench.translation import is_asked

    if not is_asked(generator):
        return False
    for flag, value in of_samples.items():
        if value is not None:
            raise RequestError(f"{flag} is of samples, and {generator} makes images of images")
    return True


def translate(request: Request, generator: str, out: Path, *, quiet: bool, retrain: bool) -> None:
    """Looks at a pair; writes gan.md, gan_measures.csv, gan.csv, a page of figures and
    generator.safetensors, and removes what a generator of samples left there.
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
        # All files before any line: a reader of the output may go away.
        written = [work.write(out / "generator.safetensors", made)]
        written += [place(out / name, text.encode("utf-8")) for name, text in texts.items()]
        for name in page.former(portrait.dataset, FIGURES):
            (out / name).unlink(missing_ok=True)
        print(page.told(portrait), end="\n\n")
        print(*written, sep="\n")
