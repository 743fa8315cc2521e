"""Results on disk: atomic, locked, checksummed. A damaged entry is measured again.

Each result has one file, named by its key: a line of JSON with a checksum of the key and of the rest, then
a NumPy archive without pickles. The checksum detects accidents; whoever can write to the folder can forge
an entry. Two processes never make the same measurement: each holds the lock of the key while it measures,
and looks for the result again once it has the lock.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from pytest_mechanism.errors import MechanismError, crash
from pytest_mechanism.files import open_file, write_bytes
from pytest_mechanism.types import Observations, Result_co, canonical

FORMAT = 3

ABANDONED = 30
"""Days after which an interrupted training is removed instead of resumed."""

STALE = 3600
"""Seconds after which a temporary file without a lock must come from a process that died."""

MAX_BYTES = 1 << 32
"""Size limit of an entry, and of its unpacked archive."""

MAX_HEADER = 1 << 24

KEY = re.compile(r"[0-9a-f]{64}")

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError)
"""What reading a file that is no entry raises."""

ROW_FIELDS = {"example_ids", "clusters", "values"}
"""Fields of `Observations` with an entry for each row, which the archive holds. The header holds the
others."""


def checksum(key: str, body: bytes, kind: str, others: Mapping[str, Any]) -> str:
    """sha256 of everything that a reader gets from an entry, and of its key."""
    about = f"{FORMAT}\n{key}\n{kind}\n{canonical(others)}\n"
    return hashlib.sha256(about.encode() + body).hexdigest()


def name_of(kind: type[Observations]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


ADAPTERS: dict[type, TypeAdapter[Any]] = {}
"""Class of a result -> what reads and writes it; building one compiles a schema."""


def adapter(kind: type[Result_co]) -> TypeAdapter[Result_co]:
    """Reads and writes a class of results."""
    if kind not in ADAPTERS:
        ADAPTERS[kind] = TypeAdapter(kind)
    return ADAPTERS[kind]


class Store:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            (folder / "locks").mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(folder / ".gitignore"):
                (folder / ".gitignore").write_text("*\n", encoding="utf-8")
            self.tidy()
        except OSError as problem:
            raise MechanismError(
                f"the store {folder} cannot be written: {problem.strerror}; choose another with "
                "--mechanism-store, or --mechanism-no-store"
            ) from None

    def tidy(self) -> None:
        """Removes what processes that died have left: temporary files, interrupted trainings that were
        not resumed (each is a copy of a model), and old locks. What a live process uses stays, because
        that process holds its lock."""
        unfinished = self.folder / "unfinished"
        old = time.time() - ABANDONED * 86_400
        below = ("*.tmp", "estimates/*.tmp", "unfinished/*/*.tmp")
        for path in (path for names in below for path in self.folder.glob(names)):
            own = path.parent.name if path.parent != self.folder else path.name.partition(".")[0]
            with self._free(own) as free, suppress(OSError):
                if free and (KEY.fullmatch(own) or path.lstat().st_mtime < time.time() - STALE):
                    path.unlink()
        for path in unfinished.iterdir() if unfinished.is_dir() else ():
            with suppress(OSError):  # another process was faster
                if path.stat().st_mtime < old:
                    with self._free(path.name) as free:
                        if free:
                            shutil.rmtree(path, ignore_errors=True)
        for path in (self.folder / "locks").glob("*.lock"):
            with suppress(OSError):
                if path.lstat().st_mtime < old:
                    with self._free(path.stem) as free:
                        if free:  # a process that waits for it creates it again
                            path.unlink()

    @contextmanager
    def _free(self, key: str) -> Iterator[bool]:
        """Whether no process makes a measurement; none can begin with it inside the block."""
        try:
            with FileLock(self.folder / "locks" / f"{key}.lock", timeout=0):
                yield True
        except (Timeout, OSError):
            yield False

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.measurement"

    def estimates(self, name: str) -> Path:
        """File of the estimates of a claim (`statistics.kept`), whose name is like a key."""
        return self.folder / "estimates" / f"{name}.json"

    def scratch(self, key: str) -> Path:
        """Folder from which a long measurement resumes (`MeasurementContext.scratch`)."""
        return self.folder / "unfinished" / key

    def discard(self, key: str) -> None:
        """Removes a result that should not have been stored, and its unfinished work."""
        with suppress(OSError):
            self.path(key).unlink(missing_ok=True)
        self.forget(key)

    def forget(self, key: str) -> None:
        """Removes the work of an unfinished measurement."""
        shutil.rmtree(self.scratch(key), ignore_errors=True)

    def get(self, key: str, kind: type[Result_co]) -> Result_co | None:
        """The stored result; None if there is none, or it is damaged or of another class."""
        try:
            with open_file(self.path(key), MAX_BYTES) as file:
                header = json.loads(file.readline(MAX_HEADER))
                if (header["format"], header["key"], header["class"]) != (
                    FORMAT,
                    key,
                    name_of(kind),
                ):
                    return None
                left = os.fstat(file.fileno()).st_size - file.tell()
                if header["bytes"] != left:  # damaged; nothing is read, however large the file is
                    return None
                body = file.read(left + 1)
            if checksum(key, body, header["class"], header["fields"]) != header["sha256"]:
                return None
            with np.load(io.BytesIO(body), allow_pickle=False) as archive:
                if sum(member.file_size for member in archive.zip.infolist()) > MAX_BYTES:
                    return None
                rows = {
                    "example_ids": tuple(archive["example_ids"].tolist()),
                    "clusters": tuple(archive["clusters"].tolist()),
                    "values": {
                        n.removeprefix("value/"): archive[n]
                        for n in archive.files
                        if n.startswith("value/")
                    },
                }
            return adapter(kind).validate_python({**header["fields"], **rows})
        except (MechanismError, *DAMAGE):
            return None

    def put(self, key: str, result: Observations) -> None:
        """Writes an entry. Readers see all of it or nothing.

        Raises:
            MechanismError: the folder cannot be written, or the result has a field that is no data.
        """
        buffer, kind = io.BytesIO(), type(result)
        try:
            others = adapter(kind).dump_python(result, mode="json", exclude=ROW_FIELDS)
        except Exception as problem:
            raise crash(f"a result of class {name_of(kind)} cannot be stored", problem) from problem
        arrays = {
            f"value/{name}": np.asarray(v, dtype=np.float64) for name, v in result.values.items()
        }
        np.savez_compressed(
            buffer,
            example_ids=np.array(list(result.example_ids), dtype=np.str_),
            clusters=np.array(list(result.clusters), dtype=np.str_),
            **arrays,  # type: ignore[arg-type]
        )
        body = buffer.getvalue()
        header = {
            "format": FORMAT,
            "key": key,
            "class": name_of(kind),
            "bytes": len(body),
            "sha256": checksum(key, body, name_of(kind), others),
            "fields": others,
        }
        try:
            write_bytes(self.path(key), json.dumps(header).encode() + b"\n" + body, durable=False)
        except OSError as problem:
            raise MechanismError(
                f"the store {self.folder} cannot be written: {problem.strerror}"
            ) from None

    @contextmanager
    def lock(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Holds the lock of a measurement. The system releases it if the process dies.

        Args:
            key: of the measurement.
            wait: whether to wait for a process that holds it; if not, the context gets False.
        """
        seconds = 6 * 3600 if wait else 0
        lock = FileLock(self.folder / "locks" / f"{key}.lock", timeout=seconds)
        try:
            lock.acquire()
        except Timeout:
            if not wait:
                yield False
                return
            raise MechanismError(
                f"another process has held the lock of measurement {key[:12]} for six hours; "
                f"if none runs, delete {self.folder / 'locks'}"
            ) from None
        except OSError as problem:  # such as a lock of another user
            raise MechanismError(
                f"the store {self.folder} cannot be written: {problem.strerror}: {problem.filename}"
            ) from None
        try:
            yield True
        finally:
            lock.release()
