"""The fingerprint of a checkpoint whose weights are read later: while another checkpoint is measured.

The small files are hashed at once, so that rows can be written and the keys of measurements on other checkpoints
computed. The weights are hashed when somebody asks for the fingerprint, or before that in the background. Hashing
brings them into the operating system's page cache, from which they are loaded next: a checkpoint is read
from disk once, if the memory that is free holds one. Pages of this cache are given up whenever a program needs
memory, so reading ahead takes none from a measurement.
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from threading import Lock, Thread

from pytest_mechanism.checkpoints.contents import WEIGHTS, relevant_files
from pytest_mechanism.checkpoints.file_state import State, state_of
from pytest_mechanism.checkpoints.fingerprint import Fingerprint, HashedFile, of_reference
from pytest_mechanism.checkpoints.hash_cache import HashCache
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.errors import CheckpointChanged, MechanismError
from pytest_mechanism.files import is_gguf

LARGE = 1 << 28
"""Bytes of weights from which on they are read later. Fewer are hashed in a fraction of a second."""

ONE_AT_A_TIME = Lock()
"""Held while weights are read: two readers would slow down each other on most disks."""


def fingerprint_of(reference: Reference, cache: Path | None = None) -> Fingerprint:
    """The fingerprint of a checkpoint, which reads its weights later if they are large and no hash of them is kept.
    A GGUF file, which has no small files beside it, is read now.

    Args:
        reference: the checkpoint.
        cache: the JSON file of a `HashCache`.

    Raises:
        MechanismError: a file cannot be read.
    """
    if is_gguf(reference.folder):
        return of_reference(reference, cache)
    states = states_of_weights(reference)
    hashes = HashCache(cache)
    unread = [state for path, state in states.items() if hashes.get(path, state) is None]
    if sum(int(state[4]) for state in unread) < LARGE:
        return of_reference(reference, cache)
    return LaterFingerprint(reference, cache, states)


def states_of_weights(reference: Reference) -> dict[Path, State]:
    """File of weights -> its state.

    Raises:
        MechanismError: a file cannot be read.
    """
    folders = [folder for folder in (reference.folder, reference.adapter) if folder is not None]
    try:
        return {
            path: state_of(path)
            for folder in folders
            for path in relevant_files(folder)
            if path.suffix in WEIGHTS
        }
    except OSError as problem:
        raise MechanismError(f"{folders[0]} cannot be read: {problem.strerror}") from None


class LaterFingerprint(Fingerprint):
    """See the module. `model` and `files` wait until the weights are read, and raise what went wrong."""

    def __init__(self, reference: Reference, cache: Path | None, states: dict[Path, State]) -> None:
        small = of_reference(reference, cache, weights=False)
        own = {
            "tokenizer": small.tokenizer,
            "adapted": small.adapted,
            "library": small.library,
            "folders": small.folders,
            "_small": small,
            "_reference": reference,
            "_cache": cache,
            "_states": states,
            "_read": Future(),
            "_begun": Lock(),
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)

    _small: Fingerprint
    _reference: Reference
    _cache: Path | None
    _states: dict[Path, State]
    _read: Future[Fingerprint]
    _begun: Lock

    @property
    def model(self) -> str:
        self.read_ahead()
        return self._read.result().model

    @property
    def files(self) -> dict[Path, dict[Path, HashedFile]]:
        self.read_ahead()
        return self._read.result().files

    @property
    def known(self) -> bool:
        return self._read.done() and self._read.exception() is None

    @property
    def small_files(self) -> dict[Path, dict[Path, HashedFile]]:
        return self.files if self.known else self._small.files

    def read_ahead(self) -> None:
        if self._begun.acquire(blocking=False):  # never released: the weights are read once
            Thread(target=self._read_weights, name="read ahead", daemon=True).start()

    def _read_weights(self) -> None:
        try:
            with ONE_AT_A_TIME:
                self._read.set_result(self._whole())
        except Exception as problem:  # for whoever asks for the fingerprint
            self._read.set_exception(problem)

    def _whole(self) -> Fingerprint:
        """The fingerprint of all files, which must be those that the run began with.

        Raises:
            CheckpointChanged: they are not.
            MechanismError: a file cannot be read.
        """
        whole, small = of_reference(self._reference, self._cache), self._small
        files = {path: file.state for of in whole.files.values() for path, file in of.items()}
        earlier = {path: file.state for of in small.files.values() for path, file in of.items()}
        earlier |= self._states
        changed = {path for path in {*files, *earlier} if files.get(path) != earlier.get(path)}
        if changed:
            raise CheckpointChanged(
                f"{min(changed)} was changed, replaced or touched after the run began; run again, and leave the "
                "checkpoint unchanged during the run"
            )
        return whole
