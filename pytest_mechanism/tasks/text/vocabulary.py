"""Which words are one token in every tokenizer of a run: what a task asks before it writes rows.

A word that some tokenizer splits is in no prompt of the run; the reader of a score learns which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.text.chat import DEFAULT_CHAT, ChatPrompt, ChatSettings
from pytest_mechanism.tasks.text.prompt import Prompt

SHOWN_CHARACTERS = 12
"""Characters of a prompt's end that are shown with an answer."""

SHOWN_WORDS = 8
"""Words that a message lists; the others are counted."""


@runtime_checkable
class Vocabulary(Protocol):
    """The words that are one token in every tokenizer of a run."""

    def whole(self, words: Iterable[str], after: str = "") -> tuple[str, ...]:
        """The ``words`` that are one token in every tokenizer: after a space, or glued to the word
        ``after``, as 32 is to 17 in 1732."""
        ...

    def answers(self, prompt: Prompt, words: Iterable[str]) -> tuple[str, ...]:
        """The ``words`` that follow a prompt as one token of their own in every tokenizer."""
        ...

    def chat(self, message: str, settings: ChatSettings = DEFAULT_CHAT) -> ChatPrompt:
        """A user's message in the chat template that all models of the run share.

        Raises:
            MechanismError: the checkpoints have no chat template, or different ones.
        """
        ...


@dataclass(frozen=True)
class AnyWord:
    """A vocabulary without a tokenizer: every word is one token. Use it to look at a task's text."""

    def whole(self, words: Iterable[str], after: str = "") -> tuple[str, ...]:
        return tuple(words)

    def answers(self, prompt: Prompt, words: Iterable[str]) -> tuple[str, ...]:
        return tuple(words)

    def chat(self, message: str, settings: ChatSettings = DEFAULT_CHAT) -> ChatPrompt:
        raise MechanismError("a chat template comes from a checkpoint, and there is none here")


@dataclass
class RecordingVocabulary:
    """A vocabulary that records which words it was asked for and which were not whole.

    Attributes:
        vocabulary: the vocabulary that answers.
        requested: every word that was asked for.
        dropped: the words that are not whole, in the order of the questions.
    """

    vocabulary: Vocabulary
    requested: set[str] = field(default_factory=set)
    dropped: dict[str, None] = field(default_factory=dict)

    def whole(self, words: Iterable[str], after: str = "") -> tuple[str, ...]:
        """As `Vocabulary.whole`."""
        words = tuple(words)
        kept = self.vocabulary.whole(words, after)
        self._record({word: after + word for word in words}, kept)
        return kept

    def answers(self, prompt: Prompt, words: Iterable[str]) -> tuple[str, ...]:
        """As `Vocabulary.answers`."""
        words = tuple(words)
        kept = self.vocabulary.answers(prompt, words)
        self._record({word: _shown(prompt, word) for word in words}, kept)
        return kept

    def chat(self, message: str, settings: ChatSettings = DEFAULT_CHAT) -> ChatPrompt:
        """As `Vocabulary.chat`."""
        return self.vocabulary.chat(message, settings)

    def _record(self, shown: dict[str, str], kept: Iterable[str]) -> None:
        self.requested.update(shown.values())
        whole = {*kept}
        self.dropped.update((text, None) for word, text in shown.items() if word not in whole)

    def __str__(self) -> str:
        """A sentence that names the dropped words; empty where there are none."""
        if not self.dropped:
            return ""
        listed = ", ".join([*self.dropped][:SHOWN_WORDS])
        more = ", ..." if len(self.dropped) > SHOWN_WORDS else ""
        return (
            f"{len(self.dropped):,} of {len(self.requested):,} words are dropped, because some "
            f"tokenizer of the run splits them: {listed}{more}"
        )


def unrecorded(vocabulary: Vocabulary) -> Vocabulary:
    """A vocabulary for questions that only choose a form and drop no word."""
    while isinstance(vocabulary, RecordingVocabulary):
        vocabulary = vocabulary.vocabulary
    return vocabulary


def _shown(prompt: Prompt, word: str) -> str:
    """An answer in a message: with the end of its prompt where it follows without a space."""
    return word if prompt.joint_before(word) else repr(prompt.text[-SHOWN_CHARACTERS:] + word)
