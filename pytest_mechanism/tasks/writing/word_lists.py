"""Lists of words in a spec: written out, in a table, from a file, or one of ours by its name.

words:
  animal: [cat, dog, owl]                        # words
  country: {France: {capital: Paris}, ...}       # words, and what a table says of each
  drink: {file: drinks.txt}                      # one word a line, or JSONL with "word" and columns
  name: names                                    # one of ours
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializationInfo,
    model_serializer,
    model_validator,
)

from pytest_mechanism.errors import choices
from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.writing.json_lines import json_object, said, text_lines
from pytest_mechanism.tasks.writing.patterns import NAME
from pytest_mechanism.tasks.writing.words import (
    EVENTS,
    GIFTS,
    LABELS,
    LETTERS,
    NAMES,
    NUMBERS,
    OBJECTS,
    PLACES,
)

OURS: Mapping[str, tuple[str, ...]] = {
    "events": EVENTS,
    "gifts": GIFTS,
    "labels": LABELS,
    "letters": LETTERS,
    "names": NAMES,
    "numbers": NUMBERS,
    "objects": OBJECTS,
    "places": PLACES,
}
"""Lists that a spec can name."""

Table = Mapping[str, Mapping[str, str]]
"""Word -> column -> word; a plain list has no columns."""

NAMED = re.compile(NAME)

LONGEST = 1_000
"""Letters of a word."""

MOST = 20_000
"""Words in a list."""

EXAMPLE = "as in [cat, dog], {France: {capital: Paris}}, {file: words.txt} or names"


def as_written(schema: dict[str, Any]) -> None:
    """JSON Schema of what YAML may say."""
    schema.clear()
    row = {"type": "object", "additionalProperties": {"type": "string"}}
    schema.update(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                {"type": "string", "enum": sorted(OURS)},
                {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {"file": {"type": "string"}, "sha256": {"type": "string"}},
                },
                {"type": "object", "additionalProperties": row, "minProperties": 1},
            ]
        }
    )


class WordList(BaseModel):
    """A list of words. See the module for what YAML may say.

    Attributes:
        ours: the name of one of our lists.
        file: where the words are.
        given: the words themselves, where they are written out.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_extra=as_written
    )

    ours: str = ""
    file: DataFile | None = None
    given: dict[str, dict[str, str]] = {}

    @property
    def table(self) -> Table:
        """The words, each once, with their columns."""
        if self.ours:
            return {word: {} for word in OURS[self.ours]}
        return in_file(self.file.sha256, self.file) if self.file else self.given

    @property
    def columns(self) -> tuple[str, ...]:
        """What the table says of each word."""
        return tuple(next(iter(self.table.values())))

    @model_validator(mode="before")
    @classmethod
    def read(cls, value: Any) -> Any:
        """One of the four ways to say it.

        Raises:
            ValueError: none of them, or words that cannot be meant.
        """
        if isinstance(value, str):
            if value not in OURS:
                raise ValueError(f"no list {value!r}; {choices(value, OURS)}, or {EXAMPLE}")
            return {"ours": value}
        if isinstance(value, list | tuple):
            for number, word in enumerate(value, 1):
                check(word, f"word {number}")
            return {"given": unique([(word, {}) for word in value])}
        if not isinstance(value, dict) or not value:
            raise ValueError(f"takes words, {EXAMPLE}")
        if {*value} <= {"file", "sha256"} and all(isinstance(v, str) for v in value.values()):
            return {"file": value}
        for word, row in value.items():
            check(word, "a word of the table")
            if not isinstance(row, dict):
                raise ValueError(f"{word}: takes columns, as in {word}: {{capital: Paris}}")  # noqa: TRY004
            for column, cell in row.items():
                check(cell, f"{word}.{column}")
        return {"given": unique(list(value.items()))}

    @model_validator(mode="after")
    def readable(self) -> WordList:
        """The file's lines can be read.

        Raises:
            ValueError: not so, with file and line.
        """
        if not self.table:
            raise ValueError("holds no word")
        return self

    @model_serializer(mode="plain")
    def plain(self, info: SerializationInfo) -> Any:
        """As in YAML."""
        if self.ours:
            return self.ours
        if self.file:
            return self.file.model_dump(mode="json", context=info.context)
        return dict(self.given) if self.columns else list(self.given)


def check(word: Any, what: str) -> None:
    """A word is a text.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(word, str):
        raise ValueError(f"{what} is {word!r}, which YAML reads as no text; put it in quotes")  # noqa: TRY004
    if len(word) > LONGEST:
        raise ValueError(f"{what} has {len(word):,} letters; at most {LONGEST} can be meant")
    if not word.strip() or word != word.strip() or not word.isprintable():
        raise ValueError(f"{what} is {word[:40]!r}; a word is a text without space around it")


def unique(rows: list[tuple[str, Mapping[str, str]]]) -> dict[str, dict[str, str]]:
    """The words with their columns.

    Raises:
        ValueError: a word stands twice, the columns differ, or there are too many words.
    """
    found: dict[str, dict[str, str]] = {}
    if len(rows) > MOST:
        raise ValueError(f"{len(rows):,} words; at most {MOST:,} can be meant")
    for word, row in rows:
        if word in found:
            raise ValueError(f"{word!r} stands twice")
        if {*row} != {*rows[0][1]}:
            raise ValueError(
                f"{word!r} has the columns {', '.join(row) or 'none'}, {rows[0][0]!r} has "
                f"{', '.join(rows[0][1]) or 'none'}; every word has the same"
            )
        found[word] = {column: row[column] for column in rows[0][1]}
    return found


@lru_cache(maxsize=64)
def in_file(sha256: str, file: DataFile) -> Table:
    """The words of a file: one a line, or one JSON object a line.

    Raises:
        ValueError: a line that cannot be meant; with file and line.
    """
    example = '{"word": "France", "capital": "Paris"}'
    rows: list[tuple[str, Mapping[str, str]]] = []
    for number, line in text_lines(file):
        try:
            if not line.startswith("{"):
                check(line, "a line")
                row = {"word": line}
            else:
                given = json_object(line, None, ["word"], example)
                row = {key: said(given, key) or "" for key in given}
                if "" in row.values():
                    raise ValueError("null is no word")
                if bad := [key for key in row if not NAMED.fullmatch(key)]:
                    raise ValueError(f"key {bad[0]!r}: use letters, digits and '_'")
            word = row.pop("word")
            rows.append((word, row))
            if len(rows) > MOST:
                raise ValueError(f"has more than {MOST:,} words")
            if len(rows) > 1:
                unique([rows[0], rows[-1]])
        except ValueError as problem:
            raise ValueError(f"{file.file}:{number}: {problem}") from None
    try:
        return unique(rows)
    except ValueError as problem:
        raise ValueError(f"{file.file}: {problem}") from None
