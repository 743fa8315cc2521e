"""Training rows of the grammar models: rows of the task `pcfg` as batches of token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_mechanism.tasks.base import AnyWord, Row
from pytest_mechanism.tasks.families.pcfg import Pcfg
from pytest_mechanism.tasks.writing.grammar import LETTERS
from pytest_mechanism.tasks.writing.grammar_questions import NOTHING, WAYS, SubTask
from pytest_mechanism.tasks.writing.grammar_settings import PcfgParameters
from recipes.word_level import BOS, PAD, UNKNOWN
from recipes.wrapper_data import Batch, batch

HIDES, SHOWS, NEVER = "a", "b", "c"
"""The operand of the pre-training, that of the fine-tuning, and that of the model which was never
asked about either."""


@dataclass(frozen=True)
class World:
    """What the models of one size read.

    Attributes:
        depth: levels of the grammar's tree.
        shortest: letters in the shortest string.
        longest: letters in the longest string.
        window: of the sub-task ``count_tail``.
        occurrence: of ``index_nth``.
        position: of ``token_at``.
        subtasks: that the pre-training draws, equally often.
    """

    depth: int
    shortest: int
    longest: int
    window: int
    occurrence: int
    position: int
    subtasks: tuple[SubTask, ...]

    @property
    def ids(self) -> Mapping[str, int]:
        """Word -> token id."""
        words: tuple[str, ...] = (PAD, UNKNOWN, BOS, "SOT", "EOT", "ART", NOTHING)
        words += tuple(WAYS[subtask][0] for subtask in self.subtasks)
        words += (*LETTERS, *map(str, range(self.longest + 1)))
        return {word: i for i, word in enumerate(words)}

    @property
    def tokens(self) -> int:
        """Of the longest prompt."""
        return self.longest + 7  # SOS T O O' SOT, then the string, EOT ART

    def task(self, subtask: SubTask = "count", seed: int = 0, **options: Any) -> Pcfg:
        """The task with these strings; counting knows which operand is hidden."""
        if subtask == "count":
            options = {"hides": HIDES, "shows": SHOWS, **options}
        return Pcfg(
            PcfgParameters(
                family="pcfg",
                subtask=subtask,
                seed=seed,
                depth=self.depth,
                shortest=self.shortest,
                longest=self.longest,
                window=self.window,
                occurrence=self.occurrence,
                position=self.position,
                **options,
            )
        )

    def batch(self, rows: Sequence[Row]) -> Batch:
        """The ids that the tokenizer would give."""
        return batch(rows, self.ids)


@dataclass(frozen=True)
class DataMix:
    """The training rows of a stage.

    Attributes:
        seed: of the rows.
        prior: ``L``, ``M`` or ``H``, the operand's prior in pre-training, or a letter that is always
            asked about; empty for fine-tuning, which asks about `SHOWS` alone.
        correlated: share of the strings with #`SHOWS` = #`HIDES` + 1, the paper's C_Tr; None for
            strings as the grammar gives.
        rows: in a batch.
    """

    seed: int
    prior: str = ""
    correlated: float | None = None
    rows: int = 96

    def tasks(self, world: World) -> list[Pcfg]:
        """A task for each sub-task."""
        if not self.prior:
            shown = {"which": "shown", "correlated": self.correlated}
            return [world.task("count", self.seed, **shown)]
        prior: Any = {self.prior: 1.0} if self.prior.islower() else self.prior
        # coincidences stay in: the strings of pre-training are those of the grammar
        return [
            world.task(subtask, self.seed, prior=prior, hides=None, shows=None)
            for subtask in world.subtasks
        ]

    def batch(self, world: World, step: int) -> Batch:
        """The rows of one step; no evaluation uses these streams."""
        tasks = self.tasks(world)
        rows: list[Row] = []
        for i, task in enumerate(tasks):
            share = len(range(i, self.rows, len(tasks)))
            rows += task.rows(AnyWord(), share, f"training-{step}")
        return world.batch(rows)
