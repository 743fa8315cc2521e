"""The hashes of checkpoint files, kept in a JSON file from run to run.

A hash is reused only if the file's state proves that its bytes are the same
(`checkpoints.file_state`). A checksum guards the JSON file against damage, not against forgery.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pytest_mechanism.checkpoints import file_state
from pytest_mechanism.checkpoints.file_state import State, proves
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import read_json, write_bytes

FORMAT = 2
MOST = 64 << 20
"""Maximum size of the JSON file in bytes."""
MOST_FILES = 10_000
"""Number of files whose hashes are kept; the oldest hashes go first."""


@dataclass
class HashCache:
    """The cache.

    Attributes:
        path: of the JSON file; None keeps nothing.
    """

    path: Path | None
    _entries: dict[str, dict[str, object]] = field(default_factory=dict)
    _changed: bool = False

    def __post_init__(self) -> None:
        self._entries = {} if self.path is None else read_entries(self.path)

    def get(self, name: Path, state: State) -> tuple[str, int] | None:
        """The hash of a file in this state and the time of its reading, or None."""
        entry = self._entries.get(str(name.absolute()))
        if entry is None or entry.get("state") != list(state):
            return None
        digest, read_at = entry.get("sha256"), entry.get("read_at")
        if not isinstance(digest, str) or not isinstance(read_at, int):
            return None
        return (digest, read_at) if proves(state, read_at) else None

    def put(self, name: Path, state: State, digest: str, read_at: int) -> None:
        """Keeps a hash, if its state can later prove that the file is unchanged."""
        if self.path is not None and proves(state, read_at):
            self._entries[str(name.absolute())] = {
                "state": list(state),
                "sha256": digest,
                "read_at": read_at,
            }
            self._changed = True

    def save(self) -> None:
        """Writes the JSON file atomically. What another process adds meanwhile may be lost, which costs
        a hash."""
        if self.path is None or not self._changed:
            return
        newest = sorted(self._entries.items(), key=lambda item: -int(str(item[1]["read_at"])))[
            :MOST_FILES
        ]
        files = dict(newest)
        content = {"format": FORMAT, "sha256": checksum(files), "files": files}
        with suppress(OSError):  # a lost cache costs time alone
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.path, json.dumps(content).encode(), durable=False)
        self._changed = False


def checksum(files: dict[str, dict[str, object]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def read_entries(path: Path) -> dict[str, dict[str, object]]:
    """The entries of a JSON file; none if it is missing, damaged, or from the future."""
    try:
        content = read_json(path, MOST)
        files: dict[str, dict[str, object]] = content["files"]
        if content["format"] != FORMAT or content["sha256"] != checksum(files):
            return {}
        latest = max((int(str(entry["read_at"])) for entry in files.values()), default=0)
    except (MechanismError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return {}
    # if the clock was set back, the same times come again
    return {} if latest > file_state.now() else files
