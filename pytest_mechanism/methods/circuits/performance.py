"""The whole model on the task's rows: is its answer right, and how likely is the right one?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.columns import Columns
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.types import Observations


def measure(
    context: MeasurementContext, request: Performance, inputs: Sequence[Any]
) -> Observations:
    """``correct`` (argmax over the whole vocabulary is the answer) and ``log_probability``."""
    rows = context.task.row_set(request.asked, context.vocabulary, request.rows, request.stream)
    columns = Columns()
    for batch in context.batches(rows):
        logits = context.engine.run(batch.base.tokens).outcome.logits
        columns.add_answers("", logits, batch.correct_answers)
    return columns.observations(rows)
