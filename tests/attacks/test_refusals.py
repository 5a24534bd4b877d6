"""Bad values are refused where they enter, in one line that names them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attacks
from attacks import ThreatModel
from attacks.oracles import ModelError
from tests.problems import Curved, Mapped, images

X = images(12)
FITTING: dict[str, Any] = {
    "x": X,
    "y": Curved()(X).argmax(1),
    "norm": "linf",
    "eps": 0.1,
    "targets": None,
    "shape": None,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X * 2}, r"x must be in \[0, 1\]"),
        ({"x": X - 0.1}, r"x must be in \[0, 1\]"),
        ({"x": X * torch.nan}, r"x must be in \[0, 1\]"),
        ({"x": (X * 255).byte()}, "x must be floating point"),
        ({"y": torch.zeros(11, dtype=torch.int64)}, r"y must be int64 of shape \(12,\)"),
        ({"y": torch.zeros(12, 1, dtype=torch.int64)}, r"y must be int64 of shape \(12,\)"),
        ({"y": torch.zeros(12)}, r"y must be int64 of shape \(12,\)"),
        ({"y": torch.full((12,), 10)}, r"labels must be in 0\.\.9, got 10\.\.10"),
        ({"y": torch.full((12,), -1)}, r"labels must be in 0\.\.9, got -1\.\.-1"),
        ({"targets": torch.full((12,), 10)}, r"targets must be in 0\.\.9, got 10\.\.10"),
        ({"targets": torch.full((12,), -1)}, r"targets must be in 0\.\.9, got -1\.\.-1"),
        (
            {"targets": torch.zeros(11, dtype=torch.int64)},
            r"targets must be int64 of shape \(12,\)",
        ),
        ({"targets": torch.zeros(12)}, r"targets must be int64 of shape \(12,\)"),
        ({"eps": -0.1}, "eps must be a finite number of at least 0"),
        ({"eps": torch.inf}, "eps must be a finite number of at least 0"),
        ({"eps": torch.full((12,), -0.1)}, "eps must be finite and at least 0"),
        ({"eps": torch.full((12,), torch.nan)}, "eps must be finite and at least 0"),
        ({"eps": torch.full((11,), 0.1)}, r"eps must be a number or of shape \(12,\), got \(11,\)"),
        ({"eps": torch.full((12, 1), 0.1)}, r"eps must be a number or of shape \(12,\)"),
        ({"norm": "l3"}, "norm must be one of linf, l2, l1, l0"),
        ({"norm": "l0"}, "attack pgd knows the norms linf, l2, l1, got l0"),
        ({"shape": -1}, "shape must be at least 1, got -1"),
    ],
)
def test_a_bad_value_is_refused(changes: dict[str, Any], message: str) -> None:
    values = FITTING | changes
    recipe, net = attacks.get("pgd:steps=2"), Curved()
    with pytest.raises(ValueError, match=message):
        recipe(
            net,
            values["x"],
            values["y"],
            ThreatModel(values["norm"], values["eps"]),
            targets=values["targets"],
            shape=values["shape"],
        )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pgd:steps=0", "steps must be at least 1, got 0"),
        ("pgd:alpha=0", "alpha must be finite and above 0"),
        ("pgd:rel_alpha=-1", "rel_alpha must be finite and above 0"),
        ("pgd:alpha=0.1,rel_alpha=0.1", "alpha and rel_alpha must not both be given"),
        ("pgd:restarts=0", "restarts must be at least 1, got 0"),
        ("pgd:restarts=2,random=false", "restarts above 1 need random=true"),
        ("fgsm:random=1", r"random must be in \[0, 1\)"),
        ("fgsm:restarts=2", "restarts above 1 need random above 0"),
        ("bim:steps=0", "steps must be at least 1"),
        ("bim:alpha=-1", "alpha must be finite and above 0"),
        ("noise:samples=0", "samples must be at least 1"),
        ("pgd:loss=mse", "loss must be one of ce, margin, difference, dlr, squared"),
        ("mifgsm:decay=-1", "decay must be finite and at least 0"),
        ("mifgsm:alpha=0", "alpha must be finite and above 0"),
        ("multitargeted:targets=0", "targets must be at least 1"),
        ("apgd:rho=1", "rho must be above 0 and below 1"),
        ("apgd:eot=0", "eot must be at least 1"),
        ("deepfool:overshoot=-1", "overshoot must be from 0 to 1"),
        ("deepfool:candidates=1", "candidates must be at least 2"),
        ("penalty:loss=margin", "loss must be one of squared, ce, got 'margin'"),
        ("penalty:lam=-1", "lam must be finite and at least 0"),
        ("penalty:first=0", "the first weight must be above 0"),
        ("lbfgs:first=0", "first must be above 0"),
        ("cw:lr=0", "lr must be above 0 and at most 1"),
        ("cw:confidence=-1", "confidence must be finite and at least 0"),
        ("cw:search=0", "search must be at least 1"),
        ("ead:beta=0", "beta must be above 0 and at most 1"),
        ("ddn:gamma=1", "gamma must be above 0 and below 1"),
        ("ddn:levels=1", "levels must be at least 2"),
        ("ddn:init=0", "init must be above 0"),
        ("fmn:gamma=1", "gamma must be at least 0.001 and below 1"),
        ("fmn:alpha=0", "alpha must be above 0"),
        ("fab:steps=0", "steps must be at least 1"),
        ("fab_t:target=none", "target must name classes"),
        ("sigma_zero:threshold=2", "threshold must be from 0 to 1"),
        ("sigma_zero:sigma=0", "sigma must be above 0"),
        ("autoattack:version=best", "version must be one of standard, plus, rand"),
        ("autoattack:steps=0", "steps must be at least 1"),
        ("pgd:target=best", "target must be one of"),
        ("pdg", "did you mean 'pgd'"),
    ],
)
def test_a_bad_spec_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attacks.get(spec)


def test_a_model_without_a_gradient_is_refused() -> None:
    blind = Mapped(Curved(), lambda logits, _: logits.detach())
    with pytest.raises(ModelError, match="does not depend on its input differentiably"):
        attacks.get("pgd:steps=2")(blind, X, FITTING["y"], ThreatModel("linf", 0.1))


def test_logits_between_0_and_1_are_not_taken_for_probabilities() -> None:
    """Rows of probabilities sum to 1, all of them."""
    inside = Mapped(Curved(), lambda logits, _: logits.sigmoid() / 5)
    attacks.get("pgd:steps=2")(inside, X, inside(X).argmax(1), ThreatModel("linf", 0.1))
