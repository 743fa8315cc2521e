"""Files that a task's settings name: read when a spec is loaded, identified by content afterwards.

The key of a measurement must hold the content of a file and not its path, and the runner rebuilds
tasks from their settings without a spec's folder. So settings carry a hash, and the content stays
in memory under the hash.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializationInfo,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from pytest_mechanism.errors import MechanismError, choices

FOLDER = "folder"
"""Validation context: the folder that file names are relative to."""

KNOWN_GOOD = "known good"
"""Validation context: the settings were validated when their spec was read."""

BY_CONTENT = {"by content": True}
"""Serialisation context: hashes without names, for keys."""

MAX_BYTES = 64 << 20
"""A list of instructions is far smaller."""

SUFFIXES = (".jsonl", ".txt")
"""What files of tasks usually end with."""

_CONTENT: dict[str, bytes] = {}
"""The files that this process has read, by their hashes."""


def _describe_yaml(schema: dict[str, Any]) -> None:
    """Turn the JSON Schema into that of the YAML forms: a name, or a name with a hash."""
    pinned = {**schema, "required": ["file", "sha256"]}
    schema.clear()
    schema.update({"anyOf": [{"type": "string"}, pinned]})


class DataFile(BaseModel):
    """A file beside a spec. YAML gives its name; ``{file: name, sha256: hash}`` pins its content.

    Attributes:
        file: its name, relative to the spec's folder; empty where only the content is known.
        sha256: of its content.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_extra=_describe_yaml
    )

    file: str = ""
    sha256: str

    @property
    def content(self) -> bytes:
        """The bytes of the file, as read."""
        return _CONTENT[self.sha256]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        """Read the file if the folder is known; otherwise it must have been read before.

        Raises:
            ValueError: missing, unreadable, outside the folder, or not the pinned content.
            MechanismError: no folder is known, and this process has not read the file.
        """
        fields = {"file": value} if isinstance(value, str) else value
        if not isinstance(fields, dict):
            raise ValueError("takes the name of a file beside the spec")  # noqa: TRY004 - pydantic
        name, pinned = fields.get("file"), fields.get("sha256")
        folder = (info.context or {}).get(FOLDER)
        if folder is None:
            if pinned not in _CONTENT:
                raise MechanismError(
                    f"a file of the task, {fields}, was not read in this process; tasks with files "
                    "come from a spec"
                )
            return fields
        if not isinstance(name, str) or not name:
            raise ValueError("takes the name of a file beside the spec")
        content = _read_file(Path(folder), name)
        digest = hashlib.sha256(content).hexdigest()
        if pinned is not None and pinned != digest:
            raise ValueError(f"{name} is not the file that was pinned: its sha256 is {digest}")
        _CONTENT[digest] = content
        return {**fields, "sha256": digest}

    @model_serializer(mode="plain")
    def _plain(self, info: SerializationInfo) -> dict[str, str]:
        """With the name, so that the file can be read again; without it `BY_CONTENT`."""
        if info.context == BY_CONTENT or not self.file:
            return {"sha256": self.sha256}
        return {"file": self.file, "sha256": self.sha256}


def _read_file(folder: Path, name: str) -> bytes:
    """The content of a file below a folder; a ValueError says why it cannot be read."""
    try:
        path = (folder / name).resolve()
        inside, exists = path.is_relative_to(folder.resolve()), path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, a loop of links
        raise ValueError(f"{name[:60]!r} cannot be the name of a file") from None
    # a spec reaches its own folder and no further
    if not inside:
        raise ValueError(f"{name} lies outside the spec's folder")
    if not exists:
        raise ValueError(f"no file {name}; {choices(name, _candidates(folder, name))}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(
                f"{name} is larger than {MAX_BYTES >> 20} MiB; take a sample of its lines"
            )
        return path.read_bytes()
    except OSError as problem:
        raise ValueError(f"{name} cannot be read: {problem.strerror}") from None


def _candidates(folder: Path, name: str) -> list[str]:
    """Files that may have been meant, in the folder or where the name points: files with the same
    suffix, or else other files of data."""
    files: list[Path] = []
    for place in {(folder / name).parent, folder}:
        with contextlib.suppress(OSError):
            files += [p for p in place.iterdir() if p.is_file()]
    same = [p for p in files if p.suffix == Path(name).suffix]
    return [str(p.relative_to(folder)) for p in same or files if same or p.suffix in SUFFIXES]
