"""Arithmetic in which two processors agree: float64 all the way down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


@contextmanager
def exact() -> Iterator[None]:
    """Computes softmax and the mean squares of norms in float64. transformers computes them in float32 for
    every dtype, where a difference of 1e-15 may round to 1e-7."""
    softmax, to, single = torch.nn.functional.softmax, torch.Tensor.to, torch.Tensor.float

    def whole_softmax(x: torch.Tensor, dim: Any = None, dtype: Any = None, **more: Any) -> Any:
        return softmax(x, dim, dtype=None if x.dtype == torch.float64 else dtype, **more)

    def whole_to(x: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        narrow = torch.float32 in (*args, *more.values()) and x.dtype == torch.float64
        return x if narrow else to(x, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", whole_softmax)
        patch.setattr(torch.Tensor, "to", whole_to)
        patch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else single(x))
        yield
