"""Prompts of your own, from a JSONL file beside the spec (`writing.prompt_lines` has the format).

    task: {family: jsonl, file: capitals.jsonl, rows: 200, seed: 0}

Half of the lines are for evaluation, a quarter for search and a quarter for selection
(`writing.parts`). The part of a line depends on the seed and the line, not on the order of the
file. Lines with the same prompt, whatever their sources, are one context of one part. A line whose
answer is not one token in every checkpoint of the run is dropped for all.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pytest_mechanism.errors import choices
from pytest_mechanism.tasks.base import Prompt, Row, Rows, Task, TaskParameters, Vocabulary
from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.text.vocabulary import RecordingVocabulary
from pytest_mechanism.tasks.writing.json_lines import check_line_count
from pytest_mechanism.tasks.writing.parts import RESAMPLE, Part, part_of_stream
from pytest_mechanism.tasks.writing.prompt_lines import LAST, Line, prompt_lines


class JsonlParameters(TaskParameters):
    """``task:`` for this family.

    Attributes:
        file: JSONL file of prompts, relative to the spec.
        chance: the accuracy of guessing; if left out, it follows from the lines' options, or from
            the most frequent answer.
        rows: how many lines are evaluated, at most half of the file.
        seed: decides which.
    """

    family: Literal["jsonl"]
    file: DataFile
    chance: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _has_enough_lines(self) -> JsonlParameters:
        check_line_count(self.rows, self.file, len(prompt_lines(self.file)), "lines")
        return self


class Jsonl(Task[JsonlParameters]):
    """Rows of a file; see the module."""

    family = "jsonl"
    parameters = JsonlParameters
    from_file = True

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        return prompt_lines(self.settings.file)

    @cached_property
    def positions(self) -> tuple[str, ...]:  # type: ignore[override]
        return (LAST, *(name for name in self.lines[0].base.spans if name != LAST))

    @cached_property
    def variables(self) -> tuple[str, ...]:  # type: ignore[override]
        """The variables that some line has a target for."""
        return tuple(dict.fromkeys(name for line in self.lines for name in line.targets))

    @property
    def chance(self) -> float:
        if self.settings.chance is not None:
            return self.settings.chance
        most = Counter(line.base.answer for line in self.lines).most_common(1)[0][1]
        constant = most / len(self.lines)  # of always naming the most frequent answer
        options = [len(line.base.options) for line in self.lines]
        if not all(options):
            return constant
        return max(constant, sum(1 / n for n in options) / len(options))

    @cached_property
    def edition(self) -> int:
        """1 where an answer follows its prompt without a space: all answers once had a space; 2 more where lines share
        a prompt: they once counted as independent."""
        words = (completion for line in self.lines for completion in line.completions)
        without_space = any(not prompt.joint_before(word) for prompt, word in words)
        return without_space + 2 * (len(self.digests) < len(self.lines))

    # -- which lines

    def usable_lines(self, vocabulary: Vocabulary) -> list[Line]:
        """The lines whose answers and targets are one token in every tokenizer, in an order of the
        seed's."""
        usable = [
            line
            for line in self.lines
            if all(vocabulary.answers(prompt, [word]) for prompt, word in line.completions)
        ]
        return sorted(usable, key=lambda line: (self.digests[line.base.text], self.digest(line)))

    def dropped_words(self, vocabulary: Vocabulary) -> str:
        """A sentence about the dropped lines and their words."""
        recording = RecordingVocabulary(vocabulary)
        dropped = len(self.lines) - len(self.usable_lines(recording))
        return f"{dropped:,} of {len(self.lines):,} lines, {recording}" if dropped else ""

    def digest(self, line: Line) -> str:
        source = line.source.text if line.source else ""
        text = f"{self.settings.seed}/{line.base.text}/{source}"
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """Prompt -> a digest that all of its lines share."""
        digests: dict[str, str] = {}
        for line in self.lines:
            digest = self.digest(line)
            digests[line.base.text] = min(digest, digests.get(line.base.text, digest))
        return digests

    def lines_of(self, vocabulary: Vocabulary, stream: str) -> list[Line]:
        """The lines that a stream draws from."""
        lines = self.usable_lines(vocabulary)
        half, rest = (whole_prompts(lines, end) for end in (len(lines) // 2, len(lines) * 3 // 4))
        parts: dict[Part, list[Line]] = {
            "evaluation": lines[:half],
            "search": lines[half:rest],
            "selection": lines[rest:],
        }
        return parts[part_of_stream(stream)]

    def draw(
        self, vocabulary: Vocabulary, count: int, stream: str, variable: str = ""
    ) -> list[Line]:
        """Lines of a stream, with a target for the variable if one is given. Lines for evaluation
        come once and always in the same order; others have an order of the stream's own, and repeat.

        Raises:
            TaskError: there are too few.
        """
        lines = self.lines_of(vocabulary, stream)
        if variable:
            lines = [line for line in lines if variable in line.targets]
        if part_of_stream(stream) == "evaluation":
            enough = len(lines) >= count
        else:
            enough = bool(lines)
            self.stream(stream).shuffle(lines)
        if not enough:
            dropped = len(self.lines) - len(self.usable_lines(vocabulary))
            why = f" ({dropped} are dropped: some tokenizer splits an answer)" if dropped else ""
            raise self.error(
                f"{count} lines are requested, but only {len(lines)} of {len(self.lines)} can be "
                f"used here{why}; lower rows or add lines"
            )
        return [lines[i % len(lines)] for i in range(count)]

    def row(self, line: Line, name: str, target: str, source: Prompt | None) -> Row:
        cluster = line.cluster if line.cluster is not None else self.digests[line.base.text][:16]
        return Row(name, cluster, line.base, source, target)

    # -- row sets

    def rows(self, vocabulary: Vocabulary, count: int, stream: str = "rows") -> Rows:
        lines = enumerate(self.draw(vocabulary, count, stream))
        return [self.row(line, f"{stream}-{i}", line.base.answer, None) for i, line in lines]

    def pairs(self, vocabulary: Vocabulary, count: int, stream: str = "pairs") -> Rows:
        """Prompts with their sources."""
        if self.lines[0].source is None:
            raise self.unsupported("source beside its prompts")
        lines = enumerate(self.draw(vocabulary, count, stream))
        return [self.row(x, f"{stream}-{i}", x.base.answer, x.source) for i, x in lines]

    def interchange(self, vocabulary: Vocabulary, variable: str, count: int, stream: str) -> Rows:
        """Lines that have a target for the variable."""
        if variable not in self.variables:
            raise self.error(
                f"no line has a target for {variable!r}; {choices(variable, self.variables)}"
            )
        lines = enumerate(self.draw(vocabulary, count, stream, variable))
        return [self.row(x, f"{stream}-{i}", x.targets[variable], x.source) for i, x in lines]

    def backgrounds(self, vocabulary: Vocabulary, count: int, stream: str = "ablation") -> Rows:
        """Prompts that are not evaluated. A mean takes each of them once, so there may be fewer."""
        if stream != RESAMPLE:
            count = min(count, len(self.lines_of(vocabulary, stream)))
        return self.rows(vocabulary, count, stream)


def whole_prompts(lines: list[Line], end: int) -> int:
    """Where a part ends that would end here: all lines of a prompt are in the same part."""
    while 0 < end < len(lines) and lines[end].base.text == lines[end - 1].base.text:
        end += 1
    return end
