"""What the runner loads, and when: with fake models, so that only the order is at stake."""

from __future__ import annotations

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.errors import MeasurementError, MechanismError
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import Cost, Request, TaskSettings
from pytest_mechanism.runner import resident
from pytest_mechanism.runner import runner as runner_module
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.runner.store import Store
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.tasks.families.entity_tracking import EntityTracking
from pytest_mechanism.types import Observations, canonical

TASK = canonical(
    {"family": "entity_tracking", "boxes": 7, "rows": 20, "seed": 0, "fillers": 0, "revision": 1}
)


class Fake(Request):
    implementation = "fake:measure"
    what: str


class FakeOnPrompts(Fake):
    """A measurement that branches from runs of the prompts that it is named after."""

    def cost(self, task: TaskSettings) -> Cost:
        return Cost(prompts=self.what.partition(" ")[2], prompt_count=20)


class FakeDonation(Fake):
    implementation = "fake:donate"
    stored = False


def measurement_of(
    role: str, name: str, *inputs: Measurement, kind: type[Fake] = Fake
) -> Measurement:
    return Measurement(kind(what=name), role, TASK, inputs)


def donation(role: str, name: str = "donate") -> Measurement:
    return measurement_of(role, name, kind=FakeDonation)


class World:
    """Fake loading and measuring; keeps a diary."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.diary: list[str] = []
        self.broken: set[str] = set()
        self.failing: set[str] = set()
        real = runner_module.resolve

        def resolve(dotted: str) -> Any:
            if dotted.startswith("fake:"):
                return lambda context, request, inputs: self.measure(context, request.what, inputs)
            if dotted.endswith(":load_model"):
                return self.load
            if dotted.endswith(":make_context"):
                return lambda model, *_: self.make_context(model)
            return real(dotted)

        for module in (runner_module, resident):
            monkeypatch.setattr(module, "resolve", resolve)

    def load(self, role: str, *_: Any, **__: Any) -> Any:
        if role in self.broken:
            raise MechanismError(f"{role} cannot be loaded")
        self.diary.append(f"load {role}")
        return SimpleNamespace(role=role, release=lambda: self.diary.append(f"release {role}"))

    def make_context(self, model: Any) -> Any:
        context = SimpleNamespace(model=model, fallback_reason=None, rounding=None)
        context.run_method = lambda method, *arguments: method(context, *arguments)
        return context

    def measure(self, context: Any, name: str, inputs: Any) -> Any:
        self.diary.append(name)
        if name in self.failing:
            raise MeasurementError(f"{name} went wrong")
        if name.startswith("donate"):
            return SimpleNamespace(what=name)
        return Observations(("a", "b"), ("x", "y"), {"seen": [1.0, float(len(inputs))]})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def make(store: Store | None = None) -> Runner:
    zoo = Path(runner_module.__file__).parents[1] / "zoo" / "base"
    roles = ("base", "ft")
    return Runner(
        {role: Reference(role, role, zoo) for role in roles},
        {role: Fingerprint(role, "same tokenizer") for role in roles},
        ModelOptions(),
        store,
    )


def test_all_work_on_a_checkpoint_is_done_before_it_is_let_go(world: World) -> None:
    """Two checkpoints, two loads, however the items are interleaved."""
    runner = make()
    measurements = [
        measurement_of("base", "b1"),
        measurement_of("ft", "f1"),
        measurement_of("base", "b2"),
        measurement_of("ft", "f2"),
    ]
    runner.plan(measurements)
    for measurement in measurements:
        runner.measure(measurement)
    assert world.diary == ["load base", "b1", "b2", "release base", "load ft", "f1", "f2"]


def test_measurements_on_the_same_prompts_follow_each_other(world: World) -> None:
    """So that they share the runs of these prompts; otherwise the order of the claims stays."""
    runner = make()
    names = ["accuracy on rows", "circuit", "path on pairs", "attention on rows", "direction"]
    measurements = [
        measurement_of("base", name, kind=FakeOnPrompts if " on " in name else Fake)
        for name in names
    ]
    runner.plan(measurements)
    runner.measure(measurements[0])
    expected = ["accuracy on rows", "attention on rows", "circuit", "path on pairs", "direction"]
    assert world.diary == ["load base", *expected]


def test_one_checkpoint_is_resident_at_a_time(world: World) -> None:
    """The runner releases a checkpoint before it loads the next."""
    runner = make()
    runner.measure(measurement_of("base", "b1"))
    runner.measure(measurement_of("ft", "f1"))
    assert world.diary.index("release base") < world.diary.index("load ft")


def test_words_that_fall_out_are_said_from_the_store_too(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store keeps the dropped words with the results, so a run that loads nothing reports them too."""
    monkeypatch.setattr(EntityTracking, "dropped_words", lambda *_: "1 of 2 words are left out")
    first, again = make(Store(tmp_path)), make(Store(tmp_path))
    first.measure(measurement_of("base", "b1"))
    monkeypatch.undo()
    again.measure(measurement_of("base", "b1"))
    assert (again.done, again.from_store) == (0, 1)
    assert first.left_out == again.left_out == {TASK: "1 of 2 words are left out"}


