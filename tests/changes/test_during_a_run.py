"""A checkpoint that changes during a run: the run keeps nothing that it read since, and reports it in one
line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import warm_python
from replacing import NAME, copied_with_times, folder_renamed, in_place, one_byte, renamed_over

from pytest_mechanism.checkpoints import file_state, watch
from pytest_mechanism.checkpoints.fingerprint import of_reference
from pytest_mechanism.checkpoints.loading.model import load_model
from pytest_mechanism.checkpoints.reference import ZOO, Reference
from pytest_mechanism.checkpoints.watch import Watch
from pytest_mechanism.errors import CheckpointChanged, MechanismError
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.runner import resident
from pytest_mechanism.runner import runner as runner_module
from pytest_mechanism.runner.resident import task_of
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.runner.store import Store
from pytest_mechanism.session import Session
from pytest_mechanism.settings.model_options import ModelOptions
from pytest_mechanism.types import Observations, canonical

TASK = canonical(
    {"family": "entity_tracking", "boxes": 7, "rows": 20, "seed": 0, "fillers": 0, "revision": 1}
)


class Fake(Request):
    implementation = "fake:measure"
    what: str


def measurement_of(name: str) -> Measurement:
    return Measurement(Fake(what=name), "base", TASK)


def number(content: bytes) -> float:
    """What a checkpoint of this content measures."""
    return float(int(hashlib.sha256(content).hexdigest()[:8], 16))


class World:
    """Fake loading and measuring: a model is a number that its weights give, and something happens
    to the weights at a moment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / NAME
        self.happens: dict[str, Callable[[Path], None]] = {}
        real = runner_module.resolve
        fakes = {
            "fake:measure": self.measure,
            "pytest_mechanism.checkpoints.loading.model:load_model": self.load,
            "pytest_mechanism.methods.context:make_context": self.make_context,
        }
        for module in (runner_module, resident):
            monkeypatch.setattr(module, "resolve", lambda name: fakes.get(name) or real(name))

    def now(self, moment: str) -> None:
        if (change := self.happens.get(moment)) is not None:
            time.sleep(0.01)
            change(self.path)

    def load(self, role: str, *_: Any, check_unchanged: Callable[[], None], **__: Any) -> Any:
        self.now("before loading")
        result = number(self.path.read_bytes())
        self.now("while loading")
        return SimpleNamespace(
            role=role, release=lambda: None, number=result, check_unchanged=check_unchanged
        )

    def make_context(self, model: Any, *_: Any) -> Any:
        self.now("after loading")
        context = SimpleNamespace(model=model, fallback_reason=None, rounding=None)
        context.run_method = lambda method, *arguments: method(context, *arguments)
        return context

    def measure(self, context: Any, request: Fake, inputs: Any) -> Observations:
        if request.what == "reads again":
            self.now("before reading again")
            result = number(self.path.read_bytes())
            context.model.check_unchanged()
        elif request.what == "reads from disk":
            self.now("before reading from disk")
            result = number(self.path.read_bytes())
        else:
            self.now("while measuring")
            result = context.model.number
        return Observations(("a",), ("x",), {"seen": [result]})


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    return Reference("base", "./base", Path(shutil.copytree(ZOO / "base", tmp_path / "base")))


