"""Nets with modules replaced share what they keep."""

import pytest
import torch
from torch import nn

from models import nets
from models.rebuild import last_of, replaced
from models.seeding import seeded


def net(make=nets.cnn_small):
    with seeded(0):
        return make((1, 8, 8), 10).eval()


def without_relu(module):
    return nn.Identity() if isinstance(module, nn.ReLU) else None


@pytest.mark.parametrize("make", [nets.cnn_small, nets.mlp_relu, nets.resnet18])
def test_parameters_are_shared_under_their_names_and_the_net_stays(make):
    one = net(make)
    modules = list(one.modules())
    other = replaced(one, without_relu)
    mine, its = one.state_dict(keep_vars=True), other.state_dict(keep_vars=True)
    assert list(mine) == list(its)
    assert all(mine[name] is its[name] for name in mine)
    assert not any(isinstance(module, nn.ReLU) for module in other.modules())
    assert all(a is b for a, b in zip(one.modules(), modules, strict=True))
    other.train()
    assert not any(module.training for module in one.modules())


def test_it_computes_with_what_stands_there():
    one, x = net(nets.mlp_relu), torch.full((2, 1, 8, 8), 0.5)
    same = replaced(one, lambda _: None)
    assert torch.equal(same(x), one(x))
    linear = replaced(one, without_relu)
    flat = x.flatten(1)
    for number in (1, 3, 5):
        flat = flat @ one[number].weight.T + one[number].bias
    torch.testing.assert_close(linear(x), flat)


def test_the_last_of_a_kind():
    one = net()
    assert last_of(one, nn.Linear) is one[7]
    assert last_of(one, nn.Conv2d) is one[2]
    with pytest.raises(ValueError, match="the model must have a GELU module, Sequential has none"):
        last_of(one, nn.GELU)
