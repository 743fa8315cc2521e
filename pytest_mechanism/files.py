"""Reading files that somebody else made, and writing files atomically.

A file to be read must be a regular file of a limited size: opening a named pipe waits for a writer, a
device never ends, and a file of many gigabytes fills the memory. `BadFile` refuses each of them before
its first byte is read. All atomic writing of the package goes through `replacing`. This module imports
nothing heavy, so that specs, checkpoints and the store can all use it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import MechanismError

GGUF = ".gguf"
"""The ending of a file that is a whole checkpoint (`checkpoints.gguf_file`)."""

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_gguf(path: Path) -> bool:
    """Whether a checkpoint's path is a GGUF file, by its name, and no folder."""
    return path.suffix.lower() == GGUF and not path.is_dir()


class BadFile(MechanismError):
    """A path that exists and is not a readable regular file of a permitted size.

    Attributes:
        path: the file.
        problem: what is wrong with it; the message begins with the path.
    """

    def __init__(self, path: Path, problem: str, where: str | None = None) -> None:
        super().__init__(f"{path} {problem}", where)
        self.path, self.problem = path, problem

    def at(self, where: str) -> BadFile:
        return self if self.where else BadFile(self.path, self.problem, where)


def check_file(path: Path, max_bytes: int) -> os.stat_result:
    """The status of a regular file of at most ``max_bytes`` bytes; its content is not read.

    Raises:
        FileNotFoundError: the path does not exist.
        BadFile: a folder, pipe, device, socket, dangling or looping link, a file that is too large, or
            a file without permission.
    """
    try:
        return _checked(path, path.stat(), max_bytes)
    except OSError as problem:
        raise _as_bad_file(path, problem) from None
    except ValueError as problem:  # a null character in the name
        raise BadFile(path, f"cannot be read: {problem}") from None


@contextmanager
def open_file(path: Path, max_bytes: int) -> Iterator[BufferedReader]:
    """The file, open for reading in binary.

    Raises:
        FileNotFoundError: the path does not exist.
        BadFile: as in `check_file`, or reading failed.
    """
    check_file(path, max_bytes)  # merely opening a device can have effects
    try:
        # without blocking: a pipe may have replaced the file in the meantime
        number = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
        with open(number, "rb") as file:  # noqa: PTH123 - a descriptor
            _checked(path, os.fstat(number), max_bytes)
            yield file
    except OSError as problem:
        raise _as_bad_file(path, problem) from None


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most ``max_bytes`` bytes.

    Raises:
        FileNotFoundError: the path does not exist.
        BadFile: as in `open_file`.
    """
    with open_file(path, max_bytes) as file:
        content = file.read(max_bytes + 1)  # it may grow meanwhile, and files of /proc have size 0
    if len(content) > max_bytes:
        raise _too_large(path, max_bytes)
    return content


def read_text(path: Path, max_bytes: int) -> str:
    """The content of a UTF-8 file.

    Raises:
        FileNotFoundError: the path does not exist.
        BadFile: as in `open_file`, or the content is not UTF-8.
    """
    try:
        return read_bytes(path, max_bytes).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise BadFile(path, f"is not UTF-8: {problem.reason} at byte {problem.start}") from None


def read_json(path: Path, max_bytes: int) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: the path does not exist.
        BadFile: as in `read_text`, or the text is not JSON.
    """
    text = read_text(path, max_bytes)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise BadFile(path, f"cannot be read as JSON: {problem}") from None


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A free name in the folder of ``path``; a file of that name is removed at the end."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary file for the caller to write. It replaces ``path`` when the block ends without an
    error, so that a reader sees the old file or all of the new one.

    Args:
        path: the file to be replaced.
        durable: whether the new content must survive a power failure; False for what can be computed
            again.

    Raises:
        OSError: the file cannot be written; the old one is still there.
    """
    with temporary_beside(path) as temporary:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file atomically; see `replacing`."""
    with replacing(path, durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; see `replacing`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any, sort_keys: bool = False) -> None:
    """Write indented JSON atomically; see `replacing`."""
    text = json.dumps(content, indent=1, sort_keys=sort_keys, allow_nan=False)
    write_text(path, f"{text}\n")


