"""The result file of ``--mechanism-json``: an interface that other programs read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_mechanism.files import check_output, write_json
from pytest_mechanism.report.run_report import ClaimResult, RunReport
from pytest_mechanism.runner.keys import versions

FORMAT = 1


class JsonFile:
    """Writes the result file."""

    required = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.destination = f"--mechanism-json: {path}"

    def write(self, report: RunReport) -> None:
        write_json(self.path, content(report))


MARK = '"mechanism_json"'
"""Tells a result file from another file, in its first bytes."""


def check_path(path: Path) -> None:
    """Check that a result file can be written, without harm to another file.

    Raises:
        MechanismError: it cannot.
    """
    check_output(path, MARK)


def content(report: RunReport) -> dict[str, Any]:
    """Shape ``mechanism_json: 1``; docs/result-file.md describes it."""
    return {
        "mechanism_json": FORMAT,
        "pair": {role: asdict(entry) for role, entry in report.checkpoints.items()},
        "claims": [claim_data(result) for result in report.claims],
        "not_run": list(report.not_run),
        "deselected": list(report.deselected),
        "reasons": list(report.reasons),
        "checkpoints_loaded": report.checkpoints_loaded,
        "measurements": dict(report.measurements),
        **({"ran_on": [dict(place) for place in report.ran_on]} if report.ran_on else {}),
        "versions": versions(),
        "exit_code": report.exit_code,
        "finished": report.finished,
        "conclusion": None if report.conclusion is None else asdict(report.conclusion),
    }


def claim_data(result: ClaimResult) -> dict[str, Any]:
    """One entry of ``claims``."""
    return asdict(result) | {"notes": [str(note) for note in result.notes]}
