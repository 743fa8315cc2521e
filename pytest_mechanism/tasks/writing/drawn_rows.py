"""Rows about strings that are drawn until one is usable, shared by the tasks that ask about strings."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from pytest_mechanism.tasks.base import Prompt, Task, Vocabulary
from pytest_mechanism.tasks.writing.strings import Strings

T = TypeVar("T")

MAX_TRIES = 1000
"""Draws before a task counts as having no row of a kind."""

MORE = "use longer strings or more operands"


def first_usable(task: Task, draw: Callable[[], T | None], what: str) -> T:
    """The first usable draw.

    Args:
        task: that draws.
        draw: gives a row, or None where it is not usable.
        what: the usable rows have, and what would help.

    Raises:
        TaskError: none of `MAX_TRIES` draws is usable.
    """
    for _ in range(MAX_TRIES):
        if (drawn := draw()) is not None:
            return drawn
    raise task.error(f"no row has {what}")


def correlated_string(
    task: Task, strings: Strings, rng: random.Random, share: float, *, one: str, other: str
) -> str:
    """A string in which, with probability ``share``, the letter ``one`` occurs exactly once more often than
    ``other``, and does not otherwise (C_Tr and C_Te of Jain et al. 2024, section 5).

    Raises:
        TaskError: none of `MAX_TRIES` draws is such a string.
    """
    wanted = rng.random() < share

    def draw() -> str | None:
        string = strings.draw(rng)
        return string if (string.count(one) == string.count(other) + 1) == wanted else None

    return first_usable(
        task, draw, f"{'' if wanted else 'not '}exactly one {one} more than {other}; {MORE}"
    )


def check_whole(task: Task, vocabulary: Vocabulary, words: Sequence[str]) -> None:
    """Check that every word is one token.

    Raises:
        TaskError: some tokenizer splits a word or does not know it.
    """
    whole = set(vocabulary.whole(words))
    if split := [word for word in words if word not in whole]:
        raise task.error(
            f"the tokenizers split these words: {', '.join(split)}; the task is for models that "
            "were trained on it"
        )


def letter_slots(prompt: Prompt) -> set[str]:
    """Every letter is a token, so a longer string has slots of positional means that shorter ones
    lack."""
    return {f"letter {k + 1} of a string" for k in range(len(prompt.spans["letters"]))}
