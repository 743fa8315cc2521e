"""Texts with slots, as a spec writes them.

    When {IO} and {S1} [[S1_next:went]] to the {place}, {S1:S2} gave a drink to

``{slot}`` is a word of the prompt, and its first occurrence is a position with the slot's name.
``{slot:name}`` names that occurrence as well. ``{slot.column}`` is a column of the word's table.
``[[name:text]]`` names a place of the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from pytest_mechanism.errors import choices
from pytest_mechanism.tasks.text.joints import last_span
from pytest_mechanism.tasks.text.prompt import TextBuilder

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
PIECE = re.compile(rf"\{{([^{{}}]*)\}}|\[\[({NAME}):([^\[\]]*)\]\]")
REFERENCE = re.compile(rf"(?:(source)\.)?({NAME})(?:\.({NAME}))?(?::({NAME}))?")

ANSWER = "answer"
RESERVED = ("last", "source", ANSWER)
"""Reserved names."""

EXAMPLE = "a slot is {A}, {A:position} or {A.column}"

Columns = Mapping[str, tuple[str, ...]]
"""Slot, or named occurrence of one -> the columns of its table."""


def is_name(text: str) -> bool:
    """Whether a text can name a slot, a column or a position."""
    return re.fullmatch(NAME, text) is not None


@dataclass(frozen=True)
class Word:
    """A fixed word, or the word of a slot.

    Attributes:
        text: the fixed word; empty for a slot.
        slot: a slot, a named occurrence of one, or ``answer``.
        column: the column of the slot's table; empty for the word itself.
        source: whether it is the word of the source prompt.
    """

    text: str = ""
    slot: str = ""
    column: str = ""
    source: bool = False

    @property
    def is_answer(self) -> bool:
        return self.slot == ANSWER

    @property
    def written(self) -> str:
        """As in a spec."""
        if not self.slot:
            return self.text
        parts = ("source" if self.source else "", self.slot, self.column)
        return "{" + ".".join(filter(None, parts)) + "}"


@dataclass(frozen=True)
class Piece:
    """A text, or an occurrence of a slot (``word``), and the positions that it is."""

    text: str = ""
    word: Word | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pattern:
    """A text with slots, in pieces."""

    pieces: tuple[Piece, ...]

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """The slots in the order of their first occurrences."""
        return tuple(dict.fromkeys(p.word.slot for p in self.pieces if p.word))

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for piece in self.pieces for name in piece.names)

    @property
    def ending(self) -> str:
        return "".join("x" if piece.word else piece.text for piece in self.pieces)

    @cached_property
    def occurrences(self) -> Mapping[str, Word]:
        """Named occurrence -> its slot, without the slots' own names."""
        return {
            name: piece.word
            for piece in self.pieces
            if piece.word
            for name in piece.names
            if name != piece.word.slot
        }

    def write(
        self, write_word: Callable[[Word, tuple[str, ...]], str], split: Callable[[str], bool]
    ) -> TextBuilder:
        """The text, its positions, and an anchor at each word.

        Where a slot's words may be of several tokens (``split``), the text after the word has an
        anchor of its own, which aligns it again.
        """
        builder = TextBuilder()
        for piece in self.pieces:
            if piece.word is None:
                builder.add(piece.text, *piece.names)
                continue
            builder.anchor(f"word_{len(builder.anchors)}")
            builder.add(write_word(piece.word, piece.names), *piece.names)
            if split(piece.word.slot):
                builder.anchor(f"word_{len(builder.anchors)}")
        builder.spans["last"] = (last_span(builder.text),)
        return builder


def parse_pattern(text: str, columns: Columns) -> Pattern:  # noqa: C901 - one decision, read from top to bottom
    """Read a text with slots; a ValueError says what is wrong with it."""
    if not text.strip():
        raise ValueError("must be a text that is not empty")
    if text != text.strip(" "):
        raise ValueError("begins or ends with a space; the one before the answer belongs to it")
    pieces: list[Piece] = []
    names: set[str] = set()
    end = 0

    def add_text(piece: str) -> None:
        if stray := re.search(r"[{}]|\[\[|\]\]", piece):
            raise ValueError(f"{stray[0]!r} is unpaired; {EXAMPLE}, a marked place [[name:text]]")
        if piece:
            pieces.append(Piece(piece))

    def add_name(name: str) -> None:
        if name in RESERVED:
            raise ValueError(f"position {name!r} has a meaning of its own; choose another name")
        if name in columns:
            raise ValueError(f"position {name!r} is the name of a slot; choose another name")
        if name in names:
            raise ValueError(f"position {name!r} is named twice")
        names.add(name)

    for match in PIECE.finditer(text):
        add_text(text[end : match.start()])
        end = match.end()
        reference, place, place_text = match.groups()
        if reference is None:
            add_name(place)
            if not place_text.strip():
                raise ValueError(f"position {place!r} marks nothing")
            pieces.append(Piece(place_text, names=(place,)))
            continue
        word, name = parse_reference(reference, columns)
        if word.source or word.is_answer:
            raise ValueError(f"{match[0]} has no meaning in a text; {EXAMPLE}")
        if name:
            add_name(name)
        own = () if word.slot in names else (word.slot,)
        names.add(word.slot)
        pieces.append(Piece(word=word, names=(*own, *filter(None, [name]))))
    add_text(text[end:])
    return Pattern(tuple(pieces))


def parse_reference(inside: str, columns: Columns) -> tuple[Word, str]:
    """Read the content of braces: a word, and the name of its occurrence or nothing."""
    match = REFERENCE.fullmatch(inside)
    if match is None:
        raise ValueError(f"{{{inside}}} is not a slot; {EXAMPLE}")
    source, slot, column, name = match.groups()
    if slot in (ANSWER, "source"):
        if column or name:
            raise ValueError(f"{{{inside}}}: write {{source.answer}} or {{source.slot.column}}")
    elif slot not in columns:
        raise ValueError(f"unknown slot {slot!r}; {choices(slot, columns)}")
    elif column and column not in columns[slot]:
        raise ValueError(f"slot {slot} has no column {column!r}; {choices(column, columns[slot])}")
    return Word(slot=slot, column=column or "", source=bool(source)), name or ""


def parse_word(text: str, columns: Columns, source: bool = False) -> Word:
    """Read one word: a fixed one, or ``{slot}``.

    ``source`` is whether ``{source.slot}`` has a meaning here. A ValueError says what is wrong.
    """
    text = text.strip()
    if not set(text) & {"{", "}"}:
        if not text:
            raise ValueError("must be a word, or {slot}")
        return Word(text)
    if not re.fullmatch(r"\{[^{}]*\}", text):
        raise ValueError(f"{text!r} must be one word, or one {{slot}}")
    word, name = parse_reference(text[1:-1], columns)
    if name or (word.source and not source) or word.slot == "source":
        raise ValueError(f"{text} has no meaning here; a word of the prompt is {{slot}}")
    return word
