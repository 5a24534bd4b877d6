"""Digits, and workshops that train on them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench import data
from defenses.workshop import Workshop
from models.registry import models


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    """8 x 8 images, 1,168 to train on, 129 to validate, 500 to test."""
    return data.load("digits", None)


@pytest.fixture(scope="session")
def workshop(digits: data.Dataset) -> Callable[..., Workshop]:
    """A workshop for a model's spec; other fields may be given."""

    def make(model: str, **changes: Any) -> Workshop:
        fields = {
            "train": digits.train,
            "validation": digits.validation,
            "shape": digits.shape,
            "classes": digits.classes,
            "fingerprint": digits.fingerprint,
            "device": torch.device("cpu"),
        }
        return Workshop(model=models.get(model), **(fields | changes))

    return make