@pytest.fixture
def world(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(reference.folder, monkeypatch)


def make(reference: Reference, store: Path) -> Runner:
    result = of_reference(reference, store / "fingerprints.json")
    return Runner({"base": reference}, {"base": result}, ModelOptions(), Store(store))


def stored(runner: Runner, *requests: Measurement) -> list[float]:
    """What a later run would take from the store."""
    assert runner.store is not None
    results = [
        Store(runner.store.folder).get(runner.key(request), Observations) for request in requests
    ]
    return [
        float(observations.values["seen"][0])
        for observations in results
        if observations is not None
    ]


def put_back(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """A replacement that is undone at once, with the original bytes and times."""

    def both(path: Path) -> None:
        saved = path.with_name("saved")
        shutil.copy2(path, saved)
        change(path)
        time.sleep(0.01)
        shutil.copy2(saved, path)
        saved.unlink()

    both.__name__ = f"{change.__name__}_and_back"
    return both


def folder_moved_and_back(path: Path) -> None:
    """Another folder takes the place of the checkpoint's for a moment; no file changes."""
    folder = path.parent
    away = folder.with_name("away")
    folder.rename(away)
    shutil.copytree(away, folder)
    shutil.rmtree(folder)
    away.rename(folder)


MOMENTS = ("before loading", "while loading", "after loading", "while measuring")
CHANGES = [
    in_place,
    renamed_over,
    folder_renamed,
    copied_with_times,
    put_back(in_place),
    put_back(one_byte),
    folder_moved_and_back,
]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minutes later, on a file system with reliable change times: an unchanged file state proves
    unchanged bytes."""
    clock = file_state.now
    monkeypatch.setattr(file_state, "now", lambda: clock() + 120 * 10**9)
    monkeypatch.setattr(file_state, "file_system", lambda *_: "ext4")


@pytest.mark.parametrize(
    ("moment", "change", "late"),
    [
        *product(MOMENTS, CHANGES, [True]),
        *product(MOMENTS, [in_place], [False]),
        ("before reading again", in_place, True),
    ],
    ids=lambda given: getattr(given, "__name__", str(given)),
)
def test_nothing_wrong_is_stored(
    world: World,
    reference: Reference,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    moment: str,
    change: Callable[[Path], None],
    late: bool,
) -> None:
    """One line names the file or its folder, the store stays empty, and later runs measure the old and the
    new content correctly."""
    if late:
        request.getfixturevalue("settled")
    measurements = [measurement_of("first"), measurement_of("reads again"), measurement_of("third")]
    before = world.path.read_bytes()
    runner = make(reference, tmp_path / "store")
    runner.plan(measurements)
    world.happens[moment] = change
    problems = []
    for measurement in measurements:
        try:
            runner.measure(measurement)
        except CheckpointChanged as problem:
            problems.append(str(problem))
    world.happens.clear()
    kept = stored(runner, *measurements)
    assert (len(problems) + len(kept), {*kept} - {number(before)}) == (3, set())
    assert len({*problems}) == 1
    assert problems[0].startswith(f"base (base): {reference.folder}")
    assert "was changed, replaced or touched after its fingerprint was taken" in problems[0]

    for content in (world.path.read_bytes(), before):
        world.path.write_bytes(content)
        again = make(reference, tmp_path / "store")
        observed = [
            float(again.measure(measurement).values["seen"][0]) for measurement in measurements
        ]
        assert observed == 3 * [number(content)]


@pytest.mark.usefixtures("settled")
def test_layers_that_stay_on_disk_are_looked_at_after_each_measurement(
    world: World, reference: Reference, tmp_path: Path
) -> None:
    """Offloaded layers are read from the files during every forward pass, so the files are checked after it."""
    runner = make(reference, tmp_path / "store")
    world.happens["before reading from disk"] = in_place
    with pytest.raises(CheckpointChanged):
        runner.measure(measurement_of("reads from disk"))
    assert stored(runner, measurement_of("reads from disk")) == []


@pytest.mark.usefixtures("settled")
def test_what_is_loaded_for_a_trial_is_looked_at_too(
    world: World, reference: Reference, tmp_path: Path
) -> None:
    """doctor stores nothing, and still reports the change."""
    runner = make(reference, tmp_path / "store")
    world.happens["before loading"] = in_place
    with pytest.raises(CheckpointChanged):
        runner.checkpoint.context("base", task_of(measurement_of("first")))


def test_an_unchanged_checkpoint_is_measured_and_stored(
    world: World, reference: Reference, tmp_path: Path
) -> None:
    """The checks find no change, and the results are stored."""
    runner = make(reference, tmp_path / "store")
    measurements = [measurement_of("first"), measurement_of("reads again")]
    for measurement in measurements:
        runner.measure(measurement)
    assert stored(runner, *measurements) == 2 * [number(world.path.read_bytes())]


def test_where_times_prove_nothing_results_are_taken_back(
    world: World, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without reliable change times, the runner reads the files again after its work on a
    checkpoint and deletes what it stored meanwhile."""
    fixed: dict[Path, file_state.State] = {}
    long_ago = 10**18 + 1
    for module in (watch, sys.modules[of_reference.__module__]):
        monkeypatch.setattr(
            module,
            "state_of",
            lambda path: fixed.setdefault(path, ("x", 0, 0, 0, 0, 0, long_ago, 0, 0)),
        )
    monkeypatch.setattr(file_state, "file_system", lambda *_: "nfs4")
    runner = make(reference, tmp_path / "store")
    measurements = [measurement_of("first"), measurement_of("second")]
    runner.plan(measurements)
    world.happens["while measuring"] = lambda path: path.write_bytes(b"other")
    for measurement in measurements:
        with pytest.raises(CheckpointChanged):
            runner.measure(measurement)
    assert stored(runner, *measurements) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", None),
        ("chat_template.jinja", "{{ messages }}"),
        ("model-2.safetensors", "x"),
    ],
)
def test_other_files_count_too(
    world: World, reference: Reference, tmp_path: Path, name: str, content: str | None
) -> None:
    """A replaced tokenizer, or an added or removed file, counts as a change."""
    runner = make(reference, tmp_path / "store")
    path = reference.folder / name

    def change(_: Path) -> None:
        path.write_text(path.read_text() + " " if content is None else content)

    world.happens["while measuring"] = change
    with pytest.raises(CheckpointChanged, match=name):
        runner.measure(measurement_of("first"))
    assert stored(runner, measurement_of("first")) == []


