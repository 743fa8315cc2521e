"""Reading accepts a regular file of a limited size only; writing replaces a file as a whole."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_mechanism.files import (
    BadFile,
    check_file,
    new_folder,
    open_file,
    read_bytes,
    read_json,
    read_text,
    replacing,
    temporary_beside,
    write_json,
    write_text,
)

READERS: list[Callable[[Path, int], object]] = [check_file, read_bytes, read_text, read_json]


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("missing"))


def looping(path: Path) -> None:
    path.symlink_to(path)


def large(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


TROUBLE = [
    (folder, "is a folder, not a regular file"),
    (os.mkfifo, "is a named pipe, not a regular file"),
    (device, "is a device, not a regular file"),
    (listening, "is a socket, not a regular file"),
    (dangling, "is a link to a file that is missing"),
    (looping, "cannot be read: Too many levels of symbolic links"),
    (large, "is larger than 1 MiB, which such a file never is"),
]

ALL = """
import sys
from pathlib import Path
from pytest_mechanism import files

for read in (files.check_file, files.read_bytes, files.read_text, files.read_json):
    try:
        read(Path(sys.argv[1]), 1 << 20)
    except files.BadFile as problem:
        print(problem)
"""


@pytest.mark.parametrize(("make", "message"), TROUBLE, ids=[make.__name__ for make, _ in TROUBLE])
def test_what_is_no_file_is_one_line_at_once(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    """Every reader names what it found instead of a file, and none waits for it."""
    path = tmp_path / "x"
    make(path)
    done = subprocess.run(
        [sys.executable, "-c", ALL, str(path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout == f"{path} {message}\n" * len(READERS)


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_is_told_from_an_unusable_one(
    tmp_path: Path, read: Callable[[Path, int], object]
) -> None:
    """Nothing of this name, and a file where a folder should be: the built-in error."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file" / "below"):
        with pytest.raises(FileNotFoundError):
            read(path, 10)


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    """A byte more is too much."""
    path = tmp_path / "x"
    path.write_bytes(b"1234")
    assert (read_bytes(path, 4), read_text(path, 4), read_json(path, 4)) == (b"1234", "1234", 1234)
    with pytest.raises(BadFile, match="is larger than 3 bytes, which such a file never is"):
        read_bytes(path, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_a_file_without_a_size_is_read_up_to_the_limit() -> None:
    """Files of /proc say that they are empty."""
    with pytest.raises(BadFile, match="is larger than 10 bytes"):
        read_bytes(Path("/proc/self/status"), 10)


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"\xff", b""])
def test_what_is_no_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    """Half a file, one nested too deeply, other bytes, nothing."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"x\.json (cannot be read as JSON|is not UTF-8): ") as caught:
        read_json(path, 1 << 20)
    assert "\n" not in str(caught.value)


def test_a_pipe_that_takes_the_place_of_a_file_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was a file when it was looked at may be a pipe when it is opened."""
    from pytest_mechanism import files

    path = tmp_path / "x"
    os.mkfifo(path)
    monkeypatch.setattr(files, "check_file", lambda *_: None)
    with pytest.raises(BadFile, match="is a named pipe"), open_file(path, 10):
        pass


# -- writing


def test_text_and_json_are_read_back_and_leave_nothing_beside_them(tmp_path: Path) -> None:
    """JSON is indented and ends with a line break, so that diffs are readable; no temporary file stays."""
    write_text(tmp_path / "a.yaml", "é: 1\n")
    write_json(tmp_path / "b.json", {"b": [1], "a": "x"}, sort_keys=True)
    assert {p.name: p.read_text(encoding="utf-8") for p in sorted(tmp_path.iterdir())} == {
        "a.yaml": "é: 1\n",
        "b.json": '{\n "a": "x",\n "b": [\n  1\n ]\n}\n',
    }


@pytest.mark.parametrize("value", [float("nan"), {1j}])
def test_what_is_no_json_leaves_the_old_file(tmp_path: Path, value: object) -> None:
    """Nothing is written before all of it can be."""
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises((ValueError, TypeError)):
        write_json(path, value)
    assert ([p.name for p in tmp_path.iterdir()], path.read_text()) == (["a.json"], "1\n")


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a write loses nothing."""
    path = tmp_path / "a"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ([p.name for p in tmp_path.iterdir()], path.read_text()) == (["a"], "old")


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure a renamed file that was not synchronised may be empty."""
    path, events = tmp_path / "a", []
    monkeypatch.setattr(os, "fsync", lambda number: events.append(path.exists()))
    write_text(path, "x")
    with replacing(path, durable=False) as temporary:
        temporary.write_text("y")
    assert (events, path.read_text()) == ([False], "y")


def test_a_trial_file_is_gone_afterwards(tmp_path: Path) -> None:
    """Whether a file can be written is tried without leaving one."""
    with temporary_beside(tmp_path / "a") as trial:
        trial.touch()
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_has_its_name_when_it_is_complete(tmp_path: Path) -> None:
    """Folders above it are made; a folder that fails half-way is removed."""

    def filled(name: str, full: bool) -> None:
        with new_folder(tmp_path / "above" / name) as temporary:
            (temporary / "x").touch()
            assert not (tmp_path / "above" / name).exists()
            if full:
                raise OSError("full")

    filled("a", full=False)
    with pytest.raises(OSError, match="full"):
        filled("b", full=True)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "above",
        "above/a",
        "above/a/x",
    ]