def test_a_donor_goes_first_where_nothing_speaks_against_it(world: World) -> None:
    """Base needs ft's activations: ft is loaded first although base is asked for first."""
    runner = make()
    measurements = [
        measurement_of("base", "b1"),
        measurement_of("base", "cmap", donation("ft")),
        measurement_of("ft", "f1"),
    ]
    runner.plan(measurements)
    for measurement in measurements:
        runner.measure(measurement)
    assert world.diary == ["load ft", "donate", "f1", "release ft", "load base", "b1", "cmap"]


def test_patching_both_ways_takes_one_reload(world: World) -> None:
    """Three loads: the best there is when only one may be resident."""
    runner = make()
    measurements = [
        measurement_of("base", "into_base", donation("ft", "donate_ft")),
        measurement_of("ft", "into_ft", donation("base", "donate_base")),
    ]
    runner.plan(measurements)
    for measurement in measurements:
        runner.measure(measurement)
    assert [line for line in world.diary if line.startswith("load")] == [
        "load ft",
        "load base",
        "load ft",
    ]
    assert runner.checkpoint.loaded == 3


def test_a_measurement_asked_for_twice_is_made_once(world: World) -> None:
    """Claims that need the same numbers share them."""
    runner = make()
    assert runner.measure(measurement_of("base", "b1")) is runner.measure(
        measurement_of("base", "b1")
    )
    assert world.diary == ["load base", "b1"]


def test_what_was_not_planned_is_measured_on_the_spot(world: World) -> None:
    """A claim may learn what to measure next."""
    runner = make()
    runner.plan([measurement_of("base", "b1")])
    runner.measure(measurement_of("base", "b1"))
    runner.measure(measurement_of("base", "later"))
    assert world.diary == ["load base", "b1", "later"]


def test_a_failed_measurement_is_the_problem_of_who_asked(world: World) -> None:
    """The others go on; asking again gives the same error without measuring again."""
    world.failing = {"b1"}
    runner = make()
    runner.plan([measurement_of("base", "b1"), measurement_of("base", "b2")])
    assert list(runner.measure(measurement_of("base", "b2")).values["seen"]) == [1.0, 0.0]
    for _ in range(2):
        with pytest.raises(MeasurementError, match="b1 went wrong"):
            runner.measure(measurement_of("base", "b1"))
    assert world.diary == ["load base", "b1", "b2"]


def test_a_failed_donation_fails_what_needs_it(world: World) -> None:
    """With the donor's error, not with one about scheduling."""
    world.failing = {"donate"}
    runner = make()
    with pytest.raises(MeasurementError, match="donate went wrong"):
        runner.measure(measurement_of("base", "cmap", donation("ft")))


