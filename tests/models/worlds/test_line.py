"""The game on the line beside the numbers of its notebook."""

import math
from dataclasses import replace

import numpy as np
import pytest

from models.worlds.line import MEAN, Line, told_apart


@pytest.fixture(scope="module")
def start():
    return Line.notebook()


def test_losses_at_the_start_are_the_notebooks(start):
    assert start.loss == pytest.approx(13.814757170851447, abs=1e-9, rel=0)
    assert start.fooled == pytest.approx(13.78437035945412, abs=1e-9, rel=0)
    assert start.real.mean() == pytest.approx(8.238023, abs=1e-6)
    assert start.noise.mean() == pytest.approx(-0.097141, abs=1e-6)


def test_an_undecided_discriminator_loses_log_2_per_sample(start):
    undecided = replace(start, offset=0.0, slope=0.0)
    assert undecided.loss == pytest.approx(20 * math.log(2), abs=1e-12)
    assert undecided.accuracy == 0.5


def test_steps_of_either_side_are_the_known_ones(start):
    game = start
    for _ in range(100):
        game = game.discriminate()
    assert (game.offset, game.slope) == pytest.approx((-3.554494, 0.714446), abs=1e-6)
    assert game.loss == pytest.approx(3.732422, abs=1e-6)
    assert game.theta == start.theta
    made = game
    for _ in range(10):
        made = made.generate()
    assert made.theta == pytest.approx(3.332096, abs=1e-6)
    assert (made.offset, made.slope) == (game.offset, game.slope)


def test_a_step_is_lr_times_the_slope_of_the_loss(start):
    """By central differences, whose error is about h^2 here."""
    h = 1e-5

    def slope(name):
        up, down = (
            replace(start, **{name: getattr(start, name) + sign * h}).loss for sign in (1, -1)
        )
        return (up - down) / (2 * h)

    after, made = start.discriminate(lr=1.0), start.generate(lr=1.0)
    assert start.offset - after.offset == pytest.approx(slope("offset"), abs=1e-6)
    assert start.slope - after.slope == pytest.approx(slope("slope"), abs=1e-6)
    assert made.theta - start.theta == pytest.approx(slope("theta"), abs=1e-6)


def test_five_rounds_are_the_books(start):
    thetas = [game.theta for game in start.rounds(5)]
    assert thetas == pytest.approx([3.0806, 3.1516, 3.2177, 3.2812, 3.3434], abs=5e-5)


def test_two_hundred_rounds_swing_about_the_target(start):
    games = list(start.rounds(200))
    late = [game.theta for game in games[100:]]
    assert late[-1] == pytest.approx(8.402, abs=5e-4)
    assert (min(late), max(late)) == pytest.approx((8.266, 8.580), abs=5e-4)
    assert min(late) < start.real.mean() - start.noise.mean() < max(late)
    assert games[-1].loss == pytest.approx(31.2, abs=0.05)


def test_accuracy_is_that_of_many_samples(start):
    """Standard error of 40,000 answers: 0.0012 at an accuracy of 0.94."""
    game = replace(start, theta=4.5, offset=-5.5)
    even = (np.arange(20_000) + 0.5) / 20_000
    from scipy.special import ndtri

    normal = ndtri(even)
    real, fake = normal + MEAN, normal + game.theta
    right = ((game.logit(real) >= 0).mean() + (game.logit(fake) < 0).mean()) / 2
    assert game.accuracy == pytest.approx(right, abs=1e-4)
    assert replace(game, offset=5.5, slope=-1.0).accuracy == pytest.approx(1 - right, abs=1e-4)


def test_an_untrained_generator_is_told_apart_in_few_steps(start):
    fresh = replace(start, theta=0.0, offset=0.0, slope=0.0)
    told, steps = told_apart(fresh, 0.99, 1000)
    assert told.accuracy > 0.99
    assert 0 < steps < 200
    assert told.theta == 0


def test_one_at_theta_3_cannot_be_told_apart_so_well(start):
    """The optimum's accuracy is 0.98778."""
    told, steps = told_apart(start, 0.99, 500)
    assert steps == 500
    assert told.accuracy <= 0.987776
