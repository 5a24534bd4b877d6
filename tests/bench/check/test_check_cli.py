"""`bench check` as a gate meets it: one committed net, the same net again, and a weakened one."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from bench import check_cli, cli
from bench.check.baseline import Baseline, parse, rows_of, text
from bench.executors import LocalExecutor
from bench.report import groups
from bench.resolution import resolve
from bench.runner import Silent, execute
from bench.spec import request_of
from bench.store import NAME, Store
from models import checkpoint

ROOT = Path(__file__).parents[3]
COMMITTED = ROOT / "results" / "reference" / "check"
ASKED = {"attack": ["pgd:steps=3", "ddn:steps=5"], "norm": "l2", "eps": "0,0.25"}
ROW = "digits cnn_small:weights=net / none / pgd:steps=3 (white-box) l2 seed 0"


@dataclass(frozen=True)
class Finished:
    """What a command left: exit status and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def bench(capsys, monkeypatch):
    """Runs a command line in this process, away from the step summary of whoever runs the tests."""

    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["bench", *map(str, arguments)])
            patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
        printed = capsys.readouterr()
        return Finished(ended.value.code or 0, printed.out, printed.err)

    return run


def attacked(weights, out, n=100):
    """A run with weights of one name."""
    save_file(weights, out / "net.safetensors")
    model = f"cnn_small:weights={out / 'net.safetensors'}"
    request = request_of({**ASKED, "model": model, "n": n, "device": "cpu"})
    with Store.open(out) as store:
        execute(resolve(request), store, LocalExecutor(), Silent())
    return out


@pytest.fixture(scope="module")
def weights():
    return load_file(COMMITTED / "cnn_small.safetensors")


@pytest.fixture(scope="module")
def before(weights, tmp_path_factory):
    """The run that the baseline is made of."""
    return attacked(weights, tmp_path_factory.mktemp("before"))


@pytest.fixture(scope="module")
def baseline(before):
    with Store.read(before) as store:
        rows = rows_of(store.records()).complete
    path = before / "baseline.json"
    path.write_text(text(Baseline(rows)))
    return path


@pytest.fixture(scope="module")
def weakened(weights, tmp_path_factory):
    """The same net with noise as large as the spread of each layer's weights."""
    draws = torch.Generator().manual_seed(0)
    noisy = {
        name: value + value.std() * torch.randn(value.shape, generator=draws)
        for name, value in weights.items()
    }
    return attacked(noisy, tmp_path_factory.mktemp("weakened"))


def test_the_same_net_passes(bench, baseline, weights, tmp_path):
    done = bench("check", "--baseline", baseline, "--out", attacked(weights, tmp_path))
    assert done.status == 0, done.out
    assert done.out.splitlines()[-1] == f"passed: 3 as before, against {baseline}"


def test_a_weakened_net_fails_with_a_line(bench, baseline, weakened):
    done = bench("check", "--baseline", baseline, "--out", weakened)
    assert done.status == 1
    (line,) = [line for line in done.out.splitlines() if f"regression: {ROW}" in line]
    assert "accuracy at eps 0.25 fell by" in line or "accuracy without attack fell by" in line
    assert "p = " in line
    assert done.out.splitlines()[-1].startswith("failed: ")


def test_a_net_that_got_better_passes(bench, before, weakened, tmp_path):
    path = tmp_path / "weak.json"
    assert bench("check", "--baseline", path, "--out", weakened, "--update").status == 0
    done = bench("check", "--baseline", path, "--out", before)
    assert done.status == 0
    assert f"improvement: {ROW}: accuracy" in done.out


def test_an_update_twice_gives_the_same_bytes(bench, baseline, before, tmp_path):
    for name in ("one.json", "two.json"):
        path = tmp_path / name
        done = bench("check", "--baseline", path, "--out", before, "--update")
        assert (done.status, done.out) == (0, f"{path}: 2 rows\n")
        assert path.read_bytes() == baseline.read_bytes()


def test_every_file_is_written(bench, baseline, weakened, tmp_path):
    names = {"--junit": "j/check.xml", "--json": "check.json", "--summary": "summary.md"}
    words = [word for flag, name in names.items() for word in (flag, tmp_path / name)]
    (tmp_path / "summary.md").write_text("before\n")
    assert bench("check", "--baseline", baseline, "--out", weakened, *words).status == 1
    suites = ET.parse(tmp_path / "j" / "check.xml").getroot()  # noqa: S314  our own text
    assert suites.get("tests") == "3"
    assert int(suites.get("failures")) >= 1
    assert json.loads((tmp_path / "check.json").read_text())["passed"] is False
    assert (tmp_path / "summary.md").read_text().startswith("before\n## bench check: failed\n")


