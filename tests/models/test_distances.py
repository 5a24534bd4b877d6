"""Distances: against direct differences, equal points at 0, and pieces that change nothing."""

import pytest
import torch

from models import distances
from models.distances import blocks, squared, to_neighbour


def points(count, size, seed):
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed))


def test_distances_are_those_of_the_differences():
    x, y = points(30, 784, 0), points(40, 784, 1)
    wanted = (x[:, None].double() - y.double()).square().sum(2)
    torch.testing.assert_close(squared(x, y).double(), wanted, rtol=1e-4, atol=0)
    torch.testing.assert_close(squared(x.double(), y.double()), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1, 64, 784, 4096])
def test_equal_points_are_at_no_distance(size):
    x = points(200, size, 0)
    assert torch.equal(squared(x, x).diagonal(), torch.zeros(200))


@pytest.mark.parametrize("held", [1, 7, 50, 2**24])
def test_neighbours_by_hand(monkeypatch, held):
    monkeypatch.setattr(distances, "_HELD", held)
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0], [7.0]], dtype=torch.float64)
    assert to_neighbour(line, 1).tolist() == [1, 1, 4, 0, 0]
    assert to_neighbour(line, 3).tolist() == [49, 36, 16, 36, 36]
    cut = [range(5)[block] for block in blocks(5, 5)]
    assert [place for piece in cut for place in piece] == [0, 1, 2, 3, 4]
    assert max(map(len, cut)) == max(1, min(5, held // 5))


def test_more_neighbours_than_points_are_refused():
    with pytest.raises(ValueError, match="images must be more than 3, got 3"):
        to_neighbour(torch.zeros(3, 2), 3)
