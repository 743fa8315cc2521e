"""Text for a terminal: its first sentence, and lines that fit."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

NARROWEST = 40
"""Columns; a narrower terminal breaks lines itself."""

COLUMN = re.compile(r"\s+(?:\S+ {2,})?")
"""The beginning of an indented line, with a label and the gap behind it."""


SENTENCE = re.compile(r"\.\s+(?=[A-Z])")


def first_sentence(text: str) -> str:
    """Of several sentences the first, without its full stop."""
    return SENTENCE.split(text)[0]


def fitted(lines: Iterable[str], width: int, indent: str = "  ") -> list[str]:
    """The lines, none longer than ``width`` as long as a word is not.

    A line goes on below its own text, so that labels stay alone in their column; a line that begins at the left
    edge goes on at ``indent``.
    """
    fitting: list[str] = []
    for line in lines:
        if len(line) <= width or width < NARROWEST:
            fitting.append(line)
            continue
        column = COLUMN.match(line)
        start = column[0] if column is not None and len(column[0]) < width // 2 else ""
        fitting += textwrap.wrap(
            line[len(start) :],
            width,
            initial_indent=start,
            subsequent_indent=" " * len(start) or indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return fitting
