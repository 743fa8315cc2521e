"""A replaced checkpoint gets another fingerprint, however it was replaced and whatever the store remembers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from mounting import run_with_mounts
from replacing import NAME, THEN, WAYS, in_place, write

from pytest_mechanism.checkpoints import file_state
from pytest_mechanism.checkpoints import fingerprint as module
from pytest_mechanism.checkpoints.fingerprint import fingerprint
from pytest_mechanism.errors import CheckpointChanged, MechanismError

PLACES = [place for place in map(Path, ("/tmp", "/dev/shm")) if place.is_dir()]

MINUTES = 120 * 10**9


class Clock:
    """The time of day, as the package sees it."""

    def __init__(self) -> None:
        self.ahead = 0

    def now(self) -> int:
        return time.time_ns() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(file_state, "now", made.now)
    return made


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read to be hashed."""
    result: list[str] = []
    original = module._hash

    def noted(path: Path) -> str:
        result.append(path.name)
        return original(path)

    monkeypatch.setattr(module, "_hash", noted)
    return result


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    write(folder / "config.json", b"{}")
    write(folder / "tokenizer.json", b"{}")
    write(folder / NAME, b"weights of some size")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "model")


def missed(
    folder: Path, memory: Path, clock: Clock, way: Callable[[Path], None], late: bool
) -> bool:
    """Whether a fingerprint is the same after a replacement; ``late``: what could be remembered
    was, minutes after the file had been written."""
    clock.ahead = MINUTES if late else 0
    before = fingerprint(folder, memory)
    assert fingerprint(folder, memory) == before
    clock.ahead = 0
    time.sleep(0.02)  # the minutes have passed in the clock only
    way(folder / NAME)
    clock.ahead = MINUTES
    return fingerprint(folder, memory) == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("late", [False, True])
def test_a_replaced_file_is_noticed(
    folder: Path, tmp_path: Path, clock: Clock, way: Callable[[Path], None], late: bool
) -> None:
    """Equal in size and mtime, replaced at once or long after it was hashed."""
    assert not missed(folder, tmp_path / "memory.json", clock, way, late)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_hundreds_of_replacements_are_all_noticed(clock: Clock, place: Path) -> None:
    """Every way, early and late, again and again in the same folder, on each file system."""
    observed = []
    with TemporaryDirectory(dir=place) as scratch:
        top = Path(scratch)
        for way, late in product(WAYS, (False, True)):
            folder = checkpoint(top / f"{way.__name__}_{late}")
            observed += [missed(folder, top / "memory.json", clock, way, late) for _ in range(6)]
    assert (len(observed), sum(observed)) == (6 * 2 * len(WAYS), 0)


def test_a_file_that_has_just_changed_is_not_remembered(
    folder: Path, tmp_path: Path, reads: list[str]
) -> None:
    """Another change in the same moment would leave its times as they are."""
    for _ in range(2):
        fingerprint(folder, tmp_path / "memory.json")
    assert reads.count(NAME) == 2


@pytest.mark.parametrize(
    "kind", ["tmpfs", "nfs4", "cifs", "fuse.sshfs", "vfat", "squashfs", "9p", "unknown"]
)
def test_on_other_file_systems_nothing_is_remembered(
    folder: Path, tmp_path: Path, clock: Clock, reads: list[str], monkeypatch, kind: str
) -> None:
    """Their times may come late, from somewhere else, or not at all."""
    clock.ahead = MINUTES
    monkeypatch.setattr(file_state, "file_system", lambda *_: kind)
    for _ in range(2):
        fingerprint(folder, tmp_path / "memory.json")
    assert reads.count(NAME) == 2


def test_whole_seconds_prove_nothing() -> None:
    """A coarse clock, or an image whose times its maker chose."""
    state = file_state.state_of(Path(__file__))
    second = 10**9
    chosen = (*state[:6], 5 * second, *state[7:])
    assert not file_state.proves(chosen, 10**18)


