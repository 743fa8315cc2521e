"""The whole model on the task's rows, with the words that each row depends on.

    correct_i = the likeliest token is a right answer of row i  (`methods.circuits.performance`)
    cell c    = the rows i with c in cells(prompt_i)            (`Task.cells`)

The same numbers as kind ``accuracy`` judges. The cells follow from the rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_mechanism.measurements.cells import Cell, CellPerformance, CellResult
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.methods.circuits import performance
from pytest_mechanism.methods.context import MeasurementContext
from pytest_mechanism.tasks.writing.cells import by_word


def measure(
    context: MeasurementContext, request: CellPerformance, inputs: Sequence[Any]
) -> CellResult:
    """``correct`` and perhaps ``elsewhere``, as `performance.measure` gives them, and the cells."""
    asked = Performance(rows=request.rows, stream=request.stream)
    found = performance.measure(context, asked, inputs)
    rows = context.task.rows(context.vocabulary, request.rows, request.stream)
    kept = ("correct", "elsewhere", "log_probability")
    values = {name: found.values[name] for name in kept if name in found.values}
    cells = tuple(
        Cell(kind, name, tuple(places))
        for kind, words in by_word(context.task, context.vocabulary, rows).items()
        for name, places in words.items()
    )
    return CellResult(found.example_ids, found.clusters, values, cells, texts=found.texts)
