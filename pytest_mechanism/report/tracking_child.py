"""Talks to an experiment tracker, in a process of its own: ``tracking.Tracker`` starts this file.

Trackers ask questions on a terminal, retry for minutes where no server answers, and start threads. Here they have no
terminal, and the process that started them sets a limit. The file imports nothing of ours. Standard input is JSON: the
tracker's name, and the arguments of its function.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PROJECT = "pytest-mechanism"
"""The experiment in MLflow, the project in Weights & Biases, unless their settings name another."""


def to_mlflow(
    name: str, numbers: Mapping[str, float], texts: Mapping[str, str], files: Sequence[str]
) -> None:
    """A run of MLflow: metrics, tags and artifacts."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its 7 take four minutes
    import mlflow

    if not os.environ.get("MLFLOW_EXPERIMENT_NAME") and not os.environ.get("MLFLOW_EXPERIMENT_ID"):
        mlflow.set_experiment(PROJECT)
    with mlflow.start_run(run_name=name):
        mlflow.set_tags({key: value[:5000] for key, value in texts.items()})
        mlflow.log_metrics(dict(numbers))
        for file in files:
            mlflow.log_artifact(file)


def to_wandb(
    name: str, numbers: Mapping[str, float], texts: Mapping[str, str], files: Sequence[str]
) -> None:
    """A run of Weights & Biases: metrics, configuration and artifacts."""
    import wandb

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    with wandb.init(project=project, name=name, config=dict(texts)) as run:
        run.log(dict(numbers))
        for file in files:
            artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", Path(file).name), type="report")
            artifact.add_file(file)
            run.log_artifact(artifact)


TRACKERS: Mapping[str, Callable[..., None]] = {"mlflow": to_mlflow, "wandb": to_wandb}


def main() -> int:
    """Send one run; a failure is one line on standard error."""
    request = json.load(sys.stdin)
    try:
        TRACKERS[request.pop("tracker")](**request)
    except BaseException as problem:  # a library may also end the process
        line = (str(problem).strip().splitlines() or [""])[0]
        sys.stderr.write(f"\n{type(problem).__name__}: {line}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
