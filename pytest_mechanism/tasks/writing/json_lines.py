"""JSONL: one JSON object a line. What a line may say is its reader's business, file and line ours."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_mechanism.errors import choices
from pytest_mechanism.tasks.files import DataFile

LONGEST_LINE = 1 << 20
"""Bytes; a prompt is far shorter."""

MOST_LINES = 200_000
"""Twice as many as a task can judge on."""

FEWER = f"at most {MOST_LINES // 2:,} can be judged on, and as many learned from: take a sample"

SURROGATE = re.compile("[\ud800-\udfff]")


def text_lines(file: DataFile) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers.

    Raises:
        ValueError: not UTF-8, with file and line; or there is none.
    """
    there, ends = 0, file.content.count(b"\n")
    if ends - file.content.count(b"\n\n") > 2 * MOST_LINES:  # before one of them is looked at
        raise ValueError(f"{file.file}: has {ends:,} lines; {FEWER}")
    for number, line in enumerate(io.BytesIO(file.content), 1):  # a line at a time is in memory
        if len(line) > LONGEST_LINE:
            raise ValueError(
                f"{file.file}:{number}: has {len(line):,} bytes; a line has at most {LONGEST_LINE:,}"
            )
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise ValueError(f"{file.file}:{number}: is no UTF-8 text") from None
        if text:
            there += 1
            if there > MOST_LINES:
                raise ValueError(
                    f"{file.file}:{number}: has more than {MOST_LINES:,} lines; {FEWER}"
                )
            yield number, text
    if not there:
        raise ValueError(f"{file.file}: holds no line")


def json_object(
    text: str, keys: Sequence[str] | None, needed: Sequence[str], example: str
) -> dict[str, Any]:
    """One line.

    Args:
        text: the line.
        keys: that it may have; None for any.
        needed: that it must have.
        example: a right line.

    Raises:
        ValueError: what is wrong with it, and the example where that helps.
    """
    try:
        given: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"is no JSON; a line is an object, as in {example}") from None
    if not isinstance(given, dict):
        raise ValueError(f"is no object, as in {example}")  # noqa: TRY004 - pydantic's own
    if SURROGATE.search(json.dumps(given, ensure_ascii=False)):
        raise ValueError("holds half a character (a lone surrogate), which is no text")
    for key in given:
        if keys is not None and key not in keys:
            raise ValueError(f"unknown key {key!r}; {choices(key, keys)}")
    for key in needed:
        if key not in given:
            raise ValueError(f"key {key!r} is missing, as in {example}")
    return given


def said(given: dict[str, Any], key: str) -> str | None:
    """A key's text, or None where the line has none.

    Raises:
        ValueError: it is no text, or an empty one.
    """
    if key not in given or given[key] is None:
        return None
    value = given[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} must be a text that is not empty")
    return value


LEAST = 20
"""Fewest rows that a task takes."""


def too_few(rows: int, there: int, file: DataFile, what: str) -> str:
    """That a file, one half of which is judged on, is too short, and what to do."""
    half, lines = there // 2, 2 * rows - there
    if half >= LEAST:
        todo = f"lower rows to {half} or add {lines} lines"
    elif rows > LEAST:
        todo = f"add {lines} lines, or {2 * LEAST - there} and lower rows to {LEAST}"
    else:
        todo = f"add {lines} lines"
    return (
        f"rows: {rows}, but {file.file or 'the file'} has {there} {what} and one half of them is "
        f"judged on; {todo}"
    )
