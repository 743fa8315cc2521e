"""Requests of `methods.refusal.direction`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_mechanism.measurements.refusal import reply_tokens
from pytest_mechanism.measurements.request import Cost, Request, RowSet


class RefusalDirection(Request):
    """Search for the model's refusal direction, for a measurement on another model.

    Attributes:
        learn: instructions of each kind whose mean difference is the direction.
        validate_on: instructions of each kind among which the direction is chosen.
        kl_at_most: what ablating it may change on harmless instructions, in nats.
    """

    implementation = "pytest_mechanism.methods.refusal.direction:find"
    revision = 3
    stored = False

    learn: int
    validate_on: int
    kl_at_most: float

    def row_sets(self) -> tuple[RowSet, ...]:
        return search_rows(self.learn, self.validate_on)


class DirectionAblation(RefusalDirection):
    """Does the model refuse without a direction: its own, or that of the input?

    Attributes:
        rows: how many harmful instructions.
        stream: of random numbers.
        random: how many random directions are ablated for comparison.
        seed: of these.
    """

    implementation = "pytest_mechanism.methods.refusal.direction:measure"
    revision = 3
    stored = True

    rows: int
    stream: str
    random: int
    seed: int

    def cost(self, task: Mapping[str, Any]) -> Cost:
        return Cost(
            rows=self.rows * reply_tokens(task) * (2 + self.random),
            prompts=self.stream,
            prompt_count=self.rows,
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return (*super().row_sets(), RowSet("forbidden", self.rows, self.stream))


class DirectionComparison(Request):
    """The direction of another model, which is the input, beside this one's at the same place.

    Attributes:
        learn: as of the input's `RefusalDirection`.
    """

    implementation = "pytest_mechanism.methods.refusal.direction:compare"

    learn: int

    def row_sets(self) -> tuple[RowSet, ...]:
        return search_rows(self.learn)


def search_rows(learn: int, validate_on: int = 0) -> tuple[RowSet, ...]:
    """Instructions of both kinds that a direction is found on."""
    return tuple(
        RowSet(kind, count, stream, behind_interval=False)
        for stream, count in (("direction", learn), ("validation", validate_on))
        if count
        for kind in ("forbidden", "allowed")
    )
