"""While tests run, signatures are checked on the first calls, shapes of tensors included."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from pytest_mechanism.engine.reference import is_repeat


def test_a_tensor_of_another_shape_is_an_error() -> None:
    """Positions have rows and columns."""
    with pytest.raises(TypeCheckError, match="is_repeat"):
        is_repeat(torch.zeros(3, dtype=torch.long))
