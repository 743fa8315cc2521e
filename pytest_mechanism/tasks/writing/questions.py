"""A string and what is asked about it, as the task `counting` asks."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_mechanism.tasks.base import Prompt, Span
from pytest_mechanism.tasks.writing.words import NUMBERS

REFUSAL = "REFUSE"


@dataclass(frozen=True)
class Question:
    """A string, and what is asked about it.

    Attributes:
        string: its letters.
        operand: the letter asked about.
        way: the word that asks.
        most: the largest count that somebody who guesses would name.
        refuse: the letter that must not be asked about.
    """

    string: str
    operand: str
    way: str = "count"
    most: int = 12
    refuse: str | None = None

    @property
    def answer(self) -> str:
        if self.operand == self.refuse:
            return REFUSAL
        return NUMBERS[self.string.count(self.operand)]

    def prompt(self) -> Prompt:
        """The text with its places."""
        text = self.way

        def write(word: str) -> Span:
            nonlocal text
            text += f" {word}"  # the space belongs to the word after it, as in most tokenizers
            return len(text) - len(word) - 1, len(text)

        operand, start = write(self.operand), write("SOT")
        letters = tuple(write(letter) for letter in self.string)
        end, last = write("EOT"), write("ART")
        return Prompt(
            text=text,
            spans={
                "way": ((0, len(self.way)),),
                "operand": (operand,),
                "letters": letters,
                "end": (end,),
                "last": (last,),
            },
            answer=self.answer,
            options=NUMBERS[: self.most + 1] + ((REFUSAL,) if self.refuse else ()),
            anchors=(("start", 0), ("string", start[0]), ("end", end[0])),
        )
