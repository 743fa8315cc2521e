"""Request of `methods.weights.curve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pytest_mechanism.measurements.recipe import Recipe
from pytest_mechanism.measurements.refusal import replies
from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings, training_cost
from pytest_mechanism.types import Observations

MOST_ALLOWED = 200
"""Questions that must be answered, at most, on which a training is evaluated beside the others."""


@dataclass(frozen=True)
class AllowedAnswers:
    """What a copy does with questions that must be answered. One that refuses all of them, or that
    training has destroyed, shows nothing.

    Attributes:
        right: how many it answers right; None where the task knows no answers.
        refused: how many it refuses.
        asked: how many questions.
    """

    right: float | None
    refused: float
    asked: int


@dataclass(frozen=True)
class CurveResult(Observations):
    """What a copy answers at each evaluation, row by row.

    Attributes:
        losses: mean loss before each evaluation after the first.
        allowed: step of the evaluation -> what the copy answers beside.
        diverged: how training broke down, where it did; later evaluations are missing then.
    """

    losses: tuple[float, ...] = ()
    allowed: Mapping[int, AllowedAnswers] = field(default_factory=dict)
    diverged: str | None = None


class TrainingCurve(Request[CurveResult]):
    """What does a copy of the model answer while it is trained?

    Attributes:
        recipe: of the training.
        watch: which of the task's sets the copy is evaluated on: ``capability`` where the task knows
            the answers to what must be refused, else ``forbidden``.
        rows: how many rows.
        stream: of random numbers.
    """

    implementation = "pytest_mechanism.methods.weights.curve:measure"
    revision = 6

    recipe: Recipe
    watch: Literal["capability", "forbidden"]
    rows: int
    stream: str

    @property
    def allowed_rows(self) -> int:
        """Questions that must be answered, on which the copy is evaluated too."""
        return min(self.rows, MOST_ALLOWED)

    def cost(self, task: TaskSettings) -> Cost:
        recipe = self.recipe
        asked = (self.rows + self.allowed_rows) * len(recipe.evaluated)
        answered = replies(asked, task)
        return training_cost(recipe, answered.rows, answered.reply_rows)

    def row_sets(self) -> tuple[RowSet, ...]:
        """The rows of the evaluation; those of the training are the recipe's."""
        return (
            RowSet(self.watch, self.rows, self.stream),
            RowSet("allowed", self.allowed_rows, self.stream, behind_interval=False),
        )

    def recipe_used(self) -> Recipe:
        return self.recipe
