"""YAML as plain data, where every key knows its line.

A strict subset of YAML 1.2: mappings with string or integer keys, lists, scalars. Anchors,
aliases, merges, tags and repeated keys are refused. Scalars mean what they look like (PyYAML's own
resolvers read ``1e-3`` as text, ``on`` as true and ``010`` as 8).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pytest_mechanism.errors import SpecError, one_line
from pytest_mechanism.files import BadFile, check_file, read_bytes

MAX_BYTES = 500_000
ANY_SIZE = 1 << 62
MAX_DEPTH = 20
MAX_KEYS = 10_000

Place = tuple[str | int, ...]
"""Place of a value in a file: ``("claims", "solves_task", "at_least")``."""

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
DIRECTIVE = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*%")


LONG_LIST = 4
"""Lines of a list's further items from which a report counts them."""

LONGEST_LINE = 240
"""Characters of a line that a report quotes."""


def beginning(line: str) -> str:
    """A line that is not too long."""
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 4].rstrip()} ..."


@dataclass(frozen=True)
class Document:
    """A parsed file.

    Attributes:
        path: the file.
        value: its content as dict, list, str, int, float, bool and None.
        lines: place of a value -> line of its key or item, counted from 1.
        text: the lines of the file, for excerpts.
    """

    path: Path
    value: Any
    lines: Mapping[Place, int]
    text: tuple[str, ...]

    def line(self, where: Place) -> int:
        """Line of a value, or of the nearest value around it."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def error(self, message: str, where: Place = ()) -> SpecError:
        """An error at a value."""
        return SpecError(message, f"{self.path}:{self.line(where)}")

    def block(self, where: Place) -> tuple[int, int]:
        """First and last line of a value."""
        first = self.line(where)
        inside = [line for at, line in self.lines.items() if at[: len(where)] == where]
        return first, max([first, *inside])

    def quoted(self, where: Place) -> list[tuple[int | None, str]]:
        """The lines of a value with their numbers, for a reader; of a list over many lines the first item and a count
        without a number, and of a long line its beginning."""
        first, last = self.block(where)
        shown: dict[int, tuple[int | None, str]] = {
            number: (number, beginning(self.text[number - 1])) for number in range(first, last + 1)
        }
        items: dict[Place, list[int]] = {}  # list -> lines of its items after the first
        for place, line in self.lines.items():
            inside = len(place) > len(where) and place[: len(where)] == where
            if inside and isinstance(place[-1], int) and place[-1] > 0:
                items.setdefault(place[:-1], []).append(line)
        for parent, lines in items.items():
            others = {n for at, n in self.lines.items() if at[: len(parent)] != parent}
            hidden = [n for n in range(min(lines), max(lines) + 1) if n not in others]
            if len({*lines} & {*hidden}) >= LONG_LIST:
                for number in hidden:
                    shown.pop(number, None)
                indent = re.match(r"\s*", self.text[hidden[0] - 1])
                space = indent.group() if indent else ""
                shown[hidden[0]] = (None, f"{space}... and {len(lines)} more")
        return [shown[number] for number in sorted(shown)]


def read(path: Path, shown: Path | None = None) -> Document:
    """Parse a file; ``shown`` is how errors name it.

    Raises:
        SpecError: the file is unreadable, no regular file, not UTF-8, too large, or outside the subset.
    """
    shown = shown or path
    try:
        if check_file(path, ANY_SIZE).st_size > MAX_BYTES:
            raise SpecError(
                f"is larger than {MAX_BYTES:,} bytes, which no spec needs", f"{shown}:1"
            )
        raw = read_bytes(path, MAX_BYTES)
    except OSError as problem:
        raise SpecError(f"cannot be read: {problem.strerror}", f"{shown}:1") from None
    except BadFile as problem:
        raise SpecError(problem.problem, f"{shown}:1") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw[: problem.start].count(b"\n") + 1
        raise SpecError("is not UTF-8; save it as UTF-8", f"{shown}:{line}") from None
    return parse(text, shown)


def parse(text: str, shown: Path) -> Document:
    """Parse text; see `read`."""
    lines: dict[Place, int] = {}
    if (directive := DIRECTIVE.match(text)) is not None:
        at = text[: directive.end()].count("\n") + 1
        raise SpecError("directives (%YAML, %TAG) are not allowed, remove them", f"{shown}:{at}")
    try:
        value = _Composer(text, shown, lines).document()
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        at = 1 if mark is None else mark.line + 1
        raise SpecError(
            f"is not valid YAML: {problem.problem or problem.context}", f"{shown}:{at}"
        ) from None
    except yaml.reader.ReaderError as problem:
        at = text[: problem.position].count("\n") + 1
        raise SpecError(
            f"is not valid YAML: character #x{problem.character:04x} is not allowed",
            f"{shown}:{at}",
        ) from None
    except yaml.YAMLError as problem:
        raise SpecError(f"is not valid YAML: {one_line(str(problem))}", f"{shown}:1") from None
    except (ValueError, OverflowError):  # PyYAML on "\UFFFFFFFF" and on %YAML 1.<5000 digits>
        raise SpecError("is not valid YAML: a number in it is out of range", f"{shown}:1") from None
    return Document(shown, value, lines, tuple(text.splitlines()))


class _Composer:
    """Builds values from parse events, so that nesting and size are checked before they cost time."""

    def __init__(self, text: str, shown: Path, lines: dict[Place, int]) -> None:
        self.events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self.shown = shown
        self.lines = lines

    @staticmethod
    def line(event: Any) -> int:
        return int(event.start_mark.line) + 1

    def fail(self, message: str, event: Any) -> SpecError:
        return SpecError(message, f"{self.shown}:{self.line(event)}")

    def document(self) -> Any:
        value: Any = None
        has_document = False
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if has_document:
                    raise self.fail("holds a second YAML document; a file has one spec", event)
                has_document = True
                value = self.value(next(self.events), ())
        if not has_document:
            raise SpecError(
                "is empty; the first key of a spec is 'mechanism: 1'", f"{self.shown}:1"
            )
        return value

    def value(self, event: Any, where: Place) -> Any:
        if isinstance(event, yaml.AliasEvent):
            raise self.fail(
                f"alias *{event.anchor}: aliases are not allowed, write the value out", event
            )
        if getattr(event, "anchor", None):
            raise self.fail(
                f"anchor &{event.anchor}: anchors are not allowed, write the value out", event
            )
        if getattr(event, "tag", None):
            raise self.fail(f"tag {event.tag}: tags are not allowed", event)
        if len(where) > MAX_DEPTH:
            raise self.fail(f"is nested deeper than {MAX_DEPTH} levels", event)
        if len(self.lines) > MAX_KEYS:
            raise self.fail(f"has more than {MAX_KEYS:,} values", event)
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(where)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(where)
        return self.scalar(event)

    def mapping(self, where: Place) -> dict[str | int, Any]:
        mapping: dict[str | int, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self.fail("a key must be a word or a whole number", event)
            key = self.value(event, (*where, "?"))
            if event.value == "<<" and event.style is None:
                raise self.fail("merge key '<<' is not allowed, write the keys out", event)
            if isinstance(key, bool) or key is None or isinstance(key, float):
                key = event.value
            if key in mapping:
                first = self.lines[(*where, key)]
                raise self.fail(f"key {key!r} appears twice, first on line {first}", event)
            self.lines[(*where, key)] = self.line(event)
            mapping[key] = None
            mapping[key] = self.value(next(self.events), (*where, key))
        return mapping

    def sequence(self, where: Place) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            at = (*where, len(items))
            self.lines[at] = self.line(event)
            items.append(self.value(event, at))
        return items

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.style is not None:  # quoted or block: text, whatever it looks like
            return text
        if text in ("", "~", "null"):
            return None
        if text in ("true", "false"):
            return text == "true"
        if INTEGER.fullmatch(text):
            return int(text)
        if NUMBER.fullmatch(text):
            if text.lstrip("+-").isdigit():
                raise self.fail(f"{text[:40]} is not a valid number", event)
            number = float(text)
            if math.isinf(number):
                raise self.fail(f"{text[:40]} is too large a number", event)
            return number
        return text
