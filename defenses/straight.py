"""Straight-through: the exact value forward, the gradient of a stand-in backward."""

from __future__ import annotations

from torch import Tensor


def straight_through(exact: Tensor, standin: Tensor) -> Tensor:
    """The values of `exact`, differentiated as `standin` of the same shape (Bengio et al. 2013,
    arXiv:1308.3432; as an attack BPDA, Athalye et al. 2018, arXiv:1802.00420).
    """
    return standin + (exact - standin).detach()
