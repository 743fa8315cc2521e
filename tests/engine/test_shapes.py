"""While tests run, signatures are checked, shapes of tensors included."""

from __future__ import annotations

import os

import pytest
import torch
from jaxtyping import TypeCheckError

from pytest_mechanism.engine.reference import is_repeat


@pytest.mark.skipif(
    os.environ.get("MECHANISM_TESTS_WITHOUT_SHAPES") == "1",
    reason="MECHANISM_TESTS_WITHOUT_SHAPES leaves the checks out",
)
def test_a_tensor_of_another_shape_is_an_error() -> None:
    """Positions have rows and columns."""
    with pytest.raises(TypeCheckError, match="is_repeat"):
        is_repeat(torch.zeros(3, dtype=torch.long))
