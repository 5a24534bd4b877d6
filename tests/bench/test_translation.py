"""`bench gan` of a pair of translators: trained, compared with the truth, written and refused."""

import sys
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bench import cli, data, translation_cli
from bench.report import translation as page
from bench.report.gan.portrait import Measure
from bench.report.gan.table import LOG
from bench.report.translation import Portrait
from bench.spec import Request
from bench.translation import _classes, _moments
from models import checkpoint
from models.cyclegan import CycleGan

SPEC = "cyclegan:width=4,updates=3"
SMALL = ["--n", "20", "--model", "logreg:epochs=2"]
FILES = [
    "generator.safetensors",
    "gan.csv",
    "gan_measures.csv",
    "gan.md",
    "figures/gan_digits.svg",
]


def run(capsys, monkeypatch, *arguments):
    """Runs `bench gan` in this process; status, output, errors."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["bench", "gan", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


@pytest.fixture
def bench(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda *arguments: run(capsys, monkeypatch, *arguments)


def test_a_pair_is_trained_compared_with_the_truth_and_written(bench, tmp_path):
    out = tmp_path / "out"
    status, said, err = bench("--generator", SPEC, *SMALL, "--out", out)
    assert status == 0, err
    assert said.splitlines()[-len(FILES) :] == [str(out / name) for name in FILES]
    assert f"{SPEC} on digits: trained, 3 updates in" in said
    assert "update 3/3: loss of D" in err
    ET.parse(out / FILES[-1])  # noqa: S314  our own file
    log = pd.read_csv(out / "gan.csv")
    assert list(log.columns) == list(LOG)
    assert list(log["update"]) == [1, 2, 3]
    assert np.isfinite(log.to_numpy()).all()

    # Every number again, from the files.
    table = pd.read_csv(out / "gan_measures.csv").set_index("measure")["value"]
    weights, facts = checkpoint.read(out / "generator.safetensors")
    digits, recipe = data.load("digits", None), CycleGan.from_spec(facts["spec"])
    assert facts["made_of"] == recipe.made_of(digits.shape, digits.fingerprint)
    pair = recipe.build(digits.shape)
    pair.load_state_dict(weights)
    x = digits.test.images(torch.from_numpy(digits.subset(20)))
    y = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    with torch.no_grad():
        there, back = pair.there(x), pair.back(y)
        again_a, again_b = pair.back(there), pair.there(back)
    expected = {
        "error, A to B": (there - y).abs().mean(),
        "error, B to A": (back - x).abs().mean(),
        "error, untranslated": (x - y).abs().mean(),
        "cycle error, A to B to A": (again_a - x).abs().mean(),
        "cycle error, B to A to B": (again_b - y).abs().mean(),
        "parameters": 2 * sum(p.numel() for p in pair.there.parameters()),
        "updates": 3,
    }
    for name, value in expected.items():
        assert table[name] == pytest.approx(float(value), rel=1e-5), name
    # Hardly trained, the pair leaves images nearly as they are, and so their classes.
    assert table["class kept, A to B to A"] >= 0.9
    text = (out / "gan.md").read_text(encoding="utf-8")
    assert f"| error, A to B | {expected['error, A to B']:.4g} | 20 test images |" in text
    assert "| class kept, B to A | " in text
    assert "seen by logreg:epochs=2 |" in text
    assert "![digits](figures/gan_digits.svg)" in text

    # Again: from the cache, and to the same page but for where it comes from; what a generator of
    # samples left is of no generator that is there.
    left = [out / "gan_coverage.csv", out / "figures/gan_samples_digits.svg"]
    for path in left:
        path.touch()
    first = (out / "gan_measures.csv").read_bytes()
    status, said, err = bench("--generator", SPEC, *SMALL, "--out", out, "--quiet")
    assert (status, err) == (0, "")
    assert f"{SPEC} on digits: cached, 3 updates in" in said
    assert (out / "gan_measures.csv").read_bytes() == first
    assert not any(path.exists() for path in left)
    again, _ = checkpoint.read(out / "generator.safetensors")
    assert checkpoint.digest(again) == checkpoint.digest(weights)
    assert "There and back over time" in (out / FILES[-1]).read_text(encoding="utf-8")
    # And from its file, without a training to look at.
    given = f"cyclegan:width=4,weights={out / 'generator.safetensors'}"
    status, said, err = bench("--generator", given, *SMALL, "--out", tmp_path / "o", "--quiet")
    assert (status, "on digits: given; B is blurred\n" in said) == (0, True), err
    assert "over time" not in (tmp_path / "o" / FILES[-1]).read_text(encoding="utf-8")


def test_files_are_there_though_nobody_reads_what_is_printed(tmp_path, monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(translation_cli, "print", closed, raising=False)
    request = Request(datasets=("digits",), models=("logreg:epochs=1",), attacks=("fgsm",), n=10)
    spec = "cyclegan:width=4,updates=0"
    with pytest.raises(BrokenPipeError):
        translation_cli.translate(request, spec, tmp_path / "out", quiet=True, retrain=False)
    assert all((tmp_path / "out" / name).is_file() for name in FILES)


class Brightness(nn.Module):
    """Logits of two classes: dark and bright."""

    def forward(self, x):
        mean = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([1 - mean, mean], 1)


def test_classes_are_compared_with_those_before_the_way_and_with_the_right_ones():
    def flat(*values):
        return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)

    looks = {
        "A": flat(0.1, 0.2, 0.8, 0.9),
        "truth in B": flat(0.6, 0.2, 0.1, 0.9),
        "A to B to A": flat(0.1, 0.7, 0.9, 0.6),
        "B to A": flat(0.9, 0.7, 0.1, 0.6),
    }
    made = _classes(Brightness(), looks, torch.tensor([0, 1, 1, 0]), "4 test images")
    assert {m.name: m.value for m in made} == {
        "class kept, A to B to A": 0.75,
        "class kept, B to A": 0.75,
        "accuracy, A": 0.5,
        "accuracy, truth in B": 0.0,
        "accuracy, A to B to A": 0.75,
        "accuracy, B to A": 0.25,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cyclegan", "--other", "dcgan"], "--other is of samples, and cyclegan makes images of"),
        (["cyclegan", "--label", "3"], "--label is of samples, and cyclegan makes images of"),
        (["cyclegan", "--stacked"], "--stacked is of samples, and cyclegan makes images of"),
        (["cyclegan", "--steps", "200"], "--steps is of samples, and cyclegan makes images of"),
        (["cyclegan", "--restarts", "2"], "--restarts is of samples, and cyclegan makes images of"),
        (["cyclegan", "--adversarial", "fgsm"], "--adversarial is of samples, and cyclegan makes"),
        (["cyclegan", "--norm", "l2"], "--norm is of samples, and cyclegan makes images of"),
        (["dcgan", "--other", "cyclegan"], "cyclegan makes images of images, and a generator"),
        (["cyclegan:updates=0", "--retrain"], "--retrain trains, and cyclegan:updates=0 is not"),
        (["cyclegan:cycle=-1"], "cyclegan: cycle must be at least 0, got -1.0"),
        (["cyclegam"], "no generator 'cyclegam'; did you mean 'cyclegan'?"),
    ],
)
def test_what_makes_no_sense_is_refused(bench, tmp_path, arguments, message):
    status, _, err = bench("--generator", *arguments, *SMALL, "--out", tmp_path)
    assert status == 2
    assert message in err


def test_an_album_is_read_as_what_it_shows():
    images = torch.tensor([0, 255]).view(2, 1, 1, 1).expand(2, 1, 4, 4).to(torch.uint8)
    half = torch.full_like(images, 51)
    album = {20: torch.cat([images, 255 - images, images]), 10: torch.cat([images, images, half])}
    seen = _moments(album, CycleGan(to="negative"))
    assert seen.updates == [10, 20]
    assert np.array_equal(seen.truth, 1 - seen.images)
    # At first everything as it is, the way back a fifth: off by 0.2 and 0.8; then all as it should.
    assert seen.errors == [1, 0]
    assert seen.cycles == pytest.approx([0.5, 0])


def portrait(**changes):
    rng = torch.Generator().manual_seed(0)
    shown = {name: torch.rand(4, 3, 5, 5, generator=rng).numpy() for name in ("A", "A to B")}
    fields = {
        "dataset": "some",
        "generator": "cyclegan",
        "source": "given",
        "to": "blurred",
        "weights": "0123",
        "log": (),
        "measures": (Measure("error, A to B", 0.25, "4 | 5"), Measure("parameters", 12345, "both")),
        "moments": None,
        "shown": shown,
        "command": "bench gan",
    }
    return Portrait(**(fields | changes))


def test_the_table_of_a_pair_that_is_given():
    text = page.markdown(portrait(), "figures")
    assert "| error, A to B | 0.25 | 4 \\| 5 |" in text
    assert "| parameters | 12,345 | both |" in text
    assert "cyclegan: given; B is blurred; weights 0123" in text
    assert len(page.log(portrait())) == 0
    assert page.measures(portrait()).column("value") == [0.25, 12345.0]
    assert page.told(portrait()).splitlines()[0] == "cyclegan on some: given; B is blurred"


def test_equal_portraits_give_equal_pages():
    first = page.svg(portrait())
    assert first == page.svg(portrait())
    assert "Test images" in first
    assert "some: cyclegan, given; B is blurred" in first
    assert "Scores and losses" not in first
