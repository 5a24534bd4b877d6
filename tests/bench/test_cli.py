"""The command line as a user meets it."""

import random  # noqa: TID251  moments to kill at, drawn from a generator of our own
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pandas as pd
import pytest
import yaml

from bench import cli

RUN = [sys.executable, "-m", "bench", "run"]
SMALL = ["--model", "cnn_small:epochs=3", "--attack", "fgsm", "--attack", "pgd:steps=5"]
SMALL += ["--n", "300"]
TIMES = ["wall_s", "peak_memory_mb"]
"""Columns of measurements: another run measures anew."""


@dataclass(frozen=True)
class Finished:
    """What a command left: exit status and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def bench(capsys, monkeypatch):
    """Runs a command line in this process, as the console script does."""

    def run(*arguments, cwd=None):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["bench", *map(str, arguments)])
            if cwd is not None:
                patch.chdir(cwd)
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
        printed = capsys.readouterr()
        return Finished(ended.value.code or 0, printed.out, printed.err)

    return run


def timeless(out):
    """The tables without what is measured anew."""
    tables = ["accuracy_vs_eps.csv", "leaderboard.csv"]
    return {
        name: pd.read_csv(out / name).drop(columns=TIMES, errors="ignore").to_csv()
        for name in tables
    }


def written(out):
    """Every derived file's bytes."""
    files = [p for p in out.rglob("*") if p.suffix in {".csv", ".md", ".svg", ".html"}]
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed, in a process of its own."""
    out = tmp_path_factory.mktemp("whole")
    done = subprocess.run([*RUN, *SMALL, "--out", str(out)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_writes_its_tables(whole):
    expected = {
        "accuracy_vs_eps.csv",
        "accuracy_vs_eps.md",
        "leaderboard.csv",
        "leaderboard.md",
        "attacks.csv",
        "attacks.md",
        "anytime.csv",
        "anytime.md",
        "audit.csv",
        "audit.md",
        "timing.csv",
        "timing.md",
        "report.html",
        "learning.csv",
        "figures/accuracy_vs_eps_digits_linf.svg",
        "figures/learning_digits_linf.svg",
        "figures/anytime_digits_linf.svg",
    }
    assert set(written(whole)) == expected
    table = pd.read_csv(whole / "accuracy_vs_eps.csv")
    assert list(table.columns[:20]) == [
        "dataset",
        "model",
        "defense",
        "attack",
        "mode",
        "norm",
        "eps",
        "seed",
        "n",
        "accuracy",
        "ci_low",
        "ci_high",
        "clean_accuracy",
        "forward_queries",
        "backward_queries",
        "wall_s",
        "device",
        "precision",
        "audit",
        "cell",
    ]
    assert sorted(table.eps.unique()) == [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    by_attack = table.groupby("attack").accuracy.apply(list)
    assert all(curve == sorted(curve, reverse=True) for curve in by_attack)
    assert "audit" not in by_attack
    worst = by_attack["worst-case"]
    assert all(
        w <= min(f, p)
        for w, f, p in zip(worst, by_attack["fgsm"], by_attack["pgd:steps=5"], strict=True)
    )


def test_the_same_command_again_does_no_work_and_writes_the_same_bytes(bench, whole):
    before = written(whole)
    again = bench("run", *SMALL, "--out", whole)
    assert again.status == 0
    assert "to run" not in again.err
    assert written(whole) == before


def test_report_writes_the_same_bytes(bench, whole):
    before = written(whole)
    for path in before:
        (whole / path).unlink()
    done = bench("report", "--out", whole)
    assert done.status == 0
    assert "cnn_small" in done.out
    assert written(whole) == before


def test_fresh_differs_in_times_alone(bench, whole, tmp_path):
    bench("run", *SMALL, "--out", tmp_path)
    first = timeless(tmp_path)
    done = bench("run", *SMALL, "--out", tmp_path, "--fresh")
    assert "to run" in done.err
    assert timeless(tmp_path) == first == timeless(whole)


def test_batch_size_and_order_move_no_outcome(bench, whole, tmp_path):
    done = bench(
        "run", "--attack", "pgd:steps=5", "--attack", "fgsm", *SMALL[:2], "--n", 300,
        "--batch-size", 29, "--out", tmp_path,
    )  # fmt: skip
    assert done.status == 0
    assert timeless(tmp_path) == timeless(whole)


def test_a_config_file_holds_settings_that_flags_go_before(bench, whole, tmp_path):
    settings = {"model": "cnn_small:epochs=3", "attack": ["fgsm", "pgd:steps=5"], "n": 7}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(settings))
    done = bench("run", "--config", tmp_path / "sweep.yaml", "--n", 300, "--out", tmp_path / "out")
    assert done.status == 0
    assert timeless(tmp_path / "out") == timeless(whole)


def test_a_dry_run_shows_the_plan_and_makes_nothing(bench, whole, tmp_path):
    done = bench("run", *SMALL, "--dry-run", "--out", tmp_path / "new")
    assert done.status == 0
    assert not (tmp_path / "new").exists()
    # Two looks at each of 6 radii above 0 for 300 images; 6 looks for PGD with 5 steps; 500
    # queries for each of the audit's 100 images.
    assert "3,600" in done.out
    assert "10,800" in done.out
    assert "50,000" in done.out
    assert "3 cells, 0 stored, 3 to run" in done.out
    assert "3 cells, 3 stored, 0 to run" in bench("run", *SMALL, "--dry-run", "--out", whole).out
    without = bench("run", *SMALL, "--no-audit", "--dry-run", "--out", whole).out
    assert "2 cells, 2 stored, 0 to run" in without


@pytest.mark.parametrize("kills", [pytest.param(2), pytest.param(12, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_goes_on_to_the_same_tables(kills, whole, tmp_path):
    moments = random.Random(7)  # noqa: S311  no secret
    command = [*RUN, *SMALL, "--out", str(tmp_path)]
    started = time.monotonic()
    # A run that has nothing left to do shows how long the start takes.
    subprocess.run([*RUN, *SMALL, "--out", str(whole)], capture_output=True, check=True)
    longest = 1.2 * (time.monotonic() - started)
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.5, 1) * longest)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert timeless(tmp_path) == timeless(whole)


def interrupted(out):
    """Exit status and standard error of an endless run that was sent SIGINT at work."""
    # A parent that runs in the background may have told its children to ignore the signal.
    code = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('bench', run_name='__main__', alter_sys=True)"
    )
    endless = ["--attack", "noise:samples=1000000", "--attack", "fgsm", *SMALL[:2], "--n", "500"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", *endless, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # The plan is printed before the work starts; the signal meets the training or the attack.
        assert "cells to run" in process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        process.kill()
    return process.returncode, said


def test_an_interrupt_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    # A signal that meets a callback of the interpreter is printed and dropped: try again.
    for attempt in range(3):
        status, said = interrupted(tmp_path / str(attempt))
        if status == 130 and "Traceback" not in said:
            break
    assert status == 130
    assert said.strip().endswith("the same command goes on from there")
    assert "Traceback" not in said


def test_two_runs_into_one_folder_both_finish(whole, tmp_path):
    command = [*RUN, *SMALL, "--out", str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert timeless(tmp_path) == timeless(whole)


def test_a_failed_cell_is_shown_and_the_others_are_kept(bench, tmp_path):
    (tmp_path / "planted.py").write_text(
        "from torch import nn\n\ndef bad():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))\n"
    )
    done = bench(
        "run", "--model", f"{tmp_path}/planted.py:bad", "--model", "logreg:epochs=1",
        "--attack", "fgsm", "--n", 20, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.status == 1
    assert (
        "bench: failed: digits planted:bad / none / fgsm (white-box) linf seed 0: the model"
        in done.err
    )
    table = pd.read_csv(tmp_path / "out" / "accuracy_vs_eps.csv")
    assert table[table.model == "planted:bad"].accuracy.isna().all()
    assert table[table.model == "logreg:epochs=1"].accuracy.notna().all()
    assert str(tmp_path) not in (tmp_path / "out" / "leaderboard.csv").read_text()


def test_a_file_that_brings_its_own_models_package_gets_it(bench, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "blocks.py").write_text("from torch import nn\nHead = nn.Linear\n")
    (tmp_path / "net.py").write_text(
        "from models.blocks import Head\nfrom torch import nn\n\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), Head(64, 10))\n"
    )
    for folder, file in ((tmp_path, "net.py"), (tmp_path.parent, tmp_path / "net.py")):
        words = ["run", "--model", f"{file}:net", "--attack", "fgsm", "--n", 10, "--no-audit"]
        done = bench(*words, "--out", tmp_path / "out", cwd=folder)
        assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--attack", "pdg"], "no attack 'pdg'; did you mean 'pgd'"),
        (["run", "--attack", "pgd:stepz=3"], "did you mean 'steps'"),
        (["run", "--attack", "pgd:steps=0"], "steps must be at least 1, got 0"),
        (["run", "--attack", "pgd:steps=many"], "pgd: steps must be int, got 'many'"),
        (["run", "--eps=-0.1"], "eps must be at least 0"),
        (["run", "--eps", ""], "the eps grid is empty"),
        (["run", "--n", "501"], "n must be from 1 to 500"),
        (["run", "--n", "501", "--until-ci", "0.1"], "n must be from 1 to 500"),
        (["run", "--until-ci", "0.5"], "until-ci must lie between 0 and 0.5"),
        (["run", "--dataset", "mnist", "--data-root", "nowhere"], "MNIST/raw"),
        (["run", "--dataset", "npz:test=nowhere.npz"], "nowhere.npz"),
        (["run", "--dataset", "imagefolder:path=nowhere"], "nowhere"),
        (["run", "--attack", "bim", "--norm", "l2"], "bim knows the norms linf, got l2"),
        (["run", "--defense", "advtrain:lam=-1"], "lam must be at least 0"),
        (["run", "--defense", "advtrain:attack=[pdg]"], "did you mean 'pgd'"),
        (["run", "--model", "nofile.py:net"], "no file 'nofile.py'"),
        (["run", "--model", "cnn_small:weights=nofile.pt"], "weights must be a file"),
        (["run", "--precision", "bogus"], "precision must be one of auto, fp32, bf16, got 'bogus'"),
        (["run", "--bogus"], "No such option"),
        (["run", "--config", "nofile.yaml"], "--config nofile.yaml cannot be read"),
        (["frobnicate"], "No such command"),
        (["report", "--out", "nowhere"], "no results under nowhere"),
        (["export", "--out", "nowhere"], "no results under nowhere"),
        (["list", "attackz"], "did you mean 'attacks'"),
        (["show", "pdg"], "did you mean 'pgd'"),
    ],
)
def test_a_wrong_request_is_one_line_exit_2_and_makes_nothing(bench, arguments, says, tmp_path):
    done = bench(*arguments, cwd=tmp_path)
    assert done.status == 2
    assert says in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert "results" not in {path.name for path in tmp_path.iterdir()}


def test_a_place_that_cannot_be_written_is_refused_before_any_work(bench, tmp_path):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/below"):
        done = bench("run", "--out", out, cwd=tmp_path)
        assert (done.status, done.out) == (2, "")
        assert "--out must be a folder that can be written" in done.err


def test_list_and_show_print_what_the_recipes_say(bench):
    listed = bench("list").out
    for name in (
        "fgsm",
        "bim",
        "pgd",
        "noise",
        "advtrain",
        "cnn_small",
        "resnet18",
        "digits",
        "npz",
    ):
        assert f"| {name} " in listed
    shown = bench("show", "pgd").out
    assert "arXiv:1706.06083" in shown
    assert "kind: budget\nnorms: linf, l2, l1\n" in shown
    assert re.search(r"^steps +int +40$", shown, flags=re.MULTILINE)
    assert re.search(r"^loss +ce\|margin\|difference\|dlr\|squared +ce$", shown, flags=re.MULTILINE)


def test_doctor_finds_no_shadow_here_and_names_one_elsewhere(bench, tmp_path):
    (tmp_path / "models").mkdir()
    done = bench("doctor", cwd=tmp_path)
    assert done.status == 0, done.err
    assert "shadowed packages: models (here: " in done.out
    assert "dataset digits: 1297 training and 500 test images" in done.out


def test_export_writes_a_row_per_sample(bench, whole, tmp_path):
    done = bench("export", "--out", whole, "--to", tmp_path)
    assert done.status == 0
    samples = pd.read_parquet(tmp_path / "samples.parquet")
    assert len(samples) == 2 * 300
    assert samples.id.nunique() <= 300


def test_help_and_unknown_names_import_no_torch(tmp_path):
    code = (
        "import sys, bench.cli\n"
        "try: bench.cli.main()\n"
        "except SystemExit as err: sys.exit(99 if 'torch' in sys.modules else err.code)"
    )
    for arguments, status in (
        (["--help"], 0),
        (["run", "--help"], 0),
        (["run", "--attack", "pdg"], 2),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, check=False
        )
        assert done.returncode == status, done.stderr
