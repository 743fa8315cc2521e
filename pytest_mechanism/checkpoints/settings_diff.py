"""Which settings of two checkpoints differ: keys and values of config.json and of the files beside it.

Files with the same hash (`checkpoints.fingerprint`) are not read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.config import read_config
from pytest_mechanism.checkpoints.fingerprint import TOKENIZER, Fingerprint
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.errors import visible
from pytest_mechanism.files import is_gguf, read_json

SHOWN = 3
"""Settings that a sentence names."""

LONGEST = 40
"""Characters of a key or a value."""

MOST_BYTES = 1 << 24
"""Larger files are not compared key by key."""

ABOUT_THE_FILE = frozenset({"transformers_version", "_name_or_path"})
"""Keys that change nothing in a model."""

Checkpoint = tuple[Reference, Fingerprint]


def different_settings(
    before: Checkpoint, now: Checkpoint, roles: tuple[str, str] = ("base", "ft")
) -> str:
    """``rope_theta: 10000 in base, 6000 in ft``, for at most three settings; empty if none is known to differ."""
    found = list(differences(before, now, roles))
    more = f"; {len(found) - SHOWN} more settings differ" if len(found) > SHOWN else ""
    return "; ".join(visible(line) for line in found[:SHOWN]) + more


def differences(before: Checkpoint, now: Checkpoint, roles: tuple[str, str]) -> Iterator[str]:
    """A text for each setting that differs: of the model first, then of its tokenizer."""
    a, b = (checkpoint[0] for checkpoint in (before, now))
    if is_gguf(a.folder) or is_gguf(b.folder):
        yield from keys(read_config(a.folder), read_config(b.folder), roles)
        return
    for name in ("config.json", "generation_config.json", *TOKENIZER):
        folders = (a.tokenizer, b.tokenizer) if name in TOKENIZER else (a.folder, b.folder)
        paths = [folder / name for folder in folders]
        digests = [
            digest(checkpoint[1], path)
            for checkpoint, path in zip((before, now), paths, strict=True)
        ]
        if digests[0] == digests[1] and (digests[0] or not any(path.exists() for path in paths)):
            continue
        where = "" if name == "config.json" else f"{name}: "
        missing = [role for role, path in zip(roles, paths, strict=True) if not path.exists()]
        if missing:
            yield f"{name} is missing in {missing[0]}"
        elif not name.endswith(".json") or any(path.stat().st_size > MOST_BYTES for path in paths):
            yield f"{name} differs"
        else:
            old, new = (read_json(path, MOST_BYTES) for path in paths)
            yield from (f"{where}{text}" for text in keys(old, new, roles))


def digest(of: Fingerprint, path: Path) -> str | None:
    """The hash of a file that the fingerprint has read."""
    hashed = of.files.get(path.parent, {}).get(path)
    return None if hashed is None else hashed.digest


def keys(before: Any, now: Any, roles: Sequence[str], at: str = "") -> Iterator[str]:
    """The keys at which two JSON values differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now} - ABOUT_THE_FILE):
            inside = f"{at}.{key}" if at else str(key)
            yield from keys(before.get(key), now.get(key), roles, inside)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, pair in enumerate(zip(before, now, strict=True)):
            yield from keys(pair[0], pair[1], roles, f"{at}[{i}]")
    elif before != now or type(before) is not type(now):
        values = [
            f"{shown(value)} in {role}" for value, role in zip((before, now), roles, strict=True)
        ]
        yield f"{shortened(at)}: {', '.join(values)}"


def shown(value: Any) -> str:
    return "not set" if value is None else shortened(str(value))


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
