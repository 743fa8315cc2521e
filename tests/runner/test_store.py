"""Measurements on disk: atomic, locked, checksummed; damage is as good as nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.measurements.cmap import CodeResult, HeadCode
from pytest_mechanism.measurements.curve import AllowedAnswers, CurveResult
from pytest_mechanism.measurements.dcm import MaskResult
from pytest_mechanism.measurements.direction import Direction, DirectionResult
from pytest_mechanism.measurements.probing import ProbeResult
from pytest_mechanism.measurements.pruning import PruningResult
from pytest_mechanism.measurements.sizes import SizesResult
from pytest_mechanism.measurements.snip import WeightChangeResult
from pytest_mechanism.runner import store as module
from pytest_mechanism.runner.store import ROW_FIELDS, Store
from pytest_mechanism.types import Observations

KEY = "ab" * 32


@dataclass(frozen=True)
class Noted(Observations):
    """A result with a field of its own."""

    selected: tuple[tuple[int, int], ...] = ()
    accuracy: Mapping[int, float] = field(default_factory=dict)


OBSERVATIONS = Noted(
    ("rows-0", "rows-1", "r\u00e4hm-2"),
    ("c0", "c0", "c1"),
    {"correct": [1.0, 0.0, 1.0], "log_probability": np.array([-0.1, -1e-300, -np.inf])},
    ((2, 1), (3, 0)),
    {1: 0.25, 12: 0.1},
    left_out="2 of 3 words",
)


def plain(observations: Observations | None) -> tuple | None:
    if observations is None:
        return None
    values = {name: [float(x) for x in column] for name, column in observations.values.items()}
    others = {
        f.name: getattr(observations, f.name)
        for f in fields(observations)
        if f.name not in ROW_FIELDS
    }
    return tuple(observations.example_ids), tuple(observations.clusters), values, others


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "deep" / "store")


@pytest.mark.parametrize(
    "observations",
    [OBSERVATIONS, Noted((), (), {"x": []}), Noted(("a",), ("b",), {})],
    ids=["rows", "no rows", "no values"],
)
def test_what_is_put_comes_back(store: Store, observations: Observations) -> None:
    """Ids, clusters, values to the last bit, and the fields of its class, of their types."""
    store.put(KEY, observations)
    assert plain(observations) == plain(store.get(KEY, Noted))


def test_another_process_finds_it(store: Store) -> None:
    """A store is its folder: a new object on it has the same entries."""
    store.put(KEY, OBSERVATIONS)
    assert plain(OBSERVATIONS) == plain(Store(store.folder).get(KEY, Noted))


def test_an_entry_of_another_class_is_none(store: Store) -> None:
    """A method whose result got another class is measured again."""
    store.put(KEY, OBSERVATIONS)
    assert store.get(KEY, Observations) is None


RESULTS: list[Observations] = [
    MaskResult(("a",), ("x",), {}, ((2, 1), (3, 0))),
    SizesResult(("a",), ("x",), {}, ((2, 1), (3, 0))),
    ProbeResult(("a",), ("x",), {}, {0: 0.1, 12: 1.0}, 12, 3),
    PruningResult(("a",), ("x",), {}, {0: 0.1, 12: 1.0}, ("a row 1",)),
    WeightChangeResult(("a",), ("x",), {}, (1.0, 0.0)),
    CurveResult(
        ("a",),
        ("x",),
        {},
        (0.25,),
        {0: AllowedAnswers(None, 0.0, 8), 20: AllowedAnswers(3.0, 1.0, 8)},
    ),
    CodeResult(
        ("a",), ("x",), {}, (HeadCode(1, 2, "last", 0.25, 3), HeadCode(1, 2, "last", 1.0, part="q"))
    ),
    DirectionResult(("a",), ("x",), {}, Direction(2, -1), 0.01),
    DirectionResult(("a",), ("x",), {}, None, float("inf")),
]


@pytest.mark.parametrize(
    "result", RESULTS, ids=[f"{i} {type(r).__name__}" for i, r in enumerate(RESULTS)]
)
def test_the_result_of_every_method_comes_back(store: Store, result: Observations) -> None:
    """Of its class, with the fields of its class."""
    store.put(KEY, result)
    assert store.get(KEY, type(result)) == result


@dataclass(frozen=True)
class Unstorable(Observations):
    """A result with something that is no data."""

    function: object = None


def test_a_result_that_is_no_data_is_one_line(store: Store) -> None:
    with pytest.raises(
        MechanismError, match="class test_store:Unstorable cannot be stored"
    ) as problem:
        store.put(KEY, Unstorable(("a",), ("x",), {}, lambda: None))
    assert "\n" not in str(problem.value)


def test_an_unknown_key_is_none(store: Store) -> None:
    """What was never measured is not there."""
    store.put(KEY, OBSERVATIONS)
    assert store.get("cd" * 32, Noted) is None


def test_an_entry_may_be_replaced(store: Store) -> None:
    """The last result that was put counts."""
    store.put(KEY, OBSERVATIONS)
    store.put(KEY, Noted(("a",), ("b",), {"x": [2.0]}))
    assert plain(store.get(KEY, Noted))[2] == {"x": [2.0]}


def test_an_entry_under_another_name_is_none(store: Store) -> None:
    """A file that was copied or renamed does not pass for another measurement."""
    store.put(KEY, OBSERVATIONS)
    other = "cd" * 32
    store.path(KEY).rename(store.path(other))
    assert store.get(other, Noted) is None


def test_an_entry_whose_key_was_edited_is_none(store: Store) -> None:
    """The checksum covers what an entry is the result of."""
    store.put(KEY, OBSERVATIONS)
    other = "cd" * 32
    store.path(other).write_bytes(
        store.path(KEY).read_bytes().replace(KEY.encode(), other.encode())
    )
    assert (store.get(other, Noted), plain(store.get(KEY, Noted))) == (None, plain(OBSERVATIONS))


def test_an_entry_of_another_format_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version of the store does not read what an earlier one wrote."""
    store.put(KEY, OBSERVATIONS)
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    assert store.get(KEY, Noted) is None


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, bytes]:
    store = Store(tmp_path_factory.mktemp("store"))
    store.put(KEY, OBSERVATIONS)
    return store, store.path(KEY).read_bytes()


