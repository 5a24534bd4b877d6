"""Memorisation: copies, new images, and neighbours that chunks do not change."""

import os

import pytest
import torch
from torchvision.datasets import MNIST

from models import distances, memorisation
from models.memorisation import copied, nearest
from models.split import Split

SHAPE = (1, 8, 8)


def images(count, seed):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def split(x):
    return Split(x, torch.zeros(len(x), dtype=torch.int64))


TRAIN = split(images(1000, 0))


@pytest.mark.parametrize(("held", "training"), [(2**24, 8192), (64, 8192), (2**24, 300), (5, 7)])
def test_neighbours_are_the_nearest(monkeypatch, held, training):
    monkeypatch.setattr(distances, "_HELD", held)
    monkeypatch.setattr(memorisation, "_TRAINING", training)
    x, train = images(9, 1), TRAIN.take(torch.arange(60))
    apart = (x[:, None].double() - train.x.double()).flatten(2).norm(dim=2)
    found = nearest(x, train)
    assert torch.equal(found.index, apart.argmin(1))
    torch.testing.assert_close(found.distance.double(), apart.amin(1))


def test_bytes_are_read_as_intensities():
    train = split((TRAIN.x * 255).round().to(torch.uint8))
    picked = torch.tensor([3, 999, 0])
    found = nearest(train.images(picked), train)
    assert torch.equal(found.index, picked)
    assert torch.equal(found.distance, torch.zeros(3))


def test_copies_are_all_found_and_new_images_one_in_a_hundred():
    held_out = nearest(images(1000, 1), TRAIN).distance
    copies = nearest(TRAIN.x[::5], TRAIN).distance
    assert copied(copies, held_out) == 1
    assert copied(held_out, held_out) == 0.01
    # 2,000 more from the same source: 1 %, within four standard errors and the threshold's own.
    fresh = nearest(images(2000, 2), TRAIN).distance
    assert copied(fresh, held_out) <= 0.03
    assert copied(torch.cat([copies, fresh]), held_out) == pytest.approx(
        (200 + 2000 * copied(fresh, held_out)) / 2200
    )


def test_a_faint_change_is_a_copy_still():
    held_out = nearest(images(1000, 1), TRAIN).distance
    faint = (TRAIN.x[:50] + 0.1 * (images(50, 5) - 0.5)).clamp(0, 1)
    assert copied(nearest(faint, TRAIN).distance, held_out) == 1


@pytest.mark.data
def test_nearest_neighbours_of_mnist():
    """reference 2.17: of the first 1,000 test images, 3.8 % have a nearest of another class."""
    parts = (MNIST(os.environ["BENCH_DATA"], train=is_train) for is_train in (True, False))
    train, test = (Split(part.data[:, None], part.targets) for part in parts)
    first = torch.arange(1000)
    found = nearest(test.images(first), train)
    assert int((train.y[found.index] != test.y[first]).sum()) == 38


def test_what_tells_nothing_is_refused():
    with pytest.raises(ValueError, match="1 made and 100 held-out images, got 5 and 99"):
        copied(torch.zeros(5), torch.zeros(99))
    with pytest.raises(ValueError, match="got 0 and 100"):
        copied(torch.zeros(0), torch.zeros(100))
    with pytest.raises(ValueError, match=r"of shape \(1, 4, 4\), got \(1000, 1, 8, 8\)"):
        nearest(torch.zeros(1, 1, 4, 4), TRAIN)
    with pytest.raises(ValueError, match="at least one"):
        nearest(images(1, 0), TRAIN.take(torch.arange(0)))
