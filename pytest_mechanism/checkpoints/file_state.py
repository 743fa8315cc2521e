"""What the system says about a file, and whether that alone proves that its bytes are the same.

Every change of a file moves its time of change (ctime), which no program can set. This proves
something only where the operating system itself keeps that time, finely enough, and where some time
has passed between the last change and the moment at which the bytes were read. Everywhere else a
file has to be read again.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

SETTLED = 60 * 10**9
"""Nanoseconds after its last change at which a file is settled.

A change within the clock's granularity does not move the ctime again, and neither do further writes
through a memory map before the page has gone to disk, which Linux does after 35 seconds at most.
"""

KEPT_BY_THE_SYSTEM = {
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "jfs", "zfs", "overlay", "apfs", "hfs",
    "ufs",
}  # fmt: skip
"""File systems on whose ctime one can rely. A network's or another program's may come from somewhere
else or arrive late, FAT has none, images such as squashfs carry one that their maker chose, and tmpfs
does not move it for what is written through a memory map."""

State = tuple[str | int, ...]
"""Where a name leads, and what the system says about the name and the file; see `state_of`."""


def now() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns()


def state_of(path: Path) -> State:
    """The state of a file, links followed, and of the link where the name is one.

    Raises:
        OSError: it cannot be looked at.
    """
    real = os.path.realpath(path)
    name, file = path.lstat(), path.stat()
    # which of several file systems is mounted here; two may have the same device number in turn
    system = os.statvfs(real).f_fsid if hasattr(os, "statvfs") else 0
    return (
        real,
        system,
        file.st_dev,
        file.st_ino,
        file.st_size,
        file.st_mtime_ns,
        file.st_ctime_ns,
        name.st_ino,
        name.st_ctime_ns,
    )


def proves(state: State, read_at: int) -> bool:
    """Whether a file that has this state later has the bytes that were read at ``read_at``."""
    real, device, changed = str(state[0]), int(state[2]), int(state[6])
    if os.name != "posix":
        return False  # there, the ctime is the time of creation
    if changed % 10**9 == 0:
        return False  # whole seconds: a coarse clock, or an image whose times were chosen
    return changed + SETTLED < read_at and kind_of_system(real, device) in KEPT_BY_THE_SYSTEM


@cache
def kind_of_system(real: str, device: int) -> str:
    """The type of the file system that a resolved path lies on, such as ``ext4``."""
    import psutil

    above = {real, *map(str, Path(real).parents)}
    kinds = {
        each.mountpoint: each.fstype
        for each in psutil.disk_partitions(
            all=True
        )  # in the order of mounting: the last one counts
        if each.mountpoint in above
    }
    return kinds[max(kinds, key=len)] if kinds else "unknown"
