"""Request of `methods.circuits.screen`."""

from __future__ import annotations

from typing import Literal

from pytest_mechanism.measurements.path_patching import First, ranked_pairs
from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings
from pytest_mechanism.types import Head, Node

STEPS = ((0.0, 1 / 6), (0.5, 4 / 6), (1.0, 1 / 6))
"""Shares of the source at which gradients are taken, with their weights: Simpson's rule."""


class AttributionPatching(Request):
    """An estimate of path patching by gradient, of many senders at once.

    Attributes:
        heads: the senders.
        at: their named position.
        receivers: heads or MLPs that read them; none for the logits.
        via: through which input of the receivers, ``input`` for MLPs; None for the logits.
        rows: how many pairs of prompts.
        stream: of random numbers.
        first: number of the first pair.
    """

    implementation = "pytest_mechanism.methods.circuits.screen:measure"
    revision = 2

    heads: tuple[Head, ...]
    at: str
    receivers: tuple[Node, ...] = ()
    via: Literal["q", "k", "v", "input"] | None = None
    rows: int
    stream: str
    first: First = 0

    def cost(self, task: TaskSettings) -> Cost:
        branches = 2 if self.via else 1
        return Cost(
            rows=self.rows * (2 + branches * 3 * len(STEPS)),
            gradient_rows="batch",
            parts=(f"screening by gradient at {self.at}", len(self.heads), "heads"),
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return (ranked_pairs(self.first + self.rows, self.stream, self.at),)
