"""Request of `methods.circuits.removal`."""

from __future__ import annotations

from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.circuit import RANDOM
from pytest_mechanism.measurements.request import (
    Cost,
    PlacedNodeSets,
    Request,
    RowSet,
    TaskSettings,
    rows_at,
)


class HeadRemoval(Request):
    """Does the full model give the answer without some heads and MLPs?

    Attributes:
        rows: how many rows.
        stream: of random numbers.
        ablation: what replaces the output of a removed head or MLP.
        removed: name -> heads and MLPs that are ablated together, each at its position.
    """

    implementation = "pytest_mechanism.methods.circuits.removal:measure"

    rows: int
    stream: str
    ablation: Ablation
    removed: PlacedNodeSets

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(
            rows=self.rows * (1 + len(self.removed)) + self.ablation.prompts,
            prompts=self.stream,
            prompt_count=self.rows,
            parts=("the model without some heads", len(self.removed), "sets of heads"),
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        positions = [at for heads in self.removed.values() for _, _, at in heads]
        behind_interval = not all(name.startswith(RANDOM) for name in self.removed)
        return (rows_at(self.rows, self.stream, positions, behind_interval=behind_interval),)

    def ablation_used(self) -> Ablation:
        return self.ablation
