"""Files of accepted scores, ``__scores__/<label>+<label>/<spec>.json``: reading, checking, writing."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import BadFile, read_text, write_json

FORMAT = 1
MOST_BYTES = 64 << 20
FOLDER = "__scores__"
SUFFIXES = (".yaml", ".yml", ".YAML", ".YML")

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*")
"""``claim.role``; syrupy prints the names of unused scores."""


def score_file(spec: Path, pair: str) -> Path:
    """The file with the accepted scores of a spec and a pair."""
    return spec.parent / FOLDER / pair / f"{spec.stem}.json"


def possible_specs(scores: Path) -> list[Path]:
    """The specs that a file of accepted scores may belong to."""
    folder = scores.parent.parent.parent
    return [folder / f"{scores.stem}{suffix}" for suffix in SUFFIXES]


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """Accepted scores by ``claim.role``; none if the file does not exist.

    Raises:
        MechanismError: the file exists and is damaged.
    """
    try:
        data = json.loads(
            read_text(path, MOST_BYTES),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        version = data["mechanism_scores"]
        if type(version) is int and version > FORMAT:
            raise MechanismError(
                f"has accepted scores of version {version}, and this release of pytest-mechanism reads version "
                f"{FORMAT}: install the release that wrote them",
                f"{path}:1",
            )
        if version != FORMAT:
            raise ValueError(f"version {version}")  # noqa: TRY301 - raised here to be reported below
        scores: dict[str, dict[str, Any]] = data["scores"]
        for name, entry in scores.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"{name[:60]!r} is not CLAIM.ROLE")  # noqa: TRY301 - raised here to be reported below
            _check_entry(name, entry)
    except FileNotFoundError:
        return {}
    except BadFile as problem:
        raise _damaged(path, problem.problem) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        message = f"no {problem}" if isinstance(problem, KeyError) else str(problem)
        raise _damaged(path, message) from None
    return scores


def write_scores(path: Path, entries: Mapping[str, dict[str, Any] | None]) -> None:
    """Put entries into a file of accepted scores and remove those that are None; all others stay.

    Locked against other workers, and atomic: no reader sees half a file, and no score is lost.
    """
    user = os.getuid() if hasattr(os, "getuid") else ""  # who may not open the lock of another
    name = hashlib.sha256(f"{path.resolve()} {user}".encode()).hexdigest()[:24]
    with FileLock(Path(tempfile.gettempdir()) / f"pytest-mechanism-{name}.lock"):
        updated = {**read_scores(path), **entries}
        scores = {key: entry for key, entry in updated.items() if entry is not None}
        if not scores:
            path.unlink(missing_ok=True)
            return
        write_json(path, {"mechanism_scores": FORMAT, "scores": scores}, sort_keys=True)


def _damaged(path: Path, message: str) -> MechanismError:
    return MechanismError(
        f"is not a valid file of accepted scores ({message}); restore it from version control, or delete it and "
        "accept the scores again with --snapshot-update",
        f"{path}:1",
    )


def _check_entry(name: str, entry: Any) -> None:
    """Check what `statistics.drift` reads of an accepted score.

    Raises:
        ValueError: it has no score.
        TypeError: a further field has another type.
    """
    if not isinstance(entry, dict) or not _is_score(entry.get("value")):
        raise ValueError(f"{name} has no finite value")
    _check_types(name, entry, fingerprints=dict, definition=str, name=str, setting=dict)
    _check_types(f"{name}: setting", entry.get("setting") or {}, versions=dict)
    members = entry.get("members", {})
    if not isinstance(members, dict) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_score, pair))
        for pair in members.values()
    ):
        raise TypeError(f"{name}: members is {json.dumps(members)[:60]}")


def _check_types(where: str, fields: Mapping[str, Any], /, **kinds: type) -> None:
    for key, kind in kinds.items():
        if not isinstance(fields.get(key), (kind, type(None))):
            raise TypeError(f"{where}: {key} is {json.dumps(fields[key])[:60]}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Of two values under one key, `json` would silently keep the second."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        duplicate = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{duplicate[:60]!r} stands twice")
    return entries


def _refuse_constant(word: str) -> Any:
    """NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _is_score(value: Any) -> bool:
    """Whether a value is a number within the range of floats: an infinite score would match anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -1e300 < value < 1e300
