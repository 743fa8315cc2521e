"""Requests of `methods.circuits.grafting` and `graft_divergence`: parts of one model in the other, one at a time."""

from __future__ import annotations

from pytest_mechanism.measurements.request import (
    Cost,
    NodeSets,
    Request,
    RowSet,
    TaskSettings,
)

BEFORE = "before"
"""The column of the recipient as it is; no member has this name."""

PREDICTIONS = "predictions"
"""The column of how many predictions a row has."""


class MemberGraft(Request):
    """How likely are the right answers if a member of the recipient has the weights of another model?

    Its input is a `WeightDonation` on the other model.

    Attributes:
        members: name -> heads and MLPs of one layer that get the other model's weights together.
        rows: how many rows.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.grafting:measure"

    members: NodeSets
    rows: int
    stream: str

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(
            rows=self.rows * (2 + len(self.members)),
            prompts=self.stream,
            prompt_count=self.rows,
            weight_copies=1,
            parts=("grafts", len(self.members), "members"),
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return (RowSet("rows", self.rows, self.stream, one_token_answers=True),)


class AnswerDonation(Request):
    """What the reference model says at the answers, for a measurement on another model.

    Attributes:
        rows: how many rows.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.graft_divergence:donate"
    stored = False

    rows: int
    stream: str

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(rows=self.rows)

    def row_sets(self) -> tuple[RowSet, ...]:
        return (RowSet("rows", self.rows, self.stream),)


class GraftDivergence(Request):
    """How far is this model from another one, as it is and with each of some parts of that model?

    Its inputs are a `WeightDonation` on the other model, and a `TextDonation` or an `AnswerDonation` on it.

    Attributes:
        members: name -> heads and MLPs of one layer that get the other model's weights together.
        outside: whether parameters outside the layers are grafted too, each alone.
        rows: how many passages or rows.
    """

    implementation = "pytest_mechanism.methods.circuits.graft_divergence:measure"

    members: NodeSets
    outside: bool
    rows: int

    def cost(self, task: TaskSettings) -> Cost:
        count = len(self.members) + 3 * self.outside
        return Cost(rows=self.rows * (2 + count), weight_copies=1, parts=("grafts", count, "parts"))
