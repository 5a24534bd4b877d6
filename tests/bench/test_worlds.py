"""`bench worlds`: every known answer, the tables, the page, and GANs on mixtures."""

import csv
import io
import math
import sys
import xml.etree.ElementTree as ET
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import cli, worlds, worlds_cli
from bench.report.worlds import page, table
from bench.report.worlds.played import Check, Cloud, Worlds
from models.registry import generators
from models.studio import Studio
from models.worlds.mixtures import RING, SHAPE, Mixture

FILES = ["worlds.csv", "worlds_shifts.csv", "worlds_modes.csv", "worlds.md", "figures/worlds.svg"]


@dataclass(frozen=True)
class Played:
    """A folder written, what was printed, and what it was printed of."""

    out: Path
    code: int
    told: str
    errors: str
    worlds: Worlds


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Worlds whose generators made two updates."""
    out, kept, said, errors = tmp_path_factory.mktemp("played"), [], io.StringIO(), io.StringIO()
    play = worlds.play
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(errors):
        patch.setattr(sys, "argv", ["bench", "worlds", "--updates", "2", "--out", str(out)])
        patch.setattr(worlds, "play", lambda *asked: kept.append(play(*asked)) or kept[0])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Played(out, ended.value.code or 0, said.getvalue(), errors.getvalue(), kept[0])


def rows(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_all_is_as_it_must_be(played):
    assert played.code == 0, played.told + played.errors
    assert [row["holds"] for row in rows(played.out / "worlds.csv")] == ["yes"] * 65
    assert "65 of 65 checks hold" in played.told
    names = [str(played.out / name) for name in FILES]
    assert played.told.splitlines()[-len(FILES) :] == names
    assert "update 2/2: loss of D" in played.errors


def test_golden_numbers_are_among_them(played):
    found = {(row["world"], row["quantity"]): row for row in rows(played.out / "worlds.csv")}
    for key, number, tolerance in (
        (("line", "loss of D at the start"), 13.814757170851447, 1e-9),
        (("line", "loss of G at the start"), 13.78437035945412, 1e-9),
        (("earth mover", "linear programming"), 0.15148578811369506, 1e-9),
        (("slope", "ratio, at D = 0.0001"), 9999, 9999e-3),
        (("saddle", "least growth per step at the same time, lr = 0.1"), math.sqrt(1.01), 1e-9),
    ):
        assert float(found[key]["measured"]) == pytest.approx(number, abs=tolerance, rel=0)


def test_shifts_stand_beside_their_samples(played):
    """Of 200,000 samples: standard errors below 0.003 and 0.0012."""
    table = rows(played.out / "worlds_shifts.csv")
    assert [float(row["shift"]) for row in table] == [0, 1, 2, 4.5, 10, math.inf]
    assert table[-1]["value_sampled"] == ""
    for row in table[:-1]:
        assert float(row["value_sampled"]) == pytest.approx(float(row["value"]), abs=0.012)
        assert float(row["accuracy_sampled"]) == pytest.approx(float(row["accuracy"]), abs=0.005)
        assert float(row["w1_sampled"]) == pytest.approx(float(row["w1"]), abs=0.012)


def test_data_and_constant_are_named_on_the_page(played):
    found = {(row["world"], row["generator"]): row for row in rows(played.out / "worlds_modes.csv")}
    for world, modes in (("ring of 8", "8"), ("grid of 25", "25")):
        data, constant = found[world, worlds.DATA], found[world, worlds.COLLAPSED]
        assert (data["modes"], data["of"], data["wrong"]) == (modes, modes, "none")
        assert (constant["modes"], constant["wrong"]) == ("1", "collapse")
        assert f"{world}: a constant: 1 of {modes}, 100.0 % good, wrong: collapse" in played.told
    trained = [row for row in found.values() if row["spec"]]
    assert len(trained) == 6
    assert all(row["updates"] == "2" and float(row["seconds"]) > 0 for row in trained)


def test_page_and_figure_are_whole(played):
    text = (played.out / "worlds.md").read_text(encoding="utf-8")
    assert "65 of 65 checks hold." in text
    assert "![Small worlds](figures/worlds.svg)" in text
    assert text.rstrip().endswith("with adversarial-bench 0.1.0.")
    assert "$" not in text
    ET.parse(played.out / "figures/worlds.svg")  # noqa: S314  our own file


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seed", "-1"], "--seed must be from 0 to 2**31 - 1, got -1"),
        (["--updates", "-3"], "--updates must be from 0 to 2**31 - 1, got -3"),
    ],
)
def test_bad_numbers_are_refused_at_once(arguments, told, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "worlds", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"bench: {told}\n"


@pytest.mark.parametrize(
    ("check", "holds"),
    [
        (Check("w", "q", 1.0, 1.0), True),
        (Check("w", "q", 1.0, 1.1, 0.2), True),
        (Check("w", "q", 1.0, 1.3, 0.2), False),
        (Check("w", "q", math.inf, math.inf), True),
        (Check("w", "q", 1.0, math.inf, 0.2), False),
        (Check("w", "q", math.nan, 1.0, 0.2), False),
        (Check("w", "q", 1.0, 2.0, relation="<"), True),
        (Check("w", "q", 2.0, 2.0, relation="<"), False),
        (Check("w", "q", 2.0, 2.0, relation=">="), True),
        (Check("w", "q", math.nan, 2.0, relation=">="), False),
    ],
)
def test_a_check_holds_or_not(check, holds):
    assert check.holds is holds


def test_what_does_not_hold_is_told(played):
    spoilt = replace(
        played.worlds, checks=(*played.worlds.checks, Check("line", "theta", 3.0, 4.0, 0.1))
    )
    assert "does not hold: line, theta: 3.0, not 4.0 +- 0.1" in table.told(spoilt)
    assert "65 of 66 checks hold." in table.markdown(spoilt)
    assert table.checks(spoilt).rows[-1]["holds"] == "no"


def test_a_check_that_does_not_hold_ends_with_1(played, monkeypatch, tmp_path, capsys):
    spoilt = replace(played.worlds, checks=(Check("line", "theta", 3.0, 4.0),))
    monkeypatch.setattr(worlds, "play", lambda *_: spoilt)
    monkeypatch.setattr(page, "svg", lambda _: "<svg/>")
    monkeypatch.setattr(sys, "argv", ["bench", "worlds", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "does not hold: line, theta: 3.0, not 4.0" in capsys.readouterr().out


def test_a_training_that_fails_is_a_row(played, monkeypatch):
    from models.train import TrainingFailed

    def fails(*_):
        raise TrainingFailed("it diverged")

    monkeypatch.setattr(Studio, "ready", fails)
    (data, *_, failed, constant) = worlds._clouds(RING, 0, 5, lambda _: None)
    assert failed.row["wrong"] == "failed: it diverged"
    clouds = {"ring of 8": (data, failed, constant)}
    spoilt = replace(played.worlds, clouds=clouds)
    assert "failed: it diverged" in table.markdown(spoilt)
    assert "ring of 8: saturating: failed: it diverged" in table.told(spoilt)
    ET.fromstring(page.svg(spoilt))  # noqa: S314  our own text


@pytest.mark.parametrize(("modes", "holds"), [(8, True), (7, True), (6, False), (None, False)])
def test_what_is_claimed_of_the_ring_is_checked(modes, holds):
    rows = [{"generator": "saturating", "modes": 1}, {"generator": worlds.PENALTY}]
    rows[1] |= {} if modes is None else {"modes": modes}
    clouds = {"ring of 8": tuple(Cloud(np.zeros((8, 2)), np.zeros((0, 2)), x) for x in rows)}
    (check,) = worlds._claims(clouds)
    assert (check.quantity, check.relation) == ("modes of Wasserstein with penalty", ">=")
    assert (check.expected, check.holds) == (7, holds)


def test_the_claim_is_checked_where_specs_say_how_long_to_train(played, monkeypatch):
    """Of generators that are not trained, where two updates were asked for none is checked."""
    untrained = {worlds.PENALTY: "mlp:updates=0"}
    monkeypatch.setattr(worlds, "OBJECTIVES", {RING: untrained})
    found = worlds.play(0, None, lambda _: None)
    (failed,) = found.failures
    assert (failed.world, failed.measured, failed.expected) == ("ring of 8", 0, 7)
    assert "does not hold: ring of 8, modes of Wasserstein with penalty: 0.0, not >= 7" in (
        table.told(found)
    )
    assert not played.worlds.failures


def test_files_are_there_though_nobody_reads_what_is_printed(played, monkeypatch, tmp_path):
    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(worlds, "play", lambda *_: played.worlds)
    monkeypatch.setattr(worlds_cli, "print", closed, raising=False)
    with pytest.raises(BrokenPipeError):
        worlds_cli.worlds(out=tmp_path, quiet=True)
    assert all((tmp_path / name).is_file() for name in FILES)


def trained(mixture, spec, samples):
    """What a generator covers that was trained on a mixture."""
    device = torch.device("cpu")
    studio = Studio(mixture.split(20_000, 0), SHAPE, mixture.name, device, {}, None)
    ready = studio.ready(generators.get(spec))
    return mixture.census(ready.generator.sample(samples, 1)), ready


def test_a_gan_finds_every_centre_of_a_small_ring():
    """Four wide ones in a few hundred updates, on which the generator spreads evenly (in trials 180
    to 230 good samples of 250 each); untrained it finds none.
    """
    at = ((0.9, 0.5), (0.5, 0.9), (0.1, 0.5), (0.5, 0.1))
    mixture = Mixture("ring of 4", at, 0.04)
    spec = "mlp:objective=wasserstein,penalty=0.1,latent=2,width=32,batch=64,lr=3e-3,ema=0.98"
    found, _ = trained(mixture, f"{spec},updates=300", 1000)
    assert found.found == 4
    assert found.quality > 0.4
    assert trained(mixture, f"{spec},updates=0", 1000)[0].found == 0


@pytest.mark.slow
def test_wasserstein_with_penalty_finds_the_ring_of_8():
    """At least 7 of 8 is what is claimed; with seeds 0, 1 and 2 it was 8."""
    found, _ = trained(RING, worlds.OBJECTIVES[RING][worlds.PENALTY], 2500)
    assert found.found >= 7
