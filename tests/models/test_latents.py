"""Latent walks and sums: linear generators, for which both have a closed form."""

import math

import pytest
import torch
from torch import nn

from models.generators import Generator
from models.latents import (
    analogy,
    bolder,
    least_confidence,
    linear,
    paths,
    smoothness,
    spherical,
)

SHAPE = (1, 2, 2)


def normal(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


class Pixels(nn.Module):
    """A latent of four components as the four pixels."""

    def forward(self, z):
        return z.view(-1, *SHAPE)


class Square(nn.Module):
    """Not linear."""

    def forward(self, z):
        return z.view(-1, *SHAPE).square()


def generator(net):
    return Generator(net, 4, "normal", SHAPE)


# --- walks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("walk", [linear, spherical])
def test_walks_end_where_they_should(walk):
    a, b = normal(5, 8), normal(5, 8, 1)
    z = walk(a, b, 7)
    assert z.shape == (5, 7, 8)
    torch.testing.assert_close(z[:, 0], a)
    torch.testing.assert_close(z[:, -1], b)
    torch.testing.assert_close(z[:, 3], walk(b, a, 7)[:, 3])
    # A path depends on its own ends alone.
    torch.testing.assert_close(walk(a[2:3], b[2:3], 7), z[2:3])


def test_a_straight_line_by_hand():
    z = linear(torch.tensor([[0.0, 4.0]]), torch.tensor([[8.0, 0.0]]), 5)
    assert z.tolist() == [[[0, 4], [2, 3], [4, 2], [6, 1], [8, 0]]]


def test_an_arc_by_hand():
    z = spherical(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), 4)
    wanted = [
        [2 * math.cos(w), 2 * math.sin(w)] for w in (0, math.pi / 6, math.pi / 3, math.pi / 2)
    ]
    torch.testing.assert_close(z[0], torch.tensor(wanted))


def test_an_arc_keeps_the_norm_of_its_ends():
    a, b = (5 * z / z.norm(dim=1, keepdim=True) for z in (normal(20, 16), normal(20, 16, 1)))
    z = spherical(a, b, 9)
    torch.testing.assert_close(z.norm(dim=2), torch.full((20, 9), 5.0))
    steps = (z[:, 1:] - z[:, :-1]).norm(dim=2)
    torch.testing.assert_close(steps, steps[:, :1].expand(-1, 8))


@pytest.mark.parametrize(
    "b", [[3.0, 6.0], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]], ids=["along", "same", "opposite", "0"]
)
def test_along_a_line_through_0_an_arc_is_straight(b):
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([b])
    assert torch.equal(spherical(a, b, 5), linear(a, b, 5))
    assert torch.equal(spherical(b, a, 5), linear(b, a, 5))


def test_a_narrow_arc_is_exact_still():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(0.001), math.sin(0.001)]])
    middle = spherical(a, b, 3)[0, 1]
    torch.testing.assert_close(middle[1], torch.tensor(math.sin(0.0005)), rtol=1e-5, atol=0)


def test_a_walk_of_one_point_is_refused():
    for walk in (linear, spherical):
        with pytest.raises(ValueError, match="points must be at least 2, got 1"):
            walk(torch.zeros(1, 2), torch.zeros(1, 2), 1)


# --- smoothness ----------------------------------------------------------------------------------


def test_a_linear_generator_is_exactly_smooth_along_a_line():
    # Eighths in five points: no rounding anywhere.
    a, b = torch.arange(12.0).view(3, 4) / 8, torch.arange(12.0).flip(0).view(3, 4) / 8
    images = paths(generator(Pixels()), linear(a, b, 5))
    assert images.shape == (3, 5, *SHAPE)
    found = smoothness(images)
    assert torch.equal(found.jump, torch.ones(3).double())
    torch.testing.assert_close(found.detour, torch.ones(3).double())
    wanted = (b - a).double().square().mean(1).sqrt() / 4
    torch.testing.assert_close(found.steps, wanted[:, None].expand(3, 4))


def test_an_arc_is_longer_than_its_chord():
    a, b = torch.eye(4)[:1], torch.eye(4)[1:2]
    found = smoothness(paths(generator(Pixels()), spherical(a, b, 101)))
    assert found.jump.item() == pytest.approx(1, abs=1e-4)
    assert found.detour.item() == pytest.approx(math.pi / 2 / math.sqrt(2), rel=1e-4)


def test_smoothness_by_hand():
    # Grey levels 0, 1, 1, 4: steps 1, 0, 3. Back at 0 the ends do not differ; at rest nothing does.
    grey = torch.tensor([[0, 1, 1, 4], [0, 1, 1, 0], [2, 2, 2, 2.0]])
    found = smoothness(grey[:, :, None, None, None].expand(3, 4, *SHAPE))
    assert found.steps[0].tolist() == [1, 0, 3]
    assert found.jump[0].item() == 9 / 4
    assert found.detour[0].item() == 1
    assert found.detour[1].item() == math.inf
    assert found.jump[2].isnan()
    assert found.detour[2].isnan()


