"""`bench gan`: a generator trained, looked at, written, gone on with and refused."""

import contextlib
import math
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from bench import cli, data, gan_cli
from bench.report.gan import table
from bench.report.gan.portrait import OWN, TEST
from models import checkpoint, gan, studio
from models.architectures import Dcgan
from models.gans import Gan
from models.registry import generators

SMALL = ["--n", "10", "--steps", "20", "--restarts", "2", "--model", "logreg:epochs=3"]
SMALL += ["--samples", "200"]
TABLES = ["gan.csv", "gan_coverage.csv", "gan_measures.csv", "gan.md"]
PAGE = "gan_digits.svg"
UNSEEN = "not shown: samples and coverage over time, as the "


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


def measures(folder):
    """The values of gan_measures.csv by measure and what they are of."""
    rows = pd.read_csv(folder / "gan_measures.csv")
    return {(row.measure, row.of): row.value for row in rows.itertuples()}


def one(found, name, of=""):
    """The value of a measure whose "of" holds a text."""
    (value,) = [value for (measure, what), value in found.items() if measure == name and of in what]
    return value


# --- what is written -----------------------------------------------------------------------------


def test_everything_is_written_and_named(looked):
    out, done = looked
    names = ["generator.safetensors", *TABLES, f"figures/{PAGE}"]
    assert done.stdout.splitlines()[-len(names) :] == [str(out / name) for name in names]
    assert "dcgan:updates=60 on digits: trained, 60 updates in" in done.stdout
    assert "update 60/60: loss of D" in done.stderr
    ET.parse(out / "figures" / PAGE)  # noqa: S314  our own file


def test_the_page_says_what_was_measured(looked):
    out, _ = looked
    text = (out / "gan.md").read_text(encoding="utf-8")
    weights, facts = checkpoint.read(out / "generator.safetensors")
    digest, size = checkpoint.digest(weights), sum(t.numel() for t in weights.values())
    assert f"weights {digest}" in text
    found = measures(out)
    assert one(found, "parameters") == size
    assert one(found, "size (MB)") == pytest.approx(4 * size / 1e6)
    assert one(found, "updates") == 60
    spent = sum(entry["seconds"] for entry in facts["log"])
    assert one(found, "training time (s)") == pytest.approx(spent)
    (line,) = [line for line in text.splitlines() if line.startswith("Samples per class: ")]
    counts = [int(part.split(": ")[1].replace(",", "")) for part in line[19:].split(", ")]
    assert sum(counts) == 200
    shares = [number / 200 for number in counts if number]
    assert one(found, "classes found") == len(shares)
    entropy = -sum(share * math.log(share) for share in shares)
    assert one(found, "class entropy (nats)") == pytest.approx(entropy)
    own, test = (one(found, f"inversion error, mean, {name}") for name in (OWN, TEST))
    assert own * 20 < test, "own samples are inverted far better"
    for name in (
        TEST,
        "samples of dcgan:updates=0",
        "adversarial: pgd:steps=10, linf eps = 0.15",
    ):
        assert one(found, f"membership AUC, {name}", f"own samples beside 10 {name}") == 1
        assert one(found, f"membership TPR (%) at 5 % FPR, {name}") == 100
    assert one(found, "accuracy (%)", "10 test images, seen by logreg:epochs=3") >= 80
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    assert one(found, "FID") > one(found, "FID, at best")
    last = text.strip().splitlines()[-1]
    assert last.startswith("Made by `bench gan --generator dcgan:updates=60 --n 10")
    assert last.endswith("with adversarial-bench 0.1.0.")


def test_what_was_seen_of_the_training_is_a_table(looked):
    rows = pd.read_csv(looked[0] / "gan_coverage.csv")
    assert list(rows.columns) == list(table.COVERAGE)
    assert list(rows["update"]) == list(range(2, 61, 2))
    for row in rows.itertuples():
        counts = [int(number) for number in row.counts.split()]
        assert (sum(counts), len(counts)) == (row.samples, 10)
        assert (row.classes, row.share) == (sum(map(bool, counts)), max(counts) / sum(counts))


