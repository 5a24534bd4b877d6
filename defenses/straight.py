"""Straight-through: the exact value forward, the gradient of a stand-in backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    """Hands on the first argument, and the gradient to the second."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, standin: Tensor) -> Tensor:  # noqa: ARG004  torch's signature
        """See torch.autograd.Function."""
        return exact.view_as(exact)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004  see above
        """See torch.autograd.Function."""
        return None, gradient


def straight_through(exact: Tensor, standin: Tensor) -> Tensor:
    """The values of `exact`, differentiated as `standin` of the same shape (Bengio et al. 2013,
    arXiv:1308.3432; as an attack BPDA, Athalye et al. 2018, arXiv:1802.00420).
    """
    result: Tensor = _StraightThrough.apply(exact, standin)
    return result
