"""In which precision attacks search: what was asked for, what the hardware has, and what a measured
step says. The verdict is float32 always.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from attacks.base import Attack
from attacks.draws import Draws
from attacks.losses import CROSS_ENTROPY
from attacks.oracles import Aim, Predict, frozen
from attacks.pipelines import Witness
from attacks.precision import Reduced, bears_rounding
from bench.devices import name_of, numerics, threads
from bench.plan import BFLOAT16, FLOAT32, Numerics
from models.nets import Shape

PAYS = 1.2
"""How many times faster a step in bfloat16 must be for `auto` to choose it."""
_LAYOUT_PAYS = 1.05
_ROUNDS, _LEAST_ROUNDS, _SECONDS = 15, 3, 2.0
"""Timed steps of each kind at most; at least; and after which time no more are begun."""
_LAST = "+channels_last"


def has_bfloat16(device: str) -> bool:
    """Whether the hardware computes in bfloat16 by itself; emulated it is many times slower than
    float32 (on a CPU with AVX2 alone a step of cnn_small 5 times, of cnn 11 times).
    """
    if device.partition(":")[0] == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private names, which a later torch may drop: then nothing is known, and float32 is safe.
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def chosen(wanted: str, seconds: Mapping[str, float]) -> tuple[str, bool]:
    """The precision, and whether channels come last, given the seconds of a step by `fp32`, `bf16`
    and either with `+channels_last`; nothing measured: as asked for, `auto` is float32.
    """
    best = {
        precision: min(seconds[precision], seconds.get(precision + _LAST, float("inf")))
        for precision in (FLOAT32, BFLOAT16)
        if precision in seconds
    }
    pays = bool(best) and best[FLOAT32] >= PAYS * best[BFLOAT16]
    precision = BFLOAT16 if wanted == BFLOAT16 or pays else FLOAT32
    last = seconds.get(precision + _LAST)
    return precision, last is not None and seconds[precision] >= _LAYOUT_PAYS * last


@dataclass
class Precisions:
    """What was asked for (auto, fp32 or bf16) on a device. folder: where measured steps are kept,
    as the key of a cell depends on them; notes: what was chosen that a user may not expect.
    """

    wanted: str
    device: str
    folder: Path
    notes: list[str] = field(default_factory=list)
    _known: dict[tuple[str, int], Numerics] = field(default_factory=dict)

    def reduces(self, attack: Attack) -> bool:
        """Whether an attack may search in bfloat16 here; notes one that should and does not."""
        bears = bears_rounding(attack)
        if self.wanted == BFLOAT16 and not bears and has_bfloat16(self.device):
            self._note(f"{attack.to_spec()} does not bear rounding: it searches in float32")
        return bears

    def of(
        self, own: Numerics, name: str, net: Callable[[], nn.Module], shape: Shape, classes: int
    ) -> Numerics:
        """The numerics of a search on a model: its name, a net of its architecture, images
        (C, H, W) and classes; own: those of the verdict.
        """
        if self.wanted == FLOAT32:
            return own
        if not has_bfloat16(self.device):
            if self.wanted == BFLOAT16:
                self._note(f"no native bfloat16 on {self.device}: attacks search in float32")
            return own
        place = name, own.shape
        if place not in self._known:
            seconds = self._seconds(own, net().to(self.device), shape, classes)
            precision, channels_last = chosen(self.wanted, seconds)
            self._known[place] = replace(own, precision=precision, channels_last=channels_last)
        if self.wanted != BFLOAT16 and self._known[place].precision == BFLOAT16:
            self._note(
                f"attacks on {name} search in bfloat16, faster on {self.device}; the verdict is "
                "float32 (--precision fp32 for both)"
            )
        return self._known[place]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _seconds(
        self, own: Numerics, net: nn.Module, shape: Shape, classes: int
    ) -> dict[str, float]:
        """See `measured`; from the folder where it is known. Nothing for a net of which no step can
        be taken: it fails where it is run, or has no gradient.
        """
        path = self.folder / "precision" / f"{_known_by(own, net, shape, self.device)}.json"
        found = _read(path)
        if found is None:
            try:
                found = measured(net, shape, classes, own.shape, self.device)
            except Exception:  # noqa: BLE001  a boundary of its own: the cell will fail and say why
                return {}
            _write(path, found)
        return found


def measured(
    net: nn.Module, shape: Shape, classes: int, rows: int, device: str
) -> dict[str, float]:
    """Median seconds of a step, forward and gradient to the image, of so many images, by how it is
    computed: see `chosen`. Kinds are timed in turn, so that a load on the machine hits them alike.
    """
    count = rows * shape[0] * shape[1] * shape[2]
    x = torch.linspace(0, 1, count, device=device).view(rows, *shape)
    y = torch.zeros(rows, dtype=torch.int64, device=device)
    aim = Aim(CROSS_ENTROPY, y, torch.ones(rows, device=device))
    draws = Draws(0, torch.arange(rows, device=device), y)
    kinds = _kinds(net, device)
    oracles = {
        name: Witness(model, "gradient", classes, 1, 1).oracle(y, draws, 0)
        for name, model in kinds.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    with numerics(threads()), frozen(net):
        begun = time.perf_counter()
        # The first round warms up.
        for number in range(_ROUNDS + 1):
            for name, oracle in oracles.items():
                start = time.perf_counter()
                oracle(x, aim, differentiate=True)
                if x.is_cuda:
                    torch.cuda.synchronize(x.device)
                taken[name].append(time.perf_counter() - start)
            if number >= _LEAST_ROUNDS and time.perf_counter() - begun > _SECONDS:
                break
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def _kinds(net: nn.Module, device: str) -> dict[str, Predict]:
    """The ways to compute a step that are worth a look. Not float32 with channels last on a CPU: a
    step took 0.92 to 1.03 of its time (cnn_small, cnn, resnet18), and its last bits changed.
    """
    kinds: dict[str, Predict] = {FLOAT32: net, BFLOAT16: Reduced(net)}
    if any(isinstance(layer, nn.Conv2d) for layer in net.modules()):
        kinds[BFLOAT16 + _LAST] = Reduced(net, channels_last=True)
        if device != "cpu":
            kinds[FLOAT32 + _LAST] = Reduced(net, bfloat16=False, channels_last=True)
    return kinds


def _known_by(own: Numerics, net: nn.Module, shape: Shape, device: str) -> str:
    """A digest of an architecture and of what it is timed on."""
    on = name_of(device)
    weights = [(name, str(t.dtype), *t.shape) for name, t in net.state_dict().items()]
    parts = [str(net), weights, shape, own.shape, own.threads, on, torch.__version__]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _read(path: Path) -> dict[str, float] | None:
    """What a file holds; nothing where there is none, or it is of no use."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in held.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def _write(path: Path, seconds: Mapping[str, float]) -> None:
    """Keeps it whole; a folder that cannot be written costs a warning."""
    part = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(seconds), encoding="utf-8")
        part.replace(path)
    except OSError as err:
        warnings.warn(f"the measured precision cannot be kept ({err})", stacklevel=2)
