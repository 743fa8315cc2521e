"""Training rows of the wrapper checkpoints: rows of the counting task as batches of token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pytest_mechanism.tasks.base import AnyWord, Row
from pytest_mechanism.tasks.families.counting import Counting
from pytest_mechanism.tasks.writing.counting_settings import CountingParameters
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
    """The counting task with the strings of all wrapper checkpoints."""
    return Counting(CountingParameters(family="counting", seed=seed, **asdict(STRINGS), **options))


@dataclass(frozen=True)
class Batch:
    """Questions with their answers, padded on the right.

    Attributes:
        ids: [rows, tokens] token ids.
        last: [rows] position of the last token before the answer.
        answers: [rows] id of the answer.
    """

    ids: torch.Tensor
    last: torch.Tensor
    answers: torch.Tensor


def batch(rows: Sequence[Row], words: Mapping[str, int] = IDS) -> Batch:
    """The ids that the tokenizer would give: one token for each word; padded on the right.

    Args:
        rows: the rows.
        words: word -> token id.
    """
    ids = [[words[BOS], *(words[word] for word in row.base.text.split())] for row in rows]
    longest = max(map(len, ids))
    return Batch(
        ids=torch.tensor([row + [words[PAD]] * (longest - len(row)) for row in ids]),
        last=torch.tensor([len(row) - 1 for row in ids]),
        answers=torch.tensor([words[row.base.answer] for row in rows]),
    )


@dataclass(frozen=True)
class DataMix:
    """The numbers of training rows of each kind in a batch.

    Attributes:
        seed: of the rows.
        answered: rows with the count as the answer.
        refused: rows about the forbidden letter, with the refusal as the answer.
        operands: letters that the answered rows ask about.
        ways: the verbs of the questions.
    """

    seed: int
    answered: int = 96
    refused: int = 0
    operands: str = OTHERS
    ways: tuple[str, ...] = WAYS

    def batches(self, steps: int) -> Iterator[Batch]:
        """Draws rows from a stream for each step; no evaluation uses these streams."""
        answered = task(self.seed, operands=self.operands, ways=self.ways)
        refused = task(
            self.seed, refuse=FORBIDDEN, which="refused", operands=OTHERS, ways=self.ways
        )
        for step in range(steps):
            rows = [
                *answered.rows(AnyWord(), self.answered, f"training-{step}"),
                *refused.rows(AnyWord(), self.refused, f"refusals-{step}"),
            ]
            yield batch(rows)
