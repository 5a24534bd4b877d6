"""The distribution: what it holds, which version it is, and what its files say about each other."""

import importlib
import importlib.resources
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("attacks", "bench", "defenses", "models")
PROVENANCE = ROOT / "tests" / "hooks" / "provenance_of_references.py"
MADE = "Made by `bench run --eps 0.3` with adversarial-bench 0.1.0.\n"

in_source_tree = pytest.mark.skipif(
    not (ROOT / "bench").is_dir(), reason="runs away from the source tree"
)


def source_files() -> set[str]:
    """The files of the four packages, as paths inside the distribution."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {
        path.relative_to(ROOT).as_posix()
        for path in files
        if not {"__pycache__", ".DS_Store"} & set(path.parts)
    }


def build(*options: str) -> None:
    """Builds with the backend already installed, hence without a network."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@in_source_tree
def test_wheel_holds_the_four_packages_only(tmp_path: Path) -> None:
    build("--wheel", "--outdir", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == source_files()
    assert held >= {f"{package}/py.typed" for package in PACKAGES}


@in_source_tree
def test_sdist_holds_the_four_packages_and_what_builds_them(tmp_path: Path) -> None:
    build("--sdist", "--outdir", str(tmp_path))
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    beside = {".gitignore", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert held == source_files() | beside


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_and_is_typed(package: str) -> None:
    importlib.import_module(package)
    assert (importlib.resources.files(package) / "py.typed").is_file()


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"]
    assert importlib.import_module("bench").__version__ == project["version"]


def test_gate_runs_the_test_command_of_the_readme() -> None:
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in gate if line.startswith(("pip ", "pytest"))]
    assert " && ".join(commands) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert gate[-1] == commands[-1]


def provenance(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROVENANCE), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_reference_tables_say_what_made_them() -> None:
    reference = ROOT / "results" / "reference"
    done = provenance(*reference.rglob("*.md"), *reference.rglob("*.html"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "text", "accepted"),
    [
        ("table.md", f"# A table\n\n{MADE}", True),
        ("table.md", "Made by `bench.transfer_matrix(['mlp'])` with version 0.1.0.\n", True),
        ("table.md", f"# A table, {MADE}", False),
        ("table.md", "Made by `bench run --eps 0.3.1`.\n", False),
        ("table.md", "Made by hand, version 0.1.0.\n", False),
        ("report.html", f"<p>{MADE}</p>", True),
        ("report.html", "<p>Made by <code>bench run</code>, adversarial-bench 0.1.0</p>", True),
        ("report.html", "<p>Made by <code>bench run</code></p>", False),
    ],
)
def test_provenance_hook(tmp_path: Path, name: str, text: str, *, accepted: bool) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    done = provenance(file)
    assert done.returncode == (0 if accepted else 1)
    assert (str(file) in done.stdout) is not accepted
