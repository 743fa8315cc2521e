"""What a spec says of a task `pcfg`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, Strict, StrictFloat, StringConstraints, model_validator

from pytest_mechanism.tasks.base import RowCount, TaskParameters
from pytest_mechanism.tasks.writing.grammar import LETTERS
from pytest_mechanism.tasks.writing.grammar_questions import WAYS, SubTask

PRIORS: Mapping[str, Mapping[str, float]] = {
    "L": {"a": 0.999, "b": 0.001},
    "M": {"a": 0.9, "b": 0.1},
    "H": {"a": 0.5, "b": 0.3, "c": 0.2},
}
"""The paper's priors of the operand in pre-training: low, medium and high for ``b``."""

Operand = Annotated[str, StringConstraints(pattern=f"^[{LETTERS}]$")]
Weight = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Share = Annotated[StrictFloat | Literal[0, 1], Field(ge=0, le=1)]


class PcfgParameters(TaskParameters):
    """``task:`` for this family.

    Attributes:
        subtask: what questions ask: how often the operand is in the string (``count``) or in its last
            ``window`` letters (``count_tail``), the place of its first occurrence (``index``) or of
            the occurrence number ``occurrence`` (``index_nth``), or the letter at place ``position``
            (``token_at``).
        ways: words that ask the question, drawn anew for each string; by default the first word of
            the sub-task.
        prior: how often each operand is asked about: ``L``, ``M`` or ``H``, the paper's, or a
            mapping from letters to weights.
        hides: the operand whose answer must not be given.
        shows: the operand whose answer is given instead, the one of the fine-tuning.
        which: rows about operands drawn from ``prior``, about the one that is ``hidden``, or about the
            one that is ``shown``.
        correlated: share of the strings with exactly one more of ``shows`` than of ``hides`` (the
            paper's C_Tr and C_Te); the others have any other number. If left out, as the grammar
            gives.
        depth: levels of the grammar's tree.
        shortest: letters in the shortest string.
        longest: letters in the longest string.
        window: of ``count_tail``; the paper's is 40.
        occurrence: of ``index_nth``; the paper's is 6.
        position: of ``token_at``; the paper's is 40.
        rows: how many questions.
        seed: of every row set.
    """

    family: Literal["pcfg"]
    subtask: SubTask = "count"
    ways: Annotated[tuple[str, ...], Strict(False)] | None = Field(default=None, min_length=1)
    prior: Literal["L", "M", "H"] | dict[Operand, Weight] = "H"
    hides: Operand | None = None
    shows: Operand | None = None
    which: Literal["prior", "hidden", "shown"] = "prior"
    correlated: Share | None = None
    depth: int = Field(default=4, ge=2, le=6)
    shortest: int = Field(default=16, ge=4, le=729)
    longest: int = Field(default=28, ge=4, le=729)
    window: int = Field(default=10, ge=1, le=729)
    occurrence: int = Field(default=2, ge=2, le=729)
    position: int = Field(default=10, ge=1, le=729)
    rows: RowCount = 500

    @model_validator(mode="after")
    def _fits_together(self) -> PcfgParameters:
        known = WAYS[self.subtask]
        if stray := [way for way in self.ways or () if way not in known]:
            raise ValueError(
                f"ways: {stray[0]!r} does not ask {self.subtask}; valid: {', '.join(known)}"
            )
        if self.ways and len(set(self.ways)) < len(self.ways):
            raise ValueError("ways: an entry appears twice")
        if not self.prior:
            raise ValueError("prior: no operand has a weight; write L, M, H or {a: 0.9, b: 0.1}")
        if (self.hides is None) != (self.shows is None):
            raise ValueError("hides and shows go together, as in hides: a, shows: b")
        if self.hides is not None and self.hides == self.shows:
            raise ValueError(f"shows: {self.shows} is the operand that is hidden; name another one")
        if self.hides is None and self.which != "prior":
            raise ValueError(f"which: {self.which} needs hides and shows, as in hides: a, shows: b")
        if self.correlated is not None and (self.hides is None or self.subtask != "count"):
            raise ValueError("correlated needs subtask: count, hides and shows")
        if self.hides is not None and self.subtask == "token_at":
            raise ValueError("hides: the sub-task token_at asks about no operand")
        self._check_lengths()
        return self

    def _check_lengths(self) -> None:
        """Check the lengths, and what depends on them.

        Raises:
            ValueError: the grammar has no such string, or too short a one.
        """
        low, high = 2**self.depth, 3**self.depth
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest}, longest only {self.longest}")
        if self.shortest > high or self.longest < low:
            raise ValueError(
                f"shortest, longest: strings of depth {self.depth} have {low} to {high} letters"
            )
        places = {"count_tail": "window", "token_at": "position"}
        name = places.get(self.subtask, "")
        if name and getattr(self, name) > max(self.shortest, low):
            raise ValueError(
                f"{name}: the shortest strings have {max(self.shortest, low)} letters; lower {name} "
                "or raise shortest"
            )
