"""Requests of `methods.circuits.cmap`: activations of one model in another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_mechanism.measurements.request import Cost, PlacedHead, Request, RowSet

LEAST_AGREEMENT = 0.5
"""Agreement of heads that write z in the same code (`methods.circuits.codes`). Fine-tuning left 0.78
at the least that was measured; heads that have nothing to do with each other agree to about 0."""


class ActivationDonation(Request):
    """The donor's activations, for a measurement on the recipient.

    Attributes:
        heads: whose z is recorded.
        rows: how many rows.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.cmap:donate"
    revision = 2
    stored = False

    heads: tuple[PlacedHead, ...]
    rows: int
    stream: str

    def cost(self, task: Mapping[str, Any]) -> Cost:
        return Cost(rows=self.rows)

    def row_sets(self) -> tuple[RowSet, ...]:
        return (rows_at(self.rows, self.stream, self.heads),)


class CrossModelPatching(Request):
    """Does the recipient give the answer with the donor's activations?

    Its input is an `ActivationDonation` on the donor, of all these heads.

    Attributes:
        heads: whose z comes from the donor.
        control: other heads, patched instead; may be none.
        rows: how many rows.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.cmap:measure"
    revision = 3

    heads: tuple[PlacedHead, ...]
    control: tuple[PlacedHead, ...]
    rows: int
    stream: str

    def cost(self, task: Mapping[str, Any]) -> Cost:
        return Cost(
            rows=self.rows * (2 + bool(self.control)), prompts=self.stream, prompt_count=self.rows
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return (rows_at(self.rows, self.stream, (*self.heads, *self.control)),)


class HeadCodes(Request):
    """Does the recipient read the donor's z as the donor does?

    Its input is an `ActivationDonation` on the donor.

    Attributes:
        rows: how many rows.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.circuits.cmap:code"

    rows: int
    stream: str

    def cost(self, task: Mapping[str, Any]) -> Cost:
        return Cost(rows=self.rows)

    def row_sets(self) -> tuple[RowSet, ...]:
        return (rows_at(self.rows, self.stream, ()),)


def rows_at(rows: int, stream: str, heads: Iterable[PlacedHead]) -> RowSet:
    """Rows at whose positions these heads work."""
    positions = tuple(sorted({at for _, _, at in heads}))
    return RowSet("rows", rows, stream, positions, one_token_answers=True)
