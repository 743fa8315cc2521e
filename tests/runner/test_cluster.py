"""``--mechanism-ray`` without Ray: what is refused before anything starts, and what a worker is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from pytest_mechanism.checkpoints.fingerprint import of_reference
from pytest_mechanism.checkpoints.reference import ZOO, Reference
from pytest_mechanism.errors import CheckpointChanged, MechanismError
from pytest_mechanism.files import BadFile
from pytest_mechanism.measurements.cmap import ActivationDonation, CrossModelPatching
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.performance import Performance
from pytest_mechanism.runner import cluster
from pytest_mechanism.runner.cluster import ClusterRunner
from pytest_mechanism.runner.dispatch import TRIES, Dispatch
from pytest_mechanism.runner.machines import resources, room
from pytest_mechanism.runner.runner import Runner
from pytest_mechanism.runner.worker import Made, Worker, look_around, portable
from pytest_mechanism.settings.model_options import ModelOptions, check_address
from pytest_mechanism.types import Observations

BASE = Reference("base", "zoo:base", ZOO / "base")
HEADS = ((0, 0, "last"),)
DONATION = Measurement(ActivationDonation(heads=HEADS, rows=2, stream="rows"), "base", "{}")
TAKING = Measurement(
    CrossModelPatching(heads=HEADS, control=(), rows=2, stream="rows"), "ft", "{}", (DONATION,)
)


class NoWorkers:
    """A cluster in which no worker comes up."""

    @staticmethod
    def available_resources() -> dict[str, float]:
        return {"CPU": 1.0, "memory": 2e9}


def runner(**options: Any) -> ClusterRunner:
    return ClusterRunner({"base": BASE}, {"base": of_reference(BASE)}, ModelOptions(**options))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes Ray look installed or missing."""

    def be(there: bool) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)

    return be


@pytest.mark.parametrize("text", ["local", "auto", "10.0.0.1:6379", "head:6379"])
def test_an_address_is_a_word_or_a_host_with_its_port(installed: Any, text: str) -> None:
    installed(True)

    assert check_address(text) == text


@pytest.mark.parametrize("text", ["circuits", "circuits/x.yaml", "ray://head:10001", "head"])
def test_a_spec_that_the_option_swallows_is_one_line(installed: Any, text: str) -> None:
    """``--mechanism-ray circuits`` would otherwise run nothing."""
    installed(True)

    with pytest.raises(MechanismError, match="valid: local, auto, HOST:PORT"):
        check_address(text)


def test_without_ray_the_line_has_the_command(installed: Any) -> None:
    installed(False)

    with pytest.raises(MechanismError, match=r"pip install 'pytest-mechanism\[ray\]'"):
        check_address("local")


def test_no_worker_that_comes_up_is_an_error_within_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line says what a worker needs, and later claims get it at once."""
    run, clock = runner(), [1000.0]
    run._ray, run._need = NoWorkers(), resources(run.references, "cpu")
    monkeypatch.setattr(cluster.time, "monotonic", lambda: clock[0])

    run._check_start()
    clock[0] += 59
    with pytest.raises(
        MechanismError, match=r"no worker came up within 50 seconds; .* needs 1 CPU"
    ):
        run._check_start()
    with pytest.raises(MechanismError, match="no worker came up"):
        run._work_on("base")


@pytest.mark.parametrize("device", ["spread", "cuda:1"])
def test_devices_that_a_worker_cannot_have_are_refused(device: str) -> None:
    """A worker sees the GPU that Ray gives it, as the first."""
    with pytest.raises(MechanismError, match=f"cpu and cuda, not {device}"):
        runner(device=device).check_device()


def test_a_worker_on_a_gpu_needs_a_gpu() -> None:
    """And a machine without one has room for none."""
    need = resources({"base": BASE}, "cuda")

    assert (need["CPU"], need["GPU"]) == (1, 1)
    assert room({"CPU": 8, "memory": 64e9}, need) == 0
    assert room({"CPU": 8, "GPU": 2, "memory": 64e9}, need) == 2


def test_a_machine_says_which_folders_it_does_not_see(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")

    assert look_around([str(tmp_path), gone])["missing"] == [gone]


def test_a_worker_refuses_a_checkpoint_with_another_content() -> None:
    """A folder of the same name on another machine may hold other weights."""
    worker = Worker({"base": BASE}, {"base": "0" * 64}, ModelOptions())

    with pytest.raises(CheckpointChanged, match="has another content on"):
        worker.runner  # noqa: B018 - read for its check


def test_a_worker_names_what_failed_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a serial run does: the measurement, the checkpoint and the exception, whose traceback comes along."""
    worker = Worker({"base": BASE}, {"base": of_reference(BASE).model}, ModelOptions())
    monkeypatch.setattr(Runner, "make_with", lambda *_: 1 / 0)

    error = worker.make(DONATION)[0].error
    assert error is not None

    assert str(error).startswith("measurement cmap.donate on base failed: ZeroDivisionError: ")
    assert "division by zero" in error.trace