def read_after_writing(stored: tuple[Store, bytes], raw: bytes) -> tuple | None:
    store, _ = stored
    store.path(KEY).write_bytes(raw)
    return plain(store.get(KEY, Noted))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_byte_never_changes_a_result(
    stored: tuple[Store, bytes], data: st.DataObject
) -> None:
    """A changed byte anywhere, in values, ids or other fields, leaves the entry complete or invalidates it."""
    raw = bytearray(stored[1])
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[place]))
    assert read_after_writing(stored, bytes(raw)) in (None, plain(OBSERVATIONS))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_half_an_entry_is_none(stored: tuple[Store, bytes], data: st.DataObject) -> None:
    """A file that is truncated at any byte is measured again."""
    raw = stored[1]
    assert read_after_writing(stored, raw[: data.draw(st.integers(0, len(raw) - 1))]) is None


def test_a_changed_field_makes_an_entry_none(stored: tuple[Store, bytes]) -> None:
    """The checksum also covers the fields besides the columns."""
    assert b"[[2, 1], [3, 0]]" in stored[1]
    assert (
        read_after_writing(stored, stored[1].replace(b"[[2, 1], [3, 0]]", b"[[2, 2], [3, 0]]"))
        is None
    )


@pytest.mark.parametrize(
    "raw",
    [b"", b"\n", b"{}\n", b"[]\n", b"3\n", b"null\n\x00", b"\xff\xfe", b"{" * 50, b"[" * 99_999],
    ids=["empty", "line", "object", "list", "number", "null", "bytes", "half", "deep"],
)
def test_an_entry_that_is_none_at_all_is_none(stored: tuple[Store, bytes], raw: bytes) -> None:
    """A file with other content causes a new measurement, not an error."""
    assert read_after_writing(stored, raw) is None


def test_a_folder_in_the_place_of_an_entry_is_none(store: Store) -> None:
    """What cannot be opened is not there."""
    store.path(KEY).mkdir()
    assert store.get(KEY, Noted) is None


