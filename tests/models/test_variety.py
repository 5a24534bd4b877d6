"""Variety: distances by hand, and generators that look at their latents or do not."""

import pytest
import torch
from torch import nn

from models.generators import Generator
from models.variety import Variety, ignores_latent, variety

SHAPE = (1, 4, 4)


def images(count, seed=0):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


class Constant(nn.Module):
    """One image, whatever the latent, and so much of it."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, z):
        return 0.5 + self.share * z.view(-1, *SHAPE)


class Prototypes(nn.Module):
    """One image per class, the class being the largest of the first four components."""

    def forward(self, z):
        return images(4, seed=9).to(z.device)[z[:, :4].argmax(1)]


def drawn(net):
    return variety(Generator(net, 16, "normal", SHAPE).sample(200, 0))


REAL = variety(images(200))


def test_distances_by_hand():
    # 0, 1 and 3 in each of 4 pixels: twice as far apart as on a line; pairs 2, 4, 6.
    x = torch.tensor([0.0, 1.0, 3.0])[:, None, None, None].expand(3, 1, 2, 2)
    found = variety(x)
    assert found.apart == pytest.approx(((4 + 16 + 36) / 3) ** 0.5)
    assert found.nearest == 2


@pytest.mark.parametrize(
    "net", [Constant(0.0), Constant(0.01), Prototypes()], ids=["constant", "jitter", "prototypes"]
)
def test_images_that_do_not_depend_on_the_latent_are_named(net):
    assert ignores_latent(drawn(net), REAL)


def test_images_as_various_as_real_ones_are_not():
    assert not ignores_latent(drawn(Constant(1.0)), REAL)
    assert not ignores_latent(variety(images(200, 1)), REAL)


def test_a_few_images_are_seen_by_the_nearest_alone():
    found = drawn(Prototypes())
    assert found.nearest == 0
    assert found.apart > 0.5 * REAL.apart
    assert ignores_latent(Variety(0.99, 5.0), Variety(10.0, 5.0))


def test_one_image_tells_nothing():
    with pytest.raises(ValueError, match="images must be more than 1, got 1"):
        variety(images(1))
