"""Counter-based random numbers: the same for a sample on every device, in every batch and order.

A number is a hash (splitmix64: Steele, Lea, Flood 2014, OOPSLA) of seed, purpose, sample id,
restart, further counters and its place in the tensor. int64 arithmetic wraps around, as the
unsigned original does.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


def _signed(value: int) -> int:
    return (value & (2**64 - 1)) - (2**64 if value & 2**63 else 0)


_STRIDE = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _mix(z: Tensor) -> Tensor:
    """The output function of splitmix64; the masks turn arithmetic shifts into logical ones."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _FIRST
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _SECOND
    return z ^ ((z >> 31) & (2**33 - 1))


@functools.cache
def _purpose_key(seed: int, purpose: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@functools.lru_cache(maxsize=32)
def _places(count: int, device: torch.device) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.int64, device=device) * _STRIDE


_BITS = 32


@functools.lru_cache(maxsize=32)
def _shifts(device: torch.device) -> Tensor:
    return torch.arange(_BITS, dtype=torch.int64, device=device) + _BITS // 2


def sample_ids(x: Tensor) -> Tensor:
    """Digests (N,) int64 of images x (N, ...), uint8 (divided by 255) or floating (as float32)."""
    images = (x.float().div(255) if x.dtype == torch.uint8 else x.detach().float()).cpu()
    rows = np.ascontiguousarray(images.numpy()).reshape(len(images), math.prod(images.shape[1:]))
    digests = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)
    return torch.from_numpy(np.frombuffer(digests, dtype="<i8").astype(np.int64))


@dataclass(frozen=True)
class Draws:
    """Random numbers for N samples. seed: int; ids (N,) int64; restart (N,) int64, the restart each
    sample is in.

    Every method takes a purpose (a word that keeps streams apart) and counters (ints or tensors
    (N,), such as the step); the same arguments give the same numbers.
    """

    seed: int
    ids: Tensor
    restart: Tensor

    @classmethod
    def of(cls, x: Tensor, seed: int) -> Draws:
        """Draws for images x (N, ...), keyed by their content, at restart 0."""
        ids = sample_ids(x).to(x.device)
        return cls(seed, ids, torch.zeros_like(ids))

    def key(self, purpose: str, *counters: int | Tensor) -> Tensor:
        """One hash (N,) int64 per sample."""
        key = _mix(self.ids ^ _purpose_key(self.seed, purpose))
        for counter in (self.restart, *counters):
            step = (counter + 1) * _STRIDE
            key = _mix(key + (_signed(step) if isinstance(step, int) else step))
        return key

    def bits(self, shape: torch.Size, purpose: str, *counters: int | Tensor) -> Tensor:
        """Hashes (N, ...) int64 of the given shape, whose first dimension is N."""
        places = _places(math.prod(shape[1:]), self.ids.device)
        return _mix(self.key(purpose, *counters)[:, None] + places).view(shape)

    def uniform(self, shape: torch.Size, purpose: str, *counters: int | Tensor) -> Tensor:
        """Uniform float32 in [0, 1), multiples of 2**-24."""
        return ((self.bits(shape, purpose, *counters) >> 40) & (2**24 - 1)).float().mul_(2**-24)

    def open_uniform(self, shape: torch.Size, purpose: str, *counters: int | Tensor) -> Tensor:
        """Uniform float32 in (0, 1), symmetric about 1/2: odd multiples of 2**-24."""
        bits = (self.bits(shape, purpose, *counters) >> 41) & (2**23 - 1)
        return bits.float().add_(0.5).mul_(2**-23)

    def normal(self, shape: torch.Size, purpose: str, *counters: int | Tensor) -> Tensor:
        """Standard normal float32 by the inverse distribution function; within 5.3 of 0."""
        uniform = self.open_uniform(shape, purpose, *counters)
        return torch.erfinv(uniform.mul_(2).sub_(1)).mul_(math.sqrt(2))

    def signs(self, shape: torch.Size, purpose: str, *counters: int | Tensor) -> Tensor:
        """-1 or 1 as float32, 32 of a hash's bits each used once."""
        count = math.prod(shape[1:])
        words = self.bits(torch.Size((shape[0], -(-count // _BITS))), purpose, *counters)
        bits = (words[:, :, None] >> _shifts(self.ids.device)) & 1
        return (bits.flatten(1)[:, :count].float() * 2 - 1).view(shape)

    def integers(self, high: int | Tensor, purpose: str, *counters: int | Tensor) -> Tensor:
        """Integers (N,) int64 in [0, high), high one or (N,), biased by less than high / 2**31."""
        return ((self.key(purpose, *counters) >> 33) & (2**31 - 1)) % high

    def fork(self, purpose: str, *counters: int | Tensor) -> Draws:
        """Draws of their own for a purpose and counters: independent of these and of one
        another.
        """
        return Draws(self.seed, self.key(purpose, *counters), torch.zeros_like(self.restart))

    def at(self, restart: Tensor) -> Draws:
        """The same draws at other restarts (N,)."""
        return replace(self, restart=restart)