def test_the_log_is_a_table(looked):
    rows = pd.read_csv(looked[0] / "gan.csv")
    assert list(rows.columns) == list(table.LOG)
    assert list(rows["update"]) == list(range(2, 61, 2))
    assert np.isfinite(rows.to_numpy()).all()


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
    assert f"{UNSEEN}training was not here: --retrain trains again" in said
    again = checkpoint.read(tmp_path / "o" / "generator.safetensors")
    assert again[1] == facts
    assert checkpoint.digest(again[0]) == checkpoint.digest(weights)
    # Asked for, it is trained here all the same, and cached.
    status, said, err = bench(*asked, "--retrain", "--quiet")
    assert (status, "on digits: trained" in said, err) == (0, True, "")
    assert "not shown" not in said
    once_more = checkpoint.read(tmp_path / "o" / "generator.safetensors")[0]
    assert checkpoint.digest(once_more) == checkpoint.digest(weights)


def test_given_weights_have_no_past_and_others_are_named(bench, looked, tmp_path):
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
    assert f"{UNSEEN}generator is given" in said
    found = measures(tmp_path)
    assert not any(name == "updates" for name, _ in found)
    for name in ("dcgan:updates=0,seed=1", "dcgan:updates=0,seed=2"):
        assert one(found, f"membership AUC, samples of {name}") == 1
    assert one(found, "membership AUC, adversarial: fgsm, l2 eps = 1") > 0.5
    text = (tmp_path / "gan.md").read_text(encoding="utf-8")
    assert f"\nMade by `bench gan --generator {spec} --other" in text
    assert [path.name for path in there.iterdir()] == [PAGE], "what is no longer made is removed"
    assert (tmp_path / "gan.csv").read_text() == ",".join(table.LOG) + "\n"
    assert (tmp_path / "gan_coverage.csv").read_text() == ",".join(table.COVERAGE) + "\n"


def generator_file(folder, body):
    """A file with a generator of the user's own, latents z to the images that a line returns."""
    path = folder / "mine.py"
    path.write_text(
        "import torch\n"
        "from sklearn.datasets import load_digits\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, z):\n"
        f"        {body}\n"
        "def make(shape, latent):\n"
        "    return Net()\n"
    )
    return f"{path}:make:latent=4"


def test_a_collapsed_generator_is_named(bench, tmp_path):
    spec = generator_file(tmp_path, "return 0 * z.sum(1).view(-1, 1, 1, 1) + torch.eye(8)")
    status, said, err = bench("--generator", spec, *SMALL, "--out", tmp_path)
    assert status == 0, err
    for text in (said, (tmp_path / "gan.md").read_text(encoding="utf-8")):
        assert "collapse: in the end; 100 % in class " in text
        assert "latent ignored: the samples lie less than a tenth as far apart as" in text
    found = measures(tmp_path)
    assert one(found, "classes found") == 1
    assert one(found, "class entropy (nats)") == 0
    assert one(found, "dominant share (%)") == 100
    assert one(found, "recall") == 0
    assert math.isnan(one(found, "longest step, linear"))
    assert "nan" not in said
    assert "not shown: latent arithmetic, as classes of four images must be at least two" in said


def test_truncated_samples_accuse_no_generator(bench, tmp_path):
    spec = generator_file(tmp_path, "return (z.view(-1, 1, 2, 2).repeat(1, 1, 4, 4) + 2) / 4")
    asked = ["--truncation", "0.01", *SMALL, "--out", tmp_path]
    status, said, err = bench("--generator", spec, *asked)
    assert status == 0, err
    assert not any(name in said for name in ("collapse: ", "dropping: ", "latent ignored: "))
    assert "not shown: what is wrong by name in the end, as these are samples at psi = 0.01" in said
    found = measures(tmp_path)
    assert one(found, "inversion error, mean, own samples", "10 own samples at psi = 0.01") >= 0


def test_all_is_written_though_nobody_reads_what_is_printed(bench, looked, tmp_path, monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(gan_cli, "print", closed, raising=False)
    spec = f"dcgan:weights={looked[0] / 'generator.safetensors'}"
    with contextlib.suppress(BrokenPipeError):
        bench("--generator", spec, *SMALL, "--out", tmp_path, "--quiet")
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"generator.safetensors", *TABLES, PAGE}


