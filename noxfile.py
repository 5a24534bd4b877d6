"""What the gate and a maintainer run, each in an environment of its own: `nox -l` lists it."""

import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
PYTHONS = ["3.11", "3.12", "3.13"]
DEV = nox.project.load_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]["dev"]
LINTERS = ("import-linter", "pre-commit", "ruff", "typos", "validate-pyproject")
READ_BY_TESTS = (".ci", "CITATION.cff", "README.md", "pyproject.toml", "results/reference")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, spelling, metadata and the import contracts; needs no torch."""
    session.install(*(requirement for requirement in DEV if requirement.startswith(LINTERS)))
    session.run("pre-commit", "run", "--all-files", "--show-diff-on-failure")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the four packages."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The default set; `nox -s tests-3.12 -- -m slow` hands arguments on."""
    session.install("-e", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def gate(session: nox.Session) -> None:
    """Committed weights against committed outcomes, see results/reference/check."""
    session.install("-e", ".")
    known = "results/reference/check"
    with tempfile.TemporaryDirectory() as out:  # nothing stored is reused
        session.run("bench", "run", "--config", f"{known}/sweep.yaml", "--out", out, "--quiet")
        session.run("bench", "check", "--baseline", f"{known}/baseline.json", "--out", out)


@nox.session
def coverage(session: nox.Session) -> None:
    """The default set once more, with the share of lines and branches that it reaches."""
    session.install("-e", ".[dev]")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """The default set on the oldest torch allowed and the torchvision built for it."""
    session.install("-e", ".[dev]", "torch==2.11.*", "torchvision==0.26.*")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def agreement(session: nox.Session) -> None:
    """Ours against other libraries; `-- --write FILE` renews results/reference/agreement.md."""
    _install_peers(session)
    session.run("python", "-m", "tests.agreement", *session.posargs)


@nox.session(python=PYTHONS[0])
def peers(session: nox.Session) -> None:
    """Whole curves of theirs and ours in turns; `-- --write FILE` renews their reference page."""
    _install_peers(session)
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    session.run("python", "-m", "tests.agreement.sweeps", *session.posargs, env=one_thread)


@nox.session(python=PYTHONS[0])
def mutants(session: nox.Session) -> None:
    """Planted mistakes, each of which a test must notice; `-- --write FILE` writes the page."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.mutants", *session.posargs)


def _install_peers(session: nox.Session) -> None:
    """The other libraries beside ours."""
    session.install("-e", ".[dev,foolbox,art]", "setuptools<81")
    session.install("--no-build-isolation", "visdom")  # of adv-lib; its build needs pkg_resources
    session.install("adv-lib")
    # It pins requests to a version that nobody else takes.
    session.install("--no-deps", "torchattacks")


@nox.session
def wheel(session: nox.Session) -> None:
    """The default set against the built wheel, away from the source tree."""
    session.install("build")
    with tempfile.TemporaryDirectory() as folder:
        away = Path(folder)
        session.run("python", "-m", "build", "--outdir", str(away / "dist"))
        (built,) = (away / "dist").glob("*.whl")
        session.install(f"{built}[dev]")
        session.install("--force-reinstall", "--no-deps", str(built))  # same version, built anew
        for name in ("tests", *READ_BY_TESTS):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, away / name)
            elif (ROOT / name).exists():
                shutil.copy(ROOT / name, away / name)
        with session.chdir(away):
            session.run("pytest", *session.posargs)


@nox.session(python=False)
def check(session: nox.Session) -> None:
    """What a change must pass: lint, types, the gate, and the tests on the Python that runs nox."""
    tests = f"tests-{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("lint", "types", "gate", tests):
        session.notify(name)
