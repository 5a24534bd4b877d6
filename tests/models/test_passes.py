"""Passes: the same rows as in one, and no gradients."""

import torch
from torch import nn

from models import passes
from models.passes import through


def test_pieces_are_put_together_in_order(monkeypatch):
    monkeypatch.setattr(passes, "_ROWS", 4)
    x = torch.arange(22.0, requires_grad=True).view(11, 2)
    for count in (0, 1, 4, 11):
        made = through(nn.Flatten(), x[:count])
        assert torch.equal(made, x[:count])
        assert not made.requires_grad
