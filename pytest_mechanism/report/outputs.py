"""Where a run's reports go, and whether they can be written there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.registry import resolve
from pytest_mechanism.settings import table
from pytest_mechanism.settings.pytest_options import read, read_path

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class Outputs:
    """Where a run's reports go; see `session.Session`."""

    json_path: Path | None
    report_path: Path | None
    history_folder: Path | None
    tracker: str | None


def read_outputs(config: pytest.Config) -> Outputs:
    """Where the run's reports go. The controller of xdist checks that they can be written.

    Raises:
        MechanismError: one cannot.
    """
    outputs = Outputs(
        read_path(config, table.JSON),
        read_path(config, table.REPORT),
        read_path(config, table.HISTORY),
        read(config, table.LOG),
    )
    if not hasattr(config, "workerinput"):
        check_outputs(outputs)
    return outputs


def check_outputs(outputs: Outputs) -> None:
    """Check that reports can be written, before anything is measured.

    Raises:
        MechanismError: one cannot.
    """
    checks: tuple[tuple[table.Setting[Any], str, Any], ...] = (
        (table.JSON, "report.json_file:check_path", outputs.json_path),
        (table.REPORT, "report.page.files:check_path", outputs.report_path),
        (table.HISTORY, "files:check_folder", outputs.history_folder),
        (table.LOG, "report.tracking:check_tracker", outputs.tracker),
    )
    for setting, check, value in checks:
        if value is not None:
            try:
                resolve(f"pytest_mechanism.{check}")(value)
            except MechanismError as problem:
                raise setting.error(problem) from None
