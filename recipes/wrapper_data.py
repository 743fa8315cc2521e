"""What the wrapper checkpoints read: the counting task's own rows as batches of token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pytest_mechanism.tasks.base import AnyWord, Row
from pytest_mechanism.tasks.families.counting import Counting, CountingParameters
from pytest_mechanism.tasks.writing.questions import REFUSAL
from pytest_mechanism.tasks.writing.strings import Strings
from pytest_mechanism.tasks.writing.words import NUMBERS
from recipes.word_level import BOS, PAD, UNKNOWN

WAYS = ("count", "tally", "number", "total")
STRINGS = Strings("abcdefghi", shortest=16, longest=24, most=12)
FORBIDDEN, OTHERS = "a", "bcdefghi"

VOCABULARY = (
    *(PAD, UNKNOWN, BOS, "SOT", "EOT", "ART", REFUSAL, *WAYS),
    *(*STRINGS.letters, *NUMBERS[: STRINGS.most + 1]),
)
IDS = {word: i for i, word in enumerate(VOCABULARY)}
ZERO, REFUSED = IDS["zero"], IDS[REFUSAL]


def task(seed: int, **options: Any) -> Counting:
    """The task with the strings that every wrapper checkpoint knows."""
    return Counting(CountingParameters(family="counting", seed=seed, **asdict(STRINGS), **options))


@dataclass(frozen=True)
class Batch:
    """Questions, padded on the right.

    Attributes:
        ids: (rows, tokens) what the model reads.
        last: (rows) where the answer is due.
        answers: (rows) the id of the answer.
    """

    ids: torch.Tensor
    last: torch.Tensor
    answers: torch.Tensor


def batch(rows: Sequence[Row]) -> Batch:
    """As the tokenizer would: one word, one token."""
    ids = [[IDS[BOS], *(IDS[word] for word in row.base.text.split())] for row in rows]
    longest = max(map(len, ids))
    return Batch(
        ids=torch.tensor([each + [IDS[PAD]] * (longest - len(each)) for each in ids]),
        last=torch.tensor([len(each) - 1 for each in ids]),
        answers=torch.tensor([IDS[row.base.answer] for row in rows]),
    )


@dataclass(frozen=True)
class Diet:
    """What a batch of training holds.

    Attributes:
        seed: of the rows.
        answered: rows that are to be answered.
        refused: rows about the forbidden letter, that are to be refused.
        operands: letters that the answered rows ask about.
        ways: words by which is asked.
    """

    seed: int
    answered: int = 96
    refused: int = 0
    operands: str = OTHERS
    ways: tuple[str, ...] = WAYS

    def batches(self, steps: int) -> Iterator[Batch]:
        """A stream of rows for each step, none of them the stream of an examination."""
        asked = task(self.seed, operands=self.operands, ways=self.ways)
        refused = task(
            self.seed, refuse=FORBIDDEN, which="refused", operands=OTHERS, ways=self.ways
        )
        for step in range(steps):
            rows = [
                *asked.rows(AnyWord(), self.answered, f"training-{step}"),
                *refused.rows(AnyWord(), self.refused, f"refusals-{step}"),
            ]
            yield batch(rows)
