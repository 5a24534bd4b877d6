"""The comparison itself, on outcomes made up here; and against other libraries where they are
installed.
"""

from __future__ import annotations

from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import attacks
import bench
from tests.agreement import table
from tests.agreement.comparison import adjusted, compare
from tests.agreement.pairs import NETS, Pair, pairs
from tests.problems import Curved, images

PAIR = Pair("steps", "mnist", "linf", 0.1, "pgd", "foolbox:LinfPGD")


def record(kind: str, distance: list[float], *, failure: str = "") -> Any:
    """What a cell of an attack with these distances stores, at the radius 0.1."""
    at = np.asarray(distance)
    samples = {
        "label": np.zeros(len(at), np.int64),
        "clean_prediction": (at == 0).astype(np.int64),
        "min_eps": np.where(at <= 0.1, 0.1, np.inf),
        "distance": np.where(np.isinf(at), np.nan, at),
        "forward": np.full(len(at), 10),
        "backward": np.full(len(at), 9),
        "refused": np.zeros(len(at), np.int64),
    }
    return SimpleNamespace(kind=kind, failure=failure, seconds=1.0, samples=samples)


def test_accuracies_are_compared_image_by_image() -> None:
    """Of 100 images 2 are wrong anyway; ours fools 40 more, theirs 30, of which 5 ours does not."""
    ours = [0.0] * 2 + [0.05] * 40 + [np.inf] * 58
    theirs = [0.0] * 2 + [0.2] * 15 + [0.05] * 30 + [np.inf] * 53
    one = compare(PAIR, [record("budget", ours)], [record("budget", theirs)])
    assert one.by == "accuracy"
    assert (one.n, one.only_ours, one.only_peer) == (100, 15, 5)
    assert (one.ours.figure, one.peer.figure) == pytest.approx((0.58, 0.68))
    # Of 20 images that one alone fools, 15 or more are ours: 2 * sum_{k>=15} C(20, k) / 2^20.
    assert one.p == pytest.approx(2 * 21700 / 2**20)
    assert one.verdict == "agree"
    # The other way round ten points more stand, which is too much, significant or not.
    other = compare(PAIR, [record("budget", theirs)], [record("budget", ours)])
    assert other.verdict == "**ours weaker by more than 1 point**"


def test_distances_are_compared_where_they_differ() -> None:
    theirs = [0.0] + [0.1 + k / 1000 for k in range(20)]
    same = compare(
        PAIR, [record("minimal", theirs)], [record("minimal", [d * 1.0005 for d in theirs])]
    )
    assert same.by == "distance"
    assert (same.only_ours, same.only_peer, same.p) == (0, 0, 1.0)
    assert same.ours.figure == pytest.approx(0.1095)
    worse = [d * 1.01 for d in theirs[:15]] + [np.inf] * 6
    one = compare(PAIR, [record("minimal", worse)], [record("minimal", theirs)])
    assert (one.only_ours, one.only_peer) == (0, 20)
    assert one.p == pytest.approx(2 / 2**20)  # every difference of the same sign
    assert adjusted([one])[0].verdict == "**ours weaker**"


def test_p_values_are_adjusted_over_what_was_carried_out() -> None:
    ours, theirs = [np.inf] * 6 + [0.05] * 94, [0.05] * 100
    lost = compare(PAIR, [record("budget", ours)], [record("budget", theirs)])
    assert lost.p == pytest.approx(2 / 2**6)
    failed = compare(PAIR, [record("budget", ours, failure="no layer")], [record("budget", theirs)])
    assert failed.verdict == "failed: no layer"
    equal = compare(PAIR, [record("budget", ours)], [record("budget", ours)])
    both = adjusted([lost, failed, equal])
    assert [one.adjusted for one in both] == pytest.approx([4 / 2**6, 1, 1])


def test_the_table_of_pairs_is_sound() -> None:
    listed = pairs()
    assert {pair.net for pair in listed} == set(NETS)
    assert len({(p.net, p.norm, p.ours, p.peer) for p in listed}) == len(listed)
    assert {pair.group for pair in listed} >= {"one step", "steps", "auto-pgd", "minimal"}
    for pair in listed:
        assert ":" in pair.peer
        assert Fraction(repr(pair.eps)) > 0


def test_a_page_names_its_command(tmp_path: Path) -> None:
    from tests.hooks.provenance_of_references import says_who_made_it

    one = compare(PAIR, [record("budget", [0.05] * 4)], [record("minimal", [0.05] * 4)])
    page = tmp_path / "page.md"
    page.write_text(table.markdown([one], "python -m tests.agreement --group steps"))
    assert says_who_made_it(page)
    assert (
        "`pgd` | `foolbox:LinfPGD` | accuracy | 0.0 | 0.0 | 0 | 0 | 1 | 1 | agree"
        in page.read_text()
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("module", "peer"),
    [
        ("foolbox", "foolbox:LinfPGD:steps=10,abs_stepsize=0.02,random_start=false"),
        ("torchattacks", "torchattacks:PGD:steps=10,alpha=0.02,random_start=false"),
        ("art", "art:ProjectedGradientDescent:max_iter=10,eps_step=0.02,num_random_init=0"),
        ("adv_lib", "advlib:pgd_linf:steps=10,absolute_step_size=0.02,random_init=false"),
    ],
)
def test_pgd_from_the_image_is_the_same_everywhere(module: str, peer: str) -> None:
    """No randomness, the same steps: what one fools the other fools, but for ends of a path."""
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    net, x = Curved(), images(64)
    with torch.no_grad():
        y = net(x).argmax(1)
    specs = "pgd:steps=10,alpha=0.02,random=false", peer
    run = bench.evaluate(net, (x, y), specs, eps=[0.04, 0.08], audit=False)
    by = {name: part.min_eps.to_numpy() for name, part in run.samples.groupby("attack")}
    ours, theirs = (by[attacks.get(spec).to_spec()] for spec in specs)
    assert (ours <= theirs).all()
    assert np.isfinite(ours).sum() >= 1
    assert np.mean(ours == theirs) > 0.95
