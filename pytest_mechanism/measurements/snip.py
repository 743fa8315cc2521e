"""Requests of `methods.weights.snip`: the weights that safety needs, and what fine-tuning changed."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_mechanism.measurements.refusal import replies
from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings
from pytest_mechanism.types import Observations


class SafetyEntries(Request):
    """The weights that refusing needs and answering does not, for a measurement on another model.

    Attributes:
        q: share of each matrix with the largest scores on what must be refused.
        p: share of each matrix with the largest scores on what need not be.
        scored: questions of each kind.
    """

    implementation = "pytest_mechanism.methods.weights.snip:donate"
    revision = 4
    stored = False

    q: float
    p: float
    scored: int

    def cost(self, task: TaskSettings) -> Cost:
        # forbidden and allowed questions, each with a backward pass, and replies to the forbidden ones
        answered = replies(self.scored, task)
        return Cost(
            rows=6 * self.scored + answered.rows,
            reply_rows=answered.reply_rows,
            gradient_rows=1,
            weight_copies=4,
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return tuple(
            RowSet(kind, self.scored, "snip", trained_replies=True, behind_interval=False)
            for kind in ("forbidden", "allowed")
        )


@dataclass(frozen=True)
class WeightChangeResult(Observations):
    """How much the weights changed, matrix by matrix.

    Attributes:
        refused: whether the input's model refuses, for each question that must be refused.
    """

    refused: tuple[float, ...]


class WeightChange(Request[WeightChangeResult]):
    """How much of the change of the weights lies on the `SafetyEntries` of the input?

    Attributes:
        seed: of the random entries that they are compared with.
    """

    implementation = "pytest_mechanism.methods.weights.snip:measure"
    revision = 2

    seed: int

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(weight_copies=2)
