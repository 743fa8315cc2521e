"""The whole model on the task's rows: what it answers, and how likely it finds the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_mechanism.methods.bench import Bench, Columns
from pytest_mechanism.types import Observations


def measure(bench: Bench, arguments: Mapping[str, Any], inputs: Sequence[Any]) -> Observations:
    """``correct`` (argmax over the whole vocabulary is the answer) and ``log_probability``."""
    rows = bench.task.asked(
        arguments.get("asked", "rows"), bench.vocabulary, arguments["rows"], arguments["stream"]
    )
    columns = Columns()
    for batch in bench.batches(rows):
        columns.add_answers("", bench.engine.run(batch.base.tokens).outcome.logits, batch.accepted)
    return columns.observations(rows)
