"""Lists of words in a spec: written out, as a table, from a file, or a built-in list by its name.

words:
  animal: [cat, dog, owl]                        # words
  country: {France: {capital: Paris}, ...}       # words, and the columns of a table
  drink: {file: drinks.txt}                      # one word a line, or JSONL with "word" and columns
  name: names                                    # a built-in list
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializationInfo, model_serializer, model_validator

from pytest_mechanism.errors import choices
from pytest_mechanism.tasks.files import DataFile
from pytest_mechanism.tasks.writing import words
from pytest_mechanism.tasks.writing.json_lines import at_line, json_object, text_lines, text_of
from pytest_mechanism.tasks.writing.patterns import is_name

BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "events": words.EVENTS,
    "gifts": words.GIFTS,
    "labels": words.LABELS,
    "letters": words.LETTERS,
    "names": words.NAMES,
    "numbers": words.NUMBERS,
    "objects": words.OBJECTS,
    "places": words.PLACES,
}
"""Lists that a spec can name."""

Table = Mapping[str, Mapping[str, str]]
"""Word -> column -> word; a plain list has no columns."""

MAX_LENGTH = 1_000
"""Letters of a word."""

MAX_WORDS = 20_000
"""Words in a list."""

EXAMPLE = "as in [cat, dog], {France: {capital: Paris}}, {file: words.txt} or names"


def plain_table(column: Sequence[str]) -> Table:
    """Words without columns."""
    return {word: {} for word in column}


def _describe_yaml(schema: dict[str, Any]) -> None:
    """Turn the JSON Schema into that of the YAML forms."""
    schema.clear()
    row = {"type": "object", "additionalProperties": {"type": "string"}}
    schema.update(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                {"type": "string", "enum": sorted(BUILT_IN)},
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
    """A list of words; see the module for the YAML forms.

    Attributes:
        built_in: the name of a built-in list.
        file: the file with the words.
        words: the words themselves, where they are written out.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_extra=_describe_yaml
    )

    built_in: str = ""
    file: DataFile | None = None
    words: dict[str, dict[str, str]] = {}

    @property
    def table(self) -> Table:
        """The words with their columns."""
        if self.built_in:
            return plain_table(BUILT_IN[self.built_in])
        return _read_file(self.file) if self.file else self.words

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table."""
        return tuple(next(iter(self.table.values())))

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """Read one of the YAML forms."""
        if isinstance(value, str):
            if value not in BUILT_IN:
                raise ValueError(f"no list {value!r}; {choices(value, BUILT_IN)}, or {EXAMPLE}")
            return {"built_in": value}
        if isinstance(value, list | tuple):
            for number, word in enumerate(value, 1):
                check_word(word, f"word {number}")
            return {"words": unique_words([(word, {}) for word in value])}
        if not isinstance(value, dict) or not value:
            raise ValueError(f"takes words, {EXAMPLE}")
        if {*value} <= {"file", "sha256"} and all(isinstance(v, str) for v in value.values()):
            return {"file": value}
        for word, row in value.items():
            check_word(word, "a word of the table")
            if not isinstance(row, dict):
                raise ValueError(f"{word}: takes columns, as in {word}: {{capital: Paris}}")  # noqa: TRY004
            for column, cell in row.items():
                check_word(cell, f"{word}.{column}")
        return {"words": unique_words(list(value.items()))}

    @model_validator(mode="after")
    def _has_words(self) -> WordList:
        """Read the file, too."""
        if not self.table:
            raise ValueError("holds no word")
        return self

    @model_serializer(mode="plain")
    def _plain(self, info: SerializationInfo) -> Any:
        """As in YAML."""
        if self.built_in:
            return self.built_in
        if self.file:
            return self.file.model_dump(mode="json", context=info.context)
        return dict(self.words) if self.columns else list(self.words)


def check_word(word: Any, what: str) -> None:
    """Check that a word is a text without space around it."""
    if not isinstance(word, str):
        raise ValueError(f"{what} is {word!r}, which YAML does not read as text; put it in quotes")  # noqa: TRY004
    if len(word) > MAX_LENGTH:
        raise ValueError(f"{what} has {len(word):,} letters; a word has at most {MAX_LENGTH:,}")
    if not word.strip() or word != word.strip() or not word.isprintable():
        raise ValueError(f"{what} is {word[:40]!r}; a word is a text without space around it")


def unique_words(rows: list[tuple[str, Mapping[str, str]]]) -> dict[str, dict[str, str]]:
    """A table of words with their columns, the same for every word."""
    if len(rows) > MAX_WORDS:
        raise ValueError(f"{len(rows):,} words; a list has at most {MAX_WORDS:,}")
    columns = rows[0][1] if rows else {}
    table: dict[str, dict[str, str]] = {}
    for word, row in rows:
        if word in table:
            raise ValueError(f"{word!r} appears twice")
        if {*row} != {*columns}:
            raise ValueError(
                f"{word!r} has the columns {', '.join(row) or 'none'}, {rows[0][0]!r} has "
                f"{', '.join(columns) or 'none'}; every word has the same"
            )
        table[word] = {column: row[column] for column in columns}
    return table


@lru_cache(maxsize=64)
def _read_file(file: DataFile) -> Table:
    """The words of a file: one a line, or one JSON object a line."""
    rows: list[tuple[str, Mapping[str, str]]] = []
    known: set[str] = set()
    for number, line in text_lines(file):
        with at_line(file, number):
            word, row = _parse_line(line)
            if word in known:
                raise ValueError(f"{word!r} appears twice")
            if len(rows) == MAX_WORDS:
                raise ValueError(f"has more than {MAX_WORDS:,} words")
            unique_words([*rows[:1], (word, row)])
        known.add(word)
        rows.append((word, row))
    return unique_words(rows)


def _parse_line(line: str) -> tuple[str, Mapping[str, str]]:
    """A word and its columns."""
    if not line.startswith("{"):
        check_word(line, "a line")
        return line, {}
    keys = json_object(line, None, ["word"], '{"word": "France", "capital": "Paris"}')
    row = {key: text_of(keys, key) or "" for key in keys}
    if "" in row.values():
        raise ValueError("null is not a word")
    if bad := [key for key in row if not is_name(key)]:
        raise ValueError(f"key {bad[0]!r}: use letters, digits and '_'")
    return row.pop("word"), row
