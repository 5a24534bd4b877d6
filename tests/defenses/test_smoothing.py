"""Smoothing on nets whose vote is known in closed form, and its certificates under attack."""

import dataclasses
import math

import pytest
import torch
from scipy.stats import binomtest, norm
from torch import nn

import attacks
from attacks import loop
from attacks.draws import Draws
from attacks.pipelines import said
from attacks.verify import judge_of
from attacks.work import Samples, Setting
from defenses import get
from defenses.certificates import ceiling, decisive
from defenses.smoothing import Smoothing, SoftVote, Vote, gaussian
from models.checkpoint import Cache, digest

SIGMA = 0.25
SHAPE = (1, 3, 3)
"""An odd number of components: hashes are split in two."""


class Halves(nn.Module):
    """Class 1 where weight . x > 1/2, else class 0; the weight has length 1, so that an image's
    distance to the boundary is weight . x - 1/2, and noise gives class 1 with probability
    Phi(distance / sigma).
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((9,), 1 / 3))

    def forward(self, x):
        logit = 20 * (x.flatten(1) @ self.weight - 0.5)
        return torch.stack([-logit, logit], 1)


def images(distance):
    """Images at these signed distances (N,) from the boundary of Halves."""
    distance = torch.as_tensor(distance)
    return ((0.5 + distance) / 3)[:, None].expand(-1, 9).reshape(-1, *SHAPE).contiguous()


def draws_for(x, seed=0):
    ids = torch.arange(len(x))
    return Draws(seed, ids, torch.zeros_like(ids))


def pipeline(**keys):
    return Vote(Halves(), Smoothing(sigma=SIGMA, **keys), 2)


# --- noise ---------------------------------------------------------------------------------------


def test_noise_is_normal():
    image, number = torch.zeros(2000, dtype=torch.int64), torch.arange(2000)
    z = gaussian(draws_for(torch.zeros(1)), torch.Size((1, 10, 10)), "noise", image, number)
    assert z.shape == (2000, 10, 10)
    z = z.double().flatten()
    # 200,000 values: standard errors of mean 0.0022, of variance 0.0032, of shares below 0.0011
    assert abs(float(z.mean())) < 0.01
    assert abs(float(z.var()) - 1) < 0.015
    for level in (-2, -1, 0, 0.5, 1.5):
        assert abs(float((z < level).double().mean()) - norm.cdf(level)) < 0.005
    pairs = z.view(-1, 2)  # both of a hash
    assert abs(float((pairs[:, 0] * pairs[:, 1]).mean())) < 0.015
    assert len(z.unique()) > 0.98 * len(z)


def test_noise_belongs_to_image_and_copy():
    x = torch.zeros(3, *SHAPE)
    draws = draws_for(x)
    image, number = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 0, 0, 1, 1])
    rows = gaussian(draws, x.shape, "noise", image, number)
    alone = gaussian(draws, x.shape, "noise", image[4:], number[4:])
    assert torch.equal(rows[4:], alone)
    flat = rows.flatten(1)
    assert len(flat.unique(dim=0)) == 5
    other = gaussian(draws, x.shape, "select", image, number)
    assert not torch.equal(rows, other)


# --- votes and decisions -------------------------------------------------------------------------


def test_votes_come_as_often_as_the_closed_form_says():
    x = images([-0.3, -0.1, 0.0, 0.05, 0.4])
    votes = pipeline().votes(x, draws_for(x), "noise", 4000)
    assert (votes.sum(1) == 4000).all()
    exact = torch.from_numpy(norm.cdf(torch.tensor([-0.3, -0.1, 0.0, 0.05, 0.4]) / SIGMA))
    # 5 standard errors of a share of 4000
    assert (votes[:, 1] / 4000 - exact).abs().max() < 5 * 0.5 / 4000**0.5


def test_votes_do_not_depend_on_batch_or_neighbours():
    x = images([-0.3, -0.1, 0.0, 0.05, 0.4])
    draws = draws_for(x)
    votes = pipeline().votes(x, draws, "noise", 100)
    for batch in (1, 7, 1000):
        assert torch.equal(pipeline(batch=batch).votes(x, draws, "noise", 100), votes)
    last = Draws(0, draws.ids[3:], draws.restart[3:])
    assert torch.equal(pipeline().votes(x[3:], last, "noise", 100), votes[3:])
    assert not torch.equal(pipeline().votes(x, draws_for(x, 1), "noise", 100), votes)


def test_it_refuses_exactly_where_the_binomial_test_does():
    net = pipeline(samples=50, alpha=0.05)
    x = images(torch.linspace(-0.3, 0.3, 61))
    draws = draws_for(x)
    votes, logits = net.votes(x, draws, "noise", 50), net(x, draws)
    torch.testing.assert_close(logits[:, :2], (votes + 0.5).log(), rtol=1e-6, atol=0)
    expected = [
        2 if binomtest(max(row), 50, 0.5).pvalue > 0.05 else row.index(max(row))
        for row in votes.tolist()
    ]
    assert logits.argmax(1).tolist() == expected
    assert {0, 1, 2} == set(expected)


def test_images_on_the_boundary_are_refused():
    x = images([0.0] * 50)
    refused = pipeline()(x, draws_for(x)).argmax(1) == 2
    assert int(refused.sum()) >= 49  # each decides with probability 0.001


def test_a_third_class_counts_against_no_decision():
    class Thirds(nn.Module):
        def forward(self, x):  # class 0 always, but for copies whose first pixel is high
            high = (x.flatten(1)[:, 0] > 0.5).float()
            return torch.stack([1 - high, high, torch.full_like(high, -1)], 1)

    net = Vote(Thirds(), Smoothing(sigma=SIGMA, samples=20), 3)
    x = torch.zeros(4, *SHAPE)
    votes, logits = net.votes(x, draws_for(x), "noise", 20), net(x, draws_for(x))
    assert (votes[:, 2] == 0).all()
    needed = decisive(20, 0.001)[20]
    assert torch.equal(logits.argmax(1) == 3, votes[:, 0] < int(needed))


def test_abstention_falls_with_more_copies():
    x = images([0.12] * 40)  # class 1 with probability 0.68
    shares = [
        float((pipeline(samples=n)(x, draws_for(x)).argmax(1) == 2).float().mean())
        for n in (11, 30, 100, 400)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9
    assert shares[-1] == 0


# --- certificates --------------------------------------------------------------------------------


def test_certified_radii_stay_within_the_distance_and_come_close():
    distance = torch.tensor([-0.4, -0.2, -0.08, 0.06, 0.1, 0.3])
    x = images(distance)
    prediction, radius = pipeline(select=1000, estimate=20_000).certify(x, draws_for(x))
    assert prediction.dtype == torch.int64
    assert radius.dtype == torch.float64
    assert prediction.tolist() == [0, 0, 0, 1, 1, 1]
    exact = distance.abs().double()
    assert (radius <= exact).all()
    # the bound lies 3.1 standard errors below the counted share, and that no more than 3.4 below
    # the exact one; a share moves the radius by sigma over the density, which is above 0.11 here
    assert (radius >= exact - SIGMA * 6.5 * (0.25 / 20_000) ** 0.5 / 0.11).all()


def test_what_cannot_be_certified_abstains():
    x = images([0.0, 0.0, 0.002, 0.3])
    prediction, radius = pipeline(estimate=1000).certify(x, draws_for(x))
    assert prediction.tolist() == [-1, -1, -1, 1]
    assert radius[:3].tolist() == [0, 0, 0]
    assert radius[3] > 0.2


def test_a_certificate_fails_no_more_often_than_alpha():
    distance = 0.15
    x = images([distance] * 400)
    _, radius = pipeline(estimate=200, alpha=0.1).certify(x, draws_for(x))
    wrong = int((radius > distance).sum())
    assert wrong <= 61  # P(more) < 1e-3 for 400 at 0.1
    assert wrong > 10, "nor much more rarely: the bound is exact, but for steps of a count"


def test_radii_grow_to_the_ceiling():
    x = images([2.0])
    _, radius = pipeline(estimate=500).certify(x, draws_for(x))
    assert radius.tolist() == [ceiling(500, 0.001, SIGMA)]


def test_certificates_are_repeatable_and_do_not_depend_on_the_batch():
    x = images([-0.1, 0.05, 0.2])
    draws = draws_for(x)
    net = pipeline(estimate=500, batch=64)
    prediction, radius = net.certify(x, draws)
    again = net.certify(x, draws)
    assert torch.equal(prediction, again[0])
    assert torch.equal(radius, again[1])
    alone = net.certify(x[1:2], Draws(0, draws.ids[1:2], draws.restart[1:2]))
    assert torch.equal(radius[1:2], alone[1])


def attacked(vote, soft, x, y, radius):
    """Whether pgd on the soft vote makes the vote say another class (N,), under any of 3 draws."""
    ids = torch.arange(len(x))
    samples = Samples(x, y, ids, radius.numpy()[:, None])
    setting = Setting("l2", 2, 0, shape=len(x), exact=False, eot=10, draws=3)
    judge = judge_of(vote, samples, setting)
    settled = loop.sweep(attacks.get("pgd:steps=5"), soft, judge, samples, setting)
    fooled = {each.sample: bool(each.fooled.any()) for each in settled}
    return torch.tensor([fooled[place] for place in range(len(x))])


def test_no_attack_moves_a_certified_image_within_its_radius():
    x = images(torch.linspace(0.1, 0.45, 20))
    recipe = Smoothing(sigma=SIGMA, estimate=5000)
    vote, soft = Vote(Halves(), recipe, 2), SoftVote(Halves(), recipe)
    prediction, radius = vote.certify(x, draws_for(x))
    assert (prediction == 1).all()
    assert not attacked(vote, soft, x, prediction, radius).any()
    assert attacked(vote, soft, x, prediction, 4 * radius).all(), "the attack finds its way"


# --- what gradient attacks are handed ------------------------------------------------------------


def test_the_soft_vote_is_the_logarithm_of_mean_probabilities():
    x = images([-0.1, 0.02, 0.3])
    draws = draws_for(x)
    net = SoftVote(Halves(), Smoothing(sigma=SIGMA, standin=5))
    image = torch.arange(3)
    shares = [
        Halves()(x + SIGMA * gaussian(draws, x.shape, "noise", image, n)).softmax(1)
        for n in range(5)
    ]
    logits = net(x, draws)
    torch.testing.assert_close(logits[:, :2].exp(), torch.stack(shares).mean(0))
    needed = decisive(100, 0.001)[100] / 100
    torch.testing.assert_close(logits[:, 2].exp(), torch.full((3,), float(needed)))


def test_the_soft_vote_sees_the_noise_of_the_vote():
    x = images([-0.1, 0.02, 0.3])
    seen = []

    class Noting(Halves):
        def forward(self, x):
            seen.append(x.detach().clone())
            return super().forward(x)

    recipe = Smoothing(sigma=SIGMA, samples=11, standin=11)
    Vote(Noting(), recipe, 2)(x, draws_for(x))
    SoftVote(Noting(), recipe)(x, draws_for(x))
    voted = seen[0].view(3, 11, *SHAPE)
    soft = torch.stack(seen[1:], 1)
    torch.testing.assert_close(voted, soft)
    assert float(voted.amin()) < 0, "noise is not clipped"


def test_another_pipeline_has_another_digest():
    changes = ({}, {"samples": 50}, {"alpha": 0.01}, {"sigma": 0.5})
    recipes = [Smoothing(**keys) for keys in changes]
    digests = {digest(Vote(Halves(), recipe, 2).state_dict()) for recipe in recipes}
    assert len(digests) == len(changes)


# --- the recipe ----------------------------------------------------------------------------------


def test_without_augmentation_the_net_is_the_undefended_one(workshop):
    shop = workshop("logreg:epochs=1")
    defended = get("smoothing:augment=false").deploy(shop)
    plain = shop.undefended().state_dict()
    inside = defended.inside.state_dict()
    assert all(torch.equal(value, inside[name]) for name, value in plain.items())
    assert shop.trained[0].objective == "L(x, y)"


def test_keys_of_the_vote_need_no_new_training(workshop, tmp_path):
    cache = Cache(tmp_path)
    lines = []
    for spec in ("smoothing", "smoothing:samples=11,alpha=0.01,estimate=50", "smoothing:seed=1"):
        get(spec).deploy(workshop("logreg:epochs=1", cache=cache, say=lines.append))
    assert sum(line.startswith("training") for line in lines) == 2


def test_what_it_declares():
    recipe = Smoothing()
    assert recipe.adaptive == "bpda+eot"
    assert recipe.certifies == ("l2",)
    assert recipe.rejection == "abstention"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sigma": 0.0}, "sigma must be finite and above 0, got 0.0"),
        ({"sigma": math.inf}, "sigma must be finite and above 0, got inf"),
        ({"alpha": 1.0}, "alpha must lie between 0 and 1, got 1.0"),
        ({"samples": 10}, r"samples must lie in 11 .. 100,000 \(fewer never decide"),
        ({"samples": 100_001}, "got 100001"),
        ({"estimate": 9}, "estimate must be at least 10 to certify anything at alpha = 0.001"),
        ({"select": 0}, "select must be at least 1, got 0"),
        ({"standin": 0}, "standin must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
    ],
)
def test_bad_values_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Smoothing(), **keys)


def test_the_fewest_votes_are_the_fewest_that_can_do_anything():
    for alpha in (0.001, 0.01, 0.05, 0.25, 0.5):
        fewest = math.ceil(math.log2(2 / alpha))
        Smoothing(alpha=alpha, samples=fewest)
        assert decisive(fewest, alpha)[fewest] <= fewest
        assert decisive(fewest - 1, alpha)[fewest - 1] > fewest - 1
        least = math.floor(math.log2(1 / alpha)) + 1
        Smoothing(alpha=alpha, estimate=least)
        assert ceiling(least, alpha, 1.0) > 0
        assert least == 1 or ceiling(least - 1, alpha, 1.0) == 0


def test_the_pipeline_is_asked_through_draws(workshop, digits):
    defended = get("smoothing:samples=11").deploy(workshop("logreg:epochs=1"))
    assert defended.random
    assert defended.passes == 11
    with pytest.raises(ValueError, match="must be handed draws"):
        said(defended.predict, digits.test.images(slice(0, 2)), None)
