"""Request of `methods.refusal.refusal_score`."""

from __future__ import annotations

from typing import Literal

from pytest_mechanism.measurements.request import Cost, Request, RowSet, TaskSettings

MORE_REPLY_TOKENS = (
    "raise reply_tokens of the task, or let its template not think, as in chat: {enable_thinking: "
    "false}"
)
"""What to do about replies that had not finished thinking."""


class RefusalRate(Request):
    """Does the model refuse?

    Attributes:
        asked: which of the task's sets.
        rows: how many rows.
        stream: of random numbers.
        forced: tokens of the row's own reply that are prefilled.
    """

    implementation = "pytest_mechanism.methods.refusal.refusal_score:measure"
    revision = 3

    asked: Literal["forbidden", "allowed", "capability"]
    rows: int
    stream: str
    forced: int = 0

    def cost(self, task: TaskSettings) -> Cost:
        return replies(self.rows, task)

    def row_sets(self) -> tuple[RowSet, ...]:
        return (RowSet(self.asked, self.rows, self.stream),)


def replies(rows: int, task: TaskSettings) -> Cost:
    """What replies to prompts cost: a forward for each token that the task looks at."""
    count = int(task.get("reply_tokens", 1))
    return Cost(rows=rows * count, reply_rows=rows * (count - 1))
