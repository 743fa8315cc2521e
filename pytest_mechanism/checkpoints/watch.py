"""Whether a checkpoint is still what its fingerprint was taken of.

A fingerprint is taken before a checkpoint is loaded. Whatever was read from it afterwards counts
only if nothing has changed since: the runner looks again after loading and after measuring, before
anything is stored. A file that was replaced and put back has another time of change, so that is
noticed too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pytest_mechanism.checkpoints.contents import listed
from pytest_mechanism.checkpoints.file_state import SETTLED, proves, state_of
from pytest_mechanism.checkpoints.fingerprint import (
    Fingerprint,
    Seen,
    hashed,
    times_of,
)
from pytest_mechanism.errors import CheckpointChanged, MechanismError


class Watch:
    """Looks at the files of one checkpoint.

    Attributes:
        name: of the checkpoint, for errors.
    """

    def __init__(self, name: str, fingerprint: Fingerprint) -> None:
        self.name = name
        self.folders = fingerprint.folders
        self.seen = {folder: dict(files) for folder, files in fingerprint.seen.items()}

    @property
    def certain(self) -> bool:
        """Whether the states of all files prove what their bytes are."""
        return all(
            proves(each.state, each.read_at)
            for files in self.seen.values()
            for each in files.values()
        )

    def look(self, again: bool = True) -> None:
        """Look at every file; read those anew whose state proves nothing.

        Args:
            again: read also those whose file system keeps no reliable time of change, and not only
                those that changed shortly before they were read.

        Raises:
            CheckpointChanged: something is not as it was.
        """
        for folder, times in self.folders.items():
            try:
                entries, itself = times_of(folder)
                files = listed(folder)
            except (OSError, MechanismError):
                raise self._changed(folder) from None
            if entries == times[0] and itself != times[1]:
                raise self._changed(folder)  # moved away and back
            if other := self.seen[folder].keys() ^ set(files):
                raise self._changed(min(other))
        for known in self.seen.values():
            for path, seen in known.items():
                known[path] = self._same(path, seen, again)

    def look_at(self, names: Iterable[str]) -> None:
        """The same for files of these names alone, such as `TOKENIZER`.

        Raises:
            CheckpointChanged: something is not as it was.
        """
        for known in self.seen.values():
            for path, seen in known.items():
                if path.name in names:
                    known[path] = self._same(path, seen, again=True)

    def _same(self, path: Path, seen: Seen, again: bool) -> Seen:
        try:
            if (state := state_of(path)) != seen.state:
                raise self._changed(path)
            if proves(state, seen.read_at):
                return seen
            settled = int(state[6]) + SETTLED < seen.read_at
            if settled and not again:
                return seen
            found = hashed(path, state)
        except (OSError, MechanismError):
            raise self._changed(path) from None
        if found.digest != seen.digest:
            raise self._changed(path)
        return found

    def _changed(self, path: Path) -> CheckpointChanged:
        return CheckpointChanged(
            f"{self.name}: {path} was changed, replaced or touched after its fingerprint was taken, so "
            "what was read since is not used; a checkpoint must stay as it is during a run: run again"
        )
