"""JSONL files of instructions: one object a line, ``instruction`` and perhaps ``reply``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.writing.json_lines import at_line, json_object, text_lines, text_of

EXAMPLE = '{"instruction": "Tell me how to ...", "reply": "Sure, ..."}'

MAX_LENGTH = 20_000
"""Characters of an instruction or a reply; a longer one was pasted in by mistake."""


@dataclass(frozen=True)
class Instruction:
    """What a user asks for, and an answer that complies, or None where the file has none."""

    text: str
    reply: str | None

    @property
    def folded(self) -> str:
        """Equal for instructions that differ only in case and spaces."""
        return " ".join(self.text.casefold().split())


@lru_cache(maxsize=16)
def instructions(file: DataFile) -> tuple[Instruction, ...]:
    """The instructions of a file.

    Raises:
        ValueError: a line is no instruction, or repeats one; with file and line.
    """
    lines: list[Instruction] = []
    numbers: dict[str, int] = {}
    for number, text in text_lines(file):
        with at_line(file, number):
            line = parse_instruction(text)
            if line.folded in numbers:
                raise ValueError(f"the same instruction as in line {numbers[line.folded]}")
            if lines and (line.reply is None) != (lines[0].reply is None):
                raise ValueError(
                    "some lines have a reply and some have none; give one to all or to none"
                )
        numbers[line.folded] = number
        lines.append(line)
    return tuple(lines)


def parse_instruction(line: str) -> Instruction:
    """Read a line; a ValueError says what is wrong with it."""
    keys = json_object(line, ("instruction", "reply"), ("instruction",), EXAMPLE)
    text, reply = text_of(keys, "instruction"), text_of(keys, "reply")
    if text is None:
        raise ValueError("instruction must be a text that is not empty")
    for key, value in keys.items():
        if len(value or "") > MAX_LENGTH:
            raise ValueError(f"{key} has {len(value):,} characters; at most {MAX_LENGTH:,}")
    return Instruction(text.strip(), None if reply is None else reply.strip())
