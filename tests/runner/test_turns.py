"""Processes that share a machine have a GPU each."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from pytest_mechanism.checkpoints.loading import model
from pytest_mechanism.commands.config import read_config
from pytest_mechanism.errors import NoDevice
from pytest_mechanism.plugin import hooks
from pytest_mechanism.plugin.hooks import pytest_xdist_auto_num_workers
from pytest_mechanism.settings.pytest_options import TURN, model_options


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes torch see a number of CUDA devices."""

    def see(count: int) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        monkeypatch.setattr(hooks, "gpu_memory", lambda: (1,) * count)

    return see


def config(folder: Path, *lines: str) -> pytest.Config:
    (folder / "pytest.ini").write_text("\n".join(["[pytest]", *lines]))
    return read_config(argparse.Namespace(config_file=folder / "pytest.ini"))


def test_each_process_takes_the_gpu_of_its_turn(gpus: Any) -> None:
    """``cuda`` is another GPU for each of four processes, and the first again for the fifth."""
    gpus(4)

    picked = [str(model.pick_device("cuda", turn)) for turn in range(5)]

    assert picked == ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]


def test_a_device_that_was_typed_stays(gpus: Any) -> None:
    """``cuda:1`` and ``cpu`` mean the same in every process; a GPU that is missing is an error in each."""
    gpus(2)

    assert [str(model.pick_device(name, 3)) for name in ("cuda:1", "cpu")] == ["cuda:1", "cpu"]
    with pytest.raises(NoDevice, match="valid: auto, cpu, cuda:0, cuda:1, spread"):
        model.pick_device("cuda:2", 3)


@pytest.mark.parametrize(
    ("worker", "variable", "turn"),
    [("gw3", None, 3), (None, "2", 2), (None, "x", 0), ("gw1", "2", 1)],
)
def test_the_turn_is_the_number_of_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: Any, variable: Any, turn: int
) -> None:
    """Of xdist's worker, else of the gate that a sweep started, else 0."""
    monkeypatch.delenv(TURN, raising=False)
    if variable is not None:
        monkeypatch.setenv(TURN, variable)
    found = config(tmp_path)
    if worker is not None:
        monkeypatch.setattr(found, "workerinput", {"workerid": worker}, raising=False)

    assert model_options(found).turn == turn


@pytest.mark.parametrize(
    ("device", "seen", "workers"),
    [
        ("cuda", 4, 4),
        ("cuda", 0, None),
        ("cpu", 4, None),
        ("auto", 4, 4),
        ("auto", 0, None),
        ("spread", 4, None),
    ],
)
def test_n_auto_starts_a_worker_for_each_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: Any, device: str, seen: int, workers: Any
) -> None:
    """With ``--mechanism-device`` cuda or auto; else xdist counts cores."""
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    gpus(seen)

    found = config(tmp_path, "model_pair = zoo:base,zoo:ft", f"mechanism_device = {device}")

    assert pytest_xdist_auto_num_workers(found) == workers