def test_a_failure_of_changed_files_is_said_as_such(
    world: World, reference: Reference, tmp_path: Path
) -> None:
    """If a library fails on a changed file, the error names the change."""

    def broken(path: Path) -> None:
        path.unlink()

    runner = make(reference, tmp_path / "store")
    world.happens["before loading"] = broken
    with pytest.raises(CheckpointChanged, match="was changed, replaced or touched"):
        runner.measure(measurement_of("first"))


def test_weights_that_are_read_again_are_looked_at(reference: Reference) -> None:
    """A method that reads the weights again gets those that were loaded, or an error."""
    looks = Watch("base", of_reference(reference)).check
    model = load_model(
        "base", reference.folder, "cpu", "float32", lambda _: [1, 2], check_unchanged=looks
    )
    model.read_plain_model(model.dtype)
    in_place(reference.folder / NAME)
    with pytest.raises(MechanismError) as caught:
        model.read_plain_model(model.dtype)
    assert isinstance(caught.value, CheckpointChanged)


SPEC = """\
mechanism: 1
circuit: small
task: {family: entity_tracking, boxes: 7, fillers: 3, rows: 140, seed: 0}
claims:
  solves_task: {kind: accuracy, at_least: 0.3}
"""

REPLACES = """
import os, shutil
from pathlib import Path
import pytest_mechanism.checkpoints.loading.weights as weights

def replace():
    os.utime(shutil.copy("other.safetensors", "base/model.safetensors"), (1, 1))

real = weights.read_weights

def read_weights(folder, *rest, **more):
    if folder.name == "base" and {moment!r} == "before":
        replace()
    found = real(folder, *rest, **more)
    if folder.name == "base" and {moment!r} == "after":
        replace()
    return found

weights.read_weights = read_weights
"""


def gate(folder: Path, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    done = subprocess.run(
        [*warm_python.COMMAND, "-m", "pytest", "-p", "no:hypothesispytest", "small.yaml", "--model-pair",
         "./base,./ft", "--mechanism-json", "out.json", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, json.loads((folder / "out.json").read_text())


@pytest.mark.slow
def test_a_gate_on_a_checkpoint_that_was_replaced_meanwhile(tmp_path: Path) -> None:
    """Before its weights are read, and after, by workers: the run is red with one line. The next run on the original
    checkpoint has that checkpoint's scores."""
    for name in ("base", "ft"):
        shutil.copytree(ZOO / name, tmp_path / name)
    original = (tmp_path / "base" / NAME).read_bytes()
    shutil.copy(ZOO / "ft" / NAME, tmp_path / "other.safetensors")
    other = (tmp_path / "other.safetensors").read_bytes()
    (tmp_path / "small.yaml").write_text(SPEC)

    def put(content: bytes) -> None:
        (tmp_path / "base" / NAME).write_bytes(content)
        os.utime(tmp_path / "base" / NAME, (1, 1))

    for moment, options in (("before", ()), ("after", ("-n", "2"))):
        put(original)
        (tmp_path / "conftest.py").write_text(REPLACES.format(moment=moment))
        code, text, result = gate(tmp_path, *options)
        claims = {claim["role"]: claim for claim in result["claims"]}
        assert (code, claims["base"]["verdict"]) == (1, "error")
        assert "was changed, replaced or touched after its fingerprint" in claims["base"]["reason"]
        assert "Traceback" not in text

    (tmp_path / "conftest.py").unlink()
    scores = []
    for content in (original, other):
        put(content)
        _, _, again = gate(tmp_path)
        scores += [claim["scores"] for claim in again["claims"] if claim["role"] == "base"]
    assert scores[0] != scores[1]
    assert [bool(score) for score in scores] == [True, True]


def test_a_worker_that_sees_another_checkpoint_measures_nothing(reference: Reference) -> None:
    """A worker of xdist compares its fingerprints with those that the report will name."""
    result = of_reference(reference)
    worker_input = {"mechanism_fingerprints": {"base": result.model}}
    session = Session(SimpleNamespace(workerinput=worker_input), {"base": reference}, None)  # type: ignore[arg-type]
    session.__dict__["store_folder"] = None
    session.check_worker()
    in_place(reference.folder / NAME)
    del session.__dict__["fingerprints"]
    with pytest.raises(
        CheckpointChanged, match=r"^base \(base\): .* was changed or replaced while"
    ):
        session.check_worker()
