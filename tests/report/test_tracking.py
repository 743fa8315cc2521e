"""``--mechanism-log``: a run in an experiment tracker."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.report import tracking
from pytest_mechanism.report.conclusion import concluded
from pytest_mechanism.report.tracking import Tracker, check_tracker, numbers, texts
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


def test_a_tracker_that_fails_is_an_output_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever it raises, so that the run warns and goes on."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no server")

    monkeypatch.setattr(tracking, "TRACKERS", {"mlflow": fail})
    with pytest.raises(OSError, match="RuntimeError: no server"):
        Tracker("mlflow").write(REPORT)


def test_weights_and_biases_is_given_scores_and_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in records what its functions are given."""
    given: dict[str, Any] = {"files": []}

    class Run:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            given["ended"] = True

        def log(self, numbers: dict[str, float]) -> None:
            given["numbers"] = numbers

        def log_artifact(self, artifact: Any) -> None:
            given["files"].append(artifact.name)

    def init(**fields: Any) -> Run:
        given.update(fields)
        return Run()

    def artifact(name: str, type: str) -> Any:  # noqa: A002 - wandb's name
        return SimpleNamespace(name=name, add_file=lambda path: Path(path).read_bytes())

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Artifact=artifact))
    (tmp_path / "page.html").write_text("x")
    Tracker("wandb", tmp_path / "page.html").write(REPORT)
    assert given["name"] == "released+candidate"
    assert given["numbers"] == numbers(REPORT)
    assert given["files"] == ["mechanism.json", "page.html"]
    assert given["ended"]


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
@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow-skinny is not installed")
def test_mlflow_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file store: metrics, tags and the result file are read back by MLflow itself."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tmp_path.as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    Tracker("mlflow").write(REPORT)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(tracking.PROJECT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics == numbers(REPORT)
    assert run.data.tags["verdict.text.solves.ft"] == "fail"
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["mechanism.json"]