def test_readers_see_all_of_an_entry_or_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the moment it is put in place a new entry is not there, and the old one is whole."""
    store.put(KEY, OBSERVATIONS)
    result = []
    original = os.replace

    def noted(source: Path, target: Path) -> None:
        result.append(plain(store.get(KEY, Noted)))
        original(source, target)

    monkeypatch.setattr(module.os, "replace", noted)
    store.put(KEY, Noted(("a",), ("b",), {"x": [2.0]}))
    assert ([plain(OBSERVATIONS)], ("a",)) == (result, store.get(KEY, Noted).example_ids)


def test_a_write_that_fails_leaves_the_old_entry_and_no_litter(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is one line, and nothing is lost."""
    store.put(KEY, OBSERVATIONS)
    before = sorted(p.name for p in store.folder.iterdir())

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    with pytest.raises(MechanismError) as problem:
        store.put(KEY, Observations((), (), {}))
    assert (
        f"the store {store.folder} cannot be written: No space left on device",
        plain(OBSERVATIONS),
        before,
    ) == (
        str(problem.value),
        plain(store.get(KEY, Noted)),
        sorted(p.name for p in store.folder.iterdir()),
    )


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """The error names the folder and the options that choose another."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MechanismError) as problem:
        Store(tmp_path / "file" / "store")
    assert str(problem.value) == (
        f"the store {tmp_path / 'file' / 'store'} cannot be written: Not a directory; choose "
        "another with --mechanism-store, or --mechanism-no-store"
    )


def test_git_ignores_a_store(store: Store) -> None:
    """A store in a repository is not committed by accident."""
    assert (store.folder / ".gitignore").read_text() == "*\n"


MEASURE = """
import sys, time
from pathlib import Path
from pytest_mechanism.runner.store import Store
from pytest_mechanism.types import Observations

store, log = Store(Path(sys.argv[1])), Path(sys.argv[2])
(log / f"ready {sys.argv[3]}").touch()
while len(list(log.glob("ready *"))) < 2:
    time.sleep(0.005)
with store.lock("k"):
    if store.get("k", Observations) is None:
        (log / f"measured by {sys.argv[3]}").touch()
        time.sleep(0.3)
        store.put("k", Observations(("a",), ("b",), {"x": [1.0]}))
print(store.get("k", Observations).values["x"].tolist())
"""


def test_two_processes_measure_once(store: Store, tmp_path: Path) -> None:
    """Two workers that start together: one measures, the other waits and takes its result."""
    log = tmp_path / "log"
    log.mkdir()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", MEASURE, str(store.folder), str(log), name],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    printed = [worker.communicate(timeout=300)[0] for worker in workers]
    assert (printed, len(list(log.glob("measured by *")))) == (["[1.0]\n", "[1.0]\n"], 1)


HOLD = """
import sys, time
from pathlib import Path
from pytest_mechanism.runner.store import Store

with Store(Path(sys.argv[1])).lock("k"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_process_that_dies_leaves_no_lock(store: Store) -> None:
    """The system releases what a killed worker held, so the next one starts at once."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.folder)], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout.readline() == "held\n"
        worker.kill()
    start = time.monotonic()
    with store.lock("k"):
        waited = time.monotonic() - start
    assert waited < 5


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who would wait for hours waits for a moment."""
    monkeypatch.setattr(module, "FileLock", lambda path, timeout: FileLock(path, timeout=0.2))


@pytest.mark.usefixtures("impatient")
def test_keys_do_not_wait_for_each_other(store: Store) -> None:
    """Two workers may measure different things at the same time."""
    order = []
    with store.lock("k"), store.lock("l"):
        order.append("both")
    assert order == ["both"]


@pytest.mark.usefixtures("impatient")
def test_a_lock_that_is_held_for_too_long_is_one_line(store: Store) -> None:
    """Who waits in vain learns for what, and what to do about it."""
    with store.lock("k"), pytest.raises(MechanismError) as problem, store.lock("k"):
        pass
    assert str(problem.value) == (
        "another process has held the lock of measurement k for six hours; if none runs, delete "
        f"{store.folder / 'locks'}"
    )


def test_a_lock_that_cannot_be_opened_is_one_line(store: Store) -> None:
    """As one of another user."""
    (store.folder / "locks" / "k.lock").mkdir()
    with pytest.raises(MechanismError, match=r"cannot be written: .*k\.lock"), store.lock("k"):
        pass


def test_abandoned_trainings_are_removed_after_a_month(tmp_path: Path) -> None:
    """An interrupted training leaves a copy of a model; a recent copy is kept, so that the training can
    continue."""
    first = Store(tmp_path / "store")
    for key, days in (("old", 31), ("recent", 29)):
        first.scratch(key).mkdir(parents=True)
        (first.scratch(key) / "model.safetensors").write_bytes(b"x")
        then = time.time() - days * 86_400
        os.utime(first.scratch(key), (then, then))
    again = Store(tmp_path / "store")
    assert (again.scratch("old").exists(), again.scratch("recent").exists()) == (False, True)