def test_a_generator_that_copies_training_images_is_caught(bench, tmp_path):
    body = "at = (z.abs().sum(1) * 1e4).long() % 1797\n        "
    body += "return torch.tensor(load_digits().images[at] / 16).float().unsqueeze(1) + 0 * z[0, 0]"
    spec = generator_file(tmp_path, body)
    status, _, err = bench("--generator", spec, *SMALL, "--out", tmp_path)
    assert status == 0, err
    found = measures(tmp_path)
    assert one(found, "nearest training image, least") == 0
    # Of the 1,797 images 65 % are training images: a copy of another is no copy.
    assert 50 < one(found, "copies (%)") < 80
    assert one(found, "classes found") == 10


def test_classes_are_asked_of_a_conditional_generator(bench, tmp_path):
    spec = "conditional:updates=2,batch=8,critic=1"
    asked = ["--label", "7", "--label", "3", "--truncation", "0.5"]
    status, _, err = bench("--generator", spec, *asked, *SMALL, "--out", tmp_path, "--quiet")
    assert (status, err) == (0, "")
    found = measures(tmp_path)
    of = "1,000 samples at psi = 0.5, 10 classes alike, seen by logreg:epochs=3"
    assert 0 <= found["requested label right (%)", of] <= 100
    assert one(found, "classes found", "200 samples at psi = 0.5, seen by logreg") >= 1


@pytest.mark.parametrize("name", ["mlp", "progressive", "style"])
def test_other_architectures_are_looked_at_by_the_same_command(bench, tmp_path, name):
    spec = f"{name}:updates=2,batch=8,critic=1"
    status, said, err = bench("--generator", spec, *SMALL, "--out", tmp_path, "--quiet")
    assert (status, err) == (0, "")
    assert f"{spec} on digits: trained, 2 updates" in said
    assert len(pd.read_csv(tmp_path / "gan_coverage.csv")) == 2


def test_stacked_digits_are_counted_by_triples(bench, tmp_path):
    spec = "dcgan:updates=2,batch=8,critic=1"
    status, said, err = bench("--stacked", "--generator", spec, *SMALL, "--out", tmp_path)
    assert status == 0, err
    assert f"{spec} on stacked_digits: trained" in said
    found = measures(tmp_path)
    # 1,000 (1 - 0.999^200) = 181.4
    seen = "200 samples, seen by logreg:epochs=3; of 1,000, 181 expected of the class prior"
    assert 1 <= one(found, "classes found", seen) <= 200
    assert math.isnan(one(found, "classes dropped", "too few samples to tell"))
    assert one(found, "accuracy (%)", "10 test images") >= 50, "three digits right of three"
    assert one(found, "FID", "channel by channel") > 0
    assert checkpoint.read(tmp_path / "generator.safetensors")[1]["log"]
    ET.parse(tmp_path / "figures" / "gan_stacked_digits.svg")  # noqa: S314  our own file


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
        (
            ["--label", "3"],
            "--label asks for a class, and dcgan cannot be asked",
        ),
        (["--generator", "conditional", "--label", "10"], "label must be from 0 to 9, got 10"),
        (["--generator", "conditional", "--label", "-1"], "label must be from 0 to 9, got -1"),
        (["--generator", "conditional:classes=9"], "can be asked for 9 classes, and digits has 10"),
        (["--generator", "conditional", "--stacked"], "and stacked_digits has 1000"),
        (["--truncation", "0"], "truncation must be in (0, 1], got 0"),
        (["--truncation", "1.5"], "truncation must be in (0, 1], got 1.5"),
        (["--truncation", "nan"], "truncation must be in (0, 1], got nan"),
        (["--samples", "99"], "samples must be from 100 to 100000, got 99"),
        (["--samples", "100000000"], "samples must be from 100 to 100000, got 100000000"),
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


def test_a_classifier_without_features_is_refused_before_any_work(bench, tmp_path, cache):
    path = tmp_path / "flat.py"
    path.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())\n"
    )
    status, out, err = bench("--model", f"{path}:make", "--out", tmp_path / "x")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "features are what enters a net's last linear layer" in err
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
        (["show", "dcgan"], ["generator dcgan", "latent", "|least_squares"]),
    ):
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        with pytest.raises(SystemExit):
            cli.main()
        out = capsys.readouterr().out
        assert all(text in out for text in expected)
    assert {"dcgan", "defensegan", "conditional", "progressive", "style"} <= {*generators.names()}
