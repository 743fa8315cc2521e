"""Measurements on disk: atomic, locked, checksummed. A damaged entry is as good as none.

One file a measurement, named by its key: a line of JSON with the checksum of what follows, then a
NumPy archive without pickles. Two processes never do the same measurement twice: each holds the
key's lock while it measures, and looks again once it has it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.types import Observations, canonical

FORMAT = 1

ABANDONED = 30
"""Days after which an interrupted training is not taken up again, and its leftovers go."""


def checksum(body: bytes, facts: Mapping[str, str]) -> str:
    """Of everything in an entry that a reader gets back."""
    return hashlib.sha256(canonical(facts).encode() + b"\n" + body).hexdigest()


class Store:
    """A folder of measurements.

    Attributes:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            (folder / "locks").mkdir(parents=True, exist_ok=True)
            (folder / ".gitignore").write_text("*\n", encoding="utf-8")
            self.tidy()
        except OSError as problem:
            raise MechanismError(
                f"the store {folder} cannot be written: {problem.strerror}; choose another with "
                "--mechanism-store, or --mechanism-no-store"
            ) from None

    def tidy(self) -> None:
        """Remove what trainings that nobody took up again have left: each is a copy of a model."""
        unfinished = self.folder / "unfinished"
        old = time.time() - ABANDONED * 86_400
        for path in unfinished.iterdir() if unfinished.is_dir() else ():
            with suppress(OSError):  # another process was faster
                if path.stat().st_mtime < old:
                    shutil.rmtree(path, ignore_errors=True)

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.measurement"

    def scratch(self, key: str) -> Path:
        """Where a long measurement may keep what it would go on from (`Bench.scratch`)."""
        return self.folder / "unfinished" / key

    def discard(self, key: str) -> None:
        """Remove a result that should not have been stored, and what would lead to it again."""
        with suppress(OSError):
            self.path(key).unlink(missing_ok=True)
        self.forget(key)

    def forget(self, key: str) -> None:
        """Remove what an unfinished measurement has kept."""
        shutil.rmtree(self.scratch(key), ignore_errors=True)

    def get(self, key: str) -> Observations | None:
        """The stored result, or None where there is none or it is damaged."""
        try:
            head, _, body = self.path(key).read_bytes().partition(b"\n")
            about = json.loads(head)
            if about["format"] != FORMAT or about["key"] != key:
                return None
            if checksum(body, about["facts"]) != about["sha256"]:
                return None
            with np.load(io.BytesIO(body), allow_pickle=False) as archive:
                return Observations(
                    tuple(archive["example_ids"].tolist()),
                    tuple(archive["clusters"].tolist()),
                    {
                        n.removeprefix("value/"): archive[n]
                        for n in archive.files
                        if n.startswith("value/")
                    },
                    dict(about["facts"]),
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError):
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
        body = buffer.getvalue()
        about = {
            "format": FORMAT,
            "key": key,
            "sha256": checksum(body, dict(seen.facts)),
            "facts": dict(seen.facts),
        }
        temporary = self.path(key).with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_bytes(json.dumps(about).encode() + b"\n" + body)
            os.replace(temporary, self.path(key))
        except OSError as problem:
            temporary.unlink(missing_ok=True)
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
