"""Runs the tests against a copy of the tree with one mistake in it."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("attacks", "bench", "defenses", "models", "tests", "pyproject.toml", "README.md")
SECONDS = 300
"""For one mutant: a test that runs for ever has not failed."""
_OPTIONS = ("-q", "-rf", "--tb=no", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "not slow")
_FAILED = re.compile(r"^FAILED (\S+?)(?: - |$)", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `killed`, `survived`, or `broken` where no test failed and none of
    them can be said to have passed (a mistake that cannot be imported proves nothing). test: the
    first that failed; said: the end of what pytest printed.
    """

    outcome: str
    test: str
    seconds: float
    said: str = ""


def copied(root: Path, tree: Path) -> None:
    """Copies what the tests need of the source tree."""
    for name in COPIED:
        if (root / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / name, tree / name, ignore=ignored)
        else:
            shutil.copy(root / name, tree / name)


def warmed() -> None:
    """Imports what every run needs before the first one forks: five seconds each, else."""
    import torch

    torch.use_deterministic_algorithms(mode=True)


def outcome_of(tree: Path, tests: Sequence[str], seconds: float, *, stops: bool = True) -> Verdict:
    """The verdict of these tests on a tree; stops: at the first failure."""
    options = [*_OPTIONS, *(["-x"] if stops else []), "-o", "addopts=--import-mode=importlib"]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder, "printed")
        run = multiprocessing.get_context("fork").Process(
            target=_run, args=(tree, [*options, *tests], printed)
        )
        run.start()
        run.join(seconds)
        if run.is_alive():
            run.kill()
            run.join()
        text = printed.read_text(encoding="utf-8") if printed.exists() else ""
    took = time.monotonic() - began
    failed = _FAILED.search(text)
    said = "\n".join(text.strip().splitlines()[-15:])
    if run.exitcode == pytest.ExitCode.TESTS_FAILED and failed:
        return Verdict("killed", failed[1], took, said)
    outcome = "survived" if run.exitcode == pytest.ExitCode.OK else "broken"
    return Verdict(outcome, "", took, said or f"no end after {seconds:g} s")


def _run(tree: Path, words: Sequence[str], printed: Path) -> None:
    """In a process of its own: pytest in the tree, which alone is imported from."""
    for name in [name for name in sys.modules if name.partition(".")[0] in COPIED]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(entry for entry in sys.path if Path(entry).resolve() != ROOT)]
    os.chdir(tree)
    with printed.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        code = pytest.main([*words])
    sys.exit(int(code))


def judged(mutant: Mutant, tree: Path) -> Verdict:
    """The verdict on a mutant in a copied tree, which is put back as it was."""
    path = tree / mutant.path
    text = path.read_text(encoding="utf-8")
    try:
        _written(path, mutant.applied(text))
        return outcome_of(tree, mutant.tests, SECONDS)
    finally:
        _written(path, text)


def _written(path: Path, text: str) -> None:
    """Writes a module; compiled code of the same second and size would be taken for its own."""
    path.write_text(text, encoding="utf-8")
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def every_test(mutants: Iterable[Mutant]) -> list[str]:
    """The tests of all mutants, each once."""
    return list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
