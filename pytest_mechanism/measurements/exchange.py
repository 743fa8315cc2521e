"""Requests of `methods.circuits.exchange`: every head and MLP of one model in the other, a member at a time."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from pytest_mechanism.measurements.request import (
    Cost,
    NodeSets,
    Request,
    RowSet,
    TaskSettings,
    by_name,
)
from pytest_mechanism.nodes import Node

Givers = Annotated[
    dict[str, tuple[Node, ...]],
    AfterValidator(by_name),
    Field(exclude_if=lambda sets: not sets),
]
"""Name of a member -> the donor's heads that are put into its place, where they have another index."""


def prompts_of_pairs(rows: int, stream: str) -> tuple[RowSet, ...]:
    """The rows of both requests, whose answers are judged."""
    return (RowSet("pairs", rows, stream, one_token_answers=True),)


class WholeDonation(Request):
    """z of every head and the output of every MLP of the donor, at every token.

    Attributes:
        rows: how many pairs of prompts; the base prompts are run.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.exchange:donate"
    stored = False

    rows: int
    stream: str

    def row_sets(self) -> tuple[RowSet, ...]:
        return prompts_of_pairs(self.rows, self.stream)


class MemberExchange(Request):
    """What does the recipient answer if one member's activation at every token is the donor's?

    Its input is a `WholeDonation` on the donor.

    Attributes:
        members: name -> heads and MLPs of the recipient that are exchanged together.
        givers: name -> the donor's heads for them, in the same order, where their index differs.
        rows: how many pairs of prompts.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.exchange:measure"

    members: NodeSets
    givers: Givers = Field(default_factory=dict)
    rows: int
    stream: str

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(
            rows=self.rows * (2 + len(self.members)),
            prompts=f"pairs of {self.stream}",
            prompt_count=2 * self.rows,
            parts=("exchange of members", len(self.members), "members"),
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return prompts_of_pairs(self.rows, self.stream)
