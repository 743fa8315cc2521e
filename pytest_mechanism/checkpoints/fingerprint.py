"""A content hash of everything in a checkpoint folder that can change a result.

Hashing a large folder takes minutes, so the hash of a file is remembered (`checkpoints.hash_cache`) and
the file is read again only where it may have changed. A fingerprint also keeps the state of every
file that it was taken of, so that a run can look again after it has loaded them (`checkpoints.watch`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from pytest_mechanism.checkpoints import file_state
from pytest_mechanism.checkpoints.contents import counted
from pytest_mechanism.checkpoints.file_state import State, state_of
from pytest_mechanism.checkpoints.hash_cache import Memory
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.checkpoints.trust import MOST_WEIGHTS
from pytest_mechanism.errors import CheckpointChanged, MechanismError
from pytest_mechanism.files import open_file

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Seen:
    """A file of a checkpoint when its bytes were read.

    Attributes:
        digest: of its bytes.
        state: what the system said about it.
        read_at: when reading began, in nanoseconds since 1970.
    """

    digest: str
    state: State
    read_at: int


@dataclass(frozen=True)
class Fingerprint:
    """Content hashes of a checkpoint.

    Attributes:
        model: of every counted file, as hex.
        tokenizer: of the tokenizer's files alone, as hex.
        adapted: whether an adapter is merged in, for which PEFT takes part.
        folders: those that were hashed, and their times (entries changed, folder changed).
        seen: folder -> the files in it that were hashed.
    """

    model: str
    tokenizer: str
    adapted: bool = False
    folders: dict[Path, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)
    seen: dict[Path, dict[Path, Seen]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def short(self) -> str:
        return self.model[:12]


def of_reference(reference: Reference, memory: Path | None = None) -> Fingerprint:
    """Of a checkpoint, with its adapter where it has one.

    Raises:
        MechanismError: a file cannot be read.
    """
    base = fingerprint(reference.folder, memory)
    if reference.adapter is None:
        return base
    adapter = fingerprint(reference.adapter, memory)
    own = reference.tokenizer == reference.adapter
    return Fingerprint(
        _combine({"base": base.model, "adapter": adapter.model}),
        adapter.tokenizer if own else base.tokenizer,
        adapted=True,
        folders={**base.folders, **adapter.folders},
        seen={**base.seen, **adapter.seen},
    )


def fingerprint(folder: Path, memory: Path | None = None) -> Fingerprint:
    """Hash a checkpoint folder; ``memory`` is a JSON file that remembers file hashes.

    Raises:
        CheckpointChanged: a file changed while it was read.
        MechanismError: a file cannot be read.
    """
    remembered = Memory(memory)
    try:
        times = times_of(folder)
        seen = {path: _seen(path, remembered) for path in counted(folder)}
    except OSError as problem:
        raise MechanismError(f"{folder} cannot be read: {problem.strerror}") from None
    remembered.save()
    hashes = {path.relative_to(folder).as_posix(): each.digest for path, each in seen.items()}
    tokenizer = {name: hashes[name] for name in TOKENIZER if name in hashes}
    return Fingerprint(
        _combine(hashes), _combine(tokenizer), folders={folder: times}, seen={folder: seen}
    )


def times_of(folder: Path) -> tuple[int, int]:
    """When entries of a folder, and when the folder itself, changed last."""
    status = folder.stat()
    return status.st_mtime_ns, status.st_ctime_ns


def _seen(path: Path, remembered: Memory) -> Seen:
    try:
        state = state_of(path)
        if (known := remembered.get(path, state)) is not None:
            return Seen(known[0], state, known[1])
        found = hashed(path, state)
    except OSError as problem:
        raise MechanismError(f"{path} cannot be read: {problem.strerror}") from None
    remembered.put(path, found.state, found.digest, found.read_at)
    return found


def hashed(path: Path, state: State) -> Seen:
    """A file whose state was just taken, read now.

    Raises:
        CheckpointChanged: it changed meanwhile.
        OSError, MechanismError: it cannot be read.
    """
    read_at = file_state.now()
    digest = _hash(path)
    if state_of(path) != state:
        raise CheckpointChanged(f"{path} changed while it was read")
    return Seen(digest, state, read_at)


def _hash(path: Path) -> str:
    with open_file(path, MOST_WEIGHTS) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _combine(hashes: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
