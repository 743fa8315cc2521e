"""Settings of the counting task (`tasks.families.counting`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict, StringConstraints, model_validator

from pytest_mechanism.tasks.base import RowCount, TaskParameters
from pytest_mechanism.tasks.writing.words import NUMBERS

Letters = Annotated[str, StringConstraints(pattern="^[a-z]+$", max_length=26)]
Way = Literal["count", "tally", "number", "total"]
"""Words that ask the same question, the paper's task-family tokens."""


class CountingParameters(TaskParameters):
    """``task:`` for this family.

    Attributes:
        letters: the letters of strings.
        operands: letters that questions ask about; if left out, all of them.
        refuse: the operand that must be refused; if left out, none.
        which: rows that must be ``answered``, rows that must be ``refused``, or ``all``: two
            questions about each string, one for a refusal and one for an answer.
        ways: words that ask the question, drawn anew for each string.
        shortest: letters in the shortest string.
        longest: letters in the longest string.
        most: the highest count of a letter in a string.
        correlated: share of the strings in which the letter asked about occurs exactly once more often
            than the one to refuse (the paper's C_Tr in training, C_Te in evaluation); in the others it
            does not. Asked about the letter to refuse, the first of the other operands counts. If left
            out, as the strings come. It concerns plain questions, not pairs of prompts.
        rows: how many questions.
        seed: of every row set.
    """

    family: Literal["counting"]
    letters: Letters = "abcdefghi"
    operands: Letters | None = None
    refuse: Annotated[str, StringConstraints(pattern="^[a-z]$")] | None = None
    which: Literal["answered", "refused", "all"] = "answered"
    ways: Annotated[tuple[Way, ...], Strict(False)] = Field(default=("count",), min_length=1)
    shortest: int = Field(default=16, ge=1, le=200)
    longest: int = Field(default=24, ge=1, le=200)
    most: int = Field(default=12, ge=1, le=len(NUMBERS) - 1)
    correlated: Annotated[
        float | None,
        Field(ge=0, le=1, allow_inf_nan=False, exclude_if=lambda share: share is None),
    ] = None
    rows: RowCount = 500

    @model_validator(mode="after")
    def _fits_together(self) -> CountingParameters:
        operands = self.operands or self.letters
        for name, value in (("letters", self.letters), ("operands", operands), ("ways", self.ways)):
            if len(set(value)) < len(value):
                raise ValueError(f"{name}: an entry appears twice")
        if stray := sorted({*operands, *(self.refuse or "")} - set(self.letters)):
            raise ValueError(
                f"{', '.join(stray)}: asked about or refused, but not one of letters, "
                f"{self.letters!r}"
            )
        if self.which != "answered" and self.refuse is None:
            raise ValueError(f"which: {self.which} needs a letter to refuse, as in refuse: a")
        if self.correlated is not None and (self.refuse is None or self.which == "all"):
            raise ValueError(
                "correlated: takes a letter to refuse, as in refuse: a, and which: answered or refused"
            )
        if not set(operands) - {self.refuse}:
            raise ValueError("operands: none is left that must be answered")
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest}, longest only {self.longest}")
        if self.longest > len(self.letters) * self.most:
            raise ValueError(
                f"longest: {len(self.letters)} letters with at most {self.most} of each make no "
                f"string of {self.longest}"
            )
        return self
