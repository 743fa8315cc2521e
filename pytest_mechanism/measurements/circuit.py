"""Request of `methods.circuits.circuit`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.request import (
    Cost,
    Differences,
    PlacedNodeSets,
    Request,
    RowSet,
    TaskSettings,
    rows_at,
)

SELECT_STREAM = "minimality_select"
"""Rows on which the replacements of a head are chosen, by means."""

RANDOM = "random_"
"""How the names of random circuits begin, which are a control without an interval."""


AblatesMlps = Annotated[bool, Field(exclude_if=lambda ablated: not ablated)]
"""Whether MLPs are ablated as heads are. Results of requests without it stay valid."""


class CircuitPerformance(Request):
    """Does the model give the answer with only some heads alive, or only some heads and MLPs?

    Attributes:
        rows: how many rows.
        stream: of random numbers.
        ablation: what replaces the output of every other head.
        alive: name of a circuit -> its heads and MLPs.
        ablate_mlps: whether the output of every other MLP is replaced too; if not, all MLPs are alive.
        differences: whether the logit difference is measured too.
    """

    implementation = "pytest_mechanism.methods.circuits.circuit:measure"

    rows: int
    stream: str
    ablation: Ablation
    alive: PlacedNodeSets
    ablate_mlps: AblatesMlps = False
    differences: Differences = False

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(
            rows=self.rows * (1 + len(self.alive)) + self.ablation.prompts,
            prompts=self.stream,
            prompt_count=self.rows,
            parts=("circuits of some heads alone", len(self.alive), "circuits"),
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        positions = [at for heads in self.alive.values() for _, _, at in heads]
        behind_interval = self.stream != SELECT_STREAM and not all(
            name.startswith(RANDOM) for name in self.alive
        )
        return (rows_at(self.rows, self.stream, positions, behind_interval=behind_interval),)

    def ablation_used(self) -> Ablation:
        return self.ablation
