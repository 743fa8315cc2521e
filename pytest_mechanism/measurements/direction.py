"""Requests of `methods.refusal.direction`."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_mechanism.measurements.refusal import reply_tokens
from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings
from pytest_mechanism.types import Observations


@dataclass(frozen=True)
class Direction:
    """Where a refusal direction was found.

    Attributes:
        layer: it is read after this layer.
        token: counted from the prompt's end: -1 is the last.
        norm: of the direction.
        divergence: mean KL divergence on harmless instructions by ablating it, in nats.
    """

    layer: int
    token: int
    norm: float
    divergence: float

    def __str__(self) -> str:
        return f"after layer {self.layer} at token {self.token}"


@dataclass(frozen=True)
class DirectionResult(Observations):
    """What a model answers without a direction, or how two directions agree, row by row.

    Attributes:
        direction: the one; None where none can be ablated within ``kl_at_most``.
        least_divergence: of all candidates; infinite where there is none.
        candidates: how many were tried.
    """

    direction: Direction | None
    least_divergence: float
    candidates: int


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


class DirectionAblation(Request[DirectionResult]):
    """Does the model refuse without a direction: its own, or that of the input?

    Attributes:
        search: how its own direction is found.
        rows: how many harmful instructions.
        stream: of random numbers.
        random: how many random directions are ablated for comparison.
        seed: of these.
    """

    implementation = "pytest_mechanism.methods.refusal.direction:measure"
    revision = 3

    search: RefusalDirection
    rows: int
    stream: str
    random: int
    seed: int

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(
            rows=self.rows * reply_tokens(task) * (2 + self.random),
            prompts=self.stream,
            prompt_count=self.rows,
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return (*self.search.row_sets(), RowSet("forbidden", self.rows, self.stream))


class DirectionComparison(Request[DirectionResult]):
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
