"""`bench gan`: a generator trained, looked at, written, gone on with and refused."""

import math
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import torch

from bench import cli, data
from bench.gan import SAMPLES
from bench.report import gan as page
from bench.report.gan import OWN, TEST, Portrait, Source
from models import checkpoint, gan, studio
from models.architectures import Dcgan
from models.gans import Gan
from models.registry import generators

SMALL = ["--n", "10", "--steps", "20", "--restarts", "2", "--model", "logreg:epochs=3"]
FIGURES = [f"gan_{kind}_digits.svg" for kind in ("samples", "curves", "inversions", "membership")]


@pytest.fixture
def bench(capsys, monkeypatch):
    """Runs `bench gan` in this process; status, output, errors."""

    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["bench", "gan", *map(str, arguments)])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of a test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "adversarial-bench"


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """The folder of a generator after 60 updates, and what was printed; in a process of its own."""
    out = tmp_path_factory.mktemp("looked")
    command = ["gan", "--generator", "dcgan:updates=60", *SMALL, "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out, done


def cells(text, first):
    """The row of gan.md that begins with a cell."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


# --- what is written -----------------------------------------------------------------------------


def test_everything_is_written_and_named(looked):
    out, done = looked
    names = ["generator.safetensors", "gan.csv", "gan.md", *(f"figures/{n}" for n in FIGURES)]
    assert done.stdout.splitlines()[-len(names) :] == [str(out / name) for name in names]
    assert "dcgan:updates=60 on digits: trained, 60 updates in" in done.stdout
    assert "update 60/60: loss of D" in done.stderr
    for name in FIGURES:
        ET.parse(out / "figures" / name)  # noqa: S314  our own file


def test_the_page_says_what_was_measured(looked):
    out, _ = looked
    text = (out / "gan.md").read_text(encoding="utf-8")
    weights, facts = checkpoint.read(out / "generator.safetensors")
    row = cells(text, "dcgan:updates=60")
    size = sum(t.numel() for t in weights.values())
    digest = checkpoint.digest(weights)
    assert row[:5] == [
        "dcgan:updates=60",
        "trained",
        f"{size:,}",
        f"{4 * size / 1e6:.2f}",
        "60",
    ]
    assert float(row[5]) == pytest.approx(sum(e["seconds"] for e in facts["log"]), rel=0.1)
    assert row[6] == digest
    counts = [int(cell.replace(",", "")) for cell in cells(text, "samples")[1:]]
    assert sum(counts) == SAMPLES
    shares = [number / SAMPLES for number in counts if number]
    entropy = -sum(share * math.log(share) for share in shares)
    assert f"{len(shares)} of 10 classes, entropy {entropy:.3f} of at most 2.303 nats" in text
    own, test, other, moved = (
        cells(text, name)
        for name in (
            OWN,
            TEST,
            "samples of dcgan:updates=0",
            "adversarial: pgd:steps=10, linf eps = 0.15",
        )
    )
    assert all(row[1] == "10" for row in (own, test, other, moved))
    assert float(own[3]) * 20 < float(test[3]), "own samples are inverted far better"
    assert (own[4:], test[4:]) == (["", "", ""], ["1.000", "100.0", "100.0"])
    assert "The classifier logreg:epochs=3 gets " in text
    last = text.strip().splitlines()[-1]
    assert last.startswith("Made by `__main__.py gan --generator dcgan:updates=60 --n 10")
    assert last.endswith("with adversarial-bench 0.1.0.")


def test_the_log_is_a_table(looked):
    table = pd.read_csv(looked[0] / "gan.csv")
    assert list(table.columns) == list(page.LOG)
    assert list(table["update"]) == list(range(2, 61, 2))
    assert np.isfinite(table.to_numpy()).all()


def test_the_weights_are_found_where_they_come_with_the_package(
    bench, looked, tmp_path, monkeypatch, cache
):
    out, _ = looked
    weights, facts = checkpoint.read(out / "generator.safetensors")
    digits = data.load("digits", None)
    recipe = Gan.from_spec(facts["spec"])
    assert recipe == Dcgan(updates=60)
    parts = recipe.made_of(digits.shape, digits.fingerprint)
    assert facts["made_of"] == parts
    monkeypatch.setattr(studio, "PRETRAINED", out)
    found = studio.pretrained(parts)
    assert checkpoint.digest(found[0]) == checkpoint.digest(weights)
    asked = ["--generator", "dcgan:updates=60", *SMALL, "--out", tmp_path / "o"]
    status, said, err = bench(*asked)
    assert (status, "dcgan:updates=60 on digits: pretrained, 60 updates" in said) == (0, True)
    assert "training dcgan" not in err
    again = checkpoint.read(tmp_path / "o" / "generator.safetensors")
    assert again[1] == facts
    assert checkpoint.digest(again[0]) == checkpoint.digest(weights)
    # Asked for, it is trained here all the same, and cached.
    status, said, err = bench(*asked, "--retrain", "--quiet")
    assert (status, "on digits: trained" in said, err) == (0, True, "")
    once_more = checkpoint.read(tmp_path / "o" / "generator.safetensors")[0]
    assert checkpoint.digest(once_more) == checkpoint.digest(weights)


def test_given_weights_have_no_curves_and_others_are_named(bench, looked, tmp_path):
    out, _ = looked
    there = tmp_path / "figures"
    there.mkdir()
    (there / "gan_curves_digits.svg").write_text("of another generator")
    spec = f"dcgan:weights={out / 'generator.safetensors'}"
    others = ["--other", "dcgan:updates=0,seed=1", "--other", "dcgan:updates=0,seed=2"]
    attack = ["--adversarial", "fgsm", "--norm", "l2"]
    status, said, err = bench("--generator", spec, *others, *attack, *SMALL, "--out", tmp_path)
    assert status == 0, err
    assert "dcgan:weights=generator on digits: given\n" in said
    text = (tmp_path / "gan.md").read_text(encoding="utf-8")
    assert cells(text, "dcgan:weights=generator")[4:6] == ["", ""]
    for name in ("dcgan:updates=0,seed=1", "dcgan:updates=0,seed=2"):
        assert cells(text, f"samples of {name}")[1] == "10"
    assert cells(text, "adversarial: fgsm, l2 eps = 1")
    assert f"\nMade by `bench gan --generator {spec} --other" in text
    assert sorted(path.name for path in there.iterdir()) == sorted(set(FIGURES) - {FIGURES[1]})
    assert (tmp_path / "gan.csv").read_text() == ",".join(page.LOG) + "\n"


def test_a_generator_of_the_users_own_is_looked_at(bench, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import math\n"
        "from torch import nn\n"
        "def make(shape, latent):\n"
        "    layers = nn.Linear(latent, math.prod(shape)), nn.Sigmoid()\n"
        "    return nn.Sequential(*layers, nn.Unflatten(1, shape))\n"
    )
    status, said, err = bench("--generator", f"{path}:make:latent=4", *SMALL, "--out", tmp_path)
    assert status == 0, err
    assert "mine:make:latent=4 on digits: given\n" in said
    assert "samples of" not in said
    status, _, err = bench("--generator", f"{path}:make:updates=3", *SMALL, "--out", tmp_path)
    assert (status, err.count("\n")) == (2, 1)
    assert "updates is of training" in err


# --- ends ----------------------------------------------------------------------------------------


def test_an_interrupted_training_goes_on(bench, looked, tmp_path, cache, monkeypatch):
    asked = ["--generator", "dcgan:updates=60", *SMALL, "--out", tmp_path / "o"]
    note, entries = gan._note, []

    def interrupted(*arguments):
        entries.append(1)
        if len(entries) == 8:
            raise KeyboardInterrupt
        note(*arguments)

    monkeypatch.setattr(gan, "_note", interrupted)
    status, out, err = bench(*asked)
    assert (status, out) == (130, "")
    said = "bench: interrupted; log entries are kept, the same command goes on from there"
    assert said in err
    assert not (tmp_path / "o").exists()
    status, _, err = bench(*asked)
    assert status == 0
    assert "going on after update 14/60" in err
    whole, again = (
        checkpoint.read(path / "generator.safetensors")[0] for path in (looked[0], tmp_path / "o")
    )
    assert checkpoint.digest(whole) == checkpoint.digest(again)


def test_a_training_that_fails_is_one_line(bench, tmp_path, cache):
    spec = "dcgan:updates=60,objective=nonsaturating,lr=1e30"
    status, out, err = bench("--generator", spec, *SMALL, "--out", tmp_path / "o", "--quiet")
    assert (status, out) == (1, "")
    assert err.startswith("bench: failed: GAN training diverged by update 2; the last good gener")
    assert err.count("\n") == 1
    kept = err.strip().rpartition(" kept as ")[2]
    assert checkpoint.read(cache / "failed" / kept.rpartition("/")[2])[1]["update"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--generator", "dcgn"], "no generator 'dcgn'; did you mean 'dcgan'"),
        (["--generator", "dcgan:latent=0"], "latent must be at least 1, got 0"),
        (["--generator", "defensegan"], "defensegan makes images with sides from 16 to 32"),
        (["--generator", "none.py:make"], "no file 'none.py'"),
        (["--other", "dcgn"], "no generator 'dcgn'; did you mean 'dcgan'"),
        (["--other", "defensegan:updates=0"], "defensegan makes images with sides from 16"),
        (["--dataset", "digit"], "no dataset 'digit'; did you mean 'digits'"),
        (["--model", "mpl"], "no model 'mpl'; did you mean 'mlp'"),
        (["--adversarial", "pdg"], "no attack 'pdg'; did you mean 'pgd'"),
        (["--adversarial", "cw"], "attack cw knows the norms l2, got linf"),
        (["--adversarial", "transfer"], "transfer needs "),
        (["--norm", "l7"], "norm must be one of linf, l2, l1, l0, got 'l7'"),
        (["--n", "0"], "n must be at least 1, got 0"),
        (["--n", "501"], "n must be from 1 to 500"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--restarts", "0"], "restarts must be at least 1, got 0"),
        (["--device", "tpu"], "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        (["--retrain", "--generator", "dcgan:updates=0"], "dcgan:updates=0 is not trained"),
    ],
)
def test_a_bad_request_is_one_line(bench, tmp_path, cache, arguments, message):
    status, out, err = bench(*arguments, "--out", tmp_path / "x")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "x").exists()
    assert not cache.exists(), "nothing was trained"


def test_weights_that_do_not_fit_are_refused_before_any_work(bench, looked, tmp_path, cache):
    weights = looked[0] / "generator.safetensors"
    for arguments in (
        ["--generator", f"dcgan:latent=5,weights={weights}"],
        ["--other", f"dcgan:width=5,weights={weights}"],
        ["--model", f"logreg:weights={weights}"],
    ):
        status, _, err = bench(*arguments, "--out", tmp_path / "x")
        assert (status, err.count("\n")) == (2, 1)
        assert "weights generator.safetensors do not load into " in err
    blocked = tmp_path / "file"
    blocked.write_text("")
    status, _, err = bench("--out", blocked / "x")
    assert (status, err.count("\n")) == (2, 1)
    assert "--out must be a folder that can be written" in err
    assert not cache.exists()


def test_help_and_unknown_names_import_no_torch():
    code = (
        "import sys, bench.cli\n"
        "try: bench.cli.main()\n"
        "except SystemExit as err: sys.exit(99 if 'torch' in sys.modules else err.code)"
    )
    for arguments, status in ((["gan", "--help"], 0), (["gan", "--generator", "x"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, check=False
        )
        assert done.returncode == status, done.stderr


def test_generators_are_listed_and_shown(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # lines are wrapped on a narrow terminal
    for words, expected in (
        (["list", "generators"], ["| dcgan ", "| defensegan ", "latent, prior, objective"]),
        (["show", "dcgan"], ["generator dcgan", "latent", "wasserstein|nonsaturating"]),
    ):
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        with pytest.raises(SystemExit):
            cli.main()
        out = capsys.readouterr().out
        assert all(text in out for text in expected)
    assert generators.names() == ["dcgan", "defensegan"]


# --- the page ------------------------------------------------------------------------------------


def portrait(**changes):
    images = np.zeros((2, 3, 4, 4), np.float32)
    kept = {
        "dataset": "photos",
        "generator": "dcgan",
        "source": "untrained",
        "model": "cnn",
        "inversion": "L = 1, R = 1",
        "parameters": 7,
        "size": 28,
        "weights": "ab",
        "log": (),
        "counts": (750, 250, 0),
        "clean": 0.5,
        "kept": 0.25,
        "sources": (
            Source(OWN, (0.1, 0.3)),
            Source(TEST, (0.2, 0.4), 0.75, {0.01: 0.5, 0.05: 0.5}, ((0, 0), (0, 0.5), (1, 1))),
        ),
        "samples": np.zeros((16, 3, 4, 4), np.float32),
        "images": images,
        "inverted": images,
        "command": "bench gan",
    }
    return Portrait(**(kept | changes))


def test_the_page_of_known_numbers():
    made = portrait()
    text = page.markdown(made)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert made.entropy == pytest.approx(entropy)
    assert f"1,000 samples: 2 of 3 classes, entropy {entropy:.3f} of at most 1.099 nats" in text
    assert "| own samples | 2 | 0.2 | 0.2 |  |  |  |" in text
    assert "| test images | 2 | 0.3 | 0.3 | 0.750 | 50.0 | 50.0 |" in text
    assert "| dcgan | untrained | 7 | 0.00 | 0 |  | ab |" in text
    assert "cnn gets 50.0 % of the 2 test images right, and 25.0 % of their inversions" in text
    assert "Made by `bench gan` with adversarial-bench" in text
    assert portrait(source="given").updates is None


def test_figures_of_colour_images_are_the_same_bytes_each_time():
    made = portrait(log=({"update": 3, **dict.fromkeys(list(page.LOG)[1:], 0.5)},))
    drawn = page.figures(made)
    assert list(drawn) == page.names("photos")
    assert page.figures(made) == drawn
    assert list(page.figures(portrait())) == [n for n in page.names("photos") if "curves" not in n]


def test_one_sided_portraits_are_drawn_too():
    two = torch.zeros(8, 2, 4, 4).numpy()
    assert page.figures(portrait(samples=two, images=two[:1], inverted=two[:1]))
