"""What a run's tokenizers take away from a task: words that not all of them keep as one token are in
no prompt, and whoever reads a score has to know which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.text.chat import PLAIN, Asking, Turn

if TYPE_CHECKING:
    from pytest_mechanism.tasks.base import Prompt, Task, Vocabulary

END = 12
"""Characters of a prompt that an answer is named with."""

NAMED = 8
"""Words that are named; the others are counted."""


@dataclass
class Tally:
    """A vocabulary that notes what it is asked for.

    Attributes:
        vocabulary: answers.
        asked: every word that was asked for.
        lost: those of them that are not whole, in the order in which they were asked for.
    """

    vocabulary: Vocabulary
    asked: set[str] = field(default_factory=set)
    lost: dict[str, None] = field(default_factory=dict)

    def whole(self, words: Iterable[str], after: str = "") -> tuple[str, ...]:
        """As `Vocabulary.whole`."""
        given = tuple(words)
        kept = self.vocabulary.whole(given, after)
        there = {*kept}
        self.asked.update(after + word for word in given)
        self.lost.update(dict.fromkeys(after + word for word in given if word not in there))
        return kept

    def answers(self, prompt: Prompt, words: Iterable[str]) -> tuple[str, ...]:
        """As `Vocabulary.answers`."""
        given = tuple(words)
        kept = self.vocabulary.answers(prompt, given)
        there = {*kept}
        self.asked.update(shown(prompt, word) for word in given)
        gone = (shown(prompt, word) for word in given if word not in there)
        self.lost.update(dict.fromkeys(gone))
        return kept

    def chat(self, message: str, asking: Asking = PLAIN) -> Turn:
        """As `Vocabulary.chat`."""
        return self.vocabulary.chat(message, asking)

    def __str__(self) -> str:
        """As a sentence; nothing where every word stays."""
        if not self.lost:
            return ""
        named = [*self.lost][:NAMED]
        more = ", ..." if len(self.lost) > NAMED else ""
        return (
            f"{len(self.lost):,} of {len(self.asked):,} words are left out, since not every "
            f"tokenizer of the run keeps them as one token: {', '.join(named)}{more}"
        )


def shown(prompt: Prompt, word: str) -> str:
    """An answer as a message names it: with the end of its prompt, where it follows at once."""
    return word if prompt.lead(word) else repr(prompt.text[-END:] + word)


def words_left_out(
    task: Task, vocabulary: Vocabulary, rows: int = 1, stream: str = "self-check"
) -> str:
    """The words of a task that no row has, as a sentence; nothing where every word stays, or where
    too few do for a row (which says so itself)."""
    tally = Tally(vocabulary)
    try:
        task.rows(tally, rows, stream)
    except MechanismError:
        return ""
    return str(tally)
