"""Texts with slots.

    When {IO} and {S1} [[S1_next:went]] to the {place}, {S1:S2} gave a drink to

``{slot}`` is a word of the prompt, and its first occurrence is a position of the slot's own name.
``{slot:name}`` names that occurrence as well. ``{slot.column}`` is what a table says of the word.
``[[name:text]]`` names a place of the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from pytest_mechanism.errors import choices
from pytest_mechanism.tasks.base import Span
from pytest_mechanism.tasks.text.joints import last_of

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
PIECE = re.compile(rf"\{{([^{{}}]*)\}}|\[\[({NAME}):([^\[\]]*)\]\]")
REFERENCE = re.compile(rf"(?:(source)\.)?({NAME})(?:\.({NAME}))?(?::({NAME}))?")

RESERVED = ("last", "source", "answer")
"""Names with a meaning of their own."""

EXAMPLE = "a slot is {A}, {A:position} or {A.column}"


@dataclass(frozen=True)
class Word:
    """A word as it is, or what stands in a slot.

    Attributes:
        text: the word as it is; empty where a slot is meant.
        slot: a slot, a named occurrence of one, or ``answer``.
        column: what a table says of the slot's word; empty for the word itself.
        source: whether the source prompt is meant.
    """

    text: str = ""
    slot: str = ""
    column: str = ""
    source: bool = False

    @property
    def written(self) -> str:
        """As in a spec."""
        if not self.slot:
            return self.text
        parts = ("source" if self.source else "", self.slot, self.column)
        return "{" + ".".join(filter(None, parts)) + "}"


@dataclass(frozen=True)
class Piece:
    """Text, or an occurrence of a slot.

    Attributes:
        text: what it says; empty for a slot.
        word: the slot's.
        names: positions that it is.
    """

    text: str = ""
    word: Word | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pattern:
    """A text with slots, in pieces."""

    pieces: tuple[Piece, ...]

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """In order of their first occurrences."""
        return tuple(dict.fromkeys(p.word.slot for p in self.pieces if p.word))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Positions, in the order of the text."""
        return tuple(name for piece in self.pieces for name in piece.names)

    @property
    def ending(self) -> str:
        """The text up to its end, with a letter for each slot."""
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
        self, say: Callable[[Word, tuple[str, ...]], str], split: Callable[[str], bool]
    ) -> tuple[str, dict[str, tuple[Span, ...]], list[tuple[str, int]]]:
        """The text, its positions, and an anchor at each word.

        Args:
            say: what stands at an occurrence, by its slot and names.
            split: whether a slot's words may be of several tokens; what follows then has an
                anchor of its own, so that it is aligned again.
        """
        text = ""
        spans: dict[str, tuple[Span, ...]] = {}
        anchors: list[tuple[str, int]] = []
        for piece in self.pieces:
            start = len(text)
            text += say(piece.word, piece.names) if piece.word else piece.text
            for name in piece.names:
                spans[name] = ((start, len(text)),)
            if piece.word:
                anchors.append((f"word_{len(anchors)}", start))
                if split(piece.word.slot):
                    anchors.append((f"word_{len(anchors)}", len(text)))
        spans["last"] = (last_of(text),)
        return text, spans, anchors


def parse_pattern(text: str, columns: Mapping[str, tuple[str, ...]]) -> Pattern:
    """A text with slots.

    Args:
        text: as in a spec.
        columns: slot -> the columns of its table.

    Raises:
        ValueError: what is wrong with it.
    """
    if not text.strip():
        raise ValueError("must be a text that is not empty")
    if text != text.strip(" "):
        raise ValueError("begins or ends with a space; the one before the answer belongs to it")
    pieces: list[Piece] = []
    seen: set[str] = set()
    at = 0

    def literal(piece: str) -> None:
        if stray := re.search(r"[{}]|\[\[|\]\]", piece):
            raise ValueError(f"{stray[0]!r} stands alone; {EXAMPLE}, a marked place [[name:text]]")
        if piece:
            pieces.append(Piece(piece))

    def named(name: str) -> None:
        if name in RESERVED:
            raise ValueError(f"position {name!r} has a meaning of its own; choose another name")
        if name in columns:
            raise ValueError(f"position {name!r} is the name of a slot; choose another name")
        if name in seen:
            raise ValueError(f"position {name!r} stands twice")
        seen.add(name)

    for match in PIECE.finditer(text):
        literal(text[at : match.start()])
        at = match.end()
        if match[1] is None:
            named(match[2])
            if not match[3].strip():
                raise ValueError(f"position {match[2]!r} marks nothing")
            pieces.append(Piece(match[3], names=(match[2],)))
            continue
        word, name = reference(match[1], columns)
        if word.source or word.slot == "answer":
            raise ValueError(f"{match[0]} has no meaning in a text; {EXAMPLE}")
        if name:
            named(name)
        own = () if word.slot in seen else (word.slot,)
        seen.add(word.slot)
        pieces.append(Piece(word=word, names=(*own, *filter(None, [name]))))
    literal(text[at:])
    return Pattern(tuple(pieces))


def reference(inside: str, columns: Mapping[str, tuple[str, ...]]) -> tuple[Word, str]:
    """What stands between braces, and the name that it gives.

    Raises:
        ValueError: no such slot or column.
    """
    match = REFERENCE.fullmatch(inside)
    if match is None:
        raise ValueError(f"{{{inside}}} is no slot; {EXAMPLE}")
    source, slot, column, name = match.groups()
    if slot in ("answer", "source"):
        if column or name:
            raise ValueError(f"{{{inside}}}: write {{source.answer}} or {{source.slot.column}}")
    elif slot not in columns:
        raise ValueError(f"unknown slot {slot!r}; {choices(slot, columns)}")
    elif column and column not in columns[slot]:
        raise ValueError(f"slot {slot} has no column {column!r}; {choices(column, columns[slot])}")
    return Word(slot=slot, column=column or "", source=bool(source)), name or ""


def parse_word(text: str, columns: Mapping[str, tuple[str, ...]], source: bool = False) -> Word:
    """One word: as it is, or ``{slot}``.

    Args:
        text: as in a spec.
        columns: slot, or named occurrence of one -> the columns of its table.
        source: whether ``{source.slot}`` has a meaning here.

    Raises:
        ValueError: what is wrong with it.
    """
    text = text.strip()
    if not set(text) & {"{", "}"}:
        if not text:
            raise ValueError("must be a word, or {slot}")
        return Word(text)
    if not re.fullmatch(r"\{[^{}]*\}", text):
        raise ValueError(f"{text!r} must be one word, or one {{slot}}")
    word, name = reference(text[1:-1], columns)
    if name or (word.source and not source) or word.slot == "source":
        raise ValueError(f"{text} has no meaning here; a word of the prompt is {{slot}}")
    return word
