"""Request of `methods.circuits.attention`."""

from __future__ import annotations

from pytest_mechanism.measurements.request import (
    Cost,
    HeadSets,
    Request,
    RowSet,
    TaskSettings,
    rows_at,
)


class AttentionShare(Request):
    """How much of their attention do heads give to a position?

    Attributes:
        heads: name -> heads whose attention is averaged.
        query: the named position that attends.
        key: the named position that is attended to.
        rows: how many rows.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.attention:measure"

    heads: HeadSets
    query: str
    key: str
    rows: int
    stream: str

    @property
    def layers(self) -> list[int]:
        """Layers that have one of the heads."""
        return sorted({layer for heads in self.heads.values() for layer, _ in heads})

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(
            rows=self.rows * (1 + len(self.layers)), prompts=self.stream, prompt_count=self.rows
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return (rows_at(self.rows, self.stream, (self.query, self.key)),)