def test_after_the_clock_was_set_back_nothing_is_remembered(
    folder: Path, tmp_path: Path, clock: Clock, reads: list[str], monkeypatch
) -> None:
    """Times that have been may come again."""
    monkeypatch.setattr(file_state, "file_system", lambda *_: "ext4")
    clock.ahead = 2 * MINUTES
    fingerprint(folder, tmp_path / "memory.json")
    clock.ahead = MINUTES
    fingerprint(folder, tmp_path / "memory.json")
    assert reads.count(NAME) == 2


def test_without_a_store_nothing_is_remembered(
    folder: Path, clock: Clock, reads: list[str]
) -> None:
    """--mechanism-no-store hashes every file each time."""
    clock.ahead = MINUTES
    for _ in range(2):
        fingerprint(folder, None)
    assert reads.count(NAME) == 2


def test_a_file_that_changes_while_it_is_hashed_is_an_error(folder: Path, monkeypatch) -> None:
    """Half of one file and half of another are no checkpoint."""
    original = module._hash

    def interrupted(path: Path) -> str:
        result = original(path)
        if path.name == NAME:
            in_place(path)
        return result

    monkeypatch.setattr(module, "_hash", interrupted)
    with pytest.raises(CheckpointChanged, match=f"{NAME} changed during reading") as caught:
        fingerprint(folder)
    assert isinstance(caught.value, MechanismError)


MOUNTED = """
set -e
mount -t tmpfs none "$1" || exit 77
mkdir "$1/model"
cd "$1/model"
printf '{}' > config.json; printf '{}' > tokenizer.json; printf 'weights' > model.safetensors
touch -d @1700000000 *
"$2" -c "$3" "$1/model" "$4"
cd /
umount "$1"
mount -t tmpfs none "$1"
mkdir "$1/model"
cd "$1/model"
printf '{}' > config.json; printf '{}' > tokenizer.json; printf 'WEIGHTS' > model.safetensors
touch -d @1700000000 *
"$2" -c "$3" "$1/model" "$4"
"""

PRINT = """
import sys
from pathlib import Path
from pytest_mechanism.checkpoints import file_state
from pytest_mechanism.checkpoints.fingerprint import fingerprint

clock = file_state.now
file_state.now = lambda: clock() + 120 * 10**9
print(fingerprint(Path(sys.argv[1]), Path(sys.argv[2])).model)
"""


def test_another_file_system_in_the_same_place_is_noticed(tmp_path: Path) -> None:
    """Mounted where the first one was: the same path, size, mtime and inode number."""
    (tmp_path / "place").mkdir()
    done = run_with_mounts(
        MOUNTED, tmp_path / "place", sys.executable, PRINT, tmp_path / "memory.json"
    )
    assert done.returncode == 0, done.stderr
    assert len({*done.stdout.split()}) == 2


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """A snapshot of the hub's cache: links to blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("config.json", "tokenizer.json", NAME):
        write(blobs / f"{name}.blob", b"{}" if name != NAME else b"weights")
        (snapshot / name).symlink_to(os.path.relpath(blobs / f"{name}.blob", snapshot))
    return snapshot


def test_a_blob_of_the_hubs_cache_is_watched(hub: Path, tmp_path: Path, clock: Clock) -> None:
    """The link stays; its blob is rewritten, or the link points to another blob."""
    memory = tmp_path / "memory.json"
    clock.ahead = MINUTES
    observed = [fingerprint(hub, memory).model]
    time.sleep(0.02)
    write(tmp_path / "blobs" / f"{NAME}.blob", b"WEIGHTS")
    observed.append(fingerprint(hub, memory).model)
    write(tmp_path / "blobs" / "second", b"weigHTs")
    (hub / NAME).unlink()
    (hub / NAME).symlink_to(tmp_path / "blobs" / "second")
    observed.append(fingerprint(hub, memory).model)
    assert len({*observed}) == 3
    assert int((hub / NAME).stat().st_mtime) == THEN
