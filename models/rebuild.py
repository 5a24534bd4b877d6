"""Nets with some of their modules replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

Change = Callable[[nn.Module], nn.Module | None]
"""What stands in a module's place, or None where it stays."""

Kind = TypeVar("Kind", bound=nn.Module)


def replaced(net: nn.Module, change: Change) -> nn.Module:
    """A net like this one in which `change` has put other modules in place of its own.

    Parameters and buffers are the given net's own, under the same names, and so is each module's
    mode at this time; the given net stays as it is. What a net computes without modules
    (torch.nn.functional) is not seen.
    """
    other = change(net)
    if other is not None:
        return other
    made = copy.copy(net)
    parts = net._modules.items()
    made.__dict__["_modules"] = {
        name: None if part is None else replaced(part, change) for name, part in parts
    }
    return made


def last_of(net: nn.Module, kind: type[Kind]) -> Kind:
    """The last module of a kind; refuses a net without one."""
    found = [module for module in net.modules() if isinstance(module, kind)]
    if not found:
        raise ValueError(
            f"the model must have a {kind.__name__} module, {type(net).__name__} has none"
        )
    return found[-1]
