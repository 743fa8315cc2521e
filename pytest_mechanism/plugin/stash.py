"""What the plugin keeps on pytest's objects, under typed keys."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pytest_mechanism.report.run_report import ClaimResult
from pytest_mechanism.session import Session

SESSION = pytest.StashKey[Session]()
"""On the configuration: the run."""

RESULT = pytest.StashKey[ClaimResult]()
"""On an item: its result, once it has one."""

ATTRIBUTE = "mechanism"


@dataclass(frozen=True)
class ItemReport:
    """What one item found, and the state of its process afterwards.

    Attributes:
        result: of the item.
        counts: how many checkpoints were loaded and measurements made by the process so far.
        no_device: the error line about a missing device, if there is one.
    """

    result: ClaimResult
    counts: dict[str, int]
    no_device: str | None


def attach(report: pytest.TestReport, item_report: ItemReport) -> None:
    """Put it on the report of pytest, which has no stash. xdist carries it to the controller."""
    setattr(report, ATTRIBUTE, item_report)


def attached(report: object) -> ItemReport | None:
    """What `attach` put there; None on reports of other tests and phases."""
    found = getattr(report, ATTRIBUTE, None)
    return found if isinstance(found, ItemReport) else None