def test_an_error_reaches_the_driver_as_it_was() -> None:
    """Class, message and place; one that cannot be pickled keeps its text."""
    changed = portable(CheckpointChanged("it changed", "here"))
    unpicklable = portable(BadFile(Path("x"), "is a folder"))

    assert (type(changed), str(changed)) == (CheckpointChanged, "here: it changed")
    assert str(unpicklable) == "x is a folder"


# -- what happens when workers die, with actors that are none


class Ray:
    """Ray, as far as results are fetched; a result that is an error is raised."""

    class exceptions:  # noqa: N801 - Ray's name
        class RayError(Exception):
            pass

    @staticmethod
    def get(found: Any) -> Any:
        if isinstance(found, Exception):
            raise found
        return found

    @staticmethod
    def kill(worker: Any) -> None:
        pass


@pytest.fixture
def run() -> ClusterRunner:
    """A run with two measurements, of which the second takes what the first donates."""
    ft = Reference("ft", "zoo:ft", ZOO / "ft")
    both = {"base": BASE, "ft": ft}
    made = ClusterRunner(both, {role: of_reference(each) for role, each in both.items()})
    made._ray = Ray()
    made.plan([TAKING])
    return made


def give(run: ClusterRunner, work: Dispatch, worker: str) -> Any:
    """The next job of a worker that is up."""
    run._up[worker] = "node_7"
    return work.next(worker)


def all_of(run: ClusterRunner) -> Dispatch:
    """Every pending measurement as a job."""
    work = Dispatch()
    for key, measurement in run._schedule.pending.items():
        work.add(run._job(key, measurement))
    return work


def test_the_error_after_three_tries_names_the_machine(run: ClusterRunner) -> None:
    """And what is known of the cause."""
    work = all_of(run)
    for number in range(TRIES):
        job = give(run, work, f"w{number}")
        died = Ray.exceptions.RayError("The actor died.\n\tclass_name: Worker")
        assert not run._take(work, f"w{number}", job, died, None)

    with pytest.raises(
        MechanismError,
        match="failed: tried 3 times; the last worker died on the machine node_7: The actor died",
    ):
        run.measure(DONATION)


def test_activations_that_died_with_a_machine_are_donated_again_first(run: ClusterRunner) -> None:
    """Also where they were there before the job was known: it waits for them, and never runs without."""
    run._results[run.key(DONATION)] = run._schedule.pending.pop(run.key(DONATION))
    work = all_of(run)
    job = give(run, work, "one")
    run._take(work, "one", job, Ray.exceptions.RayError("lost"), None)

    assert give(run, work, "two").key == run.key(DONATION)
    assert give(run, work, "three") is None


class Ref:
    """A reference to what an actor returned."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Here(Ray):
    """Ray on which every actor does its work at once, in this process; the first reference is ready first."""

    @staticmethod
    def get(found: Any) -> Any:
        return found.value

    @staticmethod
    def wait(refs: list[Ref], **_: Any) -> tuple[list[Ref], list[Ref]]:
        return refs[:1], refs[1:]

    @staticmethod
    def remote(_: type) -> Any:
        return Actor()


class Actor:
    """What makes a worker, and the worker; each of its methods, too."""

    def __getattr__(self, name: str) -> Any:
        return self

    def options(self, **_: Any) -> Any:
        return self

    def remote(self, *arguments: Any) -> Any:
        if arguments and isinstance(arguments[0], Measurement):
            rows = float(arguments[0].request.rows)
            return Ref(Made("node", 1, 0.0, 0)), Ref(Observations(("a",), ("x",), {"rows": [rows]}))
        return Actor() if arguments else Ref(("node", 1))


def test_a_claim_need_not_wait_for_the_measurements_of_others(run: ClusterRunner) -> None:
    """The driver judges it while a worker makes the next measurement."""
    run._ray, run._capacity, run._need = Here(), 1, resources(run.references, "cpu")
    three = [Measurement(Performance(rows=n, stream="rows"), "base", "{}") for n in (9, 8, 7)]
    run.plan(three)

    first = run.measure(three[0])

    assert [job.key for _, job, _ in run._asked.values()] == [run.key(three[1])]
    results = [first, *map(run.measure, three[1:])]
    assert [result.values["rows"] for result in results] == [[9.0], [8.0], [7.0]]
