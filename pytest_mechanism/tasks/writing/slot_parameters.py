"""The keys of every slot task, and whether its words make enough rows."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

from pydantic import ValidationInfo, model_validator

from pytest_mechanism.errors import FieldError, MechanismError
from pytest_mechanism.tasks.base import AnyWord, TaskParameters
from pytest_mechanism.tasks.files import KNOWN_GOOD
from pytest_mechanism.tasks.writing.slot_task import SlotTask

ENOUGH = 8
"""Prompts per row from which a task certainly has enough rows."""

MAX_TRIED = 500
"""Rows that are drawn when a spec is read; whether there are more shows when they are drawn."""


class SlotTaskParameters(TaskParameters):
    """``task:`` of a slot task."""

    @abstractmethod
    def task(self) -> SlotTask[Any]:
        """The task with these settings, or a FieldError at the key at fault."""

    @model_validator(mode="after")
    def _has_enough_rows(self, info: ValidationInfo) -> Self:
        if not (info.context or {}).get(KNOWN_GOOD):
            check_rows(self.task())
        return self


def check_rows(task: SlotTask[Any]) -> None:
    """Check that there are as many rows as the settings say, or `MAX_TRIED`, if every word is whole."""
    plan, vocabulary = task.plan, AnyWord()
    requested = task.settings.rows
    prompts = plan.count_fillings(plan.tables) * len(plan.texts)
    if prompts > ENOUGH * requested:
        return  # half of the prompts are more than enough
    rows = min(requested, MAX_TRIED)
    if requested > max(prompts, MAX_TRIED):
        raise FieldError(
            f"{requested} different prompts are requested, but these words make only {prompts}, and "
            "half of them are for evaluation; add words, or lower rows",
            "rows",
        )
    try:
        task.rows(vocabulary, rows)
        if plan.corruption is not None:
            task.pairs(vocabulary, rows)
        for variable in task.variables:
            task.interchange(vocabulary, variable, rows, "test")
    except MechanismError as problem:  # a family of another package may raise any of them
        raise FieldError(getattr(problem, "reason", "") or problem.message, "rows") from None
