"""A JSONL file of instructions: one object a line, ``instruction`` and perhaps ``reply``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.writing.json_lines import json_object, said, text_lines

EXAMPLE = '{"instruction": "Tell me how to ...", "reply": "Sure, ..."}'

LONGEST = 20_000
"""Characters of an instruction or a reply; what is longer was pasted in by mistake."""


@dataclass(frozen=True)
class Instruction:
    """A line of a file.

    Attributes:
        text: what a user asks for.
        reply: an answer that complies, or None where the file has none.
    """

    text: str
    reply: str | None

    @property
    def folded(self) -> str:
        """Equal for instructions that differ in case and spaces alone."""
        return " ".join(self.text.casefold().split())


def instructions(file: DataFile) -> tuple[Instruction, ...]:
    """The lines of a file.

    Raises:
        ValueError: a line is no instruction, or stands there twice; with file and line.
    """
    return _instructions(file.sha256, file)


@lru_cache(maxsize=16)
def _instructions(sha256: str, file: DataFile) -> tuple[Instruction, ...]:
    found: list[Instruction] = []
    first: dict[str, int] = {}
    for number, line in text_lines(file):
        try:
            one = instruction(line)
            if one.folded in first:
                raise ValueError(f"the same instruction as in line {first[one.folded]}")
            if found and (one.reply is None) != (found[0].reply is None):
                raise ValueError("a reply stands in every line or in none, which is not so here")
        except ValueError as problem:
            raise ValueError(f"{file.file}:{number}: {problem}") from None
        first[one.folded] = number
        found.append(one)
    return tuple(found)


def instruction(line: str) -> Instruction:
    """One line of JSON.

    Raises:
        ValueError: what is wrong with it.
    """
    given = json_object(line, ("instruction", "reply"), ("instruction",), EXAMPLE)
    text, reply = said(given, "instruction"), said(given, "reply")
    if text is None:
        raise ValueError("instruction must be a text that is not empty")
    for key, value in given.items():
        if len(value or "") > LONGEST:
            raise ValueError(f"{key} has {len(value):,} characters; at most {LONGEST:,}")
    return Instruction(text.strip(), None if reply is None else reply.strip())
