"""What a run would refuse, as far as it can be known without a model.

A task writes its rows from words and from a file. Tokenizers can only take words away, so what the
task cannot write were every word whole, no run can measure. Of the prompts behind a positional mean
only the anchors are counted: every tokenizer makes at least one token at each of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_mechanism.claims.base import LEAST_CLUSTERS, Claim
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.fields.ablation import LEAST_PROMPTS, Ablation
from pytest_mechanism.tasks.base import AnyWord, Row, Task
from pytest_mechanism.tasks.text.chat import DEFAULT_CHAT, ChatPrompt, ChatSettings

TRIED = 130
"""Rows that are drawn of a task that makes them; of a file all are, which costs nothing."""

PROMPTS = 2000
"""Prompts behind a mean that are drawn; of more, each place has its share."""


@dataclass(frozen=True)
class AnyText(AnyWord):
    """Every word is whole, and the chat template is the message itself."""

    def chat(self, message: str, asking: ChatSettings = DEFAULT_CHAT) -> ChatPrompt:
        return ChatPrompt(message)


@dataclass
class Feasible:
    """What a task can give to claims; each set of rows is drawn once."""

    task: Task
    ablation: Ablation
    _drawn: dict[tuple[str, str], Sequence[Row] | str] = field(default_factory=dict)

    def wrong(self, claim: Claim) -> str | None:
        """Why a claim would be an error in every run, or None."""
        for what, variable in claim.row_sets(self.task):
            found = self.drawn(what, variable)
            if isinstance(found, str):
                return found
            contexts = len({row.cluster for row in found})
            if contexts < LEAST_CLUSTERS:
                rows = int(self.task.settings.rows)
                return (
                    f"{rows} rows come from {contexts} contexts, an interval needs "
                    f"{LEAST_CLUSTERS}; raise task.rows"
                )
        return self.thin if claim.ablates else None

    def drawn(self, what: str, variable: str) -> Sequence[Row] | str:
        """Rows of a set, or why there are none."""
        if (what, variable) not in self._drawn:
            self._drawn[what, variable] = self._draw(what, variable)
        return self._drawn[what, variable]

    def _draw(self, what: str, variable: str) -> Sequence[Row] | str:
        task, words = self.task, AnyText()
        count = int(task.settings.rows)
        count = count if task.from_file else min(count, TRIED)
        try:
            if what == "interchange":
                return task.interchange(words, variable, count, "test")
            if what == "pairs":
                return task.pairs(words, count)
            return task.row_set(what, words, count, "rows")  # type: ignore[arg-type]
        except MechanismError as problem:
            return problem.message
        except NotImplementedError:
            return f"task {task.family} writes no {what}, which this claim is measured on"

    @property
    def thin(self) -> str | None:
        """Where too few prompts would be behind a positional mean, or None."""
        if self.ablation.value != "positional_mean":
            return None
        asked = self.ablation.prompts
        there, behind = self.behind(asked)
        rows = self.drawn("rows", "")
        if isinstance(rows, str) or there is None:
            return None
        judged = {name for row in rows for name in self.task.positional_mean_slots(row.base)}
        share = asked / PROMPTS if asked > PROMPTS and there == PROMPTS else 1.0
        least = min(judged, key=lambda name: (behind[name], name), default=None)
        if least is None or behind[least] * share >= LEAST_PROMPTS:
            return None
        has = (
            f"of {there * share:.0f} prompts behind a positional mean, "
            f"{behind[least] * share:.0f} have {least}, and {LEAST_PROMPTS} are needed"
        )
        if there < min(asked, PROMPTS) or not behind[least]:
            return f"{has}; the task has no more: more words, fewer texts, or ablation: {{value: resample}} or zero"
        needed = math.ceil(asked * LEAST_PROMPTS / (behind[least] * share) / 50) * 50
        return f"{has}; valid: ablation.prompts from about {needed:,}"

    def behind(self, prompts: int) -> tuple[int | None, Counter[str]]:
        """How many prompts are drawn for a mean, and how many of them have each place."""
        try:
            rows = self.task.backgrounds(AnyText(), min(prompts, PROMPTS))
        except (MechanismError, NotImplementedError):
            return None, Counter()
        return len(rows), Counter(
            name for row in rows for name in self.task.positional_mean_slots(row.base)
        )
