"""That a run's checkpoints stay what their fingerprints were taken of.

A result is kept only where its checkpoint, and the tokenizers of all, were the same before and after.
Where the file system's times prove nothing, files are read again when the work on a checkpoint is
done; the results since are taken back if something is different.
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
        watches: role -> what looks at its files.
        unproven: role -> keys of results whose checkpoint has to be read again.
    """

    def __init__(
        self, references: Mapping[str, Reference], fingerprints: Mapping[str, Fingerprint]
    ) -> None:
        self.watches = {
            role: Watch(f"{role} ({references[role].label})", found)
            for role, found in fingerprints.items()
        }
        self.unproven: dict[str, list[str]] = {}

    def look(self, role: str, again: bool = True) -> None:
        """Look at a checkpoint, and at the tokenizers of all, since rows depend on them.

        Raises:
            CheckpointChanged: something is not as it was.
        """
        self.watches[role].check(again)
        for watch in self.watches.values():
            watch.check_named(TOKENIZER)

    def look_at_configs(self) -> None:
        """Look at what sizes are read from.

        Raises:
            CheckpointChanged: something is not as it was.
        """
        for watch in self.watches.values():
            watch.check_named(["config.json"])

    def measured(self, role: str, key: str) -> None:
        """Note a result that was looked at without reading every file again."""
        if not self.watches[role].certain:
            self.unproven.setdefault(role, []).append(key)

    def prove(self, role: str) -> None:
        """Read the files again whose state proves nothing, where there are results since.

        Raises:
            CheckpointChanged: they are not as they were.
        """
        if self.unproven.get(role):
            self.watches[role].check()
            self.unproven[role].clear()

    def reason(self, role: str, problem: Exception) -> Exception:
        """Why something failed: of files that changed meanwhile, libraries say anything."""
        try:
            if role in self.watches:
                self.look(role, again=False)
        except CheckpointChanged as changed:
            return changed
        return problem
