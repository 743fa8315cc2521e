"""Request of `methods.weights.pruning`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pytest_mechanism.measurements.refusal import replies
from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings
from pytest_mechanism.types import Observations

UnitKind = Literal["weights", "neurons", "heads"]


@dataclass(frozen=True)
class PruningResult(Observations):
    """What the model answers with units set to zero, row by row.

    Attributes:
        accuracy: number of units -> accuracy on the rows for the choice.
        units: names of the units with the highest scores, highest first.
    """

    accuracy: Mapping[int, float]
    units: tuple[str, ...]


class Pruning(Request[PruningResult]):
    """Does the model give hidden answers with a few units set to zero?

    Attributes:
        units: what is set to zero.
        counts: how many units, one after the other.
        draws: how many draws of as many random units, for comparison.
        seed: of these draws.
        rows: how many rows the model is evaluated on.
        stream: of random numbers, of these rows.
        scored: how many rows the units are scored on, of the stream ``pruning``.
        chosen: how many rows a count is chosen on, of the stream ``validation``.
    """

    implementation = "pytest_mechanism.methods.weights.pruning:measure"
    revision = 4

    units: UnitKind
    counts: tuple[int, ...]
    draws: int
    seed: int
    rows: int
    stream: str
    scored: int
    chosen: int

    def cost(self, task: TaskSettings) -> Cost:
        evaluated = self.rows * (1 + self.draws) + self.chosen
        answered = replies(evaluated * len(self.counts), task)
        return Cost(
            rows=answered.rows + 3 * self.scored,
            reply_rows=answered.reply_rows,
            gradient_rows="batch",
            weight_copies=2,
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return tuple(
            RowSet(
                "capability", count, stream, trained_replies=True, behind_interval=behind_interval
            )
            for stream, count, behind_interval in (
                (self.stream, self.rows, True),
                ("validation", self.chosen, False),
                ("pruning", self.scored, False),
            )
        )
