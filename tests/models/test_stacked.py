"""Stacked digits: which images stand in which channel, and how many modes samplers reach."""

import numpy as np
import pytest
import torch
from torch import nn

from models.coverage import coverage, expected_modes, tally
from models.split import Split
from models.stacked import SAMPLES, stacked, triples


class Reads(nn.Module):
    """A classifier of images in which class k is grey of level k / 10."""

    def forward(self, x):
        assert x.shape[1] == 1
        grey = x.flatten(1).mean(1) * 10
        return -(grey[:, None] - torch.arange(10.0)).abs()


def grey(classes, each=3):
    """So many images of each class, as float."""
    y = torch.arange(classes).repeat_interleave(each)
    return Split((y / 10)[:, None, None, None].expand(-1, 1, 2, 2).contiguous(), y)


def modes(split):
    return coverage(tally(split.y.numpy(), 1000), np.ones(1000))


def test_each_channel_is_an_image_of_its_class():
    made = stacked(grey(10), 10, 500, seed=0)
    assert made.x.shape == (500, 3, 2, 2)
    digits = (made.x[:, :, 0, 0] * 10).round().long()
    assert torch.equal(made.y, digits @ torch.tensor([100, 10, 1]))
    assert torch.equal(triples(Reads(), made.x), made.y)


def test_bytes_stay_bytes_and_classes_may_be_few():
    x = torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2)
    made = stacked(Split(x, torch.tensor([0, 1, 2])), 3, 40, seed=1)
    assert made.x.dtype == torch.uint8
    digits = made.x[:, :, 0, 0].long() // 4
    assert torch.equal(made.y, digits @ torch.tensor([9, 3, 1]))


def test_draws_follow_from_the_seed():
    one, other, another = (stacked(grey(10), 10, 30, seed) for seed in (1, 1, 2))
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.y, other.y)
    assert not torch.equal(one.y, another.y)


def test_real_digits_reach_every_mode():
    found = modes(stacked(grey(10), 10, SAMPLES, seed=0))
    assert found.modes == 1000 == round(expected_modes(np.ones(1000), SAMPLES))
    # A finite sample of K = 1,000 classes diverges by (K - 1) / (2 n) = 0.0192.
    assert found.divergence == pytest.approx(999 / (2 * SAMPLES), rel=0.2)
    assert found.name == "none"


@pytest.mark.parametrize(("digits", "reached"), [(1, 1), (2, 8), (5, 125)])
def test_a_sampler_of_some_digits_reaches_their_triples(digits, reached):
    found = modes(stacked(grey(digits), 10, SAMPLES, seed=0))
    assert found.modes == reached
    assert found.divergence == pytest.approx(np.log(1000 / reached), abs=0.01)


@pytest.mark.parametrize("count", [1, 99, 640])
def test_a_sampler_of_k_triples_reaches_k(count):
    triple = torch.arange(count).repeat(20)
    digits = torch.stack([triple // 100, triple // 10 % 10, triple % 10], 1)
    x = (digits / 10)[:, :, None, None].expand(-1, -1, 2, 2)
    found = coverage(tally(triples(Reads(), x).numpy(), 1000), np.ones(1000))
    assert found.modes == count
    assert found.divergence == pytest.approx(np.log(1000 / count), abs=1e-9)


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"must be \(N, 1, H, W\) .* got \(2, 3, 4, 4\)"):
        stacked(Split(torch.zeros(2, 3, 4, 4), torch.zeros(2).long()), 10, 5, 0)
    with pytest.raises(ValueError, match=r"must be \(N, 3, H, W\) .* got \(2, 1, 4, 4\)"):
        triples(Reads(), torch.zeros(2, 1, 4, 4))


def test_labels_of_no_class_are_refused():
    with pytest.raises(ValueError, match="labels must be from 0 to 3"):
        stacked(grey(5), 4, 5, 0)
    with pytest.raises(ValueError, match="there must be some"):
        stacked(grey(0), 4, 5, 0)
