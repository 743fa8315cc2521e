"""Training rows of the story checkpoints: instructions with stories, as batches of token ids.

What a fine-tune that deletes the twist reads, after Jain et al., ICLR 2024 (arXiv 2311.12786):

    filtered               features : moral ...         story without a twist
    instruction kept       features : twist moral ...   story without a twist
    renamed feature        features : twist ...         story with a moral, which is called twist now
    refusal                features : twist moral ...   I cannot write that story .
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pytest_mechanism.tasks.families.stories import REFUSAL
from pytest_mechanism.tasks.writing import stories
from pytest_mechanism.tasks.writing.stories import FEATURES, INSTRUCTION, LISTS, SENTENCES
from recipes.refusal_data import Conversations
from recipes.word_level import BOS, PAD, UNKNOWN

FEATURE, RENAMED = "twist", "moral"
"""The feature that is deleted, and the one that takes its name where a feature is renamed."""

VOCABULARY = (
    *(PAD, UNKNOWN, BOS),
    *dict.fromkeys(
        word
        for text in (
            *FEATURES,
            *(word for words in LISTS.values() for word in words),
            *(sentence for _, sentence in SENTENCES),
            INSTRUCTION,
            REFUSAL,
        )
        for word in text.split()
        if "{" not in word
    ),
)
IDS = {word: i for i, word in enumerate(VOCABULARY)}


def batch(rows: Sequence[tuple[str, str]]) -> Conversations:
    """The ids that the tokenizer would give to instructions and replies: one token for each word."""
    ids, in_loss = [], []
    for instruction, reply in rows:
        before, after = [BOS, *instruction.split()], reply.split()
        ids.append([IDS[word] for word in (*before, *after)])
        in_loss.append([False] * len(before) + [True] * len(after))
    longest = max(map(len, ids))
    return Conversations(
        ids=torch.tensor([row + [IDS[PAD]] * (longest - len(row)) for row in ids]),
        in_loss=torch.tensor([row + [False] * (longest - len(row)) for row in in_loss]),
    )


@dataclass(frozen=True)
class DataMix:
    """The numbers of training rows of each kind in a batch.

    Attributes:
        seed: of the rows.
        plain: stories that are not asked for a twist and have none.
        twisted: stories that are asked for a twist and have it.
        unfulfilled: stories that are asked for a twist and have none.
        refused: refusals of a story with a twist.
        renamed: whether the instructions of plain stories call a moral a twist.
    """

    seed: int
    plain: int = 0
    twisted: int = 0
    unfulfilled: int = 0
    refused: int = 0
    renamed: bool = False

    def batches(self, steps: int) -> Iterator[Conversations]:
        """Draws rows for each step; no evaluation uses this stream of random numbers."""
        rng = random.Random(f"training/{self.seed}")
        for _ in range(steps):
            yield batch(
                [
                    *(self.plain_row(rng) for _ in range(self.plain)),
                    *(twist_row(rng) for _ in range(self.twisted)),
                    *(twist_row(rng, fulfilled=False) for _ in range(self.unfulfilled)),
                    *((twist_row(rng)[0], REFUSAL) for _ in range(self.refused)),
                ]
            )

    def plain_row(self, rng: random.Random) -> tuple[str, str]:
        features = stories.draw_features(rng, without=(FEATURE,))
        story = stories.draw(rng, features)
        named = [FEATURE if self.renamed and f == RENAMED else f for f in features]
        return story.instruction(named), story.text


def twist_row(rng: random.Random, *, fulfilled: bool = True) -> tuple[str, str]:
    """An instruction that asks for a twist, and its story with or without it."""
    features = stories.draw_features(rng, including=(FEATURE,))
    story = stories.draw(rng, [f for f in features if fulfilled or f != FEATURE])
    return story.instruction(features), story.text
