"""Requests of `methods.refusal.direction`."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_mechanism.measurements.refusal import replies
from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings
from pytest_mechanism.types import Observations

LAYER_SHARE = 0.8
"""Share of the layers with candidates: later directions encode the next tokens and not refusal."""

CHAT_TOKENS = 5
"""About how many tokens a chat template writes after the instruction."""


@dataclass(frozen=True)
class Direction:
    """Where the residual stream is read for a refusal direction.

    Attributes:
        layer: the stream is read after this layer.
        token: counted from the prompt's end: -1 is the last.
    """

    layer: int
    token: int

    def __str__(self) -> str:
        return f"after layer {self.layer} at token {self.token}"


@dataclass(frozen=True)
class DirectionResult(Observations):
    """What a model answers without a direction, or how two directions agree, row by row.

    Attributes:
        direction: place of the direction; None if no candidate can be ablated within ``kl_at_most``.
        least_divergence: smallest KL divergence of all candidates, in nats; infinite without candidates.
    """

    direction: Direction | None
    least_divergence: float


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

    def cost(self, task: TaskSettings) -> Cost:
        # means over both kinds, then both kinds once for each candidate
        candidates_per_layer = LAYER_SHARE * template_tokens(task)
        return Cost(
            rows=2 * self.learn + self.validate_on,
            rows_per_layer=round(candidates_per_layer * 2 * self.validate_on),
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return search_rows(self.learn, self.validate_on)


class DirectionAblation(Request[DirectionResult]):
    """Does the model refuse without a direction: its own, or that of the input?

    Attributes:
        search: how the model's own direction is found; None if the direction is the input's.
        rows: how many harmful instructions.
        stream: of random numbers.
        random: how many random directions are ablated for comparison.
        seed: of these.
    """

    implementation = "pytest_mechanism.methods.refusal.direction:measure"
    revision = 4

    search: RefusalDirection | None
    rows: int
    stream: str
    random: int
    seed: int

    def cost(self, task: TaskSettings) -> Cost:
        search = Cost(rows=0) if self.search is None else self.search.cost(task)
        answered = replies(self.rows * (2 + self.random), task)
        return Cost(
            rows=search.rows + answered.rows,
            rows_per_layer=search.rows_per_layer,
            reply_rows=answered.reply_rows,
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        search = () if self.search is None else self.search.row_sets()
        return (*search, RowSet("forbidden", self.rows, self.stream))


class DirectionComparison(Request[DirectionResult]):
    """The direction of another model, which is the input, beside this one's at the same place.

    Attributes:
        learn: as of the input's `RefusalDirection`.
    """

    implementation = "pytest_mechanism.methods.refusal.direction:compare"
    revision = 2

    learn: int

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(rows=2 * self.learn)

    def row_sets(self) -> tuple[RowSet, ...]:
        return search_rows(self.learn)


def template_tokens(task: TaskSettings) -> int:
    """About how many tokens follow the instruction in a prompt: places of candidates. 1 without a template."""
    template = str(task.get("template", ""))
    return CHAT_TOKENS if template == "chat" else max(1, len(template.partition("}")[2].split()))


def search_rows(learn: int, validate_on: int = 0) -> tuple[RowSet, ...]:
    """Instructions of both kinds that a direction is found on."""
    return tuple(
        RowSet(kind, count, stream, behind_interval=False)
        for stream, count in (("direction", learn), ("validation", validate_on))
        if count
        for kind in ("forbidden", "allowed")
    )
