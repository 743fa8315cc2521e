"""The reports that a run writes to files.

To add a report, write one class that satisfies `Reporter`, in a file of this folder, and add its line to
`file_reporters`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from pytest_mechanism.report.history.folder import HistoryFolder
from pytest_mechanism.report.json_file import JsonFile
from pytest_mechanism.report.markdown import GithubSummary
from pytest_mechanism.report.page.html_page import HtmlPage, Pictures, no_pictures
from pytest_mechanism.report.run_report import RunReport
from pytest_mechanism.report.tracking import Tracker


class Reporter(Protocol):
    """Writes the report of a run to one destination.

    Attributes:
        destination: its name in error messages.
        required: whether the run ends with exit code 4 if the report cannot be written.
    """

    @property
    def destination(self) -> str: ...

    @property
    def required(self) -> bool: ...

    def write(self, report: RunReport) -> None:
        """Write the report.

        Raises:
            OSError: the destination cannot be written.
        """


def file_reporters(
    json_path: Path | None,
    page_path: Path | None = None,
    pictures: Pictures = no_pictures,
    history_folder: Path | None = None,
    tracker: str | None = None,
) -> list[Reporter]:
    """The reports that this run's options and environment ask for.

    Args:
        json_path: of the result file.
        page_path: of the page.
        pictures: draws what the run measured, for the page.
        history_folder: to which the run's result is added.
        tracker: the experiment tracker that the run is sent to.
    """
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    reporters: list[Reporter] = []
    if page_path is not None:
        reporters.append(HtmlPage(page_path, pictures, history_folder))
    if history_folder is not None:
        reporters.append(HistoryFolder(history_folder))
    if json_path is not None:  # after those whose failure changes its exit code
        reporters.append(JsonFile(json_path))
    if summary:
        reporters.append(GithubSummary(Path(summary)))
    if tracker is not None:  # last, because it depends on others and may take minutes
        reporters.append(Tracker(tracker, page_path))
    return reporters
