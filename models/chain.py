"""A net as a chain of affine maps, rectifiers and poolings in float64, for those who prove
something about it.

Letters: N samples, R rows of linear functions, ... dimensions of what stands between two steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nets import Centre, Shape

Interval = tuple[Tensor, Tensor]
"""The least and the largest value (N, ...) of each component."""


class Unchained(ValueError):
    """A net that is no chain of layers known here; the message names what is in the way."""


@dataclass(frozen=True)
class Affine:
    """x to W x + b, as layers in a row. absolute: the same layers with their weights' magnitudes
    and without b; inner: the shape of one input; bias: b (...).
    """

    layers: nn.Sequential
    absolute: nn.Sequential
    inner: torch.Size
    bias: Tensor

    def transposed(self, rows: Tensor) -> Tensor:
        """W^T r (M, ...) of each row r (M, ...)."""
        with torch.enable_grad():
            at = rows.new_zeros(len(rows), *self.inner, requires_grad=True)
            (back,) = torch.autograd.grad(self.layers(at), at, rows)
        return back

    def interval(self, inner: Interval) -> Interval:
        """Bounds of what is made of inputs within bounds; the tightest where there is one layer."""
        low, high = inner
        middle, spread = self.layers((low + high) / 2), self.absolute((high - low) / 2)
        return middle - spread, middle + spread

    def back(self, rows: Tensor, _: Interval) -> tuple[Tensor, Tensor]:
        """See Step."""
        pulled = self.transposed(rows.flatten(0, 1)).view(*rows.shape[:2], *self.inner)
        return pulled, (rows * self.bias).flatten(2).sum(2)


@dataclass(frozen=True)
class Rectifier:
    """max(x, 0)."""

    def interval(self, inner: Interval) -> Interval:
        """Bounds of what is made of inputs within bounds."""
        return inner[0].clamp(min=0), inner[1].clamp(min=0)

    def back(self, rows: Tensor, inner: Interval) -> tuple[Tensor, Tensor]:
        """See Step. Where the sign is open, above stands the chord, below the identity or 0,
        whichever leaves the smaller area (Zhang et al. 2018, arXiv:1811.00866).
        """
        low, high = (bound[:, None] for bound in inner)
        is_open = (low < 0) & (high > 0)
        chord = torch.where(is_open, high / (high - low), (low >= 0).to(low.dtype))
        under = torch.where(is_open, (high > -low).to(low.dtype), chord)
        above = rows.clamp(max=0)
        offset = torch.where(is_open, -low * chord, 0)
        return rows.clamp(min=0) * under + above * chord, (above * offset).flatten(2).sum(2)


@dataclass(frozen=True)
class Pool:
    """The largest of each window. kernel, stride, padding: (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def interval(self, inner: Interval) -> Interval:
        """Bounds of what is made of inputs within bounds."""
        low, high = (self._windows(bound, -torch.inf).amax(4) for bound in inner)
        return low, high

    def back(self, rows: Tensor, inner: Interval) -> tuple[Tensor, Tensor]:
        """See Step. Below stands the component of the largest lower bound, above the same one where
        no other can exceed it, else the largest upper bound.
        """
        rows = rows.expand(len(inner[0]), *rows.shape[1:])
        low, high = (self._windows(bound, -torch.inf) for bound in inner)
        best = low.argmax(4, keepdim=True)
        others = high.scatter(4, best, -torch.inf).amax(4)
        is_it = (others <= low.gather(4, best)[..., 0])[:, None]
        height, width = inner[0].shape[2:]
        places = torch.arange(height * width, device=rows.device).view(1, 1, height, width)
        places = self._windows(places, 0).expand_as(low).gather(4, best).flatten(2)
        above = rows.clamp(max=0)
        kept = (rows.clamp(min=0) + torch.where(is_it, above, 0)).flatten(3)
        back = rows.new_zeros(*rows.shape[:3], height * width)
        back.scatter_add_(3, places[:, None].expand_as(kept), kept)
        offset = torch.where(is_it, 0, above * high.amax(4)[:, None])
        return back.view(*back.shape[:3], height, width), offset.flatten(2).sum(2)

    def _windows(self, x: Tensor, fill: float) -> Tensor:
        """The components of each window (N, C, height, width, size)."""
        (down, across), (tall, wide) = self.padding, self.kernel
        padded = F.pad(x, (across, across, down, down), value=fill)
        return padded.unfold(2, tall, self.stride[0]).unfold(3, wide, self.stride[1]).flatten(4)


Step = Affine | Rectifier | Pool
"""A step: interval(bounds of its input) are bounds of its output; back(rows, bounds of its input),
with rows (N, R, ...), or (1, R, ...) for all images alike, on its output, yields rows on its input
and constants (N, R) whose value is nowhere above theirs.
"""


@dataclass(frozen=True)
class Chain:
    """Steps in order; sizes: components of what enters each, and last of what comes out."""

    steps: tuple[Step, ...]
    sizes: tuple[int, ...]

    @property
    def is_affine(self) -> bool:
        """Whether the net is one affine map."""
        return len(self.steps) == 1 and isinstance(self.steps[0], Affine)


class _Scale(nn.Module):
    """weight x + bias, each a number, or one per channel."""

    def __init__(self, weight: Tensor | float, bias: Tensor | float):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return x * _per_channel(self.weight, x) + _per_channel(self.bias, x)


def _per_channel(values: Tensor | float, x: Tensor) -> Tensor | float:
    """Values (C,) shaped to broadcast over x (N, C, ...)."""
    return values.view(-1, *(1,) * (x.dim() - 2)) if isinstance(values, Tensor) else values


def chain_of(net: nn.Module, shape: Shape) -> Chain:
    """The steps of a net in eval mode for images (C, H, W), on its device; it shares nothing with
    the net.

    Raises Unchained for a net that is not nn.Sequential (nested as you like) of nn.Linear,
    nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity,
    nn.Dropout, nn.BatchNorm1d, nn.BatchNorm2d and models.nets.Centre.
    """
    parameter = next(net.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    at = torch.zeros(1, *shape, dtype=torch.float64, device=device)
    steps: list[Step] = []
    sizes = []
    for group in _grouped(_KNOWN[type(leaf)](leaf) for leaf in leaves(net)):
        sizes.append(at[0].numel())
        if isinstance(group, Sequence):
            layers, absolute = (nn.Sequential(*own) for own in zip(*group, strict=True))
            inner = at.shape[1:]
            at = layers(torch.zeros_like(at))
            steps.append(Affine(layers, absolute, inner, at[0]))
        else:
            at, _ = group.interval((at, at))
            steps.append(group)
    return Chain(tuple(steps), (*sizes, at[0].numel()))


_Pair = tuple[nn.Module, nn.Module]
"""An affine layer, and the same of its weights' magnitudes without a bias."""


def _grouped(layers: Iterable[_Pair | Step]) -> Iterable[list[_Pair] | Step]:
    """Affine layers that follow each other, together."""
    waiting: list[_Pair] = []
    for layer in layers:
        if isinstance(layer, tuple):
            waiting.append(layer)
            continue
        if waiting:
            yield waiting
            waiting = []
        yield layer
    if waiting:
        yield waiting


def leaves(net: nn.Module) -> list[nn.Module]:
    """The layers of a net in order; raises Unchained where one is of no kind known here."""
    if net.training:
        raise Unchained(f"{type(net).__name__} is not in eval mode")
    if net._forward_hooks or net._forward_pre_hooks:
        raise Unchained(f"{type(net).__name__} has hooks, which may change what it computes")
    if type(net) is nn.Sequential:
        return [leaf for layer in net for leaf in leaves(layer)]
    if type(net) not in _KNOWN:
        raise Unchained(f"{type(net).__name__} is no layer whose bounds are known")
    return [net]


def is_affine(net: nn.Module) -> bool:
    """Whether a net is one affine map; raises Unchained as `leaves` does. Makes no copy of it."""
    return not any(isinstance(leaf, nn.ReLU | nn.MaxPool2d) for leaf in leaves(net))


def _weighted(layer: Any) -> _Pair:
    exact = copy.deepcopy(layer).double().requires_grad_(requires_grad=False)
    magnitudes = copy.copy(exact)
    magnitudes._parameters = {
        "weight": nn.Parameter(exact.weight.abs(), requires_grad=False),
        "bias": None,
    }
    return exact, magnitudes


def _same(layer: nn.Module) -> _Pair:
    copied = copy.deepcopy(layer)
    return copied, copied


def _centre(_: Any) -> _Pair:
    return _Scale(4.0, -2.0), _Scale(4.0, 0.0)


def _batch_norm(layer: Any) -> _Pair:
    if layer.running_mean is None:
        raise Unchained("a batch norm without running statistics depends on the whole batch")
    mean, variance = layer.running_mean.double(), layer.running_var.double()
    weight = torch.ones_like(mean) if layer.weight is None else layer.weight.detach().double()
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.detach().double()
    weight = weight / (variance + layer.eps).sqrt()
    return _Scale(weight, bias - mean * weight), _Scale(weight.abs(), 0.0)


def _flatten(layer: Any) -> _Pair:
    if layer.start_dim != 1:
        raise Unchained(f"a Flatten from dimension {layer.start_dim} mixes images")
    return _same(layer)


def _rectifier(_: Any) -> Step:
    return Rectifier()


def _pool(layer: Any) -> Step:
    if _pair(layer.dilation) != (1, 1) or layer.ceil_mode or layer.return_indices:
        raise Unchained("a MaxPool2d with dilation, ceil_mode or return_indices is not known")
    return Pool(_pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


_KNOWN: Mapping[type[nn.Module], Callable[[Any], _Pair | Step]] = {
    nn.Linear: _weighted,
    nn.Conv2d: _weighted,
    nn.AvgPool2d: _same,
    nn.AdaptiveAvgPool2d: _same,
    nn.Flatten: _flatten,
    nn.Identity: _same,
    nn.Dropout: _same,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    Centre: _centre,
    nn.ReLU: _rectifier,
    nn.MaxPool2d: _pool,
}
