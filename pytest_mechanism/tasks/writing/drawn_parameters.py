"""What a spec says of every task of slots (`tasks.drawn`), and whether it can be drawn at all."""

from __future__ import annotations

from typing import Self

from pydantic import Field, ValidationInfo, model_validator

from pytest_mechanism.errors import FieldError, MechanismError
from pytest_mechanism.tasks.base import AnyWord, TaskParameters
from pytest_mechanism.tasks.files import KNOWN_GOOD
from pytest_mechanism.tasks.writing.drawn import Drawn

SMALL = 8
"""A task with at most so many times as many prompts as rows is tried when its spec is read."""

TRIED = 500
"""Rows that are drawn for that at most; whether there are more, drawing them tells."""


class DrawnParameters(TaskParameters):
    """``task:`` for these families.

    Attributes:
        rows: how many rows are judged on.
        seed: of every row set.
    """

    rows: int = Field(default=200, ge=20, le=100_000)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)

    def task(self) -> Drawn:
        """The task with these settings.

        Raises:
            FieldError: there can be none, with the key that is at fault.
        """
        raise NotImplementedError

    @model_validator(mode="after")
    def can_be_drawn(self, info: ValidationInfo) -> Self:
        if not (info.context or {}).get(KNOWN_GOOD):
            enough(self.task())
        return self


def enough(task: Drawn) -> None:
    """There are as many rows as the settings say, or `TRIED`, were every word whole.

    Raises:
        FieldError: there are not; at the key ``rows``.
    """
    asked, words = task.settings.rows, AnyWord()
    there = task.plan.size(task.plan.tables) * len(task.plan.told)
    if there > SMALL * asked:
        return  # half of them are more than enough
    rows = min(asked, TRIED)
    if asked > max(there, TRIED):
        raise FieldError(
            f"{asked} different prompts are asked for, these words make {there}, and half of them "
            "are judged on; add words, or lower rows",
            "rows",
        )
    try:
        task.rows(words, rows)
        if task.plan.corrupted is not None:
            task.pairs(words, rows)
        for variable in task.variables:
            task.interchange(words, variable, rows, "test")
    except MechanismError as problem:
        raise FieldError(problem.message.removeprefix(f"task {task.family}: "), "rows") from None
