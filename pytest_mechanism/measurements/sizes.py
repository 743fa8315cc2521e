"""Request of `methods.circuits.sizes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_mechanism.fields.ablation import Ablation
from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings
from pytest_mechanism.measurements.screen import STEPS
from pytest_mechanism.types import Head, Observations

RANK_STREAM = "curve_rank"
"""Rows on which heads are ranked. Circuits are judged on others, so no interval is needed there."""

Ranking = Literal["signed", "absolute"]
RankedBy = Literal["ablation", "attribution"]


@dataclass(frozen=True)
class SizesResult(Observations):
    """Whether circuits of growing size give the answer, row by row.

    Attributes:
        ranking: every head of the model, the most important first.
    """

    ranking: tuple[Head, ...]


class CircuitSizes(Request[SizesResult]):
    """How well do the most important heads alone do the task, as their number grows?

    Attributes:
        heads: how many the model has, for the cost.
        counts: how many heads are alive, each number measured by itself.
        ranking: whether heads rank by the size of their effect, or those that help the answer first.
        ranked_by: whether an effect is measured, with one head ablated at a time, or estimated by
            gradients of all heads at once.
        draws: how many random rankings are measured too.
        seed: of the random rankings.
        rank_rows: rows on which heads are ranked.
        rows: rows on which circuits are judged.
        stream: of random numbers.
        ablation: what replaces the output of every other head.
    """

    implementation = "pytest_mechanism.methods.circuits.sizes:measure"
    revision = 2

    heads: int
    counts: tuple[int, ...]
    ranking: Ranking
    ranked_by: RankedBy
    draws: int
    seed: int
    rank_rows: int
    rows: int
    stream: str
    ablation: Ablation

    def cost(self, task: TaskSettings) -> Cost:
        circuits = len(self.counts) * (1 + self.draws)
        by_gradient = self.ranked_by == "attribution"
        # gradient: a step of the integral costs a forward and a backward, which is as much as two
        ranking = 3 * len(STEPS) if by_gradient else 1 + self.heads
        return Cost(
            rows=ranking * self.rank_rows + self.rows * (1 + circuits) + self.ablation.prompts,
            prompts=self.stream,
            prompt_count=self.rows,
            gradient_rows="batch" if by_gradient else 0,
            parts=("circuits of growing size", circuits, "circuits"),
        )

    def row_sets(self) -> tuple[RowSet, ...]:
        return (
            RowSet("rows", self.rows, self.stream, one_token_answers=True),
            RowSet(
                "rows", self.rank_rows, RANK_STREAM, one_token_answers=True, behind_interval=False
            ),
        )

    def ablation_used(self) -> Ablation:
        return self.ablation
