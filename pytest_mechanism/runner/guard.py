"""Checks that the checkpoints of a run stay what their fingerprints say.

A result is kept only if its checkpoint, and the tokenizers of all roles, were the same before and after.
Where the times of the file system prove nothing, the files are read again when the work on a checkpoint
is done, and the results since are discarded if something differs.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_mechanism.checkpoints.fingerprint import TOKENIZER, Fingerprint
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.checkpoints.watch import Watch
from pytest_mechanism.errors import CheckpointChanged


class Guard:
    """See the module.

    Attributes:
        watches: role -> the watch over its files.
        unverified: role -> keys of results whose checkpoint must be read again.
    """

    def __init__(
        self, references: Mapping[str, Reference], fingerprints: Mapping[str, Fingerprint]
    ) -> None:
        self.watches = {
            role: Watch(f"{role} ({references[role].label})", fingerprint)
            for role, fingerprint in fingerprints.items()
        }
        self.unverified: dict[str, list[str]] = {}

    def check(self, role: str, thorough: bool = True) -> None:
        """Checks a checkpoint, and the tokenizers of all roles, because rows depend on them.

        Raises:
            CheckpointChanged: a file has changed.
        """
        self.watches[role].check(thorough)
        for watch in self.watches.values():
            watch.check_named(TOKENIZER)

    def check_configs(self) -> None:
        """Checks the files that sizes are read from.

        Raises:
            CheckpointChanged: a file has changed.
        """
        for watch in self.watches.values():
            watch.check_named(["config.json"])

    def note(self, role: str, key: str) -> None:
        """Remembers a result that was checked without reading every file again."""
        if not self.watches[role].certain:
            self.unverified.setdefault(role, []).append(key)

    def verify(self, role: str) -> None:
        """Reads again the files whose state proves nothing, if there are results since.

        Raises:
            CheckpointChanged: a file has changed.
        """
        if self.unverified.get(role):
            self.watches[role].check()
            self.unverified[role].clear()

    def reason(self, role: str, problem: Exception) -> Exception:
        """Why something failed. Libraries raise anything on files that changed meanwhile."""
        try:
            if role in self.watches:
                self.check(role, thorough=False)
        except CheckpointChanged as changed:
            return changed
        return problem
