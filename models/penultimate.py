"""What a net makes of its input before its last linear layer."""

from __future__ import annotations

from torch import Tensor, nn


class Penultimate(nn.Module):
    """A net's features g(x) (N, F): what goes into the linear layer that it calls last."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
        if not self.layers:
            name = type(net).__name__
            raise ValueError(f"features are what enters a net's last linear layer, {name} has none")

    def forward(self, x: Tensor) -> Tensor:
        """The features; the net is left as it was."""
        entered: list[Tensor] = []

        def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            entered[:] = [given[0]]

        handles = [layer.register_forward_pre_hook(note) for layer in self.layers]
        try:
            self.net(x)
        finally:
            for handle in handles:
                handle.remove()
        if not entered:
            name = type(self.net).__name__
            raise ValueError(f"features are what enters a net's last linear layer, {name} has none")
        return entered[0].flatten(1)
