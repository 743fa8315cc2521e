"""``--mechanism-log``: a run in an experiment tracker."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.report import tracking
from pytest_mechanism.report.conclusion import concluded
from pytest_mechanism.report.reporters import file_reporters
from pytest_mechanism.report.tracking import Tracker, check_tracker, numbers, texts
from pytest_mechanism.report.tracking_child import PROJECT
from tests.report.pages import claim, report_of

REPORT = concluded(report_of(claim(), claim("über:x", "pass")))


def test_every_judged_score_is_a_metric_with_its_interval() -> None:
    """Under a name that trackers take."""
    assert numbers(REPORT) == {
        f"text.{name}.ft/score{end}": value
        for name in ("solves", "über_x")
        for end, value in (("", 0.4), (".low", 0.35), (".high", 0.45))
    }


def test_verdicts_and_checkpoints_are_texts() -> None:
    """And the conclusion."""
    found = texts(REPORT)
    assert found["verdict.text.solves.ft"] == "fail"
    assert found["checkpoint.ft"] == f"./candidate ({'f' * 64})"
    assert found["state"] == REPORT.conclusion.state


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """A module of a tracker's name, which the process of the tracker imports."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("raise RuntimeError('no server\\nmore')", "^RuntimeError: no server"),
        ("import sys; sys.exit(3)", "^SystemExit: 3"),
        ("import os; os.abort()", "^ended with status -6"),
        ("input('key: ')", "^EOFError"),
    ],
    ids=["raises", "exits", "crashes", "asks"],
)
def test_a_tracker_that_fails_is_an_output_that_cannot_be_written(
    text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it does, so that the run warns and goes on."""
    stand_in(tmp_path, monkeypatch, "mlflow", text)
    with pytest.raises(OSError) as failed:
        Tracker("mlflow").write(REPORT)
    assert re.search(problem, failed.value.strerror)
    assert failed.value.strerror.endswith(
        "set MLFLOW_TRACKING_URI to your server, or pip install mlflow"
    )


def test_a_tracker_that_does_not_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the processes that it started."""
    stand_in(tmp_path, monkeypatch, "wandb", f"""\
import pathlib, subprocess, time
child = subprocess.Popen(["sleep", "1000"])
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
time.sleep(1000)
""")  # fmt: skip
    request = {"tracker": "wandb", "name": "x", "numbers": {}, "texts": {}, "files": []}
    with pytest.raises(OSError) as failed:
        tracking.send(request, seconds=3)
    assert failed.value.strerror == "no answer within 3 s; given up"
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_without_checkpoints_is_not_sent_and_says_so() -> None:
    """Nothing was judged."""
    with pytest.raises(OSError) as failed:
        Tracker("mlflow").write(replace(REPORT, checkpoints={}))
    assert failed.value.strerror == "the run judged nothing, so there is nothing to send"


def test_the_job_summary_does_not_wait_for_a_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other report is written before."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    *_, last = file_reporters(Path("a.json"), Path("a.html"), tracker="mlflow")
    assert last.destination == "--mechanism-log: mlflow"


@pytest.mark.parametrize(
    ("name", "problem"),
    [("mflow", "no tracker 'mflow'; did you mean 'mlflow'?"), ("wandb", "pip install wandb")],
)
def test_an_unknown_or_missing_tracker_is_one_line(
    name: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is measured."""
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(MechanismError, match=problem.replace("?", r"\?")):
        check_tracker(name)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_weights_and_biases_keeps_the_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file of the run has the scores, the verdicts and the name of the result file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    Tracker("wandb").write(REPORT)
    (kept,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = kept.read_bytes()
    for text in ("text.solves.ft/score", "verdict.text.solves.ft", "mechanism.json"):
        assert text.encode() in content


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_weights_and_biases_without_a_key_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would ask for one on a terminal."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(OSError) as failed:
        Tracker("wandb").write(REPORT)
    assert "API key" in failed.value.strerror


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow-skinny is not installed")
def test_an_mlflow_server_that_is_not_there_costs_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MLflow's own setting would try for four minutes; nobody listens at port 9."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(OSError) as failed:
        Tracker("mlflow").write(REPORT)
    assert "MlflowException" in failed.value.strerror


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow-skinny is not installed")
def test_mlflow_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file store: metrics, tags and the result file are read back by MLflow itself."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tmp_path.as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    Tracker("mlflow").write(REPORT)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(PROJECT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics == numbers(REPORT)
    assert run.data.tags["verdict.text.solves.ft"] == "fail"
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["mechanism.json"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("flask") is None, reason="mlflow, with its server, is not installed")
def test_a_server_of_mlflow_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics, tags, and the result file, which goes through the server."""
    import mlflow

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{tmp_path}/runs.db",
               "--artifacts-destination", str(tmp_path / "artifacts")]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: answers(f"{address}/health"), 180)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        Tracker("mlflow").write(REPORT)
        client = mlflow.MlflowClient(address)
        experiment = client.get_experiment_by_name(PROJECT)
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.data.metrics == numbers(REPORT)
        assert run.data.tags["state"] == REPORT.conclusion.state
        assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["mechanism.json"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(address: str) -> bool:
    try:
        with urlopen(address) as reply:  # noqa: S310 - our own server
            return bool(reply.status == 200)
    except OSError:
        return False
