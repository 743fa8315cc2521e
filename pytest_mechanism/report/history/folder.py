"""A folder of result files, one for each run: ``--mechanism-history`` writes it, ``pytest-mechanism history``
reads it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pytest_mechanism.errors import MechanismError
from pytest_mechanism.files import write_json
from pytest_mechanism.report.from_json import read_report
from pytest_mechanism.report.json_file import content
from pytest_mechanism.report.run_report import RunReport

MOST_RUNS = 1000
"""Runs that are read, the newest; a folder with more says so."""


class HistoryFolder:
    """Adds the run's result file to the folder.

    The name of a file begins with the time, so that names sort by it, and ends in a random number, so that runs
    that end in the same second keep a file each.
    """

    required = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.destination = f"--mechanism-history: {folder}"

    def write(self, report: RunReport) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        finished = report.finished or datetime.now(UTC).isoformat(timespec="seconds")
        stamp = finished.partition("+")[0].replace(":", "").replace("-", "")
        write_json(self.folder / f"{stamp}Z-{secrets.token_hex(4)}.json", content(report))


@dataclass(frozen=True)
class PastRun:
    """A run of the history.

    Attributes:
        path: of its result file.
        finished: when it ended, in UTC, as ISO 8601; empty in result files of earlier versions.
        report: the run.
    """

    path: Path
    finished: str
    report: RunReport

    @property
    def title(self) -> str:
        """When, and which candidate."""
        when = self.finished.partition("+")[0].replace("T", " ") or self.path.name
        checkpoint = self.report.checkpoints.get("ft")
        return f"{when} {checkpoint.label if checkpoint else '(no candidate)'}"


def read_history(folder: Path, most: int = MOST_RUNS) -> tuple[list[PastRun], list[str]]:
    """The runs of a folder, the oldest first, and a line for each file that is left out.

    Args:
        folder: of the runs.
        most: runs that are read, the newest by name.

    Raises:
        MechanismError: there is no such folder, or no result file in it.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError as problem:
        raise MechanismError(f"{folder} cannot be read: {problem.strerror}") from None
    notes = []
    if len(paths) > MOST_RUNS:
        notes.append(f"{folder} holds {len(paths)} files; only the last {most} by name are read")
    runs = []
    for path in paths[-most:]:
        try:
            report, _ = read_report(path)
        except MechanismError as problem:
            notes.append(f"left out: {problem}")
        except OSError as problem:
            notes.append(f"left out: {path}: {problem.strerror}")
        else:
            runs.append(PastRun(path, report.finished, report))
    if not runs:
        more = f" ({notes[0]})" if notes else ""
        raise MechanismError(
            f"{folder} holds no result file; --mechanism-history {folder} writes them{more}"
        )
    return sorted(runs, key=lambda run: (run.finished, run.path.name)), notes
