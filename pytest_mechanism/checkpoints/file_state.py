"""A file's metadata, and whether it alone proves that the file's bytes are unchanged.

Every change of a file moves its ctime, which no program can set. That proves something only if the
operating system itself keeps the ctime, with a fine resolution, and if some time passed between the
last change and the moment at which the bytes were read. Otherwise the file must be read again.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

SETTLED = 60 * 10**9
"""Nanoseconds after its last change after which a file is settled.

A second change within the resolution of the clock does not move the ctime again. Nor do further
writes through a memory map before the page is written to disk, which Linux does within 35 seconds.
"""

KEPT_BY_THE_SYSTEM = {
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "jfs", "zfs", "overlay", "apfs", "hfs",
    "ufs",
}  # fmt: skip
"""File systems with a reliable ctime. That of a network file system or of one in user space may come
from elsewhere or arrive late, FAT has none, the maker of an image such as squashfs chooses it, and
tmpfs does not move it when a memory map is written."""

State = tuple[str | int, ...]
"""The resolved path and the metadata of the link and the file; see `state_of`."""


def now() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns()


def state_of(path: Path) -> State:
    """The state of a file, with links followed, and of the link if the path is one.

    Raises:
        OSError: the file's metadata cannot be read.
    """
    real = os.path.realpath(path)
    link, file = path.lstat(), path.stat()
    # two file systems that are mounted here in turn may have the same device number
    system = os.statvfs(real).f_fsid if hasattr(os, "statvfs") else 0
    return (
        real,
        system,
        file.st_dev,
        file.st_ino,
        file.st_size,
        file.st_mtime_ns,
        file.st_ctime_ns,
        link.st_ino,
        link.st_ctime_ns,
    )


def proves(state: State, read_at: int) -> bool:
    """Whether a file in this state still has the bytes that were read at ``read_at``."""
    real, device, changed = str(state[0]), int(state[2]), int(state[6])
    if os.name != "posix":
        return False  # elsewhere the ctime is the time of creation
    if changed % 10**9 == 0:
        return False  # whole seconds: a coarse clock, or the chosen times of an image
    return changed + SETTLED < read_at and file_system(real, device) in KEPT_BY_THE_SYSTEM


@cache
def file_system(real: str, device: int) -> str:
    """The type of the file system of a resolved path, such as ``ext4``."""
    import psutil

    above = {real, *map(str, Path(real).parents)}
    mounts = psutil.disk_partitions(all=True)  # in the order of mounting: the last one counts
    kinds = {mount.mountpoint: mount.fstype for mount in mounts if mount.mountpoint in above}
    return kinds[max(kinds, key=len)] if kinds else "unknown"
