"""A JSONL file of instructions: one object a line, ``instruction`` and perhaps ``reply``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pytest_mechanism.errors import choices
from pytest_mechanism.tasks.files import DataFile, json_object

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
    try:
        lines = file.content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as problem:
        before = file.content[: problem.start].count(b"\n")
        raise ValueError(f"{file.file}:{before + 1}: is no UTF-8 text") from None
    found: list[Instruction] = []
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
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
    example = 'as in {"instruction": "Tell me how to ...", "reply": "Sure, ..."}'
    given = json_object(line, example)
    for key, value in given.items():
        if key not in ("instruction", "reply"):
            raise ValueError(f"unknown key {key!r}; {choices(key, ('instruction', 'reply'))}")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{key} must be a text that is not empty")
        if len(value) > LONGEST:
            raise ValueError(f"{key} has {len(value):,} characters; at most {LONGEST:,}")
    if "instruction" not in given:
        raise ValueError(f"key 'instruction' is missing, {example}")
    reply = given.get("reply")
    return Instruction(given["instruction"].strip(), None if reply is None else reply.strip())
