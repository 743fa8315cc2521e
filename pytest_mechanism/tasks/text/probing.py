"""Whether a tokenizer's own patterns come to an end.

A tokenizer.json may hold regular expressions and replacements, a stranger's program: some of them
try every way to match a text (`(a+)+$`), or make gigabytes of it. They are tried on long texts
first, with a small vocabulary, in a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.tasks.text import probe_child
from pytest_mechanism.tasks.text.child_process import run_module

SECONDS = 10
"""Of computing for all that is tried; published patterns take a fraction of one."""

BYTES = 1 << 30
"""Of address space that the process may have."""

PARTS = ("normalizer", "pre_tokenizer", "decoder")

LARGEST = 512 << 20
"""Bytes of a tokenizer.json; the largest known ones have 40 MiB."""


def probe(path: Path) -> None:
    """Try the patterns of a tokenizer.json; nothing where it has none.

    Raises:
        MechanismError: they do not end, or the file is too large.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise MechanismError(f"{path} is larger than {LARGEST >> 20} MiB")
        given = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # whoever reads it says what is wrong
    if not isinstance(given, dict):
        return
    parts = {name: given.get(name) for name in PARTS}
    found = [pattern for part in parts.values() for pattern in patterns(part)]
    if found and (problem := _tried(json.dumps(parts), json.dumps(found))):
        shown = max(found, key=len)
        raise MechanismError(f"{path}: {problem} (patterns such as {shown[:80]!r})")


def patterns(part: Any) -> Iterator[str]:
    """The patterns that a part of a tokenizer matches, and what it puts in their place."""
    waiting = [part]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            pattern = each.get("pattern")
            if isinstance(pattern, dict):
                yield from (text for text in pattern.values() if isinstance(text, str))
            waiting += [value for key, value in each.items() if key != "pattern"]


@lru_cache(maxsize=64)
def _tried(parts: str, found: str) -> str:
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}
    given = {
        "tokenizer": {"version": "1.0", "added_tokens": [], "model": model, **json.loads(parts)},
        "patterns": json.loads(found),
        "seconds": SECONDS,
        "bytes": BYTES,
    }
    endless = (
        f"its patterns are not through with texts of {probe_child.LENGTHS[-1]:,} letters within "
        f"{SECONDS} seconds, or take more memory than they may"
    )
    try:
        done = run_module(probe_child, given)
    except OSError as problem:
        return f"its patterns cannot be tried: {problem.strerror}"
    if done is None:
        return endless
    if done.stdout.endswith(probe_child.OK):
        return ""
    if "retry-limit" in done.stderr:
        return "a pattern of it tries too many ways to match a text"
    if done.returncode < 0 or "memory" in done.stderr.casefold():
        return endless
    return ""  # it cannot be read at all, say: whoever reads it says what is wrong
