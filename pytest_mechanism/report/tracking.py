"""Sends a run to an experiment tracker: ``--mechanism-log mlflow`` or ``wandb``.

Scores become metrics, verdicts and checkpoints become tags or settings, the result file and the page become artifacts.
Where the tracker keeps runs is its own setting (``MLFLOW_TRACKING_URI``, ``WANDB_MODE``). A tracker that fails makes
no verdict and loses no file: the run says so in a warning.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from pytest_mechanism.errors import MechanismError, choices, first_line
from pytest_mechanism.report.json_file import content
from pytest_mechanism.report.run_report import RunReport
from pytest_mechanism.report.table import spec_suffixes

PROJECT = "pytest-mechanism"
"""The experiment in MLFlow, the project in Weights & Biases, unless their settings name another."""

MOST_CHARACTERS = 250
"""Of a metric's name; MLflow takes no longer one."""


def to_mlflow(
    report: RunReport,
    numbers: Mapping[str, float],
    texts: Mapping[str, str],
    files: Sequence[Path],
) -> None:
    """A run of MLflow."""
    import os

    import mlflow

    if not os.environ.get("MLFLOW_EXPERIMENT_NAME") and not os.environ.get("MLFLOW_EXPERIMENT_ID"):
        mlflow.set_experiment(PROJECT)
    with mlflow.start_run(run_name=report.pair):
        mlflow.set_tags({key: value[:5000] for key, value in texts.items()})
        mlflow.log_metrics(dict(numbers))
        for file in files:
            mlflow.log_artifact(str(file))


def to_wandb(
    report: RunReport,
    numbers: Mapping[str, float],
    texts: Mapping[str, str],
    files: Sequence[Path],
) -> None:
    """A run of Weights & Biases."""
    import os

    import wandb

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    with wandb.init(project=project, name=report.pair, config=dict(texts)) as run:
        run.log(dict(numbers))
        for file in files:
            artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", file.name), type="report")
            artifact.add_file(str(file))
            run.log_artifact(artifact)


TRACKERS: Mapping[str, Callable[..., None]] = {"mlflow": to_mlflow, "wandb": to_wandb}
PACKAGES = {"mlflow": "mlflow", "wandb": "wandb"}


class Tracker:
    """Sends the report to a tracker."""

    required = False

    def __init__(self, name: str, page: Path | None = None) -> None:
        self.name, self.page = name, page
        self.destination = f"--mechanism-log: {name}"

    def write(self, report: RunReport) -> None:
        """See `Reporter.write`.

        Raises:
            OSError: the tracker failed, for whatever reason.
        """
        if not {"base", "ft"} <= set(report.checkpoints):
            return
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "mechanism.json"
            result.write_text(json.dumps(content(report), indent=1), "utf-8")
            files = [result]
            if self.page is not None and self.page.is_file():
                files.append(self.page)
            try:
                TRACKERS[self.name](report, numbers(report), texts(report), files)
            except Exception as problem:
                message = f"{type(problem).__name__}: {first_line(problem)}"
                raise OSError(0, message) from problem


def check_tracker(name: str) -> None:
    """Check that a tracker is known and installed.

    Raises:
        MechanismError: it is not.
    """
    if name not in TRACKERS:
        raise MechanismError(f"no tracker {name!r}; {choices(name, tuple(TRACKERS))}")
    if find_spec(PACKAGES[name]) is None:
        raise MechanismError(
            f"{name} is not installed: pip install {name} (or 'pytest-mechanism[{name}]')"
        )


def numbers(report: RunReport) -> dict[str, float]:
    """Every judged score, with the ends of its interval."""
    found: dict[str, float] = {}
    suffixes = spec_suffixes(report.claims)
    for result in report.claims:
        for row in result.rows:
            if row.score is None:
                continue
            key = metric_name(
                f"{result.circuit}{suffixes[result.spec]}.{result.claim}.{result.role}/{row.name}"
            )
            found[key] = row.score
            if row.interval is not None:
                found[f"{key}.low"], found[f"{key}.high"] = row.interval
    return found


def texts(report: RunReport) -> dict[str, str]:
    """The conclusion, the verdicts and the checkpoints."""
    suffixes = spec_suffixes(report.claims)
    found: dict[str, str] = {}
    for result in report.claims:
        name = f"{result.circuit}{suffixes[result.spec]}.{result.claim}.{result.role}"
        found[f"verdict.{metric_name(name)}"] = result.verdict
    if report.conclusion is not None:
        found |= {"state": report.conclusion.state, "conclusion": report.conclusion.text}
    for role, entry in report.checkpoints.items():
        found[f"checkpoint.{metric_name(role)}"] = f"{entry.reference} ({entry.fingerprint})"
    return found | {"exit_code": str(report.exit_code)}


def metric_name(text: str) -> str:
    """A name that trackers take: letters, digits, ``_``, ``-``, ``.``, ``/`` and spaces."""
    return re.sub(r"[^\w\-./ ]", "_", text)[: MOST_CHARACTERS - len(".high")]
