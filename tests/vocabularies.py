"""Vocabularies for tests of tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest_mechanism.tasks.base import AnyWord, Prompt


@dataclass(frozen=True)
class Without(AnyWord):
    """A vocabulary that does not keep some words whole."""

    dropped: frozenset[str]

    def whole(self, words: Iterable[str], after: str = "") -> tuple[str, ...]:
        return tuple(word for word in words if after + word not in self.dropped)

    def answers(self, prompt: Prompt, words: Iterable[str]) -> tuple[str, ...]:
        return self.whole(words)