def test_the_step_summary_is_found_by_its_variable(baseline, before, tmp_path, monkeypatch):
    """And torch is not imported, nor what draws figures."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code = (
        "import sys; from bench import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'matplotlib'} & sys.modules.keys()"
    )
    words = ["check", "--baseline", str(baseline), "--out", str(before)]
    subprocess.run([sys.executable, "-c", code, *words], check=True)
    assert "bench check: passed" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(("factor", "status"), [(1.02, 1), (1.005, 0)])
def test_queries_that_rose_fail(bench, baseline, before, tmp_path, factor, status):
    """The baseline is told to have cost less."""
    held = json.loads(baseline.read_text())
    (row,) = [row for row in held["rows"] if row["attack"] == "pgd:steps=3"]
    row["forward"] = int(row["forward"] / factor)
    (tmp_path / "base.json").write_text(json.dumps(held))
    done = bench("check", "--baseline", tmp_path / "base.json", "--out", before)
    assert done.status == status
    assert (f"regression: {ROW}: forward queries rose by 2." in done.out) is bool(status)


def test_the_queries_of_a_minimal_attack_are_exact(bench, baseline, before, tmp_path):
    """DDN with 5 steps: as many gradients, and a last look."""
    held = json.loads(baseline.read_text())
    (row,) = [row for row in held["rows"] if row["attack"] == "ddn:steps=5"]
    assert row["each"] == [6, 5]
    row["each"] = [5, 5]
    (tmp_path / "base.json").write_text(json.dumps(held))
    done = bench("check", "--baseline", tmp_path / "base.json", "--out", before)
    assert done.status == 1
    assert "5 forward and 5 backward, are 6 and 5" in done.out


def test_a_missing_row_fails(bench, baseline, before, tmp_path):
    held = json.loads(baseline.read_text())
    held["rows"].append(held["rows"][0] | {"seed": 7})
    (tmp_path / "base.json").write_text(json.dumps(held))
    done = bench("check", "--baseline", tmp_path / "base.json", "--out", before)
    assert done.status == 1
    assert "seed 7: not among the results" in done.out


def test_other_samples_are_refused(bench, baseline, weights, tmp_path):
    out = attacked(weights, tmp_path, n=50)
    done = bench("check", "--baseline", baseline, "--out", out)
    assert (done.status, done.out) == (2, "")
    known = parse(baseline.read_text(), "b").rows[0].samples
    with Store.read(out) as store:
        (other,) = {record.samples_digest for record in store.records()}
    assert known[:12] in done.err
    assert other[:12] in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"{}", b'{"format": 1, "rows": [{}]}'])
def test_a_baseline_that_cannot_be_read_is_refused(bench, before, tmp_path, content):
    path = tmp_path / "base.json"
    if content is not None:
        path.write_bytes(content)
    done = bench("check", "--baseline", path, "--out", before)
    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert str(path) in done.err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--max-drop", "2"], "max-drop must be"),
        (["--alpha", "0"], "alpha must"),
        (["--max-slowdown", "0.5"], "max-slowdown must"),
        (["--max-slowdown", "2"], "holds no times"),
    ],
)
def test_bad_limits_are_refused(bench, baseline, before, flags, told):
    done = bench("check", "--baseline", baseline, "--out", before, *flags)
    assert done.status == 2
    assert told in done.err


def test_no_results_are_refused(bench, baseline, tmp_path):
    assert bench("check", "--baseline", baseline, "--out", tmp_path / "none").status == 2
    with Store.open(tmp_path / "empty"):
        pass
    done = bench("check", "--baseline", tmp_path / "b", "--out", tmp_path / "empty", "--update")
    assert done.status == 2
    assert "no complete attacked cell" in done.err


def test_a_failed_cell_fails_the_gate_and_makes_no_baseline(bench, baseline, before, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / NAME).write_bytes((before / NAME).read_bytes())
    with Store.read(out) as store:
        key = groups.attacked(store.records())[0].key
        store._db.execute("DELETE FROM blocks WHERE cell = ?", (key,))
        store.fail(key, "RuntimeError: planted")
    done = bench("check", "--baseline", baseline, "--out", out)
    assert done.status == 1
    assert "RuntimeError: planted" in done.out
    assert "missing" not in done.out
    path = tmp_path / "new.json"
    assert bench("check", "--baseline", path, "--out", out, "--update").status == 1
    assert not path.exists()


def test_times_are_measured_when_asked(bench, before, tmp_path, monkeypatch):
    """By turns with the passes of an attack; their ratio is kept, and never asserted here."""
    monkeypatch.setattr(check_cli, "_ROUNDS", 1)
    path = tmp_path / "timed.json"
    words = ["check", "--baseline", path, "--out", before, "--max-slowdown", "1000"]
    assert bench(*words, "--update").status == 0
    assert set(json.loads(path.read_text())["ratios"]) == {"pgd:steps=3 l2", "ddn:steps=5 l2"}
    done = bench(*words)
    assert done.status == 0
    assert "5 as before" in done.out


def test_the_committed_baseline_is_of_the_committed_sweep(monkeypatch):
    monkeypatch.chdir(ROOT)  # the sweep names its weights from there
    job = resolve(request_of(yaml.safe_load((COMMITTED / "sweep.yaml").read_text())))
    rows = parse((COMMITTED / "baseline.json").read_text(), "baseline").rows
    planned = {cell.title: (cell.pipeline, cell.data.samples) for cell in job.cells}
    assert {row.title: (row.pipeline, row.samples) for row in rows} == planned


def test_the_committed_weights_are_those_of_the_page():
    page = (COMMITTED / "README.md").read_text()
    files = sorted(COMMITTED.glob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        read, _ = checkpoint.read(file)
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {file.name} |")]
        assert checkpoint.digest(read) in line
