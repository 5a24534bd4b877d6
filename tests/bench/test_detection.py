"""Measures of detection by hand and against scikit-learn; the facts of a cell."""

import json

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

import attacks
from attacks.work import Setting
from bench.detection import area, counts, detected, facts
from defenses.base import Defended
from defenses.detector import Detector, Refusing, Scores

CLEAN = torch.tensor([0.0, 1.0, 2.0, 2.0])
MOVED = torch.tensor([2.0, 3.0, 1.0])


def test_the_curve_and_its_area_by_hand():
    roc = counts(CLEAN, MOVED)
    assert roc == [[0, 0], [0, 1], [2, 2], [3, 3], [4, 3]]
    # 3 above all four; 2 above two, equal to two; 1 above one, equal to one
    assert area(roc) == pytest.approx((4 + 3 + 1.5) / 12)


@pytest.mark.parametrize("values", [2, 5, 1000])
def test_they_are_scikit_learns(values):
    generator = torch.Generator().manual_seed(values)
    clean = torch.randint(values, (60,), generator=generator).float()
    moved = torch.randint(values, (40,), generator=generator).float() + values // 5
    kinds = [0] * 60 + [1] * 40
    scores = torch.cat([clean, moved]).numpy()
    roc = counts(clean, moved)
    assert area(roc) == pytest.approx(roc_auc_score(kinds, scores), abs=1e-12)
    alarms, hits, _ = roc_curve(kinds, scores, drop_intermediate=False)
    on_line = torch.tensor(roc, dtype=torch.float64)
    every = list(zip((60 * alarms).round().tolist(), (40 * hits).round().tolist(), strict=True))
    assert all((k, m) in every for k, m in on_line.tolist()), "corners of their curve"


def test_a_curve_of_one_kind_has_no_area():
    assert area(counts(CLEAN, MOVED[:0])) is None
    assert counts(CLEAN, MOVED[:0]) == [[0, 0], [4, 0]]


def test_ties_everywhere_are_a_guess():
    roc = counts(torch.zeros(5), torch.zeros(3))
    assert roc == [[0, 0], [5, 3]]
    assert area(roc) == 0.5


def test_rates_by_hand():
    clean = torch.arange(100.0)
    moved = torch.tensor([94.0, 95.0, 99.0, 200.0])
    assert detected(clean, moved, 0.05) == 0.75, "94 is the threshold"
    assert detected(clean, moved, 0.01) == 0.5, "98 is"
    assert detected(clean[:99], moved, 0.01) is None, "too few clean images"
    assert detected(clean, moved[:0], 0.05) is None


# --- facts ---------------------------------------------------------------------------------------


class Line(nn.Module):
    """Two classes apart at 1/2 of the first pixel."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(8.0))

    def forward(self, x):
        z = self.slope * (x.flatten(1)[:, 0] - 0.5)
        return torch.stack([-z, z], 1)


class Watched(Detector):
    """Suspects an image by its second pixel."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x):
        return self.classifier(x), x.flatten(1)[:, 1]


SETTING = Setting("linf", 2, seed=0, shape=4)


@pytest.fixture
def watched():
    """A pipeline that refuses where the second pixel is above 0.6."""
    classifier = Line()
    detector = Watched(classifier)
    made = Refusing(detector, threshold=0.6, scale=5.0, fpr=0.05, trained_on="fgsm").eval()
    return Defended(
        predict=made, surrogate=made, exact=True, inside=classifier, score=Scores(detector)
    )


def image(*pixels):
    return torch.tensor(pixels).view(1, 1, 2)


X = torch.stack([image(0.4, 0.5), image(0.4, 0.7), image(0.1, 0.5), image(0.7, 0.1)])
Y = torch.tensor([0, 0, 0, 0])


def test_an_oblivious_attack_by_hand(watched):
    """FGSM with 0.2 moves the first pixel to 0.6, 0.6, 0.3 and 0.9 and leaves the second."""
    found = facts(watched, attacks.get("fgsm"), watched.inside, X, Y, 0.2, SETTING)
    assert json.loads(json.dumps(found)) == {
        "eps": 0.2,
        "images": 4,
        "seen": True,
        "trained_on": "fgsm",
        "fpr": 0.05,
        "clean_refused": 0.25,
        "fooling": 2,  # the last was wrong from the start
        "refused": 0.5,
        "passed": 0.5,  # the first, and the last
        "auc": (3.5 + 2) / 8,  # 0.7 against 0.5, 0.7, 0.5, 0.1, and 0.5 against them
        "tpr": {"0.01": None, "0.05": None},
        "roc": [[0, 0], [1, 1], [3, 2], [4, 2]],
    }


def test_an_adaptive_attack_gets_past(watched):
    """Both pixels are moved: the second image ends below the threshold."""
    attack = attacks.get("pgd:steps=20,loss=margin")
    found = facts(watched, attack, watched.surrogate, X, Y, 0.2, SETTING)
    assert (found["fooling"], found["refused"], found["passed"]) == (2, 0.0, 0.75)
    assert found["seen"] is False


def test_what_knows_the_detector_is_not_seen(watched):
    found = facts(watched, attacks.get("fgsm"), watched.surrogate, X, Y, 0.2, SETTING)
    assert (found["trained_on"], found["seen"]) == ("fgsm", False)


def test_a_minimal_attack_is_moved_on_to_eps(watched):
    attack = attacks.get("deepfool")
    found = facts(watched, attack, watched.inside, X, Y, 0.2, SETTING)
    assert (found["images"], found["fooling"]) == (4, 2)


def test_what_refuses_nothing_has_no_detection(watched):
    plain = Defended(predict=watched.inside, surrogate=watched.inside)
    with pytest.raises(ValueError, match="of a pipeline that has a score and refuses"):
        facts(plain, attacks.get("fgsm"), watched.inside, X, Y, 0.2, SETTING)


def test_the_pipeline_is_left_as_found(watched):
    facts(watched, attacks.get("fgsm"), watched.surrogate, X, Y, 0.2, SETTING)
    assert all(p.requires_grad and p.grad is None for p in watched.predict.parameters())
