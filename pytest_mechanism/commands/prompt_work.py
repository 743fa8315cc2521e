"""How much work the prompts of each task are, beside those on which ``doctor`` times a checkpoint.

Prompts of another task may be longer, and the tokens of a reply after the first take less time than a whole
prompt where the model keeps keys and values. Both follow from numbers of tokens, without a forward.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mechanism.claims.context import task_settings
from pytest_mechanism.errors import MechanismError

if TYPE_CHECKING:
    from pytest_mechanism.engine.interface import Tokens
    from pytest_mechanism.methods.context import MeasurementContext
    from pytest_mechanism.tasks.base import Task

ROWS = 20
"""Rows whose lengths are looked at where nothing replies; every task has as many."""


@dataclass(frozen=True)
class PromptWork:
    """What a forward of a task's prompts takes.

    Attributes:
        length: tokens of a prompt, relative to the prompts of the trial.
        next_token: a further token of a reply, as a share of the prompt's forward.
    """

    length: float = 1.0
    next_token: float = 1.0


def prompt_work(
    context: MeasurementContext, tasks: Iterable[Task], trial: Tokens
) -> dict[str, PromptWork]:
    """Settings of a task -> what its prompts take; without tasks that have no rows for the tokenizers.

    Args:
        context: of the loaded checkpoint.
        tasks: of the specs.
        trial: the prompts on which the checkpoint was timed.
    """
    work: dict[str, PromptWork] = {}
    for task in tasks:
        with contextlib.suppress(MechanismError):  # the claims on this task will report it
            tokens = prompts_of(context, task)
            length = float(tokens.lengths.float().mean() / trial.lengths.float().mean())
            work[task_settings(task)] = PromptWork(length, next_token(context, task, tokens))
    return work


def prompts_of(context: MeasurementContext, task: Task) -> Tokens:
    """A batch of a task's prompts, as large as those of a gate if the model replies to them."""
    if task.reply_tokens > 1:
        count = min(context.batch_size, int(task.settings.rows))
        rows = task.forbidden(context.vocabulary, count, "self-check")
    else:
        rows = task.rows(context.vocabulary, ROWS, "self-check")
    return context.side([row.base for row in rows]).tokens


def next_token(context: MeasurementContext, task: Task, tokens: Tokens) -> float:
    """See `PromptWork`."""
    from pytest_mechanism.methods.refusal.greedy import next_token_work
    from pytest_mechanism.methods.refusal.refusal_score import HookedModel

    count = task.reply_tokens
    return 1.0 if count == 1 else next_token_work(HookedModel(context), tokens, count)
