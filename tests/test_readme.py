"""README tells the truth: its examples run, its commands parse, its table is the committed one."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from attacks.registry import attacks
from bench import cli, listing
from defenses.registry import defenses

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").is_file() else ""
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
LINES = [
    part.strip()
    for language, code in BLOCKS
    if language == "sh"
    for line in code.splitlines()
    for part in line.split("&&")
    if part.strip().startswith("bench")
]
ON_DIGITS = [
    line
    for line in LINES
    if line.startswith("bench run") and "--dataset" not in line and "mine" not in line
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory that holds the example attack."""
    where = tmp_path_factory.mktemp("reader")
    for code in PYTHON:
        named = re.match(r"# (\w+\.py)\n", code)
        if named:
            (where / named.group(1)).write_text(code)
    return where


def test_the_table_is_the_committed_one():
    shown = TEXT.split("<!-- reference -->")[1].split("<!-- end -->")[0].strip()
    committed = (ROOT / "results/reference/mnist/leaderboard.md").read_text(encoding="utf-8")
    assert shown.startswith("| ")
    assert shown in committed
    # The command above it is the one that made it.
    (made,) = re.findall(r"^Made by `(.+)` with", committed, flags=re.MULTILINE)
    assert made in LINES


def test_the_transfer_tables_are_the_committed_ones():
    reference = ROOT / "results" / "reference"
    for name, file in (("transfer", "transfer.md"), ("substitute", "transfer/transfer.md")):
        shown = TEXT.split(f"<!-- {name} -->")[1].split(f"<!-- end {name} -->")[0].strip()
        committed = (reference / file).read_text(encoding="utf-8").splitlines()
        assert len(shown.splitlines()) == 8 + (name == "transfer") * 2
        assert set(shown.splitlines()) <= set(committed)


def test_the_suspect_rows_are_the_committed_ones():
    shown = TEXT.split("<!-- suspect -->")[1].split("<!-- end suspect -->")[0].strip()
    committed = (ROOT / "results/reference/suspect/leaderboard.md").read_text(encoding="utf-8")
    assert shown in committed
    assert shown.count("| suspect: ") == 3
    (made,) = re.findall(r"^Made by `(.+)` with", committed, flags=re.MULTILINE)
    assert made in LINES


PAGES = {
    "mlp": "MNIST",
    "dcgan": "MNIST",
    "conditional": "MNIST",
    "progressive": "MNIST",
    "style": "MNIST",
    "stacked_dcgan": "stacked MNIST",
    "stacked_pacdcgan2": "stacked MNIST",
}
"""Folders of results/reference/gan, and what they are of."""
MEASURES = {
    "training time (s)": ",.0f",
    "classes found": ",.0f",
    "class entropy (nats)": ".3f",
    "KL to the class prior (nats)": ".3f",
    "FID": ".1f",
    "precision": ".3f",
    "recall": ".3f",
    "copies (%)": ".2f",
}


def generators():
    """README's table of generators, from what `bench gan` wrote."""
    rows = [["page", "data", "device", *MEASURES]]
    for name, data in PAGES.items():
        folder = ROOT / "results/reference/gan" / name
        with (folder / "gan_measures.csv").open(encoding="utf-8", newline="") as lines:
            found = {row["measure"]: row["value"] for row in csv.DictReader(lines)}
        made = (folder / "gan.md").read_text(encoding="utf-8").rpartition("Made by")[2]
        device = "H100" if "--device cuda" in made else "CPU"
        values = (format(float(found[key]), form) for key, form in MEASURES.items())
        rows.append([f"[{name}](results/reference/gan/{name}/gan.md)", data, device, *values])
    marks = ["-", "-", "-", *["-:"] * len(MEASURES)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], marks, *rows[1:]])


def test_the_generators_are_those_of_the_pages():
    shown = TEXT.split("<!-- generators -->")[1].split("<!-- end generators -->")[0].strip()
    assert shown == generators()


def test_the_attacks_are_those_of_the_table():
    shown = TEXT.split("<!-- attacks -->")[1].split("<!-- end attacks -->")[0].strip()
    # Stale? Put there what `bench list attacks --markdown` prints.
    assert shown == listing.markdown("attacks", attacks)


def test_the_defenses_are_those_of_the_table():
    shown = TEXT.split("<!-- defenses -->")[1].split("<!-- end defenses -->")[0].strip()
    # Stale? Put there what `bench list defenses --markdown` prints.
    assert shown == listing.markdown("defenses", defenses)


def test_there_is_something_to_check():
    assert len(PYTHON) == 6
    assert len(ON_DIGITS) == 8
    assert len(LINES) > len(ON_DIGITS)


@pytest.mark.parametrize("line", ON_DIGITS)
def test_a_command_on_digits_runs(line, folder):
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(line)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| model" in done.stdout
    assert (folder / "results" / "leaderboard.md").is_file()


@pytest.mark.parametrize("line", [line for line in LINES if line not in ON_DIGITS])
def test_every_other_command_parses(line):
    words = shlex.split(line)[1:]
    group = typer.main.get_command(cli.app)
    with group.make_context("bench", words) as context:
        name, command, rest = group.resolve_command(context, words)
        assert name
        assert command is not None
        command.make_context(name, rest, parent=context)


def test_the_python_examples_run(monkeypatch, capsys):
    scope = {}
    for code in PYTHON:
        if not code.startswith("# "):
            exec(compile(code, "README.md", "exec"), scope)  # noqa: S102  our own text
    assert scope["x_adv"].shape == (5, 1, 8, 8)
    assert "accuracy" in capsys.readouterr().out
