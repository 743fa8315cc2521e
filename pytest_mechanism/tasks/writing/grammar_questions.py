"""Questions about a string of a grammar, in the five sub-tasks of the task `pcfg`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pytest_mechanism.tasks.text.prompt import Prompt, TextBuilder

SubTask = Literal["count", "count_tail", "index", "index_nth", "token_at"]

WAYS: Mapping[str, tuple[str, ...]] = {
    "count": ("count", "tally", "total"),
    "count_tail": ("recent", "late", "latter"),
    "index": ("index", "place", "where"),
    "index_nth": ("again", "repeat", "nth"),
    "token_at": ("token", "letter", "which"),
}
"""Sub-task -> words that ask for it, the paper's task-family tokens."""

NOTHING = "null"
"""The word in place of an operand that a sub-task does not have."""


@dataclass(frozen=True)
class GrammarQuestion:
    """A question: T O O' SOT txt EOT ART.

    Attributes:
        string: the text.
        subtask: what is asked.
        operand: the letter O; None for ``token_at``.
        number: O', the window, occurrence or position that the sub-task takes; None for others.
        way: the word T.
    """

    string: str
    subtask: SubTask
    operand: str | None
    number: int | None
    way: str

    @property
    def answer(self) -> str | None:
        """The answer; None if the string has none. Places count from 1.

        ==============  ===========================================
        count           how often the operand is in the string
        count_tail      how often it is in the last O' letters
        index           the place of its first occurrence
        index_nth       the place of its occurrence number O'
        token_at        the letter at place O'
        ==============  ===========================================
        """
        return answer(self.string, self.subtask, self.operand or "", self.number or 1)

    def prompt(self, options: tuple[str, ...], withheld: tuple[str, ...] = ()) -> Prompt:
        """The question as text.

        Args:
            options: the words that a guesser would choose among.
            withheld: the words that withhold the answer.
        """
        builder = TextBuilder(anchors=[("start", 0)])
        builder.add(self.way, "way")
        # a space belongs to the word after it, as in most tokenizers
        builder.add(f" {self.operand or NOTHING}", "operand")
        builder.add(f" {NOTHING if self.number is None else self.number}", "number")
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
            answer=self.answer or "",
            options=options,
            anchors=tuple(builder.anchors),
            withheld_by=withheld,
        )


def answer(string: str, subtask: SubTask, operand: str, number: int) -> str | None:
    """The answer to a question (`GrammarQuestion.answer`)."""
    if subtask == "count":
        return str(string.count(operand))
    if subtask == "count_tail":
        return str(string[-number:].count(operand))
    if subtask == "token_at":
        return string[number - 1] if number <= len(string) else None
    places = [place for place, letter in enumerate(string, start=1) if letter == operand]
    nth = 1 if subtask == "index" else number
    return str(places[nth - 1]) if nth <= len(places) else None
