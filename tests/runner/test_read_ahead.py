"""The weights of a pair's second checkpoint are read while the first is measured: once, and only if they are those that
the run began with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from test_scheduling import World, donation, measurement_of

from pytest_mechanism.checkpoints import file_state, fingerprint, read_ahead
from pytest_mechanism.checkpoints.fingerprint import of_reference
from pytest_mechanism.checkpoints.loading.weights import read_weights
from pytest_mechanism.checkpoints.read_ahead import fingerprint_of
from pytest_mechanism.checkpoints.reference import ZOO, Reference
from pytest_mechanism.errors import CheckpointChanged, MechanismError
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.runner.store import Store
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.types import Observations

NAME = "model.safetensors"
SOON = 60
"""Seconds after which a test gives up waiting for another thread."""


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Reference]:
    """A pair whose weights count as large, two minutes after they were written."""
    clock = file_state.now
    monkeypatch.setattr(file_state, "now", lambda: clock() + 120 * 10**9)
    monkeypatch.setattr(file_state, "file_system", lambda *_: "ext4")
    monkeypatch.setattr(read_ahead, "LARGE", 1)
    return {
        role: Reference(role, role, Path(shutil.copytree(ZOO / role, tmp_path / role)))
        for role in ("base", "ft")
    }


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, world: World) -> Event:
    """Is set when the weights of ft are read; the diary has each reading of weights."""
    happened, original = Event(), fingerprint._hash

    def noted(path: Path) -> str:
        digest = original(path)
        if path.name == NAME:
            world.diary.append(f"read {path.parent.name}")
        if path.parent.name == "ft" and path.name == NAME:
            happened.set()
        return digest

    monkeypatch.setattr(fingerprint, "_hash", noted)
    return happened


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def make(
    pair: dict[str, Reference], store: Store | None = None, cache: Path | None = None
) -> Runner:
    marks = {"base": of_reference(pair["base"], cache), "ft": fingerprint_of(pair["ft"], cache)}
    return Runner(pair, marks, ModelOptions(), store)


def before_measuring(world: World, name: str, happens: Callable[[], object]) -> None:
    """Has something happen when a measurement begins."""
    original = world.measure

    def measure(context: Any, what: str, inputs: Any) -> Any:
        if what == name:
            happens()
        return original(context, what, inputs)

    world.measure = measure  # type: ignore[method-assign]


def test_the_second_is_read_while_the_first_is_measured(
    world: World, pair: dict[str, Reference], read: Event
) -> None:
    """The measurement on base ends only after ft is read, and each file of weights is read once."""
    runner = make(pair)
    measurements = [measurement_of("base", "b1"), measurement_of("ft", "f1")]
    runner.plan(measurements)
    before_measuring(world, "b1", lambda: read.wait(SOON))
    for measurement in measurements:
        runner.measure(measurement)
    assert world.diary == [
        "read base", "load base", "read ft", "b1", "release base", "load ft", "f1",
    ]  # fmt: skip


def test_reading_later_loads_no_checkpoint_twice(
    world: World, pair: dict[str, Reference], read: Event
) -> None:
    """What base donates is recorded while it is loaded; a donor is loaded first, as if all were read."""
    to_ft = [
        measurement_of("base", "b1"),
        measurement_of("ft", "f1", donation("base")),
        measurement_of("base", "b2"),
    ]
    to_base = [measurement_of("base", "b1", donation("ft")), measurement_of("ft", "f1")]
    for measurements, order in ((to_ft, ["base", "ft"]), (to_base, ["ft", "base"])):
        world.diary.clear()
        runner = make(pair)
        runner.plan(measurements)
        for measurement in measurements:
            runner.measure(measurement)
        loads = [line for line in world.diary if line.startswith("load")]
        assert loads == [f"load {role}" for role in order]


def test_a_run_whose_results_are_stored_loads_nothing(
    world: World, pair: dict[str, Reference], read: Event, tmp_path: Path
) -> None:
    """The weights that no kept hash vouches for are read, and tell that there is nothing to do."""
    measurements = [measurement_of("base", "b1"), measurement_of("ft", "f1")]
    for loads in (2, 0):
        world.diary.clear()
        runner = make(pair, Store(tmp_path / "store"))
        runner.plan(measurements)
        assert runner.planned is bool(loads)
        for measurement in measurements:
            runner.measure(measurement)
        assert len([line for line in world.diary if line.startswith("load")]) == loads
        assert world.diary.count("read ft") == 1


def test_a_kept_hash_is_not_read_again(
    world: World, pair: dict[str, Reference], read: Event, tmp_path: Path
) -> None:
    """The fingerprint is there at once, and is the one of the first run."""
    first = make(pair, cache=tmp_path / "memory.json").fingerprints["ft"]
    assert (first.known, first.model, first.known) == (False, of_reference(pair["ft"]).model, True)
    world.diary.clear()
    again = make(pair, cache=tmp_path / "memory.json").fingerprints["ft"]
    assert (again.known, again.model, world.diary) == (True, first.model, [])


@pytest.mark.parametrize("moment", ["before it is read", "after it is read"])
@pytest.mark.parametrize("name", [NAME, "tokenizer.json"])
def test_a_checkpoint_that_changes_meanwhile_is_one_line(
    world: World, pair: dict[str, Reference], read: Event, tmp_path: Path, moment: str, name: str
) -> None:
    """It is not loaded, nothing about it is stored, and only a changed tokenizer, on which all rows depend,
    takes the results on the first checkpoint along."""
    store = Store(tmp_path / "store")
    runner = make(pair, store)
    on_base, on_ft = measurement_of("base", "b1"), measurement_of("ft", "f1")
    runner.plan([on_base, on_ft])
    path = pair["ft"].folder / name

    def change() -> None:
        if moment == "after it is read":
            assert read.wait(SOON)
            _ = runner.fingerprints["ft"].model
        path.write_bytes(path.read_bytes()[:-1] + b" ")

    if moment == "after it is read":
        before_measuring(world, "b1", change)
    else:
        change()
    problems = []
    for measurement in (on_base, on_ft):
        try:
            runner.measure(measurement)
        except CheckpointChanged as problem:
            problems.append(str(problem))
    assert len(problems) == (1 if name == NAME else 2)
    assert all(f"{path}" in text and "\n" not in text for text in problems)
    assert "f1" not in world.diary
    kept = store.get(runner.key(on_base), Observations)
    assert (kept is not None) is (name == NAME)


def test_a_reader_that_fails_leaves_the_first_checkpoint_alone(
    world: World, pair: dict[str, Reference], read: Event
) -> None:
    """Weights that disappear: one line for what is measured on them, and the results on base stand."""
    runner = make(pair)
    measurements = [measurement_of("base", "b1"), measurement_of("ft", "f1")]
    runner.plan(measurements)
    (pair["ft"].folder / NAME).unlink()
    assert len(runner.measure(measurements[0]).example_ids) == 2
    with pytest.raises(MechanismError, match=NAME):
        runner.measure(measurements[1])
    assert "load ft" not in world.diary


def test_loading_maps_the_weights(tmp_path: Path) -> None:
    """The loader copies none of them through a buffer: it maps the pages that hashing brought into memory."""
    counts = Path("/proc/self/io")
    if not counts.exists():
        pytest.skip("only Linux counts the bytes that a process reads")

    def bytes_read() -> int:
        return int(counts.read_text().split()[1])

    size = (ZOO / "base" / NAME).stat().st_size
    read_weights(ZOO / "base", torch.float32)  # imports
    before = bytes_read()
    read_weights(ZOO / "base", torch.float32)
    assert bytes_read() - before < size / 2
