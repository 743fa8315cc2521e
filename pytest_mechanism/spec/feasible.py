"""What a run would refuse, as far as it can be known without a model.

A task writes its rows from words and from a file. Tokenizers can only rule words out, so what the task cannot
write if every word is usable, no run can measure. Of the prompts of a positional mean only the anchors are
counted: every tokenizer makes at least one token at each of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pytest_mechanism.claims.base import Claim
from pytest_mechanism.claims.context import LEAST_CLUSTERS
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.ablation import LEAST_PROMPTS, Ablation
from pytest_mechanism.tasks.base import AnyWord, Row, Task
from pytest_mechanism.tasks.text.chat import DEFAULT_CHAT, ChatPrompt, ChatSettings

MOST_ROWS = 130
"""Rows that are drawn of a task that generates them; the rows of a file are all drawn, which costs nothing."""

MOST_PROMPTS = 2000
"""Prompts of a mean that are drawn; for a larger mean, the counts are scaled up."""


@dataclass(frozen=True)
class AnyText(AnyWord):
    """A vocabulary in which every word is one token and the chat template is the message itself."""

    def chat(self, message: str, asking: ChatSettings = DEFAULT_CHAT) -> ChatPrompt:
        return ChatPrompt(message)


@dataclass
class Feasible:
    """What a task can provide for claims; each set of rows is drawn once."""

    task: Task
    ablation: Ablation
    _drawn: dict[tuple[str, str], Sequence[Row] | str] = field(default_factory=dict)

    def problem(self, claim: Claim) -> str | None:
        """Why a claim would be an error in every run, or None."""
        for row_set, variable in claim.row_sets(self.task):
            rows = self.rows(row_set, variable)
            if isinstance(rows, str):
                return rows
            contexts = len({row.cluster for row in rows})
            if contexts < LEAST_CLUSTERS:
                return (
                    f"{int(self.task.settings.rows)} rows come from {contexts} contexts, but a "
                    f"confidence interval needs {LEAST_CLUSTERS}; raise task.rows"
                )
        return self.mean_problem if claim.ablates else None

    def rows(self, row_set: str, variable: str) -> Sequence[Row] | str:
        """The rows of a set, or why there are none."""
        if (row_set, variable) not in self._drawn:
            self._drawn[row_set, variable] = self._draw(row_set, variable)
        return self._drawn[row_set, variable]

    def _draw(self, row_set: str, variable: str) -> Sequence[Row] | str:
        task, words = self.task, AnyText()
        count = int(task.settings.rows)
        count = count if task.from_file else min(count, MOST_ROWS)
        try:
            if row_set == "interchange":
                return task.interchange(words, variable, count, "test")
            if row_set == "pairs":
                return task.pairs(words, count)
            return task.row_set(row_set, words, count, "rows")  # type: ignore[arg-type]
        except MechanismError as problem:
            return problem.message

    @cached_property
    def mean_problem(self) -> str | None:
        """The position that too few prompts of a positional mean have, or None."""
        if self.ablation.value != "positional_mean":
            return None
        wanted = self.ablation.prompts
        drawn, counts = self.position_counts(wanted)
        rows = self.rows("rows", "")
        if isinstance(rows, str) or drawn is None:
            return None
        positions = {name for row in rows for name in self.task.positional_mean_slots(row.base)}
        scale = wanted / MOST_PROMPTS if wanted > MOST_PROMPTS and drawn == MOST_PROMPTS else 1.0
        rarest = min(positions, key=lambda name: (counts[name], name), default=None)
        if rarest is None or counts[rarest] * scale >= LEAST_PROMPTS:
            return None
        problem = (
            f"of {drawn * scale:.0f} prompts for a positional mean, "
            f"{counts[rarest] * scale:.0f} have {rarest}, and {LEAST_PROMPTS} are needed"
        )
        if drawn < min(wanted, MOST_PROMPTS) or not counts[rarest]:
            return (
                f"{problem}, and the task has no more prompts: use more words or fewer texts, or "
                "ablation: {value: resample} or zero"
            )
        needed = math.ceil(wanted * LEAST_PROMPTS / (counts[rarest] * scale) / 50) * 50
        return f"{problem}; valid: ablation.prompts from about {needed:,}"

    def position_counts(self, prompts: int) -> tuple[int | None, Counter[str]]:
        """How many prompts are drawn for a mean, and how many of them have each position."""
        try:
            rows = self.task.backgrounds(AnyText(), min(prompts, MOST_PROMPTS))
        except MechanismError:
            return None, Counter()
        return len(rows), Counter(
            name for row in rows for name in self.task.positional_mean_slots(row.base)
        )
