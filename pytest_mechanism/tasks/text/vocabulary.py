"""Which words the tokenizers of a run know as one token: what a task asks before it writes rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.text.chat import DEFAULT_CHAT, ChatPrompt, ChatSettings
from pytest_mechanism.tasks.text.prompt import Prompt


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
