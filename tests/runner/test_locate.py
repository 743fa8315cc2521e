"""How many rows the sweep behind a red claim has."""

from __future__ import annotations

import pytest

from pytest_mechanism.checkpoints.shape import Shape
from pytest_mechanism.runner.locate import FEWEST_ROWS, ROWS, rows_within


@pytest.mark.parametrize(
    ("shape", "groups", "rows"),
    [
        (Shape(4, 4, 4, 64, 16, 200), 4, ROWS),  # an embedded model
        (
            Shape(12, 12, 12, 768, 64, 50_257),
            7,
            89,
        ),  # GPT-2 small: 238 forwards of 85 million weights
        (Shape(30, 9, 3, 576, 64, 49_152), 6, FEWEST_ROWS),  # SmolLM2-135M
        (Shape(32, 32, 32, 4096, 128, 32_000), 4, FEWEST_ROWS),  # Llama 7B
    ],
)
def test_a_sweep_has_fewer_rows_on_a_larger_model(shape: Shape, groups: int, rows: int) -> None:
    """As many as its work allows, within limits."""
    assert rows_within(shape, groups) == rows
