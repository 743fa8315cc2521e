"""Makes the result of a claim say what pytest says about its test.

Marks (xfail, skip), fixtures and hooks of a project can change the outcome of a test.
"""

from __future__ import annotations

import pytest

from pytest_mechanism.errors import one_line
from pytest_mechanism.report.run_report import ClaimResult


def consistent(result: ClaimResult, report: pytest.TestReport) -> ClaimResult:
    """The result, overruled if it contradicts pytest's report."""
    if report.skipped and result.verdict == "warn" and hasattr(report, "wasxfail"):
        return result
    if report.skipped and result.verdict != "skipped":
        if (mark := getattr(report, "wasxfail", None)) is None:
            return result.overruled("skipped", message(report))
        why = f" ({mark.removeprefix('reason: ')})" if mark else ""
        finding = f"{result.verdict}: {result.reason}"
        return result.overruled("skipped", f"expected to fail by an xfail mark{why}; {finding}")
    if report.failed and not result.red:
        return result.overruled("error", message(report))
    return result


def message(report: pytest.TestReport) -> str:
    """The first line of a report's failure or skip."""
    failure = report.longrepr
    if isinstance(failure, tuple):
        return one_line(str(failure[2]).removeprefix("Skipped: "))
    crash = getattr(failure, "reprcrash", None)
    text = str(getattr(crash, "message", None) or failure or report.outcome).strip()
    return one_line(text.splitlines()[0] if text else report.outcome)
