"""Losses against their formulas in float64, their gradients, and their sign."""

from __future__ import annotations

import math

import hypothesis
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from attacks.losses import LOSSES, Loss, best_other, margin
from tests.problems import rated

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
"""float32 against float64, on values up to 100 made of logits up to 50."""


def formula(name: str, row: list[float], label: int) -> float:
    """The definition, on Python floats."""
    others = [z for k, z in enumerate(row) if k != label]
    gap = max(others) - row[label]
    weights = [math.exp(z - max(row)) for z in row]
    shares = [w / sum(weights) for w in weights]
    if name == "ce":
        return max(row) + math.log(sum(weights)) - row[label]
    if name in ("margin", "difference"):
        return gap
    if name == "dlr":
        ordered = sorted(row, reverse=True)
        return gap / (ordered[0] - ordered[2] + 1e-12)
    return 0.5 * sum((share - (k == label)) ** 2 for k, share in enumerate(shares))


def expected(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    rows = zip(logits.double().tolist(), labels.tolist(), strict=True)
    return torch.tensor([formula(name, row, label) for row, label in rows], dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
@hypothesis.given(rated(least=3))
def test_losses_are_their_formulas(name: str, drawn: tuple[Tensor, Tensor]) -> None:
    logits, labels = drawn
    values = LOSSES[name](logits, labels)
    assert values.shape == labels.shape
    assert values.dtype == torch.float32
    assert_close(values.double(), expected(name, logits, labels), **CLOSE)


@pytest.mark.parametrize("name", ["ce", "margin", "squared"])
@hypothesis.given(rated(least=2))
def test_losses_of_two_classes_are_their_formulas(name: str, drawn: tuple[Tensor, Tensor]) -> None:
    logits, labels = drawn[0][:, :2], drawn[1].clamp(max=1)
    values = LOSSES[name](logits, labels)
    assert_close(values.double(), expected(name, logits, labels), **CLOSE)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # Logits -1, -3, -2 for each label: softmax 0.66524, 0.09003, 0.24473.
        ("ce", [0.4076059, 2.4076059, 1.4076059]),
        ("margin", [-1.0, 2.0, 1.0]),
        ("dlr", [-0.5, 1.0, 0.5]),
        ("squared", [0.0900311, 0.6652410, 0.5105444]),
    ],
)
def test_losses_of_negative_logits(name: str, values: list[float]) -> None:
    """No logit counts as 0: the best other class of three negative ones is a negative one."""
    logits = torch.tensor([[-1.0, -3.0, -2.0]]).repeat(3, 1)
    assert_close(LOSSES[name](logits, torch.arange(3)), torch.tensor(values), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("ce", math.log(4)), ("margin", 0.0), ("dlr", 0.0), ("squared", 0.375)]
)
@pytest.mark.parametrize("level", [-7.0, 0.0, 7.0])
def test_losses_of_equal_logits(name: str, value: float, level: float) -> None:
    logits = torch.full((1, 4), level, requires_grad=True)
    loss = LOSSES[name](logits, torch.tensor([2]))
    assert_close(loss, torch.tensor([value]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_are_taken_in_float32(name: str, dtype: torch.dtype) -> None:
    """In float16 the exponentials and squares of such logits would round or overflow."""
    logits = torch.tensor([[60.0, -40.0, 12.5, 0.25], [-9.0, -8.0, -7.0, -9.5]])
    labels = torch.tensor([1, 2])
    values = LOSSES[name](logits.to(dtype), labels)
    assert values.dtype == torch.float32
    assert_close(values, LOSSES[name](logits, labels))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_reach_logits_of_float16(name: str) -> None:
    logits = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float16, requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES[name](logits, torch.tensor([0])).sum(), logits)
    assert gradient.dtype == torch.float16
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", ["ce", "margin", "squared"])
@hypothesis.given(rated(size=4.0), st.floats(0.5, 4))
def test_each_loss_grows_as_the_row_leaves_its_label(
    name: str, drawn: tuple[Tensor, Tensor], step: float
) -> None:
    logits, labels = drawn
    worse = logits.scatter_add(1, labels[:, None], torch.full((len(labels), 1), -step))
    assert (LOSSES[name](worse, labels) > LOSSES[name](logits, labels)).all()


@hypothesis.given(st.floats(0.1, 8), st.floats(0.1, 8), st.floats(0.1, 1))
def test_dlr_grows_as_the_row_leaves_its_label(lead: float, rest: float, share: float) -> None:
    """While the label leads: behind the second class the ratio stands still at 1."""
    logits = torch.tensor([[lead + rest, rest, 0.0]])
    worse = torch.tensor([[lead * (1 - share) + rest, rest, 0.0]])
    before, after = (LOSSES["dlr"](z, torch.tensor([0])) for z in (logits, worse))
    assert before < after <= 0


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_points_away_from_the_label(name: str) -> None:
    logits = torch.tensor([[3.0, 1.0, -2.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES[name](logits, torch.tensor([0])).sum(), logits)
    assert gradient[0, 0] < 0 < gradient[0, 1]


@hypothesis.given(rated(least=3), st.floats(-20, 20), st.floats(0.1, 10))
def test_dlr_does_not_see_shift_and_scale(
    drawn: tuple[Tensor, Tensor], shift: float, scale: float
) -> None:
    """Up to the 1e-12 below the fraction and the rounding of logits as large as 500."""
    logits, labels = drawn
    top = logits.topk(3, dim=1).values
    assume(bool((top[:, 0] - top[:, 2] > 1).all()))
    changed = (logits.double() * scale + shift).float()
    before, after = (LOSSES["dlr"](z, labels) for z in (logits, changed))
    assert_close(after, before, rtol=1e-3, atol=1e-3)


def test_dlr_stays_usable_where_cross_entropy_saturates() -> None:
    logits = torch.tensor([[400.0, 100.0, -300.0]], requires_grad=True)
    gradients = {
        name: torch.autograd.grad(LOSSES[name](logits, torch.tensor([0])).sum(), logits)[0]
        for name in LOSSES
    }
    assert gradients["ce"].abs().max() == 0
    assert gradients["squared"].abs().max() == 0
    assert gradients["margin"].abs().max() == 1
    assert gradients["dlr"].abs().max() > 1e-4


@hypothesis.given(rated(least=2))
def test_margin_is_positive_exactly_where_the_row_is_wrong(drawn: tuple[Tensor, Tensor]) -> None:
    logits, labels = drawn
    values = margin(logits, labels)
    wrong = logits.gather(1, labels[:, None])[:, 0] < logits.amax(1)
    assert torch.equal(values > 0, wrong)


def test_best_other_never_names_the_label() -> None:
    logits = torch.tensor([[5.0, -1.0, -2.0], [-5.0, -1.0, -2.0]])
    assert best_other(logits, torch.tensor([0, 0])).tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("name", LOSSES)
def test_rows_do_not_see_each_other(name: str) -> None:
    """No mean over the batch: value and gradient are the same in a batch of 1 and of 100."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(100, 5, generator=generator)
    labels = torch.arange(100) % 5

    def gradient(z: Tensor, y: Tensor) -> Tensor:
        leaf = z.clone().requires_grad_()
        return torch.autograd.grad(LOSSES[name](leaf, y).sum(), leaf)[0]

    assert_close(gradient(logits[:1], labels[:1]), gradient(logits, labels)[:1])
    assert_close(LOSSES[name](logits[:1], labels[:1]), LOSSES[name](logits, labels)[:1])


@pytest.mark.parametrize("text", ["crossentropy", "CE", "", "mse"])
def test_an_unknown_loss_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match="loss must be one of ce, margin, difference, dlr, squared"
    ):
        Loss.from_spec(text)


@pytest.mark.parametrize("name", LOSSES)
def test_a_name_names_one_loss(name: str) -> None:
    loss = Loss.from_spec(name)
    assert loss is LOSSES[name]
    assert loss.to_spec() == loss.identity() == name
    assert loss.classes == (3 if name == "dlr" else 2)
