"""Checks that a checkpoint's files have not changed since its fingerprint was taken.

The fingerprint is taken before the checkpoint is loaded, so later results count only if no file has
changed since. The runner checks after loading and after measuring, before it stores anything. A file
that was replaced and restored has another ctime, so the check detects that too.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from pytest_mechanism.checkpoints.contents import relevant_files
from pytest_mechanism.checkpoints.file_state import SETTLED, proves, state_of
from pytest_mechanism.checkpoints.fingerprint import (
    Fingerprint,
    HashedFile,
    hash_file,
    times_of,
)
from pytest_mechanism.errors import CheckpointChanged, MechanismError
from pytest_mechanism.files import is_gguf


class Watch:
    """The files of one checkpoint.

    Attributes:
        name: of the checkpoint, for errors.
    """

    def __init__(self, name: str, fingerprint: Fingerprint) -> None:
        self.name = name
        self.folders = fingerprint.folders
        self._fingerprint = fingerprint
        self._small = copied(fingerprint.small_files)

    @cached_property
    def files(self) -> dict[Path, dict[Path, HashedFile]]:
        """Folder -> its files as they were last read. Waits until the weights are hashed."""
        return copied(self._fingerprint.files)

    @property
    def certain(self) -> bool:
        """Whether the states of all files prove that their bytes are unchanged."""
        return all(
            proves(file.state, file.read_at)
            for files in self.files.values()
            for file in files.values()
        )

    def check(self, thorough: bool = True) -> None:
        """Checks all files; reads those again whose state proves nothing.

        Args:
            thorough: also reads files on file systems without a reliable ctime again, and not only
                files that changed shortly before they were read.

        Raises:
            CheckpointChanged: a file or folder has changed.
        """
        for folder, times in self.folders.items():
            try:
                entries, itself = times_of(folder)
                present = relevant_files(folder)
            except (OSError, MechanismError):
                raise self._changed(folder) from None
            if entries == times[0] and itself != times[1]:
                raise self._changed(folder)  # moved away and back
            if difference := self.files[folder].keys() ^ set(present):
                raise self._changed(min(difference))
        for files in self.files.values():
            for path, file in files.items():
                files[path] = self._checked(path, file, thorough)

    def check_named(self, names: Iterable[str]) -> None:
        """The same for files of these names alone, such as `TOKENIZER`, and for a GGUF file, which holds
        their content.

        Raises:
            CheckpointChanged: a file has changed.
        """
        for files in (self.files if self._fingerprint.known else self._small).values():
            for path, file in files.items():
                if path.name in names or is_gguf(path):
                    files[path] = self._checked(path, file, thorough=True)

    def _checked(self, path: Path, file: HashedFile, thorough: bool) -> HashedFile:
        try:
            if (state := state_of(path)) != file.state:
                raise self._changed(path)
            if proves(state, file.read_at):
                return file
            settled = int(state[6]) + SETTLED < file.read_at
            if settled and not thorough:
                return file
            read_again = hash_file(path, state)
        except (OSError, MechanismError):
            raise self._changed(path) from None
        if read_again.digest != file.digest:
            raise self._changed(path)
        return read_again

    def _changed(self, path: Path) -> CheckpointChanged:
        return CheckpointChanged(
            f"{self.name}: {path} was changed, replaced or touched after its fingerprint was taken, so "
            "the results are discarded; run again, and leave the checkpoint unchanged during the run"
        )


def copied(files: dict[Path, dict[Path, HashedFile]]) -> dict[Path, dict[Path, HashedFile]]:
    """A copy in which hashes can be replaced."""
    return {folder: dict(inside) for folder, inside in files.items()}
