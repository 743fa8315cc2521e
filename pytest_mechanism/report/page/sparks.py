"""The last runs of a history folder beside a run's scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.report.run_report import RunReport

MOST = 20
"""Runs that a picture shows, this run among them."""

Sparks = Mapping[tuple[str, str], Any]
"""(id of a claim on its role, name of a score) -> its picture (`history.page.spark`)."""


def sparks(report: RunReport, folder: Path | None) -> tuple[Sparks, Sequence[str]]:
    """The picture of each score over the last runs, and sentences about files that are left out; nothing without
    a folder, or for the first run.

    Args:
        report: of this run, which comes last.
        folder: of the earlier runs.
    """
    from pytest_mechanism.report.history.folder import PastRun, read_history
    from pytest_mechanism.report.history.page import spark
    from pytest_mechanism.report.history.timeline import timelines

    if folder is None:
        return {}, ()
    try:
        earlier, notes = read_history(folder, MOST - 1)
    except MechanismError:  # the first run
        return {}, ()
    runs = [*earlier, PastRun(folder, report.finished or "", report)]
    found = {(line.id, line.score): spark(line, runs) for line in timelines(runs)}
    return {key: picture for key, picture in found.items() if picture is not None}, notes
