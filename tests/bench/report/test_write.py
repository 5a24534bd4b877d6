"""The files: complete, the same twice, and made without torch."""

import subprocess
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path

import pandas as pd
import pytest

from bench.errors import StoreError
from bench.report import frames, strength
from bench.report.write import place, summary, write
from bench.stats import wilson
from bench.store import Record

MakeRecord = Callable[..., Record]
NAMES = [
    "accuracy_vs_eps.csv",
    "accuracy_vs_eps.md",
    "leaderboard.csv",
    "leaderboard.md",
    "attacks.csv",
    "attacks.md",
    "anytime.csv",
    "anytime.md",
    "timing.csv",
    "timing.md",
    "report.html",
]


@pytest.fixture
def cells(record: MakeRecord) -> list[Record]:
    return [
        record([0, 0.1, 0.2, inf]),
        record([0, 0.1, 0.1, inf], attack="square", mode="black-box"),
        record([0, inf, inf, inf], defense="advtrain:lam=1.0,eps=0.3"),
        record(None, defense="advtrain:lam=1.0,eps=0.3", attack="cw", failure="no gradient"),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_every_file_is_written_and_nothing_else(cells: list[Record], tmp_path: Path) -> None:
    written = write(cells, tmp_path / "deep" / "results")
    figures = ("figures/accuracy_vs_eps_digits_linf.svg", "figures/anytime_digits_linf.svg")
    names = [*NAMES, *figures]
    assert [p.relative_to(tmp_path / "deep" / "results").as_posix() for p in written] == names
    assert sorted(contents(tmp_path / "deep" / "results")) == sorted(names)
    for content in contents(tmp_path).values():
        assert b"\r" not in content
        assert content.endswith(b"\n")


def test_writing_twice_gives_the_same_bytes(cells: list[Record], tmp_path: Path) -> None:
    write(cells, tmp_path / "a")
    write(cells, tmp_path / "b")
    first = contents(tmp_path / "a")
    write(cells, tmp_path / "a")
    assert contents(tmp_path / "a") == first == contents(tmp_path / "b")


def test_csv_gives_the_table_back(cells: list[Record], tmp_path: Path) -> None:
    write(cells, tmp_path)
    text = (tmp_path / "accuracy_vs_eps.csv").read_text(encoding="utf-8")
    header, first = text.splitlines()[:2]
    assert header == ",".join(frames.TIDY)
    key = cells[0].key
    clean = wilson(3, 4)
    assert first == (
        f"digits,cnn,none,pgd,white-box,linf,0.0,0,4,0.75,{clean.low!r},{clean.high!r},"
        f"0.75,40,16,1.235,cpu,fp32,none,{key},,0.0,,,1,0.75,,none"
    )
    failed = text.splitlines()[17]
    key = cells[3].key
    assert failed == (
        'digits,cnn,"advtrain:lam=1.0,eps=0.3",cw,white-box,linf,0.0,0,4,,,,,,,,'
        f"cpu,fp32,none,{key},no gradient,,,,,,,none"
    )
    read = pd.read_csv(tmp_path / "accuracy_vs_eps.csv", keep_default_na=False, na_values=[""])
    again = frames.tidy(cells).frame()
    assert read["accuracy"].equals(again["accuracy"])
    assert read["eps"].equals(again["eps"])


def test_no_records_give_headers_and_no_figure(tmp_path: Path) -> None:
    write([], tmp_path)
    assert sorted(contents(tmp_path)) == sorted(NAMES)
    assert (tmp_path / "leaderboard.csv").read_text() == ",".join(frames.LEADERBOARD) + "\n"
    assert (tmp_path / "timing.csv").read_text() == ",".join(frames.TIMING) + "\n"
    assert (tmp_path / "attacks.csv").read_text() == ",".join(strength.ATTACKS) + "\n"


def test_figures_no_longer_made_are_removed(cells: list[Record], tmp_path: Path) -> None:
    write(cells, tmp_path)
    mine = tmp_path / "figures" / "mine.svg"
    mine.write_text("kept")
    write([], tmp_path)
    assert list((tmp_path / "figures").iterdir()) == [mine]


def test_a_folder_that_is_a_file_is_one_line(cells: list[Record], tmp_path: Path) -> None:
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(StoreError, match=r"accuracy_vs_eps\.csv cannot be written \(") as caught:
        write(cells, tmp_path / "results")
    assert "\n" not in str(caught.value)


def test_a_figure_that_cannot_be_removed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "figures" / "accuracy_vs_eps_x_linf.svg").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"cannot be removed \("):
        write([], tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = place(tmp_path / "a.md", b"old\n")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(StoreError, match="No space left on device"):
            place(path, b"new\n")
    assert contents(tmp_path) == {"a.md": b"old\n"}


def test_summary_is_offered_beside_write(cells: list[Record]) -> None:
    assert summary(cells).startswith("digits, linf, eps = 0.2, n = 4\n")


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("bench.report", ("torch", "pandas", "matplotlib", "jinja2", "statsmodels")),
        (
            "bench.report.frames, bench.report.write, bench.report.export, bench.stats",
            ("torch", "matplotlib", "jinja2", "statsmodels", "scipy"),
        ),
    ],
)
def test_importing_stays_light(modules: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print([m for m in {absent} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_writing_imports_neither_torch_nor_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from bench.report.write import write\n"
        f"write([], pathlib.Path({str(tmp_path)!r}))\n"
        "print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
