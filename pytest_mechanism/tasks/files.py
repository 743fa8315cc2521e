"""Files that a task's settings name: read when a spec is loaded, known by content afterwards.

The key of a measurement must hold what a file says and not where it lies, and the runner builds
tasks again from their settings where no spec's folder is known. So settings carry a hash, and what
this process has read stays at hand under it.
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
"""Validation context: the folder that names are relative to."""

KNOWN_GOOD = "known good"
"""Validation context: the settings were validated when their spec was read."""

BY_CONTENT = {"by content": True}
"""Serialisation context: hashes without names, for keys."""

LARGEST = 64 << 20
"""Bytes; a list of instructions is far smaller."""

KINDS = (".jsonl", ".txt")
"""What files of tasks are called."""

_READ: dict[str, bytes] = {}


def as_written(schema: dict[str, Any]) -> None:
    """JSON Schema of what YAML may say: a name, or a name with a hash."""
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
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra=as_written,
    )

    file: str = ""
    sha256: str

    @property
    def content(self) -> bytes:
        """What was read."""
        return _READ[self.sha256]

    @model_validator(mode="before")
    @classmethod
    def found(cls, value: Any, info: ValidationInfo) -> Any:
        """Read the file, where a folder is known; otherwise it must have been read before.

        Raises:
            ValueError: missing, unreadable, outside the folder, or not what was pinned.
            MechanismError: no folder is known, and this process has not read it.
        """
        given = {"file": value} if isinstance(value, str) else value
        if not isinstance(given, dict):
            raise ValueError("takes the name of a file beside the spec")  # noqa: TRY004 - pydantic
        folder = (info.context or {}).get(FOLDER)
        if folder is None:
            if given.get("sha256") not in _READ:
                raise MechanismError(
                    f"a file of the task, {given}, was not read in this process; tasks with files "
                    "come from a spec"
                )
            return given
        name, pinned = given.get("file"), given.get("sha256")
        if not isinstance(name, str) or not name:
            raise ValueError("takes the name of a file beside the spec")
        content = read(Path(folder), name)
        digest = hashlib.sha256(content).hexdigest()
        if pinned is not None and pinned != digest:
            raise ValueError(f"{name} is not the file that was pinned: its sha256 is {digest}")
        _READ[digest] = content
        return {**given, "sha256": digest}

    @model_serializer(mode="plain")
    def plain(self, info: SerializationInfo) -> dict[str, str]:
        """With its name, so that it can be read again; without where content alone counts."""
        if info.context == BY_CONTENT or not self.file:
            return {"sha256": self.sha256}
        return {"file": self.file, "sha256": self.sha256}


def read(folder: Path, name: str) -> bytes:
    """The content of a file below a folder.

    Raises:
        ValueError: it cannot be had.
    """
    try:
        path = (folder / name).resolve()
        inside, exists = path.is_relative_to(folder.resolve()), path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, a loop of links
        raise ValueError(f"{name[:60]!r} cannot be the name of a file") from None
    # a spec reaches its own folder and no further
    if not inside:
        raise ValueError(f"{name} lies outside the spec's folder")
    if not exists:
        raise ValueError(f"no file {name}; {choices(name, beside(folder, name))}")
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(
                f"{name} is larger than {LARGEST >> 20} MiB; take a sample of its lines"
            )
        return path.read_bytes()
    except OSError as problem:
        raise ValueError(f"{name} cannot be read: {problem.strerror}") from None


def beside(folder: Path, name: str) -> list[str]:
    """Files that may have been meant: of the same kind or of another kind of data, in the folder or
    where the name points."""
    there: list[Path] = []
    for each in {(folder / name).parent, folder}:
        with contextlib.suppress(OSError):
            there += [p for p in each.iterdir() if p.is_file()]
    alike = [p for p in there if p.suffix == Path(name).suffix]
    found = alike or [p for p in there if p.suffix in KINDS]
    return [str(p.relative_to(folder)) for p in found]
