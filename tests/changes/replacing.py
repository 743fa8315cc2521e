"""Ways to replace a file by another of the same size and modification time."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

THEN = 1_700_000_000
"""Seconds since 1970: when every file says that it was written."""

NAME = "model.safetensors"


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, (THEN, THEN))


def other(path: Path) -> bytes:
    """As many bytes as a file has, of which the middle one is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


def beside(path: Path) -> Path:
    """A new file with other bytes, next to the original."""
    new = path.with_name("new")
    write(new, other(path))
    return new


def in_place(path: Path) -> None:
    write(path, other(path))


def one_byte(path: Path) -> None:
    content = other(path)
    with path.open("r+b") as file:
        file.seek(len(content) // 2)
        file.write(content[len(content) // 2 :][:1])
    os.utime(path, (THEN, THEN))


def memory_map(path: Path) -> None:
    content = other(path)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[len(content) // 2] = content[len(content) // 2]
        view.flush()
    os.utime(path, (THEN, THEN))


def renamed_over(path: Path) -> None:
    beside(path).replace(path)


def removed_and_made(path: Path) -> None:
    content = other(path)
    path.unlink()  # the new file may get the same inode
    write(path, content)


def copied_with_times(path: Path) -> None:
    subprocess.run(["cp", "-p", beside(path), path], check=True)


def touched_like(path: Path) -> None:
    new = beside(path)
    path.write_bytes(new.read_bytes())
    subprocess.run(["touch", "-r", new, path], check=True)


def from_tar(path: Path) -> None:
    archive = path.with_name("files.tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(beside(path), path.name)
    with tarfile.open(archive) as tar:
        tar.extractall(path.parent, filter="data")
    archive.unlink()


def from_zip(path: Path) -> None:
    archive = path.with_name("files.zip")
    with zipfile.ZipFile(archive, "w") as file:
        file.write(beside(path), path.name)
    with zipfile.ZipFile(archive) as file:
        file.extract(path.name, path.parent)
    os.utime(path, (THEN, THEN))
    archive.unlink()


def hard_link(path: Path) -> None:
    new = beside(path)
    path.unlink()
    path.hardlink_to(new)


def link(path: Path) -> None:
    new = beside(path)
    path.unlink()
    path.symlink_to(new)


def target_of_a_link(path: Path) -> None:
    """The file is a link to a blob, as in the hub's cache, and the blob is rewritten."""
    blob = path.with_name("blob")
    if not path.is_symlink():
        path.rename(blob)
        path.symlink_to(blob)
    in_place(blob)


def folder_renamed(path: Path) -> None:
    folder = path.parent
    new = folder.with_name(f"{folder.name}_new")
    shutil.copytree(folder, new)
    in_place(new / path.name)
    shutil.rmtree(folder)
    new.rename(folder)


def folder_link(path: Path) -> None:
    folder = path.parent
    count = len([*folder.parent.glob(f"{folder.name}_*")])
    new = folder.with_name(f"{folder.name}_{count}")
    shutil.copytree(folder, new)
    in_place(new / path.name)
    if folder.is_symlink():
        folder.unlink()
    else:
        folder.rename(folder.with_name(f"{folder.name}_{count + 1}"))
    folder.symlink_to(new)


WAYS: list[Callable[[Path], None]] = [
    in_place,
    one_byte,
    memory_map,
    renamed_over,
    removed_and_made,
    copied_with_times,
    touched_like,
    from_tar,
    from_zip,
    hard_link,
    link,
    target_of_a_link,
    folder_renamed,
    folder_link,
]