def test_the_least_confidence_of_each_path():
    class Logits(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2]

    logits = torch.tensor([[[4.0, 0], [0, 1], [0, 3]], [[0, 2], [0, 2], [5, 0]]])
    images = nn.functional.pad(logits, (0, 2)).view(2, 3, *SHAPE)
    found = least_confidence(Logits(), images)
    wanted = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))]
    torch.testing.assert_close(found, torch.tensor(wanted))


# --- sums ----------------------------------------------------------------------------------------


def test_sums_of_latents_are_sums_of_images():
    a, b, c = (torch.arange(8.0).view(2, 4) * k / 8 for k in (3, 5, 2))
    net = generator(Pixels())
    assert torch.equal(net(analogy(a, b, c)), net(a) - net(b) + net(c))
    square = generator(Square())
    assert not torch.equal(square(analogy(a, b, c)), square(a) - square(b) + square(c))


def test_the_sign_is_such_that_a_trait_is_given():
    # (man, glasses): man with - man without + woman without = woman with.
    man_with, man, woman = (torch.tensor(z) for z in ([1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]))
    assert analogy(man_with, man, woman).tolist() == [-1, 1]


class Sides(nn.Module):
    """Class 0, 1 or 2 by which of the last three pixels is largest."""

    def forward(self, x):
        return x.flatten(1)[:, 1:]


def digits(spread):
    """Eight latents of each of three classes: the class in the last three components, ink from 0 to
    1 of so many units per class in the first.
    """
    z = torch.zeros(24, 4)
    for label, most in enumerate(spread):
        z[8 * label : 8 * label + 8, 0] = torch.arange(8.0) * most
        z[8 * label : 8 * label + 8, 1 + label] = 1
    return z[torch.randperm(24, generator=torch.Generator().manual_seed(0))]


def test_boldness_of_a_linear_generator():
    # The means of the lowest and highest two of eight lie 6 apart: a's spread over b's is moved.
    found = bolder(generator(Pixels()), Sides(), digits((1, 2, 4)))
    assert found.pairs.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert found.is_kept.all()
    assert found.moved.tolist() == [0.5, 0.25, 2, 0.5, 4, 2]


def test_a_class_that_boldness_changes():
    class Heavy(Sides):
        """Takes what has much ink for class 2."""

        def forward(self, x):
            heavy = nn.functional.one_hot(torch.tensor(2), 3) * (x.flatten(1)[:, :1] > 10)
            return super().forward(x) + 2 * heavy

    found = bolder(generator(Pixels()), Heavy(), digits((1, 1, 4)))
    # Class 2 makes light 0 and light 1 heavier by 24.
    assert found.pairs[~found.is_kept].tolist() == [[2, 0], [2, 1]]


def test_a_class_without_bold_images_has_no_way_to_go():
    found = bolder(generator(Pixels()), Sides(), digits((1, 0, 1)))
    assert found.moved.isnan().tolist() == [pair[1] == 1 for pair in found.pairs.tolist()]


def test_a_sum_asks_for_its_class_where_it_can():
    class Asked(nn.Module):
        """Pixels, ink in the first, the class that is asked for in the others."""

        def forward(self, z):
            label = nn.functional.one_hot(z[:, 1:].argmax(1), 3)
            return torch.cat([z[:, :1], label], 1).view(-1, *SHAPE)

    class Swapping(Sides):
        """Takes images without ink for class 0."""

        def forward(self, x):
            none = nn.functional.one_hot(torch.tensor(0), 3) * (x.flatten(1)[:, :1] < 0.5)
            return super().forward(x) + 2 * none

    made = Generator(Asked(), 4, "normal", SHAPE, 3)
    # No two components alike, as from a prior.
    found = bolder(made, Swapping(), digits((1, 2, 4)) + normal(24, 4).abs() / 100)
    asked = made.labels(found.codes.flatten(0, 1)).view(-1, 4)
    a, b = found.pairs.unbind(1)
    assert asked.equal(torch.stack([a, a, b, b], 1))


def test_classes_of_few_images_are_left_out():
    z = digits((1, 1, 1))
    rare = z[:, 2] > 0
    keep = ~rare | (rare.cumsum(0) <= 3)
    assert bolder(generator(Pixels()), Sides(), z[keep]).pairs.tolist() == [[0, 2], [2, 0]]
    with pytest.raises(ValueError, match="must be at least two, got 1"):
        bolder(generator(Pixels()), Sides(), z[z[:, 1] > 0])
