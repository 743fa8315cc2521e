"""Request of `methods.circuits.probing`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pytest_mechanism.measurements.recipe import Recipe
from pytest_mechanism.measurements.request import (
    Cost,
    Request,
    RowSet,
    TaskSettings,
    training_cost,
)
from pytest_mechanism.types import Observations


@dataclass(frozen=True)
class ProbeResult(Observations):
    """Whether probes of each layer give the answer, row by row.

    Attributes:
        accuracy: number of layers before the probe -> accuracy on the rows for the choice.
        layer: the number of layers with the best one, the lowest of several.
        dropped: training rows that were not used, because their text is evaluated on.
    """

    accuracy: Mapping[int, float]
    layer: int
    dropped: int


class LinearProbes(Request[ProbeResult]):
    """Can a linear map read the answer off the residual stream, layer by layer?

    Attributes:
        asked: which of the task's sets.
        position: a named position of one token.
        reads: label, or beginning of labels, of the coordinates that the probe reads; None for all.
        penalty: on the squared weights of the probe.
        rows: how many rows the probes are evaluated on.
        stream: of random numbers, of these rows.
        train: how many rows the probes are trained on, of the stream ``probing``.
        chosen: how many rows the layer is chosen on, of the stream ``validation``.
        seed: of the shuffled answers.
        after: recipe by which a copy of the model is trained before it is probed; None probes the model.
    """

    implementation = "pytest_mechanism.methods.circuits.probing:measure"
    revision = 2

    asked: Literal["rows", "capability"]
    position: str
    penalty: float
    rows: int
    stream: str
    train: int
    chosen: int
    seed: int
    after: Annotated[Recipe | None, Field(exclude_if=lambda recipe: recipe is None)] = None
    reads: Annotated[str | None, Field(exclude_if=lambda label: label is None)] = None

    def cost(self, task: TaskSettings) -> Cost:
        rows = self.rows + self.train + self.chosen
        return Cost(rows=rows) if self.after is None else training_cost(self.after, rows)

    def recipe_used(self) -> Recipe | None:
        return self.after

    def row_sets(self) -> tuple[RowSet, ...]:
        return tuple(
            RowSet(
                self.asked,
                count,
                stream,
                (self.position,),
                one_token_answers=True,
                behind_interval=behind_interval,
                one_token_positions=True,
            )
            for stream, count, behind_interval in (
                (self.stream, self.rows, True),
                ("validation", self.chosen, False),
                ("probing", self.train, False),
            )
        )
