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
from pytest_mechanism.runner import cluster
from pytest_mechanism.runner.cluster import ClusterRunner
from pytest_mechanism.runner.worker import Worker, look_around, portable
from pytest_mechanism.settings.model_options import ModelOptions, check_address

BASE = Reference("base", "zoo:base", ZOO / "base")


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
    monkeypatch.setattr(cluster.time, "monotonic", lambda: clock[0])

    run._check_start(NoWorkers())
    clock[0] += 59
    with pytest.raises(
        MechanismError, match=r"no worker came up within 50 seconds; .* needs 1 CPU"
    ):
        run._check_start(NoWorkers())
    with pytest.raises(MechanismError, match="no worker came up"):
        run._work_on("base")


def test_devices_that_a_worker_cannot_have_are_refused() -> None:
    with pytest.raises(MechanismError, match="auto spreads a model"):
        runner(device="auto").check_device()


def test_a_worker_on_a_gpu_needs_a_gpu() -> None:
    """And a machine without one has room for none."""
    need = runner(device="cuda")._resources()

    assert (need["CPU"], need["GPU"]) == (1, 1)
    assert ClusterRunner._room({"CPU": 8, "memory": 64e9}, need) == 0
    assert ClusterRunner._room({"CPU": 8, "GPU": 2, "memory": 64e9}, need) == 2


def test_a_machine_says_which_folders_it_does_not_see(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")

    assert look_around([str(tmp_path), gone])["missing"] == [gone]


def test_a_worker_refuses_a_checkpoint_with_another_content() -> None:
    """A folder of the same name on another machine may hold other weights."""
    worker = Worker({"base": BASE}, {"base": "0" * 64}, ModelOptions())

    with pytest.raises(CheckpointChanged, match="has another content on"):
        worker.runner  # noqa: B018 - read for its check


def test_an_error_reaches_the_driver_as_it_was() -> None:
    """Class, message and place; one that cannot be pickled keeps its text."""
    changed = portable(CheckpointChanged("it changed", "here"))
    unpicklable = portable(BadFile(Path("x"), "is a folder"))

    assert (type(changed), str(changed)) == (CheckpointChanged, "here: it changed")
    assert str(unpicklable) == "x is a folder"
