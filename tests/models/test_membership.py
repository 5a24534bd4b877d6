"""Membership: golden rates and areas, and errors that do not depend on the batch."""

import itertools

import pytest
import torch
from torch import nn

from models.architectures import Conditional
from models.generators import Generator
from models.inversion import Inversion
from models.membership import auc, inverted, membership, roc, scores

SHAPE = (1, 2, 2)


class Copy(nn.Module):
    """The first component in every pixel: own samples are grey images."""

    def forward(self, z):
        return z[:, :1].expand(-1, 4).reshape(-1, *SHAPE)


GENERATOR = Generator(Copy(), 2, "normal", SHAPE)


def test_the_score_is_the_smallest_error():
    # Of (a, b, a, b) the nearest grey is their mean, at a squared distance of ((a - b) / 2)^2.
    x = torch.tensor([[0.5, 0.5], [0.2, 0.6], [0.0, 1.0]]).repeat(1, 2).view(3, *SHAPE)
    found = scores(GENERATOR, x, Inversion(steps=100, restarts=3, lr=0.2), 0)
    assert torch.allclose(found, torch.tensor([0.0, 0.04, 0.25]), atol=1e-6)


def test_starts_follow_from_the_seed():
    x, inversion = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)), Inversion(1)
    one, other, another = (scores(GENERATOR, x, inversion, seed) for seed in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, another)


def test_errors_that_are_apart_are_told_apart():
    own, others = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0])
    assert auc(own, others) == 1
    assert auc(others, own) == 0
    told = membership(own, others)
    assert (told.auc, told.tpr) == (1.0, {0.01: 1.0, 0.05: 1.0})
    false, true = roc(own, others)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert 1.0 in true[false == 0]


def test_the_area_is_the_share_of_pairs_in_order():
    generator = torch.Generator().manual_seed(0)
    own, others = (torch.randint(8, (n,), generator=generator).float() for n in (30, 20))
    pairs = list(itertools.product(own.tolist(), others.tolist()))
    expected = sum((a < b) + (a == b) / 2 for a, b in pairs) / len(pairs)
    assert auc(own, others) == pytest.approx(expected, abs=1e-12)
    assert auc(own, own) == 0.5
    false, true = roc(own, others)
    steps = zip(false[1:] - false[:-1], (true[1:] + true[:-1]) / 2, strict=True)
    assert sum(width * height for width, height in steps) == pytest.approx(expected, abs=1e-12)


def test_rates_are_the_best_that_the_false_positives_allow():
    # 100 others: one of them may be taken for own at 1 %, five at 5 %.
    others = torch.arange(100).float()
    own = torch.tensor([-1.0, 0.5, 1.5, 4.5, 5.5, 50.0])
    assert membership(own, others).tpr == {0.01: 2 / 6, 0.05: 4 / 6}
    # Equal errors fall on one side of every threshold together.
    assert membership(torch.zeros(3), torch.zeros(4)).tpr == {0.01: 0.0, 0.05: 0.0}


@pytest.mark.parametrize(
    ("own", "others", "message"),
    [
        ([], [1.0], r"own must be errors \(N,\), at least one, got \(0,\)"),
        ([1.0], [], r"others must be errors \(N,\), at least one, got \(0,\)"),
        ([1.0], [[1.0]], r"others must be errors \(N,\), at least one, got \(1, 1\)"),
        ([1.0], [torch.nan], "others must be numbers, got NaN"),
    ],
)
def test_what_tells_nothing_is_refused(own, others, message):
    for function in (auc, roc, membership):
        with pytest.raises(ValueError, match=message):
            function(torch.tensor(own), torch.tensor(others))


def test_restarts_ask_for_one_class_after_the_other():
    generator = Conditional(latent=6, width=2, classes=3).build((1, 8, 8))
    x = generator.sample(4, 0)
    seen = []
    generator.net.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    inverted(generator, x, Inversion(steps=1, restarts=5), 1)
    labels = generator.labels(seen[0]).view(4, 5)
    assert labels.tolist() == [[0, 1, 2, 0, 1]] * 4
