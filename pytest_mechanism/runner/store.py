"""Measurements on disk: atomic, locked, checksummed. A damaged entry is as good as none.

One file a measurement, named by its key: a line of JSON with a checksum of the key and of what
follows, then a NumPy archive without pickles. The checksum finds accidents; whoever can write the
folder can forge an entry. Two processes never do the same measurement twice: each holds the
key's lock while it measures, and looks again once it has it.
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

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import open_file, write_bytes
from pytest_mechanism.types import Observations, Result_co, canonical

FORMAT = 3

ABANDONED = 30
"""Days after which an interrupted training is not taken up again, and its leftovers go."""
STALE = 3600
"""Seconds after which a temporary file that no lock belongs to was left by a process that died."""

MOST = 1 << 32
"""Bytes of an entry, and of what it holds when it is unpacked."""
MOST_HEAD = 1 << 24

KEY = re.compile(r"[0-9a-f]{64}")

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError)
"""What reading something else than an entry raises."""


ROW_FIELDS = {"example_ids", "clusters", "values"}
"""Fields of `Observations` with an entry for each row: they are in the archive, the others in the
header."""


def checksum(key: str, body: bytes, kind: str, others: Mapping[str, Any]) -> str:
    """Of everything in an entry that a reader gets back, and of its measurement."""
    about = f"{FORMAT}\n{key}\n{kind}\n{canonical(others)}\n"
    return hashlib.sha256(about.encode() + body).hexdigest()


def name_of(kind: type[Observations]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


class Store:
    """A folder of measurements.

    Attributes:
        folder: where they are.
    """

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
        """Remove what processes that died have left: temporary files, trainings that nobody took up
        again (each is a copy of a model), and locks of long ago. Whatever a live process is at has its
        lock held, and stays."""
        unfinished = self.folder / "unfinished"
        old = time.time() - ABANDONED * 86_400
        for path in (*self.folder.glob("*.tmp"), *unfinished.glob("*/*.tmp")):
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
                        if free:  # who waits for it sees that it is gone, and makes another
                            path.unlink()

    @contextmanager
    def _free(self, key: str) -> Iterator[bool]:
        """Whether no process is at a measurement, and none begins with it meanwhile."""
        try:
            with FileLock(self.folder / "locks" / f"{key}.lock", timeout=0):
                yield True
        except (Timeout, OSError):
            yield False

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.measurement"

    def scratch(self, key: str) -> Path:
        """Where a long measurement may keep what it would go on from (`MeasurementContext.scratch`)."""
        return self.folder / "unfinished" / key

    def discard(self, key: str) -> None:
        """Remove a result that should not have been stored, and what would lead to it again."""
        with suppress(OSError):
            self.path(key).unlink(missing_ok=True)
        self.forget(key)

    def forget(self, key: str) -> None:
        """Remove what an unfinished measurement has kept."""
        shutil.rmtree(self.scratch(key), ignore_errors=True)

    def get(self, key: str, kind: type[Result_co]) -> Result_co | None:
        """The stored result; None where there is none, it is damaged, or of another class."""
        try:
            with open_file(self.path(key), MOST) as file:
                about = json.loads(file.readline(MOST_HEAD))
                if (about["format"], about["key"], about["class"]) != (FORMAT, key, name_of(kind)):
                    return None
                left = os.fstat(file.fileno()).st_size - file.tell()
                if about["bytes"] != left:  # not that which was written, however large it is
                    return None
                body = file.read(left + 1)
            if checksum(key, body, about["class"], about["fields"]) != about["sha256"]:
                return None
            with np.load(io.BytesIO(body), allow_pickle=False) as archive:
                if sum(each.file_size for each in archive.zip.infolist()) > MOST:
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
            return TypeAdapter(kind).validate_python({**about["fields"], **rows})
        except (MechanismError, *DAMAGE):
            return None

    def put(self, key: str, seen: Observations) -> None:
        """Write an entry; readers see all of it or nothing."""
        buffer = io.BytesIO()
        arrays = {
            f"value/{name}": np.asarray(v, dtype=np.float64) for name, v in seen.values.items()
        }
        np.savez_compressed(
            buffer,
            example_ids=np.array(list(seen.example_ids), dtype=np.str_),
            clusters=np.array(list(seen.clusters), dtype=np.str_),
            **arrays,  # type: ignore[arg-type]
        )
        body, kind = buffer.getvalue(), type(seen)
        others = TypeAdapter(kind).dump_python(seen, mode="json", exclude=ROW_FIELDS)
        about = {
            "format": FORMAT,
            "key": key,
            "class": name_of(kind),
            "bytes": len(body),
            "sha256": checksum(key, body, name_of(kind), others),
            "fields": others,
        }
        try:
            write_bytes(self.path(key), json.dumps(about).encode() + b"\n" + body, durable=False)
        except OSError as problem:
            raise MechanismError(
                f"the store {self.folder} cannot be written: {problem.strerror}"
            ) from None

    @contextmanager
    def lock(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Held while a measurement is made. Released by the system if the process dies.

        Args:
            key: of the measurement.
            wait: for another process that holds it; otherwise the context gets False.
        """
        patience = 6 * 3600 if wait else 0
        lock = FileLock(self.folder / "locks" / f"{key}.lock", timeout=patience)
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
        try:
            yield True
        finally:
            lock.release()
