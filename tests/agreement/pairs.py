"""The same attack twice: ours, and another library's at the same norm, radius, start, step size and
number of steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Net:
    """A trained pipeline, and per norm a radius at which some images stand and some fall."""

    dataset: str
    defense: str
    eps: dict[str, float]


NETS = {
    "mnist": Net("mnist", "none", {"linf": 0.08, "l2": 1.15, "l1": 6.5, "l0": 8}),
    "mnist advtrain": Net(
        "mnist", "advtrain:eps=0.3,norm=linf", {"linf": 0.315, "l2": 2.4, "l1": 9.0, "l0": 16}
    ),
    "cifar10": Net("cifar10", "none", {"linf": 0.006, "l2": 0.25, "l1": 3.0, "l0": 7}),
}
MODEL = "cnn_small"


@dataclass(frozen=True)
class Pair:
    """Two attacks on one net and n images; draws: their outcomes depend on the seed."""

    group: str
    net: str
    norm: str
    eps: float
    ours: str
    peer: str
    n: int = 256
    draws: bool = False


def pairs(group: str = "") -> list[Pair]:
    """The table; of one group, or all."""
    return [pair for pair in _all() if group in ("", pair.group)]


def _all() -> Iterator[Pair]:
    for name, net in NETS.items():
        for norm, eps in net.eps.items():
            for group, table in TABLES.items():
                for n, ours, peer in table(norm, eps):
                    size = min(n, 128 if n < 500 else 500) if name == "cifar10" else n
                    draws = group in _DRAWING or "random=true" in ours
                    yield Pair(group, name, norm, eps, ours, peer, size, draws)
    yield from _autoattack()


_DRAWING = ("auto-pgd", "scores", "labels")


Row = tuple[int, str, str]
"""Images, ours, theirs."""


def _one_step(norm: str, eps: float) -> Iterator[Row]:
    if norm == "linf":
        yield 1000, "fgsm", "foolbox:LinfFastGradientAttack"
        yield 1000, "fgsm", "torchattacks:FGSM"
        yield 1000, "fgsm", "art:FastGradientMethod"
    if norm == "l2":
        yield 1000, "fgsm", "foolbox:L2FastGradientAttack"
        yield 1000, "fgsm", "art:FastGradientMethod"


def _steps(norm: str, eps: float) -> Iterator[Row]:
    if norm == "linf":
        step = eps / 4
        bim, momentum = f"bim:steps=10,alpha={step!r}", f"mifgsm:steps=10,alpha={step!r}"
        yield 1000, bim, f"foolbox:LinfBasicIterativeAttack:steps=10,abs_stepsize={step!r}"
        yield 1000, bim, f"torchattacks:BIM:steps=10,alpha={step!r}"
        yield 1000, bim, f"art:BasicIterativeMethod:max_iter=10,eps_step={step!r}"
        name = "LinfMomentumIterativeFastGradientMethod"
        yield 1000, momentum, f"foolbox:{name}:steps=10,abs_stepsize={step!r}"
        yield 1000, momentum, f"torchattacks:MIFGSM:steps=10,alpha={step!r}"
        keys = f"max_iter=10,decay=1.0,eps_step={step!r}"
        yield 1000, momentum, f"art:MomentumIterativeMethod:{keys}"
    if norm in ("linf", "l2"):
        yield from _pgd(norm, 2.5 * eps / 40)


def _pgd(norm: str, step: float) -> Iterator[Row]:
    other = "LinfPGD" if norm == "linf" else "L2PGD"
    third = "PGD" if norm == "linf" else "PGDL2"
    for start in ("false", "true"):
        ours = f"pgd:steps=40,alpha={step!r},random={start}"
        yield 1000, ours, f"foolbox:{other}:steps=40,abs_stepsize={step!r},random_start={start}"
        if (norm, start) != ("l2", "true"):  # their start is nearer to the image
            yield 1000, ours, f"torchattacks:{third}:steps=40,alpha={step!r},random_start={start}"
        starts = "1" if start == "true" else "0"
        keys = f"max_iter=40,eps_step={step!r},num_random_init={starts}"
        yield 1000, ours, f"art:ProjectedGradientDescent:{keys}"
        if norm == "linf":
            keys = f"steps=40,absolute_step_size={step!r},random_init={start}"
            yield 1000, ours, f"advlib:pgd_linf:{keys}"


def _auto_pgd(norm: str, eps: float) -> Iterator[Row]:
    if norm == "l0":
        return
    targeted = "apgd:loss=dlr,target=all,targets=9"
    large = ",use_large_reps=true" if norm == "l1" else ""
    yield 500, "apgd", f"advlib:apgd:n_iter=100,loss_function=ce{large}"
    yield 500, "apgd:loss=dlr", f"advlib:apgd:n_iter=100,loss_function=dlr{large}"
    yield 128, targeted, f"advlib:apgd_targeted:n_iter=100{large}"
    if norm != "l1":
        yield 500, "apgd", "torchattacks:APGD:steps=100,loss=ce"
        yield 128, targeted, "torchattacks:APGDT:steps=100"
        keys = f"max_iter=100,nb_random_init=1,eps_step={2 * eps!r}"
        yield 256, "apgd", f"art:AutoProjectedGradientDescent:{keys}"


def _minimal(norm: str, eps: float) -> Iterator[Row]:
    other = {"linf": "LInf", "l2": "L2", "l1": "L1", "l0": "L0"}[norm]
    yield 256, "fmn", "advlib:fmn:steps=100"
    yield 256, "fmn", f"foolbox:{other}FMNAttack:steps=100"
    if norm == "l0":
        yield 256, "sigma_zero", "advlib:sigma_zero:num_steps=300"
    if norm == "l2":
        yield 256, "ddn", "advlib:ddn:steps=100,levels=none"
        yield 256, "ddn", "foolbox:DDNAttack:steps=100"
        yield 256, "ddn:levels=256", "advlib:ddn:steps=100,levels=256"
        yield 128, "deepfool", "torchattacks:DeepFool:steps=50"
        yield 256, "deepfool", "art:DeepFool:max_iter=50,nb_grads=10,epsilon=0.02"
    if norm in ("linf", "l2"):
        yield 256, "deepfool", f"foolbox:{norm.title()}DeepFoolAttack:steps=50"
        yield 256, "deepfool", "advlib:df:steps=50"
    if norm != "l0":
        yield 256, "fab", "advlib:fab:n_iter=100"
        yield 128, "fab_t", "advlib:fab:n_iter=100,targeted_restarts=true"
    if norm in ("linf", "l2"):
        yield 128, "fab_t", "torchattacks:FAB:steps=100,multi_targeted=true"


def _weighted(norm: str, eps: float) -> Iterator[Row]:
    """Those that search for a weight between loss and distance: 9 rounds of 200 steps."""
    if norm == "l2":
        start = "binary_search_steps=9,initial_const=0.001"
        yield 128, "cw", f"advlib:carlini_wagner_l2:max_iterations=200,learning_rate=0.1,{start}"
        yield 128, "cw", f"foolbox:L2CarliniWagnerAttack:steps=200,stepsize=0.1,{start}"
        yield 128, "cw", "torchattacks:CW:steps=1800,lr=0.1"
        yield 32, "cw", f"art:CarliniL2Method:max_iter=200,learning_rate=0.1,{start}"
    if norm == "l1":
        start = "binary_search_steps=9,initial_const=0.001"
        keys = f"initial_stepsize=0.01,regularization=0.01,decision_rule=L1,{start}"
        yield 128, "ead", f"foolbox:EADAttack:steps=200,{keys}"
        yield 128, "ead", f"torchattacks:EADL1:max_iterations=200,lr=0.01,beta=0.01,{start}"
        keys = f"learning_rate=0.01,beta=0.01,decision_rule=L1,{start}"
        yield 32, "ead", f"art:ElasticNet:max_iter=200,{keys}"


def _scores(norm: str, eps: float) -> Iterator[Row]:
    if norm in ("linf", "l2"):
        yield 256, "square:queries=1000", "torchattacks:Square:n_queries=1000"
        yield 256, "square:queries=1000", "art:SquareAttack:max_iter=1000"
    if norm == "l2":
        yield 64, "simba:queries=1000,alpha=0.2", "art:SimBA:max_iter=1000,attack=px,epsilon=0.2"
    if norm == "linf":
        step = 2.5 * eps / 30
        # Both smooth their steps: ours by momentum, theirs by Adam.
        ours = f"spsa:attack=[mifgsm:steps=30,alpha={step!r},loss=margin],pairs=16"
        yield 64, ours, f"torchattacks:SPSA:nb_iter=30,nb_sample=16,lr={step!r}"


def _labels(norm: str, eps: float) -> Iterator[Row]:
    """Ours with as many queries as the peer's steps come to."""
    if norm in ("linf", "l2"):
        yield 64, "hopskipjump:queries=2000", "foolbox:HopSkipJumpAttack:steps=8"
        yield 64, "hopskipjump:queries=2000", "art:HopSkipJump:max_iter=8"
    if norm == "l2":
        yield 64, "boundary:queries=2000", "foolbox:BoundaryAttack:steps=2000"
        yield 32, "boundary:queries=2000", "art:BoundaryAttack:max_iter=50"


def _autoattack() -> Iterator[Pair]:
    """As published, and as torchattacks runs it: with 10 steps in place of 100."""
    for n, ours, peer in (
        (1000, "autoattack", "tests.agreement.peers:autoattack"),
        (256, "autoattack:steps=10", "torchattacks:AutoAttack"),
    ):
        yield Pair("autoattack", "mnist advtrain", "linf", 0.3, ours, peer, n, draws=True)


TABLES = {
    "one step": _one_step,
    "steps": _steps,
    "auto-pgd": _auto_pgd,
    "minimal": _minimal,
    "weighted": _weighted,
    "scores": _scores,
    "labels": _labels,
}