FIRST_BYTES = 2000
"""In which a report's mark stands."""


def begins_with_mark(path: Path, mark: str) -> bool:
    """Whether a file is a report of ours, which a later one may replace: its first bytes hold the mark."""
    try:
        with open_file(path, sys.maxsize) as file:
            return mark.encode() in file.read(FIRST_BYTES)
    except (OSError, BadFile):
        return False


def check_replaceable(path: Path, mark: str | None) -> None:
    """Check that a report may be written to a path: nothing is there, an empty file, or an earlier report of the same
    kind.

    Args:
        path: of the report.
        mark: see `begins_with_mark`; None where no file may be replaced.

    Raises:
        MechanismError: another file is there.
    """
    if not (path.exists() or path.is_symlink()) or is_empty(path):
        return
    if mark is None or not begins_with_mark(path, mark):
        known = "" if mark is None else " and is no such output of pytest-mechanism"
        raise MechanismError(
            f"{path} exists{known}, so it is not replaced; choose another path, or remove it"
        )


def is_empty(path: Path) -> bool:
    """Whether a path is a regular file without content, such as ``mktemp`` makes."""
    return path.is_file() and path.stat().st_size == 0


def check_output(path: Path, mark: str) -> None:
    """Check that a report can be written, without harm to another file.

    Args:
        path: of the report.
        mark: see `begins_with_mark`.

    Raises:
        MechanismError: it cannot.
    """
    try:
        if path.is_dir():
            raise MechanismError(f"{path} cannot be written: is a folder; name a file")
        if not path.parent.is_dir():
            raise MechanismError(f"{path} cannot be written: no such folder")
        check_replaceable(path, mark)
        with temporary_beside(path) as temporary:
            temporary.touch()
    except OSError as problem:
        raise MechanismError(f"{path} cannot be written: {problem.strerror}") from None


def check_folder(folder: Path) -> None:
    """Check that files can be written to a folder, which need not exist yet.

    Raises:
        MechanismError: they cannot.
    """
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise MechanismError(f"{folder} cannot be written: {existing} is a file")
        with temporary_beside(existing / folder.name) as temporary:
            temporary.touch()
    except OSError as problem:
        raise MechanismError(f"{folder} cannot be written: {problem.strerror}") from None


def remove_output(path: Path, mark: str) -> None:
    """Remove the report of an earlier run, and no other file: a run that writes none must not leave that one behind."""
    if begins_with_mark(path, mark):
        with suppress(OSError):  # `check_output` says what is wrong with the folder
            path.unlink()


@contextmanager
def alone(path: Path, name: str) -> Iterator[Path]:
    """A temporary folder that holds nothing but a link to a file, under another name. A library that looks
    for further files beside it finds none.

    Raises:
        OSError: the link cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="mechanism-") as folder:
        link = Path(folder) / name
        try:
            link.symlink_to(path.absolute())
        except OSError:  # Windows, without the right to make symbolic links
            link.hardlink_to(path)
        yield Path(folder)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder for the caller to fill. It takes the name ``path``, where nothing or an empty
    folder may be, when the block ends without an error.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def size(count: int) -> str:
    """A number of bytes in a readable unit."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} bytes"


def _checked(path: Path, status: os.stat_result, max_bytes: int) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in KINDS if is_kind(status.st_mode)), "something else")
        raise BadFile(path, f"is {kind}, not a regular file")
    if status.st_size > max_bytes:
        raise _too_large(path, max_bytes)
    return status


def _too_large(path: Path, max_bytes: int) -> BadFile:
    return BadFile(path, f"is larger than {size(max_bytes)}, which such a file never is")


def _as_bad_file(path: Path, problem: OSError) -> OSError | BadFile:
    """The error to raise: the library's own if nothing has this name, else `BadFile`."""
    if isinstance(problem, FileNotFoundError) and not path.is_symlink():
        return problem
    if isinstance(problem, FileNotFoundError):
        return BadFile(path, "is a link to a file that is missing")
    if isinstance(problem, NotADirectoryError):
        return FileNotFoundError(problem.errno, problem.strerror, str(path))
    return BadFile(path, f"cannot be read: {problem.strerror}")
