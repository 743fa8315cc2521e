"""Request of `methods.circuits.performance`."""

from __future__ import annotations

from typing import Literal

from pytest_mechanism.measurements.refusal import replies
from pytest_mechanism.measurements.request import (
    Cost,
    Differences,
    Request,
    RowSet,
    TaskSettings,
)
from pytest_mechanism.registry import task_families


class Performance(Request):
    """Does the whole model give the answer?

    Attributes:
        rows: how many rows.
        stream: of random numbers.
        asked: which of the task's sets.
        differences: whether the logit difference is measured too.
    """

    implementation = "pytest_mechanism.methods.circuits.performance:measure"
    revision = 2

    rows: int
    stream: str
    asked: Literal["rows", "capability"] = "rows"
    differences: Differences = False

    def cost(self, task: TaskSettings) -> Cost:
        family = task_families().get(task.get("family", ""))
        if family is not None and family.judges_replies:
            return replies(self.rows, task)
        return Cost(rows=self.rows, prompts=self.stream, prompt_count=self.rows)

    def row_sets(self) -> tuple[RowSet, ...]:
        return (RowSet(self.asked, self.rows, self.stream, one_token_answers=True),)
