"""What trainings measure on validation images: accuracy under an attack that is trusted more than
the one trained with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attacks.base import Attack
from attacks.pgd import Pgd
from attacks.threat import ThreatModel
from models.split import Split

CHECK = Pgd(steps=10)
"""The attack that validation trusts more than the one trained with."""
ROWS = 128
"""Images through the net at a time."""
_CHECKED = 500


def checked(net: nn.Module, validation: Split) -> tuple[Tensor, Tensor]:
    """The images x (n, ...) and labels y (n,), n at most 500, that an attack is measured on; on the
    net's device.
    """
    device = next(net.parameters()).device
    few = slice(0, _CHECKED)
    return validation.images(few, device), validation.y[few].to(device)


def under_check(
    net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, own: Attack, seed: int
) -> float:
    """Share of the images x (n, ...) that a net in eval mode classifies rightly under the check;
    under the own attack where the check does not know the norm.
    """
    check = CHECK if threat.norm in CHECK.norms else own
    return share_right(net, check(net, x, y, threat, seed=seed, shape=ROWS), y)


def share_right(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of the images x (n, ...) that the net classifies as y (n,)."""
    return int((predicted(net, x) == y).sum()) / len(x)


def predicted(net: nn.Module, x: Tensor) -> Tensor:
    """The classes (n,) that the net sees in the images x (n, ...)."""
    with torch.no_grad():
        return torch.cat([net(rows).argmax(1) for rows in torch.split(x, ROWS)])
