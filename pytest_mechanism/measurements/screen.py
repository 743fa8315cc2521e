"""Request of `methods.circuits.screen`."""

from __future__ import annotations

from pytest_mechanism.measurements.path_patching import ranked_pairs
from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings
from pytest_mechanism.types import Head


class AttributionPatching(Request):
    """An estimate of activation patching by gradient, of many heads at once.

    Attributes:
        heads: which.
        at: their named position.
        rows: how many pairs of prompts.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.screen:measure"

    heads: tuple[Head, ...]
    at: str
    rows: int
    stream: str

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(
            rows=self.rows * 4,  # two forwards, and a backward that costs as much as two
            gradient_rows="batch",
            parts=(f"screening by gradient at {self.at}", len(self.heads), "heads"),
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return (ranked_pairs(self.rows, self.stream, self.at),)
