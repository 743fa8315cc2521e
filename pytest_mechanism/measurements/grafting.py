"""Request of `methods.circuits.grafting`: heads, MLPs and layers of one model in the other, one at a time."""

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
