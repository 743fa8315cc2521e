"""Fingerprints: a content hash of everything in a checkpoint that can change a result.

The tokenizer of a GGUF file has the hash of the entries from which it is made, so that two quantisations
of one model have the same tokenizer.

Hashing a large folder takes minutes, so `checkpoints.hash_cache` keeps the hashes of files, and a
file is read again only if it may have changed. The weights of a pair's second checkpoint can be hashed
while the first is measured (`checkpoints.read_ahead`). A fingerprint also keeps the state of every hashed
file, so that a run can check after loading that none has changed (`checkpoints.watch`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from pytest_mechanism.checkpoints import file_state
from pytest_mechanism.checkpoints.contents import WEIGHTS, checked_files
from pytest_mechanism.checkpoints.file_state import State, state_of
from pytest_mechanism.checkpoints.gguf_file import checked_header
from pytest_mechanism.checkpoints.hash_cache import HashCache
from pytest_mechanism.checkpoints.quantisers import library
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.checkpoints.trust import MOST_WEIGHTS
from pytest_mechanism.errors import CheckpointChanged, MechanismError
from pytest_mechanism.files import GGUF, is_gguf, open_file

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class HashedFile:
    """The hash of a file, and the file's state when its bytes were read.

    Attributes:
        digest: SHA-256 of the bytes, as hex.
        state: the file's metadata (`checkpoints.file_state`).
        read_at: when reading began, in nanoseconds since 1970.
    """

    digest: str
    state: State
    read_at: int


@dataclass(frozen=True)
class Fingerprint:
    """Content hashes of a checkpoint.

    Attributes:
        model: hash of all relevant files, as hex.
        tokenizer: hash of the tokenizer's files alone, as hex.
        adapted: whether PEFT merges an adapter into the checkpoint.
        library: the package that reads the weights, such as gguf; empty if transformers does it alone.
        folders: hashed folder -> its times (entries changed, folder changed).
        files: hashed folder -> its hashed files.
    """

    model: str
    tokenizer: str
    adapted: bool = False
    library: str = ""
    folders: dict[Path, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)
    files: dict[Path, dict[Path, HashedFile]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def short(self) -> str:
        return self.model[:12]

    @property
    def known(self) -> bool:
        """Whether `model` and `files` are there without reading the weights."""
        return True

    @property
    def small_files(self) -> dict[Path, dict[Path, HashedFile]]:
        """`files`, or all of them but the weights while these are not `known`."""
        return self.files

    def read_ahead(self) -> None:
        """Begins to read what is not `known`, in the background."""


def of_reference(
    reference: Reference, cache: Path | None = None, weights: bool = True
) -> Fingerprint:
    """The fingerprint of a checkpoint, with its adapter if it has one.

    Args:
        reference: the checkpoint.
        cache: the JSON file of a `HashCache`.
        weights: False leaves out the files of weights, so that `Fingerprint.model` tells no models apart.

    Raises:
        MechanismError: a file cannot be read.
    """
    base = fingerprint(reference.folder, cache, weights)
    if reference.adapter is None:
        return base
    adapter = fingerprint(reference.adapter, cache, weights)
    own = reference.tokenizer == reference.adapter
    return Fingerprint(
        _combine({"base": base.model, "adapter": adapter.model}),
        adapter.tokenizer if own else base.tokenizer,
        adapted=True,
        library=base.library,
        folders={**base.folders, **adapter.folders},
        files={**base.files, **adapter.files},
    )


def fingerprint(folder: Path, cache: Path | None = None, weights: bool = True) -> Fingerprint:
    """The fingerprint of a folder or a GGUF file; see `of_reference`.

    Raises:
        CheckpointChanged: a file changed during reading.
        MechanismError: a file cannot be read.
    """
    hashes = HashCache(cache)
    try:
        times = times_of(folder)
        files = {
            path: _hashed(path, hashes)
            for path in checked_files(folder)
            if weights or path.suffix not in WEIGHTS
        }
    except OSError as problem:
        raise MechanismError(f"{folder} cannot be read: {problem.strerror}") from None
    hashes.save()
    if is_gguf(folder):
        (file,) = files.values()
        digests = {GGUF: file.digest}
        tokenizer = {GGUF: checked_header(folder).tokenizer}
    else:
        digests = {path.relative_to(folder).as_posix(): file.digest for path, file in files.items()}
        tokenizer = {name: digests[name] for name in TOKENIZER if name in digests}
    return Fingerprint(
        _combine(digests),
        _combine(tokenizer),
        library=library(folder),
        folders={folder: times},
        files={folder: files},
    )


def times_of(folder: Path) -> tuple[int, int]:
    """When entries of a folder last changed, and when the folder itself did."""
    status = folder.stat()
    return status.st_mtime_ns, status.st_ctime_ns


def _hashed(path: Path, hashes: HashCache) -> HashedFile:
    """From the cache, or hashed now."""
    try:
        state = state_of(path)
        if (cached := hashes.get(path, state)) is not None:
            return HashedFile(cached[0], state, cached[1])
        file = hash_file(path, state)
    except OSError as problem:
        raise MechanismError(f"{path} cannot be read: {problem.strerror}") from None
    hashes.put(path, file.state, file.digest, file.read_at)
    return file


def hash_file(path: Path, state: State) -> HashedFile:
    """Reads and hashes a file whose state was just taken.

    Raises:
        CheckpointChanged: it changed meanwhile.
        OSError, MechanismError: it cannot be read.
    """
    read_at = file_state.now()
    digest = _hash(path)
    if state_of(path) != state:
        raise CheckpointChanged(f"{path} changed during reading")
    return HashedFile(digest, state, read_at)


CHUNK = 1 << 24
"""Bytes that are read and hashed at a time. Both let other threads run; after each, a thread may wait 5 ms until a
measurement lets it go on, so that small pieces would take far longer beside one."""


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open_file(path, MOST_WEIGHTS) as file:
        piece = memoryview(bytearray(min(CHUNK, max(1, path.stat().st_size))))
        while count := file.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


def _combine(digests: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
