"""Features: what the last linear layer weighs, and nets that have none."""

import math

import pytest
import torch
from torch import nn

from models import checkpoint
from models.penultimate import Penultimate
from models.registry import models
from models.seeding import seeded


@pytest.mark.parametrize("model", ["logreg", "mlp", "cnn_small", "cnn", "resnet18"])
def test_features_are_what_the_last_linear_layer_weighs(model):
    shape = (3, 8, 8) if model == "resnet18" else (1, 8, 8)
    net = models.get(model).build(shape, 10)
    x = torch.linspace(0, 1, 2 * math.prod(shape)).view(2, *shape)
    before = checkpoint.digest(net.state_dict())
    with torch.no_grad():
        logits = net(x)
        layer = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
        torch.testing.assert_close(layer(Penultimate(net)(x)), logits)
        assert torch.equal(net(x), logits)
    assert checkpoint.digest(net.state_dict()) == before
    assert not any(module._forward_pre_hooks for module in net.modules()), "no hook stays"


def test_the_last_layer_is_the_one_called_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(3, 2), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.body(x.flatten(1)))

    with seeded(0):
        net, x = Backwards(), torch.ones(2, 1, 2, 2)
    assert torch.equal(Penultimate(net)(x), net.body(x.flatten(1)))


def test_a_net_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match="Sequential has none"):
        Penultimate(nn.Sequential(nn.Flatten(), nn.ReLU()))

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(1, 1)

        def forward(self, x):
            return x.flatten(1)

    with seeded(0):
        idle = Idle()
    with pytest.raises(ValueError, match="Idle has none"):
        Penultimate(idle)(torch.ones(1, 1, 1, 1))
