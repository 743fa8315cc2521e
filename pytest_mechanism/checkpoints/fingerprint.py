"""A content hash of everything in a checkpoint folder that can change a result.

Hashing a large folder takes minutes, so a hash is remembered by path, size and time of change:
a file is read again only when one of them differs.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from pytest_mechanism.checkpoints import trust
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.checkpoints.shape import read_config
from pytest_mechanism.errors import MechanismError

COUNTED = {".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken"}
NOT_COUNTED = {"recipe.json"}
"""How a checkpoint came to be does not change what it computes."""

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Fingerprint:
    """Content hashes of a checkpoint.

    Attributes:
        model: of every counted file, as hex.
        tokenizer: of the tokenizer's files alone, as hex.
        adapted: whether an adapter is merged in, for which PEFT takes part.
    """

    model: str
    tokenizer: str
    adapted: bool = False

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
    )


def fingerprint(folder: Path, memory: Path | None = None) -> Fingerprint:
    """Hash a checkpoint folder; ``memory`` is a JSON file that remembers file hashes.

    Raises:
        MechanismError: a file cannot be read.
    """
    remembered = _read(memory)
    hashes: dict[str, str] = {}
    seen: dict[str, str] = {}
    for path in counted(folder):
        stat = path.stat()
        # the inode and nanoseconds make a swapped file of equal size visible
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
        try:
            digest = remembered.get(key) or _hash(path)
        except OSError as problem:
            raise MechanismError(f"{path} cannot be read: {problem.strerror}") from None
        hashes[path.relative_to(folder).as_posix()] = seen[key] = digest
    if memory is not None and any(k not in remembered for k in seen):
        _write(memory, {**remembered, **seen})
    tokenizer = {name: hashes[name] for name in TOKENIZER if name in hashes}
    return Fingerprint(_combine(hashes), _combine(tokenizer))


def counted(folder: Path) -> list[Path]:
    """The files that a result depends on: pickled weights and code only where they are used."""
    plain = [p for p in folder.iterdir() if p.suffix in COUNTED and p.name not in NOT_COUNTED]
    try:
        code = trust.code(folder, read_config(folder))
    except MechanismError:  # an adapter's folder has no config.json
        code = []
    return [p for p in sorted({*plain, *trust.pickled(folder), *code}) if p.is_file()]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _combine(hashes: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _read(memory: Path | None) -> dict[str, str]:
    if memory is None:
        return {}
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, str)}


def _write(memory: Path, hashes: dict[str, str]) -> None:
    """Atomic; another process's concurrent additions may be lost, which costs one hash."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_name(f"{memory.name}.{os.getpid()}")
        temporary.write_text(json.dumps(hashes), encoding="utf-8")
        os.replace(temporary, memory)
    except OSError:
        return  # remembering saves time, nothing more
