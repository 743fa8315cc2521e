"""Whether the patterns of a tokenizer terminate.

A tokenizer.json may hold regular expressions and replacements of a stranger. Some of them try every
way to match a text (`(a+)+$`) or produce gigabytes, so they are first tried on long texts, with a
small vocabulary, in a separate process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.text import pattern_child
from pytest_mechanism.tasks.text.child_process import ChildError, ChildLimitError, run_child

SECONDS = 10
"""Of computing for all texts; published patterns take a fraction of a second."""

MEMORY = 1 << 30
"""Bytes of address space that the process may take."""

PARTS = ("normalizer", "pre_tokenizer", "decoder")
MODEL = {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}


def check_patterns(path: Path) -> None:
    """Try the patterns of a tokenizer.json, if it has any.

    Raises:
        MechanismError: a pattern does not terminate.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # whoever reads the file says what is wrong with it
    if not isinstance(content, dict):
        return
    parts = {name: content.get(name) for name in PARTS}
    patterns = [pattern for part in parts.values() for pattern in patterns_of(part)]
    if patterns and (problem := _problem(json.dumps(parts), tuple(patterns))):
        longest = max(patterns, key=len)
        raise MechanismError(f"{path}: {problem} (patterns such as {longest[:80]!r})")


def patterns_of(part: Any) -> Iterator[str]:
    """The patterns that a part of a tokenizer matches."""
    pending = [part]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pattern = value.get("pattern")
            if isinstance(pattern, dict):
                yield from (text for text in pattern.values() if isinstance(text, str))
            pending += [inner for key, inner in value.items() if key != "pattern"]


@lru_cache(maxsize=64)
def _problem(parts: str, patterns: tuple[str, ...]) -> str | None:
    """Why the patterns are refused, or None."""
    tokenizer = {"version": "1.0", "added_tokens": [], "model": MODEL, **json.loads(parts)}
    arguments = {"tokenizer": tokenizer, "patterns": patterns}
    try:
        problem: str | None = run_child(pattern_child, arguments, SECONDS, MEMORY)
        return problem  # noqa: TRY300 - the return belongs to the attempt
    except ChildLimitError:
        return (
            f"its patterns take more memory than they may, or more than {SECONDS} seconds for texts "
            f"of {pattern_child.LENGTHS[-1]:,} letters"
        )
    except OSError as error:
        return f"its patterns cannot be tried: {error.strerror}"
    except ChildError:
        return None  # the file cannot be read, say: whoever reads it says what is wrong
