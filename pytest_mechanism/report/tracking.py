"""Sends a run to an experiment tracker: ``--mechanism-log mlflow`` or ``wandb``.

Scores become metrics, verdicts and checkpoints become tags or settings, the result file and the page become artifacts.
Where the tracker keeps runs is its own setting (``MLFLOW_TRACKING_URI``, ``WANDB_MODE``). A tracker that fails makes
no verdict and loses no file: the run says so in a warning.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import MechanismError, choices
from pytest_mechanism.report import tracking_child
from pytest_mechanism.report.json_file import content
from pytest_mechanism.report.run_report import RunReport
from pytest_mechanism.report.table import spec_suffixes

MOST_CHARACTERS = 250
"""Of a metric's name; MLflow takes no longer one."""

SECONDS = 180
"""A tracker may take. MLflow alone would try for four minutes to reach a server that is not there."""

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
            raise OSError(0, "the run judged nothing, so there is nothing to send")
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "mechanism.json"
            result.write_text(json.dumps(content(report), indent=1), "utf-8")
            files = [result]
            if self.page is not None and self.page.is_file():
                files.append(self.page)
            send({
                "tracker": self.name, "name": report.pair, "numbers": numbers(report),
                "texts": texts(report), "files": [str(file) for file in files],
            })  # fmt: skip


def send(request: Mapping[str, Any], seconds: float = SECONDS) -> None:
    """Run `tracking_child` on a request.

    Raises:
        OSError: the tracker failed, or did not end in time.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-P", tracking_child.__file__],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said,
            text=True, encoding="utf-8", start_new_session=True,
        )  # fmt: skip
        try:
            process.communicate(json.dumps(request), timeout=seconds)
        except subprocess.TimeoutExpired:
            raise OSError(0, f"no answer within {seconds:g} s; given up") from None
        finally:
            with suppress(ProcessLookupError, PermissionError):  # what the tracker left behind too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode != 0:
            said.seek(0)
            lines = said.read().strip().splitlines() or [f"ended with status {process.returncode}"]
            advice = ""
            if request["tracker"] == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
                advice = "; set MLFLOW_TRACKING_URI to your server, or pip install mlflow"
            raise OSError(0, lines[-1][:300] + advice)


def check_tracker(name: str) -> None:
    """Check that a tracker is known and installed.

    Raises:
        MechanismError: it is not.
    """
    if name not in tracking_child.TRACKERS:
        raise MechanismError(
            f"no tracker {name!r}; {choices(name, tuple(tracking_child.TRACKERS))}"
        )
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
