"""Fooling images: noise driven to a class, and the shares reported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks.fooling import Fooling, fooling_images
from tests.problems import Curved, Mapped

SHAPE = (1, 8, 8)


def test_noise_becomes_what_the_model_is_sure_of() -> None:
    model = Curved()
    found = fooling_images(model, SHAPE, count=6)
    assert found.images.shape == (10, 6, *SHAPE)
    assert ((found.images >= 0) & (found.images <= 1)).all()
    with torch.no_grad():
        for k in range(10):
            sure = model(found.images[k]).softmax(1)[:, k]
            torch.testing.assert_close(sure, found.confidence[k], rtol=1e-5, atol=1e-6)
    assert (found.confidence >= found.before).all()
    assert found.shares(0.5).mean() > 0.9
    assert found.before.gt(0.5).double().mean() < 0.3


def test_an_image_is_left_alone_once_it_is_sure_enough() -> None:
    """At level 0.5 the images stop earlier than at 0.99."""
    low, high = (fooling_images(Curved(), SHAPE, count=6, level=level) for level in (0.5, 0.99))
    assert low.confidence.mean() < high.confidence.mean()
    assert (low.shares(0.5) == high.shares(0.5)).all()


def test_a_small_ball_keeps_the_image_near_its_noise() -> None:
    model = Curved()
    near, far = (fooling_images(model, SHAPE, count=4, eps=eps) for eps in (1e-6, 1.0))
    torch.testing.assert_close(near.confidence, near.before, rtol=1e-2, atol=1e-4)
    assert far.confidence.mean() > near.confidence.mean() + 0.3
    again = fooling_images(model, SHAPE, count=4, eps=1.0)
    assert torch.equal(again.images, far.images)
    assert not torch.equal(fooling_images(model, SHAPE, count=4, seed=1).images, far.images)


def test_the_shares_of_a_known_result() -> None:
    confidence = torch.tensor([[0.95, 0.6, 0.4, 0.91], [0.1, 0.2, 0.3, 0.5]])
    found = Fooling(torch.zeros(2, 4, *SHAPE), confidence, torch.tensor([[0.6, 0, 0, 0], [0] * 4]))
    assert found.table == [
        {"class": 0, "above_0.5": 0.75, "above_0.9": 0.5, "noise_above_0.5": 0.25},
        {"class": 1, "above_0.5": 0.0, "above_0.9": 0.0, "noise_above_0.5": 0.0},
    ]


def flat(logits: Tensor, _: Tensor) -> Tensor:
    return 0 * logits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count must be at least 1"),
        ({"level": 1.0}, "level must be above 0 and below 1"),
        ({"eps": 0.0}, "eps must be finite and above 0"),
        ({"attack": "fmn"}, "attack must be a budget attack of steps, got fmn"),
        ({"attack": "autoattack"}, "attack must be a budget attack of steps"),
        ({"norm": "l0"}, "attack pgd knows the norms"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fooling_images(Curved(), SHAPE, **changes)


def test_a_model_that_cannot_be_driven_stays_unsure() -> None:
    model: nn.Module = Mapped(Curved(), flat)
    assert (fooling_images(model, SHAPE, count=2).shares(0.5) == 0).all()
