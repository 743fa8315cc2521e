"""A question about a string, as the task `counting` asks it."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_mechanism.tasks.text.prompt import Prompt, TextBuilder
from pytest_mechanism.tasks.writing.words import NUMBERS

REFUSAL = "REFUSE"


@dataclass(frozen=True)
class Question:
    """A question, asked with the word ``way``: how often is ``operand`` in ``string``?

    ``most`` is the highest count that a guesser would name, ``refuse`` the letter that must not be
    asked about.
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
        """The question as text."""
        builder = TextBuilder(anchors=[("start", 0)])
        builder.add(self.way, "way")
        # a space belongs to the word after it, as in most tokenizers
        builder.add(f" {self.operand}", "operand")
        builder.anchor("string")
        builder.add(" SOT")
        for letter in self.string:
            builder.add(f" {letter}", "letters")
        builder.anchor("end")
        builder.add(" EOT", "end")
        builder.add(" ART", "last")
        return Prompt(
            text=builder.text,
            spans=builder.spans,
            answer=self.answer,
            options=NUMBERS[: self.most + 1] + ((REFUSAL,) if self.refuse else ()),
            anchors=tuple(builder.anchors),
        )
