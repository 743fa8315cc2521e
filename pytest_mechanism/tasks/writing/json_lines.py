"""Text files and JSONL files of a task, line by line, with file and line in every error."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pytest_mechanism.errors import choices
from pytest_mechanism.tasks.files import DataFile

MAX_LINE = 1 << 20
"""Bytes; a prompt is far shorter."""

MAX_LINES = 200_000
"""Twice as many as a task can evaluate."""

TAKE_A_SAMPLE = (
    f"at most {MAX_LINES // 2:,} are for evaluation, and as many for search: take a sample"
)

SURROGATE = re.compile("[\ud800-\udfff]")

MIN_ROWS = 20
"""The fewest rows of a task."""


@contextmanager
def at_line(file: DataFile, number: int) -> Iterator[None]:
    """Context in which a ValueError gets the file and the line."""
    try:
        yield
    except ValueError as problem:
        raise ValueError(f"{file.file}:{number}: {problem}") from None


def text_lines(file: DataFile) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers.

    Raises:
        ValueError: a line is too long or not UTF-8, or there are too many lines or none.
    """
    filled, ends = 0, file.content.count(b"\n")
    if ends - file.content.count(b"\n\n") > 2 * MAX_LINES:  # before any line is read
        raise ValueError(f"{file.file}: has {ends:,} lines; {TAKE_A_SAMPLE}")
    for number, line in enumerate(io.BytesIO(file.content), 1):  # a line at a time is in memory
        with at_line(file, number):
            if len(line) > MAX_LINE:
                raise ValueError(f"has {len(line):,} bytes; a line has at most {MAX_LINE:,}")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                raise ValueError("is not UTF-8 text") from None
            filled += bool(text)
            if filled > MAX_LINES:
                raise ValueError(f"has more than {MAX_LINES:,} lines; {TAKE_A_SAMPLE}")
        if text:
            yield number, text
    if not filled:
        raise ValueError(f"{file.file}: has no lines")


def json_object(
    text: str, keys: Sequence[str] | None, required: Sequence[str], example: str
) -> dict[str, Any]:
    """Read a line of JSON with the given keys, or any; a ValueError says what is wrong with it."""
    try:
        line: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"is not JSON; a line is an object, as in {example}") from None
    if not isinstance(line, dict):
        raise ValueError(f"is not an object, as in {example}")  # noqa: TRY004 - pydantic's own
    if SURROGATE.search(json.dumps(line, ensure_ascii=False)):
        raise ValueError("holds half a character (a lone surrogate), which is not text")
    for key in line:
        if keys is not None and key not in keys:
            raise ValueError(f"unknown key {key!r}; {choices(key, keys)}")
    for key in required:
        if key not in line:
            raise ValueError(f"key {key!r} is missing, as in {example}")
    return line


def text_of(line: dict[str, Any], key: str) -> str | None:
    """The text of a key, or None where the line has none. An empty text is an error."""
    value = line.get(key)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise ValueError(f"{key} must be a text that is not empty")
    return value


def check_line_count(rows: int, file: DataFile, lines: int, what: str) -> None:
    """Check that half of a file's lines, which are for evaluation, are enough."""
    half, missing = lines // 2, 2 * rows - lines
    if half >= rows:
        return
    if half >= MIN_ROWS:
        advice = f"lower rows to {half} or add {missing} lines"
    elif rows > MIN_ROWS:
        advice = f"add {missing} lines, or {2 * MIN_ROWS - lines} and lower rows to {MIN_ROWS}"
    else:
        advice = f"add {missing} lines"
    raise ValueError(
        f"rows: {rows}, but {file.file or 'the file'} has {lines} {what} and one half of them is "
        f"for evaluation; {advice}"
    )
