"""Request of `methods.circuits.knockout`."""

from __future__ import annotations

from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings, rows_at


class AttentionKnockout(Request):
    """Does the model give the answer when attention between two positions is blocked?

    Attributes:
        query: the named position that attends.
        key: the named position that is attended to.
        starts: layers from which on attention is blocked, each measured by itself.
        rows: how many rows.
        stream: of random numbers.
        seed: of the random pairs of tokens.
    """

    implementation = "pytest_mechanism.methods.circuits.knockout:measure"

    query: str
    key: str
    starts: tuple[int, ...]
    rows: int
    stream: str
    seed: int

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(
            rows=self.rows * (1 + 2 * len(self.starts)),
            prompts=self.stream,
            prompt_count=self.rows,
            parts=(f"blocking {self.query} -> {self.key}", 2 * len(self.starts), "start layers"),
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return (rows_at(self.rows, self.stream, (self.query, self.key)),)