def test_a_checkpoint_that_cannot_be_loaded_is_tried_once(world: World) -> None:
    """Each item that needs it gets the reason."""
    world.broken = {"base"}
    runner = make()
    for name in ("b1", "b2"):
        with pytest.raises(MechanismError, match="base cannot be loaded"):
            runner.measure(measurement_of("base", name))
    assert world.diary == []


def test_a_role_without_a_checkpoint_says_which_option_gives_it_one() -> None:
    """The sentence names the flag."""
    with pytest.raises(MechanismError, match="add --mechanism-model control=REFERENCE"):
        make().measure(measurement_of("control", "c1"))


def test_stored_results_load_nothing(world: World, tmp_path: Path) -> None:
    """A second run on unchanged inputs takes everything from the store."""
    first, second = make(Store(tmp_path)), make(Store(tmp_path))
    measurements = [measurement_of("base", "b1"), measurement_of("base", "cmap", donation("ft"))]
    for measurement in measurements:
        first.measure(measurement)
    world.diary.clear()
    for measurement in measurements:
        second.measure(measurement)
    assert world.diary == []
    assert (second.checkpoint.loaded, second.done, second.from_store) == (0, 0, 2)


def test_donations_are_forgotten_once_used(world: World) -> None:
    """Activations take memory; only the numbers stay."""
    runner = make()
    runner.measure(measurement_of("base", "cmap", donation("ft")))
    assert [type(r).__name__ for r in runner._results.values()] == ["Observations"]


def test_a_failed_measurement_keeps_nothing_of_what_it_had_in_memory(world: World) -> None:
    """The runner keeps the error for later claims, but not the memory that the error's traceback refers to."""

    class Heavy:
        pass

    alive: list[weakref.ref[Heavy]] = []

    def fail(*_: Any) -> None:
        heavy = Heavy()
        alive.append(weakref.ref(heavy))
        try:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        finally:
            del _

    world.measure = fail  # type: ignore[method-assign]
    run = make()
    with pytest.raises(MeasurementError, match="out of memory with batches"):
        run.measure(measurement_of("base", "a"))
    assert [reference() for reference in alive] == [None]


def test_what_another_process_is_at_comes_last(world: World, tmp_path: Path) -> None:
    """The rest is done in the meantime, and what the other has finished by then is taken over."""
    locked, free = measurement_of("base", "b1"), measurement_of("base", "b2")
    runner = make(Store(tmp_path / "store"))
    runner.plan([locked, free])
    key = runner.key(locked)
    lock = FileLock(tmp_path / "store" / "locks" / f"{key}.lock")
    lock.acquire()
    measured = world.measure

    def finished_by_the_other(*arguments: Any) -> Any:
        Store(tmp_path / "store").put(key, Observations(("a",), ("x",), {"seen": [7.0]}))
        lock.release()
        return measured(*arguments)

    world.measure = finished_by_the_other  # type: ignore[method-assign]
    assert runner.measure(locked).values["seen"].tolist() == [7.0]
    assert world.diary == ["load base", "b2"]
    assert (runner.done, runner.from_store) == (1, 1)


def test_what_is_not_on_disk_is_made_by_who_needs_it(world: World, tmp_path: Path) -> None:
    """With several processes, a donation is not planned, because each process must compute its own."""
    cmap = measurement_of("base", "cmap", donation("ft"))
    runner = make(Store(tmp_path / "store"))
    runner.shared = True
    runner.plan([cmap, measurement_of("ft", "f1")])
    runner.measure(measurement_of("ft", "f1"))
    assert world.diary == ["load ft", "f1"]
    runner.measure(cmap)
    assert world.diary[2:] == ["donate", "release ft", "load base", "cmap"]


def test_workers_without_a_store_make_what_their_items_ask_for(world: World) -> None:
    """Nothing could be handed over, so nothing is made ahead."""
    runner = make()
    runner.shared = True
    runner.plan([measurement_of("base", "b1"), measurement_of("base", "b2")])
    runner.measure(measurement_of("base", "b2"))
    assert world.diary == ["load base", "b2"]
