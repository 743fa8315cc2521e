"""Prompts of your own, from a JSONL file beside the spec (`tasks.lines` has the format).

    task: {family: jsonl, file: capitals.jsonl, rows: 200, seed: 0}

One half of the lines is judged on, a quarter is what heads are ranked on, masks are trained on and
means are taken over, a quarter is what they are chosen on. Which line falls where depends on the seed
and on the line, not on the order of the file. A line whose answer is not one token for every
checkpoint of the run is left out for all of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal, cast

from pydantic import Field, model_validator

from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.tasks.base import Row, Task, TaskParameters, Vocabulary
from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.text.left_out import Tally
from pytest_mechanism.tasks.writing.json_lines import too_few
from pytest_mechanism.tasks.writing.lines import LAST, Line, lines
from pytest_mechanism.tasks.writing.parts import JUDGED, part_of_stream


class JsonlParameters(TaskParameters):
    """``task:`` for this family.

    Attributes:
        file: JSONL file of prompts, relative to the spec.
        chance: accuracy of guessing; taken from the lines' options, or from the most frequent
            answer, if left out.
        rows: how many lines are judged on, at most half of the file.
        seed: decides which.
    """

    family: Literal["jsonl"]
    file: DataFile
    chance: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = None
    rows: int = Field(default=200, ge=20, le=100_000)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)

    @model_validator(mode="after")
    def enough(self) -> JsonlParameters:
        there = len(lines(self.file))
        if there // 2 < self.rows:
            raise ValueError(too_few(self.rows, there, self.file, "lines"))
        return self


def follows(vocabulary: Vocabulary, line: Line) -> bool:
    """Whether every tokenizer writes every answer of a line as one token of its own."""
    return all(vocabulary.answers(prompt, [word]) for prompt, word in line.said)


class Jsonl(Task):
    """Rows of a file. See the module for what is judged on."""

    family = "jsonl"
    parameters = JsonlParameters
    from_file = True

    @property
    def given(self) -> JsonlParameters:
        return cast("JsonlParameters", self.settings)

    @cached_property
    def all(self) -> tuple[Line, ...]:
        return lines(self.given.file)

    @cached_property
    def positions(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the lines, the same in each."""
        return (LAST, *(name for name in self.all[0].base.spans if name != LAST))

    @cached_property
    def variables(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those that some line has a target for."""
        return tuple(dict.fromkeys(name for line in self.all for name in line.targets))

    @property
    def chance(self) -> float:
        if self.given.chance is not None:
            return self.given.chance
        most = Counter(line.base.answer for line in self.all).most_common(1)[0][1]
        constant = most / len(self.all)  # whoever always says the most frequent answer
        options = [len(line.base.options) for line in self.all]
        if not all(options):
            return constant
        return max(constant, sum(1 / n for n in options) / len(options))

    # -- which lines

    def kept(self, vocabulary: Vocabulary) -> list[Line]:
        """Lines whose answers are one token each for everybody, in an order of the seed's."""
        found = [line for line in self.all if follows(vocabulary, line)]
        return sorted(found, key=self.digest)

    @cached_property
    def edition(self) -> int:
        """1 where an answer follows its prompt at once: all once followed after a space."""
        return int(any(not prompt.lead(word) for line in self.all for prompt, word in line.said))

    def left_out(self, vocabulary: Vocabulary) -> str:
        """Lines and their words."""
        tally = Tally(vocabulary)
        gone = len(self.all) - len(self.kept(tally))
        return f"{gone:,} of {len(self.all):,} lines, {tally}" if gone else ""

    def digest(self, line: Line) -> str:
        about = f"{self.given.seed}/{line.base.text}/{line.source.text if line.source else ''}"
        return hashlib.sha256(about.encode()).hexdigest()

    def part(self, vocabulary: Vocabulary, stream: str) -> list[Line]:
        """The lines that a stream draws from."""
        there = self.kept(vocabulary)
        half, rest = len(there) // 2, len(there) * 3 // 4
        parts = {"judged": there[:half], "found": there[half:rest], "chosen": there[rest:]}
        return parts[part_of_stream(stream)]

    def drawn(
        self, vocabulary: Vocabulary, count: int, stream: str, usable: str = ""
    ) -> list[Line]:
        """Lines of a stream: judged ones come once and in one order, others in an order of the
        stream's, and again when all were there.

        Raises:
            MechanismError: there are too few.
        """
        part = self.part(vocabulary, stream)
        if usable:
            part = [line for line in part if usable in line.targets]
        if stream in JUDGED:
            enough = len(part) >= count
        else:
            enough = bool(part)
            self.stream(stream).shuffle(part)
        if not enough:
            left_out = len(self.all) - len(self.kept(vocabulary))
            why = (
                f" ({left_out} are left out: an answer is not one token for every tokenizer)"
                if left_out
                else ""
            )
            raise MechanismError(
                f"task jsonl: {count} lines are asked for, {len(part)} of {len(self.all)} can be "
                f"used here{why}; lower rows or add lines"
            )
        return [part[i % len(part)] for i in range(count)]

    def row(self, line: Line, stream: str, i: int, target: str, source: bool) -> Row:
        cluster = line.cluster if line.cluster is not None else self.digest(line)[:16]
        return Row(f"{stream}-{i}", cluster, line.base, line.source if source else None, target)

    # -- rows

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Sequence[Row]:
        found = self.drawn(vocabulary, count, stream)
        return [self.row(x, stream, i, x.base.answer, source=False) for i, x in enumerate(found)]

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Sequence[Row]:
        """Prompts beside their sources.

        Raises:
            MechanismError: the lines have none.
        """
        if self.all[0].source is None:
            raise self.has_no("source beside its prompts")
        found = self.drawn(vocabulary, count, stream)
        return [self.row(x, stream, i, x.base.answer, source=True) for i, x in enumerate(found)]

    def interchange(
        self, vocabulary: Vocabulary, variable: str, count: int, stream: str
    ) -> Sequence[Row]:
        """Lines that have a target for the variable.

        Raises:
            MechanismError: no line has one.
        """
        if variable not in self.variables:
            raise MechanismError(
                f"task jsonl: no line has a target for {variable!r}; "
                f"{choices(variable, self.variables)}"
            )
        found = self.drawn(vocabulary, count, stream, usable=variable)
        return [self.row(x, stream, i, x.targets[variable], True) for i, x in enumerate(found)]

    def backgrounds(
        self, vocabulary: Vocabulary, count: int, stream: str = "ablation"
    ) -> Sequence[Row]:
        """Prompts that are not judged on. A mean has each of them once, so there may be fewer."""
        there = count if stream == "resample" else len(self.part(vocabulary, stream))
        return self.rows(vocabulary, min(count, there), stream)
