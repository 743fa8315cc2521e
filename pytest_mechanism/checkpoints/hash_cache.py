"""Hashes of files, remembered in a JSON file from run to run.

A hash is taken from here only where the file's state proves that its bytes are the same
(`checkpoints.file_state`). The file has a checksum against accidents; whoever can write it can forge it.
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
"""Bytes of the file."""
MANY = 10_000
"""Files that are remembered: those that were hashed last."""


@dataclass
class Memory:
    """See the module.

    Attributes:
        path: of the JSON file, or None where nothing is remembered.
    """

    path: Path | None
    _known: dict[str, dict[str, object]] = field(default_factory=dict)
    _changed: bool = False

    def __post_init__(self) -> None:
        self._known = {} if self.path is None else read(self.path)

    def get(self, name: Path, state: State) -> tuple[str, int] | None:
        """The hash of a file in this state and when it was read, or None."""
        known = self._known.get(str(name.absolute()))
        if known is None or known.get("state") != list(state):
            return None
        digest, read_at = known.get("sha256"), known.get("read_at")
        if not isinstance(digest, str) or not isinstance(read_at, int):
            return None
        return (digest, read_at) if proves(state, read_at) else None

    def put(self, name: Path, state: State, digest: str, read_at: int) -> None:
        """Remember a hash where its state will prove something."""
        if self.path is not None and proves(state, read_at):
            self._known[str(name.absolute())] = {
                "state": list(state),
                "sha256": digest,
                "read_at": read_at,
            }
            self._changed = True

    def save(self) -> None:
        """Write the file, all at once; what another process adds meanwhile may be lost, which costs
        a hash."""
        if self.path is None or not self._changed:
            return
        newest = sorted(self._known.items(), key=lambda item: -int(str(item[1]["read_at"])))[:MANY]
        files = dict(newest)
        content = {"format": FORMAT, "sha256": checksum(files), "files": files}
        with suppress(OSError):  # remembering saves time, nothing more
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.path, json.dumps(content).encode(), durable=False)
        self._changed = False


def checksum(files: dict[str, dict[str, object]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> dict[str, dict[str, object]]:
    """What a file remembers; nothing where it is missing, damaged, or from the future."""
    try:
        found = read_json(path, MOST)
        files: dict[str, dict[str, object]] = found["files"]
        if found["format"] != FORMAT or found["sha256"] != checksum(files):
            return {}
        latest = max((int(str(each["read_at"])) for each in files.values()), default=0)
    except (MechanismError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return {}
    # the clock was set back: times after it may come a second time
    return {} if latest > file_state.now() else files
